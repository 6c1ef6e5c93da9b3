"""Predicates: the conditions that descriptors put on kernels and rows, each answering with a reason.

A predicate looks at a match and returns None when it holds, or one clause that says why it does not. Descriptors name it
(`check = "rank"`) and give its parameters; nothing in a descriptor is evaluated.
"""

from __future__ import annotations

import inspect
import math
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from qcompiler import ops
from qcompiler.ir.text import shape_text
from qcompiler.sources import value_source

if TYPE_CHECKING:
    from qcompiler.ir.node import Dim, Value
    from qcompiler.patterns import Match

Check = Callable[..., "str | None"]


@dataclass(frozen=True)
class Predicate:
    """A registered predicate.

    Attributes:
        check: The function; its keyword parameters are what descriptors give.
        parameters: Their names and types.
        required: Those without a default.
    """

    check: Check
    parameters: Mapping[str, Any]
    required: tuple[str, ...]

    @property
    def summary(self) -> str:
        """What it demands, one line."""
        return (self.check.__doc__ or "").strip().split("\n")[0]


PREDICATES: dict[str, Predicate] = {}
"""All predicates by name."""


def predicate(name: str) -> Callable[[Check], Check]:
    """Registers a predicate: a function of a match and keyword parameters."""

    def register(check: Check) -> Check:
        parameters = list(inspect.signature(check).parameters.values())[1:]
        # Only the parameters' annotations are resolved: that of the match may be known to type checkers alone.
        holder = types.SimpleNamespace(__annotations__={item.name: item.annotation for item in parameters})
        module = vars(sys.modules[check.__module__])
        required = tuple(item.name for item in parameters if item.default is inspect.Parameter.empty)
        PREDICATES[name] = Predicate(check, typing.get_type_hints(holder, module), required)
        return check

    return register


def refusal(match: Match, limits: Iterable[Mapping[str, Any]]) -> str | None:
    """Why the first limit of a descriptor that does not hold for a match does not, or None when all hold."""
    for limit in limits:
        parameters = {key: given for key, given in limit.items() if key not in ("check", "reason")}
        reason = PREDICATES[limit["check"]].check(match, **parameters)
        if reason is not None:
            return str(limit.get("reason") or reason)
    return None


def _operand(match: Match, operand: str) -> Value | None:
    return match.root.output if operand == "output" else match.get(operand)


@predicate("constant")
def _constant(match: Match, operand: str) -> str | None:
    """The operand's elements are known at compile time."""
    value = _operand(match, operand)
    return (
        None
        if value is None or value.is_constant
        else f"{operand} ({value.name}) is computed at run time, not a constant"
    )


@predicate("variable")
def _variable(match: Match, operand: str) -> str | None:
    """The operand is computed at run time."""
    value = _operand(match, operand)
    return f"{operand} ({value.name}) is a constant" if value is not None and value.is_constant else None


@predicate("absent")
def _absent(match: Match, operand: str) -> str | None:
    """The operand is left out."""
    value = _operand(match, operand)
    return None if value is None else f"{operand} ({value.name}) is given"


@predicate("float-type")
def _float_type(match: Match, operand: str) -> str | None:
    """The operand is a float tensor, not integers or booleans."""
    value = _operand(match, operand)
    if value is None or value.dtype is None or value.dtype.kind == "f" or value.dtype.name == "bfloat16":
        return None
    return f"{operand} ({value.name}) holds {value.dtype}, not floats"


@predicate("rank")
def _rank(match: Match, operand: str, accepted: list[int]) -> str | None:
    """The operand's number of dimensions is one of `accepted`."""
    value = _operand(match, operand)
    if value is None or value.rank in accepted:
        return None
    return f"{operand} ({value.name}) has {'unknown rank' if value.rank is None else f'rank {value.rank}'}, not {_either(accepted)}"


@predicate("dimension")
def _dimension(
    match: Match, operand: str, axis: int, minimum: int = 0, maximum: int | None = None, multiple: int = 1
) -> str | None:
    """The operand's size along `axis` is known, in [minimum, maximum] and a multiple of `multiple`."""
    value = _operand(match, operand)
    if value is None:
        return None
    size: Dim = (
        value.shape[axis]
        if value.shape is not None and -len(value.shape) <= axis < len(value.shape)
        else None
    )
    what = f"dimension {axis} of {operand} {shape_text(value.shape)}"
    if not isinstance(size, int):
        return f"{what} is not known at compile time"
    return _size(size, what, minimum, maximum, multiple)


@predicate("channels")
def _channels(
    match: Match, operand: str, minimum: int = 0, maximum: int | None = None, multiple: int = 1
) -> str | None:
    """The output channels of a constant operand (by the op table's axis) are within bounds."""
    return _by_axis(match, operand, "channel_axis", "output channels", minimum, maximum, multiple)


@predicate("contraction")
def _contraction(
    match: Match, operand: str, minimum: int = 0, maximum: int | None = None, multiple: int = 1
) -> str | None:
    """The size summed over in a constant operand (by the op table's axis) is within bounds."""
    return _by_axis(match, operand, "contraction_axis", "elements summed over", minimum, maximum, multiple)


def _by_axis(
    match: Match, operand: str, axis_of: str, what: str, minimum: int, maximum: int | None, multiple: int
) -> str | None:
    value = _operand(match, operand)
    if value is None:
        return None
    uses = [use for use in value.uses if use.node in match.nodes]
    axis = getattr(ops.info(uses[0].node), axis_of)(*uses[0]) if uses else None
    size = value.shape[axis] if axis is not None and value.shape is not None else None
    if not isinstance(size, int):
        return f"the {what} of {operand} ({value.name}) are not known"
    return _size(size, f"the number of {what} of {operand}", minimum, maximum, multiple)


def _size(size: int, what: str, minimum: int, maximum: int | None, multiple: int) -> str | None:
    if size < minimum:
        return f"{what} is {size}, below {minimum}"
    if maximum is not None and size > maximum:
        return f"{what} is {size}, above {maximum}"
    return f"{what} is {size}, not a multiple of {multiple}" if size % multiple else None


@predicate("attribute")
def _attribute(
    match: Match,
    name: str,
    op: str = "",
    accepted: list[Any] | None = None,
    minimum: float | None = None,
    maximum: float | None = None,
    default: Any = None,
) -> str | None:
    """Every element of an attribute is among `accepted` and in [minimum, maximum]; of the match's `op` nodes, or of all."""
    for node in match.nodes:
        if (op and node.op != op) or (name not in node.attributes and default is None):
            continue
        given = node.attributes.get(name, default)
        for item in given if isinstance(given, list) else [given]:
            shown = item.decode() if isinstance(item, bytes) else item
            if accepted is not None and shown not in accepted:
                return f"{name} of {node.op} is {shown!r}, not {_either(accepted)}"
            low = -math.inf if minimum is None else minimum
            high = math.inf if maximum is None else maximum
            bounded = minimum is not None or maximum is not None
            if bounded and not (isinstance(shown, int | float) and low <= shown <= high):
                return f"{name} of {node.op} is {shown!r}, outside {low:g}..{high:g}"
    return None


@predicate("attributes")
def _attributes(match: Match, names: list[str], defaults: list[Any], accepted: list[list[Any]]) -> str | None:
    """Several attributes together, defaults where they are left out, are one of `accepted`."""
    node = match.anchor
    given = [node.attributes.get(name, default) for name, default in zip(names, defaults, strict=True)]
    shown = [item.decode() if isinstance(item, bytes) else item for item in given]
    if shown in accepted:
        return None
    listed = " or ".join(" and ".join(map(str, items)) for items in accepted)
    return f"{', '.join(names)} of {node.op} are {' and '.join(map(str, shown))}, not {listed}"


@predicate("scales-as-sizes")
def _scales_as_sizes(match: Match, operand: str, scales: str) -> str | None:
    """The scales, if they are given, are the ratios of the result's sizes to the operand's."""
    data, factors, made = _operand(match, operand), _operand(match, scales), match.root.output
    if data is None or factors is None or factors.data is None or factors.data.size == 0:
        return None
    for before, after, factor in zip(data.shape or (), made.shape or (), factors.data, strict=True):
        if isinstance(before, int) and not (
            isinstance(after, int) and math.isclose(before * factor, after, rel_tol=1e-6)
        ):
            return f"the factor {factor:g} is not the ratio of the sizes, {before} to {after}"
    return None


@predicate("kernel-size")
def _kernel_size(match: Match, maximum: int, operand: str = "w") -> str | None:
    """No spatial dimension of the filter exceeds `maximum`."""
    value = _operand(match, operand)
    if value is None:
        return None
    spatial = value.shape[2:] if value.shape is not None else (None,)
    if not all(isinstance(dim, int) for dim in spatial):
        return f"the size of the kernel {operand} ({value.name}) is not known at compile time"
    if max((dim for dim in spatial if isinstance(dim, int)), default=0) <= maximum:
        return None
    return f"kernel {'x'.join(map(str, spatial))} exceeds {maximum}"


@predicate("depthwise")
def _depthwise(match: Match, accepted: bool = True) -> str | None:
    """The convolution has one group per input channel (or, with accepted = false, has not)."""
    group = match.anchor.attributes.get("group", 1)
    value = match.anchor.input(1)
    single = value is not None and value.shape is not None and value.shape[1] == 1
    is_depthwise = group > 1 and single
    if is_depthwise == accepted:
        return None
    return f"the convolution {'is' if is_depthwise else 'is not'} depthwise (group {group})"


@predicate("elements")
def _elements(match: Match, operand: str, maximum: int | None = None, minimum: int = 0) -> str | None:
    """The number of elements of the operand for one sample (axis 0 left out for computed values) is within bounds."""
    value = _operand(match, operand)
    if value is None:
        return None
    dims = value.shape if value.is_constant or value.shape is None else value.shape[1:]
    if dims is None or not all(isinstance(dim, int) for dim in dims):
        return f"the size of {operand} ({value.name}) is not known at compile time"
    count = math.prod(dim for dim in dims if isinstance(dim, int))
    return _size(count, f"the number of elements of {operand}", minimum, maximum, 1)


@predicate("dimensions")
def _dimensions(match: Match, operand: str, maximum: int) -> str | None:
    """No dimension of the operand that is known is above `maximum`."""
    value = _operand(match, operand)
    sizes = [dim for dim in value.shape or () if isinstance(dim, int)] if value is not None else []
    if max(sizes, default=0) <= maximum or value is None:
        return None
    return f"{operand} {shape_text(value.shape)} has a dimension above {maximum}"


@predicate("filter-elements")
def _filter_elements(match: Match, operand: str, maximum: int) -> str | None:
    """The elements of one filter of a convolution's weight are at most `maximum`."""
    value = _operand(match, operand)
    if value is None or value.shape is None:
        return None
    count = math.prod(dim for dim in value.shape[1:] if isinstance(dim, int))
    return _size(count, f"the number of elements of one filter of {operand}", 0, maximum, 1)


@predicate("depthwise-multiplier")
def _depthwise_multiplier(match: Match, maximum: int) -> str | None:
    """Of a depthwise convolution, every input channel has at most `maximum` filters."""
    weight, group = match.anchor.input(1), int(match.anchor.attributes.get("group", 1))
    channels = weight.shape[0] if weight is not None and weight.shape else None
    if not isinstance(channels, int) or channels <= maximum * group:
        return None
    return f"every input channel has {channels // group} filters"


@predicate("per-output-channel")
def _per_output_channel(match: Match, operand: str) -> str | None:
    """The operand is a constant of one number, or of one per element of the result's last axis."""
    value = _operand(match, operand)
    if value is None or (value.data is not None and value.data.size in (1, (value.shape or (0,))[-1])):
        return None
    return f"{operand} ({value.name}) is no constant with one number per output channel"


@predicate("same-leading")
def _same_leading(match: Match, operands: list[str]) -> str | None:
    """The operands have two dimensions or more, and are alike in all but the last two."""
    shapes = {name: value.shape for name in operands if (value := _operand(match, name)) is not None}
    known = [shape for shape in shapes.values() if shape is not None and len(shape) > 1]
    if len(known) == len(shapes) and len({shape[:-2] for shape in known}) <= 1:
        return None
    return "stacks of matrices differ: " + ", ".join(
        f"{name} {shape_text(shape)}" for name, shape in shapes.items()
    )


@predicate("not-graph-input")
def _not_graph_input(match: Match, operand: str) -> str | None:
    """The operand is computed by the graph: it is none of the model's inputs, moved or not."""
    value = _operand(match, operand)
    source = value_source(value) if value is not None and not value.is_constant else None
    return (
        f"{operand} ({source.name}) is an input of the model"
        if source is not None and source.is_input
        else None
    )


@predicate("same-shape")
def _same_shape(match: Match, operands: list[str]) -> str | None:
    """The operands have equal known shapes: nothing is broadcast."""
    shapes = {name: value.shape for name in operands if (value := _operand(match, name)) is not None}
    if len(set(shapes.values())) <= 1 and None not in shapes.values():
        return None
    return "shapes differ: " + ", ".join(f"{name} {shape_text(shape)}" for name, shape in shapes.items())


@predicate("last-axis")
def _last_axis(match: Match, default: int = -1) -> str | None:
    """The `axis` attribute names the last dimension."""
    axis, rank = match.anchor.attributes.get("axis", default), match.anchor.output.rank
    if axis == -1 or (rank is not None and axis == rank - 1):
        return None
    return f"axis {axis} of {match.anchor.op} is not the last of {rank}"


@predicate("axis-size")
def _axis_size(match: Match, maximum: int, default: int = -1) -> str | None:
    """The size of the dimension that the `axis` attribute names is known and at most `maximum`."""
    node = match.anchor
    axis, shape = int(node.attributes.get("axis", default)), node.output.shape
    size = shape[axis] if shape is not None else None
    if not isinstance(size, int):
        return f"the size of axis {axis} of {node.op} is not known at compile time"
    return _size(size, f"the size of axis {axis} of {node.op}", 0, maximum, 1)


@predicate("finite")
def _finite(match: Match, operand: str) -> str | None:
    """Every element of a constant operand is finite."""
    value = _operand(match, operand)
    if value is None or value.data is None or bool(np.isfinite(np.asarray(value.data, np.float32)).all()):
        return None
    return f"{operand} ({value.name}) holds NaN or infinite elements"


@predicate("zero")
def _zero(match: Match, operand: str) -> str | None:
    """The operand is left out, or a constant of zeros."""
    value = _operand(match, operand)
    if value is None or (value.data is not None and not np.any(value.data)):
        return None
    return f"{operand} ({value.name}) is not zero"


@predicate("not-negative")
def _not_negative(match: Match, operand: str) -> str | None:
    """The operand is a constant without negative elements."""
    value = _operand(match, operand)
    if value is None or (value.data is not None and not np.any(value.data < 0)):
        return None
    return f"{operand} ({value.name}) is no constant without negative elements"


def _either(accepted: list[Any]) -> str:
    return " or ".join(str(item) for item in accepted)
