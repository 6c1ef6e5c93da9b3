"""What floats of 16 bits do not hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from qcompiler.observed import RANGES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qcompiler.ir.encoding import Format
    from qcompiler.ir.graph import Graph
    from qcompiler.ir.node import Node


def overflow(graph: Graph, node: Node, narrow: Format) -> str:
    """Why a narrow float format does not hold what a node reads or was observed to write, one clause; empty where it does.

    Args:
        graph: The graph; its fact RANGES says what was observed, if it holds.
        node: The node.
        narrow: The format, of floats of 16 bits.
    """
    ranges = graph.facts.get(RANGES)
    for _, value in node.operands():
        if value.data is not None and value.dtype == np.float32 and _exceeds(value.data, narrow.maximum):
            return f"the constant {value.name!r} exceeds {narrow.name}"
    for output in node.outputs:
        if (
            output is not None
            and ranges is not None
            and ranges.statistics is not None
            and output.name in ranges.statistics
        ):
            seen = ranges.statistics[output.name]
            if max(-float(seen.low[0]), float(seen.high[0])) > narrow.maximum / 2:
                return f"{output.name!r} was observed up to {float(seen.high[0]):.3g}, too near the limit of {narrow.name}"
    return ""


def _exceeds(data: NDArray[np.float32], limit: float) -> bool:
    finite = data[np.isfinite(data)]
    return bool(finite.size) and float(np.abs(finite).max()) > limit
