"""Where passes come from: this folder, entry points of installed packages, files, modules."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from qcompiler.errors import OptionError
from qcompiler.ir.graph import Graph
from qcompiler.pass_manager import Effect, PassContext
from qcompiler.passes import all_passes, find_pass, pass_names
from qcompiler.pipeline import Pipeline

SOURCE = '''
from dataclasses import dataclass
from qcompiler.pass_manager import Effect, Pass, PassResult

@dataclass(frozen=True)
class Stamp(Pass):
    """Stamps the graph."""
    name = "stamp"
    effect = Effect.EXACT
    text: str = "seen"

    def run(self, graph, context):
        graph.metadata["stamp"] = self.text
        result = PassResult()
        result.count("stamps")
        return result

class Nameless(Pass):
    pass

class NoPass:
    pass
'''


def stamped(pipeline: str) -> str:
    graph = Graph("g")
    graph.set_outputs([graph.add_input("x", None, ())])
    Pipeline.parse(pipeline, find_pass).run(graph, PassContext())
    return graph.metadata["stamp"]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "stamping.py"
    path.write_text(SOURCE)
    return path


def test_every_file_of_the_folder_is_a_pass_of_its_name() -> None:
    passes = all_passes()
    assert [entry.name for entry in passes] == list(pass_names())
    assert {"canonicalize", "fuse", "calibrate", "assign_precision", "insert_qdq"} <= set(pass_names())
    assert all(entry.summary() and isinstance(entry.effect, Effect) for entry in passes)


def test_a_file(source: Path) -> None:
    assert stamped(f"{source}:Stamp{{text=hello}}") == "hello"


def test_a_module_in_the_current_folder(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(source.parent)
    monkeypatch.setattr(sys, "path", [*sys.path])
    try:
        assert stamped("stamping:Stamp") == "seen"
    finally:
        sys.modules.pop("stamping", None)


def test_an_entry_point_of_an_installed_package(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metadata = source.parent / "stamping-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: stamping\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[qcompiler.passes]\nstamp = stamping:Stamp\n")
    monkeypatch.syspath_prepend(str(source.parent))
    pass_names.cache_clear()
    try:
        assert "stamp" in pass_names()
        assert stamped("stamp{text=plugged}") == "plugged"
    finally:
        pass_names.cache_clear()
        sys.modules.pop("stamping", None)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("canonicalise", "did you mean 'canonicalize'"),
        ("nowhere.py:Stamp", "There is no file nowhere.py"),
        ("no_such_module:Stamp", "no_such_module"),
        ("{source}:Stmp", "did you mean 'Stamp'"),
        ("{source}:NoPass", "must be a subclass"),
        ("{source}:Nameless", "has no name"),
    ],
)
def test_what_is_no_pass_is_told(name: str, says: str, source: Path) -> None:
    with pytest.raises(OptionError, match=says):
        find_pass(name.format(source=source))
