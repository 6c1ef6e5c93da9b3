"""Rounding weights to entries of tables so that a layer's outputs change least: entries, scales and look-ups in turn.

The objective is that of `qcompiler.rounding`, and so is the descent: the points of a grid may be any numbers. With all look-ups fixed the
objective is quadratic in each entry, which moves to where it is least.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from qcompiler.codebooks import codebooks
from qcompiler.ir.encoding import MIN_SCALE
from qcompiler.rounding import Grid, Quadratic, best_scale, codes_at

if TYPE_CHECKING:
    from numpy.typing import NDArray

_TINY = 1e-30


def round_to_table(
    problem: Quadratic, grid: Grid, *, sweeps: int, fixed: bool = False
) -> tuple[NDArray[np.float64], Grid]:
    """The entries, the scales and what is looked up for each weight that minimise the objective, found in turn.

    They begin with k-means of the weights wanted, each counting as the power of its input.

    Args:
        problem: The objective.
        grid: A grid with tables to start from; one scale for all stays what it is.
        sweeps: How often descent goes through all weights between two updates, and how often there are updates.
        fixed: Whether entries and scales have to stay.

    Returns:
        Entries [groups, outputs, inputs], and the grid that they are points of, in single precision unless it had to stay.
    """
    if fixed or grid.table is None:
        return codes_at(problem, grid, sweeps), grid
    power = np.einsum("gkk->gk", problem.gram)[:, None, :] * grid.scale**2
    units = problem.wanted / grid.scale
    if grid.zeros is not None:
        units = np.where(grid.zeros, 0.0, units)
    count, levels = grid.table.shape
    power = np.broadcast_to(power, units.shape).reshape(count, -1)
    entries = codebooks(units.reshape(count, -1), levels, power).astype(np.float64)
    best = grid, codes_at(problem, grid, sweeps)
    trial = dataclasses.replace(grid, table=entries)
    for _ in range(sweeps + 1):
        points = codes_at(problem, trial, 1)
        best = _better(problem, best, (trial, points))
        trial = _moved(problem, trial, points)
    return best[1], best[0]


def _better(
    problem: Quadratic, old: tuple[Grid, NDArray[np.float64]], new: tuple[Grid, NDArray[np.float64]]
) -> tuple[Grid, NDArray[np.float64]]:
    """Each table with the points of its channels from where they are better. Only where there is one table are there scales."""
    (grid, points), (other, others) = old, new
    assert grid.table is not None
    assert other.table is not None
    count = len(grid.table)
    before, after = (
        problem.error(found * on.scale).reshape(count, -1).sum(axis=1) for on, found in (old, new)
    )
    better = (after < before)[:, None]
    if count == 1:
        return new if better else old
    chosen = np.where(better, others.reshape(count, -1), points.reshape(count, -1))
    return dataclasses.replace(grid, table=np.where(better, other.table, grid.table)), chosen.reshape(
        points.shape
    )


def _moved(problem: Quadratic, grid: Grid, points: NDArray[np.float64]) -> Grid:
    """The grid with its scales, where there are several, and then each entry in turn, where the objective is least.

    Channels do not depend on one another, so that all tables are moved at once.
    """
    assert grid.table is not None
    scale = grid.scale if grid.scale.size == 1 else best_scale(problem, points, grid.scale)
    scale = np.maximum(scale, MIN_SCALE).astype(np.float32).astype(np.float64)
    table, residual = grid.table.copy(), (problem.wanted - points * scale) @ problem.gram
    count, unit = len(table), np.maximum(problem.gram.max(), _TINY)
    gram = (problem.gram / unit).astype(np.float32)  # half the time, and entries are float32 in the end
    for index, entry in enumerate(grid.table.T):
        taken = (points.reshape(count, -1) == entry[:, None]).reshape(points.shape) * scale
        product = unit * (taken.astype(np.float32) @ gram)
        power, gain = ((part * taken).reshape(count, -1).sum(axis=1) for part in (product, residual))
        moves = power > _TINY
        if grid.zeros is not None:
            moves &= entry != 0
        change = np.where(moves, gain / np.where(moves, power, 1.0), 0.0)
        table[:, index] += change
        residual -= (change[:, None] * product.reshape(count, -1)).reshape(points.shape)
    return dataclasses.replace(
        grid, scale=scale, table=np.sort(table, axis=1).astype(np.float32).astype(np.float64)
    )
