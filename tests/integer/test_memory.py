"""Memory of programs: operations run in one array of bytes at the planned addresses give what the executor gives."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from qcompiler.integer.evaluate import evaluate, run
from qcompiler.integer.memory import ALIGNMENT, MemoryPlan, Needs, plan_memory
from qcompiler.integer.operations import Concatenation, Extremum, Lookup, StridedCopy, View, Work
from qcompiler.integer.program import Operation, Program, Tensor

INT8 = np.dtype(np.int8)


class Builder:
    """Makes a program of tensors of bytes."""

    def __init__(self, *sizes: int) -> None:
        self.inputs = tuple(Tensor(f"input{place}", (size,), None, INT8) for place, size in enumerate(sizes))
        self.operations: list[Operation] = []

    def add(self, work: Work, inputs: tuple[Tensor, ...], shape: tuple[int, ...]) -> Tensor:
        number = len(self.operations)
        made = Tensor(f"t{number}", shape, None, INT8)
        self.operations.append(Operation(f"op{number}", work, inputs, (made,)))
        return made

    def table(self, x: Tensor) -> Tensor:
        table = np.roll(np.arange(-128, 128), len(self.operations) + 3).astype(np.int8)
        return self.add(Lookup(table), (x,), x.shape)

    def larger(self, a: Tensor, b: Tensor) -> Tensor:
        return self.add(Extremum(largest=True), (a, b), a.shape)

    def turned(self, x: Tensor) -> Tensor:
        return self.add(StridedCopy(x.elements - 1, (x.elements,), (-1,)), (x,), x.shape)

    def joined(self, *parts: Tensor) -> Tensor:
        return self.add(Concatenation(0), parts, (sum(part.elements for part in parts),))

    def view(self, x: Tensor) -> Tensor:
        return self.add(View(), (x,), (1, *x.shape))

    def flat(self, x: Tensor) -> Tensor:
        return self.add(View(), (x,), (x.elements,))

    def program(self, *outputs: Tensor) -> Program:
        return Program("small", self.inputs, outputs, tuple(self.operations))


def in_place(operation: Operation) -> Needs:
    """As kernels do that work element by element."""
    slots = {Lookup: (0,), Extremum: (0, 1)}.get(type(operation.work), ())
    return Needs(in_place=slots)


def nothing(operation: Operation) -> Needs:
    return Needs()


def scratch(operation: Operation) -> Needs:
    return Needs(scratch=24, in_place=in_place(operation).in_place)


WAYS = [nothing, in_place, scratch]


def simulated(
    program: Program, plan: MemoryPlan, inputs: dict[str, NDArray[np.int8]]
) -> dict[str, NDArray[np.int8]]:
    """Runs the operations on one array of bytes; what scratch memory there is gets overwritten."""
    memory = np.full(plan.arena.size, 0x55, np.int8)

    def place(tensor: Tensor) -> NDArray[np.int8]:
        start = plan.offsets[tensor.name]
        return memory[start : start + tensor.elements].reshape(tensor.shape)

    for tensor in program.inputs:
        place(tensor)[...] = inputs[tensor.name][0]
    for operation in plan.operations:
        arrays = [place(tensor)[None].copy() for tensor in operation.inputs]
        if operation.name in plan.scratch:
            start = plan.scratch[operation.name]
            memory[start : start + 24] = -86
        place(operation.output)[...] = evaluate(operation.work, arrays, operation.output)[0]
    return {tensor.name: place(tensor).copy()[None] for tensor in program.outputs}


def check(program: Program, needs: Callable[[Operation], Needs]) -> MemoryPlan:
    chance = np.random.default_rng(0)
    inputs = {
        tensor.name: chance.integers(-128, 128, (1, *tensor.shape)).astype(np.int8)
        for tensor in program.inputs
    }
    plan = plan_memory(program, needs)
    right = run(program, inputs)
    for name, codes in simulated(program, plan, inputs).items():
        np.testing.assert_array_equal(codes, right[name], name)
    for offset in (*plan.offsets.values(), *plan.scratch.values()):
        assert offset % ALIGNMENT == 0
    return plan


@st.composite
def programs(draw: st.DrawFn) -> Program:
    """Operations on tensors that are chosen at random; some outputs, read further or not."""
    build = Builder(*draw(st.lists(st.integers(1, 100), min_size=1, max_size=2)))
    values = list(build.inputs)
    for _ in range(draw(st.integers(1, 9))):
        x = values[draw(st.integers(0, len(values) - 1))]
        alike = [value for value in values if value.shape == x.shape]
        match draw(st.sampled_from(["table", "table", "larger", "turned", "joined", "view"])):
            case "table":
                made = build.table(x)
            case "larger":
                made = build.larger(x, alike[draw(st.integers(0, len(alike) - 1))])
            case "turned":
                made = build.turned(x)
            case "view":
                made = build.flat(x) if len(x.shape) > 1 else build.view(x)
            case _:
                parts = [x, values[draw(st.integers(0, len(values) - 1))]]
                made = build.joined(*(part if len(part.shape) == 1 else build.flat(part) for part in parts))
        values.append(made)
    root: dict[str, str] = {}
    for operation in build.operations:
        if isinstance(operation.work, View):
            source = operation.inputs[0].name
            root[operation.output.name] = root.get(source, source)
    computed = [value for value in values if not root.get(value.name, value.name).startswith("input")]
    outputs = draw(
        st.lists(
            st.sampled_from(computed), max_size=3, unique_by=lambda value: root.get(value.name, value.name)
        )
        if computed
        else st.just([])
    )
    return build.program(*outputs)


@settings(deadline=None, max_examples=150)
@given(programs(), st.sampled_from(WAYS))
def test_programs_run_in_their_memory(program: Program, needs: Callable[[Operation], Needs]) -> None:
    check(program, needs)


@settings(deadline=None, max_examples=50)
@given(programs())
def test_operations_run_when_what_they_read_is_there(program: Program) -> None:
    plan = plan_memory(program, in_place)
    there = {tensor.name for tensor in program.inputs}
    views = {
        operation.output.name: operation.inputs[0].name
        for operation in program.operations
        if isinstance(operation.work, View)
    }
    for operation in plan.operations:
        for tensor in operation.inputs:
            name = tensor.name
            while name in views:
                name = views[name]
            assert name in there
        there.add(operation.output.name)
    assert {operation.name for operation in plan.operations} == {
        operation.name for operation in program.operations if not isinstance(operation.work, View)
    }


def test_views_share_an_address() -> None:
    build = Builder(40)
    a = build.table(build.inputs[0])
    b = build.view(a)
    c = build.flat(b)
    plan = check(build.program(build.turned(c)), nothing)
    assert plan.offsets[a.name] == plan.offsets[b.name] == plan.offsets[c.name]


def test_a_chain_in_place_takes_one_tensor() -> None:
    build = Builder(160)
    x = build.inputs[0]
    for _ in range(4):
        x = build.table(x)
    assert check(build.program(x), in_place).arena.size == 160
    assert check(build.program(x), nothing).arena.size == 320


@pytest.mark.parametrize("needs", WAYS)
def test_an_output_that_the_last_operation_reads_survives(needs: Callable[[Operation], Needs]) -> None:
    build = Builder(16)
    first = build.joined(build.inputs[0], build.inputs[0])
    last = build.table(first)
    plan = check(build.program(first, last), needs)
    assert plan.offsets[first.name] != plan.offsets[last.name]


def test_scratch_meets_nothing_that_is_alive() -> None:
    build = Builder(32)
    a = build.turned(build.inputs[0])
    plan = check(build.program(build.larger(a, build.inputs[0])), scratch)
    assert set(plan.scratch) == {operation.name for operation in plan.operations}


def test_the_order_keeps_little_alive() -> None:
    """Two long branches: one is finished before the other begins, though they are written alternately."""
    build = Builder(16)
    x = build.inputs[0]
    wide = [build.joined(*[x] * 20) for _ in range(4)]
    narrow = [build.add(StridedCopy(0, (16,), (20,)), (tensor,), (16,)) for tensor in wide]
    plan = check(build.program(build.joined(*narrow)), nothing)
    assert plan.arena.size < 2 * 16 * 20
    name, alive = plan.peak
    assert name in {operation.name for operation in plan.operations}
    assert [buffer.size for buffer in alive] == sorted((buffer.size for buffer in alive), reverse=True)


def test_a_program_without_operations() -> None:
    plan = plan_memory(Builder(20).program(), nothing)
    assert plan.peak == ("", ())
    assert math.ceil(plan.arena.size / ALIGNMENT) == 2
