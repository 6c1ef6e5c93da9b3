"""Bisection: which pass, and which single rewrite of it, first breaks the output.

The pipeline is replayed on fresh copies of the graph. The passes are measured one after another; the rewrites of the pass
that breaks the output are searched by halving, with `PassContext.fuel` allowing the first 0, 1, 2, ... of them. Passes
that do not ask `PassContext.allow` before each change can be told only as a whole, and the result says so.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from qcompiler.errors import QCompilerError
from qcompiler.ir.diff import GraphDiff, diff_graphs
from qcompiler.pass_manager import Pass, PassContext
from qcompiler.pipeline import Pipeline
from qcompiler.probe import EXACT_TOLERANCE, Probe, largest_difference

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qcompiler.ir.graph import Graph


@dataclass(frozen=True)
class BisectResult:
    """What broke the output.

    Attributes:
        name: The pass with its options.
        position: Its place in the pipeline, from 1.
        rewrite: Which of its rewrites it is, from 1; None where the pass is known only as a whole.
        rewrites: How many rewrites the pass makes; 0 if it does not count them.
        description: What the rewrite is, in its own words.
        output: The graph output that differs most; "" where the graph could not be run.
        error_before: Largest difference from the original's outputs before, relative to their largest magnitude.
        error_after: The same after; infinite where shapes differ or the pass failed.
        difference: What the rewrite (or the pass) changed in the graph.
        note: Why no single rewrite is named, or how the pass failed; else "".
    """

    name: str
    position: int
    rewrite: int | None
    rewrites: int
    description: str
    output: str
    error_before: float
    error_after: float
    difference: GraphDiff
    note: str = ""

    @property
    def text(self) -> str:
        """A paragraph and the difference."""
        where = f"pass {self.position}, {self.name}"
        if self.rewrite is not None:
            where = f"rewrite {self.rewrite} of {self.rewrites} in {where}: {self.description}"
        output = f" of {self.output!r}" if self.output else ""
        lines = [
            f"First broken by {where}.",
            f"The error{output} goes from {self.error_before:.3g} to {self.error_after:.3g} of the largest magnitude.",
        ]
        if self.note:
            lines.append(self.note)
        return "\n".join([*lines, "", str(self.difference)])

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class _State:
    """The graph at one point of a replay, and how far its outputs are from the original's."""

    graph: Graph
    error: float
    output: str
    rewrites: tuple[str, ...]
    failure: str = ""


def bisect(
    graph: Graph,
    pipeline: Pipeline,
    context: PassContext | Callable[[], PassContext],
    *,
    feeds: Mapping[str, NDArray[Any]] | None = None,
    tolerance: float = EXACT_TOLERANCE,
) -> BisectResult | None:
    """Finds what first takes the outputs further from the original's than the tolerance.

    Args:
        graph: The graph that the pipeline is given; not changed.
        pipeline: The passes.
        context: What they may know: a context to copy for each replay, or a function that makes one.
        feeds: Probe inputs by name; random ones when None.
        tolerance: Largest difference, relative to the output's largest magnitude, that is not called broken.

    Returns:
        What broke the output, or None where nothing did.

    Raises:
        QCompilerError: The original graph cannot be run, or a pass misses a fact that it requires.
    """
    pipeline.check(graph.facts.names())
    replay = _Replay(
        graph, pipeline.passes, context, Probe(graph, *([dict(feeds)] if feeds is not None else []))
    )
    before, after, position = replay.first_broken_pass(tolerance)
    if after is None:
        return None
    count = len(after.rewrites) - len(before.rewrites)
    note = _why_no_rewrite(count, after, lambda fuel: replay.state(position, fuel), tolerance)
    if note:
        return _result(pipeline.passes[position], position, None, count, before, after, note)
    good, bad = 0, count
    before, after = replay.state(position, 0), replay.state(position, count)
    while bad - good > 1:
        middle = (good + bad) // 2
        state = replay.state(position, middle)
        if state.error > tolerance:
            bad, after = middle, state
        else:
            good, before = middle, state
    return _result(pipeline.passes[position], position, bad, count, before, after, after.failure)


def _why_no_rewrite(count: int, after: _State, state: Callable[[int], _State], tolerance: float) -> str:
    if not count:
        reason = "The pass does not count its rewrites (PassContext.allow), so it is told as a whole."
        return f"{after.failure} {reason}" if after.failure else reason
    if state(0).error > tolerance:
        return "The output is broken even with none of the pass's counted rewrites: it makes others without asking."
    if state(count).error <= tolerance:
        return "The output is not broken when the pass is run again with its rewrites counted: it is not deterministic."
    return ""


def _result(
    entry: Pass, position: int, rewrite: int | None, count: int, before: _State, after: _State, note: str
) -> BisectResult:
    return BisectResult(
        str(entry),
        position + 1,
        rewrite,
        count,
        after.rewrites[-1] if rewrite is not None else "",
        after.output,
        before.error,
        after.error,
        diff_graphs(before.graph, after.graph),
        note,
    )


@dataclass(frozen=True)
class _Replay:
    """Runs the pipeline on fresh copies: facts may hold parts of the very graph that they were found on."""

    graph: Graph
    passes: tuple[Pass, ...]
    context: PassContext | Callable[[], PassContext]
    probe: Probe

    def fresh(self) -> tuple[Graph, PassContext]:
        made = self.context if isinstance(self.context, PassContext) else self.context()
        copy = self.graph.copy()
        copy.facts = self.graph.facts.copy()
        return copy, dataclasses.replace(made, fuel=None, rewrites=[])

    def first_broken_pass(self, tolerance: float) -> tuple[_State, _State | None, int]:
        """The states before and after the first pass that breaks the output, and its index."""
        graph, context = self.fresh()
        before = self._state(graph.copy(), context, "")
        for position, entry in enumerate(self.passes):
            failure = _run(entry, graph, context)
            after = self._state(graph.copy(), context, failure)
            if after.error > tolerance:
                return before, after, position
            before = after
        return before, None, len(self.passes)

    def state(self, position: int, fuel: int) -> _State:
        """The state after the passes before `position`, and that many rewrites of the pass there."""
        graph, context = self.fresh()
        Pipeline(self.passes[:position]).run(graph, context)
        context.fuel = len(context.rewrites) + fuel
        failure = _run(self.passes[position], graph, context)
        return self._state(graph, context, failure)

    def _state(self, graph: Graph, context: PassContext, failure: str) -> _State:
        rewrites = tuple(context.rewrites)
        if failure:
            return _State(graph, np.inf, "", rewrites, failure)
        try:
            output, error = largest_difference(self.probe.reference, self.probe.run(graph))
        except QCompilerError as problem:
            return _State(graph, np.inf, "", rewrites, f"The graph cannot be run any more: {problem}")
        return _State(graph, error, output, rewrites)


def _run(entry: Pass, graph: Graph, context: PassContext) -> str:
    """Runs one pass; returns how it failed, or ""."""
    try:
        Pipeline((entry,)).run(graph, context)
    except QCompilerError as error:
        return f"The pass failed: {error}"
    return ""
