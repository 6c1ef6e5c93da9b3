"""Static rules of integer execution, checked on the file itself: what onnxruntime makes integer operators of.

Sources: onnxruntime's selectors of Q/DQ groups; measured on the HTP library (docs/targets/hexagon-measured.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from qcompiler import ops

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qcompiler.ir.graph import Graph
    from qcompiler.ir.node import Node, Value
    from qcompiler.ir.plan import Plan

_BIAS_TOLERANCE = 1e-5
"""Of the bias scale, which is a product in float32."""
_KEEPS_ENCODING = (
    "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Gather", "GatherElements", "Expand", "Tile", "MaxPool", "Resize",
)  # fmt: skip
_ONE_TYPE = (
    "Conv", "ConvTranspose", "Gemm", "Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Concat", "Where", "PRelu",
)  # fmt: skip
_UNTOUCHED = ("QuantizeLinear", "DequantizeLinear")


def broken_rules(graph: Graph, plan: Plan) -> list[str]:
    """What in a file would not run in integers as planned, or wrongly, one sentence each."""
    regions = plan.region_of()
    found: list[str] = []
    for node in graph.topological():
        planned = node.name in regions and regions[node.name].quantized
        if planned and not node.is_op(*_UNTOUCHED):
            found += (f"{node.name} ({node.op}): {reason}" for reason in _broken(node))
    return found


def _broken(node: Node) -> Iterator[str]:
    for slot, value in node.operands():
        if _is_float(value) and not (_dequantizer(value) or _is_bound(node, slot) or _is_inner(value)):
            yield f"its input {value.name} comes without a DequantizeLinear, so it would run in floats"
    yield from _types(node)
    if node.is_op(*_KEEPS_ENCODING) and not _keeps_encoding(node):
        yield "its result has another encoding than its input, so it would run in floats"
    if ops.takes_bias(node):
        yield from _bias(node)
    if ops.info(node).kind == "weighted":
        yield from _channels(node)
    if node.is_op("Softmax"):
        yield from _softmax(node)


def _types(node: Node) -> Iterator[str]:
    if not node.is_op(*_ONE_TYPE):
        return
    slots = (0,) if ops.info(node).kind == "weighted" else range(len(node.inputs))
    before = [_dequantizer(node.input(slot)) for slot in slots]
    codes = [dequantize.input(0) for dequantize in before if dequantize is not None]
    behind = _quantizer(node)
    kinds = {value.dtype for value in (*codes, behind.output if behind else None) if value is not None}
    if len(kinds) > 1:
        yield f"it mixes codes of {' and '.join(sorted(map(str, kinds)))}, so it would run in floats"


def _bias(node: Node) -> Iterator[str]:
    scales = [_scale(node.input(slot)) for slot in range(3)]
    if len(node.inputs) < 3 or any(scale is None for scale in scales):
        return
    x, w, b = (np.asarray(scale, np.float64) for scale in scales)
    count = max(w.size, b.size)
    if (
        b.size not in (1, count)
        or w.size not in (1, count)
        or not np.allclose(b, x * w, rtol=_BIAS_TOLERANCE, atol=0)
    ):
        yield "the scale of its bias is not that of its input times that of its weights, which the HTP takes all the same"


def _channels(node: Node) -> Iterator[str]:
    weight, scale = _dequantizer(node.input(1)), _scale(node.input(1))
    if weight is None or scale is None or scale.size == 1:
        return
    axis = weight.attributes.get("axis", 1)
    if axis != ops.info(node).channel_axis(node, 1):
        yield f"its weights have a scale for every element of axis {axis}, which is not that of its output channels: it would compute nonsense"


def _softmax(node: Node) -> Iterator[str]:
    behind = _quantizer(node)
    zero = behind.input(2) if behind is not None else None
    if zero is not None and zero.data is not None and zero.dtype is not None and zero.dtype.itemsize == 1:
        least = np.iinfo(zero.dtype).min
        if (zero.data != least).any():
            yield f"its codes of 8 bits have another zero point than {least}, with which the HTP computes garbage"


def _keeps_encoding(node: Node) -> bool:
    before, behind = _dequantizer(node.input(0)), _quantizer(node)
    if before is None or behind is None:
        return True
    pairs = zip(before.inputs[1:3], behind.inputs[1:3], strict=True)
    return all(
        one is None or other is None or np.array_equal(np.asarray(one.data), np.asarray(other.data))
        for one, other in pairs
    )


def _quantizer(node: Node) -> Node | None:
    """The QuantizeLinear that alone reads a node's first result."""
    use = node.outputs[0].only_use if node.outputs and node.outputs[0] is not None else None
    return use.node if use is not None and use.node.is_op("QuantizeLinear") else None


def _dequantizer(value: Value | None) -> Node | None:
    """The DequantizeLinear that a value comes from."""
    node = value.producer if value is not None else None
    return node if node is not None and node.is_op("DequantizeLinear") else None


def _scale(value: Value | None) -> NDArray[np.float32] | None:
    dequantize = _dequantizer(value)
    scale = dequantize.input(1) if dequantize is not None else None
    return None if scale is None or scale.data is None else np.asarray(scale.data, np.float32)


def _is_float(value: Value) -> bool:
    return value.dtype is not None and value.dtype.kind == "f"


def _is_bound(node: Node, slot: int) -> bool:
    """Whether an input says how something is computed, and is no operand."""
    return (node.is_op("Clip", "Resize") and slot > 0) or (node.is_op("Pad") and slot == 2)


def _is_inner(value: Value) -> bool:
    """Whether a value is passed on inside one group, to a Relu or Clip."""
    use = value.only_use if value.producer is not None else None
    return use is not None and use.node.is_op("Relu", "Clip")
