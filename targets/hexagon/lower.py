"""Lowering for the HTP: the graph with Q/DQ, of static shapes, in the form that becomes integer operators throughout."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qcompiler.dimensions import set_input_shapes
from qcompiler.errors import TargetError
from qcompiler.ir.onnx_export import save
from qcompiler.ir.plan import PLANNED
from qcompiler.ir.shapes import infer_shapes
from qcompiler.lowering import Lowered, LowerJob
from qcompiler.targets.hexagon.bounds import split_wide_bounds
from qcompiler.targets.hexagon.guards import check, soc_of

if TYPE_CHECKING:
    from qcompiler.ir.graph import Graph

MODEL = "model.onnx"


def lower(job: LowerJob) -> Lowered:
    """Writes model.onnx.

    Raises:
        TargetError: The HTP would refuse the model, or compute it otherwise than planned; nothing is written.
    """
    planned = job.graph.facts.get(PLANNED)
    if planned is None:
        raise TargetError(
            "The pipeline has to end with insert_qdq: before that there is no finished plan to write a model from."
        )
    check(planned, job.plan, job.target)
    graph = job.graph.copy()
    batch = fix_batch(graph)
    split = split_wide_bounds(graph)
    files = save(graph, job.artifact.path(MODEL))
    for extra in files[1:]:
        job.artifact.path(extra.name)
    size = sum(path.stat().st_size for path in files)
    details = {"soc_model": soc_of(job.target), "batch_made_1": batch, "bounds_of_their_own": split}
    step = f"onnxruntime with the provider QNNExecutionProvider, option soc_model={soc_of(job.target)}, on {MODEL}"
    return Lowered(MODEL, size, step, details=details)


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
