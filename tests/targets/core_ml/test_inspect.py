"""What is told of packages, ours and those that coremltools' own optimizations wrote."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from packages import write
from small_graphs import graph_of, normal

from qcompiler.errors import ModelError
from qcompiler.file_summary import FileSummary
from qcompiler.targets.core_ml.inspect import summary
from qcompiler.targets.core_ml.interface import interface_of
from qcompiler.targets.core_ml.program_file import read_files

ct = pytest.importorskip("coremltools")
optimize = ct.optimize.coreml

TEXT = "(float[1,32,8,8] x) => (float y) { c = Conv(x, w, b) y = Relu(c) }"
WEIGHT = normal(64, 32, 3, 3)
SIZE = WEIGHT.size


def package(folder: Path, device: str = "ios18") -> Path:
    write(graph_of(TEXT, {"w": WEIGHT, "b": normal(64)}), folder, device=device, floats="float16")
    return folder / "model.mlpackage"


def rewritten(folder: Path, device: str, *changes: Callable[[Any], Any]) -> Path:
    """The package as coremltools makes it smaller."""
    model = ct.models.MLModel(str(package(folder, device)), skip_model_load=True)
    for change in changes:
        model = change(model)
    path = folder / "smaller.mlpackage"
    model.save(str(path))
    return path


def weight_of(found: FileSummary) -> tuple[str, ...]:
    (row,) = (row for row in found.listings[1].rows if row[1] == "64x32x3x3")
    return row


def test_weights_as_they_are(tmp_path: Path) -> None:
    found = summary(package(tmp_path))
    facts = dict(found.facts)
    assert facts["Needs"] == "iOS 18, macOS 15 or newer (specification 9)"
    assert facts["Inputs"] == "x: float32[1,32,8,8]"
    assert facts["Weights"] == f"{2 * SIZE + 128:,} bytes in 2 of float16"
    total = sum(path.stat().st_size for path in (tmp_path / "model.mlpackage").rglob("*") if path.is_file())
    assert facts["Package"].startswith(f"model.mlpackage: {total:,} bytes")
    assert dict(found.listings[0].rows) == {"cast": "2", "conv": "1", "relu": "1"}
    assert weight_of(found)[2:] == ("float16", f"{2 * SIZE:,}")


def palettized(**given: Any) -> Callable[[Any], Any]:
    config = optimize.OpPalettizerConfig(mode="uniform", weight_threshold=1000, **given)
    return lambda model: optimize.palettize_weights(model, optimize.OptimizationConfig(config))


def quantized(**given: Any) -> Callable[[Any], Any]:
    config = optimize.OpLinearQuantizerConfig(mode="linear_symmetric", weight_threshold=1000, **given)
    return lambda model: optimize.linear_quantize_weights(model, optimize.OptimizationConfig(config))


def pruned(share: float) -> Callable[[Any], Any]:
    config = optimize.OpMagnitudePrunerConfig(target_sparsity=share, weight_threshold=1000)
    return lambda model: optimize.prune_weights(model, optimize.OptimizationConfig(config))


@pytest.mark.parametrize(
    ("device", "change", "stored", "size"),
    [
        ("ios16", quantized(), ("int8", "a scale per channel"), SIZE + 64 * 3),
        ("ios16", palettized(nbits=4), ("4-bit codes of a table of 16 in float16",), SIZE // 2 + 32),
        ("ios18", quantized(dtype="int4", granularity="per_block", block_size=16), ("int4", "a scale per block of 16"), SIZE // 2 + 2 * 128),
        ("ios18", palettized(nbits=2), ("2-bit codes of a table of 4 in float16",), SIZE // 4 + 8),
        ("ios18", palettized(nbits=4, granularity="per_grouped_channel", group_size=16), ("4-bit codes of 4 tables of 16 in float16",), SIZE // 2 + 4 * 32),
        ("ios16", pruned(0.75), ("float16", "sparse: 25.0% stored"), SIZE // 2 + SIZE // 8),
        ("ios18", pruned(0.75), ("float16", "sparse: 25.0% stored"), SIZE // 2 + SIZE // 8),
    ],
)  # fmt: skip
def test_weights_that_coremltools_made_smaller(
    device: str, change: Callable[[Any], Any], stored: tuple[str, ...], size: int, tmp_path: Path
) -> None:
    row = weight_of(summary(rewritten(tmp_path, device, change)))
    assert tuple(row[2].split("\n")) == stored
    assert row[3] == f"{size:,}"


def test_an_interface_of_images_and_labels(tmp_path: Path) -> None:
    graph = graph_of("(float[1,3,6,5] x, float[1,7] m) => (float y, float[1,7] n) { y = Neg(x) n = Neg(m) }", {})  # fmt: skip
    labels = "\n".join(f"class {number}" for number in range(7))
    given = {
        "image": "bgr",
        "scale": "1,2,3",
        "labels": labels,
        "labels-output": "n",
        "author": "Ada",
        "version": "2",
    }
    write(graph, tmp_path, interface=interface_of(graph, given))
    facts = dict(summary(tmp_path / "model.mlpackage").facts)
    assert facts["Inputs"] == "x: image, bgr, 6 high and 5 wide\nm: float32[1,7]"
    assert facts["Outputs"].startswith("classLabel: text\nclassLabel_probs: numbers by label\ny: ")
    assert facts["Classes"] == "7: class 0, class 1, class 2, class 3, class 4, ..."
    assert (facts["Author"], facts["Version"]) == ("Ada", "2")
    assert "Description" not in facts


def test_sizes_that_are_open(tmp_path: Path) -> None:
    write(graph_of("(float[batch,3] x) => (float y) { y = Neg(x) }", {}), tmp_path)
    assert dict(summary(tmp_path / "model.mlpackage").facts)["Inputs"] == "x: float32[1..64,3]"


def test_other_models_than_programs(tmp_path: Path) -> None:
    path = package(tmp_path)
    model = path / "Data" / "com.apple.CoreML" / "model.mlmodel"
    specification = read_files(path).specification
    specification.identity.SetInParent()
    model.write_bytes(specification.SerializeToString())
    found = summary(path)
    assert dict(found.facts)["Kind"].startswith("identity, which is no ML program")
    assert found.listings == ()


def _truncated(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "gone": (shutil.rmtree, "is no Core ML package, which is a folder; there is nothing there"),
    "a file": (lambda path: (shutil.rmtree(path), path.write_text("x")), "which is a folder; it is a file"),
    "no manifest": (lambda path: (path / "Manifest.json").unlink(), r"Manifest\.json cannot be read: No such file"),
    "manifest": (lambda path: _truncated(path / "Manifest.json"), "does not say which file the model is"),
    "empty manifest": (lambda path: (path / "Manifest.json").write_text(json.dumps([])), "does not say which file"),
    "no model": (lambda path: next(path.rglob("model.mlmodel")).unlink(), r"model\.mlmodel cannot be read: No such file"),
    "model": (lambda path: _truncated(next(path.rglob("model.mlmodel"))), r"model\.mlmodel is no Core ML model"),
    "empty model": (lambda path: next(path.rglob("model.mlmodel")).write_bytes(b""), r"model\.mlmodel is empty"),
    "no weights": (lambda path: next(path.rglob("weight.bin")).unlink(), r"weight\.bin with its weights cannot be read"),
    "weights": (lambda path: _truncated(next(path.rglob("weight.bin"))), r"weight\.bin with its weights has .* is not there"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGE)
def test_what_is_damaged_is_told(name: str, tmp_path: Path) -> None:
    path = package(tmp_path)
    damage, says = DAMAGE[name]
    damage(path)
    with pytest.raises(ModelError, match=says):
        summary(path)


def joint(change: Callable[[Any, Any], Any], config: Any) -> Callable[[Any], Any]:
    """A change of what another one has made smaller already."""
    return lambda model: change(model, optimize.OptimizationConfig(config), joint_compression=True)


def test_decoders_behind_each_other_are_one_weight(tmp_path: Path) -> None:
    int8 = optimize.OpLinearQuantizerConfig(
        mode="linear_symmetric", weight_threshold=10, granularity="per_tensor"
    )
    entries = joint(optimize.linear_quantize_weights, int8)
    row = weight_of(summary(rewritten(tmp_path, "ios18", palettized(nbits=4), entries)))
    assert row[2] == "4-bit codes of a table of 16 in int8, one scale"
    assert row[3] == f"{SIZE // 2 + 16 + 2:,}"


def test_tables_of_what_is_not_left_out(tmp_path: Path) -> None:
    tables = joint(
        optimize.palettize_weights,
        optimize.OpPalettizerConfig(mode="uniform", nbits=4, weight_threshold=1000),
    )
    row = weight_of(summary(rewritten(tmp_path, "ios18", pruned(0.75), tables)))
    assert row[2] == "4-bit codes of a table of 16 in float16\nsparse: 25.0% stored"
    assert row[3] == f"{SIZE // 8 + 32 + SIZE // 8:,}"
