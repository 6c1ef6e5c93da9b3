"""Codebooks: entries that no others beat, and scales that fit them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import norm
from small_graphs import normal

from qcompiler.codebooks import SortedRows, codebook, codebooks, scaled_codebook
from qcompiler.ir.encoding import FORMATS, Encoding


def lost(elements: NDArray[np.float32], table: NDArray[np.float32]) -> float:
    gap = np.abs(elements.reshape(-1, 1).astype(np.float64) - table).min(axis=1)
    return float((gap**2).sum())


def best(elements: NDArray[np.float32], levels: int) -> float:
    """The least error there is: over all ways to cut the sorted elements into intervals."""
    ordered = np.sort(elements.astype(np.float64))
    cuts = itertools.combinations(range(1, len(ordered)), levels - 1)
    parts = (np.split(ordered, cut) for cut in cuts)
    return min(sum(float(((part - part.mean()) ** 2).sum()) for part in cut) for cut in parts)


@given(st.lists(st.integers(-50, 50), min_size=9, max_size=9, unique=True))
def test_few_elements_are_cut_as_well_as_can_be(numbers: list[int]) -> None:
    elements = np.asarray(numbers, np.float32)
    table = codebook(elements, 4)
    assert (np.diff(table) >= 0).all()
    assert lost(elements, table) <= best(elements, 4) * (1 + 1e-5) + 1e-6


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 6, 8])
def test_a_table_loses_less_than_a_grid(bits: int) -> None:
    elements = normal(40_000) ** 3
    table = codebook(elements, 1 << bits)
    assert len(table) == 1 << bits
    assert lost(elements, table) < 0.8 * lost(
        elements, np.linspace(elements.min(), elements.max(), 1 << bits, dtype=np.float32)
    )


def test_a_normal_distribution_gets_the_entries_that_are_known_for_it() -> None:
    """Max, Quantizing for Minimum Distortion, 1960, table I: 4 levels."""
    elements = norm.ppf((np.arange(100_000) + 0.5) / 100_000)
    np.testing.assert_allclose(codebook(elements, 4), [-1.510, -0.4528, 0.4528, 1.510], atol=0.001)


def test_weights_draw_entries_to_them() -> None:
    elements = np.linspace(0, 1, 1001, dtype=np.float32)
    plain, drawn = codebook(elements, 4), codebook(elements, 4, elements**4)
    assert (drawn > plain).all()


@pytest.mark.parametrize("elements", [np.zeros(7), np.ones(3), np.array([5.0])])
def test_elements_that_are_alike(elements: NDArray[np.float64]) -> None:
    assert lost(elements.astype(np.float32), codebook(elements, 16)) == 0


@pytest.mark.parametrize("levels", [2, 16, 64])
def test_tables_of_many_rows_are_as_good_as_those_of_each(levels: int) -> None:
    rows = normal(7, 900) ** 3 * np.exp(normal(7, 1, seed=1) * 3)
    tables = codebooks(rows, levels)
    assert (np.diff(tables, axis=1) >= 0).all()
    for row, table in zip(rows, tables, strict=True):
        assert lost(row, table) < 1.3 * lost(row, codebook(row, levels))


def test_weights_of_rows() -> None:
    rows, weights = normal(3, 400), np.abs(normal(3, 400, seed=1)) ** 4
    for row, weight, table in zip(rows, weights, codebooks(rows, 4, weights), strict=True):
        np.testing.assert_allclose(table, codebook(row, 4, weight), rtol=0.05)


def test_rows_with_few_zeros_of_their_own_get_an_entry_for_them_too() -> None:
    rows = normal(4, 300)
    rows[:3, ::2] = 0
    rows[3:] += 5
    assert (codebooks(rows, 8) == 0).any(axis=1).all()
    assert not (codebooks(rows[3:], 8) == 0).any()


def test_places_in_rows_of_very_different_size() -> None:
    rows = np.sort(normal(5, 40).astype(np.float64), axis=1) * 100.0 ** np.arange(-5, 5)[::2, None]
    rows[2] = 3.0
    x = normal(5, 200, seed=1).astype(np.float64) * 100.0 ** np.arange(-5, 5)[::-2, None]
    expected = [np.searchsorted(row, item) for row, item in zip(rows, x, strict=True)]
    np.testing.assert_array_equal(SortedRows(rows).places(x), expected)


def test_scales_per_channel() -> None:
    rows = normal(12, 500) * np.exp(normal(12, 1, seed=1) * 2)
    rows[3] = 0
    scale, table = scaled_codebook(rows, 16)
    assert (scale > 0).all()
    encoding = Encoding(FORMATS["table4"], scale, None, 0, table=table)
    shared = Encoding(FORMATS["table4"], table=codebook(rows, 16))
    assert (
        np.square(encoding.fake_quantize(rows) - rows).sum()
        < 0.7 * np.square(shared.fake_quantize(rows) - rows).sum()
    )
    assert not encoding.fake_quantize(rows)[3].any() or np.abs(table).min() > 0


def test_scaled_tables_round_trip() -> None:
    scale, table = scaled_codebook(normal(5, 40), 8)
    encoding = Encoding(FORMATS["table3"], scale, None, 1, table=table)
    assert Encoding.from_json(encoding.to_json()) == encoding
    x = normal(3, 5, 4)
    codes = encoding.quantize(x)
    np.testing.assert_array_equal(encoding.dequantize(codes), table[codes] * scale[:, None])
    np.testing.assert_array_equal(encoding.quantize(encoding.dequantize(codes)), codes)
    low, high = encoding.real_range()
    assert low == pytest.approx(float(scale.max() * table.min()))
    assert high == pytest.approx(float(scale.max() * table.max()))
