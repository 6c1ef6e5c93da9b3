"""decompose_activations: the same numbers from simpler operators; factors and offsets go into layers where they can."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from quantized import quantize
from small_graphs import FLOAT_PASSES, graph_of, lines, near_misses, normal, ops_of, run

from qcompiler.errors import OptionError
from qcompiler.ir.encoding import FORMATS, Encoding
from qcompiler.ir.graph import Graph
from qcompiler.ir.onnx_export import to_onnx
from qcompiler.ir.onnx_import import import_model
from qcompiler.observed import IMPORTED
from qcompiler.pass_manager import PassContext
from qcompiler.passes.canonicalize import Canonicalize
from qcompiler.passes.decompose_activations import DecomposeActivations
from qcompiler.pipeline import PassRecord, Pipeline
from qcompiler.runtime import Session

X = "(float[n,4,5,5] x) => (float y)"
W: dict[str, Any] = {
    "w": normal(6, 4, 3, 3) / 6,
    "v": normal(5, 6, 1, 1),
    "u": normal(6, 1, 3, 3),
    "t": normal(6, 3, 2, 2),
    "m": normal(3, 5),
    "b": normal(6),
}


def decomposed(
    body: str, head: str = X, *, imported: dict[str, Encoding] | None = None, **options: Any
) -> tuple[Graph, PassRecord]:
    words = set(body.replace(",", " ").replace("(", " ").replace(")", " ").split())
    graph = graph_of(f"{head} {{ {body} }}", {name: data for name, data in W.items() if name in words})
    run(graph, *FLOAT_PASSES)
    if imported is not None:
        graph.facts[IMPORTED] = imported
    (record,) = run(graph, DecomposeActivations(**options))
    (again,) = run(graph.copy(), Canonicalize())
    assert not again.counts
    assert all(value.shape is not None for value in graph.values)
    assert ops_of(import_model(to_onnx(graph))) == ops_of(graph) or "Swish" in ops_of(graph)
    return graph, record


ALONE = {
    "hard swish": ("y = HardSwish(x)", "HardSwish", [
        "x.add = Add(x, @float32:3.0) : float32[n,4,5,5]",
        "x.add.clip = Clip(x.add, @float32:0.0, @float32:6.0) : float32[n,4,5,5]",
        "x.mul = Mul(x, x.add.clip) : float32[n,4,5,5]",
        "y = Mul(x.mul, @float32:0.16666667) : float32[n,4,5,5]",
    ]),
    "hard sigmoid": ("y = HardSigmoid<alpha=0.25, beta=0.125>(x)", "HardSigmoid", [
        "x.mul = Mul(x, @float32:0.25) : float32[n,4,5,5]",
        "x.mul.add = Add(x.mul, @float32:0.125) : float32[n,4,5,5]",
        "y = Clip(x.mul.add, @float32:0.0, @float32:1.0) : float32[n,4,5,5]",
    ]),
    "hard sigmoid by default": ("y = HardSigmoid(x)", "HardSigmoid", [
        "x.mul = Mul(x, @float32:0.2) : float32[n,4,5,5]",
        "x.mul.add = Add(x.mul, @float32:0.5) : float32[n,4,5,5]",
        "y = Clip(x.mul.add, @float32:0.0, @float32:1.0) : float32[n,4,5,5]",
    ]),
    "hard sigmoid of nothing but bounds": ("y = HardSigmoid<alpha=1.0, beta=0.0>(x)", "HardSigmoid", [
        "y = Clip(x, @float32:0.0, @float32:1.0) : float32[n,4,5,5]",
    ]),
    "swish": ("s = Sigmoid(x) y = Mul(s, x)", "Swish", [
        "x.sigmoid = Sigmoid(x) : float32[n,4,5,5]",
        "y = Mul(x, x.sigmoid) : float32[n,4,5,5]",
    ]),
    "leaky relu": ("y = LeakyRelu<alpha=0.125>(x)", "LeakyRelu", ["y = PRelu(x, @float32:[[[0.125]]]) : float32[n,4,5,5]"]),
    "leaky relu by default": ("y = LeakyRelu(x)", "LeakyRelu", ["y = PRelu(x, @float32:[[[0.01]]]) : float32[n,4,5,5]"]),
}  # fmt: skip


@pytest.mark.parametrize("case", ALONE)
def test_alone(case: str) -> None:
    body, op, expected = ALONE[case]
    graph, record = decomposed(body)
    assert lines(graph) == expected
    assert record.counts == {f"decompose {op}": 1}
    assert near_misses([record]) == []
    kept, nothing = decomposed(body, ops=())
    assert (ops_of(kept), nothing.counts) == ({op: 1}, {})


@pytest.mark.parametrize("shape", ["n", "n,3", "n,3,4", "n,2,3,4,5"])
@pytest.mark.parametrize("op", ["HardSwish", "HardSigmoid", "LeakyRelu"])
def test_other_ranks(op: str, shape: str) -> None:
    graph, _ = decomposed(f"y = {op}(x)", f"(float[{shape}] x) => (float y)")
    assert op not in ops_of(graph)


def test_swish_with_a_slope() -> None:
    """Swish of opset 24 has one, but cannot be run here."""
    graph = graph_of(f"{X} {{ s = Sigmoid(x) y = Mul(s, x) }}")
    run(graph, *FLOAT_PASSES)
    (node,) = graph.nodes
    graph.set_attribute(node, "alpha", 2.0)
    Pipeline((DecomposeActivations(),)).run(graph, PassContext())
    assert lines(graph) == [
        "x.mul = Mul(x, @float32:2.0) : float32[n,4,5,5]",
        "x.mul.sigmoid = Sigmoid(x.mul) : float32[n,4,5,5]",
        "y = Mul(x, x.mul.sigmoid) : float32[n,4,5,5]",
    ]


@pytest.mark.parametrize("ops", [("HardSwish",), ("LeakyRelu", "Swish"), ("HardSigmoid", "HardSigmoid")])
def test_only_what_is_asked_for(ops: tuple[str, ...]) -> None:
    body = "p = HardSwish(x) q = LeakyRelu(p) s = Sigmoid(q) r = Mul(s, q) h = HardSigmoid(r) g = Gelu(h) y = Mish(g)"
    graph, record = decomposed(body, ops=ops)
    left = {"HardSwish", "HardSigmoid", "Swish", "LeakyRelu", "Gelu", "Mish"} - set(ops)
    assert left <= set(ops_of(graph))
    assert not set(ops) & set(ops_of(graph))
    assert record.counts == {f"decompose {op}": 1 for op in ops}


@pytest.mark.parametrize("op", ["Gelu", "Mish", "Relu"])
def test_others_cannot_be_asked_for(op: str) -> None:
    with pytest.raises(OptionError, match=f"'ops' of the pass decompose_activations is '{op}'"):
        DecomposeActivations.from_options({"ops": f"HardSwish+{op}"})


LAYERS = {
    "convolution": ("c = Conv(x, w, b) y = HardSigmoid(c)", X, "Conv"),
    "without bias": ("c = Conv<pads=[1,1,1,1]>(x, w) y = HardSigmoid<alpha=0.16666667>(c)", X, "Conv"),
    "transposed": ("c = ConvTranspose<group=2>(x, t, b) y = HardSigmoid(c)", "(float[n,6,5,5] x) => (float y)", "ConvTranspose"),
    "gemm": ("c = Gemm(x, m) y = HardSigmoid(c)", "(float[n,3] x) => (float y)", "Gemm"),
}  # fmt: skip


@pytest.mark.parametrize("case", LAYERS)
def test_a_hard_sigmoid_goes_into_the_layer_before_it(case: str) -> None:
    body, head, op = LAYERS[case]
    graph, record = decomposed(body, head)
    assert [node.op for node in graph.nodes] == [op, "Clip"]
    assert record.counts == {"decompose HardSigmoid": 1}
    assert not graph.has_value("c"), "its numbers are others now"


@pytest.mark.parametrize(
    ("body", "head"),
    [
        ("c = Conv(x, w, b) h = HardSigmoid(c) y = Add(h, c)", X),
        ("c = Conv(x, w, b) y = HardSigmoid(c)", "(float[n,4,5,5] x) => (float y, float c)"),
        ("c = Conv(x, k) y = HardSigmoid(c)", "(float[n,4,5,5] x, float[2,4,1,1] k) => (float y)"),
        ("c = Conv(x, w) d = Conv(x, w) e = HardSigmoid(c) y = Add(d, e)", X),
        ("c = MatMul(x, m) y = HardSigmoid(c)", "(float[n,2,3] x) => (float y)"),
    ],
)
def test_a_layer_that_cannot_be_changed_is_not(body: str, head: str) -> None:
    graph, _ = decomposed(body, head)
    assert [node.op for node in graph.nodes if node.op in ("Mul", "Clip")] == ["Mul", "Clip"]


BEHIND = {
    "convolution": ("c = Conv(x, w, b) h = HardSwish(c) y = Conv<pads=[1,1,1,1]>(h, v)", {"Conv": 2}),
    "depthwise": ("c = Conv(x, w, b) h = HardSwish(c) y = Conv<group=6>(h, u, b)", {"Conv": 2}),
    "two": ("c = Conv(x, w) h = HardSwish(c) d = Conv(h, v) e = ConvTranspose<group=2>(h, t) z = Neg(e) y = GlobalAveragePool(z) q = Neg(d)", {"Conv": 2, "ConvTranspose": 1, "Neg": 1, "GlobalAveragePool": 1}),
}  # fmt: skip


@pytest.mark.parametrize("case", BEHIND)
def test_the_sixth_of_a_hard_swish_goes_into_the_layers_behind_it(case: str) -> None:
    body, others = BEHIND[case]
    graph, record = decomposed(body)
    others = others | ({"Conv": 1} if case == "two" else {})
    made = ops_of(graph)
    assert made == {"Add": 1, "Clip": 1, "Mul": 1, **{op: made[op] for op in others}}
    assert record.counts == {"decompose HardSwish": 1}
    assert not graph.has_value("h")


@pytest.mark.parametrize(
    ("body", "head"),
    [
        ("h = HardSwish(x) c = Conv(h, w) y = GlobalAveragePool(h)", "(float[n,4,5,5] x) => (float y, float c)"),
        ("h = HardSwish(x) y = Conv(h, w)", "(float[n,4,5,5] x) => (float y, float h)"),
        ("h = HardSwish(x) y = Conv(x, h)", "(float[2,2,2,2] x) => (float y)"),
        ("h = HardSwish(x) c = Conv(h, w) d = Conv(c, v) e = Conv(h, w) y = Add(e, c)", "(float[n,4,5,5] x) => (float y, float d)"),
        ("h = HardSwish(x) y = Conv(h, k)", "(float[n,4,5,5] x, float[2,4,1,1] k) => (float y)"),
    ],
)  # fmt: skip
def test_otherwise_it_stays(body: str, head: str) -> None:
    graph, _ = decomposed(body, head)
    assert ops_of(graph)["Mul"] == 2


def test_weights_that_came_with_an_encoding_are_not_changed() -> None:
    given = Encoding(FORMATS["int8"], np.float32(0.5), np.int32(0))
    graph, _ = decomposed("c = Conv(x, w, b) y = HardSigmoid(c)", imported={"w": given})
    assert ops_of(graph) == {"Conv": 1, "Mul": 1, "Add": 1, "Clip": 1}
    graph, _ = decomposed("h = HardSwish(x) y = Conv(h, w)", imported={"w": given})
    assert ops_of(graph)["Mul"] == 2
    graph, _ = decomposed("h = HardSwish(x) y = Conv(h, w)", imported={"x": given})
    assert ops_of(graph)["Mul"] == 1


def test_what_is_no_float_is_left_alone() -> None:
    graph = graph_of(f"{X} {{ y = HardSwish(x) }}")
    run(graph, Canonicalize())
    graph.inputs[0].dtype = None
    (record,) = Pipeline((DecomposeActivations(),)).run(graph, PassContext())
    assert ops_of(graph) == {"HardSwish": 1}
    (said,) = near_misses([record])
    assert "the type of its operand is not known" in said


def test_rewrites_are_asked_for() -> None:
    graph = graph_of(f"{X} {{ a = LeakyRelu(x) b = LeakyRelu(a) y = LeakyRelu(b) }}")
    run(graph, Canonicalize())
    Pipeline((DecomposeActivations(),)).run(graph, PassContext(fuel=2))
    assert ops_of(graph) == {"PRelu": 2, "LeakyRelu": 1}


def test_no_precision_is_lost_to_the_parts() -> None:
    """In int8, three kernels come within 0.2 dB of one that computes the whole."""
    graph = graph_of(
        "(float[n,4,8,8] x) => (float y) { c = Conv(x, w, b) h = HardSwish(c) y = Conv(h, v) }",
        {name: W[name] for name in "wvb"},
    )
    passes = "canonicalize,{}channels_last"
    whole = quantize(graph, "cmsis-nn", prepare=passes.format(""))
    parts = quantize(graph, "cmsis-nn", prepare=passes.format("decompose_activations,"))
    assert len(parts.plan.regions) == len(whole.plan.regions) + 1
    assert parts.sqnr() > whole.sqnr() - 0.2


@settings(max_examples=40, deadline=None)
@given(
    op=st.sampled_from(["HardSwish", "HardSigmoid", "LeakyRelu"]),
    alpha=st.floats(-2, 2, width=32),
    beta=st.floats(-2, 2, width=32),
    before=st.booleans(),
    behind=st.booleans(),
)
def test_the_function_is_the_same(op: str, alpha: float, beta: float, before: bool, behind: bool) -> None:
    attributes = {
        "HardSwish": "",
        "HardSigmoid": f"<alpha={alpha:.8f}, beta={beta:.8f}>",
        "LeakyRelu": f"<alpha={alpha:.8f}>",
    }[op]
    first, last = "c = Conv(x, w)" if before else "c = Neg(x)", "y = Conv(h, v)" if behind else "y = Neg(h)"
    channels = 6 if before else 4
    graph = graph_of(
        f"(float[n,4,5,5] x) => (float y) {{ {first} h = {op}{attributes}(c) {last} }}",
        {**({"w": 3 * W["w"]} if before else {}), **({"v": normal(2, channels, 1, 1)} if behind else {})},
    )
    run(graph, Canonicalize())
    feeds = {"x": np.linspace(-9, 9, 300, dtype=np.float32).reshape(3, 4, 5, 5)}
    expected = Session(graph, optimize=False).run(feeds)["y"]
    run(graph, DecomposeActivations())
    made = Session(graph, optimize=False).run(feeds)["y"]
    np.testing.assert_allclose(made, expected, rtol=0, atol=1e-5 * max(1, np.abs(expected).max()))
    assert op not in ops_of(graph)
