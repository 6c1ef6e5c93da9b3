from __future__ import annotations

import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
from rich.console import Console, RenderableType

from qcompiler import demo
from qcompiler.ir.graph import Graph
from qcompiler.ir.onnx_import import load
from qcompiler.ir.plan import Plan
from qcompiler.pass_manager import Effect, Pass
from qcompiler.passes import all_passes
from qcompiler.report import terminal
from qcompiler.targets import descriptors, find_target

DOCS = Path(__file__).parents[2] / "docs"


def shown(content: RenderableType, width: int = 80) -> str:
    """What comes out where there is no terminal; no line is longer than the width."""
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    console.print(content)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert not set("\x1b\x9b\u202e") & set(text)
    assert max(map(len, text.splitlines()), default=0) <= width
    return text


def flat(content: RenderableType, width: int = 80) -> str:
    """The same with line breaks and padding taken out."""
    return " ".join(shown(content, width).split())


def test_summary(report: dict[str, Any]) -> None:
    text = flat(terminal.summary(report))
    for expected in (
        "10 of 10 weighted nodes",
        "400 samples",
        "tensorrt:sm89",
        "digits.onnx",
        "Stays float",
        "trtexec",
    ):
        assert expected in text


def test_summary_of_what_is_missing(bare_report: dict[str, Any]) -> None:
    text = flat(terminal.summary(bare_report))
    assert "Compiled, not verified" in text
    assert "of the calibration data" in text
    without = flat(terminal.summary(bare_report | {"metric": None, "sqnr_db": None}))
    assert "not measured" in without


def test_summary_of_failures(report: dict[str, Any]) -> None:
    report["verify"] |= {"passed": False, "problems": [f"problem {at}" for at in range(30)]}
    text = flat(terminal.summary(report))
    assert "Compiled, but not as planned: 30 problems" in text
    assert "problem 9" in text
    assert "and 20 more" in text
    report["budget"] = {"asked": {"max_drop": 0.005}, "met": False}
    report["metric"] |= {
        "reference": report["metric"]["float"],
        "artifact": report["metric"]["float"],
        "drop": 0.0,
    }
    text = flat(terminal.summary(report), 160)
    assert "a stated budget is not met" in text
    assert "no difference, a drop of at most 0.5 points allowed" in text


def test_nodes_table_has_all_nodes(report: dict[str, Any]) -> None:
    text = shown(terminal.nodes_table(report), 160)
    for node in report["nodes"]:
        assert node["name"] in text
    assert "conv: int8" in text
    shown(terminal.nodes_table(report))


def test_markup_in_names_is_text(nasty_report: dict[str, Any]) -> None:
    node = nasty_report["nodes"][0]["name"]
    assert "[bold]x[/bold]" in shown(terminal.summary(nasty_report), 400)
    assert "[bold]x[/bold]" in shown(terminal.nodes_table(nasty_report), 900)
    assert "[bold]x[/bold]" in shown(terminal.explanation(nasty_report, node), 900)


def test_explanation_of_a_node(report: dict[str, Any]) -> None:
    text = flat(terminal.explanation(report, "block2/depthwise"))
    for expected in (
        "row int8 of kernel conv",
        "zero padding",
        "assign_precision",
        "block2/depthwise_bn",
        "input 1:",
        "holds",
    ):
        assert expected in text


def test_explanation_by_origin_and_by_value(report: dict[str, Any]) -> None:
    by_origin = flat(terminal.explanation(report, "stem/conv_bn"))
    assert "stem/conv_bn of the source model became" in by_origin
    entry = next(node for node in report["nodes"] if node["stored"])["stored"][0]
    by_value = flat(terminal.explanation(report, entry["value"]))
    assert f"{entry['value']} is a value" in by_value
    assert entry["encoding"] in by_value


def test_everything_known_can_be_explained(report: dict[str, Any]) -> None:
    names = terminal.known_names(report)
    assert len(set(names)) == len(names)
    assert {node["name"] for node in report["nodes"]} <= set(names)
    for name in names:
        shown(terminal.explanation(report, name))
    with pytest.raises(KeyError):
        terminal.explanation(report, "no such node")


def test_explanation_tells_what_passes_said(report: dict[str, Any]) -> None:
    canonicalize = next(entry for entry in report["passes"] if entry["name"] == "canonicalize")
    canonicalize["diagnostics"] = [{"level": "near miss", "node": "stem/conv", "message": "nearly fused"}]
    assert "canonicalize: nearly fused" in flat(terminal.explanation(report, "stem/conv"))


def test_model_summary(compiled: Path) -> None:
    text = flat(terminal.model_summary(load(demo.MODEL)))
    for expected in (
        "image: float32[batch,1,8,8]",
        "logits",
        "Open dims batch",
        "Opset 21",
        "40,352",
        "Quantized nothing",
        "Conv",
    ):
        assert expected in text
    text = flat(terminal.model_summary(load(compiled / "reference.onnx")))
    assert "DequantizeLinear" in text


def test_model_summary_of_many_kinds_of_operators() -> None:
    graph = Graph("many")
    value = graph.add_input("x", np.float32, (1,))
    for at in range(22):
        node = graph.add_node(f"Op{at}", [value], domain="mine")
        (value,) = filter(None, node.outputs)
    graph.set_outputs([value])
    text = flat(terminal.model_summary(graph))
    assert "2 other ops 2 --full lists them" in text
    text = flat(terminal.model_summary(graph, full=True))
    assert all(f"mine.Op{at} 1" in text for at in range(22))
    assert "--full" not in text


@pytest.mark.parametrize("name", sorted(descriptors()))
def test_target_page_has_every_row_and_source(name: str) -> None:
    target = find_target(name)
    text = re.sub(r"\s", "", shown(terminal.target_page(target), 200))
    for kernel in target.kernel:
        assert kernel.name in text
        for row in kernel.row:
            assert f"row{row.name}" in text
            assert re.sub(r"\s", "", row.source) in text
            assert re.sub(r"\s", "", row.verified or "unverified") in text
    shown(terminal.target_page(target))
    table = flat(terminal.targets_table([target]))
    assert name in table
    assert all(device in table for device in target.device)


def test_pass_pages() -> None:
    table = flat(terminal.passes_table(all_passes()))
    for entry in all_passes():
        assert entry.name in table
        page = flat(terminal.pass_page(entry))
        assert entry.effect.value in page
        for option in entry.options():
            assert option in page


@dataclass(frozen=True)
class _Example(Pass):
    """Does this.

    And that,
    over two lines.
    """

    name: ClassVar[str] = "example"
    effect: ClassVar[Effect] = Effect.EXACT

    count: int
    mode: Literal["a", "b"] = "a"
    limit: float | None = None
    names: tuple[str, ...] = ()
    flag: bool = False


def test_pass_page_shows_types_and_defaults() -> None:
    text = shown(terminal.pass_page(_Example))
    for expected in ("And that, over two lines.", r"count\s+an integer\s+required", r"mode\s+one of a, b\s+a",
                     r"limit\s+a number or none\s+none", r"names\s+text, several joined by \+\s+none", r"flag\s+true or false\s+false"):  # fmt: skip
        assert re.search(expected, text), expected


def test_plan_diff(compiled: Path) -> None:
    text = (compiled / "plan.json").read_text(encoding="utf-8")
    plan = Plan.from_json(text)
    assert "decide the same" in shown(terminal.plan_diff(plan, plan))
    region = next(entry for entry in plan.regions if entry.quantized)
    changed = Plan.from_json(text.replace('"device": "sm89"', '"device": "sm80"'))
    object.__setattr__(changed, "groups", changed.groups[1:])
    object.__setattr__(next(entry for entry in changed.regions if entry.name == region.name), "row", "other")
    found = flat(terminal.plan_diff(plan, changed), 160)
    assert "sm80" in found
    assert f"{region.kernel}: other" in found
    assert str(plan.groups[0].encoding)[:20] in found


def test_demo_table(report: dict[str, Any], bare_report: dict[str, Any]) -> None:
    rows = [terminal.DemoRow(report, "here/"), terminal.DemoRow(bare_report, "")]
    text = flat(terminal.demo_table(rows))
    for expected in ("tensorrt:sm89", "int8", "here/", "KiB"):
        assert expected in text


def test_the_page_about_reports_names_every_key(full_report: dict[str, Any]) -> None:
    text = (DOCS / "report.md").read_text(encoding="utf-8")
    tables = [
        full_report,
        full_report["nodes"][1],
        full_report["metric"],
        full_report["verify"],
        full_report["passes"][0],
    ]
    tables += [
        full_report["nodes"][1]["encodings"][0],
        full_report["weights"][0],
        full_report["quantized"],
        full_report["model"],
    ]
    for table in tables:
        for key in table:
            assert f"`{key}`" in text, key
