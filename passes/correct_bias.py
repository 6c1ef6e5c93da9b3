"""correct_bias: takes out of the biases what rounding the weights puts in on average."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from qcompiler import ops
from qcompiler.assignment import value_source
from qcompiler.ir.plan import PLAN
from qcompiler.observed import RANGES
from qcompiler.pass_manager import Effect, Pass, PassContext, PassResult

if TYPE_CHECKING:
    from qcompiler.ir.encoding import Encoding
    from qcompiler.ir.graph import Graph
    from qcompiler.ir.node import Node


@dataclass(frozen=True)
class CorrectBias(Pass):
    """Adds `mean(x) * sum(w - w')` to the bias of every layer whose weights w are going to be stored as w'.

    The error that rounding makes in an output is the sum of (w' - w) * x over its inputs; its expectation is removed with
    the mean of x that calibration saw, taken over the whole tensor. (Nagel et al., Data-Free Quantization, 2019, section
    4.2, there with a mean per channel.) Padding is not accounted for. It needs no data of its own and costs nothing at
    run time; layers without statistics, or without a bias input to change, are left alone.
    """

    name = "correct_bias"
    effect = Effect.APPROXIMATE
    requires = (PLAN, RANGES)

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        """Consumes PLAN and RANGES; replaces bias constants."""
        result = PassResult()
        encodings = {use: group.encoding for use, group in graph.facts[PLAN].group_of_use().items()}
        ranges = graph.facts[RANGES]
        for node in graph.topological():
            row, x, weight = ops.info(node), node.input(0), node.input(1)
            encoding = encodings.get((node.name, 1))
            if (
                encoding is None
                or x is None
                or weight is None
                or weight.data is None
                or row.role(2) != "bias"
            ):
                continue
            mean = ranges.mean(value_source(x).name)
            bias = node.input(2)
            if mean is None or len(row.roles) < 3 or (bias is not None and not bias.is_constant):
                continue
            _correct(graph, node, encoding, mean)
            result.count("corrected biases")
        return result


def _correct(graph: Graph, node: Node, encoding: Encoding, mean: float) -> None:
    weight, bias = node.inputs[1], node.input(2)
    assert weight is not None
    data = np.asarray(weight.data, np.float32)
    channel = ops.info(node).channel_axis(node, 1)
    others = tuple(axis for axis in range(data.ndim) if axis != channel)
    lost = (data - encoding.fake_quantize(data)).sum(axis=others, dtype=np.float64)
    old = 0.0 if bias is None or bias.data is None else np.asarray(bias.data, np.float64)
    hint = f"{node.name}.bias" if bias is None else f"{bias.name}.corrected"
    graph.set_input(node, 2, graph.add_constant(hint, (old + mean * lost).astype(np.float32)))
