"""Where a value's elements come from: through ops that only rearrange them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from qcompiler import ops

if TYPE_CHECKING:
    from qcompiler.ir.node import Value


def value_source(value: Value) -> Value:
    """Where a value's elements come from: the first value before ops that only rearrange them, so that its range is theirs.

    Ops that leave elements out (Slice, Gather) or bring some in (Pad) are not looked through, which shows in the number of
    elements.
    """
    while value.producer is not None and ops.info(value.producer).kind == "movement":
        first = value.producer.input(0)
        if first is None or first.is_constant:
            break
        count = _elements(value)
        if count is None or _elements(first) != count:
            break
        value = first
    return value


def _elements(value: Value) -> tuple[int, tuple[str, ...]] | None:
    """The number of elements: the product of the known dimensions, and the symbols of the others; None where unknown."""
    dims = value.shape
    if dims is None or None in dims:
        return None
    known = math.prod(dim for dim in dims if isinstance(dim, int))
    return known, tuple(sorted(dim for dim in dims if isinstance(dim, str)))
