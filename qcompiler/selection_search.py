"""The best choice of options, proven: the search over programs of `qcompiler.selection_milp`.

A solver of mixed-integer programs spends most of its time on options that no good choice contains. The linear relaxation
tells which: an option of reduced cost d is in no choice that is better than the relaxation's bound + d. So the program is
solved over the options of small reduced cost, and with more of them until what was found is no worse than whatever was left
out: the core of Balas and Zemel, "An Algorithm for Large Zero-One Knapsack Problems", 1980.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from qcompiler.errors import OptionError
from qcompiler.selection import (
    FREE,
    QUANTITIES,
    Cost,
    Neighbourhood,
    Option,
    Quantity,
    Selection,
    SelectionProblem,
    check_quantity,
    evaluate,
    excess_over,
    ordered,
)
from qcompiler.selection_milp import Floats, Program

GAP = 1e-6
"""The relative distance between a selection and its bound up to which it counts as optimal."""

_CORE = 1600  # options that the first program has beyond one for every region
_EXACT = 200  # with so few options beyond one for every region, the solver is asked for a gap of 0
_TIE_NODES = 200
_SWEEPS = 20
_PROVEN = 1e-9  # relative; closer the solver does not come
_NOISE = 1e-7  # relative; the solver's tolerance for reduced costs


class InfeasibleBudgetError(OptionError):
    """No choice keeps the limits.

    Attributes:
        limit: The limit that cannot be kept.
        asked: Its value.
        tightest: The least that it can be while `kept` holds.
        bound: What was proven about `tightest`: it cannot be below this.
        kept: The other limits that `tightest` respects: all of them, unless they cannot be kept together either.
        regions: The regions that make up most of `tightest` by their own rows, largest share first.
        best: The choice that attains `tightest`.
    """

    def __init__(self, problem: SelectionProblem, best: Selection, limit: Quantity, asked: float) -> None:
        self.limit = limit
        self.asked = asked
        self.tightest = float(getattr(best.cost, limit))
        self.bound = best.bound
        self.kept = dict(best.limits)
        self.regions = _largest_shares(problem, best, limit)
        self.best = best
        super().__init__(self._message(problem))

    def _message(self, problem: SelectionProblem) -> str:
        unit = {"loss": "", "size": " bits", "latency": " s"}
        figures = [f"{name} at most {value:.6g}{unit[name]}" for name, value in self.kept.items()]
        kept = f" with {' and '.join(figures)}" if figures else ""
        share = math.fsum(
            getattr(problem.regions[region][self.best.choice[region]].cost, self.limit)
            for region in self.regions
        )
        most = ", ".join(
            f"{region}{f' ({label})' if (label := problem.regions[region][self.best.choice[region]].label) else ''}"
            for region in self.regions[:5]
        )
        listed = f"{most} and {len(self.regions) - 5} more" if len(self.regions) > 5 else most
        of_it = f" {share / self.tightest:.0%} of that is what regions {listed} need." if most else ""
        return (
            f"No choice of rows has a {self.limit} of at most {self.asked:.6g}{unit[self.limit]}{kept}; the least is "
            f"{self.tightest!r}{unit[self.limit]}.{of_it} Raise the limit, or allow these regions cheaper rows."
        )


def _largest_shares(problem: SelectionProblem, best: Selection, limit: Quantity) -> tuple[int, ...]:
    own = [
        getattr(options[index].cost, limit)
        for options, index in zip(problem.regions, best.choice, strict=True)
    ]
    total, taken, covered = math.fsum(own), [], 0.0
    for region in sorted(range(len(own)), key=lambda number: (-own[number], number)):
        if own[region] <= 0 or covered > total / 2:
            break
        taken.append(region)
        covered += own[region]
    return tuple(taken)


def solve(
    problem: SelectionProblem, minimise: Quantity, limits: Mapping[Quantity, float] | None = None
) -> Selection:
    """The choice that minimises a quantity within limits on quantities.

    The same problem gives the same answer. Of choices that are equally good, one of less loss is taken, then of smaller
    size, then of less latency, then one in which no region could as well run as an option listed earlier.

    Args:
        problem: The problem.
        minimise: "loss", "size" or "latency".
        limits: What a quantity may be at most; `evaluate` of the answer keeps them to the last bit.

    Returns:
        The selection, with a proven bound.

    Raises:
        OptionError: If a name or a limit makes no sense.
        InfeasibleBudgetError: If no choice keeps the limits; it knows the tightest one that can be kept.
    """
    check_quantity(minimise)
    kept = {check_quantity(name): _number(name, limit) for name, limit in (limits or {}).items()}
    found = _search(problem, minimise, kept)
    if found is not None:
        return found
    name, least = _tightest(problem, kept)
    if excess_over(least.cost, kept):
        raise InfeasibleBudgetError(problem, least, name, kept[name])
    return replace(least, minimise=minimise, limits=kept, bound=0.0, optimal=False, prices={})


def _number(name: str, limit: float) -> float:
    if math.isnan(limit):
        raise OptionError(f"the limit on {name} is not a number; leave it out, or give a number")
    return float(limit)


def _undominated(problem: SelectionProblem) -> list[list[int]]:
    """The options of every region for which there is none that costs no more, reads no more and writes no less.

    Of equal ones the first is kept. Where storing a dearer conversion could cost more of some quantity, options that read or
    write different forms are not compared.
    """
    forms = problem.forms
    comparable = all(
        ordered([forms[number].conversion for number in numbers]) for numbers in problem.convertible.values()
    )
    paid = {number for number, form in enumerate(forms) if any(form.cost) or any(form.conversion)}
    read = {number for options in problem.regions for option in options for number in option.reads}
    stored = {number for numbers in problem.convertible.values() for number in numbers} & read

    def dominates(one: Option, other: Option) -> bool:
        if any(part > limit for part, limit in zip(one.cost, other.cost, strict=True)):
            return False
        reads, more = paid.intersection(one.reads), paid.intersection(other.reads)
        writes, fewer = stored.intersection(one.writes), stored.intersection(other.writes)
        return (reads <= more and writes >= fewer) if comparable else (reads == more and writes == fewer)

    def undominated(options: tuple[Option, ...]) -> list[int]:
        kept: list[int] = []
        for index, option in enumerate(options):
            if not any(dominates(options[other], option) for other in kept):
                kept = [other for other in kept if not dominates(option, options[other])] + [index]
        return kept

    return [undominated(options) for options in problem.regions]


def _improved(
    problem: SelectionProblem, choice: tuple[int, ...], minimise: Quantity, limits: Mapping[Quantity, float]
) -> tuple[int, ...]:
    """Changes single regions as long as the choice gets better: by excess over limits, then by `_rank`."""
    around = Neighbourhood(problem, choice)
    order = _order(minimise)

    def excess(cost: Cost) -> float:
        return math.fsum(
            over / (abs(limits[name]) or 1.0) for name, over in excess_over(cost, limits).items()
        )

    def better(region: int, index: int) -> bool:
        delta = around.delta(region, index)
        steps = [getattr(delta, name) for name in order]
        change = excess(around.after(region, index, delta, limits)) - here
        return (change, *steps, index) < (0.0, 0.0, 0.0, 0.0, around.choice[region])

    for _ in range(_SWEEPS):
        moved = False
        around.cost = evaluate(problem, around.choice)
        here = excess(around.cost)
        for region, options in enumerate(problem.regions):
            for index in range(len(options)):
                if index != around.choice[region] and better(region, index):
                    around.move(region, index)
                    here = excess(around.cost)
                    moved = True
        if not moved:
            break
    return tuple(around.choice)


def _order(minimise: Quantity) -> tuple[Quantity, ...]:
    return (minimise, *(name for name in QUANTITIES if name != minimise))


def _rank(problem: SelectionProblem, choice: tuple[int, ...], minimise: Quantity) -> tuple[float, ...]:
    """What is compared: the minimised quantity, then loss, size and latency, then the options' places."""
    cost = evaluate(problem, choice)
    return (*(getattr(cost, name) for name in _order(minimise)), *choice)


@dataclass
class _Found:
    """The best choice so far, and its rank."""

    problem: SelectionProblem
    minimise: Quantity
    limits: Mapping[Quantity, float]
    choice: tuple[int, ...] | None = None
    value: float = math.inf

    def is_proven(self, bound: float) -> bool:
        """Whether the value is as close to a bound as the solver comes."""
        return self.choice is not None and self.value - bound <= _PROVEN * self.value

    def selection(self, bound: float, prices: Mapping[Quantity, float]) -> Selection:
        """What was found, with what was proven."""
        choice = self.choice or ()
        cost = evaluate(self.problem, choice)
        value = getattr(cost, self.minimise)
        bound = min(bound, value)
        optimal = value - bound <= GAP * value
        return Selection(choice, cost, self.minimise, dict(self.limits), bound, optimal, prices)

    def offer(self, choice: tuple[int, ...] | None) -> bool:
        """Improves a choice and takes it if it keeps the limits and is the best; says whether it did."""
        if choice is None:
            return False
        better = _improved(self.problem, choice, self.minimise, self.limits)
        for candidate in (better, choice):
            if excess_over(evaluate(self.problem, candidate), self.limits):
                continue
            rank = _rank(self.problem, candidate, self.minimise)
            if self.choice is None or rank < _rank(self.problem, self.choice, self.minimise):
                self.choice, self.value = candidate, rank[0]
                return True
        return False


def _search(
    problem: SelectionProblem, minimise: Quantity, limits: Mapping[Quantity, float]
) -> Selection | None:
    """The best choice, or None if there is none."""
    found = _Found(problem, minimise, limits)
    if not problem.regions:
        return None if excess_over(FREE, limits) else found.selection(0.0, {})
    program = Program(problem, _undominated(problem), sorted({minimise, *limits}))
    count = len(program.options)
    everything = np.ones(len(program.cost))
    relaxed = program.relax(minimise, limits, everything)
    if relaxed is None:
        return None
    found.offer(relaxed.likely)
    noise = _NOISE * abs(relaxed.bound)
    ranked = np.sort(relaxed.reduced)
    extra, bound = _CORE, max(0.0, relaxed.bound)
    while not found.is_proven(bound):
        place = len(problem.regions) + extra
        margin = min(ranked[place] if place < count else math.inf, found.value - relaxed.bound) + noise
        upper = program.within(relaxed.reduced, margin)
        left_out = math.inf if upper.all() else relaxed.bound + margin
        gap = 0.0 if upper[:count].sum() - len(problem.regions) <= _EXACT else 0.9 * GAP
        expected = found.value if found.choice is not None else relaxed.bound
        answer = program.best(minimise, limits, upper, expected, gap)
        found.offer(answer.choice)
        bound = max(bound, min(left_out, math.inf if answer.infeasible else answer.bound))
        rough = found.choice is not None and expected > 100 * found.value  # scaled for something else
        if (upper.all() or found.value - relaxed.bound <= margin) and not rough:
            break
        extra *= 2
    if found.choice is None:
        return None
    margin = found.value - relaxed.bound + noise
    tied = relaxed.reduced <= margin
    easy = tied.sum() - len(problem.regions) <= _EXACT or margin <= 2 * noise
    if easy and found.is_proven(bound):
        _break_ties(found, relaxed.reduced, margin)
    return found.selection(bound, relaxed.prices)


def _break_ties(found: _Found, reduced: Floats, margin: float) -> None:
    """Looks for the best among choices that have no more of the minimised quantity, and so on for the others."""
    program = Program(found.problem, _undominated(found.problem), QUANTITIES)
    upper = program.within(reduced, margin)
    limits = dict(found.limits)
    for done, name in itertools.pairwise(_order(found.minimise)):
        cost = evaluate(program.problem, found.choice or ())
        limits[done] = min(limits.get(done, math.inf), getattr(cost, done))
        found.offer(program.best(name, limits, upper, getattr(cost, name), nodes=_TIE_NODES).choice)


def _tightest(problem: SelectionProblem, limits: Mapping[Quantity, float]) -> tuple[Quantity, Selection]:
    """A limit that cannot be kept, and the choice that has least of it: with all other limits kept, if that is possible."""
    for name in limits:
        found = _search(problem, name, {other: limit for other, limit in limits.items() if other != name})
        if found is not None:
            return name, found
    # No single one is to blame: the first that those before it do not allow.
    kept: dict[Quantity, float] = {}
    for name, limit in limits.items():
        found = _search(problem, name, kept)
        if found is None:
            break
        if getattr(found.cost, name) > limit:
            return name, found
        kept[name] = limit
    # The solver gave up. Without limits there always is a choice.
    found = _search(problem, name, {})
    assert found is not None
    return name, found
