"""Collecting statistics: samples go through the observing graph while a second thread counts the batch before.

Memory does not depend on the number of samples: a batch of drawn elements is in flight, and histograms hold counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
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
_PENDING_BYTES = 16 << 20  # drawn elements kept before they are counted: counting many at once is cheaper


def collect(
    graph: Graph,
    values: Iterable[str],
    source: Data,
    *,
    batch: int = 8,
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
        batch: How many samples to run at once where the model leaves it open. The statistics do not depend on it but for the
            last bits in which onnxruntime's own results may.
        per_channel: Channel axis by name, of values to observe per channel as well.
        drawn: How many elements to draw per sample and value for the histogram; smaller tensors are counted whole.
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
    session = Session(observing.graph, threads=threads)
    collector = _Collector(observing)
    done, total = 0, source.count
    with ThreadPoolExecutor(1) as worker:
        counting: Future[int] | None = None
        for results in session.stream(source, 1 if observing.single else batch):
            if counting is not None:
                done += counting.result()
                if progress is not None:
                    progress(done, total)
            counting = worker.submit(collector.update, results)
        if counting is not None:
            done += counting.result()
    entries = collector.result()
    if progress is not None:
        progress(total, total)
    whole = {entry.name: entry for entry in entries if entry.axis is None}
    by_channel = {entry.name: entry for entry in entries if entry.axis is not None}
    return Statistics(fingerprint(graph), whole, by_channel)


class _Collector:
    """Turns the matrices of `Observing` into statistics."""

    def __init__(self, observing: Observing) -> None:
        self._outputs = observing.outputs
        self._observations = observing.observations
        self._groups = [_Group(observation) for observation in self._observations]
        self._samples = 0
        self._pending = 0

    def update(self, results: Mapping[str, NDArray[Any]]) -> int:
        """Takes in one run; returns how many samples it was."""
        matrices = {}
        for kind, name in self._outputs.items():
            matrices[kind] = results[name].reshape(-1, results[name].shape[-1])
        count = len(matrices["high"])
        for group in self._groups:
            bad = group.update(matrices)
            if bad is not None:
                raise DataError(
                    f"The model computes NaN for the value {group.observation.name!r} of sample {self._samples + bad}, so there is no range to "
                    "calibrate; check the model in fp32 on this sample, or leave the sample out."
                )
        self._samples += count
        self._pending += matrices["drawn"].nbytes
        if self._pending > _PENDING_BYTES:
            self._flush()
        return count

    def _flush(self) -> None:
        for group in self._groups:
            group.flush()
        self._pending = 0

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
        self._sums = [ExactSum.zeros(channels) for _ in range(3)]
        self._drawn, self._extremes = Histogram.empty(), Histogram.empty()
        self._elements = 0
        self._waiting: list[NDArray[np.float32]] = []
        self._waiting_extremes: list[NDArray[np.float32]] = []

    def update(self, matrices: Mapping[str, NDArray[Any]]) -> int | None:
        """Takes in one run; returns the row of a NaN if there is one."""
        seen = self.observation
        high = matrices["high"][:, seen.high.slice]
        drawn = matrices["drawn"][:, seen.drawn.slice]
        if seen.axis is None:
            high = high.max(axis=1, keepdims=True)
        low = np.zeros_like(high) if seen.low is None else matrices["low"][:, seen.low.slice]
        for array in (high, low, drawn):
            bad = np.isnan(array).any(axis=1)
            if bad.any():
                return int(np.argmax(bad))
        high, low = np.clip(high, 0.0, _LARGEST), np.clip(low, -_LARGEST, 0.0)
        self._high, self._low = (
            np.maximum(self._high, high.max(axis=0)),
            np.minimum(self._low, low.min(axis=0)),
        )
        self._waiting.append(drawn)
        self._waiting_extremes.append(np.stack([low, high]))
        if seen.means is not None:
            means = np.clip(matrices["means"][:, seen.means.slice], -_LARGEST, _LARGEST)
            self._sums[2] += ExactSum.of(means)
        each = seen.elements if seen.size is None else int(matrices["sizes"][0, seen.size]) * seen.channels
        assert each is not None
        self._elements += len(high) * each
        return None

    def flush(self) -> None:
        """Counts what is waiting."""
        if not self._waiting:
            return
        seen = self.observation
        numbers, extremes = np.concatenate(self._waiting), np.concatenate(self._waiting_extremes, axis=1)
        self._sums[0] += ExactSum.of(extremes[0])
        self._sums[1] += ExactSum.of(extremes[1])
        if seen.axis is None:
            self._drawn += Histogram.of(numbers)
            self._extremes += Histogram.of(extremes[extremes != 0])
        else:
            rows = np.arange(seen.channels, dtype=np.uint32)
            shape = (
                (len(numbers), -1, seen.channels) if seen.channel_last else (len(numbers), seen.channels, -1)
            )
            self._drawn += Histogram.of(numbers.reshape(shape), rows if seen.channel_last else rows[:, None])
            some = extremes != 0
            self._extremes += Histogram.of(extremes[some], np.broadcast_to(rows, extremes.shape)[some])
        self._waiting, self._waiting_extremes = [], []

    def statistics(self, samples: int) -> ValueStatistics:
        """What was taken in."""
        seen = self.observation
        return ValueStatistics(
            seen.name,
            seen.axis,
            samples,
            self._elements // seen.channels,
            self._low,
            self._high,
            self._sums[0],
            self._sums[1],
            self._drawn,
            self._extremes,
            None if seen.axis is None else self._sums[2],
        )
