"""Graphs written as packages, read back from disk and evaluated, in tests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcompiler.ir.graph import Graph
from qcompiler.probe import random_feeds
from qcompiler.runtime import Session
from qcompiler.targets import find_target
from qcompiler.targets.core_ml.evaluate import Evaluator
from qcompiler.targets.core_ml.float_types import FloatTypes
from qcompiler.targets.core_ml.interface import Interface
from qcompiler.targets.core_ml.lower import contents
from qcompiler.targets.core_ml.names import identifiers
from qcompiler.targets.core_ml.package import Package, read


@dataclass(frozen=True)
class Written:
    """A package on disk.

    Attributes:
        graph: What was written.
        package: What was read back.
    """

    graph: Graph
    package: Package

    @property
    def ops(self) -> dict[str, int]:
        """How many operators of each kind it has; stored constants are not among them."""
        return dict(Evaluator(self.package).ops)

    def outputs(self, feeds: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """What it computes, by the graph's names."""
        names = identifiers(self.graph)
        made = Evaluator(self.package).run({names[name]: array for name, array in feeds.items()})
        return {value.name: made[names[value.name]] for value in self.graph.outputs}

    def gap(self, seed: int = 0) -> float:
        """The largest difference from onnxruntime on random inputs, relative to the largest output."""
        feeds = random_feeds(self.graph, seed=seed)
        expected, made = Session(self.graph, optimize=False).run(feeds), self.outputs(feeds)
        largest = 0.0
        for name, array in expected.items():
            assert made[name].shape == array.shape
            scale = float(np.abs(array.astype(np.float64)).max(initial=0)) or 1.0
            gap = np.abs(made[name].astype(np.float64) - array).max(initial=0) / scale
            largest = max(largest, float(gap))
        return largest


def write(
    graph: Graph,
    folder: Path,
    device: str = "ios17",
    floats: str = "float32",
    io: str = "float32",
    interface: Interface | None = None,
) -> Written:
    """Writes a graph as it is, and reads the package back."""
    target, shown = find_target(f"core-ml:{device}"), interface or Interface(np.dtype(io))
    for name, data in contents(graph, FloatTypes(graph, floats), target, shown):
        path = folder / "model.mlpackage" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return Written(graph, read(folder / "model.mlpackage"))
