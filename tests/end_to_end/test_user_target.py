"""A target that is one TOML file: docs/examples/my_npu.toml decides, forbids with reasons, and gives a model that runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from quantized import Quantized, quantize
from small_graphs import graph_of, normal

import qcompiler as qc
from qcompiler import demo
from qcompiler.assignment import Problem
from qcompiler.data import DataSource
from qcompiler.errors import TargetError
from qcompiler.ir.onnx_export import to_onnx
from qcompiler.ir.onnx_import import load
from qcompiler.plan_check import check_plan
from qcompiler.regions import REGIONS
from qcompiler.runtime import Session
from qcompiler.targets import find_target

NPU = Path(__file__).parents[2] / "docs" / "examples" / "my_npu.toml"
IMAGE = "(float[batch,3,24,24] x) => (float y)"


@pytest.fixture(scope="module")
def compiled_demo() -> Quantized:
    graph = load(demo.MODEL)
    samples = next(iter(DataSource.open(demo.CALIBRATION).validate(graph).batches(200)))
    return quantize(graph, find_target(str(NPU)), data=samples)


def test_device() -> None:
    assert find_target(str(NPU)).label == "my-npu:v2"
    assert find_target(f"{NPU}:v1").label == "my-npu:v1"
    with pytest.raises(TargetError, match=r"no device 'v3'; known: v1, v2"):
        find_target(f"{NPU}:v3")


def test_its_path_will_do() -> None:
    graph = graph_of("(float[batch,3,6,6] x) => (float y) { y = Conv(x, w) }", {"w": normal(4, 3, 3, 3)})
    assert qc.compile(graph, NPU, {"x": normal(8, 3, 6, 6)}).report["target"]["name"] == "my-npu"


def test_demo_keeps_its_accuracy(compiled_demo: Quantized) -> None:
    evaluation = DataSource.open(demo.EVALUATION).validate(compiled_demo.graph)
    logits = Session(compiled_demo.graph, optimize=False).run_all(evaluation)["logits"]
    assert evaluation.labels is not None
    top1 = float((logits.argmax(axis=1) == evaluation.labels).mean())
    assert top1 >= demo.TOP1 - 0.01
    assert compiled_demo.sqnr() >= 20.0


def test_demo_is_quantized_from_end_to_end(compiled_demo: Quantized) -> None:
    floats = [region.name for region in compiled_demo.plan.regions if not region.quantized]
    assert not floats
    onnx.checker.check_model(to_onnx(compiled_demo.graph), full_check=True)


def test_biases_are_int32_of_the_accumulators_scale(compiled_demo: Quantized) -> None:
    derived = [group for group in compiled_demo.plan.groups if group.relation == "derived"]
    weighted = [node for node in compiled_demo.graph.nodes if node.op in ("Conv", "Gemm")]
    assert len(derived) == len(weighted)
    for group in derived:
        (use,) = group.uses
        x, w = (
            compiled_demo.group(use.node, 0).encoding.scale,
            compiled_demo.group(use.node, 1).encoding.scale,
        )
        assert x is not None
        assert w is not None
        assert group.encoding.format.name == "int32"
        np.testing.assert_allclose(group.encoding.scale, x * w, rtol=1e-6)


def test_the_plan_is_legal(compiled_demo: Quantized) -> None:
    target = find_target(str(NPU))
    again = quantize(compiled_demo.float_graph, target, prepare="canonicalize", write="")
    check_plan(Problem.state(again.graph, target, again.graph.facts[REGIONS]), compiled_demo.plan)


FORBIDDEN = {
    "kernel 15x15 exceeds 13": (f"{IMAGE} {{ y = Conv(x, w) }}", {"w": normal(4, 3, 15, 15)}),
    "the convolution is dilated": (f"{IMAGE} {{ y = Conv<dilations=[2,2]>(x, w) }}", {"w": normal(4, 3, 3, 3)}),
    "x (x) has rank 3, not 4": ("(float[batch,3,24] x) => (float y) { y = Conv(x, w) }", {"w": normal(4, 3, 3)}),
    "MyNPU does not broadcast": ("(float[batch,3] x) => (float y) { y = Add(x, b) }", {"b": normal(3)}),
    "the number of elements summed over of w is 5000, above 4096": ("(float[batch,5000] x) => (float y) { y = Gemm<transB=1>(x, w) }", {"w": normal(2, 5000)}),
    "kernel_shape of MaxPool is 9, outside -inf..8": (f"{IMAGE} {{ y = MaxPool<kernel_shape=[9,9]>(x) }}", {}),
    "no kernel of my-npu:v2 covers Elu": (f"{IMAGE} {{ y = Elu(x) }}", {}),
}  # fmt: skip


@pytest.mark.parametrize("reason", FORBIDDEN)
def test_what_it_forbids_stays_float_and_says_why(reason: str) -> None:
    text, constants = FORBIDDEN[reason]
    done = quantize(graph_of(text, constants), find_target(str(NPU)), prepare="canonicalize")
    (region,) = done.plan.regions
    assert not region.quantized
    assert reason in region.reason
    assert done.sqnr() == np.inf


def test_a_fixed_encoding_is_read_as_it_is_stored() -> None:
    """Squeeze and excite: the gate comes out of the lookup table, and the multiplication takes it without conversion."""
    text = f"{IMAGE} {{ c = Conv<pads=[1,1,1,1]>(x, w) g = Conv<pads=[1,1,1,1]>(x, v) s = Sigmoid(g) y = Mul(c, s) }}"
    done = quantize(
        graph_of(text, {"w": normal(4, 3, 3, 3), "v": normal(4, 3, 3, 3, seed=1)}), find_target(str(NPU))
    )
    gate = done.plan.group_of_value()["s"]
    assert gate.relation == "fixed"
    assert float(gate.encoding.scale or 0) == 1 / 256
    (mul,) = (node for node in done.graph.nodes if node.op == "Mul")
    assert done.group(mul.name, 1) is gate
    assert not any("conversions" in record.counts for record in done.records)
    assert done.sqnr() > 25


def test_a_concatenation_is_not_squeezed_into_a_fixed_encoding() -> None:
    text = f"{IMAGE} {{ c = Conv<pads=[1,1,1,1]>(x, w) g = Conv<pads=[1,1,1,1]>(x, v) s = Sigmoid(g) y = Concat<axis=1>(c, s) }}"
    done = quantize(
        graph_of(text, {"w": normal(4, 3, 3, 3), "v": normal(4, 3, 3, 3, seed=1)}), find_target(str(NPU))
    )
    (concat,) = (node for node in done.graph.nodes if node.op == "Concat")
    assert done.group(concat.name, 0) is done.group(concat.name, 1)
    assert done.group(concat.name, 0) is not done.plan.group_of_value()["s"]
    assert sum(record.counts.get("conversions", 0) for record in done.records) == 1
    assert done.sqnr() > 25
