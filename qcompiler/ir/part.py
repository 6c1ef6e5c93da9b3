"""A part of a graph as a graph of its own."""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import TYPE_CHECKING

from qcompiler.ir.graph import Graph, collector_paused

if TYPE_CHECKING:
    from qcompiler.ir.node import Node, Value


def ancestors(values: Iterable[Value], done: Container[Node] = ()) -> dict[Node, None]:
    """The nodes that compute the values, operands first, without those `done` and what only those need."""
    found: dict[Node, None] = {}
    entered: set[Node] = set()
    waiting = [value.producer for value in values if value.producer is not None]
    while waiting:
        node = waiting[-1]
        if node in found or node in done:
            waiting.pop()
        elif node in entered:
            found[node] = None
            waiting.pop()
        else:
            entered.add(node)
            waiting += [value.producer for _, value in node.operands() if value.producer is not None]
    return found


def cut_out(graph: Graph, nodes: Iterable[Node], outputs: Iterable[Value]) -> Graph:
    """The nodes as a graph: what they read from outside become its inputs, constants come along (arrays are shared).

    Args:
        graph: The whole.
        nodes: The part, operands first.
        outputs: What the part returns: values that its nodes compute, or that go in from outside.
    """
    part = Graph(graph.name)
    part.opset, part.other_opsets = graph.opset, dict(graph.other_opsets)
    with collector_paused():
        twins: dict[Value, Value] = {}

        def twin(value: Value | None) -> Value | None:
            if value is None:
                return None
            if value not in twins:
                if value.data is not None:
                    twins[value] = part.add_constant(value.name, value.data)
                else:
                    twins[value] = part.add_input(value.name, value.dtype, value.shape)
            return twins[value]

        for node in nodes:
            inputs = [twin(value) for value in node.inputs]
            for captured in node.captures:
                twin(captured)
            made = [
                None if value is None else part.add_value(value.name, value.dtype, value.shape)
                for value in node.outputs
            ]
            twins.update(
                {
                    old: new
                    for old, new in zip(node.outputs, made, strict=True)
                    if old is not None and new is not None
                }
            )
            part.add_node(
                node.op, inputs, made, node.attributes, name=node.name, domain=node.domain, origin=node.origin
            )
        part.set_outputs(filter(None, (twin(value) for value in dict.fromkeys(outputs))))
    part.journal.clear()
    return part
