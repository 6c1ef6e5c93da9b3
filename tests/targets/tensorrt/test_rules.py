"""The static rules: each is broken by a tiny model and kept by its neighbours."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from broken_models import BROKEN, IMAGE, Broken
from onnx import TensorProto, helper

from qcompiler.targets.tensorrt.rules import RULES, check_rules

if TYPE_CHECKING:
    from collections.abc import Callable
from qdq_models import FLOAT16, FP8, INT8, QdqModel


def rules_of(model: onnx.ModelProto) -> set[str]:
    return {v.rule for v in check_rules(model)}


@pytest.mark.parametrize("broken", BROKEN, ids=str)
def test_broken_rule_is_found_and_no_other(broken: Broken) -> None:
    found = check_rules(broken.make())
    assert {v.rule for v in found} == {broken.rule}
    for violation in found:
        assert repr(violation.node) in violation.message
        assert violation.severity == RULES[violation.rule].severity


def test_every_rule_has_a_broken_model() -> None:
    assert {b.rule for b in BROKEN} == set(RULES)


def test_severities_say_what_the_builder_does() -> None:
    outcomes = {
        "error": {"refused", "taken", "float"},
        "silent-float": {"float"},
        "warning": {"float", "taken"},
    }
    for broken in BROKEN:
        assert broken.outcome in outcomes[RULES[broken.rule].severity], broken


def residual() -> onnx.ModelProto:
    m = QdqModel(x=IMAGE)
    a = m.qdq("x")
    y = m.op("Relu", m.op("Add", m.conv(m.qdq(m.op("Relu", m.conv(a)))), a))
    return m.model(m.gemm(m.qdq(m.op("Flatten", m.op("GlobalAveragePool", y))), 16, 10, trans_b=True))


def one_scale_for_concat() -> onnx.ModelProto:
    m = QdqModel(x=IMAGE)
    joined = m.op("Concat", m.qdq("x"), m.qdq(m.op("Relu", "x")), axis=1)
    return m.model(m.conv(joined, 32))


def concat_quantized_again() -> onnx.ModelProto:
    m = QdqModel(x=IMAGE)
    joined = m.op("Concat", m.qdq("x", 0.05), m.qdq(m.op("Relu", "x"), 0.03), axis=1)
    return m.model(m.conv(m.qdq(joined), 32))


def concat_of_two_scales_in_float() -> onnx.ModelProto:
    m = QdqModel(x=IMAGE)
    return m.model(m.op("Concat", m.qdq("x", 0.05), m.qdq("x", 0.03), axis=1))


def data_movement() -> onnx.ModelProto:
    m = QdqModel(x=(1, 8, 8, 16))
    pads = m.constant(np.array([0, 0, 1, 1, 0, 0, 1, 1]))
    x = m.op("Transpose", m.qdq("x"), perm=[0, 3, 1, 2])
    return m.model(m.conv(m.op("MaxPool", m.op("Pad", x, pads), kernel_shape=[2, 2])))


def weight_through_transpose() -> onnx.ModelProto:
    m = QdqModel(x=(4, 256))
    w = m.qdq(m.weight(32, 256), m.channel_scale(32), axis=0)
    return m.model(m.op("MatMul", m.qdq("x"), m.op("Transpose", w, perm=[1, 0])))


def weight_axis_from_the_end() -> onnx.ModelProto:
    m = QdqModel(x=(4, 256))
    w = m.qdq(m.weight(256, 32), m.channel_scale(32), axis=-1)
    return m.model(m.op("MatMul", m.qdq("x"), w))


def stored_quantized() -> onnx.ModelProto:
    m = QdqModel(x=IMAGE)
    w = m.dequantize(m.constant(np.ones((16, 16, 3, 3), np.int8)), m.channel_scale(16), axis=0)
    return m.model(m.op("Conv", m.qdq("x"), w, m.weight(16)))


def one_output_channel() -> onnx.ModelProto:
    m = QdqModel(x=IMAGE)
    return m.model(m.conv(m.qdq("x"), 16, 1))


def depthwise() -> onnx.ModelProto:
    m = QdqModel(x=IMAGE)
    return m.model(m.conv(m.qdq("x"), group=16))


def fp8() -> onnx.ModelProto:
    m = QdqModel(x=IMAGE)
    return m.model(m.conv(m.qdq("x", dtype=FP8), dtype=FP8))


def int4_weight_only() -> onnx.ModelProto:
    m = QdqModel(x=(4, 256))
    return m.model(m.op("Gemm", "x", m.block_weight((32, 256), 128, axis=1), transB=1))


def type_from_output_dtype() -> onnx.ModelProto:
    m = QdqModel(x=IMAGE)
    s = m.constant(np.float32(0.1))
    return m.model(m.conv(m.op("DequantizeLinear", m.op("QuantizeLinear", "x", s, output_dtype=INT8), s)))


def constants_as_nodes() -> onnx.ModelProto:
    m = QdqModel(x=IMAGE)
    s = m.op("Constant", value_float=0.1)
    z = m.op("Cast", m.op("Constant", value_int=0), to=INT8)
    return m.model(m.conv(m.op("DequantizeLinear", m.op("QuantizeLinear", "x", s, z), s, z)))


def integers_at_the_border() -> onnx.ModelProto:
    m = QdqModel(x=IMAGE)
    return m.model(m.quantize(m.conv(m.dequantize("x"))), dtype=INT8, input_dtype=INT8)


def half() -> onnx.ModelProto:
    m = QdqModel(x=(4, 64))
    scale = np.array(0.1, np.float16)
    w = m.qdq(m.constant(np.ones((64, 32), np.float16)), scale)
    return m.model(m.op("MatMul", m.qdq("x", scale), w), dtype=FLOAT16, input_dtype=FLOAT16)


def plain_float() -> onnx.ModelProto:
    m = QdqModel(x=IMAGE)
    return m.model(m.conv("x", dtype=None))


def microsoft_domain() -> onnx.ModelProto:
    model = residual()
    for node in model.graph.node:
        if node.op_type.endswith("uantizeLinear"):
            node.domain = "com.microsoft"
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return model


CLEAN = [
    residual,
    one_scale_for_concat,
    concat_quantized_again,
    concat_of_two_scales_in_float,
    data_movement,
    weight_through_transpose,
    weight_axis_from_the_end,
    stored_quantized,
    one_output_channel,
    depthwise,
    fp8,
    int4_weight_only,
    type_from_output_dtype,
    constants_as_nodes,
    integers_at_the_border,
    half,
    plain_float,
    microsoft_domain,
]


@pytest.mark.parametrize("make", CLEAN)
def test_clean_model_breaks_nothing(make: Callable[[], onnx.ModelProto]) -> None:
    assert check_rules(make()) == []


def test_control_flow_bodies_are_checked_with_what_they_see_outside() -> None:
    body = QdqModel()
    body.conv("dequantized", dtype=None, name="inside")
    outer = QdqModel(x=IMAGE)
    dequantized = outer.qdq("x")
    for node in body.nodes:
        node.input[:] = [dequantized if name == "dequantized" else name for name in node.input]
    then = helper.make_graph(
        body.nodes, "then", [], [helper.make_tensor_value_info("inside.out", 1, None)], body.initializers
    )
    condition = outer.constant(np.array(True))
    model = outer.model(outer.op("If", condition, then_branch=then, else_branch=then))
    assert [(v.rule, v.node) for v in check_rules(model)] == [("both-operands", "inside")]


def test_unnamed_nodes_go_by_their_output() -> None:
    m = QdqModel(x=IMAGE)
    model = m.model(m.conv(m.qdq("x", 0.0), name="op"))
    for node in model.graph.node:
        node.ClearField("name")
    assert [v.node for v in check_rules(model)] == [node.output[0] for node in model.graph.node[:2]]


def test_external_weights_are_not_needed() -> None:
    m = QdqModel(x=IMAGE)
    model = m.model(m.conv(m.qdq("x")))
    for tensor in model.graph.initializer:
        tensor.data_location = TensorProto.EXTERNAL
        tensor.ClearField("raw_data")
    assert check_rules(model) == []


def test_work_is_linear_in_the_nodes() -> None:
    def calls(length: int) -> int:
        m, x = QdqModel(x=IMAGE), "x"
        scale, weight = m.constant(np.float32(0.1)), m.weight_qdq(m.weight(16, 16, 3, 3), (16, 16, 3, 3))
        for _ in range(length):
            x = m.op("Concat", m.qdq(m.op("Conv", m.qdq(x, scale), weight, pads=[1] * 4), scale), axis=1)
        model, count = m.model(x), 0

        def counted(*_: Any) -> None:
            nonlocal count
            count += 1

        sys.setprofile(counted)
        try:
            found = rules_of(model)
        finally:
            sys.setprofile(None)
        assert found == set()
        return count

    assert calls(400) < 5 * calls(100)
