"""Lowering for Cortex-M: the plan as integer operations, placed in memory, as a C project."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from qcompiler.integer.encode import encode, encode_planned
from qcompiler.integer.evaluate import Executor, quantize_inputs
from qcompiler.integer.session import ProgramSession, samples_each
from qcompiler.lowering import Lowered, LowerJob
from qcompiler.targets.cmsis_nn.boards import BOARDS
from qcompiler.targets.cmsis_nn.c_text import comment
from qcompiler.targets.cmsis_nn.deployment import crowds_of, deploy
from qcompiler.targets.cmsis_nn.fit import STACK, fit_of
from qcompiler.targets.cmsis_nn.project import write_project
from qcompiler.targets.cmsis_nn.source import constants_of, write_source

if TYPE_CHECKING:
    from qcompiler.crowds import Crowd
    from qcompiler.data import DataSource
    from qcompiler.integer.program import Program
    from qcompiler.ir.graph import Graph
    from qcompiler.ir.plan import Plan
    from qcompiler.target import Target
    from qcompiler.targets.cmsis_nn.boards import KernelPath
    from qcompiler.targets.cmsis_nn.project import Vectors
    from qcompiler.targets.cmsis_nn.source import Source

MODEL = "model.c"
_VECTORS, _VECTOR_BYTES = 4, 1 << 18


def lower(job: LowerJob) -> Lowered:
    """Writes the C project.

    Raises:
        TargetError: Something of the graph has no integer form, or the pipeline has written no plan; nothing is written.
    """
    program = program_of(job.graph, job.plan, job.target)
    core, path = core_of(job.target)
    deployment = deploy(program, path, _memory_limit(job.target, job.max_ram))
    source = write_source(deployment, core)
    fit = fit_of(deployment, source, job.target, job.max_ram, job.max_flash)
    executor = Executor(program)
    vectors = recorded(executor, job.data, _VECTORS, _VECTOR_BYTES)
    facts = {
        "title": comment(program.name),
        "arena": f"{deployment.memory.arena.size:,}",
        "constants": f"{source.constant_bytes:,}",
        "example": _example(source),
        "notes": _notes(source),
        "fit": fit.text(),
    }
    write_project(job.artifact, source, core, vectors, facts)
    return Lowered(
        MODEL,
        source.constant_bytes,
        "cmake -B build && cmake --build build && ctest --test-dir build (in the folder; see its README.md)",
        fit.unmet,
        fit.details(),
        executor,
    )


def executor(graph: Graph, plan: Plan, target: Target) -> ProgramSession:
    """What computes as the generated C does, to the byte.

    Raises:
        TargetError: See `lower`.
    """
    return ProgramSession(program_of(graph, plan, target))


def constant_bytes(graph: Graph, plan: Plan, target: Target) -> int:
    """Bytes of the constants of the generated C.

    Raises:
        TargetError: See `lower`.
    """
    return constants_of(program_of(graph, plan, target), core_of(target)[1]).bytes


def crowds(graph: Graph, plan: Plan, target: Target, max_ram: int | None) -> tuple[Crowd, ...]:
    """Where a plan takes more memory than the user or the device allows, sliced as it will be.

    Args:
        graph: The graph that the plan speaks of, without Q/DQ.
        plan: The plan.
        target: The target.
        max_ram: The user's limit, bytes.

    Raises:
        TargetError: Something of the graph has no integer form.
    """
    limit = _memory_limit(target, max_ram)
    if limit is None:
        return ()
    return crowds_of(deploy(encode(graph, plan, target), core_of(target)[1], limit), limit)


def _memory_limit(target: Target, max_ram: int | None) -> int | None:
    """Bytes that the arena should not exceed: the user's limit, and what the device has besides the stack."""
    memory = target.chosen.memory
    limits = [limit for limit in (max_ram, memory and memory - STACK) if limit is not None]
    return min(limits, default=None)


def program_of(graph: Graph, plan: Plan, target: Target) -> Program:
    """The program of a plan.

    Args:
        graph: The reference graph.
        plan: Its plan.
        target: The target.

    Raises:
        TargetError: See `lower`.
    """
    return encode_planned(graph, plan, target)


def core_of(target: Target) -> tuple[str, KernelPath]:
    """The core that a target's chosen device is built around, and the library's implementation for it."""
    name = target.chosen_device
    device = target.device[name]
    path: Any = device.features[0]
    while name not in BOARDS:
        name = target.device[name].core
    return name, path


def recorded(
    executor: Executor, data: DataSource | None, count: int, most_bytes: int | None = None
) -> Vectors:
    """Inputs, and what the program makes of them: samples of the data, or random codes where there are no data.

    Args:
        executor: Of the program.
        data: Samples.
        count: How many vectors.
        most_bytes: Fewer of them (but one) where they would take more bytes.
    """
    program = executor.program
    size = sum(tensor.bytes for tensor in (*program.inputs, *program.outputs))
    if most_bytes is not None:
        count = max(1, min(count, most_bytes // max(size, 1)))
    if data is None:
        chance = np.random.default_rng(0)
        inputs = {
            tensor.name: chance.integers(-128, 128, (count, *tensor.shape)).astype(tensor.dtype)
            for tensor in program.inputs
        }
    else:
        most = min(count * samples_each(program), data.count)
        inputs = quantize_inputs(program, next(iter(data.batches(most))))
        count = min(count, *(len(array) for array in inputs.values()))
    outputs = executor.run(inputs)
    return [
        (
            tuple(inputs[tensor.name][index] for tensor in program.inputs),
            tuple(outputs[tensor.name][index] for tensor in program.outputs),
        )
        for index in range(count)
    ]


def _example(source: Source) -> str:
    """How a firmware calls the model."""
    lines = [
        f"static {port.type} {port.name}[{port.macro}_ELEMENTS];"
        for port in (*source.inputs, *source.outputs)
    ]
    arguments = ", ".join(port.name for port in (*source.inputs, *source.outputs))
    lines += [
        "",
        f"/* fill {', '.join(port.name for port in source.inputs)}, then */",
        f"if (model_run({arguments}) != 0) {{",
        "    /* a kernel refused its arguments: the build is broken */",
        "}",
    ]
    return "\n".join(lines)


def _notes(source: Source) -> str:
    """What inputs and outputs are."""
    lines = []
    for port in (*source.inputs, *source.outputs):
        tensor = port.tensor
        text = f"* `{port.name}` is {port.type} [{', '.join(map(str, tensor.shape))}]"
        if len(tensor.shape) > 2 and tensor.order not in ((), tuple(range(len(tensor.shape)))):
            text += ", channels last"
        if tensor.encoding is not None:
            text += f": round(real / {tensor.scale:.9g}) + {tensor.zero_point}"
        lines.append(f"{text}.")
    return "\n".join(lines)
