"""What a target tells of files of its own kind: the contract of the optional module `inspect.py` in a target's folder.

The module has `SUFFIXES: tuple[str, ...]`, the endings of these files (or folders that stand for one) in lower case, and `summary(path: Path) -> FileSummary`, which
raises a `ModelError` where a file cannot be read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Listing:
    """A table.

    Attributes:
        title: What is listed.
        heads: The columns.
        rows: Their cells; a cell may have several lines.
        numbers: Columns that hold numbers.
    """

    title: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numbers: frozenset[int] = frozenset()


@dataclass(frozen=True)
class FileSummary:
    """A file at a glance.

    Attributes:
        facts: Names and what they stand for; of several lines where there are several things.
        listings: Tables, the most important first.
        partition: Where operators run, as in a report's details; None where nothing is known of that.
    """

    facts: tuple[tuple[str, str], ...]
    listings: tuple[Listing, ...] = ()
    partition: Mapping[str, Any] | None = None
