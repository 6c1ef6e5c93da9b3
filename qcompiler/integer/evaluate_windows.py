"""Windows over images [B, H, W, C], and pooling."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from qcompiler.fixed_point import to_codes
from qcompiler.integer.evaluate_base import evaluate
from qcompiler.integer.operations import Pool

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from qcompiler.integer.evaluate_base import Arrays
    from qcompiler.integer.operations import Convolution, DepthwiseConvolution
    from qcompiler.integer.program import Tensor

    Steps = Convolution | DepthwiseConvolution


def reach(
    made: Sequence[int], taps: Sequence[int], strides: Sequence[int], dilations: Sequence[int] = (1, 1)
) -> tuple[int, int]:
    """Rows and columns, padding included, that windows read which make an output of `made` rows and columns.

    They follow from the output, as in CMSIS-NN; padding at the bottom and on the right is what they exceed the input by.
    """
    rows, columns = (
        (size - 1) * stride + (tap - 1) * dilation + 1
        for size, tap, stride, dilation in zip(made, taps, strides, dilations, strict=True)
    )
    return rows, columns


def placed(
    images: NDArray[Any],
    size: Sequence[int],
    before: Sequence[int],
    steps: Sequence[int],
    fill: int,
    dtype: np.dtype[Any],
) -> NDArray[Any]:
    """Images of `size` in which element [i, j] of the given ones is at [before + i * step, before + j * step].

    Args:
        images: [B, H, W, C].
        size: Rows and columns of the result. What comes to lie outside is cut off.
        before: Padding at the top and on the left.
        steps: Of rows and columns.
        fill: What stands everywhere else.
        dtype: Of the result.
    """
    read, write = [], []
    for given, wanted, offset, step in zip(images.shape[1:3], size, before, steps, strict=True):
        first = -(min(0, offset) // step)
        last = min(given, -((offset - wanted) // step))
        start = offset + first * step
        read.append(slice(first, max(first, last)))
        write.append(slice(start, start + max(0, last - first) * step, step))
    result = np.empty((len(images), *size, images.shape[-1]), dtype)
    if tuple(steps) == (1, 1):
        rows, columns = write
        for outside in (
            np.s_[:, : rows.start],
            np.s_[:, rows.stop :],
            np.s_[:, rows, : columns.start],
            np.s_[:, rows, columns.stop :],
        ):
            result[outside] = fill
    else:
        result[...] = fill
    result[:, write[0], write[1]] = images[:, read[0], read[1]]
    return result


def windows(images: NDArray[Any], rows: slice, width: int, taps: Sequence[int], steps: Steps) -> NDArray[Any]:
    """What some rows of an output of `width` columns read: a view [B, rows, width, *taps, C]."""
    count, row, column, channel = images.strides
    (down, right), (below, beside) = steps.strides, steps.dilations
    first = images[:, rows.start * down :]
    shape = (len(images), rows.stop - rows.start, width, *taps, images.shape[-1])
    strides = (count, row * down, column * right, row * below, column * beside, channel)
    return as_strided(first, shape, strides, writeable=False)


def tap(
    images: NDArray[Any], first: Sequence[int], size: Sequence[int], strides: Sequence[int]
) -> NDArray[Any]:
    """What one tap reads for an output of `size` rows and columns: every stride-th element from `first` on, a view."""
    rows, columns = (
        slice(start, start + (count - 1) * stride + 1, stride)
        for start, count, stride in zip(first, size, strides, strict=True)
    )
    return images[:, rows, columns]


@evaluate.register(Pool)
def _pool(work: Pool, arrays: Arrays, output: Tensor) -> NDArray[Any]:
    """Maxima; or sums divided by the count c of elements inside: (|sum| + c // 2) // c, with the sign of the sum."""
    (x,) = arrays
    images = x.reshape(-1, *x.shape[-3:])
    if work.average:
        sums = _pooled(work, images, output, np.add, 0, np.dtype(np.int32))
        count = _pooled(work, np.ones((1, *images.shape[1:3], 1)), output, np.add, 0, np.dtype(np.int32))
        count = np.maximum(count, 1)
        values = (np.abs(sums) + count // 2) // count * np.sign(sums)
    else:
        least = int(np.iinfo(x.dtype).min)
        values = _pooled(work, images, output, np.maximum, least, x.dtype).astype(np.int32)
    return to_codes(values, 0, work.low, work.high, output.dtype).reshape(-1, *output.shape)


def _pooled(
    work: Pool,
    images: NDArray[Any],
    output: Tensor,
    combine: Callable[..., NDArray[Any]],
    fill: int,
    dtype: np.dtype[Any],
) -> NDArray[Any]:
    """Windows combined, first along rows, then along columns."""
    height, width = output.shape[1:3]
    size = reach((height, width), work.kernel, work.strides)
    result = placed(images, size, work.pads[:2], (1, 1), fill, dtype)
    for axis, shape in enumerate(((height, size[1]), (height, width))):
        strides = (work.strides[0], 1) if axis == 0 else (1, work.strides[1])
        taps = [
            tap(result, (step, 0) if axis == 0 else (0, step), shape, strides)
            for step in range(work.kernel[axis])
        ]
        combined = taps[0].copy()
        for other in taps[1:]:
            combine(combined, other, out=combined)
        result = combined
    return result
