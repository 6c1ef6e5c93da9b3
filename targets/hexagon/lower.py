"""Lowering for the HTP: the graph with Q/DQ for onnxruntime's provider, and the float graph with encodings for Qualcomm's converter."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qcompiler.artifact import write_json
from qcompiler.dimensions import set_input_shapes
from qcompiler.errors import TargetError
from qcompiler.ir.onnx_export import save
from qcompiler.ir.plan import planned_graph
from qcompiler.ir.shapes import infer_shapes
from qcompiler.lowering import Lowered, LowerJob
from qcompiler.targets.hexagon.bounds import split_wide_bounds
from qcompiler.targets.hexagon.converter import converter_input
from qcompiler.targets.hexagon.encodings import encodings_table
from qcompiler.targets.hexagon.guards import check, soc_of
from qcompiler.targets.hexagon.htp import HtpLibrary

if TYPE_CHECKING:
    from pathlib import Path

    from qcompiler.artifact import Artifact
    from qcompiler.ir.graph import Graph
    from qcompiler.ir.plan import Plan

MODEL, FLOAT_MODEL, ENCODINGS, CONTEXT = "model.onnx", "float.onnx", "encodings.json", "context.onnx"
COMMANDS = "convert.sh"

_CONVERT = """\
# The route through Qualcomm's SDK (QAIRT): every tensor has its encoding, so that nothing is calibrated.
# libQnnModelDlc.so and libQnnHtp.so lie in the SDK's lib/x86_64-linux-clang/.

qairt-converter --input_network {float_model} --quantization_overrides {encodings} --output_path model.dlc
qairt-quantizer --input_dlc model.dlc --output_dlc quantized.dlc --float_fallback
qnn-context-binary-generator --backend libQnnHtp.so --model libQnnModelDlc.so --dlc_path quantized.dlc --binary_file model
"""


def lower(job: LowerJob) -> Lowered:
    """Writes model.onnx, float.onnx with encodings.json, the commands that convert these, and a context binary if asked for.

    Raises:
        TargetError: The HTP would refuse the model, or compute it otherwise than planned; nothing is written.
    """
    planned = planned_graph(job.graph)
    check(planned, job.plan, job.target)
    graph, soc = job.graph.copy(), soc_of(job.target)
    batch = fix_batch(graph)
    split = split_wide_bounds(graph)
    files = _saved(graph, job.artifact, MODEL)
    tensors = _write_converter_input(planned.copy(), job)
    if job.options["context"] == "yes":
        with HtpLibrary() as library:
            library.prepare(files[0], soc, context=job.artifact.path(CONTEXT))
    details = {
        "soc_model": soc,
        "batch_made_1": batch,
        "bounds_of_their_own": split,
        "activations": _widths(planned, job.plan),
        "encodings": job.options["encodings"],
        "tensors_with_encodings": tensors,
    }
    step = f"onnxruntime with the QNN provider on {MODEL}, or {COMMANDS} for Qualcomm's converter"
    return Lowered(MODEL, sum(path.stat().st_size for path in files), step, details=details)


def _widths(planned: Graph, plan: Plan) -> dict[str, int]:
    """How many activations are stored, how many of them in 16 bits, and how many are converted for some of their readers."""
    stored = plan.group_of_value()
    computed = {value.name for value in planned.values if not value.is_constant}
    converted = {
        (use.value, id(group))
        for group in plan.groups
        for use in group.uses
        if use.value in computed and stored.get(use.value) is not group
    }
    wide = [name for name, group in stored.items() if group.encoding.format.bits == 16]
    return {"stored": len(stored), "in_16_bits": len(wide), "conversions": len(converted)}


def _write_converter_input(planned: Graph, job: LowerJob) -> int:
    """Writes what Qualcomm's converter takes; returns the number of encodings."""
    fix_batch(planned)
    made = converter_input(planned, job.plan)
    _saved(made.graph, job.artifact, FLOAT_MODEL)
    table = encodings_table(made.tensors, job.options["encodings"])
    write_json(job.artifact.path(ENCODINGS), table)
    job.artifact.write_text(COMMANDS, _CONVERT.format(float_model=FLOAT_MODEL, encodings=ENCODINGS))
    return len(made.tensors)


def _saved(graph: Graph, artifact: Artifact, name: str) -> list[Path]:
    """Saves a graph in the artifact's folder; returns its files."""
    files = save(graph, artifact.path(name))
    for extra in files[1:]:
        artifact.path(extra.name)
    return files


def fix_batch(graph: Graph) -> bool:
    """Makes open batch sizes 1, since the HTP takes static shapes only; says whether there was one.

    Raises:
        TargetError: Another dimension is open.
    """
    shapes = {}
    for value in graph.inputs:
        shape = value.shape or ()
        for axis, dim in enumerate(shape):
            if axis and not isinstance(dim, int):
                raise TargetError(
                    f"The HTP takes static shapes only, and dimension {axis} of the input {value.name!r} is open ({dim or 'without a name'}): "
                    f"fix it with --dimension {value.name}:{axis}=SIZE."
                )
        if shape and not isinstance(shape[0], int):
            shapes[value.name] = (1, *shape[1:])
    if not shapes:
        return False
    set_input_shapes(graph, shapes)
    infer_shapes(graph)
    return True
