"""What convolutions and pools share: images with two spatial dimensions, channels last, and windows that move over them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from qcompiler.errors import TargetError
from qcompiler.layout import channels_last

if TYPE_CHECKING:
    from qcompiler.integer.encoder import Encoder, Tile
    from qcompiler.integer.program import Tensor
    from qcompiler.ir.node import Node, Value


@dataclass(frozen=True)
class Window:
    """How a filter or a pool moves, for two dimensions: a one-dimensional one moves along columns.

    Attributes:
        strides: Rows, columns.
        dilations: -
        pads: Top, left, bottom, right. Bottom and right are what the last window reaches beyond the image.
    """

    strides: tuple[int, int]
    dilations: tuple[int, int]
    pads: tuple[int, int, int, int]

    @classmethod
    def of(
        cls,
        node: Node,
        taps: tuple[int, ...],
        image: tuple[int, ...] | None = None,
        made: tuple[int, ...] | None = None,
    ) -> Window:
        """Reads a node's attributes.

        Args:
            node: A convolution or pool.
            taps: Size of the window, per spatial dimension.
            image: Shape of what is read, [N, H, W, C].
            made: Shape of what is written; with `image`, the pads behind follow from both.
        """
        rank = len(taps)
        strides = [int(step) for step in node.attributes.get("strides", (1,) * rank)]
        dilations = [int(step) for step in node.attributes.get("dilations", (1,) * rank)]
        pads = [int(pad) for pad in node.attributes.get("pads", (0,) * 2 * rank)]
        if rank == 1:
            strides, dilations, pads, taps = (
                [1, *strides],
                [1, *dilations],
                [0, pads[0], 0, pads[1]],
                (1, *taps),
            )
        if image is not None and made is not None:
            for axis in (0, 1):
                reach = (made[1 + axis] - 1) * strides[axis] + (taps[axis] - 1) * dilations[axis] + 1
                pads[2 + axis] = max(0, reach - image[1 + axis] - pads[axis])
        return cls(
            (strides[0], strides[1]), (dilations[0], dilations[1]), (pads[0], pads[1], pads[2], pads[3])
        )


def image_shape(encoder: Encoder, value: Value) -> tuple[int, int, int, int]:
    """The shape of a value as an image [N, H, W, C]; one-dimensional ones have H = 1.

    Raises:
        TargetError: It has more than two spatial dimensions.
    """
    shape = encoder.shape(value)
    if len(shape) not in (3, 4):
        raise TargetError(
            f"{value.name!r} has {len(shape) - 2} spatial dimensions; images in integers have one or two."
        )
    batch, channels, *spatial = shape
    height, width = (1, *spatial) if len(spatial) == 1 else spatial
    return batch, height, width, channels


def read_image(encoder: Encoder, tile: Tile) -> Tensor:
    """The first operand of a region as an image."""
    value = tile.anchor.input(0)
    assert value is not None
    stored = encoder.read(tile.anchor, 0, channels_last(len(encoder.shape(value))))
    return encoder.viewed(stored, image_shape(encoder, value))


def image_target(encoder: Encoder, tile: Tile) -> Tensor:
    """Where to write the result of a region as an image."""
    rank = len(encoder.shape(tile.result))
    return encoder.target(tile.result, channels_last(rank), image_shape(encoder, tile.result))
