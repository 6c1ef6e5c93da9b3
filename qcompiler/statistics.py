"""Calibration statistics: what a value's elements were over all samples, in a form that merges exactly.

Extremes, integer counts and exact sums are all associative and commutative: statistics of shards, collected anywhere and
merged in any grouping and order, are the same bytes as those of the whole. See `qcompiler.calibration` for how they are
collected.

File form (version 1): an uncompressed zip with fixed timestamps. header.json says the version, the model's fingerprint and,
per entry in order: name, axis (null for a whole tensor), channels, samples, elements, and how many bins its histogram of drawn
elements and its histogram of extremes have. The arrays of all entries are concatenated in low.npy, high.npy, low_sum.npy,
high_sum.npy, mean_sum.npy, keys.npy and counts.npy (the bins of drawn elements, then of extremes, entry by entry).
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import io
import json
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qcompiler.distribution import Distribution
from qcompiler.errors import DataError
from qcompiler.exact import ExactSum
from qcompiler.histogram import Histogram
from qcompiler.ir.onnx_export import to_onnx
from qcompiler.npy import open_npz

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qcompiler.ir.graph import Graph

_VERSION = 1
_CHUNK = 1 << 24


@dataclass(frozen=True)
class ValueStatistics:
    """What one value's elements were: over the whole tensor, or channel by channel.

    An infinity counts as the largest float32 of its sign.

    Attributes:
        name: The value.
        axis: The channel axis; None for the whole tensor.
        samples: How many samples went in.
        elements: How many elements they had together, per channel.
        low: float32 [channels]: the smallest element, or 0 where that is smaller. Exact.
        high: float32 [channels]: the largest element, or 0 where that is larger. Exact.
        low_sum: The sum over samples of each sample's `low`, [channels]. Exact.
        high_sum: The sum over samples of each sample's `high`, [channels]. Exact.
        drawn: The histogram of the drawn elements; a row per channel.
        extremes: The histogram of the samples' `low` and `high` where they are not 0; a row per channel.
        mean_sum: The sum over samples of each sample's mean, [channels]; None for a whole tensor.
    """

    name: str
    axis: int | None
    samples: int
    elements: int
    low: NDArray[np.float32]
    high: NDArray[np.float32]
    low_sum: ExactSum
    high_sum: ExactSum
    drawn: Histogram
    extremes: Histogram
    mean_sum: ExactSum | None = None

    @property
    def channels(self) -> int:
        """How many channels there are; 1 for a whole tensor."""
        return len(self.low)

    @property
    def mean(self) -> NDArray[np.float64] | None:
        """The mean element of each channel, every sample counting alike; None for a whole tensor."""
        return None if self.mean_sum is None else self.mean_sum.mean(self.samples)

    def distribution(self, channel: int = 0) -> Distribution:
        """What ranges are chosen from.

        The drawn elements stand for all. Where they are only a part of them, each sample's extremes join with the weight that
        one element has among the drawn, so that a rare outlier of great size counts even if it was never drawn.
        """
        return self._first if channel == 0 else self._distribution(channel)

    @functools.cached_property
    def _first(self) -> Distribution:
        return self._distribution(0)

    def _distribution(self, channel: int) -> Distribution:
        drawn, elements = self.drawn.row(channel), max(self.elements, 1)
        total = drawn.total
        lower, upper, weights = drawn.bins()
        if total < elements:
            outer = self.extremes.row(channel).bins()
            lower, upper = np.concatenate([lower, outer[0]]), np.concatenate([upper, outer[1]])
            weights = np.concatenate([weights, outer[2] * (total / elements)])
            order = np.argsort(lower + upper, kind="stable")
            lower, upper, weights = lower[order], upper[order], weights[order]
        return Distribution.of(
            float(self.low[channel]),
            float(self.high[channel]),
            float(self._means[0][channel]),
            float(self._means[1][channel]),
            lower,
            upper,
            weights.astype(np.float64),
        )

    @functools.cached_property
    def _means(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return self.low_sum.mean(self.samples), self.high_sum.mean(self.samples)

    def __add__(self, other: ValueStatistics) -> ValueStatistics:
        if (self.name, self.axis, self.channels) != (other.name, other.axis, other.channels):
            raise DataError(
                f"Statistics of {self.name!r} (axis {self.axis}, {self.channels} channels) and of {other.name!r} (axis {other.axis}, "
                f"{other.channels} channels) cannot be merged; collect them from the same model with the same options."
            )
        means = None
        if self.mean_sum is not None and other.mean_sum is not None:
            means = self.mean_sum + other.mean_sum
        return ValueStatistics(
            self.name,
            self.axis,
            self.samples + other.samples,
            self.elements + other.elements,
            np.minimum(self.low, other.low),
            np.maximum(self.high, other.high),
            self.low_sum + other.low_sum,
            self.high_sum + other.high_sum,
            self.drawn + other.drawn,
            self.extremes + other.extremes,
            means,
        )


@dataclass(frozen=True)
class Statistics:
    """The statistics of a model's values.

    Attributes:
        model: The fingerprint of the model that they belong to.
        values: Of whole tensors, by name.
        by_channel: Per channel, by name.
    """

    model: str
    values: Mapping[str, ValueStatistics]
    by_channel: Mapping[str, ValueStatistics] = dataclasses.field(default_factory=dict)

    def __getitem__(self, name: str) -> ValueStatistics:
        return self.values[name]

    def __contains__(self, name: str) -> bool:
        return name in self.values

    def __iter__(self) -> Iterator[str]:
        return iter(self.values)

    @property
    def samples(self) -> int:
        """How many samples went in."""
        return max((entry.samples for entry in self._entries()), default=0)

    def _entries(self) -> list[ValueStatistics]:
        return [store[name] for store in (self.values, self.by_channel) for name in sorted(store)]

    def save(self, path: str | Path) -> None:
        """Writes the statistics; the same statistics give the same bytes. See the top of this file for the form."""
        Path(path).write_bytes(self.to_bytes())

    def to_bytes(self) -> bytes:
        """What `save` writes."""
        entries = self._entries()
        header = {
            "format": "qcompiler statistics",
            "version": _VERSION,
            "model": self.model,
            "entries": [
                {
                    "name": entry.name,
                    "axis": entry.axis,
                    "channels": entry.channels,
                    "samples": entry.samples,
                    "elements": entry.elements,
                    "drawn_bins": len(entry.drawn.keys),
                    "extreme_bins": len(entry.extremes.keys),
                }
                for entry in entries
            ],
        }
        histograms = [histogram for entry in entries for histogram in (entry.drawn, entry.extremes)]
        sums = ExactSum.zeros(0)
        arrays: dict[str, NDArray[Any]] = {
            "low": _joined([entry.low for entry in entries], np.zeros(0, np.float32)),
            "high": _joined([entry.high for entry in entries], np.zeros(0, np.float32)),
            "low_sum": _joined([entry.low_sum.limbs for entry in entries], sums.limbs),
            "high_sum": _joined([entry.high_sum.limbs for entry in entries], sums.limbs),
            "mean_sum": _joined([entry.mean_sum.limbs for entry in entries if entry.mean_sum], sums.limbs),
            "keys": _joined([histogram.keys for histogram in histograms], Histogram.empty().keys),
            "counts": _joined([histogram.counts for histogram in histograms], Histogram.empty().counts),
        }
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
            text = json.dumps(header, sort_keys=True, indent=1).encode()
            archive.writestr(zipfile.ZipInfo("header.json"), text)  # ZipInfo's default date is 1980
            for name, array in arrays.items():
                stream = io.BytesIO()
                np.save(stream, array.astype(array.dtype.newbyteorder("<")))
                archive.writestr(zipfile.ZipInfo(f"{name}.npy"), stream.getvalue())
        return buffer.getvalue()

    @staticmethod
    def load(path: str | Path, graph: Graph | None = None) -> Statistics:
        """Reads statistics.

        Args:
            path: The file.
            graph: The model that they must belong to, exactly as it was when they were collected; None to skip the check.

        Raises:
            DataError: The file is missing, damaged or of another version, or belongs to another model.
        """
        path = Path(path)
        header = _read_header(path)
        if graph is not None and header["model"] != fingerprint(graph):
            raise DataError(
                f"The statistics in {path} were collected from another model (or from another state of this one); "
                "collect them again from this model."
            )
        stored = {name: entry.read() for name, entry in open_npz(path, skip=("header.json",)).items()}
        reader = _Reader(stored)
        stores: tuple[dict[str, ValueStatistics], dict[str, ValueStatistics]] = ({}, {})
        for entry in header["entries"]:
            stores[entry["axis"] is not None][entry["name"]] = reader.entry(entry)
        return Statistics(header["model"], *stores)


class _Reader:
    """Takes the concatenated arrays apart again, front to back."""

    def __init__(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        self._arrays = arrays
        self._at = dict.fromkeys(arrays, 0)

    def _take(self, name: str, count: int) -> NDArray[Any]:
        start = self._at[name]
        self._at[name] = start + count
        return self._arrays[name][start : start + count]

    def _histogram(self, count: int) -> Histogram:
        return Histogram(self._take("keys", count), self._take("counts", count))

    def entry(self, header: Mapping[str, Any]) -> ValueStatistics:
        channels, axis = header["channels"], header["axis"]
        return ValueStatistics(
            header["name"],
            axis,
            header["samples"],
            header["elements"],
            self._take("low", channels),
            self._take("high", channels),
            ExactSum(self._take("low_sum", channels)),
            ExactSum(self._take("high_sum", channels)),
            self._histogram(header["drawn_bins"]),
            self._histogram(header["extreme_bins"]),
            None if axis is None else ExactSum(self._take("mean_sum", channels)),
        )


def _joined(arrays: list[NDArray[Any]], empty: NDArray[Any]) -> NDArray[Any]:
    return np.concatenate(arrays) if arrays else empty


def _read_header(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise DataError(f"There is no statistics file at {path}.")
    try:
        with zipfile.ZipFile(path) as archive:
            header: dict[str, Any] = json.loads(archive.read("header.json"))
    except (zipfile.BadZipFile, KeyError, ValueError, OSError) as error:
        raise DataError(
            f"{path} holds no calibration statistics, or is damaged ({error}). Collect them again."
        ) from error
    if header.get("version") != _VERSION:
        raise DataError(
            f"The statistics in {path} are of version {header.get('version')}; this qcompiler reads version {_VERSION}. Collect them again."
        )
    return header


def merge(*parts: Statistics) -> Statistics:
    """The statistics of all samples together, from those of shards. Exact: grouping and order do not matter.

    Raises:
        DataError: The parts are of different models or of different values.
    """
    first = parts[0]
    for part in parts[1:]:
        if part.model != first.model:
            raise DataError(
                "Statistics of different models cannot be merged; collect all shards from the same model."
            )
        if set(part.values) != set(first.values) or set(part.by_channel) != set(first.by_channel):
            odd = sorted(set(part.values) ^ set(first.values) | set(part.by_channel) ^ set(first.by_channel))
            raise DataError(
                f"Statistics to merge must be of the same values; {odd[0]!r} is in some shards only. Collect all with the same options."
            )
    values, by_channel = dict(first.values), dict(first.by_channel)
    for part in parts[1:]:
        values = {name: entry + part.values[name] for name, entry in values.items()}
        by_channel = {name: entry + part.by_channel[name] for name, entry in by_channel.items()}
    return Statistics(first.model, values, by_channel)


def fingerprint(graph: Graph) -> str:
    """SHA-256 of a graph's structure, names and weights; streamed, so that large weights are not copied."""
    digest = hashlib.sha256(to_onnx(graph, skeleton=True).SerializeToString(deterministic=True))
    for value in graph.constants:
        assert value.data is not None
        flat = np.ascontiguousarray(value.data).reshape(-1)
        raw = (
            flat.view(np.uint8)
            if flat.dtype != object
            else np.frombuffer(repr(flat.tolist()).encode(), np.uint8)
        )
        for start in range(0, raw.size, _CHUNK):
            digest.update(raw[start : start + _CHUNK].data)
    return digest.hexdigest()
