"""Bridges: onnx-graphsurgeon for the surgery scripts that people have, networkx as the analysis view.

onnx-graphsurgeon drops metadata and some attributes, and cannot export constants of less than eight bits. Constants
therefore go around it: it shares our arrays, and what it drops is restored by name on the way back.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import networkx
import numpy as np
import onnx
from onnx import helper, numpy_helper

from qcompiler.errors import ModelError
from qcompiler.ir.onnx_export import to_onnx
from qcompiler.ir.onnx_import import import_model

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from qcompiler.ir.graph import Graph
    from qcompiler.ir.node import Node, Value

# -- onnx-graphsurgeon -----------------------------------------------------------------------------------------


def to_graphsurgeon(graph: Graph) -> gs.Graph:
    """The graph as an onnx-graphsurgeon graph of its own; constants share their arrays, so do not write into them."""
    gs = _graphsurgeon()
    model = to_onnx(graph, skeleton=True)
    del model.functions[:]  # composites stay nodes: there is nothing to operate on inside them
    surgical = gs.import_onnx(model)
    tensors = surgical.tensors()
    constants = {value.name: value.data for value in graph.constants if value.data is not None}
    surgical.inputs = [tensor for tensor in surgical.inputs if tensor.name not in constants]
    for name, data in constants.items():
        tensor = tensors.get(name)
        if isinstance(tensor, gs.Constant):
            tensor.values = data
        elif tensor is not None:
            tensor.to_constant(data)
    surgical.doc_string = graph.graph_doc
    return surgical


def from_graphsurgeon(surgical: gs.Graph, like: Graph | None = None) -> Graph:
    """Reads an onnx-graphsurgeon graph, which is left as it is.

    Args:
        surgical: The graph.
        like: The graph that it came from: gives back, by name, what onnx-graphsurgeon dropped (metadata, doc strings,
            origins, types, attributes of rare kinds, opsets of other domains).

    Raises:
        ModelError: The surgery left no valid model behind.
    """
    gs = _graphsurgeon()
    try:
        twin = surgical.copy()
        constants: dict[str, np.ndarray] = {}
        for tensor in twin.tensors(check_duplicates=True).values():
            if isinstance(tensor, gs.Constant):
                constants[tensor.name] = _elements(tensor)
                tensor.to_variable(shape=list(constants[tensor.name].shape))
            if not hasattr(
                tensor, "type"
            ):  # to_variable, ours or the script's, forgets it; the export asks for it
                tensor.type = "tensor_type"
        _check_inner_constants(twin)
        model = gs.export_onnx(twin, do_type_check=False)
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(
            f"onnx-graphsurgeon cannot export the graph after the surgery: {' '.join(str(error).split())}"
        ) from error
    model.graph.initializer.extend(numpy_helper.from_array(data, name) for name, data in constants.items())
    made = {name for node in model.graph.node for name in node.output}
    for name in made & constants.keys():
        raise ModelError(f"After the surgery, {name!r} is both a constant and the output of a node.")
    graph = import_model(model, source="the graph after the surgery")
    for name, data in constants.items():
        if graph.has_value(name):  # the array itself rather than its copy: it may be a memory map
            graph.value(name).data = data
    if like is not None:
        _restore(graph, like)
    graph.journal.clear()
    graph.verify()
    return graph


def _graphsurgeon() -> Any:
    import onnx_graphsurgeon  # not at the top: it takes a moment, and few need it

    logging.getLogger("OnnxGraphSurgeon").setLevel(logging.ERROR)
    return onnx_graphsurgeon


def _elements(tensor: gs.Constant) -> np.ndarray:
    data: np.ndarray = np.asanyarray(tensor.values)
    wanted = tensor.export_dtype
    dtype = helper.tensor_dtype_to_np_dtype(wanted) if isinstance(wanted, int) else np.dtype(wanted)
    return data if data.dtype == dtype else data.astype(dtype)


def _check_inner_constants(surgical: gs.Graph) -> None:
    """Refuses new constants of less than eight bits in bodies and attributes: their export would be garbage."""
    gs = _graphsurgeon()
    for node, holder in _inner_constants(surgical, gs):
        if not isinstance(holder._values, gs.Constant | np.ndarray):
            continue  # as it was imported, and exported so again
        if np.dtype(holder.dtype).name in ("int4", "uint4", "int2", "uint2", "float4_e2m1fn"):
            raise ModelError(
                f"onnx-graphsurgeon cannot export the {np.dtype(holder.dtype).name} constant inside node {node.name!r}; "
                "make it a constant of the main graph."
            )


def _inner_constants(surgical: gs.Graph, gs: Any) -> Iterator[tuple[gs.Node, gs.Constant]]:
    for node in surgical.nodes:
        for attribute in node.attrs.values():
            if isinstance(attribute, gs.Constant):
                yield node, attribute
            elif isinstance(attribute, gs.Graph):
                for tensor in attribute.tensors().values():
                    if isinstance(tensor, gs.Constant):
                        yield node, tensor
                for _, inner in _inner_constants(attribute, gs):
                    yield node, inner


def _restore(graph: Graph, like: Graph) -> None:
    graph.name, graph.doc, graph.graph_doc = like.name, like.doc, like.graph_doc
    graph.metadata, graph.graph_metadata = dict(like.metadata), dict(like.graph_metadata)
    graph.producer = like.producer
    graph.model_domain, graph.model_version = like.model_domain, like.model_version
    graph.other_opsets = {**graph.other_opsets, **like.other_opsets}
    for node in graph.nodes:
        if like.has_node(node.name):
            _restore_node(node, like.node(node.name))
    for value in graph.values:
        if like.has_value(value.name):
            _restore_value(value, like.value(value.name))


def _restore_node(node: Node, source: Node) -> None:
    node.origin, node.doc, node.metadata = source.origin, source.doc, dict(source.metadata)
    node.overload = source.overload
    if (node.op, node.domain) == (source.op, source.domain):
        for name, attribute in source.attributes.items():
            if isinstance(attribute, onnx.AttributeProto):
                node.attributes.setdefault(name, attribute)


def _restore_value(value: Value, source: Value) -> None:
    value.doc, value.metadata = source.doc, dict(source.metadata)
    if value.data is None and source.other_type is not None:
        value.dtype, value.shape, value.other_type = None, None, source.other_type
    elif value.data is None and value.dtype is None:
        value.dtype, value.shape = source.dtype, source.shape


# -- networkx --------------------------------------------------------------------------------------------------


def to_networkx(graph: Graph, *, ends: bool = False) -> networkx.DiGraph:
    """A snapshot for analyses: dominators, cuts, longest paths.

    Nodes are node names with the attributes `op`, `domain` and `origin`; an edge says in `values` which values the
    second node reads from the first. The order of nodes is topological.

    Args:
        graph: The graph.
        ends: Adds a node for each graph input and output, named ("input", name) and ("output", name), with their kind as
            `op`, so that paths can begin and end at them.
    """
    view = networkx.DiGraph(name=graph.name)
    if ends:
        view.add_nodes_from((("input", value.name), {"op": "input"}) for value in graph.inputs)
    for node in graph.topological():
        view.add_node(node.name, op=node.op, domain=node.domain, origin=node.origin)
        for _, value in node.operands():
            if value.producer is not None:
                _connect(view, value.producer.name, node.name, value)
            elif ends and value.is_input:
                _connect(view, ("input", value.name), node.name, value)
    for value in graph.outputs if ends else ():
        view.add_node(("output", value.name), op="output")
        if value.producer is not None:
            _connect(view, value.producer.name, ("output", value.name), value)
        elif value.is_input:
            _connect(view, ("input", value.name), ("output", value.name), value)
    return view


def _connect(view: networkx.DiGraph, first: object, second: object, value: Value) -> None:
    if view.has_edge(first, second):
        names = view.edges[first, second]["values"]
        view.edges[first, second]["values"] = tuple(dict.fromkeys((*names, value.name)))
    else:
        view.add_edge(first, second, values=(value.name,))
