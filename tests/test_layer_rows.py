"""Layers as matrices: rows of inputs times weights are the layer's outputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from small_graphs import graph_of, normal

from qcompiler.ir.graph import Graph
from qcompiler.ir.node import Node
from qcompiler.layer_rows import Layer
from qcompiler.runtime import Session

IMAGE = "(float[batch,4,9,7] x) => (float y)"
BIAS = normal(6)

CONVOLUTIONS: dict[str, tuple[str, tuple[int, ...]]] = {
    "plain": ("Conv(x, w, b)", (6, 4, 3, 3)),
    "pointwise": ("Conv(x, w, b)", (6, 4, 1, 1)),
    "strides": ("Conv<strides=[2,3]>(x, w, b)", (6, 4, 3, 2)),
    "dilations": ("Conv<dilations=[3,2]>(x, w, b)", (6, 4, 3, 2)),
    "pads": ("Conv<pads=[1,0,2,3]>(x, w, b)", (6, 4, 3, 3)),
    "all": ("Conv<pads=[2,1,0,3],strides=[2,2],dilations=[1,2],group=2>(x, w, b)", (6, 2, 3, 2)),
    "groups": ("Conv<group=2>(x, w, b)", (6, 2, 3, 3)),
    "depthwise": ("Conv<group=4,pads=[1,1,1,1]>(x, w)", (4, 1, 3, 3)),
    "depth multiplier": ("Conv<group=4>(x, w)", (8, 1, 3, 3)),
    "same upper": ('Conv<auto_pad="SAME_UPPER",strides=[2,2]>(x, w, b)', (6, 4, 4, 3)),
    "same lower": ('Conv<auto_pad="SAME_LOWER",strides=[2,2]>(x, w, b)', (6, 4, 4, 3)),
    "same, strides beyond the kernel": ('Conv<auto_pad="SAME_UPPER",strides=[4,3]>(x, w, b)', (6, 4, 2, 1)),
    "valid": ('Conv<auto_pad="VALID",strides=[2,1]>(x, w, b)', (6, 4, 3, 3)),
    "notset": ('Conv<auto_pad="NOTSET",pads=[1,1,0,0]>(x, w, b)', (6, 4, 3, 3)),
    "kernel as large as the image": ("Conv(x, w, b)", (6, 4, 9, 7)),
}


def layer_of(graph: Graph, op: str) -> tuple[Node, Layer | None]:
    (node,) = (node for node in graph.nodes if node.op == op)
    return node, Layer.of(node)


def check(graph: Graph, op: str, feeds: dict[str, NDArray[Any]], seed: int = 0) -> None:
    """The rows at random positions times the weights are the outputs there, and the matrix has an inverse."""
    node, layer = layer_of(graph, op)
    assert layer is not None
    weight, bias = node.inputs[1], node.input(2)
    assert weight is not None
    assert weight.data is not None
    y = Session(graph, optimize=False).run(feeds)["y"]
    x, rng = feeds["x"], np.random.default_rng(seed)
    samples = len(x) if y.ndim > 1 else 1
    count = layer.positions(y.shape)
    chosen = rng.integers(0, count, (samples, 5)) if count > 1 else np.zeros((samples, 1), np.intp)
    rows, matrix = layer.input_rows(x, y.shape, chosen), layer.matrix(np.asarray(weight.data))
    assert rows.dtype == np.float32
    assert rows.shape == (layer.groups, chosen.size, layer.inputs)
    assert matrix.shape == (layer.groups, layer.outputs, layer.inputs)
    expected = layer.output_rows(y, chosen)
    assert expected.shape == (layer.groups, chosen.size, layer.outputs)
    offset = np.zeros(layer.groups * layer.outputs) if bias is None else np.asarray(bias.data).reshape(-1)
    found = rows @ matrix.transpose(0, 2, 1) + offset.reshape(layer.groups, 1, layer.outputs)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert np.array_equal(layer.tensor(matrix, np.asarray(weight.data)), weight.data)
    by_channel = np.moveaxis(weight.data, layer.channel_axis, 0).reshape(layer.groups * layer.outputs, -1)  # type: ignore[arg-type]
    assert np.array_equal(np.sort(matrix.reshape(by_channel.shape)), np.sort(by_channel.astype(np.float64)))


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_convolutions(case: str) -> None:
    text, shape = CONVOLUTIONS[case]
    graph = graph_of(f"{IMAGE} {{ y = {text} }}", {"w": normal(*shape), "b": BIAS})
    check(graph, "Conv", {"x": normal(3, 4, 9, 7)})


@settings(max_examples=40, deadline=None)
@given(
    st.data(),
    st.integers(1, 3),
    st.sampled_from((1, 2, 4)),
    st.sampled_from(("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER")),
)
def test_any_convolution(data: st.DataObject, rank: int, groups: int, auto: str) -> None:
    def sizes(least: int, most: int, count: int = rank) -> list[int]:
        return data.draw(st.lists(st.integers(least, most), min_size=count, max_size=count))

    kernel, strides = sizes(1, 3), sizes(1, 3)
    dilations = sizes(1, 2) if not auto.startswith("SAME") else [1] * rank
    image = [size + extra for size, extra in zip(sizes(5, 8), sizes(0, 2), strict=True)]
    pads = f",pads={sizes(0, 2, 2 * rank)}" if auto == "NOTSET" else ""
    text = f'Conv<auto_pad="{auto}",strides={strides},dilations={dilations},group={groups}{pads}>(x, w)'
    shape = ",".join(map(str, image))
    graph = graph_of(
        f"(float[batch,4,{shape}] x) => (float y) {{ y = {text} }}", {"w": normal(4, 4 // groups, *kernel)}
    )
    check(graph, "Conv", {"x": normal(2, 4, *image)}, seed=rank)


@pytest.mark.parametrize(("text", "image", "kernel"), [
    ("Conv<strides=[2],pads=[2,1],dilations=[2]>(x, w, b)", (11,), (3,)),
    ('Conv<auto_pad="SAME_LOWER",strides=[2]>(x, w, b)', (11,), (4,)),
    ("Conv<strides=[1,2,1],pads=[1,0,1,0,1,2],group=2>(x, w, b)", (4, 5, 6), (2, 3, 2)),
])  # fmt: skip
def test_other_ranks(text: str, image: tuple[int, ...], kernel: tuple[int, ...]) -> None:
    shape = ",".join(map(str, image))
    channels = 2 if "group=2" in text else 4
    constants = {"w": normal(6, channels, *kernel), "b": BIAS}
    graph = graph_of(f"(float[batch,4,{shape}] x) => (float y) {{ y = {text} }}", constants)
    check(graph, "Conv", {"x": normal(3, 4, *image)})


@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("bias", [None, (6,), (1, 6), (1,)])
def test_gemm(transposed: int, bias: tuple[int, ...] | None) -> None:
    operands, constants = "x, w", {"w": normal(6, 5) if transposed else normal(5, 6)}
    if bias:
        operands, constants["b"] = "x, w, b", normal(*bias)
    graph = graph_of(
        f"(float[batch,5] x) => (float y) {{ y = Gemm<transB={transposed}>({operands}) }}", constants
    )
    node, layer = layer_of(graph, "Gemm")
    assert layer is not None
    assert (layer.groups, layer.outputs, layer.inputs) == (1, 6, 5)
    if bias == (1,):
        graph.set_input(node, 2, graph.add_constant("all", np.repeat(constants["b"], 6)))
    check(graph, "Gemm", {"x": normal(4, 5)})


@pytest.mark.parametrize("shape", [(5,), (4, 5), (3, 4, 5), (2, 3, 4, 5)])
def test_matmul(shape: tuple[int, ...]) -> None:
    dims = ",".join(["batch", *map(str, shape[1:])]) if len(shape) > 1 else "5"
    graph = graph_of(f"(float[{dims}] x) => (float y) {{ y = MatMul(x, w) }}", {"w": normal(5, 6)})
    check(graph, "MatMul", {"x": normal(*shape)})


REFUSED: dict[str, tuple[str, dict[str, Any]]] = {
    "transA": ("(float[5,batch] x) => (float y) { y = Gemm<transA=1>(x, w) }", {"w": normal(5, 6)}),
    "alpha": ("(float[batch,5] x) => (float y) { y = Gemm<alpha=0.5>(x, w) }", {"w": normal(5, 6)}),
    "beta": ("(float[batch,5] x) => (float y) { y = Gemm<beta=0.5>(x, w, b) }", {"w": normal(5, 6), "b": BIAS}),
    "computed weights": ("(float[batch,5] x, float[5,6] w) => (float y) { y = MatMul(x, w) }", {}),
    "batched weights": ("(float[2,4,5] x) => (float y) { y = MatMul(x, w) }", {"w": normal(2, 5, 6)}),
    "a vector of weights": ("(float[batch,5] x) => (float y) { y = MatMul(x, w) }", {"w": normal(5)}),
    "transposed convolution": ("(float[batch,4,8,8] x) => (float y) { y = ConvTranspose(x, w) }", {"w": normal(4, 6, 2, 2)}),
    "no linear layer": ("(float[batch,4] x) => (float y) { y = Add(x, w) }", {"w": normal(4)}),
    "computed bias": ("(float[batch,6] x) => (float y) { c = Relu(x) y = Gemm(x, w, c) }", {"w": normal(6, 6)}),
    "a bias per row": ("(float[4,5] x) => (float y) { y = Gemm(x, w, b) }", {"w": normal(5, 6), "b": normal(4, 1)}),
    "a bias per row, square": ("(float[4,5] x) => (float y) { y = Gemm(x, w, b) }", {"w": normal(5, 4), "b": normal(4, 1)}),
    "a bias per element": ("(float[4,5] x) => (float y) { y = Gemm(x, w, b) }", {"w": normal(5, 6), "b": normal(4, 6)}),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str) -> None:
    text, constants = REFUSED[case]
    graph = graph_of(text, constants)
    assert Layer.of(graph.value("y").producer) is None  # type: ignore[arg-type]


def test_beta_without_a_bias_means_nothing() -> None:
    graph = graph_of("(float[batch,5] x) => (float y) { y = Gemm<beta=0.5>(x, w) }", {"w": normal(5, 6)})
    check(graph, "Gemm", {"x": normal(4, 5)})


def test_other_domains_are_no_layers() -> None:
    graph = Graph()
    x = graph.add_input("x", np.float32, ("N", 4))
    w = graph.add_constant("w", normal(4, 4))
    assert Layer.of(graph.add_node("MatMul", [x, w], domain="other")) is None


def test_half_precision_images_are_read_as_floats() -> None:
    graph = graph_of(f"{IMAGE} {{ y = Conv(x, w, b) }}", {"w": normal(6, 4, 3, 3), "b": BIAS})
    _, layer = layer_of(graph, "Conv")
    assert layer is not None
    x = normal(2, 4, 9, 7).astype(np.float16)
    rows = layer.input_rows(x, (2, 6, 7, 5), np.array([[0, 34], [3, 3]]))
    assert rows.dtype == np.float32
    assert np.array_equal(rows[0, 0].reshape(4, 3, 3), x[0, :, :3, :3])
    assert np.array_equal(rows[0, 1].reshape(4, 3, 3), x[0, :, -3:, -3:])
    assert np.array_equal(rows[0, 2], rows[0, 3])
