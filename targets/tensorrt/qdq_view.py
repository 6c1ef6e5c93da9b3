"""What is quantized, and how, at every edge of a QDQ graph: read as TensorRT reads it.

TensorRT moves Q and DQ over ops that commute with them (developer guide, "Explicit Quantization"). Whether an op gets a
quantized operand is therefore not a matter of the node just before it. One pass in topological order carries the
encoding of each DequantizeLinear forward over such ops; ``QdqView`` holds the result for one graph.
"""

from __future__ import annotations

import contextlib
import math
from collections import ChainMap
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, shape_inference

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

# Measured with TensorRT-RTX 1.7; the guide names max-pooling and "data movement" without a list. The second group
# may move a channel axis; only Transpose says where to.
_KEEPS_AXIS = frozenset({"Dropout", "Expand", "GlobalMaxPool", "Identity", "MaxPool", "Pad", "Slice"})
_LOSES_AXIS = frozenset(
    {
        "DepthToSpace",
        "Flatten",
        "Gather",
        "Reshape",
        "SpaceToDepth",
        "Split",
        "Squeeze",
        "Tile",
        "Transpose",
        "Unsqueeze",
    }
)
_SMALL = 128  # elements of an initializer whose value shape inference may need: a shape, a pad, an axis


@dataclass(frozen=True, slots=True)
class Encoding:
    """How the tensor behind a DequantizeLinear is stored, as seen from one edge.

    Attributes:
        source: label of the DequantizeLinear.
        type: element type (``TensorProto.INT8``, ...).
        scale: the value of a single scale if known, else its name: what two encodings must share to be the same.
        per_channel: one scale per index of ``axis``.
        block: elements per scale along the axis, 0 without blocks.
        blocks: number of blocks along the axis, if known.
        axis: the channel or block axis at this edge; None per tensor, or where ops in between hide it.
        constant: the data is known at build time: a weight.
    """

    source: str
    type: int
    scale: bytes | str
    per_channel: bool = False
    block: int = 0
    blocks: int | None = None
    axis: int | None = None
    constant: bool = False

    def same_numbers(self, other: Encoding) -> bool:
        """Whether both give the same meaning to the same integers, for all channels at once."""
        plain = not (self.per_channel or other.per_channel or self.block or other.block)
        return plain and (self.type, self.scale) == (other.type, other.scale)


@dataclass(frozen=True, slots=True)
class Mixed:
    """Behind a Concat that joins quantized tensors of unlike encodings (or some quantized and some float)."""

    source: str


def label(node: onnx.NodeProto) -> str:
    """Give what a node is called in messages: its name, or its first output."""
    return node.name or next(filter(None, node.output), node.op_type)


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """Give a node's attributes by name."""
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def opset_of(model: onnx.ModelProto) -> int:
    """Give the version of the default operator set."""
    return max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=1)


class QdqView:
    """Types, constants and encodings of one graph; a control-flow body sees its outer graph's too."""

    def __init__(
        self,
        graph: onnx.GraphProto,
        inferred: Iterable[onnx.ValueInfoProto] = (),
        outer: QdqView | None = None,
    ) -> None:
        self.graph = graph
        # Values of constants, and names of all values that TensorRT can fold (the weight side of a graph).
        self.tensors: ChainMap[str, TensorProto] = _nested(outer.tensors if outer else None)
        self.constant: ChainMap[str, bool] = _nested(outer.constant if outer else None)
        self.types: ChainMap[str, int] = _nested(outer.types if outer else None)
        self.shapes: ChainMap[str, tuple[int | None, ...]] = _nested(outer.shapes if outer else None)
        self.encodings: ChainMap[str, Encoding | Mixed] = _nested(outer.encodings if outer else None)
        for value in (*inferred, *graph.input, *graph.output, *graph.value_info):
            self._declare(value)
        for tensor in graph.initializer:
            self._add_tensor(tensor.name, tensor)
        for node in graph.node:
            self._visit(node)

    def value(self, name: str) -> NDArray[Any] | None:
        """Give the value of a constant; None if it is computed, or kept in a file that is not at hand."""
        tensor = self.tensors.get(name)
        if tensor is None or tensor.data_location == TensorProto.EXTERNAL:
            return None
        return np.asarray(numpy_helper.to_array(tensor))

    def quantized_type(self, node: onnx.NodeProto) -> int | None:
        """Give the quantized element type that a Q or DQ states, or None."""
        if node.op_type == "QuantizeLinear":
            zero_point = self.types.get(node.input[2]) if len(node.input) > 2 else None
            return zero_point or attributes(node).get("output_dtype") or None
        return self.types.get(node.input[0]) or (
            self.types.get(node.input[2]) if len(node.input) > 2 else None
        )

    def scale_shape(self, node: onnx.NodeProto) -> tuple[int | None, ...] | None:
        """Give the shape of a Q's or DQ's scale, if known."""
        return self.shapes.get(node.input[1])

    def axis(self, node: onnx.NodeProto) -> int | None:
        """Give the axis of a Q or DQ counted from the front; None if it is negative and the rank is unknown."""
        axis = int(attributes(node).get("axis", 1))
        shape = self.shapes.get(node.input[0])
        if axis >= 0:
            return axis
        return None if shape is None else axis + len(shape)

    def _declare(self, value: onnx.ValueInfoProto) -> None:
        tensor = value.type.tensor_type
        if tensor.elem_type:
            self.types[value.name] = tensor.elem_type
        if tensor.HasField("shape"):
            self.shapes[value.name] = tuple(
                d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim
            )

    def _add_tensor(self, name: str, tensor: TensorProto) -> None:
        self.tensors[name], self.constant[name] = tensor, True
        self.types[name], self.shapes[name] = tensor.data_type, tuple(tensor.dims)

    def _visit(self, node: onnx.NodeProto) -> None:
        if node.op_type == "Constant":
            self.constant[node.output[0]] = True
            if (tensor := _constant_value(node)) is not None:
                self._add_tensor(node.output[0], tensor)
        elif node.input and all(not name or self.constant.get(name) for name in node.input):
            self.constant.update(dict.fromkeys(node.output, True))
        if node.op_type in ("Cast", "Identity") and node.input[0] in self.tensors:
            self.tensors[node.output[0]] = self.tensors[node.input[0]]
        if node.op_type == "QuantizeLinear":
            self._inherit_shape(node)
            # TensorRT takes int8 where nothing is stated; onnx says uint8.
            self.types[node.output[0]] = self.quantized_type(node) or TensorProto.INT8
        elif node.op_type == "DequantizeLinear":
            self._inherit_shape(node)
            if (dtype := attributes(node).get("output_dtype") or self.types.get(node.input[1])) is not None:
                self.types[node.output[0]] = dtype
            self.encodings[node.output[0]] = self._encoding(node)
        elif encoding := self._carried(node):
            self.encodings.update(dict.fromkeys(node.output, encoding))

    def _inherit_shape(self, node: onnx.NodeProto) -> None:
        if (shape := self.shapes.get(node.input[0])) is not None:
            self.shapes.setdefault(node.output[0], shape)

    def _encoding(self, node: onnx.NodeProto) -> Encoding:
        shape, block = self.scale_shape(node) or (), int(attributes(node).get("block_size", 0))
        per_channel = not block and len(shape) == 1 and shape[0] != 1
        axis = self.axis(node) if per_channel or block else None
        # Only single scales are compared, and those of blocks may be a fair part of the model.
        value = self.value(node.input[1]) if math.prod(d or 2 for d in shape) == 1 else None
        return Encoding(
            source=label(node),
            type=self.quantized_type(node) or TensorProto.INT8,
            scale=node.input[1] if value is None else value.astype(np.float64).tobytes(),
            per_channel=per_channel,
            block=block,
            blocks=shape[axis] if block and axis is not None and axis < len(shape) else None,
            axis=axis,
            constant=self.constant.get(node.input[0], False),
        )

    def _carried(self, node: onnx.NodeProto) -> Encoding | Mixed | None:
        """Give the encoding of a node's output, where the node commutes with DequantizeLinear."""
        if node.op_type == "Concat":
            return self._joined(node)
        encoding = self.encodings.get(node.input[0]) if node.input else None
        if encoding is None or not self._commutes(node):
            return None
        if isinstance(encoding, Mixed) or node.op_type in _KEEPS_AXIS:
            return encoding
        order = list(attributes(node).get("perm", ())) if node.op_type == "Transpose" else []
        return replace(encoding, axis=order.index(encoding.axis) if encoding.axis in order else None)

    def _joined(self, node: onnx.NodeProto) -> Encoding | Mixed | None:
        encodings = [self.encodings.get(name) for name in node.input]
        mixed = next((e for e in encodings if isinstance(e, Mixed)), None)
        first = next((e for e in encodings if isinstance(e, Encoding)), None)
        if mixed or first is None:
            return mixed
        same = all(isinstance(e, Encoding) and first.same_numbers(e) for e in encodings)
        return replace(first, axis=None) if same else Mixed(label(node))

    def _commutes(self, node: onnx.NodeProto) -> bool:
        if node.op_type != "Pad" or attributes(node).get("mode", b"constant") != b"constant":
            return node.op_type in _KEEPS_AXIS | _LOSES_AXIS
        # Padding with another number than 0 has no place among the integers.
        if len(node.input) < 3 or not node.input[2]:
            return not attributes(node).get("value", 0.0)
        value = self.value(node.input[2])
        return value is not None and not value.any()


def infer(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """Give the types and shapes that onnx can infer, of the graph and of its control-flow bodies.

    Shape inference serializes the whole model, which fails above 2 GB, so large initializers stand in it as inputs.
    Where onnx gives up (ops it has no schema for, types the opset does not have) less is known, nothing is wrong.
    """
    light = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    graph = light.graph
    graph.name = model.graph.name
    graph.node.extend(model.graph.node)
    graph.output.extend(model.graph.output)
    graph.value_info.extend(model.graph.value_info)
    large = {t.name: t for t in model.graph.initializer if math.prod(t.dims) > _SMALL}
    graph.initializer.extend(t for t in model.graph.initializer if t.name not in large)
    graph.input.extend(v for v in model.graph.input if v.name not in large)
    graph.input.extend(helper.make_tensor_value_info(n, t.data_type, t.dims) for n, t in large.items())
    with contextlib.suppress(shape_inference.InferenceError, ValueError, RuntimeError):
        light = shape_inference.infer_shapes(light)
    found: list[onnx.ValueInfoProto] = []
    graphs = [light.graph]
    while graphs:
        graph = graphs.pop()
        found += graph.value_info
        for node in graph.node:
            graphs += bodies(node)
    return found


def bodies(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """Give the control-flow bodies of a node."""
    return [g for a in node.attribute for g in (*([a.g] if a.HasField("g") else []), *a.graphs)]


def _nested(outer: ChainMap[str, Any] | None) -> ChainMap[str, Any]:
    return ChainMap() if outer is None else outer.new_child()


def _constant_value(node: onnx.NodeProto) -> TensorProto | None:
    """Give the value of a Constant node, unless it is text or sparse."""
    for name, value in attributes(node).items():
        if isinstance(value, TensorProto):
            return value
        if name in ("value_float", "value_floats"):
            return numpy_helper.from_array(np.asarray(value, np.float32))
        if name in ("value_int", "value_ints"):
            return numpy_helper.from_array(np.asarray(value, np.int64))
    return None
