"""Convolutions and matrix products, exactly, by floating-point matrix products.

A sum of products of codes is an integer. Where the sum of their magnitudes is at most 2**24 (2**53) every partial sum is a
float32 (float64) whatever the order of adding, so BLAS computes it exactly; which type does is known from the weights. Codes
are multiplied as stored, and `input_offset` times the sum of the weights goes into the bias; integers that wrap around allow
that. What is outside of an image reads as the code of zero.

With acc the wrapped sum of (x + input_offset) * w and the bias, y = clamp(rescale(acc) + output_offset).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from qcompiler.fixed_point import to_codes
from qcompiler.integer.evaluate_base import evaluate
from qcompiler.integer.evaluate_windows import placed, reach, tap
from qcompiler.integer.operations import Convolution, DepthwiseConvolution, FullyConnected, MatrixProduct

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from qcompiler.integer.evaluate_base import Arrays
    from qcompiler.integer.program import Tensor

_BLOCK = 1 << 19
"""Elements that are multiplied at a time: few enough for the caches, and all that takes memory beyond inputs and outputs."""


@dataclass(frozen=True)
class _Sums:
    """Turns exact sums of products of codes into codes.

    Attributes:
        work: Its rescale, offset and clamps.
        floats: The type that holds every sum of products.
        integers: The type of the accumulators; int32 where that is enough, since it is faster.
        bias: With what the input's offset contributes, [outputs].
        dtype: Of the codes written.
    """

    work: Convolution | DepthwiseConvolution | FullyConnected
    floats: np.dtype[Any]
    integers: np.dtype[Any]
    bias: NDArray[Any]
    dtype: np.dtype[Any]

    @classmethod
    def of(
        cls,
        work: Convolution | DepthwiseConvolution | FullyConnected,
        x: NDArray[Any],
        weights: NDArray[Any],
        bias: NDArray[Any],
        dtype: np.dtype[Any],
    ) -> _Sums:
        """For inputs of the type of x, and weights [..., outputs]."""
        weights = weights.astype(np.int16).reshape(-1, weights.shape[-1])
        floats = _exact(_largest(x) * int(np.abs(weights).sum(axis=0, dtype=np.int64).max(initial=0)))
        integers = np.dtype(np.int32 if floats == np.float32 and not work.rescale.wide else np.int64)
        moved = bias.astype(np.int64) + work.input_offset * weights.sum(axis=0, dtype=np.int64)
        return cls(work, floats, integers, moved.astype(integers), dtype)

    def codes(self, products: NDArray[Any]) -> NDArray[Any]:
        """The codes of sums [..., outputs]."""
        accumulators = products.astype(self.integers)
        accumulators += self.bias
        work = self.work
        return to_codes(work.rescale.apply(accumulators), work.output_offset, work.low, work.high, self.dtype)


def _largest(x: NDArray[Any]) -> int:
    """The largest magnitude of a type's numbers."""
    info: Any = ml_dtypes.iinfo(x.dtype)  # type: ignore[no-untyped-call]
    return int(max(-info.min, info.max))


def _exact(magnitude: int) -> np.dtype[Any]:
    """The type in which sums are exact whose terms' magnitudes sum up to that; 2**53 is out of reach of int16 codes."""
    return np.dtype(np.float32 if magnitude <= 1 << 24 else np.float64)


@evaluate.register(Convolution)
def _convolution(work: Convolution, arrays: Arrays, output: Tensor) -> NDArray[Any]:
    x, filters, bias = arrays
    images = x.reshape(-1, *x.shape[-3:])
    outputs, *taps, depth = filters.shape
    sums = _Sums.of(work, x, np.moveaxis(filters, 0, -1), bias, output.dtype)
    weights = filters.astype(sums.floats).reshape(work.groups, outputs // work.groups, -1).transpose(0, 2, 1)
    height, width = output.shape[1:3]
    size = reach((height, width), taps, work.strides, work.dilations)
    extent = reach((1, 1), taps, work.strides, work.dilations)
    down, right = work.strides
    made = np.empty((len(images), height, width, outputs), output.dtype)
    row_elements = width * work.groups * weights.shape[1]
    for part in _blocks(len(images), height * row_elements):
        image = placed(images[part], size, work.pads[:2], work.upscale, -work.input_offset, sums.floats)
        for rows in _blocks(height, len(image) * row_elements):
            read = image[:, rows.start * down : (rows.stop - 1) * down + extent[0]]
            windows = sliding_window_view(read, extent, axis=(1, 2))
            windows = windows[:, ::down, ::right, :, :: work.dilations[0], :: work.dilations[1]]
            grouped = windows.reshape(*windows.shape[:3], work.groups, depth, *taps)
            columns = grouped.transpose(3, 0, 1, 2, 5, 6, 4).reshape(work.groups, -1, weights.shape[1])
            products = np.matmul(columns, weights).transpose(1, 0, 2)
            made[part, rows] = sums.codes(products.reshape(*windows.shape[:3], outputs))
    return made.reshape(-1, *output.shape)


@evaluate.register(DepthwiseConvolution)
def _depthwise_convolution(work: DepthwiseConvolution, arrays: Arrays, output: Tensor) -> NDArray[Any]:
    x, filters, bias = arrays
    images = x.reshape(-1, *x.shape[-3:])
    sums = _Sums.of(work, x, filters, bias, output.dtype)
    height, width, outputs = output.shape[1:]
    taps = filters.shape[1:3]
    # One row of weights per column of the output: equal strides make whole rows one loop.
    weights = np.repeat(filters.astype(sums.floats).reshape(*taps, 1, outputs), width, axis=2)
    made = np.empty((len(images), *output.shape[1:]), output.dtype)
    size = reach((height, width), taps, work.strides, work.dilations)
    for part in _blocks(len(images), 4 * height * width * outputs):
        source = np.repeat(images[part], work.multiplier, axis=-1)
        image = placed(source, size, work.pads[:2], (1, 1), -work.input_offset, sums.floats)
        for rows in _blocks(height, 4 * len(image) * width * outputs):
            products = np.zeros((len(image), rows.stop - rows.start, width, outputs), sums.floats)
            term = np.empty_like(products)
            for i, j in np.ndindex(*taps):
                first = (rows.start * work.strides[0] + i * work.dilations[0], j * work.dilations[1])
                np.multiply(tap(image, first, products.shape[1:3], work.strides), weights[i, j], out=term)
                products += term
            made[part, rows] = sums.codes(products)
    return made.reshape(-1, *output.shape)


@evaluate.register(FullyConnected)
def _fully_connected(work: FullyConnected, arrays: Arrays, output: Tensor) -> NDArray[Any]:
    x, matrix, bias = arrays
    sums = _Sums.of(work, x, matrix.T, bias, output.dtype)
    weights = matrix.astype(sums.floats).T
    rows = x.reshape(-1, x.shape[-1])
    made = np.empty((len(rows), len(matrix)), output.dtype)
    for part in _blocks(len(rows), max(matrix.shape)):
        made[part] = sums.codes(rows[part].astype(sums.floats) @ weights)
    return made.reshape(-1, *output.shape)


@evaluate.register(MatrixProduct)
def _matrix_product(work: MatrixProduct, arrays: Arrays, output: Tensor) -> NDArray[Any]:
    a, b = arrays
    offsets = work.input_offset, work.other_offset
    largest = [_largest(array) + abs(offset) for array, offset in zip(arrays, offsets, strict=True)]
    floats = _exact(a.shape[-1] * largest[0] * largest[1])
    left, right = (
        array.astype(floats) + floats.type(offset) for array, offset in zip((a, b), offsets, strict=True)
    )
    accumulators = np.matmul(left, np.swapaxes(right, -1, -2)).astype(np.int64)
    return to_codes(work.rescale.apply(accumulators), work.output_offset, work.low, work.high, output.dtype)


def _blocks(count: int, elements: int) -> Iterator[slice]:
    """Slices of `count` things of that many elements with at most `_BLOCK` elements, but at least one thing, each."""
    together = max(1, _BLOCK // max(1, elements))
    for first in range(0, count, together):
        yield slice(first, min(count, first + together))
