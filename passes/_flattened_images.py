"""Images that are flattened for a matrix product, and products that become images: the constant matrix follows the storage."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from qcompiler import ops
from qcompiler.layout import channels_last

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qcompiler.ir.graph import Graph
    from qcompiler.ir.node import Node, Use, Value
    from qcompiler.layout import Layout
    from qcompiler.pass_manager import PassContext


def turn_flattened(graph: Graph, layout: Layout, context: PassContext) -> dict[str, int]:
    """Rewrites, exactly, what would otherwise be transposed at run time.

    Returns:
        How often each kind of rewrite was made.
    """
    done = {"flattened images": 0, "images out of products": 0}
    for node in list(graph.topological()):
        if ops.info(node).layout != "reshape" or node not in graph:
            continue
        x, y = node.input(0), node.output
        if x is None or x.is_constant or layout.is_free(node):
            continue
        if _is_image(x, layout) and y.rank == 2:
            uses = _readers(y)
            if uses and not y.is_output and context.allow(f"flatten {x.name} as it is stored"):
                _flatten_stored(graph, node, x, uses)
                done["flattened images"] += 1
        elif _is_image(y, layout) and x.rank == 2:
            maker = _maker(x)
            if maker is not None and context.allow(f"compute {y.name} as it is stored"):
                _compute_stored(graph, node, y, maker)
                done["images out of products"] += 1
    return {what: count for what, count in done.items() if count}


def _is_image(value: Value, layout: Layout) -> bool:
    """Whether a value is stored channels last and has a known size."""
    rank, dims = value.rank or 0, (value.shape or ())[1:]
    return (
        rank > 2
        and layout.order_of(value) == channels_last(rank)
        and all(isinstance(dim, int) for dim in dims)
    )


def _readers(value: Value) -> list[Use]:
    """The uses as the left operand of products by constants, if there are no others; functions of one variable are looked through."""
    found: list[Use] = []
    for use in value.uses:
        node = use.node
        weight = node.input(1)
        if node.op in ("Gemm", "MatMul") and use.slot == 0 and not node.attributes.get("transA", 0):
            if weight is None or not weight.is_constant or weight.rank != 2:
                return []
            found.append(use)
        elif _is_function(node) and not node.output.is_output:
            deeper = _readers(node.output)
            if not deeper:
                return []
            found += deeper
        else:
            return []
    return found


def _maker(value: Value) -> Node | None:
    """The product by a constant that computes a value, which nothing else reads; functions of one variable are looked through."""
    node = value.producer
    if node is None or len(value.uses) != 1 or value.is_output:
        return None
    if _is_function(node) and node.input(0) is not None:
        first = node.input(0)
        assert first is not None
        return _maker(first)
    weight, bias = node.input(1), node.input(2)
    known = (
        weight is not None and weight.is_constant and weight.rank == 2 and (bias is None or bias.is_constant)
    )
    return node if node.op in ("Gemm", "MatMul") and known else None


def _is_function(node: Node) -> bool:
    """Whether a node treats every element alike."""
    others = node.inputs[1:]
    return ops.info(node).kind == "activation" and all(
        value is None or (value.data is not None and value.data.size == 1) for value in others
    )


def _sequence(image: Value) -> NDArray[np.intp]:
    """For each element in storage order, its place in the order of the image's own axes."""
    dims = [int(dim) for dim in (image.shape or ())[1:] if isinstance(dim, int)]
    return np.arange(math.prod(dims)).reshape(dims).transpose(*range(1, len(dims)), 0).reshape(-1)


def _flatten_stored(graph: Graph, node: Node, x: Value, uses: list[Use]) -> None:
    """Flattens the image in storage order, and puts the rows of the matrices into that order."""
    order, sequence = channels_last(x.rank or 0), _sequence(x)
    assert x.shape is not None
    with graph.deriving([node]):
        turned = graph.add_value(f"{x.name}.stored", x.dtype, tuple(x.shape[axis] for axis in order))
        graph.add_node("Transpose", [x], [turned], {"perm": list(order)}, near=node)
        graph.set_input(node, 0, turned)
    for use in uses:
        _permute(graph, use.node, 1, int(not use.node.attributes.get("transB", 0)) ^ 1, sequence)


def _compute_stored(graph: Graph, node: Node, y: Value, maker: Node) -> None:
    """Computes the elements of the image in storage order, and calls the result by its own axes afterwards."""
    order, sequence = channels_last(y.rank or 0), _sequence(y)
    _permute(graph, maker, 1, int(not maker.attributes.get("transB", 0)), sequence)
    bias = maker.input(2)
    if bias is not None and bias.data is not None and bias.data.size > 1:
        _permute(graph, maker, 2, bias.data.ndim - 1, sequence)
    assert y.shape is not None
    x = node.input(0)
    assert x is not None
    with graph.deriving([node]):
        stored = tuple(y.shape[axis] for axis in order)
        image = graph.add_value(f"{y.name}.stored", y.dtype, stored)
        sizes = np.array([dim if isinstance(dim, int) else -1 for dim in stored], np.int64)
        graph.add_node("Reshape", [x, graph.add_constant(f"{y.name}.sizes", sizes)], [image], near=node)
        back = graph.add_value(f"{y.name}.image", y.dtype, y.shape)
        turn = [order.index(axis) for axis in range(len(order))]
        graph.add_node("Transpose", [image], [back], {"perm": turn}, near=node)
        graph.replace_node(node, back)


def _permute(graph: Graph, node: Node, slot: int, axis: int, sequence: NDArray[np.intp]) -> None:
    """Gives a node a copy of a constant with the elements along an axis in another order."""
    value = node.input(slot)
    assert value is not None
    data = np.take(np.asarray(value.data), sequence, axis=axis)
    graph.set_input(node, slot, graph.add_constant(f"{value.name}.stored", data))
