"""Calibration and evaluation data: one array per model input, samples on the first axis, optional labels; streamed.

What `DataSource.open` takes:

* an .npz file: one array per model input under the input's name, and optionally `labels`;
* a folder of .npz files: in order of file name, each such a batch, or one sample without the sample axis;
* a folder of .npy files: one file per input and `labels.npy` (an unpacked .npz); or, for a model of one input, when no
  file is named as the input, the samples or batches of that input in order of file name;
* a mapping from names to arrays (memory-mapped ones are read piece by piece);
* another `DataSource`.

Packed form: where the arrays `mean` and `scale` exist, an unsigned 8-bit array `NAME_uint8` stands for the input NAME
with the values (NAME_uint8.astype(float32) - mean) * scale; `mean` and `scale` broadcast against one sample.

Memory does not grow with the number of samples, except for arrays that the caller holds already and for labels.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from qcompiler.columns import LABELS, InputType, Segment, checked, listed, segment_of
from qcompiler.errors import DataError
from qcompiler.npy import RowReader, StoredArray, open_npy, open_npz

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qcompiler.ir.graph import Graph

Data: TypeAlias = "str | Path | Mapping[str, NDArray[Any]] | DataSource"
"""Whatever `DataSource.open` takes."""

_CHUNK = 1 << 20


@dataclass(frozen=True)
class DataSource:
    """Samples for a model, streamed batch by batch. Make one with `DataSource.open`.

    Attributes:
        segments: Where the samples lie, in order.
        where: What error messages call the data.
        files: The files behind the data, for hashing; empty for arrays in memory.
        window: The rows of the whole that this is a slice of.
    """

    segments: tuple[Segment, ...]
    where: str
    files: tuple[Path, ...] = ()
    window: tuple[int, int] | None = None

    @staticmethod
    def open(data: Data) -> DataSource:
        """Opens data; only headers are read. See the top of this file for the forms.

        Raises:
            DataError: There is nothing to read there, or it is damaged; says what and where.
        """
        if isinstance(data, DataSource):
            return data
        if isinstance(data, Mapping):
            arrays = {str(name): StoredArray.of(np.asanyarray(array)) for name, array in data.items()}
            return DataSource((segment_of(arrays, "the given arrays"),), "the given arrays")
        path = Path(data)
        if path.is_dir():
            return _open_folder(path)
        arrays = {path.stem: open_npy(path)} if path.suffix == ".npy" else open_npz(path)
        return DataSource((segment_of(arrays, str(path)),), str(path), (path,))

    @property
    def count(self) -> int:
        """How many samples there are."""
        return sum(segment.count for segment in self.segments)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the inputs that the data have, without labels."""
        return tuple(self.segments[0].columns) if self.segments else ()

    @property
    def sample_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each input's first sample, without the sample axis."""
        first = self.segments[0].columns if self.segments else {}
        return {name: column.shape[1:] for name, column in first.items()}

    @functools.cached_property
    def labels(self) -> NDArray[Any] | None:
        """The labels, whole, one row per sample; None when the data have none."""
        parts: list[NDArray[Any]] = []
        for segment in self.segments:
            if segment.labels is None:
                return None
            parts.append(segment.labels.read()[segment.start : segment.stop])
        return np.concatenate(parts) if parts else None

    def batches(self, size: int) -> Iterator[dict[str, NDArray[Any]]]:
        """Yields inputs of `size` samples (the last batch: of the rest), in order.

        A batch ends early where the shape of the samples changes from one file to the next.

        Raises:
            DataError: A sample holds NaN or an infinity (the message says which), or a file turns out damaged.
        """
        pending: list[dict[str, NDArray[Any]]] = []
        have = seen = 0
        for segment in self.segments:
            with contextlib.ExitStack() as stack:
                readers = {
                    name: stack.enter_context(RowReader(column.stored, segment.start))
                    for name, column in segment.columns.items()
                }
                left = segment.count
                while left:
                    if pending and not _stackable(pending[0], segment):
                        yield _stacked(pending)
                        pending, have = [], 0
                    take = min(size - have, left)
                    part = {
                        name: segment.columns[name].values(reader.read(take))
                        for name, reader in readers.items()
                    }
                    self._check_finite(part, seen)
                    pending.append(part)
                    have, left, seen = have + take, left - take, seen + take
                    if have == size:
                        yield _stacked(pending)
                        pending, have = [], 0
        if pending:
            yield _stacked(pending)

    def _check_finite(self, part: Mapping[str, NDArray[Any]], seen: int) -> None:
        for name, array in part.items():
            if array.dtype.kind != "f" or np.isfinite(array).all():
                continue
            finite = np.isfinite(array.reshape(len(array), -1))
            index = int(np.flatnonzero(~finite.all(axis=1))[0])
            bad = array.reshape(len(array), -1)[index][~finite[index]][0]
            raise DataError(
                f"Sample {seen + index} of the input {name!r} in {self.where} holds {bad}: calibration and evaluation need finite numbers. "
                "Fix the preprocessing that made it, or leave the sample out."
            )

    def slice(self, start: int, stop: int) -> DataSource:
        """The samples from `start` up to `stop`, as a source of its own."""
        stop, start = min(stop, self.count), max(start, 0)
        segments, seen = [], 0
        for segment in self.segments:
            first, last = max(start - seen, 0), min(stop - seen, segment.count)
            if first < last:
                begin = segment.start
                segments.append(dataclasses.replace(segment, start=begin + first, stop=begin + last))
            seen += segment.count
        offset = self.window[0] if self.window else 0
        return dataclasses.replace(self, segments=tuple(segments), window=(offset + start, offset + stop))

    def shard(self, index: int, count: int) -> DataSource:
        """Shard `index` of `count`: together the shards are all samples, in order, and differ by at most one in size."""
        return self.slice(self.count * index // count, self.count * (index + 1) // count)

    def sha256(self) -> str:
        """Hexadecimal SHA-256 of the content: of the files' names and bytes, or of the arrays in memory; of a slice also its bounds."""
        digest = hashlib.sha256()
        for file in self.files:
            digest.update(f"{file.name}:{file.stat().st_size}:".encode())
            with file.open("rb") as stream:
                while chunk := stream.read(_CHUNK):
                    digest.update(chunk)
        for segment in () if self.files else self.segments:
            arrays = {name: column.stored for name, column in segment.columns.items()}
            arrays |= {LABELS: segment.labels} if segment.labels else {}
            for name in sorted(arrays):
                stored, column = arrays[name], segment.columns.get(name)
                digest.update(f"{name}:{stored.dtype.str}:{stored.shape}:".encode())
                for packed in (column.mean, column.scale) if column else ():
                    digest.update(b"" if packed is None else packed.tobytes())
                for start in range(0, len(stored.memory) if stored.memory is not None else 0, 64):
                    assert stored.memory is not None
                    digest.update(np.ascontiguousarray(stored.memory[start : start + 64]).tobytes())
        digest.update(f"{self.window}".encode() if self.window else b"")
        return digest.hexdigest()

    def validate(self, graph: Graph) -> DataSource:
        """Checks the data against the inputs of a graph and returns them as this model reads them.

        float64 data are cast to float32, and what fits without loss (float16 to float32, int32 to int64) to the
        input's type. Labels are not checked here but by the metric that uses them, except for their number.

        Raises:
            DataError: An input is missing or has a wrong dtype or shape, there is an array that no input takes, the
                inputs have different numbers of samples, or there are none. NaN is found while the batches pass.
        """
        return self.validate_inputs(InputType(value.name, value.dtype, value.shape) for value in graph.inputs)

    def validate_inputs(self, inputs: Iterable[InputType]) -> DataSource:
        """`validate` against inputs of the given types."""
        values = {value.name: value for value in inputs}
        source = _one_input(self, next(iter(values))) if len(values) == 1 else self
        if not source.segments:
            raise DataError(f"{self.where} holds no samples; at least one is needed.")
        segments = tuple(checked(segment, values) for segment in source.segments)
        if not sum(segment.count for segment in segments):
            raise DataError(f"{self.where} holds no samples: its arrays have 0 rows; at least one is needed.")
        return dataclasses.replace(source, segments=tuple(item for item in segments if item.count))


def _stackable(part: Mapping[str, NDArray[Any]], segment: Segment) -> bool:
    return all(part[name].shape[1:] == column.shape[1:] for name, column in segment.columns.items())


def _stacked(parts: Sequence[Mapping[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    if len(parts) == 1:
        return dict(parts[0])
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


# -- opening ---------------------------------------------------------------------------------------------------


def _open_folder(path: Path) -> DataSource:
    packed, plain = sorted(path.glob("*.npz")), sorted(path.glob("*.npy"))
    if packed and plain:
        raise DataError(
            f"{path} holds both .npz and .npy files; keep one form, so that the order of samples is clear."
        )
    if not packed and not plain:
        raise DataError(f"{path} holds no .npz or .npy file; give a folder of such files, or an .npz file.")
    if packed:
        segments = tuple(segment_of(open_npz(file), str(file), loose=True) for file in packed)
        names = [set(segment.columns) for segment in segments]
        for segment, found in zip(segments, names, strict=True):
            if found != names[0]:
                raise DataError(
                    f"{segment.where} holds the arrays {listed(found)}, but {segments[0].where} holds {listed(names[0])}; "
                    "every file must have the same arrays."
                )
        return DataSource(segments, str(path), tuple(packed))
    arrays = {file.stem: open_npy(file) for file in plain}
    return DataSource((segment_of(arrays, str(path)),), str(path), tuple(plain))


def _one_input(source: DataSource, name: str) -> DataSource:
    """Files of a folder that are not named as the model's one input are its samples, one file after the other."""
    segment = source.segments[0] if len(source.segments) == 1 else None
    if segment is None or name in segment.columns or not source.files or source.files[0].suffix != ".npy":
        return source
    if segment.labels is not None:
        raise DataError(
            f"{source.where} holds one .npy file per sample beside labels.npy; put samples and labels into .npz files instead, "
            f"with arrays named {name!r} and 'labels'."
        )
    segments = [
        Segment({name: column}, None, column.stored.where, 0, column.shape[0] if column.shape else 0, True)
        for column in segment.columns.values()
    ]
    return dataclasses.replace(source, segments=tuple(segments))
