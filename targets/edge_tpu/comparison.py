"""What LiteRT computes, compared with what it should, code by code: by its reference kernels, and as it runs by default."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from qcompiler.integer.operations import Softmax
from qcompiler.integer.work_counts import macs
from qcompiler.output_gap import OutputGap
from qcompiler.targets.edge_tpu.litert import Interpreter

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qcompiler.integer.evaluate import Executor
    from qcompiler.integer.program import Program, Tensor

    Codes = Mapping[str, NDArray[Any]]

EVERY_TENSOR = 8
"""Samples of which every tensor is compared as a rule; of the others, outputs are."""
_MACS = 2_000_000_000
"""About how many multiply-accumulates LiteRT's reference kernels are given: some seconds. Benchmarks and tests give them more."""
MOST_SUM = 512
"""A sum of exponentials from which on LiteRT's reference SOFTMAX of int8 ends the process: it shifts by more than 31 (measured)."""


@dataclass
class Tally:
    """Differences between what LiteRT and the executor compute.

    Attributes:
        samples: How many were compared.
        elements: How many elements.
        differences: How many of them differ.
        largest: The largest difference, in codes.
        total: The sum of all differences, in codes.
        worst: The tensor in which the first difference was found.
        left_out: Samples that would have ended the process.
    """

    samples: int = 0
    elements: int = 0
    differences: int = 0
    largest: int = 0
    total: int = 0
    worst: str = ""
    left_out: int = 0

    def add(self, name: str, expected: NDArray[Any], made: NDArray[Any]) -> None:
        """Compares the codes of a tensor."""
        gap = np.abs(made.astype(np.int64) - expected)
        self.elements += gap.size
        self.total += int(gap.sum())
        self.largest = max(self.largest, int(gap.max(initial=0)))
        found = int((gap > 0).sum())
        self.differences += found
        if found and not self.worst:
            self.worst = name

    @property
    def mean(self) -> float:
        """The mean difference, in codes."""
        return self.total / max(self.elements, 1)


def allowed(program: Program) -> int:
    """How many samples the reference kernels are given as a rule."""
    return max(2, _MACS // max(1, sum(map(macs, program.operations))))


class ByReference:
    """The reference kernels beside the executor.

    Attributes:
        tally: What came of it so far.
    """

    def __init__(
        self, data: bytes, executor: Executor, samples: int, every_tensor: int = EVERY_TENSOR
    ) -> None:
        """For a file.

        Args:
            data: The file.
            executor: Of the program that it was written from.
            samples: How many samples to compare at most.
            every_tensor: Of how many of them every computed tensor is compared.

        Raises:
            TargetError: LiteRT refuses the file.
        """
        program = executor.program
        self.tally = Tally()
        self._executor, self._samples, self._every_tensor = executor, samples, every_tensor
        self._interpreter = Interpreter(data, program, reference=True)
        self._computed = [tensor.name for operation in program.operations for tensor in operation.outputs]
        self._outputs = [tensor.name for tensor in program.outputs]
        self._softmaxes = [
            operation.inputs[0]
            for operation in program.operations
            if isinstance(operation.work, Softmax) and operation.output.shape[-1] >= MOST_SUM
        ]

    @property
    def keep(self) -> tuple[str, ...]:
        """What `add` wants to know of the executor beside the outputs."""
        return tuple(tensor.name for tensor in self._softmaxes)

    def add(self, inputs: Codes, expected: Codes) -> None:
        """Compares some samples, until there were enough.

        Args:
            inputs: Codes of the inputs.
            expected: What the executor made of them: the outputs, and what is to be kept.
        """
        for sample in range(len(next(iter(inputs.values())))):
            if self.tally.samples >= self._samples:
                return
            sums = (_sum_of_powers(expected[tensor.name][sample], tensor) for tensor in self._softmaxes)
            if max(sums, default=0.0) >= MOST_SUM:
                self.tally.left_out += 1
                continue
            given = {name: codes[sample] for name, codes in inputs.items()}
            self._interpreter.run(given)
            if self.tally.samples < self._every_tensor:
                single = {name: codes[None] for name, codes in given.items()}
                self._compare(self._computed, self._executor.run(single, self._computed), 0)
            else:
                self._compare(self._outputs, expected, sample)
            self.tally.samples += 1

    def _compare(self, names: Iterable[str], expected: Codes, sample: int) -> None:
        for name in names:
            self.tally.add(name, expected[name][sample], self._interpreter.tensor(name))


def _sum_of_powers(codes: NDArray[Any], tensor: Tensor) -> float:
    """The largest sum of exponentials, each divided by its row's largest, that a softmax of some codes comes to, or a little more."""
    below = codes.astype(np.float64) - codes.max(axis=-1, keepdims=True)
    return float(np.exp(below * tensor.scale).sum(axis=-1).max()) * (1 + 1e-3)


class ByDefault:
    """The kernels that LiteRT runs by default beside the executor.

    Attributes:
        tally: What came of it so far.
        gap: The same of outputs as a whole: which one is the largest.
    """

    def __init__(self, data: bytes, program: Program) -> None:
        """For a file, and the program that it was written from.

        Raises:
            TargetError: LiteRT refuses the file.
        """
        self.tally, self.gap = Tally(), OutputGap()
        self._interpreter = Interpreter(data, program, reference=False)

    def add(self, inputs: Codes, expected: Codes) -> None:
        """Compares the outputs of some samples."""
        made = self._interpreter.outputs(inputs)
        for name, codes in made.items():
            self.tally.add(name, expected[name], codes)
        self.gap.add(expected, made)
        self.tally.samples = self.gap.samples
