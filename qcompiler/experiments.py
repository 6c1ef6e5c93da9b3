"""Experiments on a float model: one value stored in one encoding, everything else as it is, and what the outputs make of it.

All experiments run in one graph, in which a value is its float run (the base) beside what it is in each experiment that
affects it. What lies before an experiment, or beside it, is thus computed once for all: half the work of as many whole runs, and
a weight's experiment costs one layer, not two. The base stays apart, so that nothing has to be cut out of a batch; a value's
experiments are parts, tensors of their own, until enough of them have come together to be run as rows of one batch.
Parts that never join would do: as measured (onnxruntime 1.32, MobileNetV2, 106 experiments) they run as fast, but take four times
as long to prepare, 1.4 s against 0.34 s of processor time, because the graph has the square of the number of layers.

Joining is for models whose samples do not see each other. Whether that is so shows when the graph runs: a copy of the base
joins with the first experiments, and must come out as the base does. Where it does not, or where a graph takes one batch
size only, the experiments stay apart, each as the model would run it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from qcompiler import ops
from qcompiler.ir.graph import Graph
from qcompiler.ir.node import Attribute, Node, Subgraph, Use, Value

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qcompiler.ir.encoding import Encoding

NOTHING = -1
"""In the place of an experiment: the copy of the base that tells whether joined samples keep apart."""

_JOINED = 6  # parts that join to one; fewer copy more often, more make more nodes
_MANY = 4  # times as many where joining is worth less: where parts are no longer small, or several values have them


@dataclass(frozen=True, eq=False)
class Experiment:
    """One value read in an encoding by some of its uses; the rest of the model is float.

    Attributes:
        uses: The uses that read it so.
        encoding: How; of a value computed at run time, per tensor.
        corrected: Whether the bias of the nodes that read a weight takes back what rounding it does to their outputs on
            average, channel by channel, as it will when the model is compiled. Of convolutions only: elsewhere a run has
            too few positions to tell the mean.
    """

    uses: tuple[Use, ...]
    encoding: Encoding
    corrected: bool = False

    @classmethod
    def of(cls, value: Value, uses: tuple[Use, ...], encoding: Encoding) -> Experiment:
        """A value in an encoding, with biases corrected where they can be."""
        nodes = {use.node for use in uses}
        return cls(uses, encoding, value.is_constant and all(map(_corrects, nodes)))


@dataclass(frozen=True)
class Part:
    """What a value is in some experiments: along the first axis, a block of samples for each; a single one may have any form."""

    value: Value
    experiments: tuple[int, ...]


@dataclass(frozen=True)
class ExperimentGraph:
    """A graph that runs experiments.

    Attributes:
        graph: Takes the model's inputs. Returns the base and the parts of each of its outputs.
        base: Name in the model to the name of the base, by output.
        parts: The parts, by output; an experiment that is in none of them does not affect the output.
    """

    graph: Graph
    base: Mapping[str, str]
    parts: Mapping[str, tuple[Part, ...]]

    def blocks(self, results: Mapping[str, NDArray[Any]], output: str) -> dict[int, NDArray[Any]]:
        """The blocks of an output by experiment, those of `NOTHING` included, from what the graph returned."""
        found: dict[int, NDArray[Any]] = {}
        for part in self.parts[output]:
            array = results[part.value.name]
            blocks = [array] if len(part.experiments) == 1 else np.split(array, len(part.experiments))
            found.update(zip(part.experiments, blocks, strict=True))
        return found


@dataclass
class _Run:
    """A value in the making: its base, its parts, and which part has an experiment."""

    base: Value
    parts: list[Part] = field(default_factory=list)
    where: dict[int, int] = field(default_factory=dict)

    def add(self, part: Part) -> None:
        self.where.update(dict.fromkeys(part.experiments, len(self.parts)))
        self.parts.append(part)


def experiment_graph(
    graph: Graph,
    experiments: Sequence[Experiment],
    outputs: Iterable[str],
    batched: Iterable[str] = (),
    *,
    joined: int = _JOINED,
) -> ExperimentGraph:
    """Builds the graph that runs experiments.

    Args:
        graph: The float graph; not changed.
        experiments: What to try; uses are those of `graph`.
        outputs: Names of the values that matter.
        batched: Names of the values whose first axis counts samples. Without any, experiments stay apart.
        joined: How many parts join to one, at least 2.
    """
    builder = _Builder(graph, experiments, list(outputs), frozenset(batched), joined)
    builder.build()
    return builder.finish()


class _Builder:
    """Walks the model and writes, for every node, the base and what each experiment makes of it."""

    def __init__(
        self,
        graph: Graph,
        experiments: Sequence[Experiment],
        outputs: list[str],
        batched: frozenset[str],
        joined: int,
    ) -> None:
        self._graph = graph
        self._experiments = experiments
        self._outputs = outputs
        self._batched = batched
        self._joined = joined
        self._order = needed_nodes(graph, outputs)
        self._starts = starts(experiments)
        self._new = Graph("experiments")
        self._new.opset, self._new.other_opsets = graph.opset, dict(graph.other_opsets)
        self._runs: dict[Value, _Run] = {}
        self._blocks: dict[Value, list[Value]] = {}
        self._repeated: dict[tuple[Value, int], Value] = {}
        self._checked = False
        self._axes: dict[int, Value] = {}
        # Base values keep their names, so that control-flow bodies find what they read.
        for value in graph.inputs:
            self._runs[value] = _Run(self._new.add_input(value.name, value.dtype, value.shape))
        for node in self._order:
            for _, value in node.operands():
                if value.data is not None and value not in self._runs:
                    self._runs[value] = _Run(self._new.add_constant(value.name, value.data))
            for output in node.outputs:
                if output is not None:
                    twin = self._new.add_value(output.name, output.dtype, output.shape)
                    twin.other_type = output.other_type
                    self._runs[output] = _Run(twin)

    def build(self) -> None:
        """Writes all nodes."""
        live = Live(self._order)
        for node in self._order:
            self._node(node)
            present = live.after(node)
            if self._batched:
                self._join([value for value in present if self._runs[value].parts])

    def finish(self) -> ExperimentGraph:
        """Makes the outputs the graph's own."""
        runs = {name: self._runs[self._graph.value(name)] for name in self._outputs}
        returned = [
            value for run in runs.values() for value in (run.base, *(part.value for part in run.parts))
        ]
        self._new.set_outputs(dict.fromkeys(returned))
        self._new.remove_dead()
        self._new.journal.clear()
        return ExperimentGraph(
            self._new,
            {name: run.base.name for name, run in runs.items()},
            {name: tuple(run.parts) for name, run in runs.items()},
        )

    # -- nodes -------------------------------------------------------------------------------------------------

    def _node(self, node: Node) -> None:
        base = [None if value is None else self._runs[value].base for value in node.inputs]
        self._copy(
            node, base, {}, [None if value is None else self._runs[value].base for value in node.outputs]
        )
        starting = self._starts.get(node, {})
        for group in self._groups(node, starting):
            slots = starting.get(group[0], ())
            taken = {value: self._taken(value, group) for _, value in node.operands()}
            inputs = [None if value is None else taken[value] for value in node.inputs]
            for slot in slots:
                inputs[slot] = self._encoded(node.inputs[slot], inputs[slot], group[0])
            renamed = {value.name: taken[value].name for value in node.captures}
            outputs = [None if value is None else self._fresh(value) for value in node.outputs]
            self._copy(node, inputs, renamed, outputs)
            if slots and self._experiments[group[0]].corrected:
                outputs = [self._corrected(node, outputs[0])]
            for value, output in zip(node.outputs, outputs, strict=True):
                if value is not None and output is not None:
                    self._runs[value].add(Part(output, group))

    def _groups(self, node: Node, starting: Mapping[int, tuple[int, ...]]) -> list[tuple[int, ...]]:
        """The experiments that reach a node, those together that are together in all its operands."""
        runs = [self._runs[value] for _, value in node.operands()]
        reached = dict.fromkeys(
            experiment for run in runs for part in run.parts for experiment in part.experiments
        )
        reached.update(dict.fromkeys(starting))
        groups: dict[tuple[int, ...], list[int]] = {}
        for experiment in reached:
            key = [run.where.get(experiment, -1) for run in runs]
            groups.setdefault((*key, experiment if experiment in starting else -1), []).append(experiment)
        return [tuple(group) for group in groups.values()]

    def _copy(
        self, node: Node, inputs: list[Value | None], renamed: Mapping[str, str], outputs: list[Value | None]
    ) -> None:
        attributes: dict[str, Attribute] = {
            key: _reading(item, renamed) for key, item in node.attributes.items()
        }
        twin = self._new.add_node(node.op, inputs, outputs, attributes, name=node.name, domain=node.domain)
        twin.overload = node.overload

    def _fresh(self, value: Value) -> Value:
        fresh = self._new.add_value(value.name, value.dtype)
        fresh.other_type = value.other_type
        return fresh

    def _op(self, op: str, inputs: list[Value], count: int = 1, **attributes: object) -> list[Value]:
        node = self._new.add_node(op, list(inputs), count, attributes, name=f"qcompiler.{op}")
        return [value for value in node.outputs if value is not None]

    # -- experiments -------------------------------------------------------------------------------------------

    def _taken(self, value: Value, group: tuple[int, ...]) -> Value:
        """A value in some experiments that are together in it, or that do not affect it."""
        run = self._runs[value]
        if group[0] not in run.where:
            return (
                run.base
                if len(group) == 1 or value.name not in self._batched
                else self._repeat(run.base, len(group))
            )
        part = run.parts[run.where[group[0]]]
        if part.experiments == group:
            return part.value
        if part.value not in self._blocks:
            count = len(part.experiments)
            self._blocks[part.value] = self._op("Split", [part.value], count, axis=0, num_outputs=count)
        blocks = dict(zip(part.experiments, self._blocks[part.value], strict=True))
        return self._concat([blocks[experiment] for experiment in group])

    def _repeat(self, value: Value, count: int) -> Value:
        if (value, count) not in self._repeated:
            self._repeated[value, count] = self._concat([value] * count)
        return self._repeated[value, count]

    def _concat(self, values: list[Value]) -> Value:
        return values[0] if len(values) == 1 else self._op("Concat", values, axis=0)[0]

    def _encoded(self, original: Value | None, read: Value | None, experiment: int) -> Value:
        assert original is not None
        assert read is not None
        encoding = self._experiments[experiment].encoding
        if original.data is not None:
            return self._new.add_constant(original.name, encoded_constant(original, encoding))
        return add_fake_quantize(self._new, read, original.dtype, encoding)

    def _corrected(self, node: Node, output: Value | None) -> Value:
        """An output without the difference of its channels' means from those of the base."""
        assert output is not None
        rank = node.output.rank or 0
        if rank not in self._axes:
            axes = np.array([0, *range(2, rank)], np.int64)
            self._axes[rank] = self._new.add_constant("qcompiler.axes", axes)
        base = self._runs[node.output].base
        gap = self._op("Sub", [output, base])
        mean = self._op("ReduceMean", [gap[0], self._axes[rank]], keepdims=1)
        return self._op("Sub", [output, mean[0]])[0]

    # -- joining -----------------------------------------------------------------------------------------------

    def _join(self, present: list[Value]) -> None:
        """Joins parts of like size in all values that are there at a point, where there are enough of them.

        Single experiments become parts of 6, two dozen of those one part of 144: an experiment is copied once per size, and
        the number of parts stays small. Best where one value is all there is: elsewhere, what meets later must be taken apart again where
        it was joined in one value and does not exist in another.
        """
        if not all(self._joinable(value) for value in present):
            return
        size, largest = (
            1,
            max((len(part.experiments) for value in present for part in self._runs[value].parts), default=0),
        )
        while size <= largest:
            below = size * (self._joined if size == 1 else _MANY * self._joined)
            least = self._joined if size == 1 and len(present) == 1 else _MANY * self._joined
            firsts = dict.fromkeys(
                part.experiments[0]
                for value in present
                for part in self._runs[value].parts
                if size <= len(part.experiments) < below
            )
            if len(firsts) >= least:
                for value in present:
                    self._join_value(value, firsts)
                self._checked = True
            size = below

    def _join_value(self, value: Value, firsts: Mapping[int, None]) -> None:
        """Joins the parts of a value that begin with the given experiments."""
        run = self._runs[value]
        joining = [part for part in run.parts if part.experiments[0] in firsts]
        kept = [part for part in run.parts if part.experiments[0] not in firsts]
        if len(joining) < 2:
            return
        values = [part.value for part in joining]
        experiments = [experiment for part in joining for experiment in part.experiments]
        if not self._checked:
            values.append(run.base)
            experiments.append(NOTHING)
        self._runs[value] = _Run(run.base)
        for part in (*kept, Part(self._concat(values), tuple(experiments))):
            self._runs[value].add(part)

    def _joinable(self, value: Value) -> bool:
        if value.name not in self._batched:
            return False
        use = value.only_use
        return (
            use is None or ops.info(use.node).kind != "activation"
        )  # which fuses with what produces the value


# -- pieces ----------------------------------------------------------------------------------------------------


def _corrects(node: Node) -> bool:
    """Whether a node is a convolution that has, or could have, a constant bias."""
    bias, rank = node.input(2), node.output.rank
    return ops.takes_bias(node) and rank is not None and rank > 2 and (bias is None or bias.is_constant)


def by_node(experiment: Experiment) -> dict[Node, tuple[int, ...]]:
    """The nodes that read an experiment's value, with the slots that do."""
    found: dict[Node, tuple[int, ...]] = {}
    for use in experiment.uses:
        found[use.node] = (*found.get(use.node, ()), use.slot)
    return found


def starts(experiments: Sequence[Experiment]) -> dict[Node, dict[int, tuple[int, ...]]]:
    """The experiments that start at each node, with the input slots that they change."""
    found: dict[Node, dict[int, tuple[int, ...]]] = {}
    for index, experiment in enumerate(experiments):
        for node, slots in by_node(experiment).items():
            found.setdefault(node, {})[index] = slots
    return found


def needed_nodes(graph: Graph, outputs: Iterable[str]) -> list[Node]:
    """The nodes that the named values depend on, in topological order."""
    live: set[Node] = set()
    stack = [graph.value(name).producer for name in outputs]
    while stack:
        node = stack.pop()
        if node is not None and node not in live:
            live.add(node)
            stack += [value.producer for _, value in node.operands()]
    return [node for node in graph.topological() if node in live]


def is_float(value: Value) -> bool:
    """Whether a value is known to be of a float type, or not known not to be."""
    return value.dtype is None or value.dtype.kind == "f" or value.dtype.name == "bfloat16"


def encoded_constant(value: Value, encoding: Encoding) -> NDArray[Any]:
    """A constant as it is read back from an encoding, in its own type."""
    assert value.data is not None
    return encoding.fake_quantize(np.asarray(value.data, np.float32)).astype(value.data.dtype)


def add_fake_quantize(graph: Graph, value: Value, dtype: np.dtype[Any] | None, encoding: Encoding) -> Value:
    """Adds what storing a value in an encoding makes of it: `Encoding.fake_quantize` with scale and zero point per tensor.

    In float arithmetic, which gives the same numbers as a pair of QuantizeLinear and DequantizeLinear: with such a pair
    onnxruntime 1.32 refuses uint4 behind a Relu, and moves it across other nodes.
    """
    assert encoding.scale is not None

    def op(name: str, *inputs: Value, **attributes: object) -> Value:
        return graph.add_node(name, list(inputs), 1, attributes, name=f"qcompiler.{name}").output

    def number(given: float | np.float32) -> Value:
        return graph.add_constant("qcompiler.number", np.float32(given))

    plain = dtype is None or dtype == np.float32
    real = value if plain else op("Cast", value, to=_FLOAT)
    scale = number(np.float32(encoding.scale))
    scaled = op("Div", real, scale)
    if encoding.zero_point is not None:
        zero = int(encoding.zero_point)
        ends = encoding.least_code - zero, encoding.format.maximum - zero
        codes = op("Clip", op("Round", scaled), number(ends[0]), number(ends[1]))
    else:
        kind = tensor_type(encoding.format.dtype)
        inside = op("Clip", scaled, number(encoding.format.minimum), number(encoding.format.maximum))
        codes = op("Cast", op("Cast", inside, to=kind), to=_FLOAT)
    stored = op("Mul", codes, scale)
    return stored if plain or dtype is None else op("Cast", stored, to=tensor_type(dtype))


_FLOAT = 1  # onnx.TensorProto.FLOAT


def tensor_type(dtype: np.dtype[Any]) -> int:
    """ONNX's number for an element type."""
    return int(onnx.helper.np_dtype_to_tensor_dtype(dtype))


def _reading(attribute: Attribute, renamed: Mapping[str, str]) -> Attribute:
    """An attribute whose control-flow bodies, if it has any, read other outer values."""
    if isinstance(attribute, Subgraph):
        for old, new in renamed.items():
            attribute = attribute.renamed(old, new) if old in attribute.captures else attribute
        return attribute
    if isinstance(attribute, list) and renamed:
        return [_reading(item, renamed) for item in attribute]
    return attribute


class Live:
    """Which values exist, and are still to be read, as nodes run in order."""

    def __init__(self, order: Sequence[Node]) -> None:
        self._last = {value: node for node in order for _, value in node.operands()}
        self._present: dict[Value, None] = {}

    def after(self, node: Node) -> list[Value]:
        """The values that nodes computed up to this one and later nodes read; called node by node."""
        for _, value in node.operands():
            if self._last[value] is node:
                self._present.pop(value, None)
        self._present.update(
            (value, None) for value in node.outputs if value is not None and value in self._last
        )
        return list(self._present)
