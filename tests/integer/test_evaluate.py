"""Integer programs: each kind of work against loops that are plainly right, or against real numbers within one code."""

from __future__ import annotations

import itertools
import tracemalloc
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompiler.fixed_point import LEAST, MOST, Rescale, quantized_multiplier, wrap32
from qcompiler.integer import evaluate_linear
from qcompiler.integer.evaluate import dequantize_outputs, evaluate, quantize_inputs, run
from qcompiler.integer.evaluate_base import prepare
from qcompiler.integer.operations import (
    Addition,
    ArgMax,
    Concatenation,
    Convolution,
    DepthwiseConvolution,
    Extremum,
    FullyConnected,
    Gather,
    Interpolation,
    Lookup,
    MatrixProduct,
    Mean,
    Multiplication,
    Padding,
    Pool,
    Requantization,
    Resize,
    Softmax,
    StridedCopy,
    View,
    Work,
)
from qcompiler.integer.program import Operation, Program, Tensor
from qcompiler.integer.work_counts import elements, macs
from qcompiler.ir.encoding import FORMATS, Encoding

INT8, INT16, INT32 = (np.dtype(kind) for kind in (np.int8, np.int16, np.int32))
SAMPLES = 3


def codes(rng: np.random.Generator, *shape: int, dtype: np.dtype[Any] = INT8) -> np.ndarray[Any, Any]:
    """Random codes over the whole range, the ends among them."""
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max, shape, endpoint=True).astype(dtype)


def tensor(name: str, shape: tuple[int, ...], dtype: np.dtype[Any] = INT8, **fields: Any) -> Tensor:
    return Tensor(name, tuple(shape), fields.pop("encoding", None), dtype, **fields)


def once(work: Work, arrays: list[Any], shape: tuple[int, ...], dtype: np.dtype[Any] = INT8) -> Any:
    """What a work makes of computed arrays [samples, ...] and constants."""
    made = evaluate(work, arrays, tensor("y", shape, dtype))
    assert made.dtype == dtype
    assert made.shape[1:] == shape
    return made


def encoding(scale: float, zero: int, name: str = "int8") -> Encoding:
    return Encoding(FORMATS[name], np.float32(scale), np.int32(zero))


def finished(work: Any, accumulators: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Codes of accumulators, by `Rescale.apply`, which has tests of its own."""
    return np.clip(work.rescale.apply(accumulators) + work.output_offset, work.low, work.high)


# -- convolutions -------------------------------------------------------------------------------------------------


def convolved(work: Convolution, x: Any, filters: Any, bias: Any, shape: tuple[int, ...]) -> Any:
    """A convolution, tap by tap."""
    outputs, rows, columns, depth = filters.shape
    acc = np.zeros((len(x), *shape), np.int64) + bias
    for n, b, p, q in np.ndindex(len(x), *shape[:3]):
        for i, j in np.ndindex(rows, columns):
            row = p * work.strides[0] + i * work.dilations[0] - work.pads[0]
            column = q * work.strides[1] + j * work.dilations[1] - work.pads[1]
            if row % work.upscale[0] or column % work.upscale[1]:
                continue
            row, column = row // work.upscale[0], column // work.upscale[1]
            if not (0 <= row < x.shape[2] and 0 <= column < x.shape[3]):
                continue
            for o in range(outputs):
                group = o // (outputs // work.groups)
                read = x[n, b, row, column, group * depth : (group + 1) * depth].astype(np.int64)
                acc[n, b, p, q, o] += int(((read + work.input_offset) * filters[o, i, j]).sum())
    return acc if work.rescale.wide else wrap32(acc)


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[Any, ...]:
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    pair = st.tuples(st.integers(1, 3), st.integers(1, 3))
    groups, depth, per_group = (draw(st.integers(1, 3)) for _ in range(3))
    taps, strides, dilations, upscale = (draw(pair) for _ in range(4))
    size = draw(st.tuples(st.sampled_from((1, 4, 5)), st.integers(4, 6)))
    pads = draw(st.tuples(*(st.integers(0, 3) for _ in range(4))))
    spread = [dim * step for dim, step in zip(size, upscale, strict=True)]
    made = []
    for axis in range(2):
        reach = (taps[axis] - 1) * dilations[axis] + 1
        made.append((spread[axis] + pads[axis] + pads[axis + 2] - reach) // strides[axis] + 1)
    wide = draw(st.booleans())
    dtype = INT16 if wide else INT8
    outputs = groups * per_group
    scales = rng.uniform(1e-4, 3e-3, outputs if draw(st.booleans()) else 1) / (300 if wide else 1)
    rounding = draw(st.sampled_from(("double", "single")))
    info = np.iinfo(dtype)
    offsets = (0, 0) if wide else (draw(st.integers(-127, 128)), draw(st.integers(-128, 127)))
    work = Convolution(
        strides=strides,
        dilations=dilations,
        pads=pads,
        groups=groups,
        rescale=Rescale.of(scales, rounding, wide),
        input_offset=offsets[0],
        output_offset=offsets[1],
        low=int(info.min) + draw(st.integers(0, 20)),
        high=int(info.max),
        upscale=upscale,
    )
    x = codes(rng, SAMPLES, draw(st.integers(1, 2)), *size, groups * depth, dtype=dtype)
    filters = codes(rng, outputs, *taps, depth)
    bias = rng.integers(-5000, 5000, outputs).astype(np.int64 if wide else np.int32)
    return work, x, filters, bias, (x.shape[1], *(max(0, dim) for dim in made), outputs)


@settings(deadline=None, max_examples=60)
@given(convolutions())
def test_convolution(case) -> None:
    """Groups, strides, dilations, pads, spread inputs, images of one row; int8 and int16; per tensor and per channel."""
    work, x, filters, bias, shape = case
    if min(shape) == 0:
        return
    made = once(work, [x, filters, bias], shape, x.dtype)
    np.testing.assert_array_equal(made, finished(work, convolved(work, x, filters, bias, shape)))


def plain_convolution(outputs: int, **fields: Any) -> Convolution:
    given: dict[str, Any] = {
        "strides": (1, 1),
        "dilations": (1, 1),
        "pads": (0, 0, 0, 0),
        "groups": 1,
        "rescale": Rescale.of(np.full(outputs, 1e-3)),
        "input_offset": 3,
        "output_offset": -4,
        "low": -128,
        "high": 127,
    }
    return Convolution(**(given | fields))


@pytest.mark.parametrize("block", [1, 700, 5000, 1 << 19])
def test_blocks_of_rows_and_of_images_give_the_same(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    rng = np.random.default_rng(1)
    monkeypatch.setattr(evaluate_linear, "_BLOCK", block)
    x, filters, bias = codes(rng, 5, 1, 7, 6, 4), codes(rng, 3, 3, 3, 4), rng.integers(-999, 999, 3)
    work = plain_convolution(3, strides=(2, 1), pads=(1, 1, 1, 1))
    shape = (1, 4, 6, 3)
    expected = finished(work, convolved(work, x, filters, bias, shape))
    np.testing.assert_array_equal(once(work, [x, filters, bias.astype(INT32)], shape), expected)


@pytest.mark.parametrize(("rows", "pads"), [(4, (0, 0)), (4, (1, 1)), (3, (2, 1)), (1, (0, 0))])
def test_a_convolution_of_a_spread_input_scatters(rows: int, pads: tuple[int, int]) -> None:
    """A transposed convolution: every input adds the filter times itself, at `stride` apart."""
    rng = np.random.default_rng(2)
    x, kernel = codes(rng, 2, 1, rows, 5, 3), codes(rng, 2, 3, 4, 3)
    stride = (2, 3)
    size = [(x.shape[2 + i] - 1) * stride[i] + kernel.shape[1 + i] for i in range(2)]
    full = np.zeros((2, 1, *size, 2), np.int64)
    for i, j in np.ndindex(*x.shape[2:4]):
        patch = np.einsum("nbc,ohwc->nbhwo", x[:, :, i, j].astype(np.int64) + 3, kernel.astype(np.int64))
        full[:, :, i * stride[0] : i * stride[0] + 3, j * stride[1] : j * stride[1] + 4] += patch
    acc = full[:, :, pads[0] : size[0] - pads[0], pads[1] : size[1] - pads[1]]
    work = plain_convolution(2, upscale=stride, pads=(2 - pads[0], 3 - pads[1], 2 - pads[0], 3 - pads[1]))
    turned = np.ascontiguousarray(kernel[:, ::-1, ::-1])
    made = once(work, [x, turned, np.zeros(2, INT32)], acc.shape[1:])
    np.testing.assert_array_equal(made, finished(work, acc))


def test_negative_pads_cut_off() -> None:
    rng = np.random.default_rng(3)
    x, filters, bias = codes(rng, 2, 1, 6, 6, 2), codes(rng, 2, 2, 2, 2), np.zeros(2, INT32)
    for upscale in ((1, 1), (2, 3)):
        work = plain_convolution(2, pads=(-1, -2, 0, 0), upscale=upscale)
        expected = finished(work, convolved(work, x, filters, bias, (1, 4, 3, 2)))
        np.testing.assert_array_equal(once(work, [x, filters, bias], (1, 4, 3, 2)), expected)


def test_sums_beyond_single_precision_are_exact_and_wrap() -> None:
    depth = 140_000
    x = np.full((1, 1, 1, 1, depth), 127, INT8)
    x[..., -1] = 126
    filters = np.full((2, 1, 1, depth), 127, INT8)
    filters[1] = -128
    bias = np.array([0, 1 << 30], INT32)
    work = plain_convolution(
        2, rescale=Rescale.of(0.5), input_offset=0, output_offset=0, low=LEAST, high=MOST
    )
    made = evaluate(work, [x, filters, bias], tensor("y", (1, 1, 1, 2), INT32))
    exact = np.array([127 * 127 * depth - 127, -128 * (127 * depth - 1) + (1 << 30)])
    assert abs(exact[0]) > 1 << 31
    assert made.reshape(-1).tolist() == [(value + 1) >> 1 for value in wrap32(exact).tolist()]


def test_weights_of_four_bits_are_codes_like_others() -> None:
    rng = np.random.default_rng(19)
    x, narrow = codes(rng, 2, 1, 5, 5, 3), rng.integers(-8, 8, (4, 3, 3, 3)).astype(INT8)
    bias, packed = np.zeros(4, INT32), narrow.astype(ml_dtypes.int4)
    work = plain_convolution(4)
    expected = once(work, [x, narrow, bias], (1, 3, 3, 4))
    np.testing.assert_array_equal(once(work, [x, packed, bias], (1, 3, 3, 4)), expected)
    product = MatrixProduct(Rescale.of(0.01), 3, 0, 0, -128, 127)
    rows = x.reshape(2, 25, 3)
    matrices = narrow.reshape(36, 3), packed.reshape(36, 3)
    plain, small = (once(product, [rows, matrix], (25, 36)) for matrix in matrices)
    np.testing.assert_array_equal(plain, small)


@pytest.mark.parametrize("multiplier", [1, 3])
@pytest.mark.parametrize("dtype", [INT8, INT16])
@pytest.mark.parametrize(
    ("taps", "strides", "dilations"),
    [((3, 3), (1, 1), (1, 1)), ((3, 2), (2, 1), (1, 2)), ((1, 5), (1, 2), (1, 1))],
)
def test_depthwise_is_a_convolution_in_groups(multiplier, dtype, taps, strides, dilations) -> None:
    rng = np.random.default_rng(4)
    x, filters = codes(rng, SAMPLES, 2, 6, 7, 4, dtype=dtype), codes(rng, 1, *taps, 4 * multiplier)
    wide = dtype == INT16
    bias = rng.integers(-999, 999, 4 * multiplier).astype(np.int64 if wide else INT32)
    info = np.iinfo(dtype)
    common: dict[str, Any] = {
        "strides": strides,
        "dilations": dilations,
        "pads": (1, 2, 1, 2),
        "rescale": Rescale.of(rng.uniform(1e-3, 5e-3, 4 * multiplier), wide=wide),
        "input_offset": 0 if wide else 100,
        "output_offset": 0 if wide else 7,
        "low": int(info.min),
        "high": int(info.max),
    }
    made = [(6 + 2 - (taps[0] - 1) * dilations[0] - 1) // strides[0] + 1]
    made.append((7 + 4 - (taps[1] - 1) * dilations[1] - 1) // strides[1] + 1)
    shape = (2, *made, 4 * multiplier)
    arranged = filters.transpose(3, 1, 2, 0)
    expected = once(Convolution(groups=4, **common), [x, arranged, bias], shape, dtype)
    found = once(DepthwiseConvolution(multiplier=multiplier, **common), [x, filters, bias], shape, dtype)
    np.testing.assert_array_equal(found, expected)


# -- matrices -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("channels", [1, 5])
@pytest.mark.parametrize("leading", [(2,), (1, 3, 2), ()])
def test_fully_connected(wide: bool, channels: int, leading: tuple[int, ...]) -> None:
    rng = np.random.default_rng(5)
    dtype = INT16 if wide else INT8
    x, matrix = codes(rng, SAMPLES, *leading, 40, dtype=dtype), codes(rng, 5, 40)
    bias = rng.integers(-5000, 5000, 5).astype(np.int64 if wide else np.int32)
    scales = rng.uniform(1e-4, 1e-3, channels)
    work = FullyConnected(Rescale.of(scales, wide=wide), 0 if wide else -17, 0, -100, 101)
    acc = (x.astype(np.int64) + work.input_offset) @ matrix.astype(np.int64).T + bias
    np.testing.assert_array_equal(once(work, [x, matrix, bias], (*leading, 5), dtype), finished(work, acc))


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("depth", [6, 700])
@pytest.mark.parametrize("constant", [False, True])
def test_matrix_product(wide: bool, depth: int, constant: bool) -> None:
    rng = np.random.default_rng(6)
    dtype = INT16 if wide else INT8
    a, b = codes(rng, SAMPLES, 2, 3, depth, dtype=dtype), codes(rng, SAMPLES, 2, 4, depth, dtype=dtype)
    b = b[0] if constant else b
    offsets = (0, 0) if wide else (128, -77)
    work = MatrixProduct(Rescale.of(3e-8 if wide else 2e-4, wide=wide), *offsets, 0, -90, 127)
    left, right = a.astype(np.int64) + offsets[0], b.astype(np.int64) + offsets[1]
    acc = np.einsum("...mk,...nk->...mn", left, right)
    np.testing.assert_array_equal(once(work, [a, b], (2, 3, 4), dtype), finished(work, acc))


# -- elementwise --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("name", ["int8", "int16"])
def test_addition_is_within_a_code_of_real_addition(sign: Any, name: str) -> None:
    rng = np.random.default_rng(7)
    small = name == "int8"
    zeros, dtype = (5, -30, 11) if small else (0, 0, 0), INT8 if small else INT16
    scales = (0.02, 0.11, 0.13)
    a, b, y = (encoding(scale, zero, name) for scale, zero in zip(scales, zeros, strict=True))
    shift, twice = 20 if small else 15, 2 * max(scales[:2])
    work = Addition(
        sign,
        shift,
        Rescale.of(scales[0] / twice),
        Rescale.of(scales[1] / twice),
        Rescale.of(twice / (2.0**shift * scales[2])),
        -zeros[0],
        -zeros[1],
        zeros[2],
        int(np.iinfo(dtype).min),
        int(np.iinfo(dtype).max),
    )
    left, right = codes(rng, SAMPLES, 4, 50, dtype=dtype), codes(rng, 1, 50, dtype=dtype)
    expected = y.quantize(a.dequantize(left) + sign * b.dequantize(right)).astype(int)
    found = once(work, [left, right], (4, 50), dtype)
    assert np.abs(found - expected).max() <= 1
    assert (found == expected).mean() > 0.98


@pytest.mark.parametrize("constant", [False, True])
def test_multiplication_broadcasts(constant: bool) -> None:
    rng = np.random.default_rng(8)
    a, b = codes(rng, SAMPLES, 1, 4, 5, 6), codes(rng, SAMPLES, 1, 1, 1, 6)
    b = b[0] if constant else b
    work = Multiplication(Rescale.of(0.003), 12, -7, 3, -128, 100)
    expected = finished(work, (a.astype(np.int64) + 12) * (b.astype(np.int64) - 7))
    np.testing.assert_array_equal(once(work, [a, b], (1, 4, 5, 6)), expected)


@pytest.mark.parametrize(("read", "written"), [("int8", "int8"), ("int8", "int16"), ("int16", "int8")])
def test_requantization_is_within_a_code_of_real_numbers(read: str, written: str) -> None:
    rng = np.random.default_rng(9)
    source = encoding(0.03 if read == "int8" else 1e-4, 20 if read == "int8" else 0, read)
    target = encoding(0.041 if written == "int8" else 2e-4, -9 if written == "int8" else 0, written)
    assert source.scale is not None
    assert target.scale is not None
    zeros = (
        (0, 0)
        if source.zero_point is None or target.zero_point is None
        else (source.zero_point, target.zero_point)
    )
    ends = int(target.format.minimum), int(target.format.maximum)
    factor = Rescale.of(float(source.scale) / float(target.scale))
    work = Requantization(factor, -int(zeros[0]), int(zeros[1]), *ends)
    x = codes(rng, SAMPLES, 300, dtype=source.format.dtype)
    found = once(work, [x], (300,), target.format.dtype)
    assert np.abs(found - target.quantize(source.dequantize(x)).astype(int)).max() <= 1


def test_extrema_and_tables() -> None:
    rng = np.random.default_rng(10)
    a, b = codes(rng, SAMPLES, 2, 9), codes(rng, 1, 9)
    np.testing.assert_array_equal(once(Extremum(True), [a, b], (2, 9)), np.maximum(a, b))
    np.testing.assert_array_equal(once(Extremum(False), [a, b], (2, 9)), np.minimum(a, b))
    for dtype in (INT8, INT16):
        table = codes(rng, 256, dtype=dtype)
        expected = [[int(table[value + 128]) for value in row] for row in a.reshape(SAMPLES, -1).tolist()]
        found = once(Lookup(table), [a[..., ::-1]], (2, 9), dtype)
        assert found[..., ::-1].reshape(SAMPLES, -1).tolist() == expected


def test_interpolation_between_entries() -> None:
    table = np.round(np.tanh(np.linspace(-4, 4, 513)) * 32767).astype(INT16)
    x = np.arange(-32768, 32768).astype(INT16)[None]
    found = once(Interpolation(table), [x], (1 << 16,), INT16)[0]
    assert np.abs(found - np.tanh(x[0] / 8192) * 32767).max() < 3
    expected = []
    for value in (-32768, -129, -1, 0, 1, 127, 128, 32767):
        base, after = int(table[256 + (value >> 7)]), int(table[257 + (value >> 7)])
        expected.append(base + (((after - base) * (value & 127) + 64) >> 7))
    assert found[[0, 32768 - 129, 32767, 32768, 32769, 32895, 32896, 65535]].tolist() == expected


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("scale", [0.003, 0.08, 0.9])
@pytest.mark.parametrize("width", [1, 2, 10, 400])
def test_softmax_is_within_a_code_of_real_softmax(bits: int, scale: float, width: int) -> None:
    rng = np.random.default_rng(11)
    multiplier, shift = quantized_multiplier(min(scale * 2.0**26, 2.0**31 - 1))
    work = Softmax(multiplier, shift, -int(np.floor(31 * 2.0**26 / 2.0**shift)))
    x = codes(rng, SAMPLES, 20, width)
    x[0] = 5
    found = once(work, [x], (20, width), np.dtype(f"int{bits}"))
    powers = np.exp((x - x.max(axis=-1, keepdims=True).astype(int)) * scale)
    real = powers / powers.sum(axis=-1, keepdims=True)
    expected = np.clip(np.round(real * 2**bits) - 2 ** (bits - 1), None, 2 ** (bits - 1) - 1)
    assert np.abs(found - expected).max() <= (1 if bits == 8 else 5)  # the sum has 19 bits behind the point


# -- pooling and reductions ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("average", [False, True])
@pytest.mark.parametrize("dtype", [INT8, INT16])
@pytest.mark.parametrize(
    ("kernel", "strides", "pads"),
    [
        ((2, 2), (2, 2), (0, 0, 0, 0)),
        ((3, 2), (1, 2), (1, 1, 1, 0)),
        ((6, 5), (1, 1), (0, 0, 0, 0)),
        ((1, 3), (1, 1), (0, 1, 0, 1)),
    ],
)
def test_pool(average: bool, dtype: np.dtype[Any], kernel: Any, strides: Any, pads: Any) -> None:
    x = codes(np.random.default_rng(12), SAMPLES, 1, 6, 5, 3, dtype=dtype)
    height, width = ((x.shape[2 + i] + pads[i] + pads[i + 2] - kernel[i]) // strides[i] + 1 for i in range(2))
    work = Pool(average, kernel, strides, pads, -90, int(np.iinfo(dtype).max) - 3)
    found = once(work, [x], (1, height, width, 3), dtype)
    for n, p, q, c in np.ndindex(SAMPLES, height, width, 3):
        rows = [
            r for r in range(p * strides[0] - pads[0], p * strides[0] - pads[0] + kernel[0]) if 0 <= r < 6
        ]
        columns = [
            r for r in range(q * strides[1] - pads[1], q * strides[1] - pads[1] + kernel[1]) if 0 <= r < 5
        ]
        inside = [int(x[n, 0, r, s, c]) for r, s in itertools.product(rows, columns)]
        count, total = len(inside), sum(inside)
        mean = int((total + count // 2 if total > 0 else total - count // 2) / count)
        assert found[n, 0, p, q, c] == min(max(mean if average else max(inside), work.low), work.high)


def test_mean_over_the_middle() -> None:
    rng = np.random.default_rng(13)
    x = codes(rng, SAMPLES, 2, 5, 7, 3)
    work = Mean(2, 35, 3, Rescale.of(0.8 / 35), -11, 4, -128, 127)
    total = (x.reshape(SAMPLES, 2, 35, 3).astype(np.int64) - 11).sum(axis=2)
    np.testing.assert_array_equal(once(work, [x], (2, 3)), finished(work, total))


def test_arg_max_takes_the_first_or_the_last() -> None:
    x = np.random.default_rng(14).integers(-2, 3, (SAMPLES, 2, 6, 4)).astype(INT8)
    first = once(ArgMax(2, 6, 4), [x], (2, 1, 4), INT32)
    last = once(ArgMax(2, 6, 4, last=True), [x], (2, 1, 4), INT32)
    for n, i, j in np.ndindex(SAMPLES, 2, 4):
        column = x[n, i, :, j].tolist()
        assert first[n, i, 0, j] == column.index(max(column))
        assert last[n, i, 0, j] == 5 - column[::-1].index(max(column))


# -- movement -----------------------------------------------------------------------------------------------------


def test_views_gathers_paddings_and_concatenations() -> None:
    rng = np.random.default_rng(15)
    x, y = codes(rng, SAMPLES, 2, 3, 4), codes(rng, 2, 5, 4)
    np.testing.assert_array_equal(once(View(), [x], (6, 4)), x.reshape(SAMPLES, 6, 4))
    joined = once(Concatenation(1), [x, y, x], (2, 11, 4))
    np.testing.assert_array_equal(joined[1], np.concatenate([x[1], y, x[1]], axis=1))
    indices = np.array([2, 0, 2, 1], INT32)
    np.testing.assert_array_equal(once(Gather(1, indices), [x], (2, 4, 4)), x[:, :, indices])
    padded = once(Padding((0, 1, 2), (1, 0, 3), -7), [x], (3, 4, 9))
    np.testing.assert_array_equal(padded, np.pad(x, ((0, 0), (0, 1), (1, 0), (2, 3)), constant_values=-7))


@settings(deadline=None)
@given(st.data())
def test_strided_copies(data: st.DataObject) -> None:
    x = np.arange(SAMPLES * 60, dtype=INT16).reshape(SAMPLES, 3, 4, 5)
    own = (20, 5, 1)
    order = data.draw(st.permutations(range(3)))
    kept = [data.draw(st.integers(1, x.shape[1 + axis])) for axis in order]
    back = [data.draw(st.booleans()) for _ in order]
    view = x.transpose(0, *(1 + axis for axis in order))
    view = view[(slice(None), *(slice(None, None, -1) if turn else slice(None) for turn in back))]
    view = view[(slice(None), *(slice(0, count) for count in kept))]
    start = sum((x.shape[1 + axis] - 1) * own[axis] for axis, turn in zip(order, back, strict=True) if turn)
    strides = tuple(-own[axis] if turn else own[axis] for axis, turn in zip(order, back, strict=True))
    repeats = data.draw(st.integers(1, 3))
    found = once(StridedCopy(start, (repeats, *kept), (0, *strides)), [x], (repeats, *kept), INT16)
    np.testing.assert_array_equal(found, np.broadcast_to(view[:, None], found.shape))


def test_strided_copies_stay_inside() -> None:
    x = np.zeros((2, 10), INT8)
    for work in (StridedCopy(1, (10,), (1,)), StridedCopy(3, (5,), (-1,))):
        with pytest.raises(ValueError, match="reads elements"):
            once(work, [x], (work.shape[0],))


@pytest.mark.parametrize("dtype", [INT8, INT16])
def test_resize(dtype: np.dtype[Any]) -> None:
    rng = np.random.default_rng(16)
    x = codes(rng, SAMPLES, 1, 3, 4, 2, dtype=dtype)
    axes = []
    for given_size, size in ((3, 7), (4, 5)):
        lower = np.sort(rng.integers(0, given_size - 1, size)).astype(INT32)
        axes.append((lower, lower + 1, rng.integers(0, 1025, size).astype(INT32)))
    work = Resize(axes[0], axes[1])
    assert not work.nearest
    found = once(work, [x], (1, 7, 5, 2), dtype)
    for n, p, q, c in np.ndindex(SAMPLES, 7, 5, 2):
        total = 0
        for row, by_row in ((axes[0][0][p], 1024 - axes[0][2][p]), (axes[0][1][p], axes[0][2][p])):
            for column, by_column in ((axes[1][0][q], 1024 - axes[1][2][q]), (axes[1][1][q], axes[1][2][q])):
                total += int(x[n, 0, row, column, c]) * int(by_row) * int(by_column)
        assert found[n, 0, p, q, c] == (total + (1 << 19)) >> 20
    nearest = Resize(*((lower, lower, np.zeros_like(lower)) for lower, _, _ in axes))
    copied = x[:, :, axes[0][0]][:, :, :, axes[1][0]]
    np.testing.assert_array_equal(once(nearest, [x], (1, 7, 5, 2), dtype), copied)


def test_unknown_work_is_refused() -> None:
    with pytest.raises(NotImplementedError, match="Work"):
        once(Work(), [], (1,))


# -- programs -----------------------------------------------------------------------------------------------------


def small_program(size: int = 6) -> tuple[Program, list[Any]]:
    """An image through a convolution, a residual addition, a pool and a softmax; NCHW outside, NHWC inside."""
    rng = np.random.default_rng(17)
    x = tensor("x", (1, size, size, 3), encoding=encoding(0.05, 4), value="x", order=(0, 2, 3, 1))
    filters = tensor("w", (3, 3, 3, 3), data=codes(rng, 3, 3, 3, 3))
    bias = tensor("b", (3,), INT32, data=rng.integers(-999, 999, 3).astype(INT32))
    a, b, c = (tensor(name, x.shape) for name in "abc")
    pooled, flat = tensor("pooled", (1, 1, 1, 3)), tensor("flat", (1, 3))
    y = tensor("y", (1, 3), encoding=encoding(1 / 256, -128), value="y", order=(0, 1))
    index = tensor("index", (1,), INT32, value="index", order=(0,))
    convolution = plain_convolution(3, pads=(1, 1, 1, 1))
    half = Rescale.of(0.5)
    addition = Addition(1, 20, half, half, Rescale.of(2.0**-20), 0, 0, 0, -128, 127)
    operations = (
        Operation("o1", convolution, (x, filters, bias), (a,)),
        Operation("o2", convolution, (a, filters, bias), (b,)),
        Operation("o3", addition, (b, a), (c,)),
        Operation("o4", Pool(True, (size, size), (1, 1), (0, 0, 0, 0), -128, 127), (c,), (pooled,)),
        Operation("o5", View(), (pooled,), (flat,)),
        Operation("o6", Softmax(*quantized_multiplier(0.05 * 2.0**26), -248), (flat,), (y,)),
        Operation("o7", ArgMax(1, 3, 1), (y,), (index,)),
    )
    images = rng.standard_normal((11, 3, size, size)).astype(np.float32) * 3
    return Program("small", (x,), (y, index), operations), [images]


def test_run_executes_every_sample_on_its_own_and_always_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    program, (images,) = small_program()
    inputs = quantize_inputs(program, {"x": images})
    together = run(program, inputs, keep=["a", "x", "b"])
    assert set(together) == {"y", "index", "a", "x", "b"}
    np.testing.assert_array_equal(together["x"], inputs["x"])
    again = run(program, inputs, keep=["a"])
    monkeypatch.setattr("qcompiler.integer.evaluate._TOGETHER", 1)
    one_by_one = run(program, inputs, keep=["a"])
    for name in ("y", "index", "a"):
        np.testing.assert_array_equal(together[name], again[name])
        np.testing.assert_array_equal(together[name], one_by_one[name])
        alone = run(program, {"x": inputs["x"][4:5]}, keep=["a"])
        np.testing.assert_array_equal(together[name][4], alone[name][0])
    assert run(program, {"x": inputs["x"][:0]})["y"].shape == (0, 1, 3)


def test_real_inputs_and_outputs_are_in_the_models_order() -> None:
    program, (images,) = small_program()
    inputs = quantize_inputs(program, {"x": images})
    assert inputs["x"].shape == (11, 1, 6, 6, 3)
    expected = encoding(0.05, 4).quantize(images).transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(inputs["x"][:, 0], expected)
    results = run(program, inputs)
    real = dequantize_outputs(program, results)
    np.testing.assert_array_equal(real["y"], (results["y"][:, 0].astype(np.float32) + 128) / 256)
    assert real["y"].dtype == np.float32
    np.testing.assert_array_equal(real["index"], results["index"][:, 0])
    assert real["index"].dtype == np.int32


def test_a_batch_in_the_model_and_permuted_outputs() -> None:
    stored = tensor("x", (2, 4, 5, 3), encoding=encoding(0.1, 0), value="x", order=(0, 2, 3, 1))
    program = Program("p", (stored,), (stored,), ())
    real = np.random.default_rng(18).integers(-99, 99, (6, 3, 4, 5)).astype(np.float32) * np.float32(0.1)
    inputs = quantize_inputs(program, {"x": real})
    assert inputs["x"].shape == (3, 2, 4, 5, 3)
    np.testing.assert_array_equal(dequantize_outputs(program, run(program, inputs))["x"], real)


def test_constant_outputs_are_given_to_every_sample() -> None:
    x, c = tensor("x", (2,)), tensor("c", (3,), data=np.array([1, 2, 3], INT8))
    results = run(Program("p", (x,), (c,), ()), {"x": np.zeros((4, 2), INT8)})
    assert results["c"].tolist() == [[1, 2, 3]] * 4


def test_wrong_inputs_and_wrong_programs_are_refused() -> None:
    program, (images,) = small_program()
    inputs = quantize_inputs(program, {"x": images})
    with pytest.raises(ValueError, match="missing"):
        run(program, {})
    with pytest.raises(ValueError, match=r"has to be int8 \[samples, 1, 6, 6, 3\]"):
        run(program, {"x": inputs["x"].astype(np.int16)})
    with pytest.raises(ValueError, match="no tensor nothing"):
        run(program, inputs, keep=["nothing"])
    x, y = tensor("x", (2,)), tensor("y", (3,))
    wrong = Program("p", (x,), (y,), (Operation("o", Extremum(True), (x, x), (y,)),))
    with pytest.raises(ValueError, match=r"o \(Extremum\) writes int8 \[2\]"):
        run(wrong, {"x": np.zeros((4, 2), INT8)})


def test_memory_does_not_grow_with_depth_or_samples() -> None:
    layers, size = 40, 1 << 16
    chain = [tensor(f"t{number}", (size,)) for number in range(layers + 1)]
    work = Requantization(Rescale.of(0.9), 0, 0, -128, 127)
    operations = tuple(
        Operation(f"o{number}", work, (before,), (after,))
        for number, (before, after) in enumerate(itertools.pairwise(chain))
    )
    summed = tensor("sum", (1,))
    mean = Operation("mean", Mean(1, size, 1, Rescale.of(1 / size), 0, 0, -128, 127), (chain[-1],), (summed,))
    program = Program("chain", (chain[0],), (summed,), (*operations, mean))
    x = np.zeros((100, size), INT8)
    tracemalloc.start()
    run(program, {"t0": x})
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 64e6


def test_work_counts() -> None:
    program, _ = small_program()
    by_name = {operation.name: operation for operation in program.operations}
    assert macs(by_name["o1"]) == 36 * 3 * 27
    assert [macs(by_name[name]) for name in ("o3", "o4", "o5", "o6")] == [0] * 4
    counts = {"o1": 108, "o3": 108, "o4": 108, "o5": 0, "o6": 3, "o7": 3}
    assert {name: elements(by_name[name]) for name in counts} == counts
    a, b = tensor("a", (2, 3, 8)), tensor("b", (2, 4, 8))
    product = MatrixProduct(Rescale.of(1), 0, 0, 0, -128, 127)
    assert macs(Operation("m", product, (a, b), (tensor("y", (2, 3, 4)),))) == 24 * 8
    layer = FullyConnected(Rescale.of(1), 0, 0, -128, 127)
    assert macs(Operation("f", layer, (a, tensor("w", (5, 8))), (tensor("z", (2, 3, 5)),))) == 30 * 8
    depthwise = DepthwiseConvolution(2, (1, 1), (1, 1), (0, 0, 0, 0), Rescale.of(1), 0, 0, -128, 127)
    filters, made = tensor("w", (1, 3, 2, 8)), tensor("y", (1, 5, 5, 8))
    assert macs(Operation("d", depthwise, (tensor("x", (1, 7, 6, 4)), filters), (made,))) == 200 * 6


@pytest.mark.parametrize("shapes", [((300, 300), (300, 300)), ((70, 1000), (1000,)), ((3, 4), (3, 4))])
def test_tables_of_pairs_are_what_the_formula_gives(shapes: tuple[Any, Any]) -> None:
    rng = np.random.default_rng(6)
    a, b = codes(rng, 1, *shapes[0]), codes(rng, *shapes[1])
    tensors = [tensor("a", shapes[0]), tensor("b", shapes[1], data=b)]
    y = tensor("y", shapes[0])
    factor = Rescale.of(0.003)
    works = (
        Multiplication(factor, 3, -4, 5, -100, 127),
        Addition(-1, 20, Rescale.of(0.5), Rescale.of(0.3), Rescale.of(1e-6), 3, -4, 5, -100, 127),
    )
    for work in works:
        step = prepare(work, tensors, y)
        for _ in range(2):
            np.testing.assert_array_equal(step([a, b]), evaluate(work, [a, b], y))
    single = Requantization(Rescale.of(0.7), 3, 5, -100, 127)
    np.testing.assert_array_equal(prepare(single, tensors[:1], y)([a]), evaluate(single, [a], y))


def test_layers_of_computed_weights_are_executed_too() -> None:
    rng = np.random.default_rng(7)
    work = FullyConnected(Rescale.of(0.002), 1, 2, -128, 127)
    x, matrix, bias = codes(rng, 1, 5, 8), codes(rng, 6, 8), np.arange(6, dtype=np.int32)
    tensors = [tensor("x", (5, 8)), tensor("w", (6, 8)), tensor("b", (6,), INT32)]
    y = tensor("y", (5, 6))
    step = prepare(work, tensors, y)
    np.testing.assert_array_equal(step([x, matrix, bias]), evaluate(work, [x, matrix, bias], y))


def test_biases_beyond_double_precision_count_to_the_bit() -> None:
    """Their last bits stand out where the sums cancel what is above them."""
    factor = Rescale(np.array([MOST], np.int32), np.array([14], np.int32), wide=True)
    work = FullyConnected(factor, 0, 0, -32768, 32767)
    x, matrix = np.array([[[1]]], np.int16), np.ones((1, 1), np.int8)
    for low in range(-3, 4):
        bias = np.array([(1 << 60) + low], np.int64)
        expected = finished(work, np.array([[bias[0] + 1]]))
        np.testing.assert_array_equal(once(work, [x, matrix, bias], (1, 1), INT16), [expected])
