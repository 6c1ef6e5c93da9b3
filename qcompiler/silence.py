"""Silence for libraries that print whether they are asked to or not."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

OUTPUT, ERRORS = 1, 2
"""The descriptors of the standard output and of standard errors."""


@contextlib.contextmanager
def silenced(descriptor: int = OUTPUT) -> Iterator[None]:
    """Sends what C code prints to nowhere. The whole process is silent: other threads should not print meanwhile."""
    try:
        flush, saved = ctypes.CDLL(None).fflush, os.dup(descriptor)
    except (OSError, TypeError):  # there is no such stream, or this is Windows
        yield
        return
    flush(None)
    try:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), descriptor)
        yield
    finally:
        flush(None)
        os.dup2(saved, descriptor)
        os.close(saved)
