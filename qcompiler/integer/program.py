"""Programs: a graph with its plan as a list of integer operations on stored tensors.

`encode` makes a program of a graph, its plan and its layout; `evaluate` runs it in numpy, exactly; the lowerings of integer
targets write it in their own form. Shapes are as stored: channels last where the layout says so, batch axis first.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qcompiler.integer.operations import Work
    from qcompiler.ir.encoding import Encoding


@dataclass(frozen=True, eq=False)
class Tensor:
    """A stored tensor.

    Attributes:
        name: Unique in the program; the graph's value's name where there is one.
        shape: As stored, every dimension known.
        encoding: How its numbers are stored. An `axis` is one of the stored shape. None for plain integers (indices) and floats.
        dtype: Of its codes in memory; int4 codes have one byte each here, lowerings pack them.
        data: The codes of a constant, of that shape; None for what is computed.
        value: The graph's value that it holds; empty where it holds none.
        order: The value's axes in the order of storage, outermost first; its own order where empty.
    """

    name: str
    shape: tuple[int, ...]
    encoding: Encoding | None
    dtype: np.dtype[Any]
    data: NDArray[Any] | None = None
    value: str = ""
    order: tuple[int, ...] = ()

    @property
    def elements(self) -> int:
        """How many elements it has."""
        return math.prod(self.shape)

    @property
    def bits(self) -> int:
        """Bits of one element as stored on the device."""
        return self.encoding.format.bits if self.encoding is not None else self.dtype.itemsize * 8

    @property
    def bytes(self) -> int:
        """Bytes that it takes on the device, packed."""
        return -(-self.elements * self.bits // 8)

    @property
    def is_float(self) -> bool:
        """Whether it holds the numbers themselves."""
        return self.encoding is None and self.dtype.kind == "f"

    @property
    def scale(self) -> float:
        """The scale of a tensor with a single one, the float32 as a double; 1 of floats."""
        if self.is_float:
            return 1.0
        assert self.encoding is not None
        assert self.encoding.scale is not None
        return float(self.encoding.scale.reshape(()))

    @property
    def zero_point(self) -> int:
        """The zero point of a tensor with a single one; 0 of floats."""
        if self.is_float:
            return 0
        assert self.encoding is not None
        zero = self.encoding.zero_point
        return 0 if zero is None else int(zero.reshape(()))


@dataclass(frozen=True, eq=False)
class Operation:
    """One step of a program.

    Attributes:
        name: Unique in the program; the region's name, with a suffix where a region takes several steps.
        work: What it computes, with its integer parameters.
        inputs: What it reads, constants included, in the order that `work` states.
        outputs: What it writes.
        origin: Names of the source model's nodes.
        kernel: The target's kernel and row that it carries out, `kernel/row`; empty for steps between regions.
    """

    name: str
    work: Work
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    origin: tuple[str, ...] = ()
    kernel: str = ""

    @property
    def output(self) -> Tensor:
        """The only output."""
        (single,) = self.outputs
        return single


@dataclass(frozen=True, eq=False)
class Program:
    """A whole model in integers, or in integers and floats.

    Attributes:
        name: The model's name.
        inputs: What is given, in the model's order.
        outputs: What is returned.
        operations: In an order in which they can be executed.
    """

    name: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    operations: tuple[Operation, ...]

    @cached_property
    def tensors(self) -> tuple[Tensor, ...]:
        """All tensors, once each: inputs, then as operations mention them."""
        return tuple({tensor.name: tensor for tensor in self._mentioned()}.values())

    @property
    def is_integer(self) -> bool:
        """Whether nothing in it is float, so that the executor gives every bit."""
        return not any(tensor.is_float for tensor in self.tensors)

    @property
    def constants(self) -> tuple[Tensor, ...]:
        """What is stored with the program."""
        return tuple(tensor for tensor in self.tensors if tensor.data is not None)

    def _mentioned(self) -> Iterator[Tensor]:
        yield from self.inputs
        for operation in self.operations:
            yield from operation.inputs
            yield from operation.outputs
        yield from self.outputs
