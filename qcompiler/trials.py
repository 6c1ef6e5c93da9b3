"""Comparing assignments by measuring them: the smallest one within a drop, and the front of accuracy against size.

What is predicted from single experiments is not what comes out: errors of many layers meet, and refinement takes some of
them back. So an assignment is compiled and measured, and the limit on the predicted loss is moved until the measured drop
is what was asked for.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qcompiler.budget import Budget

if TYPE_CHECKING:
    from qcompiler.decision import Decision
    from qcompiler.evaluation import Evaluation, Measured
    from qcompiler.ir.graph import Graph
    from qcompiler.ir.plan import Plan
    from qcompiler.pipeline import PassRecord
    from qcompiler.target import Target

_FIRST_LOSS = 0.02  # a predicted error of 17 dB: most networks begin to lose accuracy somewhere around
_WIDEN = 5.0
_CLOSE = 1.25  # when the limits that passed and failed are this near to each other, the rest is luck
_ATTEMPTS = 7
_POINTS = 8  # of a front


Rows = tuple[str, ...]
"""The row of every region, in graph order: all that a plan decides; encodings follow."""


def rows_of(plan: Plan) -> Rows:
    """The rows of a plan."""
    return tuple(region.row for region in plan.regions)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A plan, compiled and measured.

    Attributes:
        plan: The plan.
        evaluation: The measurement.
        size: Bytes of weights and tables.
    """

    plan: Plan
    evaluation: Evaluation
    size: int

    @property
    def measured(self) -> Measured:
        """What goes on the device: the last of the models, as the result will be judged; the reference where it is the only one."""
        return self.evaluation.models[self._label]

    @property
    def _label(self) -> str:
        return list(self.evaluation.models)[-1]

    @property
    def drop(self) -> float:
        """How much worse the metric is than the float model's."""
        return self.evaluation.drop(self._label)

    @property
    def widths(self) -> tuple[int, ...]:
        """The bits of integers that computed values are stored in, each once, in increasing order."""
        formats = (group.encoding.format for group in self.plan.group_of_value().values())
        return tuple(sorted({item.bits for item in formats if item.is_integer}))

    def row(self) -> dict[str, Any]:
        """What reports say of it."""
        measured = self.measured
        return {
            "sqnr_db": measured.sqnr_db,
            "metric": measured.metric,
            "drop": self.drop,
            "size_bytes": self.size,
        }


@dataclass(frozen=True, kw_only=True)
class Trial(Outcome):
    """An assignment within a budget, compiled and measured.

    Attributes:
        budget: What it was limited to.
        decision: How its rows were chosen.
        records: What each pass did.
    """

    budget: Budget
    decision: Decision
    records: tuple[PassRecord, ...]

    @property
    def rows(self) -> Rows:
        """What tells it from other trials."""
        return rows_of(self.plan)

    @property
    def error(self) -> float:
        """The measured normalised output error."""
        return math.pow(10.0, -self.measured.sqnr_db / 10.0)

    def row(self) -> dict[str, Any]:
        """What reports say of it."""
        return {
            **super().row(),
            "loss_limit": self.budget.loss,
            "predicted_loss": self.decision.loss,
            "measured_error": self.error,
            "weight_bits": self.decision.weight_bits,
            "latency_ms": self.decision.latency * 1e3,
        }


def rows_of_width(target: Target, bits: int) -> tuple[str, ...]:
    """The names of a target's rows that write integers of so many bits, as they are preferred."""
    found: dict[str, None] = {}
    for row in (row for kernel in target.kernel for row in kernel.row):
        written = target.output_specs(row)[0].numeric
        if written.is_integer and written.bits == bits:
            found[row.name] = None
    return tuple(found)


Compile = Callable[[Budget], Trial]
"""Compiles and measures what is best within a budget; what has been measured before is not measured again."""


@dataclass
class Best:
    """The best trial so far with its graph: the only graph that outlives its trial.

    Attributes:
        allowed: The most that the metric may get worse; None: the first trial is the best.
        minimise: What is compared among trials that keep everything: "size" or "latency".
        trial: The best one.
        graph: Its reference graph.
    """

    allowed: float | None
    minimise: str = "size"
    trial: Trial | None = None
    graph: Graph | None = None

    def offer(self, trial: Trial, graph: Graph) -> None:
        """Keeps a trial and its graph if none was better."""
        better = self.trial is None or (
            self.allowed is not None
            and self._rank(trial, self.allowed) < self._rank(self.trial, self.allowed)
        )
        if better:
            self.trial, self.graph = trial, graph

    def _rank(self, trial: Trial, allowed: float) -> tuple[float, ...]:
        keeps, within = trial.decision.keeps_limits, is_within(trial, allowed)
        if not (keeps and within):
            return (1, not within, trial.drop, not keeps, trial.error)
        first = trial.decision.latency if self.minimise == "latency" else trial.size
        return (0, first, trial.drop, trial.size, trial.error)


def is_within(trial: Trial, allowed: float) -> bool:
    """Whether a trial's metric is no worse than allowed, but for rounding."""
    return trial.drop <= allowed + 1e-12


def smallest_within(compiled: Compile, base: Budget, allowed: float) -> Iterator[Trial]:
    """Trials on the way to the smallest assignment whose measured drop is allowed.

    The limit on the predicted loss is widened until one trial passes and one fails, then halved on a logarithmic scale. An
    assignment that has been measured is not measured again.

    Args:
        compiled: Compiles and measures.
        base: The limits that hold anyway, and what is minimised.
        allowed: The most that the metric may get worse.
    """
    passed: float | None = None
    failed: float | None = None
    limit = _FIRST_LOSS
    seen: dict[Rows, bool] = {}
    for _ in range(_ATTEMPTS):
        trial = compiled(dataclasses.replace(base, loss=limit))
        known = trial.rows in seen
        within = seen.setdefault(trial.rows, is_within(trial, allowed))
        if not known:
            yield trial
        if not trial.decision.keeps_limits:
            return  # whatever the loss, these are not kept
        if within:
            passed = limit = max(limit, trial.decision.loss)
            if failed is None and trial.decision.loss < limit / _WIDEN:
                return  # nothing smaller is left to try
        else:
            if trial.decision.missed:
                return  # this is the least loss that there is
            failed = limit = min(limit, trial.decision.loss)  # limits between the two choose the same
        if passed is not None and failed is not None:
            if failed / passed < _CLOSE:
                return
            limit = math.sqrt(passed * failed)
        else:
            limit = limit * _WIDEN if within else limit / _WIDEN


def front(compiled: Compile, base: Budget) -> Iterator[Trial]:
    """Trials of least loss between the smallest assignment and the best one, evenly spaced in the logarithm of their size."""
    ends = [
        compiled(dataclasses.replace(base, minimise="size")),
        compiled(dataclasses.replace(base, minimise="loss")),
    ]
    low, high = (max(trial.decision.weight_bits, 1e-3) for trial in ends)
    seen: set[Rows] = set()
    for index in range(_POINTS):
        bits = low * (max(high, low) / low) ** (index / (_POINTS - 1))
        if index in (0, _POINTS - 1):
            trial = ends[bool(index)]
        else:
            trial = compiled(dataclasses.replace(base, weight_bits=bits, minimise="loss"))
        if trial.rows not in seen:
            seen.add(trial.rows)
            yield trial


def distinct(trials: Iterable[Trial]) -> list[Trial]:
    """The trials without those whose rows an earlier one has."""
    found: dict[Rows, Trial] = {}
    for trial in trials:
        found.setdefault(trial.rows, trial)
    return list(found.values())


def undominated(trials: Iterable[Trial]) -> list[Trial]:
    """The trials than which no other is at least as small, as fast and as accurate, each once; smallest first."""
    listed = distinct(trials)
    key = [(trial.size, trial.decision.latency, trial.drop, trial.error) for trial in listed]
    kept = [
        trial
        for trial, own in zip(listed, key, strict=True)
        if not any(other != own and all(a <= b for a, b in zip(other, own, strict=True)) for other in key)
    ]
    return sorted(kept, key=lambda trial: (trial.size, trial.drop))
