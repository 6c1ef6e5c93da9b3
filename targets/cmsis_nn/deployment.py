"""A program made ready for a core: an address for everything, and slices of rows where memory is short."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qcompiler.crowds import Crowd
from qcompiler.integer.memory import MemoryPlan, Needs, plan_memory, roots
from qcompiler.integer.operations import Convolution
from qcompiler.targets.cmsis_nn import slicing
from qcompiler.targets.cmsis_nn.scratch import in_place, scratch_of

if TYPE_CHECKING:
    from qcompiler.arena import Buffer
    from qcompiler.integer.program import Operation, Program, Tensor
    from qcompiler.targets.cmsis_nn.boards import KernelPath
    from qcompiler.targets.cmsis_nn.slicing import Slice

_CALLS = 4
"""Calls that a convolution is sliced into at first."""
_PIXELS = 4
"""The library computes so many pixels at a time; slices of a multiple of that cost nothing but the calls."""


@dataclass(frozen=True)
class Deployment:
    """Everything about a program on a core but its text.

    Attributes:
        program: The program.
        path: The core's implementation of the library.
        memory: Its memory.
        whole: Bytes of the arena if nothing were sliced.
        slices: Operation name to the slices of rows that it is computed in, where it is.
        root: Computed tensor to the one whose bytes it is.
    """

    program: Program
    path: KernelPath
    memory: MemoryPlan
    whole: int
    slices: Mapping[str, tuple[Slice, ...]]
    root: Mapping[str, Tensor]


def deploy(program: Program, path: KernelPath, limit: int | None = None) -> Deployment:
    """Plans a program's memory for a core.

    Convolutions during which most is alive are computed in a few slices of rows, where that costs next to nothing and makes the arena
    smaller. While it is above the limit, all that can be are sliced, finer and finer.

    Args:
        program: The program.
        path: The core's implementation of the library.
        limit: Bytes that the arena should not exceed.
    """
    rows: dict[str, int] = {}

    def planned(rows: Mapping[str, int]) -> MemoryPlan:
        return plan_memory(program, lambda operation: _needs(operation, path, rows.get(operation.name)))

    first = memory = planned(rows)
    while busiest := _at_peak(memory):
        if not all(_is_free(operation) and operation.name not in rows for operation in busiest):
            break
        trial = {**rows, **{operation.name: _few(operation) for operation in busiest}}
        better = planned(trial)
        if better.arena.size >= memory.arena.size:
            break
        rows, memory = trial, better
    while limit is not None and memory.arena.size > limit:
        busiest = _at_peak(memory)
        if not busiest or any(rows.get(operation.name) == 1 for operation in busiest):
            break
        finer = {
            operation.name: rows[operation.name] // 2 if operation.name in rows else _few(operation)
            for operation in busiest
        }
        rows = {**rows, **finer}
        memory = planned(rows)
    operations = {operation.name: operation for operation in program.operations}
    slices = {
        name: _directed(operations[name], memory, slicing.slices(operations[name], count))
        for name, count in rows.items()
    }
    return Deployment(program, path, memory, first.arena.size, slices, roots(program))


def crowds_of(deployment: Deployment, limit: int) -> tuple[Crowd, ...]:
    """The operations during which something lies beyond a limit, with the graph's values that are in memory meanwhile.

    Args:
        deployment: A deployment.
        limit: Bytes.
    """
    memory, values = deployment.memory, _values(deployment)
    found = []
    for _, buffers in memory.alive():
        excess = max(memory.arena.offsets[buffer.name] + buffer.size for buffer in buffers) - limit
        if excess > 0:
            names = frozenset(name for buffer in buffers for name in values.get(buffer.name, ()))
            found.append(Crowd(names, excess))
    return tuple(found)


def _values(deployment: Deployment) -> dict[str, set[str]]:
    """The names of the graph's values by the tensor whose bytes they are; those that are made of it where it holds none itself."""
    root, found = deployment.root, dict[str, set[str]]()
    for tensor in deployment.program.tensors:
        if tensor.data is None and tensor.value:
            found.setdefault(root[tensor.name].name, set()).add(tensor.value)
    for operation in reversed(deployment.program.operations):
        made = [root[tensor.name].name for tensor in operation.outputs]
        for tensor in operation.inputs:
            if tensor.data is None and root[tensor.name].name not in found:
                found[root[tensor.name].name] = {name for item in made for name in found.get(item, ())}
    return found


def _directed(operation: Operation, memory: MemoryPlan, pieces: tuple[Slice, ...]) -> tuple[Slice, ...]:
    """The slices in the order in which they have to be computed: upwards where the output lies before the input, else downwards."""
    upwards = memory.offsets[operation.output.name] <= memory.offsets[operation.inputs[0].name]
    return pieces if upwards else pieces[::-1]


def _needs(operation: Operation, path: KernelPath, rows: int | None) -> Needs:
    before, after = slicing.distances(operation, rows) if rows is not None else (None, None)
    return Needs(scratch_of(operation, path), in_place(operation), before, after)


def _few(operation: Operation) -> int:
    """Rows per slice, for a few slices; of whole groups of pixels where that is possible."""
    _, height, width, _ = operation.output.shape
    rows = -(-height // _CALLS)
    group = _PIXELS // math.gcd(width, _PIXELS)
    return min(-(-rows // group) * group, height)


def _is_free(operation: Operation) -> bool:
    """Whether slicing costs next to nothing: depthwise kernels prepare their filters anew in every call."""
    return isinstance(operation.work, Convolution)


def _at_peak(memory: MemoryPlan) -> list[Operation]:
    """The operations during which most is alive, if all of them can be sliced."""
    taken = [(operation, _occupied(memory, buffers)) for operation, buffers in memory.alive()]
    most = max((size for _, size in taken), default=0)
    busiest = [operation for operation, size in taken if size == most]
    return busiest if all(map(slicing.can_slice, busiest)) else []


def _occupied(memory: MemoryPlan, buffers: Iterable[Buffer]) -> int:
    """Bytes that some buffers take together, those that they share counted once."""
    end = occupied = 0
    for offset, size in sorted((memory.arena.offsets[buffer.name], buffer.size) for buffer in buffers):
        occupied += max(0, offset + size - max(offset, end))
        end = max(end, offset + size)
    return occupied
