"""QuantizeLinear and DequantizeLinear in MIL: `quantize` and `dequantize`, and `constexpr` operators for constants."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from qcompiler.ir.encoding import FORMATS
from qcompiler.ir.functions import LOOKUP
from qcompiler.scale_formats import rounded_scale
from qcompiler.targets.core_ml import sparse
from qcompiler.targets.core_ml.author import Emit
from qcompiler.targets.core_ml.refusals import Unsupported

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qcompiler.ir.node import Node
    from qcompiler.targets.core_ml.author import Author, Var

_CODES = ("int8", "uint8")
"""Types of codes that activations can have, and weights before iOS 18."""
_TURNED = {"uint8": (128, "int8"), "int8": (-128, "uint8")}
"""The zero point with which a type of codes is the other one with 0."""
_BLOCKS_FROM = 9
"""The specification version (iOS 18) that stores 4 bits and scales per block."""
_SCALED_TABLES_FROM = 10
"""The specification version (iOS 26) with which scales behind tables are right, as coremltools says in its passes."""


@dataclass(frozen=True)
class EncodedConstant:
    """A constant stored as codes, which every reader gets in the type that it computes in.

    Attributes:
        codes: The codes, of the constant's shape.
        scale: float32; a number, [channels], or of the codes' rank, per block.
        zero_point: Of the scale's shape, in the codes' type.
        axis: The axis of the channels; None for one scale, and per block.
    """

    codes: NDArray[Any]
    scale: NDArray[np.float32]
    zero_point: NDArray[Any]
    axis: int | None

    def write(self, author: Author, name: str, dtype: np.dtype[Any]) -> Var:
        """The operator that stores it.

        Raises:
            Unsupported: The deployment target has none for these codes.
        """
        if self.codes.dtype.name == "int32":
            real = (self.codes - self._along(self.zero_point)).astype(np.float32) * self._along(self.scale)
            return real.astype(dtype)
        scale = rounded_scale(self.scale, FORMATS[dtype.name])
        if author.specification >= _BLOCKS_FROM:
            return self._blocks(author, name, scale)
        if self.codes.dtype.name not in _CODES or self.scale.ndim > 1:
            raise Unsupported(
                f"{self.codes.dtype} codes and scales per block are stored from iOS 18 and macOS 15 on"
            )
        axis = np.int32(0 if self.axis is None else self.axis)
        return author.builder.constexpr_affine_dequantize(
            quantized_data=self.codes, zero_point=self.zero_point, scale=scale, axis=axis, name=name
        )

    def _blocks(self, author: Author, name: str, scale: NDArray[Any]) -> Var:
        zero, kind = self.zero_point, self.codes.dtype.name
        known = self.codes.astype(np.int32) != self._per_element(zero.astype(np.int32))
        offset = self._along(author.packed(zero, kind)) if zero.astype(np.int32).any() else None
        inputs = {"scale": self._along(scale)} | ({} if offset is None else {"offset": offset})
        if sparse.is_smaller(known, FORMATS[kind].bits):
            codes = author.packed(self.codes[known], kind)
            mask, data = author.builder.constexpr_sparse_blockwise_shift_scale(
                data_mask=author.packed(known, "uint1"), nonzero_data=codes, **inputs, name=f"{name}_known"
            )
            return author.builder.constexpr_sparse_to_dense(nonzero_data=data, mask=mask, name=name)
        codes = author.packed(self.codes, kind)
        return author.builder.constexpr_blockwise_shift_scale(data=codes, **inputs, name=name)

    def _per_element(self, parameter: NDArray[Any]) -> NDArray[Any]:
        """A parameter in the shape of the codes."""
        spread = self._along(parameter)
        for axis, size in enumerate(self.codes.shape):
            spread = np.repeat(spread, size // spread.shape[axis], axis)
        return spread

    def _along(self, parameter: NDArray[Any]) -> NDArray[Any]:
        """A parameter in the rank of the codes."""
        if parameter.ndim == self.codes.ndim and self.axis is None:
            return parameter
        shape = [1] * self.codes.ndim
        if self.axis is not None:
            shape[self.axis] = -1
        return parameter.reshape(shape)


@dataclass(frozen=True)
class LookedUpConstant:
    """A constant stored as codes into tables, whose entries may be scaled per channel.

    Attributes:
        codes: uint8, of the constant's shape.
        table: float32, [groups of channels, 2**bits].
        scale: float32, of the codes' rank or a number.
        first: Where the table of each channel begins among all entries, of the codes' rank; 0 for one table.
    """

    codes: NDArray[Any]
    table: NDArray[np.float32]
    scale: NDArray[np.float32]
    first: NDArray[np.int32]

    def write(self, author: Author, name: str, dtype: np.dtype[Any]) -> Var:
        """The operators that store it.

        Raises:
            Unsupported: The deployment target has none for this table.
        """
        scaled = bool((self.scale != 1).any())
        table, bits = self.table.astype(dtype), self.table.shape[-1].bit_length() - 1
        if scaled and author.specification < _SCALED_TABLES_FROM:
            raise Unsupported("tables with scales are stored from iOS 26 and macOS 26 on")
        if author.specification < _BLOCKS_FROM:
            if bits == 3 or len(table) > 1:
                what = "of 3 bits" if bits == 3 else "for groups of channels"
                raise Unsupported(f"tables {what} are stored from iOS 18 and macOS 15 on")
            shape = np.array(self.codes.shape, np.uint32)
            return author.builder.constexpr_lut_to_dense(
                indices=_packed(self.codes, bits), lut=table[0], shape=shape, name=name
            )
        sizes = self.first.shape or [1] * self.codes.ndim
        entries = table.reshape(*[len(table) if size > 1 else 1 for size in sizes], -1, 1)
        known = self.table.reshape(-1)[self.first + self.codes] != 0
        if not scaled and sparse.is_smaller(known, bits):
            mask, data = author.builder.constexpr_lut_to_sparse(
                indices_mask=author.packed(known, "uint1"), indices_nonzero_data=author.packed(self.codes[known], f"uint{bits}"),
                lut=entries, name=f"{name}_known",
            )  # fmt: skip
            return author.builder.constexpr_sparse_to_dense(nonzero_data=data, mask=mask, name=name)
        indices = author.packed(self.codes, f"uint{bits}")
        looked_up = author.builder.constexpr_lut_to_dense(
            indices=indices, lut=entries, name=f"{name}_entries" if scaled else name
        )
        if not scaled:
            return looked_up
        scale = rounded_scale(self.scale, FORMATS[dtype.name])
        return author.builder.constexpr_blockwise_shift_scale(data=looked_up, scale=scale, name=name)


def _packed(codes: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    """Codes one behind the other, the lowest bits first (constexpr_lut_to_dense of iOS 16)."""
    each = np.unpackbits(codes.reshape(-1, 1), axis=1, count=bits, bitorder="little")
    return np.packbits(each.reshape(-1), bitorder="little")


def _quantize(author: Author, node: Node) -> Var:
    data = author.read(0)
    if isinstance(data, np.ndarray):
        raise Unsupported("it quantizes a constant, which is stored as codes from the start")
    kind, inputs = _parameters(author, node)
    if kind not in _CODES:
        raise Unsupported(f"activations have {' or '.join(_CODES)} codes in Core ML, not {kind}")
    return author.op("quantize", input=data, output_dtype=kind, **inputs)


def _dequantize(author: Author, node: Node) -> Var | EncodedConstant:
    data, scale, zero = node.input(0), author.constant(1), author.constant(2)
    assert scale is not None
    if data is None or data.data is None:
        return author.op("dequantize", input=author.read(0), **_parameters(author, node)[1])
    codes = np.asarray(data.data)
    zero = np.zeros(scale.shape, codes.dtype) if zero is None else zero
    axis = (
        int(node.attributes.get("axis", 1)) % max(codes.ndim, 1)
        if scale.ndim == 1 and not _block(node)
        else None
    )
    return EncodedConstant(codes, scale.astype(np.float32), zero, axis)


def _parameters(author: Author, node: Node) -> tuple[str, dict[str, Any]]:
    """Type of an activation's codes; scale and zero point. A zero point of 0 is left out, which is fast.

    uint8 with a zero point of 128 is int8 with 0, and int8 with -128 is uint8 with 0: they are written so, as coremltools itself would.
    """
    scale, zero = author.constant(1), author.constant(2)
    assert scale is not None
    if scale.size == 1:
        scale = scale.reshape(())
    if scale.ndim > 1 or _block(node):
        raise Unsupported("activations have one scale, or one per channel")
    zero = np.zeros(scale.shape, np.uint8) if zero is None else zero.reshape(scale.shape)
    kind = zero.dtype.name
    inputs: dict[str, Any] = {
        "scale": rounded_scale(scale.astype(np.float32), FORMATS[author.float_type.name])[()]
    }
    if kind in _TURNED and (zero == _TURNED[kind][0]).all():
        kind = _TURNED[kind][1]
    elif zero.any():
        inputs["zero_point"] = zero[()]
    if scale.ndim:
        inputs["axis"] = np.int32(author.axis(1))
    return kind, inputs


def _block(node: Node) -> int:
    return int(node.attributes.get("block_size", 0))


def _look_up(author: Author, node: Node) -> LookedUpConstant:
    codes, table, scale, first = (author.constant(slot) for slot in range(4))
    assert codes is not None
    assert table is not None
    assert scale is not None
    assert first is not None
    return LookedUpConstant(codes, table.reshape(-1, table.shape[-1]), scale, first)


EMITTERS: dict[str, Emit] = {"QuantizeLinear": _quantize, "DequantizeLinear": _dequantize, LOOKUP: _look_up}
