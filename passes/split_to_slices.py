"""split_to_slices: writes a Split as a Slice for every part, for targets whose kernels have one result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from qcompiler.ir.facts import CANONICAL
from qcompiler.pass_manager import Effect, Level, Pass, PassContext, PassResult
from qcompiler.regions import REGIONS

if TYPE_CHECKING:
    from qcompiler.ir.graph import Graph
    from qcompiler.ir.node import Node, Value


@dataclass(frozen=True)
class SplitToSlices(Pass):
    """Writes Split nodes as one Slice per part that is used; exact.

    Patterns of kernels describe nodes with one result. As slices, parts are copied one by one, or not at all where they are read in
    place. A Split whose sizes are not known at compile time is left alone.
    """

    name = "split_to_slices"
    effect = Effect.EXACT
    requires = (CANONICAL,)
    invalidates = (REGIONS,)

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        """Rewrites a, b = Split(x) to a = Slice(x), b = Slice(x)."""
        result = PassResult()
        for node in list(graph.topological()):
            if not node.is_op("Split"):
                continue
            sizes = _sizes(node)
            if sizes is None:
                result.say(Level.NEAR_MISS, node.name, "the sizes of its parts are not known at compile time")
            elif context.allow(f"{self.name} at {node.name}"):
                with graph.deriving([node]):
                    graph.replace_node(node, *_slices(graph, node, sizes))
                result.count("splits")
        return result


def _sizes(node: Node) -> list[int] | None:
    """The sizes of the parts: those given, or equal ones of which the last may be smaller."""
    x, given = node.input(0), node.input(1)
    if x is None or x.is_constant:
        return None
    if given is not None:
        return None if given.data is None else [int(size) for size in np.asarray(given.data).reshape(-1)]
    axis = int(node.attributes.get("axis", 0))
    whole = x.shape[axis] if x.shape is not None else None
    if not isinstance(whole, int):
        return None
    part = -(-whole // len(node.outputs))
    return [min(part, whole - at * part) for at in range(len(node.outputs))]


def _slices(graph: Graph, node: Node, sizes: list[int]) -> list[Value | None]:
    """The parts; None for those that nothing reads."""
    x, axis = node.input(0), int(node.attributes.get("axis", 0))
    made: list[Value | None] = []
    start = 0
    for part, size in zip(node.outputs, sizes, strict=True):
        if part is None or not (part.uses or part.is_output):
            made.append(None)
        else:
            bounds = [
                graph.add_constant(f"{part.name}.{what}", np.array([number]))
                for what, number in (("start", start), ("end", start + size), ("axis", axis))
            ]
            value = graph.add_value(f"{part.name}.slice", part.dtype, part.shape)
            graph.add_node("Slice", [x, *bounds], [value], near=node)
            made.append(value)
        start += size
    return made
