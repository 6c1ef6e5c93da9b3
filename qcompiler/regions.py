"""Regions: the graph covered with the target's kernel patterns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from qcompiler.ir.facts import Fact
from qcompiler.ir.node import Use

if TYPE_CHECKING:
    from qcompiler.ir.node import Node, Value
    from qcompiler.patterns import Match
    from qcompiler.target import Kernel


@dataclass(frozen=True)
class Region:
    """One tile: nodes that a kernel executes in one go. Edges inside are never quantized.

    Attributes:
        nodes: In graph order; a single node where no kernel applies.
        kernel: None where no kernel applies.
        match: How the kernel's pattern lies on the nodes.
        refused: Kernels that nearly applied: (kernel name, reason).
    """

    nodes: tuple[Node, ...]
    kernel: Kernel | None = None
    match: Match | None = None
    refused: tuple[tuple[str, str], ...] = ()
    uses: dict[str, tuple[Use, ...]] = field(default_factory=dict, compare=False)

    @property
    def name(self) -> str:
        """The name of the first node; what plans and reports call the region."""
        return self.nodes[0].name

    @property
    def root(self) -> Node:
        """The node that computes the result."""
        return self.nodes[-1] if self.match is None else self.match.root

    @property
    def output(self) -> Value:
        """The result."""
        return self.root.output

    def operand(self, name: str) -> Value | None:
        """The value bound to a name of the kernel's pattern."""
        return None if self.match is None else self.match.get(name)


def operand_uses(match: Match) -> dict[str, tuple[Use, ...]]:
    """Which uses of the outside values each name of a pattern stands for.

    A value that two names share gives each name one of its uses; a variadic operator's unnamed operands are "...".
    """
    inside = {id(value) for node in match.nodes[:-1] for value in node.outputs}
    free = [
        Use(node, slot) for node in match.nodes for slot, value in node.operands() if id(value) not in inside
    ]
    found: dict[str, tuple[Use, ...]] = {}
    sharing = {
        id(value): [name for name, other in match.values.items() if other is value]
        for value in match.values.values()
    }
    for name, value in match.values.items():
        if value is None:
            continue
        mine = [use for use in free if dict(use.node.operands())[use.slot] is value]
        if len(sharing[id(value)]) > 1 and len(mine) > 1:
            position = sharing[id(value)].index(name)
            mine = mine[position : position + 1]
        found[name] = tuple(mine)
    named = {use for uses in found.values() for use in uses}
    rest = tuple(use for use in free if use not in named)
    if rest:
        found["..."] = rest
    return found


REGIONS = Fact[list[Region]]("regions", "every node belongs to one region of the target's tiling")
