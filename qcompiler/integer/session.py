"""A program as something that samples are run through, like a model in onnxruntime."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from qcompiler.integer.evaluate import Executor, dequantize_outputs, quantize_inputs

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qcompiler.data import DataSource
    from qcompiler.integer.program import Program

Run: TypeAlias = "Callable[[dict[str, NDArray[Any]]], dict[str, NDArray[Any]]]"
_TOGETHER = 64  # samples, so that calls of numpy do not cost more than what they do


def samples_each(program: Program) -> int:
    """How many samples a program takes at a time: 1, if the model's first axis is open."""
    first = [tensor.shape[tensor.order.index(0)] if tensor.shape else 1 for tensor in program.inputs]
    return max(first, default=1)


class ProgramSession:
    """Runs a program on real numbers: inputs are quantized, outputs dequantized."""

    def __init__(self, program: Program, run: Run | None = None) -> None:
        """For a program.

        Args:
            program: The program.
            run: From codes of its inputs to codes of its outputs; None for the executor.
        """
        self.program = program
        self._run = run or Executor(program).run

    def stream(self, source: DataSource, batch: int = 32) -> Iterator[dict[str, NDArray[Any]]]:
        """The outputs of all samples, batch by batch, as `qcompiler.runtime.Session.stream` gives them."""
        step = samples_each(self.program)
        for feeds in source.batches(max(max(batch, _TOGETHER) // step, 1) * step):
            yield self.run(feeds)

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """The outputs for some samples."""
        return dequantize_outputs(self.program, self._run(quantize_inputs(self.program, feeds)))
