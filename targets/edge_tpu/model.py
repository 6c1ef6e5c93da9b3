"""A TensorFlow Lite model as plain data: what `flatbuffer` reads and writes, and what is lowered, checked and partitioned.

Only the first subgraph counts: files for accelerators have one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Quantization:
    """How the numbers of a tensor are stored: real = scale * (code - zero point).

    Attributes:
        scale: float32, [1] or [channels].
        zero_point: int64, of the same shape.
        axis: The dimension that channels lie along; 0 where there is a single scale.
    """

    scale: NDArray[Any]
    zero_point: NDArray[Any]
    axis: int = 0

    @property
    def per_channel(self) -> bool:
        """Whether there are several scales."""
        return len(self.scale) > 1


@dataclass(frozen=True, eq=False)
class Tensor:
    """A tensor.

    Attributes:
        name: Its name, unique in the file.
        shape: Its dimensions.
        type: A member of the schema's `TensorType`, such as "INT8".
        quantization: How its numbers are stored; None for floats and plain integers.
        data: The elements of a constant, [shape]; of 4 bits one in a byte here, and packed in the file. Flat where a file that is
            read has something else: what is stored of a sparse constant, the bytes of strings. None: it is computed.
    """

    name: str
    shape: tuple[int, ...]
    type: str
    quantization: Quantization | None = None
    data: NDArray[Any] | None = None

    @property
    def elements(self) -> int:
        """How many elements it has."""
        return math.prod(self.shape)


@dataclass(frozen=True, eq=False)
class Operator:
    """An operator.

    Attributes:
        op: A member of the schema's `BuiltinOperator`, such as "CONV_2D"; "CUSTOM" for others.
        inputs: Indices into the model's tensors; -1 for one that is left out.
        outputs: The same.
        options: The fields of its options table under the schema's names in snake case (`stride_w`), enumerations by the names of
            their members ("SAME"), vectors as tuples. All that a table has where a file is read. `custom_options` are the bytes of
            a custom operator, and `intermediates` the tensors that a recurrent one keeps its inner scales in.
        version: Its version.
        custom: The name of a custom operator.
    """

    op: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    version: int = 1
    custom: str = ""

    @property
    def name(self) -> str:
        """What people call it."""
        return self.custom or self.op


@dataclass(frozen=True, eq=False)
class Model:
    """A file.

    Attributes:
        tensors: All tensors.
        operators: In order of execution.
        inputs: Indices of what is given.
        outputs: Indices of what is returned.
        name: Of the subgraph.
        description: Free text.
        metadata: Named blobs; without the minimum runtime, which follows from the operators.
        subgraphs: How many subgraphs the file has; the others are not read.
    """

    tensors: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    name: str = ""
    description: str = ""
    metadata: Mapping[str, bytes] = field(default_factory=dict)
    subgraphs: int = 1

    def operands(self, operator: Operator) -> tuple[Tensor | None, ...]:
        """What an operator reads; None for what is left out."""
        return tuple(self.tensors[index] if index >= 0 else None for index in operator.inputs)

    def results(self, operator: Operator) -> tuple[Tensor, ...]:
        """What an operator writes."""
        return tuple(self.tensors[index] for index in operator.outputs)
