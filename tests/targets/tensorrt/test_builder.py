"""What TensorRT-RTX makes of each QDQ pattern, and that the report says so."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from broken_models import BROKEN, IMAGE, Broken
from qdq_models import FLOAT16, FP8, UINT8, QdqModel

from qcompiler.targets.tensorrt import builder as builder_module
from qcompiler.targets.tensorrt.builder import (
    DEVICES,
    STAND_INS,
    BuilderUnavailableError,
    BuildReport,
    available,
    build,
)

if TYPE_CHECKING:
    from pathlib import Path

trt = pytest.importorskip("tensorrt_rtx")


def compiled(model: onnx.ModelProto, device: str = "sm89") -> BuildReport:
    """Build in this process: a twentieth of a second instead of half of one."""
    report = build(model.SerializeToString(), device=device, isolated=False)
    assert report.built, (report.parser_errors, report.errors)
    return report


def conv_relu(m: QdqModel) -> str:
    return m.op("Relu", m.conv(m.qdq("x"), name="first"))


# -- the main patterns -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ["Relu", "LeakyRelu", "Sigmoid", "HardSwish", "Mish"])
def test_conv_activation_chain_is_int8(activation: str) -> None:
    m = QdqModel(x=IMAGE)
    first = m.op(activation, m.conv(m.qdq("x"), name="first"), name="activation")
    report = compiled(m.model(m.conv(m.qdq(first), name="second")))
    assert report.int8_weighted == {"first", "second"}
    assert report.float_weighted == report.unlisted == frozenset()
    # The activation and the next Q are one kernel, which reads the Conv's result and writes int8.
    (epilogue,) = (layer for layer in report.layers if "activation" in layer.nodes)
    assert [o.dtype for o in epilogue.outputs] == ["Int8"]


@pytest.mark.parametrize("shortcut", ["shared", "own", "float"])
def test_residual_add_reads_the_shortcut_as_it_is_quantized(shortcut: str) -> None:
    m = QdqModel(x=IMAGE)
    x = conv_relu(m)
    quantized = m.qdq(x)
    other = {"shared": quantized, "own": m.qdq(x), "float": x}[shortcut]
    added = m.op("Add", m.conv(quantized, name="second"), other, name="add")
    report = compiled(m.model(m.conv(m.qdq(m.op("Relu", added)), name="third")))
    assert report.int8_weighted == {"first", "second", "third"}
    assert report.residual_adds == {"add": "Float" if shortcut == "float" else "Int8"}


@pytest.mark.parametrize("quantized", [(), ("main",), ("down",), ("main", "down")])
def test_downsampling_residual_add_is_float_whatever_is_quantized(quantized: tuple[str, ...]) -> None:
    m = QdqModel(x=IMAGE)
    x = m.qdq("x")
    branches = {"main": m.conv(x, name="main"), "down": m.conv(x, kernel=1, name="down")}
    inputs = [m.qdq(y) if name in quantized else y for name, y in branches.items()]
    report = compiled(m.model(m.conv(m.qdq(m.op("Relu", m.op("Add", *inputs, name="add"))), name="next")))
    assert report.int8_weighted == {"main", "down", "next"}
    assert report.residual_adds == {"add": "Float"}
    # One kernel reads both raw results, does the Q/DQ round trips in registers, adds, and writes int8.
    (epilogue,) = (layer for layer in report.layers if "add" in layer.nodes)
    assert [o.dtype for o in epilogue.outputs] == ["Int8"]


@pytest.mark.parametrize(
    ("second_scale", "after", "op_is_int8"),
    [(0.05, False, True), (0.05, True, True), (0.03, True, True), (0.03, False, False)],
)
def test_concat(second_scale: float, after: bool, op_is_int8: bool) -> None:
    m = QdqModel(x=IMAGE)
    joined = m.op("Concat", m.qdq("x", 0.05), m.qdq(conv_relu(m), second_scale), axis=1)
    report = compiled(m.model(m.conv(m.qdq(joined) if after else joined, 32, name="op")))
    assert ("op" in report.int8_weighted) == op_is_int8


@pytest.mark.parametrize("op", ["AveragePool", "GlobalAveragePool", "MaxPool"])
@pytest.mark.parametrize("where", ["before", "after", "both"])
@pytest.mark.parametrize("head", ["Conv", "Gemm"])
def test_pooling(op: str, where: str, head: str) -> None:
    m = QdqModel(x=IMAGE)
    x = conv_relu(m)
    x = m.qdq(x) if where != "after" else x
    options: dict[str, Any] = {} if op.startswith("Global") else {"kernel_shape": [8, 8]}
    x = m.op(op, x, name="pool", **options)
    x = m.op("Flatten", x) if head == "Gemm" else x
    x = m.qdq(x) if where != "before" else x
    last = m.gemm(x, 16, 10, trans_b=True, name="op") if head == "Gemm" else m.conv(x, name="op")
    report = compiled(m.model(last))
    assert ("op" in report.int8_weighted) == (where != "before" or op == "MaxPool")
    (pool,) = (layer for layer in report.layers if "pool" in layer.nodes)
    # Two pairs around a max-pooling cancel out, but not with a Flatten between them.
    round_trip = where == "both" and head == "Gemm"
    assert {o.dtype for o in pool.inputs} == ({"Int8"} if op == "MaxPool" and not round_trip else {"Float"})


@pytest.mark.parametrize("trans_b", [False, True])
def test_gemm(trans_b: bool) -> None:
    m = QdqModel(x=(4, 64))
    assert compiled(m.model(m.gemm(m.qdq("x"), trans_b=trans_b, name="op"))).int8_weighted == {"op"}


def test_matmul_of_two_activations() -> None:
    m = QdqModel(x=IMAGE, y=IMAGE)
    assert compiled(m.model(m.op("MatMul", m.qdq("x"), m.qdq("y"), name="op"))).int8_weighted == {"op"}


def test_depthwise_after_clip() -> None:
    m = QdqModel(x=IMAGE)
    low, high = m.constant(np.float32(0)), m.constant(np.float32(6))
    clipped = m.op("Clip", m.conv(m.qdq("x"), name="first"), low, high, name="clip")
    report = compiled(m.model(m.conv(m.qdq(clipped, 6 / 127), group=16, name="op")))
    assert report.int8_weighted == {"first", "op"}
    (epilogue,) = (layer for layer in report.layers if "clip" in layer.nodes)
    assert [o.dtype for o in epilogue.outputs] == ["Int8"]


@pytest.mark.parametrize("block", [64, 128])
def test_int4_blocks_are_read_as_int4_and_computed_in_float(block: int) -> None:
    m = QdqModel(x=(4, 256))
    report = compiled(m.model(m.op("MatMul", "x", m.block_weight((256, 32), block), name="op")))
    assert report.weight_only == report.float_weighted == {"op"}
    assert report.weighted["op"].weight_dtype == "Int4"


@pytest.mark.parametrize("op", ["Conv", "MatMul"])
def test_fp8(op: str) -> None:
    m = QdqModel(x=IMAGE if op == "Conv" else (4, 64))
    x = m.qdq("x", dtype=FP8)
    report = compiled(
        m.model(m.conv(x, dtype=FP8, name="op") if op == "Conv" else m.matmul(x, dtype=FP8, name="op"))
    )
    assert report.fp8_weighted == {"op"}
    assert report.int8_weighted == frozenset()


def test_fp8_attention_in_half_precision_is_one_kernel() -> None:
    m = QdqModel(q=(1, 4, 128, 64), k=(1, 4, 64, 128), v=(1, 4, 128, 64))

    def fp8(x: str) -> str:
        return m.qdq(x, np.array(0.05, np.float16), FP8)

    scores = m.op("Softmax", m.op("MatMul", fp8("q"), fp8("k"), name="qk"), axis=-1)
    report = compiled(
        m.model(m.op("MatMul", fp8(scores), fp8("v"), name="pv"), dtype=FLOAT16, input_dtype=FLOAT16)
    )
    assert report.fp8_weighted == {"qk", "pv"}
    assert report.weighted["qk"] is report.weighted["pv"]
    assert report.weighted["qk"].kind == "mha"


@pytest.mark.parametrize("where", ["before", "after", "both"])
def test_transpose_of_the_input_passes_int8_through(where: str) -> None:
    m = QdqModel(x=(1, 8, 8, 16))
    x = m.op("Transpose", m.qdq("x") if where != "after" else "x", perm=[0, 3, 1, 2])
    assert compiled(m.model(m.conv(m.qdq(x) if where != "before" else x, name="op"))).int8_weighted == {"op"}


@pytest.mark.parametrize("both", [False, True])
def test_squeeze_and_excite_needs_q_only_after_the_gate(both: bool) -> None:
    m = QdqModel(x=IMAGE)
    x = conv_relu(m)
    gate = m.op("Sigmoid", m.conv(m.op("GlobalAveragePool", x), kernel=1, dtype=None, name="squeeze"))
    inputs = (m.qdq(x), m.qdq(gate)) if both else (x, gate)
    report = compiled(m.model(m.conv(m.qdq(m.op("Mul", *inputs, name="gate")), name="op")))
    assert report.int8_weighted == {"first", "op"}
    (gating,) = (layer for layer in report.layers if "gate" in layer.nodes)
    assert {o.dtype for o in gating.inputs} == {"Float"}


def test_shifted_activation_is_fused_and_stays_int8() -> None:
    m = QdqModel(x=IMAGE)
    shifted = m.op("Sub", conv_relu(m), m.constant(np.float32(3)), name="shift")
    report = compiled(m.model(m.conv(m.qdq(shifted, 3 / 127), kernel=1, name="op")))
    assert report.int8_weighted == {"first", "op"}
    (epilogue,) = (layer for layer in report.layers if "shift" in layer.nodes)
    assert [o.dtype for o in epilogue.outputs] == ["Int8"]


# -- rules and builder ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("broken", BROKEN, ids=str)
def test_broken_rules_have_the_recorded_outcome(broken: Broken) -> None:
    report = build(broken.make().SerializeToString(), isolated=False)
    if broken.outcome == "refused":
        assert not report.built
        assert report.parser_errors or report.errors
    else:
        assert report.built
        assert ("op" in report.float_weighted) == (broken.outcome == "float")


def test_parser_error_names_the_node() -> None:
    m = QdqModel(x=IMAGE)
    s, z = m.constant(np.float32(0.1)), m.constant(np.int8(3))
    m.op("QuantizeLinear", "x", s, z, name="the/quantizer")
    report = build(m.model("the/quantizer.out", dtype=3).SerializeToString(), isolated=False)
    (error,) = report.parser_errors
    assert (error.node, error.op) == ("the/quantizer", "QuantizeLinear")
    assert "Non-zero zero point is not supported" in error.description
    assert not any("onnx_node" in message for message in report.errors)


def test_uint8_is_taken_as_int8_with_a_warning() -> None:
    m = QdqModel(x=IMAGE)
    report = compiled(m.model(m.conv(m.qdq("x", dtype=UINT8), name="op")))
    assert report.int8_weighted == {"op"}
    assert any("Defaulting to INT8" in w for w in report.warnings)


# -- names, shapes, devices ----------------------------------------------------------------------------------------------


def test_any_node_name_survives() -> None:
    m = QdqModel(x=IMAGE)
    names = ["a[0]/{conv}, Metadata: [ONNX Layer: b]", "line\nbreak", "same", "same", ""]
    x = "x"
    for _ in names:
        x = m.conv(m.qdq(x))
    model = m.model(x)
    convs = [n for n in model.graph.node if n.op_type == "Conv"]
    for node, name in zip(convs, names, strict=True):
        node.name = name
    expected = {*names[:2], *(node.output[0] for node in convs[2:])}
    assert compiled(model).int8_weighted == expected


def test_dynamic_batch_needs_no_shapes() -> None:
    m = QdqModel(x=("N", 16, 8, 8))
    report = compiled(m.model(m.conv(m.qdq("x"), name="op")))
    assert report.int8_weighted == {"op"}
    assert report.weighted["op"].inputs[0].dimensions[0] == -1


def test_dynamic_sizes_come_from_the_caller_and_hold_for_every_input() -> None:
    m = QdqModel(x=("N", 16, "H", "H"), y=("N", 16, "H", "H"))
    model = m.model(m.conv(m.qdq(m.op("Add", "x", "y")), name="op")).SerializeToString()
    with pytest.raises(ValueError, match=r"'x' has a dynamic dimension 'H'.*shapes="):
        build(model, isolated=False)
    assert build(model, shapes={"y": (1, 16, 8, 8)}, isolated=False).int8_weighted == {"op"}


@pytest.mark.parametrize("device", DEVICES)
def test_devices(device: str) -> None:
    m = QdqModel(x=IMAGE)
    report = compiled(m.model(m.conv(m.qdq("x"), name="op")), device)
    assert (report.device, report.built_for, report.note) == (device, device, "")
    assert report.int8_weighted == (frozenset() if device == "sm75" else {"op"})


@pytest.mark.parametrize(("device", "stand_in"), STAND_INS.items())
def test_devices_without_a_builder_target_have_a_stand_in(device: str, stand_in: str) -> None:
    m = QdqModel(x=IMAGE)
    report = compiled(m.model(m.conv(m.qdq("x"))), device)
    assert (report.device, report.built_for) == (device, stand_in)
    assert report.note == f"not buildable for {device} with TensorRT-RTX; built for {stand_in} instead"


def test_unknown_device_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"unknown TensorRT device 'sm42'.*sm89"):
        build(b"", device="sm42")


def test_fp8_is_refused_before_sm89() -> None:
    m = QdqModel(x=IMAGE)
    model = m.model(m.conv(m.qdq("x", dtype=FP8), dtype=FP8, name="op"))
    report = build(model.SerializeToString(), device="sm80", isolated=False)
    assert not report.built
    assert report.unlisted == {"op"}
    assert any("fp8" in e for e in report.errors)


# -- the process around it -----------------------------------------------------------------------------------------------


def test_a_crash_of_the_builder_is_an_answer() -> None:
    m = QdqModel(x=IMAGE, s=())
    report = build(m.model(m.conv(m.qdq("x", "s"))).SerializeToString())
    assert not report.built
    assert "exit code" in report.errors[0]


def test_both_ways_of_building_agree_and_the_engine_is_kept_on_request(
    capfd: pytest.CaptureFixture[str],
) -> None:
    m = QdqModel(x=IMAGE)
    model = m.model(m.conv(m.qdq("x"), name="op")).SerializeToString()
    apart, here = build(model, keep_engine=True), build(model, isolated=False)
    assert capfd.readouterr() == ("", "")
    assert apart.engine
    assert here.engine is None
    assert (apart.int8_weighted, apart.version) == (here.int8_weighted, available())


def test_external_data_is_found_beside_the_model(tmp_path: Path) -> None:
    m = QdqModel(x=IMAGE)
    path = tmp_path / "model.onnx"
    onnx.save(
        m.model(m.conv(m.qdq("x"), name="op")),
        path,
        save_as_external_data=True,
        location="weights",
        size_threshold=0,
    )
    report = build(path.read_bytes(), external_data=path)
    assert report.int8_weighted == {"op"}


def test_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(BuilderUnavailableError, match=r'pip install "qcompiler\[tensorrt\]"'):
        build(b"")
    monkeypatch.setattr(builder_module, "find_spec", lambda name: None)
    assert available() is None


def test_importing_the_module_does_not_load_tensorrt() -> None:
    code = "import sys, qcompiler.targets.tensorrt.builder; sys.exit('tensorrt_rtx' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
