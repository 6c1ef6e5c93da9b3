"""round_scales: rounds the plan's scales to what the target stores them in."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from qcompiler.ir.encoding import FORMATS
from qcompiler.ir.plan import PLAN
from qcompiler.pass_manager import Effect, Pass, PassContext, PassResult
from qcompiler.scale_formats import rounded_scale, scale_loss

if TYPE_CHECKING:
    from qcompiler.ir.encoding import Encoding, Format
    from qcompiler.ir.graph import Graph


@dataclass(frozen=True)
class RoundScales(Pass):
    """Rounds scales to the plan's float format, on targets whose artifacts store them in it (`scale_format = "float"`).

    The reference then computes with the numbers that the artifact has. Scales that the format cannot hold, because they are too small
    or what they stand for is too large, stay as they are, and so do those that follow from others. Nothing happens on other targets.
    """

    name = "round_scales"
    effect = Effect.ANNOTATES
    requires = (PLAN,)
    establishes = (PLAN,)

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        """Consumes PLAN and establishes it anew."""
        plan, result, target = graph.facts[PLAN], PassResult(), context.target
        stored = FORMATS[plan.float_format]
        if target is None or target.scale_format != "float" or stored.dtype == np.float32:
            return result
        groups = []
        for group in plan.groups:
            encoding = (
                group.encoding if group.relation in ("derived", "fixed") else _rounded(group.encoding, stored)
            )
            result.count("scales", encoding != group.encoding)
            groups.append(dataclasses.replace(group, encoding=encoding))
        graph.facts[PLAN] = dataclasses.replace(plan, groups=tuple(groups))
        return result


def _rounded(encoding: Encoding, stored: Format) -> Encoding:
    """The encoding with scales, and entries of a table, that the format has."""
    scale, table = encoding.scale, encoding.table
    if scale is not None and not scale_loss(scale, stored):
        scale = rounded_scale(scale, stored).astype(np.float32)
    if table is not None and np.abs(table).max() <= stored.maximum:
        table = table.astype(stored.dtype).astype(np.float32)
    return dataclasses.replace(encoding, scale=scale, table=table)
