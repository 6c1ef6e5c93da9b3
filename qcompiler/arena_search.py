"""The smallest arena, by branching over which of two buffers lies above the other.

Two buffers that are alive at the same time lie one above the other, as far apart as they are long, or less where an overlap permits
that, or at the same address. So a placement is a choice between two or three differences of offsets for every such pair. Within an
arena of some size every offset has a range; ranges exclude choices, and choices narrow ranges (as in Carlier and Pinson, "An
Algorithm for Solving the Job-Shop Problem", 1989). If none is left for a pair, nothing fits; if the least offsets agree with every
pair, they are a placement; else it is tried in turn what a pair that they do not agree with allows. Sizes are bisected.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qcompiler.placement import Item

_OPEN, _UP, _DOWN, _SAME = range(4)


def searched(
    items: Sequence[Item], chosen: Sequence[int], size: int, bound: int, steps: int
) -> tuple[dict[int, int] | None, int]:
    """Looks for an arena smaller than `size` for some of the items.

    Args:
        items: All items.
        chosen: Those that are placed; the others are left out.
        size: What an arena is known to need at most.
        bound: What it needs at least.
        steps: Pairs of buffers that are looked at before the search is given up.

    Returns:
        The offsets in the smallest arena that was found, None if there is none below `size`; and what an arena for these items
        needs at least, which is not above `size`.
    """
    search = _Search(items, chosen, steps)
    # Offsets are sums of differences, so that the least size is a multiple of what all of them are multiples of.
    unit = search.unit
    least, most = -(-bound // unit), (size - 1) // unit
    best = None
    while least <= most and search.steps > 0:
        middle = (least + most) // 2
        offsets, certain = search.fitting(middle * unit)
        if offsets is not None:
            best = offsets
            most = max(offset + items[index].size for index, offset in offsets.items()) // unit - 1
            size = (most + 1) * unit
        else:
            least = middle + 1
            if certain:
                bound = min(least * unit, size)
    return best, bound


class _Search:
    """The pairs of some items that are alive at the same time.

    Attributes:
        steps: Pairs that may still be looked at.
        unit: What all differences are multiples of.
    """

    def __init__(self, items: Sequence[Item], chosen: Sequence[int], steps: int) -> None:
        self.steps = steps
        self._chosen = chosen
        self._sizes = [items[index].size for index in chosen]
        self._pairs: list[tuple[int, int, int, int, bool]] = []
        """(one, other, least difference if the other lies above, if the one does, whether both may begin together)"""
        self._touching: list[list[int]] = [[] for _ in chosen]
        place = {index: number for number, index in enumerate(chosen)}
        for one, index in enumerate(chosen):
            for other in sorted(place[rival] for rival in items[index].rivals if rival in place):
                if one < other:
                    self._touching[one].append(len(self._pairs))
                    self._touching[other].append(len(self._pairs))
                    self._pairs.append((one, other, *_differences(items, index, chosen[other])))
        self.unit = math.gcd(*self._sizes, *(step for pair in self._pairs for step in pair[2:4])) or 1

    def fitting(self, size: int) -> tuple[dict[int, int] | None, bool]:
        """Offsets in an arena of some size, None if there are none or none was found; and whether that is certain."""
        high = [size - own for own in self._sizes]
        if min(high, default=0) < 0:
            return None, True
        every = range(len(high))
        stack = [([0] * len(high), high, [_OPEN] * len(self._pairs), every)]
        while stack:
            if self.steps <= 0:
                return None, False
            low, high, taken, changed = stack.pop()
            if not self._narrow(low, high, taken, changed):
                continue
            number = self._worst(low, high, taken)
            if number is None:
                return dict(zip(self._chosen, low, strict=True)), True
            for choice in self._choices(number, low, high):
                now = taken.copy()
                now[number] = choice
                one, other, *_ = self._pairs[number]
                stack.append((low.copy(), high.copy(), now, range(one, other + 1, other - one)))
        return None, True

    def _narrow(self, low: list[int], high: list[int], taken: list[int], changed: Sequence[int]) -> bool:
        """Narrows ranges to what pairs allow; False if that is nothing."""
        waiting = dict.fromkeys(changed)
        while waiting:
            item, _ = waiting.popitem()
            self.steps -= len(self._touching[item])
            for number in self._touching[item]:
                one, other, up, down, same = self._pairs[number]
                choice = taken[number]
                if choice == _OPEN:
                    above = low[one] + up <= high[other]
                    below = low[other] + down <= high[one]
                    level = same and low[one] <= high[other] and low[other] <= high[one]
                    if not (above or below or level):
                        return False
                    if above + below + level > 1:
                        continue
                    choice = _UP if above else _DOWN if below else _SAME
                    taken[number] = choice
                if choice in (_UP, _SAME):
                    waiting |= _part(low, high, one, other, up if choice == _UP else 0)
                if choice in (_DOWN, _SAME):
                    waiting |= _part(low, high, other, one, down if choice == _DOWN else 0)
                if low[one] > high[one] or low[other] > high[other]:
                    return False
        return True

    def _worst(self, low: Sequence[int], high: Sequence[int], taken: Sequence[int]) -> int | None:
        """Of the pairs that the least offsets do not agree with, the one that leaves least room."""
        self.steps -= len(self._pairs)
        found, least = None, math.inf
        for number, (one, other, up, down, same) in enumerate(self._pairs):
            if taken[number] == _OPEN:
                step = low[other] - low[one]
                if step < up and -step < down and not (same and not step):
                    room = high[one] - low[one] + high[other] - low[other] - up - down
                    if room < least:
                        found, least = number, room
        return found

    def _choices(self, number: int, low: Sequence[int], high: Sequence[int]) -> list[int]:
        """What a pair allows, the choice that leaves most room last."""
        one, other, up, down, same = self._pairs[number]
        rooms = [(high[other] - low[one] - up, _UP), (high[one] - low[other] - down, _DOWN)]
        if same:
            rooms.append((min(high[one] - low[other], high[other] - low[one]), _SAME))
        return [choice for room, choice in sorted(rooms) if room >= 0]


def _part(low: list[int], high: list[int], below: int, above: int, step: int) -> dict[int, None]:
    """Holds two items to a difference of offsets; returns those whose range this narrows."""
    changed: dict[int, None] = {}
    if low[below] + step > low[above]:
        low[above] = low[below] + step
        changed[above] = None
    if high[above] - step < high[below]:
        high[below] = high[above] - step
        changed[below] = None
    return changed


def _differences(items: Sequence[Item], one: int, other: int) -> tuple[int, int, bool]:
    """Least differences of offsets: of the other above the one, of the one above the other; and whether there may be none."""
    up, down, level = items[one].size, items[other].size, False
    for licence in items[one].reads:
        if licence.other == other:
            up = up if licence.before is None else min(up, licence.before)
            down = down if licence.after is None else min(down, licence.after)
            level |= licence.same
    for licence in items[one].written:
        if licence.other == other:
            up = up if licence.after is None else min(up, licence.after)
            down = down if licence.before is None else min(down, licence.before)
            level |= licence.same
    return up, down, level and up > 0 and down > 0
