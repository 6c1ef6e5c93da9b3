"""The schema of TensorFlow Lite files, from the package that has it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from qcompiler.errors import ExtraError

ELEMENTS = {
    kind: dtype
    for dtype, kinds in {
        "i1": "INT8 INT4 INT2",
        "u1": "UINT8 UINT4 FLOAT8_E4M3FN FLOAT8_E5M2",
        "?": "BOOL",
        "<i2": "INT16",
        "<i4": "INT32",
        "<i8": "INT64",
        "<u2": "UINT16 BFLOAT16",
        "<u4": "UINT32",
        "<u8": "UINT64",
        "<f2": "FLOAT16",
        "<f4": "FLOAT32",
        "<f8": "FLOAT64",
        "<c8": "COMPLEX64",
        "<c16": "COMPLEX128",
    }.items()
    for kind in kinds.split()
}
"""Types of elements as numpy has them; those of other types (strings) are bytes, however many."""
BITS = {"INT2": 2, "INT4": 4, "UINT4": 4}
"""Types of which a byte holds several, the first one lowest."""


@cache
def packages() -> tuple[Any, Any]:
    """The schema's classes, and the library that writes them.

    Raises:
        ExtraError: They are not installed.
    """
    try:
        import flatbuffers
        from ai_edge_litert import schema_py_generated
    except ImportError as error:
        raise ExtraError(
            "TensorFlow Lite files are read and written with the package ai-edge-litert, which is not installed: "
            'pip install "qcompiler[edge-tpu]".'
        ) from error
    return schema_py_generated, flatbuffers


@cache
def members(enumeration: Any) -> Mapping[str, int]:
    """The members of an enumeration of the schema."""
    return {name: value for name, value in vars(enumeration).items() if not name.startswith("_")}


def member(enumeration: Any, name: str) -> int:
    """The value of a member.

    Raises:
        ValueError: There is none of that name.
    """
    known = members(enumeration)
    if name not in known:
        raise ValueError(f"{enumeration.__name__} has no {name!r}, but {', '.join(known)}.")
    return known[name]


def name_of(enumeration: Any, value: int) -> str:
    """The name of a member.

    Raises:
        ValueError: There is none of that value.
    """
    for name, known in members(enumeration).items():
        if known == value:
            return name
    raise ValueError(f"{enumeration.__name__} has no {value}")
