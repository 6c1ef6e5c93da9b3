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

from qcompiler.errors import ModelError
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
            graph: May be changed between steps; where that changes what earlier steps have computed, it is computed again.
            source: The samples.
            batch: Samples per run; a graph of fixed batch size is given that many, one that takes single samples only, one.
            budget: Bytes that the values on the cut may take.
        """
        self.graph = graph
        self.source = source
        self.budget = budget
        ranks = {value.name: value.rank for value in graph.inputs}
        shapes = source.sample_shapes
        self._bare = {name for name, rank in ranks.items() if name in shapes and len(shapes[name]) == rank}
        sizes = [value.shape[0] for value in graph.inputs if value.shape]
        self.fixed = 1 if self._bare else next((size for size in sizes if isinstance(size, int)), None)
        self.batch = self.fixed or (batch if batch > 1 and _takes_batches(graph, source) else 1)
        self._done: dict[Node, list[Value | None]] = {}  # with what it read when it was computed
        self._kept: list[Arrays] | None = None

    def step(self, values: Iterable[Value]) -> Iterator[Arrays]:
        """Computes values, batch by batch, by name; moves the cut behind what was computed if that fits the budget.

        Raises:
            DataError: The data do not fit.
            ModelError: The graph cannot be run.
        """
        wanted = list(dict.fromkeys(values))
        if self._kept is not None and not self._goes_on(wanted, self._kept):
            self._done, self._kept = {}, None
        nodes = ancestors(wanted, self._done)
        reached = self._done | {node: _read(node) for node in nodes}
        crossing = self._crossing(reached)
        tensors = all(value.dtype is not None for value in crossing)  # sequences cannot be kept
        crossing = crossing if tensors else []
        part = cut_out(self.graph, nodes, [*wanted, *crossing])
        session = Session(part, optimize="floats")
        names = {value.name for value in crossing}
        kept: list[Arrays] | None = [] if tensors else None
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

    def _goes_on(self, wanted: Iterable[Value], kept: list[Arrays]) -> bool:
        """Whether the values can be computed from the cut, and what is in front of it is as it was."""
        names = kept[0] if kept else {}
        passed = (value for value in wanted if value.is_input or value.producer in self._done)
        unchanged = all(_read(node) == values for node, values in self._done.items())
        return unchanged and all(value.name in names for value in passed)

    def _crossing(self, done: dict[Node, list[Value | None]]) -> list[Value]:
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
        for feeds in self.source.batches(self.batch):
            yield {
                name: np.asarray(array[0]) if name in self._bare else self._filled(array)
                for name, array in feeds.items()
            }

    def _filled(self, array: NDArray[Any]) -> NDArray[Any]:
        """A batch of the size that the graph was exported for: the last sample again and again where some are missing."""
        missing = (self.fixed or 0) - len(array)
        return array if missing <= 0 else np.concatenate([array, np.repeat(array[-1:], missing, axis=0)])


def _read(node: Node) -> list[Value | None]:
    return [*node.inputs, *node.captures]


def _takes_batches(graph: Graph, source: DataSource) -> bool:
    """Whether a graph whose batch size is open takes more than one sample; see `Session.stream`."""
    feeds = next(iter(source.batches(2)), {})
    count = min((len(array) for array in feeds.values()), default=0)
    if count < 2:
        return True
    session = Session(graph, optimize=False)
    try:
        results = session.run(feeds).values()
    except ModelError:
        return False
    return any(np.ndim(result) and len(result) == count for result in results)
