"""The documentation says what the code says: generated pages are fresh, links lead somewhere, marked examples run."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

import qcompiler as qc
from qcompiler import demo
from qcompiler.targets import descriptors, find_target

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    [
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")),
    ]
)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
_RUNNABLE = re.compile(r"<!-- runnable -->\n```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_generated_pages_are_up_to_date() -> None:
    module = generator()
    for name, text in module.pages().items():
        path = ROOT / "docs" / name
        assert path.is_file(), f"docs/{name} is missing: run `make docs`"
        assert path.read_text(encoding="utf-8") == text, f"docs/{name} is out of date: run `make docs`"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for link in _LINK.findall(_FENCE.sub("", page.read_text(encoding="utf-8"))):
        assert "://" not in link, f"{name_of(page)}: {link}: links stay inside the project"
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), f"{name_of(page)}: {link} leads nowhere"
        if anchor:
            assert anchor in anchors(target), f"{name_of(page)}: {link}: there is no such heading"


def runnable() -> list[tuple[str, str]]:
    return [
        (f"{name_of(page)}:{number}", block)
        for page in PAGES
        for number, block in enumerate(_RUNNABLE.findall(page.read_text(encoding="utf-8")), 1)
    ]


@pytest.mark.parametrize("block", [pytest.param(block, id=where) for where, block in runnable()])
def test_marked_examples_run(block: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    module = ModuleType("docs_example")
    monkeypatch.setitem(sys.modules, module.__name__, module)  # dataclasses look their module up
    exec(compile(block, "<example>", "exec"), vars(module))


def test_the_plan_script_of_the_guide_keeps_a_layer_float(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (ROOT / "docs" / "guides" / "compiling.md").read_text(encoding="utf-8")
    (script,) = re.findall(r"^```python\n(import json.*?)^```", text, re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    first = qc.compile(demo.MODEL, "tensorrt", demo.CALIBRATION)
    (tmp_path / "build").mkdir()
    (tmp_path / "build" / "plan.json").write_text(first.plan.to_json(), encoding="utf-8")
    exec(compile(script, "<script>", "exec"), {})
    second = qc.compile(demo.MODEL, "tensorrt", demo.CALIBRATION, plan="plan.json")
    rows = {node["name"]: node["quantized"] for node in second.report["nodes"]}
    assert not rows["block3/pointwise"]
    assert rows["block3/depthwise"]


def test_the_tiny_descriptor_of_the_guide_is_valid(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "guides" / "targets.md").read_text(encoding="utf-8")
    first = re.search(r"```toml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert first is not None
    file = tmp_path / "tiny.toml"
    file.write_text(first.group(1), encoding="utf-8")
    assert find_target(str(file)).name == "tiny"


@pytest.mark.parametrize("name", descriptors())
def test_tests_that_verify_rows_exist(name: str) -> None:
    for kernel in find_target(name).kernel:
        for row in kernel.row:
            file = row.verified.partition("::")[0]
            assert not file or (ROOT / file).is_file(), f"{kernel.name}/{row.name}: there is no {file}"


def test_the_readme_has_the_two_commands() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    first, second = blocks[:2]
    assert first.count("\n") == second.count("\n") == 1
    assert "qcompiler demo" in first
    assert "pytest -n 2" in second
    assert 'pytest" -n 2' in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_the_guides_name_every_key_of_the_descriptor() -> None:
    from dataclasses import fields

    from qcompiler.target import Device, EncodingSpec, Kernel, QdqStyle, Row, Stored, Target

    text = (ROOT / "docs" / "guides" / "targets.md").read_text(encoding="utf-8")
    for kind in (Target, EncodingSpec, Device, Kernel, Row, Stored, QdqStyle):
        for entry in fields(kind):
            if entry.metadata.get("key", True):
                assert f"`{entry.name}`" in text, f"{kind.__name__}.{entry.name} is not described"
