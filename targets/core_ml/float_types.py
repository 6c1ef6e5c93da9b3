"""In which type of floats each operator computes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from qcompiler.ir.encoding import FORMATS
from qcompiler.narrow_floats import overflow
from qcompiler.scale_formats import scale_loss

if TYPE_CHECKING:
    from qcompiler.ir.graph import Graph
    from qcompiler.ir.node import Node

_HALF = FORMATS["float16"]


class FloatTypes:
    """The type of each node: the plan's, or float32 where that would lose numbers.

    In float16 that is where a constant or what was observed on calibration data exceeds its range, and where a scale is too small or
    too large to be stored in it: the Neural Engine leaves such operators to other units, which is better than a wrong result.
    """

    def __init__(self, graph: Graph, float_format: str) -> None:
        """Decides for every node of a graph with Q/DQ.

        Args:
            graph: The graph.
            float_format: The plan's.
        """
        self.default = FORMATS[float_format].dtype
        self.wide: dict[str, str] = {}
        if self.default == np.float32:
            return
        for node in graph.topological():
            reason = _loss(graph, node)
            if reason:
                self.wide[node.name] = reason

    def of(self, node: Node) -> np.dtype[Any]:
        """The type that a node computes in."""
        return np.dtype(np.float32) if node.name in self.wide else self.default


def _loss(graph: Graph, node: Node) -> str:
    """What a node would lose in float16; empty for nothing."""
    if node.op in ("QuantizeLinear", "DequantizeLinear"):
        scale = node.input(1)
        data = node.input(0)
        assert scale is not None
        if data is not None and data.is_constant:
            return ""  # the operator that reads it decides
        return scale_loss(np.asarray(scale.data), _HALF)
    for _, value in node.operands():
        source = value.producer
        if (
            source is not None
            and source.op == "DequantizeLinear"
            and source.inputs[0] is not None
            and source.inputs[0].is_constant
        ):
            scale = source.input(1)
            reason = scale_loss(np.asarray(scale.data), _HALF) if scale is not None else ""
            if reason:
                return reason
    return overflow(graph, node, _HALF)
