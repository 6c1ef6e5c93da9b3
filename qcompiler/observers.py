"""What calibration adds to a graph: in-graph reductions, so that activations never leave onnxruntime whole.

Per value and sample the observing graph returns the extremes over all elements and a few drawn elements. Three
measurements shaped it. Reductions cost little; what costs is leaving the blocked layout that onnxruntime keeps
convolutions in (a layout change per value and a lost fusion), so a rank-4 value that cannot be negative is reduced by
pooling, which the blocked layout has: GlobalMaxPool for the maximum, MaxPool of kernel 1 with a stride as a grid to draw
from. All results of a kind leave as one matrix, because a hundred small outputs cost more than one large one. And
Gather of single elements costs some 8 ns per element, so the number drawn is kept at about a thousand per sample.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from qcompiler.errors import ModelError, suggest
from qcompiler.ir.facts import SHAPES
from qcompiler.ir.shapes import infer_shapes
from qcompiler.signs import not_negative

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qcompiler.ir.graph import Graph
    from qcompiler.ir.node import Shape, Value

_GOLDEN = 0.6180339887498949  # steps of the golden ratio fill an interval evenly, however many there are


@dataclass(frozen=True)
class Columns:
    """Some columns of one of the matrices that the observing graph returns."""

    matrix: str
    start: int
    stop: int

    def of(self, matrices: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """The columns, of matrices by name."""
        return matrices[self.matrix][:, self.start : self.stop]


@dataclass(frozen=True)
class Observation:
    """Where in the outputs of the observing graph one value's numbers are.

    Attributes:
        name: The value.
        axis: The channel axis of a per-channel observation, None for a whole tensor.
        channels: How many channels; 1 for a whole tensor.
        high: Maxima; several columns of a whole tensor are parts of it.
        low: Minima; None where the value cannot be negative.
        drawn: Drawn elements.
        channel_last: Whether the drawn elements of a per-channel observation run through the channels first.
        means: Means per channel; only of a per-channel observation.
        elements: How many elements one sample has; None when the graph has to tell.
        size: Where it tells.
    """

    name: str
    axis: int | None
    channels: int
    high: Columns
    low: Columns | None
    drawn: Columns
    channel_last: bool = False
    means: Columns | None = None
    elements: int | None = None
    size: Columns | None = None


@dataclass(frozen=True)
class Observing:
    """A graph that returns what `observations` describe.

    Attributes:
        graph: The observing graph.
        observations: One per value and kind.
        outputs: By matrix, the name of the graph output that holds it and its width. All are float32 [samples, width], in
            more axes than two where that saved a node, but "sizes" is int64 [1, width].
        single: Whether some value has no batch axis, so that samples have to go through one by one.
    """

    graph: Graph
    observations: tuple[Observation, ...]
    outputs: Mapping[str, tuple[str, int]]
    single: bool


def observe(
    graph: Graph,
    values: Iterable[str],
    per_channel: Mapping[str, int] | None = None,
    *,
    drawn: int = 1024,
    has_batch_axis: bool = True,
) -> Observing:
    """Builds the observing graph.

    Args:
        graph: The graph; not changed.
        values: Names of the float values to observe whole.
        per_channel: Channel axis by name, of values to observe per channel (as well).
        drawn: How many elements to draw per sample and value at most; of a tensor below 32 times as many, one in 32, but no fewer
            than 256 or all there are.
        has_batch_axis: Whether the first axis of the inputs counts samples.

    Raises:
        ModelError: There is no such value, it is not of a float type, or its channel axis has no fixed size.
    """
    copy = graph.copy()
    batch = _name_batch(copy) if has_batch_axis else None
    if SHAPES not in graph.facts or batch is None:
        infer_shapes(copy)
    names = list(dict.fromkeys(values))
    wanted: list[tuple[str, int | None]] = [(name, None) for name in names]
    wanted += list((per_channel or {}).items())
    for name, _ in wanted:
        _check(copy, name)
    single = batch in (None, 1) or any(not has_batch(copy.value(name), batch) for name, _ in wanted)
    builder = _Builder(copy, batch, batched=not single, drawn=drawn)
    observations = tuple(
        builder.whole(copy.value(name)) if axis is None else builder.by_channel(copy.value(name), axis)
        for name, axis in wanted
    )
    outputs = builder.finish()
    copy.remove_dead()
    return Observing(copy, observations, outputs, single)


def _check(graph: Graph, name: str) -> None:
    if not graph.has_value(name):
        known = [value.name for value in graph.values]
        raise ModelError(
            f"The graph has no value {name!r} to calibrate{suggest(name, known if len(known) < 40 else [])}"
        )
    dtype = graph.value(name).dtype
    if dtype is not None and dtype.kind != "f" and dtype.name != "bfloat16":
        raise ModelError(
            f"The value {name!r} has the type {dtype}; only values of a float type have a range to calibrate."
        )


def _name_batch(graph: Graph) -> int | str | None:
    """The batch dimension of the inputs: a size, a symbol (made up where there is none), or None for no batch axis."""
    dims = [value.shape[0] for value in graph.inputs if value.shape]
    if not dims or len(dims) < len(graph.inputs):
        return None
    if all(dim is None for dim in dims):
        for value in graph.inputs:
            assert value.shape is not None
            value.shape = ("qcompiler.batch", *value.shape[1:])
        return "qcompiler.batch"
    return dims[0] if len(set(dims)) == 1 else None


def has_batch(value: Value, batch: int | str | None) -> bool:
    """Whether the first axis of a value is the batch axis."""
    return batch is not None and bool(value.shape) and value.shape is not None and value.shape[0] == batch


class _Builder:
    """Adds observations to a graph."""

    def __init__(self, graph: Graph, batch: int | str | None, *, batched: bool, drawn: int) -> None:
        self._graph = graph
        self._batch = batch
        self._batched = batched
        self._drawn = drawn
        self._not_negative = not_negative(graph)
        self._parts: dict[str, list[Value]] = {}
        self._widths: dict[str, int] = {}
        self._constants: dict[tuple[int, ...], Value] = {}

    def whole(self, value: Value) -> Observation:
        """Observes a value as a whole."""
        source = self._as_float32(value)
        signed = value not in self._not_negative
        sizes = self._sample_shape(value)
        if not signed and self._is_image(value):
            assert value.shape is not None
            assert isinstance(value.shape[1], int)
            high = self._emit("peaks", self._op("GlobalMaxPool", [source]), value.shape[1])
            strides, pixels = _grid_of(value.shape, self._drawn)
            grid = (
                self._op("MaxPool", [source], {"kernel_shape": [1, 1], "strides": strides})
                if max(strides) > 1
                else source
            )
            drawn = self._draw_flat(grid, pixels, _product(sizes))
            return Observation(value.name, None, 1, high, None, drawn, elements=_product(sizes))
        flat = self._flat(source)
        high = self._emit("high", self._reduce("ReduceMax", flat, 1, keep=True), 1)
        low = self._emit("low", self._reduce("ReduceMin", flat, 1, keep=True), 1) if signed else None
        elements = _product(sizes)
        drawn = self._draw_flat(flat, elements, elements)
        size = self._emit_size(flat, 1) if elements is None else None
        return Observation(value.name, None, 1, high, low, drawn, elements=elements, size=size)

    def by_channel(self, value: Value, axis: int) -> Observation:
        """Observes a value per channel."""
        source, shape = self._as_float32(value), value.shape
        axis = axis + len(shape) if shape is not None and axis < 0 else axis
        rows = int(has_batch(value, self._batch))
        channels = shape[axis] if shape is not None and rows <= axis < len(shape) else None
        if shape is None or not isinstance(channels, int):
            raise ModelError(
                f"The value {value.name!r} of shape {shape} has no channel axis {axis} of a fixed size; observe it as a whole."
            )
        last = axis == len(shape) - 1
        if last:
            grouped = self._reshape(source, self._row, -1, channels)
        else:
            if any(dim != 1 for dim in shape[rows:axis]):
                order = [*range(rows), axis, *(index for index in range(rows, len(shape)) if index != axis)]
                source = self._op("Transpose", [source], {"perm": order})
            grouped = self._reshape(source, self._row, channels, -1)
        along = 1 if last else 2
        high = self._emit("high", self._reduce("ReduceMax", grouped, along), channels)
        low = self._emit("low", self._reduce("ReduceMin", grouped, along), channels)
        means = self._emit("means", self._reduce("ReduceMean", grouped, along), channels)
        elements = _product(self._sample_shape(value))
        each = None if elements is None else elements // channels
        drawn, width = self._draw(grouped, each, along, max(self._drawn // channels, 16))
        size = self._emit_size(grouped, along) if each is None else None
        columns = self._emit("drawn", self._flat(drawn), width * channels)
        return Observation(value.name, axis, channels, high, low, columns, last, means, elements, size)

    def finish(self) -> dict[str, tuple[str, int]]:
        """Joins what was observed to one matrix of each kind and makes these the graph's outputs."""
        joined = {matrix: self._op("Concat", parts, {"axis": 1}) for matrix, parts in self._parts.items()}
        self._graph.set_outputs(joined.values())
        return {matrix: (value.name, self._widths[matrix]) for matrix, value in joined.items()}

    # -- shapes ------------------------------------------------------------------------------------------------

    @property
    def _row(self) -> int:
        """What Reshape is told for the first axis: samples, or one row for the whole run."""
        return 0 if self._batched else 1

    def _sample_shape(self, value: Value) -> Shape | None:
        """The shape of what becomes one row."""
        if value.shape is None or not has_batch(value, self._batch) or self._batch == 1:
            return value.shape
        return value.shape[1:] if self._batched or isinstance(self._batch, str) else value.shape

    def _is_image(self, value: Value) -> bool:
        """Whether a value is [batch, channels, height, width] of known sizes, with each sample a row of its own."""
        one_run_one_row = not self._batched and not isinstance(self._batch, str) and self._batch != 1
        shape = value.shape
        return (
            shape is not None
            and len(shape) == 4
            and all(isinstance(dim, int) for dim in shape[1:])
            and has_batch(value, self._batch)
            and not one_run_one_row
        )

    # -- nodes -------------------------------------------------------------------------------------------------

    def _op(self, op: str, inputs: list[Value], attributes: Mapping[str, object] | None = None) -> Value:
        return self._graph.add_node(op, list(inputs), 1, attributes, name=f"qcompiler.{op}").output

    def _ints(self, *numbers: int) -> Value:
        if numbers not in self._constants:
            self._constants[numbers] = self._graph.add_constant("qcompiler.ints", np.array(numbers, np.int64))
        return self._constants[numbers]

    def _emit(self, matrix: str, value: Value, width: int) -> Columns:
        start = self._widths.get(matrix, 0)
        self._parts.setdefault(matrix, []).append(value)
        self._widths[matrix] = start + width
        return Columns(matrix, start, start + width)

    def _emit_size(self, value: Value, axis: int) -> Columns:
        return self._emit("sizes", self._reshape(self._count(value, axis), 1, 1), 1)

    def _as_float32(self, value: Value) -> Value:
        return value if value.dtype == np.float32 else self._op("Cast", [value], {"to": 1})

    def _reshape(self, value: Value, *shape: int) -> Value:
        return self._op("Reshape", [value, self._ints(*shape)])

    def _flat(self, value: Value) -> Value:
        return self._reshape(value, self._row, -1)

    def _reduce(self, op: str, value: Value, axis: int, *, keep: bool = False) -> Value:
        return self._op(op, [value, self._ints(axis)], {"keepdims": int(keep)})

    def _count(self, value: Value, axis: int) -> Value:
        return self._op("Shape", [value], {"start": axis, "end": axis + 1})

    def _draw_flat(self, value: Value, size: int | None, elements: int | None) -> Columns:
        """Drawn elements of a whole tensor; where the size allows, four neighbours at a time, at a quarter of the cost."""
        count = self._drawn
        if elements is not None:
            count = min(count, max(elements // _SHARE, _FEWEST) // _RUN * _RUN)
        if size is not None and size > count and size % _RUN == 0 and count % _RUN == 0:
            runs = self._reshape(value, self._row, -1, _RUN)
            where = self._ints(*_positions(count // _RUN, size // _RUN))
            return self._emit("runs", self._op("Gather", [runs, where], {"axis": 1}), count)
        return self._emit("drawn", *self._draw(self._flat(value), size, 1, count))

    def _draw(self, value: Value, size: int | None, axis: int, count: int) -> tuple[Value, int]:
        """Elements along an axis of the given size at fixed positions; all of them where that is no more than asked."""
        if size is not None and size <= count:
            return value, size
        if size is not None:
            return self._op("Gather", [value, self._ints(*_positions(count, size))], {"axis": axis}), count
        scaled = self._op("Mul", [self._ints(*_positions(count, 1 << _BITS)), self._count(value, axis)])
        where = self._op("Div", [scaled, self._ints(1 << _BITS)])
        return self._op("Gather", [value, where], {"axis": axis}), count


_BITS = 30  # positions in an axis of unknown size are fractions of this precision
_RUN = 4
_SHARE = 32  # of a small tensor no more than one element in 32 is drawn, or counting would take longer than the model
_FEWEST = 256


def _positions(count: int, size: int) -> tuple[int, ...]:
    """Ascending positions in an axis: one in each of `count` equal parts, where in the part differs from part to part."""
    steps = np.arange(count)
    inside = np.floor(((steps * _GOLDEN) % 1.0) * 1024).astype(np.int64)  # 10 bits: the same on every machine
    return tuple(((steps * 1024 + inside) * size // (count * 1024)).tolist())


def _grid_of(shape: Shape, count: int) -> tuple[list[int], int]:
    """Strides of a grid of pixels that has at least `count` elements over all channels, and how many it has.

    Every second pixel counts the border, which padding makes different, as often as it occurs; every fourth, twice.
    """
    channels, *sides = (dim for dim in shape[1:] if isinstance(dim, int))
    for widest in (4, 2):
        strides = [4 if side >= 56 and widest == 4 else 2 if side >= 4 else 1 for side in sides]
        size = channels * math.prod(-(-side // stride) for side, stride in zip(sides, strides, strict=True))
        if size >= count:
            return strides, size
    return [1] * len(sides), channels * math.prod(sides)


def _product(shape: Shape | None) -> int | None:
    if shape is None or not all(isinstance(dim, int) for dim in shape):
        return None
    return math.prod(dim for dim in shape if isinstance(dim, int))
