"""Reads tables (TOML, JSON) into frozen dataclasses: the fields are the schema.

Unknown keys, missing keys and wrong values are refused with the file, the key's path and what is accepted. A field with
`metadata={"key": False}` is no key of the file, one with `metadata={"key": "max-drop"}` stands there under that name.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from qcompiler.errors import QCompilerError, suggest

T = TypeVar("T")


class SchemaReader:
    """Reads tables of one file; errors are of the class given and begin with the file's name."""

    def __init__(self, file: str, error: type[QCompilerError]) -> None:
        self.file = file
        self.error = error

    def fail(self, key: str, message: str) -> QCompilerError:
        """An error about a key."""
        return self.error(f"{self.file}: {key}: {message}")

    def read(self, kind: type[T], table: Any, key: str = "") -> T:
        """Makes a dataclass from a table.

        Args:
            kind: A dataclass; nested dataclasses, tuples, mappings, Literals and optionals are followed.
            table: The mapping read from the file.
            key: The path of the table in the file, for messages.

        Raises:
            QCompilerError: Of the reader's class, see the module.
        """
        if not isinstance(table, Mapping):
            raise self.fail(key or "the file", f"expected a table, found {_kind_name(table)}")
        hints = typing.get_type_hints(kind)
        fields = dataclasses.fields(typing.cast("Any", kind))
        entries = {name: entry for entry in fields if (name := _key(entry))}
        for name in table:
            if name not in entries:
                raise self.fail(_join(key, name), f"unknown key{suggest(name, entries)}")
        values: dict[str, Any] = {}
        for name, entry in entries.items():
            if name in table:
                values[entry.name] = self.value(hints[entry.name], table[name], _join(key, name))
            elif entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING:
                raise self.fail(_join(key, name), "this key is required and missing")
        try:
            return kind(**values)
        except ValueError as error:
            raise self.fail(key or "the file", str(error)) from error

    def value(self, hint: Any, given: Any, key: str) -> Any:
        """A value read as its declared type says.

        Raises:
            QCompilerError: Of the reader's class: it does not fit.
        """
        origin, arguments = typing.get_origin(hint), typing.get_args(hint)
        if hint is Any:
            return given
        if origin in (typing.Union, types.UnionType):
            kinds = [kind for kind in arguments if kind is not type(None)]
            if len(kinds) > 1:
                raise TypeError(f"{key}: a field of a table has one type, or one type or None, not {hint}")
            return self.value(kinds[0], given, key)
        if origin is typing.Literal:
            if given not in arguments:
                raise self.fail(key, f"{given!r} is not accepted{suggest(str(given), map(str, arguments))}")
            return given
        if origin is tuple:
            items = given if isinstance(given, list) else [given]
            return tuple(
                self.value(arguments[0], item, f"{key}[{index}]") for index, item in enumerate(items)
            )
        if origin is list:
            if not isinstance(given, list):
                raise self.fail(key, f"expected a list, found {_kind_name(given)}")
            return [self.value(arguments[0], item, f"{key}[{index}]") for index, item in enumerate(given)]
        if isinstance(origin, type) and issubclass(origin, Mapping):
            if not isinstance(given, Mapping):
                raise self.fail(key, f"expected a table, found {_kind_name(given)}")
            return {name: self.value(arguments[1], item, _join(key, name)) for name, item in given.items()}
        if dataclasses.is_dataclass(hint):
            return self.read(typing.cast("type[Any]", hint), given, key)
        return self._scalar(hint, given, key)

    def _scalar(self, hint: Any, given: Any, key: str) -> Any:
        if hint is float and isinstance(given, int) and not isinstance(given, bool):
            return float(given)
        if not isinstance(given, hint) or (isinstance(given, bool) and hint is not bool):
            raise self.fail(key, f"expected {_type_name(hint)}, found {given!r}")
        return given


def _key(entry: dataclasses.Field[Any]) -> str:
    """What a field is called in files; "" where it is no key."""
    key = entry.metadata.get("key", True)
    return key if isinstance(key, str) else entry.name if key else ""


def _join(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name


def _type_name(hint: Any) -> str:
    return {str: "text", int: "an integer", float: "a number", bool: "true or false"}.get(
        hint, getattr(hint, "__name__", str(hint))
    )


def _kind_name(given: Any) -> str:
    kind = {str: "text", int: "an integer", float: "a number", bool: "a truth value", list: "a list"}
    return f"{kind.get(type(given), type(given).__name__)} {given!r}"
