"""Operations that this compiler's own kernels carry out, because CMSIS-NN has none for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from qcompiler.integer.encoder import MOST_DIMENSIONS
from qcompiler.integer.operations import (
    Addition,
    ArgMax,
    Concatenation,
    Extremum,
    Gather,
    Interpolation,
    Lookup,
    Mean,
    Multiplication,
    Padding,
    Requantization,
    Resize,
    StridedCopy,
)
from qcompiler.targets.cmsis_nn.emitting import Body, Context, clamps, dims, emits, factor

if TYPE_CHECKING:
    from qcompiler.integer.program import Operation, Tensor


def _listed(numbers: Sequence[int], fill: int) -> str:
    """Numbers per axis, with those of missing outer axes in front."""
    full = [fill] * (MOST_DIMENSIONS - len(numbers)) + [int(number) for number in numbers]
    return f"{{{', '.join(map(str, full))}}}"


def _walks(operands: Sequence[Tensor], shape: Sequence[int]) -> str:
    """The declaration of how two operands are walked while the result is written."""
    strides = []
    for tensor in operands:
        step, steps = 1, []
        for size in reversed(tensor.shape):
            steps.append(0 if size == 1 else step)
            step *= size
        strides.append(_listed(steps[::-1], 0))
    return f"const qc_broadcast walk = {{{_listed(shape, 1)}, {', '.join(strides)}}};"


def _two(operation: Operation, context: Context) -> tuple[str, str]:
    a, b = operation.inputs
    return context.operand(a, "x0"), context.operand(b, "x1")


def added(operation: Operation, context: Context) -> Body:
    """Sums and differences of tensors of different shapes."""
    work, made = operation.work, operation.output
    assert isinstance(work, Addition)
    out = Body(
        [
            (
                f"const qc_add_params parameters = {{{work.sign}, {work.left_shift}, {work.input_offset}, {factor(work.first)}, "
                f"{work.other_offset}, {factor(work.second)}, {work.output_offset}, {factor(work.output)}, {clamps(work)}}};"
            ),
            _walks(operation.inputs, made.shape),
        ]
    )
    out.call(f"qc_add_s{made.bits}", *_two(operation, context), "&parameters", "&walk", "y")
    return out


def multiplied(operation: Operation, context: Context) -> Body:
    """Products of tensors of different shapes."""
    work, made = operation.work, operation.output
    assert isinstance(work, Multiplication)
    out = Body(
        [
            (
                f"const qc_mul_params parameters = {{{work.input_offset}, {work.other_offset}, {work.output_offset}, "
                f"{factor(work.rescale)}, {clamps(work)}}};"
            ),
            _walks(operation.inputs, made.shape),
        ]
    )
    out.call(f"qc_mul_s{made.bits}", *_two(operation, context), "&parameters", "&walk", "y")
    return out


@emits(Extremum)
def _extremum(operation: Operation, context: Context) -> Body:
    work, made = operation.work, operation.output
    assert isinstance(work, Extremum)
    out = Body([_walks(operation.inputs, made.shape)])
    largest = "true" if work.largest else "false"
    out.call(f"qc_extremum_s{made.bits}", *_two(operation, context), largest, "&walk", "y")
    return out


@emits(Lookup)
def _lookup(operation: Operation, context: Context) -> Body:
    work, made = operation.work, operation.output
    assert isinstance(work, Lookup)
    table = context.constants.array(f"{operation.name}_table", work.table)
    out = Body()
    out.call("qc_lookup_s8" if made.bits == 8 else "qc_lookup_s8_s16", "x0", table, str(made.elements), "y")
    return out


@emits(Interpolation)
def _interpolation(operation: Operation, context: Context) -> Body:
    work, made = operation.work, operation.output
    assert isinstance(work, Interpolation)
    table = context.constants.array(f"{operation.name}_table", work.table)
    out = Body()
    out.call("qc_interpolate_s16", "x0", table, str(made.elements), "y")
    return out


def _rescale(work: Any) -> str:
    """The declaration of a qc_rescale_params."""
    numbers = f"{work.input_offset}, {work.output_offset}, {factor(work.rescale)}, {clamps(work)}"
    return f"const qc_rescale_params parameters = {{{numbers}}};"


@emits(Requantization)
def _requantization(operation: Operation, context: Context) -> Body:
    x, made = operation.inputs[0], operation.output
    out = Body([_rescale(operation.work)])
    out.call(
        f"qc_requantize_s{x.bits}_s{made.bits}",
        context.operand(x, "x0"),
        "&parameters",
        str(made.elements),
        "y",
    )
    return out


@emits(Mean)
def _mean(operation: Operation, context: Context) -> Body:
    work, made = operation.work, operation.output
    assert isinstance(work, Mean)
    out = Body([_rescale(work)])
    out.call(
        f"qc_mean_s{made.bits}", "x0", "&parameters", *map(str, (work.outer, work.count, work.inner)), "y"
    )
    return out


@emits(ArgMax)
def _arg_max(operation: Operation, context: Context) -> Body:
    work, x = operation.work, operation.inputs[0]
    assert isinstance(work, ArgMax)
    out = Body()
    last = "true" if work.last else "false"
    out.call(f"qc_argmax_s{x.bits}", "x0", last, *map(str, (work.outer, work.count, work.inner)), "y")
    return out


@emits(Resize)
def _resize(operation: Operation, context: Context) -> Body:
    work, x, made = operation.work, operation.inputs[0], operation.output
    assert isinstance(work, Resize)
    out = Body([dims("input", x.shape), dims("output", made.shape)])
    for name, axis in (("rows", work.rows), ("columns", work.columns)):
        arrays = [
            context.constants.array(f"{operation.name}_{name}_{what}", np.asarray(data, np.int32))
            for what, data in zip(("lower", "upper", "weight"), axis, strict=True)
        ]
        out.lines.append(f"const qc_resize_axis {name} = {{{', '.join(arrays)}}};")
    out.call(f"qc_resize_s{made.bits}", "x0", "&input", "&rows", "&columns", "&output", "y")
    return out


@emits(StridedCopy)
def _strided_copy(operation: Operation, context: Context) -> Body:
    work, x = operation.work, operation.inputs[0]
    assert isinstance(work, StridedCopy)
    out = Body(
        [
            f"const qc_strided_params parameters = {{{work.start}, {_listed(work.shape, 1)}, {_listed(work.strides, 0)}}};"
        ]
    )
    out.call("qc_strided_copy", context.operand(x, "x0"), "&parameters", str(x.bits // 8), "y")
    return out


@emits(Gather)
def _gather(operation: Operation, context: Context) -> Body:
    work, x = operation.work, operation.inputs[0]
    assert isinstance(work, Gather)
    indices = context.constants.array(f"{operation.name}_indices", np.asarray(work.indices, np.int32))
    outer = int(np.prod(x.shape[: work.axis], dtype=np.int64))
    inner = int(np.prod(x.shape[work.axis + 1 :], dtype=np.int64)) * x.bits // 8
    out = Body()
    numbers = map(str, (outer, x.shape[work.axis], inner))
    out.call("qc_gather", context.operand(x, "x0"), *numbers, indices, str(len(work.indices)), "y")
    return out


@emits(Concatenation)
def _concatenation(operation: Operation, context: Context) -> Body:
    work, made = operation.work, operation.output
    assert isinstance(work, Concatenation)
    outer = int(np.prod(made.shape[: work.axis], dtype=np.int64))
    names = [context.operand(tensor, f"x{slot}") for slot, tensor in enumerate(operation.inputs)]
    out = Body(
        [
            f"const void *const parts[{len(names)}] = {{{', '.join(names)}}};",
            f"const int32_t bytes[{len(names)}] = {{{', '.join(str(tensor.bytes // outer) for tensor in operation.inputs)}}};",
        ]
    )
    out.call("qc_concat", "parts", "bytes", str(len(names)), str(outer), "y")
    return out


@emits(Padding)
def _padding(operation: Operation, context: Context) -> Body:
    work, x = operation.work, operation.inputs[0]
    assert isinstance(work, Padding)
    out = Body(
        [
            (
                f"const qc_pad_params parameters = {{{_listed(x.shape, 1)}, {_listed(work.before, 0)}, {_listed(work.after, 0)}, "
                f"{work.value}}};"
            )
        ]
    )
    out.call(f"qc_pad_{x.bits}", context.operand(x, "x0"), "&parameters", "y")
    return out
