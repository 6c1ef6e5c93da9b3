"""The plan: the one record of every precision decision, with the reasons.

It is written by precision assignment (or raised from a QDQ model, or read from a file and edited by hand) and consumed
verbatim by everything after. It names nodes and values, not positions, so it applies again to a re-exported model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from qcompiler.errors import PlanError, TargetError
from qcompiler.ir.encoding import Encoding
from qcompiler.ir.facts import Fact
from qcompiler.ir.graph import Graph

VERSION = 1


@dataclass(frozen=True)
class UsePoint:
    """A quant point at a use: an input slot of a node."""

    node: str
    slot: int
    value: str


@dataclass(frozen=True, eq=False)
class PlannedGroup:
    """Quant points that share one encoding.

    Attributes:
        name: Unique in the plan; the first value's name, numbered where that is taken.
        encoding: What its members are stored in.
        stored: Values whose definition is a member: they exist only in this encoding.
        uses: Uses that read this encoding. A use of a value that is not `stored` is a conversion.
        relation: Why they share: "free", "same", "derived" or "fixed".
        reason: One sentence.
        offset: Where an affine encoding keeps its offset: "code" or "bias", see `qcompiler.target.EncodingSpec`.
    """

    name: str
    encoding: Encoding
    stored: tuple[str, ...]
    uses: tuple[UsePoint, ...]
    relation: str = "free"
    reason: str = ""
    offset: str = "code"


@dataclass(frozen=True)
class Refusal:
    """A row (or kernel) that was considered and not taken."""

    row: str
    reason: str


@dataclass(frozen=True)
class PlannedRegion:
    """One region of the tiling and the kernel row that it runs as.

    Attributes:
        name: The name of its first node.
        nodes: All its nodes.
        kernel: The kernel's name; empty when no kernel of the target covers the node.
        row: The row's name; empty without a kernel.
        quantized: Whether the row computes on quantized operands.
        reason: Why this row, one sentence.
        refused: The rows not taken, each with its reason.
    """

    name: str
    nodes: tuple[str, ...]
    kernel: str
    row: str
    quantized: bool
    reason: str
    refused: tuple[Refusal, ...] = ()


@dataclass(frozen=True)
class Plan:
    """Every decision of one compilation.

    Attributes:
        target: The target's name.
        device: The device's name, or empty.
        float_format: What values outside all groups are stored as.
        regions: The tiling, in graph order.
        groups: The encodings, in graph order.
        notes: Decisions that concern no single region, e.g. scales of an imported model that had to change.
    """

    target: str
    device: str
    float_format: str
    regions: tuple[PlannedRegion, ...]
    groups: tuple[PlannedGroup, ...]
    notes: tuple[str, ...] = field(default=())

    def region_of(self) -> dict[str, PlannedRegion]:
        """Node name to its region."""
        return {node: region for region in self.regions for node in region.nodes}

    def group_of_use(self) -> dict[tuple[str, int], PlannedGroup]:
        """(node name, slot) to the group that the use reads."""
        return {(use.node, use.slot): group for group in self.groups for use in group.uses}

    def group_of_value(self) -> dict[str, PlannedGroup]:
        """Value name to the group in which its definition is stored."""
        return {value: group for group in self.groups for value in group.stored}

    def to_json(self) -> str:
        """The plan as text: stable, diffable, exact."""
        table: dict[str, Any] = {
            "plan": VERSION,
            "target": self.target,
            "device": self.device,
            "float_format": self.float_format,
            "notes": list(self.notes),
            "regions": [asdict(region) for region in self.regions],
            "groups": [
                {
                    "name": group.name,
                    "relation": group.relation,
                    "reason": group.reason,
                    "offset": group.offset,
                    "encoding": group.encoding.to_json(),
                    "stored": list(group.stored),
                    "uses": [[use.node, use.slot, use.value] for use in group.uses],
                }
                for group in self.groups
            ],
        }
        return _compact(table)

    @classmethod
    def from_json(cls, text: str, source: str = "the plan") -> Plan:
        """Reads what `to_json` wrote, or what a person made of it.

        Raises:
            PlanError: The text is no plan; the message says where.
        """
        try:
            table = json.loads(text)
        except json.JSONDecodeError as error:
            raise PlanError(f"{source} is not valid JSON: {error}.") from error
        if not isinstance(table, dict) or table.get("plan") != VERSION:
            raise PlanError(
                f"{source} is no plan of version {VERSION} (its key 'plan' says so); use the plan.json of a compilation."
            )
        try:
            return cls(
                target=table["target"],
                device=table["device"],
                float_format=table["float_format"],
                regions=tuple(_region(entry) for entry in table["regions"]),
                groups=tuple(_group(entry, source) for entry in table["groups"]),
                notes=tuple(table.get("notes", ())),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise PlanError(
                f"{source} lacks or misspells an entry: {type(error).__name__} {error}."
            ) from error


def _region(entry: Mapping[str, Any]) -> PlannedRegion:
    refused = tuple(Refusal(item["row"], item["reason"]) for item in entry.get("refused", ()))
    return PlannedRegion(**{**entry, "nodes": tuple(entry["nodes"]), "refused": refused})


def _group(entry: Mapping[str, Any], source: str) -> PlannedGroup:
    try:
        encoding = Encoding.from_json(entry["encoding"])
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise PlanError(
            f"{source}, group {entry.get('name')!r}: the encoding is not valid ({error})."
        ) from error
    uses = tuple(UsePoint(node, slot, value) for node, slot, value in entry["uses"])
    return PlannedGroup(
        name=entry["name"],
        encoding=encoding,
        stored=tuple(entry["stored"]),
        uses=uses,
        relation=entry["relation"],
        reason=entry["reason"],
        offset=entry.get("offset", "code"),
    )


def _compact(item: Any, indent: str = "") -> str:
    """JSON with lists of plain numbers and strings on one line: a plan is read by people."""
    deeper = indent + " "
    if isinstance(item, dict) and item:
        lines = [f"{_scalar(key)}: {_compact(value, deeper)}" for key, value in item.items()]
    elif isinstance(item, list | tuple) and any(isinstance(entry, dict | list | tuple) for entry in item):
        lines = [_compact(entry, deeper) for entry in item]
    else:
        return _scalar(item)
    opening, closing = "{}" if isinstance(item, dict) else "[]"
    return f"{opening}\n{deeper}" + f",\n{deeper}".join(lines) + f"\n{indent}{closing}"


def _scalar(item: Any) -> str:
    return json.dumps(item, ensure_ascii=False)


PLAN = Fact[Plan]("plan", "every region has a kernel row and every group an encoding")
PLANNED = Fact[Graph](
    "planned", "the graph that the plan speaks of, as it was before Q/DQ was written into it"
)


def planned_graph(graph: Graph) -> Graph:
    """The graph that the plan of a reference graph speaks of, without Q/DQ.

    Args:
        graph: The reference graph.

    Raises:
        TargetError: The pipeline has not written the plan into the graph.
    """
    planned = graph.facts.get(PLANNED)
    if planned is None:
        raise TargetError(
            "The pipeline has to end with insert_qdq: before that there is no finished plan to write an artifact from."
        )
    return planned
