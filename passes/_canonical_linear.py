"""One form of a linear layer: Gemm(x, w[N, K], b[N]), alpha = beta = 1, transA = 0, transB = 1.

Output channels come first in the weight, as in Conv. Activations of more than two axes stay MatMul (and Add).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from qcompiler.passes._node_rules import NodeRule, put_constant
from qcompiler.passes._operands import along_axis, constant, is_float, is_unshared
from qcompiler.rewrite import absorb

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qcompiler.ir.graph import Graph
    from qcompiler.ir.node import Node, Value

_LARGEST_COPY = 64 << 20
_DEFAULTS: dict[str, int | float] = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0}


def gemm_attribute(node: Node, name: str) -> float:
    """An attribute of a Gemm, or its default (Operator Gemm-13)."""
    return float(node.attributes.get(name, _DEFAULTS[name]))


class MatMulToGemm(NodeRule):
    """MatMul of a matrix of activations with a constant matrix is Gemm."""

    name = "write MatMul as Gemm"
    patterns = ("MatMul",)

    def applies(self, node: Node) -> bool:
        """Wants two matrices of floats, the second one constant."""
        source, weight = node.input(0), node.input(1)
        if source is None or weight is None or source.rank != 2 or source.is_constant:
            return False
        return weight.data is not None and weight.data.ndim == 2 and is_float(weight)

    def apply(self, graph: Graph, node: Node) -> Value:
        """Builds the Gemm; `NormalizeGemm` does the rest."""
        return graph.add_node("Gemm", node.inputs, attributes=_DEFAULTS).output


class NormalizeGemm(NodeRule):
    """alpha and beta go into the constants, transA becomes a Transpose, the weight has output channels first.

    A weight that others read too, is memory-mapped or larger than 64 MB is left as it lies.
    """

    name = "normalize Gemm"
    patterns = ("Gemm",)

    def applies(self, node: Node) -> bool:
        """Asks each of the steps."""
        return bool(self._steps(node))

    def apply(self, graph: Graph, node: Node) -> Value:
        """Takes the steps that are due, in an order in which none undoes another."""
        for step in self._steps(node):
            step(graph, node)
        return node.output

    def _steps(self, node: Node) -> list[Any]:
        weight, steps = constant(node, 1), []
        if any(name not in node.attributes for name in _DEFAULTS):
            steps.append(_state_defaults)
        if weight is None or weight.dtype.kind != "f" or weight.ndim != 2:
            return steps
        movable = (
            is_unshared(node.input(1))
            and weight.nbytes <= _LARGEST_COPY
            and not isinstance(weight, np.memmap)
        )
        bias = constant(node, 2)
        if gemm_attribute(node, "transA"):
            steps.append(_transpose_activation)
        if gemm_attribute(node, "alpha") != 1.0 and movable:
            steps.append(_fold_alpha)
        if gemm_attribute(node, "beta") != 1.0 and (bias is not None or node.input(2) is None):
            steps.append(_fold_beta)
        if not gemm_attribute(node, "transB") and movable:
            steps.append(_transpose_weight)
        if bias is not None and bias.shape != (_columns(node),) and _bias_row(node, bias) is not None:
            steps.append(_flatten_bias)
        return steps


def _columns(node: Node) -> int:
    weight = constant(node, 1)
    assert weight is not None
    return int(weight.shape[0 if gemm_attribute(node, "transB") else 1])


def _bias_row(node: Node, bias: NDArray[Any]) -> NDArray[Any] | None:
    return along_axis(bias, 2, 1, _columns(node))


def _state_defaults(graph: Graph, node: Node) -> None:
    for name, default in _DEFAULTS.items():
        if name not in node.attributes:
            graph.set_attribute(node, name, default)


def _transpose_activation(graph: Graph, node: Node) -> None:
    source = node.inputs[0]
    assert source is not None
    turned = graph.add_value(
        f"{source.name}_transposed", source.dtype, source.shape[::-1] if source.shape else None
    )
    graph.add_node("Transpose", [source], [turned], {"perm": [1, 0]})
    graph.set_input(node, 0, turned)
    graph.set_attribute(node, "transA", 0)


def _fold_alpha(graph: Graph, node: Node) -> None:
    _scale(graph, node, 1, gemm_attribute(node, "alpha"))
    graph.set_attribute(node, "alpha", 1.0)


def _fold_beta(graph: Graph, node: Node) -> None:
    beta = gemm_attribute(node, "beta")
    if node.input(2) is not None:
        if beta:
            _scale(graph, node, 2, beta)
        else:
            graph.set_input(node, 2, None)
    graph.set_attribute(node, "beta", 1.0)


def _scale(graph: Graph, node: Node, slot: int, factor: float) -> None:
    data = constant(node, slot)
    assert data is not None
    put_constant(graph, node, slot, (data.astype(np.float64) * factor).astype(data.dtype))


def _transpose_weight(graph: Graph, node: Node) -> None:
    weight = constant(node, 1)
    assert weight is not None
    put_constant(graph, node, 1, np.ascontiguousarray(weight.T))
    graph.set_attribute(node, "transB", 1)


def _flatten_bias(graph: Graph, node: Node) -> None:
    bias = constant(node, 2)
    assert bias is not None
    row = _bias_row(node, bias)
    assert row is not None
    put_constant(graph, node, 2, np.ascontiguousarray(row))


class AddToBias(NodeRule):
    """A constant row added to a Gemm is its bias."""

    name = "fold Add into the bias of Gemm"
    patterns = ("Add",)

    def applies(self, node: Node) -> bool:
        """Wants a Gemm of its own, in canonical form, and a row."""
        value, addend = node.input(0), constant(node, 1)
        if value is None or addend is None or value.only_use is None or value.producer is None:
            return False
        gemm = value.producer
        if not gemm.is_op("Gemm") or constant(gemm, 1) is None or gemm_attribute(gemm, "beta") != 1.0:
            return False
        bias = constant(gemm, 2)
        if along_axis(addend, 2, 1, _columns(gemm)) is None:
            return False
        return gemm.input(2) is None or (bias is not None and bias.shape == (_columns(gemm),))

    def apply(self, graph: Graph, node: Node) -> Value:
        """Adds the row to the bias, in double precision."""
        value, addend = node.inputs[0], constant(node, 1)
        assert value is not None
        assert addend is not None
        gemm = value.producer
        assert gemm is not None
        row, bias = along_axis(addend, 2, 1, _columns(gemm)), constant(gemm, 2)
        assert row is not None
        if bias is None:
            graph.set_input(gemm, 2, node.inputs[1])  # `NormalizeGemm` makes a row of it
        else:
            put_constant(graph, gemm, 2, (row.astype(np.float64) + bias).astype(addend.dtype))
        return absorb(graph, gemm, node)


RULES = (MatMulToGemm, NormalizeGemm, AddToBias)
"""In this order at every node."""
