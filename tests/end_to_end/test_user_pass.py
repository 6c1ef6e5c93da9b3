"""A user's pass from docs/examples: it takes its place in a compilation; a mistake in it is caught, and found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from qcompiler.passes import find_pass
from qcompiler.targets import find_target

import qcompiler as qc
from qcompiler import demo
from qcompiler.bisect import bisect
from qcompiler.errors import PassError
from qcompiler.ir.text import to_text
from qcompiler.options import Options, default_pipeline
from qcompiler.pass_manager import PassContext
from qcompiler.pipeline import Checks, Pipeline
from qcompiler.probe import Probe
from qcompiler.runtime import Session

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
GOOD = f"{EXAMPLES / 'balance_channels.py'}:BalanceChannels"
BAD = f"{EXAMPLES / 'balance_channels.py'}:BalanceTooMuch"
FLOAT = "fold_constants,canonicalize,fold_batch_norm,fuse_composites,canonicalize"


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
    assert record.counts["balance channels"] >= 1
    assert record.error == 0.0
    np.testing.assert_array_equal(Session(graph, optimize=False).run(feeds)["logits"], before["logits"])


def test_it_balances() -> None:
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
    again = to_text(graph)
    (record,) = Pipeline.parse(GOOD, find_pass).run(graph, PassContext())
    assert not record.counts
    assert to_text(graph) == again


def test_users_passes_come_before_tiling() -> None:
    names = [
        entry.name
        for entry in default_pipeline(find_target("tensorrt"), qc.load(demo.MODEL), Options(passes=(GOOD,)))
    ]
    assert names.index("balance_channels") == names.index("fuse") - 1


def test_the_mistake_is_caught_by_the_probe() -> None:
    graph = prepared()
    with pytest.raises(PassError, match=r"balance_too_much declares its effect as exact.*'logits'"):
        Pipeline.parse(BAD, find_pass).run(graph, PassContext(), Checks(probe=Probe(graph)))


def test_bisection_finds_the_pass_and_the_single_rewrite() -> None:
    pipeline = Pipeline.parse(f"{FLOAT},{BAD}", find_pass)
    found = bisect(qc.load(demo.MODEL), pipeline, PassContext())
    assert found is not None
    assert found.name == "balance_too_much"
    assert found.position == len(pipeline.passes)
    assert found.rewrite is not None
    assert found.description.startswith("balance channels at ")
    assert found.rewrites > found.rewrite
    assert found.error_before < 1e-5
    assert found.error_after > 0.01
    node = found.description.removeprefix("balance channels at ")
    graph = prepared()
    reader = graph.node(node).output.consumers[0]
    assert reader.op == "Clip"
    assert bisect(qc.load(demo.MODEL), Pipeline.parse(f"{FLOAT},{GOOD}", find_pass), PassContext()) is None
