"""Files: what is written is read again, LiteRT loads it, runs it and finds what was meant, and what is no file is refused."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from qcompiler.errors import ExtraError, ModelError
from qcompiler.targets.edge_tpu.flatbuffer import SIGNATURE, read, write
from qcompiler.targets.edge_tpu.model import Model, Operator, Quantization, Tensor
from qcompiler.targets.edge_tpu.schema import packages
from qcompiler.targets.edge_tpu.versions import minimum_runtime, version_of, with_versions

pytest.importorskip("ai_edge_litert")
litert = pytest.importorskip("ai_edge_litert.interpreter")
schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
flatbuffers = pytest.importorskip("flatbuffers")

DTYPES = {
    "INT8": np.int8, "UINT8": np.uint8, "INT16": np.int16, "INT32": np.int32, "INT64": np.int64, "INT4": np.int8, "BOOL": np.bool_,
    "FLOAT32": np.float32, "FLOAT16": np.float16,
}  # fmt: skip
SOFTMAX_OUTPUT = (1 / 256, -128)


def quantization(scale: Any, zero_point: Any = 0, axis: int = 0) -> Quantization:
    scales = np.atleast_1d(np.float32(scale))
    return Quantization(scales, np.broadcast_to(np.int64(zero_point), scales.shape).copy(), axis)


def int8(name: str, shape: tuple[int, ...], scale: Any, zero_point: int = 0, **more: Any) -> Tensor:
    return Tensor(name, shape, "INT8", quantization(scale, zero_point, more.pop("axis", 0)), **more)


def equal(left: Any, right: Any) -> bool:
    """Whether two models, or parts of them, are the same in every field."""
    if isinstance(left, np.ndarray):
        return left.dtype == right.dtype and left.shape == right.shape and left.tobytes() == right.tobytes()
    if dataclasses.is_dataclass(left):
        fields = dataclasses.fields(left)
        return type(left) is type(right) and all(
            equal(getattr(left, f.name), getattr(right, f.name)) for f in fields
        )
    if isinstance(left, tuple):
        return len(left) == len(right) and all(map(equal, left, right))
    return bool(left == right)


# Random models, with every option of their operators

ACTIVATIONS = st.sampled_from(["NONE", "RELU", "RELU_N1_TO_1", "RELU6"])
POSITIVE, FLOATS = st.integers(1, 512), st.floats(0.015625, 8, width=32)
STRIDES = {"padding": st.sampled_from(["SAME", "VALID"]), "stride_w": POSITIVE, "stride_h": POSITIVE, "fused_activation_function": ACTIVATIONS}  # fmt: skip
DILATIONS = {"dilation_w_factor": POSITIVE, "dilation_h_factor": POSITIVE}
BIAS_TYPE = {"quantized_bias_type": st.sampled_from(["FLOAT32", "INT32", "INT64"])}
MASKS = {
    f"{name}_mask": st.integers(0, 15) for name in ("begin", "end", "ellipsis", "new_axis", "shrink_axis")
}
OPTIONS: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "CONV_2D": STRIDES | DILATIONS | BIAS_TYPE,
    "DEPTHWISE_CONV_2D": STRIDES | DILATIONS | {"depth_multiplier": POSITIVE},
    "AVERAGE_POOL_2D": STRIDES | {"filter_width": POSITIVE, "filter_height": POSITIVE},
    "ADD": {"fused_activation_function": ACTIVATIONS, "pot_scale_int16": st.booleans()},
    "MEAN": {"keep_dims": st.booleans()},
    "SOFTMAX": {"beta": FLOATS},
    "LEAKY_RELU": {"alpha": FLOATS},
    "RESHAPE": {"new_shape": st.lists(st.integers(-1, 9), max_size=5).map(tuple)},
    "CONCATENATION": {"axis": st.integers(-4, 3), "fused_activation_function": ACTIVATIONS},
    "SPLIT": {"num_splits": POSITIVE},
    "MIRROR_PAD": {"mode": st.sampled_from(["REFLECT", "SYMMETRIC"])},
    "ARG_MAX": {"output_type": st.sampled_from(["INT32", "INT64"])},
    "RESIZE_BILINEAR": {"align_corners": st.booleans(), "half_pixel_centers": st.booleans()},
    "STRIDED_SLICE": {"offset": st.booleans()} | MASKS,
    "GELU": {"approximate": st.booleans()},
    "MAXIMUM": {},
    "PAD": {},
    "LOGISTIC": {},
    "CUSTOM": {"custom_options": st.binary(max_size=20)},
}


@st.composite
def quantizations(draw: st.DrawFn, kind: str, shape: tuple[int, ...]) -> Quantization | None:
    if kind in ("FLOAT32", "FLOAT16", "BOOL") or draw(st.booleans()):
        return None
    if not shape or draw(st.booleans()):
        return quantization(draw(FLOATS), draw(st.integers(-128, 127)))
    axis = draw(st.integers(0, len(shape) - 1))
    return quantization(draw(st.lists(FLOATS, min_size=shape[axis], max_size=shape[axis])), 0, axis)


@st.composite
def tensors(draw: st.DrawFn, number: int, constant: bool) -> Tensor:
    kind = draw(st.sampled_from(sorted(DTYPES)))
    shape = tuple(draw(st.lists(st.integers(1, 5), max_size=4)))
    data = None
    if constant:
        seed = np.random.default_rng(draw(st.integers(0, 3)))
        low, high = (-8, 8) if kind == "INT4" else (0, 2) if kind == "BOOL" else (0, 100)
        data = seed.integers(low, high, shape).astype(DTYPES[kind])
    return Tensor(
        f"{draw(st.text(max_size=6))}:{number}", shape, kind, draw(quantizations(kind, shape)), data
    )


@st.composite
def models(draw: st.DrawFn) -> Model:
    made = [draw(tensors(0, False)), draw(tensors(1, True))]
    operators, known = [], [0, 1]
    for _ in range(draw(st.integers(0, 5))):
        op = draw(st.sampled_from(sorted(OPTIONS)))
        operands = draw(st.lists(st.sampled_from([*known, -1]), min_size=1, max_size=4))
        results = range(len(made), len(made) + draw(st.integers(1, 2)))
        made += [draw(tensors(number, False)) for number in results]
        made.append(draw(tensors(len(made), True)))
        known = list(range(len(made)))
        options = draw(st.fixed_dictionaries(OPTIONS[op]))
        custom = draw(st.sampled_from(["edgetpu-custom-op", "ethos-u"])) if op == "CUSTOM" else ""
        version = draw(st.integers(1, 7))
        operators.append(Operator(op, tuple(operands), tuple(results), options, version, custom))
    outputs = tuple(draw(st.lists(st.sampled_from(known), min_size=1, max_size=3)))
    metadata = draw(st.dictionaries(st.text(min_size=1, max_size=9), st.binary(max_size=40), max_size=2))
    return Model(tuple(made), tuple(operators), (0,), outputs, draw(st.text(max_size=5)), draw(st.text(max_size=5)), metadata)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(models())
def test_what_is_written_is_read(model: Model) -> None:
    data = write(model)
    assert equal(read(data), model)
    assert write(read(data)) == data
    assert all(offset % 16 == 0 for offset in offsets(data))


def offsets(data: bytes) -> list[int]:
    """Where the buffers of a file lie."""
    raw = np.frombuffer(data, np.uint8)
    root = schema.Model.GetRootAs(data, 0)
    buffers = [root.Buffers(number).DataAsNumpy() for number in range(root.BuffersLength()) if not root.Buffers(number).DataIsNone()]  # fmt: skip
    return [buffer.ctypes.data - raw.ctypes.data for buffer in buffers]


# A network in LiteRT


def network() -> Model:
    """A convolution, a depthwise one, their sum, its mean, a fully connected layer and softmax; per channel, but for the last."""
    chance = np.random.default_rng(5)

    def weights(name: str, shape: tuple[int, ...], x: float, axis: int | None) -> list[Tensor]:
        channels = shape[axis] if axis is not None else shape[0]
        scale = chance.uniform(0.004, 0.02, channels if axis is not None else 1).astype(np.float32)
        w = int8(name, shape, scale, axis=axis or 0, data=chance.integers(-127, 128, shape, np.int8))
        bias = chance.integers(-500, 500, channels, np.int32)
        return [w, Tensor(f"{name}/bias", (channels,), "INT32", quantization(np.float32(x) * scale), bias)]

    image = (1, 8, 8, 4)
    made = [
        int8("x", image, 0.05, 3),
        *weights("w1", (4, 3, 3, 4), 0.05, 0),
        int8("conv", image, 6 / 255, -128),
        *weights("w2", (1, 3, 3, 4), 6 / 255, 3),
        int8("depthwise", image, 0.05, 10),
        int8("sum", image, 0.06, 5),
        Tensor("axes", (2,), "INT32", None, np.array([1, 2], np.int32)),
        int8("mean", (1, 4), 0.05, 2),
        *weights("w3", (5, 4), 0.05, None),
        int8("fc", (1, 5), 0.03, -1),
        int8("y", (1, 5), *SOFTMAX_OUTPUT),
    ]
    window = {"padding": "SAME", "stride_w": 1, "stride_h": 1}
    operators = (
        Operator("CONV_2D", (0, 1, 2), (3,), window | {"fused_activation_function": "RELU6"}),
        Operator("DEPTHWISE_CONV_2D", (3, 4, 5), (6,), window | {"depth_multiplier": 1}),
        Operator("ADD", (3, 6), (7,), {}),
        Operator("MEAN", (7, 8), (9,), {"keep_dims": False}),
        Operator("FULLY_CONNECTED", (9, 10, 11), (12,), {}),
        Operator("SOFTMAX", (12,), (13,), {"beta": 1.0}),
    )
    return with_versions(Model(tuple(made), operators, (0,), (13,), "network"))


def loaded(model: Model | bytes, resolver: str = "BUILTIN_REF") -> Any:
    interpreter = litert.Interpreter(
        model_content=model if isinstance(model, bytes) else write(model),
        experimental_op_resolver_type=litert.OpResolverType[resolver],
        experimental_preserve_all_tensors=resolver == "BUILTIN_REF",
    )
    interpreter.allocate_tensors()
    return interpreter


def run(model: Model | bytes, *inputs: NDArray[Any], resolver: str = "BUILTIN_REF") -> list[NDArray[Any]]:
    """Every tensor of a model, in the order of the file."""
    interpreter = loaded(model, resolver)
    for detail, value in zip(interpreter.get_input_details(), inputs, strict=True):
        interpreter.set_tensor(detail["index"], value)
    interpreter.invoke()
    return [interpreter.get_tensor(detail["index"]) for detail in interpreter.get_output_details()]


def real(tensor: Tensor, codes: NDArray[Any]) -> NDArray[np.float64]:
    assert tensor.quantization is not None
    shape = np.ones(codes.ndim, int)
    shape[tensor.quantization.axis] = -1
    zero, scale = (
        item.reshape(shape) for item in (tensor.quantization.zero_point, tensor.quantization.scale)
    )
    return (codes.astype(np.float64) - zero) * scale


def windows(image: NDArray[np.float64]) -> NDArray[np.float64]:
    """[1, h, w, 3, 3, c] of [1, h, w, c]: what 3x3 filters see, padded to the same size."""
    padded = np.pad(image, ((0, 0), (1, 1), (1, 1), (0, 0)))
    seen = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2))
    return np.moveaxis(seen, 3, -1)


def test_litert_computes_what_was_meant() -> None:
    model = network()
    interpreter = loaded(model)
    x = np.random.default_rng(1).integers(-128, 128, (1, 8, 8, 4), np.int8)
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
    interpreter.invoke()
    codes = {
        d["name"]: interpreter.get_tensor(d["index"]) for d in interpreter.get_tensor_details() if d["name"]
    }
    values = {t.name: real(t, codes[t.name]) for t in model.tensors if t.quantization is not None}
    logits = np.exp(values["fc"] - values["fc"].max())
    wanted = {
        "conv": np.einsum("nyxijc,oijc->nyxo", windows(values["x"]), values["w1"]) + values["w1/bias"],
        "depthwise": np.einsum("nyxijc,mijc->nyxc", windows(values["conv"]), values["w2"])
        + values["w2/bias"],
        "sum": values["conv"] + values["depthwise"],
        "mean": values["sum"].mean((1, 2)),
        "fc": values["mean"] @ values["w3"].T + values["w3/bias"],
        "y": logits / logits.sum(),
    }
    for tensor in model.tensors:
        if tensor.name in wanted and tensor.quantization is not None:
            scale, zero = float(tensor.quantization.scale[0]), int(tensor.quantization.zero_point[0])
            low, high = (-zero - 128) * scale, (127 - zero) * scale
            error = np.abs(np.clip(wanted[tensor.name], low, high) - values[tensor.name]) / scale
            assert error.max() <= 1, tensor.name
            assert len(np.unique(codes[tensor.name])) > 3, tensor.name


@pytest.mark.parametrize("resolver", ["BUILTIN_REF", "BUILTIN_WITHOUT_DEFAULT_DELEGATES", "BUILTIN"])
def test_every_resolver_loads_the_network(resolver: str) -> None:
    (y,) = run(network(), np.zeros((1, 8, 8, 4), np.int8), resolver=resolver)
    assert y.shape == (1, 5)


def test_litert_finds_types_shapes_and_quantization() -> None:
    model = network()
    details = {item["name"]: item for item in loaded(model).get_tensor_details() if item["name"]}
    for tensor in model.tensors:
        detail = details[tensor.name]
        assert (tuple(detail["shape"]), detail["dtype"]) == (tensor.shape, DTYPES[tensor.type])
        if tensor.quantization is not None:
            stored = detail["quantization_parameters"]
            assert equal(stored["scales"], tensor.quantization.scale)
            # Some releases keep a single one where all are equal.
            assert set(stored["zero_points"].tolist()) == set(tensor.quantization.zero_point.tolist())
            assert stored["quantized_dimension"] == tensor.quantization.axis


def test_signature_names_inputs_and_outputs() -> None:
    model, x = network(), np.full((1, 8, 8, 4), 7, np.int8)
    interpreter = loaded(model)
    assert interpreter.get_signature_list() == {SIGNATURE: {"inputs": ["x"], "outputs": ["y"]}}
    answer = interpreter.get_signature_runner(SIGNATURE)(x=x)
    assert answer["y"].tolist() == run(model, x)[0].tolist()


# What the file looks like


def test_equal_constants_of_one_type_are_stored_once() -> None:
    data = np.arange(48, dtype=np.int8)
    made = (
        Tensor("a", (48,), "INT8", None, data),
        Tensor("b", (4, 12), "INT8", None, data.reshape(4, 12)),
        Tensor("c", (48,), "UINT8", None, data.view(np.uint8)),
        Tensor("d", (12,), "INT32", None, data.view(np.int32)),
        Tensor("e", (48,), "INT8", None, np.flip(data)),
    )
    file = schema.ModelT.InitFromPackedBuf(write(Model(made, (), (), (0,))))
    numbers = [table.buffer for table in file.subgraphs[0].tensors]
    assert numbers == [1, 1, 2, 3, 4]
    assert file.buffers[0].data is None
    assert len(file.buffers) == 1 + 4 + 1  # the last one is metadata


def test_same_model_gives_the_same_bytes() -> None:
    assert write(network()) == write(network())


def test_operator_codes_are_stored_once_and_for_old_readers_too() -> None:
    window = {"stride_w": 1, "stride_h": 1}
    shape = (1, 2, 2, 1)
    made = tuple(Tensor(str(number), shape, "FLOAT32") for number in range(6))
    operators = (
        Operator("AVERAGE_POOL_2D", (0,), (1,), window | {"filter_width": 1, "filter_height": 1}),
        Operator("MAX_POOL_2D", (1,), (2,), window | {"filter_width": 1, "filter_height": 1}, 2),
        Operator("AVERAGE_POOL_2D", (2,), (3,), window | {"filter_width": 1, "filter_height": 1}),
        Operator("GELU", (3,), (4,)),
        Operator("CUSTOM", (4,), (5,), {}, 1, "mine"),
    )
    file = schema.ModelT.InitFromPackedBuf(write(Model(made, operators, (0,), (5,))))
    codes = [(c.deprecatedBuiltinCode, c.builtinCode, c.version, c.customCode) for c in file.operatorCodes]
    assert codes == [(1, 1, 1, None), (17, 17, 2, None), (127, 150, 1, None), (32, 32, 1, b"mine")]
    assert [operator.opcodeIndex for operator in file.subgraphs[0].operators] == [0, 1, 0, 2, 3]


def test_metadata_tell_the_oldest_runtime() -> None:
    model = dataclasses.replace(network(), metadata={"note": b"abc"})
    file = schema.ModelT.InitFromPackedBuf(write(model))
    metadata = {entry.name: file.buffers[entry.buffer].data.tobytes() for entry in file.metadata}
    assert metadata == {b"note": b"abc", b"min_runtime_version": b"1.14.0".ljust(16, b"\0")}
    assert read(write(model)).metadata == {"note": b"abc"}
    assert (file.version, write(model)[4:8]) == (3, b"TFL3")


def test_tables_are_small() -> None:
    """What 60 operators cost beside their constants, scales and names."""
    made, operators, x = [int8("x", (1, 8, 8, 32), 0.05)], [], 0
    chance = np.random.default_rng(0)
    for number in range(60):
        scales = chance.uniform(0.001, 0.01, 32).astype(np.float32)
        w = chance.integers(-127, 128, (32, 1, 1, 32), np.int8)
        bias = chance.integers(-99, 99, 32, np.int32)
        made += [
            int8(f"w{number}", w.shape, scales, data=w),
            Tensor(f"b{number}", (32,), "INT32", quantization(scales * np.float32(0.05)), bias),
            int8(f"y{number}", (1, 8, 8, 32), chance.uniform(0.01, 0.1), int(chance.integers(-128, 127))),
        ]
        options = {"padding": "SAME", "stride_w": 1, "stride_h": 1, "fused_activation_function": "RELU"}
        operators.append(Operator("CONV_2D", (x, len(made) - 3, len(made) - 2), (len(made) - 1,), options, 3))
        x = len(made) - 1
    constants = sum(tensor.data.nbytes for tensor in made if tensor.data is not None)
    scales_size = sum(t.quantization.scale.nbytes for t in made if t.quantization is not None)
    size = len(write(Model(tuple(made), tuple(operators), (0,), (x,))))
    assert size - constants - scales_size < 60 * 320


# Four bits, states, other people's files


CODES = np.array([[-8, 7, 1], [2, -3, 5]], np.int8)


def test_codes_of_four_bits_are_packed_as_litert_reads_them() -> None:
    w = Tensor("w", (2, 3), "INT4", quantization(0.5), CODES)
    model = with_versions(
        Model((w, Tensor("y", (2, 3), "FLOAT32")), (Operator("DEQUANTIZE", (0,), (1,)),), (), (1,))
    )
    file = schema.ModelT.InitFromPackedBuf(write(model))
    assert file.buffers[1].data.tolist() == [0x78, 0x21, 0x5D]
    assert run(model)[0].tolist() == (CODES * 0.5).tolist()
    assert equal(read(write(model)).tensors[0].data, CODES)


def test_fully_connected_layer_takes_codes_of_four_bits() -> None:
    made = (
        int8("x", (1, 3), 0.25),
        Tensor("w", (2, 3), "INT4", quantization(0.5), CODES),
        Tensor("b", (2,), "INT32", quantization(0.125), np.array([8, -8], np.int32)),
        int8("y", (1, 2), 0.125),
    )
    model = with_versions(Model(made, (Operator("FULLY_CONNECTED", (0, 1, 2), (3,)),), (0,), (3,)))
    x = np.array([[1, 2, 3]], np.int8)
    assert model.operators[0].version == 10
    assert run(model, x)[0].tolist() == (x @ CODES.T + [8, -8]).tolist()


def test_codes_that_do_not_fit_four_bits_are_refused() -> None:
    model = Model((Tensor("w", (2,), "INT4", None, np.array([8, 0], np.int8)),), (), (), (0,))
    with pytest.raises(ValueError, match=r"Codes from 0 to 8 do not fit 4 bits"):
        write(model)


def test_state_of_a_recurrent_operator_is_a_variable() -> None:
    eye = np.eye(2, dtype=np.float32)
    made = (
        Tensor("x", (1, 3, 2), "FLOAT32"),
        Tensor("w", (2, 2), "FLOAT32", None, eye),
        Tensor("r", (2, 2), "FLOAT32", None, eye * 2),
        Tensor("b", (2,), "FLOAT32", None, np.zeros(2, np.float32)),
        Tensor("state", (1, 2), "FLOAT32"),
        Tensor("y", (1, 3, 2), "FLOAT32"),
    )
    model = Model(made, (Operator("UNIDIRECTIONAL_SEQUENCE_RNN", (0, 1, 2, 3, 4), (5,)),), (0,), (5,))
    y = run(model, np.array([[[1, 2], [1, 0], [0, 1]]], np.float32))[0]
    assert y.tolist() == [[[1, 2], [3, 4], [6, 9]]]
    (operator,) = read(write(model)).operators
    assert operator.options == {"time_major": False, "fused_activation_function": "NONE", "asymmetric_quantize_inputs": False}  # fmt: skip


def repacked(change: Any) -> bytes:
    """The network as somebody else might have written it."""
    file = schema.ModelT.InitFromPackedBuf(write(network()))
    change(file)
    builder = flatbuffers.Builder(1024)
    builder.Finish(file.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def old_codes(file: Any) -> None:
    for code in file.operatorCodes:
        code.builtinCode = 0


def test_files_with_old_operator_codes_are_read() -> None:
    assert equal(read(repacked(old_codes)), read(write(network())))
    assert run(repacked(old_codes), np.zeros((1, 8, 8, 4), np.int8))


def test_first_of_several_subgraphs_is_read_and_not_written() -> None:
    def doubled(file: Any) -> None:
        file.subgraphs = [file.subgraphs[0], schema.SubGraphT()]

    model = read(repacked(doubled))
    assert (model.subgraphs, model.name, len(model.operators)) == (2, "network", 6)
    with pytest.raises(ValueError, match="2 subgraphs, of which one was read"):
        write(model)


def test_tensors_with_little_beside_their_name_are_read() -> None:
    def bare(file: Any) -> None:
        graph = file.subgraphs[0]
        graph.tensors[0].quantization = None
        graph.tensors[3].quantization = schema.QuantizationParametersT()
        graph.tensors[3].quantization.min = np.zeros(1, np.float32)
        graph.tensors[6].quantization.zeroPoint = None
        graph.tensors[4].quantization.zeroPoint = np.zeros(1, np.int64)
        graph.tensors[13].shape = graph.name = file.description = file.metadata = file.signatureDefs = None

    made = read(repacked(bare)).tensors
    assert made[0].quantization is made[3].quantization is None
    assert made[13].shape == ()
    for number, count in ((6, 1), (4, 4)):
        stored = made[number].quantization
        assert stored is not None
        assert stored.zero_point.tolist() == [0] * count


def test_sparse_constants_are_read_as_stored_and_not_written() -> None:
    def sparse(file: Any) -> None:
        tensor = file.subgraphs[0].tensors[10]
        tensor.sparsity = schema.SparsityParametersT()
        file.buffers[tensor.buffer].data = np.arange(7, dtype=np.uint8)

    model = read(repacked(sparse))
    assert equal(model.tensors[10].data, np.arange(7, dtype=np.int8))
    with pytest.raises(ValueError, match=r"'w3' is INT8 \[5, 4\] and has data of int8 \[7\]"):
        write(model)


def test_constants_behind_the_tables_are_read() -> None:
    size = len(repacked(lambda file: None))

    def outside(file: Any) -> None:
        buffer = file.buffers[file.subgraphs[0].tensors[1].buffer]
        buffer.offset, buffer.size, buffer.data = 2 * size, buffer.data.size, None

    w = network().tensors[1].data
    assert w is not None
    data = repacked(outside).ljust(2 * size, b"\0") + w.tobytes()
    assert equal(read(data).tensors[1].data, w)


def test_constants_are_views_that_nobody_can_write_to(tmp_path: Path) -> None:
    data = write(network())
    (tmp_path / "model.tflite").write_bytes(data)
    for source in (
        data,
        bytearray(data),
        memoryview(data),
        tmp_path / "model.tflite",
        str(tmp_path / "model.tflite"),
    ):
        constants = [tensor.data for tensor in read(source).tensors if tensor.data is not None]
        assert len(constants) == 7
        assert not any(array.flags.writeable or array.flags.owndata for array in constants)
    w = read(data).tensors[1].data
    assert w is not None
    assert np.shares_memory(w, np.frombuffer(data, np.uint8))


# What is refused


@pytest.mark.parametrize(
    ("op", "options", "message"),
    [
        ("CONV_2D", {"stride": 1}, "CONV_2D has no option stride; it has padding, stride_w, stride_h"),
        ("CONV_2D", {"stride_w": 1}, "CONV_2D needs stride_h, and not 0"),
        (
            "CONV_2D",
            {"stride_w": 1, "stride_h": 1, "padding": "FULL"},
            "Padding has no 'FULL', but SAME, VALID",
        ),
        ("SOFTMAX", {}, "SOFTMAX needs beta, and not 0"),
        ("PAD", {"mode": "REFLECT"}, "PAD has no option mode; it has none"),
        ("LOGISTIC", {"beta": 1.0}, "LOGISTIC has no options, but is given beta"),
        ("CONVOLUTION", {}, "BuiltinOperator has no 'CONVOLUTION', but ADD, AVERAGE_POOL_2D"),
    ],
)
def test_wrong_options_are_refused(op: str, options: dict[str, Any], message: str) -> None:
    made = (Tensor("x", (1,), "FLOAT32"), Tensor("y", (1,), "FLOAT32"))
    with pytest.raises(ValueError, match=message):
        write(Model(made, (Operator(op, (0,), (1,), options),), (0,), (1,)))


def test_inconsistent_models_are_refused() -> None:
    x, y = Tensor("x", (1,), "FLOAT32"), Tensor("y", (1,), "FLOAT32")
    wrong = Tensor("c", (2,), "FLOAT32", None, np.zeros(2))
    for model, message in (
        (
            Model((x, y), (Operator("ADD", (0, 1), (1,)),), (0,), (1,)),
            "ADD reads tensor 1, which is not computed before",
        ),
        (Model((x, y), (), (0,), (1,)), r"no tensors \[1\], or nothing computes them"),
        (Model((x, y), (Operator("RELU", (0,), (2,)),), (0,), (2,)), r"no tensors \[2\]"),
        (Model((wrong,), (), (), (0,)), r"'c' is FLOAT32 \[2\] and has data of float64"),
        (Model((Tensor("z", (), "INT7"),), (), (0,), (0,)), "TensorType has no 'INT7'"),
    ):
        with pytest.raises(ValueError, match=message):
            write(model)


def newer_operator(file: Any) -> None:
    file.operatorCodes[0].builtinCode = 250


def other_version(file: Any) -> None:
    file.version = 2


def no_subgraph(file: Any) -> None:
    file.subgraphs = None


def strange_index(file: Any) -> None:
    file.subgraphs[0].operators[0].inputs = np.array([0, 99], np.int32)


def short_constant(file: Any) -> None:
    file.buffers[1].data = file.buffers[1].data[:-1]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "does not begin with the identifier TFL3"),
        (b"\x08\x07\x12\x07pytorch" * 9, "does not begin with the identifier TFL3"),
        (b"\xff\xff\xff\x7fTFL3", "cannot be read as a TensorFlow Lite model: .* damaged"),
        (newer_operator, "BuiltinOperator has no 250. It is damaged, cut off, or newer"),
        (other_version, "of version 2; only version 3 is read"),
        (no_subgraph, "it has no subgraph"),
        (strange_index, "14 tensors, and speaks of number 99"),
        (short_constant, "cannot reshape"),
        (Path("missing.tflite"), "missing.tflite cannot be read: No such file"),
    ],
    ids=[
        "empty", "another format", "identifier only", "newer operator", "other version", "no subgraph", "strange index", "short constant",
        "missing",
    ],
)  # fmt: skip
def test_what_is_no_model_is_refused(data: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        read(repacked(data) if callable(data) else data)


def test_cut_files_are_refused() -> None:
    data = write(network())
    for size in (*range(0, len(data), 37), *range(len(data) - 40, len(data))):
        with pytest.raises(ModelError):
            read(data[:size])


@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 2**32 - 1)), min_size=1, max_size=3))
def test_damaged_files_are_read_or_refused(damages: list[tuple[int, int]]) -> None:
    data = bytearray(write(network()))
    for place, word in damages:
        start = place % (len(data) - 4)
        data[start : start + 4] = word.to_bytes(4, "little")
    with contextlib.suppress(ModelError):
        read(bytes(data))


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    packages.cache_clear()
    try:
        with pytest.raises(ExtraError, match=r'pip install "qcompiler\[edge-tpu\]"'):
            read(b"")
    finally:
        packages.cache_clear()


# Versions


@pytest.mark.parametrize(
    ("op", "types", "version"),
    [
        ("CONV_2D", "INT8 INT8 INT32 > INT8", 3),
        ("CONV_2D", "UINT8 UINT8 INT32 > UINT8", 1),
        ("CONV_2D", "INT16 INT8 INT64 > INT16", 4),
        ("CONV_2D", "FLOAT32 FLOAT32 FLOAT32 > FLOAT32", 1),
        ("DEPTHWISE_CONV_2D", "INT8 INT8 INT32 > INT8", 3),
        ("DEPTHWISE_CONV_2D", "INT16 INT8 INT64 > INT16", 5),
        ("FULLY_CONNECTED", "INT8 INT8 INT32 > INT8", 4),
        ("FULLY_CONNECTED", "INT8 INT8 > INT8", 6),
        ("FULLY_CONNECTED", "INT16 INT8 INT64 > INT16", 7),
        ("FULLY_CONNECTED", "FLOAT32 FLOAT32 FLOAT32 > FLOAT32", 1),
        ("ADD", "INT8 INT8 > INT8", 2),
        ("SUB", "INT8 INT8 > INT8", 2),
        ("MUL", "INT8 INT8 > INT8", 2),
        ("MUL", "INT16 INT16 > INT16", 4),
        ("AVERAGE_POOL_2D", "INT8 > INT8", 2),
        ("MAX_POOL_2D", "INT16 > INT16", 3),
        ("MEAN", "INT8 INT32 > INT8", 2),
        ("SUM", "INT8 INT32 > INT8", 2),
        ("PAD", "INT8 INT32 > INT8", 2),
        ("CONCATENATION", "INT8 INT8 > INT8", 2),
        ("SOFTMAX", "INT8 > INT8", 2),
        ("SOFTMAX", "INT16 > INT16", 3),
        ("LOGISTIC", "INT8 > INT8", 2),
        ("TANH", "INT16 > INT16", 3),
        ("RELU", "INT8 > INT8", 2),
        ("PRELU", "INT8 INT8 > INT8", 1),
        ("TRANSPOSE", "INT8 INT32 > INT8", 2),
        ("TRANSPOSE_CONV", "INT32 INT8 INT8 > INT8", 2),
        ("TRANSPOSE_CONV", "INT32 INT8 INT8 INT32 > INT8", 3),
        ("SPLIT", "INT32 INT8 > INT8", 2),
        ("SLICE", "INT8 INT32 INT32 > INT8", 2),
        ("STRIDED_SLICE", "INT8 INT32 INT32 INT32 > INT8", 2),
        ("QUANTIZE", "FLOAT32 > INT8", 1),
        ("QUANTIZE", "INT8 > INT16", 2),
        ("DEQUANTIZE", "INT8 > FLOAT32", 2),
        ("DEQUANTIZE", "INT4 > FLOAT32", 6),
        ("TILE", "INT8 INT32 > INT8", 3),
        ("MAXIMUM", "INT8 INT8 > INT8", 2),
        ("PACK", "INT8 INT8 > INT8", 2),
        ("RESIZE_BILINEAR", "INT8 INT32 > INT8", 2),
        ("RESIZE_NEAREST_NEIGHBOR", "INT8 INT32 > INT8", 2),
        ("RESHAPE", "INT8 INT32 > INT8", 1),
        ("SQUEEZE", "INT8 > INT8", 1),
        ("BATCH_MATMUL", "INT8 INT8 > INT8", 2),
        ("GELU", "INT8 > INT8", 2),
    ],
)
def test_versions_follow_the_types(op: str, types: str, version: int) -> None:
    assert version_of(*case(op, types)) == version


def case(op: str, types: str, scale: float = 0.5, shape: tuple[int, ...] = (1, 2, 2, 4), **options: Any) -> tuple[Operator, Model]:  # fmt: skip
    """An operator with operands of one shape and scale, and the model that it is in."""
    words = types.replace(" >", "").split()
    made = tuple(
        Tensor(str(number), shape, kind, None if kind.startswith("FLOAT") else quantization(scale))
        for number, kind in enumerate(words)
    )
    operator = Operator(op, tuple(range(len(words) - 1)), (len(words) - 1,), options)
    return operator, Model(made, (operator,), tuple(range(len(words) - 1)), (len(words) - 1,))


@pytest.mark.parametrize(
    ("found", "version"),
    [
        (case("MUL", "INT8 INT8 > INT8", 0.999), 2),
        (case("MUL", "INT8 INT8 > INT8", 1.0), 3),
        (case("ADD", "INT16 INT16 > INT16", pot_scale_int16=False), 3),
        (case("SUB", "INT16 INT16 > INT16", pot_scale_int16=False), 5),
        (case("FULLY_CONNECTED", "INT8 INT8 INT32 > INT8", keep_num_dims=True), 5),
        (case("RESIZE_BILINEAR", "INT8 INT32 > INT8", half_pixel_centers=True), 3),
        (case("RESIZE_BILINEAR", "INT8 INT32 > INT8", align_corners=True), 2),
        (case("RESIZE_NEAREST_NEIGHBOR", "INT8 INT32 > INT8", align_corners=True), 3),
        (case("DEPTHWISE_CONV_2D", "UINT8 UINT8 INT32 > UINT8", dilation_w_factor=2), 2),
        (case("STRIDED_SLICE", "INT8 INT32 INT32 INT32 > INT8", ellipsis_mask=1), 6),
        (case("TRANSPOSE", "INT8 INT32 > INT8", shape=(1, 1, 2, 2, 4)), 4),
        (case("PAD", "INT8 INT32 > INT8", shape=(1, 1, 2, 2, 4)), 4),
        (case("TRANSPOSE_CONV", "INT32 INT8 INT8 INT32 > INT8", fused_activation_function="RELU"), 4),
        (case("CONV_2D", "INT16 INT8 INT32 > INT16", quantized_bias_type="INT32"), 8),
    ],
    ids=lambda item: item[0].op if isinstance(item, tuple) else str(item),
)
def test_versions_follow_options_scales_and_ranks(found: tuple[Operator, Model], version: int) -> None:
    assert version_of(*found) == version


def test_grouped_convolutions_have_a_version_of_their_own() -> None:
    _, model = case("CONV_2D", "INT8 INT8 INT32 > INT8")
    made = (model.tensors[0], dataclasses.replace(model.tensors[1], shape=(4, 3, 3, 2)), *model.tensors[2:])
    assert version_of(model.operators[0], dataclasses.replace(model, tensors=made)) == 6


def test_custom_operators_keep_their_version() -> None:
    made = (Tensor("x", (1,), "INT8"), Tensor("y", (1,), "INT8"))
    model = Model(made, (Operator("CUSTOM", (0,), (1,), {}, 9, "mine"),), (0,), (1,))
    assert with_versions(model).operators[0].version == 9


def test_runtime_is_the_newest_that_an_operator_needs() -> None:
    assert minimum_runtime(Model((), (), (), ())) == "1.5.0"
    assert minimum_runtime(network()) == "1.14.0"
    assert minimum_runtime(with_versions(case("BATCH_MATMUL", "INT8 INT8 > INT8")[1])) == "2.3.0"
    assert minimum_runtime(with_versions(case("EXP", "INT8 > INT8")[1])) == "2.12.0"
