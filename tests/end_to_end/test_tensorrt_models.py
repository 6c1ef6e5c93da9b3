"""Trained convolutional networks through the whole pipeline, and into TensorRT's own compiler: all is int8 that was planned so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from quantized import PREPARE, Quantized, quantize
from small_graphs import MODELS

from qcompiler.data import DataSource
from qcompiler.ir.graph import Graph
from qcompiler.ir.onnx_export import to_onnx
from qcompiler.ir.onnx_import import load
from qcompiler.metrics import sqnr_db
from qcompiler.runtime import Session
from qcompiler.targets.tensorrt.builder import build
from qcompiler.targets.tensorrt.rules import check_rules

pytestmark = pytest.mark.slow

FLOOR_DB = {
    "resnet8_cifar10": 25.5,
    "resnet20_cifar10": 27.0,
    "dscnn_kws": 27.0,
    "mobilenetv1_vww": 15.0,
    "mobilenetv2_imagenet": 15.0,
}
"""Output SQNR that the quantized models must reach: a decibel or two below what they do reach."""
ADDS = {"resnet8_cifar10": 3, "resnet20_cifar10": 9, "mobilenetv2_imagenet": 10}
"""Residual additions."""
SAMPLES = {"mobilenetv2_imagenet": 32}
"""How many samples are measured where 256 take long."""


def compiled(folder: Path, count: int) -> Quantized:
    graph = load(folder / "model.onnx")
    samples = DataSource.open(folder / "calibration.npz").validate(graph).slice(0, count)
    batches = list(samples.batches(128))
    return quantize(graph, data=batches[0], prepare=f"{PREPARE},explicit_padding{{depth=2}}")


@pytest.mark.parametrize("name", FLOOR_DB)
def test_model(name: str) -> None:
    folder = MODELS / name
    if not folder.is_dir():
        pytest.skip(f"the model is not at {folder}; QCOMPILER_MODELS names another folder")
    done = compiled(folder, SAMPLES.get(name, 128))
    model = to_onnx(done.graph)
    assert not [item for item in check_rules(model) if item.severity in ("error", "silent-float")]

    evaluation = (
        DataSource.open(folder / "evaluation.npz").validate(done.float_graph).slice(0, SAMPLES.get(name, 256))
    )
    before = Session(done.float_graph).run_all(evaluation)
    after = Session(done.graph, optimize=False).run_all(evaluation)
    assert min(sqnr_db(before[output], after[output]) for output in before) >= FLOOR_DB[name]
    assert all(np.isfinite(array).all() for array in after.values())

    pytest.importorskip("tensorrt_rtx")
    report = build(model.SerializeToString())
    assert report.built, (report.parser_errors, report.errors)
    planned = {
        node.name
        for node in done.graph.nodes
        if node.op in ("Conv", "Gemm", "MatMul") and done.region(node.name).quantized
    }
    assert len(planned) >= 10
    assert report.int8_weighted >= planned
    assert len(report.residual_adds) == ADDS.get(name, 0)
    shortcuts = {
        node: kind
        for node, kind in report.residual_adds.items()
        if not reads_raw_results(done.float_graph, node)
    }
    assert set(shortcuts.values()) <= {"Int8"}, shortcuts


def reads_raw_results(graph: Graph, add: str) -> bool:
    """Whether TensorRT reads the shortcut as a float whatever it is told: two convolutions meet (a downsampling block)."""
    inputs = [value for value in graph.node(add).inputs if value is not None]
    return all(value.producer is not None and value.producer.op == "Conv" for value in inputs)
