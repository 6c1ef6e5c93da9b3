"""A program as something that samples are run through, like a model in onnxruntime."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from qcompiler.integer.evaluate import dequantize_outputs, quantize_inputs, run

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qcompiler.data import DataSource
    from qcompiler.integer.program import Program


def samples_each(program: Program) -> int:
    """How many samples a program takes at a time: 1, if the model's first axis is open."""
    first = [tensor.shape[tensor.order.index(0)] if tensor.shape else 1 for tensor in program.inputs]
    return max(first, default=1)


class ProgramSession:
    """Runs a program on real numbers: inputs are quantized, outputs dequantized."""

    def __init__(self, program: Program) -> None:
        self.program = program

    def stream(self, source: DataSource, batch: int = 32) -> Iterator[dict[str, NDArray[Any]]]:
        """The outputs of all samples, batch by batch, as `qcompiler.runtime.Session.stream` gives them."""
        step = samples_each(self.program)
        for feeds in source.batches(max(batch // step, 1) * step):
            yield dequantize_outputs(self.program, run(self.program, quantize_inputs(self.program, feeds)))
