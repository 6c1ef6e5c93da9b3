"""Writes operators on codes (QLinearConv, QLinearAdd, ...) as DequantizeLinear, the float operator, QuantizeLinear.

Operands: QLinearConv-10, QLinearMatMul-21, and onnxruntime's ContribOperators.md for the domain com.microsoft.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from qcompiler.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from qcompiler.ir.graph import Graph
    from qcompiler.ir.node import Node, Value

_MS = "com.microsoft"
_EXPORT = (
    "Export the model in QDQ format instead (quant_format=QuantFormat.QDQ in onnxruntime's quantize_static)."
)
_REFUSED = {
    "ConvInteger": "it computes on integers without an output scale",
    "MatMulInteger": "it computes on integers without an output scale",
    "DynamicQuantizeLinear": "it chooses scales at run time",
    "ConvIntegerToFloat": "it is a fused integer operator",
    "MatMulIntegerToFloat": "it is a fused integer operator",
    "DynamicQuantizeMatMul": "it chooses scales at run time",
    "DynamicQuantizeLSTM": "it chooses scales at run time",
    "QAttention": "it is a fused integer operator",
    "QGemm": "some of its scales are not constants, or it is not from onnxruntime's domain",
}


def expand_qoperators(graph: Graph) -> int:
    """Expands every operator on codes; returns how many there were.

    Raises:
        ModelError: One of them cannot be expanded; names it and says what to do.
    """
    expanded = 0
    for node in graph.nodes:
        rule = _RULES.get((node.domain, node.op))
        if rule is None and not node.op.startswith("QLinear") and node.op not in _REFUSED:
            continue
        if rule is None:
            why = _REFUSED.get(node.op, "it has no float form that is known here")
            raise ModelError(f"The node {node.name!r} is {node.op}, which cannot be raised: {why}. {_EXPORT}")
        with graph.deriving([node]):
            codes = rule(_Expansion(graph, node))
        graph.replace_node(node, codes)
        expanded += 1
    return expanded


class _Expansion:
    """The parts that rules put together."""

    def __init__(self, graph: Graph, node: Node) -> None:
        self.graph = graph
        self.node = node

    def real(self, slot: int, axis: int | None = None) -> Value:
        """DequantizeLinear of (codes, scale, zero point) from a slot on."""
        codes, scale, zero = (self.node.input(slot + offset) for offset in range(3))
        if codes is None or scale is None:
            raise self.fail("an operand is missing")
        attributes = {} if axis is None or scale.shape in ((), (1,)) else {"axis": axis}
        return self.add("DequantizeLinear", [codes, scale, zero], attributes)

    def bias(self, slot: int, scales: tuple[int, int]) -> Value | None:
        """DequantizeLinear of an int32 bias, whose scale is the product of two others'."""
        codes = self.node.input(slot)
        if codes is None:
            return None
        factors = [self.node.input(item) for item in scales]
        arrays = [np.asarray(item.data) for item in factors if item is not None and item.data is not None]
        if len(arrays) < 2:
            raise self.fail("its bias has a scale that is computed at run time")
        scale = np.asarray(arrays[0] * arrays[1], np.float32)
        constant = self.graph.add_constant(
            f"{codes.name}.scale", scale.reshape(()) if scale.size == 1 else scale
        )
        return self.add("DequantizeLinear", [codes, constant], {"axis": 0} if scale.size > 1 else {})

    def add(
        self,
        op: str,
        inputs: Sequence[Value | None],
        attributes: Mapping[str, object] | None = None,
        like: Value | None = None,
    ) -> Value:
        """Adds a float node; its result has the shape of `like`, or of the first input."""
        source = like if like is not None else inputs[0]
        assert source is not None
        output = self.graph.add_value(
            f"{source.name}.{'real' if like is None else op}", np.float32, source.shape
        )
        self.graph.add_node(op, inputs, [output], attributes)
        return output

    def codes(self, value: Value, scale: int) -> Value:
        """QuantizeLinear to (scale, zero point) from a slot on; gives the float result the name that users know."""
        old = self.node.output
        name = old.name
        for suffix in ("_quantized", "_QuantizeLinear_Output"):
            name = name.removesuffix(suffix)
        if not self.graph.has_value(name):
            self.graph.rename(value, name)
        output = self.graph.add_value(f"{old.name}.codes", old.dtype, old.shape)
        parameters = [self.node.input(scale), self.node.input(scale + 1)]
        self.graph.add_node("QuantizeLinear", [value, *parameters], [output])
        return output

    def attributes(self, *left_out: str) -> dict[str, object]:
        """The node's attributes, but some."""
        return {name: item for name, item in self.node.attributes.items() if name not in left_out}

    def fail(self, why: str) -> ModelError:
        """The error for an operator that is not as its rule wants it."""
        return ModelError(f"The node {self.node.name!r} ({self.node.op}) cannot be raised: {why}. {_EXPORT}")


def _conv(parts: _Expansion) -> Value:
    bias = parts.bias(8, (1, 4))
    inputs = [parts.real(0), parts.real(3, axis=0), *([bias] if bias is not None else [])]
    return parts.codes(parts.add("Conv", inputs, parts.attributes(), parts.node.output), 6)


def _matmul(parts: _Expansion) -> Value:
    second = parts.node.input(3)
    axis = None if second is None or second.rank is None else max(second.rank - 1, 0)
    return parts.codes(parts.add("MatMul", [parts.real(0), parts.real(3, axis)], None, parts.node.output), 6)


def _gemm(parts: _Expansion) -> Value:
    node = parts.node
    bias = parts.bias(6, (1, 4))
    if node.attributes.get("alpha", 1.0) != 1.0 and bias is not None:
        raise parts.fail("its alpha is not 1, and scales the bias too")
    axis = 0 if node.attributes.get("transB", 0) else 1
    inputs = [parts.real(0), parts.real(3, axis), *([bias] if bias is not None else [])]
    result = parts.add("Gemm", inputs, parts.attributes(), node.output)
    return result if node.input(7) is None else parts.codes(result, 7)


def _binary(op: str) -> Callable[[_Expansion], Value]:
    return lambda parts: parts.codes(
        parts.add(op, [parts.real(0), parts.real(3)], None, parts.node.output), 6
    )


def _unary(op: str) -> Callable[[_Expansion], Value]:
    def expand(parts: _Expansion) -> Value:
        if parts.node.attributes.get("channels_last", 0):
            raise parts.fail("it has its channels last")
        attributes = parts.attributes("channels_last", "opset")
        return parts.codes(parts.add(op, [parts.real(0)], attributes, parts.node.output), 3)

    return expand


def _concat(parts: _Expansion) -> Value:
    inputs: list[Value | None] = [parts.real(slot) for slot in range(2, len(parts.node.inputs), 3)]
    return parts.codes(parts.add("Concat", inputs, parts.attributes(), parts.node.output), 0)


_RULES: dict[tuple[str, str], Callable[[_Expansion], Value]] = {
    ("", "QLinearConv"): _conv,
    ("", "QLinearMatMul"): _matmul,
    (_MS, "QGemm"): _gemm,
    (_MS, "QLinearAdd"): _binary("Add"),
    (_MS, "QLinearMul"): _binary("Mul"),
    (_MS, "QLinearConcat"): _concat,
    (_MS, "QLinearAveragePool"): _unary("AveragePool"),
    (_MS, "QLinearGlobalAveragePool"): _unary("GlobalAveragePool"),
    (_MS, "QLinearLeakyRelu"): _unary("LeakyRelu"),
    (_MS, "QLinearSigmoid"): _unary("Sigmoid"),
    (_MS, "QLinearSoftmax"): _unary("Softmax"),
}
