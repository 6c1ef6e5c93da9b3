"""Bytes of constants: what precision is chosen for is what the C has, or a little more."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from quantized import samples_for
from small_graphs import graph_of, normal
from strategies import networks

import qcompiler as qc
from qcompiler.decision import DECISION
from qcompiler.demo import CALIBRATION, MODEL
from qcompiler.errors import TargetError
from qcompiler.ir.graph import Graph
from qcompiler.targets import find_target
from qcompiler.targets.cmsis_nn.lower import constant_bytes

QUICK = (
    "raise_qdq,fold_constants,canonicalize,fold_batch_norm,fuse_composites,canonicalize,split_to_slices,channels_last,fuse,calibrate,"
    "assign_precision,insert_qdq"
)
"""The default pipeline without refinement, which changes no size."""
LOOSE = {"max_latency": 1e9}
"""A budget that any rows keep."""
PATHS = {"dsp": "cortex-m4", "mve": "cortex-m55"}
NETWORKS: dict[str, tuple[str, Mapping[str, Any]]] = {
    "images": (
        """(float[n,3,12,12] x) => (float y) {
        a = Conv<pads=[1,1,1,1]>(x, u, b) b1 = Relu(a) c = Conv<group=6, pads=[1,1,1,1]>(b1, v, c0) d = Relu(c)
        e = Conv(d, w) f = HardSwish(e) g = ConvTranspose<strides=[2,2]>(f, t, e0) h = GlobalAveragePool(g) y = Flatten(h) }""",
        {
            "u": normal(6, 3, 3, 3), "b": normal(6), "v": normal(6, 1, 3, 3), "c0": normal(6), "w": normal(7, 6, 1, 1), "t": normal(7, 5, 2, 2),
            "e0": normal(5),
        },
    ),
    "matrices": (
        """(float[n,5,16] x) => (float y) { a = MatMul(x, u) b = Add(a, c) d = Tanh(b) e = MatMul(d, v) f = Add(e, k) g = Flatten(f)
        h = Gemm(g, w, m) y = Sigmoid(h) }""",
        {"u": normal(16, 9), "c": normal(9), "v": normal(9, 6), "k": normal(5, 6), "w": normal(30, 4), "m": normal(4)},
    ),
}  # fmt: skip


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QCOMPILER_CACHE", str(tmp_path_factory.getbasetemp() / "sizes"))


def sizes(graph: Graph, device: str, rows: str = "*", **options: Any) -> tuple[float, int]:
    """Bytes of constants: those foretold for the chosen rows, and those of the C."""
    target = find_target(f"cmsis-nn:{device}")
    options = {"pass_options": {"assign_precision": {"rows": rows}}, **(options or LOOSE)}
    made = qc.compile(graph, target, samples_for(graph, 8), pipeline=QUICK, **options)
    return made.graph.facts[DECISION].size_bytes, constant_bytes(made.graph, made.plan, target)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("rows", ["*a8w8+a8", "*a8w4+a8", "a16*+a16"])
def test_sizes_are_foretold(name: str, path: str, rows: str) -> None:
    """To the byte; vector kernels read beyond depthwise layers whose channels are no multiple of 4 (here they are none)."""
    text, constants = NETWORKS[name]
    foretold, made = sizes(graph_of(text, dict(constants)), PATHS[path], rows)
    assert made == foretold


def test_what_vector_kernels_read_beyond_a_layer_is_counted_for_all() -> None:
    text = "(float[n,8,6,6] x) => (float y) { y = Conv<group=8>(x, w, b) }"
    foretold, made = sizes(graph_of(text, {"w": normal(8, 1, 3, 3), "b": normal(8)}), "cortex-m55", "a8w8")
    assert foretold == made + 3 * 16 + 4


def test_what_rows_cannot_state_is_estimated() -> None:
    """Shapes and single numbers go into code; resizing takes 12 bytes for every row and column."""
    text = """(float[n,2,4,4] x) => (float y) {
        a = Resize<mode="linear">(x, , scales) b = Reshape(a, shape) c = Clip(b, , six) d = Add(c, k) y = Mul(d, k) }"""
    numbers = {
        "scales": np.array([1, 1, 2, 3], np.float32),
        "shape": np.array([0, 8, 24]),
        "six": np.float32(6),
    }
    foretold, made = sizes(graph_of(text, {**numbers, "k": normal(24)}), "cortex-m4", "*8")
    inputs = sum(np.asarray(data).nbytes for data in numbers.values())
    assert made == foretold - inputs + 12 * (8 + 12)


@pytest.mark.slow
def test_sizes_of_random_networks_are_foretold() -> None:
    """But for numbers that go into code, tables where an operator reads one value twice, and equal tables, which are one."""

    @settings(max_examples=40, deadline=None)
    @given(networks(), st.sampled_from(list(PATHS.values())), st.sampled_from(["*8", "a8w4+a8"]))
    def test(graph: Graph, device: str, rows: str) -> None:
        count = Counter(node.op for node in graph.nodes)
        try:
            foretold, made = sizes(graph, device, rows)
        except TargetError:
            assume(False)
        equal, more = 256 * (count["Relu"] + count["Clip"]), 256 * (count["Add"] + count["Mul"])
        assert foretold - 64 - equal <= made <= foretold + more

    test()


@pytest.mark.parametrize("option", ["max_flash", "max_size"])
def test_what_a_choice_takes_is_enough_for_it(option: str) -> None:
    target = find_target("cmsis-nn")
    free = qc.compile(MODEL, target, CALIBRATION, pipeline=QUICK, weight_bits=6)
    wanted = free.graph.facts[DECISION]
    limit = math.ceil(wanted.size_bytes) + (target.device["cortex-m4"].code if option == "max_flash" else 0)
    made = qc.compile(MODEL, target, CALIBRATION, pipeline=QUICK, **{option: limit})
    found, size = made.graph.facts[DECISION], constant_bytes(made.graph, made.plan, target)
    assert made.within_budget
    assert found.loss <= wanted.loss
    assert size <= found.size_bytes <= min(wanted.size_bytes, size + 32)
    assert made.report["size_bytes"]["compiled"] == size


def test_flash_that_cannot_be_kept_is_named() -> None:
    made = qc.compile(MODEL, "cmsis-nn", CALIBRATION, pipeline=QUICK, max_flash=25_000)
    assert not made.within_budget
    (unmet,) = made.report["budget"]["unmet"]
    assert unmet.startswith("--max-flash 25000 cannot be met: the least that the target's rows allow is ")
    assert "bytes, of which 23000 are code and " in unmet
    assert "--max-size" not in unmet
    least = int(unmet.split(" bytes, of which")[0].rsplit(" ", 1)[1])
    assert qc.compile(MODEL, "cmsis-nn", CALIBRATION, pipeline=QUICK, max_flash=least).within_budget
    assert math.isclose(least, 23_000 + made.report["size_bytes"]["compiled"], abs_tol=32)
