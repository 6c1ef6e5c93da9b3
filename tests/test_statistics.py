"""Calibration statistics: exact extremes, exact merging, files, and every way that a value can be shaped."""

from __future__ import annotations

import itertools
import math
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from qcompiler.calibration import collect
from qcompiler.data import DataSource
from qcompiler.errors import DataError, ModelError
from qcompiler.exact import ExactSum
from qcompiler.histogram import Histogram
from qcompiler.ir.graph import Graph
from qcompiler.ir.onnx_import import load
from qcompiler.runtime import Session
from qcompiler.statistics import Statistics, fingerprint, merge

RNG = np.random.default_rng(11)
FINITE = st.floats(allow_nan=False, allow_infinity=False, width=32)
IMAGES = RNG.normal(size=(12, 3, 40, 36)).astype(np.float32)


def image_net(batch: int | str | None = "batch", *, sizes: tuple[object, object] = (40, 36)) -> Graph:
    """Convolutions with and without activation, a residual Add, pooling, a linear layer and Softmax."""
    rng = np.random.default_rng(0)
    graph = Graph()

    def conv(x, channels, name):
        weight = rng.normal(size=(16, channels, 3, 3)).astype(np.float32) / 5
        attributes = {"pads": [1, 1, 1, 1], "kernel_shape": [3, 3]}
        return graph.add_node("Conv", [x, graph.add_constant("w", weight)], [name], attributes).output

    x = graph.add_input("x", np.float32, (batch, 3, *sizes))
    a = graph.add_node("Relu", [conv(x, 3, "conv1")], ["relu1"]).output
    bounds = [graph.add_constant("low", np.float32(0)), graph.add_constant("high", np.float32(6))]
    b = graph.add_node("Clip", [conv(a, 16, "conv2"), *bounds], ["clip2"]).output
    total = graph.add_node("Add", [conv(b, 16, "conv3"), a], ["add"]).output
    pooled = graph.add_node("GlobalAveragePool", [total], ["pooled"]).output
    flat = graph.add_node("Flatten", [pooled], ["flat"]).output
    matrix = graph.add_constant("m", rng.normal(size=(16, 10)).astype(np.float32))
    logits = graph.add_node("MatMul", [flat, matrix], ["logits"]).output
    graph.set_outputs([graph.add_node("Softmax", [logits], ["y"]).output])
    return graph


VALUES = ["x", "conv1", "relu1", "conv2", "clip2", "conv3", "add", "pooled", "flat", "logits", "y"]


def truth(graph: Graph, data: dict[str, np.ndarray], names=VALUES) -> dict[str, np.ndarray]:
    return Session(graph, names).run_all(DataSource.open(data), batch=4)


def assert_matches(statistics: Statistics, expected: dict[str, np.ndarray], tolerance: float = 1e-5) -> None:
    for name, array in expected.items():
        entry, flat = statistics[name], array.reshape(len(array), -1)
        scale = float(abs(array).max())
        assert entry.low[0] == pytest.approx(min(array.min(), 0), abs=tolerance * scale), name
        assert entry.high[0] == pytest.approx(max(array.max(), 0), abs=tolerance * scale), name
        values = entry.distribution()
        assert values.mean_low == pytest.approx(np.minimum(flat.min(1), 0).mean(), abs=tolerance * scale), (
            name
        )
        assert values.mean_high == pytest.approx(np.maximum(flat.max(1), 0).mean(), abs=tolerance * scale), (
            name
        )
        assert entry.samples == len(array)
        assert entry.elements == array.size
        assert entry.drawn.total >= min(array.size, 256 * len(array))


@pytest.mark.parametrize("batch", ["batch", None, 1, 4])
def test_extremes_are_those_of_the_values(batch):
    graph = image_net(batch)
    assert_matches(collect(graph, VALUES, {"x": IMAGES}), truth(graph, {"x": IMAGES}))


def test_dynamic_sizes_and_files_of_different_sizes(tmp_path):
    graph = image_net(sizes=("h", "w"))
    small = np.ascontiguousarray(IMAGES[:5, :, :9, :7])
    np.savez(tmp_path / "a.npz", x=IMAGES)
    np.savez(tmp_path / "b.npz", x=small)
    statistics = collect(graph, VALUES, tmp_path)
    first, second = truth(graph, {"x": IMAGES}), truth(graph, {"x": small})
    for name in VALUES:
        assert statistics[name].high[0] == pytest.approx(
            max(first[name].max(), second[name].max(), 0), rel=1e-5
        )
        assert statistics[name].elements == first[name].size + second[name].size


def test_small_values_are_counted_whole():
    graph = image_net()
    statistics = collect(graph, ["logits"], {"x": IMAGES})
    drawn = statistics["logits"].drawn
    assert drawn.total == statistics["logits"].elements == 120
    expected = Histogram.of(truth(graph, {"x": IMAGES}, ["logits"])["logits"])
    lower, upper, counts = drawn.bins()
    assert counts.sum() == expected.total
    assert (lower <= upper).all()


def test_values_without_a_batch_axis():
    graph = Graph()
    x = graph.add_input("x", np.float32, ("batch", 4, 6))
    moved = graph.add_node("Transpose", [x], ["moved"], {"perm": [1, 0, 2]}).output
    graph.set_outputs([graph.add_node("ReduceMax", [moved], ["y"], {"keepdims": 0}).output])
    data = RNG.normal(size=(7, 4, 6)).astype(np.float32)
    statistics = collect(graph, ["moved", "y", "x"], {"x": data}, batch=4)
    assert_matches(statistics, {"moved": data, "x": data, "y": data.reshape(7, -1).max(1)}, 0)


def test_model_without_batch_axis():
    graph = Graph()
    x = graph.add_input("x", np.float32, ("length",))
    graph.set_outputs([graph.add_node("Tanh", [x], ["y"]).output])
    data = RNG.normal(size=(9, 5)).astype(np.float32)
    assert_matches(collect(graph, ["x", "y"], {"x": data}), {"x": data, "y": np.tanh(data)})


@pytest.mark.parametrize(("name", "axis"), [("conv1", 1), ("add", -3), ("logits", 1), ("relu1", 3)])
@pytest.mark.parametrize("batch", ["batch", 1])
def test_per_channel(name, axis, batch):
    graph = image_net(batch)
    entry = collect(graph, [], {"x": IMAGES}, per_channel={name: axis}).by_channel[name]
    array = truth(graph, {"x": IMAGES}, [name])[name]
    rows = np.moveaxis(array, axis, 1).reshape(len(array), array.shape[axis], -1)
    scale = float(abs(array).max())
    assert entry.channels == rows.shape[1]
    assert np.allclose(entry.low, np.minimum(rows.min((0, 2)), 0), atol=1e-5 * scale)
    assert np.allclose(entry.high, np.maximum(rows.max((0, 2)), 0), atol=1e-5 * scale)
    assert np.allclose(entry.mean, rows.mean((0, 2)), atol=1e-5 * scale)
    assert entry.elements == rows.shape[0] * rows.shape[2]
    for channel in range(entry.channels):
        values = entry.distribution(channel)
        drawn = entry.drawn.row(channel).total
        assert min(16 * len(array), entry.elements) <= drawn <= entry.elements
        assert values.lower.min() >= entry.low[channel]
        assert values.upper.max() <= entry.high[channel]


def test_drawn_elements_represent_the_value():
    graph = image_net()
    statistics = collect(graph, ["conv3", "relu1"], {"x": IMAGES})
    for name, array in truth(graph, {"x": IMAGES}, ["conv3", "relu1"]).items():
        values = statistics[name].distribution()
        shares = np.cumsum(values.weights) / values.weights.sum()
        for quantile in (0.05, 0.25, 0.5, 0.75, 0.95):
            found = values.upper[np.searchsorted(shares, quantile)]
            assert found == pytest.approx(np.quantile(array, quantile), abs=0.05 * float(array.std()))


def test_not_a_number_is_explained():
    graph = Graph()
    x = graph.add_input("x", np.float32, ("n", 3))
    graph.set_outputs([graph.add_node("Sqrt", [x], ["root"]).output])
    data = np.ones((6, 3), np.float32)
    data[4, 1] = -1
    with pytest.raises(DataError, match="NaN for the value 'root' of sample 4"):
        collect(graph, ["x", "root"], {"x": data}, batch=2)


def test_infinity_counts_as_the_largest_number():
    graph = Graph()
    x = graph.add_input("x", np.float32, ("n", 3))
    graph.set_outputs([graph.add_node("Log", [x], ["log"]).output])
    entry = collect(graph, ["log"], {"x": np.eye(3, dtype=np.float32)})["log"]
    assert entry.low[0] == -np.finfo(np.float32).max
    assert math.isfinite(entry.distribution().mean_low)


def test_values_that_cannot_be_observed():
    graph = image_net()
    with pytest.raises(ModelError, match="did you mean 'conv1'"):
        collect(graph, ["konv1"], {"x": IMAGES})
    with pytest.raises(ModelError, match="no channel axis 7"):
        collect(graph, [], {"x": IMAGES}, per_channel={"conv1": 7})
    shaped = graph.add_node("Shape", [graph.value("add")], ["shape"])
    graph.set_outputs([*graph.outputs, shaped.output])
    shaped.output.dtype = np.dtype(np.int64)
    with pytest.raises(ModelError, match="float type"):
        collect(graph, ["shape"], {"x": IMAGES})


def test_the_graph_is_left_alone_and_progress_is_told():
    graph, seen = image_net(), []
    before = str(graph), len(graph.journal)
    collect(graph, VALUES, {"x": IMAGES}, batch=5, progress=lambda done, total: seen.append((done, total)))
    assert (str(graph), len(graph.journal)) == before
    assert seen == [(5, 12), (10, 12), (12, 12)]


# -- merging -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shards():
    """Statistics of single samples, so that any grouping of samples is a grouping of these."""
    graph, source = image_net(1), DataSource.open({"x": IMAGES[:6]})
    parts = [
        collect(graph, VALUES, source.slice(i, i + 1), per_channel={"conv1": 1, "logits": 1})
        for i in range(6)
    ]
    return parts, collect(graph, VALUES, source, per_channel={"conv1": 1, "logits": 1}).to_bytes()


@given(order=st.permutations(range(6)), cuts=st.sets(st.integers(1, 5)))
@settings(max_examples=20, deadline=None)
def test_shards_merge_to_the_same_bytes_in_any_grouping_and_order(shards, order, cuts):
    parts, whole = shards
    bounds = [0, *sorted(cuts), 6]
    groups = [[parts[i] for i in order[a:b]] for a, b in itertools.pairwise(bounds)]
    assert merge(*(merge(*group) for group in groups)).to_bytes() == whole


def test_what_cannot_be_merged():
    graph = image_net()
    data = {"x": IMAGES[:2]}
    with pytest.raises(DataError, match="different models"):
        merge(collect(graph, ["conv1"], data), collect(image_net(1), ["conv1"], data))
    with pytest.raises(DataError, match="'conv2' is in some"):
        merge(collect(graph, ["conv1"], data), collect(graph, ["conv1", "conv2"], data))


@given(rows=hnp.arrays(np.float32, st.tuples(st.integers(1, 8), st.integers(1, 3)), elements=FINITE))
def test_sums_are_exact(rows):
    total = ExactSum.of(rows)
    expected = [math.fsum(map(float, column)) for column in rows.T]
    assert total.mean(1).tolist() == expected
    parts = [ExactSum.of(row[None]) for row in rows[::-1]]
    assert np.array_equal(sum(parts, ExactSum.zeros(rows.shape[1])).limbs, total.limbs)


@given(
    hnp.arrays(np.float32, st.integers(0, 50), elements=st.floats(width=32, allow_nan=False)),
    st.integers(0, 50),
)
def test_histograms_bracket_their_numbers_and_add_exactly(numbers, cut):
    histogram = Histogram.of(numbers)
    lower, upper, counts = histogram.bins()
    finite = np.sort(numbers[np.isfinite(numbers)].astype(np.float64))
    assert counts.sum() == len(finite)
    assert (np.repeat(lower, counts) <= finite).all()
    assert (finite <= np.repeat(upper, counts)).all()
    added = Histogram.of(numbers[:cut]) + Histogram.of(numbers[cut:])
    assert np.array_equal(added.keys, histogram.keys)
    assert np.array_equal(added.counts, histogram.counts)


# -- files -------------------------------------------------------------------------------------------------------


def test_files(tmp_path):
    graph = image_net()
    statistics = collect(graph, VALUES, {"x": IMAGES}, per_channel={"conv1": 1})
    path = tmp_path / "statistics.npz"
    statistics.save(path)
    read = Statistics.load(path, graph)
    assert read.to_bytes() == statistics.to_bytes() == path.read_bytes()
    assert read["conv2"].distribution().high == statistics["conv2"].distribution().high
    assert read.samples == 12
    assert read.by_channel["conv1"].mean.shape == (16,)
    with pytest.raises(DataError, match="another model"):
        Statistics.load(path, image_net(1))
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(DataError, match="damaged"):
        Statistics.load(path)
    with pytest.raises(DataError, match="no statistics file"):
        Statistics.load(tmp_path / "absent.npz")
    np.savez(path, x=IMAGES)
    with pytest.raises(DataError, match="no calibration statistics"):
        Statistics.load(path)


def test_empty_statistics(tmp_path):
    statistics = collect(image_net(), [], {"x": IMAGES})
    statistics.save(tmp_path / "s.npz")
    assert not Statistics.load(tmp_path / "s.npz").values


def test_fingerprint_sees_weights_and_names():
    first, second = image_net(), image_net()
    assert fingerprint(first) == fingerprint(second)
    weight = second.value("w")
    second.set_data(weight, weight.data * 2)
    assert fingerprint(first) != fingerprint(second)


MODELS = Path(os.environ.get("QCOMPILER_MODELS", Path(__file__).parents[2] / "shared" / "models"))


@pytest.mark.slow
@pytest.mark.skipif(not MODELS.is_dir(), reason="needs the trained models, see QCOMPILER_MODELS")
@pytest.mark.parametrize("name", ["resnet8_cifar10", "dscnn_kws", "mobilenetv1_vww", "autoencoder_ad", "resnet20_cifar10"])  # fmt: skip
def test_trained_models(name):
    graph = load(MODELS / name / "model.onnx")
    source = DataSource.open(MODELS / name / "calibration.npz").slice(0, 20)
    names = [value.name for node in graph.nodes for value in node.outputs if node.op in ("Conv", "Relu", "Add", "Gemm", "Softmax")]  # fmt: skip
    assert_matches(collect(graph, names, source), Session(graph, names).run_all(source))
