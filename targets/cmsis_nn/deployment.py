"""A program made ready for a core: an address for everything, and slices of rows where memory is short."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qcompiler.integer.memory import MemoryPlan, Needs, plan_memory, roots
from qcompiler.targets.cmsis_nn import slicing
from qcompiler.targets.cmsis_nn.scratch import in_place, scratch_of

if TYPE_CHECKING:
    from qcompiler.integer.program import Operation, Program, Tensor
    from qcompiler.targets.cmsis_nn.boards import Path
    from qcompiler.targets.cmsis_nn.slicing import Slice

_CALLS = 4
"""Calls that a convolution is sliced into where nothing asks for more: the rows at the seams cost next to nothing."""


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
    path: Path
    memory: MemoryPlan
    whole: int
    slices: Mapping[str, tuple[Slice, ...]]
    root: Mapping[str, Tensor]


def deploy(program: Program, path: Path, limit: int | None = None) -> Deployment:
    """Plans a program's memory for a core.

    Convolutions during which most is alive are computed in a few slices of rows, if that makes the arena smaller; one row at a time
    while the arena is above the limit.

    Args:
        program: The program.
        path: The core's implementation of the library.
        limit: Bytes that the arena should not exceed.
    """
    rows: dict[str, int] = {}

    def planned(rows: Mapping[str, int]) -> MemoryPlan:
        return plan_memory(program, lambda operation: _needs(operation, path, rows.get(operation.name)))

    first = memory = planned(rows)
    while names := _at_peak(memory, rows, finer=False):
        trial = {**rows, **{name: _few(memory, name) for name in names}}
        better = planned(trial)
        if better.arena.size >= memory.arena.size:
            break
        rows, memory = trial, better
    while limit is not None and memory.arena.size > limit and (names := _at_peak(memory, rows, finer=True)):
        rows = {**rows, **dict.fromkeys(names, 1)}
        memory = planned(rows)
    operations = {operation.name: operation for operation in program.operations}
    slices = {
        name: _directed(operations[name], memory, slicing.slices(operations[name], count))
        for name, count in rows.items()
    }
    return Deployment(program, path, memory, first.arena.size, slices, roots(program))


def _directed(operation: Operation, memory: MemoryPlan, pieces: tuple[Slice, ...]) -> tuple[Slice, ...]:
    """The slices in the order in which they have to be computed: upwards where the output lies before the input, else downwards."""
    upwards = memory.offsets[operation.output.name] <= memory.offsets[operation.inputs[0].name]
    return pieces if upwards else pieces[::-1]


def _needs(operation: Operation, path: Path, rows: int | None) -> Needs:
    before, after = slicing.distances(operation, rows) if rows is not None else (None, None)
    return Needs(scratch_of(operation, path), in_place(operation), before, after)


def _few(memory: MemoryPlan, name: str) -> int:
    """Rows per slice, for a few slices."""
    (operation,) = (item for item in memory.operations if item.name == name)
    return -(-operation.output.shape[1] // _CALLS)


def _at_peak(memory: MemoryPlan, rows: Mapping[str, int], *, finer: bool) -> list[str]:
    """The operations during which most is alive, if all of them could be sliced: for the first time, or finer than they are."""
    sums = [
        sum(buffer.size for buffer in memory.buffers if buffer.first <= index <= buffer.last)
        - _shared(memory, index)
        for index in range(len(memory.operations))
    ]
    names = []
    for index, operation in enumerate(memory.operations):
        if sums[index] < max(sums):
            continue
        left = rows.get(operation.name, 2) > 1 if finer else operation.name not in rows
        if not slicing.can_slice(operation) or not left:
            return []
        names.append(operation.name)
    return names


def _shared(memory: MemoryPlan, index: int) -> int:
    """Bytes that the buffers alive at an operation share."""
    alive = sorted(
        (memory.arena.offsets[buffer.name], buffer.size)
        for buffer in memory.buffers
        if buffer.first <= index <= buffer.last
    )
    end = shared = 0
    for offset, size in alive:
        shared += max(0, min(end, offset + size) - offset)
        end = max(end, offset + size)
    return shared
