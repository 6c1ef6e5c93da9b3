"""Constant arrays of a project: what lies in flash, each array once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from qcompiler.targets.cmsis_nn.c_text import c_type, identifier, numbers, packed

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qcompiler.integer.program import Tensor


@dataclass(frozen=True)
class _Array:
    name: str
    type: str
    data: NDArray[Any]


class Constants:
    """Collects arrays. Equal ones are stored once.

    Attributes:
        bytes: Bytes of all arrays.
    """

    def __init__(self) -> None:
        self._arrays: dict[tuple[str, bytes], _Array] = {}
        self.bytes = 0

    def tensor(self, tensor: Tensor, padding: int = 0) -> str:
        """The name of the array of a constant tensor, packed if its codes have 4 bits.

        Args:
            tensor: The tensor.
            padding: Elements that a kernel may read beyond the end.
        """
        assert tensor.data is not None
        data = packed(tensor.data) if tensor.bits == 4 else np.asarray(tensor.data)
        return self.array(tensor.name, data, padding)

    def array(self, hint: str, data: NDArray[Any], padding: int = 0) -> str:
        """The name of an array with these elements."""
        flat = np.ascontiguousarray(data).reshape(-1)
        if padding:
            flat = np.append(flat, np.zeros(padding, flat.dtype))
        key = flat.dtype.str, flat.tobytes()
        if key not in self._arrays:
            name = f"model_{len(self._arrays):03}_{identifier(hint)}"
            self._arrays[key] = _Array(name, c_type(flat.dtype), flat)
            self.bytes += flat.nbytes
        return self._arrays[key].name

    def header(self) -> str:
        """The declarations."""
        lines = [
            f"extern const {array.type} {array.name}[{array.data.size}];" for array in self._arrays.values()
        ]
        return "\n".join(lines)

    def source(self) -> str:
        """The definitions."""
        return "\n\n".join(
            f"const {array.type} {array.name}[{array.data.size}] MODEL_FLASH = {{\n  {numbers(array.data)}}};"
            for array in self._arrays.values()
        )
