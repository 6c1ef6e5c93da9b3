"""What MIL's operators that move elements compute, in numpy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]


def _reshape(x: Array, shape: Array) -> Array:
    """A 0 is the operand's own size at that place."""
    sizes = [x.shape[axis] if size == 0 else int(size) for axis, size in enumerate(shape)]
    return x.reshape(sizes)


def _transpose(x: Array, perm: Array) -> Array:
    return np.transpose(x, [int(axis) for axis in perm])


def _squeeze(x: Array, axes: Any = None) -> Array:
    return np.squeeze(x, None if axes is None else tuple(int(axis) for axis in axes))


def _expand_dims(x: Array, axes: Array) -> Array:
    return np.expand_dims(x, tuple(int(axis) for axis in axes))


def _slice_by_index(
    x: Array,
    begin: Array,
    end: Array,
    stride: Any = None,
    begin_mask: Any = None,
    end_mask: Any = None,
    squeeze_mask: Any = None,
) -> Array:
    """As numpy slices; masks stand for the ends of a dimension, and for one element of it."""
    window: list[Any] = []
    for axis in range(x.ndim):
        first, last, step = int(begin[axis]), int(end[axis]), 1 if stride is None else int(stride[axis])
        if squeeze_mask is not None and squeeze_mask[axis]:
            window.append(first)
            continue
        first_open = begin_mask is not None and begin_mask[axis]
        last_open = end_mask is not None and end_mask[axis]
        window.append(slice(None if first_open else first, None if last_open else last, step))
    return np.asarray(x[tuple(window)])


def _slice_by_size(x: Array, begin: Array, size: Array) -> Array:
    return x[
        tuple(slice(int(b), None if s == -1 else int(b) + int(s)) for b, s in zip(begin, size, strict=True))
    ]


def _split(x: Array, axis: Any, num_splits: Any = None, split_sizes: Any = None) -> tuple[Array, ...]:
    where: Any = int(num_splits) if split_sizes is None else np.cumsum(split_sizes)[:-1]
    return tuple(np.split(x, where, axis=int(axis)))


def _concat(values: tuple[Array, ...], axis: Any, interleave: Any = False) -> Array:
    if not interleave:
        return np.concatenate(values, axis=int(axis))
    stacked = np.stack(values, axis=int(axis) + 1)
    shape = list(values[0].shape)
    shape[int(axis)] *= len(values)
    return stacked.reshape(shape)


def _tile(x: Array, reps: Array) -> Array:
    return np.tile(x, [int(count) for count in reps])


def _pad(x: Array, pad: Array, mode: str = "constant", constant_val: Any = 0.0) -> Array:
    """Pairs are those of the last dimensions."""
    pairs = [(int(front), int(behind)) for front, behind in np.asarray(pad).reshape(-1, 2)]
    pairs = [(0, 0)] * (x.ndim - len(pairs)) + pairs
    if mode == "constant":
        return np.pad(x, pairs, constant_values=np.asarray(constant_val).item())
    return np.pad(x, pairs, mode="edge" if mode == "replicate" else "reflect")


def _depth_to_space(x: Array, block_size: Any) -> Array:
    n, c, h, w = x.shape
    size = int(block_size)
    parts = x.reshape(n, size, size, c // size**2, h, w).transpose(0, 3, 4, 1, 5, 2)
    return parts.reshape(n, c // size**2, h * size, w * size)


def _pixel_shuffle(x: Array, upscale_factor: Any) -> Array:
    n, c, h, w = x.shape
    size = int(upscale_factor)
    parts = x.reshape(n, c // size**2, size, size, h, w).transpose(0, 1, 4, 2, 5, 3)
    return parts.reshape(n, c // size**2, h * size, w * size)


def _space_to_depth(x: Array, block_size: Any) -> Array:
    n, c, h, w = x.shape
    size = int(block_size)
    parts = x.reshape(n, c, h // size, size, w // size, size).transpose(0, 3, 5, 1, 2, 4)
    return parts.reshape(n, c * size**2, h // size, w // size)


def _gather(
    x: Array, indices: Array, axis: Any = 0, batch_dims: Any = 0, validate_indices: Any = False
) -> Array:
    assert int(batch_dims) == 0, "lowering writes none"
    return np.take(x, np.asarray(indices).astype(np.int64), axis=int(axis))


def _gather_along_axis(x: Array, indices: Array, axis: Any = 0, validate_indices: Any = False) -> Array:
    return np.take_along_axis(x, np.asarray(indices).astype(np.int64), axis=int(axis))


def _gather_nd(x: Array, indices: Array, batch_dims: Any = 0, validate_indices: Any = False) -> Array:
    assert int(batch_dims) == 0, "lowering writes none"
    return np.asarray(x[tuple(np.moveaxis(np.asarray(indices).astype(np.int64), -1, 0))])


def _reverse(x: Array, axes: Any = None) -> Array:
    return np.flip(x, None if axes is None else tuple(int(axis) for axis in axes))


def _stack(values: Sequence[Array], axis: Any = 0) -> Array:
    return np.stack(values, int(axis))


def _shape(x: Array) -> Array:
    return np.array(x.shape, np.int32)


def _fill(shape: Array, value: Any = 0.0) -> Array:
    return np.full([int(size) for size in shape], np.asarray(value).item(), np.asarray(value).dtype)


RULES: dict[str, Callable[..., Any]] = {
    "reshape": _reshape,
    "transpose": _transpose,
    "squeeze": _squeeze,
    "expand_dims": _expand_dims,
    "slice_by_index": _slice_by_index,
    "slice_by_size": _slice_by_size,
    "split": _split,
    "concat": _concat,
    "tile": _tile,
    "pad": _pad,
    "reverse": _reverse,
    "stack": _stack,
    "depth_to_space": _depth_to_space,
    "pixel_shuffle": _pixel_shuffle,
    "space_to_depth": _space_to_depth,
    "gather": _gather,
    "gather_along_axis": _gather_along_axis,
    "gather_nd": _gather_nd,
    "shape": _shape,
    "fill": _fill,
}
