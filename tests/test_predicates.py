"""Predicates: each holds or says why not, on small matches; users can add their own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from small_graphs import graph_of, normal

from qcompiler.ir.shapes import infer_shapes
from qcompiler.patterns import Match, Pattern
from qcompiler.predicates import PREDICATES, predicate, refusal

CONV = "Conv(x, w, b?) -> Add(_, z)?"
IMAGE = "(float[batch,4,9,9] x, float[batch,6,9,9] s) => (float y)"
TEXTS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "plain": (CONV, f"{IMAGE} {{ y = Conv<pads=[1,1,1,1], dilations=[1,1]>(x, w, b) }}", {"w": normal(6, 4, 3, 3), "b": normal(6)}),
    "residual": (CONV, f"{IMAGE} {{ c = Conv<pads=[1,1,1,1]>(x, w) y = Add(c, s) }}", {"w": normal(6, 4, 3, 3)}),
    "broadcast": (CONV, f"{IMAGE} {{ c = Conv<pads=[1,1,1,1]>(x, w) y = Add(c, z) }}", {"w": normal(6, 4, 3, 3), "z": normal(6, 1, 1)}),
    "depthwise": (CONV, f"{IMAGE} {{ y = Conv<group=4, dilations=[2,2], auto_pad=\"SAME_UPPER\">(x, w) }}", {"w": normal(4, 1, 5, 3)}),
    "variable": (CONV, "(float[batch,4,9,9] x, float[6,4,a,b] w) => (float y) { y = Conv(x, w) }", {}),
    "broken": (CONV, f"{IMAGE} {{ y = Conv(x, w) }}", {"w": np.full((6, 4, 1, 1), np.nan, np.float32)}),
    "gemm": ("Gemm(x, w, b?)", "(float[batch,12] x) => (float y) { y = Gemm<transB=1>(x, w) }", {"w": normal(5, 12)}),
    "moved": (CONV, f"{IMAGE} {{ m = Transpose<perm=[0,1,3,2]>(x) y = Conv(m, w) }}", {"w": normal(6, 4, 1, 1)}),
    "later": (CONV, f"{IMAGE} {{ m = Tanh(x) y = Conv(m, w) }}", {"w": normal(6, 4, 1, 1)}),
    "integers": ("Flatten(x)", "(int64[batch,12] x) => (int64 y) { y = Flatten(x) }", {}),
    "pad": ("Pad(x, pads, value?)", "(float[batch,12] x) => (float y) { y = Pad(x, p, v) }", {"p": np.array([0, 1, 0, 1]), "v": np.float32(2)}),
    "pad 0": ("Pad(x, pads, value?)", "(float[batch,12] x) => (float y) { y = Pad(x, p, v) }", {"p": np.array([0, 1, 0, 1]), "v": np.float32(0)}),
    "doubled": (CONV, f"{IMAGE} {{ y = Conv<group=4>(x, w) }}", {"w": normal(8, 1, 3, 3)}),
    "biased": ("MatMul(x, w) -> Add(_, b)?", "(float[batch,12] x) => (float y) { m = MatMul(x, w) y = Add(m, b) }", {"w": normal(12, 5), "b": normal(5)}),
    "per row": ("MatMul(x, w) -> Add(_, b)?", "(float[7,12] x) => (float y) { m = MatMul(x, w) y = Add(m, b) }", {"w": normal(12, 5), "b": normal(7, 1)}),
    "products": ("MatMul(a, b)", "(float[2,4,3] a, float[2,3,5] b) => (float y) { y = MatMul(a, b) }", {}),
    "stacks": ("MatMul(a, b)", "(float[2,4,3] a, float[3,5] b) => (float y) { y = MatMul(a, b) }", {}),
    "resize": ("Resize(x, roi?, scales?)", "(float[2,4,3,5] x) => (float y) { y = Resize<mode=\"linear\">(x, , k) }", {"k": np.float32([1, 1, 2, 1.2])}),
    "resize between": ("Resize(x, roi?, scales?)", "(float[2,4,3,5] x) => (float y) { y = Resize(x, , k) }", {"k": np.float32([1, 1, 1.5, 1])}),
    "gather": ("Gather(x, i)", "(float[4,12] x) => (float y) { y = Gather(x, i) }", {"i": np.array([0, 3])}),
    "gather from the end": ("Gather(x, i)", "(float[4,12] x) => (float y) { y = Gather(x, i) }", {"i": np.array([0, -1])}),
    "softmax": ("Softmax(x)", "(float[batch,12,3] x) => (float y) { y = Softmax<axis=1>(x) }", {}),
    "softmax last": ("Softmax(x)", "(float[batch,12,3] x) => (float y) { y = Softmax<axis=2>(x) }", {}),
}  # fmt: skip


def match(case: str) -> Match:
    pattern, text, constants = TEXTS[case]
    compiled = Pattern(pattern)
    graph = graph_of(text, constants)
    infer_shapes(graph)
    (found,) = (
        found
        for node in graph.nodes
        if node.op in compiled.anchor_ops and isinstance(found := compiled.match(node), Match)
    )
    return found


MODES: dict[str, Any] = {
    "names": ["mode", "nearest_mode"], "defaults": ["nearest", "round_prefer_floor"],
    "accepted": [["nearest", "floor"], ["linear", "round_prefer_floor"]],
}  # fmt: skip
HOLDS: list[tuple[str, dict[str, Any]]] = [
    ("plain", {"check": "constant", "operand": "w"}),
    ("residual", {"check": "constant", "operand": "b"}),
    ("plain", {"check": "variable", "operand": "x"}),
    ("later", {"check": "not-graph-input", "operand": "x"}),
    ("plain", {"check": "not-graph-input", "operand": "w"}),
    ("plain", {"check": "absent", "operand": "z"}),
    ("plain", {"check": "float-type", "operand": "x"}),
    ("plain", {"check": "rank", "operand": "x", "accepted": [3, 4]}),
    ("plain", {"check": "rank", "operand": "z", "accepted": [9]}),
    ("plain", {"check": "dimension", "operand": "x", "axis": 1, "multiple": 4}),
    ("plain", {"check": "dimension", "operand": "z", "axis": 1}),
    ("plain", {"check": "channels", "operand": "w", "minimum": 6, "maximum": 6}),
    ("plain", {"check": "contraction", "operand": "w", "multiple": 4}),
    ("gemm", {"check": "contraction", "operand": "w", "multiple": 12}),
    ("gemm", {"check": "channels", "operand": "w", "maximum": 5}),
    ("plain", {"check": "channels", "operand": "z"}),
    ("plain", {"check": "attribute", "name": "dilations", "accepted": [1]}),
    ("residual", {"check": "attribute", "name": "dilations", "accepted": [7]}),
    ("residual", {"check": "attribute", "name": "pads", "op": "Add", "accepted": [7]}),
    ("plain", {"check": "attribute", "name": "pads", "minimum": 0, "maximum": 1}),
    ("plain", {"check": "kernel-size", "maximum": 3}),
    ("plain", {"check": "kernel-size", "maximum": 3, "operand": "z"}),
    ("depthwise", {"check": "depthwise"}),
    ("plain", {"check": "depthwise", "accepted": False}),
    ("plain", {"check": "elements", "operand": "x", "maximum": 324}),
    ("plain", {"check": "elements", "operand": "w", "minimum": 216}),
    ("plain", {"check": "elements", "operand": "z"}),
    ("residual", {"check": "same-shape", "operands": ["z", "output"]}),
    ("plain", {"check": "same-shape", "operands": ["z", "output"]}),
    ("softmax last", {"check": "last-axis"}),
    ("plain", {"check": "finite", "operand": "w"}),
    ("variable", {"check": "finite", "operand": "w"}),
    ("pad 0", {"check": "zero", "operand": "value"}),
    ("plain", {"check": "zero", "operand": "z"}),
    ("plain", {"check": "dimensions", "operand": "x", "maximum": 9}),
    ("softmax", {"check": "axis-size", "maximum": 12}),
    ("plain", {"check": "filter-elements", "operand": "w", "maximum": 36}),
    ("depthwise", {"check": "depthwise-multiplier", "maximum": 1}),
    ("biased", {"check": "per-output-channel", "operand": "b"}),
    ("products", {"check": "same-leading", "operands": ["a", "b"]}),
    ("gather", {"check": "not-negative", "operand": "i"}),
    ("resize", {"check": "scales-as-sizes", "operand": "x", "scales": "scales"}),
    ("resize", {"check": "attributes", **MODES}),
]  # fmt: skip

REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("variable", {"check": "constant", "operand": "w"}, "w (w) is computed at run time, not a constant"),
    ("plain", {"check": "variable", "operand": "w"}, "w (w) is a constant"),
    ("residual", {"check": "absent", "operand": "z"}, "z (s) is given"),
    ("integers", {"check": "float-type", "operand": "x"}, "x (x) holds int64, not floats"),
    ("plain", {"check": "rank", "operand": "x", "accepted": [2, 3]}, "x (x) has rank 4, not 2 or 3"),
    ("plain", {"check": "rank", "operand": "output", "accepted": [2]}, "output (y) has rank 4, not 2"),
    ("plain", {"check": "dimension", "operand": "x", "axis": 0}, "dimension 0 of x [batch,4,9,9] is not known at compile time"),
    ("plain", {"check": "dimension", "operand": "x", "axis": 7}, "dimension 7 of x [batch,4,9,9] is not known at compile time"),
    ("plain", {"check": "dimension", "operand": "x", "axis": 1, "maximum": 3}, "dimension 1 of x [batch,4,9,9] is 4, above 3"),
    ("plain", {"check": "channels", "operand": "w", "minimum": 8}, "the number of output channels of w is 6, below 8"),
    ("plain", {"check": "channels", "operand": "output"}, "the output channels of output (y) are not known"),
    ("plain", {"check": "contraction", "operand": "w", "multiple": 8}, "the number of elements summed over of w is 4, not a multiple of 8"),
    ("depthwise", {"check": "attribute", "name": "dilations", "accepted": [1]}, "dilations of Conv is 2, not 1"),
    ("depthwise", {"check": "attribute", "name": "dilations", "maximum": 1}, "dilations of Conv is 2, outside -inf..1"),
    ("depthwise", {"check": "attribute", "name": "auto_pad", "accepted": ["NOTSET", "VALID"]}, "auto_pad of Conv is 'SAME_UPPER', not NOTSET or VALID"),
    ("depthwise", {"check": "attribute", "name": "auto_pad", "minimum": 0}, "auto_pad of Conv is 'SAME_UPPER', outside 0..inf"),
    ("residual", {"check": "attribute", "name": "dilations", "accepted": [7], "default": 1}, "dilations of Conv is 1, not 7"),
    ("depthwise", {"check": "kernel-size", "maximum": 4}, "kernel 5x3 exceeds 4"),
    ("variable", {"check": "kernel-size", "maximum": 4}, "the size of the kernel w (w) is not known at compile time"),
    ("plain", {"check": "depthwise"}, "the convolution is not depthwise (group 1)"),
    ("depthwise", {"check": "depthwise", "accepted": False}, "the convolution is depthwise (group 4)"),
    ("plain", {"check": "elements", "operand": "x", "maximum": 300}, "the number of elements of x is 324, above 300"),
    ("variable", {"check": "elements", "operand": "w"}, "the size of w (w) is not known at compile time"),
    ("broadcast", {"check": "same-shape", "operands": ["z", "output"]}, "shapes differ: z [6,1,1], output [batch,6,9,9]"),
    ("softmax", {"check": "last-axis"}, "axis 1 of Softmax is not the last of 3"),
    ("broken", {"check": "finite", "operand": "w"}, "w (w) holds NaN or infinite elements"),
    ("pad", {"check": "zero", "operand": "value"}, "value (v) is not zero"),
    ("moved", {"check": "not-graph-input", "operand": "x"}, "x (x) is an input of the model"),
    ("softmax", {"check": "axis-size", "maximum": 11}, "the size of axis 1 of Softmax is 12, above 11"),
    ("plain", {"check": "dimensions", "operand": "x", "maximum": 8}, "x [batch,4,9,9] has a dimension above 8"),
    ("plain", {"check": "filter-elements", "operand": "w", "maximum": 35}, "the number of elements of one filter of w is 36, above 35"),
    ("doubled", {"check": "depthwise-multiplier", "maximum": 1}, "every input channel has 2 filters"),
    ("per row", {"check": "per-output-channel", "operand": "b"}, "b (b) is no constant with one number per output channel"),
    ("stacks", {"check": "same-leading", "operands": ["a", "b"]}, "stacks of matrices differ: a [2,4,3], b [3,5]"),
    ("gather from the end", {"check": "not-negative", "operand": "i"}, "i (i) is no constant without negative elements"),
    ("resize between", {"check": "scales-as-sizes", "operand": "x", "scales": "scales"}, "the factor 1.5 is not the ratio of the sizes, 3 to 4"),
    ("resize between", {"check": "attributes", **MODES}, "mode, nearest_mode of Resize are nearest and round_prefer_floor, not nearest and floor or linear and round_prefer_floor"),
]  # fmt: skip


@pytest.mark.parametrize(("case", "limit"), HOLDS, ids=[f"{case}-{limit}" for case, limit in HOLDS])
def test_holds(case: str, limit: dict[str, Any]) -> None:
    assert refusal(match(case), [limit]) is None


@pytest.mark.parametrize(("case", "limit", "reason"), REFUSED, ids=[reason for *_, reason in REFUSED])
def test_refuses_with_a_reason(case: str, limit: dict[str, Any], reason: str) -> None:
    assert refusal(match(case), [limit]) == reason


def test_every_predicate_is_tested_both_ways() -> None:
    assert {limit["check"] for _, limit, _ in REFUSED} == set(PREDICATES)
    assert {limit["check"] for _, limit in HOLDS} == set(PREDICATES)


def test_the_first_refusal_and_a_reason_of_the_descriptors_own() -> None:
    limits = [
        {"check": "rank", "operand": "x", "accepted": [4]},
        {"check": "kernel-size", "maximum": 1, "reason": "only 1x1"},
        {"check": "constant", "operand": "x"},
    ]
    assert refusal(match("plain"), limits) == "only 1x1"


@pytest.mark.parametrize("name", PREDICATES)
def test_predicates_describe_themselves(name: str) -> None:
    entry = PREDICATES[name]
    assert entry.summary.endswith(".")
    assert set(entry.required) <= set(entry.parameters)


def test_a_predicate_of_ones_own() -> None:
    @predicate("odd-nodes")
    def odd_nodes(match: Match, least: int = 1) -> str | None:
        """The match has an odd number of nodes."""
        return None if len(match.nodes) % 2 and len(match.nodes) >= least else f"{len(match.nodes)} nodes"

    try:
        assert PREDICATES["odd-nodes"].parameters == {"least": int}
        assert refusal(match("plain"), [{"check": "odd-nodes"}]) is None
        assert refusal(match("residual"), [{"check": "odd-nodes"}]) == "2 nodes"
    finally:
        del PREDICATES["odd-nodes"]
