"""A legalized program as a file."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from qcompiler.integer.program import Tensor as Stored
from qcompiler.targets.edge_tpu.model import Model, Operator, Quantization, Tensor
from qcompiler.targets.edge_tpu.operators import form_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from qcompiler.integer.program import Operation, Program

_TYPES = {
    "float32": "FLOAT32",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "uint8": "UINT8",
}


def model_of(program: Program) -> Model:
    """The file's content: a tensor for every tensor of the program, an operator for every operation.

    In front of the first operation on floats that reads a constant's codes is a DEQUANTIZE, which runtimes carry out once.

    Raises:
        TargetError: An operation has no operator.
    """
    tensors = _Tensors({tensor.name: tensor for tensor in program.tensors})
    inputs = tuple(map(tensors.index, program.inputs))
    operators = []
    for operation in program.operations:
        form = form_of(operation)
        operands = []
        for operand in form.operands:
            if not isinstance(operand, Stored):
                operands.append(tensors.constant(operation, operand))
                continue
            place = tensors.index(operand)
            if operand.data is not None and operand.encoding is not None and operation.output.is_float:
                place, added = tensors.real(place)
                operators += added
            operands.append(place)
        results = tuple(map(tensors.index, operation.outputs))
        operators.append(Operator(form.op, tuple(operands), results, form.options))
    outputs = tuple(map(tensors.index, program.outputs))
    return Model(tuple(tensors.made), tuple(operators), inputs, outputs, program.name)


@dataclass
class _Tensors:
    """The file's tensors so far.

    Attributes:
        program: The program's tensors by name.
        made: The tensors.
    """

    program: Mapping[str, Stored]
    made: list[Tensor] = field(default_factory=list)
    _index: dict[str, int] = field(default_factory=dict)
    _real: dict[int, int] = field(default_factory=dict)
    _names: set[str] = field(default_factory=set)

    def index(self, tensor: Stored) -> int:
        """Where a tensor of the program is, or a constant that an operator reads and the program does not have."""
        own = self.program.get(tensor.name)
        if own is None or own.data is not tensor.data:
            return self._add(replace(_stored(tensor), name=self._unique(tensor.name)))
        if tensor.name not in self._index:
            self._index[tensor.name] = self._add(_stored(tensor))
        return self._index[tensor.name]

    def constant(self, operation: Operation, data: NDArray[Any]) -> int:
        """Where the axes or sizes that an operator reads are."""
        name = self._unique(f"{operation.name}/{len(data)}")
        return self._add(Tensor(name, data.shape, _TYPES[data.dtype.name], None, data))

    def real(self, place: int) -> tuple[int, list[Operator]]:
        """Where the numbers of a constant's codes are, and what computes them unless it is there already."""
        if place in self._real:
            return self._real[place], []
        codes = self.made[place]
        self._real[place] = self._add(Tensor(self._unique(f"{codes.name}/float32"), codes.shape, "FLOAT32"))
        return self._real[place], [Operator("DEQUANTIZE", (place,), (self._real[place],))]

    def _add(self, tensor: Tensor) -> int:
        self.made.append(tensor)
        return len(self.made) - 1

    def _unique(self, hint: str) -> str:
        name, number = hint, 1
        while name in self.program or name in self._names:
            number += 1
            name = f"{hint}.{number}"
        self._names.add(name)
        return name


def _stored(tensor: Stored) -> Tensor:
    encoding = tensor.encoding
    kind = "INT4" if tensor.bits == 4 else _TYPES[tensor.dtype.name]
    data = tensor.data
    if data is not None and kind == "INT4":
        data = data.astype(np.int8)
    if encoding is None or encoding.scale is None:
        return Tensor(tensor.name, tensor.shape, kind, None, data)
    scale = encoding.scale.astype(np.float32).reshape(-1)
    given = encoding.zero_point
    zero = np.zeros(scale.shape, np.int64) if given is None else given.astype(np.int64).reshape(-1)
    return Tensor(tensor.name, tensor.shape, kind, Quantization(scale, zero, encoding.axis or 0), data)
