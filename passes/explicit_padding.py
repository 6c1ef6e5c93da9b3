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
    from qcompiler.ir.node import Node, Use, Value


@dataclass(frozen=True)
class ExplicitPadding(Pass):
    """Moves the zero padding of convolutions near the inputs into Pad nodes before them; exact.

    A target without zero points can store `x - c` with eight bits where plain symmetric codes of a Relu's output have
    seven, but only if nothing pads behind the subtraction. With an explicit Pad the padding comes before it. `depth` is how
    many weighted layers deep this reaches from the graph inputs: rounding done there passes through the whole network, and
    the Pad is fused into the epilogue that writes the quantized value. Other readers of x get the padded value with the
    padding cut off again, so that one stored value serves all.
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
        padded: dict[tuple[Value, tuple[int, ...]], Value] = {}
        for node in graph.nodes:
            above = max(
                (depth[value.producer] for _, value in node.operands() if value.producer is not None),
                default=0,
            )
            depth[node] = above + (ops.info(node).kind == "weighted")
            pads = tuple(node.attributes.get("pads", ()))
            if not node.is_op("Conv") or depth[node] > self.depth or not any(pads):
                continue
            if not context.allow(f"{self.name} at {node.name}"):
                continue
            with graph.deriving([node]) as made:
                _pad_before(graph, node, pads, padded)
            depth.update(dict.fromkeys(made, above))
            result.count("convolutions")
        return result


def _pad_before(
    graph: Graph, node: Node, pads: tuple[int, ...], padded: dict[tuple[Value, tuple[int, ...]], Value]
) -> None:
    x = node.inputs[0]
    assert x is not None
    if (x, pads) not in padded:
        others = [use for use in x.uses if use.node is not node and not _pads_alike(use, pads)]
        padded[x, pads] = _padded(graph, x, pads, node)
        if others:
            graph.replace_uses(x, _cut(graph, padded[x, pads], x, pads, node), others)
    graph.set_input(node, 0, padded[x, pads])
    graph.set_attribute(node, "pads", [0] * len(pads))


def _pads_alike(use: Use, pads: tuple[int, ...]) -> bool:
    return use.slot == 0 and use.node.is_op("Conv") and tuple(use.node.attributes.get("pads", ())) == pads


def _padded(graph: Graph, x: Value, pads: tuple[int, ...], node: Node) -> Value:
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
    output = graph.add_value(f"{node.name}.padded", x.dtype, shape)
    graph.add_node(
        "Pad", [x, amounts], [output], {"mode": b"constant"},
        name=f"{node.name}.pad", origin=[node], near=x.producer,
    )  # fmt: skip
    return output


def _cut(graph: Graph, padded: Value, x: Value, pads: tuple[int, ...], node: Node) -> Value:
    """The padded value without its padding: x again."""
    rank = len(pads) // 2
    ends = [-after if after else np.iinfo(np.int64).max for after in pads[rank:]]
    limits = [
        graph.add_constant(f"{node.name}.cut_{kind}", np.array(numbers, np.int64))
        for kind, numbers in (("starts", pads[:rank]), ("ends", ends), ("axes", range(2, 2 + rank)))
    ]
    output = graph.add_value(f"{node.name}.cut", x.dtype, x.shape)
    graph.add_node(
        "Slice",
        [padded, *limits],
        [output],
        name=f"{node.name}.cut_padding",
        origin=[node],
        near=padded.producer,
    )
    return output
