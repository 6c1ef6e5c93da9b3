"""The op table: what the compiler knows of each operator. No op is special anywhere else.

Roles of inputs: `data` (activations), `weight`, `bias`, `parameter` (per-channel constants of normalisations, slopes),
`shape` (sizes, axes, indices: integers that are never quantized).

Quantization classes: `weighted` (multiply-accumulate with weights), `movement` (output elements are input elements),
`selection` (output elements are among the input's: max pooling), `join` (several inputs side by side),
`average` (means of inputs), `activation` (pointwise, one input), `elementwise` (pointwise, several),
`normalization`, `reduction`, `matmul-like`, `other`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from qcompiler.ir.functions import DOMAIN, LOOKUP

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qcompiler.ir.node import Node

Bounds = tuple[float, float]
_UNBOUNDED = (-math.inf, math.inf)


@dataclass(frozen=True)
class OpInfo:
    """One row of the op table.

    Attributes:
        op: Operator type.
        kind: Quantization class, see the module.
        roles: Role of each input; the last one repeats for variadic operators.
        commutative: Whether the first two inputs can be exchanged.
        deterministic: Whether the outputs depend on the inputs alone.
        channel_axis: Output-channel axis of the constant at an input slot, as a function of the node and the slot.
        contraction_axis: The axis of that constant that is summed over.
        bounds: Interval that the output cannot leave, whatever the input.
        keeps_sign: Whether the output is not negative where no data input is.
        layout: In which order of axes operands and results are computed: "channels-last" (images), "alike" (any, if all share
            it), "axis-last" (any that ends with the axis that the attribute names, if all share it), "transpose", "reshape" (the
            operator changes what the axes are), or "as-is" (the order of their own axes).
    """

    op: str
    kind: str = "other"
    roles: tuple[str, ...] = ("data",)
    commutative: bool = False
    deterministic: bool = True
    channel_axis: Callable[[Node, int], int | None] = field(default=lambda node, slot: None, repr=False)
    contraction_axis: Callable[[Node, int], int | None] = field(default=lambda node, slot: None, repr=False)
    bounds: Callable[[Node], Bounds] = field(default=lambda node: _UNBOUNDED, repr=False)
    keeps_sign: bool = False
    layout: str = "as-is"

    def role(self, slot: int) -> str:
        """The role of an input slot."""
        return self.roles[min(slot, len(self.roles) - 1)]

    @property
    def keeps_values(self) -> bool:
        """Whether every output element is an element of the first input, so one encoding serves both."""
        return self.kind in ("movement", "selection")


def _conv_channel(node: Node, slot: int) -> int | None:
    return 0 if slot == 1 else None


def _conv_contraction(node: Node, slot: int) -> int | None:
    return 1 if slot == 1 else None


def _transpose_conv_channel(node: Node, slot: int) -> int | None:
    return (
        1 if slot == 1 else None
    )  # [Cin, Cout/group, ...]: with groups, channel c of every group shares a scale


def _transpose_conv_contraction(node: Node, slot: int) -> int | None:
    return 0 if slot == 1 else None


def _gemm_channel(node: Node, slot: int) -> int | None:
    if slot == 1:
        return 0 if node.attributes.get("transB", 0) else 1
    return (1 if node.attributes.get("transA", 0) else 0) if slot == 0 else None


def _gemm_contraction(node: Node, slot: int) -> int | None:
    channel = _gemm_channel(node, slot)
    return None if channel is None else 1 - channel


def _matmul_channel(node: Node, slot: int) -> int | None:
    value = node.input(slot)
    rank = value.rank if value is not None else None
    if rank is None or rank < 2:
        return None
    return rank - 1 if slot == 1 else rank - 2


def _matmul_contraction(node: Node, slot: int) -> int | None:
    value = node.input(slot)
    rank = value.rank if value is not None else None
    if rank is None:
        return None
    return max(rank - 2, 0) if slot == 1 else rank - 1


def _fixed(low: float, high: float) -> Callable[[Node], Bounds]:
    return lambda node: (low, high)


def _clip_bounds(node: Node) -> Bounds:
    ends = []
    for slot, default in ((1, -math.inf), (2, math.inf)):
        value = node.input(slot)
        known = value is not None and value.data is not None and value.data.size == 1
        ends.append(float(np.asarray(value.data).reshape(-1)[0]) if known and value is not None else default)
    return ends[0], ends[1]


_WEIGHTED = ("data", "weight", "bias")
_MOVED = ("data", "shape")


_LAYOUTS = {
    "channels-last": (
        "Conv", "ConvTranspose", "MaxPool", "AveragePool", "GlobalMaxPool", "GlobalAveragePool", "Resize", "BatchNormalization",
        "InstanceNormalization", "GroupNormalization", "LRN", "DepthToSpace", "SpaceToDepth",
    ),
    "alike": (
        "ReduceMean", "Slice", "Split", "Pad", "Tile", "Expand", "Identity", "Dropout", "QuantizeLinear", "DequantizeLinear",
    ),
    "axis-last": ("Softmax", "LogSoftmax", "LpNormalization"),
    "transpose": ("Transpose",),
    "reshape": ("Reshape", "Flatten", "Squeeze", "Unsqueeze"),
}  # fmt: skip


def _table() -> dict[str, OpInfo]:
    rows: list[OpInfo] = [
        OpInfo("Conv", "weighted", _WEIGHTED, channel_axis=_conv_channel, contraction_axis=_conv_contraction),
        OpInfo(
            "ConvTranspose",
            "weighted",
            _WEIGHTED,
            channel_axis=_transpose_conv_channel,
            contraction_axis=_transpose_conv_contraction,
        ),
        OpInfo("Gemm", "weighted", _WEIGHTED, channel_axis=_gemm_channel, contraction_axis=_gemm_contraction),
        OpInfo(
            "MatMul",
            "weighted",
            ("data", "weight"),
            channel_axis=_matmul_channel,
            contraction_axis=_matmul_contraction,
        ),
        OpInfo(
            "Gather", "movement", ("data", "shape"), channel_axis=lambda node, slot: 0 if slot == 0 else None
        ),
        OpInfo("MaxPool", "selection"),
        OpInfo("GlobalMaxPool", "selection"),
        OpInfo("Concat", "join"),
        OpInfo("AveragePool", "average"),
        OpInfo("GlobalAveragePool", "average"),
        OpInfo("ReduceMean", "average", ("data", "shape")),
        OpInfo("BatchNormalization", "normalization", ("data", "parameter")),
        OpInfo("Clip", "activation", ("data", "parameter"), bounds=_clip_bounds),
        OpInfo("Relu", "activation", bounds=_fixed(0.0, math.inf)),
        OpInfo("Sigmoid", "activation", bounds=_fixed(0.0, 1.0)),
        OpInfo("HardSigmoid", "activation", bounds=_fixed(0.0, 1.0)),
        OpInfo("Tanh", "activation", bounds=_fixed(-1.0, 1.0)),
        OpInfo("Softmax", "normalization", bounds=_fixed(0.0, 1.0)),
        OpInfo("LogSoftmax", "normalization", bounds=_fixed(-math.inf, 0.0)),
        OpInfo("Erf", "activation", bounds=_fixed(-1.0, 1.0)),
        OpInfo("Abs", "activation", bounds=_fixed(0.0, math.inf)),
        OpInfo("Sqrt", "activation", bounds=_fixed(0.0, math.inf)),
        OpInfo("PRelu", "activation", ("data", "parameter")),
        OpInfo("Resize", "other", ("data", "shape")),
        OpInfo("Where", "elementwise", ("shape", "data", "data")),
        OpInfo("Pow", "elementwise", ("data", "parameter")),
        OpInfo("LayerNormalization", "normalization", ("data", "parameter")),
        OpInfo("GroupNormalization", "normalization", ("data", "parameter")),
        OpInfo("InstanceNormalization", "normalization", ("data", "parameter")),
        OpInfo("RMSNormalization", "normalization", ("data", "parameter")),
        OpInfo("LpNormalization", "normalization", bounds=_fixed(-1.0, 1.0)),
        OpInfo("LRN", "normalization"),
        OpInfo("QuantizeLinear", "other", ("data", "parameter", "parameter")),
        OpInfo("DequantizeLinear", "other", ("data", "parameter", "parameter")),
        OpInfo(LOOKUP, "other", ("data", "parameter", "parameter", "parameter")),
        OpInfo("Shape", "other", ("shape",)),
        OpInfo("ConstantOfShape", "other", ("shape",)),
        OpInfo("Range", "other", ("shape",)),
    ]
    rows += [OpInfo(op, "movement", _MOVED) for op in (
        "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Split", "Expand", "Tile", "Identity", "Dropout",
        "DepthToSpace", "SpaceToDepth", "GatherElements", "GatherND", "ReverseSequence",
    )]  # fmt: skip
    rows += [OpInfo(op, "activation") for op in (
        "LeakyRelu", "Elu", "Selu", "Celu", "Softplus", "Softsign", "HardSwish", "Mish", "Gelu", "Swish", "ThresholdedRelu",
        "Exp", "Log", "Neg", "Reciprocal", "Floor", "Ceil", "Round", "Sign", "Sin", "Cos", "Cast", "Not", "IsNaN", "IsInf",
    )]  # fmt: skip
    rows += [
        OpInfo(op, "elementwise", commutative=True)
        for op in ("Add", "Mul", "Max", "Min", "Sum", "Mean", "And", "Or", "Xor", "Equal")
    ]
    rows += [
        OpInfo(op, "elementwise")
        for op in ("Sub", "Div", "Mod", "Greater", "Less", "GreaterOrEqual", "LessOrEqual")
    ]
    rows += [OpInfo(op, "reduction", ("data", "shape")) for op in (
        "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSum",
        "ReduceLogSumExp", "ArgMax", "ArgMin", "TopK", "CumSum",
    )]  # fmt: skip
    rows += [OpInfo(op, deterministic=False) for op in (
        "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli",
    )]  # fmt: skip
    rows.append(OpInfo("Pad", "movement", ("data", "shape", "parameter", "shape")))
    not_negative = _fixed(0.0, math.inf)
    table = {row.op: row for row in rows}
    for op in ("Exp", "Softplus", "ReduceL1", "ReduceL2"):
        table[op] = dataclasses.replace(table[op], bounds=not_negative)
    for op in (
        "Add", "AveragePool", "Concat", "Expand", "Flatten", "Gather", "GlobalAveragePool", "GlobalMaxPool", "Identity", "Max",
        "MaxPool", "Min", "Mul", "ReduceMax", "ReduceMean", "ReduceSum", "Reshape", "Slice", "Split", "Squeeze", "Sum",
        "Transpose", "Unsqueeze",
    ):  # fmt: skip
        table[op] = dataclasses.replace(table[op], keeps_sign=True)
    for layout, names in _LAYOUTS.items():
        for op in names:
            table[op] = dataclasses.replace(table[op], layout=layout)
    for op, row in table.items():
        if row.kind in ("activation", "elementwise", "join", "reduction"):
            table[op] = dataclasses.replace(row, layout="alike")
    return table


TABLE = _table()
"""Operator type to its row, for the standard operators and the composites of `qcompiler.ir.functions`."""

_UNKNOWN = OpInfo("?", "other", ("data",))


def info(node: Node) -> OpInfo:
    """The row of a node's operator; for unknown operators and domains one that claims nothing."""
    if node.domain not in ("", DOMAIN):
        return _UNKNOWN
    return TABLE.get(node.op, _UNKNOWN)


def is_known(op: str) -> bool:
    """Whether the table has a row for the operator."""
    return op in TABLE


def takes_bias(node: Node) -> bool:
    """Whether the third and last input of a node is a bias."""
    roles = info(node).roles
    return len(roles) == 3 and roles[2] == "bias"


def channel_sums(node: Node, data: NDArray[Any]) -> NDArray[np.float64]:
    """Sums an array of the shape of a node's weight over everything but output channels; [output channels].

    Where the output channels are only counted within a group (ConvTranspose), the groups follow one another along the axis
    summed over.
    """
    channel, group = info(node).channel_axis(node, 1), int(node.attributes.get("group", 1))
    kept: set[int | None] = {channel}
    if channel and group > 1:
        data = data.reshape(group, -1, *data.shape[1:])
        kept = {0, channel + 1}
    others = tuple(axis for axis in range(data.ndim) if axis not in kept)
    total: NDArray[np.float64] = data.sum(axis=others, dtype=np.float64).reshape(-1)
    return total


def macs(node: Node) -> int | None:
    """Multiply-accumulates of a weighted node for one sample; None where shapes do not tell."""
    weight, out = node.input(1), node.outputs[0]
    if (
        info(node).kind != "weighted"
        or weight is None
        or weight.shape is None
        or out is None
        or out.shape is None
    ):
        return None
    contraction = info(node).contraction_axis(node, 1)
    sizes: list[Any] = [dim for dim in out.shape[1:] if isinstance(dim, int)]
    if (
        contraction is None
        or len(sizes) != len(out.shape) - 1
        or not all(isinstance(dim, int) for dim in weight.shape)
    ):
        return None
    if node.op == "ConvTranspose":  # every input element meets every weight of its channel
        data = node.input(0)
        given = data.shape[1:] if data is not None and data.shape is not None else (None,)
        sizes = [dim for dim in given if isinstance(dim, int)]
        if len(sizes) != len(given):
            return None
    if node.op in ("Conv", "ConvTranspose"):
        depth = math.prod(int(dim) for dim in weight.shape[1:] if isinstance(dim, int))
    else:
        depth = int(weight.shape[contraction] or 0)
    return int(math.prod(sizes) * depth)
