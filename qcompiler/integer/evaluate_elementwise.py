"""Elementwise arithmetic, tables, softmax and reductions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from qcompiler.fixed_point import (
    doubling_high_multiply,
    exp_of_negative,
    multiply,
    one_over_one_plus,
    rounding_divide,
    to_codes,
    wrap32,
)
from qcompiler.integer.evaluate_base import evaluate, evaluated, prepare
from qcompiler.integer.operations import (
    Addition,
    ArgMax,
    Extreme,
    Extremum,
    Interpolation,
    LogSoftmax,
    Lookup,
    Mean,
    Multiplication,
    Rectifier,
    Requantization,
    Softmax,
    SoftmaxByTables,
    UnitLength,
)
from qcompiler.integer.roots import inverse_square_root, logarithm

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qcompiler.integer.evaluate_base import Arrays, Step
    from qcompiler.integer.operations import Work
    from qcompiler.integer.program import Tensor

_BLOCK = 1 << 15
"""Elements that are looked up at a time: few enough for the caches."""


@evaluate.register(Addition)
def _addition(work: Addition, arrays: Arrays, output: Tensor) -> NDArray[Any]:
    """The formula of `Addition`; the shift to the left keeps bits that the factors would round away."""
    a, b = arrays
    first = work.first.apply((a.astype(np.int64) + work.input_offset) << work.left_shift)
    second = work.second.apply((b.astype(np.int64) + work.other_offset) << work.left_shift)
    total = first + second if work.sign > 0 else first - second
    return to_codes(work.output.apply(total), work.output_offset, work.low, work.high, output.dtype)


@evaluate.register(Multiplication)
def _multiplication(work: Multiplication, arrays: Arrays, output: Tensor) -> NDArray[Any]:
    """Gives y = clamp(rescale((a + input_offset) * (b + other_offset)) + output_offset)."""
    a, b = arrays
    product = (a.astype(np.int64) + work.input_offset) * (b.astype(np.int64) + work.other_offset)
    return to_codes(work.rescale.apply(product), work.output_offset, work.low, work.high, output.dtype)


@evaluate.register(Requantization)
def _requantization(work: Requantization, arrays: Arrays, output: Tensor) -> NDArray[Any]:
    """Gives y = clamp(rescale(x + input_offset) + output_offset)."""
    (x,) = arrays
    values = work.rescale.apply(x.astype(np.int64) + work.input_offset)
    return to_codes(values, work.output_offset, work.low, work.high, output.dtype)


@evaluate.register(Rectifier)
def _rectifier(work: Rectifier, arrays: Arrays, output: Tensor) -> NDArray[Any]:
    """The formula of `Rectifier`."""
    x = arrays[0].astype(np.int64) + work.input_offset
    sloped = x * (arrays[1].astype(np.int64) + work.slope_offset) if len(arrays) > 1 else x
    values = np.where(x >= 0, work.positive.apply(x), work.negative.apply(sloped))
    return to_codes(values, work.output_offset, work.low, work.high, output.dtype)


@prepare.register(Addition)
@prepare.register(Multiplication)
@prepare.register(Rectifier)
@prepare.register(Requantization)
def _elementwise(work: Work, inputs: Sequence[Tensor], output: Tensor) -> Step:
    if any(tensor.dtype.itemsize > 1 for tensor in inputs):
        return partial(evaluated, work, output)
    return _Tabulated(work, tuple(tensor.dtype for tensor in inputs), output)


@dataclass(frozen=True)
class _Tabulated:
    """An elementwise operation on codes of 8 bits: for many elements, what it makes of every code or pair is computed once."""

    work: Work
    dtypes: tuple[np.dtype[Any], ...]
    output: Tensor

    @cached_property
    def table(self) -> NDArray[Any]:
        """What is made of the bytes of an input; or of two, the first one's counting 256 times."""
        codes = np.arange(256, dtype=np.uint8)
        grid = np.ix_(*(codes.view(dtype) for dtype in self.dtypes))
        return evaluate(self.work, grid, self.output).reshape(-1)

    def __call__(self, arrays: Arrays) -> NDArray[Any]:
        if math.prod(np.broadcast_shapes(*(array.shape for array in arrays))) < 1 << 8 * len(arrays):
            return evaluate(self.work, arrays, self.output)
        spread = np.broadcast_arrays(*arrays)
        first, *others = (np.ascontiguousarray(array).view(np.uint8).reshape(-1) for array in spread)
        codes = np.empty(first.shape, self.table.dtype)
        for start in range(0, len(codes), _BLOCK):
            part = slice(start, start + _BLOCK)
            index = first[part].astype(np.intp)
            for other in others:
                index <<= 8
                index |= other[part]
            codes[part] = self.table.take(index)
        return codes.reshape(spread[0].shape)


@evaluate.register(Extremum)
def _extremum(work: Extremum, arrays: Arrays, output: Tensor) -> NDArray[Any]:
    a, b = arrays
    result: NDArray[Any] = np.maximum(a, b) if work.largest else np.minimum(a, b)
    return result


@evaluate.register(Lookup)
def _lookup(work: Lookup, arrays: Arrays, output: Tensor) -> NDArray[Any]:
    """Gives y = table[x - lowest code]."""
    (x,) = arrays
    half = len(work.table) // 2
    by_bits = np.roll(
        work.table.astype(output.dtype), half
    )  # negative codes without a sign are 2 * half higher
    codes: NDArray[Any] = by_bits[np.ascontiguousarray(x).view(f"u{x.itemsize}")]
    return codes


@evaluate.register(Interpolation)
def _interpolation(work: Interpolation, arrays: Arrays, output: Tensor) -> NDArray[Any]:
    """The formula of `Interpolation`."""
    (x,) = arrays
    return _interpolated(work.table, x).astype(output.dtype)


def _interpolated(table: NDArray[Any], x: NDArray[Any]) -> NDArray[Any]:
    codes, table = x.astype(np.int32), table.astype(np.int32)
    index = 256 + (codes >> 7)
    base = table[index]
    result: NDArray[Any] = base + (((table[index + 1] - base) * (codes & 127) + 64) >> 7)
    return result


@evaluate.register(Softmax)
def _softmax(work: Softmax, arrays: Arrays, output: Tensor) -> NDArray[Any]:
    """TensorFlow Lite's integer softmax, as gemmlowp computes it.

    With d = x - max(x): e = exp(d * multiplier * 2**(shift - 31) / 2**26) with 31 fractional bits, and their sum with 19, so
    that rows of less than 4096 elements fit; y = e / sum, with 8 bits (16, for int16), less 128 (32768).
    """
    (x,) = arrays
    bits = output.dtype.itemsize * 8
    lowest = -(1 << (bits - 1))
    below = x.astype(np.int64)
    below -= below.max(axis=-1, keepdims=True)
    counts = below >= work.diff_min
    below = np.where(counts, below, 0)
    powers = exp_of_negative(doubling_high_multiply(below << work.shift, work.multiplier))
    total = np.where(counts, rounding_divide(powers, 12), 0).sum(axis=-1, keepdims=True)
    headroom = 32 - np.frexp(total.astype(np.float64))[1].astype(np.int64)  # zeros before the highest bit
    inverse = one_over_one_plus((total << headroom) - (1 << 31))
    quotient = rounding_divide(doubling_high_multiply(inverse, powers), 12 - headroom + 31 - bits)
    quotient[~counts] = 0
    return to_codes(quotient, lowest, lowest, -lowest - 1, output.dtype)


@evaluate.register(SoftmaxByTables)
def _softmax_by_tables(work: SoftmaxByTables, arrays: Arrays, output: Tensor) -> NDArray[Any]:
    """The formula of `SoftmaxByTables`."""
    (x,) = arrays
    below = x.astype(np.int64)
    below -= below.max(axis=-1, keepdims=True)
    powers = _interpolated(
        work.exponentials, np.clip(wrap32(work.rescale.apply(below) + 32767), -32768, 32767)
    ).astype(np.int64)
    total = powers.sum(axis=-1, keepdims=True)
    shift = np.frexp(total.astype(np.float64))[1].astype(np.int64) - 1  # of the highest bit
    mantissa = ((total << (30 - shift)) + (1 << 13)) >> 14  # 16 fractional bits, 1 to 2
    inverse = _interpolated(work.inverses, np.clip(mantissa - (3 << 15), -32768, 32767)).astype(np.int64)
    quotient = (powers * inverse + ((1 << shift) >> 1)) >> shift
    return to_codes(quotient, 0, 0, 32767, output.dtype)


@evaluate.register(LogSoftmax)
def _log_softmax(work: LogSoftmax, arrays: Arrays, output: Tensor) -> NDArray[Any]:
    """TensorFlow Lite's integer logarithm of softmax.

    With d = x - max(x), z = d * scale with 26 fractional bits, and S the sum of exp(z) as in `Softmax`: y = z - log(S) with 4
    fractional bits, less 127 / 16; differences that go below what the table of exponentials holds count as nothing.
    """
    (x,) = arrays
    below = x.astype(np.int64)
    below -= below.max(axis=-1, keepdims=True)
    counts = below >= work.diff_min
    scaled = multiply(np.where(counts, below, 0), work.multiplier, work.shift)
    powers = rounding_divide(exp_of_negative(scaled), 12)
    log = logarithm(np.where(counts, powers, 0).sum(axis=-1, keepdims=True))
    least = np.maximum(work.diff_min - 1, work.inverse.apply(log - (1 << 31)))
    counts = below > least
    scaled = multiply(np.where(counts, below, 0), work.multiplier, work.shift)
    values = rounding_divide(wrap32(scaled - log), 31 - 5 - 4)
    values[~counts] = -255
    return to_codes(values, 127, -128, 127, output.dtype)


@evaluate.register(UnitLength)
def _unit_length(work: UnitLength, arrays: Arrays, output: Tensor) -> NDArray[Any]:
    """Gives y = clamp((x + input_offset) * 128 / sqrt(S)), with S the sum of squares along the last axis."""
    (x,) = arrays
    values = x.astype(np.int64) + work.input_offset
    factor, shift = inverse_square_root((values * values).sum(axis=-1, keepdims=True))
    return to_codes(multiply(values, factor, shift + 7), 0, -128, 127, output.dtype)


@evaluate.register(Mean)
def _mean(work: Mean, arrays: Arrays, output: Tensor) -> NDArray[Any]:
    """Gives y = clamp(rescale(sum(x + input_offset)) + output_offset)."""
    (x,) = arrays
    total = x.reshape(-1, work.outer, work.count, work.inner).sum(axis=2, dtype=np.int64)
    total += work.count * work.input_offset
    values = work.rescale.apply(total)
    codes = to_codes(values, work.output_offset, work.low, work.high, output.dtype)
    return codes.reshape(-1, *output.shape)


@evaluate.register(Extreme)
def _extreme(work: Extreme, arrays: Arrays, output: Tensor) -> NDArray[Any]:
    (x,) = arrays
    codes = x.reshape(-1, work.outer, work.count, work.inner)
    found: NDArray[Any] = codes.max(axis=2) if work.largest else codes.min(axis=2)
    return found.reshape(-1, *output.shape)


@evaluate.register(ArgMax)
def _arg_max(work: ArgMax, arrays: Arrays, output: Tensor) -> NDArray[Any]:
    (x,) = arrays
    codes = x.reshape(-1, work.outer, work.count, work.inner)
    index: NDArray[Any] = (codes[:, :, ::-1] if work.last else codes).argmax(axis=2)
    if work.last:
        index = work.count - 1 - index
    return index.astype(output.dtype).reshape(-1, *output.shape)
