"""Compilations within budgets: what is asked for is kept, searched for by measuring, or said to be impossible."""

from __future__ import annotations

import functools
import gc
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from cli_runs import Outcome, contents, run_cli
from onnx import TensorProto, helper, numpy_helper

import qcompiler as qc
from qcompiler import demo
from qcompiler.compilation import measurement
from qcompiler.ir.graph import Graph

NPU = Path(__file__).parents[2] / "docs" / "examples" / "npu.toml"
QUICK = (
    "raise_qdq,fold_constants,canonicalize,fold_batch_norm,fuse_composites,canonicalize,fuse,calibrate,assign_precision,"
    "correct_bias,insert_qdq,cast_floats"
)
"""The default pipeline without refinement, which is most of the time."""
Report = dict[str, Any]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QCOMPILER_CACHE", str(tmp_path_factory.getbasetemp() / "budgets"))


@pytest.fixture
def small(folder: Path) -> Path:
    """model.onnx, a classifier of three layers, with calibration.npz and evaluation.npz (with labels)."""
    rng = np.random.default_rng(3)
    model = classifier(rng)
    onnx.save(model, "model.onnx")
    x = rng.standard_normal((240, 8)).astype(np.float32)
    weights = [numpy_helper.to_array(item) for item in model.graph.initializer]
    scores = functools.reduce(lambda h, item: np.maximum(h, 0) @ item[0] + item[1], zip(weights[2::2], weights[3::2], strict=True), x @ weights[0] + weights[1])  # fmt: skip
    np.savez("calibration.npz", x=x[:40])
    np.savez("evaluation.npz", x=x[40:], labels=scores[40:].argmax(1))
    return folder


def classifier(rng: np.random.Generator, batch: str | int = "n") -> onnx.ModelProto:
    sizes = [8, 24, 16, 4]
    nodes, constants, name = [], [], "x"
    for number, (rows, columns) in enumerate(itertools.pairwise(sizes)):
        scale = (2 / rows) ** 0.5
        weight = (rng.standard_normal((rows, columns)) * scale).astype(np.float32)
        constants += [numpy_helper.from_array(weight, f"w{number}")]
        constants += [
            numpy_helper.from_array(rng.standard_normal(columns).astype(np.float32) / 5, f"b{number}")
        ]
        nodes.append(
            helper.make_node("Gemm", [name, f"w{number}", f"b{number}"], [f"h{number}"], f"layer{number}")
        )
        name = f"h{number}"
        if number < 2:
            nodes.append(helper.make_node("Relu", [name], [f"r{number}"], f"relu{number}"))
            name = f"r{number}"
    graph = helper.make_graph(
        nodes,
        "classifier",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 8])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, 4])],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def compiled(*words: object, evaluation: bool = True) -> Outcome:
    """Compiles model.onnx into the folder `out`."""
    data = ["-c", "calibration.npz"] if "-c" not in words else []
    data += ["-e", "evaluation.npz"] if evaluation and "-e" not in words else []
    target = ["-t", NPU] if "-t" not in words else []
    return run_cli("compile", "model.onnx", *target, *data, "-o", "out", "--force", *words)


def report_of(*words: object, code: int = 0, evaluation: bool = True) -> Report:
    done = compiled(*words, evaluation=evaluation)
    assert done.code == code, done.err
    found: Report = json.loads(Path("out/report.json").read_text())
    return found


def refused(*words: object, says: Sequence[str], evaluation: bool = True) -> str:
    before = contents(Path.cwd())
    done = compiled(*words, evaluation=evaluation)
    assert done.code == 1, done
    assert contents(Path.cwd()) == before, "something was written"
    text = done.err.removesuffix("\n")
    assert text.startswith("Error: ")
    assert text.endswith((".", "?", ")")), text
    for unwanted in ("\n", "Traceback", "a bug in qcompiler"):
        assert unwanted not in text, text
    for word in says:
        assert word in text, f"{word!r} not in: {text}"
    return text


# -- limits that are kept ------------------------------------------------------------------------------------------


@functools.cache
def demo_report(**options: Any) -> Report:
    """The demo, compiled quickly within a budget."""
    return qc.compile(demo.MODEL, str(NPU), demo.CALIBRATION, pipeline=QUICK, **options).report


def test_weight_bits_are_kept() -> None:
    losses = []
    for bits in (8, 4, 3, 2):
        report = demo_report(weight_bits=bits)
        assert report["weight_bits"] <= bits
        assert report["assignment"]["weight_bits"] == pytest.approx(report["weight_bits"])
        assert report["budget"] == {"asked": {"weight_bits": bits}, "met": True, "unmet": []}
        losses.append(report["assignment"]["loss"])
    assert losses == sorted(losses)
    assert losses[-1] > 100 * losses[0]


def test_a_size_is_kept() -> None:
    """It is foretold to the byte, but for scales and zero points (6 bytes) of values that turn out to have equal ones.

    Here a Flatten's, which reads what it writes, and those behind two Relu6.
    """
    losses = []
    for size in (30000, 20000, 15000):
        report = demo_report(max_size=size)
        found = report["size_bytes"]["compiled"]
        assert 0.97 * size < found <= size
        assert found <= report["assignment"]["size_bytes"] <= found + 3 * 6
        losses.append(report["assignment"]["loss"])
    assert losses == sorted(losses)


def test_a_latency_is_kept() -> None:
    losses = []
    for milliseconds in (0.012, 0.009, 0.0075):
        report = demo_report(max_latency=milliseconds)
        assert report["assignment"]["latency"] <= milliseconds / 1e3
        losses.append(report["assignment"]["loss"])
    assert losses == sorted(losses)


def test_limits_are_kept_together() -> None:
    report = demo_report(weight_bits=4, max_size=20000, max_latency=0.0085)
    assert report["budget"]["met"]
    assert report["weight_bits"] <= 4
    assert report["size_bytes"]["compiled"] <= 20000
    assert report["assignment"]["latency"] <= 8.5e-6


def test_without_a_latency_the_result_is_no_slower_than_the_uniform_one() -> None:
    """The loosest budget there is: every row of 16 bits would be chosen."""
    implied = demo_report(weight_bits=8)["assignment"]
    free = demo_report(weight_bits=8, max_latency=1e3)["assignment"]
    assert implied["latency"] <= implied["limits"]["latency"] < free["latency"]
    assert implied["loss"] > free["loss"]


def test_fewer_rows_to_choose_from() -> None:
    report = demo_report_of_rows("*a8")
    rows = {node["row"] for node in report["nodes"] if node["kind"] == "weighted"}
    assert rows
    assert all(row.endswith("a8") for row in rows)


def demo_report_of_rows(rows: str) -> Report:
    options = {"assign_precision": {"rows": rows}}
    return qc.compile(
        demo.MODEL, str(NPU), demo.CALIBRATION, pipeline=QUICK, weight_bits=4, pass_options=options
    ).report


def test_a_budget_on_the_command_line(small: Path) -> None:
    report = report_of("--weight-bits", 4)
    assert report["weight_bits"] <= 4
    assert report["search"] == report["pareto"] == []
    assert report["assignment"]["optimal"]
    manifest = json.loads((small / "out" / "manifest.json").read_text())
    options = manifest["options"]
    assert (options["weight_bits"], options["max_size"], options["minimise"], options["pareto"]) == (
        4,
        None,
        "size",
        False,
    )
    assert "sensitivity" in options["pipeline"]


def test_a_budget_in_a_file(small: Path) -> None:
    (small / "mine.toml").write_text("weight-bits = 3\nmax-size = 5000\n")
    report = report_of("--config", "mine.toml")
    assert report["budget"]["asked"] == {"weight_bits": 3, "max_size": 5000}
    options = json.loads((small / "out" / "manifest.json").read_text())["options"]
    assert (options["weight_bits"], options["max_size"]) == (3, 5000)


def test_unknown_rows(small: Path) -> None:
    for option in ("rows", "prefer"):
        refused(
            "--weight-bits",
            4,
            "--option",
            f"assign_precision.{option}=w4a9",
            says=["'w4a9'", "did you mean 'w4a"],
        )


# -- limits that are not kept --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--weight-bits", 1], ["--weight-bits 1", "2 bits per weight", "layer"]),
        (["--max-size", 100], ["--max-size 100", " bytes, of which ", "layer"]),
        (["--max-latency", 1e-9], ["--max-latency 1e-09", " ms by its cost model", "layer"]),
        (["--max-size", 100, "--max-drop", 0], ["--max-size 100", "layer"]),
        (["--weight-bits", 1, "--max-drop", 0.5], ["--weight-bits 1", "layer"]),
    ],
)
def test_limits_that_cannot_be_kept(small: Path, words: list[object], says: list[str]) -> None:
    report = report_of(*words, code=3)
    assert not report["budget"]["met"]
    first = report["budget"]["unmet"][0]
    for word in says:
        assert word in first
    assert "cannot be met: the least that the target's rows allow is" in first
    assert (small / "out" / "reference.onnx").exists()
    assert (small / "out" / "plan.json").exists()
    assert all(sentence.endswith(".") for sentence in report["budget"]["unmet"])


def test_the_nearest_is_written(small: Path) -> None:
    report = report_of("--max-size", 100, code=3)
    least = int(report["budget"]["unmet"][0].split(" bytes, of which")[0].rsplit(" ", 1)[1])
    assert report["size_bytes"]["compiled"] == least
    assert report_of("--max-size", least)["budget"]["met"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--weight-bits", "0"], "--weight-bits"),
        (["--weight-bits", "-1"], "--weight-bits"),
        (["--weight-bits", "nan"], "--weight-bits"),
        (["--weight-bits", "inf"], "--weight-bits"),
        (["--weight-bits", "few"], "--weight-bits"),
        (["--max-size", "-5"], "--max-size"),
        (["--max-latency", "0"], "--max-latency"),
        (["--minimise", "speed"], "--minimise is 'speed'"),
        (["--minimize", "size"], "did you mean '--minimise'"),
        (["--max-drop", "-0.1"], "--max-drop"),
    ],
)
def test_values_that_make_no_sense(small: Path, words: list[str], says: str) -> None:
    refused(*words, says=[says])


def test_a_target_without_speed(small: Path) -> None:
    text = NPU.read_text()
    text = "\n".join(line for line in text.splitlines() if not line.startswith(("rate =", "bandwidth =")))
    (small / "slow.toml").write_text(text)
    for words in (["--max-latency", 1], ["--max-drop", 0.1, "--minimise", "latency"]):
        refused(
            "-t",
            "slow.toml",
            *words,
            says=["npu:array states neither rates nor a bandwidth", "slow.toml", "--max-latency"],
        )
    assert report_of("-t", "slow.toml", "--weight-bits", 4)["assignment"]["latency"] == 0


# -- a measured drop -----------------------------------------------------------------------------------------------


def check_search(report: Report, allowed: float) -> None:
    """What is written is the smallest of those that were measured within the drop."""
    trials = report["search"]
    within = [trial for trial in trials if trial["drop"] <= allowed + 1e-12]
    assert within
    assert report["size_bytes"]["compiled"] == min(trial["size_bytes"] for trial in within)
    assert report["metric"]["drop"] <= allowed + 1e-12
    chosen = min(within, key=lambda trial: (trial["size_bytes"], trial["drop"]))
    assert report["metric"]["reference"] == chosen["metric"]
    assert report["sqnr_db"] == chosen["sqnr_db"]
    assert report["assignment"]["loss"] == chosen["predicted_loss"]
    assert report["weight_bits"] == pytest.approx(chosen["weight_bits"])
    for trial in trials:
        assert trial["predicted_loss"] <= (trial["loss_limit"] or np.inf) * (1 + 1e-9)


def test_the_smallest_within_a_drop(small: Path) -> None:
    uniform = report_of()
    report = report_of("--max-drop", 0.02)
    assert 1 < len(report["search"]) <= 7
    check_search(report, 0.02)
    assert report["size_bytes"]["compiled"] < uniform["size_bytes"]["compiled"]
    assert uniform["search"] == []


def test_a_search_is_reproducible(small: Path) -> None:
    report_of("--max-drop", 0.02)
    first = {name: (small / "out" / name).read_bytes() for name in ("plan.json", "reference.onnx")}
    report_of("--max-drop", 0.02)
    assert first == {name: (small / "out" / name).read_bytes() for name in first}


def test_checks_do_not_change_the_result(small: Path) -> None:
    report_of("--max-drop", 0.02)
    first = {name: (small / "out" / name).read_bytes() for name in ("plan.json", "reference.onnx")}
    report = report_of("--max-drop", 0.02, "--verify-each", "--dump", "dump")
    assert first == {name: (small / "out" / name).read_bytes() for name in first}
    check_search(report, 0.02)
    dumped = sorted(path.name for path in (small / "dump").glob("*.txt"))
    assert len(dumped) == len(report["passes"]) + 1
    assert any(entry["error"] is not None for entry in report["passes"])


def test_with_a_plan_nothing_is_searched(small: Path) -> None:
    report = report_of("--max-drop", 0.02)
    first = (small / "out" / "reference.onnx").read_bytes()
    plan = (small / "out" / "plan.json").read_bytes()
    (small / "plan.json").write_bytes(plan)
    again = report_of("--max-drop", 0.02, "--plan", "plan.json")
    assert again["search"] == []
    assert again["assignment"] is None
    assert (small / "out" / "reference.onnx").read_bytes() == first
    assert (small / "out" / "plan.json").read_bytes() == plan
    for key in ("sqnr_db", "size_bytes", "weight_bits"):
        assert again[key] == report[key]
    tight = report_of("--weight-bits", 1, "--plan", "plan.json", code=3)
    assert "--weight-bits 1 is not kept: the plan gives" in tight["budget"]["unmet"][0]
    tight = report_of("--max-size", 10, "--plan", "plan.json", code=3)
    assert "--max-size 10 is not kept" in tight["budget"]["unmet"][0]


def test_the_fastest_within_a_drop(small: Path) -> None:
    report = report_of("--max-drop", 0.02, "--minimise", "latency")
    within = [trial for trial in report["search"] if trial["drop"] <= 0.02 + 1e-12]
    assert report["assignment"]["latency"] * 1e3 == min(trial["latency_ms"] for trial in within)
    assert json.loads((small / "out" / "manifest.json").read_text())["options"]["minimise"] == "latency"


def test_a_drop_and_limits_together(small: Path) -> None:
    size = report_of("--max-drop", 0.02, "--pipeline", QUICK)["size_bytes"]["compiled"] + 60
    report = report_of("--max-drop", 0.02, "--max-size", size, "--weight-bits", 6, "--pipeline", QUICK)
    assert report["budget"]["met"]
    check_search(report, 0.02)
    assert all(trial["size_bytes"] <= size for trial in report["search"])
    assert all(trial["weight_bits"] <= 6 for trial in report["search"])


def test_a_drop_that_no_limit_leaves_room_for(small: Path) -> None:
    report = report_of("--max-drop", 0, "--weight-bits", 2, code=3)
    (text,) = report["budget"]["unmet"]
    assert text.startswith("--max-drop 0 is not kept: the least drop found is ")
    assert report["weight_bits"] == 2


def test_few_samples_tell_little(small: Path) -> None:
    with np.load("evaluation.npz") as data:
        np.savez("five.npz", x=data["x"][:5], labels=data["labels"][:5])
    report = report_of("--max-drop", 0.001, "-e", "five.npz")
    assert report["metric"]["samples"] == 5
    assert report["metric"]["drop_error"] > 0.001
    check_search(report, 0.001)


def test_other_metrics(small: Path) -> None:
    report = report_of("--max-drop", 0.05, "--metric", "relative-error", "--pipeline", QUICK)
    assert report["metric"]["drop"] <= 0.05
    assert report["metric"]["drop_error"] is None
    report = report_of("--max-drop", 0.02, "--metric", "agreement", "--pipeline", QUICK)
    assert report["metric"]["drop_error"] > 0
    refused(
        "--max-drop",
        1,
        "--metric",
        "sqnr",
        says=["--max-drop cannot be held with the metric sqnr", "relative-error"],
    )


# -- data and metrics that do not fit ------------------------------------------------------------------------------


def test_a_drop_needs_something_to_measure_on(small: Path) -> None:
    refused(
        "--max-drop", 0.01, evaluation=False, says=["--max-drop needs evaluation data", "--evaluation NPZ"]
    )
    before = contents(small)
    done = run_cli(
        "compile", "model.onnx", "-t", NPU, "-e", "evaluation.npz", "-o", "out", "--weight-bits", 4
    )
    assert done.code == 1
    assert "--calibration" in done.err
    done = run_cli("compile", "model.onnx", "-t", NPU, "-o", "out", "--pareto")
    assert done.code == 1
    assert "--pareto needs data" in done.err
    assert contents(small) == before


def test_labels_of_the_wrong_kind(small: Path) -> None:
    with np.load("evaluation.npz") as data:
        x, labels = data["x"], data["labels"]
    for name, wrong in (("float", labels + 0.5), ("hot", np.eye(4)[labels]), ("text", labels.astype(str)), ("outside", labels + 4)):  # fmt: skip
        np.savez(f"{name}.npz", x=x, labels=wrong)
        refused("--max-drop", 0.01, "--metric", "top1", "-e", f"{name}.npz", says=["label"])


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("raise ValueError('no good')", ["ValueError", "no good"]),
        ("return float('nan')", ["NaN"]),
        ("return 1.0 if (outputs['h2'] == reference['h2']).all() else float('nan')", ["NaN"]),
        ("return -float('inf')", ["--max-drop cannot be held", "-inf"]),
    ],
)
@pytest.mark.parametrize("words", [["--max-drop", 0.1], ["--pareto"], ["--weight-bits", 4]])
def test_a_users_metric_that_fails(small: Path, body: str, says: list[str], words: list[object]) -> None:
    (small / "mine.py").write_text(f"def quality(outputs, labels, reference):\n    {body}\n")
    (small / "__pycache__").mkdir()
    if "inf" in body and "--max-drop" not in words:
        return
    refused("--metric", "mine.py:quality", *words, says=["mine.py:quality", *says])


# -- fronts --------------------------------------------------------------------------------------------------------


def check_front(report: Report, folder: Path) -> None:
    points = report["pareto"]
    assert points
    assert json.loads((folder / "pareto" / "front.json").read_text()) == {"points": points}
    files = sorted(path.name for path in (folder / "pareto").iterdir())
    assert files == sorted(["front.json", *(Path(point["plan"]).name for point in points)])
    assert [point["size_bytes"] for point in points] == sorted(point["size_bytes"] for point in points)
    keys = ("size_bytes", "latency_ms", "drop", "measured_error")
    numbers = [tuple(np.inf if point[key] is None else point[key] for key in keys) for point in points]
    for one in numbers:
        assert not any(
            other != one and all(a <= b for a, b in zip(other, one, strict=True)) for other in numbers
        )
    plans = [json.loads((folder / point["plan"]).read_text()) for point in points]
    rows = [tuple(region["row"] for region in plan["regions"]) for plan in plans]
    assert len(set(rows)) == len(rows), "a point is there twice"
    searched = [{key: trial[key] for key in keys} for trial in report["search"]]
    assert all({key: point[key] for key in keys} in searched for point in points)


def test_a_front(small: Path) -> None:
    report = report_of("--pareto", "--pipeline", QUICK)
    check_front(report, small / "out")
    assert 3 <= len(report["pareto"]) <= 9
    assert report["budget"] == {"asked": {}, "met": True, "unmet": []}
    (small / "out").rename(small / "front")
    for point in report["pareto"]:
        again = report_of("--plan", f"front/{point['plan']}", "--pipeline", QUICK)
        assert again["size_bytes"]["compiled"] == point["size_bytes"]
        assert again["sqnr_db"] == point["sqnr_db"]
        assert again["weight_bits"] == pytest.approx(point["weight_bits"])


def test_a_front_besides_a_search(small: Path) -> None:
    report = report_of("--pareto", "--max-drop", 0.02, "--pipeline", QUICK)
    check_front(report, small / "out")
    check_search(report, 0.02)
    assert json.loads((small / "out" / "manifest.json").read_text())["options"]["pareto"] is True


def test_a_front_without_labels(small: Path) -> None:
    report = report_of("--pareto", "--pipeline", QUICK, evaluation=False)
    check_front(report, small / "out")
    assert report["metric"]["name"] == "sqnr"


def test_a_front_and_a_plan_exclude_each_other(small: Path) -> None:
    report_of()
    (small / "out" / "plan.json").rename(small / "plan.json")
    refused("--pareto", "--plan", "plan.json", says=["--pareto", "--plan"])
    refused("--max-latency", 1, "--plan", "plan.json", says=["--max-latency", "--plan"])


# -- pipelines and plans -------------------------------------------------------------------------------------------


def test_pipelines_that_lack_something(small: Path) -> None:
    report = report_of(
        "--weight-bits", 4, "--pipeline", "canonicalize,fuse,calibrate,assign_precision,insert_qdq"
    )
    assert report["weight_bits"] <= 4
    assert "sensitivity" in [entry["name"].split("{")[0] for entry in report["passes"]]
    for words in (["--weight-bits", 4], ["--max-drop", 0.1], ["--pareto"]):
        refused(
            *words,
            "--pipeline",
            "calibrate,assign_precision,insert_qdq",
            says=["calibrate requires the fact 'regions'"],
        )
        refused(*words, "--pipeline", "canonicalize,fuse,calibrate", says=["assign_precision"])


def edited(small: Path, region: str, row: str) -> None:
    """plan.json of the uniform compilation with another row for a region."""
    if not (small / "uniform.json").exists():
        report_of()
        (small / "out" / "plan.json").rename(small / "uniform.json")
    plan = json.loads((small / "uniform.json").read_text())
    for entry in plan["regions"]:
        if entry["name"] == region:
            entry["row"] = row
    (small / "plan.json").write_text(json.dumps(plan))


def test_plans_edited_into_what_is_not_legal(small: Path) -> None:
    edited(small, "layer1", "w8a9")
    refused(
        "--plan", "plan.json", says=["'w8a9'", "layer1", "kernel linear does not have", "did you mean 'w8a"]
    )
    edited(small, "layer0", "w4a4")
    refused(
        "--plan", "plan.json", says=["'w4a4'", "layer0", "not legal there", "sensors deliver 8 bits or more"]
    )
    edited(small, "layer1", "w4a8")
    refused("--plan", "plan.json", says=["int8", "'w4a8'", "layer1", "int4"])
    edited(small, "layer1", "")
    refused("--plan", "plan.json", says=["layer1", "planned as float"])


# -- singular models -----------------------------------------------------------------------------------------------


def test_one_sample(small: Path) -> None:
    with np.load("calibration.npz") as data:
        np.savez("one.npz", x=data["x"][:1])
    report = report_of("--weight-bits", 4, "-c", "one.npz")
    assert report["weight_bits"] <= 4
    assert report["sensitivity"]["samples"] == 1
    assert np.isfinite(report["sqnr_db"])


def test_a_model_of_batch_1(small: Path) -> None:
    """A Reshape to [1, ...] fixes the batch."""
    model = classifier(np.random.default_rng(3), 1)
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, 8]), "shape"))
    model.graph.input[0].type.tensor_type.shape.dim.add().dim_value = 4
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 2
    model.graph.node[0].input[0] = "flat"
    model.graph.node.insert(0, helper.make_node("Reshape", ["x", "shape"], ["flat"], "flatten"))
    onnx.save(model, "model.onnx")
    with np.load("evaluation.npz") as data:
        np.savez("calibration.npz", x=data["x"][:20].reshape(-1, 2, 4))
        np.savez("evaluation.npz", x=data["x"].reshape(-1, 2, 4), labels=data["labels"])
    report = report_of("--weight-bits", 4)
    assert report["weight_bits"] <= 4
    assert report["size_bytes"]["compiled"] <= report["assignment"]["size_bytes"] + 1e-9
    check_search(report_of("--max-drop", 0.1), 0.1)


def test_dead_channels(small: Path) -> None:
    model = onnx.load("model.onnx")
    for item in model.graph.initializer:
        array = numpy_helper.to_array(item).copy()
        if item.name in ("w0", "b0"):
            array[..., :12] = -1.0 if item.name == "b0" else 0.0
        if item.name == "w1":
            array[:, :4] = 0.0
        item.CopyFrom(numpy_helper.from_array(array, item.name))
    onnx.save(model, "model.onnx")
    report = report_of("--weight-bits", 4)
    assert report["weight_bits"] <= 4
    assert np.isfinite(report["sqnr_db"])
    assert report["sqnr_db"] > 10


def test_a_model_without_weights(small: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Sin", ["x"], ["y"], "sin")],
        "sin",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 8])],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), "model.onnx"
    )
    report = report_of("--weight-bits", 4, evaluation=False)
    assert report["budget"]["met"]
    assert report["weight_bits"] == 0
    report = report_of("--pareto", evaluation=False)
    assert len(report["pareto"]) == 1


# -- memory --------------------------------------------------------------------------------------------------------


def test_one_graph_of_all_trials_is_kept(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While an assignment is measured there are: the source, what it starts from, its own graph and the best one;
    the latter two come with the graph that their plan speaks of.
    """
    alive: list[int] = []
    original = measurement.evaluate_models

    def counted(*arguments: Any, **keywords: Any) -> Any:
        gc.collect()
        alive.append(sum(isinstance(item, Graph) for item in gc.get_objects()) - before)
        return original(*arguments, **keywords)

    gc.collect()
    before = sum(isinstance(item, Graph) for item in gc.get_objects())
    monkeypatch.setattr(measurement, "evaluate_models", counted)
    qc.compile(
        "model.onnx",
        str(NPU),
        "calibration.npz",
        evaluation="evaluation.npz",
        pipeline=QUICK,
        max_drop=0.05,
    )
    assert len(alive) > 3
    assert max(alive[2:]) <= alive[1] <= alive[0] + 2


# -- the demo ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_demo_within_a_drop(tmp_path: Path) -> None:
    """With all passes."""
    given: dict[str, Any] = {
        "evaluation": demo.EVALUATION,
        "pass_options": {"round_weights": {"rows": "1024"}},
    }
    uniform = qc.compile(demo.MODEL, str(NPU), demo.CALIBRATION, **given)
    found = qc.compile(
        demo.MODEL, str(NPU), demo.CALIBRATION, output=tmp_path / "out", max_drop=0.01, **given
    )
    check_search(found.report, 0.01)
    assert found.within_budget
    assert found.report["size_bytes"]["compiled"] < 0.5 * uniform.report["size_bytes"]["compiled"]
    plan = tmp_path / "out" / "plan.json"
    again = qc.compile(demo.MODEL, str(NPU), demo.CALIBRATION, output=tmp_path / "again", plan=plan, **given)
    assert again.plan.to_json() == found.plan.to_json()
    for name in ("reference.onnx", "plan.json"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()
