"""The op table against the operators' own definitions."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from bodies import if_graph

from qcompiler import ops
from qcompiler.ir.functions import COMPOSITES
from qcompiler.ir.graph import OPSET, Graph
from qcompiler.ir.node import Node
from qcompiler.runtime import Session

KINDS = {
    "weighted", "movement", "selection", "join", "average", "activation", "elementwise", "normalization", "reduction", "other",
}  # fmt: skip
ROLES = {"data", "weight", "bias", "parameter", "shape"}
STANDARD = [row for row in ops.TABLE.values() if row.op not in COMPOSITES]


def node_of(
    op: str, *shapes: tuple[int | str, ...], out: tuple[int | str, ...] = (), **attributes: int
) -> Node:
    graph = Graph()
    values = [graph.add_input(f"x{index}", np.float32, shape) for index, shape in enumerate(shapes)]
    return graph.add_node(op, values, [graph.add_value("y", np.float32, out)], attributes)


@pytest.mark.parametrize("row", STANDARD, ids=lambda row: row.op)
def test_rows_fit_the_operators(row: ops.OpInfo) -> None:
    schema = onnx.defs.get_schema(row.op, OPSET, "")
    assert row.kind in KINDS
    assert set(row.roles) <= ROLES
    if row.commutative:
        variadic = schema.inputs[-1].option == onnx.defs.OpSchema.FormalParameterOption.Variadic
        assert variadic or len(schema.inputs) == 2
    for slot, entry in enumerate(schema.inputs):
        if entry.type_str in ("tensor(int64)", "tensor(int32)"):
            assert row.role(slot) in ("shape",), f"{row.op} input {slot} is {entry.name}"


@pytest.mark.parametrize("row", [row for row in STANDARD if row.commutative], ids=lambda row: row.op)
def test_commutative_operators_commute(row: ops.OpInfo) -> None:
    graph = Graph()
    dtype = np.bool_ if row.op in ("And", "Or", "Xor") else np.float32
    out = np.bool_ if row.op in ("And", "Or", "Xor", "Equal") else np.float32
    x, y = graph.add_input("x", dtype, (8,)), graph.add_input("y", dtype, (8,))
    outputs = [
        graph.add_node(row.op, pair, [graph.add_value("z", out, (8,))]).output for pair in ((x, y), (y, x))
    ]
    graph.set_outputs(outputs)
    rng = np.random.default_rng(0)
    data = {name: rng.integers(-2, 2, 8).astype(dtype) for name in "xy"}
    left, right = Session(graph).run(data).values()
    np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("op", [row.op for row in STANDARD if row.op not in ("Clip",)])
def test_bounds_hold(op: str) -> None:
    row = ops.TABLE[op]
    node = node_of(op, (2, 8), out=(2, 8))
    low, high = row.bounds(node)
    if (low, high) == (-np.inf, np.inf):
        return
    graph = node.graph
    assert graph is not None
    graph.set_outputs([node.output])
    session = Session(graph)
    moderate = np.linspace(-200, 200, 16, dtype=np.float32).reshape(2, 8)
    extreme = np.concatenate([np.linspace(-200, 200, 14), [1e30, -1e30]]).astype(np.float32).reshape(2, 8)
    y = np.concatenate([next(iter(session.run({"x0": x}).values())).ravel() for x in (moderate, extreme)])
    y = y[np.isfinite(y)]
    assert y.size
    assert (y >= low).all()
    assert (y <= high).all()


def test_clip_bounds_are_its_operands() -> None:
    graph = Graph()
    x, top = graph.add_input("x", np.float32, (4,)), graph.add_constant("top", np.float32([6]))
    clip = graph.add_node("Clip", [x, None, top])
    assert ops.info(clip).bounds(clip) == (-np.inf, 6.0)
    open_clip = graph.add_node("Clip", [x, graph.add_input("low", np.float32, ())])
    assert ops.info(open_clip).bounds(open_clip) == (-np.inf, np.inf)


AXES = [
    (node_of("Conv", (1, 8, 4, 4), (16, 4, 3, 3), group=2), 1, 0, 1),
    (node_of("ConvTranspose", (1, 8, 4, 4), (8, 16, 3, 3)), 1, 1, 0),
    (node_of("Gemm", (2, 8), (16, 8), transB=1), 1, 0, 1),
    (node_of("Gemm", (2, 8), (8, 16)), 1, 1, 0),
    (node_of("Gemm", (8, 2), (8, 16), transA=1), 0, 1, 0),
    (node_of("Gemm", (2, 8), (8, 16)), 0, 0, 1),
    (node_of("MatMul", (2, 8), (8, 16)), 1, 1, 0),
    (node_of("MatMul", (3, 2, 8), (3, 8, 16)), 1, 2, 1),
    (node_of("MatMul", (3, 2, 8), (3, 8, 16)), 0, 1, 2),
    (node_of("MatMul", (3, 2, 8), (8,)), 1, None, 0),
    (node_of("Gather", (100, 8), (4,)), 0, 0, None),
    (node_of("Relu", (1, 8)), 0, None, None),
]


@pytest.mark.parametrize(("node", "slot", "channel", "contraction"), AXES)
def test_axes(node: Node, slot: int, channel: int | None, contraction: int | None) -> None:
    row = ops.info(node)
    assert row.channel_axis(node, slot) == channel
    assert row.contraction_axis(node, slot) == contraction


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        (node_of("Conv", (1, 8, 4, 4), (16, 4, 3, 3), out=("batch", 16, 4, 4), group=2), 16 * 16 * 4 * 9),
        (node_of("ConvTranspose", (1, 8, 4, 4), (8, 5, 2, 2), out=(1, 5, 8, 8)), 8 * 16 * 5 * 4),
        (node_of("ConvTranspose", (1, 8, "h", 4), (8, 5, 2, 2), out=(1, 5, 8, 8)), None),
        (node_of("Gemm", (2, 8), (16, 8), out=(2, 16), transB=1), 16 * 8),
        (node_of("MatMul", (1, 5, 8), (8, 16), out=(1, 5, 16)), 5 * 16 * 8),
        (node_of("Conv", (1, 8, 4, 4), (16, 4, 3, 3), out=("batch", 16, "h", 4)), None),
        (node_of("Relu", (1, 8), out=(1, 8)), None),
    ],
)
def test_macs(node: Node, expected: int | None) -> None:
    assert ops.macs(node) == expected


def test_unknown_operators_claim_nothing() -> None:
    graph = Graph()
    x = graph.add_input("x", np.float32, (4,))
    custom = graph.add_node("Conv", [x, x], domain="org.example")
    row = ops.info(custom)
    assert row.kind == "other"
    assert row.role(5) == "data"
    assert not row.keeps_values
    assert not row.commutative
    assert ops.info(if_graph()[1]).kind == "other"
    assert ops.is_known("Conv")
    assert not ops.is_known("If")


def test_roles_and_kinds() -> None:
    assert [ops.TABLE["Conv"].role(slot) for slot in range(3)] == ["data", "weight", "bias"]
    assert [ops.TABLE["Concat"].role(slot) for slot in (0, 7)] == ["data", "data"]
    assert [ops.TABLE["Where"].role(slot) for slot in range(3)] == ["shape", "data", "data"]
    assert [ops.TABLE["Pad"].role(slot) for slot in range(4)] == ["data", "shape", "parameter", "shape"]
    assert [ops.TABLE["Resize"].role(slot) for slot in range(4)] == ["data", "shape", "shape", "shape"]
    assert ops.TABLE["MaxPool"].keeps_values
    assert ops.TABLE["Reshape"].keeps_values
    assert not ops.TABLE["AveragePool"].keeps_values
    assert not ops.TABLE["Multinomial"].deterministic
