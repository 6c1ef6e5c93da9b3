"""prune_weights: sets the weights of least magnitude to zero, for targets that store zeros in less space or skip them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from qcompiler import ops
from qcompiler.codebooks import LASTING
from qcompiler.errors import OptionError
from qcompiler.ir.facts import CANONICAL, Fact
from qcompiler.layer_rows import Layer
from qcompiler.observed import IMPORTED
from qcompiler.pass_manager import Effect, Level, Pass, PassContext, PassResult

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qcompiler.ir.graph import Graph
    from qcompiler.ir.node import Node, Value

UNPRUNED = Fact[Mapping[str, Any]](
    "unpruned", "what weights were before they were pruned, as arrays by value name", True
)

_FEW = 32
"""Products per output: layers with fewer (depthwise ones, first ones) lose most and hold few weights. Without them
mobilenetv2_imagenet keeps 62 of 90 % top-1 with half of its weights 0, with them nothing."""
_RUN = 4
_KEPT = 2
"""Of every run of four weights along the input channels, two are kept."""


@dataclass(frozen=True)
class PruneWeights(Pass):
    """Sets weights of convolutions and matrix products to zero, those of least magnitude.

    `pattern` says which. `unstructured` takes the share `sparsity` of every tensor, wherever they are. `2:4` takes two of every four
    that follow one another along the input channels, of equal ones the later; tensors whose input channels are no multiple of four
    are left alone, and `sparsity` can only be a half. (Han et al., Learning both Weights and Connections, 2015; Mishra et al.,
    Accelerating Sparse Deep Neural Networks, 2021.) Layers whose outputs are sums of fewer than 32 products, such as depthwise
    convolutions, are left alone. Biases are not touched.

    Zeros stay zeros in everything behind: integer encodings hold zero exactly, tables get an entry for it, and `round_weights` leaves
    zeros where they are. What it aims at are the outputs of the network as it was, so that the weights that stay make up for those
    that went. Nothing makes up for them where weights stay floats. The network is not trained again: measure what it costs.
    """

    name = "prune_weights"
    effect = Effect.APPROXIMATE
    requires = (CANONICAL,)
    establishes = (UNPRUNED,)

    sparsity: float = 0.5
    pattern: Literal["unstructured", "2:4"] = "unstructured"

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        """Replaces constants; of one that several layers read, the first says which weights stay.

        Raises:
            OptionError: The sparsity is no share, one so small that zeros would not stay zeros, or not that of the pattern.
        """
        if not LASTING <= self.sparsity < 1:
            raise OptionError(
                f"The option sparsity of the pass {self.name} is {self.sparsity}; it is a share, from {LASTING} to less than 1. "
                "Fewer zeros make no weights smaller, and are not kept when weights are quantized."
            )
        if self.pattern == "2:4" and self.sparsity != _KEPT / _RUN:
            raise OptionError(
                f"The pattern 2:4 of the pass {self.name} leaves half of the weights, and the option sparsity is {self.sparsity}; leave it out."
            )
        result, seen = PassResult(), set[str]()
        whole = graph.facts.get(UNPRUNED)
        before = dict(whole or {})
        for node in graph.topological():
            value = node.input(1)
            if ops.info(node).kind != "weighted" or value is None or value.data is None or value.name in seen:
                continue
            data = np.asarray(value.data)
            kept = _fixed(graph, value) or self._kept(node, data)
            if isinstance(kept, str):
                result.say(Level.INFO, node.name, f"its weights are not pruned: {kept}")
            elif (data[~kept] != 0).any() and context.allow(f"{self.name} at {node.name}"):
                pruned = graph.add_constant(f"{value.name}.pruned", np.where(kept, data, data.dtype.type(0)))
                graph.replace_uses(value, pruned)
                seen.add(pruned.name)
                before[pruned.name] = before.get(value.name, data)
                result.count("zeros", int((~kept).sum()))
                result.count("pruned tensors")
        graph.facts[UNPRUNED] = before
        return result

    def _kept(self, node: Node, data: NDArray[Any]) -> NDArray[np.bool_] | str:
        """Which weights stay, or why all do."""
        layer = Layer.of(node)
        if layer is not None and layer.inputs < _FEW:
            return f"its outputs are sums of {layer.inputs} products each, which cannot make up for those left out"
        if self.pattern == "unstructured":
            return _largest(
                np.abs(data).reshape(1, -1), data.size - math.ceil(self.sparsity * data.size)
            ).reshape(data.shape)
        axis = ops.info(node).contraction_axis(node, 1)
        if axis is None or data.shape[axis] % _RUN:
            channels = "none that are known" if axis is None else str(data.shape[axis])
            return f"it has {channels} input channels, no multiple of {_RUN}"
        last = np.moveaxis(data, axis, -1)
        kept = _largest(np.abs(last).reshape(-1, _RUN), _KEPT)
        return np.moveaxis(kept.reshape(last.shape), -1, axis)


def _fixed(graph: Graph, value: Value) -> str:
    """Why a constant must not be changed, or nothing."""
    if np.asarray(value.data).dtype.kind != "f":
        return "they are no floats"
    if value.name in (graph.facts.get(IMPORTED) or {}):
        return "they came quantized with the model"
    if value.is_output or any(use.slot != 1 or ops.info(use.node).kind != "weighted" for use in value.uses):
        return "something else than layers reads them"
    return ""


def _largest(magnitudes: NDArray[Any], count: int) -> NDArray[np.bool_]:
    """Where the largest of every row are, the first of equal ones; [rows, elements]."""
    order = np.argsort(-magnitudes, axis=1, kind="stable")
    kept = np.zeros(magnitudes.shape, np.bool_)
    np.put_along_axis(kept, order[:, :count], True, axis=1)
    return kept


def unpruned(graph: Graph, value: Value) -> NDArray[Any]:
    """The elements of a constant before it was pruned, if it was."""
    return np.asarray((graph.facts.get(UNPRUNED) or {}).get(value.name, value.data))
