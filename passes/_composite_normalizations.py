"""Normalizations and Softmax that exporters spell out, as one operator each, with scale and bias taken in.

Formulas: ONNX operator specification, LayerNormalization-17, RMSNormalization-23, Softmax-13.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from qcompiler.ir.functions import DOMAIN
from qcompiler.passes._composite_activations import why_widened
from qcompiler.passes._node_rules import put_constant
from qcompiler.passes._operands import normalized_axes, scalar, static
from qcompiler.rewrite import Rewrite, absorb

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qcompiler.ir.graph import Graph
    from qcompiler.ir.node import Node, Value
    from qcompiler.patterns import Match

_ROOTS = (  # 1 / sqrt(variance + eps) times the numerator, {v} and {n}
    "Sqrt(Add({v}, $eps)) -> Div({n}, _)", "Sqrt(Add({v}, $eps)) -> Div(1, _) -> Mul(_, {n})",
    "Sqrt(Add({v}, $eps)) -> Reciprocal(_) -> Mul(_, {n})", "Pow(Add({v}, $eps), -0.5) -> Mul(_, {n})",
)  # fmt: skip
_CENTERED = "Sub(x, ReduceMean(x, $axes))"


def _keeps_axes(match: Match) -> bool:
    reductions = (node for node in match.nodes if node.op.startswith("Reduce"))
    return all(node.attributes.get("keepdims", 1) for node in reductions)


class _Normalization(Rewrite):
    """Shared by those that divide by a root of a mean of squares."""

    report_misses = 4

    def check(self, match: Match) -> str | None:
        """Wants trailing axes of known sizes, and one epsilon."""
        source = match["x"]
        if not _keeps_axes(match):
            return "a reduction drops its axes (keepdims=0)"
        if scalar(match.constant("eps")) is None:
            return "epsilon is not one number"
        if source.rank is None:
            return f"the rank of {source.name!r} is unknown"
        axes = normalized_axes([int(axis) for axis in match.constant("axes").reshape(-1)], source.rank)
        if not axes or axes != list(range(axes[0], source.rank)):
            return f"the axes {axes} are not the last ones of {source.rank}"
        if static(self._sizes(match)) is None:
            return f"the sizes of the normalized axes of {source.name!r} are not known"
        return why_widened(match, source)

    @staticmethod
    def _sizes(match: Match) -> tuple[Any, ...]:
        shape = match["x"].shape
        assert shape is not None
        return shape[len(shape) - match.constant("axes").size :]

    def _ones(self, graph: Graph, match: Match) -> Value:
        sizes = static(self._sizes(match))
        assert sizes is not None
        return graph.add_constant(f"{match.root.output.name}_scale", np.ones(sizes, match["x"].dtype))

    @staticmethod
    def _epsilon(match: Match) -> float:
        epsilon = scalar(match.constant("eps"))
        assert epsilon is not None
        return epsilon


class FuseLayerNorm(_Normalization):
    """(x - mean x) / sqrt(mean (x - mean x)^2 + eps)."""

    name = "fuse LayerNormalization"
    patterns = tuple(
        root.format(v=f"ReduceMean({square}, $axes)", n=_CENTERED)
        for root in _ROOTS
        for square in (f"Pow({_CENTERED}, 2)", f"Mul({_CENTERED}, {_CENTERED})")
    )

    def replace(self, graph: Graph, match: Match) -> Value | None:
        """Builds it with a scale of ones; `TakeScale` and `TakeBias` do the rest."""
        attributes = {"axis": -match.constant("axes").size, "epsilon": self._epsilon(match), "stash_type": 1}
        return graph.add_node(
            "LayerNormalization", [match["x"], self._ones(graph, match)], attributes=attributes
        ).output


class FuseRMSNorm(_Normalization):
    """x / sqrt(mean x^2 + eps) over the last axis."""

    name = "fuse RMSNormalization"
    patterns = tuple(
        root.format(v=f"ReduceMean({square}, $axes)", n="x")
        for root in _ROOTS
        for square in ("Pow(x, 2)", "Mul(x, x)")
    )

    def check(self, match: Match) -> str | None:
        """One axis only: see `qcompiler.ir.functions`."""
        if match.constant("axes").size != 1:
            return "it normalizes over several axes"
        return super().check(match)

    def replace(self, graph: Graph, match: Match) -> Value | None:
        """Builds it with a scale of ones; `TakeScale` does the rest."""
        attributes = {"axis": -1, "epsilon": self._epsilon(match)}
        operands = [match["x"], self._ones(graph, match)]
        return graph.add_node("RMSNormalization", operands, attributes=attributes, domain=DOMAIN).output


def _fits(data: NDArray[Any], normalization: Node) -> bool:
    """Whether a constant varies along the normalized axes only."""
    scale = normalization.inputs[1]
    assert scale is not None
    assert scale.data is not None
    while data.ndim > scale.data.ndim and data.shape[0] == 1:
        data = data[0]
    try:
        return np.broadcast_shapes(data.shape, scale.data.shape) == scale.data.shape
    except ValueError:
        return False


def _fitted(data: NDArray[Any], normalization: Node) -> NDArray[np.float64]:
    scale = normalization.inputs[1]
    assert scale is not None
    assert scale.data is not None
    while data.ndim > scale.data.ndim:
        data = data[0]
    return np.broadcast_to(data.astype(np.float64), scale.data.shape)


class TakeScale(Rewrite):
    """A constant factor behind a normalization belongs to its scale (and bias)."""

    name = "take scale into normalization"
    patterns = (
        "LayerNormalization(x, $scale, $bias?) -> Mul(_, $factor)",
        "RMSNormalization(x, $scale) -> Mul(_, $factor)",
    )

    def check(self, match: Match) -> str | None:
        """The factor must not vary along other axes, nor widen the result."""
        return None if _fits(match.constant("factor"), match.anchor) and _rank_holds(match, "factor") else ""

    def replace(self, graph: Graph, match: Match) -> Value | None:
        """Multiplies in double precision."""
        node = match.anchor
        if match.get("bias") is None and _is_ones(match.constant("scale"), match.constant("factor")):
            graph.set_input(node, 1, match["factor"])
            return absorb(graph, node, match.root)
        factor = _fitted(match.constant("factor"), node)
        for slot, name in ((1, "scale"), (2, "bias")):
            if match.get(name) is not None:
                data = match.constant(name)
                put_constant(graph, node, slot, (data.astype(np.float64) * factor).astype(data.dtype))
        return absorb(graph, node, match.root)


class TakeBias(Rewrite):
    """A constant added behind a layer normalization belongs to its bias."""

    name = "take bias into normalization"
    patterns = ("LayerNormalization(x, $scale, $bias?) -> Add(_, $shift)",)

    def check(self, match: Match) -> str | None:
        """The shift must not vary along other axes, nor widen the result."""
        return None if _fits(match.constant("shift"), match.anchor) and _rank_holds(match, "shift") else ""

    def replace(self, graph: Graph, match: Match) -> Value | None:
        """Adds in double precision."""
        node = match.anchor
        data = match.constant("shift")
        if match.get("bias") is None and data.shape == match.constant("scale").shape:
            graph.set_input(node, 2, match["shift"])
            return absorb(graph, node, match.root)
        shift = _fitted(data, node)
        total = shift if match.get("bias") is None else shift + match.constant("bias")
        put_constant(graph, node, 2, total.astype(data.dtype), match["shift"].name)
        return absorb(graph, node, match.root)


def _is_ones(scale: NDArray[Any], factor: NDArray[Any]) -> bool:
    return factor.shape == scale.shape and bool((scale == 1).all())


def _rank_holds(match: Match, name: str) -> bool:
    rank = match["x"].rank
    return rank is not None and match.constant(name).ndim <= rank


_SHIFTED = "Exp(Sub(x, ReduceMax(x, $axes)))"


class FuseSoftmax(Rewrite):
    """exp(x) / sum exp(x), with or without the largest x subtracted first."""

    name = "fuse Softmax"
    patterns = tuple(
        f"ReduceSum({exponential}, $axes) {tail}"
        for exponential in (_SHIFTED, "Exp(x)")
        for tail in (f"-> Div({exponential}, _)", f"-> Reciprocal(_) -> Mul(_, {exponential})")
    )
    report_misses = 3

    def check(self, match: Match) -> str | None:
        """Wants one axis, kept."""
        if not _keeps_axes(match):
            return "a reduction drops its axis (keepdims=0)"
        if match.constant("axes").size != 1:
            return "it sums over several axes"
        return None

    def replace(self, graph: Graph, match: Match) -> Value | None:
        """Builds the Softmax."""
        source, axis = match["x"], int(match.constant("axes").reshape(-1)[0])
        if source.rank is not None and axis % source.rank == source.rank - 1:
            axis = -1
        return graph.add_node("Softmax", [source], attributes={"axis": axis}).output


RULES: tuple[type[Rewrite], ...] = (FuseLayerNorm, FuseRMSNorm, TakeScale, TakeBias, FuseSoftmax)
"""In this order at every node: what divides by a deviation from the mean before what divides by a magnitude."""
