"""Verification: what is wrong with a package is found, what float16 cannot hold stays float32, and Core ML is asked where it is there."""

from __future__ import annotations

import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from packages import write
from small_graphs import graph_of, normal

import qcompiler as qc
from qcompiler.data import DataSource
from qcompiler.errors import QCompilerError, TargetError
from qcompiler.ir.graph import Graph
from qcompiler.lowering import Verification, VerifyJob
from qcompiler.targets import find_target
from qcompiler.targets.core_ml import evaluate
from qcompiler.targets.core_ml.evaluate import Evaluator
from qcompiler.targets.core_ml.float_types import FloatTypes
from qcompiler.targets.core_ml.lower import contents
from qcompiler.targets.core_ml.verify import PackageRunner

ct = pytest.importorskip("coremltools")

TEXT = "(float[batch,4,8,8] x) => (float y) { c = Conv<pads=[1,1,1,1]>(x, w, b) r = Relu(c) y = Conv(r, v) }"
WEIGHTS = {"w": normal(6, 4, 3, 3) / 6, "b": normal(6), "v": normal(5, 6, 1, 1) / 3}
DATA = {"x": normal(48, 4, 8, 8)}


@pytest.fixture
def result(tmp_path: Path) -> qc.Result:
    return qc.compile(
        graph_of(TEXT, WEIGHTS), "core-ml:ios17", DATA, output=tmp_path / "out", float_format="float32"
    )


def verified(result: qc.Result, changed: Graph | None = None) -> Verification:
    """Verifies what was compiled, or another graph's package against it."""
    assert result.output is not None
    target = find_target("core-ml:ios17")
    if changed is not None:
        for name, data in contents(changed, FloatTypes(changed, "float32"), target):
            (result.output / "model.mlpackage" / name).write_bytes(data)
    data = DataSource.open(DATA).validate(result.graph)
    runner = PackageRunner(VerifyJob(result.output, None, result.graph, result.plan, target, data, {}))
    assert sum(len(outputs["y"]) for outputs in runner.stream(data)) == 48
    return runner.verification()


def test_a_package_as_planned_passes(result: qc.Result) -> None:
    found = verified(result)
    assert found.passed
    assert found.ran
    assert found.consumer == "coremltools"
    assert found.max_abs_diff is not None
    assert found.max_abs_diff < 1e-4


@pytest.mark.parametrize(("op", "which", "slot", "change", "says"), [
    ("QuantizeLinear", -1, 1, lambda scale: scale * np.float32(1.01), "codes differ"),
    ("DequantizeLinear", -1, 1, lambda scale: scale * np.float32(1.1), "of their size, which a cosine does not show"),
    ("Conv", 0, 2, lambda bias: bias + np.float32(0.1), "codes differ by more than one step"),
])  # fmt: skip
def test_other_numbers_are_noticed(
    result: qc.Result, op: str, which: int, slot: int, change: Callable[[Any], Any], says: str
) -> None:
    graph = result.graph.copy()
    node = [node for node in graph.nodes if node.op == op][which]
    value = node.input(slot)
    assert value is not None
    graph.set_input(node, slot, graph.add_constant("changed", np.asarray(change(value.data))))
    found = verified(result, graph)
    assert not found.passed
    assert says in found.summary


# -- types of floats ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "constants"), [
    ("(float[batch,8] x) => (float y) { [big] y = Mul(x, k) }", {"k": np.float32(1e5)}),
    ("(float[batch,8] x) => (float y) { q = QuantizeLinear(x, s, z) [big] y = DequantizeLinear(q, s, z) }", {"s": np.float32(1e-6), "z": np.uint8(3)}),
])  # fmt: skip
def test_what_float16_does_not_hold_stays_float32(
    text: str, constants: dict[str, Any], tmp_path: Path
) -> None:
    graph = graph_of(text, constants)
    assert "big" in FloatTypes(graph, "float16").wide
    assert write(graph, tmp_path, floats="float16").gap() < 1e-3


# -- the evaluator ----------------------------------------------------------------------------------------------------


def test_operators_without_a_rule_are_inferred_by_coremltools(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = write(graph_of("(float[2,8] x) => (float y) { y = Tanh(x) }"), tmp_path)
    monkeypatch.setattr(evaluate, "RULES", {op: rule for op, rule in evaluate.RULES.items() if op != "tanh"})
    assert written.gap() < 1e-6


def test_operators_that_nothing_evaluates_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = write(
        graph_of("(float[2,8,9] x) => (float y) { y = Conv(x, w) }", {"w": normal(3, 8, 2)}), tmp_path
    )
    monkeypatch.setattr(evaluate, "RULES", {})
    with pytest.raises(TargetError, match=r"operator conv .* cannot be evaluated"):
        Evaluator(written.package)


# -- Core ML itself, played by something else -------------------------------------------------------------------------


def played(answer: Callable[[dict[str, NDArray[Any]]], dict[str, NDArray[Any]]]) -> type:
    class Model:
        def __init__(self, path: str) -> None:
            assert path.endswith("model.mlpackage")

        def predict(self, feeds: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
            return answer(feeds)

    return Model


def on_macos(result: qc.Result, monkeypatch: pytest.MonkeyPatch, factor: float) -> Verification:
    assert result.output is not None
    runner = PackageRunner(
        VerifyJob(result.output, None, result.graph, result.plan, find_target("core-ml:ios17"), None, {})
    )
    evaluator = runner._evaluator

    def answer(feeds: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        if not factor:
            raise RuntimeError("the Neural Engine says no")
        outputs = evaluator.run(feeds)
        return {name: array + np.float32(factor - 1) * np.roll(array, 1) for name, array in outputs.items()}

    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.setattr(ct.models, "MLModel", played(answer))
    return runner.verification()


def test_core_ml_is_asked_on_macos(result: qc.Result, monkeypatch: pytest.MonkeyPatch) -> None:
    found = on_macos(result, monkeypatch, 1.0)
    assert found.passed
    assert found.consumer == "Core ML"


def test_core_ml_computes_something_else(result: qc.Result, monkeypatch: pytest.MonkeyPatch) -> None:
    found = on_macos(result, monkeypatch, 3.0)
    assert not found.passed
    assert "Core ML's outputs have a cosine of" in found.summary


def test_core_ml_refuses(result: qc.Result, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(QCompilerError, match="Core ML does not run the package: the Neural Engine says no"):
        on_macos(result, monkeypatch, 0.0)
