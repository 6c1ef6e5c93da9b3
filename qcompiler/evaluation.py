"""Runs models side by side on data and measures what they differ by."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from qcompiler.accumulators import Sums
from qcompiler.metrics import Metric, auto

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qcompiler.data import DataSource

Arrays = Mapping[str, "NDArray[Any]"]


class Runnable(Protocol):
    """What runs all samples of a source, yielding outputs with samples on the first axis; see `qcompiler.runtime.Session`."""

    def stream(self, source: DataSource, batch: int = 32) -> Iterator[Arrays]:
        """Runs every sample, some at a time."""
        ...


@dataclass(frozen=True)
class Measured:
    """What one model did on the data, against the first.

    Attributes:
        metric: The metric's value.
        sqnr_db: Signal to quantization noise over all outputs together, dB; inf for the same numbers.
        max_abs_diff: Largest difference of an output element from the first model's.
        mean_abs_diff: Mean difference.
        outcomes: Where the metric is a share of samples, whether each counts; else None.
    """

    metric: float
    sqnr_db: float
    max_abs_diff: float
    mean_abs_diff: float
    outcomes: NDArray[np.bool_] | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Evaluation:
    """Models by label, measured on the same samples.

    Attributes:
        metric: The metric that was used.
        samples: How many samples went in.
        models: By label, in the given order; the first one is the reference.
    """

    metric: Metric
    samples: int
    models: Mapping[str, Measured]

    def drop(self, label: str) -> float:
        """How much worse a model's metric is than the reference's, in the metric's own unit."""
        return self.metric.drop(next(iter(self.models.values())).metric, self.models[label].metric)

    def drop_error(self, label: str) -> float | None:
        """Half the width of the 95 % confidence interval of `drop`, from the samples on which the two differ.

        The samples are the same, so only those count that one model gets right and the other does not (as in McNemar's test,
        1947). One disagreement each way is added: agreement on few samples proves little. None for other metrics.
        """
        before, after = next(iter(self.models.values())).outcomes, self.models[label].outcomes
        if before is None or after is None or not len(before):
            return None
        lost, won = int((before & ~after).sum()) + 1, int((after & ~before).sum()) + 1
        count = len(before)
        return 1.96 * math.sqrt(max(lost + won - (lost - won) ** 2 / count, 0.0)) / count


def evaluate_models(
    models: Mapping[str, Runnable],
    source: DataSource,
    metric: Metric | None,
    *,
    batch: int = 16,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Runs all models over the data, batch by batch, and compares them with the first.

    Args:
        models: Sessions, or what else runs samples, by label; the first is the reference, and has the outputs that the others
            must have.
        source: The samples.
        metric: None to choose by the outputs and labels, see `qcompiler.metrics.auto`.
        batch: Samples at once.
        progress: Told the samples done and all.

    Raises:
        DataError: The data or the metric do not fit.
        ModelError: A model cannot be run.
    """
    labels = (
        source.labels if metric is None or metric.needs_labels or metric.name not in _LABEL_FREE else None
    )
    streams = {label: session.stream(source, batch) for label, session in models.items()}
    trackers: dict[str, _Tracker] = {}
    seen = 0
    for outputs in together(streams):
        reference = outputs[next(iter(outputs))]
        count = len(next(iter(reference.values())))
        part = labels[seen : seen + count] if labels is not None else None
        if metric is None:
            metric = auto(reference, labels)
        for label, arrays in outputs.items():
            tracker = trackers.setdefault(label, _Tracker(metric))
            tracker.update({name: arrays[name] for name in reference if name in arrays}, part, reference)
        seen += count
        if progress is not None:
            progress(seen, source.count)
    assert metric is not None, "validated data have samples"
    return Evaluation(metric, seen, {label: tracker.result() for label, tracker in trackers.items()})


_LABEL_FREE = {"agreement", "sqnr", "cosine", "mse", "mae", "relative-error", "kl"}


def together(streams: Mapping[str, Iterator[Arrays]]) -> Iterator[dict[str, Arrays]]:
    """The outputs of several streams, by label, for the same samples: as many at a time as all of them have ready."""
    waiting: dict[str, Arrays] = {}
    while True:
        for label, stream in streams.items():
            if label not in waiting and (rows := next(stream, None)) is not None:
                waiting[label] = rows
        if not waiting:
            return
        assert len(waiting) == len(streams), "every stream runs every sample"
        counts = {label: len(next(iter(rows.values()))) for label, rows in waiting.items()}
        count = min(counts.values())
        yield {label: {name: array[:count] for name, array in waiting[label].items()} for label in streams}
        waiting = {
            label: {name: array[count:] for name, array in rows.items()}
            for label, rows in waiting.items()
            if counts[label] > count
        }


class _Tracker:
    def __init__(self, metric: Metric) -> None:
        self.accumulator = metric.accumulator()
        self.sums = Sums()
        self.largest, self.total, self.count = 0.0, 0.0, 0

    def update(self, outputs: Arrays, labels: NDArray[Any] | None, reference: Arrays) -> None:
        self.accumulator.update(outputs, labels, reference)
        for name, array in outputs.items():
            if array.dtype.kind != "f":
                continue
            gap = np.abs(array.astype(np.float64) - reference[name])
            self.sums.add(reference[name], array)
            self.largest = max(self.largest, float(gap.max(initial=0.0)))
            self.total += float(gap.sum())
            self.count += gap.size

    def result(self) -> Measured:
        mean = self.total / self.count if self.count else 0.0
        parts = self.accumulator.outcomes
        return Measured(
            self.accumulator.result(), self.sums.sqnr_db(), self.largest, mean,
            np.concatenate(parts) if parts else None,
        )  # fmt: skip
