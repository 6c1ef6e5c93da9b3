"""split_groups: one convolution per group, with the same numbers; depthwise ones and what depends on the data stay."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_graphs import graph_of, lines, near_misses, normal, ops_of, run

from qcompiler.ir.encoding import FORMATS, Encoding
from qcompiler.ir.graph import Graph
from qcompiler.ir.onnx_export import to_onnx
from qcompiler.ir.onnx_import import import_model
from qcompiler.observed import IMPORTED
from qcompiler.pass_manager import PassContext
from qcompiler.passes.canonicalize import Canonicalize
from qcompiler.passes.split_groups import SplitGroups
from qcompiler.pipeline import PassRecord, Pipeline

IMAGE = "(float[batch,6,8,7] x)"
W: dict[str, Any] = {"w": normal(9, 2, 3, 3), "b": normal(9), "low": np.float32(-0.5), "high": np.float32(1)}


def split(text: str, constants: dict[str, Any]) -> tuple[Graph, PassRecord]:
    graph = graph_of(text, {name: data for name, data in constants.items() if name in _words(text)})
    run(graph, Canonicalize())
    (record,) = run(graph, SplitGroups())
    (again,) = run(graph.copy(), Canonicalize())
    assert not again.counts
    assert ops_of(import_model(to_onnx(graph))) == ops_of(graph)
    return graph, record


def _words(text: str) -> set[str]:
    return set(text.replace(",", " ").replace("(", " ").replace(")", " ").split())


CASES: dict[str, tuple[str, dict[str, int]]] = {
    "plain": ("y = Conv<group=3>(x, w)", {}),
    "bias": ("y = Conv<group=3, pads=[1,0,2,1], strides=[2,1]>(x, w, b)", {}),
    "dilations": ("y = Conv<group=3, dilations=[2,1], pads=[1,1,1,1]>(x, w, b)", {}),
    "same": ("y = Conv<group=3, auto_pad=\"SAME_UPPER\", strides=[2,2]>(x, w)", {}),
    "relu": ("c = Conv<group=3>(x, w, b) y = Relu(c)", {"Relu": 3}),
    "clip": ("c = Conv<group=3>(x, w) y = Clip(c, low, high)", {"Clip": 3}),
    "sigmoid": ("c = Conv<group=3>(x, w) y = Sigmoid(c)", {"Sigmoid": 1}),
    "relu for some": ("c = Conv<group=3>(x, w, b) r = Relu(c) y = Add(r, c)", {"Relu": 1, "Add": 1}),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_one_convolution_per_group(case: str) -> None:
    body, others = CASES[case]
    graph, record = split(f"{IMAGE} => (float y) {{ {body} }}", W)
    assert ops_of(graph) == {"Slice": 3, "Conv": 3, "Concat": 1, **others}
    assert record.counts == {"split groups": 1}
    assert near_misses([record]) == []
    assert all(node.attributes["group"] == 1 for node in graph.nodes if node.op == "Conv")
    assert all(value.shape is not None for value in graph.values)


def test_one_dimension() -> None:
    graph, _ = split("(float[n,6,9] x) => (float y) { y = Conv<group=2>(x, v) }", {"v": normal(4, 3, 4)})
    assert ops_of(graph) == {"Slice": 2, "Conv": 2, "Concat": 1}


def test_as_text() -> None:
    graph, _ = split(
        "(float[n,4,5] x) => (float y) { c = Conv<group=2>(x, v, b) y = Relu(c) z = Neg(y) }",
        {"v": normal(6, 2, 1), "b": np.arange(6, dtype=np.float32)},
    )
    attributes = "{dilations=[1], group=1, kernel_shape=[1], pads=[0,0], strides=[1]}"
    assert lines(graph) == [
        "c.0_2 = Slice(x, @int64:[0], @int64:[2], @int64:[1]) : float32[n,2,5]",
        f"c.group = Conv(c.0_2, @float32:{_listed(normal(6, 2, 1)[:3])}, @float32:[0.0,1.0,2.0]) {attributes} : float32[n,3,5]",
        "y.group = Relu(c.group) : float32[n,3,5]",
        "c.2_4 = Slice(x, @int64:[2], @int64:[4], @int64:[1]) : float32[n,2,5]",
        f"c.group_1 = Conv(c.2_4, @float32:{_listed(normal(6, 2, 1)[3:])}, @float32:[3.0,4.0,5.0]) {attributes} : float32[n,3,5]",
        "y.group_1 = Relu(c.group_1) : float32[n,3,5]",
        "y = Concat(y.group, y.group_1) {axis=1} : float32[n,6,5]",
    ]
    assert {node.origin for node in graph.nodes} == {("Conv:c", "Relu:y")}


def _listed(data: Any) -> str:
    def text(item: Any) -> str:
        return f"[{','.join(map(text, item))}]" if np.ndim(item) else str(np.float32(item))

    return text(data)


@pytest.mark.parametrize(
    ("attributes", "weight"),
    [
        ("", (5, 6, 3, 3)),
        ("<group=6>", (6, 1, 3, 3)),
        ("<group=6>", (18, 1, 3, 3)),
        ("<group=1>", (2, 6, 1, 1)),
    ],
)
def test_depthwise_and_ungrouped_ones_are_left_alone(attributes: str, weight: tuple[int, ...]) -> None:
    graph, record = split(f"{IMAGE} => (float y) {{ y = Conv{attributes}(x, w) }}", {"w": normal(*weight)})
    assert ops_of(graph) == {"Conv": 1}
    assert (record.counts, record.diagnostics) == ({}, ())


@pytest.mark.parametrize(
    ("inputs", "operands", "reason"),
    [
        ("float[9,2,3,3] u", "x, u", "the weight 'u' is not a constant"),
        ("float[9] u", "x, w, u", "the bias 'u' is not a constant"),
    ],
)
def test_computed_weights_are_left_alone(inputs: str, operands: str, reason: str) -> None:
    text = f"(float[batch,6,8,7] x, {inputs}) => (float y) {{ y = Conv<group=3>({operands}) }}"
    graph, record = split(text, W)
    assert ops_of(graph) == {"Conv": 1}
    (said,) = near_misses([record])
    assert reason in said


def test_computed_bounds_stay_behind() -> None:
    text = "(float[batch,6,8,7] x, float t) => (float y) { c = Conv<group=3>(x, w) y = Clip(c, t) }"
    graph, _ = split(text, W)
    assert ops_of(graph) == {"Slice": 3, "Conv": 3, "Concat": 1, "Clip": 1}


def test_rewrites_are_asked_for() -> None:
    graph = graph_of(
        "(float[n,4,5] x) => (float y) { c = Conv<group=2>(x, v) y = Conv<group=2>(c, v) }",
        {"v": normal(4, 2, 1)},
    )
    run(graph, Canonicalize())
    context = PassContext(fuel=1)
    Pipeline((SplitGroups(),)).run(graph, context)
    assert ops_of(graph) == {"Slice": 2, "Conv": 3, "Concat": 1}
    assert context.rewrites == ["split groups at Conv:c"]


@pytest.mark.parametrize("axis", [None, 0, 1])
def test_encodings_that_came_with_weights_are_cut_too(axis: int | None) -> None:
    graph = graph_of(f"{IMAGE} => (float y) {{ y = Conv<group=3>(x, w) }}", {"w": W["w"]})
    run(graph, Canonicalize())
    scale = np.linspace(1, 2, W["w"].shape[axis], dtype=np.float32) if axis is not None else np.float32(0.5)
    given = Encoding(FORMATS["int8"], scale, np.zeros(np.shape(scale), np.int32), axis)
    x = Encoding(FORMATS["int8"], np.float32(1), np.int32(3))
    graph.facts[IMPORTED] = {"w": given, "x": x}
    run(graph, SplitGroups())
    parts = dict(graph.facts[IMPORTED])
    assert parts.pop("x") == x
    assert list(parts) == ["w.0", "w.1", "w.2"]
    whole = given.fake_quantize(W["w"])
    for number, (name, encoding) in enumerate(parts.items()):
        data = graph.value(name).data
        assert data is not None
        np.testing.assert_array_equal(encoding.fake_quantize(data), whole[3 * number : 3 * number + 3])


@settings(max_examples=40, deadline=None)
@given(
    spatial=st.integers(1, 2),
    groups=st.integers(2, 4),
    inputs=st.integers(1, 3),
    outputs=st.integers(1, 3),
    tap=st.integers(1, 3),
    stride=st.integers(1, 2),
    dilation=st.integers(1, 2),
    pads=st.lists(st.integers(0, 2), min_size=4, max_size=4),
    bias=st.booleans(),
    activation=st.sampled_from(["", "Relu"]),
)
def test_any_convolution(
    spatial: int,
    groups: int,
    inputs: int,
    outputs: int,
    tap: int,
    stride: int,
    dilation: int,
    pads: list[int],
    bias: bool,
    activation: str,
) -> None:
    attributes = {
        "group": groups, "strides": [stride] * spatial, "dilations": [dilation] * spatial, "pads": pads[: 2 * spatial],
    }  # fmt: skip
    written = ", ".join(f"{name}={item}" for name, item in attributes.items())
    ends = f"c = Conv<{written}>(x, w{', b' if bias else ''}) y = {activation or 'Neg'}(c)"
    shape = ",".join(map(str, (groups * inputs, *[7] * spatial)))
    constants = {"w": normal(groups * outputs, inputs, *[tap] * spatial), "b": normal(groups * outputs)}
    graph, record = split(f"(float[n,{shape}] x) => (float y) {{ {ends} }}", constants)
    depthwise = inputs == 1
    assert record.counts == ({} if depthwise else {"split groups": 1})
    assert ops_of(graph)["Conv"] == (1 if depthwise else groups)
