"""What users see of where operators run, and of files that are no ONNX: inspect, explain, the page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_runs import Run, run_cli

from qcompiler import demo

pytest.importorskip("ai_edge_litert")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo compiled for an accelerator, in a file that is no ONNX."""
    folder = tmp_path_factory.mktemp("accelerator") / "out"
    done = run_cli("compile", demo.MODEL, "-t", "edge-tpu", "-c", demo.CALIBRATION, "-o", folder)
    assert done.code == 0, done.err
    (folder.parent / "said.txt").write_text(done.out)
    return folder


@pytest.mark.slow
def test_compile_and_inspect_say_where_it_runs(out: Path, run: Run) -> None:
    partition = json.loads((out / "report.json").read_text())["artifact"]["details"]["partition"]
    fact = f"{partition['mapped']} of {len(partition['operators'])} operators"
    done = run("inspect", out)
    assert done.code == 0, done.err
    for said in ((out.parent / "said.txt").read_text(), done.out):
        assert fact in said
        assert "Where it runs" in said
        assert " ".join(partition["summary"].split()[:6]) in said
    assert "runs on" in done.out
    for operator in partition["operators"]:
        assert operator["op"] in done.out
        assert all(name in done.out for name in operator["nodes"][:1])
    page = (out / "report.html").read_text()
    assert '<section id="running">' in page


@pytest.mark.slow
def test_explain_says_where_a_node_runs(out: Path, run: Run) -> None:
    partition = json.loads((out / "report.json").read_text())["artifact"]["details"]["partition"]
    for node in ("stem/conv_bn", "reduce/conv", "head/dense"):
        done = run("explain", out, node)
        assert done.code == 0, done.err
        carried = [operator for operator in partition["operators"] if node in operator["nodes"]]
        assert carried
        for operator in carried:
            assert f"operator {operator['index']}, {operator['op']}" in done.out
            assert operator["status"] in done.out


@pytest.mark.slow
def test_inspect_the_file(out: Path, run: Run) -> None:
    done = run("inspect", out / "model.tflite")
    assert done.code == 0, done.err
    for text in (
        "image: int8[1,8,8,1]",
        "logits",
        "Constants",
        "DEPTHWISE_CONV_2D",
        "Where it runs",
        "runs on",
    ):
        assert text in done.out
    assert run("inspect", out / "model.tflite", "--full").out == done.out
    renamed = out.parent / "MODEL.TFLITE"
    renamed.write_bytes((out / "model.tflite").read_bytes())
    assert "logits" in run("inspect", renamed).out
    done = run("inspect", out / "model.tflite", "--html", out.parent / "page.html")
    assert done.code == 1
    assert done.err.startswith("Error: --html shows what came of a compilation")
    assert not (out.parent / "page.html").exists()


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("x.tflite", None, "x.tflite cannot be read: No such file"),
        ("x.tflite", b"", "x.tflite is no TensorFlow Lite model"),
        ("x.tflite", b"\x1c\0\0\0TFL3", "x.tflite cannot be read as a TensorFlow Lite model"),
        (
            "x.bin",
            b"\xff" * 40,
            "x.bin cannot be read as an ONNX model",
        ),
        ("x.onnx", b"\xff" * 40, "x.onnx cannot be read as an ONNX model"),
        ("x", None, "There is no model file at x"),
    ],
)
def test_what_cannot_be_inspected(
    folder: Path, run: Run, name: str, data: bytes | None, expected: str
) -> None:
    if data is not None:
        (folder / name).write_bytes(data)
    done = run("inspect", name)
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith(f"Error: {expected}")
    assert done.err.count("\n") == 1
    assert ("Files of other kinds that `inspect` shows end in .mlpackage, .tflite." in done.err) == (
        name == "x.bin"
    )
