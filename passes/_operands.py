"""What passes ask about operands: constants, sizes that are provably the same, broadcasts that change nothing."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from qcompiler.ir.node import Dim, Node, Shape, Value

PLACEHOLDERS = frozenset({"", "?", "none", "unk", "unknown", "dynamic", "-1", "*"})
"""Names that exporters give to every size they do not know; two of them need not be equal."""

_TYPED_CONSTANTS = {
    "value_int": np.int64,
    "value_ints": np.int64,
    "value_float": np.float32,
    "value_floats": np.float32,
}


def is_float(value: Value | None) -> bool:
    """Whether the elements are floats of a format that numpy computes with."""
    return value is not None and value.dtype is not None and value.dtype.kind == "f"


def constant(node: Node, slot: int) -> NDArray[Any] | None:
    """The elements of a constant input, None where it is left out or not constant."""
    value = node.input(slot)
    return None if value is None else value.data


def integers(node: Node, slot: int) -> list[int] | None:
    """The elements of a constant input of integers (axes, pads, a shape), None where it is left out or not constant."""
    data = constant(node, slot)
    return None if data is None else [int(item) for item in np.asarray(data).reshape(-1)]


def scalar(data: NDArray[Any] | None) -> float | None:
    """The one element of a constant of size 1 in whatever rank, else None."""
    if data is None or data.size != 1 or data.dtype == object:
        return None
    return float(np.asarray(data).reshape(-1)[0])


def same_dim(first: Dim, second: Dim) -> bool:
    """Whether two sizes are certainly equal: the same number, or the same symbol that is no placeholder."""
    if isinstance(first, str):
        return first == second and first.lower() not in PLACEHOLDERS
    return first is not None and first == second


def same_shape(first: Shape | None, second: Shape | None) -> bool:
    """Whether two shapes are certainly equal."""
    return (
        first is not None
        and second is not None
        and len(first) == len(second)
        and all(same_dim(left, right) for left, right in zip(first, second, strict=True))
    )


def static(shape: Sequence[Dim] | None) -> list[int] | None:
    """The sizes if every one is a known number, else None."""
    if shape is None:
        return None
    sizes = [dim for dim in shape if isinstance(dim, int)]
    return sizes if len(sizes) == len(shape) else None


def element_count(shape: Sequence[Dim] | None) -> int | None:
    """The number of elements of a static shape, else None."""
    sizes = static(shape)
    return None if sizes is None else math.prod(sizes)


def keeps_shape(data: NDArray[Any], shape: Shape | None) -> bool:
    """Whether broadcasting a constant against a value of that shape certainly gives that shape."""
    if data.ndim == 0:
        return True
    if shape is None or data.ndim > len(shape):
        return False
    return all(
        size == 1 or size == dim
        for size, dim in zip(data.shape, shape[len(shape) - data.ndim :], strict=True)
    )


def along_axis(data: NDArray[Any], rank: int | None, axis: int, size: int) -> NDArray[Any] | None:
    """A constant that varies along one axis only, as `size` elements; None if it varies elsewhere or would widen the result.

    Args:
        data: Broadcast against a value of the given rank.
        rank: None when unknown; then only a rank-0 constant is certain to fit.
        axis: Counted from the front.
        size: How many elements that axis has.
    """
    if data.ndim == 0:
        return np.broadcast_to(data, (size,))
    if rank is None or data.ndim > rank:
        return None
    position = axis - (rank - data.ndim)
    if any(length != 1 for index, length in enumerate(data.shape) if index != position):
        return None
    if data.size not in (1, size):
        return None
    return np.broadcast_to(data.reshape(-1), (size,))


def normalized_axes(axes: Sequence[int], rank: int) -> list[int]:
    """Axes counted from the front, sorted."""
    return sorted(axis + rank if axis < 0 else axis for axis in axes)


def is_unshared(value: Value | None) -> bool:
    """Whether a constant has one reader only and may thus be changed for it."""
    return value is not None and value.only_use is not None


def readers(value: Value, but: Node | None = None) -> str:
    """Up to three of the nodes that read a value, for messages."""
    others = (use.node.name for use in value.uses if use.node is not but)
    names = list(itertools.islice(dict.fromkeys(itertools.islice(others, 8)), 4))
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def constant_node_data(node: Node) -> NDArray[Any] | None:
    """The elements of a Constant node (Operator Constant-21), None for strings and sparse tensors."""
    attribute = node.attributes.get("value")
    if isinstance(attribute, np.ndarray):
        return attribute
    for name, dtype in _TYPED_CONSTANTS.items():
        if name in node.attributes:
            return np.asarray(node.attributes[name], dtype)
    return None
