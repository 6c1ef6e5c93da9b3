"""The constants of a quantized model as floats: codes exactly, floats rounded to the grid that they are quantized to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from qcompiler.ir.encoding import FORMATS, Encoding
from qcompiler.passes._qdq_parameters import is_dequantize, is_quantize, narrowed, node_encoding

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qcompiler.ir.graph import Graph
    from qcompiler.ir.node import Node, Value
    from qcompiler.pass_manager import PassContext, PassResult

_CODES = ("_quantized", "_QuantizeLinear_Output", ".codes")
_REALS = ("_DequantizeLinear_Output", ".dequantized")


def raise_constants(graph: Graph, context: PassContext, result: PassResult) -> dict[Value, Encoding]:
    """Raises the constants; returns the new ones with the encodings that they came in."""
    raiser = _ConstantRaiser(graph, context, result)
    raiser.run()
    return raiser.found


class _ConstantRaiser:
    """One run over one graph."""

    def __init__(self, graph: Graph, context: PassContext, result: PassResult) -> None:
        self.graph = graph
        self.context = context
        self.result = result
        self.found: dict[Value, Encoding] = {}

    def run(self) -> None:
        """Codes and quantized floats that are known become floats; a Transpose of one is carried out."""
        made: dict[tuple[Value, Encoding], Value] = {}
        for node in self.graph.nodes:
            if not is_dequantize(node):
                continue
            found = self._constant_codes(node)
            if found is None or not self.context.allow(f"raise {node.name}"):
                continue
            source, codes, encoding = found
            if (source, encoding) not in made:
                made[source, encoding] = self._add_constant(node, codes, encoding)
            self._replace_constant(node, source, made[source, encoding])
            self.result.count("constants")
        for value in [item for item in self.found if item.graph is self.graph]:
            for use in list(value.uses):
                if use.node.is_op("Transpose") and not use.node.output.is_output:
                    self._transpose(value, use.node)

    def _constant_codes(self, node: Node) -> tuple[Value, NDArray[Any], Encoding] | None:
        source, encoding = node.inputs[0], node_encoding(node)
        if source is None or isinstance(encoding, str):
            return None
        if source.data is not None:
            return source, np.asarray(source.data), encoding
        first = source.producer
        if first is None or not is_quantize(first) or node_encoding(first) != encoding:
            return None
        data = first.inputs[0]
        if data is None or data.data is None:
            return None
        return data, encoding.quantize(np.asarray(data.data, np.float32)), encoding

    def _add_constant(self, node: Node, codes: NDArray[Any], encoding: Encoding) -> Value:
        dtype = node.output.dtype or np.dtype(np.float32)
        real = encoding.dequantize(codes).astype(dtype, copy=False)
        value = self.graph.add_constant(f"{node.output.name}.raised", real)
        if encoding.format is not FORMATS["int32"]:
            self.found[value] = narrowed(encoding, codes)
        return value

    def _replace_constant(self, node: Node, source: Value, value: Value) -> None:
        """Puts the constant in the node's place, under the name that the original model gave it, if that is free."""
        names = [_stripped(source.name, _CODES), _stripped(node.output.name, _REALS), node.output.name]
        quantize = node.inputs[0].producer if node.inputs[0] is not None else None
        self.graph.replace_node(node, value)
        if quantize is not None and not quantize.output.uses and not quantize.output.is_output:
            self.graph.remove(quantize)
        name = next((item for item in names if not self.graph.has_value(item)), value.name)
        if value.name.endswith(".raised") and value.producer is None:
            self.graph.rename(value, name)

    def _transpose(self, value: Value, node: Node) -> None:
        """Transposes a raised constant at compile time, so that its channel axis is not lost."""
        assert value.data is not None
        order = list(node.attributes.get("perm", range(value.data.ndim - 1, -1, -1)))
        turned = self.graph.add_constant(
            f"{value.name}_transposed", np.ascontiguousarray(value.data.transpose(order))
        )
        encoding, name = self.found[value], node.output.name
        self.found[turned] = transposed(encoding, order)
        self.graph.replace_node(node, turned)
        self.graph.rename(turned, name)
        self.result.count("transposed constants")


def transposed(encoding: Encoding, order: list[int]) -> Encoding:
    """The encoding of a tensor after a transposition that puts axis order[i] at i."""
    if encoding.axis is None or encoding.scale is None:
        return encoding
    blocks = encoding.block is not None
    scale = encoding.scale.transpose(order) if blocks else encoding.scale
    zero = encoding.zero_point
    zero = zero.transpose(order) if blocks and zero is not None else zero
    return Encoding(encoding.format, scale, zero, order.index(encoding.axis), encoding.block, encoding.narrow)


def _stripped(name: str, suffixes: tuple[str, ...]) -> str:
    for suffix in suffixes:
        name = name.removesuffix(suffix)
    return name
