"""The smallest arena by trying all orders, for few buffers.

In an order of increasing offsets, placing every buffer at its lowest free address never makes any other one higher, so that
some such order leads to a smallest arena. Branches are cut where the arena is no smaller than the best known one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qcompiler.placement import lowest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qcompiler.placement import Item

_MOST_STEPS = 40_000
_MOST_ITEMS = 24


def searched(items: Sequence[Item], size: int, bound: int) -> tuple[list[int] | None, bool]:
    """Looks for an arena smaller than `size`.

    Returns:
        The offsets of the best one, None if there is none or none was found; and whether every order has been considered.
    """
    busy = [index for index, item in enumerate(items) if item.rivals]
    if len(busy) > _MOST_ITEMS:
        return None, False
    search = _Search(items, busy, size, bound)
    search.extend(0, size_so_far=0)
    return search.best, search.steps < _MOST_STEPS


class _Search:
    def __init__(self, items: Sequence[Item], busy: Sequence[int], size: int, bound: int) -> None:
        self.items = items
        self.left = set(busy)
        self.offsets = [-1 if index in self.left else 0 for index in range(len(items))]
        self.size = size
        self.bound = bound
        self.best: list[int] | None = None
        self.steps = 0

    def extend(self, least: int, size_so_far: int) -> None:
        """Places one more item, not below the one before."""
        if not self.left:
            self.size, self.best = size_so_far, list(self.offsets)
            return
        options = []
        for index in self.left:
            offset = max(lowest(self.items, self.offsets, index), 0)
            options.append((offset, -self.items[index].size, index))
        for offset, _, index in sorted(options):
            self.steps += 1
            if self.size <= self.bound or self.steps >= _MOST_STEPS:
                return
            reached = max(size_so_far, offset + self.items[index].size)
            if offset < least or reached >= self.size:
                continue
            self.left.remove(index)
            self.offsets[index] = offset
            self.extend(offset, reached)
            self.offsets[index] = -1
            self.left.add(index)
