"""Images that are flattened for a matrix product, and products that become images: the constant matrix follows the storage.

Where the storage of an image is read as a row of numbers, the contracted axis of the matrix it is multiplied by is put into
that order at compile time, and a Transpose in front of the flattening, which moves nothing, says so; a product that becomes an
image has its output channels put into the order in which the image is stored, with a Transpose behind.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from qcompiler import ops
from qcompiler.passes._node_rules import put_constant
from qcompiler.passes._operands import readers, static

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qcompiler.ir.graph import Graph
    from qcompiler.ir.node import Node, Value
    from qcompiler.layout import Order


@dataclass(frozen=True)
class Turn:
    """A change of shape between an image and a row, and the products whose constants can follow the image's storage.

    Attributes:
        node: The Reshape or Flatten.
        products: Gemm or MatMul nodes.
        flattens: Whether the image is what it reads; else it is what it makes.
    """

    node: Node
    products: tuple[Node, ...]
    flattens: bool

    @property
    def image(self) -> Value:
        """The image."""
        value = self.node.input(0) if self.flattens else self.node.output
        assert value is not None
        return value

    @property
    def what(self) -> str:
        """What to count and call the rewrite."""
        return "flattened images" if self.flattens else "images out of products"


def turn_of(node: Node) -> Turn | str:
    """A change of shape as a turn, or why its bytes have to be moved where the storage asks for it."""
    x, y = node.input(0), node.output
    assert x is not None
    flattens = y.rank == 2 and (x.rank or 0) > 2
    if not flattens and not (x.rank == 2 and (y.rank or 0) > 2):
        return "it is no step between an image and a row"
    image, row = (x, y) if flattens else (y, x)
    sizes = static((image.shape or (None,))[1:])
    assert row.shape is not None
    if sizes is None or row.shape[1] != math.prod(sizes):
        return f"{image.name} does not become a row per sample, or its size is not known"
    products = _readers(row) if flattens else _maker(row, node)
    return products if isinstance(products, str) else Turn(node, tuple(products), flattens)


def _readers(row: Value) -> list[Node] | str:
    """The products by constants that read a row, through functions of one variable; or who else reads it."""
    if row.is_output:
        return f"{row.name} is an output of the graph"
    found: list[Node] = []
    for use in row.uses:
        node = use.node
        if use.slot == 0 and _is_function(node):
            deeper = _readers(node.output)
            if isinstance(deeper, str):
                return deeper
            found += deeper
        elif use.slot == 0 and _is_product(node):
            found.append(node)
        else:
            return f"{row.name} is read by {node.name} ({node.op}), which is no product by a constant matrix"
    return found


def _maker(row: Value, reader: Node) -> list[Node] | str:
    """The product by a constant that makes a row, through functions of one variable; or why there is none to change."""
    node = row.producer
    if row.only_use is None:
        return f"{row.name} is also read by {readers(row, but=reader) or 'the graph as its output'}"
    if node is None or not (_is_product(node) or _is_function(node)):
        made = "an input of the graph" if node is None else f"computed by {node.name} ({node.op})"
        return f"{row.name} is {made}, which is no product by a constant matrix"
    if _is_product(node):
        return [node]
    first = node.input(0)
    assert first is not None
    return _maker(first, node)


def _is_function(node: Node) -> bool:
    """Whether a node treats every element alike."""
    others = (value for value in node.inputs[1:] if value is not None)
    alike = all(value.data is not None and value.data.size == 1 for value in others)
    return ops.info(node).kind == "activation" and node.input(0) is not None and alike


def _is_product(node: Node) -> bool:
    weight, bias = node.input(1), node.input(2)
    return (
        node.is_op("Gemm", "MatMul")
        and not node.attributes.get("transA", 0)
        and weight is not None
        and weight.is_constant
        and weight.rank == 2
        and (bias is None or bias.is_constant)
    )


def apply_turn(graph: Graph, turn: Turn, order: Order) -> None:
    """Makes a change of shape free, given the order in which the image is stored; axis 0 comes first in it."""
    sizes = static((turn.image.shape or ())[1:]) or []
    sequence = (
        np.arange(math.prod(sizes)).reshape(sizes).transpose([axis - 1 for axis in order[1:]]).reshape(-1)
    )
    for node in dict.fromkeys(turn.products):
        row = ops.info(node)
        axis = row.contraction_axis(node, 1) if turn.flattens else row.channel_axis(node, 1)
        assert axis is not None
        _permute(graph, node, 1, axis, sequence)
        bias = node.input(2)
        if not turn.flattens and bias is not None and bias.shape and bias.shape[-1] != 1:
            _permute(graph, node, 2, len(bias.shape) - 1, sequence)
    with graph.deriving([turn.node]):
        (_flatten_stored if turn.flattens else _unflatten_stored)(graph, turn, order)


def _permute(graph: Graph, node: Node, slot: int, axis: int, sequence: NDArray[np.intp]) -> None:
    """Puts the elements of a node's constant along an axis into another order, for this node alone."""
    value = node.input(slot)
    assert value is not None
    put_constant(graph, node, slot, np.take(np.asarray(value.data), sequence, axis), f"{value.name}_stored")


def _flatten_stored(graph: Graph, turn: Turn, order: Order) -> None:
    x = turn.image
    assert x.shape is not None
    turned = graph.add_value(f"{x.name}_stored", x.dtype, tuple(x.shape[axis] for axis in order))
    graph.add_node("Transpose", [x], [turned], {"perm": list(order)})
    graph.set_input(turn.node, 0, turned)


def _unflatten_stored(graph: Graph, turn: Turn, order: Order) -> None:
    y, row = turn.image, turn.node.input(0)
    assert y.shape is not None
    assert row is not None
    shape = tuple(y.shape[axis] for axis in order)
    target = graph.add_constant(
        f"{y.name}_shape", np.array([0, *shape[1:]], np.int64)
    )  # 0: rows are as many as before
    stored = graph.add_value(f"{y.name}_stored", y.dtype, shape)
    graph.add_node("Reshape", [row, target], [stored])
    image = graph.add_value(f"{y.name}_image", y.dtype, y.shape)
    graph.add_node(
        "Transpose", [stored], [image], {"perm": [order.index(axis) for axis in range(len(order))]}
    )
    graph.replace_node(turn.node, image)
