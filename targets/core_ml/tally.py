"""How far a package is from the reference, and how far it may be."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from qcompiler.accumulators import Sums

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MOST_CODES = {"float32": 0.001, "float16": 0.06}
"""The share of codes that may differ, by the type of floats."""
_MOST_BEYOND = {"float32": 0.0, "float16": 1e-5}
"""The share of codes that may differ by more than one step: where a large bias cancels, float16 rounds it by more than that."""
_LEAST_COSINE = {"float32": 0.9999, "float16": 0.99}


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
        labels: How many labels of classes were compared.
        same: How many of them are the reference's.
        wrong: How many are not that of the largest number.
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
    labels: int = 0
    same: int = 0
    wrong: int = 0

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

    def add_label(self, label: str, largest: str, reference: str) -> None:
        """Compares a label with that of the package's largest number, and that of the reference's."""
        self.labels += 1
        self.same += label == reference
        self.wrong += label != largest

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

    def problems(self, kind: str) -> list[str]:
        """What rounding does not explain, one clause each.

        Args:
            kind: The type of floats.
        """
        found = []
        if self.beyond > _MOST_BEYOND[kind] * self.codes:
            found.append(
                f"{self.beyond:,} codes differ by more than one step, those of {self.worst} by {self.steps}; rounding does not explain that"
            )
        if self.share > _MOST_CODES[kind]:
            found.append(
                f"{self.share:.2%} of all codes differ; with {kind} at most {_MOST_CODES[kind]:.1%} should"
            )
        if self.cosine < _LEAST_COSINE[kind]:
            found.append(f"the cosine of the outputs is {self.cosine:.6f}, below {_LEAST_COSINE[kind]}")
        elif self.error > _error_of(_LEAST_COSINE[kind]):
            found.append(
                f"the outputs are off by {self.error:.2%} of their size, which a cosine does not show"
            )
        if self.wrong:
            found.append(f"{self.wrong:,} of {self.labels:,} labels are not those of the largest number")
        return found


def _error_of(cosine: float) -> float:
    """The error, relative to the outputs, that goes with a cosine where there is no difference in scale."""
    return float(np.sqrt(2 * (1 - cosine)))
