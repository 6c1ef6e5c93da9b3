"""Constants as a package stores them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qcompiler.targets.core_ml.author import Author, Var

_INT32 = np.iinfo(np.int32)


@runtime_checkable
class Constant(Protocol):
    """A constant that is stored in some form of its own, which every reader gets in the type that it computes in."""

    def write(self, author: Author, name: str, dtype: np.dtype[Any]) -> Var:
        """Writes the operator that holds it, and returns its variable."""
        ...


def stored(data: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """A constant as the package stores it: floats in a given type, 64-bit integers in 32, at whose ends they stop."""
    if data.dtype.kind == "f":
        return data.astype(dtype)
    if data.dtype == np.int64 or data.dtype == np.uint64:
        return np.asarray(np.clip(data, _INT32.min, _INT32.max), np.int32)
    return data
