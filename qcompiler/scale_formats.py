"""Scales in the float format that an artifact stores them in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qcompiler.ir.encoding import Format

_PRECISE = 2.0**-9
"""How much a scale may change, relative to itself: the code 127 by a quarter of a step then."""


def rounded_scale(scale: NDArray[np.float32], stored: Format) -> NDArray[Any]:
    """Scales rounded to a float format, and never to 0; in the format's dtype.

    Args:
        scale: The scales, in any shape.
        stored: The format.
    """
    smallest = np.nextafter(np.zeros((), stored.dtype), np.ones((), stored.dtype))
    rounded: NDArray[Any] = np.maximum(scale.astype(stored.dtype), smallest)
    return rounded


def scale_loss(scale: NDArray[np.float32], stored: Format, codes: float = 256) -> str:
    """What a float format would do to scales where that is more than rounding, one clause; empty where it is not.

    Of several scales (channels of a weight) only the largest has to be precise: smaller ones lose no more in absolute terms.

    Args:
        scale: The scales, in any shape.
        stored: The format.
        codes: How many steps away from zero numbers may be.
    """
    largest = float(scale.max())
    if largest * codes > stored.maximum:
        return f"what its scale {largest:.3g} stands for exceeds {stored.name}"
    error = np.abs(rounded_scale(scale, stored).astype(np.float32) - scale)
    return (
        f"its scale {largest:.3g} is too small for {stored.name}" if error.max() > _PRECISE * largest else ""
    )
