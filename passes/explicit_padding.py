"""explicit_padding: gives the first layers explicit padding, so that their inputs can be centred."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from qcompiler import ops
from qcompiler.ir.facts import CANONICAL
from qcompiler.pass_manager import Effect, Pass, PassContext, PassResult
from qcompiler.regions import REGIONS

if TYPE_CHECKING:
    from qcompiler.ir.graph import Graph
    from qcompiler.ir.node import Node


@dataclass(frozen=True)
class ExplicitPadding(Pass):
    """Moves the zero padding of convolutions near the inputs into Pad nodes before them; exact.

    A target without zero points can store `x - c` with eight bits where plain symmetric codes of a Relu's output have
    seven, but only if nothing pads behind the subtraction. With an explicit Pad the padding comes before it. `depth` is how
    many weighted layers deep this reaches from the graph inputs: rounding done there passes through the whole network, and
    the Pad is fused into the epilogue that writes the quantized value.
    """

    name = "explicit_padding"
    effect = Effect.EXACT
    requires = (CANONICAL,)
    invalidates = (REGIONS,)

    depth: int = 2

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        """Rewrites Conv(x, pads=p) to Conv(Pad(x, p), pads=0)."""
        result = PassResult()
        depth: dict[Node, int] = {}
        for node in graph.nodes:
            above = max(
                (depth[value.producer] for _, value in node.operands() if value.producer is not None),
                default=0,
            )
            depth[node] = above + (ops.info(node).kind == "weighted")
            if node.is_op("Conv") and depth[node] <= self.depth and any(node.attributes.get("pads", ())):
                if not context.allow(f"{self.name} at {node.name}"):
                    continue
                _pad_before(graph, node)
                depth[node.inputs[0].producer] = above  # type: ignore[union-attr, index]
                result.count("convolutions")
        return result


def _pad_before(graph: Graph, node: Node) -> None:
    x = node.inputs[0]
    assert x is not None
    pads = list(node.attributes["pads"])
    rank = len(pads) // 2
    amounts = graph.add_constant(
        f"{node.name}.pads", np.array([0, 0, *pads[:rank], 0, 0, *pads[rank:]], np.int64)
    )
    shape = None
    if x.shape is not None:
        grown = [
            size + before + after if isinstance(size, int) else None
            for size, before, after in zip(x.shape[2:], pads[:rank], pads[rank:], strict=True)
        ]
        shape = (*x.shape[:2], *grown)
    padded = graph.add_value(f"{node.name}.padded", x.dtype, shape)
    graph.add_node(
        "Pad",
        [x, amounts],
        [padded],
        {"mode": b"constant"},
        name=f"{node.name}.pad",
        origin=[node],
        near=x.producer,
    )
    graph.set_input(node, 0, padded)
    graph.set_attribute(node, "pads", [0] * len(pads))
