"""Element-wise operators, functions of one variable, and softmax as integer operations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from qcompiler import ops
from qcompiler.errors import TargetError
from qcompiler.fixed_point import Rescale, quantized_multiplier
from qcompiler.integer.encoder import Encoder, Tile, clamp, rule
from qcompiler.integer.operations import (
    Addition,
    Extremum,
    Interpolation,
    Lookup,
    Multiplication,
    Requantization,
    Softmax,
)
from qcompiler.ir.part import cut_out
from qcompiler.runtime import Session

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qcompiler.integer.program import Tensor
    from qcompiler.ir.node import Node
    from qcompiler.layout import Order

_SHIFT_LEFT = {8: 20, 16: 15}
"""Bits that the operands of an addition are shifted up before they are scaled (TensorFlow Lite)."""


@rule("Add", "Sub", "Mul", "Max", "Min", "Sum")
def elementwise(encoder: Encoder, tile: Tile) -> None:
    """Operators on two tensors; with a single number as the other operand they are functions of one variable."""
    if _is_function(tile):
        function(encoder, tile)
        return
    node, made = tile.anchor, encoder.result(tile.result)
    if len(node.inputs) != 2:
        raise TargetError(
            f"{node.name}: {node.op} of {len(node.inputs)} operands has no integer form; write it as several of two."
        )
    encoder.check_dimensions(len(made.shape))
    a, b = (_spread(encoder, node, slot, made) for slot in (0, 1))
    low, high = clamp(tile, made)
    common = {
        "input_offset": -a.zero_point,
        "other_offset": -b.zero_point,
        "output_offset": made.zero_point,
        "low": low,
        "high": high,
    }
    if node.op in ("Max", "Min"):
        encoder.emit(Extremum(node.op == "Max"), (a, b), (made,))
    elif node.op == "Mul":
        factor = Rescale.of(a.scale * b.scale / made.scale, tile.rounding)
        encoder.emit(Multiplication(rescale=factor, **common), (a, b), (made,))
    else:
        left, twice = _SHIFT_LEFT[made.bits], 2 * max(a.scale, b.scale)
        sign: Literal[1, -1] = -1 if node.op == "Sub" else 1
        work = Addition(
            sign=sign,
            left_shift=left,
            first=Rescale.of(a.scale / twice, tile.rounding),
            second=Rescale.of(b.scale / twice, tile.rounding),
            output=Rescale.of(twice / (2.0**left * made.scale), tile.rounding),
            **common,
        )
        encoder.emit(work, (a, b), (made,))


def _spread(encoder: Encoder, node: Node, slot: int, made: Tensor) -> Tensor:
    """An operand with as many axes as the result, in the order in which that is stored."""
    value = node.input(slot)
    assert value is not None
    shape, rank = encoder.shape(value), len(made.order)
    missing = rank - len(shape)
    order: Order = tuple(axis - missing for axis in made.order if axis >= missing)
    stored = encoder.read(node, slot, order)
    full = (1,) * missing + shape
    return encoder.viewed(stored, tuple(full[axis] for axis in made.order))


def _is_function(tile: Tile) -> bool:
    """Whether a region computes every element from one element of one tensor."""
    before = tile.anchor.input(0)
    if before is not None and before.is_constant:
        before = tile.anchor.input(1)
    for node in tile.nodes:
        if ops.info(node).kind not in ("activation", "elementwise"):
            return False
        others = [value for value in node.inputs if value is not None and value is not before]
        if any(value.data is None or value.data.size != 1 for value in others):
            return False
        before = node.output
    return True


@rule(*(op for op, row in ops.TABLE.items() if row.kind == "activation"), "Div", "Pow")
def function(encoder: Encoder, tile: Tile) -> None:
    """Functions of one variable: a table of all codes for int8; clamping or interpolation for int16."""
    node = tile.anchor
    if not _is_function(tile):
        raise TargetError(f"{node.name}: {node.op} of several tensors has no integer form.")
    value, made = node.input(0), encoder.result(tile.result)
    slot = 1 if value is not None and value.is_constant else 0
    x = encoder.read(node, slot, made.order)
    assert made.encoding is not None
    if x.bits == 8:
        codes = np.arange(-128, 128) - x.zero_point
        table = made.encoding.quantize(_applied(encoder, tile, slot, codes * x.scale))
        encoder.emit(Lookup(table), (x,), (made,))
    elif all(item.op in ("Relu", "Clip") for item in tile.nodes):
        low, high = clamp(_behind(tile), made)
        factor = Rescale.of(x.scale / made.scale, tile.rounding)
        encoder.emit(Requantization(factor, -x.zero_point, made.zero_point, low, high), (x,), (made,))
    elif made.bits == 16:
        points = np.arange(-256, 257) * 128.0 * x.scale
        table = made.encoding.quantize(_applied(encoder, tile, slot, points))
        encoder.emit(Interpolation(table), (x,), (made,))
    else:
        raise TargetError(f"{node.name}: {node.op} from int16 to {made.bits} bits has no integer form.")


def _behind(tile: Tile) -> Tile:
    """The region as if its first node stood behind something, so that it counts as an activation."""
    return Tile((tile.anchor, *tile.nodes), tile.planned, tile.rounding)


def _applied(encoder: Encoder, tile: Tile, slot: int, x: NDArray[Any]) -> NDArray[np.float32]:
    """The region's function of some numbers, by onnxruntime."""
    part = cut_out(encoder.graph, tile.nodes, [tile.result])
    given = tile.anchor.input(slot)
    assert given is not None
    for value in part.values:
        if not value.is_constant:
            value.shape = x.shape if value.is_input else None
    (result,) = Session(part).run({given.name: x.astype(np.float32)}).values()
    return result.reshape(-1)


@rule("Softmax")
def softmax(encoder: Encoder, tile: Tile) -> None:
    """Softmax over one axis, which is stored last; see `qcompiler.integer.operations.Softmax` for the encodings."""
    node = tile.anchor
    value = node.input(0)
    assert value is not None
    rank = len(encoder.shape(value))
    axis = int(node.attributes.get("axis", -1)) % rank
    order = (*(other for other in encoder.order(value) if other != axis), axis)
    x, made = encoder.read(node, 0, order), encoder.target(tile.result, order)
    assert made.encoding is not None
    expected = (1 / 256, -128) if made.bits == 8 else (1 / 65536, -32768)
    if x.bits != 8 or (made.scale, made.zero_point) != expected:
        raise TargetError(
            f"{node.name}: softmax in integers reads int8 and gives scale 1/256 and zero point -128 (int8), or 1/65536 and -32768 (int16); "
            f"the plan says {x.encoding} and {made.encoding}."
        )
    multiplier, shift = quantized_multiplier(min(x.scale * 2.0**26, 2.0**31 - 1))
    work = Softmax(multiplier, shift, -int(np.floor(31 * 2.0**26 / 2.0**shift)))
    encoder.emit(work, (x,), (made,))
    encoder.settle(tile.result, made)
