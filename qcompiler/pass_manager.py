"""What a pass is, and what it may know and say.

A pass is a frozen dataclass in a file of its own. Its fields are its options: the command line, configuration files and
`qcompiler passes` are derived from them.

    @dataclass(frozen=True)
    class DropIdentity(Pass):
        name = "drop_identity"
        effect = Effect.EXACT

        def run(self, graph: Graph, context: PassContext) -> PassResult: ...
"""

from __future__ import annotations

import dataclasses
import enum
import inspect
import json
import re
import sys
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from qcompiler.errors import OptionError, suggest

if TYPE_CHECKING:
    from qcompiler.budget import Budget
    from qcompiler.crowds import Crowds
    from qcompiler.data import DataSource
    from qcompiler.ir.facts import Fact
    from qcompiler.ir.graph import Graph
    from qcompiler.ir.plan import Plan
    from qcompiler.target import Target


class Effect(enum.Enum):
    """What a pass does to the function that the graph computes."""

    EXACT = "exact"
    """The same function, up to float rounding."""
    APPROXIMATE = "approximate"
    """Another function, close to the first."""
    ANNOTATES = "annotates"
    """The graph is not changed; facts are added."""


class Level(enum.Enum):
    """How much a diagnostic matters."""

    INFO = "info"
    NEAR_MISS = "near miss"
    WARNING = "warning"


@dataclass(frozen=True)
class Diagnostic:
    """Something a pass says about a node (or, with an empty name, about the graph)."""

    level: Level
    node: str
    message: str

    def __str__(self) -> str:
        return f"{self.node}: {self.message}" if self.node else self.message


@dataclass
class PassResult:
    """What a pass did.

    Attributes:
        counts: How often each kind of change was made.
        diagnostics: What is worth telling.
    """

    counts: dict[str, int] = field(default_factory=dict)
    diagnostics: list[Diagnostic] = field(default_factory=list)

    @property
    def changed(self) -> int:
        """How many changes were made."""
        return sum(self.counts.values())

    def count(self, kind: str, number: int = 1) -> None:
        """Counts a change."""
        if number:
            self.counts[kind] = self.counts.get(kind, 0) + number

    def say(self, level: Level, node: str, message: str) -> None:
        """Adds a diagnostic."""
        self.diagnostics.append(Diagnostic(level, node, message))


Progress = Callable[[str, int, int], None]
"""Called with (what, done, total) as work proceeds."""


def _silent(what: str, done: int, total: int) -> None:
    pass


@dataclass
class PassContext:
    """What a pass may know besides the graph.

    Attributes:
        target: What is compiled for; None in pipelines that only transform.
        calibration: Calibration data, if given.
        plan: A plan to apply instead of deciding, if given.
        budget: What precision assignment has to keep to and make small; None for one precision everywhere.
        statistics: File of calibration statistics to read (if it exists) or write.
        float_format: What values that stay float are stored as: "float32" or "float16".
        crowds: Says where a plan takes more memory than there is; None where nobody plans memory.
        progress: Where progress goes.
        fuel: How many rewrites may still happen; None for any number. Bisection runs passes on limited fuel.
    """

    target: Target | None = None
    calibration: DataSource | None = None
    plan: Plan | None = None
    budget: Budget | None = None
    statistics: Path | None = None
    float_format: str = "float32"
    crowds: Crowds | None = None
    progress: Progress = _silent
    fuel: int | None = None
    rewrites: list[str] = field(default_factory=list)

    def allow(self, what: str) -> bool:
        """Asks for permission to make one rewrite; `what` describes it. Always granted unless a bisection counts them."""
        if self.fuel is not None and len(self.rewrites) >= self.fuel:
            return False
        self.rewrites.append(what)
        return True


@dataclass(frozen=True)
class Pass:
    """Base of all passes. Subclasses are frozen dataclasses whose fields are their options.

    Attributes:
        name: As in pipelines; the file's name.
        effect: What happens to the function; the pass manager can hold a pass to it.
        requires: Facts that must hold before.
        establishes: Facts that hold afterwards.
        invalidates: Facts that hold no longer, unless also established.
    """

    name: ClassVar[str] = ""
    effect: ClassVar[Effect] = Effect.APPROXIMATE
    requires: ClassVar[tuple[Fact[Any], ...]] = ()
    establishes: ClassVar[tuple[Fact[Any], ...]] = ()
    invalidates: ClassVar[tuple[Fact[Any], ...]] = ()

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        """Transforms or annotates the graph in place."""
        raise NotImplementedError

    @classmethod
    def summary(cls) -> str:
        """The first paragraph of the class's docstring."""
        return " ".join((cls.__doc__ or "").strip().split("\n\n")[0].split())

    @classmethod
    def options(cls) -> dict[str, tuple[Any, Any]]:
        """Option name to (type, default); `dataclasses.MISSING` where there is no default."""
        return {entry.name: (_type(cls, entry), _default(entry)) for entry in dataclasses.fields(cls)}

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Self:
        """Makes the pass from option values: typed ones, or text as on the command line.

        Raises:
            OptionError: An option is unknown or its value does not fit.
        """
        known = cls.options()
        values = {}
        for key, given in options.items():
            if key not in known:
                raise OptionError(f"The pass {cls.name} has no option {key!r}{suggest(key, known)}")
            values[key] = convert_option(given, known[key][0], f"option {key!r} of the pass {cls.name}")
        for entry in dataclasses.fields(cls):
            required = entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING
            if required and entry.name not in values:
                raise OptionError(
                    f"The pass {cls.name} needs the option {entry.name!r}; write {entry.name}=value."
                )
        return cls(**values)

    def __str__(self) -> str:
        entries = dataclasses.fields(self)
        values = [(entry, getattr(self, entry.name)) for entry in entries]
        changed = [(entry.name, value) for entry, value in values if value != _default(entry)]
        if not changed:
            return self.name
        return f"{self.name}{{{','.join(f'{key}={_option_text(item)}' for key, item in changed)}}}"


def _default(entry: dataclasses.Field[Any]) -> Any:
    factory = entry.default_factory
    return entry.default if factory is dataclasses.MISSING else factory()


def _type(cls: type, entry: dataclasses.Field[Any]) -> Any:
    """A field's type. Only fields are resolved: other annotations may name what is imported for type checkers alone."""
    owner = next(base for base in cls.__mro__ if entry.name in inspect.get_annotations(base))
    holder = types.SimpleNamespace(__annotations__={entry.name: entry.type})
    return typing.get_type_hints(holder, vars(sys.modules[owner.__module__]))[entry.name]


_BARE = re.compile(r"[\w./:@~-]+")
_PIECE = re.compile(r'"(?:[^"\\]|\\.)*"|[^"]', re.DOTALL)


def _option_text(item: Any) -> str:
    """An option's value as text that `convert_option` reads back; strings are quoted as in JSON where need be."""
    if item is None:
        return "none"
    if isinstance(item, bool):
        return "true" if item else "false"
    if isinstance(item, tuple):
        return "+".join(_option_text(entry) for entry in item)
    if isinstance(item, enum.Enum):
        item = item.value
    if isinstance(item, float):
        return repr(item).replace("e+", "e")
    text = str(item)
    return text if _BARE.fullmatch(text) and text != "none" else json.dumps(text, ensure_ascii=False)


def split_outside_quotes(text: str, separator: str) -> list[str]:
    """The parts of a text between separators that stand outside double quotes."""
    parts = [""]
    for piece in _PIECE.findall(text):
        if piece == separator:
            parts.append("")
        else:
            parts[-1] += piece
    return parts


def _unquoted(text: str, what: str) -> str:
    if not text.startswith('"'):
        return text
    try:
        return str(json.loads(text))
    except ValueError:
        raise OptionError(f"The {what} is {text}; the quotes in it do not match.") from None


def convert_option(given: Any, kind: Any, what: str) -> Any:
    """Converts an option's value to its declared type: bool, int, float, str, Literal, tuple[..., ...], or optional.

    Raises:
        OptionError: The value does not fit; the message gives what is accepted.
    """
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        if given is None or given == "none":
            return None
        kind = next(entry for entry in typing.get_args(kind) if entry is not type(None))
        return convert_option(given, kind, what)
    if origin is typing.Literal:
        accepted = typing.get_args(kind)
        for entry in accepted:
            if given == entry or (isinstance(given, str) and given == _option_text(entry)):
                return entry
        raise OptionError(f"The {what} is {given!r}{suggest(str(given), map(str, accepted))}")
    if origin is tuple:
        items = split_outside_quotes(given, "+") if isinstance(given, str) else list(given)
        return tuple(convert_option(item, typing.get_args(kind)[0], what) for item in items if item != "")
    if kind is bool:
        if isinstance(given, bool):
            return given
        if given not in ("true", "false"):
            raise OptionError(f"The {what} is {given!r}; it takes true or false.")
        return given == "true"
    try:
        if kind in (int, float) and isinstance(given, bool):
            raise ValueError
        if kind is int and isinstance(given, float):  # int() would cut the fraction off
            raise ValueError
        return kind(_unquoted(given, what) if isinstance(given, str) else given)
    except (TypeError, ValueError):
        wanted = {int: "an integer", float: "a number"}.get(kind, f"a {getattr(kind, '__name__', kind)}")
        raise OptionError(f"The {what} is {given!r}; it takes {wanted}.") from None
