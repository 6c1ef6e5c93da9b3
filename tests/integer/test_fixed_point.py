"""Fixed-point arithmetic against the formulas written out in Python's own integers, which have no width to forget about."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from qcompiler.fixed_point import (
    LEAST,
    MOST,
    Rescale,
    doubling_high_multiply,
    exp_of_negative,
    one_over_one_plus,
    quantized_multiplier,
    rounding_divide,
    saturating_left_shift,
    to_codes,
    wrap32,
)

INT32 = st.one_of(
    st.integers(LEAST, MOST), st.integers(-300, 300), st.sampled_from((LEAST, LEAST + 1, MOST - 1, MOST))
)
MULTIPLIERS = st.one_of(st.integers(1 << 30, MOST), st.sampled_from((0, 1 << 30, MOST)))
SHIFTS = st.integers(-31, 30)
ROWS = 40


def wrap(x: int) -> int:
    return (x + (1 << 31)) % (1 << 32) - (1 << 31)


def dhm(a: int, b: int) -> int:
    return min((a * b + (1 << 30)) >> 31, MOST)


def rdiv(x: int, exponent: int) -> int:
    """Halves away from zero, as CMSIS-NN writes it."""
    mask = (1 << exponent) - 1
    return (x >> exponent) + ((x & mask) > (mask >> 1) + (x < 0))


def rescaled(x: int, multiplier: int, shift: int, rounding: str) -> int:
    if rounding == "single":
        return wrap((((x * multiplier) >> (30 - shift)) + 1) >> 1)
    return rdiv(dhm(wrap(x << max(shift, 0)), multiplier), max(-shift, 0))


def rescaled_wide(x: int, multiplier: int, shift: int) -> int:
    reduced = (multiplier + (1 << 15)) >> 16 if multiplier < 0x7FFF0000 else 0x7FFF
    return (wrap((x * reduced) >> (14 - shift)) + 1) >> 1


def satshl(x: int, exponent: int) -> int:
    if x > (1 << (31 - exponent)) - 1:
        return MOST
    return LEAST if x < -((1 << (31 - exponent)) - 1) else x << exponent


def exp_neg(v: int) -> int:
    low = (v & ((1 << 24) - 1)) - (1 << 24)
    remainder = low - v
    x = wrap(low << 5) + (1 << 28)
    x2 = dhm(x, x)
    t = rdiv(dhm(x2, x2), 2) + dhm(x2, x)
    result = 1895147668 + dhm(1895147668, x + rdiv(dhm(t, 715827883) + x2, 1))
    for i, c in enumerate((1672461947, 1302514674, 790015084, 290630308, 39332535, 720401, 242)):
        if remainder & (1 << (24 + i)):
            result = dhm(result, c)
    return MOST if v == 0 else result


def one_over(v: int) -> int:
    half = (v + MOST + 1) // 2
    x = 1515870810 + dhm(half, -1010580540)
    for _ in range(3):
        x += satshl(dhm(x, (1 << 29) - dhm(half, x)), 2)
    return satshl(x, 1)


@given(st.lists(st.tuples(INT32, MULTIPLIERS, SHIFTS), min_size=1, max_size=ROWS))
@example([(LEAST, MOST, -31), (MOST, MOST, 30), (LEAST, MOST, 30), (-1, 1 << 30, 0), (1, 0, 0)])
@pytest.mark.parametrize("rounding", ["double", "single"])
def test_rescaling_is_the_formula_per_channel_and_per_tensor(rounding, cases) -> None:
    x, multiplier, shift = (np.array(column) for column in zip(*cases, strict=True))
    expected = [rescaled(*case, rounding) for case in cases]
    per_channel = Rescale(multiplier.astype(np.int32), shift.astype(np.int32), rounding)
    assert per_channel.apply(x).tolist() == expected
    assert per_channel.apply(np.array([x, x], np.int32)).tolist() == [expected] * 2
    single = Rescale(multiplier[:1].astype(np.int32), shift[:1].astype(np.int32), rounding)
    assert single.apply(x).tolist() == [rescaled(value, *cases[0][1:], rounding) for value in x.tolist()]


@given(
    st.lists(
        st.tuples(st.integers(-(1 << 46), 1 << 46), MULTIPLIERS, st.integers(-31, 14)),
        min_size=1,
        max_size=ROWS,
    )
)
def test_rescaling_of_wide_accumulators_is_the_formula(cases) -> None:
    x, multiplier, shift = (np.array(column) for column in zip(*cases, strict=True))
    factors = Rescale(multiplier.astype(np.int32), shift.astype(np.int32), wide=True)
    assert factors.apply(x).tolist() == [rescaled_wide(*case) for case in cases]


def test_rescaling_leaves_its_input_alone_and_wraps_what_exceeds_32_bits() -> None:
    for rounding in ("double", "single"):
        x = np.array([(1 << 32) + 1000, -(1 << 32) - 1000])
        assert Rescale.of(0.5, rounding).apply(x).tolist() == [500, -500]
        assert x.tolist() == [(1 << 32) + 1000, -(1 << 32) - 1000]
    wide = np.array([1 << 20])
    Rescale.of(0.5, wide=True).apply(wide)
    assert wide.tolist() == [1 << 20]


def test_the_two_roundings_differ_where_half_a_step_is_rounded_twice() -> None:
    x = np.arange(-3000, 3000)
    double, single = (Rescale.of(0.0137, rounding).apply(x) for rounding in ("double", "single"))
    assert np.abs(double - single).max() <= 1
    exact = (
        Rescale.of(0.25, "double").apply(np.array([2, -2])),
        Rescale.of(0.25, "single").apply(np.array([2, -2])),
    )
    assert [part.tolist() for part in exact] == [[1, -1], [1, 0]]


@given(st.floats(2.0**-31, 2.0**29), st.sampled_from(("double", "single")))
def test_factors_are_as_near_as_31_bits_allow(real, rounding) -> None:
    factor = Rescale.of(real, rounding)
    multiplier, shift = int(factor.multiplier[0]), int(factor.shift[0])
    assert factor.multiplier.dtype == factor.shift.dtype == np.int32
    assert 1 << 30 <= multiplier <= MOST
    assert abs(math.ldexp(multiplier, shift - 31) - real) <= math.ldexp(0.5, shift - 31)
    assert quantized_multiplier(real) == (multiplier, shift)


@given(st.floats(0, 1e300), st.booleans())
def test_shifts_are_always_legal(real, wide) -> None:
    factor = Rescale.of(real, wide=wide)
    assert -31 <= factor.shift[0] <= (14 if wide else 30)
    assert 0 <= factor.multiplier[0] <= MOST


def test_factors_at_the_ends() -> None:
    reals = [0.0, 2.0**-33, 2.0**-32, 1.0, np.nextafter(1.0, 0), 2.0**30, 1e30]
    factor = Rescale.of(reals)
    assert factor.multiplier.tolist() == [0, 0, 1 << 30, 1 << 30, 1 << 30, MOST, MOST]
    assert factor.shift.tolist() == [0, 0, -31, 1, 1, 30, 30]
    assert Rescale.of(2.0**14, wide=True).shift.tolist() == [14]
    assert not factor.multiplier.flags.writeable
    for wrong in (-1.0, np.inf, np.nan):
        with pytest.raises(ValueError, match="finite"):
            Rescale.of([1.0, wrong])


@given(st.lists(st.tuples(INT32, INT32, st.integers(0, 31)), min_size=1, max_size=ROWS))
@example([(LEAST, LEAST, 31), (MOST, MOST, 31), (0, 0, 0)])
def test_multiply_divide_and_shift_are_the_formulas(cases) -> None:
    a, b, exponent = (np.array(column) for column in zip(*cases, strict=True))
    assert doubling_high_multiply(a, b).tolist() == [dhm(x, y) for x, y, _ in cases]
    assert rounding_divide(a, exponent).tolist() == [rdiv(x, e) for x, _, e in cases]
    assert rounding_divide(a, exponent[0]).tolist() == [rdiv(x, cases[0][2]) for x, _, _ in cases]
    assert a.tolist() == [x for x, _, _ in cases]
    for places in (1, 2, 20):
        assert saturating_left_shift(a, places).tolist() == [satshl(x, places) for x, _, _ in cases]
    assert wrap32(a * 4 + b).tolist() == [wrap(x * 4 + y) for x, y, _ in cases]


def test_division_rounds_halves_away_from_zero() -> None:
    assert rounding_divide([3, 1, -1, -3, 5, -5], 1).tolist() == [2, 1, -1, -2, 3, -3]


@given(st.lists(st.integers(LEAST, 0), min_size=1, max_size=ROWS))
@example([0, -1, -(1 << 24), 1 - (1 << 24), LEAST])
def test_exp_is_the_formula_and_near_the_function(values) -> None:
    found = exp_of_negative(values)
    assert found.tolist() == [exp_neg(v) for v in values]
    np.testing.assert_allclose(found / 2.0**31, np.exp(np.array(values) / 2.0**26), atol=2e-7)


@given(st.lists(st.integers(0, MOST), min_size=1, max_size=ROWS))
@example([0, 1, MOST])
def test_reciprocal_is_the_formula_and_near_the_function(values) -> None:
    found = one_over_one_plus(values)
    assert found.tolist() == [one_over(v) for v in values]
    np.testing.assert_allclose(found / 2.0**31, 1 / (1 + np.array(values) / 2.0**31), atol=1e-8)


def test_codes_are_clamped_after_the_offset() -> None:
    codes = to_codes(np.array([-1000, -3, 0, 5, 1 << 40]), 3, -2, 7, np.dtype(np.int8))
    assert codes.dtype == np.int8
    assert codes.tolist() == [-2, 0, 3, 7, 7]
