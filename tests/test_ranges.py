"""Range methods: conventions that all keep, optima against brute force, and degenerate values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from qcompiler.distribution import Distribution, nudged
from qcompiler.errors import OptionError
from qcompiler.histogram import Histogram
from qcompiler.range_search import _Bins
from qcompiler.ranges import RANGE_METHODS, MinMax, Percentile, range_method

RNG = np.random.default_rng(2)
METHODS = [factory() for factory in RANGE_METHODS.values()]


def distribution(data: np.ndarray) -> Distribution:
    data = np.asarray(data, np.float32)
    lower, upper, counts = Histogram.of(data).bins()
    low, high = min(float(data.min()), 0.0), max(float(data.max()), 0.0)
    return Distribution.of(low, high, low / 2, high / 2, lower, upper, counts.astype(np.float64))


def squared_error(data: np.ndarray, low: float, high: float, levels: int, *, symmetric: bool) -> float:
    """What quantizing the data really costs."""
    data = np.asarray(data, np.float64)
    if high == low:
        return float((data**2).mean())
    if symmetric:
        step, first = high / ((levels - 1) // 2), -(levels // 2)
    else:
        step = (high - low) / (levels - 1)
        first = round(low / step)
    codes = np.clip(np.rint(data / step), first, first + levels - 1)
    return float(((codes * step - data) ** 2).mean())


SHAPES = {
    "normal": RNG.normal(size=20000),
    "laplace": RNG.laplace(size=20000) * 3 + 1,
    "relu": np.maximum(RNG.normal(size=20000), 0),
    "relu6": np.clip(RNG.normal(size=20000) * 4, 0, 6),
    "negative": -RNG.exponential(size=20000),
    "outliers": np.concatenate([RNG.normal(size=20000), [300, -200]]),
    "student": RNG.standard_t(2, size=20000),
    "few": np.array([-1.5, 0.25, 3.0]),
    "tiny": RNG.normal(size=1000) * 1e-41,
    "huge": RNG.normal(size=1000) * 1e37,
}
NAMED = pytest.mark.parametrize("data", SHAPES.values(), ids=SHAPES)
LEVELS = pytest.mark.parametrize("levels", [16, 255, 256, 65536])
SYMMETRIC = pytest.mark.parametrize("symmetric", [False, True])


@NAMED
@LEVELS
@SYMMETRIC
@pytest.mark.parametrize("method", METHODS, ids=RANGE_METHODS)
def test_conventions(method, data, levels, symmetric):
    if method.name == "entropy" and levels > 256:
        levels = 256
    data = np.float32(data)
    low, high = method(distribution(data), levels=levels, symmetric=symmetric)
    assert low <= 0 <= high
    assert high > low
    slack = 1.0 + 1.0 / levels
    reach = max(-float(data.min()), float(data.max()), 0.0)
    if symmetric:
        assert low == -high
        assert high <= reach * slack
    elif method.name in ("min-max", "percentile:99.99", "moving-average"):
        assert low >= min(float(data.min()), 0)
        assert high <= max(float(data.max()), 0)


@NAMED
@LEVELS
@SYMMETRIC
def test_mse_is_never_worse_than_min_max_on_the_data(data, levels, symmetric):
    values = distribution(data)
    errors = [
        squared_error(
            np.float32(data),
            *range_method(name)(values, levels=levels, symmetric=symmetric),
            levels,
            symmetric=symmetric,
        )
        for name in ("mse", "min-max")
    ]
    assert errors[0] <= errors[1] * 1.02 + 1e-300


@pytest.mark.parametrize("name", ["normal", "laplace", "relu", "outliers", "student"])
@pytest.mark.parametrize("levels", [16, 256])
@SYMMETRIC
def test_mse_is_near_the_best_of_a_fine_search_on_the_data(name, levels, symmetric):
    data = np.float32(SHAPES[name])
    values = distribution(data)
    found = squared_error(
        data, *range_method("mse")(values, levels=levels, symmetric=symmetric), levels, symmetric=symmetric
    )
    full = MinMax()(values, symmetric=symmetric)
    best = min(
        squared_error(data, full[0] * ratio, full[1] * ratio, levels, symmetric=symmetric)
        for ratio in np.geomspace(0.002, 1, 250)
    )
    assert found <= best * 1.05


@given(
    hnp.arrays(np.float32, st.integers(1, 60), elements=st.floats(-100, 100, width=32)),
    st.sampled_from([4, 16, 255, 256]),
    st.booleans(),
    st.floats(0.05, 1),
)
@settings(deadline=None)
def test_predicted_error_is_the_error_up_to_the_width_of_a_bin(data, levels, symmetric, ratio):
    values = distribution(data)
    low, high = MinMax()(values, symmetric=symmetric)
    if high - low < 1e-20:
        return
    low, high = nudged(low * ratio, high * ratio, levels, symmetric=symmetric)
    bins = _Bins(values, low / ratio, high / ratio, levels)
    predicted = bins.errors(np.array([low]), np.array([high]), levels, symmetric=symmetric)[0]
    real = squared_error(data, low, high, levels, symmetric=symmetric) * len(data)
    width = np.abs(data).astype(np.float64) / 128 + 1e-30
    step = (high - low) / (levels - 1)
    reach = np.maximum(np.abs(data) * (1 - ratio), step) + width
    assert abs(predicted - real) <= (2 * width * reach + width**2).sum() * 1.01 + 1e-6 * step**2


@pytest.mark.parametrize("method", METHODS, ids=RANGE_METHODS)
@SYMMETRIC
def test_zero_everywhere(method, symmetric):
    assert method(distribution(np.zeros(10)), symmetric=symmetric) == (0, 0)


@pytest.mark.parametrize("method", METHODS, ids=RANGE_METHODS)
@pytest.mark.parametrize("constant", [5.0, -0.3, 1e-40])
def test_constants(method, constant):
    low, high = method(distribution(np.full(10, constant)))
    assert low <= 0 <= high
    if method.name != "moving-average":
        assert (high if constant > 0 else -low) == pytest.approx(abs(constant), rel=1e-2)
        assert (low if constant > 0 else high) == 0


def test_a_clipped_peak_is_kept():
    """Half of the elements sit at 6: a bin with a width would make the search reach beyond it."""
    data = np.minimum(np.abs(RNG.normal(size=10000)) * 6, 6)
    assert range_method("mse")(distribution(data)) == (0, pytest.approx(6.0, rel=1e-6))


def test_outliers_are_clipped_by_what_clips():
    values = distribution(np.concatenate([RNG.normal(size=200000), [1000.0]]))
    assert Percentile(99.9)(values)[1] < 4
    assert range_method("entropy")(values)[1] < 100
    assert MinMax()(values)[1] == 1000
    # One element in 200,000 at 1000 costs more to clip than all others cost to lose; at 100 it does not.
    assert range_method("mse")(values, levels=16)[1] > 900
    nearer = distribution(np.concatenate([RNG.normal(size=200000), [100.0]]))
    assert range_method("mse")(nearer, levels=16)[1] < 10


def test_percentiles():
    data = np.float32(RNG.normal(size=50000))
    low, high = Percentile(99)(distribution(data))
    assert low == pytest.approx(np.quantile(data, 0.01), rel=0.01)
    assert high == pytest.approx(np.quantile(data, 0.99), rel=0.01)
    assert Percentile(99)(distribution(data), symmetric=True)[1] == pytest.approx(
        np.quantile(abs(data), 0.99), rel=0.01
    )
    assert Percentile(100)(distribution(data)) == MinMax()(distribution(data))


def test_entropy_keeps_a_bounded_distribution_whole():
    values = distribution(RNG.uniform(0, 1, size=100000))
    assert range_method("entropy")(values)[1] > 0.97


def test_names():
    for name in [*RANGE_METHODS, "percentile:99.9"]:
        assert range_method(range_method(name).name) == range_method(name)
    assert range_method("percentile:99.9").percent == 99.9
    for wrong in ("mse:3", "percentile:x", "percentile:40", "entropi"):
        with pytest.raises(OptionError):
            range_method(wrong)
