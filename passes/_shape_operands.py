"""Shape operands with open sizes, said as constants: 0 and -1 of Reshape, 1 of Expand, the end of Slice, axes of Resize."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from qcompiler.ir.node import Node
from qcompiler.passes._sizes import Size, SizeTracker, size_of

_TO_THE_END = int(np.iinfo(np.int64).max)


def _reshape_target(node: Node, elements: list[int | Size], tracker: SizeTracker) -> list[int] | None:
    """0 where the size is the input's at that place, -1 for one other: the only free one follows from the rest."""
    source = node.inputs[0]
    if source is None or node.attributes.get("allowzero", 0):
        return None
    target: list[int] = []
    for axis, item in enumerate(elements):
        if isinstance(item, int):
            target.append(item)
        elif source.rank is not None and axis < source.rank and size_of(source, axis) == item:
            target.append(0)
        elif -1 in target or -1 in elements:
            return None
        else:
            target.append(-1)
    return target


def _expand_target(node: Node, elements: list[int | Size], tracker: SizeTracker) -> list[int] | None:
    """1 (keep) where the size is the input's own."""
    source = node.inputs[0]
    if source is None or source.rank is None:
        return None
    offset = len(elements) - source.rank
    target = []
    for place, item in enumerate(elements):
        if isinstance(item, int):
            target.append(item)
        elif place >= offset and size_of(source, place - offset) == item:
            target.append(1)
        else:
            return None
    return target


def _slice_ends(node: Node, elements: list[int | Size], tracker: SizeTracker) -> list[int] | None:
    """To the end, where the end is the size of the axis."""
    source, axes = node.inputs[0], tracker.numbers(node.input(3))
    if source is None or source.rank is None or (axes is None and node.input(3) is not None):
        return None
    axes = list(range(len(elements))) if axes is None else axes
    ends = []
    for axis, item in zip(axes, elements, strict=True):
        if isinstance(item, Size) and size_of(source, axis % source.rank) != item:
            return None
        ends.append(_TO_THE_END if isinstance(item, Size) else item)
    steps = tracker.numbers(node.input(4))
    backwards = node.input(4) is not None and (steps is None or min(steps) < 0)
    return None if backwards else ends


def _resize_sizes(node: Node, elements: list[int | Size], tracker: SizeTracker) -> list[int] | None:
    """The sizes that are numbers; axes whose size is the input's own are left out (attribute axes, Resize-18)."""
    source = node.inputs[0]
    if source is None or "axes" in node.attributes or node.input(1) is not None:
        return None
    if node.attributes.get("keep_aspect_ratio_policy", b"stretch") not in (b"stretch", "stretch"):
        return None
    kept = resized_axes(node, elements)
    sizes = [item for axis, item in enumerate(elements) if axis in kept and isinstance(item, int)]
    return sizes if sizes and len(sizes) == len(kept) else None


def resized_axes(node: Node, elements: list[int | Size]) -> list[int]:
    """The axes that a Resize gives another size."""
    source = node.inputs[0]
    assert source is not None
    return [axis for axis, item in enumerate(elements) if size_of(source, axis) != item]


USERS: dict[str, tuple[int, Callable[[Node, list[int | Size], SizeTracker], list[int] | None]]] = {
    "Reshape": (1, _reshape_target), "Expand": (1, _expand_target), "Slice": (2, _slice_ends), "Resize": (3, _resize_sizes),
}  # fmt: skip
OPERAND_NAMES = {"Reshape": "shape", "Expand": "shape", "Slice": "ends", "Resize": "sizes"}
"""Operator to the slot of its shape operand and the function that says it as a constant (None: it cannot)."""
