"""Image inputs: what a pixel becomes inside the package, and which pixels stand for given numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from qcompiler.targets.core_ml.half import to_half
from qcompiler.targets.core_ml.toolkit import toolkit

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

CHANNELS = {"rgb": 3, "bgr": 3, "grayscale": 1, "grayscale16": 1}
"""How many channels an image has, by its layout."""
EXACT = 0.01
"""Steps of a pixel that rounding of floats explains."""

_COLOURS = {
    "rgb": "RGB",
    "bgr": "BGR",
    "grayscale": "GRAYSCALE",
    "grayscale16": "GRAYSCALE_FLOAT16",
}
_MODES = {"rgb": "RGB", "bgr": "RGB", "grayscale": "L", "grayscale16": "F"}
"""What a picture of each layout is in Pillow, from which Core ML makes the layout."""
_LARGEST = 255


@dataclass(frozen=True)
class Image:
    """An input that is an image: the model reads `scale * pixel + bias`, in float32.

    Attributes:
        layout: One of `CHANNELS`. Pixels are whole numbers of 0 to 255, with "grayscale16" floats of 16 bits.
        scale: One number, or one per channel as [C, 1, 1].
        bias: Likewise.
    """

    layout: str
    scale: Array
    bias: Array

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of pixels in the program: images of all layouts but one are given to it as float32."""
        return np.dtype(np.float16 if self.layout == "grayscale16" else np.float32)

    @property
    def range(self) -> str:
        """What pixels there are, for people."""
        return "floats of 16 bits" if self.layout == "grayscale16" else f"0, 1, ..., {_LARGEST}"

    def steps(self, numbers: Array) -> Array:
        """What numbers are in pixels, not rounded; in float64."""
        result: Array = (numbers.astype(np.float64) - self.bias) / self.scale
        return result

    def rounded(self, steps: Array) -> Array:
        """The nearest pixels that there are, in float32."""
        if self.layout == "grayscale16":
            return to_half(steps.astype(np.float32))
        return np.clip(np.rint(steps), 0, _LARGEST).astype(np.float32)

    def numbers(self, pixels: Array) -> Array:
        """What the model reads, in float32: rounded once after the product, once after the sum."""
        result: Array = pixels.astype(np.float32) * self.scale + self.bias
        return result

    def random(self, shape: tuple[int, ...], seed: int = 0) -> Array:
        """Numbers of random pixels."""
        pixels = np.random.default_rng(seed).integers(0, _LARGEST, shape, endpoint=True)
        return self.numbers(pixels)

    def write(self, var: Any) -> Any:
        """Writes what makes the model's numbers of the input's pixels; nothing where they are the same."""
        mb, name = toolkit().mb, var.name
        if self.dtype == np.float16:
            var = mb.cast(x=var, dtype="fp32", name=f"{name}__wide")
        if (self.scale != 1).any():
            var = mb.mul(x=var, y=_constant(self.scale), name=f"{name}__scaled")
        if self.bias.any():
            var = mb.add(x=var, y=_constant(self.bias), name=f"{name}__biased")
        return var

    def port(self, name: str, shape: Any) -> Any:
        """The input as coremltools declares it. The program scales pixels itself: coremltools knows one scale for all channels."""
        ct = toolkit().ct
        layout = getattr(ct.colorlayout, _COLOURS[self.layout])
        return ct.ImageType(name=name, shape=shape, color_layout=layout, channel_first=True)

    def picture(self, pixels: Array) -> Any:
        """The first of the pixels [1, C, H, W] as Core ML is given them on macOS, a picture of Pillow."""
        from PIL import Image as Pillow

        kind = np.float32 if self.layout == "grayscale16" else np.uint8
        planes = pixels[0][::-1] if self.layout == "bgr" else pixels[0]
        array = planes.transpose(1, 2, 0) if len(planes) > 1 else planes[0]
        return Pillow.fromarray(np.ascontiguousarray(array.astype(kind)), _MODES[self.layout])


def _constant(numbers: Array) -> Any:
    return np.float32(numbers) if numbers.ndim == 0 else numbers[None].astype(np.float32)


@dataclass
class Rounding:
    """How far data are from the pixels that stand for them, in steps of a pixel.

    Attributes:
        count: Numbers seen.
        least: The least one, as a pixel.
        most: The largest one.
        worst: The largest distance.
        absolute: The sum of all distances.
        square: The sum of their squares.
        total: The sum of all numbers, as pixels.
        power: The sum of their squares.
    """

    count: int = 0
    least: float = math.inf
    most: float = -math.inf
    worst: float = 0.0
    absolute: float = 0.0
    square: float = 0.0
    total: float = 0.0
    power: float = 0.0

    def add(self, steps: Array, pixels: Array) -> None:
        """Counts numbers, as pixels, and what they are rounded to."""
        gap = np.abs(steps - pixels)
        self.count += gap.size
        self.least = min(self.least, float(steps.min(initial=math.inf)))
        self.most = max(self.most, float(steps.max(initial=-math.inf)))
        self.worst = max(self.worst, float(gap.max(initial=0.0)))
        self.absolute += float(gap.sum())
        self.square += float((gap * gap).sum())
        self.total += float(steps.sum())
        self.power += float((steps * steps).sum())

    @property
    def mean(self) -> float:
        """The mean distance."""
        return self.absolute / max(self.count, 1)

    @property
    def loss(self) -> float:
        """The root of the mean square of the distances, as a part of the numbers' standard deviation; 0 where rounding of floats explains it."""
        if self.worst <= EXACT:
            return 0.0
        variance = self.power - self.total**2 / self.count
        return math.sqrt(self.square / variance) if variance > 0 else math.inf
