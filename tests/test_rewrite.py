"""Rewrites: fixed point, counts, fuel, misses, origins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
from benchmarks.networks import residual_network
from hypothesis import given, settings
from strategies import feeds, networks

from qcompiler.errors import PassError
from qcompiler.ir.graph import Graph
from qcompiler.ir.node import Value
from qcompiler.pass_manager import Effect, Level, PassContext
from qcompiler.patterns import Match
from qcompiler.rewrite import Rewrite, RewritePass, absorb, apply_rewrites, prune
from qcompiler.runtime import Session


class DropIdentity(Rewrite):
    name = "drop_identity"
    patterns = ("Identity(x)",)

    def check(self, match: Match) -> str | None:
        return "" if match.root.output.is_output else None

    def replace(self, graph: Graph, match: Match) -> Value | None:
        return match["x"]


class FuseRelu(Rewrite):
    """Neg -> Abs -> Relu becomes one Abs; it takes three nodes, so a change at the end concerns an anchor far away."""

    name = "fuse_relu"
    patterns = ("Neg(x) -> Abs -> Relu",)
    report_misses = 2

    def replace(self, graph: Graph, match: Match) -> Value | None:
        return graph.add_node("Abs", [match["x"]]).output


class ClipIsRelu(Rewrite):
    name = "clip_is_relu"
    patterns = ("Clip(x, 0)",)

    def replace(self, graph: Graph, match: Match) -> Value | None:
        return graph.add_node("Relu", [match["x"]]).output


class Swap(Rewrite):
    """Never ends: what it makes matches again."""

    name = "swap"
    patterns = ("Add(a, b)",)

    def replace(self, graph: Graph, match: Match) -> Value | None:
        return graph.add_node("Add", [match["b"], match["a"]]).output


class NothingToDo(Rewrite):
    name = "nothing"
    patterns = ("Relu(x)",)

    def replace(self, graph: Graph, match: Match) -> Value | None:
        return None


def chain(*ops: str) -> Graph:
    graph = Graph("chain")
    value = graph.add_input("x", np.float32, (2, 3))
    for index, op in enumerate(ops):
        inputs = [value, graph.add_constant("zero", np.float32(0))] if op == "Clip" else [value]
        out = graph.add_value(f"v{index}", np.float32, (2, 3))
        value = graph.add_node(op, inputs, [out], name=f"{op}{index}").output
    graph.set_outputs([value])
    graph.journal.clear()
    return graph


def ops(graph: Graph) -> list[str]:
    return [node.op for node in graph.nodes]


def test_counts_and_origins() -> None:
    graph = chain("Identity", "Neg", "Identity", "Abs", "Relu", "Sin")
    result = apply_rewrites(graph, [DropIdentity(), FuseRelu()], PassContext())
    graph.verify()
    assert ops(graph) == ["Abs", "Sin"]
    assert result.counts == {"drop_identity": 2, "fuse_relu": 1}
    assert result.changed == 3
    assert graph.nodes[0].origin == ("Neg1", "Abs3", "Relu4")
    assert graph.nodes[0].output.name == "v4"
    assert graph.nodes[0].output.shape == (2, 3)


def test_a_change_far_behind_the_anchor_completes_a_pattern() -> None:
    graph = chain("Neg", "Abs", "Clip", "Sin")
    result = apply_rewrites(graph, [FuseRelu(), ClipIsRelu()], PassContext())
    assert ops(graph) == ["Abs", "Sin"]
    assert result.counts == {"clip_is_relu": 1, "fuse_relu": 1}
    assert not result.diagnostics


def test_a_match_that_returns_an_input_or_ends_in_an_output() -> None:
    graph = chain("Relu", "Neg", "Abs", "Relu")
    apply_rewrites(graph, [FuseRelu()], PassContext())
    graph.verify()
    assert ops(graph) == ["Relu", "Abs"]
    assert [value.name for value in graph.outputs] == ["v3"]
    graph = chain("Sin", "Identity", "Identity")
    result = apply_rewrites(graph, [DropIdentity()], PassContext())
    graph.verify()
    assert ops(graph) == ["Sin", "Identity"]
    assert result.counts == {"drop_identity": 1}


def test_near_misses_are_told_and_stale_ones_are_not() -> None:
    graph = chain("Neg", "Abs", "Sin", "Neg", "Tanh")
    result = apply_rewrites(graph, [FuseRelu()], PassContext())
    assert [str(entry) for entry in result.diagnostics] == [
        "Neg0: fuse_relu does not apply at Abs1: Sin follows, not Relu (after 2 matching nodes)"
    ]
    assert result.diagnostics[0].level is Level.NEAR_MISS
    graph = chain("Neg", "Abs", "Identity", "Relu")
    assert not apply_rewrites(graph, [FuseRelu(), DropIdentity()], PassContext()).diagnostics


def test_a_check_gives_its_reason() -> None:
    class Refuse(ClipIsRelu):
        name = "refuse"

        def check(self, match: Match) -> str | None:
            return "it is Tuesday"

    graph = chain("Clip")
    before = str(graph)
    result = apply_rewrites(graph, [Refuse()], PassContext())
    assert str(graph) == before
    assert not graph.journal
    assert "it is Tuesday" in str(result.diagnostics[0])


def test_nothing_came_of_it() -> None:
    graph = chain("Relu")
    context = PassContext()
    assert apply_rewrites(graph, [NothingToDo()], context).changed == 0
    assert context.rewrites == []


@pytest.mark.parametrize("fuel", [0, 1, 2, 3, 10])
def test_fuel(fuel: int) -> None:
    graph = chain("Identity", "Relu", "Identity", "Relu", "Identity", "Relu")
    context = PassContext(fuel=fuel)
    result = apply_rewrites(graph, [DropIdentity()], context)
    assert result.changed == min(fuel, 3)
    assert ops(graph).count("Identity") == 3 - min(fuel, 3)
    assert context.rewrites == [f"drop_identity at Identity{index}" for index in (0, 2, 4)][:fuel]
    graph.verify()


def test_rewrites_without_an_end_are_stopped() -> None:
    graph = Graph()
    x = graph.add_input("x", np.float32, (2,))
    graph.set_outputs([graph.add_node("Add", [x, graph.add_input("y", np.float32, (2,))]).output])
    with pytest.raises(PassError, match="swap does not come to an end"):
        apply_rewrites(graph, [Swap()], PassContext())


def test_a_pass_of_rewrites() -> None:
    @dataclass(frozen=True)
    class Clean(RewritePass):
        name: ClassVar[str] = "clean"
        effect: ClassVar[Effect] = Effect.EXACT
        rewrites: ClassVar[tuple[type[Rewrite], ...]] = (DropIdentity, ClipIsRelu)

    graph = chain("Identity", "Clip")
    assert Clean().run(graph, PassContext()).counts == {"drop_identity": 1, "clip_is_relu": 1}
    assert ops(graph) == ["Relu"]


def test_prune_removes_what_a_node_alone_kept_alive() -> None:
    graph = chain("Relu", "Neg")
    extra = graph.add_node("Sin", [graph.add_node("Cos", [graph.value("v0")]).output])
    prune(graph, extra)
    assert ops(graph) == ["Relu", "Neg"]
    prune(graph, graph.node("Neg1"))
    assert ops(graph) == ["Relu", "Neg"]
    graph.verify()


def test_absorb() -> None:
    graph = chain("Relu", "Neg")
    value = absorb(graph, graph.node("Relu0"), graph.node("Neg1"))
    graph.verify()
    assert ops(graph) == ["Relu"]
    assert value.name == "v1"
    assert graph.outputs == (value,)
    assert graph.node("Relu0").origin == ("Relu0", "Neg1")


@settings(max_examples=30, deadline=None)
@given(networks())
def test_rewriting_random_networks_keeps_the_function(graph: Graph) -> None:
    data = feeds(graph)
    before = Session(graph, optimize=False).run(data)
    twin = graph.copy()
    apply_rewrites(twin, [DropIdentity()], PassContext())
    twin.verify()
    assert not any(node.op == "Identity" and not node.output.is_output for node in twin.nodes)
    for name, array in Session(twin, optimize=False).run(data).items():
        np.testing.assert_array_equal(array, before[name])


def test_a_second_run_finds_nothing() -> None:
    graph = residual_network(700)

    class FoldBn(Rewrite):
        name = "fold"
        patterns = ("Conv(x, $w) -> BatchNormalization(_, $s, $b, $m, $v)",)

        def replace(self, graph: Graph, match: Match) -> Value | None:
            return graph.add_node("Conv", [match["x"], match["w"]], attributes=match.anchor.attributes).output

    assert apply_rewrites(graph, [FoldBn()], PassContext()).changed == 200
    graph.verify()
    assert apply_rewrites(graph, [FoldBn()], PassContext()).changed == 0
