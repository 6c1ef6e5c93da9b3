"""Open dimensions of inputs, fixed by name or by place."""

from __future__ import annotations

import pytest
from small_graphs import graph_of

from qcompiler.dimensions import fix_dimensions, read_dimensions
from qcompiler.errors import OptionError
from qcompiler.ir.graph import Graph
from qcompiler.ir.shapes import infer_shapes


def _graph() -> Graph:
    graph = graph_of(
        "(float[batch,3,height,width] x, float[batch,height] m) => (float y, float n) { y = Relu(x) n = Relu(m) }",
        {},
    )
    infer_shapes(graph)
    return graph


def test_a_name_fixes_the_dimension_wherever_it_stands() -> None:
    graph = _graph()
    fix_dimensions(graph, {"height": 8, "x:3": 9})
    assert [value.shape for value in graph.inputs] == [("batch", 3, 8, 9), ("batch", 8)]
    infer_shapes(graph)
    assert [value.shape for value in graph.outputs] == [("batch", 3, 8, 9), ("batch", 8)]


def test_nothing_given_changes_nothing() -> None:
    graph = _graph()
    before = str(graph)
    fix_dimensions(graph, {})
    assert str(graph) == before


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ({"heigth": 8}, "no open dimension of an input; did you mean 'height'"),
        ({"x:1": 3}, "There are: batch, height, m:0, m:1, width, x:0, x:2, x:3"),
        ({"height": 0}, "a size is 1 at least"),
    ],
)
def test_mistakes_are_told(sizes: dict[str, int], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        fix_dimensions(_graph(), sizes)


def test_reading() -> None:
    assert read_dimensions(("height=224", "x:3=9", "n=m = 3")) == {"height": 224, "x:3": 9, "n=m": 3}
    for text in ("height", "=3", "height=", "height=-1", "height=x"):
        with pytest.raises(OptionError, match="cannot be read"):
            read_dimensions((text,))
