"""ONNX in: a model file or proto becomes a `Graph` at the one opset inside."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import helper, inliner, numpy_helper

from qcompiler.errors import ModelError
from qcompiler.ir.graph import Graph
from qcompiler.ir.node import Attribute, Shape, Subgraph, Value
from qcompiler.ir.opset import convert_opset

if TYPE_CHECKING:
    from google.protobuf.internal.containers import RepeatedCompositeFieldContainer
    from numpy.typing import NDArray


def load(path: str | Path) -> Graph:
    """Reads a model file. Weights in external data are memory-mapped, not read.

    Raises:
        ModelError: The file is missing, is no ONNX model, is cut off, or breaks a rule of the format.
    """
    path = Path(path)
    return import_model(read_proto(path), directory=path.parent, source=str(path))


def read_proto(path: Path) -> onnx.ModelProto:
    """Reads the proto of a model file without its external data.

    Raises:
        ModelError: As `load`.
    """
    if not path.is_file():
        raise ModelError(f"There is no model file at {path}; give the path of an .onnx file.")
    if not path.stat().st_size:
        raise ModelError(f"{path} is empty: 0 bytes; export or copy the model again.")
    model = onnx.ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
    except Exception as error:
        raise ModelError(
            f"{path} cannot be read as an ONNX model ({error}): it is another kind of file, or cut off. "
            "Check that the copy or download is complete, or export the model again."
        ) from error
    if not model.HasField("graph") or not model.ir_version or not model.graph.output:
        raise ModelError(
            f"{path} holds no ONNX model (no graph with outputs was found in it); is it an .onnx file?"
        )
    return model


def import_model(
    model: onnx.ModelProto, *, directory: Path | None = None, source: str = "the model"
) -> Graph:
    """Builds a graph from a proto.

    Args:
        model: The proto; may be changed.
        directory: Where its external data lie.
        source: What error messages call it.

    Raises:
        ModelError: As `load`.
    """
    if not model.opset_import and not model.graph.node:
        raise ModelError(f"{source} has no nodes and declares no opset; there is nothing to compile.")
    _check_names(model.graph, source)
    if model.functions:
        model = inliner.inline_local_functions(model)
    model = convert_opset(model)
    graph = Graph(model.graph.name or "graph")
    for entry in model.opset_import:
        if entry.domain in ("", "ai.onnx"):
            graph.opset = entry.version
        else:
            graph.other_opsets[entry.domain] = entry.version
    graph.doc, graph.producer = (
        model.doc_string or model.graph.doc_string,
        (model.producer_name, model.producer_version),
    )
    graph.metadata, graph.graph_metadata = (
        _properties(model.metadata_props),
        _properties(model.graph.metadata_props),
    )
    _add_values(graph, model.graph, directory, source)
    _add_nodes(graph, model.graph, source)
    missing = [value.name for value in model.graph.output if not graph.has_value(value.name)]
    if missing:
        raise ModelError(
            f"{source} returns {', '.join(missing)}, which nothing in it computes; the graph is incomplete."
        )
    graph.set_outputs(graph.value(value.name) for value in model.graph.output)
    for info in [*model.graph.value_info, *model.graph.output]:
        _set_type(graph, info)
    graph.journal.clear()
    graph.verify()
    return graph


def _check_names(proto: onnx.GraphProto, source: str) -> None:
    seen: set[str] = {value.name for value in proto.input} | {tensor.name for tensor in proto.initializer}
    if len(seen) < len({id(v) for v in proto.input}) and len({v.name for v in proto.input}) < len(
        proto.input
    ):
        raise ModelError(f"{source} has two graph inputs of the same name; names must be unique.")
    for node in proto.node:
        for name in node.output:
            if name and name in seen:
                raise ModelError(
                    f"{source} defines the value {name!r} twice, the second time in node {node.name or node.op_type!r}; "
                    "names must be unique (static single assignment)."
                )
            seen.add(name)


def _add_values(graph: Graph, proto: onnx.GraphProto, directory: Path | None, source: str) -> None:
    for tensor in proto.initializer:
        if graph.has_value(tensor.name):
            raise ModelError(f"{source} has two initializers named {tensor.name!r}; names must be unique.")
        _check_external(tensor, directory, source)
        value = graph.add_constant(tensor.name, _array(tensor, directory, source))
        value.doc, value.metadata = tensor.doc_string, _properties(tensor.metadata_props)
    for sparse in proto.sparse_initializer:
        graph.add_constant(sparse.values.name, _dense(sparse))
    for info in proto.input:
        if graph.has_value(info.name):  # an input with a default: the default is the value
            continue
        graph.add_input(info.name, None, None)
        _set_type(graph, info)


def _add_nodes(graph: Graph, proto: onnx.GraphProto, source: str) -> None:
    for node in proto.node:
        for name in node.output:
            if name:
                graph.add_value(name)
    for node in proto.node:
        for name in node.input:
            if name and not graph.has_value(name):
                raise ModelError(
                    f"In {source}, node {node.name or node.output[0]!r} ({node.op_type}) reads {name!r}, which is no graph "
                    "input, no initializer and no other node's output: the edge dangles. The graph is incomplete."
                )
        domain = "" if node.domain == "ai.onnx" else node.domain
        made = graph.add_node(
            node.op_type,
            [graph.value(name) if name else None for name in node.input],
            [graph.value(name) if name else None for name in node.output],
            {attribute.name: _attribute(attribute) for attribute in node.attribute},
            name=node.name, domain=domain,
        )  # fmt: skip
        while made.inputs and made.inputs[-1] is None:
            made.inputs.pop()
        made.doc, made.metadata, made.overload = (
            node.doc_string,
            _properties(node.metadata_props),
            node.overload,
        )


def _attribute(attribute: onnx.AttributeProto) -> Attribute:
    kind = attribute.type
    if kind == onnx.AttributeProto.GRAPH:
        return Subgraph(attribute.g)
    if kind == onnx.AttributeProto.GRAPHS:
        return [Subgraph(body) for body in attribute.graphs]
    if kind == onnx.AttributeProto.TENSOR and attribute.t.data_type != onnx.TensorProto.STRING:
        return numpy_helper.to_array(attribute.t)
    simple = {onnx.AttributeProto.INT, onnx.AttributeProto.FLOAT, onnx.AttributeProto.STRING}
    lists = {onnx.AttributeProto.INTS, onnx.AttributeProto.FLOATS, onnx.AttributeProto.STRINGS}
    if kind in simple:
        return helper.get_attribute_value(attribute)
    if kind in lists:
        return list(helper.get_attribute_value(attribute))
    kept = onnx.AttributeProto()
    kept.CopyFrom(attribute)
    return kept


def _set_type(graph: Graph, info: onnx.ValueInfoProto) -> None:
    if not graph.has_value(info.name):
        return
    value = graph.value(info.name)
    value.doc, value.metadata = (
        value.doc or info.doc_string,
        value.metadata or _properties(info.metadata_props),
    )
    set_value_type(value, info.type)


def set_value_type(value: Value, proto: onnx.TypeProto) -> None:
    """Fills in what an ONNX type says of a value; a constant keeps its own type."""
    kind = proto.WhichOneof("value")
    if value.data is not None or kind is None:
        return
    if kind != "tensor_type":
        value.other_type = onnx.TypeProto()
        value.other_type.CopyFrom(proto)
        return
    if proto.tensor_type.elem_type:
        value.dtype = helper.tensor_dtype_to_np_dtype(proto.tensor_type.elem_type)
    if proto.tensor_type.HasField("shape"):
        value.shape = _shape(proto.tensor_type.shape)


def _shape(proto: onnx.TensorShapeProto) -> Shape:
    return tuple(
        dim.dim_value if dim.WhichOneof("value") == "dim_value" else (dim.dim_param or None)
        for dim in proto.dim
    )


def _properties(entries: RepeatedCompositeFieldContainer[onnx.StringStringEntryProto]) -> dict[str, str]:
    return {entry.key: entry.value for entry in entries}


def _dense(sparse: onnx.SparseTensorProto) -> NDArray[Any]:
    values, indices = numpy_helper.to_array(sparse.values), numpy_helper.to_array(sparse.indices)
    dense = np.zeros(math.prod(sparse.dims), values.dtype)
    flat = indices if indices.ndim == 1 else np.ravel_multi_index(tuple(indices.T), tuple(sparse.dims))
    dense[flat] = values
    return dense.reshape(tuple(sparse.dims))


# -- tensors ---------------------------------------------------------------------------------------------------

_SUB_BYTE = {onnx.TensorProto.INT4, onnx.TensorProto.UINT4, onnx.TensorProto.FLOAT4E2M1} | {
    getattr(onnx.TensorProto, name) for name in ("INT2", "UINT2") if hasattr(onnx.TensorProto, name)
}


def _location(tensor: onnx.TensorProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in tensor.external_data}


def _check_external(tensor: onnx.TensorProto, directory: Path | None, source: str) -> None:
    if tensor.data_location != onnx.TensorProto.EXTERNAL:
        return
    location = _location(tensor)
    file = (directory or Path()) / location.get("location", "")
    if not file.is_file():
        raise ModelError(
            f"{source} keeps the tensor {tensor.name!r} in the external data file {file}, which does not exist; "
            "put the file next to the model, as it was when the model was saved."
        )
    if not file.resolve().is_relative_to((directory or Path()).resolve()):
        raise ModelError(
            f"{source} points outside its own folder for the tensor {tensor.name!r}: {file}; this is refused."
        )


def _array(tensor: onnx.TensorProto, directory: Path | None, source: str) -> NDArray[Any]:
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        return _external_array(tensor, directory or Path(), source)
    try:
        if tensor.HasField("raw_data") and tensor.data_type not in _SUB_BYTE:
            dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
            return (
                np.frombuffer(tensor.raw_data, dtype.newbyteorder("<") if dtype.isbuiltin == 1 else dtype)
                .astype(dtype, copy=False)
                .reshape(tuple(tensor.dims))
            )
        return numpy_helper.to_array(tensor)
    except (ValueError, TypeError) as error:
        raise ModelError(
            f"In {source}, the tensor {tensor.name!r} does not fit its declared shape and type: {error}."
        ) from error


def _external_array(tensor: onnx.TensorProto, directory: Path, source: str) -> NDArray[Any]:
    location = _location(tensor)
    file, offset = directory / location["location"], int(location.get("offset", 0))
    if tensor.data_type in _SUB_BYTE:
        onnx.external_data_helper.load_external_data_for_tensor(tensor, str(directory))
        return numpy_helper.to_array(tensor)
    dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    shape: Iterable[int] = tuple(tensor.dims)
    size = math.prod(shape) * dtype.itemsize
    if offset + size > file.stat().st_size:
        raise ModelError(
            f"{source} expects {size} bytes of the tensor {tensor.name!r} at offset {offset} of {file}, but that file ends "
            f"at {file.stat().st_size}: it is cut off. Copy or export the model again."
        )
    if not size:
        return np.zeros(tuple(shape), dtype)
    return np.memmap(file, dtype=dtype, mode="r", offset=offset, shape=tuple(shape))
