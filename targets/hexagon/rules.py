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
    "Conv",
    "ConvTranspose",
    "Gemm",
    "Add",
    "Sub",
    "Mul",
    "Div",
    "Pow",
    "Max",
    "Min",
    "Concat",
    "Where",
    "PRelu",
)
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
    encoded = [
        (slot, value) for slot, value in enumerate(node.inputs) if value is not None and _is_float(value)
    ]
    joined = node.is_op("Relu", "Clip") and not _is_dequantized(node.input(0))
    for slot, value in encoded:
        bound = (node.is_op("Clip", "Resize") and slot > 0) or (node.is_op("Pad") and slot == 2)
        inner = joined and slot == 0
        if not (_is_dequantized(value) or bound or inner or _is_inner(value)):
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
    codes = [_codes(node.input(slot)) for slot in slots]
    kinds = {value.dtype for value in codes if value is not None}
    behind = _quantizer(node)
    if behind is not None:
        kinds.add(behind.output.dtype)
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
    weight = node.input(1)
    if weight is None or weight.producer is None or not _is_dequantized(weight):
        return
    scale = _scale(weight)
    axis = weight.producer.attributes.get("axis", 1)
    if scale is not None and scale.size > 1 and axis != ops.info(node).channel_axis(node, 1):
        yield f"its weights have a scale for every element of axis {axis}, which is not that of its output channels: it would compute nonsense"


def _softmax(node: Node) -> Iterator[str]:
    behind = _quantizer(node)
    zero = behind.input(2) if behind is not None else None
    if zero is not None and zero.data is not None and zero.dtype is not None and zero.dtype.itemsize == 1:
        least = np.iinfo(zero.dtype).min
        if (zero.data != least).any():
            yield f"its codes of 8 bits have another zero point than {least}, with which the HTP computes garbage"


def _keeps_encoding(node: Node) -> bool:
    before, behind = node.input(0), _quantizer(node)
    if before is None or before.producer is None or behind is None or not _is_dequantized(before):
        return True
    return all(
        one is None or other is None or np.array_equal(np.asarray(one.data), np.asarray(other.data))
        for one, other in zip(before.producer.inputs[1:3], behind.inputs[1:3], strict=True)
    )


def _quantizer(node: Node) -> Node | None:
    use = node.outputs[0].only_use if node.outputs and node.outputs[0] is not None else None
    return use.node if use is not None and use.node.is_op("QuantizeLinear") else None


def _is_float(value: Value) -> bool:
    return value.dtype is not None and value.dtype.kind == "f"


def _is_dequantized(value: Value | None) -> bool:
    return value is not None and value.producer is not None and value.producer.is_op("DequantizeLinear")


def _is_inner(value: Value) -> bool:
    """Whether a value is passed on inside one group, to a Relu or Clip."""
    return (
        value.producer is not None
        and value.only_use is not None
        and value.only_use.node.is_op("Relu", "Clip")
    )


def _codes(value: Value | None) -> Value | None:
    if not _is_dequantized(value):
        return None
    assert value is not None
    assert value.producer is not None
    return value.producer.input(0)


def _scale(value: Value | None) -> NDArray[np.float32] | None:
    if not _is_dequantized(value):
        return None
    assert value is not None
    assert value.producer is not None
    scale = value.producer.input(1)
    return None if scale is None or scale.data is None else np.asarray(scale.data, np.float32)
