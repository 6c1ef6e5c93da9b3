"""Tables of functions: how integer kernels compute what is no arithmetic.

Sources: TensorFlow Lite's `LUTPopulate` and `LUTLookup` (kernels/internal/common.h), LOGISTIC and TANH of 8 bits (by tables)
and of 16 bits (integer_ops/logistic.h, tanh.h), SOFTMAX of 16 bits (softmax.h).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from qcompiler.fixed_point import wrap32

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Function = Callable[[NDArray[np.float32]], NDArray[np.float32]]

_SIGMOID = np.array(
    [
    32768, 33451, 34133, 34813, 35493, 36169, 36843, 37513, 38180, 38841, 39498, 40149, 40794, 41432, 42064,
    42688, 43304, 43912, 44511, 45102, 45683, 46255, 46817, 47369, 47911, 48443, 48964, 49475, 49975, 50464,
    50942, 51409, 51865, 52311, 52745, 53169, 53581, 53983, 54374, 54755, 55125, 55485, 55834, 56174, 56503,
    56823, 57133, 57433, 57724, 58007, 58280, 58544, 58800, 59048, 59288, 59519, 59743, 59959, 60168, 60370,
    60565, 60753, 60935, 61110, 61279, 61441, 61599, 61750, 61896, 62036, 62172, 62302, 62428, 62549, 62666,
    62778, 62886, 62990, 63090, 63186, 63279, 63368, 63454, 63536, 63615, 63691, 63765, 63835, 63903, 63968,
    64030, 64090, 64148, 64204, 64257, 64308, 64357, 64405, 64450, 64494, 64536, 64576, 64614, 64652, 64687,
    64721, 64754, 64786, 64816, 64845, 64873, 64900, 64926, 64950, 64974, 64997, 65019, 65039, 65060, 65079,
    65097, 65115, 65132, 65149, 65164, 65179, 65194, 65208, 65221, 65234, 65246, 65258, 65269, 65280, 65291,
    65301, 65310, 65319, 65328, 65337, 65345, 65352, 65360, 65367, 65374, 65381, 65387, 65393, 65399, 65404,
    65410, 65415, 65420, 65425, 65429, 65433, 65438, 65442, 65445, 65449, 65453, 65456, 65459, 65462, 65465,
    65468, 65471, 65474, 65476, 65479, 65481, 65483, 65485, 65488, 65489, 65491, 65493, 65495, 65497, 65498,
    65500, 65501, 65503, 65504, 65505, 65507, 65508, 65509, 65510, 65511, 65512, 65513, 65514, 65515, 65516,
    65517, 65517, 65518, 65519, 65520, 65520, 65521, 65522, 65522, 65523, 65523, 65524, 65524, 65525, 65525,
    65526, 65526, 65526, 65527, 65527, 65528, 65528, 65528, 65529, 65529, 65529, 65529, 65530, 65530, 65530,
    65530, 65531, 65531, 65531, 65531, 65531, 65532, 65532, 65532, 65532, 65532, 65532, 65533, 65533, 65533,
    65533, 65533, 65533, 65533, 65533, 65534, 65534, 65534, 65534, 65534, 65534, 65534, 65534, 65534, 65534,
    65535,
    ],
    np.int64,
)  # fmt: skip
"""65536 times the logistic function of i / 24, lifted a little where straight lines between the entries run below it."""


def rounded(x: NDArray[Any]) -> NDArray[Any]:
    """Whole numbers, halves away from zero, as C's `round` gives them."""
    whole: NDArray[Any] = np.trunc(x)
    whole += np.where(np.abs(x - whole) >= 0.5, np.copysign(x.dtype.type(1), x), x.dtype.type(0))
    return whole


def of_bytes(function: Function, numbers: NDArray[Any], scale: float, zero_point: int) -> NDArray[np.float32]:
    """The codes of a function of some numbers, not clamped yet, in float32 throughout: function * (1 / scale), halves away from zero.

    Args:
        function: In float32.
        numbers: What the codes of the input stand for.
        scale: Of the output.
        zero_point: Of the output.
    """
    with np.errstate(all="ignore"):
        scaled = function(numbers.astype(np.float32)) * (np.float32(1) / np.float32(scale))
        codes: NDArray[np.float32] = rounded(scaled) + np.float32(zero_point)
    return codes


def logistic_of_words(scale: float) -> NDArray[np.int16]:
    """The logistic function of all int16 codes of a scale, in units of 1 / 32768: [65536], read off `_SIGMOID` by straight lines."""
    x = _steps(scale, whole_shifts=(0,))
    size = _sigmoid(np.abs(x), 9, most=0x7FFF << 10)
    return (np.where(x >= 0, size + 512, (1 << 25) - size + 511) >> 10).astype(np.int16)


def tanh_of_words(scale: float) -> NDArray[np.int16]:
    """The hyperbolic tangent of all int16 codes of a scale, in units of 1 / 32768: [65536], as 2 * logistic(2 * x) - 1."""
    x = _steps(scale, whole_shifts=(0, 1))
    size = _sigmoid(np.abs(x), 8, most=0xFFFF << 8) - (1 << 23)
    return (np.where(x >= 0, size + 128, 127 - size) >> 8).astype(np.int16)


def _steps(scale: float, whole_shifts: tuple[int, ...]) -> NDArray[np.int64]:
    """All int16 codes as multiples of 1 / 12288: of `_SIGMOID`'s steps, with 9 fractional bits.

    Scales of 2**(n - 12) are factors of 3 * 2**n, for the given n; others a multiplier of 15 bits and a shift.
    """
    codes = np.arange(-(1 << 15), 1 << 15)
    octaves = np.log(np.float32(scale)) * (np.float32(1) / np.log(np.float32(2)))
    nearest = int(rounded(octaves))
    if abs(octaves - np.float32(nearest)) < np.float32(1e-3) and nearest + 12 in whole_shifts:
        return wrap32(codes * (3 << (nearest + 12)))
    factor, shift = float(np.float32(scale)) * 12288, 0
    while factor <= 32767 / 2 and shift <= 30:
        factor, shift = 2 * factor, shift + 1
    return wrap32(codes * int(factor) + ((1 << shift) >> 1)) >> shift


def _sigmoid(x: NDArray[np.int64], bits: int, most: int) -> NDArray[np.int64]:
    """`_SIGMOID` at x / 2**bits times 2**bits, by straight lines; `most` from the last entry on."""
    index = np.minimum(x >> bits, 254)
    base = _SIGMOID[index]
    line = (base << bits) + (x & ((1 << bits) - 1)) * (_SIGMOID[index + 1] - base)
    return np.where(x >> bits >= 255, most, line)


def of_intervals(
    function: Callable[[float], float], read: tuple[float, int], made: tuple[float, int]
) -> NDArray[np.int16]:
    """The table of an `Interpolation`, [513]: entries are moved by half of what straight lines miss in the middle of intervals.

    Args:
        function: In double precision.
        read: Scale and zero point of the input's codes.
        made: Those of the output's codes.
    """
    (low, high), (least, most) = (
        (scale * (-32768 - zero), scale * (32767 - zero)) for scale, zero in (read, made)
    )
    step, factor = (high - low) / 512, 65536 / (most - least)
    places = low + np.arange(512) * step
    ends = low + (np.arange(512) + 1.0) * step
    at, middle, behind = (
        np.array([function(x) for x in points.tolist()]) * factor
        for points in (places, places + step / 2, ends)
    )
    missed = rounded((rounded((behind + rounded(at)) / 2) - rounded(middle)) / 2)
    entries = np.append(rounded(at) - missed, rounded(np.array([function(high) * factor])))
    table: NDArray[np.int16] = np.clip(entries, -32768, 32767).astype(np.int16)
    return table


def _logistic(x: NDArray[np.float32]) -> NDArray[np.float32]:
    power = np.exp(-x.astype(np.float64)).astype(np.float32)
    return np.float32(1) / (np.float32(1) + power)


def _gelu(x: NDArray[np.float32]) -> NDArray[np.float32]:
    scaled = x * np.float32(-math.sqrt(0.5))
    complement = np.array([math.erfc(number) for number in scaled.tolist()]).astype(np.float32)
    return (np.float32(0.5) * x) * complement


def _gelu_by_tanh(x: NDArray[np.float32]) -> NDArray[np.float32]:
    inner = np.float32(math.sqrt(2 / math.pi)) * (x + np.float32(0.044715) * x * x * x)
    return (np.float32(0.5) * x) * (np.float32(1) + _tanh(inner))


def _tanh(x: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.tanh(x.astype(np.float64)).astype(np.float32)


FLOAT32_FUNCTIONS: dict[str, Function] = {
    "Sigmoid": _logistic,
    "Tanh": _tanh,
    "Gelu": _gelu,
    "Gelu(tanh)": _gelu_by_tanh,
    "Exp": lambda x: np.exp(x.astype(np.float64)).astype(np.float32),
    "Log": lambda x: np.log(np.maximum(x, 0).astype(np.float64)).astype(np.float32),
}
"""Functions step by step in float32, each step correctly rounded; see `Lookup.function` for their names."""

WORD_FUNCTIONS: dict[str, Callable[[float], NDArray[np.int16]]] = {
    "Sigmoid": logistic_of_words,
    "Tanh": tanh_of_words,
}
"""Functions of int16 codes by the input's scale, in units of 1 / 32768."""
