"""Convolutions in several calls, each for some rows of the output, so that the output may lie over rows that are no longer read.

Called for output rows [a, b), a kernel reads input rows [r, s). Running upwards, with the output `before` bytes in front of the
input, no call writes what it or a later one reads if b * (bytes of an output row) - before <= r * (bytes of an input row). Running
downwards, with the output `after` bytes behind the beginning of the input, if a * (bytes of an output row) + after >= s * (bytes of
an input row).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from qcompiler.integer.operations import Convolution, DepthwiseConvolution

if TYPE_CHECKING:
    from qcompiler.integer.program import Operation


@dataclass(frozen=True)
class Slice:
    """One call.

    Attributes:
        first: First row of the output.
        rows: Rows of the output.
        source: First row of the input.
        source_rows: Rows of the input.
        padding: Rows above the input.
    """

    first: int
    rows: int
    source: int
    source_rows: int
    padding: int


def can_slice(operation: Operation) -> bool:
    """Whether an operation can be called row by row: a convolution of one image with more than one row."""
    work = operation.work
    if not isinstance(work, Convolution | DepthwiseConvolution):
        return False
    if isinstance(work, Convolution) and work.upscale != (1, 1):
        return False
    x, made, taps = operation.inputs[0], operation.output, operation.inputs[1].shape[1:3]
    return x.data is None and x.shape[0] == 1 and made.shape[1] > 1 and not (taps[0] == 1 and taps[1] > 1)


def slices(operation: Operation, rows: int) -> tuple[Slice, ...]:
    """The calls, each for so many rows of the output (the last one for what is left)."""
    work = operation.work
    assert isinstance(work, Convolution | DepthwiseConvolution)
    height, made = operation.inputs[0].shape[1], operation.output.shape[1]
    reach = (operation.inputs[1].shape[1] - 1) * work.dilations[0]
    found = []
    for first in range(0, made, rows):
        count = min(rows, made - first)
        top = first * work.strides[0] - work.pads[0]
        bottom = (first + count - 1) * work.strides[0] - work.pads[0] + reach + 1
        source, end = min(max(top, 0), height), max(min(bottom, height), 0)
        found.append(Slice(first, count, source, max(end - source, 0), max(-top, 0)))
    return tuple(found)


def distances(operation: Operation, rows: int) -> tuple[int, int]:
    """`before` and `after` of the module, for an operation that is computed so many rows at a time; not negative."""
    x, made = operation.inputs[0], operation.output
    row, source_row = made.bytes // made.shape[1], x.bytes // x.shape[1]
    pieces = slices(operation, rows)
    before = max((piece.first + piece.rows) * row - piece.source * source_row for piece in pieces)
    after = max((piece.source + piece.source_rows) * source_row - piece.first * row for piece in pieces)
    return max(before, 0), max(after, 0)
