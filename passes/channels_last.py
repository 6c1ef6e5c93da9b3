"""channels_last: stores images channels last, so that nothing is transposed at run time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import networkx as nx

from qcompiler import ops
from qcompiler.ir.facts import SHAPES
from qcompiler.layout import LAYOUT, Layout, channels_last
from qcompiler.pass_manager import Effect, Level, Pass, PassContext, PassResult
from qcompiler.passes._flattened_images import turn_flattened

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qcompiler.ir.graph import Graph
    from qcompiler.ir.node import Node, Value
    from qcompiler.layout import Order

Rim = Literal["auto", "channels-last", "as-model"]


@dataclass(frozen=True)
class ChannelsLast(Pass):
    """Chooses how every value is stored: images channels last, everything else in the order of its own axes.

    The graph keeps its operators and their meaning; what changes is the fact LAYOUT. Values that element-wise operators tie
    together share one order: channels last where a convolution, a pool or a resizing reads or writes one of them. Transposes
    carry the choice on to what they read and write, so that those of a model exported from channels-last frameworks move
    nothing. Where an image is flattened for a matrix product, the rows of the constant matrix are put into the order in which the image
    is stored; so are the columns of one whose result becomes an image.

    What still has to be transposed at run time is told, with its size.

    Attributes:
        inputs: How the graph's inputs are stored: "auto" (what takes no transposition), "channels-last", or "as-model".
        outputs: How its outputs are stored.
    """

    name = "channels_last"
    effect = Effect.EXACT
    requires = (SHAPES,)
    establishes = (LAYOUT,)

    inputs: Rim = "auto"
    outputs: Rim = "auto"

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        """Establishes LAYOUT."""
        result = PassResult()
        for what, count in turn_flattened(graph, _chosen(graph), context).items():
            result.count(what, count)
        orders = dict(_chosen(graph).orders)
        for rim, values in ((self.inputs, graph.inputs), (self.outputs, graph.outputs)):
            for value in values if rim != "auto" else ():
                rank = value.rank or 0
                orders[value.name] = channels_last(rank) if rim == "channels-last" else tuple(range(rank))
        layout = Layout({name: order for name, order in orders.items() if order != tuple(range(len(order)))})
        graph.facts[LAYOUT] = layout
        for node, value, count in moved(graph, layout):
            result.say(
                Level.INFO,
                node.name,
                f"{node.op} moves {value.name} ({count} elements of a sample) into another order at run time",
            )
        return result


def moved(graph: Graph, layout: Layout) -> Iterator[tuple[Node, Value, int]]:
    """What is transposed at run time: the node that asks for it, what is moved, and elements per sample."""
    for node in graph.topological():
        wish = ops.info(node).layout
        x = node.input(0)
        if wish in ("transpose", "reshape"):
            if x is not None and not x.is_constant and not layout.is_free(node):
                yield node, x, _elements(x)
            continue
        for value in _tied(node):
            if (
                value.rank is not None
                and layout.order_of(value) != _wanted(node, value, layout)
                and _is_moved(value)
            ):
                yield node, value, _elements(value)


def _wanted(node: Node, value: Value, layout: Layout) -> Order:
    """The order in which a node reads or writes a value."""
    wish, rank = ops.info(node).layout, value.rank or 0
    if wish == "channels-last":
        return channels_last(rank)
    made = node.output
    if wish == "alike" and made.rank == rank:
        return layout.order_of(made)
    return tuple(range(rank))


def _is_moved(value: Value) -> bool:
    """Whether another order moves anything: more than one axis has more than one element."""
    dims = [dim for dim in (value.shape or ()) if dim != 1]
    return len(dims) - sum(not isinstance(dim, int) for dim in dims) > 1


def _elements(value: Value) -> int:
    return math.prod(dim for dim in value.shape or () if isinstance(dim, int))


def _tied(node: Node) -> list[Value]:
    """The computed values that a node reads as data or writes."""
    row = ops.info(node)
    read = [
        value
        for slot, value in enumerate(node.inputs)
        if value is not None and not value.is_constant and row.role(slot) == "data"
    ]
    return [*read, *(value for value in node.outputs if value is not None)]


def _chosen(graph: Graph) -> Layout:
    """An order for every value: by what is tied to it, then by what Transposes carry on."""
    sets: nx.utils.UnionFind = nx.utils.UnionFind()
    order: dict[Value, Order] = {}
    for node in graph.topological():
        values = [value for value in _tied(node) if value.rank is not None]
        if ops.info(node).layout == "alike" and values:
            sets.union(*(value for value in values if value.rank == node.output.rank))
    for wish in ("channels-last", "as-is"):  # an image stays one, though something reads it in its own order
        for node in graph.topological():
            if ops.info(node).layout == wish:
                for value in _tied(node):
                    if value.rank is not None:
                        order.setdefault(sets[value], _wanted(node, value, Layout()))
    _carry_on(graph, sets, order)
    values = [
        *graph.inputs,
        *(value for node in graph.topological() for value in node.outputs if value is not None),
    ]
    return Layout({value.name: order[sets[value]] for value in values if sets[value] in order})


def _carry_on(graph: Graph, sets: nx.utils.UnionFind, order: dict[Value, Order]) -> None:
    """Gives what Transposes lead to, or come from, the order in which they move nothing, if it has none yet."""
    turns = [node for node in graph.topological() if ops.info(node).layout == "transpose"]
    for node in [*turns, *reversed(turns)]:
        x, y = node.input(0), node.output
        if x is None or x.is_constant or x.rank is None or y.rank is None:
            continue
        turn: tuple[int, ...] = tuple(node.attributes.get("perm") or reversed(range(x.rank)))
        if sets[x] in order and sets[y] not in order:
            back = {axis: place for place, axis in enumerate(turn)}
            order[sets[y]] = tuple(back[axis] for axis in order[sets[x]])
        elif sets[y] in order and sets[x] not in order:
            order[sets[x]] = tuple(turn[axis] for axis in order[sets[y]])
