"""Builds kernels as shared libraries and calls their functions on numpy arrays."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

STRICT = (
    "-std=c99", "-Wall", "-Wextra", "-Wconversion", "-Wsign-conversion", "-Wshadow", "-Wpedantic", "-Werror",
)  # fmt: skip
"""What our kernels compile with."""

_SCRATCH = 1 << 20
_MARGIN = 64
_FILL = 0x5A


class Output:
    """Stands for the array that is written, in a list of arguments."""


class Context:
    """Stands for a `cmsis_nn_context`, in a list of arguments."""


Y, CONTEXT = Output(), Context()


def build(
    command: str, sources: Iterable[Path], include: Sequence[Path], output: Path, *flags: str
) -> ctypes.CDLL:
    """Compiles C files as a shared library."""
    arguments = [command, "-shared", "-fPIC", "-O3", *flags, *(f"-I{path}" for path in include)]
    subprocess.run([*arguments, *map(str, sources), "-o", str(output)], check=True)
    return ctypes.CDLL(str(output))


def numbers(*values: Any) -> ctypes.Array[ctypes.c_int32]:
    """A structure of int32 fields; fields that are structures are given as tuples."""
    flat = [int(number) for value in values for number in np.ravel(value)]
    return (ctypes.c_int32 * len(flat))(*flat)


class Pointers(ctypes.Structure):
    """A structure of up to three pointers, such as factors per channel."""

    _fields_ = (("pointers", ctypes.c_void_p * 3),)

    def __init__(self, *arrays: np.ndarray[Any, Any]) -> None:
        super().__init__()
        self.kept = [np.ascontiguousarray(array) for array in arrays]
        for place, array in enumerate(self.kept):
            self.pointers[place] = array.ctypes.data


class Bias(ctypes.Structure):
    """A `cmsis_nn_bias_data`."""

    _fields_ = (("data", ctypes.c_void_p), ("is_int32_bias", ctypes.c_bool))

    def __init__(self, array: np.ndarray[Any, Any] | None, is_int32: bool) -> None:
        super().__init__(None if array is None else array.ctypes.data, is_int32)
        self.kept = array


class MatrixProductParams(ctypes.Structure):
    """A `cmsis_nn_bmm_params`: two flags, and offsets and clamps."""

    _fields_ = (("adj_x", ctypes.c_bool), ("adj_y", ctypes.c_bool), ("fc_params", ctypes.c_int32 * 5))


class _ContextStructure(ctypes.Structure):
    _fields_ = (("buf", ctypes.c_void_p), ("size", ctypes.c_int32))


def called(
    library: ctypes.CDLL,
    name: str,
    arguments: Sequence[Any],
    shape: Sequence[int],
    dtype: np.dtype[Any],
    scratch: bool = False,
) -> np.ndarray[Any, Any]:
    """What a kernel writes.

    Args:
        library: What `build` gave.
        name: The function.
        arguments: Arrays (passed as pointers), structures (by reference), whole numbers, None, `Y` and `CONTEXT`.
        shape: Of the output.
        dtype: Of the output.
        scratch: Whether there is scratch memory. Our kernels get none.
    """
    size = int(np.prod(shape)) * dtype.itemsize
    memory = np.full(size + 2 * _MARGIN, _FILL, np.uint8)
    buffer = np.full(_SCRATCH if scratch else 0, _FILL, np.uint8)
    context = _ContextStructure(buffer.ctypes.data if scratch else None, buffer.size)
    function = getattr(library, name)
    function.restype = None if name.startswith("arm_softmax") else ctypes.c_int32
    kept = [
        np.ascontiguousarray(argument) if isinstance(argument, np.ndarray) else argument
        for argument in arguments
    ]
    status = function(*(_passed(argument, memory, context) for argument in kept))
    assert not status, f"{name} returns {status}"
    assert (memory[:_MARGIN] == _FILL).all(), f"{name} writes in front of its output"
    assert (memory[_MARGIN + size :] == _FILL).all(), f"{name} writes behind its output"
    return memory[_MARGIN : _MARGIN + size].view(dtype).reshape(shape)


def _passed(argument: Any, memory: np.ndarray[Any, Any], context: ctypes.Structure) -> Any:
    match argument:
        case Output():
            return ctypes.c_void_p(memory.ctypes.data + _MARGIN)
        case Context():
            return ctypes.byref(context)
        case None:
            return ctypes.c_void_p()
        case np.ndarray():
            return ctypes.c_void_p(argument.ctypes.data)
        case bool():
            return ctypes.c_bool(argument)
        case int():
            return ctypes.c_int32(argument)
    return ctypes.byref(argument)
