"""Figures of the Cortex-M target, as one table: bytes, arena, instructions, accuracy, time to compile.

    python tests/benchmarks/cortex_m.py --models DIR [--library CMSIS_NN] [--only NAME ...] [--vectors 64]

DIR has a folder per model with an ONNX file, calibration.npz and evaluation.npz. Emulated cores need arm-none-eabi-gcc and
qemu-system-arm; with a checkout of CMSIS-NN its kernels are compared besides the portable ones. Instructions are those of the
emulator, one inference; asked are those of a static build of the library for networks of the same shapes.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from usage import cpu_seconds

import qcompiler as qc
from qcompiler.integer.evaluate import Executor
from qcompiler.targets import find_target
from qcompiler.targets.cmsis_nn import emulator
from qcompiler.targets.cmsis_nn.boards import BOARDS
from qcompiler.targets.cmsis_nn.lower import program_of, recorded
from qcompiler.targets.cmsis_nn.project import vectors_file
from qcompiler.targets.cmsis_nn.verify import emulate

CORES = ("cortex-m3", "cortex-m4", "cortex-m55")


@dataclass(frozen=True)
class Asked:
    """What is asked of a model: bytes of the arena, and with row slices; millions of instructions by core."""

    arena: int | None = None
    sliced: int | None = None
    instructions: tuple[float, ...] = ()


ASKED = {
    "resnet8_cifar10": Asked(49152, 36000, (41.75, 29.73, 4.81)),
    "dscnn_kws": Asked(16000, 10500, (10.54, 7.68, 1.78)),
    "mobilenetv1_vww": Asked(55300, None, (32.07, 24.22, 6.42)),
    "autoencoder_ad": Asked(768, None, (0.953, 0.579, 0.147)),
    "resnet20_cifar10": Asked(),
    "mobilenetv2_imagenet": Asked(),
}


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--models", type=Path, required=True)
    arguments.add_argument("--library", type=Path)
    arguments.add_argument("--only", nargs="*", default=list(ASKED))
    arguments.add_argument("--vectors", type=int, default=64)
    given = arguments.parse_args()
    print("| model | what | measured | asked |\n|---|---|---|---|")
    for name in given.only:
        for what, measured, asked in figures(
            given.models / name, ASKED.get(name, Asked()), given.library, given.vectors
        ):
            print(f"| {name} | {what} | {measured} | {asked} |", flush=True)


def figures(folder: Path, asked: Asked, library: Path | None, vectors: int) -> Iterator[tuple[str, str, str]]:
    """What is measured of a model, line by line."""
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        before = cpu_seconds()
        result = compiled(folder, scratch / "m4", "cortex-m4")
        yield (
            "CPU seconds to compile, verified on this machine and for a few vectors on an M4",
            f"{cpu_seconds() - before:.1f}",
            "20 s",
        )
        yield from _accuracy(result.report["metric"])
        for where, found in result.report["verify"]["details"].items():
            if where.startswith("host"):
                yield f"differences, {where}", f"{found['differences']} on {found['samples']} samples", "0"
        arena = result.report["artifact"]["details"]["arena"]
        text = f"{arena['bytes']:,} (no less than {arena['lower_bound']:,}; {arena['extra_calls']} more calls; unsliced {arena['unsliced']:,})"
        yield "arena, bytes", text, f"{asked.arena:,}" if asked.arena else "-"
        yield "constants, bytes", f"{result.report['size_bytes']['compiled']:,}", "-"
        if emulator.missing_tools():
            yield "emulated cores", f"missing: {', '.join(emulator.missing_tools())}", "-"
            return
        yield from _emulated(folder, scratch, asked, library, vectors)
        if asked.sliced is not None:
            less = compiled(folder, scratch / "less", "cortex-m4", max_ram=asked.sliced)
            arena = less.report["artifact"]["details"]["arena"]
            counted = _run(less, scratch / "less", "cortex-m4", library, 2, scratch)
            text = f"{arena['bytes']:,} in {arena['extra_calls']} more calls; {counted['instructions']:,} instructions, {counted['differences']} differences"
            yield f"arena with --max-ram {asked.sliced}", text, f"{asked.sliced:,}"


def _accuracy(metric: Any) -> Iterator[tuple[str, str, str]]:
    kept = metric["against_float"]["artifact"]
    text = f"{metric['float']:.4f}, in integers {metric['artifact']:.4f}" if metric["name"] != "sqnr" else ""
    relative = 10 ** (-kept["sqnr_db"] / 20)
    yield (
        f"{metric['name']} in float",
        f"{text} {kept['sqnr_db']:.1f} dB, relative error {relative:.4f}",
        "0.5 points, or 0.02",
    )


def _emulated(
    folder: Path, scratch: Path, asked: Asked, library: Path | None, vectors: int
) -> Iterator[tuple[str, str, str]]:
    for place, core in enumerate(CORES):
        made = scratch / core
        result = compiled(folder, made, core)
        for label, path in (
            ("portable kernels", None),
            *([("CMSIS-NN", library)] if library is not None else []),
        ):
            counted = _run(result, made, core, path, vectors, scratch)
            text = f"{counted['differences']} differences on {counted['vectors']} vectors, {counted['instructions']:,} instructions"
            limit = (
                f"0, {asked.instructions[place]:g} million"
                if path is not None and asked.instructions
                else "0"
            )
            yield f"{core}, {label}", text, limit
        arena = result.report["artifact"]["details"]["arena"]["bytes"]
        yield f"{core}, arena", f"{arena:,}", "-"


def _run(
    result: qc.Result, folder: Path, core: str, library: Path | None, vectors: int, scratch: Path
) -> dict[str, int]:
    program = program_of(result.graph, result.plan, find_target(f"cmsis-nn:{core}"))
    source = qc.DataSource.open(str(_DATA[folder]))
    data = source.validate(result.graph)
    return emulate(
        folder, BOARDS[core], vectors_file(recorded(Executor(program), data, vectors)), scratch, library
    )


_DATA: dict[Path, Path] = {}


def compiled(folder: Path, output: Path, core: str, **options: Any) -> qc.Result:
    """A model, compiled for a core."""
    (model,) = folder.glob("*.onnx")
    _DATA[output] = folder / "evaluation.npz"
    return qc.compile(
        model,
        f"cmsis-nn:{core}",
        str(folder / "calibration.npz"),
        evaluation=str(folder / "evaluation.npz"),
        output=output,
        **options,
    )


if __name__ == "__main__":
    main()
