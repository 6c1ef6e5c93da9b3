"""Convolutions and matrix products as integer operations."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from qcompiler.errors import TargetError
from qcompiler.fixed_point import Rescale
from qcompiler.integer.encode_images import Window, image_target, read_image
from qcompiler.integer.encoder import INT32, Encoder, Tile, clamp, rule
from qcompiler.integer.operations import (
    Convolution,
    DepthwiseConvolution,
    FullyConnected,
    MatrixProduct,
)
from qcompiler.ir.encoding import Encoding

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qcompiler.integer.program import Tensor
    from qcompiler.ir.node import Node


@rule("Conv")
def convolution(encoder: Encoder, tile: Tile) -> None:
    """Conv in one or two dimensions: depthwise where every input channel has filters of its own."""
    node = tile.anchor
    weight = node.input(1)
    assert weight is not None
    taps = encoder.shape(weight)[2:]
    x, made = read_image(encoder, tile), image_target(encoder, tile)
    window = Window.of(node, taps, x.shape, made.shape)
    groups = int(node.attributes.get("group", 1))
    depthwise = groups > 1 and encoder.shape(weight)[1] == 1
    filters = encoder.constant(
        node, 1, (1, *range(2, 2 + len(taps)), 0) if depthwise else (0, *range(2, 2 + len(taps)), 1)
    )
    filters = encoder.viewed(filters, (filters.shape[0], *((1,) * (2 - len(taps))), *filters.shape[1:]))
    finish = _Finish.of(encoder, tile, x, filters, made)
    common = {"strides": window.strides, "dilations": window.dilations, "pads": window.pads, **finish.fields}
    if depthwise:
        work: Any = DepthwiseConvolution(multiplier=filters.shape[3] // x.shape[3], **common)
    else:
        work = Convolution(groups=groups, **common)
    encoder.emit(work, (x, filters, finish.bias), (made,))
    encoder.settle(tile.result, made)


@rule("ConvTranspose")
def transposed_convolution(encoder: Encoder, tile: Tile) -> None:
    """ConvTranspose: a convolution of the input spread out with zeros, by the filter turned around."""
    node = tile.anchor
    weight = node.input(1)
    assert weight is not None
    taps = encoder.shape(weight)[2:]
    x, made = read_image(encoder, tile), image_target(encoder, tile)
    window, groups = Window.of(node, taps), int(node.attributes.get("group", 1))
    codes = encoder.constant(node, 1, tuple(range(2 + len(taps))))
    assert codes.data is not None
    per_group = codes.data.reshape(groups, -1, codes.shape[1], *((1,) * (2 - len(taps))), *taps)
    turned = per_group.transpose(0, 2, 3, 4, 1)[:, :, ::-1, ::-1]
    data = turned.reshape(-1, *turned.shape[2:])
    encoding = codes.encoding
    if encoding is not None and encoding.axis is not None:  # channel c of every group shares a scale
        assert encoding.scale is not None
        assert encoding.zero_point is not None
        encoding = Encoding(
            encoding.format,
            np.tile(encoding.scale, groups),
            np.tile(encoding.zero_point, groups),
            0,
            narrow=encoding.narrow,
        )
    filters = encoder.tensor(codes.name, data, encoding)
    reach = [(size - 1) * step for size, step in zip(filters.shape[1:3], window.dilations, strict=True)]
    top, left = reach[0] - window.pads[0], reach[1] - window.pads[1]
    if min(top, left) < 0:
        raise TargetError(
            f"{node.name}: a transposed convolution that cuts off more than its filter reaches has no integer form."
        )
    spread = [size * step for size, step in zip(x.shape[1:3], window.strides, strict=True)]
    bottom, right = (
        max(0, made.shape[1 + axis] + reach[axis] - spread[axis] - before)
        for axis, before in enumerate((top, left))
    )
    finish = _Finish.of(encoder, tile, x, filters, made)
    work = Convolution(
        strides=(1, 1),
        dilations=window.dilations,
        pads=(top, left, bottom, right),
        groups=groups,
        upscale=window.strides,
        **finish.fields,
    )
    encoder.emit(work, (x, filters, finish.bias), (made,))
    encoder.settle(tile.result, made)


@rule("Gemm", "MatMul")
def matrix_product(encoder: Encoder, tile: Tile) -> None:
    """Gemm and MatMul by a constant matrix are fully connected layers; other products are of two tensors."""
    node = tile.anchor
    weight, result = node.input(1), tile.result
    assert weight is not None
    own = tuple(range(len(encoder.shape(result))))
    if weight.is_constant and len(encoder.shape(weight)) == 2:
        x = encoder.read(node, 0, own)
        transposed = node.op == "Gemm" and bool(node.attributes.get("transB", 0))
        matrix = encoder.constant(node, 1, (0, 1) if transposed else (1, 0))
        made = encoder.target(result, own)
        finish = _Finish.of(encoder, tile, x, matrix, made)
        encoder.emit(FullyConnected(**finish.fields), (x, matrix, finish.bias), (made,))
        encoder.settle(result, made)
        return
    _product_of_tensors(encoder, tile)


def _product_of_tensors(encoder: Encoder, tile: Tile) -> None:
    """MatMul of two computed tensors (or of stacks of matrices); the second one is read transposed."""
    node = tile.anchor
    made = encoder.target(tile.result, tuple(range(len(encoder.shape(tile.result)))))
    values = node.input(0), node.input(1)
    assert values[0] is not None
    assert values[1] is not None
    ranks = [len(encoder.shape(value)) for value in values if value is not None]
    if min(ranks) < 2 or encoder.shape(values[0])[:-2] != encoder.shape(values[1])[:-2]:
        raise TargetError(
            f"{node.name}: the product of {encoder.shape(values[0])} and {encoder.shape(values[1])} broadcasts, which has no integer form; "
            "expand the smaller operand."
        )
    a = encoder.read(node, 0, tuple(range(ranks[0])))
    b = encoder.read(node, 1, (*range(ranks[1] - 2), ranks[1] - 1, ranks[1] - 2))
    low, high = clamp(tile, made)
    wide = a.bits > 8
    factor = Rescale.of(tile.ratio(a.scale, b.scale, over=made.scale), tile.rounding, wide)
    work = MatrixProduct(factor, -a.zero_point, -b.zero_point, made.zero_point, low, high)
    encoder.emit(work, (a, b), (made,))
    encoder.settle(tile.result, made)


# -- what they share ----------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Finish:
    """How accumulators become codes: bias, factors, offsets, clamps."""

    bias: Tensor
    fields: dict[str, Any]

    @classmethod
    def of(cls, encoder: Encoder, tile: Tile, x: Tensor, weight: Tensor, made: Tensor) -> _Finish:
        outputs = made.shape[-1]
        if x.is_float:
            low, high = clamp(_without_bias(tile), made)
            one = Rescale.of(np.ones(outputs))
            return cls(
                _float_bias(encoder, tile, outputs),
                {"rescale": one, "input_offset": 0, "output_offset": 0, "low": low, "high": high},
            )
        assert weight.encoding is not None
        assert weight.encoding.scale is not None
        scales = weight.encoding.scale.astype(np.float64).reshape(-1)
        zero = weight.encoding.zero_point
        if zero is not None and zero.any():
            raise TargetError(f"{tile.anchor.name}: weights with a zero point have no integer form here.")
        if len(scales) == 1 and tile.anchor.op.startswith("Conv"):
            scales = np.repeat(scales, outputs)
        wide = x.bits > 8
        low, high = clamp(_without_bias(tile), made)
        fields = {
            "rescale": Rescale.of(x.scale * scales / made.scale, tile.rounding, wide),
            "input_offset": -x.zero_point,
            "output_offset": made.zero_point,
            "low": low,
            "high": high,
        }
        return cls(_bias(encoder, tile, x, scales, outputs, wide), fields)


def _bias_use(tile: Tile) -> tuple[Node, int]:
    """The node and the slot at which a region reads its bias: behind a MatMul it is added."""
    behind = tile.nodes[1] if len(tile.nodes) > 1 else None
    if tile.anchor.op != "MatMul" or behind is None or behind.op != "Add":
        return tile.anchor, 2
    return behind, next(slot for slot in (0, 1) if behind.input(slot) is not tile.anchor.output)


def _without_bias(tile: Tile) -> Tile:
    """The region without the addition of its bias: its first node, and the activation behind it."""
    node, _ = _bias_use(tile)
    return dataclasses.replace(
        tile, nodes=tuple(item for item in tile.nodes if item is tile.anchor or item is not node)
    )


def _float_bias(encoder: Encoder, tile: Tile, outputs: int) -> Tensor:
    """The bias as it is; zeros where the node has none."""
    node, slot = _bias_use(tile)
    given = node.input(slot)
    if given is None:
        return encoder.tensor(f"{node.name}.bias", np.zeros(outputs, np.float32), None)
    assert given.data is not None
    data = np.broadcast_to(np.asarray(given.data, np.float32).reshape(-1), (outputs,))
    return encoder.tensor(given.name, data, None)


def _bias(encoder: Encoder, tile: Tile, x: Tensor, scales: NDArray[Any], outputs: int, wide: bool) -> Tensor:
    """The bias in units of the accumulators, int32 (int64 with wide ones); zeros where the node has none."""
    node, slot = _bias_use(tile)
    dtype = np.dtype(np.int64 if wide else np.int32)
    given = node.input(slot)
    if given is None:
        codes: NDArray[Any] = np.zeros(outputs, dtype)
    else:
        encoding = encoder.read_encoding(node, slot)
        if encoding is None or encoding.format is not INT32:
            raise TargetError(
                f"The bias {given.name!r} of {node.name} has to be int32 in the plan; it is {encoding}."
            )
        codes = np.broadcast_to(encoding.quantize(np.asarray(given.data)).reshape(-1), (outputs,)).astype(
            dtype
        )
    scale = np.asarray(x.scale * scales, np.float32)
    single = scale.reshape(()) if scale.size == 1 else scale
    encoding = Encoding(INT32, single, np.zeros(single.shape, np.int32), None if scale.size == 1 else 0)
    name = given.name if given is not None else f"{node.name}.bias"
    return encoder.tensor(name, codes, encoding)
