"""The bridges to onnx-graphsurgeon and networkx."""

from __future__ import annotations

import ml_dtypes
import networkx
import numpy as np
import onnx_graphsurgeon as gs
import pytest
from benchmarks.networks import residual_network
from bodies import if_graph, nested_graph
from hypothesis import given, settings
from onnx import helper
from strategies import feeds, networks

from qcompiler.errors import ModelError, OptionError, PassError
from qcompiler.graphsurgeon_pass import GraphSurgeonPass
from qcompiler.ir.diff import diff_graphs
from qcompiler.ir.facts import SHAPES
from qcompiler.ir.graph import Graph
from qcompiler.ir.onnx_export import to_onnx
from qcompiler.pass_manager import Effect, PassContext
from qcompiler.pipeline import Checks, Pipeline
from qcompiler.probe import Probe
from qcompiler.runtime import Session


def there_and_back(graph: Graph) -> Graph:
    return Graph.from_graphsurgeon(graph.to_graphsurgeon(), graph)


@settings(max_examples=20, deadline=None)
@given(networks())
def test_random_networks_come_back_as_they_were(graph: Graph) -> None:
    graph.remove_dead()
    twin = there_and_back(graph)
    assert not diff_graphs(graph, twin), str(diff_graphs(graph, twin))
    assert str(twin) == str(graph)
    data = feeds(graph)
    for name, array in Session(graph, optimize=False).run(data).items():
        np.testing.assert_array_equal(array, Session(twin, optimize=False).run(data)[name])


def test_what_graphsurgeon_drops_is_restored() -> None:
    graph = Graph("named")
    x = graph.add_input("x", np.float32, ("batch", 4))
    x.doc, x.metadata = "input doc", {"a": "b"}
    kept = helper.make_attribute("type", helper.make_tensor_type_proto(1, [2]))
    node = graph.add_node(
        "Odd", [x], [graph.add_value("y", np.float32, ("batch", 4))], {"type": kept, "n": 3, "s": b"text"},
        name="odd", domain="org.example", origin=["a", "b"],
    )  # fmt: skip
    node.doc, node.metadata = "node doc", {"k": "v"}
    graph.set_outputs([node.output])
    graph.doc, graph.graph_doc, graph.metadata, graph.graph_metadata = "d", "g", {"m": "1"}, {"g": "2"}
    graph.producer, graph.model_domain, graph.model_version = ("p", "1"), "dom", 4
    graph.other_opsets = {"org.example": 3}
    twin = there_and_back(graph)
    assert to_onnx(twin).SerializeToString(deterministic=True) == to_onnx(graph).SerializeToString(
        deterministic=True
    )
    assert twin.node("odd").origin == ("a", "b")
    bare = Graph.from_graphsurgeon(graph.to_graphsurgeon())
    assert bare.node("odd").origin == ("odd",)
    assert bare.metadata == {}


@pytest.mark.parametrize(
    "dtype", ["int4", "uint4", "float4_e2m1fn", "int2", "bfloat16", "float8_e4m3fn", "int8", "float16"]
)
@pytest.mark.parametrize("size", [3, 601])
def test_constants_go_around(dtype: str, size: int) -> None:
    kind = np.dtype(getattr(ml_dtypes, dtype, None) or dtype)
    graph = Graph()
    data = (np.arange(size) % 2).astype(kind)
    scale = graph.add_constant("scale", np.float32(0.5))
    node = graph.add_node("DequantizeLinear", [graph.add_constant("w", data), scale])
    node.output.dtype, node.output.shape = np.dtype(np.float32), (size,)
    graph.set_outputs([node.output])
    twin = there_and_back(graph)
    assert twin.value("w").data is data
    assert not diff_graphs(graph, twin)


def test_control_flow_and_composites_survive() -> None:
    for graph in (if_graph()[0], nested_graph()[0]):
        twin = there_and_back(graph)
        data = {"x": np.float32([-1, 2, -3, 4]), "flag": np.array(True)}
        data = {value.name: data[value.name] for value in graph.inputs}
        for name, array in Session(graph).run(data).items():
            np.testing.assert_array_equal(array, Session(twin).run(data)[name])
    graph = Graph()
    x = graph.add_input("x", np.float32, (4,))
    graph.set_outputs(
        [graph.add_node("Swish", [x], [graph.add_value("y", np.float32, (4,))], domain="qcompiler").output]
    )
    assert [node.op for node in there_and_back(graph).nodes] == ["Swish"]


def test_sequences_survive() -> None:
    graph = Graph()
    x = graph.add_input("x", np.float32, (2,))
    made = graph.add_node("SequenceConstruct", [x, x], ["s"])
    made.output.other_type = helper.make_sequence_type_proto(helper.make_tensor_type_proto(1, [2]))
    joined = graph.add_node(
        "ConcatFromSequence", [made.output], [graph.add_value("y", np.float32, (4,))], {"axis": 0}
    )
    graph.set_outputs([joined.output])
    assert not diff_graphs(graph, there_and_back(graph))


def test_an_invalid_surgery_is_told() -> None:
    graph, _ = if_graph()
    surgical = graph.to_graphsurgeon()
    surgical.nodes[0].inputs[0] = gs.Variable("nowhere", np.float32, (4,))
    with pytest.raises(ModelError, match=r"'nowhere'.*dangles"):
        Graph.from_graphsurgeon(surgical, graph)
    surgical = graph.to_graphsurgeon()
    surgical.nodes.append(gs.Node("Odd", "odd", {"t": gs.Constant("t", np.zeros(2, ml_dtypes.int4))}, [], []))
    with pytest.raises(ModelError, match="int4 constant inside node 'odd'"):
        Graph.from_graphsurgeon(surgical, graph)


# -- the pass ------------------------------------------------------------------------------------------------


def relu_to_sin(surgical: gs.Graph) -> None:
    for node in surgical.nodes:
        if node.op == "Relu":
            node.op = "Sin"


def double_outputs(surgical: gs.Graph) -> gs.Graph:
    for index, tensor in enumerate(surgical.outputs):
        out = gs.Variable(f"{tensor.name}_doubled", np.float32, tensor.shape)
        surgical.nodes.append(gs.Node("Add", f"double{index}", {}, [tensor, tensor], [out]))
        surgical.outputs[index] = out
    return surgical


def nothing(surgical: gs.Graph) -> None:
    surgical.cleanup().toposort()


def fails(surgical: gs.Graph) -> None:
    raise ValueError("no such layer")


def test_surgery_in_a_pipeline() -> None:
    graph = residual_network(14)
    graph.facts[SHAPES] = True
    records = Pipeline((GraphSurgeonPass(relu_to_sin), GraphSurgeonPass(double_outputs))).run(
        graph, PassContext()
    )
    assert [record.counts for record in records] == [{"changed": 4}, {"added": 1, "interface": 1}]
    assert graph.nodes[-1].name == "double0"
    assert graph.node("block0.relu1").op == "Sin"
    assert all(node.graph is graph for node in graph.nodes)
    assert SHAPES not in graph.facts
    graph.add_node("Relu", [graph.outputs[0]])
    graph.verify()


def test_surgery_that_does_nothing() -> None:
    graph = residual_network(14)
    (record,) = Pipeline((GraphSurgeonPass(nothing),)).run(graph, PassContext())
    assert record.counts == {}
    assert record.edits == ()


def test_a_probe_holds_surgery_to_its_word() -> None:
    graph = residual_network(14)
    with pytest.raises(PassError, match="graphsurgeon declares its effect as exact"):
        Pipeline((GraphSurgeonPass(relu_to_sin, effect=Effect.EXACT),)).run(
            graph, PassContext(), Checks(Probe(graph))
        )


def test_surgery_by_name() -> None:
    with pytest.raises(PassError, match="test_bridges:fails failed: ValueError: no such layer"):
        Pipeline((GraphSurgeonPass(fails),)).run(residual_network(14), PassContext())
    parsed = Pipeline.parse("graphsurgeon{function=json:loads,effect=exact}", lambda name: GraphSurgeonPass)
    assert parsed == Pipeline((GraphSurgeonPass("json:loads", effect=Effect.EXACT),))
    assert str(parsed) == "graphsurgeon{function=json:loads,effect=exact}"
    for text in ("nowhere:f", "json:nothing", "json"):
        with pytest.raises(OptionError, match="surgery"):
            Pipeline((GraphSurgeonPass(text),)).run(residual_network(14), PassContext())


# -- networkx ------------------------------------------------------------------------------------------------


def test_networkx_view() -> None:
    graph = residual_network(14)
    view = graph.to_networkx()
    assert list(view) == [node.name for node in graph.nodes]
    assert view.nodes["block0.conv1"] == {"op": "Conv", "domain": "", "origin": ("block0.conv1",)}
    assert view.edges["block0.relu2", "block1.add"]["values"] == ("block0.relu2",)
    assert networkx.dag_longest_path_length(view) == 13
    assert networkx.immediate_dominators(view, "block0.conv1")["block1.add"] == "block0.relu2"


def test_networkx_with_ends() -> None:
    graph, node = if_graph()
    view = graph.to_networkx(ends=True)
    assert view.edges[("input", "x"), "Add:doubled"]["values"] == ("x",)
    assert view.has_edge("Add:doubled", node.name)
    assert networkx.has_path(view, ("input", "flag"), ("output", "y"))
    assert view.nodes["output", "doubled"] == {"op": "output"}
    graph.set_outputs([graph.value("x")])
    assert graph.to_networkx(ends=True).has_edge(("input", "x"), ("output", "x"))
