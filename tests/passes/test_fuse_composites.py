"""fuse_composites: exporter spellings become one operator, near misses are explained."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from small_graphs import graph_of, lines, near_misses, normal, ops_of, ramp, run

from qcompiler.ir.graph import Graph
from qcompiler.ir.onnx_export import to_onnx
from qcompiler.ir.onnx_import import import_model
from qcompiler.ir.shapes import infer_shapes
from qcompiler.passes.canonicalize import Canonicalize
from qcompiler.passes.fuse_composites import FuseComposites

X = "(float[batch,5,8] x) => (float y)"
TWO = "(float[batch,5,8] x) => (float y, float z)"
NUMBERS: dict[str, float] = {
    "half": 0.5, "one": 1.0, "two": 2.0, "three": 3.0, "six": 6.0, "zero": 0.0, "sixth": 1 / 6, "root2": 2**0.5, "iroot2": 0.5**0.5,
    "k": (2 / np.pi) ** 0.5, "c": 0.044715, "eps": 1e-5, "minus": -0.5,
}  # fmt: skip


def constants(**more: Any) -> dict[str, Any]:
    return {
        **{name: np.float32(number) for name, number in NUMBERS.items()},
        "last": np.array([-1], np.int64),
        **more,
    }


def used(text: str, given: dict[str, Any]) -> dict[str, Any]:
    words = set(text.replace(",", " ").replace("(", " ").replace(")", " ").split())
    return {name: data for name, data in given.items() if name in words}


def fused(body: str, header: str = X, *, canonical: bool = True, **more: Any) -> tuple[Graph, list[str]]:
    graph = graph_of(f"{header} {{ {body} }}", used(body, constants(**more)))
    records = run(graph, *((Canonicalize(),) if canonical else ()), _shaped(graph, canonical))
    return graph, near_misses(records)


def _shaped(graph: Graph, canonical: bool) -> FuseComposites:
    if not canonical:
        infer_shapes(graph)
    return FuseComposites()


GELU_TAILS = [
    "a = Add(e, one) b = Mul(x, a) y = Mul(b, half)",
    "a = Add(one, e) b = Mul(a, half) y = Mul(b, x)",
    "h = Mul(half, x) a = Add(e, one) y = Mul(h, a)",
    "h = Div(x, two) a = Add(e, one) y = Mul(a, h)",
    "a = Add(e, one) b = Mul(x, a) y = Div(b, two)",
    "h = Mul(e, half) a = Add(h, half) y = Mul(x, a)",
]


@pytest.mark.parametrize("canonical", [True, False])
@pytest.mark.parametrize("tail", range(len(GELU_TAILS)))
@pytest.mark.parametrize("head", ["s = Div(x, root2)", "s = Mul(iroot2, x)"])
def test_gelu(head: str, tail: int, canonical: bool) -> None:
    graph, misses = fused(f"{head} e = Erf(s) {GELU_TAILS[tail]}", canonical=canonical)
    assert lines(graph) == ["y = Gelu(x) {approximate='none'} : float32[batch,5,8]"]
    assert misses == []


GELU_TANH = [
    "p = Pow(x, three) q = Mul(p, c) r = Add(x, q) s = Mul(r, k)",
    "p = Mul(x, x) q = Mul(p, x) u = Mul(c, q) r = Add(u, x) s = Mul(k, r)",
    "u = Mul(x, c) p = Mul(x, x) q = Mul(u, p) r = Add(x, q) s = Mul(r, k)",
    "u = Mul(x, c) p = Mul(u, x) q = Mul(p, x) r = Add(x, q) s = Mul(r, k)",
    "a0 = Mul(x, k) u = Mul(x, c) p = Mul(u, x) r = Add(p, one) s = Mul(a0, r)",
    "p = Mul(x, x) u = Mul(p, c) r = Add(one, u) v = Mul(x, r) s = Mul(v, k)",
]


@pytest.mark.parametrize("tail", [0, 2])
@pytest.mark.parametrize("head", range(len(GELU_TANH)))
def test_gelu_by_tanh(head: int, tail: int) -> None:
    graph, _ = fused(f"{GELU_TANH[head]} e = Tanh(s) {GELU_TAILS[tail]}")
    assert lines(graph) == ["y = Gelu(x) {approximate='tanh'} : float32[batch,5,8]"]


HARD_SWISH = [
    "a = Add(x, three) b = Clip(a, zero, six) d = Div(b, six) y = Mul(x, d)",
    "a = Add(three, x) b = Clip(a, zero, six) d = Mul(b, sixth) y = Mul(d, x)",
    "a = Add(x, three) b = Clip(a, zero, six) d = Mul(x, b) y = Div(d, six)",
    "a = Add(x, three) b = Clip(a, zero, six) d = Mul(x, b) y = Mul(d, sixth)",
    "a = Add(x, three) r = Relu(a) b = Min(r, six) d = Mul(x, b) y = Mul(d, sixth)",
    "a = Add(x, three) b = Clip(a, zero, six) d = Div(x, six) y = Mul(d, b)",
    "b = HardSigmoid<alpha=0.16666667, beta=0.5>(x) y = Mul(x, b)",
]


@pytest.mark.parametrize("body", HARD_SWISH)
def test_hard_swish(body: str) -> None:
    graph, misses = fused(body)
    assert lines(graph) == ["y = HardSwish(x) : float32[batch,5,8]"]
    assert misses == []


def test_hard_sigmoid() -> None:
    graph, misses = fused("a = Add(x, three) b = Clip(a, zero, six) y = Div(b, six)")
    assert lines(graph) == ["y = HardSigmoid(x) {alpha=0.16666667, beta=0.5} : float32[batch,5,8]"]
    assert misses == []


SIMPLE: dict[str, tuple[str, str]] = {
    "swish": ("s = Sigmoid(x) y = Mul(s, x)", "y = qcompiler.Swish(x) : float32[batch,5,8]"),
    "mish": ("s = Softplus(x) t = Tanh(s) y = Mul(x, t)", "y = Mish(x) : float32[batch,5,8]"),
    "mish spelled out": ("e = Exp(x) a = Add(e, one) s = Log(a) t = Tanh(s) y = Mul(x, t)", "y = Mish(x) : float32[batch,5,8]"),
    "softmax": ("e = Exp(x) s = ReduceSum(e, last) y = Div(e, s)", "y = Softmax(x) {axis=-1} : float32[batch,5,8]"),
    "stable softmax": (
        "m = ReduceMax(x, last) d = Sub(x, m) e = Exp(d) s = ReduceSum(e, last) y = Div(e, s)",
        "y = Softmax(x) {axis=-1} : float32[batch,5,8]",
    ),
    "softmax by reciprocal": (
        "m = ReduceMax(x, last) d = Sub(x, m) e = Exp(d) s = ReduceSum(e, last) r = Reciprocal(s) y = Mul(e, r)",
        "y = Softmax(x) {axis=-1} : float32[batch,5,8]",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", SIMPLE)
def test_one_operator(case: str) -> None:
    body, expected = SIMPLE[case]
    assert lines(fused(body)[0]) == [expected]


def test_softmax_over_another_axis() -> None:
    graph, _ = fused("e = Exp(x) s = ReduceSum(e, first) y = Div(e, s)", first=np.array([1], np.int64))
    assert lines(graph) == ["y = Softmax(x) {axis=1} : float32[batch,5,8]"]


CENTERED = "m = ReduceMean(x, last) d = Sub(x, m)"
VARIANCE = ["p = Pow(d, two) v = ReduceMean(p, last)", "p = Mul(d, d) v = ReduceMean(p, last)"]
ROOTS = [
    "a = Add(v, eps) r = Sqrt(a) n = Div(d, r)",
    "a = Add(eps, v) r = Sqrt(a) i = Div(one, r) n = Mul(d, i)",
    "a = Add(v, eps) r = Sqrt(a) i = Reciprocal(r) n = Mul(i, d)",
    "a = Add(v, eps) i = Pow(a, minus) n = Mul(d, i)",
]


@pytest.mark.parametrize("root", ROOTS)
@pytest.mark.parametrize("variance", VARIANCE)
def test_layer_norm(variance: str, root: str) -> None:
    body = f"{CENTERED} {variance} {root} s = Mul(n, gain) y = Add(shift, s)"
    graph, misses = fused(body, gain=ramp(8), shift=normal(8))
    assert ops_of(graph) == {"LayerNormalization": 1}
    assert misses == []
    node = graph.nodes[0]
    assert node.attributes == {"axis": -1, "epsilon": pytest.approx(1e-5), "stash_type": 1}
    assert [value.name if value is not None else None for value in node.inputs] == ["x", "gain", "shift"]


@pytest.mark.parametrize(
    ("tail", "inputs"),
    [("y = Exp(n)", 2), ("y = Mul(n, gain)", 2), ("y = Add(n, gain)", 3), ("s = Mul(n, gain) t = Mul(s, half) u = Add(t, gain) y = Mul(u, gain)", 3)],
)  # fmt: skip
def test_layer_norm_with_less_and_more(tail: str, inputs: int) -> None:
    graph, _ = fused(f"{CENTERED} {VARIANCE[0]} {ROOTS[0]} {tail}", gain=ramp(8))
    assert len(graph.nodes[0].inputs) == inputs
    assert ops_of(graph) in ({"LayerNormalization": 1}, {"LayerNormalization": 1, "Exp": 1})


def test_layer_norm_over_two_axes_with_the_difference_written_twice() -> None:
    body = (
        "m = ReduceMean(x, axes) d = Sub(x, m) f = Sub(x, m) p = Pow(f, two) v = ReduceMean(p, axes) "
        "a = Add(v, eps) r = Sqrt(a) n = Div(d, r) y = Mul(n, gain)"
    )
    graph, _ = fused(body, axes=np.array([1, 2], np.int64), gain=normal(5, 8))
    assert ops_of(graph) == {"LayerNormalization": 1}
    assert graph.nodes[0].attributes["axis"] == -2


def test_a_scale_along_another_axis_stays_outside() -> None:
    graph, _ = fused(f"{CENTERED} {VARIANCE[0]} {ROOTS[0]} y = Mul(n, gain)", gain=normal(5, 1))
    assert ops_of(graph) == {"LayerNormalization": 1, "Mul": 1}


def test_layer_norm_whose_mean_is_needed_elsewhere_keeps_the_subtraction() -> None:
    graph, _ = fused(f"{CENTERED} {VARIANCE[0]} {ROOTS[0]} y = Mul(n, gain) z = Exp(m)", TWO, gain=ramp(8))
    assert ops_of(graph) == {"ReduceMean": 1, "Sub": 1, "RMSNormalization": 1, "Exp": 1}


@pytest.mark.parametrize("root", ROOTS)
def test_rms_norm(root: str) -> None:
    body = f"p = Pow(x, two) v = ReduceMean(p, last) {root.replace('(d,', '(x,').replace(', d)', ', x)')} y = Mul(gain, n)"
    graph, misses = fused(body, X.replace("8", "9"), gain=ramp(9))
    assert lines(graph) == [
        "y = qcompiler.RMSNormalization(x, @gain:float32[9]) {axis=-1, epsilon=1e-05} : float32[batch,5,9]"
    ]
    assert misses == []


def test_composites_survive_export() -> None:
    graph, _ = fused("s = Sigmoid(x) y = Mul(s, x)")
    again = import_model(to_onnx(graph, inline=True))
    assert ops_of(again) == {"Sigmoid": 1, "Mul": 1}


MISSES: dict[str, tuple[str, str, str]] = {
    "gelu constant": (X, "s = Div(x, wrong) e = Erf(s) a = Add(e, one) b = Mul(x, a) y = Mul(b, half)", "is 1.5, not 1.4142136"),
    "gelu leak": (TWO, "s = Div(x, root2) e = Erf(s) a = Add(e, one) b = Mul(x, a) y = Mul(b, half) z = Exp(a)", "used 2 times"),
    "gelu output": (
        "(float[batch,5,8] x) => (float y, float e)",
        "s = Div(x, root2) e = Erf(s) a = Add(e, one) b = Mul(x, a) y = Mul(b, half)",
        "'e' is a graph output",
    ),
    "gelu of two values": (
        "(float[batch,5,8] x, float[batch,5,8] w) => (float y)",
        "s = Div(x, root2) e = Erf(s) a = Add(e, one) b = Mul(w, a) y = Mul(b, half)",
        "'w' here and 'x' elsewhere",
    ),
    "layer norm axes": (
        X,
        "m = ReduceMean(x, mid) d = Sub(x, m) p = Pow(d, two) v = ReduceMean(p, mid) a = Add(v, eps) r = Sqrt(a) y = Div(d, r)",
        "the axes [1] are not the last ones of 3",
    ),
    "hard swish": (X, "b = HardSigmoid(x) y = Mul(x, b)", "alpha 0.2 and beta 0.5"),
    "hard sigmoid": (X, "a = Add(x, three) b = Clip(a, zero, five) y = Div(b, six)", "the bounds are 0 and 5, not 0 and 6"),
    "swish": (TWO, "s = Sigmoid(x) y = Mul(s, x) z = Exp(s)", "Mul Mul:y follows, but 's' is used 2 times"),
    "softmax": (X, "e = Exp(x) s = ReduceSum(e, both) y = Div(e, s)", "sums over several axes"),
    "widening": ("(float[8] x) => (float y)", "s = Div(x, root2) e = Erf(s) a = Add(e, wide) b = Mul(x, a) y = Mul(b, half)", "may widen"),
}  # fmt: skip


@pytest.mark.parametrize("case", MISSES)
def test_near_misses_are_explained(case: str) -> None:
    header, body, reason = MISSES[case]
    graph, misses = fused(
        body, header, wrong=np.float32(1.5), five=np.float32(5), wide=np.ones((1, 1), np.float32),
        mid=np.array([1], np.int64), both=np.array([1, 2], np.int64),
    )  # fmt: skip
    assert any(reason in miss for miss in misses), misses
    assert not {"Gelu", "HardSwish", "Swish", "LayerNormalization", "Softmax"} & set(ops_of(graph))


def test_a_gate_is_no_near_miss() -> None:
    _, misses = fused("s = Sigmoid(x) y = Mul(s, w)", "(float[batch,5,8] x, float[batch,5,8] w) => (float y)")
    assert misses == []


def test_a_residual_relu6_is_no_near_miss() -> None:
    _, misses = fused(
        "a = Add(x, w) y = Clip(a, zero, six)", "(float[batch,5,8] x, float[batch,5,8] w) => (float y)"
    )
    assert misses == []


def test_origins_cover_the_whole() -> None:
    graph, _ = fused("s = Sigmoid(x) y = Mul(s, x)")
    assert graph.nodes[0].origin == ("Sigmoid:s", "Mul:y")
