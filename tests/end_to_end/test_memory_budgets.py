"""Memory as a budget of the assignment: 16 bits where there is room for them, and where the drop asks for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from cli_runs import run_cli
from onnx import TensorProto, helper, numpy_helper

from qcompiler.targets.cmsis_nn import emulator, host

Report = dict[str, Any]
PREFER = ["--option", "assign_precision.prefer=a16w8+a16"]


@pytest.fixture(autouse=True)
def quick(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes out is in the report; nothing is built."""
    monkeypatch.setenv("QCOMPILER_CACHE", str(tmp_path_factory.getbasetemp() / "memory"))
    monkeypatch.setattr(host, "compiler", lambda: None)
    monkeypatch.setattr(emulator, "missing_tools", lambda: ["arm-none-eabi-gcc"])
    monkeypatch.delenv("CMSIS_NN_PATH", raising=False)


@pytest.fixture
def images(folder: Path) -> Path:
    """model.onnx, three convolutions of growing width, with calibration.npz and evaluation.npz."""
    rng = np.random.default_rng(5)
    nodes, constants, name = [], [], "x"
    for number, (inputs, outputs) in enumerate(((2, 6), (6, 8), (8, 4))):
        weight = rng.standard_normal((outputs, inputs, 3, 3)) / (3 * inputs**0.5)
        constants.append(numpy_helper.from_array(weight.astype(np.float32), f"w{number}"))
        nodes.append(
            helper.make_node("Conv", [name, f"w{number}"], [f"c{number}"], f"conv{number}", pads=[1, 1, 1, 1])
        )
        nodes.append(helper.make_node("Relu", [f"c{number}"], [f"r{number}"], f"relu{number}"))
        name = f"r{number}"
    nodes.append(helper.make_node("GlobalAveragePool", [name], ["y"], "mean"))
    graph = helper.make_graph(
        nodes,
        "images",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2, 10, 10])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4, 1, 1])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, "model.onnx")
    x = rng.standard_normal((96, 2, 10, 10)).astype(np.float32)
    np.savez("calibration.npz", x=x[:32])
    np.savez("evaluation.npz", x=x[32:])
    return folder


def report_of(*words: object, code: int = 0) -> Report:
    data = ["-c", "calibration.npz", "-e", "evaluation.npz", "--metric", "relative-error"]
    done = run_cli("compile", "model.onnx", "-t", "cmsis-nn:cortex-m4", *data, "-o", "out", "--force", *words)
    assert done.code == code, done.err
    found: Report = json.loads(Path("out/report.json").read_text())
    return found


def arena(report: Report) -> int:
    return int(report["artifact"]["details"]["arena"]["bytes"])


def widths(report: Report) -> set[str]:
    return {node["row"][:3] for node in report["nodes"] if node["row"]}


@pytest.mark.usefixtures("images")
def test_a_drop_that_takes_16_bits_has_them_where_there_is_room() -> None:
    plain = report_of()
    assert "a16" not in widths(plain)
    allowed = plain["metric"]["drop"] / 2

    found = report_of("--max-drop", allowed)
    assert found["budget"]["met"]
    assert "a16" in widths(found)
    assert arena(found) > arena(plain)
    assert found["metric"]["artifact"] - found["metric"]["float"] <= allowed
    plan = Path("out/plan.json").read_bytes()

    roomy = report_of("--max-drop", allowed, "--max-ram", arena(found))
    assert roomy["budget"]["met"]
    assert Path("out/plan.json").read_bytes() == plan

    tight = report_of("--max-drop", allowed, "--max-ram", arena(plain), code=3)
    assert arena(tight) <= arena(plain)
    (unmet,) = tight["budget"]["unmet"]
    assert unmet.startswith(f"--max-drop {allowed:g} is not kept: the least drop found is ")
    assert "For want of memory up to " in unmet
    assert all(trial["drop"] > allowed for trial in tight["search"])


@pytest.mark.usefixtures("images")
def test_a_preference_gives_way_to_memory() -> None:
    plain, wide = report_of(), report_of(*PREFER)
    assert widths(wide) == {"a16"}
    assert arena(wide) > arena(plain)
    for limit in (arena(plain), (arena(plain) + arena(wide)) // 2, arena(wide)):
        report = report_of(*PREFER, "--max-ram", limit)
        assert arena(report) <= limit
        assert ("a8w" in widths(report)) == (limit < arena(wide))
    assert widths(report) == {"a16"}


@pytest.mark.usefixtures("images")
def test_the_least_memory_that_is_told_can_be_asked_for() -> None:
    report = report_of(*PREFER, "--max-ram", 64, code=3)
    assert "a16" not in widths(report)
    (unmet,) = report["budget"]["unmet"]
    assert unmet.startswith(f"--max-ram allows 64 bytes, and the arena takes {arena(report):,} (")
    assert "Most is alive during conv" in unmet
    again = report_of(*PREFER, "--max-ram", arena(report))
    assert again["budget"]["met"]
    assert arena(again) == arena(report)


@pytest.mark.usefixtures("images")
def test_explain_says_why_a_row_was_not_taken() -> None:
    plain = report_of()
    report_of(*PREFER, "--max-ram", arena(plain))
    told = run_cli("explain", "out", "conv1")
    assert told.code == 0
    assert "memory is short where what it reads or writes is alive" in " ".join(told.out.split())
