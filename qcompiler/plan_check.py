"""Checks that a plan given by the user fits this graph and target."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qcompiler.errors import PlanError, suggest
from qcompiler.ir.text import shape_text

if TYPE_CHECKING:
    from qcompiler.assignment import Problem
    from qcompiler.ir.encoding import Encoding
    from qcompiler.ir.node import Node, Value
    from qcompiler.ir.plan import Plan, PlannedGroup
    from qcompiler.regions import Region


def check_plan(problem: Problem, plan: Plan) -> None:
    """Checks target, regions, rows, uses and encodings.

    Raises:
        PlanError: The plan is for another model or target, or asks for what the target forbids; names row and rule.
    """
    target = problem.target
    if (plan.target, plan.device) != (target.name, target.chosen_device):
        raise PlanError(
            f"The plan is for the target {plan.target}:{plan.device}, not for {target.label}; compile for that one, or make a new plan."
        )
    regions = {region.name: region for region in problem.regions}
    planned = {region.name: region for region in plan.regions}
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
    for region in problem.regions:
        _check_region(problem, region, plan)
    nodes = {node.name: node for region in problem.regions for node in region.nodes}
    wanted = _wanted_formats(problem, plan)
    for group in plan.groups:
        _check_group(problem, group, nodes, wanted)


def _check_region(problem: Problem, region: Region, plan: Plan) -> None:
    entry = next(item for item in plan.regions if item.name == region.name)
    kernel = region.kernel.name if region.kernel is not None else ""
    if entry.kernel != kernel or entry.nodes != tuple(node.name for node in region.nodes):
        raise PlanError(
            f"The plan gives {region.name} the kernel {entry.kernel!r} on {', '.join(entry.nodes)}, but here it is {kernel or 'none'!r} on "
            f"{', '.join(node.name for node in region.nodes)}: the model's structure changed since the plan was made."
        )
    verdicts = {verdict.row.name: verdict for verdict in problem.verdicts[region.name]}
    if not entry.row:
        return
    if entry.row not in verdicts:
        raise PlanError(
            f"The plan gives {region.name} the row {entry.row!r}, which kernel {kernel} does not have{suggest(entry.row, verdicts)}"
        )
    reason = verdicts[entry.row].reason
    if reason is not None:
        raise PlanError(
            f"The plan gives {region.name} the row {entry.row!r} of kernel {kernel}, which is not legal there: {reason}."
        )


def _wanted_formats(problem: Problem, plan: Plan) -> dict[tuple[str, int], tuple[str, str, str]]:
    """(node, slot) to (format, granularity, where it says so), for the uses that the planned rows quantize."""
    wanted: dict[tuple[str, int], tuple[str, str, str]] = {}
    rows = {entry.name: entry.row for entry in plan.regions}
    for region in problem.regions:
        row = next(
            (item for item in (region.kernel.row if region.kernel else ()) if item.name == rows[region.name]),
            None,
        )
        for operand, spec in problem.target.row_specs(row).items() if row is not None else ():
            for use in region.uses.get(operand, ()):
                if spec.is_quantized:
                    wanted[use.node.name, use.slot] = (
                        spec.format,
                        str(spec),
                        f"row {rows[region.name]} of {region.name}, operand {operand}",
                    )
    return wanted


def _check_group(
    problem: Problem,
    group: PlannedGroup,
    nodes: dict[str, Node],
    wanted: dict[tuple[str, int], tuple[str, str, str]],
) -> None:
    for use in group.uses:
        node = nodes.get(use.node)
        value = node.input(use.slot) if node is not None else None
        if value is None or value.name != use.value:
            raise PlanError(
                f"The plan's group {group.name!r} names input {use.slot} of {use.node!r} as {use.value!r}; this model has no such use."
            )
        rule = wanted.get((use.node, use.slot))
        if rule is None:
            raise PlanError(
                f"The plan's group {group.name!r} quantizes input {use.slot} of {use.node!r}, but the row planned for it takes a float there."
            )
        if rule[0] != group.encoding.format.name:
            raise PlanError(
                f"The plan's group {group.name!r} is {group.encoding}, but {rule[2]} takes {rule[1]}."
            )
        if rule[1].find("symmetric") >= 0 and _is_affine(group.encoding):
            raise PlanError(
                f"The plan's group {group.name!r} has a zero point other than the middle, but {rule[2]} takes {rule[1]}."
            )
        _check_shape(group, value)


def _is_affine(encoding: Encoding) -> bool:
    middle = 0 if encoding.format.is_signed else 1 << (encoding.format.bits - 1)
    return encoding.zero_point is not None and bool((encoding.zero_point != middle).any())


def _check_shape(group: PlannedGroup, value: Value) -> None:
    encoding = group.encoding
    if encoding.axis is None or encoding.block is not None or encoding.scale is None or value.shape is None:
        return
    size = value.shape[encoding.axis] if encoding.axis < len(value.shape) else None
    if size != len(encoding.scale):
        raise PlanError(
            f"The plan's group {group.name!r} has {len(encoding.scale)} scales along axis {encoding.axis}, but {value.name!r} is "
            f"{shape_text(value.shape)}: the plan was made for another model."
        )
