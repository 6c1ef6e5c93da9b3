"""Operations of a program as operators of the file, one for one."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import singledispatch
from typing import TYPE_CHECKING, Any

import numpy as np

from qcompiler.errors import TargetError
from qcompiler.integer.encoder import contiguous
from qcompiler.integer.operations import (
    Addition,
    ArgMax,
    Concatenation,
    Convolution,
    DepthwiseConvolution,
    Extreme,
    Extremum,
    FullyConnected,
    Gather,
    LogSoftmax,
    Lookup,
    MatrixProduct,
    Mean,
    Multiplication,
    Padding,
    Pool,
    Rectifier,
    Requantization,
    Resize,
    Softmax,
    SoftmaxByTables,
    StridedCopy,
    UnitLength,
    View,
    Work,
)
from qcompiler.targets.edge_tpu.forms import (
    activation,
    along,
    averaged,
    cut_off,
    padding,
    spread_padding,
)
from qcompiler.targets.edge_tpu.legalize import rectifier, region
from qcompiler.targets.edge_tpu.movement import Part, parts_of
from qcompiler.targets.edge_tpu.resizing import flags_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qcompiler.integer.program import Operation, Tensor

FUNCTIONS = {
    "Sigmoid": "LOGISTIC",
    "Tanh": "TANH",
    "HardSwish": "HARD_SWISH",
    "Gelu": "GELU",
    "Gelu(tanh)": "GELU",
    "Abs": "ABS",
    "Neg": "NEG",
    "Sqrt": "SQRT",
    "Sqrt+Reciprocal": "RSQRT",
    "Exp": "EXP",
    "Log": "LOG",
    "Elu": "ELU",
    "Sin": "SIN",
    "Cos": "COS",
    "Floor": "FLOOR",
    "Ceil": "CEIL",
    "Round": "ROUND",
    "Reciprocal+Sqrt": "RSQRT",
}
"""Functions of one variable that have operators of their own."""


class Form:
    """An operator of the file for an operation.

    Attributes:
        op: A member of the schema's `BuiltinOperator`.
        options: Its options.
        operands: What it reads, in order; arrays are constants that the program has no tensor for: axes, sizes.
    """

    def __init__(
        self, op: str, operands: tuple[Tensor | NDArray[Any], ...], options: Mapping[str, Any] | None = None
    ) -> None:
        self.op = op
        self.operands = operands
        self.options = dict(options or {})


def form_of(operation: Operation) -> Form:
    """The operator that carries out an operation of a legalized program.

    Raises:
        TargetError: There is none.
    """
    return _form(operation.work, operation)


@singledispatch
def _form(work: Work, operation: Operation) -> Form:
    raise TargetError(f"{region(operation)}: {type(work).__name__} has no form in the file.")


@_form.register(Convolution)
def _(work: Convolution, operation: Operation) -> Form:
    if work.upscale != (1, 1):
        return _spread(work, operation)
    return Form("CONV_2D", operation.inputs, _window(work, operation))


def _spread(work: Convolution, operation: Operation) -> Form:
    """A transposed convolution, of the filter turned back."""
    x, filters, bias = operation.inputs
    assert filters.data is not None
    taps, images = filters.shape[1:3], (x.shape[1:3], operation.output.shape[1:3])
    turned = np.ascontiguousarray(filters.data[:, ::-1, ::-1])
    own = dataclasses.replace(filters, name=f"{filters.name}.turned", data=turned)
    options = {
        "padding": spread_padding(*images, taps, work.upscale, cut_off(work, taps)),
        "stride_h": work.upscale[0],
        "stride_w": work.upscale[1],
        **_fused(work, operation),
    }
    shape = np.array(operation.output.shape, np.int32)
    return Form("TRANSPOSE_CONV", (shape, own, x, bias), options)


@_form.register(DepthwiseConvolution)
def _(work: DepthwiseConvolution, operation: Operation) -> Form:
    options = {**_window(work, operation), "depth_multiplier": work.multiplier}
    return Form("DEPTHWISE_CONV_2D", operation.inputs, options)


def _window(work: Convolution | DepthwiseConvolution, operation: Operation) -> dict[str, Any]:
    x, filters, _ = operation.inputs
    taps, images = filters.shape[1:3], (x.shape[1:3], operation.output.shape[1:3])
    return {
        "padding": padding(*images, taps, work.strides, work.dilations, work.pads),
        "stride_h": work.strides[0],
        "stride_w": work.strides[1],
        "dilation_h_factor": work.dilations[0],
        "dilation_w_factor": work.dilations[1],
        **_fused(work, operation),
    }


def _fused(work: Any, operation: Operation) -> dict[str, Any]:
    return {"fused_activation_function": activation(operation.output, work.low, work.high)}


@_form.register(FullyConnected)
def _(work: FullyConnected, operation: Operation) -> Form:
    return Form("FULLY_CONNECTED", operation.inputs, _fused(work, operation))


@_form.register(MatrixProduct)
def _(work: MatrixProduct, operation: Operation) -> Form:
    return Form("BATCH_MATMUL", operation.inputs, {"adj_x": False, "adj_y": True})


@_form.register(Addition)
def _(work: Addition, operation: Operation) -> Form:
    options = _fused(work, operation)
    if (
        operation.output.bits == 16
    ):  # the default would shift scales that are near powers of two, and saturate
        options["pot_scale_int16"] = False
    return Form("ADD" if work.sign > 0 else "SUB", operation.inputs, options)


@_form.register(Multiplication)
def _(work: Multiplication, operation: Operation) -> Form:
    return Form("MUL", operation.inputs, _fused(work, operation))


@_form.register(Extremum)
def _(work: Extremum, operation: Operation) -> Form:
    return Form("MAXIMUM" if work.largest else "MINIMUM", operation.inputs)


@_form.register(Pool)
def _(work: Pool, operation: Operation) -> Form:
    (x,) = operation.inputs
    images = x.shape[1:3], operation.output.shape[1:3]
    options = {
        "padding": padding(*images, work.kernel, work.strides, (1, 1), work.pads),
        "stride_h": work.strides[0],
        "stride_w": work.strides[1],
        "filter_height": work.kernel[0],
        "filter_width": work.kernel[1],
        **_fused(work, operation),
    }
    return Form("AVERAGE_POOL_2D" if work.average else "MAX_POOL_2D", (x,), options)


@_form.register(Mean)
def _(work: Mean, operation: Operation) -> Form:
    (x,) = operation.inputs
    axes = averaged(work, x.shape)
    keep = len(operation.output.shape) == len(x.shape)
    return Form("MEAN", (x, np.array(axes, np.int32)), {"keep_dims": keep})


@_form.register(Extreme)
def _(work: Extreme, operation: Operation) -> Form:
    (x,) = operation.inputs
    axes = averaged(work, x.shape)
    keep = len(operation.output.shape) == len(x.shape)
    return Form(
        "REDUCE_MAX" if work.largest else "REDUCE_MIN", (x, np.array(axes, np.int32)), {"keep_dims": keep}
    )


@_form.register(Softmax)
@_form.register(SoftmaxByTables)
def _(work: Softmax | SoftmaxByTables, operation: Operation) -> Form:
    return Form("SOFTMAX", operation.inputs, {"beta": 1.0})


@_form.register(Lookup)
def _(work: Lookup, operation: Operation) -> Form:
    op = FUNCTIONS.get(work.function)
    if op is None:
        raise TargetError(f"{region(operation)}: {work.function} has no operator in the file.")
    options = {"approximate": work.function == "Gelu(tanh)"} if op == "GELU" else {}
    return Form(op, operation.inputs, options)


@_form.register(LogSoftmax)
def _(work: LogSoftmax, operation: Operation) -> Form:
    return Form("LOG_SOFTMAX", operation.inputs)


@_form.register(UnitLength)
def _(work: UnitLength, operation: Operation) -> Form:
    return Form("L2_NORMALIZATION", operation.inputs, {"fused_activation_function": "NONE"})


@_form.register(Rectifier)
def _(work: Rectifier, operation: Operation) -> Form:
    x, *slopes = operation.inputs
    if not slopes:
        return Form("LEAKY_RELU", (x,), {"alpha": work.slope})
    return Form("PRELU", (x, slopes[0]))


@_form.register(Requantization)
def _(work: Requantization, operation: Operation) -> Form:
    plain = "DEQUANTIZE" if operation.output.is_float else "QUANTIZE"
    return Form(rectifier(work, operation) or plain, operation.inputs)


@_form.register(View)
def _(work: View, operation: Operation) -> Form:
    shape = operation.output.shape
    sizes = [np.array(shape, np.int32)] if shape else []  # a number has none: no tensor is without elements
    return Form("RESHAPE", (*operation.inputs, *sizes), {"new_shape": list(shape)})


@_form.register(Concatenation)
def _(work: Concatenation, operation: Operation) -> Form:
    return Form("CONCATENATION", operation.inputs, {"axis": work.axis, "fused_activation_function": "NONE"})


@_form.register(Padding)
def _(work: Padding, operation: Operation) -> Form:
    (x,) = operation.inputs
    around = np.stack([work.before, work.after], axis=1).astype(np.int32)
    if work.value == x.zero_point:
        return Form("PAD", (x, around))
    return Form("PADV2", (x, around, _like(x, work.value)))


def _like(tensor: Tensor, code: float) -> Tensor:
    """A constant of one code in the encoding of a tensor."""
    data = np.full((1,), code, tensor.dtype)
    name = f"{tensor.name}.code"
    return dataclasses.replace(tensor, name=name, shape=(1,), data=data, value="", order=())


@_form.register(Gather)
def _(work: Gather, operation: Operation) -> Form:
    return Form("GATHER", (*operation.inputs, work.indices), {"axis": work.axis, "batch_dims": 0})


@_form.register(ArgMax)
def _(work: ArgMax, operation: Operation) -> Form:
    (x,) = operation.inputs
    if work.last:
        raise TargetError(
            f"{region(operation)}: ArgMax of the last index has no form in the file; it has the first."
        )
    return Form("ARG_MAX", (x, np.array([along(work, x.shape)], np.int32)), {"output_type": "INT32"})


@_form.register(Resize)
def _(work: Resize, operation: Operation) -> Form:
    (x,) = operation.inputs
    size = operation.output.shape[1:3]
    flags = flags_of(work, x.shape[1:3], size)
    if flags is None:
        raise TargetError(
            f"{region(operation)}: the rows and columns that this Resize reads are none that the file's operators read."
        )
    op = "RESIZE_NEAREST_NEIGHBOR" if work.nearest else "RESIZE_BILINEAR"
    return Form(op, (x, np.array(size, np.int32)), flags)


@_form.register(StridedCopy)
def _(work: StridedCopy, operation: Operation) -> Form:
    """One step of `movement.steps_of`."""
    (x,) = operation.inputs
    if 0 in work.strides:
        return Form("BROADCAST_TO", (x, np.array(work.shape, np.int32)))
    parts = parts_of(work, x.shape)
    if all(part.is_whole for part in parts):
        axes = dict.fromkeys(range(len(x.shape)))
        units = contiguous(x.shape)
        perm = np.empty(len(axes), np.int32)
        for place, (size, step) in enumerate(zip(work.shape, work.strides, strict=True)):
            perm[place] = next(
                axis for axis in axes if x.shape[axis] == size and (size == 1 or units[axis] == step)
            )
            del axes[int(perm[place])]
        return Form("TRANSPOSE", (x, perm))
    return _slice(x, parts)


def _slice(x: Tensor, parts: list[Part]) -> Form:
    begin = [part.first if part.step > 0 else part.first + (part.count - 1) * -part.step for part in parts]
    end = [at + part.count * part.step for at, part in zip(begin, parts, strict=True)]
    open_ends = sum(1 << axis for axis, at in enumerate(end) if at < 0)
    steps = [part.step for part in parts]
    options = {
        "begin_mask": 0,
        "end_mask": open_ends,
        "ellipsis_mask": 0,
        "new_axis_mask": 0,
        "shrink_axis_mask": 0,
        "offset": False,
    }
    bounds = (np.array(numbers, np.int32) for numbers in (begin, [max(at, 0) for at in end], steps))
    return Form("STRIDED_SLICE", (x, *bounds), options)
