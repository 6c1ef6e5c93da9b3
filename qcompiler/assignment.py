"""Precision assignment as instruction selection: every region picks a row of its kernel; rows make groups.

This module states the problem (which rows are legal where, and why others are not) and turns a choice of rows into
groups of quant points. Choosing is the business of the pass `assign_precision`; encodings get their numbers there too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import networkx as nx
import numpy as np

from qcompiler import ops
from qcompiler.ir.node import Use, Value
from qcompiler.ir.plan import Refusal
from qcompiler.predicates import refusal
from qcompiler.target import EncodingSpec, Row

if TYPE_CHECKING:
    from qcompiler.ir.encoding import Encoding
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
    if spec.granularity == "per-tensor" or spec.derived:
        return None
    if not value.is_constant:
        return f"is computed at run time; {spec.granularity} scales need a constant"
    axis = spec_axis(region, operand, spec)
    if axis is None:
        return f"has no axis for {spec.granularity} scales in {region.match.anchor.op if region.match else 'this op'}"
    size = value.shape[axis] if value.shape is not None else None
    if spec.block is not None and (not isinstance(size, int) or size % spec.block):
        return f"has {size} elements along axis {axis}, not a multiple of the block {spec.block}"
    return None


def spec_axis(region: Region, operand: str, spec: EncodingSpec) -> int | None:
    """The axis of a spec at an operand, from the op table: output channels, or for blocks the axis summed over."""
    if spec.granularity == "per-tensor" or not region.uses.get(operand):
        return None
    use = region.uses[operand][0]
    row = ops.info(use.node)
    return (row.contraction_axis if spec.block is not None else row.channel_axis)(use.node, use.slot)


# -- groups ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Definition:
    """The quant point at a value's definition."""

    value: Value

    def __hash__(self) -> int:
        return hash(id(self.value))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Definition) and other.value is self.value


Point = Definition | Use


@dataclass
class Group:
    """Points that share one encoding, before it has numbers.

    Attributes:
        spec: What the encoding must be like.
        axis: Its channel or block axis.
        stored: Values whose definition is a member.
        uses: Uses that are members.
        values: Every value whose numbers it has to hold, in graph order.
        derived: For derived encodings, the uses whose groups' scales are multiplied.
    """

    spec: EncodingSpec
    axis: int | None
    stored: list[Value] = field(default_factory=list)
    uses: list[Use] = field(default_factory=list)
    values: list[Value] = field(default_factory=list)
    derived: tuple[Use, ...] = ()

    @property
    def relation(self) -> str:
        """Why the points share: "derived", "fixed", "same" or "free"."""
        if self.spec.derived:
            return "derived"
        if self.spec.scale is not None:
            return "fixed"
        return "same" if len(self.values) > 1 else "free"


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


def stored_spec(
    problem: Problem, value: Value, producer: Row | None, wanted: list[EncodingSpec]
) -> EncodingSpec | None:
    """What a value's definition is stored as, given what its uses want (only quantized wishes); None for float.

    It is stored quantized when its producer's row can write nothing else, or when every use wants the same encoding and
    the producer can write it. A graph input or a float producer can feed any encoding (the conversion is part of
    writing the value), a graph output stays float unless the target says otherwise.
    """
    offered = problem.target.output_specs(producer) if producer is not None else ()
    if offered and all(spec.is_quantized for spec in offered):
        return next((spec for spec in wanted if spec in offered), offered[0])
    if not wanted or len(wanted) < len(value.uses) or len(set(wanted)) > 1:
        return None
    if value.is_output and problem.target.io == "float":
        return None
    if offered and wanted[0] not in offered:
        return None
    return wanted[0]


def make_groups(problem: Problem, choice: Choice) -> list[Group]:
    """The groups that a choice of rows makes, in graph order: union-find over the relation *same*."""
    wanted = demands(problem, choice)
    rows = {value: choice.get(region.name) for region in problem.regions for value in _outputs(region)}
    sets: nx.utils.UnionFind = nx.utils.UnionFind()
    spec_of: dict[Point, tuple[EncodingSpec, int | None]] = {}
    derived: dict[Use, tuple[Use, ...]] = {}
    order: list[Value] = [*problem.graph.inputs, *problem.graph.constants]
    order += [value for node in problem.graph.topological() for value in node.outputs if value is not None]
    for value in order:
        uses = [use for use in value.uses if use in wanted]
        stored = (
            None
            if value.is_constant
            else stored_spec(problem, value, rows.get(value), [wanted[use].spec for use in uses])
        )
        if stored is not None:
            spec_of[Definition(value)] = (stored, None)
            sets[Definition(value)]
        by_spec: dict[tuple[EncodingSpec, int | None], Point] = {}
        if stored is not None:
            by_spec[stored, None] = Definition(value)
        for use in uses:
            spec, axis, region, _ = wanted[use]
            spec_of[use] = (spec, axis)
            if spec.derived:
                derived[use] = tuple(region.uses[name][0] for name in spec.derived)
                sets[use]
                continue
            sets.union(by_spec.setdefault((spec, axis), use), use)
    for region in problem.regions:
        row = choice.get(region.name)
        points = [point for point in tied_points(region, row) if point in spec_of] if row is not None else []
        if points:
            sets.union(*points)
    _read_as_stored(problem, choice, order, sets, spec_of)
    return _collect(sets, spec_of, derived, order)


def _outputs(region: Region) -> list[Value]:
    return [value for value in region.root.outputs if value is not None]


def tied_points(region: Region, row: Row) -> list[Point]:
    """The points that a row's relation `same` names."""
    points: list[Point] = []
    for name in row.same:
        points += map(Definition, _outputs(region)) if name == "output" else region.uses.get(name, ())
    return points


def _read_as_stored(
    problem: Problem,
    choice: Choice,
    order: list[Value],
    sets: nx.utils.UnionFind,
    spec_of: dict[Point, tuple[EncodingSpec, int | None]],
) -> None:
    """Lets uses read a stored encoding that they accept, though it is not the one they ask for: a fixed one, say.

    A set of points joins the definition that it reads only if all that comes into the set is stored like that: of a
    concatenation of a sigmoid and a convolution, neither can be put into the other's range without loss.
    """
    members: dict[Point, list[Point]] = {}
    for point in spec_of:
        members.setdefault(sets[point], []).append(point)
    passed_on = {
        value: set(tied_points(region, row))
        for region in problem.regions
        if (row := choice.get(region.name)) is not None and "output" in row.same
        for value in _outputs(region)
    }
    for value in order:
        stored = spec_of.get(Definition(value))
        for use in value.uses if stored is not None else ():
            asked = spec_of.get(use)
            if stored is None or asked is None or asked == stored or not _accepts(asked[0], stored[0]):
                continue
            points = members[sets[use]]
            inside = set(points)
            values = {use_value(point) if isinstance(point, Use) else point.value for point in points}
            sources = [
                item for item in values if not passed_on.get(item, set()) & inside - {Definition(item)}
            ]
            if all(spec_of.get(Definition(item)) == stored for item in sources):
                sets.union(*points, *map(Definition, sources))
                spec_of.update(dict.fromkeys(points, stored))


def _accepts(asked: EncodingSpec, stored: EncodingSpec) -> bool:
    """Whether what is stored in one encoding can be read where another is asked for."""
    alike = asked.format == stored.format and asked.offset == stored.offset == "code"
    simple = asked.granularity == stored.granularity == "per-tensor" and not (asked.derived or stored.derived)
    fixed = stored.scale is not None
    symmetric = (stored.zero_point or 0) == stored.numeric.middle if fixed else stored.symmetric
    return alike and simple and asked.scale is None and (symmetric or not asked.symmetric)


def unfit(encoding: Encoding, spec: EncodingSpec, axis: int | None) -> str | None:
    """Why an encoding is not what a spec asks for, or None. One scale for all channels is fine where several may be."""
    if encoding.format is not spec.numeric:
        return f"the target takes {spec}"
    off_middle = encoding.zero_point is not None and (encoding.zero_point != spec.numeric.middle).any()
    if spec.symmetric and spec.scale is None and off_middle:
        return f"its zero point is not {spec.numeric.middle}, but the target takes {spec}"
    if spec.scale is not None and not _is_fixed_as(encoding, spec):
        return f"the target fixes scale {spec.scale:.6g} and zero point {spec.zero_point or 0}"
    if spec.derived:
        return None
    one_will_do = encoding.axis is None and spec.block is None
    if encoding.granularity != spec.granularity and not one_will_do:
        return f"{encoding.granularity} scales, but the target takes {spec}"
    if encoding.block != spec.block:
        return f"blocks of {encoding.block}, but the target takes {spec}"
    if encoding.axis is not None and encoding.axis != axis:
        return f"scales along axis {encoding.axis}, but the target's are along axis {axis}"
    return None


def _is_fixed_as(encoding: Encoding, spec: EncodingSpec) -> bool:
    if encoding.scale is None or encoding.scale.shape != ():
        return False
    zero = 0 if encoding.zero_point is None else int(encoding.zero_point)
    return encoding.scale == np.float32(spec.scale) and zero == (spec.zero_point or 0)


def _collect(
    sets: nx.utils.UnionFind,
    spec_of: Mapping[Point, tuple[EncodingSpec, int | None]],
    derived: Mapping[Use, tuple[Use, ...]],
    order: list[Value],
) -> list[Group]:
    groups: dict[Point, Group] = {}
    for value in order:
        definition = Definition(value)
        points: list[Point] = [definition] if definition in spec_of else []
        points += [use for use in value.uses if use in spec_of]
        for point in points:
            spec, axis = spec_of[point]
            group = groups.setdefault(sets[point], Group(spec, axis))
            if isinstance(point, Definition):
                group.stored.append(value)
            else:
                group.uses.append(point)
                group.derived = derived.get(point, group.derived)
            if value not in group.values:
                group.values.append(value)
    return list(groups.values())


def observable(problem: Problem) -> list[Value]:
    """The computed values that some legal row could quantize: what calibration has to watch, in graph order."""
    seen: dict[Value, None] = {}
    for region in problem.regions:
        for row in problem.legal_rows(region):
            for operand, spec in problem.target.row_specs(row).items():
                if _has_range(spec) and not spec.derived:
                    seen.update((use_value(use), None) for use in region.uses.get(operand, ()))
            if any(map(_has_range, problem.target.output_specs(row)[:1])):
                seen.update(dict.fromkeys(_outputs(region)))
    return list(dict.fromkeys(value_source(value) for value in seen if not value.is_constant))


def _has_range(spec: EncodingSpec) -> bool:
    return spec.is_quantized and spec.scale is None


def use_value(use: Use) -> Value:
    """The value that a use reads."""
    inputs, captures = use.node.inputs, use.node.captures
    value = inputs[use.slot] if use.slot < len(inputs) else captures[use.slot - len(inputs)]
    assert value is not None, f"input {use.slot} of {use.node.name} is left out"
    return value


def value_source(value: Value) -> Value:
    """Where a value's elements come from: the first value before ops that only rearrange them, so that its range is theirs.

    Ops that leave elements out (Slice, Gather) or bring some in (Pad) are not looked through, which shows in the number of
    elements.
    """
    while value.producer is not None and ops.info(value.producer).kind == "movement":
        first = value.producer.input(0)
        if first is None or first.is_constant:
            break
        count = _elements(value)
        if count is None or _elements(first) != count:
            break
        value = first
    return value


def _elements(value: Value) -> tuple[int, tuple[str, ...]] | None:
    """The number of elements: the product of the known dimensions, and the symbols of the others; None where unknown."""
    dims = value.shape
    if dims is None or None in dims:
        return None
    known = math.prod(dim for dim in dims if isinstance(dim, int))
    return known, tuple(sorted(dim for dim in dims if isinstance(dim, str)))
