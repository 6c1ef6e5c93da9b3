"""Shape inference: operators over annotations, names of sizes that mean something."""

from __future__ import annotations

import numpy as np
from small_graphs import graph_of

from qcompiler.ir.facts import SHAPES
from qcompiler.ir.graph import Graph
from qcompiler.ir.shapes import infer_shapes


def test_operators_know_better_than_stale_annotations() -> None:
    graph = graph_of("(float[batch,4] x) => (float[1,4] y) { h = Relu(x) y = Exp(h) }")
    graph.value("h").shape = (1, 4)
    infer_shapes(graph)
    assert graph.value("h").shape == graph.value("y").shape == ("batch", 4)
    assert SHAPES in graph.facts


def test_other_domains_keep_what_the_model_says() -> None:
    graph = Graph()
    x, odd = graph.add_input("x", np.float32, ("batch", 4)), graph.add_value("odd", np.float32, ("batch", 7))
    graph.add_node("Odd", [x], [odd], domain="com.example")
    y = graph.add_node("Relu", [odd]).output
    graph.set_outputs([y])
    infer_shapes(graph)
    assert y.shape == ("batch", 7)
    assert y.dtype == np.float32


def test_made_up_symbols_are_no_names() -> None:
    graph = graph_of("(float[batch,high] x, int64[2] s) => (float y) { h = Reshape(x, s) y = Exp(h) }")
    infer_shapes(graph)
    assert graph.value("y").shape == (None, None)
    graph.value("h").shape = graph.value("y").shape = ("unk__3", "unk__4")  # as exporters save them
    infer_shapes(graph)
    assert graph.value("y").shape == (None, None)


def test_names_that_inference_cannot_tell_are_kept() -> None:
    graph = graph_of("(float[batch,high] x, int64[2] s) => (float y) { y = Reshape(x, s) }")
    graph.value("y").shape = ("rows", 4)
    infer_shapes(graph)
    assert graph.value("y").shape == ("rows", 4)


def test_an_input_that_is_an_output_keeps_its_type() -> None:
    graph = graph_of("(float[2,3] x) => (float[2,3] x, float y) { y = Relu(x) }")
    infer_shapes(graph)
    assert graph.value("x").shape == graph.value("y").shape == (2, 3)
