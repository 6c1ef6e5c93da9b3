"""Tables, formulas, roots and logarithms of integer kernels against the functions that they stand for."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from qcompiler.fixed_point import MOST, Rescale, multiply
from qcompiler.integer.encode_resizing import integer_positions
from qcompiler.integer.evaluate import evaluate
from qcompiler.integer.formulas import FORMULAS
from qcompiler.integer.operations import Extreme, LogSoftmax, SoftmaxByTables, UnitLength, Work
from qcompiler.integer.program import Tensor
from qcompiler.integer.roots import inverse_square_root, logarithm
from qcompiler.integer.tables import FLOAT32_FUNCTIONS, WORD_FUNCTIONS, of_bytes, of_intervals, rounded

CODES = np.arange(-128, 128)
WORDS = np.arange(-32768, 32768)


def once(work: Work, x: np.ndarray[Any, Any], shape: tuple[int, ...], dtype: str) -> np.ndarray[Any, Any]:
    made: np.ndarray[Any, Any] = evaluate(work, [x], Tensor("y", shape, None, np.dtype(dtype)))
    return made


def gelu(x: float) -> float:
    return 0.5 * x * math.erfc(-x / math.sqrt(2))


REAL: dict[str, Callable[[float], float]] = {
    "Sigmoid": lambda x: 1 / (1 + math.exp(-x)),
    "Tanh": math.tanh,
    "Gelu": gelu,
    "Gelu(tanh)": gelu,
    "Exp": math.exp,
    "Log": lambda x: math.log(x) if x > 0 else -99.0,
    "HardSwish": lambda x: x * min(max(x + 3, 0), 6) / 6,
    "Abs": abs,
    "Neg": lambda x: -x,
    "Sqrt": lambda x: math.sqrt(max(x, 0)),
    "Sqrt+Reciprocal": lambda x: 1 / math.sqrt(x) if x > 0 else 99.0,
}


def expected(name: str, x: np.ndarray[Any, Any], scale: float, zero: int) -> np.ndarray[Any, Any]:
    values = np.array([REAL[name](number) for number in x.tolist()])
    return np.clip(values / scale + zero, -128, 127)


def test_rounding_is_away_from_zero() -> None:
    x = np.array([0.5, -0.5, 1.5, 2.49999, -2.5, 0.0])
    assert rounded(x).tolist() == [1, -1, 2, 2, -3, 0]
    assert rounded(np.float32([8388609.0])).tolist() == [8388609]


@pytest.mark.parametrize("name", FLOAT32_FUNCTIONS)
def test_tables_of_bytes(name: str) -> None:
    x, scale, zero = (CODES + 20) * 0.037, 0.03, -7
    made = np.clip(of_bytes(FLOAT32_FUNCTIONS[name], x, scale, zero), -128, 127)
    assert np.abs(made - expected(name, x, scale, zero)).max() < 0.52


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("scales", [(0.05, 0.04), (0.03, 0.03), (0.011, 0.02)])
def test_formulas(name: str, scales: tuple[float, float]) -> None:
    zeros = {"Neg": (0, 0), "Sqrt": (-128, 5), "Sqrt+Reciprocal": (-128, 5)}.get(name, (10, -20))
    if name == "Neg":
        scales = (scales[0], scales[0])
    x = (CODES - zeros[0]) * scales[0]
    made = np.clip(FORMULAS[name]((scales[0], zeros[0]), (scales[1], zeros[1])), -128, 127)
    gap = made - expected(name, x, scales[1], zeros[1])
    if name == "Neg":
        gap = gap[1:]  # -128 stays
    assert np.abs(gap).max() < (1.01 if name in ("HardSwish", "Sqrt") else 0.52)


@pytest.mark.parametrize("name", WORD_FUNCTIONS)
@pytest.mark.parametrize("scale", [2.0**-12, 2.0**-11, 1 / 3000, 1 / 500])
def test_tables_of_words(name: str, scale: float) -> None:
    table = WORD_FUNCTIONS[name](scale)
    assert table.shape == (65536,)
    values = np.array([REAL[name](number) for number in (WORDS * scale).tolist()])
    assert np.abs(table - 32768 * values).max() < 14


def test_tables_of_intervals_lie_between_the_points() -> None:
    scale = 10 / 65535
    table = of_intervals(math.exp, (scale, 32767), (2 / 65535, 0))
    places = (np.arange(-256, 257) * 128 - 32767) * scale
    assert np.abs(table - np.exp(places) * 32767.5).max() < 40
    assert table[-1] == 32767


def test_inverse_square_roots() -> None:
    x = np.concatenate([np.arange(2, 3000), 2 ** np.arange(1, 31), np.array([MOST, MOST - 1])])
    multiplier, shift = inverse_square_root(x)
    found = multiplier / 2.0**31 * 2.0**shift
    assert np.abs(found * np.sqrt(x) - 1).max() < 2e-6
    multiplier, shift = inverse_square_root(np.array([0, 1]))
    assert multiplier.tolist() == [MOST, MOST]
    assert shift.tolist() == [0, 0]


def test_logarithms() -> None:
    x = np.unique(np.geomspace(1 << 19, MOST, 2000).astype(np.int64))
    assert np.abs(logarithm(x) / 2.0**26 - np.log(x / 2.0**19)).max() < 1e-6


def test_products_of_several_factors() -> None:
    x, factors = np.array([[5, -700], [123456, 9]]), np.array([[0.37], [3.1]])
    parts = Rescale.of(factors)
    made = multiply(x, parts.multiplier.reshape(2, 1), parts.shift.reshape(2, 1))
    assert made.tolist() == [[2, -259], [382714, 28]]


@pytest.mark.parametrize("spread", [20, 500, 12000])
def test_softmax_by_tables(spread: int) -> None:
    x = np.clip(np.random.default_rng(0).normal(0, spread, (3, 2, 17)), -32768, 32767).astype(np.int16)
    scale, ten, two = 1 / 2000, 10 / 65535, 2 / 65535
    work = SoftmaxByTables(
        Rescale.of(scale / ten),
        of_intervals(math.exp, (ten, 32767), (two, 0)),
        of_intervals(lambda number: 1 / (1 + number), (1 / 65535, -32768), (two, 0)),
    )
    power = np.exp((x - x.max(axis=-1, keepdims=True).astype(np.float64)) * scale)
    real = power / power.sum(axis=-1, keepdims=True)
    assert np.abs(once(work, x, (2, 17), "int16") / 32768 - real).max() < 5e-4


@pytest.mark.parametrize("scale", [0.01, 0.2])
def test_log_softmax(scale: float) -> None:
    x = np.random.default_rng(1).integers(-128, 128, (4, 3, 19)).astype(np.int8)
    fraction, shift = math.frexp(scale * 2.0**26)
    multiplier = round(fraction * 2**31)
    least = -int(31 * 2.0**26 / 2.0**shift)
    work = LogSoftmax(multiplier, shift, least, Rescale.of(2.0 ** (31 - shift) / multiplier))
    z = (x - x.max(axis=-1, keepdims=True).astype(np.float64)) * scale
    real = z - np.log(np.exp(z).sum(axis=-1, keepdims=True))
    assert np.abs(once(work, x, (3, 19), "int8") - np.clip(real * 16 + 127, -128, 127)).max() < 0.52


def test_rows_of_unit_length() -> None:
    x = np.random.default_rng(2).integers(-128, 128, (4, 3, 19)).astype(np.int8)
    x[0, 0] = 5
    made = once(UnitLength(-5), x, (3, 19), "int8")
    assert not made[0, 0].any()
    real = x.astype(np.float64) - 5
    real /= np.maximum(np.sqrt((real**2).sum(axis=-1, keepdims=True)), 1)
    assert np.abs(made - np.clip(real * 128, -128, 127)).max() < 0.52


@pytest.mark.parametrize("largest", [True, False])
def test_extremes(largest: bool) -> None:
    x = np.random.default_rng(3).integers(-128, 128, (4, 3, 5, 2)).astype(np.int8)
    made = once(Extreme(largest, 3, 5, 2), x, (3, 1, 2), "int8")
    np.testing.assert_array_equal(made[:, :, 0], x.max(axis=2) if largest else x.min(axis=2))


@pytest.mark.parametrize(("align", "half"), [(False, False), (True, False), (False, True)])
def test_integer_positions(align: bool, half: bool) -> None:
    for size in range(1, 14):
        for made in range(1, 40):
            found = integer_positions(size, made, align=align, half=half)
            if found is None:
                assert size == 1 or made > 30
                continue
            lower, upper, weight = found
            assert lower.min() >= 0
            assert upper.max() < size
            assert ((weight >= 0) & (weight < 1024)).all()
            index = np.arange(made)
            place = (index + 0.5) * size / made - 0.5 if half else index * size / made
            if align:
                place = index * (size - 1) / max(made - 1, 1)
            gap = lower + weight / 1024 - np.clip(place, 0, size - 1)
            assert np.abs(gap).max() <= (made + 1) / 2048 + 1e-9
