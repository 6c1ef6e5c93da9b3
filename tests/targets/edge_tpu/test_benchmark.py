"""The benchmark's figures, of the demo: what is asked of every model holds of it, too."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from benchmarks.edge_tpu import figures

from qcompiler import demo

pytest.importorskip("ai_edge_litert")


@pytest.mark.slow
def test_the_figures_of_the_demo(tmp_path: Path) -> None:
    shutil.copy(demo.MODEL, tmp_path / "model.onnx")
    shutil.copy(demo.CALIBRATION, tmp_path / "calibration.npz")
    shutil.copy(demo.EVALUATION, tmp_path / "evaluation.npz")
    found = {what: measured for what, measured, _ in figures(tmp_path, "edge-tpu", 50, 1 << 30)}
    assert re.match(
        r"0 of [\d,]+ elements, 400 samples",
        found["differences from the reference kernels, every tensor of 50 samples"],
    )
    assert re.match(r"(\d+) of \1 operators are mapped", found["partition"])
    assert float(found["top1"].split()[3]) >= demo.TOP1 - 0.01
