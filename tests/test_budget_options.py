"""Options of budgets: what they take, what they make of a pipeline, and where they can be given."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from qcompiler.budget import Budget
from qcompiler.cli.settings import Settings, read_config
from qcompiler.descriptor import load_target
from qcompiler.errors import OptionError
from qcompiler.options import Options, default_pipeline, make_options
from qcompiler.target import Target
from qcompiler.targets import find_target

NPU = load_target(Path(__file__).parents[1] / "docs" / "examples" / "npu.toml")
LIMITS = {"weight_bits": "--weight-bits", "max_size": "--max-size", "max_latency": "--max-latency"}


def passes(**given: Any) -> list[str]:
    return [entry.name for entry in default_pipeline(NPU, make_options(given))]


# -- values --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LIMITS)
@pytest.mark.parametrize("bad", [0, -5, -0.001, math.nan, math.inf, -math.inf])
def test_limits_are_positive_numbers(name: str, bad: float) -> None:
    with pytest.raises(OptionError, match=rf"^{LIMITS[name]} is .*; it takes a number above 0\.$"):
        make_options({name: bad})


@pytest.mark.parametrize("bad", [-1e-9, math.nan, math.inf])
def test_a_drop_is_a_number_from_zero_on(bad: float) -> None:
    with pytest.raises(OptionError, match=r"--max-drop is .*; it takes a number from 0 on"):
        make_options({"max_drop": bad})


@pytest.mark.parametrize("bad", ["speed", "", "Size", "loss"])
def test_what_can_be_minimised(bad: str) -> None:
    with pytest.raises(OptionError, match=rf"--minimise is '{bad}'; .*(size|latency)"):
        make_options({"minimise": bad})


@pytest.mark.parametrize(
    ("given", "says"), [({"pareto": True}, "--pareto"), ({"max_latency": 3.0}, "--max-latency")]
)
def test_what_a_plan_leaves_nothing_to(given: dict[str, Any], says: str) -> None:
    with pytest.raises(
        OptionError, match=rf"{says} .* and --plan leaves nothing to choose; leave one of the two out\."
    ):
        make_options({"plan": "plan.json", **given})


@pytest.mark.parametrize("name", ["weight_bit", "max_sizes", "minimize", "paretto"])
def test_unknown_options_get_a_suggestion(name: str) -> None:
    with pytest.raises(OptionError, match="did you mean"):
        make_options({name: 1})


def test_a_budget_is_there_where_something_is_limited() -> None:
    assert Options().budget() is None
    assert Options(max_drop=0.1, minimise="latency", pareto=True).budget() is None
    assert Options(weight_bits=4, max_size=1000, max_latency=5).budget() == Budget(4, 1000, 0.005)
    assert Options(max_latency=2.5).budget() == Budget(latency=0.0025)


def test_the_code_is_taken_off_a_limit_on_flash() -> None:
    assert Options(max_flash=75_000).budget(23_000) == Budget(size=52_000, code=23_000)
    assert Options(max_flash=75_000, max_size=51_999).budget(23_000) == Budget(size=51_999)
    assert Options(max_flash=75_000, max_size=52_001).budget(23_000) == Budget(size=52_000, code=23_000)
    assert Options(max_ram=1).budget(23_000) is None
    with pytest.raises(OptionError, match="--max-flash allows 23000 bytes, and the kernels' code alone"):
        Options(max_flash=23_000).budget(23_000)


@pytest.mark.parametrize("target", [NPU, find_target("tensorrt"), find_target("tensorrt:sm89")])
@pytest.mark.parametrize(("option", "says"), [("max_ram", "--max-ram limits the memory"), ("max_flash", "--max-flash limits code")])  # fmt: skip
def test_limits_of_devices_that_code_is_written_for(target: Target, option: str, says: str) -> None:
    options = make_options({option: 100_000})
    for written in (True, False):
        with pytest.raises(OptionError, match=rf"{says}.* no code is written for {target.label}") as caught:
            options.check_target(target, written=written)
        assert "--max-size limits bytes of weights and tables." in str(caught.value)
    options.check_target(find_target("cmsis-nn"), written=True)
    make_options({"max_size": 100_000}).check_target(target, written=True)


def test_limits_that_nothing_is_written_within() -> None:
    """Without an artifact there is no memory to plan; flash is still what precision is chosen for, if it is chosen."""
    target = find_target("cmsis-nn")
    with pytest.raises(OptionError, match=r"--max-ram limits .* give an output folder"):
        make_options({"max_ram": 100_000}).check_target(target, written=False)
    make_options({"max_flash": 100_000}).check_target(target, written=False)
    planned = make_options({"max_flash": 100_000, "plan": "plan.json"})
    planned.check_target(target, written=True)
    with pytest.raises(OptionError, match=r"--max-flash .* --plan leaves nothing to choose"):
        planned.check_target(target, written=False)


def test_a_search_is_there_where_something_is_measured() -> None:
    assert not Options(weight_bits=4).searches
    assert Options(max_drop=0.0).searches
    assert Options(pareto=True).searches
    assert not Options(max_drop=0.0, plan="plan.json").searches


# -- pipelines -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [{"weight_bits": 4.0}, {"max_size": 1e6}, {"max_latency": 1.0}, {"max_drop": 0.01}, {"pareto": True}])  # fmt: skip
def test_budgets_bring_the_sensitivity_analysis_along(given: dict[str, Any]) -> None:
    found = passes(**given)
    assert "sensitivity" not in passes()
    assert found.count("sensitivity") == 1
    assert found.index("calibrate") < found.index("sensitivity") < found.index("assign_precision")
    assert [name for name in found if name != "sensitivity"] == passes()


def test_a_plan_needs_none() -> None:
    assert "sensitivity" not in passes(plan="plan.json", weight_bits=4.0, max_drop=0.1)


def test_a_pipeline_of_ones_own_gets_what_it_lacks() -> None:
    text = "fuse,calibrate,assign_precision,insert_qdq"
    assert passes(pipeline=text, weight_bits=4.0) == [
        "fuse",
        "calibrate",
        "sensitivity",
        "assign_precision",
        "insert_qdq",
    ]
    own = "fuse,calibrate,sensitivity{passes=1},assign_precision,insert_qdq"
    assert passes(pipeline=own, weight_bits=4.0) == [
        "fuse",
        "calibrate",
        "sensitivity",
        "assign_precision",
        "insert_qdq",
    ]
    assert passes(pipeline="canonicalize", weight_bits=4.0) == ["canonicalize"]


def test_its_options_can_be_given() -> None:
    given = {
        "weight_bits": 4.0,
        "pass_options": {"sensitivity": {"passes": "2.5"}, "assign_precision": {"rows": "*a8"}},
    }
    pipeline = default_pipeline(NPU, make_options(given))
    by_name = {entry.name: entry for entry in pipeline}
    assert by_name["sensitivity"].passes == 2.5  # type: ignore[attr-defined]
    assert by_name["assign_precision"].rows == ("*a8",)  # type: ignore[attr-defined]
    with pytest.raises(OptionError, match="'sensitivity', which is not in the pipeline"):
        default_pipeline(NPU, make_options({"pass_options": {"sensitivity": {"passes": "2.5"}}}))


# -- configuration files -------------------------------------------------------------------------------------------

CONFIG = """
model = "model.onnx"
weight-bits = 4
max-size = 20000
max-latency = 1.5
max-drop = 0.01
minimise = "latency"
pareto = true
"""


def config(folder: Path, text: str) -> str:
    file = folder / "mine.toml"
    file.write_text(text)
    return str(file)


def test_a_file_can_say_it_all(tmp_path: Path) -> None:
    options = Settings.gathered(config(tmp_path, CONFIG), {}).options()
    expected = {
        "weight_bits": 4, "max_size": 20000, "max_latency": 1.5, "max_drop": 0.01, "minimise": "latency", "pareto": True,
    }  # fmt: skip
    assert {name: options[name] for name in expected} == expected
    assert make_options(options).budget() == Budget(4, 20000, 0.0015)
    assert read_config(Path(config(tmp_path, CONFIG.replace("-", "_")))).weight_bits == 4


def test_the_command_line_has_the_last_word(tmp_path: Path) -> None:
    options = Settings.gathered(
        config(tmp_path, CONFIG), {"weight_bits": 3.5, "pareto": False, "max_size": None}
    ).options()
    assert (options["weight_bits"], options["pareto"], options["max_size"]) == (3.5, False, 20000)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('weight-bits = "four"', ["weight-bits", "a number"]),
        ("weight-bits = true", ["weight-bits"]),
        ("pareto = 1", ["pareto"]),
        ("weigth-bits = 4", ["weigth-bits", "did you mean 'weight-bits'"]),
        ("minimise = 3", ["minimise", "text"]),
    ],
)
def test_mistakes_in_a_file(tmp_path: Path, text: str, says: list[str]) -> None:
    with pytest.raises(OptionError) as caught:
        read_config(Path(config(tmp_path, text)))
    for words in says:
        assert words in str(caught.value)
