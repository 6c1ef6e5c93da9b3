"""What changed between two graphs, by name and origin."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from qcompiler.ir.node import Attribute, Subgraph
from qcompiler.ir.text import node_text, type_text

if TYPE_CHECKING:
    from qcompiler.ir.graph import Graph
    from qcompiler.ir.node import Node


@dataclass(frozen=True)
class GraphDiff:
    """The difference from a first graph to a second; entries are lines of text, in graph order.

    Attributes:
        added: Nodes only in the second.
        removed: Nodes only in the first.
        changed: Nodes in both whose operator, attributes or operands differ: (before, after).
        constants: Constants in both with other elements: name and largest absolute difference.
        interface: Graph inputs and outputs that differ.
    """

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: tuple[tuple[str, str], ...] = ()
    constants: tuple[str, ...] = ()
    interface: tuple[str, ...] = field(default=())

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed or self.constants or self.interface)

    def __str__(self) -> str:
        lines = [f"! {line}" for line in self.interface]
        lines += [f"- {line}" for line in self.removed]
        lines += [f"+ {line}" for line in self.added]
        for before, after in self.changed:
            lines += [f"~ {before}", f"  {after}"]
        lines += [f"* {line}" for line in self.constants]
        return "\n".join(lines) or "no difference"


def diff_graphs(first: Graph, second: Graph) -> GraphDiff:
    """Compares two graphs node by node; nodes are the same if their names are."""
    before, after = _by_name(first), _by_name(second)
    changed = []
    for name, node in before.items():
        twin = after.get(name)
        if twin is None:
            continue
        lines = node_text(node), node_text(twin)
        if lines[0] != lines[1] or not _same_attributes(node, twin):
            changed.append(lines)
    return GraphDiff(
        added=tuple(node_text(node) for name, node in after.items() if name not in before),
        removed=tuple(node_text(node) for name, node in before.items() if name not in after),
        changed=tuple(changed),
        constants=tuple(_constant_changes(first, second)),
        interface=tuple(_interface_changes(first, second)),
    )


def _by_name(graph: Graph) -> dict[str, Node]:
    return {node.name: node for node in graph.topological()}


def _same_attributes(node: Node, twin: Node) -> bool:
    """Whether attributes agree in what their text leaves out: bodies and large tensors."""
    return all(_same(attribute, twin.attributes[key]) for key, attribute in node.attributes.items())


def _same(first: Attribute, second: Attribute) -> bool:
    if first is second:
        return True
    if isinstance(first, Subgraph) and isinstance(second, Subgraph):
        return first.proto == second.proto
    if isinstance(first, np.ndarray) and isinstance(second, np.ndarray):
        return (
            first.dtype == second.dtype
            and first.shape == second.shape
            and first.tobytes() == second.tobytes()
        )
    if isinstance(first, list) and isinstance(second, list):
        return len(first) == len(second) and all(map(_same, first, second))
    if isinstance(first, float) and isinstance(second, float):
        return bool(np.float32(first) == np.float32(second))  # a file keeps no more
    return bool(first == second)


def _constant_changes(first: Graph, second: Graph) -> list[str]:
    lines = []
    for value in first.constants:
        if not second.has_value(value.name):
            continue
        old, new = value.data, second.value(value.name).data
        if new is None or old is None or old is new:
            continue
        if old.shape != new.shape or old.dtype != new.dtype:
            lines.append(f"{value.name}: {type_text(value)} -> {type_text(second.value(value.name))}")
        elif not (np.equal(old, new) | (np.not_equal(old, old) & np.not_equal(new, new))).all():
            lines.append(f"{value.name}: elements differ{_largest_difference(old, new)}")
    return lines


def _largest_difference(old: np.ndarray, new: np.ndarray) -> str:
    try:
        gap = np.abs(old.astype(np.float64) - new.astype(np.float64)).max()
    except (TypeError, ValueError):
        return ""
    return f" by up to {gap:.3g}"


def _interface_changes(first: Graph, second: Graph) -> list[str]:
    lines = []
    for kind, ours, theirs in (
        ("input", first.inputs, second.inputs),
        ("output", first.outputs, second.outputs),
    ):
        left = [f"{value.name}: {type_text(value)}" for value in ours]
        right = [f"{value.name}: {type_text(value)}" for value in theirs]
        if left != right:
            lines.append(f"{kind}s: {'; '.join(left)} -> {'; '.join(right)}")
    return lines
