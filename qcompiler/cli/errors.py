"""What users see of errors: one paragraph on stderr and exit code 1, whatever went wrong."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup

from qcompiler.errors import QCompilerError, suggest

FAILED = 1
INTERRUPTED = 130

_DEBUG = "--debug"
_UsageError: type[Exception] = typer.BadParameter.__mro__[
    1
]  # typer brings it from click, or its own copy of that
_PACKAGE = Path(__file__).resolve().parents[1]


class CommandGroup(TyperGroup):
    """The commands. Errors end here, in one way for all of them."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Runs a command. `--debug` may stand anywhere before a `--`."""
        given = list(sys.argv[1:] if args is None else args)
        end = given.index("--") if "--" in given else len(given)
        debug = _DEBUG in given[:end]
        given = [word for word in given[:end] if word != _DEBUG] + given[end:]
        try:
            code = super().main(
                given, prog_name or "qcompiler", complete_var, False, windows_expand_args, **extra
            )
        except typer.Abort:
            code = INTERRUPTED
        except Exception as error:
            if debug:
                traceback.print_exc()
            else:
                _say(f"Error: {message_of(error)}")
            code = FAILED
        if code == INTERRUPTED:
            _say("Interrupted; nothing half-written was left behind.")
        code = code if isinstance(code, int) else 0
        if not standalone_mode:
            return code
        sys.exit(code)


def message_of(error: Exception) -> str:
    """One paragraph about an error: what, where, what to do."""
    if isinstance(error, QCompilerError):
        text = " ".join(str(error).split())
        return text if text.endswith((".", "?", "!")) else f"{text}."
    if isinstance(error, _UsageError):
        return _usage(error)
    if isinstance(error, MemoryError):
        return "There is not enough memory. Give smaller batches (--option calibrate.batch=1), or close other programs."
    if isinstance(error, OSError) and error.strerror:
        where = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else "A file"
        return f"{where} cannot be read or written: {error.strerror}."
    return _bug(error)


def _usage(error: Any) -> str:
    """A mistake in the command's words or options."""
    context: Any = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "qcompiler"
    wrong = getattr(error, "option_name", None)
    if wrong is not None and hasattr(error, "possibilities") and context is not None:
        known = [name for entry in context.command.params for name in entry.opts if name.startswith("--")]
        return f"`{command}` has no option {wrong!r}{suggest(wrong, known)} `{command} --help` says what they mean."
    text = " ".join(error.format_message().split()).rstrip(".")
    if "o such command" in text and "Did you mean" not in text:
        return f"{text}; there are {', '.join(context.command.commands)}."
    return f"{text}{'' if text.endswith('?') else '.'} `{command} --help` shows what it takes."


def _bug(error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if _is_ours(Path(frame.filename))]
    place = next(iter(reversed(ours or frames)), None)
    where = (
        f" in {Path(place.filename).name}, line {place.lineno}, {place.name}()" if place is not None else ""
    )
    text = " ".join(str(error).split())
    return (
        f"This is a bug in qcompiler, not a mistake of yours: {type(error).__name__}{where}{f': {text}' if text else ''}. "
        "The same command with --debug shows the whole traceback, which belongs in a bug report; with --dump DIR, `compile` "
        "saves the graph before the pass that failed."
    )


def _is_ours(path: Path) -> bool:
    return (
        path.is_relative_to(_PACKAGE) or path.parent.name in ("passes", "targets") or "targets" in path.parts
    )


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
