"""Golden text files: compared as they are, rewritten with QCOMPILER_UPDATE_GOLDEN=1."""

from __future__ import annotations

import os
from pathlib import Path

FOLDER = Path(__file__).parent / "golden"


def check(name: str, text: str) -> None:
    """Compares a text with tests/golden/NAME.txt."""
    path = FOLDER / f"{name}.txt"
    if os.environ.get("QCOMPILER_UPDATE_GOLDEN") == "1":
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return
    assert path.is_file(), (
        f"{path} is missing: run the test with QCOMPILER_UPDATE_GOLDEN=1 and look at what it writes"
    )
    expected = path.read_text(encoding="utf-8")
    assert text == expected, f"{path} differs: if the change is wanted, run with QCOMPILER_UPDATE_GOLDEN=1"
