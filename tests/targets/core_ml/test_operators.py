"""Every operator that lowering writes: a package written, read back from disk and evaluated gives what onnxruntime gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from packages import Written, write
from small_graphs import graph_of, normal, ops_of, ramp, run

from qcompiler.errors import TargetError
from qcompiler.ir.functions import DOMAIN, LOOKUP
from qcompiler.ir.graph import Graph
from qcompiler.passes.fold_constants import FoldConstants
from qcompiler.passes.fuse_composites import FuseComposites
from qcompiler.probe import random_feeds
from qcompiler.targets.core_ml.evaluate import RULES, Evaluator, decoded, inference, looked_up
from qcompiler.targets.core_ml.lower import EMITTERS
from qcompiler.targets.core_ml.names import identifiers

pytest.importorskip("coremltools")

IMAGE = "(float[2,8,9,7] x) => (float y)"
FLAT = "(float[batch,12] x) => (float y)"
TWO = "(float[2,8,6,5] x, float[2,8,6,5] z) => (float y)"
SIZES = {"sizes": np.array([2, 8, 18, 21])}
LSTM = {"w": normal(1, 20, 6) / 3, "r": normal(1, 20, 5) / 3, "b": normal(1, 40) / 3}
BOTH = {
    "w": normal(2, 20, 6) / 3,
    "r": normal(2, 20, 5) / 3,
    "b": normal(2, 40) / 3,
    "h": normal(2, 3, 5),
    "c": normal(2, 3, 5),
}

GRU = {"w": normal(1, 15, 6) / 3, "r": normal(1, 15, 5) / 3, "b": normal(1, 30) / 3}
GRU_BOTH = {
    "w": normal(2, 15, 6) / 3,
    "r": normal(2, 15, 5) / 3,
    "b": normal(2, 30) / 3,
    "h": normal(2, 3, 5),
}


def one(text: str, **constants: Any) -> tuple[str, dict[str, Any]]:
    return text, constants


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    # products
    "Conv": one(f"{IMAGE} {{ y = Conv<pads=[1,0,2,1], strides=[2,1]>(x, w, b) }}", w=normal(6, 8, 3, 3), b=normal(6)),
    "Conv, dilations": one(f"{IMAGE} {{ y = Conv<dilations=[2,1]>(x, w) }}", w=normal(6, 8, 3, 3)),
    "Conv, groups": one(f"{IMAGE} {{ y = Conv<group=2>(x, w) }}", w=normal(6, 4, 3, 3)),
    "Conv, depthwise": one(f"{IMAGE} {{ y = Conv<group=8, pads=[1,1,1,1]>(x, w, b) }}", w=normal(8, 1, 3, 3), b=normal(8)),
    "Conv, depthwise, two filters": one(f"{IMAGE} {{ y = Conv<group=8, strides=[2,2]>(x, w) }}", w=normal(16, 1, 3, 3)),
    "Conv, SAME_UPPER": one(f"{IMAGE} {{ y = Conv<auto_pad=\"SAME_UPPER\", strides=[2,2]>(x, w) }}", w=normal(6, 8, 4, 4)),
    "Conv, SAME_LOWER": one(f"{IMAGE} {{ y = Conv<auto_pad=\"SAME_LOWER\", strides=[2,3]>(x, w) }}", w=normal(6, 8, 4, 4)),
    "Conv, one dimension": one("(float[2,8,9] x) => (float y) { y = Conv<pads=[2,1]>(x, w, b) }", w=normal(6, 8, 3), b=normal(6)),
    "Conv, three dimensions": one("(float[1,3,5,6,4] x) => (float y) { y = Conv<pads=[1,0,1,0,1,1]>(x, w) }", w=normal(4, 3, 3, 2, 2)),
    "ConvTranspose": one(f"{IMAGE} {{ y = ConvTranspose<strides=[2,3], pads=[1,0,0,1]>(x, w, b) }}", w=normal(8, 5, 3, 4), b=normal(5)),
    "ConvTranspose, groups, dilations": one(f"{IMAGE} {{ y = ConvTranspose<group=4, dilations=[2,1]>(x, w) }}", w=normal(8, 3, 3, 3)),
    "ConvTranspose, longer within its padding": one(f"{IMAGE} {{ y = ConvTranspose<strides=[2,2], pads=[1,1,1,1], output_padding=[1,1]>(x, w, b) }}", w=normal(8, 5, 3, 3), b=normal(5)),
    "ConvTranspose, longer beyond": one(f"{IMAGE} {{ y = ConvTranspose<strides=[2,3], output_padding=[1,2]>(x, w, b) }}", w=normal(8, 5, 3, 4), b=normal(5)),
    "Gemm": one(f"{FLAT} {{ y = Gemm<transB=1>(x, w, b) }}", w=normal(7, 12), b=normal(7)),
    "Gemm, general": one("(float[12,5] x) => (float y) { y = Gemm<transA=1, alpha=0.5, beta=2.0>(x, w, b) }", w=normal(12, 7), b=normal(7)),
    "MatMul": one("(float[2,4,6] x, float[2,6,5] z) => (float y) { y = MatMul(x, z) }"),
    "MatMul, constant": one("(float[2,4,6] x) => (float y) { y = MatMul(x, w) }", w=normal(6, 5)),
    "MatMul, vector": one("(float[6] x, float[2,6,5] z) => (float y) { y = MatMul(x, z) }"),
    # pointwise
    **{op: one(f"{IMAGE} {{ y = {op}(x) }}") for op in (
        "Relu", "Sigmoid", "Tanh", "Softplus", "Softsign", "Abs", "Ceil", "Floor", "Round", "Sign", "Sin", "Cos", "Exp", "Erf",
        "LeakyRelu", "Elu", "ThresholdedRelu", "Neg", "HardSigmoid", "HardSwish", "Mish", "Selu", "Celu", "Gelu", "Identity", "Dropout",
    )},
    "Gelu, tanh": one(f"{IMAGE} {{ y = Gelu<approximate=\"tanh\">(x) }}"),
    "Swish": one("<opset_import>"),
    "Sqrt": one(f"{IMAGE} {{ a = Abs(x) y = Sqrt(a) }}"),
    "Log": one(f"{IMAGE} {{ a = Exp(x) y = Log(a) }}"),
    "Reciprocal": one(f"{IMAGE} {{ a = Exp(x) y = Reciprocal(a) }}"),
    "PRelu": one(f"{IMAGE} {{ y = PRelu(x, s) }}", s=normal(8, 1, 1)),
    "PRelu, one slope": one(f"{IMAGE} {{ y = PRelu(x, s) }}", s=normal(1)),
    "PRelu, per column": one(f"{IMAGE} {{ y = PRelu(x, s) }}", s=normal(7)),
    "Clip": one(f"{IMAGE} {{ a = Clip(x, low, high) y = Clip(a, low) }}", low=np.float32(-0.5), high=np.float32(1.2)),
    "Clip, relu6": one(f"{IMAGE} {{ a = Mul(x, k) y = Clip(a, low, high) }}", k=np.float32(9), low=np.float32(0), high=np.float32(6)),
    "Clip, computed": one("(float[2,5] x, float[1] z) => (float y) { a = Squeeze(z) y = Clip(x, , a) }"),
    "Cast": one(f"{IMAGE} {{ a = Cast<to=6>(x) b = Cast<to=1>(a) c = Cast<to=9>(x) d = Cast<to=1>(c) y = Add(b, d) }}"),
    "Not": one(f"{IMAGE} {{ a = Greater(x, k) b = Not(a) y = Cast<to=1>(b) }}", k=np.float32(0.1)),
    **{op: one(f"{TWO} {{ y = {op}(x, z) }}") for op in ("Add", "Sub", "Mul", "Div", "Max", "Min", "Sum", "Mean")},
    "Add, constant in front": one(f"{IMAGE} {{ y = Add(k, x) }}", k=normal(8, 1, 1)),
    "Max of three": one(f"{TWO} {{ a = Relu(x) y = Max(a, z, x) }}"),
    "Pow": one(f"{IMAGE} {{ a = Abs(x) y = Pow(a, k) }}", k=np.float32(1.5)),
    "Mod": one("(int32[2,5] x) => (int32 y) { a = Add(x, k) y = Mod(a, m) }", k=np.arange(-5, 5, dtype=np.int32).reshape(2, 5), m=np.int32(3)),
    **{op: one(f"{TWO} {{ a = {op}(x, z) y = Cast<to=1>(a) }}") for op in ("Greater", "Less", "GreaterOrEqual", "LessOrEqual")},
    "Equal": one("(int32[2,9] x, int32[2,9] z) => (float y) { a = Equal(x, z) y = Cast<to=1>(a) }"),
    **{op: one(f"{TWO} {{ a = Greater(x, z) b = Less(x, k) c = {op}(a, b) y = Cast<to=1>(c) }}", k=np.float32(0)) for op in ("And", "Or", "Xor")},
    "Where": one(f"{TWO} {{ a = Greater(x, z) y = Where(a, x, k) }}", k=np.float32(0.5)),
    # movement
    "Reshape": one(f"{IMAGE} {{ y = Reshape(x, s) }}", s=np.array([0, -1, 7])),
    "Reshape, open batch": one("(float[batch,8,4] x) => (float y) { y = Reshape(x, s) }", s=np.array([0, 4, 8])),
    "Reshape, computed": one("(float[batch,8,4] x) => (float y) { a = Shape<end=1>(x) b = Concat<axis=0>(a, s) y = Reshape(x, b) }", s=np.array([32])),
    "Flatten": one(f"{IMAGE} {{ y = Flatten<axis=2>(x) }}"),
    "Flatten, open batch": one("(float[batch,8,4] x) => (float y) { y = Flatten(x) }"),
    "Transpose": one(f"{IMAGE} {{ y = Transpose<perm=[0,2,3,1]>(x) }}"),
    "Squeeze": one("(float[2,1,5,1] x) => (float y) { y = Squeeze(x, a) }", a=np.array([1, -1])),
    "Unsqueeze": one("(float[2,5] x) => (float y) { y = Unsqueeze(x, a) }", a=np.array([0, -1])),
    "Slice": one(f"{IMAGE} {{ y = Slice(x, s, e, a, t) }}", s=np.array([1, -3]), e=np.array([-1, 2**40]), a=np.array([2, -1]), t=np.array([2, 1])),
    "Slice, backwards": one(f"{IMAGE} {{ y = Slice(x, s, e, a, t) }}", s=np.array([-1, 5]), e=np.array([-(2**40), 1]), a=np.array([2, 3]), t=np.array([-1, -2])),
    "Split": one(f"{IMAGE} {{ a, b = Split<axis=1>(x, s) y = Concat<axis=1>(b, a) }}", s=np.array([3, 5])),
    "Split, equal parts": one(f"{IMAGE} {{ a, b = Split<axis=1, num_outputs=2>(x) y = Sub(a, b) }}"),
    "Concat": one(f"{TWO} {{ y = Concat<axis=-1>(x, z, x) }}"),
    "Expand": one("(float[8,1,5] x) => (float y) { y = Expand(x, s) }", s=np.array([2, 1, 6, 1])),
    "Tile": one(f"{IMAGE} {{ y = Tile(x, r) }}", r=np.array([1, 2, 1, 3])),
    "Pad": one(f"{IMAGE} {{ y = Pad(x, p, v) }}", p=np.array([0, 1, 1, 2, 0, 0, 1, 0]), v=np.float32(0.3)),
    "Pad, axes": one(f"{IMAGE} {{ y = Pad<mode=\"reflect\">(x, p, , a) }}", p=np.array([2, 1, 1, 2]), a=np.array([2, -1])),
    "Pad, edge": one(f"{IMAGE} {{ y = Pad<mode=\"edge\">(x, p) }}", p=np.array([0, 0, 1, 2, 0, 0, 1, 0])),
    "DepthToSpace": one(f"{IMAGE} {{ y = DepthToSpace<blocksize=2>(x) }}"),
    "DepthToSpace, CRD": one(f"{IMAGE} {{ y = DepthToSpace<blocksize=2, mode=\"CRD\">(x) }}"),
    "SpaceToDepth": one("(float[2,3,8,6] x) => (float y) { y = SpaceToDepth<blocksize=2>(x) }"),
    "Gather": one(f"{IMAGE} {{ y = Gather<axis=1>(x, i) }}", i=np.array([[3, -1], [0, 0]])),
    "Gather, one": one(f"{IMAGE} {{ y = Gather<axis=2>(x, i) }}", i=np.array(4)),
    "Gather, a table": one("(int64[batch,5] x) => (float y) { y = Gather(w, x) }", w=normal(9, 4)),
    "GatherElements": one("(float[2,5] x) => (float y) { y = GatherElements<axis=1>(x, i) }", i=np.array([[3, -1, 0], [0, 0, 4]])),
    "GatherND": one("(float[2,5,3] x) => (float y) { y = GatherND(x, i) }", i=np.array([[1, 4], [0, 2]])),
    "Shape": one("(float[2,5,3] x) => (int64 y) { a = Relu(x) y = Shape<start=1>(a) }"),
    "ConstantOfShape": one("(float[batch,3] x) => (float y) { s = Shape(x) a = ConstantOfShape(s) y = Add(a, x) }"),
    # reductions and normalizations
    **{op: one(f"{IMAGE} {{ a = Abs(x) y = {op}<keepdims=0>(a, r) }}", r=np.array([1, -1])) for op in (
        "ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSum", "ReduceLogSumExp",
    )},
    "ReduceProd": one("(float[2,5] x) => (float y) { y = ReduceProd(x, r) }", r=np.array([1])),
    "ReduceSum of all": one(f"{IMAGE} {{ y = ReduceSum(x) }}"),
    "ArgMax": one("(float[3,13] x) => (int64 y) { y = ArgMax<axis=1, keepdims=0>(x) }"),
    "ArgMin": one("(float[3,13] x) => (int64 y) { y = ArgMin<axis=1>(x) }"),
    "TopK": one("(float[3,13] x) => (float y, int64 i) { y, i = TopK<axis=1>(x, k) }", k=np.array([4])),
    "TopK, smallest": one("(float[3,13] x) => (float y, int64 i) { y, i = TopK<axis=0, largest=0>(x, k) }", k=np.array([2])),
    "CumSum": one("(float[3,13] x) => (float y) { y = CumSum<exclusive=1, reverse=1>(x, a) }", a=np.array(1)),
    "Softmax": one(f"{IMAGE} {{ y = Softmax<axis=1>(x) }}"),
    "LogSoftmax": one(f"{IMAGE} {{ y = LogSoftmax<axis=1>(x) }}"),
    "BatchNormalization": one(f"{IMAGE} {{ y = BatchNormalization(x, s, b, m, v) }}", s=normal(8), b=normal(8, seed=1), m=normal(8, seed=2), v=ramp(8)),
    "LayerNormalization": one("(float[2,5,6] x) => (float y) { y = LayerNormalization<axis=-2>(x, s, b) }", s=normal(5, 6), b=normal(6)),
    "InstanceNormalization": one(f"{IMAGE} {{ y = InstanceNormalization(x, s, b) }}", s=normal(8), b=normal(8, seed=1)),
    "GroupNormalization": one(f"{IMAGE} {{ y = GroupNormalization<num_groups=4>(x, s, b) }}", s=normal(8), b=normal(8, seed=1)),
    "LpNormalization": one(f"{IMAGE} {{ y = LpNormalization<axis=1>(x) }}"),
    "LpNormalization, 1": one(f"{IMAGE} {{ y = LpNormalization<axis=-1, p=1>(x) }}"),
    "LRN": one(f"{IMAGE} {{ y = LRN<size=5, alpha=0.5>(x) }}"),
    # images
    "MaxPool": one(f"{IMAGE} {{ y = MaxPool<kernel_shape=[3,2], strides=[2,1], pads=[1,0,1,1]>(x) }}"),
    "MaxPool, rounded up": one(f"{IMAGE} {{ y = MaxPool<kernel_shape=[2,2], strides=[2,2], ceil_mode=1>(x) }}"),
    "AveragePool": one(f"{IMAGE} {{ y = AveragePool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>(x) }}"),
    "AveragePool, padding counts": one(f"{IMAGE} {{ y = AveragePool<kernel_shape=[3,3], pads=[1,0,1,2], count_include_pad=1>(x) }}"),
    "AveragePool, SAME_UPPER": one(f"{IMAGE} {{ y = AveragePool<kernel_shape=[2,2], strides=[2,2], auto_pad=\"SAME_UPPER\">(x) }}"),
    "AveragePool, rounded up": one(f"{IMAGE} {{ y = AveragePool<kernel_shape=[2,2], strides=[2,2], ceil_mode=1>(x) }}"),
    "GlobalAveragePool": one(f"{IMAGE} {{ y = GlobalAveragePool(x) }}"),
    "GlobalMaxPool": one(f"{IMAGE} {{ y = GlobalMaxPool(x) }}"),
    "Resize": one(f"{IMAGE} {{ y = Resize<mode=\"nearest\">(x, , s) }}", s=np.float32([1, 1, 2, 3])),
    "Resize, nearest to a size": one(f"{IMAGE} {{ y = Resize<mode=\"nearest\", nearest_mode=\"ceil\", coordinate_transformation_mode=\"asymmetric\">(x, , , s) }}", s=np.array([2, 8, 13, 5])),
    "Resize, nearest, corners": one(f"{IMAGE} {{ y = Resize<mode=\"nearest\", coordinate_transformation_mode=\"align_corners\">(x, , , s) }}", s=np.array([2, 8, 13, 5])),
    **{f"Resize, linear, {mode}": one(f"{IMAGE} {{ y = Resize<mode=\"linear\", coordinate_transformation_mode=\"{mode}\">(x, , , s) }}", s=np.array([2, 8, 23, 5]))
       for mode in ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel")},
    # recurrent
    "LSTM": one("(float[4,3,6] x) => (float y, float h, float c) { y, h, c = LSTM<hidden_size=5>(x, w, r, b) }", **LSTM),
    "LSTM, reverse": one("(float[4,3,6] x) => (float y) { y = LSTM<hidden_size=5, direction=\"reverse\">(x, w, r) }", w=LSTM["w"], r=LSTM["r"]),
    "LSTM, both ways": one("(float[4,3,6] x) => (float y, float z) { y, z = LSTM<hidden_size=5, direction=\"bidirectional\">(x, w, r, b, , h, c) }", **BOTH),
    "GRU": one("(float[4,3,6] x) => (float y, float h) { y, h = GRU<hidden_size=5>(x, w, r, b) }", **GRU),
    "GRU, reverse": one("(float[4,3,6] x) => (float y) { y = GRU<hidden_size=5, direction=\"reverse\">(x, w, r) }", w=GRU["w"], r=GRU["r"]),
    "GRU, both ways": one("(float[4,3,6] x) => (float y, float z) { y, z = GRU<hidden_size=5, direction=\"bidirectional\">(x, w, r, b, , h) }", **GRU_BOTH),
    "GRU, reset behind": one("(float[4,3,6] x) => (float y, float h) { y, h = GRU<hidden_size=5, linear_before_reset=1>(x, w, r, b) }", **GRU),
    "GRU, reset behind, one step": one("(float[1,3,6] x) => (float y) { y = GRU<hidden_size=5, linear_before_reset=1>(x, w, r) }", w=GRU["w"], r=GRU["r"]),
    "GRU, reset behind, both ways": one("(float[4,3,6] x) => (float y, float z) { y, z = GRU<hidden_size=5, linear_before_reset=1, direction=\"bidirectional\">(x, w, r, b, , h) }", **GRU_BOTH),
    # codes
    "QuantizeLinear": one(f"{IMAGE} {{ q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z) }}", s=np.float32(0.02), z=np.uint8(128)),
    "DequantizeLinear": one(f"{IMAGE} {{ q = QuantizeLinear<axis=1>(x, s) y = DequantizeLinear<axis=1>(q, s) }}", s=ramp(8, 0.01, 0.01)),
}  # fmt: skip
del CASES["Swish"]
COMPOSITES = {
    "Swish": one(f"{IMAGE} {{ a = Sigmoid(x) y = Mul(x, a) }}"),
    "RMSNormalization": one(
        "(float[2,5,6] x) => (float y) { q = Mul(x, x) m = ReduceMean(q, a) t = Add(m, e) r = Sqrt(t) n = Div(x, r) y = Mul(n, s) }",
        a=np.array([-1]), e=np.float32(1e-5), s=normal(6),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_operator(name: str, tmp_path: Path) -> None:
    text, constants = CASES[name]
    written = write(graph_of(text, constants), tmp_path)
    assert written.gap() < 1e-5
    check_rules(written)


def check_rules(written: Written) -> None:
    """Where coremltools infers values itself, it infers what the rules here compute."""
    names = identifiers(written.graph)
    feeds = {names[name]: array for name, array in random_feeds(written.graph, seed=1).items()}
    for op, inputs, results in Evaluator(written.package).trace(feeds):
        inferred = (
            inference(op) if op.op_type != "cumsum" else None
        )  # coremltools 9.0 hands numpy its arguments in the wrong order
        others = None if inferred is None else inferred(**inputs)
        for mine, other in zip(results, others if isinstance(others, tuple) else (others,), strict=False):
            if other is not None:
                np.testing.assert_allclose(
                    mine, other, rtol=1e-5, atol=1e-5, err_msg=f"{op.op_type} {op.name}"
                )


@pytest.mark.parametrize("name", COMPOSITES)
def test_composite(name: str, tmp_path: Path) -> None:
    text, constants = COMPOSITES[name]
    graph = graph_of(text, constants)
    run(graph, FoldConstants(), FuseComposites())
    assert ops_of(graph) == {name: 1}
    assert write(graph, tmp_path).gap() < 1e-5


def look_up(codes: NDArray[np.uint8], **parameters: NDArray[Any]) -> Graph:
    """A convolution with weights that are looked up."""
    graph = graph_of("(float[batch,4,6,5] x) => (float y) { y = Conv(x, w) }", {"w": normal(*codes.shape)})
    (node,) = graph.nodes
    constants = (graph.add_constant(name, data) for name, data in {"codes": codes, **parameters}.items())
    decoded = graph.add_value("decoded", np.float32, codes.shape)
    graph.add_node(LOOKUP, list(constants), [decoded], domain=DOMAIN)
    graph.set_input(node, 1, decoded)
    return graph


def codes_of(bits: int, *shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(bits).integers(0, 1 << bits, shape).astype(np.uint8)


@pytest.mark.parametrize("device", ["ios17", "ios18", "ios26"])
@pytest.mark.parametrize("bits", [1, 2, 3, 4, 6, 8])
def test_table_lookup(bits: int, device: str, tmp_path: Path) -> None:
    """On iOS 17 tables of 3 bits are refused; scales per channel are from iOS 26 on."""
    scale = ramp(7).reshape(-1, 1, 1, 1) if device == "ios26" else np.float32(1)
    codes = codes_of(bits, 7, 4, 2, 2)
    graph = look_up(codes, table=normal(1 << bits), scale=scale, first=np.zeros((), np.int32))
    if device == "ios17" and bits == 3:
        with pytest.raises(TargetError, match="tables of 3 bits"):
            write(graph, tmp_path, device)
        return
    assert write(graph, tmp_path, device).gap() < 1e-5


@pytest.mark.parametrize("device", ["ios17", "ios18"])
@pytest.mark.parametrize("bits", [1, 2, 3, 4, 6, 8])
@pytest.mark.parametrize("axis", [0, 1])
def test_table_lookup_in_groups(axis: int, bits: int, device: str, tmp_path: Path) -> None:
    codes, levels = codes_of(bits, 6, 4, 2, 2), 1 << bits
    first = np.repeat(np.arange(2, dtype=np.int32) * levels, codes.shape[axis] // 2)
    first = np.expand_dims(first, tuple(other for other in range(4) if other != axis))
    graph = look_up(codes, table=normal(2, levels), scale=np.ones((), np.float32), first=first)
    if device == "ios17":
        with pytest.raises(TargetError, match="are stored from iOS 18 and macOS 15 on"):
            write(graph, tmp_path, device)
        return
    written = write(graph, tmp_path, device)
    assert written.gap() < 1e-5
    (stored,) = (op for op in written.package.function.operations if op.op_type == "constexpr_lut_to_dense")
    assert stored.lut.shape[axis] == 2
    np.testing.assert_array_equal(decoded(stored), stored.materialized_val_inference())


def test_tables_along_several_axes() -> None:
    """As coremltools defines them: every axis is cut into as many blocks as there are tables along it."""
    indices, tables = codes_of(2, 4, 6), normal(2, 3, 4)
    expected = [
        [tables[row // 2, column // 2, indices[row, column]] for column in range(6)] for row in range(4)
    ]
    np.testing.assert_array_equal(looked_up(indices, tables), np.float32(expected))


SENSITIVE = (
    "Ceil",
    "Floor",
    "Round",
    "Sign",
    "Cast",
    "Mod",
    "Equal",
    "Greater",
    "Less",
    "Not",
    "And",
    "Or",
    "Xor",
    "Where",
    "Arg",
    "TopK",
    "Reciprocal",
    "QuantizeLinear",
    "DequantizeLinear",
)
"""A small change of their operand may be a large one of their result."""


@pytest.mark.parametrize("device", [pytest.param("ios16", marks=pytest.mark.slow), "ios18"])
@pytest.mark.parametrize("name", [name for name in CASES if not name.startswith(SENSITIVE)])
def test_operator_in_float16(name: str, device: str, tmp_path: Path) -> None:
    text, constants = CASES[name]
    assert write(graph_of(text, constants), tmp_path, device, "float16").gap() < 1e-2


def test_every_operator_is_tested() -> None:
    assert {name.partition(",")[0].partition(" ")[0] for name in (*CASES, *COMPOSITES, LOOKUP)} == set(
        EMITTERS
    )


def test_what_runs_backwards_is_turned_around(tmp_path: Path) -> None:
    """Core ML's own "reverse" gives the steps in the order that they are computed in."""
    text, constants = CASES["LSTM, reverse"]
    written = write(graph_of(text, constants), tmp_path)
    assert written.ops["reverse"] == 2
    (lstm,) = (op for op in written.package.function.operations if op.op_type == "lstm")
    assert lstm.direction.val == "forward"


@pytest.mark.parametrize(
    ("operator", "constants", "says"),
    [
        ("LSTM<hidden_size=5, layout=1>(x, w, r)", LSTM, "its batch comes first"),
        ("LSTM<hidden_size=5, clip=2.0>(x, w, r)", LSTM, "coupled gates, a clip or peepholes"),
        ("LSTM<hidden_size=5, activations=[\"Tanh\",\"Tanh\",\"Tanh\"]>(x, w, r)", LSTM, "not Sigmoid, Tanh, Tanh"),
        ("GRU<hidden_size=5, layout=1>(x, w, r)", GRU, "its batch comes first"),
        ("GRU<hidden_size=5, clip=2.0>(x, w, r)", GRU, "a clip"),
        ("GRU<hidden_size=5, activations=[\"Sigmoid\",\"Relu\"]>(x, w, r)", GRU, "its activations are Sigmoid, Relu, not Sigmoid, Tanh"),
        ("GRU<hidden_size=5>(x, w, r, , n)", GRU | {"n": np.int32([300, 299, 300])}, "its sequences differ in length"),
        ("GRU<hidden_size=5>(x, w, k)", GRU | {"n": np.int32([1])}, "k.* is computed at run time"),
        ("GRU<hidden_size=5, linear_before_reset=1>(x, w, r)", GRU, "300 steps are too many; export it for 256 at most"),
    ],
)  # fmt: skip
def test_recurrent_operators_without_a_form(
    operator: str, constants: dict[str, Any], says: str, tmp_path: Path
) -> None:
    text = f"(float[300,3,6] x, float[1,15,5] k) => (float y) {{ z = Neg(k) y = {operator} }}"
    known = {name: data for name, data in constants.items() if name in operator.partition(">")[2]}
    with pytest.raises(TargetError, match=says):
        write(graph_of(text, known), tmp_path)


def test_steps_that_are_written_out_share_their_weights(tmp_path: Path) -> None:
    text = "(float[40,3,6] x) => (float y) { y = GRU<hidden_size=64, linear_before_reset=1>(x, w, r) }"
    write(graph_of(text, {"w": normal(1, 192, 6) / 8, "r": normal(1, 192, 64) / 8}), tmp_path)
    (stored,) = tmp_path.rglob("weight.bin")
    assert stored.stat().st_size < 2 * 4 * 192 * (64 + 6)


@pytest.mark.parametrize("operator", ["lstm", "gru"])
def test_the_rules_of_what_runs_backwards(operator: str) -> None:
    """As Core ML has it: the first result is that of the sequence's last element."""
    gates = {"lstm": 4, "gru": 3}[operator]
    x, h = normal(4, 3, 6), normal(3, 5)
    states = {"initial_h": h} | ({"initial_c": normal(3, 5)} if operator == "lstm" else {})
    weights = {"weight_ih": normal(gates * 5, 6), "weight_hh": normal(gates * 5, 5)}
    rule = RULES[operator]
    backwards = rule(x=x, **states, **weights, direction="reverse", output_sequence=True)
    expected = rule(x=x[::-1], **states, **weights, output_sequence=True)
    for mine, other in zip(backwards, expected, strict=True):
        np.testing.assert_array_equal(mine, other)
    last = rule(x=x, **states, **weights, direction="reverse")[0]
    np.testing.assert_array_equal(last, backwards[0][-1:])
