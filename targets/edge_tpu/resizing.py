"""With what flags the file's resizing operators read the rows and columns that a Resize reads."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np

from qcompiler.integer.encode_resizing import integer_positions

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qcompiler.integer.operations import Resize


def flags_of(work: Resize, image: tuple[int, ...], made: tuple[int, ...]) -> dict[str, bool] | None:
    """The flags with which RESIZE_NEAREST_NEIGHBOR or RESIZE_BILINEAR reads what a Resize reads; None if there are none.

    Args:
        work: The Resize.
        image: Rows and columns of what is read.
        made: Rows and columns of what is written.
    """
    for align, half in itertools.product((False, True), repeat=2):
        if align and half and not work.nearest:
            continue
        reads = [
            _reads(work, axis, size, wanted, align, half)
            for axis, size, wanted in zip((work.rows, work.columns), image, made, strict=True)
        ]
        if all(reads):
            return {"align_corners": align, "half_pixel_centers": half}
    return None


def _reads(
    work: Resize, axis: tuple[NDArray[np.int32], ...], size: int, made: int, align: bool, half: bool
) -> bool:
    """Whether the file's operator reads the same along an axis."""
    if work.nearest:
        return np.array_equal(axis[0], nearest(size, made, align, half))
    found = integer_positions(size, made, align=align, half=half)
    return found is not None and all(map(np.array_equal, axis, found))


def nearest(size: int, made: int, align: bool, half: bool) -> NDArray[np.int32]:
    """What RESIZE_NEAREST_NEIGHBOR reads along an axis, in float32 (`GetNearestNeighbor` of TensorFlow Lite)."""
    scale = np.float32((size - 1) / (made - 1)) if align and made > 1 else np.float32(size / made)
    place = (np.arange(made, dtype=np.float32) + np.float32(0.5 if half else 0)) * scale
    chosen = np.sign(place) * np.floor(np.abs(place) + np.float32(0.5)) if align else np.floor(place)
    near: NDArray[np.int32] = np.clip(chosen, 0, size - 1).astype(np.int32)
    return near
