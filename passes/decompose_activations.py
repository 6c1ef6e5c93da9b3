"""decompose_activations: writes activations as additions, products, bounds and sigmoids, for hardware that has only these."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from qcompiler.ir.facts import CANONICAL
from qcompiler.observed import IMPORTED
from qcompiler.pass_manager import Effect, Pass, PassContext, PassResult
from qcompiler.passes._linear_layers import LINEAR, Linear, linear_layer
from qcompiler.passes._node_rules import NodeRule, put_constant
from qcompiler.passes._operands import is_float
from qcompiler.regions import REGIONS
from qcompiler.rewrite import apply_rewrites

if TYPE_CHECKING:
    from qcompiler.ir.graph import Graph
    from qcompiler.ir.node import Node, Value
    from qcompiler.patterns import Match


class Decomposition(NodeRule):
    """One activation, in simpler operators. Formulas: ONNX operator specification."""

    def check(self, match: Match) -> str | None:
        """Constants have the type of what they are combined with, so that must be known."""
        return (
            None if is_float(match.anchor.input(0)) else "the type of its operand is not known, or no float"
        )


class DecomposeHardSwish(Decomposition):
    """x * clip(x + 3, 0, 6) / 6 (HardSwish-14), the division in the weights behind it where that can be."""

    name = "decompose HardSwish"
    patterns = ("HardSwish",)

    def apply(self, graph: Graph, node: Node) -> Value:
        """Builds the product; either it is divided, or the weights are."""
        x, value = _operand(node), node.output
        gate = _computed(graph, "Clip", _computed(graph, "Add", x, 3.0), 0.0, 6.0)
        product = _computed(graph, "Mul", x, gate)
        layers = _layers_behind(graph, value)
        if not layers:
            return _computed(graph, "Mul", product, 1 / 6)
        for layer in layers:
            put_constant(graph, layer.node, 1, layer.scaled(np.full(layer.channels, 1 / 6)))
            graph.set_input(layer.node, 0, product)
        return value


class DecomposeHardSigmoid(Decomposition):
    """clip(alpha * x + beta, 0, 1) (HardSigmoid-6), the first two in the weights before it where that can be."""

    name = "decompose HardSigmoid"
    patterns = ("HardSigmoid",)

    def apply(self, graph: Graph, node: Node) -> Value:
        """Builds the bounds, and what they bound where no layer computes it."""
        x = _operand(node)
        alpha, beta = (
            float(node.attributes.get(name, default)) for name, default in (("alpha", 0.2), ("beta", 0.5))
        )
        layer = _layer_before(graph, x)
        if layer is None:
            x = x if alpha == 1 else _computed(graph, "Mul", x, alpha)
            x = x if beta == 0 else _computed(graph, "Add", x, beta)
        else:
            bias = layer.bias() * alpha + beta
            put_constant(graph, layer.node, 1, layer.scaled(np.full(layer.channels, alpha)))
            layer.put_bias(graph, bias)
            graph.rename(x, graph.unique_name(f"{x.name}.scaled"))
        return _computed(graph, "Clip", x, 0.0, 1.0)


class DecomposeSwish(Decomposition):
    """x * sigmoid(alpha * x) (Swish-24)."""

    name = "decompose Swish"
    patterns = ("Swish",)

    def apply(self, graph: Graph, node: Node) -> Value:
        """Builds the sigmoid and the product."""
        x, alpha = _operand(node), float(node.attributes.get("alpha", 1.0))
        inner = x if alpha == 1 else _computed(graph, "Mul", x, alpha)
        return _computed(graph, "Mul", x, _computed(graph, "Sigmoid", inner))


class DecomposeLeakyRelu(Decomposition):
    """PRelu with one slope (LeakyRelu-16)."""

    name = "decompose LeakyRelu"
    patterns = ("LeakyRelu",)

    def apply(self, graph: Graph, node: Node) -> Value:
        """Builds the PRelu; the slope has the axes of one sample, as those of trained PRelus have."""
        x, alpha = _operand(node), float(node.attributes.get("alpha", 0.01))
        slope = np.full((1,) * max((x.rank or 1) - 1, 1), alpha, x.dtype)
        return _computed(graph, "PRelu", x, graph.add_constant(f"{node.output.name}.slope", slope))


def _operand(node: Node) -> Value:
    x = node.input(0)
    assert x is not None
    return x


def _computed(graph: Graph, op: str, x: Value, *others: Value | float) -> Value:
    """A value of the type and shape of x; numbers become constants."""
    value = graph.add_value(f"{x.name}.{op.lower()}", x.dtype, x.shape)
    operands = [
        graph.add_constant(f"{value.name}.by", np.array(other, x.dtype))
        if isinstance(other, float)
        else other
        for other in others
    ]
    graph.add_node(op, [x, *operands], [value])
    return value


def _layers_behind(graph: Graph, value: Value) -> list[Linear]:
    """The layers that read a value, if nothing else does and all of their weights can be changed; else none."""
    found = [_changeable(graph, use.node) for use in value.uses if use.slot == 0]
    layers = [layer for layer in found if layer is not None]
    return layers if len(layers) == len(value.uses) and not value.is_output else []


def _layer_before(graph: Graph, value: Value) -> Linear | None:
    """The layer that computes a value for one reader, if it has a bias and both can be changed."""
    layer = value.producer
    if layer is None or value.only_use is None or layer.is_op("MatMul"):
        return None
    return _changeable(graph, layer)


def _changeable(graph: Graph, node: Node) -> Linear | None:
    """A linear layer whose weights can be scaled: those that came with an encoding would leave its grid."""
    layer, weight = linear_layer(node) if node.is_op(*LINEAR) else "", node.input(1)
    if isinstance(layer, str) or weight is None or weight.name in (graph.facts.get(IMPORTED) or {}):
        return None
    return layer


_RULES = {
    "HardSwish": DecomposeHardSwish,
    "HardSigmoid": DecomposeHardSigmoid,
    "Swish": DecomposeSwish,
    "LeakyRelu": DecomposeLeakyRelu,
}


@dataclass(frozen=True)
class DecomposeActivations(Pass):
    """Writes activations as operators that integer hardware without them has: Add, Mul, Clip, Sigmoid, PRelu; exact.

    `ops` says which. Each has the form that takes the fewest quantized operators:

    * HardSwish: `x * clip(x + 3, 0, 6) * 1/6`, where the Clip goes with the Add. Where only layers with constant weights read the
      result, the factor goes into these, and two operators are left. In `x * clip(x / 6 + 0.5, 0, 1)` the division could go nowhere,
      for x is needed as it is, too. In 8 bits both are as exact: the gate takes all codes of its range, and the product by 1/6
      keeps the codes and changes the scale.
    * HardSigmoid: `clip(x * alpha + beta, 0, 1)`. Behind a layer with constant weights that nothing else reads, alpha goes into the
      weights and beta into the bias; what is left is a Clip that goes with the layer.
    * Swish: `x * sigmoid(x * alpha)`, without the inner product where alpha is 1.
    * LeakyRelu: PRelu with one slope.

    Weights that came with an encoding are not changed. Gelu and Mish are left alone: in these operators they have no exact form. This
    belongs behind `fuse_composites`, which would put the parts together again.
    """

    name = "decompose_activations"
    effect = Effect.EXACT
    requires = (CANONICAL,)
    invalidates = (REGIONS,)

    ops: tuple[Literal["HardSwish", "HardSigmoid", "Swish", "LeakyRelu"], ...] = (
        "HardSwish",
        "HardSigmoid",
        "Swish",
        "LeakyRelu",
    )

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        """Replaces every activation that is asked for."""
        return apply_rewrites(graph, [_RULES[op]() for op in dict.fromkeys(self.ops)], context)
