"""Histograms of float32 numbers with bins that are the same for every tensor, so that they merge exactly.

A number's bin is the upper half of its float32 bit pattern: sign, exponent and 7 bits of mantissa, which is its bfloat16
truncated towards zero. A bin is at most 1/128 as wide as the numbers in it, whatever the range of the tensor turns out
to be; counts are integers. Nothing has to be known in advance, and no count ever moves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_CODES = 1 << 16
_NOT_FINITE = 0x7F80  # the code of infinity; NaN's are above it


@dataclass(frozen=True)
class Histogram:
    """Counts of float32 numbers by bin and by row (a channel; row 0 where there is one row only).

    Attributes:
        keys: uint32, ascending: row << 16 | code, for the bins that are not empty.
        counts: int64, of the same length.
    """

    keys: NDArray[np.uint32]
    counts: NDArray[np.int64]

    @staticmethod
    def empty() -> Histogram:
        """A histogram of nothing."""
        return Histogram(np.zeros(0, np.uint32), np.zeros(0, np.int64))

    @staticmethod
    def of(numbers: NDArray[np.float32], rows: NDArray[np.uint32] | None = None) -> Histogram:
        """The histogram of finite numbers of any shape; infinities are left out.

        Args:
            numbers: The numbers.
            rows: The row of each number, broadcastable to their shape; None for row 0.
        """
        codes = codes_of(numbers)
        if (
            rows is None and codes.size > _CODES // 16
        ):  # fewer are sorted sooner than all bins are gone through
            return _dense(np.bincount(codes.ravel(), minlength=_CODES))
        if rows is not None:
            codes = (rows << np.uint32(16)) | codes
        keys, counts = np.unique(codes, return_counts=True)
        return _finite(keys, counts)

    def __add__(self, other: Histogram) -> Histogram:
        if not len(self.keys) or not len(other.keys):
            return other if len(other.keys) else self
        keys = np.concatenate([self.keys, other.keys])
        keys, index = np.unique(keys, return_inverse=True)
        counts = np.zeros(len(keys), np.int64)
        np.add.at(counts, index, np.concatenate([self.counts, other.counts]))
        return Histogram(keys, counts)

    @property
    def total(self) -> int:
        """How many numbers were counted."""
        return int(self.counts.sum())

    def row(self, row: int) -> Histogram:
        """One row, as row 0."""
        first, last = np.searchsorted(self.keys, [row << 16, (row + 1) << 16])
        return Histogram(self.keys[first:last] & np.uint32(0xFFFF), self.counts[first:last])

    def bins(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
        """Row 0 as (lower edges, upper edges, counts), ascending by value."""
        codes = self.keys & np.uint32(0xFFFF)
        near = (codes << np.uint32(16)).view(np.float32).astype(np.float64)
        far = near + np.copysign(
            np.exp2(np.maximum(codes >> np.uint32(7) & np.uint32(0xFF), 1) - 134.0), near
        )
        order = np.argsort(near + far, kind="stable")
        return np.minimum(near, far)[order], np.maximum(near, far)[order], self.counts[order]


def codes_of(numbers: NDArray[np.float32]) -> NDArray[np.uint32]:
    """The bin of each number."""
    return np.ascontiguousarray(numbers, np.float32).view(np.uint32) >> np.uint32(16)


def _dense(counts: NDArray[np.int64]) -> Histogram:
    keys = np.flatnonzero(counts)
    return _finite(keys.astype(np.uint32), counts[keys])


def _finite(keys: NDArray[np.uint32], counts: NDArray[np.int64]) -> Histogram:
    finite = (keys & np.uint32(0x7FFF)) < _NOT_FINITE
    return Histogram(keys[finite], counts[finite].astype(np.int64))
