"""Why a node is what it is, from the report alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding

from qcompiler.report import words
from qcompiler.report.rich_tables import Text, fields, grid

Node = Mapping[str, Any]


def known_names(report: words.Report) -> list[str]:
    """Everything that `explanation` knows: names of nodes, of the source model's nodes, and of values."""
    names: dict[str, None] = {}
    for node in report["nodes"]:
        names[node["name"]] = None
        names.update(dict.fromkeys(node["origin"]))
        names.update(dict.fromkeys(_values(node)))
    return list(names)


def find(report: words.Report, name: str) -> list[Node]:
    """The nodes that a name means: a node, else those that come from a source node, else those around a value.

    Raises:
        KeyError: Nothing has that name.
    """
    nodes: list[Node] = report["nodes"]
    found = [node for node in nodes if node["name"] == name]
    found = found or [node for node in nodes if name in node["origin"]]
    found = found or [node for node in nodes if name in _values(node)]
    if not found:
        raise KeyError(name)
    return found


def _values(node: Node) -> Iterator[str]:
    yield from node["outputs"]
    for entry in node["encodings"]:
        yield entry["value"]


def explanation(report: words.Report, node: str) -> RenderableType:
    """What a node runs as, why, and what forbade the rest.

    Args:
        report: The content of report.json.
        node: The name of a node, of a node of the source model, or of a value.

    Raises:
        KeyError: Nothing has that name; `known_names` lists what has one.
    """
    found = find(report, node)
    parts: list[RenderableType] = []
    if any(entry["name"] == node for entry in found):
        pass
    elif any(node in entry["origin"] for entry in found):
        parts += [Text(f"{node} of the source model became {words.count_text(len(found), 'node')}."), ""]
    else:
        parts += [Text(f"{node} is a value; around it: {words.count_text(len(found), 'node')}."), ""]
    for number, entry in enumerate(found):
        parts += ["", _explain(report, entry)] if number else [_explain(report, entry)]
    return Group(*parts)


def _explain(report: words.Report, node: Node) -> RenderableType:
    members = [entry["name"] for entry in report["nodes"] if entry["region"] == node["region"]]
    title = Text(node["name"], style="bold")
    title.add(f"  {node['op']}", style="not bold")
    runs = f"row {node['row']} of kernel {node['kernel']}" if node["quantized"] else "float"
    rows: list[tuple[str, RenderableType]] = [
        ("Runs as", Text(f"{runs} on {words.label(report)}")),
        ("Why", Text(node["reason"])),
        ("Decided by", Text(_decided_by(report))),
    ]
    if len(members) > 1:
        rows.append(("Region", Text(f"{words.limited(members, 8)}; edges inside are never quantized")))
    if node["origin"] != [node["name"]]:
        rows.append(("Comes from", Text(words.limited(node["origin"], 8))))
    rows.append(("Refused", _refused(node)))
    rows.append(("Reads", _encodings(node["encodings"], "floats only")))
    rows.append(
        (
            "Writes",
            Text("inside the region")
            if node["output_inside"]
            else _encodings(node["stored"], _unstored(report, node)),
        )
    )
    said = list(_said(report, node))
    if said:
        rows.append(("Passes say", Text("\n".join(said))))
    return Group(title, Padding(fields(rows), (0, 2)))


def _decided_by(report: words.Report) -> str:
    names = [entry["name"] for entry in report["passes"]]
    decider = next((name for name in names if name.split("{")[0] == "assign_precision"), "")
    return f"{decider or 'the pipeline'}, recorded in plan.json"


def _refused(node: Node) -> RenderableType:
    if not node["refused"]:
        return Text("nothing: there was no other row")
    body = grid()
    for item in node["refused"]:
        body.add_row(Text(item["row"]), Text(item["reason"]))
    return body


def _encodings(entries: list[Mapping[str, Any]], nothing: str) -> RenderableType:
    if not entries:
        return Text(nothing)
    parts: list[RenderableType] = []
    for entry in entries:
        low, high = entry["range"]
        notes = [f"{entry['reason']} (holds {low:.4g} to {high:.4g})", words.relation_text(entry)]
        parts.append(Text(f"input {entry['slot']}: {entry['value']}" if "slot" in entry else entry["value"]))
        parts.append(Padding(Text(f"{entry['encoding']}\n{'; '.join(filter(None, notes))}"), (0, 0, 0, 2)))
    return Group(*parts)


def _unstored(report: words.Report, node: Node) -> str:
    """What to say of an output that is stored in no encoding of its own."""
    readers = [
        (other["name"], entry)
        for other in report["nodes"]
        for entry in other["encodings"]
        if entry["value"] in node["outputs"]
    ]
    if readers:
        names = words.limited(
            [f"{name} ({words.encoding_text(entry['encoding'])})" for name, entry in readers], 4
        )
        return f"{node['output']}; converted by {names}"
    return str(node["output"])


def _said(report: words.Report, node: Node) -> Iterator[str]:
    names = {node["name"], *node["origin"]}
    for entry in report["passes"]:
        for item in entry["diagnostics"]:
            if item["node"] in names:
                yield f"{entry['name'].split('{')[0]}: {item['message']}"
