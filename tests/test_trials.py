"""Searching among assignments that are measured: what is tried, what is kept, and what a front shows."""

from __future__ import annotations

import dataclasses
import gc
import itertools
import math
import weakref
from dataclasses import dataclass, field

import pytest

from qcompiler.budget import Budget
from qcompiler.decision import Decision
from qcompiler.evaluation import Evaluation, Measured
from qcompiler.ir.graph import Graph
from qcompiler.ir.plan import Plan, PlannedRegion
from qcompiler.metrics import METRICS
from qcompiler.trials import Best, Trial, distinct, front, is_within, rows_of, smallest_within, undominated

BEFORE = 0.9


def trial(
    rows: str, *, size: int = 100, drop: float = 0.0, error: float = 0.1, loss: float = 0.1, latency: float = 1.0,
    bits: float = 4.0, missed: str = "", budget: Budget | None = None,
) -> Trial:  # fmt: skip
    """A trial as if it had been compiled and measured."""
    decision = Decision(
        "size", {}, loss, bits, size, latency, 0.0, True, (), missed=missed, unmet=missed and "no"
    )
    regions = tuple(
        PlannedRegion(f"r{i}", (f"n{i}",), "k", row, True, "", ()) for i, row in enumerate(rows.split())
    )
    plan = Plan("npu", "", "float32", regions, ())
    sqnr = -10 * math.log10(error)
    models = {"float": Measured(BEFORE, math.inf, 0, 0), "reference": Measured(BEFORE - drop, sqnr, 0, 0)}
    evaluation = Evaluation(METRICS["top1"], 100, models)
    return Trial(
        plan=plan, evaluation=evaluation, size=size, budget=budget or Budget(), decision=decision, records=()
    )


@dataclass
class World:
    """Assignments 0, 1, ..., each of twice the loss and less size; what is asked for is what the selection would find.

    Attributes:
        drops: The measured drop of each.
        least: The first that the limits other than loss allow.
        broken: Whether these cannot be kept at all.
        asked: The budgets that were asked for.
        measured: The assignments that were measured, in order.
    """

    drops: list[float]
    least: int = 0
    broken: bool = False
    asked: list[Budget] = field(default_factory=list)
    measured: list[int] = field(default_factory=list)

    def loss(self, number: int) -> float:
        return 1e-4 * 2.0**number

    def compiled(self, budget: Budget) -> Trial:
        self.asked.append(budget)
        fitting = [
            number
            for number in range(self.least, len(self.drops))
            if (budget.loss is None or self.loss(number) <= budget.loss)
            and (budget.weight_bits is None or self.bits(number) <= budget.weight_bits + 1e-9)
        ]
        number = (max if budget.minimise == "size" else min)(fitting, default=self.least)
        missed = "size" if self.broken else "" if fitting else "loss"
        if number not in self.measured:
            self.measured.append(number)
        return trial(
            f"row{number}", size=1000 - 10 * number, drop=self.drops[number], error=self.loss(number) / 10, loss=self.loss(number),
            bits=self.bits(number), missed=missed, budget=budget,
        )  # fmt: skip

    def bits(self, number: int) -> float:
        return 8 * 0.9**number


def found(world: World, allowed: float, base: Budget | None = None) -> tuple[list[Trial], Trial]:
    best = Best(allowed)
    trials = list(smallest_within(world.compiled, base or Budget(minimise="size"), allowed))
    for item in trials:
        best.offer(item, Graph())
    assert best.trial is not None
    return trials, best.trial


# -- the smallest within a drop ------------------------------------------------------------------------------------


@pytest.mark.parametrize("last", range(3, 17))
def test_the_smallest_within_is_found(last: int) -> None:
    """Losses are doubled from one to the next, and limits are closed in to a quarter: no neighbour is missed."""
    world = World([0.0] * (last + 1) + [0.2] * (19 - last))
    trials, best = found(world, 0.01)
    assert best.plan.regions[0].row == f"row{last}"
    assert len(trials) <= len(world.asked) <= 7
    assert len({item.rows for item in trials}) == len(trials)


def test_where_everything_is_within_the_smallest_is_taken_without_ado() -> None:
    trials, best = found(World([0.0] * 12), 0.01)
    assert best.size == 1000 - 10 * 11
    assert len(trials) <= 4


def test_where_nothing_is_within_the_least_loss_is_the_end() -> None:
    world = World([0.5, 0.6, 0.7, 0.8, 0.9, 0.9, 0.9, 0.9, 0.9])
    _, best = found(world, 0.01)
    assert world.asked[-1].loss is not None
    assert world.asked[-1].loss < world.loss(0)
    assert best.drop == pytest.approx(0.5)


def test_limits_between_a_failed_choice_and_its_own_loss_are_not_asked_for() -> None:
    """They choose the same again: here from the first limit down to a loss that is far below it."""
    world = World([0.0] * 4 + [0.5])
    _, best = found(world, 0.01)
    assert best.plan.regions[0].row == "row3"
    first, second, *_ = (asked.loss for asked in world.asked)
    assert first is not None
    assert second is not None
    assert second < world.loss(4) < first


def test_the_least_loss_that_there_is_may_be_above_the_first_limit() -> None:
    """Other limits allow nothing of small loss; what they allow may be within the drop all the same."""
    world = World([0.0] * 12, least=10)
    trials, best = found(world, 0.01, Budget(size=900, minimise="size"))
    assert best.plan.regions[0].row == "row11"
    assert all(item.budget.size == 900 for item in trials)


def test_limits_that_cannot_be_kept_are_not_searched() -> None:
    world = World([0.0] * 12, broken=True)
    trials, best = found(world, 0.01)
    assert len(trials) == len(world.asked) == 1
    assert not best.decision.keeps_limits


def test_drops_that_come_and_go() -> None:
    """Luck on few samples: whatever is taken is within."""
    drops = [0.0, 0.02, 0.0, 0.0, 0.02, 0.0, 0.0, 0.02, 0.0, 0.02, 0.02, 0.0, 0.02, 0.3, 0.4]
    trials, best = found(World(drops), 0.01)
    assert is_within(best, 0.01)
    assert best.size == min(item.size for item in trials if is_within(item, 0.01))


def test_a_drop_of_nothing_is_within_nothing_but_for_rounding() -> None:
    assert is_within(trial("a", drop=0.0), 0.0)
    assert is_within(trial("a", drop=-0.1), 0.0)
    assert is_within(trial("a", drop=0.3 - 0.2 - 0.1 + 1e-16), 0.0)
    assert not is_within(trial("a", drop=1e-9), 0.0)


def test_what_is_limited_anyway_stays_limited() -> None:
    world = World([0.0] * 12)
    base = Budget(weight_bits=6.0, latency=2.0, minimise="latency")
    found(world, 0.01, base)
    assert {(asked.weight_bits, asked.latency, asked.minimise) for asked in world.asked} == {
        (6.0, 2.0, "latency")
    }
    assert len({asked.loss for asked in world.asked}) == len(world.asked)


# -- the best ------------------------------------------------------------------------------------------------------


def ranked(allowed: float | None, minimise: str, *trials: Trial) -> str:
    best = Best(allowed, minimise)
    for item in trials:
        best.offer(item, Graph())
    assert best.trial is not None
    return best.trial.plan.regions[0].row


def test_what_is_best() -> None:
    small, fast = trial("small", size=10, latency=9.0), trial("fast", size=20, latency=1.0)
    assert ranked(0.01, "size", fast, small) == ranked(0.01, "size", small, fast) == "small"
    assert ranked(0.01, "latency", small, fast) == ranked(0.01, "latency", fast, small) == "fast"
    outside = trial("outside", size=1, drop=0.5)
    assert ranked(0.01, "size", outside, small) == ranked(0.01, "size", small, outside) == "small"
    worse = trial("worse", size=1, drop=0.6)
    assert ranked(0.01, "size", worse, outside) == "outside"
    breaks = trial("breaks", size=1, missed="size")
    assert ranked(0.01, "size", breaks, small) == ranked(0.01, "size", small, breaks) == "small"
    searched = trial("searched", size=1, missed="loss")
    assert ranked(0.01, "size", small, searched) == "searched"


def test_of_equals_the_first_is_kept() -> None:
    assert ranked(0.01, "size", trial("first"), trial("second")) == "first"
    assert ranked(0.01, "size", trial("first", drop=0.01), trial("second", drop=0.005)) == "second"


def test_without_a_drop_the_first_is_the_one() -> None:
    assert ranked(None, "size", trial("first", size=10, drop=0.5), trial("second", size=1)) == "first"


def test_one_graph_outlives_its_trial() -> None:
    best = Best(0.0)
    graphs = [Graph(str(number)) for number in range(5)]
    watched = [weakref.ref(graph) for graph in graphs]
    for number, size in enumerate((5, 3, 4, 2, 6)):
        best.offer(trial(f"r{number}", size=size), graphs[number])
    del graphs
    gc.collect()
    assert [item() is not None for item in watched] == [False, False, False, True, False]
    assert best.graph is watched[3]()


# -- fronts --------------------------------------------------------------------------------------------------------


def test_a_front_reaches_from_the_smallest_to_the_best() -> None:
    world = World([0.01 * number for number in range(16)])
    trials = list(front(world.compiled, Budget(latency=3.0)))
    assert trials[0].plan.regions[0].row == "row15"
    assert trials[-1].plan.regions[0].row == "row0"
    assert len({item.rows for item in trials}) == len(trials) == 8
    bits = [item.decision.weight_bits for item in trials]
    assert bits == sorted(bits)
    assert all(asked.latency == 3.0 for asked in world.asked)
    steps = [math.log(high / low) for low, high in itertools.pairwise(bits)]
    assert max(steps) < 2.5 * min(steps)


@pytest.mark.parametrize("count", [1, 2])
def test_a_front_of_few(count: int) -> None:
    assert len(list(front(World([0.0] * count).compiled, Budget()))) == count


def test_what_is_not_dominated() -> None:
    trials = [
        trial("large", size=30, drop=0.0, error=0.01),
        trial("dominated", size=30, drop=0.0, error=0.02),
        trial("middle", size=20, drop=0.1, error=0.1),
        trial("slow", size=20, drop=0.1, error=0.1, latency=2.0),
        trial("small", size=10, drop=0.2, error=0.2),
        trial("middle", size=20, drop=0.1, error=0.1, loss=7.0),
        trial("worse", size=25, drop=0.3, error=0.3),
        trial("lucky", size=22, drop=0.05, error=0.4),
        trial("fast", size=40, drop=0.3, error=0.3, latency=0.5),
    ]
    kept = undominated(trials)
    assert [item.plan.regions[0].row for item in kept] == ["small", "middle", "lucky", "large", "fast"]
    assert kept[1] is trials[2]
    assert undominated(reversed(trials))[1].decision.loss == 7.0
    assert undominated([]) == []


def test_the_same_numbers_of_other_rows_are_another_point() -> None:
    assert len(undominated([trial("a b"), trial("b a"), trial("a b")])) == 2
    assert [item.rows for item in distinct([trial("a b"), trial("b a"), trial("a b")])] == [
        ("a", "b"),
        ("b", "a"),
    ]


# -- trials --------------------------------------------------------------------------------------------------------


def test_a_trial_is_judged_by_what_goes_on_the_device() -> None:
    """As the result will be: where the artifact computes otherwise than the reference, the reference does not count."""
    item = trial("a", drop=0.0, error=0.01)
    artifact = Measured(BEFORE - 0.02, 10.0, 0, 0)
    both = dataclasses.replace(item.evaluation, models={**item.evaluation.models, "artifact": artifact})
    judged = dataclasses.replace(item, evaluation=both)
    assert (item.drop, item.error) == pytest.approx((0.0, 0.01))
    assert (judged.drop, judged.error) == pytest.approx((0.02, 0.1))
    assert is_within(item, 0.01)
    assert not is_within(judged, 0.01)
    assert judged.row()["metric"] == pytest.approx(BEFORE - 0.02)


def test_what_reports_say_of_a_trial() -> None:
    item = trial(
        "a b", size=77, drop=0.1, error=0.01, loss=0.3, latency=0.25, bits=3.5, budget=Budget(loss=0.5)
    )
    assert item.row() == {
        "loss_limit": 0.5, "predicted_loss": 0.3, "measured_error": pytest.approx(0.01), "sqnr_db": pytest.approx(20),
        "metric": pytest.approx(0.8), "drop": pytest.approx(0.1), "weight_bits": 3.5, "size_bytes": 77, "latency_ms": 250.0,
    }  # fmt: skip
    assert item.rows == rows_of(item.plan) == ("a", "b")


@pytest.mark.parametrize("sqnr", [math.inf, -math.inf])
def test_the_error_of_perfect_and_of_lost_outputs(sqnr: float) -> None:
    item = trial("a")
    item.evaluation.models["reference"].__dict__["sqnr_db"] = sqnr
    assert item.error == (0.0 if sqnr > 0 else math.inf)
