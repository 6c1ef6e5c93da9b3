"""A target's own options: choices, texts and files, from the command line, a configuration file and Python."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import pytest

from qcompiler.cli import settings
from qcompiler.cli.settings import Settings
from qcompiler.errors import OptionError
from qcompiler.pairs import read_pairs
from qcompiler.target import Target, TargetOption
from qcompiler.target_options import chosen_options, recorded_options
from qcompiler.targets import find_target

TARGET = dataclasses.replace(
    find_target("tensorrt"),
    option={
        "form": TargetOption(("short", "long"), "how long it is"),
        "title": TargetOption(takes="text", meaning="what it is called"),
        "words": TargetOption(takes="file", meaning="what is in it"),
    },
)


def test_what_is_left_out_has_its_default() -> None:
    assert chosen_options(TARGET, {}) == {"form": "short", "title": "", "words": ""}


def test_choices_texts_and_files(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_bytes("\ufeffone\r\nzwölf\n".encode())
    chosen = chosen_options(TARGET, {"form": "long", "title": 1.5, "words": path})
    assert chosen == {"form": "long", "title": "1.5", "words": "one\r\nzwölf\n"}
    recorded = recorded_options(TARGET, chosen)
    assert recorded == {**chosen, "words": hashlib.sha256("one\r\nzwölf\n".encode()).hexdigest()}
    assert recorded_options(TARGET, chosen_options(TARGET, {}))["words"] == ""


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"form": "lang"}, r"form=lang: tensorrt.* offers short, long; did you mean 'long'"),
        ({"fork": "long"}, r"fork: tensorrt.* has no such option; did you mean 'form'"),
        ({"words": "none.txt"}, r"words=none.txt: the file cannot be read: No such file"),
        ({"words": "."}, r"words=\.: the file cannot be read: Is a directory"),
        ({"words": "empty.txt"}, r"words=empty.txt: the file is empty"),
        ({"words": "bytes.txt"}, r"words=bytes.txt: the file is no text in UTF-8 \(.* at byte 3\)"),
    ],
)
def test_what_cannot_be_chosen(
    given: dict[str, str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty.txt").write_text(" \n")
    Path("bytes.txt").write_bytes(b"one\xff")
    with pytest.raises(OptionError, match=says):
        chosen_options(TARGET, given)


def test_options_that_make_no_sense_in_a_descriptor() -> None:
    with pytest.raises(ValueError, match="default"):
        TargetOption(())
    with pytest.raises(ValueError, match="accepted is for choices"):
        TargetOption(("a",), takes="text")


def test_files_are_relative_to_the_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def found(text: str) -> Target:
        assert text == "mine"
        return TARGET

    monkeypatch.setattr("qcompiler.targets.find_target", found)
    path = tmp_path / "settings.toml"
    path.write_text(
        'target = "mine"\ntarget-option = ["form=long", "title=a = b", "words=w.txt", "other=x"]\n'
    )
    read = settings.Settings.gathered(str(path), {}).options()["target_options"]
    assert read == {"form": "long", "title": "a = b", "words": str(tmp_path / "w.txt"), "other": "x"}
    said = Settings.gathered(str(path), {"target_option": ("words=w.txt",)}).options()["target_options"]
    assert said == {"words": "w.txt"}  # the command line's own are relative to where it is


def test_pairs() -> None:
    assert read_pairs("--x", ("a=b", " c = d=e", "a=")) == {"a": "", "c": "d=e"}
    for text in ("form", "=long", " = long"):
        with pytest.raises(OptionError, match=r"^--x '.*' cannot be read; write NAME=VALUE\.$"):
            read_pairs("--x", (text,))
    with pytest.raises(OptionError, match=r"write A\.B=1\."):
        read_pairs("--x", ("ab=1",), "A.B=1", name=r"[^.]+\..+")
