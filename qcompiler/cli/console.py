"""Where output goes: results to stdout, progress to stderr, and only where a person watches."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

_PLAIN_WIDTH = 120  # of output that goes to a file or a pipe


def show(*items: Any) -> None:
    """Prints renderables or text to stdout. Text is no markup: names of nodes have brackets."""
    from rich.console import Console

    console = Console(highlight=False)
    if console.is_terminal:
        _print(console, items)
        return
    console = Console(highlight=False, width=_PLAIN_WIDTH)
    with console.capture() as captured:
        _print(console, items)
    lines = captured.get().splitlines()  # rich fills lines up with blanks, which are in the way in files
    sys.stdout.write("".join(f"{line.rstrip()}\n" for line in lines))


def _print(console: Console, items: Iterable[Any]) -> None:
    for item in items:
        console.print(item, markup=False, soft_wrap=isinstance(item, str))


class ProgressBars:
    """A bar for each kind of work, in the order in which work begins."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}
        self._title = ""

    def __call__(self, what: str, done: int, total: int) -> None:
        """Moves a bar; has the form of `qcompiler.pass_manager.Progress`."""
        if what not in self._tasks:
            self._tasks[what] = self._bars.add_task(f"{self._title}{what}", total=total)
        self._bars.update(self._tasks[what], completed=done, total=total)

    def restart(self, title: str) -> None:
        """Takes all bars away, for the next of several compilations; its bars have the title before them."""
        self._title = f"{title}: "
        for task in self._tasks.values():
            self._bars.remove_task(task)
        self._tasks.clear()


@contextlib.contextmanager
def progress_bars(*, quiet: bool = False) -> Iterator[ProgressBars]:
    """Bars that are gone when the work is done. Nothing is shown where stderr is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description:<24}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=quiet or not console.is_terminal,
    ) as bars:
        yield ProgressBars(bars)
