"""What Qualcomm's own converter takes: the float model with the weights that the codes stand for, and encodings for all of its tensors.

The converter computes the range of whatever has no encoding itself, from data, or leaves it in floats; so nothing is left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from qcompiler.errors import TargetError
from qcompiler.ir.node import Use
from qcompiler.targets.hexagon.encodings import TensorEncoding

if TYPE_CHECKING:
    from qcompiler.ir.graph import Graph
    from qcompiler.ir.node import Node, Value
    from qcompiler.ir.plan import Plan, PlannedGroup


@dataclass(frozen=True)
class ConverterInput:
    """The two files, before they are written.

    Attributes:
        graph: The float model. Constants that are quantized hold what their codes stand for.
        tensors: The encodings of its tensors, activations first, each in graph order.
    """

    graph: Graph
    tensors: tuple[TensorEncoding, ...]


def converter_input(planned: Graph, plan: Plan) -> ConverterInput:
    """The float model and the encodings of a plan.

    Args:
        planned: The graph that the plan speaks of, of static shapes. It is not changed.
        plan: The plan.

    Raises:
        TargetError: A tensor would be left without an encoding.
    """
    graph = planned.copy()
    parameters = list(_parameters(graph, plan))
    activations = list(_activations(graph, plan))
    tensors = (*activations, *parameters)
    missing = _missing(graph, plan, {tensor.name for tensor in tensors})
    if missing:
        raise TargetError(
            f"The encodings would leave the range of {len(missing)} tensors to Qualcomm's converter, {missing[0]!r} for one: "
            "the plan says nothing of them."
        )
    return ConverterInput(graph, tensors)


def _activations(graph: Graph, plan: Plan) -> Iterator[TensorEncoding]:
    """An encoding for everything that is computed or given: as it is stored, or, of an input, as it is read in the most bits.

    What only operators in floats compute and read is a float.
    """
    stored, wanted = plan.group_of_value(), _wanted(plan)
    integers = {name for region in plan.regions if region.quantized for name in region.nodes}
    for value in graph.values:
        if value.is_constant or not _is_float(value):
            continue
        group = stored.get(value.name) or max(
            wanted.get(value.name, ()), key=lambda item: item.encoding.format.bits, default=None
        )
        if group is not None:
            yield TensorEncoding(value.name, group.encoding, is_parameter=False)
        elif not integers.intersection(node.name for node in (value.producer, *value.consumers) if node):
            yield TensorEncoding(value.name, None, is_parameter=False)


def _wanted(plan: Plan) -> dict[str, list[PlannedGroup]]:
    """The groups that read each value."""
    found: dict[str, list[PlannedGroup]] = {}
    for group in plan.groups:
        for use in group.uses:
            found.setdefault(use.value, []).append(group)
    return found


def _parameters(graph: Graph, plan: Plan) -> Iterator[TensorEncoding]:
    """An encoding for every constant, which then holds what its codes stand for; one that is read in several is copied."""
    nodes = {node.name: node for node in graph.topological()}
    taken: set[Value] = set()
    for group in plan.groups:
        uses = [Use(nodes[point.node], point.slot) for point in group.uses]
        for value in dict.fromkeys(use.node.input(use.slot) for use in uses):
            if value is None or not value.is_constant:
                continue
            mine = [use for use in uses if use.node.input(use.slot) is value]
            data = group.encoding.fake_quantize(np.asarray(value.data))
            if value in taken or len(mine) < len(value.uses):
                value = _copied(graph, value, data, mine)
            else:
                graph.set_data(value, data)
            taken.add(value)
            yield TensorEncoding(
                value.name, group.encoding, is_parameter=True, is_bias=group.relation == "derived"
            )
    for value in graph.constants:
        if (
            value not in taken
            and _is_float(value)
            and not all(_is_bound(use.node, value) for use in value.uses)
        ):
            yield TensorEncoding(value.name, None, is_parameter=True)


def _copied(graph: Graph, value: Value, data: np.ndarray, uses: list[Use]) -> Value:
    copy = graph.add_constant(value.name, data)
    for use in uses:
        graph.set_input(use.node, use.slot, copy)
    return copy


def _missing(graph: Graph, plan: Plan, named: set[str]) -> list[str]:
    """Float tensors without an encoding that the converter would look for: all but those inside of a kernel."""
    regions = plan.region_of()
    found = []
    for node in graph.topological():
        inner = node.name in regions and node.name != regions[node.name].nodes[-1]
        for value in (*node.inputs, *(() if inner else node.outputs)):
            if value is None or value.name in named or not _is_float(value) or _is_bound(node, value):
                continue
            if value.is_input or value.producer is None or not _is_inner(value.producer, plan):
                found.append(value.name)
    return list(dict.fromkeys(found))


def _is_inner(producer: Node, plan: Plan) -> bool:
    regions = plan.region_of()
    return producer.name in regions and producer.name != regions[producer.name].nodes[-1]


def _is_bound(node: Node, value: Value) -> bool:
    """Whether a constant says how something is computed, and is no operand: bounds, scales of sizes, the number to pad with."""
    return value.is_constant and node.is_op("Clip", "Resize", "Pad")


def _is_float(value: Value) -> bool:
    return value.dtype is not None and value.dtype.kind == "f"
