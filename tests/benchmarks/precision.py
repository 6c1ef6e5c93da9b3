"""Every figure about choosing precision, measured and held against what is asked, as markdown tables.

    python tests/benchmarks/precision.py --models ../shared/models

`--models` is a folder of real models (each with model.onnx, calibration.npz, evaluation.npz); `--only` and `--model` pick
sections and models; `--settings` picks or adds uniform settings of the section accuracy. Whatever is measured runs in a process
of its own, on at most two threads and without the cache of sensitivities; CPU seconds are those of all its threads. Rows appear
as they are measured, and a row that fails does not stop the others. The peers' figures are constants of this
file; `--log` appends every raw record to a file. All of it takes 45 minutes of CPU, half of them for ranking (`--plans` draws
fewer assignments) and some for brute force (`--forms` tries fewer forms, `--keep` keeps what was found).
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from scipy.stats import spearmanr

HERE = Path(__file__).parent
RESNET8, DSCNN = "resnet8_cifar10", "dscnn_kws"
RESNET20, MOBILENET = "resnet20_cifar10", "mobilenetv2_imagenet"
MODELS = (RESNET8, DSCNN, RESNET20, MOBILENET)
SETTINGS = {  # rows to prefer; no legal row reads the graph's input in 4 bits
    **{name: name for name in ("w8a8", "w6a8", "w4a8", "w3a8", "w2a8")},
    "w4a4": "w4a4+w4a8",
}
NEAREST = {"round_weights": {"bits": 1}}
"""No weights of so few bits: round_weights leaves all layers as they are."""


class Figures(NamedTuple):
    """What is asked of a row, or what a peer reaches; None where nothing is said.

    Attributes:
        top1: Percent, at least.
        sqnr: dB, at least.
        cpu: Seconds of compiling, at most.
        peer: Who.
    """

    top1: float | None = None
    sqnr: float | None = None
    cpu: float | None = None
    peer: str = ""

    def __str__(self) -> str:
        parts = [
            text.format(value)
            for text, value in (("{:g} %", self.top1), ("{:g} dB", self.sqnr), ("{:g} s", self.cpu))
            if value is not None
        ]
        return f"{self.peer} {', '.join(parts) or '-'}".strip()


UNIFORM: dict[str, dict[str, tuple[Figures, Figures]]] = {
    RESNET8: {
        "w8a8": (Figures(sqnr=31), Figures(sqnr=24.5, peer="best of peers")),
        "w4a8": (Figures(75.2, 16), Figures(74.0, 10.6, peer="AIMET")),
        "w3a8": (Figures(71.5), Figures()),
        "w4a4": (Figures(74.2), Figures(39.5, peer="AIMET")),
    },
    DSCNN: {
        "w8a8": (Figures(sqnr=31.5), Figures(sqnr=30.1, peer="Quark")),
        "w4a8": (Figures(91.0, 23.5), Figures(91.1, 20.8, peer="AIMET")),
        "w3a8": (Figures(90.0), Figures()),
        "w4a4": (Figures(89.2), Figures(8.8, peer="best of peers")),
    },
    RESNET20: {
        "w8a8": (Figures(sqnr=32), Figures(sqnr=27.6, peer="AIMET")),
        "w4a8": (Figures(81.1, 21.5, 15), Figures(81.45, 17.8, 90, "AIMET")),
        "w2a8": (Figures(77.5), Figures(9.6, peer="nearest")),
        "w4a4": (Figures(80.2), Figures(60.2, peer="AIMET")),
    },
    MOBILENET: {
        "w8a8": (Figures(sqnr=29.5), Figures(sqnr=28.6, peer="onnxruntime")),
        "w6a8": (Figures(89.0), Figures(59.0, peer="AIMET")),
        "w4a8": (Figures(84.0), Figures(21.8, cpu=69, peer="AIMET")),
    },
}
MIXED: dict[str, dict[int, tuple[Figures, str]]] = {
    RESNET8: {5: (Figures(sqnr=19), "MCT 15.3 dB, AIMET 10.2 dB")},
    RESNET20: {5: (Figures(sqnr=24), "MCT 18.6 dB"), 4: (Figures(sqnr=22), "MCT 10.8 dB")},
    MOBILENET: {
        5: (Figures(89.2, 20, 60), "MCT 88.75 %, 16.5 dB, 150 s"),
        4: (Figures(87.8, None, 60), "MCT 86.5 %, 150 s"),
    },
}
ABOVE_UNIFORM = {RESNET20: {4: "w4a8"}}
"""Mixed settings that have to be better than a uniform one that is no smaller."""


@dataclass
class Table:
    """A markdown table whose rows are printed as they come."""

    header: str

    def __post_init__(self) -> None:
        self.width = self.header.count("|") + 1
        say(f"| {self.header} |")
        say("|" + "---|" * self.width)

    def row(self, *cells: object) -> None:
        """Prints a row."""
        say("| " + " | ".join(map(str, cells)) + " |")

    def fails(self, *cells: object, error: Exception) -> None:
        """Prints that a row could not be measured."""
        missing = self.width - len(cells) - 1
        self.row(*cells, *["-"] * missing, f"failed: {' '.join(str(error).split())[-300:]}".replace("|", "/"))


def say(text: str = "") -> None:
    print(text, flush=True)


def measure(options: argparse.Namespace, *arguments: object, script: str = "precision_runner.py") -> Any:
    """Runs a measurement in a process of its own and returns its record."""
    command = [sys.executable, str(HERE / script), *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "QCOMPILER_CACHE": "off"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise RuntimeError(done.stderr.strip()[-2000:] or f"exit {done.returncode}")
    record = json.loads(done.stdout.strip().splitlines()[-1])
    if options.log is not None:
        with options.log.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"arguments": list(map(str, arguments)), **record}) + "\n")
    return record


def compiled(options: argparse.Namespace, name: str, given: dict[str, Any]) -> Any:
    return measure(options, "compile", options.models / name, "--options", json.dumps(given))


def verdict(checks: Iterable[tuple[str, float, str, float | None]]) -> str:
    """Tells "met", or what is missed, of (what, measured, ">=" or "<=", asked); an empty text where nothing is asked."""
    asked = [check for check in checks if check[3] is not None]
    missed = [
        f"{what} {got:.4g} {'<' if sign == '>=' else '>'} {limit:g}"
        for what, got, sign, limit in asked
        if limit is not None and not (got >= limit - 1e-9 if sign == ">=" else got <= limit + 1e-9)
    ]
    if not asked:
        return ""
    return f"missed: {', '.join(missed)}" if missed else "met"


def judged(asked: Figures, record: Any) -> str:
    return verdict(
        [
            ("top-1", 100 * record["ours"], ">=", asked.top1),
            ("dB", record["sqnr_db"], ">=", asked.sqnr),
            ("CPU s", record["compile_cpu"], "<=", asked.cpu),
        ]
    )


def chosen(options: argparse.Namespace, names: Iterable[str]) -> list[str]:
    return [name for name in names if name in options.model]


# -- sections ------------------------------------------------------------------------------------------------


def accuracy(options: argparse.Namespace) -> None:
    """One precision everywhere, with refinement and with rounding to nearest (biases are corrected in both)."""
    table = Table(
        "model | setting | fp32 top-1 | nearest | ours | compile CPU s | of it passes | peak MiB | "
        "best peer | asked | verdict"
    )
    for name in chosen(options, UNIFORM):
        for setting in options.settings or UNIFORM[name]:
            asked, peer = UNIFORM[name].get(setting, (Figures(), Figures()))
            uniform = {"assign_precision": {"prefer": SETTINGS[setting]}}
            try:
                ours = compiled(options, name, {"pass_options": uniform})
                nearest = compiled(options, name, {"pass_options": uniform | NEAREST})
            except RuntimeError as error:
                table.fails(name, setting, error=error)
                continue
            table.row(
                name, setting, f"{ours['float']:.2%}",
                *(f"{item['ours']:.2%}, {item['sqnr_db']:.2f} dB" for item in (nearest, ours)),
                f"{ours['compile_cpu']:.1f}", f"{ours['passes_cpu']:.1f}", f"{ours['peak_mib']:.0f}",
                peer, asked, judged(asked, ours),
            )  # fmt: skip


def mixed(options: argparse.Namespace) -> None:
    """Precision per layer under a budget of bits per weight, activations of 8 bits."""
    table = Table(
        "model | bits asked | bits | bytes | proven | top-1 | dB | compile CPU s | of it passes | "
        "peers | asked | verdict"
    )
    for name in chosen(options, MIXED):
        for bits, (asked, peers) in MIXED[name].items():
            given = {"weight_bits": bits, "pass_options": {"assign_precision": {"rows": "*a8"}}}
            rival = ABOVE_UNIFORM.get(name, {}).get(bits)
            try:
                ours = compiled(options, name, given)
                uniform = None
                if rival is not None:
                    setting = {"assign_precision": {"prefer": SETTINGS[rival]}}
                    uniform = compiled(options, name, {"pass_options": setting})
            except RuntimeError as error:
                table.fails(name, bits, error=error)
                continue
            text, told = str(asked), judged(asked, ours)
            if uniform is not None:
                text += f", above uniform {rival}, no larger"
                above = [
                    (f"dB against uniform {rival}", ours["sqnr_db"], ">=", uniform["sqnr_db"]),
                    (f"bytes against uniform {rival}", ours["bytes"], "<=", uniform["bytes"]),
                ]
                told = "; ".join(dict.fromkeys((told, verdict(above))))
            table.row(
                name, bits, f"{ours['weight_bits']:.3f}", ours["bytes"], ours["optimal"],
                *_measured(ours), peers, text, told,
            )  # fmt: skip
            if uniform is not None:
                table.row(
                    name, f"uniform {rival}", "-", uniform["bytes"], "-", *_measured(uniform), "-", "-", ""
                )


def _measured(record: Any) -> list[str]:
    return [
        f"{record['ours']:.2%}",
        f"{record['sqnr_db']:.2f}",
        f"{record['compile_cpu']:.1f}",
        f"{record['passes_cpu']:.1f}",
    ]


def sensitivity(options: argparse.Namespace) -> None:
    """The pass sensitivity: its time in passes of the float model, and its ranks against brute force on all samples."""
    table = Table(
        "model | samples | of them run | fp32 pass CPU s | the pass CPU s | passes | "
        "1-thread passes | Spearman weights (forms) | Spearman activations (forms) | asked | verdict"
    )
    extra = ["--forms", options.forms, *(["--keep", options.keep] if options.keep is not None else [])]
    for name in chosen(options, options.explicit or (RESNET20, MOBILENET)):
        try:
            found = measure(options, "sensitivity", options.models / name, *extra)
        except RuntimeError as error:
            table.fails(name, error=error)
            continue
        passes = found["pass_cpu"] / found["float_cpu"]
        checks = [
            ("passes", passes, "<=", 5.0),
            ("weights", found["weights"], ">=", 0.97),
            ("activations", found["activations"], ">=", 0.95),
        ]
        table.row(
            name, found["samples"], found["run_samples"], f"{found['float_cpu']:.2f}",
            f"{found['pass_cpu']:.2f}", f"{passes:.2f}", f"{found['pass_cpu'] / found['float_cpu_single']:.2f}",
            *(f"{found[kind]:.3f} ({found[f'{kind}_forms']})" for kind in ("weights", "activations")),
            "5 passes, 0.97, 0.95", verdict(checks),
        )  # fmt: skip


def ranking(options: argparse.Namespace) -> None:
    """Predicted losses of random assignments against the measured normalised output error of the compiled model.

    "average": an average of weight bits is drawn from 3 to 8, then rows that have it, activations of 4, 8 and 16 bits alike;
    measured refined, as users get it, and with weights rounded to nearest. "rows": any legal row per region, all equally
    likely; rounded to nearest. Where losses are divergences, Spearman with the measured divergence is shown too, in brackets.
    So many images are refined on, and so many evaluated: of MobileNetV2 few, because refining it 30 times takes long.
    """
    table = Table(
        "model | draw | assignments | images | prediction | predicted | measured, nearest | measured, refined | "
        "Spearman, nearest | Spearman, refined | asked | verdict"
    )
    for name in chosen(options, options.explicit or (RESNET20, RESNET8, DSCNN, MOBILENET)):
        images = options.images if options.images is not None else (32 if name == MOBILENET else 400)
        for draw, finish in (("average", ("nearest", "refined")), ("rows", ("nearest",))):
            extra = ["--plans", options.plans, "--seed", options.seed, "--images", images]
            extra += ["--draw", draw, "--finish", *finish]
            try:
                found = measure(options, "ranking", options.models / name, *extra)
            except RuntimeError as error:
                table.fails(name, draw, error=error)
                continue
            columns = {key: [row[key] for row in found["rows"]] for key in found["rows"][0]}
            ranks = {
                key: float(spearmanr(columns["predicted"], columns[key]).statistic)
                for key in columns
                if key != "predicted"
            }
            also = {
                key: f" ({ranks[f'{key}_metric']:.3f})" if found["measure"] == "kl" else "" for key in finish
            }
            table.row(
                name, draw, found["plans"], found["images"], found["measure"], _span(columns["predicted"]),
                *(_span(columns[key]) if key in finish else "-" for key in ("nearest", "refined")),
                *(f"{ranks[key]:.3f}{also[key]}" if key in finish else "-" for key in ("nearest", "refined")),
                "0.9", verdict([(key, ranks[key], ">=", 0.9) for key in finish]),
            )  # fmt: skip


def _span(values: list[float]) -> str:
    return f"{min(values):.2g} to {max(values):.2g}, median {statistics.median(values):.2g}"


def solver(options: argparse.Namespace) -> None:
    """Selection of rows to proven optimality: 2,000 regions of 8 rows, sizes limited, and sizes and latencies."""
    table = Table("regions | limits | seed | CPU s | explaining s | gap | proven | asked | verdict")
    for latency in (False, True):
        for seed in range(options.solver_seeds):
            limits = "size, latency" if latency else "size"
            extra = ["--regions", 2000, "--seed", seed, *(["--latency"] if latency else [])]
            try:
                found = measure(options, "solver", *extra)
            except RuntimeError as error:
                table.fails(2000, limits, seed, error=error)
                continue
            checks = [("CPU s", found["cpu"], "<=", 20.0), ("proven", float(found["optimal"]), ">=", 1.0)]
            table.row(
                2000, limits, seed, f"{found['cpu']:.2f}", f"{found['explain']:.2f}", f"{found['gap']:.1e}",
                bool(found["optimal"]), "20 s, proven", verdict(checks),
            )  # fmt: skip


def rounding(options: argparse.Namespace) -> None:
    """The pass round_weights alone, w4a8, 100 images; beside it one pass of the float model over them."""
    table = Table(
        "model | images | layers | the pass CPU s | wall s | peak MiB | before it | "
        "fp32 pass CPU s | passes | asked | verdict"
    )
    for name in chosen(options, options.explicit or (MOBILENET,)):
        folder = options.models / name
        files = (folder / "model.onnx", folder / "calibration.npz")
        try:
            found = measure(options, "rounding", folder, "--images", 100)
            bare = measure(options, *files, "--samples", found["images"], script="peers/fp32_pass.py")
        except RuntimeError as error:
            table.fails(name, error=error)
            continue
        base = bare["phases"]["run"]["cpu_seconds"]
        checks = [
            ("CPU s", found["pass_cpu"], "<=", 60.0),
            ("peak GB", found["peak_mib"] * 2**20 / 1e9, "<=", 1.5),
        ]
        table.row(
            name, found["images"], found["counts"].get("rounded layers", 0), f"{found['pass_cpu']:.1f}",
            f"{found['pass_wall']:.1f}", f"{found['peak_mib']:.0f}", f"{found['peak_before_mib']:.0f}",
            f"{base:.2f}", f"{found['pass_cpu'] / base:.1f}", "60 s, 1.5 GB", verdict(checks),
        )  # fmt: skip


def compilation(options: argparse.Namespace) -> None:
    """The smallest model within half a point of top-1, all calibration images, measuring included."""
    table = Table(
        "model | trials | CPU s | wall s | peak MiB | bits per weight | bytes | fp32 top-1 | top-1 | "
        "drop, points | asked | verdict"
    )
    for name in chosen(options, options.explicit or (RESNET20,)):
        try:
            found = compiled(options, name, {"max_drop": 0.005})
        except RuntimeError as error:
            table.fails(name, error=error)
            continue
        checks = [("CPU s", found["compile_cpu"], "<=", 180.0), ("drop", 100 * found["drop"], "<=", 0.5)]
        table.row(
            name, found["trials"], f"{found['compile_cpu']:.1f}", f"{found['compile_wall']:.1f}",
            f"{found['peak_mib']:.0f}", f"{found['weight_bits']:.3f}", found["bytes"],
            f"{found['float']:.2%}", f"{found['ours']:.2%}", f"{100 * found['drop']:.2f}",
            "180 s, 0.5 points", verdict(checks),
        )  # fmt: skip


SECTIONS: dict[str, Callable[[argparse.Namespace], None]] = {
    "accuracy": accuracy,
    "mixed": mixed,
    "sensitivity": sensitivity,
    "ranking": ranking,
    "solver": solver,
    "rounding": rounding,
    "compile": compilation,
}


def machine() -> str:
    """What it is measured on."""
    processor = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        processor = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    git = subprocess.run(
        ["git", "-C", str(HERE), "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
        check=False,
    )
    versions = ", ".join(
        f"{name} {importlib.metadata.version(name)}"
        for name in ("qcompiler", "onnxruntime", "onnx", "numpy", "scipy")
    )
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return (
        f"{cores} cores of {processor}, load {load}; Python {platform.python_version()}, {versions}; "
        f"revision {git.stdout.strip() or 'unknown'}; target docs/examples/npu.toml"
    )


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--models", type=Path, default=HERE.parents[2] / "shared" / "models")
    parser.add_argument("--only", nargs="+", choices=list(SECTIONS), default=list(SECTIONS))
    parser.add_argument(
        "--model", nargs="+", choices=MODELS, help="only these; sections of one model measure these instead"
    )
    parser.add_argument(
        "--settings", nargs="+", choices=list(SETTINGS), help="of accuracy; else those asked for"
    )
    parser.add_argument("--forms", type=int, default=0, help="of brute force; 0: all")
    parser.add_argument("--keep", type=Path, help="folder for the results of brute force")
    parser.add_argument("--plans", type=int, default=30, help="random assignments")
    parser.add_argument("--seed", type=int, default=0, help="of random assignments")
    parser.add_argument("--images", type=int, help="of ranking; 0: all; else 400, of MobileNetV2 32")
    parser.add_argument("--solver-seeds", type=int, default=3)
    parser.add_argument("--log", type=Path, help="file that raw records are appended to, a JSON line each")
    options = parser.parse_args()
    options.explicit = options.model
    options.model = options.model or list(MODELS)
    say(machine())
    for name in options.only:
        section = SECTIONS[name]
        say(f"\n## {name}\n\n{' '.join((section.__doc__ or '').split())}\n")
        section(options)


if __name__ == "__main__":
    main()
