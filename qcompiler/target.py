"""The target model: what a piece of hardware executes, as a table of kernels.

A target is a `descriptor.toml`, which `qcompiler.descriptor` reads into the frozen dataclasses below: their fields are the
file's keys. docs/examples/my_npu.toml walks through a whole one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from qcompiler.errors import suggest
from qcompiler.ir.encoding import FORMATS, Format
from qcompiler.patterns import Pattern

FLOAT = "float"
"""In rows: the operand is a float, of whatever format floats have in this compilation."""


@dataclass(frozen=True)
class EncodingSpec:
    """Which encodings an operand may have: an encoding without its numbers.

    Attributes:
        format: Numeric format.
        symmetric: Zero is the middle code.
        granularity: How many scales: "per-tensor", "per-channel", "per-block"; or, of tables, one "per-group" of channels.
        block: Elements per block, for "per-block".
        group: Channels that share a table, for "per-group".
        narrow: The lowest code is not used.
        scale: A fixed scale (with `zero_point`): the encoding is given, not chosen.
        zero_point: See `scale`.
        offset: Where an affine encoding keeps its offset: in the "code" (a zero point), or in the "bias" of the consumer: the
            offset is subtracted before quantizing with zero point 0, and every consumer adds its effect back.
        derived: Operand names: the scale is the product of theirs, the zero point 0 (int32 biases).
        source: Where this is documented or was measured.
    """

    format: str
    symmetric: bool = True
    granularity: Literal["per-tensor", "per-channel", "per-block", "per-group"] = "per-tensor"
    block: int | None = None
    group: int | None = None
    narrow: bool = False
    scale: float | None = None
    zero_point: int | None = None
    offset: Literal["code", "bias"] = "code"
    derived: tuple[str, ...] = ()
    source: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise ValueError(f"format {self.format!r} is unknown{suggest(self.format, FORMATS)}")
        for key, of in (("block", "element"), ("group", "channel")):
            size = getattr(self, key)
            if (self.granularity == f"per-{key}") != (size is not None):
                raise ValueError(f"{key} is required for, and only for, granularity per-{key}")
            if size is not None and size < 1:
                raise ValueError(f"{key} is {size}; a {key} has at least one {of}")
        if self.group is not None and self.numeric.kind != "table":
            raise ValueError(f"granularity per-group is for tables; {self.format} has none")
        if self.scale is not None and not 0 < self.scale < math.inf:
            raise ValueError(f"scale is {self.scale}; a fixed scale must be positive and finite")
        if self.scale is not None and self.granularity != "per-tensor":
            raise ValueError("a fixed scale is for granularity per-tensor")
        if self.zero_point is not None and self.scale is None:
            raise ValueError("a fixed zero_point needs a fixed scale")
        if self.zero_point is not None and not self._is_code(self.zero_point):
            raise ValueError(f"zero_point {self.zero_point} is no code of {self.format}")
        if self.derived and self.scale is not None:
            raise ValueError("a scale is either fixed or derived")
        if self.offset == "bias" and (self.symmetric or self.granularity != "per-tensor"):
            raise ValueError('offset "bias" is for affine per-tensor encodings: symmetric = false')

    def _is_code(self, code: int) -> bool:
        return self.numeric.is_integer and self.numeric.minimum <= code <= self.numeric.maximum

    @property
    def numeric(self) -> Format:
        """The numeric format."""
        return FORMATS[self.format]

    @property
    def is_quantized(self) -> bool:
        """Whether it is anything but a plain float."""
        return not self.numeric.is_plain_float

    def __str__(self) -> str:
        if not self.is_quantized:
            return self.format
        affine = "affine" if self.offset == "code" else "affine (offset in the bias)"
        kind = "fixed" if self.scale is not None else "symmetric" if self.symmetric else affine
        size = self.block or self.group
        return f"{self.format} {kind} {self.granularity}{f' of {size}' if size else ''}"


FLOAT_SPEC = EncodingSpec("float32")


@dataclass(frozen=True)
class Stored:
    """What an artifact stores for a region beside codes, floats, scales and zero points.

    Attributes:
        channel: Bytes per output channel of its weight: factors of accumulators, the upper halves of wide biases.
        whole: Bytes whatever its size: a table.
    """

    channel: int = 0
    whole: int = 0

    def __post_init__(self) -> None:
        if self.channel < 0 or self.whole < 0:
            raise ValueError("channel and whole are numbers of bytes, from 0 on")


@dataclass(frozen=True)
class Row:
    """One combination of operand encodings that a kernel executes.

    Attributes:
        name: Unique in the kernel.
        operands: Operand name to an entry of [encoding], or "float"; operands left out are float (if of float type). In the
            file, a list of entries stands for one row each, of all combinations, with `{operand}` in the name replaced.
        output: Encodings that the result can be stored in, the preferred one first.
        same: Operands (or "output") that share one encoding.
        limits: Conditions beyond the kernel's: a predicate (`check`, see `qcompiler.predicates`), its parameters, and perhaps
            a `reason` that replaces its own explanation.
        cost: Work per multiply-accumulate, in the unit of the devices' rates; of rows that accumulate nothing, per element of
            the result. None: one per multiply-accumulate. A device's own `cost` comes first.
        without: Features of devices that cannot execute the row, each with the reason.
        stored: What the artifact stores for a region that runs as this row. A device's own `stored` comes first.
        source: The document or measurement that says so.
        verified: The test that exercised the row against the real consumer; empty: shown as unverified.
    """

    name: str
    operands: Mapping[str, str]
    output: tuple[str, ...] = (FLOAT,)
    same: tuple[str, ...] = ()
    limits: tuple[Mapping[str, Any], ...] = ()
    cost: float | None = None
    without: Mapping[str, str] = field(default_factory=dict)
    stored: Stored = Stored()
    source: str = ""
    verified: str = ""


@dataclass(frozen=True)
class Kernel:
    """What the hardware executes in one go.

    Attributes:
        name: Unique in the target.
        pattern: The ops it covers, in the notation of `qcompiler.patterns`; edges inside are never quantized.
        row: Its rows, the preferred one first.
        limits: Conditions on every match.
        quantize: "always": wherever legal. "when-consumed": only where a consumer of the result asks for it.
        rounding: How its integer rows round accumulators to codes: "double" (the product to 32 bits, then the shift), "single"
            (once) or "away" (the product with the real factor, halves away from zero); see `qcompiler.fixed_point`.
        scales: The precision in which products and quotients of scales are computed before they become factors; "mixed": products
            in float32, quotients in float64.
        mean: Whether the factor of a mean is found from the "real" quotient by the count, or the multiplier of the scales is divided
            by it in "integer"s, which rounds more results twice.
        functions: How functions of one variable become codes: tables whose entries are rounded with halves to "even" or, of function
            values in float32, "away" from zero (16-bit ones lie on lines between the entries of a small table); tables by formulas
            of their "own" (`qcompiler.integer.formulas`); or, for piecewise linear ones, "factors" applied to the codes.
        positions: Where resized images are read in between: at "real" positions, with halves rounded up, or at "integer" multiples of
            the ratio of sizes in 1/1024, with halves rounded away from zero.
        note: Why the kernel has no (other) quantized rows, where people would expect some.
        source: The document or measurement that says so.
    """

    name: str
    pattern: str
    row: tuple[Row, ...] = ()
    limits: tuple[Mapping[str, Any], ...] = ()
    quantize: Literal["always", "when-consumed"] = "always"
    rounding: Literal["double", "single", "away"] = "double"
    scales: Literal["float64", "float32", "mixed"] = "float64"
    mean: Literal["real", "integer"] = "real"
    functions: Literal["even", "away", "own", "factors"] = "even"
    positions: Literal["real", "integer"] = "real"
    note: str = ""
    source: str = ""

    @cached_property
    def compiled(self) -> Pattern:
        """The pattern, parsed."""
        return Pattern(self.pattern)


@dataclass(frozen=True)
class Device:
    """One piece of hardware of the family.

    Attributes:
        title: What people call it.
        core: Another device that it is built around: what this one leaves out (formats, features, rates, costs, what is stored,
            bandwidth, code) is that one's.
        formats: Formats that its arithmetic units take; rows with others are not legal on it.
        features: What sets its instructions apart, in the descriptor's own words; rows may be `without` some.
        rate: Format to multiply-accumulates per second, or to the unit of `cost` per second.
        cost: `kernel/row` to the row's cost on this device (see `Row.cost`); `conversion` to that of writing an element once more
            in another encoding.
        stored: `kernel/row` to what is stored for the row on this device (see `Row.stored`).
        bandwidth: Bytes per second of its memory.
        memory: On-chip bytes for what is computed.
        flash: Bytes for code and constants, where those lie apart.
        code: Bytes of code that the kernels of a usual network take, where code is written: an estimate.
        note: A caveat that reports show.
        source: Where this is documented or was measured.
    """

    title: str = ""
    core: str = ""
    formats: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    rate: Mapping[str, float] = field(default_factory=dict)
    cost: Mapping[str, float] = field(default_factory=dict)
    stored: Mapping[str, Stored] = field(default_factory=dict)
    bandwidth: float | None = None
    memory: int | None = None
    flash: int | None = None
    code: int = 0
    note: str = ""
    source: str = ""


@dataclass(frozen=True)
class TargetOption:
    """Something about the artifact that users may choose (`--target-option NAME=VALUE`) and that decides no precision.

    Attributes:
        accepted: What a choice may be; the first one is the default.
        meaning: What it is about, one sentence.
        takes: A "choice" of those accepted; any "text", or the path of a text "file", neither of which has to be given.
    """

    accepted: tuple[str, ...] = ()
    meaning: str = ""
    takes: Literal["choice", "text", "file"] = "choice"

    def __post_init__(self) -> None:
        if self.takes != "choice" and self.accepted:
            raise ValueError(f"accepted is for choices, and what takes a {self.takes} takes any")
        if self.takes == "choice" and not self.accepted:
            raise ValueError("accepted is empty; the first entry is the default")

    @property
    def default(self) -> str:
        """What holds where nothing is given; texts and files are empty then."""
        return self.accepted[0] if self.takes == "choice" else ""

    @property
    def offer(self) -> str:
        """What it may be, for people."""
        return {"choice": " or ".join(self.accepted), "text": "a text", "file": "a file"}[self.takes]


@dataclass(frozen=True)
class QdqStyle:
    """How the plan is written as QuantizeLinear/DequantizeLinear for this target's consumer.

    Attributes:
        passthrough: Whether ops that keep values (reshape, max pooling) get Q/DQ "both" before and after, or "before" only.
    """

    passthrough: Literal["both", "before"] = "both"


@dataclass(frozen=True)
class Target:
    """A whole descriptor. See the module.

    Attributes:
        schema: Version of the descriptor format, 1.
        name: As given to --target.
        title: One line for people.
        extends: Name or file of a target whose entries these replace.
        artifact: The file or folder that lowering writes; empty: reference.onnx is all there is.
        default_device: The device when none is asked for; empty: all formats are legal.
        float_formats: What may remain float, and in which formats; the first is the default.
        layout: "nchw" or "nhwc".
        io: Whether graph inputs and outputs stay "float" or take the graph's own "quantized" encodings.
        io_types: What inputs and outputs may be in the artifact, the first one by default; empty: there is nothing to choose.
        option: What else users may choose about the artifact, by name.
        scale_bytes: Bytes that the artifact stores for a scale and its zero point; None: as ONNX does, a float32 and a code.
        scale_format: What the artifact stores scales in: "float32", or the format of what stays "float".
        encoding: Named encodings for the rows.
        device: Devices by name.
        kernel: The kernel table, preferred kernels first among matches of equal length.
        qdq: How QDQ is written.
        prepare: Passes that this target wants before tiling, as in a pipeline: `name{option=value}`.
        source: Where the descriptor's facts come from.
        file: The descriptor's path (no key of it).
        chosen_device: The device compiled for (no key either).
    """

    schema: int
    name: str
    title: str = ""
    extends: str = ""
    artifact: str = ""
    default_device: str = ""
    float_formats: tuple[str, ...] = ("float32",)
    layout: Literal["nchw", "nhwc"] = "nchw"
    io: Literal["float", "quantized"] = "float"
    io_types: tuple[str, ...] = ()
    option: Mapping[str, TargetOption] = field(default_factory=dict)
    scale_bytes: int | None = None
    scale_format: Literal["float32", "float"] = "float32"
    encoding: Mapping[str, EncodingSpec] = field(default_factory=dict)
    device: Mapping[str, Device] = field(default_factory=dict)
    kernel: tuple[Kernel, ...] = ()
    qdq: QdqStyle = QdqStyle()
    prepare: tuple[str, ...] = ()
    source: str = ""
    file: str = field(default="", metadata={"key": False})
    chosen_device: str = field(default="", metadata={"key": False})

    def spec(self, name: str) -> EncodingSpec:
        """The encoding of a name used in rows."""
        return FLOAT_SPEC if name == FLOAT else self.encoding[name]

    def row_specs(self, row: Row) -> dict[str, EncodingSpec]:
        """Operand name to encoding, for the operands that a row names."""
        return {operand: self.spec(name) for operand, name in row.operands.items()}

    def output_specs(self, row: Row) -> tuple[EncodingSpec, ...]:
        """The encodings that a row's result can be stored in, preferred first."""
        return tuple(self.spec(name) for name in row.output)

    def is_quantized(self, row: Row) -> bool:
        """Whether a row computes on anything but floats."""
        return any(spec.is_quantized for spec in self.row_specs(row).values())

    @property
    def chosen(self) -> Device:
        """The device compiled for; one of which nothing is known where none is chosen."""
        return self.device.get(self.chosen_device, Device())

    @property
    def label(self) -> str:
        """Name and device, as given to --target."""
        return f"{self.name}:{self.chosen_device}" if self.chosen_device else self.name

    def device_refusal(self, row: Row) -> str | None:
        """Why the chosen device cannot execute a row, or None."""
        device = self.chosen
        for feature in device.features:
            if feature in row.without:
                return f"{self.chosen_device} ({feature}): {row.without[feature]}"
        if not device.formats:
            return None
        specs = [*self.row_specs(row).values(), *self.output_specs(row)[:1]]
        for spec in specs:
            if spec.is_quantized and spec.format not in device.formats and not spec.derived:
                return f"{self.chosen_device} has no {spec.format} arithmetic (it has {', '.join(device.formats)})"
        return None
