"""The encoder: where every value of a graph is stored, and the operations written so far.

Rules (the `encode_*` modules) say what regions are in integers; they read operands and write results through an `Encoder`, which
writes a conversion where a use reads another encoding or another storage order than its value has.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from qcompiler import ops
from qcompiler.errors import ModelError, TargetError
from qcompiler.fixed_point import Rescale
from qcompiler.integer.operations import Requantization, StridedCopy, View, Work
from qcompiler.integer.program import Operation, Program, Tensor
from qcompiler.ir.encoding import FORMATS, Encoding
from qcompiler.layout import storage_shape, to_storage

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qcompiler.fixed_point import Rounding
    from qcompiler.ir.graph import Graph
    from qcompiler.ir.node import Node, Value
    from qcompiler.ir.plan import Plan, PlannedRegion
    from qcompiler.layout import Layout, Order
    from qcompiler.target import Kernel

Rule = Callable[["Encoder", "Tile"], None]

RULES: dict[str, Rule] = {}
"""Operator type of a region's first node to what encodes the region."""

MOST_DIMENSIONS = 6
"""Axes that kernels walk at most."""


def rule(*operators: str) -> Callable[[Rule], Rule]:
    """Registers what encodes regions that begin with one of the operators."""

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(operators, function))
        return function

    return register


@dataclass(frozen=True)
class Tile:
    """A region to encode.

    Attributes:
        nodes: Its nodes, in graph order.
        planned: What the plan says of it.
        kernel: Its kernel, which says how to round.
    """

    nodes: tuple[Node, ...]
    planned: PlannedRegion
    kernel: Kernel

    @property
    def anchor(self) -> Node:
        """The first node."""
        return self.nodes[0]

    @property
    def rounding(self) -> Rounding:
        """How accumulators become codes."""
        return self.kernel.rounding

    def ratio(self, *scales: float, over: float) -> float:
        """The product of some scales over another, in the kernel's precision."""
        if self.kernel.scales == "float64":
            return math.prod(scales) / over
        product = np.float32(scales[0])
        for scale in scales[1:]:
            product *= np.float32(scale)
        return float(product) / over if self.kernel.scales == "mixed" else float(product / np.float32(over))

    @property
    def result(self) -> Value:
        """What the region computes."""
        return self.nodes[-1].output


class Encoder:
    """Makes tensors and operations; knows where every value of the graph is stored."""

    def __init__(self, graph: Graph, plan: Plan, layout: Layout, *, floats: bool = False) -> None:
        self.graph = graph
        self.floats = floats
        self.layout = layout
        self._home = plan.group_of_value()
        self._read_as = plan.group_of_use()
        self._tensors: dict[str, Tensor] = {}
        self._converted: dict[tuple[str, Encoding | None, Order], Tensor] = {}
        self._names: set[str] = set()
        self._operations: list[Operation] = []
        self._tile: Tile | None = None
        self._inputs = tuple(self._input(value) for value in graph.inputs)

    # -- values -------------------------------------------------------------------------------------------

    def order(self, value: Value) -> Order:
        """The order in which a value's axes are stored."""
        return self.layout.order_of(value)

    def shape(self, value: Value) -> tuple[int, ...]:
        """A value's own shape.

        Raises:
            ModelError: It is not known.
        """
        dims = value.shape
        if dims is None or not all(isinstance(dim, int) for dim in dims):
            raise ModelError(
                f"The shape of {value.name!r} is not known at compile time ({dims}); its size has to be constant for this target."
            )
        return tuple(int(dim) for dim in dims if isinstance(dim, int))

    def home(self, value: Value) -> Encoding | None:
        """The encoding that a computed value is stored in."""
        group = self._home.get(value.name)
        return group.encoding if group is not None else None

    def read_encoding(self, node: Node, slot: int) -> Encoding | None:
        """The encoding that a use reads."""
        group = self._read_as.get((node.name, slot))
        return group.encoding if group is not None else None

    def _input(self, value: Value) -> Tensor:
        encoding = self.home(value)
        if encoding is None and not self.floats:  # its readers want several: it comes in the first one's
            wishes = [self.read_encoding(use.node, use.slot) for use in value.uses]
            encoding = next((wish for wish in wishes if wish is not None), None)
        if encoding is None and not self.floats and _is_real(value) and value.uses:
            raise TargetError(
                f"The input {value.name!r} is read as float only, by {', '.join(use.node.name for use in value.uses)}; this target "
                "takes integers."
            )
        return self._made(value, encoding)

    def result(self, value: Value) -> Tensor:
        """The tensor that a computed value is stored in."""
        found = self._tensors.get(value.name)
        return found if found is not None else self._made(value, self.home(value))

    def _made(self, value: Value, encoding: Encoding | None) -> Tensor:
        order = self.order(value)
        plain = np.dtype(np.float32 if self.floats and _is_real(value) else np.int32)
        dtype = encoding.format.dtype if encoding is not None else plain
        shape = storage_shape(self.shape(value), order)
        tensor = Tensor(self.unique(value.name), shape, encoding, dtype, None, value.name, order)
        self._tensors[value.name] = tensor
        return tensor

    # -- reading ------------------------------------------------------------------------------------------

    def read(self, node: Node, slot: int, order: Order | None = None) -> Tensor:
        """What a node reads at a slot, in the encoding that the plan says, stored in an order of axes.

        Args:
            node: The node.
            slot: Its input slot.
            order: The order asked for; the one that the value has when None.
        """
        value = node.input(slot)
        assert value is not None
        encoding = self.read_encoding(node, slot)
        if value.is_constant:
            return self.constant(node, slot, order or tuple(range(len(self.shape(value)))))
        stored = self.result(value)
        order = order if order is not None else stored.order
        if encoding is None and not (self.floats and _is_real(value)):
            encoding = stored.encoding
        key = (value.name, encoding, order)
        if key not in self._converted:
            tensor = stored
            if encoding != stored.encoding:
                tensor = self._requantized(tensor, encoding)
            if order != tensor.order:
                tensor = self._reordered(tensor, order)
            self._converted[key] = tensor
        return self._converted[key]

    def constant(self, node: Node, slot: int, order: Order) -> Tensor:
        """The codes of a constant operand, its axes in an order."""
        value, encoding = node.input(slot), self.read_encoding(node, slot)
        assert value is not None
        assert value.data is not None
        if encoding is None and self.floats:
            return self.tensor(value.name, to_storage(np.asarray(value.data, np.float32), order), None)
        if encoding is None:
            raise TargetError(
                f"The constant {value.name!r} of {node.name} ({node.op}) has no encoding in the plan; the row of this kernel has to give "
                "one to every operand."
            )
        codes = encoding.quantize(np.asarray(value.data))
        if encoding.axis is not None:
            encoding = dataclasses.replace(encoding, axis=order.index(encoding.axis))
        return self.tensor(value.name, to_storage(codes, order), encoding)

    def tensor(self, hint: str, data: NDArray[Any], encoding: Encoding | None) -> Tensor:
        """A constant tensor."""
        data = np.ascontiguousarray(data)
        return Tensor(self.unique(hint), data.shape, encoding, data.dtype, data)

    def unique(self, hint: str) -> str:
        """A name that no tensor or operation has yet."""
        name, number = hint, 1
        while name in self._names:
            number += 1
            name = f"{hint}.{number}"
        self._names.add(name)
        return name

    def _requantized(self, tensor: Tensor, encoding: Encoding | None) -> Tensor:
        """The tensor in another encoding; as floats with None."""
        made = dataclasses.replace(
            tensor,
            name=self.unique(f"{tensor.name}.{'requantized' if encoding is not None else 'real'}"),
            encoding=encoding,
            dtype=encoding.format.dtype if encoding is not None else np.dtype(np.float32),
        )
        low, high = ends(made)
        factor = Rescale.of(tensor.scale / made.scale, "double")
        self.emit(Requantization(factor, -tensor.zero_point, made.zero_point, low, high), (tensor,), (made,))
        return made

    def _reordered(self, tensor: Tensor, order: Order) -> Tensor:
        """The tensor with its axes stored in another order."""
        strides = dict(zip(tensor.order, contiguous(tensor.shape), strict=True))
        sizes = dict(zip(tensor.order, tensor.shape, strict=True))
        shape = tuple(sizes[axis] for axis in order)
        made = dataclasses.replace(
            tensor, name=self.unique(f"{tensor.name}.{'x'.join(map(str, order))}"), shape=shape, order=order
        )
        self.rearrange(tensor, made, 0, shape, tuple(strides[axis] for axis in order))
        return made

    # -- writing ------------------------------------------------------------------------------------------

    def emit(self, work: Work, inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...]) -> None:
        """Adds an operation of the region at hand."""
        tile = self._tile
        assert tile is not None
        planned = tile.planned
        origin = tuple(dict.fromkeys(name for node in tile.nodes for name in node.origin))
        kernel = f"{planned.kernel}/{planned.row}"
        self._operations.append(
            Operation(self.unique(f"{planned.name}:"), work, inputs, outputs, origin, kernel)
        )

    def rearrange(
        self, source: Tensor, made: Tensor, start: int, shape: tuple[int, ...], strides: tuple[int, ...]
    ) -> None:
        """Writes `made` from elements of `source`: nothing at all where they are the same bytes in the same order."""
        kept = [(size, stride) for size, stride in zip(shape, strides, strict=True) if size != 1]
        moving = tuple(size for size, _ in kept)
        if (
            start == 0
            and made.elements == source.elements
            and contiguous(moving) == tuple(step for _, step in kept)
        ):
            self.emit(View(), (source,), (made,))
        else:
            shape, strides = _merged(kept)
            self.check_dimensions(len(shape))
            self.emit(StridedCopy(start, shape, strides), (source,), (made,))

    def check_dimensions(self, count: int) -> None:
        """Refuses a region whose kernel would have to walk more axes than kernels do."""
        assert self._tile is not None
        if count > MOST_DIMENSIONS:
            node = self._tile.anchor
            raise TargetError(
                f"{node.name}: {node.op} in {count} dimensions has no integer form; kernels walk {MOST_DIMENSIONS} at most. Write it as "
                "several operators that do a part each."
            )

    def viewed(self, tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
        """The tensor under another shape; constants are reshaped, for computed ones the bytes stay."""
        if tensor.shape == shape:
            return tensor
        name = self.unique(f"{tensor.name}.view")
        if tensor.data is not None:
            encoding = tensor.encoding
            if encoding is not None and encoding.axis is not None:
                encoding = dataclasses.replace(encoding, axis=_same_axis(tensor.shape, encoding.axis, shape))
            data = tensor.data.reshape(shape)
            return dataclasses.replace(tensor, name=name, shape=shape, data=data, encoding=encoding)
        made = dataclasses.replace(tensor, name=name, shape=shape, value="", order=())
        self.emit(View(), (tensor,), (made,))
        return made

    def target(self, value: Value, order: Order, shape: tuple[int, ...] | None = None) -> Tensor:
        """Where to write a computed value whose axes come in an order: its own tensor, or one that `settle` puts into that.

        Args:
            value: The value.
            order: The order in which the work at hand writes its axes.
            shape: What the work takes the tensor to be; the axes in that order when None.
        """
        stored = self.result(value)
        shape = shape or storage_shape(self.shape(value), order)
        if stored.order == order and stored.shape == shape:
            return stored
        return dataclasses.replace(
            stored, name=self.unique(f"{stored.name}.made"), shape=shape, order=order, value=""
        )

    def target_like(self, tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
        """A tensor between two steps of a region, in the encoding of another."""
        name = self.unique(f"{tensor.name}.step")
        return dataclasses.replace(tensor, name=name, shape=shape, value="", order=())

    def settle(self, value: Value, made: Tensor) -> None:
        """Puts what `target` gave, once it is written, into the order in which the value is stored."""
        stored = self.result(value)
        if made is not stored:
            steps = contiguous(storage_shape(self.shape(value), made.order))
            strides = dict(zip(made.order, steps, strict=True))
            self.rearrange(made, stored, 0, stored.shape, tuple(strides[axis] for axis in stored.order))

    # -- the whole ----------------------------------------------------------------------------------------

    def encode(self, tile: Tile) -> None:
        """Writes a region's operations."""
        self._tile = tile
        RULES[tile.anchor.op](self, tile)

    def program(self) -> Program:
        """What has been written."""
        outputs = self._outputs()
        for value, tensor in zip(self.graph.outputs, outputs, strict=True):
            if tensor.encoding is None and _is_real(value) and not self.floats:
                raise TargetError(f"The output {value.name!r} is not quantized; this target gives integers.")
        return Program(self.graph.name, self._inputs, outputs, tuple(self._operations))

    def _outputs(self) -> tuple[Tensor, ...]:
        """The program's outputs; one that would be the bytes of an input, or of another output, is copied."""
        root = {
            operation.output.name: operation.inputs[0].name
            for operation in self._operations
            if isinstance(operation.work, View)
        }
        taken = {tensor.name for tensor in self._inputs}
        outputs = []
        for value in self.graph.outputs:
            tensor = self.result(value)
            name = tensor.name
            while name in root:
                name = root[name]
            if name in taken:
                copy = dataclasses.replace(tensor, name=self.unique(f"{tensor.name}.copy"))
                self.emit(StridedCopy(0, (tensor.elements,), (1,)), (tensor,), (copy,))
                tensor = copy
            taken.add(name)
            outputs.append(tensor)
        return tuple(outputs)


def numbers(node: Node, slot: int) -> list[int] | None:
    """The integers of a constant operand; None where it is left out.

    Raises:
        TargetError: It is computed.
    """
    value = node.input(slot)
    if value is None:
        return None
    if value.data is None:
        raise TargetError(
            f"{node.name}: {node.op} by the computed {value.name!r} has no integer form; it has to be constant."
        )
    return [int(item) for item in np.asarray(value.data).reshape(-1).tolist()]


def contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides, in elements, of a dense array of a shape."""
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= size
    return tuple(reversed(strides))


def _same_axis(shape: tuple[int, ...], axis: int, other: tuple[int, ...]) -> int:
    """Where an axis of a shape is in another shape of the same bytes."""
    place = shape[axis], contiguous(shape)[axis]
    return list(zip(other, contiguous(other), strict=True)).index(place)


def _merged(kept: list[tuple[int, int]]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Dimensions and strides with neighbours that are one run made one dimension: fewer, longer loops."""
    merged: list[tuple[int, int]] = []
    for size, stride in kept:
        if merged and merged[-1][1] == size * stride:
            merged[-1] = (merged[-1][0] * size, stride)
        else:
            merged.append((size, stride))
    merged = merged or [(1, 1)]
    return tuple(size for size, _ in merged), tuple(stride for _, stride in merged)


def ends(tensor: Tensor) -> tuple[float, float]:
    """The lowest and the highest code of a tensor; infinite ones of floats."""
    if tensor.encoding is None:
        return -math.inf, math.inf
    return tensor.encoding.least_code, int(tensor.encoding.format.maximum)


def clamp(tile: Tile, made: Tensor) -> tuple[float, float]:
    """The lowest and the highest code that a region writes: the format's ends, and the activation behind its first node.

    A bound b of an activation is the code zero point + round(b / scale), halves away from zero, as TensorFlow Lite computes it.
    """
    low, high = ends(made)
    for node in tile.nodes[1:]:
        least, most = ops.info(node).bounds(node)
        if node.op not in ("Relu", "Clip"):
            raise TargetError(
                f"The kernel {tile.planned.kernel} fuses {node.op} into {tile.anchor.op}, which has no integer form; its pattern may end in "
                "Relu or Clip."
            )
        if np.isfinite(least):
            low = max(low, min(high, _code(made, least)))
        if np.isfinite(most):
            high = min(high, max(low, _code(made, most)))
    return low, high


def _code(made: Tensor, bound: float) -> float:
    if made.is_float:
        return bound
    ratio = bound / made.scale
    return made.zero_point + int(np.sign(ratio) * np.floor(abs(ratio) + 0.5))


def _is_real(value: Value) -> bool:
    """Whether a value holds numbers of a float type."""
    return value.dtype is not None and value.dtype.kind == "f"


INT32 = FORMATS["int32"]
