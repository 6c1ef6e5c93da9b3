"""Data movement as integer operations: views where bytes stay, strided copies where they move."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from qcompiler.errors import TargetError
from qcompiler.integer.encoder import Encoder, Tile, contiguous, numbers, rule
from qcompiler.integer.operations import Concatenation, Gather, Padding

if TYPE_CHECKING:
    from qcompiler.integer.program import Tensor
    from qcompiler.ir.node import Value

_Axis = tuple[tuple[int, int], ...]
"""One axis of a tensor: (size, stride in elements) of its parts, outermost first. Axes that were merged have several."""


class _Walk:
    """A way through the elements of a stored tensor: axes with strides, and where to begin."""

    def __init__(self, axes: Iterable[_Axis], start: int = 0) -> None:
        self.axes = list(axes)
        self.start = start

    @classmethod
    def through(cls, tensor: Tensor) -> _Walk:
        """The tensor's elements in the order of its value's own axes."""
        parts = dict(zip(tensor.order, zip(tensor.shape, contiguous(tensor.shape), strict=True), strict=True))
        return cls((parts[axis],) for axis in range(len(tensor.order)))

    def sizes(self) -> tuple[int, ...]:
        return tuple(math.prod(size for size, _ in axis) for axis in self.axes)

    def reshaped(self, shape: tuple[int, ...]) -> _Walk | None:
        """The same elements in the same order under another shape; None where a part would have to be cut unevenly."""
        parts = [part for axis in self.axes for part in axis if part[0] != 1]
        made: list[_Axis] = []
        for wanted in shape:
            axis: list[tuple[int, int]] = []
            while wanted > 1:
                if not parts:
                    return None
                size, stride = parts.pop(0)
                if wanted % size == 0:
                    axis.append((size, stride))
                    wanted //= size
                elif size % wanted == 0:
                    axis.append((wanted, stride * (size // wanted)))
                    parts.insert(0, (size // wanted, stride))
                    wanted = 1
                else:
                    return None
            made.append(tuple(axis) or ((1, 0),))
        return None if parts else _Walk(made, self.start)


def _move(encoder: Encoder, tile: Tile, source: Tensor, walk: _Walk, value: Value) -> None:
    """Writes a value as a walk through a tensor, in the order in which the value is stored."""
    made = encoder.result(value)
    parts = [part for axis in made.order for part in walk.axes[axis]]
    encoder.rearrange(
        source, made, walk.start, tuple(size for size, _ in parts), tuple(step for _, step in parts)
    )


@rule("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout")
def reshape(encoder: Encoder, tile: Tile) -> None:
    """Another shape for the same elements in the order of the value's own axes."""
    source = encoder.read(tile.anchor, 0)
    shape = encoder.shape(tile.result)
    walk = _Walk.through(source).reshaped(shape)
    if walk is None:
        source = encoder.read(tile.anchor, 0, tuple(range(len(source.order))))
        walk = _Walk((part,) for part in zip(shape, contiguous(shape), strict=True))
    _move(encoder, tile, source, walk, tile.result)


@rule("Transpose")
def transpose(encoder: Encoder, tile: Tile) -> None:
    """Axes in another order: nothing at all where both values are stored accordingly."""
    source = encoder.read(tile.anchor, 0)
    walk = _Walk.through(source)
    order: Any = tile.anchor.attributes.get("perm") or tuple(reversed(range(len(walk.axes))))
    _move(encoder, tile, source, _Walk(walk.axes[axis] for axis in order), tile.result)


@rule("Slice")
def cut(encoder: Encoder, tile: Tile) -> None:
    """Slice with constant bounds; steps may be negative."""
    node = tile.anchor
    source = encoder.read(node, 0)
    walk = _Walk.through(source)
    starts, ends = numbers(node, 1) or [], numbers(node, 2) or []
    axes = numbers(node, 3) or list(range(len(starts)))
    steps = numbers(node, 4) or [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        ((size, stride),) = walk.axes[axis]
        chosen = range(size)[slice(start, None if step < 0 and end < -size else end, step)]
        walk.start += chosen.start * stride if len(chosen) else 0
        walk.axes[axis] = ((len(chosen), stride * step),)
    _move(encoder, tile, source, walk, tile.result)


@rule("Split")
def split(encoder: Encoder, tile: Tile) -> None:
    """Split: one copy for every part."""
    node = tile.anchor
    source = encoder.read(node, 0)
    axis = int(node.attributes.get("axis", 0)) % len(source.order)
    start = 0
    for value in node.outputs:
        if value is None:
            raise TargetError(f"{node.name}: Split with parts left out has no integer form.")
        walk = _Walk.through(source)
        ((_, stride),) = walk.axes[axis]
        size = encoder.shape(value)[axis]
        walk.axes[axis], walk.start = ((size, stride),), start * stride
        start += size
        _move(encoder, tile, source, walk, value)


@rule("Expand")
def expand(encoder: Encoder, tile: Tile) -> None:
    """Expand: axes of size 1 are repeated."""
    source = encoder.read(tile.anchor, 0)
    walk, shape = _Walk.through(source), encoder.shape(tile.result)
    axes: list[_Axis] = [((1, 0),)] * (len(shape) - len(walk.axes)) + walk.axes
    wide = [
        axis if math.prod(size for size, _ in axis) == wanted else ((wanted, 0),)
        for axis, wanted in zip(axes, shape, strict=True)
    ]
    _move(encoder, tile, source, _Walk(wide), tile.result)


@rule("Tile")
def tile_up(encoder: Encoder, tile: Tile) -> None:
    """Tile: every axis is repeated as a whole."""
    source = encoder.read(tile.anchor, 0)
    walk = _Walk.through(source)
    repeats = numbers(tile.anchor, 1) or []
    axes = [
        ((count, 0), *axis) if count > 1 else axis for count, axis in zip(repeats, walk.axes, strict=True)
    ]
    _move(encoder, tile, source, _Walk(axes), tile.result)


@rule("DepthToSpace", "SpaceToDepth")
def blocks(encoder: Encoder, tile: Tile) -> None:
    """Blocks of pixels to channels and back."""
    node = tile.anchor
    source = encoder.read(node, 0)
    block, shape = int(node.attributes["blocksize"]), encoder.shape(tile.result)
    batch, depth, rows, columns = _Walk.through(source).axes
    made: tuple[_Axis, ...]
    if node.op == "SpaceToDepth":
        (row, inner_row), (column, inner_column) = (_halves(axis, block) for axis in (rows, columns))
        made = batch, (inner_row, inner_column, *depth), (row,), (column,)
    else:
        ((size, stride),) = depth
        deep = shape[1]
        if node.text("mode", "DCR") == "DCR":
            inner = [(block, stride * deep * block), (block, stride * deep), (deep, stride)]
            made = batch, (inner[2],), (*rows, inner[0]), (*columns, inner[1])
        else:
            made = (
                batch,
                ((deep, stride * block * block),),
                (*rows, (block, stride * block)),
                (*columns, (block, stride)),
            )
        assert size == deep * block * block
    _move(encoder, tile, source, _Walk(made), tile.result)


def _halves(axis: _Axis, block: int) -> tuple[tuple[int, int], tuple[int, int]]:
    ((size, stride),) = axis
    return (size // block, stride * block), (block, stride)


@rule("Concat")
def concatenate(encoder: Encoder, tile: Tile) -> None:
    """Concat, of one encoding."""
    node = tile.anchor
    made = encoder.result(tile.result)
    axis = int(node.attributes["axis"]) % len(made.order)
    parts = tuple(encoder.read(node, slot, made.order) for slot in range(len(node.inputs)))
    encoder.emit(Concatenation(made.order.index(axis)), parts, (made,))


@rule("Pad")
def pad(encoder: Encoder, tile: Tile) -> None:
    """Pad: by a constant, or (edge, reflect, wrap) by rows and columns that are there already."""
    node = tile.anchor
    made = encoder.result(tile.result)
    x = encoder.read(node, 0, made.order)
    rank = len(made.order)
    pads, axes = numbers(node, 1) or [], numbers(node, 3) or list(range(rank))
    amounts = {axis % rank: (pads[i], pads[i + len(axes)]) for i, axis in enumerate(axes)}
    around = [amounts.get(axis, (0, 0)) for axis in made.order]
    if any(amount < 0 for pair in around for amount in pair):
        raise TargetError(f"{node.name}: Pad by a negative amount has no integer form; use Slice.")
    mode = node.text("mode", "constant")
    if mode == "constant":
        encoder.check_dimensions(rank)
        number = node.input(2)
        real = 0.0 if number is None or number.data is None else float(np.asarray(number.data).reshape(-1)[0])
        code = real if x.encoding is None else int(x.encoding.quantize(np.array(real, np.float32)))
        before, after = tuple(pair[0] for pair in around), tuple(pair[1] for pair in around)
        encoder.emit(Padding(before, after, code), (x,), (made,))
        return
    moving = [place for place, pair in enumerate(around) if any(pair)]
    for place in moving:
        indices = np.pad(np.arange(x.shape[place], dtype=np.int32), around[place], mode=mode)  # type: ignore[call-overload]
        shape = (*x.shape[:place], len(indices), *x.shape[place + 1 :])
        last = place == moving[-1]
        wider = made if last else encoder.target_like(x, shape)
        encoder.emit(Gather(place, indices), (x,), (wider,))
        x = wider


@rule("Gather")
def gather(encoder: Encoder, tile: Tile) -> None:
    """Gather at constant indices; a single index is a slice."""
    node = tile.anchor
    indices = node.input(1)
    if indices is None or indices.data is None:
        raise TargetError(f"{node.name}: Gather at computed indices has no integer form.")
    source = encoder.read(node, 0)
    axis = int(node.attributes.get("axis", 0)) % len(source.order)
    walk = _Walk.through(source)
    ((size, stride),) = walk.axes[axis]
    chosen = np.asarray(indices.data, np.int64) % size
    if chosen.ndim == 0:
        walk.start, walk.axes = int(chosen) * stride, walk.axes[:axis] + walk.axes[axis + 1 :]
        _move(encoder, tile, source, walk, tile.result)
        return
    own = tuple(range(len(source.order)))
    x = encoder.read(node, 0, own)
    made = encoder.target(tile.result, tuple(range(len(encoder.shape(tile.result)))))
    flat = encoder.target_like(made, (*x.shape[:axis], chosen.size, *x.shape[axis + 1 :]))
    encoder.emit(Gather(axis, chosen.reshape(-1).astype(np.int32)), (x,), (flat,))
    encoder.rearrange(flat, made, 0, made.shape, contiguous(made.shape))
    encoder.settle(tile.result, made)
