"""Where operators run, for the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding

from qcompiler.report import words
from qcompiler.report.rich_tables import STYLES, Text, column, grid, table
from qcompiler.report.running import Operator, evidence_text, obstacles, place_text

_MOST_OBSTACLES = 8


def running_section(partition: Mapping[str, Any] | None) -> list[RenderableType]:
    """What an accelerator is predicted to run, and why the rest runs on the host; nothing where no target says that."""
    if partition is None:
        return []
    level = "plain" if partition["whole"] else "caution" if partition["mapped"] else "bad"
    parts: list[RenderableType] = [
        "",
        Text("Where it runs, as predicted", style="bold"),
        Padding(Text(partition["summary"], style=STYLES[level]), (0, 2)),
    ]
    found = obstacles(partition)
    body = grid()
    for entry in found[:_MOST_OBSTACLES]:
        text = Text(f"{entry.status}: {entry.rule}")
        text.add(f" ({entry.which})", style="dim")
        body.add_row(Text(f"{len(entry.operators):,} × {entry.op} "), text)
    if len(found) > _MOST_OBSTACLES:
        more = sum(len(entry.operators) for entry in found[_MOST_OBSTACLES:])
        body.add_row(Text(""), Text(f"and {words.count_text(more, 'other operator')}", style="dim"))
    return [*parts, Padding(Group(Text("On the CPU:"), Padding(body, (0, 2))), (0, 2))] if found else parts


def operators_table(partition: Mapping[str, Any]) -> RenderableType:
    """Every operator: where it runs, for which nodes, and why."""
    body = table()
    column(body, "#", right=True)
    for name in ("operator", "runs on", "nodes", "why"):
        column(body, name)
    for operator in partition["operators"]:
        body.add_row(
            Text(f"{operator['index']:,}"),
            Text(operator["op"], overflow="fold"),
            _place(operator),
            Text(words.limited(operator.get("nodes") or [operator["output"]], 3), overflow="fold"),
            Text(f"{operator['status']}: {operator['rule']}"),
        )
    return body


def where_it_runs(operators: Iterable[Operator]) -> RenderableType:
    """Operators of a node: where each runs, why, and how that is known."""
    parts: list[RenderableType] = []
    for operator in operators:
        head = _place(operator)
        head.add(f": operator {operator['index']:,}, {operator['op']}, which writes {operator['output']}")
        said = f"{operator['status']}: {operator['rule']}\n{evidence_text(operator)}"
        parts += [head, Padding(Text(said), (0, 0, 0, 2))]
    return Group(*parts) if parts else Text("no operator: nothing in the file computes it")


def _place(operator: Operator) -> Text:
    text = Text("", overflow="fold")
    text.add(place_text(operator), style=STYLES["good" if operator["mapped"] else "caution"])
    return text
