"""A package as its files have it: the specification, operators, and what is stored of weights.

Nothing is built: a program with operators that coremltools' builder would refuse is read as well. Fields are those of coremltools' protocol
buffers (`proto/Model_pb2.py`, `proto/MIL_pb2.py`); stored tensors begin with 64 bytes, of which the first 24 are a mark, a type, the size in bytes
and the offset of the data, as packages written by coremltools 9.0 have them.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qcompiler.errors import ModelError
from qcompiler.targets.core_ml.toolkit import toolkit

_DATA = "Data"
_WEIGHTS = "@model_path/"
_HEADER = struct.Struct("<IIQQ")
_MARK = 0xDEADBEEF
_CODES = ("quantized_data", "data", "indices", "indices_nonzero_data", "nonzero_data", "source_val")
"""What decoding operators call the tensor that they decode."""


@dataclass(frozen=True)
class Weight:
    """A tensor of known numbers.

    Attributes:
        name: What the program calls it.
        shape: Its shape, decoded.
        kind: How it is stored, for people: a type, then scales, tables, what is left out.
        size: Bytes of all that is stored of it.
    """

    name: str
    shape: tuple[int, ...]
    kind: tuple[str, ...]
    size: int


@dataclass(frozen=True)
class Function:
    """A function of a program.

    Attributes:
        ops: How many operators it has of each kind, constants and what decodes them left out.
        weights: Its tensors of known numbers, in order.
    """

    ops: Counter[str] = field(default_factory=Counter)
    weights: tuple[Weight, ...] = ()


@dataclass(frozen=True)
class Files:
    """A package.

    Attributes:
        specification: Its specification, a protocol buffer.
        functions: The functions of its program by name; none, where it is no ML program.
        size: Bytes of all its files.
        stored: Bytes of the files with weights.
    """

    specification: Any
    functions: Mapping[str, Function]
    size: int
    stored: int


def read_files(path: Path) -> Files:
    """Reads a package.

    Raises:
        ModelError: It is no package, or damaged: says which file of it.
        ExtraError: coremltools is not installed.
    """
    model = _model_path(path)
    try:
        specification = toolkit().ct.proto.Model_pb2.Model()
        specification.ParseFromString(model.read_bytes())
    except OSError as error:
        raise ModelError(
            f"The package {path.name} is damaged: {model.name} cannot be read: {error.strerror}."
        ) from error
    except Exception as error:  # whatever the library of protocol buffers raises
        raise ModelError(
            f"The package {path.name} is damaged: {model.name} is no Core ML model ({error}). Write or copy it again."
        ) from error
    if not specification.specificationVersion:
        raise ModelError(
            f"The package {path.name} is damaged: {model.name} is empty. Write or copy it again."
        )
    reader = _Reader(path.name, model.parent)
    functions = {
        name: reader.function(function.block_specializations[function.opset])
        for name, function in specification.mlProgram.functions.items()
    }
    files = [item for item in path.rglob("*") if item.is_file()]
    size = sum(item.stat().st_size for item in files)
    return Files(specification, functions, size, sum(item.stat().st_size for item in reader.files))


def _model_path(path: Path) -> Path:
    """The file with the specification.

    Raises:
        ModelError: The package has none.
    """
    start = f"{path} is no Core ML package"
    if not path.is_dir():
        raise ModelError(
            f"{start}, which is a folder; {'it is a file' if path.exists() else 'there is nothing there'}."
        )
    try:
        manifest = json.loads((path / "Manifest.json").read_text(encoding="utf-8"))
        entry = manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]["path"]
    except OSError as error:
        raise ModelError(f"{start}: its Manifest.json cannot be read: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{start}: its Manifest.json does not say which file the model is.") from error
    return path / _DATA / str(entry)


@dataclass(frozen=True)
class _Known:
    """A constant, or what a decoding operator makes of some."""

    shape: tuple[int, ...]
    kind: tuple[str, ...]
    size: int


class _Reader:
    """Reads functions of one package, and the sizes of what is stored."""

    def __init__(self, name: str, folder: Path) -> None:
        self._name = name
        self._folder = folder
        self.files: set[Path] = set()

    def function(self, block: Any) -> Function:
        """Operators and weights of a function's block, those of blocks inside it too."""
        ops: Counter[str] = Counter()
        known: dict[str, _Known] = {}
        for op in _operations(block):
            if op.type == "const":
                known[op.outputs[0].name] = self._constant(op.attributes["val"])
            elif op.type.startswith("constexpr_"):
                self._decode(op, known)
            else:
                ops[op.type] += 1
        return Function(
            ops,
            tuple(
                Weight(name, item.shape, item.kind, item.size) for name, item in known.items() if item.size
            ),
        )

    def _constant(self, value: Any) -> _Known:
        """A constant; numbers that are no tensor of floats, such as sizes and axes, count for nothing."""
        shape, dtype = _shape(value.type), _dtype(value.type)
        if value.WhichOneof("value") == "blobFileValue":
            return _Known(shape, (dtype,), self._stored(value.blobFileValue))
        counts = shape and "float" in dtype
        return _Known(shape, (dtype,), -(-math.prod(shape) * _bits(dtype) // 8) if counts else 0)

    def _decode(self, op: Any, known: dict[str, _Known]) -> None:
        """A decoding operator, which takes the place of what it reads."""
        operands = {name: self._constant(value) for name, value in op.attributes.items() if name != "name"}
        for name, given in op.inputs.items():
            for argument in given.arguments:
                if argument.WhichOneof("binding") == "value":
                    operands[name] = self._constant(argument.value)
                elif argument.name in known:
                    operands[name] = known[argument.name]
                    known[argument.name] = _Known(known[argument.name].shape, known[argument.name].kind, 0)
        shape = _shape(op.outputs[-1].type)
        size = sum(item.size for item in operands.values())
        known[op.outputs[-1].name] = _Known(shape, _kind(op.type, operands, shape), size)

    def _stored(self, blob: Any) -> int:
        """Bytes of a stored tensor.

        Raises:
            ModelError: Its file is missing, or ends before it does.
        """
        path = self._folder / str(blob.fileName).removeprefix(_WEIGHTS)
        try:
            total = path.stat().st_size
            with path.open("rb") as stream:
                stream.seek(blob.offset)
                header = stream.read(_HEADER.size)
        except OSError as error:
            raise ModelError(
                f"The package {self._name} is damaged: {path.name} with its weights cannot be read: {error.strerror}."
            ) from error
        mark, _, size, start = _HEADER.unpack(header) if len(header) == _HEADER.size else (0, 0, 0, 0)
        if mark != _MARK or start + size > total:
            raise ModelError(
                f"The package {self._name} is damaged: {path.name} with its weights has {total:,} bytes, and what should be stored at byte "
                f"{blob.offset:,} is not there. Write or copy it again."
            )
        self.files.add(path)
        return int(size)


def _operations(block: Any) -> Iterator[Any]:
    for op in block.operations:
        yield op
        for inner in op.blocks:
            yield from _operations(inner)


def _kind(operator: str, operands: Mapping[str, _Known], shape: tuple[int, ...]) -> tuple[str, ...]:
    """How a tensor is stored, from the operator that decodes it and what that reads."""
    codes = next((operands[name] for name in _CODES if name in operands), None)
    if codes is None:
        return (operator.removeprefix("constexpr_").replace("_", " "),)
    kind = codes.kind
    if "lut" in operands:
        kind = (_table_text(operands["lut"]), *kind[1:])
    if "scale" in operands:
        kind = (*kind, _scale_text(operands["scale"].shape, shape))
    if operator == "constexpr_sparse_to_dense":
        kind = (*kind, f"sparse: {math.prod(codes.shape) / max(math.prod(shape), 1):.1%} stored")
    return kind


def _table_text(table: _Known) -> str:
    """A table of numbers, [entries], or tables of vectors, [..., entries, numbers in each]."""
    *outer, entries, width = table.shape if len(table.shape) > 1 else (*table.shape, 1)
    tables = math.prod(outer)
    words = "a table" if tables == 1 else f"{tables:,} tables"
    vectors = f" vectors of {width}" if width > 1 else ""
    return f"{max(entries - 1, 1).bit_length()}-bit codes of {words} of {entries}{vectors} in {', '.join(table.kind)}"


def _scale_text(scale: tuple[int, ...], shape: tuple[int, ...]) -> str:
    """What each scale is for."""
    if math.prod(scale) == 1:
        return "one scale"
    if len(scale) == len(shape):
        blocks = [extent // count for extent, count in zip(shape, scale, strict=True) if count not in (1, extent)]  # fmt: skip
        if blocks:
            return f"a scale per block of {' x '.join(map(str, blocks))}"
    return "a scale per channel"


def _shape(kind: Any) -> tuple[int, ...]:
    """The sizes of a tensor; 0 for those that are open."""
    return tuple(int(dim.constant.size) for dim in kind.tensorType.dimensions)


def _dtype(kind: Any) -> str:
    """The type of a tensor's elements, in lower case."""
    number = kind.tensorType.dataType
    known = toolkit().ct.proto.MIL_pb2.DataType.DESCRIPTOR.values_by_number.get(number)
    return f"type {number}" if known is None else str(known.name).lower()


def _bits(dtype: str) -> int:
    found = re.search(r"\d+", dtype)
    return int(found[0]) if found else 8
