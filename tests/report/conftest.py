"""Reports to render: of the demo, and of compilations in which things are missing or went wrong."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

import qcompiler as qc
from qcompiler import demo
from qcompiler.artifact import plain

NASTY = "<script>alert('http')</script> [bold]x[/bold] \x1b[31m \x9b1m \u202e ${body} &amp;"


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a compilation with everything."""
    folder = tmp_path_factory.mktemp("report") / "out"
    qc.compile(
        str(demo.MODEL), "tensorrt", str(demo.CALIBRATION), evaluation=str(demo.EVALUATION), output=folder
    )
    return folder


@pytest.fixture(scope="session")
def full_report(compiled: Path) -> dict[str, Any]:
    """report.json as it was written."""
    table: dict[str, Any] = json.loads((compiled / "report.json").read_text(encoding="utf-8"))
    return table


@pytest.fixture
def report(full_report: dict[str, Any]) -> dict[str, Any]:
    """A copy that may be changed."""
    return copy.deepcopy(full_report)


@pytest.fixture(scope="session")
def bare_report() -> dict[str, Any]:
    """Nothing written, nothing verified, nothing to measure on but the calibration data; as report.json would have it."""
    table: dict[str, Any] = plain(qc.compile(str(demo.MODEL), "tensorrt", str(demo.CALIBRATION)).report)
    return table


@pytest.fixture
def nasty_report(report: dict[str, Any]) -> dict[str, Any]:
    """A report in which every name and text is hostile."""

    def poison(item: Any, key: str = "") -> Any:
        if isinstance(item, dict):
            return {name: poison(entry, name) for name, entry in item.items()}
        if isinstance(item, list):
            return [poison(entry, key) for entry in item]
        kept = (
            "format",
            "kind",
            "unit",
            "inputs",
            "weight",
            "output",
            "encoding",
            "data",
            "relation",
            "offset",
        )
        return f"{item}{NASTY}" if isinstance(item, str) and key not in kept else item

    poisoned: dict[str, Any] = poison(report)
    poisoned["notes"] = [NASTY]
    poisoned["verify"]["problems"] = [NASTY]
    poisoned["verify"]["details"] = {NASTY: [NASTY, {NASTY: NASTY}]}
    poisoned["passes"][0]["diagnostics"] = [{"level": "warning", "node": NASTY, "message": NASTY}]
    return poisoned
