"""Operations that do nothing, and arithmetic with constants brought to Add and Mul with the constant second."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import helper

from qcompiler import ops
from qcompiler.passes._node_rules import NodeRule
from qcompiler.passes._operands import constant, integers, is_float, keeps_shape, same_shape, scalar

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qcompiler.ir.graph import Graph
    from qcompiler.ir.node import Node, Value

_EVERYTHING = 2**31 - 1  # exporters write INT32_MAX or INT64_MAX for "to the end"


class RemoveIdentity(NodeRule):
    """Identity(x) is x. It stays only where a graph output needs a name of its own."""

    name = "remove Identity"
    patterns = ("Identity",)

    def applies(self, node: Node) -> bool:
        """Leaves an Identity that only serves a graph output."""
        return node.input(0) is not None and (not self._needed(node) or bool(node.output.uses))

    def apply(self, graph: Graph, node: Node) -> Value:
        """Redirects the readers."""
        source = node.input(0)
        assert source is not None
        if not self._needed(node):
            return source
        graph.replace_uses(node.output, source, list(node.output.uses))
        return node.output

    @staticmethod
    def _needed(node: Node) -> bool:
        source = node.input(0)
        return node.output.is_output and source is not None and (source.producer is None or source.is_output)


class RemoveNoOp(NodeRule):
    """Operations that, as they are parametrised, return their first input."""

    name = "remove no-op"
    patterns = (
        "Dropout",
        "Cast",
        "Expand",
        "Slice",
        "Pad",
        "Tile",
        "Concat",
        "Sum",
        "Mean",
        "Max",
        "Min",
        "Squeeze",
        "Unsqueeze",
    )

    def applies(self, node: Node) -> bool:
        """Asks the operator's own test."""
        source = node.input(0)
        return source is not None and bool(_NO_OPS[node.op](node, source))

    def apply(self, graph: Graph, node: Node) -> Value | None:
        """Returns the first input."""
        return node.input(0)


def _dropout(node: Node, source: Value) -> bool:
    # Operator Dropout-13: without training_mode (or with false) the output is the input.
    training = node.input(2)
    return training is None or (training.data is not None and not bool(np.any(training.data)))


def _cast(node: Node, source: Value) -> bool:
    return source.dtype is not None and helper.np_dtype_to_tensor_dtype(source.dtype) == node.attributes.get(
        "to"
    )


def _expand(node: Node, source: Value) -> bool:
    target = constant(node, 1)
    if target is None:
        return same_shape(source.shape, node.output.shape)
    return keeps_shape(np.broadcast_to(np.int8(0), [int(size) for size in target]), source.shape)


def _slice(node: Node, source: Value) -> bool:
    starts, ends, steps = integers(node, 1), integers(node, 2), integers(node, 4)
    axes = integers(node, 3)
    if starts is None or ends is None or (steps is None and node.input(4) is not None):
        return False
    if axes is None:
        if node.input(3) is not None:
            return False
        axes = list(range(len(starts)))
    for index, axis in enumerate(axes):
        size = source.shape[axis] if source.shape is not None else None
        whole = ends[index] >= (size if isinstance(size, int) else _EVERYTHING)
        if starts[index] != 0 or not whole or (steps is not None and steps[index] != 1):
            return False
    return True


def _pad(node: Node, source: Value) -> bool:
    pads = integers(node, 1)
    return pads is not None and not any(pads)


def _tile(node: Node, source: Value) -> bool:
    repeats = integers(node, 1)
    return repeats is not None and all(count == 1 for count in repeats)


def _alone(node: Node, source: Value) -> bool:
    return len(node.inputs) == 1


def _no_axes(node: Node, source: Value) -> bool:
    return integers(node, 1) == [] and same_shape(source.shape, node.output.shape)


_NO_OPS = {
    "Dropout": _dropout, "Cast": _cast, "Expand": _expand, "Slice": _slice, "Pad": _pad, "Tile": _tile,
    "Concat": _alone, "Sum": _alone, "Mean": _alone, "Max": _alone, "Min": _alone, "Squeeze": _no_axes, "Unsqueeze": _no_axes,
}  # fmt: skip


class ConstantSecond(NodeRule):
    """The constant operand of a commutative operation stands second."""

    name = "put constant second"
    patterns = ("Add", "Mul", "Max", "Min")

    def applies(self, node: Node) -> bool:
        """Looks for a constant in front of a value."""
        if len(node.inputs) != 2 or not ops.info(node).commutative:
            return False
        first, second = node.inputs
        return first is not None and second is not None and first.is_constant and not second.is_constant

    def apply(self, graph: Graph, node: Node) -> Value:
        """Exchanges the operands."""
        first, second = node.inputs
        graph.set_input(node, 0, second)
        graph.set_input(node, 1, first)
        return node.output


class RemoveNeutral(NodeRule):
    """x + 0, x - 0, x * 1 and x / 1 are x, where the constant does not widen the shape."""

    name = "remove neutral arithmetic"
    patterns = ("Add", "Sub", "Mul", "Div")

    def applies(self, node: Node) -> bool:
        """Looks for a constant of zeros or ones behind the value."""
        source, data = node.input(0), constant(node, 1)
        if data is None or source is None or source.is_constant or data.dtype == object:
            return False
        neutral = 0 if node.op in ("Add", "Sub") else 1
        first = data.reshape(-1)[:1]
        return bool(first.size and first[0] == neutral and np.all(data == neutral)) and keeps_shape(
            data, source.shape
        )

    def apply(self, graph: Graph, node: Node) -> Value | None:
        """Returns the value."""
        return node.input(0)


class SubToAdd(NodeRule):
    """x - c is x + (-c) exactly."""

    name = "write Sub of a constant as Add"
    patterns = ("Sub",)

    def applies(self, node: Node) -> bool:
        """Floats only: the negative of an unsigned integer does not exist."""
        source, data = node.input(0), constant(node, 1)
        return data is not None and data.dtype.kind == "f" and source is not None and not source.is_constant

    def apply(self, graph: Graph, node: Node) -> Value:
        """Negates the constant."""
        value, data = node.inputs[1], constant(node, 1)
        assert value is not None
        assert data is not None
        return graph.add_node(
            "Add", [node.inputs[0], graph.add_constant(f"{value.name}_negated", -data)]
        ).output


class DivToMul(NodeRule):
    """x / c is x * (1/c) exactly where every c is a power of two; other divisions stay."""

    name = "write Div by a power of two as Mul"
    patterns = ("Div",)

    def applies(self, node: Node) -> bool:
        """Looks at the mantissas."""
        source, data = node.input(0), constant(node, 1)
        if data is None or source is None or source.is_constant or not is_float(node.input(1)):
            return False
        return _has_exact_reciprocal(data)

    def apply(self, graph: Graph, node: Node) -> Value:
        """Inverts the constant."""
        value, data = node.inputs[1], constant(node, 1)
        assert value is not None
        assert data is not None
        inverse = (1.0 / data).astype(data.dtype)
        return graph.add_node(
            "Mul", [node.inputs[0], graph.add_constant(f"{value.name}_inverse", inverse)]
        ).output


def _has_exact_reciprocal(data: NDArray[Any]) -> bool:
    first = data.reshape(-1)[:1]
    if not first.size or abs(np.frexp(first[0])[0]) != 0.5:
        return False
    mantissa, _ = np.frexp(data)
    tiny, huge = np.finfo(data.dtype).tiny, np.finfo(data.dtype).max
    inside = (np.abs(data) >= 4 * tiny) & (
        np.abs(data) <= huge / 4
    )  # neither side may become a denormal number
    return bool(np.all(np.abs(mantissa) == 0.5) and np.all(inside))


class SumToAdd(NodeRule):
    """Sum of two is Add."""

    name = "write Sum of two as Add"
    patterns = ("Sum",)

    def applies(self, node: Node) -> bool:
        """Counts the operands."""
        return len(node.inputs) == 2

    def apply(self, graph: Graph, node: Node) -> Value:
        """Renames the operator."""
        return graph.add_node("Add", node.inputs).output


class MinMaxToClip(NodeRule):
    """Min and Max with a scalar constant are Clip with one bound."""

    name = "write Min/Max with a constant as Clip"
    patterns = ("Min", "Max")

    def applies(self, node: Node) -> bool:
        """Wants one scalar that is a number."""
        source, data = node.input(0), constant(node, 1)
        bound = scalar(data)
        if len(node.inputs) != 2 or source is None or source.is_constant or data is None or bound is None:
            return False
        return not np.isnan(bound) and data.dtype != np.bool_ and keeps_shape(data, source.shape)

    def apply(self, graph: Graph, node: Node) -> Value:
        """Uses the constant as the bound; it may be shared, so it is copied."""
        value, data = node.inputs[1], constant(node, 1)
        assert value is not None
        assert data is not None
        bound = graph.add_constant(f"{value.name}_bound", data.reshape(()).copy())
        bounds = [bound] if node.op == "Max" else [None, bound]
        return graph.add_node("Clip", [node.inputs[0], *bounds]).output


RULES = (
    RemoveIdentity,
    RemoveNoOp,
    ConstantSecond,
    RemoveNeutral,
    SubToAdd,
    DivToMul,
    SumToAdd,
    MinMaxToClip,
)
"""In this order at every node."""
