"""One form per operation, so that every later pass and every kernel table has to know one only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from qcompiler.ir.facts import CANONICAL, SHAPES, Fact
from qcompiler.ir.shapes import infer_shapes
from qcompiler.pass_manager import Effect, Pass, PassContext, PassResult
from qcompiler.passes import (
    _canonical_axes,
    _canonical_clip,
    _canonical_layout,
    _canonical_linear,
    _canonical_noop,
    _canonical_spatial,
)
from qcompiler.passes._operands import constant_node_data
from qcompiler.rewrite import Rewrite, apply_rewrites

if TYPE_CHECKING:
    from qcompiler.ir.graph import Graph
    from qcompiler.ir.node import Value

_REWRITES: tuple[type[Rewrite], ...] = (
    *_canonical_noop.RULES,
    *_canonical_clip.RULES,
    *_canonical_linear.RULES,
    *_canonical_spatial.RULES,
    *_canonical_layout.RULES,
    *_canonical_axes.RULES,
)


@dataclass(frozen=True)
class Canonicalize(Pass):
    """Writes every operation in one form.

    Constants are values, not nodes. What does nothing is gone. A linear layer over a matrix is
    Gemm(x, w[N, K], b[N]); constants stand second; subtraction and exact division of constants are Add and Mul; bounds
    are Clip with constant scalars, or Relu; padding is an attribute; attributes of convolutions and pooling are stated;
    pooling over everything is global; flattening is Flatten(axis=1).
    """

    name: ClassVar[str] = "canonicalize"
    effect: ClassVar[Effect] = Effect.EXACT
    establishes: ClassVar[tuple[Fact[Any], ...]] = (SHAPES, CANONICAL)

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        """Applies the rewrites to a fixed point."""
        result = PassResult()
        result.count("turn Constant into value", _constant_nodes_to_values(graph, context))
        if SHAPES not in graph.facts:
            infer_shapes(graph)
        while True:
            found = apply_rewrites(graph, [rewrite() for rewrite in _REWRITES], context)
            for kind, number in found.counts.items():
                result.count(kind, number)
            if not found.changed or not any(_is_open(value) for value in graph.values):
                break
            infer_shapes(graph)  # a simpler graph may tell inference more
        result.diagnostics += found.diagnostics
        if graph.remove_dead():
            result.count("remove dead nodes")
        graph.facts[CANONICAL] = True
        return result


def _is_open(value: Value) -> bool:
    return value.shape is None or None in value.shape or (value.dtype is None and value.other_type is None)


def _constant_nodes_to_values(graph: Graph, context: PassContext) -> int:
    moved = 0
    for node in graph.nodes:
        data = constant_node_data(node) if node.is_op("Constant") else None
        if (
            data is None
            or not node.output.uses
            or not context.allow(f"turn Constant into value at {node.name}")
        ):
            continue
        output = node.output
        name, kept = output.name, output.is_output
        value = graph.add_constant(f"{name}_value", data)
        graph.replace_uses(output, value, list(output.uses))
        if not kept:
            graph.remove(node)
            graph.rename(value, name)
        moved += 1
    return moved
