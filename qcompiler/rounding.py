"""Rounding weights to integer codes so that a layer's outputs, not its weights, change least.

The outputs of a linear layer over inputs x are W x + b. With H the mean of (x - m)(x - m)^T over the calibration rows, m
their mean, and t the output wanted, the squared output error is, up to a constant and with the best bias,

    tr((V - U) H (V - U)^T),    U = W + C H^-1,    C = mean of (t - W x)(x - m)^T

for quantized weights V: U is the least-squares solution for the inputs that the layer really gets. V is found by
coordinate descent on its codes: with all others fixed, the best code of weight k is the one nearest to
V_k + ((U - V) H)_k / H_kk. Descent alternates with the closed form of the scale, s = (Q H U^T) / (Q H Q^T) per channel.
(In the family of GPTQ, Frantar et al. 2023, OBQ, Frantar and Alistarh 2022, and COMQ, Zhang et al. 2024.)

Everything is batched over groups of channels, so that depthwise convolutions cost no loop: arrays are [groups, outputs, inputs].
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from qcompiler.codebooks import SortedRows
from qcompiler.ir.encoding import MIN_SCALE

if TYPE_CHECKING:
    from numpy.typing import NDArray

_BLOCK = 48  # columns whose updates are kept local before they go out as one matrix product
_TINY = 1e-30
_BESIDE = (1.0, 0.9, 1.12)
_FEW_CODES = 32
_FRACTIONS = np.linspace(1.0, 0.4, 13)  # of the scale that clips nothing; where the search for a scale begins


@dataclass(frozen=True)
class Grid:
    """The grid that codes lie on: real = (code - zero) * scale. Codes are kept less their zero points.

    Attributes:
        scale: Broadcasts against [groups, outputs, inputs]; its size along each of these says what shares a scale.
        zero: Zero points, likewise.
        least: Lowest code.
        most: Highest code.
        table: Entries in increasing order, [tables, entries], where codes look numbers up: then these are the points, in units of the
            scale, wherever codes are spoken of. Every table serves as many channels as any other, in their order.
        zeros: Which weights are 0 and have to stay 0, [groups, outputs, inputs]; None where none has to.
    """

    scale: NDArray[np.float64]
    zero: NDArray[np.float64]
    least: int
    most: int
    table: NDArray[np.float64] | None = None
    zeros: NDArray[np.bool_] | None = None

    def snap(
        self, units: NDArray[np.float64], low: NDArray[np.float64], high: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """The nearest points to numbers in units of the scale, between the lowest and the highest code of each."""
        if self.table is None:
            return np.clip(np.rint(units), low, high)
        places = self._between.places(units.reshape(len(self.table), -1))
        found = np.take_along_axis(self.table, places, axis=1).reshape(units.shape)
        return found if self.zeros is None else np.where(low == high, 0.0, found)

    @cached_property
    def _between(self) -> SortedRows:
        """The middles between neighbouring entries."""
        assert self.table is not None
        return SortedRows((self.table[:, 1:] + self.table[:, :-1]) / 2)

    @property
    def ends(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Lowest and highest code, less the zero points; both are 0 for what has to stay 0."""
        low, high = self.least - self.zero, self.most - self.zero
        if self.zeros is None:
            return low, high
        return np.where(self.zeros, 0.0, low), np.where(self.zeros, 0.0, high)

    def nearest(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """The codes of the nearest points."""
        return self.snap(x / self.scale, *self.ends)


@dataclass(frozen=True)
class Quadratic:
    """The objective tr((V - wanted) gram (V - wanted)^T), see the module.

    Attributes:
        wanted: U, [groups, outputs, inputs].
        gram: H, [groups, inputs, inputs]; positive definite.
    """

    wanted: NDArray[np.float64]
    gram: NDArray[np.float64]

    @cached_property
    def order(self) -> NDArray[np.intp]:
        """The inputs, most power first."""
        return np.argsort(-np.einsum("gkk->k", self.gram), kind="stable")

    @cached_property
    def ordered(self) -> NDArray[np.float64]:
        """The Gram matrix in that order."""
        return np.ascontiguousarray(self.gram[:, self.order][:, :, self.order])

    @cached_property
    def feed(self) -> NDArray[np.float64]:
        """By how much of an error of input k each later input makes up for it, [inputs k, later inputs, groups], in that order.

        Row k of the upper Cholesky factor of H^-1, over its diagonal (Frantar et al. 2023).
        """
        factor = np.linalg.cholesky(np.linalg.inv(self.ordered)).transpose(0, 2, 1)
        return np.ascontiguousarray((factor / np.einsum("gkk->gk", factor)[:, :, None]).transpose(1, 2, 0))

    def error(self, v: NDArray[np.float64]) -> NDArray[np.float64]:
        """The objective per channel, [groups, outputs]."""
        gap = v - self.wanted
        return np.asarray(np.einsum("gok,gok->go", gap @ self.gram, gap))


def damped(gram: NDArray[np.float64], damping: float) -> NDArray[np.float64]:
    """H + damping * mean(diag H) * I, and a floor where a group never sees an input; [groups, inputs, inputs]."""
    mean = np.einsum("gkk->gk", gram).mean(axis=1)
    floor = 1e-9 * max(float(mean.max(initial=0.0)), _TINY)
    return np.asarray(gram + np.eye(gram.shape[-1]) * (damping * mean + floor)[:, None, None])


def retargeted(
    weights: NDArray[np.float64], gram: NDArray[np.float64], cross: NDArray[np.float64], damping: float
) -> NDArray[np.float64]:
    """W + C (H + damping)^-1: the weights that come nearest to the wanted outputs, drawn towards W by the damping."""
    solved = np.linalg.solve(damped(gram, damping), cross.transpose(0, 2, 1))
    return np.asarray(weights + solved.transpose(0, 2, 1))


def round_codes(
    problem: Quadratic, grid: Grid, *, sweeps: int, fixed: bool = False
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The codes and scales that minimise the objective; never worse than nearest rounding on the grid given.

    Args:
        problem: The objective.
        grid: The grid to start from.
        sweeps: How often descent goes through all codes between two updates of the scale, and how often the scale is updated.
        fixed: Whether the scales have to stay.

    Returns:
        Codes [groups, outputs, inputs] less their zero points, and scales of the grid's shape, single precision unless they
        are the grid's. The same problem with these scales fixed gives the same codes.
    """
    codes = codes_at(problem, grid, sweeps)
    if fixed or grid.scale.shape[2] != 1:
        return codes, grid.scale
    scale, least = grid.scale, _error(problem, codes, grid.scale)
    for start in _starts(problem, grid):
        found = _scale_from(problem, grid, start, sweeps)
        tried = codes_at(problem, dataclasses.replace(grid, scale=found), sweeps)
        error = _error(problem, tried, found)
        better = error < least
        least, codes, scale = (
            np.where(better, new, old) for new, old in ((error, least), (tried, codes), (found, scale))
        )
    return codes, scale


def _scale_from(
    problem: Quadratic, grid: Grid, start: NDArray[np.float64], sweeps: int
) -> NDArray[np.float64]:
    """Where alternating between codes and their best scale leads to from a scale; single precision, as scales are stored."""
    trial = dataclasses.replace(grid, scale=start)
    codes = fed_forward(problem, trial)
    for _ in range(sweeps):
        codes = descend(problem, trial, codes, sweeps=1)
        trial = dataclasses.replace(trial, scale=best_scale(problem, codes, trial.scale))
    return np.maximum(trial.scale, MIN_SCALE).astype(np.float32).astype(np.float64)


def codes_at(problem: Quadratic, grid: Grid, sweeps: int) -> NDArray[np.float64]:
    """The codes for given scales, which depend on nothing else: a plan that states the scales brings them back."""
    nearest = grid.nearest(problem.wanted)
    codes = descend(problem, grid, fed_forward(problem, grid), sweeps=sweeps)
    better = _error(problem, codes, grid.scale) < _error(problem, nearest, grid.scale)
    if better.all():
        return codes
    return np.where(better, codes, descend(problem, grid, nearest, sweeps=sweeps))


def _error(problem: Quadratic, codes: NDArray[np.float64], scale: NDArray[np.float64]) -> NDArray[np.float64]:
    """The objective, summed over what shares a scale."""
    return _shared(problem.error(codes * scale)[..., None], scale)


def _shared(per_channel: NDArray[np.float64], scale: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sums over what shares a scale, with the axes kept."""
    axes = tuple(axis for axis in range(3) if scale.shape[axis] == 1)
    return np.asarray(per_channel.sum(axis=axes, keepdims=True))


def _starts(problem: Quadratic, grid: Grid) -> list[NDArray[np.float64]]:
    """Scales to descend from: the one from which nearest rounding does best, and with few codes also scales beside it.

    Candidates are shrunken copies of the scale that clips nothing. What nearest rounding loses is taken with the powers of
    the inputs, without their correlations.
    """
    low, high = grid.ends
    axes = tuple(axis for axis in range(3) if grid.scale.shape[axis] == 1)
    above = np.where(high > 0, problem.wanted / np.where(high > 0, high, 1.0), 0.0)
    below = np.where(low < 0, problem.wanted / np.where(low < 0, low, 1.0), 0.0)
    full = np.maximum(np.maximum(above, below).max(axis=axes, keepdims=True), _TINY)
    weight = np.einsum("gkk->gk", problem.gram)[:, None, :]
    errors = []
    for fraction in _FRACTIONS:
        trial = dataclasses.replace(grid, scale=full * fraction)
        gap = trial.nearest(problem.wanted) * trial.scale - problem.wanted
        errors.append((gap * gap * weight).sum(axis=axes, keepdims=True))
    best = full * _FRACTIONS[np.argmin(np.stack(errors), axis=0)]
    return [best * factor for factor in (_BESIDE if grid.most - grid.least < _FEW_CODES else (1.0,))]


def best_scale(
    problem: Quadratic, codes: NDArray[np.float64], scale: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The closed form of the scale for given codes; scales of nothing but zero codes stay."""
    product = codes @ problem.gram
    above = _shared((product * problem.wanted).sum(axis=2, keepdims=True), scale)
    below = _shared((product * codes).sum(axis=2, keepdims=True), scale)
    usable = (above > 0) & (below > 0)
    return np.where(usable, above / np.where(usable, below, 1.0), scale)


def fed_forward(problem: Quadratic, grid: Grid) -> NDArray[np.float64]:
    """Codes rounded one input after the other, each error made up for by the inputs that are still to come.

    By how much each of these makes up for it, row k of the upper Cholesky factor of H^-1 tells (Frantar et al. 2023).
    """
    try:
        order, spread = problem.order, problem.feed
    except np.linalg.LinAlgError:  # undamped and singular: descent does without
        return grid.nearest(problem.wanted)
    shape = problem.wanted.shape
    scale = _leading(np.broadcast_to(grid.scale, shape), order)
    low, high = (_leading(np.broadcast_to(end, shape), order) for end in grid.ends)
    u = _leading(problem.wanted, order)
    q = np.empty_like(u)
    for start in range(0, shape[2], _BLOCK):
        stop = min(start + _BLOCK, shape[2])
        errors = np.empty((stop - start, *shape[:2]))
        for k in range(start, stop):
            q[k] = grid.snap(u[k] / scale[k], low[k], high[k])
            errors[k - start] = u[k] - q[k] * scale[k]
            if k + 1 < stop:
                u[k + 1 : stop] -= spread[k, k + 1 : stop, :, None] * errors[k - start]
        if stop < shape[2]:
            out = spread[start:stop, stop:].transpose(2, 1, 0) @ errors.transpose(1, 0, 2)
            u[stop:] -= out.transpose(1, 0, 2)
    result = np.empty(shape)
    result[:, :, order] = q.transpose(1, 2, 0)
    return result


def descend(
    problem: Quadratic, grid: Grid, codes: NDArray[np.float64], *, sweeps: int
) -> NDArray[np.float64]:
    """Coordinate descent on the codes, inputs of most power first; never worse than where it starts."""
    order, gram = problem.order, problem.ordered
    shape = problem.wanted.shape
    # Inputs lead, so that one input's numbers for all channels lie together.
    scale = _leading(np.broadcast_to(grid.scale, shape), order)
    low, high = (_leading(np.broadcast_to(end, shape), order) for end in grid.ends)
    q = _leading(codes, order)
    by_input = np.ascontiguousarray(gram.transpose(1, 2, 0))  # [inputs, inputs, groups]
    residual = _leading((problem.wanted - codes * grid.scale)[:, :, order] @ gram, None)
    step = scale * np.einsum("kkg->kg", by_input)[:, :, None]
    for _ in range(sweeps):
        moved = False
        for start in range(0, shape[2], _BLOCK):
            stop = min(start + _BLOCK, shape[2])
            local, changes = residual[start:stop].copy(), np.zeros((stop - start, *shape[:2]))
            for k in range(start, stop):
                new = grid.snap(q[k] + local[k - start] / step[k], low[k], high[k])
                delta = (new - q[k]) * scale[k]
                if delta.any():
                    q[k] = new
                    changes[k - start] = delta
                    local[k - start :] -= by_input[k, k:stop, :, None] * delta
            if changes.any():
                moved = True
                spread = gram[:, start:stop].transpose(0, 2, 1) @ changes.transpose(1, 0, 2)
                residual -= spread.transpose(1, 0, 2)
        if not moved:
            break
    result = np.empty(shape)
    result[:, :, order] = q.transpose(1, 2, 0)
    return result


def _leading(x: NDArray[np.float64], order: NDArray[np.intp] | None) -> NDArray[np.float64]:
    chosen = x if order is None else x[:, :, order]
    return np.ascontiguousarray(chosen.transpose(2, 0, 1))
