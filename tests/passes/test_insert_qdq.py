"""insert_qdq: the plan as QuantizeLinear and DequantizeLinear, with offsets in codes or in biases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import golden
import numpy as np
import onnx
import pytest
from quantized import HEADER, SMALL, Quantized, quantize, target_of
from small_graphs import graph_of, normal, ops_of

from qcompiler.ir.onnx_export import to_onnx
from qcompiler.runtime import Session
from qcompiler.target import Target

IMAGE = "(float[batch,4,8,8] x) => (float y)"
PAD = "<pads=[1,1,1,1]>"
W: dict[str, Any] = {"w": normal(4, 4, 3, 3) / 6, "v": normal(4, 4, 1, 1) / 2, "b": normal(4)}


def done(
    text: str, constants: dict[str, Any] | None = None, target: Target | str = "tensorrt", **options: Any
) -> Quantized:
    options.setdefault("write", "insert_qdq")
    return quantize(graph_of(text, {**W, **(constants or {})}), target, **options)


CHAIN = f"{IMAGE} {{ c = Conv{PAD}(x, w, b) r = Relu(c) y = Conv(r, v, b) }}"


def test_counts_and_golden_text() -> None:
    result = done(CHAIN)
    assert ops_of(result.float_graph) == {"Conv": 2, "Relu": 1}
    assert ops_of(result.graph) == {
        "Conv": 2,
        "Relu": 1,
        "QuantizeLinear": 2,
        "DequantizeLinear": 4,
        "Sub": 1,
    }
    assert result.records[-1].counts == {"stored values": 2, "encoded constants": 2, "offsets in biases": 1}
    golden.check("qdq_chain", str(result.graph))


def test_it_is_valid_onnx_and_says_its_types() -> None:
    model = to_onnx(done(CHAIN).graph)
    onnx.checker.check_model(model, full_check=True)
    for node in model.graph.node:
        if node.op_type.endswith("quantizeLinear"):
            assert len(node.input) == 3, "the zero point carries the type"


def test_parameters_are_shared_by_equal_encodings() -> None:
    result = done(CHAIN)
    assert len([value for value in result.graph.constants if ".scale" in value.name]) == len(
        result.plan.groups
    )


def test_conversions_are_one_pair_per_encoding() -> None:
    """Two readers want r in one encoding, a third wants it float: the first two share a pair."""
    text = f"{IMAGE} {{ c = Conv{PAD}(x, w) r = Relu(c) d = Conv{PAD}(r, w) e = Conv{PAD}(r, w) p = Elu(r) s = Sum(d, e, p) y = Elu(s) }}"
    result = done(text)
    assert result.records[-1].counts["conversions"] == 1
    (pair,) = (
        node for node in result.graph.nodes if node.op == "QuantizeLinear" and node.inputs[0].name == "r"
    )
    assert len(pair.output.uses) == 1


def test_origins_lead_back() -> None:
    result = done(CHAIN)
    names = {name for node in result.float_graph.nodes for name in node.origin} | {"x"}
    assert all(set(node.origin) <= names for node in result.graph.nodes)


# -- offsets in biases -----------------------------------------------------------------------------------------

TWINS = (
    HEADER
    + """
[encoding.affine]
format = "int8"
symmetric = false
[encoding.centred]
format = "int8"
symmetric = false
offset = "bias"
[encoding.weight]
format = "int8"
granularity = "per-channel"
[[kernel]]
name = "conv"
pattern = "Conv|ConvTranspose|Gemm(x, w, b?) -> Relu?"
[[kernel.row]]
name = "r"
operands = { x = "KIND", w = "weight" }
output = ["KIND", "float"]
[[kernel]]
name = "pool"
pattern = "MaxPool(x)"
quantize = "when-consumed"
[[kernel.row]]
name = "r"
operands = { x = "KIND" }
output = ["KIND"]
same = ["x", "output"]
[[kernel]]
name = "concat"
pattern = "Concat(x, ...)"
quantize = "when-consumed"
[[kernel.row]]
name = "r"
operands = { x = "KIND", "..." = "KIND" }
output = ["KIND"]
same = ["x", "...", "output"]
[[kernel]]
name = "matmul"
pattern = "MatMul(x, w)"
[[kernel.row]]
name = "r"
operands = { x = "KIND", w = "KIND" }
output = ["float"]
[qdq]
passthrough = "STYLE"
"""
)
CENTRED = {
    "chain": (f"{IMAGE} {{ c = Conv(x, w, b) r = Relu(c) y = Conv(r, v, b) }}", {}),
    "no bias": (f"{IMAGE} {{ c = Conv(x, w) r = Relu(c) y = Conv(r, v) }}", {}),
    "grouped": (f"{IMAGE} {{ c = Conv(x, w) r = Relu(c) y = Conv<group=2>(r, g) }}", {"g": normal(6, 2, 3, 3)}),
    "transposed": (f"{IMAGE} {{ c = Conv(x, w) r = Relu(c) y = ConvTranspose<group=2>(r, g, k) }}", {"g": normal(4, 3, 1, 1), "k": normal(6)}),
    "gemm": ("(float[batch,6] x) => (float y) { c = Gemm<transB=1>(x, m) r = Relu(c) y = Gemm<transB=1>(r, n) }", {"m": normal(8, 6), "n": normal(3, 8)}),
    "pool": (f"{IMAGE} {{ c = Conv(x, w) r = Relu(c) p = MaxPool<kernel_shape=[2,2]>(r) y = Conv(p, v) }}", {}),
    "concat": (f"{IMAGE} {{ c = Conv(x, w) r = Relu(c) d = Conv(x, w, b) j = Concat<axis=1>(r, d) y = Conv(j, u) }}", {"u": normal(2, 8, 1, 1)}),
    "concat with a constant": ("(float[1,4,8,8] x) => (float y) { c = Conv(x, w) r = Relu(c) j = Concat<axis=1>(r, k) y = Conv(j, u) }", {"k": np.abs(normal(1, 2, 6, 6)), "u": normal(2, 6, 1, 1)}),
    "float reader": (f"{IMAGE} {{ c = Conv(x, w) r = Relu(c) d = Conv(r, v) e = Elu(r) y = Add(d, e) }}", {}),
    "float reader of a pool": (f"{IMAGE} {{ c = Conv(x, w) r = Relu(c) p = MaxPool<kernel_shape=[2,2]>(r) d = Conv(p, v) e = Elu(p) y = Add(d, e) }}", {}),
    "variable weight": ("(float[batch,6,6] x) => (float y) { c = Relu(x) t = Sigmoid(x) y = MatMul(c, t) }", {}),
}  # fmt: skip


@pytest.mark.parametrize("case", CENTRED)
@pytest.mark.parametrize("style", ["both", "before"])
def test_centred_is_the_affine_encoding_with_a_zero_point(case: str, style: str, tmp_path: Path) -> None:
    text, constants = CENTRED[case]
    outputs = []
    fixed = "float[1,4" in text
    for kind in ("affine", "centred"):
        target = target_of(tmp_path, TWINS.replace("KIND", kind).replace("STYLE", style))
        data = {"x": normal(16, 4, 8, 8)} if fixed else None
        result = done(text, constants, target, data=data)
        feeds = result.feeds if not fixed else {"x": result.feeds["x"][:1]}
        outputs.append(Session(result.graph, optimize=False).run(feeds)["y"])
        zeros = [value for value in result.graph.constants if ".zero_point" in value.name]
        assert kind == "affine" or not any(np.any(value.data) for value in zeros if value.data is not None)
        assert result.plan.groups
    assert np.abs(outputs[0] - outputs[1]).max() <= 1e-6 * max(1.0, np.abs(outputs[0]).max())


def test_a_float_reader_gets_the_offset_back() -> None:
    result = done(
        f"{IMAGE} {{ c = Conv{PAD}(x, w) r = Relu(c) p = MaxPool<kernel_shape=[2,2]>(r) d = Conv(p, v) e = Elu(p) y = Add(d, e) }}"
    )
    assert ops_of(result.graph)["Add"] == 3  # the model's, one for Elu, and one for its own centred shortcut
    assert result.sqnr() > 25


def test_a_graph_output_that_is_stored_keeps_its_name_and_values(tmp_path: Path) -> None:
    target = target_of(tmp_path, SMALL)
    text = "(float[batch,4,8,8] x) => (float r, float y) { c = Conv(x, w) r = Relu(c) y = Conv(r, v) }"
    result = done(text, target=target)
    assert [value.name for value in result.graph.outputs] == ["r", "y"]
    for value in result.graph.outputs:
        assert value.producer is not None
        assert value.producer.op == "DequantizeLinear"
    # The convolution behind reads the same round trip that the graph returns.
    behind = next(node for node in result.graph.nodes if node.op == "Conv" and node.inputs[0].name == "r")
    assert behind.inputs[0] is result.graph.outputs[0]


def test_a_centred_graph_output_gets_the_offset_back(tmp_path: Path) -> None:
    text = (
        TWINS.replace("KIND", "centred")
        .replace("STYLE", "before")
        .replace('name = "small"', 'name = "small"\nio = "quantized"')
    )
    target = target_of(tmp_path, text)
    result = done(
        "(float[batch,4,8,8] x) => (float r, float y) { c = Conv(x, w) r = Relu(c) y = Conv(r, v) }",
        target=target,
    )
    assert "r" in result.plan.group_of_value()
    before, after = result.outputs()
    np.testing.assert_allclose(after["r"], before["r"], atol=0.1)
    assert result.sqnr() > 25


def test_zero_offset_needs_no_arithmetic() -> None:
    """Inputs that are symmetric about zero are centred already."""
    result = done(
        "(float[batch,4,8,8] x) => (float y) { y = Conv(x, v) }",
        data={"x": np.clip(normal(64, 4, 8, 8), -1, 1)},
    )
    offset = result.group("Conv:y")
    if not int(offset.encoding.zero_point or 0):
        assert "Sub" not in ops_of(result.graph)


def test_integer_biases_are_codes(tmp_path: Path) -> None:
    result = done(CHAIN, target=target_of(tmp_path, SMALL))
    biases = [node.input(2) for node in result.graph.nodes if node.op == "Conv"]
    for bias in biases:
        assert bias is not None
        assert bias.producer is not None
        codes = bias.producer.inputs[0]
        assert codes is not None
        assert codes.dtype == np.int32
    assert ops_of(result.graph)["DequantizeLinear"] == 7


@pytest.mark.parametrize(("style", "pairs"), [("both", 3), ("before", 2)])
def test_passthrough_styles(style: str, pairs: int, tmp_path: Path) -> None:
    target = target_of(tmp_path, TWINS.replace("KIND", "affine").replace("STYLE", style))
    result = done(CENTRED["pool"][0], target=target)
    assert ops_of(result.graph)["QuantizeLinear"] == pairs


def test_fp8_has_scales_and_saturates() -> None:
    wide = {"w": normal(32, 32, 3, 3) / 17}
    result = done(
        "(float[batch,32,8,8] x) => (float y) { y = Conv<pads=[1,1,1,1]>(x, w) }",
        wide,
        prefer="fp8",
        data={"x": normal(16, 32, 8, 8) * 1000},
    )
    assert result.group("Conv:y").encoding.format.name == "float8e4m3"
    assert result.sqnr() > 20
