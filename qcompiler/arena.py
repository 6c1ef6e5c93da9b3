"""Arenas: one block of memory in which buffers that are not alive at the same time share addresses.

Finding the smallest arena is dynamic storage allocation, which is NP-hard (Garey and Johnson, "Computers and Intractability",
1979, problem SR2). `plan_arena` places buffers first-fit in several orders (largest first: Pisarchyk and Lee, "Efficient Memory
Management for Deep Neural Net Inference", 2020), improves the best order by local search, and, where few buffers are left to
argue about, searches all orders. It stops as soon as a lower bound is met, and states that bound beside the size.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Mapping, Sequence
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

    An operation that runs through both from low addresses to high ones may write where what it has read lay before; one that runs from
    high addresses to low ones likewise (Blacker, Bridges and Hadfield, "Diagonal Memory Optimisation for Machine Learning on
    Micro-controllers", 2020). Element by element, it may write over what it reads.

    Attributes:
        written: What is written.
        read: What is read for the last time.
        before: Running upwards: bytes that `written` has to begin before `read`, at least. None: it cannot run so.
        after: Running downwards: bytes that it has to begin after `read`, at least. None: it cannot run so.
        same: Whether both may begin at the very same address.
    """

    written: str
    read: str
    before: int | None = None
    after: int | None = None
    same: bool = False


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


def plan_arena(buffers: Sequence[Buffer], overlaps: Sequence[Overlap] = (), alignment: int = 16) -> ArenaPlan:
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
    keys: tuple[Callable[[Item, int], int], ...] = (
        lambda item, load: -item.size,
        lambda item, load: -load,
        lambda item, load: item.first - item.last,
        lambda item, load: -item.size * (item.last - item.first + 1),
        lambda item, load: 0,
    )
    # Of equals also the last one first: what may lie over what it is computed from has to be placed before that.
    orders = [
        sorted(numbers, key=functools.partial(_rank, items, load, key, weight))
        for key in keys
        for weight in (1, -1)
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


def _rank(
    items: Sequence[Item], load: Sequence[int], key: Callable[[Item, int], int], sign: int, number: int
) -> tuple[int, int, int]:
    item = items[number]
    return key(item, load[number]), -item.size, sign * item.first


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
    inequality), and what is written intersects in no more than its own size with all that is read.
    """
    steps = _alive(items)
    for item in items:
        if item.reads:
            saved = sum(licence.most_shared(item.size, items[licence.other].size) for licence in item.reads)
            steps[item.first] -= min(saved, item.size)
    largest = max((item.size for item in items), default=0)
    return max([largest, *steps])
