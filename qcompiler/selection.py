"""Precision assignment as an abstract problem of instruction selection: what a choice costs, and what others would.

Every region of a graph picks one row of its kernel (an `Option`). Rows read values in encodings (`Form`s); a form is paid
once, however many rows read it, and once more if the value has to be converted to it because it is not stored so. Nothing
here knows of graphs; `qcompiler.selection_search` finds the best choice.

It is instruction selection on a DAG, whose operands are shared (Koes and Goldstein, "Near-Optimal Instruction Selection on
DAGs", 2008). Choosing the precisions of layers within budgets by an integer linear program is from HAWQ-V3 (Yao et al.,
"HAWQ-V3: Dyadic Neural Network Quantization", 2021), which knows no shared values and no conversions.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, NamedTuple

from qcompiler.errors import OptionError, suggest

Quantity = Literal["loss", "size", "latency"]
QUANTITIES: tuple[Quantity, ...] = ("loss", "size", "latency")
"""What a selection may minimise or limit; also the order in which ties are broken."""


class Cost(NamedTuple):
    """What something costs; all finite and not negative.

    Attributes:
        loss: Predicted error of the output, in whatever unit the predictions have; it must add up.
        size: Bits.
        latency: Seconds.
    """

    loss: float
    size: float
    latency: float


FREE = Cost(0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Form:
    """One value in one encoding.

    Attributes:
        value: The value's number.
        cost: Paid once if any chosen option reads the form: the loss of rounding the value, say.
        conversion: Paid once besides if the form is read, but is not what the value is stored in.
    """

    value: int
    cost: Cost = FREE
    conversion: Cost = FREE


@dataclass(frozen=True)
class Option:
    """A kernel row that a region may run as.

    Attributes:
        cost: Its own.
        reads: The forms that it reads.
        writes: The forms, of values that its region computes, that it can write without a conversion.
        label: A name for people and for comparing regions; it means nothing here.
    """

    cost: Cost
    reads: tuple[int, ...] = ()
    writes: tuple[int, ...] = ()
    label: str = ""


@dataclass(frozen=True)
class SelectionProblem:
    """Regions with their options, over shared forms.

    A value is stored in at most one of its forms. If a region computes it (if any of the region's options writes a form of
    it), in one that the region's chosen option writes; values that no region computes may be stored in any. What is stored
    follows from the choice: of the forms that are read and may be stored, the one whose conversion is dearest, in latency,
    then loss, then size, then the one listed first. So a choice has one cost, whatever is minimised.

    Attributes:
        regions: The options of every region, at least one each.
        forms: All forms; options name them by position.

    Raises:
        ValueError: If a position is out of range, a cost is negative or not finite, a region has no option, or a value is
            computed by two regions.
    """

    regions: tuple[tuple[Option, ...], ...]
    forms: tuple[Form, ...] = ()

    def __post_init__(self) -> None:
        for form in self.forms:
            _check_cost(form.cost)
            _check_cost(form.conversion)
        for number, options in enumerate(self.regions):
            if not options:
                raise ValueError(f"region {number} has no option")
            for option in options:
                _check_cost(option.cost)
                for form_number in (*option.reads, *option.writes):
                    if not 0 <= form_number < len(self.forms):
                        raise ValueError(f"region {number} names form {form_number} of {len(self.forms)}")
        _ = self.producers

    @cached_property
    def producers(self) -> Mapping[int, int]:
        """The region that computes a value, by value."""
        found: dict[int, int] = {}
        for number, options in enumerate(self.regions):
            for written in (form for option in options for form in option.writes):
                value = self.forms[written].value
                if found.setdefault(value, number) != number:
                    raise ValueError(f"value {value} is computed by regions {found[value]} and {number}")
        return found

    @cached_property
    def computed(self) -> tuple[tuple[int, ...], ...]:
        """The values that each region computes."""
        values: list[list[int]] = [[] for _ in self.regions]
        for value, region in self.producers.items():
            values[region].append(value)
        return tuple(map(tuple, values))

    @cached_property
    def convertible(self) -> Mapping[int, tuple[int, ...]]:
        """The forms of a value whose conversion is not free, by value, dearest first: the order of storing."""
        by_value: dict[int, list[int]] = {}
        for number, form in enumerate(self.forms):
            if any(form.conversion):
                by_value.setdefault(form.value, []).append(number)
        return {
            value: tuple(sorted(numbers, key=lambda number: _dearest_first(self.forms[number].conversion)))
            for value, numbers in by_value.items()
        }


def _check_cost(cost: Cost) -> None:
    if not all(math.isfinite(part) and part >= 0 for part in cost):
        raise ValueError(f"{cost} is not finite and at least zero")


def _dearest_first(cost: Cost) -> tuple[float, float, float]:
    return -cost.latency, -cost.loss, -cost.size


@dataclass(frozen=True)
class Selection:
    """A choice of options and what is known of it.

    Attributes:
        choice: The chosen option of every region.
        cost: What it costs, as `evaluate` has it.
        minimise: The quantity that was minimised.
        limits: The limits that it keeps.
        bound: No choice within the limits has less of the minimised quantity than this.
        optimal: Whether the bound proves the choice to be best, within a relative `selection_search.GAP`.
        prices: By limit, how much of the minimised quantity one more unit of the limit would save, from the dual of the
            linear relaxation; 0 for limits that do not bind.
    """

    choice: tuple[int, ...]
    cost: Cost
    minimise: Quantity
    limits: Mapping[Quantity, float] = field(default_factory=dict)
    bound: float = 0.0
    optimal: bool = False
    prices: Mapping[Quantity, float] = field(default_factory=dict)

    @property
    def slack(self) -> dict[Quantity, float]:
        """What is left of each limit."""
        return {name: limit - getattr(self.cost, name) for name, limit in self.limits.items()}

    @property
    def binding(self) -> tuple[Quantity, ...]:
        """The limits that cost something."""
        return tuple(name for name in self.limits if self.prices.get(name, 0.0) > 0)

    @property
    def gap(self) -> float:
        """The relative distance between what was found and the bound."""
        found = float(getattr(self.cost, self.minimise))
        return max(0.0, found - self.bound) / found if found > 0 else 0.0


def check_quantity(name: str) -> Quantity:
    """The name as a quantity, or an `OptionError`."""
    if name not in QUANTITIES:
        raise OptionError(f"{name!r} can neither be minimised nor limited{suggest(name, QUANTITIES)}")
    return name


def stored_forms(problem: SelectionProblem, choice: Sequence[int]) -> tuple[int, ...]:
    """The forms that values are stored in; values of which no form is read that could be stored are left out."""
    read = _read(problem, choice)
    stored = (
        _stored(problem, value, read, _writable(problem, value, choice)) for value in problem.convertible
    )
    return tuple(sorted(number for number in stored if number is not None))


def evaluate(problem: SelectionProblem, choice: Sequence[int]) -> Cost:
    """The exact cost of a choice: sums are rounded once, so that they do not depend on the order of the terms.

    Args:
        problem: The problem.
        choice: The number of an option for every region.

    Raises:
        ValueError: If the choice is not one of this problem.
    """
    if len(choice) != len(problem.regions):
        raise ValueError(f"{len(choice)} options for {len(problem.regions)} regions")
    if not all(0 <= index < len(options) for options, index in zip(problem.regions, choice, strict=True)):
        raise ValueError("the choice names an option that its region does not have")
    read = _read(problem, choice)
    stored = set(stored_forms(problem, choice))
    paid = [options[index].cost for options, index in zip(problem.regions, choice, strict=True)]
    paid += [problem.forms[number].cost for number in read]
    paid += [problem.forms[number].conversion for number in read if number not in stored]
    return total(paid)


def excess_over(cost: Cost, limits: Mapping[Quantity, float]) -> dict[Quantity, float]:
    """By how much limits are exceeded; those that are kept are left out."""
    over = {name: getattr(cost, name) - limit for name, limit in limits.items()}
    return {name: excess for name, excess in over.items() if excess > 0}


def total(costs: Iterable[Cost]) -> Cost:
    """The sum of costs, each part rounded once."""
    columns = tuple(zip(*costs, strict=True)) or ((), (), ())
    return Cost(*map(math.fsum, columns))


def _read(problem: SelectionProblem, choice: Sequence[int]) -> set[int]:
    return {
        number
        for options, index in zip(problem.regions, choice, strict=True)
        for number in options[index].reads
    }


def _writable(problem: SelectionProblem, value: int, choice: Sequence[int]) -> tuple[int, ...] | None:
    """The forms in which a value may be stored; None for all."""
    region = problem.producers.get(value)
    return None if region is None else problem.regions[region][choice[region]].writes


def _stored(
    problem: SelectionProblem, value: int, read: set[int], writable: tuple[int, ...] | None
) -> int | None:
    for number in problem.convertible.get(value, ()):
        if number in read and (writable is None or number in writable):
            return number
    return None


def ordered(costs: Sequence[tuple[float, ...]]) -> bool:
    """Whether each is no less than the next in every part."""
    return all(
        high >= low
        for first, second in itertools.pairwise(costs)
        for high, low in zip(first, second, strict=True)
    )


class Neighbourhood:
    """A choice together with what each change of one region would do to its cost, without evaluating it all again.

    Attributes:
        choice: The chosen option of every region.
        cost: Its cost, kept up to date as regions change (`evaluate` is the judge of the last bit).
    """

    def __init__(self, problem: SelectionProblem, choice: Sequence[int]) -> None:
        self.problem = problem
        self.choice = list(choice)
        self.cost = evaluate(problem, choice)
        self._readers = [0] * len(problem.forms)
        self._read: set[int] = set()
        for options, index in zip(problem.regions, choice, strict=True):
            self._count(options[index], 1)

    def _count(self, option: Option, change: int) -> None:
        for number in set(option.reads):
            self._readers[number] += change
            if self._readers[number]:
                self._read.add(number)
            else:
                self._read.discard(number)

    def delta(self, region: int, index: int) -> Cost:
        """What the cost would change by if a region ran as another of its options, all others as they do."""
        old, new = self.problem.regions[region][self.choice[region]], self.problem.regions[region][index]
        if old is new:
            return FREE
        if not old.reads and not new.reads and old.writes == new.writes:
            return Cost(*(part - less for part, less in zip(new.cost, old.cost, strict=True)))
        forms = dict.fromkeys((*old.reads, *new.reads))
        values = dict.fromkeys(self.problem.forms[number].value for number in forms)
        values.update(dict.fromkeys(self.problem.computed[region]))
        before = self._paid(forms, values, region, old)
        self._count(old, -1)
        self._count(new, 1)
        after = self._paid(forms, values, region, new)
        self._count(new, -1)
        self._count(old, 1)
        return total([*after, *(Cost(*(-part for part in cost)) for cost in before)])

    def after(self, region: int, index: int, delta: Cost, limits: Mapping[Quantity, float]) -> Cost:
        """The cost after a change; from the exact sum where it is too close to a limit to call."""
        cost = Cost(*(part + step for part, step in zip(self.cost, delta, strict=True)))
        for name, limit in limits.items():
            if getattr(delta, name) and math.isclose(getattr(cost, name), limit, rel_tol=1e-12):
                return evaluate(self.problem, [*self.choice[:region], index, *self.choice[region + 1 :]])
        return cost

    def _paid(self, forms: Iterable[int], values: Iterable[int], region: int, option: Option) -> list[Cost]:
        """What a region's option, these forms and the conversions of these values cost if the region runs as the option."""
        problem, read = self.problem, self._read
        paid = [option.cost, *(problem.forms[number].cost for number in forms if number in read)]
        for value in values:
            candidates = problem.convertible.get(value)
            if candidates is None:
                continue
            own = problem.producers.get(value) == region
            writable = option.writes if own else _writable(problem, value, self.choice)
            stored = _stored(problem, value, read, writable)
            paid += [
                problem.forms[number].conversion
                for number in candidates
                if number in read and number != stored
            ]
        return paid

    def move(self, region: int, index: int) -> None:
        """Changes a region's option."""
        change = self.delta(region, index)
        self._count(self.problem.regions[region][self.choice[region]], -1)
        self._count(self.problem.regions[region][index], 1)
        self.choice[region] = index
        self.cost = Cost(*(part + step for part, step in zip(self.cost, change, strict=True)))


class Alternative(NamedTuple):
    """What one region's other option would have meant, with all other regions as they are.

    Attributes:
        delta: By how much the cost would change; zero for the option that was chosen.
        breaks: The limits that would not be kept.
    """

    delta: Cost
    breaks: tuple[Quantity, ...]


def alternatives(problem: SelectionProblem, selection: Selection) -> tuple[tuple[Alternative, ...], ...]:
    """What every option of every region would have meant; in time proportional to the number of options.

    Args:
        problem: The problem.
        selection: A selection of it, whose limits are the ones that may break.

    Returns:
        By region, by option.
    """
    around = Neighbourhood(problem, selection.choice)

    def judged(region: int, index: int) -> Alternative:
        delta = around.delta(region, index)
        over = excess_over(around.after(region, index, delta, selection.limits), selection.limits)
        return Alternative(delta, tuple(over))

    return tuple(
        tuple(judged(region, index) for index in range(len(options)))
        for region, options in enumerate(problem.regions)
    )
