"""Verification of Core ML packages: read back from disk, evaluated in numpy, compared with the reference; on macOS, run by Core ML."""

from __future__ import annotations

import math
import platform
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from qcompiler.accumulators import Sums
from qcompiler.errors import QCompilerError
from qcompiler.lowering import Verification, VerifyJob
from qcompiler.probe import random_feeds
from qcompiler.runtime import BatchRunner, Session
from qcompiler.targets.core_ml.evaluate import Evaluator
from qcompiler.targets.core_ml.names import identifiers
from qcompiler.targets.core_ml.package import MODEL, read
from qcompiler.targets.core_ml.toolkit import toolkit, version

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from qcompiler.data import DataSource

    Arrays = dict[str, NDArray[Any]]

_EVERY_TENSOR = 8
"""Samples of which all codes are compared."""
_OUTPUTS = 128
"""Samples of which outputs are compared."""
_MOST_CODES = {"float32": 0.001, "float16": 0.06}
"""The share of codes that may differ, by the type of floats."""
_MOST_BEYOND = {"float32": 0.0, "float16": 1e-5}
"""The share of codes that may differ by more than one step: where a large bias cancels, float16 rounds it by more than that."""
_LEAST_COSINE = {"float32": 0.9999, "float16": 0.99}
_LEAST_ON_DEVICE = 0.98


@dataclass
class Tally:
    """Differences of the package from the reference.

    Attributes:
        samples: How many outputs were compared.
        coded: How many samples all codes were compared of.
        tensors: The quantized tensors that were compared.
        codes: How many codes.
        off: How many of them differ.
        beyond: How many of them by more than one step.
        steps: The largest difference, in steps.
        worst: The tensor that it is in.
        largest: The largest difference of an output.
        sums: Of all outputs.
    """

    samples: int = 0
    coded: int = 0
    tensors: set[str] = field(default_factory=set)
    codes: int = 0
    off: int = 0
    beyond: int = 0
    steps: int = 0
    worst: str = ""
    largest: float = 0.0
    sums: Sums = field(default_factory=Sums)

    def add_codes(self, name: str, expected: NDArray[Any], made: NDArray[Any]) -> None:
        """Compares a quantized tensor. Zero points may have moved with the type: uint8 and 128 is int8 and 0."""
        shift = 128 * (int(expected.dtype.kind == "u") - int(made.dtype.kind == "u"))
        gap = np.abs(made.astype(np.int32) + shift - expected.astype(np.int32))
        self.tensors.add(name)
        self.codes += gap.size
        self.off += int((gap > 0).sum())
        self.beyond += int((gap > 1).sum())
        if (most := int(gap.max(initial=0))) > self.steps:
            self.steps, self.worst = most, name

    def add_output(self, expected: NDArray[Any], made: NDArray[Any]) -> None:
        """Compares an output."""
        gap = np.abs(expected.astype(np.float64) - made)
        self.largest = max(self.largest, float(gap.max(initial=0.0)))
        self.sums.add(expected, made)

    @property
    def share(self) -> float:
        """The share of codes that differ."""
        return self.off / max(self.codes, 1)

    @property
    def cosine(self) -> float:
        """The cosine of all outputs with the reference's; 1 where both are 0."""
        return self.sums.cosine()

    @property
    def error(self) -> float:
        """The root of the mean square of all differences, relative to that of the reference's outputs."""
        signal, noise = self.sums.signal, self.sums.noise
        return math.sqrt(noise / signal) if signal > 0 else float(noise > 0)


def _error_of(cosine: float) -> float:
    """The error, relative to the outputs, that goes with a cosine where there is no difference in scale."""
    return float(np.sqrt(2 * (1 - cosine)))


def consumer(job: VerifyJob) -> PackageRunner:
    """What runs the package that was written."""
    return PackageRunner(job)


class PackageRunner(BatchRunner):
    """Runs samples through the package, and compares the first of them with the reference."""

    def __init__(self, job: VerifyJob) -> None:
        """Reads the package from disk.

        Raises:
            ModelError: It cannot be read back.
            TargetError: It has an operator that cannot be evaluated.
        """
        super().__init__(job.graph.inputs)
        self._job = job
        self._names = identifiers(job.graph)
        self._evaluator = Evaluator(read(job.folder / MODEL))
        self._codes = [
            node.output.name
            for node in job.graph.topological()
            if node.op == "QuantizeLinear" and not node.output.is_output
        ]
        self._outputs = [value.name for value in job.graph.outputs]
        self._reference = Session(job.graph, outputs=[*self._outputs, *self._codes], optimize=False)
        self._plain = Session(job.graph, optimize=False)
        self._first: Arrays | None = None
        self.tally = Tally()

    def stream(self, source: DataSource, batch: int = 32) -> Iterator[Arrays]:
        """What the package computes of all samples, few at a time."""
        yield from super().stream(source, min(batch, self._evaluator.together))

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> Arrays:
        """Evaluates the package on one set of inputs; compares it while there are samples to compare."""
        given = {self._names[name]: array for name, array in feeds.items()}
        made = self._evaluator.run(given)
        if self.tally.samples < _OUTPUTS:
            self._compare(feeds, given, made)
        types = {value.name: value.dtype for value in self._job.graph.outputs}
        return {name: made[self._names[name]].astype(types[name]) for name in self._outputs}

    def _compare(self, feeds: Mapping[str, NDArray[Any]], given: Arrays, made: Arrays) -> None:
        coded = self.tally.coded < _EVERY_TENSOR
        expected = (self._reference if coded else self._plain).run(feeds)
        count = max((len(array) for array in feeds.values() if array.ndim), default=1)
        self._first = self._first or given
        self.tally.samples += count
        for name in self._outputs:
            self.tally.add_output(expected[name], made[self._names[name]])
        if coded:
            self.tally.coded += count
            self._compare_codes(given, expected)

    def _compare_codes(self, given: Arrays, expected: Arrays) -> None:
        """Compares all codes. Every operator reads the reference's codes, so that what differs is not counted once more behind it."""
        names = [self._names[name] for name in self._codes]
        forced = {self._names[name]: self._stored(name, expected[name]) for name in self._codes}
        made = self._evaluator.run(given, names, forced)
        for name in self._codes:
            if self._names[name] in made:
                self.tally.add_codes(name, expected[name], made[self._names[name]])

    def _stored(self, name: str, codes: NDArray[Any]) -> NDArray[Any]:
        """The reference's codes as the package has them: coremltools stores those around 128 as signed ones."""
        kind = self._evaluator.types.get(self._names[name], codes.dtype)
        shift = 128 * (int(codes.dtype.kind == "u") - int(kind.kind == "u"))
        return (codes.astype(np.int32) - shift).astype(kind)

    def verification(self) -> Verification:
        """What came of it."""
        if not self.tally.samples:
            self.run(random_feeds(self._job.graph))
        tally, kind = self.tally, self._job.plan.float_format
        problems = list(_problems(tally, kind))
        assert self._first is not None
        ran = _on_device(self._job.folder / MODEL, self._first, self._evaluator)
        problems += (
            []
            if ran is None or ran >= _LEAST_ON_DEVICE
            else [f"Core ML's outputs have a cosine of {ran:.4f} with the evaluated ones"]
        )
        done = (
            f"coremltools reads the package back; evaluated in numpy, its outputs for {tally.samples} samples have a cosine of "
            f"{tally.cosine:.6f} with the reference's"
        )
        if tally.codes:
            done += f", and {tally.share:.3%} of {tally.codes:,} codes in {len(tally.tensors)} tensors differ, by {tally.steps} at most"
        done += (
            "; Core ML itself runs on macOS only"
            if ran is None
            else f"; Core ML's own outputs have a cosine of {ran:.6f} with those"
        )
        return Verification(
            consumer="coremltools" if ran is None else "Core ML",
            version=str(version()),
            ran=True,
            passed=not problems,
            summary="; ".join([done, *problems]) + ".",
            problems=tuple(problems),
            max_abs_diff=tally.largest,
            mean_abs_diff=tally.sums.absolute / max(tally.sums.count, 1),
            details=self._details(),
        )

    def _details(self) -> dict[str, Any]:
        tally = self.tally
        return {
            "samples": tally.samples,
            "cosine": tally.cosine,
            "error": tally.error,
            "codes": {
                "samples": tally.coded,
                "tensors": len(tally.tensors),
                "planned": len(self._codes),
                "elements": tally.codes,
                "differ": tally.off,
                "beyond": tally.beyond,
                "steps": tally.steps,
            },
            "operators": dict(sorted(self._evaluator.ops.items())),
        }


def _problems(tally: Tally, kind: str) -> list[str]:
    found = []
    if tally.beyond > _MOST_BEYOND[kind] * tally.codes:
        found.append(
            f"{tally.beyond:,} codes differ by more than one step, those of {tally.worst} by {tally.steps}; rounding does not explain that"
        )
    if tally.share > _MOST_CODES[kind]:
        found.append(
            f"{tally.share:.2%} of all codes differ; with {kind} at most {_MOST_CODES[kind]:.1%} should"
        )
    if tally.cosine < _LEAST_COSINE[kind]:
        found.append(f"the cosine of the outputs is {tally.cosine:.6f}, below {_LEAST_COSINE[kind]}")
    elif tally.error > _error_of(_LEAST_COSINE[kind]):
        found.append(f"the outputs are off by {tally.error:.2%} of their size, which a cosine does not show")
    return found


def _on_device(path: Path, feeds: Arrays, evaluator: Evaluator) -> float | None:
    """The cosine of what Core ML computes with what was evaluated; None where there is no Core ML."""
    if platform.system() != "Darwin":
        return None
    try:
        made = toolkit().ct.models.MLModel(str(path)).predict(feeds)
    except Exception as error:  # whatever Core ML raises: that it refuses the package is what is to be told
        raise QCompilerError(f"Core ML does not run the package: {error}") from error
    tally, expected = Tally(), evaluator.run(feeds)
    for name in evaluator.outputs:
        tally.add_output(expected[name], np.asarray(made[name]))
    return tally.cosine
