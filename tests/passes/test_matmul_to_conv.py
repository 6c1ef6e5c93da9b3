"""matmul_to_conv: products of many rows are convolutions, the Transposes around them move nothing; single rows stay."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_graphs import graph_of, lines, near_misses, normal, ops_of, run

from qcompiler import ops
from qcompiler.ir.encoding import FORMATS, Encoding
from qcompiler.ir.graph import Graph
from qcompiler.ir.onnx_export import to_onnx
from qcompiler.ir.onnx_import import import_model
from qcompiler.layout import LAYOUT
from qcompiler.observed import IMPORTED
from qcompiler.pass_manager import PassContext
from qcompiler.passes.canonicalize import Canonicalize
from qcompiler.passes.channels_last import ChannelsLast
from qcompiler.passes.matmul_to_conv import MatmulToConv
from qcompiler.pipeline import PassRecord, Pipeline

W: dict[str, Any] = {
    "k": normal(8, 6) / 3,
    "l": normal(6, 5) / 3,
    "b": normal(6),
    "wide": normal(1, 1, 6),
    "one": np.float32(2),
    "places": normal(5, 6),
    "stack": normal(2, 8, 6),
    "low": np.float32(-0.5),
    "high": np.float32(1),
    "matrix": np.array([-1, 8]),
    "rows": np.array([1, 5, 6]),
}
ROWS = "(float[n,5,8] x) => (float y)"


def converted(text: str, constants: dict[str, Any] | None = None, **options: Any) -> tuple[Graph, PassRecord]:
    """The graph after the pass; `channels_last` then has to find orders in which nothing moves, unless other operators want some."""
    words = set(re.findall(r"\w+", text))
    graph = graph_of(text, {name: data for name, data in (constants or W).items() if name in words})
    run(graph, Canonicalize())
    (record,) = run(graph, MatmulToConv(**options))
    (again,) = run(graph.copy(), Canonicalize())
    assert not again.counts
    assert all(value.shape is not None for value in graph.values)
    assert ops_of(import_model(to_onnx(graph))) == ops_of(graph)
    return graph, record


def moved(graph: Graph) -> list[str]:
    """What is transposed at run time: nodes that rearrange and are not free, and what `channels_last` says."""
    (record,) = run(graph, ChannelsLast())
    layout = graph.facts[LAYOUT]
    busy = [
        node.name
        for node in graph.nodes
        if ops.info(node).layout in ("transpose", "reshape") and not layout.is_free(node)
    ]
    return [*busy, *(str(item) for item in record.diagnostics)]


CASES: dict[str, tuple[str, str, dict[str, int]]] = {
    "rows": ("n,5,8", "y = MatMul(x, k)", {}),
    "rows and columns": ("n,3,5,8", "y = MatMul(x, k)", {}),
    "open rows": ("n,t,8", "y = MatMul(x, k)", {}),
    "open rows and columns": ("n,t,s,8", "y = MatMul(x, k)", {}),
    "bias": ("n,5,8", "a = MatMul(x, k) y = Add(b, a)", {}),
    "bias of three axes": ("n,5,8", "a = MatMul(x, k) y = Add(a, wide)", {}),
    "bias of one number": ("n,5,8", "a = MatMul(x, k) y = Add(a, one)", {}),
    "relu": ("n,5,8", "a = MatMul(x, k) c = Add(a, b) y = Relu(c)", {"Relu": 1}),
    "clip": ("n,5,8", "a = MatMul(x, k) y = Clip(a, low, high)", {"Clip": 1}),
    "no bias": ("n,5,8", "a = MatMul(x, k) c = Add(a, places) y = Relu(c)", {"Add": 1, "Relu": 1}),
    "another activation": ("n,5,8", "a = MatMul(x, k) y = Gelu(a)", {"Gelu": 1}),
    "many axes": ("n,2,3,5,8", "a = MatMul(x, k) y = Add(a, b)", {"Reshape": 2}),
    "many axes, one open": ("n,2,t,5,8", "y = MatMul(x, k)", {"Reshape": 2}),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_rows_are_pixels(case: str) -> None:
    shape, body, others = CASES[case]
    graph, record = converted(f"(float[{shape}] x) => (float y) {{ {body} }}")
    assert ops_of(graph) == {"Transpose": 2, "Conv": 1, **others}
    assert record.counts == {"write MatMul as Conv": 1}
    assert near_misses([record]) == []
    assert moved(graph) == []


def test_as_text() -> None:
    graph, _ = converted(
        f"{ROWS} {{ a = MatMul(x, k) c = Add(a, b) r = Relu(c) y = Neg(r) }}",
        {**W, "b": np.arange(6, dtype=np.float32)},
    )
    attributes = "{dilations=[1], group=1, kernel_shape=[1], pads=[0,0], strides=[1]}"
    assert lines(graph) == [
        "x.transposed = Transpose(x) {perm=[0,2,1]} : float32[n,8,5]",
        f"a.conv = Conv(x.transposed, @k.filters:float32[6,8,1], @float32:[0.0,1.0,2.0,3.0,4.0,5.0]) {attributes} : float32[n,6,5]",
        "r.conv = Relu(a.conv) : float32[n,6,5]",
        "r = Transpose(r.conv) {perm=[0,2,1]} : float32[n,5,6]",
        "y = Neg(r) : float32[n,5,6]",
    ]
    assert graph.node("Conv:a.conv").origin == ("MatMul:a", "Add:c", "Relu:r")


def test_nothing_stands_between_two_products() -> None:
    graph, record = converted(f"{ROWS} {{ a = MatMul(x, k) c = Add(a, b) r = Relu(c) y = MatMul(r, l) }}")
    assert [node.op for node in graph.nodes] == ["Transpose", "Conv", "Relu", "Conv", "Transpose"]
    assert record.counts == {"write MatMul as Conv": 2, "merge Transposes": 1}
    assert moved(graph) == []


def test_many_axes_stay_one_between_two_products() -> None:
    graph, _ = converted(
        "(float[n,2,3,5,8] x) => (float y) { a = MatMul(x, k) r = Relu(a) y = MatMul(r, l) }"
    )
    assert [node.op for node in graph.nodes] == [
        "Reshape",
        "Transpose",
        "Conv",
        "Relu",
        "Conv",
        "Transpose",
        "Reshape",
    ]
    assert moved(graph) == []


def test_an_image_that_is_read_as_rows_moves_nothing() -> None:
    graph, _ = converted(
        """(float[n,3,4,4] x) => (float y) {
            c = Conv<strides=[2,2]>(x, w) r = Reshape(c, shape) t = Transpose<perm=[0,2,1]>(r)
            a = MatMul(t, k) s = Relu(a) u = Transpose<perm=[0,2,1]>(s) v = Reshape(u, image) y = Conv(v, z)
        }""",
        {
            "w": normal(8, 3, 2, 2), "k": W["k"], "z": normal(2, 6, 1, 1), "shape": np.array([0, 8, 4]), "image": np.array([0, 6, 2, 2]),
        },
    )  # fmt: skip
    assert [node.op for node in graph.nodes] == ["Conv", "Reshape", "Conv", "Relu", "Reshape", "Conv"]
    assert moved(graph) == []


@pytest.mark.parametrize("inner", ["s = Softmax(r)", "s = LayerNormalization(r, g, g)"])
def test_operators_over_features_take_rows_as_they_are_stored(inner: str) -> None:
    graph, _ = converted(
        f"{ROWS} {{ a = MatMul(x, k) r = Relu(a) {inner} y = MatMul(s, l) }}", W | {"g": normal(6)}
    )
    assert ops_of(graph)["Conv"] == 2
    assert moved(graph) == []


@pytest.mark.parametrize("first", [1, 3])
def test_a_first_axis_that_counts_no_samples_holds_rows(first: int) -> None:
    text = f"(float[{first},6,5,8] x) => (float y) {{ r = Reshape(x, windows) a = MatMul(r, k) c = Add(a, b) y = Relu(c) }}"
    graph, _ = converted(text, W | {"windows": np.array([first * 2, 15, 8])})
    (conv,) = (node for node in graph.nodes if node.op == "Conv")
    assert conv.output.shape == (1, 6, first * 30)
    assert moved(graph) == []


@pytest.mark.parametrize(
    "text",
    [
        "(float[n,8] x) => (float y) { a = MatMul(x, k) y = Add(a, b) }",
        "(float[5,8] x) => (float y) { y = MatMul(x, k) }",
        "(float[n,1,8] x) => (float y) { y = MatMul(x, k) }",
        "(float[n,1,1,8] x) => (float y) { y = MatMul(x, k) }",
        "(float[n,5,8] x, float[n,8,3] z) => (float y) { y = MatMul(x, z) }",
        "(float[n,6,8] x) => (float y) { y = MatMul(l, x) }",
        "(float[1,5,8] x) => (float y) { q = Reshape(x, matrix) g = Gemm(q, k, b) y = Reshape(g, rows) }",
    ],
)
def test_others_are_left_alone(text: str) -> None:
    graph, record = converted(text, W | {"l": normal(1, 5, 6)})
    assert "Conv" not in ops_of(graph)
    assert (record.counts, record.diagnostics) == ({}, ())


def test_gemms_where_they_are_asked_for() -> None:
    text = """(float[1,5,8] x) => (float y) {
        q = Reshape(x, matrix) g = Gemm(q, k, b) r = Relu(g) y = Reshape(r, rows)
    }"""
    graph, record = converted(text, gemm=True)
    assert [node.op for node in graph.nodes] == ["Transpose", "Conv", "Relu", "Transpose"]
    assert record.counts["write Gemm as Conv"] == 1
    assert moved(graph) == []


@pytest.mark.parametrize("shape", ["n,8", "5,8", "1,8"])
def test_not_gemms_whose_rows_are_samples(shape: str) -> None:
    graph, record = converted(f"(float[{shape}] x) => (float y) {{ y = Gemm(x, k, b) }}", gemm=True)
    assert ops_of(graph) == {"Gemm": 1}
    assert (record.counts, record.diagnostics) == ({}, ())


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("(float[2,5,8] x) => (float y) { y = MatMul(x, stack) }", "the constant 'stack' is no single matrix"),
        ("(float[n,s,t,5,8] x) => (float y) { y = MatMul(x, k) }", "more than one of the axes of 'x' that its rows lie along is open"),
        (
            "(float[1,8,8] x) => (float y) { q = Reshape(x, matrix) g = Gemm<alpha=2.0>(q, k) y = Add(g, k) }",
            "it has an alpha, a beta or a transA",
        ),
        (
            "(float[1,5,8] x, float[6] z) => (float y) { q = Reshape(x, matrix) y = Gemm(q, k, z) }",
            "the bias 'z' is no constant row",
        ),
    ],
)  # fmt: skip
def test_reasons(text: str, reason: str) -> None:
    _, record = converted(text, gemm=True)
    (said,) = near_misses([record])
    assert reason in said


def test_unknown_ranks_are_told() -> None:
    graph = graph_of(
        "(float[n,8] x, int64[r] s) => (float y) { q = Reshape(x, s) y = MatMul(q, k) }", {"k": W["k"]}
    )
    *_, record = Pipeline((Canonicalize(), MatmulToConv())).run(graph, PassContext())
    (said,) = near_misses([record])
    assert "the rank of 'q' is not known" in said


def test_a_matrix_that_several_read_stays_one() -> None:
    graph, record = converted(f"{ROWS} {{ a = MatMul(x, k) c = Exp(x) d = MatMul(c, k) y = Add(a, d) }}")
    assert record.counts["write MatMul as Conv"] == 2
    assert [value.name for value in graph.constants] == ["k.filters"]


def test_a_matrix_that_is_read_both_ways() -> None:
    text = """(float[1,5,8] x) => (float y, float z) {
        q = Reshape(x, matrix) g = Gemm(q, s) h = Gemm<transB=1>(q, s) y = Neg(g) z = Neg(h)
    }"""
    graph, _ = converted(text, W | {"s": normal(8, 8)}, gemm=True)
    assert [value.name for value in graph.constants if value.rank == 3] == ["s.filters", "s.filters_1"]


@pytest.mark.parametrize("axis", [None, 1])
@pytest.mark.parametrize("shared", [False, True])
def test_encodings_that_came_with_matrices_are_kept(axis: int | None, shared: bool) -> None:
    head = "(float[n,5,8] x, float[8,6] z) => (float y, float c)" if shared else ROWS
    graph = graph_of(f"{head} {{ y = MatMul(x, k) {'c = Add(z, k)' if shared else ''} }}", {"k": W["k"]})
    run(graph, Canonicalize())
    scale = np.full(6, 0.5, np.float32) if axis is not None else np.float32(0.5)
    given = Encoding(FORMATS["int8"], scale, np.zeros(np.shape(scale), np.int32), axis)
    graph.facts[IMPORTED] = {"k": given}
    run(graph, MatmulToConv())
    assert dict(graph.facts[IMPORTED]) == {**({"k": given} if shared else {}), "k.filters": given}


def test_rewrites_are_asked_for() -> None:
    graph = graph_of(
        f"{ROWS} {{ a = MatMul(x, k) r = Gelu(a) y = MatMul(r, l) }}", {"k": W["k"], "l": W["l"]}
    )
    run(graph, Canonicalize())
    context = PassContext(fuel=1)
    Pipeline((MatmulToConv(),)).run(graph, context)
    assert ops_of(graph) == {"Transpose": 2, "Conv": 1, "Gelu": 1, "MatMul": 1}
    assert context.rewrites == ["write MatMul as Conv at MatMul:a"]


@settings(max_examples=60, deadline=None)
@given(
    leading=st.lists(st.sampled_from([1, 2, 3, "open"]), min_size=2, max_size=5),
    merges=st.booleans(),
    bias=st.sampled_from(["", "b", "wide", "one"]),
    activation=st.sampled_from(["", "Relu", "Sigmoid"]),
)
def test_any_product(leading: list[int | str], merges: bool, bias: str, activation: str) -> None:
    sizes = [f"{size}{axis}" if size == "open" else size for axis, size in enumerate(leading)]
    steps, value = ["a = MatMul(x, k)"], "a"
    constants = dict(W)
    if merges and all(isinstance(size, int) for size in sizes[:2]):  # then the first axis counts no samples
        constants["merged"] = np.array(
            [int(sizes[0]) * int(sizes[1]), *[-1 if isinstance(size, str) else size for size in sizes[2:]], 8]
        )
        merges = sum(isinstance(size, str) for size in sizes) < 2
        steps = ["v = Reshape(x, merged)", "a = MatMul(v, k)"] if merges else steps
    if bias:
        steps.append(f"c = Add(a, {bias})")
        value = "c"
    if activation:
        steps.append(f"d = {activation}({value})")
        value = "d"
    rank = len(sizes) + 1 - sum("Reshape" in step for step in steps)
    constants["wide"] = W["b"].reshape(*[1] * (rank - 1), 6)
    text = f"(float[{','.join(map(str, sizes))},8] x) => (float y) {{ {' '.join(steps)} y = Neg({value}) }}"
    graph, _ = converted(text, constants, gemm=True)
    left = sum(ops_of(graph).get(op, 0) for op in ("MatMul", "Gemm"))
    assert left + ops_of(graph).get("Conv", 0) == 1
    assert moved(graph) == []
