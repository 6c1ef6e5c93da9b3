"""A user's pass from docs/examples: it takes its place in a compilation; a mistake in it is caught, and found."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import qcompiler as qc
from qcompiler import demo
from qcompiler.bisect import bisect
from qcompiler.cli import app
from qcompiler.errors import PassError
from qcompiler.ir.text import to_text
from qcompiler.options import Options, default_pipeline
from qcompiler.pass_manager import PassContext
from qcompiler.passes import find_pass
from qcompiler.pipeline import Checks, Pipeline
from qcompiler.probe import Probe
from qcompiler.runtime import Session
from qcompiler.targets import find_target

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "balance_channels.py"
GOOD = f"{EXAMPLE}:BalanceChannels"
BAD = f"{EXAMPLE}:BalanceWeightsOnly"
FLOAT = "fold_constants,canonicalize,fold_batch_norm,fuse_composites,canonicalize,explicit_padding{depth=2}"


def prepared() -> qc.Graph:
    """The demo model as it is when users' passes get it."""
    graph = qc.load(demo.MODEL)
    Pipeline.parse(FLOAT, find_pass).run(graph, PassContext())
    return graph


def test_it_fires_and_changes_no_output_bit() -> None:
    graph = prepared()
    feeds = next(iter(qc.DataSource.open(demo.EVALUATION).validate(graph).batches(16)))
    before = Session(graph, optimize=False).run(feeds)
    (record,) = Pipeline.parse(GOOD, find_pass).run(graph, PassContext(), Checks(probe=Probe(graph)))
    assert record.counts == {"balance channels": 2}
    assert record.error == 0.0
    np.testing.assert_array_equal(Session(graph, optimize=False).run(feeds)["logits"], before["logits"])


def test_it_balances_once() -> None:
    graph = prepared()
    Pipeline.parse(GOOD, find_pass).run(graph, PassContext())
    first, second = (graph.node(name).inputs[1] for name in ("block3/depthwise", "block3/pointwise"))
    assert first is not None
    assert first.data is not None
    assert second is not None
    assert second.data is not None
    ratio = np.abs(first.data).max(axis=(1, 2, 3)) / np.abs(second.data).max(axis=(0, 2, 3))
    assert (ratio >= 0.5).all()
    assert (ratio <= 2.0).all()
    text = to_text(graph)
    (record,) = Pipeline.parse(GOOD, find_pass).run(graph, PassContext())
    assert not record.counts
    assert to_text(graph) == text


def test_what_it_leaves_alone_it_tells_about() -> None:
    (record,) = Pipeline.parse(GOOD, find_pass).run(prepared(), PassContext())
    assert any("is used 2 times" in str(item) for item in record.diagnostics)


def test_users_passes_come_before_tiling() -> None:
    names = [entry.name for entry in default_pipeline(find_target("tensorrt"), Options(passes=(GOOD,)))]
    assert names.index("balance_channels") == names.index("fuse") - 1
    assert names.index("explicit_padding") == names.index("fuse") - 2


def test_the_probe_catches_the_mistake() -> None:
    graph = prepared()
    with pytest.raises(PassError, match=r"balance_weights_only declares its effect as exact.*'logits'"):
        Pipeline.parse(BAD, find_pass).run(graph, PassContext(), Checks(probe=Probe(graph)))


def test_bisection_finds_the_pass_and_the_single_rewrite() -> None:
    found = bisect(qc.load(demo.MODEL), Pipeline.parse(f"{FLOAT},{BAD}", find_pass), PassContext())
    assert found is not None
    assert (found.name, found.position) == ("balance_weights_only", 7)
    assert (found.rewrite, found.rewrites) == (1, 2)
    assert found.description == "balance channels at stem/conv"
    assert found.error_before < 1e-5
    assert found.error_after > 0.01
    assert bisect(qc.load(demo.MODEL), Pipeline.parse(f"{FLOAT},{GOOD}", find_pass), PassContext()) is None


# -- from the command line -----------------------------------------------------------------------------------------


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """All rules of a real target, without the artifact and its verification, which take most of the time."""
    file = tmp_path / "fast.toml"
    file.write_text('schema = 1\nname = "fast"\nextends = "tensorrt"\n', encoding="utf-8")
    return file


def run(command: str, target: Path, *words: str) -> tuple[int, str]:
    given = [command, str(demo.MODEL), "-t", str(target), "-c", str(demo.CALIBRATION), *words]
    done = CliRunner().invoke(app, given)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.output


def test_the_pass_is_in_the_report(target: Path) -> None:
    output = target.parent / "out"
    code, text = run("compile", target, "--pass", GOOD, "--verify-each", "-o", str(output))
    assert code == 0, text
    passes = {entry["name"]: entry for entry in json.loads((output / "report.json").read_text())["passes"]}
    assert passes["balance_channels"]["counts"] == {"balance channels": 2}
    assert passes["balance_channels"]["error"] == 0.0
    assert "balance_channels" in json.loads((output / "manifest.json").read_text())["options"]["pipeline"]


def test_the_mistake_stops_a_compilation_that_verifies_each_pass(target: Path) -> None:
    output = target.parent / "out"
    code, text = run("compile", target, "--pass", BAD, "--verify-each", "-o", str(output))
    assert code == 1
    assert "balance_weights_only" in text
    assert "exact" in text
    assert not output.exists()


def test_bisect_names_the_pass_and_the_single_rewrite(target: Path) -> None:
    code, text = run("bisect", target, "--pass", BAD)
    assert code == 3, text
    words = " ".join(text.split())
    assert "rewrite 1 of 2" in words
    assert "balance_weights_only" in words
    assert "stem/conv" in words
    assert run("bisect", target, "--pass", GOOD)[0] == 0
