"""Weights in tables, from the row of a target to a graph that runs: k-means, refinement, look-ups, budgets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from quantized import HEADER, Quantized, quantize, target_of
from small_graphs import graph_of, normal

from qcompiler.ir.functions import LOOKUP
from qcompiler.ir.onnx_export import to_onnx
from qcompiler.ir.onnx_import import import_model
from qcompiler.ir.plan import Plan
from qcompiler.report.node_table import constant_bytes, weight_rows
from qcompiler.runtime import Session

TARGET = (
    HEADER
    + """
[encoding.shared]
format = "table4"
[encoding.scaled]
format = "table4"
granularity = "per-channel"
[[kernel]]
name = "conv"
pattern = "Conv(x, $w, b?) -> Relu?"
[[kernel.row]]
name = "shared"
operands = { w = "shared" }
[[kernel.row]]
name = "scaled"
operands = { w = "scaled" }
[[kernel]]
name = "linear"
pattern = "Gemm(x, $w, b?)"
[[kernel.row]]
name = "shared"
operands = { w = "shared" }
[[kernel.row]]
name = "scaled"
operands = { w = "scaled" }
"""
)
TEXT = "(float[batch,6,8,8] x) => (float y) { c = Conv<pads=[1,1,1,1]>(x, w, b) r = Relu(c) f = Flatten(r) y = Gemm<transB=1>(f, v) }"


def compiled(
    folder: Path, row: str, write: str = "round_weights,correct_bias,insert_qdq", plan: Plan | None = None
) -> Quantized:
    weights = {
        "w": normal(10, 6, 3, 3) * np.exp(normal(10, 1, 1, 1, seed=3)),
        "b": normal(10),
        "v": normal(4, 640) / 25,
    }
    return quantize(graph_of(TEXT, weights), target_of(folder, TARGET), prefer=row, write=write, plan=plan)


@pytest.mark.parametrize("row", ["shared", "scaled"])
def test_a_graph_with_tables_runs_as_the_plan_says(row: str, tmp_path: Path) -> None:
    done = compiled(tmp_path, row)
    lookups = [node for node in done.graph.nodes if node.op == LOOKUP]
    assert len(lookups) == 2
    for node in lookups:
        codes, table, scale = (value.data for value in node.inputs if value is not None)
        assert codes is not None
        assert table is not None
        assert scale is not None
        assert codes.dtype == np.uint8
        assert codes.max() < len(table) == 16
        assert (scale.size > 1) == (row == "scaled")
    assert done.sqnr() > 17
    assert weight_rows(done.graph, done.plan)[0]["bits"] == 4
    assert constant_bytes(done.graph, done.plan) < constant_bytes(done.float_graph) / 6


@pytest.mark.parametrize("row", ["shared", "scaled"])
def test_tables_are_refined_for_the_outputs(row: str, tmp_path: Path) -> None:
    assert compiled(tmp_path, row).sqnr() > compiled(tmp_path, row, "correct_bias,insert_qdq").sqnr() + 1


def test_any_runtime_computes_the_look_ups(tmp_path: Path) -> None:
    done = compiled(tmp_path, "scaled")
    for inline in (False, True):
        model = import_model(to_onnx(done.graph, inline=inline))
        made = Session(model, optimize=False).run(done.feeds)
        np.testing.assert_array_equal(made["y"], done.outputs()[1]["y"])


def test_a_plan_brings_the_same_tables_back(tmp_path: Path) -> None:
    done = compiled(tmp_path, "scaled")
    plan = Plan.from_json(done.plan.to_json())
    again = compiled(tmp_path, "scaled", plan=plan)
    assert [group.encoding for group in plan.groups] == [group.encoding for group in again.plan.groups]
    for mine, other in zip(done.graph.nodes, again.graph.nodes, strict=True):
        if mine.op == LOOKUP:
            assert mine.inputs[1] is not None
            assert other.inputs[1] is not None
            np.testing.assert_array_equal(mine.inputs[1].data, other.inputs[1].data)
