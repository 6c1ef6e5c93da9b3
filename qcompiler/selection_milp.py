"""Selection as a mixed-integer linear program, and its relaxation, for HiGHS.

Variables, all 0 or 1, are the options x, whether a form is read (y), whether a value is stored in it (s) and whether it is
converted to (c):

    sum of a region's x = 1                                     every region runs as one option
    sum of a region's x that read f <= y(f)                     for every region that reads f
    y(f) - s(f) <= c(f)                                         read but not stored
    s(f) <= sum of the x that write f                           for values that a region computes
    sum of a value's s <= 1
    sum of s(g), g no cheaper than f >= y(f) + written(f) - 1   where the dearest conversion is not the dearest in all parts

The last three would follow from x without being called integral. But HiGHS rounds only what it is told is integral, and then
keeps, or spends time on mending, solutions that are off by its tolerance. A form that only one region reads needs no y, and
values of which only one form at a time is read no s.

The bound of the relaxation is computed from the dual values themselves and holds whatever the solver's tolerances are
(Neumaier and Shcherbina, "Safe bounds in linear and mixed-integer linear programming", 2004).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
from scipy.optimize import Bounds, LinearConstraint, linprog, milp

from qcompiler.selection import (
    FREE,
    QUANTITIES,
    Cost,
    Quantity,
    SelectionProblem,
    evaluate,
    excess_over,
    ordered,
)
from qcompiler.silence import silenced

Floats = npt.NDArray[np.float64]
_NODES = 20_000  # of branch and bound; a limit of time would make answers depend on the machine
_EXCLUDED = 20
_TIGHTENED = 5
_TOLERANCE = 1e-6  # of the solver, for rows
_LARGEST = 0.1  # of a limit's coefficients; far more than the solver's tolerance of 1e-6, and scaled up before it is looked at
_INTEGERS = 1e6  # coefficients up to this are left integers
_ROUNDING = 1e-12  # relative; what adding numbers in another order may change


class Relaxation(NamedTuple):
    """The linear relaxation's optimum.

    Attributes:
        bound: Proven from the dual values.
        reduced: Reduced cost of every option that the program has, at least 0.
        likely: The option of each region that has the largest share.
        prices: Dual value of each limit, at least 0.
    """

    bound: float
    reduced: Floats
    likely: tuple[int, ...]
    prices: dict[Quantity, float]


class Answer(NamedTuple):
    """What was found over some of the options: a choice or None, the bound for these, and whether there is no choice."""

    choice: tuple[int, ...] | None
    bound: float
    infeasible: bool


class _Rows:
    """Rows of a sparse matrix, `sum of entries <= right`, as they are collected."""

    def __init__(self) -> None:
        self.row: list[int] = []
        self.column: list[int] = []
        self.entry: list[float] = []
        self.right: list[float] = []

    def add(self, right: float, *terms: tuple[Iterable[int], float]) -> None:
        for columns, factor in terms:
            columns = list(columns)
            self.row += [len(self.right)] * len(columns)
            self.column += columns
            self.entry += [factor] * len(columns)
        self.right.append(right)

    def matrix(self, width: int) -> sp.csr_array:
        places = np.array(self.row, int), np.array(self.column, int)
        return sp.csr_array((np.array(self.entry, float), places), shape=(len(self.right), width))


class Program:
    """The program without an objective and limits, after what can be decided beforehand.

    Args:
        problem: The problem.
        kept: The options of every region that are worth considering.
        quantities: The quantities that will be minimised or limited; forms that cost none of these get no variables.

    Attributes:
        options, region: Region and option behind every x, in order; the region alone as an array.
        cost: What every variable costs, [variables, 3]. Forms that only one region reads and whose storage decides nothing
            are paid by that region's options.
    """

    def __init__(
        self, problem: SelectionProblem, kept: Sequence[Sequence[int]], quantities: Collection[Quantity]
    ) -> None:
        self.problem = problem
        self._parts = [QUANTITIES.index(name) for name in quantities]
        self.options = [(region, index) for region, indices in enumerate(kept) for index in indices]
        self.region = np.array([region for region, _ in self.options], int)
        self._starts = np.searchsorted(self.region, np.arange(len(kept)))
        self._costs = [list(problem.regions[region][index].cost) for region, index in self.options]
        self._rows = _Rows()
        taken = self._add_forms()
        self.cost: Floats = np.array(self._costs, float).reshape(-1, 3)
        self._matrix = self._rows.matrix(len(self.cost))
        self._right = np.array(self._rows.right, float)
        self._units = [_unit(self.cost[:, part]) for part in range(3)]
        count = len(self.options)
        places = np.array(taken, int).reshape(-1, 2)
        shape = count, len(self.cost) - count
        self._takes = sp.csr_array((np.ones(len(places)), (places[:, 0], places[:, 1] - count)), shape=shape)
        shape = len(kept), len(self.cost)
        self._one_each = sp.csr_array((np.ones(count), (self.region, np.arange(count))), shape=shape)

    def _add_forms(self) -> list[tuple[int, int]]:
        """Adds the variables and rows of all forms; returns which options take which variables along."""
        problem = self.problem
        readers: list[dict[int, list[int]]] = [{} for _ in problem.forms]
        writers: list[list[int]] = [[] for _ in problem.forms]
        for column, (region, index) in enumerate(self.options):
            for number in set(problem.regions[region][index].reads):
                readers[number].setdefault(region, []).append(column)
            for number in set(problem.regions[region][index].writes):
                writers[number].append(column)
        stored: dict[int, list[int]] = {}
        for value, numbers in problem.convertible.items():
            asked = [number for number in numbers if readers[number]]
            if ordered([self._seen(problem.forms[number].conversion) for number in asked]):
                asked = [number for number in asked if self._matters(problem.forms[number].conversion)]
            stored[value] = asked
        shared = {number for numbers in stored.values() for number in numbers}
        read: list[list[int]] = []
        taken: list[tuple[int, int]] = []
        for number, by_region in enumerate(readers):
            columns = [column for options in by_region.values() for column in options]
            cost = problem.forms[number].cost
            if len(by_region) > 1 and (number in shared or self._matters(cost)):
                variable = self._variable(cost)
                taken += ((column, variable) for column in columns)
                for options in by_region.values():
                    self._rows.add(0, (options, 1), ([variable], -1))
                read.append([variable])
            else:
                self._pay(columns if len(by_region) == 1 else [], cost)
                read.append(columns)
        for value, asked in stored.items():
            self._store(value, asked, read, writers)
        return taken

    def _seen(self, cost: Cost) -> tuple[float, ...]:
        return tuple(cost[part] for part in self._parts)

    def _matters(self, cost: Cost) -> bool:
        return any(self._seen(cost))

    def _variable(self, cost: Cost = FREE) -> int:
        self._costs.append(list(cost))
        return len(self._costs) - 1

    def _pay(self, columns: Iterable[int], cost: Cost) -> None:
        for column in columns:
            self._costs[column] = [paid + more for paid, more in zip(self._costs[column], cost, strict=True)]

    def _store(self, value: int, numbers: list[int], read: list[list[int]], writers: list[list[int]]) -> None:
        forms, computed = self.problem.forms, value in self.problem.producers
        storable = [number for number in numbers if writers[number] or not computed]
        for number in numbers:
            if number not in storable:
                self._pay(read[number], forms[number].conversion)
        once = self._one_at_a_time([column for number in storable for column in read[number]])
        if not computed and (once or len(storable) < 2):
            return
        stored = [] if once else [self._variable() for _ in storable]
        for place, number in enumerate(storable):
            converted = self._variable(forms[number].conversion)
            kept = writers[number] if once else [stored[place]]
            self._rows.add(0, (read[number], 1), ([*kept, converted], -1))
            if computed and not once:
                self._rows.add(0, ([stored[place]], 1), (writers[number], -1))
        if len(stored) > 1:
            self._rows.add(1, (stored, 1))
        if stored and not ordered([self._seen(forms[number].conversion) for number in storable]):
            for place, number in enumerate(storable):
                written = [(writers[number], 1.0)] if computed else []
                self._rows.add(float(computed), (read[number], 1), *written, (stored[: place + 1], -1))

    def _one_at_a_time(self, columns: list[int]) -> bool:
        """Whether only one of the variables can be 1: options of one region. Then whatever is read can be what is stored."""
        regions = {self.options[column][0] if column < len(self.options) else None for column in columns}
        return len(regions) == 1 and None not in regions and len(set(columns)) == len(columns)

    def within(self, reduced: Floats, margin: float) -> Floats:
        """Upper bounds that leave out the options of a reduced cost above the margin."""
        upper = np.ones(len(self.cost))
        upper[: len(self.options)] = reduced <= margin
        return upper

    def relax(self, minimise: Quantity, limits: Mapping[Quantity, float], upper: Floats) -> Relaxation | None:
        """Solves the linear relaxation; None if it is infeasible."""
        part = QUANTITIES.index(minimise)
        limited = self._limited(limits, upper)
        if limited is None:
            return None
        upper, rows, right, scales = limited
        cost = self.cost[:, part]
        top = float(np.max(cost, where=upper > 0, initial=0.0))
        factor = 1e6 / top if top > 0 else 1.0
        done = linprog(  # type: ignore[call-overload]  # the stubs do not know that sparse matrices are taken
            np.where(upper > 0, cost, 0) * factor,
            A_ub=rows,
            b_ub=right,
            A_eq=self._one_each,
            b_eq=np.ones(len(self._starts)),
            bounds=[(0.0, top) for top in upper.tolist()],
            method="highs",
        )
        if done.status == 2:
            return None
        if done.status != 0:
            return Relaxation(0.0, np.zeros(len(self.options)), self._choice(upper), {})
        dual = np.minimum(done.ineqlin.marginals, 0) / factor
        priced = np.where(upper > 0, cost - rows.T @ dual, np.inf)
        count = len(self.options)
        least = np.minimum.reduceat(priced[:count], self._starts)
        bound = math.fsum([*(right * dual), *least, *np.minimum(priced[count:], 0)])
        prices = {
            name: -float(value) * scales[name]
            for name, value in zip(scales, dual[len(self._right) :], strict=True)
        }
        reduced = priced[:count] - least[self.region]
        # Whoever reads a form takes the form's variable along.
        reduced += self._takes @ np.where(np.isfinite(priced[count:]), np.maximum(priced[count:], 0), 0)
        return Relaxation(bound, reduced, self._choice(done.x), prices)

    def best(
        self,
        minimise: Quantity,
        limits: Mapping[Quantity, float],
        upper: Floats,
        expected: float,
        gap: float = 0.0,
        nodes: int = _NODES,
    ) -> Answer:
        """Solves the program over some of its variables.

        Args:
            minimise: What to minimise.
            limits: What to keep.
            upper: The upper bound of every variable, 0 for those that are left out.
            expected: About what the optimum will be.
            gap: How far from the optimum the answer may be, relative to what is expected.
            nodes: How many nodes may be searched.
        """
        part, count = QUANTITIES.index(minimise), len(self.options)
        asked, bound, tightened, excluded = dict(limits), -math.inf, 0, _Rows()
        while tightened < _TIGHTENED:
            limited = self._limited(asked, upper)
            if limited is None:
                return Answer(None, bound, not tightened)
            open_, rows, right, scales = limited
            cost = np.where(open_ > 0, self.cost[:, part], 0)
            least = np.minimum.reduceat(np.where(open_ > 0, cost, np.inf)[:count], self._starts)
            cost[:count] = np.where(open_[:count] > 0, cost[:count] - least[self.region], 0)
            base = math.fsum(least)
            factor = 1e4 / expected if expected > 0 else 1 / (cost.max() or 1.0)
            relative = min(1.0, gap * expected / (expected - base)) if gap and expected > base else gap
            left = np.flatnonzero(open_)
            with silenced():  # HiGHS 1.12 reports repairs of solutions, asked or not
                done = milp(
                    cost[left] * factor,
                    integrality=np.ones(len(left), np.int64),
                    bounds=Bounds(0, 1),
                    constraints=[
                        LinearConstraint(self._one_each[:, left], 1, 1),
                        LinearConstraint(rows[:, left], -np.inf, right),
                        LinearConstraint(excluded.matrix(len(cost))[:, left], -np.inf, excluded.right),
                    ],
                    options={"node_limit": nodes, "mip_rel_gap": relative},
                )
            if not tightened and done.mip_dual_bound is not None:
                bound = max(bound, base + done.mip_dual_bound / factor)
            if done.x is None:
                return Answer(None, bound, not tightened and done.status == 2)
            share = np.zeros(len(cost))
            share[left] = done.x
            choice = self._choice(share)
            over = excess_over(evaluate(self.problem, choice), limits)
            if not over:
                return Answer(choice, bound, False)
            # Within the solver's tolerance, but not within the limit: that choice goes, or all that are as close.
            if not gap and len(excluded.right) < _EXCLUDED:
                excluded.add(len(self._starts) - 1, (np.flatnonzero(share[:count] > 0.5).tolist(), 1))
                continue
            for name, excess in over.items():
                asked[name] -= max(2 * excess, _TOLERANCE / scales.get(name, 1.0) * 4**tightened)
            tightened += 1
        return Answer(None, bound, False)

    def _limited(
        self, limits: Mapping[Quantity, float], upper: Floats
    ) -> tuple[Floats, sp.csr_array, Floats, dict[Quantity, float]] | None:
        """The rows with the limits behind them, scaled; and upper bounds without what breaks a limit by itself.

        None if a region has no option, or some limit cannot be kept even with what is cheapest in every region.
        """
        upper, count = upper.copy(), len(self.options)
        rows, right, scales = [], [], dict[Quantity, float]()
        if not np.maximum.reduceat(upper[:count], self._starts).all():
            return None
        for name, limit in limits.items():
            part = QUANTITIES.index(name)
            cost, unit = self.cost[:, part], self._units[part]
            least = np.minimum.reduceat(np.where(upper > 0, cost, np.inf)[:count], self._starts)
            if limit < 0:
                return None
            if math.isinf(limit):
                continue
            rest = math.fsum([limit, *-least])
            slip = _ROUNDING * max(abs(limit), math.fsum(least))
            if unit:
                # Half a unit more admits nothing else, and keeps the solver's tolerance away from what is admitted.
                rest, slip = math.floor(rest / unit) * unit, unit / 2
            if rest + slip < 0:
                return None
            extra = cost.copy()
            extra[:count] -= least[self.region]
            upper[extra > rest + slip] = 0
            extra[upper == 0] = 0
            largest = float(extra.max(initial=0.0))
            if largest > 0:
                scales[name] = 1 / unit if unit and largest <= _INTEGERS * unit else _LARGEST / largest
                rows.append(extra * scales[name])
                right.append((rest + slip) * scales[name])
        added = sp.csr_array(np.array(rows).reshape(-1, len(upper)))
        stacked = sp.vstack([self._matrix, added], format="csr")
        return upper, stacked, np.concatenate([self._right, right]), scales

    def _choice(self, share: Floats) -> tuple[int, ...]:
        """Every region's option of the largest share, the first among equals."""
        chosen: dict[int, tuple[float, int]] = {}
        for (region, index), part in zip(self.options, share[: len(self.options)].tolist(), strict=True):
            if region not in chosen or part > chosen[region][0]:
                chosen[region] = part, index
        return tuple(index for _, index in chosen.values())


def _unit(costs: Floats) -> float:
    """The greatest common divisor of costs that are integers small enough to be added exactly; 0 for others."""
    if not costs.size or costs.sum() >= 2**53 or (costs != np.floor(costs)).any():
        return 0.0
    return float(np.gcd.reduce(costs.astype(np.int64)))
