"""What a user may limit, and what is made as small as that allows."""

from __future__ import annotations

import math
from dataclasses import dataclass

from qcompiler.errors import OptionError
from qcompiler.selection import Quantity


@dataclass(frozen=True)
class Budget:
    """Limits on a compilation. None: no limit.

    Attributes:
        weight_bits: Bits per weight, averaged over the parameters of weighted nodes; see `qcompiler.costs.own_bits`.
        size: Bytes of all weights and tables of the artifact.
        latency: Seconds of one inference, by the target's cost model.
        loss: Predicted loss, in the unit of the sensitivity analysis.
        minimise: What is made as small as the limits allow.
        code: Bytes of code beside weights and tables, where `size` is what `--max-flash` leaves; None where it is `--max-size`.
    """

    weight_bits: float | None = None
    size: float | None = None
    latency: float | None = None
    loss: float | None = None
    minimise: Quantity = "loss"
    code: int | None = None

    def __post_init__(self) -> None:
        for option, given in (
            ("--weight-bits", self.weight_bits), ("--max-size", self.size), ("--max-latency", self.latency),
        ):  # fmt: skip
            if given is not None and not 0 < given < math.inf:
                raise OptionError(f"{option} is {given:g}; it takes a number above 0.")
