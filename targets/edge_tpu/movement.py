"""Strided copies in the words of the file: slices, transpositions, repetitions, and reshapes in between.

A copy goes through its input by sizes and strides. Sorted by stride, its dimensions are those of the input, some of them cut into
parts, of which a range is read: that is a slice. Put into the order of the copy they are a transposition; strides of 0 repeat.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from qcompiler.errors import TargetError
from qcompiler.integer.encoder import contiguous
from qcompiler.integer.operations import StridedCopy, View, Work

Shape = tuple[int, ...]

MAPPED = 4
"""Dimensions that every reader of the file transposes; of more, as few as can be are made."""


@dataclass(frozen=True)
class Part:
    """A dimension of the input, or a part of one, and what is read along it.

    Attributes:
        size: How many elements the input has along it.
        first: The first that is read.
        count: How many are read.
        step: From one to the next; negative: from the last read one backwards.
        place: Which dimension of the copy it is, and which part of that; empty where a single element is read.
    """

    size: int
    first: int = 0
    count: int = 1
    step: int = 1
    place: tuple[int, ...] = ()

    @property
    def is_whole(self) -> bool:
        """Whether everything is read, in order."""
        return (self.first, self.count, self.step) == (0, self.size, 1)


def steps_of(work: StridedCopy, shape: Shape, made: Shape) -> Iterator[tuple[Work, Shape]]:
    """The steps that make a copy, and the shape that each of them writes: views, slices, transpositions, repetitions.

    Args:
        work: The copy.
        shape: Of its input.
        made: Of its output.

    Raises:
        TargetError: It cannot be made of these.
    """
    parts = parts_of(work, shape)
    now = shape
    if (cut := tuple(part.size for part in parts)) != now:
        yield View(), cut
        now = cut
    if not all(part.is_whole for part in parts):
        start, strides = _walk(parts)
        now = tuple(part.count for part in parts)
        yield StridedCopy(start, now, strides), now
    order = _order(parts)
    if order != sorted(order):
        if len(now) > MAPPED:
            whole, now, order = now, *_fewest(order, now)
            if now != whole:
                yield View(), now
        strides = contiguous(now)
        now = tuple(now[index] for index in order)
        yield StridedCopy(0, now, tuple(strides[index] for index in order)), now
    if 0 in work.strides:
        single = tuple(
            1 if stride == 0 else size for size, stride in zip(work.shape, work.strides, strict=True)
        )
        if single != now:
            yield View(), single
        steps = zip(work.strides, contiguous(single), strict=True)
        now = work.shape
        yield StridedCopy(0, now, tuple(0 if stride == 0 else step for stride, step in steps)), now
    if now != made:
        yield View(), made


def parts_of(work: StridedCopy, shape: Shape) -> list[Part]:
    """The input's dimensions, outermost first, cut where the copy cuts them; or other ones, of the copy's own strides.

    Raises:
        TargetError: No way of cutting them gives the copy.
    """
    own = _own_shape(work, math.prod(shape))
    parts = _cut_parts(work, shape) or (_cut_parts(work, own) if own is not None else None)
    if parts is None:
        raise TargetError("a rearrangement that cuts dimensions unevenly has no form in the file.")
    return parts


def _own_shape(work: StridedCopy, elements: int) -> Shape | None:
    """Dimensions of the input whose strides are those of the copy; None where these do not divide one another."""
    strides = zip(work.shape, work.strides, strict=True)
    units = sorted({1} | {abs(stride) for count, stride in strides if stride and count > 1})
    ends = [*units[1:], elements]
    if any(end % unit for unit, end in zip(units, ends, strict=True)):
        return None
    return tuple(end // unit for unit, end in zip(units, ends, strict=True))[::-1]


def _cut_parts(work: StridedCopy, shape: Shape) -> list[Part] | None:
    """The parts of a shape that give the copy, if they do."""
    dimensions = _along(work, contiguous(shape), shape)
    cuts = _cuts(dimensions, contiguous(shape), shape)
    start = work.start + sum((count - 1) * stride for count, stride, _ in dimensions if stride < 0)
    read = {}
    for count, stride, place in dimensions:
        unit = max(unit for unit, _ in cuts if abs(stride) % unit == 0 and unit <= abs(stride))
        read[unit] = (count, stride // unit, place)
    parts = []
    for unit, size in cuts:
        count, step, place = read.pop(unit, (1, 1, ())) if size > 1 else (1, 1, ())
        parts.append(Part(size, start // unit % size, count, step, place))
    wanted = sorted((place, count, stride) for count, stride, place in dimensions)
    _, strides = _walk(parts)
    given = sorted(
        (part.place, part.count, stride) for part, stride in zip(parts, strides, strict=True) if part.place
    )
    inside = all(part.first + (part.count - 1) * abs(part.step) < part.size for part in parts)
    return parts if inside and given == wanted and _walk(parts)[0] == work.start else None


def _along(work: StridedCopy, units: Shape, shape: Shape) -> list[tuple[int, int, tuple[int, ...]]]:
    """The copy's dimensions as (count, stride, place), those that run through several of the input's cut at their ends."""
    found: list[tuple[int, int, tuple[int, ...]]] = []
    ends = [size * unit for size, unit in zip(shape, units, strict=True)]
    for place, (count, stride) in enumerate(zip(work.shape, work.strides, strict=True)):
        if stride == 0 or count == 1:
            continue
        sign, stride, pieces = (1 if stride > 0 else -1), abs(stride), []
        while True:
            end = min((end for end in ends if end > stride), default=stride)
            inner = end // stride if end % stride == 0 else 0
            if not inner or count <= inner or count % inner:
                break
            pieces.append((inner, stride))
            count, stride = count // inner, end
        pieces.append((count, stride))
        for number, (size, step) in enumerate(reversed(pieces)):
            found.append((size, sign * step, (place, number)))
    return found


def _cuts(
    dimensions: list[tuple[int, int, tuple[int, ...]]], units: Shape, shape: Shape
) -> list[tuple[int, int]]:
    """The input's dimensions as (unit, size), outermost first; one that several dimensions of the copy go through in parts."""
    cuts = []
    for unit, size in zip(units, shape, strict=True):
        inside = sorted(
            (abs(stride) for _, stride, _ in dimensions if unit <= abs(stride) < unit * size), reverse=True
        )
        end = unit * size
        for stride in inside[:-1]:
            if end % stride == 0 and stride % unit == 0:
                cuts.append((stride, end // stride))
                end = stride
        cuts.append((unit, end // unit))
    return cuts


def _walk(parts: list[Part]) -> tuple[int, Shape]:
    """Where reading some parts begins, and the strides, in elements."""
    units = contiguous(tuple(part.size for part in parts))
    start = sum(
        unit * (part.first if part.step > 0 else part.first + (part.count - 1) * -part.step)
        for part, unit in zip(parts, units, strict=True)
    )
    return start, tuple(unit * part.step for part, unit in zip(parts, units, strict=True))


def _fewest(order: list[int], shape: Shape) -> tuple[Shape, list[int]]:
    """A transposition of as few dimensions as there can be: neighbours that stay together are one, those of size 1 are none."""
    moving = [index for index in order if shape[index] != 1]
    ranks = {index: rank for rank, index in enumerate(sorted(moving))}
    runs: list[list[int]] = []
    for index in moving:
        if runs and ranks[runs[-1][-1]] + 1 == ranks[index]:
            runs[-1].append(index)
        else:
            runs.append([index])
    placed = sorted(runs)
    sizes = tuple(math.prod(shape[index] for index in run) for run in placed)
    return sizes, [placed.index(run) for run in runs]


def _order(parts: list[Part]) -> list[int]:
    """The parts in the order of the copy; those of which one element is read stay behind the part before them."""
    order = sorted(
        (index for index, part in enumerate(parts) if part.place), key=lambda index: parts[index].place
    )
    for index, part in enumerate(parts):
        if not part.place:
            order.insert(order.index(index - 1) + 1 if index else 0, index)
    return order
