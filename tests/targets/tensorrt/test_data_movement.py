"""Which operators TensorRT-RTX lets int8 pass through, and that the rules believe the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from broken_models import IMAGE
from qdq_models import QdqModel

from qcompiler.targets.tensorrt.builder import build
from qcompiler.targets.tensorrt.rules import check_rules

if TYPE_CHECKING:
    from collections.abc import Callable

pytest.importorskip("tensorrt_rtx")


def ints(m: QdqModel, *values: int) -> str:
    return m.constant(np.array(values, np.int64))


def pad(m: QdqModel, x: str, *value: str, mode: str = "constant") -> str:
    return m.op("Pad", x, ints(m, 0, 0, 1, 1, 0, 0, 1, 1), *value, mode=mode)


def number(m: QdqModel, value: float) -> str:
    return m.constant(np.float32(value))


def resize(m: QdqModel, x: str) -> str:
    return m.op("Resize", x, "", m.constant(np.array([1, 1, 2, 2], np.float32)), mode="nearest")


PASSES: dict[str, Callable[[QdqModel, str], str]] = {
    "Transpose": lambda m, x: m.op("Transpose", x, perm=[0, 1, 3, 2]),
    "Reshape": lambda m, x: m.op("Reshape", x, ints(m, 1, 16, 4, 16)),
    "Flatten": lambda m, x: m.op("Reshape", m.op("Flatten", x), ints(m, 1, 16, 8, 8)),
    "Squeeze": lambda m, x: m.op("Unsqueeze", m.op("Squeeze", x, ints(m, 0)), ints(m, 0)),
    "Slice": lambda m, x: m.op("Slice", x, ints(m, 0), ints(m, 4), ints(m, 2)),
    "Split": lambda m, x: m.op("Split", x, num_outputs=1, axis=1),
    "Gather": lambda m, x: m.op("Gather", x, ints(m, 0, 2, 1), axis=2),
    "Tile": lambda m, x: m.op("Tile", x, ints(m, 1, 1, 2, 2)),
    "Expand": lambda m, x: m.op("Expand", x, ints(m, 2, 16, 8, 8)),
    "DepthToSpace": lambda m, x: m.op("SpaceToDepth", m.op("DepthToSpace", x, blocksize=2), blocksize=2),
    "Identity": lambda m, x: m.op("Identity", x),
    "Dropout": lambda m, x: m.op("Dropout", x),
    "Pad with 0": pad,
    "Pad, reflected": lambda m, x: pad(m, x, mode="reflect"),
    "MaxPool": lambda m, x: m.op("MaxPool", x, kernel_shape=[2, 2]),
    "GlobalMaxPool": lambda m, x: m.op("GlobalMaxPool", x),
}
STOPS: dict[str, Callable[[QdqModel, str], str]] = {
    "Pad with 1": lambda m, x: pad(m, x, number(m, 1)),
    "Relu": lambda m, x: m.op("Relu", x),
    "LeakyRelu": lambda m, x: m.op("LeakyRelu", x),
    "Clip": lambda m, x: m.op("Clip", x, number(m, 0), number(m, 6)),
    "Add": lambda m, x: m.op("Add", x, number(m, 1)),
    "AveragePool": lambda m, x: m.op("AveragePool", x, kernel_shape=[2, 2]),
    "Resize": resize,
}


@pytest.mark.parametrize("name", [*PASSES, *STOPS])
def test_int8_passes_through_where_the_rules_say_so(name: str) -> None:
    m = QdqModel(x=IMAGE)
    move = (PASSES | STOPS)[name]
    model = m.model(m.conv(move(m, m.qdq("x")), name="op"))
    report = build(model.SerializeToString(), isolated=False)
    assert report.built
    assert (report.int8_weighted == {"op"}) == (name in PASSES)
    assert {v.rule for v in check_rules(model)} == (set() if name in PASSES else {"both-operands"})


@pytest.mark.parametrize("reads", ["raw", "dequantized"])
@pytest.mark.parametrize("float_op", ["Conv", "Sigmoid"])
def test_int8_and_float_readers_of_one_conv_share_its_epilogue(reads: str, float_op: str) -> None:
    m = QdqModel(x=IMAGE)
    raw = m.op("Relu", m.conv(m.qdq("x"), name="first"), name="relu")
    dequantized = m.qdq(raw)
    x = {"raw": raw, "dequantized": dequantized}[reads]
    other = m.conv(x, dtype=None, name="float") if float_op == "Conv" else m.op("Sigmoid", x)
    model = m.model(m.conv(dequantized, name="int8"), other)
    report = build(model.SerializeToString(), isolated=False)
    assert report.int8_weighted == {"first", "int8"}
    assert report.float_weighted == ({"float"} if float_op == "Conv" else set())
    (epilogue,) = (layer for layer in report.layers if "relu" in layer.nodes)
    assert sorted(o.dtype for o in epilogue.outputs) == ["Float", "Int8"]


def test_two_scales_for_two_readers_are_two_int8_tensors() -> None:
    m = QdqModel(x=IMAGE)
    x = m.op("Relu", m.conv(m.qdq("x"), name="first"), name="relu")
    model = m.model(m.conv(m.qdq(x, 0.05), name="a"), m.conv(m.qdq(x, 0.03), name="b"))
    report = build(model.SerializeToString(), isolated=False)
    assert report.int8_weighted == {"first", "a", "b"}
    (epilogue,) = (layer for layer in report.layers if "relu" in layer.nodes)
    assert [o.dtype for o in epilogue.outputs] == ["Int8", "Int8"]


@pytest.mark.parametrize("channels", [1, 3, 4, 10, 17])
def test_narrow_convs_are_int8(channels: int) -> None:
    m = QdqModel(x=(1, channels, 8, 8))
    model = m.model(m.conv(m.qdq("x"), channels, channels, name="op"))
    assert build(model.SerializeToString(), isolated=False).int8_weighted == {"op"}
