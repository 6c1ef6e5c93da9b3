"""Verification for Cortex-M: the generated C on this machine, and on emulated cores, against the integer executor."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qcompiler.errors import TargetError
from qcompiler.integer.evaluate import quantize_inputs, run
from qcompiler.integer.session import samples_each
from qcompiler.integer.work_counts import macs
from qcompiler.lowering import Verification, VerifyJob
from qcompiler.targets.cmsis_nn import emulator, host
from qcompiler.targets.cmsis_nn.boards import BOARDS
from qcompiler.targets.cmsis_nn.lower import core_of, program_of, recorded
from qcompiler.targets.cmsis_nn.project import vectors_file

if TYPE_CHECKING:
    from numpy.typing import NDArray

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
class _Tally:
    """What a build of the project got wrong.

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

    def add(self, expected: Mapping[str, NDArray[Any]], made: Mapping[str, NDArray[Any]]) -> None:
        """Compares the outputs of some samples."""
        for name, codes in made.items():
            gap = np.abs(codes.astype(np.int64) - expected[name])
            self.differences += int((gap > 0).sum())
            self.largest = max(self.largest, int(gap.max(initial=0)))


def verify(job: VerifyJob) -> Verification:
    """Runs all samples through the C on this machine, and recorded ones on an emulated core, and compares byte for byte.

    The environment variable CMSIS_NN_PATH names a checkout of the library, whose kernels are then linked and compared, too.
    """
    program = program_of(job.graph, job.plan, job.target)
    core, _ = core_of(job.target)
    library = Path(os.environ["CMSIS_NN_PATH"]) if os.environ.get("CMSIS_NN_PATH") else None
    found = _Findings()
    with tempfile.TemporaryDirectory(prefix="qcompiler-") as name:
        scratch = Path(name)
        try:
            _on_host(job, program, library, scratch, found)
            _emulated(job, program, BOARDS[core], library, scratch, found)
        except TargetError as error:
            found.problems.append(str(error))
    if library is None:
        found.missing.append("CMSIS_NN_PATH is not set: CMSIS-NN's own kernels were not linked")
    ran = bool(found.done)
    summary = "; ".join([*found.done, *found.problems, *found.missing]) + "."
    compiler = host.compiler()
    return Verification(
        consumer="C compiler" + (" and emulator" if "instructions" in found.details else ""),
        version=host.version(compiler) if compiler is not None else "",
        ran=ran,
        passed=not found.problems,
        summary=summary,
        problems=tuple(found.problems),
        max_abs_diff=found.details.get("max_abs_diff"),
        mean_abs_diff=None,
        details={**found.details, "not_available": list(found.missing)},
    )


def _on_host(job: VerifyJob, program: Program, library: Path | None, scratch: Path, found: _Findings) -> None:
    """All samples through the C, compiled for this machine."""
    if host.compiler() is None:
        found.missing.append(
            "no C compiler (cc, gcc, clang, or $CC) was there to run the generated C on this machine"
        )
        return
    tallies = [
        _Tally(label, host.build(job.folder, scratch / f"model-{number}.so", path))
        for number, (label, path) in enumerate(_kernels(library))
    ]
    samples = 0
    for inputs in _inputs(job, program):
        expected = run(program, inputs)
        for tally in tallies:
            tally.add(expected, host.run_all(tally.library, program, inputs))
        samples += len(next(iter(inputs.values())))
    found.details["max_abs_diff"] = float(max(tally.largest for tally in tallies))
    for tally in tallies:
        found.details[f"host, {tally.label}"] = {"samples": samples, "differences": tally.differences}
        if tally.differences:
            found.problems.append(
                f"{tally.differences} elements of outputs differ from the integer executor on {samples} samples ({tally.label})"
            )
        else:
            found.done.append(
                f"the C gives the integer executor's bytes for all {samples} samples on this machine ({tally.label})"
            )


def _kernels(library: Path | None) -> list[tuple[str, Path | None]]:
    """The kernels that are linked in turn: their name, and the checkout that they come from."""
    return [("portable kernels", None), *([("CMSIS-NN", library)] if library is not None else [])]


def _inputs(job: VerifyJob, program: Program) -> Iterator[dict[str, NDArray[Any]]]:
    """Codes of all samples, some at a time; of random ones where there are no data."""
    if job.data is None:
        vectors = recorded(program, None, _VECTORS)
        yield {
            tensor.name: np.stack([vector[0][place] for vector in vectors])
            for place, tensor in enumerate(program.inputs)
        }
        return
    for feeds in job.data.batches(64 * samples_each(program)):
        yield quantize_inputs(program, feeds)


def _emulated(
    job: VerifyJob, program: Program, board: Board, library: Path | None, scratch: Path, found: _Findings
) -> None:
    """Recorded samples on an emulated core."""
    lacking = emulator.missing_tools()
    if lacking:
        found.missing.append(
            f"{', '.join(lacking)} {'is' if len(lacking) == 1 else 'are'} not installed: no core was emulated"
        )
        return
    vectors = recorded(program, job.data, vectors_for(program))
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
