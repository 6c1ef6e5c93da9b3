"""Tensors in: from protos and external data files to arrays, without copying what can be mapped."""

from __future__ import annotations

import math
import os.path
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from qcompiler.errors import ModelError

if TYPE_CHECKING:
    from numpy.typing import NDArray

PACKED_BITS = {
    getattr(onnx.TensorProto, name): bits
    for name, bits in (("INT4", 4), ("UINT4", 4), ("FLOAT4E2M1", 4), ("INT2", 2), ("UINT2", 2))
    if hasattr(onnx.TensorProto, name)
}
"""Types of which one byte holds several elements: ONNX data type to bits."""


def read_tensor(tensor: onnx.TensorProto, directory: Path | None, source: str) -> NDArray[Any]:
    """The elements of a tensor; those in an external data file are memory-mapped.

    Args:
        tensor: The tensor.
        directory: Where its external data lie.
        source: What error messages call the model.

    Raises:
        ModelError: The elements are missing, or do not fit the declared shape and type.
    """
    try:
        dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    except KeyError as error:
        raise ModelError(
            f"In {source}, the tensor {tensor.name!r} has the element type {tensor.data_type}, which the installed onnx "
            f"{onnx.__version__} does not know."
        ) from error
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        return _external(tensor, dtype, directory or Path(), source)
    try:
        if tensor.HasField("raw_data") and tensor.data_type not in PACKED_BITS:
            stored = dtype.newbyteorder("<") if dtype.isbuiltin == 1 else dtype
            array = np.frombuffer(tensor.raw_data, stored).astype(dtype, copy=False)
            return array.reshape(tuple(tensor.dims))
        return numpy_helper.to_array(tensor)
    except (ValueError, TypeError) as error:
        raise ModelError(
            f"In {source}, the tensor {tensor.name!r} does not fit its declared shape and type: {error}."
        ) from error


def embed(tensor: onnx.TensorProto, directory: Path | None, source: str) -> None:
    """Moves external data into the tensor itself.

    Raises:
        ModelError: As `read_tensor`.
    """
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        tensor.raw_data = _raw(tensor, directory or Path(), source).tobytes()
        tensor.data_location = onnx.TensorProto.DEFAULT
        del tensor.external_data[:]


def _external(tensor: onnx.TensorProto, dtype: np.dtype[Any], directory: Path, source: str) -> NDArray[Any]:
    raw = _raw(tensor, directory, source)
    if tensor.data_type in PACKED_BITS:
        packed = onnx.TensorProto(data_type=tensor.data_type, dims=tensor.dims, raw_data=raw.tobytes())
        return numpy_helper.to_array(packed)
    return raw.view(dtype).reshape(tuple(tensor.dims))


def _raw(tensor: onnx.TensorProto, directory: Path, source: str) -> NDArray[np.uint8]:
    """The bytes of an external tensor: a read-only map of its part of the file."""
    file, entry = _external_file(tensor, directory, source)
    elements = math.prod(tensor.dims)
    bits = PACKED_BITS.get(tensor.data_type)
    if bits is None:
        size = elements * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    else:
        size = -(-elements * bits // 8)
    offset, end = int(entry.get("offset", 0)), file.stat().st_size
    if offset + size > end:
        raise ModelError(
            f"{source} expects {size} bytes of the tensor {tensor.name!r} at offset {offset} of {file}, but that file ends "
            f"at {end}: it is cut off. Copy or export the model again."
        )
    if not size:
        return np.zeros(0, np.uint8)
    return np.memmap(file, dtype=np.uint8, mode="r", offset=offset, shape=(size,))


def _external_file(tensor: onnx.TensorProto, directory: Path, source: str) -> tuple[Path, dict[str, str]]:
    entry = {item.key: item.value for item in tensor.external_data}
    location = Path(os.path.normpath(entry.get("location", "")))
    # Only the path as written is judged: a link that the user put beside the model (download caches do) is followed.
    if location.is_absolute() or os.pardir in location.parts:
        raise ModelError(
            f"{source} points outside its own folder for the tensor {tensor.name!r}: {location}; this is refused."
        )
    file = directory / location
    if not file.is_file():
        raise ModelError(
            f"{source} keeps the tensor {tensor.name!r} in the external data file {file}, which does not exist; "
            "put the file next to the model, as it was when the model was saved."
        )
    return file, entry
