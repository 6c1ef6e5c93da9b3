"""The passes; one file per pass, named as the pass.

`find_pass` resolves what a pipeline or the command line names: a pass of this folder, one that an installed package offers
under the entry-point group "qcompiler.passes", or a user's own, as `module:Class` or `path/to/file.py:Class`.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import inspect
import pkgutil
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

from qcompiler.errors import OptionError, suggest
from qcompiler.pass_manager import Pass

ENTRY_POINTS = "qcompiler.passes"


@cache
def pass_names() -> tuple[str, ...]:
    """The names of the passes that are installed, without importing them."""
    own = [module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_")]
    offered = [entry.name for entry in importlib.metadata.entry_points(group=ENTRY_POINTS)]
    return tuple(sorted({*own, *offered}))


def find_pass(name: str) -> type[Pass]:
    """The class of a pass.

    Raises:
        OptionError: There is no such pass, file or class.
    """
    if ":" in name:
        return _user_pass(name)
    for entry in importlib.metadata.entry_points(group=ENTRY_POINTS):
        if entry.name == name:
            return _checked(entry.load(), f"the entry point {name!r}")
    if name not in pass_names():
        raise OptionError(f"There is no pass {name!r}{suggest(name, pass_names())}")
    return _named_in(importlib.import_module(f"{__name__}.{name}"), name)


def all_passes() -> list[type[Pass]]:
    """The classes of all installed passes, by name."""
    return [find_pass(name) for name in pass_names()]


def _named_in(module: ModuleType, name: str) -> type[Pass]:
    for item in vars(module).values():
        if (
            inspect.isclass(item)
            and issubclass(item, Pass)
            and item.__module__ == module.__name__
            and item.name == name
        ):
            return item
    raise OptionError(f"The module {module.__name__} has no pass named {name!r}.")


def _user_pass(name: str) -> type[Pass]:
    where, _, class_name = name.rpartition(":")
    module = _load_file(Path(where)) if where.endswith(".py") else _load_module(where)
    found = getattr(module, class_name, None)
    if found is None:
        classes = [
            key for key, item in vars(module).items() if inspect.isclass(item) and issubclass(item, Pass)
        ]
        raise OptionError(f"{where} has no class {class_name!r}{suggest(class_name, classes)}")
    return _checked(found, name)


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise OptionError(f"There is no file {path} to take a pass from.")
    key = f"qcompiler_user_{path.stem}_{abs(hash(path.resolve()))}"
    spec = importlib.util.spec_from_file_location(key, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[key] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[key]
        raise OptionError(f"{path} cannot be imported: {type(error).__name__}: {error}.") from error
    return module


def _load_module(name: str) -> ModuleType:
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise OptionError(
            f"The module {name!r} cannot be imported: {error}. Is it on PYTHONPATH or in this folder?"
        ) from error


def _checked(found: object, what: str) -> type[Pass]:
    if not (inspect.isclass(found) and issubclass(found, Pass)):
        raise OptionError(f"{what} is no pass: it must be a subclass of qcompiler.pass_manager.Pass.")
    if not found.name:
        raise OptionError(f'{what} has no name: give the class an attribute name = "...".')
    return found
