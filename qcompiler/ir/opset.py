"""Conversion to the one opset inside, at the door."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import onnx
from onnx import version_converter

from qcompiler.errors import ModelError
from qcompiler.ir.functions import COMPOSITES, DOMAIN
from qcompiler.ir.graph import OPSET
from qcompiler.ir.node import Subgraph

_LIFTED_BYTES = 1024  # constants of this size carry weights, not shapes: no conversion looks at them


def convert_opset(model: onnx.ModelProto) -> onnx.ModelProto:
    """Returns the model at opset 21, weights untouched; the same object where nothing has to change.

    Operators that no version of the standard knows are carried. Models newer than 21 stay at their own opset where an
    operator of theirs has no form in 21 that means the same.

    Raises:
        ModelError: No conversion is known for an operator.
    """
    source = standard_opset(model)
    target = max(OPSET, source)
    if source > OPSET:
        _adopt_composites(model.graph.node)
        if _unchanged(model.graph, source, OPSET) or _expressible(model.graph, source):
            target = OPSET
            _drop_newer_attributes(model.graph)
            model.opset_import[_standard_entry(model)].version = target
            return model
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
    return all(_since(op, source) == _since(op, target) for op in ops if _is_standard(op))


def _is_standard(op: str) -> bool:
    return onnx.defs.has(op, domain="")


_OLD_TYPES = frozenset(
    range(1, 16)
)  # all of FLOAT to COMPLEX128: types that every operator's newest form before 21 had


def _expressible(graph: onnx.GraphProto, source: int) -> bool:
    """Whether every operator of a newer model means the same in opset 21.

    From 21 to 26, operators that are in both changed in the element types that they take, and by new attributes.
    """
    nodes = [
        node
        for node in _all_nodes(graph.node)
        if node.domain in ("", "ai.onnx") and _is_standard(node.op_type)
    ]
    return _has_old_types(graph) and all(_same_form(node, source) for node in nodes)


def _same_form(node: onnx.NodeProto, source: int) -> bool:
    if _since(node.op_type, OPSET) is None:
        return False
    new, old = (onnx.defs.get_schema(node.op_type, version, "") for version in (source, OPSET))
    names = [[entry.name for entry in (*schema.inputs, *schema.outputs)] for schema in (new, old)]
    return names[0] == names[1] and all(
        entry.name in old.attributes or _is_default(entry, new) for entry in node.attribute
    )


def _is_default(entry: onnx.AttributeProto, schema: onnx.defs.OpSchema) -> bool:
    if entry.name not in schema.attributes:
        return False
    default = schema.attributes[entry.name].default_value
    return bool(onnx.helper.get_attribute_value(entry) == onnx.helper.get_attribute_value(default))


def _has_old_types(graph: onnx.GraphProto) -> bool:
    infos = [*graph.input, *graph.output, *graph.value_info]
    types = {info.type.tensor_type.elem_type for info in infos if info.type.HasField("tensor_type")}
    types |= {tensor.data_type for tensor in graph.initializer}
    for node in _all_nodes(graph.node):
        for entry in node.attribute:
            if entry.type == onnx.AttributeProto.TENSOR:
                types.add(entry.t.data_type)
            elif entry.name in ("to", "dtype", "output_dtype"):
                types.add(entry.i)
            for body in [entry.g, *entry.graphs]:
                types |= {tensor.data_type for tensor in body.initializer}
    return types - {0} <= _OLD_TYPES


def _drop_newer_attributes(graph: onnx.GraphProto) -> None:
    for node in _all_nodes(graph.node):
        if node.domain in ("", "ai.onnx") and _since(node.op_type, OPSET) is not None:
            known = onnx.defs.get_schema(node.op_type, OPSET, "").attributes
            for index in reversed(range(len(node.attribute))):
                if node.attribute[index].name not in known:
                    del node.attribute[index]


def _standard_entry(model: onnx.ModelProto) -> int:
    return next(i for i, entry in enumerate(model.opset_import) if entry.domain in ("", "ai.onnx"))


def _since(op: str, opset: int) -> int | None:
    try:
        since: int = onnx.defs.get_schema(op, opset, "").since_version
    except onnx.defs.SchemaError:
        return None
    return since


def _convert(model: onnx.ModelProto, target: int) -> onnx.ModelProto:
    skeleton, lifted = _lift_weights(model)
    _hide_unknown(skeleton)
    for node in _all_nodes(skeleton.graph.node):
        _convert_bodies(node, skeleton, target)
    try:
        converted = version_converter.convert_version(skeleton, target)
    except Exception as error:
        raise ModelError(
            f"The model cannot be brought from opset {standard_opset(model)} to opset {target}: "
            f"{' '.join(str(error).split())[:300]}. Export it with opset {OPSET}, or replace the operator named."
        ) from error
    for node in _all_nodes(converted.graph.node):
        if node.domain == _HIDDEN:
            node.domain = ""
    for index in reversed(range(len(converted.opset_import))):
        if converted.opset_import[index].domain == _HIDDEN:
            del converted.opset_import[index]
    _restore(model, converted, lifted)
    return converted


_HIDDEN = "qcompiler.unknown"


def _hide_unknown(model: onnx.ModelProto) -> None:
    """Moves operators that the standard does not know to a domain of their own, which the converter leaves alone."""
    unknown = [
        node
        for node in _all_nodes(model.graph.node)
        if node.domain in ("", "ai.onnx") and not _is_standard(node.op_type)
    ]
    for node in unknown:
        node.domain = _HIDDEN
    if unknown:
        model.opset_import.append(onnx.helper.make_opsetid(_HIDDEN, 1))


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
    """Puts back what the converter does not carry: weights, inputs as they were, and what is said of everything."""
    converted.graph.initializer.extend(lifted)
    constant = {tensor.name for tensor in converted.graph.initializer} - {
        value.name for value in model.graph.input
    }
    for index in reversed([i for i, value in enumerate(converted.graph.input) if value.name in constant]):
        del converted.graph.input[index]
    converted.producer_name, converted.producer_version = model.producer_name, model.producer_version
    converted.domain, converted.model_version = model.domain, model.model_version
    _carry_remarks([(model, converted), (model.graph, converted.graph)])
    sources = {id(tensor) for tensor in lifted}
    kept = [tensor for tensor in model.graph.initializer if id(tensor) not in sources]
    for old, new in (
        (kept, [tensor for tensor in converted.graph.initializer if not is_weight(tensor)]),
        (model.graph.input, converted.graph.input),
        (model.graph.output, converted.graph.output),
        (model.graph.value_info, converted.graph.value_info),
    ):
        named = {entry.name: entry for entry in new}
        _carry_remarks([(entry, named[entry.name]) for entry in old if entry.name in named])
    told = {entry.name for entry in converted.graph.value_info}
    converted.graph.value_info.extend(entry for entry in model.graph.value_info if entry.name not in told)
    by_output = {name: node for node in converted.graph.node for name in node.output if name}
    for node in model.graph.node:
        twin = by_output.get(next(filter(None, node.output), ""))
        if twin is not None:
            _carry_remarks([(node, twin)])


def _carry_remarks(pairs: Iterable[tuple[Any, Any]]) -> None:
    """Copies doc strings and metadata from one proto to another."""
    for old, new in pairs:
        new.doc_string = old.doc_string
        del new.metadata_props[:]
        new.metadata_props.extend(old.metadata_props)
