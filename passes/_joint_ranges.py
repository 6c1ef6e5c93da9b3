"""The range of an activation that hurts the layer reading it least."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from qcompiler.ir.encoding import Encoding

if TYPE_CHECKING:
    from numpy.typing import NDArray

_FRACTIONS = np.geomspace(1.0, 0.12, 24)
_HOPELESS = 4.0
"""So many times the least loss, and growing: what narrower ranges cut off only grows."""
_NEAR = np.geomspace(0.88, 1.12, 7)


def search_range(
    x: NDArray[np.float32], wanted: NDArray[np.float32], weights: NDArray[np.float64], start: Encoding
) -> Encoding:
    """The encoding of least squared error of the layer's output, up to a constant per channel, which the bias takes.

    Args:
        x: Rows of the layer's input, not quantized, [groups, rows, inputs].
        wanted: The outputs wanted for them, [groups, rows, outputs].
        weights: The float weights, [groups, outputs, inputs].
        start: The encoding to improve; the result is of the same kind and never worse on these rows.
    """
    across = np.ascontiguousarray(weights.transpose(0, 2, 1), np.float32)

    def error(encoding: Encoding) -> float:
        gap = wanted - np.matmul(encoding.fake_quantize(x), across)
        gap -= gap.mean(axis=1, keepdims=True)
        return float(np.einsum("gro,gro->", gap, gap, dtype=np.float64))

    symmetric = start.zero_point is not None and bool((start.zero_point == start.format.middle).all())

    def made(low: float, high: float) -> Encoding:
        return Encoding.from_range(start.format, low, high, symmetric=symmetric, narrow=start.narrow)

    low, high = min(float(x.min(initial=0.0)), 0.0), max(float(x.max(initial=0.0)), 0.0)
    best, least = start, error(start)
    limit = max(-low, high)
    ends, before = best.real_range(), np.inf
    for fraction in _FRACTIONS:
        tried = max(low, -limit * fraction), min(high, limit * fraction)
        loss = error(made(*tried))
        if loss < least:
            best, least, ends = made(*tried), loss, tried
        elif loss > max(before, _HOPELESS * least):
            break
        before = loss
    moves = [(1.0, near) for near in _NEAR] + (
        [(near, 1.0) for near in _NEAR] if low < 0 and not symmetric else []
    )
    for below, above in moves:
        tried = ends[0] * below, ends[1] * above
        loss = error(made(*tried))
        if loss < least:
            best, least = made(*tried), loss
    return best
