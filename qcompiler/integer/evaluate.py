"""Programs executed in numpy, to the bit: what an integer target's own kernels have to compute.

`Executor` takes and gives codes; `quantize_inputs` and `dequantize_outputs` make them of real numbers and the other way round. The
formulas of the kinds of work are in the `evaluate_*` modules; they are those of TensorFlow Lite's reference kernels and
CMSIS-NN, in integers throughout, so the results are the same on every machine.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
from threadpoolctl import ThreadpoolController

from qcompiler.integer import (  # noqa: F401 - they register what they evaluate
    evaluate_elementwise,
    evaluate_linear,
    evaluate_movement,
    evaluate_windows,
)
from qcompiler.integer.evaluate_base import evaluate, prepare

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import ArrayLike, NDArray

    from qcompiler.integer.evaluate_base import Step
    from qcompiler.integer.program import Operation, Program, Tensor
    from qcompiler.ir.encoding import Encoding

__all__ = ["Executor", "dequantize_outputs", "evaluate", "quantize_inputs", "run"]

_TOGETHER = 1 << 21
"""Elements of the largest tensor that samples taken together may have. Temporaries have up to 8 bytes each, and there are a
few: some 32 MB, more where one sample is larger."""


class Executor:
    """A program, ready to be executed many times."""

    def __init__(self, program: Program) -> None:
        """Computes what depends on constants only."""
        self.program = program
        self._steps = [
            (operation, prepare(operation.work, operation.inputs, operation.output))
            for operation in program.operations
        ]
        self._last_read = {
            tensor.name: number
            for number, operation in enumerate(program.operations)
            for tensor in operation.inputs
            if tensor.data is None
        }
        self._together = max(
            1, _TOGETHER // max((tensor.elements for tensor in _computed(program)), default=1)
        )
        self._threads = ThreadpoolController()

    def run(self, inputs: Mapping[str, NDArray[Any]], keep: Iterable[str] = ()) -> dict[str, NDArray[Any]]:
        """Executes the program on many samples; what nothing reads any more is freed.

        Args:
            inputs: Codes of its inputs by the tensors' names, [samples, *shape].
            keep: Names of further tensors to return.

        Returns:
            Codes by name, [samples, *shape]: the outputs, and what is to be kept.

        Raises:
            ValueError: An input is missing or has another shape than its tensor, or `keep` names no tensor.
        """
        program = self.program
        samples = _samples(program, inputs)
        tensors = {tensor.name: tensor for tensor in program.tensors}
        wanted = [tensor.name for tensor in program.outputs] + list(keep)
        if unknown := [name for name in wanted if name not in tensors]:
            raise ValueError(f"the program {program.name} has no tensor {', '.join(unknown)}")
        results = {name: np.empty((samples, *tensors[name].shape), tensors[name].dtype) for name in wanted}
        # One thread: products are small, and between them others would spin.
        with self._threads.limit(limits=1, user_api="blas"):
            for first in range(0, samples, self._together):
                part = slice(first, first + self._together)
                given = {tensor.name: inputs[tensor.name][part] for tensor in program.inputs}
                self._run_together(given, {name: result[part] for name, result in results.items()})
        return results

    def _run_together(self, live: dict[str, NDArray[Any]], results: Mapping[str, NDArray[Any]]) -> None:
        """Executes the program on few samples and writes what is wanted into `results`."""
        for tensor in self.program.tensors:
            if tensor.name in results and (tensor.data is not None or tensor.name in live):
                results[tensor.name][...] = live[tensor.name] if tensor.data is None else tensor.data
        for number, (operation, step) in enumerate(self._steps):
            made = _executed(operation, step, live)
            for tensor in {tensor.name: tensor for tensor in operation.inputs}.values():
                if self._last_read.get(tensor.name) == number:
                    del live[tensor.name]
            name = operation.output.name
            if name in results:
                results[name][...] = made
            if name in self._last_read:
                live[name] = made


def run(
    program: Program, inputs: Mapping[str, NDArray[Any]], keep: Iterable[str] = ()
) -> dict[str, NDArray[Any]]:
    """Executes a program once; see `Executor.run`."""
    return Executor(program).run(inputs, keep)


def _executed(operation: Operation, step: Step, live: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    """What an operation writes, held to what its output tensor says."""
    output = operation.output
    made = step([live[tensor.name] if tensor.data is None else tensor.data for tensor in operation.inputs])
    if made.shape[1:] != output.shape or made.dtype != output.dtype:
        raise ValueError(
            f"{operation.name} ({type(operation.work).__name__}) writes {made.dtype} {list(made.shape[1:])}, but the tensor "
            f"{output.name} is {output.dtype} {list(output.shape)}"
        )
    return made


def _computed(program: Program) -> Iterable[Tensor]:
    return (tensor for tensor in program.tensors if tensor.data is None)


def _samples(program: Program, inputs: Mapping[str, NDArray[Any]]) -> int:
    """How many samples are given.

    Raises:
        ValueError: An input is missing, or has another shape than its tensor.
    """
    counts = set()
    for tensor in program.inputs:
        given = inputs.get(tensor.name)
        if given is None:
            raise ValueError(f"the input {tensor.name} is missing")
        if given.shape[1:] != tensor.shape or given.dtype != tensor.dtype:
            raise ValueError(
                f"the input {tensor.name} has to be {tensor.dtype} [samples, {', '.join(map(str, tensor.shape))}], not "
                f"{given.dtype} {list(given.shape)}"
            )
        counts.add(len(given))
    if len(counts) > 1:
        raise ValueError(f"inputs have different numbers of samples: {sorted(counts)}")
    return counts.pop() if counts else 1


def quantize_inputs(program: Program, real: Mapping[str, ArrayLike]) -> dict[str, NDArray[Any]]:
    """Codes of a program's inputs, as stored, from real numbers.

    Args:
        program: The program.
        real: Arrays by the names of the model's inputs, [samples * batch, ...] in the model's order of axes, where batch is the
            first dimension that the program was made for (1 as a rule). Inputs without an encoding are integers already.

    Returns:
        Codes by the tensors' names, [samples, *shape].
    """
    codes = {}
    for tensor in program.inputs:
        shape, order = _own_shape(tensor), _order(tensor)
        given = np.asarray(real[tensor.value or tensor.name]).reshape(-1, *shape)
        stored = given.transpose(0, *(1 + axis for axis in order))
        if tensor.encoding is not None:
            stored = _with_samples(tensor.encoding).quantize(stored)
        codes[tensor.name] = np.ascontiguousarray(stored, tensor.dtype)
    return codes


def dequantize_outputs(program: Program, codes: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The real numbers that codes of a program's outputs stand for.

    Args:
        program: The program.
        codes: What `run` gave.

    Returns:
        float32 by the names of the model's outputs, [samples * batch, ...] in the model's order of axes; integers where there is
        no encoding.
    """
    real = {}
    for tensor in program.outputs:
        stored = codes[tensor.name]
        if tensor.encoding is not None:
            stored = _with_samples(tensor.encoding).dequantize(stored)
        own = stored.transpose(0, *(1 + axis for axis in np.argsort(_order(tensor))))
        real[tensor.value or tensor.name] = own.reshape(-1, *own.shape[2:])
    return real


def _order(tensor: Tensor) -> tuple[int, ...]:
    return tensor.order or tuple(range(len(tensor.shape)))


def _own_shape(tensor: Tensor) -> tuple[int, ...]:
    """The shape of the value that a tensor holds."""
    sizes = dict(zip(_order(tensor), tensor.shape, strict=True))
    return tuple(sizes[axis] for axis in range(len(sizes)))


def _with_samples(encoding: Encoding) -> Encoding:
    """The encoding of arrays that have an axis of samples in front."""
    if encoding.axis is None:
        return encoding
    return dataclasses.replace(encoding, axis=encoding.axis + 1)
