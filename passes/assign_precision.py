"""assign_precision: every region gets a kernel row, every group an encoding; the plan records both with the reasons."""

from __future__ import annotations

import dataclasses
import fnmatch
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import networkx as nx

from qcompiler.assignment import Choice, Problem, demands, use_value
from qcompiler.costs import CostModel
from qcompiler.decision import DECISION, Decision, refused_reasons, weighed_reason
from qcompiler.errors import OptionError, suggest
from qcompiler.groups import make_groups
from qcompiler.imported import Imported
from qcompiler.ir.plan import PLAN, Plan, PlannedRegion, Refusal
from qcompiler.observed import IMPORTED, RANGES
from qcompiler.pass_manager import Effect, Level, Pass, PassContext, PassResult
from qcompiler.passes._group_encodings import GroupEncoder
from qcompiler.passes._narrow_values import can_narrow, more_narrow, narrowest
from qcompiler.passes._row_selection import chosen_rows, select, state_selection
from qcompiler.plan_check import check_plan
from qcompiler.regions import REGIONS
from qcompiler.sensitivity import SENSITIVITY

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from qcompiler.budget import Budget
    from qcompiler.ir.graph import Graph
    from qcompiler.ir.node import Value
    from qcompiler.regions import Region
    from qcompiler.target import EncodingSpec, Row, Target


_TOO_WIDE = "legal, but memory is short where what it reads or writes is alive"


@dataclass(frozen=True)
class AssignPrecision(Pass):
    """Chooses a row for every region and an encoding for every group, and writes the plan.

    Without a budget the choice is uniform: the best legal quantized row wherever the target computes on it; the rest is left
    float. `prefer` names rows (say `fp8`) that are taken before the descriptor's own preference, the first legal one of them; rows
    of floats among them, such as `w8+float` for quantized weights and nothing else.

    With a budget (`--weight-bits`, `--max-size`, `--max-latency`, `--max-drop`) all legal rows compete, float ones included:
    a mixed-integer program over rows, with what several rows read paid once and conversions paid where a value is read in
    another encoding than it is stored in, is solved to proven optimality for the losses that `sensitivity` measured. `rows`
    restricts it to rows of these names, with wildcards: `*a8`; without a budget it changes nothing. Where no latency is asked for
    and the target states its speed, the result is no slower than the uniform choice, if the other limits allow; where a limit on
    the loss does not (`--max-drop`), as little slower as that takes.

    Either way ops that only pass values on follow their consumers. And where the target's code plans memory and the plan takes more
    than there is, values that are alive where it is short are stored in as few bits as rows allow, the least loss for a byte first,
    until it fits or none is left.
    """

    name = "assign_precision"
    effect = Effect.ANNOTATES
    requires = (REGIONS, RANGES)
    establishes = (PLAN,)

    prefer: tuple[str, ...] = ()
    rows: tuple[str, ...] = ()
    weight_range: Literal["min-max", "mse"] = "mse"

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        """Establishes PLAN: decided here, or the context's plan after checking that it is legal for this graph.

        Raises:
            ModelError: A weight has an element that is not finite.
            OptionError: No row has the preferred name.
            PlanError: The context's plan does not fit.
        """
        assert context.target is not None, "assign_precision needs a target"
        result = PassResult()
        problem = Problem.state(graph, context.target, graph.facts[REGIONS])
        if context.plan is not None:
            check_plan(problem, context.plan)
            plan = context.plan
        else:
            self._check_rows(context.target)
            if self.rows and context.budget is None:
                result.say(
                    Level.WARNING,
                    "",
                    f"rows={'+'.join(self.rows)} changes nothing: it limits what competes under a budget, and there is none; prefer names rows to take",
                )
            plan = self._within_memory(problem, graph, context, result)
        graph.facts[PLAN] = plan
        result.count("quantized regions", sum(region.quantized for region in plan.regions))
        result.count("groups", len(plan.groups))
        return result

    def _check_rows(self, target: Target) -> None:
        names = {row.name for kernel in target.kernel for row in kernel.row}
        for name in self.prefer:
            if name not in names:
                raise OptionError(
                    f"The target {target.name} has no kernel row {name!r} to prefer{suggest(name, names)}"
                )
        for pattern in self.rows:
            if not fnmatch.filter(names, pattern):
                raise OptionError(
                    f"The target {target.name} has no kernel row {pattern!r}{suggest(pattern, names)}"
                )

    def _within_memory(
        self, problem: Problem, graph: Graph, context: PassContext, result: PassResult
    ) -> Plan:
        """Chooses rows, again and again, with values stored in fewer bits where memory is short for what was chosen."""
        narrow: frozenset[str] = frozenset()
        while True:
            said = PassResult()
            if context.budget is None:
                choice = uniform_choice(problem, self.prefer, narrow)
            else:
                choice = self._within_budget(problem, graph, context, context.budget, narrow, said)
            plan = _make_plan(problem, choice, graph, context, self, narrow, said)
            more: frozenset[str] = frozenset()
            if context.crowds is not None and can_narrow(problem, choice):
                crowds = context.crowds(graph, plan)
                more = more_narrow(problem, choice, crowds, narrow, graph.facts.get(SENSITIVITY))
            if not more:
                break
            narrow |= more
        result.diagnostics += said.diagnostics
        if narrow:
            result.count("values kept narrow", len(narrow))
            names = ", ".join(sorted(narrow))
            result.say(Level.INFO, "", f"memory is short; stored in as few bits as rows allow: {names}")
        return plan

    def _within_budget(
        self,
        problem: Problem,
        graph: Graph,
        context: PassContext,
        budget: Budget,
        narrow: frozenset[str],
        result: PassResult,
    ) -> dict[str, Row | None]:
        sensitivity = graph.facts.get(SENSITIVITY)
        if sensitivity is None:
            raise OptionError(
                "A budget needs to know what each precision costs: put the pass `sensitivity` in front of assign_precision in the pipeline."
            )
        costs = CostModel(problem.target, context.float_format)
        if budget.latency is not None or budget.minimise == "latency":
            costs.require()
        selection = state_selection(problem, sensitivity, costs, self.rows, narrow)
        uniform = uniform_choice(problem, self.prefer)
        decision = select(selection, budget, sensitivity, uniform if costs.known else {})
        decision = dataclasses.replace(decision, narrow=len(narrow))
        graph.facts[DECISION] = decision
        if decision.unmet:
            result.say(Level.WARNING, "", decision.unmet)
        result.say(Level.INFO, "", _summary(decision))
        choice: dict[str, Row | None] = {
            region.name: _float_row(problem, region) for region in problem.regions
        }
        choice.update(chosen_rows(selection, decision))
        _follow_consumers(
            problem,
            {
                region.name: _preferred_rows(problem, region, self.prefer, narrow)
                for region in problem.regions
            },
            choice,
        )
        return choice


def _summary(decision: Decision) -> str:
    proof = "proven best" if decision.optimal else f"not proven best: no choice is below {decision.bound:.4g}"
    parts = [
        f"predicted loss {decision.loss:.4g}",
        f"{decision.weight_bits:.4g} bits per weight",
        f"{decision.size_bytes:.0f} bytes",
    ]
    if decision.latency:
        parts.append(f"{decision.latency * 1e3:.4g} ms")
    return f"least {decision.minimise} ({proof}): {', '.join(parts)}"


def uniform_choice(
    problem: Problem, prefer: tuple[str, ...] = (), narrow: Collection[str] = ()
) -> dict[str, Row | None]:
    """The best legal quantized row of every region whose kernel is always quantized, then of those that feed them.

    Regions of kernels that are quantized "when-consumed" follow their consumers, from the graph's end to its start. Values with
    the names `narrow` take as few bits as rows allow.
    """
    rows = {region.name: _preferred_rows(problem, region, prefer, narrow) for region in problem.regions}
    choice: dict[str, Row | None] = {}
    for region in problem.regions:
        always = region.kernel is not None and region.kernel.quantize == "always"
        preferred = rows[region.name] if always else []
        choice[region.name] = preferred[0] if preferred else _float_row(problem, region)
    _agree(problem, rows, choice)
    _follow_consumers(problem, rows, choice)
    return choice


def _follow_consumers(problem: Problem, rows: Mapping[str, list[Row]], choice: dict[str, Row | None]) -> None:
    """Quantizes ops that only pass values on where what reads them asks for an encoding, from the graph's end to its start.

    Of rows that can write what is asked for, one that reads the finest such encoding, too: what is passed on in fewer bits
    than it is read in afterwards has lost them.
    """
    wanted = demands(problem, choice)
    for region in reversed(problem.regions):
        if region.kernel is None or region.kernel.quantize == "always":
            continue
        outputs = [value for value in region.root.outputs if value is not None]
        asked = [wanted[use].spec for value in outputs for use in value.uses if use in wanted]
        fitting = [row for row in rows[region.name] if set(asked) <= set(problem.target.output_specs(row))]
        if asked and fitting and not any(value.is_output for value in outputs):
            finest = max(asked, key=lambda spec: spec.numeric.bits)
            alike = (row for row in fitting if finest in problem.target.row_specs(row).values())
            chosen = next(alike, fitting[0])
            choice[region.name] = chosen
            wanted.update(demands(problem, {region.name: chosen}, [region]))


def _agree(problem: Problem, rows: dict[str, list[Row]], choice: dict[str, Row | None]) -> None:
    """Where the uses of a value want different encodings, moves their regions to rows that want the same, if there are.

    Values that an op merely passes on count as one: its readers' wishes become the wishes for what it reads. A region moves
    once, so that two values cannot pull it to and fro.
    """
    wanted = demands(problem, choice)
    alike = _alike(problem, rows)
    settled: set[str] = set()
    waiting = deque(dict.fromkeys(use_value(use) for use in wanted if not use_value(use).is_constant))
    while waiting:
        values = alike(waiting.popleft())
        asked = [wanted[use] for value in values for use in value.uses if use in wanted]
        specs = list(dict.fromkeys(demand.spec for demand in asked))
        for spec in reversed(specs) if len(specs) > 1 else ():
            readers = {demand.region.name: demand.region for demand in asked}
            moved = {
                name: _row_asking(problem, [choice[name], *rows[name]], region, values, spec)
                for name, region in readers.items()
            }
            changed = [name for name, row in moved.items() if row is not choice[name]]
            if None in moved.values() or settled.intersection(changed):
                continue
            for name in changed:
                choice[name] = moved[name]
                uses = [use for item in readers[name].uses.values() for use in item]
                for use in uses:
                    wanted.pop(use, None)
                    waiting.append(use_value(use))
                wanted.update(demands(problem, choice, [readers[name]]))
            settled.update(changed)
            break


def _alike(problem: Problem, rows: dict[str, list[Row]]) -> Callable[[Value], list[Value]]:
    """A function from a value to all values that pass-through regions tie to it, itself included."""
    sets: nx.utils.UnionFind = nx.utils.UnionFind()
    members: dict[Value, list[Value]] = {}
    for region in problem.regions:
        tied = [row for row in rows[region.name] if "output" in row.same]
        if region.kernel is None or region.kernel.quantize == "always" or not tied:
            continue
        read = [use_value(use) for name in tied[0].same for use in region.uses.get(name, ())]
        sets.union(*read, *(value for value in region.root.outputs if value is not None))
    for group in sets.to_sets():
        members.update(dict.fromkeys(group, sorted(group, key=lambda value: value.name)))
    return lambda value: members.get(value, [value])


def _row_asking(
    problem: Problem, rows: Iterable[Row | None], region: Region, values: Sequence[Value], spec: EncodingSpec
) -> Row | None:
    """The first of a region's rows that wants values in one encoding at every operand where it reads one of them."""
    operands = [name for name, uses in region.uses.items() if any(use_value(use) in values for use in uses)]
    for row in rows:
        if row is not None and all(problem.target.row_specs(row).get(name) == spec for name in operands):
            return row
    return None


def _preferred_rows(
    problem: Problem, region: Region, prefer: Sequence[str], narrow: Collection[str] = ()
) -> list[Row]:
    """The legal rows that are quantized, or asked for, and narrow enough: those asked for first, in that order, then as described."""
    place = {name: index for index, name in enumerate(prefer)}
    legal = [
        row for row in problem.legal_rows(region) if problem.target.is_quantized(row) or row.name in place
    ]
    legal = narrowest(problem, region, legal, narrow)
    return sorted(legal, key=lambda row: place.get(row.name, len(place)))


def _float_row(problem: Problem, region: Region) -> Row | None:
    return next((row for row in problem.legal_rows(region) if not problem.target.is_quantized(row)), None)


# -- the plan --------------------------------------------------------------------------------------------------


def _make_plan(
    problem: Problem,
    choice: Choice,
    graph: Graph,
    context: PassContext,
    options: AssignPrecision,
    narrow: Collection[str],
    result: PassResult,
) -> Plan:
    imported = Imported(graph, graph.facts.get(IMPORTED) or {})
    encoder = GroupEncoder(problem, graph.facts[RANGES], imported, options.weight_range)
    groups = encoder.encode(make_groups(problem, choice))
    decision = graph.facts.get(DECISION)
    regions = tuple(
        _planned(problem, region, choice[region.name], decision, narrow) for region in problem.regions
    )
    notes = imported.notes(regions)
    for note in notes:
        result.say(Level.INFO, "", note)
    return Plan(
        target=problem.target.name,
        device=problem.target.chosen_device,
        float_format=context.float_format,
        regions=regions,
        groups=tuple(groups),
        notes=tuple(notes),
    )


def _planned(
    problem: Problem, region: Region, row: Row | None, decision: Decision | None, narrow: Collection[str]
) -> PlannedRegion:
    weighed = decision.regions.get(region.name) if decision is not None else None
    reason, refused = _reason(problem, region, row), problem.refusals(region, row)
    legal = problem.legal_rows(region)
    wide = {item.name for item in legal} - {item.name for item in narrowest(problem, region, legal, narrow)}
    refused = tuple(Refusal(item.row, _TOO_WIDE) if item.row in wide else item for item in refused)
    if decision is not None and weighed is not None:
        reason = weighed_reason(decision, weighed)
        told = refused_reasons(decision, weighed)
        refused = tuple(Refusal(item.row, told.get(item.row, item.reason)) for item in refused)
    return PlannedRegion(
        region.name,
        tuple(node.name for node in region.nodes),
        region.kernel.name if region.kernel is not None else "",
        row.name if row is not None else "",
        row is not None and problem.target.is_quantized(row),
        reason,
        refused,
    )


def _reason(problem: Problem, region: Region, row: Row | None) -> str:
    target = problem.target.label
    op = region.nodes[0].op
    if region.kernel is None:
        near = region.refused[0] if region.refused else None
        return (
            f"float: {near[1]} (kernel {near[0]} of {target})"
            if near
            else f"float: no kernel of {target} covers {op}"
        )
    if row is not None and problem.target.is_quantized(row):
        return f"{row.name}: the preferred legal row of kernel {region.kernel.name}"
    verdicts = [item for item in problem.verdicts[region.name] if problem.target.is_quantized(item.row)]
    quantized = [item.row for item in verdicts if item.legal]
    refused = [item for item in verdicts if not item.legal]
    if row is not None and quantized and region.kernel.quantize == "always":
        return f"float: row {row.name} of kernel {region.kernel.name}, which was asked for in place of {quantized[0].name}"
    if quantized:
        return f"float: kernel {region.kernel.name} is quantized only where a consumer of its result asks for an encoding it has, and none does"
    if refused:
        return f"float: row {refused[0].row.name} of kernel {region.kernel.name} is not legal: {refused[0].reason}"
    note = f": {region.kernel.note}" if region.kernel.note else ""
    return f"float: kernel {region.kernel.name} has no quantized row{note}"
