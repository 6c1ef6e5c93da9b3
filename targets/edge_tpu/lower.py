"""Lowering to TensorFlow Lite: the plan as integer operations, as a file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qcompiler.integer.encode import encode_planned
from qcompiler.integer.session import ProgramSession
from qcompiler.lowering import Lowered, LowerJob
from qcompiler.runtime import Session
from qcompiler.targets.edge_tpu.file import model_of
from qcompiler.targets.edge_tpu.flatbuffer import write
from qcompiler.targets.edge_tpu.guards import check
from qcompiler.targets.edge_tpu.legalize import legalize
from qcompiler.targets.edge_tpu.partition import partition
from qcompiler.targets.edge_tpu.rim import inner_name, with_rim
from qcompiler.targets.edge_tpu.versions import with_versions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qcompiler.evaluation import Runnable
    from qcompiler.integer.program import Program
    from qcompiler.ir.graph import Graph
    from qcompiler.ir.plan import Plan
    from qcompiler.target import Target
    from qcompiler.targets.edge_tpu.model import Model
    from qcompiler.targets.edge_tpu.partition import Partition

MODEL = "model.tflite"
PARTITION = "partition"
"""The feature of devices for which the vendor's compiler decides what runs on the accelerator."""
INTEGER = "integer"
"""The feature of devices that take no floats."""


def lower(job: LowerJob) -> Lowered:
    """Writes model.tflite.

    Raises:
        TargetError: Something of the graph has no form here, or none in the file; nothing is written.
    """
    program = program_of(job.graph, job.plan, job.target)
    model = with_versions(with_rim(model_of(program), job.io))
    check(model)
    data = write(model)
    job.artifact.path(MODEL).write_bytes(data)
    if PARTITION not in job.target.chosen.features:
        return Lowered(MODEL, len(data))
    found = partition(model)
    details = _with_nodes(found, model, program)
    unmet = () if job.allow_cpu else tuple(_unmapped(found.summary, details))
    return Lowered(MODEL, len(data), f"edgetpu_compiler {MODEL}", unmet, {"partition": details})


def executor(graph: Graph, plan: Plan, target: Target) -> Runnable:
    """What computes as LiteRT's reference kernels do, to the byte; with floats in the file the reference graph, which is close to them.

    Raises:
        TargetError: See `lower`.
    """
    program = program_of(graph, plan, target)
    return ProgramSession(program) if program.is_integer else Session(graph, optimize=False)


def program_of(graph: Graph, plan: Plan, target: Target) -> Program:
    """The program of a plan, in operations that the file has.

    Args:
        graph: The reference graph.
        plan: Its plan.
        target: The target.

    Raises:
        TargetError: See `lower`.
    """
    return legalize(encode_planned(graph, plan, target, floats=INTEGER not in target.chosen.features))


def _unmapped(summary: str, details: dict[str, Any]) -> Iterator[str]:
    """What is wrong with a file of which the accelerator would run nothing but conversions at the rim."""
    if not any(operator["mapped"] for operator in details["operators"] if operator["nodes"]):
        yield (
            f"The accelerator would run nothing of the model: {summary} Cut the operators off that keep the others from it, or accept the "
            "host with --allow-cpu."
        )


def _with_nodes(found: Partition, model: Model, program: Program) -> dict[str, Any]:
    """The partition for the report, every operator with the nodes of the source model that it carries out."""
    names = {tensor.name for tensor in model.tensors}
    made = {}
    for operation in program.operations:
        inside = inner_name(operation.output.name, operation.output.dtype.name)
        made[inside if inside in names else operation.output.name] = operation
    details = found.details()
    for entry, operator in zip(details["operators"], model.operators, strict=True):
        name = model.tensors[operator.outputs[0]].name
        entry["nodes"] = list(made[name].origin) if name in made else []
    return details
