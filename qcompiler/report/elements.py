"""HTML made of Python calls: text is escaped unless it was made here."""

from __future__ import annotations

import html
from collections.abc import Iterable

from qcompiler.report.words import printable

_VOID = frozenset({"input", "br", "wbr"})


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


Content = str | Html | Iterable["str | Html"] | None
"""What an element may hold: text (escaped), HTML (as it is), several of them, or nothing."""


def element(name: str, *content: Content, **attributes: str | bool | None) -> Html:
    """An element.

    Args:
        name: The tag.
        *content: What it holds.
        **attributes: Values are escaped; True writes the bare name, None and False leave it out. A trailing underscore is
            dropped (`class_`), others become hyphens.
    """
    opening = [name]
    for key, given in attributes.items():
        if given is None or given is False:
            continue
        key = key.rstrip("_").replace("_", "-")
        opening.append(key if given is True else f'{key}="{html.escape(printable(str(given)))}"')
    start = f"<{' '.join(opening)}>"
    return Html(start if name in _VOID else f"{start}{together(*content)}</{name}>")


def together(*content: Content) -> Html:
    """Several pieces one after the other, without an element around them."""
    parts: list[str] = []
    for item in content:
        if item is None:
            continue
        pieces = [item] if isinstance(item, str) else item
        parts += [piece if isinstance(piece, Html) else html.escape(printable(piece)) for piece in pieces]
    return Html("".join(parts))


def rows(cells: Iterable[Iterable[Content]], *, classes: tuple[str, ...] = ()) -> list[Html]:
    """Table rows; `classes` are those of the columns, empty for none."""
    return [
        element(
            "tr",
            [
                element("td", item, class_=classes[at] if at < len(classes) and classes[at] else None)
                for at, item in enumerate(row)
            ],
        )
        for row in cells
    ]


def head(*names: str, classes: tuple[str, ...] = ()) -> Html:
    """A table's head."""
    cells = [
        element("th", name, scope="col", class_=classes[at] if at < len(classes) and classes[at] else None)
        for at, name in enumerate(names)
    ]
    return element("thead", element("tr", cells))


def table(names: Iterable[str], cells: Iterable[Iterable[Content]], *, classes: tuple[str, ...] = ()) -> Html:
    """A table in a box that scrolls sideways where it must."""
    body = element("tbody", rows(cells, classes=classes))
    return element("div", element("table", head(*names, classes=classes), body), class_="wide")


def listing(items: Iterable[Content]) -> Html:
    """A list with bullets."""
    return element("ul", [element("li", item) for item in items], class_="list")


def definitions(entries: Iterable[tuple[str, Content]]) -> Html:
    """Names and what they stand for; entries without content are left out."""
    pairs = [
        together(element("dt", name), element("dd", content))
        for name, content in entries
        if content not in (None, "")
    ]
    return element("dl", pairs, class_="about")
