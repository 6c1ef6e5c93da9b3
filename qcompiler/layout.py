"""Layouts: in which order the axes of values are stored. Like encodings, they belong to values; the graph keeps its meaning.

A storage order lists a value's axes, outermost first: (0, 2, 3, 1) stores the NCHW value of an image channels last. What
reads another order than its value has is a conversion, which whoever lowers the graph has to write.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from qcompiler.ir.facts import Fact

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qcompiler.ir.node import Node, Value

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
        return tuple(range(value.rank))

    def is_free(self, node: Node) -> bool:
        """Whether a node that only rearranges (Transpose, Reshape and its like) leaves every byte where it is.

        Dimensions of size 1 do not matter, and an open dimension is taken to be the same on both sides.
        """
        x, y = node.input(0), node.output
        if x is None or x.shape is None or y.shape is None or None in (*x.shape, *y.shape):
            return False
        if node.op == "Transpose":
            turn = node.attributes.get("perm") or tuple(reversed(range(len(x.shape))))
            made = tuple(turn[axis] for axis in self.order_of(y))
            return _moving(x.shape, made) == _moving(x.shape, self.order_of(x))
        if node.op == "Identity":
            return self.order_of(x) == self.order_of(y)
        return self._same_sequence(x, y)

    def _same_sequence(self, x: Value, y: Value) -> bool:
        """Whether reading both in storage order gives the elements in the same sequence."""
        assert x.shape is not None
        assert y.shape is not None
        before, after = (
            [dim if isinstance(dim, int) else _OPEN for dim in value.shape or ()] for value in (x, y)
        )
        if np.prod(before) != np.prod(after):
            return False
        first, second = (
            np.arange(np.prod(dims)).reshape(dims).transpose(self.order_of(value)).reshape(-1)
            for dims, value in ((before, x), (after, y))
        )
        return bool(np.array_equal(first, second))


_OPEN = 1
"""The size that stands for an open dimension."""

LAYOUT = Fact[Layout]("layout", "the order in which every value is stored has been chosen", True)


def channels_last(rank: int) -> Order:
    """The order that stores axis 1, the channels, innermost; tensors of less than three axes have their own order."""
    return (0, *range(2, rank), 1) if rank > 2 else tuple(range(rank))


def storage_shape(shape: tuple[int, ...], order: Order) -> tuple[int, ...]:
    """The shape of a tensor as it is stored."""
    return tuple(shape[axis] for axis in order)


def to_storage(array: NDArray[Any], order: Order) -> NDArray[Any]:
    """An array of a value as it is stored."""
    return array.transpose(order)


def from_storage(array: NDArray[Any], order: Order) -> NDArray[Any]:
    """A stored array as the value that it is."""
    return array.transpose(np.argsort(order))


def _moving(shape: tuple[Any, ...], order: Order) -> Order:
    """The order without axes of size 1."""
    return tuple(axis for axis in order if shape[axis] != 1)
