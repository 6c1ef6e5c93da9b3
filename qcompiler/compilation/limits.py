"""What a compilation was held to, and what is said of limits that are not kept."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from qcompiler.decision import DECISION
from qcompiler.errors import OptionError
from qcompiler.report.node_table import bits_per_weight

if TYPE_CHECKING:
    from collections.abc import Callable

    from qcompiler.evaluation import Evaluation
    from qcompiler.ir.graph import Graph
    from qcompiler.ir.plan import Plan
    from qcompiler.options import Options
    from qcompiler.target import Target

LIMITS = ("max_drop", "weight_bits", "max_size", "max_latency", "max_ram", "max_flash")
"""The options that limit what is made."""


def asked(options: Options) -> dict[str, float]:
    """The stated limits."""
    named = {name: getattr(options, name) for name in LIMITS}
    return {name: limit for name, limit in named.items() if limit is not None}


def unmet(
    options: Options,
    target: Target,
    graph: Graph,
    plan: Plan,
    size: Callable[[], int],
    evaluation: Evaluation | None,
    narrow: int,
) -> list[str]:
    """What is said of each stated limit that is not kept.

    Args:
        options: With the limits.
        target: What is compiled for.
        graph: The reference graph.
        plan: Its plan.
        size: Counts the bytes of weights and tables.
        evaluation: The measurement, if there was one.
        narrow: How many values had to take as few bits as rows allow.

    Raises:
        OptionError: The float model's metric is not finite, and the drop is limited.
    """
    found = []
    decision = graph.facts.get(DECISION)
    if decision is not None and not decision.keeps_limits:
        found.append(decision.unmet)
    if options.max_size is not None and not found and size() > options.max_size:
        found.append(f"--max-size {options.max_size:g} is not kept: weights and tables take {size()} bytes.")
    if decision is None and options.weight_bits is not None:  # the plan is given
        bits = bits_per_weight(graph, plan, target.scale_bytes)
        if bits > options.weight_bits:
            found.append(
                f"--weight-bits {options.weight_bits:g} is not kept: the plan gives {bits:.4g} bits per weight."
            )
    limit = options.max_drop
    if limit is not None and evaluation is not None and not within_drop(limit, evaluation):
        found.append(_drop_text(limit, evaluation, narrow))
    return found


def within_drop(max_drop: float | None, evaluation: Evaluation) -> bool:
    """Whether what goes on the device is no more than so much worse than the float model.

    Raises:
        OptionError: The float model's metric is not finite, and the drop is limited.
    """
    if max_drop is None:
        return True
    before = evaluation.models["float"].metric
    if not math.isfinite(before):
        raise OptionError(
            f"--max-drop cannot be held with the metric {evaluation.metric.name}: the float model's is {before}, and every drop from there is "
            "infinite. Give --metric agreement (of the classes) or relative-error, or evaluation data with labels."
        )
    return evaluation.drop(list(evaluation.models)[-1]) <= max_drop + 1e-12


def _drop_text(max_drop: float, evaluation: Evaluation, narrow: int) -> str:
    label = list(evaluation.models)[-1]
    drop = evaluation.drop(label)
    text = f"--max-drop {max_drop:g} is not kept: the least drop found is {drop:.4g}."
    error = evaluation.drop_error(label)
    if error is not None and error > max_drop:
        text += f" {evaluation.samples} samples tell it to within {error:.2g} only; more evaluation data would tell more."
    if narrow:
        text += (
            f" For want of memory up to {narrow} values had to take as few bits as the target's rows allow."
        )
    return text
