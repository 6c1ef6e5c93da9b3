"""Relu and Clip fused into what is before them, where the range of the result does not make them redundant.

onnxruntime joins `operator -> Relu -> QuantizeLinear` to the operator if the codes hold nothing that Relu would cut off: the zero
point is the lowest code. Otherwise both run in floats without a word. There a Q/DQ pair of the same encoding goes between the two: Relu
and Clip are monotonous and keep the codes' grid, on which zero lies, so that every code stays what it was.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from qcompiler import ops
from qcompiler.ir.encoding import FORMATS

if TYPE_CHECKING:
    from qcompiler.ir.graph import Graph
    from qcompiler.ir.node import Node


def split_wide_bounds(graph: Graph) -> int:
    """Writes Q/DQ in front of bounds that are not redundant; returns how many there were."""
    found = [
        (node, quantize)
        for node in graph.topological()
        if (quantize := _quantizer_behind_fused(node)) is not None and not _is_redundant(node, quantize)
    ]
    for node, quantize in found:
        _split(graph, node, quantize)
    return len(found)


def _quantizer_behind_fused(node: Node) -> Node | None:
    """The QuantizeLinear that alone reads a Relu or Clip that follows another operator directly."""
    value = node.input(0) if node.is_op("Relu", "Clip") else None
    if value is None or value.producer is None or value.producer.is_op("DequantizeLinear"):
        return None
    use = node.output.only_use
    return use.node if use is not None and use.node.is_op("QuantizeLinear") else None


def _is_redundant(node: Node, quantize: Node) -> bool:
    """Whether no code stands for a number outside of the bounds."""
    scale, zero = (np.asarray(value.data) for value in quantize.inputs[1:3] if value is not None)
    limits = FORMATS[zero.dtype.name]
    low, high = ops.info(node).bounds(node)
    least, most = ((end - int(zero)) * float(scale) for end in (limits.minimum, limits.maximum))
    return least >= low and most <= high * (1 + 1e-6)


def _split(graph: Graph, node: Node, quantize: Node) -> None:
    value = node.input(0)
    assert value is not None
    codes = graph.add_value(f"{value.name}.codes", quantize.output.dtype, value.shape)
    real = graph.add_value(f"{value.name}.dequantized", value.dtype, value.shape)
    parameters = quantize.inputs[1:3]
    graph.add_node("QuantizeLinear", [value, *parameters], [codes], origin=[node], near=value.producer)
    graph.add_node("DequantizeLinear", [codes, *parameters], [real], origin=[node], near=value.producer)
    graph.set_input(node, 0, real)
