"""Nothing on a graph takes more than linear time."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from benchmarks.networks import residual_network

from qcompiler.ir.diff import diff_graphs
from qcompiler.ir.graph import collector_paused
from qcompiler.pass_manager import PassContext
from qcompiler.rewrite import Rewrite, apply_rewrites

SMALL, LARGE = 2_500, 20_000


@pytest.mark.slow
def test_twenty_thousand_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    from benchmarks.bench_ir import measure

    with collector_paused():  # its own time grows with everything that the test process holds
        small = _fastest([measure(SMALL, tmp_path, time.process_time) for _ in range(3)])
        large = _fastest([measure(LARGE, tmp_path, time.process_time) for _ in range(2)])
    for step, seconds in large.items():
        # Eight times the nodes: linear is a factor of 8, quadratic one of 64. The floor is for the timer's noise.
        assert seconds < 30 * max(small[step], 0.02), f"{step}: {small[step]:.3f} s -> {seconds:.3f} s"
    assert sum(large[step] for step in ("load", "save", "verify", "copy")) < 20


def _fastest(runs: list[dict[str, float]]) -> dict[str, float]:
    return {step: min(run[step] for run in runs) for step in runs[0]}


class Nothing(Rewrite):
    name = "nothing"
    patterns = ("Conv(x, $w) -> BatchNormalization(_, ...) -> Relu? -> Sin",)


@pytest.mark.slow
def test_matching_and_comparing_at_scale() -> None:
    graph = residual_network(LARGE)
    assert apply_rewrites(graph, [Nothing()], PassContext()).changed == 0
    assert not diff_graphs(graph, graph.copy())
    assert graph.to_networkx().number_of_nodes() == graph.node_count
