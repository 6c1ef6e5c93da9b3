"""Verification of Core ML packages: read back from disk, evaluated in numpy, compared with the reference; on macOS, run by Core ML."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING, Any

import numpy as np

from qcompiler.errors import QCompilerError
from qcompiler.lowering import Verification, VerifyJob
from qcompiler.probe import random_feeds
from qcompiler.runtime import BatchRunner, Session
from qcompiler.targets.core_ml.classes import LABEL
from qcompiler.targets.core_ml.evaluate import Evaluator
from qcompiler.targets.core_ml.interface import interface_of
from qcompiler.targets.core_ml.names import identifiers
from qcompiler.targets.core_ml.package import MODEL, read
from qcompiler.targets.core_ml.pixels import EXACT, Rounding
from qcompiler.targets.core_ml.tally import Tally
from qcompiler.targets.core_ml.toolkit import toolkit, version

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from qcompiler.data import DataSource

    Arrays = dict[str, NDArray[Any]]

_EVERY_TENSOR = 8
"""Samples of which all codes are compared."""
_OUTPUTS = 128
"""Samples of which outputs are compared."""
_LEAST_ON_DEVICE = 0.98


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
        self._interface = interface_of(job.graph, job.options)
        self._rounding = {name: Rounding() for name in self._interface.images}
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
        given, read = self._given(feeds)
        made = self._evaluator.run(given)
        outputs = self._outputs_of(made)
        if self.tally.samples < _OUTPUTS:
            self._compare(read, given, made, outputs)
        types = {value.name: value.dtype for value in self._job.graph.outputs}
        return {name: array.astype(types[name]) for name, array in outputs.items()}

    def _given(self, feeds: Mapping[str, NDArray[Any]]) -> tuple[Arrays, Arrays]:
        """What the package is given, by its names, and what the model reads then: the numbers of pixels, where inputs are images."""
        given, read = dict(feeds), dict(feeds)
        for name, image in self._interface.images.items():
            steps = image.steps(feeds[name])
            given[name] = image.rounded(steps)
            read[name] = image.numbers(given[name])
            self._rounding[name].add(steps, given[name])
        return {self._names[name]: array for name, array in given.items()}, read

    def _outputs_of(self, made: Mapping[str, Any]) -> Arrays:
        """The model's outputs in what the package gives; the numbers of classes stand there by label."""
        classifier = self._interface.classifier
        return {
            name: classifier.scores(made)
            if classifier is not None and name == classifier.output
            else made[self._names[name]]
            for name in self._outputs
        }

    def _compare(
        self, feeds: Arrays, given: Arrays, made: Mapping[str, Any], outputs: Mapping[str, NDArray[Any]]
    ) -> None:
        coded = self.tally.coded < _EVERY_TENSOR
        expected = (self._reference if coded else self._plain).run(feeds)
        count = max((len(array) for array in feeds.values() if array.ndim), default=1)
        self._first = self._first or given
        self.tally.samples += count
        for name in self._outputs:
            self.tally.add_output(expected[name], outputs[name])
        if (classifier := self._interface.classifier) is not None:
            largest, reference = (
                classifier.labels[int(found[classifier.output].argmax())] for found in (outputs, expected)
            )
            self.tally.add_label(made[LABEL], largest, reference)
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
            self.run(self._random())
        tally = self.tally
        problems = tally.problems(self._job.plan.float_format)
        assert self._first is not None
        ran = self._on_device()
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
        if tally.labels:
            done += f", and {tally.same} of {tally.labels} labels are the reference's"
        done += "".join(_rounding_text(name, found) for name, found in self._rounding.items())
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

    def _random(self) -> Arrays:
        """Inputs of a seed; of images, the numbers of pixels."""
        feeds = random_feeds(self._job.graph)
        return feeds | {
            name: image.random(feeds[name].shape) for name, image in self._interface.images.items()
        }

    def _on_device(self) -> float | None:
        """The cosine of what Core ML computes with what was evaluated; None where there is no Core ML."""
        if platform.system() != "Darwin":
            return None
        assert self._first is not None
        pictures = {
            self._names[name]: image.picture(self._first[self._names[name]])
            for name, image in self._interface.images.items()
        }
        path = str(self._job.folder / MODEL)
        try:
            made = toolkit().ct.models.MLModel(path).predict({**self._first, **pictures})
        except (
            Exception
        ) as error:  # whatever it raises: that Core ML refuses the package is what is to be told
            raise QCompilerError(f"Core ML does not run the package: {error}") from error
        tally, expected = Tally(), self._outputs_of(self._evaluator.run(self._first))
        for name, array in self._outputs_of(made).items():
            tally.add_output(expected[name], np.asarray(array))
        return tally.cosine

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
            **self._interface_details(),
        }

    def _interface_details(self) -> dict[str, Any]:
        """What there is to say of class labels and images, where there are any."""
        details: dict[str, Any] = {}
        if self.tally.labels:
            details["labels"] = {"compared": self.tally.labels, "same": self.tally.same}
        if self._rounding:
            details["pixels"] = {
                name: {"worst": found.worst, "mean": found.mean} for name, found in self._rounding.items()
            }
        return details


def _rounding_text(name: str, found: Rounding) -> str:
    """How far the data are from pixels, where floats do not explain it."""
    if found.worst <= EXACT:
        return ""
    return (
        f"; the data of {name} lie between pixels: the package was given the nearest ones, {found.mean:.2g} of a step off on average and "
        f"{found.worst:.2g} at most"
    )
