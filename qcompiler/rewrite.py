"""Rewrites: a pattern, a check with a reason, and a replacement; and the driver that applies them."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from qcompiler.ir.node import Value
from qcompiler.pass_manager import Level, Pass, PassContext, PassResult
from qcompiler.patterns import Match, Miss, Pattern

if TYPE_CHECKING:
    from qcompiler.ir.graph import Graph
    from qcompiler.ir.node import Node


class Rewrite:
    """One rule. Subclasses give `pattern`, perhaps `check`, and `replace`.

    Attributes:
        name: What counts and diagnostics call it.
        patterns: Any of these, tried in order at every node; see `qcompiler.patterns`.
        report_misses: From how many matching nodes on a miss is worth telling; 0 for never.
    """

    name: ClassVar[str] = ""
    patterns: ClassVar[tuple[str, ...]] = ()
    report_misses: ClassVar[int] = 0

    def check(self, match: Match) -> str | None:
        """Why the match must be left alone, or None to go ahead."""
        return None

    def replace(self, graph: Graph, match: Match) -> Value | None:
        """Builds the replacement and returns the value that stands for the match's result.

        Called inside `graph.deriving(match.nodes)`: new nodes inherit the origins. The driver then redirects the uses
        and removes what is dead. None means that nothing came of it; the graph must then be unchanged.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class RewritePass(Pass):
    """A pass made of rewrites alone."""

    rewrites: ClassVar[tuple[type[Rewrite], ...]] = ()

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        """Applies the rewrites until none applies."""
        return apply_rewrites(graph, [rewrite() for rewrite in self.rewrites], context)


def apply_rewrites(graph: Graph, rewrites: Sequence[Rewrite], context: PassContext) -> PassResult:
    """Applies rewrites to a fixed point: every node once, then again wherever something near it changed."""
    by_op: dict[str, list[tuple[Rewrite, Pattern]]] = {}
    for rewrite in rewrites:
        for text in rewrite.patterns:
            pattern = Pattern(text)
            for op in pattern.anchor_ops:
                by_op.setdefault(op.rpartition("::")[2], []).append((rewrite, pattern))
    result = PassResult()
    misses: dict[tuple[str, str], Miss] = {}
    work = deque(graph.topological())
    queued = set(work)
    while work:
        node = work.popleft()
        queued.discard(node)
        if node.graph is not graph:
            continue
        for rewrite, pattern in by_op.get(node.op, ()):
            touched = _try(graph, node, rewrite, pattern, context, result, misses)
            if touched is not None:
                fresh = [item for item in touched if item not in queued]
                work.extend(fresh)
                queued.update(fresh)
                break
    for (rule, name), miss in misses.items():
        result.say(Level.NEAR_MISS, name, f"{rule} does not apply {miss}")
    return result


def _try(
    graph: Graph, node: Node, rewrite: Rewrite, pattern: Pattern, context: PassContext, result: PassResult, misses: dict[tuple[str, str], Miss]
) -> list[Node] | None:
    """Applies one rewrite at one node; returns the nodes to look at again, or None if nothing was done."""
    match = pattern.match(node)
    key = (rewrite.name, node.name)
    if isinstance(match, Miss):
        if rewrite.report_misses and match.matched >= rewrite.report_misses:
            best = misses.get(key)
            if best is None or match.matched > best.matched:
                misses[key] = match
        return None
    reason = rewrite.check(match)
    if reason is not None:
        misses[key] = Miss(len(match.nodes), reason, match.root.name)
        return None
    if not context.allow(f"{rewrite.name} at {node.name}"):
        return None
    with graph.deriving(match.nodes) as made:
        value = rewrite.replace(graph, match)
        if value is None:
            context.rewrites.pop()
            return None
        misses.pop(key, None)
        around = _around(match)
        finish(graph, match, value)
    result.count(rewrite.name)
    around += [*made, *value.consumers]
    if value.producer is not None:
        around.append(value.producer)
    return [item for item in dict.fromkeys(around) if item.graph is graph]


def finish(graph: Graph, match: Match, value: Value) -> None:
    """Redirects the uses of a match's result to a new value and removes what nobody uses any more."""
    old = match.root.output
    if old is not value:
        if value.data is None:
            value.dtype = value.dtype if value.dtype is not None else old.dtype
            value.shape = value.shape if value.shape is not None else old.shape
        graph.replace_uses(old, value)
    for node in sorted(match.nodes, key=lambda item: item.rank, reverse=True):
        prune(graph, node)


def prune(graph: Graph, node: Node) -> None:
    """Removes a node if none of its outputs is used, and then what it alone kept alive."""
    stack = [node]
    while stack:
        item = stack.pop()
        if item.graph is not graph or any(value is not None and (value.uses or value.is_output) for value in item.outputs):
            continue
        producers = [value.producer for _, value in item.operands() if value.producer is not None]
        graph.remove(item)
        stack.extend(producers)


def _around(match: Match) -> list[Node]:
    near = list(match.root.output.consumers)
    for node in match.nodes:
        near += [value.producer for _, value in node.operands() if value.producer is not None]
    return near
