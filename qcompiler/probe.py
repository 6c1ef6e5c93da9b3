"""Probes: the graph is run before and after a pass, and the pass is held to its declared effect."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from qcompiler.errors import PassError
from qcompiler.pass_manager import Effect, Pass
from qcompiler.runtime import Session

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qcompiler.ir.graph import Graph

EXACT_TOLERANCE = 2e-4
"""Largest output difference of an exact pass, relative to the output's largest magnitude: float32 rounding through
hundreds of layers stays below it, a wrong constant does not."""

_SYMBOLIC_SIZE = 2


class Probe:
    """Remembers the outputs of a graph on probe inputs and compares them after each pass."""

    def __init__(self, graph: Graph, *batches: dict[str, NDArray[Any]]) -> None:
        """Runs the graph once.

        Args:
            graph: The graph before the pipeline.
            batches: Probe inputs by name, a small batch each; random ones when there are none. Real data may never reach
                the ends of a Clip: give `random_feeds` besides, to see the mistakes that they do not show.
        """
        self.batches = batches or (random_feeds(graph),)
        self.outputs = self.run(graph)
        self.reference = self.outputs

    def run(self, graph: Graph) -> dict[str, NDArray[Any]]:
        """The graph's outputs on all probe inputs, with the runtime's own optimizations off."""
        session = Session(graph, optimize=False)
        outputs = session.run(self.batches[0])
        for number, feeds in enumerate(self.batches[1:], 2):
            outputs |= {f"{name} (probe {number})": array for name, array in session.run(feeds).items()}
        return outputs

    def hold(self, graph: Graph, entry: Pass, enforce: bool = True) -> float:
        """Compares with the outputs before the pass, and returns the largest relative difference.

        Raises:
            PassError: The pass declares itself exact (or annotating) and the function changed.
        """
        outputs = self.run(graph)
        name, error = largest_difference(self.outputs, outputs)
        self.outputs = outputs
        limit = {Effect.EXACT: EXACT_TOLERANCE, Effect.ANNOTATES: 0.0}.get(entry.effect, np.inf)
        if enforce and not error <= limit:
            raise PassError(
                f"The pass {entry.name} declares its effect as {entry.effect.value}, but on the probe inputs it changed the output "
                f"{name!r} by {error:.3g} of its largest magnitude (allowed: {limit:g}). `qcompiler bisect` finds the rewrite."
            )
        return error


def random_feeds(graph: Graph, seed: int = 0) -> dict[str, NDArray[Any]]:
    """Standard normal floats, small integers and coin flips in the shapes of the inputs; symbolic sizes become 2."""
    rng = np.random.default_rng(seed)
    feeds: dict[str, NDArray[Any]] = {}
    for value in graph.inputs:
        shape = [dim if isinstance(dim, int) else _SYMBOLIC_SIZE for dim in value.shape or ()]
        dtype = np.dtype(np.float32) if value.dtype is None else value.dtype
        if dtype == np.bool_:
            feeds[value.name] = rng.random(shape) < 0.5
        elif np.issubdtype(dtype, np.integer):
            feeds[value.name] = rng.integers(0, 2, shape).astype(dtype)
        else:
            feeds[value.name] = rng.standard_normal(shape).astype(dtype)
    return feeds


def largest_difference(before: dict[str, NDArray[Any]], after: dict[str, NDArray[Any]]) -> tuple[str, float]:
    """The output that differs most, and by how much relative to its largest magnitude before (inf for shape or NaN)."""
    worst = ("", 0.0)
    for name, old in before.items():
        new = after.get(name)
        if new is None or new.shape != old.shape:
            return name, np.inf
        if not old.size or np.array_equal(old, new, equal_nan=old.dtype.kind == "f"):
            continue
        if old.dtype.kind not in "fiub" and old.dtype.name not in ("bfloat16",):
            return name, np.inf
        left, right = old.astype(np.float64), new.astype(np.float64)
        scale = np.abs(left[np.isfinite(left)]).max(initial=0.0)
        same = (left == right) | (np.isnan(left) & np.isnan(right))
        with np.errstate(invalid="ignore"):
            gap = np.where(same, 0.0, np.abs(left - right)).max()
        error = float(gap / scale) if scale > 0 else (0.0 if gap == 0 else np.inf)
        error = np.inf if np.isnan(error) else error
        if error > worst[1]:
            worst = (name, error)
    return worst
