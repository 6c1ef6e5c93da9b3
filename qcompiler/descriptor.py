"""Reads descriptors: a `descriptor.toml`, and those that it extends, into a `Target` in which every name means something."""

from __future__ import annotations

import dataclasses
import itertools
import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from qcompiler import ops
from qcompiler.errors import TargetError, suggest
from qcompiler.ir.encoding import FORMATS
from qcompiler.pattern_syntax import PatternSyntaxError
from qcompiler.predicates import PREDICATES
from qcompiler.schema import SchemaReader
from qcompiler.target import FLOAT, Device, Kernel, Row, Target

Resolve = Callable[[str], Path | None]
"""Maps a target's name to its descriptor."""

_SCHEMA = 1
_OUTPUT = "output"


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
    if table.get("schema", _SCHEMA) != _SCHEMA:
        raise reader.fail(
            "schema", f"{table['schema']!r} is not accepted; this qcompiler reads schema {_SCHEMA}"
        )
    target = _with_cores(reader.read(Target, _rows_expanded(table)), reader)
    _Checker(target, reader).check()
    chosen = device or target.default_device
    if device and device not in target.device:
        raise TargetError(
            f"The target {target.name} has no device {device!r}{suggest(device, target.device)}"
        )
    return dataclasses.replace(target, file=str(file), chosen_device=chosen)


def _with_cores(target: Target, reader: SchemaReader) -> Target:
    """The target with every device completed by the core that it is built around."""
    return dataclasses.replace(
        target, device={name: _completed(target, name, (), reader) for name in target.device}
    )


def _completed(target: Target, name: str, around: tuple[str, ...], reader: SchemaReader) -> Device:
    """A device with what it leaves out taken from its core; `around` are those built around it."""
    device = target.device[name]
    if not device.core:
        return device
    if device.core not in target.device or device.core in (name, *around):
        raise reader.fail(
            f"device.{name}.core",
            f"{device.core!r} is no other device that it could be built around{suggest(device.core, target.device)}",
        )
    core = _completed(target, device.core, (*around, name), reader)
    taken = {
        key: getattr(core, key)
        for key in ("formats", "features", "rate", "cost", "stored", "bandwidth", "code")
        if not getattr(device, key)
    }
    return dataclasses.replace(device, **taken)


def _read_table(file: Path, resolve: Resolve | None, below: tuple[Path, ...]) -> dict[str, Any]:
    """The table of a file, merged into that of the descriptor it extends; `below` are the files that extend this one."""
    try:
        with file.open("rb") as stream:
            table = tomllib.load(stream)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise TargetError(f"{file}: this is not valid TOML: {error}") from error
    except OSError as error:
        raise TargetError(f"{file}: the descriptor cannot be read: {error.strerror}") from error
    base = table.get("extends", "")
    if not isinstance(base, str):
        raise TargetError(f"{file}: extends: expected the name or file of a descriptor, found {base!r}")
    if not base:
        return table
    parent = file.parent / base if base.endswith(".toml") else (resolve(base) if resolve else None)
    if parent is None:
        raise TargetError(
            f"{file}: extends: there is no target {base!r}; a descriptor of your own goes by its path, FILE.toml"
        )
    chain = (*below, file)
    if parent.resolve() in {link.resolve() for link in chain}:
        circle = " -> ".join(link.name for link in (*chain, parent))
        raise TargetError(f"{file}: extends: descriptors cannot extend each other in a circle: {circle}")
    return _merged(_read_table(parent, resolve, chain), table)


def _merged(base: dict[str, Any], table: dict[str, Any]) -> dict[str, Any]:
    """The base's entries, replaced by the table's: tables key by key, kernels by name; new kernels come first.

    Of a table's entries those are left out that are given as false.
    """
    merged = {**base, **table}
    for key, given in table.items():
        if isinstance(given, dict) and isinstance(base.get(key), dict):
            entries = {**base[key], **given}
            merged[key] = {name: entry for name, entry in entries.items() if entry is not False}
    own, inherited = table.get("kernel", []), base.get("kernel", [])
    if _are_tables(own) and _are_tables(inherited):
        replaced = {kernel.get("name"): kernel for kernel in own}
        names = {kernel.get("name") for kernel in inherited}
        merged["kernel"] = [
            *(kernel for kernel in own if kernel.get("name") not in names),
            *(replaced.get(kernel.get("name"), kernel) for kernel in inherited),
        ]
    return merged


def _rows_expanded(table: dict[str, Any]) -> dict[str, Any]:
    """The table with every row that lists several encodings for an operand replaced by one row per combination.

    The last operand varies fastest. `{x}` in the row's name is the encoding of operand x.
    """
    kernels = table.get("kernel", [])
    if not _are_tables(kernels):
        return table
    expanded = []
    for kernel in kernels:
        rows = kernel.get("row", [])
        mine = [item for row in rows for item in _combinations(row)] if _are_tables(rows) else rows
        expanded.append({**kernel, "row": mine} if "row" in kernel else kernel)
    return {**table, "kernel": expanded}


def _combinations(row: dict[str, Any]) -> list[dict[str, Any]]:
    operands = row.get("operands")
    if not isinstance(operands, dict) or not any(isinstance(given, list) for given in operands.values()):
        return [row]
    if [] in operands.values():
        return [row]  # it would be no row at all: the reader says what is wrong
    listed = [given if isinstance(given, list) else [given] for given in operands.values()]
    made = []
    for chosen in itertools.product(*listed):
        mine = dict(zip(operands, chosen, strict=True))
        one = {**row, "operands": mine}
        if isinstance(row.get("name"), str):
            one["name"] = re.sub(r"\{(\w+)\}", _naming(mine), row["name"])
        made.append(one)
    return made


def _naming(operands: Mapping[str, Any]) -> Callable[[re.Match[str]], str]:
    return lambda found: str(operands.get(found[1], found[0]))


def _are_tables(given: Any) -> bool:
    return isinstance(given, list) and all(isinstance(item, dict) for item in given)


class _Checker:
    """Holds every name in a descriptor against what it has to name."""

    def __init__(self, target: Target, reader: SchemaReader) -> None:
        self.target = target
        self.fail = reader.fail
        self.reader = reader

    def check(self) -> None:
        """Raises a TargetError about the first mistake."""
        target = self.target
        for name in target.float_formats:
            if name not in FORMATS or not FORMATS[name].is_plain_float:
                floats = [entry for entry in FORMATS if FORMATS[entry].is_plain_float]
                raise self.fail("float_formats", f"{name!r} is no plain float format{suggest(name, floats)}")
        if target.scale_bytes is not None and target.scale_bytes < 0:
            raise self.fail("scale_bytes", f"{target.scale_bytes} is no number of bytes")
        for device, entry in target.device.items():
            for key, formats in (("formats", entry.formats), ("rate", tuple(entry.rate))):
                for name in formats:
                    if name not in FORMATS:
                        raise self.fail(
                            f"device.{device}.{key}", f"format {name!r} is unknown{suggest(name, FORMATS)}"
                        )
        if target.default_device and target.default_device not in target.device:
            wrong = target.default_device
            raise self.fail("default_device", f"there is no device {wrong!r}{suggest(wrong, target.device)}")
        names: set[str] = set()
        for index, kernel in enumerate(target.kernel):
            key = f"kernel[{index}] ({kernel.name})"
            if kernel.name in names:
                raise self.fail(f"{key}.name", "another kernel has this name")
            names.add(kernel.name)
            self._check_kernel(kernel, key)

    def _check_kernel(self, kernel: Kernel, key: str) -> None:
        try:
            pattern = kernel.compiled
        except PatternSyntaxError as error:
            raise self.fail(f"{key}.pattern", str(error)) from error
        for op in {op for step in pattern.steps for op in step.call.ops}:
            if "::" not in op and not ops.is_known(op):
                raise self.fail(
                    f"{key}.pattern", f"the operator {op!r} is not in the op table{suggest(op, ops.TABLE)}"
                )
        self._check_limits(kernel.limits, pattern.operand_names, f"{key}.limits")
        row_names: set[str] = set()
        for index, row in enumerate(kernel.row):
            where = f"{key}.row[{index}] ({row.name})"
            if row.name in row_names:
                raise self.fail(f"{where}.name", "another row of this kernel has this name")
            row_names.add(row.name)
            self._check_row(row, pattern.operand_names, where)

    def _check_row(self, row: Row, operands: tuple[str, ...], key: str) -> None:
        for operand, encoding in row.operands.items():
            if operand not in operands:
                raise self.fail(
                    f"{key}.operands.{operand}",
                    f"the pattern binds no such operand{suggest(operand, operands)}",
                )
            self._check_encoding(encoding, f"{key}.operands.{operand}")
            self._check_derived(row, encoding, f"{key}.operands.{operand}")
        if not row.output:
            raise self.fail(f"{key}.output", 'at least one encoding is needed; "float" is one')
        for encoding in row.output:
            self._check_encoding(encoding, f"{key}.output")
        self._check_same(row, operands, f"{key}.same")
        self._check_limits(row.limits, operands, f"{key}.limits")

    def _check_encoding(self, name: str, key: str) -> None:
        if name != FLOAT and name not in self.target.encoding:
            accepted = [FLOAT, *self.target.encoding]
            raise self.fail(key, f"the encoding {name!r} is not defined{suggest(name, accepted)}")

    def _check_derived(self, row: Row, encoding: str, key: str) -> None:
        for factor in self.target.spec(encoding).derived:
            given = row.operands.get(factor, FLOAT)
            if given not in self.target.encoding or self.target.spec(given).derived:
                raise self.fail(
                    key,
                    f"the scale of {encoding!r} is derived from the operand {factor!r}, which has no scale in this row; "
                    f"operands with one: {', '.join(name for name, item in row.operands.items() if item != encoding)}",
                )

    def _check_same(self, row: Row, operands: tuple[str, ...], key: str) -> None:
        """What shares an encoding has to be able to: one entry of [encoding] at every operand, and on offer as output."""
        shared = {row.operands.get(operand, FLOAT) for operand in row.same if operand != _OUTPUT}
        for operand in row.same:
            if operand not in (*operands, _OUTPUT):
                raise self.fail(key, f"{operand!r} is no operand{suggest(operand, (*operands, _OUTPUT))}")
        if _OUTPUT in row.same:
            shared |= {name for name in row.output if name != FLOAT}
        if len(shared) > 1:
            raise self.fail(key, f"what shares one encoding is given several: {', '.join(sorted(shared))}")

    def _check_limits(
        self, limits: tuple[Mapping[str, Any], ...], operands: tuple[str, ...], key: str
    ) -> None:
        for index, limit in enumerate(limits):
            where, name = f"{key}[{index}]", limit.get("check")
            if name not in PREDICATES:
                raise self.fail(
                    f"{where}.check", f"the predicate {name!r} is unknown{suggest(str(name), PREDICATES)}"
                )
            accepted = {"check": str, "reason": str, **PREDICATES[name].parameters}
            for parameter, given in limit.items():
                if parameter not in accepted:
                    raise self.fail(
                        f"{where}.{parameter}",
                        f"the predicate {name} takes no such parameter{suggest(parameter, accepted)}",
                    )
                self.reader.value(accepted[parameter], given, f"{where}.{parameter}")
            missing = [parameter for parameter in PREDICATES[name].required if parameter not in limit]
            if missing:
                raise self.fail(f"{where}.{missing[0]}", f"the predicate {name} requires this parameter")
            self._check_limit_operands(limit, operands, where)

    def _check_limit_operands(self, limit: Mapping[str, Any], operands: tuple[str, ...], key: str) -> None:
        named = (*(name for name in operands if name != "..."), _OUTPUT)
        for parameter in ("operand", "operands"):
            given = limit.get(parameter, ())
            for operand in (given,) if isinstance(given, str) else given:
                if operand not in named:
                    raise self.fail(
                        f"{key}.{parameter}",
                        f"the pattern binds no operand {operand!r}{suggest(operand, named)}",
                    )
