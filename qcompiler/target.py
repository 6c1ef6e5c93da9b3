"""The target model: what a piece of hardware executes, as a table of kernels.

A target is a `descriptor.toml`. `load_target` reads one into the frozen dataclasses below, whose fields are the file's
keys; docs/targets/writing.md walks through a whole one.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from qcompiler import ops
from qcompiler.errors import TargetError, suggest
from qcompiler.ir.encoding import FORMATS, Format
from qcompiler.patterns import Pattern, PatternSyntaxError
from qcompiler.predicates import PREDICATES
from qcompiler.schema import SchemaReader

FLOAT = "float"
"""In rows: the operand is a float, of whatever format floats have in this compilation."""

Resolve = Callable[[str], Path | None]
"""Maps a target's name to its descriptor."""

_SCHEMA = 1


@dataclass(frozen=True)
class EncodingSpec:
    """Which encodings an operand may have: an encoding without its numbers.

    Attributes:
        format: Numeric format.
        symmetric: Zero is the middle code.
        granularity: How many scales: "per-tensor", "per-channel", "per-block".
        block: Elements per block, for "per-block".
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
    granularity: Literal["per-tensor", "per-channel", "per-block"] = "per-tensor"
    block: int | None = None
    narrow: bool = False
    scale: float | None = None
    zero_point: int | None = None
    offset: Literal["code", "bias"] = "code"
    derived: tuple[str, ...] = ()
    source: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise ValueError(f"format {self.format!r} is unknown{suggest(self.format, FORMATS)}")
        if (self.granularity == "per-block") != (self.block is not None):
            raise ValueError("block is required for, and only for, granularity per-block")
        if self.scale is not None and not self.scale > 0:
            raise ValueError("a fixed scale must be positive")
        if self.offset == "bias" and (self.symmetric or self.granularity != "per-tensor"):
            raise ValueError('offset "bias" is for affine per-tensor encodings: symmetric = false')

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
        return f"{self.format} {kind} {self.granularity}{f' of {self.block}' if self.block else ''}"


FLOAT_SPEC = EncodingSpec("float32")


@dataclass(frozen=True)
class Row:
    """One combination of operand encodings that a kernel executes.

    Attributes:
        name: Unique in the kernel.
        operands: Operand name to an entry of [encoding], or "float"; operands left out are float (if of float type).
        output: Encodings that the result can be stored in, the preferred one first.
        same: Operands (or "output") that share one encoding.
        limits: Conditions beyond the kernel's: a predicate (`check`, see `qcompiler.predicates`), its parameters, and perhaps
            a `reason` that replaces its own explanation.
        cost: Instructions (or any unit the target states) per multiply-accumulate or element.
        source: The document or measurement that says so.
        verified: The test that exercised the row against the real consumer; empty: shown as unverified.
    """

    name: str
    operands: Mapping[str, str]
    output: tuple[str, ...] = (FLOAT,)
    same: tuple[str, ...] = ()
    limits: tuple[Mapping[str, Any], ...] = ()
    cost: float = 1.0
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
        note: Why the kernel has no (other) quantized rows, where people would expect some.
        source: The document or measurement that says so.
    """

    name: str
    pattern: str
    row: tuple[Row, ...] = ()
    limits: tuple[Mapping[str, Any], ...] = ()
    quantize: Literal["always", "when-consumed"] = "always"
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
        formats: Formats that its arithmetic units take; rows with others are not legal on it.
        rate: Format to multiply-accumulates per second.
        bandwidth: Bytes per second of its memory.
        memory: On-chip bytes.
        note: A caveat that reports show.
        source: Where this is documented or was measured.
    """

    title: str = ""
    formats: tuple[str, ...] = ()
    rate: Mapping[str, float] = field(default_factory=dict)
    bandwidth: float | None = None
    memory: int | None = None
    note: str = ""
    source: str = ""


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
        encoding: Named encodings for the rows.
        device: Devices by name.
        kernel: The kernel table, preferred kernels first among matches of equal length.
        qdq: How QDQ is written.
        prepare: Passes that this target wants before tiling, as in a pipeline: `name{option=value}`.
        source: Where the descriptor's facts come from.
        file: The descriptor's path.
        chosen_device: The device compiled for.
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
    encoding: Mapping[str, EncodingSpec] = field(default_factory=dict)
    device: Mapping[str, Device] = field(default_factory=dict)
    kernel: tuple[Kernel, ...] = ()
    qdq: QdqStyle = QdqStyle()
    prepare: tuple[str, ...] = ()
    source: str = ""
    file: str = ""
    chosen_device: str = ""

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
    def label(self) -> str:
        """Name and device, as given to --target."""
        return f"{self.name}:{self.chosen_device}" if self.chosen_device else self.name

    def device_refusal(self, row: Row) -> str | None:
        """Why the chosen device cannot execute a row, or None."""
        device = self.device.get(self.chosen_device)
        if device is None or not device.formats:
            return None
        specs = [*self.row_specs(row).values(), *(spec for spec in self.output_specs(row)[:1])]
        for spec in specs:
            if spec.is_quantized and spec.format not in device.formats and not spec.derived:
                return f"{self.chosen_device} has no {spec.format} arithmetic (it has {', '.join(device.formats)})"
        return None


def load_target(file: Path, device: str = "", resolve: Resolve | None = None) -> Target:
    """Reads a descriptor.

    Args:
        file: The descriptor.toml.
        device: The device to compile for; the descriptor's default when empty.
        resolve: Maps the name in `extends` to the file of that descriptor.

    Raises:
        TargetError: Names the file, the key and what is accepted.
    """
    table = _read_table(file, resolve, ())
    reader = SchemaReader(str(file), TargetError)
    target = reader.read(Target, {**table, "file": str(file)})
    if target.schema != _SCHEMA:
        raise reader.fail("schema", f"{target.schema} is not accepted; this qcompiler reads schema {_SCHEMA}")
    _check(target, reader)
    chosen = device or target.default_device
    if chosen and chosen not in target.device:
        raise TargetError(
            f"The target {target.name} has no device {chosen!r}{suggest(chosen, target.device)}"
        )
    return dataclasses.replace(target, chosen_device=chosen)


def _read_table(file: Path, resolve: Resolve | None, seen: tuple[Path, ...]) -> dict[str, Any]:
    try:
        with file.open("rb") as stream:
            table = tomllib.load(stream)
    except tomllib.TOMLDecodeError as error:
        raise TargetError(f"{file}: this is not valid TOML: {error}") from error
    except OSError as error:
        raise TargetError(f"{file}: the descriptor cannot be read: {error.strerror}") from error
    base = table.get("extends")
    if not base:
        return table
    parent = Path(base) if base.endswith(".toml") else (resolve(base) if resolve else None)
    if parent is not None and not parent.is_absolute():
        parent = file.parent / parent
    if parent is None or parent in (*seen, file):
        raise TargetError(
            f"{file}: extends: {base!r} is no known target, no descriptor file, or extends this one"
        )
    return _merge(_read_table(parent, resolve, (*seen, file)), table)


def _merge(base: dict[str, Any], table: dict[str, Any]) -> dict[str, Any]:
    """The base's entries, replaced by the table's: tables key by key, kernels by name."""
    merged = dict(base)
    for key, value in table.items():
        if key == "kernel":
            names = {kernel.get("name") for kernel in value if isinstance(kernel, dict)}
            merged[key] = [
                *value,
                *(kernel for kernel in base.get(key, []) if kernel.get("name") not in names),
            ]
        elif isinstance(value, dict) and isinstance(base.get(key), dict):
            merged[key] = {**base[key], **value}
        else:
            merged[key] = value
    return merged


def _check(target: Target, reader: SchemaReader) -> None:
    names: set[str] = set()
    for formats, key in [
        (target.float_formats, "float_formats"),
        *((d.formats, f"device.{n}.formats") for n, d in target.device.items()),
    ]:
        for name in formats:
            if name not in FORMATS:
                raise reader.fail(key, f"format {name!r} is unknown{suggest(name, FORMATS)}")
    for index, kernel in enumerate(target.kernel):
        key = f"kernel[{index}] ({kernel.name})"
        if kernel.name in names:
            raise reader.fail(f"{key}.name", "another kernel has this name")
        names.add(kernel.name)
        _check_kernel(target, kernel, key, reader)


def _check_kernel(target: Target, kernel: Kernel, key: str, reader: SchemaReader) -> None:
    try:
        pattern = kernel.compiled
    except PatternSyntaxError as error:
        raise reader.fail(f"{key}.pattern", str(error)) from error
    for op in {op for step in pattern.steps for op in step.call.ops}:
        if "::" not in op and not ops.is_known(op):
            raise reader.fail(
                f"{key}.pattern", f"the operator {op!r} is not in the op table{suggest(op, ops.TABLE)}"
            )
    _check_limits(kernel.limits, pattern.operand_names, f"{key}.limits", reader)
    row_names: set[str] = set()
    for index, row in enumerate(kernel.row):
        where = f"{key}.row[{index}] ({row.name})"
        if row.name in row_names:
            raise reader.fail(f"{where}.name", "another row of this kernel has this name")
        row_names.add(row.name)
        for operand, encoding in row.operands.items():
            if operand not in pattern.operand_names:
                raise reader.fail(
                    f"{where}.operands.{operand}",
                    f"the pattern binds no such operand{suggest(operand, pattern.operand_names)}",
                )
            _check_encoding(target, encoding, f"{where}.operands.{operand}", reader)
        for encoding in row.output:
            _check_encoding(target, encoding, f"{where}.output", reader)
        for operand in row.same:
            if operand not in (*pattern.operand_names, "output"):
                raise reader.fail(
                    f"{where}.same",
                    f"{operand!r} is no operand{suggest(operand, (*pattern.operand_names, 'output'))}",
                )
        _check_limits(row.limits, pattern.operand_names, f"{where}.limits", reader)


def _check_encoding(target: Target, name: str, key: str, reader: SchemaReader) -> None:
    if name != FLOAT and name not in target.encoding:
        raise reader.fail(
            key, f"the encoding {name!r} is not defined{suggest(name, [FLOAT, *target.encoding])}"
        )


def _check_limits(
    limits: tuple[Mapping[str, Any], ...], operands: tuple[str, ...], key: str, reader: SchemaReader
) -> None:
    for index, limit in enumerate(limits):
        where = f"{key}[{index}]"
        name = limit.get("check")
        if name not in PREDICATES:
            raise reader.fail(
                f"{where}.check", f"the predicate {name!r} is unknown{suggest(str(name), PREDICATES)}"
            )
        accepted = {"check", "reason", *PREDICATES[name].parameters}
        for parameter in limit:
            if parameter not in accepted:
                raise reader.fail(
                    f"{where}.{parameter}",
                    f"the predicate {name} takes no such parameter{suggest(parameter, accepted)}",
                )
        missing = [parameter for parameter in PREDICATES[name].required if parameter not in limit]
        if missing:
            raise reader.fail(f"{where}.{missing[0]}", f"the predicate {name} requires this parameter")
        for operand in (limit.get("operand"), *limit.get("operands", ())):
            if operand is not None and operand not in (*operands, "output"):
                raise reader.fail(
                    f"{where}.operand",
                    f"the pattern binds no operand {operand!r}{suggest(operand, operands)}",
                )
