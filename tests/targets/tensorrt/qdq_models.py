"""Tiny QDQ graphs written by hand: what the TensorRT tests feed to the rule checker and to the builder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
from onnx import TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx
    from numpy.typing import NDArray

INT8, UINT8, FP8, INT4 = TensorProto.INT8, TensorProto.UINT8, TensorProto.FLOAT8E4M3FN, TensorProto.INT4
FLOAT, FLOAT16 = TensorProto.FLOAT, TensorProto.FLOAT16

_DTYPES: dict[int, np.dtype[Any]] = {
    INT8: np.dtype(np.int8),
    UINT8: np.dtype(np.uint8),
    TensorProto.INT16: np.dtype(np.int16),
    TensorProto.INT32: np.dtype(np.int32),
    FP8: np.dtype(ml_dtypes.float8_e4m3fn),
    TensorProto.FLOAT8E5M2: np.dtype(ml_dtypes.float8_e5m2),
    INT4: np.dtype(ml_dtypes.int4),
}


class QdqModel:
    """A graph under construction; every method that adds nodes returns the name of the tensor it made.

    Weights are random but fixed by their position, so two builds of one test give the same bytes.
    """

    def __init__(self, opset: int = 21, **inputs: Sequence[int | str]) -> None:
        self.opset = opset
        self.inputs = inputs
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def constant(self, value: NDArray[np.generic] | np.generic, name: str = "") -> str:
        """Add an initializer."""
        name = name or f"const{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def weight(self, *shape: int) -> str:
        """Add a random float32 weight."""
        random = np.random.default_rng(len(self.initializers))
        return self.constant(random.normal(size=shape).astype(np.float32))

    def op(self, op_type: str, *inputs: str, name: str = "", domain: str = "", **attributes: Any) -> str:
        """Add a node with one output."""
        name = name or f"{op_type.lower()}{len(self.nodes)}"
        output = f"{name}.out"
        self.nodes.append(
            helper.make_node(op_type, list(inputs), [output], name=name, domain=domain, **attributes)
        )
        return output

    def quantize(
        self, x: str, scale: float | NDArray[np.generic] | str = 0.05, dtype: int = INT8, **attributes: Any
    ) -> str:
        """Add QuantizeLinear with a zero point of zeros."""
        return self.op("QuantizeLinear", x, *self._scale_and_zero(scale, dtype), **attributes)

    def dequantize(
        self, x: str, scale: float | NDArray[np.generic] | str = 0.05, dtype: int = INT8, **attributes: Any
    ) -> str:
        """Add DequantizeLinear with a zero point of zeros."""
        return self.op("DequantizeLinear", x, *self._scale_and_zero(scale, dtype), **attributes)

    def qdq(
        self, x: str, scale: float | NDArray[np.generic] | str = 0.05, dtype: int = INT8, **attributes: Any
    ) -> str:
        """Add a QuantizeLinear/DequantizeLinear pair."""
        return self.dequantize(self.quantize(x, scale, dtype, **attributes), scale, dtype, **attributes)

    def channel_scale(self, size: int) -> NDArray[np.float32]:
        """Give one positive scale per channel."""
        return np.linspace(0.01, 0.02, size, dtype=np.float32)

    def conv(
        self,
        x: str,
        cin: int = 16,
        cout: int = 16,
        *,
        kernel: int = 3,
        dtype: int | None = INT8,
        axis: int | None = 0,
        **attributes: Any,
    ) -> str:
        """Add Conv with bias, same padding, and a weight quantized to ``dtype`` (None: left float)."""
        group = int(str(attributes.get("group", 1)))
        w = self.weight(cout, cin // group, kernel, kernel)
        if dtype is not None:
            w = self.weight_qdq(w, (cout, cin // group, kernel, kernel), dtype, axis)
        return self.op("Conv", x, w, self.weight(cout), pads=[kernel // 2] * 4, **attributes)

    def gemm(
        self,
        x: str,
        k: int = 64,
        n: int = 32,
        *,
        trans_b: bool = False,
        dtype: int | None = INT8,
        **names: str,
    ) -> str:
        """Add Gemm with bias and a per-output-channel weight."""
        shape = (n, k) if trans_b else (k, n)
        w = self.weight(*shape)
        if dtype is not None:
            w = self.weight_qdq(w, shape, dtype, 0 if trans_b else 1)
        return self.op("Gemm", x, w, self.weight(n), transB=int(trans_b), **names)

    def matmul(
        self,
        x: str,
        k: int = 64,
        n: int = 32,
        *,
        dtype: int | None = INT8,
        axis: int | None = 1,
        **names: str,
    ) -> str:
        """Add MatMul with a per-output-channel weight."""
        w = self.weight(k, n)
        if dtype is not None:
            w = self.weight_qdq(w, (k, n), dtype, axis)
        return self.op("MatMul", x, w, **names)

    def weight_qdq(self, w: str, shape: Sequence[int], dtype: int = INT8, axis: int | None = 0) -> str:
        """Quantize a weight: per channel of ``axis``, or per tensor where it is None."""
        if axis is None:
            return self.qdq(w, 0.01, dtype)
        return self.qdq(w, self.channel_scale(shape[axis]), dtype, axis=axis)

    def block_weight(
        self, shape: tuple[int, ...], block: int, dtype: int = INT4, *, axis: int = 0, scale: float = 0.1
    ) -> str:
        """Add a weight stored quantized in blocks along ``axis``, with its DequantizeLinear."""
        random = np.random.default_rng(len(self.initializers))
        data = random.integers(-7, 8, size=shape).astype(np.float32).astype(_DTYPES[dtype])
        scales = tuple(-(-d // block) if i == axis % len(shape) else d for i, d in enumerate(shape))
        return self.op(
            "DequantizeLinear",
            self.constant(data),
            self.constant(np.full(scales, scale, np.float32)),
            axis=axis,
            block_size=block,
        )

    def model(self, *outputs: str, dtype: int = FLOAT, input_dtype: int = FLOAT) -> onnx.ModelProto:
        """Close the graph."""
        graph = helper.make_graph(
            self.nodes,
            "tiny",
            [helper.make_tensor_value_info(n, input_dtype, s) for n, s in self.inputs.items()],
            [helper.make_tensor_value_info(n, dtype, None) for n in outputs],
            self.initializers,
        )
        opsets = [helper.make_opsetid("", self.opset)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)

    def _scale_and_zero(self, scale: float | NDArray[np.generic] | str, dtype: int) -> tuple[str, str]:
        if isinstance(scale, str):
            return scale, self.constant(np.zeros((), _DTYPES[dtype]))
        values = np.asarray(scale, np.float32) if isinstance(scale, float) else scale
        return self.constant(values), self.constant(np.zeros(values.shape, _DTYPES[dtype]))
