"""What Qualcomm's converter is given: all tensors have encodings, in all versions, and the float model holds what the codes stand for."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from quantized import Quantized, quantize
from small_graphs import graph_of, normal

import qcompiler as qc
from qcompiler.errors import TargetError
from qcompiler.ir.plan import PLANNED
from qcompiler.runtime import Session
from qcompiler.targets import find_target
from qcompiler.targets.hexagon.converter import converter_input
from qcompiler.targets.hexagon.encodings import VERSIONS, encodings_table

CONSTANTS = {
    "w": normal(6, 4, 3, 3) / 6, "b": normal(6), "k": normal(6, 1, 1), "v": normal(6, 6, 1, 1) / 3, "u": normal(96, 10) / 9,
    "shape": np.array([16, 96]),
}  # fmt: skip
TEXT = """(float[16,4,6,6] x) => (float[16,10] y, float[16,6,4,4] z) {
    c = Conv(x, w, b) r = Relu(c) a = Add(r, k) z = Conv(a, v) q = Reshape(z, shape) m = MatMul(q, u) y = Softmax<axis=1>(m)
}"""
BLOCK = {"conv1": "w", "conv2": "v"}


@pytest.fixture(scope="module", params=["a8w8", "a16w4"])
def done(request: pytest.FixtureRequest) -> Quantized:
    rows = {"a8w8": ("a8w8", "a8"), "a16w4": ("a16w4", "a16")}[request.param]
    return quantize(graph_of(TEXT, CONSTANTS), find_target("hexagon"), prefer=rows)


def by_name(table: dict[str, Any], version: str) -> dict[str, dict[str, Any]]:
    """Entries by tensor: scales and codes' zero points, as ONNX has them, bits, and whether per channel."""
    found: dict[str, dict[str, Any]] = {}
    if version == "2.0.0":
        for entry in table["encodings"]:
            scale = np.atleast_1d(entry["y_scale"])
            zero = np.broadcast_to(entry.get("y_zero_point", 0), scale.shape)
            kind = entry["output_dtype"]
            bits = int(kind.lstrip("uint"))
            least = 0 if kind.startswith("u") else -(1 << bits - 1)
            found[entry["name"]] = {"scale": scale, "offset": least - zero, "bits": bits}
        return found
    for part in ("activation_encodings", "param_encodings"):
        entries = table[part]
        if version == "0.6.1":
            for name, items in entries.items():
                found[name] = {
                    "scale": np.array([item["scale"] for item in items]),
                    "offset": np.array([item["offset"] for item in items]),
                    "bits": items[0]["bitwidth"],
                }
                for item in items:
                    steps = (1 << item["bitwidth"]) - 1
                    assert item["max"] - item["min"] == pytest.approx(steps * item["scale"])
                    assert item["is_symmetric"] in ("True", "False")
        else:
            for item in entries:
                found[item["name"]] = {
                    "scale": np.array(item["scale"]),
                    "offset": np.array(item["offset"]),
                    "bits": item["bw"],
                }
                assert item["enc_type"] == ("PER_CHANNEL" if len(item["scale"]) > 1 else "PER_TENSOR")
    return found


def test_all_versions_say_the_same(done: Quantized) -> None:
    tensors = converter_input(done.graph.facts[PLANNED], done.plan).tensors
    tables = {version: json.loads(json.dumps(encodings_table(tensors, version))) for version in VERSIONS}
    assert all(table["version"] == version for version, table in tables.items())
    read = {version: by_name(table, version) for version, table in tables.items()}
    biases = {tensor.name for tensor in tensors if tensor.is_bias}
    assert len(biases) == 1
    assert set(read["1.0.0"]) == set(read["0.6.1"]) == set(read["2.0.0"]) - biases
    for version in ("0.6.1", "2.0.0"):
        for name, entry in read["1.0.0"].items():
            for key in ("scale", "offset", "bits"):
                np.testing.assert_array_equal(read[version][name][key], entry[key], err_msg=f"{name} {key}")


def test_every_tensor_has_an_encoding(done: Quantized) -> None:
    made = converter_input(done.graph.facts[PLANNED], done.plan)
    names = {tensor.name for tensor in made.tensors}
    assert names >= {"x", "r", "a", "z", "q", "m", "y"}
    assert "c" not in names, "the convolution's own result exists inside of a kernel only"
    constants = {
        value.name for value in made.graph.constants if value.dtype is not None and value.dtype.kind == "f"
    }
    assert constants <= names
    assert {tensor.name for tensor in made.tensors if tensor.is_parameter} == constants


def test_a_missing_encoding_is_no_small_matter(done: Quantized) -> None:
    groups = tuple(group for group in done.plan.groups if "a" not in group.stored)
    with pytest.raises(TargetError, match="the range of 1 tensors to Qualcomm's converter, 'a' for one"):
        converter_input(done.graph.facts[PLANNED], dataclasses.replace(done.plan, groups=groups))


def test_the_float_model_holds_what_codes_stand_for(done: Quantized) -> None:
    """Rounded with its encodings, as the converter does it, the float model becomes the codes of the QDQ model."""
    made = converter_input(done.graph.facts[PLANNED], done.plan)
    encodings = {tensor.name: tensor.encoding for tensor in made.tensors if tensor.is_parameter}
    codes = sorted(
        np.asarray(node.inputs[0].data).tobytes()
        for node in done.graph.nodes
        if node.op == "DequantizeLinear" and node.inputs[0] is not None and node.inputs[0].is_constant
    )
    again = []
    for value in made.graph.constants:
        encoding = encodings.get(value.name)
        if encoding is not None:
            data = np.asarray(value.data)
            np.testing.assert_array_equal(encoding.fake_quantize(data), data)
            again.append(encoding.quantize(data).tobytes())
    assert sorted(again) == codes
    assert np.isfinite(Session(made.graph).run(done.feeds)["y"]).all()


def test_a_constant_that_is_read_in_two_encodings_is_copied() -> None:
    """One weight, two convolutions of inputs of different ranges: two biases of different scales, say."""
    text = "(float[16,4,6,6] x) => (float[16,4,e,f] y) { r = Relu(x) c = Conv(r, w, b) t = Sigmoid(c) y = Conv(t, w, b) }"
    done = quantize(graph_of(text, {"w": normal(4, 4, 1, 1), "b": normal(4)}), find_target("hexagon"))
    made = converter_input(done.graph.facts[PLANNED], done.plan)
    assert len([tensor for tensor in made.tensors if tensor.is_bias]) == 2
    names = [tensor.name for tensor in made.tensors]
    assert len(names) == len(set(names))


def test_floats_are_called_floats() -> None:
    text = "(float[16,8] x) => (float[16,8] y) { a = Relu(x) y = Selu(a) }"
    done = quantize(graph_of(text), find_target("hexagon"))
    tensors = converter_input(done.graph.facts[PLANNED], done.plan).tensors
    tables = {version: encodings_table(tensors, version) for version in VERSIONS}
    assert tables["0.6.1"]["activation_encodings"]["y"] == [{"bitwidth": 16, "dtype": "float"}]
    (entry,) = (entry for entry in tables["1.0.0"]["activation_encodings"] if entry["name"] == "y")
    assert (entry["dtype"], entry["bw"]) == ("FLOAT", 16)
    assert "y" not in {entry["name"] for entry in tables["2.0.0"]["encodings"]}


@pytest.mark.parametrize("version", VERSIONS)
def test_files(version: str, tmp_path: Path) -> None:
    """The names are those of the file beside it, whose batch is 1."""
    graph = graph_of(
        "(float[batch,8] x) => (float[batch,5] y) { g = Gemm(x, w, b) y = Relu(g) }",
        {"w": normal(8, 5), "b": normal(5)},
    )
    data: dict[str, NDArray[Any]] = {"x": normal(24, 8)}
    qc.compile(graph, "hexagon", data, output=tmp_path / "out", target_options={"encodings": version})
    table = json.loads((tmp_path / "out" / "encodings.json").read_text())
    assert table["version"] == version
    model = onnx.load(tmp_path / "out" / "float.onnx")
    onnx.checker.check_model(model, full_check=True)
    known = {tensor.name for tensor in (*model.graph.initializer, *model.graph.input, *model.graph.output)}
    known |= {name for node in model.graph.node for name in node.output}
    assert set(by_name(table, version)) <= known
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 1
    assert not {"QuantizeLinear", "DequantizeLinear"} & {node.op_type for node in model.graph.node}
