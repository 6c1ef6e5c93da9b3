"""The commands that show what is in a model or in a folder that was compiled: inspect, explain."""

from __future__ import annotations

from typing import Annotated

import typer

from qcompiler.cli import arguments as arg
from qcompiler.cli.console import show

_FEW_NAMES = 40


def inspect_command(
    what: arg.ModelOrFolder,
    html: Annotated[
        str | None, typer.Option("--html", metavar="FILE", help="Write the page of an OUTDIR to a file, too.")
    ] = None,
) -> None:
    """Show a model, or what came of compiling it."""
    from pathlib import Path

    from qcompiler.cli.folder import Compiled
    from qcompiler.errors import OptionError
    from qcompiler.report.terminal import model_summary, nodes_table, summary

    if Path(what).is_dir():
        compiled = Compiled.open(Path(what))
        written = []
        if html is not None:
            from qcompiler.report.html import render_html

            Path(html).write_text(render_html(compiled.report), encoding="utf-8")
            written = ["", f"Written: {html}"]
        show(summary(compiled.report), "", nodes_table(compiled.report), *written)
        return
    if html is not None:
        raise OptionError(f"--html shows what came of a compilation, and {what} is a model; give an OUTDIR.")
    from qcompiler.ir.onnx_import import load

    show(model_summary(load(what)))


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
    from pathlib import Path

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
