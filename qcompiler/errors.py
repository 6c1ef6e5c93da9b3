"""Errors that reach the user: each carries one clear paragraph - what is wrong, where, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class QCompilerError(Exception):
    """Base of all errors that are the input's fault, not the compiler's; the command line exits with 1."""


class ModelError(QCompilerError):
    """The model file or graph cannot be used."""


class DataError(QCompilerError):
    """Calibration or evaluation data do not fit the model."""


class TargetError(QCompilerError):
    """A target name, device or descriptor is wrong."""


class PlanError(QCompilerError):
    """A plan does not belong to this model or asks for something illegal."""


class OptionError(QCompilerError):
    """An option, pass name or configuration key is wrong."""


class PassError(QCompilerError):
    """A pass broke its contract; the message names the pass and, where known, the rewrite."""


class ExtraError(QCompilerError):
    """An optional dependency is not installed; the message names the extra that brings it."""


class OutputError(QCompilerError):
    """The output folder cannot be written."""


def suggest(word: str, known: Iterable[str]) -> str:
    """Returns "; did you mean 'x'?" or a list of the accepted words, to end an error message with."""
    accepted = sorted(set(known))
    close = difflib.get_close_matches(word, accepted, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known: {', '.join(accepted)}." if accepted else "."
