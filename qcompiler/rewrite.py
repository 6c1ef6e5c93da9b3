"""Rewrites: a pattern, a check with a reason, and a replacement; and the driver that applies them."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from qcompiler.errors import PassError
from qcompiler.ir.node import Value
from qcompiler.pass_manager import Level, Pass, PassContext, PassResult
from qcompiler.patterns import Match, Miss, Pattern

if TYPE_CHECKING:
    from qcompiler.ir.graph import Graph
    from qcompiler.ir.node import Node


_REWRITES_PER_NODE = 64  # more than any that ends: each node of a graph is rewritten a few times at most


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
        """Why the match must be left alone, or None to go ahead; "" leaves it alone without a word."""
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
    """Applies rewrites to a fixed point: every node, again wherever something near changed, until nothing changes.

    Raises:
        PassError: There is no fixed point; the message names the rewrite.
    """
    by_op: dict[str, list[tuple[Rewrite, Pattern]]] = {}
    for rewrite in rewrites:
        for text in rewrite.patterns:
            pattern = Pattern(text)
            for op in pattern.anchor_ops:
                by_op.setdefault(op.rpartition("::")[2], []).append((rewrite, pattern))
    result = PassResult()
    misses: dict[tuple[str, Node], Miss] = {}
    limit = _REWRITES_PER_NODE * (graph.node_count + 1)
    made = -1
    while made < result.changed:
        made = result.changed  # a change can complete a pattern that is anchored far away, so sweep again
        _sweep(graph, by_op, context, result, misses, limit)
    for (rule, node), miss in misses.items():
        if node.graph is graph:
            result.say(Level.NEAR_MISS, node.name, f"{rule} does not apply {miss}")
    return result


def _sweep(
    graph: Graph,
    by_op: dict[str, list[tuple[Rewrite, Pattern]]],
    context: PassContext,
    result: PassResult,
    misses: dict[tuple[str, Node], Miss],
    limit: int,
) -> None:
    """Tries every node once, and again whatever is near a change."""
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
                if result.changed > limit:
                    raise PassError(
                        f"The rewrite {rewrite.name} does not come to an end: after {limit} rewrites it still applies, last "
                        f"at {node.name}. What it makes must not match it, or another rewrite, again."
                    )
                break


def _try(
    graph: Graph,
    node: Node,
    rewrite: Rewrite,
    pattern: Pattern,
    context: PassContext,
    result: PassResult,
    misses: dict[tuple[str, Node], Miss],
) -> list[Node] | None:
    """Applies one rewrite at one node; returns the nodes to look at again, or None if nothing was done."""
    match = pattern.match(node)
    key = (rewrite.name, node)
    if isinstance(match, Miss):
        if rewrite.report_misses and match.matched >= rewrite.report_misses:
            best = misses.get(key)
            if best is None or match.matched > best.matched:
                misses[key] = match
        return None
    reason = rewrite.check(match)
    if reason is not None:
        if reason:
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
        result_value, result_name = match.root.output, match.root.output.name
        finish(graph, match, value)
        if value.producer in made and result_value.graph is None and not graph.has_value(result_name):
            # The same numbers keep their name: users select and compare by it.
            graph.rename(value, result_name)
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


def absorb(graph: Graph, node: Node, follower: Node) -> Value:
    """Lets a node compute what its only follower did, after its operands were changed to do so, and removes the follower.

    The node's first output takes over the follower's uses, name and type, the node its origins.

    Returns:
        The node's first output.
    """
    value, gone = node.output, follower.output
    name = gone.name
    value.dtype, value.shape = gone.dtype, gone.shape
    graph.replace_uses(gone, value)
    graph.remove(follower)
    if value.name != name:
        graph.rename(value, name)
    inherit(node, follower)
    return value


def inherit(node: Node, *sources: Node) -> None:
    """Adds the origins of other nodes, whose work a node now does too, to its own."""
    node.origin = tuple(dict.fromkeys(name for item in (node, *sources) for name in item.origin))


def prune(graph: Graph, node: Node) -> None:
    """Removes a node if none of its outputs is used, and then what it alone kept alive."""
    stack = [node]
    while stack:
        item = stack.pop()
        if item.graph is not graph or any(
            value is not None and (value.uses or value.is_output) for value in item.outputs
        ):
            continue
        producers = [value.producer for _, value in item.operands() if value.producer is not None]
        graph.remove(item)
        stack.extend(producers)


def _around(match: Match) -> list[Node]:
    near = list(match.root.output.consumers)
    for node in match.nodes:
        near += [value.producer for _, value in node.operands() if value.producer is not None]
    return near
