"""Small models written as ONNX text, and passes run on them under the probe."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx.parser
from numpy.typing import NDArray

from qcompiler.ir.graph import Graph
from qcompiler.ir.onnx_import import import_model
from qcompiler.pass_manager import Level, Pass, PassContext
from qcompiler.passes.canonicalize import Canonicalize
from qcompiler.passes.fold_batch_norm import FoldBatchNorm
from qcompiler.passes.fold_constants import FoldConstants
from qcompiler.passes.fuse_composites import FuseComposites
from qcompiler.pipeline import Checks, PassRecord, Pipeline
from qcompiler.probe import Probe, random_feeds
from qcompiler.runtime import Session

FLOAT_PASSES: tuple[Pass, ...] = (FoldConstants(), Canonicalize(), FoldBatchNorm(), FuseComposites())
MODELS = Path(os.environ.get("QCOMPILER_MODELS", Path(__file__).parents[2] / "shared" / "models"))


def graph_of(text: str, constants: Mapping[str, Any] | None = None, opset: int = 21) -> Graph:
    """Reads `(inputs) => (outputs) { nodes }` in ONNX text; constants are added as initializers."""
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : {opset}]> small {text}')
    for name, data in (constants or {}).items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(data), name))
    return import_model(model)


def normal(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    """Standard normal numbers; the same for the same shape and seed."""
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def ramp(count: int, start: float = 0.5, step: float = 0.25) -> NDArray[np.float32]:
    """Distinct positive numbers, one per channel."""
    return (start + step * np.arange(count)).astype(np.float32)


def run(graph: Graph, *passes: Pass) -> list[PassRecord]:
    """Runs passes; each is held to its effect on a batch of 2, and the whole is compared on a batch of 3."""
    feeds = _batch_of(graph, 3)
    before = Session(graph, optimize=False).run(feeds)
    interface = [(value.name, value.dtype) for value in graph.outputs]
    records = Pipeline(passes).run(graph, PassContext(), Checks(probe=Probe(graph)))
    assert [(value.name, value.dtype) for value in graph.outputs] == interface
    after = Session(graph, optimize=False).run(feeds)
    for name, expected in before.items():
        scale = float(np.abs(expected.astype(np.float64)).max(initial=0)) or 1.0
        np.testing.assert_allclose(after[name], expected, rtol=0, atol=1e-5 * scale, err_msg=name)
    return records


def _batch_of(graph: Graph, size: int) -> dict[str, NDArray[Any]]:
    twin = Graph()
    for value in graph.inputs:
        shape = tuple(size if isinstance(dim, str) else dim for dim in value.shape or ())
        twin.add_input(value.name, value.dtype, shape)
    return random_feeds(twin, seed=1)


def ops_of(graph: Graph) -> dict[str, int]:
    """How many nodes of each operator there are."""
    return dict(Counter(node.op for node in graph.nodes))


def near_misses(records: list[PassRecord]) -> list[str]:
    """What the passes said they nearly did."""
    return [str(item) for record in records for item in record.diagnostics if item.level is Level.NEAR_MISS]


def lines(graph: Graph) -> list[str]:
    """The nodes of the text form, without origins."""
    return [line.strip().split("  # from")[0] for line in str(graph).splitlines()[1:]]
