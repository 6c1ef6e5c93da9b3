"""Networks compiled for Hexagon and run in the HTP library: whole in integers, and as exact as their widths are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from small_graphs import MODELS, graph_of, normal

import qcompiler as qc
from qcompiler.targets.hexagon import htp

LACKING = htp.missing()
pytestmark = pytest.mark.skipif(LACKING is not None, reason=str(LACKING))

# -- transformers --------------------------------------------------------------------------------------------------

BLOCK = """(float[1,12,64] x) => (float[1,12,64] y) {
    n = LayerNormalization(x, g, e)
    q0 = MatMul(n, wq) q1 = Add(q0, bq) q2 = Reshape(q1, heads) q = Transpose<perm=[0,2,1,3]>(q2)
    k0 = MatMul(n, wk) k1 = Add(k0, bk) k2 = Reshape(k1, heads) k = Transpose<perm=[0,2,3,1]>(k2)
    v0 = MatMul(n, wv) v1 = Add(v0, bv) v2 = Reshape(v1, heads) v = Transpose<perm=[0,2,1,3]>(v2)
    s0 = MatMul(q, k) s1 = Mul(s0, c) s = Softmax<axis=-1>(s1) o0 = MatMul(s, v)
    o1 = Transpose<perm=[0,2,1,3]>(o0) o = Reshape(o1, rows) r = Add(x, o)
    h0 = MatMul(r, w1) h1 = Add(h0, b1) h = Gelu(h1) m0 = MatMul(h, w2) m1 = Add(m0, b2) y = Add(m1, r)
}"""


def block() -> dict[str, NDArray[Any]]:
    """Constants of an attention block and what follows it."""
    found: dict[str, NDArray[Any]] = {
        "g": 1 + normal(64) / 5, "e": normal(64, seed=1) / 5, "c": np.float32(0.25).reshape(()),
        "heads": np.array([1, 12, 4, 16]), "rows": np.array([1, 12, 64]),
        "w1": normal(64, 256) / 8, "b1": normal(256) / 3, "w2": normal(256, 64) / 16, "b2": normal(64, seed=2) / 3,
    }  # fmt: skip
    for seed, name in enumerate("qkv", 3):
        found |= {f"w{name}": normal(64, 64, seed=seed) / 8, f"b{name}": normal(64, seed=seed) / 3}
    return found


@pytest.mark.parametrize(("device", "rows", "least"), [
    ("sm8550", ("a8w8", "a8"), 28), ("sm8550", ("a16w8", "a16"), 40), ("qcs6490", ("a8w8", "a8"), 28), ("qcs6490", ("a16w8", "a16"), 34),
])  # fmt: skip
def test_an_attention_block(device: str, rows: tuple[str, ...], least: float, tmp_path: Path) -> None:
    """On parts with and without floats; what is shown as the artifact's figures is what the HTP computes."""
    data = {"x": normal(64, 12, 64)}
    result = qc.compile(
        graph_of(BLOCK, block()), f"hexagon:{device}", data, output=tmp_path / "out",
        pass_options={"assign_precision": {"prefer": rows}},
    )  # fmt: skip
    assert result.verification is not None
    assert result.verification.passed, result.verification.summary
    assert result.verification.details["float_operators"] == []
    figures = result.report["metric"]["against_float"]
    assert figures["artifact"]["sqnr_db"] > least
    assert figures["artifact"] != figures["reference"]


# -- real models ---------------------------------------------------------------------------------------------------

LEAST_DB = {
    "resnet8_cifar10": 27.0, "resnet20_cifar10": 27.0, "dscnn_kws": 30.0, "mobilenetv1_vww": 29.5, "autoencoder_ad": 43.0,
}  # fmt: skip
"""SQNR of the HTP against fp32, dB; less 5 where weights are rounded to nearest, which is quicker, and sums less exact, as on v68."""


@pytest.mark.slow
@pytest.mark.parametrize("device", ["sm8550", "qcs6490"])
@pytest.mark.parametrize("name", LEAST_DB)
def test_real_models(name: str, device: str, tmp_path: Path) -> None:
    """Every node on the HTP, all of them in integers, and as exact as 8 bits are."""
    folder = MODELS / name
    if not folder.is_dir():
        pytest.skip(f"the model is not at {folder}; QCOMPILER_MODELS names another folder")
    samples = qc.DataSource.open(str(folder / "evaluation.npz")).slice(0, 64)
    result = qc.compile(
        folder / "model.onnx", f"hexagon:{device}", str(folder / "calibration.npz"),
        evaluation=samples, metric="sqnr", output=tmp_path / "out", pass_options={"round_weights": {"bits": 1}},
    )  # fmt: skip
    assert result.verification is not None
    assert result.verification.passed, result.verification.summary
    assert result.verification.details["float_operators"] == []
    assert all(region.quantized for region in result.plan.regions)
    assert result.report["metric"]["against_float"]["artifact"]["sqnr_db"] > LEAST_DB[name] - 5
