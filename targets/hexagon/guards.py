"""What must not be given to the HTP, though some of it would be accepted: checked before anything is written."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from qcompiler import ops
from qcompiler.errors import TargetError

if TYPE_CHECKING:
    from qcompiler.ir.graph import Graph
    from qcompiler.ir.node import Node, Value
    from qcompiler.ir.plan import Plan, PlannedRegion
    from qcompiler.target import Target

NO_FLOAT = "no-float"
"""The feature of devices on which nothing may be left in floats."""
_NO_KERNEL = "no_kernel"
"""The descriptor's kernel of operators that the HTP has in no type."""

_INSTEAD = {
    "Mish": "HardSwish, Swish or Gelu",
    "Selu": "Elu",
    "Celu": "Elu",
    "Erf": "Gelu, of which exporters write Erf as a part",
    "ReduceL2": "LpNormalization",
    "TopK": "ArgMax, or the host behind the model",
    "GroupNormalization": "InstanceNormalization or LayerNormalization",
    "LSTM": "convolutions over time",
    "GRU": "convolutions over time",
    "GatherND": "Gather",
    "ScatterND": "Concat or Where",
}
"""Operators with integers that do what others without are mostly used for."""


def check(graph: Graph, plan: Plan, target: Target) -> None:
    """Holds a planned graph to what the HTP would refuse, or would compute otherwise than planned.

    Args:
        graph: The graph that the plan speaks of.
        plan: The plan.
        target: The target.

    Raises:
        TargetError: With all that is wrong, one line each.
    """
    _check_kernels(graph, plan)
    if NO_FLOAT in target.chosen.features:
        _check_floats(graph, plan, target)
    _check_float_weights(graph, plan)
    _check_size(graph, target)


def soc_of(target: Target) -> int:
    """The number by which QNN knows the chosen part, from the features `soc-N`.

    Raises:
        TargetError: The device has none.
    """
    for feature in target.chosen.features:
        if feature.startswith("soc-"):
            return int(feature.removeprefix("soc-"))
    raise TargetError(
        f"{target.label} has no SoC number: its features need one as soc-N, for the library takes parts that it is not told for a v68."
    )


def _check_kernels(graph: Graph, plan: Plan) -> None:
    lines = [_line(node, region) for node, region in _nodes(graph, plan) if region.kernel == _NO_KERNEL]
    if lines:
        raise TargetError(f"The HTP has no kernel for {_counted(lines)}, in no type:{''.join(lines)}")


def _check_floats(graph: Graph, plan: Plan, target: Target) -> None:
    lines = [
        _line(node, region)
        for node, region in _nodes(graph, plan)
        if not region.quantized and _computes_floats(node)
    ]
    if lines:
        able = [name for name, device in target.device.items() if NO_FLOAT not in device.features]
        raise TargetError(
            f"{target.label} can leave nothing in floats, and {_counted(lines)} would be:{''.join(lines)}\n"
            f"Replace them, cut them off, or compile for a part that computes floats: {', '.join(able)}."
        )


def _check_float_weights(graph: Graph, plan: Plan) -> None:
    lines = [
        _line(node, region)
        for node, region in _nodes(graph, plan)
        if not region.quantized and _has_float_weights(node)
    ]
    if lines:
        raise TargetError(
            f"{_counted(lines)} with constant weights would stay in floats, which onnxruntime quantizes between integer operators "
            f"all the same, to int8 of one scale:{''.join(lines)}"
        )


def _check_size(graph: Graph, target: Target) -> None:
    """Holds codes of constants to what one session of the HTP can address; weights are counted as int8."""
    limit = target.chosen.flash
    size = sum(value.data.size for value in graph.constants if value.data is not None)
    if limit is not None and size > limit:
        raise TargetError(
            f"The model has {size:,} parameters, some {size >> 20:,} MB in 8 bits, and one session of {target.label} can address "
            f"{limit >> 20:,} MB: cut the model into several."
        )


def _nodes(graph: Graph, plan: Plan) -> Iterator[tuple[Node, PlannedRegion]]:
    regions = plan.region_of()
    for node in graph.topological():
        if node.name in regions:
            yield node, regions[node.name]


def _computes_floats(node: Node) -> bool:
    values: tuple[Value | None, ...] = (*node.inputs, *node.outputs)
    return any(value is not None and value.dtype is not None and value.dtype.kind == "f" for value in values)


def _has_float_weights(node: Node) -> bool:
    weight = node.input(1)
    return ops.info(node).kind == "weighted" and weight is not None and weight.is_constant


def _line(node: Node, region: PlannedRegion) -> str:
    reason = region.reason.removeprefix("float: ")
    instead = f"; in integers there is {_INSTEAD[node.op]}" if node.op in _INSTEAD else ""
    return f"\n  {node.name} ({node.op}): {reason}{instead}"


def _counted(lines: list[str]) -> str:
    return "1 operator" if len(lines) == 1 else f"{len(lines)} operators"
