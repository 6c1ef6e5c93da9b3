"""What is known of the values, as facts: ranges observed on calibration data, and encodings that came with the model."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING

from qcompiler.errors import DataError
from qcompiler.ir.encoding import Encoding
from qcompiler.ir.facts import Fact

if TYPE_CHECKING:
    from qcompiler.ranges import RangeMethod
    from qcompiler.statistics import Statistics, ValueStatistics
    from qcompiler.target import EncodingSpec


@dataclass(frozen=True)
class Ranges:
    """Statistics of the observed values, with the method that makes ranges of them.

    Attributes:
        statistics: By value name; None when nothing had to be observed.
        method: From a distribution to a range, see `qcompiler.ranges`.
    """

    statistics: Statistics | None
    method: RangeMethod

    def interval(self, values: list[str], spec: EncodingSpec) -> tuple[float, float]:
        """The range to encode for values that share one encoding.

        Raises:
            DataError: One of them was not observed.
        """
        observed = [self._of(name) for name in values]
        merged = reduce(lambda one, other: one + dataclasses.replace(other, name=one.name), observed)
        if not spec.numeric.is_integer:
            return float(merged.low[0]), float(merged.high[0])
        return self.method(
            merged.distribution(), levels=spec.numeric.levels - spec.narrow, symmetric=spec.symmetric
        )

    def mean(self, value: str) -> float | None:
        """The mean element of a value, or None where it was not observed."""
        if self.statistics is None or value not in self.statistics:
            return None
        return self.statistics[value].distribution().mean

    def _of(self, name: str) -> ValueStatistics:
        if self.statistics is None or name not in self.statistics:
            raise DataError(
                f"The value {name!r} is to be quantized, but it was not observed on calibration data; "
                "give --calibration, or a --statistics file that was made with this model and target."
            )
        return self.statistics[name]


RANGES = Fact[Ranges](
    "ranges", "every value that a legal row could quantize has been observed on calibration data", True
)
IMPORTED = Fact[Mapping[str, Encoding]](
    "imported", "encodings that the source model carried, by value name", True
)
