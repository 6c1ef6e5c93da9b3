"""steps_to_pools: writes slices that step over rows and columns as pools of one element, for hardware whose slices have no steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from qcompiler.ir.facts import CANONICAL
from qcompiler.pass_manager import Effect, Level, Pass, PassContext, PassResult
from qcompiler.regions import REGIONS

if TYPE_CHECKING:
    from qcompiler.ir.graph import Graph
    from qcompiler.ir.node import Node

_FIRST_SPATIAL = 2  # of [N, C, spatial...]


@dataclass(frozen=True)
class StepsToPools(Pass):
    """Writes y = x[:, :, a:b:s, c:d:t] as y = MaxPool(x[:, :, a:b, c:d]) with windows of one element and strides s and t; exact.

    The slice in front is left out where it takes everything. Steps along other axes, and negative ones, are left alone.
    """

    name = "steps_to_pools"
    effect = Effect.EXACT
    requires = (CANONICAL,)
    invalidates = (REGIONS,)

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        """Rewrites Slice nodes with steps."""
        result = PassResult()
        for node in list(graph.topological()):
            bounds = _bounds(node) if node.is_op("Slice") else None
            if bounds is None or all(step == 1 for _, _, step in bounds.values()):
                continue
            x = node.input(0)
            rank = x.rank if x is not None else None
            if rank not in (3, 4) or any(
                step < 1 or (step > 1 and axis < _FIRST_SPATIAL) for axis, (_, _, step) in bounds.items()
            ):
                result.say(Level.NEAR_MISS, node.name, "its steps are not along rows and columns, forwards")
            elif context.allow(f"{self.name} at {node.name}"):
                with graph.deriving([node]):
                    _rewrite(graph, node, bounds, rank)
                result.count("slices")
        return result


def _bounds(node: Node) -> dict[int, tuple[int, int, int]] | None:
    """Axis to start, end and step, of a slice of a known shape; None where something is not known at compile time."""
    x = node.input(0)
    if x is None or x.is_constant or x.shape is None:
        return None
    given = [node.input(slot) for slot in range(1, 5)]
    if any(value is not None and value.data is None for value in given):
        return None
    listed = [
        None if value is None or value.data is None else np.asarray(value.data).reshape(-1).tolist()
        for value in given
    ]
    starts, ends, axes, steps = listed
    if starts is None or ends is None:
        return None
    axes, steps = axes or list(range(len(starts))), steps or [1] * len(starts)
    found = {}
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        size = x.shape[axis]
        if not isinstance(size, int):
            return None
        if step > 0:
            start, end, step = slice(start, end, step).indices(size)
        found[axis % len(x.shape)] = (start, end, step)
    return found


def _rewrite(graph: Graph, node: Node, bounds: dict[int, tuple[int, int, int]], rank: int) -> None:
    x, y = node.input(0), node.output
    assert x is not None
    assert x.shape is not None
    cut = {
        axis: (start, end) for axis, (start, end, _) in bounds.items() if (start, end) != (0, x.shape[axis])
    }
    if cut:
        numbers = zip(*((start, end, axis) for axis, (start, end) in cut.items()), strict=True)
        names = ("start", "end", "axis")
        constants = [
            graph.add_constant(f"{y.name}.{name}", np.array(given, np.int64))
            for name, given in zip(names, numbers, strict=True)
        ]
        shape = tuple(
            cut[axis][1] - cut[axis][0] if axis in cut else size for axis, size in enumerate(x.shape)
        )
        whole = graph.add_value(f"{y.name}.whole", y.dtype, shape)
        graph.add_node("Slice", [x, *constants], [whole], near=node)
        x = whole
    strides = [bounds[axis][2] if axis in bounds else 1 for axis in range(_FIRST_SPATIAL, rank)]
    pooled = graph.add_value(f"{y.name}.pooled", y.dtype, y.shape)
    attributes = {"kernel_shape": [1] * len(strides), "strides": strides}
    graph.add_node("MaxPool", [x], [pooled], attributes, near=node)
    graph.replace_node(node, pooled)
