"""calibrate: observes what could be quantized, no more; from data, from a file, or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from quantized import quantize
from small_graphs import graph_of, normal

from qcompiler.data import DataSource
from qcompiler.errors import DataError, OptionError
from qcompiler.ir.graph import Graph
from qcompiler.observed import RANGES, Ranges
from qcompiler.pass_manager import PassContext
from qcompiler.passes.calibrate import Calibrate
from qcompiler.passes.canonicalize import Canonicalize
from qcompiler.passes.fuse import Fuse
from qcompiler.pipeline import PassRecord, Pipeline
from qcompiler.target import EncodingSpec
from qcompiler.targets import find_target

TEXT = """(float[batch,4,8,8] x) => (float y) {
    c = Conv<pads=[1,1,1,1]>(x, w) r = Relu(c) t = Transpose<perm=[0,1,3,2]>(r) d = Conv(t, v) e = Elu(d) y = Erf(e)
}"""
W = {"w": normal(4, 4, 3, 3) / 6, "v": normal(4, 4, 1, 1)}
DATA = {"x": normal(32, 4, 8, 8)}


def graph() -> Graph:
    return graph_of(TEXT, W)


def calibrated(context: PassContext, **options: object) -> tuple[Ranges, PassRecord]:
    made = graph()
    if context.calibration is not None:
        context.calibration = context.calibration.validate(made)
    *_, record = Pipeline((Canonicalize(), Fuse(), Calibrate(**options))).run(made, context)  # type: ignore[arg-type]
    return made.facts[RANGES], record


def context(**more: object) -> PassContext:
    return PassContext(target=find_target("tensorrt"), calibration=DataSource.open(DATA), **more)  # type: ignore[arg-type]


def test_it_observes_what_a_legal_row_could_quantize() -> None:
    ranges, record = calibrated(context())
    assert ranges.statistics is not None
    seen = {name for name in ("x", "c", "r", "t", "d", "e", "y") if name in ranges.statistics}
    assert seen == {"x", "r"}, (
        "the transposed value has the range of what it transposes; the others are never quantized"
    )
    assert record.counts == {"observed values": 2}


def test_ranges_and_means() -> None:
    ranges, _ = calibrated(context(), method="min-max")
    low, high = ranges.interval(["x"], EncodingSpec("uint8", symmetric=False))
    assert (low, high) == (float(DATA["x"].min()), float(DATA["x"].max()))
    assert ranges.mean("x") == pytest.approx(float(DATA["x"].mean()), abs=0.02)
    assert ranges.mean("c") is None
    both = ranges.interval(["x", "r"], EncodingSpec("uint8", symmetric=False))
    assert both[0] == low
    assert both[1] >= high
    narrow = ranges.interval(["r"], EncodingSpec("float8e4m3"))
    assert narrow[0] == 0.0


@pytest.mark.parametrize(
    "method", ["min-max", "moving-average", "percentile", "percentile:99.9", "entropy", "mse"]
)
def test_methods(method: str) -> None:
    result = quantize(graph(), data=DATA, decide=f"fuse,calibrate{{method={method}}},assign_precision")
    assert result.sqnr() > 20
    assert result.group("Conv:c").reason.split(": ")[0].startswith(method.split(":")[0])


def test_an_unknown_method() -> None:
    with pytest.raises(OptionError, match=r"There is no range method 'msa'; did you mean 'mse'\?"):
        calibrated(context(), method="msa")


def test_a_value_that_was_not_observed() -> None:
    ranges, _ = calibrated(context())
    with pytest.raises(DataError, match="The value 'c' is to be quantized, but it was not observed"):
        ranges.interval(["c"], EncodingSpec("int8"))


def test_without_data() -> None:
    with pytest.raises(
        DataError,
        match=r"2 values have to be observed to choose their ranges \(the first is 'x'\).*--calibration",
    ):
        calibrated(PassContext(target=find_target("tensorrt")))


def test_where_nothing_can_be_quantized_no_data_are_needed() -> None:
    made = graph_of("(float[batch,4] x) => (float y) { y = Erf(x) }")
    *_, record = Pipeline((Canonicalize(), Fuse(), Calibrate())).run(
        made, PassContext(target=find_target("tensorrt"))
    )
    assert made.facts[RANGES].statistics is None
    assert not record.counts


def test_statistics_are_written_and_read(tmp_path: Path) -> None:
    file = tmp_path / "statistics.npz"
    first, _ = calibrated(context(statistics=file))
    assert file.exists()
    again, record = calibrated(PassContext(target=find_target("tensorrt"), statistics=file))
    spec = EncodingSpec("int8")
    assert again.interval(["r"], spec) == first.interval(["r"], spec)
    assert "statistics of 32 samples read from" in str(record.diagnostics[0])


def test_statistics_of_another_target(tmp_path: Path) -> None:
    from quantized import SMALL, target_of

    file = tmp_path / "statistics.npz"
    calibrated(context(statistics=file))
    (tmp_path / "t").mkdir()
    everything = target_of(
        tmp_path / "t",
        SMALL
        + '[[kernel]]\nname = "e"\npattern = "Elu(x)"\n[[kernel.row]]\nname = "r"\noperands = { x = "uint8" }\n',
    )
    with pytest.raises(
        DataError, match=r"lacks \d of \d values that this target could quantize .*made for another target"
    ):
        calibrated(PassContext(target=everything, statistics=file))


def test_with_a_plan_data_are_welcome_but_not_needed() -> None:
    plan = quantize(graph(), data=DATA).plan
    without, record = calibrated(PassContext(target=find_target("tensorrt"), plan=plan))
    assert without.statistics is None
    assert "without calibration data biases are not corrected" in str(record.diagnostics[0])
    with_data, record = calibrated(context(plan=plan))
    assert with_data.statistics is not None
    assert not record.diagnostics


def test_sums_of_statistics_do_not_depend_on_the_batch() -> None:
    one, _ = calibrated(context(), batch=1)
    many, _ = calibrated(context(), batch=32)
    spec = EncodingSpec("int8")
    np.testing.assert_allclose(one.interval(["r"], spec), many.interval(["r"], spec), rtol=1e-5)
