"""Storage orders: what is free is what moves no byte, held against numpy."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from qcompiler.ir.graph import Graph
from qcompiler.ir.node import Node
from qcompiler.layout import (
    LAYOUT,
    Layout,
    channels_last,
    from_storage,
    own_order,
    reshaped_order,
    same_storage,
    storage_shape,
    to_storage,
)

Shape = tuple[int | str | None, ...]


def node_of(op: str, before: Shape | None, after: Shape | None, **attributes: Any) -> Node:
    """A node x -> y that rearranges."""
    graph = Graph()
    x = graph.add_input("x", np.float32, before)
    return graph.add_node(op, [x], [graph.add_value("y", np.float32, after)], attributes)


def is_free(node: Node, x: tuple[int, ...], y: tuple[int, ...]) -> bool:
    return Layout({"x": x, "y": y}).is_free(node)


def test_orders() -> None:
    assert [channels_last(rank) for rank in (1, 2, 3, 4, 5)] == [
        (0,), (0, 1), (0, 2, 1), (0, 2, 3, 1), (0, 2, 3, 4, 1),
    ]  # fmt: skip
    assert own_order(3) == (0, 1, 2)
    assert storage_shape((1, 3, 8, 9), channels_last(4)) == (1, 8, 9, 3)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_storing_and_back(order: tuple[int, ...]) -> None:
    array = np.arange(24).reshape(2, 3, 4)
    stored = to_storage(array, order)
    assert stored.shape == storage_shape(array.shape, order)
    np.testing.assert_array_equal(from_storage(stored, order), array)


def test_values_that_are_not_listed_are_stored_in_their_own_order() -> None:
    graph = Graph()
    listed, other = (graph.add_input(name, np.float32, (1, 2, 3)) for name in "ab")
    layout = Layout({"a": (0, 2, 1)})
    assert layout.order_of(listed) == (0, 2, 1)
    assert layout.order_of(other) == (0, 1, 2)
    with pytest.raises(ValueError, match="'c' is not known"):
        layout.order_of(graph.add_input("c", np.float32, None))


def test_axes_of_one_element_may_stand_anywhere() -> None:
    assert same_storage((2, 3, 1, 1), (0, 1, 2, 3), (0, 2, 3, 1))
    assert not same_storage((2, 3, 1, 4), (0, 1, 2, 3), (0, 2, 3, 1))
    assert not same_storage(("n", 3, 1), (0, 1, 2), (1, 0, 2))


NHWC, NCHW = (0, 2, 3, 1), (0, 1, 2, 3)


@pytest.mark.parametrize(
    ("op", "before", "after", "attributes", "x", "y", "free"),
    [
        ("Transpose", ("n", 8, 9, 3), ("n", 3, 8, 9), {"perm": [0, 3, 1, 2]}, NCHW, NHWC, True),
        ("Transpose", ("n", 8, 9, 3), ("n", 3, 8, 9), {"perm": [0, 3, 1, 2]}, NCHW, NCHW, False),
        ("Transpose", ("n", 3, 8, 9), ("n", 8, 9, 3), {"perm": [0, 2, 3, 1]}, NHWC, NCHW, True),
        ("Transpose", (4, 5), (5, 4), {}, (0, 1), (1, 0), True),
        ("Transpose", (4, 5), (5, 4), {}, (0, 1), (0, 1), False),
        ("Transpose", (4, 1, 5), (4, 5, 1), {"perm": [0, 2, 1]}, (0, 1, 2), (0, 1, 2), True),
        ("Transpose", ("n", "c", 5), ("n", 5, "c"), {"perm": [0, 2, 1]}, (0, 1, 2), (0, 2, 1), True),
        ("Transpose", None, None, {"perm": [1, 0]}, (0, 1), (1, 0), False),
        ("Flatten", ("n", 6, 1, 1), ("n", 6), {"axis": 1}, NHWC, (0, 1), True),
        ("Flatten", ("n", 6, 1, 5), ("n", 30), {"axis": 1}, NHWC, (0, 1), False),
        ("Flatten", ("n", 6, 1, 5), ("n", 30), {"axis": 1}, NCHW, (0, 1), True),
        ("Flatten", (None, 6, 1, 1), (None, 6), {"axis": 1}, NHWC, (0, 1), True),
        ("Reshape", ("n", 6, 4, 5), ("n", 6, 20), {}, NHWC, (0, 2, 1), True),
        ("Reshape", ("n", 6, 4, 5), ("n", 6, 20), {}, NHWC, (0, 1, 2), False),
        ("Reshape", ("n", 6, 4, 5), ("n", 2, 3, 4, 5), {}, NHWC, (0, 3, 4, 1, 2), True),
        ("Reshape", ("n", 4, 5, 6), (None, 6), {}, NCHW, (0, 1), True),
        ("Reshape", ("n", 4, 5, 6), ("rows", 6), {}, (0, 2, 1, 3), (0, 1), False),
        ("Reshape", ("n", 6, 4, 5), ("rows", 6), {}, NHWC, (0, 1), False),
        ("Reshape", ("n", 6, "h", "w"), ("n", "h", 6, "w"), {}, NCHW, NCHW, True),
        ("Reshape", ("n", 6, "h", "w"), ("n", 2, 3, "h", "w"), {}, NHWC, (0, 3, 4, 1, 2), True),
        ("Reshape", ("n", 6, "h", "w"), ("n", "h", 6, "w"), {}, NHWC, NHWC, False),
        ("Reshape", ("?", 6, "?"), ("a", "b", "c"), {}, (0, 1, 2), (0, 1, 2), True),
        ("Reshape", ("?", 6, "?"), ("?", "?", 6), {}, (0, 2, 1), (0, 1, 2), False),
        ("Reshape", ("n", 4, 6), ("n", 6, 4), {}, (0, 1, 2), (0, 1, 2), True),
        ("Reshape", ("n", 4, 6), ("n", 6, 4), {}, (0, 2, 1), (0, 2, 1), False),
        ("Reshape", ("n", 4, 6), ("m", "k"), {}, (0, 2, 1), (1, 0), False),
        ("Reshape", (0, 4), (4, 0), {}, (1, 0), (0, 1), False),
        ("Reshape", (2, "a", "b", "c", "d", "e", "f"), (2, None), {}, (1, 0, 2, 3, 4, 5, 6), (0, 1), False),
        ("Squeeze", ("n", 6, 1, 5), ("n", 6, 5), {}, NHWC, (0, 2, 1), True),
        ("Unsqueeze", ("n", 6, 5), ("n", 6, 1, 5), {}, (0, 2, 1), NHWC, True),
        ("Unsqueeze", ("n", 6, 5), ("n", 6, 5, 1), {}, (0, 2, 1), NHWC, True),
        ("Identity", ("n", 6, 5), ("n", 6, 5), {}, (0, 2, 1), (0, 2, 1), True),
        ("Identity", ("n", 6, 5), ("n", 6, 5), {}, (0, 2, 1), (0, 1, 2), False),
        ("Relu", ("n", 6, 5), ("n", 6, 5), {}, (0, 1, 2), (0, 1, 2), False),
    ],
)  # fmt: skip
def test_what_is_free(
    op: str, before: Shape | None, after: Shape | None, attributes: Any, x: Any, y: Any, free: bool
) -> None:
    assert is_free(node_of(op, before, after, **attributes), x, y) is free


def test_a_transpose_is_free_where_its_permutation_says_so() -> None:
    for perm, x, y in itertools.product(itertools.permutations(range(3)), repeat=3):
        node = node_of("Transpose", (2, 3, 4), tuple((2, 3, 4)[axis] for axis in perm), perm=list(perm))
        assert is_free(node, x, y) == (x == tuple(perm[axis] for axis in y))


SIZES = st.lists(st.integers(1, 4), min_size=1, max_size=4)


@given(SIZES, st.data())
def test_transposes_against_numpy(sizes: list[int], data: st.DataObject) -> None:
    perm, x, y = (data.draw(st.permutations(range(len(sizes)))) for _ in range(3))
    array = np.arange(math.prod(sizes)).reshape(sizes)
    made = array.transpose(perm)
    node = node_of("Transpose", tuple(sizes), made.shape, perm=perm)
    same = np.array_equal(to_storage(array, tuple(x)).ravel(), to_storage(made, tuple(y)).ravel())
    assert is_free(node, tuple(x), tuple(y)) == same


@st.composite
def reshapes(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Two shapes of as many elements: the same factors, put together in two ways."""
    factors = draw(st.lists(st.sampled_from((1, 2, 2, 3)), min_size=1, max_size=5))

    def together() -> tuple[int, ...]:
        sizes = [1] * draw(st.integers(0, 1))
        for factor in factors:
            if sizes and draw(st.booleans()):
                sizes[-1] *= factor
            else:
                sizes.append(factor)
        return tuple(sizes)

    return together(), together()


@settings(max_examples=300)
@given(reshapes(), st.data())
def test_reshapes_against_numpy(shapes: tuple[tuple[int, ...], tuple[int, ...]], data: st.DataObject) -> None:
    before, after = shapes
    x, y = (tuple(data.draw(st.permutations(range(len(shape))))) for shape in shapes)
    array = np.arange(math.prod(before)).reshape(before)
    same = np.array_equal(to_storage(array, x).ravel(), to_storage(array.reshape(after), y).ravel())
    assert is_free(node_of("Reshape", before, after), x, y) == same
    batched = node_of("Reshape", ("n", *before), ("n", *after))
    assert is_free(batched, (0, *(axis + 1 for axis in x)), (0, *(axis + 1 for axis in y))) == same


@settings(max_examples=300)
@given(reshapes(), st.data())
def test_carried_orders_move_nothing(
    shapes: tuple[tuple[int, ...], tuple[int, ...]], data: st.DataObject
) -> None:
    before, after = shapes
    order = tuple(data.draw(st.permutations(range(len(before)))))
    array = np.arange(math.prod(before)).reshape(before)
    stored, made = to_storage(array, order).ravel(), array.reshape(after)
    carried = reshaped_order(order, before, after)
    if carried is None:
        others = itertools.permutations(range(len(after)))
        assert not any(np.array_equal(stored, to_storage(made, other).ravel()) for other in others)
    else:
        np.testing.assert_array_equal(to_storage(made, carried).ravel(), stored)
        back = reshaped_order(carried, before, after, back=True)
        assert back is not None
        assert same_storage(before, back, order)


@given(SIZES, SIZES, st.data())
def test_axes_that_are_cut_unevenly_are_never_free_by_mistake(
    before: list[int], after: list[int], data: st.DataObject
) -> None:
    after = [*after, math.prod(before)]
    while math.prod(after) > math.prod(before):
        after.pop()
    assume(math.prod(after) == math.prod(before))
    x, y = (tuple(data.draw(st.permutations(range(len(shape))))) for shape in (before, after))
    array = np.arange(math.prod(before)).reshape(before)
    if is_free(node_of("Reshape", tuple(before), tuple(after)), x, y):
        np.testing.assert_array_equal(
            to_storage(array, x).ravel(), to_storage(array.reshape(after), y).ravel()
        )


def test_a_copy_of_the_graph_keeps_the_fact() -> None:
    graph = Graph()
    graph.facts[LAYOUT] = Layout({"x": (0, 2, 1)})
    assert graph.copy(facts=True).facts[LAYOUT].orders == {"x": (0, 2, 1)}
    assert LAYOUT not in graph.copy().facts
