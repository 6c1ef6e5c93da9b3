"""Models that onnxruntime quantized are imported, raised and compiled for a target with other rules."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quant_pre_process,
    quantize_static,
)
from small_graphs import MODELS

from qcompiler.data import DataSource
from qcompiler.demo import CALIBRATION, EVALUATION, MODEL
from qcompiler.ir.graph import Graph
from qcompiler.ir.onnx_export import to_onnx
from qcompiler.ir.onnx_import import load
from qcompiler.ir.plan import PLAN
from qcompiler.observed import IMPORTED
from qcompiler.pass_manager import PassContext
from qcompiler.passes import find_pass
from qcompiler.pipeline import Pipeline
from qcompiler.runtime import Session
from qcompiler.targets import find_target
from qcompiler.targets.tensorrt.builder import available, build
from qcompiler.targets.tensorrt.rules import check_rules

PASSES = (
    "raise_qdq,fold_constants,canonicalize,fold_batch_norm,fuse_composites,canonicalize,explicit_padding{depth=2},fuse,"
    "calibrate,assign_precision,correct_bias,insert_qdq"
)
VARIANTS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "uint8": {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QUInt8},
    "per-channel": {"activation_type": QuantType.QUInt8, "per_channel": True},
    "symmetric": {
        "activation_type": QuantType.QInt8,
        "extra_options": {"ActivationSymmetric": True, "WeightSymmetric": True},
    },
    "qoperator": {"quant_format": QuantFormat.QOperator, "activation_type": QuantType.QUInt8},
}


class Reader(CalibrationDataReader):  # type: ignore[misc]
    """Calibration data as onnxruntime wants them."""

    def __init__(self, source: DataSource) -> None:
        self.batches: Iterator[dict[str, Any]] = source.batches(64)

    def get_next(self) -> dict[str, Any] | None:
        return next(self.batches, None)


def quantized(model: Path, calibration: Path, out: Path, **options: Any) -> Path:
    logging.disable(logging.WARNING)  # onnxruntime talks to the root logger
    try:
        data = DataSource.open(calibration).validate(load(model))
        quantize_static(model, out, Reader(data), **options)
    finally:
        logging.disable(logging.NOTSET)
    return out


def recompiled(model: Path) -> Graph:
    """Compiled for TensorRT without any data: everything that is needed came with the model."""
    graph = load(model)
    Pipeline.parse(PASSES, find_pass).run(graph, PassContext(target=find_target("tensorrt")))
    return graph


def top1(graph: Graph, evaluation: Path) -> float:
    data = DataSource.open(evaluation).validate(graph)
    session = Session(graph, optimize=False)
    outputs = [next(iter(session.run(batch).values())) for batch in data.batches(100)]
    return float((np.concatenate(outputs).argmax(1) == data.labels).mean())


def check_notes(graph: Graph) -> None:
    """Every imported encoding is kept to the bit, or there is exactly one note about it."""
    plan = graph.facts[PLAN]
    kept = {
        name
        for group in plan.groups
        for name in (*group.stored, *(use.value for use in group.uses))
        if graph.facts[IMPORTED].get(name) == group.encoding
    }
    for name, encoding in graph.facts[IMPORTED].items():
        notes = [note for note in plan.notes if note.startswith(f"{name}: imported {encoding.format.name}")]
        assert len(notes) == (name not in kept), (name, notes)
    assert len(plan.notes) == len(graph.facts[IMPORTED]) - len(kept)


def check_for_tensorrt(graph: Graph) -> None:
    model = to_onnx(graph)
    assert [str(item) for item in check_rules(model)] == []
    if available() is None:
        return
    report = build(model.SerializeToString())
    assert report.built, report.errors
    weighted = [node.name for node in model.graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]
    assert report.int8_weighted == set(weighted)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_demo_quantized_by_onnxruntime(variant: str, tmp_path: Path) -> None:
    quant_pre_process(str(MODEL), str(tmp_path / "prepared.onnx"))
    source = quantized(
        tmp_path / "prepared.onnx", CALIBRATION, tmp_path / "quantized.onnx", **VARIANTS[variant]
    )
    graph = recompiled(source)
    check_notes(graph)
    check_for_tensorrt(graph)
    assert top1(graph, EVALUATION) >= top1(load(source), EVALUATION) - 0.005


def test_what_was_legal_is_kept_to_the_bit(tmp_path: Path) -> None:
    quant_pre_process(str(MODEL), str(tmp_path / "prepared.onnx"))
    source = quantized(
        tmp_path / "prepared.onnx", CALIBRATION, tmp_path / "quantized.onnx", **VARIANTS["symmetric"]
    )
    graph = recompiled(source)
    imported = graph.facts[IMPORTED]
    for group in graph.facts[PLAN].groups:
        for name in group.stored:
            assert imported.get(name, group.encoding) == group.encoding
    assert not [note for note in graph.facts[PLAN].notes if "because the target takes" in note]


def test_a_model_with_its_normalizations_still_there(tmp_path: Path) -> None:
    """Weights change under their encodings when normalizations are folded, and are encoded anew."""
    source = quantized(MODEL, CALIBRATION, tmp_path / "quantized.onnx")
    assert any(node.op_type == "BatchNormalization" for node in onnx.load(source).graph.node)
    graph = recompiled(source)
    check_notes(graph)
    check_for_tensorrt(graph)
    assert top1(graph, EVALUATION) >= top1(load(source), EVALUATION) - 0.005
    note = next(item for item in graph.facts[PLAN].notes if item.startswith("stem/conv/weight: "))
    assert note.endswith(
        "because the constant does not lie on that grid any more: a pass changed its elements"
    )


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["defaults", "uint8"])
def test_resnet20(variant: str, tmp_path: Path) -> None:
    folder = MODELS / "resnet20_cifar10"
    if not folder.is_dir():
        pytest.skip(f"no models in {MODELS}; set QCOMPILER_MODELS")
    source = quantized(
        folder / "model.onnx", folder / "calibration.npz", tmp_path / "quantized.onnx", **VARIANTS[variant]
    )
    graph = recompiled(source)
    check_notes(graph)
    check_for_tensorrt(graph)
    evaluation = folder / "evaluation.npz"
    assert top1(graph, evaluation) >= top1(load(source), evaluation) - 0.005
