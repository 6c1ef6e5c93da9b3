"""Operations that functions of CMSIS-NN carry out: one call each, or one per slice of rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from qcompiler.integer.operations import (
    Addition,
    Convolution,
    DepthwiseConvolution,
    FullyConnected,
    MatrixProduct,
    Multiplication,
    Pool,
    Softmax,
)
from qcompiler.targets.cmsis_nn import scratch
from qcompiler.targets.cmsis_nn.emitting import Body, Context, clamps, dims, emits, factor
from qcompiler.targets.cmsis_nn.own_steps import added, multiplied

if TYPE_CHECKING:
    from qcompiler.fixed_point import Rescale
    from qcompiler.integer.program import Operation
    from qcompiler.targets.cmsis_nn.slicing import Slice


_LONGEST_SOFTMAX = 511
"""Of longer rows the library's sum of exponentials may reach 2**28, from where on it shifts by more than 31 bits."""


def pair(numbers: Sequence[int]) -> str:
    """Rows and columns as a cmsis_nn_tile, which has the columns first."""
    return f"{{{numbers[1]}, {numbers[0]}}}"


def context_of(size: int) -> str:
    """The declaration of a kernel's context."""
    return f"const cmsis_nn_context context = {{{'scratch' if size else 'NULL'}, {size}}};"


def per_channel(operation: Operation, context: Context, rescale: Rescale, padding: int = 0) -> list[str]:
    """The declaration of multipliers and shifts; the library's structure lacks the const, and never writes them."""
    multiplier = context.constants.array(f"{operation.name}_multiplier", rescale.multiplier, padding)
    shift = context.constants.array(f"{operation.name}_shift", rescale.shift, padding)
    names = f"(int32_t *)(uintptr_t){multiplier}, (int32_t *)(uintptr_t){shift}"
    return [f"const cmsis_nn_per_channel_quant_params factors = {{{names}}};"]


def _padding(channels: int, context: Context) -> int:
    """Elements that vector kernels may read beyond the arrays of odd numbers of channels."""
    return 4 if context.path == "mve" and channels % 4 else 0


@emits(Convolution, DepthwiseConvolution)
def _convolution(operation: Operation, context: Context) -> Body:
    work, (x, filters, bias), made = operation.work, operation.inputs, operation.output
    assert isinstance(work, Convolution | DepthwiseConvolution)
    deep = isinstance(work, DepthwiseConvolution)
    function = (scratch.depthwise if deep else scratch.convolution)(operation, context.path)
    padding = _padding(made.shape[3], context) if deep else 0
    out = Body()
    kind = "dw_conv" if isinstance(work, DepthwiseConvolution) else "conv"
    multiplier = f"{work.multiplier}, " if isinstance(work, DepthwiseConvolution) else ""
    out.lines += [
        (
            f"cmsis_nn_{kind}_params parameters = {{{work.input_offset}, {work.output_offset}, {multiplier}{pair(work.strides)}, "
            f"{pair(work.pads[:2])}, {pair(work.dilations)}, {clamps(work)}}};"
        ),
        *per_channel(operation, context, work.rescale, padding),
        context_of(function.scratch),
        dims("filter", filters.shape),
        dims("bias", (1, 1, 1, made.shape[3])),
    ]
    bias_name = context.constants.tensor(bias, padding)
    if x.bits == 16 and not deep:
        out.lines.append(f"const cmsis_nn_bias_data bias_data = {{{bias_name}, false}};")
        bias_name = "&bias_data"
    upscale = []
    if function.name == "arm_convolve_s8":
        rows, columns = work.upscale if isinstance(work, Convolution) else (1, 1)
        upscale = ["NULL"] if (rows, columns) == (1, 1) else ["&upscale"]
        if upscale == ["&upscale"]:
            out.lines.append(f"const cmsis_nn_dims upscale = {{0, {rows}, {columns}, 0}};")
    shape = list(x.shape)
    if isinstance(work, Convolution) and work.upscale != (1, 1):
        shape[1], shape[2] = shape[1] * work.upscale[0], shape[2] * work.upscale[1]
    weights = context.constants.tensor(filters, padding if filters.bits == 8 else padding // 2)
    names = [
        "&context",
        "&parameters",
        "&factors",
        "&input",
        "x0",
        "&filter",
        weights,
        "&bias",
        bias_name,
        *upscale,
        "&output",
        "y",
    ]
    pieces = context.slices.get(operation.name)
    if pieces is None:
        out.lines += [dims("input", shape), dims("output", made.shape)]
        out.lines[0] = f"const {out.lines[0]}"
        out.call(function.name, *names)
        return out
    _sliced(out, function.name, names, pieces, shape, made.shape)
    return out


def _sliced(
    out: Body,
    function: str,
    names: list[str],
    pieces: tuple[Slice, ...],
    shape: list[int],
    made: tuple[int, ...],
) -> None:
    """A loop over slices of rows: the output may lie over rows of the input that have been read."""
    rows = ", ".join(
        f"{{{piece.first}, {piece.rows}, {piece.source}, {piece.source_rows}, {piece.padding}}}"
        for piece in pieces
    )
    names[names.index("x0")] = f"&x0[slice->source * {shape[2] * shape[3]}]"
    names[names.index("y")] = f"&y[slice->first * {made[2] * made[3]}]"
    out.lines += [
        (
            "static const struct { int16_t first; int16_t rows; int16_t source; int16_t source_rows; int16_t padding; } slices[] = {"
            f"\n    {rows}}};"
        ),
        dims("input", shape).removeprefix("const "),
        dims("output", made).removeprefix("const "),
        (
            f"arm_cmsis_nn_status status = ARM_CMSIS_NN_SUCCESS;\n"
            f"  for (int32_t i = 0; (i < {len(pieces)}) && (status == ARM_CMSIS_NN_SUCCESS); ++i) {{"
        ),
        "  input.h = slices[i].source_rows;",
        "  output.h = slices[i].rows;",
        "  parameters.padding.h = slices[i].padding;",
        f"  status = {out.invocation(function, *(name.replace('slice->', 'slices[i].') for name in names))};",
        "}",
        "return status;",
    ]


@emits(FullyConnected)
def _fully_connected(operation: Operation, context: Context) -> Body:
    work, (x, matrix, bias), made = operation.work, operation.inputs, operation.output
    assert isinstance(work, FullyConnected)
    rows, depth = x.elements // x.shape[-1], x.shape[-1]
    several = len(work.rescale.multiplier) > 1
    out = Body(
        [
            f"const cmsis_nn_fc_params parameters = {{{work.input_offset}, 0, {work.output_offset}, {clamps(work)}}};"
        ]
    )
    out.lines += per_channel(operation, context, work.rescale) if several else [single(work.rescale)]
    if scratch.sums_needed(operation, context.path):
        assert matrix.data is not None
        assert bias.data is not None
        sums = bias.data.astype(np.int64) + work.input_offset * matrix.data.astype(np.int64).sum(axis=1)
        name = context.constants.array(f"{operation.name}_sums", sums.astype(np.int32))
        out.lines.append(
            f"const cmsis_nn_context context = {{(void *)(uintptr_t){name}, {4 * made.shape[-1]}}};"
        )
    else:
        out.lines.append(context_of(0))
    out.lines += [
        dims("input", (rows, 1, 1, depth)),
        dims("filter", (depth, 1, 1, made.shape[-1])),
        dims("bias", (1, 1, 1, made.shape[-1])),
        dims("output", (rows, 1, 1, made.shape[-1])),
    ]
    width = "s4" if matrix.bits == 4 else f"s{x.bits}"
    function = f"arm_fully_connected_{'per_channel_' if several else ''}{width}"
    if several and width != "s8":  # the library's has a single factor
        function = function.replace("arm_", "qc_")
    names = [
        "&context",
        "&parameters",
        "&factors",
        "&input",
        "x0",
        "&filter",
        context.constants.tensor(matrix),
    ]
    out.call(function, *names, "&bias", context.constants.tensor(bias), "&output", "y")
    return out


def single(rescale: Rescale, name: str = "factors") -> str:
    """The declaration of a single factor."""
    return f"const cmsis_nn_per_tensor_quant_params {name} = {{{factor(rescale)}}};"


@emits(MatrixProduct)
def _matrix_product(operation: Operation, context: Context) -> Body:
    work, (a, b), made = operation.work, operation.inputs, operation.output
    assert isinstance(work, MatrixProduct)
    function = scratch.matrix_product(operation, context.path)
    stacks = made.elements // (made.shape[-1] * made.shape[-2])
    out = Body(
        [
            (
                f"const cmsis_nn_bmm_params parameters = {{false, false, {{{work.input_offset}, {work.other_offset}, {work.output_offset}, "
                f"{clamps(work)}}}}};"
            ),
            single(work.rescale),
            context_of(function.scratch),
            dims("left", (1, stacks, *a.shape[-2:])),
            dims("right", (1, stacks, *b.shape[-2:])),
            dims("output", (1, stacks, *made.shape[-2:])),
        ]
    )
    left, right = context.operand(a, "x0"), context.operand(b, "x1")
    out.call(
        function.name, "&context", "&parameters", "&factors", "&left", left, "&right", right, "&output", "y"
    )
    return out


@emits(Pool)
def _pool(operation: Operation, context: Context) -> Body:
    work, (x,), made = operation.work, operation.inputs, operation.output
    assert isinstance(work, Pool)
    function = scratch.pool(operation, context.path)
    out = Body(
        [
            f"const cmsis_nn_pool_params parameters = {{{pair(work.strides)}, {pair(work.pads[:2])}, {clamps(work)}}};",
            context_of(function.scratch),
            dims("input", x.shape),
            dims("window", (1, *work.kernel, 1)),
            dims("output", made.shape),
        ]
    )
    out.call(function.name, "&context", "&parameters", "&input", "x0", "&window", "&output", "y")
    return out


@emits(Softmax)
def _softmax(operation: Operation, context: Context) -> Body:
    work, (x,), made = operation.work, operation.inputs, operation.output
    assert isinstance(work, Softmax)
    length = x.shape[-1]
    name = "arm_softmax_s8" if made.bits == 8 else "arm_softmax_s8_s16"
    if made.bits == 8 and length > _LONGEST_SOFTMAX:
        name = "qc_softmax_s8"
    out = Body()
    numbers = map(str, (x.elements // length, length, work.multiplier, work.shift, work.diff_min))
    out.lines += [f"{out.invocation(name, 'x0', *numbers, 'y')};", "return ARM_CMSIS_NN_SUCCESS;"]
    return out


@emits(Addition)
def _addition(operation: Operation, context: Context) -> Body:
    work, (a, b), made = operation.work, operation.inputs, operation.output
    assert isinstance(work, Addition)
    if work.sign < 0 or not a.shape == b.shape == made.shape:
        return added(operation, context)
    out = Body()
    out.call(
        f"arm_elementwise_add_s{made.bits}",
        context.operand(a, "x0"), context.operand(b, "x1"),
        str(work.input_offset), factor(work.first), str(work.other_offset), factor(work.second), str(work.left_shift),
        "y", str(work.output_offset), factor(work.output), str(work.low), str(work.high), str(made.elements),
    )  # fmt: skip
    return out


@emits(Multiplication)
def _multiplication(operation: Operation, context: Context) -> Body:
    work, (a, b), made = operation.work, operation.inputs, operation.output
    assert isinstance(work, Multiplication)
    if not a.shape == b.shape == made.shape:
        return multiplied(operation, context)
    out = Body()
    out.call(
        f"arm_elementwise_mul_s{made.bits}",
        context.operand(a, "x0"), context.operand(b, "x1"), str(work.input_offset), str(work.other_offset),
        "y", str(work.output_offset), factor(work.rescale), str(work.low), str(work.high), str(made.elements),
    )  # fmt: skip
    return out
