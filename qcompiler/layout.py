"""Layouts: in which order the axes of values are stored. Like encodings, they belong to values; the graph keeps its meaning.

A storage order lists a value's axes, outermost first: (0, 2, 3, 1) stores the NCHW value of an image channels last. What
reads another order than its value has is a conversion, which whoever lowers the graph has to write. An operator that only
rearranges (Transpose, Reshape and its like) is free where the storage of its result is, byte for byte, that of its operand.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from qcompiler import ops
from qcompiler.ir.facts import Fact

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qcompiler.ir.node import Dim, Node, Shape, Value

Order = tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """The storage orders of a graph's values.

    Attributes:
        orders: By value name; values that are not listed are stored in their own order.
    """

    orders: Mapping[str, Order] = field(default_factory=dict)

    def order_of(self, value: Value) -> Order:
        """The order in which a value is stored.

        Raises:
            ValueError: Its rank is not known.
        """
        found = self.orders.get(value.name)
        if found is not None:
            return found
        if value.rank is None:
            raise ValueError(f"the rank of {value.name!r} is not known")
        return own_order(value.rank)

    def is_free(self, node: Node) -> bool:
        """Whether a node that only rearranges leaves every byte where it is; False where shapes do not tell."""
        x, y = node.input(0), node.output
        if x is None or x.rank is None or y.shape is None:
            return False
        carried = carried_order(node, self.order_of(x))
        return carried is not None and same_storage(y.shape, carried, self.order_of(y))


LAYOUT = Fact[Layout]("layout", "the order in which every value is stored has been chosen", True)


def own_order(rank: int) -> Order:
    """The order of a value's own axes."""
    return tuple(range(rank))


def channels_last(rank: int) -> Order:
    """The order that stores axis 1, the channels, innermost; tensors of less than three axes have their own order."""
    return (0, *range(2, rank), 1) if rank > 2 else own_order(rank)


def storage_shape(shape: tuple[int, ...], order: Order) -> tuple[int, ...]:
    """The shape of a tensor as it is stored."""
    return tuple(shape[axis] for axis in order)


def to_storage(array: NDArray[Any], order: Order) -> NDArray[Any]:
    """An array of a value as it is stored."""
    return array.transpose(order)


def from_storage(array: NDArray[Any], order: Order) -> NDArray[Any]:
    """A stored array as the value that it is."""
    return array.transpose(np.argsort(order))


def same_storage(shape: Shape, first: Order, second: Order) -> bool:
    """Whether two orders store a tensor in the same way: axes of size 1 may stand anywhere."""
    moving = [[axis for axis in order if shape[axis] != 1] for order in (first, second)]
    return moving[0] == moving[1]


def carried_order(node: Node, order: Order) -> Order | None:
    """The order in which a node that only rearranges gives the bytes of its operand as they are, if there is one.

    Args:
        node: A Transpose, Identity, or an operator that changes what the axes are.
        order: The order in which its first operand is stored.
    """
    x, y = node.input(0), node.output
    if node.op == "Transpose":
        turn = permutation(node)
        return tuple(turn.index(axis) for axis in order) if turn is not None else None
    if node.op == "Identity":
        return order
    if ops.info(node).layout != "reshape" or x is None or x.shape is None or y.shape is None:
        return None
    return reshaped_order(order, x.shape, y.shape)


def permutation(node: Node) -> Order | None:
    """The axes of its operand that a Transpose puts in each place; None where the rank does not tell."""
    given, x = node.attributes.get("perm"), node.input(0)
    if given is not None:
        return tuple(int(axis) for axis in given)
    return tuple(reversed(range(x.rank))) if x is not None and x.rank is not None else None


def reshaped_order(order: Order, before: Shape, after: Shape, *, back: bool = False) -> Order | None:
    """The order in which a reshaped tensor has to be stored so that no byte moves.

    Both shapes are cut into the same parts, the sizes that they have in common: [N, 6, H, W] and [N, 2, 3, H, W] into
    N, 2, 3, H, W. An order is a sequence of parts, and one of the result exists where each of its axes is a run of them.

    Args:
        order: How the tensor is stored.
        before: Its shape.
        after: The shape that it gets.
        back: Whether the order is that of the result instead, and the tensor's is asked for.

    Returns:
        None where there is no such order, or none that is certain: open sizes may hide it, and so do axes that are cut unevenly,
        as from [4, 6] to [6, 4].
    """
    source, target = (after, before) if back else (before, after)
    if same_storage(source, order, own_order(len(source))):
        return own_order(len(target))  # whatever the sizes are
    sizes = _in_numbers(before, after)
    parts = _common_parts(*sizes) if sizes is not None else None
    if parts is None:
        return None
    given, made = parts[::-1] if back else parts
    stored = [part for axis in order for part in given[axis]]
    places = {part: place for place, part in enumerate(stored)}
    keys, place = [], len(stored)
    for pieces in reversed(made):  # an axis of size 1 stands before the next axis that has a place
        place = places[pieces[0]] if pieces else place
        keys.append(place)
    keys.reverse()
    result = tuple(sorted(range(len(made)), key=keys.__getitem__))
    return result if [part for axis in result for part in made[axis]] == stored else None


_OPEN = tuple(2**exponent - 1 for exponent in (31, 61, 89, 107, 127))
"""Prime numbers that stand for open dimensions: whatever divides them is one of them."""


def _in_numbers(before: Shape, after: Shape) -> tuple[list[int], list[int]] | None:
    """Both shapes with numbers for open dimensions; the one that only the result has follows from the others."""
    names: dict[Dim | tuple[int], int] = {}
    first: list[int] = []
    for axis, dim in enumerate(before):
        if isinstance(dim, int):
            first.append(dim)
            continue
        key = (axis,) if dim is None else dim
        if key in names or len(names) == len(_OPEN):
            return None  # a name that stands twice may be none at all, such as "?"
        names[key] = _OPEN[len(names)]
        first.append(names[key])
    known = [dim if isinstance(dim, int) else names.get(dim, 0) for dim in after]
    unknown = [axis for axis, dim in enumerate(after) if not isinstance(dim, int) and not known[axis]]
    count, rest = math.prod(first), math.prod(size for axis, size in enumerate(known) if axis not in unknown)
    if len(unknown) == 1 and rest and count % rest == 0:
        known[unknown[0]] = count // rest
    return (first, known) if count and math.prod(known) == count else None


def _common_parts(
    before: Sequence[int], after: Sequence[int]
) -> tuple[list[list[int]], list[list[int]]] | None:
    """For every axis of two shapes the parts, outermost first, into which both are cut; None where they do not divide."""
    cut: tuple[list[list[int]], list[list[int]]] = ([[] for _ in before], [[] for _ in after])
    left, right = (
        [(axis, size) for axis, size in enumerate(sizes) if size != 1][::-1] for sizes in (before, after)
    )
    part = 0
    while left and right:
        (x, wide), (y, high) = left.pop(), right.pop()
        size = min(wide, high)
        if wide % size or high % size:
            return None
        cut[0][x].append(part)
        cut[1][y].append(part)
        part += 1
        if wide > size:
            left.append((x, wide // size))
        if high > size:
            right.append((y, high // size))
    return cut
