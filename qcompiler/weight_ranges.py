"""Ranges for constant tensors: the clip that loses least, searched for all channels at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from qcompiler.ir.encoding import Encoding, Format, channel_range

if TYPE_CHECKING:
    from numpy.typing import NDArray

_FRACTIONS = np.linspace(1.0, 0.3, 36)
_LEAST_FRACTION_8_BIT = 0.7  # with 256 levels a narrower clip never paid
_CACHED = 1 << 16  # elements worked on at once: they stay in the processor's cache


def least_error_range(
    rows: NDArray[Any], numeric: Format, *, symmetric: bool, narrow: bool = False
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The range of each row that minimises its squared quantization error, over shrunken copies of its full range.

    Args:
        rows: [channels, elements], finite.
        numeric: The format that the rows are going to have.
        symmetric: As in `Encoding.from_range`.
        narrow: As in `Encoding.from_range`.

    Returns:
        Lower and upper ends, [channels] each.
    """
    low, high = channel_range(rows, 0)
    if not numeric.is_integer or numeric.bits > 8:
        return low, high
    fractions = _FRACTIONS if numeric.bits < 8 else _FRACTIONS[_FRACTIONS >= _LEAST_FRACTION_8_BIT]
    best = _search(np.asarray(rows, np.float32), low, high, numeric, symmetric, narrow, fractions)
    return low * best, high * best


def _search(
    rows: NDArray[np.float32],
    low: NDArray[np.float64],
    high: NDArray[np.float64],
    numeric: Format,
    symmetric: bool,
    narrow: bool,
    fractions: NDArray[np.float64],
) -> NDArray[np.float64]:
    """The best fraction of each row's range: the round trip of `Encoding`, in place."""
    lows, highs = np.outer(fractions, low).reshape(-1), np.outer(fractions, high).reshape(-1)
    encoding = Encoding.from_range(numeric, lows, highs, symmetric=symmetric, narrow=narrow, axis=0)
    assert encoding.scale is not None
    assert encoding.zero_point is not None
    scales = encoding.scale.reshape(len(fractions), len(rows), 1)
    zeros = encoding.zero_point.reshape(len(fractions), len(rows), 1).astype(np.float32)
    errors = np.empty((len(fractions), len(rows)))
    step = max(1, _CACHED // max(rows.shape[1], 1))
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        gap = np.empty_like(rows[part])
        for index in range(len(fractions)):
            scale, zero = scales[index, part], zeros[index, part]
            np.divide(rows[part], scale, out=gap)
            np.rint(gap, out=gap)
            np.clip(gap, encoding.least_code - zero, numeric.maximum - zero, out=gap)
            np.multiply(gap, scale, out=gap)
            np.subtract(gap, rows[part], out=gap)
            errors[index, part] = np.einsum("ij,ij->i", gap, gap, dtype=np.float64)
    best: NDArray[np.float64] = fractions[errors.argmin(axis=0)]
    return best
