"""Lowering for TensorRT: the QDQ graph is the artifact, if it breaks no rule."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qcompiler.errors import TargetError
from qcompiler.ir.onnx_export import save
from qcompiler.ir.onnx_import import read_proto
from qcompiler.lowering import Lowered, LowerJob
from qcompiler.targets.tensorrt.rules import check_rules

if TYPE_CHECKING:
    from qcompiler.ir.graph import Graph

MODEL = "model.onnx"

_BUILD = """\
# How to build an engine from {model} (explicit quantization: scales and precisions are in the file).

# TensorRT 11:
trtexec --onnx={model} --saveEngine=model.plan{shapes}

# TensorRT 10 (types as written in the graph):
trtexec --onnx={model} --stronglyTyped --saveEngine=model.plan{shapes}

# With the type of every layer, to see what runs in int8:
#   --profilingVerbosity=detailed --dumpLayerInfo --exportLayerInfo=layers.json
"""


def lower(job: LowerJob) -> Lowered:
    """Writes model.onnx and the build commands.

    Raises:
        TargetError: The file breaks a rule that TensorRT refuses models for; the artifact is given up.
    """
    graph, artifact = job.graph, job.artifact
    files = save(graph, artifact.path(MODEL))
    broken = [item for item in check_rules(read_proto(files[0])) if item.severity == "error"]
    if broken:
        raise TargetError(
            f"The graph cannot be given to TensorRT: {broken[0].message} ({len(broken)} such places, rule {broken[0].rule})."
        )
    for extra in files[1:]:
        artifact.path(extra.name)
    commands = _BUILD.format(model=MODEL, shapes=_profile(graph))
    artifact.write_text("build.sh", commands)
    size = sum(path.stat().st_size for path in files)
    step = next(line for line in commands.splitlines() if line.startswith("trtexec"))
    return Lowered(MODEL, size, step)


def _profile(graph: Graph) -> str:
    """The options that trtexec needs for open dimensions: batches of 1 to 32, other open sizes left to fill in."""
    open_inputs = [
        value
        for value in graph.inputs
        if value.shape and any(not isinstance(dim, int) for dim in value.shape)
    ]
    if not open_inputs:
        return ""
    options = []
    for name, batch in (("minShapes", 1), ("optShapes", 8), ("maxShapes", 32)):
        shapes = []
        for value in open_inputs:
            assert value.shape is not None
            dims = [
                dim if isinstance(dim, int) else (batch if axis == 0 else f"<{dim}>")
                for axis, dim in enumerate(value.shape)
            ]
            shapes.append(f"{value.name}:{'x'.join(map(str, dims))}")
        options.append(f" --{name}={','.join(shapes)}")
    return "".join(options)
