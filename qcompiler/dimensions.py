"""Open dimensions of a model's inputs, fixed before anything else happens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from qcompiler.errors import OptionError, suggest
from qcompiler.pairs import read_pairs

if TYPE_CHECKING:
    from qcompiler.ir.graph import Graph
    from qcompiler.ir.node import Shape


def fix_dimensions(graph: Graph, sizes: Mapping[str, int]) -> None:
    """Gives open dimensions of the inputs their sizes; shapes that were inferred with them are forgotten.

    Args:
        graph: The graph.
        sizes: By the dimension's name, or by `INPUT:AXIS`.

    Raises:
        OptionError: There is no such open dimension, or a size is not positive.
    """
    if not sizes:
        return
    open_dimensions = {
        name
        for value in graph.inputs
        for axis, dim in enumerate(value.shape or ())
        if not isinstance(dim, int)
        for name in (f"{value.name}:{axis}", dim)
        if name
    }
    for name, size in sizes.items():
        if name not in open_dimensions:
            listed = ", ".join(sorted(map(str, open_dimensions))) or "none: every dimension is fixed"
            raise OptionError(
                f"--dimension names {name!r}, which is no open dimension of an input{suggest(name, map(str, open_dimensions))} "
                f"There are: {listed}."
            )
        if size < 1:
            raise OptionError(f"--dimension {name}={size}: a size is 1 at least.")
    set_input_shapes(
        graph,
        {
            value.name: tuple(
                dim if isinstance(dim, int) else sizes.get(f"{value.name}:{axis}", sizes.get(str(dim), dim))
                for axis, dim in enumerate(value.shape)
            )
            for value in graph.inputs
            if value.shape is not None
        },
    )


def set_input_shapes(graph: Graph, shapes: Mapping[str, Shape]) -> None:
    """Gives inputs other shapes, and forgets those of everything computed, which inference has to find anew.

    Args:
        graph: The graph.
        shapes: By the input's name; inputs that are left out keep theirs.
    """
    for value in graph.inputs:
        value.shape = shapes.get(value.name, value.shape)
    for node in graph.topological():
        for made in node.outputs:
            if made is not None:
                made.shape = None


def read_dimensions(texts: tuple[str, ...]) -> dict[str, int]:
    """Reads NAME=SIZE texts.

    Raises:
        OptionError: One cannot be read.
    """
    form = "NAME=SIZE or INPUT:AXIS=SIZE, for example height=224"
    return {
        name: int(size)
        for name, size in read_pairs("--dimension", texts, form, name=r".+", value=r"[0-9]+").items()
    }
