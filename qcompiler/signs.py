"""Which values cannot be negative, as far as the operators tell: their minimum need not be computed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qcompiler import ops

if TYPE_CHECKING:
    from qcompiler.ir.graph import Graph
    from qcompiler.ir.node import Node, Value


def not_negative(graph: Graph) -> set[Value]:
    """The values that cannot hold a negative number, as far as the operators tell."""
    found = constants_not_negative(graph)
    for node in graph.topological():
        if keeps_sign(node, found):
            found.update(value for value in node.outputs if value is not None)
    return found


def constants_not_negative(graph: Graph) -> set[Value]:
    """The small constants that hold no negative number."""
    return {value for value in graph.constants if value.dtype is not None and _constant_not_negative(value)}


def _constant_not_negative(value: Value) -> bool:
    return (
        value.data is not None
        and value.data.dtype.kind in "fiu"
        and value.data.size <= 4096
        and bool((value.data >= 0).all())
    )


def keeps_sign(node: Node, known: set[Value]) -> bool:
    """Whether a node's outputs cannot be negative, given the values that are known not to be."""
    if node.domain:
        return False
    row = ops.info(node)
    if row.bounds(node)[0] >= 0:
        return True
    if node.op == "Clip":
        low = node.input(1)
        return low is not None and low in known
    if node.op == "Pad":
        return all(value is None or value in known for value in (node.input(0), node.input(2)))
    return row.keeps_sign and all(
        value is None or value in known for slot, value in enumerate(node.inputs) if row.role(slot) == "data"
    )
