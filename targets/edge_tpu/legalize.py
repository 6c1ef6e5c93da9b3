"""Programs in the words of the file format: whatever an operator cannot say is written as several that can.

Every step keeps every code, so the executor's tensors are those of the file, one for one.
"""

from __future__ import annotations

import dataclasses
import math
from functools import singledispatchmethod
from typing import Any

import numpy as np

from qcompiler.errors import TargetError
from qcompiler.fixed_point import Rescale
from qcompiler.integer.encoder import contiguous
from qcompiler.integer.operations import (
    Addition,
    ArgMax,
    Convolution,
    DepthwiseConvolution,
    Extreme,
    Extremum,
    FullyConnected,
    Gather,
    MatrixProduct,
    Mean,
    Multiplication,
    Padding,
    Pool,
    Rectifier,
    Requantization,
    Resize,
    StridedCopy,
    View,
    Work,
)
from qcompiler.integer.program import Operation, Program, Tensor
from qcompiler.targets.edge_tpu.forms import (
    ACTIVATIONS,
    RECTIFIERS,
    activation,
    along,
    cut_off,
    padding,
    spread_padding,
    written,
)
from qcompiler.targets.edge_tpu.movement import steps_of
from qcompiler.targets.edge_tpu.resizing import flags_of
from qcompiler.targets.edge_tpu.tidy import with_given_names, without_idle_views

Windowed = Convolution | DepthwiseConvolution


def legalize(program: Program) -> Program:
    """The same program in operations that the file has.

    Raises:
        TargetError: Something has no form in the file.
    """
    writer = _Writer(program)
    for operation in program.operations:
        writer.legal(operation.work, operation)
    legal = dataclasses.replace(program, operations=tuple(writer.operations))
    return with_given_names(without_idle_views(legal))


class _Writer:
    """Writes operations, several for those that the file has no single form for."""

    def __init__(self, program: Program) -> None:
        self.operations: list[Operation] = []
        self._names = {tensor.name for tensor in program.tensors} | {item.name for item in program.operations}

    def _unique(self, hint: str) -> str:
        name, number = hint, 1
        while name in self._names:
            number += 1
            name = f"{hint}.{number}"
        self._names.add(name)
        return name

    def _between(self, like: Tensor, what: str, shape: tuple[int, ...]) -> Tensor:
        """A tensor between two steps, in the encoding of another."""
        name = self._unique(f"{like.name}.{what}")
        return dataclasses.replace(like, name=name, shape=shape, value="", order=())

    def _add(self, operation: Operation, work: Work, inputs: tuple[Tensor, ...], made: Tensor) -> None:
        """One of several operations that stand for one."""
        name = self._unique(operation.name)
        self.operations.append(
            dataclasses.replace(operation, name=name, work=work, inputs=inputs, outputs=(made,))
        )

    # -- one method for each kind of work that may need several operators -----------------------------------------

    @singledispatchmethod
    def legal(self, work: Work, operation: Operation) -> None:
        """Writes an operation."""
        self.operations.append(operation)

    @legal.register
    def _(self, work: Convolution, operation: Operation) -> None:
        if work.groups != 1:
            raise TargetError(
                f"{region(operation)}: convolutions of several groups have no form in the file."
            )
        if work.upscale == (1, 1):
            self._windowed(work, operation)
        else:
            self._spread(work, operation)

    def _spread(self, work: Convolution, operation: Operation) -> None:
        """What a transposed convolution cuts off, and no padding does, is sliced off behind it."""
        x, filters, _ = operation.inputs
        made = operation.output
        given, wanted, taps = x.shape[1:3], made.shape[1:3], filters.shape[1:3]
        if work.dilations != (1, 1):
            raise TargetError(
                f"{region(operation)}: transposed convolutions with dilations have no form in the file."
            )
        cut = cut_off(work, taps)
        if spread_padding(given, wanted, taps, work.upscale, cut) is not None:
            self._clamped(operation, work, operation.inputs)
            return
        steps = work.upscale
        full = tuple((given[axis] - 1) * steps[axis] + taps[axis] for axis in (0, 1))
        size = tuple(max(full[axis], cut[axis] + wanted[axis]) for axis in (0, 1))
        if any(size[axis] - full[axis] >= steps[axis] for axis in (0, 1)):
            raise TargetError(
                f"{region(operation)}: a transposed convolution that writes {wanted} rows and columns of {given} reaches further than its "
                "strides, which has no form in the file."
            )
        whole = self._between(made, "whole", (made.shape[0], *size, made.shape[3]))
        below, right = (max(0, size[axis] - given[axis] * steps[axis]) for axis in (0, 1))
        spread = dataclasses.replace(work, pads=(taps[0] - 1, taps[1] - 1, below, right))
        self._clamped(operation, spread, operation.inputs, whole)
        strides = contiguous(whole.shape)
        copy = StridedCopy(cut[0] * strides[1] + cut[1] * strides[2], made.shape, strides)
        self.legal(copy, dataclasses.replace(operation, inputs=(whole,)))

    @legal.register
    def _(self, work: DepthwiseConvolution, operation: Operation) -> None:
        self._windowed(work, operation)

    def _windowed(self, work: Windowed, operation: Operation) -> None:
        """Padding that no name stands for is written out in front."""
        x, filters, bias = operation.inputs
        made = operation.output
        taps = filters.shape[1:3]
        if padding(x.shape[1:3], made.shape[1:3], taps, work.strides, work.dilations, work.pads) is None:
            x = self._padded(operation, x, work.pads, x.zero_point)
            work = dataclasses.replace(work, pads=(0, 0, 0, 0))
        self._clamped(operation, work, (x, filters, bias))

    def _padded(
        self, operation: Operation, x: Tensor, pads: tuple[int, int, int, int], value: float
    ) -> Tensor:
        top, left, bottom, right = pads
        batch, height, width, channels = x.shape
        made = self._between(x, "padded", (batch, height + top + bottom, width + left + right, channels))
        self._add(operation, Padding((0, top, left, 0), (0, bottom, right, 0), value), (x,), made)
        return made

    @legal.register(Addition)
    @legal.register(Multiplication)
    @legal.register(Rectifier)
    @legal.register(MatrixProduct)
    def _(self, work: Any, operation: Operation) -> None:
        self._clamped(operation, work, operation.inputs)

    @legal.register
    def _(self, work: FullyConnected, operation: Operation) -> None:
        x, matrix, bias = operation.inputs
        made = operation.output
        if len(x.shape) == 2:
            self._clamped(operation, work, operation.inputs)
            return
        rows = math.prod(x.shape[:-1])
        flat = self._between(x, "rows", (rows, x.shape[-1]))
        result = self._between(made, "rows", (rows, made.shape[-1]))
        self._add(operation, View(), (x,), flat)
        self._clamped(operation, work, (flat, matrix, bias), result)
        self._add(operation, View(), (result,), made)

    @legal.register
    def _(self, work: Pool, operation: Operation) -> None:
        (x,) = operation.inputs
        made = operation.output
        if padding(x.shape[1:3], made.shape[1:3], work.kernel, work.strides, (1, 1), work.pads) is None:
            if work.average:
                raise TargetError(
                    f"{region(operation)}: means over windows that reach {work.pads} beyond the image have no form in the file, whose "
                    "padding is none, or that of SAME; pad the image, and count the padding."
                )
            x = self._padded(operation, x, work.pads, extremes(x)[0])
            work = dataclasses.replace(work, pads=(0, 0, 0, 0))
        self._clamped(operation, work, (x,))

    @legal.register(Mean)
    @legal.register(Extreme)
    def _(self, work: Any, operation: Operation) -> None:
        (x,) = operation.inputs
        made = operation.output
        shapes = written(work, x.shape)
        write = self._clamped if isinstance(work, Mean) else self._add
        if made.shape in shapes:
            write(operation, work, (x,), made)
            return
        result = self._between(made, "reduced", shapes[-1])
        write(operation, work, (x,), result)
        self._add(operation, View(), (result,), made)

    @legal.register
    def _(self, work: Requantization, operation: Operation) -> None:
        if rectifier(work, operation) is None:
            self._clamped(operation, work, operation.inputs)
        else:
            self.operations.append(operation)

    @legal.register
    def _(self, work: Resize, operation: Operation) -> None:
        """Rows and columns that no flags stand for are gathered, one after the other."""
        (x,) = operation.inputs
        made = operation.output
        if not work.nearest or flags_of(work, x.shape[1:3], made.shape[1:3]) is not None:
            self.operations.append(operation)
            return
        rows = self._between(x, "rows", (x.shape[0], made.shape[1], *x.shape[2:]))
        self._add(operation, Gather(1, work.rows[0]), (x,), rows)
        self._add(operation, Gather(2, work.columns[0]), (rows,), made)

    @legal.register
    def _(self, work: StridedCopy, operation: Operation) -> None:
        (x,) = operation.inputs
        made = operation.output
        try:
            steps = list(steps_of(work, x.shape, made.shape)) or [(View(), made.shape)]
        except TargetError as error:
            raise TargetError(f"{region(operation)}: {error}") from error
        for number, (step, shape) in enumerate(steps, 1):
            result = made if number == len(steps) else self._between(x, "moved", shape)
            self._add(operation, step, (x,), result)
            x = result

    @legal.register
    def _(self, work: ArgMax, operation: Operation) -> None:
        (x,) = operation.inputs
        made, axis = operation.output, along(work, x.shape)
        shape = (*x.shape[:axis], *x.shape[axis + 1 :])
        if made.shape == shape:
            self._add(operation, work, (x,), made)
            return
        result = self._between(made, "reduced", shape)
        self._add(operation, work, (x,), result)
        self._add(operation, View(), (result,), made)

    def _clamped(
        self, operation: Operation, work: Any, inputs: tuple[Tensor, ...], made: Tensor | None = None
    ) -> None:
        """Clamps that no activation stands for become MAXIMUM and MINIMUM behind the operator."""
        made = made or operation.output
        plain = isinstance(work, Requantization | Rectifier | MatrixProduct) or _spreads(work)
        fused = ("NONE",) if plain else ACTIVATIONS
        if activation(made, work.low, work.high, fused) is not None:
            self._add(operation, work, inputs, made)
            return
        least, most = extremes(made)
        bounds = [
            (largest, bound)
            for largest, bound, end in ((True, work.low, least), (False, work.high, most))
            if bound != end
        ]
        result = inputs[0]
        if not (isinstance(work, Requantization) and result.is_float and made.is_float):
            free = dataclasses.replace(work, low=least, high=most)
            result = self._between(made, "free", made.shape)
            self._add(operation, free, inputs, result)
        elif not bounds:
            self._add(operation, View(), inputs, made)
        for number, (largest, bound) in enumerate(bounds, 1):
            data = np.full((1,) * len(made.shape), bound, made.dtype)
            constant = dataclasses.replace(self._between(made, "bound", data.shape), data=data)
            clamped = made if number == len(bounds) else self._between(made, "clamped", made.shape)
            self._add(operation, Extremum(largest), (result, constant), clamped)
            result = clamped


def _spreads(work: Work) -> bool:
    """Whether it is a transposed convolution, whose activations are fused from version 4 on, which older readers cannot parse."""
    return isinstance(work, Convolution) and work.upscale != (1, 1)


def extremes(tensor: Tensor) -> tuple[float, float]:
    """The lowest and the highest number of a tensor's type; infinite ones of floats."""
    if tensor.is_float:
        return -math.inf, math.inf
    return int(np.iinfo(tensor.dtype).min), int(np.iinfo(tensor.dtype).max)


def region(operation: Operation) -> str:
    """The name of the region that an operation is a step of."""
    return operation.name.rpartition(":")[0] or operation.name


def rectifier(work: Requantization, operation: Operation) -> str | None:
    """The operator that requantizes and clamps to an activation; None if none does, or with another factor only.

    These operators divide the scales in float32, and read the type that they write; QUANTIZE does in float64, and from any type.
    RELU_N1_TO_1 does not take 16 bits.
    """
    (x,), made = operation.inputs, operation.output
    if x.dtype != made.dtype:
        return None
    factor = Rescale.of(float(np.float32(x.scale) / np.float32(made.scale)))
    if (factor.multiplier, factor.shift) != (work.rescale.multiplier, work.rescale.shift):
        return None
    accepted = [op for op in RECTIFIERS if made.bits != 16 or op != "RELU_N1_TO_1"]
    return activation(made, work.low, work.high, accepted)
