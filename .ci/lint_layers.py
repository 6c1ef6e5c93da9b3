"""Checks that the arrows of the architecture point down, from the imports as they are written.

Floors, from the ground: errors; ir; ops; the rest of the core; passes and targets; report, demo and compiler; cli and the
package's front door. A module imports from its own floor and those below it. Besides:

* A pass never imports a target, and a target never imports another target.
* No target's name stands in the code of the core or of a pass; docstrings and comments may mention it.

Imports inside functions and under `if TYPE_CHECKING:` count like all others: a type that is named is known, too.

Usage: python .ci/lint_layers.py [ROOT]
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

FLOORS: tuple[tuple[str, ...], ...] = (
    ("errors",),
    ("ir",),
    ("ops",),
    (),  # the rest of the core
    ("passes", "targets"),
    ("report", "demo", "options", "trials", "compilation", "compiler"),
    ("cli", "__init__", "__main__"),
)
CORE = 3
FLOOR_NAMES = ("errors", "ir", "ops", "the core", "passes and targets", "compiler", "cli")
PACKAGE = "qcompiler"


def check(root: Path) -> list[str]:
    """All violations below a project root, as `file:line: what`, in the order of the files."""
    modules = dict(_modules(root))
    names = _target_names(root)
    found: list[str] = []
    for module, path in sorted(modules.items(), key=lambda item: item[1]):
        tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
        where = path.relative_to(root)
        for line, imported in _imports(tree, module, path, modules):
            reason = _forbidden(module, imported)
            if reason:
                found.append(f"{where}:{line}: {module} imports {imported}: {reason}")
        if _place(module)[0] != "targets":
            for line, name in _named_targets(tree, names):
                found.append(
                    f"{where}:{line}: {name!r} is the name of a target; only its own folder may know it"
                )
    return found


def _modules(root: Path) -> Iterator[tuple[str, Path]]:
    for folder, prefix in (
        ("qcompiler", PACKAGE),
        ("passes", f"{PACKAGE}.passes"),
        ("targets", f"{PACKAGE}.targets"),
    ):
        for path in sorted((root / folder).rglob("*.py")):
            parts = path.relative_to(root / folder).with_suffix("").parts
            if parts[-1] == "__init__":
                parts = parts[:-1]
            yield ".".join((prefix, *parts)), path


def _place(module: str) -> tuple[str, ...]:
    """The module's parts below the package; ("__init__",) for the package itself."""
    return tuple(module.split(".")[1:]) or ("__init__",)


def _floor(module: str) -> int:
    first = _place(module)[0]
    return next((number for number, names in enumerate(FLOORS) if first in names), CORE)


def _forbidden(module: str, imported: str) -> str:
    here, there = _floor(module), _floor(imported)
    if there > here:
        return f"{FLOOR_NAMES[there]} is above {FLOOR_NAMES[here]}"
    place, other = _place(module), _place(imported)
    if place[0] == "passes" and other[0] == "targets":
        return "a pass never imports a target"
    if place[0] == other[0] == "targets" and len(other) > 1 and place[1:2] != other[1:2]:
        return "a target never imports another target"
    return ""


def _imports(tree: ast.AST, module: str, path: Path, modules: dict[str, Path]) -> Iterator[tuple[int, str]]:
    """(line, module) of every import of the project's own modules; a name imported from a package is resolved."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            wanted = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
                base = ".".join([*package[: len(package) - node.level + 1], *filter(None, [base])])
            names = [f"{base}.{alias.name}" for alias in node.names]
            wanted = [name if name in modules else base for name in names]
        else:
            continue
        for name in dict.fromkeys(wanted):
            if name.split(".")[0] == PACKAGE and name != module:
                yield node.lineno, name


def _target_names(root: Path) -> re.Pattern[str] | None:
    folders = sorted(path.name for path in (root / "targets").glob("*/") if (path / "__init__.py").is_file())
    if not folders:
        return None
    return re.compile(
        "|".join(rf"(?<![a-z]){re.sub('[_-]', '[-_]?', name)}(?![a-z])" for name in folders), re.IGNORECASE
    )


def _named_targets(tree: ast.AST, names: re.Pattern[str] | None) -> Iterator[tuple[int, str]]:
    docstrings = set(_docstrings(tree))
    for node in ast.walk(tree) if names else ():
        texts: list[str] = []
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in docstrings:
            texts = [node.value]
        elif isinstance(node, ast.Name):
            texts = [node.id]
        elif isinstance(node, ast.Attribute):
            texts = [node.attr]
        elif isinstance(node, ast.arg):
            texts = [node.arg]
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            texts = [node.name]
        for text in texts:
            found = names.search(text) if names else None
            if found:
                yield getattr(node, "lineno", 0), found.group()


def _docstrings(tree: ast.AST) -> Iterator[ast.Constant]:
    """String constants that stand alone as statements."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            yield node.value


def main() -> int:
    """Prints the violations; returns the exit code."""
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent.parent
    found = check(root)
    for line in found:
        print(line)
    print(f"lint_layers: {len(found) or 'no'} violation{'' if len(found) == 1 else 's'}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
