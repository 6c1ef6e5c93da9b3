"""Pools, reductions and arg max as integer operations."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from qcompiler.errors import TargetError
from qcompiler.fixed_point import Rescale
from qcompiler.integer.encode_images import Window, image_target, read_image
from qcompiler.integer.encoder import Encoder, Tile, clamp, ends, rule
from qcompiler.integer.operations import ArgMax, Extreme, Mean, Padding, Pool, Requantization

if TYPE_CHECKING:
    from collections.abc import Sequence

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
    low, high = clamp(tile, made) if written is made else ends(x)
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
    if tile.kernel.mean == "integer":
        factor = Rescale.of_mean(x.scale / made.scale, count)
    work = Mean(outer, count, inner, factor, -x.zero_point, made.zero_point, low, high)
    encoder.emit(work, (x,), (made,))


def _axes(node: Node, rank: int, default: Sequence[int]) -> tuple[int, ...]:
    given = node.input(1)
    listed: Any = node.attributes.get("axes")
    if given is not None and given.data is not None:
        listed = np.asarray(given.data).reshape(-1).tolist()
    return tuple(sorted(int(axis) % rank for axis in (listed or default)))


@rule("ReduceMean", "ReduceMax", "ReduceMin")
def reduction(encoder: Encoder, tile: Tile) -> None:
    """Means and extremes over some axes, which are stored side by side."""
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
    if node.op == "ReduceMean":
        _mean(encoder, tile, x, made, *map(math.prod, sizes))
    else:
        encoder.emit(Extreme(node.op == "ReduceMax", *map(math.prod, sizes)), (x,), (made,))
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
