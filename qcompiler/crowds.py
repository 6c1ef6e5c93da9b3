"""Where memory is short: what is alive together and takes more of it than there is.

Who plans memory is the target's code; who can do something about it is precision assignment, which stores values in fewer bits.
What passes between them is this.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qcompiler.ir.graph import Graph
    from qcompiler.ir.plan import Plan


@dataclass(frozen=True)
class Crowd:
    """An operation during which memory is needed beyond the limit.

    Attributes:
        values: Names of the graph's values that are in memory meanwhile, in any encoding.
        excess: Bytes beyond the limit, at least 1.
    """

    values: frozenset[str]
    excess: int


Crowds = Callable[["Graph", "Plan"], tuple[Crowd, ...]]
"""Plans the memory of a graph with a plan, and says where it exceeds its limit; empty where it does not, or nothing limits it."""
