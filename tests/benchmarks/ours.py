"""One measurement of qcompiler, in a process of its own; prints one JSON line like the peers' runners.

Examples:
    python ours.py calibrate model.onnx calibration.npz --samples 100 --method mse
    python ours.py compile model.onnx calibration.npz --samples 100
    python ours.py scale --nodes 16000
    python ours.py roundtrip big.onnx
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE / "peers")]

from common import Meter, stdout_to_stderr, write_json  # noqa: E402
from networks import residual_network  # noqa: E402

from qcompiler.data import DataSource  # noqa: E402
from qcompiler.ir.onnx_export import save  # noqa: E402
from qcompiler.ir.onnx_import import load  # noqa: E402
from qcompiler.observed import RANGES  # noqa: E402
from qcompiler.pass_manager import PassContext  # noqa: E402
from qcompiler.passes import find_pass  # noqa: E402
from qcompiler.pipeline import Pipeline  # noqa: E402
from qcompiler.target import EncodingSpec  # noqa: E402
from qcompiler.targets import find_target  # noqa: E402

PREPARE = "fold_constants,canonicalize,fold_batch_norm,fuse_composites,canonicalize,explicit_padding,fuse"
ENCODING = EncodingSpec("int8")
FINISH = "assign_precision,correct_bias,insert_qdq,cast_floats"


def repeated(model: Path, data: Path, samples: int) -> DataSource:
    """Calibration data of any number of samples: the file's, held in memory as they are stored, over and over."""
    graph = load(model)
    with np.load(data) as archive:
        source = DataSource.open({name: archive[name] for name in archive.files}).validate(graph)
    parts = [source] * (samples // source.count)
    parts += [source.slice(0, samples % source.count)] if samples % source.count else []
    segments = tuple(segment for part in parts for segment in part.segments)
    return DataSource(segments, source.where, source.files).validate(graph)


def calibrate(options: argparse.Namespace, meter: Meter) -> None:
    """Calibration alone: observing all samples, and a range for every observed value."""
    graph = load(options.model)
    context = PassContext(
        target=find_target(options.target),
        calibration=repeated(options.model, options.data, options.samples),
    )
    Pipeline.parse(PREPARE, find_pass).run(graph, context)
    calibration = Pipeline.parse(f"calibrate{{method={options.method}}}", find_pass)  # imports what it needs
    with meter.phase("calibrate"):
        calibration.run(graph, context)
        ranges = graph.facts[RANGES]
        for name in ranges.statistics or ():
            ranges.interval([name], ENCODING)


def whole(options: argparse.Namespace, meter: Meter) -> None:
    """A whole compilation, calibration included, evaluation and verification not (the peers do none)."""
    context = PassContext(
        target=find_target(options.target), calibration=repeated(options.model, options.data, options.samples)
    )
    with meter.phase("compile"), tempfile.TemporaryDirectory() as folder:
        graph = load(options.model)
        Pipeline.parse(f"{PREPARE},calibrate{{method={options.method}}},{FINISH}", find_pass).run(
            graph, context
        )
        save(graph, Path(folder) / "model.onnx")


def scale(options: argparse.Namespace, meter: Meter) -> None:
    """Import, transform and export a generated residual network; calibration on two samples is a phase of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        save(residual_network(options.nodes), path)
        context = PassContext(target=find_target(options.target))
        with meter.phase("import to fuse"):
            graph = load(path)
            Pipeline.parse(PREPARE, find_pass).run(graph, context)
        with meter.phase("calibrate"):
            shape = [dim if isinstance(dim, int) else 2 for dim in graph.inputs[0].shape or ()]
            feeds = {graph.inputs[0].name: np.random.default_rng(0).standard_normal(shape).astype(np.float32)}
            context.calibration = DataSource.open(feeds).validate(graph)
            Pipeline.parse("calibrate", find_pass).run(graph, context)
        with meter.phase("assign to export"):
            Pipeline.parse(FINISH, find_pass).run(graph, context)
            save(graph, Path(folder) / "quantized.onnx")


def roundtrip(options: argparse.Namespace, meter: Meter) -> dict[str, Any]:
    """Import and export; then whether the weights are the same bytes."""
    with tempfile.TemporaryDirectory(dir=options.model.parent) as folder:
        copy = Path(folder) / "copy.onnx"
        with meter.phase("import and export"):
            save(load(options.model), copy, external=True)
        same = _digest(options.model.with_name(options.model.name + ".data")) == _digest(
            copy.with_name("copy.onnx.data")
        )
    return {"weights_identical": same}


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 24):
            digest.update(chunk)
    return digest.hexdigest()


def main() -> None:
    """Runs one measurement."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("what", choices=["calibrate", "compile", "scale", "roundtrip"])
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--nodes", type=int, default=16000)
    parser.add_argument("--method", default="mse")
    parser.add_argument("--target", default="tensorrt")
    options = parser.parse_args()
    meter = Meter()
    with stdout_to_stderr():
        run = {"calibrate": calibrate, "compile": whole, "scale": scale, "roundtrip": roundtrip}[options.what]
        extra = run(options, meter) or {}
    write_json({"runner": f"qcompiler {options.what}", **extra, **meter.report()})


if __name__ == "__main__":
    main()
