"""Experiments: each gives in the joint graph what it gives alone, and its loss is that of a whole run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from bodies import body
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from small_graphs import graph_of, normal
from strategies import feeds, networks

from qcompiler.data import DataSource
from qcompiler.experiments import NOTHING, Experiment, experiment_graph
from qcompiler.ir.encoding import FORMATS, Encoding
from qcompiler.ir.graph import Graph
from qcompiler.ir.node import Use, Value
from qcompiler.ir.shapes import infer_shapes
from qcompiler.losses import Laboratory, Measure
from qcompiler.runtime import Session


def weight(value: Value, uses: Sequence[Use] = (), bits: int = 4) -> Experiment:
    """A constant read in int4 (or so), one scale."""
    assert value.data is not None
    low, high = float(value.data.min()), float(value.data.max())
    encoding = Encoding.from_range(FORMATS[f"int{bits}"], low, high, symmetric=True)
    return Experiment(tuple(uses or value.uses), encoding)


def activation(
    uses: Sequence[Use], format_name: str = "uint4", high: float = 3.0, low: float = -1.0
) -> Experiment:
    """A computed value read in uint4 (or so)."""
    return Experiment(tuple(uses), Encoding.from_range(FORMATS[format_name], low, high, symmetric=False))


def all_experiments(graph: Graph) -> list[Experiment]:
    """Weights in 4 and 2 bits, what they meet in 8 and 4, each alone; every use of a value in one."""
    found: list[Experiment] = []
    done: set[Value] = set()
    for node in graph.topological():
        if node.op not in ("Conv", "Gemm", "MatMul"):
            continue
        x, w = node.inputs[0], node.inputs[1]
        if w is not None and w.data is not None and w not in done:
            found += [weight(w), weight(w, bits=2)]
        if x is not None and x not in done:
            uses = [use for use in x.uses if use.node.op in ("Conv", "Gemm", "MatMul")]
            found += [activation(uses, "uint8"), activation(uses)]
        done.update(value for value in (x, w) if value is not None)
    return found


def alone(
    graph: Graph, experiment: Experiment, samples: Mapping[str, NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    """The outputs with one experiment, from the graph rewritten by hand and run without optimizations."""
    copy = graph.copy()
    for use in experiment.uses:
        node, value = copy.node(use.node.name), use.node.inputs[use.slot]
        assert value is not None
        encoding = experiment.encoding
        if value.data is not None:
            copy.set_input(node, use.slot, copy.add_constant("w", encoding.fake_quantize(value.data)))
            continue
        assert encoding.scale is not None
        assert encoding.zero_point is not None
        numbers = [copy.add_constant("scale", encoding.scale)]
        numbers.append(copy.add_constant("zero", encoding.zero_point.astype(encoding.format.dtype)))
        codes = copy.add_node("QuantizeLinear", [copy.value(value.name), *numbers]).output
        copy.set_input(node, use.slot, copy.add_node("DequantizeLinear", [codes, *numbers]).output)
    return Session(copy, optimize=False).run(dict(samples))


def expected_loss(graph: Graph, experiment: Experiment, samples: Mapping[str, NDArray[Any]]) -> float:
    """The normalised output error, by the definition."""
    before = Session(graph, optimize=False).run(dict(samples))
    after = alone(graph, experiment, samples)
    ratios = []
    for name in before:
        gap, power = (
            np.square(a.astype(np.float64)).sum() for a in (after[name] - before[name], before[name])
        )
        ratios.append(gap / (power or 1.0))
    return float(np.mean(ratios))


def losses_of(
    graph: Graph,
    experiments: Sequence[Experiment],
    samples: Mapping[str, NDArray[Any]],
    measure: Measure = "error",
    *,
    apart: bool = False,
) -> NDArray[np.float64]:
    laboratory = Laboratory(graph, DataSource.open(samples), measure)
    laboratory._apart |= apart
    return laboratory.run(experiments, laboratory.samples(10_000)).means


CONV = "(float[batch,4,8,8] x) => (float y)"
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "chain": (
        f"{CONV} {{ a = Conv<pads=[1,1,1,1]>(x, w, b) r = Relu(a) y = Conv(r, v) }}",
        {"w": normal(6, 4, 3, 3), "b": normal(6), "v": normal(3, 6, 1, 1)},
    ),
    "residual": (
        f"{CONV} {{ a = Conv<pads=[1,1,1,1]>(x, w) r = Relu(a) c = Conv<pads=[1,1,1,1]>(r, v) s = Add(c, r) t = Relu(s) d = Conv(t, u) y = GlobalAveragePool(d) }}",
        {"w": normal(4, 4, 3, 3), "v": normal(4, 4, 3, 3), "u": normal(5, 4, 1, 1)},
    ),
    "concat": (
        f"{CONV} {{ a = Conv(x, w) b = Conv(x, v) c = Concat<axis=1>(a, x, b) r = Relu(c) y = Conv(r, u) }}",
        {"w": normal(2, 4, 1, 1), "v": normal(3, 4, 1, 1), "u": normal(5, 9, 3, 3)},
    ),
    "depthwise": (
        f"{CONV} {{ a = Conv<group=4, pads=[1,1,1,1]>(x, w) r = Relu(a) y = Conv(r, v) }}",
        {"w": normal(4, 1, 3, 3), "v": normal(6, 4, 1, 1)},
    ),
    "gemm": (
        f"{CONV} {{ f = Flatten(x) g = Gemm<transB=1>(f, w, b) r = Relu(g) y = Gemm(r, v) }}",
        {"w": normal(8, 256), "b": normal(8), "v": normal(8, 3)},
    ),
    "matmul": (
        f"{CONV} {{ m = MatMul(x, w) r = Relu(m) t = Transpose<perm=[0,2,1,3]>(r) y = MatMul(t, v) }}",
        {"w": normal(8, 5), "v": normal(5, 3)},
    ),
    "two consumers": (
        f"{CONV} {{ r = Relu(x) a = Conv(r, w) b = Conv(r, v) s = Sigmoid(r) c = Mul(a, b) d = Mul(c, s) y = Conv(d, u) }}",
        {"w": normal(4, 4, 1, 1), "v": normal(4, 4, 1, 1), "u": normal(2, 4, 1, 1)},
    ),
    "shared weight": (
        f"{CONV} {{ a = Conv(x, w) r = Relu(a) y = Conv(r, w) }}",
        {"w": normal(4, 4, 1, 1)},
    ),
    "two outputs": (
        "(float[batch,4,8,8] x) => (float y, float z) { a = Conv(x, w) r = Relu(a) y = Conv(r, v) z = Conv(a, u) }",
        {"w": normal(4, 4, 1, 1), "v": normal(2, 4, 1, 1), "u": normal(3, 4, 1, 1) * 9},
    ),
    "dynamic space": (
        '(float[batch,4,height,width] x) => (float y) { a = Conv(x, w) r = Relu(a) p = Shape<start=2>(r) q = Mul(p, two) n = Concat<axis=0>(keep, q) z = Resize<mode="nearest">(r, , , n) c = Conv(z, v) y = GlobalAveragePool(c) }',
        {"w": normal(4, 4, 1, 1), "v": normal(3, 4, 1, 1), "two": np.array([2, 2]), "keep": np.array([3, 4])},
    ),
}  # fmt: skip


def case(name: str) -> Graph:
    graph = graph_of(*CASES[name])
    infer_shapes(graph)
    return graph


@pytest.mark.parametrize("apart", [False, True], ids=["joined", "apart"])
@pytest.mark.parametrize("name", CASES)
def test_losses_are_those_of_whole_runs(name: str, apart: bool) -> None:
    graph = case(name)
    samples = {"x": normal(3, 4, 8, 8) + 0.5}
    experiments = all_experiments(graph)
    assert len(experiments) >= 4
    text = str(graph)
    found = losses_of(graph, experiments, samples, apart=apart)
    assert str(graph) == text
    expected = [expected_loss(graph, experiment, samples) for experiment in experiments]
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-11)
    assert min(expected) > 1e-7


@pytest.mark.parametrize("joined", [2, 3, 100])
def test_blocks_are_what_experiments_give_alone(joined: int) -> None:
    graph = case("residual")
    samples = {"x": normal(2, 4, 8, 8)}
    experiments = all_experiments(graph)
    batched = [value.name for value in graph.values if value.shape and value.shape[0] == "batch"]
    built = experiment_graph(graph, experiments, ["y"], batched, joined=joined)
    built.graph.verify()
    results = Session(built.graph).run(samples)
    blocks = built.blocks(results, "y")
    assert (NOTHING in blocks) == (joined < 100)
    base = Session(graph, optimize=False).run(samples)["y"]
    np.testing.assert_allclose(results[built.base["y"]], base, rtol=1e-4, atol=1e-5)
    if joined < 100:
        np.testing.assert_allclose(blocks[NOTHING], base, rtol=1e-4, atol=1e-5)
    for index, experiment in enumerate(experiments):
        np.testing.assert_allclose(
            blocks[index], alone(graph, experiment, samples)["y"], rtol=1e-3, atol=1e-4
        )


def test_branches_join_and_meet() -> None:
    """Two branches of five layers: experiments join within a branch, and must be taken apart where it meets the other."""
    layers = [f"a{i + 1} = Conv(a{i}, w{i}) b{i + 1} = Conv(b{i}, w{i + 5})" for i in range(5)]
    text = f"{CONV} {{ a0 = Relu(x) b0 = Sigmoid(x) {' '.join(layers)} s = Add(a5, b5) t = Relu(s) y = Conv(t, v) }}"
    constants = {f"w{index}": normal(4, 4, 1, 1, seed=index) * 0.5 for index in range(10)}
    graph = graph_of(text, constants | {"v": normal(2, 4, 1, 1)})
    infer_shapes(graph)
    experiments = all_experiments(graph)
    samples = {"x": normal(2, 4, 8, 8)}
    batched = [value.name for value in graph.values if value.shape and value.shape[0] == "batch"]
    built = experiment_graph(graph, experiments, ["y"], batched, joined=2)
    blocks = built.blocks(Session(built.graph).run(samples), "y")
    assert NOTHING in blocks
    for index, experiment in enumerate(experiments):
        np.testing.assert_allclose(
            blocks[index], alone(graph, experiment, samples)["y"], rtol=1e-3, atol=1e-4
        )


def test_only_what_differs_is_computed() -> None:
    """Three layers and their weights: every layer runs once as it is and once for each experiment up to it."""
    text = f"{CONV} {{ a = Conv(x, w) r = Relu(a) b = Conv(r, v) s = Relu(b) y = Conv(s, u) }}"
    graph = graph_of(text, {"w": normal(4, 4, 1, 1), "v": normal(4, 4, 1, 1), "u": normal(4, 4, 1, 1)})
    experiments = [weight(graph.value(name)) for name in ("w", "v", "u")]
    built = experiment_graph(graph, experiments, ["y"])
    convs = [node for node in built.graph.nodes if node.op == "Conv"]
    assert len(convs) == (1 + 1) + (1 + 2) + (1 + 3)
    assert not any(node.op in ("Concat", "Split", "Gather") for node in built.graph.nodes)


def test_an_experiment_that_reaches_no_output_costs_nothing() -> None:
    graph = graph_of(f"{CONV} {{ a = Conv(x, w) b = Conv(x, v) y = Relu(a) z = Relu(b) }}", {"w": normal(4, 4, 1, 1), "v": normal(4, 4, 1, 1)})  # fmt: skip
    found = losses_of(graph, [weight(graph.value("v")), weight(graph.value("w"))], {"x": normal(2, 4, 8, 8)})
    assert found[0] == 0 < found[1]


def test_samples_that_mix_are_kept_apart() -> None:
    """The mean over the batch makes joined samples see each other: then each runs as the model would run it alone."""
    text = f"{CONV} {{ a = Conv(x, w) m = ReduceMean<keepdims=1>(a, zero) r = Sub(a, m) t = Sigmoid(r) y = Conv(t, v) }}"
    graph = graph_of(text, {"w": normal(4, 4, 1, 1), "v": normal(4, 4, 1, 1) + 1, "zero": np.array([0, 2])})
    samples = {"x": normal(3, 4, 8, 8)}
    experiments = all_experiments(graph) * 3
    singles = [{"x": samples["x"][index : index + 1]} for index in range(3)]
    laboratory = Laboratory(graph, DataSource.open(samples), "error")
    scores = laboratory.run(experiments, laboratory.samples(3))
    assert laboratory._apart
    base = [Session(graph, optimize=False).run(single)["y"].astype(np.float64) for single in singles]
    power = sum(float(np.square(item).sum()) for item in base)
    for index in (0, 3, 7):
        gaps = [
            alone(graph, experiments[index], single)["y"] - item
            for single, item in zip(singles, base, strict=True)
        ]
        assert scores.means[index] == pytest.approx(
            sum(float(np.square(gap).sum()) for gap in gaps) / power, rel=1e-3
        )


@pytest.mark.parametrize("batch", [1, 2])
def test_models_of_a_fixed_batch(batch: int) -> None:
    text = f"(float[{batch},4,8,8] x) => (float y) {{ a = Conv(x, w) f = Reshape(a, to) r = Relu(f) y = MatMul(r, v) }}"
    graph = graph_of(text, {"w": normal(4, 4, 1, 1), "v": normal(256, 3), "to": np.array([batch, 256])})
    samples = {"x": normal(5, 4, 8, 8)}
    experiments = [weight(graph.value("w")), weight(graph.value("v")), activation([Use(graph.node(graph.value("y").producer.name), 0)])]  # type: ignore[union-attr]  # fmt: skip
    free = graph_of(text.replace(f"float[{batch},", "float[batch,"), {"w": normal(4, 4, 1, 1), "v": normal(256, 3), "to": np.array([-1, 256])})  # fmt: skip
    free_experiments = [Experiment(tuple(Use(free.nodes[graph.nodes.index(use.node)], use.slot) for use in item.uses), item.encoding) for item in experiments]  # fmt: skip
    found = losses_of(graph, experiments, samples)
    np.testing.assert_allclose(
        found, [expected_loss(free, item, samples) for item in free_experiments], rtol=1e-3
    )


def test_an_open_batch_that_only_takes_one_sample() -> None:
    text = f"{CONV} {{ a = Conv(x, w) f = Reshape(a, to) r = Relu(f) y = MatMul(r, v) }}"
    constants = {"w": normal(4, 4, 1, 1), "v": normal(256, 3)}
    graph = graph_of(text, constants | {"to": np.array([1, 256])})
    free = graph_of(text, constants | {"to": np.array([-1, 256])})
    samples = {"x": normal(3, 4, 8, 8)}
    found = losses_of(graph, all_experiments(graph) * 2, samples)
    expected = [expected_loss(free, item, samples) for item in all_experiments(free)]
    np.testing.assert_allclose(found, expected * 2, rtol=1e-3)


def test_a_model_without_batch_axis() -> None:
    text = "(float[4,8] x) => (float y) { a = MatMul(x, w) r = Relu(a) y = MatMul(r, v) }"
    constants = {"w": normal(8, 5), "v": normal(5, 3)}
    graph = graph_of(text, constants)
    samples = {"x": normal(3, 4, 8)}
    free = graph_of(text.replace("float[4,8]", "float[batch,4,8]"), constants)
    found = losses_of(graph, all_experiments(graph), samples)
    np.testing.assert_allclose(
        found, [expected_loss(free, item, samples) for item in all_experiments(free)], rtol=1e-3
    )


def test_control_flow_reads_the_experiment() -> None:
    graph = Graph("branching")
    x = graph.add_input("x", np.float32, ("batch", 4))
    flag = graph.add_constant("flag", np.array(True))
    w, v = (graph.add_constant(name, normal(4, 4, seed=seed)) for seed, name in enumerate("wv"))
    graph.add_node("MatMul", [x, w], ["a"])
    bodies = {
        "then_branch": body("yes () => (float[N, 4] r) { r = Relu(a) }"),
        "else_branch": body("no () => (float[N, 4] s) { s = Identity(a) }"),
    }
    r = graph.add_node("If", [flag], ["chosen"], bodies).output
    y = graph.add_node("MatMul", [r, v], [graph.add_value("y", np.float32, ("batch", 4))]).output
    graph.set_outputs([y])
    samples = {"x": normal(3, 4)}
    experiments = all_experiments(graph)
    found = losses_of(graph, experiments, samples)
    expected = [expected_loss(graph, item, samples) for item in experiments]
    np.testing.assert_allclose(found, expected, rtol=1e-3)
    assert expected[0] > 1e-4


def test_samples_of_several_shapes() -> None:
    text = "(float[batch,4,height,width] x) => (float y) { a = Conv(x, w) r = Relu(a) c = Conv(r, v) y = GlobalAveragePool(c) }"
    graph = graph_of(text, {"w": normal(4, 4, 3, 3), "v": normal(3, 4, 1, 1)})
    parts = [{"x": normal(2, 4, 8, 8)}, {"x": normal(2, 4, 6, 9)}]
    segments = [DataSource.open(part).segments[0] for part in parts]
    laboratory = Laboratory(graph, DataSource(tuple(segments), "both"), "error")
    experiments = all_experiments(graph)
    scores = laboratory.run(experiments, laboratory.samples(4))
    powers = [float(np.square(Session(graph).run(part)["y"]).sum()) for part in parts]
    for index, experiment in enumerate(experiments):
        own = [expected_loss(graph, experiment, part) for part in parts]
        assert scores.means[index] == pytest.approx(np.dot(own, powers) / sum(powers), rel=1e-3)


def test_float8_is_what_the_encoding_says() -> None:
    graph = graph_of(f"{CONV} {{ r = Relu(x) y = Conv(r, w) }}", {"w": normal(4, 4, 1, 1)})
    encoding = Encoding.from_range(FORMATS["float8e4m3"], -1.0, 2.0, symmetric=True)
    node = graph.nodes[-1]
    experiment = Experiment((Use(node, 0),), encoding)
    x = normal(2, 4, 8, 8)
    built = experiment_graph(graph, [experiment], ["y"])
    results = Session(built.graph).run({"x": x})
    found = built.blocks(results, "y")[0]
    copy = graph_of(f"{CONV} {{ y = Conv(x, w) }}", {"w": normal(4, 4, 1, 1)})
    expected = Session(copy).run({"x": encoding.fake_quantize(np.maximum(x, 0))})["y"]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_memory_splits_experiments_over_sessions() -> None:
    graph = case("residual")
    samples = {"x": normal(3, 4, 8, 8)}
    experiments = all_experiments(graph)
    laboratory = Laboratory(graph, DataSource.open(samples), "error", memory=32_000)
    portions = list(laboratory._sessions(experiments, list(range(len(experiments)))))
    assert len(portions) > 1
    assert sorted(index for portion in portions for index in portion) == list(range(len(experiments)))
    found = laboratory.run(experiments, laboratory.samples(3)).means
    np.testing.assert_allclose(found, losses_of(graph, experiments, samples), rtol=1e-4)


def test_divergence_of_a_softmax() -> None:
    text = f"{CONV} {{ f = Flatten(x) g = Gemm<transB=1>(f, w) y = Softmax(g) }}"
    graph = graph_of(text, {"w": normal(5, 256) * 0.1})
    samples = {"x": normal(4, 4, 8, 8)}
    experiments = all_experiments(graph)
    laboratory = Laboratory(graph, DataSource.open(samples), "auto")
    assert laboratory.measure == "kl"
    found = laboratory.run(experiments, laboratory.samples(4)).means
    p = Session(graph, optimize=False).run(samples)["y"].astype(np.float64)
    for index, experiment in enumerate(experiments):
        q = alone(graph, experiment, samples)["y"].astype(np.float64)
        assert found[index] == pytest.approx(
            float((p * np.log(p / q)).sum(axis=1).mean()), rel=0.02, abs=1e-6
        )


def test_measures_can_be_asked_for() -> None:
    scores = graph_of(f"{CONV} {{ f = Flatten(x) y = Gemm<transB=1>(f, w) }}", {"w": normal(5, 256)})
    soft = graph_of(
        f"{CONV} {{ f = Flatten(x) g = Gemm<transB=1>(f, w) y = Softmax(g) }}", {"w": normal(5, 256)}
    )
    data = DataSource.open({"x": normal(2, 4, 8, 8)})
    assert [output.axis for output in Laboratory(scores, data).outputs] == [None]
    assert [output.axis for output in Laboratory(scores, data, "kl").outputs] == [-1]
    assert [(output.name, output.axis) for output in Laboratory(soft, data, "error").outputs] == [("y", None)]
    assert [(output.name, output.axis) for output in Laboratory(soft, data).outputs] == [("g", -1)]


def test_zero_outputs_and_dead_channels_give_numbers() -> None:
    dead = np.zeros((4, 4, 1, 1), np.float32)
    text = "(float[batch,4,8,8] x) => (float y, float z) { a = Conv(x, w) r = Relu(a) y = Conv(r, v) z = Conv(x, v) }"
    graph = graph_of(text, {"w": dead, "v": normal(2, 4, 1, 1)})
    found = losses_of(graph, all_experiments(graph), {"x": normal(2, 4, 8, 8)})
    assert np.isfinite(found).all()
    assert found[0] == 0


def test_an_output_that_breaks_is_infinitely_bad() -> None:
    graph = graph_of(
        f"{CONV} {{ s = Sigmoid(x) c = Conv(s, w) y = Log(c) }}",
        {"w": np.full((4, 4, 1, 1), 0.01, np.float32)},
    )
    coarse = Encoding.from_range(FORMATS["uint8"], 0.0, 1000.0, symmetric=False)
    experiment = Experiment((Use(graph.nodes[1], 0),), coarse)
    assert losses_of(graph, [experiment], {"x": normal(2, 4, 8, 8)})[0] == np.inf


def test_one_sample_tells_no_variance() -> None:
    graph = case("chain")
    laboratory = Laboratory(graph, DataSource.open({"x": normal(1, 4, 8, 8)}))
    scores = laboratory.run(all_experiments(graph), laboratory.samples(1))
    assert (scores.variances == 1).all()


def test_variances_are_those_of_repeated_draws() -> None:
    """The delta method against the spread of losses over disjoint sets of samples."""
    graph = case("chain")
    data = (
        normal(320, 4, 8, 8)
        * np.linspace(0.5, 2, 320, dtype=np.float32)[
            np.random.default_rng(0).permutation(320), None, None, None
        ]
    )
    experiments = all_experiments(graph)
    sets, foretold = [], []
    for part in np.split(data, 40):
        laboratory = Laboratory(graph, DataSource.open({"x": part}))
        scores = laboratory.run(experiments, laboratory.samples(8))
        sets.append(scores.means)
        foretold.append(scores.variances / 8)
    spread = np.std(sets, axis=0) / np.mean(sets, axis=0)
    assert np.median(np.sqrt(np.mean(foretold, axis=0)) / spread) == pytest.approx(1, abs=0.3)


def test_samples_are_spread_over_the_data() -> None:
    graph = case("chain")
    data = np.broadcast_to(np.arange(100, dtype=np.float32)[:, None, None, None], (100, 4, 8, 8))
    laboratory = Laboratory(graph, DataSource.open({"x": data}))
    assert [int(item["x"][0, 0, 0, 0]) for item in laboratory.samples(4)] == [12, 37, 62, 87]
    assert len(laboratory.samples(1000)) == 100


def test_the_budget_buys_samples() -> None:
    graph = case("residual")
    laboratory = Laboratory(graph, DataSource.open({"x": normal(1000, 4, 8, 8)}))
    experiments = all_experiments(graph)
    few, many = (laboratory.samples_for(experiments[:4], passes) for passes in (1e5, 2e5))
    assert 1.9 < many / few < 2.1
    assert laboratory.samples_for(experiments, 1e5) < few
    weights = [experiment for experiment in experiments if experiment.uses[0].slot == 1]
    assert laboratory.cost(weights) < len(weights) * laboratory.cost([])


@settings(deadline=None, max_examples=40)
@given(graph=networks(max_steps=10), joined=st.sampled_from((2, 3, 6)))
def test_random_networks(graph: Graph, joined: int) -> None:
    infer_shapes(graph)
    experiments = all_experiments(graph)
    names = [value.name for value in graph.outputs]
    batched = [value.name for value in graph.values if value.shape and value.shape[0] == "batch"]
    built = experiment_graph(graph, experiments, names, batched, joined=joined)
    built.graph.verify()
    samples = feeds(graph, 2)
    results = Session(built.graph, optimize=False).run(samples)
    base = Session(graph, optimize=False).run(samples)
    expected = [alone(graph, experiment, samples) for experiment in experiments]
    for name in names:
        scale = max(float(np.abs(base[name]).max()), 1e-3)
        np.testing.assert_allclose(results[built.base[name]], base[name], rtol=0, atol=1e-5 * scale)
        blocks = built.blocks(results, name)
        for index, outputs in enumerate(expected):
            found = blocks.get(index, results[built.base[name]])
            # One code more or less at a rounding edge, which float sums in another order may cross.
            wrong = np.abs(found - outputs[name]) > 1e-4 * max(scale, float(np.abs(outputs[name]).max()))
            assert wrong.mean() < 0.01
