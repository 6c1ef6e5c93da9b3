"""Checks a QDQ model against TensorRT's rules for Q/DQ nodes, without TensorRT: see ``rule_table.py``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import TensorProto, inliner

from qcompiler.targets.tensorrt.qdq_view import (
    Encoding,
    Mixed,
    QdqView,
    attributes,
    bodies,
    infer,
    opset_of,
)
from qcompiler.targets.tensorrt.rule_table import RULES, Rule, Severity, Violation, broken

__all__ = ["RULES", "Rule", "Severity", "Violation", "check_rules"]

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx
    from numpy.typing import NDArray


_TYPES = (TensorProto.INT8, TensorProto.FLOAT8E4M3FN, TensorProto.INT4, TensorProto.FLOAT4E2M1)
_BLOCK_TYPES = _TYPES[1:]
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)
# The scales of FP4 blocks are themselves FP8, and MXFP8's are powers of two (E8M0).
_E8M0 = 24  # TensorProto.FLOAT8E8M0, which onnx has since 1.19
_SCALE_TYPES = (*_FLOATS, TensorProto.FLOAT8E4M3FN, _E8M0)
_MIN_OPSET: dict[int, int] = {TensorProto.FLOAT8E4M3FN: 19, TensorProto.INT4: 21, TensorProto.FLOAT4E2M1: 23}
_INT4_BLOCKS = (64, 128)
_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_INTEGER_OPS = frozenset(
    {
        "ConvInteger",
        "DynamicQuantizeLinear",
        "DynamicQuantizeMatMul",
        "MatMulInteger",
        "MatMulIntegerToFloat",
        "QGemm",
    }
)


def check_rules(model: onnx.ModelProto) -> list[Violation]:
    """List the broken rules, in graph order; time is linear in the number of nodes."""
    if model.functions:
        model = inliner.inline_local_functions(model)
    opset = opset_of(model)
    views = [QdqView(model.graph, infer(model))]
    found: list[Violation] = []
    for view in views:
        for node in view.graph.node:
            found += _check_node(view, node, opset)
            views += [QdqView(body, outer=view) for body in bodies(node)]
    # A Concat read by several operators is one fault, not several.
    return list(dict.fromkeys(found))


def _check_node(view: QdqView, node: onnx.NodeProto, opset: int) -> Iterator[Violation]:
    if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
        for rules in (_check_type, _check_zero_point, _check_scale, _check_granularity, _check_blocks):
            yield from rules(view, node)
        if node.domain in ("", "ai.onnx"):
            yield from _check_opset(view, node, opset)
    elif node.op_type in _WEIGHTED:
        yield from _check_operands(view, node)
        yield from _check_weight(view, node)
    elif node.op_type in _INTEGER_OPS or node.op_type.startswith("QLinear"):
        yield broken(
            "operator", node, "TensorRT's parser does not know it; write Q/DQ around the float operator"
        )


def _type_name(dtype: Any) -> str:
    return str(TensorProto.DataType.Name(dtype)).lower()


def _check_opset(view: QdqView, node: onnx.NodeProto, opset: int) -> Iterator[Violation]:
    given = attributes(node)
    needs = {"Q/DQ": 10}
    if len(view.scale_shape(node) or ()) == 1:
        needs["a scale per axis"] = 13
    if view.types.get(node.input[1]) in _FLOATS[1:]:
        needs["a 16-bit scale"] = 19
    if given.get("block_size") or given.get("output_dtype"):
        needs["block_size or output_dtype"] = 21
    if (dtype := view.quantized_type(node)) in _MIN_OPSET:
        needs[_type_name(dtype)] = _MIN_OPSET[dtype]
    for what, least in needs.items():
        if opset < least:
            yield broken(
                "opset",
                node,
                f"{what} needs opset {least}, the model has {opset}: not valid ONNX, though RTX takes it",
            )


def _check_type(view: QdqView, node: onnx.NodeProto) -> Iterator[Violation]:
    dtype = view.quantized_type(node)
    if dtype is None:
        if node.op_type == "QuantizeLinear":
            yield broken(
                "type-stated",
                node,
                "it has neither zero point nor output_dtype, so ONNX means uint8 but TensorRT takes int8",
            )
    elif dtype == TensorProto.INT32:
        yield broken(
            "int32", node, "its input is int32, which TensorRT's parser refuses; keep the bias in float"
        )
    elif dtype == TensorProto.UINT8:
        yield broken(
            "type",
            node,
            "its type is uint8: TensorRT's parser refuses uint8 constants, and takes uint8 activations as int8, so "
            "that values above 127 saturate",
        )
    elif dtype not in _TYPES:
        yield broken("type", node, f"its type is {_type_name(dtype)}, which TensorRT's parser refuses")
    elif dtype == TensorProto.INT4 and not view.constant.get(node.input[0]):
        yield broken(
            "int4-activation", node, "it quantizes an activation to int4, which TensorRT has for weights only"
        )


def _check_zero_point(view: QdqView, node: onnx.NodeProto) -> Iterator[Violation]:
    if len(node.input) < 3 or not node.input[2]:
        return
    value = view.value(node.input[2])
    if not view.constant.get(node.input[2]):
        yield broken("zero-point-zero", node, "its zero point is computed, which TensorRT's builder refuses")
    elif value is not None and np.any(value.astype(np.float32)):
        yield broken("zero-point-zero", node, "its zero point is not zero, which TensorRT's parser refuses")


def _check_scale(view: QdqView, node: onnx.NodeProto) -> Iterator[Violation]:
    scale, dtype = view.value(node.input[1]), view.types.get(node.input[1])
    if not view.constant.get(node.input[1]):
        yield broken("scale-constant", node, "its scale is computed, so what reads it runs in float")
    elif scale is not None and not _all_positive(scale):
        yield broken(
            "scale-positive",
            node,
            "a scale is not finite or not > 0, which TensorRT's parser refuses (all but inf)",
        )
    if dtype is not None and dtype not in _SCALE_TYPES:
        yield broken(
            "scale-type",
            node,
            f"its scale is {_type_name(dtype)}, which is none of TensorRT's types of scales",
        )
    data = view.types.get(node.input[0])
    if node.op_type == "QuantizeLinear" and dtype in _FLOATS[1:] and data in _FLOATS and data != dtype:
        yield broken(
            "scale-type-matches",
            node,
            f"its scale is {_type_name(dtype)} but its data {_type_name(data)}; TensorRT-RTX inserts a Cast, the "
            "documents promise nothing",
        )


def _all_positive(scale: NDArray[Any]) -> bool:
    values = scale.astype(np.float32)
    return bool(np.all(np.isfinite(values) & (values > 0)))


def _check_granularity(view: QdqView, node: onnx.NodeProto) -> Iterator[Violation]:
    scales, data = view.scale_shape(node), view.shapes.get(node.input[0])
    if not scales or attributes(node).get("block_size"):
        return
    constant = view.constant.get(node.input[0])
    if not constant and scales == (1,):
        yield broken(
            "scale-scalar", node, "its scale has shape [1], for which a Conv behind it silently runs in float"
        )
    elif not constant:
        yield broken(
            "activation-per-tensor",
            node,
            "it has one scale per channel of an activation: what reads it runs in float",
        )
    elif data is not None and scales != (1,):
        axis = view.axis(node)
        count = data[axis] if axis is not None and axis < len(data) else None
        if len(scales) > 1 or count is None or scales[0] not in (count, None):
            yield broken(
                "channel-count",
                node,
                f"{list(scales)} scales for axis {axis} of data {list(data)}: TensorRT's parser refuses the model",
            )


def _check_blocks(view: QdqView, node: onnx.NodeProto) -> Iterator[Violation]:
    block, dtype = int(attributes(node).get("block_size", 0)), view.quantized_type(node)
    if not block:
        return
    if dtype is not None and dtype not in _BLOCK_TYPES:
        yield broken(
            "block-type",
            node,
            f"blocks of {_type_name(dtype)}: not a TensorRT format; RTX expands them to float, or misplaces their scales "
            "where the other operand is int8",
        )
    if dtype == TensorProto.INT4 and block not in _INT4_BLOCKS:
        # RTX builds 8, 16 and 32 into the same weight-only kernel, and Model Optimizer writes 32 for embeddings: legal
        # enough to pass, but the guide names only 64 and 128 for the GEMMs of TensorRT proper.
        yield broken("block-size", node, f"int4 blocks of {block}; TensorRT documents 64 and 128 only")
    axis, data, scales = view.axis(node), view.shapes.get(node.input[0]), view.scale_shape(node)
    if data is None or axis is None:
        return
    if axis < len(data) - 2:
        yield broken(
            "block-axis",
            node,
            f"its blocks lie on axis {axis} of {len(data)}; TensorRT's parser takes the last two axes only",
        )
    size, count = data[axis], scales[axis] if scales and axis < len(scales) else None
    if size is not None and (size % block or count not in (size // block, None)):
        yield broken(
            "block-divides",
            node,
            f"axis {axis} has {size} elements and {count} scales: not whole blocks of {block}; TensorRT ignores "
            "block_size, and refuses the model or takes blocks of another size",
        )


def _check_operands(view: QdqView, node: onnx.NodeProto) -> Iterator[Violation]:
    types = {t for name in node.input if (t := view.types.get(name)) in _FLOATS}
    if len(types) > 1:
        names = " and ".join(sorted(map(_type_name, types)))
        yield broken(
            "float-types-agree",
            node,
            f"its inputs are {names}, which TensorRT's parser refuses (the output of DequantizeLinear has its scale's type)",
        )
    operands = [view.encodings.get(name) for name in node.input[:2]]
    for mixed in (o for o in operands if isinstance(o, Mixed)):
        yield Violation(
            "concat-scales",
            mixed.source,
            f"Concat {mixed.source!r}: it joins tensors of different scales, so the weighted operators behind it run in "
            "float; share one scale, or quantize the result again",
        )
    quantized = [o for o in operands if isinstance(o, Encoding)]
    if len({o.type for o in quantized if o.type in _TYPES}) > 1:
        names = " and ".join(_type_name(o.type) for o in quantized)
        yield broken(
            "one-type",
            node,
            f"its operands are {names}; TensorRT's builder fails, or misplaces the scales of blocks",
        )
    blocks = [o for o in quantized if o.block and o.type == TensorProto.FLOAT8E4M3FN]
    if blocks and len(quantized) == 2:
        yield broken(
            "block-operands",
            node,
            f"both operands are quantized, one in fp8 blocks ({blocks[0].source!r}): TensorRT-RTX applies the scales of the "
            "blocks after the product, where they do not belong",
        )
    if len(quantized) == 1 and operands.count(None) and not _weight_only(quantized[0]):
        float_side = node.input[operands.index(None)]
        yield broken(
            "both-operands",
            node,
            f"{float_side!r} is not quantized but the other operand is, so it runs in float; only data movement and "
            "MaxPool may stand between Q/DQ and the operator",
        )


def _weight_only(operand: Encoding) -> bool:
    """Whether leaving the other operand in float is what the format is for."""
    return operand.constant and (operand.block > 0 or operand.type == TensorProto.INT4)


def _check_weight(view: QdqView, node: onnx.NodeProto) -> Iterator[Violation]:
    for slot, name in enumerate(node.input[:2]):
        weight = view.encodings.get(name)
        if not isinstance(weight, Encoding) or not weight.constant:
            continue
        if weight.type == TensorProto.INT4 and (
            node.op_type not in ("Gemm", "MatMul") or not weight.block or weight.blocks == 1
        ):
            yield broken(
                "int4-expanded",
                node,
                f"its int4 weight ({weight.source!r}) is not in two or more blocks of a Gemm or MatMul weight, so TensorRT "
                "expands it to float first",
            )
        if not weight.per_channel:
            continue
        expected = _channel_axis(view, node, slot)
        if node.op_type == "ConvTranspose":
            yield broken(
                "conv-transpose", node, "one scale per channel: TensorRT's kernels disagree on the axis"
            )
        elif None not in (weight.axis, expected) and weight.axis != expected:
            yield broken(
                "channel-axis",
                node,
                f"its weight ({weight.source!r}) has its scales on axis {weight.axis}, output channels are on axis "
                f"{expected}: it silently runs in float",
            )


def _channel_axis(view: QdqView, node: onnx.NodeProto, slot: int) -> int | None:
    """Give the axis of output channels of the weight in an input slot (section "per-channel" of DG)."""
    if node.op_type == "Conv":
        return 0
    if node.op_type == "Gemm":
        transposed = bool(attributes(node).get("transB" if slot else "transA", 0))
        return int(transposed != bool(slot))
    shape = view.shapes.get(node.input[slot])
    return None if shape is None else len(shape) - (1 if slot else 2)
