"""Axes: stated in one way, Softmax over one axis where an old opset flattened, Slices of different axes in one."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from qcompiler.passes._canonical_layout import reshape_does_nothing, target_of
from qcompiler.passes._node_rules import NodeRule
from qcompiler.passes._operands import integers
from qcompiler.rewrite import Rewrite, inherit

if TYPE_CHECKING:
    from qcompiler.ir.graph import Graph
    from qcompiler.ir.node import Node, Value
    from qcompiler.patterns import Match


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


RULES: tuple[type[Rewrite], ...] = (MergeSlices, OldSoftmax, NormalizeAxis)
"""In this order at every node."""
