"""correct_bias: takes out of the biases what rounding the weights puts in on average."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from qcompiler import ops
from qcompiler.ir.plan import PLAN
from qcompiler.observed import RANGES
from qcompiler.pass_manager import Effect, Pass, PassContext, PassResult
from qcompiler.sources import value_source

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qcompiler.ir.graph import Graph
    from qcompiler.ir.node import Node
    from qcompiler.ir.plan import Plan
    from qcompiler.target import Target


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
        plan, ranges = graph.facts[PLAN], graph.facts[RANGES]
        encodings = {use: group.encoding for use, group in plan.group_of_use().items()}
        derives = derives_biases(plan, context.target)
        for node in graph.topological():
            x, weight, bias = node.input(0), node.input(1), node.input(2)
            encoding = encodings.get((node.name, 1))
            if encoding is None or x is None or weight is None or weight.data is None:
                continue
            mean = ranges.mean(value_source(x).name)
            if mean is None or not ops.takes_bias(node):
                continue
            # A new bias would have no encoding in the plan, which a row of derived biases asks for.
            correctable = node.name not in derives if bias is None else bias.is_constant
            if not correctable:
                continue
            data = np.asarray(weight.data, np.float32)
            lost = ops.channel_sums(node, data - encoding.fake_quantize(data))
            if lost.any() and context.allow(
                f"{self.name} at {node.name}"
            ):  # weights on their grid lose nothing
                _correct(graph, node, mean * lost)
                result.count("corrected biases")
        return result


def derives_biases(plan: Plan, target: Target | None) -> set[str]:
    """The nodes whose row has an operand with a derived scale."""
    rows = {
        (kernel.name, row.name)
        for kernel in (target.kernel if target is not None else ())
        for row in kernel.row
        if target is not None and any(spec.derived for spec in target.row_specs(row).values())
    }
    return {node for region in plan.regions if (region.kernel, region.row) in rows for node in region.nodes}


def _correct(graph: Graph, node: Node, shift: NDArray[np.float64]) -> None:
    bias = node.input(2)
    old = 0.0 if bias is None or bias.data is None else np.asarray(bias.data, np.float64)
    hint = f"{node.name}.bias" if bias is None else f"{bias.name}.corrected"
    graph.set_input(node, 2, graph.add_constant(hint, (old + shift).astype(np.float32)))
