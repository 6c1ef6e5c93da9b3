"""Networks of any size, to measure the compiler on."""

from __future__ import annotations

import numpy as np

from qcompiler.ir.graph import Graph
from qcompiler.ir.node import Value

_CHANNELS, _SIZE = 8, 8
_BLOCK_NODES = 7  # Conv BN Relu Conv BN Add Relu


def residual_network(nodes: int) -> Graph:
    """A residual network of `nodes` nodes at most, and of 6 fewer at least; 8 channels, float32, fully typed."""
    graph = Graph("residual")
    rng = np.random.default_rng(0)
    shape = ("batch", _CHANNELS, _SIZE, _SIZE)

    def layer(op: str, name: str, inputs: list[Value], **attributes: object) -> Value:
        return graph.add_node(
            op, inputs, [graph.add_value(name, np.float32, shape)], attributes, name=name
        ).output

    def convolution(name: str, x: Value) -> Value:
        weight = (rng.standard_normal((_CHANNELS, _CHANNELS, 3, 3)) * 0.1).astype(np.float32)
        return layer(
            "Conv",
            name,
            [x, graph.add_constant(f"{name}.weight", weight)],
            pads=[1, 1, 1, 1],
            kernel_shape=[3, 3],
        )

    def normalization(name: str, x: Value) -> Value:
        kinds = (("scale", 0.8), ("bias", 0.1), ("mean", 0.0), ("var", 1.0))
        parameters = [
            graph.add_constant(f"{name}.{kind}", np.full(_CHANNELS, number, np.float32))
            for kind, number in kinds
        ]
        return layer("BatchNormalization", name, [x, *parameters], epsilon=1e-5)

    x = graph.add_input("image", np.float32, shape)
    for block in range(nodes // _BLOCK_NODES):
        name = f"block{block}"
        y = layer("Relu", f"{name}.relu1", [normalization(f"{name}.bn1", convolution(f"{name}.conv1", x))])
        y = normalization(f"{name}.bn2", convolution(f"{name}.conv2", y))
        x = layer("Relu", f"{name}.relu2", [layer("Add", f"{name}.add", [y, x])])
    graph.set_outputs([x])
    graph.journal.clear()
    return graph
