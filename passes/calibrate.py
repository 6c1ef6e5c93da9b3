"""calibrate: observes, on calibration data, every value that the target could quantize."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from qcompiler.assignment import Problem, observable
from qcompiler.calibration import collect
from qcompiler.errors import DataError
from qcompiler.imported import imported_ranges
from qcompiler.observed import IMPORTED, RANGES, Ranges
from qcompiler.pass_manager import Effect, Level, Pass, PassContext, PassResult
from qcompiler.ranges import range_method
from qcompiler.regions import REGIONS
from qcompiler.statistics import Statistics

if TYPE_CHECKING:
    from qcompiler.ir.graph import Graph


@dataclass(frozen=True)
class Calibrate(Pass):
    """Observes the values that a legal kernel row could quantize: one pass over the data, in bounded memory.

    `method` makes ranges of what was seen: `min-max`, `moving-average`, `percentile` (or `percentile:99.99`), `entropy`,
    `mse`. Values whose encoding came with the model need no data, and with a plan in the context nothing does; what data
    there are then serve to correct biases as they were when the plan was made. With a statistics file in the context,
    statistics are read from it if it exists and written to it if not. `batch` 0 fits the batch to the activations' size.
    """

    name = "calibrate"
    effect = Effect.ANNOTATES
    requires = (REGIONS,)
    establishes = (RANGES,)

    method: str = "mse"
    batch: int = 0
    drawn: int = 1024

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        """Establishes RANGES.

        Raises:
            DataError: Something has to be observed and there are no data, or the data do not fit.
        """
        assert context.target is not None, "calibrate needs a target"
        result = PassResult()
        problem = Problem.state(graph, context.target, graph.facts[REGIONS])
        imported = imported_ranges(graph, graph.facts.get(IMPORTED) or {})
        names = [value.name for value in observable(problem) if value not in imported]
        method = range_method(self.method)
        statistics = None
        if names and (context.plan is None or _has_data(context)):
            statistics = self._statistics(graph, context, names, result)
        elif names:
            result.say(
                Level.INFO, "", "ranges are the plan's; without calibration data biases are not corrected"
            )
        result.count("observed values", len(names) if statistics is not None else 0)
        graph.facts[RANGES] = Ranges(statistics, method)
        return result

    def _statistics(
        self, graph: Graph, context: PassContext, names: list[str], result: PassResult
    ) -> Statistics:
        if context.statistics is not None and context.statistics.exists():
            statistics = Statistics.load(context.statistics, graph)
            missing = [name for name in names if name not in statistics]
            if missing:
                raise DataError(
                    f"The statistics file {context.statistics} lacks {len(missing)} of {len(names)} values that this target could quantize "
                    f"(the first is {missing[0]!r}); it was made for another target. Remove it, or name another file."
                )
            result.say(
                Level.INFO, "", f"statistics of {statistics.samples} samples read from {context.statistics}"
            )
            return statistics
        if context.calibration is None:
            raise DataError(
                f"{len(names)} values have to be observed to choose their ranges (the first is {names[0]!r}), but there are no calibration "
                "data; give --calibration NPZ with some hundred typical samples."
            )
        statistics = collect(
            graph, names, context.calibration, batch=self.batch or None, drawn=self.drawn,
            progress=lambda done, total: context.progress("calibrating", done, total),
        )  # fmt: skip
        if context.statistics is not None:
            statistics.save(context.statistics)
        return statistics


def _has_data(context: PassContext) -> bool:
    return context.calibration is not None or (context.statistics is not None and context.statistics.exists())
