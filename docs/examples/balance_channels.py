"""A pass of one's own: balances channel ranges between two convolutions, exactly.

A Relu is positively homogeneous: relu(x / s) = relu(x) / s for s > 0. So channel c of a convolution may be divided by a
factor if the convolution behind the Relu multiplies what it reads of that channel by the same factor. Factors that make
both ranges alike leave fewer codes unused when the tensor between them gets one scale for all its channels (Nagel et al.,
Data-Free Quantization Through Weight Equalization and Bias Correction, 2019, section 4.1). Here they are powers of two:
these change the exponents of floats and nothing else, so the float model computes the same numbers.

    qcompiler compile MODEL.onnx --target tensorrt --pass docs/examples/balance_channels.py:BalanceChannels ...

docs/guides/passes.md walks through this file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from qcompiler import Effect, Graph, Match, Rewrite, RewritePass

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qcompiler.ir.node import Node, Value


class Balance(Rewrite):
    """Divides the channels of one convolution, and multiplies those that the next one reads."""

    name = "balance channels"
    patterns = ("first=Conv(x, $w, $b?) -> Relu(_) -> Pad(_, $pads)? -> second=Conv(_, $v, $c?)",)
    report_misses = 2
    divided: ClassVar[tuple[int, ...]] = (
        1,
        2,
    )  # input slots of the first convolution: its weight and its bias

    def check(self, match: Match) -> str | None:
        """Why the match must be left alone: None to go ahead, "" for nothing to do."""
        shared = match.shared("w", "b", "v")
        if shared:
            return shared
        axis = _input_axis(match.labels["second"])
        if axis is None:
            return "the second convolution has groups of several channels"
        if match.get("pads") is not None and match.constant("pads").reshape(2, -1)[:, 1].any():
            return "the Pad between them adds channels"
        return "" if (_factors(match, axis) == 1).all() else None

    def replace(self, graph: Graph, match: Match) -> Value:
        """Replaces the three constants; the nodes stay."""
        first, second = match.labels["first"], match.labels["second"]
        axis = _input_axis(second)
        assert axis is not None
        factors = _factors(match, axis)
        for slot in self.divided:
            if first.input(slot) is not None:
                _multiply(graph, first, slot, 1 / factors, 0)
        _multiply(graph, second, 1, factors, axis)
        return second.output


@dataclass(frozen=True)
class BalanceChannels(RewritePass):
    """Balances channel ranges between convolutions with a Relu between them, by powers of two; exact."""

    name = "balance_channels"
    effect = Effect.EXACT
    rewrites = (Balance,)


def _input_axis(node: Node) -> int | None:
    """The axis of a convolution's weight that goes with its input channels; None where there is no such axis."""
    weight, group = node.inputs[1], node.attributes.get("group", 1)
    assert weight is not None
    assert weight.data is not None
    if group == 1:
        return 1
    return 0 if weight.data.shape[:2] == (group, 1) else None  # depthwise: one filter per input channel


def _factors(match: Match, axis: int) -> NDArray[np.float64]:
    """What each channel is divided by: the power of two nearest to the one that makes both ranges equal."""
    left, right = _largest(match.constant("w"), 0), _largest(match.constant("v"), axis)
    known = (left > 0) & (right > 0)
    ratio = np.where(known, left, 1.0) / np.where(known, right, 1.0)
    return np.asarray(np.exp2(np.rint(np.log2(ratio) / 2)))


def _largest(weight: NDArray[np.float32], axis: int) -> NDArray[np.float64]:
    others = tuple(dim for dim in range(weight.ndim) if dim != axis)
    return np.asarray(np.abs(weight).max(axis=others), np.float64)


def _multiply(graph: Graph, node: Node, slot: int, factors: NDArray[np.float64], axis: int) -> None:
    """Gives a node a constant with each channel multiplied; the old one goes when nobody reads it any more."""
    value = node.inputs[slot]
    assert value is not None
    assert value.data is not None
    shape = [1] * value.data.ndim
    shape[axis] = -1
    data = value.data * factors.reshape(shape).astype(value.data.dtype)
    graph.set_input(node, slot, graph.add_constant(f"{value.name}.balanced", data))


# -- a mistake, made on purpose ------------------------------------------------------------------------------------


class BalanceWeights(Balance):
    """As `Balance`, but it forgets the bias of the first convolution. That is wrong: relu((w / s) x + b) is not relu(w x + b) / s.

    It stands here to show how `--verify-each` and bisection catch it: see docs/guides/passes.md.
    """

    divided = (1,)


@dataclass(frozen=True)
class BalanceWeightsOnly(RewritePass):
    """Balances the weights and, by mistake, not the biases. It claims to be exact and is not."""

    name = "balance_weights_only"
    effect = Effect.EXACT
    rewrites = (BalanceWeights,)
