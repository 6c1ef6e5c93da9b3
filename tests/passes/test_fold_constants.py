"""fold_constants: what does not depend on the inputs, and shapes that stay open."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from small_graphs import graph_of, lines, near_misses, normal, ops_of, run

from qcompiler.ir.graph import Graph
from qcompiler.pass_manager import PassContext
from qcompiler.passes.canonicalize import Canonicalize
from qcompiler.passes.fold_constants import FoldConstants
from qcompiler.runtime import Session

I64 = np.int64


def folded(text: str, constants: dict[str, Any] | None = None, **options: int) -> Graph:
    graph = graph_of(text, constants)
    run(graph, FoldConstants(**options))
    return graph


def index(*numbers: int) -> np.ndarray:
    return np.array(numbers, I64)


def test_a_chain_of_constants_is_evaluated_in_one_session(monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = []

    def counted(*args: Any, **kwargs: Any) -> Session:
        sessions.append(args)
        return Session(*args, **kwargs)

    monkeypatch.setattr("qcompiler.passes.fold_constants.Session", counted)
    graph = folded(
        "(float[4,1] x) => (float y, float z) "
        "{ e = Exp(a) t = Transpose(e) m = MatMul(t, e) y = Add(x, m) q = Sqrt(e) z = Mul(x, q) }",
        {"a": normal(1, 4)},
    )
    assert ops_of(graph) == {"Add": 1, "Mul": 1}
    assert len(sessions) == 1
    assert lines(graph)[0] == "y = Add(x, @m:float32[4,4]) : float32[4,4]"
    assert graph.has_value("m")
    assert graph.has_value("q")


def test_constant_nodes_fold_too() -> None:
    graph = folded(
        "(float[2] x) => (float y) { c = Constant<value_floats=[1.0, 4.0]>() s = Sqrt(c) y = Add(x, s) }"
    )
    assert lines(graph) == ["y = Add(x, @float32:[1.0,2.0]) : float32[2]"]


def test_a_constant_output_keeps_its_name() -> None:
    graph = folded(
        "(float[2] x) => (float y, float z) { z = Exp(c) w = Neg(z) y = Add(x, w) }", {"c": normal(2)}
    )
    assert ops_of(graph) == {"Identity": 1, "Add": 1}
    run(graph, FoldConstants())
    assert ops_of(graph) == {"Identity": 1, "Add": 1}


OPEN_SHAPES: dict[str, tuple[str, dict[str, Any], list[int]]] = {
    "batch and rest": (
        "s = Shape(x) g = Gather(s, i) u = Unsqueeze(g, a) c = Concat<axis=0>(u, n) y = Reshape(x, c)",
        {"i": np.int64(0), "a": index(0), "n": index(64)},
        [0, 64],
    ),
    "batch by slice": (
        "s = Shape(x) g = Slice(s, b, e) c = Concat<axis=0>(g, n) y = Reshape(x, c)",
        {"b": index(0), "e": index(1), "n": index(-1)},
        [0, -1],
    ),
    "batch by attributes": (
        "g = Shape<start=0, end=1>(x) c = Concat<axis=0>(g, n) y = Reshape(x, c)",
        {"n": index(4, 16)},
        [0, 4, 16],
    ),
    "product of sizes": (
        "s = Shape(x) g = Gather(s, i) h = Gather(s, j) m = Mul(h, k) u = Unsqueeze(g, a) v = Unsqueeze(m, a) c = Concat<axis=0>(u, v) y = Reshape(x, c)",
        {"i": np.int64(0), "j": np.int64(1), "k": np.int64(16), "a": index(0)},
        [0, 64],
    ),
    "batch moved": (
        "s = Shape(x) g = Gather(s, i) c = Concat<axis=0>(n, g) y = Reshape(x, c)",
        {"i": index(0), "n": index(64)},
        [64, -1],
    ),
    "batch of another value": (
        "r = Relu(x) s = Shape(r) g = Gather(s, i) t = Cast<to=6>(g) u = Cast<to=7>(t) c = Concat<axis=0>(u, n) y = Reshape(x, c)",
        {"i": index(0), "n": index(64)},
        [0, 64],
    ),
    "two batches": (
        "s = Shape(x) g = Gather(s, i) m = Mul(g, k) c = Concat<axis=0>(m, n) y = Reshape(x, c)",
        {"i": index(0), "k": index(2), "n": index(32)},
        [-1, 32],
    ),
    "half": (
        "s = Shape(x) g = Gather(s, i) d = Div(g, k) b = Gather(s, z) c = Concat<axis=0>(b, k, d, n) y = Reshape(x, c)",
        {"i": index(1), "z": index(0), "k": index(2), "n": index(16)},
        [0, 2, 2, 16],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", OPEN_SHAPES)
def test_open_shapes_stay_open(case: str) -> None:
    body, constants, expected = OPEN_SHAPES[case]
    graph = folded(f"(float[batch,4,4,4] x) => (float y) {{ {body} }}", constants)
    target = next(node for node in graph.nodes if node.op == "Reshape").inputs[1]
    assert target is not None
    assert target.data is not None
    assert target.data.tolist() == expected
    assert set(ops_of(graph)) <= {"Reshape", "Relu"}


def test_static_shapes_fold_to_numbers() -> None:
    graph = folded(
        "(float[3,4,4] x) => (float y, int64 z) { s = Shape(x) z = Size(x) g = Gather(s, i) c = Concat<axis=0>(g, n) y = Reshape(x, c) }",
        {"i": index(0), "n": index(16)},
    )
    assert "Shape" not in ops_of(graph)
    assert lines(graph) == [
        "y = Reshape(x, @int64:[3,16]) : float32[3,16]",
        "z = Identity(@int64:48) : int64[]",
    ]


def test_a_size_that_nobody_names_is_the_same_size_only_for_the_same_value() -> None:
    body = "{ s = Shape(x) g = Gather(s, i) h = Gather(s, j) c = Concat<axis=0>(g, n, h) y = Reshape(x, c) }"
    constants = {"i": index(0), "j": index(2), "n": index(2, 2)}
    same = folded(f"(float[a,4,b] x) => (float y) {body}", constants)
    assert lines(same) == ["y = Reshape(x, @int64:[0,2,2,-1]) : float32[a,2,2,b]"]
    graph = graph_of(f"(float[a,4,b] x) => (float y) {body}", constants)
    graph.inputs[0].shape = ("?", 4, "?")  # a placeholder, not a name
    FoldConstants().run(graph, PassContext())
    assert lines(graph)[0].startswith("y = Reshape(x, @int64:[0,2,2,-1])")


def test_two_open_sizes_out_of_place_are_left() -> None:
    graph = folded(
        "(float[a,b,4] x) => (float y) { s = Shape(x) g = Gather(s, i) c = Concat<axis=0>(g, n) y = Reshape(x, c) }",
        {"i": index(1, 0), "n": index(4)},
    )
    assert "Concat" in ops_of(graph)


def test_expand_as_exporters_write_it() -> None:
    graph = folded(
        "(float[batch,1,4] x) => (float y) { s = Shape(x) b = Gather(s, i) c = Concat<axis=0>(b, n) o = Shape(c) "
        "ones = ConstantOfShape<value=int64[1] {1}>(o) neg = Mul(ones, minus) q = Equal(c, neg) w = Where(q, ones, c) y = Expand(x, w) }",
        {"i": index(0), "n": index(3, -1), "minus": np.int64(-1)},
    )
    assert lines(graph) == ["y = Expand(x, @int64:[1,3,1]) : float32[batch,3,4]"]


def test_slice_to_the_end() -> None:
    graph = folded(
        "(float[batch,4] x) => (float y) { s = Shape(x) e = Gather(s, i) y = Slice(x, b, e, i) }",
        {"i": index(0), "b": index(1)},
    )
    assert lines(graph)[0].startswith("y = Slice(x, @int64:[1], @int64:[9223372036854775807], @int64:[0])")


def test_resize_of_spatial_axes() -> None:
    graph = folded(
        "(float[batch,3,4,4] x) => (float y) { s = Shape(x) h = Slice(s, z, t) c = Concat<axis=0>(h, n) "
        'y = Resize<mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor">(x, , , c) }',
        {"z": index(0), "t": index(2), "n": index(8, 8)},
    )
    assert graph.nodes[0].attributes["axes"] == [2, 3]
    assert ops_of(graph) == {"Resize": 1}


def test_stale_annotations_do_not_bake_a_batch() -> None:
    graph = graph_of(
        "(float[batch,4,4] x) => (float[1,16] y) { r = Relu(x) s = Shape(r) g = Gather(s, i) c = Concat<axis=0>(g, n) y = Reshape(r, c) }",
        {"i": index(0), "n": index(16)},
    )
    graph.value("r").shape = (1, 4, 4)  # from before the batch was opened
    run(graph, FoldConstants())
    assert lines(graph)[-1] == "y = Reshape(r, @int64:[0,16]) : float32[batch,16]"


def test_no_large_constants_out_of_small_ones() -> None:
    text = "(float[1000,1000] x) => (float y) { z = ConstantOfShape<value=float[1] {2.0}>(s) e = Exp(z) y = Add(x, e) }"
    graph = graph_of(text, {"s": index(1000, 1000)})
    records = run(graph, FoldConstants())
    assert ops_of(graph) == {"ConstantOfShape": 1, "Exp": 1, "Add": 1}
    assert "4000000 bytes out of 16" in near_misses(records)[0]
    assert ops_of(folded(text, {"s": index(1000, 1000)}, max_growth_bytes=5_000_000)) == {"Add": 1}


@pytest.mark.parametrize("op", ["Expand", "Tile"])
def test_small_growth_is_fine(op: str) -> None:
    graph = folded(
        f"(float[4,4] x) => (float y) {{ e = {op}(c, s) y = Add(x, e) }}",
        {"c": normal(1, 1), "s": index(4, 4)},
    )
    assert ops_of(graph) == {"Add": 1}


KEPT: dict[str, tuple[str, dict[str, Any]]] = {
    "quantized": (
        "q = QuantizeLinear(w, s, z) d = DequantizeLinear(q, s, z) y = MatMul(x, d)",
        {"w": normal(4, 4), "s": np.float32(0.1), "z": np.int8(0)},
    ),
    "random": ("r = RandomNormalLike<seed=1.0>(w) m = Mul(r, zero) y = Add(x, m)", {"w": normal(4), "zero": np.float32(0)}),
    "control flow": (
        "i = If<then_branch = t () => (float[4] o) { o = Identity(w) }, else_branch = f () => (float[4] p) { p = Neg(w) }>(c) y = Add(x, i)",
        {"w": normal(4), "c": np.bool_(True)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", KEPT)
def test_left_alone(case: str) -> None:
    body, constants = KEPT[case]
    graph = graph_of(f"(float[2,4] x) => (float y) {{ {body} }}", constants)
    before = ops_of(graph)
    run(graph, FoldConstants())
    assert ops_of(graph) == before


def test_other_domains_are_left_alone() -> None:
    graph = Graph()
    x, c = graph.add_input("x", np.float32, (2,)), graph.add_constant("c", normal(2))
    odd = graph.add_value("odd", np.float32, (2,))
    graph.add_node("Odd", [c], [odd], domain="com.example")
    graph.set_outputs([graph.add_node("Add", [x, odd]).output])
    FoldConstants().run(graph, PassContext())
    assert ops_of(graph) == {"Odd": 1, "Add": 1}


def test_what_onnxruntime_refuses_is_told_and_the_rest_folded() -> None:
    graph = Graph()
    x, c = graph.add_input("x", np.float32, (2,)), graph.add_constant("c", normal(2))
    bad = graph.add_value("bad", np.float32, (2,))
    graph.add_node("Exp", [c, c], [bad])  # Exp takes one operand
    good = graph.add_node("Exp", [c]).output
    graph.set_outputs([graph.add_node("Add", [x, bad]).output, graph.add_node("Mul", [x, good]).output])
    result = FoldConstants().run(graph, PassContext())
    assert ops_of(graph) == {"Exp": 1, "Add": 1, "Mul": 1}
    assert "onnxruntime cannot evaluate it" in str(result.diagnostics[0])


def test_fuel_stops_folding() -> None:
    text = "(float[2] x) => (float y) { a = Exp(c) b = Exp(d) m = Add(x, a) y = Add(m, b) }"
    graph = graph_of(text, {"c": normal(2), "d": normal(2, seed=1)})
    FoldConstants().run(graph, PassContext(fuel=1))
    assert ops_of(graph) == {"Exp": 1, "Add": 2}


def test_the_padding_arithmetic_of_an_exporter() -> None:
    """As torch.onnx writes F.pad(x, (1, 2)): pads from the last axis, padded with zeros, reversed by a slice."""
    graph = folded(
        "(float[batch,3,4] x) => (float y) { p = Cast<to=7>(pads) s = Shape(p) g = Gather(s, zero) r = Sub(six, g) "
        "z = ConstantOfShape<value=int64[1] {0}>(r) c = Concat<axis=0>(p, z) two = Reshape(c, pairs) "
        "rev = Slice(two, minus, floor, zero1, minus) t = Transpose<perm=[1,0]>(rev) flat = Reshape(t, all) y = Pad(x, flat) }",
        {
            "pads": np.array([1, 2], np.int32), "zero": index(0), "six": np.int64(6), "pairs": index(-1, 2), "minus": index(-1),
            "floor": index(-(2**63) + 1), "zero1": index(0), "all": index(-1),
        },
    )  # fmt: skip
    assert lines(graph) == ["y = Pad(x, @int64:[0,0,1,0,0,2]) : float32[batch,3,7]"]


def test_sessions_see_no_more_than_they_need() -> None:
    graph = folded(
        "(float[2] x) => (float y) { a = Identity(c) b = Add(x, a) y = Identity(b) }", {"c": normal(2)}
    )
    run(graph, Canonicalize())
    assert ops_of(graph) == {"Add": 1}
