"""Slices of rows: computed one after another in one array at the licensed distance they give the whole convolution."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from qcompiler.fixed_point import Rescale
from qcompiler.integer.operations import Convolution
from qcompiler.integer.program import Operation, Tensor
from qcompiler.targets.cmsis_nn.slicing import Slice, can_slice, distances, slices

INT8 = np.dtype(np.int8)
Bytes = NDArray[np.int64]


@dataclass(frozen=True)
class Case:
    """A convolution along rows: every row of the output depends on every byte of the rows that it reads, and on which they are."""

    operation: Operation
    rows: int

    @property
    def made(self) -> tuple[int, int]:
        shape = self.operation.output.shape
        return shape[1], shape[2] * shape[3]

    @property
    def image(self) -> tuple[int, int]:
        shape = self.operation.inputs[0].shape
        return shape[1], shape[2] * shape[3]

    def called(self, memory: Bytes, piece: Slice, source: int, target: int) -> None:
        """What a kernel may do that is called for a slice: it writes its output in any order, while it still reads."""
        work, taps = self.operation.work, self.operation.inputs[1].shape[1]
        assert isinstance(work, Convolution)
        size, width = self.image[1], self.made[1]
        start = source + piece.source * size
        written = target + piece.first * width
        memory[written : written + piece.rows * width] = 0
        for row in range(piece.rows):
            total = np.int64(7)
            for tap in range(taps):
                place = row * work.strides[0] - piece.padding + tap * work.dilations[0]
                if 0 <= place < piece.source_rows:
                    read = memory[start + place * size : start + (place + 1) * size]
                    total += (tap + 1) * (read * np.arange(1, size + 1)).sum()
            first = target + (piece.first + row) * width
            memory[first : first + width] = -(total * 31 + np.arange(width))

    def computed(self, pieces: tuple[Slice, ...], distance: int) -> Bytes:
        """The output where it begins so many bytes behind the input (before it, if negative)."""
        (height, size), (made, width) = self.image, self.made
        source, target = max(-distance, 0), max(distance, 0)
        memory = np.full(max(source + height * size, target + made * width), 10**6, np.int64)
        memory[source : source + height * size] = np.random.default_rng(0).integers(1, 10**6, height * size)
        for piece in pieces:
            self.called(memory, piece, source, target)
        return memory[target : target + made * width]

    def whole(self) -> Bytes:
        (piece,) = slices(self.operation, self.made[0])
        height, size = self.image
        return self.computed((piece,), height * size)


def operation(
    image: tuple[int, int, int],
    channels: int,
    width: int,
    taps: int,
    stride: int,
    dilation: int,
    top: int,
    bottom: int,
) -> Operation | None:
    reach = (taps - 1) * dilation + 1
    height = (image[0] + top + bottom - reach) // stride + 1
    if height < 2:
        return None
    x = Tensor("x", (1, *image), None, INT8)
    filters = Tensor("w", (channels, taps, 1, image[2]), None, INT8)
    made = Tensor("y", (1, height, width, channels), None, INT8)
    work = Convolution(
        (stride, 1), (dilation, 1), (top, 0, bottom, 0), 1, Rescale.of(0.5, "double"), 0, 0, -128, 127
    )
    return Operation("conv", work, (x, filters), (made,))


@st.composite
def cases(draw: st.DrawFn) -> Case:
    small = st.integers(1, 4)
    made = operation(
        (draw(st.integers(2, 12)), draw(small), draw(small)),
        draw(small),
        draw(small),
        draw(st.integers(1, 5)),
        draw(st.integers(1, 3)),
        draw(st.integers(1, 3)),
        draw(st.integers(0, 5)),
        draw(st.integers(0, 5)),
    )
    assume(made is not None)
    assert made is not None
    return Case(made, draw(st.integers(1, made.output.shape[1])))


@settings(deadline=None, max_examples=300)
@given(cases())
def test_slices_cover_the_output_and_stay_inside_the_input(case: Case) -> None:
    pieces = slices(case.operation, case.rows)
    assert [row for piece in pieces for row in range(piece.first, piece.first + piece.rows)] == list(
        range(case.made[0])
    )
    for piece in pieces:
        assert 0 <= piece.source <= piece.source + piece.source_rows <= case.image[0]
        assert 1 <= piece.rows <= case.rows
        assert piece.padding >= 0


@settings(deadline=None, max_examples=300)
@given(cases(), st.integers(0, 3))
def test_slices_at_the_licensed_distance_give_the_whole(case: Case, further: int) -> None:
    pieces = slices(case.operation, case.rows)
    before, after = distances(case.operation, case.rows)
    right = case.whole()
    np.testing.assert_array_equal(case.computed(pieces, -before - further), right, "upwards")
    np.testing.assert_array_equal(case.computed(pieces[::-1], after + further), right, "downwards")


def test_distances_are_tight() -> None:
    """Where every slice is one row and reads its rows to the end, a byte less is too little."""
    case = Case(_some((8, 3, 2), 4, 3, 3, 1, 1, 1, 1), 1)
    pieces = slices(case.operation, 1)
    before, after = distances(case.operation, 1)
    right = case.whole()
    assert (case.computed(pieces, -before + 1) != right).any()
    assert (case.computed(pieces[::-1], after - 1) != right).any()


def test_what_shrinks_may_lie_right_over_its_input() -> None:
    """A row of the output has half the bytes of one of the input; the first one takes what is left of the distance."""
    shrinking = _some((8, 4, 4), 2, 4, 1, 1, 1, 0, 0)
    assert [distances(shrinking, rows)[0] for rows in (1, 2, 8)] == [8, 16, 64]


def _some(*given: object) -> Operation:
    made = operation(*given)  # type: ignore[arg-type]
    assert made is not None
    return made


def test_what_is_not_sliced() -> None:
    usual = _some((8, 3, 2), 4, 3, 3, 1, 1, 1, 1)
    assert can_slice(usual)
    x, filters = usual.inputs
    stack = Tensor("x", (2, *x.shape[1:]), None, INT8)
    row = Tensor("w", (4, 1, 3, 2), None, INT8)
    constant = Tensor("x", x.shape, None, INT8, np.zeros(x.shape, np.int8))
    for inputs in ((stack, filters), (x, row), (constant, filters)):
        assert not can_slice(Operation("conv", usual.work, inputs, usual.outputs))
