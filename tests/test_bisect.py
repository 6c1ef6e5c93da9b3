"""Bisection finds the one wrong rewrite among many right ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
from strategies import NetworkBuilder

from qcompiler.bisect import bisect
from qcompiler.errors import PassError
from qcompiler.ir.facts import Fact
from qcompiler.ir.graph import Graph
from qcompiler.ir.node import Value
from qcompiler.pass_manager import Effect, Pass, PassContext, PassResult
from qcompiler.patterns import Match
from qcompiler.pipeline import Pipeline
from qcompiler.rewrite import Rewrite, RewritePass


class Tidying(Rewrite):
    """Rebuilds every convolution, the same (but for one): auto_pad=NOTSET marks what was rebuilt."""

    name = "tidy_conv"
    patterns = ("Conv(x, $w, $b?)",)
    wrong: ClassVar[str] = ""

    def check(self, match: Match) -> str | None:
        return "" if "auto_pad" in match.root.attributes else None

    def replace(self, graph: Graph, match: Match) -> Value | None:
        operands: list[Value | None] = [match["x"], match["w"], match["b"]]
        if self.wrong in match.root.origin:
            operands.pop()
        return graph.add_node(
            "Conv", operands, attributes={**match.root.attributes, "auto_pad": "NOTSET"}
        ).output


class TidySeventh(Tidying):
    wrong = "conv6"


class DropIdentity(Rewrite):
    name = "drop_identity"
    patterns = ("Identity(x)",)

    def replace(self, graph: Graph, match: Match) -> Value | None:
        return match["x"]


@dataclass(frozen=True)
class Clean(RewritePass):
    name: ClassVar[str] = "clean"
    rewrites: ClassVar[tuple[type[Rewrite], ...]] = (DropIdentity,)


@dataclass(frozen=True)
class Tidy(RewritePass):
    name: ClassVar[str] = "tidy"
    rewrites: ClassVar[tuple[type[Rewrite], ...]] = (TidySeventh,)


@dataclass(frozen=True)
class TidyWell(RewritePass):
    name: ClassVar[str] = "tidy_well"
    rewrites: ClassVar[tuple[type[Rewrite], ...]] = (Tidying,)


@dataclass(frozen=True)
class Negate(Pass):
    """Breaks everything, without asking."""

    name: ClassVar[str] = "negate"
    asks: int = 0
    effect: ClassVar[Effect] = Effect.EXACT

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        for number in range(self.asks):
            context.allow(f"something else {number}")
        last = graph.outputs[0]
        new = graph.add_node("Neg", [last])
        graph.replace_uses(last, new.output, [use for use in last.uses if use.node is not new])
        graph.set_outputs([new.output])
        graph.rename(last, "negated")
        graph.rename(new.output, "logits")
        return PassResult(counts={"negated": 1})


@dataclass(frozen=True)
class Fails(Pass):
    name: ClassVar[str] = "fails"

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        for number in range(5):
            if context.allow(f"step {number}") and number == 3:
                raise PassError("no way")
        return PassResult()


def network(convs: int = 12) -> Graph:
    graph = Graph("network")
    build = NetworkBuilder(graph)
    value = graph.add_input("image", np.float32, ("batch", 3, 8, 8))
    for index in range(convs):
        out = graph.add_value(f"c{index}", np.float32, ("batch", 3, 8, 8))
        operands = [value, build.constant("w", 3, 3, 3, 3), build.constant("b", 3)]
        node = graph.add_node("Conv", operands, [out], {"pads": [1, 1, 1, 1]}, name=f"conv{index}")
        value = build.same("Relu", build.same("Identity", node.output))
    graph.rename(value, "logits")
    graph.set_outputs([value])
    graph.journal.clear()
    return graph


def test_the_wrong_rewrite_is_found() -> None:
    graph = network()
    before = str(graph)
    result = bisect(graph, Pipeline((Clean(), TidyWell(), Clean(), Tidy(), Clean())), PassContext())
    assert result is None  # TidyWell marked every convolution, so Tidy found nothing to do
    result = bisect(graph, Pipeline((Clean(), Tidy(), Clean())), PassContext())
    assert result is not None
    assert (result.name, result.position) == ("tidy", 2)
    assert (result.rewrite, result.rewrites) == (7, 12)
    assert result.description == "tidy_conv at conv6"
    assert result.output == "logits"
    assert result.error_before == 0.0
    assert result.error_after > 1e-3
    assert len(result.difference.added) == len(result.difference.removed) == 1
    assert result.difference.removed[0].count("@") == 2
    assert result.difference.added[0].count("@") == 1
    assert result.text.startswith(
        "First broken by rewrite 7 of 12 in pass 2, tidy: tidy_conv at conv6.\nThe error of 'logits' goes from 0 to "
    )
    assert str(graph) == before


@pytest.mark.parametrize("convs", [7, 8, 9, 30])
def test_at_any_count(convs: int) -> None:
    result = bisect(network(convs), Pipeline((Tidy(),)), PassContext, tolerance=1e-6)
    assert result is not None
    assert result.rewrite == 7


def test_nothing_is_broken() -> None:
    assert bisect(network(), Pipeline((Clean(), TidyWell())), PassContext()) is None
    assert bisect(network(), Pipeline(), PassContext()) is None
    assert bisect(network(), Pipeline((Tidy(),)), PassContext(), tolerance=1e9) is None


def test_feeds_decide_what_is_seen() -> None:
    graph = network(1)
    blank = np.zeros((1, 3, 8, 8), np.float32)  # every output is 0 for it: the biases are negative
    assert bisect(graph, Pipeline((Negate(),)), PassContext(), feeds={"image": blank}) is None
    assert bisect(graph, Pipeline((Negate(),)), PassContext()) is not None


def test_a_pass_that_does_not_ask_is_told_as_a_whole() -> None:
    result = bisect(network(), Pipeline((Clean(), Negate())), PassContext())
    assert result is not None
    assert (result.name, result.position, result.rewrite) == ("negate", 2, None)
    assert "does not count its rewrites" in result.note
    assert result.text.startswith("First broken by pass 2, negate.")
    assert "+ logits = Neg(negated)" in result.text


def test_a_pass_that_asks_for_other_things() -> None:
    result = bisect(network(), Pipeline((Negate(asks=3),)), PassContext())
    assert result is not None
    assert result.rewrite is None
    assert "without asking" in result.note


def test_a_pass_that_fails() -> None:
    result = bisect(network(), Pipeline((Clean(), Fails())), PassContext())
    assert result is not None
    assert (result.rewrite, result.description) == (4, "step 3")
    assert result.error_after == np.inf
    assert result.note == "The pass failed: no way"


def test_facts_come_along() -> None:
    given = Fact[int]("given", "held before")

    @dataclass(frozen=True)
    class Needs(Tidy):
        name: ClassVar[str] = "needs"
        requires: ClassVar[tuple[Fact[Any], ...]] = (given,)

    graph = network()
    with pytest.raises(PassError, match="requires the fact 'given'"):
        bisect(graph, Pipeline((Needs(),)), PassContext())
    graph.facts[given] = 1
    result = bisect(graph, Pipeline((Needs(),)), PassContext())
    assert result is not None
    assert result.rewrite == 7


def test_the_context_is_left_alone() -> None:
    context = PassContext(fuel=3)
    result = bisect(network(), Pipeline((Tidy(),)), context)
    assert result is not None
    assert (context.fuel, context.rewrites) == (3, [])
