"""A copy of the graph with its activations quantized as planned, in which layers are replaced as they are refined."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from qcompiler.ir.plan import PLAN
from qcompiler.pass_manager import PassContext
from qcompiler.passes.insert_qdq import InsertQdq

if TYPE_CHECKING:
    from collections.abc import Container

    from numpy.typing import NDArray

    from qcompiler.ir.encoding import Encoding
    from qcompiler.ir.graph import Graph
    from qcompiler.ir.node import Node, Value
    from qcompiler.ir.plan import Plan, PlannedGroup, UsePoint


class QuantizedTwin:
    """The network as it will compute, as far as it has been decided: activations quantized, weights refined or float.

    Attributes:
        graph: The twin; nodes and values have the names that they have in the original.
    """

    def __init__(self, graph: Graph, plan: Plan, refined: Container[str]) -> None:
        """Quantizes the activations, and the weights that stay as they are.

        Args:
            graph: The float graph; not changed.
            plan: Its plan.
            refined: The nodes whose weights and biases are going to be replaced.
        """
        self.graph = graph.copy()
        groups = tuple(
            # With its offset in the code an encoding has the same values, and biases need not know of it.
            dataclasses.replace(group, offset="code")
            for group in plan.groups
            if not is_constant(graph, group) or not any(use.node in refined for use in group.uses)
        )
        self.graph.facts[PLAN] = dataclasses.replace(plan, groups=groups)
        InsertQdq().run(self.graph, PassContext())

    def unquantized(self, node: str, slot: int) -> Value:
        """What a use read, before it was quantized for it."""
        value = self._read(node, slot)
        quantize = self._quantize_of(value)
        source = value if quantize is None else quantize.input(0)
        assert source is not None
        return source

    def retune(self, group: PlannedGroup, encoding: Encoding) -> None:
        """Gives a group's uses another encoding of the same format."""
        scale = self.graph.add_constant(f"{group.name}.scale", np.array(encoding.scale))
        assert encoding.zero_point is not None
        zero = self.graph.add_constant(
            f"{group.name}.zero_point", encoding.zero_point.astype(encoding.format.dtype)
        )
        for use in group.uses:
            dequantize = self._read(use.node, use.slot).producer
            quantize = self._quantize_of(self._read(use.node, use.slot))
            for node in (quantize, dequantize) if quantize is not None and dequantize is not None else ():
                self.graph.set_input(node, 1, scale)
                self.graph.set_input(node, 2, zero)

    def set_layer(self, node: str, weights: NDArray[np.float32], bias: NDArray[np.float32] | None) -> None:
        """Replaces a layer's constants."""
        set_layer(self.graph, self.graph.node(node), weights, bias)

    def _read(self, node: str, slot: int) -> Value:
        value = self.graph.node(node).input(slot)
        assert value is not None
        return value

    def _quantize_of(self, value: Value) -> Node | None:
        dequantize = value.producer
        if dequantize is None or dequantize.op != "DequantizeLinear":
            return None
        codes = dequantize.input(0)
        quantize = codes.producer if codes is not None else None
        return quantize if quantize is not None and quantize.op == "QuantizeLinear" else None


def set_layer(
    graph: Graph, node: Node, weights: NDArray[np.float32], bias: NDArray[np.float32] | None
) -> None:
    """Gives a weighted node other weights and, unless None, another bias; the old constants stay for other readers."""
    weight, old = node.input(1), node.input(2)
    assert weight is not None
    graph.set_input(node, 1, graph.add_constant(f"{weight.name}.refined", weights))
    if bias is not None:
        hint = f"{node.name}.bias" if old is None else f"{old.name}.refined"
        graph.set_input(node, 2, graph.add_constant(hint, bias))


def is_constant(graph: Graph, group: PlannedGroup) -> bool:
    """Whether all that a group stands for are constants."""

    def constant(use: UsePoint) -> bool:
        value = graph.node(use.node).input(use.slot)
        return value is not None and value.is_constant

    return bool(group.uses) and not group.stored and all(map(constant, group.uses))
