"""Metrics: values against their definitions, streaming against whole, and metrics that do not fit."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcompiler.errors import DataError, OptionError
from qcompiler.evaluation import Evaluation, Measured
from qcompiler.metrics import METRICS, Metric, auto, evaluate, metric_named, sqnr_db, user_metric

RNG = np.random.default_rng(5)
LOGITS = RNG.normal(size=(40, 10)).astype(np.float32)
NOISY = LOGITS + RNG.normal(size=(40, 10)).astype(np.float32) * 0.2
LABELS = np.where(RNG.random(40) < 0.7, LOGITS.argmax(1), RNG.integers(0, 10, 40))


def value(name: str, output=NOISY, labels=LABELS, reference=LOGITS) -> float:
    return evaluate(METRICS[name], {"y": output}, labels, {"y": reference})


def test_against_definitions():
    assert value("top1") == np.mean(NOISY.argmax(1) == LABELS)
    assert value("top5") == np.mean(
        [label in row.argsort()[-5:] for label, row in zip(LABELS, NOISY, strict=True)]
    )
    assert value("agreement") == np.mean(NOISY.argmax(1) == LOGITS.argmax(1))
    difference = NOISY.astype(float) - LOGITS
    assert value("mse") == pytest.approx(np.mean(difference**2))
    assert value("mae") == pytest.approx(np.mean(abs(difference)))
    assert value("relative-error") == pytest.approx(abs(difference).sum() / abs(LOGITS).sum())
    assert value("sqnr") == pytest.approx(
        10 * math.log10((LOGITS**2).sum() / (difference**2).sum()), rel=1e-5
    )
    assert value("sqnr") == sqnr_db(LOGITS, NOISY)
    p, q = (np.exp(a.astype(float)) / np.exp(a.astype(float)).sum(1, keepdims=True) for a in (LOGITS, NOISY))
    expected = (p * np.log(p / q)).sum(1).mean()
    assert value("kl") == pytest.approx(expected)
    assert value("kl", q, LABELS, p) == pytest.approx(expected)
    cosine = (LOGITS * NOISY).sum() / np.linalg.norm(LOGITS) / np.linalg.norm(NOISY)
    assert value("cosine") == pytest.approx(cosine, rel=1e-6)


@pytest.mark.parametrize("name", METRICS)
def test_identical_outputs_are_best(name):
    best = {"sqnr": math.inf, "mse": 0, "mae": 0, "relative-error": 0, "kl": 0}.get(name, 1)
    assert value(name, LOGITS, LOGITS.argmax(1)) == pytest.approx(best, abs=1e-12)


@pytest.mark.parametrize("name", METRICS)
@given(cut=st.integers(1, 39))
def test_batches_give_what_the_whole_gives(name, cut):
    accumulator = METRICS[name].accumulator()
    for part in (slice(0, cut), slice(cut, 40)):
        accumulator.update({"y": NOISY[part]}, LABELS[part], {"y": LOGITS[part]})
    assert accumulator.result() == pytest.approx(value(name), rel=1e-9)


def test_degenerate_signals():
    zero, one = np.zeros(4, np.float32), np.ones(4, np.float32)
    assert sqnr_db(zero, zero) == math.inf
    assert sqnr_db(zero, one) == -math.inf
    assert sqnr_db(one, one * np.nan) == -math.inf
    assert sqnr_db(one * np.float32(1e-30), one * np.float32(1.1e-30)) == pytest.approx(20, abs=0.01)
    assert value("cosine", zero[None], None, zero[None]) == 1
    assert value("cosine", one[None], None, zero[None]) == 0
    assert value("relative-error", one[None], None, zero[None]) == math.inf
    assert value("mse", one[None] * np.nan, None, one[None]) == math.inf


def test_ties_and_nan():
    tied = np.array([[1, 1, 0], [0, 2, 2], [np.nan, 0, 1]], np.float32)
    assert value("top1", tied, np.array([0, 1, 2])) == pytest.approx(2 / 3)
    assert value("top1", tied, np.array([1, 2, 0])) == 0


def test_the_worst_of_several_outputs_counts():
    reference = {"a": LOGITS, "b": LOGITS}
    outputs = {"a": LOGITS, "b": NOISY}
    assert evaluate(METRICS["sqnr"], outputs, None, reference) == sqnr_db(LOGITS, NOISY)


@pytest.mark.parametrize(
    ("name", "output", "labels", "words"),
    [
        ("top1", NOISY, None, "needs labels"),
        ("top5", NOISY, LABELS.astype(np.float32), "class index"),
        ("top1", NOISY, np.eye(40, 10, dtype=int), "class index"),
        ("top1", NOISY, LABELS[:39], "39 labels for 40"),
        ("top1", NOISY, LABELS + 1000, "label 10.*0 to 9"),
        ("top1", NOISY, LABELS - 100, "label -"),
        ("top1", NOISY[:, :1], LABELS, "scores per class"),
        ("top1", NOISY.reshape(40, 2, 5), LABELS, "scores per class"),
        ("agreement", NOISY[:, :5], LABELS, "fp32 model"),
        ("mse", NOISY[:, :5], LABELS, "fp32 model"),
        ("top1", NOISY[:0], LABELS[:0], r"no samples|scores per class"),
        ("mse", NOISY[:0], None, r"no samples|shape"),
    ],
)
def test_metric_that_does_not_fit(name, output, labels, words):
    with pytest.raises(DataError, match=words):
        value(name, output, labels)


def test_scores_with_trailing_axes():
    assert value("top1", NOISY[:, :, None, None]) == value("top1")


def test_auto():
    assert auto({"y": NOISY}, LABELS).name == "top1"
    assert auto({"y": NOISY}, None).name == "sqnr"
    assert auto({"y": NOISY}, LABELS.astype(np.float32)).name == "sqnr"
    assert auto({"y": NOISY[:, :1]}, LABELS).name == "sqnr"
    assert auto({"y": np.zeros((4, 3, 8, 8))}, LABELS).name == "sqnr"
    assert metric_named("auto") is None


def test_direction():
    assert METRICS["top1"].drop(0.9, 0.8) == pytest.approx(0.1)
    assert METRICS["mse"].drop(0.1, 0.3) == pytest.approx(0.2)
    assert METRICS["sqnr"].drop(math.inf, math.inf) == 0
    assert METRICS["top1"].drop(0.8, 0.9) < 0


def measured(outcomes) -> Measured:
    share = float(np.mean(outcomes)) if outcomes is not None and len(outcomes) else 0.0
    return Measured(share, 30.0, 0.0, 0.0, outcomes)


def evaluation(before, after, metric="top1") -> Evaluation:
    count = len(before) if before is not None else 0
    return Evaluation(METRICS[metric], count, {"float": measured(before), "reference": measured(after)})


@pytest.mark.parametrize("name", METRICS)
def test_metrics_that_are_a_share_know_which_samples_count(name):
    accumulator = METRICS[name].accumulator()
    for part in (slice(0, 15), slice(15, 40)):
        accumulator.update({"y": NOISY[part]}, LABELS[part], {"y": LOGITS[part]})
    if name not in ("top1", "top5", "agreement"):
        assert accumulator.outcomes is None
        return
    outcomes = np.concatenate(accumulator.outcomes)
    assert outcomes.dtype == bool
    assert len(outcomes) == 40
    assert outcomes.mean() == accumulator.result()
    best = LOGITS.argmax(1) if name == "agreement" else LABELS
    k = 5 if name == "top5" else 1
    assert outcomes.tolist() == [label in row.argsort()[-k:] for label, row in zip(best, NOISY, strict=True)]


def test_the_error_of_a_drop_is_that_of_paired_samples():
    """1.96 standard deviations of the mean difference, one disagreement each way added."""
    before, after = np.ones(100, bool), np.ones(100, bool)
    before[:3], after[10:20] = False, False
    found = evaluation(before, after)
    assert found.drop("reference") == pytest.approx(0.07)
    differences = np.concatenate([-np.ones(4), np.ones(11), np.zeros(85)])
    assert found.drop_error("reference") == pytest.approx(1.96 * differences.std() / 10)
    assert found.drop_error("float") == pytest.approx(1.96 * math.sqrt(2) / 100)


def test_the_error_of_a_drop_covers_it():
    """Of many drawings of samples, 95 of 100 have the true drop within the error; few samples err on the safe side."""
    rng = np.random.default_rng(1)
    for count, lost, won, low in ((2000, 0.03, 0.01, 0.93), (400, 0.02, 0.02, 0.93), (40, 0.02, 0.0, 0.98)):
        hits = 0
        for _ in range(400):
            kind = rng.choice(3, count, p=[1 - lost - won, lost, won])
            found = evaluation(kind != 2, kind != 1)
            hits += abs(found.drop("reference") - (lost - won)) <= found.drop_error("reference")
        assert low <= hits / 400
        assert hits / 400 <= 1.0


def test_few_samples_prove_little():
    errors = [
        evaluation(np.ones(count, bool), np.ones(count, bool)).drop_error("reference")
        for count in (1, 5, 400, 40000)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[1] > 0.5
    assert errors[3] < 1e-4
    assert evaluation(np.ones(1, bool), np.zeros(1, bool)).drop_error("reference") > 1


def test_other_metrics_have_no_such_error():
    assert evaluation(None, None, "sqnr").drop_error("reference") is None
    assert evaluation(np.ones(4, bool), None).drop_error("reference") is None
    assert evaluation(np.ones(0, bool), np.ones(0, bool)).drop_error("reference") is None
    accumulator = user_metric(lambda outputs, labels, reference: 0.5).accumulator()
    assert accumulator.outcomes is None


def test_names():
    assert metric_named("top1") is metric_named("top-1") is METRICS["top1"]
    assert metric_named(METRICS["kl"]) is METRICS["kl"]
    with pytest.raises(OptionError, match="did you mean 'cosine'"):
        metric_named("cosin")


MODULE = """
def error(outputs, labels, reference):
    return abs(outputs["y"] - reference["y"]).max() + (0 if labels is None else len(labels))
error.higher_is_better = False
def broken(outputs, labels, reference):
    return outputs["z"]
def nothing(outputs, labels, reference):
    return float("nan")
"""


def test_user_functions(tmp_path, monkeypatch):
    path = tmp_path / "mine_metrics.py"
    path.write_text(MODULE)
    metric = metric_named(f"{path}:error")
    assert isinstance(metric, Metric)
    assert not metric.higher_is_better
    assert evaluate(metric, {"y": NOISY}, LABELS, {"y": LOGITS}) == pytest.approx(
        abs(NOISY - LOGITS).max() + 40
    )
    accumulator = metric.accumulator()
    accumulator.update({"y": NOISY[:5]}, None, {"y": LOGITS[:5]})
    accumulator.update({"y": NOISY[5:]}, None, {"y": LOGITS[5:]})
    assert accumulator.result() == pytest.approx(abs(NOISY - LOGITS).max())
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    assert metric_named("mine_metrics:error").name == "mine_metrics:error"
    with pytest.raises(DataError, match="KeyError: 'z'"):
        evaluate(metric_named(f"{path}:broken"), {"y": NOISY}, LABELS, {"y": LOGITS})
    with pytest.raises(DataError, match="returned NaN"):
        evaluate(metric_named(f"{path}:nothing"), {"y": NOISY}, LABELS, {"y": LOGITS})
    with pytest.raises(OptionError, match="did you mean 'error'"):
        metric_named(f"{path}:eror")
    with pytest.raises(OptionError, match="no file"):
        metric_named(f"{tmp_path}/absent.py:error")
    with pytest.raises(OptionError, match="ModuleNotFoundError"):
        metric_named("no_such_module_here:error")
    assert evaluate(user_metric(lambda o, a, r: 3), {"y": NOISY}, None, {}) == 3
