"""Op patterns: written as text, matched with reasons. Rewrites and kernel tables use the same ones.

A pattern is a chain of steps, matched from its first step on along single-use edges::

    Conv(x, $w, $b?) -> Add(_, shortcut)? -> Relu|Clip|HardSwish?

* ``Op(...)``: an operator with its operands; ``A|B`` one of several; without brackets, any further operands.
* ``_``: the result of the step before. Commutative operators match in either order.
* ``x``: any operand; ``$w``: a constant; a trailing ``?`` lets an operand (or a step) be missing; a final ``...`` any more.
* A name that stands twice is one and the same value (or equal constants); ``label=Op(...)`` names the node.
* ``0.5``: a constant whose every element is that number, to a relative 1e-6.
* An operand may be a call itself: ``Mul(x, Sigmoid(x))``.

Edges inside a match are private to it: their values are used nowhere else and are not graph outputs. A match that fails
leaves a `Miss`, which says how far it came and why it stopped.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from qcompiler import ops
from qcompiler.ir.functions import DOMAIN
from qcompiler.pattern_syntax import Call, Operand, Step, parse_pattern

if TYPE_CHECKING:
    from qcompiler.ir.node import Node, Value

_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Miss:
    """Why a pattern did not match.

    Attributes:
        matched: How many nodes matched before it stopped.
        reason: One clause.
        node: Where it stopped.
    """

    matched: int
    reason: str
    node: str

    def __str__(self) -> str:
        return f"at {self.node}: {self.reason} (after {self.matched} matching nodes)"


@dataclass(frozen=True)
class Match:
    """A place where a pattern holds.

    Attributes:
        nodes: The matched nodes; the last one computes the result.
        values: What the pattern's names are bound to; None for an optional operand that is missing.
        labels: Nodes by label.
        stopped: Why an optional step was not taken, where something of its kind was there.
        anchor: The first step's node, from which matching began.
    """

    nodes: tuple[Node, ...]
    values: dict[str, Value | None]
    labels: dict[str, Node]
    stopped: tuple[str, ...]
    anchor: Node

    @property
    def root(self) -> Node:
        """The node that computes the result."""
        return self.nodes[-1]

    def __getitem__(self, name: str) -> Value:
        value = self.values[name]
        assert value is not None, f"{name} is not bound"
        return value

    def get(self, name: str) -> Value | None:
        """The value bound to a name, or None where the operand is missing."""
        return self.values.get(name)

    def constant(self, name: str) -> np.ndarray:
        """The elements of a constant operand."""
        data = self[name].data
        assert data is not None, f"{name} is no constant"
        return data

    def shared(self, *names: str) -> str | None:
        """The first of these operands that a node outside the match reads too, as a reason; None if there is none."""
        inside = set(self.nodes)
        for name in names:
            value = self.values.get(name)
            others = (
                [use.node.name for use in value.uses if use.node not in inside] if value is not None else []
            )
            if value is not None and (others or value.is_output):
                return f"the constant {value.name!r} is also used by {', '.join(others[:3]) or 'the graph output'}"
        return None


@dataclass
class _State:
    """Bindings under construction; copied where matching branches."""

    nodes: list[Node] = field(default_factory=list)
    values: dict[str, Value | None] = field(default_factory=dict)
    labels: dict[str, Node] = field(default_factory=dict)

    def fork(self) -> _State:
        return _State(list(self.nodes), dict(self.values), dict(self.labels))


class Pattern:
    """A compiled pattern. See the module for the notation."""

    def __init__(self, text: str) -> None:
        self.text = " ".join(text.split())
        self.steps = parse_pattern(self.text)

    @property
    def anchor_ops(self) -> tuple[str, ...]:
        """The operators that the first step accepts: where matching can begin."""
        return self.steps[0].call.ops

    @functools.cached_property
    def operand_names(self) -> tuple[str, ...]:
        """The names that a match binds, in order of appearance; "..." for operands that follow unnamed."""
        names: dict[str, None] = {}

        def visit(call: Call) -> None:
            for operand in call.operands or ():
                if operand.call is not None:
                    visit(operand.call)
                elif operand.name and not operand.is_previous:
                    names[operand.name] = None
            if call.open:
                names["..."] = None

        for step in self.steps:
            visit(step.call)
        return tuple(names)

    def __repr__(self) -> str:
        return f"Pattern({self.text!r})"

    def match(self, anchor: Node) -> Match | Miss:
        """Matches the pattern with its first step at a node; the longest match in the order of the steps."""
        attempt = _Attempt()
        for state in attempt.call(self.steps[0].call, anchor, _State(), None):
            for found in self._follow(attempt, state, anchor, 1, ()):
                return found
        return attempt.miss or Miss(0, f"{anchor.op} is not {self.steps[0].call}", anchor.name)

    def matches(self, anchor: Node) -> list[Match | Miss]:
        """Every match at a node: the longest first, then those that leave out optional steps; or one miss."""
        attempt = _Attempt()
        found: dict[tuple[Node, ...], Match] = {}
        for state in attempt.call(self.steps[0].call, anchor, _State(), None):
            for match in self._follow(attempt, state, anchor, 1, ()):
                found.setdefault(match.nodes, match)
        if found:
            return list(found.values())
        return [attempt.miss or Miss(0, f"{anchor.op} is not {self.steps[0].call}", anchor.name)]

    def _follow(
        self, attempt: _Attempt, state: _State, current: Node, position: int, stopped: tuple[str, ...]
    ) -> Iterator[Match]:
        """Yields the matches of the steps from `position` on, those that take the optional ones first."""
        if position == len(self.steps):
            leak = _leak(state.nodes, current)
            if leak:
                attempt.note(state, leak, current)
            else:
                nodes = (*(node for node in state.nodes if node is not current), current)
                values = {name: state.values.get(name) for name in self.operand_names}
                yield Match(nodes, values, state.labels, stopped, state.nodes[0])
            return
        step = self.steps[position]
        reached, reason = _next_states(attempt, step, state, current)
        for following, node in reached:
            yield from self._follow(attempt, following, node, position + 1, stopped)
        if step.optional:
            why = reason or (attempt.miss.reason if reached and attempt.miss else "")
            yield from self._follow(
                attempt, state, current, position + 1, (*stopped, why) if why else stopped
            )
        elif not reached:
            attempt.note(state, reason, current)


def _next_states(
    attempt: _Attempt, step: Step, state: _State, current: Node
) -> tuple[list[tuple[_State, Node]], str]:
    """The ways to match a step behind a node, or none and why not ("" where nothing of its kind follows)."""
    value = current.outputs[0] if current.outputs else None
    if value is None:
        return [], "" if step.optional else f"{step.call} does not follow"
    kin = [use for use in value.uses if use.node.op in _plain(step.call.ops)]
    use = value.only_use
    if use is None:
        if not kin:
            return [], "" if step.optional else f"{step.call} does not follow"
        why = "a graph output" if value.is_output else f"used {len(value.uses)} times"
        return [], f"{kin[0].node.op} {kin[0].node.name} follows, but {value.name!r} is {why}"
    deepest = attempt.miss
    reached = [(following, use.node) for following in attempt.call(step.call, use.node, state, use.slot)]
    if reached:
        return reached, ""
    if not kin:
        return [], "" if step.optional else f"{use.node.op} follows, not {step.call}"
    latest = attempt.miss
    if latest is not None and latest is not deepest:
        return [], latest.reason
    return [], f"{use.node.name} does not fit {step.call}"


def _plain(names: tuple[str, ...]) -> set[str]:
    return {name.rpartition("::")[2] for name in names}


def _leak(nodes: list[Node], root: Node) -> str:
    inside = set(nodes)
    for node in nodes:
        for value in node.outputs:
            if node is root or value is None:
                continue
            outside = [use.node.name for use in value.uses if use.node not in inside]
            if value.is_output:
                return f"{value.name!r} inside the pattern is a graph output"
            if outside:
                return f"{value.name!r} inside the pattern is also used by {outside[0]}"
    extra = [value for value in root.outputs[1:] if value is not None and (value.uses or value.is_output)]
    return f"{root.name} has further outputs in use" if extra else ""


class _Attempt:
    """One try at one anchor; remembers the deepest miss."""

    def __init__(self) -> None:
        self.miss: Miss | None = None

    def note(self, state: _State, reason: str, node: Node) -> None:
        if self.miss is None or len(state.nodes) >= self.miss.matched:
            self.miss = Miss(len(state.nodes), reason, node.name)

    def call(self, call: Call, node: Node, state: _State, previous: int | None) -> Iterator[_State]:
        """Yields every way in which a call holds at a node; `previous` is the slot that the step before feeds."""
        if not _is_one_of(node, call.ops):
            self.note(state, f"{node.op} is not {call}", node)
            return
        state = state.fork()
        if node not in state.nodes:
            state.nodes.append(node)
        if call.label:
            state.labels[call.label] = node
        if call.operands is None:
            if previous in (None, 0) or ops.info(node).commutative:
                yield state
            else:
                self.note(state, f"the result before feeds operand {previous} of {node.op}", node)
            return
        if len(node.inputs) > len(call.operands) and not call.open:
            self.note(state, f"{node.op} has {len(node.inputs)} operands, not {len(call.operands)}", node)
            return
        values: list[Value | None] = [node.input(slot) for slot in range(len(call.operands))]
        orders = [list(range(len(values)))]
        if ops.info(node).commutative and len(values) == 2:
            orders.append([1, 0])
            orders.sort(key=lambda order: -_likeness(call.operands or (), order, values, previous))
        likely: Miss | None = None
        for number, order in enumerate(orders):
            pairs = [(slot, values[slot]) for slot in order]
            yield from self._operands(call.operands, pairs, node, state, previous)
            if number == 0:
                likely = self.miss
        if likely is not None and self.miss is not None and self.miss.matched <= likely.matched:
            self.miss = likely  # why the likely order fails is the reason to tell

    def _operands(
        self,
        wanted: tuple[Operand, ...],
        given: list[tuple[int, Value | None]],
        node: Node,
        state: _State,
        previous: int | None,
    ) -> Iterator[_State]:
        if not wanted:
            yield state
            return
        (slot, value), rest = given[0], given[1:]
        for bound in self._operand(wanted[0], slot, value, node, state, previous):
            yield from self._operands(wanted[1:], rest, node, bound, previous)

    def _operand(
        self, wanted: Operand, slot: int, value: Value | None, node: Node, state: _State, previous: int | None
    ) -> Iterator[_State]:
        if wanted.is_previous:
            if slot == previous:
                yield state
            else:
                self.note(state, f"the result before feeds operand {previous} of {node.op}, not {slot}", node)
            return
        if value is None:
            if wanted.optional:
                state = state.fork()
                state.values.setdefault(wanted.name, None)
                yield state
            else:
                self.note(state, f"operand {slot} of {node.op} is missing", node)
            return
        if slot == previous:
            return  # the operand is the chain itself
        if wanted.call is not None:
            if value.producer is None:
                what = "a constant" if value.is_constant else "a graph input"
                self.note(state, f"operand {slot} is {what}, not {wanted.call}", node)
            elif value.producer.outputs[0] is not value:
                self.note(state, f"operand {slot} is a further output of {value.producer.name}", node)
            else:
                yield from self.call(wanted.call, value.producer, state, None)
            return
        reason = _refusal(wanted, value, state)
        if reason:
            self.note(state, reason, node)
            return
        if wanted.name:
            state = state.fork()
            state.values[wanted.name] = value
        yield state


def _likeness(
    wanted: tuple[Operand, ...], order: list[int], values: list[Value | None], previous: int | None
) -> int:
    """How many operands of a call look like the values that this order gives them."""
    count = 0
    for operand, slot in zip(wanted, order, strict=True):
        value = values[slot]
        if operand.is_previous:
            count += slot == previous
        elif value is not None and (operand.constant or operand.number is not None):
            count += value.is_constant
        elif value is not None and operand.call is not None:
            count += value.producer is not None and value.producer.op in _plain(operand.call.ops)
    return count


def _refusal(wanted: Operand, value: Value, state: _State) -> str:
    if wanted.number is not None:
        if value.data is None:
            return f"{value.name!r} is not the constant {wanted.number:g}"
        found = np.asarray(value.data, np.float64) if value.data.dtype != object else np.zeros(0)
        if not found.size or not np.allclose(found, wanted.number, rtol=_TOLERANCE, atol=0):
            shown = f"{found.reshape(-1)[0]:.8g}" if found.size else "empty"
            return f"the constant {value.name!r} is {shown}, not {wanted.number:.8g}"
        return ""
    if wanted.constant and value.data is None:
        return f"operand {wanted.name!r} ({value.name!r}) is not a constant"
    bound = state.values.get(wanted.name)
    if bound is not None and bound is not value and not _equal(bound, value):
        return f"operand {wanted.name!r} is {value.name!r} here and {bound.name!r} elsewhere"
    return ""


def _equal(first: Value, second: Value) -> bool:
    if first.data is None or second.data is None:
        return False
    return (
        first.data.size <= 1024
        and first.data.dtype == second.data.dtype
        and np.array_equal(first.data, second.data)
    )


def _is_one_of(node: Node, names: tuple[str, ...]) -> bool:
    for name in names:
        domain, _, op = name.rpartition("::")
        if node.op == op and (node.domain == domain if domain else node.domain in ("", DOMAIN)):
            return True
    return False
