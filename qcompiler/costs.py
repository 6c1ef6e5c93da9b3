"""What forms and rows cost on a target: bits of storage, and seconds by a roofline.

A region takes as long as the slower of its arithmetic and its traffic: multiply-accumulates over the device's rate for the
widest format among the row's operands, and bytes of operands and result over the device's bandwidth (Williams, Waterman
and Patterson, "Roofline: An Insightful Visual Performance Model", 2009). Caches, overlap and launch costs are not modelled.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from qcompiler import ops
from qcompiler.assignment import outputs_of, use_value
from qcompiler.errors import TargetError
from qcompiler.ir.encoding import FORMATS

if TYPE_CHECKING:
    from qcompiler.forms import Form
    from qcompiler.ir.node import Value
    from qcompiler.regions import Region
    from qcompiler.target import EncodingSpec, Row, Stored, Target

_SCALE_BITS = 32


def elements(value: Value) -> int:
    """How many elements a constant has, or a computed value for one sample; open dimensions count as 1."""
    if value.data is not None:
        return int(value.data.size)
    dims = value.shape[1:] if value.shape else ()
    return math.prod(dim for dim in dims if isinstance(dim, int))


def code_bits(value: Value, spec: EncodingSpec) -> int:
    """The bits that a value's codes take."""
    return elements(value) * spec.numeric.bits


def own_bits(form: Form, scale_bytes: int | None = None) -> int:
    """What counts as a weight's own bits: its codes and, where groups of channels have tables of their own, the tables.

    Of these there are so many that they may take more than the codes. Scales, and a table for a whole tensor, do not count.

    Args:
        form: The form of a constant.
        scale_bytes: As for `parameter_bits`.
    """
    spec, shape = form.spec, form.value.shape
    bits = code_bits(form.value, spec)
    if spec.group is None or form.axis is None or shape is None:
        return bits
    return bits + int(shape[form.axis] or 0) // spec.group * spec.numeric.levels * number_bits(scale_bytes)


def number_bits(scale_bytes: int | None) -> int:
    """Bits of an entry of a table, which is stored as scales are."""
    return _SCALE_BITS if scale_bytes is None else 8 * scale_bytes


def in_bytes(bits: int) -> int:
    """Bits of whole bytes: every constant begins with a byte of its own."""
    return -(-bits // 8) * 8


def parameter_bits(form: Form, scale_bytes: int | None = None) -> int:
    """The bits that scales, zero points and tables of a form take, and what is subtracted where the bias keeps the offset.

    In ONNX, zero points are stored even where they are all zero: they say what type the codes have.

    Args:
        form: The form.
        scale_bytes: Bytes of a scale and its zero point; None: as in ONNX.
    """
    channels = 1
    if form.axis is not None and form.value.shape is not None:
        size = form.value.shape[form.axis]
        channels = size if isinstance(size, int) else 1
    if form.spec.numeric.kind == "table":
        return _table_bits(form.spec, channels, scale_bytes)
    count = channels if form.spec.block is None else elements(form.value) // form.spec.block
    offset = 2 * _SCALE_BITS if form.spec.offset == "bias" else 0
    if scale_bytes is not None:
        return count * 8 * scale_bytes + offset
    return count * _SCALE_BITS + in_bytes(count * _carrier_bits(form.spec)) + offset


def _table_bits(spec: EncodingSpec, channels: int, scale_bytes: int | None) -> int:
    """The bits of entries and scales. In ONNX there is always a scale, and a number that says where the entries of a table begin."""
    numbers = spec.numeric.levels * (1 if spec.group is None else channels // spec.group)
    scales = channels if spec.granularity == "per-channel" else 0
    if scale_bytes is None:
        numbers += max(scales, 1) + (1 if spec.group is None else channels)
    else:
        numbers += scales
    return numbers * number_bits(scale_bytes)


def _carrier_bits(spec: EncodingSpec) -> int:
    """The bits of one element of the type that a format's codes are stored as where they are not packed."""
    return max(entry.bits for entry in FORMATS.values() if entry.dtype == spec.numeric.dtype)


class CostModel:
    """Seconds, by the chosen device's rates and bandwidth."""

    def __init__(self, target: Target, float_format: str) -> None:
        self.target = target
        self.float_bits = FORMATS[float_format].bits
        self.float_format = float_format
        device = target.chosen
        self._rate, self._bandwidth = dict(device.rate), device.bandwidth
        self._cost, self._stored = dict(device.cost), dict(device.stored)

    @property
    def known(self) -> bool:
        """Whether the descriptor says anything about speed."""
        return bool(self._rate) or self._bandwidth is not None

    def require(self) -> None:
        """Raises a TargetError where there is nothing to tell latency from."""
        if not self.known:
            raise TargetError(
                f"{self.target.label} states neither rates nor a bandwidth for this device, so that there is no latency to limit: leave "
                f"--max-latency (and --minimise latency) out, or give the device `rate` and `bandwidth` in {self.target.file}."
            )

    def region(self, region: Region, row: Row | None) -> float:
        """Seconds of a region that runs as a row; None for plain float."""
        specs = self.target.row_specs(row) if row is not None else {}
        work = self._work(region, row)
        formats = [spec.format for spec in specs.values() if spec.is_quantized and not spec.derived]
        rates = [self._rate[name] for name in formats or [self.float_format] if name in self._rate]
        compute = work / min(rates) if rates else 0.0
        bits = 0.0
        for operand, uses in region.uses.items():
            spec = specs.get(operand)
            width = spec.numeric.bits if spec is not None else self.float_bits
            bits += math.fsum(elements(value) * width for value in dict.fromkeys(map(use_value, uses)))
        written = self.target.output_specs(row)[0] if row is not None else None
        width = written.numeric.bits if written is not None and written.is_quantized else self.float_bits
        bits += math.fsum(elements(value) * width for value in outputs_of(region))
        return max(compute, self._traffic(bits))

    def _work(self, region: Region, row: Row | None) -> float:
        """What a region's arithmetic takes, in the unit of the rates."""
        macs = math.fsum(ops.macs(node) or 0 for node in region.nodes)
        if row is None or region.kernel is None:
            return macs
        cost = self._cost.get(_key(region, row), row.cost)
        if cost is None:
            return macs
        return cost * (macs or math.fsum(elements(value) for value in outputs_of(region)))

    def stored(self, region: Region, row: Row) -> Stored:
        """What the artifact stores for a region that runs as a row, on the chosen device."""
        return self._stored.get(_key(region, row), row.stored)

    def conversion(self, value: Value, spec: EncodingSpec) -> float:
        """Seconds of writing a computed value once more, in another encoding."""
        if value.is_constant:
            return 0.0
        count, rate = elements(value), self._rate.get(spec.format)
        compute = count * self._cost.get("conversion", 0.0) / rate if rate else 0.0
        return max(compute, self._traffic(count * (self.float_bits + spec.numeric.bits)))

    def _traffic(self, bits: float) -> float:
        return bits / 8 / self._bandwidth if self._bandwidth else 0.0


def _key(region: Region, row: Row) -> str:
    """What devices call a row by."""
    return f"{region.kernel.name if region.kernel is not None else ''}/{row.name}"
