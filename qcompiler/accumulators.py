"""The sums behind the metrics, taken in batch by batch. See `qcompiler.metrics`."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from qcompiler.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

Arrays: TypeAlias = "Mapping[str, NDArray[Any]]"
"""Outputs by name, samples on the first axis."""
UserFunction: TypeAlias = (
    "Callable[[dict[str, NDArray[Any]], NDArray[Any] | None, dict[str, NDArray[Any]]], float]"
)
"""f(outputs, labels, reference): outputs and reference (the fp32 model's outputs) by name, labels or None."""


_NO_SAMPLES = "There are no samples to evaluate; at least one is needed."


class Accumulator(ABC):
    """A metric in the making.

    Attributes:
        outcomes: Of a metric that is the share of samples for which something holds: whether it does, by batch.
    """

    outcomes: list[NDArray[np.bool_]] | None = None

    @abstractmethod
    def update(self, outputs: Arrays, labels: NDArray[Any] | None, reference: Arrays) -> None:
        """Takes in a batch: outputs, the labels of its samples, and the fp32 model's outputs for them.

        Raises:
            DataError: The metric does not fit these outputs or labels.
        """

    @abstractmethod
    def result(self) -> float:
        """The metric over everything taken in.

        Raises:
            DataError: There was nothing, or the user's function failed.
        """


# -- with labels -----------------------------------------------------------------------------------------------


def _scores(outputs: Arrays, metric: str) -> NDArray[Any]:
    """The first output as [samples, classes]."""
    name, scores = next(iter(outputs.items()))
    flat = scores.reshape(len(scores), -1) if scores.ndim and len(scores) else scores
    if flat.ndim != 2 or flat.shape[1] < 2 or (scores.ndim > 2 and max(scores.shape[2:]) > 1):
        raise DataError(
            f"The metric {metric} needs scores per class, an output of the shape (samples, classes); the model's first output {name!r} "
            f"has the shape {scores.shape}. Use sqnr, or a function of your own as module:function."
        )
    return flat


def _hits(scores: NDArray[Any], classes: NDArray[Any], k: int) -> NDArray[np.bool_]:
    """Which rows have their class among the k best; ties go to the lower index, rows with NaN miss."""
    rows = np.arange(len(scores))
    own = scores[rows, classes][:, None]
    index = np.arange(scores.shape[1])
    ahead = (scores > own) | ((scores == own) & (index < classes[:, None]))
    found: NDArray[np.bool_] = (ahead.sum(axis=1) < k) & ~np.isnan(scores).any(axis=1)
    return found


class TopK(Accumulator):
    """How often the label is among the k best classes."""

    outcomes: list[NDArray[np.bool_]]

    def __init__(self, k: int) -> None:
        self._k = k
        self.outcomes = []

    def update(self, outputs: Arrays, labels: NDArray[Any] | None, reference: Arrays) -> None:
        """As `Accumulator.update`."""
        name = f"top{self._k}"
        scores = _scores(outputs, name)
        if labels is None:
            raise DataError(
                f"The metric {name} needs labels, and the data have none; add an integer array 'labels' with one class index per sample, "
                "or use agreement or sqnr, which compare with the fp32 model."
            )
        labels = np.asarray(labels)
        if labels.ndim == 2 and labels.shape[1] == 1:
            labels = labels[:, 0]
        if labels.dtype.kind not in "iu" or labels.ndim != 1:
            raise DataError(
                f"The metric {name} needs one class index per sample as labels; these are {labels.dtype} of the shape {labels.shape}. "
                "Use sqnr, or a function of your own as module:function."
            )
        if len(labels) != len(scores):
            raise DataError(
                f"There are {len(labels)} labels for {len(scores)} outputs; give one label per sample."
            )
        outside = labels[(labels < 0) | (labels >= scores.shape[1])]
        if outside.size:
            raise DataError(
                f"There is a label {outside[0]}, but the model's first output has the classes 0 to {scores.shape[1] - 1}; "
                "check that the labels belong to this model and start at 0."
            )
        self.outcomes.append(_hits(scores, labels.astype(np.int64), self._k))

    def result(self) -> float:
        """As `Accumulator.result`."""
        return _share(self.outcomes)


class Agreement(Accumulator):
    """How often the best class is the fp32 model's."""

    outcomes: list[NDArray[np.bool_]]

    def __init__(self) -> None:
        self.outcomes = []

    def update(self, outputs: Arrays, labels: NDArray[Any] | None, reference: Arrays) -> None:
        """As `Accumulator.update`."""
        scores, expected = _scores(outputs, "agreement"), _scores(reference, "agreement")
        _same_shape(next(iter(outputs)), expected, scores)
        self.outcomes.append(_hits(scores, expected.argmax(axis=1), 1))

    def result(self) -> float:
        """As `Accumulator.result`."""
        return _share(self.outcomes)


def _share(outcomes: list[NDArray[np.bool_]]) -> float:
    count = sum(map(len, outcomes))
    if not count:
        raise DataError(_NO_SAMPLES)
    return sum(int(part.sum()) for part in outcomes) / count


# -- with the fp32 outputs ---------------------------------------------------------------------------------------


@dataclass
class Sums:
    """Running sums over all elements of one output, in double precision."""

    signal: float = 0.0
    power: float = 0.0
    product: float = 0.0
    noise: float = 0.0
    absolute: float = 0.0
    magnitude: float = 0.0
    count: int = 0

    def add(self, reference: NDArray[Any], approximation: NDArray[Any]) -> None:
        """Takes in an output and what it should be, of the same shape."""
        a, b = (np.asarray(array, np.float64).ravel() for array in (reference, approximation))
        with np.errstate(all="ignore"):
            difference = a - b
            self.signal += float(a @ a)
            self.power += float(b @ b)
            self.product += float(a @ b)
            self.noise += float(difference @ difference)
            self.absolute += float(np.abs(difference).sum())
            self.magnitude += float(np.abs(a).sum())
            self.count += a.size

    def sqnr_db(self) -> float:
        """See `qcompiler.metrics.sqnr_db`."""
        if self.noise == 0.0:
            return math.inf
        if self.signal == 0.0 or not math.isfinite(self.noise):
            return -math.inf
        return 10.0 * (math.log10(self.signal) - math.log10(self.noise))

    def cosine(self) -> float:
        """Cosine of the angle between both as vectors: 1 for two zero vectors, 0 for one, -1 for NaN."""
        norms = math.sqrt(self.signal) * math.sqrt(self.power) if self.power >= 0 else math.nan
        if norms == 0.0:
            return 1.0 if self.signal == self.power else 0.0
        return min(self.product / norms, 1.0) if math.isfinite(norms) else -1.0

    def mse(self) -> float:
        """Mean squared difference."""
        return _finite(self.noise / self.count)

    def mae(self) -> float:
        """Mean absolute difference."""
        return _finite(self.absolute / self.count)

    def relative_error(self) -> float:
        """sum|reference - approximation| / sum|reference|."""
        if self.absolute == 0.0:
            return 0.0
        return _finite(self.absolute / self.magnitude) if self.magnitude else math.inf


def _finite(value: float) -> float:
    return value if math.isfinite(value) else math.inf


class WorstOutput(Accumulator):
    """A number per output; the worst one counts."""

    def __init__(self, number: Callable[[Sums], float], worst: Callable[[list[float]], float]) -> None:
        self._number, self._worst = number, worst
        self._sums: dict[str, Sums] = {}

    def update(self, outputs: Arrays, labels: NDArray[Any] | None, reference: Arrays) -> None:
        """As `Accumulator.update`."""
        for name, array in outputs.items():
            _same_shape(name, reference.get(name), array)
            self._sums.setdefault(name, Sums()).add(reference[name], array)

    def result(self) -> float:
        """As `Accumulator.result`."""
        if not any(sums.count for sums in self._sums.values()):
            raise DataError("There are no samples to evaluate; at least one is needed.")
        return self._worst([self._number(sums) for sums in self._sums.values() if sums.count])


class Divergence(Accumulator):
    """Mean over samples of KL(reference || output), in nats; rows that are no distribution go through softmax."""

    def __init__(self) -> None:
        self._total, self._count = 0.0, 0

    def update(self, outputs: Arrays, labels: NDArray[Any] | None, reference: Arrays) -> None:
        """As `Accumulator.update`."""
        scores, expected = _scores(outputs, "kl"), _scores(reference, "kl")
        _same_shape(next(iter(outputs)), expected, scores)
        is_distribution = bool((expected >= 0).all() and np.allclose(expected.sum(axis=1), 1.0, atol=1e-3))
        p, q = (_log_distribution(array, is_distribution) for array in (expected, scores))
        self._total += float((np.exp(p) * (p - q)).sum())
        self._count += len(scores)

    def result(self) -> float:
        """As `Accumulator.result`."""
        if not self._count:
            raise DataError(_NO_SAMPLES)
        return _finite(self._total / self._count)


def _log_distribution(rows: NDArray[Any], is_distribution: bool) -> NDArray[np.float64]:
    rows = rows.astype(np.float64)
    if is_distribution:  # quantized probabilities reach 0 and need not sum to 1
        rows = np.maximum(rows, 1e-12)
        normal: NDArray[np.float64] = np.log(rows / rows.sum(axis=1, keepdims=True))
        return normal
    rows = rows - rows.max(axis=1, keepdims=True)
    soft: NDArray[np.float64] = rows - np.log(np.exp(rows).sum(axis=1, keepdims=True))
    return soft


def _same_shape(name: str, reference: NDArray[Any] | None, array: NDArray[Any]) -> None:
    if reference is None or reference.shape != array.shape:
        given = "does not exist" if reference is None else f"has the shape {reference.shape}"
        raise DataError(
            f"The output {name!r} has the shape {array.shape}, but in the fp32 model it {given}; "
            "compare a model with the fp32 model that it was made from."
        )


# -- users' functions --------------------------------------------------------------------------------------------


class UserAccumulator(Accumulator):
    """Keeps everything for a function that wants it at once."""

    def __init__(self, name: str, function: UserFunction) -> None:
        self._name, self._function = name, function
        self._outputs: dict[str, list[NDArray[Any]]] = {}
        self._reference: dict[str, list[NDArray[Any]]] = {}
        self._labels: list[NDArray[Any]] | None = []

    def update(self, outputs: Arrays, labels: NDArray[Any] | None, reference: Arrays) -> None:
        """As `Accumulator.update`."""
        for store, arrays in ((self._outputs, outputs), (self._reference, reference)):
            for name, array in arrays.items():
                store.setdefault(name, []).append(array)
        if labels is None:
            self._labels = None
        elif self._labels is not None:
            self._labels.append(labels)

    def result(self) -> float:
        """As `Accumulator.result`."""
        outputs, reference = (
            {name: np.concatenate(parts) for name, parts in store.items()}
            for store in (self._outputs, self._reference)
        )
        labels = np.concatenate(self._labels) if self._labels else None
        try:
            value = float(self._function(outputs, labels, reference))
        except Exception as error:
            raise DataError(
                f"The metric {self._name} failed with {type(error).__name__}: {error}. It is called as "
                "f(outputs, labels, reference) with arrays by output name, labels or None, and returns a number."
            ) from error
        if math.isnan(value):
            raise DataError(f"The metric {self._name} returned NaN; it must return a number for these data.")
        return value
