"""A file of a target's own kind, for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.padding import Padding

from qcompiler.report.rich_running import running_section
from qcompiler.report.rich_tables import Text, column, fields, table

if TYPE_CHECKING:
    from qcompiler.file_summary import FileSummary, Listing

_MOST_ROWS = 40


def file_page(found: FileSummary, *, full: bool = False) -> RenderableType:
    """What a target tells of a file.

    Args:
        found: That.
        full: Whether long tables are shown to their end.
    """
    parts: list[RenderableType] = [fields((name, Text(text)) for name, text in found.facts)]
    parts += running_section(found.partition)
    for listing in found.listings:
        parts += ["", _table(listing, full=full)]
    return Group(*parts)


def _table(listing: Listing, *, full: bool) -> RenderableType:
    body = table()
    for at, name in enumerate(listing.heads):
        column(body, name, right=at in listing.numbers)
    shown = listing.rows if full else listing.rows[:_MOST_ROWS]
    for row in shown:
        body.add_row(*(Text(cell, overflow="fold") for cell in row))
    more = len(listing.rows) - len(shown)
    note = Text(f"and {more:,} more; --full shows them", style="dim")
    title = Text(f"{listing.title}: {len(listing.rows):,}", style="bold")
    return Group(title, Padding(Group(body, note) if more else body, (0, 2)))
