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
from qcompiler.placement import Item, first_fit, items_of, lowest


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


_PLACED = 160_000
"""Buffers that are placed in all while orders are improved."""
_ROUNDS = 400
_SEED = 20231
_SEARCHED = (40, 160, 640)
"""Buffers that are searched exactly, of those beside which most is alive."""
_STEPS = 2_000_000
"""Pairs of buffers that are looked at in each of these searches, at most."""


def plan_arena(
    buffers: Sequence[Buffer], overlaps: Sequence[Overlap] = (), alignment: int = 16, *, effort: float = 1.0
) -> ArenaPlan:
    """Places buffers. The same buffers give the same plan.

    Args:
        buffers: What to place.
        overlaps: Which may share memory while both are alive.
        alignment: Offsets and sizes are multiples of this.
        effort: How long to look for a smaller arena, and for proof that there is none; 1 is a second or two at most for a hundred
            buffers.

    Raises:
        ValueError: An overlap names no buffer, or two that do not meet in one operation, or overlaps need one operation to run upwards
            and downwards.
    """
    items = items_of(buffers, overlaps, alignment)
    bound = _lower_bound(items)
    best = _improved(items, bound, effort)
    size = _size(items, best)
    load = _loads(items)
    busy = sorted(range(len(items)), key=lambda index: (-load[index], -items[index].size))
    for count, fewer in zip(_SEARCHED, (0, *_SEARCHED), strict=False):
        if size == bound or fewer >= len(items):
            break
        # No arena is smaller than one for some of the buffers, so that these may prove that nothing better is left.
        found, bound = searched(items, busy[:count], size, bound, int(effort * _STEPS))
        if found is not None:
            best = min(best, _completed(items, found), key=lambda offsets: _size(items, offsets))
            size = _size(items, best)
    offsets = {item.name: offset for item, offset in zip(items, best, strict=True)}
    return ArenaPlan(offsets, size, bound, size == bound)


def _completed(items: Sequence[Item], offsets: Mapping[int, int]) -> list[int]:
    """Offsets of all items, those that are given and the lowest ones for the others, large items first."""
    best = [offsets.get(index, -1) for index in range(len(items))]
    for index in sorted(range(len(items)), key=lambda index: -items[index].size):
        if best[index] < 0:
            best[index] = lowest(items, best, index)
    return best


def _improved(items: Sequence[Item], bound: int, effort: float) -> list[int]:
    """First-fit in several orders, then in the best one with places exchanged, again and again."""
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
        sorted(numbers, key=functools.partial(_rank, items, load, key, sign))
        for key in keys
        for sign in (1, -1)
    ]
    placed = [first_fit(items, order) for order in orders]
    sizes = [_size(items, offsets) for offsets in placed]
    size = min(sizes)
    best, order = placed[sizes.index(size)], orders[sizes.index(size)]
    chance = random.Random(_SEED)
    rounds = min(_ROUNDS, _PLACED // len(items)) if len(items) > 1 else 0
    for _ in range(int(effort * rounds)):
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
    return best


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
