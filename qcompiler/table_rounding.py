"""Rounding weights to entries of a table so that a layer's outputs change least: entries, scales and look-ups in turn.

The objective is that of `qcompiler.rounding`, and so is the descent: the points of a grid may be any numbers. With all look-ups fixed the
objective is quadratic in each entry, which moves to where it is least.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from qcompiler.codebooks import codebook
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
        grid: A grid with a table to start from; one scale for all stays what it is.
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
    entries = codebook(units, len(grid.table), np.broadcast_to(power, units.shape)).astype(np.float64)
    best = grid, codes_at(problem, grid, sweeps)
    trial = dataclasses.replace(grid, table=entries)
    for _ in range(sweeps + 1):
        points = codes_at(problem, trial, 1)
        if _total(problem, points, trial) < _total(problem, best[1], best[0]):
            best = trial, points
        trial = _moved(problem, trial, points)
    return best[1], best[0]


def _total(problem: Quadratic, points: NDArray[np.float64], grid: Grid) -> float:
    return float(problem.error(points * grid.scale).sum())


def _moved(problem: Quadratic, grid: Grid, points: NDArray[np.float64]) -> Grid:
    """The grid with its scales, where there are several, and then each entry in turn, where the objective is least."""
    assert grid.table is not None
    scale = grid.scale if grid.scale.size == 1 else best_scale(problem, points, grid.scale)
    scale = np.maximum(scale, MIN_SCALE).astype(np.float32).astype(np.float64)
    table, residual = grid.table.copy(), (problem.wanted - points * scale) @ problem.gram
    for index, entry in enumerate(grid.table):
        if entry == 0 and grid.zeros is not None:
            continue
        taken = (points == entry) * scale
        product = taken @ problem.gram
        power = float((product * taken).sum())
        if power > _TINY:
            change = float((residual * taken).sum()) / power
            table[index] += change
            residual -= change * product
    return dataclasses.replace(grid, scale=scale, table=np.sort(table).astype(np.float32).astype(np.float64))
