"""The targets; one folder per target: descriptor.toml, and where it has an artifact of its own lower.py and verify.py."""

from __future__ import annotations

import importlib
import importlib.util
from functools import cache
from pathlib import Path
from types import ModuleType

from qcompiler.descriptor import load_target
from qcompiler.errors import TargetError, suggest
from qcompiler.target import Target

_FOLDERS = [Path(entry) for entry in __path__]


@cache
def descriptors() -> dict[str, Path]:
    """Target name to its descriptor, for the targets that are installed."""
    found = {
        path.parent.name.replace("_", "-"): path
        for folder in _FOLDERS
        for path in folder.glob("*/descriptor.toml")
    }
    return dict(sorted(found.items()))


def find_target(text: str) -> Target:
    """The target that `NAME`, `NAME:DEVICE`, `FILE.toml` or `FILE.toml:DEVICE` means.

    Raises:
        TargetError: There is no such target, file or device, or the descriptor has a mistake.
    """
    name, _, device = text.partition(":") if not Path(text).is_file() else (text, "", "")
    if name.endswith(".toml"):
        if not Path(name).is_file():
            raise TargetError(f"There is no target descriptor at {name}.")
        return load_target(Path(name).resolve(), device, descriptors().get)
    known = descriptors()
    if name not in known:
        raise TargetError(
            f"There is no target {name!r}{suggest(name, known)} A descriptor of your own goes by its path: FILE.toml."
        )
    return load_target(known[name], device, descriptors().get)


def part(target: Target, name: str) -> ModuleType | None:
    """The module `lower` or `verify` in a target's folder; None where it has none (a descriptor alone, say)."""
    folder = Path(target.file).parent.name
    module = f"{__name__}.{folder}.{name}"
    if Path(target.file) not in descriptors().values() or importlib.util.find_spec(module) is None:
        return None
    return importlib.import_module(module)
