"""Figures of the Core ML target, as one table: bytes, agreement of the package with the reference, accuracy, time to compile.

    python tests/benchmarks/core_ml.py --models DIR [--only NAME ...] [--targets core-ml:ios17 ...] [--rows w8a8 ...] [--floats float32 ...]

DIR has a folder per model with an ONNX file, calibration.npz and evaluation.npz. Packages are read back from disk and evaluated in numpy.
Rows are preferred ones, several with +: g4+t4 is g4 where it is legal, and t4 elsewhere. With `--weight-bits X`, they compete for X bits per
weight on average instead; a name may stand for several, `t[468]` for three. With `--prune`, half of the weights are 0.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from usage import cpu_seconds

import qcompiler as qc

MODELS = (
    "resnet8_cifar10",
    "dscnn_kws",
    "mobilenetv1_vww",
    "autoencoder_ad",
    "resnet20_cifar10",
    "mobilenetv2_imagenet",
)
CODES = {"float32": "0.1 %, 1 step", "float16": "6 %, 1 step"}
SIZES = {"w8a8": "0.27", "w8": "0.27", "t4": "0.15", "t[468]": "0.15"}  # of mobilenetv2_imagenet


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--models", type=Path, required=True)
    arguments.add_argument("--only", nargs="*", default=list(MODELS))
    arguments.add_argument("--targets", nargs="*", default=["core-ml:ios17", "core-ml:ios18"])
    arguments.add_argument("--rows", nargs="*", default=["w8a8", "w8"])
    arguments.add_argument("--floats", nargs="*", default=["float32", "float16"])
    arguments.add_argument("--plain", action="store_true", help="weights rounded to nearest")
    arguments.add_argument("--weight-bits", type=float, help="rows compete for so many bits per weight")
    arguments.add_argument("--prune", action="store_true", help="half of the weights are 0")
    given = arguments.parse_args()
    common = Common(given.weight_bits, ("prune_weights",) if given.prune else (), plain=given.plain)
    print("| model | target | rows | floats | what | measured | asked |\n|---|---|---|---|---|---|---|")
    for name in given.only:
        for target in given.targets:
            for row in given.rows:
                for floats in given.floats:
                    for what, measured, asked in figures(given.models / name, target, row, floats, common):
                        print(
                            f"| {name} | {target} | {row} | {floats} | {what} | {measured} | {asked} |",
                            flush=True,
                        )


class Common(NamedTuple):
    """What all lines have in common."""

    weight_bits: float | None
    passes: tuple[str, ...]
    plain: bool


def figures(
    folder: Path, target: str, row: str, floats: str, common: Common
) -> Iterator[tuple[str, str, str]]:
    """What is measured of a model, line by line."""
    with tempfile.TemporaryDirectory() as name:
        output, before = Path(name) / "out", cpu_seconds()
        (model,) = folder.glob("*.onnx")
        options = {
            "assign_precision": {"prefer" if common.weight_bits is None else "rows": tuple(row.split("+"))},
            **({"round_weights": {"bits": 1}} if common.plain else {}),
        }
        result = qc.compile(
            model, target, str(folder / "calibration.npz"), evaluation=str(folder / "evaluation.npz"), output=output,
            pass_options=options, float_format=floats, passes=list(common.passes), weight_bits=common.weight_bits,
        )  # fmt: skip
        seconds = {entry["name"]: entry["seconds"] for entry in result.report["passes"]}
        yield "CPU seconds, evaluation included", f"{cpu_seconds() - before:.1f}", "-"
        yield "seconds of passes", f"{sum(seconds.values()):.1f}", "-"
    size, parameters = result.report["size_bytes"]["compiled"], result.report["model"]["parameters"]
    yield (
        "bytes, and of those of float32 weights",
        f"{size:,}, {size / (4 * parameters):.3f}",
        SIZES.get(row, "-"),
    )
    metric = result.report["metric"]
    kept = metric["against_float"]
    yield (
        f"{metric['name']}: float, reference, package",
        f"{metric['float']:.4f}, {metric['reference']:.4f}, {metric['artifact']:.4f}",
        "package within 0.003 of the reference",
    )
    yield (
        "SQNR of reference, package",
        f"{kept['reference']['sqnr_db']:.2f}, {kept['artifact']['sqnr_db']:.2f} dB",
        "-",
    )
    assert result.verification is not None
    details = result.verification.details
    codes = details["codes"]
    share = codes["differ"] / max(codes["elements"], 1)
    yield (
        f"codes that differ, of {codes['tensors']} tensors of {codes['samples']} samples",
        f"{share:.4%} of {codes['elements']:,}, {codes['beyond']} by more than one step",
        CODES[floats],
    )
    yield (
        f"cosine of outputs, {details['samples']} samples",
        f"{details['cosine']:.7f}",
        "0.9999" if floats == "float32" else "-",
    )
    yield "operators kept in float32", str(len(result.report["artifact"]["details"]["float32"])), "-"


if __name__ == "__main__":
    main()
