"""Precision assignment under budgets: regions and forms as a selection problem, and the answer in words."""

from __future__ import annotations

import dataclasses
import fnmatch
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qcompiler.assignment import outputs_of, use_value
from qcompiler.costs import CostModel, code_bits, elements, parameter_bits
from qcompiler.decision import Considered, Decision, Weighed
from qcompiler.forms import Form, row_forms
from qcompiler.selection import (
    FREE,
    Cost,
    Option,
    Quantity,
    Selection,
    SelectionProblem,
    alternatives,
    evaluate,
)
from qcompiler.selection import Form as SharedForm
from qcompiler.selection_search import InfeasibleBudgetError, solve

if TYPE_CHECKING:
    from qcompiler.assignment import Problem
    from qcompiler.budget import Budget
    from qcompiler.ir.node import Value
    from qcompiler.regions import Region
    from qcompiler.sensitivity import Sensitivity
    from qcompiler.target import Row


@dataclass(frozen=True)
class RowSelection:
    """The regions that have a choice, with their rows, as a selection problem.

    Attributes:
        regions: In graph order.
        rows: Their rows, as the problem's options.
        problem: The abstract problem. Its size is that of codes and floats of weights alone.
        weights: How many weights the problem's sizes are about.
        fixed_bits: Bits of everything else that the artifact stores: biases, scales, constants that no row quantizes.
    """

    regions: tuple[Region, ...]
    rows: tuple[tuple[Row, ...], ...]
    problem: SelectionProblem
    weights: int
    fixed_bits: int

    def limits(self, budget: Budget) -> dict[Quantity, float]:
        """A budget as limits of the problem."""
        sizes = []
        if budget.weight_bits is not None:
            sizes.append(math.floor(budget.weight_bits * self.weights))
        if budget.size is not None:
            sizes.append(math.floor(budget.size * 8) - self.fixed_bits)
        found: dict[Quantity, float] = {"size": min(sizes)} if sizes else {}
        if budget.latency is not None:
            found["latency"] = budget.latency
        if budget.loss is not None:
            found["loss"] = budget.loss
        return found

    def latency_of(self, choice: Mapping[str, Row | None]) -> float:
        """The latency of a choice of rows; of a row that has no part in the problem, that of the region's first."""
        indices = []
        for region, rows in zip(self.regions, self.rows, strict=True):
            chosen = choice.get(region.name)
            names = [row.name for row in rows]
            indices.append(names.index(chosen.name) if chosen is not None and chosen.name in names else 0)
        return evaluate(self.problem, indices).latency


def state_selection(
    problem: Problem, sensitivity: Sensitivity, costs: CostModel, allowed: Sequence[str] = ()
) -> RowSelection:
    """States the selection problem of a graph.

    Args:
        problem: Regions and what is legal.
        sensitivity: What forms lose.
        costs: What rows cost.
        allowed: Patterns of row names (`*a8`) that may be chosen; regions without such a row may have any.
    """
    regions, rows = [], []
    for region in problem.regions:
        if region.kernel is None or region.kernel.quantize != "always":
            continue
        legal = problem.legal_rows(region)
        wanted = [
            row for row in legal if not allowed or any(fnmatch.fnmatch(row.name, item) for item in allowed)
        ]
        if legal:
            regions.append(region)
            rows.append(tuple(wanted or legal))
    numbering = _Numbering(sensitivity, costs)
    options = tuple(
        tuple(_option(problem, region, row, costs, numbering) for row in choices)
        for region, choices in zip(regions, rows, strict=True)
    )
    numbering.index()
    options = tuple(
        tuple(
            Option(option.cost, option.reads, numbering.written(problem, region, row), option.label)
            for option, row in zip(mine, choices, strict=True)
        )
        for mine, choices, region in zip(options, rows, regions, strict=True)
    )
    inside = numbering.weights
    everything = sum(
        elements(value) * 32 for value in problem.graph.constants if value not in inside and _is_float(value)
    )
    return RowSelection(
        tuple(regions), tuple(rows), SelectionProblem(options, tuple(numbering.forms)),
        sum(map(elements, inside)), everything + numbering.overhead(),
    )  # fmt: skip


def _is_float(value: Value) -> bool:
    return value.data is not None and value.data.dtype.kind == "f"


def _option(problem: Problem, region: Region, row: Row, costs: CostModel, numbering: _Numbering) -> Option:
    forms = row_forms(problem, region, row)
    reads = [numbering.number(form) for form in forms]
    quantized = {form.value for form in forms}
    for uses in region.uses.values():
        for use in uses:
            value = use_value(use)
            if (
                value.is_constant
                and _is_float(value)
                and value not in quantized
                and _is_weight(problem, region, value)
            ):
                reads.append(numbering.float_number(value))
    return Option(Cost(0.0, 0.0, costs.region(region, row)), tuple(dict.fromkeys(reads)), (), row.name)


def _is_weight(problem: Problem, region: Region, value: Value) -> bool:
    """Whether some row of the region could quantize a constant: others are no part of the choice."""
    return any(
        form.value is value for row in problem.legal_rows(region) for form in row_forms(problem, region, row)
    )


class _Numbering:
    """Forms get numbers as rows turn out to read them."""

    def __init__(self, sensitivity: Sensitivity, costs: CostModel) -> None:
        self.sensitivity, self.costs = sensitivity, costs
        self.forms: list[SharedForm] = []
        self.weights: dict[Value, int] = {}  # to the bits of its scales, at most
        self._numbers: dict[Form, int] = {}
        self._floats: dict[Value, int] = {}
        self._values: dict[Value, int] = {}
        self._activations: dict[Value, int] = {}
        self._of_value: dict[Value, list[Form]] = {}

    def number(self, form: Form) -> int:
        """The number of a form."""
        if form not in self._numbers:
            value, constant = form.value, form.value.is_constant
            bits = code_bits(value, form.spec) if constant else 0
            overhead = self.weights if constant else self._activations
            overhead[value] = max(overhead.get(value, 0), parameter_bits(form))
            conversion = Cost(0.0, 0.0, self.costs.conversion(value, form.spec)) if not constant else FREE
            cost = Cost(self.sensitivity.of(form).mean, bits, 0.0)
            self._numbers[form] = self._add(value, cost, conversion)
        return self._numbers[form]

    def float_number(self, value: Value) -> int:
        """The number of a weight that is left float."""
        if value not in self._floats:
            self.weights.setdefault(value, 0)
            self._floats[value] = self._add(
                value, Cost(0.0, elements(value) * self.costs.float_bits, 0.0), FREE
            )
        return self._floats[value]

    def _add(self, value: Value, cost: Cost, conversion: Cost) -> int:
        self.forms.append(SharedForm(self._values.setdefault(value, len(self._values)), cost, conversion))
        return len(self.forms) - 1

    def index(self) -> None:
        """Sorts the forms by value, for `written`."""
        for form in self._numbers:
            self._of_value.setdefault(form.value, []).append(form)

    def written(self, problem: Problem, region: Region, row: Row) -> tuple[int, ...]:
        """The forms of a region's results that it can write as a row."""
        specs = problem.target.output_specs(row)
        return tuple(
            self._numbers[form]
            for value in outputs_of(region)
            for form in self._of_value.get(value, ())
            if form.spec in specs
        )

    def overhead(self) -> int:
        """Bits of scales and zero points."""
        return sum(self.weights.values()) + sum(self._activations.values())


def select(
    selection: RowSelection, budget: Budget, sensitivity: Sensitivity, uniform: Mapping[str, Row | None]
) -> Decision:
    """The best rows within a budget, with what the others would have cost; where no rows keep it, those that come nearest.

    Where the budget says nothing of latency, it is held to that of `uniform`, if the budget allows.
    """
    limits = selection.limits(budget)
    implied = dict(limits)
    if budget.latency is None and budget.minimise != "latency" and uniform:
        implied["latency"] = selection.latency_of(uniform)
    try:
        found = solve(selection.problem, budget.minimise, implied)
    except InfeasibleBudgetError:
        try:
            found = solve(selection.problem, budget.minimise, limits)
        except InfeasibleBudgetError as error:
            nearest = _decision(selection, error.best, budget, sensitivity)
            return dataclasses.replace(nearest, unmet=_infeasible(selection, error, budget))
    return _decision(selection, found, budget, sensitivity)


def _decision(
    selection: RowSelection, found: Selection, budget: Budget, sensitivity: Sensitivity
) -> Decision:
    weighed = alternatives(selection.problem, found)
    regions = {}
    for index, region in enumerate(selection.regions):
        considered = tuple(
            Considered(row.name, _own_loss(selection, index, place), *item.delta, item.breaks)
            for place, (row, item) in enumerate(zip(selection.rows[index], weighed[index], strict=True))
        )
        regions[region.name] = Weighed(selection.rows[index][found.choice[index]].name, considered)
    cost = found.cost
    return Decision(
        minimise=budget.minimise, limits={str(name): limit for name, limit in found.limits.items()}, loss=cost.loss, weight_bits=cost.size / max(selection.weights, 1),
        size_bytes=(cost.size + selection.fixed_bits) / 8, latency=cost.latency, bound=found.bound, optimal=found.optimal,
        binding=found.binding, regions=regions, measure=sensitivity.measure,
    )  # fmt: skip


def _own_loss(selection: RowSelection, region: int, option: int) -> float:
    """The loss of what a row reads, whoever else reads it too."""
    forms = selection.problem.forms
    return math.fsum(forms[number].cost.loss for number in selection.problem.regions[region][option].reads)


def _infeasible(selection: RowSelection, error: InfeasibleBudgetError, budget: Budget) -> str:
    names = [selection.regions[index].name for index in _heaviest(selection, error.best, error.limit)]
    most = f" Most of it is due to {', '.join(names)}." if names else ""
    if error.limit == "size" and budget.weight_bits is not None:
        least = error.tightest / max(selection.weights, 1)
        if error.asked == math.floor(budget.weight_bits * selection.weights):
            return f"--weight-bits {budget.weight_bits:g} cannot be met: the least that the target's rows allow is {least:.4g} bits per weight.{most}"
    if error.limit == "size":
        least = math.ceil((error.tightest + selection.fixed_bits) / 8)
        return (
            f"--max-size {budget.size:g} cannot be met: the least that the target's rows allow is {least} bytes, of which "
            f"{selection.fixed_bits // 8} are biases, scales and other constants.{most}"
        )
    if error.limit == "latency":
        return f"--max-latency cannot be met: the least that the target's rows allow is {error.tightest * 1e3:.4g} ms by its cost model.{most}"
    return f"A predicted loss of {error.asked:.4g} cannot be met: the least that the target's rows allow is {error.tightest:.4g}.{most}"


def _heaviest(selection: RowSelection, best: Selection, limit: Quantity) -> list[int]:
    """The regions that make up most of a quantity, largest share first, at most five."""
    forms = selection.problem.forms
    shares = []
    for options, index in zip(selection.problem.regions, best.choice, strict=True):
        option = options[index]
        shares.append(
            getattr(option.cost, limit)
            + math.fsum(getattr(forms[number].cost, limit) for number in option.reads)
        )
    order = sorted(range(len(shares)), key=lambda index: (-shares[index], index))
    return [index for index in order[:5] if shares[index] > 0.05 * math.fsum(shares)]


def chosen_rows(selection: RowSelection, decision: Decision) -> Mapping[str, Row]:
    """Region name to its chosen row."""
    rows = {}
    for region, choices in zip(selection.regions, selection.rows, strict=True):
        name = decision.regions[region.name].row
        rows[region.name] = next(row for row in choices if row.name == name)
    return rows
