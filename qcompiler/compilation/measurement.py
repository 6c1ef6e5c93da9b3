"""Measuring what a compilation made: outputs against the float model's, and bytes."""

from __future__ import annotations

import collections
import dataclasses
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

from qcompiler.artifact import REFERENCE, Artifact, file_sha256
from qcompiler.compilation.limits import within_drop
from qcompiler.evaluation import Evaluation, Runnable, evaluate_models
from qcompiler.ir.onnx_import import load
from qcompiler.ir.plan import PLAN, Plan
from qcompiler.metrics import metric_named
from qcompiler.report.node_table import constant_bytes
from qcompiler.runtime import Session
from qcompiler.targets import part
from qcompiler.trials import Outcome

if TYPE_CHECKING:
    from pathlib import Path

    from qcompiler.compilation.request import Request
    from qcompiler.compilation.transformation import Made
    from qcompiler.ir.graph import Graph
    from qcompiler.lowering import Consumer, Lowered
    from qcompiler.pass_manager import Progress
    from qcompiler.target import Target


class Measurement:
    """Runs the float model, the reference and what goes on the device over the data of a request."""

    def __init__(self, request: Request, progress: Progress) -> None:
        """Nothing runs yet.

        Args:
            request: What is asked.
            progress: Called with (what, done, total).
        """
        self.request = request
        self.progress = progress

    def of(
        self, made: Made, artifact: Artifact | None, lowered: Lowered | None, consumer: Consumer | None
    ) -> Evaluation | None:
        """What was measured already, or what is now; either way the consumer has run all samples.

        Args:
            made: What the pipeline made.
            artifact: What has been written, if anything.
            lowered: What the target's code says of it.
            consumer: What runs it.

        Returns:
            None where there are no data.
        """
        if made.evaluation is None or (lowered is not None and self._executor is None):
            return self._evaluate(made.graph, made.plan, artifact, lowered, consumer)
        if consumer is not None and self.request.data is not None:
            collections.deque(consumer.stream(self.request.data), maxlen=0)
        return made.evaluation

    def outcome(self, graph: Graph) -> Outcome:
        """What came of a plan that the pipeline has written into the graph, measured.

        Raises:
            OptionError: The float model's metric is not finite, and the drop is limited.
        """
        plan = graph.facts[PLAN]
        evaluation = self._evaluate(graph, plan, None, None, None)
        assert evaluation is not None, "checked before"
        within_drop(self.request.options.max_drop, evaluation)
        return Outcome(plan=plan, evaluation=evaluation, size=self.size(graph, plan))

    def size(self, graph: Graph, plan: Plan) -> int:
        """Bytes of weights and tables: in the target's own artifact, if its code says so, else in the reference model."""
        own = getattr(part(self.request.target, "lower"), "constant_bytes", None)
        return constant_bytes(graph, plan) if own is None else int(own(graph, plan, self.request.target))

    @functools.cached_property
    def _executor(self) -> Callable[[Graph, Plan, Target], Runnable] | None:
        """What computes as the target's artifact does, if its code says so."""
        return getattr(part(self.request.target, "lower"), "executor", None)

    def _evaluate(
        self,
        graph: Graph,
        plan: Plan,
        artifact: Artifact | None,
        lowered: Lowered | None,
        consumer: Consumer | None,
    ) -> Evaluation | None:
        data, metric = self.request.data, self.request.metric
        if data is None:
            return None
        if self.request.evaluation is None and metric is None:
            metric = metric_named("sqnr")
        models: dict[str, Runnable] = {
            "float": Session(self.request.source), "reference": Session(graph, optimize=False),
        }  # fmt: skip
        same = False
        if consumer is not None:
            models["artifact"] = consumer
        elif self._executor is not None:
            models["artifact"] = self._executor(graph, plan, self.request.target)
        elif artifact is not None and lowered is not None and lowered.main.endswith(".onnx"):
            main = artifact.folder / lowered.main
            same = _same_bytes(artifact.folder / REFERENCE, main)
            if not same:
                models["artifact"] = Session(load(main), optimize=False)
        result = evaluate_models(
            models, data, metric, progress=lambda done, total: self.progress("evaluating", done, total)
        )
        if same:  # the reference is the artifact: running it again would show nothing
            return dataclasses.replace(
                result, models={**result.models, "artifact": result.models["reference"]}
            )
        return result


def _same_bytes(first: Path, second: Path) -> bool:
    return first.stat().st_size == second.stat().st_size and file_sha256(first) == file_sha256(second)
