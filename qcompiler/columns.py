"""One stretch of samples: how stored arrays become what a model is fed, and whether they fit it. See `qcompiler.data`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from qcompiler.errors import DataError, suggest
from qcompiler.npy import StoredArray

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qcompiler.ir.node import Shape

LABELS = "labels"
_PACKED = "_uint8"


@dataclass(frozen=True)
class InputType:
    """What a model takes at one input; dtype and shape are None where they are unknown."""

    name: str
    dtype: np.dtype[Any] | None
    shape: Shape | None


@dataclass(frozen=True)
class Column:
    """One input's samples: stored elements and how they become what the model is fed.

    Attributes:
        stored: The elements, samples on the first axis.
        dtype: What they are cast to.
        mean: Of the packed form, subtracted first; None where the form is plain.
        scale: Of the packed form, multiplied last.
    """

    stored: StoredArray
    dtype: np.dtype[Any]
    mean: NDArray[Any] | None = None
    scale: NDArray[Any] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape, samples first."""
        return self.stored.shape

    def values(self, rows: NDArray[Any]) -> NDArray[Any]:
        """What the model is fed for some stored rows."""
        if self.mean is None or self.scale is None:
            return rows.astype(self.dtype, copy=False)
        unpacked = rows.astype(np.float32)
        unpacked -= self.mean
        unpacked *= self.scale
        return unpacked.astype(self.dtype, copy=False)


@dataclass(frozen=True)
class Segment:
    """Samples whose arrays lie together: one file, one folder or one mapping; rows `start` to `stop` of it.

    Attributes:
        columns: The inputs by name.
        labels: The labels, if any.
        where: What error messages call it.
        start: First row.
        stop: Row behind the last.
        loose: Whether the arrays may be one sample without the sample axis, which the model's ranks decide.
    """

    columns: Mapping[str, Column]
    labels: StoredArray | None
    where: str
    start: int
    stop: int
    loose: bool = False

    @property
    def count(self) -> int:
        """How many samples."""
        return self.stop - self.start


def segment_of(arrays: Mapping[str, StoredArray], where: str, *, loose: bool = False) -> Segment:
    """The samples in arrays of the given names: labels taken out, the packed form recognised.

    Raises:
        DataError: `mean` or `scale` do not fit the packed array.
    """
    arrays = dict(arrays)
    labels = arrays.pop(LABELS, None)
    columns: dict[str, Column] = {}
    for name, stored in arrays.items():
        base = name.removesuffix(_PACKED)
        packed = base != name and stored.dtype == np.uint8 and base not in arrays
        if packed and "mean" in arrays and "scale" in arrays:
            columns[base] = _packed_column(base, stored, arrays["mean"], arrays["scale"], where)
        else:
            columns[name] = Column(stored, stored.dtype)
    if any(column.mean is not None for column in columns.values()):
        del columns["mean"], columns["scale"]
    count = next((column.shape[0] for column in columns.values() if column.shape), 0)
    return Segment(columns, labels, where, 0, count, loose)


def _packed_column(
    name: str, stored: StoredArray, mean: StoredArray, scale: StoredArray, where: str
) -> Column:
    factors = [array.read().astype(np.float32) for array in (mean, scale)]
    for label, factor in zip(("mean", "scale"), factors, strict=True):
        if not np.isfinite(factor).all():
            raise DataError(f"The array {label!r} in {where} holds NaN or an infinity; it must be finite.")
        try:
            fits = np.broadcast_shapes(factor.shape, (1, *stored.shape[1:])) == (1, *stored.shape[1:])
        except ValueError:
            fits = False
        if not fits:
            raise DataError(
                f"The array {label!r} in {where} has the shape {factor.shape}, which does not broadcast against one sample of "
                f"{name + _PACKED!r}, {stored.shape[1:]}; give a number, or one per channel such as (C, 1, 1)."
            )
    return Column(stored, np.dtype(np.float32), *factors)


def listed(names: Iterable[str]) -> str:
    """The names, quoted, for an error message."""
    return ", ".join(repr(name) for name in sorted(names)) or "none"


def checked(segment: Segment, inputs: Mapping[str, InputType]) -> Segment:
    """The segment as a model of these inputs reads it.

    Raises:
        DataError: It does not fit; says what, where and what to do.
    """
    where = segment.where
    for name in inputs:
        if name not in segment.columns:
            raise DataError(
                f"The model's input {name!r} has no array in {where}, which holds {listed(segment.columns)}"
                f"{suggest(name, segment.columns)} Name one array after each of the inputs {listed(inputs)}."
            )
    for name in segment.columns:
        if name not in inputs:
            raise DataError(
                f"{where} holds an array {name!r}, which is no input of the model{suggest(name, inputs)} Rename it or leave it "
                "out; only 'labels' may stand beside the inputs."
            )
    if segment.loose and any(_lacks_axis(segment.columns[name], inputs[name]) for name in inputs):
        segment = _with_axis(segment)
    symbols: dict[str, tuple[str, int]] = {}
    columns: dict[str, Column] = {}
    for name, value in inputs.items():
        column = _cast(name, segment.columns[name], value.dtype, where)
        columns[name] = _fitted(name, column, value.shape, symbols, where)
    counts = {name: column.shape[0] for name, column in columns.items()}
    if len(set(counts.values())) > 1:
        raise DataError(
            f"The inputs in {where} have different numbers of samples: "
            f"{', '.join(f'{name!r} {count}' for name, count in counts.items())}; the first axis must count the same samples."
        )
    count, labels = next(iter(counts.values()), 0), segment.labels
    if labels is not None and labels.shape[:1] != (count,):
        given = f"{labels.shape[0]} labels" if labels.shape else "a single number as labels"
        raise DataError(f"{where} holds {given} for {count} samples; give one label per sample.")
    return dataclasses.replace(segment, columns=columns, labels=labels)


def _lacks_axis(column: Column, value: InputType) -> bool:
    return value.shape is not None and len(column.shape) == len(value.shape) - 1


def _with_axis(segment: Segment) -> Segment:
    """One sample, as a batch of one."""
    columns = {
        name: dataclasses.replace(column, stored=column.stored.reshaped(1, *column.shape))
        for name, column in segment.columns.items()
    }
    labels = segment.labels
    if labels is not None and labels.shape[:1] != (1,):
        labels = labels.reshaped(1, *labels.shape)
    return dataclasses.replace(segment, columns=columns, labels=labels, start=0, stop=1)


def _cast(name: str, column: Column, wanted: np.dtype[Any] | None, where: str) -> Column:
    given = column.dtype
    if wanted is None or given == wanted:
        return column
    exact = given.kind == wanted.kind and np.can_cast(given, wanted, "safe")
    if exact or (given == np.float64 and wanted == np.float32):
        return dataclasses.replace(column, dtype=wanted)
    advice = f"convert it with .astype(numpy.{wanted}) where that loses nothing"
    if given == np.uint8 and wanted.kind == "f":
        advice = (
            "raw bytes are probably not in the range that the model was trained on: apply its preprocessing and store "
            f"{wanted}, or name the array {name + _PACKED!r} and add 'mean' and 'scale'"
        )
    raise DataError(f"The input {name!r} is {wanted} in the model but {given} in {where}; {advice}.")


def _fitted(
    name: str, column: Column, shape: Shape | None, symbols: dict[str, tuple[str, int]], where: str
) -> Column:
    """The column, checked against the input's shape; a superfluous axis of size 1 behind the samples is dropped."""
    if shape is None and column.shape:
        return column
    shape = shape or ()
    if len(column.shape) == len(shape) + 1 and column.shape[1:2] == (1,) and not _fixed_batch(shape):
        stored = column.stored.reshaped(column.shape[0], *column.shape[2:])
        column = dataclasses.replace(column, stored=stored)
    bare = len(column.shape) == len(shape) + 1
    expected, sample = (shape if bare else shape[1:]), column.shape[1:]
    problem = len(column.shape) != len(shape) and not bare
    for dim, size in zip(expected, sample, strict=False):
        if isinstance(dim, int):
            problem |= dim != size
        elif dim is not None:
            other, known = symbols.setdefault(dim, (name, size))
            if known != size:
                raise DataError(
                    f"In {where}, the dimension {dim!r} is {known} in {other!r} and {size} in {name!r}; the model needs both equal."
                )
    if problem:
        wanted = ["samples", *map(_dim, expected)]
        raise DataError(
            f"The input {name!r} has the shape {column.shape} in {where}, but the model takes ({', '.join(wanted)}); "
            "put samples on the first axis and give every sample the model's own shape."
        )
    return column


def _fixed_batch(shape: Shape) -> bool:
    return bool(shape) and isinstance(shape[0], int) and shape[0] != 1


def _dim(dim: int | str | None) -> str:
    return "any" if dim is None else str(dim)
