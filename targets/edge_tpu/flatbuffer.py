"""TensorFlow Lite files, read and written with the schema that comes with LiteRT.

Source of the format: google-ai-edge/LiteRT, tflite/converter/schema/schema.fbs, version 3. Not kept of a file that is read: subgraphs
but the first, symbolic dimensions, sparsity, blockwise quantization, and signatures. One signature is written, which names inputs and
outputs as their tensors are.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from qcompiler.errors import ModelError
from qcompiler.targets.edge_tpu.model import Model, Operator, Quantization, Tensor
from qcompiler.targets.edge_tpu.option_tables import options_of, options_to
from qcompiler.targets.edge_tpu.schema import BITS, ELEMENTS, member, name_of, packages
from qcompiler.targets.edge_tpu.versions import minimum_runtime

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIGNATURE = "serving_default"
"""The key of the signature that is written."""

_IDENTIFIER, _VERSION = b"TFL3", 3
_ALIGNMENT = 16
"""What the schema demands of a constant's place in the file, in bytes."""
_DAMAGES = (struct.error, LookupError, ValueError, TypeError, AttributeError, ArithmeticError, MemoryError)
"""What readers of a table run into that is none."""
_RUNTIME = "min_runtime_version"
"""Metadata that follow from the operators: written, and not read."""


_STATEFUL = ("LSTM", "RNN", "SVDF")
"""In the names of operators that keep a state in tensors which nothing computes; custom ones may have other uses for such tensors."""


def write(model: Model) -> bytes:
    """A model as a file.

    Equal constants of one type are stored once; options that are left out have the schema's defaults. Equal models give equal bytes.

    Raises:
        ValueError: The model is not consistent, or has options that its operators do not have.
        ExtraError: The package with the schema is missing.
    """
    schema, flatbuffers = packages()
    states, buffers = _states(model), _Buffers(schema)
    codes: dict[tuple[str, int, str], int] = {}
    graph = _filled(
        schema.SubGraphT(),
        name=model.name or None,
        tensors=[
            _tensor_table(schema, tensor, buffers.constant(tensor), number in states)
            for number, tensor in enumerate(model.tensors)
        ],
        operators=[_operator_table(schema, operator, codes) for operator in model.operators],
        inputs=_int32(model.inputs),
        outputs=_int32(model.outputs),
    )
    metadata = {**model.metadata, _RUNTIME: minimum_runtime(model).encode().ljust(16, b"\0")}
    signature = _filled(schema.SignatureDefT(), signatureKey=SIGNATURE)
    signature.inputs, signature.outputs = (
        [
            _filled(schema.TensorMapT(), name=model.tensors[number].name, tensorIndex=number)
            for number in dict.fromkeys(numbers)
        ]
        for numbers in (model.inputs, model.outputs)
    )
    root = _filled(
        schema.ModelT(),
        version=_VERSION,
        description=model.description or None,
        operatorCodes=[_code_table(schema, *code) for code in codes],
        subgraphs=[graph],
        metadata=[
            _filled(schema.MetadataT(), name=name, buffer=buffers.add("", np.frombuffer(blob, np.uint8)))
            for name, blob in metadata.items()
        ],
        buffers=buffers.tables,
        signatureDefs=[signature],
    )
    size = buffers.size + 1024 * (1 + len(model.tensors))
    # A subclass, for nothing can be put in place of the methods of a class with slots.
    builder: Any = type("Builder", (flatbuffers.Builder,), {})(min(size, 2**31 - 1))
    builder.CreateNumpyVector = _once(builder.CreateNumpyVector)
    builder.CreateString = _once(builder.CreateString)
    builder.Finish(root.Pack(builder), file_identifier=_IDENTIFIER)
    return bytes(memoryview(builder.Bytes)[builder.Head() :])


def read(data: bytes | memoryview | Path | str) -> Model:
    """The model of a file.

    Args:
        data: The file, or its path. Constants are views of it, unless a byte holds several elements.

    Raises:
        ModelError: It is no such file, or damaged, or newer than the installed package.
        ExtraError: The package with the schema is missing.
    """
    schema, _ = packages()
    source, raw = _source(data)
    if raw[4:8] != _IDENTIFIER:
        raise ModelError(
            f"{source} is no TensorFlow Lite model: it does not begin with the identifier TFL3. Give a .tflite file; models of "
            "other formats have to be converted."
        )
    try:
        file = schema.ModelT.InitFromPackedBuf(raw, 0)
        if file.version != _VERSION:
            raise ModelError(
                f"{source} is a TensorFlow Lite model of version {file.version}; only version 3 is read."
            )
        return _model(schema, file, raw)
    except _DAMAGES as error:
        raise ModelError(
            f"{source} cannot be read as a TensorFlow Lite model: {error}. It is damaged, cut off, or newer than the installed "
            "ai-edge-litert."
        ) from error


def _once(create: Callable[[Any], int]) -> Callable[[Any], int]:
    """Writes equal vectors and strings once: shapes, zero points and names repeat a lot."""
    written: dict[Any, int] = {}

    def created(item: Any) -> int:
        key = (item.dtype.str, item.tobytes()) if isinstance(item, np.ndarray) else item
        if key not in written:
            written[key] = create(item)
        return written[key]

    return created


def _filled(table: Any, **fields: Any) -> Any:
    for field, value in fields.items():
        setattr(table, field, value)
    return table


def _int32(numbers: Iterable[int]) -> NDArray[np.int32]:
    return np.array(tuple(numbers), np.int32)


class _Buffers:
    """The buffers of a file: an empty one, for tensors that are computed, and one for every distinct constant.

    Attributes:
        tables: What `BufferT` is for, but aligned.
        size: Bytes that they take, at most.
    """

    def __init__(self, schema: Any) -> None:
        self._schema = schema
        self._known: dict[tuple[str, int, bytes], int] = {}
        self.tables = [schema.BufferT()]
        self.size = 0

    def constant(self, tensor: Tensor) -> int:
        """The number of a tensor's buffer."""
        if tensor.data is None:
            return 0
        dtype, data = ELEMENTS.get(tensor.type), tensor.data
        if data.dtype != np.dtype(dtype or "u1") or (dtype and data.shape != tensor.shape):
            raise ValueError(
                f"The constant {tensor.name!r} is {tensor.type} {list(tensor.shape)} and has data of {data.dtype} "
                f"{list(data.shape)}."
            )
        if tensor.type in BITS:
            data = _packed(data, BITS[tensor.type])
        return self.add(tensor.type, np.ascontiguousarray(data).reshape(-1).view(np.uint8))

    def add(self, kind: str, data: NDArray[np.uint8]) -> int:
        """The number of a buffer with these bytes."""
        key = kind, data.size, blake2b(data.data).digest()
        if key not in self._known:
            self._known[key] = len(self.tables)
            self.tables.append(SimpleNamespace(Pack=lambda builder: self._write(builder, data)))
            self.size += data.size + 2 * _ALIGNMENT
        return self._known[key]

    def _write(self, builder: Any, data: NDArray[np.uint8]) -> Any:
        builder.StartVector(1, data.size, _ALIGNMENT)
        builder.head -= data.size
        np.frombuffer(builder.Bytes, np.uint8, data.size, builder.head)[:] = data
        vector = builder.EndVector()
        self._schema.BufferStart(builder)
        self._schema.BufferAddData(builder, vector)
        return self._schema.BufferEnd(builder)


def _packed(codes: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    """Several codes to a byte, the first one lowest."""
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if codes.dtype.kind == "i" else (0, (1 << bits) - 1)
    if codes.size and (codes.min() < low or codes.max() > high):
        raise ValueError(f"Codes from {codes.min()} to {codes.max()} do not fit {bits} bits.")
    parts = np.zeros((-(-codes.size * bits // 8), 8 // bits), np.uint8)
    parts.reshape(-1)[: codes.size] = codes.reshape(-1).view(np.uint8) & (1 << bits) - 1
    packed: NDArray[np.uint8] = np.bitwise_or.reduce(parts << np.arange(0, 8, bits, dtype=np.uint8), axis=1)
    return packed


def _unpacked(raw: NDArray[np.uint8], bits: int, signed: bool) -> NDArray[Any]:
    """One code to a byte, and nothing but codes: at the end there may be some too many."""
    parts = (raw[:, None] >> np.arange(0, 8, bits, dtype=np.uint8)).reshape(-1) << 8 - bits
    return (parts.view(np.int8) if signed else parts) >> 8 - bits


def _states(model: Model) -> set[int]:
    """The tensors that operators keep their state in.

    Raises:
        ValueError: Tensors are out of range, or read before they are computed, or there are other subgraphs.
    """
    if model.subgraphs != 1:
        raise ValueError(
            f"The file had {model.subgraphs} subgraphs, of which one was read: the others would be lost."
        )
    known = {number for number, tensor in enumerate(model.tensors) if tensor.data is not None}
    known |= set(model.inputs)
    states = set()
    for operator in model.operators:
        for number in set(operator.inputs) - known - {-1}:
            if any(part in operator.op for part in _STATEFUL):
                states.add(number)
            elif operator.op != "CUSTOM":
                raise ValueError(f"{operator.name} reads tensor {number}, which is not computed before it.")
        known |= {*operator.inputs, *operator.outputs} - {-1}
    missing = {number for number in known if not 0 <= number < len(model.tensors)}
    if unknown := missing | (set(model.outputs) - known):
        raise ValueError(f"There are no tensors {sorted(unknown)}, or nothing computes them.")
    return states


def _tensor_table(schema: Any, tensor: Tensor, buffer: int, is_state: bool) -> Any:
    table = _filled(
        schema.TensorT(),
        name=tensor.name,
        shape=_int32(tensor.shape),
        type=member(schema.TensorType, tensor.type),
        buffer=buffer,
        isVariable=is_state,
    )
    if (stored := tensor.quantization) is not None:
        table.quantization = _filled(
            schema.QuantizationParametersT(),
            scale=np.asarray(stored.scale, np.float32),
            zeroPoint=np.asarray(stored.zero_point, np.int64),
            quantizedDimension=stored.axis,
        )
    return table


def _code_table(schema: Any, op: str, version: int, custom: str) -> Any:
    code = member(schema.BuiltinOperator, op)
    return _filled(
        schema.OperatorCodeT(),
        builtinCode=code,
        deprecatedBuiltinCode=min(code, 127),
        customCode=custom or None,
        version=version,
    )


def _operator_table(schema: Any, operator: Operator, codes: dict[tuple[str, int, str], int]) -> Any:
    code = operator.op, operator.version, operator.custom
    table = _filled(
        schema.OperatorT(),
        opcodeIndex=codes.setdefault(code, len(codes)),
        inputs=_int32(operator.inputs),
        outputs=_int32(operator.outputs),
    )
    options = dict(operator.options)
    if "intermediates" in options:
        table.intermediates = _int32(options.pop("intermediates"))
    if operator.op == "CUSTOM" and "custom_options" in options:
        table.customOptions = np.frombuffer(options.pop("custom_options"), np.uint8)
    if operator.op == "CAST" and not options:  # the defaults would state types that it may not have
        return table
    options_to(schema, table, operator, options)
    return table


def _source(data: bytes | memoryview | Path | str) -> tuple[str, memoryview]:
    """What to call a file in messages, and its bytes."""
    if not isinstance(data, Path | str):
        return "The model", memoryview(data).toreadonly().cast("B")
    try:
        return str(data), memoryview(Path(data).read_bytes())
    except OSError as error:
        raise ModelError(f"{data} cannot be read: {error.strerror or error}.") from error


def _model(schema: Any, file: Any, raw: memoryview) -> Model:
    if not file.subgraphs:
        raise ValueError("it has no subgraph")
    graph = file.subgraphs[0]
    metadata = {_text(entry.name): _bytes(file, raw, entry.buffer).tobytes() for entry in file.metadata or ()}
    metadata.pop(_RUNTIME, None)
    model = Model(
        tuple(_tensor(schema, table, _bytes(file, raw, table.buffer)) for table in graph.tensors or ()),
        tuple(_operator(schema, table, file.operatorCodes, raw) for table in graph.operators or ()),
        _numbers(graph.inputs),
        _numbers(graph.outputs),
        _text(graph.name),
        _text(file.description),
        metadata,
        len(file.subgraphs),
    )
    needed = {*model.inputs, *model.outputs}.union(*(operator.outputs for operator in model.operators))
    read = set().union(*(operator.inputs for operator in model.operators)) - {-1}
    if strange := sorted(number for number in needed | read if not 0 <= number < len(model.tensors)):
        raise ValueError(f"it has {len(model.tensors)} tensors, and speaks of number {strange[0]}")
    return model


def _bytes(file: Any, raw: memoryview, number: int) -> NDArray[np.uint8]:
    """What is in a buffer. Files of more than 2 GB have the bytes behind the tables."""
    buffer = file.buffers[number]
    if buffer.offset > 1:
        return np.frombuffer(raw, np.uint8, buffer.size, buffer.offset)
    return np.zeros(0, np.uint8) if buffer.data is None else buffer.data


def _tensor(schema: Any, table: Any, raw: NDArray[np.uint8]) -> Tensor:
    kind, shape = name_of(schema.TensorType, table.type), _numbers(table.shape)
    tensor = Tensor(_text(table.name), shape, kind, _quantization(table.quantization))
    if table.buffer == 0 or (not raw.size and tensor.elements):
        return tensor
    bits, dtype = BITS.get(kind), ELEMENTS.get(kind)
    data: NDArray[Any] = raw if dtype is None else raw.view(dtype)
    if bits is not None:
        data = _unpacked(raw, bits, kind.startswith("INT"))[
            : tensor.elements if table.sparsity is None else None
        ]
        data.flags.writeable = False
    if dtype is not None and table.sparsity is None:
        data = data.reshape(shape)
    return replace(tensor, data=data)


def _quantization(table: Any) -> Quantization | None:
    if table is None or table.scale is None or not len(table.scale):
        return None
    zero = table.zeroPoint if table.zeroPoint is not None and len(table.zeroPoint) else np.zeros(1, np.int64)
    return Quantization(table.scale, np.broadcast_to(zero, table.scale.shape), table.quantizedDimension)


def _operator(schema: Any, table: Any, codes: Any, raw: memoryview) -> Operator:
    code = codes[table.opcodeIndex]
    options = options_of(schema, table)
    if table.intermediates is not None:
        options["intermediates"] = _numbers(table.intermediates)
    if table.customOptions is not None:
        options["custom_options"] = table.customOptions.tobytes()
    elif table.largeCustomOptionsOffset > 1:
        start = table.largeCustomOptionsOffset
        options["custom_options"] = bytes(raw[start : start + table.largeCustomOptionsSize])
    return Operator(
        name_of(schema.BuiltinOperator, max(code.builtinCode, code.deprecatedBuiltinCode)),
        _numbers(table.inputs),
        _numbers(table.outputs),
        options,
        code.version,
        _text(code.customCode),
    )


def _numbers(vector: Any) -> tuple[int, ...]:
    return () if vector is None else tuple(vector.tolist())


def _text(text: bytes | None) -> str:
    return "" if text is None else text.decode("utf-8", "replace")
