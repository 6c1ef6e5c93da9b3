"""Placing buffers one after another, each at the lowest address that is free for it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qcompiler.arena import Buffer, Overlap


@dataclass(frozen=True)
class Licence:
    """An overlap as one of its items sees it.

    Attributes:
        other: The other item.
        before: Running upwards, what is written begins at least so many bytes before what is read.
        after: Running downwards, it begins at least so many bytes after that.
        same: They may begin at the same address.
    """

    other: int
    before: int | None
    after: int | None
    same: bool

    def allows(self, written: int, read: int) -> bool:
        """Whether these offsets may be had though the buffers overlap."""
        return (
            (self.same and written == read)
            or (self.before is not None and written <= read - self.before)
            or (self.after is not None and written >= read + self.after)
        )

    def steps(self) -> tuple[int, ...]:
        """From what is read to what is written: the offsets that are nearest."""
        return tuple(
            step
            for step in (
                0 if self.same else None,
                None if self.before is None else -self.before,
                self.after,
            )
            if step is not None
        )

    def most_shared(self, written: int, read: int) -> int:
        """The most bytes that buffers of these sizes can have in common."""
        found = [0]
        if self.same:
            found.append(min(written, read))
        if self.before is not None:
            found.append(min(written - self.before, read))
        if self.after is not None:
            found.append(min(read - self.after, written))
        return max(found)


@dataclass
class Item:
    """A buffer as placement sees it.

    Attributes:
        name: Its name.
        size: Bytes, rounded up to the alignment.
        first: Index of the operation that writes it first.
        last: Index of the operation that reads it last.
        rivals: Items that are alive at the same time.
        reads: As what is written: the items that it may lie over.
        written: As what is read: the items that may lie over it.
    """

    name: str
    size: int
    first: int
    last: int
    rivals: list[int] = field(default_factory=list)
    reads: list[Licence] = field(default_factory=list)
    written: list[Licence] = field(default_factory=list)


def items_of(buffers: Sequence[Buffer], overlaps: Sequence[Overlap], alignment: int) -> list[Item]:
    """The buffers with rounded sizes and with their rivals.

    Raises:
        ValueError: See `qcompiler.arena.plan_arena`.
    """
    items = [
        Item(buffer.name, -(-buffer.size // alignment) * alignment, buffer.first, buffer.last)
        for buffer in buffers
    ]
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
    running: dict[int, set[Overlap]] = {}
    for overlap in overlaps:
        if overlap.written not in number or overlap.read not in number:
            raise ValueError(f"the overlap of {overlap.written} and {overlap.read} names no buffer")
        written, read = number[overlap.written], number[overlap.read]
        if items[written].first != items[read].last or written == read:
            raise ValueError(
                f"{overlap.read} is not read for the last time where {overlap.written} is written first"
            )
        if overlap.before is not None or overlap.after is not None:
            running.setdefault(items[read].last, set()).add(overlap)
        before, after = (
            None if given is None else -(-max(given, 0) // alignment) * alignment
            for given in (overlap.before, overlap.after)
        )
        items[written].reads.append(Licence(read, before, after, overlap.same))
        items[read].written.append(Licence(written, before, after, overlap.same))
    for operation, together in running.items():
        upwards = any(overlap.before is not None for overlap in together)
        downwards = any(overlap.after is not None for overlap in together)
        if len(together) > 1 and upwards and downwards:
            raise ValueError(f"overlaps want operation {operation} to run upwards and downwards at once")
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
    reads = {licence.other: licence for licence in item.reads}
    written = {licence.other: licence for licence in item.written}
    blocked: list[tuple[int, int]] = []
    special: list[tuple[int, int, Licence, bool]] = []
    candidates = {0}
    for other in placed:
        start = offsets[other]
        end = start + items[other].size
        candidates.add(end)
        if other in reads:
            special.append((start, end, reads[other], True))
            candidates.update(start + step for step in reads[other].steps())
        elif other in written:
            special.append((start, end, written[other], False))
            candidates.update(start - step for step in written[other].steps())
        else:
            blocked.append((start, end))
    for offset in sorted(candidate for candidate in candidates if candidate >= 0):
        stop = offset + item.size
        if any(offset < end and start < stop for start, end in blocked):
            continue
        if all(
            offset >= end
            or stop <= start
            or (licence.allows(offset, start) if writes else licence.allows(start, offset))
            for start, end, licence, writes in special
        ):
            return offset
    raise AssertionError("behind everything there is always room")
