"""The text form: complete, short, the same on every run."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from bodies import if_graph, nested_graph
from golden import check
from onnx import helper
from strategies import NetworkBuilder

from qcompiler.demo import MODEL
from qcompiler.ir.graph import Graph
from qcompiler.ir.onnx_import import load
from qcompiler.ir.text import content_hash, node_text, to_text


def small_network() -> Graph:
    graph = Graph("small")
    build = NetworkBuilder(graph)
    x = graph.add_input("image", np.float32, ("batch", 3, 8, 8))
    stem = build.same("Relu", build.bn(build.conv(x, 4)))
    top = graph.add_constant("top", np.float32(6))
    both = build.same("Add", build.same("Clip", stem, None, top), build.conv(stem, 4, 1, bias=False))
    logits = build.gemm(both, 5)
    graph.set_outputs([logits, both])
    relu = graph.node("Relu:relu")
    with graph.deriving([graph.node("Conv:conv"), relu]):
        graph.replace_node(relu, build.same("LeakyRelu", graph.value("batchnormalization"), alpha=0.1))
    return graph


def test_golden_network() -> None:
    check("small_network", to_text(small_network()))


def test_golden_network_with_hashes() -> None:
    check("small_network_hashes", to_text(small_network(), hashes=True))


def test_golden_demo() -> None:
    check("digits", to_text(load(MODEL)))


def test_golden_control_flow() -> None:
    check("control_flow", to_text(if_graph()[0]) + to_text(nested_graph()[0]))


def test_golden_odd_types() -> None:
    graph = Graph("odd")
    x = graph.add_input("x", None, None)
    graph.add_input("y", np.int64, ())
    constants = [
        graph.add_constant("half", np.float16([0.1, -2])),
        graph.add_constant("codes", np.array([-8, 7], ml_dtypes.int4)),
        graph.add_constant("double", np.float64(0.1)),
        graph.add_constant("single", np.float32([0.1, np.inf, -np.inf, np.nan, 1e-20, 16777216])),
        graph.add_constant("flags", np.array([True, False])),
        graph.add_constant("words", np.array(["a", b"b"], object)),
        graph.add_constant("empty", np.zeros((0, 3), np.float32)),
        graph.add_constant("large", np.zeros((3, 3), np.uint8)),
    ]
    attributes = {
        "int": 1, "float": 0.1, "text": b"linear", "ints": [1, 2], "floats": [0.5, 1e30], "texts": [b"a", b"b"],
        "tensor": np.float32([0.1, 2]), "big_tensor": np.zeros((2, 9), np.int8),
        "type": helper.make_attribute("type", helper.make_tensor_type_proto(1, [2])),
    }  # fmt: skip
    node = graph.add_node("Odd", [x, None, *constants], ["a", None, "b"], attributes, domain="org.example")
    b = node.outputs[2]
    assert b is not None
    b.dtype, b.shape = np.dtype(np.float32), ("batch", None, 3)
    assert node.outputs[0] is not None
    node.outputs[0].other_type = helper.make_sequence_type_proto(helper.make_tensor_type_proto(1, [2]))
    graph.set_outputs([node.outputs[0], b])
    check("odd_types", to_text(graph))


def test_text_does_not_depend_on_how_the_graph_came_about() -> None:
    graph = small_network()
    assert str(graph.copy()) == str(graph) == to_text(graph)


def test_the_hash_tells_elements_apart() -> None:
    ones = np.ones((3, 3), np.float32)
    assert content_hash(ones) == content_hash(np.asfortranarray(ones))
    assert content_hash(ones) != content_hash(ones * 2)
    assert content_hash(np.array(["a", "b"], object)) != content_hash(np.array(["a", "c"], object))
    assert len(content_hash(np.float32(1))) == 8


@pytest.mark.parametrize(
    ("number", "text"), [(0.1, "0.1"), (1e-5, "1e-05"), (1 / 3, "0.33333334"), (6.0, "6.0"), (1e300, "inf")]
)
def test_floats_are_as_short_as_float32_allows(number: float, text: str) -> None:
    graph = Graph()
    node = graph.add_node("Elu", [graph.add_input("x", np.float32, ())], attributes={"alpha": number})
    assert f"{{alpha={text}}}" in node_text(node)
