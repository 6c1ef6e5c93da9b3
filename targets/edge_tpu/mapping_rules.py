"""What the Edge TPU's compiler (version 16) asks of operators, and where that is written or how it was found.

Sources: SO = coral.ai, "TensorFlow models on the Edge TPU", supported operations (the same at developer.axis.com, ARTPEC-7); MI = the
requirements there; pairs = some 160 public files and what compilers 1.0 to 16.0 made of them; issue N = github.com/google-coral/edgetpu,
mostly logs of the compiler; header = google-coral/libedgetpu, beagle_chip_structures.h.

Evidence: "documented" where the vendor says so, "measured" where files or logs show it. Of a measured limit two numbers are known, the
largest that was mapped and the smallest that was not; what lies between them counts as not mapped, unless there is a reason.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qcompiler.targets.edge_tpu.model import Model, Operator, Tensor

MAPPED = "Mapped to Edge TPU"
STRANDED = "More than one subgraph is not supported"
UNSUPPORTED = "Operation not supported"
DATA_TYPE = "Operation is working on an unsupported data type"
VERSION = "Operation version not supported"
LIMITATION = "Operation is otherwise supported, but not mapped due to some unspecified limitation"
NOT_CONSTANT = "Filter, bias, or other param is not constant at compile-time"
RANK = "Tensor has unsupported rank (up to 3 innermost dimensions mapped)"
ROWS = "For example, a fully-connected or softmax layer with 2D output"
PRECISION = "Image-interpolation layer won't run precisely enough on Edge TPU"
NOT_PARSED = "Model could not be parsed"
DYNAMIC = "Attempting to use a delegate that only supports static-sized tensors with a graph that has dynamic-sized tensors"


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule: what the compiler's log says where it is broken, what it asks, how that is known, and whether the file is refused."""

    id: str
    status: str
    asks: str
    evidence: Literal["measured", "documented"]
    source: str
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Limit:
    """The largest size that was mapped and the smallest that was not, if known; `highest` counts as mapped, where it is not `mapped`."""

    mapped: int
    refused: int | None
    highest: int | None = None

    def allows(self, size: int) -> bool:
        """Whether a size counts as mapped."""
        return size <= (self.highest or self.mapped)

    def __str__(self) -> str:
        refused = f", {self.refused:,} were not" if self.refused else ""
        return f"at most {self.mapped:,} have been seen mapped{refused}"


NARROW = Limit(176_400, 230_400, 196_608)
"""Elements of a tensor of one row (y = 1); 196,608 bytes are the narrow memory of a tile (header)."""
AVERAGED = Limit(8_192, 32_768)
"""Elements that a MEAN takes into one."""
SIDE = Limit(128, 512)
"""Rows or columns of what is resized."""
SIZES = {
    "RESHAPE": ("reshape-size", Limit(408_000, 1_632_000)),
    "SOFTMAX": ("softmax-size", Limit(16_384, None)),
    "TRANSPOSE": ("transpose-size", Limit(69_696, 104_000)),
}
"""Operators to the elements that they can take."""

RULES: Mapping[str, Rule] = {
    rule.id: rule
    for rule in (
        Rule("parses", NOT_PARSED, "the compiler reads operators of TensorFlow 2.6", "measured", "issues 631, 845, 862, 879", True),
        Rule("static", DYNAMIC, "shapes are known, and what gives them is constant", "documented", "MI; issue 829", True),
        Rule("listed", UNSUPPORTED, "the vendor's list does not have it", "documented", "SO; pairs"),
        Rule("type", DATA_TYPE, "numbers are int8 or uint8", "documented", "MI; pairs; issues 322, 409"),
        Rule("quantized", DATA_TYPE, "activations have a scale and a zero point", "documented", "MI; issue 222"),
        Rule("per-tensor", DATA_TYPE, "activations have a single scale", "measured", "pairs: nothing else is mapped"),
        Rule("version", VERSION, "it maps those that plain int8 needs", "measured", "op_version.cc; pairs"),
        Rule("weights", NOT_CONSTANT, "weights, biases and slopes are constant", "documented", "MI; issue 25"),
        Rule("rank", RANK, "all dimensions but the innermost three are 1", "documented", "MI; issues 30, 75, 708; pairs"),
        Rule("narrow", LIMITATION, "tensors of one row are small", "measured", "pairs; header"),
        Rule("activation", LIMITATION, "pools and concatenations have none", "documented", "SO"),
        Rule("dilation", LIMITATION, "dilations along x and y are equal", "documented", "SO; pairs map 2 and 4 along a side of one tap"),
        Rule("zero-part", LIMITATION, "a constant part is zero, and there are two parts", "documented", "SO"),
        Rule("format", LIMITATION, "weights have the default format", "documented", "SO"),
        Rule("rows", ROWS, "fully connected layers and softmaxes give one row", "documented", "SO; issue 27; pairs"),
        Rule("softmax-size", LIMITATION, "a softmax is short", "measured", "pairs; SO says 16,000"),
        Rule("batch", LIMITATION, "nothing is done along the batch", "documented", "SO"),
        Rule("mean-depth", LIMITATION, "along z, means are of a multiple of 4", "documented", "SO"),
        Rule("mean-size", LIMITATION, "means are of few elements", "measured", "issue 461"),
        Rule("slopes", LIMITATION, "there is a slope for each channel", "documented", "SO; issue 147"),
        Rule("requantization", LIMITATION, "QUANTIZE goes from 8 bits to 8 bits", "measured", "pairs; issue 512"),
        Rule("resize-factor", PRECISION, "factors of 1 and 2 have been seen mapped, 15.5 and 33 were not", "measured", "pairs; issue 63"),
        Rule("resize-side", LIMITATION, "resized images are small", "measured", "issues 31, 187; SO: depends on the size"),
        Rule("reshape-size", LIMITATION, "reshaped tensors are not large", "measured", "pairs; SO without a number"),
        Rule("transpose-size", LIMITATION, "transposed tensors are small", "measured", "pairs; issues 342, 433"),
        Rule("strides", LIMITATION, "slices have strides of 1", "documented", "SO; issue 828"),
        Rule("masks", LIMITATION, "slices have no ellipsis and no new axes", "documented", "SO"),
        Rule("tile", LIMITATION, "one pixel has been seen repeated along y and x", "measured", "pairs; on no list"),
    )
}  # fmt: skip

VERSIONS: Mapping[str, int] = {
    operator: version
    for version, operators in {
        1: "EXPAND_DIMS PRELU RELU_N1_TO_1 RESHAPE SQUEEZE TILE UNIDIRECTIONAL_SEQUENCE_LSTM",
        2: "ADD AVERAGE_POOL_2D CONCATENATION L2_NORMALIZATION LOGISTIC MAXIMUM MAX_POOL_2D MEAN MINIMUM PACK PAD QUANTIZE REDUCE_MAX "
        "REDUCE_MIN RELU RELU6 RSQRT SLICE SOFTMAX SPACE_TO_DEPTH SPLIT SQUARED_DIFFERENCE STRIDED_SLICE SUB SUM TANH TRANSPOSE",
        3: "CONV_2D DEPTHWISE_CONV_2D MUL RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR TRANSPOSE_CONV",
        4: "FULLY_CONNECTED",
    }.items()
    for operator in operators.split()
}
"""Operators that can be mapped, with the highest version: what int8 needs without extras (op_version.cc)."""

UNSEEN = {"EXPAND_DIMS", "L2_NORMALIZATION", "MINIMUM", "PACK", "REDUCE_MAX", "REDUCE_MIN", "RELU6", "RELU_N1_TO_1", "RSQRT", "SLICE",
    "SPACE_TO_DEPTH", "SQUARED_DIFFERENCE", "SQUEEZE", "SUM", "TRANSPOSE_CONV"}  # fmt: skip
"""Operators of which no pair shows that they are mapped: there are the list and logs alone."""

SHAPING: Mapping[str, tuple[int, ...]] = {
    "EXPAND_DIMS": (1,), "MEAN": (1,), "PAD": (1,), "REDUCE_MAX": (1,), "REDUCE_MIN": (1,), "RESHAPE": (1,), "RESIZE_BILINEAR": (1,),
    "RESIZE_NEAREST_NEIGHBOR": (1,), "SLICE": (1, 2), "SPLIT": (0,), "STRIDED_SLICE": (1, 2, 3), "SUM": (1,), "TILE": (1,),
    "TRANSPOSE": (1,), "TRANSPOSE_CONV": (0,),
}  # fmt: skip
"""Operators to the operands that give the shape of what they make: axes, sizes, paddings."""

WEIGHTS = {
    "CONV_2D": (1, 2), "DEPTHWISE_CONV_2D": (1, 2), "FULLY_CONNECTED": (1, 2), "PRELU": (1,), "TRANSPOSE_CONV": (1, 3),
}  # fmt: skip
"""Operators to the operands that have to be constant; the second is the bias."""


Refusal = tuple[Rule, str]
"""Why an operator is not mapped: the rule, and in words what breaks it."""


def broken(rule: str, what: str, limit: Limit | None = None) -> Refusal:
    """A rule is broken; `what` says by which number."""
    found = RULES[rule]
    return found, f"{what}; {limit or found.asks} ({found.evidence})"


@dataclass(frozen=True)
class Call:
    """An operator with the tensors that it reads and writes."""

    model: Model
    operator: Operator

    @cached_property
    def operands(self) -> tuple[Tensor | None, ...]:
        """What it reads."""
        return self.model.operands(self.operator)

    @cached_property
    def results(self) -> tuple[Tensor, ...]:
        """What it writes."""
        return self.model.results(self.operator)

    @cached_property
    def data(self) -> tuple[Tensor, ...]:
        """What holds numbers of the network and has to be of 8 bits: neither axes and sizes nor biases and states."""
        op, end = self.operator.op, len(self.operands)
        if op not in VERSIONS or op == "UNIDIRECTIONAL_SEQUENCE_LSTM":
            end = 1
        elif len(WEIGHTS.get(op, ())) > 1:
            end = WEIGHTS[op][-1]
        numbers = (self.operands[index] for index in range(end) if index not in SHAPING.get(op, ()))
        return tuple(tensor for tensor in numbers if tensor is not None)

    @cached_property
    def activations(self) -> tuple[Tensor, ...]:
        """What flows in and out."""
        results = self.results if self.operator.op in VERSIONS else self.results[:1]
        return (*(tensor for tensor in self.data if tensor.data is None), *results)

    @property
    def x(self) -> Tensor:
        """The activation that it reads first."""
        return self.data[-1] if self.operator.op == "TRANSPOSE_CONV" else self.data[0]

    def constant(self, index: int) -> NDArray[Any]:
        """The elements of an operand; none where it is left out."""
        operand = self.operands[index] if index < len(self.operands) else None
        return np.zeros(0, np.int64) if operand is None or operand.data is None else operand.data

    def axes(self, index: int) -> set[int]:
        """The axes of the activation that an operand lists."""
        return {int(axis) % len(self.x.shape) for axis in self.constant(index).flat}


def special(call: Call) -> Iterator[Refusal]:
    """The rules of one kind of operator that it breaks; types, versions and constants are taken for checked."""
    op = call.operator.op
    fused = call.operator.options.get("fused_activation_function", "NONE")
    if op in ("AVERAGE_POOL_2D", "MAX_POOL_2D", "CONCATENATION") and fused != "NONE":
        yield broken("activation", f"a fused {fused}")
    if op in ("FULLY_CONNECTED", "SOFTMAX") and (rows := math.prod(call.results[0].shape[:-1])) > 1:
        yield broken("rows", f"{rows:,} rows of {call.results[0].shape[-1]:,}")
    if op == "PRELU" and math.prod((slopes := call.data[1].shape)[:-1]) > 1:
        yield broken("slopes", f"slopes of the dimensions {list(slopes)}")
    if op in _CHECKS:
        yield from _CHECKS[op](call)
    if op in SIZES and not SIZES[op][1].allows(call.x.elements):
        yield broken(SIZES[op][0], f"{op} of {call.x.elements:,} elements", SIZES[op][1])


def _concatenation(call: Call) -> Iterator[Refusal]:
    constants = [tensor for tensor in call.data if tensor.data is not None]
    if constants and len(call.data) != 2:
        yield broken("zero-part", f"{constants[0].name!r} is constant, and there are {len(call.data)} parts")
    for tensor in constants:
        zero = tensor.quantization.zero_point if tensor.quantization else 0
        if np.any(tensor.data != zero):
            yield broken("zero-part", f"{tensor.name!r} is constant and not zero")


def _convolution(call: Call) -> Iterator[Refusal]:
    dilations = [call.operator.options.get(f"dilation_{side}_factor", 1) for side in "hw"]
    if dilations[0] != dilations[1] and min(call.data[1].shape[1:3]) > 1:
        yield broken("dilation", f"dilations of {dilations[0]} and {dilations[1]}")
    if call.operator.op == "CONV_2D" and (groups := call.x.shape[-1] // call.data[1].shape[-1]) > 1:
        yield broken("version", f"a convolution of {groups} groups is one of version 6")


def _fully_connected(call: Call) -> Iterator[Refusal]:
    if (layout := call.operator.options.get("weights_format", "DEFAULT")) != "DEFAULT":
        yield broken("format", f"the format {layout}")
    if call.operator.options.get("keep_num_dims", False):
        yield broken("version", "a fully connected layer that keeps its dimensions is one of version 5")


def _reduction(call: Call) -> Iterator[Refusal]:
    axes, shape = call.axes(1), call.x.shape
    yield from _batch(call, axes)
    if call.operator.op == "MEAN":
        if len(shape) - 1 in axes and shape[-1] % 4:
            yield broken("mean-depth", f"a mean of {shape[-1]:,} along z")
        if not AVERAGED.allows(count := math.prod(shape[axis] for axis in axes)):
            yield broken("mean-size", f"a mean of {count:,} elements", AVERAGED)


def _batch(call: Call, axes: set[int], rank: int = 0) -> Iterator[Refusal]:
    if 0 in axes and (rank or len(call.x.shape)) > 3:
        yield broken("batch", f"{call.operator.op} along axis 0 of {list(call.x.shape)}")


def _pack(call: Call) -> Iterator[Refusal]:
    rank = len(call.x.shape) + 1
    return _batch(call, {call.operator.options.get("axis", 0) % rank}, rank)


def _resize(call: Call) -> Iterator[Refusal]:
    old, new = call.x.shape[1:3], call.results[0].shape[1:3]
    if any(made not in (taken, 2 * taken) for taken, made in zip(old, new, strict=False)):
        yield broken("resize-factor", f"a resize from {old[0]} x {old[1]} to {new[0]} x {new[1]}")
    if not SIDE.allows(max(new, default=0)) and old != new:
        yield broken("resize-side", f"a resize to {new[0]} x {new[1]}", SIDE)


def _slice(call: Call) -> Iterator[Refusal]:
    if np.any((strides := call.constant(3)) != 1):
        yield broken("strides", f"strides of {strides.tolist()}")
    for mask in ("ellipsis_mask", "new_axis_mask"):
        if call.operator.options.get(mask, 0):
            yield broken("masks", f"{mask} is {call.operator.options.get(mask, 0)}")


def _tile(call: Call) -> Iterator[Refusal]:
    pixel, made = call.x.shape, call.results[0].shape
    if math.prod(pixel[:-1]) > 1 or pixel[-1:] != made[-1:]:
        yield broken("tile", f"a tile from {list(pixel)} to {list(made)}")


_CHECKS: Mapping[str, Callable[[Call], Iterator[Refusal]]] = {
    "CONCATENATION": _concatenation,
    **dict.fromkeys(("CONV_2D", "DEPTHWISE_CONV_2D"), _convolution),
    "FULLY_CONNECTED": _fully_connected,
    **dict.fromkeys(("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN"), _reduction),
    "PACK": _pack,
    "PAD": lambda call: _batch(call, {int(axis) for axis in np.flatnonzero(call.constant(1).any(axis=-1))}),
    **dict.fromkeys(("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"), _resize),
    "SPLIT": lambda call: _batch(call, call.axes(0) if len(call.results) > 1 else set()),
    "STRIDED_SLICE": _slice,
    "TILE": _tile,
}
