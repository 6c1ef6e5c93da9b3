"""What experiments cost: the loss of each at the model's outputs, sample by sample, without labels.

The loss is the normalised output error, sum((o - o0)^2) / sum(o0^2) with both sums over all samples, or, where outputs are
distributions, their Kullback-Leibler divergence KL(p0 || p) in nats. Of several outputs it is the mean over them.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from qcompiler import ops
from qcompiler.errors import ModelError
from qcompiler.experiments import (
    NOTHING,
    Experiment,
    ExperimentGraph,
    Live,
    experiment_graph,
    needed_nodes,
    starts,
)
from qcompiler.ir.shapes import infer_shapes
from qcompiler.runtime import Session

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qcompiler.data import DataSource
    from qcompiler.ir.graph import Graph
    from qcompiler.ir.node import Node, Value

Measure = Literal["auto", "error", "kl"]
Feeds = dict[str, "NDArray[Any]"]

MEMORY = 1 << 30
"""Bytes that the values of experiments may take by default, over all that run at once."""

_BATCH = "qcompiler.samples"  # the symbol of the batch axis
_MOST_SAMPLES = 16  # of a run: more are no faster
_MOST_EXPERIMENTS = 512  # of a session: a graph of some thousand nodes, which is prepared in a second or two
_SAME = 1e-4  # of an output's largest magnitude: what float sums in another order may differ by
_MACS = 6e10  # per second; with the next two, of one core (Xeon with AVX-512), measured. Only their ratios matter.
_ELEMENTS = 2e9  # per second, of what ops write that do not fuse
_SETUP = 4e-3  # seconds to choose an encoding and prepare the experiment with it
_LEAST_SECONDS = 1.0
_ARENA = 4  # times the size of all values: layouts change, and memory is taken in powers of two; measured
_ROUNDING = 5  # nodes that rounding to an encoding takes


@dataclass(frozen=True)
class Output:
    """An output to compare.

    Attributes:
        name: Of the value; of a distribution, of the one that Softmax reads: there nothing has underflowed yet.
        axis: The axis of the classes where the divergence counts; None for the error.
    """

    name: str
    axis: int | None


@dataclass(frozen=True)
class Scores:
    """What experiments cost, sample by sample.

    Attributes:
        losses: float64 [experiments, samples]; the loss of an experiment is the mean of its row.
        weights: float64 [samples], of mean 1: the share that each sample has in what errors are normalised by.
    """

    losses: NDArray[np.float64]
    weights: NDArray[np.float64]

    @property
    def means(self) -> NDArray[np.float64]:
        """The loss of each experiment."""
        return np.asarray(self.losses.mean(axis=1))

    @property
    def variances(self) -> NDArray[np.float64]:
        """The variance of each loss per sample, relative to its square; 1 of a single sample, which does not tell.

        Of a ratio of sums by the delta method: of the residues loss - mean * weight. (Cochran, Sampling Techniques, 1977,
        section 6.4.)
        """
        count = self.losses.shape[1]
        if count < 2:
            return np.ones(len(self.losses))
        means = self.means[:, None]
        squares = ((self.losses - means * self.weights) ** 2).sum(axis=1) / (count - 1)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(means[:, 0] > 0, squares / means[:, 0] ** 2, 0.0)


class Laboratory:
    """A float model with data, ready for experiments."""

    def __init__(
        self, graph: Graph, source: DataSource, measure: Measure = "auto", *, memory: int = MEMORY
    ) -> None:
        """Prepares nothing that costs time.

        Args:
            graph: The float graph; not changed.
            source: The samples; checked against the graph.
            measure: "error", "kl", or by the outputs: the divergence where all are made by a Softmax.
            memory: Bytes that values may take, over all that run at once.

        Raises:
            DataError: The data do not fit the model.
            ModelError: The model returns no tensor.
        """
        self.graph = graph
        self.source = source.validate(graph)
        self.outputs = _outputs(graph, measure)
        self._memory = memory
        self._shapes = graph.copy()
        self._batch = _set_input_shapes(self._shapes, self.source)
        infer_shapes(self._shapes)
        self._order = needed_nodes(graph, self._names)
        self._costs = {node: self._node_cost(node) for node in self._order}
        self._apart = self._batch != _BATCH

    @property
    def measure(self) -> str:
        """What the losses are, in words."""
        kinds = {output.axis is None for output in self.outputs}
        return "normalised output error" if True in kinds else "kl"

    @property
    def _names(self) -> list[str]:
        return [output.name for output in self.outputs]

    # -- costs -------------------------------------------------------------------------------------------------

    def samples_for(self, experiments: Sequence[Experiment], passes: float) -> float:
        """How many samples of the experiments take as long as so many passes of the float model over all its data.

        A second is granted in any case. The estimate is made of operation counts: it does not depend on the machine.
        """
        budget = max(passes * self.source.count * sum(self._costs.values()), _LEAST_SECONDS)
        return max((budget - _SETUP * len(experiments)) / self.cost(experiments), 0.0)

    def cost(self, experiments: Sequence[Experiment]) -> float:
        """About how many seconds of a core the experiments take per sample."""
        rows = _Rows(self._order, experiments)
        total = 0.0
        for node in self._order:
            total += self._costs[node] * (1 + rows.of_node(node))
            for experiment, slots in rows.starting(node).items():
                value = node.inputs[slots[0]]
                if value is not None and value.data is None and experiment is not None:
                    total += _ROUNDING * self._elements(value) / _ELEMENTS
        return total

    def _node_cost(self, node: Node) -> float:
        shaped = self._shapes.node(node.name)
        elements = sum(self._elements(value) for value in node.outputs if value is not None)
        if ops.info(node).kind == "activation":  # which fuses
            elements = 0
        return (ops.macs(shaped) or 0) / _MACS + elements / _ELEMENTS

    def _elements(self, value: Value) -> int:
        """How many elements a value has for one sample; unknown sizes count as 1."""
        shape = self._shapes.value(value.name).shape or ()
        return math.prod(dim for dim in shape if isinstance(dim, int))

    def _bytes(self, experiments: Sequence[Experiment]) -> int:
        """About the most that onnxruntime takes for the values at any point, per sample."""
        rows, live, most = _Rows(self._order, experiments), Live(self._order), 0
        for node in self._order:
            present = dict.fromkeys(
                [*live.after(node), *(value for value in node.outputs if value is not None)]
            )
            most = max(most, sum(4 * self._elements(value) * (1 + rows.of_value(value)) for value in present))
        return _ARENA * most

    # -- running -----------------------------------------------------------------------------------------------

    def samples(self, count: int) -> list[Feeds]:
        """So many samples, spread evenly over the data, each with a sample axis; always the same ones.

        Raises:
            DataError: A sample is damaged or not finite.
        """
        total = self.source.count
        count = min(count, total)
        wanted = {(2 * index + 1) * total // (2 * count) for index in range(count)}
        found: list[Feeds] = []
        start = 0
        for batch in self.source.batches(32):
            size = len(next(iter(batch.values())))
            found += [
                {name: array[row : row + 1] for name, array in batch.items()}
                for row in range(size)
                if start + row in wanted
            ]
            start += size
            if len(found) == count:
                break
        return found

    def run(self, experiments: Sequence[Experiment], samples: Sequence[Feeds]) -> Scores:
        """Runs experiments on samples.

        Raises:
            ModelError: The model cannot be run.
        """
        if not self._apart:
            try:
                return self._run_all(experiments, samples)
            except (_MixedError, ModelError):
                self._apart = True  # from here on: where single samples fail too, joining was not at fault
        return self._run_all(experiments, samples)

    def _run_all(self, experiments: Sequence[Experiment], samples: Sequence[Feeds]) -> Scores:
        places = {node: place for place, node in enumerate(self._order)}
        reached = [
            index for index, item in enumerate(experiments) if any(use.node in places for use in item.uses)
        ]
        reached.sort(
            key=lambda index: min(places[use.node] for use in experiments[index].uses if use.node in places)
        )
        losses = np.zeros((len(experiments), len(self.outputs), len(samples)))
        powers = np.ones((len(self.outputs), len(samples)))
        workers = max(min(_cores(), len(samples)), 1)
        for part in self._sessions([experiments[index] for index in reached], reached):
            chosen = [experiments[index] for index in part]
            beside = max(min(workers, self._memory // max(self._bytes(chosen), 1)), 1)
            size = self._run_size(chosen, len(samples), beside)
            losses[part], powers = self._run_session(chosen, samples, size, beside)
        means = powers.mean(axis=1, keepdims=True)
        scale = np.where(means > 0, means, 1.0)  # an output of zeros has nothing to be normalised by
        weights = np.where(means > 0, powers / scale, 1.0).mean(axis=0)
        return Scores((losses / scale).mean(axis=1), weights)

    def _sessions(self, experiments: Sequence[Experiment], indices: list[int]) -> Iterator[list[int]]:
        """The indices of experiments in portions that fit memory one sample at a time; neighbours in the graph together."""
        fits = self._bytes(experiments) <= self._memory or len(indices) < 2
        if fits and len(indices) <= _MOST_EXPERIMENTS:
            yield indices
            return
        half = len(indices) // 2
        yield from self._sessions(experiments[:half], indices[:half])
        yield from self._sessions(experiments[half:], indices[half:])

    def _run_size(self, experiments: Sequence[Experiment], count: int, workers: int) -> int:
        if isinstance(self._batch, int):
            return self._batch
        if self._apart:
            return 1
        fitting = self._memory // (workers * max(self._bytes(experiments), 1))
        return max(min(fitting, _MOST_SAMPLES, -(-count // workers)), 1)

    def _run_session(
        self, experiments: Sequence[Experiment], samples: Sequence[Feeds], size: int, workers: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Losses [experiments, outputs, samples], not normalised, and what to normalise by [outputs, samples].

        Runs go side by side on a core each, which takes a third less of the processor's time than one run on all cores.
        """
        batched = [value.name for value in self._shapes.values if value.shape and value.shape[0] == _BATCH]
        built = experiment_graph(self.graph, experiments, self._names, () if self._apart else batched)
        session = Session(built.graph, threads=1 if workers > 1 else None)
        batches = list(_batches(samples, size))

        def score(batch: list[Feeds]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
            results = session.run(self._fed(batch, size))
            return self._scores(built, results, len(experiments), len(batch), size)

        with ThreadPoolExecutor(workers) as pool:
            found = list(pool.map(score, batches))
        return np.concatenate([item[0] for item in found], axis=2), np.concatenate(
            [item[1] for item in found], axis=1
        )

    def _fed(self, batch: list[Feeds], size: int) -> Feeds:
        if self._batch is None:
            return {
                name: array[0] if self._is_bare(name, array) else array for name, array in batch[0].items()
            }
        filled = batch + [batch[-1]] * (size - len(batch) if isinstance(self._batch, int) else 0)
        return {name: np.concatenate([feeds[name] for feeds in filled]) for name in batch[0]}

    def _is_bare(self, name: str, array: NDArray[Any]) -> bool:
        return self._shapes.value(name).rank == array.ndim - 1

    def _scores(
        self,
        built: ExperimentGraph,
        results: Mapping[str, NDArray[Any]],
        experiments: int,
        count: int,
        size: int,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        losses = np.zeros((experiments, len(self.outputs), count))
        powers = np.ones((len(self.outputs), count))
        for number, output in enumerate(self.outputs):
            base = results[built.base[output.name]]
            blocks = built.blocks(results, output.name)
            copy = blocks.pop(NOTHING, None)
            if any(block.shape != base.shape for block in blocks.values()) or not _same(base, copy):
                raise _MixedError
            rows = self._rows(base, count, size)
            if output.axis is None:
                powers[number] = _per_sample(np.square(rows), count)
            for experiment, block in blocks.items():
                found = _error(rows, self._rows(block, count, size)) if output.axis is None else _divergence(
                    rows, self._rows(block, count, size), output.axis
                )  # fmt: skip
                losses[experiment, number] = _per_sample(found, count)
        return losses, powers

    def _rows(self, array: NDArray[Any], count: int, size: int) -> NDArray[np.float64]:
        """An output with the samples on the first axis: as it is, or as one sample where it has no batch axis."""
        real = np.asarray(array, np.float64)
        if (
            self._batch is not None
            and real.ndim
            and len(real) == (size if isinstance(self._batch, int) else count)
        ):
            return real[:count]
        if count > 1 and not isinstance(self._batch, int):
            raise _MixedError
        return real[None]


class _MixedError(Exception):
    """Samples that run together do not keep apart."""


class _Rows:
    """How many experiments affect each value and node."""

    def __init__(self, order: Sequence[Node], experiments: Sequence[Experiment]) -> None:
        self._starts = starts(experiments)
        self._values: dict[Value, int] = {}
        self._nodes: dict[Node, int] = {}
        for node in order:
            mask = 0
            for experiment in self._starts.get(node, ()):
                mask |= 1 << experiment
            for _, value in node.operands():
                mask |= self._values.get(value, 0)
            self._nodes[node] = mask.bit_count()
            self._values.update((value, mask) for value in node.outputs if value is not None)

    def of_node(self, node: Node) -> int:
        return self._nodes[node]

    def of_value(self, value: Value) -> int:
        return self._values.get(value, 0).bit_count()

    def starting(self, node: Node) -> Mapping[int, tuple[int, ...]]:
        return self._starts.get(node, {})


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _outputs(graph: Graph, measure: Measure) -> tuple[Output, ...]:
    values = [
        value
        for value in dict.fromkeys(graph.outputs)
        if value.other_type is None and value.producer is not None
    ]
    if not values:
        raise ModelError(
            "The model computes no tensor to compare, so that nothing can be said of what precision costs."
        )
    soft = [value.producer is not None and value.producer.is_op("Softmax", "LogSoftmax") for value in values]
    if measure == "error" or (measure == "auto" and not all(soft)):
        return tuple(Output(value.name, None) for value in values)
    return tuple(_distribution(value) for value in values)


def _distribution(value: Value) -> Output:
    node = value.producer
    assert node is not None
    if node.is_op("Softmax", "LogSoftmax"):
        read = node.inputs[0]
        assert read is not None
        return Output(read.name, int(node.attributes.get("axis", -1)))
    return Output(value.name, 1 if (value.rank or 0) > 3 else -1)  # scores: of pixels, classes are channels


def _set_input_shapes(graph: Graph, source: DataSource) -> int | str | None:
    """Gives the inputs the sizes of the first sample; returns the batch: a fixed size, `_BATCH` where open, None for none."""
    shapes = source.sample_shapes
    bare = any(value.rank is not None and value.rank == len(shapes[value.name]) for value in graph.inputs)
    sizes = {value.shape[0] for value in graph.inputs if value.shape and isinstance(value.shape[0], int)}
    batch: int | str | None = None if bare else next(iter(sizes)) if len(sizes) == 1 else _BATCH
    for value in graph.inputs:
        sample = tuple(shapes[value.name])
        value.shape = sample if value.rank == len(sample) else (batch if batch is not None else 1, *sample)
    return batch


def _batches(samples: Sequence[Feeds], size: int) -> Iterator[list[Feeds]]:
    """Samples in batches of a size at most; those in a batch have one shape."""
    batch: list[Feeds] = []
    for feeds in samples:
        alike = not batch or all(array.shape == batch[0][name].shape for name, array in feeds.items())
        if len(batch) == size or not alike:
            yield batch
            batch = []
        batch.append(feeds)
    if batch:
        yield batch


def _same(base: NDArray[Any], copy: NDArray[Any] | None) -> bool:
    if copy is None:
        return True
    finite = np.isfinite(base)
    largest = float(np.abs(base[finite]).max(initial=0.0)) if finite.any() else 0.0
    return base.shape == copy.shape and np.allclose(
        copy, base, rtol=0, atol=_SAME * largest + 1e-30, equal_nan=True
    )


def _per_sample(array: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """The sum over each row; where all samples are one row, it is shared out."""
    sums = array.reshape(len(array), -1).sum(axis=1)
    return sums if len(sums) == count else np.full(count, sums.sum() / count)


def _error(base: NDArray[np.float64], block: NDArray[np.float64]) -> NDArray[np.float64]:
    """Squared differences; what is not finite but the same is no difference, and else infinite."""
    with np.errstate(invalid="ignore", over="ignore"):
        squares = np.where(block == base, 0.0, np.square(block - base))
    return np.where(np.isnan(squares), np.inf, squares)


def _divergence(base: NDArray[np.float64], block: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    """KL(softmax(base) || softmax(block)) in nats, the mean over positions that have a distribution each; [rows, 1]."""
    if base.ndim < 2:
        base, block, axis = base.reshape(1, -1), block.reshape(1, -1), 1
    p, q = (_log_softmax(np.moveaxis(array, axis, -1)) for array in (base, block))
    with np.errstate(invalid="ignore"):
        terms = np.where(p == q, 0.0, np.exp(p) * (p - q)).sum(axis=-1)
    terms = np.where(np.isnan(terms), np.inf, np.maximum(terms, 0.0))
    return np.asarray(terms.reshape(len(terms), -1).mean(axis=1, keepdims=True))


def _log_softmax(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore", divide="ignore"):
        shifted = scores - scores.max(axis=-1, keepdims=True)
        return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))
