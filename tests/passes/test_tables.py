"""Weights in tables, from the row of a target to a graph that runs: k-means, refinement, look-ups, budgets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from quantized import TABLE_ROWS, TABLES, Quantized, quantize, target_of
from small_graphs import graph_of, normal

from qcompiler.errors import PlanError
from qcompiler.ir.functions import LOOKUP
from qcompiler.ir.onnx_export import to_onnx
from qcompiler.ir.onnx_import import import_model
from qcompiler.ir.plan import Plan
from qcompiler.report.node_table import constant_bytes, weight_rows
from qcompiler.runtime import Session

TEXT = "(float[batch,6,8,8] x) => (float y) { c = Conv<pads=[1,1,1,1]>(x, w, b) r = Relu(c) f = Flatten(r) y = Gemm<transB=1>(f, v) }"


def compiled(
    folder: Path, row: str, write: str = "round_weights,correct_bias,insert_qdq", plan: Plan | None = None
) -> Quantized:
    weights = {
        "w": normal(10, 6, 3, 3) * np.exp(normal(10, 1, 1, 1, seed=3)),
        "b": normal(10),
        "v": normal(4, 640) / 25,
    }
    return quantize(graph_of(TEXT, weights), target_of(folder, TABLES), prefer=row, write=write, plan=plan)


@pytest.mark.parametrize("row", TABLE_ROWS)
def test_a_graph_with_tables_runs_as_the_plan_says(row: str, tmp_path: Path) -> None:
    done = compiled(tmp_path, row)
    lookups = [node for node in done.graph.nodes if node.op == LOOKUP]
    assert len(lookups) == 2
    for node in lookups:
        codes, table, scale, first = (value.data for value in node.inputs if value is not None)
        assert codes is not None
        assert table is not None
        assert scale is not None
        assert codes.dtype == np.uint8
        assert first is not None
        assert codes.max() < table.shape[-1] == 16
        assert (scale.size > 1) == (row == "scaled")
        assert table.shape[:-1] == ((len(codes) // 2,) if row == "grouped" else ())
        assert first.size == (len(codes) if row == "grouped" else 1)
    assert done.sqnr() > 17
    assert weight_rows(done.graph, done.plan)[0]["bits"] == 4
    assert constant_bytes(done.graph, done.plan) < constant_bytes(done.float_graph) / 5


@pytest.mark.parametrize("row", TABLE_ROWS)
def test_tables_are_refined_for_the_outputs(row: str, tmp_path: Path) -> None:
    assert compiled(tmp_path, row).sqnr() > compiled(tmp_path, row, "correct_bias,insert_qdq").sqnr() + 1


@pytest.mark.parametrize("row", TABLE_ROWS)
def test_any_runtime_computes_the_look_ups(row: str, tmp_path: Path) -> None:
    done = compiled(tmp_path, row)
    for inline in (False, True):
        model = import_model(to_onnx(done.graph, inline=inline))
        made = Session(model, optimize=False).run(done.feeds)
        np.testing.assert_array_equal(made["y"], done.outputs()[1]["y"])


def test_tables_for_groups_lose_less_than_one(tmp_path: Path) -> None:
    """Channels of the convolution have different sizes."""
    for write in ("insert_qdq", "round_weights,insert_qdq"):
        assert compiled(tmp_path, "grouped", write).sqnr() > compiled(tmp_path, "shared", write).sqnr() + 0.5


def test_the_axis_of_groups_is_that_of_the_output_channels(tmp_path: Path) -> None:
    """Of a matrix that is multiplied from the right, the last one; each of its tables serves the columns of its group."""
    text = TABLES.replace("Gemm(x, $w, b?)", "MatMul(x, $w)")
    weights = normal(9, 6) * np.float32([1, 1, 10, 10, 100, 100])
    graph = graph_of("(float[batch,5,9] x) => (float y) { y = MatMul(x, w) }", {"w": weights})
    done = quantize(graph, target_of(tmp_path, text), prefer="grouped", write="round_weights,insert_qdq")
    (encoding,) = (group.encoding for group in done.plan.groups)
    assert str(encoding) == "table4 per-group(axis 1, 2)"
    assert encoding.table is not None
    sizes = np.abs(encoding.table).max(axis=1)
    assert (sizes[1:] > 3 * sizes[:-1]).all()
    assert done.sqnr() > 25


@pytest.mark.parametrize(("channels", "reason"), [
    (9, "has 9 channels along axis 0, not a multiple of the 2 that share a table"),
    (2, "has 2 channels along axis 0, which is one group: that is one table for the tensor"),
])  # fmt: skip
def test_channels_that_make_no_groups(channels: int, reason: str, tmp_path: Path) -> None:
    graph = graph_of("(float[n,6,8,8] x) => (float y) { y = Conv(x, w) }", {"w": normal(channels, 6, 3, 3)})
    done = quantize(graph, target_of(tmp_path, TABLES), prefer="grouped")
    (region,) = done.plan.regions
    assert region.row != "grouped"
    assert f"w (w) {reason}" in {item.reason for item in region.refused if item.row == "grouped"}


@pytest.mark.parametrize(("change", "message"), [
    ({"group": 5}, "groups of 5, but the target takes table4 symmetric per-group of 2"),
    ({"axis": 1}, "tables along axis 1, but the target's are along axis 0"),
    ({"table": [list(range(16))] * 3}, r"has tables for 2 channels each, of shape \[3, 16\] for axis 0, but 'w' is"),
    ({"table": list(range(16)), "group": None, "scale": [1.0] * 10}, "per-channel scales, but the target takes table4"),
])  # fmt: skip
def test_a_plan_with_tables_that_do_not_fit(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    table = json.loads(compiled(tmp_path, "grouped").plan.to_json())
    (group,) = (entry for entry in table["groups"] if entry["name"] == "w")
    group["encoding"].update(change)
    with pytest.raises(PlanError, match=message):
        compiled(tmp_path, "grouped", plan=Plan.from_json(json.dumps(table)))


@pytest.mark.parametrize("row", ["scaled", "grouped"])
def test_a_plan_brings_the_same_tables_back(row: str, tmp_path: Path) -> None:
    done = compiled(tmp_path, row)
    plan = Plan.from_json(done.plan.to_json())
    again = compiled(tmp_path, row, plan=plan)
    assert [group.encoding for group in plan.groups] == [group.encoding for group in again.plan.groups]
    for mine, other in zip(done.graph.nodes, again.graph.nodes, strict=True):
        if mine.op == LOOKUP:
            assert mine.inputs[1] is not None
            assert other.inputs[1] is not None
            np.testing.assert_array_equal(mine.inputs[1].data, other.inputs[1].data)
