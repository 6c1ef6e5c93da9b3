"""Resizing as an integer operation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from qcompiler.errors import TargetError
from qcompiler.integer.encode_images import image_target, read_image
from qcompiler.integer.encoder import Encoder, Tile, rule
from qcompiler.integer.operations import Resize

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qcompiler.integer.program import Tensor
    from qcompiler.ir.node import Node

Positions = tuple["NDArray[Any]", "NDArray[Any]", "NDArray[Any]"]


@rule("Resize")
def resize(encoder: Encoder, tile: Tile) -> None:
    """Resizing of rows and columns, nearest or linear, with the positions computed ahead of time (ONNX Resize-19)."""
    node = tile.anchor
    x, made = read_image(encoder, tile), image_target(encoder, tile)
    mode = node.text("mode", "nearest")
    refused = [name for name in ("antialias", "exclude_outside") if node.attributes.get(name, 0)]
    if mode not in ("nearest", "linear") or refused or x.shape[3] != made.shape[3]:
        raise TargetError(
            f"{node.name}: Resize with {refused[0] if refused else f'mode {mode}'} has no integer form; nearest and linear have."
        )
    scales = _scales(node, x, made)
    in_integers = tile.kernel.positions == "integer" and mode == "linear"
    find = _linear_in_integers if in_integers else _positions
    rows, columns = (find(node, x.shape[axis], made.shape[axis], scales[axis - 1]) for axis in (1, 2))
    encoder.emit(Resize(rows, columns, "away" if in_integers else "up"), (x,), (made,))
    encoder.settle(tile.result, made)


def _scales(node: Node, x: Tensor, made: Tensor) -> tuple[float, float]:
    """Factors of rows and columns: those given, or what follows from the sizes."""
    given = node.input(2)
    sizes = [made.shape[axis] / x.shape[axis] for axis in (1, 2)]
    if given is None or given.data is None or given.data.size < 2:
        return sizes[0], sizes[1]
    factors = np.asarray(given.data, np.float64).reshape(-1)[-2:]
    if "axes" in node.attributes or given.data.size == 3:
        return sizes[0], sizes[1]
    return float(factors[0]), float(factors[1])


def _positions(node: Node, size: int, made: int, scale: float) -> Positions:
    """For each output position the inputs below and above, and the weight of the latter in 1/1024.

    In float32, as onnxruntime computes positions: others round to another input where a position is nearly half between two.
    """
    index, factor = np.arange(made, dtype=np.float32), np.float32(scale)
    how = node.text("coordinate_transformation_mode", "half_pixel")
    half = (index + np.float32(0.5)) / factor - np.float32(0.5)
    if how == "half_pixel":
        place = half
    elif how == "asymmetric":
        place = index / factor
    elif how == "align_corners":
        place = index * np.float32(size - 1) / np.float32(made - 1) if made > 1 else np.zeros(1, np.float32)
    elif how == "pytorch_half_pixel":
        place = half if made > 1 else np.zeros(1, np.float32)
    elif how == "half_pixel_symmetric":
        moved = np.float32(size / 2) * (1 - np.float32(made) / (factor * np.float32(size)))
        place = (float(moved) + (index + 0.5) / float(factor) - 0.5).astype(np.float32)
    else:
        raise TargetError(
            f"{node.name}: Resize with coordinate_transformation_mode {how} has no integer form."
        )
    if node.text("mode", "nearest") == "nearest":
        rounded = {
            "round_prefer_floor": np.ceil(place - 0.5),
            "round_prefer_ceil": np.floor(place + 0.5),
            "floor": np.floor(place),
            "ceil": np.ceil(place),
        }[node.text("nearest_mode", "round_prefer_floor")]
        near = np.clip(rounded, 0, size - 1).astype(np.int32)
        return near, near, np.zeros(made, np.int32)
    place = np.clip(place, 0, size - 1)
    lower = np.floor(place).astype(np.int32)
    weight = np.rint((place - lower) * 1024).astype(np.int32)
    return lower, np.minimum(lower + 1, size - 1).astype(np.int32), weight


_FLAGS = {
    "asymmetric": (False, False),
    "align_corners": (True, False),
    "half_pixel": (False, True),
    "pytorch_half_pixel": (False, True),
    "half_pixel_symmetric": (False, True),
}
"""Transformations of coordinates to whether corners are aligned, and whether pixels have their centres half a pixel inside."""


def _linear_in_integers(node: Node, size: int, made: int, scale: float) -> Positions:
    """The positions of `integer_positions`.

    Raises:
        TargetError: The node asks for others.
    """
    how = node.text("coordinate_transformation_mode", "half_pixel")
    if how not in _FLAGS:
        raise TargetError(
            f"{node.name}: Resize with coordinate_transformation_mode {how} has no integer form."
        )
    align, half = _FLAGS[how]
    if not align and abs(scale * size - made) > 1e-4:
        raise TargetError(
            f"{node.name}: Resize of {size} to {made} by the factor {scale:g} is not the ratio of the sizes, from which this target's kernels "
            "find positions; give sizes instead of scales."
        )
    if how == "pytorch_half_pixel" and made < 2 <= size:
        raise TargetError(
            f"{node.name}: Resize of {size} to 1 by pytorch_half_pixel reads the first element, this target's kernels the middle; use "
            "half_pixel, or Slice."
        )
    if size == 1:
        none = np.zeros(made, np.int32)
        return none, none, none
    found = integer_positions(size, made, align=align, half=half)
    if found is None:
        raise TargetError(
            f"{node.name}: Resize of {size} to {made} has no integer form: positions in multiples of 1/1024 of the rounded ratio end outside "
            "of the image. Resize in two steps."
        )
    return found


def integer_positions(size: int, made: int, *, align: bool, half: bool) -> Positions | None:
    """Positions as multiples of the ratio of sizes, all with 10 fractional bits: lower, upper and weight as in `Resize`.

    TensorFlow Lite's `ComputeInterpolationValuesInteger`; what it does beyond the ends is written as weights of 0.

    Args:
        size: Elements read along the axis.
        made: Elements written.
        align: The first and last elements of both lie upon each other.
        half: Elements are squares: their centres are half an element inside.

    Returns:
        None where positions end outside of the image.
    """
    ratio = (1024 * size + made // 2) // made
    if align and made > 1:
        ratio = (1024 * (size - 1) + (made - 1) // 2) // (made - 1)
    place = np.arange(made, dtype=np.int64) * ratio + (ratio // 2 - 512 if half else 0)
    lower = np.maximum(place, 0) >> 10
    weight = np.where((place < 0) | (lower == size - 1), 0, place & 1023)
    if lower[-1] >= size:
        return None
    upper = lower + (weight > 0)
    return lower.astype(np.int32), upper.astype(np.int32), weight.astype(np.int32)
