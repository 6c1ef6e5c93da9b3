"""channels_last: what is stored how, what that moves, what is rewritten for it, and what is left alone."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from quantized import quantize
from small_graphs import FLOAT_PASSES, MODELS, graph_of, lines, normal, ops_of, ramp, run
from strategies import NetworkBuilder, networks

from qcompiler import ops
from qcompiler.errors import OptionError
from qcompiler.ir.graph import Graph
from qcompiler.ir.node import Value
from qcompiler.ir.onnx_export import save
from qcompiler.ir.onnx_import import load
from qcompiler.ir.shapes import infer_shapes
from qcompiler.layout import LAYOUT, Layout, channels_last, own_order, to_storage
from qcompiler.pass_manager import PassContext
from qcompiler.passes._layout_choice import LayoutChoice
from qcompiler.passes._layout_wishes import MOVE, moves, ties_of, wishes_of
from qcompiler.passes.canonicalize import Canonicalize
from qcompiler.passes.channels_last import ChannelsLast
from qcompiler.pipeline import Pipeline
from qcompiler.runtime import Session

W: dict[str, Any] = {
    "w": normal(4, 4, 3, 3) / 6,
    "v": normal(4, 4, 1, 1),
    "m": normal(256, 5) / 16,
    "b": normal(5),
    "row": np.array([0, -1]),
}
IMAGE = "(float[batch,4,8,8] x)"
CONV = "Conv<pads=[1,1,1,1]>"


def laid_out(
    text: str, constants: dict[str, Any] | None = None, **options: Any
) -> tuple[Graph, Layout, list[str], dict[str, int]]:
    """The graph, its layout, what is said about moves, and counts."""
    graph = graph_of(text, W if constants is None else constants)
    *_, record = run(graph, Canonicalize(), ChannelsLast(**options))
    layout = graph.facts[LAYOUT]
    check_storage(graph, layout)
    (again,) = run(graph.copy(), Canonicalize())
    assert set(again.counts) <= {"normalize Gemm"}, "all is canonical but matrices that were shared before"
    assert len(record.diagnostics) == len(list(moves(graph, layout)))
    return graph, layout, [str(item) for item in record.diagnostics], record.counts


def check_storage(graph: Graph, layout: Layout) -> None:
    """Holds what is said to be free against the bytes of a run."""
    twin = graph.copy()
    twin.set_outputs(value for node in twin.nodes for value in node.outputs if value is not None)
    feeds = {
        value.name: normal(*(dim if isinstance(dim, int) else 2 for dim in value.shape or ()))
        for value in graph.inputs
    }
    arrays = {**feeds, **Session(twin, optimize=False).run(feeds)}
    for node in graph.nodes:
        x, y = node.input(0), node.output
        if ops.info(node).layout in ("transpose", "reshape") and x is not None and not x.is_constant:
            before, after = (
                to_storage(arrays[value.name], layout.order_of(value)).ravel() for value in (x, y)
            )
            assert layout.is_free(node) == np.array_equal(before, after), node.name


def orders(graph: Graph, layout: Layout) -> dict[str, tuple[int, ...]]:
    """The order of every computed value and graph input."""
    values = [*graph.inputs, *(node.output for node in graph.nodes)]
    return {value.name: layout.order_of(value) for value in values}


NHWC = (0, 2, 3, 1)


def test_the_op_table_says_what_operators_ask_for() -> None:
    asked = {row.layout for row in ops.TABLE.values()}
    assert asked == {"channels-last", "alike", "axis-last", "transpose", "reshape", "as-is"}
    by_op = {
        op: ops.TABLE[op].layout
        for op in ("Conv", "Add", "Concat", "ArgMax", "Gemm", "Gather", "LayerNormalization")
    }
    assert by_op == {
        "Conv": "channels-last", "Add": "alike", "Concat": "alike", "ArgMax": "alike", "Gemm": "as-is", "Gather": "as-is",
        "LayerNormalization": "as-is",
    }  # fmt: skip


# -- orders ------------------------------------------------------------------------------------------------------


def test_images_are_stored_channels_last() -> None:
    graph, layout, said, counts = laid_out(
        f"{IMAGE} => (float y) {{ a = {CONV}(x, w) r = Relu(a) p = MaxPool<kernel_shape=[2,2]>(r) c = {CONV}(p, w) s = Add(c, p) y = Sigmoid(s) }}"
    )
    assert set(orders(graph, layout).values()) == {NHWC}
    assert (said, counts) == ([], {})


@pytest.mark.parametrize(
    ("shape", "weight", "order"),
    [("4,9", (6, 4, 3), (0, 2, 1)), ("4,5,6,7", (6, 4, 3, 3, 3), (0, 2, 3, 4, 1))],
)
def test_other_ranks(shape: str, weight: tuple[int, ...], order: tuple[int, ...]) -> None:
    size = int(np.prod([int(dim) - 2 for dim in shape.split(",")[1:]])) * 6
    graph, layout, said, counts = laid_out(
        f"(float[batch,{shape}] x) => (float y) {{ c = Conv(x, w) r = Relu(c) f = Flatten(r) y = Gemm(f, m) }}",
        {"w": normal(*weight), "m": normal(size, 3)},
    )
    assert [layout.order_of(graph.value(name)) for name in "xcr"] == [order] * 3
    assert (said, counts) == ([], {"flattened images": 1})


def test_what_no_spatial_operator_touches_keeps_its_own_order() -> None:
    _, layout, said, counts = laid_out(
        "(float[batch,4,8] x) => (float y) { a = MatMul(x, m) r = Relu(a) y = Softmax(r) }",
        {"m": normal(8, 8)},
    )
    assert (layout.orders, said, counts) == ({}, [], {})


def test_joins_paddings_and_parts_share_an_order() -> None:
    graph, layout, said, _ = laid_out(
        f"""{IMAGE} => (float y, float z) {{
            a = {CONV}(x, w) one, two = Split<axis=1, num_outputs=2>(a) j = Concat<axis=1>(two, one, x)
            p = Pad(j, pads) s = Slice(p, starts, ends, axes) y = Relu(s) z = ReduceMean<keepdims=1>(s, axes)
        }}""",
        W
        | {
            "pads": np.array([0, 1, 2, 0, 0, 0, 0, 3]),
            "starts": np.array([1, 1]),
            "ends": np.array([4, 9]),
            "axes": np.array([2, 3]),
        },
    )
    assert set(orders(graph, layout).values()) == {NHWC}
    assert said == []


def test_broadcast_operands() -> None:
    """A gate per channel, and a computed [C, H, W]: its axes are the last ones of the image."""
    graph, layout, said, counts = laid_out(
        f"""(float[batch,4,8,8] x, float[4,8,8] o) => (float y) {{
            a = {CONV}(x, w) g = GlobalAveragePool(a) f = Flatten(g) d = Gemm(f, q) s = Sigmoid(d)
            r = Reshape(s, four) p = Mul(a, r) y = Add(p, o)
        }}""",
        W | {"q": normal(4, 4), "four": np.array([0, 4, 1, 1])},
    )
    assert layout.order_of(graph.value("o")) == (1, 2, 0)
    assert (said, counts) == ([], {})


@pytest.mark.parametrize(
    ("node", "order"),
    [
        ("ReduceMean<keepdims=0>(c, spatial)", (0, 1)),
        ("ReduceMean<keepdims=0>(c, channels)", (0, 1, 2)),
        ("ReduceMax<keepdims=0>(c, rows)", (0, 2, 1)),
        ("ReduceSum<keepdims=1>(c, channels)", NHWC),
        ("ArgMax<axis=1, keepdims=0>(c)", (0, 1, 2)),
        ("ArgMax<axis=-1>(c)", NHWC),
        ("Softmax<axis=1>(c)", NHWC),
    ],
)
def test_operators_along_axes(node: str, order: tuple[int, ...]) -> None:
    axes = {"spatial": np.array([2, 3]), "channels": np.array([1]), "rows": np.array([-2])}
    made = "int64" if "Arg" in node else "float"
    graph, layout, said, _ = laid_out(f"{IMAGE} => ({made} y) {{ c = {CONV}(x, w) y = {node} }}", W | axes)
    assert layout.order_of(graph.value("y")) == order
    assert said == []


def test_a_softmax_wants_its_axis_last() -> None:
    graph, layout, said, _ = laid_out(f"{IMAGE} => (float y) {{ c = {CONV}(x, w) y = Softmax(c) }}")
    assert layout.order_of(graph.value("y"))[-1] == 3
    assert said == ["Conv:c: Conv moves c into another order at run time, 1024 bytes per sample"]


def test_what_bodies_and_unknown_axes_read_is_read_in_its_own_order() -> None:
    constants = W | {"axes": np.array([1])}
    for tail in (
        "y = If(yes) <then_branch = g () => (float t) { t = Relu(c) }, else_branch = h () => (float e) { e = Neg(c) }>",
        "y = ReduceMean<keepdims=0>(c, any)",
    ):
        graph = graph_of(
            f"(float[batch,4,8,8] x, bool yes, int64[1] any) => (float y) {{ c = {CONV}(x, w) d = {CONV}(c, w) z = Neg(d) {tail} }}",
            constants,
        )
        infer_shapes(graph)
        run_alone(graph)
        (move,) = moves(graph, graph.facts[LAYOUT])
        assert move.value.name == "c"


# -- transposes --------------------------------------------------------------------------------------------------


def test_a_model_from_a_channels_last_framework() -> None:
    graph, layout, said, counts = laid_out(
        f"""(float[batch,8,8,4] x) => (float y) {{
            t = Transpose<perm=[0,3,1,2]>(x) c = {CONV}(t, w) r = Relu(c) y = Transpose<perm=[0,2,3,1]>(r)
        }}"""
    )
    assert orders(graph, layout) == {"x": (0, 1, 2, 3), "t": NHWC, "c": NHWC, "r": NHWC, "y": (0, 1, 2, 3)}
    assert all(layout.is_free(node) for node in graph.nodes if node.op == "Transpose")
    assert (said, counts) == ([], {})


def test_transposes_around_what_works_on_the_last_axis() -> None:
    _, _, said, counts = laid_out(
        f"""{IMAGE} => (float y) {{
            c = {CONV}(x, w) t = Transpose<perm=[0,2,3,1]>(c) n = LayerNormalization(t, scale, shift) h = MatMul(n, k)
            u = Transpose<perm=[0,3,1,2]>(h) y = Add(x, u)
        }}""",
        W | {"scale": ramp(4), "shift": ramp(4), "k": normal(4, 4)},
    )
    assert (said, counts) == ([], {})


def test_rows_of_pixels_and_patches_are_free() -> None:
    head = f"{IMAGE} => (float y) {{ c = {CONV}(x, w)"
    _, _, said, _ = laid_out(
        f"{head} t = Transpose<perm=[0,2,3,1]>(c) r = Reshape(t, shape) y = MatMul(r, k) }}",
        W | {"shape": np.array([-1, 4]), "k": normal(4, 3)},
    )
    assert said == []
    _, _, said, _ = laid_out(
        f"{head} r = Reshape(c, shape) t = Transpose<perm=[0,2,1]>(r) y = MatMul(t, k) }}",
        W | {"shape": np.array([0, 4, 64]), "k": normal(4, 3)},
    )
    assert said == []


def test_shuffled_channels_are_moved_once() -> None:
    _, _, said, _ = laid_out(
        f"""{IMAGE} => (float y) {{
            a = {CONV}(x, w) g = Reshape(a, groups) t = Transpose<perm=[0,2,1,3,4]>(g) s = Reshape(t, whole) y = {CONV}(s, w)
        }}""",
        W | {"groups": np.array([0, 2, 2, 8, 8]), "whole": np.array([0, 4, 8, 8])},
    )
    assert len(said) == 1


def test_transposes_between_products_carry_the_order_of_the_products() -> None:
    graph, layout, said, _ = laid_out(
        """(float[batch,6,8] x) => (float y) {
            a = MatMul(x, k) t = Transpose<perm=[0,2,1]>(a) r = Softmax<axis=1>(t) u = Transpose<perm=[0,2,1]>(r) y = MatMul(u, k)
        }""",
        {"k": normal(8, 8)},
    )
    assert {name: order for name, order in orders(graph, layout).items() if order != (0, 1, 2)} == {
        "t": (0, 2, 1),
        "r": (0, 2, 1),
    }
    assert said == []


def test_attention_is_left_as_it_is() -> None:
    text = """(float[batch,6,8] x) => (float y) {
        a = MatMul(x, k) q = Reshape(a, heads) p = Transpose<perm=[0,2,1,3]>(q)
        b = MatMul(x, l) r = Reshape(b, heads) s = Transpose<perm=[0,2,3,1]>(r)
        z = MatMul(p, s) n = Softmax(z) o = MatMul(n, p) t = Transpose<perm=[0,2,1,3]>(o) u = Reshape(t, rows) y = MatMul(u, k)
    }"""
    constants = {
        "k": normal(8, 8),
        "l": normal(8, 8),
        "heads": np.array([0, 6, 2, 4]),
        "rows": np.array([0, 6, 8]),
    }
    graph, layout, said, counts = laid_out(text, constants)
    assert layout.orders == {}
    assert counts == {}
    assert [line.split(":")[0] for line in said] == ["Transpose"] * 3
    assert ops_of(graph)["Transpose"] == 3


# -- what cannot be had for nothing ------------------------------------------------------------------------------


def test_an_image_that_a_product_reads_is_moved_where_it_is_smallest() -> None:
    _, _, said, _ = laid_out(
        f"{IMAGE} => (float y) {{ c = {CONV}(x, w) r = Relu(c) s = Slice(r, starts, ends, axes) e = Exp(s) y = MatMul(e, k) }}",
        W | {"starts": np.array([0]), "ends": np.array([2]), "axes": np.array([3]), "k": normal(2, 3)},
    )
    assert len(said) == 1
    assert f"{4 * 8 * 2 * 4} bytes per sample" in said[0]


def test_what_several_read_in_another_order_is_moved_once() -> None:
    _, _, said, _ = laid_out(
        f"{IMAGE} => (float y, float z, float u) {{ c = {CONV}(x, w) u = {CONV}(c, w) y = MatMul(c, k) z = MatMul(c, l) }}",
        W | {"k": normal(8, 3), "l": normal(8, 2)},
    )
    assert said == ["MatMul:y: MatMul moves c into another order at run time, 1024 bytes per sample"]


@pytest.mark.parametrize(
    ("options", "order", "moved"),
    [
        ({}, NHWC, 0),
        ({"inputs": "channels-last"}, NHWC, 0),
        ({"inputs": "as-model"}, (0, 1, 2, 3), 1),
        ({"outputs": "as-model"}, NHWC, 1),
        ({"inputs": "as-model", "outputs": "as-model"}, (0, 1, 2, 3), 2),
    ],
)
def test_the_rims(options: dict[str, str], order: tuple[int, ...], moved: int) -> None:
    graph, layout, said, _ = laid_out(
        f"{IMAGE} => (float y) {{ a = Relu(x) c = {CONV}(a, w) y = Neg(c) }}", **options
    )
    assert layout.order_of(graph.value("x")) == order
    assert len(said) == moved
    assert graph.value("x").shape == ("batch", 4, 8, 8)


def test_the_rims_of_a_channels_last_model_are_so_already() -> None:
    text = f"(float[batch,8,8,4] x) => (float y) {{ t = Transpose<perm=[0,3,1,2]>(x) y = {CONV}(t, w) }}"
    for rim in ("auto", "channels-last", "as-model"):
        graph, layout, said, _ = laid_out(text, inputs=rim)
        assert layout.order_of(graph.value("x")) == (0, 1, 2, 3)
        assert said == []


def test_options_are_checked() -> None:
    with pytest.raises(OptionError, match="as-model"):
        ChannelsLast.from_options({"inputs": "as-modle"})


# -- images and rows ---------------------------------------------------------------------------------------------

FLAT = f"{IMAGE} => (float y) {{ c = {CONV}(x, w)"


@pytest.mark.parametrize(
    "tail",
    [
        "f = Flatten(c) y = Gemm(f, m, b)",
        "f = Flatten(c) y = MatMul(f, m)",
        "f = Reshape(c, row) r = Relu(f) s = Sigmoid(r) y = Gemm<transB=1>(s, n)",
        "r = Relu(c) f = Flatten(r) g = Gemm(f, m) h = Gemm<transB=1>(f, n) y = Add(g, h)",
    ],
)
def test_flattened_images(tail: str) -> None:
    constants = W | {"n": normal(5, 256) / 16}
    graph, layout, said, counts = laid_out(f"{FLAT} {tail} }}", constants)
    assert (said, counts) == ([], {"flattened images": 1})
    (transpose,) = (node for node in graph.nodes if node.op == "Transpose")
    assert transpose.attributes["perm"] == list(NHWC)
    assert layout.is_free(transpose)
    (flatten,) = (node for node in graph.nodes if node.op in ("Flatten", "Reshape"))
    assert transpose.origin == flatten.origin


def test_the_rows_of_the_matrix_follow_the_storage() -> None:
    graph, *_ = laid_out(f"{FLAT} f = Flatten(c) y = Gemm(f, m) }}")
    expected = W["m"].reshape(4, 8, 8, 5).transpose(1, 2, 0, 3).reshape(256, 5)
    np.testing.assert_array_equal(graph.value("m").data, expected.T)  # canonicalize writes transB


def test_a_shared_matrix_is_copied() -> None:
    graph, _, said, counts = laid_out(
        f"(float[batch,4,8,8] x, float[batch,256] z) => (float y, float u) {{ c = {CONV}(x, w) f = Flatten(c) y = Gemm(f, m) u = Gemm(z, m) }}"
    )
    assert (said, counts) == ([], {"flattened images": 1})
    np.testing.assert_array_equal(graph.value("m").data, W["m"])
    assert graph.node("Gemm:y").input(1) is not graph.node("Gemm:u").input(1)


@pytest.mark.parametrize(
    "op", ["Gemm(z, k, b)", "Gemm(z, k, one)", "Gemm(z, k, rows)", "MatMul(z, k)", "Gemm<transB=1>(z, l, b)"]
)
def test_images_out_of_products(op: str) -> None:
    constants = {
        "k": normal(7, 256), "l": normal(256, 7), "b": normal(256), "one": normal(1), "rows": normal(1, 256), "w": W["w"],
        "shape": np.array([-1, 4, 8, 8]),
    }  # fmt: skip
    graph, layout, said, counts = laid_out(
        f"(float[batch,7] z) => (float y) {{ g = {op} r = Relu(g) i = Reshape(r, shape) y = ConvTranspose(i, w) }}",
        constants,
    )
    assert (said, counts) == ([], {"images out of products": 1})
    (transpose,) = (node for node in graph.nodes if node.op == "Transpose")
    assert transpose.attributes["perm"] == [0, 3, 1, 2]
    assert layout.is_free(transpose)


def test_an_image_out_of_a_product_that_is_returned_keeps_its_name() -> None:
    graph, layout, said, counts = laid_out(
        f"(float[batch,7] z) => (float i, float y) {{ g = Gemm(z, k) i = Reshape(g, shape) y = {CONV}(i, w) }}",
        W | {"k": normal(7, 256), "shape": np.array([0, 4, 8, 8])},
    )
    assert (said, counts) == ([], {"images out of products": 1})
    assert [value.name for value in graph.outputs] == ["i", "y"]
    assert layout.order_of(graph.value("i")) == NHWC


def test_from_an_image_to_a_row_and_back() -> None:
    _, _, said, counts = laid_out(
        f"{FLAT} f = Flatten(c) g = Gemm(f, k) r = Relu(g) i = Reshape(r, shape) j = Relu(i) h = Flatten(j) y = Gemm(h, l) }}",
        W | {"k": normal(256, 64) / 16, "shape": np.array([0, 4, 4, 4]), "l": normal(64, 3)},
    )
    assert (said, counts) == ([], {"flattened images": 1}), "nothing spatial reads the second image"
    _, _, said, counts = laid_out(
        f"{FLAT} f = Flatten(c) g = Gemm(f, k) r = Relu(g) i = Reshape(r, shape) j = {CONV}(i, w) h = Flatten(j) y = Gemm(h, l) }}",
        W | {"k": normal(256, 64) / 16, "shape": np.array([0, 4, 4, 4]), "l": normal(64, 3)},
    )
    assert (said, counts) == ([], {"flattened images": 2, "images out of products": 1})


@pytest.mark.parametrize(
    ("tail", "why"),
    [
        ("y = Flatten(c)", "y is an output of the graph"),
        ("f = Flatten(c) g = Gemm(f, m) y = Concat<axis=1>(f, g)", "f is read by Concat:y (Concat), which is no product"),
        ("f = Flatten(c) t = MatMul(k, m) u = Gemm(f, m) s = Mul(f, f) o = Gemm(s, m) y = Add(u, o)", "f is read by Mul:s"),
        ("f = Reshape(c, rows) y = Gemm(f, q)", "c does not become a row per sample"),
        ("f = Reshape(c, three) y = MatMul(f, k)", "it is no step between an image and a row"),
    ],
)  # fmt: skip
def test_what_is_flattened_is_left_alone(tail: str, why: str) -> None:
    constants = W | {
        "rows": np.array([-1, 32]),
        "q": normal(32, 3),
        "three": np.array([0, 8, 32]),
        "k": normal(32, 256),
    }
    _, _, said, counts = laid_out(f"{FLAT} {tail} }}", constants)
    assert counts == {}
    assert len(said) == 1
    assert why in said[0]
    assert "1024 bytes per sample" in said[0]


@pytest.mark.parametrize(
    ("head", "why"),
    [
        ("i = Reshape(z, shape)", "z is an input of the graph"),
        (
            "g = Gemm(z, k) s = Add(g, z) i = Reshape(s, shape)",
            "s is computed by Add:s (Add), which is no product",
        ),
        ("g = Gemm(z, k) i = Reshape(g, shape) u = Neg(g)", "g is also read by Neg:u"),
        ("u = Gemm(z, k) i = Reshape(u, shape)", "u is also read by the graph as its output"),
    ],
)
def test_what_becomes_an_image_is_left_alone(head: str, why: str) -> None:
    outputs = "float y, float u" if "u =" in head else "float y"
    _, _, said, counts = laid_out(
        f"(float[batch,256] z) => ({outputs}) {{ {head} y = {CONV}(i, w) }}",
        W | {"k": normal(256, 256) / 16, "shape": np.array([0, 4, 8, 8])},
    )
    assert counts == {}
    assert len(said) == 1
    assert why in said[0]


def test_nothing_is_edited_where_nothing_is_saved() -> None:
    text = f"{FLAT} g = GlobalAveragePool(c) f = Flatten(g) y = Gemm(f, k) }}"
    graph, _, said, counts = laid_out(text, W | {"k": normal(4, 3)})
    assert (said, counts) == ([], {})
    assert ops_of(graph) == {"Conv": 1, "GlobalAveragePool": 1, "Flatten": 1, "Gemm": 1}


def test_fuel_limits_the_rewrites() -> None:
    text = f"{FLAT} f = Flatten(c) g = Gemm(f, m) r = Relu(c) h = Flatten(r) k = Gemm(h, m) y = Add(g, k) z = {CONV}(r, w) }}"
    for fuel in range(3):
        graph = graph_of(text.replace("float y", "float y, float z"), W)
        infer_shapes(graph)
        Pipeline((Canonicalize(),)).run(graph, PassContext())
        (record,) = Pipeline((ChannelsLast(),)).run(graph, PassContext(fuel=fuel))
        assert record.changed == fuel
        assert len(record.diagnostics) == 2 - fuel


# -- the choice --------------------------------------------------------------------------------------------------


def cost(graph: Graph, choice: LayoutChoice) -> int:
    """What an assignment of orders costs; what is read in one order is moved once."""
    layout, reads, total = choice.layout(), set(), 0
    for node in graph.nodes:
        for wish in wishes_of(node):
            order = layout.order_of(wish.value)
            key = wish.value, wish.wanted(order)
            total += 0 if wish.reads and key in reads else wish.cost(order)
            reads.update([key] if wish.reads else ())
        total += sum(tie.cost(layout.order_of(tie.x), layout.order_of(tie.y)) for tie in ties_of(node))
    return total


@st.composite
def mixed_graphs(draw: st.DrawFn) -> Graph:
    """Small graphs of spatial and element-wise operators and products, all values [batch, 2, 4, 4]."""
    graph = Graph("mixed")
    build = NetworkBuilder(graph)
    shape = ("batch", 2, 4, 4)
    values = [graph.add_input("x", np.float32, shape)]
    for step in draw(
        st.lists(st.sampled_from(("pool", "product", "relu", "add", "turn", "rows")), min_size=2, max_size=7)
    ):
        x = values[draw(st.integers(0, len(values) - 1))]
        if step == "pool":
            made = build.apply("MaxPool", [x], shape, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
        elif step == "product":
            made = build.apply("MatMul", [x, build.constant("k", 4, 4)], shape)
        elif step == "relu":
            made = build.apply("Relu", [x], shape)
        elif step == "add":
            made = build.apply("Add", [x, values[draw(st.integers(0, len(values) - 1))]], shape)
        elif step == "turn":
            made = build.apply("Transpose", [x], shape, perm=[0, 1, 3, 2])
        else:
            flat = build.apply(
                "Reshape", [x, graph.add_constant("s", np.array([0, 2, 16]))], ("batch", 2, 16)
            )
            made = build.apply("Reshape", [flat, graph.add_constant("s", np.array([0, 2, 4, 4]))], shape)
        values.append(made)
    graph.set_outputs(values[-2:])
    return graph


@settings(max_examples=60, deadline=None)
@given(mixed_graphs())
def test_no_mixture_of_own_orders_and_channels_last_is_cheaper(graph: Graph) -> None:
    choice = LayoutChoice(graph)
    choice.choose({})
    chosen = cost(graph, choice)
    images = [value for value in choice.orders if value.rank == 4]
    rows = [value for value in choice.orders if value.rank == 3]
    best = chosen
    for taken in itertools.product((False, True), repeat=len(images) + len(rows)):
        if len(taken) > 9:
            return
        choice.orders = {
            value: channels_last(value.rank or 0) if takes else own_order(value.rank or 0)
            for value, takes in zip((*images, *rows), taken, strict=True)
        }
        best = min(best, cost(graph, choice))
    shared = sum(
        len(value.uses) > 1 for value in images
    )  # what several element-wise operators read may count twice
    assert chosen // MOVE <= best // MOVE + shared * 4 * math.prod((2, 4, 4))
    if not shared:
        assert chosen // MOVE == best // MOVE


# -- whole graphs ------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(networks())
def test_random_networks_keep_what_they_compute(graph: Graph) -> None:
    run(graph, Canonicalize(), ChannelsLast())
    layout = graph.facts[LAYOUT]
    check_storage(graph, layout)
    for move in moves(graph, layout):
        assert ops.info(move.node).layout == "reshape", "only what is flattened and returned is moved"


def test_the_graph_survives_a_round_trip(tmp_path: Path) -> None:
    graph, *_ = laid_out(f"{FLAT} f = Flatten(c) y = Gemm(f, m, b) }}")
    save(graph, tmp_path / "model.onnx")
    assert lines(load(tmp_path / "model.onnx")) == lines(graph)


def test_the_fact_survives_the_passes_behind() -> None:
    text = f"{FLAT} r = Relu(c) f = Flatten(r) y = Gemm(f, m, b) }}"
    prepare = "fold_constants,canonicalize,channels_last"
    done = quantize(graph_of(text, W), prepare=prepare)
    layout = done.graph.facts[LAYOUT]
    assert layout.orders["x"] == NHWC
    assert all(
        layout.order_of(value) for value in done.graph.values if value.rank
    )  # those of later passes in their own order
    assert sum(1 for _ in moves(done.float_graph, layout)) == 0
    assert done.sqnr() > 20


def test_a_graph_with_unknown_ranks_is_left_alone() -> None:
    graph = Graph("unknown")
    x = graph.add_input("x", np.float32, None)
    y = graph.add_node("Relu", [x], [graph.add_value("y", np.float32, None)]).output
    graph.set_outputs([graph.add_node("Transpose", [y]).output])
    infer_shapes(graph)
    run_alone(graph)
    assert graph.facts[LAYOUT].orders == {}


def run_alone(graph: Graph) -> None:
    ChannelsLast().run(graph, PassContext())


def test_the_one_conflict_in_a_long_chain() -> None:
    graph = Graph("long")
    build = NetworkBuilder(graph)
    x: Value = graph.add_input("x", np.float32, ("batch", 3, 8, 8))
    for _ in range(400):
        x = build.same("Relu", build.same("Add", build.conv(x, 3, 1), x))
    k = build.constant("k", 8, 8)
    graph.set_outputs([build.apply("MatMul", [x, k], ("batch", 3, 8, 8)), build.same("Neg", x)])
    run_alone(graph)
    assert [move.value for move in moves(graph, graph.facts[LAYOUT])] == [x]


@pytest.mark.parametrize(
    "name",
    [
        "autoencoder_ad",
        "dscnn_kws",
        "mobilenetv1_vww",
        "mobilenetv2_imagenet",
        "resnet20_cifar10",
        "resnet8_cifar10",
    ],
)
def test_nothing_is_moved_in_real_models(name: str) -> None:
    path = MODELS / name / "model.onnx"
    if not path.is_file():
        pytest.skip(f"{path} is not there; QCOMPILER_MODELS names another folder")
    graph = load(path)
    *_, record = run(graph, *FLOAT_PASSES, Canonicalize(), ChannelsLast())
    layout = graph.facts[LAYOUT]
    assert list(moves(graph, layout)) == []
    assert (record.counts, record.diagnostics) == ({}, ())
    check_storage(graph, layout)
    for node in graph.nodes:
        if node.op in ("Conv", "Add", "Relu", "Clip") and node.output.rank == 4:
            assert layout.order_of(node.output) == NHWC
