"""Models on the HTP library in tests: compiled, looked into, and compared with onnxruntime's QDQ arithmetic."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from quantized import Quantized

from qcompiler.ir.graph import Graph
from qcompiler.ir.onnx_export import save
from qcompiler.metrics import sqnr_db
from qcompiler.probe import random_feeds
from qcompiler.runtime import Session
from qcompiler.targets.hexagon.bounds import split_wide_bounds
from qcompiler.targets.hexagon.htp import HtpLibrary
from qcompiler.targets.hexagon.qnn_graph import QnnGraph

SOC = {"v68": 93, "v69": 36, "v73": 43, "v81": 87}
"""One part of each architecture; that of v68 computes no floats."""


@dataclass(frozen=True)
class HtpRun:
    """What the HTP made of a graph.

    Attributes:
        ops: The operators that it runs.
        sqnr: Of its outputs against onnxruntime's, dB; the worst of them.
    """

    ops: QnnGraph
    sqnr: float


def on_htp(library: HtpLibrary, done: Quantized, arch: str, folder: Path) -> HtpRun:
    """Runs a compiled graph of static shapes on the samples that it came with."""
    graph = done.graph.copy()
    split_wide_bounds(graph)
    return run_graph(library, graph, arch, folder, done.feeds)


def run_graph(
    library: HtpLibrary, graph: Graph, arch: str, folder: Path, feeds: dict[str, np.ndarray] | None = None
) -> HtpRun:
    """Runs a graph as it is; on random inputs if none are given."""
    feeds = random_feeds(graph) if feeds is None else feeds
    (file,) = save(graph, folder / "model.onnx")
    model = library.prepare(file, SOC[arch])
    assert set(model.assigned) == {"QNNExecutionProvider"}
    made = library.run(model, feeds)
    expected = Session(graph, optimize=False).run(feeds)
    return HtpRun(model.graph, min(sqnr_db(expected[name], made[name]) for name in expected))
