"""Copies, and interpolation between pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from qcompiler.fixed_point import rounding_divide
from qcompiler.integer.evaluate_base import evaluate
from qcompiler.integer.operations import Concatenation, Gather, Padding, Resize, StridedCopy, View

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qcompiler.integer.evaluate_base import Arrays
    from qcompiler.integer.program import Tensor


@evaluate.register(View)
def _view(work: View, arrays: Arrays, output: Tensor) -> NDArray[Any]:
    (x,) = arrays
    return x.reshape(-1, *output.shape)


@evaluate.register(StridedCopy)
def _strided_copy(work: StridedCopy, arrays: Arrays, output: Tensor) -> NDArray[Any]:
    """The formula of `StridedCopy`.

    Raises:
        ValueError: It reads outside of its input.
    """
    (x,) = arrays
    flat = np.ascontiguousarray(x.reshape(len(x), -1))
    ends = [(size - 1) * step for size, step in zip(work.shape, work.strides, strict=True)]
    first, last = (work.start + sum(side(0, end) for end in ends) for side in (min, max))
    if first < 0 or last >= flat.shape[1]:
        raise ValueError(f"a strided copy reads elements {first} to {last} of {flat.shape[1]}")
    shape = (len(x), *work.shape)
    steps = (flat.shape[1], *work.strides)
    strides = tuple(step * flat.itemsize for step in steps)
    return as_strided(flat[:, work.start :], shape, strides, writeable=False).reshape(-1, *output.shape)


@evaluate.register(Concatenation)
def _concatenation(work: Concatenation, arrays: Arrays, output: Tensor) -> NDArray[Any]:
    rank = len(output.shape)
    samples = max((len(array) for array in arrays if array.ndim > rank), default=1)
    parts = [np.broadcast_to(array, (samples, *array.shape[-rank:])) for array in arrays]
    return np.concatenate(parts, axis=1 + work.axis)


@evaluate.register(Padding)
def _padding(work: Padding, arrays: Arrays, output: Tensor) -> NDArray[Any]:
    (x,) = arrays
    result = np.full((len(x), *output.shape), work.value, output.dtype)
    inside = tuple(slice(start, start + size) for start, size in zip(work.before, x.shape[1:], strict=True))
    result[(slice(None), *inside)] = x
    return result


@evaluate.register(Gather)
def _gather(work: Gather, arrays: Arrays, output: Tensor) -> NDArray[Any]:
    (x,) = arrays
    return np.take(x, work.indices, axis=1 + work.axis).reshape(-1, *output.shape)


@evaluate.register(Resize)
def _resize(work: Resize, arrays: Arrays, output: Tensor) -> NDArray[Any]:
    """The formula of `Resize`, rows before columns; the sum of the four products is the same."""
    (x,) = arrays
    if work.nearest:
        return x.take(work.rows[0], axis=-3).take(work.columns[0], axis=-2)
    values = x.astype(np.int64)
    for axis, (lower, upper, weight) in ((-3, work.rows), (-2, work.columns)):
        weights = weight.astype(np.int64).reshape(-1, *(1,) * (-axis - 1))
        values = values.take(lower, axis) * (1024 - weights) + values.take(upper, axis) * weights
    if work.halves == "away":
        return rounding_divide(values, 20).astype(output.dtype)
    values += 1 << 19
    values >>= 20
    return values.astype(output.dtype)
