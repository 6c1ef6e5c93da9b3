"""The commands that show what is in a model or in a folder that was compiled: inspect, explain."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qcompiler.cli.console import show

if TYPE_CHECKING:
    from rich.console import RenderableType

_FEW_NAMES = 40


def inspect_command(
    what: Annotated[
        str,
        typer.Argument(
            metavar="MODEL|OUTDIR",
            help="An ONNX model, a file for a target's tools, or what `compile` wrote.",
        ),
    ],
    html: Annotated[
        str | None, typer.Option("--html", metavar="FILE", help="Write the page of an OUTDIR to a file, too.")
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="Show every operator of a long model.")] = False,
) -> None:
    """Show a model, or what came of compiling it."""
    from qcompiler.cli.folder import Compiled
    from qcompiler.errors import OptionError
    from qcompiler.report.rich_running import operators_table
    from qcompiler.report.terminal import nodes_table, summary
    from qcompiler.report.words import partition

    if Path(what).is_dir() and not _is_package(Path(what)):
        compiled = Compiled.open(Path(what))
        written = []
        if html is not None:
            from qcompiler.report.html import render_html

            Path(html).write_text(render_html(compiled.report), encoding="utf-8")
            written = ["", f"Written: {html}"]
        placed = partition(compiled.report)
        operators = ["", operators_table(placed)] if placed is not None else []
        show(summary(compiled.report), "", nodes_table(compiled.report), *operators, *written)
        return
    if html is not None:
        raise OptionError(f"--html shows what came of a compilation, and {what} is a model; give an OUTDIR.")
    show(_file(Path(what), full=full))


def _is_package(path: Path) -> bool:
    """Whether a folder is a file for a target's tools, by its name's ending, rather than what `compile` wrote."""
    from qcompiler.targets import inspectors

    return bool(path.suffix) and not (path / "report.json").is_file() and path.suffix.lower() in inspectors()


def _file(path: Path, *, full: bool) -> RenderableType:
    """What is in a model, or in a file of a target's kind, which goes by the name's ending."""
    from qcompiler.errors import ModelError
    from qcompiler.ir.onnx_import import load
    from qcompiler.report.file_page import file_page
    from qcompiler.report.terminal import model_summary
    from qcompiler.targets import inspectors

    known = inspectors()
    if path.suffix.lower() in known:
        return file_page(known[path.suffix.lower()].summary(path), full=full)
    try:
        return model_summary(load(path), full=full)
    except ModelError as error:
        if not path.is_file() or path.suffix.lower() == ".onnx":
            raise
        raise ModelError(
            f"{error} Files of other kinds that `inspect` shows end in {', '.join(known)}."
        ) from error


def explain_command(
    folder: Annotated[str, typer.Argument(metavar="OUTDIR", help="What `compile` wrote.")],
    node: Annotated[
        str,
        typer.Argument(metavar="NODE", help="A node of the source model or of the compiled one, or a value."),
    ],
) -> None:
    """Say why a node has its precision.

    And which rule forbade the others.
    """
    from qcompiler.cli.folder import Compiled
    from qcompiler.errors import OptionError, suggest
    from qcompiler.report.terminal import explanation, known_names

    report = Compiled.open(Path(folder)).report
    known = known_names(report)
    if node not in known:
        hint = suggest(node, known)
        if "did you mean" not in hint and len(known) > _FEW_NAMES:
            hint = f"; `qcompiler inspect {folder}` lists the nodes."
        raise OptionError(f"{folder} has no node or value {node!r}{hint}")
    show(explanation(report, node))
