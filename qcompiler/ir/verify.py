"""The invariants of a graph, checked after every pass."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from qcompiler.errors import ModelError

if TYPE_CHECKING:
    from qcompiler.ir.graph import Graph
    from qcompiler.ir.node import Node, Value


def verify(graph: Graph) -> None:
    """Checks names, producers, use lists, outputs and acyclicity in time linear in the graph.

    Raises:
        ModelError: Names the invariant and the node or value that breaks it.
    """
    inputs = set(graph.inputs)
    returned = Counter(graph.outputs)
    for name, value in graph._values.items():
        if value.name != name or value.graph is not graph:
            raise ModelError(f"Value {value.name!r} is filed under {name!r} or belongs to another graph.")
        if value.data is not None and value.producer is not None:
            raise ModelError(f"Value {name!r} is both a constant and the output of {value.producer.name!r}.")
        for use in value.uses:
            if use.node not in graph or use.node.operand(use.slot) is not value:
                raise ModelError(
                    f"Value {name!r} lists a use by {use.node.name!r} slot {use.slot} that does not exist."
                )
        if value._outputs != returned[value]:
            raise ModelError(
                f"Value {name!r} counts {value._outputs} uses as a graph output, not {returned[value]}."
            )
    names: set[str] = set()
    for node in graph._nodes:
        if node.name in names:
            raise ModelError(f"Two nodes are named {node.name!r}; names must be unique in a graph.")
        names.add(node.name)
        _verify_node(graph, node, inputs)
    for value in graph.outputs:
        if graph._values.get(value.name) is not value:
            raise ModelError(f"The graph returns {value.name!r}, which is not in it.")
        if value.is_input and value not in inputs:
            raise ModelError(f"The graph returns {value.name!r}, which nothing computes.")
    graph.topological()  # at last: sorting relies on what was checked above


def _verify_node(graph: Graph, node: Node, inputs: set[Value]) -> None:
    captured = {name for body in node.subgraphs for name in body.captures}
    if captured != {value.name for value in node.captures}:
        raise ModelError(
            f"The bodies of node {node.name!r} read {', '.join(sorted(captured)) or 'nothing'} from outside, which is not "
            "what the graph knows."
        )
    for slot, value in node.operands():
        if graph._values.get(value.name) is not value:
            raise ModelError(
                f"Node {node.name!r} ({node.op}) reads {value.name!r}, which is not in the graph."
            )
        if (node, slot) not in value.uses:
            raise ModelError(
                f"Node {node.name!r} reads {value.name!r} at slot {slot}, but the use list does not say so."
            )
        if value.is_input and value not in inputs:
            raise ModelError(
                f"Node {node.name!r} ({node.op}) reads {value.name!r}, which is no graph input, no constant, and no "
                "node's output: the edge dangles."
            )
    for output in node.outputs:
        if output is not None and (
            output.producer is not node or graph._values.get(output.name) is not output
        ):
            raise ModelError(f"Output {output.name!r} of node {node.name!r} does not point back to it.")
    if not node.origin:
        raise ModelError(f"Node {node.name!r} has lost its origin.")
