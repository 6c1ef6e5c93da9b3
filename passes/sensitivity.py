"""sensitivity: what each precision of each value costs at the model's outputs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from scipy.stats import spearmanr

from qcompiler.assignment import Problem
from qcompiler.errors import DataError
from qcompiler.experiments import Experiment, encoded_constant
from qcompiler.forms import Form, all_forms
from qcompiler.imported import Imported
from qcompiler.losses import Laboratory
from qcompiler.observed import IMPORTED, RANGES
from qcompiler.pass_manager import Effect, Level, Pass, PassContext, PassResult
from qcompiler.passes._group_encodings import GroupEncoder
from qcompiler.passes._sensitivity_cache import cache_key, read, write
from qcompiler.passes._sibling_losses import Blend, blend
from qcompiler.regions import REGIONS
from qcompiler.sensitivity import SENSITIVITY, Loss, Sensitivity

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qcompiler.ir.encoding import Encoding
    from qcompiler.ir.graph import Graph

_QUIET_BITS = 8  # formats of more lose so little that their loss is told from the others'
_MIDDLE_BITS = 4
_FORMATS = 8  # that `passes` is enough for: of mobilenetv2_imagenet's 16 for Core ML, 4 passes left 3 samples
_SPOTS = 8  # of a format's forms that need not run, one in so many runs
_FEWEST_SPOTS = 3
_FEWEST_SAMPLES = 2  # with fewer of all forms, more samples of some forms say more


@dataclass(frozen=True)
class SensitivityAnalysis(Pass):
    """Measures the loss that storing one value in one form alone causes at the outputs, for every form that some legal row reads.

    Label-free: the normalised output error, sum of squared differences over sum of squares, or for models that end in a
    Softmax the divergence KL(float || quantized); `measure` chooses. All experiments of a sample run in one graph that computes
    only what differs. `passes` says how much work that may be, in passes of the float model over the calibration data (but
    a second is always granted), for up to 8 formats, and in proportion where rows have more: it decides how many samples
    are run and, with few, whether every form is. 16-bit forms, and in a tight budget all but one form of a value, run for
    some values only; what was not run follows from the other forms of the value, which also make better what few samples
    say. `measured=all` runs every form.

    Weights of convolutions are run with their biases corrected, as they will be.

    `weight_range` is as in `assign_precision`. Results are kept in the user's cache folder, below qcompiler/sensitivity; the
    environment variable QCOMPILER_CACHE names another folder, or is "off".
    """

    name = "sensitivity"
    effect = Effect.ANNOTATES
    requires = (REGIONS, RANGES)
    establishes = (SENSITIVITY,)

    passes: float = 4.0
    measure: Literal["auto", "error", "kl"] = "auto"
    measured: Literal["auto", "all"] = "auto"
    weight_range: Literal["min-max", "mse"] = "mse"

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        """Establishes SENSITIVITY.

        Raises:
            DataError: There are no calibration data, or they do not fit.
            ModelError: A weight has an element that is not finite, or the model cannot be run.
        """
        assert context.target is not None, "sensitivity needs a target"
        result = PassResult()
        problem = Problem.state(graph, context.target, graph.facts[REGIONS])
        forms = all_forms(problem)
        if not forms or context.plan is not None:
            why = "the plan is given" if forms else "no legal row quantizes anything"
            result.say(Level.INFO, "", f"{why}: nothing to measure")
            graph.facts[SENSITIVITY] = Sensitivity({}, "normalised output error", 0)
            return result
        if context.calibration is None:
            raise DataError(
                f"{len(forms)} choices of precision are to be measured on the model, but there are no calibration data (a statistics "
                "file is not enough); give --calibration NPZ with some hundred typical samples."
            )
        imported = Imported(graph, graph.facts.get(IMPORTED) or {})
        encoder = GroupEncoder(problem, graph.facts[RANGES], imported, self.weight_range)
        experiments = [
            Experiment.of(form.value, uses, encoder.of_form(form, uses)) for form, uses in forms.items()
        ]
        laboratory = Laboratory(graph, context.calibration, self.measure)
        chosen, count = self._plan(list(forms), experiments, laboratory)
        samples = laboratory.samples(count)
        key = cache_key(
            graph,
            forms,
            [item.encoding for item in experiments],
            samples,
            f"{self} {laboratory.source.count}",
        )
        kept = read(key)
        if kept is not None and set(kept.losses) == {form.key for form in forms}:
            graph.facts[SENSITIVITY] = kept
            result.say(
                Level.INFO, "", f"the losses of {len(forms)} forms were measured before and are reused"
            )
            return result
        context.progress("measuring sensitivity", 0, 1)
        scores = laboratory.run([experiments[index] for index in chosen], samples)
        context.progress("measuring sensitivity", 1, 1)
        losses = np.full(len(experiments), math.nan)
        losses[chosen] = scores.means
        unseen = 1.0 - count / laboratory.source.count
        spread = float(scores.variances[scores.means > 0].mean()) if (scores.means > 0).any() else 0.0
        found = blend(
            [form.value for form in forms],
            [_format(form) for form in forms],
            np.array([_noise(form, item.encoding) for form, item in zip(forms, experiments, strict=True)]),
            losses,
            math.log1p(spread * unseen / count),
        )
        run = ~np.isnan(losses)
        graph.facts[SENSITIVITY] = Sensitivity(
            {
                form.key: Loss(float(found.means[index]), float(found.errors[index]), bool(run[index]))
                for index, form in enumerate(forms)
            },
            laboratory.measure,
            count,
        )
        write(key, graph.facts[SENSITIVITY])
        result.count("forms measured", int(run.sum()))
        result.count("forms inferred", int((~run).sum()))
        result.say(Level.INFO, "", _holds(found, losses, count, laboratory.source.count))
        return result

    def _plan(
        self, forms: list[Form], experiments: list[Experiment], laboratory: Laboratory
    ) -> tuple[list[int], int]:
        """Which forms to run, and on how many samples."""
        total, formats = laboratory.source.count, len({_format(form) for form in forms})
        work = self.passes * max(formats / _FORMATS, 1.0)
        plans = [list(range(len(forms)))]
        if self.measured == "auto":
            plans = [_with_spots(forms, _loud(forms)), _with_spots(forms, _middle(forms))]
        for chosen in plans:
            count = laboratory.samples_for([experiments[index] for index in chosen], work)
            if count >= min(_FEWEST_SAMPLES, total):
                break
        return chosen, max(min(int(count), total), 1)


def _loud(forms: Sequence[Form]) -> set[int]:
    """The forms that lose enough to be worth running, and one of each value at least."""
    return {index for index, form in enumerate(forms) if form.spec.numeric.bits <= _QUIET_BITS} | _middle(
        forms
    )


def _middle(forms: Sequence[Form]) -> set[int]:
    """One form of each value: about 4 bits, whose loss stands out from float noise and does not saturate yet."""
    best: dict[str, tuple[int, int]] = {}
    for index, form in enumerate(forms):
        distance = abs(form.spec.numeric.bits - _MIDDLE_BITS)
        best[form.value.name] = min(best.get(form.value.name, (distance, index)), (distance, index))
    return {index for _, index in best.values()}


def _with_spots(forms: Sequence[Form], chosen: set[int]) -> list[int]:
    """What is chosen, and of each format some of the others, evenly: they tell how the format relates to the rest."""
    left: dict[tuple[bool, str], list[int]] = {}
    for index, form in enumerate(forms):
        if index not in chosen:
            left.setdefault(_format(form), []).append(index)
    spots = set(chosen)
    for turn, others in enumerate(left.values()):
        count = min(max(len(others) // _SPOTS, _FEWEST_SPOTS), len(others))
        step = len(others) / count
        spots.update(
            others[int((place + (turn % 4 + 0.5) / 4) * step) % len(others)] for place in range(count)
        )
    return sorted(spots)


def _format(form: Form) -> tuple[bool, str]:
    """What a form is stored in, of constants apart."""
    return form.value.is_constant, str(form.spec)


def _noise(form: Form, encoding: Encoding) -> float:
    """The squared error of an encoding, in a unit that the forms of a value share.

    Of a constant the error itself; of what is computed the square of the step. Measuring the error where it arises, at a
    layer's output, was tried: the forms of a value follow it hardly better, and it costs half a pass.
    """
    if form.value.is_constant:
        data: NDArray[np.float64] = np.asarray(form.value.data, np.float64)
        return float(np.square(encoded_constant(form.value, encoding) - data).sum())
    return 1.0 if encoding.scale is None else float(encoding.scale) ** 2


def _holds(found: Blend, losses: NDArray[np.float64], count: int, total: int) -> str:
    """What was run, and how well the forms of a value foretell one another."""
    text = f"{(~np.isnan(losses)).sum()} of {len(losses)} forms run on {count} of {total} samples"
    both = np.isfinite(found.foretold) & np.isfinite(losses) & (losses > 0)
    if both.sum() < 3:
        return text
    ratios = np.exp(np.abs(np.log(found.foretold[both] / losses[both])))
    rank = float(spearmanr(found.foretold[both], losses[both]).statistic)
    return f"{text}; siblings foretell them within a factor of {np.median(ratios):.2f} (median; Spearman {rank:.3f})"
