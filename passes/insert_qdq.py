"""insert_qdq: writes the plan into the graph as QuantizeLinear and DequantizeLinear."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from qcompiler import ops
from qcompiler.errors import PlanError
from qcompiler.ir.facts import QDQ
from qcompiler.ir.node import Use, Value
from qcompiler.ir.plan import PLAN, PlannedGroup
from qcompiler.pass_manager import Effect, Pass, PassContext, PassResult

if TYPE_CHECKING:
    from collections.abc import Iterable

    from qcompiler.ir.encoding import Encoding
    from qcompiler.ir.graph import Graph
    from qcompiler.ir.node import Node


@dataclass(frozen=True)
class InsertQdq(Pass):
    """Writes the plan into the graph; the result runs in any ONNX runtime with the plan's numerics.

    Constants become codes with a DequantizeLinear; a value stored in an encoding gets one QuantizeLinear and
    DequantizeLinear behind its definition; a use that wants another encoding than its value has, a pair of its own (one
    per value and encoding).

    An encoding whose offset is kept in the bias is written as `x - c`, quantized with zero point 0: of a convolution or
    matrix product, which is linear, `f(x) = f(x - c) + c * sum(w)`, and the last term goes into the bias. The sum is that of
    the encoded weights, so that the result is what the encoding with a zero point gives; the float weights' would multiply
    their rounding errors with x - c, which for the mostly small outputs of a Relu is larger than x.
    """

    name = "insert_qdq"
    effect = Effect.APPROXIMATE
    requires = (PLAN,)
    establishes = (QDQ,)

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        """Consumes PLAN, establishes QDQ."""
        plan = graph.facts[PLAN]
        result = PassResult()
        writer = _Writer(graph, result, {use: group.encoding for use, group in plan.group_of_use().items()})
        stored = plan.group_of_value()
        once = context.target is not None and context.target.qdq.passthrough == "before"
        wanted = _by_value(graph, plan.groups)
        for value in graph.values:
            home, wishes = stored.get(value.name), wanted.get(value, {})
            if value.is_constant:
                continue
            if home is not None:
                passed_on = _passed_on(value, home)
                if not (once and passed_on):
                    value = writer.store(value, home, wishes.get(home, []), passed_on)
                else:
                    writer.fold_offset(home, wishes.get(home, []))
            for group, uses in wishes.items():
                if group is not home:
                    writer.convert(value, group, uses)
        for value, wishes in wanted.items():
            for group, uses in wishes.items() if value.is_constant else ():
                writer.encode_constants(group.encoding, uses)
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


def _passed_on(value: Value, group: PlannedGroup) -> bool:
    """Whether the value's producer read its elements in the same encoding and only passed them on."""
    producer = value.producer
    if producer is None or not (ops.info(producer).keeps_values or ops.info(producer).kind == "join"):
        return False
    return any(use.node == producer.name for use in group.uses)


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
    """A value quantized and dequantized: the first node of the chain, and its result (still without the offset)."""

    first: Node
    result: Value


class _Writer:
    """Makes the nodes."""

    def __init__(self, graph: Graph, result: PassResult, of_use: dict[tuple[str, int], Encoding]) -> None:
        self.graph = graph
        self.result = result
        self.of_use = of_use
        self._parameters: dict[tuple[Encoding, bool], tuple[Value, Value]] = {}

    def store(self, value: Value, group: PlannedGroup, members: list[Use], passed_on: bool) -> Value:
        """Q/DQ behind a definition: every use, and the graph output, reads the round trip. Returns it, offset restored."""
        others, output = [use for use in value.uses if use not in set(members)], value.is_output
        trip = self._round_trip(value, group, shift=not passed_on)
        self._read(trip, group, members)
        if not others and not output:
            self.result.count("stored values")
            return trip.result
        plain = self._restored(trip, group)
        self.graph.replace_uses(value, plain, None if output else others)
        if output:
            self.graph.set_input(
                trip.first, 0, value
            )  # it read the value, and was redirected with everything else
        self.result.count("stored values")
        return plain

    def convert(self, value: Value, group: PlannedGroup, uses: list[Use]) -> None:
        """Q/DQ on some uses only."""
        self._read(self._round_trip(value, group, shift=True), group, uses)
        self.result.count("conversions")

    def encode_constants(self, encoding: Encoding, uses: list[Use]) -> None:
        """Codes with a DequantizeLinear for uses of constants; the constant is what the use reads by now."""
        by_value: dict[Value, list[Use]] = {}
        for use in uses:
            value = use.node.input(use.slot)
            assert value is not None
            by_value.setdefault(value, []).append(use)
        for value, mine in by_value.items():
            assert value.data is not None
            codes = self.graph.add_constant(f"{value.name}.codes", encoding.quantize(np.asarray(value.data)))
            dequantized = self._dequantize(codes, value, encoding, mine[0].node, centred=False)
            self.graph.replace_uses(value, dequantized, mine)
            self.result.count("encoded constants")

    # -- offsets ------------------------------------------------------------------------------------------

    def _read(self, trip: _RoundTrip, group: PlannedGroup, uses: list[Use]) -> None:
        absorbing = [use for use in uses if _absorbs(use, group)]
        for use in absorbing:
            self.graph.set_input(use.node, use.slot, trip.result)
        self.fold_offset(group, absorbing)
        rest = [use for use in uses if use not in set(absorbing)]
        if rest:
            plain = self._restored(trip, group)
            for use in rest:
                self.graph.set_input(use.node, use.slot, plain)

    def _restored(self, trip: _RoundTrip, group: PlannedGroup) -> Value:
        offset = offset_of(group)
        if not offset:
            return trip.result
        constant = self.graph.add_constant(f"{trip.result.name}.offset", np.float32(offset).reshape(()))
        output = self.graph.add_value(f"{trip.result.name}.restored", np.float32, trip.result.shape)
        node = trip.result.producer
        self.graph.add_node(
            "Add", [trip.result, constant], [output], origin=[node] if node else [], near=node
        )
        return output

    def fold_offset(self, group: PlannedGroup, uses: list[Use]) -> None:
        """Adds the effect of the offset to the biases of the weighted nodes among the uses."""
        offset = offset_of(group)
        for use in uses if offset else ():
            if ops.info(use.node).kind == "weighted":
                assert offset is not None
                self._add_to_bias(use.node, offset)

    def _add_to_bias(self, node: Node, offset: float) -> None:
        weight, bias = node.input(1), node.input(2)
        assert weight is not None
        assert weight.data is not None
        encoding, channel = self.of_use.get((node.name, 1)), ops.info(node).channel_axis(node, 1)
        data = (
            np.asarray(weight.data) if encoding is None else encoding.fake_quantize(np.asarray(weight.data))
        )
        others = tuple(axis for axis in range(data.ndim) if axis != channel)
        total = offset * data.sum(axis=others, dtype=np.float64)
        old = 0.0 if bias is None else np.asarray(bias.data, np.float64)
        name = f"{node.name}.bias" if bias is None else f"{bias.name}.offset"
        self.graph.set_input(node, 2, self.graph.add_constant(name, (old + total).astype(np.float32)))
        self.result.count("offsets in biases")

    # -- pairs --------------------------------------------------------------------------------------------

    def _round_trip(self, value: Value, group: PlannedGroup, *, shift: bool) -> _RoundTrip:
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


def _absorbs(use: Use, group: PlannedGroup) -> bool:
    """Whether a use can read the value without its offset: it has none, it is linear with a bias, or it passes it on."""
    if offset_of(group) is None:
        return True
    row = ops.info(use.node)
    if row.kind == "weighted":
        weight, bias = use.node.input(1), use.node.input(2)
        known = weight is not None and weight.is_constant and (bias is None or bias.is_constant)
        return use.slot == 0 and known and row.role(2) == "bias" and len(row.roles) == 3
    return row.keeps_values or row.kind == "join"


def _attributes(encoding: Encoding) -> dict[str, int]:
    if encoding.axis is None:
        return {}
    return {"axis": encoding.axis} | ({"block_size": encoding.block} if encoding.block is not None else {})
