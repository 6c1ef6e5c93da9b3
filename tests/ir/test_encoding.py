"""Encodings: bit-exact with onnxruntime, and never a degenerate scale."""

from __future__ import annotations

import json
from typing import Any

import ml_dtypes
import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from qcompiler.ir.encoding import (
    FLOAT32,
    FORMATS,
    MIN_SCALE,
    Encoding,
    block_range,
    channel_range,
)

INTEGERS = ("int8", "uint8", "int16", "uint16", "int4", "uint4")
SCALED = (*INTEGERS, "float8e4m3")


def onnxruntime_codes(x: np.ndarray, encoding: Encoding) -> tuple[np.ndarray, np.ndarray]:
    """(codes, dequantized) as onnxruntime computes them; codes unpacked to one number each, as floats."""
    assert encoding.scale is not None
    dtype = encoding.format.dtype
    kind = helper.np_dtype_to_tensor_dtype(dtype)
    zero = (
        np.zeros(encoding.scale.shape, dtype)
        if encoding.zero_point is None
        else encoding.zero_point.astype(dtype)
    )
    attributes = {} if encoding.axis is None else {"axis": encoding.axis}
    if encoding.block is not None:
        attributes["block_size"] = encoding.block
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["codes"], **attributes),
        helper.make_node("DequantizeLinear", ["codes", "scale", "zero"], ["real"], **attributes),
        helper.make_node("Cast", ["codes"], ["wide"], to=TensorProto.FLOAT),
    ]
    infos = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, x.shape) for name in ("x", "wide", "real")
    ]
    constants = [numpy_helper.from_array(encoding.scale, "scale"), numpy_helper.from_array(zero, "zero")]
    value_info = [helper.make_tensor_value_info("codes", kind, x.shape)]
    graph = helper.make_graph(nodes, "g", infos[:1], infos[1:], constants, value_info=value_info)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    wide, real = session.run(["wide", "real"], {"x": x})
    return wide, real


def assert_same_as_onnxruntime(x: np.ndarray, encoding: Encoding) -> None:
    if encoding.format.bits == 4:  # onnxruntime wraps around where x / scale leaves the range of int32
        assert encoding.scale is not None
        reach = np.float32(2**30) * encoding.scale.min()
        x = np.clip(x, -reach, reach)
    codes, real = onnxruntime_codes(x, encoding)
    np.testing.assert_array_equal(encoding.quantize(x).astype(np.float32), codes)
    np.testing.assert_array_equal(encoding.dequantize(encoding.quantize(x)), real)
    np.testing.assert_array_equal(encoding.fake_quantize(x), real)


def hard_numbers(encoding: Encoding, *shape: int) -> np.ndarray:
    """Ties between codes, both ends of the range and beyond, denormals, signed zeros, infinities; random ones."""
    assert encoding.scale is not None
    scale = float(encoding.scale.reshape(-1)[0])
    steps = np.arange(-20, 21) / 2
    ends = np.array([encoding.format.minimum, encoding.format.maximum])
    hard = np.concatenate([steps, ends, ends + 0.5, ends - 0.5, ends * 3, [0.0, -0.0]]) * scale
    hard = np.concatenate([hard, [np.inf, -np.inf, 1e-44, 3e38, -3e38]])
    x = np.random.default_rng(0).standard_normal(shape) * scale * 40
    flat = x.reshape(-1)
    flat[: min(len(hard), flat.size)] = hard[: flat.size]
    return x.astype(np.float32)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("name", SCALED)
def test_per_tensor_as_onnxruntime(name: str, symmetric: bool) -> None:
    encoding = Encoding.from_range(FORMATS[name], -1.7, 3.1, symmetric=symmetric)
    assert_same_as_onnxruntime(hard_numbers(encoding, 4, 64), encoding)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("name", SCALED)
def test_per_channel_as_onnxruntime(name: str, axis: int) -> None:
    x = hard_numbers(Encoding.from_range(FORMATS[name], -1.0, 1.0, symmetric=True), 4, 6, 8)
    finite = np.where(np.isfinite(x) & (np.abs(x) < 1e30), x, 0.0)
    low, high = channel_range(finite, axis)
    encoding = Encoding.from_range(FORMATS[name], low, high, symmetric=False, axis=axis)
    assert encoding.scale is not None
    assert encoding.scale.shape == (x.shape[axis],)
    assert_same_as_onnxruntime(x, encoding)


@pytest.mark.parametrize(("axis", "block"), [(0, 2), (1, 4), (1, 3)])
@pytest.mark.parametrize("name", INTEGERS)
def test_per_block_as_onnxruntime(name: str, axis: int, block: int) -> None:
    x = np.random.default_rng(0).standard_normal((4, 12)).astype(np.float32)
    low, high = block_range(x, axis, block)
    encoding = Encoding.from_range(FORMATS[name], low, high, symmetric=False, axis=axis, block=block)
    assert_same_as_onnxruntime(x, encoding)


@pytest.mark.parametrize("name", SCALED)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_random_numbers_as_onnxruntime(name: str, data: st.DataObject) -> None:
    numbers = st.floats(-1000, 1000, width=32)
    low, high = sorted((data.draw(numbers), data.draw(numbers)))
    encoding = Encoding.from_range(FORMATS[name], low, high, symmetric=data.draw(st.booleans()))
    x = np.array(
        [data.draw(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=20))], np.float32
    )
    assert_same_as_onnxruntime(x, encoding)


def test_a_last_block_may_be_shorter() -> None:
    x = np.arange(10, dtype=np.float32).reshape(1, 10)
    low, high = block_range(x, 1, 4)
    encoding = Encoding.from_range(FORMATS["uint8"], low, high, symmetric=False, axis=1, block=4)
    assert encoding.scale is not None
    assert encoding.scale.shape == (1, 3)
    np.testing.assert_allclose(encoding.fake_quantize(x), x, atol=0.02)


# -- special numbers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", INTEGERS)
def test_nan_becomes_zero_and_infinities_saturate(name: str) -> None:
    encoding = Encoding.from_range(FORMATS[name], -1.0, 2.0, symmetric=False)
    assert encoding.zero_point is not None
    codes = encoding.quantize(np.float32([np.nan, np.inf, -np.inf])).astype(int)
    assert codes.tolist() == [int(encoding.zero_point), FORMATS[name].maximum, FORMATS[name].minimum]
    assert encoding.fake_quantize(np.float32([np.nan]))[0] == 0


def test_floats_keep_nan_and_scaled_ones_saturate() -> None:
    x = np.float32([np.nan, np.inf, -1e30])
    fp8 = Encoding.from_range(FORMATS["float8e4m3"], -448.0, 448.0, symmetric=True)
    np.testing.assert_array_equal(fp8.fake_quantize(x), [np.nan, 448, -448])
    np.testing.assert_array_equal(Encoding.plain("float16").fake_quantize(x), [np.nan, np.inf, -np.inf])
    np.testing.assert_array_equal(Encoding.plain("float8e4m3").fake_quantize(x), [np.nan, 448, -448])
    assert Encoding.plain().quantize(x).dtype == np.float32


def test_narrow_ranges_do_not_use_the_lowest_code() -> None:
    for name, lowest in (("int8", -127), ("uint8", 1), ("int4", -7)):
        encoding = Encoding.from_range(FORMATS[name], -1.0, 1.0, symmetric=True, narrow=True)
        x = np.float32([-1.0, -100.0, 1.0])
        assert encoding.quantize(x).astype(int).tolist() == [lowest, lowest, FORMATS[name].maximum]
        assert encoding.least_code == lowest
        np.testing.assert_allclose(encoding.fake_quantize(x), [-1, -1, 1], rtol=1e-6)
        np.testing.assert_allclose(encoding.real_range(), (-1, 1), rtol=1e-6)


def test_symmetric_uses_the_whole_range() -> None:
    encoding = Encoding.from_range(FORMATS["int8"], -128.0, 100.0, symmetric=True)
    assert encoding.scale is not None
    assert float(encoding.scale) == 1.0
    assert encoding.zero_point is not None
    assert int(encoding.zero_point) == 0
    unsigned = Encoding.from_range(FORMATS["uint8"], -1.0, 0.5, symmetric=True)
    assert unsigned.zero_point is not None
    assert int(unsigned.zero_point) == 128


def test_zero_is_always_exact() -> None:
    for low, high in ((0.5, 3.0), (-3.0, -0.5), (-1.0, 2.0)):
        for name in INTEGERS:
            for symmetric in (True, False):
                encoding = Encoding.from_range(FORMATS[name], low, high, symmetric=symmetric)
                assert encoding.fake_quantize(np.float32([0.0]))[0] == 0


# -- ranges that lead to bad scales --------------------------------------------------------------------------

ENDS = st.one_of(
    st.floats(-1e300, 1e300, allow_nan=False),
    st.sampled_from((0.0, -0.0, 1e-320, -1e-45, 1e-38, 1.2e-38, 3.4e38, -3.4e38, 1e300)),
)


@pytest.mark.parametrize("name", [*SCALED, "int32", "int2", "uint2", "float4e2m1"])
@settings(max_examples=60, deadline=None)
@given(low=ENDS, high=ENDS, symmetric=st.booleans(), narrow=st.booleans())
def test_scales_are_never_degenerate(
    name: str, low: float, high: float, symmetric: bool, narrow: bool
) -> None:
    low, high = min(low, high), max(low, high)
    encoding = Encoding.from_range(FORMATS[name], low, high, symmetric=symmetric, narrow=narrow)
    assert encoding.scale is not None
    assert np.isfinite(encoding.scale).all()
    assert (encoding.scale >= MIN_SCALE).all()
    if encoding.zero_point is not None:
        assert encoding.least_code <= encoding.zero_point <= encoding.format.maximum
    x = np.float32([np.clip(low, -3e38, 3e38), 0, np.clip(high, -3e38, 3e38)])
    real = encoding.fake_quantize(x)
    assert real[1] == 0
    assert not np.isnan(real).any()


def test_constant_and_zero_channels() -> None:
    x = np.float32([[0, 0, 0], [5, 5, 5], [-2, -2, -2], [1e-42, 0, 0]])
    for symmetric in (True, False):
        low, high = channel_range(x, 0)
        encoding = Encoding.from_range(FORMATS["int8"], low, high, symmetric=symmetric, axis=0)
        np.testing.assert_allclose(encoding.fake_quantize(x), x, atol=1e-6)
        assert encoding.scale is not None
        assert encoding.scale[0] == 1.0


@pytest.mark.parametrize("ends", [(np.nan, 1.0), (0.0, np.inf), (-np.inf, 0.0)])
def test_infinite_ranges_are_refused(ends: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="finite"):
        Encoding.from_range(FORMATS["int8"], *ends, symmetric=True)


@pytest.mark.parametrize("scale", [0.0, -1.0, np.nan, np.inf, 1e-40])
def test_bad_scales_are_refused(scale: float) -> None:
    with pytest.raises(ValueError, match="finite, positive and not denormal"):
        Encoding(FORMATS["int8"], np.float32(scale), np.int32(0))


def test_scale_and_zero_point_go_together() -> None:
    one = np.float32(1)
    with pytest.raises(ValueError, match="zero point"):
        Encoding(FORMATS["int8"], one)
    with pytest.raises(ValueError, match="zero point"):
        Encoding(FORMATS["float8e4m3"], one, np.int32(0))
    with pytest.raises(ValueError, match="differ in shape"):
        Encoding(FORMATS["int8"], np.ones(3, np.float32), np.zeros(2, np.int32), axis=0)


# -- tables --------------------------------------------------------------------------------------------------


def test_tables_take_the_nearest_entry() -> None:
    table = np.float32([1.0, -2.0, 0.0, 8.0])
    encoding = Encoding(FORMATS["table2"], table=table)
    x = np.float32([[-9, -1.1, -0.9], [0.4, 4.4, 100], [np.inf, -np.inf, np.nan]])
    assert encoding.quantize(x).tolist() == [[1, 1, 2], [2, 0, 3], [3, 1, 2]]
    assert encoding.fake_quantize(x).tolist() == [[-2, -2, 0], [0, 1, 8], [8, -2, 0]]
    assert encoding.real_range() == (-2, 8)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("group", [1, 2])
def test_tables_per_group(axis: int, group: int) -> None:
    tables = np.float32([[0, 1], [10, 20], [-5, 5]])
    encoding = Encoding(FORMATS["table1"], axis=axis, table=tables, group=group)
    x = np.repeat(np.float32([[0.2, 0.9], [12, 19], [-1, np.nan]]), group, axis=0)
    expected = np.repeat(np.float32([[0, 1], [10, 20], [-5, -5]]), group, axis=0)
    x, expected = (item if axis == 0 else item.T.copy() for item in (x, expected))
    np.testing.assert_array_equal(encoding.fake_quantize(x), expected)
    assert encoding.real_range() == (-5, 20)


def test_tables_in_higher_ranks() -> None:
    tables = np.float32([[-1, 1], [-3, 3]])
    encoding = Encoding(FORMATS["table1"], axis=1, table=tables, group=3)
    assert encoding.first_entries(4).reshape(-1).tolist() == [0, 0, 0, 2, 2, 2]
    assert encoding.first_entries(4).shape == (1, 6, 1, 1)
    x = np.sin(np.arange(48, dtype=np.float32)).reshape(2, 6, 2, 2)
    assert np.abs(encoding.fake_quantize(x)[:, :3]).tolist() == np.ones((2, 3, 2, 2)).tolist()
    assert np.abs(encoding.fake_quantize(x)[:, 3:]).tolist() == np.full((2, 3, 2, 2), 3).tolist()


@pytest.mark.parametrize(("given", "message"), [
    ({}, "a table of 2 entries, and there is none"),
    ({"table": [0, 1, 2]}, r"a table of 2 entries, and there is one of shape \[3\]"),
    ({"table": [[0, 1], [2, 3]], "axis": 0}, "go with a group"),
    ({"table": [0, 1], "axis": 0, "group": 2}, "go with a group"),
    ({"table": [[0, 1], [2, 3]], "axis": 0, "group": 0}, "at least one channel"),
    ({"table": [[0, 1], [2, 3]], "group": 2}, "along an axis"),
    ({"table": [[0, 1], [2, 3]], "group": 2, "axis": 0, "scale": [1, 2]}, "without scales"),
])  # fmt: skip
def test_groups_and_tables_that_do_not_go_together(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Encoding.from_json({"format": "table1", **given})


# -- identity, files, text -----------------------------------------------------------------------------------


def samples() -> list[Encoding]:
    x = np.sin(np.arange(24, dtype=np.float64)).reshape(3, 8)
    return [
        Encoding.plain(),
        Encoding.plain("bfloat16"),
        Encoding.from_range(FORMATS["int8"], -1.0, 0.3, symmetric=True, narrow=True),
        Encoding.from_range(FORMATS["uint8"], *channel_range(x, 0), symmetric=False, axis=0),
        Encoding.from_range(FORMATS["int4"], *block_range(x, 1, 4), symmetric=True, axis=1, block=4),
        Encoding.from_range(FORMATS["float8e4m3"], -1.0, 3.0, symmetric=True),
        Encoding(FORMATS["table2"], table=np.float32([0, 1, 2, 1 / 3])),
        Encoding(FORMATS["table1"], axis=1, table=np.float32([[0, 1], [2, 1 / 3]]), group=16),
        Encoding(FORMATS["table1"], axis=1, table=np.float32([[0, 1], [2, 1 / 3]]), group=8),
    ]


def test_json_round_trip_to_the_bit() -> None:
    for encoding in samples():
        twin = Encoding.from_json(json.loads(json.dumps(encoding.to_json())))
        assert twin == encoding
        assert hash(twin) == hash(encoding)
        assert str(twin) == str(encoding)
    assert len(set(samples())) == len(samples())


def test_text() -> None:
    assert [str(encoding) for encoding in samples()] == [
        "float32",
        "bfloat16",
        "int8 per-tensor scale 0.007874",
        "uint8 per-channel(axis 0) scale 0.007326..0.007806 zero point 128..131",
        "int4 per-block(axis 1, 4) scale 0.1199..0.1415",
        "float8e4m3 per-tensor scale 0.006696",
        "table2 per-tensor",
        "table1 per-group(axis 1, 16)",
        "table1 per-group(axis 1, 8)",
    ]


def test_an_encoding_cannot_be_changed_and_leaves_its_source_alone() -> None:
    scale = np.ones(2, np.float32)
    encoding = Encoding(FORMATS["int8"], scale, np.zeros(2, np.int32), axis=0)
    scale[0] = 2
    assert encoding.scale is not None
    assert encoding.scale.tolist() == [1, 1]
    with pytest.raises(ValueError, match="read-only"):
        encoding.scale[0] = 3


def test_formats() -> None:
    assert FLOAT32.is_plain_float
    assert not FORMATS["float8e4m3"].is_plain_float
    assert FORMATS["int4"].levels == 16
    assert (FORMATS["int4"].minimum, FORMATS["int4"].maximum) == (-8, 7)
    assert (FORMATS["float8e4m3"].minimum, FORMATS["float8e4m3"].maximum) == (-448, 448)
    assert FORMATS["uint8"].is_integer
    assert not FORMATS["uint8"].is_signed
    assert FORMATS["int4"].dtype == ml_dtypes.int4
