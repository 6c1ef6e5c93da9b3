"""Names in a package: identifiers, one per value of the graph, the same for the same graph."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qcompiler.ir.graph import Graph


def identifiers(graph: Graph) -> dict[str, str]:
    """Value name to its identifier in the package: letters, digits and underscores, no digit first, each one once.

    Inputs and outputs come first, so that a name that clashes with theirs is the one that is numbered.
    """
    found: dict[str, str] = {}
    taken: set[str] = set()
    for value in (*graph.inputs, *graph.outputs, *graph.values):
        if value.name not in found:
            found[value.name] = _free(identifier(value.name), taken)
    return found


def identifier(name: str) -> str:
    """A name with what no identifier holds replaced."""
    plain = re.sub(r"\W", "_", name, flags=re.ASCII)
    return f"_{plain}" if not plain or plain[0].isdigit() else plain


def _free(name: str, taken: set[str]) -> str:
    number, free = 0, name
    while free in taken:
        number += 1
        free = f"{name}_{number}"
    taken.add(free)
    return free
