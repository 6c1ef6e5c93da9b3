"""What calibration knows, as facts: observed ranges, and encodings that came with the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from qcompiler.ir.encoding import Encoding
from qcompiler.ir.facts import Fact

if TYPE_CHECKING:
    from qcompiler.statistics import Statistics
    from qcompiler.target import EncodingSpec


@dataclass(frozen=True)
class Ranges:
    """Statistics of the calibrated values with the method that makes ranges of them.

    Attributes:
        statistics: By value name; empty when nothing had to be observed.
        method: See the pass `calibrate`.
        percentile: For the method "percentile".
    """

    statistics: Statistics
    method: str
    percentile: float

    def interval(self, values: list[str], spec: EncodingSpec) -> tuple[float, float]:
        """The range to encode for values that share one encoding.

        Raises:
            DataError: Nothing was observed for one of them.
        """
        raise NotImplementedError

    def describe(self) -> str:
        """The method, for reasons in plans."""
        return f"percentile {self.percentile:g}" if self.method == "percentile" else self.method


RANGES = Fact[Ranges]("ranges", "every value that a legal row could quantize has been observed on calibration data")
IMPORTED = Fact[dict[str, Encoding]]("imported", "encodings that the source model carried, by value name")
