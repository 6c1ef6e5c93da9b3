"""Collecting statistics: samples go through the observing graph, and what comes out is counted.

Memory does not depend on the number of samples: some megabytes of drawn elements wait to be counted, and histograms hold
counts. Counting takes a tenth of the time; a second thread for it was measured to cost more than it gains, because it takes
a core from onnxruntime.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from qcompiler.data import Data, DataSource
from qcompiler.errors import DataError
from qcompiler.exact import ExactSum
from qcompiler.histogram import Histogram
from qcompiler.observers import Observation, Observing, observe
from qcompiler.runtime import Session
from qcompiler.statistics import Statistics, ValueStatistics, fingerprint

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qcompiler.ir.graph import Graph

Progress: TypeAlias = Callable[[int, int], None]
"""Called with the number of samples done and the number of all."""

_LARGEST = float(np.finfo(np.float32).max)
_BATCH_BYTES = 64 << 20
_DYNAMIC = 1 << 16  # elements that a value of unknown size is taken to have
_PENDING_BYTES = 16 << 20  # drawn elements kept before they are counted: counting many at once is cheaper


def collect(
    graph: Graph,
    values: Iterable[str],
    source: Data,
    *,
    batch: int | None = None,
    per_channel: Mapping[str, int] | None = None,
    drawn: int = 1024,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Statistics:
    """Runs all samples and gathers the statistics of values.

    Args:
        graph: The fp32 graph; not changed.
        values: Names of the float values to observe whole.
        source: The samples.
        batch: How many samples to run at once where the model leaves it open; by default so many that the observed values
            fit the cache or nearly so. The statistics depend on it only as onnxruntime's own results may, in their last bits.
        per_channel: Channel axis by name, of values to observe per channel as well.
        drawn: How many elements to draw per sample and value for the histogram at most; see `observe`.
        threads: As in `Session`.
        progress: Told after every batch.

    Raises:
        DataError: The data do not fit the model, or an activation is NaN; says which and for which sample.
        ModelError: A value does not exist or is not of a float type, or the model cannot be run.
    """
    source = DataSource.open(source).validate(graph)
    ranks = {value.name: value.rank for value in graph.inputs}
    bare = any(ranks[name] == len(shape) for name, shape in source.sample_shapes.items())
    observing = observe(graph, values, per_channel, drawn=drawn, has_batch_axis=not bare)
    if not observing.observations:
        return Statistics(fingerprint(graph), {}, {})
    session = Session(observing.graph, threads=threads)
    collector = _Collector(observing)
    done, total = 0, source.count
    for results in session.stream(source, 1 if observing.single else batch or _batch_size(observing)):
        done += collector.update(results)
        if progress is not None:
            progress(done, total)
    entries = collector.result()
    whole = {entry.name: entry for entry in entries if entry.axis is None}
    by_channel = {entry.name: entry for entry in entries if entry.axis is not None}
    return Statistics(fingerprint(graph), whole, by_channel)


def _batch_size(observing: Observing) -> int:
    """As many samples as have 64 MB of observed elements, 1 to 32: small models need many to be fast, large ones are with few."""
    elements = sum(observation.elements or _DYNAMIC for observation in observing.observations)
    return min(max(_BATCH_BYTES // max(4 * elements, 1), 1), 32)


class _Collector:
    """Turns the matrices of `Observing` into statistics. A batch is only checked and kept; counting many at once is cheaper."""

    def __init__(self, observing: Observing) -> None:
        self._outputs = observing.outputs
        self._groups = [_Group(observation) for observation in observing.observations]
        self._samples = 0
        self._waiting: list[dict[str, NDArray[Any]]] = []
        self._bytes = 0

    def update(self, results: Mapping[str, NDArray[Any]]) -> int:
        """Takes in one run; returns how many samples it was."""
        matrices = {}
        for kind, (name, width) in self._outputs.items():
            matrices[kind] = results[name].reshape(-1, width)
            self._bytes += matrices[kind].nbytes
        count = max(map(len, matrices.values()), default=0)
        for kind, matrix in matrices.items():
            if matrix.dtype == np.float32 and np.isnan(matrix).any():
                raise self._not_a_number(kind, np.isnan(matrix))
        self._samples += count
        matrices["samples"] = np.array([count])
        self._waiting.append(matrices)
        if self._bytes > _PENDING_BYTES:
            self._flush()
        return count

    def _not_a_number(self, kind: str, bad: NDArray[np.bool_]) -> DataError:
        row, column = (int(indices[0]) for indices in np.nonzero(bad))
        name = "?"
        for group in self._groups:
            seen = group.observation
            for columns in (seen.high, seen.low, seen.drawn, seen.means):
                if columns is not None and columns.matrix == kind and columns.start <= column < columns.stop:
                    name = seen.name
        return DataError(
            f"The model computes NaN for the value {name!r} of sample {self._samples + row}, so there is no range to "
            "calibrate; check the model in fp32 on this sample, or leave the sample out."
        )

    def _flush(self) -> None:
        if not self._waiting:
            return
        matrices = {kind: np.concatenate([part[kind] for part in self._waiting]) for kind in self._waiting[0]}
        self._waiting, self._bytes = [], 0
        for group in self._groups:
            group.update(matrices)

    def result(self) -> list[ValueStatistics]:
        """The statistics of everything taken in."""
        self._flush()
        return [group.statistics(self._samples) for group in self._groups]


class _Group:
    """One observation in the making."""

    def __init__(self, observation: Observation) -> None:
        self.observation = observation
        channels = observation.channels
        self._low = np.zeros(channels, np.float32)
        self._high = np.zeros(channels, np.float32)
        self._low_sum, self._high_sum, self._mean_sum = (ExactSum.zeros(channels) for _ in range(3))
        self._drawn, self._extremes = Histogram.empty(), Histogram.empty()
        self._elements = 0

    def update(self, matrices: Mapping[str, NDArray[Any]]) -> None:
        """Takes in some runs."""
        seen = self.observation
        high, drawn = seen.high.of(matrices), seen.drawn.of(matrices)
        rows: NDArray[np.uint32] | None = None
        if seen.axis is None:
            high = high.max(axis=1, keepdims=True)
        else:
            rows = np.arange(seen.channels, dtype=np.uint32)
            shape = (-1, seen.channels) if seen.channel_last else (seen.channels, -1)
            drawn = drawn.reshape(len(drawn), *shape)
        low = np.zeros_like(high) if seen.low is None else seen.low.of(matrices)
        high, low = np.clip(high, 0.0, _LARGEST), np.clip(low, -_LARGEST, 0.0)
        self._high, self._low = (
            np.maximum(self._high, high.max(axis=0)),
            np.minimum(self._low, low.min(axis=0)),
        )
        self._low_sum += ExactSum.of(low)
        self._high_sum += ExactSum.of(high)
        for ends in (low, high):
            some = ends != 0
            at = None if rows is None else np.broadcast_to(rows, ends.shape)[some]
            self._extremes += Histogram.of(ends[some], at)
        across = rows if rows is None or seen.channel_last else rows[:, None]
        self._drawn += Histogram.of(drawn, across)
        if seen.means is not None:
            means = np.clip(seen.means.of(matrices), -_LARGEST, _LARGEST)
            self._mean_sum += ExactSum.of(means)
        self._elements += self._count(matrices, len(high))

    def _count(self, matrices: Mapping[str, NDArray[Any]], samples: int) -> int:
        """How many elements (per channel) the runs had."""
        seen = self.observation
        if seen.elements is not None:
            return samples * seen.elements // seen.channels
        assert seen.size is not None
        return int(matrices["samples"] @ seen.size.of(matrices)[:, 0])

    def statistics(self, samples: int) -> ValueStatistics:
        """What was taken in."""
        seen = self.observation
        return ValueStatistics(
            seen.name,
            seen.axis,
            samples,
            self._elements,
            self._low,
            self._high,
            self._low_sum,
            self._high_sum,
            self._drawn,
            self._extremes,
            None if seen.axis is None else self._mean_sum,
        )
