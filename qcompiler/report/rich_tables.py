"""The few shapes that everything in the terminal has: text, tables, grids, lists of fields."""

from __future__ import annotations

from collections.abc import Iterable

import rich.text
from rich.console import OverflowMethod, RenderableType
from rich.table import Table

from qcompiler.report.words import printable

STYLES = {"good": "green", "caution": "yellow", "bad": "red", "plain": ""}
"""Level of a fact to style."""


class Text(rich.text.Text):
    """Text that is shown as it is: no markup, and nothing that a terminal would obey."""

    def __init__(self, text: str, style: str = "", *, overflow: OverflowMethod | None = None) -> None:
        super().__init__(printable(text), style, overflow=overflow)

    def add(self, text: str, style: str = "") -> None:
        """Appends text of another style."""
        self.append(printable(text), style)


def table(*names: str) -> Table:
    """A table with column heads and nothing around it."""
    body = Table(box=None, header_style="bold", pad_edge=False)
    for name in names:
        column(body, name)
    return body


def column(body: Table, name: str, *, right: bool = False, fixed: bool = False) -> None:
    """Adds a column; a fixed one is never wrapped."""
    body.add_column(name, justify="right" if right else "left", no_wrap=fixed, overflow="fold")


def grid() -> Table:
    """Two columns without heads; the first as wide as it must be."""
    body = Table.grid(padding=(0, 1))
    body.add_column(no_wrap=True)
    body.add_column(overflow="fold")
    return body


def fields(rows: Iterable[tuple[str, RenderableType]]) -> Table:
    """Labels and what they are the labels of."""
    body = grid()
    for label, content in rows:
        body.add_row(Text(f"{label} " if label else ""), content)
    return body
