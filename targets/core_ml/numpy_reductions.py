"""What MIL's reductions and normalizations compute, in numpy."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from qcompiler.targets.core_ml.numpy_pointwise import along

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]


def _reduction(function: Callable[..., Any]) -> Callable[..., Any]:
    def rule(x: Array, axes: Any = None, keep_dims: Any = False) -> Any:
        places = tuple(range(x.ndim)) if axes is None else tuple(int(axis) for axis in axes)
        return function(x, axis=places, keepdims=bool(keep_dims))

    return rule


def _arg(function: Callable[..., Array]) -> Callable[..., Array]:
    def rule(x: Array, axis: Any = -1, keep_dims: Any = False, output_dtype: str = "int32") -> Array:
        return function(x, axis=int(axis), keepdims=bool(keep_dims))

    return rule


def _l1(x: Array, **where: Any) -> Array:
    result: Array = np.abs(x).sum(**where)
    return result


def _l2(x: Array, **where: Any) -> Array:
    result: Array = np.sqrt((x * x).sum(**where))
    return result


def _sum_square(x: Array, **where: Any) -> Array:
    result: Array = (x * x).sum(**where)
    return result


def _log_sum(x: Array, **where: Any) -> Array:
    return np.asarray(np.log(x.sum(**where)))


def _log_sum_exp(x: Array, axis: tuple[int, ...], keepdims: bool) -> Array:
    largest = x.max(axis=axis, keepdims=True)
    total = np.log(np.exp(x - largest).sum(axis=axis, keepdims=True)) + largest
    result: Array = total if keepdims else np.squeeze(total, axis)
    return result


def _classify(probabilities: Array, classes: Array) -> tuple[str, dict[str, Any]]:
    """The label of the largest number, the first one of several, and all numbers by their labels."""
    numbers = probabilities.reshape(-1)
    return str(classes[numbers.argmax()]), dict(zip(classes.tolist(), numbers, strict=True))


def _topk(
    x: Array,
    k: Any = 1,
    axis: Any = -1,
    ascending: Any = False,
    sort: Any = True,
    return_indices: Any = True,
    output_indices_dtype: str = "int32",
) -> tuple[Array, ...]:
    order = np.argsort(x if ascending else -x, axis=int(axis), kind="stable")
    indices = np.take(order, np.arange(int(k)), axis=int(axis))
    return np.take_along_axis(x, indices, axis=int(axis)), indices


def _cumsum(x: Array, axis: Any = 0, exclusive: Any = False, reverse: Any = False) -> Array:
    axis = int(axis)
    turned = np.flip(x, axis) if reverse else x
    total = np.cumsum(turned, axis=axis, dtype=x.dtype)
    if exclusive:
        total = total - turned
    return np.flip(total, axis) if reverse else total


# -- normalizations ------------------------------------------------------------------------------------------------


def _softmax(x: Array, axis: Any = -1) -> Array:
    powers = np.exp(x - x.max(axis=int(axis), keepdims=True))
    result: Array = powers / powers.sum(axis=int(axis), keepdims=True)
    return result


def _batch_norm(
    x: Array, mean: Array, variance: Array, gamma: Any = None, beta: Any = None, epsilon: Any = 1e-5
) -> Array:
    factor = (1 if gamma is None else gamma) / np.sqrt(variance + epsilon)
    result = (x - along(mean, x.ndim, 1)) * along(factor, x.ndim, 1)
    return result if beta is None else result + along(beta, x.ndim, 1)


def _layer_norm(
    x: Array, axes: Any = None, gamma: Any = None, beta: Any = None, epsilon: Any = 1e-5
) -> Array:
    places = tuple(range(x.ndim)) if axes is None else tuple(int(axis) for axis in axes)
    result = _normal(x, places, epsilon)
    if gamma is not None:
        result = result * _spread(gamma, x.ndim, places)
    return result if beta is None else result + _spread(beta, x.ndim, places)


def _spread(parameter: Array, rank: int, axes: tuple[int, ...]) -> Array:
    shape = [1] * rank
    for axis, size in zip(axes, parameter.shape, strict=True):
        shape[axis] = size
    return parameter.reshape(shape)


def _instance_norm(x: Array, gamma: Any = None, beta: Any = None, epsilon: Any = 1e-5) -> Array:
    result = _normal(x, tuple(range(2, x.ndim)), epsilon)
    if gamma is not None:
        result = result * along(gamma, x.ndim, 1)
    return result if beta is None else result + along(beta, x.ndim, 1)


def _normal(x: Array, axes: tuple[int, ...], epsilon: Any) -> Array:
    mean = x.mean(axis=axes, keepdims=True)
    result: Array = (x - mean) / np.sqrt(x.var(axis=axes, keepdims=True) + epsilon)
    return result


def _local_response_norm(x: Array, size: Any, alpha: Any = 1e-4, beta: Any = 0.75, k: Any = 1.0) -> Array:
    """Of an even number of neighbours the odd one lies behind (as ONNX has it, too)."""
    size = int(size)
    front = (size - 1) // 2
    squares = np.pad(x * x, [(0, 0), (front, size - 1 - front)] + [(0, 0)] * (x.ndim - 2))
    total = sum(squares[:, place : place + x.shape[1]] for place in range(size))
    result: Array = x / (k + alpha / size * total) ** beta
    return result


_REDUCTIONS: dict[str, Callable[..., Any]] = {
    "mean": np.mean,
    "sum": np.sum,
    "max": np.max,
    "min": np.min,
    "prod": np.prod,
    "l1_norm": _l1,
    "l2_norm": _l2,
    "sum_square": _sum_square,
    "log_sum": _log_sum,
    "log_sum_exp": _log_sum_exp,
}
RULES: dict[str, Callable[..., Any]] = {
    **{f"reduce_{name}": _reduction(function) for name, function in _REDUCTIONS.items()},
    "reduce_argmax": _arg(np.argmax),
    "reduce_argmin": _arg(np.argmin),
    "topk": _topk,
    "classify": _classify,
    "cumsum": _cumsum,
    "softmax": _softmax,
    "batch_norm": _batch_norm,
    "layer_norm": _layer_norm,
    "instance_norm": _instance_norm,
    "local_response_norm": _local_response_norm,
}  # fmt: skip
