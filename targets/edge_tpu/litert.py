"""Files run in LiteRT, by its reference kernels or as it runs them by default."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from qcompiler.errors import TargetError
from qcompiler.silence import ERRORS, silenced

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from qcompiler.integer.program import Program


def version() -> str | None:
    """The version of LiteRT that is installed; None without one."""
    try:
        import ai_edge_litert
    except ImportError:
        return None
    return str(ai_edge_litert.__version__)


class Interpreter:
    """One file in LiteRT.

    Args:
        data: The file.
        program: What it was written from.
        reference: By the reference kernels, with every tensor kept; else as LiteRT runs files by default (XNNPACK).

    Raises:
        TargetError: LiteRT refuses the file.
    """

    def __init__(self, data: bytes, program: Program, *, reference: bool) -> None:
        from ai_edge_litert.interpreter import Interpreter as Inner
        from ai_edge_litert.interpreter import OpResolverType

        kind = OpResolverType.BUILTIN_REF if reference else OpResolverType.AUTO
        try:
            self._inner = Inner(
                model_content=data,
                experimental_op_resolver_type=kind,
                experimental_preserve_all_tensors=reference,
                num_threads=1,
            )
            with silenced(ERRORS):  # it announces XNNPACK
                self._inner.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            raise TargetError(f"LiteRT refuses the file: {error}") from error
        self._outputs = program.outputs
        self._details = {item["name"]: item for item in self._inner.get_tensor_details()}
        self._computed = {tensor.name: tensor for tensor in program.tensors}

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> None:
        """Runs one sample, codes by the names of the program's tensors; at a rim of another type they go in as that."""
        for name, codes in inputs.items():
            details, tensor = self._details[name], self._computed[name]
            if details["dtype"] == np.uint8:
                codes = (codes.astype(np.int16) + 128).astype(np.uint8)
            elif details["dtype"] == np.float32 and tensor.encoding is not None:
                codes = tensor.encoding.dequantize(codes)
            self._inner.set_tensor(details["index"], codes)
        self._inner.invoke()

    def tensor(self, name: str) -> NDArray[Any]:
        """The codes of one of the program's tensors after the last run; what a rim gives is brought back to codes."""
        details, tensor = self._details[name], self._computed[name]
        given: NDArray[Any] = self._inner.get_tensor(details["index"])
        if details["dtype"] == np.uint8:
            return (given.astype(np.int16) - 128).astype(np.int8)
        if details["dtype"] == np.float32 and tensor.encoding is not None:
            return tensor.encoding.quantize(given)
        return given

    def outputs(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """The outputs of many samples, [samples, *shape], as the program's executor gives them."""
        count = len(next(iter(inputs.values())))
        made = {tensor.name: np.empty((count, *tensor.shape), tensor.dtype) for tensor in self._outputs}
        for sample in range(count):
            self.run({name: codes[sample] for name, codes in inputs.items()})
            for name, codes in made.items():
                codes[sample] = self.tensor(name)
        return made
