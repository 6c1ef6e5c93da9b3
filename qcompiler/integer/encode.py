"""encode: a graph, its plan and its layout as a program of integer operations, and of floats where a target has them beside.

It follows the plan region by region and decides nothing: encodings come from the plan, storage orders from the layout, rounding
from the target's kernels. What an operator is in integers is said once, in the table `RULES` that the `encode_*` modules fill.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qcompiler.dimensions import set_input_shapes
from qcompiler.errors import ModelError, TargetError
from qcompiler.integer import (  # noqa: F401 - they register what they encode
    encode_linear,
    encode_movement,
    encode_pointwise,
    encode_pooling,
    encode_resizing,
)
from qcompiler.integer.encoder import RULES, Encoder, Tile
from qcompiler.ir.plan import planned_graph
from qcompiler.ir.shapes import infer_shapes
from qcompiler.layout import LAYOUT, Layout
from qcompiler.target import Kernel

if TYPE_CHECKING:
    from qcompiler.integer.program import Program
    from qcompiler.ir.graph import Graph
    from qcompiler.ir.node import Shape
    from qcompiler.ir.plan import Plan
    from qcompiler.target import Target

_NONE = Kernel("", "")  # of regions that are refused


def encode_planned(graph: Graph, plan: Plan, target: Target, *, floats: bool = False) -> Program:
    """Makes the program of a reference graph; see `encode`.

    Args:
        graph: The reference graph, with Q/DQ.
        plan: Its plan.
        target: The target.
        floats: Whether floats have a form, too.

    Raises:
        TargetError: The pipeline has not written the plan into the graph.
    """
    return encode(planned_graph(graph), plan, target, floats=floats)


def encode(graph: Graph, plan: Plan, target: Target, *, floats: bool = False) -> Program:
    """Makes the program.

    Args:
        graph: The graph that the plan speaks of, without Q/DQ; its fact LAYOUT is followed if it holds.
        plan: Its plan.
        target: Whose kernels say how to round.
        floats: Whether regions of a kernel without quantized operands, or with quantized weights only, have a form.

    Raises:
        TargetError: Regions stay float that must not, or have no form; all are listed.
        ModelError: A dimension other than the batch is open.
    """
    layout = graph.facts.get(LAYOUT) or Layout({})
    graph = _with_fixed_shapes(graph)
    nodes = {node.name: node for node in graph.topological()}
    kernels = {kernel.name: kernel for kernel in target.kernel}
    tiles = [
        Tile(
            tuple(nodes[name] for name in region.nodes),
            region,
            kernels.get(region.kernel, _NONE),
        )
        for region in plan.regions
    ]
    _refuse(tiles, target, floats=floats)
    encoder = Encoder(graph, plan, layout, floats=floats)
    for tile in tiles:
        encoder.encode(tile)
    return encoder.program()


def _refuse(tiles: list[Tile], target: Target, *, floats: bool) -> None:
    """Raises a TargetError that lists every region without a form: all that stay float where floats have none."""
    found = []
    for tile in tiles:
        operators = "+".join(node.op for node in tile.nodes)
        if not tile.planned.kernel:
            reasons = "; ".join(item.reason for item in tile.planned.refused) or "no kernel covers it"
        elif not tile.planned.row:
            integer = {row.name for row in tile.kernel.row if target.is_quantized(row)}
            listed = (f"{item.row}: {item.reason}" for item in tile.planned.refused if item.row in integer)
            reasons = "; ".join(listed) or tile.planned.reason
        elif tile.anchor.op not in RULES:
            reasons = f"{tile.anchor.op} has no {'' if floats else 'integer '}form here"
        else:
            continue
        found.append(f"{tile.planned.name} ({operators}): {reasons}")
    if found:
        regions = "\n  ".join(found)
        raise TargetError(
            f"{target.label} {'has no form for' if floats else 'computes in integers only, and'} {len(found)} of {len(tiles)} regions"
            f"{'' if floats else ' cannot be'}:\n  {regions}\n"
            "Replace these operators in the model, or cut them off (before the quantized part, or behind it)."
        )


def _with_fixed_shapes(graph: Graph) -> Graph:
    """A copy for one sample: open batch axes become 1, and every shape follows from that.

    Raises:
        ModelError: Another dimension is open.
    """
    copy = graph.copy()
    batch: dict[str, int] = {}
    shapes: dict[str, Shape] = {}
    for value in copy.inputs:
        if value.shape is None:
            raise ModelError(
                f"The input {value.name!r} has no shape; give it one before compiling for integers."
            )
        if value.shape and isinstance(value.shape[0], str):
            batch[value.shape[0]] = 1
        shape = tuple(
            1 if (axis == 0 and not isinstance(dim, int)) else batch.get(str(dim), dim)
            for axis, dim in enumerate(value.shape)
        )
        for axis, dim in enumerate(shape):
            if not isinstance(dim, int):
                raise ModelError(
                    f"Dimension {axis} ({dim or 'unnamed'}) of the input {value.name!r} is open, and this target plans memory ahead of "
                    f"time. Fix it: --dimension {value.name}:{axis}=SIZE."
                )
        shapes[value.name] = shape
    set_input_shapes(copy, shapes)
    infer_shapes(copy)
    return copy
