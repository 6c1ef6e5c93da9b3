"""insert_qdq: writes the plan into the graph as QuantizeLinear and DequantizeLinear."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from qcompiler import ops
from qcompiler.errors import PlanError
from qcompiler.ir.facts import QDQ
from qcompiler.ir.functions import DOMAIN, LOOKUP
from qcompiler.ir.node import Use, Value
from qcompiler.ir.plan import PLAN, PLANNED, Plan, PlannedGroup
from qcompiler.pass_manager import Effect, Pass, PassContext, PassResult

if TYPE_CHECKING:
    from collections.abc import Iterable

    from qcompiler.ir.encoding import Encoding
    from qcompiler.ir.graph import Graph
    from qcompiler.ir.node import Node


@dataclass(frozen=True)
class InsertQdq(Pass):
    """Writes the plan into the graph; the result runs in any ONNX runtime with the plan's numerics.

    Constants become codes with a DequantizeLinear, or with a look-up in tables of theirs; a value stored in an encoding
    gets one QuantizeLinear and DequantizeLinear behind its definition; a use that wants another encoding than its value
    has, a pair of its own (one per value and encoding).

    An encoding whose offset is kept in the bias is written as `x - c`, quantized with zero point 0: of a convolution or
    matrix product, which is linear, `f(x) = f(x - c) + c * sum(w)`, and the last term goes into the bias. The sum is that of
    the encoded weights, so that the result is what the encoding with a zero point gives; the float weights' would multiply
    their rounding errors with x - c, which for the mostly small outputs of a Relu is larger than x.
    """

    name = "insert_qdq"
    effect = Effect.APPROXIMATE
    requires = (PLAN,)
    establishes = (QDQ, PLANNED)

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        """Consumes PLAN, establishes QDQ and PLANNED."""
        plan, result = graph.facts[PLAN], PassResult()
        graph.facts[PLANNED] = graph.copy(facts=True)
        once = context.target is not None and context.target.qdq.passthrough == "before"
        stored, wanted = plan.group_of_value(), _by_value(graph, plan.groups)
        writer = _Writer(graph, result, plan)
        for value in graph.values:
            if value.is_constant:
                continue
            home, wishes, plain = stored.get(value.name), wanted.get(value, {}), value
            if home is not None:
                plain = writer.store(value, home, wishes.get(home, []), once=once)
            for group, uses in wishes.items():
                if group is not home:
                    writer.convert(plain, group, uses)
        for value, wishes in wanted.items():
            for group, uses in wishes.items() if value.is_constant else ():
                writer.encode_constants(group, uses)
        graph.facts[QDQ] = True
        return result


def _by_value(graph: Graph, groups: Iterable[PlannedGroup]) -> dict[Value, dict[PlannedGroup, list[Use]]]:
    """The uses that want an encoding, by the value that they read now and by group."""
    nodes = {node.name: node for node in graph.topological()}
    found: dict[Value, dict[PlannedGroup, list[Use]]] = {}
    for group in groups:
        for use in group.uses:
            value = nodes[use.node].input(use.slot) if use.node in nodes else None
            if value is None or (
                value.name != use.value and not value.is_constant
            ):  # constants may have been refined
                raise PlanError(
                    f"The plan's group {group.name!r} names input {use.slot} of {use.node!r} as {use.value!r}; "
                    "this graph has no such use."
                )
            found.setdefault(value, {}).setdefault(group, []).append(Use(nodes[use.node], use.slot))
        missing = [name for name in group.stored if not graph.has_value(name)]
        if missing:
            raise PlanError(
                f"The plan's group {group.name!r} stores the value {missing[0]!r}, which this graph does not have."
            )
    return found


def offset_of(group: PlannedGroup) -> float | None:
    """The real number that an encoding with its offset in the bias subtracts, None for other encodings.

    It is a multiple of the scale, so that the codes are those of the same encoding with a zero point.
    """
    encoding = group.encoding
    if group.offset != "bias" or encoding.zero_point is None or encoding.scale is None:
        return None
    return -float(encoding.zero_point) * float(encoding.scale)


@dataclass
class _RoundTrip:
    """A value quantized and dequantized.

    Attributes:
        first: The node that reads the value; None where the value came quantized and is only passed on.
        result: The result, still without the offset.
        plain: The result with the offset, once something reads it.
    """

    first: Node | None
    result: Value
    plain: Value | None = None


class _Writer:
    """Makes the nodes."""

    def __init__(self, graph: Graph, result: PassResult, plan: Plan) -> None:
        self.graph = graph
        self.result = result
        self.home = plan.group_of_value()
        self.readers = {id(group): {use.node for use in group.uses} for group in plan.groups}
        self.of_use = {use: group.encoding for use, group in plan.group_of_use().items()}
        self._parameters: dict[tuple[Encoding, bool], tuple[Value, Value]] = {}

    def store(self, value: Value, group: PlannedGroup, members: list[Use], *, once: bool) -> Value:
        """Q/DQ behind a definition: every use, and the graph output, reads the round trip.

        Where the value was only passed on by its producer, it lacks the offset already, and with `once` it needs no Q/DQ
        of its own.

        Returns:
            The round trip's result, with the offset if anything needs it.
        """
        passed_on = value.producer is not None and self._passes_on(value.producer, group)
        others, output = [use for use in value.uses if use not in set(members)], value.is_output
        trip = (
            _RoundTrip(None, value) if once and passed_on else self._round_trip(value, group, not passed_on)
        )
        plain = trip.result
        if others or output:
            plain = self._restored(trip, group)
            reader = trip.first or plain.producer
            self.graph.replace_uses(value, plain, None if output else others)
            if output and plain is not value and reader is not None:
                self.graph.set_input(reader, 0, value)  # it was redirected to itself with everything else
        self._read(trip, group, members)
        self.result.count("stored values")
        return plain

    def convert(self, value: Value, group: PlannedGroup, uses: list[Use]) -> None:
        """Q/DQ on some uses only."""
        self._read(self._round_trip(value, group, shift=True), group, uses)
        self.result.count("conversions")

    def encode_constants(self, group: PlannedGroup, uses: list[Use]) -> None:
        """Codes with a DequantizeLinear for uses of constants; the constant is what the use reads by now."""
        by_value: dict[Value, list[Use]] = {}
        for use in uses:
            value = use.node.input(use.slot)
            assert value is not None
            by_value.setdefault(value, []).append(use)
        centred = offset_of(group) is not None
        for value, mine in by_value.items():
            assert value.data is not None
            codes = group.encoding.quantize(np.asarray(value.data))
            stored = self.graph.add_constant(f"{value.name}.codes", codes)
            near = mine[0].node
            if group.encoding.table is not None:
                result = self._look_up(stored, value, group.encoding, near)
            else:
                result = self._dequantize(stored, value, group.encoding, near, centred=centred)
            self._read(_RoundTrip(None, result), group, mine)
            self.result.count("encoded constants")

    # -- offsets ------------------------------------------------------------------------------------------

    def _passes_on(self, node: Node, group: PlannedGroup) -> bool:
        """Whether a node reads elements in an encoding and only passes them on, so that its results are in that encoding.

        One that brings in elements of its own (padding) would bring them in without the offset.
        """
        row = ops.info(node)
        reads = node.name in self.readers[id(group)]
        kept = all(value is None or self.home.get(value.name) is group for value in node.outputs)
        return reads and kept and (row.keeps_values or row.kind == "join") and "parameter" not in row.roles

    def _absorbs(self, use: Use, group: PlannedGroup) -> bool:
        """Whether a use can read the value without its offset: it has none, it is linear with a bias, or it passes it on."""
        if offset_of(group) is None:
            return True
        row = ops.info(use.node)
        if row.kind != "weighted":
            return self._passes_on(use.node, group)
        weight, bias = use.node.input(1), use.node.input(2)
        known = weight is not None and weight.is_constant and (bias is None or bias.is_constant)
        return use.slot == 0 and known and ops.takes_bias(use.node)

    def _read(self, trip: _RoundTrip, group: PlannedGroup, uses: list[Use]) -> None:
        for use in uses:
            if not self._absorbs(use, group):
                self.graph.set_input(use.node, use.slot, self._restored(trip, group))
                continue
            self.graph.set_input(use.node, use.slot, trip.result)
            offset = offset_of(group)
            if offset and ops.info(use.node).kind == "weighted":
                self._add_to_bias(use.node, offset)

    def _restored(self, trip: _RoundTrip, group: PlannedGroup) -> Value:
        offset = offset_of(group)
        if not offset:
            return trip.result
        if trip.plain is None:
            constant = self.graph.add_constant(f"{trip.result.name}.offset", np.float32(offset).reshape(()))
            trip.plain = self.graph.add_value(
                f"{trip.result.name}.restored", trip.result.dtype, trip.result.shape
            )
            near = trip.result.producer
            self.graph.add_node(
                "Add", [trip.result, constant], [trip.plain], origin=[near] if near else [], near=near
            )
        return trip.plain

    def _add_to_bias(self, node: Node, offset: float) -> None:
        weight, bias = node.input(1), node.input(2)
        assert weight is not None
        data, encoding = np.asarray(weight.data), self.of_use.get((node.name, 1))
        if encoding is not None:
            data = encoding.fake_quantize(data)
        old = 0.0 if bias is None else np.asarray(bias.data, np.float64)
        total = old + offset * ops.channel_sums(node, data)
        name = f"{node.name}.bias" if bias is None else f"{bias.name}.offset"
        self.graph.set_input(node, 2, self.graph.add_constant(name, total.astype(np.float32)))
        self.result.count("offsets in biases")

    # -- pairs --------------------------------------------------------------------------------------------

    def _round_trip(self, value: Value, group: PlannedGroup, shift: bool) -> _RoundTrip:
        near, encoding, offset = value.producer, group.encoding, offset_of(group)
        first, source = None, value
        if offset and shift:
            constant = self.graph.add_constant(f"{value.name}.offset", np.float32(offset).reshape(()))
            source = self.graph.add_value(f"{value.name}.centred", np.float32, value.shape)
            first = self.graph.add_node(
                "Sub", [value, constant], [source],
                name=f"{value.name}.centre", origin=[near] if near else [value.name], near=near,
            )  # fmt: skip
        centred = offset is not None
        scale, zero = self._parameter_values(encoding, value.name, centred)
        codes = self.graph.add_value(f"{value.name}.codes", encoding.format.dtype, value.shape)
        quantize = self.graph.add_node(
            "QuantizeLinear", [source, scale, zero], [codes], _attributes(encoding),
            name=f"{value.name}.quantize", origin=[near] if near else [value.name], near=near,
        )  # fmt: skip
        return _RoundTrip(first or quantize, self._dequantize(codes, value, encoding, near, centred=centred))

    def _look_up(self, codes: Value, value: Value, encoding: Encoding, near: Node) -> Value:
        """A constant from the entries of its tables."""
        scale = np.ones((), np.float32)
        if encoding.scale is not None:
            others = tuple(axis for axis in range(value.rank or 0) if axis != encoding.axis)
            scale = np.expand_dims(encoding.scale, others)
        table = self.graph.add_constant(f"{value.name}.table", np.array(encoding.table))
        factor = self.graph.add_constant(f"{value.name}.scale", scale)
        first = self.graph.add_constant(f"{value.name}.first", encoding.first_entries(value.rank or 0))
        output = self.graph.add_value(f"{value.name}.decoded", np.float32, value.shape)
        self.graph.add_node(
            LOOKUP,
            [codes, table, factor, first],
            [output],
            domain=DOMAIN,
            name=f"{value.name}.decode",
            origin=[near],
            near=near,
        )
        return output

    def _dequantize(
        self, codes: Value, value: Value, encoding: Encoding, near: Node | None, *, centred: bool
    ) -> Value:
        scale, zero = self._parameter_values(encoding, value.name, centred)
        output = self.graph.add_value(f"{value.name}.dequantized", np.float32, value.shape)
        self.graph.add_node(
            "DequantizeLinear", [codes, scale, zero], [output], _attributes(encoding),
            name=f"{value.name}.dequantize", origin=[near] if near else [value.name], near=near,
        )  # fmt: skip
        return output

    def _parameter_values(self, encoding: Encoding, name: str, centred: bool) -> tuple[Value, Value]:
        """Scale and zero point, one pair of constants per encoding. The zero point is always given: it carries the type."""
        key = (encoding, centred)
        if key not in self._parameters:
            assert encoding.scale is not None, f"{encoding} has no scale"
            zero = np.zeros(encoding.scale.shape, encoding.format.dtype)
            if encoding.zero_point is not None and not centred:
                zero = encoding.zero_point.astype(encoding.format.dtype)
            self._parameters[key] = (
                self.graph.add_constant(f"{name}.scale", np.array(encoding.scale)),
                self.graph.add_constant(f"{name}.zero_point", zero),
            )
        return self._parameters[key]


def _attributes(encoding: Encoding) -> dict[str, int]:
    if encoding.axis is None:
        return {}
    return {"axis": encoding.axis} | ({"block_size": encoding.block} if encoding.block is not None else {})
