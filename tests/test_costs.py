"""What forms and rows cost: bits of what is stored, and seconds by a roofline."""

from __future__ import annotations

from pathlib import Path

import pytest
from quantized import HEADER, SMALL, WIDTHS, target_of
from small_graphs import graph_of, normal

from qcompiler.assignment import Problem
from qcompiler.costs import CostModel, code_bits, elements, in_bytes, own_bits, parameter_bits
from qcompiler.errors import TargetError
from qcompiler.forms import Form, all_forms, written_forms
from qcompiler.ir.graph import Graph
from qcompiler.ir.shapes import infer_shapes
from qcompiler.pass_manager import PassContext
from qcompiler.passes import find_pass
from qcompiler.pipeline import Pipeline
from qcompiler.regions import REGIONS, Region
from qcompiler.target import EncodingSpec, Stored, Target

CHANNELS = EncodingSpec("int4", granularity="per-channel")
DEVICE = """
default_device = "chip"
[device.chip]
rate = { uint8 = 1e9, int8 = 2e9, int4 = 4e9, float32 = 1e8 }
bandwidth = 1e9
"""
ENCODINGS = """
[encoding.a8]
format = "uint8"
symmetric = false
[encoding.w8]
format = "int8"
granularity = "per-channel"
[encoding.w4]
format = "int4"
granularity = "per-channel"
[encoding.bias]
format = "int32"
derived = ["x", "w"]
"""
KERNEL = """
[[kernel]]
name = "linear"
pattern = "Gemm(x, w, b?) -> Relu?"
[[kernel.row]]
name = "w8a8"
operands = { x = "a8", w = "w8" }
output = ["a8", "float"]
[[kernel.row]]
name = "w4a8"
operands = { x = "a8", w = "w4", b = "bias" }
cost = 3.0
output = ["float"]
[[kernel.row]]
name = "float"
operands = {}
"""
TEXT = "(float[batch,6] x) => (float y) { y = Gemm(x, w, b) }"
CONSTANTS = {"w": normal(6, 10), "b": normal(10)}


def problem_of(graph: Graph, target: Target) -> Problem:
    Pipeline.parse("canonicalize,fuse", find_pass).run(graph, PassContext(target=target))
    return Problem.state(graph, target, graph.facts[REGIONS])


def linear(folder: Path, device: str = DEVICE) -> tuple[Problem, Region, CostModel]:
    target = target_of(folder, HEADER + device + ENCODINGS + KERNEL)
    problem = problem_of(graph_of(TEXT, CONSTANTS), target)
    (region,) = problem.regions
    return problem, region, CostModel(target, "float32")


def seconds(folder: Path, row: str | None, device: str = DEVICE) -> float:
    problem, region, model = linear(folder, device)
    rows = {row.name: row for row in problem.legal_rows(region)}
    return model.region(region, rows[row] if row is not None else None)


# -- sizes ---------------------------------------------------------------------------------------------------------


def test_elements_are_those_of_one_sample() -> None:
    graph = graph_of(
        "(float[batch,3,8,seq] x, float[1,3,8] z, float s) => (float y, float u, float v) { y = Relu(x) u = Relu(z) v = Relu(s) }"
    )
    infer_shapes(graph)
    assert [elements(graph.value(name)) for name in ("x", "y", "z", "s")] == [24, 24, 24, 1]
    constants = graph_of(TEXT, CONSTANTS)
    assert elements(constants.value("w")) == 60


@pytest.mark.parametrize(("bits", "stored"), [(0, 0), (1, 8), (8, 8), (9, 16), (63, 64)])
def test_every_constant_begins_with_a_byte_of_its_own(bits: int, stored: int) -> None:
    assert in_bytes(bits) == stored


@pytest.mark.parametrize(("name", "bits"), [("int8", 8), ("int6", 6), ("int3", 3), ("uint16", 16)])
def test_codes_take_the_bits_of_their_format(name: str, bits: int) -> None:
    assert code_bits(graph_of(TEXT, CONSTANTS).value("w"), EncodingSpec(name)) == 60 * bits


@pytest.mark.parametrize(
    ("spec", "axis", "bits"),
    [
        (EncodingSpec("int8"), None, 32 + 8),
        (EncodingSpec("uint8", symmetric=False), None, 32 + 8),
        (EncodingSpec("uint16", symmetric=False), None, 32 + 16),
        (EncodingSpec("int4"), None, 32 + 8),  # half a byte is a byte, too
        (EncodingSpec("int8", granularity="per-channel"), 1, 10 * 40),
        (EncodingSpec("int6", granularity="per-channel"), 1, 10 * 40),  # as bytes
        (CHANNELS, 1, 10 * 36),
        (EncodingSpec("int3", granularity="per-channel"), 1, 10 * 36),  # as four bits
        (EncodingSpec("float8e4m3", granularity="per-channel"), 1, 10 * 40),
        (EncodingSpec("int4", granularity="per-block", block=3), 0, 20 * 36),
        (EncodingSpec("uint8", symmetric=False, offset="bias"), None, 32 + 8 + 64),
        (EncodingSpec("table3"), None, 32 * (8 + 1 + 1)),  # entries, a scale, and where they begin
        (EncodingSpec("table3", granularity="per-channel"), 1, 32 * (8 + 10 + 1)),
        (EncodingSpec("table3", granularity="per-group", group=5), 1, 32 * (2 * 8 + 1 + 10)),
    ],
)  # fmt: skip
def test_scales_and_zero_points_take_bits(spec: EncodingSpec, axis: int | None, bits: int) -> None:
    assert parameter_bits(Form(graph_of(TEXT, CONSTANTS).value("w"), spec, axis)) == bits


@pytest.mark.parametrize(("axis", "count"), [(None, 1), (1, 10)])
def test_scales_take_what_the_target_says(axis: int | None, count: int) -> None:
    form = Form(graph_of(TEXT, CONSTANTS).value("w"), CHANNELS, axis)
    assert parameter_bits(form, 0) == 0
    assert parameter_bits(form, 12) == count * 96


@pytest.mark.parametrize(
    ("spec", "axis", "tables"),
    [
        (EncodingSpec("table3"), None, 0),
        (EncodingSpec("table3", granularity="per-channel"), 1, 0),
        (EncodingSpec("table3", granularity="per-group", group=5), 1, 2 * 8),
    ],
)
def test_only_tables_for_groups_count_as_bits_of_weights(
    spec: EncodingSpec, axis: int | None, tables: int
) -> None:
    form = Form(graph_of(TEXT, CONSTANTS).value("w"), spec, axis)
    assert own_bits(form, 2) == 60 * 3 + tables * 16
    assert own_bits(form) == 60 * 3 + tables * 32


@pytest.mark.parametrize(
    ("spec", "axis", "numbers"),
    [
        (EncodingSpec("table3"), None, 8),
        (EncodingSpec("table3", granularity="per-channel"), 1, 8 + 10),
        (EncodingSpec("table3", granularity="per-group", group=5), 1, 2 * 8),
    ],
)
def test_tables_take_what_the_target_says(spec: EncodingSpec, axis: int | None, numbers: int) -> None:
    assert parameter_bits(Form(graph_of(TEXT, CONSTANTS).value("w"), spec, axis), 2) == numbers * 16


def test_what_is_stored_for_a_row_differs_between_devices(tmp_path: Path) -> None:
    device = f'{DEVICE}[device.chip.stored]\n"linear/w8a8" = {{ channel = 12 }}\n'
    target = target_of(
        tmp_path, HEADER + device + ENCODINGS + KERNEL.replace("cost = 3.0", "stored = { whole = 256 }")
    )
    problem = problem_of(graph_of(TEXT, CONSTANTS), target)
    (region,) = problem.regions
    model = CostModel(target, "float32")
    assert {row.name: model.stored(region, row) for row in problem.legal_rows(region)} == {
        "w8a8": Stored(channel=12), "w4a8": Stored(whole=256), "float": Stored(),
    }  # fmt: skip


# -- forms ---------------------------------------------------------------------------------------------------------


def test_forms_are_alike_by_value_spec_and_axis() -> None:
    graph = graph_of(TEXT, CONSTANTS)
    w, b = graph.value("w"), graph.value("b")
    assert Form(w, CHANNELS, 1) == Form(w, EncodingSpec("int4", granularity="per-channel"), 1)
    assert (
        len(
            {
                Form(w, CHANNELS, 1),
                Form(w, CHANNELS, 0),
                Form(b, CHANNELS, 1),
                Form(w, EncodingSpec("int4"), 1),
            }
        )
        == 4
    )
    assert Form(w, CHANNELS, 1) != "w"
    assert Form(w, CHANNELS, 1).key == ("w", "int4 symmetric per-channel", 1)


def test_derived_encodings_are_no_forms(tmp_path: Path) -> None:
    problem, _, _ = linear(tmp_path)
    assert sorted((form.value.name, form.spec.format) for form in all_forms(problem)) == [
        ("w", "int4"), ("w", "int8"), ("x", "uint8"),
    ]  # fmt: skip


def test_what_a_row_cannot_but_write_is_a_form(tmp_path: Path) -> None:
    """The result is rounded to it, whoever reads it: here in 16 bits, in which nobody asks for it."""
    text = "(float[batch,6] x) => (float y) { r = Gemm(x, w) y = Softmax(r) }"
    problem = problem_of(graph_of(text, {"w": normal(6, 5)}), target_of(tmp_path, WIDTHS))
    forms = {(form.value.name, form.spec.format): uses for form, uses in all_forms(problem).items()}
    assert set(forms) == {("x", "int8"), ("x", "int16"), ("w", "int8"), ("r", "int8"), ("r", "int16")}
    assert [use.node.op for use in forms["r", "int16"]] == ["Softmax"]
    for region in problem.regions:
        for row in problem.legal_rows(region):
            written = [(form.value.name, form.spec.format) for form in written_forms(problem, region, row)]
            expected = {"a8w8": [("r", "int8")], "a16w8": [("r", "int16")], "a8": []}  # nobody reads y
            assert written == expected[row.name]


def test_where_there_is_a_choice_of_outputs_readers_have_it(tmp_path: Path) -> None:
    text = "(float[batch,6] x) => (float y) { r = Gemm(x, w) y = Gemm(r, v) }"
    graph = graph_of(text, {"w": normal(6, 5), "v": normal(5, 4)})
    problem = problem_of(graph, target_of(tmp_path, HEADER + DEVICE + ENCODINGS + KERNEL))
    for region in problem.regions:
        for row in problem.legal_rows(region):
            assert written_forms(problem, region, row) == ()


def test_a_value_that_movement_passes_on_is_one() -> None:
    npu = Path(__file__).parents[1] / "docs" / "examples" / "npu.toml"
    from qcompiler.descriptor import load_target

    text = "(float[batch,4,3,3] x) => (float y) { f = Flatten(x) y = Gemm(f, w) }"
    problem = problem_of(graph_of(text, {"w": normal(36, 5)}), load_target(npu))
    assert {form.value.name for form in all_forms(problem)} == {"x", "w"}


# -- seconds -------------------------------------------------------------------------------------------------------


def test_the_slower_of_arithmetic_and_traffic_counts(tmp_path: Path) -> None:
    traffic = (6 * 8 + 60 * 8 + 10 * 32 + 10 * 8) / 8 / 1e9  # x, w, a float bias and the result
    assert seconds(tmp_path, "w8a8") == pytest.approx(max(60 / 1e9, traffic))
    assert seconds(tmp_path, "w8a8", DEVICE.replace("bandwidth = 1e9", "bandwidth = 1e3")) == pytest.approx(
        traffic * 1e6
    )
    assert seconds(tmp_path, "w8a8", DEVICE.replace("bandwidth = 1e9", "")) == 60 / 1e9


def test_the_slowest_format_of_a_row_sets_the_rate(tmp_path: Path) -> None:
    assert seconds(tmp_path, "w4a8", DEVICE.replace("bandwidth = 1e9", "")) == 3 * 60 / 1e9
    rates = DEVICE.replace("uint8 = 1e9", "uint8 = 9e9").replace("bandwidth = 1e9", "")
    assert seconds(tmp_path, "w4a8", rates) == 3 * 60 / 4e9


def test_formats_without_a_rate_are_left_out(tmp_path: Path) -> None:
    rates = DEVICE.replace("uint8 = 1e9, ", "").replace("bandwidth = 1e9", "")
    assert seconds(tmp_path, "w8a8", rates) == 60 / 2e9
    assert seconds(tmp_path, "float", rates) == seconds(tmp_path, None, rates) == 60 / 1e8
    assert seconds(tmp_path, "float", rates.replace(", float32 = 1e8", "")) == 0


def test_floats_are_as_wide_as_the_compilation_has_them(tmp_path: Path) -> None:
    problem, region, wide = linear(tmp_path, 'default_device = "chip"\n[device.chip]\nbandwidth = 1e3\n')
    narrow = CostModel(problem.target, "float16")
    assert (
        wide.region(region, None)
        == 2 * narrow.region(region, None)
        == pytest.approx(4 * (6 + 60 + 10 + 10) / 1e3)
    )


def test_conversions_are_traffic(tmp_path: Path) -> None:
    problem, _, model = linear(tmp_path)
    graph = problem.graph
    assert model.conversion(graph.value("x"), EncodingSpec("uint8")) == pytest.approx(6 * (32 + 8) / 8 / 1e9)
    assert model.conversion(graph.value("w"), EncodingSpec("int8")) == 0


def test_a_target_that_states_no_speed(tmp_path: Path) -> None:
    target = target_of(tmp_path, SMALL)
    model = CostModel(target, "float32")
    assert not model.known
    with pytest.raises(
        TargetError, match=r"states neither rates nor a bandwidth.*leave --max-latency.*descriptor\.toml"
    ):
        model.require()
    assert linear(tmp_path)[2].known
    linear(tmp_path)[2].require()
    assert seconds(tmp_path, "w8a8", "") == 0
