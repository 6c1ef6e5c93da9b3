"""correct_bias: outputs of layers with rounded weights keep their mean."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from quantized import SMALL, Quantized, quantize, target_of
from small_graphs import graph_of, normal

from qcompiler.ir.graph import Graph
from qcompiler.target import Target

IMAGE = "(float[batch,4,8,8] x) => (float y)"
POSITIVE = {"x": np.abs(normal(64, 4, 8, 8)) + 1}
COARSE = """
schema = 1
name = "coarse"
[encoding.int8]
format = "int16"
[encoding.weight]
format = "int4"
granularity = "per-channel"
[[kernel]]
name = "linear"
pattern = "Conv|ConvTranspose|Gemm|MatMul(x, w, ...)"
[[kernel.row]]
name = "r"
operands = { x = "int8", w = "weight" }
"""
"""Activations as good as exact, weights of sixteen levels: what is lost is lost in the weights."""


def done(
    text: str,
    constants: dict[str, Any],
    folder: Path,
    write: str,
    data: Any = None,
    target: Target | None = None,
) -> Quantized:
    return quantize(
        graph_of(text, constants),
        target or target_of(folder, COARSE),
        data=data or POSITIVE,
        write=write,
        prepare="canonicalize",
    )


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "conv": (f"{IMAGE} {{ y = Conv(x, w, b) }}", {"w": normal(6, 4, 3, 3), "b": normal(6)}),
    "no bias": (f"{IMAGE} {{ y = Conv(x, w) }}", {"w": normal(6, 4, 3, 3)}),
    "grouped": (f"{IMAGE} {{ y = Conv<group=2>(x, w, b) }}", {"w": normal(6, 2, 3, 3), "b": normal(6)}),
    "depthwise": (f"{IMAGE} {{ y = Conv<group=4>(x, w, b) }}", {"w": normal(4, 1, 3, 3), "b": normal(4)}),
    "transposed": (f"{IMAGE} {{ y = ConvTranspose(x, w, b) }}", {"w": normal(4, 6, 1, 1), "b": normal(6)}),
    "transposed in groups": (f"{IMAGE} {{ y = ConvTranspose<group=2>(x, w, b) }}", {"w": normal(4, 3, 1, 1), "b": normal(6)}),
    "gemm": ("(float[batch,4,8,8] x) => (float y) { f = Flatten(x) y = Gemm(f, w, b) }", {"w": normal(256, 5), "b": normal(5)}),
}  # fmt: skip


def mean_error(result: Quantized) -> float:
    before, after = result.outputs()
    axes = tuple(axis for axis in range(before["y"].ndim) if axis != 1)
    return float(np.abs((after["y"] - before["y"]).mean(axis=axes)).mean())


@pytest.mark.parametrize("case", CASES)
def test_means_come_back(case: str, tmp_path: Path) -> None:
    text, constants = CASES[case]
    plain = done(text, constants, tmp_path, "insert_qdq")
    corrected = done(text, constants, tmp_path, "correct_bias,insert_qdq")
    assert corrected.records[-2].counts == {"corrected biases": 1}
    assert mean_error(corrected) < 0.25 * mean_error(plain)
    assert corrected.sqnr() > plain.sqnr()


def test_the_correction_is_mean_times_lost_weight(tmp_path: Path) -> None:
    text, constants = CASES["conv"]
    result = done(text, constants, tmp_path, "correct_bias")
    node = next(node for node in result.graph.nodes if node.op == "Conv")
    lost = constants["w"] - result.group(node.name, 1).encoding.fake_quantize(constants["w"])
    mean = float(POSITIVE["x"].mean())
    assert node.inputs[2] is not None
    np.testing.assert_allclose(
        node.inputs[2].data, constants["b"] + mean * lost.sum(axis=(1, 2, 3)), rtol=0.02, atol=0.05
    )


def without_change(graph: Graph) -> set[str]:
    return {value.name for value in graph.constants}


def test_matmul_has_no_bias_to_correct(tmp_path: Path) -> None:
    text = "(float[batch,4,8,8] x) => (float y) { y = MatMul(x, w) }"
    result = done(text, {"w": normal(8, 8)}, tmp_path, "correct_bias")
    assert not result.records[-1].counts
    assert without_change(result.graph) == {"w"}


def test_what_is_not_quantized_is_left_alone(tmp_path: Path) -> None:
    text = "(float[batch,4,8,8] x, float[batch,4,8,8] z) => (float y) { y = Add(x, z) }"
    result = done(text, {}, tmp_path, "correct_bias", {"x": POSITIVE["x"], "z": POSITIVE["x"]})
    assert not result.records[-1].counts


def test_a_shared_bias_is_corrected_for_each_layer(tmp_path: Path) -> None:
    text = f"{IMAGE} {{ c = Conv(x, w, b) r = Relu(c) y = Conv(r, v, b) }}"
    result = done(
        text, {"w": normal(4, 4, 3, 3), "v": normal(4, 4, 1, 1), "b": normal(4)}, tmp_path, "correct_bias"
    )
    first, second = (node.inputs[2] for node in result.graph.nodes if node.op == "Conv")
    assert first is not second
    assert result.records[-1].counts == {"corrected biases": 2}


def test_no_bias_is_added_where_biases_are_derived(tmp_path: Path) -> None:
    """A new bias would be float: the plan has no encoding for it."""
    target = target_of(tmp_path, SMALL)
    constants = {"w": normal(4, 4, 3, 3)}
    result = done(
        f"{IMAGE} {{ y = Conv(x, w) }}", constants, tmp_path, "correct_bias,insert_qdq", target=target
    )
    assert not result.records[-2].counts
    constants["b"] = normal(4)
    result = done(
        f"{IMAGE} {{ y = Conv(x, w, b) }}", constants, tmp_path, "correct_bias,insert_qdq", target=target
    )
    assert result.records[-2].counts == {"corrected biases": 1}
    bias = next(node for node in result.graph.nodes if node.op == "Conv").inputs[2]
    assert bias is not None
    assert bias.producer is not None
    assert bias.producer.op == "DequantizeLinear"
