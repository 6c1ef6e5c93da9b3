"""Where operators run: the summary, the page, explanations, and a file of a target's kind."""

from __future__ import annotations

import re
from typing import Any

import pytest
from report.test_html import Page
from report.test_terminal import flat, shown
from rich.console import RenderableType

from qcompiler.file_summary import FileSummary, Listing
from qcompiler.report import terminal, words
from qcompiler.report.file_page import file_page
from qcompiler.report.html import render_html
from qcompiler.report.rich_running import operators_table, running_section
from qcompiler.report.running import obstacles, operators_of

CUT = "More than one subgraph is not supported"


def operator(index: int, op: str, nodes: list[str], output: str, *, mapped: bool = True) -> dict[str, Any]:
    why = ("Mapped", "it is on the list") if mapped else (CUT, f"operator {index} is behind the cut")
    return {
        "index": index, "op": op, "output": output, "mapped": mapped, "status": why[0], "rule": why[1], "evidence": "measured",
        "source": "logs", "nodes": nodes,
    }  # fmt: skip


def partition(report: dict[str, Any], mapped: int) -> dict[str, Any]:
    """An operator for every region and one that converts the output; the first ones are mapped."""
    members: dict[str, list[dict[str, Any]]] = {}
    for node in report["nodes"]:
        members.setdefault(node["region"], []).append(node)
    operators = [
        operator(
            at,
            nodes[0]["op"].upper(),
            [name for node in nodes for name in node["origin"]],
            nodes[-1]["outputs"][0],
            mapped=at < mapped,
        )
        for at, nodes in enumerate(members.values())
    ]
    operators.append(
        operator(len(operators), "DEQUANTIZE", [], "outside/logits", mapped=mapped > len(operators))
    )
    whole = mapped >= len(operators)
    return {
        "summary": "So many of the operators are mapped.",
        "refused": "",
        "mapped": min(mapped, len(operators)),
        "whole": whole,
        "segments": 1 if whole else 2,
        "cut": None if whole else mapped,
        "parameters": {"bytes": 4096, "fit": True, "streamed": [0, 0], "available": [8192, 16384]},
        "operators": operators,
    }


@pytest.fixture
def report(report: dict[str, Any]) -> dict[str, Any]:
    """The report of a target that says where operators run: all but the last four regions are mapped."""
    regions = len({node["region"] for node in report["nodes"]})
    report["artifact"]["details"] = {"partition": partition(report, regions - 4)}
    return report


def placed(report: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = report["artifact"]["details"]["partition"]
    return found


def section(partition: dict[str, Any] | None) -> str:
    return " ".join(flat(part) for part in running_section(partition) if part)


def test_summary(report: dict[str, Any]) -> None:
    text = flat(terminal.summary(report))
    every = len(placed(report)["operators"])
    assert (
        f"Accelerator {every - 5} of {every} operators the first of 2 segments; 4 KiB of parameters fit on chip; predicted"
        in text
    )
    assert "Where it runs, as predicted So many of the operators are mapped. On the CPU:" in text
    assert CUT in text
    assert "Compiled and verified" in text or "rules only" in text


def test_summary_where_all_is_mapped(report: dict[str, Any]) -> None:
    report["artifact"]["details"]["partition"] = partition(report, 1000)
    text = flat(terminal.summary(report))
    assert "operators 4 KiB of parameters" in text
    assert "On the CPU" not in text


def test_summary_where_nothing_is_mapped(report: dict[str, Any]) -> None:
    report["artifact"]["details"]["partition"] = partition(report, 0)
    assert "Compiled, but the accelerator would run nothing of it" in flat(terminal.summary(report))
    page = Page(render_html(report))
    assert "the accelerator would run nothing of it" in page.text
    assert "Free on chip" not in page.text


def test_other_targets_say_nothing_of_it(full_report: dict[str, Any]) -> None:
    assert words.partition(full_report) is None
    assert running_section(None) == []
    assert operators_of(full_report, full_report["nodes"][0]) is None
    for text in (flat(terminal.summary(full_report)), Page(render_html(full_report)).text):
        assert "Accelerator" not in text
        assert "Where it runs" not in text
    assert "Runs on" not in flat(terminal.explanation(full_report, "stem/conv"))


def test_what_runs_on_the_host_is_told_by_kind_and_status(report: dict[str, Any]) -> None:
    many = [operator(at, "ADD", [f"add{at}"], f"y{at}", mapped=False) for at in range(9)]
    others = [operator(at, f"OP{at}", [], f"y{at}", mapped=False) for at in range(9, 30)]
    found = {**placed(report), "operators": [*others, *many]}
    first = obstacles(found)[0]
    assert (first.op, len(first.operators), first.which) == ("ADD", 9, "add0, add1, add2 and 6 more")
    text = section(found)
    assert f"9 × ADD {CUT}: operator 0 is behind the cut (add0, add1, add2 and 6 more)" in text
    assert "(operator 9)" in text
    assert "and 14 other operators" in text


def test_operators_without_nodes_go_by_number(report: dict[str, Any]) -> None:
    found = [operator(at, "ADD", [], "y", mapped=False) for at in (3, 1_002)]
    for entry in found:
        del entry["nodes"]
    assert obstacles({"operators": found})[0].which == "operators 3, 1,002"


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"bytes": 2048, "fit": True, "streamed": [0, 0]}, "2 KiB of parameters fit on chip"),
        ({"bytes": 2048, "fit": None, "streamed": [0, 1024]}, "2 KiB of parameters may not all fit on chip"),
        ({"bytes": 2048, "fit": False, "streamed": [512, 1024]}, "of 2 KiB of parameters, 512 B to 1 KiB go there at every inference"),
        ({"bytes": 2048, "fit": False, "streamed": [1024, 1024]}, "of 2 KiB of parameters, 1 KiB go there at every inference"),
    ],
)  # fmt: skip
def test_parameters(report: dict[str, Any], parameters: dict[str, Any], expected: str) -> None:
    placed(report)["parameters"] |= parameters
    assert words.parameters_text(placed(report)["parameters"]) == expected
    assert expected in flat(terminal.summary(report), 200)
    page = Page(render_html(report))
    assert expected in page.text
    size, (least, most) = parameters["bytes"], parameters["streamed"]
    for what, amount in (
        ("stay on chip", size - most),
        ("may stay on chip", most - least),
        ("go there at every inference", least),
    ):
        title = f"{words.size_text(amount)} {what}"
        assert (title in page.texts) == bool(amount), title


def test_explanation_of_a_node(report: dict[str, Any]) -> None:
    text = flat(terminal.explanation(report, "block2/expand"))
    assert re.search(
        r"Runs on accelerator: operator \d+, CONV, which writes \S+ Mapped: it is on the list measured: logs",
        text,
    )
    last = report["nodes"][-1]
    at = len(placed(report)["operators"]) - 2
    assert f"Runs on CPU: operator {at}," in flat(terminal.explanation(report, last["name"]))


def test_a_node_may_be_carried_out_by_several_operators_or_none(report: dict[str, Any]) -> None:
    node = next(entry for entry in report["nodes"] if entry["name"] == "block2/expand")
    placed(report)["operators"].insert(0, operator(99, "PAD", [node["name"]], "padded"))
    carried = operators_of(report, node)
    assert carried is not None
    assert [entry["op"] for entry in carried] == ["PAD", "CONV"]
    placed(report)["operators"] = []
    assert operators_of(report, node) == []
    assert "Runs on no operator" in flat(terminal.explanation(report, node["name"]))


@pytest.mark.parametrize("key", ["output", "region"])
def test_operators_without_nodes_belong_to_the_region_that_they_write_for(
    report: dict[str, Any], key: str
) -> None:
    """Of all nodes of a region: the last one's output is what an operator writes."""
    regions = list(dict.fromkeys(node["region"] for node in report["nodes"]))
    for entry, region in zip(placed(report)["operators"], regions, strict=False):
        del entry["nodes"]
        if key == "region":
            entry |= {"region": region, "output": "renamed"}
    for node in report["nodes"]:
        carried = operators_of(report, node)
        assert carried is not None
        assert [entry["index"] for entry in carried] == [regions.index(node["region"])]


def test_table_of_operators(report: dict[str, Any]) -> None:
    text = flat(operators_table(placed(report)), 400)
    assert "1 CONV accelerator stem/conv, stem/conv_bn, stem/relu Mapped" in text
    assert "DEQUANTIZE CPU outside/logits" in text
    shown(operators_table(placed(report)), 60)


def test_page(report: dict[str, Any]) -> None:
    page = Page(render_html(report))
    for text in (
        "Where it runs",
        "So many of the operators are mapped.",
        "outside/logits",
        "measured: logs",
        "8 KiB to 16 KiB",
    ):
        assert text in page.text
    ids = page.ids()
    assert len(set(ids)) == len(ids)
    assert {f"o{at}" for at in range(len(placed(report)["operators"]))} <= set(ids)
    links = {attributes["href"] for tag, attributes in page.tags if tag == "a"}
    assert {link for link in links if link is None or link[1:] not in ids} == set()
    marks = [attributes.get("class") for _, attributes in page.tags]
    assert marks.count("fmt on") == placed(report)["mapped"] + 1
    assert marks.count("off") == len(placed(report)["operators"]) - placed(report)["mapped"]


def test_page_of_a_refused_file(report: dict[str, Any]) -> None:
    found = partition(report, 0)
    report["artifact"]["details"]["partition"] = found | {
        "segments": 0,
        "refused": "it cannot be parsed",
        "summary": "The compiler refuses the file.",
    }
    page = Page(render_html(report))
    assert "The compiler refuses the file." in page.text
    assert ("p", {"class": "bad"}) in page.tags


def test_page_of_a_large_model_stays_small(report: dict[str, Any]) -> None:
    before = len(render_html(report))
    operators = placed(report)["operators"]
    placed(report)["operators"] = [
        {
            **operators[at % len(operators)],
            "index": at,
            "nodes": [f"backbone/block/{at}/{part}" for part in range(50)],
        }
        for at in range(1000)
    ]
    assert len(render_html(report)) - before < 900_000


def test_hostile_names_are_text(nasty_report: dict[str, Any]) -> None:
    found = nasty_report["artifact"]["details"]["partition"]
    text = render_html(nasty_report)
    assert [tag for tag, _ in Page(text).tags].count("script") == 1
    assert not set("\x1b\x9b\u202e") & set(text)
    for content in (terminal.summary(nasty_report), operators_table(found)):
        assert "[bold]x[/bold]" in shown(content, 400)
    assert "[bold]x[/bold]" in shown(
        terminal.explanation(nasty_report, nasty_report["nodes"][0]["name"]), 900
    )


# -- a file of a target's kind ---------------------------------------------------------------------------------------


def long_file(rows: int) -> FileSummary:
    listing = Listing(
        "Operators",
        ("#", "operator"),
        tuple((str(at), f"ADD [bold]{at}[/bold]\nfused") for at in range(rows)),
        frozenset({0}),
    )
    return FileSummary(
        (("File", "x.bin: 10 bytes"), ("Inputs", "a: int8[1]\nb: \x1b[31mint8[2]")), (listing,)
    )


def whole(content: RenderableType) -> str:
    return shown(content, 80)


def test_file_page(report: dict[str, Any]) -> None:
    text = whole(file_page(long_file(3)))
    assert "Operators: 3" in text
    assert "ADD [bold]2[/bold]" in text
    assert "--full" not in text
    assert "Where it runs" not in text
    found = FileSummary(long_file(3).facts, long_file(3).listings, placed(report))
    assert "Where it runs, as predicted" in whole(file_page(found))


def test_long_tables_of_a_file_are_cut_unless_all_is_asked_for() -> None:
    text = whole(file_page(long_file(100)))
    assert "Operators: 100" in text
    assert "[bold]39[/bold]" in text
    assert "[bold]40[/bold]" not in text
    assert "and 60 more; --full shows them" in text
    text = whole(file_page(long_file(100), full=True))
    assert "[bold]99[/bold]" in text
    assert "--full" not in text
