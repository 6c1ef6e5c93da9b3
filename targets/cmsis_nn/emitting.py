"""What writes operations as C functions: the table of kinds, and what the writers share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from qcompiler.errors import TargetError
from qcompiler.targets.cmsis_nn.c_text import c_type

if TYPE_CHECKING:
    from qcompiler.fixed_point import Rescale
    from qcompiler.integer.operations import Work
    from qcompiler.integer.program import Operation, Tensor
    from qcompiler.targets.cmsis_nn.boards import KernelPath
    from qcompiler.targets.cmsis_nn.constants import Constants
    from qcompiler.targets.cmsis_nn.slicing import Slice


@dataclass
class Body:
    """The inside of a step's function.

    Attributes:
        lines: Declarations and statements, the last of which returns the status.
        functions: What they call.
    """

    lines: list[str] = field(default_factory=list)
    functions: list[str] = field(default_factory=list)

    def call(self, function: str, *arguments: str) -> None:
        """Ends the body with a call whose status is returned."""
        self.lines.append(f"return {self.invocation(function, *arguments)};")

    def invocation(self, function: str, *arguments: str) -> str:
        """A call as an expression."""
        self.functions.append(function)
        return f"{function}({', '.join(arguments)})"


@dataclass(frozen=True)
class Context:
    """What emitting a step has to know.

    Attributes:
        constants: Where constant arrays go.
        path: The core's implementation of the library.
        slices: Operation name to the slices of rows that it is computed in; whole where it is not listed.
    """

    constants: Constants
    path: KernelPath
    slices: Mapping[str, tuple[Slice, ...]]

    def operand(self, tensor: Tensor, name: str) -> str:
        """A tensor as an argument: the array of a constant, or the parameter of the step's function."""
        return self.constants.tensor(tensor) if tensor.data is not None else name


Emit = Callable[["Operation", Context], Body]

_EMITTERS: dict[type[Work], Emit] = {}


def emits(*kinds: type[Work]) -> Callable[[Emit], Emit]:
    """Registers what writes operations of some kinds."""

    def register(function: Emit) -> Emit:
        _EMITTERS.update(dict.fromkeys(kinds, function))
        return function

    return register


def body(operation: Operation, context: Context) -> Body:
    """The C code of an operation.

    The function has the parameters x0, x1, ... (computed inputs, by their slots), y and scratch.
    """
    kind = type(operation.work)
    if kind not in _EMITTERS:
        raise TargetError(f"{operation.name}: there is no C kernel for {kind.__name__}.")
    return _EMITTERS[kind](operation, context)


def dims(name: str, shape: Sequence[int]) -> str:
    """The declaration of a shape [N, H, W, C], of fewer axes with ones in front."""
    full = (*((1,) * (4 - len(shape))), *shape)
    return f"const cmsis_nn_dims {name} = {{{', '.join(map(str, full))}}};"


def clamps(work: Any) -> str:
    """The activation of a kind of work."""
    return f"{{{work.low}, {work.high}}}"


def factor(rescale: Rescale) -> str:
    """Multiplier and shift of a single factor, as two arguments."""
    return f"{rescale.multiplier[0]}, {rescale.shift[0]}"


def parameter_list(operation: Operation, *, scratch: bool) -> str:
    """The parameters of the function of a step."""
    given = [
        f"const {c_type(tensor.dtype)} *x{slot}"
        for slot, tensor in enumerate(operation.inputs)
        if tensor.data is None
    ]
    made = f"{c_type(operation.output.dtype)} *y"
    return ", ".join([*given, made, *(["void *scratch"] if scratch else [])])
