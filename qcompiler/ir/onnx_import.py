"""ONNX in: a model file or proto becomes a `Graph` at the one opset inside."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import helper, inliner, numpy_helper

from qcompiler.errors import ModelError
from qcompiler.ir.graph import Graph, collector_paused
from qcompiler.ir.node import Attribute, Shape, Subgraph, Value
from qcompiler.ir.opset import convert_opset
from qcompiler.ir.tensors import embed, read_tensor

if TYPE_CHECKING:
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
    _load_inner_tensors(model.graph, directory, source)
    if model.functions:
        model = _inlined(model, source)
    model = convert_opset(model)
    with collector_paused():
        return _build(model, directory, source)


def _build(model: onnx.ModelProto, directory: Path | None, source: str) -> Graph:
    graph = Graph(model.graph.name or "graph")
    for entry in model.opset_import:
        if entry.domain in ("", "ai.onnx"):
            graph.opset = entry.version
        else:
            graph.other_opsets[entry.domain] = entry.version
    graph.doc, graph.graph_doc = model.doc_string, model.graph.doc_string
    graph.producer = (model.producer_name, model.producer_version)
    graph.model_domain, graph.model_version = model.domain, model.model_version
    graph.metadata = _properties(model.metadata_props)
    graph.graph_metadata = _properties(model.graph.metadata_props)
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
    seen: set[str] = set()
    for value in proto.input:
        if value.name in seen:
            raise ModelError(f"{source} has two graph inputs named {value.name!r}; names must be unique.")
        seen.add(value.name)
    constants: set[str] = set()
    for name in _initializer_names(proto):
        if name in constants:
            raise ModelError(f"{source} has two initializers named {name!r}; names must be unique.")
        constants.add(name)
    seen |= constants
    for node in proto.node:
        for name in node.output:
            if name and name in seen:
                raise ModelError(
                    f"{source} defines the value {name!r} twice, the second time in node {node.name or node.op_type!r}; "
                    "names must be unique (static single assignment)."
                )
            seen.add(name)


def _load_inner_tensors(proto: onnx.GraphProto, directory: Path | None, source: str) -> None:
    """Reads the external data of tensors inside attributes and bodies, which are carried as protos."""
    for node in proto.node:
        for attribute in node.attribute:
            for tensor in [attribute.t, *attribute.tensors]:
                embed(tensor, directory, source)
            for body in [attribute.g, *attribute.graphs]:
                for tensor in body.initializer:
                    embed(tensor, directory, source)
                _load_inner_tensors(body, directory, source)


def _initializer_names(proto: onnx.GraphProto) -> Iterator[str]:
    for tensor in proto.initializer:
        yield tensor.name
    for sparse in proto.sparse_initializer:
        yield sparse.values.name


def _inlined(model: onnx.ModelProto, source: str) -> onnx.ModelProto:
    """The model with its local functions written out where they are called."""
    versions = {entry.domain: entry.version for entry in model.opset_import}
    for function in model.functions:
        for entry in function.opset_import:
            if entry.version != versions.setdefault(entry.domain, entry.version):
                raise ModelError(
                    f"{source} uses opset {versions[entry.domain]} of the {entry.domain or 'standard'} domain, but its function "
                    f"{function.name!r} uses opset {entry.version}; export both with the same one."
                )
    inlined = inliner.inline_local_functions(model)
    declared = {entry.domain for entry in inlined.opset_import}
    for domain, version in versions.items():
        if domain not in declared:
            inlined.opset_import.append(helper.make_opsetid(domain, version))
    return inlined


def _add_values(graph: Graph, proto: onnx.GraphProto, directory: Path | None, source: str) -> None:
    for tensor in proto.initializer:
        value = graph.add_constant(tensor.name, read_tensor(tensor, directory, source))
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
        domain = "" if node.domain == "ai.onnx" else node.domain
        made = graph.add_node(
            node.op_type,
            _operands(graph, node, source),
            [graph.value(name) if name else None for name in node.output],
            {attribute.name: _attribute(attribute) for attribute in node.attribute},
            name=node.name, domain=domain,
        )  # fmt: skip
        made.doc, made.metadata = node.doc_string, _properties(node.metadata_props)
        made.overload = node.overload
        for name in {name for body in made.subgraphs for name in body.captures}:
            if not graph.has_value(name):
                raise ModelError(_dangling(source, node, name))


def _operands(graph: Graph, node: onnx.NodeProto, source: str) -> list[Value | None]:
    values: list[Value | None] = []
    for name in node.input:
        if name and not graph.has_value(name):
            raise ModelError(_dangling(source, node, name))
        values.append(graph.value(name) if name else None)
    while values and values[-1] is None:
        values.pop()
    return values


def _dangling(source: str, node: onnx.NodeProto, name: str) -> str:
    label = node.name or next(iter(node.output), "")
    return (
        f"In {source}, node {label!r} ({node.op_type}) reads {name!r}, which is no graph input, no initializer and no "
        "other node's output: the edge dangles. The graph is incomplete."
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
        items = list(helper.get_attribute_value(attribute))
        if items or kind == onnx.AttributeProto.INTS:  # an empty list would not remember its kind
            return items
    kept = onnx.AttributeProto()
    kept.CopyFrom(attribute)
    return kept


def _set_type(graph: Graph, info: onnx.ValueInfoProto) -> None:
    if not graph.has_value(info.name):
        return
    value = graph.value(info.name)
    value.doc = value.doc or info.doc_string
    value.metadata = value.metadata or _properties(info.metadata_props)
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


def _properties(entries: Iterable[onnx.StringStringEntryProto]) -> dict[str, str]:
    return {entry.key: entry.value for entry in entries}


def _dense(sparse: onnx.SparseTensorProto) -> NDArray[Any]:
    values, indices = numpy_helper.to_array(sparse.values), numpy_helper.to_array(sparse.indices)
    dense = np.zeros(math.prod(sparse.dims), values.dtype)
    flat = indices if indices.ndim == 1 else np.ravel_multi_index(tuple(indices.T), tuple(sparse.dims))
    dense[flat] = values
    return dense.reshape(tuple(sparse.dims))
