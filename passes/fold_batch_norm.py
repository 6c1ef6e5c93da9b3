"""Batch normalizations and per-channel arithmetic become part of the weights and bias beside them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from qcompiler.ir.facts import SHAPES, Fact
from qcompiler.pass_manager import Effect
from qcompiler.passes._linear_layers import LINEAR, Linear, linear_layer, why_shared
from qcompiler.passes._node_rules import put_constant
from qcompiler.passes._operands import along_axis, constant
from qcompiler.rewrite import Rewrite, RewritePass, absorb, inherit

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qcompiler.ir.graph import Graph
    from qcompiler.ir.node import Node, Value
    from qcompiler.patterns import Match

_FORWARD = ("Conv", "Gemm")


def _parameters(node: Node) -> tuple[NDArray[np.float64], NDArray[np.float64]] | str:
    """A BatchNormalization as x * scale + shift per channel, or why it is not that.

    Operator BatchNormalization-15: y = (x - mean) / sqrt(variance + epsilon) * gamma + beta.
    """
    if node.attributes.get("training_mode", 0):
        return "it is in training mode: mean and variance come from the data"
    arrays = [constant(node, slot) for slot in range(1, 5)]
    if any(array is None for array in arrays):
        return "its parameters are not all constants"
    gamma, beta, mean, variance = (array.astype(np.float64) for array in arrays if array is not None)
    spread = variance + float(node.attributes.get("epsilon", 1e-5))
    if not (spread > 0).all():  # negative or NaN
        return "a variance plus epsilon is not positive"
    scale = gamma / np.sqrt(spread)
    shift = beta - mean * scale
    if not (np.isfinite(scale).all() and np.isfinite(shift).all()):
        return "a parameter is not finite"
    return scale, shift


def _overflows(layer: Linear, scale: NDArray[np.float64]) -> bool:
    limit = float(np.finfo(layer.weight.dtype).max)
    largest = max(float(np.max(layer.weight, initial=0)), -float(np.min(layer.weight, initial=0)))
    return bool(largest * np.max(np.abs(scale), initial=0) > limit)


class FoldNormalization(Rewrite):
    """BatchNormalization goes into the layer before it or, where that cannot be, into the one behind it.

    Before: w' = w * scale, b' = b * scale + shift per output channel (Jacob et al. 2018, arXiv:1712.05877, section 3.2).
    Behind: w' = w * scale per input channel, b' = b + sum(w * shift); padding inserts zeros, not shifts, so a padded
    layer takes no shift, and neither does ConvTranspose, whose borders see fewer inputs.
    """

    name = "fold BatchNormalization"
    patterns = ("BatchNormalization",)
    report_misses = 1  # every normalization that stays is told about

    def check(self, match: Match) -> str | None:
        """Gives the reason of the side that came closer."""
        found = _parameters(match.anchor)
        if isinstance(found, str):
            return found
        before = self._before(match.anchor, *found)
        if not isinstance(before, str):
            return None
        behind = self._behind(match.anchor, *found)
        if not isinstance(behind, str):
            return None
        return before or behind or self._no_neighbour(match.anchor)

    def replace(self, graph: Graph, match: Match) -> Value | None:
        """Changes the layer in place."""
        node = match.anchor
        found = _parameters(node)
        assert not isinstance(found, str)
        scale, shift = found
        layer = self._before(node, scale, shift)
        if not isinstance(layer, str):
            bias = layer.bias() * scale + shift
            put_constant(graph, layer.node, 1, layer.scaled(scale))
            layer.put_bias(graph, bias)
            return absorb(graph, layer.node, node)
        layer = self._behind(node, scale, shift)
        assert not isinstance(layer, str)
        bias = layer.bias() + layer.sum_over_inputs(layer.by_inputs(shift))
        put_constant(graph, layer.node, 1, layer.by_inputs(scale).astype(layer.weight.dtype))
        layer.put_bias(graph, bias)
        graph.set_input(layer.node, 0, node.inputs[0])
        inherit(layer.node, node)
        return node.inputs[0]

    @staticmethod
    def _before(node: Node, scale: NDArray[np.float64], shift: NDArray[np.float64]) -> Linear | str:
        source = node.inputs[0]
        if (
            source is None
            or source.producer is None
            or not source.producer.is_op("Conv", "ConvTranspose", "Gemm")
        ):
            return ""
        if source.only_use is None:
            return why_shared(source)
        layer = linear_layer(source.producer)
        if isinstance(layer, str):
            return layer
        if layer.channels != scale.size:
            return f"{layer.node.name} has {layer.channels} channels, the normalization {scale.size}"
        return "folding would overflow the weight" if _overflows(layer, scale) else layer

    @staticmethod
    def _behind(node: Node, scale: NDArray[np.float64], shift: NDArray[np.float64]) -> Linear | str:
        followers = [reader for reader in node.output.consumers if reader.is_op(*_FORWARD, "ConvTranspose")]
        if not followers:
            return ""
        use = node.output.only_use
        if use is None:
            return why_shared(node.output)
        if use.node.op not in _FORWARD or use.slot != 0:
            return f"{use.node.name} is {use.node.op}, which takes no normalization of its input"
        layer = linear_layer(use.node)
        if isinstance(layer, str):
            return layer
        if shift.any() and _is_padded(use.node):
            return f"{use.node.name} pads with zeros, which the shift would have to reach too"
        return "folding would overflow the weight" if _overflows(layer, scale) else layer

    @staticmethod
    def _no_neighbour(node: Node) -> str:
        source = node.inputs[0]
        before = source.producer.op if source is not None and source.producer is not None else "a graph input"
        behind = ", ".join(dict.fromkeys(reader.op for reader in node.output.consumers)) or "a graph output"
        return f"no linear layer is next to it: before it is {before}, behind it {behind}"


def _is_padded(node: Node) -> bool:
    automatic = node.attributes.get("auto_pad", "NOTSET")
    return any(node.attributes.get("pads", ())) or automatic not in ("NOTSET", "VALID", b"NOTSET", b"VALID")


class FoldArithmetic(Rewrite):
    """Constants per output channel that multiply, divide or shift a linear layer go into its weight and bias.

    A scalar added in front of a Clip stays: that is how hard sigmoids are written.
    """

    name = "fold per-channel arithmetic"
    patterns = ("Mul", "Add", "Div", "Sub")

    def check(self, match: Match) -> str | None:
        """Speaks of constants per channel only: scalars belong to many another pattern."""
        found = self._find(match.anchor)
        if found is None:
            return ""
        value, data = found
        layer = self._layer(match.anchor, value)
        if isinstance(layer, str):
            return layer if data.size > 1 else ""
        scale, _ = self._affine(match.anchor, layer, data)
        if not np.isfinite(scale).all() or _overflows(layer, scale):
            return "folding would overflow the weight"
        return None

    def replace(self, graph: Graph, match: Match) -> Value | None:
        """Changes the layer in place."""
        node = match.anchor
        found = self._find(node)
        assert found is not None
        layer = self._layer(node, found[0])
        assert not isinstance(layer, str)
        scale, shift = self._affine(node, layer, found[1])
        bias = layer.bias() * scale + shift
        if _scales(node):
            put_constant(graph, layer.node, 1, layer.scaled(scale))
        if layer.node.op != "MatMul":
            layer.put_bias(graph, bias)
        return absorb(graph, layer.node, node)

    @staticmethod
    def _find(node: Node) -> tuple[Value, NDArray[Any]] | None:
        """The layer's output and the constant, where the constant has one element or one per channel."""
        slots = (0, 1) if node.op in ("Mul", "Add") else (0,)
        for slot in slots:
            value, data = node.input(slot), constant(node, 1 - slot)
            if value is None or data is None or data.dtype.kind != "f" or value.producer is None:
                continue
            layer = value.producer
            if not layer.is_op(*LINEAR) or (layer.op == "MatMul" and not _scales(node)):
                return None
            hard = (
                data.size == 1
                and not _scales(node)
                and any(item.op == "Clip" for item in node.output.consumers)
            )
            return None if hard or not _is_per_channel(layer, value, data) else (value, data)
        return None

    @staticmethod
    def _layer(node: Node, value: Value) -> Linear | str:
        assert value.producer is not None
        if value.only_use is None:
            return why_shared(value)
        return linear_layer(value.producer, weight_changes=_scales(node))

    @staticmethod
    def _affine(
        node: Node, layer: Linear, data: NDArray[Any]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        row = along_axis(data.astype(np.float64), layer.rank, layer.axis, layer.channels)
        assert row is not None
        ones, zeros = np.ones(layer.channels), np.zeros(layer.channels)
        if node.op in ("Add", "Sub"):
            return ones, row if node.op == "Add" else -row
        with np.errstate(divide="ignore"):
            return row if node.op == "Mul" else 1.0 / row, zeros


def _scales(node: Node) -> bool:
    return node.op in ("Mul", "Div")


def _is_per_channel(node: Node, value: Value, data: NDArray[Any]) -> bool:
    layer = linear_layer(node, weight_changes=False)
    if isinstance(layer, str):
        return data.size == 1 or value.rank == data.ndim
    return along_axis(data, layer.rank, layer.axis, layer.channels) is not None


@dataclass(frozen=True)
class FoldBatchNorm(RewritePass):
    """Folds BatchNormalization, and arithmetic with constants per channel, into the linear layer beside it.

    Weights are computed in double precision and rounded once. A normalization that cannot be folded stays, and the
    reason is told.
    """

    name: ClassVar[str] = "fold_batch_norm"
    effect: ClassVar[Effect] = Effect.EXACT
    requires: ClassVar[tuple[Fact[Any], ...]] = (SHAPES,)
    rewrites: ClassVar[tuple[type[Rewrite], ...]] = (FoldNormalization, FoldArithmetic)
