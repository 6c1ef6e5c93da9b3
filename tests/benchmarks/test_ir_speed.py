"""Nothing on a graph takes more than linear time."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks.networks import residual_network

from qcompiler.ir.diff import diff_graphs
from qcompiler.pass_manager import PassContext
from qcompiler.rewrite import Rewrite, apply_rewrites

SMALL, LARGE = 2_500, 20_000


@pytest.mark.slow
def test_twenty_thousand_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    from benchmarks.bench_ir import measure

    small = [measure(SMALL, tmp_path) for _ in range(3)]
    large = measure(LARGE, tmp_path)
    for step, seconds in large.items():
        # Eight times the nodes: linear is a factor of 8, quadratic one of 64. The floor is for the timer's noise.
        fastest = min(run[step] for run in small)
        assert seconds < 30 * max(fastest, 0.02), f"{step}: {fastest:.3f} s -> {seconds:.3f} s"
    assert sum(large[step] for step in ("load", "save", "verify", "copy")) < 20


class Nothing(Rewrite):
    name = "nothing"
    patterns = ("Conv(x, $w) -> BatchNormalization(_, ...) -> Relu? -> Sin",)


@pytest.mark.slow
def test_matching_and_comparing_at_scale() -> None:
    graph = residual_network(LARGE)
    assert apply_rewrites(graph, [Nothing()], PassContext()).changed == 0
    assert not diff_graphs(graph, graph.copy())
    assert graph.to_networkx().number_of_nodes() == graph.node_count
