"""Sums of float32 numbers without rounding, so that partial sums merge to the same bytes in any grouping and order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_LIMBS = 16  # of 16 exponents each: float32 has 8 exponent bits


@dataclass(frozen=True)
class ExactSum:
    """Sums of finite float32 numbers, one per column, as fixed-point integers.

    A float32 is an integer mantissa of 24 bits times a power of two. The mantissas are shifted by the low 4 bits of the
    exponent and added up in one of 16 integers chosen by the high 4 bits. Integer addition is associative; with
    summands below 2^39 there is room for 2^24 of them. The idea is Kulisch's long accumulator, in limbs of 64 bits.

    Attributes:
        limbs: int64 [columns, 16].
    """

    limbs: NDArray[np.int64]

    @staticmethod
    def zeros(columns: int) -> ExactSum:
        """Sums of nothing."""
        return ExactSum(np.zeros((columns, _LIMBS), np.int64))

    @staticmethod
    def of(rows: NDArray[np.float32]) -> ExactSum:
        """The sums over the first axis of finite numbers [rows, columns]."""
        bits = np.ascontiguousarray(rows, np.float32).view(np.int32).astype(np.int64)
        exponent = (bits >> 23) & 0xFF
        mantissa = (bits & 0x7FFFFF) | np.where(exponent > 0, 1 << 23, 0)
        exponent = np.maximum(exponent, 1) - 1  # subnormal numbers share the lowest exponent
        addends = np.where(bits < 0, -mantissa, mantissa) << (exponent & 15)
        total = ExactSum.zeros(rows.shape[1])
        columns = np.broadcast_to(np.arange(rows.shape[1]), rows.shape)
        np.add.at(total.limbs, (columns, exponent >> 4), addends)
        return total

    def __add__(self, other: ExactSum) -> ExactSum:
        return ExactSum(self.limbs + other.limbs)

    def mean(self, count: int) -> NDArray[np.float64]:
        """The sums divided by a number of summands, correctly rounded to double before the division."""
        sums = [sum(int(limb) << (16 * index) for index, limb in enumerate(row)) for row in self.limbs]
        scaled: list[Any] = [_to_float(total) for total in sums]
        return np.array(scaled, np.float64) / max(count, 1)


def _to_float(units: int) -> float:
    """An integer number of 2^-149."""
    return units / (1 << 149)  # true division of integers rounds correctly
