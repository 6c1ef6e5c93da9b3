"""What operators ask of the storage orders of what they read and write, and what it costs not to get it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from qcompiler import ops
from qcompiler.layout import (
    carried_order,
    channels_last,
    own_order,
    permutation,
    reshaped_order,
    same_storage,
)

if TYPE_CHECKING:
    from qcompiler.ir.graph import Graph
    from qcompiler.ir.node import Node, Value
    from qcompiler.layout import Layout, Order

Change = Callable[["Order"], "Order | None"]

MOVE = 1 << 40
"""The cost of moving a byte; all other costs together are less, and only decide between choices that move as many."""
_CONVERSION = 1 << 8
"""Where something is moved for an operator, that is one more tensor and one more step than where one moves what it reads anyway."""
_NAME = 1
"""One storage under two orders: they differ in the places of axes of size 1 alone."""


@dataclass(frozen=True)
class Wish:
    """What a node asks of one value, whatever the others are.

    Attributes:
        node: The node.
        value: What it reads or writes.
        reads: Which of the two.
        wanted: From the value's order to the one asked for.
        fixed: The order asked for, where it is always the same.
    """

    node: Node
    value: Value
    reads: bool
    wanted: Change
    fixed: Order | None = None

    def cost(self, order: Order) -> int:
        """What it costs to store the value in an order."""
        return _cost(self.value, order, self.wanted(order), _CONVERSION)


@dataclass(frozen=True)
class Tie:
    """An operand and a result of a node whose orders belong together.

    Attributes:
        node: The node.
        x: The operand.
        y: The result.
        forward: From the operand's order to that of the result which takes no move.
        backward: The reverse; None where several orders of the operand lead to one of the result.
    """

    node: Node
    x: Value
    y: Value
    forward: Change
    backward: Change | None

    @property
    def moved(self) -> Value:
        """What is brought into another order where the two do not fit: the operand wherever that is possible."""
        return self.y if self.backward is None else self.x

    def cost(self, given: Order, made: Order) -> int:
        """What it costs to store the operand in one order and the result in another."""
        extra = 0 if _rearranges(self.node) else _CONVERSION
        if self.backward is None:
            return _cost(self.y, made, self.forward(given), extra)
        return _cost(self.x, given, self.backward(made), extra)


@dataclass(frozen=True)
class Move:
    """What is transposed at run time.

    Attributes:
        node: The node that asks for it.
        value: What is moved.
        size: Bytes of one sample.
    """

    node: Node
    value: Value
    size: int


def bytes_of(value: Value) -> int:
    """The bytes of a value as the graph has it; open dimensions, the batch for one, count as 1."""
    width = value.dtype.itemsize if value.dtype is not None else 4
    return width * math.prod(dim for dim in value.shape or () if isinstance(dim, int))


def _cost(value: Value, stored: Order, wanted: Order | None, extra: int) -> int:
    if stored == wanted:
        return 0
    assert value.shape is not None
    fits = wanted is not None and same_storage(value.shape, stored, wanted)
    return _NAME if fits else MOVE * bytes_of(value) + extra


def moves(graph: Graph, layout: Layout) -> Iterator[Move]:
    """What is transposed at run time, in graph order; what several nodes read in one other order is moved once."""
    read: set[tuple[Value, Order]] = set()
    for node in graph.topological():
        for value, wanted in _mismatches(node, layout):
            if wanted is not None and (value, wanted) in read:
                continue
            if wanted is not None:
                read.add((value, wanted))
            yield Move(node, value, bytes_of(value))


def _mismatches(node: Node, layout: Layout) -> Iterator[tuple[Value, Order | None]]:
    """What a node moves, and the order in which it reads that; None where the move is the node's own work or its result."""
    for wish in wishes_of(node):
        order = layout.order_of(wish.value)
        if wish.cost(order) >= MOVE:
            yield wish.value, wish.wanted(order) if wish.reads else None
    for tie in ties_of(node):
        made = layout.order_of(tie.y)
        if tie.cost(layout.order_of(tie.x), made) >= MOVE:
            shared = tie.backward is not None and not _rearranges(node)
            yield tie.moved, tie.backward(made) if tie.backward is not None and shared else None


def _rearranges(node: Node) -> bool:
    return ops.info(node).layout in ("transpose", "reshape")


def wishes_of(node: Node) -> list[Wish]:
    """What a node asks of each value that it reads or writes on its own account."""
    layout, tied = ops.info(node).layout, bool(ties_of(node))
    found = []
    for slot, value in _stored(node):
        reads = slot is not None
        if layout == "channels-last" and (slot is None or ops.info(node).role(slot) == "data"):
            found.append(_fixed(node, value, reads, channels_last(value.rank or 0)))
        elif layout == "axis-last" and tied:
            found.append(Wish(node, value, reads, _ending_with(node, value.rank or 0)))
        elif not tied:
            found.append(_fixed(node, value, reads, own_order(value.rank or 0)))
    return found


def _fixed(node: Node, value: Value, reads: bool, order: Order) -> Wish:
    return Wish(node, value, reads, lambda _: order, order)


def _ending_with(node: Node, rank: int) -> Change:
    axis = int(node.attributes.get("axis", -1)) % rank if rank else 0
    return lambda order: (*(other for other in order if other != axis), axis) if rank else order


def _stored(node: Node) -> Iterator[tuple[int | None, Value]]:
    """The computed values of known rank that a node reads, with their slots, and those that it writes, with None."""
    for slot, value in node.operands():
        if not value.is_constant and value.rank is not None:
            yield slot, value
    for output in node.outputs:
        if output is not None and output.rank is not None:
            yield None, output


def ties_of(node: Node) -> list[Tie]:
    """The orders that a node lets vary together; none where it asks for certain ones, or where ranks are not known."""
    layout = ops.info(node).layout
    if layout not in ("alike", "axis-last", "transpose", "reshape"):
        return []
    results = [value for slot, value in _stored(node) if slot is None]
    operands = [value for slot, value in _stored(node) if slot is not None and slot < len(node.inputs)]
    if _rearranges(node):  # whatever else they read are sizes and axes
        operands = [value for value in operands if value is node.input(0)]
    ties = [_tie(node, x, y) for x in dict.fromkeys(operands) for y in results]
    known = [tie for tie in ties if tie is not None]
    whole = len(known) == len(ties) and len(results) == sum(value is not None for value in node.outputs)
    return known if whole else []


def _tie(node: Node, x: Value, y: Value) -> Tie | None:
    assert x.rank is not None
    assert y.rank is not None
    if _rearranges(node):
        return _rearranging(node, x, y)
    missing = y.rank - x.rank
    if missing >= 0:  # broadcast: the operand's axes are the result's last ones
        return Tie(
            node, x, y, lambda order: _widened(order, missing), lambda order: _narrowed(order, missing)
        )
    gone = _reduced_axes(node, x.rank)
    if gone is None or len(gone) != -missing:
        return None
    return Tie(node, x, y, lambda order: _without(order, gone), None)


def _rearranging(node: Node, x: Value, y: Value) -> Tie | None:
    before, after, turn = x.shape, y.shape, permutation(node)
    if node.op == "Transpose" and turn is not None:
        return Tie(
            node,
            x,
            y,
            lambda order: carried_order(node, order),
            lambda order: tuple(turn[axis] for axis in order),
        )
    assert before is not None
    assert after is not None
    return Tie(
        node,
        x,
        y,
        lambda order: reshaped_order(order, before, after),
        lambda order: reshaped_order(order, before, after, back=True),
    )


def _widened(order: Order, missing: int) -> Order:
    return (*range(missing), *(axis + missing for axis in order))


def _narrowed(order: Order, missing: int) -> Order:
    return tuple(axis - missing for axis in order if axis >= missing)


def _without(order: Order, gone: tuple[int, ...]) -> Order:
    """The order of what is left when axes go."""
    left = [axis for axis in order if axis not in gone]
    ranks = {axis: rank for rank, axis in enumerate(sorted(left))}
    return tuple(ranks[axis] for axis in left)


def _reduced_axes(node: Node, rank: int) -> tuple[int, ...] | None:
    """The axes that a reduction takes away; None where they are computed."""
    given = node.input(1)
    if given is not None:
        axes = None if given.data is None else np.asarray(given.data).reshape(-1).tolist()
    else:
        axes = node.attributes.get(
            "axes", [node.attributes.get("axis", 0)] if node.op.startswith("Arg") else range(rank)
        )
    return None if axes is None else tuple(sorted(int(axis) % rank for axis in axes))
