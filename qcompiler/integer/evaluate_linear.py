"""Convolutions and matrix products, exactly, by floating-point matrix products.

A sum of products of codes is an integer. Where the sum of their magnitudes is at most 2**24 (2**53) every partial sum is a
float32 (float64) whatever the order of adding, so BLAS computes it exactly; which type does is known from the weights. Codes
are multiplied as stored, and `input_offset` times the sum of the weights goes into the bias; integers that wrap around allow
that. What is outside of an image reads as the code of zero.

With acc the wrapped sum of (x + input_offset) * w and the bias, y = clamp(rescale(acc) + output_offset).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
from numpy.lib.stride_tricks import as_strided

from qcompiler.fixed_point import to_codes
from qcompiler.integer.evaluate_base import evaluate, prepared
from qcompiler.integer.evaluate_windows import placed, reach, windows
from qcompiler.integer.operations import Convolution, DepthwiseConvolution, FullyConnected, MatrixProduct
from qcompiler.integer.requantize import Codes, Requantizer

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qcompiler.integer.evaluate_base import Arrays
    from qcompiler.integer.program import Tensor

_BLOCK = 1 << 18
"""Elements that are multiplied at a time: few enough for the caches, and all that takes memory beyond inputs and outputs."""


@dataclass(frozen=True)
class _Sums:
    """Turns exact sums of products of codes into codes.

    Attributes:
        floats: The type that holds every sum of products.
        bias: With what the input's offset contributes, [repeated * outputs], of a type that holds every sum with it.
        finish: Makes codes of sums with their bias, [rows, repeated * outputs].
    """

    floats: np.dtype[Any]
    bias: NDArray[Any]
    finish: Requantizer

    @classmethod
    def of(
        cls,
        work: Convolution | DepthwiseConvolution | FullyConnected,
        x: Tensor,
        weights: NDArray[Any],
        bias: NDArray[Any],
        dtype: np.dtype[Any],
        repeated: int = 1,
    ) -> _Sums:
        """For inputs of the type of x, weights [..., outputs], and rows in which all outputs are repeated so many times."""
        weights = weights.astype(np.int16).reshape(-1, weights.shape[-1])
        products = _largest(x.dtype) * np.abs(weights).sum(axis=0, dtype=np.int64)
        moved = bias.astype(np.int64) + work.input_offset * weights.sum(axis=0, dtype=np.int64)
        codes = Codes(work.rescale, work.output_offset, work.low, work.high, dtype)
        finish = Requantizer(codes, moved - products, moved + products, repeated)
        moved[finish.constant] = 0
        largest = products + np.abs(moved)
        wider = _exact(int(largest.max(initial=0))) if finish.in_floats else np.dtype(np.int64)
        return cls(_exact(int(products.max(initial=0))), np.tile(moved, repeated).astype(wider), finish)

    def of_rows(self, products: NDArray[Any]) -> NDArray[Any]:
        """The codes of sums [rows, repeated * outputs], which are written over."""
        sums = products.astype(self.bias.dtype, copy=False)
        sums += self.bias
        return self.finish(sums)


def _largest(dtype: np.dtype[Any]) -> int:
    """The largest magnitude of a type's numbers."""
    info: Any = ml_dtypes.iinfo(dtype)  # type: ignore[no-untyped-call]
    return int(max(-info.min, info.max))


def _exact(magnitude: int) -> np.dtype[Any]:
    """The type in which sums are exact whose terms' magnitudes sum up to that; 2**53 is out of reach of int16 codes."""
    return np.dtype(np.float32 if magnitude <= 1 << 24 else np.float64)


@prepared(Convolution)
class _Convolution:
    """Columns of what every output reads, times the filters."""

    def __init__(self, work: Convolution, inputs: Sequence[Tensor], output: Tensor) -> None:
        x, filters, bias = inputs
        assert filters.data is not None
        assert bias.data is not None
        self.work, self.output = work, output
        outputs, *self.taps, self.depth = filters.shape
        self.sums = _Sums.of(
            work, x, np.moveaxis(filters.data, 0, -1), bias.data, output.dtype, output.shape[2]
        )
        weights = filters.data.astype(self.sums.floats).reshape(work.groups, outputs // work.groups, -1)
        self.weights = np.ascontiguousarray(weights.transpose(0, 2, 1))

    def __call__(self, arrays: Arrays) -> NDArray[Any]:
        work, sums = self.work, self.sums
        images = arrays[0].reshape(-1, *arrays[0].shape[-3:])
        height, width, outputs = self.output.shape[1:]
        groups, inputs, _ = self.weights.shape
        size = reach((height, width), self.taps, work.strides, work.dilations)
        made = np.empty((len(images), height, width, outputs), self.output.dtype)
        row_elements = width * max(groups * inputs, 2 * outputs)
        for part in _blocks(len(images), height * row_elements):
            image = placed(images[part], size, work.pads[:2], work.upscale, -work.input_offset, sums.floats)
            for rows in _blocks(height, len(image) * row_elements):
                view = windows(image, rows, width, self.taps, work)
                grouped = view.reshape(*view.shape[:5], groups, self.depth).transpose(5, 0, 1, 2, 3, 4, 6)
                columns = grouped.reshape(groups, -1, inputs)
                products = np.matmul(columns, self.weights).transpose(1, 0, 2)
                codes = sums.of_rows(products.reshape(-1, width * outputs))
                made[part, rows] = codes.reshape(len(image), -1, width, outputs)
        return made.reshape(-1, *self.output.shape)


@prepared(DepthwiseConvolution)
class _DepthwiseConvolution:
    """Every output is a sum of as many products as the filter has taps."""

    def __init__(self, work: DepthwiseConvolution, inputs: Sequence[Tensor], output: Tensor) -> None:
        x, filters, bias = inputs
        assert filters.data is not None
        assert bias.data is not None
        self.work, self.output = work, output
        self.taps = filters.shape[1:3]
        width, outputs = output.shape[2:]
        self.sums = _Sums.of(work, x, filters.data, bias.data, output.dtype, width)
        self.weights = filters.data.astype(self.sums.floats).reshape(*self.taps, outputs)
        # Where windows overlap column by column, all of a row can be one loop.
        self.merged = work.strides[1] == 1
        if self.merged:
            self.weights = np.tile(self.weights, width)

    def __call__(self, arrays: Arrays) -> NDArray[Any]:
        work, sums = self.work, self.sums
        images = arrays[0].reshape(-1, *arrays[0].shape[-3:])
        height, width, outputs = self.output.shape[1:]
        made = np.empty((len(images), *self.output.shape[1:]), self.output.dtype)
        size = reach((height, width), self.taps, work.strides, work.dilations)
        for part in _blocks(len(images), 3 * height * width * outputs):
            source = (
                np.repeat(images[part], work.multiplier, axis=-1) if work.multiplier > 1 else images[part]
            )
            image = placed(source, size, work.pads[:2], (1, 1), -work.input_offset, sums.floats)
            for rows in _blocks(height, 3 * len(image) * width * outputs):
                view = windows(image, rows, width, self.taps, work)
                if self.merged:
                    products = np.einsum("nhijx,ijx->nhx", _merged(view), self.weights)
                else:
                    products = np.einsum("nhwijc,ijc->nhwc", view, self.weights)
                codes = sums.of_rows(products.reshape(-1, width * outputs))
                made[part, rows] = codes.reshape(len(image), -1, width, outputs)
        return made.reshape(-1, *self.output.shape)


def _merged(view: NDArray[Any]) -> NDArray[Any]:
    """Windows [images, rows, columns, *taps, channels], one channel behind the other, as [images, rows, *taps, columns * channels]."""
    count, rows, columns, *taps, channels = view.shape
    *outer, _, down, right, channel = view.strides
    return as_strided(
        view, (count, rows, *taps, columns * channels), (*outer, down, right, channel), writeable=False
    )


@prepared(FullyConnected)
class _FullyConnected:
    """A matrix product."""

    def __init__(self, work: FullyConnected, inputs: Sequence[Tensor], output: Tensor) -> None:
        x, matrix, bias = inputs
        assert matrix.data is not None
        assert bias.data is not None
        self.output = output
        self.sums = _Sums.of(work, x, matrix.data.T, bias.data, output.dtype)
        self.weights = np.ascontiguousarray(matrix.data.astype(self.sums.floats).T)

    def __call__(self, arrays: Arrays) -> NDArray[Any]:
        x = arrays[0]
        rows = x.reshape(-1, x.shape[-1])
        made = np.empty((len(rows), self.weights.shape[1]), self.output.dtype)
        for part in _blocks(len(rows), max(self.weights.shape)):
            made[part] = self.sums.of_rows(rows[part].astype(self.sums.floats) @ self.weights)
        return made.reshape(-1, *self.output.shape)


@evaluate.register(MatrixProduct)
def _matrix_product(work: MatrixProduct, arrays: Arrays, output: Tensor) -> NDArray[Any]:
    a, b = arrays
    offsets = work.input_offset, work.other_offset
    largest = [_largest(array.dtype) + abs(offset) for array, offset in zip(arrays, offsets, strict=True)]
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
