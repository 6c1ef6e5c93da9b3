"""Patterns: what matches, what does not, and why."""

from __future__ import annotations

import numpy as np
import pytest

from qcompiler.ir.graph import Graph
from qcompiler.ir.node import Node, Value
from qcompiler.pattern_syntax import PatternSyntaxError
from qcompiler.patterns import Match, Miss, Pattern


class Builder:
    """Adds float32 [2, 4] layers with names."""

    def __init__(self) -> None:
        self.graph = Graph()
        self.x = self.graph.add_input("x", np.float32, (2, 4))
        self.y = self.graph.add_input("y", np.float32, (2, 4))

    def add(self, op: str, *inputs: Value | float | None, outputs: int = 1, domain: str = "") -> Value:
        values = [self.const(item) if isinstance(item, float | int) else item for item in inputs]
        return self.graph.add_node(op, values, outputs, domain=domain).output

    def const(self, number: float) -> Value:
        return self.graph.add_constant("c", np.float32(number))

    def done(self, *outputs: Value) -> None:
        self.graph.set_outputs(outputs)
        self.graph.verify()


def producer(value: Value) -> Node:
    assert value.producer is not None
    return value.producer


def matched(pattern: str, anchor: Value) -> Match:
    match = Pattern(pattern).match(producer(anchor))
    assert isinstance(match, Match), str(match)
    return match


def missed(pattern: str, anchor: Value) -> Miss:
    miss = Pattern(pattern).match(producer(anchor))
    assert isinstance(miss, Miss)
    return miss


def ops(match: Match) -> list[str]:
    return [node.op for node in match.nodes]


# -- chains --------------------------------------------------------------------------------------------------


def test_chain_binds_names_and_labels() -> None:
    b = Builder()
    conv = b.add("Conv", b.x, 1.0, 2.0)
    out = b.add("Relu", b.add("Add", conv, b.y))
    b.done(out)
    match = matched("c=Conv(x, $w, $b?) -> Add(_, other) -> act=Relu|Clip", conv)
    assert ops(match) == ["Conv", "Add", "Relu"]
    assert match.anchor is producer(conv)
    assert match.root is producer(out)
    assert match["x"] is b.x
    assert match["other"] is b.y
    assert match.constant("w") == 1.0
    assert match.constant("b") == 2.0
    assert set(match.labels) == {"c", "act"}
    assert match.labels["act"].op == "Relu"
    assert match.get("nothing") is None


def test_optional_operands() -> None:
    b = Builder()
    conv = b.add("Conv", b.x, 1.0)
    b.done(conv)
    match = matched("Conv(x, $w, $b?)", conv)
    assert match.get("b") is None
    assert match.values == {"x": b.x, "w": producer(conv).inputs[1], "b": None}
    assert "operand 2 of Conv is missing" in missed("Conv(x, $w, $b)", conv).reason


def test_an_operand_left_out_in_the_middle() -> None:
    b = Builder()
    clip = b.add("Clip", b.x, None, 6.0)
    b.done(clip)
    match = matched("Clip(x, $low?, $high?)", clip)
    assert match.get("low") is None
    assert match.constant("high") == 6.0


@pytest.mark.parametrize("steps", [(), ("Add",), ("Relu",), ("Add", "Relu")])
def test_optional_steps(steps: tuple[str, ...]) -> None:
    b = Builder()
    conv = value = b.add("Conv", b.x, 1.0)
    for step in steps:
        value = b.add(step, value, *([b.y] if step == "Add" else []))
    b.done(b.add("Sin", value))
    match = matched("Conv(x, $w) -> Add(_, s)? -> Relu?", conv)
    assert ops(match) == ["Conv", *steps]
    assert (match.get("s") is b.y) == ("Add" in steps)
    assert match.stopped == ()


def test_a_step_not_taken_says_why() -> None:
    b = Builder()
    conv = b.add("Conv", b.x, 1.0)
    b.done(b.add("Relu", conv), conv)
    match = matched("Conv(x, $w) -> Relu?", conv)
    assert ops(match) == ["Conv"]
    assert match.stopped == (
        f"Relu {producer(b.graph.outputs[0]).name} follows, but 'Conv' is a graph output",
    )


def test_an_optional_step_gives_way_to_a_mandatory_one() -> None:
    b = Builder()
    first = b.add("Relu", b.x)
    b.done(b.add("Sin", b.add("Relu", first)))
    assert ops(matched("Relu -> Relu? -> Relu", first)) == ["Relu", "Relu"]
    assert ops(matched("Relu -> Relu? -> Sin?", first)) == ["Relu", "Relu", "Sin"]
    miss = missed("Relu -> Relu? -> Cos", first)
    assert (miss.matched, miss.reason) == (2, "Sin follows, not Cos")


def test_an_optional_step_whose_edge_leaks_is_left_out() -> None:
    b = Builder()
    first = b.add("Relu", b.x)
    split = b.graph.add_node("Split", [first], 2)
    b.done(*[value for value in split.outputs if value is not None])
    match = matched("Relu -> Split?", first)
    assert ops(match) == ["Relu"]
    assert "further outputs" in match.stopped[0]


# -- operands ------------------------------------------------------------------------------------------------


def test_commutative_operators_match_in_either_order() -> None:
    for swap in (False, True):
        b = Builder()
        conv = b.add("Conv", b.x, 1.0)
        pair = (conv, b.const(3.0)) if not swap else (b.const(3.0), conv)
        mul = b.add("Mul", *pair)
        b.done(b.add("Add", *((b.y, mul) if swap else (mul, b.y))))
        match = matched("Conv(x, $w) -> Mul(_, $s) -> Add(_, y)", conv)
        assert match.constant("s") == 3.0
        assert match["y"] is b.y


def test_other_operators_do_not() -> None:
    b = Builder()
    conv = b.add("Conv", b.x, 1.0)
    b.done(b.add("Div", 3.0, conv))
    miss = missed("Conv(x, $w) -> Div(_, $s)", conv)
    assert "feeds operand 1 of Div, not 0" in miss.reason
    assert "feeds operand 1 of Div" in missed("Conv(x, $w) -> Div", conv).reason


def test_a_bare_commutative_step_takes_either_slot() -> None:
    b = Builder()
    conv = b.add("Conv", b.x, 1.0)
    b.done(b.add("Add", b.y, conv))
    assert ops(matched("Conv -> Add", conv)) == ["Conv", "Add"]


def test_constants_are_told_from_values() -> None:
    b = Builder()
    mul = b.add("Mul", b.x, b.y)
    b.done(mul)
    assert "is not a constant" in missed("Mul(x, $c)", mul).reason
    assert matched("Mul(x, c)", mul)["c"] is b.y


def test_numbers() -> None:
    b = Builder()
    mul = b.add("Mul", 0.70710678, b.x)
    b.done(mul)
    assert matched("Mul(x, 0.7071067811)", mul)["x"] is b.x
    assert "is 0.70710677, not 0.5" in missed("Mul(x, 0.5)", mul).reason
    other = b.add("Mul", b.x, b.y)
    assert "is not the constant 0.5" in missed("Mul(x, 0.5)", other).reason
    many = b.add("Mul", b.x, b.graph.add_constant("c", np.full((2, 4), -1e-3, np.float32)))
    assert isinstance(matched("Mul(x, -1e-3)", many), Match)
    mixed = b.add("Mul", b.x, b.graph.add_constant("c", np.float32([0.5, 0.25])))
    assert isinstance(missed("Mul(x, 0.5)", mixed), Miss)
    empty = b.add("Mul", b.x, b.graph.add_constant("c", np.zeros(0, np.float32)))
    assert "is empty" in missed("Mul(x, 0.5)", empty).reason


def test_repeated_names_are_one_value_or_equal_constants() -> None:
    b = Builder()
    same = b.add("Mul", b.x, b.x)
    different = b.add("Mul", b.x, b.y)
    equal = b.add("Max", b.add("Max", b.x, 2.0), 2.0)
    unequal = b.add("Max", b.add("Max", b.x, 2.0), 3.0)
    b.done(same, different, equal, unequal)
    assert matched("Mul(v, v)", same)["v"] is b.x
    assert "is 'y' here and 'x' elsewhere" in missed("Mul(v, v)", different).reason
    inner = producer(equal).inputs[0]
    assert inner is not None
    assert ops(matched("Max(x, $c) -> Max(_, $c)", inner)) == ["Max", "Max"]
    inner = producer(unequal).inputs[0]
    assert inner is not None
    assert "elsewhere" in missed("Max(x, $c) -> Max(_, $c)", inner).reason


def test_a_name_can_decide_between_the_orders() -> None:
    b = Builder()
    inner = b.add("Div", b.x, b.y)
    b.done(b.add("Add", b.y, b.add("Mul", b.y, inner)))
    match = matched("Div(p, q) -> Mul(_, q) -> Add(_, q)", inner)
    assert (match["p"], match["q"]) == (b.x, b.y)


def test_operand_counts() -> None:
    b = Builder()
    three = b.add("Sum", b.x, b.y, b.x)
    b.done(three)
    assert "Sum has 3 operands, not 2" in missed("Sum(a, b)", three).reason
    assert ops(matched("Sum", three)) == ["Sum"]
    assert ops(matched("Sum(a, ...)", three)) == ["Sum"]


# -- DAGs ----------------------------------------------------------------------------------------------------


def test_a_call_as_an_operand() -> None:
    b = Builder()
    swish = b.add("Mul", b.add("Sigmoid", b.x), b.x)
    b.done(b.add("Sin", swish))
    match = matched("Mul(x, s=Sigmoid(x)) -> Sin", swish)
    assert ops(match) == ["Mul", "Sigmoid", "Sin"]
    assert match.anchor is producer(swish)
    assert match.labels["s"].op == "Sigmoid"
    alone = matched("Mul(x, Sigmoid(x))", swish)
    assert alone.root is producer(swish)
    assert alone.anchor is producer(swish)
    assert ops(alone) == ["Sigmoid", "Mul"]


def test_a_shared_inner_node_is_matched_once() -> None:
    b = Builder()
    centred = b.add("Sub", b.x, b.y)
    squared = b.add("Mul", centred, centred)
    b.done(squared)
    match = matched("Mul(Sub(p, q), Sub(p, q))", squared)
    assert sorted(ops(match)) == ["Mul", "Sub"]


def test_the_erf_gelu() -> None:
    b = Builder()
    erf = b.add("Erf", b.add("Div", b.x, 1.41421356))
    gelu = b.add("Mul", b.add("Mul", b.add("Add", erf, 1.0), b.x), 0.5)
    b.done(gelu)
    match = matched("Mul(Mul(x, Add(Erf(Div(x, 1.41421356)), 1)), 0.5)", gelu)
    assert len(match.nodes) == 5
    assert match["x"] is b.x


def test_inner_operands_say_why_not() -> None:
    b = Builder()
    of_input = b.add("Mul", b.x, b.y)
    split = b.graph.add_node("Dropout", [b.x], 2)
    second = split.outputs[1]
    assert second is not None
    of_second = b.add("Mul", b.y, second)
    b.done(of_input, of_second)
    assert "is a graph input, not Sigmoid" in missed("Mul(a, Sigmoid(a))", of_input).reason
    assert "a further output of" in missed("Mul(a, Dropout(x, r?, t?))", of_second).reason


# -- privacy -------------------------------------------------------------------------------------------------


def test_inner_values_must_be_private() -> None:
    b = Builder()
    sigmoid = b.add("Sigmoid", b.x)
    swish = b.add("Mul", b.x, sigmoid)
    other = b.add("Sin", sigmoid)
    b.done(swish, other)
    assert (
        f"'Sigmoid' inside the pattern is also used by {producer(other).name}"
        in missed("Mul(x, Sigmoid(x))", swish).reason
    )
    b.done(swish, sigmoid)
    assert isinstance(missed("Mul(x, Sigmoid(x))", swish), Miss)


def test_a_graph_output_ends_a_chain() -> None:
    b = Builder()
    conv = b.add("Conv", b.x, 1.0)
    relu = b.add("Relu", conv)
    b.done(relu, conv)
    assert "'Conv' is a graph output" in missed("Conv(x, $w) -> Relu", conv).reason
    assert ops(matched("Conv(x, $w)", conv)) == ["Conv"]


def test_a_value_used_twice_ends_a_chain() -> None:
    b = Builder()
    conv = b.add("Conv", b.x, 1.0)
    b.done(b.add("Relu", conv), b.add("Sin", conv))
    miss = missed("Conv(x, $w) -> Relu", conv)
    assert "'Conv' is used 2 times" in miss.reason
    assert str(miss) == f"at {producer(conv).name}: {miss.reason} (after 1 matching nodes)"


def test_shared_constants_are_found() -> None:
    b = Builder()
    w = b.const(2.0)
    conv = b.add("Conv", b.x, w)
    other = b.add("Conv", b.y, w)
    b.done(conv, other)
    match = matched("Conv(x, $w)", conv)
    assert match.shared("x", "w") == f"the constant 'c' is also used by {producer(other).name}"
    assert match.shared("missing") is None
    b.graph.set_outputs([conv])
    b.graph.remove_dead()
    assert matched("Conv(x, $w)", conv).shared("w") is None


# -- anchors and domains -------------------------------------------------------------------------------------


def test_misses_tell_how_far_it_came() -> None:
    b = Builder()
    relu = b.add("Relu", b.x)
    conv = b.add("Conv", relu, 1.0)
    b.done(b.add("Sin", conv))
    assert missed("Conv(x, $w)", relu) == Miss(0, "Relu is not Conv", producer(relu).name)
    assert missed("Conv(x, $w) -> Relu|Clip", conv).reason == "Sin follows, not Relu|Clip"
    end = b.graph.outputs[0]
    assert missed("Sin(x) -> Relu", end).reason == "Relu does not follow"


def test_domains() -> None:
    b = Builder()
    fused = b.add("Conv", b.x, 1.0, domain="org.example")
    swish = b.add("Swish", b.x, domain="qcompiler")
    b.done(fused, swish)
    assert isinstance(missed("Conv(x, $w)", fused), Miss)
    assert isinstance(matched("org.example::Conv(x, $w)", fused), Match)
    assert isinstance(matched("Swish(x)", swish), Match)


def test_a_node_without_a_first_output() -> None:
    b = Builder()
    node = b.graph.add_node("LSTM", [b.x], [None, "h"])
    b.graph.set_outputs([value for value in node.outputs if value is not None])
    assert isinstance(Pattern("LSTM -> Relu").match(node), Miss)


def test_a_control_flow_body_is_not_a_step() -> None:
    from bodies import if_graph

    graph, _ = if_graph()
    graph.set_outputs([graph.value("y")])
    match = Pattern("Add(a, b) -> If?").match(graph.node("Add:doubled"))
    assert isinstance(match, Match)
    assert ops(match) == ["Add"]


# -- syntax --------------------------------------------------------------------------------------------------


def test_reading_a_pattern() -> None:
    pattern = Pattern("  Conv( x,$w ,$b? )->Add(_,other)?  -> Relu|Clip ")
    assert pattern.anchor_ops == ("Conv",)
    assert pattern.operand_names == ("x", "w", "b", "other")
    assert [step.optional for step in pattern.steps] == [False, True, False]
    assert repr(pattern) == "Pattern('Conv( x,$w ,$b? )->Add(_,other)? -> Relu|Clip')"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the end"),
        ("Conv(", "the end"),
        ("Conv(x", "'the end'|the end"),
        ("Conv(x) ->", "the end"),
        ("Conv(x))", "left over"),
        ("Conv(x) Relu", "left over"),
        ("Conv(x; y)", "cannot read .* at '; y"),
        ("Conv|(x)", "where a name must"),
        ("Conv?", "cannot be optional"),
        ("Conv(_, $w)", "nothing is before"),
        ("Conv(x) -> Add(a, b)", "must contain the result before"),
        ("Conv(x) -> Add(_, _)", "once"),
        ("Conv(x) -> Mul(_, Sigmoid(_))", "once"),
        ("Conv(, x)", "where a name must"),
    ],
)
def test_what_is_no_pattern(text: str, message: str) -> None:
    with pytest.raises(PatternSyntaxError, match=message):
        Pattern(text)
