"""report.html: the report as one page that needs nothing but a browser."""

from __future__ import annotations

import importlib.resources
import string
from collections import Counter
from collections.abc import Mapping
from typing import Any

from qcompiler.report import words
from qcompiler.report.elements import Content, Html, definitions, element, head, listing, table, together
from qcompiler.report.html_choice import search_section, sensitivity_section
from qcompiler.report.html_memory import memory_section
from qcompiler.report.html_nodes import format_class, format_mark, node_table, strip
from qcompiler.report.html_running import running_section
from qcompiler.report.plots import Part, bar

_SIGNS = {"good": "✓", "caution": "!", "bad": "✕", "plain": ""}


def render_html(report: Mapping[str, Any]) -> str:
    """The content of report.json as a page.

    The page is one file without references to others; all of it can be read without scripts, which sort and filter the
    table of nodes. The same report gives the same text.
    """
    sections = [
        ("precision", "Precision", _precision(report)),
        ("sensitivity", "What precision costs", sensitivity_section(report)),
        ("search", "Search", search_section(report)),
        ("nodes", "Nodes", _nodes(report)),
        ("running", "Where it runs", running_section(report)),
        ("memory", "Memory", memory_section(report)),
        ("accuracy", "Accuracy", _accuracy(report)),
        ("verification", "Verification", _verification(report)),
        ("passes", "Passes", _passes(report)),
        ("notes", "Notes", _notes(report)),
        ("about", "About this compilation", _about(report)),
    ]
    present = [entry for entry in sections if entry[2] is not None]
    links = [element("a", title, href=f"#{key}") for key, title, _ in present]
    body = together(
        _header(report),
        element("nav", links, aria_label="Sections"),
        [element("section", element("h2", title), content, id=key) for key, title, content in present],
    )
    title = together(f"{report['model']['name']} for {words.label(report)}: qcompiler report")
    template = importlib.resources.files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    return string.Template(template).substitute(title=title, body=body)


# -- the top -----------------------------------------------------------------------------------------------


def _header(report: Mapping[str, Any]) -> Html:
    verdict = words.verdict(report)
    detail = element("span", f": {verdict.detail}") if verdict.detail else None
    tiles = [
        element(
            "div",
            element("dt", fact.label),
            element("dd", fact.text, class_=f"text {fact.level}"),
            element("dd", fact.detail, class_="detail") if fact.detail else None,
        )
        for fact in words.facts(report)
    ]
    note = report["target"].get("note")
    step = (report.get("artifact") or {}).get("next_step")
    problems = (report.get("verify") or {}).get("problems") or []
    return element(
        "header",
        element("h1", report["model"]["name"], element("span", " for ", class_="to"), words.label(report)),
        element("div", report["target"]["title"], class_="soft"),
        element("div", f"{_SIGNS[verdict.level]} {verdict.text}", detail, class_=f"verdict {verdict.level}"),
        [element("p", text) for text in words.unmet(report)],
        element("p", element("b", "About this device: "), note) if note else None,
        [element("h3", "What is not as planned"), listing(problems)] if problems else None,
        element("dl", tiles, class_="facts"),
        [element("h3", "Next step"), element("pre", step)] if step else None,
    )


# -- sections ----------------------------------------------------------------------------------------------


def _precision(report: Mapping[str, Any]) -> Html:
    lead = (
        "Every node from the inputs (left) to the outputs, coloured by the format that it computes on; "
        "nodes with weights are tall. Each leads to its row below."
    )
    parts: list[Content] = [element("p", lead, class_="lead"), strip(report["nodes"])]
    if report.get("weights"):
        parts += [element("h3", "Weights by format"), _weights(report["weights"])]
    reasons = words.float_reasons(report)
    if reasons:
        numbers = {node["name"]: at for at, node in enumerate(report["nodes"])}
        cells = [
            (f"{len(regions):,}", reason.removeprefix("float: "), _links(regions, numbers))
            for reason, regions in reasons
        ]
        parts += [
            element("h3", "What stays float, and why"),
            table(("Regions", "Reason", "Which"), cells, classes=("n", "", "name")),
        ]
    return together(*parts)


def _links(names: list[str], numbers: Mapping[str, int]) -> Html:
    pieces: list[str | Html] = []
    for name in names[:12]:
        pieces += [
            ", " if pieces else "",
            element("a", name, href=f"#n{numbers[name]}") if name in numbers else name,
        ]
    return together(pieces, f" and {len(names) - 12:,} more" if len(names) > 12 else None)


def _weights(weights: list[Mapping[str, Any]]) -> Html:
    """Two bars: the parameters by format, and the bytes of them, as long as the weights in float32 were."""
    count = sum(row["parameters"] for row in weights)
    total = sum(row["bytes"] for row in weights)
    shares = [100 * row["parameters"] / (count or 1) for row in weights]
    parameters = bar(
        [
            Part(f"{row['format']}: {row['parameters']:,} parameters, {share:.3g} %", row["parameters"], format_class(row["format"]))
            for row, share in zip(weights, shares, strict=True)
        ],
        count,
        "Parameters by format",
    )  # fmt: skip
    taken = bar(
        [
            Part(
                f"{row['format']}: {words.size_text(row['bytes'])}", row["bytes"], format_class(row["format"])
            )
            for row in weights
        ],
        4 * count,
        "Bytes of weights by format",
    )
    cells = [
        (
            format_mark(row["format"]),
            f"{row['bits']}",
            f"{row['tensors']:,}",
            f"{row['parameters']:,}",
            f"{share:.1f} %",
            words.size_text(row["bytes"]),
        )
        for row, share in zip(weights, shares, strict=True)
    ]
    saved = f"{words.size_text(total)} of the {words.size_text(4 * count)} that the weights take in float32, without scales."
    names = ("Format", "Bits", "Tensors", "Parameters", "Share", "Size")
    return together(
        element("p", f"Of {words.count_text(count, 'parameter')}:", class_="soft"),
        parameters,
        element("p", saved, class_="soft"),
        taken,
        table(names, cells, classes=("", "n", "n", "n", "n", "n")),
    )


def _nodes(report: Mapping[str, Any]) -> Html:
    options = [
        element("option", text, value=value)
        for value, text in (
            ("", "all nodes"),
            ("weighted", "with weights"),
            ("quantized", "quantized"),
            ("float", "float"),
        )
    ]
    tools = element(
        "div",
        element("input", id="filter", type="search", placeholder="Filter: name, op, row, format, reason", aria_label="Filter nodes"),
        element("select", options, id="kind", aria_label="Kind of nodes"),
        element("span", id="shown", class_="soft"),
        id="tools",
        class_="tools",
        hidden=True,
    )  # fmt: skip
    lead = (
        "What each node runs as, and how its operands and its result are stored. Nothing is shown for edges inside a region "
        "of fused nodes: they are never quantized. Open a reason for the rows that were not taken and for the encodings."
    )
    body = element("div", node_table(report["nodes"]), class_="scroll")
    return together(element("p", lead, class_="lead"), tools, body)


def _accuracy(report: Mapping[str, Any]) -> Html | None:
    metric = report.get("metric")
    if metric is None:
        return None
    better = "higher" if metric.get("higher_is_better", True) else "lower"
    lead = f"{words.count_text(metric['samples'], 'sample')} of the {metric['data']} data; {better} is better for {metric['name']}."
    if metric["data"] == "calibration":
        lead += " Ranges were chosen on these very samples: measure on others before relying on this."
    against = metric.get("against_float", {})
    titles = {"float": "source model", "reference": "reference.onnx", "artifact": "artifact"}
    cells = []
    for key, title in titles.items():
        if key != "float" and key not in against:
            continue
        other = against.get(key, {})
        db = other.get("sqnr_db")
        cells.append(
            (
                title,
                words.metric_text(metric[key], metric["unit"]),
                "–" if key == "float" else words.metric_text(db, "dB"),
                words.number_text(other.get("max_abs_diff")),
                words.number_text(other.get("mean_abs_diff")),
            )
        )
    names = ("Model", metric["name"], "SQNR", "Largest difference", "Mean difference")
    return together(element("p", lead, class_="lead"), table(names, cells, classes=("", "n", "n", "n", "n")))


def _verification(report: Mapping[str, Any]) -> Html:
    verify = report.get("verify")
    if verify is None:
        fact = next(fact for fact in words.facts(report) if fact.label == "Verification")
        return element("p", f"Not verified: {fact.detail}.", class_="caution")
    same = verify.get("artifact_equals_reference")
    entries: list[tuple[str, Content]] = [
        ("Consumer", f"{verify['consumer']} {verify['version']}".strip()),
        ("Ran", "yes" if verify["ran"] else "no: only rules were checked"),
        ("Verdict", element("span", "passed" if verify["passed"] else "not as planned", class_="good" if verify["passed"] else "bad")),
        ("Summary", verify["summary"]),
        ("Numerics", None if same is None else "the artifact computes what reference.onnx computes" if same else "the artifact differs from reference.onnx"),
        ("Largest difference", None if verify["max_abs_diff"] is None else words.number_text(verify["max_abs_diff"])),
        ("Mean difference", None if verify["mean_abs_diff"] is None else words.number_text(verify["mean_abs_diff"])),
    ]  # fmt: skip
    details = [(str(key).replace("_", " "), _value(given)) for key, given in verify["details"].items()]
    return together(
        definitions(entries),
        [element("h3", "Problems"), listing(verify["problems"])] if verify["problems"] else None,
        [element("h3", "What it said"), definitions(details)] if details else None,
    )


def _value(given: Any) -> Content:
    """Anything that a verification may tell: long lists and tables are folded."""
    if given is None or given in ("", [], {}):
        return None
    if isinstance(given, Mapping):
        cells = [(element("span", str(key), class_="name"), _value(item)) for key, item in given.items()]
        return _folded(words.count_text(len(cells), "entry", "entries"), table(("Name", "Value"), cells))
    if isinstance(given, list | tuple):
        items = [element("span", _value(item), class_="name") for item in given]
        return together(items) if len(items) == 1 else _folded(f"{len(items):,}", listing(items))
    if isinstance(given, bool):
        return "yes" if given else "no"
    return words.number_text(given) if isinstance(given, float) else str(given)


def _folded(summary: str, content: Html) -> Html:
    return element("details", element("summary", summary), content)


def _passes(report: Mapping[str, Any]) -> Html:
    longest = max((entry["seconds"] for entry in report["passes"]), default=0.0) or 1.0
    numbers = {node["name"]: at for at, node in enumerate(report["nodes"])}
    lines: list[Html] = []
    probed = any(entry["error"] is not None for entry in report["passes"])
    for at, entry in enumerate(report["passes"], 1):
        name, brace, options = entry["name"].partition("{")
        before, after = entry["nodes"]
        bar = element("span", class_="time", style=f"width:{4 * entry['seconds'] / longest:.2f}rem")
        cells = [
            element("td", str(at), class_="n soft"),
            element("td", name, element("span", brace + options, class_="soft") if brace else None, class_="name"),
            element("td", words.seconds_text(entry["seconds"]), class_="n"),
            element("td", bar),
            element("td", _counts(entry["counts"]), _diagnostics(entry["diagnostics"], numbers)),
            element("td", f"{before:,}" if before == after else f"{before:,} → {after:,}", class_="n"),
            element("td", words.number_text(entry["error"]), class_="n") if probed else None,
        ]  # fmt: skip
        lines.append(element("tr", *cells))
    names = ["#", "Pass", "Time", "", "Changes", "Nodes", *(["Probe error"] if probed else [])]
    classes = ("n", "", "n", "timed", "", "n", "n")
    hint = (
        None
        if probed
        else "Compile with --verify-each to hold every pass to its declared effect on probe inputs."
    )
    body = element("table", head(*names, classes=classes), element("tbody", lines))
    return together(element("div", body, class_="wide"), element("p", hint, class_="soft") if hint else None)


def _counts(counts: Mapping[str, int]) -> Content:
    if not counts:
        return element("span", "none", class_="soft")
    return ", ".join(f"{number:,} {kind}" for kind, number in counts.items())


def _diagnostics(items: list[Mapping[str, Any]], numbers: Mapping[str, int]) -> Html | None:
    if not items:
        return None
    levels = Counter(item["level"] for item in items)
    summary = ", ".join(f"{count:,} × {level}" for level, count in levels.items())
    told = []
    for item in items:
        node = item["node"]
        where = (
            element("a", node, href=f"#n{numbers[node]}", class_="name")
            if node in numbers
            else element("span", node, class_="name")
        )
        told.append(together(where if node else None, ": " if node else None, item["message"]))
    return _folded(summary, listing(told))


def _notes(report: Mapping[str, Any]) -> Html | None:
    return listing(report["notes"]) if report.get("notes") else None


def _about(report: Mapping[str, Any]) -> Html:
    model, artifact = report["model"], report.get("artifact") or {}
    return definitions(
        [
            ("Model", f"{model['name']}: {words.count_text(model['nodes'], 'node')}, {words.count_text(model['parameters'], 'parameter')}"),
            ("SHA-256 of the model", element("span", model["sha256"], class_="name") if model["sha256"] else None),
            ("Target", f"{words.label(report)}, {report['target']['title']}"),
            ("Artifact", artifact.get("main")),
            ("Size", f"{report['size_bytes']['float']:,} bytes before, {report['size_bytes']['compiled']:,} bytes compiled"),
            ("Compiled by", f"qcompiler {report['qcompiler']}"),
            ("Took", f"{words.seconds_text(report['seconds'])}, {words.size_text(report['peak_rss_bytes'])} of memory at most"),
            ("More", "report.json has all of this for programs, plan.json every decision, manifest.json the hashes of inputs and files"),
        ]
    )  # fmt: skip
