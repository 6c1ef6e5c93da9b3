"""Graph: exact edits, journal, origins, captures, order."""

from __future__ import annotations

import gc

import numpy as np
import onnx
import pytest
from bodies import body, if_graph, nested_graph
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import feeds, networks

from qcompiler.errors import ModelError
from qcompiler.ir.graph import Graph, collector_paused
from qcompiler.ir.node import Use
from qcompiler.ir.onnx_export import to_onnx
from qcompiler.runtime import Session


def chain(*ops: str) -> Graph:
    graph = Graph("chain")
    value = graph.add_input("x", np.float32, (2, 3))
    for op in ops:
        value = graph.add_node(op, [value], [graph.add_value(op.lower(), np.float32, (2, 3))], name=op).output
    graph.set_outputs([value])
    graph.journal.clear()
    return graph


def ops_of(graph: Graph) -> list[str]:
    return [node.op for node in graph.nodes]


def kinds(graph: Graph) -> list[str]:
    return [edit.kind for edit in graph.journal]


def run(graph: Graph, **feeds: np.ndarray) -> list[np.ndarray]:
    onnx.checker.check_model(to_onnx(graph), full_check=True)
    results = Session(graph, optimize=False).run(feeds)
    return [results[value.name] for value in graph.outputs]


# -- building ------------------------------------------------------------------------------------------------


def test_names_are_made_unique_in_linear_time() -> None:
    graph = Graph()
    value = graph.add_input("x", np.float32, (1,))
    for _ in range(20_000):
        value = graph.add_node("Relu", [value]).output
    assert graph.node_count == 20_000
    assert value.name == "Relu_19999"
    assert graph.node("Relu:Relu_7").output.name == "Relu_7"
    assert graph.unique_name("fresh") == "fresh"


def test_an_explicit_name_must_be_free() -> None:
    graph = chain("Relu")
    with pytest.raises(ModelError, match="'x'"):
        graph.add_input("x", np.float32, (1,))


def test_a_value_has_one_definition() -> None:
    graph = chain("Relu", "Tanh")
    with pytest.raises(ModelError, match="defined twice"):
        graph.add_node("Relu", [graph.value("x")], [graph.value("relu")])


def test_values_know_their_uses_in_order() -> None:
    graph = chain("Relu", "Tanh")
    x = graph.value("x")
    other = graph.add_node("Add", [x, x])
    assert list(x.uses) == [Use(graph.node("Relu"), 0), Use(other, 0), Use(other, 1)]
    assert x.consumers == [graph.node("Relu"), other]
    assert x.only_use is None
    assert graph.value("relu").only_use == (graph.node("Tanh"), 0)
    assert graph.value("tanh").only_use is None
    assert (x.is_input, x.is_constant, x.is_output) == (True, False, False)


def test_optional_operands_and_outputs_can_be_left_out() -> None:
    graph = Graph()
    x = graph.add_input("x", np.float32, (4,))
    node = graph.add_node("Clip", [x, None, graph.add_constant("max", np.float32(6))])
    assert node.input(1) is None
    assert node.input(7) is None
    assert [slot for slot, _ in node.operands()] == [0, 2]
    dropout = graph.add_node("Dropout", [node.output], ["kept", None])
    assert dropout.outputs[1] is None
    graph.set_outputs([dropout.output])
    graph.verify()


def test_origins_go_through_deriving_and_near() -> None:
    graph = chain("Relu", "Tanh", "Neg")
    with graph.deriving([graph.node("Relu"), graph.node("Tanh")]) as made:
        node = graph.add_node("Abs", [graph.value("x")])
        with graph.deriving([graph.node("Neg")]):
            inner = graph.add_node("Abs", [graph.value("x")])
    assert made == [node]
    assert node.origin == ("Relu", "Tanh")
    assert inner.origin == ("Neg",)
    assert graph.add_node("Abs", [graph.value("x")], name="own").origin == ("own",)
    assert graph.add_node("Abs", [graph.value("x")], origin=[node, "extra"]).origin == (
        "Relu",
        "Tanh",
        "extra",
    )


# -- order ---------------------------------------------------------------------------------------------------


def test_order_keeps_to_the_source() -> None:
    graph = Graph()
    x = graph.add_input("x", np.float32, (1,))
    names = [f"n{index}" for index in range(50)]
    for name in names:
        graph.add_node("Relu", [x], name=name)
    assert [node.name for node in graph.nodes] == names
    late = graph.add_node("Neg", [x], name="late", near=graph.node("n3"))
    assert graph.nodes.index(late) == 4
    assert [node.name for node in graph.copy().nodes] == [node.name for node in graph.nodes]


def test_order_follows_edits() -> None:
    graph = chain("Relu", "Tanh")
    x = graph.value("x")
    node = graph.insert_on_edge(x, list(x.uses), "Neg")
    assert ops_of(graph) == ["Neg", "Relu", "Tanh"]
    graph.set_input(graph.node("Tanh"), 0, node.output)
    assert ops_of(graph) == ["Neg", "Relu", "Tanh"]


def test_a_cycle_is_named_by_its_own_nodes() -> None:
    graph = chain("Relu", "Tanh", "Neg", "Abs")
    graph.set_input(graph.node("Tanh"), 0, graph.value("neg"))
    with pytest.raises(ModelError, match="cycle through the nodes Tanh, Neg;"):
        graph.verify()


# -- edits ---------------------------------------------------------------------------------------------------


def test_rename() -> None:
    graph = chain("Relu", "Tanh")
    graph.rename(graph.value("relu"), "hidden")
    assert graph.value("hidden").producer is graph.node("Relu")
    assert not graph.has_value("relu")
    assert [str(edit) for edit in graph.journal] == ["rename relu: hidden"]
    with pytest.raises(ModelError, match="taken"):
        graph.rename(graph.value("hidden"), "x")
    graph.rename(graph.value("hidden"), "hidden")
    graph.verify()


def test_set_input_appends_and_trims() -> None:
    graph = Graph()
    x = graph.add_input("x", np.float32, (4,))
    node = graph.add_node("Clip", [x])
    top = graph.add_constant("top", np.float32(1))
    graph.set_outputs([node.output])
    graph.set_input(node, 1, None)
    assert len(node.inputs) == 1
    graph.set_input(node, 2, top)
    assert node.inputs == [x, None, top]
    graph.verify()
    graph.set_input(node, 2, None)
    assert node.inputs == [x]
    assert not top.uses
    graph.verify()


def test_replace_uses_of_chosen_uses() -> None:
    graph = chain("Relu", "Tanh", "Neg")
    graph.replace_uses(graph.value("relu"), graph.value("x"), list(graph.value("relu").uses))
    assert graph.node("Tanh").inputs == [graph.value("x")]
    assert graph.remove_dead() == 1
    assert ops_of(graph) == ["Tanh", "Neg"]
    graph.verify()


def test_the_output_keeps_its_name_when_another_node_takes_over() -> None:
    graph = chain("Relu", "Tanh")
    graph.value("tanh").doc = "the answer"
    new = graph.add_node("Sigmoid", [graph.value("relu")]).output
    graph.replace_node(graph.node("Tanh"), new)
    assert [value.name for value in graph.outputs] == ["tanh"]
    assert graph.outputs[0].producer is not None
    assert graph.outputs[0].producer.op == "Sigmoid"
    assert graph.outputs[0].doc == "the answer"
    assert graph.outputs[0].shape == (2, 3)
    graph.verify()
    run(graph, x=np.ones((2, 3), np.float32))


@pytest.mark.parametrize("kind", ["input", "constant", "output"])
def test_an_identity_stands_where_a_name_is_not_free_to_take(kind: str) -> None:
    graph = chain("Relu", "Tanh")
    if kind == "input":
        new = graph.value("x")
    elif kind == "constant":
        new = graph.add_constant("c", np.ones((2, 3), np.float32))
    else:
        new = graph.value("relu")
        graph.set_outputs([graph.value("tanh"), new])
    names = [value.name for value in graph.outputs]
    graph.replace_node(graph.node("Tanh"), new)
    graph.verify()
    assert [value.name for value in graph.outputs] == names
    between = graph.outputs[0].producer
    assert between is not None
    assert between.op == "Identity"
    assert between.origin == ("Tanh",)
    run(graph, x=np.ones((2, 3), np.float32))


def test_an_input_that_is_returned_keeps_its_name() -> None:
    graph = chain("Relu")
    x = graph.value("x")
    graph.set_outputs([graph.value("relu"), x])
    node = graph.add_node("Neg", [x])
    graph.replace_uses(x, node.output, [use for use in x.uses if use.node is not node])
    graph.replace_uses(x, graph.add_constant("c", np.zeros((2, 3), np.float32)))
    assert [value.name for value in graph.inputs] == ["x"]
    assert [value.name for value in graph.outputs] == ["relu", "x"]
    graph.verify()


def test_insert_on_edge_splits_chosen_uses() -> None:
    graph = chain("Relu", "Tanh")
    relu = graph.value("relu")
    other = graph.add_node("Neg", [relu])
    graph.set_outputs([*graph.outputs, other.output])
    node = graph.insert_on_edge(relu, [Use(other, 0)], "Abs", name="between")
    assert node.output.name == "between"
    assert node.output.shape == (2, 3)
    assert node.origin == ("Relu",)
    assert graph.node("Tanh").inputs == [relu]
    assert other.inputs == [node.output]
    graph.verify()


def test_remove_refuses_what_is_used_and_drops_lone_constants() -> None:
    graph = Graph()
    x, shared = graph.add_input("x", np.float32, (1,)), graph.add_constant("shared", np.ones(1, np.float32))
    first = graph.add_node("Add", [x, shared])
    second = graph.add_node("Add", [first.output, shared])
    third = graph.add_node("Mul", [second.output, graph.add_constant("own", np.ones(1, np.float32))])
    twice = graph.add_constant("twice", np.ones(1, np.float32))
    fourth = graph.add_node("Mul", [twice, twice])
    graph.set_outputs([first.output])
    with pytest.raises(ModelError, match="still used"):
        graph.remove(second)
    graph.remove(third)
    graph.remove(fourth)
    assert not graph.has_value("own")
    assert not graph.has_value("twice")
    graph.remove(second)
    assert graph.has_value("shared")
    assert second not in graph
    assert second.graph is None
    graph.verify()


def test_remove_dead_keeps_inputs_and_what_outputs_need() -> None:
    graph = chain("Relu", "Tanh")
    graph.add_input("unused", np.float32, (1,))
    graph.add_constant("lone", np.ones(1))
    dead = graph.add_node("Neg", [graph.value("relu")])
    graph.add_node("Abs", [dead.output])
    assert graph.remove_dead() == 2
    assert ops_of(graph) == ["Relu", "Tanh"]
    assert [value.name for value in graph.inputs] == ["x", "unused"]
    assert not graph.has_value("lone")
    graph.verify()


def test_set_data_changes_type_and_shape() -> None:
    graph = Graph()
    value = graph.add_constant("c", np.zeros(2, np.float32))
    graph.set_data(value, np.zeros((3, 1), np.int8))
    assert (value.dtype, value.shape) == (np.dtype(np.int8), (3, 1))


def test_the_journal_has_every_edit() -> None:
    graph = chain("Relu", "Tanh")
    graph.add_input("y", np.float32, (2, 3))
    node = graph.add_node("Add", [graph.value("tanh"), graph.value("y")])
    graph.set_outputs([node.output])
    graph.set_attribute(node, "note", 1)
    graph.set_attribute(node, "note", None)
    graph.set_data(graph.add_constant("c", np.zeros(1)), np.ones(1))
    graph.replace_node(graph.node("Tanh"), graph.value("relu"))
    assert kinds(graph) == [
        "add_input", "add", "set_outputs", "set_attribute", "set_attribute", "set_data", "set_input", "remove",
    ]  # fmt: skip
    assert str(graph.journal[-1]) == "remove Tanh: Tanh"


def test_set_outputs_counts() -> None:
    graph = chain("Relu", "Tanh")
    tanh = graph.value("tanh")
    graph.set_outputs([tanh, graph.value("relu")])
    graph.set_outputs([graph.value("relu")])
    assert not tanh.is_output
    assert graph.value("relu").is_output
    graph.verify()


# -- control flow --------------------------------------------------------------------------------------------


def test_bodies_are_uses() -> None:
    graph, node = if_graph()
    assert [value.name for value in node.captures] == ["doubled", "w"]
    assert Use(node, 1) in graph.value("doubled").uses
    assert graph.remove_dead() == 0
    graph.set_outputs([node.output])
    with pytest.raises(ModelError, match="still used"):
        graph.remove(graph.value("doubled").producer)  # type: ignore[arg-type]


def test_renaming_reaches_into_bodies() -> None:
    graph, _node = if_graph()
    x, flag = np.array([-1, 2, -3, 4], np.float32), np.array(True)
    before = run(graph, x=x, flag=flag)
    graph.rename(graph.value("doubled"), "other")
    graph.rename(graph.value("w"), "weight")
    graph.verify()
    np.testing.assert_array_equal(before, run(graph, x=x, flag=flag))


@pytest.mark.parametrize("flag", [True, False])
def test_replacing_a_captured_value(flag: bool) -> None:
    graph, node = if_graph()
    x = np.array([-1, 2, -3, 4], np.float32)
    new = graph.add_node("Neg", [graph.value("x")]).output
    graph.replace_uses(graph.value("doubled"), new)
    graph.remove_dead()
    graph.verify()
    assert [value.name for value in node.captures] == [
        "doubled",
        "w",
    ]  # the output's name went to the new value
    assert ops_of(graph) == ["Neg", "If"]
    y, doubled = run(graph, x=x, flag=np.array(flag))
    np.testing.assert_array_equal(doubled, -x)
    np.testing.assert_array_equal(y, np.maximum(-x, 0) + np.arange(4) if flag else -x)


def test_replacing_by_an_already_captured_value_merges() -> None:
    graph, node = if_graph()
    graph.set_outputs([node.output])
    graph.replace_uses(graph.value("doubled"), graph.value("w"))
    assert [value.name for value in node.captures] == ["w"]
    graph.verify()


def test_insert_on_a_captured_edge() -> None:
    graph, node = if_graph()
    doubled = graph.value("doubled")
    graph.insert_on_edge(doubled, [use for use in doubled.uses if use.node is node], "Neg")
    graph.verify()
    y, _ = run(graph, x=np.ones(4, np.float32), flag=np.array(False))
    np.testing.assert_array_equal(y, np.full(4, -2.0))


def test_operand_slots_and_captures_do_not_collide() -> None:
    graph, node = if_graph()
    graph.set_input(node, 3, graph.value("x"))
    graph.verify()
    assert node.operand(4) is graph.value("doubled")
    graph.set_input(node, 3, None)
    graph.verify()
    assert node.operand(1) is graph.value("doubled")
    assert node.operand(3) is None


def test_new_names_avoid_those_in_bodies() -> None:
    graph, _ = if_graph()
    assert graph.unique_name("p") == "p_1"
    with pytest.raises(ModelError, match="taken"):
        graph.rename(graph.value("x"), "p")


def test_another_body_brings_other_captures() -> None:
    graph, node = if_graph()
    graph.set_attribute(node, "then_branch", body("yes () => (float[4] r) { r = Identity(x) }"))
    assert [value.name for value in node.captures] == ["x", "doubled"]
    graph.verify()
    graph.set_attribute(node, "else_branch", None)
    assert [value.name for value in node.captures] == ["x"]
    graph.verify()


def test_nested_bodies() -> None:
    graph, node = nested_graph()
    x = np.arange(4, dtype=np.float32)
    (before,) = run(graph, x=x)
    assert {value.name for value in node.captures} == {"x", "start"}
    graph.rename(graph.value("x"), "image")
    graph.rename(graph.value("start"), "begin")
    graph.verify()
    (after,) = run(graph, image=x)
    np.testing.assert_array_equal(before, 2 * x)
    np.testing.assert_array_equal(before, after)


def test_a_copy_does_not_share_bodies() -> None:
    graph, _ = if_graph()
    twin = graph.copy()
    twin.rename(twin.value("w"), "weight")
    graph.verify()
    twin.verify()


# -- copies and random edits ---------------------------------------------------------------------------------


def test_copy_is_equal_and_independent() -> None:
    graph, _ = if_graph()
    graph.metadata["key"], graph.graph_doc, graph.model_version = "value", "doc", 3
    graph.node("Add:doubled").metadata["a"] = "b"
    twin = graph.copy()
    assert to_onnx(twin).SerializeToString(deterministic=True) == to_onnx(graph).SerializeToString(
        deterministic=True
    )
    assert [node.origin for node in twin.nodes] == [node.origin for node in graph.nodes]
    assert twin.value("w").data is graph.value("w").data
    assert not twin.journal
    text = str(graph)
    twin.set_outputs([twin.value("doubled")])
    twin.remove_dead()
    assert str(graph) == text
    graph.verify()


@settings(max_examples=40, deadline=None)
@given(networks(), st.data())
def test_random_edits_keep_the_invariants(graph: Graph, data: st.DataObject) -> None:
    names = [value.name for value in graph.outputs]
    original = str(graph)
    twin = graph.copy()
    for _ in range(8):
        node = data.draw(st.sampled_from(twin.nodes))
        edit = data.draw(st.sampled_from(("rename", "insert", "bypass", "identity", "dead")))
        if edit == "rename" and not node.output.is_output:
            twin.rename(node.output, twin.unique_name("renamed"))
        elif edit == "insert" and node.output.uses:
            twin.insert_on_edge(node.output, list(node.output.uses)[:1], "Relu")
        elif edit == "bypass" and node.inputs and node.inputs[0] is not None:
            operand = node.inputs[0]
            if operand.shape == node.output.shape and len(node.outputs) == 1:
                twin.replace_node(node, operand)
        elif edit == "identity":
            twin.replace_node(
                node, twin.add_node(node.op, node.inputs, 1, node.attributes, origin=[node]).output
            )
        else:
            twin.remove_dead()
        twin.verify()
        assert [value.name for value in twin.outputs] == names
    assert str(graph) == original
    Session(twin, optimize=False).run(feeds(twin))


def test_the_collector_is_paused_and_comes_back() -> None:
    with collector_paused():
        assert not gc.isenabled()
        with collector_paused():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()


# -- verify --------------------------------------------------------------------------------------------------


def test_verify_finds_what_others_broke() -> None:
    def broken(breaking: str) -> Graph:
        graph = chain("Relu", "Tanh")
        relu, tanh = graph.node("Relu"), graph.node("Tanh")
        exec(breaking, {"graph": graph, "relu": relu, "tanh": tanh, "Use": Use})
        return graph

    for breaking, message in {
        "relu.output.uses.clear()": "use list does not say so",
        "relu.output.uses[Use(relu, 3)] = None": "does not exist",
        "relu.output.name = 'z'": "filed under",
        "tanh.name = 'Relu'": "Two nodes are named",
        "relu.origin = ()": "lost its origin",
        "graph.inputs.clear()": "dangles",
        "relu.output.producer = None": "dangles|does not point back",
        "graph.value('tanh')._outputs = 0": "counts 0 uses as a graph output",
        "relu.output.data = 1": "both a constant and the output",
    }.items():
        with pytest.raises(ModelError, match=message):
            broken(breaking).verify()


def test_verify_finds_a_body_that_reads_nothing() -> None:
    graph, node = if_graph()
    node.attributes["then_branch"] = body("yes () => (float[4] r) { r = Relu(nowhere) }")
    with pytest.raises(ModelError, match="nowhere"):
        graph.verify()
