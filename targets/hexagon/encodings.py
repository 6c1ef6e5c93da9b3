"""Encodings as AIMET writes them and Qualcomm's converter reads them (--quantization_overrides), in three versions of the format.

Source: AIMET's repository, Docs/api_docs/quantization_encoding_specification.rst; aimet_onnx 2.42. Versions are not mixed: the converter
tells them by their keys.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from qcompiler.artifact import version as own_version

if TYPE_CHECKING:
    from qcompiler.ir.encoding import Encoding


@dataclass(frozen=True)
class TensorEncoding:
    """How a tensor is stored.

    Attributes:
        name: Its name in the model that the converter is given.
        encoding: None for 16-bit floats.
        is_parameter: Whether it is a constant.
        is_bias: Whether its scale follows from those of other tensors.
    """

    name: str
    encoding: Encoding | None
    is_parameter: bool
    is_bias: bool = False

    @property
    def scales(self) -> list[float]:
        """One scale per tensor or channel."""
        assert self.encoding is not None
        return [float(scale) for scale in np.ravel(np.asarray(self.encoding.scale))]

    @property
    def offsets(self) -> list[int]:
        """Less the zero points, of codes counted from 0 on: -128 for symmetric int8, too."""
        assert self.encoding is not None
        least = int(self.encoding.format.minimum)
        return [least - int(zero) for zero in np.ravel(np.asarray(self.encoding.zero_point))]

    @property
    def is_symmetric(self) -> bool:
        """Whether all zero points are the middle code."""
        assert self.encoding is not None
        return bool((np.asarray(self.encoding.zero_point) == self.encoding.format.middle).all())


def encodings_table(tensors: Iterable[TensorEncoding], version: str) -> dict[str, Any]:
    """All encodings in a version of the format.

    Args:
        tensors: The tensors.
        version: One of `VERSIONS`.
    """
    return VERSIONS[version](list(tensors))


def _version_0_6_1(tensors: list[TensorEncoding]) -> dict[str, Any]:
    """Objects by name, one entry per channel; biases are left to the converter, which knows their scales."""

    def entries(tensor: TensorEncoding) -> list[dict[str, Any]]:
        if tensor.encoding is None:
            return [{"bitwidth": 16, "dtype": "float"}]
        bits = tensor.encoding.format.bits
        return [
            {
                "bitwidth": bits,
                "dtype": "int",
                "is_symmetric": str(tensor.is_symmetric),
                "min": offset * scale,
                "max": (offset + (1 << bits) - 1) * scale,
                "scale": scale,
                "offset": offset,
            }
            for scale, offset in zip(tensor.scales, tensor.offsets, strict=True)
        ]

    return _in_two_parts(tensors, "0.6.1", lambda part: {tensor.name: entries(tensor) for tensor in part})


def _version_1_0_0(tensors: list[TensorEncoding]) -> dict[str, Any]:
    """Lists of entries, each with all scales of a tensor; biases are left to the converter."""

    def entry(tensor: TensorEncoding) -> dict[str, Any]:
        if tensor.encoding is None:
            return {"name": tensor.name, "dtype": "FLOAT", "bw": 16, "enc_type": "PER_TENSOR"}
        return {
            "name": tensor.name,
            "dtype": "INT",
            "enc_type": "PER_TENSOR" if tensor.encoding.axis is None else "PER_CHANNEL",
            "bw": tensor.encoding.format.bits,
            "is_sym": tensor.is_symmetric,
            "scale": tensor.scales,
            "offset": tensor.offsets,
        }

    return _in_two_parts(tensors, "1.0.0", lambda part: [entry(tensor) for tensor in part])


def _in_two_parts(
    tensors: list[TensorEncoding], version: str, written: Callable[[list[TensorEncoding]], Any]
) -> dict[str, Any]:
    activations = [tensor for tensor in tensors if not tensor.is_parameter]
    parameters = [tensor for tensor in tensors if tensor.is_parameter and not tensor.is_bias]
    quantized = [tensor for tensor in parameters if tensor.encoding is not None]
    return {
        "version": version,
        "producer": f"qcompiler {own_version()}",
        "activation_encodings": written(activations),
        "param_encodings": written(parameters),
        "quantizer_args": {
            "activation_bitwidth": 8,
            "dtype": "int",
            "is_symmetric": True,
            "param_bitwidth": 8,
            "per_channel_quantization": any(
                tensor.encoding.axis is not None for tensor in quantized if tensor.encoding
            ),
            "quant_scheme": "min_max",
        },
    }


def _version_2_0_0(tensors: list[TensorEncoding]) -> dict[str, Any]:
    """One list in the terms of ONNX, biases included; what has no entry is a float."""

    def entry(tensor: TensorEncoding) -> dict[str, Any]:
        assert tensor.encoding is not None
        encoding = tensor.encoding
        scale, zero = np.asarray(encoding.scale), np.asarray(encoding.zero_point)
        found: dict[str, Any] = {
            "name": tensor.name,
            "output_dtype": encoding.format.name,
            "y_scale": scale.tolist(),
        }
        if zero.any():
            found["y_zero_point"] = zero.tolist()
        if encoding.axis is not None:
            found["axis"] = encoding.axis
        return found

    return {
        "version": "2.0.0",
        "producer": {"package": "qcompiler", "version": own_version()},
        "encodings": [entry(tensor) for tensor in tensors if tensor.encoding is not None],
    }


VERSIONS: Mapping[str, Callable[[list[TensorEncoding]], dict[str, Any]]] = {
    "1.0.0": _version_1_0_0,
    "0.6.1": _version_0_6_1,
    "2.0.0": _version_2_0_0,
}
"""The versions that can be written. 0.6.1 goes with the converter's --custom_io, which refuses 1.0.0."""
