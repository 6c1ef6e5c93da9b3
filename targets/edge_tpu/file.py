"""A legalized program as a file."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from qcompiler.integer.program import Tensor as Stored
from qcompiler.targets.edge_tpu.model import Model, Operator, Quantization, Tensor
from qcompiler.targets.edge_tpu.operators import form_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qcompiler.integer.program import Operation, Program

_TYPES = {"int8": "INT8", "int16": "INT16", "int32": "INT32", "int64": "INT64", "uint8": "UINT8"}


def model_of(program: Program) -> Model:
    """The file's content: a tensor for every tensor of the program, an operator for every operation.

    Raises:
        TargetError: An operation has no operator.
    """
    tensors = _Tensors({tensor.name for tensor in program.tensors})
    inputs = tuple(map(tensors.index, program.inputs))
    operators = []
    for operation in program.operations:
        form = form_of(operation)
        operands = tuple(
            tensors.index(operand) if isinstance(operand, Stored) else tensors.constant(operation, operand)
            for operand in form.operands
        )
        results = tuple(map(tensors.index, operation.outputs))
        operators.append(Operator(form.op, operands, results, form.options))
    outputs = tuple(map(tensors.index, program.outputs))
    return Model(tuple(tensors.made), tuple(operators), inputs, outputs, program.name)


@dataclass
class _Tensors:
    """The file's tensors so far.

    Attributes:
        names: Names that are taken.
        made: The tensors.
    """

    names: set[str]
    made: list[Tensor] = field(default_factory=list)
    _index: dict[str, int] = field(default_factory=dict)

    def index(self, tensor: Stored) -> int:
        """Where a tensor of the program is."""
        if tensor.name not in self._index:
            self._index[tensor.name] = len(self.made)
            self.made.append(_stored(tensor))
        return self._index[tensor.name]

    def constant(self, operation: Operation, data: NDArray[Any]) -> int:
        """Where the axes or sizes that an operator reads are."""
        name, number = f"{operation.name}/{len(data)}", 1
        while name in self.names:
            number += 1
            name = f"{operation.name}/{number}"
        self.names.add(name)
        self.made.append(Tensor(name, data.shape, _TYPES[data.dtype.name], None, data))
        return len(self.made) - 1


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
