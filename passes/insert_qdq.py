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
    per value and encoding). Floats in another format than float32 get Casts at the borders.
    """

    name = "insert_qdq"
    effect = Effect.APPROXIMATE
    requires = (PLAN,)
    establishes = (QDQ,)

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        """Consumes PLAN, establishes QDQ."""
        plan = graph.facts[PLAN]
        result = PassResult()
        writer = _Writer(graph, result)
        stored = plan.group_of_value()
        once = context.target is not None and context.target.qdq.passthrough == "before"
        wanted = _by_value(graph, plan.groups)
        for value in graph.values:
            home, wishes = stored.get(value.name), wanted.get(value, {})
            if value.is_constant:
                for group, uses in wishes.items():
                    writer.constant(value, uses, group.encoding)
                continue
            current = value
            if home is not None and not (once and _already_on_grid(value, stored)):
                current = writer.store(value, home.encoding)
            for group, uses in wishes.items():
                if group is not home:
                    writer.convert(current, uses, group.encoding)
        graph.facts[QDQ] = True
        return result


def _by_value(graph: Graph, groups: Iterable[PlannedGroup]) -> dict[Value, dict[PlannedGroup, list[Use]]]:
    """The uses that want an encoding, by the value that they read now and by group."""
    nodes = {node.name: node for node in graph.topological()}
    found: dict[Value, dict[PlannedGroup, list[Use]]] = {}
    for group in groups:
        for use in group.uses:
            value = nodes[use.node].input(use.slot) if use.node in nodes else None
            if value is None or value.name != use.value:
                raise PlanError(f"The plan's group {group.name!r} names input {use.slot} of {use.node!r} as {use.value!r}; this graph has no such use.")
            found.setdefault(value, {}).setdefault(group, []).append(Use(nodes[use.node], use.slot))
        missing = [name for name in group.stored if not graph.has_value(name)]
        if missing:
            raise PlanError(f"The plan's group {group.name!r} stores the value {missing[0]!r}, which this graph does not have.")
    return found


def _already_on_grid(value: Value, stored: dict[str, PlannedGroup]) -> bool:
    """Whether a value only passes on elements that its producer read in the same encoding."""
    producer = value.producer
    if producer is None or not ops.info(producer).keeps_values:
        return False
    source = producer.input(0)
    group = stored.get(value.name)
    return source is not None and group is not None and any(use.node == producer.name for use in group.uses)


class _Writer:
    """Makes the nodes."""

    def __init__(self, graph: Graph, result: PassResult) -> None:
        self.graph = graph
        self.result = result
        self._parameters: dict[Encoding, tuple[Value, Value | None]] = {}

    def store(self, value: Value, encoding: Encoding) -> Value:
        """Q/DQ behind a definition; every use, and the graph output, reads the round trip, which is returned."""
        uses, output = list(value.uses), value.is_output
        quantize, dequantized = self._pair(value, encoding)
        self.graph.replace_uses(value, dequantized, None if output else uses)
        self.graph.set_input(quantize, 0, value)  # it may have been redirected with the others
        self.result.count("stored values")
        return dequantized

    def convert(self, value: Value, uses: list[Use], encoding: Encoding) -> None:
        """Q/DQ on some uses only."""
        self.graph.replace_uses(value, self._pair(value, encoding)[1], uses)
        self.result.count("conversions")

    def constant(self, value: Value, uses: list[Use], encoding: Encoding) -> None:
        """Codes with a DequantizeLinear for some uses of a constant."""
        assert value.data is not None
        codes = self.graph.add_constant(f"{value.name}.codes", encoding.quantize(np.asarray(value.data)))
        self.graph.replace_uses(value, self._dequantize(codes, value, encoding, near=uses[0].node), uses)
        self.result.count("encoded constants")

    def _pair(self, value: Value, encoding: Encoding) -> tuple[Node, Value]:
        near = value.producer
        scale, zero = self._parameter_values(encoding, value.name)
        codes = self.graph.add_value(f"{value.name}.codes", encoding.format.dtype, value.shape)
        quantize = self.graph.add_node(
            "QuantizeLinear", [value, scale, zero], [codes], _attributes(encoding),
            name=f"{value.name}.quantize", origin=[near] if near else [value.name], near=near,
        )  # fmt: skip
        return quantize, self._dequantize(codes, value, encoding, near=near)

    def _dequantize(self, codes: Value, value: Value, encoding: Encoding, near: Node | None) -> Value:
        scale, zero = self._parameter_values(encoding, value.name)
        output = self.graph.add_value(f"{value.name}.dequantized", np.float32, value.shape)
        self.graph.add_node(
            "DequantizeLinear", [codes, scale, zero], [output], _attributes(encoding),
            name=f"{value.name}.dequantize", origin=[near] if near else [value.name], near=near,
        )  # fmt: skip
        return output

    def _parameter_values(self, encoding: Encoding, name: str) -> tuple[Value, Value | None]:
        """Scale and zero point, one pair of constants per encoding. The zero point is always given: it carries the type."""
        if encoding not in self._parameters:
            assert encoding.scale is not None, f"{encoding} has no scale"
            zero = np.zeros(encoding.scale.shape, encoding.format.dtype)
            if encoding.zero_point is not None:
                zero = encoding.zero_point.astype(encoding.format.dtype)
            self._parameters[encoding] = (
                self.graph.add_constant(f"{name}.scale", np.array(encoding.scale)),
                self.graph.add_constant(f"{name}.zero_point", zero),
            )
        return self._parameters[encoding]


def _attributes(encoding: Encoding) -> dict[str, int]:
    if encoding.axis is None:
        return {}
    return {"axis": encoding.axis} | ({"block_size": encoding.block} if encoding.block is not None else {})
