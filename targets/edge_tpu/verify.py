"""Verification of TensorFlow Lite files in LiteRT: integers by the executor's codes, floats by the reference graph's numbers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from qcompiler.errors import TargetError
from qcompiler.evaluation import together
from qcompiler.integer.evaluate import Executor
from qcompiler.integer.session import ProgramSession
from qcompiler.lowering import Consumer, Verification, VerifyJob
from qcompiler.output_gap import OutputGap
from qcompiler.probe import random_feeds
from qcompiler.runtime import Session
from qcompiler.targets.edge_tpu import litert
from qcompiler.targets.edge_tpu.comparison import MOST_SUM, ByDefault, ByReference, allowed
from qcompiler.targets.edge_tpu.lower import MODEL, executor, program_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qcompiler.data import DataSource
    from qcompiler.evaluation import Arrays, Runnable
    from qcompiler.integer.program import Program
    from qcompiler.targets.edge_tpu.comparison import Tally

_TOGETHER = 16
"""Samples that are made up where there are none."""
_MEAN_TOLERANCE, _AGREEMENT = 2.0, 0.98
"""What the default kernels, which round otherwise, may differ by: codes of outputs on average; and the largest output, how often."""
_FLOAT_SQNR, _MIXED_SQNR = 60.0, 20.0
"""Least signal-to-noise ratio of outputs against the reference graph, dB: of floats that are added up in another order; and where
integers, which are rounded otherwise, stand between."""


def consumer(job: VerifyJob) -> Consumer:
    """LiteRT on the file, or what says that there is none."""
    if litert.version() is None:
        return _Missing(executor(job.graph, job.plan, job.target))
    program = program_of(job.graph, job.plan, job.target)
    return _Integers(job, program) if program.is_integer else _Floats(job, program)


class _Missing:
    """What the file should compute, without a runtime that could say whether it does."""

    def __init__(self, computed: Runnable) -> None:
        self.stream = computed.stream

    def verification(self) -> Verification:
        """That nothing was run."""
        return Verification(
            consumer="the writer's own rules",
            version="",
            ran=False,
            passed=True,
            summary='LiteRT is not installed, so the file was not run: pip install "qcompiler[edge-tpu]".',
        )


@dataclass
class _Findings:
    done: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)

    def verification(
        self, *, ran: bool, largest: float | None = None, mean: float | None = None
    ) -> Verification:
        """For the report; differences are in codes, or in numbers where there are floats."""
        return Verification(
            consumer="LiteRT",
            version=litert.version() or "",
            ran=ran,
            passed=not self.problems,
            summary="; ".join([*self.done, *self.problems]) + ".",
            problems=tuple(self.problems),
            max_abs_diff=largest,
            mean_abs_diff=mean,
            details=self.details,
        )


class _Integers(ProgramSession):
    """The integer executor, to which LiteRT's kernels are held sample by sample: it gives what the reference kernels do."""

    def __init__(self, job: VerifyJob, program: Program) -> None:
        super().__init__(program, self._compared)
        self._executor, self._found = Executor(program), _Findings()
        self._given = False
        self._reference: ByReference | None = None
        self._default: ByDefault | None = None
        try:
            data = (job.folder / MODEL).read_bytes()
            self._reference = ByReference(data, self._executor, allowed(program))
            self._default = ByDefault(data, program)
        except TargetError as error:
            self._found.problems.append(str(error))

    def _compared(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        self._given = True
        expected = self._executor.run(inputs, self._reference.keep if self._reference is not None else ())
        for kernels in (self._reference, self._default):
            if kernels is not None:
                kernels.add(inputs, expected)
        return expected

    def verification(self) -> Verification:
        """What came of the samples; of random codes if there were none."""
        if not self._given:
            self._compared(_random(self.program))
        reference, default = self._reference, self._default
        if reference is not None:
            _report_reference(reference.tally, self._found)
        if default is not None:
            _report_default(default, self._found)
        if reference is None:
            return self._found.verification(ran=False)
        return self._found.verification(
            ran=True, largest=float(reference.tally.largest), mean=reference.tally.mean
        )


class _Floats:
    """A file with floats in LiteRT as it runs by default, beside the reference graph: floats have no bits to be held to."""

    def __init__(self, job: VerifyJob, program: Program) -> None:
        self._found, self._program, self._graph = _Findings(), program, job.graph
        self._reference = Session(job.graph, optimize=False)
        self._session: ProgramSession | None = None
        self._gap = OutputGap()
        try:
            interpreter = litert.Interpreter((job.folder / MODEL).read_bytes(), program, reference=False)
            self._session = ProgramSession(program, interpreter.outputs)
        except TargetError as error:
            self._found.problems.append(str(error))

    def stream(self, source: DataSource, batch: int = 32) -> Iterator[Arrays]:
        """What LiteRT computes of all samples; the reference graph's outputs where it refuses the file."""
        if self._session is None:
            yield from self._reference.stream(source, batch)
            return
        streams = {
            "file": self._session.stream(source, batch),
            "reference": self._reference.stream(source, batch),
        }
        for outputs in together(streams):
            self._gap.add(outputs["reference"], outputs["file"])
            yield outputs["file"]

    def verification(self) -> Verification:
        """What came of the samples; of random ones if there were none."""
        found, gap = self._found, self._gap
        if self._session is None:
            return found.verification(ran=False)
        if not gap.samples:
            feeds = random_feeds(self._graph)
            gap.add(self._reference.run(feeds), self._session.run(feeds))
        mixed = any(
            tensor.encoding is not None
            for operation in self._program.operations
            for tensor in operation.outputs
        )
        limit = _MIXED_SQNR if mixed else _FLOAT_SQNR
        found.details["default kernels"] = {
            "samples": gap.samples,
            "sqnr_db": gap.sqnr_db,
            "agreement": gap.agreement,
        }
        noise = f" but for noise {gap.sqnr_db:.1f} dB below them" if np.isfinite(gap.sqnr_db) else ""
        text = f"its outputs are the reference graph's{noise}, with the same one the largest for {gap.agreement:.1%} of {gap.samples} samples"
        if gap.sqnr_db < limit or gap.near_agreement < _AGREEMENT:
            found.problems.append(f"{text}; at least {limit:g} dB and {_AGREEMENT:.0%} are asked for")
        else:
            found.done.append(text)
        return found.verification(ran=True, largest=gap.largest, mean=gap.mean)


def _random(program: Program) -> dict[str, NDArray[Any]]:
    """Random codes of a program's inputs."""
    chance = np.random.default_rng(0)
    return {
        tensor.name: chance.integers(-128, 128, (_TOGETHER, *tensor.shape)).astype(tensor.dtype)
        for tensor in program.inputs
    }


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
            f"{tally.left_out} samples were kept from them, since their softmax ends the process where exponentials sum up to {MOST_SUM}"
        )


def _report_default(default: ByDefault, found: _Findings) -> None:
    tally, agreement = default.tally, default.gap.agreement
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
