"""Element-wise operators, functions of one variable, and softmax as integer operations."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from qcompiler import ops
from qcompiler.errors import TargetError
from qcompiler.fixed_point import Rescale, quantized_multiplier
from qcompiler.integer.encoder import Encoder, Tile, clamp, ends, rule
from qcompiler.integer.formulas import FORMULAS
from qcompiler.integer.operations import (
    Addition,
    Extremum,
    Interpolation,
    LogSoftmax,
    Lookup,
    Multiplication,
    Rectifier,
    Requantization,
    Softmax,
    SoftmaxByTables,
    UnitLength,
)
from qcompiler.integer.tables import FLOAT32_FUNCTIONS, WORD_FUNCTIONS, of_bytes, of_intervals
from qcompiler.ir.part import cut_out
from qcompiler.runtime import Session

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qcompiler.integer.program import Tensor
    from qcompiler.ir.node import Node
    from qcompiler.layout import Order

_SHIFT_LEFT = {8: 20, 16: 15, 32: 0}
"""Bits that the operands of an addition are shifted up before they are scaled (TensorFlow Lite), by the operands' own."""


@rule("Add", "Sub", "Mul", "Max", "Min", "Sum")
def elementwise(encoder: Encoder, tile: Tile) -> None:
    """Operators on two tensors; with a single number as the other operand they are functions of one variable."""
    if _is_function(tile) and tile.kernel.functions != "factors":
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
    common: dict[str, Any] = {
        "input_offset": -a.zero_point,
        "other_offset": -b.zero_point,
        "output_offset": made.zero_point,
        "low": low,
        "high": high,
    }
    if node.op in ("Max", "Min"):
        encoder.emit(Extremum(node.op == "Max"), (a, b), (made,))
    elif node.op == "Mul":
        factor = Rescale.of(tile.ratio(a.scale, b.scale, over=made.scale), tile.rounding)
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
    """Functions of one variable: a table of all codes for int8; clamping or interpolation for int16; or by factors."""
    node = tile.anchor
    by_factors = tile.kernel.functions == "factors"
    if by_factors and node.op in ("LeakyRelu", "PRelu"):
        _rectifier(encoder, tile)
        return
    if not _is_function(tile):
        raise TargetError(f"{node.name}: {node.op} of several tensors has no integer form.")
    value, made = node.input(0), encoder.result(tile.result)
    slot = 1 if value is not None and value.is_constant else 0
    x = encoder.read(node, slot, made.order)
    if made.is_float and not _clamps(tile):
        encoder.emit(Lookup(np.zeros(0, np.float32), _name_of(tile)), (x,), (made,))
    elif not by_factors and not made.is_float and (x.bits == 8 or tile.kernel.functions != "even"):
        table = _table(encoder, tile, slot, x, made)
        encoder.emit(Lookup(table, _name_of(tile)), (x,), (made,))
    elif _clamps(tile):
        low, high = clamp(_behind(tile), made)
        factor = Rescale.of(tile.ratio(x.scale, over=made.scale), tile.rounding)
        encoder.emit(Requantization(factor, -x.zero_point, made.zero_point, low, high), (x,), (made,))
    elif made.encoding is not None and made.bits == 16:
        points = np.arange(-256, 257) * 128.0 * x.scale
        table = made.encoding.quantize(_applied(encoder, tile, slot, points))
        encoder.emit(Interpolation(table), (x,), (made,))
    else:
        raise TargetError(f"{node.name}: {node.op} from int16 to {made.bits} bits has no integer form.")


def _clamps(tile: Tile) -> bool:
    return all(item.op in ("Relu", "Clip") for item in tile.nodes)


def _table(encoder: Encoder, tile: Tile, slot: int, x: Tensor, made: Tensor) -> NDArray[Any]:
    """The codes of a region's function of all codes of x, rounded as the kernel says."""
    assert made.encoding is not None
    numbers = (np.arange(-(1 << x.bits >> 1), 1 << x.bits >> 1) - x.zero_point) * x.scale
    if tile.kernel.functions == "even":
        return made.encoding.quantize(_applied(encoder, tile, slot, numbers))
    own, name = tile.kernel.functions == "own", _name_of(tile)
    codings, bits = [(tensor.scale, tensor.zero_point) for tensor in (x, made)], (x.bits, made.bits)
    table: NDArray[Any]
    if own and name in FORMULAS and bits == (8, 8):
        table = FORMULAS[name](*codings)
    elif not own and name in FLOAT32_FUNCTIONS and bits == (8, 8):
        table = of_bytes(FLOAT32_FUNCTIONS[name], numbers, *codings[1])
    elif not own and name in WORD_FUNCTIONS and bits == (16, 16) and codings[1] == (1 / 32768, 0):
        table = WORD_FUNCTIONS[name](x.scale)
    else:
        raise TargetError(
            f"{tile.anchor.name}: how {name} of {x.encoding} becomes {made.encoding} is not known to the bit; there is no such row."
        )
    return np.clip(table, *ends(made)).astype(made.dtype)


def _name_of(tile: Tile) -> str:
    """What a region computes, as `Lookup.function` says it."""
    names = []
    for node in tile.nodes:
        approximate = node.text("approximate", "none") if node.op == "Gelu" else "none"
        names.append(node.op if approximate == "none" else f"{node.op}({approximate})")
    return "+".join(names)


def _rectifier(encoder: Encoder, tile: Tile) -> None:
    """LeakyRelu and PRelu, with an activation behind them perhaps."""
    node, made = tile.anchor, encoder.result(tile.result)
    x = _spread(encoder, node, 0, made)
    low, high = clamp(tile, made)
    slopes = (_spread(encoder, node, 1, made),) if node.op == "PRelu" else ()
    slope = slopes[0].scale if slopes else float(node.attributes.get("alpha", 0.01))
    if slope < 0:
        raise TargetError(
            f"{node.name}: LeakyRelu with the negative slope {slope:g} has no integer form; PRelu has."
        )
    positive = Rescale.of(tile.ratio(x.scale, over=made.scale), tile.rounding)
    negative = Rescale.of(tile.ratio(x.scale, slope, over=made.scale), tile.rounding)
    offset = -slopes[0].zero_point if slopes else 0
    work = Rectifier(positive, negative, slope, -x.zero_point, offset, made.zero_point, low, high)
    encoder.emit(work, (x, *slopes), (made,))


def _behind(tile: Tile) -> Tile:
    """The region as if its first node stood behind something, so that it counts as an activation."""
    return dataclasses.replace(tile, nodes=(tile.anchor, *tile.nodes))


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
    x, made = _rows(encoder, tile)
    if x.bits == 16:
        _softmax_by_tables(encoder, tile, x, made)
        encoder.settle(tile.result, made)
        return
    expected = (1 / 256, -128) if made.bits == 8 else (1 / 65536, -32768)
    if not x.is_float and (x.bits != 8 or (made.scale, made.zero_point) != expected):
        raise TargetError(
            f"{node.name}: softmax in integers reads int8 and gives scale 1/256 and zero point -128 (int8), or 1/65536 and -32768 (int16); "
            f"the plan says {x.encoding} and {made.encoding}."
        )
    encoder.emit(Softmax(*_exponents(x)), (x,), (made,))
    encoder.settle(tile.result, made)


def _rows(encoder: Encoder, tile: Tile) -> tuple[Tensor, Tensor]:
    """What is read and what is written, with the axis that the attribute names stored last."""
    node = tile.anchor
    value = node.input(0)
    assert value is not None
    axis = int(node.attributes.get("axis", -1)) % len(encoder.shape(value))
    order = (*(other for other in encoder.order(value) if other != axis), axis)
    return encoder.read(node, 0, order), encoder.target(tile.result, order)


def _exponents(x: Tensor) -> tuple[int, int, int]:
    """Multiplier, shift and lowest difference of a `Softmax`."""
    multiplier, shift = quantized_multiplier(min(x.scale * 2.0**26, 2.0**31 - 1))
    return multiplier, shift, -int(np.floor(31 * 2.0**26 / 2.0**shift))


@rule("LogSoftmax")
def log_softmax(encoder: Encoder, tile: Tile) -> None:
    """LogSoftmax over one axis, which is stored last."""
    x, made = _rows(encoder, tile)
    _expect(tile, x, made, (1 / 16, 127))
    multiplier, shift, least = _exponents(x)
    inverse = Rescale.of(2.0 ** (31 - shift) / multiplier)
    encoder.emit(LogSoftmax(multiplier, shift, least, inverse), (x,), (made,))
    encoder.settle(tile.result, made)


@rule("LpNormalization")
def unit_length(encoder: Encoder, tile: Tile) -> None:
    """LpNormalization by the Euclidean length along one axis, which is stored last."""
    if int(tile.anchor.attributes.get("p", 2)) != 2:
        raise TargetError(f"{tile.anchor.name}: LpNormalization has an integer form for p = 2 only.")
    x, made = _rows(encoder, tile)
    _expect(tile, x, made, (1 / 128, 0))
    encoder.emit(UnitLength(-x.zero_point), (x,), (made,))
    encoder.settle(tile.result, made)


def _expect(tile: Tile, x: Tensor, made: Tensor, coding: tuple[float, int]) -> None:
    """Holds a region of integers to int8, and to the scale and zero point that it can write."""
    if x.is_float:
        return
    if (x.bits, made.bits) != (8, 8) or (made.scale, made.zero_point) != coding:
        scale, zero_point = coding
        raise TargetError(
            f"{tile.anchor.name}: {tile.anchor.op} in integers reads int8 and gives int8 of scale {scale:g} and zero point {zero_point}; "
            f"the plan says {x.encoding} and {made.encoding}."
        )


def _softmax_by_tables(encoder: Encoder, tile: Tile, x: Tensor, made: Tensor) -> None:
    """Softmax of 16 bits: the scales of its tables are TensorFlow Lite's."""
    if (made.bits, made.scale, made.zero_point) != (16, 1 / 32768, 0):
        raise TargetError(
            f"{tile.anchor.name}: softmax of int16 gives int16 of scale 1/32768; the plan says {made.encoding}."
        )
    ten, two, one = 10 / 65535, 2 / 65535, 1 / 65535
    work = SoftmaxByTables(
        Rescale.of(x.scale / ten, tile.rounding),
        of_intervals(math.exp, (ten, 32767), (two, 0)),
        of_intervals(lambda number: 1 / (1 + number), (one, -32768), (two, 0)),
    )
    encoder.emit(work, (x,), (made,))
