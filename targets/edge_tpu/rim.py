"""Inputs and outputs of other types than the integers inside: operators at the rim of a file that convert them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from qcompiler.targets.edge_tpu.model import Model, Operator, Quantization, Tensor

if TYPE_CHECKING:
    from collections.abc import Iterable

_BYTES = 128
"""What the codes of uint8 are above those of int8: the same byte with its highest bit the other way round."""


def with_rim(model: Model, kind: str) -> Model:
    """The file with inputs and outputs of another type; those of its quantized tensors that have 8 bits, or any for floats.

    The outer tensors take the names, the inner ones end in "/int8" or the like. Integers that stand for themselves (indices) stay.

    Args:
        model: A file whose inputs and outputs are as inside.
        kind: "int8": as they are. "uint8": the same bytes with another zero point. "float32": real numbers.
    """
    if kind == "int8":
        return model
    rim = _Rim(model, kind)
    inputs = tuple(map(rim.outside, model.inputs))
    outputs = tuple(map(rim.outside, model.outputs))
    before = rim.operators(zip(inputs, model.inputs, strict=True), "QUANTIZE")
    behind = rim.operators(
        zip(model.outputs, outputs, strict=True), "QUANTIZE" if kind == "uint8" else "DEQUANTIZE"
    )
    operators = (*before, *model.operators, *behind)
    return replace(model, tensors=tuple(rim.tensors), operators=operators, inputs=inputs, outputs=outputs)


def inner_name(name: str, kind: str) -> str:
    """What a tensor inside is called whose name the one outside has.

    Args:
        name: That name.
        kind: The type inside.
    """
    return f"{name}/{kind.lower()}"


class _Rim:
    """The tensors of a file, and those around it."""

    def __init__(self, model: Model, kind: str) -> None:
        self.tensors = list(model.tensors)
        self.kind = kind

    def outside(self, index: int) -> int:
        """The tensor outside of one; itself where there is nothing to convert."""
        tensor = self.tensors[index]
        given = tensor.quantization
        if given is None or (self.kind == "uint8" and tensor.type != "INT8"):
            return index
        self.tensors[index] = replace(tensor, name=inner_name(tensor.name, tensor.type))
        outer = None
        if self.kind == "uint8":
            outer = Quantization(given.scale, np.asarray(given.zero_point + _BYTES, np.int64))
        self.tensors.append(Tensor(tensor.name, tensor.shape, self.kind.upper(), outer))
        return len(self.tensors) - 1

    def operators(self, pairs: Iterable[tuple[int, int]], op: str) -> list[Operator]:
        """One operator for every pair that differs."""
        return [Operator(op, (source,), (made,)) for source, made in pairs if source != made]
