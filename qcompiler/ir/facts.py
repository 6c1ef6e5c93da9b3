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
    """The key of a fact. `name` is what pipelines, errors and `qcompiler passes` show."""

    name: str
    meaning: str


class FactStore:
    """The facts that hold for one graph at this moment."""

    def __init__(self) -> None:
        self._facts: dict[str, Any] = {}

    def __contains__(self, fact: Fact[Any]) -> bool:
        return fact.name in self._facts

    def __getitem__(self, fact: Fact[T]) -> T:
        if fact.name not in self._facts:
            raise KeyError(f"the fact {fact.name!r} ({fact.meaning}) does not hold for this graph")
        return cast("T", self._facts[fact.name])

    def __setitem__(self, fact: Fact[T], value: T) -> None:
        self._facts[fact.name] = value

    def get(self, fact: Fact[T]) -> T | None:
        """The fact's value, or None where it does not hold."""
        return cast("T | None", self._facts.get(fact.name))

    def discard(self, fact: Fact[Any]) -> None:
        """Drops the fact, if it holds."""
        self._facts.pop(fact.name, None)

    def copy(self) -> FactStore:
        """A store of its own with the same facts."""
        twin = FactStore()
        twin._facts = dict(self._facts)
        return twin

    def clear(self) -> None:
        """Drops all facts."""
        self._facts.clear()

    def names(self) -> list[str]:
        """The names of the facts that hold, sorted."""
        return sorted(self._facts)


EVERYTHING = Fact[object]("everything", "all facts at once; only to be invalidated")
SHAPES = Fact[bool]("shapes", "every value has the dtype and shape that inference can give it")
CANONICAL = Fact[bool]("canonical", "one form per operation: see the canonicalize pass")
QDQ = Fact[bool]("qdq", "the plan stands in the graph as QuantizeLinear/DequantizeLinear")
