"""Rounding to codes: never worse than nearest rounding, and a local optimum; the moments that it works from."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from qcompiler.codebooks import codebook, codebooks
from qcompiler.moments import Moments
from qcompiler.rounding import Grid, Quadratic, damped, descend, retargeted, round_codes
from qcompiler.table_rounding import round_to_table

Floats = NDArray[np.float64]
SCALES = ("per-channel", "per-tensor", "full")


def problem_of(
    rng: np.random.Generator, groups: int, outputs: int, inputs: int, damping: float = 0.01, rank: int = 0
) -> Quadratic:
    """Random weights, and the Gram matrix of correlated inputs; of limited rank if asked."""
    mix = rng.standard_normal((groups, inputs, inputs)) / np.sqrt(inputs) + np.eye(inputs)
    x = rng.standard_normal((groups, rank or 3 * inputs + 2, inputs)) @ mix
    gram = np.einsum("gnk,gnl->gkl", x, x) / x.shape[1]
    return Quadratic(rng.standard_normal((groups, outputs, inputs)), damped(gram, damping))


def grid_of(
    problem: Quadratic, bits: int, kind: str = "per-channel", narrow: bool = False, zero: float | Floats = 0.0
) -> Grid:
    """A grid of scales that clip nothing on the longer side."""
    axes = {"per-channel": (2,), "per-tensor": (0, 1, 2), "full": ()}[kind]
    largest = np.abs(problem.wanted).max(axis=axes, keepdims=True) if axes else np.abs(problem.wanted) + 0.3
    scale = np.maximum(largest, 1e-3) / max(2 ** (bits - 1) - 1, 1)
    least = -(2 ** (bits - 1))
    return Grid(scale, np.broadcast_to(zero, scale.shape), least + narrow, -least - 1)


def total(problem: Quadratic, v: Floats) -> float:
    return float(problem.error(v).sum())


def on_grid(grid: Grid, codes: Floats) -> bool:
    low, high = grid.ends
    return bool((codes == np.rint(codes)).all() and (codes >= low).all() and (codes <= high).all())


@st.composite
def cases(draw: st.DrawFn) -> tuple[Quadratic, Grid]:
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    groups, outputs, inputs = draw(st.integers(1, 4)), draw(st.integers(1, 5)), draw(st.integers(1, 9))
    problem = problem_of(rng, groups, outputs, inputs, rank=draw(st.sampled_from((0, 1))))
    bits = draw(st.integers(2, 8))
    grid = grid_of(problem, bits, draw(st.sampled_from(SCALES)), draw(st.booleans()))
    if draw(st.booleans()):
        zero = rng.integers(grid.least, grid.most + 1, grid.scale.shape).astype(np.float64)
        grid = dataclasses.replace(grid, zero=zero)
    return problem, grid


# -- round_codes ---------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(cases(), st.integers(1, 3), st.booleans())
def test_never_worse_than_nearest(case: tuple[Quadratic, Grid], sweeps: int, fixed: bool) -> None:
    problem, grid = case
    codes, scale = round_codes(problem, grid, sweeps=sweeps, fixed=fixed)
    assert on_grid(grid, codes)
    assert scale.shape == grid.scale.shape
    assert (scale > 0).all()
    assert np.isfinite(scale).all()
    if fixed or (grid.scale.shape[2] > 1):
        assert np.array_equal(scale, grid.scale)
    nearest = problem.error(grid.nearest(problem.wanted) * grid.scale)
    error = problem.error(codes * scale)
    tolerance = 1e-9 * (1 + nearest.sum())
    if grid.scale.shape == (1, 1, 1):
        assert error.sum() <= nearest.sum() + tolerance
    else:
        assert (error <= nearest + tolerance).all()


@settings(max_examples=40, deadline=None)
@given(cases())
def test_no_single_code_improves(case: tuple[Quadratic, Grid]) -> None:
    """With as many sweeps as it takes, descent ends in a local optimum."""
    problem, grid = case
    codes, scale = round_codes(problem, grid, sweeps=100, fixed=True)
    error, (low, high) = problem.error(codes * scale), grid.ends
    for k, step in itertools.product(range(codes.shape[2]), (-1, 1, 2, -2)):
        changed = codes.copy()
        changed[:, :, k] = np.clip(
            codes[:, :, k] + step,
            np.broadcast_to(low, codes.shape)[:, :, k],
            np.broadcast_to(high, codes.shape)[:, :, k],
        )
        assert (problem.error(changed * scale) >= error - 1e-9 * (1 + error)).all()


def best_of_all(problem: Quadratic, grid: Grid) -> Floats:
    """The least error per channel of all codes."""
    outputs, inputs = problem.wanted.shape[1:]
    tried = np.array(list(itertools.product(range(grid.least, grid.most + 1), repeat=inputs)), np.float64)
    found = np.empty(outputs)
    for output in range(outputs):
        gap = tried * grid.scale[0, output] - problem.wanted[0, output]
        found[output] = np.einsum("nk,kl,nl->n", gap, problem.gram[0], gap).min()
    return found


@pytest.mark.parametrize("bits", [2, 3])
def test_close_to_the_best_of_all_codes(bits: int) -> None:
    gaps = []
    for seed in range(6):
        problem = problem_of(np.random.default_rng(seed), 1, 4, 5)
        grid = grid_of(problem, bits)
        nearest = problem.error(grid.nearest(problem.wanted) * grid.scale)[0]
        codes, scale = round_codes(problem, grid, sweeps=10, fixed=True)
        found, best = problem.error(codes * scale)[0], best_of_all(problem, grid)
        assert (found >= best - 1e-9).all()
        gaps.append([nearest.sum(), found.sum(), best.sum()])
    nearest, found, best = np.sum(gaps, axis=0)
    assert found - best < 0.65 * (nearest - best)  # a local optimum, not the best of all


def test_weights_on_the_grid_stay() -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(-7, 8, (2, 3, 6)).astype(np.float64)
    codes[:, :, 0] = 7
    scale = rng.uniform(0.1, 1, (2, 3, 1))
    problem = Quadratic(codes * scale, problem_of(rng, 2, 3, 6).gram)
    found, scales = round_codes(problem, Grid(scale, np.zeros_like(scale), -8, 7), sweeps=3)
    assert np.array_equal(found, codes)
    np.testing.assert_allclose(scales, scale)


def test_correlation_helps() -> None:
    """Two inputs that are alike: the error of one is made up for by the other, which rounding on its own cannot know."""
    gram = damped(np.array([[[1.0, 0.999], [0.999, 1.0]]]), 1e-6)
    problem = Quadratic(np.full((1, 1, 2), 0.5001), gram)
    grid = Grid(np.ones((1, 1, 1)), np.zeros((1, 1, 1)), -2, 1)
    codes, _ = round_codes(problem, grid, sweeps=2, fixed=True)
    assert codes.sum() == 1
    assert total(problem, codes) < 0.01 * total(problem, grid.nearest(problem.wanted))


def test_one_outlier_does_not_set_the_scale() -> None:
    rng = np.random.default_rng(0)
    wanted = rng.standard_normal((1, 2, 64)) * 0.1
    wanted[:, :, 0] = 1.5
    gram = np.eye(64)[None].copy()
    gram[0, 0, 0] = 1e-3
    problem = Quadratic(wanted, gram)
    grid = grid_of(problem, 3)
    codes, scale = round_codes(problem, grid, sweeps=3)
    assert (scale < 0.8 * grid.scale).all()
    held, held_scale = round_codes(problem, grid, sweeps=3, fixed=True)
    assert total(problem, codes * scale) < 0.8 * total(problem, held * held_scale)


@pytest.mark.parametrize("kind", ["per-channel", "per-tensor"])
def test_the_scale_is_all_but_a_minimum(kind: str) -> None:
    """Codes are those of the scale as it is stored, so the scale is that of the codes before."""
    problem = problem_of(np.random.default_rng(3), 2, 3, 12)
    codes, scale = round_codes(problem, grid_of(problem, 4, kind), sweeps=30)
    error = problem.error(codes * scale)
    for factor in (0.99, 0.999, 1.001, 1.01):
        other = problem.error(codes * scale * factor)
        if kind == "per-tensor":
            assert other.sum() >= error.sum() * 0.98
        else:
            assert (other >= error * 0.98).all()


def test_zero_points_clip_on_their_own_side() -> None:
    wanted = np.linspace(0, 3, 8).reshape(1, 1, 8)
    problem = Quadratic(wanted, np.eye(8)[None])
    codes, scale = round_codes(problem, Grid(np.full((1, 1, 1), 0.2), np.zeros((1, 1, 1)), 0, 15), sweeps=3)
    assert codes.min() == 0
    assert codes.max() <= 15
    np.testing.assert_allclose(codes * scale, wanted, atol=float(scale.max()) / 2 + 1e-9)
    upward = Grid(np.full((1, 1, 1), 0.2), np.full((1, 1, 1), 15.0), 0, 15)  # nothing above zero
    codes, _ = round_codes(problem, upward, sweeps=3)
    assert not codes.any()


def test_channels_are_independent() -> None:
    problem = problem_of(np.random.default_rng(1), 1, 4, 9)
    codes, scale = round_codes(problem, grid_of(problem, 3), sweeps=3)
    for output in range(4):
        one = dataclasses.replace(problem, wanted=problem.wanted[:, output : output + 1])
        single, its_scale = round_codes(one, grid_of(one, 3), sweeps=3)
        assert np.array_equal(single, codes[:, output : output + 1])
        np.testing.assert_allclose(its_scale, scale[:, output : output + 1])


def test_groups_together_do_as_well_as_alone() -> None:
    """The order of descent is that of all groups, so a group alone may end in another local optimum."""
    problem = problem_of(np.random.default_rng(1), 30, 4, 9)
    codes, scale = round_codes(problem, grid_of(problem, 3), sweeps=3)
    alone = 0.0
    for group in range(30):
        one = Quadratic(problem.wanted[group : group + 1], problem.gram[group : group + 1])
        single, its_scale = round_codes(one, grid_of(one, 3), sweeps=3)
        alone += total(one, single * its_scale)
    assert 0.9 * alone < total(problem, codes * scale) < 1.1 * alone


@pytest.mark.parametrize("kind", SCALES)
def test_many_groups(kind: str) -> None:
    problem = problem_of(np.random.default_rng(2), 300, 1, 9)
    codes, scale = round_codes(problem, grid_of(problem, 4, kind), sweeps=3)
    grid = grid_of(problem, 4, kind)
    assert total(problem, codes * scale) < total(problem, grid.nearest(problem.wanted) * grid.scale)


def test_more_inputs_than_a_block() -> None:
    """Updates are kept local within a block of columns; what goes out of it must be right too."""
    problem = problem_of(np.random.default_rng(4), 2, 3, 131)
    grid = grid_of(problem, 3)
    codes = descend(problem, grid, grid.nearest(problem.wanted), sweeps=50)
    error = problem.error(codes * grid.scale)
    for k in range(0, 131, 10):
        for step in (-1, 1):
            changed = codes.copy()
            changed[:, :, k] = np.clip(codes[:, :, k] + step, *(end[:, :, 0] for end in grid.ends))
            assert (problem.error(changed * grid.scale) >= error * (1 - 1e-9)).all()


@pytest.mark.parametrize("kind", SCALES)
@pytest.mark.parametrize("damping", [0.0, 0.01])
def test_inputs_that_never_come(kind: str, damping: float) -> None:
    """An all-zero Gram matrix, in some groups or in all, and all-zero weights: nearest rounding, no NaN."""
    rng = np.random.default_rng(0)
    for dead in (slice(0, 1), slice(None)):
        gram = np.repeat(np.eye(5)[None], 3, axis=0)
        gram[dead] = 0
        wanted = rng.standard_normal((3, 2, 5))
        wanted[:, 0] = 0
        problem = Quadratic(wanted, damped(gram, damping))
        grid = grid_of(problem, 4, kind)
        with np.errstate(all="raise", under="ignore"):
            codes, scale = round_codes(problem, grid, sweeps=3)
        assert np.isfinite(codes).all()
        assert np.isfinite(scale).all()
        assert (scale > 0).all()
        assert not codes[:, 0].any()
        assert (np.abs(codes * scale - wanted) < 2 * grid.scale).all()


@pytest.mark.parametrize("rank", [1, 2])
def test_singular_gram_matrices(rank: int) -> None:
    problem = problem_of(np.random.default_rng(5), 2, 3, 20, damping=1e-4, rank=rank)
    grid = grid_of(problem, 4)
    nearest = total(problem, grid.nearest(problem.wanted) * grid.scale)
    codes, scale = round_codes(problem, grid, sweeps=3)
    assert total(problem, codes * scale) < 0.2 * nearest
    assert (np.abs(codes * scale) <= np.abs(grid.scale * 8) * 3).all()


def test_tiny_and_huge_weights_keep_their_proportions() -> None:
    problem = problem_of(np.random.default_rng(6), 1, 3, 8)
    codes, scale = round_codes(problem, grid_of(problem, 4), sweeps=3)
    for factor in (2.0**-60, 2.0**60):
        scaled = Quadratic(problem.wanted * factor, problem.gram)
        grid = grid_of(problem, 4)
        other, its_scale = round_codes(scaled, dataclasses.replace(grid, scale=grid.scale * factor), sweeps=3)
        assert np.array_equal(other, codes)
        np.testing.assert_allclose(its_scale, scale * factor)


def test_the_same_every_time() -> None:
    problem = problem_of(np.random.default_rng(7), 3, 4, 60)
    first, second = (round_codes(problem, grid_of(problem, 4), sweeps=3) for _ in range(2))
    assert all(np.array_equal(one, other) for one, other in zip(first, second, strict=True))


def test_what_is_given_is_not_written() -> None:
    problem = problem_of(np.random.default_rng(8), 2, 3, 7)
    grid = grid_of(problem, 3)
    for array in (problem.wanted, problem.gram, grid.scale):
        array.setflags(write=False)
    codes = grid.nearest(problem.wanted)
    codes.setflags(write=False)
    descend(problem, grid, codes, sweeps=2)
    round_codes(problem, grid, sweeps=2)


# -- descent -------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(cases(), st.integers(0, 100))
def test_descent_is_monotone(case: tuple[Quadratic, Grid], seed: int) -> None:
    problem, grid = case
    rng = np.random.default_rng(seed)
    codes = np.clip(rng.integers(-8, 8, problem.wanted.shape), *grid.ends).astype(np.float64)
    error = problem.error(codes * grid.scale)
    for _ in range(4):
        codes = descend(problem, grid, codes, sweeps=1)
        assert on_grid(grid, codes)
        now = problem.error(codes * grid.scale)
        assert (now <= error + 1e-9 * (1 + error)).all()
        error = now


def test_sweeps_add_up() -> None:
    problem = problem_of(np.random.default_rng(9), 2, 3, 20)
    grid = grid_of(problem, 3)
    start = grid.nearest(problem.wanted)
    once = descend(problem, grid, descend(problem, grid, start, sweeps=1), sweeps=1)
    assert np.array_equal(once, descend(problem, grid, start, sweeps=2))
    assert np.array_equal(descend(problem, grid, start, sweeps=0), start)


# -- retargeting ---------------------------------------------------------------------------------------------


def moments_of(x: Floats, wanted: Floats, weights: Floats) -> Moments:
    moments = Moments(weights)
    moments.add(x.astype(np.float32), wanted.astype(np.float32))
    return moments


def test_retargeted_is_least_squares() -> None:
    rng = np.random.default_rng(0)
    x, wanted = rng.standard_normal((2, 50, 6)), rng.standard_normal((2, 50, 4))
    weights = rng.standard_normal((2, 4, 6))
    moments = moments_of(x, wanted, weights)
    found = retargeted(weights, moments.gram(centred=False), moments.cross(centred=False), 1e-9)
    for group in range(2):
        expected = np.linalg.lstsq(x[group], wanted[group], rcond=None)[0].T
        np.testing.assert_allclose(found[group], expected, atol=1e-4)


def test_retargeted_with_a_free_bias() -> None:
    rng = np.random.default_rng(1)
    x, wanted = rng.standard_normal((1, 60, 5)) + 3, rng.standard_normal((1, 60, 4)) - 2
    weights = rng.standard_normal((1, 4, 5))
    moments = moments_of(x, wanted, weights)
    found = retargeted(weights, moments.gram(centred=True), moments.cross(centred=True), 1e-9)
    with_one = np.concatenate([x[0], np.ones((60, 1))], axis=1)
    expected = np.linalg.lstsq(with_one, wanted[0], rcond=None)[0].T
    np.testing.assert_allclose(found[0], expected[:, :-1], atol=1e-4)
    bias = moments.mean_error - ((found - weights) * moments.mean[:, None, :]).sum(axis=2)
    np.testing.assert_allclose(bias[0], expected[:, -1], atol=1e-3)


def test_damping_draws_towards_the_weights() -> None:
    rng = np.random.default_rng(2)
    weights = rng.standard_normal((1, 4, 6))
    moments = moments_of(rng.standard_normal((1, 20, 6)), rng.standard_normal((1, 20, 4)), weights)
    gram, cross = moments.gram(centred=False), moments.cross(centred=False)
    distances = [
        np.abs(retargeted(weights, gram, cross, damping) - weights).max() for damping in (0.01, 1.0, 1e6)
    ]
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < 1e-5


def test_weights_that_need_no_change_get_none() -> None:
    rng = np.random.default_rng(3)
    weights, x = rng.standard_normal((1, 4, 6)), rng.standard_normal((1, 3, 6))  # fewer rows than inputs
    moments = moments_of(x, x @ weights.transpose(0, 2, 1), weights)
    found = retargeted(weights, moments.gram(centred=False), moments.cross(centred=False), 0.01)
    np.testing.assert_allclose(found, weights, atol=1e-4)


def test_nothing_seen_changes_nothing() -> None:
    weights = np.random.default_rng(4).standard_normal((2, 3, 4))
    found = retargeted(weights, np.zeros((2, 4, 4)), np.zeros((2, 3, 4)), 0.01)
    assert np.array_equal(found, weights)


def test_damped_is_positive_definite() -> None:
    gram = np.zeros((3, 4, 4))
    gram[0, 0, 0] = 1.0
    assert (np.linalg.eigvalsh(damped(gram, 0.01)) > 0).all()
    np.testing.assert_allclose(damped(gram, 0.02)[0] - gram[0], np.eye(4) * (0.02 / 4), rtol=1e-6)


# -- moments -------------------------------------------------------------------------------------------------


def parts(array: NDArray[Any], *ends: int) -> list[NDArray[Any]]:
    return np.split(array, ends, axis=1)


@pytest.mark.parametrize("centred", [True, False])
def test_moments_of_parts_are_those_of_the_whole(centred: bool) -> None:
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((3, 90, 5)) + rng.standard_normal((3, 1, 5))).astype(np.float32)
    wanted, weights = rng.standard_normal((3, 90, 2)).astype(np.float32), rng.standard_normal((3, 2, 5))
    whole, streamed = Moments(weights), Moments(weights)
    whole.add(x, wanted)
    for some, targets in zip(parts(x, 1, 1, 40), parts(wanted, 1, 1, 40), strict=True):  # one part is empty
        streamed.add(some, targets)
    assert whole.rows == streamed.rows == 90
    exact, error = x.astype(np.float64), wanted - x @ weights.transpose(0, 2, 1)
    mean, mean_error = exact.mean(axis=1), error.mean(axis=1)
    if centred:
        exact, error = exact - mean[:, None], error - mean_error[:, None]
    for moments in (whole, streamed):
        np.testing.assert_allclose(moments.mean, mean, atol=1e-5)
        np.testing.assert_allclose(moments.mean_error, mean_error, atol=1e-5)
        expected = np.einsum("gnk,gnl->gkl", exact, exact) / 90
        np.testing.assert_allclose(moments.gram(centred=centred), expected, atol=1e-4)
        expected = np.einsum("gno,gnk->gok", error, exact) / 90
        np.testing.assert_allclose(moments.cross(centred=centred), expected, atol=1e-4)


def test_moments_of_nothing() -> None:
    moments = Moments(np.ones((1, 2, 3)))
    assert moments.rows == 0
    for array in (moments.mean, moments.gram(centred=True), moments.cross(centred=False)):
        assert not array.any()


@pytest.mark.parametrize(("mean", "spread"), [(100.0, 1e-2), (1000.0, 0.0), (6.0, 0.0)])
def test_small_covariances_beside_large_means(mean: float, spread: float) -> None:
    """Inputs that hardly vary (a saturated activation, a constant channel) must not leave rounding errors for a covariance."""
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((1, 3, 6))
    moments = Moments(weights)
    for _ in range(3):
        x = mean * (1 + 0.1 * np.arange(6)) + spread * rng.standard_normal((1, 1000, 6))
        x = x.astype(np.float32)
        moments.add(x, (x @ weights.transpose(0, 2, 1)).astype(np.float32))
    gram = moments.gram(centred=True)
    np.testing.assert_allclose(gram, np.eye(6)[None] * spread**2, atol=0.15 * spread**2)
    assert (np.linalg.eigvalsh(damped(gram, 0.01)) > 0).all()
    np.testing.assert_allclose(
        retargeted(weights, gram, moments.cross(centred=True), 0.02), weights, atol=0.05
    )
    plain = moments.gram(centred=False)
    np.testing.assert_allclose(plain, moments.mean[:, :, None] * moments.mean[:, None, :], rtol=1e-5)


# -- tables --------------------------------------------------------------------------------------------------


def table_of(problem: Quadratic, bits: int, *, scaled: bool) -> Grid:
    """The table that k-means makes of the weights, as a plan has it."""
    scale = np.ones((1, 1, 1))
    if scaled:
        scale = np.abs(problem.wanted).max(axis=2, keepdims=True)
    table = codebook(problem.wanted / scale, 1 << bits).astype(np.float64)
    return Grid(scale, np.zeros_like(scale), 0, (1 << bits) - 1, table[None])


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("shape", [(1, 24, 40), (30, 1, 9), (3, 5, 12)])
def test_tables_are_found_for_the_outputs(shape: tuple[int, int, int], bits: int, scaled: bool) -> None:
    problem = problem_of(np.random.default_rng(bits), *shape)
    start = table_of(problem, bits, scaled=scaled)
    points, found = round_to_table(problem, start, sweeps=3)
    assert found.table is not None
    assert np.isin(points, found.table).all()
    assert (np.diff(found.table) >= 0).all()
    assert found.scale.shape == start.scale.shape
    nearest = total(problem, start.nearest(problem.wanted) * start.scale)
    assert total(problem, points * found.scale) < 0.9 * nearest
    np.testing.assert_array_equal(found.table, found.table.astype(np.float32))


@pytest.mark.parametrize(("shape", "count"), [((1, 24, 40), 6), ((30, 1, 9), 5), ((3, 8, 12), 12)])
def test_every_table_is_found_as_if_it_were_the_only_one(shape: tuple[int, int, int], count: int) -> None:
    """Channels of one group, in its order, are a layer of their own: groups of channels and groups of tables need not agree."""
    problem = problem_of(np.random.default_rng(0), *shape)
    rows = problem.wanted.reshape(count, -1) * 10.0 ** np.arange(count)[:, None]
    problem = dataclasses.replace(problem, wanted=rows.reshape(shape))
    one = np.ones((1, 1, 1))
    start = Grid(one, 0 * one, 0, 7, codebooks(rows, 8).astype(np.float64))
    points, found = round_to_table(problem, start, sweeps=3)
    assert found.table is not None
    for row, table in zip(points.reshape(count, -1), found.table, strict=True):
        assert np.isin(row, table).all()
    errors = [
        problem.error(item).reshape(count, -1).sum(axis=1) for item in (points, start.nearest(problem.wanted))
    ]
    assert (errors[0] < 0.95 * errors[1]).all()
    if shape[0] == 1:
        each = shape[1] // count
        for index in range(count):
            alone = dataclasses.replace(problem, wanted=problem.wanted[:, index * each : (index + 1) * each])
            mine = dataclasses.replace(start, table=codebooks(rows[index : index + 1], 8).astype(np.float64))
            single, own = round_to_table(alone, mine, sweeps=3)
            assert errors[0][index] < 1.2 * float(alone.error(single * own.scale).sum())


def test_a_given_table_stays() -> None:
    problem = problem_of(np.random.default_rng(0), 1, 6, 20)
    start = table_of(problem, 3, scaled=True)
    points, found = round_to_table(problem, start, sweeps=3, fixed=True)
    assert found is start
    assert total(problem, points * start.scale) < total(problem, start.nearest(problem.wanted) * start.scale)
