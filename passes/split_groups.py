"""split_groups: writes a convolution in groups as one convolution per group, for targets that have none in groups."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from qcompiler.ir.facts import CANONICAL, Fact
from qcompiler.observed import IMPORTED
from qcompiler.pass_manager import Effect
from qcompiler.regions import REGIONS
from qcompiler.rewrite import Rewrite, RewritePass

if TYPE_CHECKING:
    from qcompiler.ir.encoding import Encoding
    from qcompiler.ir.graph import Graph
    from qcompiler.ir.node import Value
    from qcompiler.patterns import Match


class SplitConvolution(Rewrite):
    """Slice, Conv and the activation behind it for every group, then Concat; depthwise convolutions stay."""

    name = "split groups"
    patterns = ("Conv(x, w, b?) -> Relu|Clip(_, $low?, $high?)?",)

    def check(self, match: Match) -> str | None:
        """Wants several groups of several input channels each, and constants."""
        if int(match.anchor.attributes.get("group", 1)) == 1:
            return ""
        weight, bias = match["w"], match.get("b")
        if weight.shape is not None and weight.shape[1] == 1:
            return ""
        for what, value in (("weight", weight), ("bias", bias)):
            if value is not None and not value.is_constant:
                return f"the {what} {value.name!r} is not a constant, which could be cut into groups"
        return None

    def replace(self, graph: Graph, match: Match) -> Value | None:
        """Builds the groups, each between its slice of the channels and the Concat."""
        weights = _parts(graph, match, "w")
        biases = _parts(graph, match, "b") if match.get("b") is not None else None
        made: list[Value | None] = []
        for group, weight in enumerate(weights):
            assert weight.shape is not None
            size = weight.shape[1]
            assert isinstance(size, int)
            x = _channels(graph, match, group * size, (group + 1) * size)
            made.append(_convolved(graph, match, x, weight, biases[group] if biases else None))
        return graph.add_node("Concat", made, attributes={"axis": 1}).output


def _parts(graph: Graph, match: Match, operand: str) -> list[Value]:
    """A constant cut along its output channels, and the encoding that it came with."""
    whole, groups = match[operand], int(match.anchor.attributes["group"])
    parts = np.split(match.constant(operand), groups)
    values = [graph.add_constant(f"{whole.name}.{group}", part) for group, part in enumerate(parts)]
    given = graph.facts.get(IMPORTED) or {}
    encodings = _cut(given[whole.name], groups) if whole.name in given else []
    if encodings:
        kept = {name: given[name] for name in given if name != whole.name or whole.only_use is None}
        made = {value.name: encoding for value, encoding in zip(values, encodings, strict=True)}
        graph.facts[IMPORTED] = {**kept, **made}
    return values


def _cut(encoding: Encoding, groups: int) -> list[Encoding]:
    """The encodings of the parts of a constant along axis 0; none where blocks would have to be cut too."""
    if encoding.block is not None:
        return []
    if encoding.axis != 0 or encoding.scale is None:
        return [encoding] * groups
    zeros = [None] * groups if encoding.zero_point is None else np.split(encoding.zero_point, groups)
    return [
        dataclasses.replace(encoding, scale=scale, zero_point=zero)
        for scale, zero in zip(np.split(encoding.scale, groups), zeros, strict=True)
    ]


def _channels(graph: Graph, match: Match, start: int, end: int) -> Value:
    """Some of the channels that the convolution reads."""
    x, name = match["x"], f"{match.anchor.output.name}.{start}_{end}"
    bounds = [
        graph.add_constant(f"{name}.{what}", np.array([number]))
        for what, number in (("start", start), ("end", end), ("axis", 1))
    ]
    shape = None if x.shape is None else (x.shape[0], end - start, *x.shape[2:])
    value = graph.add_value(name, x.dtype, shape)
    graph.add_node("Slice", [x, *bounds], [value])
    return value


def _convolved(graph: Graph, match: Match, x: Value, weight: Value, bias: Value | None) -> Value:
    """The convolution of one group, with the activation: behind the Concat no kernel would take it along."""
    node, outputs = match.anchor, weight.shape[0] if weight.shape is not None else None
    operands = [x, weight] if bias is None else [x, weight, bias]
    value = _like(graph, node.output, outputs)
    graph.add_node("Conv", operands, [value], {**node.attributes, "group": 1})
    if match.root is node:
        return value
    active = _like(graph, match.root.output, outputs)
    graph.add_node(match.root.op, [value, *match.root.inputs[1:]], [active], match.root.attributes)
    return active


def _like(graph: Graph, whole: Value, channels: Any) -> Value:
    shape = None if whole.shape is None else (whole.shape[0], channels, *whole.shape[2:])
    return graph.add_value(f"{whole.name}.group", whole.dtype, shape)


@dataclass(frozen=True)
class SplitGroups(RewritePass):
    """Writes convolutions in groups as a Slice and a convolution per group and a Concat of the results; exact.

    For hardware that has convolutions over all channels and depthwise ones only. Weights and biases are cut at compile time, with the
    encodings that they came with; what depends on the data is left alone. A Relu or Clip that alone reads the result goes into every
    group, where it costs nothing. A depthwise convolution, which has one input channel per group however many filters
    each has, stays as it is.
    """

    name: ClassVar[str] = "split_groups"
    effect: ClassVar[Effect] = Effect.EXACT
    requires: ClassVar[tuple[Fact[Any], ...]] = (CANONICAL,)
    invalidates: ClassVar[tuple[Fact[Any], ...]] = (REGIONS,)
    rewrites: ClassVar[tuple[type[Rewrite], ...]] = (SplitConvolution,)
