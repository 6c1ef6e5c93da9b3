"""Linear layers with constant weights, scaled and shifted per channel of their output or input.

The channel axes of the weights: Conv [M, C/group, k...], ConvTranspose [C, M/group, k...] (output channel
g * M/group + j belongs to group g), Gemm [K, N] or, with transB, [N, K], MatMul [..., K, N]; ONNX operator specification.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from qcompiler.passes._canonical_linear import gemm_attribute
from qcompiler.passes._node_rules import put_constant
from qcompiler.passes._operands import along_axis, constant, is_unshared, readers

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qcompiler.ir.graph import Graph
    from qcompiler.ir.node import Node, Value

LINEAR = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass(frozen=True)
class Linear:
    """A linear layer whose weight is a constant.

    Attributes:
        node: The layer.
        weight: Its weight.
        group: Number of channel groups; 1 for Gemm and MatMul.
        rank: Of its output.
        axis: Of the output's channels.
    """

    node: Node
    weight: NDArray[Any]
    group: int
    rank: int
    axis: int

    @property
    def channels(self) -> int:
        """Number of output channels."""
        if self.node.op == "ConvTranspose":
            return int(self.weight.shape[1]) * self.group
        return int(self.weight.shape[self._output_axis])

    @property
    def _output_axis(self) -> int:
        if self.node.op == "MatMul":
            return self.weight.ndim - 1
        return 0 if self.node.op == "Conv" or gemm_attribute(self.node, "transB") else 1

    def bias(self) -> NDArray[np.float64]:
        """The bias per output channel, in double precision; zeros where there is none."""
        data = constant(self.node, 2)
        if data is None:
            return np.zeros(self.channels)
        return np.broadcast_to(data.astype(np.float64).reshape(-1), (self.channels,))

    def scaled(self, scale: NDArray[np.float64]) -> NDArray[Any]:
        """The weight with every output channel multiplied."""
        if self.node.op == "ConvTranspose":
            inputs, outputs, *window = self.weight.shape
            grouped = self.weight.reshape(self.group, inputs // self.group, outputs, *window).astype(
                np.float64
            )
            factor = scale.reshape(self.group, 1, outputs, *[1] * len(window))
            return (grouped * factor).reshape(self.weight.shape).astype(self.weight.dtype)
        shape = [1] * self.weight.ndim
        shape[self._output_axis] = -1
        return (self.weight.astype(np.float64) * scale.reshape(shape)).astype(self.weight.dtype)

    def by_inputs(self, factor: NDArray[np.float64]) -> NDArray[np.float64]:
        """The weight of a Conv or Gemm with every input channel multiplied, in double precision."""
        if self.node.op == "Conv":
            outputs, inputs, *window = self.weight.shape
            grouped = self.weight.reshape(self.group, outputs // self.group, inputs, *window).astype(
                np.float64
            )
            spread = factor.reshape(self.group, 1, inputs, *[1] * len(window))
            return (grouped * spread).reshape(self.weight.shape)
        return self.weight.astype(np.float64) * factor.reshape((1, -1) if self._output_axis == 0 else (-1, 1))

    def sum_over_inputs(self, weight: NDArray[np.float64]) -> NDArray[np.float64]:
        """What the layer computes, bias aside, where every input is 1: sums per output channel."""
        others = tuple(axis for axis in range(weight.ndim) if axis != self._output_axis)
        return np.asarray(weight.sum(axis=others), np.float64)

    def put_bias(self, graph: Graph, bias: NDArray[np.float64]) -> None:
        """Replaces the bias; a new one of zeros is left out."""
        if self.node.input(2) is None and not bias.any():
            return
        weight = self.node.inputs[1]
        assert weight is not None
        put_constant(graph, self.node, 2, bias.astype(self.weight.dtype), f"{weight.name}_bias")


def linear_layer(node: Node, *, weight_changes: bool = True) -> Linear | str:
    """A node seen as a linear layer that may be changed, or why that cannot be.

    Args:
        node: One of the operators in `LINEAR`.
        weight_changes: Whether the weight is going to be changed, and so must not be shared.
    """
    value, weight = node.input(1), constant(node, 1)
    if weight is None or value is None:
        return f"the weight of {node.name} is not constant"
    if weight.dtype.kind != "f":
        return f"the weight of {node.name} is of type {weight.dtype}"
    if weight_changes and not is_unshared(value):
        others = readers(value, but=node) or "another operand or the graph output"
        return f"the weight {value.name!r} of {node.name} is also read by {others}"
    source = node.inputs[0]
    rank = weight.ndim
    if node.op == "MatMul":
        if (
            weight.ndim < 2
            or any(size != 1 for size in weight.shape[:-2])
            or source is None
            or source.rank is None
        ):
            return f"{node.name} multiplies by a batch of matrices"
        rank = max(source.rank, weight.ndim)
        if source.rank < 2:
            return f"{node.name} multiplies a vector"
    layer = Linear(
        node, weight, int(node.attributes.get("group", 1)), rank, rank - 1 if node.op == "MatMul" else 1
    )
    return _refused_bias(layer) or layer


def _refused_bias(layer: Linear) -> str:
    node, value, bias = layer.node, layer.node.input(2), constant(layer.node, 2)
    if node.op == "Gemm" and any(gemm_attribute(node, name) != default for name, default in _PLAIN.items()):
        return f"{node.name} has alpha, beta or transA; canonicalize takes them out"
    if value is None:
        return ""
    if bias is None:
        return f"the bias of {node.name} is not constant"
    fits = bias.ndim <= 1 or (node.op == "Gemm" and along_axis(bias, 2, 1, layer.channels) is not None)
    if not fits or bias.size not in (1, layer.channels):
        return f"the bias of {node.name} is not one number per channel"
    return ""


_PLAIN = {"alpha": 1.0, "beta": 1.0, "transA": 0.0}


def why_shared(value: Value) -> str:
    """Why a value is not private to its reader, as a clause."""
    if value.is_output:
        return f"{value.name!r} is a graph output"
    return f"{value.name!r} is read by {readers(value)}"
