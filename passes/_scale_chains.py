"""Channels that can be scaled: groups of values tied by operators that commute with a positive factor per channel.

For s > 0, relu(x / s) = relu(x) / s, and the same holds for pooling, padding with zeros, data movement, and sums of values
that are divided alike. A group is everything that must be divided by one vector of factors: it begins at the weighted
layers that produce it, which divide their output channels, and ends at the weighted layers that read it, which multiply
their input channels. The channels are followed through reshapes by carrying, for every index along the channel axis, the
lane of the group that it belongs to.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from qcompiler import ops
from qcompiler.passes._linear_layers import LINEAR, Linear, linear_layer
from qcompiler.passes._operands import (
    along_axis,
    constant,
    element_count,
    integers,
    normalized_axes,
    same_shape,
    scalar,
    static,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qcompiler.ir.graph import Graph
    from qcompiler.ir.node import Node, Shape, Value

Floats: TypeAlias = "NDArray[np.float64]"
Lanes: TypeAlias = "NDArray[np.intp]"

_MARGIN = (
    1e-5  # of the sum of magnitudes: what float32 may add to a bound that was computed in double precision
)
_NO_BOUND = 1e38  # exporters write the largest float32 where they mean none


class Layer:
    """A weighted layer with its weight as blocks [groups, outputs, inputs, taps], whatever its operator stores.

    Output channel j of group g is output channel g * outputs + j of the layer, likewise for inputs. The weight is read from
    the node whenever it is asked for, so that a layer between two groups can be scaled twice.
    """

    def __init__(self, linear: Linear) -> None:
        self.node = linear.node
        self._linear = linear
        groups, outputs, inputs, _ = self.blocks().shape
        self.outputs, self.inputs = groups * outputs, groups * inputs

    @property
    def input_axis(self) -> int:
        """The axis of input channels."""
        source = self.node.inputs[0]
        rank = None if source is None else source.rank
        return self._linear.axis if rank is None or self.node.op != "MatMul" else rank - 1

    @property
    def output_axis(self) -> int:
        """The axis of output channels."""
        return self._linear.axis

    def blocks(self) -> NDArray[Any]:
        """The weight; a view, which must not be written."""
        data = constant(self.node, 1)
        assert data is not None
        groups = self._linear.group
        if self.node.op == "Conv":
            return data.reshape(groups, data.shape[0] // groups, data.shape[1], -1)
        if self.node.op == "ConvTranspose":
            return data.reshape(groups, data.shape[0] // groups, data.shape[1], -1).swapaxes(1, 2)
        matrix = data.reshape(data.shape[-2:])
        return (matrix if self._rows_are_outputs else matrix.T)[None, :, :, None]

    @property
    def _rows_are_outputs(self) -> bool:
        return self.node.op == "Gemm" and bool(self.node.attributes.get("transB", 0))

    def stored(self, blocks: NDArray[Any]) -> NDArray[Any]:
        """Blocks as the node stores them."""
        data = constant(self.node, 1)
        assert data is not None
        if self.node.op != "Conv" and not self._rows_are_outputs:
            blocks = blocks.swapaxes(1, 2)
        return np.ascontiguousarray(blocks.reshape(data.shape), dtype=data.dtype)

    def by_output(self, factors: Floats) -> Floats:
        """A vector over output channels in the shape of the blocks."""
        groups, outputs, _, _ = self.blocks().shape
        return factors.reshape(groups, outputs, 1, 1)

    def by_input(self, factors: Floats) -> Floats:
        """A vector over input channels in the shape of the blocks."""
        groups, _, inputs, _ = self.blocks().shape
        return factors.reshape(groups, 1, inputs, 1)

    def bias(self) -> Floats | None:
        """The bias per output channel; None where there is none."""
        data = constant(self.node, 2)
        return None if data is None else np.broadcast_to(data.astype(np.float64).reshape(-1), (self.outputs,))

    def output_bounds(self, low: Floats, high: Floats) -> tuple[Floats, Floats]:
        """Between which numbers each output channel lies, of those of the inputs; interval arithmetic with a margin."""
        if self.node.op in ("Conv", "ConvTranspose"):  # at borders some taps read nothing
            low, high = np.minimum(low, 0.0), np.maximum(high, 0.0)
        blocks = self.blocks().astype(np.float64)
        up = np.maximum(blocks, 0.0).sum(axis=3, keepdims=True)
        down = np.minimum(blocks, 0.0).sum(axis=3, keepdims=True)
        low, high = self.by_input(low), self.by_input(high)
        upper = (_times(up, high) + _times(down, low)).sum(axis=2).reshape(-1)
        lower = (_times(up, low) + _times(down, high)).sum(axis=2).reshape(-1)
        bias = self.bias()
        shift = np.zeros(self.outputs) if bias is None else bias
        slack = _MARGIN * (np.maximum(np.abs(upper), np.abs(lower)) + np.abs(shift))
        return lower + shift - slack, upper + shift + slack


def _times(weight: Floats, bound: Floats) -> Floats:
    """Products in which nothing times infinity is nothing."""
    with np.errstate(invalid="ignore"):
        return np.where(weight == 0, 0.0, weight * bound)


@dataclass(frozen=True)
class Channels:
    """Where the lanes of a group are in a value.

    Attributes:
        group: The group; ask `Group.root` of it.
        axis: Of the value's channels.
        lanes: Of every index along the axis, which lane of the group it is.
        low: Per lane, a number that no element is below; -inf where none is known.
        high: Likewise above.
    """

    group: Group
    axis: int
    lanes: Lanes
    low: Floats
    high: Floats

    def unbounded(self) -> Channels:
        """The same without bounds."""
        return replace(self, low=np.full_like(self.low, -np.inf), high=np.full_like(self.high, np.inf))

    def with_zero(self) -> Channels:
        """The same with bounds that admit zero."""
        return replace(self, low=np.minimum(self.low, 0.0), high=np.maximum(self.high, 0.0))


@dataclass(frozen=True)
class Reading:
    """A layer that reads a value of the group."""

    layer: Layer
    value: Value
    lanes: Lanes


@dataclass(frozen=True)
class Shift:
    """A constant that is added to a value of the group, and so is divided too.

    Attributes:
        node: The Add or Sub.
        slot: Of the constant.
        rank: Of the result.
        axis: Of the channels.
        lanes: As in `Channels`.
    """

    node: Node
    slot: int
    rank: int
    axis: int
    lanes: Lanes

    def divided(self, factors: Floats) -> NDArray[Any]:
        """The constant, divided per channel."""
        data = constant(self.node, self.slot)
        assert data is not None
        row = along_axis(data.astype(np.float64), self.rank, self.axis, self.lanes.size)
        assert row is not None
        shape = (-1, *[1] * (self.rank - 1 - self.axis))
        return (row / factors[self.lanes]).reshape(shape).astype(data.dtype)


@dataclass(eq=False)
class Group:
    """Values that can only be divided together.

    Attributes:
        size: How many lanes there are.
        name: Of the layer that the group was found at.
        producers: Layers whose output channels are the lanes.
        readings: Layers that read them.
        shifts: Constants added on the way.
        axes: Channel axis of every value that a reading reads.
        least: Per lane, the smallest factor that a Clip admits; 0 where it does not matter.
        fixed: Per lane, whether only the factor 1 is admitted.
        reasons: Why the group must be left alone; empty where it can be scaled.
        clips: What fixed lanes.
        between: Whether a layer reads it, or might if an operator before it were another; if not, there is nothing to tell.
    """

    size: int
    name: str
    producers: list[Layer] = field(default_factory=list)
    readings: list[Reading] = field(default_factory=list)
    shifts: list[Shift] = field(default_factory=list)
    axes: dict[Value, int] = field(default_factory=dict)
    least: Floats = field(default_factory=lambda: np.zeros(0))
    fixed: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, np.bool_))
    reasons: list[str] = field(default_factory=list)
    clips: list[str] = field(default_factory=list)
    between: bool = False
    _parent: Group | None = None

    def __post_init__(self) -> None:
        self.least, self.fixed = np.zeros(self.size), np.zeros(self.size, np.bool_)

    @property
    def root(self) -> Group:
        """The group that this one has become a part of."""
        group = self
        while group._parent is not None:
            if group._parent._parent is not None:
                group._parent = group._parent._parent
            group = group._parent
        return group

    def layers(self) -> list[Layer]:
        """The layers that produce or read the group."""
        return [*self.producers, *(reading.layer for reading in self.readings)]

    def squares(self) -> Floats:
        """Per lane, the sum of the squares of the weights that read it."""
        total = np.zeros(self.size)
        for reading in self.readings:
            weight = reading.layer.blocks().astype(np.float64)
            np.add.at(total, reading.lanes, (weight**2).sum(axis=(1, 3)).reshape(-1))
        return total

    def join(self, other: Group) -> None:
        """Ties two groups of the same lanes."""
        one, two = self.root, other.root
        if one is two:
            return
        if len(one.producers) + len(one.readings) < len(two.producers) + len(two.readings):
            one, two = two, one
        two._parent = one
        one.producers += two.producers
        one.readings += two.readings
        one.shifts += two.shifts
        one.reasons += two.reasons
        one.clips += two.clips
        one.axes.update(two.axes)
        one.between = one.between or two.between
        one.least, one.fixed = np.maximum(one.least, two.least), one.fixed | two.fixed

    def confined(self, exponents: Floats, *, whole: bool) -> Floats:
        """Exponents (base 2) of factors as near to the given ones as the Clips admit; rounded if asked."""
        with np.errstate(divide="ignore"):
            least = np.log2(self.least)
        if whole:
            exponents, least = np.rint(exponents), np.ceil(least)
        return np.where(self.fixed, 0.0, np.maximum(exponents, least))


def largest(numbers: Floats, lanes: Lanes, size: int) -> Floats:
    """Per lane, the largest of the numbers at its indices; 0 where none is larger."""
    found = np.zeros(size)
    np.maximum.at(found, lanes, numbers)
    return found


def find_groups(graph: Graph, encoded: Mapping[Value, object] | None = None) -> list[Group]:
    """The groups between layers, in the order in which they begin; those with reasons too, for these to be told.

    Args:
        graph: With shapes.
        encoded: Values with encodings that came with the model, and so must keep their numbers.
    """
    return _Walk(encoded or {}).over(graph)


_Rule: TypeAlias = "Callable[[Node, Channels], Channels | str]"


class _Walk:
    """Follows channels from the layers on, producers first."""

    def __init__(self, encoded: Mapping[Value, object]) -> None:
        self._encoded = encoded
        self._channels: dict[Value, Channels] = {}
        self._bounds: dict[Value, tuple[float, float]] = {}
        self._groups: list[Group] = []

    def over(self, graph: Graph) -> list[Group]:
        """Walks the graph."""
        for node in graph.topological():
            if node.is_op(*LINEAR):
                self._through_layer(node)
            elif node.is_op(*_JOINS):
                self._through_join(node)
            elif node.is_op(*_RULES):
                self._through_rule(node)
            else:
                self._stop_all(node)
            self._note_bounds(node)
        for value in graph.outputs:
            self._stop(value, f"{value.name!r} is a graph output")
        for value in self._encoded:
            self._stop(value, f"{value.name!r} has an encoding that came with the model")
        found = dict.fromkeys(group.root for group in self._groups)
        for group in found:
            if not group.reasons and group.fixed.all():
                group.reasons.append(group.clips[0])
        return [group for group in found if group.between]

    def _stop(self, value: Value | None, reason: str) -> None:
        channels = None if value is None else self._channels.get(value)
        if channels is not None:
            channels.group.root.reasons.append(reason)

    def _stop_all(self, node: Node, *but: int) -> None:
        for slot, value in node.operands():
            if slot not in but:
                self._stop(value, f"{value.name!r} is read by {node.name}, which is {node.op}")

    def _note_bounds(self, node: Node) -> None:
        for value in node.outputs:
            if value is not None and value not in self._channels:
                self._bounds[value] = ops.info(node).bounds(node)

    def _through_layer(self, node: Node) -> None:
        linear = linear_layer(node)
        if not isinstance(linear, str) and linear.weight.dtype.itemsize < 4:
            linear = f"the weight of {node.name} is of type {linear.weight.dtype}"
        weight = node.input(1)
        if not isinstance(linear, str) and weight in self._encoded:
            linear = f"the weight of {node.name} has an encoding that came with the model"
        self._stop_all(node, 0)
        source = node.input(0)
        channels = None if source is None else self._channels.get(source)
        if channels is not None:
            channels.group.root.between = True
        if isinstance(linear, str):
            self._stop(source, linear)
            self._begin_refused(node, linear)
            return
        layer = Layer(linear)
        low, high = np.full(layer.inputs, -np.inf), np.full(layer.inputs, np.inf)
        if source in self._bounds:
            low, high = (np.full(layer.inputs, bound) for bound in self._bounds[source])
        if channels is not None and source is not None:
            if channels.axis != layer.input_axis or channels.lanes.size != layer.inputs:
                self._stop(source, f"{node.name} does not sum over the channels of {source.name!r}")
            else:
                group = channels.group.root
                group.readings.append(Reading(layer, source, channels.lanes))
                group.axes[source] = channels.axis
                low, high = channels.low[channels.lanes], channels.high[channels.lanes]
        self._begin(node, layer, *layer.output_bounds(low, high))

    def _begin(self, node: Node, layer: Layer, low: Floats, high: Floats) -> None:
        group = Group(layer.outputs, node.name, [layer])
        self._groups.append(group)
        self._channels[node.output] = Channels(group, layer.output_axis, np.arange(layer.outputs), low, high)

    def _begin_refused(self, node: Node, reason: str) -> None:
        """Followed all the same: the layers that it is tied to by additions must be left alone too."""
        shape = node.output.shape
        axis = 1 if node.op != "MatMul" else len(shape or ()) - 1
        size = shape[axis] if shape is not None and 0 <= axis < len(shape) else None
        if isinstance(size, int):
            group = Group(size, node.name, reasons=[reason])
            self._groups.append(group)
            ends = np.full(size, np.inf)
            self._channels[node.output] = Channels(group, axis, np.arange(size), -ends, ends)

    def _through_rule(self, node: Node) -> None:
        source = node.input(0)
        channels = None if source is None else self._channels.get(source)
        self._stop_all(node, 0)
        if channels is None:
            return
        found = _RULES[node.op](node, channels)
        if isinstance(found, str):
            channels.group.root.between = True
            self._stop(source, found)
        else:
            self._channels[node.output] = found

    def _through_join(self, node: Node) -> None:
        found = [(slot, value, self._channels.get(value)) for slot, value in node.operands()]
        tracked = [channels for _, _, channels in found if channels is not None]
        first = tracked[0] if tracked else None
        if first is None:
            return
        rank = node.output.rank
        joined: Channels | None = None
        if len(tracked) == len(found) and not node.is_op("Mul", "Div"):
            if all(
                value.rank == rank and _alike(first, channels) for _, value, channels in found if channels
            ):
                for channels in tracked[1:]:
                    first.group.join(channels.group)
                joined = _sum_of(tracked) if node.op in ("Add", "Sum") else first.unbounded()
        elif len(found) == 2 and len(tracked) == 1 and rank is not None:
            joined = self._with_constant(node, rank, found)
        if joined is None:
            for channels in tracked:
                channels.group.root.between = True
            self._stop_all(node)
        else:
            self._channels[node.output] = joined

    def _with_constant(
        self, node: Node, rank: int, found: list[tuple[int, Value, Channels | None]]
    ) -> Channels | None:
        """A constant that is added or subtracted, or anything that multiplies without widening."""
        (_, value, channels), (slot, other, _) = found if found[0][2] is not None else found[::-1]
        if channels is None or value.rank != rank:
            return None
        if node.op == "Mul" or (node.op == "Div" and slot == 1):
            return channels.unbounded() if same_shape(value.shape, node.output.shape) else None
        if node.op not in ("Add", "Sub") or other.data is None or other.data.dtype.kind != "f":
            return None
        if along_axis(other.data, rank, channels.axis, channels.lanes.size) is None:
            return None
        channels.group.root.shifts.append(Shift(node, slot, rank, channels.axis, channels.lanes))
        return channels.unbounded()


_JOINS = ("Add", "Sub", "Sum", "Max", "Min", "Mul", "Div")


def _alike(one: Channels, two: Channels) -> bool:
    return (
        one.axis == two.axis
        and one.group.root.size == two.group.root.size
        and np.array_equal(one.lanes, two.lanes)
    )


def _sum_of(tracked: list[Channels]) -> Channels:
    low = np.sum([channels.low for channels in tracked], axis=0)
    high = np.sum([channels.high for channels in tracked], axis=0)
    return replace(tracked[0], low=low, high=high)


# -- rules ----------------------------------------------------------------------------------------------------------


def _pointwise(node: Node, channels: Channels) -> Channels | str:
    return channels.unbounded()


def _same(node: Node, channels: Channels) -> Channels | str:
    return channels


def _relu(node: Node, channels: Channels) -> Channels | str:
    return replace(channels, low=np.maximum(channels.low, 0.0), high=np.maximum(channels.high, 0.0))


def _dropout(node: Node, channels: Channels) -> Channels | str:
    training = node.input(2)
    if training is not None and (training.data is None or bool(np.any(training.data))):
        return f"{node.name} drops elements"
    return channels


def _pool(node: Node, channels: Channels) -> Channels | str:
    """Windows over what is behind the channels; padding is minus infinity or zero, which no factor changes."""
    if channels.axis != 1:
        return f"{node.name} pools over the channels"
    return channels.with_zero()


def _pad(node: Node, channels: Channels) -> Channels | str:
    value, given = scalar(constant(node, 2)), node.input(2)
    mode = node.attributes.get("mode", b"constant")
    if mode in (b"constant", "constant") and given is not None and value != 0:
        return f"{node.name} pads with other numbers than zero"
    pads, source = integers(node, 1), node.inputs[0]
    assert source is not None
    rank = source.rank
    if pads is None or rank is None:
        return f"how far {node.name} pads is not known"
    axes = integers(node, 3) if node.input(3) is not None else list(range(rank))
    if axes is None:
        return f"the axes of {node.name} are not known"
    for index, axis in enumerate(axes):
        if axis % rank == channels.axis and (pads[index] or pads[index + len(axes)]):
            return f"{node.name} adds channels"
    return channels.with_zero()


def _transpose(node: Node, channels: Channels) -> Channels | str:
    source = node.inputs[0]
    assert source is not None
    if source.rank is None:
        return f"the rank of {source.name!r} is not known"
    order = list(node.attributes.get("perm", range(source.rank)[::-1]))
    return replace(channels, axis=order.index(channels.axis))


def _reshape(node: Node, channels: Channels) -> Channels | str:
    """Elements keep their order: as many last axes of both as have the same elements, the channels among them, are looked at.

    Every element's lane follows from its place there, and one axis of the result must tell all lanes.
    """
    source = node.inputs[0]
    assert source is not None
    refused = f"the channels cannot be followed through {node.name}"
    before, after = source.shape, node.output.shape
    if before is None or after is None:
        return refused
    first, last = _same_elements(before, after, channels.axis)
    old, new = static(before[first:]), static(after[last:])
    if old is None or new is None or not new or math.prod(old) != math.prod(new):
        return refused
    shape = [-1 if index == channels.axis - first else 1 for index in range(len(old))]
    spread = np.broadcast_to(channels.lanes.reshape(shape), old).reshape(new)
    for axis in range(len(new)):
        row = spread[tuple(slice(None) if index == axis else slice(0, 1) for index in range(len(new)))]
        if (row == spread).all():
            return replace(channels, axis=last + axis, lanes=row.reshape(-1))
    return refused


def _same_elements(before: Shape, after: Shape, axis: int) -> tuple[int, int]:
    """From which axes on two shapes have equally many elements, the given axis of the first included, if any."""
    first, last = axis, len(after)
    while (old := element_count(before[first:])) != (new := element_count(after[last:])):
        if old is None or new is None or 0 in (old, new):
            break
        if new < old and last > 0:
            last -= 1
        elif old < new and first > 0:
            first -= 1
        else:
            break
    return first, last


def _reduce(node: Node, channels: Channels) -> Channels | str:
    source = node.inputs[0]
    assert source is not None
    axes = integers(node, 1) if node.input(1) is not None else node.attributes.get("axes")
    if not axes or source.rank is None:
        return f"{node.name} reduces all axes, or which ones is not known"
    reduced = normalized_axes(list(axes), source.rank)
    if channels.axis in reduced:
        return f"{node.name} reduces the channels"
    dropped = 0 if node.attributes.get("keepdims", 1) else sum(axis < channels.axis for axis in reduced)
    moved = replace(channels, axis=channels.axis - dropped)
    return moved.unbounded() if node.op == "ReduceSum" else moved


def _slice(node: Node, channels: Channels) -> Channels | str:
    source = node.inputs[0]
    assert source is not None
    axes, starts = integers(node, 3), node.input(1)
    if axes is None and node.input(3) is None and starts is not None and starts.shape is not None:
        axes = list(range(starts.shape[0])) if isinstance(starts.shape[0], int) else None
    if axes is None or source.rank is None:
        return f"the axes of {node.name} are not known"
    if channels.axis in normalized_axes(axes, source.rank):
        return f"{node.name} takes some of the channels"
    return channels


def _resize(node: Node, channels: Channels) -> Channels | str:
    source, mode = node.inputs[0], node.attributes.get("coordinate_transformation_mode", b"")
    assert source is not None
    before, after = source.shape, node.output.shape
    if before is None or after is None or before[channels.axis] != after[channels.axis]:
        return f"{node.name} may resize the channels"
    if mode in (b"tf_crop_and_resize", "tf_crop_and_resize"):
        return f"{node.name} fills in numbers of its own"
    return channels.unbounded()


def _clip(node: Node, channels: Channels) -> Channels | str:
    """A bound commutes where it is zero, or where it is never reached before nor after the division.

    Whether it is reached is told by weights and biases alone. Where x <= u < bound, x / s is below it for s >= u / bound.
    """
    if any(constant(node, slot) is None and node.input(slot) is not None for slot in (1, 2)):
        return f"the bounds of {node.name} are not constant"
    low, high = ops.info(node).bounds(node)
    group = channels.group.root
    for bound, reached, sign in ((low, channels.low, -1.0), (high, channels.high, 1.0)):
        if bound == 0 or abs(bound) > _NO_BOUND:
            continue
        extent = np.full(group.size, np.inf) if sign * bound < 0 else np.maximum(sign * reached, 0.0)
        free = extent <= sign * bound
        group.fixed = group.fixed | ~free
        group.least = np.maximum(group.least, np.where(free, extent, 0.0) / abs(bound))
        if not free.all():
            group.clips.append(
                f"the bound {bound:g} of {node.name} may be reached in {int((~free).sum())} of {group.size} channels"
            )
    return replace(channels, low=np.clip(channels.low, low, high), high=np.clip(channels.high, low, high))


_RULES: Mapping[str, _Rule] = {
    **dict.fromkeys(("LeakyRelu", "PRelu", "Abs", "Neg"), _pointwise),
    **dict.fromkeys(("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"), _pool),
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), _reshape),
    **dict.fromkeys(("ReduceMean", "ReduceMax", "ReduceMin", "ReduceSum"), _reduce),
    "Identity": _same,
    "Relu": _relu,
    "Dropout": _dropout,
    "Pad": _pad,
    "Transpose": _transpose,
    "Slice": _slice,
    "Resize": _resize,
    "Clip": _clip,
}
"""Operators of one data input that commute with a positive factor per channel, and what becomes of the channels."""
