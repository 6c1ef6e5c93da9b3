"""What each precision costs, as a fact: the loss at the model's outputs that one form alone causes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qcompiler.ir.facts import Fact

if TYPE_CHECKING:
    from qcompiler.forms import Form

FormKey = tuple[str, str, "int | None"]


@dataclass(frozen=True)
class Loss:
    """The loss that one form alone causes.

    Attributes:
        mean: Over the calibration samples; in the unit of `Sensitivity.measure`. An estimate from those that were run and from
            what was measured of the value's other forms; infinite where the outputs are no numbers any more.
        error: Standard error of that estimate; 0 where all samples were run.
        measured: Whether the form was run; otherwise the loss follows from other forms of the value.
    """

    mean: float
    error: float
    measured: bool


@dataclass(frozen=True)
class Sensitivity:
    """The losses of all forms.

    Attributes:
        losses: By `Form.key`.
        measure: What the losses are: "normalised output error" (sum of squared differences over sum of squares of the
            float outputs) or "kl" (nats). Of several outputs, the mean.
        samples: How many calibration samples were run.
    """

    losses: Mapping[FormKey, Loss]
    measure: str
    samples: int

    def of(self, form: Form) -> Loss:
        """The loss of a form."""
        return self.losses[form.key]


SENSITIVITY = Fact[Sensitivity]("sensitivity", "the loss that each form alone causes is known", True)
