"""From a distribution to a range: which interval an affine integer encoding should cover.

All methods share the conventions of `Distribution.range`: the range contains 0, because zero padding and ReLU need an exact
zero; with `symmetric` it is (-h, h); otherwise one end may be 0. A value that is zero everywhere has the range (0, 0),
which an encoding has to give a scale of its own choice. Subnormal values need no special treatment: the search runs in
double precision.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from qcompiler.distribution import Distribution, Floats, Range, shaped
from qcompiler.errors import OptionError, suggest
from qcompiler.range_search import MSE, Entropy


class RangeMethod(Protocol):
    """A way to choose a range."""

    @property
    def name(self) -> str:
        """What users call it; `range_method` parses it back."""
        ...

    def __call__(self, values: Distribution, *, levels: int = 256, symmetric: bool = False) -> Range:
        """The range of a distribution.

        Args:
            values: The distribution.
            levels: How many codes the encoding has; 255 for narrow int8.
            symmetric: Whether the zero point is fixed at the middle of the codes.
        """
        ...


@dataclass(frozen=True)
class MinMax:
    """Covers everything."""

    name: str = "min-max"

    def __call__(self, values: Distribution, *, levels: int = 256, symmetric: bool = False) -> Range:
        """As `RangeMethod`."""
        return shaped(values.low, values.high, symmetric=symmetric)


@dataclass(frozen=True)
class MovingAverage:
    """The mean of the samples' extremes. All samples count alike, so that the order of the data does not matter."""

    name: str = "moving-average"

    def __call__(self, values: Distribution, *, levels: int = 256, symmetric: bool = False) -> Range:
        """As `RangeMethod`."""
        return shaped(values.mean_low, values.mean_high, symmetric=symmetric)


@dataclass(frozen=True)
class Percentile:
    """Leaves out at most 100 - `percent` percent of the elements: at each end, or of the magnitudes if symmetric."""

    percent: float = 99.99

    @property
    def name(self) -> str:
        """As `RangeMethod`."""
        return f"percentile:{self.percent:g}"

    def __call__(self, values: Distribution, *, levels: int = 256, symmetric: bool = False) -> Range:
        """As `RangeMethod`."""
        if not len(values.weights):
            return MinMax()(values, symmetric=symmetric)
        share = self.percent / 100.0
        if symmetric:
            inner = np.minimum(np.abs(values.lower), np.abs(values.upper))
            outer = np.maximum(np.abs(values.lower), np.abs(values.upper))
            order = np.argsort(inner + outer, kind="stable")
            high = _quantile(inner[order], outer[order], values.weights[order], share)
            return -high, high
        low = _quantile(values.lower, values.upper, values.weights, 1.0 - share)
        return shaped(low, _quantile(values.lower, values.upper, values.weights, share), symmetric=False)


def _quantile(lower: Floats, upper: Floats, weights: Floats, share: float) -> float:
    """The number below which a share of the weight lies; within a bin the weight is spread evenly."""
    below = np.cumsum(weights)
    wanted = share * below[-1]
    index = min(int(np.searchsorted(below, wanted)), len(weights) - 1)
    inside = (wanted - (below[index] - weights[index])) / weights[index]
    return float(lower[index] + min(max(inside, 0.0), 1.0) * (upper[index] - lower[index]))


# -- by name -----------------------------------------------------------------------------------------------------

RANGE_METHODS: dict[str, Callable[[], RangeMethod]] = {
    "min-max": MinMax, "moving-average": MovingAverage, "percentile": Percentile, "entropy": Entropy, "mse": MSE,
}  # fmt: skip
"""The range methods by name. percentile takes a number: percentile:99.9."""


def range_method(name: str) -> RangeMethod:
    """The range method of a name such as "mse" or "percentile:99.9".

    Raises:
        OptionError: There is none of that name, or the percentile is no number above 50 and up to 100.
    """
    base, _, number = name.partition(":")
    if base == "percentile" and number:
        try:
            percent = float(number)
        except ValueError:
            percent = math.nan
        if not 50.0 < percent <= 100.0:
            raise OptionError(
                f"The percentile in {name!r} must be a number above 50 and up to 100, such as 99.99."
            )
        return Percentile(percent)
    if base not in RANGE_METHODS or number:
        raise OptionError(f"There is no range method {name!r}{suggest(name, RANGE_METHODS)}")
    return RANGE_METHODS[base]()
