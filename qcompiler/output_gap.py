"""How far an artifact's outputs are from those that they should be, over many samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from qcompiler.accumulators import Sums

if TYPE_CHECKING:
    from numpy.typing import NDArray

_NEAR = 0.1
"""Of the spread of a sample's outputs: what is nearer to the largest is nearly as large."""


@dataclass
class OutputGap:
    """Differences of outputs from those expected.

    Attributes:
        samples: How many were compared.
        agreeing: How many have the same largest output, equals included.
        near: How many have the same one, or one nearly as large.
        sums: For the ratio of signal to noise, over all outputs.
        largest: The largest difference.
    """

    samples: int = 0
    agreeing: int = 0
    near: int = 0
    sums: Sums = field(default_factory=Sums)
    largest: float = 0.0

    def add(self, expected: Mapping[str, NDArray[Any]], made: Mapping[str, NDArray[Any]]) -> None:
        """Compares some samples: arrays by output, with samples on the first axis."""
        count = len(next(iter(made.values())))
        gaps = np.zeros(count)
        for name, array in made.items():
            right = expected[name]
            if array.dtype.kind == "f":
                self.sums.add(right, array)
                self.largest = max(self.largest, float(np.abs(array - right).max(initial=0.0)))
            if array.size and len(array) == count:
                gaps = np.maximum(gaps, _ties(right.reshape(count, -1), array.reshape(count, -1)))
        self.samples += count
        self.agreeing += int((gaps == 0).sum())
        self.near += int((gaps <= _NEAR).sum())

    @property
    def sqnr_db(self) -> float:
        """Signal to noise, dB."""
        return self.sums.sqnr_db()

    @property
    def mean(self) -> float:
        """The mean difference."""
        return self.sums.absolute / max(self.sums.count, 1)

    @property
    def agreement(self) -> float:
        """The share of samples with the same largest output."""
        return self.agreeing / max(self.samples, 1)

    @property
    def near_agreement(self) -> float:
        """The share of samples with the same largest output, or one nearly as large."""
        return self.near / max(self.samples, 1)


def _ties(expected: NDArray[Any], made: NDArray[Any]) -> NDArray[np.float64]:
    """By how much what should be the largest of each row falls short of what is, as a part of the spread that is expected."""
    wanted, found = expected.astype(np.float64), made.astype(np.float64)
    spread = np.maximum(np.ptp(wanted, axis=1), np.finfo(np.float32).tiny)
    gaps = found.max(axis=1) - found[np.arange(len(found)), wanted.argmax(axis=1)]
    return np.asarray(gaps / spread, np.float64)
