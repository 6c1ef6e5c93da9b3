"""equalize_ranges: factors move between layers, the function stays, and what cannot be scaled is left alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from small_graphs import graph_of, near_misses, normal, ops_of
from strategies import NetworkBuilder

from qcompiler.data import DataSource
from qcompiler.errors import OptionError
from qcompiler.ir.encoding import FORMATS, Encoding
from qcompiler.ir.graph import Graph
from qcompiler.ir.onnx_export import to_onnx
from qcompiler.ir.onnx_import import import_model
from qcompiler.ir.shapes import infer_shapes
from qcompiler.observed import IMPORTED
from qcompiler.pass_manager import PassContext
from qcompiler.passes._scale_chains import find_groups
from qcompiler.passes.canonicalize import Canonicalize
from qcompiler.passes.equalize_ranges import EqualizeRanges
from qcompiler.pipeline import Checks, Pipeline
from qcompiler.probe import Probe
from qcompiler.runtime import Session

IMAGE = "(float[batch,4,6,6] x) => (float y)"
MATRIX = "(float[batch,8] x) => (float y)"
SCALES = (2.0 ** np.array([-4, 3, 0, -2, 5, 1, -1, 2])).astype(np.float32)
DATA = {"x": normal(16, 4, 6, 6, seed=7)}
WEIGHTS = EqualizeRanges(balance="weights")


def uneven(*shape: int, axis: int = 0, seed: int = 0) -> NDArray[np.float32]:
    """Normal numbers, larger and smaller by powers of two along an axis."""
    spread = np.resize(SCALES, shape[axis]).reshape([-1 if dim == axis else 1 for dim in range(len(shape))])
    return normal(*shape, seed=seed) * spread


@dataclass
class Done:
    """A graph after the pass."""

    graph: Graph
    counts: dict[str, int]
    misses: list[str]
    said: list[str]
    changed: bool
    gap: float


def equalized(
    text: str | Graph,
    constants: dict[str, Any] | None = None,
    entry: EqualizeRanges = WEIGHTS,
    *,
    data: dict[str, Any] | None = None,
) -> Done:
    """Runs the pass; counts of operators, outputs and the interface must stay, and the graph must survive a round trip."""
    graph = graph_of(text, constants) if isinstance(text, str) else text
    Pipeline((Canonicalize(),)).run(graph, PassContext())
    before, operators, origins = weights(graph), ops_of(graph), [node.origin for node in graph.nodes]
    probe = Probe(graph, *([data] if data else []))
    arrays = {value.name: (value.data, np.array(value.data)) for value in graph.constants}
    context = PassContext(calibration=None if data is None else DataSource.open(data))
    records = Pipeline((Canonicalize(), entry)).run(graph, context, Checks(probe=probe))
    assert ops_of(graph) == operators
    assert [node.origin for node in graph.nodes] == origins
    for array, copy in arrays.values():
        assert array is not None
        np.testing.assert_array_equal(array, copy)  # never written in place
    again = import_model(to_onnx(graph))
    outputs, reference = probe.run(graph), probe.reference
    gap = 0.0
    for name, expected in reference.items():
        assert np.isfinite(outputs[name]).all()
        np.testing.assert_array_equal(
            Session(again, optimize=False).run(probe.batches[0])[name], outputs[name]
        )
        gap = max(gap, float(np.abs(outputs[name] - expected).max() / (np.abs(expected).max() or 1)))
    assert gap <= 1e-4  # sums may cancel
    changed = any(not np.array_equal(before[name], now) for name, now in weights(graph).items())
    return Done(
        graph,
        records[-1].counts,
        near_misses(records),
        [str(item) for item in records[-1].diagnostics],
        changed,
        gap,
    )


def weights(graph: Graph) -> dict[str, NDArray[Any]]:
    return {
        node.name: np.asarray(node.inputs[1].data)
        for node in graph.nodes
        if node.op in ("Conv", "ConvTranspose", "Gemm", "MatMul")
        and node.inputs[1] is not None
        and node.inputs[1].data is not None
    }


def spread(weight: NDArray[Any], axis: int) -> float:
    """The largest channel over the smallest."""
    peaks = np.abs(weight).max(axis=tuple(dim for dim in range(weight.ndim) if dim != axis))
    return float(peaks.max() / peaks.min())


W, B, V = uneven(8, 4, 3, 3), uneven(8), normal(5, 8, 3, 3)
CONV = {"w": W, "b": B, "v": V}


def test_ranges_of_weights_become_alike() -> None:
    """Nagel et al. 2019, section 4.1: both sides of a channel get the geometric mean of their ranges."""
    done = equalized(f"{IMAGE} {{ c = Conv(x, w, b) r = Relu(c) y = Conv(r, v) }}", CONV, EqualizeRanges("weights", power_of_two=False))  # fmt: skip
    assert done.counts == {"equalized values": 1}
    first, second = weights(done.graph).values()
    written, read = np.abs(first).max(axis=(1, 2, 3)), np.abs(second).max(axis=(0, 2, 3))
    np.testing.assert_allclose(written / read, np.full(8, written[0] / read[0]), rtol=1e-3)
    assert spread(first, 0) < 0.3 * spread(W, 0)


BETWEEN = {
    "relu": "y = Conv(n, v)|n = Relu(c)",
    "leaky": "y = Conv(n, v)|n = LeakyRelu<alpha=0.1>(c)",
    "prelu": "y = Conv(n, v)|n = PRelu(c, slope)",
    "nothing": "y = Conv(c, v)|",
    "max pool": "y = Conv<pads=[1,1,1,1]>(n, v)|n = MaxPool<kernel_shape=[2,2], strides=[1,1], pads=[1,1,0,0]>(c)",
    "average pool": "y = Conv(n, v)|n = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=1>(c)",
    "average pool without padding": "y = Conv(n, v)|n = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1]>(c)",
    "global pools": "y = Conv<pads=[1,1,1,1]>(n, v)|p = GlobalMaxPool(c) n = GlobalAveragePool(p)",
    "pad": "y = Conv(n, v)|n = Pad(c, pads)",
    "reflect": 'y = Conv(n, v)|n = Pad<mode="reflect">(c, pads)',
    "mean": "y = Conv<pads=[1,1,1,1]>(n, v)|n = ReduceMean<keepdims=1>(c, axes)",
    "flatten": "y = Gemm(n, g)|n = Flatten(c)",
    "transposed and flattened": "y = Gemm(n, g)|t = Transpose<perm=[0,2,3,1]>(c) n = Flatten(t)",
    "transposed": "y = MatMul(n, m)|n = Transpose<perm=[0,2,3,1]>(c)",
    "reshaped": "y = MatMul(n, m)|s = Reshape(c, rows) n = Transpose<perm=[0,2,1]>(s)",
    "squeezed": "y = Gemm(n, m)|p = GlobalAveragePool(c) n = Squeeze(p, axes)",
    "mean, dropped": "y = Gemm(n, m)|n = ReduceMean<keepdims=0>(c, axes)",
    "dropout": "y = Conv(n, v)|n = Dropout(c)",
    "absolute": "y = Conv(n, v)|a = Abs(c) n = Neg(a)",
    "resize": 'y = Conv(n, v)|n = Resize<mode="linear">(c, , zooms)',
    "a constant on the way": "y = Conv(n, v)|r = Relu(c) n = Add(r, offset)",
    "subtracted from a constant": "y = Conv(n, v)|r = Relu(c) n = Sub(offset, r)",
    "a factor on the way": "y = Conv(n, v)|r = Relu(c) n = Mul(r, offset)",
    "clip at zero": "y = Conv(n, v)|n = Clip(c, zero)",
    "clip out of reach": "y = Conv(n, v)|p = Sigmoid(x) q = Conv(p, w, b) n = Clip(q, zero, far)",
    "slice": "y = Conv(n, v)|n = Slice(c, starts, ends, axes)",
}  # fmt: skip
MORE = {
    **CONV, "slope": normal(8, 1, 1), "pads": np.array([0, 0, 1, 1, 0, 0, 0, 1]), "axes": np.array([2, 3]), "g": normal(128, 5),
    "m": normal(8, 5), "rows": np.array([0, 8, -1]), "zooms": np.array([1, 1, 2, 2], np.float32), "offset": uneven(8, 1, 1),
    "zero": np.float32(0), "far": np.float32(2e4), "starts": np.array([0, 1]), "ends": np.array([3, 4]),
}  # fmt: skip


@pytest.mark.parametrize("case", BETWEEN)
def test_what_commutes(case: str) -> None:
    last, steps = BETWEEN[case].split("|")
    text = f"{IMAGE} {{ c = Conv(x, w, b) {steps} {last} }}"
    done = equalized(text, {name: data for name, data in MORE.items() if name in text})
    assert done.counts == {"equalized values": 1}
    assert done.changed
    assert done.gap <= 2e-7, "factors are powers of two"


LAYERS: dict[str, tuple[str, dict[str, Any], int]] = {
    "grouped": (
        f"{IMAGE} {{ c = Conv<group=2>(x, w, b) r = Relu(c) y = Conv<group=4>(r, v) }}",
        {"w": uneven(8, 2, 3, 3), "b": B, "v": normal(12, 2, 3, 3)},
        1,
    ),
    "depthwise between": (
        f"{IMAGE} {{ c = Conv(x, w, b) r = Relu(c) d = Conv<group=8>(r, v, e) s = Relu(d) y = Conv(s, u) }}",
        {"w": uneven(8, 4, 1, 1), "b": B, "v": uneven(8, 1, 3, 3, seed=1), "e": B, "u": normal(5, 8, 1, 1)},
        2,
    ),
    "depthwise with a multiplier": (
        f"{IMAGE} {{ c = Conv(x, w) r = Relu(c) d = Conv<group=8>(r, v) s = Relu(d) y = Conv(s, u) }}",
        {"w": uneven(8, 4, 1, 1), "v": uneven(16, 1, 3, 3, seed=1), "u": normal(5, 16, 1, 1)},
        2,
    ),
    "transposed in groups": (
        f"{IMAGE} {{ c = ConvTranspose<group=2>(x, w, b) r = Relu(c) y = ConvTranspose<group=4, strides=[2,2]>(r, v) }}",
        {"w": uneven(4, 4, 3, 3, axis=1), "b": B, "v": uneven(8, 3, 3, 3)},
        1,
    ),
    "gemm": (
        f"{MATRIX} {{ c = Gemm(x, w, b) r = Relu(c) y = Gemm<transB=1>(r, v) }}",
        {"w": uneven(8, 6, axis=1), "b": normal(1, 6), "v": normal(5, 6)},
        1,
    ),
    "gemm the other way round": (
        f"{MATRIX} {{ c = Gemm<transB=1, alpha=0.5, beta=2.0>(x, w, b) r = Relu(c) y = Gemm<alpha=3.0>(r, v) }}",
        {"w": uneven(6, 8), "b": normal(1), "v": normal(6, 5)},
        1,
    ),
    "gemm of a transposed input": (
        "(float[8,batch] x) => (float y) { c = Gemm<transA=1, transB=1>(x, w, b) r = Relu(c) y = Gemm(r, v) }",
        {"w": uneven(6, 8), "b": normal(6), "v": normal(6, 5)},
        1,
    ),
    "matmul": (
        "(float[batch,3,8] x) => (float y) { c = MatMul(x, w) a = Add(c, b) r = Relu(a) y = MatMul(r, v) }",
        {"w": uneven(8, 6, axis=1), "b": normal(6), "v": normal(6, 5)},
        1,
    ),
    "one dimension": (
        "(float[batch,4,9] x) => (float y) { c = Conv(x, w) r = Relu(c) y = Conv(r, v) }",
        {"w": uneven(6, 4, 3), "v": normal(5, 6, 3)},
        1,
    ),
    "two readers": (
        "(float[batch,4,6,6] x) => (float y, float z) { c = Conv(x, w, b) r = Relu(c) y = Conv(r, v) p = GlobalAveragePool(r) z = Conv(p, u) }",
        {**CONV, "u": normal(5, 8, 1, 1)},
        1,
    ),
    "residual": (
        f"{IMAGE} {{ c = Conv(x, w, b) r = Relu(c) d = Conv(r, k, e) a = Add(r, d) s = Relu(a) y = Conv(s, v) }}",
        {**CONV, "k": uneven(8, 8, 1, 1, seed=2), "e": B},
        1,
    ),
    "a shared bias": (
        f"{IMAGE} {{ c = Conv(x, w, b) r = Relu(c) d = Conv(r, k, b) s = Relu(d) y = Conv(s, v) }}",
        {**CONV, "k": uneven(8, 8, 1, 1, seed=2)},
        2,
    ),
}  # fmt: skip


@pytest.mark.parametrize("exact", [True, False], ids=["powers of two", "any factor"])
@pytest.mark.parametrize("case", LAYERS)
def test_layers(case: str, exact: bool) -> None:
    text, constants, values = LAYERS[case]
    done = equalized(text, constants, EqualizeRanges("weights", power_of_two=exact))
    assert done.counts == {"equalized values": values}
    assert done.misses == []
    assert done.gap <= (2e-7 if exact else 1e-5)


TWO = "(float[batch,4,6,6] x) => (float y, float z)"
LEFT: dict[str, tuple[str, dict[str, Any], str]] = {
    "a graph output": (
        "(float[batch,4,6,6] x) => (float y, float r) { c = Conv(x, w, b) r = Relu(c) y = Conv(r, v) }",
        CONV,
        "'r' is a graph output",
    ),
    "a reader that cannot": (
        f"{TWO} {{ c = Conv(x, w, b) r = Relu(c) y = Conv(r, v) z = Sigmoid(r) }}",
        CONV,
        "which is Sigmoid",
    ),
    "a residual from outside": (
        "(float[batch,4,6,6] x, float[batch,8,4,4] o) => (float y) { c = Conv(x, w, b) a = Add(c, o) y = Conv(a, v) }",
        CONV,
        "which is Add",
    ),
    "the channels side by side": (
        f"{TWO} {{ c = Conv(x, w, b) r = Relu(c) z = Concat<axis=1>(r, r) y = Conv(r, v) }}",
        CONV,
        "which is Concat",
    ),
    "two values multiplied": (
        f"{TWO} {{ c = Conv(x, w, b) d = Conv(x, w2) z = Mul(c, d) y = Conv(c, v) }}",
        {**CONV, "w2": W},
        "which is Mul",
    ),
    "a clip that is reached": (
        f"{IMAGE} {{ c = Conv(x, w, b) r = Clip(c, zero, six) y = Conv(r, v) }}",
        {**CONV, "zero": np.float32(0), "six": np.float32(6)},
        "the bound 6 of",
    ),
    "a clip below zero": (
        f"{IMAGE} {{ c = Conv(x, w, b) r = Clip(c, one, six) y = Conv(r, v) }}",
        {**CONV, "one": np.float32(-1), "six": np.float32(0)},
        "the bound -1 of",
    ),
    "a computed clip": (
        "(float[batch,4,6,6] x, float top) => (float y) { c = Conv(x, w, b) r = Clip(c, zero, top) y = Conv(r, v) }",
        {**CONV, "zero": np.float32(0)},
        "are not constant",
    ),
    "a shared weight": (
        f"{TWO} {{ c = Conv(x, w, b) r = Relu(c) y = Conv(r, v) d = Conv(x, w, b) z = Sigmoid(d) }}",
        CONV,
        "is also read by",
    ),
    "a reader of a shared weight": (
        f"{TWO} {{ c = Conv(x, w, b) r = Relu(c) y = Conv(r, v) s = Sigmoid(r) z = Conv(s, v) }}",
        CONV,
        "is also read by",
    ),
    "a computed weight": (
        "(float[batch,4,6,6] x, float[5,8,3,3] v) => (float y) { c = Conv(x, w, b) r = Relu(c) y = Conv(r, v) }",
        {"w": W, "b": B},
        "is not constant",
    ),
    "padding with ones": (
        f"{IMAGE} {{ c = Conv(x, w, b) r = Pad(c, pads, one) y = Conv(r, v) }}",
        {**CONV, "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "one": np.float32(1)},
        "pads with other numbers",
    ),
    "added channels": (
        f"{IMAGE} {{ c = Conv(x, w, b) r = Pad(c, pads) y = Conv(r, v) }}",
        {"w": W, "b": B, "v": normal(5, 9, 3, 3), "pads": np.array([0, 1, 0, 0, 0, 0, 0, 0])},
        "adds channels",
    ),
    "sums over something else": (
        f"{IMAGE} {{ c = Conv(x, w, b) y = MatMul(c, v) }}",
        {"w": W, "b": B, "v": normal(4, 3)},
        "does not sum over the channels",
    ),
    "channels that are torn apart": (
        f"{IMAGE} {{ c = Conv(x, w, b) s = Reshape(c, sizes) y = Conv(s, v) }}",
        {"w": W, "b": B, "v": normal(5, 4, 1, 1), "sizes": np.array([0, 4, 8, 4])},
        "cannot be followed",
    ),
    "half precision": (
        "(float16[batch,4,6,6] x) => (float16 y) { c = Conv(x, w) r = Relu(c) y = Conv(r, v) }",
        {"w": W.astype(np.float16), "v": V.astype(np.float16)},
        "is of type float16",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", LEFT)
def test_what_is_left_alone(case: str) -> None:
    text, constants, reason = LEFT[case]
    done = equalized(text, constants)
    assert not done.counts
    assert not done.changed
    assert any(reason in text for text in done.misses)
    assert len(done.misses) <= 2


def test_gemm_with_a_transposed_input_waits_for_canonicalize() -> None:
    text, constants, _ = LAYERS["gemm of a transposed input"]
    graph = graph_of(text, constants)
    infer_shapes(graph)
    (group,) = find_groups(graph)
    assert "canonicalize takes them out" in group.reasons[0]


def test_channels_of_a_clip_are_told_apart() -> None:
    """Where weights and bias keep a channel below the bound, it may be divided, down to where the bound would be reached."""
    w = np.ones((4, 4, 1, 1), np.float32) * np.array([0.01, 0.1, 1.0, 10.0], np.float32).reshape(-1, 1, 1, 1)
    text = f"{IMAGE} {{ p = Sigmoid(x) c = Conv(p, w) r = Clip(c, zero, six) y = Conv(r, v) }}"
    done = equalized(text, {"w": w, "v": normal(5, 4, 1, 1), "zero": np.float32(0), "six": np.float32(6)}, data={"x": 50 * DATA["x"]})  # fmt: skip
    assert done.counts == {"equalized values": 1}
    factors = w[:, 0, 0, 0] / weights(done.graph)["Conv:c"][:, 0, 0, 0]
    assert factors[3] == 1  # sigmoids sum up to 4: 40 is above 6
    assert (4 * w[:3, 0, 0, 0] / factors[:3] <= 6).all()
    assert (factors[:2] < 1).all()


def test_dead_channels_keep_their_factor() -> None:
    w, v = W.copy(), V.copy()
    w[2], v[:, 5] = 0, 0
    for entry in (WEIGHTS, EqualizeRanges(gain=0.0)):
        done = equalized(
            f"{IMAGE} {{ c = Conv(x, w) r = Relu(c) y = Conv(r, v) }}", {"w": w, "v": v}, entry, data=DATA
        )
        first, second = weights(done.graph).values()
        np.testing.assert_array_equal(first[[2, 5]], w[[2, 5]])
        np.testing.assert_array_equal(second[:, [2, 5]], v[:, [2, 5]])


def test_factors_are_bounded() -> None:
    w = W * (2.0 ** np.array([60, -60, 0, 0, 0, 0, 0, 30]).astype(np.float32)).reshape(-1, 1, 1, 1)
    done = equalized(f"{IMAGE} {{ c = Conv(x, w) r = Relu(c) y = Conv(r, v) }}", {"w": w, "v": V})
    factors = w[:, 0, 0, 0] / weights(done.graph)["Conv:c"][:, 0, 0, 0]
    assert factors.max() == 256
    assert factors.min() == 1 / 256


def test_what_would_overflow_is_left_alone() -> None:
    w, v = W * np.float32(1e36), V.copy()
    v[:, 0] = 3e38
    graph = graph_of(f"{IMAGE} {{ c = Conv(x, w) r = Relu(c) y = Conv(r, v) }}", {"w": w * np.resize([1e-2, 1], 8).reshape(-1, 1, 1, 1).astype(np.float32), "v": v})  # fmt: skip
    (_, record) = Pipeline((Canonicalize(), WEIGHTS)).run(graph, PassContext())
    assert all(np.isfinite(weight).all() for weight in weights(graph).values())
    assert record.counts or "overflow" in str(record.diagnostics[0])


UNEVEN = f"{IMAGE} {{ c = Conv(x, w) r = Relu(c) d = Conv<group=8>(r, v) s = Relu(d) y = Conv(s, u) }}"
UNEVEN_CONSTANTS = {"w": uneven(8, 4, 1, 1), "v": normal(8, 1, 3, 3), "u": normal(5, 8, 1, 1)}


def test_ranges_of_activations_become_alike() -> None:
    done = equalized(UNEVEN, UNEVEN_CONSTANTS, EqualizeRanges(), data=DATA)
    assert done.counts["equalized values"] >= 1
    assert done.gap <= 2e-7
    assert any("modelled noise falls by" in text for text in done.said)
    value = "r"
    done.graph.set_outputs([done.graph.value(value)])
    after = Session(done.graph, optimize=False).run(DATA)[value].max(axis=(0, 2, 3))
    assert after.max() / after.min() < 16, "was about 2^9"


def test_even_channels_are_left_alone() -> None:
    constants = {**UNEVEN_CONSTANTS, "w": normal(8, 4, 1, 1)}
    done = equalized(UNEVEN, constants, EqualizeRanges(gain=6.0), data=DATA)
    assert not done.changed
    assert "would gain less than 6 dB" in done.said[-1]


def test_without_data_nothing_is_changed() -> None:
    done = equalized(UNEVEN, UNEVEN_CONSTANTS, EqualizeRanges())
    assert not done.changed
    assert "there are no calibration data" in done.said[-1]


def test_few_samples_are_taken_from_all_over() -> None:
    data = np.zeros((64, 4, 6, 6), np.float32)
    data[40:] = normal(24, 4, 6, 6)
    done = equalized(UNEVEN, UNEVEN_CONSTANTS, EqualizeRanges(samples=16), data={"x": data})
    assert done.changed


def test_values_with_an_encoding_of_the_model_keep_their_numbers() -> None:
    graph = graph_of(f"{IMAGE} {{ c = Conv(x, w, b) r = Relu(c) y = Conv(r, v) }}", CONV)
    encoding = Encoding(FORMATS["uint8"], np.float32(0.1), np.uint8(0))
    Canonicalize().run(graph, PassContext())
    graph.facts[IMPORTED] = {"r": encoding}
    result = WEIGHTS.run(graph, PassContext())
    assert not result.counts
    assert "came with the model" in str(result.diagnostics[0])


def test_bisection_can_stop_it_anywhere() -> None:
    text, constants, values = LAYERS["depthwise between"]
    for fuel in range(values + 1):
        graph = graph_of(text, constants)
        before = Probe(graph)
        Canonicalize().run(graph, PassContext())
        result = WEIGHTS.run(graph, PassContext(fuel=fuel))
        assert result.counts.get("equalized values", 0) == fuel
        before.hold(graph, WEIGHTS)


def test_options() -> None:
    assert str(EqualizeRanges("weights", gain=2.0)) == "equalize_ranges{balance=weights,gain=2.0}"
    with pytest.raises(OptionError, match="at least one sample"):
        EqualizeRanges(samples=0)
    with pytest.raises(OptionError, match="balance"):
        EqualizeRanges.from_options({"balance": "both"})


@st.composite
def chains(draw: st.DrawFn) -> Graph:
    """Random chains of layers, activations and pools, with residuals and outputs in between."""
    graph = Graph("g")
    builder = NetworkBuilder(graph, draw(st.integers(0, 5)))
    value = graph.add_input("x", np.dtype(np.float32), ("batch", 4, 8, 8))
    outputs, earlier = [], []
    for _ in range(draw(st.integers(2, 6))):
        channels = draw(st.sampled_from([4, 8]))
        kernel = draw(st.sampled_from([1, 3]))
        value = builder.conv(value, channels, kernel, bias=draw(st.booleans()))
        weight = value.producer.inputs[1] if value.producer is not None else None
        assert weight is not None
        graph.set_data(weight, uneven(*(weight.data.shape if weight.data is not None else ()), seed=1))
        step = draw(st.sampled_from(["Relu", "LeakyRelu", "Abs", "Sigmoid", "Clip", "none", "add", "output"]))
        if step == "Clip":
            bounds = [graph.add_constant("bound", np.float32(bound)) for bound in (0, draw(st.sampled_from([6, 2000])))]  # fmt: skip
            value = builder.same("Clip", value, *bounds)
        elif step == "add":
            others = [other for other in earlier if other.shape == value.shape]
            value = builder.same("Add", value, others[-1]) if others else value
        elif step == "output":
            outputs.append(value)
        elif step != "none":
            value = builder.same(step, value)
        earlier.append(value)
    graph.set_outputs([*dict.fromkeys(outputs), builder.gemm(value, 3)])
    return graph


@settings(max_examples=25, deadline=None)
@given(chains(), st.sampled_from(["weights", "activations"]), st.booleans())
def test_the_function_stays(graph: Graph, balance: Any, exact: bool) -> None:
    data = {"x": normal(4, 4, 8, 8)}
    equalized(graph, entry=EqualizeRanges(balance, exact, gain=0.0), data=data)
