"""Verification of TensorFlow Lite files: in LiteRT, by its reference kernels against the integer executor, and as it runs by default."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from qcompiler.errors import TargetError
from qcompiler.integer.evaluate import Executor, quantize_inputs
from qcompiler.integer.operations import Softmax
from qcompiler.integer.session import samples_each
from qcompiler.integer.work_counts import macs
from qcompiler.lowering import Verification, VerifyJob
from qcompiler.targets.edge_tpu import litert
from qcompiler.targets.edge_tpu.lower import MODEL, program_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qcompiler.integer.program import Program, Tensor

    Codes = Mapping[str, NDArray[Any]]

_MACS = 2_000_000_000
"""About how many multiply-accumulates LiteRT's reference kernels are given: some seconds. Benchmarks and tests give them more."""
_EVERY_TENSOR = 8
"""Samples of which every tensor is compared; of the others, outputs are."""
_TOGETHER = 16
_MOST_SUM = 512
"""A sum of exponentials from which on LiteRT's reference SOFTMAX of int8 ends the process: it shifts by more than 31 (measured)."""
_MEAN_TOLERANCE, _AGREEMENT = 2.0, 0.98
"""What the default kernels, which round otherwise, may differ by: codes of outputs on average; and the largest output, how often."""


@dataclass
class Tally:
    """Differences between what LiteRT and the executor compute.

    Attributes:
        samples: How many were compared.
        elements: How many elements.
        differences: How many of them differ.
        largest: The largest difference, in codes.
        total: The sum of all differences, in codes.
        agreeing: Samples whose largest output is the same one.
        worst: The tensor in which the first difference was found.
        left_out: Samples that would have ended the process.
    """

    samples: int = 0
    elements: int = 0
    differences: int = 0
    largest: int = 0
    total: int = 0
    agreeing: int = 0
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


@dataclass
class _Findings:
    done: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)


def verify(job: VerifyJob) -> Verification:
    """Runs samples through the file in LiteRT and compares them with the integer executor."""
    version = litert.version()
    if version is None:
        return Verification(
            consumer="the writer's own rules",
            version="",
            ran=False,
            passed=True,
            summary='LiteRT is not installed, so the file was not run: pip install "qcompiler[edge-tpu]".',
        )
    program = program_of(job.graph, job.plan, job.target)
    data, found = (job.folder / MODEL).read_bytes(), _Findings()
    reference = default = None
    try:
        reference = by_reference(data, program, _inputs(job, program), _allowed(program), _EVERY_TENSOR)
        _report_reference(reference, found)
        default = by_default(data, program, _inputs(job, program))
        _report_default(default, found)
    except TargetError as error:
        found.problems.append(str(error))
    return Verification(
        consumer="LiteRT",
        version=version,
        ran=reference is not None,
        passed=not found.problems,
        summary="; ".join([*found.done, *found.problems]) + ".",
        problems=tuple(found.problems),
        max_abs_diff=float(reference.largest) if reference is not None else None,
        mean_abs_diff=reference.mean if reference is not None else None,
        details=found.details,
    )


def by_reference(
    data: bytes, program: Program, batches: Iterator[Codes], samples: int, every_tensor: int
) -> Tally:
    """Compares the reference kernels' codes with the executor's: of every tensor, then of outputs.

    Args:
        data: The file.
        program: What it was written from.
        batches: Codes of the inputs.
        samples: How many samples at most.
        every_tensor: Of how many of them every computed tensor is compared.

    Raises:
        TargetError: LiteRT refuses the file.
    """
    interpreter, tally = litert.Interpreter(data, program, reference=True), Tally()
    executor = Executor(program)
    computed = [tensor.name for operation in program.operations for tensor in operation.outputs]
    outputs = [tensor.name for tensor in program.outputs]
    softmaxes = [
        operation.inputs[0]
        for operation in program.operations
        if isinstance(operation.work, Softmax) and operation.output.shape[-1] >= _MOST_SUM
    ]
    for inputs in batches:
        keep = computed if tally.samples < every_tensor else outputs
        expected = executor.run(inputs, [*keep, *(tensor.name for tensor in softmaxes)])
        for sample in range(len(next(iter(inputs.values())))):
            if tally.samples >= samples:
                return tally
            if any(
                _sum_of_powers(expected[tensor.name][sample], tensor) >= _MOST_SUM for tensor in softmaxes
            ):
                tally.left_out += 1
                continue
            interpreter.run({name: codes[sample] for name, codes in inputs.items()})
            for name in keep:
                tally.add(name, expected[name][sample], interpreter.tensor(name))
            tally.samples += 1
    return tally


def _sum_of_powers(codes: NDArray[Any], tensor: Tensor) -> float:
    """The largest sum of exponentials, each divided by its row's largest, that a softmax of some codes comes to, or a little more."""
    below = codes.astype(np.float64) - codes.max(axis=-1, keepdims=True)
    return float(np.exp(below * tensor.scale).sum(axis=-1).max()) * (1 + 1e-3)


def by_default(data: bytes, program: Program, batches: Iterator[Codes]) -> Tally:
    """Compares the outputs that LiteRT computes by default with the executor's.

    Raises:
        TargetError: LiteRT refuses the file.
    """
    interpreter, tally = litert.Interpreter(data, program, reference=False), Tally()
    executor = Executor(program)
    for inputs in batches:
        expected = executor.run(inputs)
        made = interpreter.outputs(inputs)
        count = len(next(iter(inputs.values())))
        for name, codes in made.items():
            tally.add(name, expected[name], codes)
        same = np.ones(count, bool)
        for name, codes in made.items():
            flat, other = codes.reshape(count, -1), expected[name].reshape(count, -1)
            same &= flat[np.arange(count), other.argmax(axis=1)] == flat.max(axis=1)
        tally.samples += count
        tally.agreeing += int(same.sum())
    return tally


def _report_reference(tally: Tally, found: _Findings) -> None:
    found.details["reference kernels"] = {
        "samples": tally.samples,
        "elements": tally.elements,
        "differences": tally.differences,
    }
    if tally.differences:
        found.problems.append(
            f"{tally.differences} of {tally.elements} elements differ from the integer executor by the reference kernels, first in {tally.worst}"
        )
    else:
        found.done.append(
            f"LiteRT's reference kernels give the integer executor's codes for {tally.samples} samples ({tally.elements:,} elements)"
        )
    if tally.left_out:
        found.done.append(
            f"{tally.left_out} samples were kept from them, since their softmax ends the process where exponentials sum up to {_MOST_SUM}"
        )


def _report_default(tally: Tally, found: _Findings) -> None:
    agreement = tally.agreeing / max(tally.samples, 1)
    found.details["default kernels"] = {
        "samples": tally.samples,
        "mean_codes": tally.mean,
        "largest_codes": tally.largest,
        "agreement": agreement,
    }
    text = f"its default kernels differ by {tally.mean:.2g} codes on average (at most {tally.largest}) and agree on the largest output for {agreement:.1%} of {tally.samples} samples"
    if tally.mean > _MEAN_TOLERANCE or agreement < _AGREEMENT:
        found.problems.append(f"{text}; tolerated are {_MEAN_TOLERANCE:g} codes and {_AGREEMENT:.0%}")
    else:
        found.done.append(text)


def _allowed(program: Program) -> int:
    """How many samples the reference kernels are given."""
    return max(2, _MACS // max(1, sum(map(macs, program.operations))))


def _inputs(job: VerifyJob, program: Program) -> Iterator[Codes]:
    """Codes of all samples, some at a time; of random ones where there are no data."""
    if job.data is None:
        chance = np.random.default_rng(0)
        yield {
            tensor.name: chance.integers(-128, 128, (_TOGETHER, *tensor.shape)).astype(tensor.dtype)
            for tensor in program.inputs
        }
        return
    for feeds in job.data.batches(_TOGETHER * samples_each(program)):
        yield quantize_inputs(program, feeds)
