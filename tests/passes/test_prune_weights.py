"""prune_weights: the smallest weights become zeros, and zeros stay zeros behind it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from quantized import PREPARE, TABLES, quantize, target_of
from small_graphs import graph_of, normal

from qcompiler.descriptor import load_target
from qcompiler.errors import OptionError
from qcompiler.ir.graph import Graph
from qcompiler.pass_manager import PassContext
from qcompiler.passes import find_pass
from qcompiler.pipeline import PassRecord, Pipeline
from qcompiler.runtime import Session

NPU = load_target(Path(__file__).parents[2] / "docs" / "examples" / "npu.toml")
TEXT = "(float[batch,6,8,8] x) => (float y) { c = Conv<pads=[1,1,1,1]>(x, w, b) r = Relu(c) f = Flatten(r) y = Gemm<transB=1>(f, v) }"
WEIGHTS = {"w": normal(10, 6, 3, 3), "b": normal(10), "v": normal(4, 640) / 25}


def pruned(text: str, constants: dict[str, Any], options: str = "") -> tuple[Graph, PassRecord]:
    graph = graph_of(text, constants)
    *_, record = Pipeline.parse(f"canonicalize,prune_weights{options}", find_pass).run(graph, PassContext())
    graph.verify()
    return graph, record


def weights(graph: Graph, op: str) -> NDArray[Any]:
    (node,) = (node for node in graph.nodes if node.op == op)
    value = node.inputs[1]
    assert value is not None
    assert value.data is not None
    return np.asarray(value.data)


def test_the_share_asked_for_is_zero_and_the_rest_is_as_it_was() -> None:
    graph, record = pruned(TEXT, WEIGHTS, "{sparsity=0.75}")
    found = weights(graph, "Conv")
    assert (found == 0).mean() == 0.75
    np.testing.assert_array_equal(found[found != 0], WEIGHTS["w"][found != 0])
    assert np.abs(found[found != 0]).min() >= np.abs(WEIGHTS["w"][found == 0]).max()
    assert record.counts == {"zeros": 405 + 1920, "pruned tensors": 2}
    again = graph.copy()
    *_, record = Pipeline.parse("canonicalize,prune_weights{sparsity=0.75}", find_pass).run(
        again, PassContext()
    )
    assert not record.counts


def test_two_of_four_along_the_input_channels() -> None:
    graph, record = pruned(TEXT, WEIGHTS, "{pattern=2:4}")
    assert ((weights(graph, "Gemm") != 0).reshape(4, -1, 4).sum(axis=2) == 2).all()
    np.testing.assert_array_equal(weights(graph, "Conv"), WEIGHTS["w"])  # of 6 channels
    assert any("6 input channels, no multiple of 4" in item.message for item in record.diagnostics)
    image = "(float[n,8,5,5] x) => (float y) { y = Conv(x, w) }"
    graph, _ = pruned(image, {"w": normal(3, 8, 3, 3)}, "{pattern=2:4}")
    assert ((weights(graph, "Conv") != 0).reshape(3, 2, 4, 3, 3).sum(axis=2) == 2).all()


def test_what_other_operators_read_stays() -> None:
    text = "(float[8,8] x) => (float y) { m = MatMul(x, w) y = Add(m, w) }"
    _, record = pruned(text, {"w": normal(8, 8)})
    assert not record.counts


def test_layers_of_few_products_stay() -> None:
    text = "(float[n,8,5,5] x) => (float y) { d = Conv<group=8>(x, w) y = Conv(d, v) }"
    _, record = pruned(text, {"w": normal(8, 1, 3, 3), "v": normal(6, 8, 2, 2)})
    assert record.counts == {"zeros": 96, "pruned tensors": 1}
    assert any("sums of 9 products each" in item.message for item in record.diagnostics)


@pytest.mark.parametrize("sparsity", ["1.0", "0.25"])
def test_a_sparsity_that_is_no_share_or_would_not_last(sparsity: str) -> None:
    with pytest.raises(OptionError, match=f"sparsity of the pass prune_weights is {sparsity}"):
        pruned(TEXT, WEIGHTS, f"{{sparsity={sparsity}}}")


@pytest.mark.parametrize("sparsity", ["0.4", "0.7"])
def test_two_of_four_have_no_other_share(sparsity: str) -> None:
    with pytest.raises(
        OptionError, match=f"pattern 2:4 of the pass prune_weights leaves half .* sparsity is {sparsity}"
    ):
        pruned(TEXT, WEIGHTS, f"{{pattern=2:4,sparsity={sparsity}}}")


def test_weights_that_stay_make_up_for_those_that_went() -> None:
    """Every second input says nearly what the one before it says, and has a weight of a tenth of the other's."""
    text, weights = "(float[n,64] x) => (float y) { y = Gemm<transB=1>(x, w) }", normal(5, 64)
    weights[:, 1::2] = weights[:, ::2] / 10
    x = (np.repeat(normal(96, 32), 2, axis=1) + normal(96, 64) / 20).astype(np.float32)
    gaps = []
    for write in ("round_weights,insert_qdq", "insert_qdq"):
        done = quantize(
            graph_of(text, {"w": weights}), NPU, data={"x": x}, prefer="w8a8", write=write, prepare=f"{PREPARE},prune_weights"
        )  # fmt: skip
        (y,) = Session(done.graph).run({"x": x}).values()
        gaps.append(np.square(y - x @ weights.T).mean())
    assert gaps[0] < gaps[1] / 3


@pytest.mark.parametrize("row", ["shared", "scaled", "grouped"])
@pytest.mark.parametrize("write", ["round_weights,insert_qdq", "insert_qdq"])
def test_tables_have_an_entry_for_zero(row: str, write: str, tmp_path: Path) -> None:
    """All of them, however few zeros their own channels have."""
    weights = {**WEIGHTS, "w": WEIGHTS["w"] * np.linspace(0.01, 1, 10, dtype=np.float32).reshape(-1, 1, 1, 1)}
    done = quantize(
        graph_of(TEXT, weights), target_of(tmp_path, TABLES), prefer=row, write=write, prepare=f"{PREPARE},prune_weights"
    )  # fmt: skip
    check_zeros(done)


@pytest.mark.parametrize("row", ["w8a8", "w4a8"])
def test_refined_integers_stay_zero(row: str) -> None:
    done = quantize(
        graph_of(TEXT, WEIGHTS), NPU, prefer=row, write="round_weights,insert_qdq", prepare=f"{PREPARE},prune_weights"
    )  # fmt: skip
    assert done.records[-2].counts["rounded layers"] == 2
    check_zeros(done)


def check_zeros(done: Any) -> None:
    """Every weight that was pruned is exactly 0 as the plan stores it, and not all others are."""
    groups = done.plan.group_of_use()
    for node in done.float_graph.nodes:
        if node.op in ("Conv", "Gemm"):
            (twin,) = (other for other in done.graph.nodes if other.name == node.name)
            codes = twin.inputs[1].producer
            data = np.asarray(node.inputs[1].data)
            assert (data == 0).mean() == 0.5
            assert codes is not None
            stored = np.asarray(codes.inputs[0].data)
            real = groups[node.name, 1].encoding.dequantize(stored)
            assert not real[data == 0].any()
            assert real[data != 0].any()
