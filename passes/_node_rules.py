"""Rules about one node: no pattern to walk, only a look at the node's operands and producers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qcompiler.rewrite import Rewrite, prune

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qcompiler.ir.graph import Graph
    from qcompiler.ir.node import Node, Value
    from qcompiler.patterns import Match


class NodeRule(Rewrite):
    """A rewrite anchored at single nodes; `patterns` names their operators."""

    def check(self, match: Match) -> str | None:
        """Leaves nodes that the rule is not about alone, without a word."""
        return None if self.applies(match.anchor) else ""

    def replace(self, graph: Graph, match: Match) -> Value | None:
        """See `apply`. What fed the node and is not needed any more goes: a dead reader would keep values shared."""
        fed = [
            value.producer
            for value in match.anchor.inputs
            if value is not None and value.producer is not None
        ]
        result = self.apply(graph, match.anchor)
        for node in fed:
            prune(graph, node)
        return result

    def applies(self, node: Node) -> bool:
        """Whether to change the node; must not cost much, most nodes are none of the rule's business."""
        return True

    def apply(self, graph: Graph, node: Node) -> Value | None:
        """Changes the graph; returns the value that stands for the node's output, or None if nothing was changed."""
        raise NotImplementedError


def put_constant(graph: Graph, node: Node, slot: int, data: NDArray[Any], hint: str = "") -> None:
    """Makes a node read these elements at a slot: in its own constant's place, or as a new one where that is shared."""
    old = node.input(slot)
    if old is not None and old.data is not None and old.only_use is not None:
        graph.set_data(old, data)
        return
    graph.set_input(
        node, slot, graph.add_constant(hint or (old.name if old is not None else f"{node.name}_{slot}"), data)
    )
