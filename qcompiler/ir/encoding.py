"""Encodings: how the real numbers of a tensor are stored. The one place that quantizes and dequantizes.

Integer formats: ``code = saturate(round_half_even(x / scale) + zero_point)`` and ``x' = (code - zero_point) * scale``,
in float32, which is ONNX QuantizeLinear/DequantizeLinear-21 to the bit. Float formats round to nearest even, saturating,
after a division by the scale where there is one. Lookup tables take the nearest entry, after that division too, and
``x' = table[code] * scale``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

MIN_SCALE = float(np.finfo(np.float32).tiny)
"""The smallest scale emitted: a smaller one would be denormal, which integer hardware and runtimes flush to zero."""


@dataclass(frozen=True)
class Format:
    """A numeric format.

    Attributes:
        name: As written in descriptors and plans.
        kind: "float", "integer" or "table".
        bits: Storage of one element.
        minimum: The lowest code (integer) or finite value (float).
        maximum: The highest.
        dtype: What an array of codes is stored as in memory and in ONNX; uint8 for tables.
    """

    name: str
    kind: str
    bits: int
    minimum: float
    maximum: float
    dtype: np.dtype[Any]

    @property
    def is_integer(self) -> bool:
        """Whether codes are integers with a scale and a zero point."""
        return self.kind == "integer"

    @property
    def is_plain_float(self) -> bool:
        """Whether values are stored as they are, without a scale."""
        return self.kind == "float" and self.bits >= 16

    @property
    def is_signed(self) -> bool:
        """Whether negative codes exist."""
        return self.minimum < 0

    @property
    def middle(self) -> int:
        """The code of zero in symmetric encodings: 0, or half the codes of an unsigned integer."""
        return 0 if self.is_signed or not self.is_integer else 1 << (self.bits - 1)

    @property
    def fills_carrier(self) -> bool:
        """Whether every number of `dtype` is a code, so that QuantizeLinear saturates at the format's own ends."""
        return not self.is_integer or self.bits == min(bits for bits in (4, 8, 16, 32) if bits >= self.bits)

    @property
    def levels(self) -> int:
        """How many codes an integer or table format has."""
        return 1 << self.bits


def _integer(name: str, dtype: Any, bits: int, *, signed: bool) -> Format:
    low = -(1 << (bits - 1)) if signed else 0
    return Format(name, "integer", bits, low, low + (1 << bits) - 1, np.dtype(dtype))


def _float(name: str, dtype: Any, bits: int) -> Format:
    info: Any = ml_dtypes.finfo(dtype)  # type: ignore[no-untyped-call]
    return Format(name, "float", bits, float(info.min), float(info.max), np.dtype(dtype))


FORMATS: Mapping[str, Format] = {
    entry.name: entry
    for entry in (
        _float("float32", np.float32, 32),
        _float("float16", np.float16, 16),
        _float("bfloat16", ml_dtypes.bfloat16, 16),
        _float("float8e4m3", ml_dtypes.float8_e4m3fn, 8),
        _float("float4e2m1", ml_dtypes.float4_e2m1fn, 4),
        _integer("int32", np.int32, 32, signed=True),
        _integer("int16", np.int16, 16, signed=True),
        _integer("uint16", np.uint16, 16, signed=False),
        _integer("int8", np.int8, 8, signed=True),
        _integer("uint8", np.uint8, 8, signed=False),
        _integer("int6", np.int8, 6, signed=True),
        _integer("int5", np.int8, 5, signed=True),
        _integer("int4", ml_dtypes.int4, 4, signed=True),
        _integer("uint4", ml_dtypes.uint4, 4, signed=False),
        _integer("int3", ml_dtypes.int4, 3, signed=True),
        _integer("int2", ml_dtypes.int4, 2, signed=True),
        _integer("uint2", ml_dtypes.uint4, 2, signed=False),
        *(
            Format(f"table{bits}", "table", bits, 0, (1 << bits) - 1, np.dtype(np.uint8))
            for bits in (1, 2, 3, 4, 6, 8)
        ),
    )
}
"""All formats by name. tableN is a lookup table of 2**N float32 entries. ONNX opset 21 has integers of 4 and of 8 bits:
codes of other widths travel in the next wider type."""

FLOAT32 = FORMATS["float32"]


@dataclass(frozen=True, eq=False)
class Encoding:
    """How a tensor is stored. Immutable; arrays are read-only.

    Attributes:
        format: The numeric format.
        scale: float32; rank 0 per tensor, [channels] per channel, the tensor's rank with `axis` divided by `block` per
            block. None for plain floats, and for tables whose entries are the numbers themselves.
        zero_point: Codes' int32 zero points, of the scale's shape. None unless the format is an integer.
        axis: The channel or block axis, not negative. None per tensor.
        block: Elements per block along `axis`; None per tensor, per channel and per group.
        narrow: The lowest code is not used (int8: -127..127).
        table: float32 entries of a table format: [2**bits], or [groups, 2**bits] per group, without a scale.
        group: Channels along `axis` that share a table, one beside the other; None where there is one table, or none.
    """

    format: Format
    scale: NDArray[np.float32] | None = None
    zero_point: NDArray[np.int32] | None = None
    axis: int | None = None
    block: int | None = None
    narrow: bool = False
    table: NDArray[np.float32] | None = None
    group: int | None = None

    def __post_init__(self) -> None:
        for name, dtype in (("scale", np.float32), ("zero_point", np.int32), ("table", np.float32)):
            given = getattr(self, name)
            if given is not None:  # a copy: freezing the caller's own array would be a surprise
                array = np.array(given, dtype)
                array.setflags(write=False)
                object.__setattr__(self, name, array)
        if (self.zero_point is None) != (not self.format.is_integer or self.scale is None):
            raise ValueError(
                f"a zero point goes with the scale of an integer format, not with {self.format.name}"
            )
        if (
            self.zero_point is not None
            and self.scale is not None
            and self.zero_point.shape != self.scale.shape
        ):
            raise ValueError(
                f"scale {self.scale.shape} and zero point {self.zero_point.shape} differ in shape"
            )
        if self.scale is not None and not (np.isfinite(self.scale).all() and (self.scale >= MIN_SCALE).all()):
            raise ValueError("a scale must be finite, positive and not denormal")
        if self.format.kind == "table" and (
            self.table is None or self.table.shape[-1:] != (self.format.levels,)
        ):
            shape = "none" if self.table is None else f"one of shape {list(self.table.shape)}"
            raise ValueError(
                f"{self.format.name} has a table of {self.format.levels} entries, and there is {shape}"
            )
        if (self.group is None) != (self.table is None or self.table.ndim == 1):
            raise ValueError(
                "tables of shape [groups, entries] go with a group, the number of channels that share one"
            )
        if self.group is not None and (self.group < 1 or self.axis is None or self.scale is not None):
            raise ValueError("groups have at least one channel, along an axis, and tables without scales")

    # -- making -------------------------------------------------------------------------------------------

    @classmethod
    def plain(cls, name: str = "float32") -> Encoding:
        """A float stored as it is."""
        return cls(FORMATS[name])

    @classmethod
    def from_range(
        cls,
        format: Format,  # noqa: A002 - the field's name
        low: NDArray[Any] | float,
        high: NDArray[Any] | float,
        *,
        symmetric: bool,
        narrow: bool = False,
        axis: int | None = None,
        block: int | None = None,
    ) -> Encoding:
        """The encoding that covers [low, high], extended to contain zero.

        Symmetric: scale = max(high / max code, low / min code), zero point 0 (the middle code of unsigned formats).
        Affine: scale = (high - low) / (max code - min code), zero point rounded to the nearest code.
        A range of zero width gets scale 1; one so narrow that its scale would be denormal gets `MIN_SCALE`.

        Args:
            format: Integer or scaled float format.
            low: Lower ends: a number, or one per channel or block.
            high: Upper ends, of the same shape.
            symmetric: Whether zero is the middle code.
            narrow: See the class.
            axis: See the class.
            block: See the class.

        Raises:
            ValueError: An end is NaN or infinite.
        """
        low = np.minimum(np.asarray(low, np.float64), 0.0)
        high = np.maximum(np.asarray(high, np.float64), 0.0)
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            raise ValueError("a range must be finite")
        if not format.is_integer:
            scale = _safe_scale(np.maximum(-low, high) / format.maximum)
            return cls(format, scale, None, axis, block)
        least, most = format.minimum + narrow, format.maximum
        if symmetric:
            below = format.middle - least
            scale = _safe_scale(np.maximum(high / (most - format.middle), -low / below if below else high))
            zero = np.full(scale.shape, format.middle, np.int32)
        else:
            scale = _safe_scale((high - low) / (most - least))
            zero = np.clip(np.rint(least - low / scale.astype(np.float64)), least, most).astype(np.int32)
        return cls(format, scale, zero, axis, block, narrow)

    # -- reading ------------------------------------------------------------------------------------------

    @property
    def is_plain_float(self) -> bool:
        """Whether nothing is quantized."""
        return self.format.is_plain_float

    @property
    def granularity(self) -> str:
        """One of "per-tensor", "per-channel", "per-block" and "per-group"."""
        if self.group is not None:
            return "per-group"
        if self.block is not None:
            return "per-block"
        return "per-tensor" if self.axis is None else "per-channel"

    @property
    def least_code(self) -> int:
        """The lowest code in use."""
        return int(self.format.minimum) + self.narrow

    def real_range(self) -> tuple[float, float]:
        """The lowest and highest real number that the encoding can hold, over all channels."""
        if self.table is not None:
            entries = self.table if self.scale is None else np.multiply.outer(self.scale, self.table)
            return float(entries.min()), float(entries.max())
        if self.scale is None:
            return self.format.minimum, self.format.maximum
        zero = np.float64(0) if self.zero_point is None else self.zero_point.astype(np.float64)
        least = self.least_code if self.format.is_integer else self.format.minimum
        ends = (least - zero) * self.scale, (self.format.maximum - zero) * self.scale
        return float(ends[0].min()), float(ends[1].max())

    # -- arithmetic ---------------------------------------------------------------------------------------

    def quantize(self, x: NDArray[Any]) -> NDArray[Any]:
        """Codes of a float32 array, in `format.dtype`.

        Infinities saturate, but stay infinite in plain floats, where large numbers become infinite as in ONNX Cast.
        NaN becomes the code of zero in integers and tables, and stays NaN in floats that have one.
        """
        x = np.asarray(x, np.float32)
        if self.table is not None:
            scaled = x if self.scale is None else x / self._spread(self.scale, x)
            return self._nearest_entry(np.where(np.isnan(scaled), np.float32(0), scaled))
        with np.errstate(over="ignore"):
            if self.is_plain_float:
                return x.astype(self.format.dtype)
            scaled = x if self.scale is None else x / self._spread(self.scale, x)
        if not self.format.is_integer:
            scaled = np.clip(scaled, self.format.minimum, self.format.maximum)
            return np.asarray(scaled, self.format.dtype)
        integers = self._rounded(scaled, x) + self._zero(x)
        return np.asarray(integers.astype(np.int32), self.format.dtype)

    def dequantize(self, codes: NDArray[Any]) -> NDArray[np.float32]:
        """The real numbers that codes stand for, float32."""
        if self.table is not None:
            entries = self._entries(codes)
            return entries if self.scale is None else entries * self._spread(self.scale, codes)
        if self.scale is None:
            return codes.astype(np.float32)
        if not self.format.is_integer:
            centred = codes.astype(np.float32)
        else:
            assert self.zero_point is not None
            centred = (codes.astype(np.int32) - self._spread(self.zero_point, codes)).astype(np.float32)
        real: NDArray[np.float32] = centred * self._spread(self.scale, codes)
        return real

    def fake_quantize(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """The values of x after a round trip through its codes."""
        if not self.format.is_integer or self.scale is None:
            return self.dequantize(self.quantize(x))
        x = np.asarray(x, np.float32)
        scale = self._spread(self.scale, x)
        with np.errstate(over="ignore"):
            codes = self._rounded(x / scale, x)
        result: NDArray[np.float32] = np.multiply(codes, scale, dtype=np.float32)
        return result

    def _rounded(self, scaled: NDArray[Any], x: NDArray[Any]) -> NDArray[Any]:
        """Codes less their zero points, in a float type that holds them exactly."""
        zero = self._zero(x)
        if np.isnan(scaled).any():
            scaled = np.where(np.isnan(scaled), np.float32(0), scaled)
        codes = np.rint(scaled)
        if self.format.bits > 16:
            codes = codes.astype(np.float64)
        clipped: NDArray[Any] = np.clip(codes, self.least_code - zero, self.format.maximum - zero)
        return clipped

    def _zero(self, x: NDArray[Any]) -> NDArray[Any]:
        """Zero points in a float type that holds all sums of codes: below 2**24 single precision is exact."""
        assert self.zero_point is not None
        exact = np.float32 if self.format.bits <= 16 else np.float64
        return self._spread(self.zero_point, x).astype(exact)

    def _spread(self, parameter: NDArray[Any], x: NDArray[Any]) -> NDArray[Any]:
        """A parameter in a shape that broadcasts against x."""
        if self.axis is None:
            return parameter
        if self.block is not None:
            repeated = np.repeat(parameter, self.block, axis=self.axis)
            return np.take(repeated, np.arange(x.shape[self.axis]), axis=self.axis)
        shape = [1] * x.ndim
        shape[self.axis] = -1
        return parameter.reshape(shape)

    def _nearest_entry(self, x: NDArray[np.float32]) -> NDArray[np.uint8]:
        assert self.table is not None
        if self.group is None or self.axis is None:
            return _nearest(x.reshape(-1), self.table).reshape(x.shape)
        parts = np.split(x, len(self.table), self.axis)
        codes = [
            _nearest(part.reshape(-1), table).reshape(part.shape)
            for part, table in zip(parts, self.table, strict=True)
        ]
        return np.concatenate(codes, self.axis)

    def first_entries(self, rank: int) -> NDArray[np.int32]:
        """Where the table of each channel begins among the entries of all tables.

        Args:
            rank: Of the tensor.

        Returns:
            [channels] along `axis`, of that rank; a number where there is one table.
        """
        if self.group is None or self.axis is None or self.table is None:
            return np.zeros((), np.int32)
        groups, levels = self.table.shape
        starts = np.repeat(np.arange(groups, dtype=np.int32) * np.int32(levels), self.group)
        return np.expand_dims(starts, tuple(axis for axis in range(rank) if axis != self.axis))

    def _entries(self, codes: NDArray[Any]) -> NDArray[np.float32]:
        assert self.table is not None
        entries: NDArray[np.float32] = self.table.reshape(-1)[
            self.first_entries(codes.ndim) + codes.astype(np.int32)
        ]
        return entries

    # -- identity and files -------------------------------------------------------------------------------

    def _key(self) -> tuple[Any, ...]:
        arrays = tuple(
            None if array is None else (array.shape, array.tobytes())
            for array in (self.scale, self.zero_point, self.table)
        )
        return (self.format.name, self.axis, self.block, self.group, self.narrow, *arrays)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Encoding) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def to_json(self) -> dict[str, Any]:
        """A JSON object from which `from_json` makes the same encoding, to the bit."""
        entry: dict[str, Any] = {"format": self.format.name}
        for name in ("axis", "block", "group"):
            if getattr(self, name) is not None:
                entry[name] = getattr(self, name)
        if self.narrow:
            entry["narrow"] = True
        for name in ("scale", "zero_point", "table"):
            array = getattr(self, name)
            if array is not None:
                entry[name] = array.tolist()
        return entry

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Encoding:
        """Reads what `to_json` wrote.

        Raises:
            KeyError: The format is missing or unknown.
            ValueError: A scale is not positive and finite, or a table's shape does not go with the rest.
        """
        scale, zero, table = entry.get("scale"), entry.get("zero_point"), entry.get("table")
        return cls(
            FORMATS[entry["format"]],
            None if scale is None else np.asarray(scale, np.float32),
            None if zero is None else np.asarray(zero, np.int32),
            entry.get("axis"),
            entry.get("block"),
            bool(entry.get("narrow", False)),
            None if table is None else np.asarray(table, np.float32),
            entry.get("group"),
        )

    def __str__(self) -> str:
        if self.is_plain_float:
            return self.format.name
        text = f"{self.format.name} {self.granularity}"
        if self.axis is not None:
            size = self.block or self.group
            text += f"(axis {self.axis}{f', {size}' if size else ''})"
        if self.scale is not None:
            low, high = float(self.scale.min()), float(self.scale.max())
            text += f" scale {low:.4g}" + (f"..{high:.4g}" if high != low else "")
        if self.zero_point is not None and self.zero_point.any():
            low, high = int(self.zero_point.min()), int(self.zero_point.max())
            text += f" zero point {low}" + (f"..{high}" if high != low else "")
        return text


def _safe_scale(scale: NDArray[np.float64]) -> NDArray[np.float32]:
    bounded = np.clip(np.where(scale > 0, scale, 1.0), MIN_SCALE, float(np.finfo(np.float32).max))
    return np.asarray(bounded, np.float32)


def _nearest(x: NDArray[np.float32], table: NDArray[np.float32]) -> NDArray[np.uint8]:
    order = np.argsort(table, kind="stable")
    ordered = table[order]
    edges = (ordered[1:].astype(np.float64) + ordered[:-1]) / 2
    return order[np.searchsorted(edges, x)].astype(np.uint8)


def block_range(x: NDArray[Any], axis: int, block: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lowest and highest element of each block along an axis; the last block may be shorter."""
    starts = np.arange(0, x.shape[axis], block)
    wide = x.astype(np.float64)
    return np.minimum.reduceat(wide, starts, axis=axis), np.maximum.reduceat(wide, starts, axis=axis)


def channel_range(x: NDArray[Any], axis: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lowest and highest element of each channel."""
    others = tuple(dim for dim in range(x.ndim) if dim != axis)
    return x.min(axis=others).astype(np.float64), x.max(axis=others).astype(np.float64)
