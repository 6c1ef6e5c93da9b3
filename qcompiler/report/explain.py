"""Why a node is what it is, from the report alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding

from qcompiler.report import choice, running, words
from qcompiler.report.rich_running import where_it_runs
from qcompiler.report.rich_tables import Text, column, fields, grid, table

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
    weighed = choice.weighed(report, node["region"])
    if weighed is not None:
        rows += _weighed(report, weighed)
    rows.append(("Refused", _refused(node, weighed)))
    carried = running.operators_of(report, node)
    if carried is not None:
        rows.append(("Runs on", where_it_runs(carried)))
    rows.append(("Reads", _encodings(node["encodings"], "floats only")))
    rows.append(
        (
            "Writes",
            Text("inside the region")
            if node["output_inside"]
            else _encodings(node["stored"], _unstored(report, node)),
        )
    )
    losses = [item for item in choice.value_losses(report) if node["name"] in item.readers]
    if losses:
        rows.append(("Losses", _losses(report, losses)))
    said = list(_said(report, node))
    if said:
        rows.append(("Passes say", Text("\n".join(said))))
    return Group(title, Padding(fields(rows), (0, 2)))


def _decided_by(report: words.Report) -> str:
    names = [entry["name"] for entry in report["passes"]]
    decider = next((name for name in names if name.split("{")[0] == "assign_precision"), "")
    return f"{decider or 'the pipeline'}, recorded in plan.json"


def _weighed(report: words.Report, weighed: Mapping[str, Any]) -> list[tuple[str, RenderableType]]:
    """The choice that the region's row is part of, what decided here, and all rows with what each would have meant."""
    limits = list(choice.limit_texts(report).values())
    goal = Text(choice.goal_text(report))
    if report["assignment"]["unmet"]:
        goal.add(f"\n{report['assignment']['unmet']}")
    else:
        goal.add("".join(f"\nwithin {limit}" for limit in limits))
    return [
        ("Chosen for", goal),
        ("Decided", Text(choice.decided_text(report, weighed))),
        ("Rows", _rows(report, weighed)),
    ]


def _rows(report: words.Report, weighed: Mapping[str, Any]) -> RenderableType:
    considered = sorted(weighed["considered"], key=lambda item: float(item["own_loss"]))
    factor, unit = choice.time_unit(max(abs(item["latency"]) for item in considered))
    timed = any(item["latency"] for item in considered)
    body = table("", "row")
    for name in ("loss", "of all", "bytes", *([unit] if timed else [])):
        column(body, name, right=True, fixed=True)
    column(body, "breaks")
    for item in considered:
        chosen = item["row"] == weighed["row"]
        cells = ["", "", ""] if chosen else [f"{item['loss']:+.2e}", f"{item['size'] / 8:+,.0f}", f"{item['latency'] * factor:+,.1f}"]  # fmt: skip
        body.add_row(
            Text("▸" if chosen else ""),
            Text(item["row"], style="bold" if chosen else ""),
            Text(f"{item['own_loss']:.2e}"),
            *(Text(cell) for cell in cells[: 3 if timed else 2]),
            Text("chosen" if chosen else choice.and_text(list(item["breaks"]))),
        )
    note = "loss of what a row reads; then the change of the whole model, all predicted, if this region alone ran so"
    return Group(body, Text(note, style="dim"))


def _losses(report: words.Report, losses: list[choice.ValueLosses]) -> RenderableType:
    sensitivity = report["sensitivity"]
    parts: list[RenderableType] = []
    for item in losses:
        body = table("", "encoding")
        for name in ("loss", "± standard error"):
            column(body, name, right=True, fixed=True)
        column(body, "")
        for tried in item.tried:
            body.add_row(
                Text("▸" if tried.chosen else ""),
                Text(tried.encoding, style="bold" if tried.chosen else ""),
                Text("not finite" if tried.loss is None else f"{tried.loss:.2e}"),
                Text(f"{tried.error:.1e}" if tried.error else "0"),
                Text("measured" if tried.measured else "inferred from the others"),
            )
        parts += [Text(item.value), Padding(body, (0, 0, 0, 2))]
    samples = words.count_text(sensitivity["samples"], "calibration sample")
    note = f"{choice.measure_text(sensitivity['measure'])}, if only this value is stored so; {samples}"
    return Group(*parts, Text(note, style="dim"))


def _refused(node: Node, weighed: Mapping[str, Any] | None) -> RenderableType:
    legal = {item["row"] for item in weighed["considered"]} if weighed is not None else set()
    refused = [item for item in node["refused"] if item["row"] not in legal]
    if not refused:
        return Text(
            "nothing: there was no other row" if not node["refused"] else "nothing: all rows are legal"
        )
    body = grid()
    for item in refused:
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
