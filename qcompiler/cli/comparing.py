"""The commands that run models and compare them: evaluate, diff."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qcompiler.cli import arguments as arg
from qcompiler.cli.console import progress_bars, show

if TYPE_CHECKING:
    from rich.console import RenderableType

    from qcompiler.evaluation import Evaluation, Measured
    from qcompiler.ir.graph import Graph

_MOST_LINES = 40


def evaluate_command(
    what: arg.ModelOrFolder,
    data: Annotated[
        str, typer.Option("--data", "-d", metavar="NPZ|DIR", help="Samples, with `labels` for top1.")
    ],
    metric: arg.Metric = None,
    reference: Annotated[
        str | None,
        typer.Option(
            "--reference", "-r", metavar="MODEL", help="The fp32 model, for the metrics that compare with it."
        ),
    ] = None,
    quiet: arg.Quiet = False,
) -> None:
    """Measure a model on data.

    The model is an ONNX file or what `compile` wrote.
    """
    from qcompiler.cli.folder import open_graph
    from qcompiler.data import DataSource
    from qcompiler.errors import OptionError
    from qcompiler.metrics import METRICS, metric_named

    chosen = metric_named(metric or "auto")
    source = DataSource.open(data)
    models = {what: open_graph(what)}
    if reference is not None:
        models = {reference: open_graph(reference), **models}
    source = source.validate(next(iter(models.values())))
    if chosen is None and source.labels is None and reference is None:
        chosen = METRICS["sqnr"]
    if chosen is not None and chosen.needs_labels and source.labels is None:
        raise OptionError(
            f"The metric {chosen.name} needs labels, and {data} has none; add an array 'labels', or choose another metric."
        )
    needs_reference = OptionError(
        "Without labels a model is measured against the fp32 model: give --reference MODEL, or data with an array 'labels'."
    )
    if reference is None and chosen is not None and chosen.name in METRICS and not chosen.needs_labels:
        raise needs_reference
    with progress_bars(quiet=quiet) as bars:
        found = _evaluated(models, source, chosen, bars)
    if reference is None and found.metric.name == "sqnr":
        raise needs_reference
    show(_measured(found, against=reference))


def _evaluated(models: dict[str, Graph], source: Any, metric: Any, bars: Any) -> Evaluation:
    from qcompiler.cli.folder import is_quantized
    from qcompiler.evaluation import evaluate_models
    from qcompiler.runtime import Session

    sessions = {name: Session(graph, optimize=not is_quantized(graph)) for name, graph in models.items()}
    return evaluate_models(
        sessions, source, metric, progress=lambda done, total: bars("evaluating", done, total)
    )


def _measured(found: Evaluation, against: str | None) -> RenderableType:
    """A line per model: the metric, and where there is a model to compare with, the differences from it."""
    from rich.table import Table
    from rich.text import Text

    from qcompiler.report.words import metric_text, number_text

    others: dict[str, Callable[[Measured], str]] = {}
    if against is not None:
        others = {
            "sqnr": lambda measured: metric_text(measured.sqnr_db, "dB"),
            "largest difference": lambda measured: number_text(measured.max_abs_diff),
            "mean": lambda measured: number_text(measured.mean_abs_diff),
        }
        others.pop(found.metric.name, None)
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column(f"on {found.samples:,} samples", overflow="fold")
    for heading in (found.metric.name, *others):
        table.add_column(heading, justify="right")
    for name, measured in found.models.items():
        compared = ("" if name == against else text(measured) for text in others.values())
        table.add_row(Text(name), metric_text(measured.metric, found.metric.unit), *compared)
    return table


def diff_command(
    first: Annotated[str, typer.Argument(metavar="A", help="An ONNX model, or what `compile` wrote.")],
    second: Annotated[str, typer.Argument(metavar="B", help="Another one.")],
    data: Annotated[
        str | None,
        typer.Option("--data", "-d", metavar="NPZ|DIR", help="Run both on samples and compare outputs."),
    ] = None,
    metric: arg.Metric = None,
    full: Annotated[bool, typer.Option("--full", help="Show every line of the difference.")] = False,
    quiet: arg.Quiet = False,
) -> None:
    """Show what changed between two models.

    For two folders that `compile` wrote also in the plans, and what it did to the numbers.
    """
    from pathlib import Path

    from rich.text import Text

    from qcompiler.cli.folder import Compiled, open_graph
    from qcompiler.ir.diff import diff_graphs

    graphs = {first: open_graph(first), second: open_graph(second)}
    if first == second:
        show(f"{first} is compared with itself; there is no difference.")
        return
    shown: list[Any] = []
    if Path(first).is_dir() and Path(second).is_dir():
        from qcompiler.report.terminal import plan_diff

        folders = Compiled.open(Path(first)), Compiled.open(Path(second))
        shown += [
            _numbers(*folders),
            "",
            Text("Plan", style="bold"),
            plan_diff(*(item.plan() for item in folders)),
            "",
        ]
    lines = str(diff_graphs(*graphs.values())).splitlines()
    shown += [
        Text("Graph (- only in A, + only in B, ~ changed, * other elements)", style="bold"),
        *_cut(lines, full=full),
    ]
    if data is not None:
        from qcompiler.data import DataSource
        from qcompiler.metrics import metric_named

        source = DataSource.open(data).validate(graphs[first])
        _same_outputs(graphs)
        with progress_bars(quiet=quiet) as bars:
            found = _evaluated(graphs, source, metric_named(metric or "auto"), bars)
        shown += ["", Text("Outputs", style="bold"), _measured(found, against=first)]
    show(*shown)


def _cut(lines: list[str], *, full: bool) -> list[str]:
    if full or len(lines) <= _MOST_LINES:
        return lines
    return [*lines[:_MOST_LINES], f"and {len(lines) - _MOST_LINES:,} more lines; --full shows them"]


def _same_outputs(graphs: dict[str, Graph]) -> None:
    from qcompiler.errors import DataError

    names = [{value.name for value in graph.outputs} for graph in graphs.values()]
    if names[0] != names[1]:
        first, second = (", ".join(sorted(entry)) for entry in names)
        raise DataError(f"The outputs cannot be compared: A has {first}, and B has {second}.")


def _numbers(first: Any, second: Any) -> RenderableType:
    """The facts of two reports beside each other."""
    from rich.table import Table
    from rich.text import Text

    from qcompiler.report import words

    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("", str(first.folder), str(second.folder)):
        table.add_column(heading, overflow="fold")
    labels = [words.label(item.report) for item in (first, second)]
    table.add_row("Target", *(Text(label) for label in labels))
    sides = [{fact.label: fact.text for fact in words.facts(item.report)} for item in (first, second)]
    for label in dict.fromkeys([*sides[0], *sides[1]]):
        table.add_row(label, *(Text(side.get(label, "–")) for side in sides))
    return table
