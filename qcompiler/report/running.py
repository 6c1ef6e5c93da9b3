"""Where the operators of an artifact run, as a target says it under the key `partition` of its details; see docs/report.md."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qcompiler.report import words

Operator = Mapping[str, Any]

ACCELERATOR, HOST = "accelerator", "CPU"


@dataclass(frozen=True)
class Obstacle:
    """Why operators of one kind run on the host.

    Attributes:
        op: The kind.
        status: What the target's compiler says of them.
        rule: Why the first of them does.
        operators: All of them.
    """

    op: str
    status: str
    rule: str
    operators: tuple[Operator, ...]

    @property
    def which(self) -> str:
        """The nodes that they carry out, or their numbers where nodes are not known; the first of them."""
        nodes = [name for operator in self.operators for name in operator.get("nodes", ())]
        if nodes:
            return words.limited(list(dict.fromkeys(nodes)), 3)
        numbers = [f"{operator['index']:,}" for operator in self.operators]
        return f"operator{'' if len(numbers) == 1 else 's'} {words.limited(numbers)}"


def obstacles(partition: Mapping[str, Any]) -> list[Obstacle]:
    """What runs on the host, by kind and status, the most frequent first."""
    found: dict[tuple[str, str], list[Operator]] = {}
    for operator in partition["operators"]:
        if not operator["mapped"]:
            found.setdefault((operator["op"], operator["status"]), []).append(operator)
    entries = [Obstacle(op, status, items[0]["rule"], tuple(items)) for (op, status), items in found.items()]
    return sorted(entries, key=lambda entry: -len(entry.operators))


def place_text(operator: Operator) -> str:
    """Where an operator runs."""
    return ACCELERATOR if operator["mapped"] else HOST


def evidence_text(operator: Operator) -> str:
    """How that is known."""
    return f"{operator['evidence']}: {operator['source']}"


def operators_of(report: words.Report, node: Mapping[str, Any]) -> list[Operator] | None:
    """The operators that carry out a node; None where the target does not say where they run."""
    partition = words.partition(report)
    if partition is None:
        return None
    names = {node["name"], *node["origin"]}
    members = [entry for entry in report["nodes"] if entry["region"] == node["region"]]
    outputs = {name for entry in members for name in entry["outputs"]}

    def carries(operator: Operator) -> bool:
        if "nodes" in operator:
            return not names.isdisjoint(operator["nodes"])
        return operator.get("region") == node["region"] or operator["output"] in outputs

    return [operator for operator in partition["operators"] if carries(operator)]
