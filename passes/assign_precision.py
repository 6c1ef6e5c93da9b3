"""assign_precision: every region gets a kernel row, every group an encoding; the plan records both with the reasons."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from qcompiler.assignment import Choice, Group, Problem, demands, make_groups, use_value, value_source
from qcompiler.observed import IMPORTED, RANGES, Ranges
from qcompiler.errors import ModelError
from qcompiler.ir.encoding import Encoding, block_range, channel_range
from qcompiler.ir.plan import PLAN, Plan, PlannedGroup, PlannedRegion, UsePoint
from qcompiler.pass_manager import Effect, Level, Pass, PassContext, PassResult
from qcompiler.plan_check import check_plan
from qcompiler.regions import REGIONS
from qcompiler.weight_ranges import least_error_range

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qcompiler.ir.graph import Graph
    from qcompiler.ir.node import Use, Value
    from qcompiler.regions import Region
    from qcompiler.target import EncodingSpec, Row


@dataclass(frozen=True)
class AssignPrecision(Pass):
    """Chooses a row for every region and an encoding for every group, and writes the plan.

    The strategy `uniform` takes the best legal quantized row wherever the target computes on it, extends it through ops
    that only pass values on where a consumer asks for that, and leaves the rest float. `prefer` names a row (say `fp8`)
    that is taken before the descriptor's own preference, wherever it is legal.
    """

    name = "assign_precision"
    effect = Effect.ANNOTATES
    requires = (REGIONS, RANGES)
    establishes = (PLAN,)

    strategy: Literal["uniform"] = "uniform"
    prefer: str = ""
    weight_range: Literal["min-max", "mse"] = "mse"

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        """Establishes PLAN: decided here, or the context's plan after checking that it is legal for this graph."""
        assert context.target is not None, "assign_precision needs a target"
        result = PassResult()
        problem = Problem.state(graph, context.target, graph.facts[REGIONS])
        if context.plan is not None:
            check_plan(problem, context.plan)
            plan = context.plan
        else:
            choice = uniform_choice(problem, self.prefer)
            plan = _make_plan(problem, choice, graph, context, self, result)
        graph.facts[PLAN] = plan
        result.count("quantized regions", sum(region.quantized for region in plan.regions))
        result.count("groups", len(plan.groups))
        return result


def uniform_choice(problem: Problem, prefer: str = "") -> dict[str, Row | None]:
    """The best legal quantized row of every region whose kernel is always quantized, then of those that feed them.

    Regions of kernels that are quantized "when-consumed" follow their consumers, from the graph's end to its start.
    """
    rows = {region.name: _preferred_rows(problem, region, prefer) for region in problem.regions}
    choice: dict[str, Row | None] = {}
    for region in problem.regions:
        always = region.kernel is not None and region.kernel.quantize == "always"
        choice[region.name] = (
            rows[region.name][0] if always and rows[region.name] else _float_row(problem, region)
        )
    _agree(problem, rows, choice)
    wanted = demands(problem, choice)
    for region in reversed(problem.regions):
        if region.kernel is None or region.kernel.quantize == "always":
            continue
        outputs = [value for value in region.root.outputs if value is not None]
        asked = [wanted[use][0] for value in outputs for use in value.uses if use in wanted]
        fitting = [row for row in rows[region.name] if set(asked) <= set(problem.target.output_specs(row))]
        if asked and fitting and not any(value.is_output for value in outputs):
            choice[region.name] = fitting[0]
            wanted.update(demands(problem, {region.name: fitting[0]}, [region]))
    return choice


def _agree(problem: Problem, rows: dict[str, list[Row]], choice: dict[str, Row | None]) -> None:
    """Where the uses of a value want different encodings, moves their regions to rows that want the same, if there are."""
    for _ in range(
        len(problem.regions)
    ):  # each round settles a value; a bound, should two values pull a region both ways
        changed = False
        wanted = demands(problem, choice)
        for value in dict.fromkeys(use_value(use) for use in wanted if not use_value(use).is_constant):
            asked = {use: wanted[use] for use in value.uses if use in wanted}
            specs = list(dict.fromkeys(spec for spec, _, _ in asked.values()))
            if len(specs) < 2:
                continue
            for spec in reversed(specs):
                moved = {
                    region.name: _row_asking(problem, rows, region, value, spec)
                    for _, _, region in asked.values()
                }
                if all(moved.values()) and any(choice[name] is not row for name, row in moved.items()):
                    choice.update(moved)
                    changed = True
                    break
        if not changed:
            return


def _row_asking(
    problem: Problem, rows: dict[str, list[Row]], region: Region, value: Value, spec: EncodingSpec
) -> Row | None:
    """The first of a region's rows that wants a value in one encoding at every operand where it reads it."""
    for row in rows[region.name]:
        specs = problem.target.row_specs(row)
        if all(
            specs.get(name) == spec
            for name, uses in region.uses.items()
            if any(use_value(use) is value for use in uses)
        ):
            return row
    return None


def _preferred_rows(problem: Problem, region: Region, prefer: str) -> list[Row]:
    """The legal quantized rows: the one asked for first, otherwise in the descriptor's order."""
    legal = [row for row in problem.legal_rows(region) if problem.target.is_quantized(row)]
    return sorted(legal, key=lambda row: row.name != prefer)


def _float_row(problem: Problem, region: Region) -> Row | None:
    return next((row for row in problem.legal_rows(region) if not problem.target.is_quantized(row)), None)


# -- the plan --------------------------------------------------------------------------------------------------


def _make_plan(
    problem: Problem,
    choice: Choice,
    graph: Graph,
    context: PassContext,
    options: AssignPrecision,
    result: PassResult,
) -> Plan:
    encoder = _Encoder(problem, graph.facts[RANGES], graph.facts.get(IMPORTED) or {}, options.weight_range)
    groups = encoder.encode(make_groups(problem, choice))
    for note in encoder.notes:
        result.say(Level.INFO, "", note)
    return Plan(
        target=problem.target.name,
        device=problem.target.chosen_device,
        float_format=context.float_format,
        regions=tuple(_planned(problem, region, choice[region.name]) for region in problem.regions),
        groups=tuple(groups),
        notes=tuple(encoder.notes),
    )


def _planned(problem: Problem, region: Region, row: Row | None) -> PlannedRegion:
    nodes = tuple(node.name for node in region.nodes)
    refused = problem.refusals(region, row)
    quantized = row is not None and problem.target.is_quantized(row)
    kernel = region.kernel.name if region.kernel is not None else ""
    return PlannedRegion(
        region.name,
        nodes,
        kernel,
        row.name if row is not None else "",
        quantized,
        _reason(problem, region, row),
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
    refused = [verdict for verdict in problem.verdicts[region.name] if not verdict.legal]
    if any(problem.target.is_quantized(item) for item in problem.legal_rows(region)):
        return f"float: kernel {region.kernel.name} is quantized only where a consumer of its result asks for it, and none does"
    if refused:
        return f"float: row {refused[0].row.name} of kernel {region.kernel.name} is not legal: {refused[0].reason}"
    note = f": {region.kernel.note}" if region.kernel.note else ""
    return f"float: kernel {region.kernel.name} has no quantized row{note}"


class _Encoder:
    """Gives groups their numbers: from the spec, an imported encoding, a weight's elements, or calibration."""

    def __init__(
        self, problem: Problem, ranges: Ranges, imported: dict[str, Encoding], weight_range: str
    ) -> None:
        self.problem = problem
        self.ranges = ranges
        self.imported = imported
        self.weight_range = weight_range
        self.notes: list[str] = []
        self.of_use: dict[Use, Encoding] = {}
        self.names: set[str] = set()

    def encode(self, groups: list[Group]) -> list[PlannedGroup]:
        """The groups with encodings, derived ones last computed, in the given order."""
        planned: dict[int, PlannedGroup] = {}
        for group in sorted(
            groups, key=lambda item: bool(item.spec.derived)
        ):  # stable: factors before products
            encoding, reason = self._encoding(group)
            self.of_use.update(dict.fromkeys(group.uses, encoding))
            planned[id(group)] = PlannedGroup(
                self._name(group.values[0].name),
                encoding,
                tuple(value.name for value in group.stored),
                tuple(
                    UsePoint(use.node.name, use.slot, dict(use.node.operands())[use.slot].name)
                    for use in group.uses
                ),
                group.relation,
                reason,
                group.spec.offset,
            )
        return [planned[id(group)] for group in groups]

    def _name(self, hint: str) -> str:
        name, number = hint, 1
        while name in self.names:
            name, number = f"{hint}#{number}", number + 1
        self.names.add(name)
        return name

    def _encoding(self, group: Group) -> tuple[Encoding, str]:
        spec = group.spec
        if spec.derived:
            return self._derived(group)
        if spec.scale is not None:
            zero = np.int32(spec.zero_point or 0)
            return Encoding(
                spec.numeric, np.asarray(spec.scale, np.float32), np.asarray(zero)
            ), "fixed by the target"
        kept = self._imported(group)
        if kept is not None:
            return kept, "kept from the imported model"
        constants = [value for value in group.values if value.is_constant]
        if constants and len(constants) == len(group.values):
            return self._weight(group, constants)
        return self._activation(group)

    def _derived(self, group: Group) -> tuple[Encoding, str]:
        factors = [self.of_use[use] for use in group.derived]
        scale = np.prod(
            np.broadcast_arrays(*(np.asarray(item.scale, np.float64) for item in factors)), axis=0
        )
        scale = np.maximum(scale, np.finfo(np.float32).tiny).astype(np.float32)
        axis = 0 if scale.ndim else None
        names = " x ".join(group.spec.derived)
        return Encoding(group.spec.numeric, scale, np.zeros(scale.shape, np.int32), axis), f"scale of {names}"

    def _imported(self, group: Group) -> Encoding | None:
        """The encoding that the imported model gave these values, if it is legal here; a note says why it is not."""
        found = {self.imported[value.name] for value in group.values if value.name in self.imported}
        if not found:
            return None
        first = next(self.imported[value.name] for value in group.values if value.name in self.imported)
        reason = (
            "the values that must share one encoding had several"
            if len(found) > 1
            else _unfit(first, group.spec, group.axis)
        )
        if reason is None:
            return first
        self.notes.append(f"{group.values[0].name}: the imported encoding ({first}) had to change: {reason}")
        return None

    def _weight(self, group: Group, constants: list[Value]) -> tuple[Encoding, str]:
        spec = group.spec
        lows, highs = zip(*(self._weight_ends(value, group) for value in constants), strict=True)
        low, high = np.minimum.reduce(lows), np.maximum.reduce(highs)
        how = "min-max" if self.weight_range == "min-max" or spec.block is not None else "least squared error"
        encoding = Encoding.from_range(
            spec.numeric,
            low,
            high,
            symmetric=spec.symmetric,
            narrow=spec.narrow,
            axis=group.axis,
            block=spec.block,
        )
        return encoding, f"weights, {how}"

    def _weight_ends(self, value: Value, group: Group) -> tuple[NDArray[Any], NDArray[Any]]:
        assert value.data is not None
        data, spec = np.asarray(value.data, np.float32), group.spec
        if not np.isfinite(data).all():
            where = [int(index) for index in np.argwhere(~np.isfinite(data))[0]]
            users = ", ".join(node.name for node in value.consumers[:3])
            raise ModelError(
                f"The weight {value.name!r} of {users} has a NaN or infinite element at {where}; it cannot be quantized. "
                "Repair or retrain the model; the float model computes nonsense there too."
            )
        if spec.block is not None and group.axis is not None:
            return block_range(data, group.axis, spec.block)
        rows = (
            data.reshape(1, -1)
            if group.axis is None
            else np.moveaxis(data, group.axis, 0).reshape(data.shape[group.axis], -1)
        )
        if self.weight_range == "mse":
            low, high = least_error_range(rows, spec.numeric, symmetric=spec.symmetric, narrow=spec.narrow)
        else:
            low, high = channel_range(rows, 0)
        return (low, high) if group.axis is not None else (low[0], high[0])

    def _activation(self, group: Group) -> tuple[Encoding, str]:
        sources = list(
            dict.fromkeys(value_source(value).name for value in group.values if not value.is_constant)
        )
        given = [
            self.imported[name].real_range()
            for name in [value.name for value in group.values]
            if name in self.imported
        ]
        if given:
            low, high = min(item[0] for item in given), max(item[1] for item in given)
            how = "the range of the imported encoding"
        else:
            low, high = self.ranges.interval(sources, group.spec)
            how = self.ranges.method.name
        encoding = Encoding.from_range(
            group.spec.numeric, low, high, symmetric=group.spec.symmetric, narrow=group.spec.narrow
        )
        return encoding, f"{how}: {low:.4g}..{high:.4g}"


def _unfit(encoding: Encoding, spec: EncodingSpec, axis: int | None) -> str | None:
    """Why an encoding is not what a spec asks for, or None."""
    if encoding.format is not spec.numeric:
        return f"the target takes {spec}"
    middle = 0 if spec.numeric.is_signed else 1 << (spec.numeric.bits - 1)
    if spec.symmetric and encoding.zero_point is not None and (encoding.zero_point != middle).any():
        return f"zero point {int(encoding.zero_point.reshape(-1)[0])}, but the target takes {spec}"
    if encoding.granularity != spec.granularity and encoding.axis is not None:
        return f"{encoding.granularity} scales, but the target takes {spec}"
    if encoding.axis is not None and encoding.axis != axis:
        return f"scales along axis {encoding.axis}, but the target's are along axis {axis}"
    return None
