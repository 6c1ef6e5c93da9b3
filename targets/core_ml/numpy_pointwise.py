"""What MIL's elementwise operators compute, in numpy."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import special

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

_CODES = {"int8": (-128, 127), "uint8": (0, 255)}
_TYPES = {"fp16": np.float32, "fp32": np.float32, "int32": np.int32, "int16": np.int16, "uint16": np.uint16, "int8": np.int8, "uint8": np.uint8, "bool": np.bool_}  # fmt: skip
"""What numpy computes with where a program says so; float16 is rounded to afterwards."""


def along(parameter: Array, rank: int, axis: Any) -> Array:
    """Numbers per channel in a shape that broadcasts; a single number as it is."""
    if parameter.ndim == 0:
        return parameter
    shape = [1] * rank
    shape[int(axis)] = -1
    return parameter.reshape(shape)


def _quantize(
    input: Array,  # noqa: A002 - MIL's name
    scale: Array,
    output_dtype: str,
    zero_point: Any = None,
    axis: Any = None,
) -> Array:
    low, high = _CODES[output_dtype]
    codes = np.rint(input / along(np.asarray(scale), input.ndim, axis))
    if zero_point is not None:
        codes = codes + along(np.asarray(zero_point).astype(np.float32), input.ndim, axis)
    return np.clip(codes, low, high).astype(output_dtype)


def _dequantize(input: Array, scale: Array, zero_point: Any = None, axis: Any = None) -> Array:  # noqa: A002 - MIL's name
    centred = input.astype(np.float32)
    if zero_point is not None:
        centred = centred - along(np.asarray(zero_point).astype(np.float32), input.ndim, axis)
    return centred * along(np.asarray(scale), input.ndim, axis)


def _sigmoid(x: Array) -> Array:
    result: Array = special.expit(x)
    return result


def _silu(x: Array) -> Array:
    return x * _sigmoid(x)


def _softplus(x: Array) -> Array:
    return np.logaddexp(x, np.float32(0))


def _gelu(x: Array, mode: str = "EXACT") -> Array:
    if mode == "EXACT":
        result: Array = np.float32(0.5) * x * (1 + special.erf(x * np.float32(math.sqrt(0.5))))
        return result
    if mode == "SIGMOID_APPROXIMATION":
        return x * _sigmoid(np.float32(1.702) * x)
    inner = np.float32(math.sqrt(2 / math.pi)) * (x + np.float32(0.044715) * x**3)
    return np.asarray(np.float32(0.5) * x * (1 + np.tanh(inner)))


def _elu(x: Array, alpha: Any = 1.0) -> Array:
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


def _leaky_relu(x: Array, alpha: Any = 0.01) -> Array:
    return np.where(x >= 0, x, alpha * x)


def _prelu(x: Array, alpha: Array) -> Array:
    return np.where(x >= 0, x, along(alpha, x.ndim, 1) * x)


def _sigmoid_hard(x: Array, alpha: Any = 0.2, beta: Any = 0.5) -> Array:
    return np.asarray(np.clip(alpha * x + beta, 0, 1))


def _thresholded_relu(x: Array, alpha: Any = 1.0) -> Array:
    return np.where(x > alpha, x, 0)


def _clip(x: Array, alpha: Any, beta: Any) -> Array:
    return np.clip(x, alpha, beta)


def _log(x: Array, epsilon: Any = 1e-45) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.log(x + epsilon))


def _rsqrt(x: Array, epsilon: Any = 1e-12) -> Array:
    return np.asarray(1 / np.sqrt(x + epsilon))


def _real_div(x: Array, y: Array) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        return x / y


def _pow(x: Array, y: Array) -> Array:
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        result: Array = np.power(x, y)
        return result


def _cast(x: Array, dtype: str) -> Array:
    """Floats become integers by cutting off what is behind the point."""
    return x.astype(_TYPES[dtype])


def _identity(x: Array) -> Array:
    return x


def _relu(x: Array) -> Array:
    return np.maximum(x, 0)


def _relu6(x: Array) -> Array:
    return np.clip(x, 0, 6)


def _softsign(x: Array) -> Array:
    return np.asarray(x / (1 + np.abs(x)))


def _square(x: Array) -> Array:
    return x * x


def _select(cond: Array, a: Array, b: Array) -> Array:
    return np.where(cond, a, b)


def _unary(function: Callable[[Array], Array]) -> Callable[..., Array]:
    return lambda x: function(x)


def _binary(function: Callable[[Array, Array], Array]) -> Callable[..., Array]:
    return lambda x, y: function(x, y)


RULES: dict[str, Callable[..., Any]] = {
    **{op: _unary(function) for op, function in {
        "tanh": np.tanh, "abs": np.abs, "ceil": np.ceil, "floor": np.floor, "round": np.rint, "sign": np.sign, "sin": np.sin,
        "cos": np.cos, "exp": np.exp, "sqrt": np.sqrt, "erf": special.erf, "logical_not": np.logical_not,
    }.items()},
    **{op: _binary(function) for op, function in {
        "add": np.add, "sub": np.subtract, "mul": np.multiply, "maximum": np.maximum, "minimum": np.minimum, "mod": np.mod,
        "floor_div": np.floor_divide, "equal": np.equal, "not_equal": np.not_equal, "greater": np.greater, "less": np.less,
        "greater_equal": np.greater_equal, "less_equal": np.less_equal, "logical_and": np.logical_and, "logical_or": np.logical_or,
        "logical_xor": np.logical_xor,
    }.items()},
    "quantize": _quantize,
    "dequantize": _dequantize,
    "relu": _relu,
    "relu6": _relu6,
    "sigmoid": _sigmoid,
    "silu": _silu,
    "softplus": _softplus,
    "softsign": _softsign,
    "gelu": _gelu,
    "elu": _elu,
    "leaky_relu": _leaky_relu,
    "prelu": _prelu,
    "sigmoid_hard": _sigmoid_hard,
    "thresholded_relu": _thresholded_relu,
    "clip": _clip,
    "log": _log,
    "rsqrt": _rsqrt,
    "square": _square,
    "real_div": _real_div,
    "pow": _pow,
    "cast": _cast,
    "identity": _identity,
    "select": _select,
}  # fmt: skip
