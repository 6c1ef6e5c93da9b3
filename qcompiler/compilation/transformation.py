"""Running the passes of a compilation."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qcompiler.errors import OptionError
from qcompiler.ir.plan import PLAN, Plan
from qcompiler.pass_manager import PassContext, Progress
from qcompiler.pipeline import Checks, PassRecord
from qcompiler.probe import Probe, random_feeds
from qcompiler.targets import part

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qcompiler.budget import Budget
    from qcompiler.compilation.request import Request
    from qcompiler.crowds import Crowds
    from qcompiler.evaluation import Evaluation
    from qcompiler.ir.graph import Graph


@dataclass(frozen=True)
class Made:
    """What the pipeline made.

    Attributes:
        graph: The reference graph.
        records: What each pass did.
        plan: The plan.
        evaluation: How it was measured already, if it was.
    """

    graph: Graph
    records: tuple[PassRecord, ...]
    plan: Plan
    evaluation: Evaluation | None = None


class Transformation:
    """The passes of a request, and what they are given."""

    def __init__(
        self, request: Request, progress: Progress, on_pass: Callable[[PassRecord], None] | None
    ) -> None:
        """Nothing runs yet.

        Args:
            request: What is asked.
            progress: Called with (what, done, total).
            on_pass: Called with each pass's record.
        """
        self.request = request
        self.progress = progress
        self.on_pass = on_pass
        self._passed = 0

    def run(self, graph: Graph, budget: Budget | None = None) -> Made:
        """Runs the whole pipeline.

        Args:
            graph: Is changed.
            budget: See `context`.

        Raises:
            QCompilerError: A pass refuses the model, or the pipeline makes no plan.
        """
        options = self.request.options
        checks = Checks(
            probe=Probe(graph, *self._probe_batches()) if options.verify_each else None,
            dump=Path(options.dump) if options.dump is not None else None,
            on_pass=self.passed,
        )
        records = tuple(self.request.pipeline.run(graph, self.context(budget), checks))
        if PLAN not in graph.facts:
            raise OptionError(
                "The pipeline makes no plan; it needs assign_precision (see `qcompiler passes`)."
            )
        return Made(graph, records, graph.facts[PLAN])

    def context(self, budget: Budget | None = None) -> PassContext:
        """What passes are given; the request's own budget where none is."""
        request = self.request
        return PassContext(
            target=request.target,
            calibration=request.calibration,
            plan=request.plan,
            budget=budget if budget is not None or request.plan is not None else request.budget,
            statistics=Path(request.options.statistics) if request.options.statistics is not None else None,
            float_format=request.float_format,
            crowds=self._crowds,
            progress=self.progress,
        )

    def passed(self, record: PassRecord) -> None:
        """Tells of a pass that has run."""
        self._passed += 1
        self.progress("passes", self._passed, len(self.request.pipeline.passes))
        if self.on_pass is not None:
            self.on_pass(record)

    @functools.cached_property
    def _crowds(self) -> Crowds | None:
        """Where a plan takes more memory than there is, on targets whose code plans memory."""
        find = getattr(part(self.request.target, "lower"), "crowds", None)
        max_ram = self.request.options.max_ram
        return functools.partial(find, target=self.request.target, max_ram=max_ram) if find else None

    def _probe_batches(self) -> list[dict[str, NDArray[Any]]]:
        data = self.request.calibration or self.request.evaluation
        return [
            *([next(iter(data.batches(2)))] if data is not None else []),
            random_feeds(self.request.graph),
        ]
