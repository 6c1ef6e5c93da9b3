"""Placing buffers one after another, each at the lowest address that is free for it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qcompiler.arena import Buffer, Overlap


@dataclass
class Item:
    """A buffer as placement sees it.

    Attributes:
        name: Its name.
        size: Bytes, rounded up to the alignment.
        first: Index of the operation that writes it first.
        last: Index of the operation that reads it last.
        rivals: Items that are alive at the same time.
        over: As what is written: (item that may lie under it, bytes to begin before that, whether only at the same address).
        under: The same from the other side.
    """

    name: str
    size: int
    first: int
    last: int
    rivals: list[int] = field(default_factory=list)
    over: list[tuple[int, int, bool]] = field(default_factory=list)
    under: list[tuple[int, int, bool]] = field(default_factory=list)


def items_of(buffers: Sequence[Buffer], overlaps: Sequence[Overlap], alignment: int) -> list[Item]:
    """The buffers with rounded sizes and with their rivals.

    Raises:
        ValueError: See `qcompiler.arena.plan_arena`.
    """
    items = [Item(buffer.name, -(-buffer.size // alignment) * alignment, buffer.first, buffer.last) for buffer in buffers]
    number = {item.name: index for index, item in enumerate(items)}
    if len(number) < len(items):
        raise ValueError("two buffers have one name")
    for item in items:
        if item.last < item.first or item.size < 0:
            raise ValueError(f"the buffer {item.name} ends before it begins, or has a negative size")
    live: list[int] = []
    for index in sorted(range(len(items)), key=lambda index: items[index].first):
        live = [other for other in live if items[other].last >= items[index].first]
        for other in live:
            if items[other].size and items[index].size:
                items[index].rivals.append(other)
                items[other].rivals.append(index)
        live.append(index)
    for overlap in overlaps:
        if overlap.below not in number or overlap.above not in number:
            raise ValueError(f"the overlap of {overlap.below} and {overlap.above} names no buffer")
        below, above = number[overlap.below], number[overlap.above]
        if items[below].first != items[above].last or below == above:
            raise ValueError(f"{overlap.above} is not read for the last time where {overlap.below} is written first")
        distance = -(-max(overlap.distance, 0) // alignment) * alignment
        items[below].over.append((above, distance, overlap.exact))
        items[above].under.append((below, distance, overlap.exact))
    return items


def first_fit(items: Sequence[Item], order: Iterable[int]) -> list[int]:
    """Offsets of all items, each placed as low as those before it in the order allow."""
    offsets = [-1] * len(items)
    for index in order:
        offsets[index] = lowest(items, offsets, index)
    return offsets


def lowest(items: Sequence[Item], offsets: Sequence[int], index: int) -> int:
    """The lowest offset of an item that is free beside the rivals that have one (not -1)."""
    item = items[index]
    placed = [other for other in item.rivals if offsets[other] >= 0]
    if not placed or not item.size:
        return 0
    over, under = _licences(item.over), _licences(item.under)
    blocked: list[tuple[int, int]] = []
    special: list[tuple[int, int, int, bool, int]] = []
    candidates = {0}
    for other in placed:
        start = offsets[other]
        end = start + items[other].size
        candidates.add(end)
        if other in over:  # this one is written where the other is read
            distance, exact = over[other]
            special.append((start, end, -1, exact, distance))
            candidates.add(start if exact else start - distance)
        elif other in under:
            distance, exact = under[other]
            special.append((start, end, 1, exact, distance))
            candidates.add(start if exact else start + distance)
        else:
            blocked.append((start, end))
    for offset in sorted(candidate for candidate in candidates if candidate >= 0):
        stop = offset + item.size
        if any(offset < end and start < stop for start, end in blocked):
            continue
        if all(_fits(offset, stop, entry) for entry in special):
            return offset
    raise AssertionError("behind everything there is always room")


def _licences(pairs: list[tuple[int, int, bool]]) -> dict[int, tuple[int, bool]]:
    return {other: (distance, exact) for other, distance, exact in pairs}


def _fits(offset: int, stop: int, entry: tuple[int, int, int, bool, int]) -> bool:
    """Whether a place is allowed beside a partner: apart from it, or in the licensed position."""
    start, end, side, exact, distance = entry
    if offset >= end or stop <= start:
        return True
    if exact:
        return offset == start
    return offset <= start - distance if side < 0 else offset >= start + distance
