"""Convolutions and matrix products in MIL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from qcompiler.targets.core_ml import sparse
from qcompiler.targets.core_ml.author import Emit
from qcompiler.targets.core_ml.refusals import Unsupported

if TYPE_CHECKING:
    from qcompiler.ir.node import Node
    from qcompiler.targets.core_ml.author import Author, Var


def window(node: Node, sides: int) -> dict[str, Any]:
    """Strides and padding of a window. ONNX gives all paddings in front first, MIL a pair per side.

    Args:
        node: A convolution or pooling.
        sides: How many spatial dimensions there are.
    """
    given = node.attributes
    strides = [int(item) for item in given.get("strides", [1] * sides)]
    kind = node.text("auto_pad", "NOTSET")
    if kind == "VALID":
        return {"strides": strides, "pad_type": "valid"}
    if kind != "NOTSET":
        return {"strides": strides, "pad_type": "same" if kind == "SAME_UPPER" else "same_lower"}
    pads = [int(item) for item in given.get("pads", [0] * 2 * sides)]
    if any(pad < 0 for pad in pads):
        raise Unsupported("it pads by negative numbers; slice the operand instead")
    if not any(pads):
        return {"strides": strides, "pad_type": "valid"}
    pairs = [pads[side + end * sides] for side in range(sides) for end in (0, 1)]
    return {"strides": strides, "pad_type": "custom", "pad": pairs}


def _weight(author: Author) -> Var:
    """The weight; with a mask, where it has so many zeros that this is smaller."""
    weight = author.read(1)
    if not isinstance(weight, np.ndarray) or not sparse.is_smaller(weight != 0, 8 * weight.itemsize):
        return weight
    return sparse.floats(author, weight)


def _conv(author: Author, node: Node) -> Var:
    sides = author.rank() - 2
    return author.op(
        "conv", x=author.read(0), weight=_weight(author), bias=author.read(2), groups=int(node.attributes.get("group", 1)),
        dilations=[int(item) for item in node.attributes.get("dilations", [1] * sides)], **window(node, sides),
    )  # fmt: skip


def _conv_transpose(author: Author, node: Node) -> Var:
    sides, given = author.rank() - 2, node.attributes
    if node.text("auto_pad", "NOTSET") not in ("NOTSET", "VALID") or given.get("output_shape"):
        raise Unsupported("its padding follows from the size of its result; export it with explicit pads")
    longer = [int(item) for item in given.get("output_padding", [0] * sides)]
    pads = window(node, sides).get("pad", [0] * 2 * sides)
    for side, rows in enumerate(
        longer
    ):  # rows behind the result are some that padding had cut off, and zeros beyond these
        kept = min(rows, pads[2 * side + 1])
        pads[2 * side + 1] -= kept
        longer[side] -= kept
    bias = author.read(2)
    result = author.op(
        "conv_transpose", x=author.read(0), weight=_weight(author), bias=None if any(longer) else bias, pad_type="custom", pad=pads,
        strides=[int(item) for item in given.get("strides", [1] * sides)], groups=int(given.get("group", 1)),
        dilations=[int(item) for item in given.get("dilations", [1] * sides)],
    )  # fmt: skip
    if not any(longer):
        return result
    pairs = [0, 0, 0, 0, *(rows for side in longer for rows in (0, side))]
    result = author.op("pad", x=result, pad=pairs, mode="constant", constant_val=author.number(0))
    return result if bias is None else author.op("add", x=result, y=bias.reshape(1, -1, *[1] * sides))


def _gemm(author: Author, node: Node) -> Var:
    """`linear` where the weight is stored; canonical graphs have transB = 1 and a row as bias there."""
    given, weight, bias = node.attributes, node.input(1), author.read(2)
    plain = not given.get("transA", 0) and given.get("alpha", 1.0) == 1.0 and given.get("beta", 1.0) == 1.0
    row = bias is None or (isinstance(bias, np.ndarray) and bias.ndim == 1)
    if plain and given.get("transB", 0) and weight is not None and author.is_stored(weight) and row:
        return author.op("linear", x=author.read(0), weight=_weight(author), bias=bias)
    product = author.op(
        "matmul", x=author.read(0), y=author.read(1),
        transpose_x=bool(given.get("transA", 0)), transpose_y=bool(given.get("transB", 0)),
    )  # fmt: skip
    product = _scaled(author, product, float(given.get("alpha", 1.0)))
    return (
        product
        if bias is None
        else author.op("add", x=product, y=_scaled(author, bias, float(given.get("beta", 1.0))))
    )


def _scaled(author: Author, var: Var, factor: float) -> Var:
    return var if factor == 1.0 else author.op("mul", x=var, y=author.number(factor))


def _matmul(author: Author, node: Node) -> Var:
    """MIL multiplies matrices and stacks of them; vectors become matrices first."""
    ranks = author.rank(0), author.rank(1)
    x, y = author.read(0), author.read(1)
    if ranks[0] == 1:
        x = author.op("expand_dims", x=x, axes=[0])
    if ranks[1] == 1:
        y = author.op("expand_dims", x=y, axes=[1])
    product = author.op("matmul", x=x, y=y)
    gone = [axis for axis, rank in ((-2, ranks[0]), (-1, ranks[1])) if rank == 1]
    return author.op("squeeze", x=product, axes=gone) if gone else product


EMITTERS: dict[str, Emit] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "MatMul": _matmul,
}
