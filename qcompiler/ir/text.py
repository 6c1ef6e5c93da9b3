"""A deterministic text form, one line per node, for golden tests, diffs and bug reports.

    graph digits (image: float32[batch,1,8,8]) -> (logits)
      stem = Conv(image, @stem.weight:float32[16,1,3,3], @stem.bias:float32[16]) {pads=[1,1,1,1]} : float32[batch,16,8,8]

`@` marks constants; those of up to eight elements are written out. Origins are shown where they differ from the name.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from qcompiler.ir.node import Attribute, Node, Shape, Subgraph, Value

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qcompiler.ir.graph import Graph

_INLINE_ELEMENTS = 8


def to_text(graph: Graph, *, hashes: bool = False) -> str:
    """The graph as text.

    Args:
        graph: The graph.
        hashes: Adds eight digits of a content hash to every constant; reads all weights.
    """
    signature = ", ".join(f"{value.name}: {type_text(value)}" for value in graph.inputs)
    lines = [f"graph {graph.name} ({signature}) -> ({', '.join(value.name for value in graph.outputs)})"]
    lines += [f"  {node_text(node, hashes=hashes)}" for node in graph.topological()]
    return "\n".join(lines) + "\n"


def node_text(node: Node, *, hashes: bool = False) -> str:
    """One node as one line."""
    outputs = ", ".join("_" if value is None else value.name for value in node.outputs)
    inputs = ", ".join("_" if value is None else operand_text(value, hashes=hashes) for value in node.inputs)
    op = f"{node.domain}.{node.op}" if node.domain else node.op
    line = f"{outputs} = {op}({inputs})"
    if node.attributes:
        line += (
            " {"
            + ", ".join(f"{key}={attribute_text(node.attributes[key])}" for key in sorted(node.attributes))
            + "}"
        )
    types = [type_text(value) for value in node.outputs if value is not None]
    line += f" : {', '.join(types)}"
    if node.origin != (node.name,):
        line += f"  # from {', '.join(node.origin)}"
    return line


def operand_text(value: Value, *, hashes: bool = False) -> str:
    """A value as an operand: its name, or a constant with its type or elements."""
    if value.data is None:
        return value.name
    if 0 < value.data.size <= _INLINE_ELEMENTS:
        double = value.data.dtype == np.float64
        return f"@{np.dtype(value.data.dtype).name}:{_number_text(value.data.tolist(), double=double)}"
    digest = f"#{content_hash(value.data)}" if hashes else ""
    return f"@{value.name}:{type_text(value)}{digest}"


def content_hash(data: NDArray[Any]) -> str:
    """Eight hexadecimal digits of the elements' hash."""
    contiguous = np.ascontiguousarray(data)
    if contiguous.dtype == object:
        return hashlib.blake2b(repr(contiguous.tolist()).encode(), digest_size=4).hexdigest()
    return hashlib.blake2b(contiguous.view(np.uint8).reshape(-1).data, digest_size=4).hexdigest()


def type_text(value: Value) -> str:
    """A type like float32[batch,3,?]; `?` where nothing is known."""
    if value.other_type is not None:
        return value.other_type.WhichOneof("value") or "?"
    dtype = "?" if value.dtype is None else value.dtype.name
    return dtype + shape_text(value.shape)


def shape_text(shape: Shape | None) -> str:
    """A shape like [batch,3,?]; [...] for an unknown rank."""
    if shape is None:
        return "[...]"
    return "[" + ",".join("?" if dim is None else str(dim) for dim in shape) + "]"


def attribute_text(attribute: Attribute) -> str:
    """An attribute, short."""
    if isinstance(attribute, Subgraph):
        reads = f", reads {', '.join(attribute.captures)}" if attribute.captures else ""
        return f"<body {attribute.proto.name}: {len(attribute.proto.node)} nodes{reads}>"
    if isinstance(attribute, onnx.AttributeProto):
        return f"<{onnx.AttributeProto.AttributeType.Name(attribute.type).lower()}>"
    if isinstance(attribute, np.ndarray):
        if attribute.size > _INLINE_ELEMENTS:
            return f"<{attribute.dtype}{list(attribute.shape)}>"
        return _number_text(attribute.tolist(), double=attribute.dtype == np.float64)
    return _number_text(attribute)


def _number_text(item: Any, *, double: bool = False) -> str:
    """Numbers as short as they can be: floats have the digits that tell them from the next float32 (or float64)."""
    if isinstance(item, list | tuple):
        return "[" + ",".join(_number_text(entry, double=double) for entry in item) + "]"
    if isinstance(item, bytes):
        return repr(item.decode(errors="replace"))
    if isinstance(item, float) and not double:
        with np.errstate(over="ignore"):
            return str(np.float32(item))
    return repr(item)
