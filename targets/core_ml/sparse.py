"""Constants with many zeros: a bit per element says where it is not zero, and only those elements are stored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qcompiler.targets.core_ml.author import Author, Var

CODES_FROM = 9
"""The specification version (iOS 18) that stores codes with a mask, and whose masks have the constant's shape."""
_OVERHEAD = 8 * 768
"""Bits that a further operator and a further blob take in the package: some 480 bytes were measured, and names may be longer."""


def bits_of(known: NDArray[np.bool_], bits: int) -> int:
    """What elements and their mask take.

    Args:
        known: Which elements are not zero.
        bits: Of an element.
    """
    return int(known.sum()) * bits + known.size


def is_smaller(known: NDArray[np.bool_], bits: int) -> bool:
    """Whether elements and their mask take less than all elements do, by more than the operators that put them together.

    Args:
        known: Which elements are not zero; where none is, the answer is no, for coremltools stores nothing of size 0.
        bits: Of an element.
    """
    return bool(known.any()) and bits_of(known, bits) + _OVERHEAD < known.size * bits


def floats(author: Author, data: NDArray[Any]) -> Var:
    """Floats with a mask."""
    known = data != 0
    if author.specification >= CODES_FROM:
        mask = author.packed(known, "uint1")
        return author.op("constexpr_sparse_to_dense", nonzero_data=data[known], mask=mask)
    mask, shape = np.packbits(known, bitorder="little"), np.array(data.shape, np.uint32)
    return author.op("constexpr_sparse_to_dense", nonzero_data=data[known], mask=mask, shape=shape)
