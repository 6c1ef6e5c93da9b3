"""Values, nodes and the uses that tie them. Only `Graph` edits these objects; everyone else reads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import onnx

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qcompiler.ir.graph import Graph

Dim = int | str | None
"""A dimension: its size, the name of a symbolic size, or None when nothing is known."""
Shape = tuple[Dim, ...]
Attribute = Any
"""int, float, str, bytes, numpy array, a list of one of them, `Subgraph`, or another onnx.AttributeProto."""


class Use(NamedTuple):
    """One use of a value: an input slot of a node. Slots past the inputs count the node's captures."""

    node: Node
    slot: int


class Value:
    """An edge of the graph: a graph input, a constant, or one output of a node.

    Attributes:
        name: Unique in the graph.
        dtype: numpy (or ml_dtypes) type of the elements; None when unknown or not a tensor.
        shape: One entry per dimension; None when the rank is unknown.
        data: The elements of a constant, else None. May be a read-only memory map: never written in place.
        producer: The node that computes the value; None for graph inputs and constants.
        uses: Who reads it, in order of creation.
        other_type: The ONNX type where the value is no dense tensor (sequence, optional, sparse).
    """

    __slots__ = (
        "_outputs",
        "data",
        "doc",
        "dtype",
        "graph",
        "metadata",
        "name",
        "other_type",
        "producer",
        "shape",
        "uses",
    )

    def __init__(
        self,
        name: str,
        dtype: np.dtype[Any] | None = None,
        shape: Shape | None = None,
        data: NDArray[Any] | None = None,
    ) -> None:
        self.name = name
        self.dtype = dtype
        self.shape = shape
        self.data = data
        self.producer: Node | None = None
        self.uses: dict[Use, None] = {}
        self.other_type: onnx.TypeProto | None = None
        self.doc = ""
        self.metadata: dict[str, str] = {}
        self.graph: Graph | None = None
        self._outputs = 0

    @property
    def is_constant(self) -> bool:
        """Whether the elements are known at compile time."""
        return self.data is not None

    @property
    def is_output(self) -> bool:
        """Whether the graph returns this value."""
        return self._outputs > 0

    @property
    def is_input(self) -> bool:
        """Whether the graph is fed this value."""
        return self.producer is None and self.data is None

    @property
    def rank(self) -> int | None:
        """Number of dimensions, None when unknown."""
        return None if self.shape is None else len(self.shape)

    @property
    def only_use(self) -> Use | None:
        """The use, if there is exactly one and the graph does not return the value too."""
        if len(self.uses) != 1 or self.is_output:
            return None
        return next(iter(self.uses))

    @property
    def consumers(self) -> list[Node]:
        """The nodes that read the value, each once, in order of creation."""
        return list(dict.fromkeys(use.node for use in self.uses))

    def __repr__(self) -> str:
        return f"<Value {self.name}>"


class Subgraph:
    """The body of a control-flow node, carried whole, with the outer values that it reads by name."""

    __slots__ = ("captures", "proto")

    def __init__(self, proto: onnx.GraphProto) -> None:
        self.proto = proto
        self.captures = tuple(_captured_names(proto))

    def renamed(self, old: str, new: str) -> Subgraph:
        """Returns a copy that reads the outer value `new` wherever this one reads `old`."""
        proto = onnx.GraphProto()
        proto.CopyFrom(self.proto)
        _rename_capture(proto, old, new)
        return Subgraph(proto)

    def names(self) -> Iterator[str]:
        """Yields every name defined inside, nested bodies included."""
        yield from _defined_names(self.proto)
        for node in self.proto.node:
            for attribute in node.attribute:
                for body in _bodies(attribute):
                    yield from Subgraph(body).names()


class Node:
    """An operation.

    Attributes:
        op: Operator type, e.g. "Conv".
        domain: "" for the standard ONNX operators.
        inputs: None where an optional input is left out.
        outputs: None where an optional output is left out.
        origin: Names of the source model's nodes that this node comes from, through every rewrite.
    """

    __slots__ = (
        "attributes", "captures", "doc", "domain", "graph", "inputs", "metadata", "name", "op", "origin", "outputs", "overload", "rank",
    )  # fmt: skip

    def __init__(self, op: str, name: str, domain: str = "") -> None:
        self.op = op
        self.name = name
        self.domain = domain
        self.overload = ""
        self.inputs: list[Value | None] = []
        self.outputs: list[Value | None] = []
        self.captures: list[Value] = []
        self.attributes: dict[str, Attribute] = {}
        self.origin: tuple[str, ...] = (name,)
        self.doc = ""
        self.metadata: dict[str, str] = {}
        self.graph: Graph | None = None
        self.rank: tuple[int, int] = (0, 0)

    @property
    def output(self) -> Value:
        """The first output; every node of a valid graph that computes something has it."""
        value = self.outputs[0]
        assert value is not None, f"{self.name} has no first output"
        return value

    def input(self, slot: int) -> Value | None:
        """The value at an input slot; None when it is left out, by position or by omission."""
        return self.inputs[slot] if slot < len(self.inputs) else None

    def text(self, name: str, default: str) -> str:
        """A text attribute, which ONNX stores as bytes; the default where the node has none."""
        given = self.attributes.get(name, default)
        return given.decode() if isinstance(given, bytes) else str(given)

    def operands(self) -> Iterator[tuple[int, Value]]:
        """Yields (slot, value) of everything the node reads, captured outer values last."""
        for slot, value in enumerate([*self.inputs, *self.captures] if self.captures else self.inputs):
            if value is not None:
                yield slot, value

    def operand(self, slot: int) -> Value | None:
        """The value at an input slot or, past the inputs, the captured one; None where there is none."""
        if slot < len(self.inputs):
            return self.inputs[slot]
        offset = slot - len(self.inputs)
        return self.captures[offset] if offset < len(self.captures) else None

    @property
    def subgraphs(self) -> list[Subgraph]:
        """The node's control-flow bodies."""
        found: list[Subgraph] = []
        for attribute in self.attributes.values():
            if isinstance(attribute, Subgraph):
                found.append(attribute)
            elif isinstance(attribute, list) and attribute and isinstance(attribute[0], Subgraph):
                found += attribute
        return found

    def is_op(self, *ops: str) -> bool:
        """Whether this is one of the given standard ONNX operators."""
        return not self.domain and self.op in ops

    def __repr__(self) -> str:
        return f"<{self.op} {self.name}>"


def _bodies(attribute: onnx.AttributeProto) -> list[onnx.GraphProto]:
    if attribute.type == onnx.AttributeProto.GRAPH:
        return [attribute.g]
    return list(attribute.graphs)


def _defined_names(proto: onnx.GraphProto) -> set[str]:
    names = {value.name for value in proto.input} | {tensor.name for tensor in proto.initializer}
    names |= {tensor.values.name for tensor in proto.sparse_initializer}
    for node in proto.node:
        names.update(node.output)
    names.discard("")
    return names


def _captured_names(proto: onnx.GraphProto) -> dict[str, None]:
    defined = _defined_names(proto)
    captured: dict[str, None] = {}
    for node in proto.node:
        captured.update(dict.fromkeys(name for name in node.input if name and name not in defined))
        for attribute in node.attribute:
            for body in _bodies(attribute):
                captured.update(dict.fromkeys(name for name in _captured_names(body) if name not in defined))
    captured.update(dict.fromkeys(out.name for out in proto.output if out.name not in defined))
    return captured


def _rename_capture(proto: onnx.GraphProto, old: str, new: str) -> None:
    if old in _defined_names(proto):
        return
    for node in proto.node:
        for index, name in enumerate(node.input):
            if name == old:
                node.input[index] = new
        for attribute in node.attribute:
            for body in _bodies(attribute):
                _rename_capture(body, old, new)
    for output in proto.output:
        if output.name == old:
            output.name = new
