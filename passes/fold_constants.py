"""Evaluates at compile time what does not depend on the inputs, and shape arithmetic as far as sizes are known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from qcompiler import ops
from qcompiler.errors import ModelError
from qcompiler.ir.facts import CANONICAL, SHAPES, Fact
from qcompiler.ir.graph import Graph
from qcompiler.ir.shapes import infer_shapes
from qcompiler.pass_manager import Effect, Level, Pass, PassContext, PassResult
from qcompiler.passes._operands import constant_node_data, element_count
from qcompiler.passes._shape_operands import OPERAND_NAMES, USERS, resized_axes
from qcompiler.passes._sizes import SizeTracker, exact
from qcompiler.rewrite import prune
from qcompiler.runtime import Session

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qcompiler.ir.node import Node, Value

_KEPT = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "Dropout"})
"""Not folded: the first three carry quantization, the last is random while training."""
_WIDENING = frozenset(
    {"OneHot", "EyeLike", "Pad", "Resize", "Upsample", "CenterCropPad", "Col2Im", "MatMul", "Gemm"}
)
"""Operators whose result may be larger than their inputs; they wait until its size is known."""
_BATCH_BYTES = 256 << 20


@dataclass(frozen=True)
class FoldConstants(Pass):
    """Evaluates what does not depend on the inputs.

    Shapes that are open in the batch stay open: Reshape(x, [Shape(x)[0], 64]) becomes Reshape(x, [0, 64]). Quantization,
    random numbers, control flow and operators of other domains are left alone, and so is what would make a large
    constant of small ones.

    Attributes:
        max_growth_bytes: A constant of up to this size may be larger than what it is computed from.
    """

    max_growth_bytes: int = 4096

    name: ClassVar[str] = "fold_constants"
    effect: ClassVar[Effect] = Effect.EXACT
    establishes: ClassVar[tuple[Fact[Any], ...]] = (SHAPES,)
    invalidates: ClassVar[tuple[Fact[Any], ...]] = (CANONICAL,)

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        """Folds in rounds: what is folded tells shape inference more, and that folds more."""
        run = _Run(graph, context, self.max_growth_bytes)
        if SHAPES not in graph.facts:
            infer_shapes(graph)
        while run.round():
            infer_shapes(graph)
        for node, reason in run.refused.items():
            if node.graph is graph:
                run.result.say(Level.NEAR_MISS, node.name, reason)
        if graph.remove_dead():
            run.result.count("remove dead nodes")
        return run.result


@dataclass
class _Run:
    """One run of the pass over one graph."""

    graph: Graph
    context: PassContext
    growth: int
    result: PassResult = field(default_factory=PassResult)
    refused: dict[Node, str] = field(default_factory=dict)

    def round(self) -> bool:
        """Folds what can be folded now; returns whether anything was."""
        before = self.result.changed
        self._follow_sizes()
        for batch in self._batches():
            self._evaluate(batch)
        return self.result.changed > before

    # -- shape arithmetic -----------------------------------------------------------------------------------------

    def _follow_sizes(self) -> None:
        tracker = SizeTracker()
        for node in self.graph.nodes:
            if node.graph is not self.graph:
                continue
            if node.is_op("Constant"):
                data = constant_node_data(node)
                if data is not None:
                    self._replace(node.output, data, "turn Constant into value")
                continue
            elements = tracker.visit(node)
            numbers = exact(elements) if elements is not None else None
            if elements is not None and numbers is not None and node.output.dtype is not None:
                if not _only_names_an_output(node):
                    dtype = node.output.dtype
                    self._replace(
                        node.output,
                        np.asarray(numbers, dtype).reshape(elements.shape),
                        "fold shape arithmetic",
                    )
            elif node.op in USERS and not node.domain:
                self._resolve(node, tracker)

    def _resolve(self, node: Node, tracker: SizeTracker) -> None:
        """Replaces a computed shape operand by a constant that says the same."""
        slot, resolve = USERS[node.op]
        operand = node.input(slot)
        elements = tracker.elements(operand)
        if operand is None or operand.data is not None or elements is None or elements.ndim != 1:
            return
        if any(item is None for item in elements):
            return
        sizes = resolve(node, list(elements), tracker)
        if sizes is None or not self.context.allow(f"fix the shape operand of {node.name}"):
            return
        if node.op == "Resize":
            self.graph.set_attribute(node, "axes", resized_axes(node, list(elements)))
        self.graph.set_input(
            node,
            slot,
            self.graph.add_constant(
                f"{node.output.name}_{OPERAND_NAMES[node.op]}", np.asarray(sizes, np.int64)
            ),
        )
        if operand.producer is not None:
            prune(self.graph, operand.producer)
        self.result.count(f"fix the shape of {node.op}")

    def _replace(self, value: Value, data: NDArray[Any], what: str) -> None:
        producer = value.producer
        assert producer is not None
        if not (value.uses or value.is_output) or not self.context.allow(f"{what} at {producer.name}"):
            return
        name, was_output = value.name, value.is_output
        made = self.graph.add_constant(f"{name}_folded", data)
        with self.graph.deriving([producer]):
            self.graph.replace_uses(value, made)
        prune(self.graph, producer)
        if not was_output and not self.graph.has_value(name):
            self.graph.rename(made, name)
        self.result.count(what)

    # -- everything else: onnxruntime, in batches -----------------------------------------------------------------

    def _batches(self) -> list[list[Node]]:
        """The nodes that depend on constants alone, in order, cut where a batch would carry too many bytes."""
        chosen: set[Node] = set()
        batches: list[list[Node]] = []
        weight: float = math.inf
        for node in self.graph.topological():
            if not self._is_computable(node, chosen):
                continue
            size = sum(value.data.nbytes for _, value in node.operands() if value.data is not None)
            if weight + size > _BATCH_BYTES:
                batches.append([])
                weight = 0
            weight += size
            batches[-1].append(node)
            chosen.add(node)
        return batches

    def _is_computable(self, node: Node, chosen: set[Node]) -> bool:
        if not node.inputs or node.domain or node in self.refused or node.op in _KEPT:
            return False
        for value in node.inputs:  # first: it ends here for almost every node
            if value is not None and value.data is None and value.producer not in chosen:
                return False
        if not ops.info(node).deterministic or node.subgraphs or _only_names_an_output(node):
            return False
        if any(
            value is not None and (value.dtype is None or value.dtype.kind not in "fiub")
            for value in node.outputs
        ):
            return False
        given = [_bytes(value) for value in node.inputs if value is not None]
        made = [_result_bytes(node, value) for value in node.outputs if value is not None]
        if None in given or None in made:
            direct = all(value is None or value.data is not None for value in node.inputs)
            return direct and node.op not in _WIDENING
        limit = max(sum(size for size in given if size is not None), self.growth)
        total = sum(size for size in made if size is not None)
        if total > limit:
            self.refused[node] = (
                f"{node.op} is constant, but not folded: it would make {total} bytes out of "
                f"{sum(size for size in given if size is not None)} (option max_growth_bytes is {self.growth})"
            )
        return total <= limit

    def _evaluate(self, batch: Sequence[Node]) -> None:
        ready: set[Node] = set()
        for node in batch:  # an earlier batch may have failed, or may not have been allowed
            if node.graph is self.graph and all(_is_ready(value, ready) for value in node.inputs):
                ready.add(node)
        batch = [node for node in batch if node in ready]
        if not batch:
            return
        try:
            self._take(batch, _compute(self.graph, batch))
        except ModelError as error:
            if len(batch) == 1:
                self.refused[batch[0]] = (
                    f"{batch[0].op} is constant, but onnxruntime cannot evaluate it: {error}"
                )
                return
            for node in batch:
                self._evaluate([node])

    def _take(self, batch: Sequence[Node], results: dict[str, NDArray[Any]]) -> None:
        nodes = set(batch)
        for node in reversed(batch):  # last first: what only fed it goes with it
            if node.graph is not self.graph:
                continue
            for value in [item for item in node.outputs if item is not None]:
                if value.graph is not None and _is_frontier(value, nodes) and value.name in results:
                    data = np.asarray(results[value.name])
                    if data.dtype == value.dtype:
                        self._replace(value, data, "fold constants")


def _only_names_an_output(node: Node) -> bool:
    """Whether this is how a constant graph output is written: Identity(constant), read by nobody else."""
    return node.is_op("Identity") and node.output.is_output and not node.output.uses


def _is_ready(value: Value | None, ready: set[Node]) -> bool:
    return value is None or value.data is not None or value.producer in ready


def _is_frontier(value: Value, nodes: set[Node]) -> bool:
    return value.is_output or any(use.node not in nodes for use in value.uses)


def _compute(graph: Graph, batch: Sequence[Node]) -> dict[str, NDArray[Any]]:
    """Runs the nodes as a graph of their own and returns what nodes outside read, by name.

    Raises:
        ModelError: onnxruntime refuses.
    """
    nodes, part = set(batch), Graph("constants")
    part.opset, part.other_opsets = graph.opset, dict(graph.other_opsets)
    twins: dict[Value, Value] = {}
    for node in batch:
        for value in node.inputs:
            if value is not None and value not in twins:
                assert value.data is not None
                twins[value] = part.add_constant(value.name, value.data)
        for value in node.outputs:
            if value is not None:
                twins[value] = part.add_value(value.name, value.dtype, value.shape)
        part.add_node(
            node.op,
            [None if value is None else twins[value] for value in node.inputs],
            [None if value is None else twins[value] for value in node.outputs],
            node.attributes,
            name=node.name,
        )
    wanted = [
        value for node in batch for value in node.outputs if value is not None and _is_frontier(value, nodes)
    ]
    part.set_outputs(twins[value] for value in wanted)
    return Session(part, optimize=False).run({})


def _bytes(value: Value) -> int | None:
    if value.data is not None:
        return int(value.data.nbytes)
    count = element_count(value.shape)
    return None if count is None or value.dtype is None else count * value.dtype.itemsize


def _result_bytes(node: Node, value: Value) -> int | None:
    """The size of a result: from its shape or, where inference could not see it yet, from the constant that states it."""
    known = _bytes(value)
    if known is not None or value.dtype is None:
        return known
    target = node.inputs[0] if node.op == "ConstantOfShape" else node.input(1)
    if node.op not in ("ConstantOfShape", "Expand", "Tile") or target is None or target.data is None:
        return None
    count = math.prod(int(size) for size in target.data.reshape(-1))
    if node.op != "ConstantOfShape":
        source = node.inputs[0]
        inner = element_count(source.shape) if source is not None else None
        if inner is None:
            return None
        count *= inner  # an upper bound for Expand
    return count * value.dtype.itemsize
