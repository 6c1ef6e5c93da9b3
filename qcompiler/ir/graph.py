"""The graph: nodes and values with exact use lists.

All edits go through `Graph`, each in time proportional to the degree of what it touches, and each is recorded: the
journal of a pass is its diff. Node order is not stored but derived: `topological()` sorts when the structure has
changed and keeps source order wherever the edges allow.
"""

from __future__ import annotations

import contextlib
import gc
import heapq
import itertools
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from qcompiler.errors import ModelError
from qcompiler.ir.facts import FactStore
from qcompiler.ir.node import Attribute, Node, Shape, Subgraph, Use, Value

if TYPE_CHECKING:
    import networkx
    import onnx_graphsurgeon as gs
    from numpy.typing import NDArray

OPSET = 21
"""The one opset inside the compiler; other models are converted at the door."""


@contextlib.contextmanager
def collector_paused() -> Iterator[None]:
    """Holds the cyclic garbage collector while many objects are made that all stay: half the time of an import."""
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.enable()


class Edit(NamedTuple):
    """One entry of the journal."""

    kind: str
    subject: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.subject}{': ' if self.detail else ''}{self.detail}"


class Graph:
    """A model: inputs, outputs, nodes, values, and the facts that passes established about them."""

    def __init__(self, name: str = "graph") -> None:
        self.name = name
        self.inputs: list[Value] = []
        self._outputs: list[Value] = []
        self.opset = OPSET
        self.other_opsets: dict[str, int] = {}
        self.doc = ""
        self.graph_doc = ""
        self.metadata: dict[str, str] = {}
        self.graph_metadata: dict[str, str] = {}
        self.producer = ("", "")
        self.model_domain = ""
        self.model_version = 0
        self.facts = FactStore()
        self.journal: list[Edit] = []
        self._nodes: dict[Node, None] = {}
        self._values: dict[str, Value] = {}
        self._node_names: dict[str, Node] = {}
        self._numbers: dict[tuple[bool, str], int] = {}  # the number that a taken hint gets next
        self._reserved: set[str] = set()  # names inside control-flow bodies, which must stay free outside
        self._order: list[Node] | None = None
        self._serial = itertools.count()
        self._deriving: tuple[tuple[Node, ...], Node | None] = ((), None)
        self._made: list[Node] | None = None

    # -- reading ------------------------------------------------------------------------------------------

    @property
    def outputs(self) -> tuple[Value, ...]:
        """The values that the graph returns."""
        return tuple(self._outputs)

    @property
    def nodes(self) -> list[Node]:
        """All nodes in topological order (a snapshot: safe to edit the graph while walking it)."""
        return list(self.topological())

    @property
    def node_count(self) -> int:
        """How many nodes there are; cheaper than `len(graph.nodes)` amid edits."""
        return len(self._nodes)

    @property
    def values(self) -> list[Value]:
        """All values, in order of creation."""
        return list(self._values.values())

    @property
    def constants(self) -> list[Value]:
        """The values whose elements are known."""
        return [value for value in self._values.values() if value.data is not None]

    def value(self, name: str) -> Value:
        """The value of that name.

        Raises:
            KeyError: There is none.
        """
        return self._values[name]

    def has_value(self, name: str) -> bool:
        """Whether a value of that name exists."""
        return name in self._values

    def node(self, name: str) -> Node:
        """The node of that name.

        Raises:
            KeyError: There is none.
        """
        return self._node_names[name]

    def has_node(self, name: str) -> bool:
        """Whether a node of that name exists."""
        return name in self._node_names

    def __contains__(self, node: Node) -> bool:
        return node in self._nodes

    def topological(self) -> Sequence[Node]:
        """The nodes, producers first, otherwise in source order. Kept until the structure changes.

        Raises:
            ModelError: The graph has a cycle; the message names nodes on it.
        """
        if self._order is None:
            self._order = self._sort()
        return self._order

    def _sort(self) -> list[Node]:
        waiting: dict[Node, int] = {}
        ready: list[tuple[tuple[int, int], Node]] = []
        for node in self._nodes:
            producers = {value.producer for _, value in node.operands() if value.producer is not None}
            waiting[node] = len(producers)
            if not producers:
                ready.append((node.rank, node))
        heapq.heapify(ready)  # ranks are unique: nodes themselves are never compared
        order: list[Node] = []
        while ready:
            _, node = heapq.heappop(ready)
            order.append(node)
            followers = {use.node for value in node.outputs if value is not None for use in value.uses}
            for follower in followers:
                waiting[follower] -= 1
                if not waiting[follower]:
                    heapq.heappush(ready, (follower.rank, follower))
        if len(order) != len(self._nodes):
            names = _cycle({node for node in self._nodes if waiting[node] > 0})
            raise ModelError(
                f"The graph has a cycle through the nodes {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}; "
                "an ONNX graph must be acyclic."
            )
        return order

    # -- names --------------------------------------------------------------------------------------------

    def unique_name(self, hint: str) -> str:
        """A value name that is free here and in every control-flow body: the hint, or the hint with a number."""
        if hint not in self._values and hint not in self._reserved:
            return hint
        return self._numbered(hint, self._values, self._reserved)

    def _unique_node_name(self, hint: str) -> str:
        return hint if hint not in self._node_names else self._numbered(hint, self._node_names, ())

    def _numbered(self, hint: str, taken: Container[str], also_taken: Container[str]) -> str:
        """The hint with the next number; numbers only grow, so that a thousand nodes of one hint take linear time."""
        key = (taken is self._values, hint)
        for number in itertools.count(self._numbers.get(key, 1)):
            name = f"{hint}_{number}"
            if name not in taken and name not in also_taken:
                self._numbers[key] = number + 1
                return name
        raise AssertionError

    def rename(self, value: Value, name: str) -> None:
        """Gives a value another name, in control-flow bodies that read it too.

        Raises:
            ModelError: Another value has that name.
        """
        if name == value.name:
            return
        if name in self._values or name in self._reserved:
            raise ModelError(f"Cannot rename value {value.name!r} to {name!r}: that name is taken.")
        self._rename(value, name)

    def _rename(self, value: Value, name: str) -> None:
        for use in value.uses:
            if use.slot >= len(use.node.inputs):
                _rename_in_bodies(use.node, value.name, name)
        self._record("rename", value.name, name)
        del self._values[value.name]
        value.name = name
        self._values[name] = value

    # -- building -----------------------------------------------------------------------------------------

    def add_input(self, name: str, dtype: np.dtype[Any] | type | None, shape: Shape | None) -> Value:
        """Adds a graph input."""
        value = self._new_value(name, None if dtype is None else np.dtype(dtype), shape)
        self.inputs.append(value)
        self._record("add_input", name)
        return value

    def add_constant(self, hint: str, data: NDArray[Any] | np.generic | float | list[Any]) -> Value:
        """Adds a constant under a name like `hint`. The array is kept, not copied: do not write to it."""
        array = np.asarray(data) if not isinstance(data, np.ndarray) else data
        value = self._new_value(self.unique_name(hint), array.dtype, array.shape)
        value.data = array
        return value

    def add_value(
        self, hint: str, dtype: np.dtype[Any] | type | None = None, shape: Shape | None = None
    ) -> Value:
        """Adds a value that a node is going to produce."""
        return self._new_value(self.unique_name(hint), None if dtype is None else np.dtype(dtype), shape)

    def _new_value(self, name: str, dtype: np.dtype[Any] | None, shape: Shape | None) -> Value:
        if name in self._values:
            raise ModelError(f"Two values are named {name!r}; names must be unique in a graph.")
        value = Value(name, dtype, shape)
        value.graph = self
        self._values[name] = value
        return value

    def add_node(
        self,
        op: str,
        inputs: Sequence[Value | None],
        outputs: Sequence[Value | str | None] | int = 1,
        attributes: Mapping[str, Attribute] | None = None,
        *,
        name: str = "",
        domain: str = "",
        origin: Iterable[Node | str] = (),
        near: Node | None = None,
    ) -> Node:
        """Adds a node.

        Args:
            op: Operator type.
            inputs: None for an input left out.
            outputs: Fresh values from `add_value`, name hints for new ones, or how many to make.
            attributes: See `Attribute`.
            name: A hint; made unique. By default the op's name and the first output's.
            domain: "" for standard operators.
            origin: The nodes (or names of source nodes) that this one comes from; by default its own name.
            near: The node whose place in source order this one takes (it sorts right behind it). Inside `deriving`,
                origin and near have their defaults from there.
        """
        if not origin and near is None:
            origin, near = self._deriving
        if isinstance(outputs, int):
            hint = name or (f"{near.name}_{op}" if near else op)
            outputs = [hint if index == 0 else f"{hint}_{index}" for index in range(outputs)]
        values = [self.add_value(output) if isinstance(output, str) else output for output in outputs]
        first = next((value.name for value in values if value is not None), op)
        node = Node(op, self._unique_node_name(name or f"{op}:{first}"), domain)
        node.inputs = list(inputs)
        node.outputs = values
        node.attributes = dict(attributes or {})
        names = [item for entry in origin for item in (entry.origin if isinstance(entry, Node) else (entry,))]
        node.origin = tuple(dict.fromkeys(names)) or (node.name,)
        serial = next(self._serial)
        node.rank = (near.rank[0] if near else serial, serial)
        self._attach(node)
        return node

    @contextlib.contextmanager
    def deriving(self, nodes: Iterable[Node]) -> Iterator[list[Node]]:
        """Within the context, new nodes come from these nodes: they inherit the origins and the last one's place.

        Yields the list in which the new nodes are collected.
        """
        outer, sources = self._deriving, tuple(nodes)
        self._deriving = (sources, sources[-1] if sources else None)
        made: list[Node] = []
        outer_made, self._made = self._made, made
        try:
            yield made
        finally:
            self._deriving, self._made = outer, outer_made

    def _attach(self, node: Node) -> None:
        node.graph = self
        node.captures = self._captures_of(node)
        for slot, value in node.operands():
            value.uses[Use(node, slot)] = None
        for output in node.outputs:
            if output is None:
                continue
            if output.producer is not None or output.data is not None:
                raise ModelError(
                    f"Value {output.name!r} is defined twice; {node.name} is the second to define it."
                )
            output.producer = node
        self._nodes[node] = None
        self._node_names[node.name] = node
        if self._made is not None:
            self._made.append(node)
        self._order = None
        self._record("add", node.name, node.op)

    def _captures_of(self, node: Node) -> list[Value]:
        """The outer values that a node's bodies read, each once; the bodies' own names are reserved on the way."""
        captured: dict[Value, None] = {}
        for body in node.subgraphs:
            self._reserved.update(body.names())
            captured.update(
                dict.fromkeys(self._values[name] for name in body.captures if name in self._values)
            )
        return list(captured)

    def set_outputs(self, values: Iterable[Value]) -> None:
        """Declares what the graph returns, in order."""
        for value in self._outputs:
            value._outputs -= 1
        self._outputs = list(values)
        for value in self._outputs:
            value._outputs += 1
        self._record("set_outputs", self.name, ", ".join(value.name for value in self._outputs))

    # -- editing ------------------------------------------------------------------------------------------

    def set_input(self, node: Node, slot: int, value: Value | None) -> None:
        """Makes a node read another value at an input slot; a slot just past the last one appends."""
        old = node.input(slot)
        if old is value:
            return
        if len(node.inputs) <= slot:
            missing: list[Value | None] = [None] * (slot + 1 - len(node.inputs))
            self._recapture(node, lambda: node.inputs.extend(missing))
        if old is not None:
            del old.uses[Use(node, slot)]
        node.inputs[slot] = value
        if value is not None:
            value.uses[Use(node, slot)] = None
        while node.inputs and node.inputs[-1] is None:
            self._recapture(node, node.inputs.pop)
        self._order = None
        self._record(
            "set_input", node.name, f"{slot} {old.name if old else None} -> {value.name if value else None}"
        )

    def _recapture(self, node: Node, change: Callable[[], object]) -> None:
        """Makes a change after which a node's captures are others, or stand at other slots."""
        for offset, value in enumerate(node.captures):
            del value.uses[Use(node, len(node.inputs) + offset)]
        change()
        for offset, value in enumerate(node.captures):
            value.uses[Use(node, len(node.inputs) + offset)] = None

    def set_attribute(self, node: Node, name: str, attribute: Attribute | None) -> None:
        """Sets an attribute, or removes it when given None."""
        had_bodies = bool(node.subgraphs)
        if attribute is None:
            node.attributes.pop(name, None)
        else:
            node.attributes[name] = attribute
        if had_bodies or node.subgraphs:
            captures = self._captures_of(node)
            self._recapture(node, lambda: setattr(node, "captures", captures))
            self._order = None
        self._record("set_attribute", node.name, f"{name}={attribute!r:.60}")

    def set_data(self, value: Value, data: NDArray[Any]) -> None:
        """Replaces the elements of a constant for all its users."""
        assert value.data is not None, f"{value.name} is no constant"
        value.data, value.dtype, value.shape = data, data.dtype, data.shape
        self._record("set_data", value.name)

    def replace_uses(self, old: Value, new: Value, uses: Iterable[Use] | None = None) -> None:
        """Makes the uses of `old` read `new`.

        With `uses` given, only those. Without, all of them and the graph output too: the output keeps its name, so
        `new` takes over the name, or, where it has a name of its own to keep, an Identity is put between. A graph
        input that the graph also returns as it is goes on being returned: its name cannot stand for two values.
        """
        if old is new:
            return
        for use in list(old.uses) if uses is None else list(uses):
            if use.slot < len(use.node.inputs):
                self.set_input(use.node, use.slot, new)
            else:
                self._replace_capture(use.node, old, new)
        if uses is None and old.is_output and not old.is_input:
            self._replace_output(old, new)

    def _replace_capture(self, node: Node, old: Value, new: Value) -> None:
        _rename_in_bodies(node, old.name, new.name)
        captures = list(dict.fromkeys(new if value is old else value for value in node.captures))
        self._recapture(node, lambda: setattr(node, "captures", captures))
        self._order = None
        self._record("set_input", node.name, f"captured {old.name} -> {new.name}")

    def _replace_output(self, old: Value, new: Value) -> None:
        if new.producer is None or new.is_output:
            between = self.add_value(f"{old.name}_identity", new.dtype, new.shape)
            self.add_node("Identity", [new], [between], origin=[old.producer] if old.producer else [])
            new = between
        if new.dtype is None and new.other_type is None:  # what a graph returns must have a type
            new.dtype, new.other_type = old.dtype, old.other_type
        new.shape = new.shape if new.shape is not None else old.shape
        name = old.name
        self._rename(old, self.unique_name(f"{name}_replaced"))
        self._rename(new, name)
        new.doc, new.metadata = new.doc or old.doc, new.metadata or old.metadata
        self.set_outputs([new if value is old else value for value in self._outputs])

    def replace_node(self, node: Node, *replacements: Value | None) -> None:
        """Makes every use of the node's outputs read the replacements (in order), then removes the node.

        Where a replacement's dtype or shape is unknown, it inherits the output's.
        """
        for output, new in zip(node.outputs, replacements, strict=True):
            if output is None or new is None:
                continue
            if new.data is None:
                new.dtype = new.dtype if new.dtype is not None else output.dtype
                new.shape = new.shape if new.shape is not None else output.shape
            self.replace_uses(output, new)
        self.remove(node)

    def insert_on_edge(
        self,
        value: Value,
        uses: Iterable[Use],
        op: str,
        others: Sequence[Value | None] = (),
        attributes: Mapping[str, Attribute] | None = None,
        *,
        name: str = "",
        output: Value | None = None,
    ) -> Node:
        """Puts a one-output node between a value and some of its uses, which then read the new node's output."""
        near = value.producer
        out = output or self.add_value(name or f"{value.name}_{op}", value.dtype, value.shape)
        node = self.add_node(
            op, [value, *others], [out], attributes, name=name, origin=[near] if near else [], near=near
        )
        self.replace_uses(value, out, list(uses))
        return node

    def remove(self, node: Node) -> None:
        """Removes a node whose outputs nobody uses; its outputs vanish with it, its constant inputs when unused.

        Raises:
            ModelError: An output is still used.
        """
        for value in node.outputs:
            if value is not None and (value.uses or value.is_output):
                raise ModelError(
                    f"Cannot remove node {node.name!r}: its output {value.name!r} is still used."
                )
        for slot, value in node.operands():
            del value.uses[Use(node, slot)]
            if value.data is not None:
                self._drop_if_unused(value)
        for value in node.outputs:
            if value is not None:
                del self._values[value.name]
                value.graph = None
        del self._nodes[node]
        del self._node_names[node.name]
        node.graph = None
        self._order = None
        self._record("remove", node.name, node.op)

    def _drop_if_unused(self, value: Value) -> None:
        if not value.uses and not value.is_output and self._values.get(value.name) is value:
            del self._values[value.name]
            value.graph = None

    def remove_dead(self) -> int:
        """Removes every node that no graph output depends on, and unused constants; returns how many nodes."""
        live = {value.producer for value in self._outputs if value.producer is not None}
        stack = list(live)
        while stack:
            for _, value in stack.pop().operands():
                if value.producer is not None and value.producer not in live:
                    live.add(value.producer)
                    stack.append(value.producer)
        dead = [node for node in reversed(self.topological()) if node not in live]
        for node in dead:
            self.remove(node)
        self.remove_unused_constants()
        return len(dead)

    def remove_unused_constants(self) -> None:
        """Removes the constants that nobody reads: edits leave them in place, for the pass at work may still want them."""
        for value in self.constants:
            self._drop_if_unused(value)

    def _record(self, kind: str, subject: str, detail: str = "") -> None:
        self.journal.append(Edit(kind, subject, detail))

    # -- whole graphs -------------------------------------------------------------------------------------

    def copy(self, *, facts: bool = False) -> Graph:
        """A graph of its own with the same names, order and origins; constants' arrays are shared.

        Args:
            facts: Whether the copy keeps the facts that go by names.
        """
        clone = Graph(self.name)
        if facts:
            clone.facts = self.facts.named()
        clone.opset, clone.other_opsets = self.opset, dict(self.other_opsets)
        clone.doc, clone.graph_doc, clone.producer = self.doc, self.graph_doc, self.producer
        clone.model_domain, clone.model_version = self.model_domain, self.model_version
        clone.metadata, clone.graph_metadata = dict(self.metadata), dict(self.graph_metadata)
        with collector_paused():
            for value in self._values.values():
                twin = clone._new_value(value.name, value.dtype, value.shape)
                twin.data, twin.other_type, twin.doc = value.data, value.other_type, value.doc
                twin.metadata = dict(value.metadata)
            for node in self.topological():
                twin_node = Node(node.op, node.name, node.domain)
                twin_node.inputs, twin_node.outputs = clone._twins(node.inputs), clone._twins(node.outputs)
                twin_node.attributes, twin_node.origin = dict(node.attributes), node.origin
                twin_node.doc, twin_node.overload = node.doc, node.overload
                twin_node.metadata = dict(node.metadata)
                serial = next(clone._serial)
                twin_node.rank = (serial, serial)
                clone._attach(twin_node)
        clone.inputs = [clone._values[value.name] for value in self.inputs]
        clone.set_outputs(clone._values[value.name] for value in self._outputs)
        clone.journal.clear()
        return clone

    def _twins(self, values: Iterable[Value | None]) -> list[Value | None]:
        return [None if value is None else self._values[value.name] for value in values]

    def become(self, other: Graph) -> None:
        """Takes over all that another graph holds, which must not be used afterwards. The facts stay as they are."""
        facts, journal = self.facts, self.journal
        vars(self).update(vars(other))
        self.facts, self.journal = facts, journal
        for node in self._nodes:
            node.graph = self
        for value in self._values.values():
            value.graph = self
        self._record("become", self.name, f"{len(self._nodes)} nodes")

    def to_graphsurgeon(self) -> gs.Graph:
        """The graph for onnx-graphsurgeon; see `qcompiler.ir.bridges`."""
        from qcompiler.ir.bridges import to_graphsurgeon

        return to_graphsurgeon(self)

    @classmethod
    def from_graphsurgeon(cls, surgical: gs.Graph, like: Graph | None = None) -> Graph:
        """The graph of onnx-graphsurgeon as ours; see `qcompiler.ir.bridges`."""
        from qcompiler.ir.bridges import from_graphsurgeon

        return from_graphsurgeon(surgical, like)

    def to_networkx(self, *, ends: bool = False) -> networkx.DiGraph:
        """A snapshot for graph analyses; see `qcompiler.ir.bridges`."""
        from qcompiler.ir.bridges import to_networkx

        return to_networkx(self, ends=ends)

    def verify(self) -> None:
        """Checks the invariants; see `qcompiler.ir.verify`.

        Raises:
            ModelError: One is broken; the message says which and where.
        """
        from qcompiler.ir.verify import verify

        verify(self)

    def __str__(self) -> str:
        from qcompiler.ir.text import to_text

        return to_text(self)


def _rename_in_bodies(node: Node, old: str, new: str) -> None:
    def renamed(attribute: Attribute) -> Attribute:
        if isinstance(attribute, Subgraph) and old in attribute.captures:
            return attribute.renamed(old, new)
        if isinstance(attribute, list):
            return [renamed(item) for item in attribute]
        return attribute

    for name, attribute in list(node.attributes.items()):
        node.attributes[name] = renamed(attribute)


def _cycle(stuck: set[Node]) -> list[str]:
    """Names of the nodes on one cycle. Every stuck node has a stuck producer, so walking up must come round."""
    node, path = min(stuck, key=lambda item: item.rank), dict[Node, None]()
    while node not in path:
        path[node] = None
        node = next(v.producer for _, v in node.operands() if v.producer is not None and v.producer in stuck)
    nodes = list(path)
    cycle = nodes[nodes.index(node) :][::-1]
    first = cycle.index(min(cycle, key=lambda item: item.rank))
    return [item.name for item in cycle[first:] + cycle[:first]]
