"""Rounding to float16 without a cast gives what casts give."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from qcompiler.targets.core_ml.half import to_half


def cast(x: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"):
        return x.astype(np.float16).astype(np.float32)


@given(arrays(np.uint32, st.integers(0, 70)))
def test_any_bits(bits: np.ndarray) -> None:
    x = bits.view(np.float32)
    np.testing.assert_array_equal(to_half(x), cast(x), strict=True)


@pytest.mark.parametrize("low", [0, 1 << 31])
def test_every_neighbourhood_of_a_half(low: int) -> None:
    """Around every number of float16, and halfway between two: the last bits that matter, both ways."""
    steps = np.arange(0, 1 << 31, 1 << 12, dtype=np.uint32)[:, None] + np.array([-1, 0, 1]).astype(np.uint32)
    x = (steps + np.uint32(low)).view(np.float32)
    np.testing.assert_array_equal(to_half(x), cast(x), strict=True)


def test_signs_of_zeros_stay() -> None:
    x = np.float32([0.0, -0.0, 1e-9, -1e-9])
    assert np.signbit(to_half(x)).tolist() == [False, True, False, True]
