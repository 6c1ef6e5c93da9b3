"""explicit_padding: padding near the inputs becomes a Pad of its own, exactly; deeper it stays."""

from __future__ import annotations

from typing import Any

import pytest
from quantized import quantize
from small_graphs import graph_of, lines, normal, ops_of, run

from qcompiler.passes.canonicalize import Canonicalize
from qcompiler.passes.explicit_padding import ExplicitPadding

IMAGE = "(float[batch,4,8,8] x) => (float y)"
PAD = "<pads=[1,1,1,1]>"
W: dict[str, Any] = {"w": normal(4, 4, 3, 3) / 6, "v": normal(4, 4, 1, 1)}


def padded(text: str, depth: int = 2, constants: dict[str, Any] | None = None) -> Any:
    graph = graph_of(text, W if constants is None else constants)
    run(graph, Canonicalize(), ExplicitPadding(depth))
    return graph


def test_one_convolution() -> None:
    graph = padded(f"{IMAGE} {{ y = Conv<pads=[0,1,2,3], strides=[2,2]>(x, w) }}")
    assert ops_of(graph) == {"Pad": 1, "Conv": 1}
    pad = next(node for node in graph.nodes if node.op == "Pad")
    assert pad.inputs[1].data.tolist() == [0, 0, 0, 1, 0, 0, 2, 3]
    assert pad.output.shape == ("batch", 4, 10, 12)
    assert pad.origin == graph.node("Conv:y").origin
    assert "pads=[0,0,0,0]" in lines(graph)[-1]


@pytest.mark.parametrize(("depth", "pads"), [(0, 0), (1, 1), (2, 2), (3, 3), (9, 3)])
def test_depth_counts_weighted_layers(depth: int, pads: int) -> None:
    text = f"{IMAGE} {{ c = Conv{PAD}(x, w) r = Relu(c) d = Conv{PAD}(r, w) p = MaxPool<kernel_shape=[2,2]>(d) y = Conv{PAD}(p, w) }}"
    assert ops_of(padded(text, depth)).get("Pad", 0) == pads


def test_a_branch_is_as_deep_as_its_longest_way() -> None:
    graph = padded(
        f"{IMAGE} {{ c = Conv{PAD}(x, w) d = Conv{PAD}(c, w) e = Conv{PAD}(d, w) s = Conv{PAD}(x, w) a = Add(e, s) y = Conv{PAD}(a, w) }}"
    )
    assert [node.name for node in graph.nodes if node.op == "Conv" and any(node.attributes["pads"])] == [
        "Conv:e",
        "Conv:y",
    ]


def test_nothing_to_pad() -> None:
    assert ops_of(padded(f"{IMAGE} {{ y = Conv(x, v) }}")) == {"Conv": 1}


@pytest.mark.parametrize(
    ("shape", "weight", "pads"), [("4,9", (6, 4, 3), "1,2"), ("4,5,5,5", (6, 4, 3, 3, 3), "1,1,1,1,1,0")]
)
def test_other_ranks(shape: str, weight: tuple[int, ...], pads: str) -> None:
    graph = padded(
        f"(float[batch,{shape}] x) => (float y) {{ y = Conv<pads=[{pads}]>(x, w) }}",
        constants={"w": normal(*weight)},
    )
    assert ops_of(graph) == {"Pad": 1, "Conv": 1}


def test_it_lets_the_first_layers_read_centred_values() -> None:
    text = (
        f"{IMAGE} {{ c = Conv{PAD}(x, w) r = Relu(c) d = Conv{PAD}(r, w) s = Relu(d) y = Conv{PAD}(s, w) }}"
    )
    plain = quantize(graph_of(text, W))
    centred = quantize(graph_of(text, W), prepare="canonicalize,explicit_padding{depth=2}")
    assert [region.row for region in plain.plan.regions if region.kernel == "conv"] == ["int8"] * 3
    assert [region.row for region in centred.plan.regions if region.kernel == "conv"] == [
        "int8-centred",
        "int8-centred",
        "int8",
    ]
    assert centred.sqnr() > plain.sqnr()
