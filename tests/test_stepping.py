"""Running graphs step by step: every step gives what a plain run does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from bodies import if_graph
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from small_graphs import graph_of, normal
from strategies import networks

from qcompiler.data import DataSource
from qcompiler.errors import ModelError
from qcompiler.ir.graph import Graph
from qcompiler.ir.shapes import infer_shapes
from qcompiler.runtime import Session
from qcompiler.stepping import Stepper

BUDGETS = {"nothing": 0, "little": 3000, "all": 1 << 30}
RESIDUAL = (
    "(float[batch,4] x) => (float y) { a = MatMul(x, w) r = Relu(a) c = MatMul(r, w) s = Add(c, r) t = Relu(s) "
    "d = MatMul(x, w) y = Add(t, d) }"
)
WEIGHTS = {"w": normal(4, 4)}


def stepper(graph: Graph, data: dict[str, NDArray[Any]], budget: int = 1 << 30, batch: int = 4) -> Stepper:
    infer_shapes(graph)
    return Stepper(graph, DataSource.open(data).validate(graph), batch=batch, budget=budget)


def stepped(steps: Stepper, *names: str) -> dict[str, NDArray[Any]]:
    """Values of all samples, on the first axis."""
    found = list(steps.step([steps.graph.value(name) for name in names]))
    assert all(set(batch) == set(names) for batch in found)
    return {name: np.concatenate([np.atleast_1d(batch[name]) for batch in found]) for name in names}


def plain(graph: Graph, data: dict[str, NDArray[Any]], names: Sequence[str]) -> dict[str, NDArray[Any]]:
    return Session(graph, names, optimize=False).run(data)


def compare(found: dict[str, NDArray[Any]], expected: dict[str, NDArray[Any]]) -> None:
    for name, array in found.items():
        np.testing.assert_allclose(array, expected[name], rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize(
    "steps",
    [
        ["x", "a", "r", "c", "s", "t", "d", "y"],
        ["r", "t", "y"],
        ["y"],
        ["t", "x", "d"],  # back to the start
        ["y", "a", "y", "r"],  # what was passed
        ["c", "c", "r"],
        ["w", "a", "w"],
    ],
)
def test_every_step_is_a_plain_run(budget: str, steps: list[str]) -> None:
    graph, data = graph_of(RESIDUAL, WEIGHTS), {"x": normal(10, 4)}
    expected = plain(graph, data, [name for name in steps if name != "w"]) if steps != ["w"] else {}
    by_step = stepper(graph, data, BUDGETS[budget])
    for name in steps:
        found = stepped(by_step, name)
        if name == "w":
            assert np.array_equal(found["w"][:4], WEIGHTS["w"])
        else:
            compare(found, expected)


def test_several_values_at_once_and_one_twice() -> None:
    graph, data = graph_of(RESIDUAL, WEIGHTS), {"x": normal(6, 4)}
    by_step = stepper(graph, data)
    compare(stepped(by_step, "r", "c"), plain(graph, data, ["r", "c"]))
    r = graph.value("r")
    assert [list(batch) for batch in by_step.step([r, r])] == [["r"], ["r"]]
    assert [list(batch) for batch in by_step.step([])] == [[], []]


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(networks(max_steps=8), st.sampled_from(sorted(BUDGETS)), st.randoms(use_true_random=False))
def test_random_networks(graph: Graph, budget: str, random: Any) -> None:
    data = {"image": normal(3, 3, 8, 8)}
    names = [value.name for value in graph.values if not value.is_constant]
    expected = plain(graph, data, names)
    by_step = stepper(graph, data, BUDGETS[budget], batch=2)
    for _ in range(4):
        compare(stepped(by_step, *random.sample(names, min(2, len(names)))), expected)


def test_what_fits_is_not_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, data = graph_of(RESIDUAL, WEIGHTS), {"x": normal(8, 4)}
    sizes: list[int] = []

    class Counted(Session):
        def __init__(self, part: Graph, *args: Any, **kwargs: Any) -> None:
            sizes.append(part.node_count)
            super().__init__(part, *args, **kwargs)

    for budget, expected in ((1 << 30, [2, 3]), (0, [2, 5])):
        by_step = stepper(graph, data, budget)
        sizes.clear()
        with monkeypatch.context() as patch:
            patch.setattr("qcompiler.stepping.Session", Counted)
            stepped(by_step, "r")
            stepped(by_step, "t")
        assert sizes == expected


@pytest.mark.parametrize("budget", BUDGETS)
def test_changes_behind_the_cut_are_honoured(budget: str) -> None:
    graph, data = graph_of(RESIDUAL, WEIGHTS), {"x": normal(8, 4)}
    by_step = stepper(graph, data, BUDGETS[budget])
    stepped(by_step, "r")
    graph.set_input(graph.value("c").producer, 1, graph.add_constant("v", normal(4, 4, seed=1)))  # type: ignore[arg-type]
    compare(stepped(by_step, "c"), plain(graph, data, ["c"]))
    graph.set_input(graph.value("t").producer, 0, graph.value("c"))  # type: ignore[arg-type]
    compare(stepped(by_step, "y"), plain(graph, data, ["y"]))


def test_changes_in_front_of_the_cut_are_computed_again() -> None:
    """Two layers that are added: the second is computed for the first, and changed when its own turn comes."""
    text = "(float[batch,4] x) => (float y) { a = Relu(x) b = MatMul(a, w) c = MatMul(a, w) s = Add(b, c) d = Add(s, a) y = Relu(d) }"
    graph, data = graph_of(text, WEIGHTS), {"x": normal(8, 4)}
    by_step = stepper(graph, data)
    stepped(by_step, "a", "c")
    graph.set_input(graph.value("c").producer, 1, graph.add_constant("v", normal(4, 4, seed=1)))  # type: ignore[arg-type]
    compare(stepped(by_step, "y"), plain(graph, data, ["y"]))


@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize("budget", BUDGETS)
def test_fixed_batch_sizes(size: int, budget: str) -> None:
    """The last batch is filled up with its last sample."""
    graph, data = graph_of(RESIDUAL.replace("batch", str(size)), WEIGHTS), {"x": normal(6, 4)}
    by_step = stepper(graph, data, BUDGETS[budget], batch=32)
    assert by_step.batch == size
    open_graph = graph_of(RESIDUAL, WEIGHTS)
    padded = data["x"] if size == 1 else np.concatenate([data["x"], np.repeat(data["x"][-1:], 2, axis=0)])
    for name in ("r", "s", "y"):
        compare(stepped(by_step, name), plain(open_graph, {"x": padded}, [name]))


def test_models_that_take_one_sample_in_spite_of_what_they_declare() -> None:
    text = "(float[batch,4,4] x) => (float y) { c = MatMul(x, w) q = Reshape(c, s) y = MatMul(q, v) }"
    graph = graph_of(text, WEIGHTS | {"v": normal(16, 3), "s": np.array([1, 16])})
    data = {"x": normal(5, 4, 4)}
    by_step = stepper(graph, data)
    assert by_step.batch == 1
    expected = np.concatenate(
        [Session(graph, optimize=False).run({"x": data["x"][i : i + 1]})["y"] for i in range(5)]
    )
    compare(stepped(by_step, "q") and stepped(by_step, "y"), {"y": expected})


def test_models_without_batch_axis() -> None:
    graph = graph_of("(float[3,4] x) => (float y) { a = MatMul(x, w) y = Relu(a) }", WEIGHTS)
    data = {"x": normal(5, 3, 4)}
    by_step = stepper(graph, data)
    assert by_step.batch == 1
    for name in ("x", "a", "y"):
        batches = list(by_step.step([graph.value(name)]))
        assert [batch[name].shape for batch in batches] == [(3, 4)] * 5
        for sample, batch in zip(data["x"], batches, strict=True):
            compare(batch, plain(graph, {"x": sample}, [name]))


def test_one_input_without_batch_axis_beside_one_with() -> None:
    graph = graph_of("(float[batch,4] x, float[4] z, float k) => (float y) { a = Mul(x, z) y = Add(a, k) }")
    data = {"x": normal(3, 4), "z": normal(3, 4, seed=1), "k": normal(3)}
    by_step = stepper(graph, data)
    compare(stepped(by_step, "a"), {"a": data["x"] * data["z"]})
    compare(stepped(by_step, "y"), {"y": data["x"] * data["z"] + data["k"][:, None]})


def test_a_graph_of_constants() -> None:
    graph = graph_of("(float[batch,4] x) => (float y) { a = Neg(w) b = Relu(a) y = MatMul(x, b) }", WEIGHTS)
    by_step = stepper(graph, {"x": normal(6, 4)})
    for batch in by_step.step([graph.value("b"), graph.value("w")]):
        assert np.array_equal(batch["b"], np.maximum(-WEIGHTS["w"], 0))
        assert np.array_equal(batch["w"], WEIGHTS["w"])
    compare(stepped(by_step, "y"), plain(graph, {"x": normal(6, 4)}, ["y"]))


def test_sequences_are_not_kept() -> None:
    text = (
        "(float[batch,4] x) => (float y) { r = Relu(x) q = SplitToSequence<axis=1>(r, parts) n = Neg(r) e = SequenceAt(q, one) "
        "y = Add(e, n) }"
    )
    constants = {"parts": np.array(2, np.int64), "one": np.array(1, np.int64)}
    text = text.replace("y = Add(e, n)", "m = MatMul(e, v) y = Add(m, n)")
    graph, data = graph_of(text, constants | {"v": normal(2, 4)}), {"x": normal(6, 4)}
    by_step = stepper(graph, data)
    for name in ("r", "n", "e", "y"):
        compare(stepped(by_step, name), plain(graph, data, [name]))


def test_bodies_behind_the_cut_read_what_is_before_it() -> None:
    graph, _ = if_graph()
    data = {"flag": np.array([True, False, True]), "x": normal(3, 4)}
    by_step = stepper(graph, data)
    stepped(by_step, "doubled")
    for index, batch in enumerate(by_step.step([graph.value("y")])):
        one = {name: np.asarray(array[index]) for name, array in data.items()}
        compare(batch, plain(graph, one, ["y"]))


def test_values_of_unknown_type_are_not_kept() -> None:
    graph, data = graph_of(RESIDUAL, WEIGHTS), {"x": normal(8, 4)}
    by_step = Stepper(graph, DataSource.open(data), batch=4, budget=1 << 30)  # no shape inference
    for name in ("r", "c", "a", "y"):
        compare(stepped(by_step, name), plain(graph, data, [name]))


def test_a_step_that_is_broken_off_moves_nothing() -> None:
    graph, data = graph_of(RESIDUAL, WEIGHTS), {"x": normal(8, 4)}
    by_step = stepper(graph, data)
    next(by_step.step([graph.value("t")]))
    compare(stepped(by_step, "a"), plain(graph, data, ["a"]))


def test_what_cannot_run_is_an_error() -> None:
    graph = graph_of("(float[batch,4] x) => (float y) { a = Relu(x) y = MatMul(a, w) }", WEIGHTS)
    graph.set_input(graph.value("y").producer, 1, graph.add_constant("v", normal(3, 4)))  # type: ignore[arg-type]
    with pytest.raises(ModelError):
        stepped(stepper(graph, {"x": normal(4, 4)}, batch=1), "y")
