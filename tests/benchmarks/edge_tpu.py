"""Figures of the Edge TPU target, as one table: operators mapped, bytes, accuracy, differences from LiteRT, time to compile.

    python tests/benchmarks/edge_tpu.py --models DIR [--only NAME ...] [--tensors 50] [--samples N] [--target edge-tpu]

DIR has a folder per model with an ONNX file, calibration.npz and evaluation.npz. Every tensor of `--tensors` samples, and the outputs of
all others (or of `--samples`), are compared with LiteRT's reference kernels, which are slow: mobilenetv2 takes minutes.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from usage import cpu_seconds

import qcompiler as qc
from qcompiler.integer.evaluate import Executor, quantize_inputs
from qcompiler.integer.session import samples_each
from qcompiler.targets import find_target
from qcompiler.targets.edge_tpu.comparison import ByDefault, ByReference
from qcompiler.targets.edge_tpu.flatbuffer import read
from qcompiler.targets.edge_tpu.lower import MODEL, program_of
from qcompiler.targets.edge_tpu.model import Model
from qcompiler.targets.edge_tpu.partition import partition

ASKED = {
    "resnet8_cifar10": "0.7615, the reference int8 file",
    "dscnn_kws": "0.8988, the reference int8 file",
    "mobilenetv1_vww": "0.5 points",
    "autoencoder_ad": "-",
    "resnet20_cifar10": "0.5 points",
    "mobilenetv2_imagenet": "0.8975, the int8 file",
}


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--models", type=Path, required=True)
    arguments.add_argument("--only", nargs="*", default=list(ASKED))
    arguments.add_argument("--tensors", type=int, default=50)
    arguments.add_argument("--samples", type=int, default=1 << 30)
    arguments.add_argument("--target", default="edge-tpu")
    given = arguments.parse_args()
    print("| model | what | measured | asked |\n|---|---|---|---|")
    for name in given.only:
        for what, measured, asked in figures(given.models / name, given.target, given.tensors, given.samples):
            print(f"| {name} | {what} | {measured} | {asked} |", flush=True)


def figures(folder: Path, target: str, tensors: int, samples: int) -> Iterator[tuple[str, str, str]]:
    """What is measured of a model, line by line."""
    with tempfile.TemporaryDirectory() as name:
        output, before = Path(name) / "out", cpu_seconds()
        (model,) = folder.glob("*.onnx")
        result = qc.compile(
            model,
            target,
            str(folder / "calibration.npz"),
            evaluation=str(folder / "evaluation.npz"),
            output=output,
        )
        yield "CPU seconds to compile, verified", f"{cpu_seconds() - before:.1f}", "40 s"
        yield from _accuracy(result.report["metric"], ASKED.get(folder.name, "-"))
        data = (output / MODEL).read_bytes()
        file = read(data)
        yield "bytes", _bytes(file, len(data)), "3 %"
        yield "partition", partition(file).summary, "all"
        program = program_of(result.graph, result.plan, find_target(target))
        source = qc.DataSource.open(str(folder / "evaluation.npz")).validate(result.graph)

        executor = Executor(program)
        reference, default = ByReference(data, executor, samples, tensors), ByDefault(data, program)
        for feeds in source.batches(16 * samples_each(program)):
            inputs = quantize_inputs(program, feeds)
            expected = executor.run(inputs, reference.keep)
            reference.add(inputs, expected)
            default.add(inputs, expected)
        found, other = reference.tally, default.tally
        text = f"{found.differences} of {found.elements:,} elements, {found.samples} samples"
        yield f"differences from the reference kernels, every tensor of {tensors} samples", text, "0"
        text = f"{other.mean:.3f} codes on average, {other.largest} at most; the same answer for {default.gap.agreeing} of {other.samples}"
        yield "differences of the default kernels", text, "-"


def _bytes(file: Model, size: int) -> str:
    """Bytes of the file, and what is added to weights, biases and their scales and zero points."""
    constants = [
        tensor for tensor in file.tensors if tensor.data is not None and tensor.quantization is not None
    ]
    needed = sum(
        tensor.elements * {"INT4": 0.5, "INT8": 1, "INT16": 2, "INT32": 4, "INT64": 8}[tensor.type]
        for tensor in constants
    )
    scales = sum(tensor.quantization.scale.nbytes for tensor in constants if tensor.quantization is not None)
    zeros = sum(
        tensor.quantization.zero_point.nbytes for tensor in constants if tensor.quantization is not None
    )
    return f"{size:,}: {100 * (size / (needed + scales + zeros) - 1):+.1f} % over codes, scales and zero points ({needed + scales + zeros:,.0f})"


def _accuracy(metric: Any, asked: str) -> Iterator[tuple[str, str, str]]:
    kept = metric["against_float"]["artifact"]
    text = (
        f"{metric['float']:.4f} in float, {metric['artifact']:.4f} in integers, "
        if metric["name"] != "sqnr"
        else ""
    )
    yield metric["name"], f"{text}{kept['sqnr_db']:.1f} dB", asked


if __name__ == "__main__":
    main()
