"""Elementwise arithmetic, tables, softmax and reductions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from qcompiler.fixed_point import (
    doubling_high_multiply,
    exp_of_negative,
    one_over_one_plus,
    rounding_divide,
    to_codes,
)
from qcompiler.integer.evaluate_base import evaluate
from qcompiler.integer.operations import (
    Addition,
    ArgMax,
    Extremum,
    Interpolation,
    Lookup,
    Mean,
    Multiplication,
    Requantization,
    Softmax,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qcompiler.integer.evaluate_base import Arrays
    from qcompiler.integer.program import Tensor


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


@evaluate.register(Extremum)
def _extremum(work: Extremum, arrays: Arrays, output: Tensor) -> NDArray[Any]:
    a, b = arrays
    result: NDArray[Any] = np.maximum(a, b) if work.largest else np.minimum(a, b)
    return result


@evaluate.register(Lookup)
def _lookup(work: Lookup, arrays: Arrays, output: Tensor) -> NDArray[Any]:
    """Gives y = table[x + 128]."""
    (x,) = arrays
    by_byte = np.roll(work.table.astype(output.dtype), 128)  # the byte of a negative code is 256 higher
    codes: NDArray[Any] = by_byte[np.ascontiguousarray(x).view(np.uint8)]
    return codes


@evaluate.register(Interpolation)
def _interpolation(work: Interpolation, arrays: Arrays, output: Tensor) -> NDArray[Any]:
    """The formula of `Interpolation`."""
    (x,) = arrays
    codes, table = x.astype(np.int32), work.table.astype(np.int32)
    index = 256 + (codes >> 7)
    base = table[index]
    result: NDArray[Any] = base + (((table[index + 1] - base) * (codes & 127) + 64) >> 7)
    return result.astype(output.dtype)


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


@evaluate.register(Mean)
def _mean(work: Mean, arrays: Arrays, output: Tensor) -> NDArray[Any]:
    """Gives y = clamp(rescale(sum(x + input_offset)) + output_offset)."""
    (x,) = arrays
    total = x.reshape(-1, work.outer, work.count, work.inner).sum(axis=2, dtype=np.int64)
    total += work.count * work.input_offset
    values = work.rescale.apply(total)
    codes = to_codes(values, work.output_offset, work.low, work.high, output.dtype)
    return codes.reshape(-1, *output.shape)


@evaluate.register(ArgMax)
def _arg_max(work: ArgMax, arrays: Arrays, output: Tensor) -> NDArray[Any]:
    (x,) = arrays
    codes = x.reshape(-1, work.outer, work.count, work.inner)
    index: NDArray[Any] = (codes[:, :, ::-1] if work.last else codes).argmax(axis=2)
    if work.last:
        index = work.count - 1 - index
    return index.astype(output.dtype).reshape(-1, *output.shape)
