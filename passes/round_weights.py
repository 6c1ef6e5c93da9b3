"""round_weights: integer weights (and activation ranges) chosen so that layers' outputs change least."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from threadpoolctl import threadpool_limits

from qcompiler.ir.plan import PLAN
from qcompiler.observed import IMPORTED, RANGES
from qcompiler.pass_manager import Effect, Level, Pass, PassContext, PassResult
from qcompiler.passes._layer_refinement import Refinement, Settings, refinable
from qcompiler.passes._quantized_twin import is_constant
from qcompiler.passes.correct_bias import derives_biases

if TYPE_CHECKING:
    from qcompiler.ir.encoding import Encoding
    from qcompiler.ir.graph import Graph
    from qcompiler.ir.plan import PlannedGroup


@dataclass(frozen=True)
class RoundWeights(Pass):
    """Rounds the weights of every layer so that its outputs, given quantized inputs, come nearest to the float network's.

    Layer by layer, with all layers before it quantized: the range of its input is searched for the least error of its
    output (`ranges`), its weights are moved to the least-squares solution for the inputs that it really gets, and codes,
    scales and bias are found by coordinate descent with the Gram matrix of these inputs. Where the result is added to a
    shortcut, the target is the float sum less the quantized shortcut, so that errors do not pile up along residual
    networks. See `qcompiler.rounding` for the objective and its sources. No labels, no gradients.

    `rows` is how many rows of inputs (windows of a convolution) a layer's moments are taken over, at least; wide layers get
    `depth` rows per input. `damping` draws weights towards the float ones, in units of the mean power of the inputs.
    `memory_mb` bounds what is kept of activations. A layer is left alone where its weights came quantized with the model,
    are shared by several layers, or are of another format than integers and tables of up to `bits`. Entries of tables are
    found along with what is looked up. With a given plan only codes and biases are chosen; scales are the plan's. Where three
    eighths of a layer's weights or more are 0, these stay 0, and the others make up for what `prune_weights` took. Without calibration data
    nothing happens.
    """

    name = "round_weights"
    effect = Effect.APPROXIMATE
    requires = (PLAN, RANGES)

    rows: int = 8192
    depth: int = 16
    sweeps: int = 3
    damping: float = 0.2
    ranges: Literal["joint", "keep"] = "joint"
    bits: int = 8
    memory_mb: int = 256

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        """Consumes PLAN and RANGES; replaces weights and biases, and the plan's scales where the plan was not given.

        Raises:
            DataError: The calibration data do not fit.
        """
        result = PassResult()
        plan = graph.facts[PLAN]
        layers, left = refinable(graph, plan, graph.facts.get(IMPORTED) or {}, self.bits)
        for node, reason in left:
            result.say(Level.INFO, node, f"weights are rounded to nearest: {reason}")
        if not layers:
            return result
        if context.calibration is None:
            result.say(
                Level.INFO, "", "weights are rounded to nearest: there are no calibration data to do better"
            )
            return result
        settings = Settings(
            self.rows, self.depth, self.sweeps, self.damping, self.memory_mb << 20,
            search_ranges=self.ranges == "joint" and context.plan is None, fixed=context.plan is not None,
        )  # fmt: skip
        derives = derives_biases(plan, context.target)
        names = {layer.node.name for layer in layers}
        refinement = Refinement(graph, plan, context.calibration, settings, derives, names)
        # One thread: many small products, between which others would spin; and sums that depend on no number of cores.
        with threadpool_limits(1, user_api="blas"):
            for index, layer in enumerate(layers):
                if context.allow(f"{self.name} at {layer.node.name}"):
                    refinement.refine(layer)
                    result.count("rounded layers")
                context.progress("rounding", index + 1, len(layers))
        result.count("searched ranges", refinement.searched)
        found = refinement.finish()
        groups = tuple(_refined(graph, group, found.get(group.name, group.encoding)) for group in plan.groups)
        graph.facts[PLAN] = dataclasses.replace(plan, groups=groups)
        return result


def _refined(graph: Graph, group: PlannedGroup, encoding: Encoding) -> PlannedGroup:
    """A group with its new numbers, and where they come from."""
    if encoding == group.encoding or group.relation == "derived":
        return dataclasses.replace(group, encoding=encoding)
    reason = "weights, least error of the layer's output"
    if not is_constant(graph, group):
        low, high = encoding.real_range()
        reason = f"least error of the output of its first reader: {low:.4g}..{high:.4g}"
    return dataclasses.replace(group, encoding=encoding, reason=reason)
