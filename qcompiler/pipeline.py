"""Pipelines: ordered, editable lists of passes, checked before they run and verified as they run."""

from __future__ import annotations

import re
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qcompiler.errors import ModelError, OptionError, PassError, QCompilerError, suggest
from qcompiler.ir.diff import diff_graphs
from qcompiler.ir.facts import EVERYTHING
from qcompiler.ir.graph import collector_paused
from qcompiler.ir.onnx_export import save
from qcompiler.ir.text import to_text
from qcompiler.pass_manager import Diagnostic, Effect, Pass, PassContext, split_outside_quotes
from qcompiler.probe import Probe

if TYPE_CHECKING:
    from qcompiler.ir.graph import Edit, Graph

Resolve = Callable[[str], type[Pass]]

_STAGE = re.compile(r'([^,{}"]+?)(?:\{((?:"(?:[^"\\]|\\.)*"|[^{}"])*)\})?\s*(?:,|$)')


@dataclass(frozen=True)
class PassRecord:
    """What one pass did in one run.

    Attributes:
        name: The pass with its options.
        seconds: Wall time of the pass itself.
        counts: Changes by kind.
        edits: The journal: every edit of the graph, in order.
        diagnostics: What it said.
        nodes: Node count before and after.
        error: Largest output difference on the probe, relative to the output's largest magnitude; None if not probed.
    """

    name: str
    seconds: float
    counts: dict[str, int]
    edits: tuple[Edit, ...]
    diagnostics: tuple[Diagnostic, ...]
    nodes: tuple[int, int]
    error: float | None = None

    @property
    def changed(self) -> int:
        """How many changes were made."""
        return sum(self.counts.values())


@dataclass(frozen=True)
class Checks:
    """How closely a run is watched.

    Attributes:
        probe: Runs the graph after each pass and holds the pass to its effect; None to trust passes.
        dump: Folder for the graph (text and ONNX) before the first and after every pass, and each pass's diff.
        on_pass: Called with each record as it is made.
    """

    probe: Probe | None = None
    dump: Path | None = None
    on_pass: Callable[[PassRecord], None] | None = None


@dataclass(frozen=True)
class Pipeline:
    """An ordered list of passes. Edits return new pipelines."""

    passes: tuple[Pass, ...] = field(default=())

    def __iter__(self) -> Iterator[Pass]:
        return iter(self.passes)

    def __str__(self) -> str:
        """One string that `parse` reads back to an equal pipeline."""
        return ",".join(str(entry) for entry in self.passes)

    @classmethod
    def parse(cls, text: str, resolve: Resolve) -> Pipeline:
        """Reads `name{option=value,option=value},name,...`.

        Raises:
            OptionError: The text is malformed, or a pass or option unknown.
        """
        passes, position = [], 0
        while position < len(text):
            found = _STAGE.match(text, position)
            if found is None:
                raise OptionError(
                    f"The pipeline cannot be read at {text[position : position + 20]!r}; write name{{option=value}},name,..."
                )
            passes.append(resolve(found.group(1).strip()).from_options(_parse_options(found.group(2) or "")))
            position = found.end()
        return cls(tuple(passes))

    # -- editing ------------------------------------------------------------------------------------------

    def _index(self, name: str) -> int:
        names = [entry.name for entry in self.passes]
        if name not in names:
            raise OptionError(f"The pipeline has no pass {name!r}{suggest(name, names)}")
        return names.index(name)

    def insert_before(self, name: str, *new: Pass) -> Pipeline:
        """Puts passes before the first one of that name."""
        at = self._index(name)
        return Pipeline((*self.passes[:at], *new, *self.passes[at:]))

    def insert_after(self, name: str, *new: Pass) -> Pipeline:
        """Puts passes behind the first one of that name."""
        at = self._index(name) + 1
        return Pipeline((*self.passes[:at], *new, *self.passes[at:]))

    def replace(self, name: str, *new: Pass) -> Pipeline:
        """Puts passes in the place of the first one of that name."""
        at = self._index(name)
        return Pipeline((*self.passes[:at], *new, *self.passes[at + 1 :]))

    def without(self, name: str) -> Pipeline:
        """Leaves out the first pass of that name."""
        return self.replace(name)

    # -- checking and running -----------------------------------------------------------------------------

    def check(self, holding: Iterable[str] = ()) -> None:
        """Checks that every pass finds the facts it requires, without running anything.

        Raises:
            PassError: One does not; the message says which pass could establish the fact, or which one dropped it.
        """
        facts = set(holding)
        dropped: dict[str, str] = {}
        for entry in self.passes:
            for fact in entry.requires:
                if fact.name not in facts:
                    raise PassError(self._missing(entry, fact.name, fact.meaning, dropped))
            lost = {fact.name for fact in entry.invalidates} & facts
            if EVERYTHING in entry.invalidates:
                lost = set(facts)
            facts -= lost
            dropped.update(dict.fromkeys(lost, entry.name))
            facts.update(fact.name for fact in entry.establishes)

    def _missing(self, entry: Pass, fact: str, meaning: str, dropped: dict[str, str]) -> str:
        later = [other.name for other in self.passes if fact in {given.name for given in other.establishes}]
        why = (
            f"{dropped[fact]} before it invalidates that"
            if fact in dropped
            else "no pass before it establishes that"
        )
        hint = f"; {later[0]} does, and must come before it" if later else ""
        return (
            f"The pass {entry.name} requires the fact {fact!r} ({meaning}), but {why}{hint}. Nothing was run."
        )

    def run(self, graph: Graph, context: PassContext, checks: Checks | None = None) -> list[PassRecord]:
        """Runs the passes in order, in place; verifies the graph's invariants after each.

        Raises:
            PassError: A pass broke an invariant or, on the probe, its declared effect.
        """
        checks = checks or Checks()
        self.check(graph.facts.names())
        records: list[PassRecord] = []
        if checks.dump is not None:
            _dump(graph, checks.dump, 0, "input", None)
        for number, entry in enumerate(self.passes, 1):
            record = _run_one(graph, entry, context, checks, number)
            records.append(record)
            if checks.on_pass is not None:
                checks.on_pass(record)
        return records


def _run_one(graph: Graph, entry: Pass, context: PassContext, checks: Checks, number: int) -> PassRecord:
    before = graph.copy() if checks.dump is not None else None
    nodes_before = graph.node_count
    graph.journal.clear()
    start = time.perf_counter()
    try:
        with collector_paused():
            result = entry.run(graph, context)
    except QCompilerError:
        raise
    except Exception as failure:
        if type(entry).__module__.startswith(f"{__package__}."):
            raise  # one of ours: a bug, and to be told as one
        raise PassError(_failure(entry, failure)) from failure
    seconds = time.perf_counter() - start
    if entry.effect is not Effect.ANNOTATES:
        graph.remove_unused_constants()
    edits = tuple(graph.journal)
    _verify(graph, entry, edits)
    for fact in entry.invalidates:
        if fact is EVERYTHING:
            graph.facts.clear()
        elif fact not in entry.establishes:
            graph.facts.discard(fact)
    absent = [fact.name for fact in entry.establishes if fact not in graph.facts]
    if absent:
        raise PassError(f"The pass {entry.name} says that it establishes {absent[0]!r}, but did not.")
    if checks.dump is not None:
        assert before is not None
        _dump(graph, checks.dump, number, entry.name, before)
    error = checks.probe.hold(graph, entry, context.fuel is None) if checks.probe is not None else None
    return PassRecord(
        str(entry),
        seconds,
        dict(result.counts),
        edits,
        tuple(result.diagnostics),
        (nodes_before, graph.node_count),
        error,
    )


def _failure(entry: Pass, error: Exception) -> str:
    """What is said of a user's pass that raised something."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return (
        f"The pass {entry.name} failed with {type(error).__name__}: {error} ({last.filename}, line {last.lineno}, in {last.name}). "
        "Mend the pass; --debug shows the whole traceback."
    )


def _verify(graph: Graph, entry: Pass, edits: tuple[Edit, ...]) -> None:
    if entry.effect is Effect.ANNOTATES and edits:
        raise PassError(
            f"The pass {entry.name} declares that it only annotates, but it edited the graph: {edits[0]}."
        )
    try:
        graph.verify()
    except ModelError as error:
        raise PassError(f"The pass {entry.name} left an invalid graph behind: {error}") from error


def _dump(graph: Graph, folder: Path, number: int, name: str, before: Graph | None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{number:02}-{name}"
    (folder / f"{stem}.txt").write_text(to_text(graph), encoding="utf-8")
    save(graph, folder / f"{stem}.onnx")
    if before is not None:
        (folder / f"{stem}.diff").write_text(f"{diff_graphs(before, graph)}\n", encoding="utf-8")


def _parse_options(text: str) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for item in filter(None, (part.strip() for part in split_outside_quotes(text, ","))):
        key, equals, value = item.partition("=")
        if not equals:
            raise OptionError(f"The option {item!r} in the pipeline has no value; write {item}=value.")
        options[key.strip()] = value.strip()
    return options
