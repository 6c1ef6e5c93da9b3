from __future__ import annotations

import copy
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from report.test_html import Page
from report.test_terminal import flat, shown

import qcompiler as qc
from qcompiler import demo
from qcompiler.artifact import plain
from qcompiler.report import choice, plots, terminal, words
from qcompiler.report.html import render_html

NPU = Path(__file__).parents[2] / "docs" / "examples" / "npu.toml"


@pytest.fixture(scope="session")
def npu_report() -> dict[str, Any]:
    """The demo within four bits per weight, as report.json would have it."""
    result = qc.compile(
        str(demo.MODEL), str(NPU), str(demo.CALIBRATION), evaluation=str(demo.EVALUATION), weight_bits=4
    )
    table: dict[str, Any] = json.loads(json.dumps(plain(result.report)))
    return table


@pytest.fixture
def weighed(npu_report: dict[str, Any]) -> dict[str, Any]:
    """A copy that may be changed."""
    return copy.deepcopy(npu_report)


@pytest.fixture
def searched(weighed: dict[str, Any]) -> dict[str, Any]:
    """The same as if it had been found by a search, with a front."""
    chosen = {
        "loss_limit": 0.1, "predicted_loss": weighed["assignment"]["loss"], "measured_error": 0.001, "sqnr_db": 30.0, "metric": 0.95,
        "drop": 0.0025, "weight_bits": weighed["assignment"]["weight_bits"], "size_bytes": 20_000, "latency_ms": 0.012,
    }  # fmt: skip
    failed = chosen | {"loss_limit": 0.5, "predicted_loss": 0.4, "drop": 0.02, "weight_bits": 3.0, "size_bytes": 15_000, "sqnr_db": 20.0}  # fmt: skip
    better = chosen | {"loss_limit": None, "predicted_loss": 0.01, "drop": -0.0025, "weight_bits": 8.0, "size_bytes": 40_000, "sqnr_db": None}  # fmt: skip
    weighed["budget"] = {"asked": {"max_drop": 0.005}, "met": True, "unmet": []}
    weighed["search"] = [failed, chosen, better]
    weighed["pareto"] = [{"plan": "pareto/01.json", **chosen}, {"plan": "pareto/02.json", **better}]
    return weighed


# -- report.json -------------------------------------------------------------------------------------------


def test_nodes_say_what_other_rows_would_have_cost(npu_report: dict[str, Any]) -> None:
    regions = npu_report["assignment"]["regions"]
    for node in npu_report["nodes"]:
        told, region = node["sensitivity"], regions.get(node["region"])
        if region is None:
            assert told is None
            continue
        considered = {item["row"]: item for item in region["considered"]}
        assert told["loss"] == pytest.approx(considered[region["row"]]["own_loss"], rel=1e-5)
        assert [item["row"] for item in told["alternatives"]] == [row for row in considered if row != region["row"]]  # fmt: skip
        for item in told["alternatives"]:
            raw = considered[item["row"]]
            assert item["loss"] == pytest.approx(raw["own_loss"], rel=1e-5)
            assert item["change"]["loss"] == pytest.approx(raw["loss"], rel=1e-5)
            assert item["change"]["size_bytes"] == pytest.approx(raw["size"] / 8, rel=1e-5)
            assert item["change"]["latency_ms"] == pytest.approx(raw["latency"] * 1e3, rel=1e-5)
            assert item["breaks"] == raw["breaks"]
    assert any(node["sensitivity"] for node in npu_report["nodes"])


def test_without_a_budget_nothing_was_weighed(bare_report: dict[str, Any]) -> None:
    assert {node["sensitivity"] is None for node in bare_report["nodes"]} == {True}


# -- words -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "limit", "unit", "expected"),
    [
        ("max_drop", 0.005, "fraction", "a drop of at most 0.5 points"),
        ("max_drop", 0.5, "dB", "a drop of at most 0.5 dB"),
        ("weight_bits", 4.5, "", "at most 4.5 bits per weight"),
        ("max_size", 1000, "", "at most 1,000 bytes of weights and tables"),
        ("max_size", 20480, "", "at most 20 KiB (20,480 bytes) of weights and tables"),
        ("max_latency", 0.025, "", "at most 0.025 ms by the target's cost model"),
    ],
)
def test_limits_in_units_that_people_read(name: str, limit: float, unit: str, expected: str) -> None:
    assert words.limit_text(name, limit, unit) == expected


def test_unmet_limits_are_told_in_full(weighed: dict[str, Any]) -> None:
    paragraph = "--max-size 1000 cannot be met: the least is 10268 bytes <b>."
    weighed["budget"] = {"asked": {"max_size": 1000}, "met": False, "unmet": [paragraph]}
    verdict = words.verdict(weighed)
    assert (verdict.text, verdict.detail) == ("Compiled, but a stated budget is not met", "")
    assert paragraph in flat(terminal.summary(weighed), 200)
    assert paragraph in Page(render_html(weighed)).text


def test_accuracy_says_how_sure_it_is(weighed: dict[str, Any]) -> None:
    weighed["metric"] |= {"drop": 0.0025, "drop_error": 0.007, "unit": "fraction", "samples": 400}

    def accuracy() -> words.Fact:
        return next(fact for fact in words.facts(weighed) if fact.label == "Accuracy")

    assert "0.25 points worse, ± 0.7 at 95 % (net 1 sample)" in accuracy().detail
    assert accuracy().level == "plain"
    weighed["budget"]["asked"] = {"max_drop": 0.005}
    assert accuracy().level == "caution"
    assert "do not tell 0.5 points from none" in accuracy().detail
    weighed["budget"]["asked"] = {"max_drop": 0.01}
    assert accuracy().level == "plain"
    weighed["metric"] |= {"drop_error": None}
    assert "±" not in accuracy().detail


def test_the_choice_of_the_whole(weighed: dict[str, Any]) -> None:
    assert choice.goal_text(weighed) == "the least predicted loss, proven best"
    assert "(--weight-bits 4)" in choice.limit_texts(weighed)["size"]
    assert "no slower than one precision everywhere" in choice.limit_texts(weighed)["latency"]
    slower = {**weighed, "assignment": {**weighed["assignment"], "slower": True}}
    assert "as fast as that loss allows" in choice.limit_texts(slower)["latency"]
    assert "size" in choice.binding_text(weighed)
    weighed["assignment"] |= {"optimal": False, "bound": 0.9 * weighed["assignment"]["loss"]}
    assert re.search(r"not proven best: no choice is below [\d.e-]+, a gap of 10 %", choice.goal_text(weighed))  # fmt: skip
    weighed["assignment"] |= {"unmet": "cannot", "missed": "size"}
    assert "comes nearest" in choice.goal_text(weighed)


def test_what_decided_for_a_region(weighed: dict[str, Any]) -> None:
    assignment = weighed["assignment"]
    assignment |= {
        "minimise": "size",
        "sized": "constants",
        "size_bytes": 1000,
        "limits": {"loss": 0.1},
        "loss": 0.09,
    }
    row = {"own_loss": 0.0, "loss": 0.0, "size": 0.0, "latency": 0.0, "breaks": []}
    mine, less = row | {"row": "w4"}, row | {"row": "w2", "size": -800.0, "loss": 0.05, "breaks": ["loss"]}
    told = choice.decided_text(weighed, {"row": "w4", "considered": [mine, less]})
    assert (
        told
        == "the limit on loss decided: w2 would take 100 bytes less, but mean a loss of 0.14 (at most 0.1)"
    )
    told = choice.decided_text(weighed, {"row": "w4", "considered": [mine, row | {"row": "w8", "size": 800.0}]})  # fmt: skip
    assert told == "by the size of all weights alone: no other row here has less"


def test_losses_know_their_readers_and_what_was_chosen(weighed: dict[str, Any]) -> None:
    values = choice.value_losses(weighed)
    assert [item.value for item in values] == list(dict.fromkeys(item["value"] for item in weighed["sensitivity"]["losses"]))  # fmt: skip
    weights = {item.readers[0]: item for item in values if item.constant}
    assert len(weights) == weighed["quantized"]["all_weighted_nodes"]
    for node in weighed["nodes"]:
        if node["kind"] == "weighted" and node["quantized"]:
            chosen = [tried.encoding for tried in weights[node["name"]].tried if tried.chosen]
            assert [text.split()[0] for text in chosen] == [node["weight"].split()[0]]
    assert all(any(tried.chosen for tried in item.tried) for item in values if item.readers)


def test_losses_look_through_what_only_rearranges() -> None:
    def node(name: str, kind: str, reads: str, encoding: str, writes: str) -> dict[str, Any]:
        entry = {"slot": 0, "value": reads, "encoding": encoding, "constant": False}
        return {"name": name, "kind": kind, "outputs": [writes], "encodings": [entry]}

    losses = [
        {"value": "x", "encoding": f"{name} affine per-tensor", "axis": None, "loss": loss, "error": 0.0, "measured": True}
        for name, loss in (("uint8", 1e-3), ("uint16", None), ("uint4", math.inf))
    ]  # fmt: skip
    nodes = [
        node("turn", "movement", "x", "uint8 per-tensor scale 1", "y"),
        node("conv", "weighted", "y", "uint16 per-tensor scale 0.1", "z"),
    ]
    (item,) = choice.value_losses({"nodes": nodes, "sensitivity": {"losses": losses}})
    assert (item.readers, item.constant) == (("conv",), False)
    assert [(tried.loss, tried.chosen) for tried in item.tried] == [(1e-3, False), (None, True), (None, False)]  # fmt: skip


def test_limits_that_nobody_stated_say_where_they_come_from(searched: dict[str, Any]) -> None:
    searched["assignment"]["limits"] = {"loss": 0.02, "size": 8000.0, "latency": 1e-5}
    assert choice.limit_texts(searched) == {
        "loss": "a predicted loss of 0.02 (found by measuring, for --max-drop 0.005)",
        "size": "1,000 bytes of weights (a step of the search)",
        "latency": "a latency of 10.00 us (no slower than one precision everywhere)",
    }


# -- the terminal ------------------------------------------------------------------------------------------


def test_explanation_of_a_choice(weighed: dict[str, Any]) -> None:
    node = next(node for node in weighed["nodes"] if node["kind"] == "weighted" and node["sensitivity"])
    text = shown(terminal.explanation(weighed, node["name"]), 100)
    assert "the least predicted loss, proven best" in text
    assert "Decided" in text
    rows = [line for line in text.splitlines() if re.search(r"\bw\da\d", line)]
    for item in node["sensitivity"]["alternatives"]:
        line = next(line for line in rows if re.search(rf" {item['row']} ", line) and "+" in line)
        assert f"{item['loss']:.2e}" in line
        assert all(name in line for name in item["breaks"])
    assert sum("▸" in line for line in rows) == 1
    assert len({line.rstrip().index("e-") for line in rows if re.search(r"e-\d\d", line)}) == 1, "columns are aligned"  # fmt: skip
    assert "± standard error" in text
    assert "measured" in text
    shown(terminal.explanation(weighed, node["name"]), 80)


def test_explanation_tells_inferences_from_measurements(weighed: dict[str, Any]) -> None:
    item = next(item for item in choice.value_losses(weighed) if item.readers)
    for entry in weighed["sensitivity"]["losses"]:
        entry["measured"] = entry["value"] != item.value
    assert "inferred from the others" in flat(terminal.explanation(weighed, item.readers[0]), 120)


def test_summary_shows_steps_and_front(searched: dict[str, Any]) -> None:
    text = shown(terminal.summary(searched))
    assert "loss ≤ 0.5" in text
    assert "pareto/02.json" in text
    assert "0.25 points" in text
    assert "∞ dB" in text
    marked = [line for line in text.splitlines() if "▸" in line]
    assert ["loss ≤ 0.1" in line or "pareto/01.json" in line for line in marked] == [True, True]
    searched["pareto"] *= 10
    assert "and 8 more" in flat(terminal.summary(searched))


def test_summary_without_a_search(weighed: dict[str, Any]) -> None:
    text = flat(terminal.summary(weighed))
    assert "proven best" in text
    assert "pareto" not in text


# -- the page ----------------------------------------------------------------------------------------------


def test_page_shows_losses_and_search(searched: dict[str, Any]) -> None:
    text = render_html(searched)
    page = Page(text)
    assert {"sensitivity", "search"} <= set(page.ids())
    labels = [dict(given).get("aria-label") for tag, given in page.tags if tag == "svg"]
    for expected in ("Loss of weights by format", "Parameters by format", "output SQNR, dB against weights and tables, KiB"):  # fmt: skip
        assert expected in labels
    assert "--plan pareto/01.json" in page.text
    assert "compiled here" in page.text
    assert text.count('class="ring"') == 2
    for item in choice.value_losses(searched):
        assert item.value in page.text
    ids = page.ids()
    assert all((given["href"] or "#")[1:] in ids for tag, given in page.tags if tag == "a")
    assert "http" not in text
    assert render_html(searched) == text


def test_page_leaves_out_what_there_is_not(bare_report: dict[str, Any], weighed: dict[str, Any]) -> None:
    assert not {"sensitivity", "search"} & set(Page(render_html(bare_report)).ids())
    assert "search" not in Page(render_html(weighed)).ids()
    without = weighed | {"assignment": None}
    assert "Weights" in Page(render_html(without)).text
    assert "sensitivity" in Page(render_html(without)).ids()


def test_hostile_names_are_text(searched: dict[str, Any]) -> None:
    nasty = "<script>alert(1)</script>[bold]\x1b[31m"
    name = searched["nodes"][0]["region"]
    table = json.loads(json.dumps(searched).replace(json.dumps(name)[1:-1], json.dumps(nasty)[1:-1]))
    table["assignment"]["unmet"] = nasty
    table["pareto"][0]["plan"] = nasty
    for item in table["sensitivity"]["losses"]:
        item["value"] += nasty
    for node in table["nodes"]:
        for entry in node["encodings"]:
            entry["value"] += nasty
    text = render_html(table)
    assert [tag for tag, _ in Page(text).tags].count("script") == 1
    assert "alert" not in text.split("<script>")[1]
    assert "\x1b" not in text
    shown(terminal.summary(table), 900)
    shown(terminal.explanation(table, table["nodes"][0]["name"]), 900)


def test_page_of_many_layers_stays_small(searched: dict[str, Any]) -> None:
    base = len(render_html(searched))
    losses = searched["sensitivity"]["losses"]
    searched["sensitivity"]["losses"] = [
        {**item, "value": f"backbone/stage{at}/{item['value']}"} for at in range(40) for item in losses
    ]
    values = len({item["value"] for item in searched["sensitivity"]["losses"]})
    assert values > 500
    assert len(render_html(searched)) - base < 700 * values


# -- plots -------------------------------------------------------------------------------------------------


def test_losses_lie_on_a_logarithmic_axis() -> None:
    marks = [plots.Mark("i8", number, 0.0, False, False) for number in (1e-4, 1e-2, 1.0, 0.0, None, 1e-30)]
    text = plots.log_lines([plots.Line("a", "t", None, marks)], "loss", "Losses")
    places = [float(x) for x in re.findall(r"M([\d.]+) [\d.]+h0", text)][:6]
    small, middle, large, nothing, infinite, tiny = places
    assert middle - small == pytest.approx(large - middle, abs=0.2)
    assert nothing == tiny < small
    assert infinite > large


def test_losses_that_are_all_nothing_have_an_axis() -> None:
    text = plots.log_lines([plots.Line("a", "t", None, [plots.Mark("i8", 0.0, 0.0, True, False)])], "loss", "Losses")  # fmt: skip
    assert "nan" not in text
    assert plots.log_lines([plots.Line("a", "t", None, [plots.Mark("i8", None, 0.0, True, False)])], "loss", "Losses")  # fmt: skip


def test_steps_join_what_no_other_beats() -> None:
    points = [plots.Point(x, y, f"{x}") for x, y in ((1, 8), (2, 9), (3, 2), (4, 2), (5, 0))]
    text = plots.scatter(points, "size", "drop", up=False)
    (path,) = re.findall(r'<path d="([^"]+)" class="step">', text)
    assert path.count("H") == 2
    text = plots.scatter(points, "size", "quality", up=True)
    (path,) = re.findall(r'<path d="([^"]+)" class="step">', text)
    assert path.count("H") == 1


def test_axes_have_round_numbers() -> None:
    text = plots.scatter([plots.Point(0.0, 0.0, ""), plots.Point(10.0, 1.0, "")], "x", "y", up=True)
    numbers = re.findall(r">(-?[\d.]+)</text>", text)
    assert {"0", "2", "10", "0.0", "0.4", "1.0"} <= set(numbers)
    assert plots.scatter([plots.Point(3.0, 0.0, "")], "x", "y", up=True)
