"""split_to_slices: every part becomes a Slice, with the same numbers."""

from __future__ import annotations

import numpy as np
import pytest
from small_graphs import graph_of, normal

from qcompiler.ir.graph import Graph
from qcompiler.pass_manager import PassContext
from qcompiler.passes import find_pass
from qcompiler.pipeline import PassRecord, Pipeline
from qcompiler.runtime import Session


def run(text: str, constants: dict[str, object] | None = None) -> tuple[Graph, Graph, PassRecord]:
    graph = graph_of(text, constants)
    before = graph.copy()
    *_, record = Pipeline.parse("canonicalize,split_to_slices", find_pass).run(graph, PassContext())
    return before, graph, record


def kinds(graph: Graph) -> dict[str, int]:
    return {op: sum(node.op == op for node in graph.nodes) for op in ("Split", "Slice")}


CASES = [
    ("(float[n,6,5] x) => (float[n,1,5] a, float[n,3,5] b, float[n,2,5] c) { a, b, c = Split<axis=1>(x, sizes) }", {"sizes": np.array([1, 3, 2])}, 3),
    ("(float[n,6,5] x) => (float[n,6,3] a, float[n,6,2] b) { a, b = Split<axis=-1, num_outputs=2>(x) }", {}, 2),
    ("(float[n,6] x) => (float[n,2] y) { a, b, c = Split<axis=1, num_outputs=3>(x) y = Add(a, c) }", {}, 2),
]  # fmt: skip


@pytest.mark.parametrize(("text", "constants", "slices"), CASES)
def test_parts_are_slices(text: str, constants: dict[str, object], slices: int) -> None:
    before, graph, record = run(text, constants)
    assert kinds(before)["Split"] == 1
    assert kinds(graph) == {"Split": 0, "Slice": slices}
    assert record.counts == {"splits": 1}
    assert [value.name for value in graph.outputs] == [value.name for value in before.outputs]
    shape = [dim if isinstance(dim, int) else 2 for dim in before.inputs[0].shape or ()]
    feeds = {"x": normal(*shape)}
    expected, made = (Session(item).run(feeds) for item in (before, graph))
    for name, array in expected.items():
        np.testing.assert_array_equal(made[name], array)
    graph.verify()


def test_sizes_that_are_computed_are_left_alone() -> None:
    _, graph, record = run(
        "(float[n,6] x, int64[2] sizes) => (float a, float b) { a, b = Split<axis=1>(x, sizes) }"
    )
    assert kinds(graph)["Split"] == 1
    assert [str(item) for item in record.diagnostics if "not known" in item.message]
