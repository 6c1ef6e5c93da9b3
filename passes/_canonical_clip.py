"""Relu and Clip: bounds as scalars, merged where one follows the other, Relu where nothing but zero bounds."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from qcompiler.passes._node_rules import NodeRule
from qcompiler.passes._operands import is_float, scalar
from qcompiler.rewrite import inherit

if TYPE_CHECKING:
    from qcompiler.ir.graph import Graph
    from qcompiler.ir.node import Node, Value

Interval = tuple[float, float]


def _limits(value: Value) -> Interval:
    """The least and the greatest finite number of the value's dtype: exporters write them for "no bound"."""
    assert value.dtype is not None
    if value.dtype.kind == "f":
        return float(np.finfo(value.dtype).min), float(np.finfo(value.dtype).max)
    info = np.iinfo(value.dtype)
    return float(info.min), float(info.max)


def interval(node: Node) -> Interval | None:
    """What a Relu or a Clip with constant bounds confines its input to; None where it is not certain or empty."""
    if node.is_op("Relu"):
        return 0.0, math.inf
    source = node.input(0)
    if not node.is_op("Clip") or source is None or source.dtype is None or source.dtype.kind not in "fiu":
        return None
    least, greatest = _limits(source)
    ends = []
    for slot, unbounded in ((1, -math.inf), (2, math.inf)):
        value = node.input(slot)
        bound = unbounded if value is None else scalar(value.data)
        if bound is None or math.isnan(bound):
            return None
        ends.append(bound)
    low = -math.inf if ends[0] <= least else ends[0]
    high = math.inf if ends[1] >= greatest else ends[1]
    return (low, high) if low <= high else None


class NormalizeClip(NodeRule):
    """Bounds that do not bind are left out; [0, inf) is Relu; no bounds at all is nothing; bounds have rank 0."""

    name = "normalize Clip"
    patterns = ("Clip",)

    def applies(self, node: Node) -> bool:
        """Looks for any of these."""
        bounds = interval(node)
        if bounds is None:
            return False
        loose = [slot for slot in (1, 2) if node.input(slot) is not None and math.isinf(bounds[slot - 1])]
        return bool(loose) or self._is_relu(node, bounds) or self._is_free(bounds) or bool(self._ranked(node))

    def apply(self, graph: Graph, node: Node) -> Value | None:
        """Makes one of the changes; the driver comes back for the next."""
        bounds, source = interval(node), node.input(0)
        assert bounds is not None
        if self._is_free(bounds):
            return source
        if self._is_relu(node, bounds):
            return graph.add_node("Relu", [source]).output
        for slot in (2, 1):
            if node.input(slot) is not None and math.isinf(bounds[slot - 1]):
                graph.set_input(node, slot, None)
        for slot in self._ranked(node):
            value = node.inputs[slot]
            assert value is not None
            assert value.data is not None
            graph.set_input(node, slot, graph.add_constant(f"{value.name}_scalar", value.data.reshape(())))
        return node.output

    @staticmethod
    def _is_free(bounds: Interval) -> bool:
        return bounds == (-math.inf, math.inf)

    @staticmethod
    def _is_relu(node: Node, bounds: Interval) -> bool:
        return bounds == (0.0, math.inf) and is_float(node.input(0))

    @staticmethod
    def _ranked(node: Node) -> list[int]:
        return [
            slot
            for slot in (1, 2)
            if (value := node.input(slot)) is not None and value.data is not None and value.data.ndim
        ]


class MergeClips(NodeRule):
    """A Relu or Clip behind another: the outer one goes where it changes nothing, else both become one.

    For intervals [a, b] and then [c, d], clip(clip(x, a, b), c, d) = clip(x, clip(a, c, d), clip(b, c, d)): both sides
    are non-decreasing, agree inside [a, b], and are constant outside it.
    """

    name = "merge Clips"
    patterns = ("Clip", "Relu")

    def applies(self, node: Node) -> bool:
        """Wants two certain intervals, and the inner one for itself unless the outer one just goes."""
        source = node.input(0)
        if source is None or source.producer is None or not source.producer.is_op("Clip", "Relu"):
            return False
        inner, outer = interval(source.producer), interval(node)
        if inner is None or outer is None:
            return False
        return (outer[0] <= inner[0] and inner[1] <= outer[1]) or source.only_use is not None

    def apply(self, graph: Graph, node: Node) -> Value | None:
        """Drops the outer one or builds the merged one."""
        source = node.inputs[0]
        assert source is not None
        first = source.producer
        assert first is not None
        inner, outer = interval(first), interval(node)
        assert inner is not None
        assert outer is not None
        if outer[0] <= inner[0] and inner[1] <= outer[1]:
            return source
        low, high = (min(max(end, outer[0]), outer[1]) for end in inner)
        bounds = [
            None
            if math.isinf(end)
            else graph.add_constant(f"{node.name}_{which}", np.asarray(end, source.dtype))
            for which, end in (("min", low), ("max", high))
        ]
        made = graph.add_node(
            "Clip", [first.inputs[0], *bounds] if bounds[1] else [first.inputs[0], bounds[0]]
        )
        inherit(made, first)
        return made.output


RULES = (NormalizeClip, MergeClips)
"""In this order at every node."""
