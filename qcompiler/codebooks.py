"""Tables of numbers that weights are looked up in: the entries that lose least, by k-means in one dimension."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

_STEPS = 300
_EXACT_LEVELS = 64
_HISTOGRAM = 4096
_BINS = np.linspace(0, 1, 160)
_FEW_BINS = np.linspace(0, 1, 96)
_ROUNDS = 6
LASTING = 3 / 8
"""The share of zeros from which on they were put there on purpose: a fourth or a third comes about by rounding to integers."""


def codebook(elements: NDArray[Any], levels: int, weights: NDArray[Any] | None = None) -> NDArray[np.float32]:
    """The entries that minimise the weighted squared error of elements replaced by the nearest entry.

    Clusters are intervals of the sorted elements. Of a few hundred bins of these the best intervals are found exactly, by dynamic
    programming (Bruce, 1965); from there Lloyd's iterations (1957) go on with all elements, whose running sums make a step as short as
    finding where the intervals end. With many levels they begin with what is best for smooth densities.

    Args:
        elements: Finite numbers, in any shape.
        levels: How many entries.
        weights: Of the elements, not negative; None for equal ones.

    Returns:
        [levels], in increasing order. Where there are fewer different elements, some entries are alike. One is 0 where zeros have to
        stay zeros, see `lasting_zeros`.
    """
    flat = None if weights is None else np.asarray(weights).reshape(1, -1)
    (entries,) = codebooks(np.asarray(elements).reshape(1, -1), levels, flat)
    return np.asarray(entries, np.float32)


def codebooks(rows: NDArray[Any], levels: int, weights: NDArray[Any] | None = None) -> NDArray[np.float32]:
    """A table for each row, see `codebook`. Of many rows the intervals that they begin with are found among fewer bins.

    Args:
        rows: [rows, elements], finite.
        levels: How many entries.
        weights: Of the elements, of their shape, not negative; None for equal ones.

    Returns:
        [rows, levels], each row in increasing order. All have a 0 where zeros have to stay zeros, see `lasting_zeros`.
    """
    rows = np.asarray(rows, np.float64)
    order = np.argsort(rows, axis=1, kind="stable")
    values = np.take_along_axis(rows, order, axis=1)
    mass = (
        np.ones_like(values)
        if weights is None
        else np.take_along_axis(np.asarray(weights, np.float64), order, axis=1)
    )
    sums = np.zeros((3, len(rows), values.shape[1] + 1))
    for total, item in zip(sums, (mass, mass * values, mass * values**2), strict=True):
        np.cumsum(item, axis=1, out=total[:, 1:])
    bins = _BINS if len(rows) == 1 else _FEW_BINS
    start = np.stack(
        [
            _best_of_bins(row, sums[:, index], levels, bins)
            if levels <= _EXACT_LEVELS
            else _companded(row, levels)
            for index, row in enumerate(values)
        ]
    )
    return _settled(start, values, sums, zero=lasting_zeros(rows) is not None).astype(np.float32)


def lasting_zeros(weights: NDArray[Any]) -> NDArray[np.bool_] | None:
    """Where weights are 0 and have to stay 0, because so many are that they were pruned; None where some happen to be."""
    zeros = np.asarray(weights == 0)
    return zeros if zeros.any() and zeros.mean() >= LASTING else None


class SortedRows:
    """Rows of increasing numbers, laid one behind the other on a line, with room in between: one search serves them all."""

    def __init__(self, rows: Floats) -> None:
        """Takes [rows, elements], finite."""
        self._rows, index = rows, np.arange(len(rows))[:, None]
        span = rows[:, -1:] - rows[:, :1]
        self._low, self._span = rows[:, :1], np.where(span > 0, span, 1.0)
        self._room, self._begins = 4.0 * index, index * rows.shape[1]
        self._line = (self._relative(rows) + self._room).reshape(-1)

    def places(self, x: Floats) -> NDArray[np.intp]:
        """How many numbers of its row are less than each of x, [rows, any]; of several rows, up to rounding errors of the line."""
        if len(self._rows) == 1:
            return np.asarray(np.searchsorted(self._rows[0], x))
        near = np.clip(self._relative(x), -1.0, 2.0)
        return np.asarray(np.searchsorted(self._line, near + self._room) - self._begins)

    def _relative(self, x: Floats) -> Floats:
        """From the first number of its row, in units of how long that is."""
        return np.asarray((x - self._low) / self._span)


def _companded(values: Floats, levels: int) -> Floats:
    """Entries as dense as the cube root of the density of the elements, which is best for many levels (Panter and Dite, 1951)."""
    counts, edges = np.histogram(values, bins=_HISTOGRAM)
    share = np.concatenate([[0.0], np.cumsum(np.cbrt(counts))])
    return np.asarray(np.interp((np.arange(levels) + 0.5) / levels * share[-1], share, edges))


def _best_of_bins(values: Floats, sums: Floats, levels: int, bins: Floats) -> Floats:
    """Centres of the best intervals whose ends are ends of bins; half of the bins hold as many elements each, half are as wide."""
    ends = np.concatenate([np.quantile(values, bins), values[0] + (values[-1] - values[0]) * bins])
    places = np.unique(np.concatenate([[0], np.searchsorted(values, ends), [len(values)]]))
    if len(values) <= 2 * len(bins):
        places = np.arange(len(values) + 1)
    count, first, second = (part[None, :] - part[:, None] for part in sums[:, places])
    cost = second - np.divide(first**2, count, out=np.zeros_like(first), where=count > 0)
    cost = np.where(np.tri(len(places), k=-1, dtype=bool), np.inf, np.maximum(cost, 0.0))
    least, begins = cost[0], []
    for _ in range(levels - 1):  # one interval more: where it begins, for every place where it may end
        total = least[:, None] + cost
        begins.append(total.argmin(axis=0))
        least = total.min(axis=0)
    cuts = [len(places) - 1]
    for begin in reversed(begins):
        cuts.append(int(begin[cuts[-1]]))
    return _centres(places[np.array([*cuts, 0])[::-1]], sums, np.full(levels, values[0]))


def _centres(ends: NDArray[Any], sums: Floats, otherwise: Floats) -> Floats:
    """Means of the intervals between places in the sorted elements; what is given for those that are empty."""
    count, first = (np.diff(np.take_along_axis(part, ends, axis=-1)) for part in sums[:2])
    return np.sort(np.divide(first, count, out=otherwise.copy(), where=count > 0))


def _settled(entries: Floats, values: Floats, sums: Floats, *, zero: bool) -> Floats:
    """Entries from which no step leads further; with `zero`, the one of each row that is nearest to 0 is 0."""
    ordered, rows = SortedRows(values), np.arange(len(values))
    ends = np.zeros((len(values), entries.shape[1] + 1), np.intp)
    ends[:, -1] = values.shape[1]
    for _ in range(_STEPS):
        ends[:, 1:-1] = ordered.places((entries[:, 1:] + entries[:, :-1]) / 2)
        moved = _centres(ends, sums, entries)
        if zero:
            moved[rows, np.abs(moved).argmin(axis=1)] = 0.0
        if np.array_equal(moved, entries):
            break
        entries = moved
    return entries


def scaled_codebook(rows: NDArray[Any], levels: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """One table for rows that have a scale each: entries and scales that lose least, found in turn.

    Args:
        rows: [channels, elements], finite.
        levels: How many entries.

    Returns:
        Scales, [channels], positive; and the table, [levels].
    """
    rows = np.asarray(rows, np.float64)
    largest = np.abs(rows).max(axis=1)
    scale = np.where(largest > 0, largest, 1.0)
    for _ in range(_ROUNDS):
        table = codebook(
            rows / scale[:, None], levels, np.broadcast_to(scale[:, None] ** 2, rows.shape)
        ).astype(np.float64)
        edges = (table[1:] + table[:-1]) / 2
        taken = table[np.searchsorted(edges, rows / scale[:, None])]
        power, product = (taken * taken).sum(axis=1), (taken * rows).sum(axis=1)
        scale = np.where((power > 0) & (product > 0), product / np.where(power > 0, power, 1.0), scale)
    return scale.astype(np.float32), table.astype(np.float32)
