"""Constants with many zeros: stored with a mask where that is smaller, and read back as the same numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from packages import write
from small_graphs import graph_of, normal

import qcompiler as qc
from qcompiler.probe import random_feeds
from qcompiler.targets import find_target
from qcompiler.targets.core_ml import sparse
from qcompiler.targets.core_ml.evaluate import Evaluator
from qcompiler.targets.core_ml.lower import constant_bytes
from qcompiler.targets.core_ml.package import read

pytest.importorskip("coremltools")

TEXT = "(float[batch,32,9,7] x) => (float y) { c = Conv<pads=[1,1,1,1]>(x, w, b) y = Relu(c) }"
WEIGHTS = {"w": normal(64, 32, 3, 3) / 17, "b": normal(64)}
DATA = {"x": normal(16, 32, 9, 7)}


def compiled(folder: Path, device: str, row: str) -> qc.Result:
    return qc.compile(
        graph_of(TEXT, WEIGHTS), f"core-ml:{device}", DATA, output=folder, passes=["prune_weights"], float_format="float16",
        pass_options={"assign_precision": {"prefer": (row,)}},
    )  # fmt: skip


def kinds(result: qc.Result) -> set[str]:
    assert result.output is not None
    return {op.op_type for op in read(result.output / "model.mlpackage").function.operations}


def weight_bytes(result: qc.Result) -> int:
    assert result.output is not None
    return (result.output / "model.mlpackage/Data/com.apple.CoreML/weights/weight.bin").stat().st_size


CODES, TABLES, DENSE = (
    "constexpr_sparse_blockwise_shift_scale",
    "constexpr_lut_to_sparse",
    "constexpr_sparse_to_dense",
)


@pytest.mark.parametrize(
    ("row", "kind"),
    [("w8", CODES), ("w8a8", CODES), ("w4", CODES), ("w4-block", CODES), ("t4", TABLES), ("g4", TABLES)],
)
def test_pruned_weights_are_stored_with_a_mask(
    row: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = compiled(tmp_path / "sparse", "ios18", row)
    assert {kind, DENSE} <= kinds(result)
    estimated = constant_bytes(result.graph, result.plan, find_target("core-ml:ios18"))
    assert estimated <= weight_bytes(result) < estimated + 128 * 6
    monkeypatch.setattr(sparse, "is_smaller", lambda known, bits: False)
    dense = compiled(tmp_path / "dense", "ios18", row)
    assert DENSE not in kinds(dense)
    bits = 4 if "4" in row else 8
    assert weight_bytes(result) <= weight_bytes(dense) * (1 / 2 + 1 / bits) + 700
    for found in (result, dense):
        assert found.verification is not None
        assert found.verification.passed, found.verification.summary
    for mine, other in zip(outputs(result), outputs(dense), strict=True):
        np.testing.assert_array_equal(mine, other)


def outputs(result: qc.Result) -> list[NDArray[Any]]:
    assert result.output is not None
    evaluator = Evaluator(read(result.output / "model.mlpackage"))
    return list(evaluator.run(random_feeds(result.graph)).values())


@pytest.mark.parametrize(("device", "row"), [("ios17", "w8"), ("ios16", "t4"), ("ios26", "c4")])
def test_what_has_no_form_with_a_mask_is_stored_as_ever(device: str, row: str, tmp_path: Path) -> None:
    result = compiled(tmp_path / "out", device, row)
    assert not {CODES, TABLES, DENSE} & kinds(result)
    assert result.verification is not None
    assert result.verification.passed


@pytest.mark.parametrize("device", ["ios16", "ios18"])
@pytest.mark.parametrize("floats", ["float32", "float16"])
@pytest.mark.parametrize(("text", "shape"), [
    ("(float[2,32,5,5] x) => (float y) { y = Conv(x, w) }", (24, 32, 3, 3)),
    ("(float[2,32,5,5] x) => (float y) { y = ConvTranspose(x, w) }", (32, 24, 3, 3)),
    ("(float[2,96] x) => (float y) { y = Gemm<transB=1>(x, w) }", (65, 96)),
])  # fmt: skip
def test_floats_with_a_mask(
    device: str, floats: str, text: str, shape: tuple[int, ...], tmp_path: Path
) -> None:
    weights = normal(*shape) / 17
    weights[np.abs(weights) < np.median(np.abs(weights))] = 0
    written = write(graph_of(text, {"w": weights}), tmp_path, device, floats)
    assert DENSE in {op.op_type for op in written.package.function.operations}
    assert written.gap() < (1e-5 if floats == "float32" else 2e-3)


@pytest.mark.parametrize("zeros", [0, 60, 9216])
def test_few_zeros_and_zeros_only_are_stored_as_ever(zeros: int, tmp_path: Path) -> None:
    weights = normal(32, 32, 3, 3)
    weights.reshape(-1)[:zeros] = 0
    written = write(graph_of("(float[2,32,5,5] x) => (float y) { y = Conv(x, w) }", {"w": weights}), tmp_path)
    assert DENSE not in {op.op_type for op in written.package.function.operations}
    assert written.gap() < 1e-5
