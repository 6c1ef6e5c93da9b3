"""coremltools, which is imported only where it is used: it is an extra, and takes most of a second."""

from __future__ import annotations

import logging
from functools import cache
from types import SimpleNamespace
from typing import Any

from qcompiler.errors import ExtraError
from qcompiler.silence import ERRORS, silenced

EXTRA = 'pip install "qcompiler[core-ml]"'


def version() -> str | None:
    """The version of coremltools that is installed; None without one."""
    try:
        return str(toolkit().ct.__version__)
    except ExtraError:
        return None


@cache
def toolkit() -> Any:
    """coremltools: `ct`, the package; `mb`, its builder; `mil`, its programs; `types`; `milproto`, what reads programs back.

    Raises:
        ExtraError: It is not installed, or lacks the libraries that write weights.
    """
    logger = logging.getLogger("coremltools")
    before = logger.level
    try:
        with silenced(
            ERRORS
        ):  # it complains that the runtime is missing, which is so everywhere but on macOS
            import coremltools as ct
            from coremltools.converters.mil import mil
            from coremltools.converters.mil.frontend.milproto import load as milproto
            from coremltools.converters.mil.mil import Builder, get_new_symbol, types
            from coremltools.converters.mil.mil.passes.pass_pipeline import PassPipeline
    except ImportError as error:
        raise ExtraError(
            f"Core ML packages are written with coremltools, which is not installed ({error}): {EXTRA}."
        ) from error
    logging.getLogger("coremltools").setLevel(max(before, logging.ERROR))
    if milproto.BlobReader is None:
        raise ExtraError(
            "coremltools is installed without the library that writes weights: there are wheels for some versions of Python only. "
            f"Use one of those, and {EXTRA}."
        )
    return SimpleNamespace(
        ct=ct,
        mil=mil,
        milproto=milproto,
        mb=Builder,
        types=types,
        symbol=get_new_symbol,
        PassPipeline=PassPipeline,
    )
