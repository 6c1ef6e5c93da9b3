"""Strided copies in operators of the file: what these give, one after the other, is what numpy gives."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from qcompiler.errors import TargetError
from qcompiler.integer.operations import StridedCopy, Work
from qcompiler.integer.program import Operation, Tensor
from qcompiler.ir.encoding import FORMATS, Encoding
from qcompiler.targets.edge_tpu.movement import Part, parts_of, steps_of
from qcompiler.targets.edge_tpu.operators import Form, form_of

Shape = tuple[int, ...]
ENCODING = Encoding(FORMATS["int8"], np.array(0.5, np.float32), np.array(3, np.int8))


def tensor(shape: Shape) -> Tensor:
    return Tensor("x", shape, ENCODING, np.dtype(np.int8))


def form(work: Work, shape: Shape, made: Shape) -> Form:
    """The operator for a step."""
    written = dataclasses.replace(tensor(made), name="y")
    return form_of(Operation("step:", work, (tensor(shape),), (written,)))


def carried_out(found: Form, x: NDArray[np.int64]) -> NDArray[np.int64]:
    """What an operator of the file gives, by the words of its documentation."""
    operands = [np.asarray(operand) for operand in found.operands[1:]]
    match found.op:
        case "RESHAPE":
            return x.reshape(operands[0])
        case "TRANSPOSE":
            assert sorted(operands[0]) == list(range(x.ndim))
            return x.transpose(operands[0])
        case "BROADCAST_TO":
            return np.broadcast_to(x, operands[0])
        case "STRIDED_SLICE":
            begin, end, steps = operands
            assert len(begin) == len(end) == len(steps) == x.ndim
            assert not any(
                found.options[mask] for mask in found.options if mask not in ("end_mask", "offset")
            )
            bounds = [
                None if found.options["end_mask"] >> axis & 1 else int(at) for axis, at in enumerate(end)
            ]
            return x[
                tuple(
                    slice(int(at), to, int(step)) for at, to, step in zip(begin, bounds, steps, strict=True)
                )
            ]
    raise AssertionError(found.op)


def by_steps(work: StridedCopy, shape: Shape, made: Shape) -> tuple[NDArray[np.int64], list[str]]:
    """What the steps give, and their operators."""
    x = np.arange(math.prod(shape)).reshape(shape)
    ops = []
    for step, written in steps_of(work, shape, made):
        found = form(step, x.shape, written)
        x = carried_out(found, x)
        assert x.shape == written
        ops.append(found.op)
    return x, ops


def by_numpy(work: StridedCopy, shape: Shape, made: Shape) -> NDArray[np.int64]:
    flat = np.arange(math.prod(shape))
    strides = tuple(step * flat.itemsize for step in work.strides)
    return as_strided(flat[work.start :], work.shape, strides, writeable=False).reshape(made)


def copy_of(view: NDArray[np.int64]) -> StridedCopy:
    """The copy that a view of `numpy.arange` stands for, runs of axes made one, as the encoder writes it."""
    steps = [step // view.itemsize for step in view.strides]
    merged: list[tuple[int, int]] = []
    for size, step in zip(view.shape, steps, strict=True):
        if size == 1:
            continue
        if merged and merged[-1][1] == size * step:
            merged[-1] = (merged[-1][0] * size, step)
        else:
            merged.append((size, step))
    merged = merged or [(1, 1)]
    start = int(view[(0,) * view.ndim])
    return StridedCopy(start, tuple(size for size, _ in merged), tuple(step for _, step in merged))


def check(view: NDArray[np.int64], shape: Shape) -> list[str]:
    """The steps of a view give it, each kind of operator once at most but for reshapes; returns the operators."""
    work = copy_of(view)
    made, ops = by_steps(work, shape, view.shape)
    np.testing.assert_array_equal(made, view)
    np.testing.assert_array_equal(made, by_numpy(work, shape, view.shape))
    moving = [op for op in ops if op != "RESHAPE"]
    assert len(moving) == len(set(moving))
    return [op for op, _ in itertools.groupby(ops)]  # of views of views one is written


# -- random copies --------------------------------------------------------------------------------------------------

SHAPES = st.lists(st.integers(1, 6), min_size=1, max_size=5).map(tuple)


def arrays(shape: Shape) -> NDArray[np.int64]:
    return np.arange(math.prod(shape)).reshape(shape)


@st.composite
def slices(draw: st.DrawFn, shape: Shape) -> tuple[slice, ...]:
    """A range of every axis, forwards or backwards."""
    found = []
    for size in shape:
        if draw(st.booleans()):
            found.append(slice(None))
            continue
        first = draw(st.integers(0, size - 1))
        step = draw(st.integers(-3, 3).filter(bool))
        last = draw(st.integers(first, size - 1) if step > 0 else st.integers(0, first))
        end = last + (1 if step > 0 else -1)
        found.append(slice(first, end if end >= 0 else None, step))
    return tuple(found)


def factors(size: int) -> list[tuple[int, int]]:
    return [(size // inner, inner) for inner in range(1, size + 1) if size % inner == 0]


@st.composite
def cuts(draw: st.DrawFn, shape: Shape) -> Shape:
    """The shape with some of its axes cut in two."""
    return tuple(part for size in shape for part in draw(st.sampled_from([(size,), *factors(size)])))


@st.composite
def other_shapes(draw: st.DrawFn, count: int) -> Shape:
    """Any shape of so many elements."""
    sizes = []
    while len(sizes) < 4 and count > 1:
        outer, count = draw(st.sampled_from(factors(count)))
        sizes.append(outer)
    return (*sizes, count)


@given(st.data(), SHAPES)
def test_transpositions_of_other_shapes(data: st.DataObject, shape: Shape) -> None:
    """Reshapes that cut axes unevenly, into an order of storage: dimensions are those of the copy."""
    x = arrays(shape).reshape(data.draw(other_shapes(math.prod(shape))))
    check(x.transpose(data.draw(st.permutations(range(x.ndim)))), shape)


@given(st.data(), SHAPES)
def test_transpositions_of_parts(data: st.DataObject, shape: Shape) -> None:
    """Shuffles, spaces to depths and back, channels last and first."""
    x = arrays(shape).reshape(data.draw(cuts(shape)))
    check(x.transpose(data.draw(st.permutations(range(x.ndim)))), shape)


@given(st.data(), SHAPES)
def test_slices(data: st.DataObject, shape: Shape) -> None:
    check(arrays(shape)[data.draw(slices(shape))], shape)


@given(st.data(), SHAPES)
def test_slices_transposed(data: st.DataObject, shape: Shape) -> None:
    x = arrays(shape)[data.draw(slices(shape))]
    check(x.transpose(data.draw(st.permutations(range(x.ndim)))), shape)


@given(st.data(), SHAPES)
def test_repetitions(data: st.DataObject, shape: Shape) -> None:
    """Axes of any size that stride nowhere, between those of the input."""
    x = arrays(shape)
    at = data.draw(st.lists(st.integers(0, x.ndim), min_size=1, max_size=3))
    for place in sorted(at, reverse=True):
        x = np.expand_dims(x, place)
    wide = tuple(
        data.draw(st.integers(1, 3)) if step == 0 or size == 1 else size
        for size, step in zip(x.shape, x.strides, strict=True)
    )
    check(np.broadcast_to(x, wide), shape)


@settings(max_examples=200, deadline=None)
@given(st.data(), SHAPES)
def test_everything_at_once(data: st.DataObject, shape: Shape) -> None:
    """Slices of parts, transposed and repeated."""
    x = arrays(shape).reshape(data.draw(cuts(shape)))
    x = x[data.draw(slices(x.shape))].transpose(data.draw(st.permutations(range(x.ndim))))
    x = np.broadcast_to(x, (data.draw(st.integers(1, 2)), *x.shape))
    check(x, shape)


@given(st.data(), SHAPES)
def test_any_strides(data: st.DataObject, shape: Shape) -> None:
    """Copies that no operator is behind are right, or refused with the reason."""
    count = math.prod(shape)
    sizes, strides, start, end = [], [], 0, count - 1
    for _ in range(data.draw(st.integers(1, 4))):
        step = data.draw(st.integers(-count, count))
        most = 1 + (end - start) // abs(step) if step else 3
        sizes.append(data.draw(st.integers(1, max(1, min(most, 4)))))
        strides.append(step)
        reach = (sizes[-1] - 1) * abs(step)
        start, end = (start + reach, end) if step < 0 else (start, end - reach)
    work = StridedCopy(start, tuple(sizes), tuple(strides))
    try:
        made, _ = by_steps(work, shape, work.shape)
    except TargetError as error:
        assert "cuts dimensions unevenly" in str(error)  # noqa: PT017 - some are not refused
        return
    np.testing.assert_array_equal(made, by_numpy(work, shape, work.shape))


# -- single ones ----------------------------------------------------------------------------------------------------

COPIES: dict[str, tuple[NDArray[np.int64], Shape, list[str]]] = {
    "as it is": (arrays((2, 3)), (2, 3), []),
    "another shape": (arrays((2, 3)).reshape(6), (2, 3), ["RESHAPE"]),
    "channels first": (arrays((1, 4, 5, 3)).transpose(0, 3, 1, 2), (1, 4, 5, 3), ["TRANSPOSE"]),
    "a range": (arrays((1, 4, 5, 3))[:, 1:3], (1, 4, 5, 3), ["STRIDED_SLICE"]),
    "one element of an axis": (arrays((1, 4, 5, 3))[:, 2], (1, 4, 5, 3), ["STRIDED_SLICE", "RESHAPE"]),
    "backwards": (arrays((2, 6))[:, ::-1], (2, 6), ["STRIDED_SLICE"]),
    "backwards to the first": (arrays((2, 6))[:, 4::-2], (2, 6), ["STRIDED_SLICE"]),
    "repeated": (np.broadcast_to(arrays((2, 1, 3)), (2, 4, 3)), (2, 1, 3), ["BROADCAST_TO"]),
    "a range, turned and repeated": (
        np.broadcast_to(arrays((1, 4, 5, 3))[:, :, 1:3].transpose(0, 3, 1, 2)[None], (2, 1, 3, 4, 2)),
        (1, 4, 5, 3),
        ["STRIDED_SLICE", "TRANSPOSE", "BROADCAST_TO", "RESHAPE"],
    ),
    "a shuffle of channels": (  # five axes, of which two change places: three are enough
        arrays((1, 6, 5, 4)).reshape(1, 2, 3, 5, 4).transpose(0, 2, 1, 3, 4),
        (1, 6, 5, 4),
        ["RESHAPE", "TRANSPOSE", "RESHAPE"],
    ),
    "blocks to channels": (
        arrays((1, 4, 6, 3)).reshape(1, 2, 2, 3, 2, 3).transpose(0, 1, 3, 2, 4, 5),
        (1, 4, 6, 3),
        ["RESHAPE", "TRANSPOSE", "RESHAPE"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", COPIES)
def test_single_copies(case: str) -> None:
    view, shape, ops = COPIES[case]
    assert check(view, shape) == ops


def test_transpositions_have_few_dimensions() -> None:
    """Of more than four, those that stay side by side are one."""
    for axes, most in (((0, 2, 1, 3, 4), 4), ((0, 1, 3, 2, 4, 5), 4), ((4, 0, 1, 2, 3), 2)):
        shape = (2, 3, 4, 5, 2, 3)[: len(axes)]
        view = arrays(shape).transpose(axes)
        ranks = [
            len(step.shape)
            for step, _ in steps_of(copy_of(view), shape, view.shape)
            if isinstance(step, StridedCopy)
        ]
        assert max(ranks) <= most


@pytest.mark.parametrize(
    "work",
    [
        StridedCopy(0, (3,), (7,)),  # a diagonal of 6 by 6
        StridedCopy(0, (5, 5), (6, 7)),
        StridedCopy(0, (4, 5), (4, 1)),  # rows that reach into those behind
        StridedCopy(0, (6, 2), (5, 1)),
    ],
)
def test_what_is_no_rearrangement_is_refused(work: StridedCopy) -> None:
    with pytest.raises(TargetError, match="cuts dimensions unevenly"):
        list(steps_of(work, (6, 6), work.shape))


def test_parts() -> None:
    """A slice of three axes, the second backwards: its parts are those axes."""
    view = arrays((4, 5, 6))[1:3, ::-1, ::2]
    assert parts_of(copy_of(view), (4, 5, 6)) == [
        Part(4, 1, 2, 1, (0, 0)),
        Part(5, 0, 5, -1, (1, 0)),
        Part(6, 0, 3, 2, (2, 0)),
    ]
