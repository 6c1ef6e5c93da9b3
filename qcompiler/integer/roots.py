"""Inverse square roots and logarithms in fixed point, as TensorFlow Lite's reference kernels find them.

Sources: `GetInvSqrtQuantizedMultiplierExp` (kernels/internal/common.h) and `log_x_for_x_greater_than_or_equal_to_1_impl`
(kernels/internal/reference/log_softmax.h), in gemmlowp's arithmetic.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from qcompiler.fixed_point import (
    LEAST,
    MOST,
    doubling_high_multiply,
    one_over_one_plus,
    rounding_divide,
    saturating_left_shift,
    wrap32,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Integers = NDArray[np.int64]

_HALF_OF_ROOT_2 = 1518500250  # sqrt(1 / 2), with 31 fractional bits
_FOURTH_ROOT_OF_HALF = 1805811301
_LOGARITHM_OF_2 = 1488522236
_COEFFICIENTS = 117049297, 127690142, 638450708, 1057819769


def inverse_square_root(x: NDArray[Any]) -> tuple[Integers, Integers]:
    """Multiplier and shift of 1 / sqrt(x): five Newton steps from 1, of x scaled by a power of 4 to 2**27 to 2**29.

    Args:
        x: Integers of 32 bits, not negative; 0 counts as 1.
    """
    given = np.asarray(x, np.int64)
    scaled, shift = given.copy(), np.full(given.shape, 11, np.int64)
    while (large := scaled >= 1 << 29).any():
        scaled = np.where(large, scaled // 4, scaled)
        shift += large
    pairs = (_leading_zeros(np.maximum(scaled, 1)) - 1) // 2 - 1
    shift -= pairs
    number = (scaled << (2 * pairs)) >> 1
    half, root = rounding_divide(number, 1), np.full(given.shape, 1 << 28, np.int64)
    for _ in range(5):
        cube = doubling_high_multiply(doubling_high_multiply(root, root), root)
        less = doubling_high_multiply(half, saturating_left_shift(cube, 6))
        root = saturating_left_shift(wrap32(doubling_high_multiply(3 << 27, root) - less), 3)
    root = doubling_high_multiply(root, _HALF_OF_ROOT_2)
    root = wrap32(root << np.maximum(-shift, 0))
    tiny = given <= 1
    return np.where(tiny, MOST, root), np.where(tiny, 0, -np.maximum(shift, 0))


def logarithm(x: NDArray[Any]) -> Integers:
    """log(x) with 26 fractional bits, of numbers from 1 on with 19.

    x = z * 2**n with z about 1, in two ways, of which the one with the smaller mantissa is taken; log(z) is a quotient of polynomials.
    """
    quarter = int(rounding_divide(1 << 29, 6))
    given = np.asarray(x, np.int64)
    zeros = _leading_zeros(given)
    first = _shifted(doubling_high_multiply(_shifted(given, zeros - 1), _HALF_OF_ROOT_2), np.int64(1))
    first_power = np.clip(_shifted(12 - zeros, np.int64(25)) + quarter, LEAST, MOST)
    zeros = _leading_zeros(doubling_high_multiply(given, _HALF_OF_ROOT_2)) - 1
    second = _shifted(given, zeros)
    second_power = np.clip(_shifted(12 - zeros, np.int64(25)) - quarter, LEAST, MOST)
    mantissa, power = np.minimum(first, second), np.maximum(first_power, second_power)
    middle = _half_of(mantissa + _FOURTH_ROOT_OF_HALF)
    q = wrap32(2 * (mantissa - _FOURTH_ROOT_OF_HALF))
    square = doubling_high_multiply(q, q)
    a, b, c, d = _COEFFICIENTS
    above = wrap32(
        doubling_high_multiply(q, mantissa) + doubling_high_multiply(doubling_high_multiply(q, square), a)
    )
    inner = wrap32(d + q + doubling_high_multiply(b, square))
    below = wrap32(doubling_high_multiply(middle, inner) + doubling_high_multiply(c, q))
    quotient = doubling_high_multiply(rounding_divide(above, 6), one_over_one_plus(below))
    return _shifted(wrap32(doubling_high_multiply(power, _LOGARITHM_OF_2) + quotient), np.int64(1))


def _leading_zeros(x: NDArray[Any]) -> Integers:
    """Zeros before the highest bit of positive numbers of 32 bits."""
    return 32 - np.frexp(x.astype(np.float64))[1].astype(np.int64)


def _shifted(x: NDArray[Any], exponent: NDArray[Any] | np.int64) -> Integers:
    """The product x * 2**exponent, saturating; halves away from zero where the exponent is negative."""
    up = np.clip(x << np.maximum(exponent, 0), LEAST, MOST)
    return np.where(exponent >= 0, up, rounding_divide(x, np.maximum(-exponent, 0)))


def _half_of(x: NDArray[Any]) -> Integers:
    """Half of x, halves away from zero."""
    return rounding_divide(x, 1)
