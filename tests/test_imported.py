"""Which imported encodings are taken over, and what is said of the others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from small_graphs import graph_of, normal

from qcompiler.data import DataSource
from qcompiler.errors import DataError
from qcompiler.imported import imported_ranges
from qcompiler.ir.encoding import FORMATS, Encoding
from qcompiler.ir.graph import Graph
from qcompiler.ir.plan import PLAN, Plan
from qcompiler.observed import IMPORTED
from qcompiler.pass_manager import PassContext
from qcompiler.passes import find_pass
from qcompiler.pipeline import Pipeline
from qcompiler.targets import find_target

PASSES = "canonicalize,fold_batch_norm,canonicalize,fuse,calibrate,assign_precision"


def per_tensor(name: str, scale: float, zero: int = 0) -> Encoding:
    return Encoding(FORMATS[name], np.asarray(scale, np.float32), np.asarray(zero, np.int32))


def per_channel(scale: Any, axis: int) -> Encoding:
    scale = np.asarray(scale, np.float32)
    return Encoding(FORMATS["int8"], scale, np.zeros(scale.shape, np.int32), axis, narrow=True)


def planned(
    graph: Graph, imported: Mapping[str, Encoding], data: Mapping[str, Any] | None = None
) -> tuple[Plan, dict[str, Encoding]]:
    """The plan for TensorRT, and the encodings of its groups by name."""
    graph.facts[IMPORTED] = dict(imported)
    source = None if data is None else DataSource.open(data)
    context = PassContext(target=find_target("tensorrt"), calibration=source)
    Pipeline.parse(PASSES, find_pass).run(graph, context)
    plan = graph.facts[PLAN]
    return plan, {group.name: group.encoding for group in plan.groups}


def on_grid(*shape: int, scale: Any, axis: int) -> Any:
    spread = [1] * len(shape)
    spread[axis] = -1
    codes = np.random.default_rng(0).integers(-127, 128, shape)
    return (codes * np.asarray(scale, np.float32).reshape(spread)).astype(np.float32)


LINEAR = "(float[N,4] x) => (float[N,3] y) { y = MatMul(x, w) }"
SCALES = (0.1, 0.25, 0.5)


def test_scales_follow_a_weight_that_is_transposed() -> None:
    weight = on_grid(4, 3, scale=SCALES, axis=1)
    given = per_channel(SCALES, 1)
    plan, groups = planned(graph_of(LINEAR, {"w": weight}), {"x": per_tensor("int8", 0.1), "w": given})
    assert groups["w"] == per_channel(SCALES, 0)
    assert plan.notes == (
        (
            "w: imported int8 symmetric per-channel(axis 1) scale 0.1..0.5 → "
            "int8 symmetric per-channel(axis 0) scale 0.1..0.5, because the constant was transposed"
        ),
    )


def test_an_encoding_is_void_where_the_weight_has_changed() -> None:
    weight = on_grid(4, 3, scale=SCALES, axis=1)
    weight[0, 0] += 0.01
    plan, groups = planned(
        graph_of(LINEAR, {"w": weight}), {"x": per_tensor("int8", 0.1), "w": per_channel(SCALES, 1)}
    )
    assert groups["w"].scale is not None
    assert not np.array_equal(groups["w"].scale, np.float32(SCALES))
    assert len(plan.notes) == 1
    assert "does not lie on that grid any more" in plan.notes[0]


def test_codes_of_the_other_sign_are_the_same_grid() -> None:
    graph = graph_of(LINEAR, {"w": normal(4, 3)})
    plan, groups = planned(graph, {"x": per_tensor("uint8", 0.1, 128)})
    assert groups["x"] == per_tensor("int8", 0.1)
    assert plan.notes == (
        (
            "x: imported uint8 symmetric per-tensor scale 0.1 zero point 128 → int8 symmetric per-tensor scale 0.1, because "
            "the target takes int8; scale and grid are the same, codes are shifted"
        ),
    )


def test_a_grid_that_the_target_lacks_keeps_its_range() -> None:
    text = "(float[N,2,4,4] x) => (float[N,3,4,4] y) { y = Conv<pads = [1, 1, 1, 1]>(x, w) }"
    plan, groups = planned(graph_of(text, {"w": normal(3, 2, 3, 3)}), {"x": per_tensor("uint8", 2 / 255, 0)})
    assert groups["x"].format.name == "int8"
    assert groups["x"].real_range()[1] == pytest.approx(2.0)
    assert plan.notes[0].startswith("x: imported uint8 affine per-tensor scale 0.007843 → int8 symmetric")
    assert "but the target takes int8 symmetric" in plan.notes[0]


def test_what_is_gone_and_what_stays_float_is_told() -> None:
    text = "(float[N,4] x) => (float[N,3] y) { i = Identity(x) m = Softmax(i) g = MatMul(m, w) y = Relu(g) }"
    imported = {name: per_tensor("int8", 0.1) for name in ("x", "i", "m", "g", "y")}
    plan, _ = planned(graph_of(text, {"w": normal(4, 3)}), imported)
    told = {note.split(":")[0]: note.rsplit("because ", 1)[1] for note in plan.notes}
    assert list(told) == ["x", "i", "g", "y"]  # m is kept
    assert told["i"] == "the value is gone: it was folded into another, or simplified away"
    assert "computes in float (kernel normalization has no quantized row" in told["x"]
    assert "stays inside the kernel linear of" in told["g"]
    assert told["y"] == "the graph returns it as a float"


CONCAT = """(float[N,2,4,4] x, float[N,2,4,4] z) => (float[N,3,4,4] y) {
    a = Relu(x) b = Relu(z) c = Concat<axis = 1>(a, b) y = Conv<pads = [1, 1, 1, 1]>(c, w) }"""


def test_values_that_must_share_one_encoding_share_the_union_of_their_ranges() -> None:
    imported = {"a": per_tensor("int8", 0.1), "b": per_tensor("int8", 0.2)}
    plan, groups = planned(graph_of(CONCAT, {"w": normal(3, 4, 3, 3)}), imported)
    assert {group.name for group in plan.groups} >= {"a"}
    assert groups["a"].real_range()[1] == pytest.approx(0.2 * 128, rel=0.01)
    assert len(plan.notes) == 1  # the union is b's own range
    assert plan.notes[0].startswith("a: ")
    assert "it shares one encoding with a, b, and they had 2 different ones" in plan.notes[0]


def test_only_what_came_without_an_encoding_needs_data() -> None:
    graph = graph_of(CONCAT, {"w": normal(3, 4, 3, 3)})
    imported = {"a": per_tensor("int8", 0.1)}
    with pytest.raises(DataError, match="have to be observed"):
        planned(graph, imported)
    data = {"x": normal(4, 2, 4, 4), "z": 100 * normal(4, 2, 4, 4)}
    plan, groups = planned(graph_of(CONCAT, {"w": normal(3, 4, 3, 3)}), imported, data)
    assert groups["a"].real_range()[1] > 100
    assert "it shares one encoding with" in plan.notes[0]
    assert "which came without" in plan.notes[0]


def test_ranges_pass_through_what_moves_values() -> None:
    text = """(float[1,2,4,4] x) => (float[A,B,C,D] y) {
        r = Reshape(x, s) p = Pad(r, n) m = MaxPool<kernel_shape = [2, 2]>(p) c = Concat<axis = 1>(m, m) y = Neg(c) }"""
    graph = graph_of(text, {"s": np.array([2, 1, 4, 4]), "n": np.array([0, 0, 1, 1, 0, 0, 1, 1])})
    found = imported_ranges(graph, {"r": per_tensor("int8", 0.1)})
    assert {value.name for value in found} == {"x", "r", "p", "m", "c"}
    assert set(found.values()) == {per_tensor("int8", 0.1).real_range()}
