"""Reads what QuantizeLinear and DequantizeLinear say: an `Encoding`, or the reason why it cannot be one."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import helper

from qcompiler.ir.encoding import FORMATS, Encoding, Format

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qcompiler.ir.node import Node, Value

_DOMAINS = ("", "com.microsoft")  # onnxruntime writes its own domain for 16-bit and 4-bit types
_FORMAT_OF = {
    entry.dtype: entry for entry in FORMATS.values() if entry.kind != "table" and entry.fills_carrier
}


def is_quantize(node: Node | None) -> bool:
    """Whether this is QuantizeLinear, of the standard or of onnxruntime's domain."""
    return node is not None and node.op == "QuantizeLinear" and node.domain in _DOMAINS


def is_dequantize(node: Node | None) -> bool:
    """Whether this is DequantizeLinear, of the standard or of onnxruntime's domain."""
    return node is not None and node.op == "DequantizeLinear" and node.domain in _DOMAINS


def node_encoding(node: Node) -> Encoding | str:
    """The encoding of a QuantizeLinear or DequantizeLinear, or why it has none that is known at compile time."""
    data, scale, zero = node.input(0), node.input(1), node.input(2)
    if data is None or scale is None:
        return "an input is missing"
    if scale.data is None or (zero is not None and zero.data is None):
        return "its scale or zero point is computed at run time"
    numeric = _format(node, data, zero)
    if isinstance(numeric, str):
        return numeric
    return make_encoding(
        numeric,
        scale.data,
        None if zero is None else zero.data,
        data,
        int(node.attributes.get("axis", 1)),
        int(node.attributes.get("block_size", 0)),
    )


def _format(node: Node, data: Value, zero: Value | None) -> Format | str:
    """The format of the codes. QuantizeLinear-21: the zero point's type, else output_dtype, else uint8.

    Shape inference knows nothing of onnxruntime's domain, so the type of the codes themselves may not be known.
    """
    if zero is not None:
        dtype = zero.dtype
    elif is_dequantize(node):
        source = data.producer
        dtype = data.dtype
        if dtype is None and source is not None and is_quantize(source):
            return _format(source, data, source.input(2))
    else:
        stated = int(node.attributes.get("output_dtype", 0))
        dtype = helper.tensor_dtype_to_np_dtype(stated) if stated else np.dtype(np.uint8)
    if dtype is None:
        return "the type of its codes is not known"
    return _FORMAT_OF.get(dtype) or f"its codes are {dtype}, which is no format known here"


def make_encoding(
    numeric: Format,
    scale: NDArray[Any],
    zero: NDArray[Any] | None,
    data: Value,
    axis: int = 1,
    block: int = 0,
) -> Encoding | str:
    """An encoding from the parameters of ONNX nodes, or why they make none.

    A scale with one element is one per tensor in whatever shape it comes (onnxruntime writes [1] for biases), unless the
    axis has one element too.
    """
    if numeric.is_plain_float:
        return f"its codes are {numeric.name}"
    scale = np.asarray(scale, np.float32)
    rank = len(data.shape) if data.shape is not None else None
    if rank is not None and axis < 0:
        axis += rank
    one_channel = (
        data.shape is not None and scale.ndim == 1 and axis < len(data.shape) and data.shape[axis] == 1
    )
    place: tuple[int | None, int | None] = (axis, block or None)
    if scale.size == 1 and not block and not one_channel:
        scale, place = scale.reshape(()), (None, None)
    elif axis < 0:
        return "its axis counts from the end of a tensor of unknown rank"
    try:
        zeros = _zeros(zero, scale) if numeric.is_integer else None
        return Encoding(numeric, scale, zeros, *place)
    except ValueError as error:
        return str(error)


def _zeros(zero: NDArray[Any] | None, scale: NDArray[Any]) -> NDArray[np.int32]:
    if zero is None:
        return np.zeros(scale.shape, np.int32)
    points = np.asarray(zero).astype(np.int32)
    return np.full(scale.shape, points.reshape(-1)[0]) if points.size == 1 else points.reshape(scale.shape)


def starts_at_zero(encoding: Encoding) -> bool:
    """Whether the lowest code stands for 0: then whatever is negative saturates to 0, which is what a Relu does."""
    return encoding.zero_point is not None and bool((encoding.zero_point == encoding.least_code).all())


def narrowed(encoding: Encoding, codes: NDArray[Any]) -> Encoding:
    """The encoding, narrow where it is symmetric and these codes do without the lowest one."""
    numeric = encoding.format
    symmetric = encoding.zero_point is not None and bool((encoding.zero_point == numeric.middle).all())
    if not symmetric:
        return encoding
    lowest = np.asarray(numeric.minimum).astype(codes.dtype)
    return encoding if bool((codes == lowest).any()) else dataclasses.replace(encoding, narrow=True)
