"""fuse: covers the graph with the target's kernel patterns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from qcompiler.ir.facts import CANONICAL
from qcompiler.pass_manager import Effect, Level, Pass, PassContext, PassResult
from qcompiler.patterns import Match, Miss
from qcompiler.predicates import refusal
from qcompiler.regions import REGIONS, Region, operand_uses

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from qcompiler.ir.graph import Graph
    from qcompiler.ir.node import Node
    from qcompiler.target import Kernel, Target


@dataclass(frozen=True)
class _Candidate:
    kernel: Kernel
    match: Match
    order: int
    longest: bool


@dataclass(frozen=True)
class Fuse(Pass):
    """Covers the graph with the target's kernel patterns: every node gets into exactly one region.

    All matches, and their beginnings, compete; the longest wins, then the one that begins deepest in the graph (of two branches that meet in an
    addition, the longer one takes it and the other is its shortcut), then the kernel that the descriptor lists first.
    """

    name = "fuse"
    effect = Effect.ANNOTATES
    requires = (CANONICAL,)
    establishes = (REGIONS,)

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        """Establishes REGIONS."""
        result = PassResult()
        order = graph.topological()
        candidates, refused = _candidates(order, context.target)
        depth = _depths(order)
        candidates.sort(key=lambda item: (-len(item.match.nodes), -depth[item.match.anchor], item.order))
        region_of: dict[Node, Region] = {}
        for item in candidates:
            if any(node in region_of for node in item.match.nodes):
                continue
            region = Region(
                item.match.nodes,
                item.kernel,
                item.match,
                _told(refused, item.match.anchor),
                operand_uses(item.match),
            )
            region_of.update(dict.fromkeys(item.match.nodes, region))
            result.count(item.kernel.name)
            for reason in item.match.stopped if item.longest else ():
                result.say(Level.NEAR_MISS, region.name, f"kernel {item.kernel.name} ends early: {reason}")
        regions = (region_of.get(node) or Region((node,), refused=_told(refused, node)) for node in order)
        # In the order of their results: only so does a region come behind all that it reads.
        graph.facts[REGIONS] = [
            region for node, region in zip(order, regions, strict=True) if region.root is node
        ]
        return result


def _told(refused: Mapping[Node, list[tuple[str, str]]], node: Node) -> tuple[tuple[str, str], ...]:
    """What kernels said of a node, each thing once: the shorter matches of a pattern mostly repeat the longest's reason."""
    return tuple(dict.fromkeys(refused.get(node, ())))


def _candidates(
    order: Sequence[Node], target: Target | None
) -> tuple[list[_Candidate], dict[Node, list[tuple[str, str]]]]:
    by_op: dict[str, list[tuple[int, Kernel]]] = {}
    for position, kernel in enumerate(target.kernel if target is not None else ()):
        for op in kernel.compiled.anchor_ops:
            by_op.setdefault(op.rpartition("::")[2], []).append((position, kernel))
    found: list[_Candidate] = []
    refused: dict[Node, list[tuple[str, str]]] = {}
    for node in order:
        for position, kernel in by_op.get(node.op, ()):
            for number, match in enumerate(kernel.compiled.matches(node)):
                reason = match.reason if isinstance(match, Miss) else refusal(match, kernel.limits)
                if isinstance(match, Match) and reason is None:
                    found.append(_Candidate(kernel, match, position, number == 0))
                elif reason is not None:
                    refused.setdefault(node, []).append((kernel.name, reason))
    return found, refused


def _depths(order: Sequence[Node]) -> dict[Node, int]:
    """The longest path from an input to each node, in nodes."""
    depth: dict[Node, int] = {}
    for node in order:
        depth[node] = 1 + max(
            (depth[value.producer] for _, value in node.operands() if value.producer is not None), default=0
        )
    return depth
