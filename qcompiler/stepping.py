"""Running a graph over data step by step: each step goes on from where the one before stopped.

Between steps the graph may change behind the point that has been computed, which is how layers are refined one after the
other with what is before them already quantized. What has been computed is kept as the values on a cut through the graph,
as long as they fit a budget of memory; a cut that does not fit is not kept, and the steps behind it compute the nodes in
front of it again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from qcompiler.ir.part import ancestors, cut_out
from qcompiler.runtime import Arrays, Session

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qcompiler.data import DataSource
    from qcompiler.ir.graph import Graph
    from qcompiler.ir.node import Node, Value


class Stepper:
    """A graph, the data, and the values on the cut that has been reached.

    All that crosses a step is by batch of samples, as the graph computed it, so that nothing is assumed about batch axes.
    """

    def __init__(self, graph: Graph, source: DataSource, *, batch: int, budget: int) -> None:
        """Starts in front of the first node.

        Args:
            graph: May be changed between steps, but not what earlier steps have computed.
            source: The samples.
            batch: Samples per run; a graph of fixed batch size is given that many.
            budget: Bytes that the values on the cut may take.
        """
        self.graph = graph
        self.source = source
        self.budget = budget
        shapes = [value.shape for value in graph.inputs]
        bare = any(
            len(source.sample_shapes[v.name]) == v.rank
            for v in graph.inputs
            if v.name in source.sample_shapes
        )
        self.fixed = next((shape[0] for shape in shapes if shape and isinstance(shape[0], int)), None)
        self.batch = 1 if bare else self.fixed or batch
        self._done: dict[Node, None] = {}
        self._kept: list[Arrays] | None = None

    def step(self, values: Iterable[Value]) -> Iterator[Arrays]:
        """Computes values, batch by batch, by name; moves the cut behind what was computed if that fits the budget.

        Raises:
            DataError: The data do not fit.
            ModelError: The graph cannot be run.
        """
        wanted = list(dict.fromkeys(values))
        if self._kept and any(
            value.producer in self._done and value.name not in self._kept[0] for value in wanted
        ):
            self._done, self._kept = {}, None
        nodes = ancestors(wanted, self._done)
        reached = self._done | nodes
        crossing = self._crossing(reached)
        part = cut_out(self.graph, nodes, [*wanted, *crossing])
        session = Session(part, optimize="floats")
        names = {value.name for value in crossing}
        kept: list[Arrays] | None = []
        size = 0
        for feeds in self._feeds():
            given = {name: feeds[name] for name in session.input_names}
            computed = session.run(given) if session.output_names else {}
            passed = {**feeds, **computed}
            if kept is not None:
                kept.append({name: passed[name] for name in names})
                size += sum(array.nbytes for array in kept[-1].values())
                if size > self.budget:
                    kept = None
            yield {value.name: passed[value.name] for value in wanted}
        if kept is not None:
            self._done, self._kept = reached, kept

    def _crossing(self, done: dict[Node, None]) -> list[Value]:
        """What the nodes behind a cut read from before it."""
        before = [
            *self.graph.inputs,
            *(value for node in done for value in node.outputs if value is not None),
        ]
        return [value for value in before if any(node not in done for node in value.consumers)]

    def _feeds(self) -> Iterator[Arrays]:
        if self._kept is not None:
            yield from self._kept
            return
        ranks = {value.name: value.rank for value in self.graph.inputs}
        for feeds in self.source.batches(self.batch):
            bare = any(array.ndim != ranks[name] for name, array in feeds.items() if ranks[name] is not None)
            yield {name: array[0] if bare else self._filled(array) for name, array in feeds.items()}

    def _filled(self, array: NDArray[Any]) -> NDArray[Any]:
        """A batch of the size that the graph was exported for: the last sample again and again where some are missing."""
        missing = (self.fixed or 0) - len(array)
        return array if missing <= 0 else np.concatenate([array, np.repeat(array[-1:], missing, axis=0)])
