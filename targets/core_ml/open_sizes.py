"""Open dimensions of inputs: Core ML wants to know how far they reach."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qcompiler.errors import DataError, OptionError
from qcompiler.targets.core_ml.refusals import dimension

if TYPE_CHECKING:
    from qcompiler.data import DataSource
    from qcompiler.ir.graph import Graph
    from qcompiler.ir.node import Value

LARGEST = 64
"""How far they reach where nothing is said."""


@dataclass(frozen=True)
class Range:
    """Sizes that an open dimension of an input may have."""

    least: int
    most: int
    usual: int


def largest_of(options: Mapping[str, str]) -> int:
    """How far open dimensions reach.

    Raises:
        OptionError: It is no size.
    """
    text = options.get("largest-size", "")
    if text and not (text.isdecimal() and int(text)):
        raise OptionError(
            f"--target-option largest-size={text} cannot be read; give a whole number from 1 on, 512 for example."
        )
    return int(text) if text else LARGEST


def sizes_of(value: Value, largest: int, *, image: bool) -> tuple[int | Range, ...]:
    """An input's sizes in the package.

    Args:
        value: The input.
        largest: How far open ones reach.
        image: Whether it is an image, which is as large as it can be by default; other inputs are as small.
    """
    assert value.shape is not None
    opened = Range(1, largest, largest if image else 1)
    return tuple(dim if isinstance(dim, int) else opened for dim in value.shape)


def check_sizes(graph: Graph, largest: int, data: Sequence[DataSource]) -> None:
    """Refuses data with larger samples than the package takes; how many of them are taken together is left to the app.

    Raises:
        DataError: There are some.
    """
    for value in graph.inputs:
        for source in data:
            for segment in source.segments:
                _check_segment(value, segment.columns[value.name].shape, largest, source.where)


def _check_segment(value: Value, stored: tuple[int, ...], largest: int, where: str) -> None:
    """Refuses an array of samples, which has an axis more than an input without a batch."""
    rank = len(value.shape or ())
    whole = len(stored) > rank
    for axis, (dim, size) in enumerate(zip(value.shape or (), stored[-rank:], strict=True)):
        if not isinstance(dim, int) and size > largest and (axis or whole):
            raise DataError(
                f"Samples of {where} are {size:,} long along axis {axis} of {value.name!r}, which is open, and open dimensions reach {largest:,} "
                f"in the package. Say how far they have to, --target-option largest-size={size}, or fix it with --dimension "
                f"{dimension(value, axis)}=SIZE."
            )
