"""Tables become dataclasses, or an error says which key of which file and what is accepted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from qcompiler.errors import TargetError
from qcompiler.schema import SchemaReader


@dataclass(frozen=True)
class Inner:
    """A nested table."""

    name: str
    size: int | None = None


@dataclass(frozen=True)
class Outer:
    """One field of every kind."""

    title: str
    ratio: float = 1.0
    flag: bool = False
    kind: Literal["big", "small"] = "big"
    inner: Inner | None = None
    items: tuple[Inner, ...] = ()
    numbers: tuple[int, ...] = ()
    table: Mapping[str, Inner] = field(default_factory=dict)
    free: Mapping[str, Any] = field(default_factory=dict)
    own: str = field(default="", metadata={"key": False})

    def __post_init__(self) -> None:
        if self.ratio < 0:
            raise ValueError("ratio must not be negative")


READER = SchemaReader("some.toml", TargetError)


def test_every_kind() -> None:
    read = READER.read(
        Outer,
        {
            "title": "t", "ratio": 2, "flag": True, "kind": "small", "inner": {"name": "i"}, "items": [{"name": "a", "size": 3}],
            "numbers": 7, "table": {"k": {"name": "n"}}, "free": {"x": [1, {}]},
        },
    )  # fmt: skip
    assert read == Outer(
        "t", 2.0, True, "small", Inner("i"), (Inner("a", 3),), (7,), {"k": Inner("n")}, {"x": [1, {}]}
    )
    assert isinstance(read.ratio, float)


def test_defaults() -> None:
    assert READER.read(Outer, {"title": "t"}) == Outer("t")


MISTAKES: list[tuple[Any, str]] = [
    ({}, "title: this key is required and missing"),
    ({"titel": "t"}, "titel: unknown key; did you mean 'title'?"),
    ({"title": "t", "own": "x"}, "own: unknown key"),
    ({"title": 3}, "title: expected text, found 3"),
    ({"title": "t", "ratio": "1"}, "ratio: expected a number, found '1'"),
    ({"title": "t", "ratio": True}, "ratio: expected a number, found True"),
    ({"title": "t", "flag": 1}, "flag: expected true or false, found 1"),
    ({"title": "t", "kind": "huge"}, "kind: 'huge' is not accepted; known: big, small."),
    ({"title": "t", "kind": ["big"]}, "kind: ['big'] is not accepted"),
    ({"title": "t", "inner": 1}, "inner: expected a table, found an integer 1"),
    ({"title": "t", "inner": {}}, "inner.name: this key is required and missing"),
    ({"title": "t", "inner": {"name": "n", "size": 1.5}}, "inner.size: expected an integer, found 1.5"),
    (
        {"title": "t", "items": [{"name": "a"}, {"nam": "b"}]},
        "items[1].nam: unknown key; did you mean 'name'?",
    ),
    ({"title": "t", "numbers": [1, "2"]}, "numbers[1]: expected an integer, found '2'"),
    ({"title": "t", "numbers": [True]}, "numbers[0]: expected an integer, found True"),
    ({"title": "t", "table": [1]}, "table: expected a table, found a list [1]"),
    ({"title": "t", "table": {"k": "v"}}, "table.k: expected a table, found text 'v'"),
    ({"title": "t", "ratio": -1.0}, "the file: ratio must not be negative"),
    ([], "the file: expected a table, found a list []"),
]


@pytest.mark.parametrize(("table", "message"), MISTAKES, ids=[message for _, message in MISTAKES])
def test_mistakes_name_file_key_and_what_is_accepted(table: Any, message: str) -> None:
    with pytest.raises(TargetError) as caught:
        READER.read(Outer, table)
    assert str(caught.value).startswith("some.toml: ")
    assert message in str(caught.value)


def test_lists() -> None:
    assert READER.value(list[int], [1, 2], "k") == [1, 2]
    with pytest.raises(TargetError, match="k: expected a list, found an integer 1"):
        READER.value(list[int], 1, "k")
