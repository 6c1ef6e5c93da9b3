"""fold_batch_norm: normalizations and per-channel arithmetic go into the layer beside them, or the reason is told."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from small_graphs import graph_of, lines, near_misses, normal, ops_of, ramp, run

from qcompiler.ir.graph import Graph
from qcompiler.ir.shapes import infer_shapes
from qcompiler.pass_manager import PassContext
from qcompiler.passes.canonicalize import Canonicalize
from qcompiler.passes.fold_batch_norm import FoldBatchNorm

IMAGE = "(float[batch,4,6,6] x) => (float y)"
MATRIX = "(float[batch,8] x) => (float y)"
BN = "BatchNormalization<epsilon=0.001>"


def statistics(channels: int) -> dict[str, Any]:
    """g(amma), o(ffset), m(ean), v(ariance)."""
    return {
        "g": ramp(channels),
        "o": normal(channels, seed=1),
        "m": normal(channels, seed=2),
        "v": ramp(channels, 0.1),
    }


def folded(text: str, constants: dict[str, Any], *, canonical: bool = True) -> tuple[Graph, list[str]]:
    graph = graph_of(text, constants)
    if canonical:
        run(graph, Canonicalize())
    return graph, near_misses(run(graph, *(() if canonical else (Canonicalize(),)), FoldBatchNorm()))


BEHIND: dict[str, tuple[str, dict[str, Any], str]] = {
    "conv": (f"{IMAGE} {{ c = Conv<pads=[1,1,1,1]>(x, w) y = {BN}(c, g, o, m, v) }}", {"w": normal(6, 4, 3, 3), **statistics(6)}, "Conv"),
    "conv with bias": (f"{IMAGE} {{ c = Conv(x, w, b) y = {BN}(c, g, o, m, v) }}", {"w": normal(6, 4, 3, 3), "b": normal(6), **statistics(6)}, "Conv"),
    "grouped": (f"{IMAGE} {{ c = Conv<group=2>(x, w) y = {BN}(c, g, o, m, v) }}", {"w": normal(6, 2, 3, 3), **statistics(6)}, "Conv"),
    "depthwise": (f"{IMAGE} {{ c = Conv<group=4>(x, w) y = {BN}(c, g, o, m, v) }}", {"w": normal(8, 1, 3, 3), **statistics(8)}, "Conv"),
    "transposed": (f"{IMAGE} {{ c = ConvTranspose<strides=[2,2]>(x, w) y = {BN}(c, g, o, m, v) }}", {"w": normal(4, 6, 3, 3), **statistics(6)}, "ConvTranspose"),
    "transposed in groups": (
        f"{IMAGE} {{ c = ConvTranspose<group=2, strides=[2,2], pads=[1,1,1,1]>(x, w, b) y = {BN}(c, g, o, m, v) }}",
        {"w": normal(4, 3, 3, 3), "b": normal(6), **statistics(6)},
        "ConvTranspose",
    ),
    "gemm": (f"{MATRIX} {{ c = Gemm(x, w, b) y = {BN}(c, g, o, m, v) }}", {"w": normal(8, 6), "b": normal(6), **statistics(6)}, "Gemm"),
    "matmul": (f"{MATRIX} {{ c = MatMul(x, w) y = {BN}(c, g, o, m, v) }}", {"w": normal(8, 6), **statistics(6)}, "Gemm"),
    "one dimension": (f"(float[batch,4,9] x) => (float y) {{ c = Conv(x, w) y = {BN}(c, g, o, m, v) }}", {"w": normal(6, 4, 3), **statistics(6)}, "Conv"),
}  # fmt: skip


@pytest.mark.parametrize("case", BEHIND)
def test_into_the_layer_before(case: str) -> None:
    text, constants, op = BEHIND[case]
    graph, misses = folded(text, constants)
    assert ops_of(graph) == {op: 1}
    assert misses == []
    assert graph.nodes[0].inputs[2] is not None


@pytest.mark.parametrize("op", ["Conv", "Gemm"])
def test_gemm_with_the_weight_either_way_round(op: str) -> None:
    if op == "Gemm":
        text = f"{MATRIX} {{ c = Gemm<transB=1>(x, w) y = {BN}(c, g, o, m, v) }}"
        graph = graph_of(text, {"w": normal(6, 8), **statistics(6)})
    else:
        text = f"{IMAGE} {{ c = Conv(x, w) y = {BN}(c, g, o, m, v) }}"
        graph = graph_of(text, {"w": normal(6, 4, 1, 1), **statistics(6)})
    infer_shapes(graph)
    run(graph, FoldBatchNorm())  # without canonicalize
    assert ops_of(graph) == {op: 1}


AHEAD: dict[str, tuple[str, dict[str, Any], str]] = {
    "conv": (f"{IMAGE} {{ n = {BN}(x, g, o, m, v) y = Conv(n, w, b) }}", {"w": normal(6, 4, 3, 3), "b": normal(6), **statistics(4)}, "Conv"),
    "grouped": (f"{IMAGE} {{ n = {BN}(x, g, o, m, v) y = Conv<group=2, strides=[2,2]>(n, w) }}", {"w": normal(6, 2, 3, 3), **statistics(4)}, "Conv"),
    "padded, no shift": (
        f"{IMAGE} {{ n = {BN}(x, g, z, z, v) y = Conv<pads=[1,1,1,1]>(n, w) }}",
        {"w": normal(6, 4, 3, 3), **statistics(4), "z": np.zeros(4, np.float32)},
        "Conv",
    ),
    "gemm": (f"{MATRIX} {{ n = {BN}(x, g, o, m, v) y = Gemm<transB=1>(n, w, b) }}", {"w": normal(6, 8), "b": normal(6), **statistics(8)}, "Gemm"),
}  # fmt: skip


@pytest.mark.parametrize("case", AHEAD)
def test_into_the_layer_behind(case: str) -> None:
    text, constants, op = AHEAD[case]
    graph, misses = folded(text, constants)
    assert ops_of(graph) == {op: 1}
    assert misses == []


CONV = {"w": normal(6, 4, 3, 3), **statistics(6)}
REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "read twice": (
        f"(float[batch,4,6,6] x) => (float y, float z) {{ c = Conv(x, w) y = {BN}(c, g, o, m, v) z = Exp(c) }}",
        CONV,
        "'c' is read by",
    ),
    "graph output": (
        f"(float[batch,4,6,6] x) => (float y, float c) {{ c = Conv(x, w) y = {BN}(c, g, o, m, v) }}",
        CONV,
        "'c' is a graph output",
    ),
    "shared weight": (
        f"(float[batch,4,6,6] x) => (float y, float z) {{ c = Conv(x, w) y = {BN}(c, g, o, m, v) e = Exp(x) z = Conv(e, w) }}",
        CONV,
        "the weight 'w' of Conv:c is also read by Conv:z",
    ),
    "computed weight": (
        f"(float[batch,4,6,6] x, float[6,4,3,3] w) => (float y) {{ c = Conv(x, w) y = {BN}(c, g, o, m, v) }}",
        statistics(6),
        "the weight of Conv:c is not constant",
    ),
    "computed statistics": (
        f"(float[batch,4,6,6] x, float[6] m) => (float y) {{ c = Conv(x, w) y = {BN}(c, g, o, m, v) }}",
        {name: data for name, data in CONV.items() if name != "m"},
        "its parameters are not all constants",
    ),
    "training": (
        f"{IMAGE} {{ c = Conv(x, w) y = BatchNormalization<training_mode=1>(c, g, o, m, v) }}",
        CONV,
        "training mode",
    ),
    "negative variance": (
        f"{IMAGE} {{ c = Conv(x, w) y = {BN}(c, g, o, m, v) }}",
        {**CONV, "v": -ramp(6)},
        "not positive",
    ),
    "shift and padding": (
        f"{IMAGE} {{ n = {BN}(x, g, o, m, v) y = Conv<pads=[1,1,1,1]>(n, w) }}",
        {"w": normal(6, 4, 3, 3), **statistics(4)},
        "pads with zeros",
    ),
    "before a transposed convolution": (
        f"{IMAGE} {{ n = {BN}(x, g, o, m, v) y = ConvTranspose(n, w) }}",
        {"w": normal(4, 6, 3, 3), **statistics(4)},
        "takes no normalization of its input",
    ),
    "several behind": (
        f"(float[batch,4,6,6] x) => (float y, float z) {{ n = {BN}(x, g, o, m, v) y = Conv(n, w) z = Conv(n, u) }}",
        {"w": normal(6, 4, 3, 3), "u": normal(6, 4, 3, 3, seed=1), **statistics(4)},
        "'n' is read by Conv:y, Conv:z",
    ),
    "nothing linear": (
        f"{IMAGE} {{ c = Relu(x) n = {BN}(c, g, o, m, v) y = Relu(n) }}",
        statistics(4),
        "before it is Relu, behind it Relu",
    ),
    "bias per row": (
        f"(float[6,8] x) => (float y) {{ c = Gemm<transB=1>(x, w, b) y = {BN}(c, g, o, m, v) }}",
        {"w": normal(6, 8), "b": normal(6, 1), **statistics(6)},
        "is not one number per channel",
    ),
    "overflow": (
        f"{IMAGE} {{ c = Conv(x, w) y = {BN}(c, g, o, m, v) }}",
        {**CONV, "g": np.full(6, 1e38, np.float32), "w": np.full((6, 4, 3, 3), 1e4, np.float32)},
        "overflow",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_the_reason(case: str) -> None:
    text, constants, reason = REFUSED[case]
    graph = graph_of(text, constants)
    Canonicalize().run(graph, PassContext())
    result = FoldBatchNorm().run(graph, PassContext())
    assert "BatchNormalization" in ops_of(graph)
    assert len(result.diagnostics) == 1
    assert reason in str(result.diagnostics[0])


def test_other_outputs_in_use_are_told() -> None:
    graph = graph_of(
        "(float[batch,4,6,6] x) => (float y, float a, float b) "
        "{ c = Conv(x, w) y, a, b = BatchNormalization<training_mode=1>(c, g, o, m, v) }",
        CONV,
    )
    Canonicalize().run(graph, PassContext())
    assert "further outputs in use" in str(FoldBatchNorm().run(graph, PassContext()).diagnostics[0])


PER_CHANNEL = normal(6, 1, 1)
ARITHMETIC: dict[str, tuple[str, dict[str, Any], dict[str, int]]] = {
    "mul and add": ("m = Mul(c, a) y = Add(b, m)", {"a": PER_CHANNEL, "b": normal(1, 6, 1, 1)}, {"Conv": 1}),
    "sub and div": ("m = Sub(c, a) y = Div(m, b)", {"a": PER_CHANNEL, "b": ramp(6).reshape(6, 1, 1)}, {"Conv": 1}),
    "scalar": ("y = Mul(c, a)", {"a": np.float32(0.3)}, {"Conv": 1}),
    "per pixel": ("y = Mul(c, a)", {"a": normal(4, 4)}, {"Conv": 1, "Mul": 1}),
    "widening": ("y = Add(c, a)", {"a": normal(1, 1, 6, 1, 1)}, {"Conv": 1, "Add": 1}),
    "over a constant": ("y = Div(a, c)", {"a": PER_CHANNEL}, {"Conv": 1, "Div": 1}),
    "hard sigmoid": ("t = Add(c, three) u = Clip(t, zero, six) y = Div(u, six)", {"three": np.float32(3), "zero": np.float32(0), "six": np.float32(6)}, {"Conv": 1, "Add": 1, "Clip": 1, "Div": 1}),
}  # fmt: skip


@pytest.mark.parametrize("case", ARITHMETIC)
def test_arithmetic_behind_a_convolution(case: str) -> None:
    body, constants, expected = ARITHMETIC[case]
    graph, _ = folded(f"{IMAGE} {{ c = Conv(x, w) {body} }}", {"w": normal(6, 4, 3, 3), **constants})
    assert ops_of(graph) == expected


def test_arithmetic_behind_other_layers() -> None:
    graph, _ = folded(
        "(float[batch,4,8] x) => (float y, float z) "
        "{ c = MatMul(x, w) y = Mul(c, a) t = ConvTranspose<group=2>(y, u) m = Mul(t, d) z = Add(m, e) }",
        {"w": normal(8, 6), "a": normal(6), "u": normal(4, 3, 2), "d": normal(6, 1), "e": normal(6, 1)},
    )
    assert ops_of(graph) == {"MatMul": 1, "ConvTranspose": 1}


def test_a_bias_does_not_need_the_weight_for_itself() -> None:
    graph, _ = folded(
        "(float[batch,4,6,6] x) => (float y, float z) { c = Conv(x, w) y = Add(c, a) e = Exp(x) d = Conv(e, w) z = Mul(d, a) }",
        {"w": normal(6, 4, 3, 3), "a": PER_CHANNEL},
    )
    assert ops_of(graph) == {"Conv": 2, "Exp": 1, "Mul": 1}


def test_a_shared_constant_per_channel_is_told_only_if_per_channel() -> None:
    _, misses = folded(
        "(float[batch,4,6,6] x) => (float y, float z) { c = Conv(x, w) y = Mul(c, a) z = Mul(c, s) }",
        {"w": normal(6, 4, 3, 3), "a": PER_CHANNEL, "s": np.float32(2)},
    )
    assert len(misses) == 1
    assert "fold per-channel arithmetic does not apply" in misses[0]


def test_names_and_origins() -> None:
    graph = graph_of(
        f"{IMAGE} {{ c = Conv(x, w) n = {BN}(c, g, o, m, v) y = Relu(n) }}",
        {"w": normal(6, 4, 3, 3), **statistics(6)},
    )
    run(graph, Canonicalize(), FoldBatchNorm())
    conv = graph.nodes[0]
    assert conv.name == "Conv:c"
    assert conv.origin == ("Conv:c", "BatchNormalization:n")
    assert lines(graph)[0].startswith("n = Conv(x, @w:float32[6,4,3,3], @float32:[")


def test_weights_are_computed_in_double_precision() -> None:
    constants = {"w": normal(6, 4, 1, 1), **statistics(6)}
    graph, _ = folded(f"{IMAGE} {{ c = Conv(x, w) y = {BN}(c, g, o, m, v) }}", constants)
    scale = constants["g"].astype(np.float64) / np.sqrt(
        constants["v"].astype(np.float64) + np.float64(np.float32(0.001))
    )
    expected = (constants["w"] * scale[:, None, None, None]).astype(np.float32)
    weight = graph.nodes[0].inputs[1]
    assert weight is not None
    np.testing.assert_array_equal(weight.data, expected)
