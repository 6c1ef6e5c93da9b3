"""The generated C is what is measured, in one pass over the samples, beside the executor that it is held to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import qcompiler as qc
from qcompiler.demo import CALIBRATION, EVALUATION, MODEL
from qcompiler.errors import TargetError
from qcompiler.integer.evaluate import Executor
from qcompiler.targets.cmsis_nn import emulator, host

QUICK = {"round_weights": {"rows": "64"}}

pytestmark = pytest.mark.skipif(host.compiler() is None, reason="there is no C compiler")
Codes = Mapping[str, NDArray[Any]]


@pytest.fixture(autouse=True)
def no_emulator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emulator, "missing_tools", lambda: ["qemu"])
    monkeypatch.delenv("CMSIS_NN_PATH", raising=False)


def compiled(folder: Path, **options: Any) -> qc.Result:
    return qc.compile(
        MODEL, "cmsis-nn", CALIBRATION, evaluation=EVALUATION, output=folder, pass_options=QUICK, **options
    )


def figures(result: qc.Result) -> Any:
    return result.report["metric"]["against_float"]["artifact"]


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many samples every run of the executor is given."""
    counts: list[int] = []
    original = Executor.run

    def run(self: Executor, inputs: Codes, keep: Any = ()) -> Any:
        counts.append(len(next(iter(inputs.values()))))
        return original(self, inputs, keep)

    monkeypatch.setattr(Executor, "run", run)
    return counts


def test_every_sample_is_executed_once(counted: list[int], tmp_path: Path) -> None:
    result = compiled(tmp_path / "out")
    samples = result.report["metric"]["samples"]
    details = result.report["verify"]["details"]
    assert details["host, portable kernels"] == {"samples": samples, "differences": 0}
    vectors, *batches = counted  # those that are written into the project
    assert vectors <= 4
    assert sum(batches) == samples
    assert result.report["verify"]["passed"]


def test_the_figures_are_those_of_the_c(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    right = compiled(tmp_path / "right")
    original = host.run_all

    def one_off(*arguments: Any) -> dict[str, NDArray[Any]]:
        made = original(*arguments)
        return {
            name: np.where(codes < 127, codes + 1, codes).astype(codes.dtype) for name, codes in made.items()
        }

    monkeypatch.setattr(host, "run_all", one_off)
    wrong = compiled(tmp_path / "wrong")
    assert right.verification is not None
    assert right.verification.max_abs_diff == 0
    assert wrong.verification is not None
    assert not wrong.verification.passed
    assert wrong.verification.max_abs_diff == 1
    assert "differ from the integer executor on" in wrong.verification.problems[0]
    assert figures(wrong)["mean_abs_diff"] > figures(right)["mean_abs_diff"]
    assert wrong.report["metric"]["reference"] == right.report["metric"]["reference"]


def test_a_step_that_refuses_is_a_problem_and_the_executor_is_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    right = compiled(tmp_path / "right")

    def refuse(*arguments: Any) -> Any:
        raise TargetError("Step 3 of the generated project refuses its arguments.")

    monkeypatch.setattr(host, "run_all", refuse)
    refused = compiled(tmp_path / "refused")
    assert refused.verification is not None
    assert refused.verification.problems == ("Step 3 of the generated project refuses its arguments.",)
    assert not refused.verification.ran
    assert figures(refused) == figures(right)


def test_without_a_compiler_the_executor_is_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    right = compiled(tmp_path / "right")
    monkeypatch.setattr(host, "compiler", lambda: None)
    alone = compiled(tmp_path / "alone")
    assert alone.verification is not None
    assert not alone.verification.ran
    assert figures(alone) == figures(right)


def test_without_data_random_codes_are_compared(tmp_path: Path) -> None:
    plan = compiled(tmp_path / "first").plan
    (tmp_path / "plan.json").write_text(plan.to_json())
    result = qc.compile(MODEL, "cmsis-nn", output=tmp_path / "out", plan=tmp_path / "plan.json")
    assert result.verification is not None
    assert result.verification.passed
    assert result.verification.details["host, portable kernels"] == {"samples": 16, "differences": 0}


def test_after_a_search_the_samples_run_through_the_c_too(counted: list[int], tmp_path: Path) -> None:
    """What was measured already is not measured again."""
    result = compiled(tmp_path / "out", max_drop=0.5)
    samples = result.report["metric"]["samples"]
    assert result.report["verify"]["details"]["host, portable kernels"]["samples"] == samples
    trials = len(result.report["search"])
    assert sum(counted) <= (trials + 1) * samples + 4
