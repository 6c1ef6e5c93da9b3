"""NAME=VALUE texts, as options of the command line and lists in configuration files have them."""

from __future__ import annotations

import re
from collections.abc import Iterable

from qcompiler.errors import OptionError


def read_pairs(
    option: str,
    texts: Iterable[str],
    form: str = "NAME=VALUE",
    *,
    name: str = r"[^=]+",
    value: str = r".*",
) -> dict[str, str]:
    """Reads NAME=VALUE texts; spaces around names and values do not count, and of a name that stands twice the last text does.

    Args:
        option: The option, for messages.
        texts: The texts.
        form: What a text looks like, for messages.
        name: A regular expression for names; where it allows `=`, they end at the last one.
        value: A regular expression for values.

    Raises:
        OptionError: One cannot be read.
    """
    found = {}
    for text in texts:
        match = re.fullmatch(rf"({name})=\s*({value})", text.strip(), re.DOTALL)
        if match is None:
            raise OptionError(f"{option} {text!r} cannot be read; write {form}.")
        found[match[1].strip()] = match[2]
    return found
