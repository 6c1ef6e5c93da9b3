"""Parts of graphs as graphs of their own."""

from __future__ import annotations

import numpy as np
import pytest
from bodies import if_graph, nested_graph
from small_graphs import graph_of, lines, normal

from qcompiler.ir.graph import Graph
from qcompiler.ir.node import Value
from qcompiler.ir.part import ancestors, cut_out
from qcompiler.ir.shapes import infer_shapes
from qcompiler.runtime import Session

DIAMOND = "(float[N,4] x) => (float y) { a = Relu(x) b = Mul(a, w) c = Neg(a) y = Add(b, c) z = Exp(b) }"
CONSTANTS = {"w": normal(4)}


def values_of(graph: Graph, *names: str) -> list[Value]:
    return [graph.value(name) for name in names]


def computed(nodes: object) -> list[str]:
    return [node.output.name for node in nodes]  # type: ignore[attr-defined]


def test_ancestors_come_operands_first_and_once() -> None:
    graph = graph_of(DIAMOND, CONSTANTS)
    found = computed(ancestors(values_of(graph, "y")))
    assert sorted(found) == ["a", "b", "c", "y"]
    assert found[0] == "a"
    assert found[-1] == "y"


def test_ancestors_stop_at_what_is_done() -> None:
    graph = graph_of(DIAMOND, CONSTANTS)
    done = ancestors(values_of(graph, "b"))
    assert computed(done) == ["a", "b"]
    assert computed(ancestors(values_of(graph, "y", "z"), done)) in (["c", "y", "z"], ["z", "c", "y"])
    assert computed(ancestors(values_of(graph, "b", "x", "w"), done)) == []


def test_what_only_done_nodes_need_is_left_out() -> None:
    graph = graph_of(DIAMOND, CONSTANTS)
    done = {graph.value("b").producer: None, graph.value("c").producer: None}
    assert computed(ancestors(values_of(graph, "y"), done)) == ["y"]  # type: ignore[arg-type]


def test_a_part_computes_what_the_whole_does() -> None:
    graph = graph_of(DIAMOND, CONSTANTS)
    infer_shapes(graph)
    x = normal(3, 4)
    whole = Session(graph, ["a", "y"], optimize=False).run({"x": x})
    nodes = ancestors(values_of(graph, "y"), ancestors(values_of(graph, "a")))
    part = cut_out(graph, nodes, values_of(graph, "y"))
    part.verify()
    assert [value.name for value in part.inputs] == ["a"]
    assert part.node_count == 3
    assert not part.journal
    result = Session(part, optimize=False).run({"a": whole["a"]})
    assert np.array_equal(result["y"], whole["y"])


def test_constants_come_along_unless_they_are_not_read() -> None:
    graph = graph_of(DIAMOND, CONSTANTS)
    part = cut_out(graph, ancestors(values_of(graph, "b")), values_of(graph, "b"))
    assert part.value("w").data is graph.value("w").data
    rest = cut_out(graph, ancestors(values_of(graph, "c")), values_of(graph, "c"))
    assert rest.constants == []


def test_the_whole_stays_as_it_is() -> None:
    graph = graph_of(DIAMOND, CONSTANTS)
    text, journal = str(graph), list(graph.journal)
    part = cut_out(graph, ancestors(values_of(graph, "y")), values_of(graph, "y"))
    part.set_input(part.value("y").producer, 0, part.value("c"))  # type: ignore[arg-type]
    assert str(graph) == text
    assert graph.journal == journal


def test_names_attributes_and_origins_are_kept() -> None:
    graph = graph_of(
        "(float[N,4,8,8] x) => (float y) { y = Conv<strides=[2,2]>(x, w) }", {"w": normal(2, 4, 3, 3)}
    )
    part = cut_out(graph, graph.topological(), graph.outputs)
    assert lines(part) == lines(graph)
    assert part.nodes[0].origin == graph.nodes[0].origin
    assert part.opset == graph.opset


@pytest.mark.parametrize("outputs", [["y", "x"], ["x"], ["w", "y"], ["y", "a", "y"]])
def test_outputs_may_go_in_from_outside(outputs: list[str]) -> None:
    """Inputs, constants and repeated values: each is returned once, in order."""
    graph = graph_of(DIAMOND, CONSTANTS)
    wanted = values_of(graph, *outputs)
    part = cut_out(graph, ancestors(wanted), wanted)
    assert [value.name for value in part.outputs] == list(dict.fromkeys(outputs))
    x = normal(2, 4)
    result = Session(part, optimize=False).run({"x": x} if part.inputs else {})
    expected = {"x": x, "w": CONSTANTS["w"]}
    for name in set(outputs) & set(expected):
        assert np.array_equal(result[name], expected[name])


@pytest.mark.parametrize("flag", [True, False])
def test_bodies_read_what_they_captured(flag: bool) -> None:
    graph, node = if_graph()
    feeds = {"flag": np.array(flag), "x": normal(4)}
    whole = Session(graph, optimize=False).run(feeds)
    behind = ancestors([node.output], ancestors(values_of(graph, "doubled")))
    part = cut_out(graph, behind, [node.output])
    part.verify()
    assert [value.name for value in part.inputs] == ["flag", "doubled"]
    assert part.has_value("w")
    given = {"flag": feeds["flag"], "doubled": whole["doubled"]}
    assert np.array_equal(Session(part, optimize=False).run(given)["y"], whole["y"])


def test_bodies_in_bodies() -> None:
    graph, node = nested_graph()
    assert computed(ancestors([node.output])) == ["start", "y"]
    x = normal(4)
    part = cut_out(graph, [node], [node.output])
    assert {value.name for value in part.inputs} == {"start", "x"}
    result = Session(part, optimize=False).run({"start": -x, "x": x})
    assert np.array_equal(result["y"], Session(graph, optimize=False).run({"x": x})["y"])


def test_a_left_out_input_stays_left_out() -> None:
    graph = graph_of(
        "(float[N,4] x) => (float y) { y = Clip(x, , most) }", {"most": np.array(0.5, np.float32)}
    )
    part = cut_out(graph, graph.topological(), graph.outputs)
    assert part.nodes[0].inputs[1] is None
    x = normal(3, 4)
    assert np.array_equal(Session(part).run({"x": x})["y"], np.minimum(x, 0.5))


def test_long_chains_are_no_recursion() -> None:
    graph = Graph("long")
    value = graph.add_input("x", np.float32, ("N",))
    for _ in range(5000):
        value = graph.add_node("Neg", [value], [graph.add_value("v", np.float32, ("N",))]).output
    graph.set_outputs([value])
    found = ancestors([value])
    assert len(found) == 5000
    assert list(found) == list(graph.topological())
    assert cut_out(graph, found, [value]).node_count == 5000
