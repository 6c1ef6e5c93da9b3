"""Ranges for constant tensors: the clip that loses least, searched for all channels at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from qcompiler.ir.encoding import Encoding, Format, channel_range

if TYPE_CHECKING:
    from numpy.typing import NDArray

_FRACTIONS = np.linspace(1.0, 0.3, 36)
_CHUNK = 1 << 22  # elements quantized at once, which bounds memory for big weights


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
    best_low, best_high = low.copy(), high.copy()
    count = max(1, _CHUNK // max(rows.shape[1], 1))
    for start in range(0, len(rows), count):
        part = slice(start, start + count)
        best_low[part], best_high[part] = _search(
            np.asarray(rows[part], np.float32), low[part], high[part], numeric, symmetric, narrow
        )
    return best_low, best_high


def _search(
    rows: NDArray[np.float32],
    low: NDArray[np.float64],
    high: NDArray[np.float64],
    numeric: Format,
    symmetric: bool,
    narrow: bool,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    best = np.full(len(rows), np.inf)
    best_low, best_high = low.copy(), high.copy()
    fractions = _FRACTIONS if numeric.bits < 8 else _FRACTIONS[_FRACTIONS >= 0.7]
    for fraction in fractions:
        encoding = Encoding.from_range(
            numeric, low * fraction, high * fraction, symmetric=symmetric, narrow=narrow, axis=0
        )
        error = np.square(encoding.fake_quantize(rows) - rows, dtype=np.float64).sum(axis=1)
        better = error < best
        best[better] = error[better]
        best_low[better], best_high[better] = low[better] * fraction, high[better] * fraction
    return best_low, best_high
