"""The commands that compile: compile, bisect, demo."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qcompiler.cli import arguments as arg
from qcompiler.cli.console import ProgressBars, progress_bars, show
from qcompiler.cli.settings import Settings
from qcompiler.errors import ExtraError, QCompilerError

if TYPE_CHECKING:
    from qcompiler.compiler import Result

OVER_BUDGET = 3

_TARGET_HINT = "give --target NAME[:DEVICE] (see `qcompiler targets`)"


def compile_command(
    model: arg.Model = None,
    target: arg.Target = None,
    calibration: arg.Calibration = None,
    evaluation: arg.Evaluation = None,
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", metavar="OUTDIR", help="The folder to write; whole or not at all."),
    ] = None,
    metric: arg.Metric = None,
    max_drop: Annotated[
        float | None,
        typer.Option(
            "--max-drop",
            metavar="X",
            help="The most that the metric may get worse; 0.01 of top1 is one point.",
        ),
    ] = None,
    weight_bits: Annotated[
        float | None,
        typer.Option(
            "--weight-bits", metavar="AVERAGE", help="The most bits per weight, on average over parameters."
        ),
    ] = None,
    max_size: Annotated[
        float | None,
        typer.Option("--max-size", metavar="BYTES", help="The most bytes of weights and tables."),
    ] = None,
    max_latency: Annotated[
        float | None,
        typer.Option(
            "--max-latency",
            metavar="MS",
            help="The most milliseconds of an inference, by the target's cost model.",
        ),
    ] = None,
    max_ram: Annotated[
        int | None,
        typer.Option(
            "--max-ram", metavar="BYTES", help="The most bytes of memory, for targets that plan it."
        ),
    ] = None,
    max_flash: Annotated[
        int | None,
        typer.Option(
            "--max-flash",
            metavar="BYTES",
            help="The most bytes of code and constants, for targets that write code.",
        ),
    ] = None,
    io: Annotated[
        str | None,
        typer.Option(
            "--io", metavar="TYPE", help="What inputs and outputs are, for targets that offer several types."
        ),
    ] = None,
    target_option: Annotated[
        list[str] | None,
        typer.Option(
            "--target-option",
            metavar="NAME=VALUE",
            help="An option of the target's own, see `qcompiler targets NAME`. Repeatable.",
        ),
    ] = None,
    allow_cpu: Annotated[
        bool | None,
        typer.Option(
            "--allow-cpu/--no-allow-cpu",
            help="Exit with 0 although the accelerator runs nothing of the model.",
            show_default=False,
        ),
    ] = None,
    minimise: Annotated[
        str | None,
        typer.Option(
            "--minimise", metavar="size|latency", help="What is made small within --max-drop. [default: size]"
        ),
    ] = None,
    pareto: Annotated[
        bool | None,
        typer.Option(
            "--pareto/--no-pareto",
            help="Measure a front of accuracy against size, and write the plan of each point.",
            show_default=False,
        ),
    ] = None,
    plan: Annotated[
        str | None,
        typer.Option("--plan", metavar="FILE", help="Apply this plan.json instead of deciding precisions."),
    ] = None,
    statistics: arg.Statistics = None,
    method: arg.Method = None,
    extra: arg.Extra = None,
    pipeline: arg.PipelineText = None,
    option: arg.PassOption = None,
    dimension: arg.Dimension = None,
    float_format: arg.FloatFormat = None,
    config: arg.Config = None,
    dump: Annotated[
        str | None,
        typer.Option(
            "--dump", metavar="DIR", help="Save the graph, and what changed in it, after every pass."
        ),
    ] = None,
    verify_each: Annotated[
        bool | None,
        typer.Option(
            "--verify-each/--no-verify-each",
            help="Hold every pass to its declared effect by running the graph.",
            show_default=False,
        ),
    ] = None,
    force: Annotated[
        bool | None,
        typer.Option(
            "--force/--no-force", help="Replace OUTDIR if an earlier run wrote it.", show_default=False
        ),
    ] = None,
    quiet: arg.Quiet = False,
) -> None:
    """Compile a model for a target.

    Quantizes it, writes what the target runs, and checks that.

    With --weight-bits, --max-size or --max-latency the precision of every layer is chosen for the least loss within these;
    with --max-drop the smallest result is sought whose metric, measured, drops no more.

    Exits with 0 when all went well, 1 on bad input (nothing is written), 3 when compiled but a stated limit is not kept.
    """
    settings = Settings.gathered(
        config,
        {
            "model": model, "target": target, "calibration": calibration, "evaluation": evaluation, "output": output,
            "metric": metric, "max_drop": max_drop, "weight_bits": weight_bits, "max_size": max_size,
            "max_latency": max_latency, "max_ram": max_ram, "max_flash": max_flash, "io": io, "target_option": tuple(target_option or ()), "allow_cpu": allow_cpu, "minimise": minimise, "pareto": pareto, "plan": plan, "statistics": statistics, "method": method,
            "extra": tuple(extra or ()), "pipeline": pipeline, "option": tuple(option or ()), "dimension": tuple(dimension or ()), "float_format": float_format,
            "dump": dump, "verify_each": verify_each, "force": force,
        },
    )  # fmt: skip
    settings.required("model", "give the path of an ONNX model")
    settings.required("target", _TARGET_HINT)
    settings.required("output", "give -o OUTDIR")
    with progress_bars(quiet=quiet) as bars:
        result = _compiled(settings, bars)
    if not quiet:
        from qcompiler.report.terminal import summary

        show(summary(result.report), *_closing(result))
    if not result.within_budget:
        raise typer.Exit(OVER_BUDGET)


def _compiled(settings: Settings, bars: ProgressBars) -> Result:
    from qcompiler import compiler

    return compiler.compile(
        settings.required("model", "give the path of an ONNX model"),
        settings.required("target", _TARGET_HINT),
        settings.calibration,
        evaluation=settings.evaluation,
        output=settings.output,
        progress=bars,
        **settings.options(),
    )


def _closing(result: Result) -> list[str]:
    """Where the files are, and where to look."""
    assert result.output is not None
    files = ", ".join(sorted(path.name for path in result.output.iterdir()))
    return [
        "",
        f"Written to {result.output}/: {files}",
        f"To look closer: {result.output}/report.html, or qcompiler explain {result.output} NODE",
    ]


def bisect_command(
    model: arg.Model = None,
    target: arg.Target = None,
    calibration: arg.Calibration = None,
    statistics: arg.Statistics = None,
    method: arg.Method = None,
    extra: arg.Extra = None,
    pipeline: arg.PipelineText = None,
    option: arg.PassOption = None,
    float_format: arg.FloatFormat = None,
    tolerance: Annotated[
        float,
        typer.Option(
            metavar="X",
            help="The output is broken where it is off by more than this part of its largest magnitude.",
        ),
    ] = 0.1,
    config: arg.Config = None,
    quiet: arg.Quiet = False,
) -> None:
    """Find what first breaks the output.

    Names the pass and, where it counts them, the single rewrite of it.

    Exits with 0 when nothing does, 3 when something does.
    """
    settings = Settings.gathered(
        config,
        {
            "model": model, "target": target, "calibration": calibration, "statistics": statistics, "method": method,
            "extra": tuple(extra or ()), "pipeline": pipeline, "option": tuple(option or ()), "float_format": float_format,
        },
    )  # fmt: skip
    with progress_bars(quiet=quiet) as bars:
        found = _bisected(settings, tolerance, bars)
    if found is None:
        show(
            f"No pass takes the output further than {tolerance:g} of its largest magnitude from the model's own."
        )
        return
    show(str(found))
    raise typer.Exit(OVER_BUDGET)


def _bisected(settings: Settings, tolerance: float, bars: ProgressBars) -> Any:
    import tempfile
    from pathlib import Path

    from qcompiler.bisect import bisect
    from qcompiler.data import DataSource
    from qcompiler.ir.onnx_import import load
    from qcompiler.options import default_pipeline, make_options
    from qcompiler.pass_manager import PassContext
    from qcompiler.targets import find_target

    graph = load(settings.required("model", "give the path of an ONNX model"))
    target = find_target(settings.required("target", _TARGET_HINT))
    data = DataSource.open(settings.calibration).validate(graph) if settings.calibration is not None else None
    pipeline = default_pipeline(target, make_options(settings.options()))
    with tempfile.TemporaryDirectory(prefix="qcompiler-") as folder:  # every replay would calibrate anew
        context = PassContext(
            target=target,
            calibration=data,
            statistics=Path(settings.statistics or f"{folder}/statistics"),
            float_format=settings.float_format or target.float_formats[0],
            progress=bars,
        )
        feeds = next(iter(data.batches(min(2, data.count)))) if data is not None else None
        return bisect(graph, pipeline, context, feeds=feeds, tolerance=tolerance)


def demo_command(
    target: Annotated[
        list[str] | None,
        typer.Option(
            "--target", "-t", metavar="NAME[:DEVICE]", help="Repeatable. [default: every installed target]"
        ),
    ] = None,
    output: Annotated[
        str,
        typer.Option(
            "--output",
            "-o",
            metavar="DIR",
            help="Gets a folder per target; those of an earlier demo are replaced.",
        ),
    ] = "qcompiler-demo",
    quiet: arg.Quiet = False,
) -> None:
    """Compile a small model that comes along.

    It is a trained classifier of digits, compiled for every target and measured on data that it has not seen.
    """
    from pathlib import Path

    from qcompiler import demo
    from qcompiler.targets import descriptors

    done: dict[str, Result | QCompilerError] = {}
    with progress_bars(quiet=quiet) as bars:
        for name in target or descriptors():
            bars.restart(name)
            settings = Settings(
                model=str(demo.MODEL),
                target=name,
                calibration=str(demo.CALIBRATION),
                evaluation=str(demo.EVALUATION),
                output=str(Path(output) / name.replace(":", "-")),
                max_drop=0.01,
                force=True,
            )
            try:
                done[name] = _compiled(settings, bars)
            except QCompilerError as error:  # the other targets are still worth seeing
                if target:
                    raise
                done[name] = error
    if not quiet:
        _show_demo(done, output)
    failed = [
        f"{name}: {result}"
        for name, result in done.items()
        if isinstance(result, QCompilerError) and not isinstance(result, ExtraError)
    ]
    if failed:
        raise QCompilerError(" ".join(failed))
    if not all(result.within_budget for result in done.values() if not isinstance(result, QCompilerError)):
        raise typer.Exit(OVER_BUDGET)


def _show_demo(done: Mapping[str, Result | QCompilerError], output: str) -> None:
    from qcompiler.report.terminal import DemoRow, demo_table

    results = [result for result in done.values() if not isinstance(result, QCompilerError)]
    folders = [result.output for result in results if result.output is not None]
    show(
        demo_table(
            [
                DemoRow(result.report, f"{folder.name}/")
                for result, folder in zip(results, folders, strict=True)
            ]
        )
    )
    for name, result in done.items():
        if isinstance(result, ExtraError):
            show(f"{name}: {result}")
    if results:
        node = next(entry["name"] for entry in results[0].report["nodes"] if entry["kind"] == "weighted")
        show(
            "",
            f"Written to {output}/. Open {folders[0]}/report.html, or ask: qcompiler explain {folders[0]} {node}",
            f"With a model of yours: qcompiler compile MODEL.onnx --target {next(iter(done))} --calibration NPZ -o OUTDIR",
        )
