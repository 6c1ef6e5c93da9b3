"""Models side by side: each is compared with the first, however many samples each takes at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from qcompiler.data import DataSource
from qcompiler.evaluation import evaluate_models
from qcompiler.metrics import METRICS


@dataclass(frozen=True)
class Scaled:
    """Its input times a factor, some samples at a time."""

    factor: float
    together: int

    def stream(self, source: DataSource, batch: int = 32) -> Iterator[dict[str, NDArray[Any]]]:
        for feeds in source.batches(self.together):
            yield {"y": feeds["x"] * np.float32(self.factor)}


@pytest.mark.parametrize("together", [(16, 16, 16), (16, 64, 5), (5, 3, 64), (64, 1, 16), (200, 7, 200)])
def test_batches_of_any_sizes_give_the_same(together: tuple[int, int, int]) -> None:
    data = DataSource.open({"x": np.random.default_rng(0).normal(size=(131, 4)).astype(np.float32)})
    factors = {"float": 1.0, "near": 0.9, "far": 0.5}
    models = {
        label: Scaled(factor, count) for (label, factor), count in zip(factors.items(), together, strict=True)
    }
    evaluation = evaluate_models(models, data, METRICS["relative-error"])
    assert list(evaluation.models) == list(factors)
    assert evaluation.samples == 131
    for label, factor in factors.items():
        assert evaluation.models[label].metric == pytest.approx(1 - factor, abs=1e-6)
