"""The command line: `qcompiler COMMAND`. One implementation with Python: every command calls what `import qcompiler` offers.

Commands import what they need when they run, so that `qcompiler --help` starts at once.
"""

from __future__ import annotations

import io
import signal
import sys
from types import FrameType
from typing import Annotated

import typer

from qcompiler.cli import comparing, compiling, listing, showing
from qcompiler.cli.errors import INTERRUPTED, CommandGroup

app = typer.Typer(
    name="qcompiler",
    cls=CommandGroup,
    help="A quantizing compiler for neural-network inference: ONNX in, what the hardware runs out.",
    context_settings={"help_option_names": ["-h", "--help"]},
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command("compile")(compiling.compile_command)
app.command("inspect")(showing.inspect_command)
app.command("evaluate")(comparing.evaluate_command)
app.command("diff")(comparing.diff_command)
app.command("explain")(showing.explain_command)
app.command("targets")(listing.targets_command)
app.command("passes")(listing.passes_command)
app.command("bisect")(compiling.bisect_command)
app.command("demo")(compiling.demo_command)


def _show_version(wanted: bool) -> None:
    if wanted:
        import importlib.metadata

        typer.echo(f"qcompiler {importlib.metadata.version('qcompiler')}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _front_door(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", is_eager=True, callback=_show_version),
    ] = False,
    debug: Annotated[  # taken out of the arguments before they are parsed, see CommandGroup; named here for --help
        bool, typer.Option("--debug", help="Show the whole traceback of an error; goes with every command.")
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main() -> None:
    """Runs the command that `sys.argv` names and exits with its code: 0, 1, 3 or 130, see docs/cli.md."""

    def terminated(number: int, frame: FrameType | None) -> None:
        sys.exit(128 + number)  # unwinds, so that half-written folders are removed

    signal.signal(signal.SIGTERM, terminated)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(
                errors="replace"
            )  # an arrow is no reason to fail where there are only ASCII characters
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


__all__ = ["app", "main"]
