"""Graphs as integer programs: their results are those of the QDQ graph, and codes that only move arrive as they were."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from quantized import samples_for
from small_graphs import graph_of, normal

import qcompiler as qc
from qcompiler.errors import ModelError, TargetError
from qcompiler.integer.encode import encode
from qcompiler.integer.evaluate import dequantize_outputs, quantize_inputs, run
from qcompiler.integer.operations import (
    ArgMax,
    Concatenation,
    Convolution,
    DepthwiseConvolution,
    FullyConnected,
    Gather,
    Interpolation,
    Lookup,
    MatrixProduct,
    Padding,
    Requantization,
    StridedCopy,
    View,
)
from qcompiler.integer.program import Program
from qcompiler.ir.graph import Graph
from qcompiler.ir.part import cut_out
from qcompiler.ir.plan import PLANNED
from qcompiler.runtime import Session
from qcompiler.targets import find_target

Samples = Mapping[str, NDArray[Any]]
TARGET = "cmsis-nn"
MOVEMENT = (View, StridedCopy, Gather, Padding, Concatenation)
ALL_ROWS = ("", "a16w8")


@dataclass(frozen=True)
class Encoded:
    """A graph, what the compiler made of it, and its program."""

    source: Graph
    reference: Graph
    program: Program
    samples: Samples

    def kinds(self) -> list[type]:
        return [type(operation.work) for operation in self.program.operations]

    def gaps(self) -> dict[str, NDArray[Any]]:
        """How far outputs are from those of the QDQ graph, in codes."""
        made = dequantize_outputs(
            self.program, run(self.program, quantize_inputs(self.program, self.samples))
        )
        right = Session(self.reference, optimize=False).run(dict(self.samples))
        found = {}
        for tensor in self.program.outputs:
            ours, theirs = made[tensor.value], right[tensor.value]
            assert ours.shape == theirs.shape
            scale = tensor.scale if tensor.encoding is not None else 1
            found[tensor.value] = np.abs(ours.astype(np.float64) - theirs) / scale
        return found


def encoded(
    text: str,
    constants: Mapping[str, Any] | None = None,
    *,
    prefer: str = "",
    samples: Samples | None = None,
    opset: int = 21,
) -> Encoded:
    """Compiles and encodes a model in ONNX text."""
    graph = graph_of(text, constants, opset)
    samples = samples_for(graph) if samples is None else samples
    options = {"assign_precision": {"prefer": tuple(dict.fromkeys((prefer, "a16")))}} if prefer else {}
    result = qc.compile(graph, TARGET, dict(samples), pass_options=options)
    program = encode(result.graph.facts[PLANNED], result.plan, find_target(TARGET))
    return Encoded(graph, result.graph, program, samples)


def check(made: Encoded, codes: float = 1) -> None:
    """Every element is within so many codes of the QDQ graph's, and not one in three differs at all."""
    for name, gap in made.gaps().items():
        assert gap.max() < codes + 0.01, name
        assert (gap > 0.5).mean() < 0.35, name


# -- convolutions and products ------------------------------------------------------------------------------------

CONVOLUTIONS = {
    "plain": ("strides=[1,1]", (3, 7, 8), (4, 3, 3, 3)),
    "one by one": ("strides=[1,1]", (3, 7, 8), (4, 3, 1, 1)),
    "strides": ("strides=[2,3]", (3, 9, 8), (4, 3, 3, 2)),
    "pads": ("pads=[2,0,1,3]", (3, 6, 5), (4, 3, 3, 4)),
    "dilations": ("dilations=[2,3], pads=[1,2,3,4]", (2, 9, 9), (3, 2, 3, 2)),
    "groups": ("group=2, pads=[1,1,1,1]", (4, 6, 5), (6, 2, 3, 3)),
    "depthwise": ("group=3, pads=[1,1,1,1]", (3, 6, 6), (3, 1, 3, 3)),
    "depthwise, two filters each": ("group=3, strides=[2,1]", (3, 6, 6), (6, 1, 3, 2)),
    "depthwise, dilations": ("group=4, dilations=[2,2], pads=[0,1,2,3]", (4, 8, 8), (4, 1, 3, 3)),
    "columns": ("pads=[1,2], strides=[2]", (3, 11), (4, 3, 4)),
    "columns, dilations": ("pads=[2,0], dilations=[2]", (3, 11), (4, 3, 3)),
    "columns, depthwise": ("group=3, pads=[1,1]", (3, 11), (6, 1, 3)),
}


@pytest.mark.parametrize("prefer", ALL_ROWS)
@pytest.mark.parametrize("case", CONVOLUTIONS)
@pytest.mark.parametrize("activation", ["", "Relu"])
def test_convolutions(case: str, prefer: str, activation: str) -> None:
    attributes, image, filters = CONVOLUTIONS[case]
    ends = (
        f"c = Conv<{attributes}>(x, w, b) y = {activation}(c)"
        if activation
        else f"y = Conv<{attributes}>(x, w, b)"
    )
    text = f"(float[n,{','.join(map(str, image))}] x) => (float[] y) {{ {ends} }}"
    if prefer and "group=2" in attributes:
        return  # the target has no such kernel
    made = encoded(text, {"w": normal(*filters), "b": normal(filters[0])}, prefer=prefer)
    check(made)
    assert (DepthwiseConvolution if "depthwise" in case else Convolution) in made.kinds()
    assert made.program.outputs[0].bits == (16 if prefer else 8)


@pytest.mark.parametrize(
    ("attributes", "image", "filters"),
    [
        ("strides=[1,1]", (3, 5, 4), (3, 4, 3, 2)),
        ("strides=[2,2], pads=[1,1,1,1]", (3, 5, 4), (3, 4, 4, 4)),
        ("strides=[2,2], pads=[1,1,1,1], output_padding=[1,1]", (3, 5, 4), (3, 4, 3, 3)),
        ("strides=[2,1], output_padding=[1,0]", (2, 4, 4), (2, 3, 2, 3)),
        ("strides=[2,2], pads=[0,1,2,0]", (2, 4, 4), (2, 3, 3, 3)),
        ("strides=[2,2]", (2, 4, 4), (2, 3, 1, 1)),
        ("strides=[2], pads=[1,0], output_padding=[1]", (3, 6), (3, 2, 4)),
    ],
)
def test_transposed_convolutions(attributes: str, image: tuple[int, ...], filters: tuple[int, ...]) -> None:
    text = f"(float[n,{','.join(map(str, image))}] x) => (float[] y) {{ y = ConvTranspose<{attributes}>(x, w, b) }}"
    check(encoded(text, {"w": normal(*filters), "b": normal(filters[1])}))


@pytest.mark.parametrize("prefer", ["", "a16w8", "a8w4"])
@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("outputs", [1, 7])
def test_fully_connected(transposed: int, prefer: str, outputs: int) -> None:
    text = f"(float[n,20] x) => (float[n,{outputs}] y) {{ y = Gemm<transB={transposed}>(x, w, b) }}"
    shape = (outputs, 20) if transposed else (20, outputs)
    made = encoded(text, {"w": normal(*shape), "b": normal(outputs)}, prefer=prefer)
    check(made)
    assert made.kinds() == [FullyConnected]


@pytest.mark.parametrize("prefer", ALL_ROWS)
def test_matrix_product_with_a_bias_and_an_activation(prefer: str) -> None:
    text = "(float[n,5,12] x) => (float[n,5,7] y) { m = MatMul(x, w) s = Add(m, b) y = Relu(s) }"
    made = encoded(text, {"w": normal(12, 7), "b": normal(7)}, prefer=prefer)
    check(made)
    assert made.kinds() == [FullyConnected]


@pytest.mark.parametrize("prefer", ["", "a16"])
@pytest.mark.parametrize("leading", [(), (2,), (2, 3)])
def test_matrix_product_of_two_tensors(prefer: str, leading: tuple[int, ...]) -> None:
    front = ",".join(["n", *map(str, leading)])
    text = f"(float[{front},4,6] a, float[{front},6,5] b) => (float[{front},4,5] y) {{ y = MatMul(a, b) }}"
    made = encoded(text, prefer=prefer)
    check(made)
    assert made.kinds().count(MatrixProduct) == 1


def test_a_product_that_broadcasts_is_refused() -> None:
    text = "(float[n,2,4,6] a, float[n,1,6,5] b) => (float[n,2,4,5] y) { y = MatMul(a, b) }"
    with pytest.raises(TargetError, match="MatMul"):
        encoded(text)


# -- element-wise ---------------------------------------------------------------------------------------------------

SHAPES = [
    ((4, 5, 6), (4, 5, 6)),
    ((4, 5, 6), (4, 1, 1)),
    ((4, 5, 6), (1, 5, 1)),
    ((4, 5, 6), (1, 1, 6)),
    ((4, 1, 6), (1, 5, 1)),
    ((1, 5, 6), (4, 1, 6)),
]


@pytest.mark.parametrize("prefer", ["", "a16"])
@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Max", "Min"])
@pytest.mark.parametrize("shapes", SHAPES)
def test_two_tensors(op: str, shapes: tuple[tuple[int, ...], ...], prefer: str) -> None:
    a, b = (",".join(map(str, shape)) for shape in shapes)
    made = encoded(f"(float[n,{a}] a, float[n,{b}] b) => (float[] y) {{ y = {op}(a, b) }}", prefer=prefer)
    check(made, 2 if prefer else 1)


@pytest.mark.parametrize("prefer", ["", "a16"])
@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Max", "Min"])
@pytest.mark.parametrize("shape", [(6,), (5, 1), (4, 1, 1), (1, 4, 5, 6), (1, 4, 1, 6)])
@pytest.mark.parametrize("first", [False, True])
def test_a_tensor_and_a_constant(op: str, shape: tuple[int, ...], first: bool, prefer: str) -> None:
    operands = "c, x" if first else "x, c"
    text = f"(float[n,4,5,6] x) => (float[n,4,5,6] y) {{ y = {op}({operands}) }}"
    check(encoded(text, {"c": normal(*shape)}, prefer=prefer), 2 if prefer else 1)


def test_a_tensor_and_itself() -> None:
    check(encoded("(float[n,4,5] x) => (float[n,4,5] y) { y = Mul(x, x) }"))


@pytest.mark.parametrize("op", ["Add", "Mul"])
def test_images_meet_what_has_fewer_axes(op: str) -> None:
    """The convolution's result is stored with its channels last, the operands are rows, columns and channels of it."""
    text = f"(float[n,3,5,6] x) => (float[n,4,5,6] y) {{ c = Conv(x, w) d = {op}(c, rows) e = {op}(d, columns) y = {op}(e, channels) }}"
    constants = {
        "w": normal(4, 3, 1, 1), "rows": normal(5, 1), "columns": normal(6), "channels": normal(4, 1, 1),
    }  # fmt: skip
    check(encoded(text, constants), 4)


FUNCTIONS = [
    "Relu(x)", "Clip(x, low, high)", "LeakyRelu<alpha=0.1>(x)", "Sigmoid(x)", "HardSigmoid(x)", "Tanh(x)", "HardSwish(x)",
    "Mish(x)", "Gelu(x)", "Elu(x)", "Selu(x)", "Celu(x)", "Softplus(x)", "Softsign(x)", "ThresholdedRelu(x)", "Erf(x)", "Exp(x)",
    "Abs(x)", "Neg(x)", "Sin(x)", "Cos(x)", "Floor(x)", "Ceil(x)", "Round(x)", "Sign(x)", "PRelu(x, high)", "Add(x, high)",
    "Add(high, x)", "Sub(x, high)", "Sub(high, x)", "Mul(x, high)", "Div(x, high)", "Pow(x, two)", "Max(x, low)", "Min(high, x)",
]  # fmt: skip
POSITIVE = ["Log(x)", "Sqrt(x)", "Reciprocal(x)"]
STEPS = {"Floor", "Ceil", "Round", "Sign", "ThresholdedRelu"}
ENDS = {"low": np.float32(-0.7), "high": np.float32(1.3), "two": np.float32(2)}


@pytest.mark.parametrize("call", [*FUNCTIONS, *POSITIVE])
def test_functions_of_one_variable_are_tables(call: str) -> None:
    text = f"(float[n,4,50] x) => (float[n,4,50] y) {{ y = {call} }}"
    samples = {"x": np.abs(normal(32, 4, 50)) + 0.3} if call in POSITIVE else None
    made = encoded(text, _mentioned(call), samples=samples)
    assert made.kinds() == [Lookup]
    check(made)


@pytest.mark.parametrize("call", [*FUNCTIONS, *POSITIVE])
def test_functions_of_one_variable_are_interpolated_in_16_bits(call: str) -> None:
    """Between points 128 codes apart the line is within 1/8 of the distance squared times the second derivative."""
    text = f"(float[n,4,50] x) => (float[n,4,50] y) {{ y = {call} }}"
    samples = {"x": np.abs(normal(32, 4, 50)) + 0.3} if call in POSITIVE else None
    made = encoded(text, _mentioned(call), prefer="a16", samples=samples)
    assert made.kinds() in ([Interpolation], [Requantization])
    assert {tensor.bits for tensor in (*made.program.inputs, *made.program.outputs)} == {16}
    for gap in made.gaps().values():
        if call.split("(")[0].split("<")[0] in STEPS:
            assert (gap > 3).mean() < 0.02  # beside a step
        else:
            assert np.median(gap) <= 1.01
            assert gap.max() < 400  # 1/x, where it is steepest


def _mentioned(call: str) -> dict[str, Any]:
    return {name: data for name, data in ENDS.items() if name in call}


@pytest.mark.parametrize("axis", [-1, 1, 2, 3])
def test_softmax(axis: int) -> None:
    text = f"(float[n,4,5,6] x) => (float[n,4,5,6] y) {{ y = Softmax<axis={axis}>(x) }}"
    check(encoded(text))


@pytest.mark.parametrize("axis", [1, 3])
def test_softmax_behind_a_convolution(axis: int) -> None:
    text = f"(float[n,3,5,6] x) => (float[n,4,5,6] y) {{ c = Conv(x, w) y = Softmax<axis={axis}>(c) }}"
    check(encoded(text, {"w": normal(4, 3, 1, 1)}), 5)


# -- pools, means, positions ----------------------------------------------------------------------------------------

POOLS = [
    "MaxPool<kernel_shape=[2,2], strides=[2,2]>(x)",
    "MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>(x)",
    "MaxPool<kernel_shape=[3,2], strides=[2,3], ceil_mode=1>(x)",
    "MaxPool<kernel_shape=[3,3], strides=[2,2], pads=[1,0,0,1], ceil_mode=1>(x)",
    "GlobalMaxPool(x)",
    "AveragePool<kernel_shape=[2,2], strides=[2,2]>(x)",
    "AveragePool<kernel_shape=[3,3], pads=[1,1,1,1]>(x)",
    "AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=1>(x)",
    "AveragePool<kernel_shape=[2,3], pads=[1,0,0,2], strides=[2,1], count_include_pad=1>(x)",
    "AveragePool<kernel_shape=[3,2], strides=[2,3], ceil_mode=1>(x)",
    "AveragePool<kernel_shape=[3,3], strides=[2,2], pads=[1,0,0,1], ceil_mode=1>(x)",
    "AveragePool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1], ceil_mode=1, count_include_pad=1>(x)",
    "AveragePool<kernel_shape=[6,7]>(x)",
    "GlobalAveragePool(x)",
]


@pytest.mark.parametrize("prefer", ["", "a16"])
@pytest.mark.parametrize("call", POOLS)
def test_pools(call: str, prefer: str) -> None:
    check(encoded(f"(float[n,3,6,7] x) => (float[] y) {{ y = {call} }}", prefer=prefer))


def test_one_dimensional_pools() -> None:
    text = "(float[n,3,11] x) => (float[] y, float[] z) { y = MaxPool<kernel_shape=[3], strides=[2]>(x) z = AveragePool<kernel_shape=[2]>(x) }"
    check(encoded(text))


@pytest.mark.parametrize("prefer", ["", "a16"])
@pytest.mark.parametrize("keep", [0, 1])
@pytest.mark.parametrize("axes", [[1], [2], [-1], [1, 2], [2, 3], [1, 3], [1, 2, 3]])
def test_means(axes: list[int], keep: int, prefer: str) -> None:
    text = f"(float[n,4,5,6] x) => (float[] y) {{ y = ReduceMean<keepdims={keep}>(x, axes) }}"
    made = encoded(text, {"axes": np.array(axes)}, prefer=prefer)
    assert max(gap.max() for gap in made.gaps().values()) < 1.01  # few elements, some of them rounded twice


@pytest.mark.parametrize("keep", [0, 1])
@pytest.mark.parametrize("axes", [[1], [3], [2, 3], [1, 3]])
def test_means_behind_a_convolution(axes: list[int], keep: int) -> None:
    text = f"(float[n,3,5,6] x) => (float[] y) {{ c = Conv(x, w) y = ReduceMean<keepdims={keep}>(c, axes) }}"
    check(encoded(text, {"axes": np.array(axes), "w": normal(4, 3, 1, 1)}), 2)


@pytest.mark.parametrize("last", [0, 1])
@pytest.mark.parametrize("keep", [0, 1])
@pytest.mark.parametrize("axis", [1, 2, -1])
def test_arg_max(axis: int, keep: int, last: int) -> None:
    text = f"(float[n,4,5,6] x) => (int64[] y) {{ y = ArgMax<axis={axis}, keepdims={keep}, select_last_index={last}>(x) }}"
    made = encoded(text)
    assert made.kinds() == [ArgMax]
    check(made, 0)


def test_arg_max_of_an_image() -> None:
    text = "(float[n,3,5,6] x) => (int64[] y) { c = Conv(x, w) y = ArgMax<axis=1, keepdims=0>(c) }"
    made = encoded(text, {"w": normal(4, 3, 1, 1)})
    (gap,) = made.gaps().values()
    assert (gap > 0).mean() < 0.02


MODES = ["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel", "half_pixel_symmetric"]
SCALES = [(2.0, 2.0), (1.5, 0.6), (0.5, 2.7)]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("scales", SCALES)
@pytest.mark.parametrize("rounding", ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"])
def test_nearest_resizing_is_exact(mode: str, scales: tuple[float, float], rounding: str) -> None:
    if (mode, scales) == ("half_pixel_symmetric", SCALES[1]):
        return  # the first column is half between two, and float32 decides which
    call = f'Resize<mode="nearest", coordinate_transformation_mode="{mode}", nearest_mode="{rounding}">(x, , scales)'
    text = f"(float[n,3,6,7] x) => (float[] y) {{ y = {call} }}"
    check(encoded(text, {"scales": np.array([1, 1, *scales], np.float32)}), 0)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("scales", SCALES)
@pytest.mark.parametrize("prefer", ["", "a16"])
def test_linear_resizing(mode: str, scales: tuple[float, float], prefer: str) -> None:
    """Weights are 1/1024: codes of 16 bits feel that."""
    call = f'Resize<mode="linear", coordinate_transformation_mode="{mode}">(x, , scales)'
    text = f"(float[n,3,6,7] x) => (float[] y) {{ y = {call} }}"
    made = encoded(text, {"scales": np.array([1, 1, *scales], np.float32)}, prefer=prefer)
    if prefer:
        assert max(gap.max() for gap in made.gaps().values()) < 65
    else:
        check(made)


def test_resizing_to_sizes() -> None:
    text = '(float[n,3,6,7] x) => (float[] y) { y = Resize<mode="linear">(x, , , sizes) }'
    check(encoded(text, {"sizes": np.array([1, 3, 9, 4])}, samples={"x": normal(1, 3, 6, 7)}))


# -- data movement --------------------------------------------------------------------------------------------------

MOVES: dict[str, tuple[str, dict[str, Any]]] = {
    "reshape": ("Reshape(x, shape)", {"shape": np.array([0, 2, -1])}),
    "reshape across": ("Reshape(x, shape)", {"shape": np.array([-1, 3, 32])}),
    "flatten": ("Flatten(x)", {}),
    "unsqueeze": ("Unsqueeze(x, axes)", {"axes": np.array([1])}),
    **{
        f"transpose {order}": (f"Transpose<perm=[0,{','.join(map(str, order))}]>(x)", {})
        for order in list(itertools.permutations((1, 2, 3)))[1:]
    },
    "slice": ("Slice(x, a, b, axes)", {"a": [1, 2], "b": [3, 5], "axes": [1, 3]}),
    "slice backwards": ("Slice(x, a, b, axes, steps)", {"a": [-1, 3], "b": [-100, 0], "axes": [2, 3], "steps": [-1, -2]}),
    "slice to the ends": ("Slice(x, a, b, axes, steps)", {"a": [-100, 1], "b": [2**62, -1], "axes": [1, -1], "steps": [2, 2]}),
    "expand": ("Expand(s, shape)", {"shape": [1, 4, 5, 6]}),
    "expand to more axes": ("Expand(s, shape)", {"shape": [2, 1, 4, 5, 6]}),
    "tile": ("Tile(x, repeats)", {"repeats": [1, 2, 1, 3]}),
    "tile all": ("Tile(x, repeats)", {"repeats": [1, 2, 3, 2]}),
    "depth to space": ("DepthToSpace<blocksize=2>(x)", {}),
    "depth to space, rows first": ('DepthToSpace<blocksize=2, mode="CRD">(x)', {}),
    "space to depth": ("SpaceToDepth<blocksize=2>(x)", {}),
    "gather": ("Gather<axis=3>(x, at)", {"at": [3, -1, 0, 0, 2]}),
    "gather in two dimensions": ("Gather<axis=1>(x, at)", {"at": [[3, 1], [-4, 0]]}),
    "gather one": ("Gather<axis=2>(x, at)", {"at": np.int64(-2)}),
    "pad": ("Pad(x, pads)", {"pads": [0, 1, 0, 2, 0, 0, 3, 1]}),
    "pad by a number": ("Pad(x, pads, number)", {"pads": [0, 0, 1, 2, 0, 0, 3, 1], "number": np.float32(0.7)}),
    "pad some axes": ("Pad(x, pads, , axes)", {"pads": [1, 2, 3, 0], "axes": [-1, 1]}),
    **{
        f"pad, {mode}": (f'Pad<mode="{mode}">(x, pads)', {"pads": [0, 1, 2, 1, 0, 2, 0, 3]})
        for mode in ("edge", "reflect", "wrap")
    },
    **{f"concat {axis}": (f"Concat<axis={axis}>(x, x)", {}) for axis in (1, 2, -1)},
}  # fmt: skip


def _moving(case: str, prefer: str, image: bool) -> Encoded:
    call, constants = MOVES[case]
    shape = (1, 1, 5, 1) if "(s," in call else (1, 4, 4, 6)
    dims = ",".join(map(str, shape))
    given = {
        name: data if isinstance(data, np.generic) else np.array(data, np.int64)
        for name, data in constants.items()
    }
    call = call.replace("(s,", "(x,")
    body = f"y = {call}"
    if image:
        body = f"c = Conv(x, w) {body.replace('(x', '(c').replace(', x)', ', c)')}"
        given["w"] = normal(shape[1], shape[1], 1, 1)
    return encoded(
        f"(float[{dims}] x) => (float[] y) {{ {body} }}", given, prefer=prefer, samples={"x": normal(*shape)}
    )


@pytest.mark.parametrize("prefer", ["", "a16w8"])
@pytest.mark.parametrize("image", [False, True], ids=["own order", "channels last"])
@pytest.mark.parametrize("case", MOVES)
def test_moved_codes_arrive_as_they_were(case: str, image: bool, prefer: str) -> None:
    """What the float operator makes of the numbers that the codes stand for, with and without channels last."""
    made = _moving(case, prefer, image)
    program = made.program
    moves = [operation for operation in program.operations if isinstance(operation.work, MOVEMENT)]
    assert len(program.operations) - len(moves) == int(image)
    name = "c" if image else "x"
    tensor = next(tensor for tensor in program.tensors if tensor.value == name)
    codes = run(program, quantize_inputs(program, made.samples), keep=[tensor.name])
    before = dequantize_outputs(dataclasses.replace(program, outputs=(tensor,)), codes)
    expected = Session(_rest(made.source, name)).run(before)
    (output,) = program.outputs
    assert output.encoding is not None
    real = dequantize_outputs(program, codes)["y"]
    nearest = output.encoding.dequantize(output.encoding.quantize(expected["y"]))
    np.testing.assert_array_equal(real, nearest)


def _rest(graph: Graph, name: str) -> Graph:
    """The graph behind a value, as a graph of its own."""
    value = next(value for value in graph.values if value.name == name)
    value.dtype = np.dtype(np.float32)
    nodes = [node for node in graph.topological() if node.op != "Conv"]
    return cut_out(graph, nodes, graph.outputs)


def test_split() -> None:
    text = "(float[n,6,5] x) => (float[] a, float[] b, float[] c) { a, b, c = Split<axis=1>(x, sizes) }"
    made = encoded(text, {"sizes": np.array([1, 3, 2])})
    check(made, 0)
    assert set(made.kinds()) <= {StridedCopy, View}


def test_a_concatenation_of_scales_is_requantized_first() -> None:
    text = "(float[n,4,5] x, float[n,4,5] z) => (float[] y) { y = Concat<axis=2>(x, z) }"
    check(encoded(text, samples={"x": normal(32, 4, 5), "z": 9 * normal(32, 4, 5, seed=1)}))


# -- inputs and outputs ---------------------------------------------------------------------------------------------


def test_an_output_that_is_an_input_is_copied() -> None:
    text = "(float[n,6] x) => (float[n,6] y, float[n,2,3] z) { y = Relu(x) z = Reshape(x, shape) }"
    made = encoded(text, {"shape": np.array([-1, 2, 3])})
    check(made, 0)
    assert StridedCopy in made.kinds()


def test_an_output_that_another_one_is_made_of() -> None:
    text = "(float[n,6] x) => (float[n,6] y, float[n,6] z) { y = Sigmoid(x) z = Neg(y) }"
    check(encoded(text))


def test_a_batch_that_is_fixed_belongs_to_the_program() -> None:
    made = encoded("(float[4,3,6,6] x) => (float[] y) { y = Conv(x, w) }", {"w": normal(2, 3, 3, 3)}, samples={"x": normal(8, 3, 6, 6)})  # fmt: skip
    assert made.program.inputs[0].shape == (4, 6, 6, 3)
    codes = quantize_inputs(made.program, made.samples)
    assert codes["x"].shape == (2, 4, 6, 6, 3)
    assert dequantize_outputs(made.program, run(made.program, codes))["y"].shape == (8, 2, 4, 4)


# -- what is refused ------------------------------------------------------------------------------------------------


def test_everything_without_an_integer_form_is_listed_at_once() -> None:
    text = "(float[n,4,5] x) => (float[n,4,5] y) { a = LpNormalization(x) b = Relu(a) y = CumSum(b, axis) }"
    with pytest.raises(TargetError) as caught:
        encoded(text, {"axis": np.int64(1)})
    assert "LpNormalization" in str(caught.value)
    assert "CumSum" in str(caught.value)


def test_an_open_dimension_is_named() -> None:
    text = "(float[n,3,h,8] picture) => (float[] y) { y = Conv(picture, w) }"
    with pytest.raises(ModelError, match=r"Dimension 2 \(h\) of the input 'picture' is open"):
        encoded(text, {"w": normal(2, 3, 3, 3)}, samples={"picture": normal(8, 3, 8, 8)})


@pytest.mark.parametrize(
    "call", ["Gather<axis=1>(x, at)", "Slice(x, at, at)", "Tile(x, at)", "Reshape(x, at)", "Expand(x, at)"]
)
def test_computed_indices_are_refused(call: str) -> None:
    text = f"(float[n,4,5] x, int64[n] at) => (float[] y) {{ y = {call} }}"
    samples = {"x": normal(3, 4, 5), "at": np.array([1, 2, 2])}
    with pytest.raises((TargetError, ModelError)):
        encoded(text, samples=samples)


def test_more_axes_than_the_kernels_walk_are_refused() -> None:
    """Five axes repeated are ten loops."""
    text = "(float[n,2,3,2,3] x) => (float[] y) { y = Tile(x, repeats) }"
    with pytest.raises(TargetError, match="dimensions"):
        encoded(text, {"repeats": np.array([1, 2, 2, 2, 2])})
