"""Checks that a plan given by the user fits this graph and target."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from qcompiler.assignment import Demand, demands
from qcompiler.errors import PlanError, suggest
from qcompiler.groups import Definition, Point, tied_points, unfit
from qcompiler.ir.node import Use
from qcompiler.ir.text import shape_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qcompiler.assignment import Problem
    from qcompiler.ir.node import Node, Value
    from qcompiler.ir.plan import Plan, PlannedGroup, PlannedRegion
    from qcompiler.regions import Region
    from qcompiler.target import EncodingSpec, Row

_TOLERANCE = 1e-5  # of derived scales: a product in float32 may be rounded once more


def check_plan(problem: Problem, plan: Plan) -> None:
    """Checks target, regions, rows, uses and encodings.

    Raises:
        PlanError: The plan is for another model or target, or asks for what the target forbids; names row and rule.
    """
    target = problem.target
    if (plan.target, plan.device) != (target.name, target.chosen_device):
        given = f"{plan.target}:{plan.device}" if plan.device else plan.target
        raise PlanError(
            f"The plan is for the target {given}, not for {target.label}; compile for that one, or make a new plan."
        )
    if plan.float_format not in target.float_formats:
        raise PlanError(
            f"The plan keeps floats as {plan.float_format!r}, but {target.label} keeps them as {' or '.join(target.float_formats)}."
        )
    _Checker(problem, _choice(problem, plan)).check(plan)


def _choice(problem: Problem, plan: Plan) -> dict[str, Row | None]:
    """The row of each region, after checking that they are this model's regions and may run as those rows."""
    regions = {region.name: region for region in problem.regions}
    planned = {entry.name: entry for entry in plan.regions}
    foreign = [name for name in planned if name not in regions]
    absent = [name for name in regions if name not in planned]
    if foreign or absent:
        name = (foreign or absent)[0]
        which = (
            f"names the region {name!r}, which this model does not have"
            if foreign
            else f"says nothing of the region {name!r}"
        )
        raise PlanError(
            f"The plan {which} ({len(foreign)} foreign and {len(absent)} missing of {len(regions)} regions): it was made for another model, "
            f"or the model changed since{suggest(name, regions) if foreign else '.'}"
        )
    return {region.name: _planned_row(problem, region, planned[region.name]) for region in problem.regions}


def _planned_row(problem: Problem, region: Region, entry: PlannedRegion) -> Row | None:
    kernel = region.kernel.name if region.kernel is not None else ""
    if entry.kernel != kernel or entry.nodes != tuple(node.name for node in region.nodes):
        raise PlanError(
            f"The plan gives {region.name} the kernel {entry.kernel!r} on {', '.join(entry.nodes)}, but here it is {kernel or 'none'!r} on "
            f"{', '.join(node.name for node in region.nodes)}: the model's structure changed since the plan was made."
        )
    if not entry.row:
        return None
    verdicts = {verdict.row.name: verdict for verdict in problem.verdicts[region.name]}
    if entry.row not in verdicts:
        raise PlanError(
            f"The plan gives {region.name} the row {entry.row!r}, which kernel {kernel} does not have{suggest(entry.row, verdicts)}"
        )
    verdict = verdicts[entry.row]
    if not verdict.legal:
        raise PlanError(
            f"The plan gives {region.name} the row {entry.row!r} of kernel {kernel}, which is not legal there: {verdict.reason}."
        )
    return verdict.row


class _Checker:
    """Holds the groups of a plan against what its rows ask for."""

    def __init__(self, problem: Problem, choice: Mapping[str, Row | None]) -> None:
        self.problem = problem
        self.choice = choice
        self.demands = demands(problem, choice)
        self.region_of = {node.name: region for region in problem.regions for node in region.nodes}
        self.nodes = {node.name: node for region in problem.regions for node in region.nodes}

    def check(self, plan: Plan) -> None:
        """Raises a PlanError about the first group or use that does not fit."""
        group_of: dict[Point, PlannedGroup] = {}
        for group in plan.groups:
            for use, demand in self._uses(group):
                self._check_use(group, use, demand)
                if use in group_of:
                    raise PlanError(
                        f"The plan has {self._place(use)} in two groups, {group_of[use].name!r} and {group.name!r}; a use reads one encoding."
                    )
                group_of[use] = group
            for value in self._stored(group):
                group_of[Definition(value)] = group
        for use in self.demands:
            if use not in group_of:
                raise PlanError(
                    f"{self._rule(use)}, but no group of the plan has {self._place(use)} among its uses."
                )
        for region in self.problem.regions:
            self._check_tied(region, group_of)
        for use, demand in self.demands.items():
            if demand.spec.derived:
                self._check_derived(use, demand, group_of)

    def _uses(self, group: PlannedGroup) -> list[tuple[Use, Demand]]:
        found = []
        for point in group.uses:
            node = self.nodes.get(point.node)
            value = node.input(point.slot) if node is not None else None
            if node is None or value is None or value.name != point.value:
                raise PlanError(
                    f"The plan's group {group.name!r} names input {point.slot} of {point.node!r} as {point.value!r}; "
                    "this model has no such use."
                )
            use = Use(node, point.slot)
            if use not in self.demands:
                raise PlanError(
                    f"The plan's group {group.name!r} quantizes {self._place(use)}, but {self._row_of(node)} takes a float there."
                )
            found.append((use, self.demands[use]))
        return found

    def _stored(self, group: PlannedGroup) -> list[Value]:
        """The values whose definition is in a group, after checking that who computes them can write it."""
        values = {value.name: value for value in self.problem.graph.values}
        for name in group.stored:
            if name not in values:
                raise PlanError(
                    f"The plan's group {group.name!r} stores the value {name!r}, which this model does not have."
                )
            producer = values[name].producer
            row = self.choice.get(self.region_of[producer.name].name) if producer is not None else None
            specs = self.problem.target.output_specs(row) if row is not None else ()
            if specs and producer is not None and all(_unfit(group, spec, None) for spec in specs):
                raise PlanError(
                    f"The plan's group {group.name!r} stores {name!r} as {group.encoding}, but {self._row_of(producer)} writes "
                    f"{' or '.join(map(str, specs))}."
                )
        return [values[name] for name in group.stored]

    def _check_use(self, group: PlannedGroup, use: Use, demand: Demand) -> None:
        reason = _unfit(group, demand.spec, demand.axis)
        if reason is not None:
            raise PlanError(
                f"The plan's group {group.name!r} is {group.encoding}, but {self._rule(use)}: {reason}."
            )
        value = use.node.inputs[use.slot]
        encoding = group.encoding
        parameter = encoding.scale if encoding.group is None else encoding.table
        if value is None or value.shape is None or parameter is None or encoding.axis is None:
            return
        size, each = int(value.shape[encoding.axis] or 0), encoding.block or encoding.group or 1
        if parameter.shape[encoding.axis if encoding.block else 0] != -(-size // each):
            what = "scales" if encoding.group is None else f"tables for {encoding.group} channels each,"
            raise PlanError(
                f"The plan's group {group.name!r} has {what} of shape {list(parameter.shape)} for axis {encoding.axis}, but "
                f"{value.name!r} is {shape_text(value.shape)}: the plan was made for another model."
            )

    def _check_tied(self, region: Region, group_of: Mapping[Point, PlannedGroup]) -> None:
        row = self.choice[region.name]
        points = tied_points(region, row) if row is not None else []
        found = {id(group_of[point]): group_of[point].name for point in points if point in group_of}
        if len(found) > 1 and row is not None:
            raise PlanError(
                f"The plan has {' and '.join(map(repr, found.values()))} as different groups, but the row {row.name!r} of {region.name!r} "
                f"has one encoding for {', '.join(row.same)}."
            )

    def _check_derived(self, use: Use, demand: Demand, group_of: Mapping[Point, PlannedGroup]) -> None:
        uses = [demand.region.uses[name][0] for name in demand.spec.derived]
        factors = [np.asarray(group_of[factor].encoding.scale) for factor in uses]
        product = np.prod(np.broadcast_arrays(*factors), axis=0)
        scale = np.asarray(group_of[use].encoding.scale)
        if not np.allclose(scale, np.resize(product, scale.shape), rtol=_TOLERANCE, atol=1e-37):
            raise PlanError(
                f"The plan's group {group_of[use].name!r} has another scale than {' x '.join(demand.spec.derived)}, "
                f"but {self._rule(use)}, which is derived from them."
            )

    def _place(self, use: Use) -> str:
        return f"input {use.slot} of {use.node.name!r}"

    def _row_of(self, node: Node) -> str:
        region = self.region_of[node.name]
        row = self.choice[region.name]
        return (
            f"the row {row.name!r} planned for {region.name!r}"
            if row is not None
            else f"{region.name!r}, planned as float,"
        )

    def _rule(self, use: Use) -> str:
        demand = self.demands[use]
        row = self.choice[demand.region.name]
        name = row.name if row is not None else ""
        return f"the row {name!r} of {demand.region.name!r} takes {demand.spec} at operand {demand.operand}"


def _unfit(group: PlannedGroup, spec: EncodingSpec, axis: int | None) -> str | None:
    if group.offset != spec.offset:
        return f"its offset is kept in the {group.offset}, not in the {spec.offset}"
    return unfit(group.encoding, spec, axis)
