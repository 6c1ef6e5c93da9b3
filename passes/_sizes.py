"""Small integer tensors followed through shape arithmetic, sizes that are open kept as symbols.

An element is a number, a truth value, a `Size` (some size of a tensor, never negative) or None (nothing is known).
Semantics: ONNX operator specification of the operators named in `_RULES`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from qcompiler.passes._operands import PLACEHOLDERS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qcompiler.ir.node import Node, Value

LARGEST = 1024
"""Tensors of more elements are no shapes."""


@dataclass(frozen=True)
class Size:
    """A size that is not known at compile time; equal names are equal sizes."""

    name: str


Element = int | bool | Size | None


def size_of(value: Value, axis: int) -> int | Size:
    """The size of a value along an axis: a number, or the symbol for it."""
    dim = value.shape[axis] if value.shape is not None and axis < len(value.shape) else None
    if isinstance(dim, int):
        return dim
    if isinstance(dim, str) and dim.lower() not in PLACEHOLDERS:
        return Size(dim)
    return Size(f"size {axis} of {value.name}")


class SizeTracker:
    """Knows the elements of small integer values, as far as they can be known."""

    def __init__(self) -> None:
        self._known: dict[Value, NDArray[np.object_]] = {}

    def elements(self, value: Value | None) -> NDArray[np.object_] | None:
        """The elements, or None where the value is large, not of integers, or untracked."""
        if value is None:
            return None
        if value.data is not None:
            small = value.data.size <= LARGEST and value.data.dtype.kind in "iub"
            return np.asarray(value.data).astype(object) if small else None
        return self._known.get(value)

    def visit(self, node: Node) -> NDArray[np.object_] | None:
        """Works out a node's first output from its inputs, remembers and returns it; None where that cannot be done."""
        rule = _RULES.get(node.op) if not node.domain else None
        if rule is None or len(node.outputs) != 1 or node.outputs[0] is None:
            return None
        try:
            found = rule(self, node)
        except (
            ValueError,
            IndexError,
            TypeError,
            OverflowError,
        ):  # malformed: the runtime's to complain about
            return None
        if found is None or found.size > LARGEST:
            return None
        self._known[node.output] = found
        return found

    def numbers(self, value: Value | None) -> list[int] | None:
        """The elements where every one is a number."""
        elements = self.elements(value)
        return None if elements is None else exact(elements)


def exact(elements: NDArray[np.object_]) -> list[int] | None:
    """The elements in a row if every one is a number (or truth value), else None."""
    flat = list(elements.reshape(-1))
    return [int(item) for item in flat] if all(isinstance(item, int) for item in flat) else None


# -- one rule per operator -----------------------------------------------------------------------------------------

_Rule = Callable[[SizeTracker, "Node"], "NDArray[np.object_] | None"]


def _array(items: list[Any]) -> NDArray[np.object_]:
    array = np.empty(len(items), object)
    array[:] = items
    return array


def _shape(tracker: SizeTracker, node: Node) -> NDArray[np.object_] | None:
    source = node.inputs[0]
    if source is None or source.rank is None:
        return None
    sizes = [size_of(source, axis) for axis in range(source.rank)]
    return _array(sizes[slice(node.attributes.get("start", 0), node.attributes.get("end"))])


def _size(tracker: SizeTracker, node: Node) -> NDArray[np.object_] | None:
    source = node.inputs[0]
    if source is None or source.rank is None:
        return None
    total: Element = 1
    for axis in range(source.rank):
        total = _times(total, size_of(source, axis))
    return _array([total]).reshape(())


def _same(tracker: SizeTracker, node: Node) -> NDArray[np.object_] | None:
    return tracker.elements(node.inputs[0])


def _cast(tracker: SizeTracker, node: Node) -> NDArray[np.object_] | None:
    if node.attributes.get("to") not in (onnx.TensorProto.INT64, onnx.TensorProto.INT32):
        return None
    elements = tracker.elements(node.inputs[0])
    if elements is None:
        return None
    return _map(lambda item: int(item) if isinstance(item, bool | np.bool_) else item, elements)


def _gather(tracker: SizeTracker, node: Node) -> NDArray[np.object_] | None:
    elements, indices = tracker.elements(node.inputs[0]), tracker.elements(node.inputs[1])
    if elements is None or indices is None or exact(indices) is None:
        return None
    taken = np.take(elements, indices.astype(np.int64), axis=node.attributes.get("axis", 0))
    return np.asarray(taken, object) if isinstance(taken, np.ndarray) else _array([taken]).reshape(())


def _slice(tracker: SizeTracker, node: Node) -> NDArray[np.object_] | None:
    elements = tracker.elements(node.inputs[0])
    starts, ends = tracker.numbers(node.input(1)), tracker.numbers(node.input(2))
    if elements is None or starts is None or ends is None:
        return None
    axes = list(range(len(starts))) if node.input(3) is None else tracker.numbers(node.input(3))
    steps = [1] * len(starts) if node.input(4) is None else tracker.numbers(node.input(4))
    if axes is None or steps is None or any(step <= 0 for step in steps):
        return None
    window = [slice(None)] * elements.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        window[axis] = slice(start, end, step)
    return elements[tuple(window)]


def _concat(tracker: SizeTracker, node: Node) -> NDArray[np.object_] | None:
    parts = [tracker.elements(value) for value in node.inputs]
    known = [part for part in parts if part is not None]
    return np.concatenate(known, axis=node.attributes["axis"]) if len(known) == len(parts) else None


def _unsqueeze(tracker: SizeTracker, node: Node) -> NDArray[np.object_] | None:
    elements, axes = tracker.elements(node.inputs[0]), tracker.numbers(node.input(1))
    return None if elements is None or axes is None else np.expand_dims(elements, tuple(axes))


def _squeeze(tracker: SizeTracker, node: Node) -> NDArray[np.object_] | None:
    elements, axes = tracker.elements(node.inputs[0]), tracker.numbers(node.input(1))
    if elements is None or (axes is None and node.input(1) is not None):
        return None
    return np.squeeze(elements, None if axes is None else tuple(axes))


def _reshape(tracker: SizeTracker, node: Node) -> NDArray[np.object_] | None:
    elements, target = tracker.elements(node.inputs[0]), tracker.numbers(node.input(1))
    if elements is None or target is None or 0 in target:
        return None
    return elements.reshape(target)


def _transpose(tracker: SizeTracker, node: Node) -> NDArray[np.object_] | None:
    elements = tracker.elements(node.inputs[0])
    return None if elements is None else np.transpose(elements, node.attributes.get("perm"))


def _constant_of_shape(tracker: SizeTracker, node: Node) -> NDArray[np.object_] | None:
    target, fill = tracker.numbers(node.inputs[0]), node.attributes.get("value")
    if (
        target is None
        or not isinstance(fill, np.ndarray)
        or fill.dtype.kind not in "iub"
        or math.prod(target) > LARGEST
    ):
        return None
    return np.full(target, fill.reshape(-1)[0].item(), object)


def _range(tracker: SizeTracker, node: Node) -> NDArray[np.object_] | None:
    ends = [tracker.numbers(value) for value in node.inputs]
    if any(end is None for end in ends):
        return None
    numbers = range(*[end[0] for end in ends if end is not None])
    return _array(list(numbers)) if len(numbers) <= LARGEST else None


def _where(tracker: SizeTracker, node: Node) -> NDArray[np.object_] | None:
    operands = [tracker.elements(value) for value in node.inputs]
    if any(operand is None for operand in operands):
        return None
    return _map(_choose, *[operand for operand in operands if operand is not None])


def _reduce_product(tracker: SizeTracker, node: Node) -> NDArray[np.object_] | None:
    elements = tracker.elements(node.inputs[0])
    if elements is None or elements.ndim != 1:
        return None
    total: Element = 1
    for item in elements:
        total = _times(total, item)
    return _array([total]).reshape((1,) if node.attributes.get("keepdims", 1) else ())


def _elementwise(function: Callable[[Any, Any], Element]) -> _Rule:
    def rule(tracker: SizeTracker, node: Node) -> NDArray[np.object_] | None:
        left = tracker.elements(node.inputs[0])
        right = tracker.elements(node.input(1)) if left is not None else None
        return None if left is None or right is None else _map(function, left, right)

    return rule


def _map(function: Callable[..., Element], *operands: NDArray[np.object_]) -> NDArray[np.object_]:
    together = np.broadcast_arrays(*operands)
    result = np.empty(together[0].shape, object)
    for index in np.ndindex(result.shape):
        result[index] = function(*[operand[index] for operand in together])
    return result


def _plus(left: Element, right: Element) -> Element:
    if left is None or right is None:
        return None
    if isinstance(left, int) and isinstance(right, int):
        return left + right
    if right == 0:
        return left
    if left == 0:
        return right
    smallest = min(item for item in (left, right, 0) if isinstance(item, int))
    return None if smallest < 0 else Size(f"({_name(left)} + {_name(right)})")


def _minus(left: Element, right: Element) -> Element:
    if isinstance(left, int) and isinstance(right, int):
        return left - right
    if left is not None and left == right:
        return 0
    return left if isinstance(right, int) and right == 0 else None


def _times(left: Element, right: Element) -> Element:
    if left is None or right is None:
        return None
    if isinstance(left, int) and isinstance(right, int):
        return left * right
    for one, other in ((left, right), (right, left)):
        if isinstance(one, int) and one <= 1:
            return other if one == 1 else 0 if one == 0 else None
    return Size(f"({_name(left)} * {_name(right)})")


def _over(left: Element, right: Element) -> Element:
    if not isinstance(right, int) or right == 0 or left is None:
        return None
    if right == 1:
        return left
    if isinstance(left, Size):
        return Size(f"({left.name} / {right})") if right > 0 else None
    quotient = abs(left) // abs(right)  # runtimes truncate, Python floors
    return quotient if (left < 0) == (right < 0) else -quotient


def _equals(left: Element, right: Element) -> Element:
    if left is None or right is None:
        return None
    if left == right:
        return True
    if isinstance(left, int) and isinstance(right, int):
        return False
    return False if any(isinstance(item, int) and item < 0 for item in (left, right)) else None


def _choose(condition: Element, left: Element, right: Element) -> Element:
    if isinstance(condition, int):
        return left if condition else right
    return left if left is not None and left == right else None


def _name(item: Element) -> str:
    return item.name if isinstance(item, Size) else str(item)


def _least(left: Element, right: Element) -> Element:
    return min(left, right) if isinstance(left, int) and isinstance(right, int) else None


def _greatest(left: Element, right: Element) -> Element:
    return max(left, right) if isinstance(left, int) and isinstance(right, int) else None


_RULES: dict[str, _Rule] = {
    "Shape": _shape, "Size": _size, "Identity": _same, "Cast": _cast, "Gather": _gather, "Slice": _slice, "Concat": _concat,
    "Unsqueeze": _unsqueeze, "Squeeze": _squeeze, "Reshape": _reshape, "Transpose": _transpose, "Range": _range,
    "ConstantOfShape": _constant_of_shape, "Where": _where, "ReduceProd": _reduce_product, "Add": _elementwise(_plus),
    "Sub": _elementwise(_minus), "Mul": _elementwise(_times), "Div": _elementwise(_over), "Equal": _elementwise(_equals),
    "Min": _elementwise(_least), "Max": _elementwise(_greatest),
}  # fmt: skip
