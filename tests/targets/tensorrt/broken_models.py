"""One tiny model per broken rule, each with what TensorRT-RTX 1.7 was seen to make of it.

In every model the weighted operator is called "op". Outcomes: "refused" by the parser or the builder; "float": builds, and
"op" is computed in float; "taken": builds as written, so the rule rests on the documents alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import ml_dtypes
import numpy as np
from onnx import TensorProto
from qdq_models import FP8, INT4, INT8, UINT8, QdqModel

if TYPE_CHECKING:
    from collections.abc import Callable

    import onnx

IMAGE = (1, 16, 8, 8)
ROWS = (4, 256)


@dataclass(frozen=True)
class Broken:
    """A model that breaks one rule."""

    rule: str
    outcome: Literal["refused", "float", "taken"]
    make: Callable[[], onnx.ModelProto]

    def __str__(self) -> str:
        return f"{self.rule}:{self.make.__name__}"


BROKEN: list[Broken] = []


def breaks(
    rule: str, outcome: Literal["refused", "float", "taken"]
) -> Callable[[Callable[[], onnx.ModelProto]], Callable[[], onnx.ModelProto]]:
    """Register a model."""

    def register(make: Callable[[], onnx.ModelProto]) -> Callable[[], onnx.ModelProto]:
        BROKEN.append(Broken(rule, outcome, make))
        return make

    return register


def image(opset: int = 21) -> QdqModel:
    return QdqModel(opset, x=IMAGE)


def rows(opset: int = 21) -> QdqModel:
    return QdqModel(opset, x=ROWS)


def conv_on(m: QdqModel, x: str, **options: Any) -> onnx.ModelProto:
    return m.model(m.conv(x, name="op", **options))


@breaks("operator", "refused")
def matmul_integer() -> onnx.ModelProto:
    m = rows()
    w = m.constant(np.ones((256, 32), np.int8))
    return m.model(m.op("MatMulInteger", m.quantize("x"), w, name="op"), dtype=TensorProto.INT32)


@breaks("operator", "refused")
def qlinear_matmul() -> onnx.ModelProto:
    m = rows()
    q, w = m.quantize("x"), m.constant(np.ones((256, 32), np.int8))
    s, z = m.constant(np.float32(0.1), "s"), m.constant(np.int8(0), "z")
    return m.model(m.op("QLinearMatMul", q, s, z, w, s, z, s, z, name="op"), dtype=INT8)


@breaks("opset", "taken")
def scale_per_axis_before_13() -> onnx.ModelProto:
    m = image(12)
    return conv_on(m, m.qdq("x"))


@breaks("opset", "taken")
def fp8_before_19() -> onnx.ModelProto:
    m = image(17)
    return m.model(m.conv(m.qdq("x", dtype=FP8), dtype=FP8, name="op"))


@breaks("opset", "float")
def int4_blocks_before_21() -> onnx.ModelProto:
    m = rows(17)
    return m.model(m.op("MatMul", "x", m.block_weight((256, 32), 64), name="op"))


@breaks("type", "taken")
def uint8_activation() -> onnx.ModelProto:
    m = image()
    return conv_on(m, m.qdq("x", dtype=UINT8))


@breaks("type", "refused")
def uint8_weight() -> onnx.ModelProto:
    m = image()
    w = m.dequantize(m.constant(np.ones((16, 16, 3, 3), np.uint8)), 0.01, UINT8)
    return m.model(m.op("Conv", m.qdq("x"), w, name="op"))


@breaks("type", "refused")
def int16_activation() -> onnx.ModelProto:
    m = image()
    return conv_on(m, m.qdq("x", dtype=TensorProto.INT16))


@breaks("type", "refused")
def e5m2_activation() -> onnx.ModelProto:
    m = image()
    return m.model(m.qdq("x", dtype=TensorProto.FLOAT8E5M2))


@breaks("type-stated", "taken")
def no_type() -> onnx.ModelProto:
    m = image()
    s = m.constant(np.float32(0.1))
    return conv_on(m, m.op("DequantizeLinear", m.op("QuantizeLinear", "x", s), s))


@breaks("int32", "refused")
def int32_bias() -> onnx.ModelProto:
    m = image()
    w = m.weight_qdq(m.weight(16, 16, 3, 3), (16, 16, 3, 3))
    bias = m.dequantize(m.constant(np.zeros(16, np.int32)), 0.01, TensorProto.INT32)
    return m.model(m.op("Conv", m.qdq("x"), w, bias, name="op"))


@breaks("zero-point-zero", "refused")
def zero_point_of_three() -> onnx.ModelProto:
    m = image()
    s, z = m.constant(np.float32(0.1)), m.constant(np.int8(3))
    return conv_on(m, m.op("DequantizeLinear", m.op("QuantizeLinear", "x", s, z), s, z))


@breaks("zero-point-zero", "refused")
def computed_zero_point() -> onnx.ModelProto:
    m = QdqModel(x=IMAGE, given=())
    s, z = m.constant(np.float32(0.1)), m.op("Cast", "given", to=INT8)
    return conv_on(m, m.op("DequantizeLinear", m.op("QuantizeLinear", "x", s, z), s, z))


@breaks("scale-positive", "refused")
def scale_of_zero() -> onnx.ModelProto:
    m = image()
    return conv_on(m, m.qdq("x", 0.0))


@breaks("scale-positive", "refused")
def scale_of_nan() -> onnx.ModelProto:
    m = image()
    return conv_on(m, m.qdq("x", float("nan")))


@breaks("scale-positive", "taken")
def infinite_scale() -> onnx.ModelProto:
    m = image()
    return conv_on(m, m.qdq("x", float("inf")))


@breaks("scale-positive", "refused")
def one_negative_weight_scale() -> onnx.ModelProto:
    m = image()
    scale = m.channel_scale(16)
    scale[3] = -scale[3]
    w = m.qdq(m.weight(16, 16, 3, 3), scale, axis=0)
    return m.model(m.op("Conv", m.qdq("x"), w, name="op"))


@breaks("scale-type", "taken")
def double_scale() -> onnx.ModelProto:
    m = image()
    return m.model(m.qdq("x", np.array(0.1)), dtype=TensorProto.DOUBLE)


@breaks("scale-type-matches", "taken")
def half_scale_on_float_data() -> onnx.ModelProto:
    m = image()
    z = m.constant(np.int8(0))
    q = m.op("QuantizeLinear", "x", m.constant(np.float16(0.1)), z)
    return conv_on(m, m.op("DequantizeLinear", q, m.constant(np.float32(0.1)), z))


@breaks("scale-constant", "float")
def computed_scale() -> onnx.ModelProto:
    # On a Conv the builder crashes instead.
    m = QdqModel(x=ROWS, s=())
    return m.model(m.matmul(m.qdq("x", "s"), 256, name="op"))


@breaks("scale-scalar", "float")
def activation_scale_of_rank_one() -> onnx.ModelProto:
    m = image()
    return conv_on(m, m.qdq("x", np.full(1, 0.1, np.float32)))


@breaks("activation-per-tensor", "float")
def activation_per_channel() -> onnx.ModelProto:
    m = image()
    return conv_on(m, m.qdq("x", m.channel_scale(16), axis=1))


@breaks("channel-count", "refused")
def too_few_scales() -> onnx.ModelProto:
    m = image()
    w = m.qdq(m.weight(16, 16, 3, 3), m.channel_scale(8), axis=0)
    return m.model(m.op("Conv", m.qdq("x"), w, name="op"))


@breaks("channel-axis", "float")
def conv_axis_one() -> onnx.ModelProto:
    m = image()
    return conv_on(m, m.qdq("x"), axis=1)


@breaks("channel-axis", "float")
def matmul_axis_zero() -> onnx.ModelProto:
    m = rows()
    return m.model(m.matmul(m.qdq("x"), 256, axis=0, name="op"))


@breaks("channel-axis", "float")
def gemm_transposed_axis_one() -> onnx.ModelProto:
    m = rows()
    w = m.qdq(m.weight(32, 256), m.channel_scale(256), axis=1)
    return m.model(m.op("Gemm", m.qdq("x"), w, transB=1, name="op"))


@breaks("channel-axis", "float")
def matmul_through_transpose() -> onnx.ModelProto:
    m = rows()
    w = m.qdq(m.weight(32, 256), m.channel_scale(256), axis=1)
    return m.model(m.op("MatMul", m.qdq("x"), m.op("Transpose", w, perm=[1, 0]), name="op"))


@breaks("channel-axis", "float")
def weight_on_the_left() -> onnx.ModelProto:
    m = QdqModel(x=(256, 4))
    w = m.qdq(m.weight(32, 256), m.channel_scale(256), axis=1)
    return m.model(m.op("MatMul", w, m.qdq("x"), name="op"))


@breaks("conv-transpose", "float")
def conv_transpose_per_channel() -> onnx.ModelProto:
    m = image()
    w = m.qdq(m.weight(16, 8, 2, 2), m.channel_scale(8), axis=1)
    return m.model(m.op("ConvTranspose", m.qdq("x"), w, strides=[2, 2], name="op"))


@breaks("block-type", "float")
def int8_blocks_weight_only() -> onnx.ModelProto:
    m = rows()
    return m.model(m.op("MatMul", "x", m.block_weight((256, 32), 64, INT8), name="op"))


@breaks("block-type", "taken")
def int8_blocks() -> onnx.ModelProto:
    m = rows()
    return m.model(m.op("MatMul", m.qdq("x"), m.block_weight((256, 32), 64, INT8), name="op"))


@breaks("block-axis", "refused")
def blocks_on_conv_channels() -> onnx.ModelProto:
    m = QdqModel(x=(1, 64, 8, 8))
    w = m.block_weight((16, 64, 3, 3), 32, FP8, axis=1)
    return m.model(m.op("Conv", "x", w, name="op"))


@breaks("block-operands", "taken")
def fp8_blocks_by_fp8() -> onnx.ModelProto:
    m = rows()
    w = m.block_weight((256, 32), 32, FP8)
    return m.model(m.op("MatMul", m.qdq("x", dtype=FP8), w, name="op"))


@breaks("block-divides", "refused")
def five_blocks_of_64_in_256() -> onnx.ModelProto:
    m = rows()
    data = m.constant(np.ones((256, 32), np.float32).astype(ml_dtypes.int4))
    scale = m.constant(np.full((5, 32), 0.1, np.float32))
    w = m.op("DequantizeLinear", data, scale, axis=0, block_size=64)
    return m.model(m.op("MatMul", "x", w, name="op"))


@breaks("block-divides", "float")
def a_block_and_a_half() -> onnx.ModelProto:
    m = QdqModel(x=(4, 96))
    return m.model(m.op("MatMul", "x", m.block_weight((96, 32), 64), name="op"))


@breaks("block-size", "float")
def small_int4_blocks() -> onnx.ModelProto:
    m = rows()
    return m.model(m.op("MatMul", "x", m.block_weight((256, 32), 32), name="op"))


@breaks("int4-activation", "taken")
def int4_activation() -> onnx.ModelProto:
    m = rows()
    w = m.block_weight((256, 32), 64)
    return m.model(m.op("MatMul", m.qdq("x", dtype=INT4), w, name="op"))


@breaks("int4-expanded", "float")
def int4_conv() -> onnx.ModelProto:
    m = image()
    return conv_on(m, "x", dtype=INT4)


@breaks("int4-expanded", "float")
def int4_per_channel() -> onnx.ModelProto:
    m = rows()
    return m.model(m.matmul("x", 256, dtype=INT4, name="op"))


@breaks("int4-expanded", "float")
def one_block_per_channel() -> onnx.ModelProto:
    m = QdqModel(x=(4, 128))
    return m.model(m.op("MatMul", "x", m.block_weight((128, 32), 128), name="op"))


@breaks("one-type", "refused")
def fp8_by_int8() -> onnx.ModelProto:
    m = image()
    return conv_on(m, m.qdq("x", dtype=FP8))


@breaks("one-type", "taken")
def int8_by_int4() -> onnx.ModelProto:
    m = rows()
    return m.model(m.op("MatMul", m.qdq("x"), m.block_weight((256, 32), 64), name="op"))


@breaks("float-types-agree", "refused")
def half_bias() -> onnx.ModelProto:
    m = image()
    w = m.weight_qdq(m.weight(16, 16, 3, 3), (16, 16, 3, 3))
    return m.model(m.op("Conv", m.qdq("x"), w, m.constant(np.zeros(16, np.float16)), name="op"))


@breaks("concat-scales", "float")
def concat_of_two_scales() -> onnx.ModelProto:
    m = image()
    joined = m.op("Concat", m.qdq("x", 0.05), m.qdq(m.op("Relu", "x"), 0.03), axis=1, name="join")
    return m.model(m.conv(joined, 32, name="op"))


@breaks("concat-scales", "float")
def concat_with_float() -> onnx.ModelProto:
    m = image()
    joined = m.op("Concat", m.qdq("x"), m.op("Relu", "x"), axis=1, name="join")
    pooled = m.op("MaxPool", joined, kernel_shape=[2, 2])
    return m.model(m.conv(pooled, 32, name="op"))


@breaks("both-operands", "float")
def weight_only_conv() -> onnx.ModelProto:
    m = image()
    return conv_on(m, "x")


@breaks("both-operands", "float")
def activation_only_conv() -> onnx.ModelProto:
    m = image()
    return conv_on(m, m.qdq("x"), dtype=None)


@breaks("both-operands", "float")
def average_pool_after_dequantize() -> onnx.ModelProto:
    m = image()
    return conv_on(m, m.op("AveragePool", m.qdq("x"), kernel_shape=[2, 2]))


@breaks("both-operands", "float")
def padding_with_one() -> onnx.ModelProto:
    m = image()
    pads = m.constant(np.array([0, 0, 1, 1, 0, 0, 1, 1]))
    return conv_on(m, m.op("Pad", m.qdq("x"), pads, m.constant(np.float32(1))))
