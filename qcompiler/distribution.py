"""What a range is chosen from, and the integer grid that a range means."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

Range: TypeAlias = tuple[float, float]
"""(low, high) in real numbers; low <= 0 <= high."""
Floats: TypeAlias = "NDArray[np.float64]"
Indices: TypeAlias = "NDArray[np.int64]"


@dataclass(frozen=True)
class Distribution:
    """What is known of a value's elements.

    Attributes:
        low: Smallest element, or 0 where that is smaller; exact.
        high: Largest element, or 0 where that is larger; exact.
        mean_low: Mean over samples of each sample's `low`.
        mean_high: Mean over samples of each sample's `high`.
        lower: Lower edges of the bins, ascending.
        upper: Upper edges; a bin whose edges are equal holds one number.
        weights: How many elements, or which share of an element, each bin stands for.
    """

    low: float
    high: float
    mean_low: float
    mean_high: float
    lower: Floats
    upper: Floats
    weights: Floats

    @staticmethod
    def of(
        low: float,
        high: float,
        mean_low: float,
        mean_high: float,
        lower: Floats,
        upper: Floats,
        weights: Floats,
    ) -> Distribution:
        """A distribution with its bins cut to the exact extremes: a peak at the end of a range (Clip) stays a peak."""
        return Distribution(
            low, high, mean_low, mean_high, np.clip(lower, low, high), np.clip(upper, low, high), weights
        )

    @property
    def mean(self) -> float:
        """The mean element, to the width of the bins."""
        total = float(self.weights.sum())
        return float(((self.lower + self.upper) / 2 * self.weights).sum() / total) if total else 0.0


def shaped(low: float, high: float, *, symmetric: bool) -> Range:
    """The range with 0 in it, and with both ends equally far from 0 if symmetric."""
    low, high = min(low, 0.0), max(high, 0.0)
    if symmetric:
        high = max(-low, high)
        low = -high
    return low, high


def nudged(low: float, high: float, levels: int, *, symmetric: bool) -> Range:
    """The range with its ends moved, by less than a step, so that 0 falls on a code."""
    step, first = grid(np.array([low]), np.array([high]), levels, symmetric=symmetric)
    if symmetric:
        return low, high
    return float(step[0] * first[0]), float(step[0] * (first[0] + levels - 1))


def grid(lows: Floats, highs: Floats, levels: int, *, symmetric: bool) -> tuple[Floats, Floats]:
    """Step and lowest code (zero point at 0) of each range."""
    if (
        symmetric
    ):  # codes -k .. k; an even number of levels leaves one more below, which the range does not count on
        half = (levels - 1) // 2
        return highs / half, np.full(len(highs), -float(levels // 2))
    steps = (highs - lows) / (levels - 1)
    return steps, np.rint(lows / steps)
