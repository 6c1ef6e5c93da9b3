"""Convolutions and pooling: attributes stated, padding explicit, zero Pads folded in, pooling over everything global.

Formulas: ONNX operator specification, Conv-11, MaxPool-12, AveragePool-19 (auto_pad).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from qcompiler import ops
from qcompiler.passes._node_rules import NodeRule
from qcompiler.passes._operands import constant, integers, is_float, normalized_axes, scalar, static
from qcompiler.rewrite import inherit

if TYPE_CHECKING:
    from qcompiler.ir.graph import Graph
    from qcompiler.ir.node import Node, Shape, Value

_POOLS = ("AveragePool", "MaxPool")


def _kernel(node: Node) -> list[int] | None:
    """The kernel's spatial sizes, stated or read off the weight."""
    if "kernel_shape" in node.attributes:
        return [int(size) for size in node.attributes["kernel_shape"]]
    weight = node.input(1) if node.op in ("Conv", "ConvTranspose") else None
    return static(weight.shape[2:]) if weight is not None and weight.shape is not None else None


class StateAttributes(NodeRule):
    """Writes out kernel_shape, strides, dilations, pads and group, and pads instead of auto_pad."""

    name = "state attributes"
    patterns = ("Conv", "ConvTranspose", *_POOLS)

    def applies(self, node: Node) -> bool:
        """Whether anything would be set."""
        return bool(self._missing(node))

    def apply(self, graph: Graph, node: Node) -> Value:
        """Sets the attributes."""
        for name, attribute in self._missing(node).items():
            graph.set_attribute(node, name, attribute)
        return node.output

    def _missing(self, node: Node) -> dict[str, Any]:
        kernel = _kernel(node)
        if kernel is None:
            return {}
        defaults: dict[str, Any] = {
            "kernel_shape": kernel,
            "strides": [1] * len(kernel),
            "dilations": [1] * len(kernel),
        }
        if node.op in _POOLS:
            defaults["ceil_mode"] = 0
            if node.op == "AveragePool":
                defaults["count_include_pad"] = 0
        else:
            defaults["group"] = 1
        changes = {name: default for name, default in defaults.items() if name not in node.attributes}
        if node.op != "ConvTranspose" or "output_shape" not in node.attributes:
            changes |= self._padding(node, kernel)
        return changes

    def _padding(self, node: Node, kernel: list[int]) -> dict[str, Any]:
        auto = node.text("auto_pad", "NOTSET")
        if auto in ("NOTSET", ""):
            changes: dict[str, Any] = {"auto_pad": None} if "auto_pad" in node.attributes else {}
            return changes if "pads" in node.attributes else changes | {"pads": [0] * 2 * len(kernel)}
        if auto == "VALID":
            return {"auto_pad": None, "pads": [0] * 2 * len(kernel)}
        source = node.input(0)
        pads = (
            None
            if node.op == "ConvTranspose"
            else same_pads(node, kernel, source.shape if source is not None else None)
        )
        if pads is None:
            return {}
        return {"auto_pad": None, "pads": pads} | (
            {"ceil_mode": 0} if node.attributes.get("ceil_mode") else {}
        )


def same_pads(node: Node, kernel: list[int], shape: Shape | None) -> list[int] | None:
    """The explicit pads of auto_pad SAME_UPPER/SAME_LOWER; None where they depend on an unknown size."""
    strides = node.attributes.get("strides", [1] * len(kernel))
    dilations = node.attributes.get("dilations", [1] * len(kernel))
    sizes = shape[2:] if shape is not None else (None,) * len(kernel)
    begins, ends = [], []
    for size, length, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
        reach = (length - 1) * dilation + 1
        if stride == 1:
            total = reach - 1
        elif isinstance(size, int):
            total = max((-(-size // stride) - 1) * stride + reach - size, 0)
        else:
            return None
        less, more = total // 2, total - total // 2
        upper = node.text("auto_pad", "NOTSET") == "SAME_UPPER"
        begins.append(less if upper else more)
        ends.append(more if upper else less)
    return begins + ends


class FoldPad(NodeRule):
    """A constant Pad of the spatial axes in front of Conv, AveragePool or MaxPool becomes its pads.

    Exact where the operator pads with what Pad wrote: zeros for Conv; zeros that count for AveragePool; for MaxPool
    anything that cannot exceed the input.
    """

    name = "fold Pad"
    patterns = ("Conv", *_POOLS)

    def applies(self, node: Node) -> bool:
        """Whether the sums of both paddings can be had."""
        return self._pads(node) is not None

    def apply(self, graph: Graph, node: Node) -> Value:
        """Reads what the Pad read; the Pad stays for other readers."""
        source, pads = node.inputs[0], self._pads(node)
        assert source is not None
        pad = source.producer
        assert pad is not None
        graph.set_attribute(node, "pads", pads)
        if node.op == "AveragePool":
            graph.set_attribute(node, "count_include_pad", 1)
        graph.set_input(node, 0, pad.inputs[0])
        inherit(node, pad)
        return node.output

    def _pads(self, node: Node) -> list[int] | None:
        source, own = node.input(0), node.attributes.get("pads")
        if source is None or source.producer is None or not source.producer.is_op("Pad"):
            return None
        if own is None or "auto_pad" in node.attributes:
            return None
        added = _spatial_pads(source.producer)
        if added is None or len(added) != len(own) or not self._is_exact(node, source.producer, added):
            return None
        return [first + second for first, second in zip(own, added, strict=True)]

    def _is_exact(self, node: Node, pad: Node, added: list[int]) -> bool:
        fill = 0.0 if pad.input(2) is None else scalar(constant(pad, 2))
        own: list[int] = node.attributes["pads"]
        if fill is None:
            return False
        if node.op == "Conv":
            return fill == 0
        if node.attributes.get("ceil_mode", 0) or any(
            step != 1 for step in node.attributes.get("dilations", ())
        ):
            return False
        kernel = node.attributes["kernel_shape"] * 2  # runtimes refuse padding as wide as the kernel
        if any(first + second >= size for first, second, size in zip(own, added, kernel, strict=True)):
            return False
        if node.op == "AveragePool":
            return fill == 0 and (bool(node.attributes.get("count_include_pad", 0)) or not any(own))
        value = pad.inputs[0]
        least = -math.inf
        if value is not None and value.producer is not None:
            least = ops.info(value.producer).bounds(value.producer)[0]
        return fill <= least


def _spatial_pads(pad: Node) -> list[int] | None:
    """The pads of a constant-mode Pad that leaves batch and channels alone and cuts nothing off, begins first."""
    source, pads = pad.input(0), integers(pad, 1)
    if pad.text("mode", "constant") != "constant" or pads is None or source is None or not is_float(source):
        return None
    axes = integers(pad, 3)
    if axes is None:
        if pad.input(3) is not None:
            return None
        axes = list(range(len(pads) // 2))
        rank = len(axes)
    elif source.rank is None:
        return None
    else:
        rank = source.rank
    full = [0] * 2 * rank
    for index, axis in enumerate(axes):
        full[axis % rank], full[rank + axis % rank] = pads[index], pads[index + len(axes)]
    if any(full[:2]) or any(full[rank : rank + 2]) or min(full) < 0:
        return None
    return full[2:rank] + full[rank + 2 :]


class PoolToGlobal(NodeRule):
    """AveragePool over the whole of a known extent is GlobalAveragePool."""

    name = "write AveragePool as GlobalAveragePool"
    patterns = ("AveragePool",)

    def applies(self, node: Node) -> bool:
        """Compares the kernel with the extent."""
        source = node.input(0)
        if (
            source is None
            or source.shape is None
            or "auto_pad" in node.attributes
            or any(node.attributes.get("pads", ()))
        ):
            return False
        if any(step != 1 for step in node.attributes.get("dilations", ())):
            return False
        return static(source.shape[2:]) == list(node.attributes["kernel_shape"])

    def apply(self, graph: Graph, node: Node) -> Value:
        """Builds the global one."""
        return graph.add_node("GlobalAveragePool", node.inputs).output


class MeanToGlobal(NodeRule):
    """ReduceMean over all (two or more) spatial axes is GlobalAveragePool, and Flatten where the axes are dropped.

    One spatial axis is left alone: in [batch, tokens, features] it is the feature axis of a normalization.
    """

    name = "write ReduceMean as GlobalAveragePool"
    patterns = ("ReduceMean",)

    def applies(self, node: Node) -> bool:
        """Compares the axes with the rank."""
        source, axes = node.input(0), integers(node, 1)
        if source is None or source.rank is None or source.rank < 4 or axes is None or not is_float(source):
            return False
        return normalized_axes(axes, source.rank) == list(range(2, source.rank))

    def apply(self, graph: Graph, node: Node) -> Value:
        """Builds the pooling."""
        source = node.inputs[0]
        assert source is not None
        assert source.shape is not None
        if node.attributes.get("keepdims", 1):
            return graph.add_node("GlobalAveragePool", [source]).output
        shape = (*source.shape[:2], *[1] * (len(source.shape) - 2))
        pooled = graph.add_value(f"{node.output.name}_pooled", source.dtype, shape)
        graph.add_node("GlobalAveragePool", [source], [pooled])
        return graph.add_node("Flatten", [pooled], attributes={"axis": 1}).output


RULES = (StateAttributes, FoldPad, PoolToGlobal, MeanToGlobal)
"""In this order at every node."""
