"""What report.json says of single nodes and of weights. See docs/report.md."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from qcompiler import ops
from qcompiler.costs import number_bits
from qcompiler.ir.encoding import FORMATS
from qcompiler.ir.functions import LOOKUP

if TYPE_CHECKING:
    from qcompiler.decision import Decision, Weighed
    from qcompiler.ir.graph import Graph
    from qcompiler.ir.node import Node, Value
    from qcompiler.ir.plan import Plan, PlannedGroup

_STORAGE = {"float8_e4m3fn": "float8e4m3", "float4_e2m1fn": "float4e2m1"}
"""Formats whose arrays go by another name."""
_DECODERS = ("DequantizeLinear", "Cast", LOOKUP)


def node_rows(graph: Graph, plan: Plan, decision: Decision | None = None) -> list[dict[str, Any]]:
    """The entries of `nodes`, in graph order: what the plan covers; Q/DQ and the like are not among them.

    Args:
        graph: The compiled graph.
        plan: Its plan.
        decision: How the plan's rows were chosen, where a budget did.
    """
    view = _PlanView(plan, decision)
    return [view.row(node) for node in graph.topological() if node.name in view.regions]


def weight_rows(graph: Graph, plan: Plan) -> list[dict[str, Any]]:
    """The entries of `weights`: weights by the format that they are stored in, most parameters first."""
    uses = plan.group_of_use()
    totals: dict[str, dict[str, int]] = {}
    for node, value in _weights(graph):
        assert value.data is not None
        group = uses.get((node.name, 1))
        name = group.encoding.format.name if group is not None else _storage(value)
        bits = FORMATS[name].bits if name in FORMATS else value.data.dtype.itemsize * 8
        total = totals.setdefault(name, {"bits": bits, "tensors": 0, "parameters": 0, "bytes": 0})
        total["tensors"] += 1
        total["parameters"] += value.data.size
        total["bytes"] += (value.data.size * bits + 7) // 8
    rows: list[dict[str, Any]] = [{"format": name, **total} for name, total in totals.items()]
    return sorted(rows, key=lambda row: (-row["parameters"], row["format"]))


def bits_per_weight(graph: Graph, plan: Plan, scale_bytes: int | None) -> float:
    """The average over the parameters of weighted nodes, by what counts as their own, see `qcompiler.costs.own_bits`.

    Args:
        graph: The compiled graph.
        plan: Its plan.
        scale_bytes: As the target states it.
    """
    rows, uses = weight_rows(graph, plan), plan.group_of_use()
    bits = sum(row["parameters"] * row["bits"] for row in rows)
    for node, _ in _weights(graph):
        group = uses.get((node.name, 1))
        if group is not None and group.encoding.group is not None and group.encoding.table is not None:
            bits += group.encoding.table.size * number_bits(scale_bytes)
    return float(bits / max(sum(row["parameters"] for row in rows), 1))


def constant_bytes(graph: Graph, plan: Plan | None = None) -> int:
    """Bytes of all constants as they are stored: elements of four bits take half a byte, and codes what the plan says."""
    widths: dict[str, int] = {}
    uses = plan.group_of_use() if plan is not None else {}
    for (name, slot), group in uses.items():
        value = _encoded(graph.node(name).input(slot)) if graph.has_node(name) else None
        if value is not None and value.data is not None:
            widths[value.name] = group.encoding.format.bits
    total = 0
    for value in graph.constants:
        assert value.data is not None
        name = _storage(value)
        narrow = name in FORMATS and FORMATS[name].bits < 8
        bits = widths.get(value.name, FORMATS[name].bits if narrow else value.data.dtype.itemsize * 8)
        total += (value.data.size * bits + 7) // 8
    return total


def _storage(value: Value) -> str:
    assert value.data is not None
    name = value.data.dtype.name
    return _STORAGE.get(name, name)


def _encoded(value: Value | None) -> Value | None:
    """What lies behind DequantizeLinear and Cast: codes, or the value itself."""
    while value is not None and value.producer is not None and value.producer.op in _DECODERS:
        value = value.producer.input(0)
    return value


def _is_constant(value: Value | None) -> bool:
    found = _encoded(value)
    return found is not None and found.data is not None


def _weights(graph: Graph) -> Iterator[tuple[Node, Value]]:
    """Every weight of a weighted node, once, with the first node that reads it: the floats, or the codes behind a DQ."""
    seen: set[str] = set()
    for node in graph.topological():
        value = _encoded(node.input(1)) if ops.info(node).kind == "weighted" else None
        if value is not None and value.data is not None and value.name not in seen:
            seen.add(value.name)
            yield node, value


def _sensitivity(weighed: Weighed) -> dict[str, Any]:
    """What a region's row loses, and what each other row would have changed; units that people read."""
    chosen = next(item for item in weighed.considered if item.row == weighed.row)
    return {
        "loss": _short(chosen.own_loss),
        "alternatives": [
            {
                "row": item.row,
                "loss": _short(item.own_loss),
                "change": {
                    "loss": _short(item.loss),
                    "size_bytes": _short(item.size / 8),
                    "latency_ms": _short(item.latency * 1e3),
                },
                "breaks": list(item.breaks),
            }
            for item in weighed.considered
            if item is not chosen
        ],
    }


def _short(number: float) -> float:
    return float(f"{number:.6g}")


class _PlanView:
    """The plan by node, use and value."""

    def __init__(self, plan: Plan, decision: Decision | None) -> None:
        self.regions = plan.region_of()
        self.uses, self.stored = plan.group_of_use(), plan.group_of_value()
        self.float_format = plan.float_format
        self.sensitivities = (
            {name: _sensitivity(weighed) for name, weighed in decision.regions.items()} if decision else {}
        )
        self.value_of_use = {(use.node, use.slot): use.value for group in plan.groups for use in group.uses}

    def row(self, node: Node) -> dict[str, Any]:
        region, info = self.regions[node.name], ops.info(node)
        read = {slot: self.uses.get((node.name, slot)) for slot in range(len(node.inputs))}
        outputs = [value.name for value in node.outputs if value is not None]
        stored = next((self.stored[name] for name in outputs if name in self.stored), None)
        weight = next((group for slot, group in read.items() if group and info.role(slot) == "weight"), None)
        return {
            "name": node.name,
            "origin": list(node.origin),
            "op": f"{node.domain}.{node.op}" if node.domain else node.op,
            "kind": info.kind,
            "region": region.name,
            "kernel": region.kernel,
            "row": region.row,
            "quantized": region.quantized,
            "inputs": [self._text(group) for slot, group in read.items() if info.role(slot) == "data"],
            "weight": str(weight.encoding) if weight is not None else None,
            "inputs_inside": [
                self._inside(node, node.input(slot)) for slot in read if info.role(slot) == "data"
            ],
            "output": self._text(stored),
            "output_inside": all(
                value is None
                or (not value.is_output and all(self._inside(user, value) for user in value.consumers))
                for value in node.outputs
            ),
            "outputs": outputs,
            "sensitivity": self.sensitivities.get(region.name),
            "reason": region.reason,
            "refused": [{"row": item.row, "reason": item.reason} for item in region.refused],
            "encodings": [
                {
                    "slot": slot,
                    **self._encoding(self.value_of_use[node.name, slot], group),
                    "constant": _is_constant(node.input(slot)),
                }
                for slot, group in read.items()
                if group is not None
            ],
            "stored": [self._encoding(name, self.stored[name]) for name in outputs if name in self.stored],
        }

    def _inside(self, node: Node, value: Value | None) -> bool:
        """Whether a node reads a value from its own region; nothing stands on such an edge."""
        producer = value.producer if value is not None else None
        region = self.regions.get(node.name)
        return producer is not None and region is not None and self.regions.get(producer.name) is region

    def _text(self, group: PlannedGroup | None) -> str:
        return str(group.encoding) if group is not None else self.float_format

    def _encoding(self, value: str, group: PlannedGroup) -> dict[str, Any]:
        low, high = group.encoding.real_range()
        return {
            "value": value,
            "encoding": str(group.encoding),
            "range": [float(f"{low:.6g}"), float(f"{high:.6g}")],
            "stored": value in group.stored,
            "relation": group.relation,
            "offset": group.offset,
            "reason": group.reason,
        }
