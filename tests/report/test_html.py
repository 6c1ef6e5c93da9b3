from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from qcompiler.report.html import render_html

VOID = {"meta", "input", "br"}


class Page(HTMLParser):
    """Checks that elements are closed in order, and collects what tests ask for."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), f"an attribute of {tag} is given twice"
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.texts.append(data)

    @property
    def text(self) -> str:
        return "".join(self.texts)

    def ids(self) -> list[str]:
        return [value for _, attributes in self.tags if (value := attributes.get("id"))]


def test_shows_everything(report: dict[str, Any]) -> None:
    page = Page(render_html(report))
    assert "Compiled" in page.text
    assert "10 of 10 weighted nodes" in page.text
    assert "400 samples of the evaluation data" in page.text
    assert report["artifact"]["next_step"] in page.text
    assert report["model"]["sha256"] in page.text
    for node in report["nodes"]:
        assert node["name"] in page.texts
        assert node["reason"] in page.text
        for item in node["refused"]:
            assert item["row"] in page.text
            assert item["reason"] in page.text
        for entry in (*node["encodings"], *node["stored"]):
            assert entry["encoding"] in page.text
            assert entry["reason"] in page.text
    for entry in report["passes"]:
        assert entry["name"].split("{")[0] in page.texts
    bodies = [attributes for tag, attributes in page.tags if tag == "tbody" and "id" in attributes]
    assert len(bodies) == len(report["nodes"])


def test_links_lead_to_places_on_the_page(report: dict[str, Any]) -> None:
    page = Page(render_html(report))
    ids = page.ids()
    assert len(set(ids)) == len(ids)
    links = {attributes["href"] for tag, attributes in page.tags if tag == "a"}
    assert links
    assert {link for link in links if link is None or link[1:] not in ids} == set()


def test_needs_nothing_from_outside(report: dict[str, Any]) -> None:
    text = render_html(report)
    assert "http" not in text
    assert not re.search(r"\b(src|srcset|@import|url\()", text)
    assert not [tag for tag, _ in Page(text).tags if tag in ("link", "img", "iframe", "object")]


def test_escapes_everything(nasty_report: dict[str, Any]) -> None:
    text = render_html(nasty_report)
    page = Page(text)
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert "alert" not in text.split("<script>")[1]
    assert "<script>alert('http')</script>" in page.text
    assert "${body}" in page.text
    assert not set("\x1b\x9b\u202e") & set(text)
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]


def test_without_evaluation_verification_and_artifact(bare_report: dict[str, Any]) -> None:
    page = Page(render_html(bare_report))
    assert "Compiled, not verified" in page.text
    assert "no artifact of its own was written" in page.text
    assert "of the calibration data" in page.text
    assert "on these very samples" in page.text


def test_with_next_to_nothing(bare_report: dict[str, Any]) -> None:
    bare = bare_report | {
        "metric": None,
        "sqnr_db": None,
        "nodes": [],
        "weights": [],
        "weight_bits": 0.0,
        "passes": [],
        "quantized": dict.fromkeys(bare_report["quantized"], 0),
        "size_bytes": {"float": 0, "compiled": 0},
    }
    page = Page(render_html(bare))
    assert "Compiled, but nothing is quantized" in page.text
    assert "no evaluation or calibration data were given" in page.text


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            {"budget": {"asked": {"max_drop": 0.001}, "met": False}},
            "Compiled, but a stated budget is not met",
        ),
        ({"sqnr_db": None}, "not finite"),
        ({"notes": ["the imported encoding had to change"]}, "the imported encoding had to change"),
    ],
)
def test_says_what_went_wrong(report: dict[str, Any], change: dict[str, Any], expected: str) -> None:
    assert expected in Page(render_html({**report, **change})).text


def test_shows_problems_of_the_verification_at_the_top(report: dict[str, Any]) -> None:
    report["verify"] |= {"passed": False, "problems": ["stem/conv is computed in float"]}
    text = Page(render_html(report)).text
    assert "Compiled, but not as planned: 1 problem" in text
    assert text.index("stem/conv is computed in float") < text.index("Weights by format")


def test_shows_diagnostics_with_links(report: dict[str, Any]) -> None:
    name = report["nodes"][3]["name"]
    report["passes"][2]["diagnostics"] = [{"level": "near miss", "node": name, "message": "nearly fused"}]
    report["passes"][2]["error"] = 1.5e-7
    page = Page(render_html(report))
    assert "1 × near miss" in page.text
    assert f"{name}: nearly fused" in page.text
    assert "1.5e-07" in page.text


def test_is_deterministic(report: dict[str, Any]) -> None:
    assert render_html(report) == render_html(report)


def test_is_what_compile_writes(compiled: Path, full_report: dict[str, Any]) -> None:
    assert (compiled / "report.html").read_text(encoding="utf-8") == render_html(full_report)


def test_stays_small(report: dict[str, Any]) -> None:
    nodes = report["nodes"]
    many = [
        {
            **nodes[at % len(nodes)],
            "name": f"backbone/stage/block/{at}",
            "region": f"backbone/stage/block/{at}",
        }
        for at in range(1000)
    ]
    assert len(render_html({**report, "nodes": many}).encode()) < 1_500_000
