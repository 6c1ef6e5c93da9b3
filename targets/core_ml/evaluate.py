"""Evaluates a program in numpy, operator by operator, as coremltools documents them.

Floats are computed in float32; results that the program types as float16 are rounded to that after every operator. Operators that have no
rule here are evaluated by coremltools' own value inference, which is slow and exists for some of them only.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from threadpoolctl import ThreadpoolController

from qcompiler.errors import TargetError
from qcompiler.targets.core_ml import (
    numpy_movement,
    numpy_pointwise,
    numpy_products,
    numpy_reductions,
    numpy_windows,
)
from qcompiler.targets.core_ml.half import to_half
from qcompiler.targets.core_ml.toolkit import toolkit

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qcompiler.targets.core_ml.package import Package

Rule = Callable[..., Any]
RULES: Mapping[str, Rule] = {
    **numpy_pointwise.RULES,
    **numpy_products.RULES,
    **numpy_windows.RULES,
    **numpy_movement.RULES,
    **numpy_reductions.RULES,
}
"""By operator of MIL, a function of its inputs by their names in MIL."""


@dataclass(frozen=True)
class _Step:
    """An operator to be evaluated.

    Attributes:
        op: The operator, as coremltools has it.
        rule: What evaluates it.
        inputs: By name: a variable, several, or a constant.
        free: Variables that nobody reads afterwards.
    """

    op: Any
    rule: Rule
    inputs: Mapping[str, Any]
    free: tuple[Any, ...]


_TOGETHER = 1 << 20
"""Elements of the largest tensor that samples taken together may have: 4 MB, which caches hold, and allocators keep."""


class Evaluator:
    """A package's main function, ready to be run on arrays.

    Attributes:
        ops: How many operators there are of each kind.
        types: What is computed, to its type.
        together: How many samples are best run at a time, where the batch is open.
    """

    def __init__(self, package: Package) -> None:
        """Prepares it: constants are decoded once.

        Args:
            package: What was read from disk.

        Raises:
            TargetError: The program has operators that cannot be evaluated.
        """
        self._function = package.function
        self._variable = toolkit().mil.Var
        self._threads = ThreadpoolController()
        self._known: dict[Any, NDArray[Any]] = {}
        self._steps = self._plan()
        self.ops = Counter(step.op.op_type for step in self._steps)
        outputs = [var for step in self._steps for var in step.op.outputs]
        self.types = {var.name: _dtype(var) for var in outputs if not _is_dictionary(var)}
        largest = max((_elements(var) for var in outputs), default=1)
        self.together = max(1, _TOGETHER // largest)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the results."""
        return tuple(var.name for var in self._function.outputs)

    def run(
        self,
        feeds: Mapping[str, NDArray[Any]],
        keep: Iterable[str] = (),
        forced: Mapping[str, NDArray[Any]] | None = None,
    ) -> dict[str, NDArray[Any]]:
        """Evaluates the program.

        Args:
            feeds: Arrays by input.
            keep: Names of further variables that are wanted.
            forced: Arrays by variable that are read in place of what the variable is computed to be.

        Returns:
            Arrays by output, and what else was wanted and is there, as computed.
        """
        wanted, found = {*self.outputs, *keep}, dict[str, Any]()
        # One thread: products are small, and between them others would spin.
        with self._threads.limit(limits=1, user_api="blas"):
            for op, _, results in self.trace(feeds, forced):
                found |= {
                    var.name: result
                    for var, result in zip(op.outputs, results, strict=True)
                    if var.name in wanted
                }
        for var in self._function.outputs:
            if var.name not in found:  # an input, or a constant
                found[var.name] = _typed(feeds[var.name] if var.name in feeds else self._operand(var), var)
        return found

    def trace(
        self, feeds: Mapping[str, NDArray[Any]], forced: Mapping[str, NDArray[Any]] | None = None
    ) -> Iterator[tuple[Any, dict[str, Any], tuple[NDArray[Any], ...]]]:
        """Evaluates the program, operator by operator.

        Args:
            feeds: As in `run`.
            forced: As in `run`.

        Yields:
            The operator, its inputs and its results, as computed.
        """
        values = {var: _typed(feeds[name], var) for name, var in self._function.inputs.items()}
        for step in self._steps:
            inputs = {name: _value(item, values) for name, item in step.inputs.items()}
            computed = step.rule(**inputs)
            parts = computed if isinstance(computed, tuple) else (computed,)
            results = tuple(_typed(part, var) for var, part in zip(step.op.outputs, parts, strict=True))
            yield step.op, inputs, results
            for var, result in zip(step.op.outputs, results, strict=True):
                values[var] = (forced or {}).get(var.name, result)
            for var in step.free:
                values.pop(var, None)

    def _plan(self) -> list[_Step]:
        steps: list[tuple[Any, Rule, dict[str, Any]]] = []
        last: dict[Any, int] = {}
        for op in self._function.operations:
            if op.op_type == "const":
                continue
            if op.op_type.startswith("constexpr_"):
                if len(op.outputs) == 1:  # those with a mask as well are part of the operator that reads them
                    self._known[op.outputs[0]] = _widened(decoded(op))
                continue
            inputs = {name: self._operand(item) for name, item in op.inputs.items() if item is not None}
            for item in inputs.values():
                for var in item if isinstance(item, tuple) else (item,):
                    if isinstance(var, self._variable):
                        last[var] = len(steps)
            steps.append((op, _rule(op), inputs))
        kept = set(self._function.outputs)
        dying: list[list[Any]] = [[] for _ in steps]
        for var, index in last.items():
            if var not in kept:
                dying[index].append(var)
        return [
            _Step(op, rule, inputs, tuple(free))
            for (op, rule, inputs), free in zip(steps, dying, strict=True)
        ]

    def _operand(self, item: Any) -> Any:
        """A variable, or the constant that it is."""
        if isinstance(item, list | tuple):
            return tuple(self._operand(part) for part in item)
        if item in self._known:
            return self._known[item]
        return item if item.val is None else _widened(item.val)


def decoded(op: Any) -> NDArray[Any]:
    """What an operator that holds a constant stands for.

    Tables of iOS 18 are read here: coremltools makes a copy of the table for every element first, 1 KB each with 8 bits in float32.
    """
    if op.op_type == "constexpr_lut_to_dense" and op.lut.rank > 1 and op.lut.shape[-1] == 1:
        return looked_up(op.indices.val, op.lut.val[..., 0])
    return np.asarray(op.materialized_val_inference())


def looked_up(indices: NDArray[Any], tables: NDArray[Any]) -> NDArray[Any]:
    """Entries of tables, each of which serves a block of neighbours along every axis.

    Args:
        indices: Of any shape.
        tables: How many there are along each axis of the indices, and last the entries.
    """
    places = [
        np.arange(size) * count // size for size, count in zip(indices.shape, tables.shape, strict=False)
    ]
    return np.asarray(tables[(*np.ix_(*places), indices.astype(np.intp))])


def _elements(var: Any) -> int:
    """Elements of a variable, open dimensions left out."""
    return math.prod(int(dim) for dim in var.shape or () if isinstance(dim, int | np.integer))


def _value(item: Any, values: Mapping[Any, NDArray[Any]]) -> Any:
    """An input of an operator: what its variable holds by now, or the constant."""
    if isinstance(item, tuple):
        return tuple(_value(part, values) for part in item)
    return values[item] if isinstance(item, toolkit().mil.Var) else item


def _widened(item: Any) -> Any:
    """A constant to compute with: float16 as float32; text and truth values as Python has them."""
    if isinstance(item, str | np.str_):
        return str(item)
    if isinstance(item, bool | np.bool_):
        return bool(item)
    if isinstance(item, np.generic):
        return np.float32(item) if item.dtype == np.float16 else item
    array = np.asarray(item)
    return array.astype(np.float32) if array.dtype == np.float16 else array


def _typed(result: Any, var: Any) -> Any:
    """A result in the precision that the program gives it; floats stay in float32."""
    if isinstance(result, dict | str):  # labels
        return result
    dtype, array = _dtype(var), np.asarray(result)
    if dtype == np.float16:
        return to_half(array)
    return array if array.dtype == dtype else array.astype(dtype)


def _dtype(var: Any) -> np.dtype[Any]:
    """The type of a variable's elements."""
    dtype: np.dtype[Any] = np.dtype(toolkit().types.nptype_from_builtin(var.dtype))
    return dtype


def _is_dictionary(var: Any) -> bool:
    return bool(toolkit().types.is_dict(var.sym_type))


def inference(op: Any) -> Rule | None:
    """An operator by coremltools' own value inference: it is written anew, with constants as operands. None where there is none."""
    kit = toolkit()
    if type(op).value_inference is kit.mil.Operation.value_inference:
        return None

    def rule(**inputs: Any) -> Any:
        with kit.mil.Function({}, op.opset_version):
            made = getattr(kit.mb, op.op_type)(**inputs)
        return made.val if isinstance(made, kit.mil.Var) else tuple(var.val for var in made)

    return rule


def _rule(op: Any) -> Rule:
    """What evaluates an operator.

    Raises:
        TargetError: Nothing does.
    """
    rule = RULES.get(op.op_type) or inference(op)
    if rule is None:
        raise TargetError(
            f"The operator {op.op_type} ({op.name}) of the package cannot be evaluated here, so it cannot be verified."
        )
    return rule
