"""Codes of accumulators in floating point: the same ones as in integers, for all that lies within the stated bounds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompiler.fixed_point import LEAST, MOST, Rescale
from qcompiler.integer.requantize import Codes, Requantizer

ROUNDINGS = ("double", "single")
INT8 = np.dtype(np.int8)


def steps_of(codes: Codes, least: int, most: int) -> list[int]:
    """Accumulators on both sides of every step that a function of one factor makes between two of them."""
    ends = codes.of(np.array([[least], [most]])).ravel()
    if ends[0] == ends[1] or most - least < 2:
        return [least, most]
    middle = (least + most) // 2
    return steps_of(codes, least, middle) + steps_of(codes, middle, most)


@st.composite
def cases(draw: st.DrawFn) -> tuple[Codes, np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Codes of a few channels, and the bounds of their accumulators."""
    channels = draw(st.integers(1, 4))
    one = st.tuples(
        st.integers(1 << 30, MOST) | st.just(0),
        st.integers(-31, 2),
        st.integers(0, 30),
        st.integers(LEAST, MOST),
    )
    drawn = draw(st.lists(one, min_size=channels, max_size=channels))
    multiplier, shift = (np.array([case[at] for case in drawn], np.int32) for at in (0, 1))
    rescale = Rescale(multiplier, shift, draw(st.sampled_from(ROUNDINGS)))
    low = draw(st.integers(-128, 126))
    high = draw(st.integers(low + 1, 127))
    codes = Codes(rescale, draw(st.integers(-140, 140)), low, high, INT8)
    least = np.array([case[3] >> case[2] for case in drawn])
    most = np.minimum(least + draw(st.integers(0, 1 << 24)), MOST)
    return codes, least, most


@settings(deadline=None)
@given(cases())
def test_codes_change_where_they_do_in_integers(case) -> None:
    codes, least, most = case
    for channel in np.flatnonzero(codes.rescale.shift <= 0):
        factor = Rescale(
            codes.rescale.multiplier[[channel]], codes.rescale.shift[[channel]], codes.rescale.rounding
        )
        alone = Codes(factor, codes.offset, codes.low, codes.high, codes.dtype)
        ends = int(least[channel]), int(most[channel])
        x = np.array(steps_of(alone, *ends))[:, None]
        made = Requantizer(alone, np.array(ends[:1]), np.array(ends[1:]))(x.astype(np.float64))
        np.testing.assert_array_equal(made, alone.of(x))


@settings(deadline=None)
@given(cases(), st.integers(0, 1000), st.integers(1, 3))
def test_channels_have_factors_and_bounds_of_their_own(case, seed, repeated) -> None:
    codes, least, most = case
    rng = np.random.default_rng(seed)
    x = rng.integers(least, most, (5 * repeated, len(least)), endpoint=True)
    rows = x.reshape(5, -1).astype(np.float64)
    made = Requantizer(codes, least, most, repeated)(rows)
    assert made.dtype == INT8
    np.testing.assert_array_equal(made.reshape(x.shape), codes.of(x))


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("shift", [0, -1, -4, -9, -14])
def test_halves_are_rounded_as_in_integers(rounding: Any, shift: int) -> None:
    """A factor that is a power of two, so that halves come up; on both sides of zero."""
    rescale = Rescale(np.array([1 << 30], np.int32), np.array([shift], np.int32), rounding)
    codes = Codes(rescale, 3, -128, 127, INT8)
    half = 1 << -shift
    x = np.arange(-300, 301)[:, None] * half
    x = np.concatenate([x - 1, x, x + 1])
    most = np.array([1 << 24])
    np.testing.assert_array_equal(Requantizer(codes, -most, most)(x.astype(np.float32)), codes.of(x))


def test_floating_point_is_used_where_it_is_exact_only() -> None:
    def floats(most: int, shift: int = -8, **options: Any) -> bool:
        rescale = Rescale(np.array([MOST], np.int32), np.array([shift], np.int32), **options)
        codes = Codes(rescale, 0, -128, 127, INT8)
        return Requantizer(codes, np.array([-most]), np.array([most])).in_floats

    assert floats(1 << 24)
    assert floats(MOST)  # codes of larger ones are clamped
    assert not floats(1 << 24, shift=-20)  # too fine for float32
    assert floats(1 << 22, shift=-20)
    assert not floats(1 << 24, shift=1)
    assert not floats(1 << 20, wide=True)
    assert not floats(MOST + 1)  # wraps around


def test_a_channel_with_one_code_has_it_whatever_its_factor() -> None:
    rescale = Rescale(np.array([MOST, MOST], np.int32), np.array([-27, -8], np.int32))
    codes = Codes(rescale, 0, -128, 127, INT8)
    least, most = np.array([1 << 30, -5000]), np.array([(1 << 30) + 70000, 5000])
    made = Requantizer(codes, least, most)
    assert made.constant.tolist() == [True, False]
    assert made.in_floats
    x = np.stack([least, most, (least + most) // 2])
    np.testing.assert_array_equal(made(np.where(made.constant, 0, x).astype(np.float32)), codes.of(x))
