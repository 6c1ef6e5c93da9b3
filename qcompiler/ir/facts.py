"""Facts: what passes have established about a graph, under typed keys.

A pass states which facts it requires, establishes and invalidates; the pass manager checks the whole pipeline
before running it and drops what a pass invalidates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

T = TypeVar("T")


@dataclass(frozen=True)
class Fact(Generic[T]):
    """The key of a fact.

    Attributes:
        name: What pipelines, errors and `qcompiler passes` show.
        meaning: What holds, one clause.
        by_name: Whether it names nodes and values instead of pointing at them, so that it holds for a copy of the graph, too.
    """

    name: str
    meaning: str
    by_name: bool = False


class FactStore:
    """The facts that hold for one graph at this moment."""

    def __init__(self) -> None:
        self._facts: dict[str, Any] = {}
        self._named: set[str] = set()

    def __contains__(self, fact: Fact[Any]) -> bool:
        return fact.name in self._facts

    def __getitem__(self, fact: Fact[T]) -> T:
        if fact.name not in self._facts:
            raise KeyError(f"the fact {fact.name!r} ({fact.meaning}) does not hold for this graph")
        return cast("T", self._facts[fact.name])

    def __setitem__(self, fact: Fact[T], value: T) -> None:
        self._facts[fact.name] = value
        if fact.by_name:
            self._named.add(fact.name)

    def get(self, fact: Fact[T]) -> T | None:
        """The fact's value, or None where it does not hold."""
        return cast("T | None", self._facts.get(fact.name))

    def discard(self, fact: Fact[Any]) -> None:
        """Drops the fact, if it holds."""
        self._facts.pop(fact.name, None)

    def copy(self) -> FactStore:
        """A store of its own with the same facts."""
        twin = FactStore()
        twin._facts, twin._named = dict(self._facts), set(self._named)
        return twin

    def named(self) -> FactStore:
        """A store with those that go by names."""
        twin = FactStore()
        twin._named = self._named & self._facts.keys()
        twin._facts = {name: self._facts[name] for name in self._facts if name in twin._named}
        return twin

    def clear(self) -> None:
        """Drops all facts."""
        self._facts.clear()

    def names(self) -> list[str]:
        """The names of the facts that hold, sorted."""
        return sorted(self._facts)


EVERYTHING = Fact[object]("everything", "all facts at once; only to be invalidated")
SHAPES = Fact[bool]("shapes", "every value has the dtype and shape that inference can give it", True)
CANONICAL = Fact[bool]("canonical", "one form per operation: see the canonicalize pass", True)
QDQ = Fact[bool]("qdq", "the plan stands in the graph as QuantizeLinear/DequantizeLinear")
