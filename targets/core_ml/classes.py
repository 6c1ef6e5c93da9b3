"""Class labels: which output is shown as classes, from the options of the target."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from qcompiler.errors import OptionError, suggest
from qcompiler.ir.text import type_text
from qcompiler.targets.core_ml.names import identifiers
from qcompiler.targets.core_ml.refusals import how_to_fix
from qcompiler.targets.core_ml.toolkit import toolkit

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qcompiler.ir.graph import Graph
    from qcompiler.ir.node import Value

LABEL = "classLabel"
"""The output with the label of the largest number, as Xcode expects it to be called."""
SCORES = f"{LABEL}_probs"
"""The output with the numbers of all classes, by label."""


@dataclass(frozen=True)
class Classifier:
    """An output that holds a number for each class.

    Attributes:
        output: The output.
        labels: The classes, in its order.
        shape: Its shape.
    """

    output: str
    labels: tuple[str, ...]
    shape: tuple[int, ...]

    def scores(self, made: Mapping[str, Any]) -> NDArray[Any]:
        """The output, from what the package gives."""
        return np.array([made[SCORES][label] for label in self.labels], np.float32).reshape(self.shape)

    def config(self, name: str) -> Any:
        """As coremltools is told of it.

        Args:
            name: The output's name in the package.
        """
        ct = toolkit().ct
        return ct.ClassifierConfig(
            list(self.labels), predicted_feature_name=LABEL, predicted_probabilities_output=name
        )


def classifier_of(graph: Graph, options: Mapping[str, str], *, early: bool = False) -> Classifier | None:
    """The output that is shown as classes; None where no labels are given.

    Args:
        graph: The model, or what came of it.
        options: The target's own options.
        early: Whether passes have still to find shapes: what is not known is not refused then, and the classifier may lack its shape.

    Raises:
        OptionError: There is no such output, or it has not as many numbers as there are labels, or these cannot be read.
    """
    text, chosen = options.get("labels", ""), options.get("labels-output", "")
    if not text:
        if chosen:
            raise OptionError(
                "--target-option labels-output says which output has the classes of --target-option labels=FILE, which is not given."
            )
        return None
    taken = {LABEL, SCORES} & set(identifiers(graph).values())
    if taken:
        raise OptionError(
            f"--target-option labels: the model has a value {taken.pop()!r}, as an output of every classifier is called; rename it."
        )
    value, labels = _output(graph, chosen), _labels(text)
    return Classifier(value.name, labels, _class_shape(graph, value, len(labels), early))


def _output(graph: Graph, chosen: str) -> Value:
    """The output with the classes.

    Raises:
        OptionError: It is none of the model's, or one of several has to be chosen.
    """
    outputs = {value.name: value for value in graph.outputs}
    if chosen and chosen not in outputs:
        raise OptionError(
            f"--target-option labels-output={chosen}: the model has no such output{suggest(chosen, outputs)}"
        )
    if not chosen and len(outputs) > 1:
        raise OptionError(
            f"--target-option labels: the model has the outputs {', '.join(outputs)}; say which has the classes, "
            "--target-option labels-output=NAME."
        )
    return outputs[chosen] if chosen else graph.outputs[0]


def _labels(text: str) -> tuple[str, ...]:
    """The labels of a file, one per line.

    Raises:
        OptionError: A line is empty, or stands twice.
    """
    lines = [line.strip() for line in text.rstrip().splitlines()]
    seen: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if not line:
            raise OptionError(f"--target-option labels: line {number} is empty; there is one label per line.")
        if line in seen:
            raise OptionError(
                f"--target-option labels: line {number} is {line!r}, as line {seen[line]} is. Core ML gives the numbers of classes by their "
                "labels, so one of the two would be lost; tell them apart."
            )
        seen[line] = number
    return tuple(lines)


def _class_shape(graph: Graph, value: Value, count: int, early: bool) -> tuple[int, ...]:
    """The shape of an output with a number for each label.

    Raises:
        OptionError: It has another number of elements, or none that is known.
    """
    start = f"--target-option labels: the output {value.name!r} is {type_text(value)}"
    if value.dtype is not None and value.dtype.kind != "f":
        raise OptionError(f"{start}, and classes have floats.")
    sizes = tuple(dim for dim in value.shape or () if isinstance(dim, int))
    if value.shape is None or len(sizes) < len(value.shape):
        opened = [entry for entry in graph.inputs if entry.shape and not isinstance(entry.shape[0], int)]
        if early and not opened:
            return ()
        hint = f": {how_to_fix(opened[0])}" if opened else ""
        raise OptionError(f"{start}, and a classifier has one number per class, of one sample{hint}.")
    if math.prod(sizes) != count:
        raise OptionError(
            f"{start}, which are {math.prod(sizes):,} numbers, and the file has {count:,} labels; there is one label per number."
        )
    return sizes
