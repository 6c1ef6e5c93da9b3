"""Models that the HTP accepts and computes wrongly, or otherwise than asked: it does, and we refuse or rewrite them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from htp_runs import on_htp, run_graph
from quantized import Quantized, quantize
from small_graphs import graph_of, normal

import qcompiler as qc
from qcompiler.errors import PlanError, TargetError
from qcompiler.ir.encoding import Encoding
from qcompiler.ir.graph import Graph
from qcompiler.ir.plan import Plan, PlannedGroup
from qcompiler.runtime import Session
from qcompiler.targets import find_target
from qcompiler.targets.hexagon.bounds import split_wide_bounds
from qcompiler.targets.hexagon.htp import HtpLibrary
from qcompiler.targets.hexagon.rules import broken_rules

TARGET = find_target("hexagon")
GEMM = (
    "(float[16,37] x) => (float[16,n] y) { y = Gemm(x, w, b) }",
    {"w": normal(37, 37) / 6, "b": normal(37)},
)
SOFTMAX = ("(float[16,37] x) => (float[16,37] y) { y = Softmax<axis=1>(x) }", {})
MATMUL = ("(float[16,3,8,12] x, float[16,3,12,10] z) => (float[16,3,8,10] y) { y = MatMul(x, z) }", {})
CONV_RELU = (
    "(float[16,4,6,6] x) => (float[16,4,c,c] y) { c = Conv(x, w, b) y = Relu(c) }",
    {"w": normal(4, 4, 3, 3) / 6, "b": normal(4)},
)
CONV_CLIP = (
    "(float[16,4,6,6] x) => (float[16,4,c,c] y) { c = Conv(x, w) y = Clip(c, low, high) }",
    {"w": normal(4, 4, 3, 3) / 6, "low": np.float32(0), "high": np.float32(1)},
)


def changed(plan: Plan, node: str, slot: int, change: Callable[[Encoding], Encoding]) -> Plan:
    """A plan with another encoding for what a use reads."""
    wanted = plan.group_of_use()[node, slot]
    return with_groups(plan, lambda group: group is wanted, change)


def with_groups(
    plan: Plan, chosen: Callable[[PlannedGroup], bool], change: Callable[[Encoding], Encoding]
) -> Plan:
    groups = tuple(
        dataclasses.replace(group, encoding=change(group.encoding)) if chosen(group) else group
        for group in plan.groups
    )
    return dataclasses.replace(plan, groups=groups)


def constants_of(graph: Graph, name: str) -> Iterator[Any]:
    return (value for value in graph.constants if value.name.startswith(name))


# -- products ------------------------------------------------------------------------------------------------------


def doubled_bias_scale(graph: Graph) -> None:
    (node,) = (node for node in graph.nodes if node.op == "Gemm")
    bias = node.input(2)
    assert bias is not None
    assert bias.producer is not None
    scale = bias.producer.input(1)
    assert scale is not None
    graph.set_input(bias.producer, 1, graph.add_constant("doubled", np.asarray(scale.data) * np.float32(2)))


def test_a_bias_of_another_scale(library: HtpLibrary, tmp_path: Path) -> None:
    """The HTP takes the bias for one of the scale that it should have had."""
    done = quantize(graph_of(*GEMM), TARGET)
    right = on_htp(library, done, "v73", tmp_path)
    doubled_bias_scale(done.graph)
    wrong = run_graph(library, done.graph, "v73", tmp_path, done.feeds)
    assert right.sqnr > 35 > 20 > wrong.sqnr


def test_a_bias_of_another_scale_is_refused() -> None:
    done = quantize(graph_of(*GEMM), TARGET)
    plan = changed(done.plan, "Gemm:y", 2, lambda old: dataclasses.replace(old, scale=old.scale * 2))
    with pytest.raises(PlanError, match="another scale than x x w"):
        quantize(graph_of(*GEMM), TARGET, plan=plan)
    doubled_bias_scale(done.graph)
    (found,) = broken_rules(done.graph, done.plan)
    assert "scale of its bias" in found


def scales_along_k(graph: Graph) -> None:
    (node,) = (node for node in graph.nodes if node.op == "Gemm")
    weight = node.input(1)
    assert weight is not None
    assert weight.producer is not None
    graph.set_attribute(weight.producer, "axis", 1)


def test_scales_along_the_axis_summed_over(library: HtpLibrary, tmp_path: Path) -> None:
    """The HTP applies them to the outputs. (The bias, small here, has the scales that belong to it.)"""
    text, constants = GEMM
    spread = constants | {
        "w": constants["w"] * np.geomspace(0.1, 10, 37, dtype=np.float32),
        "b": constants["b"] / 100,
    }
    done = quantize(graph_of(text, spread), TARGET)
    scales_along_k(done.graph)
    assert run_graph(library, done.graph, "v73", tmp_path, done.feeds).sqnr < 20


def test_scales_along_the_axis_summed_over_are_refused() -> None:
    done = quantize(graph_of(*GEMM), TARGET)
    plan = changed(done.plan, "Gemm:y", 1, lambda old: dataclasses.replace(old, axis=1))
    with pytest.raises(PlanError, match="along axis 1"):
        quantize(graph_of(*GEMM), TARGET, plan=plan)
    scales_along_k(done.graph)
    assert any("compute nonsense" in found for found in broken_rules(done.graph, done.plan))


def test_a_second_operand_of_unsigned_16_bits_is_refused() -> None:
    """The HTP would cut it to 8 bits."""
    done = quantize(graph_of(*MATMUL), TARGET, prefer="a16")
    assert done.group("MatMul:y", 1).encoding.format.name == "int16"
    unsigned = done.group("MatMul:y", 0).encoding
    plan = changed(done.plan, "MatMul:y", 1, lambda old: unsigned)
    with pytest.raises(PlanError, match="int16"):
        quantize(graph_of(*MATMUL), TARGET, plan=plan)


def test_transposed_convolutions_in_groups_have_one_scale() -> None:
    text = "(float[16,8,9,7] x) => (float[16,c,h,w] y) { y = ConvTranspose<group=2>(x, w) }"
    done = quantize(graph_of(text, {"w": normal(8, 5, 3, 3)}), TARGET)
    assert done.region("ConvTranspose:y").row == "a8w8t"
    refused = {item.row: item.reason for item in done.region("ConvTranspose:y").refused}
    assert "compute nonsense" in refused["a8w8"]


# -- functions -----------------------------------------------------------------------------------------------------


def test_a_softmax_with_another_zero_point(library: HtpLibrary, tmp_path: Path) -> None:
    done = quantize(graph_of(*SOFTMAX), TARGET)
    graph = done.graph
    behind = done.node("Softmax").output.only_use
    assert behind is not None
    reader = behind.node.output.only_use
    assert reader is not None
    for node in (behind.node, reader.node):
        graph.set_input(node, 2, graph.add_constant("zero", np.uint8(20)))
    assert run_graph(library, graph, "v73", tmp_path, done.feeds).sqnr < 20
    assert any("another zero point" in found for found in broken_rules(graph, done.plan))


def test_a_softmax_with_another_zero_point_is_refused() -> None:
    done = quantize(graph_of(*SOFTMAX), TARGET)
    moved = with_groups(
        done.plan,
        lambda group: "y" in group.stored,
        lambda old: dataclasses.replace(old, zero_point=np.int32(20)),
    )
    with pytest.raises(PlanError):
        quantize(graph_of(*SOFTMAX), TARGET, plan=moved)


def test_logarithms_have_8_bits() -> None:
    done = quantize(
        graph_of("(float[16,37] x) => (float[16,37] y) { a = Exp(x) y = Log(a) }"), TARGET, prefer="a16"
    )
    assert done.region("Log:y").row == "a8"


def test_no_activation_is_signed_where_padding_could_be_wrong() -> None:
    """int8 is padded with the wrong number where none is given; uint8 is not, as the row tests show."""
    (pad,) = (kernel for kernel in TARGET.kernel if kernel.name == "pad")
    assert {TARGET.spec(row.operands["x"]).format for row in pad.row} == {"uint8", "uint16"}


# -- bounds --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", [CONV_RELU, CONV_CLIP], ids=["Relu", "Clip"])
def test_bounds_that_the_codes_exceed(
    case: tuple[str, dict[str, Any]], library: HtpLibrary, tmp_path: Path
) -> None:
    """Between the convolution and the bound goes a Q/DQ pair, which changes no bit, and both run in integers."""
    done = quantize(graph_of(*case), TARGET)
    graph = done.graph
    assert split_wide_bounds(graph) == 0
    for node in graph.topological():
        if node.is_op("QuantizeLinear", "DequantizeLinear") and node.name.startswith("y."):
            graph.set_input(node, 1, graph.add_constant("scale", np.float32(0.02)))
            graph.set_input(node, 2, graph.add_constant("zero", np.uint8(110)))
    before = Session(graph, optimize=False).run(done.feeds)
    with pytest.raises(TargetError, match="assigned to the default CPU EP"):
        run_graph(library, graph, "v73", tmp_path, done.feeds)
    assert split_wide_bounds(graph) == 1
    assert split_wide_bounds(graph) == 0
    after = Session(graph, optimize=False).run(done.feeds)
    np.testing.assert_array_equal(after["y"], before["y"])
    found = run_graph(library, graph, "v73", tmp_path, done.feeds)
    assert not found.ops.float_ops
    assert found.sqnr > 35


# -- floats --------------------------------------------------------------------------------------------------------


def compiled(text: str, constants: dict[str, Any], folder: Path, device: str = "sm8550") -> qc.Result:
    graph = graph_of(text, constants)
    data = {value.name: normal(8, *value.shape[1:]) for value in graph.inputs if value.shape is not None}
    return qc.compile(graph, f"hexagon:{device}", data, output=folder / "out")


def test_floats_with_constant_weights_are_refused(tmp_path: Path) -> None:
    """Onnxruntime would quantize them all the same."""
    text = "(float[1,8,9,7] x) => (float[1,c,h,w] y) { r = Relu(x) y = ConvTranspose<dilations=[2,2]>(r, w) }"
    with pytest.raises(
        TargetError, match=r"(?s)1 operator with constant weights.*ConvTranspose:y.*dilations"
    ):
        compiled(text, {"w": normal(8, 5, 3, 3)}, tmp_path)
    assert not (tmp_path / "out").exists()


def test_parts_without_floats_refuse_all_of_them(tmp_path: Path) -> None:
    text = "(float[1,8] x) => (float[1,8] y) { a = Mish(x) b = Selu(a) c = Relu(b) y = Mish(c) }"
    with pytest.raises(TargetError) as refused:
        compiled(text, {}, tmp_path, "qcs6490")
    message = str(refused.value)
    assert "3 operators" in message
    for part in ("Mish:a", "Selu:b", "Mish:y", "HardSwish", "Elu", "sm8550"):
        assert part in message
    assert "Relu:c" not in message


def test_operators_that_the_htp_lacks_are_refused_everywhere(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=r"(?s)no kernel for 1 operator.*Celu:y.*Elu"):
        compiled("(float[1,8] x) => (float[1,8] y) { y = Celu(x) }", {}, tmp_path)


def test_floats_where_they_are_planned_are_no_problem(tmp_path: Path) -> None:
    result = compiled("(float[1,8] x) => (float[1,8] y) { a = Relu(x) y = Selu(a) }", {}, tmp_path)
    verification = result.verification
    assert verification is not None
    assert not verification.problems, verification.summary
    if verification.ran:
        assert any("Selu:y" in name for name in verification.details["float_operators"])


def test_an_operator_in_floats_that_is_planned_in_integers(library: HtpLibrary, tmp_path: Path) -> None:
    """Of a model that another tool has made: what the HTP made of it says so, and so do the static rules."""
    text = "(float[16,4,6,6] x) => (float[16,144] y) { r = Relu(x) y = Flatten(r) }"
    done: Quantized = quantize(graph_of(text), TARGET)
    for node in done.graph.topological():
        if node.is_op("QuantizeLinear", "DequantizeLinear") and node.name.startswith("y."):
            done.graph.set_input(node, 1, done.graph.add_constant("scale", np.float32(0.1)))
    found = run_graph(library, done.graph, "v73", tmp_path, done.feeds)
    assert [op.nodes for op in found.ops.float_ops if "Flatten:y" in op.nodes]
    (broken,) = broken_rules(done.graph, done.plan)
    assert "Flatten:y" in broken
