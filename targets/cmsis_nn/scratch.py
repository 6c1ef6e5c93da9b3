"""Which function of CMSIS-NN carries out an operation on a core, and the memory that it works in.

Sizes and dispatch are those of CMSIS-NN 99f736a6, built with gcc or clang; tests hold them to the library's own
`*_get_buffer_size` functions. The guards are inputs for which a function of that version gives wrong data or an error.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from qcompiler.integer.operations import (
    Addition,
    Convolution,
    DepthwiseConvolution,
    Extremum,
    FullyConnected,
    Interpolation,
    Lookup,
    MatrixProduct,
    Multiplication,
    Pool,
    Requantization,
    Softmax,
)

if TYPE_CHECKING:
    from qcompiler.integer.program import Operation
    from qcompiler.targets.cmsis_nn.boards import KernelPath

_MVE_COLUMNS = 124
"""Channels that the vector kernels of depthwise convolutions treat at a time."""


@dataclass(frozen=True)
class Function:
    """A function of the library, and what it needs.

    Attributes:
        name: Its name.
        scratch: Bytes of `ctx.buf`.
    """

    name: str
    scratch: int = 0


def _up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


def convolution(operation: Operation, path: KernelPath) -> Function:
    """For a `Convolution`."""
    work, x, filters = operation.work, operation.inputs[0], operation.inputs[1]
    assert isinstance(work, Convolution)
    _, height, width, depth = filters.shape
    taps = height * width * depth
    kind = "s16" if x.bits == 16 else "s4" if filters.bits == 4 else "s8"
    direct = {"c": 4 * _up(taps, 4), "dsp": 4 * _up(taps, 4), "mve": 4 * _up(taps, 16)}[path]
    if kind == "s4":
        direct = 4 * _up(taps, 16) if path == "mve" else 4 * taps
    elif kind == "s16":
        direct = 8 * _up(taps, 8) if path == "mve" else 4 * taps
    if work.upscale != (1, 1):
        return Function("arm_convolve_s8", direct)
    if (height, width) == (1, 1) and work.groups == 1 and kind != "s16":
        # The wrapper's kernels for single taps go by the size of the input, also for slices without rows of padding.
        if any(work.pads):
            return Function(f"arm_convolve_{kind}", direct)
        if work.dilations == (1, 1):
            return Function(f"arm_convolve_wrapper_{kind}", 0)
    if path == "mve" and height == 1 and x.shape[1] == 1 and kind != "s16":
        # Their kernel for single rows fails or is wrong for some paddings.
        return Function("arm_convolve_s8" if kind == "s8" else "arm_convolve_s4", direct)
    return Function(f"arm_convolve_wrapper_{kind}", direct)


def depthwise(operation: Operation, path: KernelPath) -> Function:
    """For a `DepthwiseConvolution`."""
    work, x, filters = operation.work, operation.inputs[0], operation.inputs[1]
    assert isinstance(work, DepthwiseConvolution)
    _, height, width, channels = filters.shape
    area = height * width
    kind = "s16" if x.bits == 16 else "s4" if filters.bits == 4 else "s8"
    simple = work.multiplier == 1 and work.dilations == (1, 1)
    plain = simple and x.shape[0] == 1
    wrapper = f"arm_depthwise_conv_wrapper_{kind}"
    if kind == "s16":
        fast = {"c": 0, "dsp": 2 * channels * area, "mve": 8 * channels * area + 8}[path]
        return Function(wrapper, fast if simple and area < 512 else 0)
    if not plain:
        return Function(wrapper)
    optimised = {"c": 0, "dsp": 2 * channels * area, "mve": 4 * _MVE_COLUMNS * area}[path]
    if kind == "s4":
        return Function(wrapper, 4 * _MVE_COLUMNS * area if path == "mve" else 2 * channels * area)
    small = (height, width) == (3, 3) and work.pads[1] <= 1  # slices have fewer rows of padding, or none
    if path != "mve" and small:
        right = (operation.output.shape[2] - 1) * work.strides[1] - work.pads[1] + 3 - x.shape[2]
        if right < 2:
            return Function(wrapper, 0 if work.pads[0] <= 1 else optimised)
        # Their 3x3 kernel reads past the row where two columns of padding follow.
        return Function("arm_depthwise_conv_s8_opt" if path == "dsp" else "arm_depthwise_conv_s8", optimised)
    return Function(wrapper, optimised)


def pool(operation: Operation, path: KernelPath) -> Function:
    """For a `Pool`."""
    work, x = operation.work, operation.inputs[0]
    assert isinstance(work, Pool)
    bits = "s16" if x.bits == 16 else "s8"
    if not work.average:
        return Function(f"arm_max_pool_{bits}")
    return Function(f"arm_avgpool_{bits}", 4 * x.shape[3] if path == "dsp" else 0)


def matrix_product(operation: Operation, path: KernelPath) -> Function:
    """For a `MatrixProduct`: on vector cores it sums the second operand at run time."""
    bits = "s16" if operation.inputs[0].bits == 16 else "s8"
    columns = operation.inputs[1].shape[-2]
    return Function(f"arm_batch_matmul_{bits}", 4 * columns if path == "mve" and bits == "s8" else 0)


def scratch_of(operation: Operation, path: KernelPath) -> int:
    """Bytes that an operation works in."""
    work = operation.work
    for kind, choose in (
        (Convolution, convolution), (DepthwiseConvolution, depthwise), (Pool, pool), (MatrixProduct, matrix_product),
    ):  # fmt: skip
        if isinstance(work, kind):
            return choose(operation, path).scratch
    return 0


def in_place(operation: Operation) -> tuple[int, ...]:
    """The inputs in whose place an operation can write its output, element by element."""
    work, made = operation.work, operation.output
    if isinstance(work, Addition | Multiplication | Extremum):
        return tuple(
            slot
            for slot, tensor in enumerate(operation.inputs)
            if tensor.shape == made.shape and tensor.bits == made.bits
        )
    alone = isinstance(work, Softmax | Lookup | Interpolation | Requantization)
    return (0,) if alone and operation.inputs[0].bits == made.bits else ()


def sums_needed(operation: Operation, path: KernelPath) -> bool:
    """Whether a fully connected kernel takes the sums of its rows instead of the bias."""
    return path == "mve" and isinstance(operation.work, FullyConnected) and operation.inputs[0].bits == 8
