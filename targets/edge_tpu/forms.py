"""What operators of the file can say: padding by name, and activations that are part of an operator."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from qcompiler.integer.encoder import contiguous

if TYPE_CHECKING:
    from qcompiler.integer.operations import ArgMax, Convolution, Extreme, Mean
    from qcompiler.integer.program import Tensor

_BOUNDS = {
    "NONE": (-math.inf, math.inf),
    "RELU": (0.0, math.inf),
    "RELU6": (0.0, 6.0),
    "RELU_N1_TO_1": (-1.0, 1.0),
}


ACTIVATIONS = tuple(_BOUNDS)
_MOST = 2.0**31
RECTIFIERS = ("RELU", "RELU6", "RELU_N1_TO_1")


def activation(tensor: Tensor, low: float, high: float, accepted: Sequence[str] = ACTIVATIONS) -> str | None:
    """The activation, fused into the operator that writes a tensor, that clamps to two codes; None if there is none.

    TensorFlow Lite's `CalculateActivationRangeQuantized`: a bound b is the code zero point + round(b / scale), in float32, halves
    away from zero, and within the type.
    """
    if tensor.is_float:
        return next((name for name in accepted if _BOUNDS[name] == (low, high)), None)
    ends = np.iinfo(tensor.dtype)
    for name in accepted:
        least, most = _BOUNDS[name]
        if any(abs(bound) / tensor.scale >= _MOST for bound in (least, most) if math.isfinite(bound)):
            continue  # LiteRT converts the quotient to 32 bits, whatever comes of it
        lowest = int(ends.min) if math.isinf(least) else max(int(ends.min), _code(tensor, least))
        highest = int(ends.max) if math.isinf(most) else min(int(ends.max), _code(tensor, most))
        if (lowest, highest) == (low, high):
            return name
    return None


def _code(tensor: Tensor, bound: float) -> int:
    ratio = float(np.float32(bound) / np.float32(tensor.scale))
    return tensor.zero_point + int(math.copysign(math.floor(abs(ratio) + 0.5), ratio))


def padding(
    image: Sequence[int],
    made: Sequence[int],
    taps: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    pads: Sequence[int],
) -> str | None:
    """The name of the padding that gives these pads, "VALID" or "SAME"; None if neither does.

    SAME: out = ceil(in / stride), and of what windows exceed the image by, the lesser half goes in front.

    Args:
        image: Rows and columns of what is read.
        made: Rows and columns of what is written.
        taps: Rows and columns of the window.
        strides: Of rows and columns.
        dilations: Of rows and columns.
        pads: Top, left, bottom, right.
    """
    valid = same = True
    for axis in (0, 1):
        extent = (taps[axis] - 1) * dilations[axis] + 1
        beyond = max(0, (made[axis] - 1) * strides[axis] + extent - image[axis])
        valid &= pads[axis] == 0 and made[axis] == -(-(image[axis] - extent + 1) // strides[axis])
        same &= pads[axis] == beyond // 2 and made[axis] == -(-image[axis] // strides[axis])
    return "VALID" if valid else "SAME" if same else None


def cut_off(work: Convolution, taps: Sequence[int]) -> tuple[int, int]:
    """Rows at the top and columns on the left that a transposed convolution (one with `upscale`) cuts off."""
    return taps[0] - 1 - work.pads[0], taps[1] - 1 - work.pads[1]


def spread_padding(
    image: Sequence[int], made: Sequence[int], taps: Sequence[int], strides: Sequence[int], cut: Sequence[int]
) -> str | None:
    """The name of the padding with which TRANSPOSE_CONV cuts off so much of what it spreads; None if none does.

    It is the padding with which a convolution of the output has the shape of the input: "VALID" cuts off nothing, and "SAME" the
    lesser half of (in - 1) * stride + taps - out in front. Rows that no tap reaches are the bias.

    Args:
        image: Rows and columns of what is read.
        made: Rows and columns of what is written.
        taps: Rows and columns of the filter.
        strides: Of rows and columns.
        cut: Rows at the top and columns on the left that are cut off.
    """
    valid = same = True
    for given, wanted, tap, stride, off in zip(image, made, taps, strides, cut, strict=True):
        beyond = (given - 1) * stride + tap - wanted
        valid &= off == 0 and -stride < beyond <= 0
        same &= off == max(0, beyond) // 2 and given == -(-wanted // stride)
    return "VALID" if valid else "SAME" if same else None


def along(work: ArgMax, shape: tuple[int, ...]) -> int:
    """The axis of a tensor that an index is searched along."""
    return next(
        axis
        for axis, (size, step) in enumerate(zip(shape, contiguous(shape), strict=True))
        if (size, step) == (work.count, work.inner)
    )


def written(work: Mean | Extreme, shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The shapes that a reduction can write: with the axes that it runs over kept as 1, and without them."""
    axes = averaged(work, shape)
    kept = tuple(1 if axis in axes else size for axis, size in enumerate(shape))
    return kept, tuple(size for axis, size in enumerate(shape) if axis not in axes)


def averaged(work: Mean | Extreme, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The axes of a tensor that a reduction runs over: those between `outer` and `inner` elements, without axes of size 1 in front."""
    first = 0
    while math.prod(shape[:first]) < work.outer or (work.count > 1 and shape[first] == 1):
        first += 1
    last = first
    while math.prod(shape[first:last]) < work.count:
        last += 1
    return tuple(range(first, max(last, first + 1)))
