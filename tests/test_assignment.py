"""Assignment: which points share an encoding, what is stored, what follows its consumers, and that any graph comes out whole."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from quantized import ENCODINGS, HEADER, SMALL, Quantized, quantize, target_of
from small_graphs import graph_of, normal
from strategies import feeds, networks

from qcompiler.assignment import Problem, demands
from qcompiler.ir.encoding import Encoding
from qcompiler.ir.graph import Graph
from qcompiler.ir.onnx_export import to_onnx
from qcompiler.ir.shapes import infer_shapes
from qcompiler.pass_manager import PassContext
from qcompiler.passes import find_pass
from qcompiler.pipeline import Pipeline
from qcompiler.plan_check import check_plan
from qcompiler.regions import REGIONS
from qcompiler.sources import value_source
from qcompiler.target import Target
from qcompiler.targets import find_target

IMAGE = "(float[batch,4,8,8] x) => (float y)"
PAD = "<pads=[1,1,1,1]>"
W = {"w": normal(4, 4, 3, 3) / 6, "v": normal(4, 4, 1, 1) / 2, "b": normal(4)}


def done(
    text: str, constants: dict[str, Any] | None = None, target: Any = "tensorrt", **options: Any
) -> Quantized:
    return quantize(graph_of(text, W if constants is None else constants), target, **options)


def reads(result: Quantized, value: str) -> list[str]:
    """The encodings in which a value is read, by the names of the rows' specs: "float" where a use has none."""
    groups = result.plan.group_of_use()
    uses = result.float_graph.value(value).uses
    return sorted(
        groups[use.node.name, use.slot].offset if (use.node.name, use.slot) in groups else "float"
        for use in uses
    )


# -- what is stored --------------------------------------------------------------------------------------------


def test_a_value_that_all_readers_take_alike_is_stored_once() -> None:
    result = done(
        f"{IMAGE} {{ c = Conv{PAD}(x, w) r = Relu(c) d = Conv{PAD}(r, w) e = Conv{PAD}(r, w) y = Add(d, e) }}"
    )
    group = result.plan.group_of_value()["r"]
    assert len(group.uses) == 2
    assert group.relation == "free"
    assert reads(result, "r") == ["code", "code"]


def test_a_value_with_a_float_reader_too_stays_float_and_is_converted() -> None:
    result = done(
        f"{IMAGE} {{ c = Conv{PAD}(x, w) r = Relu(c) d = Conv{PAD}(r, w) p = AveragePool<kernel_shape=[8,8]>(r) y = Add(d, p) }}"
    )
    assert "r" not in result.plan.group_of_value()
    assert reads(result, "r") == ["code", "float"]
    (pool,) = (node for node in result.graph.nodes if node.op == "GlobalAveragePool")
    assert pool.inputs[0] is not None
    assert pool.inputs[0].producer is not None
    assert pool.inputs[0].producer.op == "Relu"


def test_graph_outputs_stay_float() -> None:
    result = done(
        "(float[batch,4,8,8] x) => (float y, float r) { c = Conv<pads=[1,1,1,1]>(x, w) r = Relu(c) y = Conv<pads=[1,1,1,1]>(r, w) }"
    )
    assert not {"y", "r"} & set(result.plan.group_of_value())
    before, after = result.outputs()
    assert len(np.unique(after["r"])) > 256, "the output went through codes"
    assert before.keys() == after.keys()


def test_graph_outputs_are_stored_where_the_target_says_so(tmp_path: Path) -> None:
    text = "(float[batch,4,8,8] x) => (float y, float r) { c = Conv(x, w) r = Relu(c) d = Conv(r, w) y = Elu(d) }"
    target = target_of(tmp_path, SMALL)
    result = quantize(graph_of(text, W), target)
    assert {"x", "r"} <= set(result.plan.group_of_value())
    before, after = result.outputs()
    assert list(before) == list(after) == ["y", "r"]
    assert all(len(np.unique(after[name])) <= 256 for name in after)
    assert result.sqnr() > 30


def test_both_producers_of_a_residual_addition() -> None:
    result = done(
        f"{IMAGE} {{ c = Conv{PAD}(x, w) d = Conv(x, v) a = Add(c, d) r = Relu(a) y = Conv{PAD}(r, w) }}"
    )
    groups = result.plan.group_of_use()
    add = next(node for node in result.float_graph.nodes if node.op == "Add")
    assert sum((add.name, slot) in groups for slot in (0, 1)) == 1, "only the shortcut is quantized"
    inside = result.region(add.name)
    assert len(inside.nodes) == 3


def test_the_deeper_branch_takes_the_addition() -> None:
    text = (
        f"{IMAGE} {{ c = Conv{PAD}(x, w) r = Relu(c) d = Conv{PAD}(r, w) e = Conv{PAD}(x, w) y = Add(e, d) }}"
    )
    result = done(text)
    add = next(node for node in result.float_graph.nodes if node.op == "Add")
    assert result.region(add.name).name == "Conv:d"


# -- what shares -----------------------------------------------------------------------------------------------


def test_concatenated_values_share_one_encoding() -> None:
    result = done(
        f"{IMAGE} {{ c = Conv{PAD}(x, w) d = Conv{PAD}(x, w, b) j = Concat<axis=1>(c, d) y = Conv{PAD}(j, u) }}",
        {**W, "u": normal(2, 8, 3, 3)},
    )
    group = result.plan.group_of_value()["j"]
    assert set(group.stored) == {"c", "d", "j"}
    assert group.relation == "same"
    low, high = group.encoding.real_range()
    assert low < 0 < high
    assert result.sqnr() > 25


def test_a_constant_counts_in_the_range_that_it_shares() -> None:
    constants = {**W, "k": np.full((1, 1, 8, 8), 40, np.float32), "u": normal(2, 5, 3, 3)}
    result = done(
        "(float[1,4,8,8] x) => (float y) { c = Conv<pads=[1,1,1,1]>(x, w) j = Concat<axis=1>(c, k) y = Conv<pads=[1,1,1,1]>(j, u) }",
        constants,
        data={"x": normal(16, 4, 8, 8)},
    )
    assert result.plan.group_of_value()["j"].encoding.real_range()[1] >= 39.9


def test_chains_of_pools_and_views_share_one_encoding() -> None:
    text = f"{IMAGE} {{ c = Conv{PAD}(x, w) r = Relu(c) p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r) q = MaxPool<kernel_shape=[2,2]>(p) f = Flatten(q) y = Gemm(f, m) }}"
    result = done(text, {**W, "m": normal(36, 3)})
    group = result.plan.group_of_value()["r"]
    assert {"r", "p", "q", "f"} == set(group.stored)
    assert {region.row for region in result.plan.regions if region.kernel in ("max_pool", "movement")} == {
        "int8-centred"
    }


def test_what_nobody_asks_for_stays_float() -> None:
    result = done(
        f"{IMAGE} {{ p = MaxPool<kernel_shape=[2,2]>(x) q = MaxPool<kernel_shape=[2,2]>(p) y = Elu(q) }}"
    )
    assert not result.plan.groups
    reasons = {region.reason for region in result.plan.regions if region.kernel == "max_pool"}
    (reason,) = reasons
    assert reason.startswith(
        "float: kernel max_pool is quantized only where a consumer of its result asks for"
    )
    assert result.sqnr() == np.inf


def test_shared_constants() -> None:
    result = done(f"{IMAGE} {{ c = Conv{PAD}(x, w) r = Relu(c) y = Conv{PAD}(r, w) }}")
    (weights,) = (group for group in result.plan.groups if group.name == "w")
    assert len(weights.uses) == 2
    codes = [value for value in result.graph.constants if value.dtype == np.int8 and value.rank == 4]
    assert len(codes) == 1


def test_shared_biases_have_an_encoding_per_use(tmp_path: Path) -> None:
    result = done(
        f"{IMAGE} {{ c = Conv{PAD}(x, w, b) r = Relu(c) d = Conv{PAD}(r, w, b) y = Relu(d) }}",
        target=target_of(tmp_path, SMALL),
    )
    derived = [group for group in result.plan.groups if group.relation == "derived"]
    assert [len(group.uses) for group in derived] == [1, 1]
    assert derived[0].encoding != derived[1].encoding
    assert result.sqnr() > 25


# -- agreement -------------------------------------------------------------------------------------------------


def test_a_padded_and_an_unpadded_convolution_agree_on_a_value() -> None:
    text = f"{IMAGE} {{ c = Conv{PAD}(x, w) r = Relu(c) d = Conv{PAD}(r, w) e = Conv(r, v) y = Add(d, e) }}"
    result = done(text)
    assert reads(result, "r") == ["code", "code"]
    assert "r" in result.plan.group_of_value()


def test_alone_an_unpadded_convolution_reads_the_centred_encoding() -> None:
    result = done(f"{IMAGE} {{ c = Conv{PAD}(x, w) r = Relu(c) y = Conv(r, v) }}")
    assert reads(result, "r") == ["bias"]


def test_regions_between_two_disputes_settle() -> None:
    """A convolution whose input wants one row and whose shortcut another: whatever comes out, each use has one group."""
    text = f"{IMAGE} {{ c = Conv(x, v) r = Relu(c) d = Conv(r, v) a = Add(d, r) s = Relu(a) e = Conv(s, v) f = Conv{PAD}(s, w) g = Add(e, f) y = Conv(g, v) }}"
    result = done(text)
    check_whole(result)
    assert reads(result, "r") == ["bias", "bias"]
    assert reads(result, "s") == ["code", "code"]


# -- value_source ----------------------------------------------------------------------------------------------


def test_value_source_looks_through_what_only_rearranges() -> None:
    graph = graph_of(
        "(float[batch,4,6] x) => (float y) { r = Relu(x) t = Transpose<perm=[0,2,1]>(r) f = Flatten(t) s = Slice(f, lo, hi, ax) y = Pad(s, p) }",
        {"lo": np.array([0]), "hi": np.array([5]), "ax": np.array([1]), "p": np.array([0, 1, 0, 1])},
    )
    infer_shapes(graph)
    assert [value_source(graph.value(name)).name for name in ("t", "f", "s", "y")] == ["r", "r", "s", "y"]


# -- any graph -------------------------------------------------------------------------------------------------


def check_whole(result: Quantized, target: Target | str = "tensorrt") -> None:
    """Every region is planned, every quantized use is in exactly one group and no other use is, and the plan is legal."""
    covered = Counter(node for region in result.plan.regions for node in region.nodes)
    assert covered == Counter(node.name for node in result.float_graph.nodes)
    target = find_target(target) if isinstance(target, str) else target
    graph = result.float_graph.copy()
    Pipeline.parse("canonicalize,fuse", find_pass).run(graph, PassContext(target=target))
    problem = Problem.state(graph, target, graph.facts[REGIONS])
    rows = {region.name: region.row for region in result.plan.regions}
    choice = {
        region.name: next((row for row in problem.legal_rows(region) if row.name == rows[region.name]), None)
        for region in problem.regions
    }
    wanted = {(use.node.name, use.slot) for use in demands(problem, choice)}
    grouped = Counter((use.node, use.slot) for group in result.plan.groups for use in group.uses)
    assert set(grouped) == wanted
    assert set(grouped.values()) <= {1}
    check_plan(problem, result.plan)


@given(networks(), st.sampled_from(["tensorrt", "tensorrt:sm80"]), st.sampled_from(["", "int8", "fp8"]))
@settings(max_examples=60, deadline=None)
def test_any_network_comes_out_whole_and_close(graph: Graph, target: str, prefer: str) -> None:
    samples = feeds(graph, batch=16)
    result = quantize(graph, target, data=samples, prefer=prefer)
    check_whole(result, target)
    before, after = result.outputs()
    for name, expected in before.items():
        assert after[name].shape == expected.shape
        scale = np.abs(expected).max() or 1.0
        assert np.isfinite(after[name]).all()
        assert np.sqrt(np.square(after[name] - expected).mean()) <= 0.25 * scale
    for constant in result.graph.constants:
        if constant.name.endswith((".scale", ".scale_1")) and constant.data is not None:
            assert (constant.data >= np.finfo(np.float32).tiny).all()
    assert to_onnx(result.graph).graph.node
    assert all(isinstance(group.encoding, Encoding) for group in result.plan.groups)


UINT8 = (
    HEADER
    + ENCODINGS
    + """
[[kernel]]
name = "conv"
pattern = "Conv(x, w, b?) -> Relu|Clip?"
[[kernel.row]]
name = "int8"
operands = { x = "uint8", w = "weight", b = "bias" }
output = ["uint8"]
limits = [{ check = "constant", operand = "w" }]
[[kernel]]
name = "pool"
pattern = "MaxPool(x)"
[[kernel.row]]
name = "int8"
operands = { x = "uint8" }
output = ["uint8"]
same = ["x", "output"]
[[kernel]]
name = "concat"
pattern = "Concat(x, ...)"
[[kernel.row]]
name = "int8"
operands = { x = "uint8", "..." = "uint8" }
output = ["uint8"]
same = ["x", "...", "output"]
[[kernel]]
name = "add"
pattern = "Add|Mul(x, z)"
[[kernel.row]]
name = "int8"
operands = { x = "uint8", z = "uint8" }
output = ["uint8"]
"""
)


@given(networks(), st.sampled_from(["both", "before"]))
@settings(max_examples=60, deadline=None)
def test_any_network_on_an_integer_target(
    tmp_path_factory: pytest.TempPathFactory, graph: Graph, passthrough: str
) -> None:
    folder = tmp_path_factory.mktemp("target")
    target = target_of(folder, UINT8 + f'[qdq]\npassthrough = "{passthrough}"\n')
    result = quantize(graph, target, data=feeds(graph, batch=16))
    check_whole(result, target)
    before, after = result.outputs()
    for name, expected in before.items():
        scale = np.abs(expected).max() or 1.0
        assert np.sqrt(np.square(after[name] - expected).mean()) <= 0.25 * scale
