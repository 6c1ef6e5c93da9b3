"""How rows were chosen under a budget: what was predicted for them and for all others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from qcompiler.ir.facts import Fact


@dataclass(frozen=True)
class Considered:
    """A row that a region could run as.

    Attributes:
        row: Its name.
        own_loss: Predicted loss of what it reads, and of what it can write in one encoding only, in the unit of `Decision.measure`.
        loss: By how much the predicted loss would change if this region alone ran as this row.
        size: Likewise the size, bits: of what `Decision.sized` names.
        latency: Likewise the latency, seconds.
        breaks: The limits that would be exceeded.
    """

    row: str
    own_loss: float
    loss: float
    size: float
    latency: float
    breaks: tuple[str, ...]


@dataclass(frozen=True)
class Weighed:
    """A region's chosen row and all that were considered, that one included."""

    row: str
    considered: tuple[Considered, ...]


@dataclass(frozen=True)
class Decision:
    """A choice of rows for all regions.

    Attributes:
        minimise: What was made as small as possible: "loss", "size" or "latency".
        limits: The limits: size in bits, of weights alone where their average is limited, else of all constants; latency in
            seconds; loss.
        loss: Predicted loss.
        weight_bits: Average bits per weight.
        size_bytes: Predicted bytes of weights and tables.
        latency: Predicted seconds of an inference; 0 where the target states no speed.
        bound: What the minimised quantity cannot be below.
        optimal: Whether the choice is proven best.
        binding: The limits that cost something.
        regions: By region name.
        measure: What losses are, see `Sensitivity.measure`.
        unmet: Why the limits cannot be kept, where they cannot: the choice is then the one that comes nearest.
        missed: The limit that cannot be kept; empty where all are. "loss" is none of the user's: searches set it.
        sized: What the limit on size is about.
        slower: Whether the limit on latency is what the limit on the loss asks for, because one precision everywhere, which nobody
            asked to be slower than, loses more.
        narrow: How many values are stored in as few bits as rows allow because there is no memory for more.
    """

    minimise: str
    limits: Mapping[str, float]
    loss: float
    weight_bits: float
    size_bytes: float
    latency: float
    bound: float
    optimal: bool
    binding: tuple[str, ...]
    regions: Mapping[str, Weighed] = field(default_factory=dict)
    measure: str = ""
    unmet: str = ""
    missed: str = ""
    sized: Literal["weights", "constants"] = "constants"
    slower: bool = False
    narrow: int = 0

    @property
    def keeps_limits(self) -> bool:
        """Whether all limits of the user's are kept."""
        return self.missed in ("", "loss")

    def to_json(self) -> dict[str, Any]:
        """As in report.json."""
        return asdict(self)


def weighed_reason(decision: Decision, weighed: Weighed) -> str:
    """Why a region runs as its row, in a sentence."""
    chosen = next(item for item in weighed.considered if item.row == weighed.row)
    within = ", ".join(_limit(name, limit, decision.sized) for name, limit in decision.limits.items())
    within = f" within {within}" if within else ""
    return f"{weighed.row}: the least {decision.minimise} of the whole{within}; its values lose {chosen.own_loss:.3g} (predicted)"


def refused_reasons(decision: Decision, weighed: Weighed) -> dict[str, str]:
    """What each other row would have meant, by row."""
    return {item.row: _refused(item) for item in weighed.considered if item.row != weighed.row}


def _refused(item: Considered) -> str:
    changes = [f"loss {item.loss:+.3g}"]
    if item.size:
        changes.append(f"{item.size / 8:+,.0f} bytes")
    if item.latency:
        changes.append(f"{item.latency * 1e6:+.3g} us")
    broken = f"; would break the limit on {' and '.join(item.breaks)}" if item.breaks else ""
    return f"legal; instead: {', '.join(changes)} (predicted){broken}"


def _limit(name: str, limit: float, sized: str) -> str:
    if name == "size":
        return f"{limit / 8:,.0f} bytes of {sized}"
    return f"{limit * 1e3:.4g} ms" if name == "latency" else f"a loss of {limit:.3g}"


DECISION = Fact[Decision](
    "decision", "rows were chosen under a budget, and what others would have cost is known"
)
