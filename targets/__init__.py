"""The targets; one folder per target: descriptor.toml, and where it has an artifact of its own lower.py and verify.py.

Targets that write the same kind of artifact share a folder: further descriptors in it, NAME.toml, are targets of that name.
"""

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
_MAIN = "descriptor.toml"


@cache
def descriptors() -> dict[str, Path]:
    """Target name to its descriptor, for the targets that are installed."""
    found = {
        (path.parent.name if path.name == _MAIN else path.stem).replace("_", "-"): path
        for folder in _FOLDERS
        for path in folder.glob("*/*.toml")
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


@cache
def inspectors() -> dict[str, ModuleType]:
    """Ending of a file's name to the module `inspect` of the folder whose targets have such files; see `file_summary`."""
    folders = sorted({path.parent.name for path in descriptors().values()})
    names = (f"{__name__}.{folder}.inspect" for folder in folders)
    modules = [importlib.import_module(name) for name in names if importlib.util.find_spec(name) is not None]
    return {suffix: module for module in modules for suffix in module.SUFFIXES}
