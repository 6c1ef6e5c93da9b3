"""What users of Core ML do: compile, look into the package with coremltools, and be told what is wrong with models that have none."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from cli_runs import Outcome, contents, run_cli
from small_graphs import normal

from qcompiler import demo

ct = pytest.importorskip("coremltools")

BUDGET_UNMET = 3
PACKAGE = "model.mlpackage"


def compiled(folder: Path, *words: object, target: str = "core-ml:ios17") -> Outcome:
    return run_cli(
        "compile", demo.MODEL, "-t", target, "-c", demo.CALIBRATION, "-e", demo.EVALUATION, "-o", folder, *words
    )  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo compiled once."""
    folder = tmp_path_factory.mktemp("demo") / "out"
    done = compiled(folder)
    assert done.code == 0, done.err
    assert "drag model.mlpackage into Xcode" in done.out
    return folder


def report_of(folder: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return report


def specification(folder: Path) -> Any:
    return ct.models.MLModel(str(folder / PACKAGE), skip_model_load=True).get_spec()


def test_the_demo_is_verified_and_as_accurate_as_before(made: Path) -> None:
    report = report_of(made)
    assert report["verify"]["passed"]
    assert report["verify"]["consumer"] == "coremltools"
    assert report["metric"]["artifact"] >= demo.TOP1 - 0.01
    assert report["size_bytes"]["compiled"] == sum(map(len, contents(made / PACKAGE).values()))


def test_the_package_is_what_xcode_takes(made: Path) -> None:
    found = specification(made)
    assert found.specificationVersion == 8
    ((image,), (logits,)) = found.description.input, found.description.output
    assert (image.name, logits.name) == ("image", "logits")
    kinds = ct.proto.FeatureTypes_pb2.ArrayFeatureType
    assert image.type.multiArrayType.dataType == logits.type.multiArrayType.dataType == kinds.FLOAT32
    assert list(image.type.multiArrayType.shape) == [1, 1, 8, 8]
    (batch, *_) = image.type.multiArrayType.shapeRange.sizeRanges
    assert (batch.lowerBound, batch.upperBound) == (1, 64)


def test_weights_and_scales_are_those_of_the_plan(made: Path) -> None:
    """Read from the file's own protocol buffer: no part of the compiler is used."""
    block = specification(made).mlProgram.functions["main"].block_specializations["CoreML7"]
    scales = set()
    constants = {op.outputs[0].name: op for op in block.operations if op.type == "const"}
    for op in block.operations:
        if op.type == "quantize":
            constant = constants[op.inputs["scale"].arguments[0].name].attributes["val"]
            scales.add(float(np.frombuffer(constant.immediateValue.tensor.bytes.values, np.float16)[0]))
    plan = json.loads((made / "plan.json").read_text())
    stored = {group["encoding"]["scale"] for group in plan["groups"] if "axis" not in group["encoding"]}
    assert len(scales) == len(stored) > 5
    assert sorted(scales) == pytest.approx(sorted(stored), rel=0, abs=0)
    kinds = [op.type for op in block.operations]
    assert kinds.count("constexpr_affine_dequantize") == 10


def test_the_same_input_gives_the_same_bytes(made: Path, tmp_path: Path) -> None:
    assert compiled(tmp_path / "again").code == 0
    assert contents(tmp_path / "again" / PACKAGE) == contents(made / PACKAGE)
    manifest = json.loads((made / "manifest.json").read_text())
    assert f"{PACKAGE}/Manifest.json" in json.dumps(manifest)


def test_inspect_shows_a_package(made: Path, tmp_path: Path) -> None:
    done = run_cli("inspect", made / PACKAGE)
    assert done.code == 0, done.err
    told = " ".join(done.out.split())
    report = report_of(made)
    assert f"{PACKAGE}: {report['size_bytes']['compiled']:,} bytes" in told
    for text in ("iOS 17, macOS 14 or newer", "image: float32[1..64,1,8,8]", "in 10 of int8, a scale per channel", "quantize"):  # fmt: skip
        assert text in told
    shutil.copytree(made, tmp_path / "out.mlpackage")  # what `compile` wrote is that, whatever it is called
    assert "Compiled and verified" in run_cli("inspect", tmp_path / "out.mlpackage").out


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("empty.mlpackage", "empty.mlpackage is no Core ML package: its Manifest.json cannot be read: No such file"),
        ("none.mlpackage", "none.mlpackage is no Core ML package, which is a folder; there is nothing there."),
        ("folder", "folder has no report.json: give a folder that `qcompiler compile` wrote"),
    ],
)  # fmt: skip
def test_folders_that_are_no_packages(name: str, says: str, tmp_path: Path) -> None:
    for made in ("empty.mlpackage", "folder"):
        (tmp_path / made).mkdir()
    done = run_cli("inspect", tmp_path / name)
    assert done.code == 1
    assert says in " ".join(done.err.split())
    assert done.err.count("\n") == 1


def test_a_damaged_package_is_noticed(made: Path, tmp_path: Path) -> None:
    from qcompiler.errors import ModelError
    from qcompiler.targets.core_ml.package import read

    for name, data in contents(made / PACKAGE).items():
        path = tmp_path / PACKAGE / name
        if not name.endswith("/"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data if not name.endswith("weight.bin") else data[: len(data) // 2])
    with pytest.raises(ModelError, match=r"model\.mlpackage cannot be read back"):
        read(tmp_path / PACKAGE)


def test_float16_at_the_rim_and_a_fixed_batch(tmp_path: Path) -> None:
    done = compiled(tmp_path / "out", "--io", "float16", "--dimension", "batch=1", target="core-ml:ios18")
    assert done.code == 0, done.err
    found = specification(tmp_path / "out")
    array = found.description.input[0].type.multiArrayType
    assert array.dataType == ct.proto.FeatureTypes_pb2.ArrayFeatureType.FLOAT16
    assert list(array.shape) == [1, 1, 8, 8]
    assert array.WhichOneof("ShapeFlexibility") is None
    assert report_of(tmp_path / "out")["verify"]["passed"]


def test_a_budget_of_bits(tmp_path: Path) -> None:
    assert compiled(tmp_path / "out", "--weight-bits", "4", target="core-ml:ios18").code == 0
    report = report_of(tmp_path / "out")
    assert report["weight_bits"] <= 4
    assert report["verify"]["passed"]
    assert any(node["row"].startswith(("w4", "t", "c")) for node in report["nodes"] if node["quantized"])
    refused = compiled(tmp_path / "older", "--weight-bits", "0.5", target="core-ml:ios17")
    assert refused.code == BUDGET_UNMET
    assert "weight-bits" in refused.out


@pytest.mark.parametrize(
    ("row", "since"),
    [
        ("w4", "4-bit integers came with iOS 18"),
        ("w8a8", "came with iOS 17"),
        ("g4", "tables for groups of channels came with iOS 18"),
    ],
)
def test_rows_that_a_deployment_target_lacks(row: str, since: str, tmp_path: Path) -> None:
    done = compiled(tmp_path / "out", "--option", f"assign_precision.prefer={row}", target="core-ml:ios16")
    assert done.code == 0, done.err
    told = run_cli("explain", tmp_path / "out", "stem/conv").out
    assert since in " ".join(told.split())
    assert "Runs as     row w8 " in told


def test_tables_of_weights(tmp_path: Path) -> None:
    """4 bits per weight on the oldest target: look-ups in tables of 16 entries, which the report calls 4 bits."""
    done = compiled(tmp_path / "out", "--option", "assign_precision.prefer=t4", target="core-ml:ios16")
    assert done.code == 0, done.err
    report = report_of(tmp_path / "out")
    assert report["weight_bits"] == 4
    assert report["verify"]["passed"]
    assert report["metric"]["artifact"] >= demo.TOP1 - 0.015
    block = specification(tmp_path / "out").mlProgram.functions["main"].block_specializations["CoreML6"]
    assert [op.type for op in block.operations].count("constexpr_lut_to_dense") == 10
    assert "table4" in run_cli("explain", tmp_path / "out", "stem/conv").out


def test_pruned_weights(tmp_path: Path) -> None:
    """The pass says what it did, and the package of mostly zeros is smaller and verified."""
    words = ("--pass", "prune_weights", "--option", "prune_weights.sparsity=0.75")
    done = compiled(tmp_path / "pruned", *words, target="core-ml:ios18")
    assert done.code == 0, done.err
    assert compiled(tmp_path / "dense", target="core-ml:ios18").code == 0
    pruned, dense = report_of(tmp_path / "pruned"), report_of(tmp_path / "dense")
    assert pruned["verify"]["passed"]
    (record,) = (entry for entry in pruned["passes"] if entry["name"].startswith("prune_weights"))
    assert record["counts"]["pruned tensors"] == 5
    assert pruned["size_bytes"]["compiled"] < dense["size_bytes"]["compiled"] - 1000
    block = specification(tmp_path / "pruned").mlProgram.functions["main"].block_specializations["CoreML8"]
    assert "constexpr_sparse_to_dense" in {op.type for op in block.operations}


def test_a_sparsity_that_is_no_share(tmp_path: Path) -> None:
    done = compiled(tmp_path / "out", "--pass", "prune_weights", "--option", "prune_weights.sparsity=1.5")
    assert done.code == 1
    told = " ".join(done.err.split())
    assert "sparsity of the pass prune_weights is 1.5; it is a share" in told
    assert "Traceback" not in told
    assert not (tmp_path / "out").exists()


def test_chips_whose_engine_does_not_multiply_int8_get_weights_only(tmp_path: Path) -> None:
    assert compiled(tmp_path / "out", target="core-ml:ios17-a16").code == 0
    rows = {node["row"] for node in report_of(tmp_path / "out")["nodes"] if node["quantized"]}
    assert rows == {"w8"}


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    path = tmp_path / "labels.txt"
    path.write_text("".join(f"digit {number}\n" for number in range(10)))
    return path


def option(name: str, given: object) -> tuple[str, str]:
    return "--target-option", f"{name}={given}"


@pytest.mark.slow
def test_an_image_labels_and_metadata(labels: Path, tmp_path: Path) -> None:
    """What an app shows: the demo's digits, which have pixels of 0 to 16, as pictures with labels."""
    words = (
        *("--dimension", "batch=1"),
        *option("image", "grayscale"),
        *option("scale", "1/16"),
        *option("labels", labels),
        *option("author", "Ada"),
        *option("license", "Apache-2.0"),
        *option("description", "reads digits"),
        *option("version", "1.2"),
    )
    done = compiled(tmp_path / "out", *words)
    assert done.code == 0, done.err
    assert "labels are the reference's" in " ".join(done.out.split())
    found = specification(tmp_path / "out").description
    (image,), (label, scores) = found.input, found.output
    assert (image.type.imageType.width, image.type.imageType.height) == (8, 8)
    assert (label.name, scores.name) == ("classLabel", "classLabel_probs")
    about = found.metadata
    assert (about.author, about.license) == ("Ada", "Apache-2.0")
    assert (about.shortDescription, about.versionString) == ("reads digits", "1.2")
    report = report_of(tmp_path / "out")
    details = report["verify"]["details"]
    assert report["verify"]["passed"]
    assert report["metric"]["artifact"] >= demo.TOP1 - 0.01
    assert details["labels"] == {"compared": 128, "same": 128}
    assert details["pixels"]["image"]["worst"] < 1e-3
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    recorded = manifest["options"]["target_options"]
    assert recorded["labels"] == hashlib.sha256(labels.read_bytes()).hexdigest()
    assert (recorded["image"], recorded["author"], recorded["bias"]) == ("grayscale", "Ada", "")


# -- bad input ------------------------------------------------------------------------------------------------------


def refused(
    folder: Path, text: str, says: Sequence[str], constants: dict[str, Any] | None = None, **data: Any
) -> None:
    """Compiles a model given as ONNX text, which fails with one paragraph and leaves nothing."""
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 21]> small {text}')
    for name, array in (constants or {}).items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
    onnx.save(model, str(folder / "model.onnx"))
    np.savez(folder / "data.npz", **data)
    done = run_cli(
        "compile", folder / "model.onnx", "-t", "core-ml", "-c", folder / "data.npz", "-o", folder / "out"
    )
    assert done.code == 1
    told = " ".join(done.err.split())
    assert "Traceback" not in told
    for part in says:
        assert part in told
    assert not (folder / "out").exists()


def test_all_operators_that_cannot_be_written_are_named_at_once(tmp_path: Path) -> None:
    text = "(float[2,8] x) => (float y) { [hard] a = Hardmax(x) [ok] b = Relu(x) [loud] c = IsNaN(b) d = Cast<to=1>(c) y = Add(a, d) }"
    refused(
        tmp_path, text, ["2 operators cannot be written for Core ML", "hard (Hardmax)", "loud (IsNaN)", "nothing was written"],
        x=normal(8, 8),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("image=grayscale",), "image=grayscale: the input 'image' is float32[batch,1,8,8], and Core ML gives a model one image at a time"),
        (("image=rgb",), "no input has the shape [1, 3, height, width]"),
        (("image=grayscale", "image-input=picture"), "image-input=picture: the model has no such input"),
        (("labels=none.txt",), "labels=none.txt: the file cannot be read: No such file or directory"),
        (("images=rgb",), "has no such option; did you mean 'image'"),
    ],
)  # fmt: skip
def test_options_that_the_model_cannot_have(words: Sequence[str], says: str, tmp_path: Path) -> None:
    done = compiled(tmp_path / "out", *(part for word in words for part in ("--target-option", word)))
    assert done.code == 1
    assert says in " ".join(done.err.split())
    assert done.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_labels_that_are_not_as_many_as_classes(labels: Path, tmp_path: Path) -> None:
    labels.write_text("one\ntwo\n")
    done = compiled(tmp_path / "out", "--dimension", "batch=1", *option("labels", labels))
    assert done.code == 1
    assert "which are 10 numbers, and the file has 2 labels" in " ".join(done.err.split())


def test_numbers_that_no_image_gives(tmp_path: Path) -> None:
    done = compiled(tmp_path / "out", "--dimension", "batch=1", *option("image", "grayscale"))
    assert done.code == 1
    assert "cannot be what an image gives at the input 'image'" in " ".join(done.err.split())


def test_attributes_that_core_ml_lacks_are_told(tmp_path: Path) -> None:
    text = (
        "(float[batch,2,8,8] x) => (float y) { [pool] y = MaxPool<kernel_shape=[2,2], dilations=[2,2]>(x) }"
    )
    refused(tmp_path, text, ["pool (MaxPool): Core ML has no pooling with dilations"], x=normal(8, 2, 8, 8))


def test_tensors_of_too_many_dimensions(tmp_path: Path) -> None:
    text = "(float[batch,2,1,2,3,4] x) => (float y) { [wide] y = Relu(x) }"
    refused(tmp_path, text, ["wide (Relu)", "rank 6", "5 at most"], x=normal(8, 2, 1, 2, 3, 4))


def test_inputs_of_a_type_that_core_ml_lacks(tmp_path: Path) -> None:
    text = "(bool[batch,4] x) => (float y) { y = Cast<to=1>(x) }"
    refused(tmp_path, text, ["'x' holds bool", "floats or 32-bit integers"], x=np.ones((8, 4), bool))


def test_sizes_that_have_to_be_known(tmp_path: Path) -> None:
    text = '(float[batch,3,rows,4] x) => (float y) { [bigger] y = Resize<mode="linear">(x, , s) }'
    refused(
        tmp_path,
        text,
        ["bigger (Resize)", "open", "--dimension"],
        {"s": np.float32([1, 1, 2, 2])},
        x=normal(8, 3, 5, 4),
    )


def test_coremltools_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from qcompiler.targets.core_ml.toolkit import toolkit

    monkeypatch.setitem(sys.modules, "coremltools", None)
    toolkit.cache_clear()
    try:
        done = compiled(tmp_path / "out")
    finally:
        toolkit.cache_clear()
    assert done.code == 1
    assert 'pip install "qcompiler[core-ml]"' in " ".join(done.err.split())
    assert not (tmp_path / "out").exists()


def test_tables_for_groups_of_channels(tmp_path: Path) -> None:
    """Where there are several groups of 16 channels there are as many tables, and the page about a node says so."""
    done = compiled(tmp_path / "out", "--option", "assign_precision.prefer=g4+t4", target="core-ml:ios18")
    assert done.code == 0, done.err
    report = report_of(tmp_path / "out")
    rows = {node["name"]: node["row"] for node in report["nodes"] if node["op"] in ("Conv", "Gemm")}
    assert set(rows.values()) == {"g4", "t4"}
    assert report["verify"]["passed"]
    assert report["metric"]["artifact"] >= demo.TOP1 - 0.015
    assert report["weight_bits"] > 4
    block = specification(tmp_path / "out").mlProgram.functions["main"].block_specializations["CoreML8"]
    tables = [op for op in block.operations if op.type == "constexpr_lut_to_dense"]
    assert len(tables) == len(rows)
    node = next(name for name, row in rows.items() if row == "g4")
    told = " ".join(run_cli("explain", tmp_path / "out", node).out.split())
    assert "table4 per-group(axis 0, 16)" in told
    single = next(name for name, row in rows.items() if row == "t4")
    assert "channels along axis 0" in " ".join(run_cli("explain", tmp_path / "out", single).out.split())


# -- models in other shapes -----------------------------------------------------------------------------------------


def test_integers_and_names_that_are_no_identifiers(tmp_path: Path) -> None:
    """64-bit integers become 32-bit ones, and names get what no identifier may hold replaced; the report says which."""
    from small_graphs import graph_of

    import qcompiler as qc

    graph = graph_of(
        "(int64[batch,words] ids) => (float y) { e = Gather(table, ids) y = MatMul(e, w) }",
        {"table": normal(9, 16), "w": normal(16, 4)},
    )
    graph.rename(graph.inputs[0], "input.ids/0")
    result = qc.compile(
        graph, "core-ml", {"input.ids/0": np.arange(60).reshape(12, 5) % 9}, output=tmp_path / "out"
    )
    assert result.verification is not None
    assert result.verification.passed, result.verification.summary
    (ids,) = specification(tmp_path / "out").description.input
    assert ids.name == "input_ids_0"
    assert ids.type.multiArrayType.dataType == ct.proto.FeatureTypes_pb2.ArrayFeatureType.INT32
    assert result.report["artifact"]["details"]["renamed"] == {"input.ids/0": "input_ids_0"}
