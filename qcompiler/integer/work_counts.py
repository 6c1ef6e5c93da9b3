"""How much work operations are, in units that costs are stated in: multiply-accumulates, and elements gone through."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from qcompiler.integer.operations import (
    ArgMax,
    Convolution,
    DepthwiseConvolution,
    Extreme,
    FullyConnected,
    MatrixProduct,
    Mean,
    Pool,
    View,
)

if TYPE_CHECKING:
    from qcompiler.integer.program import Operation


def macs(operation: Operation) -> int:
    """Multiply-accumulates of a sample, those of taps in the padding and of zeros between spread inputs included."""
    written = operation.output.elements
    match operation.work:
        case Convolution() | FullyConnected():
            return written * math.prod(operation.inputs[1].shape[1:])
        case DepthwiseConvolution():
            return written * math.prod(operation.inputs[1].shape[1:3])
        case MatrixProduct():
            return written * operation.inputs[0].shape[-1]
    return 0


def elements(operation: Operation) -> int:
    """Elements that a sample's loop goes through: those read by pools and reductions, else those written; none for views."""
    match operation.work:
        case View():
            return 0
        case Pool(kernel=kernel):
            return operation.output.elements * math.prod(kernel)
        case Mean() | Extreme() | ArgMax():
            return operation.inputs[0].elements
    return sum(tensor.elements for tensor in operation.outputs)
