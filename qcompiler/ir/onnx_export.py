"""ONNX out: a `Graph` becomes a proto or a file, weights streamed."""

from __future__ import annotations

import mmap
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import onnx
from onnx import helper, inliner, numpy_helper

from qcompiler.ir.functions import DOMAIN, composite
from qcompiler.ir.node import Attribute, Node, Shape, Subgraph, Value
from qcompiler.ir.tensors import PACKED_BITS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qcompiler.ir.graph import Graph

IR_VERSION = 10  # the ONNX IR of opset 21; newer ones are refused by runtimes that know opset 21
_PROTO_LIMIT = 1_500_000_000  # protobuf refuses 2 GiB
_SKELETON_ELEMENTS = 256
_CHUNK = 16 << 20
_ALIGNMENT = 4096  # so that a reader can map each tensor


def to_onnx(graph: Graph, *, skeleton: bool = False, inline: bool = False) -> onnx.ModelProto:
    """The graph as a proto.

    Args:
        graph: The graph.
        skeleton: Constants of more than 256 elements stand as graph inputs: for whoever wants structure, not weights.
        inline: Composite operators are written out in standard ones instead of as local functions.
    """
    model = _structure(graph, inline=inline)
    for value in graph.constants:
        assert value.data is not None
        if skeleton and value.data.size > _SKELETON_ELEMENTS:
            model.graph.input.append(_value_info(value))
        else:
            model.graph.initializer.append(_tensor(value))
    return model


def save(graph: Graph, path: str | Path, *, external: bool | None = None) -> list[Path]:
    """Writes the graph to a file of standard operators and returns the files written.

    Args:
        graph: The graph.
        path: The .onnx file.
        external: Whether weights go to PATH.data beside it; by default when they would not fit one proto (1.5 GB).
    """
    path = Path(path)
    if external is None:
        external = (
            sum(value.data.nbytes for value in graph.constants if value.data is not None) > _PROTO_LIMIT
        )
    if not external:
        path.write_bytes(to_onnx(graph, inline=True).SerializeToString(deterministic=True))
        return [path]
    model = _structure(graph, inline=True)
    side = path.with_name(path.name + ".data")
    with side.open("wb") as file:
        for value in graph.constants:
            model.graph.initializer.append(_external_tensor(value, file, side.name))
    path.write_bytes(model.SerializeToString(deterministic=True))
    return [path, side]


def _structure(graph: Graph, *, inline: bool) -> onnx.ModelProto:
    model = onnx.ModelProto(ir_version=IR_VERSION, doc_string=graph.doc)
    model.domain, model.model_version = graph.model_domain, graph.model_version
    model.producer_name, model.producer_version = graph.producer
    model.opset_import.append(helper.make_opsetid("", graph.opset))
    used = {node.domain for node in graph.topological()} - {""}
    for domain in sorted(used | set(graph.other_opsets)):
        model.opset_import.append(helper.make_opsetid(domain, graph.other_opsets.get(domain, 1)))
    _set_properties(model.metadata_props, graph.metadata)
    proto = model.graph
    proto.name, proto.doc_string = graph.name, graph.graph_doc
    _set_properties(proto.metadata_props, graph.graph_metadata)
    proto.input.extend(_value_info(value) for value in graph.inputs)
    proto.output.extend(_value_info(value) for value in graph.outputs)
    proto.node.extend(node_proto(node) for node in graph.topological())
    outputs = set(graph.outputs)
    for value in graph.values:
        if (
            value.producer is not None
            and value not in outputs
            and (value.dtype is not None or value.other_type is not None)
        ):
            proto.value_info.append(_value_info(value))
    composites = sorted({node.op for node in graph.topological() if node.domain == DOMAIN})
    for node in proto.node if composites else ():
        if node.domain == DOMAIN:  # inlining does not know defaults
            given = {attribute.name for attribute in node.attribute}
            defaults = composite(node.op_type).attribute_proto
            node.attribute.extend(entry for entry in defaults if entry.name not in given)
    for op in composites:
        function = onnx.FunctionProto()
        function.CopyFrom(composite(op))
        function.opset_import[0].version = graph.opset
        model.functions.append(function)
    if composites and inline:
        model = inliner.inline_local_functions(model)
        for index in reversed(range(len(model.opset_import))):
            if model.opset_import[index].domain == DOMAIN:
                del model.opset_import[index]
    return model


def node_proto(node: Node) -> onnx.NodeProto:
    """One node as a proto."""
    proto = onnx.NodeProto(
        op_type=node.op, name=node.name, domain=node.domain, doc_string=node.doc, overload=node.overload
    )
    proto.input.extend("" if value is None else value.name for value in node.inputs)
    proto.output.extend("" if value is None else value.name for value in node.outputs)
    for name in sorted(node.attributes):
        proto.attribute.append(_attribute(name, node.attributes[name]))
    _set_properties(proto.metadata_props, node.metadata)
    return proto


def _attribute(name: str, attribute: Attribute) -> onnx.AttributeProto:
    if isinstance(attribute, onnx.AttributeProto):
        return attribute
    if isinstance(attribute, Subgraph):
        return onnx.AttributeProto(name=name, type=onnx.AttributeProto.GRAPH, g=attribute.proto)
    if isinstance(attribute, list) and attribute and isinstance(attribute[0], Subgraph):
        return onnx.AttributeProto(
            name=name, type=onnx.AttributeProto.GRAPHS, graphs=[body.proto for body in attribute]
        )
    if isinstance(attribute, np.ndarray):
        return helper.make_attribute(name, numpy_helper.from_array(attribute))
    if isinstance(attribute, list) and not attribute:
        return onnx.AttributeProto(name=name, type=onnx.AttributeProto.INTS)
    return helper.make_attribute(name, attribute)


def _value_info(value: Value) -> onnx.ValueInfoProto:
    info = onnx.ValueInfoProto(name=value.name, doc_string=value.doc)
    if value.other_type is not None:
        info.type.CopyFrom(value.other_type)
    elif value.dtype is not None:
        info.type.tensor_type.elem_type = helper.np_dtype_to_tensor_dtype(value.dtype)
        if value.shape is not None:
            _set_shape(info.type.tensor_type.shape, value.shape)
    _set_properties(info.metadata_props, value.metadata)
    return info


def _set_shape(proto: onnx.TensorShapeProto, shape: Shape) -> None:
    proto.SetInParent()
    for dim in shape:
        entry = proto.dim.add()
        if isinstance(dim, int):
            entry.dim_value = dim
        elif dim is not None:
            entry.dim_param = dim


def _set_properties(entries: Any, properties: dict[str, str]) -> None:
    entries.extend(onnx.StringStringEntryProto(key=key, value=properties[key]) for key in properties)


def _tensor(value: Value) -> onnx.TensorProto:
    assert value.data is not None
    tensor = numpy_helper.from_array(np.asarray(value.data), value.name)
    tensor.doc_string = value.doc
    _set_properties(tensor.metadata_props, value.metadata)
    return tensor


def _external_tensor(value: Value, file: BinaryIO, location: str) -> onnx.TensorProto:
    data = value.data
    assert data is not None
    if (
        data.size <= _SKELETON_ELEMENTS or data.dtype == object
    ):  # shapes and axes stay where shape inference sees them
        return _tensor(value)
    tensor = onnx.TensorProto(
        name=value.name, data_type=helper.np_dtype_to_tensor_dtype(data.dtype), dims=data.shape
    )
    tensor.doc_string = value.doc
    offset = -file.tell() % _ALIGNMENT + file.tell()
    file.seek(offset)
    for chunk in _raw_chunks(data, tensor.data_type):
        file.write(chunk)
    for key, entry in (
        ("location", location),
        ("offset", str(offset)),
        ("length", str(file.tell() - offset)),
    ):
        tensor.external_data.add(key=key, value=entry)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    return tensor


def _raw_chunks(data: NDArray[Any], data_type: int) -> Iterable[bytes | memoryview]:
    """The raw bytes of a tensor piece by piece, each piece of a memory map dropped from memory when it is written."""
    if data_type in PACKED_BITS:
        yield numpy_helper.from_array(data, "packed").raw_data
        return
    flat = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
    source = getattr(data, "_mmap", None)
    for start in range(0, flat.size, _CHUNK):
        yield flat[start : start + _CHUNK].data
        if isinstance(source, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            source.madvise(mmap.MADV_DONTNEED)
