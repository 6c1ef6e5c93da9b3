"""The function that evaluates one operation; the `evaluate_*` modules register a kind of work each.

Arrays of computed tensors are [samples, *shape], those of constants have the tensor's own shape; so both broadcast against
each other. Nothing is written in place: inputs may be views of each other.
"""

from __future__ import annotations

from functools import singledispatch
from typing import TYPE_CHECKING, Any

from qcompiler.integer.operations import Work

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from qcompiler.integer.program import Tensor

    Arrays = Sequence[NDArray[Any]]


@singledispatch
def evaluate(work: Work, arrays: Arrays, output: Tensor) -> NDArray[Any]:
    """What an operation writes, [samples, *output.shape] of the output's type.

    Args:
        work: What to compute.
        arrays: What it reads, in the order that the work states.
        output: The tensor that it writes.

    Raises:
        NotImplementedError: The kind of work is not known here.
    """
    raise NotImplementedError(f"{type(work).__name__} cannot be evaluated")
