"""The float passes together: on random graphs in every legal order, and on real models."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_graphs import FLOAT_PASSES, MODELS, ops_of, ramp, run
from strategies import networks

import qcompiler.demo
from qcompiler.errors import PassError
from qcompiler.ir.graph import Graph
from qcompiler.ir.node import Value
from qcompiler.ir.onnx_import import load
from qcompiler.ir.shapes import infer_shapes
from qcompiler.pass_manager import Pass, PassContext
from qcompiler.pipeline import Pipeline

ORDERS = list(itertools.permutations(FLOAT_PASSES))


class Steps:
    """Appends what exporters write; every value is float32 [batch, 6, 4, 4] or, behind a flattening, [batch, 8]."""

    def __init__(self, graph: Graph, seed: int) -> None:
        self.graph = graph
        self.rng = np.random.default_rng(seed)

    def constant(self, data: Any, dtype: Any = np.float32) -> Value:
        return self.graph.add_constant("c", np.asarray(data, dtype))

    def op(self, op: str, *inputs: Value | float | None, **attributes: Any) -> Value:
        operands = [self.constant(item) if isinstance(item, float) else item for item in inputs]
        return self.graph.add_node(op, operands, attributes=attributes).output

    def weights(self, *shape: int) -> Value:
        return self.constant(self.rng.standard_normal(shape) * 0.4)

    def shape_of(self, x: Value, *rest: int) -> Value:
        batch = self.op("Gather", self.op("Shape", x), self.constant([0], np.int64), axis=0)
        return self.op("Concat", batch, self.constant(rest, np.int64), axis=0)

    def conv(self, x: Value) -> Value:
        return self.op("Conv", x, self.weights(6, 6, 3, 3), pads=[1, 1, 1, 1])

    def grouped(self, x: Value) -> Value:
        return self.op("Conv", x, self.weights(6, 2, 1, 1), self.weights(6), group=3)

    def padded(self, x: Value) -> Value:
        wide = self.op("Pad", x, self.constant([0, 0, 1, 0, 0, 0, 1, 2], np.int64))
        return self.op("Conv", wide, self.weights(6, 6, 3, 3))

    def transposed(self, x: Value) -> Value:
        return self.op("ConvTranspose", x, self.weights(6, 2, 1, 1), group=3)

    def norm(self, x: Value) -> Value:
        parameters = [
            self.constant(ramp(6, 0.5)),
            self.weights(6),
            self.weights(6),
            self.constant(ramp(6, 0.2)),
        ]
        return self.op("BatchNormalization", x, *parameters)

    def scale(self, x: Value) -> Value:
        return self.op("Add", self.op("Mul", x, self.weights(6, 1, 1)), self.weights(1, 6, 1, 1))

    def subtract(self, x: Value) -> Value:
        return self.op(
            "Div", self.op("Sub", x, self.weights(6, 1, 1)), self.constant(2.0 ** self.rng.integers(-2, 3))
        )

    def relu6(self, x: Value) -> Value:
        return self.op("Min", self.op("Max", x, 0.0), 6.0)

    def relu_clip(self, x: Value) -> Value:
        return self.op("Clip", self.op("Relu", x), -1.0, 2.0)

    def gelu(self, x: Value) -> Value:
        error = self.op("Add", self.op("Erf", self.op("Div", x, 2.0**0.5)), 1.0)
        return self.op("Mul", self.op("Mul", x, error), 0.5)

    def hard_swish(self, x: Value) -> Value:
        gate = self.op("Clip", self.op("Add", x, 3.0), 0.0, 6.0)
        return self.op("Mul", x, self.op("Div", gate, 6.0))

    def swish(self, x: Value) -> Value:
        return self.op("Mul", x, self.op("Sigmoid", x))

    def layer_norm(self, x: Value) -> Value:
        axes = self.constant([-1], np.int64)
        centered = self.op("Sub", x, self.op("ReduceMean", x, axes))
        variance = self.op("ReduceMean", self.op("Pow", centered, 2.0), axes)
        return self.op(
            "Mul", self.op("Div", centered, self.op("Sqrt", self.op("Add", variance, 1e-3))), self.weights(4)
        )

    def softmax(self, x: Value) -> Value:
        exponential = self.op("Exp", x)
        total = self.op("ReduceSum", exponential, self.constant([1], np.int64))
        return self.op("Div", exponential, total)

    def views(self, x: Value) -> Value:
        flat = self.op("Reshape", x, self.shape_of(x, 6, -1))
        return self.op("Reshape", flat, self.shape_of(flat, 6, 4, 4))

    def turns(self, x: Value) -> Value:
        return self.op("Transpose", self.op("Transpose", x, perm=[0, 2, 3, 1]), perm=[0, 3, 1, 2])

    def nothing(self, x: Value) -> Value:
        return self.op("Identity", self.op("Mul", self.op("Cast", x, to=1), 1.0))

    def computed(self, x: Value) -> Value:
        row = self.op("Tanh", self.op("Transpose", self.weights(4, 6)))
        return self.op("Add", x, self.op("Unsqueeze", row, self.constant([2], np.int64)))

    def head(self, x: Value) -> Value:
        pooled = self.op("ReduceMean", x, self.constant([2, 3], np.int64), keepdims=0)
        return self.op("Add", self.op("MatMul", pooled, self.weights(6, 8)), self.weights(8))


KINDS = sorted(
    name
    for name in vars(Steps)
    if not name.startswith("_") and name not in ("constant", "op", "weights", "shape_of", "head")
)


@st.composite
def exported(draw: st.DrawFn) -> Graph:
    """A random DAG of exporter idioms; values are read once, often or never; several outputs."""
    graph = Graph("exported")
    steps = Steps(graph, draw(st.integers(0, 1000)))
    values = [graph.add_input("image", np.float32, ("batch", 6, 4, 4))]
    for kind in draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=8)):
        source = values[draw(st.integers(max(0, len(values) - 3), len(values) - 1))]
        values.append(getattr(steps, kind)(source))
        if draw(st.booleans()):
            values.append(steps.op("Add", values[-1], source))
    outputs = {values[-1]: None}
    if draw(st.booleans()):
        computed = [value for value in graph.values if value.producer is not None]
        outputs[computed[draw(st.integers(0, len(computed) - 1))]] = None
    if draw(st.booleans()):
        outputs[steps.head(values[-1])] = None
    graph.set_outputs(outputs)
    infer_shapes(graph)
    return graph


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(exported(), st.sampled_from(ORDERS))
def test_random_exports_compute_the_same_in_every_order(graph: Graph, order: tuple[Pass, ...]) -> None:
    run(graph, *order)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(networks(), st.sampled_from(ORDERS))
def test_random_networks_compute_the_same_in_every_order(graph: Graph, order: tuple[Pass, ...]) -> None:
    infer_shapes(graph)
    run(graph, *order)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(exported())
def test_a_second_run_changes_nothing(graph: Graph) -> None:
    run(graph, *FLOAT_PASSES)
    run(graph, *FLOAT_PASSES)
    form = str(graph)
    run(graph, *FLOAT_PASSES)
    assert str(graph) == form


def test_facts_need_one_of_the_first_two_first() -> None:
    for order in ORDERS:
        if order[0].name in ("fold_constants", "canonicalize"):
            Pipeline(order).check()
        else:
            with pytest.raises(PassError, match="requires the fact 'shapes'"):
                Pipeline(order).check()


def test_the_demo_model() -> None:
    graph = load(Path(qcompiler.demo.__file__).parent / "digits.onnx")
    run(graph, *FLOAT_PASSES)
    assert "BatchNormalization" not in ops_of(graph)


REAL = {
    "autoencoder_ad": {"Gemm": 10, "Relu": 9},
    "dscnn_kws": {"Transpose": 1, "Conv": 9, "Relu": 9, "GlobalAveragePool": 1, "Flatten": 1, "Gemm": 1, "Softmax": 1},
    "mobilenetv1_vww": {"Conv": 27, "Relu": 27, "GlobalAveragePool": 1, "Flatten": 1, "Gemm": 1, "Softmax": 1},
    "mobilenetv2_imagenet": {"Conv": 52, "Clip": 35, "Add": 10, "GlobalAveragePool": 1, "Flatten": 1, "Gemm": 1, "Softmax": 1},
    "resnet20_cifar10": {"Conv": 19, "Relu": 19, "Add": 9, "Slice": 2, "Pad": 2, "GlobalAveragePool": 1, "Flatten": 1, "Gemm": 1},
    "resnet8_cifar10": {"Conv": 9, "Relu": 7, "Add": 3, "GlobalAveragePool": 1, "Flatten": 1, "Gemm": 1, "Softmax": 1},
}  # fmt: skip


@pytest.mark.parametrize("name", REAL)
def test_real_models(name: str) -> None:
    path = MODELS / name / "model.onnx"
    if not path.is_file():
        pytest.skip(f"{path} is not there; QCOMPILER_MODELS names another folder")
    graph = load(path)
    records = run(graph, *FLOAT_PASSES)
    assert ops_of(graph) == REAL[name]
    assert max(record.error or 0.0 for record in records) < 2e-6
    assert not any(record.diagnostics for record in records)
    assert all(value.shape is not None and None not in value.shape for value in graph.values)


def residual(nodes: int) -> Graph:
    """Blocks of Conv, BatchNormalization and Relu with shortcuts around them."""
    graph = Graph("residual")
    steps = Steps(graph, 0)
    x = graph.add_input("x", np.float32, ("batch", 6, 4, 4))
    while graph.node_count < nodes:
        inner = steps.op("Relu", steps.norm(steps.conv(x)))
        x = steps.op("Relu", steps.op("Add", steps.norm(steps.conv(inner)), x))
    graph.set_outputs([x])
    return graph


@pytest.mark.slow
@pytest.mark.parametrize("entry", FLOAT_PASSES, ids=lambda entry: str(entry))
def test_time_grows_with_size_not_faster(entry: Pass) -> None:
    seconds = []
    for nodes in (2000, 8000):
        graph = residual(nodes)
        infer_shapes(graph)
        seconds.append(min(record.seconds for record in Pipeline((entry,)).run(graph, PassContext())))
    assert seconds[1] < 12 * seconds[0] + 0.1
