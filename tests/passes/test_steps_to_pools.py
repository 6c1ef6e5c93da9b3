"""steps_to_pools: slices with steps become pools of one element, with the same numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_graphs import graph_of, normal

from qcompiler.ir.graph import Graph
from qcompiler.pass_manager import PassContext
from qcompiler.passes import find_pass
from qcompiler.pipeline import PassRecord, Pipeline
from qcompiler.runtime import Session

IMAGE = "(float[n,3,9,8] x) => (float[] y) { y = Slice(x, starts, ends, axes, steps) }"


def run(text: str, **constants: Any) -> tuple[Graph, Graph, PassRecord]:
    graph = graph_of(text, {name: np.array(numbers) for name, numbers in constants.items()})
    before = graph.copy()
    *_, record = Pipeline.parse("canonicalize,steps_to_pools", find_pass).run(graph, PassContext())
    graph.verify()
    return before, graph, record


def kinds(graph: Graph) -> list[str]:
    return [node.op for node in graph.topological()]


def same(before: Graph, after: Graph, shape: tuple[int, ...]) -> None:
    feeds = {"x": normal(2, *shape)}
    (expected,), (made,) = (list(Session(graph).run(feeds).values()) for graph in (before, after))
    np.testing.assert_array_equal(made, expected)


@pytest.mark.parametrize(
    ("starts", "ends", "steps", "ops"),
    [
        ([0, 0], [9, 8], [2, 2], ["MaxPool"]),
        ([0, 0], [2**31 - 1, 2**31 - 1], [2, 3], ["MaxPool"]),
        ([1, 0], [9, 7], [2, 1], ["Slice", "MaxPool"]),
        ([-5, 1], [9, -1], [3, 2], ["Slice", "MaxPool"]),
    ],
)
def test_steps_become_strides(starts: list[int], ends: list[int], steps: list[int], ops: list[str]) -> None:
    before, graph, record = run(IMAGE, starts=starts, ends=ends, axes=[2, 3], steps=steps)
    assert kinds(graph) == ops
    assert record.counts == {"slices": 1}
    assert [value.name for value in graph.outputs] == ["y"]
    same(before, graph, (3, 9, 8))


def test_one_dimension() -> None:
    text = "(float[n,3,9] x) => (float[] y) { y = Slice(x, starts, ends, axes, steps) }"
    before, graph, _ = run(text, starts=[0], ends=[9], axes=[2], steps=[2])
    assert kinds(graph) == ["MaxPool"]
    same(before, graph, (3, 9))


@pytest.mark.parametrize(("axes", "steps"), [([1], [2]), ([2], [-1]), ([2, 3], [2, -2])])
def test_other_steps_are_left_alone(axes: list[int], steps: list[int]) -> None:
    bounds = [(0, 99) if step > 0 else (99, -99) for step in steps]
    starts, ends = ([pair[side] for pair in bounds] for side in (0, 1))
    before, graph, record = run(IMAGE, starts=starts, ends=ends, axes=axes, steps=steps)
    assert kinds(graph) == kinds(before)
    assert not record.counts
    assert "steps" in record.diagnostics[0].message


def test_slices_without_steps_are_left_alone() -> None:
    before, graph, record = run(IMAGE, starts=[1], ends=[5], axes=[2], steps=[1])
    assert kinds(graph) == kinds(before)
    assert not record.diagnostics


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.integers(-9, 8), st.integers(-9, 12), st.integers(1, 4)), min_size=1, max_size=2)
)
def test_any_bounds(bounds: list[tuple[int, int, int]]) -> None:
    axes = [2, 3][: len(bounds)]
    bounds = [
        (start, end, step)
        for (start, end, step), size in zip(bounds, (9, 8), strict=False)
        if range(size)[start:end]
    ]
    if len(bounds) < len(axes):
        return
    starts, ends, steps = (list(numbers) for numbers in zip(*bounds, strict=True))
    before, graph, _ = run(IMAGE, starts=starts, ends=ends, axes=axes, steps=steps)
    same(before, graph, (3, 9, 8))
