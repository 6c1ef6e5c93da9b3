"""Every row of the descriptor on every deployment target that has it: compiled, read back from disk, and compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_graphs import graph_of, normal

import qcompiler as qc
from qcompiler.target import Row
from qcompiler.targets import find_target
from qcompiler.targets.core_ml.lower import constant_bytes

pytest.importorskip("coremltools")

IMAGE = "(float[batch,32,9,7] x) => (float y)"
TWO = "(float[batch,8,6,5] x, float[batch,8,6,5] z) => (float y)"
CONV = {"w": normal(32, 32, 3, 3) / 17, "b": normal(32)}
GRAPHS: dict[str, tuple[str, dict[str, Any]]] = {
    "conv": (f"{IMAGE} {{ c = Conv<pads=[1,1,0,1], strides=[2,1]>(x, w, b) y = Relu(c) }}", CONV),
    "conv_transpose": (f"{IMAGE} {{ c = ConvTranspose<strides=[2,3], pads=[1,0,0,1]>(x, w, b) y = Relu(c) }}", {"w": normal(32, 32, 3, 4) / 9, "b": normal(32)}),
    "linear": ("(float[batch,64] x) => (float y) { y = Gemm<transB=1>(x, w, b) }", {"w": normal(48, 64) / 8, "b": normal(48)}),
    "matmul_constant": ("(float[batch,5,64] x) => (float y) { m = MatMul(x, w) a = Add(m, b) y = Relu(a) }", {"w": normal(64, 32) / 8, "b": normal(32)}),
    "embedding": ("(int64[batch,5] x) => (float y) { y = Gather(w, x) }", {"w": normal(48, 16)}),
    "add": (f"{TWO} {{ s = Add(x, z) r = Relu(s) y = Conv(r, w) }}", {"w": normal(8, 8, 1, 1) / 3}),
    "average_pool": (f"{IMAGE} {{ p = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1]>(x) y = Conv(p, w, b) }}", CONV),
    "max_pool": (f"{IMAGE} {{ p = MaxPool<kernel_shape=[2,3], strides=[2,2]>(x) y = Conv(p, w, b) }}", CONV),
    "concat": ("(float[batch,16,6,5] x, float[batch,16,6,5] z) => (float y) { c = Concat<axis=1>(x, z) y = Conv(c, w, b) }", CONV),
    "movement": ("(float[batch,9,7,32] x) => (float y) { t = Transpose<perm=[0,3,1,2]>(x) y = Conv(t, w, b) }", CONV),
}  # fmt: skip
TARGET = find_target("core-ml")
NEWEST, LATER = "ios18", "ios26"
"""What the newest system has that most people deploy to is tested there; of the one after it only what is new."""


def devices_of(row: Row) -> list[str]:
    """The deployment targets that a row is tested on; chips make no other package."""
    found = [
        name
        for name in ("ios16", "ios17", NEWEST, LATER)
        if not set(TARGET.device[name].features) & set(row.without)
    ]
    return [name for name in found if name != LATER] or [LATER]


CASES = [
    pytest.param(kernel.name, row.name, device, id=f"{kernel.name}-{row.name}" + ("" if device == devices_of(row)[-1] else f"-{device}"))
    for kernel in TARGET.kernel
    for row in kernel.row
    for device in devices_of(row)
]  # fmt: skip


def compiled(kernel: str, row: str, device: str, folder: Path, floats: str = "float32") -> qc.Result:
    text, constants = GRAPHS[kernel]
    graph = graph_of(text, constants)
    data: dict[str, Any] = {}
    for place, value in enumerate(graph.inputs):
        shape = (24, *(int(dim) for dim in (value.shape or ())[1:] if isinstance(dim, int)))
        floating = value.dtype is not None and value.dtype.kind == "f"
        data[value.name] = (
            normal(*shape, seed=place) if floating else np.arange(np.prod(shape)).reshape(shape) % 9
        )
    around = {"a8": "w8a8", "a8-s8": "w8a8", "s8-a8": "w8a8", "s8": "w8a8-symmetric"}
    prefer = (row, *([around[row]] if row in around else []))
    options = {"assign_precision": {"prefer": prefer}}
    return qc.compile(
        graph, f"core-ml:{device}", data, output=folder / "out", pass_options=options, float_format=floats
    )


@pytest.mark.parametrize(("kernel", "row", "device"), CASES)
def test_row(kernel: str, row: str, device: str, tmp_path: Path) -> None:
    result = compiled(kernel, row, device, tmp_path)
    assert (kernel, row) in {(region.kernel, region.row) for region in result.plan.regions}
    verification = result.verification
    assert verification is not None
    assert not verification.problems, verification.summary
    codes, planned = (
        verification.details["codes"],
        [node for node in result.graph.nodes if node.op == "QuantizeLinear"],
    )
    assert codes["tensors"] == codes["planned"] == len(planned)
    assert codes["differ"] == 0
    assert verification.details["cosine"] > 0.999999


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kernel", "row"), [(kernel.name, row.name) for kernel in TARGET.kernel for row in kernel.row]
)
def test_row_in_float16(kernel: str, row: str, tmp_path: Path) -> None:
    (found,) = (
        entry for owner in TARGET.kernel if owner.name == kernel for entry in owner.row if entry.name == row
    )
    verification = compiled(kernel, row, devices_of(found)[-1], tmp_path, "float16").verification
    assert verification is not None
    assert not verification.problems, verification.summary


def test_every_kernel_is_tested() -> None:
    assert set(GRAPHS) == {kernel.name for kernel in TARGET.kernel if kernel.row}


@pytest.mark.parametrize(
    ("kernel", "row"),
    [
        ("conv", "w8a8"),
        ("linear", "w4"),
        ("conv", "w4-block"),
        ("embedding", "w8"),
        ("conv", "g4"),
        ("matmul_constant", "g2"),
    ],
)
@pytest.mark.parametrize("floats", ["float32", "float16"])
def test_constant_bytes_are_those_of_the_package(kernel: str, row: str, floats: str, tmp_path: Path) -> None:
    """But for the alignment of weights to 64 bytes, and headers of as many."""
    result = compiled(kernel, row, "ios18", tmp_path, floats)
    weights = (tmp_path / "out/model.mlpackage/Data/com.apple.CoreML/weights/weight.bin").stat().st_size
    estimated = constant_bytes(result.graph, result.plan, TARGET)
    assert estimated <= weights < estimated + 128 * 6
