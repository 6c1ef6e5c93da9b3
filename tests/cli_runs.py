"""Commands run in this process, and what they leave behind."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from typer.testing import CliRunner

from qcompiler.cli import app

FAST_TARGET = 'schema = 1\nname = "fast"\nextends = "tensorrt"\n'
"""All rules of a real target; no artifact and no verification, which take most of the time."""


@dataclass(frozen=True)
class Outcome:
    """What a command did."""

    code: int
    out: str
    err: str


Run = Callable[..., Outcome]


def run_cli(*words: object) -> Outcome:
    """Runs a command in this process."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Outcome(result.exit_code, result.stdout, result.stderr)


def contents(base: Path) -> dict[str, bytes]:
    """The bytes of every file below a folder, by path; folders count, too."""
    found: dict[str, bytes] = {}
    for place, folders, files in os.walk(base):
        for name in folders:
            found[f"{Path(place, name).relative_to(base)}/"] = b""
        for name in files:
            found[str(Path(place, name).relative_to(base))] = Path(place, name).read_bytes()
    return found
