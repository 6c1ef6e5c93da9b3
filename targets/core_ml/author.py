"""Writes a graph as a MIL program, operator for operator, through coremltools' builder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from qcompiler.errors import TargetError
from qcompiler.targets.core_ml.constants import Constant, stored
from qcompiler.targets.core_ml.float_types import FloatTypes
from qcompiler.targets.core_ml.names import identifiers
from qcompiler.targets.core_ml.refusals import Unsupported, impossible, refusal
from qcompiler.targets.core_ml.toolkit import toolkit

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qcompiler.ir.graph import Graph
    from qcompiler.ir.node import Node, Value
    from qcompiler.targets.core_ml.interface import Interface

Var = Any
"""A variable of coremltools, or an array, which its builder makes a constant of."""
Emit = Callable[["Author", "Node"], "Var | Sequence[Var]"]

_TYPE_NAMES = {np.dtype(np.float16): "fp16", np.dtype(np.float32): "fp32", np.dtype(np.int32): "int32", np.dtype(np.bool_): "bool"}  # fmt: skip


class Author:
    """One program being written. Operators read their operands with `read` and write with `op`.

    Attributes:
        graph: The reference graph.
        opset: The deployment target, as coremltools knows it.
        node: The node being written.
    """

    def __init__(self, graph: Graph, types: FloatTypes, opset: Any, interface: Interface) -> None:
        self.graph = graph
        self.opset = opset
        self.node: Node
        self._types = types
        self._interface = interface
        self._names = identifiers(graph)
        self._inner = 0
        self._vars: dict[Value, Var] = {}
        self._casts: dict[tuple[Value, np.dtype[Any]], Var] = {}
        self._kit = toolkit()

    # -- the whole ----------------------------------------------------------------------------------------

    def program(self, emitters: Mapping[str, Emit]) -> Any:
        """The program.

        Args:
            emitters: By operator.

        Raises:
            TargetError: Operators cannot be written; all of them are named.
        """
        mil, mb = self._kit.mil, self._kit.mb
        mb.name_count.clear()  # else names would depend on what this process wrote before
        symbols: dict[Any, Any] = {}
        placeholders = {
            self._names[value.name]: mb.placeholder(
                self._shape(value, symbols),
                dtype=self._kit.types.numpy_type_to_builtin_type(self._interface.type_of(value)),
            )
            for value in self.graph.inputs
        }
        refused: list[str] = []
        failed: set[Value] = set()
        with mil.Function(placeholders, self.opset) as function:
            for value in self.graph.inputs:
                self._vars[value] = self._input(value, function.inputs[self._names[value.name]])
            for node in self.graph.topological():
                reason = impossible(node, emitters)
                if not reason and not any(value in failed for _, value in node.operands()):
                    reason = self._write(node, emitters[node.op])
                    if not reason:
                        continue
                failed.update(value for value in node.outputs if value is not None)
                if reason:
                    refused.append(f"{', '.join(node.origin)} ({node.op}): {reason}")
            if refused:
                raise TargetError(refusal(refused))
            function.set_outputs([self._output(value) for value in self.graph.outputs])
        program = mil.Program()
        program.add_function("main", function)
        return program

    def _input(self, value: Value, var: Var) -> Var:
        """An input as the graph reads it: what the numbers of an image are."""
        image = self._interface.images.get(value.name)
        return var if image is None else image.write(var)

    def _shape(self, value: Value, symbols: dict[Any, Any]) -> tuple[Any, ...]:
        new = self._kit.symbol
        assert value.shape is not None
        return tuple(
            dim if isinstance(dim, int) else symbols.setdefault(dim or (value.name, axis), new())
            for axis, dim in enumerate(value.shape)
        )

    def _write(self, node: Node, emit: Emit) -> str:
        """Writes a node; why it cannot be written, or nothing."""
        self.node, self._inner = node, 0
        try:
            results = emit(self, node)
        except Unsupported as reason:
            return str(reason)
        except (ValueError, TypeError, AssertionError, NotImplementedError, IndexError) as error:
            return f"coremltools refuses it: {' '.join(str(error).split())}"
        parts = results if isinstance(results, list | tuple) else (results,)
        for value, part in zip(node.outputs, parts, strict=False):
            if value is not None:
                self._vars[value] = self._named(value, part)
        return ""

    def _named(self, value: Value, result: Var) -> Var:
        """A result under its value's name, unless it is known by another value's already."""
        if not self._is_variable(result):
            return result
        if result.op is not None and result.name.startswith(self._prefix()):
            result.name = self._names[value.name]
        return result

    def _is_variable(self, item: Any) -> bool:
        return isinstance(item, self._kit.mil.Var)

    def _output(self, value: Value) -> Var:
        """A result of the graph, in the type of outputs, computed by an operator of its own."""
        var: Var = self._vars.get(value, value.data)
        name = self._names[value.name]
        wanted, mb = self._interface.type_of(value), self._kit.mb
        if isinstance(var, np.ndarray):
            var = mb.const(val=var.astype(wanted), name=f"{name}_value")
        kind = _TYPE_NAMES[wanted]
        if var.op is not None and var.op.op_type != "const" and var.name == name:
            if self.dtype(var) == wanted:
                return var
            var.name = f"{name}_as_computed"
        return (
            mb.cast(x=var, dtype=kind, name=name)
            if self.dtype(var) != wanted
            else mb.identity(x=var, name=name)
        )

    # -- for operators ------------------------------------------------------------------------------------

    def op(self, kind: str, **inputs: Any) -> Var:
        """Writes an operator of MIL."""
        name = f"{self._prefix()}{self._inner}"
        self._inner += 1
        return getattr(self._kit.mb, kind)(
            **{key: item for key, item in inputs.items() if item is not None}, name=name
        )

    def _prefix(self) -> str:
        return f"{self._names[self.node.output.name]}__"

    @property
    def builder(self) -> Any:
        """The builder of coremltools, for operators that are given their names."""
        return self._kit.mb

    @property
    def specification(self) -> int:
        """The version of the specification: 7 for iOS 16 and macOS 13, 8 for iOS 17 and macOS 14, 9 for iOS 18 and macOS 15."""
        return int(self.opset)

    @property
    def unchecked(self) -> dict[str, bool]:
        """What keeps indices from being checked at run time, where the deployment target can: a trained model's are right."""
        return {"validate_indices": False} if self.specification >= 8 else {}

    def packed(self, codes: NDArray[Any], kind: str) -> NDArray[Any]:
        """Codes as coremltools wants them; it has types of its own for less than 8 bits, such as "int4"."""
        own = getattr(self._kit.types, f"np_{kind}_dtype", None)
        return (
            codes
            if own is None
            else codes.astype(np.int8 if kind.startswith("int") else np.uint8).astype(own)
        )

    def is_stored(self, value: Value) -> bool:
        """Whether a value's elements are known, as floats or as codes."""
        return value.data is not None or isinstance(self._vars[value], Constant)

    @property
    def float_type(self) -> np.dtype[Any]:
        """The type of floats that the node being written computes in."""
        return self._types.of(self.node)

    def number(self, number: float) -> Any:
        """A number in the type that the node computes in."""
        return self.float_type.type(number)

    def read(self, slot: int, dtype: np.dtype[Any] | None = None) -> Var:
        """An operand; floats in the type that the node computes in, or in a given one, integers in 32 bits.

        Returns:
            A variable, or an array where the operand is constant; None where it is left out.
        """
        value = self.node.input(slot)
        return None if value is None else self._read(value, dtype or self.float_type)

    def variable(self, slot: int) -> Var:
        """An operand as a variable, constants too."""
        operand = self.read(slot)
        return self.op("const", val=operand) if isinstance(operand, np.ndarray | np.generic) else operand

    def constant(self, slot: int) -> NDArray[Any] | None:
        """The elements of an operand that has to be known; None where it is left out.

        Raises:
            Unsupported: It is computed.
        """
        value = self.node.input(slot)
        if value is None:
            return None
        if value.data is not None:
            return np.asarray(value.data)
        known = self._vars[value].val
        if known is None:
            raise Unsupported(
                f"input {slot} ({value.name}) is computed at run time, and Core ML wants a constant there"
            )
        return np.asarray(known)

    def integers(self, slot: int) -> list[int] | None:
        """The elements of an operand of integers that has to be known; None where it is left out."""
        data = self.constant(slot)
        return None if data is None else [int(item) for item in data.reshape(-1)]

    def static(self, slot: int) -> list[int]:
        """The sizes of an operand, which have to be known.

        Raises:
            Unsupported: One is open.
        """
        sizes = self.shape(slot)
        if any(not isinstance(size, int) for size in sizes):
            raise Unsupported("a size of its operand is open; fix it with --dimension")
        return sizes

    def shape(self, slot: int) -> list[Any]:
        """The sizes of an operand, as coremltools infers them: numbers, or symbols."""
        operand = self.read(slot)
        return [int(size) if isinstance(size, int | np.integer) else size for size in operand.shape]

    def rank(self, slot: int = 0) -> int:
        """The number of dimensions of an operand."""
        return len(self.shape(slot))

    def axis(self, default: int, slot: int = 0) -> int:
        """The attribute `axis`, counted from the front."""
        given = int(self.node.attributes.get("axis", default))
        return given + self.rank(slot) if given < 0 else given

    def cast(self, var: Var, dtype: np.dtype[Any]) -> Var:
        """A variable in another type."""
        return var if self.dtype(var) == dtype else self.op("cast", x=var, dtype=_TYPE_NAMES[dtype])

    def dtype(self, var: Var) -> np.dtype[Any]:
        """The type of a variable's elements."""
        return np.dtype(
            var.dtype if isinstance(var, np.ndarray) else self._kit.types.nptype_from_builtin(var.dtype)
        )

    def _read(self, value: Value, dtype: np.dtype[Any]) -> Var:
        if value.data is not None:
            return stored(np.asarray(value.data), dtype)
        var, key = self._vars[value], (value, dtype)
        if isinstance(var, Constant):
            if key not in self._casts:
                name = self._names[value.name]
                self._casts[key] = var.write(
                    self, name if dtype == self._types.default else f"{name}_as_{_TYPE_NAMES[dtype]}", dtype
                )
            return self._casts[key]
        if self.dtype(var).kind != "f" or self.dtype(var) == dtype:
            return var
        if isinstance(var, np.ndarray):
            return var.astype(dtype)
        if key not in self._casts:
            self._casts[key] = self._kit.mb.cast(
                x=var, dtype=_TYPE_NAMES[dtype], name=f"{self._names[value.name]}_as_{_TYPE_NAMES[dtype]}"
            )
        return self._casts[key]
