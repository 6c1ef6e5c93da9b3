"""Fixed-point arithmetic of integer inference: real factors as multipliers and shifts, and the ways to round.

A real factor is stored as `multiplier / 2**31 * 2**shift` (Jacob et al. 2018, "Quantization and Training of Neural Networks
for Efficient Integer-Arithmetic-Only Inference"). The primitives are those of gemmlowp's `fixedpoint.h`, which TensorFlow
Lite's reference kernels and CMSIS-NN share; where these write int32, what does not fit wraps around.

Here numbers of 32 bits are held in int64 arrays, so that products need no care. Functions return new arrays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Integers = NDArray[np.int64]

Rounding = Literal["double", "single", "away"]

LEAST, MOST = -(1 << 31), (1 << 31) - 1
"""The ends of int32."""

_LEAST_SHIFT, _MOST_SHIFT = -31, 30
_MOST_SHIFT_WIDE = 14  # the product of a wide accumulator is shifted by 14 - shift to the right

# exp(-2**k / 4) for k = 0 to 6, with 31 fractional bits.
_EXP_OF_POWERS = (1672461947, 1302514674, 790015084, 290630308, 39332535, 720401, 242)
_EXP_OF_EIGHTH, _THIRD = 1895147668, 715827883  # exp(-1/8) and 1/3, with 31 fractional bits
_48_17, _MINUS_32_17 = 1515870810, -1010580540  # with 29 fractional bits


@dataclass(frozen=True, eq=False)
class Rescale:
    """Real factors as integers: multiplier / 2**31 * 2**shift.

    Attributes:
        multiplier: int32, [1] or [channels]; 0, or 2**30 to 2**31 - 1.
        shift: int32, of the same shape; -31 to 30, to the left where positive.
        rounding: "double": the product is rounded to 32 bits, then the shift is rounded. "single": once. "away": the product with
            the real factor in double precision is rounded, halves away from zero.
        wide: The accumulators have 64 bits, and the multiplier is reduced to 16 (int16 activations).
        real: float64, the factors themselves; for "away".
    """

    multiplier: NDArray[Any]
    shift: NDArray[Any]
    rounding: Rounding = "double"
    wide: bool = False
    real: NDArray[Any] | None = None

    @classmethod
    def of(cls, real: ArrayLike, rounding: Rounding = "double", wide: bool = False) -> Rescale:
        """The nearest integers, as TensorFlow Lite's `QuantizeMultiplier` finds them, in double precision.

        Factors too small for any shift become 0; those too large become the largest one (below 2**30, wide: below 2**14).

        Args:
            real: A factor, or one per channel; not negative.
            rounding: See the class.
            wide: See the class.

        Raises:
            ValueError: A factor is negative or not finite.
        """
        factors = np.asarray(real, np.float64).reshape(-1)
        if not (np.isfinite(factors) & (factors >= 0)).all():
            raise ValueError(f"factors must be finite and not negative: {factors.min()} to {factors.max()}")
        fraction, shift = np.frexp(factors)
        multiplier = np.floor(fraction * 2.0**31 + 0.5).astype(np.int64)
        carried = multiplier > MOST
        multiplier, shift = multiplier >> carried, shift + carried
        most = _MOST_SHIFT_WIDE if wide else _MOST_SHIFT
        multiplier[shift > most] = MOST
        tiny = shift < _LEAST_SHIFT
        multiplier[tiny] = shift[tiny] = 0
        made = multiplier.astype(np.int32), np.minimum(shift, most).astype(np.int32)
        for array in made:
            array.setflags(write=False)
        return cls(*made, rounding, wide, factors if rounding == "away" else None)

    @classmethod
    def of_mean(cls, real: float, count: int) -> Rescale:
        """The factor real / count of a sum of `count` numbers, as TensorFlow Lite's `Mean` finds it.

        The multiplier of `real` is divided in integers, shifted up before as far as the count allows: multiplier =
        (m << k) // count, shift = s - k, with k the lesser of floor(log2(count)) and s + 31.

        Raises:
            ValueError: See `of`.
        """
        factor = cls.of(real)
        multiplier, shift = int(factor.multiplier[0]), int(factor.shift[0])
        up = min(count.bit_length() - 1, 32, 31 + shift)
        return cls(np.array([(multiplier << up) // count], np.int32), np.array([shift - up], np.int32))

    def apply(self, accumulators: NDArray[Any]) -> Integers:
        """The accumulators times the factors, rounded; int64 numbers of 32 bits.

        With x the accumulator, wrapped to 32 bits unless wide, and m and s multiplier and shift:

        * double: x << s where s is positive, wrapped; high half of twice the product with m, halves rounded up; shifted by
          -s to the right, halves rounded away from zero.
        * single: x * m shifted by 31 - s to the right, halves rounded up.
        * away: x times the real factor, halves away from zero; what int32 cannot hold becomes its lowest number.
        * wide: with m rounded to 16 bits, x * m shifted by 14 - s to the right and wrapped, then by 1, halves rounded up.

        Args:
            accumulators: Any integers, read only; with several factors [..., channels].
        """
        if self.real is not None:
            return _rounded(accumulators if self.wide else wrap32(accumulators), self.real)
        multiplier, shift = self.multiplier.astype(np.int64), self.shift.astype(np.int64)
        if self.wide:
            multiplier = np.where(multiplier < 0x7FFF0000, (multiplier + (1 << 15)) >> 16, 0x7FFF)
            x = np.array(accumulators, np.int64)
            x *= multiplier
            x >>= 14 - shift
            x = wrap32(x)
            x += 1
            x >>= 1
            return x
        x = wrap32(accumulators)
        if self.rounding == "single":
            x *= multiplier
            x >>= 30 - shift
            x += 1
            x >>= 1
            return wrap32(x)
        return _multiplied(x, multiplier, shift)


def quantized_multiplier(real: float) -> tuple[int, int]:
    """Multiplier and shift of a single factor, as in `Rescale`."""
    factor = Rescale.of(real)
    return int(factor.multiplier[0]), int(factor.shift[0])


def wrap32(x: ArrayLike) -> Integers:
    """Integers as they are left in 32 bits, in two's complement."""
    return np.asarray(x).astype(np.int32).astype(np.int64)


def multiply(x: ArrayLike, multiplier: ArrayLike, shift: ArrayLike) -> Integers:
    """The product x * multiplier / 2**31 * 2**shift as `Rescale` rounds it under "double"; the factors broadcast against x."""
    return _multiplied(wrap32(x), np.asarray(multiplier, np.int64), np.asarray(shift, np.int64))


def doubling_high_multiply(a: ArrayLike, b: ArrayLike) -> Integers:
    """The product of two numbers with 31 fractional bits: a * b / 2**31, halves rounded up, saturating."""
    product = np.asarray(a, np.int64) * np.asarray(b, np.int64)
    high: Integers = np.minimum((product + (1 << 30)) >> 31, MOST)
    return high


def rounding_divide(x: ArrayLike, exponent: ArrayLike) -> Integers:
    """The quotient x / 2**exponent, halves rounded away from zero; exponents (0 or more) broadcast against x."""
    return _divide(np.array(x, np.int64), np.asarray(exponent, np.int64))


def saturating_left_shift(x: ArrayLike, exponent: int) -> Integers:
    """The product x * 2**exponent, saturating at the ends of int32."""
    return np.clip(np.left_shift(x, exponent, dtype=np.int64), LEAST, MOST)


def exp_of_negative(x: ArrayLike) -> Integers:
    """The exponential of numbers with 26 fractional bits, -2**31 to 0; the result has 31 fractional bits.

    gemmlowp's `exp_on_negative_values`: a polynomial about -1/8 for the part in [-1/4, 0), and the factor exp(-2**k / 4) for
    every multiple 2**k / 4 that the rest consists of.
    """
    x = np.asarray(x, np.int64)
    quarter = 1 << 24
    part = (x & (quarter - 1)) - quarter  # in [-1/4, 0)
    remainder = part - x
    y = (part << 5) + (1 << 28)  # 31 fractional bits, less -1/8
    square = doubling_high_multiply(y, y)
    higher = rounding_divide(doubling_high_multiply(square, square), 2) + doubling_high_multiply(square, y)
    series = y + rounding_divide(doubling_high_multiply(higher, _THIRD) + square, 1)
    result = _EXP_OF_EIGHTH + doubling_high_multiply(_EXP_OF_EIGHTH, series)
    for bit, factor in enumerate(_EXP_OF_POWERS):
        set_here = (remainder & (quarter << bit)) != 0
        result = np.where(set_here, doubling_high_multiply(result, factor), result)
    return np.where(x == 0, MOST, result)


def one_over_one_plus(x: ArrayLike) -> Integers:
    """1 / (1 + x) of numbers in [0, 1), both with 31 fractional bits.

    gemmlowp's `one_over_one_plus_x_for_x_in_0_1`: three Newton steps for the inverse of (1 + x) / 2 from 48/17 - 32/17 * that.
    """
    half = (np.asarray(x, np.int64) + (1 << 31)) >> 1
    inverse = _48_17 + doubling_high_multiply(half, _MINUS_32_17)
    for _ in range(3):
        miss = (1 << 29) - doubling_high_multiply(half, inverse)
        inverse = inverse + saturating_left_shift(doubling_high_multiply(inverse, miss), 2)
    return saturating_left_shift(inverse, 1)


def to_codes(
    values: NDArray[Any], offset: int, low: float, high: float, dtype: np.dtype[Any]
) -> NDArray[Any]:
    """The codes values + offset, clamped. The values are written over: they are the last of a chain of temporaries."""
    values += offset
    np.clip(values, low, high, out=values)
    return values.astype(dtype)


def _rounded(x: NDArray[Any], factor: NDArray[Any]) -> Integers:
    """The products, rounded as C rounds and converts them on x86."""
    product = x.astype(np.float64) * factor
    whole = np.trunc(product)
    whole += np.where(np.abs(product - whole) >= 0.5, np.copysign(1.0, product), 0.0)
    return np.where(np.abs(whole) <= MOST, whole, LEAST).astype(np.int64)


def _multiplied(x: Integers, multiplier: Integers, shift: Integers) -> Integers:
    """`multiply`, written over x."""
    if (shift > 0).any():
        x <<= np.maximum(shift, 0)
        x = wrap32(x)
    x *= multiplier
    x += 1 << 30
    x >>= 31
    return _divide(x, np.maximum(-shift, 0))


def _divide(x: Integers, exponent: Integers) -> Integers:
    """`rounding_divide`, written over x."""
    if not exponent.any():
        return x
    sign = x >> 63  # -1 below zero, where halves go down
    if not exponent.all():
        sign &= -(exponent > 0).astype(np.int64)
    x += sign
    x += (1 << exponent) >> 1
    x >>= exponent
    return x
