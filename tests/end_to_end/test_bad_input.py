"""Whatever is wrong with what a user gives: exit code 1, one clear paragraph on stderr, and nothing written."""

from __future__ import annotations

import errno
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from cli_runs import Outcome, contents, run_cli
from onnx import TensorProto, helper, numpy_helper

import qcompiler as qc
from qcompiler import demo
from qcompiler.errors import OptionError
from qcompiler.ir.onnx_export import save

RNG = np.random.default_rng(0)


def refused(*words: object, says: Sequence[str], base: Path | None = None) -> str:
    """Runs a command that has to fail; returns its paragraph."""
    base = base or Path.cwd()
    before = contents(base)
    done = run_cli(*words)
    assert contents(base) == before, "something was written"
    return paragraph(done, says)


def paragraph(done: Outcome, says: Sequence[str]) -> str:
    assert done.code == 1, done
    assert done.out == ""
    text = done.err.removesuffix("\n")
    assert text.startswith("Error: ")
    assert "\n" not in text
    assert "Traceback" not in text
    assert "a bug in qcompiler" not in text, text
    assert text.endswith((".", "?", ")")), text
    for word in says:
        assert word in text, f"{word!r} not in: {text}"
    return text


def compile_refused(*words: object, says: Sequence[str], model: object = demo.MODEL) -> str:
    data = [] if "-c" in words else ["-c", demo.CALIBRATION]
    target = [] if "-t" in words else ["-t", "fast.toml"]
    output = [] if "-o" in words else ["-o", "out"]
    return refused("compile", model, *target, *data, *output, *words, says=says)


# -- models --------------------------------------------------------------------------------------------------------


def small_model(opset: int = 17) -> onnx.ModelProto:
    """X [n, 4] through a dense layer and a Relu to y [n, 3]."""
    weight = RNG.standard_normal((4, 3)).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], "dense"),
        helper.make_node("Relu", ["h"], ["y"], "relu"),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(weight, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def data_file(name: str = "data.npz", **arrays: object) -> str:
    if not arrays:
        arrays = {"x": RNG.standard_normal((8, 4)).astype(np.float32)}
    np.savez(name, **arrays)
    return name


def model_refused(model: onnx.ModelProto, says: Sequence[str]) -> str:
    Path("model.onnx").write_bytes(model.SerializeToString())
    return compile_refused("-c", data_file(), model="model.onnx", says=says)


def test_no_model_file(folder: Path) -> None:
    compile_refused(model="nowhere.onnx", says=["nowhere.onnx", "give the path"])


def test_a_folder_as_model(folder: Path) -> None:
    (folder / "models").mkdir()
    compile_refused(model="models", says=["models", "give the path"])


@pytest.mark.parametrize(
    "content",
    [b"", b"Hello, this is some text.\n" * 20, b"\x89PNG\r\n\x1a\n" + bytes(range(256)), bytes(1000)],
)
def test_not_an_onnx_file(folder: Path, content: bytes) -> None:
    (folder / "model.onnx").write_bytes(content)
    compile_refused(model="model.onnx", says=["model.onnx"])


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file(folder: Path, part: float) -> None:
    whole = demo.MODEL.read_bytes()
    (folder / "model.onnx").write_bytes(whole[: int(len(whole) * part)])
    compile_refused(model="model.onnx", says=["model.onnx"])


def test_missing_external_data(folder: Path) -> None:
    save(qc.load(demo.MODEL), "model.onnx", external=True)
    Path("model.onnx.data").unlink()
    compile_refused(model="model.onnx", says=["model.onnx.data"])


def test_truncated_external_data(folder: Path) -> None:
    save(qc.load(demo.MODEL), "model.onnx", external=True)
    os.truncate("model.onnx.data", 5000)
    compile_refused(model="model.onnx", says=["model.onnx.data"])


def test_an_operator_that_onnxruntime_cannot_run(folder: Path) -> None:
    model = small_model()
    model.graph.node[1].op_type, model.graph.node[1].domain = "Frobnicate", "com.example"
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    model_refused(model, ["Frobnicate", "com.example"])


def test_an_unknown_standard_operator(folder: Path) -> None:
    model = small_model()
    model.graph.node[1].op_type = "Relo"
    model_refused(model, ["Relo"])


@pytest.mark.parametrize("opset", [999, 0])
def test_an_opset_that_nobody_runs(folder: Path, opset: int) -> None:
    model = small_model(opset)
    model_refused(model, [f"opset {opset}"])


def test_a_cyclic_graph(folder: Path) -> None:
    model = small_model()
    model.graph.node[0].input[0] = "y"
    model_refused(model, ["cycle", "dense", "relu"])


def test_a_dangling_input(folder: Path) -> None:
    model = small_model()
    model.graph.node[0].input[1] = "weight_that_is_not_there"
    model_refused(model, ["weight_that_is_not_there", "dense"])


def test_an_output_that_nothing_computes(folder: Path) -> None:
    model = small_model()
    model.graph.output[0].name = "z"
    model_refused(model, ["model.onnx", "returns z", "nothing"])


def test_two_values_of_one_name(folder: Path) -> None:
    model = small_model()
    model.graph.node[1].output[0] = "h"
    model.graph.output[0].name = "h"
    model_refused(model, ["'h'"])


def test_two_constants_of_one_name(folder: Path) -> None:
    model = small_model()
    model.graph.initializer.append(model.graph.initializer[0])
    model_refused(model, ["'w'"])


def test_two_nodes_of_one_name(folder: Path) -> None:
    """The format forbids it, exporters do it, and what they mean is clear."""
    model = small_model()
    model.graph.node[1].name = "dense"
    Path("model.onnx").write_bytes(model.SerializeToString())
    assert run_cli("compile", "model.onnx", "-t", "fast.toml", "-c", data_file(), "-o", "out").code == 0


def test_operands_that_do_not_fit(folder: Path) -> None:
    model = small_model()
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.ones((5, 3), np.float32), "w"))
    model_refused(model, ["dense"])


# -- data ----------------------------------------------------------------------------------------------------------


def images(count: int = 8, dtype: type = np.float32) -> np.ndarray:
    return RNG.random((count, 1, 8, 8)).astype(dtype)


@pytest.mark.parametrize("option", ["-c", "-e"])
@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"picture": images()}, ["'image'", "'picture'"]),
        ({"image": images(), "mask": images()}, ["'mask'"]),
        ({"labels": np.arange(8)}, ["image"]),
        ({"image": images(dtype=np.int64)}, ["image", "int64", "float32"]),
        ({"image": images().astype(str)}, ["image"]),
        ({"image": images().astype(np.complex64)}, ["image", "complex64"]),
        ({"image": images()[:, :, :4]}, ["image", "8"]),
        ({"image": images().reshape(8, 64)}, ["image", "64"]),
        ({"image": images()[:0]}, ["no samples"]),
        ({"image": np.float32(3)}, ["image"]),
        ({"image": images(), "labels": np.arange(5)}, ["labels", "5", "8"]),
    ],
)  # fmt: skip
def test_data_that_do_not_fit(
    folder: Path, option: str, arrays: dict[str, np.ndarray], says: list[str]
) -> None:
    compile_refused(option, data_file(**arrays), says=["data.npz", *says])


@pytest.mark.parametrize("option", ["-c", "-e"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_finite(folder: Path, option: str, bad: float) -> None:
    image = images(20)
    image[13, 0, 3, 4] = bad
    compile_refused(option, data_file(image=image), says=["Sample 13", "'image'", "data.npz", str(bad)])


def test_no_data_file(folder: Path) -> None:
    compile_refused("-c", "nowhere.npz", says=["nowhere.npz"])


def test_an_empty_folder_of_data(folder: Path) -> None:
    (folder / "samples").mkdir()
    compile_refused("-c", "samples", says=["samples"])


def test_a_file_that_is_no_npz(folder: Path) -> None:
    (folder / "data.npz").write_bytes(b"PK\x03\x04 and then nothing of the kind")
    compile_refused("-c", "data.npz", says=["data.npz"])


def test_a_truncated_npz(folder: Path) -> None:
    whole = demo.CALIBRATION.read_bytes()
    (folder / "data.npz").write_bytes(whole[: len(whole) // 2])
    compile_refused("-c", "data.npz", says=["data.npz"])


def test_pickled_data(folder: Path) -> None:
    compile_refused(
        "-c", data_file(image=np.array([{"a": 1}, None], dtype=object)), says=["data.npz", "image"]
    )


def test_no_data_where_ranges_are_needed(folder: Path) -> None:
    refused("compile", demo.MODEL, "-t", "fast.toml", "-o", "out", says=["--calibration"])


# -- metrics -------------------------------------------------------------------------------------------------------


def test_an_unknown_metric(folder: Path) -> None:
    compile_refused("--metric", "top11", says=["'top11'", "did you mean 'top1'"])


def test_top1_without_labels(folder: Path) -> None:
    compile_refused("--metric", "top1", says=["top1", "labels"])
    compile_refused("--metric", "top1", "-e", data_file(image=images()), says=["top1", "labels"])


def test_labels_that_are_no_classes(folder: Path) -> None:
    data = data_file(image=images(), labels=RNG.random(8))
    compile_refused("--metric", "top1", "-e", data, says=["top1", "labels"])


def test_labels_out_of_range(folder: Path) -> None:
    data = data_file(image=images(), labels=np.full(8, 10))
    compile_refused("--metric", "top1", "-e", data, says=["labels", "10"])


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("raise ValueError('no good')", ["ValueError", "no good"]),
        ("return float('nan')", ["NaN"]),
        ("return 'much'", ["much"]),
        ("return None", ["number"]),
    ],
)
def test_a_users_metric_that_fails(folder: Path, body: str, says: list[str]) -> None:
    (folder / "mine.py").write_text(f"def quality(outputs, labels, reference):\n    {body}\n")
    (folder / "__pycache__").mkdir()
    compile_refused("--metric", "mine.py:quality", "-e", demo.EVALUATION, says=["mine.py:quality", *says])


def test_a_users_metric_that_is_not_there(folder: Path) -> None:
    (folder / "mine.py").write_text("def quality(outputs, labels, reference):\n    return 1.0\n")
    compile_refused("--metric", "mine.py:qualty", says=["qualty", "did you mean 'quality'"])
    compile_refused("--metric", "yours.py:quality", says=["yours.py"])
    compile_refused("--metric", "no_such_module:quality", says=["no_such_module"])


def test_a_drop_without_data_to_measure_it_on(folder: Path) -> None:
    compile_refused("--max-drop", "0.01", says=["--max-drop", "--evaluation"])


@pytest.mark.parametrize("drop", ["nan", "-1", "inf", "much"])
def test_a_drop_that_is_no_budget(folder: Path, drop: str) -> None:
    compile_refused("--max-drop", drop, "-e", demo.EVALUATION, says=["--max-drop"])


@pytest.mark.parametrize("option", ["--max-ram", "--max-flash"])
@pytest.mark.parametrize("target", ["fast.toml", "tensorrt"])
def test_limits_of_memory_where_no_code_is_written(folder: Path, option: str, target: str) -> None:
    compile_refused("-t", target, option, "100000", says=[option, "no code is written", "--max-size"])


def test_a_limit_of_memory_without_anything_written() -> None:
    with pytest.raises(OptionError, match=r"--max-ram .* give an output folder"):
        qc.compile(demo.MODEL, "cmsis-nn", demo.CALIBRATION, max_ram=100_000)


# -- names ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["-t", "tensort"], ["'tensort'", "did you mean 'tensorrt'"]),
        (["-t", "tensorrt:sm98"], ["sm98", "did you mean"]),
        (["-t", "nowhere.toml"], ["nowhere.toml"]),
        (["--pipeline", "fuse,calbrate"], ["'calbrate'", "did you mean 'calibrate'"]),
        (["--pipeline", "fuse{"], ["cannot be read"]),
        (["--pipeline", "calibrate"], ["calibrate", "requires"]),
        (["--pipeline", "canonicalize"], ["assign_precision"]),
        (["--pass", "no_such_module:Pass"], ["no_such_module"]),
        (["--pass", "nowhere.py:Pass"], ["nowhere.py"]),
        (["--pass", "foldbatchnorm"], ["did you mean 'fold_batch_norm'"]),
        (["--option", "calibrate.methd=mse"], ["'methd'", "did you mean 'method'"]),
        (["--option", "calbrate.method=mse"], ["'calbrate'", "did you mean 'calibrate'"]),
        (["--option", "calibrate.batch=many"], ["many", "integer"]),
        (["--option", "calibrate"], ["PASS.OPTION=VALUE"]),
        (["--method", "mze"], ["'mze'", "did you mean 'mse'"]),
        (["--method", "percentile:20"], ["percentile:20"]),
        (["--float-format", "float61"], ["float61", "did you mean 'float16'"]),
        (["--config", "nowhere.toml"], ["nowhere.toml"]),
        (["--max-dop", "1"], ["'--max-dop'", "did you mean '--max-drop'"]),
        (["--calibration"], ["--calibration"]),
        (["another.onnx"], ["another.onnx"]),
    ],
)  # fmt: skip
def test_names_that_do_not_exist(folder: Path, words: list[str], says: list[str]) -> None:
    compile_refused(*words, says=says)


def test_an_unknown_command(folder: Path) -> None:
    refused("compil", says=["'compil'", "'compile'"])
    refused("frobnicate", says=["'frobnicate'", "compile", "demo"])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("max-dorp = 0.1", ["max-dorp", "did you mean 'max-drop'"]),
        ('max-drop = "much"', ["max-drop", "a number"]),
        ("target = 3", ["target", "text"]),
        ("[passes.calibrate]\nmethd = 3", ["methd", "did you mean 'method'"]),
        ("[passes.calbrate]\nmethod = 'mse'", ["calbrate", "did you mean 'calibrate'"]),
        ("[passes]\ncalibrate = 3", ["passes.calibrate", "table"]),
        ("target = ", ["not valid TOML"]),
    ],
)
def test_a_mistake_in_the_configuration(folder: Path, text: str, says: list[str]) -> None:
    (folder / "mine.toml").write_text(text)
    compile_refused("--config", "mine.toml", says=says)


def test_nothing_given(folder: Path) -> None:
    refused("compile", says=["model"])
    refused("compile", demo.MODEL, says=["--target"])
    refused("compile", demo.MODEL, "-t", "fast.toml", says=["-o OUTDIR"])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("schema = 1", ["name"]),
        ("schema = 7\nname = 'x'", ["schema", "7"]),
        ("schema = 1\nname = 'x'\nlayuot = 'nhwc'", ["layuot", "did you mean 'layout'"]),
        ("schema = 1\nname = 'x'\nlayout = 'nhcw'", ["layout", "nhwc"]),
        ("schema = 1\nname = 'x'\nextends = 'tensort'", ["extends", "tensort"]),
        ("schema = 1\nname = 'x'\n[encoding.a]\nformat = 'int9'", ["encoding.a", "int9", "did you mean"]),
        (
            "schema = 1\nname = 'x'\n[[kernel]]\nname = 'k'\npattern = 'Cnv(x)'",
            ["kernel[0] (k).pattern", "Cnv"],
        ),
        ("schema = 1\nname = 'x'\nprepare = ['explicit_pading']", ["explicit_pading", "did you mean"]),
        ("schema 1", ["not valid TOML"]),
    ],
)
def test_a_descriptor_with_a_mistake(folder: Path, text: str, says: list[str]) -> None:
    (folder / "mine.toml").write_text(text)
    compile_refused("-t", "mine.toml", says=["mine.toml", *says])


def test_a_users_pass_that_does_not_load(folder: Path) -> None:
    (folder / "mine.py").write_text("import no_such_module\n")
    compile_refused("--pass", "mine.py:Mine", says=["mine.py", "no_such_module"])


def test_a_users_pass_that_raises(folder: Path) -> None:
    (folder / "mine.py").write_text(
        "from dataclasses import dataclass\n"
        "from qcompiler import Pass\n"
        "@dataclass(frozen=True)\n"
        "class Mine(Pass):\n"
        '    name = "mine"\n'
        "    def run(self, graph, context):\n"
        "        raise KeyError('lost')\n"
    )
    (folder / "__pycache__").mkdir()
    compile_refused("--pass", "mine.py:Mine", says=["mine", "KeyError", "lost"])


# -- plans ---------------------------------------------------------------------------------------------------------


def test_a_plan_for_another_model(folder: Path, compiled_demo: Path) -> None:
    Path("model.onnx").write_bytes(small_model().SerializeToString())
    compile_refused(
        "-c",
        data_file(),
        "--plan",
        compiled_demo / "plan.json",
        model="model.onnx",
        says=["plan", "another model"],
    )


def test_a_plan_for_another_target(folder: Path, compiled_demo: Path) -> None:
    compile_refused("-t", "tensorrt", "--plan", compiled_demo / "plan.json", says=["fast", "tensorrt"])


@pytest.mark.parametrize("content", [b"what shall we do?", b"[1, 2]", b"{}", b'{"plan": 1}', b"\xff\xfe\x00"])
def test_a_plan_that_is_none(folder: Path, content: bytes) -> None:
    (folder / "plan.json").write_bytes(content)
    compile_refused("--plan", "plan.json", says=["plan.json"])


def test_no_plan(folder: Path) -> None:
    compile_refused("--plan", "nowhere.json", says=["nowhere.json"])


def test_a_plan_with_a_scale_that_is_none(folder: Path, compiled_demo: Path) -> None:
    plan = json.loads((compiled_demo / "plan.json").read_text())
    group = next(entry for entry in plan["groups"] if isinstance(entry["encoding"]["scale"], float))
    for scale in (0.0, -1.0, float("nan"), float("inf"), 1e-45, "x", [], None):
        group["encoding"]["scale"] = scale
        (folder / "plan.json").write_text(json.dumps(plan))
        compile_refused("--plan", "plan.json", says=["plan.json", group["name"]])


def test_statistics_of_another_model(folder: Path, compile_demo: Callable[..., Outcome]) -> None:
    assert compile_demo("--statistics", "statistics.qcs", "-o", "first").code == 0
    Path("model.onnx").write_bytes(small_model().SerializeToString())
    compile_refused(
        "-c",
        data_file(),
        "--statistics",
        "statistics.qcs",
        model="model.onnx",
        says=["statistics.qcs", "another model"],
    )
    Path("statistics.qcs").write_bytes(b"nothing of the kind")
    compile_refused("--statistics", "statistics.qcs", says=["statistics.qcs"])


# -- the output folder ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["file/out", "file", "/proc/out", "/dev/null/out"])
def test_a_place_that_cannot_be_written(folder: Path, place: str) -> None:
    (folder / "file").write_text("a file")
    compile_refused("-o", place, says=[place.split("/out")[0]])


def test_an_existing_folder(folder: Path, compile_demo: Callable[..., Outcome]) -> None:
    assert compile_demo("-o", "out").code == 0
    compile_refused("-o", "out", says=["out", "--force"])
    assert compile_demo("-o", "out", "--force").code == 0


def test_a_folder_that_is_not_ours(folder: Path) -> None:
    (folder / "out").mkdir()
    (folder / "out" / "thesis.tex").write_text("years of work")
    compile_refused("-o", "out", "--force", says=["out", "was not written by qcompiler"])


@pytest.mark.parametrize(
    "what", ["model.onnx", "reference.onnx", "plan.json", "report.json", "report.html", "manifest.json"]
)
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
def test_a_full_or_broken_disk(folder: Path, monkeypatch: pytest.MonkeyPatch, what: str, code: int) -> None:
    genuine = Path.open

    def failing(path: Path, mode: str = "r", *arguments: object, **keywords: object) -> object:
        if "w" in mode and path.name == what:
            raise OSError(code, os.strerror(code), str(path))
        return genuine(path, mode, *arguments, **keywords)  # type: ignore[call-overload]

    def failing_bytes(path: Path, data: bytes) -> int:
        with failing(path, "wb") as file:  # type: ignore[attr-defined]
            return int(file.write(data))

    def failing_text(path: Path, data: str, encoding: str = "utf-8") -> int:
        return failing_bytes(path, data.encode(encoding))

    monkeypatch.setattr(Path, "open", failing)
    monkeypatch.setattr(Path, "write_bytes", failing_bytes)
    monkeypatch.setattr(Path, "write_text", failing_text)
    if what == "model.onnx":
        pytest.importorskip("qcompiler.targets.tensorrt.lower")
        compile_refused("-t", "tensorrt", says=["out", os.strerror(code)])
    else:
        compile_refused(says=["out", os.strerror(code)])


def test_parents_that_were_made_are_removed_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> str:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("qcompiler.compiler.render_html", full)
    compile_refused("-o", "deep/er/out", says=["disk is full", "deep/er/out"])


def test_a_file_size_limit(folder: Path) -> None:
    """As a full disk, in a process of its own: the kernel refuses to write more than 20 kB into a file."""
    before = contents(folder)
    done = subprocess.run(
        [sys.executable, "-c", "from qcompiler.cli import main; main()", "compile", str(demo.MODEL), "-t", "fast.toml",
         "-c", str(demo.CALIBRATION), "-o", "out"],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    paragraph(Outcome(done.returncode, done.stdout, done.stderr), ["out"])
    assert contents(folder) == before


def test_other_files_that_cannot_be_written(folder: Path, compiled_demo: Path) -> None:
    (folder / "file").write_text("a file")
    compile_refused("--statistics", "file/statistics", says=["file/statistics"])
    compile_refused("--dump", "file/dump", says=["file/dump"])
    refused("inspect", compiled_demo, "--html", "file/page.html", says=["file/page.html"])


# -- other commands ------------------------------------------------------------------------------------------------


def test_folders_that_are_none(folder: Path) -> None:
    (folder / "empty").mkdir()
    for words in (
        ["inspect", "empty"],
        ["explain", "empty", "x"],
        ["evaluate", "empty", "-d", demo.EVALUATION],
        ["diff", "empty", demo.MODEL],
    ):
        refused(*words, says=["empty", "qcompiler compile"])
    (folder / "empty" / "report.json").write_text("{")
    refused("inspect", "empty", says=["report.json"])
    (folder / "empty" / "report.json").write_text("{}")
    refused("inspect", "empty", says=["report.json"])


def test_an_unknown_node(folder: Path, compiled_demo: Path) -> None:
    refused("explain", compiled_demo, "stem/cov", says=["'stem/cov'", "did you mean 'stem/conv'"])
    refused("explain", compiled_demo, "xyz", says=["'xyz'", "qcompiler inspect"])


def test_unknown_targets_and_passes(folder: Path) -> None:
    refused("targets", "tensort", says=["did you mean 'tensorrt'"])
    refused("passes", "calbrate", says=["did you mean 'calibrate'"])


def test_evaluation_without_a_reference(folder: Path) -> None:
    refused("evaluate", demo.MODEL, "-d", demo.CALIBRATION, says=["--reference"])
    refused("evaluate", demo.MODEL, "-d", demo.EVALUATION, "--metric", "sqnr", says=["--reference"])
    refused("evaluate", demo.MODEL, "-d", demo.CALIBRATION, "--metric", "top1", says=["labels"])


def test_models_that_cannot_be_compared(folder: Path) -> None:
    Path("model.onnx").write_bytes(small_model().SerializeToString())
    refused("diff", demo.MODEL, "model.onnx", "-d", demo.CALIBRATION, says=["outputs", "logits"])


# -- weights -------------------------------------------------------------------------------------------------------


def weighted_model(weight: np.ndarray) -> onnx.ModelProto:
    model = small_model()
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(weight.astype(np.float32), "w"))
    return model


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite(folder: Path, bad: float) -> None:
    weight = np.ones((4, 3))
    weight[2, 1] = bad
    model_refused(weighted_model(weight), ["'w'", "dense", "[2, 1]", str(bad)])


@pytest.mark.parametrize(
    "weight",
    [
        np.zeros((4, 3)),
        np.broadcast_to([0.5, -2.0, 1e-3], (4, 3)),
        np.full((4, 3), 1e-38),
        np.full((4, 3), 1e-45),
        np.full((4, 3), 3e38),
        np.array([[1e-38, 1.0, 0.0]] * 4),
    ],
    ids=["zero", "constant", "small", "denormal", "large", "mixed"],
)
def test_odd_weights_give_scales_that_runtimes_take(folder: Path, weight: np.ndarray) -> None:
    Path("model.onnx").write_bytes(weighted_model(weight).SerializeToString())
    scale = 1e-3 if np.abs(weight).max() > 1e30 else 1.0
    data = data_file(x=(RNG.standard_normal((8, 4)) * scale).astype(np.float32))
    done = run_cli("compile", "model.onnx", "-t", "fast.toml", "-c", data, "-o", "out")
    if done.code:
        paragraph(done, ["w"])
        return
    found = scales("out/reference.onnx")
    assert found
    for name, array in found.items():
        assert np.isfinite(array).all(), name
        assert (array >= np.finfo(np.float32).tiny).all(), name


def scales(path: str) -> dict[str, np.ndarray]:
    graph = onnx.load(path).graph
    constants = {entry.name: numpy_helper.to_array(entry) for entry in graph.initializer}
    names = {node.input[1] for node in graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")}
    return {name: constants[name] for name in names}


def test_an_unexpected_error_is_called_a_bug(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qcompiler.compiler.compile", lambda *arguments, **keywords: {}["gone"])
    done = run_cli("compile", demo.MODEL, "-t", "fast.toml", "-o", "out")
    assert done.code == 1
    assert "This is a bug in qcompiler" in done.err
    assert "KeyError" in done.err
    assert "--debug" in done.err
    assert "Traceback" not in done.err
    done = run_cli("--debug", "compile", demo.MODEL, "-t", "fast.toml", "-o", "out")
    assert done.code == 1
    assert "Traceback" in done.err
    assert list(folder.iterdir()) == [folder / "fast.toml"]
