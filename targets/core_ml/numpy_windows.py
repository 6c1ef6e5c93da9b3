"""What MIL's pooling and resizing compute, in numpy, and the windows that convolutions read through too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]


def paddings(
    sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int], pad_type: str, pad: Any
) -> list[tuple[int, int]]:
    """Elements in front of and behind each side.

    Args:
        sizes: Of the sides.
        kernel: Extents of the window, dilations included.
        strides: Steps of the window.
        pad_type: "valid", "custom", "same" or "same_lower", which put an odd element behind or in front.
        pad: Pairs, for "custom".
    """
    if pad_type == "custom":
        given = [int(item) for item in np.asarray(pad).reshape(-1)]
        return list(zip(given[::2], given[1::2], strict=True))
    if pad_type == "valid":
        return [(0, 0)] * len(sizes)
    found = []
    for size, extent, step in zip(sizes, kernel, strides, strict=True):
        total = max((-(-size // step) - 1) * step + extent - size, 0)
        front = total // 2 if pad_type == "same" else total - total // 2
        found.append((front, total - front))
    return found


def windows(x: Array, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]) -> Array:
    """A view of all windows: [batch, channels, *positions, *kernel]."""
    axes = tuple(range(2, x.ndim))
    extents = [(size - 1) * step + 1 for size, step in zip(kernel, dilations, strict=True)]
    view = np.lib.stride_tricks.sliding_window_view(x, extents, axis=axes)
    steps = tuple(slice(None, None, int(step)) for step in strides)
    inner = tuple(slice(None, None, int(step)) for step in dilations)
    return view[(slice(None), slice(None), *steps, *inner)]


def _pooled(
    x: Array, kernel_sizes: Array, strides: Any, pad_type: str, pad: Any, ceil_mode: Any, fill: float
) -> tuple[Array, list[tuple[int, int]], list[int]]:
    """All windows; padding; and rows behind it that only rounding up brings in."""
    sides = x.ndim - 2
    kernel = [int(size) for size in kernel_sizes]
    steps = [1] * sides if strides is None else [int(step) for step in strides]
    pads = paddings(x.shape[2:], kernel, steps, pad_type, pad if pad is not None else [0] * 2 * sides)
    more = [0] * sides
    if ceil_mode:
        for side, (size, extent, step, (front, behind)) in enumerate(
            zip(x.shape[2:], kernel, steps, pads, strict=True)
        ):
            count = -(-(size + front + behind - extent) // step) + 1
            count -= (
                count - 1
            ) * step >= size + front  # a window that begins in the padding behind is left out
            more[side] = max((count - 1) * step + extent - size - front - behind, 0)
    widths = [(front, behind + extra) for (front, behind), extra in zip(pads, more, strict=True)]
    padded = np.pad(x, [(0, 0), (0, 0), *widths], constant_values=fill)
    return windows(padded, kernel, steps, [1] * sides), pads, more


def _max_pool(
    x: Array,
    kernel_sizes: Array,
    strides: Any = None,
    pad_type: str = "valid",
    pad: Any = None,
    ceil_mode: Any = False,
) -> Array:
    view, _, _ = _pooled(x, kernel_sizes, strides, pad_type, pad, ceil_mode, -np.inf)
    result: Array = view.max(axis=tuple(range(x.ndim, view.ndim)))
    return result


def _avg_pool(
    x: Array, kernel_sizes: Array, strides: Any = None, pad_type: str = "valid", pad: Any = None,
    exclude_padding_from_average: Any = False, ceil_mode: Any = False,
) -> Array:  # fmt: skip
    """Means; padding counts unless it is excluded, what rounding up brings in does not."""
    view, pads, more = _pooled(x, kernel_sizes, strides, pad_type, pad, ceil_mode, 0.0)
    axes = tuple(range(x.ndim, view.ndim))
    ones = np.ones((1, 1, *x.shape[2:]), np.float32)
    ones = np.pad(ones, [(0, 0), (0, 0), *pads], constant_values=0.0 if exclude_padding_from_average else 1.0)
    ones = np.pad(ones, [(0, 0), (0, 0), *((0, extra) for extra in more)])
    steps = [1] * (x.ndim - 2) if strides is None else [int(step) for step in strides]
    counts = windows(ones, [int(size) for size in kernel_sizes], steps, [1] * (x.ndim - 2)).sum(axis=axes)
    result: Array = view.sum(axis=axes, dtype=np.float32) / counts
    return result


# -- resizing ------------------------------------------------------------------------------------------------------


def _upsample_nearest_neighbor(x: Array, scale_factor_height: Any = 1, scale_factor_width: Any = 1) -> Array:
    return np.repeat(np.repeat(x, int(scale_factor_height), axis=-2), int(scale_factor_width), axis=-1)


def _resize_bilinear(
    x: Array, target_size_height: Any = 1, target_size_width: Any = 1, sampling_mode: str = "DEFAULT"
) -> Array:
    for axis, made in ((-2, int(target_size_height)), (-1, int(target_size_width))):
        x = _interpolated(x, axis, made, sampling_mode)
    return x


def _interpolated(x: Array, axis: int, made: int, mode: str) -> Array:
    """One side resized, at the grid points that MIL documents for a sampling mode."""
    size, index = x.shape[axis], np.arange(made, dtype=np.float64)
    place = {
        "DEFAULT": index * size / made,
        "STRICT_ALIGN_CORNERS": index * (size - 1) / max(made - 1, 1),
        "ALIGN_CORNERS": index * (size - 1) / (made - 1) if made > 1 else np.full(1, (size - 1) / 2),
        "UNALIGN_CORNERS": (index + 0.5) * size / made - 0.5,
        "OFFSET_CORNERS": (index + 0.5) * max(size - 1, 1) / made,
    }[mode]
    place = np.clip(place, 0, size - 1)
    below = np.floor(place).astype(np.int64)
    above = np.minimum(below + 1, size - 1)
    shape = [1] * x.ndim
    shape[axis] = made
    share = (place - below).astype(np.float32).reshape(shape)
    result: Array = np.take(x, below, axis=axis) * (1 - share) + np.take(x, above, axis=axis) * share
    return result


RULES: dict[str, Callable[..., Any]] = {
    "max_pool": _max_pool,
    "avg_pool": _avg_pool,
    "upsample_nearest_neighbor": _upsample_nearest_neighbor,
    "resize_bilinear": _resize_bilinear,
}
