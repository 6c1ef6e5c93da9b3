"""Functions of int8 codes by formulas of their own: fixed-point steps that give other codes than rounding the function would.

Sources: TensorFlow Lite's reference kernels of HARD_SWISH (reference/hard_swish.h), ABS, SQRT and RSQRT (elementwise.cc), and
NEG (reference/neg.h).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from qcompiler.fixed_point import Rescale, multiply, rounding_divide, saturating_left_shift
from qcompiler.integer.roots import inverse_square_root

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Integers = NDArray[np.int64]
    Coding = tuple[float, int]

_CODES = np.arange(-128, 128)


def hard_swish(read: Coding, made: Coding) -> Integers:
    """The product x * relu6(x + 3) / 6 with 16 bits, of x scaled up by 2**7.

    r = saturate(2 * x / 3) / 2 + 1 / 2 is relu6(x + 3) / 6 with 15 fractional bits. The product with x in the output's scale is
    rounded towards zero, the shift to that scale away from it.
    """
    scale = np.float32(1 / 128) * np.float32(read[0])
    to_output = Rescale.of(float(scale / np.float32(made[0])))
    to_slope = Rescale.of(float(scale / (np.float32(3) / np.float32(32768))))
    x = _words((_CODES - read[1]) << 7)
    shift = int(to_slope.shift[0])
    slope = saturating_left_shift(x, max(shift - 1, 0)) if shift > 0 else x
    slope = _product(_saturated(slope), _upper_half(to_slope))
    if shift > 0:
        slope = _saturated(slope << 1)
    elif shift < 0:
        slope = _words(rounding_divide(slope, -shift))
    slope = _words((slope + (1 << 15)) >> 1)
    product = slope * _product(x, _upper_half(to_output))
    product = _words(np.where(product >= 0, product >> 15, -(-product >> 15)))
    return _words(_words(rounding_divide(product, -int(to_output.shift[0]))) + made[1])


def absolute(read: Coding, made: Coding) -> Integers:
    """|x|, scaled where the scales differ."""
    size = np.abs(_CODES - read[1])
    if np.float32(read[0]) != np.float32(made[0]):
        size = Rescale.of(float(np.float32(read[0]) / np.float32(made[0]))).apply(size)
    return size + made[1]


def negative(read: Coding, made: Coding) -> Integers:
    """The negated code, whatever the encodings: -x where both are the same, with zero point 0."""
    return np.where(_CODES == -128, -128, -_CODES)


def square_root(read: Coding, made: Coding) -> Integers:
    """The root in float32 in the output's scale, cut off; the lowest code for negative numbers, which the kernel refuses."""
    x = np.float32(read[0]) * (_CODES - read[1]).astype(np.float32)
    root = np.sqrt(np.maximum(x, 0)) / np.float32(made[0])
    return np.where(x < 0, -128, np.trunc(np.minimum(root, 1 << 20)).astype(np.int64) + made[1])


def reciprocal_root(read: Coding, made: Coding) -> Integers:
    """1 / sqrt(x) with 20 fractional bits, and scaled; the highest code for zero, and for negative numbers, which the kernel refuses."""
    factor = Rescale.of(1.0 / float(np.sqrt(np.float32(read[0])) * np.float32(made[0])))
    x = _CODES - read[1]
    multiplier, shift = inverse_square_root(np.maximum(x, 1))
    root = multiply(np.ones_like(x), multiplier, shift + 20)
    return np.where(x > 0, multiply(root, factor.multiplier, factor.shift - 20) + made[1], 127)


FORMULAS: dict[str, Callable[[Coding, Coding], Integers]] = {
    "HardSwish": hard_swish,
    "Abs": absolute,
    "Neg": negative,
    "Sqrt": square_root,
    "Sqrt+Reciprocal": reciprocal_root,
}
"""Operators, joined by a plus, to what they give for the 256 codes, before they are clamped, by scale and zero point of input and output."""


def _upper_half(factor: Rescale) -> int:
    """The multiplier rounded to 16 bits, saturating."""
    multiplier = int(factor.multiplier[0])
    return 0x7FFF if multiplier >= (1 << 31) - 1 - (1 << 15) else (multiplier + (1 << 15)) >> 16


def _product(a: Any, b: int) -> Integers:
    """The product a * b / 2**15, halves up, saturating."""
    product: Integers = np.minimum((a * b + (1 << 14)) >> 15, 32767)
    return product


def _saturated(x: NDArray[Any]) -> Integers:
    saturated: Integers = np.clip(x, -32768, 32767).astype(np.int64)
    return saturated


def _words(x: NDArray[Any]) -> Integers:
    """Integers as they are left in 16 bits."""
    return x.astype(np.int16).astype(np.int64)
