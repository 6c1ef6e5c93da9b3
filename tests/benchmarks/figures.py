"""Every figure that the documentation states, measured side by side with the peers, printed as tables.

    python tests/benchmarks/figures.py --models ../shared/models --peer-python PEER_VENV/bin/python

`--models` is a folder of real models (each with model.onnx, calibration.npz, evaluation.npz); `--peer-python` an interpreter
with NVIDIA Model Optimizer (its rows are left out without one); `--only` picks sections. Machines are noisy: what is
compared runs in turns, each in a process of its own, and the median of the ratios counts.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import qcompiler as qc
from qcompiler.data import DataSource
from qcompiler.evaluation import Evaluation, evaluate_models
from qcompiler.ir.graph import Graph
from qcompiler.ir.onnx_export import save
from qcompiler.ir.onnx_import import load
from qcompiler.runtime import Session

HERE = Path(__file__).parent
IMAGES = {"resnet8_cifar10": 128, "dscnn_kws": 128, "resnet20_cifar10": 128, "mobilenetv2_imagenet": 100}
FLOOR_DB = {
    "resnet8_cifar10": 25.5,
    "dscnn_kws": 27.0,
    "resnet20_cifar10": 27.5,
    "mobilenetv2_imagenet": 27.0,
}
BUILT = ("resnet20_cifar10", "resnet8_cifar10", "dscnn_kws", "mobilenetv1_vww", "mobilenetv2_imagenet")
_BIG_LAYERS, _BIG_WIDTH = 36, 4096  # 2.4 GB of float32

console = Console(width=150)


def runner(script: str, *arguments: str | Path, python: str = sys.executable) -> dict[str, Any]:
    """Runs a measurement in a process of its own and returns its JSON line."""
    command = [python, str(HERE / script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    record: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return record


def measured(source: Graph, models: dict[str, Graph], data: DataSource) -> Evaluation:
    """Models against the source on the evaluation data, quantized ones with the runtime's optimizations off."""
    sessions = {"float": Session(source)} | {
        label: Session(graph, optimize=False) for label, graph in models.items()
    }
    return evaluate_models(sessions, data, None)


def accuracy(options: argparse.Namespace) -> None:
    """SQNR of the output and top-1, against NVIDIA Model Optimizer on the same files."""
    table = Table(
        "model",
        "images",
        "fp32 top-1",
        "peer dB",
        "peer top-1",
        "ours dB",
        "ours top-1",
        "at least",
        title="Accuracy, tensorrt, int8",
    )
    for name, images in IMAGES.items():
        folder = options.models / name
        source = load(folder / "model.onnx")
        calibration = DataSource.open(folder / "calibration.npz").validate(source).slice(0, images)
        models = {"ours": qc.compile(source, "tensorrt", calibration).graph}
        with tempfile.TemporaryDirectory() as scratch:
            if options.peer_python:
                out = Path(scratch) / "peer.onnx"
                arguments = [folder / "model.onnx", folder / "calibration.npz", out, "--samples", str(images)]
                runner("peers/modelopt_int8.py", *arguments, python=options.peer_python)
                models["peer"] = load(out)
            result = measured(source, models, DataSource.open(folder / "evaluation.npz").validate(source))
        row = {
            label: (f"{entry.sqnr_db:.2f}", f"{entry.metric:.2%}") for label, entry in result.models.items()
        }
        table.add_row(
            name,
            str(images),
            row["float"][1],
            *row.get("peer", ("-", "-")),
            *row["ours"],
            f"{FLOOR_DB[name]} dB, drop <= 0.5 %",
        )
    console.print(table)


def built(options: argparse.Namespace) -> None:
    """What NVIDIA's builder makes of the artifact."""
    table = Table(
        "model",
        "consumer",
        "quantized operands",
        "residual adds with int8 shortcut",
        "problems",
        "same as reference",
        title="TensorRT builder",
    )
    for name in BUILT:
        folder = options.models / name
        with tempfile.TemporaryDirectory() as scratch:
            data = DataSource.open(folder / "calibration.npz")
            result = qc.compile(folder / "model.onnx", "tensorrt", data, output=Path(scratch) / "out")
        verify = result.report["verify"]
        details = verify["details"]
        adds = details.get("residual_adds", {})
        narrow = sum(kind == "Int8" for kind in adds.values())
        table.add_row(
            name, f"{verify['consumer']} {verify['version']}", verify["summary"], f"{narrow} of {len(adds)}",
            str(len(verify["problems"])), str(verify["artifact_equals_reference"]),
        )  # fmt: skip
    console.print(table)


def calibration(options: argparse.Namespace) -> None:
    """Calibration against one bare fp32 pass over the same images."""
    folder = options.models / "mobilenetv2_imagenet"
    files = (folder / "model.onnx", folder / "calibration.npz")
    table = Table(
        "method",
        "images",
        "CPU ratio",
        "wall ratio",
        "peak above the pass",
        "at most",
        title="Calibration of mobilenetv2_imagenet, against one fp32 pass",
    )
    for method, images in (("mse", 100), ("percentile", 100), ("entropy", 100), ("mse", 1000)):
        ratios = []
        for _ in range(options.repeats if images == 100 else 1):
            bare = runner("peers/fp32_pass.py", *files, "--samples", str(images), "--repeat")
            ours = runner("ours.py", "calibrate", *files, "--samples", str(images), "--method", method)
            base, mine = bare["phases"]["run"], ours["phases"]["calibrate"]
            ratios.append(
                (
                    mine["cpu_seconds"] / base["cpu_seconds"],
                    mine["wall_seconds"] / base["wall_seconds"],
                    mine["peak_rss_mib"] - base["peak_rss_mib"],
                )
            )
        cpu, wall, memory = (statistics.median(column) for column in zip(*ratios, strict=True))
        table.add_row(method, str(images), f"{cpu:.2f}", f"{wall:.2f}", f"{memory:.0f} MiB", "2, 400 MB")
    console.print(table)


def compilation(options: argparse.Namespace) -> None:
    """Whole compilation against onnxruntime's quantize_static."""
    folder = options.models / "mobilenetv2_imagenet"
    files = (folder / "model.onnx", folder / "calibration.npz")
    table = Table("", "CPU seconds", "peak MiB", title="Compilation of mobilenetv2_imagenet, 100 images")
    ratios = []
    for _ in range(options.repeats):
        with tempfile.TemporaryDirectory() as scratch:
            theirs = runner(
                "peers/ort_static.py",
                *files,
                Path(scratch) / "out.onnx",
                "--samples",
                "100",
                "--method",
                "percentile",
            )
        ours = runner("ours.py", "compile", *files, "--samples", "100")
        ratios.append(
            (
                ours["total"]["cpu_seconds"],
                theirs["total"]["cpu_seconds"],
                ours["process"]["peak_rss_mib"],
                theirs["process"]["peak_rss_mib"],
            )
        )
    mine, peer, memory, peer_memory = (statistics.median(column) for column in zip(*ratios, strict=True))
    table.add_row("qcompiler", f"{mine:.1f}", f"{memory:.0f}")
    table.add_row("onnxruntime, percentile", f"{peer:.1f}", f"{peer_memory:.0f}")
    table.add_row("ratio (at most 0.5)", f"{mine / peer:.2f}", f"{memory / peer_memory:.2f}")
    console.print(table)


def scaling(options: argparse.Namespace) -> None:
    """Graph passes on generated residual networks."""
    table = Table(
        "nodes",
        "import to fuse",
        "assign to export",
        "sum",
        title="Residual networks: import, canonicalize, fold, fuse, insert_qdq, export (calibration apart)",
    )
    totals = []
    for nodes in (4000, 16000):
        phases = runner("ours.py", "scale", "--nodes", str(nodes))["phases"]
        first, second = phases["import to fuse"]["wall_seconds"], phases["assign to export"]["wall_seconds"]
        totals.append(first + second)
        table.add_row(str(nodes), f"{first:.2f} s", f"{second:.2f} s", f"{first + second:.2f} s")
    table.add_row("ratio (at most 5), 16,000 in at most 10 s", "", "", f"{totals[1] / totals[0]:.2f}")
    console.print(table)


def big(options: argparse.Namespace) -> None:
    """A 2.4 GB model in and out."""
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        path = Path(scratch) / "big.onnx"
        save(_big_network(), path, external=True)
        record = runner("ours.py", "roundtrip", path)
        size = path.with_name("big.onnx.data").stat().st_size
    phase = record["phases"]["import and export"]
    table = Table(
        "weights",
        "seconds",
        "peak MiB (at most 1,000)",
        "weights identical",
        title="A model beyond 2 GB, in and out",
    )
    table.add_row(
        f"{size / 1e9:.2f} GB",
        f"{phase['wall_seconds']:.1f}",
        f"{phase['peak_rss_mib']:.0f}",
        str(record["weights_identical"]),
    )
    console.print(table)


def _big_network() -> Graph:
    graph = Graph("big")
    value = graph.add_input("x", np.float32, ("batch", _BIG_WIDTH))
    rng = np.random.default_rng(0)
    for layer in range(_BIG_LAYERS):
        weight = graph.add_constant(f"weight{layer}", rng.random((_BIG_WIDTH, _BIG_WIDTH), np.float32))
        output = graph.add_value(f"y{layer}", np.float32, ("batch", _BIG_WIDTH))
        value = graph.add_node("MatMul", [value, weight], [output], name=f"matmul{layer}").output
    graph.set_outputs([value])
    return graph


SECTIONS: dict[str, Callable[[argparse.Namespace], None]] = {
    "accuracy": accuracy,
    "built": built,
    "calibration": calibration,
    "compilation": compilation,
    "scaling": scaling,
    "big": big,
}


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--models", type=Path, default=HERE.parents[2] / "shared" / "models")
    parser.add_argument("--peer-python", default="")
    parser.add_argument("--only", nargs="*", choices=list(SECTIONS), default=list(SECTIONS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--scratch", type=Path, default=None, help="folder with 5 GB free")
    options = parser.parse_args()
    for name in options.only:
        SECTIONS[name](options)


if __name__ == "__main__":
    main()
