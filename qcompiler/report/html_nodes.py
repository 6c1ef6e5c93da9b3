"""The page's table of nodes, and the strip that shows the whole graph at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from qcompiler.report import words
from qcompiler.report.elements import Content, Html, element, head, listing, table, together

Node = Mapping[str, Any]

_CLASSES = {
    "int8": "i8",
    "uint8": "i8",
    "int16": "i16",
    "uint16": "i16",
    "int32": "i16",
    "int6": "i6",
    "uint6": "i6",
    "int4": "i4",
    "uint4": "i4",
    "int3": "i3",
    "uint3": "i3",
    "int2": "i2",
    "uint2": "i2",
    "float8e4m3": "f8",
    "float4e2m1": "f4",
}


def format_class(name: str) -> str:
    """The class that gives a format its colour."""
    return "fl" if words.is_float(name) else _CLASSES.get(name, "xx")


def format_mark(encoding: str | None) -> Html:
    """What an encoding is in one or two words, with the format's colour."""
    if not encoding:
        return Html("")
    text = words.encoding_text(encoding)
    return element("span", text, class_=f"fmt {format_class(text.split()[0])}")


def strip(nodes: list[Node]) -> Html:
    """The graph from its inputs to its outputs, one bar per node: tall where there are weights, coloured by format."""
    formats = words.formats_of_regions(nodes)
    bars = []
    for at, node in enumerate(nodes):
        name = formats[node["region"]]
        tall = node["kind"] == "weighted"
        height, top = ("10", "0") if tall else ("5", "5")
        title = element("title", f"{node['name']}: {name}")
        bar = element("rect", title, x=str(at), y=top, width="0.86", height=height, class_=format_class(name))
        bars.append(element("a", bar, href=f"#n{at}"))
    counts = Counter(formats[node["region"]] for node in nodes)
    legend = [
        element(
            "span", format_mark(name), element("span", f" {words.count_text(count, 'node')}", class_="soft")
        )
        for name, count in counts.most_common()
    ]
    picture = element(
        "svg",
        bars,
        class_="strip",
        viewBox=f"0 0 {max(len(nodes), 1)} 10",
        preserveAspectRatio="none",
        role="img",
        aria_label="Formats of the nodes in graph order",
    )
    return together(picture, element("div", legend, class_="legend"))


def node_table(nodes: list[Node]) -> Html:
    """All nodes; each is a body of its own, so that it stays together when the table is sorted."""
    numbers = {node["name"]: at for at, node in enumerate(nodes)}
    members: dict[str, list[str]] = {}
    for node in nodes:
        members.setdefault(node["region"], []).append(node["name"])
    bodies = [_node(at, node, numbers, members[node["region"]]) for at, node in enumerate(nodes)]
    names = ("#", "Node", "Op", "Runs as", "Inputs", "Weight", "Output")
    return element("table", head(*names, classes=("n",)), bodies, id="node-table", class_="nodes sticky")


def _node(at: int, node: Node, numbers: Mapping[str, int], members: list[str]) -> Html:
    leads = node["name"] == node["region"]
    outside = [text for text, inside in zip(node["inputs"], node["inputs_inside"], strict=True) if not inside]
    inputs = [together(format_mark(text), " ") for text in dict.fromkeys(outside)]
    main = element(
        "tr",
        element("td", str(at + 1), class_="n"),
        element("td", node["name"], class_=None if leads else "fused"),
        element("td", node["op"]),
        element("td", _runs_as(node, numbers)),
        element("td", inputs),
        element("td", format_mark(node["weight"])),
        element("td", None if node["output_inside"] else format_mark(node["output"])),
        class_="main",
    )
    told = leads or node["encodings"] or node["stored"]
    classes = ["quantized" if node["quantized"] else "float"]
    classes += ["weighted"] if node["kind"] == "weighted" else []
    classes += [] if told else ["bare"]
    more = _more(node, members) if told else None
    return element("tbody", main, more, id=f"n{at}", class_=" ".join(classes))


def _runs_as(node: Node, numbers: Mapping[str, int]) -> Content:
    if node["name"] != node["region"]:
        leader = numbers.get(node["region"])
        link = element("a", node["region"], href=f"#n{leader}")
        return element("span", "fused with ", link if leader is not None else node["region"], class_="soft")
    if node["quantized"]:
        return together(element("span", node["kernel"], class_="soft"), f" {node['row']}")
    return element("span", "float", class_="soft")


def _more(node: Node, members: list[str]) -> Html:
    leads = node["name"] == node["region"]
    parts: list[Content] = []
    if leads and node["refused"]:
        refused = [together(element("code", item["row"]), f" {item['reason']}") for item in node["refused"]]
        parts += [element("h4", "Rows that were not taken"), listing(refused)]
    if node["encodings"] or node["stored"]:
        parts += [element("h4", "Encodings"), _encodings(node)]
    notes = []
    if len(members) > 1 and leads:
        notes.append(
            f"The region also has {words.limited(members[1:], 8)}; edges inside it are never quantized."
        )
    if node["origin"] != [node["name"]]:
        notes.append(f"It comes from {words.limited(node['origin'], 8)} of the source model.")
    parts += [element("p", " ".join(notes), class_="soft")] if notes else []
    summary = node["reason"] if leads else _stored(node)
    inside = element("div", *parts, class_="inside") if parts else None
    told = element("details", element("summary", summary), inside) if inside else summary
    return element("tr", element("td"), element("td", told, colspan="6"), class_="more")


def _stored(node: Node) -> str:
    """What a fused node adds to the reasons of its region: encodings that it reads or writes."""
    told = [f"{words.encoding_text(entry['encoding'])} in, {entry['reason']}" for entry in node["encodings"]]
    told += [f"{words.encoding_text(entry['encoding'])} out, {entry['reason']}" for entry in node["stored"]]
    return "; ".join(told)


def _encodings(node: Node) -> Html:
    cells = []
    for entry in (*node["encodings"], *node["stored"]):
        low, high = entry["range"]
        relation = words.relation_text(entry)
        cells.append(
            (
                f"reads {entry['slot']}" if "slot" in entry else "writes",
                element("code", entry["value"]),
                entry["encoding"],
                f"{low:.4g} to {high:.4g}",
                entry["reason"] + (f"; {relation}" if relation else ""),
            )
        )
    return table(("", "Value", "Encoding", "Holds", "Why"), cells)
