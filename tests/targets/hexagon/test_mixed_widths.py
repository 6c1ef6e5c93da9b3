"""16 bits for some activations: they are converted where 8 and 16 meet, and the HTP computes both in integers."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from htp_runs import SOC, HtpRun, run_graph
from quantized import Quantized, quantize
from rich.console import Console
from small_graphs import graph_of, normal

import qcompiler as qc
from qcompiler.report.terminal import summary
from qcompiler.targets import find_target
from qcompiler.targets.hexagon.htp import HtpLibrary

FORK = (
    "(float[16,8,6,6] x) => (float[16,8,2,2] y) { c = Conv(x, w, b) r = Relu(c) s = Softmax<axis=1>(r) t = Tanh(s) m = Mul(t, r) d = Conv(m, v) y = Relu(d) }",
    {"w": normal(8, 8, 3, 3) / 8, "b": normal(8), "v": normal(8, 8, 3, 3) / 8},
)
"""The convolutions may differ from what lies between them."""


def kinds(run: HtpRun) -> list[str]:
    return [op.kind for op in run.ops.ops]


@pytest.mark.parametrize("arch", SOC)
@pytest.mark.parametrize("wide", ["conv", "others"])
def test_conversions(wide: str, arch: str, library: HtpLibrary, tmp_path: Path) -> None:
    target = find_target(
        {"v68": "hexagon:qcs6490", "v69": "hexagon:sm8450", "v73": "hexagon", "v81": "hexagon:sm8850"}[arch]
    )
    prefer = ("a16w8", "a8") if wide == "conv" else ("a8w8", "a16")
    done: Quantized = quantize(graph_of(*FORK), target, prefer=prefer)
    widths = {group.encoding.format.bits for group in done.plan.groups if group.stored}
    assert widths == {8, 16}
    found = run_graph(library, done.graph, arch, tmp_path, done.feeds)
    assert not found.ops.float_ops
    assert "Convert" in kinds(found)
    assert found.sqnr > 35


def test_a_drop_lifts_what_it_has_to(tmp_path: Path) -> None:
    """One channel of the input is large and of no use: 8 bits leave nothing of the others, whatever comes behind has enough."""
    text = "(float[1,8,16,16] x) => (float[1,8,10,10] y) { h = Conv(x, w) r = Relu(h) g = Conv(r, v) q = Relu(g) y = Conv(q, u) }"
    weights = {
        "w": normal(8, 8, 3, 3) / 9,
        "v": normal(8, 8, 3, 3, seed=1) / 9,
        "u": normal(8, 8, 3, 3, seed=2) / 9,
    }
    weights["w"][:, 0] = 0
    data = {"x": normal(48, 8, 16, 16) * np.float32([300, 1, 1, 1, 1, 1, 1, 1])[:, None, None]}
    options: dict[str, Any] = {"evaluation": data, "metric": "mse"}
    before = qc.compile(graph_of(text, weights), "hexagon", data, **options).report["metric"]["reference"]
    result = qc.compile(
        graph_of(text, weights), "hexagon", data, **options, max_drop=before / 20, minimise="latency",
        output=tmp_path / "out", pass_options={"assign_precision": {"rows": ("*w8",)}},
    )  # fmt: skip
    assert result.within_budget
    assert [region.row for region in result.plan.regions] == ["a16w8", "a8w8", "a8w8"]
    widths = result.report["artifact"]["details"]["activations"]
    assert widths == {"stored": 4, "in_16_bits": 2, "conversions": 1}
    narrow, wide = result.report["widths"]
    assert (narrow["bits"], wide["bits"]) == (8, 16)
    assert narrow["drop"] == pytest.approx(before)
    assert wide["drop"] < before / 20
    assert "All of them in one, as far as rows allow" in (tmp_path / "out" / "report.html").read_text()
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(summary(result.report))
    assert "Beside one width for all values" in console.export_text()
    verification = result.verification
    assert verification is not None
    assert not verification.problems, verification.summary
    if verification.ran:
        assert "2 of 4 activations in 16 bits" in verification.summary
