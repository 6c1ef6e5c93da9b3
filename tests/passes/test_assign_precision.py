"""assign_precision: rows and their reasons, numbers for every encoding, and weights that are hard to encode."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from quantized import HEADER, SMALL, Quantized, quantize, target_of
from small_graphs import graph_of, normal

from qcompiler.errors import ModelError, OptionError
from qcompiler.metrics import sqnr_db
from qcompiler.target import Target
from qcompiler.targets import find_target

TINY = float(np.finfo(np.float32).tiny)
IMAGE = "(float[batch,4,8,8] x) => (float y)"
PAD = "<pads=[1,1,1,1]>"
W: dict[str, Any] = {"w": normal(4, 4, 3, 3) / 6, "v": normal(4, 4, 1, 1) / 2, "b": normal(4)}
CHAIN = f"{IMAGE} {{ c = Conv{PAD}(x, w, b) r = Relu(c) y = Conv(r, v, b) }}"


def done(
    text: str, constants: dict[str, Any] | None = None, target: Target | str = "tensorrt", **options: Any
) -> Quantized:
    return quantize(graph_of(text, {**W, **(constants or {})}), target, **options)


# -- rows and reasons ------------------------------------------------------------------------------------------


def test_every_row_not_taken_has_a_reason() -> None:
    result = done(CHAIN)
    first, second = result.plan.regions
    assert (first.row, second.row) == ("int8", "int8-centred")
    assert first.reason == "int8: the preferred legal row of kernel conv"
    assert {refused.row: refused.reason for refused in first.refused} == {
        "int8-centred": "zero padding is not zero after centring",
        "int8-centred-x": "zero padding is not zero after centring",
        "int8-centred-shortcut": "legal, but not preferred",
        "fp8": "FP8 convolutions with up to 16 channels are slower than int8 (MO)",
    }
    assert {refused.row: refused.reason for refused in second.refused}["int8"] == "legal, but not preferred"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (f"{IMAGE} {{ y = Erf(x) }}", "float: no kernel of tensorrt:sm89 covers Erf"),
        (f"{IMAGE} {{ y = GlobalAveragePool(x) }}", "float: kernel average_pool has no quantized row: it is computed in float"),
        ("(float[batch,4,8,8] x, float[2,4,3,3] k) => (float y) { y = Conv(x, k) }", "float: row int8-centred of kernel conv is not legal: w (k) is computed at run time, not a constant"),
    ],
)  # fmt: skip
def test_what_stays_float_says_why(text: str, reason: str) -> None:
    result = done(text)
    assert result.plan.regions[-1].reason.startswith(reason)
    assert not result.plan.regions[-1].quantized


def test_a_device_without_the_format() -> None:
    wide = {"w": normal(32, 32, 3, 3) / 17}
    text = "(float[batch,32,8,8] x) => (float y) { y = Conv<pads=[1,1,1,1]>(x, w) }"
    (region,) = done(text, wide, "tensorrt:sm80", prefer="fp8").plan.regions
    assert region.row == "int8"
    assert "sm80 has no float8e4m3 arithmetic" in next(
        item.reason for item in region.refused if item.row == "fp8"
    )
    (region,) = done(text, wide, "tensorrt:sm89", prefer="fp8").plan.regions
    assert region.row == "fp8"


def test_a_preference_that_no_kernel_has() -> None:
    with pytest.raises(
        OptionError, match=r"The target tensorrt has no kernel row 'fp9' to prefer; did you mean 'fp8'\?"
    ):
        done(CHAIN, prefer="fp9")


def test_rows_that_cannot_compete_are_told_about() -> None:
    result = done(CHAIN, decide="fuse,calibrate,assign_precision{rows=fp8}")
    (record,) = (entry for entry in result.records if entry.name.startswith("assign_precision"))
    assert any("rows=fp8 changes nothing" in item.message for item in record.diagnostics)
    assert [region.row for region in result.plan.regions] == [
        region.row for region in done(CHAIN).plan.regions
    ]


def test_weight_only_rows() -> None:
    result = done(
        "(float[batch,256] x) => (float y) { y = Gemm<transB=1>(x, m) }",
        {"m": normal(8, 256)},
        prefer="int4-weight",
    )
    group = result.group(result.plan.regions[0].name, 1)
    assert str(group.encoding).startswith("int4 per-block(axis 1, 128)")
    assert len(result.plan.groups) == 1
    assert result.sqnr() > 12


# -- numbers ---------------------------------------------------------------------------------------------------


def test_where_encodings_come_from() -> None:
    result = done(CHAIN)
    reasons = {group.name: group.reason for group in result.plan.groups}
    assert reasons["w"] == "weights, least squared error"
    assert reasons["x"].startswith("mse: -")
    assert reasons["r"].startswith("mse: 0..")


def test_least_squared_error_beats_the_full_range() -> None:
    heavy = np.random.default_rng(0).standard_t(3, (4, 4, 3, 3)).astype(np.float32)
    full = done(CHAIN, {"w": heavy}, decide="fuse,calibrate,assign_precision{weight_range=min-max}")
    best = done(CHAIN, {"w": heavy})

    def error(result: Quantized) -> float:
        return sqnr_db(heavy, result.group("Conv:c", 1).encoding.fake_quantize(heavy))

    assert error(best) >= error(full)
    assert full.group("Conv:c", 1).reason == "weights, min-max"


def test_per_channel_axes_follow_the_operator() -> None:
    text = "(float[batch,6,8] x) => (float y) { m = MatMul(x, k) y = Relu(m) }"
    result = quantize(graph_of(text, {"k": normal(8, 5)}))
    (weight,) = (group for group in result.plan.groups if group.name == "k")
    assert (weight.encoding.axis, weight.encoding.scale is not None and weight.encoding.scale.shape) == (
        1,
        (5,),
    )


LOOKUP = (
    SMALL
    + """
[encoding.table]
format = "uint8"
scale = 0.00390625
zero_point = 0
[[kernel]]
name = "lookup"
pattern = "Sigmoid|Softmax(x)"
[[kernel.row]]
name = "table"
operands = { x = "uint8" }
output = ["table"]
"""
)


def test_fixed_encodings(tmp_path: Path) -> None:
    result = done(
        f"{IMAGE} {{ c = Conv{PAD}(x, w) s = Softmax<axis=1>(c) y = Conv(s, v) }}",
        target=target_of(tmp_path, LOOKUP),
    )
    group = result.plan.group_of_value()["s"]
    assert (group.relation, group.reason) == ("fixed", "fixed by the target")
    assert float(group.encoding.scale or 0) == 1 / 256
    assert int(group.encoding.zero_point or 0) == 0
    assert group.uses, "the convolution reads it as it is stored"
    assert result.sqnr() > 25


def test_derived_biases_of_grouped_transposed_convolutions(tmp_path: Path) -> None:
    kernel = SMALL.replace('pattern = "Conv(x, w, b?) -> Relu?"', 'pattern = "ConvTranspose(x, w, b?)"')
    result = done(
        f"{IMAGE} {{ y = ConvTranspose<group=2>(x, w, b) }}",
        {"w": normal(4, 3, 2, 2), "b": normal(6)},
        target_of(tmp_path, kernel),
    )
    (bias,) = (group for group in result.plan.groups if group.relation == "derived")
    assert bias.encoding.scale is not None
    assert bias.encoding.scale.shape == (6,)
    np.testing.assert_array_equal(bias.encoding.scale[:3], bias.encoding.scale[3:])
    assert result.sqnr() > 30


# -- weights that are hard to encode ---------------------------------------------------------------------------


def channels(*rows: NDArray[np.float32] | float) -> NDArray[np.float32]:
    return np.stack(
        [np.full((4, 3, 3), row, np.float32) if np.isscalar(row) else np.asarray(row) for row in rows]
    )


OPEN = SMALL.replace('output = ["uint8"]', 'output = ["float", "uint8"]')
"""Integer arithmetic whose result need not be rounded: what differs then comes from weights and biases."""

USUAL = normal(4, 3, 3) / 6
DEGENERATE = {
    "all zero": np.zeros((4, 4, 3, 3), np.float32),
    "one channel zero": channels(USUAL, 0.0, USUAL, USUAL),
    "constant": np.full((4, 4, 3, 3), 0.3, np.float32),
    "constant per channel": channels(0.1, -0.2, 3.0, -40.0),
    "tiny": np.full((4, 4, 3, 3), 1e-38, np.float32),
    "one channel tiny": channels(USUAL, USUAL * np.float32(1e-38), USUAL, USUAL),
    "denormal": channels(USUAL, USUAL, 1e-42, -1e-45),
    "huge": channels(USUAL, USUAL * np.float32(1e30), USUAL, USUAL),
    "one outlier": channels(USUAL, USUAL, USUAL, np.where(np.arange(36).reshape(4, 3, 3) == 7, np.float32(1e4), USUAL)),
}  # fmt: skip


@pytest.mark.parametrize("case", DEGENERATE)
@pytest.mark.parametrize("kind", ["tensorrt", "fp8", "integer"])
def test_degenerate_weights(case: str, kind: str, tmp_path: Path) -> None:
    weights = DEGENERATE[case]
    target = target_of(tmp_path, OPEN) if kind == "integer" else find_target("tensorrt")
    prefer = "fp8" if kind == "fp8" else ""
    if kind == "fp8":
        weights = np.tile(weights, (5, 1, 1, 1))
    bias = normal(len(weights))
    result = quantize(
        graph_of(f"{IMAGE} {{ y = Conv{PAD}(x, w, b) }}", {"w": weights, "b": bias}), target, prefer=prefer
    )
    assert result.plan.regions[0].quantized
    for group in result.plan.groups:
        scale = group.encoding.scale
        assert scale is not None
        assert np.isfinite(scale).all()
        assert (scale >= TINY).all()
    before, after = result.outputs()
    for channel in range(len(weights)):
        one, other = before["y"][:, channel].astype(np.float64), after["y"][:, channel].astype(np.float64)
        peak = np.abs(one).max()
        assert np.abs(one - other).max() <= 0.05 * peak, (case, channel)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("prefer", ["", "fp8"])
def test_weights_that_are_not_finite(bad: float, prefer: str) -> None:
    broken = np.tile(W["w"], (8, 1, 1, 1))
    broken[2, 1, 0, 2] = bad
    with pytest.raises(
        ModelError,
        match=r"The weight 'w' of Conv:c has a NaN or infinite element at \[2, 1, 0, 2\]; it cannot be quantized",
    ):
        done(f"{IMAGE} {{ c = Conv(x, w) y = Relu(c) }}", {"w": broken}, prefer=prefer)


def test_biases_that_are_not_finite(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"The weight 'b' of Conv:y has a NaN or infinite element at \[3\]"):
        done(
            f"{IMAGE} {{ y = Conv(x, v, b) }}",
            {"b": np.array([0, 0, 0, np.nan], np.float32)},
            target_of(tmp_path, OPEN),
        )


def test_no_calibration_no_range(tmp_path: Path) -> None:
    target = target_of(tmp_path, HEADER)
    result = done(CHAIN, target=target)
    assert not result.plan.groups
    assert all(region.reason.startswith("float: no kernel of small covers") for region in result.plan.regions)
