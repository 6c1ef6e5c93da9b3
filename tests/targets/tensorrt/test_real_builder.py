"""Every row of the descriptor's kernel table against the real consumer: a tiny model, compiled, built, and looked into.

Kernels without a quantized row are held to their note: TensorRT-RTX computes them in float.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from quantized import Quantized, quantize
from small_graphs import graph_of, normal

from qcompiler.ir.onnx_export import to_onnx
from qcompiler.ir.plan import PlannedRegion
from qcompiler.targets import find_target
from qcompiler.targets.tensorrt.builder import BuildReport, build
from qcompiler.targets.tensorrt.rules import Violation, check_rules

pytest.importorskip("tensorrt_rtx")

TARGET = find_target("tensorrt")
ROWS = [f"{kernel.name}-{row.name}" for kernel in TARGET.kernel for row in kernel.row]
MATH = {"int8": "Int8", "float8e4m3": "FP8"}


@dataclasses.dataclass(frozen=True)
class Case:
    """A tiny model for one row.

    Attributes:
        text: The model; the node that the row is about begins the line of output `n`.
        constants: Its initializers.
        prepare: Passes run first; those that would change what the case is about are left out.
    """

    text: str
    constants: dict[str, NDArray[Any]]
    prepare: str = "canonicalize"


IMAGE = "(float[batch,16,8,8] x) => (float y)"
WIDE = "(float[batch,32,8,8] x) => (float y)"
FLAT = "(float[batch,256] x) => (float y)"
W, B = normal(16, 16, 3, 3) / 12, normal(16, seed=2) / 10
WIDE_W, WIDE_B = normal(32, 32, 3, 3) / 17, normal(32, seed=2) / 10
CONV = {"w": W, "b": B, "v": normal(16, 16, 1, 1) / 4}
"""A convolution before and, where it says so, one behind: the rows that pass values on need somebody who asks."""
BEHIND = "y = Conv(n, v)"
RELU = "c = Conv(x, w, b) r = Relu(c)"
SAME = "<pads=[1,1,1,1]>"

CASES: dict[str, Case] = {
    "conv-int8-centred": Case(f"{IMAGE} {{ {RELU} n = Conv(r, v) y = Relu(n) }}", CONV),
    "conv-int8-centred-x": Case(
        f"{IMAGE} {{ {RELU} d = Conv{SAME}(r, w, b) q = Relu(d) n = Conv(q, v) a = Add(n, r) y = Relu(a) }}", CONV
    ),
    "conv-int8-centred-shortcut": Case(
        f"{IMAGE} {{ {RELU} d = Conv(r, v) q = Relu(d) n = Conv{SAME}(q, w, b) a = Add(n, r) y = Relu(a) }}", CONV
    ),
    "conv-int8": Case(
        f"{IMAGE} {{ c = Conv{SAME}(x, w, b) r = Relu(c) n = Conv{SAME}(r, w, b) a = Add(n, r) s = Relu(a) y = Conv{SAME}(s, w) }}", CONV
    ),
    "conv-fp8": Case(
        f"{WIDE} {{ c = Conv{SAME}(x, w, b) r = Relu(c) n = Conv{SAME}(r, w, b) y = Relu(n) }}", {"w": WIDE_W, "b": WIDE_B}
    ),
    "linear-int8-centred": Case(f"{FLAT} {{ h = Gemm<transB=1>(x, w, b) r = Relu(h) n = Gemm<transB=1>(r, v) y = Relu(n) }}", {"w": normal(64, 256) / 16, "b": normal(64), "v": normal(16, 64) / 8}),
    "linear-int8": Case(f"{FLAT} {{ n = Gemm<transB=1>(x, w, b) y = Relu(n) }}", {"w": normal(64, 256) / 16, "b": normal(64)}),
    "linear-fp8": Case(f"{FLAT} {{ n = Gemm<transB=1>(x, w, b) y = Relu(n) }}", {"w": normal(64, 256) / 16, "b": normal(64)}),
    "linear-int4-weight": Case(f"{FLAT} {{ n = Gemm<transB=1>(x, w, b) y = Relu(n) }}", {"w": normal(64, 256) / 16, "b": normal(64)}),
    "matmul-int8": Case("(float[batch,8,256] x) => (float y) { n = MatMul(x, w) a = Add(n, b) y = Relu(a) }", {"w": normal(256, 64) / 16, "b": normal(64)}),
    "matmul-int8-dynamic": Case("(float[batch,8,64] x, float[batch,64,8] z) => (float y) { n = MatMul(x, z) y = Relu(n) }", {}),
    "matmul-fp8": Case("(float[batch,8,256] x) => (float y) { n = MatMul(x, w) a = Add(n, b) y = Relu(a) }", {"w": normal(256, 64) / 16, "b": normal(64)}),
    "matmul-int4-weight": Case("(float[batch,8,256] x) => (float y) { n = MatMul(x, w) a = Add(n, b) y = Relu(a) }", {"w": normal(256, 64) / 16, "b": normal(64)}),
    "max_pool-int8-centred": Case(f"{IMAGE} {{ {RELU} n = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r) {BEHIND} }}", CONV),
    "max_pool-int8": Case(f"{IMAGE} {{ {RELU} n = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r) y = Conv{SAME}(n, w) }}", CONV),
    "concat-int8-centred": Case(f"{IMAGE} {{ {RELU} d = Conv(x, e) n = Concat<axis=1>(r, d) y = Conv(n, u) }}", {**CONV, "e": W[::-1].copy(), "u": normal(16, 32, 1, 1) / 6}),
    "concat-int8": Case(f"{IMAGE} {{ {RELU} d = Conv(x, e) n = Concat<axis=1>(r, d) y = Conv{SAME}(n, u) }}", {**CONV, "e": W[::-1].copy(), "u": normal(16, 32, 3, 3) / 17}),
    "resize-int8": Case(f'{IMAGE} {{ {RELU} n = Resize<mode="nearest", nearest_mode="floor", coordinate_transformation_mode="asymmetric">(r, , k) y = Conv{SAME}(n, w) }}', {**CONV, "k": np.array([1, 1, 2, 2], np.float32)}),
    "movement-int8-centred": Case(f"{IMAGE} {{ {RELU} n = Transpose<perm=[0,1,3,2]>(r) {BEHIND} }}", CONV),
    "movement-int8": Case(f"{IMAGE} {{ {RELU} n = Transpose<perm=[0,1,3,2]>(r) y = Conv{SAME}(n, w) }}", CONV),
    "pad-int8": Case(f'{IMAGE} {{ {RELU} n = Pad<mode="reflect">(r, p) y = Conv{SAME}(n, w) }}', {**CONV, "p": np.array([0, 0, 1, 1, 0, 0, 1, 1])}),
}  # fmt: skip
"""One case for every row, under KERNEL-ROW."""


def compiled(case: Case, prefer: str) -> tuple[Quantized, list[Violation], BuildReport]:
    done = quantize(graph_of(case.text, case.constants), prepare=case.prepare, prefer=prefer)
    model = to_onnx(done.graph)
    report = build(model.SerializeToString(), isolated=False)
    assert report.built, (report.parser_errors, report.errors)
    return done, check_rules(model), report


def test_every_row_has_a_case() -> None:
    assert sorted(CASES) == sorted(ROWS), "a row of the descriptor has no case here, or a case has no row"


def test_verified_rows_name_tests_that_exist() -> None:
    root = Path(__file__).parents[3]
    for kernel in TARGET.kernel:
        for row in kernel.row:
            if not row.verified:
                continue
            found = re.fullmatch(r"(tests/\S+\.py)::(test_\w+)(?:\[(\S+)\])?", row.verified)
            assert found, row.verified
            assert f"def {found[2]}(" in (root / found[1]).read_text(), row.verified
            if Path(found[1]).name == Path(__file__).name:
                assert (found[2], found[3]) == ("test_row", f"{kernel.name}-{row.name}")


@pytest.mark.parametrize("name", ROWS)
def test_row(name: str) -> None:
    kernel, _, row = name.partition("-")
    done, violations, report = compiled(CASES[name], row)
    node = done.float_graph.value("n").producer
    assert node is not None
    planned = done.region(node.name)
    assert (planned.kernel, planned.row) == (kernel, row), planned.refused
    assert not [item for item in violations if item.severity in ("error", "silent-float")]
    for region in done.plan.regions:
        check_operands(region, report)
    assert set(report.residual_adds.values()) <= {"Int8", "FP8"}


def check_operands(region: PlannedRegion, report: BuildReport) -> None:
    """The kernels that compute a region got the operands that its row promises."""
    kernel = next(entry for entry in TARGET.kernel if entry.name == region.kernel)
    specs = {row.name: TARGET.row_specs(row) for row in kernel.row}.get(region.row, {})
    data, weight = (specs[name].format if name in specs else "float32" for name in ("x", "w"))
    for node in region.nodes:
        if node in report.weighted:
            layer = report.weighted[node]
            narrow = {"float32": "Float"} | MATH
            assert layer.math_dtype == narrow[data], layer
            if data == "float32":
                assert layer.weight_dtype == {"int4": "Int4"}[weight], layer
        elif region.quantized and "w" not in kernel.compiled.operand_names:
            # It may vanish into a neighbour; where it has a kernel of its own, that one reads int8.
            alone = [layer for layer in report.layers if layer.nodes and set(layer.nodes) <= {node}]
            assert all(operand.dtype == "Int8" for layer in alone for operand in layer.inputs), alone


SIZES: dict[str, NDArray[Any]] = {
    "axes": np.array([2]), "starts": np.array([1]), "ends": np.array([5]), "grown": np.array([0, 16, 9, 4]), "wide": np.array([1, 16, 4, 4]),
    "flat": np.array([0, 16, 36]),
    "twice": np.array([1, 1, 2, 1]),
}  # fmt: skip
MOVEMENT = {
    "Reshape": ("n = Reshape(r, grown)", 16),
    "Transpose": ("n = Transpose<perm=[0,2,1,3]>(r)", 6),
    "Squeeze": ("t = MaxPool<kernel_shape=[6,1]>(r) n = Squeeze(t, axes)", 16),
    "Unsqueeze": ("t = Reshape(r, flat) n = Unsqueeze(t, axes)", 16),
    "Slice": ("n = Slice(r, starts, ends, axes)", 16),
    "Split": ("n, m = Split<axis=1, num_outputs=2>(r)", 8),
    "Expand": ("t = MaxPool<kernel_shape=[6,6]>(r) n = Expand(t, wide)", 16),
    "Tile": ("n = Tile(r, twice)", 16),
    "DepthToSpace": ("n = DepthToSpace<blocksize=2>(r)", 4),
    "SpaceToDepth": ("n = SpaceToDepth<blocksize=2>(r)", 64),
}
"""What stands between two convolutions, and the channels that come out; Flatten is between pooling and Gemm in real models."""


@pytest.mark.parametrize("op", MOVEMENT)
def test_movement_keeps_the_convolution_behind_it_int8(op: str) -> None:
    text, channels = MOVEMENT[op]
    case = Case(
        f"{IMAGE} {{ {RELU} {text} y = Conv(n, v) }}",
        {**CONV, **SIZES, "v": normal(8, channels, *([1] if op == "Squeeze" else [1, 1]))},
    )
    done, violations, report = compiled(case, "int8")
    assert {entry.kernel for entry in done.plan.regions if entry.quantized} >= {"movement"}
    assert not [item for item in violations if item.severity in ("error", "silent-float")]
    assert len(report.int8_weighted) == 2, report.layers


def test_padding_with_another_number_stays_float_and_the_convolution_behind_it_int8() -> None:
    case = Case(
        f"{IMAGE} {{ {RELU} n = Pad(r, p, one) y = Conv{SAME}(n, w) }}",
        {**CONV, "p": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "one": np.array(1, np.float32)},
    )
    done, violations, report = compiled(case, "int8")
    assert done.region("Pad:n").reason.startswith("float: value (one) is not zero")
    assert not [item for item in violations if item.severity in ("error", "silent-float")]
    assert len(report.int8_weighted) == 2
