"""The section about where operators run: on an accelerator or on the host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from qcompiler.report import words
from qcompiler.report.elements import Content, Html, definitions, element, head, together
from qcompiler.report.plots import Part, bar
from qcompiler.report.running import Operator, evidence_text, place_text

_CLASSES = {True: "on", False: "off"}
_MOST_NODES = 8


def running_section(report: Mapping[str, Any]) -> Html | None:
    """All operators in their order as a strip and as a table, and what becomes of the parameters."""
    partition = words.partition(report)
    if partition is None:
        return None
    level = "" if partition["whole"] else "caution" if partition["mapped"] else "bad"
    lead = (
        "Which operators of the artifact an accelerator runs, and which the CPU, as predicted from what is known of the target's "
        "compiler. Every operator in the order of the file; each leads to its row below."
    )
    operators = partition["operators"]
    parts: list[Content] = [
        element("p", lead, class_="lead"),
        element("p", partition["summary"], class_=level or None),
        _strip(operators),
    ]
    if partition["mapped"]:
        parts += [element("h3", "Parameters"), _parameters(partition["parameters"])]
    return together(*parts, element("h3", "Operators"), _table(operators, _numbers(report)))


def _strip(operators: Sequence[Operator]) -> Html:
    bars = []
    for at, operator in enumerate(operators):
        title = element("title", f"{operator['op']}: {place_text(operator)}")
        shape = element(
            "rect", title, x=str(at), y="0", width="0.86", height="10", class_=_CLASSES[operator["mapped"]]
        )
        bars.append(element("a", shape, href=f"#o{at}"))
    legend = []
    for mapped in (True, False):
        some = [operator for operator in operators if operator["mapped"] == mapped]
        count = element("span", f" {words.count_text(len(some), 'operator')}", class_="soft")
        legend += [element("span", _mark(some[0]), count)] if some else []
    picture = element(
        "svg", bars, class_="strip", viewBox=f"0 0 {max(len(operators), 1)} 10", preserveAspectRatio="none", role="img",
        aria_label="Where the operators run, in the order of the file",
    )  # fmt: skip
    return together(picture, element("div", legend, class_="legend"))


def _mark(operator: Operator) -> Html:
    return element("span", place_text(operator), class_=f"fmt {_CLASSES[operator['mapped']]}")


def _parameters(parameters: Mapping[str, Any]) -> Html:
    """A bar of what stays on chip, what may and what does not, and the numbers."""
    size, (least, most) = parameters["bytes"], parameters["streamed"]
    amounts = {
        "stay on chip": (size - most, "on"),
        "may stay on chip": (most - least, "xx"),
        "go there at every inference": (least, "off"),
    }
    pieces = [
        Part(f"{words.size_text(amount)} {what}", amount, kind)
        for what, (amount, kind) in amounts.items()
        if amount
    ]
    streamed = words.interval_text(*map(words.size_text, (least, most)))
    return together(
        bar(pieces, size, "Parameters that stay on chip"),
        definitions(
            [
                ("Parameters", f"{size:,} bytes of constants that mapped operators calculate with"),
                ("At every inference", f"{streamed} of them" if most else "none of them"),
                ("Free on chip", words.interval_text(*map(words.size_text, parameters["available"]))),
            ]
        ),
    )


def _numbers(report: Mapping[str, Any]) -> dict[str, int]:
    """Names of nodes, and of the source model's nodes, to the row of the table of nodes."""
    found: dict[str, int] = {}
    for at, node in enumerate(report["nodes"]):
        for name in node["origin"]:
            found.setdefault(name, at)
    return found | {node["name"]: at for at, node in enumerate(report["nodes"])}


def _table(operators: Sequence[Operator], numbers: Mapping[str, int]) -> Html:
    lines = []
    for at, operator in enumerate(operators):
        cells = [
            element("td", f"{operator['index']:,}", class_="n"),
            element("td", operator["op"]),
            element("td", _nodes(operator, numbers), class_="name"),
            element("td", _mark(operator)),
            element("td", operator["status"], element("span", f": {operator['rule']}", class_="soft")),
            element("td", evidence_text(operator), class_="soft"),
        ]
        lines.append(element("tr", cells, id=f"o{at}"))
    names = ("#", "Operator", "Nodes", "Runs on", "Why", "Known from")
    body = element("table", head(*names, classes=("n",)), element("tbody", lines))
    return element("div", body, class_="wide")


def _nodes(operator: Operator, numbers: Mapping[str, int]) -> Html:
    """The nodes that an operator carries out; what it writes where none are known."""
    names = operator.get("nodes") or [operator["output"]]
    pieces: list[str | Html] = []
    for name in names[:_MOST_NODES]:
        link = element("a", name, href=f"#n{numbers[name]}") if name in numbers else name
        pieces += [", " if pieces else "", link]
    more = len(names) - _MOST_NODES
    return together(pieces, f" and {more:,} more" if more > 0 else None)
