"""Verification for Cortex-M: the generated C on this machine, and on emulated cores, against the integer executor."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qcompiler.errors import TargetError
from qcompiler.integer.session import ProgramSession
from qcompiler.integer.work_counts import macs
from qcompiler.lowering import Verification, VerifyJob
from qcompiler.targets.cmsis_nn import emulator, host
from qcompiler.targets.cmsis_nn.boards import BOARDS
from qcompiler.targets.cmsis_nn.lower import core_of, recorded
from qcompiler.targets.cmsis_nn.project import vectors_file

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qcompiler.integer.evaluate import Executor
    from qcompiler.integer.program import Program
    from qcompiler.targets.cmsis_nn.boards import Board

_VECTORS = 16
_EMULATED_MACS = 100_000_000
"""About how many multiply-accumulates are emulated: a few seconds. Benchmarks and tests emulate more."""


@dataclass
class _Findings:
    """What came of the checks.

    Attributes:
        done: What was run, a clause each.
        missing: What could not be, a sentence each.
        problems: What is wrong, a sentence each.
        details: Numbers for the report.
    """

    done: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)


@dataclass
class _Build:
    """A build of the project for this machine, and what it got wrong.

    Attributes:
        label: Which kernels it links.
        library: The build.
        differences: Elements of outputs that differ from the executor's.
        largest: The largest difference, in codes.
    """

    label: str
    library: Path
    differences: int = 0
    largest: int = 0

    def run(
        self, program: Program, inputs: Mapping[str, NDArray[Any]], expected: Mapping[str, NDArray[Any]]
    ) -> dict[str, NDArray[Any]]:
        """Runs some samples and compares what is computed.

        Raises:
            TargetError: A step refuses its arguments.
        """
        made = host.run_all(self.library, program, inputs)
        for name, codes in made.items():
            gap = np.abs(codes.astype(np.int64) - expected[name])
            self.differences += int((gap > 0).sum())
            self.largest = max(self.largest, int(gap.max(initial=0)))
        return made


def consumer(job: VerifyJob) -> Project:
    """Runs samples through the C on this machine, and recorded ones on an emulated core, and compares byte for byte.

    The environment variable CMSIS_NN_PATH names a checkout of the library, whose kernels are then linked and compared, too.
    """
    return Project(job)


class Project(ProgramSession):
    """The generated project: what it computes on this machine, by the portable kernels, held to the integer executor."""

    def __init__(self, job: VerifyJob) -> None:
        """Compiles the project for this machine, if there is a compiler."""
        assert job.lowered is not None
        self._executor: Executor = job.lowered.executor
        super().__init__(self._executor.program, self._compared)
        self._job = job
        self._checkout = Path(os.environ["CMSIS_NN_PATH"]) if os.environ.get("CMSIS_NN_PATH") else None
        self._found = _Findings()
        self._builds: list[_Build] = []
        self._samples, self._failed = 0, False
        self._scratch = tempfile.TemporaryDirectory(prefix="qcompiler-")
        if host.compiler() is None:
            self._found.missing.append(
                "no C compiler (cc, gcc, clang, or $CC) was there to run the generated C on this machine"
            )
            return
        try:
            for label, path in _kernels(self._checkout):
                output = Path(self._scratch.name) / f"model-{len(self._builds)}.so"
                self._builds.append(_Build(label, host.build(job.folder, output, path)))
        except TargetError as error:
            self._fail(error)

    def _fail(self, error: TargetError) -> None:
        self._found.problems.append(str(error))
        self._builds, self._failed = [], True

    def _compared(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """What the first build computes; the executor where there is none."""
        expected = self._executor.run(inputs)
        self._samples += len(next(iter(inputs.values())))
        try:
            made = [build.run(self.program, inputs, expected) for build in self._builds]
        except TargetError as error:
            self._fail(error)
            return expected
        return made[0] if made else expected

    def verification(self) -> Verification:
        """What all builds got wrong, on random codes if there were no samples; and what an emulated core does."""
        found = self._found
        with self._scratch as scratch:
            if self._job.data is None and self._builds:
                self._compared(_random(self._executor))
            self._conclude()
            try:
                if not self._failed:
                    _emulated(self._job, self._executor, self._checkout, Path(scratch), found)
            except TargetError as error:
                found.problems.append(str(error))
        if self._checkout is None:
            found.missing.append("CMSIS_NN_PATH is not set: CMSIS-NN's own kernels were not linked")
        summary = "; ".join([*found.done, *found.problems, *found.missing]) + "."
        compiler = host.compiler()
        return Verification(
            consumer="C compiler" + (" and emulator" if "instructions" in found.details else ""),
            version=host.version(compiler) if compiler is not None else "",
            ran=bool(found.done),
            passed=not found.problems,
            summary=summary,
            problems=tuple(found.problems),
            max_abs_diff=found.details.get("max_abs_diff"),
            mean_abs_diff=None,
            details={**found.details, "not_available": list(found.missing)},
        )

    def _conclude(self) -> None:
        """Says what came of the builds."""
        found, samples = self._found, self._samples
        if self._builds:
            found.details["max_abs_diff"] = float(max(build.largest for build in self._builds))
        for build in self._builds:
            found.details[f"host, {build.label}"] = {"samples": samples, "differences": build.differences}
            if build.differences:
                found.problems.append(
                    f"{build.differences} elements of outputs differ from the integer executor on {samples} samples ({build.label})"
                )
            else:
                found.done.append(
                    f"the C gives the integer executor's bytes for all {samples} samples on this machine ({build.label})"
                )


def _kernels(library: Path | None) -> list[tuple[str, Path | None]]:
    """The kernels that are linked in turn: their name, and the checkout that they come from."""
    return [("portable kernels", None), *([("CMSIS-NN", library)] if library is not None else [])]


def _random(executor: Executor) -> dict[str, NDArray[Any]]:
    """Random codes of inputs."""
    vectors = recorded(executor, None, _VECTORS)
    return {
        tensor.name: np.stack([vector[0][place] for vector in vectors])
        for place, tensor in enumerate(executor.program.inputs)
    }


def _emulated(
    job: VerifyJob, executor: Executor, library: Path | None, scratch: Path, found: _Findings
) -> None:
    """Recorded samples on an emulated core."""
    lacking = emulator.missing_tools()
    if lacking:
        found.missing.append(
            f"{', '.join(lacking)} {'is' if len(lacking) == 1 else 'are'} not installed: no core was emulated"
        )
        return
    board = BOARDS[core_of(job.target)[0]]
    vectors = recorded(executor, job.data, vectors_for(executor.program))
    for label, path in _kernels(library):
        result = emulate(job.folder, board, vectors_file(vectors), scratch, path)
        found.details[f"{board.core}, {label}"] = result
        found.details["instructions"] = result["instructions"]
        if result["differences"]:
            found.problems.append(
                f"{result['differences']} elements differ on the emulated {board.core} ({label})"
            )
        else:
            found.done.append(
                f"so does the emulated {board.core} for {result['vectors']}, in {result['instructions']:,} instructions each ({label})"
            )


def vectors_for(program: Program) -> int:
    """How many vectors are emulated: 16, fewer of large models."""
    each = sum(macs(operation) for operation in program.operations)
    return max(1, min(_VECTORS, _EMULATED_MACS // max(each, 1)))


def emulate(
    folder: Path, board: Board, vectors: bytes, scratch: Path, library: Path | None = None
) -> dict[str, int]:
    """Builds a project for a board and runs vectors on it.

    Args:
        folder: The project.
        board: The board.
        vectors: What `vectors_file` made.
        scratch: A folder to build in.
        library: A checkout of CMSIS-NN; None for the portable kernels.

    Returns:
        vectors, differences (elements), instructions (of the last inference), text, data and bss (bytes of the whole program).

    Raises:
        TargetError: It cannot be built, ends in a fault, or refuses its arguments.
    """
    sources, include = host.project_sources(folder, library)
    kernels = [] if library is None else [emulator.library_for(board, library)]
    program = emulator.build(
        board, [*sources, folder / "qemu" / "main.c", *kernels], include, scratch / f"{board.core}.elf"
    )
    (scratch / "vectors.bin").write_bytes(vectors)
    done = emulator.run(board, program, folder=scratch)
    numbers = {label: done.number(label) for label in ("vectors", "differences", "instructions")}
    if done.exit_code not in (0, 1) or None in numbers.values():
        raise TargetError(
            f"The emulated {board.core} ended with code {done.exit_code}: {done.output.strip()[:400]}"
        )
    size = emulator.sizes(program)
    return {
        **{label: int(number or 0) for label, number in numbers.items()},
        "text": size.text,
        "data": size.data,
        "bss": size.bss,
    }
