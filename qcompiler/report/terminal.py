"""Reports for the terminal: rich renderables, readable at 80 columns and without colour.

What users named is always wrapped in `Text`: rich would take brackets in it for markup.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table

from qcompiler.report import choice, words
from qcompiler.report.catalog import (
    model_summary,
    pass_page,
    passes_table,
    target_page,
    targets_table,
)
from qcompiler.report.explain import explanation, known_names
from qcompiler.report.rich_running import running_section
from qcompiler.report.rich_tables import STYLES, Text, column, fields, grid, table

if TYPE_CHECKING:
    from qcompiler.ir.plan import Plan, PlannedGroup

__all__ = [
    "DemoRow",
    "demo_table",
    "explanation",
    "known_names",
    "model_summary",
    "nodes_table",
    "pass_page",
    "passes_table",
    "plan_diff",
    "summary",
    "target_page",
    "targets_table",
]


def summary(report: words.Report) -> RenderableType:
    """The verdict, the facts behind it, what was searched, what stays float and why, and the next step."""
    verdict, model = words.verdict(report), report["model"]
    head = Text(verdict.text, style=f"bold {STYLES[verdict.level]}".strip())
    if verdict.detail:
        head.add(f": {verdict.detail}")
    rows: list[tuple[str, RenderableType]] = [
        (
            "Model",
            Text(
                f"{model['name']}: {words.count_text(model['nodes'], 'node')}, "
                f"{words.count_text(model['parameters'], 'parameter')}"
            ),
        ),
        ("Target", Text(f"{words.label(report)} ({report['target']['title']})")),
    ]
    if report["target"].get("note"):
        rows.append(("", Text(f"Note: {report['target']['note']}", style=STYLES["caution"])))
    rows += [(fact.label, _fact(fact)) for fact in words.facts(report)]
    if report.get("assignment") is not None:
        binding = "" if report["assignment"]["unmet"] else f"; {choice.binding_text(report)}"
        rows.append(("Assignment", Text(f"{choice.goal_text(report)}{binding}")))
    took = f"{words.seconds_text(report['seconds'])}, {words.size_text(report['peak_rss_bytes'])} of memory"
    rows.append(("Took", Text(took)))
    parts: list[RenderableType] = [Panel(head, expand=False), Padding(fields(rows), (0, 1))]
    if words.unmet(report):
        parts += ["", _list("Not met", words.unmet(report), len(words.unmet(report)))]
    problems = (report.get("verify") or {}).get("problems") or []
    if problems:
        parts += ["", _list("Problems", problems[:10], len(problems))]
    parts += _searched(report)
    reasons = words.float_reasons(report)
    if reasons:
        parts += ["", Text("Stays float", style="bold"), _reasons(reasons)]
    parts += running_section(words.partition(report))
    if report.get("notes"):
        parts += ["", _list("Notes", report["notes"][:10], len(report["notes"]))]
    step = (report.get("artifact") or {}).get("next_step")
    if step:
        parts += ["", Text("Next step", style="bold"), Padding(Text(step, overflow="fold"), (0, 2))]
    return Group(*parts)


def _fact(fact: words.Fact) -> Text:
    text = Text(fact.text, style=STYLES[fact.level])
    if fact.detail:
        text.add(f"  {fact.detail}", style="dim")
    return text


def _list(title: str, lines: list[str], total: int) -> RenderableType:
    rows: list[RenderableType] = [Text(line) for line in lines]
    if total > len(lines):
        rows.append(Text(f"and {total - len(lines):,} more, in report.html", style="dim"))
    body = grid()
    for row in rows:
        body.add_row(Text("-"), row)
    return Group(Text(title, style="bold"), Padding(body, (0, 2)))


def _reasons(reasons: list[tuple[str, list[str]]]) -> RenderableType:
    body = grid()
    for reason, regions in reasons[:8]:
        text = Text(reason.removeprefix("float: "))
        text.add(f" ({words.limited(regions, 3)})", style="dim")
        body.add_row(Text(f"{len(regions):,} ×"), text)
    if len(reasons) > 8:
        body.add_row(Text(""), Text(f"and {len(reasons) - 8} more reasons, in report.html", style="dim"))
    return Padding(body, (0, 2))


_MOST_TRIALS = 12


def _searched(report: words.Report) -> list[RenderableType]:
    """The steps of the search for a drop, and the front, where there are any."""
    parts: list[RenderableType] = []
    steps, front = choice.steps(report), report.get("pareto") or []
    if steps:
        names = [f"loss ≤ {trial['loss_limit']:.3g}" for trial in steps]
        parts += ["", Text("Search", style="bold"), _trials(report, "limit", names, steps)]
    if report.get("widths"):
        parts += ["", Text("Beside one width for all values", style="bold"), _widths(report)]
    if front:
        names = [point["plan"] for point in front]
        parts += ["", Text("Front", style="bold"), _trials(report, "plan", names, front)]
    return parts


def _widths(report: words.Report) -> RenderableType:
    body = table("width")
    for title in ("size", "drop", "SQNR"):
        column(body, title, right=True)
    for entry in report["widths"]:
        texts = choice.outcome_texts(report, entry)
        body.add_row(f"{entry['bits']} bits", *(texts[key] for key in ("size", "drop", "sqnr")))
    return Padding(body, (0, 2))


def _trials(
    report: words.Report, head: str, names: list[str], trials: list[Mapping[str, Any]]
) -> RenderableType:
    timed = any(trial["latency_ms"] for trial in trials)
    body = table("", head)
    for title in ("size", "bits", "drop", "SQNR", *(["latency"] if timed else [])):
        column(body, title, right=True)
    for name, trial in list(zip(names, trials, strict=True))[:_MOST_TRIALS]:
        chosen = choice.is_chosen(report, trial)
        cells = [
            name,
            *(text for key, text in choice.trial_texts(report, trial).items() if key != "latency" or timed),
        ]
        style = "bold" if chosen else ""
        body.add_row(Text("▸" if chosen else ""), *(Text(cell, style=style) for cell in cells))
    more = len(trials) - _MOST_TRIALS
    told = Text(f"and {more:,} more, in report.html", style="dim") if more > 0 else None
    return Padding(Group(body, told) if told is not None else body, (0, 2))


def nodes_table(report: words.Report) -> RenderableType:
    """Every node: what it runs as, and how its operands and its result are stored.

    Nodes that run fused with the one above are marked; where another node lies between, the region is named.
    """
    body = table("node", "op", "runs as", "stored as")
    leader = ""
    for node in report["nodes"]:
        first = node["name"] == node["region"]
        leader = node["name"] if first else leader
        mark = "" if first else "└─" if node["region"] == leader else f"└─{node['region']}: "
        body.add_row(
            Text(f"{mark}{node['name']}", overflow="fold"),
            Text(node["op"], overflow="fold"),
            _runs_as(node) if first else Text("fused", style="dim"),
            _stored_as(node),
        )
    return body


def _runs_as(node: Mapping[str, Any]) -> Text:
    if node["quantized"]:
        return Text(f"{node['kernel']}: {node['row']}", overflow="fold")
    return Text("float", style="dim")


def _stored_as(node: Mapping[str, Any]) -> Text:
    outside = [item for item, inside in zip(node["inputs"], node["inputs_inside"], strict=True) if not inside]
    read = [", ".join(dict.fromkeys(words.encoding_text(item) for item in outside))]
    read += [words.encoding_text(node["weight"])] if node["weight"] else []
    text = " · ".join(filter(None, read))
    if not node["output_inside"]:
        text += f" → {words.encoding_text(node['output'])}"
    text = text.replace(" per-channel", "/channel").replace(" per-block", "/block")
    return Text(text, style="" if node["quantized"] else "dim")


# -- two plans ---------------------------------------------------------------------------------------------


def plan_diff(plan_a: Plan, plan_b: Plan) -> RenderableType:
    """What two plans decide differently: the target, rows of regions, encodings of values and of single uses."""
    heads = [
        (what, before, after)
        for what, before, after in (
            ("target", plan_a.target, plan_b.target),
            ("device", plan_a.device, plan_b.device),
            ("floats", plan_a.float_format, plan_b.float_format),
        )
        if before != after
    ]
    rows = _changes(_decisions(plan_a), _decisions(plan_b))
    encodings = _changes(_stored(plan_a), _stored(plan_b))
    parts: list[RenderableType] = []
    for title, entries in (("Target", heads), ("Rows", rows), ("Encodings", encodings)):
        if entries:
            parts.append(_change_table(title, entries))
    if not parts:
        return Text("The plans decide the same.")
    counts = (
        f"{words.count_text(len(rows), 'node')} and {words.count_text(len(encodings), 'encoding')} differ."
    )
    return Group(*parts, Text(counts))


def _decisions(plan: Plan) -> dict[str, str]:
    return {
        node: f"{region.kernel}: {region.row}" if region.quantized else "float"
        for region in plan.regions
        for node in region.nodes
    }


def _stored(plan: Plan) -> dict[str, str]:
    """Encodings by value; where a use reads another one than the value has, by value and use."""
    found = {value: _group_text(group) for group in plan.groups for value in group.stored}
    for group in plan.groups:
        for use in group.uses:
            if use.value not in group.stored:
                found[f"{use.value} (read by {use.node}, input {use.slot})"] = _group_text(group)
    return found


def _group_text(group: PlannedGroup) -> str:
    return f"{group.encoding}{', offset in the bias' if group.offset == 'bias' else ''}"


def _changes(before: Mapping[str, str], after: Mapping[str, str]) -> list[tuple[str, str, str]]:
    names = dict.fromkeys([*before, *after])
    pairs = ((name, before.get(name, "–"), after.get(name, "–")) for name in names)
    return [entry for entry in pairs if entry[1] != entry[2]]


def _change_table(title: str, entries: list[tuple[str, str, str]]) -> Table:
    body = table(title.lower(), "before", "after")
    for name, before, after in entries:
        body.add_row(Text(name, overflow="fold"), Text(before), Text(after, style="bold"))
    return body


# -- the demo ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DemoRow:
    """One compilation of a demo.

    Attributes:
        report: Its report.
        where: The folder that was written, or what else there is to say.
    """

    report: words.Report
    where: str


def demo_table(rows: Iterable[DemoRow]) -> RenderableType:
    """Compilations side by side: target, precisions, size, metric, and where the result lies."""
    body = Table(box=None, header_style="bold", pad_edge=False)
    for name, right in (
        ("target", False),
        ("precision", False),
        ("size", True),
        ("metric", True),
        ("written to", False),
    ):
        column(body, name, right=right)
    for row in rows:
        facts = {fact.label: fact for fact in words.facts(row.report)}
        formats = [entry["format"] for entry in row.report.get("weights", ())]
        body.add_row(
            Text(words.label(row.report)),
            Text(", ".join(formats) or "–"),
            Text(facts["Size"].text),
            Text(facts["Accuracy"].text),
            Text(row.where, overflow="fold"),
        )
    return body
