"""Hypothesis strategies: random small networks, built through the Graph API."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from qcompiler.ir.graph import Graph
from qcompiler.ir.node import Value

STEPS = ("conv", "bn", "relu", "clip", "pool", "add", "concat", "mul", "identity")


class NetworkBuilder:
    """Adds layers to a graph; constants come from a seeded generator. Values are float32 [batch, channels, 8, 8]."""

    def __init__(self, graph: Graph, seed: int = 0) -> None:
        self.graph = graph
        self.rng = np.random.default_rng(seed)

    def constant(self, hint: str, *shape: int) -> Value:
        return self.graph.add_constant(hint, (self.rng.standard_normal(shape) * 0.3).astype(np.float32))

    def apply(
        self, op: str, inputs: list[Value | None], shape: tuple[int | str, ...], **attributes: object
    ) -> Value:
        out = self.graph.add_value(op.lower(), np.float32, shape)
        return self.graph.add_node(op, inputs, [out], attributes).output

    def conv(self, x: Value, channels: int, kernel: int = 3, *, bias: bool = True) -> Value:
        weight = self.constant("weight", channels, _channels(x), kernel, kernel)
        operands: list[Value | None] = [x, weight, self.constant("bias", channels)] if bias else [x, weight]
        shape = ("batch", channels, 8, 8)
        return self.apply("Conv", operands, shape, pads=[kernel // 2] * 4, kernel_shape=[kernel, kernel])

    def bn(self, x: Value) -> Value:
        channels = _channels(x)
        parameters = [self.constant(name, channels) for name in ("scale", "offset", "mean")]
        variance = self.graph.add_constant("var", self.rng.uniform(0.5, 2.0, channels).astype(np.float32))
        return self.apply(
            "BatchNormalization", [x, *parameters, variance], ("batch", channels, 8, 8), epsilon=1e-5
        )

    def same(self, op: str, *inputs: Value | None, **attributes: object) -> Value:
        assert inputs[0] is not None
        return self.apply(op, list(inputs), inputs[0].shape or (), **attributes)

    def gemm(self, x: Value, features: int) -> Value:
        flat = self.apply("Flatten", [x], ("batch", _channels(x) * 64))
        weight = self.constant("weight", features, _channels(x) * 64)
        return self.apply(
            "Gemm", [flat, weight, self.constant("bias", features)], ("batch", features), transB=1
        )


def _channels(x: Value) -> int:
    assert x.shape is not None
    assert isinstance(x.shape[1], int)
    return x.shape[1]


@st.composite
def networks(draw: st.DrawFn, max_steps: int = 12) -> Graph:
    """A random DAG of convolutions, normalisations, activations, pools, joins and a Gemm; every tensor float32.

    One to three outputs; values are read once, often or never, so there are dead ends and shared edges.
    """
    graph = Graph("random")
    build = NetworkBuilder(graph, draw(st.integers(0, 1000)))
    values = [graph.add_input("image", np.float32, ("batch", 3, 8, 8))]
    for step in draw(st.lists(st.sampled_from(STEPS), min_size=1, max_size=max_steps)):
        x = values[draw(st.integers(0, len(values) - 1))]
        if step == "conv":
            out = build.conv(
                x, draw(st.integers(1, 6)), draw(st.sampled_from((1, 3))), bias=draw(st.booleans())
            )
        elif step == "bn":
            out = build.bn(x)
        elif step == "relu":
            out = build.same("Relu", x)
        elif step == "identity":
            out = build.same("Identity", x)
        elif step == "clip":
            ends = [graph.add_constant("end", np.array(end, np.float32)) for end in (0.0, 6.0)]
            out = build.same("Clip", x, *ends)
        elif step == "pool":
            op = draw(st.sampled_from(("MaxPool", "AveragePool")))
            out = build.same(op, x, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
        elif step in ("add", "mul"):
            alike = [value for value in values if value.shape == x.shape]
            out = build.same(step.title(), x, alike[draw(st.integers(0, len(alike) - 1))])
        else:
            other = values[draw(st.integers(0, len(values) - 1))]
            out = build.apply("Concat", [x, other], ("batch", _channels(x) + _channels(other), 8, 8), axis=1)
        values.append(out)
    outputs = draw(
        st.lists(st.sampled_from(values[1:]), min_size=1, max_size=3, unique_by=lambda value: value.name)
    )
    if draw(st.booleans()):
        outputs = [*outputs, build.gemm(values[-1], draw(st.integers(1, 5)))]
    graph.set_outputs(outputs)
    graph.journal.clear()
    return graph


def feeds(graph: Graph, batch: int = 2, seed: int = 0) -> dict[str, np.ndarray]:
    """Standard normal inputs for a network of this module."""
    rng = np.random.default_rng(seed)
    return {
        value.name: rng.standard_normal(
            [dim if isinstance(dim, int) else batch for dim in value.shape or ()]
        ).astype(np.float32)
        for value in graph.inputs
    }
