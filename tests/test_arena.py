"""Arenas: placements hold, bounds are bounds, and small ones are the smallest."""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompiler.arena import ArenaPlan, Buffer, Overlap, plan_arena
from qcompiler.placement import first_fit, items_of

K = 16384
# ResNet-8 of MLPerf Tiny in int8: three stages of two convolutions and a residual addition; buffers by operation.
RESNET8 = [
    Buffer("input", 3072, 0, 0), Buffer("conv", K, 0, 3), Buffer("conv1", K, 1, 2), Buffer("conv2", K, 2, 3), Buffer("add1", K, 3, 6),
    Buffer("conv3", K // 2, 4, 5), Buffer("conv4", K // 2, 5, 7), Buffer("short1", K // 2, 6, 7), Buffer("add2", K // 2, 7, 10),
    Buffer("conv5", K // 4, 8, 9), Buffer("conv6", K // 4, 9, 11), Buffer("short2", K // 4, 10, 11), Buffer("add3", K // 4, 11, 12),
    Buffer("pool", 64, 12, 13), Buffer("dense", 10, 13, 14), Buffer("softmax", 10, 14, 14),
]  # fmt: skip
ADDS = [Overlap(f"add{n}", other, same=True) for n, pair in ((1, ("conv", "conv2")), (2, ("conv4", "short1")), (3, ("conv6", "short2"))) for other in pair]  # fmt: skip


def rounded(size: int, alignment: int = 16) -> int:
    return -(-size // alignment) * alignment


def apart(
    one: Buffer,
    other: Buffer,
    offsets: Mapping[str, int],
    licences: Mapping[frozenset[str], Overlap],
    alignment: int = 16,
) -> bool:
    """Whether two buffers have different memory, are not alive together, or overlap as they may."""
    start, then = offsets[one.name], offsets[other.name]
    alive = one.first <= other.last and other.first <= one.last
    meet = start < then + rounded(other.size, alignment) and then < start + rounded(one.size, alignment)
    if not alive or not meet or not one.size or not other.size:
        return True
    licence = licences.get(frozenset((one.name, other.name)))
    if licence is None:
        return False
    written, read = offsets[licence.written], offsets[licence.read]
    return (
        (licence.same and written == read)
        or (licence.before is not None and written + licence.before <= read)
        or (licence.after is not None and written >= read + licence.after)
    )


def check(
    plan: ArenaPlan, buffers: Sequence[Buffer], overlaps: Sequence[Overlap] = (), alignment: int = 16
) -> None:
    """Holds a plan to what was asked, pair by pair."""
    licences = {frozenset((item.written, item.read)): item for item in overlaps}
    assert set(plan.offsets) == {buffer.name for buffer in buffers}
    for buffer in buffers:
        assert plan.offsets[buffer.name] % alignment == 0
        assert 0 <= plan.offsets[buffer.name] <= plan.size - rounded(buffer.size, alignment)
    for one, other in itertools.combinations(buffers, 2):
        assert apart(one, other, plan.offsets, licences, alignment), (one, other)
    assert plan.size >= plan.lower_bound
    assert plan.optimal == (plan.size == plan.lower_bound)


def test_residual_additions_in_place() -> None:
    plan = plan_arena(RESNET8, ADDS)
    check(plan, RESNET8, ADDS)
    assert (plan.size, plan.optimal) == (3 * K, True)


def test_a_convolution_over_its_own_input() -> None:
    """Row by row it begins two rows before what it reads."""
    overlaps = [*ADDS, Overlap("conv2", "conv1", before=1024, after=1024)]
    plan = plan_arena(RESNET8, overlaps)
    check(plan, RESNET8, overlaps)
    assert (plan.size, plan.optimal) == (2 * K + 1024, True)


def test_a_chain_swings_down_and_up() -> None:
    """Each layer lies over the one before, alternately in front of it and behind it."""
    buffers = [Buffer(f"b{n}", 8000, max(n - 1, 0), n) for n in range(9)]
    overlaps = [Overlap(f"b{n + 1}", f"b{n}", before=640, after=640) for n in range(8)]
    plan = plan_arena(buffers, overlaps)
    check(plan, buffers, overlaps)
    assert (plan.size, plan.optimal) == (8640, True)


def test_first_fit_by_size_is_not_the_smallest() -> None:
    """The largest first leaves a hole, which the search closes."""
    buffers = [
        Buffer("a", 64, 0, 1),
        Buffer("b", 48, 1, 3),
        Buffer("c", 48, 3, 5),
        Buffer("d", 32, 2, 4),
        Buffer("e", 80, 5, 6),
        Buffer("f", 32, 0, 2),
    ]
    items = items_of(buffers, (), 16)
    order = sorted(range(len(items)), key=lambda index: -items[index].size)
    ends = [offset + item.size for offset, item in zip(first_fit(items, order), items, strict=True)]
    plan = plan_arena(buffers)
    check(plan, buffers)
    assert (max(ends), plan.size, plan.optimal) == (160, 144, True)


@pytest.mark.parametrize(
    "buffers", [[], [Buffer("one", 1, 0, 0)], [Buffer("none", 0, 0, 3), Buffer("some", 17, 1, 2)]]
)
def test_next_to_nothing(buffers: list[Buffer]) -> None:
    plan = plan_arena(buffers)
    check(plan, buffers)
    assert plan.size == max((rounded(buffer.size) for buffer in buffers), default=0)


@pytest.mark.parametrize(
    ("overlap", "said"),
    [
        (Overlap("b", "nobody"), "names no buffer"),
        (Overlap("a", "b"), "not read for the last time"),
        (Overlap("a", "a"), "not read for the last time"),
    ],
)
def test_overlaps_that_cannot_be(overlap: Overlap, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        plan_arena([Buffer("a", 16, 0, 3), Buffer("b", 16, 1, 2)], [overlap])


def test_an_operation_runs_in_one_direction() -> None:
    """Between two inputs, a result over the upper one needs the operation to run upwards, and over the lower one downwards."""
    buffers = [Buffer("a", 64, 0, 1), Buffer("b", 64, 0, 1), Buffer("sum", 64, 1, 2)]
    with pytest.raises(ValueError, match="at once"):
        plan_arena(buffers, [Overlap("sum", "a", before=0), Overlap("sum", "b", after=0)])
    upwards = [Overlap("sum", "a", before=0), Overlap("sum", "b", before=0)]
    plan = plan_arena(buffers, upwards)
    check(plan, buffers, upwards)
    assert (plan.size, plan.optimal) == (128, True)


def test_two_buffers_of_one_name() -> None:
    with pytest.raises(ValueError, match="one name"):
        plan_arena([Buffer("a", 16, 0, 3), Buffer("a", 16, 1, 2)])


def test_hundreds_of_buffers_and_the_same_plan_again() -> None:
    chance = random.Random(1)
    buffers = []
    for number in range(400):
        first = chance.randrange(300)
        buffers.append(Buffer(f"b{number}", chance.randrange(1, 5000), first, first + chance.randrange(12)))
    plan = plan_arena(buffers)
    check(plan, buffers)
    assert plan.size <= 1.05 * plan.lower_bound
    assert plan_arena(list(buffers)) == plan


@st.composite
def problems(draw: st.DrawFn, most: int, longest: int = 12) -> tuple[list[Buffer], list[Overlap]]:
    """Buffers of a chain of operations with some that live longer, and overlaps between what an operation reads last and writes."""
    buffers = []
    for number in range(draw(st.integers(1, most))):
        first = draw(st.integers(0, 5))
        buffers.append(
            Buffer(f"b{number}", draw(st.integers(0, longest)) * 16, first, first + draw(st.integers(0, 3)))
        )
    pairs = [
        (one, other) for one in buffers for other in buffers if one is not other and one.first == other.last
    ]
    overlaps = []
    for written, read in draw(st.lists(st.sampled_from(pairs), max_size=3, unique=True)) if pairs else ():
        distance = st.one_of(st.none(), st.integers(0, 8).map(lambda rows: rows * 16))
        overlaps.append(Overlap(written.name, read.name, draw(distance), draw(distance), draw(st.booleans())))
    seen: set[frozenset[str]] = set()
    kept = []
    for overlap in overlaps:  # a pair is licensed in one direction
        pair = frozenset((overlap.written, overlap.read))
        if pair not in seen:
            # Several that meet in one operation all run upwards.
            alone = all(
                buffers[int(other.read[1:])].last != buffers[int(overlap.read[1:])].last
                for other in overlaps
                if other is not overlap
            )
            kept.append(overlap if alone else dataclasses.replace(overlap, after=None))
            seen.add(pair)
    return buffers, kept


@settings(max_examples=300, deadline=None)
@given(problems(9))
def test_placements_hold(problem: tuple[list[Buffer], list[Overlap]]) -> None:
    buffers, overlaps = problem
    check(plan_arena(buffers, overlaps), buffers, overlaps)


def fits(
    buffers: Sequence[Buffer],
    licences: Mapping[frozenset[str], Overlap],
    size: int,
    offsets: Mapping[str, int],
) -> bool:
    """Whether the buffers behind those that have offsets fit, trying every offset in steps of the alignment."""
    if len(offsets) == len(buffers):
        return True
    new = buffers[len(offsets)]
    for offset in range(0, size - rounded(new.size) + 1, 16):
        trial = {**offsets, new.name: offset}
        if all(apart(new, other, trial, licences) for other in buffers[: len(offsets)]) and fits(
            buffers, licences, size, trial
        ):
            return True
    return False


@settings(max_examples=200, deadline=None)
@given(problems(6, longest=4))
def test_no_placement_is_smaller(problem: tuple[list[Buffer], list[Overlap]]) -> None:
    buffers, overlaps = problem
    plan = plan_arena(buffers, overlaps)
    assert plan.optimal
    licences = {frozenset((overlap.written, overlap.read)): overlap for overlap in overlaps}
    assert not plan.size or not fits(buffers, licences, plan.size - 16, {})
