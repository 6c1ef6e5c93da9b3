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
    name: str = r".+",
    value: str = r".*",
) -> dict[str, str]:
    """Reads NAME=VALUE texts; spaces around names and values do not count, and of a name that stands twice the last text does.

    Args:
        option: The option, for messages.
        texts: The texts.
        form: What a text looks like, for messages.
        name: A regular expression for names.
        value: A regular expression for values.

    Raises:
        OptionError: One cannot be read.
    """
    found = {}
    for text in texts:
        key, equals, given = (part.strip() for part in text.partition("="))
        if not (equals and re.fullmatch(name, key) and re.fullmatch(value, given, re.DOTALL)):
            raise OptionError(f"{option} {text!r} cannot be read; write {form}.")
        found[key] = given
    return found
