"""Precision assignment under budgets: regions and forms as a selection problem, and the answer in words."""

from __future__ import annotations

import dataclasses
import fnmatch
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from qcompiler import ops
from qcompiler.assignment import demands, outputs_of, use_value
from qcompiler.costs import CostModel, code_bits, elements, in_bytes, own_bits, parameter_bits
from qcompiler.decision import Considered, Decision, Weighed
from qcompiler.forms import Form, row_forms, written_forms
from qcompiler.passes._narrow_values import narrowest
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
    from qcompiler.target import Row, Stored


_LOST = 1e6
"""What stands for an infinite loss: of a row that is chosen only where there is no other."""
_AS_FAST = 1e-6  # relative; the solver keeps limits to about as much


@dataclass(frozen=True)
class RowSelection:
    """The regions that have a choice, with their rows, as a selection problem.

    Attributes:
        regions: In graph order.
        rows: Their rows, as the problem's options.
        problem: The abstract problem. Its size is what the artifact stores because of the choice: codes, floats, scales, zero
            points, the biases that layers are given, and what rows bring along (`Row.stored`).
        codes: The same problem with the size of the weights of weighted nodes alone: what `--weight-bits` is about, see `own_bits`.
        weights: How many weights there are.
        float_bits: Bits of those that no row quantizes, which `codes` leaves out.
        fixed_bits: Bits of all constants that `problem` leaves out.
    """

    regions: tuple[Region, ...]
    rows: tuple[tuple[Row, ...], ...]
    problem: SelectionProblem
    codes: SelectionProblem
    weights: int
    float_bits: int
    fixed_bits: int

    def stated(self, budget: Budget) -> SelectionProblem:
        """The problem whose size is the one that a budget limits: weights alone where it limits their average."""
        return self.problem if budget.weight_bits is None else self.codes

    def limits(self, budget: Budget) -> dict[Quantity, float]:
        """A budget as limits of the problem that is stated for it."""
        sizes = []
        if budget.weight_bits is not None:
            sizes.append(self._most_codes(budget.weight_bits))
        if budget.size is not None:
            sizes.append(math.floor(budget.size * 8) - self.least_beside(budget))
        found: dict[Quantity, float] = {}
        if budget.loss is not None:  # first: what cannot be kept is blamed on limits in this order
            found["loss"] = budget.loss
        if sizes:
            found["size"] = min(sizes)
        if budget.latency is not None:
            found["latency"] = budget.latency
        return found

    def _most_codes(self, weight_bits: float) -> int:
        return math.floor(weight_bits * self.weights) - self.float_bits

    def is_for_average(self, budget: Budget, limit: float) -> bool:
        """Whether a limit on size stems from `weight_bits`."""
        return budget.weight_bits is not None and limit == self._most_codes(budget.weight_bits)

    def least_beside(self, budget: Budget) -> int:
        """Bits of all that the stated problem leaves out; where it is about weights alone, no choice has more than this."""
        if budget.weight_bits is None:
            return self.fixed_bits
        beside = 0.0
        for whole, codes in zip(self.problem.regions, self.codes.regions, strict=True):
            beside += max(
                _size(self.problem, option) - _size(self.codes, same)
                for option, same in zip(whole, codes, strict=True)
            )
        return self.fixed_bits + math.ceil(beside)

    def bits_per_weight(self, size: float) -> float:
        """The average over all weights, from a size of the problem `codes`."""
        return (size + self.float_bits) / max(self.weights, 1)

    def latency_of(self, choice: Mapping[str, Row | None]) -> float:
        """The latency of a choice of rows; of a row that has no part in the problem, that of the region's first."""
        indices = []
        for region, rows in zip(self.regions, self.rows, strict=True):
            chosen = choice.get(region.name)
            names = [row.name for row in rows]
            indices.append(names.index(chosen.name) if chosen is not None and chosen.name in names else 0)
        return evaluate(self.problem, indices).latency


def _size(problem: SelectionProblem, option: Option) -> float:
    """The size of an option with all that it reads, whoever else reads it too."""
    return option.cost.size + math.fsum(problem.forms[number].cost.size for number in option.reads)


def state_selection(
    problem: Problem,
    sensitivity: Sensitivity,
    costs: CostModel,
    allowed: Sequence[str] = (),
    narrow: Collection[str] = (),
) -> RowSelection:
    """States the selection problem of a graph.

    Args:
        problem: Regions and what is legal.
        sensitivity: What forms lose.
        costs: What rows cost.
        allowed: Patterns of row names (`*a8`) that may be chosen; regions without such a row may have any.
        narrow: Names of values that have to take as few bits as these rows allow.
    """
    regions, rows = [], []
    for region in problem.regions:
        choices = _choices(problem, region, sensitivity, allowed, narrow)
        if choices:
            regions.append(region)
            rows.append(choices)
    weights = _weights(problem)
    numbering = _Numbering(sensitivity, costs, weights)
    options = [
        [_option(problem, region, row, costs, numbering) for row in choices]
        for region, choices in zip(regions, rows, strict=True)
    ]
    numbering.index()
    stated = tuple(
        tuple(
            dataclasses.replace(option, writes=numbering.written(problem, region, row))
            for option, row in zip(mine, choices, strict=True)
        )
        for mine, choices, region in zip(options, rows, regions, strict=True)
    )
    free = tuple(
        tuple(dataclasses.replace(option, cost=option.cost._replace(size=0.0)) for option in mine)
        for mine in stated
    )
    rest = [value for value in problem.graph.constants if value not in numbering.constants]
    return RowSelection(
        tuple(regions), tuple(rows),
        SelectionProblem(stated, tuple(numbering.forms)), SelectionProblem(free, tuple(numbering.codes)),
        sum(map(elements, weights)), sum(_bits(value) for value in rest if value in weights),
        sum(map(_bits, rest)) + _followers(problem),
    )  # fmt: skip


def _choices(
    problem: Problem,
    region: Region,
    sensitivity: Sensitivity,
    allowed: Sequence[str],
    narrow: Collection[str],
) -> tuple[Row, ...]:
    """The rows among which a region has the choice: those that are allowed and narrow, and of these those that leave numbers."""
    if region.kernel is None or region.kernel.quantize != "always":
        return ()
    legal = problem.legal_rows(region)
    wanted = [row for row in legal if any(fnmatch.fnmatchcase(row.name, item) for item in allowed)] or legal
    wanted = narrowest(problem, region, wanted, narrow)
    sound = [
        row
        for row in wanted
        if all(math.isfinite(sensitivity.of(form).mean) for form in _rounded(problem, region, row))
    ]
    return tuple(sound or wanted)


def _rounded(problem: Problem, region: Region, row: Row) -> dict[Form, None]:
    """The forms that values are rounded to because of a row: those that it reads, and what it cannot but write."""
    return dict.fromkeys((*row_forms(problem, region, row), *written_forms(problem, region, row)))


def _weights(problem: Problem) -> dict[Value, None]:
    """The constant weights of weighted nodes, each once, in graph order."""
    found: dict[Value, None] = {}
    for node in problem.graph.topological():
        value = node.input(1) if ops.info(node).kind == "weighted" else None
        if value is not None and value.is_constant:
            found[value] = None
    return found


def _bits(value: Value) -> int:
    return value.data.nbytes * 8 if value.data is not None else 0


def _option(problem: Problem, region: Region, row: Row, costs: CostModel, numbering: _Numbering) -> Option:
    forms = _rounded(problem, region, row)
    reads = [numbering.number(form) for form in forms]
    quantized = {form.value for form in forms}
    for uses in region.uses.values():
        for use in uses:
            value = use_value(use)
            if value.is_constant and value not in quantized and _has_form(problem, region, value):
                reads.append(numbering.float_number(value))
    made = _made(problem, region, row, costs.stored(region, row))
    cost = Cost(0.0, made, costs.region(region, row))
    return Option(cost, tuple(dict.fromkeys(reads)), (), row.name)


def _has_form(problem: Problem, region: Region, value: Value) -> bool:
    """Whether some row of the region could quantize a constant: others are no part of the choice."""
    return any(
        form.value is value for row in problem.legal_rows(region) for form in row_forms(problem, region, row)
    )


def _made(problem: Problem, region: Region, row: Row, stored: Stored) -> int:
    """Bits that a row brings along besides its forms: scales of derived encodings, biases of the layers' own, and what it stores.

    Layers with encoded weights are given biases that make up for the rounding; a bias that others read is copied. Artifacts of another
    form than ONNX have biases of zeros where a layer has none.
    """
    wanted = demands(problem, {region.name: row}, [region])
    derives = any(demand.spec.derived for demand in wanted.values())
    scale_bytes, bits = problem.target.scale_bytes, 8 * stored.whole
    for use, demand in wanted.items():
        value, info = use_value(use), ops.info(use.node)
        if demand.spec.derived:
            factors = [problem.target.row_specs(row)[name] for name in demand.spec.derived]
            single = all(factor.granularity == "per-tensor" for factor in factors)
            scales = 1 if single else elements(value)
            bits += parameter_bits(Form(value, demand.spec, None), scale_bytes) * scales
        if info.role(use.slot) != "weight" or value.data is None:
            continue
        takes_bias = ops.takes_bias(use.node)
        bias = use.node.input(2) if takes_bias else None
        shared = bias is not None and bias.is_constant and len(bias.uses) > 1
        given = bias is None and not derives and (takes_bias or scale_bytes is not None)
        each = 8 * stored.channel + 32 * (shared or given)
        if each:
            bits += each * ops.channel_sums(use.node, np.broadcast_to(np.float32(0), value.data.shape)).size
    return bits


def _followers(problem: Problem) -> int:
    """Bits of scales and zero points of regions that follow their consumers: at most, since nobody knows yet which do."""
    bits = 0
    for region in problem.regions:
        if region.kernel is None or region.kernel.quantize == "always":
            continue
        listed = [
            sum(parameter_bits(form, problem.target.scale_bytes) for form in row_forms(problem, region, row))
            for row in problem.legal_rows(region)
        ]
        bits += max(listed, default=0)
    return bits


class _Numbering:
    """Forms get numbers as rows turn out to read them."""

    def __init__(self, sensitivity: Sensitivity, costs: CostModel, weights: Mapping[Value, None]) -> None:
        self.sensitivity, self.costs, self.weights = sensitivity, costs, weights
        self.forms: list[SharedForm] = []
        self.codes: list[SharedForm] = []  # the same with the size of weights alone
        self.constants: set[Value] = set()
        self._numbers: dict[Form, int] = {}
        self._floats: dict[Value, int] = {}
        self._values: dict[Value, int] = {}
        self._of_value: dict[Value, list[Form]] = {}

    def number(self, form: Form) -> int:
        """The number of a form."""
        if form not in self._numbers:
            value, constant = form.value, form.value.is_constant
            conversion = Cost(0.0, 0.0, self.costs.conversion(value, form.spec)) if not constant else FREE
            self._numbers[form] = self._add(
                value, min(self.sensitivity.of(form).mean, _LOST), code_bits(value, form.spec) if constant else 0,
                parameter_bits(form, self.costs.target.scale_bytes), conversion,
                own_bits(form, self.costs.target.scale_bytes) if constant else 0,
            )  # fmt: skip
        return self._numbers[form]

    def float_number(self, value: Value) -> int:
        """The number of a constant that is left float."""
        if value not in self._floats:
            bits = elements(value) * self.costs.float_bits
            self._floats[value] = self._add(value, 0.0, bits, 0, FREE, bits)
        return self._floats[value]

    def _add(self, value: Value, loss: float, bits: int, parameters: int, conversion: Cost, own: int) -> int:
        number = self._values.setdefault(value, len(self._values))
        if value.is_constant:
            self.constants.add(value)
        size = in_bytes(bits) + parameters
        self.forms.append(SharedForm(number, Cost(loss, size, 0.0), conversion))
        self.codes.append(
            SharedForm(number, Cost(loss, own if value in self.weights else 0, 0.0), conversion)
        )
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


def select(
    selection: RowSelection, budget: Budget, sensitivity: Sensitivity, uniform: Mapping[str, Row | None]
) -> Decision:
    """The best rows within a budget, with what the others would have cost; where no rows keep it, those that come nearest.

    Where the budget says nothing of latency, it is held to that of `uniform`; to as little more as a limit on the loss asks for,
    where there is one; and to nothing where other limits leave no such choice.
    """
    for part in _parts(budget):
        decision = _selected(selection, part, sensitivity, uniform)
        if decision.keeps_limits and not _keeps(decision, budget):
            continue
        return decision
    return decision


def _parts(budget: Budget) -> list[Budget]:
    """Budgets to try, one after the other, until what is best within one is within the budget itself.

    A problem has one size. So of two limits on sizes, either one is the only one that matters, or both are put to the size of
    the weights, with as much for all else as any choice may need.
    """
    if budget.weight_bits is None or budget.size is None:
        return [budget]
    return [dataclasses.replace(budget, weight_bits=None), dataclasses.replace(budget, size=None), budget]


def _keeps(decision: Decision, budget: Budget) -> bool:
    average = budget.weight_bits is None or decision.weight_bits <= budget.weight_bits
    return average and (budget.size is None or decision.size_bytes <= budget.size)


def _selected(
    selection: RowSelection, budget: Budget, sensitivity: Sensitivity, uniform: Mapping[str, Row | None]
) -> Decision:
    problem, limits = selection.stated(budget), selection.limits(budget)
    implied = budget.latency is None and budget.minimise != "latency" and bool(uniform)
    held = dict(limits)
    if implied:
        held["latency"] = selection.latency_of(uniform)
        try:
            return _decision(selection, solve(problem, budget.minimise, held), budget, sensitivity)
        except InfeasibleBudgetError:
            del held["latency"]
    try:
        slower = implied and budget.loss is not None
        if slower:
            held["latency"] = solve(problem, "latency", limits).cost.latency * (1 + _AS_FAST)
        found = _decision(selection, solve(problem, budget.minimise, held), budget, sensitivity)
        return dataclasses.replace(found, slower=slower)
    except InfeasibleBudgetError as error:
        blamed = _blamed(selection, budget, limits, error)
        nearest = _decision(selection, blamed.best, budget, sensitivity)
        return dataclasses.replace(nearest, unmet=_infeasible(selection, blamed, budget), missed=blamed.limit)


def _blamed(
    selection: RowSelection, budget: Budget, limits: Mapping[Quantity, float], error: InfeasibleBudgetError
) -> InfeasibleBudgetError:
    """What is said of limits that cannot be kept: of the user's without the one on loss, if they cannot be kept either."""
    if "loss" not in limits:
        return error
    stated: dict[Quantity, float] = {name: limit for name, limit in limits.items() if name != "loss"}
    try:
        solve(selection.stated(budget), budget.minimise, stated)
    except InfeasibleBudgetError as without:
        return without
    return error


def _decision(
    selection: RowSelection, found: Selection, budget: Budget, sensitivity: Sensitivity
) -> Decision:
    weighed = alternatives(selection.stated(budget), found)
    regions = {}
    for index, region in enumerate(selection.regions):
        considered = tuple(
            Considered(row.name, _own_loss(selection, index, place), *item.delta, item.breaks)
            for place, (row, item) in enumerate(zip(selection.rows[index], weighed[index], strict=True))
        )
        regions[region.name] = Weighed(selection.rows[index][found.choice[index]].name, considered)
    cost = evaluate(selection.problem, found.choice)
    beside = selection.fixed_bits if budget.weight_bits is None else selection.float_bits
    limits = {str(name): limit + beside * (name == "size") for name, limit in found.limits.items()}
    return Decision(
        minimise=budget.minimise, limits=limits, loss=cost.loss,
        weight_bits=selection.bits_per_weight(evaluate(selection.codes, found.choice).size),
        size_bytes=(cost.size + selection.fixed_bits) / 8, latency=cost.latency,
        bound=found.bound + beside * (budget.minimise == "size"), optimal=found.optimal,
        binding=found.binding, regions=regions, measure=sensitivity.measure,
        sized="constants" if budget.weight_bits is None else "weights",
    )  # fmt: skip


def _own_loss(selection: RowSelection, region: int, option: int) -> float:
    """The loss of what a row reads and cannot but write, whoever else reads it too."""
    forms = selection.problem.forms
    return math.fsum(forms[number].cost.loss for number in selection.problem.regions[region][option].reads)


def _infeasible(selection: RowSelection, error: InfeasibleBudgetError, budget: Budget) -> str:
    problem = selection.stated(budget)
    names = [selection.regions[index].name for index in _heaviest(problem, error.best, error.limit)]
    most = f" Most of it is due to {', '.join(names)}." if names else ""
    size_option = "--max-size" if budget.code is None else "--max-flash"
    options = {"size": size_option, "latency": "--max-latency"}
    others = " and ".join(
        option for name, option in options.items() if name in error.kept and (name != "size" or budget.size)
    )
    kept = f" with {others} kept" if others else ""
    if error.limit == "size" and selection.is_for_average(budget, error.asked):
        least = selection.bits_per_weight(error.tightest)
        return (
            f"--weight-bits {budget.weight_bits:g} cannot be met: the least that the target's rows allow{kept} is {_up(least)} bits per "
            f"weight.{most}"
        )
    if error.limit == "size":
        beside = selection.least_beside(budget)
        weights = evaluate(selection.codes, error.best.choice).size + selection.float_bits
        total, code = error.tightest + beside, budget.code or 0
        assert budget.size is not None
        return (
            f"{size_option} {budget.size + code:.12g} cannot be met: the least that the target's rows allow{kept} is "
            f"{math.ceil(total / 8) + code} bytes, of which {f'{code} are code and ' if code else ''}"
            f"{math.floor((total - weights) / 8)} are biases, scales and other constants.{most}"
        )
    if error.limit == "latency":
        asked, least = error.asked * 1e3, error.tightest * 1e3
        return (
            f"--max-latency {asked:g} cannot be met: the least that the target's rows allow{kept} is {_up(least)} ms by its cost model."
            f"{most}"
        )
    return f"A predicted loss of {error.asked:.4g} cannot be met: the least that the target's rows allow{kept} is {error.tightest:.4g}.{most}"


def _up(number: float) -> str:
    """A positive number in four digits, rounded up: what is named as the least can be asked for."""
    places = 3 - math.floor(math.log10(number)) if number > 0 else 0
    step = 10.0**-places
    return f"{math.ceil(number / step * (1 - 1e-12)) * step:.4g}"


def _heaviest(problem: SelectionProblem, best: Selection, limit: Quantity) -> list[int]:
    """The regions that make up most of a quantity, largest share first, at most five."""
    forms = problem.forms
    shares = []
    for options, index in zip(problem.regions, best.choice, strict=True):
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
