"""cast_floats: stores what stays float in 16 bits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import helper

from qcompiler import ops
from qcompiler.ir.encoding import FORMATS
from qcompiler.ir.plan import PLAN
from qcompiler.narrow_floats import overflow
from qcompiler.pass_manager import Effect, Level, Pass, PassContext, PassResult

if TYPE_CHECKING:
    from qcompiler.ir.encoding import Format
    from qcompiler.ir.graph import Graph
    from qcompiler.ir.node import Node, Value

_CASTABLE = ("data", "weight", "bias", "parameter")
_NARROW_DTYPES = ("float16", "bfloat16")


@dataclass(frozen=True)
class CastFloats(Pass):
    """Computes the regions that the plan leaves float in the plan's float format, with Casts at their borders.

    Graph inputs, outputs, scales and everything around quantized operators stay float32. A region whose constants or
    observed values exceed the format's range stays float32 too, and a diagnostic says so. Nothing happens when the plan's
    float format is float32.
    """

    name = "cast_floats"
    effect = Effect.APPROXIMATE
    requires = (PLAN,)

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        """Consumes PLAN."""
        plan, result = graph.facts[PLAN], PassResult()
        if plan.float_format not in _NARROW_DTYPES:
            return result
        narrow = FORMATS[plan.float_format]
        nodes = {node.name: node for node in graph.topological()}
        caster = _Caster(graph, narrow)
        for region in plan.regions:
            for name in region.nodes if not region.quantized else ():
                node = nodes.get(name)
                if node is None or not _is_castable(node):
                    continue
                reason = overflow(graph, node, narrow)
                if reason:
                    result.say(Level.WARNING, node.name, f"stays float32: {reason}")
                elif context.allow(f"{self.name} at {node.name}"):
                    caster.cast(node)
                    result.count("nodes")
        caster.remove_unused()
        return result


def _is_castable(node: Node) -> bool:
    row = ops.info(node)
    known = ops.is_known(node.op) and (row.kind != "other" or node.op == "Resize") and node.op != "Cast"
    return (
        known
        and not node.subgraphs
        and any(value is not None and value.dtype == np.float32 for value in node.outputs)
    )


class _Caster:
    """Casts nodes one by one; neighbours share the narrow copy of a value."""

    def __init__(self, graph: Graph, narrow: Format) -> None:
        self.graph = graph
        self.narrow = narrow
        self.copies: dict[Value, Value] = {}

    def cast(self, node: Node) -> None:
        """Makes a node read and write the narrow format."""
        for slot, value in enumerate(list(node.inputs)):
            if value is not None and value.dtype == np.float32 and ops.info(node).role(slot) in _CASTABLE:
                self.graph.set_input(node, slot, self._narrowed(value))
        for output in [item for item in node.outputs if item is not None and item.dtype == np.float32]:
            self._widen(output)

    def remove_unused(self) -> None:
        """Removes the float32 copies that no reader was left for."""
        for wide in self.copies:
            if (
                wide.producer is not None
                and wide.producer.op == "Cast"
                and not wide.uses
                and not wide.is_output
            ):
                self.graph.remove(wide.producer)

    def _narrowed(self, value: Value) -> Value:
        if value not in self.copies:
            if value.data is not None:
                copy = self.graph.add_constant(
                    f"{value.name}.{self.narrow.name}", np.asarray(value.data).astype(self.narrow.dtype)
                )
            else:
                copy = self._cast_node(value, f"{value.name}.{self.narrow.name}", self.narrow.dtype)
            self.copies[value] = copy
        return self.copies[value]

    def _widen(self, value: Value) -> None:
        """The node's result becomes narrow; readers get a float32 copy, which neighbours to come look through."""
        value.dtype = self.narrow.dtype
        wide = self._cast_node(value, f"{value.name}.float32", np.dtype(np.float32))
        cast = wide.producer
        assert cast is not None
        self.graph.replace_uses(value, wide)
        self.graph.set_input(cast, 0, value)
        self.copies[wide] = value

    def _cast_node(self, value: Value, name: str, dtype: np.dtype[Any]) -> Value:
        near = value.producer
        output = self.graph.add_value(name, dtype, value.shape)
        self.graph.add_node(
            "Cast", [value], [output], {"to": int(helper.np_dtype_to_tensor_dtype(dtype))},
            origin=[near] if near else [value.name], near=near,
        )  # fmt: skip
        return output
