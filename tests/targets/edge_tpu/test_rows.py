"""Every row of the descriptors, compiled from a small graph: it is chosen, and LiteRT gives the integer executor's codes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_graphs import graph_of, normal

import qcompiler as qc
from qcompiler.errors import TargetError
from qcompiler.targets import find_target
from qcompiler.targets.edge_tpu.flatbuffer import read

pytest.importorskip("ai_edge_litert")

IMAGE = "(float[batch,8,9,7] x) => (float y)"
TWO = "(float[batch,8,6,5] x, float[batch,8,6,5] z) => (float y)"
GRAPHS: dict[str, tuple[str, dict[str, Any]]] = {
    "depthwise": (f"{IMAGE} {{ c = Conv<group=8, pads=[1,1,1,1]>(x, w, b) y = Relu(c) }}", {"w": normal(8, 1, 3, 3), "b": normal(8)}),
    "conv": (f"{IMAGE} {{ y = Conv<pads=[1,1,0,1], strides=[2,1]>(x, w, b) }}", {"w": normal(6, 8, 3, 3), "b": normal(6)}),
    "conv_transpose": (f"{IMAGE} {{ c = ConvTranspose<strides=[2,3], pads=[1,0,0,1]>(x, w, b) y = Relu(c) }}", {"w": normal(8, 5, 3, 4), "b": normal(5)}),
    "linear": ("(float[batch,37] x) => (float y) { y = Gemm<transB=1>(x, w, b) }", {"w": normal(11, 37), "b": normal(11)}),
    "matmul_constant": ("(float[batch,5,12] x) => (float y) { m = MatMul(x, w) a = Add(m, b) y = Relu(a) }", {"w": normal(12, 7), "b": normal(7)}),
    "matmul": ("(float[batch,4,6] x, float[batch,6,5] z) => (float y) { y = MatMul(x, z) }", {}),
    "relu": (f"{IMAGE} {{ y = Relu(x) }}", {}),
    "clip": (f"{IMAGE} {{ y = Clip(x, low, high) }}", {"low": np.float32(-0.5), "high": np.float32(1.2)}),
    "leaky_relu": (f"{IMAGE} {{ y = LeakyRelu<alpha=0.1>(x) }}", {}),
    "prelu": (f"{IMAGE} {{ y = PRelu(x, slope) }}", {"slope": normal(8, 1, 1)}),
    "logistic": (f"{IMAGE} {{ y = Sigmoid(x) }}", {}),
    "tanh": (f"{IMAGE} {{ y = Tanh(x) }}", {}),
    "hard_swish": (f"{IMAGE} {{ y = HardSwish(x) }}", {}),
    "elu": (f"{IMAGE} {{ y = Elu(x) }}", {}),
    "gelu": (f"{IMAGE} {{ a = Gelu(x) y = Gelu<approximate=\"tanh\">(a) }}", {}),
    "abs": (f"{IMAGE} {{ y = Abs(x) }}", {}),
    "neg": (f"{IMAGE} {{ y = Neg(x) }}", {}),
    "sqrt": (f"{IMAGE} {{ a = Relu(x) y = Sqrt(a) }}", {}),
    "rsqrt": (f"{IMAGE} {{ a = Exp(x) r = Sqrt(a) y = Reciprocal(r) }}", {}),
    "exp": (f"{IMAGE} {{ y = Exp(x) }}", {}),
    "log": (f"{IMAGE} {{ a = Exp(x) y = Log(a) }}", {}),
    "log_softmax": ("(float[batch,13] x) => (float y) { y = LogSoftmax<axis=1>(x) }", {}),
    "l2_normalization": (f"{IMAGE} {{ y = LpNormalization<axis=1>(x) }}", {}),
    "reduce_extreme": (f"{IMAGE} {{ a = ReduceMax<keepdims=0>(x, rows) y = ReduceMin<keepdims=1>(a, ends) }}", {"rows": np.array([2, 3]), "ends": np.array([1])}),
    "add": (f"{TWO} {{ s = Add(x, z) y = Relu(s) }}", {}),
    "mul": (f"{TWO} {{ y = Mul(x, z) }}", {}),
    "extremum": (f"{TWO} {{ y = Max(x, z) }}", {}),
    "softmax": ("(float[batch,13] x) => (float y) { y = Softmax<axis=1>(x) }", {}),
    "max_pool": (f"{IMAGE} {{ y = MaxPool<kernel_shape=[2,3], strides=[2,2]>(x) }}", {}),
    "average_pool": (f"{IMAGE} {{ y = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1]>(x) }}", {}),
    "mean": (f"{IMAGE} {{ y = GlobalAveragePool(x) }}", {}),
    "concat": (f"{TWO} {{ y = Concat<axis=1>(x, z) }}", {}),
    "movement": (f"{IMAGE} {{ y = Slice(x, starts, ends, axes) }}", {"starts": np.array([1]), "ends": np.array([6]), "axes": np.array([2])}),
    "resize": (f"{IMAGE} {{ a = Resize<mode=\"nearest\", coordinate_transformation_mode=\"asymmetric\", nearest_mode=\"floor\">(x, , scales) y = Resize<mode=\"linear\">(a, , , sizes) }}", {"scales": np.float32([1, 1, 2, 2]), "sizes": np.array([1, 8, 11, 20])}),
    "arg_max": ("(float[batch,13] x) => (int64[batch] y) { y = ArgMax<axis=1, keepdims=0>(x) }", {}),
}  # fmt: skip
TARGET = find_target("tflite")
ROWS = [(kernel.name, row.name) for kernel in TARGET.kernel for row in kernel.row]


def compiled(
    text: str,
    constants: dict[str, Any],
    row: str | tuple[str, ...],
    folder: Path,
    target: str = "tflite",
    **options: Any,
) -> qc.Result:
    graph = graph_of(text, constants)
    data = {
        value.name: normal(
            24, *(int(dim) for dim in (value.shape or ())[1:] if isinstance(dim, int)), seed=place
        )
        for place, value in enumerate(graph.inputs)
    }
    prefer = {"assign_precision": {"prefer": (row,) if isinstance(row, str) else row}}
    return qc.compile(graph, target, data, output=folder / "out", pass_options=prefer, **options)


@pytest.mark.parametrize(("kernel", "row"), ROWS, ids=[f"{kernel}-{row}" for kernel, row in ROWS])
def test_row(kernel: str, row: str, tmp_path: Path) -> None:
    result = compiled(*GRAPHS[kernel], row, tmp_path)
    assert (kernel, row) in {(region.kernel, region.row) for region in result.plan.regions}
    verification = result.verification
    assert verification is not None
    assert verification.ran
    assert not verification.problems, verification.summary


SPREAD = {"w": normal(8, 5, 3, 4), "b": normal(5)}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "conv in one dimension": ("(float[batch,8,9] x) => (float y) { y = Conv<pads=[2,1]>(x, w, b) }", {"w": normal(6, 8, 3), "b": normal(6)}),
    "depthwise in one dimension": ("(float[batch,8,9] x) => (float y) { y = Conv<group=8, pads=[2,1]>(x, w, b) }", {"w": normal(16, 1, 3), "b": normal(16)}),
    "transposed in one dimension": ("(float[batch,8,9] x) => (float y) { y = ConvTranspose<strides=[2]>(x, w, b) }", {"w": normal(8, 5, 3), "b": normal(5)}),
    "transposed, SAME": (f"{IMAGE} {{ y = ConvTranspose<strides=[2,2], pads=[0,1,1,1]>(x, w, b) }}", SPREAD),
    "transposed, VALID, longer": (f"{IMAGE} {{ y = ConvTranspose<strides=[2,3], output_padding=[1,2]>(x, w) }}", {"w": SPREAD["w"]}),
    "transposed, in front": (f"{IMAGE} {{ y = ConvTranspose<strides=[3,2], pads=[2,2,0,1], output_padding=[2,0]>(x, w, b) }}", SPREAD),
    "transposed, stride 1": (f"{IMAGE} {{ y = ConvTranspose<pads=[1,1,1,2]>(x, w, b) }}", SPREAD),
    "one bias for all": ("(float[batch,12] x) => (float y) { m = MatMul(x, w) y = Add(m, b) }", {"w": normal(12, 7), "b": normal(1)}),
    "sub": (f"{TWO} {{ y = Sub(x, z) }}", {}),
    "mul by a channel": (f"{IMAGE} {{ m = Mul(x, k) y = Clip(m, low, high) }}", {"k": normal(8, 1, 1), "low": np.float32(0), "high": np.float32(6)}),
    "between 8 and 16 bits": (f"{IMAGE} {{ c = Conv(x, w, b) s = Sigmoid(c) l = LogSoftmax<axis=1>(s) y = Tanh(l) }}", {"w": normal(6, 8, 3, 3), "b": normal(6)}),
    "softmax over channels": (f"{IMAGE} {{ y = Softmax<axis=1>(x) }}", {}),
    "transpose": (f"{IMAGE} {{ y = Transpose<perm=[0,2,1,3]>(x) }}", {}),
    "gather": (f"{IMAGE} {{ y = Gather<axis=1>(x, chosen) }}", {"chosen": np.array([3, 1, 1])}),
    "pad": (f"{IMAGE} {{ y = Pad(x, pads, number) }}", {"pads": np.array([0, 0, 1, 1, 0, 0, 1, 0]), "number": np.float32(0.3)}),
    "expand": ("(float[batch,1,6,5] x) => (float y) { y = Expand(x, shape) }", {"shape": np.array([1, 8, 6, 5])}),
    "nothing": (f"{IMAGE} {{ y = Identity(x) }}", {}),
    "nearest that no flags say": (f"{IMAGE} {{ y = Resize<mode=\"nearest\", nearest_mode=\"ceil\">(x, , , sizes) }}", {"sizes": np.array([1, 8, 13, 5])}),
    "one pixel, spread": ("(float[batch,8,1,1] x) => (float y) { y = Resize<mode=\"linear\", coordinate_transformation_mode=\"asymmetric\">(x, , , sizes) }", {"sizes": np.array([1, 8, 65, 65])}),
    **{
        f"linear, {mode}": (f"{IMAGE} {{ y = Resize<mode=\"linear\", coordinate_transformation_mode=\"{mode}\">(x, , , sizes) }}", {"sizes": np.array([1, 8, 23, 5])})
        for mode in ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel", "half_pixel_symmetric")
    },
}  # fmt: skip


PREFERRED = ("a8w8", "a8"), ("a16w8", "a16"), ("a8w8", "a16")
CASES = [(name, rows) for name in VARIANTS for rows in PREFERRED]
CASES += [(name, ("a8w4", "a8")) for name, (text, _) in VARIANTS.items() if "Conv(" in text]


@pytest.mark.parametrize(("name", "rows"), CASES, ids=[f"{name}-{'/'.join(rows)}" for name, rows in CASES])
def test_variant(name: str, rows: tuple[str, ...], tmp_path: Path) -> None:
    text, constants = VARIANTS[name]
    verification = compiled(text, constants, rows, tmp_path).verification
    assert verification is not None
    assert verification.details["reference kernels"]["differences"] == 0, verification.summary


def test_softmaxes_that_end_the_process_of_reference_kernels(tmp_path: Path) -> None:
    graph = graph_of("(float[batch,600] x) => (float y) { y = Softmax(x) }")
    data = normal(24, 600) * np.linspace(0, 8, 24, dtype=np.float32)[:, None]
    verification = qc.compile(graph, "tflite", {"x": data}, output=tmp_path / "out").verification
    assert verification is not None
    assert not verification.problems
    assert 0 < verification.details["reference kernels"]["samples"] < 24
    assert "ends the process" in verification.summary


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "elu": (f"{IMAGE} {{ y = Elu(x) }}", {}, "no ELU of integers"),
    "factor": (f"{IMAGE} {{ y = Resize<mode=\"linear\">(x, , scales) }}", {"scales": np.float32([1, 1, 1.5, 1.5])}, "ratio of the sizes"),
    "beyond": ("(float[batch,1,4,4] x) => (float y) { y = Resize<mode=\"linear\", coordinate_transformation_mode=\"asymmetric\">(x, , , sizes) }", {"sizes": np.array([1, 1, 199, 8])}, "outside of the image"),
    "first": (f"{IMAGE} {{ y = Resize<mode=\"linear\", coordinate_transformation_mode=\"pytorch_half_pixel\">(x, , , sizes) }}", {"sizes": np.array([1, 8, 1, 7])}, "reads the first element"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name: str, tmp_path: Path) -> None:
    text, constants, reason = REFUSED[name]
    with pytest.raises(TargetError, match=reason):
        compiled(text, constants, "a8", tmp_path, "tflite:integer")


def test_every_kernel_is_tested() -> None:
    assert set(GRAPHS) == {kernel.name for kernel in TARGET.kernel if kernel.row}


@pytest.mark.parametrize("io", ["int8", "uint8", "float32"])
@pytest.mark.parametrize("kernel", ["conv", "softmax", "add", "arg_max"])
def test_types_of_inputs_and_outputs(kernel: str, io: str, tmp_path: Path) -> None:
    result = compiled(*GRAPHS[kernel], "a8w8", tmp_path, "edge-tpu", io=io)
    verification = result.verification
    assert verification is not None
    assert not verification.problems, verification.summary
    model = read(tmp_path / "out" / "model.tflite")
    kinds = {model.tensors[index].type for index in model.inputs}
    assert kinds == {io.upper()}
    assert result.within_budget == (kernel != "arg_max")
    names = {model.tensors[index].name for index in model.inputs + model.outputs}
    assert names == {value.name for value in (*result.graph.inputs, *result.graph.outputs)}
