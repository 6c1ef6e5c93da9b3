"""The commands that list what there is: targets, passes."""

from __future__ import annotations

from typing import Annotated

import typer

from qcompiler.cli.console import show


def targets_command(
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME[:DEVICE]|FILE.toml", help="Show one target whole.", show_default=False),
    ] = None,
    predicates: Annotated[
        bool, typer.Option("--predicates", help="List the predicates that descriptors may use instead.")
    ] = False,
) -> None:
    """List the targets, or show one."""
    from qcompiler.report.terminal import target_page, targets_table
    from qcompiler.targets import descriptors, find_target

    if predicates:
        _show_predicates()
    elif name is not None:
        show(target_page(find_target(name)))
    else:
        show(targets_table([find_target(entry) for entry in descriptors()]))


def _show_predicates() -> None:
    from rich.table import Table
    from rich.text import Text

    from qcompiler.predicates import PREDICATES

    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("predicate", "parameters", "demands"):
        table.add_column(heading, overflow="fold")
    for name, entry in sorted(PREDICATES.items()):
        parameters = ", ".join(
            f"{key}: {getattr(kind, '__name__', kind)}{'' if key in entry.required else ' (optional)'}"
            for key, kind in entry.parameters.items()
        )
        table.add_row(Text(name), Text(parameters), Text(entry.summary))
    show(table)


def passes_command(
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME|MODULE:CLASS", help="Show one pass whole.", show_default=False),
    ] = None,
) -> None:
    """List the passes, or show one with its options."""
    from qcompiler.passes import all_passes, find_pass
    from qcompiler.report.terminal import pass_page, passes_table

    show(pass_page(find_pass(name)) if name is not None else passes_table(all_passes()))
