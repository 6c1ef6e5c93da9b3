"""Every row of the descriptor, compiled from a small graph: it is chosen, and its C gives the integer executor's bytes.

With the cross compiler and the emulator installed, the slow tests do the same on emulated cores of each kind; with CMSIS_NN_PATH set
the library's own kernels are compared, too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_graphs import graph_of, normal

import qcompiler as qc
from qcompiler.targets import find_target
from qcompiler.targets.cmsis_nn import emulator, host

IMAGE = "(float[batch,8,9,7] x) => (float y)"
TWO = "(float[batch,8,6,5] x, float[batch,8,6,5] z) => (float y)"
GRAPHS: dict[str, tuple[str, dict[str, Any]]] = {
    "depthwise": (f"{IMAGE} {{ c = Conv<group=8, pads=[1,1,1,1]>(x, w, b) y = Relu(c) }}", {"w": normal(8, 1, 3, 3), "b": normal(8)}),
    "conv": (f"{IMAGE} {{ y = Conv<pads=[1,1,0,1], strides=[2,1]>(x, w, b) }}", {"w": normal(6, 8, 3, 3), "b": normal(6)}),
    "conv_transpose": (f"{IMAGE} {{ y = ConvTranspose<strides=[2,2], output_padding=[1,0]>(x, w, b) }}", {"w": normal(8, 5, 3, 3), "b": normal(5)}),
    "linear": ("(float[batch,37] x) => (float y) { y = Gemm<transB=1>(x, w, b) }", {"w": normal(11, 37), "b": normal(11)}),
    "matmul_constant": ("(float[batch,5,12] x) => (float y) { m = MatMul(x, w) a = Add(m, b) y = Relu(a) }", {"w": normal(12, 7), "b": normal(7)}),
    "matmul": ("(float[batch,4,6] x, float[batch,6,5] z) => (float y) { y = MatMul(x, z) }", {}),
    "function": (f"{IMAGE} {{ y = HardSwish(x) }}", {}),
    "clip": (f"{IMAGE} {{ y = Clip(x, low, high) }}", {"low": np.float32(-0.5), "high": np.float32(1.2)}),
    "add": (f"{TWO} {{ s = Add(x, z) y = Relu(s) }}", {}),
    "mul": (f"{TWO} {{ y = Mul(x, z) }}", {}),
    "extremum": (f"{TWO} {{ y = Max(x, z) }}", {}),
    "softmax": ("(float[batch,13] x) => (float y) { y = Softmax<axis=1>(x) }", {}),
    "max_pool": (f"{IMAGE} {{ y = MaxPool<kernel_shape=[2,3], strides=[2,2]>(x) }}", {}),
    "average_pool": (f"{IMAGE} {{ y = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1]>(x) }}", {}),
    "mean": (f"{IMAGE} {{ y = GlobalAveragePool(x) }}", {}),
    "concat": (f"{TWO} {{ y = Concat<axis=1>(x, z) }}", {}),
    "movement": (f"{IMAGE} {{ y = Slice(x, starts, ends, axes) }}", {"starts": np.array([1]), "ends": np.array([6]), "axes": np.array([2])}),
    "arg_max": ("(float[batch,13] x) => (int64[batch] y) { y = ArgMax<axis=1, keepdims=0>(x) }", {}),
}  # fmt: skip
TARGET = find_target("cmsis-nn")
ROWS = [(kernel.name, row.name) for kernel in TARGET.kernel for row in kernel.row]


def compiled(kernel: str, row: str, folder: Path, device: str = "cortex-m4") -> qc.Result:
    text, constants = GRAPHS[kernel]
    graph = graph_of(text, constants)
    data = {
        value.name: normal(
            24, *(int(dim) for dim in (value.shape or ())[1:] if isinstance(dim, int)), seed=place
        )
        for place, value in enumerate(graph.inputs)
    }
    return qc.compile(
        graph,
        f"cmsis-nn:{device}",
        data,
        output=folder / "out",
        pass_options={"assign_precision": {"prefer": (row,)}},
    )


def check(result: qc.Result, kernel: str, row: str) -> None:
    assert (kernel, row) in {(region.kernel, region.row) for region in result.plan.regions}
    verification = result.verification
    assert verification is not None
    assert verification.ran
    assert not verification.problems, verification.summary


@pytest.mark.skipif(host.compiler() is None, reason="there is no C compiler")
@pytest.mark.parametrize(("kernel", "row"), ROWS, ids=[f"{kernel}-{row}" for kernel, row in ROWS])
def test_row(kernel: str, row: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emulator, "missing_tools", lambda: ["qemu-system-arm"])  # the slow test emulates
    check(compiled(kernel, row, tmp_path), kernel, row)


@pytest.mark.slow
@pytest.mark.skipif(bool(emulator.missing_tools()), reason="there is no cross compiler, or no emulator")
@pytest.mark.parametrize("device", ["cortex-m0plus", "cortex-m3", "cortex-m4", "cortex-m55"])
@pytest.mark.parametrize(("kernel", "row"), ROWS, ids=[f"{kernel}-{row}" for kernel, row in ROWS])
def test_row_on_an_emulated_core(kernel: str, row: str, device: str, tmp_path: Path) -> None:
    if "mve" in find_target(f"cmsis-nn:{device}").device[device].features:
        (kernel_of,) = (item for item in TARGET.kernel if item.name == kernel)
        (chosen,) = (item for item in kernel_of.row if item.name == row)
        if "mve" in chosen.without:
            pytest.skip(chosen.without["mve"])
    result = compiled(kernel, row, tmp_path, device)
    check(result, kernel, row)
    assert result.verification is not None
    assert "instructions" in result.verification.details


def test_every_kernel_is_tested() -> None:
    assert set(GRAPHS) == {kernel.name for kernel in TARGET.kernel}


def test_a_row_is_refused_on_cores_that_cannot_run_it(tmp_path: Path) -> None:
    result = compiled("depthwise", "a8w4", tmp_path, "cortex-m55")
    (region,) = (entry for entry in result.plan.regions if entry.kernel == "depthwise")
    assert region.row == "a8w8"
    assert any("lane predicates" in refused.reason for refused in region.refused)
