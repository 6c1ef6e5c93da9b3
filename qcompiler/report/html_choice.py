"""Sections of the page on how precision was chosen: what it costs, layer by layer, and what was tried."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qcompiler.report import choice, words
from qcompiler.report.elements import Content, Html, definitions, element, table, together
from qcompiler.report.html_nodes import format_class, format_mark
from qcompiler.report.plots import Line, Mark, Point, log_lines, scatter


def sensitivity_section(report: words.Report) -> Html | None:
    """What was made small within which limits, and what each format of each value loses."""
    assignment, values = report.get("assignment"), choice.value_losses(report)
    if assignment is None and not values:
        return None
    parts: list[Content] = []
    if assignment is not None:
        limits = list(choice.limit_texts(report).values())
        entries: list[tuple[str, Content]] = [
            ("Chosen for", choice.goal_text(report)),
            ("Not met", assignment["unmet"]),
            ("Within", element("span", ", ".join(limits)) if limits else None),
            ("Limits", None if assignment["unmet"] else choice.binding_text(report)),
            ("Predicted", choice.reached_text(report)),
        ]
        parts.append(definitions(entries))
    if values:
        parts += _losses(report, values)
    return together(*parts)


def _losses(report: words.Report, values: list[choice.ValueLosses]) -> list[Content]:
    sensitivity = report["sensitivity"]
    samples = words.count_text(sensitivity["samples"], "calibration sample")
    lead = (
        f"What storing one value alone in a format costs: {choice.measure_text(sensitivity['measure'])}, on {samples}. "
        "A mark per format, filled where it was chosen, faint where it was not run but follows from the value's other formats; "
        "bars are standard errors. Values are in graph order; further left is better."
    )
    numbers = {node["name"]: at for at, node in enumerate(report["nodes"])}
    charts = []
    for title, constant in (("Weights", True), ("Activations", False)):
        lines = [_line(item, numbers) for item in values if item.constant is constant]
        if lines:
            chart = log_lines(lines, "loss at the outputs", f"Loss of {title.lower()} by format")
            charts.append(element("div", element("h3", title), _legend(values, constant), chart))
    return [element("p", lead, class_="lead"), element("div", charts, class_="charts")]


def _legend(values: list[choice.ValueLosses], constant: bool) -> Html:
    formats = dict.fromkeys(
        tried.encoding.split()[0] for item in values if item.constant is constant for tried in item.tried
    )
    return element("div", [element("span", format_mark(name)) for name in formats], class_="legend")


def _line(item: choice.ValueLosses, numbers: Mapping[str, int]) -> Line:
    told = []
    for tried in item.tried:
        loss = "not finite" if tried.loss is None else f"{tried.loss:.3g}"
        error = f" ± {tried.error:.2g}" if tried.error else ""
        notes = ["chosen"] if tried.chosen else []
        notes += [] if tried.measured else ["inferred"]
        told.append(f"{tried.encoding}: {loss}{error}" + (f" ({', '.join(notes)})" if notes else ""))
    reader = next((name for name in item.readers if name in numbers), None)
    marks = [
        Mark(format_class(tried.encoding.split()[0]), tried.loss, tried.error, tried.chosen, not tried.measured)
        for tried in item.tried
    ]  # fmt: skip
    return Line(
        reader if item.constant and reader is not None else item.value,
        "\n".join([item.value, *told]),
        f"#n{numbers[reader]}" if reader is not None else None,
        marks,
    )


# -- search ------------------------------------------------------------------------------------------------


def search_section(report: words.Report) -> Html | None:
    """What was compiled and measured: as dots of size against accuracy, and as a table."""
    trials = report.get("search") or []
    if not trials:
        return None
    lead = (
        "Assignments that were compiled and measured. Filled dots are on the front: no other is at least as small, as fast and as "
        "accurate. The steps join those that no other beats in what is shown; the ring is what this folder holds."
    )
    charts = [chart for chart in (_drops(report, trials), _noise(report, trials)) if chart is not None]
    front = report.get("pareto") or []
    hint = (
        together("Each point's plan is a file of this folder: ", element("code", f"--plan {front[0]['plan']}"), " compiles it.")
        if front
        else None
    )  # fmt: skip
    return together(
        element("p", lead, class_="lead"),
        element("div", charts, class_="charts") if charts else None,
        _trials(report, trials),
        element("p", hint, class_="soft") if hint else None,
        _widths(report),
    )


def _widths(report: words.Report) -> Html | None:
    """What one width for all values would have come to, where the plan mixes some."""
    if not report.get("widths"):
        return None
    cells = []
    for entry in report["widths"]:
        texts = choice.outcome_texts(report, entry)
        cells.append((f"{entry['bits']} bits", texts["size"], texts["drop"], texts["sqnr"]))
    lead = "The plan stores values in several widths. All of them in one, as far as rows allow, come to:"
    return together(element("p", lead, class_="lead"), table(("width", "size", "drop", "SQNR"), cells))


def _drops(report: words.Report, trials: list[Mapping[str, Any]]) -> Html | None:
    metric = report.get("metric") or {}
    unit = metric.get("unit", "")
    factor = 100.0 if unit == "fraction" else 1.0
    points = [
        Point(
            trial["size_bytes"] / 1024, trial["drop"] * factor, _title(report, trial), *_place(report, trial),
            error=(metric.get("drop_error") or 0.0) * factor if choice.is_chosen(report, trial) else 0.0,
        )
        for trial in trials
        if choice.finite(trial["drop"]) is not None
    ]  # fmt: skip
    allowed = report["budget"]["asked"].get("max_drop")
    limits = [("y", allowed * factor, "--max-drop")] if allowed is not None else []
    name = f"drop of {metric.get('name', 'the metric')}, {'points' if unit == 'fraction' else unit}".rstrip(
        ", "
    )
    return _chart(report, points, name, limits, up=False)


def _noise(report: words.Report, trials: list[Mapping[str, Any]]) -> Html | None:
    points = [
        Point(trial["size_bytes"] / 1024, trial["sqnr_db"], _title(report, trial), *_place(report, trial))
        for trial in trials
        if choice.finite(trial["sqnr_db"]) is not None
    ]
    return _chart(report, points, "output SQNR, dB", [], up=True)


def _chart(
    report: words.Report, points: list[Point], name: str, limits: list[tuple[str, float, str]], *, up: bool
) -> Html | None:
    if len({(point.x, point.y) for point in points}) < 2:
        return None
    most = report["budget"]["asked"].get("max_size")
    limits = [*limits, *([("x", most / 1024, "--max-size")] if most is not None else [])]
    better = "upper left" if up else "lower left"
    title = element(
        "h3", name[0].upper() + name[1:], element("span", f" ({better} is better)", class_="soft")
    )
    return element("div", title, scatter(points, "weights and tables, KiB", name, up=up, limits=limits))


def _place(report: words.Report, trial: Mapping[str, Any]) -> tuple[str, bool, bool]:
    """What stands beside a trial's dot, whether it is on the front, and whether it is what was compiled."""
    plan = choice.plan_of(report, trial)
    return (
        plan.rpartition("/")[2].removesuffix(".json"),
        bool(plan),
        choice.is_chosen(report, trial),
    )


def _title(report: words.Report, trial: Mapping[str, Any]) -> str:
    texts = choice.trial_texts(report, trial)
    lines = [
        choice.plan_of(report, trial) or "not on the front",
        f"{texts['size']}, {texts['bits']} bits per weight",
        f"drop {texts['drop']}, SQNR {texts['sqnr']}",
        f"predicted loss {words.number_text(trial['predicted_loss'])}",
    ]
    lines += [texts["latency"]] if trial["latency_ms"] else []
    return "\n".join([*lines, "compiled here"] if choice.is_chosen(report, trial) else lines)


def _trials(report: words.Report, trials: list[Mapping[str, Any]]) -> Html:
    metric = report.get("metric") or {}
    unit, allowed = metric.get("unit", ""), report["budget"]["asked"].get("max_drop")
    timed = any(trial["latency_ms"] for trial in trials)
    cells = []
    for at, trial in enumerate(trials, 1):
        drop = choice.finite(trial["drop"])
        level = None if allowed is None or drop is None else "good" if drop <= allowed + 1e-12 else "bad"
        limit, texts = trial["loss_limit"], choice.trial_texts(report, trial)
        plan = choice.plan_of(report, trial)
        cells.append(
            (
                str(at),
                words.number_text(limit) if limit is not None else element("span", "none", class_="soft"),
                words.number_text(trial["predicted_loss"]),
                words.number_text(trial["measured_error"]),
                texts["sqnr"],
                words.metric_text(trial["metric"], unit),
                element("span", texts["drop"], class_=level),
                texts["bits"],
                texts["size"],
                *([texts["latency"]] if timed else []),
                together(
                    element("code", plan) if plan else None,
                    element("b", " compiled here") if choice.is_chosen(report, trial) else None,
                ),
            )
        )
    names = (
        "#", "Limit on loss", "Predicted loss", "Output error", "SQNR", metric.get("name", "Metric"), "Drop", "Bits per weight",
        "Size", *(["Latency"] if timed else []), "Plan",
    )  # fmt: skip
    return table(names, cells, classes=("n",) * (len(names) - 1))
