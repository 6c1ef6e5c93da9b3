"""Legalized programs without what nobody needs, and with the names that the model gives."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import TYPE_CHECKING

from qcompiler.integer.operations import Extreme, Mean, View
from qcompiler.targets.edge_tpu.forms import written

if TYPE_CHECKING:
    from qcompiler.integer.program import Operation, Program, Tensor


def without_idle_views(program: Program) -> Program:
    """The program without views of views, views that change no shape, and views of what can write the shape itself."""
    outputs = {tensor.name for tensor in program.outputs}
    stands_for: dict[str, Tensor] = {}
    made: dict[str, Operation] = {}
    for operation in program.operations:
        inputs = tuple(stands_for.get(tensor.name, tensor) for tensor in operation.inputs)
        if isinstance(operation.work, View):
            (x,) = inputs
            before = made.get(x.name)
            if before is not None and isinstance(before.work, View):
                inputs = (x,) = before.inputs
            if x.shape == operation.output.shape and operation.output.name not in outputs:
                stands_for[operation.output.name] = x
                continue
        made[operation.output.name] = dataclasses.replace(operation, inputs=inputs)
    read = Counter(tensor.name for operation in made.values() for tensor in operation.inputs)
    kept: list[Operation] = []
    for operation in made.values():
        last = kept[-1] if kept else None
        x = operation.inputs[0]
        if not read[operation.output.name] and operation.output.name not in outputs:
            continue
        if (
            isinstance(operation.work, View)
            and last is not None
            and last.output.name == x.name
            and read[x.name] == 1
            and x.name not in outputs
            and operation.output.shape in _writable(last)
        ):
            kept[-1] = dataclasses.replace(last, outputs=operation.outputs)
        else:
            kept.append(operation)
    return dataclasses.replace(program, operations=tuple(kept))


def with_given_names(program: Program) -> Program:
    """The program with its outputs called what the model calls them, where a copy of the value has another name and nothing that one."""
    taken = {tensor.name for tensor in program.tensors}
    renamed: dict[str, Tensor] = {}
    for tensor in program.outputs:
        if tensor.value and tensor.value not in taken:
            renamed[tensor.name] = dataclasses.replace(tensor, name=tensor.value)
            taken.add(tensor.value)

    def called(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(renamed.get(tensor.name, tensor) for tensor in tensors)

    operations = tuple(
        dataclasses.replace(item, inputs=called(item.inputs), outputs=called(item.outputs))
        for item in program.operations
    )
    return dataclasses.replace(program, outputs=called(program.outputs), operations=operations)


def _writable(operation: Operation) -> tuple[tuple[int, ...], ...]:
    """The shapes that an operation can give what it writes."""
    if isinstance(operation.work, Mean | Extreme):
        return written(operation.work, operation.inputs[0].shape)
    return (operation.output.shape,)
