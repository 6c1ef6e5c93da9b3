"""Figures of the Hexagon target beside onnxruntime's own QNN configuration, on the HTP library, as one table.

    python tests/benchmarks/hexagon.py --models DIR [--only NAME ...] [--device sm8550] [--samples N] [--no-peer]
    python tests/benchmarks/hexagon.py --models DIR --widths [--only NAME ...] [--device sm8550]

DIR has a folder per model with an ONNX file, calibration.npz and evaluation.npz. Both get the same calibration samples and run in the
HTP library for the same part; SQNR is that of its outputs against the fp32 model's. With --widths, what 16-bit activations gain in
onnxruntime's arithmetic: none, all, and what the search lifts for some of the way between the two.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray
from usage import cpu_seconds

import qcompiler as qc
from qcompiler.data import DataSource
from qcompiler.evaluation import Evaluation, evaluate_models
from qcompiler.ir.graph import Graph
from qcompiler.ir.onnx_export import save
from qcompiler.ir.onnx_import import load
from qcompiler.metrics import metric_named
from qcompiler.runtime import Session
from qcompiler.targets import find_target
from qcompiler.targets.hexagon.bounds import split_wide_bounds
from qcompiler.targets.hexagon.guards import soc_of
from qcompiler.targets.hexagon.htp import HtpLibrary
from qcompiler.targets.hexagon.lower import fix_batch

NAMES = (
    "resnet8_cifar10", "resnet20_cifar10", "dscnn_kws", "mobilenetv1_vww", "mobilenetv2_imagenet", "autoencoder_ad",
)  # fmt: skip
PEER_SAMPLES = 128
"""Calibration samples of the peer, whose calibrator keeps what it observes."""
PARTS = (0.9, 0.7, 0.5, 0.3)
"""Of the difference between 8 and 16 bits, what may be left."""
METRICS = {"mobilenetv1_vww": "agreement", "autoencoder_ad": "sqnr"}
"""Metrics of models whose labels are none of classes that they tell."""


class OnHtp(Session):
    """An ONNX file that runs in the HTP library."""

    def __init__(self, library: HtpLibrary, file: Path, soc: int) -> None:
        super().__init__(load(file), optimize=False)
        self.library, self.model = library, library.prepare(file, soc)

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        return self.library.run(self.model, feeds)


class Samples:
    """Calibration data as onnxruntime's quantizer reads them."""

    def __init__(self, data: DataSource, count: int) -> None:
        self.batches = self._singles(data, count)

    @staticmethod
    def _singles(data: DataSource, count: int) -> Iterator[dict[str, NDArray[Any]]]:
        for number, feeds in enumerate(data.batches(1)):
            if number == count:
                return
            yield feeds

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        return next(self.batches, None)


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--models", type=Path, required=True)
    arguments.add_argument("--only", nargs="*", default=list(NAMES))
    arguments.add_argument("--device", default="sm8550")
    arguments.add_argument("--samples", type=int, default=0)
    arguments.add_argument("--no-peer", action="store_true")
    arguments.add_argument("--widths", action="store_true")
    given = arguments.parse_args()
    if given.widths:
        for name in given.only:
            widths(given.models / name, given.device)
        return
    print(
        "| model | samples | tool | operators | in floats | metric, fp32 | metric, HTP | SQNR of the HTP | CPU to compile |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    soc = soc_of(find_target(f"hexagon:{given.device}"))
    for name in given.only:
        folder = given.models / name
        (model,) = folder.glob("*.onnx")
        evaluation = DataSource.open(str(folder / "evaluation.npz"))
        data = evaluation.slice(0, given.samples) if given.samples else evaluation
        with tempfile.TemporaryDirectory() as place:
            tools = {"qcompiler": ours} if given.no_peer else {"onnxruntime": peer, "qcompiler": ours}
            for tool, make in tools.items():
                before = cpu_seconds()
                file = make(model, folder, Path(place), given.device)
                seconds = cpu_seconds() - before
                with HtpLibrary() as library:
                    htp = OnHtp(library, file, soc)
                    found = measured(load(model), htp, data, METRICS.get(name))
                    ops = htp.model.graph
                print(_row(name, tool, found, f"{len(ops.ops)} | {len(ops.float_ops)}", seconds), flush=True)


def widths(folder: Path, device: str) -> None:
    """Prints a model in 8 bits, in 16, and with as many activations of 16 as it takes to lose a part of what lies between."""
    found = {bits: _compiled(folder, device, prefer=(f"a{bits}w8", f"a{bits}")) for bits in (8, 16)}
    for bits, result in found.items():
        print(f"| {folder.name} | all in {bits} bits | {_width(result)} |", flush=True)
    errors = {bits: float(result.report["metric"]["reference"]) for bits, result in found.items()}
    for share in PARTS:
        allowed = errors[16] + share * (errors[8] - errors[16])
        result = _compiled(folder, device, max_drop=allowed, minimise="latency", rows=("*w8", "a8", "a16"))
        print(f"| {folder.name} | {share:.0%} of the difference left | {_width(result)} |", flush=True)


def _compiled(folder: Path, device: str, **asked: Any) -> qc.Result:
    (model,) = folder.glob("*.onnx")
    assignment = {name: asked.pop(name) for name in ("prefer", "rows") if name in asked}
    return qc.compile(
        model, f"hexagon:{device}", str(folder / "calibration.npz"), evaluation=str(folder / "evaluation.npz"),
        metric="mse", pass_options={"assign_precision": assignment}, **asked,
    )  # fmt: skip


def _width(result: qc.Result) -> str:
    """How many activations have 16 bits, and the SQNR."""
    stored = result.plan.group_of_value().values()
    wide = sum(group.encoding.format.bits == 16 for group in stored)
    sqnr = result.report["metric"]["against_float"]["reference"]["sqnr_db"]
    return f"{wide} of {len(stored)} in 16 bits | {sqnr:.1f} dB"


def _row(name: str, tool: str, found: Evaluation, ops: str, seconds: float) -> str:
    before, after = found.models["float"], found.models["htp"]
    shown = [f"{found.metric.name} {before.metric:.4f}", f"{after.metric:.4f}", f"{after.sqnr_db:.2f} dB"]
    return f"| {name} | {found.samples} | {tool} | {ops} | {' | '.join(shown)} | {seconds:.1f} s |"


def measured(source: Graph, htp: OnHtp, data: DataSource, metric: str | None) -> Evaluation:
    """The HTP against the fp32 model."""
    return evaluate_models(
        {"float": Session(source), "htp": htp}, data.validate(source), metric_named(metric or "auto")
    )


def ours(model: Path, folder: Path, place: Path, device: str) -> Path:
    """Our model; nothing is verified on the way."""
    result = qc.compile(model, f"hexagon:{device}", str(folder / "calibration.npz"))
    graph = result.graph.copy()
    fix_batch(graph)
    split_wide_bounds(graph)
    (file,) = save(graph, place / "ours.onnx")
    return file


def peer(model: Path, folder: Path, place: Path, device: str) -> Path:
    """What onnxruntime's quantizer makes of it with its configuration for this provider: uint8, int8 weights per channel."""
    from onnxruntime.quantization import QuantType, quantize
    from onnxruntime.quantization.execution_providers.qnn import get_qnn_qdq_config
    from onnxruntime.quantization.shape_inference import quant_pre_process

    graph = load(model)
    calibration = DataSource.open(str(folder / "calibration.npz")).validate(graph)
    fixed = onnx.load(model)
    for value in fixed.graph.input:
        value.type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(fixed, place / "fixed.onnx")
    quant_pre_process(place / "fixed.onnx", place / "prepared.onnx")
    prepared = onnx.load(place / "prepared.onnx")
    del prepared.metadata_props[:]  # the configuration fails on what the step before writes there
    onnx.save(prepared, place / "prepared.onnx")
    config = get_qnn_qdq_config(
        str(place / "prepared.onnx"), Samples(calibration, PEER_SAMPLES),
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, per_channel=True,
    )  # fmt: skip
    quantize(str(place / "prepared.onnx"), str(place / "peer.onnx"), config)
    return place / "peer.onnx"


if __name__ == "__main__":
    main()
