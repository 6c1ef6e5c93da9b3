"""Which inputs are images, from the options of the target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from qcompiler.errors import DataError, OptionError, suggest
from qcompiler.ir.text import type_text
from qcompiler.targets.core_ml.pixels import CHANNELS, Image, Rounding
from qcompiler.targets.core_ml.refusals import how_to_fix

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qcompiler.data import DataSource
    from qcompiler.ir.graph import Graph
    from qcompiler.ir.node import Value

_NONE = "no"
_MOST_LOST = 0.05
"""The most that rounding to pixels may change data, as a part of their standard deviation: images resized in floats lose 0.5 %."""


def images_of(graph: Graph, options: Mapping[str, str]) -> dict[str, Image]:
    """The inputs that are images, by name.

    Args:
        graph: The model, or what came of it.
        options: The target's own options.

    Raises:
        OptionError: There is no such input, or one that is no image of the layout, or a number cannot be read.
    """
    layout = options.get("image", _NONE)
    if layout == _NONE:
        for name in ("image-input", "scale", "bias"):
            if options.get(name):
                raise OptionError(
                    f"--target-option {name} is for inputs that are images; say of which layout, --target-option image=rgb, for example."
                )
        return {}
    inputs = {value.name: value for value in graph.inputs}
    names = [name.strip() for name in options.get("image-input", "").split(",") if name.strip()]
    for name in names:
        if name not in inputs:
            raise OptionError(
                f"--target-option image-input={name}: the model has no such input{suggest(name, inputs)}"
            )
    names = names or [_only_image(graph, layout)]
    for name in names:
        _check_image(inputs[name], layout)
    scale, bias = _numbers(options, "scale", 1.0, layout), _numbers(options, "bias", 0.0, layout)
    if not scale.all():
        raise OptionError(
            f"--target-option scale={options['scale']}: with a scale of 0 all pixels are the same."
        )
    return {name: Image(layout, scale, bias) for name in names}


def _only_image(graph: Graph, layout: str) -> str:
    """The input that can be an image of the layout, where there is one."""
    found = [value.name for value in graph.inputs if _has_form(value, layout)]
    if len(found) == 1:
        return found[0]
    shapes = ", ".join(f"{value.name}: {type_text(value)}" for value in graph.inputs)
    if found:
        raise OptionError(
            f"--target-option image={layout}: {', '.join(found)} can each be such an image; name one with --target-option image-input=NAME, or "
            "several, joined by commas."
        )
    raise OptionError(
        f"--target-option image={layout}: no input has the shape [1, {CHANNELS[layout]}, height, width] of such an image; there are {shapes}."
    )


def _has_form(value: Value, layout: str) -> bool:
    """Whether an input has the rank of an image, and as many channels as the layout."""
    shape = value.shape or ()
    return len(shape) == 4 and shape[1] == CHANNELS[layout]


def _check_image(value: Value, layout: str) -> None:
    """Refuses an input that cannot be an image of the layout.

    Raises:
        OptionError: It has another shape or type.
    """
    channels, start = CHANNELS[layout], f"--target-option image={layout}: the input {value.name!r}"
    if not _has_form(value, layout):
        raise OptionError(
            f"{start} is {type_text(value)}, and an image is [1, {channels}, height, width], channels in front of height and width."
        )
    if value.dtype is not None and value.dtype.kind != "f":
        raise OptionError(f"{start} holds {value.dtype}, and pixels become floats; leave the input a tensor.")
    shape = value.shape or ()
    if shape[0] != 1:
        raise OptionError(
            f"{start} is {type_text(value)}, and Core ML gives a model one image at a time: {how_to_fix(value)}."
        )


def _numbers(options: Mapping[str, str], name: str, default: float, layout: str) -> NDArray[Any]:
    """One number, or one per channel as [C, 1, 1]; in float32.

    Raises:
        OptionError: They cannot be read, or are not as many as there are channels.
    """
    text = options.get(name, "")
    parts = text.split(",") if text else [str(default)]
    try:
        with np.errstate(over="ignore"):  # what is too large is infinite, and told below
            numbers = np.array([_number(part) for part in parts], np.float32)
    except (ValueError, ZeroDivisionError) as error:
        raise OptionError(
            f"--target-option {name}={text} cannot be read; give a number such as 0.5 or 1/255, or one per channel, joined by commas."
        ) from error
    if not np.isfinite(numbers).all() or len(numbers) not in (1, CHANNELS[layout]):
        raise OptionError(
            f"--target-option {name}={text}: {layout} images take one finite number, or one for each of their "
            f"{CHANNELS[layout]} channels, and these are {len(numbers)}."
        )
    return numbers.reshape(-1, 1, 1) if len(numbers) > 1 else numbers[0]


def _number(text: str) -> float:
    above, _, below = text.partition("/")
    return float(above) / float(below or 1)


def check_data(images: Mapping[str, Image], data: Sequence[DataSource]) -> None:
    """Refuses data that no image gives.

    Raises:
        DataError: Rounding to pixels would change the data by more than a little.
    """
    for name, image in images.items():
        for source in data:
            found = Rounding()
            for batch in source.batches(32):
                steps = image.steps(batch[name])
                found.add(steps, image.rounded(steps))
            if found.loss > _MOST_LOST:
                raise DataError(
                    f"The numbers of {source.where} cannot be what an image gives at the input {name!r}: as pixels, (number - bias) / scale, they lie between "
                    f"{found.least:.6g} and {found.most:.6g}, and are {found.mean:.3g} off the nearest of {image.range} on average. Give the scale "
                    "and the bias with which scale * pixel + bias are the numbers that the model was trained on (--target-option scale=1/255, say)."
                )
