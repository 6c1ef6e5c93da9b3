"""coremltools' own k-means palettization of a model, evaluated as packages are verified: top-1 or SQNR against the float model.

    python tests/benchmarks/peers/core_ml_palettize.py MODEL_FOLDER [--bits 4] [--scale] [--group 16] [--threshold 0] [--floats float16]

The float package is written by qcompiler (float32, batch normalization folded, nothing quantized), palettized per tensor by coremltools, read
back from disk and evaluated in numpy. `--scale`: with a scale per channel (iOS 18). `--group`: with a table for every so many channels (iOS 18),
and one per tensor where coremltools leaves a weight alone because its channels are no multiple of that. `--threshold`: weights of fewer
elements stay floats; coremltools' own default is 2048.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

import qcompiler as qc
from qcompiler.data import DataSource
from qcompiler.evaluation import evaluate_models
from qcompiler.ir.graph import Graph
from qcompiler.pass_manager import PassContext
from qcompiler.passes import find_pass
from qcompiler.pipeline import Pipeline
from qcompiler.runtime import BatchRunner, Session
from qcompiler.targets import find_target
from qcompiler.targets.core_ml.evaluate import Evaluator
from qcompiler.targets.core_ml.float_types import FloatTypes
from qcompiler.targets.core_ml.lower import contents
from qcompiler.targets.core_ml.names import identifiers
from qcompiler.targets.core_ml.package import read
from qcompiler.targets.core_ml.toolkit import toolkit

PREPARE = "fold_constants,canonicalize,fold_batch_norm,fuse_composites,canonicalize"


class Palettized(BatchRunner):
    """A package that coremltools changed, run on the graph's inputs."""

    def __init__(self, graph: Graph, folder: Path) -> None:
        super().__init__(graph.inputs)
        self.names, self.graph = identifiers(graph), graph
        self.evaluator = Evaluator(read(folder))

    def run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:  # type: ignore[override]
        made = self.evaluator.run({self.names[name]: array for name, array in feeds.items()})
        return {value.name: made[self.names[value.name]] for value in self.graph.outputs}


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("folder", type=Path)
    arguments.add_argument("--bits", type=int, default=4)
    arguments.add_argument("--scale", action="store_true")
    arguments.add_argument("--group", type=int)
    arguments.add_argument("--threshold", type=int, default=0)
    arguments.add_argument("--floats", choices=["float32", "float16"], default="float32")
    given = arguments.parse_args()
    graph = qc.load(given.folder / "model.onnx")
    source = graph.copy()
    Pipeline.parse(PREPARE, find_pass).run(graph, PassContext())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part, data in contents(graph, FloatTypes(graph, given.floats), find_target("core-ml:ios18")):
            path = folder / "float.mlpackage" / part
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        small = folder / "small.mlpackage"
        palettize(folder / "float.mlpackage", small, given)
        data = DataSource.open(str(given.folder / "evaluation.npz")).validate(source)
        models = {"float": Session(source), "palettized": Palettized(graph, small)}
        found = evaluate_models(models, data, None)
        size = sum(path.stat().st_size for path in small.rglob("*") if path.is_file())
    metrics = ", ".join(f"{label} {measured.metric:.4f}" for label, measured in found.models.items())
    how = (", scaled" if given.scale else "") + (f", groups of {given.group}" if given.group else "")
    print(
        f"{given.folder.name}, {given.bits} bits{how}, {given.floats}: {found.metric.name} {metrics}; {found.models['palettized'].sqnr_db:.2f} dB; {size:,} bytes"
    )


def palettize(source: Path, destination: Path, given: argparse.Namespace) -> None:
    """Coremltools' k-means with one table per tensor, after those for groups of channels where they are asked for."""
    ct = toolkit().ct
    optimize = ct.optimize.coreml
    model = ct.models.MLModel(str(source), skip_model_load=True)
    for granularity in (*(["per_grouped_channel"] if given.group else []), "per_tensor"):
        config = optimize.OpPalettizerConfig(
            mode="kmeans",
            nbits=given.bits,
            granularity=granularity,
            enable_per_channel_scale=given.scale,
            weight_threshold=given.threshold,
            **({"group_size": given.group} if granularity != "per_tensor" else {}),
        )
        model = optimize.palettize_weights(model, optimize.OptimizationConfig(global_config=config))
    model.save(str(destination))


if __name__ == "__main__":
    main()
