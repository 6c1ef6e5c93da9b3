"""The measured search: assignments are compiled and measured; the smallest within the drop, or the budget's own, is what is made."""

from __future__ import annotations

import dataclasses
import gc
from typing import TYPE_CHECKING, Any

from qcompiler.budget import Budget
from qcompiler.compilation.transformation import Made
from qcompiler.decision import DECISION
from qcompiler.errors import OptionError
from qcompiler.ir.plan import PLAN
from qcompiler.pipeline import Checks, Pipeline
from qcompiler.trials import (
    Best,
    Rows,
    Trial,
    distinct,
    front,
    rows_of,
    rows_of_width,
    smallest_within,
    undominated,
)

if TYPE_CHECKING:
    from qcompiler.compilation.measurement import Measurement
    from qcompiler.compilation.request import Request
    from qcompiler.compilation.transformation import Transformation
    from qcompiler.ir.graph import Graph
    from qcompiler.pass_manager import Pass
    from qcompiler.pipeline import PassRecord
    from qcompiler.selection import Quantity


class Search:
    """Passes in front of the assignment run once; the assignment and those behind it run for every trial.

    Attributes:
        steps: What reports say of the trials, in the order they were made.
        widths: What reports say of all values in one width each, where the best trial mixes widths.
        front: The trials that no other is both smaller and better than.
        narrow: How many values had to take as few bits as rows allow, at most.
    """

    def __init__(self, request: Request, transformation: Transformation, measurement: Measurement) -> None:
        """Splits the pipeline.

        Raises:
            OptionError: It has no part that could be repeated.
        """
        names = [entry.name for entry in request.pipeline]
        if "assign_precision" not in names or "fuse" not in names[: names.index("assign_precision")]:
            raise OptionError(
                "--max-drop and --pareto compare assignments, for which the pipeline has to have fuse and, behind it, assign_precision."
            )
        passes, first = request.pipeline.passes, names.index("assign_precision")
        self.request, self.transformation, self.measurement = request, transformation, measurement
        self.steps: list[dict[str, Any]] = []
        self.widths: list[dict[str, Any]] = []
        self.front: list[Trial] = []
        self.narrow = 0
        self._fuse, self._assign = passes[names.index("fuse")], passes[first]
        self._before, self._finish = Pipeline(passes[:first]), Pipeline(passes[first + 1 :])
        self._records: tuple[PassRecord, ...] = ()
        self._best = Best(request.options.max_drop, request.options.minimise)
        self._measured: dict[Rows, Trial] = {}

    def run(self) -> Made:
        """Makes and measures trials until the limits are met as closely as they can be.

        Raises:
            QCompilerError: A pass refuses the model, or the drop cannot be measured.
        """
        options, best = self.request.options, self._best
        again = self.request.graph.copy() if options.dump is not None or options.verify_each else None
        checks, base = Checks(on_pass=self.transformation.passed), self.request.budget or Budget()
        self._records = tuple(self._before.run(self.request.graph, self.transformation.context(), checks))
        if options.max_drop is None:
            trials = [self._trial(base)]
        else:
            minimise: Quantity = "latency" if options.minimise == "latency" else "size"
            start = dataclasses.replace(base, minimise=minimise)
            trials = list(smallest_within(self._trial, start, options.max_drop))
        if options.pareto:
            trials += front(self._trial, base)
            self.front = undominated(trials)
        self.steps = [trial.row() for trial in distinct(trials)]
        assert best.trial is not None
        assert best.graph is not None
        if len(best.trial.widths) > 1:
            self.widths = [self._in_one_width(bits) for bits in best.trial.widths]
        if again is not None:  # once more with all checks: the same budget gives the same result
            return self.transformation.run(again, best.trial.budget)
        return Made(best.graph, best.trial.records, best.trial.plan, best.trial.evaluation)

    def points(self) -> list[dict[str, Any]]:
        """What reports say of the front's points, with the file of each one's plan."""
        return [
            {"plan": f"pareto/{number:02}.json", **trial.row()} for number, trial in enumerate(self.front, 1)
        ]

    def _trial(self, budget: Budget) -> Trial:
        """An assignment within a budget; one that was measured before is not measured again."""
        graph, context = self._fresh_graph(), self.transformation.context(budget)
        decided = tuple(Pipeline((self._fuse, self._assign)).run(graph, context))[1:]
        decision, rows = graph.facts[DECISION], rows_of(graph.facts[PLAN])
        self.narrow = max(self.narrow, decision.narrow)
        if rows in self._measured:
            return dataclasses.replace(self._measured[rows], budget=budget, decision=decision)
        records = (*self._records, *decided, *self._finish.run(graph, context))
        outcome = self.measurement.outcome(graph)
        trial = Trial(**vars(outcome), budget=budget, decision=decision, records=records)
        self._measured[rows] = trial
        self._best.offer(trial, graph)
        self.transformation.progress("measuring assignments", len(self._measured), len(self._measured) + 1)
        return trial

    def _in_one_width(self, bits: int) -> dict[str, Any]:
        """What reports say of all values in so many bits, wherever rows allow it: what a mix of widths is compared with."""
        preferring: Any = {"prefer": rows_of_width(self.request.target, bits)}
        assign: Pass = dataclasses.replace(self._assign, **preferring)
        graph, context = self._fresh_graph(), dataclasses.replace(self.transformation.context(), budget=None)
        Pipeline((self._fuse, assign, *self._finish.passes)).run(graph, context)
        return {"bits": bits, **self.measurement.outcome(graph).row()}

    def _fresh_graph(self) -> Graph:
        gc.collect()  # graphs are circular: that of the trial before would stay until the collector happens to come by
        return self.request.graph.copy(facts=True)
