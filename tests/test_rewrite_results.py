"""What rewrites leave behind: names, origins, and reasons only of nodes that are still there."""

from __future__ import annotations

from typing import ClassVar

from small_graphs import graph_of, lines

from qcompiler.ir.graph import Graph
from qcompiler.ir.node import Value
from qcompiler.pass_manager import PassContext
from qcompiler.patterns import Match
from qcompiler.rewrite import Rewrite, absorb, apply_rewrites, inherit


class Merge(Rewrite):
    """Exp then Neg is Relu, for the sake of the test."""

    name = "merge"
    patterns: ClassVar[tuple[str, ...]] = ("Exp(x) -> Neg(_)",)
    report_misses = 1

    def replace(self, graph: Graph, match: Match) -> Value | None:
        return graph.add_node("Relu", [match["x"]]).output


class Silent(Rewrite):
    name = "silent"
    patterns: ClassVar[tuple[str, ...]] = ("Exp",)

    def check(self, match: Match) -> str | None:
        return ""


def test_a_new_value_takes_the_name_of_what_it_stands_for() -> None:
    graph = graph_of("(float[2] x) => (float[2] y) { e = Exp(x) n = Neg(e) y = Tanh(n) }")
    apply_rewrites(graph, [Merge()], PassContext())
    assert lines(graph)[0].startswith("n = Relu(x)")
    assert graph.nodes[0].origin == ("Exp:e", "Neg:n")


def test_an_empty_reason_says_nothing() -> None:
    graph = graph_of("(float[2] x) => (float[2] y) { y = Exp(x) }")
    assert apply_rewrites(graph, [Silent()], PassContext()).diagnostics == []


def test_misses_of_nodes_that_went_are_forgotten() -> None:
    class Drop(Rewrite):
        name = "drop"
        patterns: ClassVar[tuple[str, ...]] = ("Exp(x) -> Tanh(_)",)

        def replace(self, graph: Graph, match: Match) -> Value | None:
            return match["x"]

    graph = graph_of("(float[2] x) => (float[2] y) { e = Exp(x) t = Tanh(e) y = Neg(t) }")
    assert apply_rewrites(graph, [Merge(), Drop()], PassContext()).diagnostics == []


def test_absorb_takes_over_uses_name_type_and_origin() -> None:
    graph = graph_of("(float[2] x) => (float[2] y) { e = Exp(x) y = Neg(e) z = Tanh(y) }")
    first, second, _ = graph.nodes
    value = absorb(graph, first, second)
    graph.verify()
    assert value is graph.outputs[0]
    assert value.name == "y"
    assert first.origin == ("Exp:e", "Neg:y")
    assert [node.op for node in graph.nodes] == ["Exp", "Tanh"]


def test_inherit_keeps_each_origin_once() -> None:
    graph = graph_of("(float[2] x) => (float[2] y) { e = Exp(x) y = Neg(e) }")
    first, second = graph.nodes
    inherit(first, second, first, second)
    assert first.origin == ("Exp:e", "Neg:y")
