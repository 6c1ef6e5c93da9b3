"""Ranges for constant tensors: the clip that loses least, searched for all channels at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from qcompiler.ir.encoding import Encoding, Format, channel_range

if TYPE_CHECKING:
    from numpy.typing import NDArray

_FRACTIONS = np.linspace(1.0, 0.3, 36)
_LEAST_FRACTION_8_BIT = 0.7  # with 256 levels a narrower clip never paid
_CHUNK = 1 << 21  # elements quantized at once, which bounds memory for big weights


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
    best = np.empty(len(rows))
    count = max(1, _CHUNK // max(rows.shape[1] * len(fractions), 1))
    for start in range(0, len(rows), count):
        part = slice(start, start + count)
        best[part] = _search(
            np.asarray(rows[part], np.float32), low[part], high[part], numeric, symmetric, narrow, fractions
        )
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
    """The best fraction of each row's range; all fractions of all rows are tried as channels of one tensor."""
    lows, highs = np.outer(fractions, low).reshape(-1), np.outer(fractions, high).reshape(-1)
    encoding = Encoding.from_range(numeric, lows, highs, symmetric=symmetric, narrow=narrow, axis=0)
    tried = np.tile(rows, (len(fractions), 1))
    gap = encoding.fake_quantize(tried)
    gap -= tried
    error = np.einsum("ij,ij->i", gap, gap, dtype=np.float64).reshape(len(fractions), len(rows))
    best: NDArray[np.float64] = fractions[error.argmin(axis=0)]
    return best
