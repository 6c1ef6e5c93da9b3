"""The function that evaluates one operation; the `evaluate_*` modules register a kind of work each.

Arrays of computed tensors are [samples, *shape], those of constants have the tensor's own shape; so both broadcast against
each other. Nothing is written in place: inputs may be views of each other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial, singledispatch
from typing import TYPE_CHECKING, Any, TypeAlias

from qcompiler.integer.operations import Work
from qcompiler.integer.program import Tensor

if TYPE_CHECKING:
    from numpy.typing import NDArray

Arrays: TypeAlias = "Sequence[NDArray[Any]]"
Step: TypeAlias = "Callable[[Arrays], NDArray[Any]]"
"""From what an operation reads, in the order that its work states, to what it writes."""
Maker: TypeAlias = "Callable[[Any, Sequence[Tensor], Tensor], Step]"


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


@singledispatch
def prepare(work: Work, inputs: Sequence[Tensor], output: Tensor) -> Step:
    """A function that evaluates one operation many times: what depends on constants only is computed once.

    Args:
        work: What to compute.
        inputs: What it reads; computed tensors have no data.
        output: The tensor that it writes.
    """
    return partial(evaluated, work, output)


def evaluated(work: Work, output: Tensor, arrays: Arrays) -> NDArray[Any]:
    """As `evaluate`, with the arrays last."""
    return evaluate(work, arrays, output)


def prepared(kind: type[Work]) -> Callable[[Maker], Maker]:
    """Registers what makes the steps of a kind of work that reads constants; it evaluates single operations, too."""

    def register(make: Maker) -> Maker:
        def once(work: Work, arrays: Arrays, output: Tensor) -> NDArray[Any]:
            tensors = [Tensor("", array.shape, None, array.dtype, array) for array in arrays]
            return make(work, tensors, output)(arrays)

        def many(work: Work, inputs: Sequence[Tensor], output: Tensor) -> Step:
            if any(tensor.data is None for tensor in inputs[1:]):
                return partial(evaluated, work, output)
            return make(work, inputs, output)

        evaluate.register(kind, once)
        prepare.register(kind, many)
        return make

    return register
