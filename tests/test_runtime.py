"""Running graphs: outputs, taps, batches, big weights, and what onnxruntime refuses."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from small_graphs import graph_of as graph_of_text
from small_graphs import normal

from qcompiler import runtime
from qcompiler.data import DataSource
from qcompiler.errors import DataError, ModelError
from qcompiler.ir.graph import Graph
from qcompiler.runtime import Session


def scaled_relu(batch: int | str | None = "batch", features: int = 4) -> Graph:
    """Y = relu(x * 2 - 1), z = mean over everything."""
    graph = Graph()
    x = graph.add_input("x", np.float32, (batch, features))
    doubled = graph.add_node("Mul", [x, graph.add_constant("two", np.float32(2))], ["doubled"])
    shifted = graph.add_node("Sub", [doubled.output, graph.add_constant("one", np.float32(1))], ["shifted"])
    graph.set_outputs([graph.add_node("Relu", [shifted.output], ["y"]).output])
    return graph


X = np.linspace(-1, 1, 20, dtype=np.float32).reshape(5, 4)


def test_outputs():
    assert np.array_equal(Session(scaled_relu()).run({"x": X})["y"], np.maximum(X * 2 - 1, 0))


@pytest.mark.parametrize("optimize", [True, False])
def test_taps_leave_the_graph_alone(optimize):
    graph = scaled_relu()
    before = str(graph), len(graph.journal)
    results = Session(graph, ["shifted", "x", "two", "y"], optimize=optimize).run({"x": X})
    assert list(results) == ["shifted", "x", "two", "y"]
    assert np.array_equal(results["shifted"], X * 2 - 1)
    assert np.array_equal(results["x"], X)
    assert results["two"] == 2
    assert (str(graph), len(graph.journal)) == before


def test_unknown_tap_has_a_suggestion():
    with pytest.raises(ModelError, match="did you mean 'shifted'"):
        Session(scaled_relu(), ["shiftet"])


@pytest.mark.parametrize("batch", ["batch", None, 1, 2, 3, 5, 8])
def test_run_all_gives_the_same_whatever_the_batch_size(batch):
    results = Session(scaled_relu(batch)).run_all(DataSource.open({"x": X}), batch=2)
    assert np.array_equal(results["y"], np.maximum(X * 2 - 1, 0))


def test_model_without_batch_axis():
    graph = Graph()
    x = graph.add_input("x", np.float32, (4,))
    graph.set_outputs([graph.add_node("Relu", [x], ["y"]).output])
    results = Session(graph).run_all(DataSource.open({"x": X}))
    assert np.array_equal(results["y"], np.maximum(X, 0))


@pytest.mark.parametrize("shape", [(2, 2), (1, -1)])
def test_model_that_takes_single_samples_by_construction(shape):
    graph = Graph()
    x = graph.add_input("x", np.float32, ("batch", 4))
    reshaped = graph.add_node("Reshape", [x, graph.add_constant("shape", np.array(shape))], ["r"])
    back = graph.add_node("Reshape", [reshaped.output, graph.add_constant("flat", np.array([1, -1]))], ["y"])
    graph.set_outputs([back.output])
    results = Session(graph).run_all(DataSource.open({"x": X}), batch=4)
    assert np.array_equal(results["y"], X)


def test_composite_operators_run():
    graph = Graph()
    x = graph.add_input("x", np.float32, ("batch", 4))
    graph.set_outputs([graph.add_node("Swish", [x], ["y"], domain="qcompiler").output])
    assert np.allclose(Session(graph).run({"x": X})["y"], X / (1 + np.exp(-X)), atol=1e-6)


def test_large_weights_go_through_a_temporary_folder(monkeypatch, tmp_path):
    monkeypatch.setattr(runtime, "_IN_MEMORY_BYTES", 0)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    graph = Graph()
    x = graph.add_input("x", np.float32, ("batch", 4))
    weight = np.random.default_rng(0).normal(size=(4, 300)).astype(np.float32)
    graph.set_outputs([graph.add_node("MatMul", [x, graph.add_constant("w", weight)], ["y"]).output])
    session = Session(graph)
    assert not list(tmp_path.iterdir())
    assert np.allclose(session.run({"x": X})["y"], X @ weight, atol=1e-5)


def test_data_dependent_output_shapes_are_refused_by_run_all_only():
    graph = Graph()
    x = graph.add_input("x", np.float32, (1, 4))
    graph.set_outputs([graph.add_node("NonZero", [x], ["y"]).output])
    session = Session(graph)
    data = DataSource.open({"x": np.eye(3, 4, dtype=np.float32) + np.tri(3, 4, -1, dtype=np.float32)})
    assert len(list(session.stream(data))) == 3
    with pytest.raises(DataError, match="differ in shape"):
        session.run_all(data)


def graph_of(op: str, *, domain: str = "", dtype: type = np.float32) -> Graph:
    graph = Graph()
    x = graph.add_input("x", dtype, ("batch", 4))
    graph.set_outputs([graph.add_node(op, [x], ["y"], name="odd one", domain=domain).output])
    return graph


@pytest.mark.parametrize(
    ("graph", "words"),
    [
        (graph_of("Reluu"), ["odd one", "Reluu", "opset 21"]),
        (graph_of("Fancy", domain="vendor"), ["Fancy", "vendor"]),
        (graph_of("Sin", dtype=np.int32), ["odd one", "Sin"]),
        (graph_of("Relu", dtype=np.uint8), ["odd one", "Relu"]),
    ],
)
def test_what_onnxruntime_cannot_run_is_explained(graph, words):
    with pytest.raises(ModelError) as caught:
        Session(graph)
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert "\n" not in message


def test_failure_at_run_time_names_the_node():
    graph = Graph()
    x = graph.add_input("x", np.float32, ("batch", "n"))
    shape = graph.add_constant("shape", np.array([3, 3]))
    graph.set_outputs([graph.add_node("Reshape", [x, shape], ["y"], name="fold").output])
    with pytest.raises(ModelError, match="Reshape node 'fold'"):
        Session(graph).run({"x": X})


@pytest.mark.parametrize(
    ("feeds", "words"),
    [
        ({"input": X}, "needs the input 'x'"),
        ({"x": X, "extra": X}, "no input 'extra'"),
        ({"x": X.astype(np.float64)}, "do not fit"),
        ({"x": X[:, :3]}, "do not fit"),
        ({"x": X[0]}, "do not fit"),
    ],
)
def test_bad_feeds(feeds, words):
    with pytest.raises(DataError, match=words):
        Session(scaled_relu()).run(feeds)


@pytest.mark.parametrize("optimize", [True, False, "floats"])
def test_a_clip_in_front_of_4_bits_runs(optimize):
    """Onnxruntime has a rewrite for such a pair that refuses 4-bit zero points."""
    graph = graph_of_text(
        "(float[batch,3,8,8] x) => (float y) { a = Conv(x, w) c = Clip(a, low, high) q = QuantizeLinear(c, scale, zero)"
        " d = DequantizeLinear(q, scale, zero) y = Conv(d, v) }",
        {
            "low": np.float32(0), "high": np.float32(6), "scale": np.float32(0.4), "zero": np.zeros((), ml_dtypes.uint4),
            "w": normal(4, 3, 1, 1), "v": normal(2, 4, 1, 1),
        },
    )  # fmt: skip
    (y,) = Session(graph, optimize=optimize).run({"x": normal(2, 3, 8, 8)}).values()
    assert y.shape == (2, 2, 8, 8)
