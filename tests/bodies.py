"""Control-flow nodes for tests: If and Loop with bodies that read outer values."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser

from qcompiler.ir.graph import Graph
from qcompiler.ir.node import Node, Subgraph


def body(text: str) -> Subgraph:
    """A body from ONNX's own text syntax, e.g. `then () => (float[N] r) { r = Relu(x) }`."""
    return Subgraph(onnx.parser.parse_graph(text))


def if_graph() -> tuple[Graph, Node]:
    """If flag: relu(doubled) + w, else doubled; both branches read the outer doubled, one the outer constant w."""
    graph = Graph("branching")
    flag = graph.add_input("flag", np.bool_, ())
    x = graph.add_input("x", np.float32, (4,))
    graph.add_constant("w", np.arange(4, dtype=np.float32))
    doubled = graph.add_node("Add", [x, x], [graph.add_value("doubled", np.float32, (4,))]).output
    node = graph.add_node(
        "If", [flag], [graph.add_value("y", np.float32, (4,))],
        {
            "then_branch": body("yes () => (float[4] r) { p = Relu(doubled) r = Add(p, w) }"),
            "else_branch": body("no () => (float[4] s) { s = Identity(doubled) }"),
        },
    )  # fmt: skip
    graph.set_outputs([node.output, doubled])
    graph.journal.clear()
    return graph, node


def nested_graph() -> tuple[Graph, Node]:
    """A Loop whose body holds an If whose branch reads x from outside of both."""
    graph = Graph("nested")
    x = graph.add_input("x", np.float32, (4,))
    trips = graph.add_constant("trips", np.array(3, np.int64))
    start = graph.add_node("Neg", [x], [graph.add_value("start", np.float32, (4,))]).output
    inner = onnx.parser.parse_graph(
        "loop (int64 i, bool go, float[4] state) => (bool go_out, float[4] state_out) {"
        " go_out = Identity(go)"
        " state_out = If(go) <then_branch = yes () => (float[4] a) { a = Add(state, x) },"
        " else_branch = no () => (float[4] b) { b = Identity(start) }> }"
    )
    go = graph.add_constant("go", np.array(True))
    node = graph.add_node(
        "Loop", [trips, go, start], [graph.add_value("y", np.float32, (4,))], {"body": Subgraph(inner)}
    )
    graph.set_outputs([node.output])
    graph.journal.clear()
    return graph, node
