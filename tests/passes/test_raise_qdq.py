"""raise_qdq on small graphs: what is raised and to which encodings, what stays and what is said, and the same numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from small_graphs import graph_of, lines, normal, ops_of

from qcompiler.errors import ModelError
from qcompiler.ir.encoding import FORMATS, Encoding
from qcompiler.ir.facts import QDQ
from qcompiler.ir.graph import Graph
from qcompiler.ir.onnx_import import import_model
from qcompiler.ir.plan import PLAN
from qcompiler.observed import IMPORTED
from qcompiler.pass_manager import PassContext
from qcompiler.passes import find_pass
from qcompiler.passes.raise_qdq import RaiseQdq
from qcompiler.pipeline import PassRecord, Pipeline
from qcompiler.runtime import Session
from qcompiler.targets import find_target

S = np.float32(0.125)
I8, U8 = np.int8(0), np.uint8(0)
PAIR = """
    q = QuantizeLinear(x, s, z)
    d = DequantizeLinear(q, s, z)
"""


def raise_graph(graph: Graph) -> tuple[PassRecord, dict[str, Encoding]]:
    record = Pipeline((RaiseQdq(),)).run(graph, PassContext())[0]
    return record, graph.facts[IMPORTED]


def said(record: PassRecord) -> str:
    return "\n".join(map(str, record.diagnostics))


def per_tensor(name: str, scale: float, zero: int = 0) -> Encoding:
    return Encoding(FORMATS[name], np.asarray(scale, np.float32), np.asarray(zero, np.int32))


def compare(text: str, constants: Mapping[str, Any], x: np.ndarray, tolerance: float) -> Graph:
    """Raises a graph and compares it with the Q/DQ graph on inputs; returns it."""
    before, after = graph_of(text, constants), graph_of(text, constants)
    raise_graph(after)
    expected = Session(before, optimize=False).run({"x": x})
    got = Session(after, optimize=False).run({"x": x})
    assert list(expected) == list(got)
    for name, array in expected.items():
        np.testing.assert_allclose(got[name], array, rtol=0, atol=tolerance)
    return after


# -- activations ---------------------------------------------------------------------------------------------------


def test_a_pair_becomes_an_encoding_under_the_name_of_the_value() -> None:
    graph = graph_of(
        f"(float[N,4] x) => (float[N,4] y) {{ {PAIR} y = Neg(d) }}", {"s": S, "z": np.uint8(100)}
    )
    record, imported = raise_graph(graph)
    assert lines(graph) == ["y = Neg(x) : float32[N,4]"]
    assert imported == {"x": per_tensor("uint8", 0.125, 100)}
    assert record.counts["pairs"] == 1
    assert not record.diagnostics


def test_an_output_keeps_its_name() -> None:
    text = "(float[N,4] x) => (float[N,4] y) { r = Relu(x) q = QuantizeLinear(r, s, z) y = DequantizeLinear(q, s, z) }"
    graph = graph_of(text, {"s": S, "z": I8})
    _, imported = raise_graph(graph)
    assert lines(graph) == ["y = Relu(x) : float32[N,4]"]
    assert list(imported) == ["y"]


def test_a_model_without_pairs_is_left_as_it_is() -> None:
    graph = graph_of("(float[N,4] x) => (float[N,4] y) { y = Relu(x) }")
    record, imported = raise_graph(graph)
    assert imported == {}
    assert not record.edits


def test_scales_of_one_element_and_parameters_from_constant_nodes() -> None:
    text = """(float[N,4] x) => (float[N,4] y) {
        c = Constant<value = float[1] {0.125}>() i = Identity(c)
        q = QuantizeLinear(x, i, z) d = DequantizeLinear(q, s, z) y = Neg(d) }"""
    graph = graph_of(text, {"s": S, "z": I8})
    _, imported = raise_graph(graph)
    assert ops_of(graph) == {"Neg": 1}
    assert imported == {"x": per_tensor("int8", 0.125)}


def test_one_value_in_several_encodings_keeps_the_first_and_says_so() -> None:
    text = f"(float[N,4] x) => (float[N,4] y) {{ {PAIR} p = QuantizeLinear(x, t, z) e = DequantizeLinear(p, t, z) y = Add(d, e) }}"
    graph = graph_of(text, {"s": S, "t": np.float32(0.5), "z": I8})
    record, imported = raise_graph(graph)
    assert imported == {"x": per_tensor("int8", 0.125)}
    assert ops_of(graph) == {"Add": 1}
    assert "x was quantized as int8 per-tensor scale 0.125 before" in said(record)


def test_one_pair_behind_another_of_the_same_parameters() -> None:
    text = f"(float[N,4] x) => (float[N,4] y) {{ {PAIR} p = QuantizeLinear(d, s, z) y = DequantizeLinear(p, s, z) }}"
    graph = graph_of(text, {"s": S, "z": I8})
    record, imported = raise_graph(graph)
    assert list(imported) == ["x"]
    assert not record.diagnostics


@pytest.mark.parametrize("dtype", [np.int16, np.uint16, ml_dtypes.int4, ml_dtypes.uint4])
def test_the_domain_of_onnxruntime(dtype: Any) -> None:
    text = """<ir_version: 10, opset_import: ["" : 17, "com.microsoft" : 1]> small (float[N,4] x) => (float[N,4] y) {
        q = com.microsoft.QuantizeLinear(x, s, z) d = com.microsoft.DequantizeLinear(q, s, z) y = Neg(d) }"""
    model = onnx.parser.parse_model(text)
    for name, data in {"s": S, "z": np.zeros((), dtype)}.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(data), name))
    graph = import_model(model)
    _, imported = raise_graph(graph)
    assert imported == {"x": per_tensor(np.dtype(dtype).name, 0.125)}


def test_fp8_keeps_its_scale() -> None:
    text = f"(float[N,4] x) => (float[N,4] y) {{ {PAIR} y = Neg(d) }}"
    graph = graph_of(text, {"s": S, "z": np.zeros((), ml_dtypes.float8_e4m3fn)})
    _, imported = raise_graph(graph)
    assert imported == {"x": Encoding(FORMATS["float8e4m3"], S)}


def test_a_dequantization_to_another_type_becomes_a_cast() -> None:
    text = "(float[N,4] x) => (float16[N,4] y) { q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, h, z) }"
    graph = graph_of(text, {"s": S, "h": np.float16(0.125), "z": I8})
    raise_graph(graph)
    assert ops_of(graph) == {"Cast": 1}


# -- what quantizers drop --------------------------------------------------------------------------------------------

ADD_PAIR = "a = Add(x, c) q = QuantizeLinear(a, s, z) d = DequantizeLinear(q, s, z)"


@pytest.mark.parametrize("zero", [np.uint8(0), np.int8(-128)])
def test_a_dropped_relu_comes_back_under_the_name_of_the_value(zero: Any) -> None:
    text = f"(float[N,4] x) => (float[N,4] y) {{ {ADD_PAIR} y = Neg(d) }}"
    constants = {"c": normal(4), "s": S, "z": zero}
    graph = compare(text, constants, normal(16, 4), 0.0626)
    record, imported = raise_graph(graph_of(text, constants))
    assert lines(graph)[0].startswith("a.unsaturated = Add(x, ")
    assert lines(graph)[1:] == ["a = Relu(a.unsaturated) : float32[N,4]", "y = Neg(a) : float32[N,4]"]
    assert graph.node("Relu:a.relu").origin == graph.value("a.unsaturated").producer.origin  # type: ignore[union-attr]
    assert list(imported) == ["a"]
    assert (
        "Relu restored on a: its encoding starts at 0; a Clip at its upper end, 31.88, cannot be told"
        in said(record)
    )


def test_a_dropped_relu6_comes_back_as_a_clip() -> None:
    text = f"(float[N,4] x) => (float[N,4] y) {{ {ADD_PAIR} y = Neg(d) }}"
    constants = {"c": normal(4), "s": np.float32(6 / 255), "z": U8}
    graph = compare(text, constants, 10 * normal(16, 4), 0.0119)
    assert ops_of(graph) == {"Add": 1, "Clip": 1, "Neg": 1}


def test_who_reads_the_value_before_its_saturation_still_does() -> None:
    text = f"(float[N,4] x) => (float[N,4] y, float[N,4] w) {{ {ADD_PAIR} y = Neg(d) w = Abs(a) }}"
    graph = compare(text, {"c": normal(4), "s": S, "z": U8}, normal(16, 4), 0.0626)
    _, imported = raise_graph(graph_of(text, {"c": normal(4), "s": S, "z": U8}))
    assert list(imported) == ["a.relu"]
    assert graph.value("a").consumers[0].op in ("Abs", "Relu")


@pytest.mark.parametrize(
    "nodes",
    [
        "a = Relu(x)",
        "a = Sigmoid(x)",
        "r = Relu(x) a = Reshape(r, shape)",
        "r = Relu(x) t = Softmax(x) a = Concat<axis = 0>(r, t)",
        "r = Relu(x) a = Pad(r, pads)",
        "r = Add(x, x) p = QuantizeLinear(r, s, z) e = DequantizeLinear(p, s, z) a = Reshape(e, shape)",
    ],
)
def test_what_cannot_be_negative_needs_no_relu(nodes: str) -> None:
    text = f"(float[2,4] x) => (float[N,M] y) {{ {nodes} q = QuantizeLinear(a, s, z) d = DequantizeLinear(q, s, z) y = Neg(d) }}"
    constants = {"s": S, "z": U8, "shape": np.array([4, 2]), "pads": np.array([1, 0, 1, 0])}
    graph = graph_of(text, constants)
    _, imported = raise_graph(graph)
    assert ops_of(graph).get("Relu", 0) == nodes.count("Relu") + nodes.count("Add")
    assert "a" in imported or "r" in imported


@pytest.mark.parametrize("nodes", ["a = Identity(x)", "a = Reshape(x, shape)"])
def test_nothing_can_have_been_dropped_behind_a_graph_input(nodes: str) -> None:
    text = f"(float[2,4] x) => (float[N,M] y) {{ {nodes} q = QuantizeLinear(a, s, z) d = DequantizeLinear(q, s, z) y = Neg(d) }}"
    graph = graph_of(text, {"s": S, "z": U8, "shape": np.array([4, 2])})
    raise_graph(graph)
    assert "Relu" not in ops_of(graph)


# -- constants -------------------------------------------------------------------------------------------------------

LINEAR = "(float[N,4] x) => (float[N,3] y) { w = DequantizeLinear(w_quantized, ws, wz) y = MatMul(x, w) }"


def test_codes_of_a_weight_become_floats_exactly() -> None:
    codes = np.arange(-6, 6, dtype=np.int8).reshape(4, 3)
    graph = graph_of(LINEAR, {"w_quantized": codes, "ws": S, "wz": I8})
    record, imported = raise_graph(graph)
    assert lines(graph) == ["y = MatMul(x, @w:float32[4,3]) : float32[N,3]"]
    weight = graph.value("w").data
    assert weight is not None
    np.testing.assert_array_equal(weight, codes * S)
    assert str(imported["w"]) == "int8 per-tensor scale 0.125"
    assert imported["w"].narrow  # no code is -128, which says more than ONNX can
    assert record.counts["constants"] == 1


def test_a_lowest_code_in_use_is_not_narrow() -> None:
    codes = np.full((4, 3), -128, np.int8)
    _, imported = raise_graph(graph_of(LINEAR, {"w_quantized": codes, "ws": S, "wz": I8}))
    assert not imported["w"].narrow


def test_scales_per_channel() -> None:
    text = "(float[N,4] x) => (float[N,3] y) { w = DequantizeLinear<axis = -1>(w_quantized, ws, wz) y = MatMul(x, w) }"
    codes, scales = np.arange(-6, 6, dtype=np.int8).reshape(4, 3), np.float32([1, 2, 4])
    graph = graph_of(text, {"w_quantized": codes, "ws": scales, "wz": np.zeros(3, np.int8)})
    _, imported = raise_graph(graph)
    assert imported["w"].axis == 1
    np.testing.assert_array_equal(np.asarray(graph.value("w").data), codes * scales)


def test_blocks() -> None:
    text = """(float[N,4] x) => (float[N,3] y) {
        w = DequantizeLinear<axis = 0, block_size = 2>(w_quantized, ws, wz) y = MatMul(x, w) }"""
    codes = np.arange(-6, 6).reshape(4, 3).astype(ml_dtypes.int4)
    scales = np.arange(1, 7, dtype=np.float32).reshape(2, 3)
    graph = graph_of(text, {"w_quantized": codes, "ws": scales, "wz": np.zeros((2, 3), ml_dtypes.int4)})
    _, imported = raise_graph(graph)
    assert (imported["w"].axis, imported["w"].block, imported["w"].format.name) == (0, 2, "int4")
    np.testing.assert_array_equal(
        np.asarray(graph.value("w").data), codes.astype(np.float32) * scales.repeat(2, 0)
    )


def test_an_int32_bias_becomes_a_float_and_leaves_no_encoding() -> None:
    text = "(float[N,4] x) => (float[N,3] y) { b = DequantizeLinear(b_quantized, s, z) y = Gemm(x, w, b) }"
    constants = {
        "b_quantized": np.int32([1, -2, 3]),
        "s": np.float32([0.5]),
        "z": np.int32(0),
        "w": normal(4, 3),
    }
    graph = graph_of(text, constants)
    _, imported = raise_graph(graph)
    np.testing.assert_array_equal(np.asarray(graph.value("b").data), np.float32([0.5, -1, 1.5]))
    assert imported == {}


def test_a_float_weight_behind_a_pair_is_rounded_to_its_grid() -> None:
    text = """(float[N,4] x) => (float[N,3] y) {
        q = QuantizeLinear<axis = 1>(w, ws, wz) d = DequantizeLinear<axis = 1>(q, ws, wz) y = MatMul(x, d) }"""
    constants = {"w": normal(4, 3), "ws": np.float32([0.1, 0.2, 0.3]), "wz": np.zeros(3, np.int8)}
    graph = compare(text, constants, normal(5, 4), 1e-5)
    _, imported = raise_graph(graph_of(text, constants))
    assert lines(graph) == ["y = MatMul(x, @w:float32[4,3]) : float32[N,3]"]
    data = np.asarray(graph.value("w").data)
    np.testing.assert_array_equal(imported["w"].fake_quantize(data), data)


def test_a_weight_computed_from_constants_is_rounded_too() -> None:
    text = """(float[N,4] x) => (float[N,3] y) {
        m = Mul(w, g) q = QuantizeLinear(m, ws, wz) d = DequantizeLinear(q, ws, wz) y = MatMul(x, d) }"""
    constants = {"w": normal(4, 3), "g": normal(3), "ws": np.float32(0.1), "wz": I8}
    graph = compare(text, constants, normal(5, 4), 1e-5)
    assert lines(graph) == ["y = MatMul(x, @m:float32[4,3]) : float32[N,3]"]


def test_a_transposed_weight_takes_its_axis_along() -> None:
    text = """(float[N,4] x) => (float[N,3] y) {
        w = DequantizeLinear<axis = 0>(w_quantized, ws, wz) t = Transpose<perm = [1, 0]>(w) y = MatMul(x, t) }"""
    codes = np.arange(-6, 6, dtype=np.int8).reshape(3, 4)
    constants = {"w_quantized": codes, "ws": np.float32([1, 2, 3]), "wz": np.zeros(3, np.int8)}
    graph = compare(text, constants, normal(5, 4), 1e-5)
    _, imported = raise_graph(graph_of(text, constants))
    assert lines(graph) == ["y = MatMul(x, @t:float32[4,3]) : float32[N,3]"]
    assert imported["t"].axis == 1


def test_two_readers_of_the_same_codes_share_the_constant() -> None:
    text = """(float[N,4] x) => (float[N,3] y) {
        w = DequantizeLinear(c, s, z) v = DequantizeLinear(c, s, z) a = MatMul(x, w) b = MatMul(x, v) y = Add(a, b) }"""
    graph = graph_of(text, {"c": np.ones((4, 3), np.int8), "s": S, "z": I8})
    _, imported = raise_graph(graph)
    assert len(graph.constants) == 1
    assert len(imported) == 1


# -- what moves codes, and what stays --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("moved", "op"),
    [
        ("m = Transpose<perm = [0, 1, 3, 2]>(q)", "Transpose"),
        ("m = MaxPool<kernel_shape = [2, 2]>(q)", "MaxPool"),
        ("m = Concat<axis = 1>(q, q)", "Concat"),
    ],
)
def test_codes_that_are_moved(moved: str, op: str) -> None:
    text = f"(float[2,3,4,4] x) => (float[A,B,C,D] y) {{ q = QuantizeLinear(x, s, z) {moved} y = DequantizeLinear(m, s, z) }}"
    graph = compare(text, {"s": S, "z": np.uint8(128)}, normal(2, 3, 4, 4), 0.0626)
    assert ops_of(graph) == {op: 1}


def test_a_scale_that_is_computed_stays() -> None:
    text = "(float[N,4] x, float s) => (float[N,4] y) { q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z) }"
    graph = graph_of(text, {"z": I8})
    record, imported = raise_graph(graph)
    assert ops_of(graph) == {"QuantizeLinear": 1, "DequantizeLinear": 1}
    assert imported == {}
    assert "QuantizeLinear stays: its scale or zero point is computed at run time" in said(record)


def test_a_pair_of_different_parameters_stays() -> None:
    text = "(float[N,4] x) => (float[N,4] y) { q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, t, z) }"
    graph = graph_of(text, {"s": S, "t": np.float32(0.5), "z": I8})
    record, imported = raise_graph(graph)
    assert ops_of(graph) == {"QuantizeLinear": 1, "DequantizeLinear": 1}
    assert imported == {}
    assert "it reads as int8 per-tensor scale 0.5 what was quantized as int8 per-tensor scale 0.125" in said(
        record
    )


def test_inputs_and_outputs_that_are_codes_stay_what_they_are() -> None:
    text = """(uint8[N,4] x) => (int8[N,4] y) {
        d = DequantizeLinear(x, s, u) n = Neg(d) y = QuantizeLinear(n, s, z) }"""
    graph = graph_of(text, {"s": S, "z": I8, "u": U8})
    record, imported = raise_graph(graph)
    assert ops_of(graph) == {"DequantizeLinear": 1, "Neg": 1, "QuantizeLinear": 1}
    assert imported == {"d": per_tensor("uint8", 0.125)}
    assert "its codes are a graph input" in said(record)
    assert "the graph returns its codes" in said(record)


# -- operators on codes ----------------------------------------------------------------------------------------------


def test_qlinear_conv_and_matmul() -> None:
    text = """(float[1,2,4,4] x) => (float[1,3,2,5] y) {
        q = QuantizeLinear(x, s, z)
        c_quantized = QLinearConv<kernel_shape = [3, 3]>(q, s, z, w, ws, wz, t, z, b)
        m = QLinearMatMul(c_quantized, t, z, v, s, wz0, t, z)
        y = DequantizeLinear(m, t, z) }"""
    rng = np.random.default_rng(0)
    constants = {
        "s": S, "t": np.float32(0.5), "z": np.uint8(128), "wz": np.zeros(3, np.int8), "wz0": I8,
        "w": rng.integers(-50, 50, (3, 2, 3, 3), np.int8), "ws": np.float32([0.01, 0.02, 0.03]),
        "b": np.int32([10, -20, 30]), "v": rng.integers(-3, 3, (2, 5), np.int8),
    }  # fmt: skip
    graph = compare(text, constants, normal(1, 2, 4, 4), 0.7)
    _, imported = raise_graph(graph_of(text, constants))
    assert ops_of(graph) == {"Conv": 1, "MatMul": 1}
    assert {"x", "c", "y", "w", "v"} == set(imported)
    assert imported["w"].axis == 0


def test_operators_that_cannot_be_raised_are_refused() -> None:
    graph = graph_of(
        "(uint8[N,4] x) => (int32[N,3] y) { y = MatMulInteger(x, w) }", {"w": np.ones((4, 3), np.uint8)}
    )
    with pytest.raises(
        ModelError, match=r"is MatMulInteger, which cannot be raised: .* Export the model in QDQ"
    ):
        RaiseQdq().run(graph, PassContext())


# -- round trip ------------------------------------------------------------------------------------------------------

ROUND_TRIP = """(float[N,3,8,8] x) => (float[N,10] y) {
    c1 = Conv<kernel_shape = [3, 3]>(x, w1, b1) r1 = Relu(c1) p1 = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(r1)
    c2 = Conv<kernel_shape = [1, 1]>(p1, w2, b2) r2 = Relu(c2) c3 = Conv<kernel_shape = [1, 1]>(r2, w3, b3) a = Add(c3, p1)
    g = GlobalAveragePool(a) f = Flatten(g) y = Gemm<transB = 1>(f, w4, b4) }"""


def round_trip_graph() -> Graph:
    shapes = {"w1": (8, 3, 3, 3), "w2": (6, 8, 1, 1), "w3": (8, 6, 1, 1), "w4": (10, 8)}
    constants = {name: normal(*shape) for name, shape in shapes.items()}
    constants |= {f"b{name[1]}": normal(shape[0], seed=1) for name, shape in shapes.items()}
    return graph_of(ROUND_TRIP, constants)


def test_what_insert_qdq_writes_comes_back() -> None:
    from qcompiler.data import DataSource

    target, graph = find_target("tensorrt"), round_trip_graph()
    data = DataSource.open({"x": normal(32, 3, 8, 8)})
    passes = "canonicalize,fuse,calibrate{method=min-max},assign_precision,insert_qdq"
    Pipeline.parse(passes, find_pass).run(graph, PassContext(target=target, calibration=data))
    plan, text = graph.facts[PLAN], str(graph)
    assert "Sub(" in text  # the centred form occurs
    raised = graph.copy()
    raised.facts[QDQ] = True
    record, imported = raise_graph(raised)
    assert record.counts["centred pairs"] >= 1
    assert QDQ not in raised.facts
    assert not {"QuantizeLinear", "DequantizeLinear", "Sub"} & set(ops_of(raised))
    for group in plan.groups:
        known = [name for name in {*group.stored, *(use.value for use in group.uses)} if name in imported]
        assert known, group.name
        assert all(imported[name] == group.encoding for name in known)
    feeds = {"x": normal(4, 3, 8, 8, seed=2)}
    expected = Session(graph, optimize=False).run(feeds)["y"]
    floats = Session(raised, optimize=False).run(feeds)["y"]
    assert np.abs(floats - expected).max() < 0.1 * np.abs(expected).max()
    Pipeline.parse(passes, find_pass).run(raised, PassContext(target=target))  # and needs no data
    again = Session(raised, optimize=False).run(feeds)["y"]
    np.testing.assert_allclose(again, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    assert not [note for note in raised.facts[PLAN].notes if "which only moves it" not in note]


def test_the_time_is_linear() -> None:
    graph = Graph("chain")
    value = graph.add_input("x", np.float32, (1, 4))
    scale, zero = graph.add_constant("s", S), graph.add_constant("z", np.asarray(I8))
    for _ in range(3000):
        value = graph.add_node("Neg", [value]).output
        codes = graph.add_node("QuantizeLinear", [value, scale, zero]).output
        value = graph.add_node("DequantizeLinear", [codes, scale, zero]).output
    graph.set_outputs([value])
    record, imported = raise_graph(graph)
    assert ops_of(graph) == {"Neg": 3000}
    assert len(imported) == 3000
    assert record.seconds < 20
