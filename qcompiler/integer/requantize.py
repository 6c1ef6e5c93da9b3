"""Accumulators into codes, y = clamp(rescale(x) + offset): in floating point where that gives every bit, else in integers.

Let the factor of a channel be m / 2**31 / 2**e with e >= 0, and h = x * m / 2**31, rounded to an integer with halves up. Where
|h| <= 2**22 for every x whose code is not clamped, x * m is less than 2**53 for these x. So x * m / 2**31 is a float64 without
rounding, as is its sum with 1/2, and h is a float32. That halves of h / 2**e go away from zero is due to a factor one step of
float32 above 2**-e: it moves every half to the next float32 at least, and nothing past a half. All steps are monotonic, so
codes of other x are clamped as they should be. Channels whose smallest and largest accumulator have the same code, as dead
ones do, have that code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from qcompiler.fixed_point import LEAST, MOST, to_codes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qcompiler.fixed_point import Integers, Rescale

_EXACT = 1 << 22
_ONE_STEP = np.float32(1) + np.finfo(np.float32).eps


@dataclass(frozen=True)
class Codes:
    """What accumulators are made into.

    Attributes:
        rescale: Of the accumulators, one factor or one per channel.
        offset: Of the codes.
        low: Lowest code.
        high: Highest code.
        dtype: Of the codes.
    """

    rescale: Rescale
    offset: int
    low: float
    high: float
    dtype: np.dtype[Any]

    def of(self, accumulators: NDArray[Any]) -> NDArray[Any]:
        """The codes of integers [..., channels]."""
        return to_codes(self.rescale.apply(accumulators), self.offset, self.low, self.high, self.dtype)


class Requantizer:
    """Turns rows of accumulators into codes.

    Attributes:
        constant: Which channels have one code only, whatever their accumulators; [channels].
        in_floats: Whether floating point gives every bit.
    """

    def __init__(self, codes: Codes, least: Integers, most: Integers, repeated: int = 1) -> None:
        """For accumulators within bounds.

        Args:
            codes: What they are made into.
            least: The smallest accumulator of each channel.
            most: The largest one.
            repeated: How often all channels follow each other in a row. Long rows are fast.
        """
        self._codes, self._channels = codes, len(least)
        shift = np.broadcast_to(codes.rescale.shift.astype(np.int32), least.shape)
        ends = codes.of(np.stack([least, most]))
        monotonic = _monotonic(codes.rescale, least, most) & (shift <= 0)
        self.constant: NDArray[np.bool_] = monotonic & (ends[0] == ends[1])
        exact = monotonic & (_largest(codes, least, most, -shift) <= _EXACT)
        self.in_floats = bool((self.constant | exact).all())
        if not self.in_floats:
            self.constant = np.zeros(least.shape, bool)
            return
        first = np.where(self.constant, 0.0, codes.rescale.multiplier / 2**31)
        second = np.ldexp(np.where(shift < 0, _ONE_STEP, np.float32(1)), shift)
        if codes.rescale.rounding == "single":
            first, second = np.ldexp(first, shift), np.ones_like(second)
        offset = np.where(self.constant, ends[0].astype(np.float32), np.float32(codes.offset))
        self._first, self._second, self._offset = (np.tile(row, repeated) for row in (first, second, offset))

    def __call__(self, accumulators: NDArray[Any]) -> NDArray[Any]:
        """The codes of whole numbers [rows, repeated * channels] of any type."""
        codes = self._codes
        if not self.in_floats:
            rows = accumulators.astype(np.int64).reshape(-1, self._channels)
            return codes.of(rows).reshape(accumulators.shape)
        products = accumulators.astype(np.float64)
        products *= self._first
        products += 0.5
        np.floor(products, out=products)
        values = products.astype(np.float32)
        if codes.rescale.rounding == "double":
            values *= self._second
            np.rint(values, out=values)
        values += self._offset
        np.clip(values, np.float32(codes.low), np.float32(codes.high), out=values)
        return values.astype(codes.dtype)


def _monotonic(rescale: Rescale, least: Integers, most: Integers) -> bool:
    """Whether nothing wraps around with factors below 1, and rounding is known here."""
    within = (least >= LEAST).all() and (most <= MOST).all()
    return bool(within and not rescale.wide and rescale.rounding in ("double", "single"))


def _largest(codes: Codes, least: Integers, most: Integers, exponents: NDArray[np.int32]) -> Integers:
    """What |h| is at most for accumulators whose codes are not clamped."""
    steps = np.int64(1) << np.maximum(exponents, 0).astype(np.int64)
    away = 1 + max(abs(codes.low - codes.offset), abs(codes.high - codes.offset))
    largest: Integers = np.minimum(np.maximum(-least, most), away * steps)
    if codes.rescale.rounding == "single":  # 1/2 is added to a number with e more fractional bits
        largest = np.maximum(largest, steps)
    return largest
