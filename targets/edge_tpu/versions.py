"""The versions of operators that a TensorFlow Lite file states, and the runtime that these need.

Sources: TensorFlow, tensorflow/compiler/mlir/lite/tools/versioning/op_version.cc (versions) and runtime_version.cc (runtimes).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from qcompiler.targets.edge_tpu.model import Model, Operator, Tensor


def version_of(operator: Operator, model: Model) -> int:
    """The lowest version of an operator that covers the types, ranks and options it is used with.

    Convolutions and fully connected layers of int16 have the version that introduced them (4, 5 and 7); op_version.cc asks for weights
    of int16 there, which no kernel takes, so that converters leave such operators at the version of int8.

    Args:
        operator: The operator; options that are left out have their defaults.
        model: Its model.

    Returns:
        The version; that of the operator itself for custom ones, and 1 for those that there is no rule for.
    """
    if operator.op == "CUSTOM":
        return operator.version
    call = _Call(operator, model.operands(operator), model.results(operator))
    rule = _RULES.get(operator.op)
    return (rule(call) if rule else None) or _BY_TYPE.get(operator.op, {}).get(call.x, 1)


def with_versions(model: Model) -> Model:
    """The same model with the version of every operator as in `version_of`."""
    versioned = (replace(operator, version=version_of(operator, model)) for operator in model.operators)
    return replace(model, operators=tuple(versioned))


def minimum_runtime(model: Model) -> str:
    """The first runtime that has all operators of a model in their versions, such as "1.14.0"; operators without a record do not count."""
    needed = ["1.5.0"]
    for operator in model.operators:
        runtimes = _RUNTIMES.get(operator.op, ())
        if 1 <= operator.version <= len(runtimes):
            needed.append(runtimes[operator.version - 1])
    return max(needed, key=lambda runtime: tuple(map(int, runtime.split("."))))


@dataclass(frozen=True)
class _Call:
    """An operator with the tensors that it reads and writes."""

    operator: Operator
    operands: tuple[Tensor | None, ...]
    results: tuple[Tensor, ...]

    def type(self, index: int) -> str:
        operand = self.operands[index] if index < len(self.operands) else None
        return operand.type if operand is not None else ""

    @property
    def x(self) -> str:
        return self.type(0)

    @property
    def y(self) -> str:
        return self.results[0].type if self.results else ""

    @property
    def rank(self) -> int:
        return len(self.operands[0].shape) if self.operands and self.operands[0] is not None else 0

    @property
    def broadcasts(self) -> bool:
        """Whether two tensors of different shapes meet, one of them of more than four dimensions."""
        shapes = {operand.shape for operand in self.operands[:2] if operand is not None}
        return len(shapes) > 1 and max(map(len, shapes)) > 4

    def option(self, name: str, default: Any = None) -> Any:
        return self.operator.options.get(name, default)

    def scales(self, index: int, axis: int = 0) -> bool:
        """Whether an operand has a scale for each element along an axis."""
        operand = self.operands[index] if index < len(self.operands) else None
        if operand is None or operand.quantization is None or axis >= len(operand.shape):
            return False
        return len(operand.quantization.scale) == operand.shape[axis]

    @property
    def quantized(self) -> bool:
        return any(operand is not None and operand.quantization is not None for operand in self.operands)

    @property
    def hybrid(self) -> bool:
        """Whether integers are the weights of floats."""
        return (self.x, self.type(1)) == ("FLOAT32", "INT8")

    @property
    def bias_type(self) -> bool:
        """Whether a type of the bias is stated, which only int16 has a choice of."""
        return self.y == "INT16" and self.option("quantized_bias_type", "FLOAT32") not in ("FLOAT32", 0)


def _convolution(call: _Call) -> int:
    if call.bias_type:
        return 8
    x, weights = call.operands[:2]
    if x is not None and weights is not None and x.shape and x.shape[-1] != weights.shape[-1]:
        return 6
    hybrid = 5 if call.scales(1) else 2
    known = {("INT8", "INT8"): 3, ("INT8", "INT4"): 7, ("FLOAT32", "INT8"): hybrid}
    return 4 if call.x == "INT16" else known.get((call.x, call.type(1)), 1)


def _depthwise(call: _Call) -> int:
    dilated = any(call.option(f"dilation_{side}_factor", 1) != 1 for side in "wh")
    hybrid = 6 if call.scales(1, 3) else 4
    known = {("INT8", "INT8"): 3, ("INT8", "INT4"): 7, ("FLOAT32", "INT8"): hybrid}
    return 5 if call.x == "INT16" else known.get((call.x, call.type(1)), 2 if dilated else 1)


def _fully_connected(call: _Call) -> int:
    x, weights = call.x, call.type(1)
    shuffled = call.option("weights_format", "DEFAULT") not in ("DEFAULT", 0)
    cases = (
        (weights == "INT2", 14),
        ((x, weights) == ("INT16", "INT4"), 13),
        (call.hybrid and call.scales(1), 12),
        (call.bias_type, 11),
        (x == "INT16", 7),
        (len(call.operands) == 2, 6),
        (call.option("keep_num_dims", False), 5),
        ((x, weights) == ("INT8", "INT8"), 4),
        ((x, weights) == ("INT8", "INT4"), 10),
        (call.hybrid, 9 if call.option("asymmetric_quantize_inputs", False) else 3),
        (shuffled, 2),
    )
    return next((version for holds, version in cases if holds), 1)


def _transpose_convolution(call: _Call) -> int:
    if call.bias_type:
        return 5
    if call.option("fused_activation_function", "NONE") not in ("NONE", 0):
        return 4
    return 3 if call.type(3) else 2 if call.type(1) == "INT8" else 1


def _add(call: _Call) -> int | None:
    if call.x == "INT16":
        return 5 if not call.quantized else 1 if call.option("pot_scale_int16", True) else 3
    return None


def _subtract(call: _Call) -> int | None:
    if call.x == "INT16" and not call.option("pot_scale_int16", True):
        return 5
    return 3 if call.broadcasts and call.x != "INT64" else None


def _multiply(call: _Call) -> int | None:
    if call.x in ("INT8", "UINT8"):
        tensors = (*call.operands[:2], *call.results[:1])
        scales = [tensor.quantization.scale[0] for tensor in tensors if tensor and tensor.quantization]
        a, b, y = map(np.float32, scales) if len(scales) == 3 else (0, 0, 1)
        return 3 if a * b / y >= 1 else None
    return 7 if call.x == "INT16" and not call.quantized else None


def _strided_slice(call: _Call) -> int | None:
    if call.option("offset", False):
        return 8
    if call.option("ellipsis_mask", 0) or call.option("new_axis_mask", 0):
        return 6
    return 4 if call.rank > 4 else None


def _transpose(call: _Call) -> int | None:
    if call.rank == 5:
        return 5 if call.x == "INT16" else 4
    return {0: None, 1: 6}.get(max(call.rank - 5, 0), 8)


def _quantize(call: _Call) -> int | None:
    if "INT4" in (call.x, call.y):
        return 4
    stored = call.results[0].quantization
    return 3 if stored is not None and stored.per_channel else 2 if call.y == "INT16" else None


def _dequantize(call: _Call) -> int | None:
    x = call.operands[0]
    stored = x.quantization if x is not None else None
    return 5 if call.x == "INT8" and stored is not None and stored.per_channel else None


def _resize(call: _Call) -> int | None:
    moved = call.option("half_pixel_centers", False)
    if call.operator.op == "RESIZE_NEAREST_NEIGHBOR":
        moved = moved or call.option("align_corners", False)
    return 3 if moved and call.x != "INT16" else None


def _for_all(operators: str, *versions: Any) -> Mapping[str, Any]:
    """The same for each of several operators: a rule, or pairs of a type and a version."""
    rule = versions[0] if callable(versions[0]) else dict(versions)
    return dict.fromkeys(operators.split(), rule)


_RULES: Mapping[str, Callable[[_Call], int | None]] = {
    "CONV_2D": _convolution,
    "DEPTHWISE_CONV_2D": _depthwise,
    "FULLY_CONNECTED": _fully_connected,
    "TRANSPOSE_CONV": _transpose_convolution,
    "ADD": _add,
    "SUB": _subtract,
    "MUL": _multiply,
    "DIV": lambda call: 2 if call.broadcasts else None,
    **_for_all("MAXIMUM MINIMUM", lambda call: 3 if call.broadcasts and call.x != "INT16" else None),
    "STRIDED_SLICE": _strided_slice,
    "SLICE": lambda call: 5 if call.rank > 4 else None,
    **_for_all("PAD PADV2", lambda call: 4 if call.rank > 4 else None),
    "TRANSPOSE": _transpose,
    "GATHER": lambda call: 5 if call.option("batch_dims", 0) else None,
    "SPLIT": lambda call: {"INT8": 2, "INT32": 3, "INT16": 4}.get(call.type(1)),
    "QUANTIZE": _quantize,
    "DEQUANTIZE": _dequantize,
    "CAST": lambda call: 3 if "INT8" in (call.x, call.y) else 2 if "UINT32" in (call.x, call.y) else None,
    "BROADCAST_TO": lambda call: 3 if call.x in ("INT8", "INT16") else 2,
    **_for_all("RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR", _resize),
    **_for_all(
        "SPACE_TO_BATCH_ND BATCH_TO_SPACE_ND",
        lambda call: 3 if call.rank != 4 and call.x != "INT16" else None,
    ),
}
"""What comes before the type of the first operand."""

_BY_TYPE: Mapping[str, Mapping[str, int]] = {
    **_for_all(
        "AVERAGE_POOL_2D MAX_POOL_2D TANH LOGISTIC SOFTMAX MEAN MIRROR_PAD REDUCE_MAX REDUCE_MIN RELU6 RSQRT CONCATENATION "
        "PACK PAD PADV2 BATCH_MATMUL LESS GREATER_EQUAL TOPK_V2",
        ("INT8", 2),
        ("INT16", 3),
    ),
    **_for_all(
        "ADD SUB ARG_MAX ARG_MIN SPACE_TO_DEPTH DEPTH_TO_SPACE SPLIT_V SUM LOG_SOFTMAX GREATER LESS_EQUAL "
        "SQUARED_DIFFERENCE L2_NORMALIZATION STRIDED_SLICE",
        ("INT8", 2),
    ),
    **_for_all("EXP LOG SQRT REDUCE_PROD", ("INT8", 2), ("INT16", 2)),
    **_for_all(
        "MUL MAXIMUM MINIMUM SLICE GATHER RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR SPACE_TO_BATCH_ND BATCH_TO_SPACE_ND NOT_EQUAL",
        ("INT8", 2),
        ("INT16", 4),
    ),
    **_for_all("TRANSPOSE EQUAL", ("INT8", 2), ("INT16", 5)),
    **_for_all("RELU ABS", ("INT8", 2), ("UINT8", 2), ("INT16", 3)),
    **_for_all("UNPACK", ("INT8", 2), ("UINT8", 2), ("INT16", 4)),
    **_for_all("GELU", ("INT8", 2), ("UINT8", 2)),
    **_for_all("LEAKY_RELU", ("INT16", 2)),
    **_for_all("TILE REVERSE_V2 SVDF", ("INT8", 3)),
    **_for_all("FLOOR_DIV", ("INT8", 3), ("INT16", 3), ("FLOAT32", 2)),
    **_for_all("DEQUANTIZE", ("INT8", 2), ("INT16", 3), ("FLOAT16", 3), ("INT4", 6)),
}
"""Operator to version by the type of its first operand; 1 for other types."""

_RUNTIMES: Mapping[str, tuple[str, ...]] = {
    operator: tuple(versions.split())
    for versions, operators in {
        "1.5.0 1.14.0 1.14.0 2.3.0 2.4.0 2.9.0 2.11.0 2.15.0": "CONV_2D",
        "1.5.0 1.12.0 1.14.0 2.2.0 2.3.0 2.3.0 2.11.0": "DEPTHWISE_CONV_2D",
        "1.5.0 1.10.0 1.14.0 1.14.0 2.0.0 2.1.0 2.3.0 2.3.0 2.3.0 2.11.0 2.15.0 2.17.0": "FULLY_CONNECTED",
        "1.9.0 2.2.0 2.3.0 2.13.0 2.15.0": "TRANSPOSE_CONV",
        "1.5.0 1.14.0 2.3.0": "AVERAGE_POOL_2D MAX_POOL_2D SOFTMAX CONCATENATION",
        "1.5.0 1.14.0 2.4.0 2.6.0": "ADD PAD",
        "1.6.0 1.14.0 2.3.0 2.4.0 2.4.0": "SUB",
        "1.5.0 1.14.0 1.15.0 2.3.0": "MUL",
        "1.14.0 1.14.0 2.3.0 2.3.0": "MAXIMUM MINIMUM TANH LOGISTIC",
        "1.5.0 2.1.0 2.5.0": "RELU",
        "1.5.0 1.14.0 2.5.0": "RELU6 L2_NORMALIZATION SPACE_TO_DEPTH",
        "1.8.0": "PRELU",
        "1.13.1 2.3.0": "LEAKY_RELU",
        "1.15.0": "HARD_SWISH",
        "1.6.0 1.14.0 2.4.0": "MEAN",
        "1.10.0 1.15.0": "SUM",
        "1.11.0 1.14.0 2.5.0": "REDUCE_MAX REDUCE_MIN",
        "1.5.0 1.14.0 1.14.0 2.3.0": "SPLIT",
        "1.6.0 1.14.0 2.1.0 2.2.0 2.5.0 2.6.0": "STRIDED_SLICE",
        "1.14.0 1.14.0 1.14.0 2.4.0 2.5.0": "SLICE",
        "1.6.0 1.14.0 1.15.0 2.3.0 2.4.0 2.12.0": "TRANSPOSE",
        "1.7.0 1.14.0 2.2.0 2.5.0": "RESIZE_BILINEAR",
        "1.13.1 1.14.0 2.3.0 2.4.0": "RESIZE_NEAREST_NEIGHBOR",
        "1.14.0 1.15.0 2.7.0 2.21.0": "QUANTIZE",
        "1.13.1 1.14.0 1.15.0 2.2.0 2.7.0 2.18.0": "DEQUANTIZE",
        "1.11.0 1.14.0 2.3.0": "PACK",
        "1.11.0 1.14.0 2.2.0 2.3.0": "UNPACK",
        "1.10.1 2.2.0 2.8.0": "TILE",
        "1.6.0 1.14.0 1.15.0 2.4.0 2.5.0": "GATHER",
        "1.9.0 1.14.0 2.9.0": "ARG_MAX ARG_MIN",
        "2.3.0 2.3.0 2.4.0 2.5.0": "BATCH_MATMUL",
        "1.10.0 2.5.0 2.15.0": "RSQRT",
        "1.13.1 2.5.0": "SQUARED_DIFFERENCE",
        "1.7.0 2.12.0": "EXP",
        "2.9.0 2.9.0": "GELU",
        "1.13.1 1.14.0 2.3.0 2.12.0": "UNIDIRECTIONAL_SEQUENCE_LSTM",
    }.items()
    for operator in operators.split()
}
"""Operator to the first runtimes that have its versions 1, 2, ..."""
