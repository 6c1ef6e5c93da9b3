"""Conversion to the one opset inside, at the door."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import onnx
from onnx import version_converter

from qcompiler.errors import ModelError
from qcompiler.ir.functions import COMPOSITES, DOMAIN
from qcompiler.ir.graph import OPSET
from qcompiler.ir.node import Subgraph

_LIFTED_BYTES = 1024  # constants of this size carry weights, not shapes: no conversion looks at them


def convert_opset(model: onnx.ModelProto) -> onnx.ModelProto:
    """Returns the model at opset 21, weights untouched; the same object where nothing has to change.

    Models newer than 21 stay at their own opset where an operator of theirs has no older form.

    Raises:
        ModelError: No conversion is known for an operator.
    """
    source = standard_opset(model)
    target = max(OPSET, source)
    if source > OPSET:
        _adopt_composites(model.graph.node)
        if _unchanged(model.graph, source, OPSET):
            target = OPSET
    if not _unchanged(model.graph, source, target):
        model = _convert(model, target)
    for entry in model.opset_import:
        if entry.domain in ("", "ai.onnx"):
            entry.version = target
    return model


def standard_opset(model: onnx.ModelProto) -> int:
    """The version of the standard operator set that the model declares.

    Raises:
        ModelError: It declares none, or one that the installed onnx does not know.
    """
    versions = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    newest = onnx.defs.onnx_opset_version()
    if not versions:
        if all(node.domain not in ("", "ai.onnx") for node in model.graph.node):
            return OPSET
        raise ModelError(
            "The model declares no version of the standard operator set (opset_import); export it again."
        )
    if not 1 <= versions[0] <= newest:
        raise ModelError(
            f"The model declares opset {versions[0]}, but the installed onnx {onnx.__version__} knows opsets 1 to {newest}; "
            "export it with an opset in that range."
        )
    declared: int = versions[0]
    return declared


def _all_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    for node in nodes:
        yield node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _all_nodes(attribute.g.node)
            for body in attribute.graphs:
                yield from _all_nodes(body.node)


def _adopt_composites(nodes: Iterable[onnx.NodeProto]) -> None:
    for node in _all_nodes(nodes):
        same = all(
            entry.name == "epsilon" or (entry.name == "axis" and entry.i == -1) for entry in node.attribute
        )
        if node.op_type in COMPOSITES and node.domain in ("", "ai.onnx") and same:
            node.domain = DOMAIN


def _unchanged(graph: onnx.GraphProto, source: int, target: int) -> bool:
    """Whether every standard operator means the same in both opsets."""
    if source == target:
        return True
    ops = {node.op_type for node in _all_nodes(graph.node) if node.domain in ("", "ai.onnx")}
    return all(_since(op, source) is not None and _since(op, source) == _since(op, target) for op in ops)


def _since(op: str, opset: int) -> int | None:
    try:
        since: int = onnx.defs.get_schema(op, opset, "").since_version
    except onnx.defs.SchemaError:
        return None
    return since


def _convert(model: onnx.ModelProto, target: int) -> onnx.ModelProto:
    skeleton, lifted = _lift_weights(model)
    for node in _all_nodes(skeleton.graph.node):
        _convert_bodies(node, skeleton, target)
    try:
        converted = version_converter.convert_version(skeleton, target)
    except Exception as error:
        raise ModelError(
            f"The model cannot be brought from opset {standard_opset(model)} to opset {target}: "
            f"{' '.join(str(error).split())[:300]}. Export it with opset {OPSET}, or replace the operator named."
        ) from error
    _restore(model, converted, lifted)
    return converted


def _convert_bodies(node: onnx.NodeProto, model: onnx.ModelProto, target: int) -> None:
    """Converts control-flow bodies as graphs of their own; the converter leaves them alone."""
    for attribute in node.attribute:
        bodies = [attribute.g] if attribute.type == onnx.AttributeProto.GRAPH else list(attribute.graphs)
        for body in bodies:
            alone = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
            alone.graph.CopyFrom(body)
            captures = Subgraph(body).captures
            alone.graph.input.extend(
                onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in captures
            )
            for entry in alone.graph.input[-len(captures) :] if captures else []:
                entry.ClearField("type")
            converted = version_converter.convert_version(alone, target).graph
            del converted.input[len(body.input) :]
            body.CopyFrom(converted)


def _lift_weights(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[onnx.TensorProto]]:
    """A copy without the big initializers, which stand as inputs instead."""
    lifted = [tensor for tensor in model.graph.initializer if is_weight(tensor)]
    kept = [tensor for tensor in model.graph.initializer if not is_weight(tensor)]
    skeleton = onnx.ModelProto()
    skeleton.CopyFrom(_without_initializers(model))
    skeleton.graph.initializer.extend(kept)
    known = {value.name for value in skeleton.graph.input}
    for tensor in [*lifted, *kept]:
        if tensor.name not in known:
            skeleton.graph.input.append(
                onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            )
    return skeleton, lifted


def is_weight(tensor: onnx.TensorProto) -> bool:
    """Whether a tensor is too big to be a shape, an axis list or a scalar."""
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        return True
    elements = 1
    for dim in tensor.dims:
        elements *= dim
    return elements * 4 > _LIFTED_BYTES


def _without_initializers(model: onnx.ModelProto) -> onnx.ModelProto:
    initializers = list(model.graph.initializer)
    del model.graph.initializer[:]
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    model.graph.initializer.extend(initializers)
    return copy


def _restore(model: onnx.ModelProto, converted: onnx.ModelProto, lifted: list[onnx.TensorProto]) -> None:
    """Puts back what the converter does not carry: weights, inputs as they were, metadata of model and nodes."""
    converted.graph.initializer.extend(lifted)
    constant = {tensor.name for tensor in converted.graph.initializer} - {
        value.name for value in model.graph.input
    }
    for index in reversed([i for i, value in enumerate(converted.graph.input) if value.name in constant]):
        del converted.graph.input[index]
    del converted.metadata_props[:]
    converted.metadata_props.extend(model.metadata_props)
    del converted.graph.metadata_props[:]
    converted.graph.metadata_props.extend(model.graph.metadata_props)
    converted.producer_name, converted.producer_version = model.producer_name, model.producer_version
    by_output = {node.output[0]: node for node in model.graph.node if node.output and node.metadata_props}
    for node in converted.graph.node:
        source = by_output.get(node.output[0]) if node.output else None
        if source is not None:
            del node.metadata_props[:]
            node.metadata_props.extend(source.metadata_props)
