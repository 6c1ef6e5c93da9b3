"""Pools, means, resizing and arg max as integer operations."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from qcompiler.errors import TargetError
from qcompiler.fixed_point import Rescale
from qcompiler.integer.encode_images import Window, image_target, read_image
from qcompiler.integer.encoder import Encoder, Tile, clamp, ends, rule
from qcompiler.integer.operations import ArgMax, Mean, Padding, Pool, Requantization, Resize

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from qcompiler.integer.program import Tensor
    from qcompiler.ir.node import Node
    from qcompiler.layout import Order


@rule("MaxPool", "AveragePool", "GlobalMaxPool", "GlobalAveragePool")
def pool(encoder: Encoder, tile: Tile) -> None:
    """Pools: in one encoding, or a mean over the whole image with an encoding of its own."""
    node = tile.anchor
    x, made = read_image(encoder, tile), image_target(encoder, tile)
    whole = node.op.startswith("Global")
    average = node.op.endswith("AveragePool")
    spatial = x.shape[1:3]
    taps = spatial if whole else tuple(int(size) for size in node.attributes["kernel_shape"])
    taps = (1, *taps) if len(taps) == 1 else taps
    if (
        average
        and tuple(taps) == tuple(spatial)
        and not any(node.attributes.get("pads", ()))
        and x.encoding != made.encoding
    ):
        _mean(encoder, tile, x, made, x.shape[0], math.prod(spatial), x.shape[3])
        encoder.settle(tile.result, made)
        return
    window = _window(node, x, made, taps, whole=whole)
    if average and node.attributes.get("count_include_pad", 0) and any(window.pads):
        x, window = _padded(encoder, node, x, window)
    written = (
        made
        if x.encoding == made.encoding
        else dataclasses.replace(
            made, name=encoder.unique(f"{made.name}.pooled"), encoding=x.encoding, value=""
        )
    )
    assert x.encoding is not None
    low, high = clamp(tile, made) if written is made else ends(x.encoding)
    work = Pool(average, (taps[0], taps[1]), window.strides, window.pads, low, high)
    encoder.emit(work, (x,), (written,))
    if written is not made:
        low, high = clamp(tile, made)
        factor = Rescale.of(x.scale / made.scale, tile.rounding)
        encoder.emit(Requantization(factor, -x.zero_point, made.zero_point, low, high), (written,), (made,))
    encoder.settle(tile.result, made)


def _window(node: Node, x: Tensor, made: Tensor, taps: Sequence[int], *, whole: bool) -> Window:
    if whole:
        return Window((1, 1), (1, 1), (0, 0, 0, 0))
    given = tuple(int(size) for size in node.attributes["kernel_shape"])
    window = Window.of(node, given, x.shape, made.shape)
    if window.dilations != (1, 1):
        raise TargetError(f"{node.name}: pools with dilations have no integer form.")
    return window


def _padded(encoder: Encoder, node: Node, x: Tensor, window: Window) -> tuple[Tensor, Window]:
    """The image with its padding written out, where padding counts in means; what windows reach beyond that does not."""
    asked = Window.of(node, tuple(int(size) for size in node.attributes["kernel_shape"])).pads
    top, left, bottom, right = (min(pair) for pair in zip(asked, window.pads, strict=True))
    before, after = (0, top, left, 0), (0, bottom, right, 0)
    shape = tuple(size + ahead + behind for size, ahead, behind in zip(x.shape, before, after, strict=True))
    made = dataclasses.replace(x, name=encoder.unique(f"{x.name}.padded"), shape=shape, value="", order=())
    encoder.emit(Padding(before, after, x.zero_point), (x,), (made,))
    beyond = (0, 0, window.pads[2] - bottom, window.pads[3] - right)
    return made, dataclasses.replace(window, pads=beyond)


def _mean(encoder: Encoder, tile: Tile, x: Tensor, made: Tensor, outer: int, count: int, inner: int) -> None:
    low, high = clamp(tile, made)
    factor = Rescale.of(x.scale / (count * made.scale), tile.rounding)
    work = Mean(outer, count, inner, factor, -x.zero_point, made.zero_point, low, high)
    encoder.emit(work, (x,), (made,))


def _axes(node: Node, rank: int, default: Sequence[int]) -> tuple[int, ...]:
    given = node.input(1)
    listed: Any = node.attributes.get("axes")
    if given is not None and given.data is not None:
        listed = np.asarray(given.data).reshape(-1).tolist()
    return tuple(sorted(int(axis) % rank for axis in (listed or default)))


@rule("ReduceMean")
def reduce_mean(encoder: Encoder, tile: Tile) -> None:
    """Means over some axes, which are stored side by side."""
    node = tile.anchor
    value = node.input(0)
    assert value is not None
    rank = len(encoder.shape(value))
    axes = _axes(node, rank, range(rank))
    order = _side_by_side(encoder.order(value), axes)
    x = encoder.read(node, 0, order)
    first = order.index(next(axis for axis in order if axis in axes))
    sizes = x.shape[:first], x.shape[first : first + len(axes)], x.shape[first + len(axes) :]
    made = encoder.target(tile.result, _without(order, axes, bool(node.attributes.get("keepdims", 1))))
    _mean(encoder, tile, x, made, *map(math.prod, sizes))
    encoder.settle(tile.result, made)


def _side_by_side(order: Order, axes: tuple[int, ...]) -> Order:
    """The order, changed only if need be so that some axes stand together."""
    places = sorted(order.index(axis) for axis in axes)
    if places == list(range(places[0], places[0] + len(places))):
        return order
    kept = [axis for axis in order if axis not in axes]
    return (*kept[: places[0]], *axes, *kept[places[0] :])


def _without(order: Order, axes: tuple[int, ...], keep: bool) -> Order:
    """The storage order of what is left when some axes are reduced, to size 1 or to nothing."""
    if keep:
        return order
    left = [axis for axis in order if axis not in axes]
    ranks = {axis: rank for rank, axis in enumerate(sorted(left))}
    return tuple(ranks[axis] for axis in left)


@rule("ArgMax")
def arg_max(encoder: Encoder, tile: Tile) -> None:
    """The index of the largest code along an axis."""
    node = tile.anchor
    value = node.input(0)
    assert value is not None
    order = encoder.order(value)
    axis = int(node.attributes.get("axis", 0)) % len(order)
    x = encoder.read(node, 0, order)
    place = order.index(axis)
    made = encoder.target(tile.result, _without(order, (axis,), bool(node.attributes.get("keepdims", 1))))
    last = bool(node.attributes.get("select_last_index", 0))
    work = ArgMax(math.prod(x.shape[:place]), x.shape[place], math.prod(x.shape[place + 1 :]), last)
    encoder.emit(work, (x,), (made,))
    encoder.settle(tile.result, made)


@rule("Resize")
def resize(encoder: Encoder, tile: Tile) -> None:
    """Resizing of rows and columns, nearest or linear, with the positions computed ahead of time (ONNX Resize-19)."""
    node = tile.anchor
    x, made = read_image(encoder, tile), image_target(encoder, tile)
    mode = node.text("mode", "nearest")
    refused = [name for name in ("antialias", "exclude_outside") if node.attributes.get(name, 0)]
    if mode not in ("nearest", "linear") or refused or x.shape[3] != made.shape[3]:
        raise TargetError(
            f"{node.name}: Resize with {refused[0] if refused else f'mode {mode}'} has no integer form; nearest and linear have."
        )
    scales = _scales(node, x, made)
    rows, columns = (_positions(node, x.shape[axis], made.shape[axis], scales[axis - 1]) for axis in (1, 2))
    encoder.emit(Resize(rows, columns), (x,), (made,))
    encoder.settle(tile.result, made)


def _scales(node: Node, x: Tensor, made: Tensor) -> tuple[float, float]:
    """Factors of rows and columns: those given, or what follows from the sizes."""
    given = node.input(2)
    sizes = [made.shape[axis] / x.shape[axis] for axis in (1, 2)]
    if given is None or given.data is None or given.data.size < 2:
        return sizes[0], sizes[1]
    factors = np.asarray(given.data, np.float64).reshape(-1)[-2:]
    if "axes" in node.attributes or given.data.size == 3:
        return sizes[0], sizes[1]
    return float(factors[0]), float(factors[1])


def _positions(
    node: Node, size: int, made: int, scale: float
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """For each output position the inputs below and above, and the weight of the latter in 1/1024.

    In float32, as onnxruntime computes positions: others round to another input where a position is nearly half between two.
    """
    index, factor = np.arange(made, dtype=np.float32), np.float32(scale)
    how = node.text("coordinate_transformation_mode", "half_pixel")
    half = (index + np.float32(0.5)) / factor - np.float32(0.5)
    if how == "half_pixel":
        place = half
    elif how == "asymmetric":
        place = index / factor
    elif how == "align_corners":
        place = index * np.float32(size - 1) / np.float32(made - 1) if made > 1 else np.zeros(1, np.float32)
    elif how == "pytorch_half_pixel":
        place = half if made > 1 else np.zeros(1, np.float32)
    elif how == "half_pixel_symmetric":
        moved = np.float32(size / 2) * (1 - np.float32(made) / (factor * np.float32(size)))
        place = (float(moved) + (index + 0.5) / float(factor) - 0.5).astype(np.float32)
    else:
        raise TargetError(
            f"{node.name}: Resize with coordinate_transformation_mode {how} has no integer form."
        )
    if node.text("mode", "nearest") == "nearest":
        rounded = {
            "round_prefer_floor": np.ceil(place - 0.5),
            "round_prefer_ceil": np.floor(place + 0.5),
            "floor": np.floor(place),
            "ceil": np.ceil(place),
        }[node.text("nearest_mode", "round_prefer_floor")]
        near = np.clip(rounded, 0, size - 1).astype(np.int32)
        return near, near, np.zeros(made, np.int32)
    place = np.clip(place, 0, size - 1)
    lower = np.floor(place).astype(np.int32)
    weight = np.rint((place - lower) * 1024).astype(np.int32)
    return lower, np.minimum(lower + 1, size - 1).astype(np.int32), weight
