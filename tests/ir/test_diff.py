"""The difference between two graphs."""

from __future__ import annotations

import numpy as np
import pytest
from bodies import body, if_graph
from hypothesis import given, settings
from strategies import networks

from qcompiler.ir.diff import diff_graphs
from qcompiler.ir.graph import Graph
from qcompiler.ir.onnx_export import to_onnx
from qcompiler.ir.onnx_import import import_model


def chain() -> Graph:
    graph = Graph("chain")
    x = graph.add_input("x", np.float32, (2, 3))
    w = graph.add_constant("w", np.ones((2, 3, 4), np.float32))
    add = graph.add_node("Add", [x, w], [graph.add_value("a", np.float32, (2, 3))], name="add")
    elu = graph.add_node(
        "Elu", [add.output], [graph.add_value("y", np.float32, (2, 3))], {"alpha": 1.0}, name="elu"
    )
    graph.set_outputs([elu.output])
    return graph


def test_no_difference() -> None:
    difference = diff_graphs(chain(), chain())
    assert not difference
    assert str(difference) == "no difference"


def test_added_removed_and_changed_nodes() -> None:
    before, after = chain(), chain()
    x = after.value("x")
    after.insert_on_edge(x, list(x.uses), "Neg", name="neg")
    after.set_attribute(after.node("elu"), "alpha", 0.5)
    difference = diff_graphs(before, after)
    assert difference.added == ("neg = Neg(x) : float32[2,3]",)
    assert [pair[0].split(" ")[0] for pair in difference.changed] == ["a", "y"]
    assert str(difference).splitlines() == [
        "+ neg = Neg(x) : float32[2,3]",
        "~ a = Add(x, @w:float32[2,3,4]) : float32[2,3]",
        "  a = Add(neg, @w:float32[2,3,4]) : float32[2,3]",
        "~ y = Elu(a) {alpha=1.0} : float32[2,3]",
        "  y = Elu(a) {alpha=0.5} : float32[2,3]",
    ]
    assert diff_graphs(after, before).removed == difference.added


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (np.full((2, 3, 4), 1.5, np.float32), "w: elements differ by up to 0.5"),
        (np.ones((3, 2, 4), np.float32), "w: float32[2,3,4] -> float32[3,2,4]"),
        (np.ones((2, 3, 4), np.float16), "w: float32[2,3,4] -> float16[2,3,4]"),
    ],
)
def test_constants(data: np.ndarray, line: str) -> None:
    before, after = chain(), chain()
    after.set_data(after.value("w"), data)
    assert diff_graphs(before, after).constants == (line,)


def test_nan_equals_nan() -> None:
    before, after = chain(), chain()
    for graph in (before, after):
        graph.set_data(graph.value("w"), np.full((2, 3, 4), np.nan, np.float32))
    assert not diff_graphs(before, after)


def test_interface() -> None:
    before, after = chain(), chain()
    after.value("x").shape = ("batch", 3)
    after.set_outputs([after.value("y"), after.value("a")])
    assert diff_graphs(before, after).interface == (
        "inputs: x: float32[2,3] -> x: float32[batch,3]",
        "outputs: y: float32[2,3] -> y: float32[2,3]; a: float32[2,3]",
    )


def test_what_the_text_leaves_out_is_compared_too() -> None:
    before, _ = if_graph()
    after, node = if_graph()
    after.set_attribute(
        node, "then_branch", body("yes () => (float[4] r) { p = Neg(doubled) r = Add(p, w) }")
    )
    assert len(diff_graphs(before, after).changed) == 1
    before, after = chain(), chain()
    for graph, number in ((before, 0), (after, 1)):
        graph.set_attribute(graph.node("elu"), "big", np.full((3, 9), number, np.float32))
    assert len(diff_graphs(before, after).changed) == 1
    after.set_attribute(after.node("elu"), "big", np.zeros((3, 9), np.float32))
    assert not diff_graphs(before, after)


@settings(max_examples=20, deadline=None)
@given(networks())
def test_a_round_trip_makes_no_difference(graph: Graph) -> None:
    assert not diff_graphs(graph, graph.copy())
    assert not diff_graphs(graph, import_model(to_onnx(graph)))
