"""Lets the tests of this folder import the small modules beside them, and lends them the HTP library."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from qcompiler.targets.hexagon.htp import HtpLibrary, missing

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="module")
def library() -> Iterator[HtpLibrary]:
    """One process of the library for the tests of a file; without the library they are skipped."""
    lacking = missing()
    if lacking is not None:
        pytest.skip(lacking)
    with HtpLibrary() as found:
        yield found
