"""Fixtures of the tests that run commands: a folder to work in, and the demo compiled."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from cli_runs import FAST_TARGET, Outcome, Run, run_cli

from qcompiler import demo


@pytest.fixture
def run() -> Run:
    return run_cli


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that is the current one, but for `fast.toml`."""
    (tmp_path / "fast.toml").write_text(FAST_TARGET)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def compile_demo(folder: Path) -> Callable[..., Outcome]:
    """Compiles the demo for the fast target, with more words as given."""

    def compiled(*words: object) -> Outcome:
        data = ["-c", demo.CALIBRATION] if "-c" not in words else []
        return run_cli("compile", demo.MODEL, "-t", "fast.toml", *data, *words)

    return compiled


@pytest.fixture(scope="session")
def compiled_demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo compiled once for the fast target, to be looked at."""
    base = tmp_path_factory.mktemp("compiled")
    (base / "fast.toml").write_text(FAST_TARGET)
    done = run_cli(
        "compile", demo.MODEL, "-t", base / "fast.toml", "-c", demo.CALIBRATION, "-e", demo.EVALUATION, "-o", base / "out"
    )  # fmt: skip
    assert done.code == 0, done.err
    return base / "out"
