"""The section about memory: what lies where in the arena, and when."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from qcompiler.report.elements import Content, Html, element, table, together

_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 640, 260, 64, 22


def memory_section(report: Mapping[str, Any]) -> Html | None:
    """The arena as a picture of addresses over time, its size beside what bounds it, and where the model fits."""
    details = (report.get("artifact") or {}).get("details") or {}
    arena = details.get("arena")
    if not arena:
        return None
    lead = (
        "What is computed shares one block of memory. Every block below is a tensor: from left to right while it is alive, operation by "
        "operation, and at its addresses from bottom to top. Blocks that cross are computed in each other's place. Point at one for its name."
    )
    parts: list[Content] = [
        element("p", lead, class_="lead"),
        element("p", _size_text(arena)),
        element("div", _picture(arena), class_="wide"),
    ]
    if details.get("parts"):
        parts += [element("h3", "Where it fits"), _parts(details["parts"])]
    return together(*parts)


def _size_text(arena: Mapping[str, Any]) -> str:
    size, bound, whole, calls = (arena[key] for key in ("bytes", "lower_bound", "unsliced", "extra_calls"))
    text = (
        f"The arena takes {size:,} bytes; no placement takes fewer than {bound:,}."
        if size > bound
        else (f"The arena takes {size:,} bytes, and no placement takes fewer.")
    )
    if calls:
        text += f" Convolutions computed in slices of rows save {whole - size:,} bytes and take {calls} more calls of kernels."
    return f"{text} Most is alive during {arena['peak']}."


def _picture(arena: Mapping[str, Any]) -> Html:
    buffers: Sequence[Mapping[str, Any]] = arena["buffers"]
    steps = 1 + max(buffer["last"] for buffer in buffers)
    across, up = _WIDTH / steps, _HEIGHT / max(arena["bytes"], 1)
    rectangles = []
    for buffer in buffers:
        title = f"{buffer['name']}: {buffer['bytes']:,} bytes at {buffer['offset']:,}, operations {buffer['first'] + 1} to {buffer['last'] + 1}"
        place = {
            "x": f"{_LEFT + across * buffer['first']:.2f}",
            "y": f"{_HEIGHT - up * (buffer['offset'] + buffer['bytes']):.2f}",
            "width": f"{across * (buffer['last'] - buffer['first'] + 1):.2f}",
            "height": f"{max(up * buffer['bytes'], 0.5):.2f}",
        }
        kind = "scratch" if buffer["name"].endswith("(scratch)") else "buffer"
        rectangles.append(element("rect", element("title", title), **place, class_=kind))
    labels = [
        element("text", f"{arena['bytes']:,}", x=str(_LEFT - 6), y="10", text_anchor="end"),
        element("text", "0", x=str(_LEFT - 6), y=str(_HEIGHT), text_anchor="end"),
        element("text", "1", x=str(_LEFT), y=str(_HEIGHT + 16)),
        element("text", f"operation {steps}", x=str(_LEFT + _WIDTH), y=str(_HEIGHT + 16), text_anchor="end"),
    ]
    return element(
        "svg", rectangles, labels, class_="chart arena", width=str(_LEFT + _WIDTH + 2), height=str(_HEIGHT + _BOTTOM), role="img",
        aria_label="Addresses of tensors over time",
    )  # fmt: skip


def _parts(parts: Mapping[str, Mapping[str, int]]) -> Html:
    cells = [
        (
            name,
            *(
                "fits" if not missing[what] else f"{missing[what]:,} bytes missing"
                for what in ("memory", "flash")
            ),
        )
        for name, missing in parts.items()
    ]
    return table(("Part", "Memory", "Flash"), cells)
