"""Arenas: one block of memory in which buffers that are not alive at the same time share addresses.

Finding the smallest arena is dynamic storage allocation, which is NP-hard (Garey and Johnson, "Computers and Intractability",
1979, problem SR2). `plan_arena` places buffers first-fit in several orders (largest first: Pisarchyk and Lee, "Efficient Memory
Management for Deep Neural Net Inference", 2020), improves the best order by local search, and, where few buffers are left to
argue about, searches all orders. It stops as soon as a lower bound is met, and states that bound beside the size.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from qcompiler.arena_search import searched
from qcompiler.placement import Item, first_fit, items_of


@dataclass(frozen=True)
class Buffer:
    """What has to be somewhere for a while.

    Attributes:
        name: Unique.
        size: Bytes.
        first: Index of the operation that writes it first.
        last: Index of the operation that reads it last, not before `first`.
    """

    name: str
    size: int
    first: int
    last: int


@dataclass(frozen=True)
class Overlap:
    """Two buffers that may share memory although both are alive, because one operation reads the one and writes the other.

    It runs through both from low addresses to high ones, so that what it writes may lie where what it has read lay before
    (Blacker, Bridges and Hadfield, "Diagonal Memory Optimisation for Machine Learning on Micro-controllers", 2020).

    Attributes:
        below: What is written.
        above: What is read for the last time.
        distance: Bytes that `below` has to begin before `above`, at least.
        exact: They may share only if they begin at the very same address (element-wise operations).
    """

    below: str
    above: str
    distance: int = 0
    exact: bool = False


@dataclass(frozen=True)
class ArenaPlan:
    """Where buffers lie.

    Attributes:
        offsets: By name, in bytes from the beginning.
        size: Bytes of the arena.
        lower_bound: No placement of these buffers is smaller than this.
        optimal: Whether `size` is known to be the least.
    """

    offsets: Mapping[str, int]
    size: int
    lower_bound: int
    optimal: bool


_ROUNDS = 400
_SEED = 20231


def plan_arena(
    buffers: Sequence[Buffer], overlaps: Sequence[Overlap] = (), alignment: int = 16
) -> ArenaPlan:
    """Places buffers. The same buffers give the same plan.

    Args:
        buffers: What to place.
        overlaps: Which may share memory while both are alive.
        alignment: Offsets and sizes are multiples of this.

    Raises:
        ValueError: An overlap names no buffer, or two that do not meet in one operation.
    """
    items = items_of(buffers, overlaps, alignment)
    bound = _lower_bound(items)
    best, size = _improved(items, bound)
    complete = False
    if size > bound:
        found, complete = searched(items, size, bound)
        if found is not None:
            best = found
            size = _size(items, best)
    offsets = {item.name: offset for item, offset in zip(items, best, strict=True)}
    return ArenaPlan(offsets, size, size if complete else bound, complete or size == bound)


def _improved(items: Sequence[Item], bound: int) -> tuple[list[int], int]:
    """First-fit in several orders, then in the best one with two places exchanged, again and again."""
    numbers = range(len(items))
    load = _loads(items)
    orders = [
        sorted(numbers, key=lambda number: (-items[number].size, items[number].first)),
        sorted(numbers, key=lambda number: (-load[number], -items[number].size, items[number].first)),
        sorted(numbers, key=lambda number: (items[number].first - items[number].last, -items[number].size)),
        sorted(numbers, key=lambda number: (-items[number].size * (items[number].last - items[number].first + 1))),
        sorted(numbers, key=lambda number: items[number].first),
    ]
    placed = [first_fit(items, order) for order in orders]
    sizes = [_size(items, offsets) for offsets in placed]
    size = min(sizes)
    best, order = placed[sizes.index(size)], orders[sizes.index(size)]
    chance = random.Random(_SEED)  # noqa: S311 - for variety, the same every time
    for _ in range(_ROUNDS if 1 < len(items) <= 600 else 0):
        if size <= bound:
            break
        trial = list(order)
        for _ in range(chance.choice((1, 1, 2, 4))):
            taken = trial.pop(chance.randrange(len(trial)))
            trial.insert(chance.randrange(len(trial) + 1), taken)
        offsets = first_fit(items, trial)
        reached = _size(items, offsets)
        if reached <= size:
            best, order, size = offsets, trial, reached
    return best, size


def _size(items: Sequence[Item], offsets: Sequence[int]) -> int:
    return max((offset + item.size for item, offset in zip(items, offsets, strict=True)), default=0)


def _loads(items: Sequence[Item]) -> list[int]:
    """For each item the most bytes that are alive together with it."""
    steps = _alive(items)
    return [max(steps[item.first : item.last + 1], default=0) for item in items]


def _alive(items: Sequence[Item]) -> list[int]:
    """Bytes alive at each operation, each item counted in full."""
    steps = [0] * (max((item.last for item in items), default=-1) + 2)
    for item in items:
        steps[item.first] += item.size
        steps[item.last + 1] -= item.size
    for index in range(1, len(steps)):
        steps[index] += steps[index - 1]
    return steps[:-1]


def _lower_bound(items: Sequence[Item]) -> int:
    """The most bytes alive at one operation, less what overlaps may save there.

    The union of the live buffers has at least the sum of their sizes less that of their pairwise intersections (Bonferroni's
    inequality). A licensed pair intersects in at most size(below) - distance bytes, and no more than either has.
    """
    steps = _alive(items)
    for item in items:
        saved = 0
        for other, distance, _ in item.over:
            saved += max(0, min(items[other].size, item.size - distance))
        if item.over:
            steps[item.first] -= min(saved, item.size)
    largest = max((item.size for item in items), default=0)
    return max([largest, *steps])
