"""Precision assignment as instruction selection: every region picks a row of its kernel; rows make groups.

This module states the problem: which rows are legal where, and why others are not; what the rows of a choice ask of the
values that they read. Choosing is the business of the pass `assign_precision`; `qcompiler.groups` makes groups of a choice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from qcompiler import ops
from qcompiler.ir.node import Use, Value
from qcompiler.ir.plan import Refusal
from qcompiler.predicates import refusal
from qcompiler.sources import value_source
from qcompiler.target import EncodingSpec, Row

if TYPE_CHECKING:
    from qcompiler.ir.graph import Graph
    from qcompiler.regions import Region
    from qcompiler.target import Target

Choice = Mapping[str, "Row | None"]
"""Region name to the row it runs as; None for plain float."""


@dataclass(frozen=True)
class Verdict:
    """What the target says of one row for one region: legal, or the reason why not."""

    row: Row
    reason: str | None

    @property
    def legal(self) -> bool:
        """Whether the row may be chosen."""
        return self.reason is None


@dataclass(frozen=True)
class Problem:
    """All regions of a graph with the verdicts on their rows.

    Attributes:
        graph: The graph.
        target: The target.
        regions: Its tiling, in graph order.
        verdicts: Region name to the verdicts on its kernel's rows, in the descriptor's order of preference.
    """

    graph: Graph
    target: Target
    regions: tuple[Region, ...]
    verdicts: Mapping[str, tuple[Verdict, ...]]

    @classmethod
    def state(cls, graph: Graph, target: Target, regions: list[Region]) -> Problem:
        """Judges every row of every region's kernel."""
        return cls(
            graph, target, tuple(regions), {region.name: tuple(_judge(target, region)) for region in regions}
        )

    def legal_rows(self, region: Region) -> list[Row]:
        """The rows that the region may run as, preferred first."""
        return [verdict.row for verdict in self.verdicts[region.name] if verdict.legal]

    def refusals(self, region: Region, chosen: Row | None) -> tuple[Refusal, ...]:
        """Why each other row, and each kernel that nearly applied, was not taken."""
        own = region.kernel.name if region.kernel is not None else ""
        listed = [Refusal(name, reason) for name, reason in region.refused if name != own]
        listed += [
            Refusal(verdict.row.name, verdict.reason or "legal, but not preferred")
            for verdict in self.verdicts[region.name]
            if verdict.row is not chosen
        ]
        return tuple(listed)


def _judge(target: Target, region: Region) -> list[Verdict]:
    if region.kernel is None or region.match is None:
        return []
    return [Verdict(row, _row_refusal(target, region, row)) for row in region.kernel.row]


def _row_refusal(target: Target, region: Region, row: Row) -> str | None:
    assert region.match is not None
    reason = target.device_refusal(row)
    if reason is not None:
        return reason
    reason = refusal(region.match, row.limits)
    if reason is not None:
        return reason
    for operand, spec in target.row_specs(row).items():
        for value in dict.fromkeys(use_value(use) for use in region.uses.get(operand, ())):
            reason = operand_refusal(region, operand, value, spec) if spec.is_quantized else None
            if reason is not None:
                return f"{operand} ({value.name}) {reason}"
    return None


def operand_refusal(region: Region, operand: str, value: Value, spec: EncodingSpec) -> str | None:
    """Why a value cannot be stored as a spec asks at an operand, or None."""
    if value.dtype is not None and value.dtype.kind != "f" and value.dtype.name != "bfloat16":
        return f"holds {value.dtype}, which is not quantized"
    if spec.derived and not value.is_constant:
        return "is computed at run time; a derived scale needs a constant"
    if not spec.numeric.fills_carrier and not value.is_constant:
        return f"is computed at run time; ONNX has no {spec.format} to quantize it to, which is for constants"
    if spec.granularity == "per-tensor" or spec.derived:
        return None
    what = f"{spec.granularity} {'scales' if spec.group is None else 'tables'}"
    if not value.is_constant:
        return f"is computed at run time; {what} need a constant"
    axis = spec_axis(region, operand, spec)
    if axis is None:
        return f"has no axis for {what} in {region.match.anchor.op if region.match else 'this op'}"
    size = value.shape[axis] if value.shape is not None else None
    if spec.block is not None and (not isinstance(size, int) or size % spec.block):
        return f"has {size} elements along axis {axis}, not a multiple of the block {spec.block}"
    if spec.group is not None and (not isinstance(size, int) or size % spec.group):
        return f"has {size} channels along axis {axis}, not a multiple of the {spec.group} that share a table"
    if spec.group is not None and size == spec.group:
        return f"has {size} channels along axis {axis}, which is one group: that is one table for the tensor"
    return None


def spec_axis(region: Region, operand: str, spec: EncodingSpec) -> int | None:
    """The axis of a spec at an operand, from the op table: output channels, or for blocks the axis summed over."""
    if spec.granularity == "per-tensor" or not region.uses.get(operand):
        return None
    use = region.uses[operand][0]
    row = ops.info(use.node)
    return (row.contraction_axis if spec.block is not None else row.channel_axis)(use.node, use.slot)


class Demand(NamedTuple):
    """What a row asks of a use.

    Attributes:
        spec: What the encoding must be like.
        axis: Its channel or block axis.
        region: Whose row.
        operand: The operand's name in the kernel's pattern.
    """

    spec: EncodingSpec
    axis: int | None
    region: Region
    operand: str


def demands(problem: Problem, choice: Choice, regions: Sequence[Region] | None = None) -> dict[Use, Demand]:
    """What the chosen rows ask of the uses they read; float uses are left out. Of all regions, or of those given."""
    wanted: dict[Use, Demand] = {}
    for region in problem.regions if regions is None else regions:
        row = choice.get(region.name)
        if row is None:
            continue
        for operand, spec in problem.target.row_specs(row).items():
            if spec.is_quantized:
                axis = spec_axis(region, operand, spec)
                demand = Demand(spec, axis, region, operand)
                wanted.update(dict.fromkeys(region.uses.get(operand, ()), demand))
    return wanted


def outputs_of(region: Region) -> list[Value]:
    """The values that a region computes for others."""
    return [value for value in region.root.outputs if value is not None]


def observable(problem: Problem) -> list[Value]:
    """The computed values that some legal row could quantize: what calibration has to watch, in graph order."""
    seen: dict[Value, None] = {}
    for region in problem.regions:
        for row in problem.legal_rows(region):
            for operand, spec in problem.target.row_specs(row).items():
                if _has_range(spec) and not spec.derived:
                    seen.update((use_value(use), None) for use in region.uses.get(operand, ()))
            if any(map(_has_range, problem.target.output_specs(row)[:1])):
                seen.update(dict.fromkeys(outputs_of(region)))
    return list(dict.fromkeys(value_source(value) for value in seen if not value.is_constant))


def _has_range(spec: EncodingSpec) -> bool:
    return spec.is_quantized and spec.scale is None


def use_value(use: Use) -> Value:
    """The value that a use reads."""
    inputs, captures = use.node.inputs, use.node.captures
    value = inputs[use.slot] if use.slot < len(inputs) else captures[use.slot - len(inputs)]
    assert value is not None, f"input {use.slot} of {use.node.name} is left out"
    return value
