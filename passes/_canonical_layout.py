"""Transposes and changes of shape: merged, cancelled, and Flatten(axis=1) wherever that is what happens.

Rows are kept symbolic: a target size of 0 copies the input's, so a batch that is open stays open.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from qcompiler.ir.node import Dim
from qcompiler.passes._node_rules import NodeRule
from qcompiler.passes._operands import element_count, integers, normalized_axes, same_dim
from qcompiler.rewrite import inherit

if TYPE_CHECKING:
    from qcompiler.ir.graph import Graph
    from qcompiler.ir.node import Node, Value
    from qcompiler.rewrite import Rewrite

_VIEWS = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")


def target_of(node: Node) -> list[int] | None:
    """The constant target of a Reshape in which 0 copies, else None."""
    return None if node.attributes.get("allowzero", 0) else integers(node, 1)


def reshape_does_nothing(source: Value, output: Value, target: list[int] | None) -> bool:
    """Whether a Reshape certainly returns its input.

    The element counts are equal, so all sizes but one being equal makes that one equal too.
    """
    before, after = source.shape, output.shape
    if before is None:
        return False
    if after is None or len(after) != len(before):
        after = (None,) * len(target) if target is not None else None
        if after is None or len(after) != len(before):
            return False
    open_places = 0
    for axis, (left, right) in enumerate(zip(before, after, strict=True)):
        copied = target is not None and target[axis] == 0
        if not copied and not same_dim(left, right):
            open_places += 1
    return open_places == 0 or (open_places == 1 and 0 not in before)


def keeps_leading(view: Node) -> bool:
    """Whether a view certainly keeps the first axis as it is, even where its size is unknown."""
    source = view.input(0)
    if source is None:
        return False
    if source.shape and view.output.shape and same_dim(source.shape[0], view.output.shape[0]):
        return True
    if view.op == "Flatten":
        return bool(view.attributes.get("axis", 1) == 1)
    if view.op == "Reshape":
        target = target_of(view)
        return bool(target) and target is not None and target[0] == 0
    axes = integers(view, 1)
    return axes is not None and 0 not in axes and all(axis > 0 for axis in axes)


class MergeTransposes(NodeRule):
    """A Transpose that moves nothing goes; two in a row become one."""

    name = "merge Transposes"
    patterns = ("Transpose",)

    def applies(self, node: Node) -> bool:
        """Wants to know the permutation."""
        source, perm = node.input(0), self._permutation(node)
        if source is None or perm is None:
            return False
        behind = (
            source.producer is not None
            and source.producer.is_op("Transpose")
            and self._permutation(source.producer) is not None
        )
        return perm == sorted(perm) or "perm" not in node.attributes or behind

    def apply(self, graph: Graph, node: Node) -> Value | None:
        """Composes: axis i of the result is axis first[second[i]] of the source."""
        source, perm = node.inputs[0], self._permutation(node)
        assert source is not None
        assert perm is not None
        if perm == sorted(perm):
            return source
        graph.set_attribute(node, "perm", perm)
        first = source.producer
        if first is not None and first.is_op("Transpose"):
            inner = self._permutation(first)
            assert inner is not None
            composed = [inner[axis] for axis in perm]
            if composed == sorted(composed):
                return first.inputs[0]
            graph.set_attribute(node, "perm", composed)
            graph.set_input(node, 0, first.inputs[0])
            inherit(node, first)
        return node.output

    @staticmethod
    def _permutation(node: Node) -> list[int] | None:
        if "perm" in node.attributes:
            return [int(axis) for axis in node.attributes["perm"]]
        source = node.input(0)
        return list(range(source.rank))[::-1] if source is not None and source.rank is not None else None


class RemoveView(NodeRule):
    """A Reshape or Flatten to the shape that is there already, and a Squeeze that undoes an Unsqueeze or the reverse."""

    name = "remove view"
    patterns = _VIEWS

    def applies(self, node: Node) -> bool:
        """Compares shapes, or axes."""
        source = node.input(0)
        if source is None or source.is_constant:
            return False
        if node.op == "Reshape":
            return reshape_does_nothing(source, node.output, target_of(node))
        if node.op == "Flatten":
            return source.rank == 2 and node.attributes.get("axis", 1) in (1, -1)
        return self._undoes(node, source.producer)

    @staticmethod
    def _undoes(node: Node, first: Node | None) -> bool:
        inverse = {"Squeeze": "Unsqueeze", "Unsqueeze": "Squeeze"}[node.op]
        axes = integers(node, 1)
        return first is not None and first.is_op(inverse) and bool(axes) and axes == integers(first, 1)

    def apply(self, graph: Graph, node: Node) -> Value | None:
        """Returns what was there before."""
        source = node.inputs[0]
        if node.op in ("Squeeze", "Unsqueeze"):
            assert source is not None
            assert source.producer is not None
            return source.producer.inputs[0]
        return source


class CopyBatch(NodeRule):
    """A first size of -1 that is certainly the input's own is written 0: the batch is copied, not computed."""

    name = "copy batch"
    patterns = ("Reshape",)

    def applies(self, node: Node) -> bool:
        """Compares what is behind the first axis."""
        source, target = node.input(0), target_of(node)
        if source is None or not source.shape or not target or target[0] != -1 or 0 in target:
            return False
        rest = element_count(source.shape[1:])
        return rest is not None and rest > 0 and math.prod(target[1:]) == rest

    def apply(self, graph: Graph, node: Node) -> Value:
        """Changes the target; it may be shared, so it is copied."""
        target = target_of(node)
        assert target is not None
        graph.set_input(
            node, 1, graph.add_constant(f"{node.output.name}_shape", np.asarray([0, *target[1:]], np.int64))
        )
        source = node.inputs[0]
        assert source is not None
        assert source.shape
        if node.output.shape and node.output.shape[0] is None:
            node.output.shape = (source.shape[0], *node.output.shape[1:])
        return node.output


class MergeViews(NodeRule):
    """A Reshape or Flatten behind another view reads what that view read."""

    name = "merge views"
    patterns = ("Reshape", "Flatten")

    def applies(self, node: Node) -> bool:
        """Whether the target can be said in terms of the earlier shape."""
        source = node.input(0)
        if source is None or source.producer is None or not source.producer.is_op(*_VIEWS):
            return False
        view = source.producer
        if node.op == "Flatten":
            return node.attributes.get("axis", 1) == 1 and keeps_leading(view)
        return self._target(node, view) is not None

    def apply(self, graph: Graph, node: Node) -> Value:
        """Skips the earlier view, which stays for other readers."""
        source = node.inputs[0]
        assert source is not None
        view = source.producer
        assert view is not None
        if node.op == "Reshape":
            target = self._target(node, view)
            if target != target_of(node):
                graph.set_input(
                    node, 1, graph.add_constant(f"{node.output.name}_shape", np.asarray(target, np.int64))
                )
        graph.set_input(node, 0, view.inputs[0])
        inherit(node, view)
        return node.output

    @staticmethod
    def _target(node: Node, view: Node) -> list[int] | None:
        target, source = target_of(node), view.input(0)
        if target is None or source is None or source.is_constant:
            return None
        between = view.output.shape
        result = list(target)
        for axis in (index for index, size in enumerate(target) if size == 0):
            size: Dim = between[axis] if between is not None and axis < len(between) else None
            earlier: Dim = (
                source.shape[axis] if source.shape is not None and axis < len(source.shape) else None
            )
            if axis == 0 and keeps_leading(view):
                continue
            if isinstance(size, int) and size > 0:
                result[axis] = size
            elif same_dim(size, earlier):
                continue
            elif -1 not in result:
                result[axis] = -1
            else:
                return None
        return result


class ViewToFlatten(NodeRule):
    """Reshape to [batch, rest] and Squeeze of everything behind the channels are Flatten(axis=1)."""

    name = "write view as Flatten"
    patterns = ("Reshape", "Squeeze")

    def applies(self, node: Node) -> bool:
        """Whether the first axis is certainly the input's own."""
        source = node.input(0)
        if source is None or source.rank is None or source.rank < 3 or source.is_constant:
            return False
        if node.op == "Squeeze":
            axes = integers(node, 1)
            return axes is not None and normalized_axes(axes, source.rank) == list(range(2, source.rank))
        target = target_of(node)
        if target is None or len(target) != 2 or source.shape is None:
            return False
        rest = element_count(source.shape[1:])
        if target[0] == 0:
            return target[1] == -1 or (rest is not None and target[1] == rest)
        if target[0] > 0:
            return source.shape[0] == target[0]
        return rest is not None and rest > 0 and target[1] == rest

    def apply(self, graph: Graph, node: Node) -> Value:
        """Builds the Flatten."""
        return graph.add_node("Flatten", node.inputs[:1], attributes={"axis": 1}).output


RULES: tuple[type[Rewrite], ...] = (MergeTransposes, RemoveView, CopyBatch, MergeViews, ViewToFlatten)
"""In this order at every node."""
