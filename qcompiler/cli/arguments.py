"""Arguments and options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

Model = Annotated[
    str | None, typer.Argument(metavar="MODEL", help="The fp32 ONNX model.", show_default=False)
]
ModelOrFolder = Annotated[
    str, typer.Argument(metavar="MODEL|OUTDIR", help="An ONNX model, or what `compile` wrote.")
]
Target = Annotated[
    str | None,
    typer.Option("--target", "-t", metavar="NAME[:DEVICE]|FILE.toml", help="See `qcompiler targets`."),
]
Calibration = Annotated[
    str | None,
    typer.Option(
        "--calibration",
        "-c",
        metavar="NPZ|DIR",
        help="Samples to choose ranges on; some hundred typical ones.",
    ),
]
Evaluation = Annotated[
    str | None,
    typer.Option(
        "--evaluation", "-e", metavar="NPZ|DIR", help="Samples to measure on, with `labels` for top1."
    ),
]
Metric = Annotated[
    str | None,
    typer.Option(
        "--metric", metavar="NAME|MODULE:FUNCTION",
        help="top1, top5, agreement, sqnr, cosine, mse, mae, relative-error, kl, or a function of yours. [default: auto]",
    ),
]  # fmt: skip
Statistics = Annotated[
    str | None,
    typer.Option(
        "--statistics",
        metavar="FILE",
        help="Calibration statistics: read if the file exists, written if not.",
    ),
]
Method = Annotated[
    str | None,
    typer.Option(
        "--method", metavar="METHOD",
        help="How ranges are chosen: mse, percentile[:99.99], entropy, min-max, moving-average. [default: mse]",
    ),
]  # fmt: skip
Extra = Annotated[
    list[str] | None,
    typer.Option(
        "--pass", metavar="MODULE:CLASS", help="A pass of yours (or FILE.py:CLASS), put before tiling. Repeatable.",
    ),
]  # fmt: skip
PipelineText = Annotated[
    str | None,
    typer.Option(
        "--pipeline",
        metavar="STRING",
        help="The passes to run instead of the default ones: name{option=value},name,...",
    ),
]
Dimension = Annotated[
    list[str] | None,
    typer.Option(
        "--dimension",
        metavar="NAME=SIZE",
        help="The size of an open dimension of an input, by its name or as INPUT:AXIS. Repeatable.",
    ),
]
PassOption = Annotated[
    list[str] | None,
    typer.Option(
        "--option",
        metavar="PASS.OPTION=VALUE",
        help="An option of a pass, see `qcompiler passes`. Repeatable.",
    ),
]
FloatFormat = Annotated[
    str | None,
    typer.Option(
        "--float-format",
        metavar="FORMAT",
        help="How what stays float is stored. [default: the target's first]",
    ),
]
Config = Annotated[
    str | None,
    typer.Option(
        "--config", metavar="FILE.toml", help="Options from a file; what the command line says wins."
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing unless something is wrong.")]
