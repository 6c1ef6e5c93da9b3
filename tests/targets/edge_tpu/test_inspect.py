"""What `inspect` says of TensorFlow Lite files, whoever made them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qcompiler.errors import ModelError
from qcompiler.file_summary import FileSummary
from qcompiler.targets import inspectors
from qcompiler.targets.edge_tpu import inspect
from qcompiler.targets.edge_tpu.flatbuffer import write
from qcompiler.targets.edge_tpu.inspect import options_text, summary, tensor_text
from qcompiler.targets.edge_tpu.model import Model, Operator, Quantization, Tensor
from qcompiler.targets.edge_tpu.partition import partition

pytest.importorskip("ai_edge_litert")

DOCS = Path(__file__).parents[3] / "docs"


def stored(*scales: float, zero: int = 0, axis: int = 0) -> Quantization:
    return Quantization(np.float32(scales), np.full(len(scales), zero, np.int64), axis)


def constant(name: str, data: Any, kind: str, quantization: Quantization | None = None) -> Tensor:
    return Tensor(name, data.shape, kind, quantization, data)


def network(**given: Any) -> Model:
    """A convolution, a squared difference that stays on the host, and a sum behind it."""
    kernel = np.arange(72, dtype=np.int8).reshape(2, 3, 3, 4)
    tensors = (
        Tensor("image", (1, 8, 8, 4), "INT8", stored(0.5, zero=-128)),
        constant("w", kernel, "INT8", stored(0.25, 0.5)),
        constant("b", np.arange(2, dtype=np.int32), "INT32", stored(0.125, 0.25)),
        Tensor("y", (1, 4, 4, 2), "INT8", stored(0.5)),
        Tensor("z", (1, 4, 4, 2), "INT8", stored(0.5)),
        Tensor("out", (1, 4, 4, 2), "INT8", stored(1.0)),
    )
    options = {
        "padding": "SAME",
        "stride_w": 2,
        "stride_h": 2,
        "fused_activation_function": "RELU6",
    }
    operators = (
        Operator("CONV_2D", (0, 1, 2), (3,), options, 3),
        Operator("FLOOR_DIV", (3, 3), (4,), {}, 2),
        Operator("ADD", (3, 4), (5,), {}, 2),
    )
    return Model(tensors, operators, (0,), (5,), **({"name": "net", "description": "made by hand"} | given))


def told(model: Model, folder: Path) -> FileSummary:
    path = folder / "model.tflite"
    path.write_bytes(write(model))
    return summary(path)


def test_facts(tmp_path: Path) -> None:
    facts = dict(told(network(metadata={"NOTE": b"123"}), tmp_path).facts)
    size = (tmp_path / "model.tflite").stat().st_size
    assert facts == {
        "File": f"model.tflite: {size:,} bytes",
        "Model": "net, made by hand",
        "Subgraphs": "1",
        "Inputs": "image: int8[1,8,8,4] scale 0.5 zero point -128",
        "Outputs": "out: int8[1,4,4,2] scale 1",
        "Constants": "72 bytes of int8, 8 bytes of int32",
        "Parameters": "74",
        "Needs": "TensorFlow Lite 1.14.0 or newer",
        "Metadata": "NOTE: 3 bytes",
    }


def test_listings(tmp_path: Path) -> None:
    kinds, operators = told(network(), tmp_path).listings
    assert kinds.rows == (("ADD", "2", "1", "0"), ("CONV_2D", "3", "1", "1"), ("FLOOR_DIV", "2", "1", "0"))
    assert operators.rows[0] == (
        "0",
        "CONV_2D v3\nstrides 2x2, SAME, RELU6",
        (
            "image: int8[1,8,8,4] scale 0.5 zero point -128\n"
            "w: constant int8[2,3,3,4] scales 0.25..0.5 per channel (axis 0)\n"
            "b: constant int32[2]\n"
            "→ y: int8[1,4,4,2] scale 0.5"
        ),
        "accelerator",
    )
    assert [row[-1] for row in operators.rows] == ["accelerator", "CPU", "CPU"]


def test_the_partition_is_that_of_the_file(tmp_path: Path) -> None:
    found = told(network(), tmp_path)
    assert found.partition == partition(network()).details()


def test_the_page_about_reports_names_every_key_of_the_partition() -> None:
    text = (DOCS / "report.md").read_text(encoding="utf-8")
    details = partition(network()).details()
    for table in (details, details["parameters"], details["operators"][0]):
        for key in table:
            assert f"`{key}`" in text, key


def test_kinds_in_several_versions_are_counted_together(tmp_path: Path) -> None:
    model = network()
    operators = (*model.operators, dataclasses.replace(model.operators[2], version=1))
    rows = told(dataclasses.replace(model, operators=operators), tmp_path).listings[0].rows
    assert rows[0] == ("ADD", "1, 2", "2", "0")


@pytest.mark.parametrize(
    ("kind", "dtype", "count", "size"), [("INT4", np.int8, 7, 4), ("INT8", np.int8, 7, 7), ("FLOAT16", np.float16, 7, 14)]
)  # fmt: skip
def test_bytes_of_constants_are_those_of_the_file(
    tmp_path: Path, kind: str, dtype: Any, count: int, size: int
) -> None:
    quantization = None if "FLOAT" in kind else stored(0.5)
    tensors = (
        Tensor("x", (count,), "FLOAT32"),
        constant("c", np.arange(count, dtype=dtype), kind, quantization),
        Tensor("y", (count,), "FLOAT32"),
    )
    model = Model(tensors, (Operator("ADD", (0, 1), (2,)),), (0,), (2,))
    facts = dict(told(model, tmp_path).facts)
    assert facts["Constants"] == f"{size} bytes of {kind.lower()}"
    assert facts["Parameters"] == str(count)
    assert facts["Model"] == "without a name"
    assert "Metadata" not in facts


def test_constants_in_one_buffer_count_once(tmp_path: Path) -> None:
    model = network()
    again = dataclasses.replace(model.tensors[1], name="w again")
    facts = dict(told(dataclasses.replace(model, tensors=(*model.tensors, again)), tmp_path).facts)
    assert facts["Constants"].startswith("72 bytes of int8")


def test_axes_and_sizes_are_no_parameters(tmp_path: Path) -> None:
    tensors = (
        Tensor("x", (4,), "INT8", stored(0.5)),
        constant("shape", np.int32([2, 2]), "INT32"),
        Tensor("y", (2, 2), "INT8", stored(0.5)),
    )
    facts = dict(told(Model(tensors, (Operator("RESHAPE", (0, 1), (2,)),), (0,), (2,)), tmp_path).facts)
    assert (facts["Parameters"], facts["Constants"]) == ("0", "8 bytes of int32")


def test_a_file_that_is_compiled_already(tmp_path: Path) -> None:
    tensors = (
        Tensor("x", (4,), "INT8", stored(0.5)),
        Tensor("y", (4,), "INT8", stored(0.5)),
        Tensor("z", (4,), "INT8", stored(0.5)),
    )
    operators = (
        Operator("CUSTOM", (0,), (1,), {"custom_options": b"0" * 1500}, custom=inspect.COMPILED),
        Operator("RELU", (1,), (2,)),
    )
    found = told(Model(tensors, operators, (0,), (2,)), tmp_path)
    assert found.partition is None
    note = dict(found.facts)["Accelerator"]
    assert "is compiled already: the accelerator runs 1,500 bytes" in note
    assert note.endswith("the host 1 operator")
    assert found.listings[1].rows[0][1] == f"{inspect.COMPILED} v1\ncustom options 1,500 bytes"
    assert all(len(row) == len(listing.heads) for listing in found.listings for row in listing.rows)


def test_operators_without_their_tensors_are_shown_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = dataclasses.replace(
        network(), operators=(Operator("RESHAPE", (), (3,)), Operator("ADD", (-1,), (5,)))
    )
    monkeypatch.setattr(inspect, "read", lambda path: model)
    (tmp_path / "model.tflite").write_bytes(b"")
    found = summary(tmp_path / "model.tflite")
    assert found.partition is None
    assert "nothing can be predicted" in dict(found.facts)["Accelerator"]
    assert [row[2].splitlines()[0] for row in found.listings[1].rows] == [
        "→ y: int8[1,4,4,2] scale 0.5",
        "left out",
    ]


def test_other_subgraphs_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspect, "read", lambda path: network(subgraphs=3))
    (tmp_path / "model.tflite").write_bytes(b"")
    assert dict(summary(tmp_path / "model.tflite").facts)["Subgraphs"] == "3, of which this is the first"


@pytest.mark.parametrize(
    ("op", "options", "kind", "expected"),
    [
        ("CONV_2D", {"padding": "VALID", "stride_w": 1, "stride_h": 1, "dilation_w_factor": 1, "dilation_h_factor": 4}, "INT8", "dilations 4x1, VALID"),
        ("MAX_POOL_2D", {"filter_width": 3, "filter_height": 2, "fused_activation_function": "NONE"}, "INT8", "window 2x3"),
        ("CONCATENATION", {"axis": 0}, "INT8", "axis 0"),
        ("SOFTMAX", {"beta": 1.0}, "INT8", ""),
        ("SOFTMAX", {"beta": 0.5}, "INT8", "beta 0.5"),
        ("MEAN", {"keep_dims": True}, "INT8", ""),
        ("RESHAPE", {"new_shape": (1, -1)}, "INT8", ""),
        ("RESIZE_BILINEAR", {"align_corners": True, "half_pixel_centers": False}, "INT8", "align corners"),
        ("ADD", {"pot_scale_int16": False}, "INT8", ""),
        ("ADD", {"pot_scale_int16": False}, "INT16", "pot scale int16 False"),
        ("ADD", {"pot_scale_int16": True}, "INT16", ""),
        ("STRIDED_SLICE", {"begin_mask": 5, "end_mask": 0}, "INT8", "begin mask 5"),
    ],
)  # fmt: skip
def test_options_that_matter(op: str, options: dict[str, Any], kind: str, expected: str) -> None:
    assert options_text(Operator(op, (), (), options), kind) == expected


def test_tensors_in_words() -> None:
    name = f"{'long/' * 30}name"
    tensor = Tensor(name, (-1, 3), "INT8", Quantization(np.float32([1, 2]), np.int64([-3, 4]), 1))
    assert tensor_text(tensor) == f"{name}: int8[?,3] scales 1..2 per channel (axis 1) zero points -3..4"
    short = tensor_text(tensor, short=True)
    assert short.startswith("…")
    assert short.split(":")[0].endswith("long/name")
    assert len(short.split(":")[0]) == 48
    assert tensor_text(Tensor("c", (), "FLOAT32", data=np.float32(1))) == "c: constant float32[]"


@pytest.mark.parametrize("data", [b"", b"nonsense", b"\x1c\0\0\0TFL3" + bytes(100)])
def test_what_is_no_file_of_this_kind(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.tflite").write_bytes(data)
    with pytest.raises(ModelError):
        summary(tmp_path / "x.tflite")


def test_files_go_by_their_ending() -> None:
    assert inspectors()[".tflite"].__name__ == inspect.__name__
