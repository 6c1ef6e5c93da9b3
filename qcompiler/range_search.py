"""Ranges found by search: least squared error and least divergence. All candidates of a search are computed at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qcompiler.distribution import Distribution, Floats, Indices, Range, grid, nudged, shaped


@dataclass(frozen=True)
class MSE:
    """The range of least mean squared quantization error, clipping included.

    A bin's elements are taken as spread evenly between its edges, and the error of rounding and clipping them is
    integrated in closed form: in units of the step, the integral of (t - Q(t))^2 from 0 to u is n/12 + (u - n)^3/3, where n is u
    rounded to the nearest code that exists. This holds for bins narrower and wider than a step and beyond both ends.
    The search goes through limits on the magnitude, 10 octaves down from the full range, then finer around the best; with an
    asymmetric range it then moves each end alone. The full range is a candidate, so the result is never worse.
    """

    name: str = "mse"

    def __call__(self, values: Distribution, *, levels: int = 256, symmetric: bool = False) -> Range:
        """As `RangeMethod`."""
        low, high = shaped(values.low, values.high, symmetric=symmetric)
        if high == low or not len(values.weights):
            return low, high
        bins = _Bins(values, low, high, levels)
        best = _search(bins, (low, high), (low, high), levels, symmetric=symmetric)
        if not symmetric and low and high:
            best = _search(bins, best, (0.0, best[1]), levels, symmetric=False)
            best = _search(bins, best, (best[0], 0.0), levels, symmetric=False)
        return nudged(*best, levels, symmetric=symmetric)


_COARSE = np.exp2(-np.arange(21) / 2.0)
_FINE = np.exp2(np.linspace(-0.5, 0.5, 17))


def _search(bins: _Bins, start: Range, moving: Range, levels: int, *, symmetric: bool) -> Range:
    """The best range whose moving ends are cut at a common limit on their magnitude; 0 stands for an end that stays."""
    low, high = start
    limit = reach = max(-moving[0], moving[1])
    for ratios in (_COARSE, _FINE):
        limits = np.minimum(limit * ratios, reach)
        lows = np.maximum(start[0], -limits) if moving[0] else np.full(len(limits), start[0])
        highs = np.minimum(start[1], limits) if moving[1] else np.full(len(limits), start[1])
        best = int(np.argmin(bins.errors(lows, highs, levels, symmetric=symmetric)))
        low, high, limit = float(lows[best]), float(highs[best]), float(limits[best])
    return low, high


class _Bins:
    """The bins of a distribution, prepared for many candidates."""

    def __init__(self, values: Distribution, low: float, high: float, levels: int) -> None:
        # What rounds to 0 whatever the candidate has the same error with all of them.
        negligible = 2.0**-11 * max(-low, high) / levels / 2
        keep = (np.abs(values.lower) > negligible) | (np.abs(values.upper) > negligible)
        self._lower, self._upper, self._weights = values.lower[keep], values.upper[keep], values.weights[keep]
        self._points = self._upper <= self._lower
        width = np.where(self._points, 1.0, self._upper - self._lower)
        self._density = np.where(self._points, 0.0, self._weights / width)
        # Neighbouring bins share an edge, which halves the work.
        self._edges, index = np.unique(np.concatenate([self._lower, self._upper]), return_inverse=True)
        self._first, self._last = index[: len(self._lower)], index[len(self._lower) :]
        # sum(density * (integral(upper) - integral(lower))) as one product over edges.
        self._factors = np.bincount(self._last, self._density, len(self._edges))
        self._factors -= np.bincount(self._first, self._density, len(self._edges))

    def errors(self, lows: Floats, highs: Floats, levels: int, *, symmetric: bool) -> Floats:
        """The summed squared error of each candidate range."""
        steps, first = (array[:, None] for array in grid(lows, highs, levels, symmetric=symmetric))
        units = self._edges / steps
        codes = np.clip(np.rint(units), first, first + (levels - 1))
        residues = units - codes
        cubes = residues * residues * residues
        total = (codes / 12.0 + cubes / 3.0) @ self._factors * steps[:, 0] ** 3
        if self._points.any():
            squares = residues[:, self._first[self._points]] ** 2
            total += squares @ self._weights[self._points] * steps[:, 0] ** 2
        return np.asarray(total, np.float64)


@dataclass(frozen=True)
class Entropy:
    """The clipped range whose quantized distribution diverges least (Kullback-Leibler) from the unclipped one.

    After S. Migacz, "8-bit inference with TensorRT", 2017: a histogram of even bins; per candidate, P is the histogram with
    what is clipped added to its end bins, and Q is the histogram inside, merged to the levels and spread evenly over
    those bins of a level that are not empty. Exact zeros are left out of both. Differences from the usual code: all
    candidates come from prefix sums; an end bin that is empty but for what is clipped has a floor in Q instead of an
    infinite divergence; levels cut the bins evenly, without a larger last one; one limit on the magnitude cuts both ends.
    """

    name: str = "entropy"

    def __call__(self, values: Distribution, *, levels: int = 256, symmetric: bool = False) -> Range:
        """As `RangeMethod`."""
        low, high = shaped(values.low, values.high, symmetric=symmetric)
        if high == low or not len(values.weights):
            return low, high
        groups = levels // 2 if symmetric else levels
        bins = max(16 * groups, 2048)
        start = 0.0 if symmetric else low
        mass = _rebinned(values, np.linspace(start, high, bins + 1), magnitude=symmetric)
        if not mass.any():
            return low, high
        limits = max(-low, high) * np.linspace(1.0, groups / bins, _CANDIDATES)
        width = (high - start) / bins
        first = np.rint((np.maximum(start, -limits) - start) / width).astype(np.int64)
        last = np.rint((np.minimum(high, limits) - start) / width).astype(np.int64)
        last = np.minimum(np.maximum(last, first + groups), bins)
        first = np.minimum(first, last - groups)
        best = int(np.argmin(_divergences(mass / mass.sum(), first, last, groups)))
        if first[best] == 0 and last[best] == bins:
            return nudged(low, high, levels, symmetric=symmetric)
        low, high = start + float(first[best]) * width, start + float(last[best]) * width
        return nudged(*shaped(low, high, symmetric=symmetric), levels, symmetric=symmetric)


_CANDIDATES = 128
_FLOOR = 1e-9


def _rebinned(values: Distribution, edges: Floats, *, magnitude: bool) -> Floats:
    """The weight between even edges, of the numbers or of their magnitudes; exact zeros are left out."""
    lower, upper, weights = values.lower, values.upper, values.weights
    some = np.maximum(np.abs(lower), np.abs(upper)) >= np.finfo(np.float32).tiny
    negative = lower + upper < 0
    if not magnitude:
        return _spread(lower[some], upper[some], weights[some], edges)
    left, right = some & negative, some & ~negative
    mirrored = _spread(-upper[left][::-1], -lower[left][::-1], weights[left][::-1], edges)
    return mirrored + _spread(lower[right], upper[right], weights[right], edges)


def _spread(lower: Floats, upper: Floats, weights: Floats, edges: Floats) -> Floats:
    """Weights of ascending disjoint bins, spread evenly inside each, summed between other edges."""
    points = upper <= lower
    where = np.clip(np.searchsorted(edges, lower[points], "right") - 1, 0, len(edges) - 2)
    total: Floats = np.bincount(where, weights[points], len(edges) - 1).astype(np.float64)
    if points.all():
        return total
    below = np.concatenate([[0.0], np.cumsum(weights[~points])])
    knots = np.stack([lower[~points], upper[~points]], axis=1).ravel()
    heights = np.stack([below[:-1], below[1:]], axis=1).ravel()
    total += np.diff(np.interp(edges, knots, heights))
    return total


def _divergences(mass: Floats, first: Indices, last: Indices, groups: int) -> Floats:
    """KL(P || Q), in nats, of keeping the bins from `first` up to `last`, for each candidate."""
    below = np.concatenate([[0.0], np.cumsum(mass)])
    filled = np.concatenate([[0], np.cumsum(mass > 0)])
    information = np.concatenate([[0.0], np.cumsum(_xlogx(mass))])
    kept = below[last] - below[first]
    cuts = np.rint(np.linspace(first, last, groups + 1, axis=1)).astype(np.int64)
    sums, counts = np.diff(below[cuts]), np.diff(filled[cuts])
    heights = np.maximum(sums / np.maximum(counts, 1) / np.maximum(kept, _FLOOR)[:, None], _FLOOR)
    divergence = information[last] - information[first] - (sums * np.log(heights)).sum(axis=1)
    for clipped, end, height in (
        (below[first], first, heights[:, 0]),
        (1.0 - below[last], last - 1, heights[:, -1]),
    ):
        clipped = np.maximum(clipped, 0.0)
        divergence += _xlogx(mass[end] + clipped) - _xlogx(mass[end]) - clipped * np.log(height)
    return np.where(kept > 0, divergence, np.inf)


def _xlogx(x: Floats) -> Floats:
    result: Floats = x * np.log(np.where(x > 0, x, 1.0))
    return result
