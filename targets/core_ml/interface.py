"""What people see of a package: its inputs, images among them, class labels, and who made it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from qcompiler.targets.core_ml.classes import Classifier, classifier_of
from qcompiler.targets.core_ml.image_inputs import images_of
from qcompiler.targets.core_ml.open_sizes import LARGEST, largest_of
from qcompiler.targets.core_ml.pixels import Image

if TYPE_CHECKING:
    from qcompiler.ir.graph import Graph
    from qcompiler.ir.node import Value

_ABOUT = {
    "author": "author",
    "license": "license",
    "description": "shortDescription",
    "version": "versionString",
}
"""Options, and what they are called in a specification's metadata."""


@dataclass(frozen=True)
class Interface:
    """What a package shows.

    Attributes:
        io: The type of float inputs and outputs, those apart that are images or classes.
        images: Inputs that are images, by the graph's names.
        classifier: The output that is shown as classes; None where all outputs are arrays.
        about: Fields of the specification's metadata.
        largest: How far open dimensions of inputs reach.
    """

    io: np.dtype[Any] = field(default_factory=lambda: np.dtype(np.float32))
    images: Mapping[str, Image] = field(default_factory=dict)
    classifier: Classifier | None = None
    about: Mapping[str, str] = field(default_factory=dict)
    largest: int = LARGEST

    def type_of(self, value: Value) -> np.dtype[Any]:
        """The type of an input or output in the package."""
        if value.name in self.images:
            return self.images[value.name].dtype
        if self.classifier is not None and value.name == self.classifier.output:
            return np.dtype(np.float32)  # Core ML classifies nothing else
        return self.io if value.dtype is None or value.dtype.kind == "f" else np.dtype(np.int32)


def interface_of(graph: Graph, options: Mapping[str, str], io: str = "float32") -> Interface:
    """What the package of a graph shows.

    Args:
        graph: The model, or what came of it.
        options: The target's own options.
        io: The type of float inputs and outputs.

    Raises:
        OptionError: An option cannot be what it is for this model.
    """
    about = {key: options[name] for name, key in _ABOUT.items() if options.get(name)}
    return Interface(
        np.dtype(io), images_of(graph, options), classifier_of(graph, options), about, largest_of(options)
    )
