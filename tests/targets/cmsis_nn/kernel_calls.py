"""Random calls of kernels, by family: integer work, what it reads, and the functions that have to compute it.

Every family is a function from a random generator to a `Call`. Sizes are small, and parameters cover what functions take:
offsets, clamps, strides, dilations, uneven padding, missing biases, factors that fill the codes and ones that do not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from kernel_library import CONTEXT, Bias, MatrixProductParams, Pointers, Y, numbers

from qcompiler.fixed_point import Rescale, quantized_multiplier
from qcompiler.integer.operations import (
    Addition,
    ArgMax,
    Concatenation,
    Convolution,
    DepthwiseConvolution,
    Extremum,
    FullyConnected,
    Gather,
    Interpolation,
    Lookup,
    MatrixProduct,
    Mean,
    Multiplication,
    Padding,
    Pool,
    Requantization,
    Resize,
    Softmax,
    StridedCopy,
    Work,
)

INT8, INT16, INT32, INT64 = (np.dtype(kind) for kind in (np.int8, np.int16, np.int32, np.int64))
DIMS = 6

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Call:
    """A random call.

    Attributes:
        work: What is computed.
        arrays: What `evaluate` reads, computed tensors with one sample.
        shape: Of the output.
        dtype: Of the output.
        functions: Functions that compute it, with their arguments.
        sound: Whether CMSIS-NN is right; where not, a guard keeps the compiler from calling it.
    """

    work: Work
    arrays: list[Array]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    functions: tuple[tuple[str, tuple[Any, ...]], ...]
    sound: bool = True


class Draw:
    """Random numbers of the kinds that calls take."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng

    def between(self, low: int, high: int) -> int:
        return int(self.rng.integers(low, high, endpoint=True))

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def codes(self, *shape: int, dtype: np.dtype[Any] = INT8, bits: int = 0) -> Array:
        """Codes over the whole range; in some arrays only its ends."""
        bits = bits or 8 * dtype.itemsize
        low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
        if self.chance(0.05):
            return self.rng.choice(np.array([low, high], dtype), shape)
        return self.rng.integers(low, high, shape, endpoint=True).astype(dtype)

    def offset(self) -> int:
        return self.between(-127, 128)

    def clamps(self, dtype: np.dtype[Any]) -> tuple[int, int]:
        info = np.iinfo(dtype)
        if self.chance(0.5):
            return info.min, info.max
        low = self.between(info.min, info.max)
        return low, self.between(low, info.max)

    def rescale(
        self, magnitude: float, dtype: np.dtype[Any], channels: int = 1, wide: bool = False
    ) -> Rescale:
        """Factors that bring numbers of a magnitude to codes; now and then any factors."""
        multiplier = self.rng.integers(1 << 30, (1 << 31) - 1, channels, endpoint=True)
        middle = 8 * dtype.itemsize - np.log2(max(magnitude, 1))
        shift = np.round(middle + self.rng.uniform(-2, 1, channels)).astype(np.int64)
        if self.chance(0.1):
            shift = self.rng.integers(-31, 14 if wide else 30, channels, endpoint=True)
        shift = np.clip(shift, -31, 14 if wide else 30)
        if self.chance(0.05):
            multiplier[0] = shift[0] = 0
        return Rescale(multiplier.astype(np.int32), shift.astype(np.int32), wide=wide)

    def bias(self, channels: int, magnitude: float, dtype: np.dtype[Any] = INT32) -> Array | None:
        if self.chance(0.1):
            return None
        ends = int(np.clip(magnitude, 10, 2**31 - 1))
        if self.chance(0.05):
            ends = 2**31 - 1 if dtype == INT32 else 2**40
        return self.rng.integers(-ends, ends, channels, endpoint=True).astype(dtype)


def packed(weights: Array) -> Array:
    """int4 codes two to a byte, the first in the lower half."""
    flat = weights.reshape(-1).astype(np.uint8) & 15
    flat = np.append(flat, np.zeros(flat.size % 2, np.uint8))
    return (flat[::2] | flat[1::2] << 4).view(np.int8)


def dims(shape: tuple[int, ...]) -> Any:
    """A `cmsis_nn_dims`."""
    return numbers(shape)


def axes(values: Any, fill: int) -> list[int]:
    """Numbers per axis, with those of missing outer axes in front."""
    return [fill] * (DIMS - len(values)) + [int(value) for value in values]


def _either(array: Array | None, length: int, dtype: np.dtype[Any]) -> Array:
    return np.zeros(length, dtype) if array is None else array


# -- convolutions -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Window:
    """Where windows are, as a work states it, and the rows and columns that they make."""

    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    pads: tuple[int, int, int, int]
    made: tuple[int, int]


def window(draw: Draw, height: int, width: int, *, dilated: bool = True, point: bool = False) -> Window:
    """Random windows over an image; at least one element of an image is inside of each that is not dilated."""
    kernel, strides, dilations, before, after, made = [], [], [], [], [], []
    for size in (height, width):
        taps = 1 if point else draw.between(1, 5)
        stride = draw.between(1, 3)
        dilation = draw.between(1, 3) if dilated and draw.chance(0.3) else 1
        extent = (taps - 1) * dilation + 1
        front, back = (0 if point else draw.between(0, extent - 1) for _ in range(2))
        if draw.chance(0.3):
            front = back = 0
        back += max(0, extent - size - front - back)
        if extent > size + front + back or back >= extent:
            taps = extent = dilation = 1
            front = back = 0
        kernel.append(taps)
        strides.append(stride)
        dilations.append(dilation)
        before.append(front)
        after.append(back)
        made.append((size + front + back - extent) // stride + 1)
    return Window(
        (kernel[0], kernel[1]),
        (strides[0], strides[1]),
        (dilations[0], dilations[1]),
        (before[0], before[1], after[0], after[1]),
        (made[0], made[1]),
    )


def _turned(pair: tuple[int, ...]) -> tuple[int, int]:
    """A `cmsis_nn_tile`: the horizontal one first."""
    return pair[1], pair[0]


def convolution(rng: np.random.Generator, kind: str) -> Call:
    draw = Draw(rng)
    wide = kind == "s16"
    dtype = INT16 if wide else INT8
    n, height, width = draw.between(1, 2), draw.between(1, 9), draw.between(1, 9)
    groups = draw.between(2, 4) if kind == "s8" and draw.chance(0.2) else 1
    depth, outputs = draw.between(1, 20), draw.between(1, 40)
    if groups > 1:
        depth, outputs = draw.between(1, 6), draw.between(1, 5) * groups
    elif draw.chance(0.1):
        depth = draw.between(60, 90)
    upscale = (1, 1)
    if kind == "s8" and groups == 1 and draw.chance(0.2):
        upscale = (draw.between(1, 2), draw.between(1, 2))
    if draw.chance(0.1):
        height = 1
    place = window(draw, height * upscale[0], width * upscale[1], point=draw.chance(0.15))
    low, high = draw.clamps(dtype)
    narrow_bias = wide and draw.chance(0.3)
    terms = place.kernel[0] * place.kernel[1] * depth
    magnitude = np.sqrt(terms) * {"s8": 2**13, "s4": 2**9, "s16": 2**21}[kind]
    work = Convolution(
        place.strides,
        place.dilations,
        place.pads,
        groups,
        draw.rescale(magnitude, dtype, outputs, wide and not narrow_bias),
        0 if wide else draw.offset(),
        0 if wide else draw.offset(),
        low,
        high,
        upscale,
    )
    x = draw.codes(1, n, height, width, depth * groups, dtype=dtype)
    filters = draw.codes(outputs, *place.kernel, depth, bits=4 if kind == "s4" else 8)
    bias_dtype = INT64 if wide and not narrow_bias else INT32
    bias = draw.bias(outputs, magnitude, bias_dtype)
    if bias is None and groups > 1:  # from which the library reads
        bias = np.zeros(outputs, bias_dtype)
    shape = (n, *place.made, outputs)
    arguments = (
        CONTEXT,
        numbers(
            work.input_offset, work.output_offset, _turned(place.strides), _turned(place.pads[:2]),
            _turned(place.dilations), low, high,
        ),
        Pointers(work.rescale.multiplier, work.rescale.shift),
        dims((n, height * upscale[0], width * upscale[1], depth * groups)),
        x,
        dims(filters.shape),
        packed(filters) if kind == "s4" else filters,
        dims((1, 1, 1, outputs)),
        Bias(bias, narrow_bias) if wide else bias,
        dims(shape),
        Y,
    )  # fmt: skip
    scale = None if upscale == (1, 1) else dims((0, *upscale, 0))
    direct = (*arguments[:9], scale, *arguments[9:]) if kind == "s8" else arguments
    functions = [(f"arm_convolve_{kind}", direct)]
    if upscale == (1, 1):
        functions.append((f"arm_convolve_wrapper_{kind}", arguments))
    return Call(work, [x, filters, _either(bias, outputs, bias_dtype)], shape, dtype, tuple(functions))


def depthwise(rng: np.random.Generator, kind: str) -> Call:
    draw = Draw(rng)
    wide = kind == "s16"
    dtype = INT16 if wide else INT8
    n, height, width = draw.between(1, 2), draw.between(1, 9), draw.between(1, 9)
    multiplier = draw.between(1, 5) if draw.chance(0.5) else 1
    depth = draw.between(1, 80 if draw.chance(0.2) else 12)
    outputs = depth * multiplier
    place = window(draw, height, width)
    low, high = draw.clamps(dtype)
    magnitude = np.sqrt(place.kernel[0] * place.kernel[1]) * {"s8": 2**13, "s4": 2**9, "s16": 2**21}[kind]
    work = DepthwiseConvolution(
        multiplier,
        place.strides,
        place.dilations,
        place.pads,
        draw.rescale(magnitude, dtype, outputs, wide),
        0 if wide else draw.offset(),
        0 if wide else draw.offset(),
        low,
        high,
    )
    x = draw.codes(1, n, height, width, depth, dtype=dtype)
    filters = draw.codes(1, *place.kernel, outputs, bits=4 if kind == "s4" else 8)
    bias = draw.bias(outputs, magnitude, INT64 if wide else INT32)
    shape = (n, *place.made, outputs)
    arguments = (
        CONTEXT,
        numbers(
            work.input_offset, work.output_offset, multiplier, _turned(place.strides), _turned(place.pads[:2]),
            _turned(place.dilations), low, high,
        ),
        Pointers(work.rescale.multiplier, work.rescale.shift),
        dims((n, height, width, depth)),
        x,
        dims(filters.shape),
        packed(filters) if kind == "s4" else filters,
        dims((1, 1, 1, outputs)),
        bias,
        dims(shape),
        Y,
    )  # fmt: skip
    plain = multiplier == 1 and n == 1 and place.dilations == (1, 1)
    names = [f"arm_depthwise_conv_{kind}", f"arm_depthwise_conv_wrapper_{kind}"]
    sound = True
    if kind == "s8" and plain:
        names.append("arm_depthwise_conv_s8_opt")
        right = (place.made[1] - 1) * place.strides[1] - place.pads[1] + 3 - width
        sound = place.kernel != (3, 3) or max(place.pads[:2]) > 1 or right < 2
    elif kind == "s4":
        sound = depth % 2 == 0 or place.kernel == (1, 1)
    return Call(
        work,
        [x, filters, _either(bias, outputs, INT64 if wide else INT32)],
        shape,
        dtype,
        tuple((name, arguments) for name in names),
        sound,
    )


# -- matrices -----------------------------------------------------------------------------------------------------


def fully_connected(rng: np.random.Generator, kind: str, per_channel: bool) -> Call:
    draw = Draw(rng)
    wide = kind == "s16"
    dtype = INT16 if wide else INT8
    rows, depth, outputs = (
        draw.between(1, 6),
        draw.between(1, 600 if draw.chance(0.2) else 40),
        draw.between(1, 70),
    )
    magnitude = np.sqrt(depth) * {"s8": 2**13, "s4": 2**9, "s16": 2**21}[kind]
    low, high = draw.clamps(dtype)
    work = FullyConnected(
        draw.rescale(magnitude, dtype, outputs if per_channel else 1, wide),
        0 if wide else draw.offset(),
        0 if wide else draw.offset(),
        low,
        high,
    )
    x = draw.codes(1, rows, depth, dtype=dtype)
    matrix = draw.codes(outputs, depth, bits=4 if kind == "s4" else 8)
    filter_offset = draw.offset() if kind == "s8" and draw.chance(0.2) else 0
    bias = draw.bias(outputs, magnitude, INT64 if wide else INT32)
    factors = (
        Pointers(work.rescale.multiplier, work.rescale.shift)
        if per_channel
        else numbers(work.rescale.multiplier, work.rescale.shift)
    )
    arguments = (
        CONTEXT,
        numbers(work.input_offset, filter_offset, work.output_offset, low, high),
        factors,
        dims((rows, 1, 1, depth)),
        x,
        dims((depth, 1, 1, outputs)),
        packed(matrix) if kind == "s4" else matrix,
        dims((1, 1, 1, outputs)),
        bias,
        dims((rows, 1, 1, outputs)),
        Y,
    )
    name = f"fully_connected_per_channel_{kind}" if per_channel else f"fully_connected_{kind}"
    prefix = "qc" if per_channel and kind != "s8" else "arm"
    return Call(
        work,
        [x, matrix.astype(np.int16) + np.int16(filter_offset), _either(bias, outputs, INT32)],
        (rows, outputs),
        dtype,
        ((f"{prefix}_{name}", arguments),),
    )


def matrix_product(rng: np.random.Generator, kind: str) -> Call:
    draw = Draw(rng)
    wide = kind == "s16"
    dtype = INT16 if wide else INT8
    rows, columns, depth = draw.between(1, 6), draw.between(1, 40), draw.between(1, 60)
    stacks = [draw.between(1, 3) for _ in range(2)]
    left, right = ([1 if draw.chance(0.2) else size for size in stacks] for _ in range(2))
    made = [max(pair) for pair in zip(left, right, strict=True)]
    magnitude = np.sqrt(depth) * (2**29 if wide else 2**13)
    low, high = draw.clamps(dtype)
    work = MatrixProduct(
        draw.rescale(magnitude, dtype, wide=wide),
        0 if wide else draw.offset(),
        0 if wide else draw.offset(),
        0 if wide else draw.offset(),
        low,
        high,
    )
    a = draw.codes(1, *left, rows, depth, dtype=dtype)
    b = draw.codes(1, *right, columns, depth, dtype=dtype)
    fields = (work.input_offset, work.other_offset, work.output_offset, low, high)
    shape = (*made, rows, columns)
    arguments = (
        CONTEXT,
        MatrixProductParams(False, False, numbers(fields)),
        numbers(work.rescale.multiplier, work.rescale.shift),
        dims(a.shape[1:]),
        a,
        dims(b.shape[1:]),
        b,
        dims(shape),
        Y,
    )
    return Call(work, [a, b], shape, dtype, ((f"arm_batch_matmul_{kind}", arguments),))


# -- windows, elementwise -----------------------------------------------------------------------------------------


def pool(rng: np.random.Generator, dtype: np.dtype[Any], average: bool) -> Call:
    draw = Draw(rng)
    n, height, width = draw.between(1, 2), draw.between(1, 9), draw.between(1, 9)
    depth = draw.between(1, 140 if draw.chance(0.1) else 20)
    place = window(draw, height, width, dilated=False)
    low, high = draw.clamps(dtype)
    work = Pool(average, place.kernel, place.strides, place.pads, low, high)
    x = draw.codes(1, n, height, width, depth, dtype=dtype)
    shape = (n, *place.made, depth)
    arguments = (
        CONTEXT,
        numbers(_turned(place.strides), _turned(place.pads[:2]), low, high),
        dims((n, height, width, depth)),
        x,
        dims((1, *place.kernel, 1)),
        dims(shape),
        Y,
    )
    name = "avgpool" if average else "max_pool"
    return Call(work, [x], shape, dtype, ((f"arm_{name}_s{8 * dtype.itemsize}", arguments),))


def _addition(draw: Draw, dtype: np.dtype[Any], sign: int) -> Addition:
    left_shift = 20 if dtype == INT8 else 15
    ratio = float(np.exp(draw.rng.normal()))
    twice = 2 * max(1.0, ratio)
    first, second, output = (
        Rescale.of(np.float64(factor))
        for factor in (
            1 / twice,
            ratio / twice,
            twice / (2**left_shift * float(np.exp(draw.rng.normal())) * 1.5),
        )
    )
    if draw.chance(0.1):
        first, second, output = (draw.rescale(2**16, INT16) for _ in range(3))
    wide = dtype == INT16
    low, high = draw.clamps(dtype)
    offsets = [0 if wide else draw.offset() for _ in range(3)]
    return Addition(1 if sign > 0 else -1, left_shift, first, second, output, *offsets, low, high)


def addition(rng: np.random.Generator, dtype: np.dtype[Any]) -> Call:
    draw = Draw(rng)
    work = _addition(draw, dtype, 1)
    count = draw.between(1, 60)
    a, b = draw.codes(1, count, dtype=dtype), draw.codes(1, count, dtype=dtype)
    arguments = (
        a, b,
        work.input_offset, *_factor(work.first), work.other_offset, *_factor(work.second), work.left_shift,
        Y, work.output_offset, *_factor(work.output), work.low, work.high, count,
    )  # fmt: skip
    name = f"arm_elementwise_add_s{8 * dtype.itemsize}"
    return Call(work, [a, b], (count,), dtype, ((name, arguments),))


def _factor(rescale: Rescale) -> tuple[int, int]:
    return int(rescale.multiplier[0]), int(rescale.shift[0])


def _multiplication(draw: Draw, dtype: np.dtype[Any]) -> Multiplication:
    wide = dtype == INT16
    low, high = draw.clamps(dtype)
    offsets = [0 if wide else draw.offset() for _ in range(3)]
    return Multiplication(draw.rescale(2**28 if wide else 2**12, dtype), *offsets, low, high)


def multiplication(rng: np.random.Generator, dtype: np.dtype[Any]) -> Call:
    draw = Draw(rng)
    work = _multiplication(draw, dtype)
    count = draw.between(1, 60)
    a, b = draw.codes(1, count, dtype=dtype), draw.codes(1, count, dtype=dtype)
    arguments = (
        a, b, work.input_offset, work.other_offset,
        Y, work.output_offset, *_factor(work.rescale), work.low, work.high, count,
    )  # fmt: skip
    name = f"arm_elementwise_mul_s{8 * dtype.itemsize}"
    return Call(work, [a, b], (count,), dtype, ((name, arguments),))


def softmax(rng: np.random.Generator, dtype: np.dtype[Any]) -> Call:
    draw = Draw(rng)
    rows, length = draw.between(1, 5), draw.between(1, 20)
    x = draw.codes(1, rows, length)
    if draw.chance(0.05):
        length = draw.between(400, 900)
        x = np.full((1, rows, length), 3, np.int8) + draw.codes(1, rows, length, bits=4)
    scale = float(np.exp(rng.uniform(-8, 1)))
    multiplier, shift = quantized_multiplier(min(scale * 2**26, 2**31 - 1))
    diff_min = -int(np.floor(31 * 2.0**26 / 2.0**shift))
    work = Softmax(multiplier, shift, diff_min)
    arguments = (x, rows, length, multiplier, shift, diff_min, Y)
    name = "arm_softmax_s8" if dtype == INT8 else "arm_softmax_s8_s16"
    # The sum of 512 powers of nearly 1 makes the library shift 32 bits by more than 31.
    return Call(work, [x], (rows, length), dtype, ((name, arguments),), dtype == INT16 or length < 400)


# -- kernels that the library has not -----------------------------------------------------------------------------


def _broadcast(draw: Draw, dtype: np.dtype[Any]) -> tuple[Array, Array, tuple[int, ...], Any]:
    """Two operands, the shape of the result and a `qc_broadcast`."""
    shape = tuple(draw.between(1, 4) for _ in range(draw.between(1, DIMS)))
    operands, strides = [], []
    for _ in range(2):
        own = tuple(1 if draw.chance(0.3) else size for size in shape)
        operands.append(own)
    made = tuple(map(max, zip(*operands, strict=True)))
    for own in operands:
        steps = [int(np.prod(own[axis + 1 :])) if own[axis] > 1 else 0 for axis in range(len(own))]
        strides.append(axes(steps, 0))
    a, b = (draw.codes(1, *own, dtype=dtype) for own in operands)
    return a, b, made, numbers(axes(made, 1), *strides)


def broadcast_addition(rng: np.random.Generator, dtype: np.dtype[Any]) -> Call:
    draw = Draw(rng)
    work = _addition(draw, dtype, 1 if draw.chance(0.5) else -1)
    a, b, shape, walk = _broadcast(draw, dtype)
    params = numbers(
        work.sign, work.left_shift, work.input_offset, _factor(work.first), work.other_offset,
        _factor(work.second), work.output_offset, _factor(work.output), work.low, work.high,
    )  # fmt: skip
    name = f"qc_add_s{8 * dtype.itemsize}"
    return Call(work, [a, b], shape, dtype, ((name, (a, b, params, walk, Y)),))


def broadcast_multiplication(rng: np.random.Generator, dtype: np.dtype[Any]) -> Call:
    draw = Draw(rng)
    work = _multiplication(draw, dtype)
    a, b, shape, walk = _broadcast(draw, dtype)
    params = numbers(
        work.input_offset, work.other_offset, work.output_offset, _factor(work.rescale), work.low, work.high
    )
    name = f"qc_mul_s{8 * dtype.itemsize}"
    return Call(work, [a, b], shape, dtype, ((name, (a, b, params, walk, Y)),))


def extremum(rng: np.random.Generator, dtype: np.dtype[Any]) -> Call:
    draw = Draw(rng)
    work = Extremum(draw.chance(0.5))
    a, b, shape, walk = _broadcast(draw, dtype)
    name = f"qc_extremum_s{8 * dtype.itemsize}"
    return Call(work, [a, b], shape, dtype, ((name, (a, b, work.largest, walk, Y)),))


def lookup(rng: np.random.Generator, dtype: np.dtype[Any]) -> Call:
    draw = Draw(rng)
    table, x = draw.codes(256, dtype=dtype), draw.codes(1, draw.between(1, 60))
    name = "qc_lookup_s8" if dtype == INT8 else "qc_lookup_s8_s16"
    return Call(Lookup(table), [x], x.shape[1:], dtype, ((name, (x, table, x.size, Y)),))


def interpolation(rng: np.random.Generator) -> Call:
    draw = Draw(rng)
    table, x = draw.codes(513, dtype=INT16), draw.codes(1, draw.between(1, 60), dtype=INT16)
    arguments = (x, table, x.size, Y)
    return Call(Interpolation(table), [x], x.shape[1:], INT16, (("qc_interpolate_s16", arguments),))


def _offsets(draw: Draw, given: np.dtype[Any], made: np.dtype[Any]) -> tuple[int, int]:
    return tuple(draw.offset() if dtype == INT8 else 0 for dtype in (given, made))  # type: ignore[return-value]


def requantization(rng: np.random.Generator, given: np.dtype[Any], made: np.dtype[Any]) -> Call:
    draw = Draw(rng)
    offsets, clamps = _offsets(draw, given, made), draw.clamps(made)
    work = Requantization(draw.rescale(2.0 ** (8 * given.itemsize), made), *offsets, *clamps)
    x = draw.codes(1, draw.between(1, 60), dtype=given)
    params = numbers(offsets, _factor(work.rescale), clamps)
    name = f"qc_requantize_s{8 * given.itemsize}_s{8 * made.itemsize}"
    return Call(work, [x], x.shape[1:], made, ((name, (x, params, x.size, Y)),))


def mean(rng: np.random.Generator, dtype: np.dtype[Any]) -> Call:
    draw = Draw(rng)
    outer, count, inner = draw.between(1, 4), draw.between(1, 50), draw.between(1, 70)
    offsets, clamps = _offsets(draw, dtype, dtype), draw.clamps(dtype)
    rescale = draw.rescale(np.sqrt(count) * 2 ** (8 * dtype.itemsize - 2), dtype)
    work = Mean(outer, count, inner, rescale, *offsets, *clamps)
    x = draw.codes(1, outer, count, inner, dtype=dtype)
    params = numbers(offsets, _factor(rescale), clamps)
    name = f"qc_mean_s{8 * dtype.itemsize}"
    return Call(work, [x], (outer, inner), dtype, ((name, (x, params, outer, count, inner, Y)),))


def arg_max(rng: np.random.Generator, dtype: np.dtype[Any]) -> Call:
    draw = Draw(rng)
    sizes = draw.between(1, 4), draw.between(1, 30), draw.between(1, 5)
    work = ArgMax(*sizes, draw.chance(0.5))
    x = draw.codes(1, *sizes, dtype=dtype, bits=3 if draw.chance(0.5) else 0)
    name = f"qc_argmax_s{8 * dtype.itemsize}"
    return Call(work, [x], (sizes[0], sizes[2]), INT32, ((name, (x, work.last, *sizes, Y)),))


def resize(rng: np.random.Generator, dtype: np.dtype[Any]) -> Call:
    draw = Draw(rng)
    n, height, width, depth = (draw.between(1, most) for most in (2, 5, 5, 9))
    made = draw.between(1, 8), draw.between(1, 8)
    nearest = draw.chance(0.3)
    tables = []
    for size, wanted in zip((height, width), made, strict=True):
        lower = rng.integers(0, size, wanted, dtype=np.int32)
        upper = np.minimum(lower + 1, size - 1).astype(np.int32)
        weight = np.zeros(wanted, np.int32) if nearest else rng.integers(0, 1025, wanted, dtype=np.int32)
        tables.append((lower, upper, weight))
    x = draw.codes(1, n, height, width, depth, dtype=dtype)
    shape = (n, *made, depth)
    rows, columns = (Pointers(*table) for table in tables)
    arguments = (x, dims(x.shape[1:]), rows, columns, dims(shape), Y)
    name = f"qc_resize_s{8 * dtype.itemsize}"
    return Call(Resize(tables[0], tables[1]), [x], shape, dtype, ((name, arguments),))


def strided_copy(rng: np.random.Generator, dtype: np.dtype[Any]) -> Call:
    draw = Draw(rng)
    x = draw.codes(1, 200, dtype=dtype)
    shape = tuple(draw.between(1, 4) for _ in range(draw.between(1, DIMS)))
    strides = tuple(draw.between(-8, 8) for _ in shape)
    ends = [(size - 1) * step for size, step in zip(shape, strides, strict=True)]
    start = draw.between(-sum(min(0, end) for end in ends), 199 - sum(max(0, end) for end in ends))
    params = numbers(start, axes(shape, 1), axes(strides, 0))
    arguments = (x, params, dtype.itemsize, Y)
    return Call(StridedCopy(start, shape, strides), [x], shape, dtype, (("qc_strided_copy", arguments),))


def gather(rng: np.random.Generator, dtype: np.dtype[Any]) -> Call:
    draw = Draw(rng)
    outer, size, inner = draw.between(1, 4), draw.between(1, 9), draw.between(1, 9)
    indices = rng.integers(0, size, draw.between(1, 9), dtype=np.int32)
    x = draw.codes(1, outer, size, inner, dtype=dtype)
    arguments = (x, outer, size, inner * dtype.itemsize, indices, len(indices), Y)
    shape = (outer, len(indices), inner)
    return Call(Gather(1, indices), [x], shape, dtype, (("qc_gather", arguments),))


def concatenation(rng: np.random.Generator, dtype: np.dtype[Any]) -> Call:
    draw = Draw(rng)
    outer, inner = draw.between(1, 4), draw.between(1, 5)
    parts = [draw.codes(1, outer, draw.between(1, 6), inner, dtype=dtype) for _ in range(draw.between(2, 3))]
    sizes = numbers([part[0, 0].nbytes for part in parts])
    made = sum(part.shape[2] for part in parts)
    arguments = (Pointers(*parts), sizes, len(parts), outer, Y)
    return Call(Concatenation(1), parts, (outer, made, inner), dtype, (("qc_concat", arguments),))


def padding(rng: np.random.Generator, dtype: np.dtype[Any]) -> Call:
    draw = Draw(rng)
    rank = draw.between(1, DIMS)
    shape, before, after = (tuple(draw.between(low, 3) for _ in range(rank)) for low in (1, 0, 0))
    info = np.iinfo(dtype)
    work = Padding(before, after, draw.between(info.min, info.max))
    x = draw.codes(1, *shape, dtype=dtype)
    made = tuple(map(sum, zip(shape, before, after, strict=True)))
    params = numbers(axes(shape, 1), axes(before, 0), axes(after, 0), work.value)
    return Call(work, [x], made, dtype, ((f"qc_pad_{8 * dtype.itemsize}", (x, params, Y)),))


# -- families -----------------------------------------------------------------------------------------------------

Family = Callable[[np.random.Generator], Call]


def _library_families() -> dict[str, Family]:
    families: dict[str, Family] = {}
    for kind in ("s8", "s4", "s16"):
        families[f"convolution_{kind}"] = lambda rng, kind=kind: convolution(rng, kind)
        families[f"depthwise_{kind}"] = lambda rng, kind=kind: depthwise(rng, kind)
        families[f"fully_connected_{kind}"] = lambda rng, kind=kind: fully_connected(rng, kind, False)
    families["fully_connected_per_channel_s8"] = lambda rng: fully_connected(rng, "s8", True)
    for kind, dtype in (("s8", INT8), ("s16", INT16)):
        families[f"matrix_product_{kind}"] = lambda rng, kind=kind: matrix_product(rng, kind)
        families[f"average_{kind}"] = lambda rng, dtype=dtype: pool(rng, dtype, True)
        families[f"maximum_{kind}"] = lambda rng, dtype=dtype: pool(rng, dtype, False)
        families[f"addition_{kind}"] = lambda rng, dtype=dtype: addition(rng, dtype)
        families[f"multiplication_{kind}"] = lambda rng, dtype=dtype: multiplication(rng, dtype)
        families[f"softmax_{kind}"] = lambda rng, dtype=dtype: softmax(rng, dtype)
    return families


def _own_families() -> dict[str, Family]:
    families: dict[str, Family] = {}
    for kind in ("s4", "s16"):
        families[f"fully_connected_per_channel_{kind}"] = lambda rng, kind=kind: fully_connected(
            rng, kind, True
        )
    several = {
        "add": broadcast_addition, "mul": broadcast_multiplication, "extremum": extremum, "lookup": lookup, "mean": mean,
        "argmax": arg_max, "resize": resize, "strided_copy": strided_copy, "gather": gather, "concat": concatenation,
        "pad": padding,
    }  # fmt: skip
    for name, family in several.items():
        for dtype in (INT8, INT16):
            families[f"{name}_s{8 * dtype.itemsize}"] = lambda rng, family=family, dtype=dtype: family(
                rng, dtype
            )
    for family in (strided_copy, gather, concatenation):
        families[f"{family.__name__}_s32"] = lambda rng, family=family: family(rng, INT32)
    families["interpolation"] = interpolation
    for given in (INT8, INT16):
        for made in (INT8, INT16):
            name = f"requantization_s{8 * given.itemsize}_s{8 * made.itemsize}"
            families[name] = lambda rng, given=given, made=made: requantization(rng, given, made)
    return families


LIBRARY: Mapping[str, Family] = _library_families()
"""Families that CMSIS-NN has functions for."""

OWN: Mapping[str, Family] = _own_families()
"""Families that only this compiler has kernels for."""
