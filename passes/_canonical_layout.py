"""Transposes and changes of shape: merged, cancelled, and Flatten(axis=1) wherever that is what happens.

Rows are kept symbolic: a target size of 0 copies the input's, so a batch that is open stays open.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np
from qcompiler.passes._node_rules import NodeRule
from qcompiler.passes._operands import element_count, integers, normalized_axes, same_dim

from qcompiler.ir.node import Dim
from qcompiler.rewrite import Rewrite, inherit

if TYPE_CHECKING:
    from qcompiler.ir.graph import Graph
    from qcompiler.ir.node import Node, Value
    from qcompiler.patterns import Match

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


class OldSoftmax(Rewrite):
    """Flatten, Softmax over the rest, Reshape back: how Softmax before opset 13 is written in later ones.

    Where all flattened axes but one have size 1, it is the Softmax over that one.
    """

    name = "restore Softmax"
    patterns: ClassVar[tuple[str, ...]] = ("Flatten(x) -> normal=Softmax|LogSoftmax(_) -> Reshape(_, shape)",)

    def check(self, match: Match) -> str | None:
        """Wants static sizes where it matters."""
        flatten, reshape, source = match.anchor, match.root, match["x"]
        if (
            source.rank is None
            or source.shape is None
            or match.labels["normal"].attributes.get("axis", -1) not in (1, -1)
        ):
            return ""
        shape = match["shape"]
        back = (
            shape.producer is not None and shape.producer.is_op("Shape") and shape.producer.input(0) is source
        )
        whole = back and not {"start", "end"} & set(shape.producer.attributes if shape.producer else ())
        if not whole and not reshape_does_nothing(source, reshape.output, target_of(reshape)):
            return ""
        flattened = source.shape[flatten.attributes.get("axis", 1) % source.rank :]
        if sum(dim != 1 for dim in flattened) > 1:
            return (
                "the flattened axes have more than one size above 1: no Softmax over one axis computes that"
            )
        return None

    def replace(self, graph: Graph, match: Match) -> Value | None:
        """Builds the Softmax over the axis that is not 1."""
        source = match["x"]
        assert source.shape is not None
        axis = int(match.anchor.attributes.get("axis", 1)) % len(source.shape)
        while axis < len(source.shape) - 1 and source.shape[axis] == 1:
            axis += 1
        return graph.add_node(match.labels["normal"].op, [source], attributes={"axis": axis}).output


class NormalizeAxis(NodeRule):
    """Axes are stated: -1 for the last one of a normalization, from the front everywhere else."""

    name = "state axis"
    patterns = ("Softmax", "LogSoftmax", "LayerNormalization", "Concat", "Split", "Gather", "Flatten")
    _defaults: ClassVar[dict[str, int]] = {
        "Softmax": -1, "LogSoftmax": -1, "LayerNormalization": -1, "Split": 0, "Gather": 0, "Flatten": 1, "Concat": 0,
    }  # fmt: skip

    def applies(self, node: Node) -> bool:
        """Compares with the normal form."""
        return self._normal(node) != node.attributes.get("axis")

    def apply(self, graph: Graph, node: Node) -> Value:
        """Sets the attribute."""
        graph.set_attribute(node, "axis", self._normal(node))
        return node.output

    def _normal(self, node: Node) -> int:
        axis = int(node.attributes.get("axis", self._defaults[node.op]))
        rank = next(
            (value.rank for value in node.inputs if value is not None and value.rank is not None), None
        )
        if rank is None:
            return axis
        if node.op in ("Softmax", "LogSoftmax", "LayerNormalization"):
            return -1 if axis in (-1, rank - 1) else axis % rank
        return axis + rank if axis < 0 else axis


class MergeSlices(NodeRule):
    """Two Slices of different axes in a row become one."""

    name = "merge Slices"
    patterns = ("Slice",)

    def applies(self, node: Node) -> bool:
        """Wants both windows constant and the earlier Slice for itself."""
        source = node.input(0)
        if (
            source is None
            or source.only_use is None
            or source.producer is None
            or not source.producer.is_op("Slice")
        ):
            return False
        inner, outer = self._windows(source.producer), self._windows(node)
        return inner is not None and outer is not None and not set(inner) & set(outer)

    def apply(self, graph: Graph, node: Node) -> Value:
        """Builds the Slice of all axes."""
        source = node.inputs[0]
        assert source is not None
        first = source.producer
        assert first is not None
        windows = {**(self._windows(first) or {}), **(self._windows(node) or {})}
        axes = sorted(windows)
        columns = [*zip(*(windows[axis] for axis in axes), strict=True)]
        operands = [
            graph.add_constant(f"{node.output.name}_{name}", np.asarray(column, np.int64))
            for name, column in zip(
                ("starts", "ends", "axes", "steps"), (*columns[:2], axes, columns[2]), strict=True
            )
        ]
        made = graph.add_node("Slice", [first.inputs[0], *operands])
        inherit(made, first)
        return made.output

    @staticmethod
    def _windows(node: Node) -> dict[int, tuple[int, int, int]] | None:
        """Axis, from the front, to (start, end, step)."""
        source, starts, ends = node.input(0), integers(node, 1), integers(node, 2)
        if source is None or starts is None or ends is None:
            return None
        axes = list(range(len(starts))) if node.input(3) is None else integers(node, 3)
        steps = [1] * len(starts) if node.input(4) is None else integers(node, 4)
        if axes is None or steps is None or (min(axes, default=0) < 0 and source.rank is None):
            return None
        axes = [axis + (source.rank or 0) if axis < 0 else axis for axis in axes]
        return dict(zip(axes, zip(starts, ends, steps, strict=True), strict=True))


RULES: tuple[type[Rewrite], ...] = (
    MergeTransposes,
    RemoveView,
    MergeViews,
    ViewToFlatten,
    MergeSlices,
    OldSoftmax,
    NormalizeAxis,
)
"""In this order at every node."""
