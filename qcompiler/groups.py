"""Groups: quant points that share one encoding, made from a choice of rows by union-find over the relation *same*."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import networkx as nx
import numpy as np

from qcompiler.assignment import Choice, demands, outputs_of, use_value
from qcompiler.ir.node import Use, Value

if TYPE_CHECKING:
    from qcompiler.assignment import Problem
    from qcompiler.ir.encoding import Encoding
    from qcompiler.regions import Region
    from qcompiler.target import EncodingSpec, Row


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
    rows = {value: choice.get(region.name) for region in problem.regions for value in outputs_of(region)}
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


def tied_points(region: Region, row: Row) -> list[Point]:
    """The points that a row's relation `same` names."""
    points: list[Point] = []
    for name in row.same:
        points += map(Definition, outputs_of(region)) if name == "output" else region.uses.get(name, ())
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
        for value in outputs_of(region)
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
    """Why an encoding is not what a spec asks for, or None. One scale, or table, for all channels is fine where several may be."""
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
    what = "scales" if encoding.group is None else "tables"
    if encoding.granularity != spec.granularity and not one_will_do:
        return f"{encoding.granularity} {what}, but the target takes {spec}"
    if encoding.block != spec.block:
        return f"blocks of {encoding.block}, but the target takes {spec}"
    if encoding.group not in (None, spec.group):
        return f"groups of {encoding.group}, but the target takes {spec}"
    if encoding.axis is not None and encoding.axis != axis:
        return f"{what} along axis {encoding.axis}, but the target's are along axis {axis}"
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
