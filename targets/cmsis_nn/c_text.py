"""C source text: identifiers, comments and arrays that nothing in a model can break out of."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_C_TYPES = {
    "int8": "int8_t",
    "uint8": "uint8_t",
    "int16": "int16_t",
    "int32": "int32_t",
    "int64": "int64_t",
}


def identifier(name: str) -> str:
    """A name of a model as (part of) a C identifier: letters, digits and underscores, 40 at most."""
    return re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_")[-40:].strip("_") or "unnamed"


def comment(text: str) -> str:
    """Text of a model as it may stand in a comment: printable ASCII, without anything that ends or begins one."""
    plain = re.sub(r"[^ -~]", "?", text).replace("\\", "/")
    return re.sub(r"\*/|/\*|//|\?\?", "..", plain)[:100]


def c_type(dtype: np.dtype[Any]) -> str:
    """The C type of an element; int4 travels in bytes."""
    return _C_TYPES.get(dtype.name, "int8_t")


def packed(codes: NDArray[Any]) -> NDArray[np.int8]:
    """4-bit codes, two in a byte: the first one in the lower half."""
    flat: NDArray[Any] = np.asarray(codes, np.int8).reshape(-1).view(np.uint8) & 15
    if flat.size % 2:
        flat = np.append(flat, np.uint8(0))
    both: NDArray[Any] = flat[::2] | (flat[1::2] << 4)
    return both.view(np.int8)


_BYTES = [str(number) for number in range(-128, 128)]


def numbers(data: NDArray[Any]) -> str:
    """The elements of an array, comma-separated, in lines."""
    flat = np.asarray(data).reshape(-1)
    if flat.dtype == np.int8:
        words = [_BYTES[code] for code in (flat.astype(np.int16) + 128).tolist()]
        per_line = 24
    else:
        words = [_literal(int(item), flat.dtype) for item in flat.tolist()]
        per_line = 10
    lines = (", ".join(words[start : start + per_line]) for start in range(0, len(words), per_line))
    return ",\n  ".join(lines)


def _literal(number: int, dtype: np.dtype[Any]) -> str:
    if dtype == np.int64:
        return f"INT64_C({number})"
    return "(-2147483647 - 1)" if number == -(1 << 31) else str(number)  # C has no literal for the least one
