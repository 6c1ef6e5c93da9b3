"""Memory of a program, planned ahead of time: an order of its operations, and an address for everything they compute."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qcompiler.arena import ArenaPlan, Buffer, Overlap, plan_arena
from qcompiler.integer.operations import View
from qcompiler.operator_order import Step, ordered

if TYPE_CHECKING:
    from qcompiler.integer.program import Operation, Program, Tensor

ALIGNMENT = 16


@dataclass(frozen=True)
class Needs:
    """What a target's kernel needs of memory for one operation, and what it can do without.

    Attributes:
        scratch: Bytes that it works in.
        in_place: Numbers of the inputs in whose place it can write its output.
        before: Where it can run through its first input upwards: how many bytes before that its output has to begin to lie
            over it. None: it cannot.
        after: Where it can run downwards: how many bytes after its first input its output has to begin.
    """

    scratch: int = 0
    in_place: tuple[int, ...] = ()
    before: int | None = None
    after: int | None = None


@dataclass(frozen=True)
class MemoryPlan:
    """Where everything lies, and when.

    Attributes:
        operations: Those that do something, in the order in which they run.
        offsets: Offset of every computed tensor, views and inputs included.
        scratch: Offset of the scratch memory of operations that have some, by operation name.
        buffers: What was placed; `first` and `last` count in `operations`.
        arena: The placement.
    """

    operations: tuple[Operation, ...]
    offsets: Mapping[str, int]
    scratch: Mapping[str, int]
    buffers: tuple[Buffer, ...]
    arena: ArenaPlan

    def alive(self) -> Iterator[tuple[Operation, list[Buffer]]]:
        """Every operation with the buffers that are alive during it, in the order in which they run."""
        begins: dict[int, list[Buffer]] = {}
        for buffer in self.buffers:
            begins.setdefault(buffer.first, []).append(buffer)
        now: list[Buffer] = []
        for index, operation in enumerate(self.operations):
            now = [buffer for buffer in now if buffer.last >= index] + begins.get(index, [])
            yield operation, now

    @property
    def peak(self) -> tuple[str, tuple[Buffer, ...]]:
        """The operation during which most is alive, and what that is, the largest first."""
        if not self.operations:
            return "", ()
        operation, buffers = max(self.alive(), key=lambda item: sum(buffer.size for buffer in item[1]))
        return operation.name, tuple(sorted(buffers, key=lambda buffer: -buffer.size))


def roots(program: Program) -> dict[str, Tensor]:
    """Computed tensor to the one whose bytes it is: itself, or what it is a view of."""
    found = {tensor.name: tensor for tensor in program.tensors if tensor.data is None}
    for operation in program.operations:
        if isinstance(operation.work, View):
            found[operation.output.name] = found[operation.inputs[0].name]
    return found


def plan_memory(program: Program, needs: Callable[[Operation], Needs]) -> MemoryPlan:
    """Plans a program's memory. The program's inputs have a place from the beginning, its outputs keep theirs to the end.

    Args:
        program: The program.
        needs: What the target's kernels need.
    """
    root = roots(program)
    working = [operation for operation in program.operations if not isinstance(operation.work, View)]
    needed = {operation.name: needs(operation) for operation in working}
    sizes = {tensor.name: tensor.bytes for tensor in root.values()}
    kept = {root[tensor.name].name for tensor in program.outputs}
    steps = [_step(operation, needed[operation.name], root) for operation in working]
    operations = tuple(working[index] for index in ordered(steps, sizes, kept))
    buffers, overlaps = _buffers(program, operations, needed, root)
    arena = plan_arena(buffers, overlaps, ALIGNMENT)
    scratch = {name: arena.offsets[_scratch(name)] for name in needed if _scratch(name) in arena.offsets}
    offsets = {name: arena.offsets[tensor.name] for name, tensor in root.items()}
    return MemoryPlan(operations, offsets, scratch, tuple(buffers), arena)


def _scratch(operation: str) -> str:
    return f"{operation} (scratch)"


def _computed(operation: Operation, root: Mapping[str, Tensor]) -> tuple[str, ...]:
    return tuple(root[tensor.name].name for tensor in operation.inputs if tensor.data is None)


def _step(operation: Operation, needs: Needs, root: Mapping[str, Tensor]) -> Step:
    places = [operation.inputs[slot] for slot in needs.in_place]
    return Step(
        _computed(operation, root),
        tuple(root[tensor.name].name for tensor in operation.outputs),
        needs.scratch,
        tuple(root[tensor.name].name for tensor in places if tensor.data is None),
    )


def _buffers(
    program: Program,
    operations: tuple[Operation, ...],
    needed: Mapping[str, Needs],
    root: Mapping[str, Tensor],
) -> tuple[list[Buffer], list[Overlap]]:
    first = {root[tensor.name].name: 0 for tensor in program.inputs}
    last = dict(first)
    for index, operation in enumerate(operations):
        for name in _computed(operation, root):
            last[name] = index
        for tensor in operation.outputs:
            first[root[tensor.name].name] = last[root[tensor.name].name] = index
    end = max(len(operations) - 1, 0)
    kept = {root[tensor.name].name for tensor in program.outputs}
    last.update(dict.fromkeys(kept, end))
    sizes = {tensor.name: tensor.bytes for tensor in root.values()}
    buffers = [Buffer(name, sizes[name], first[name], last[name]) for name in first]
    overlaps = []
    for index, operation in enumerate(operations):
        needs = needed[operation.name]
        if needs.scratch:
            buffers.append(Buffer(_scratch(operation.name), needs.scratch, index, index))
        made = root[operation.outputs[0].name].name
        for slot, tensor in enumerate(operation.inputs):
            if tensor.data is not None:
                continue
            read = root[tensor.name].name
            if read == made or read in kept or last[read] != index or first[made] != index:
                continue
            runs = slot == 0 and _computed(operation, root).count(read) == 1
            before, after = (needs.before, needs.after) if runs else (None, None)
            if slot in needs.in_place or before is not None or after is not None:
                overlaps.append(Overlap(made, read, before, after, slot in needs.in_place))
    return buffers, overlaps
