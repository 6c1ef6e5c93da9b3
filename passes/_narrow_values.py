"""Values that are stored in as few bits as rows allow, because memory is short where they are alive.

Which values is decided by planning the memory of a choice of rows: at an operation where it exceeds its limit, some of the
values that are alive there become narrow, and rows are chosen again. Linear constraints on what is alive would be the
alternative, but what is alive says little: operations that run in place, slices of rows, and the order of operations let
values share memory, and are found for a given choice only.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from qcompiler.assignment import outputs_of, use_value
from qcompiler.costs import elements
from qcompiler.sources import value_source

if TYPE_CHECKING:
    from qcompiler.assignment import Choice, Problem
    from qcompiler.crowds import Crowd
    from qcompiler.ir.node import Value
    from qcompiler.regions import Region
    from qcompiler.sensitivity import Sensitivity
    from qcompiler.target import Row


def narrowest(problem: Problem, region: Region, rows: Sequence[Row], narrow: Collection[str]) -> list[Row]:
    """The rows with which the narrow values that a region reads and writes take the fewest bits; all where it has none."""
    touched = [value for value in _touched(region) if value.name in narrow]
    bits = [sum(elements(value) * _width(problem, region, row, value) for value in touched) for row in rows]
    return [row for row, own in zip(rows, bits, strict=True) if own == min(bits)]


def can_narrow(problem: Problem, choice: Choice) -> bool:
    """Whether any value could be stored in fewer bits than it is."""
    return any(_saved(problem, choice).values())


def more_narrow(
    problem: Problem,
    choice: Choice,
    crowds: Sequence[Crowd],
    narrow: Collection[str],
    sensitivity: Sensitivity | None,
) -> frozenset[str]:
    """The values that have to become narrow besides, so that what is too much should fit; empty where nothing is left to do.

    At every crowd those go first that lose least for every byte that they save.

    Args:
        problem: Regions and what is legal.
        choice: The rows whose memory was planned.
        crowds: Where it exceeds its limit.
        narrow: The values that are narrow already.
        sensitivity: What forms lose, if that was measured; else the largest values go first.
    """
    saved = _saved(problem, choice)
    losses = _losses(sensitivity)
    found: set[str] = set()
    for crowd in crowds:
        open_ = sorted(
            (losses.get(_name_of_source(problem, name), 0.0) / saved[name], -saved[name], name)
            for name in crowd.values
            if saved.get(name, 0) and name not in narrow
        )
        left = crowd.excess - sum(saved[name] for name in crowd.values & found)
        for _, _, name in open_:
            if left <= 0:
                break
            if name not in found:
                found.add(name)
                left -= saved[name]
    return frozenset(found)


def _name_of_source(problem: Problem, name: str) -> str:
    return value_source(problem.graph.value(name)).name


def _losses(sensitivity: Sensitivity | None) -> Mapping[str, float]:
    """The largest loss that a value has in any form: what is narrow is in that form, or near it."""
    found: dict[str, float] = {}
    for (name, _, _), loss in (sensitivity.losses if sensitivity is not None else {}).items():
        found[name] = max(found.get(name, 0.0), loss.mean)
    return found


def _saved(problem: Problem, choice: Choice) -> dict[str, int]:
    """Value name to the bytes that it would take less if all rows that read or write it stored it as narrow as they can."""
    now: dict[Value, int] = {}
    least: dict[Value, int] = {}
    for region in problem.regions:
        row = choice.get(region.name)
        if row is None:
            continue
        for value in _touched(region):
            width = min(_width(problem, region, other, value) for other in (row, *problem.legal_rows(region)))
            now[value] = max(now.get(value, 0), _width(problem, region, row, value))
            least[value] = max(least.get(value, 0), width)
    return {value.name: (now[value] - least[value]) * elements(value) // 8 for value in now}


def _touched(region: Region) -> list[Value]:
    """The computed values that a region reads and writes."""
    read = [use_value(use) for uses in region.uses.values() for use in uses]
    return [value for value in dict.fromkeys([*read, *outputs_of(region)]) if not value.is_constant]


def _width(problem: Problem, region: Region, row: Row, value: Value) -> int:
    """The bits of an element that a row reads, or writes at least."""
    specs = problem.target.row_specs(row)
    listed = [
        spec.numeric.bits
        for operand, spec in specs.items()
        if any(use_value(use) is value for use in region.uses.get(operand, ()))
    ]
    if value in outputs_of(region):
        listed.append(min((spec.numeric.bits for spec in problem.target.output_specs(row)), default=32))
    return max(listed, default=0)
