"""What users of the Hexagon target do: compile, run the model through onnxruntime's QNN provider, and be told what cannot be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
from cli_runs import Outcome, contents, run_cli
from numpy.typing import NDArray
from small_graphs import normal

from qcompiler import demo
from qcompiler.targets.hexagon import htp
from qcompiler.targets.hexagon.worker import Job

LACKING = htp.missing()
needs_library = pytest.mark.skipif(LACKING is not None, reason=str(LACKING))


def compiled(*words: object, target: str = "hexagon") -> Outcome:
    return run_cli("compile", "model.onnx", "-t", target, "-c", "data.npz", "-o", "out", *words)


def refused(*words: object, target: str = "hexagon", says: tuple[str, ...]) -> None:
    """It ends with 1 and a paragraph, and nothing is written."""
    done = compiled(*words, target=target)
    assert done.code == 1, done.out
    said = " ".join(done.err.split())
    for part in says:
        assert part in said
    assert not Path("out").exists()


def model(text: str, **constants: Any) -> None:
    proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 21]> small {text}')
    for name, array in constants.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
    onnx.save(proto, "model.onnx")


def data(**arrays: NDArray[Any]) -> None:
    np.savez("data.npz", **arrays)


def report() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path("out/report.json").read_text())
    return found


def run_in_onnxruntime(path: Path, name: str, sample: NDArray[np.float32]) -> NDArray[Any]:
    """By the book: no part of the compiler is used."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    result: NDArray[Any] = session.run(None, {name: sample})[0]
    return result


# -- the demo ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["sm8550", "qcs6490"])
def test_the_demo(device: str, folder: Path) -> None:
    done = run_cli(
        "compile", demo.MODEL, "-t", f"hexagon:{device}", "-c", demo.CALIBRATION, "-e", demo.EVALUATION, "-o", "out",
    )  # fmt: skip
    assert done.code == 0, done.err
    found = report()
    assert found["metric"]["artifact"] >= demo.TOP1 - 0.005
    names = {path.name for path in Path("out").iterdir()}
    assert {"model.onnx", "float.onnx", "encodings.json", "convert.sh"} <= names
    verify = found["verify"]
    assert verify["passed"]
    assert verify["ran"] == (LACKING is None)
    if LACKING is None:
        assert verify["details"]["float_operators"] == []
        assert verify["details"]["samples"] == 400
        assert "every node runs on the HTP" in done.out.replace("\n", " ")
    with np.load(demo.EVALUATION) as arrays:
        images, labels = arrays["image"][:100], arrays["labels"][:100]
    right = [
        run_in_onnxruntime(Path("out/model.onnx"), "image", image[None]).argmax() == label
        for image, label in zip(images, labels, strict=True)
    ]
    assert np.mean(right) > 0.95
    explained = run_cli("explain", "out", "stem/conv")
    assert "a8w8" in explained.out


@needs_library
def test_a_context_binary(folder: Path) -> None:
    """It is made for the device, loads in the model's place, and computes the same."""
    words = ["compile", demo.MODEL, "-t", "hexagon:sm8650", "-c", demo.CALIBRATION, "-o", "out"]
    done = run_cli(*words, "--target-option", "context=yes")
    assert done.code == 0, done.err
    (node,) = (node for node in onnx.load("out/context.onnx").graph.node if node.domain == "com.microsoft")
    assert node.op_type == "EPContext"
    with np.load(demo.EVALUATION) as arrays:
        sample = {"image": arrays["image"][:1]}
    with htp.HtpLibrary() as library:
        model = library.prepare(Path("out/model.onnx"), 57)
        expected = library.run(model, sample)["logits"]
        answer = library._ask(Job(str(Path("out/context.onnx").resolve()), 57, str(folder)))
        assert answer.error == ""
        (made,) = library._ask(sample)
        np.testing.assert_array_equal(made, expected)


def test_the_same_twice(folder: Path) -> None:
    for place in ("one", "two"):
        done = run_cli("compile", demo.MODEL, "-t", "hexagon", "-c", demo.CALIBRATION, "-o", place)
        assert done.code == 0, done.err
    names = [path.name for path in Path("one").iterdir() if not path.name.startswith("report.")]
    for name in names:
        assert Path("one", name).read_bytes() == Path("two", name).read_bytes(), name


# -- without the library -------------------------------------------------------------------------------------------


def test_without_the_library_the_rules_are_checked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(htp, "missing", lambda: "onnxruntime-qnn is not installed")
    model("(float[1,8] x) => (float[1,5] y) { y = Gemm(x, w, b) }", w=normal(8, 5), b=normal(5))
    data(x=normal(24, 8))
    done = compiled()
    assert done.code == 0, done.err
    verify = report()["verify"]
    assert (verify["ran"], verify["passed"], verify["consumer"]) == (False, True, "static rules")
    assert "not installed" in verify["summary"]
    assert "complete without it" in verify["summary"]
    done = compiled("--force", "--target-option", "context=yes")
    assert done.code == 1
    assert "cannot be used: onnxruntime-qnn is not installed" in done.err


@pytest.mark.parametrize(
    ("versions", "glibc", "says"),
    [
        ({"onnxruntime-qnn": "2.3.0", "onnxruntime": "1.32.0"}, "2.36", "onnxruntime-qnn 2.3.0 is too old"),
        ({"onnxruntime-qnn": "2.7.0", "onnxruntime": "1.20.1"}, "2.36", "onnxruntime 1.20.1 is too old"),
        ({"onnxruntime-qnn": "2.10.0", "onnxruntime": "1.32.0"}, "2.31", "glibc 2.31 is too old"),
        ({"onnxruntime": "1.32.0"}, "2.36", "qcompiler[hexagon]"),
        ({"onnxruntime-qnn": "2.10.0", "onnxruntime": "1.24.2"}, None, ""),
    ],
)
def test_what_is_too_old(
    versions: dict[str, str], glibc: str | None, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def version(package: str) -> str:
        if package not in versions:
            raise htp.importlib.metadata.PackageNotFoundError(package)
        return versions[package]

    monkeypatch.setattr(htp.importlib.metadata, "version", version)
    monkeypatch.setattr(htp, "_glibc", lambda: glibc)
    assert (says in (htp.missing() or "")) if says else htp.missing() is None


@needs_library
def test_a_process_that_ends(tmp_path: Path) -> None:
    """Whatever becomes of the library, the compiler says so."""
    from qcompiler.errors import TargetError

    with htp.HtpLibrary() as library:
        library._process.kill()
        with pytest.raises(TargetError, match="did not survive"):
            library.prepare(demo.MODEL, 43)


@needs_library
def test_the_library_gives_its_reasons(folder: Path) -> None:
    from qcompiler.errors import TargetError

    model("(float[1,8] x) => (float[1,8] y) { y = Tanh(x) }")
    with htp.HtpLibrary() as library:
        with pytest.raises(TargetError, match=r"(?s)does not take digits.onnx:.*Cannot get shape"):
            library.prepare(demo.MODEL, 43)
        with pytest.raises(TargetError, match=r"(?s)does not take model.onnx:.*doesn't support FP16"):
            library.prepare(Path("model.onnx"), 93)


# -- models that cannot be -----------------------------------------------------------------------------------------


def test_open_dimensions(folder: Path) -> None:
    """A batch becomes 1; any other size has to be given."""
    model("(float[batch,4,height,6] x) => (float[batch,4,h,6] y) { y = Relu(x) }")
    data(x=normal(8, 4, 5, 6))
    refused(says=("static shapes", "dimension 2", "height", "--dimension x:2=SIZE"))
    done = compiled("--dimension", "height=5")
    assert done.code == 0, done.err
    assert report()["artifact"]["details"]["batch_made_1"]
    done = compiled("--dimension", "height=5", "--dimension", "batch=4", "--force")
    assert done.code == 0, done.err
    dims = onnx.load("out/model.onnx").graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_value for dim in dims] == [4, 4, 5, 6]


def test_floats_on_a_part_without(folder: Path) -> None:
    model("(float[1,8] x) => (float[1,8] y) { a = Mish(x) y = Selu(a) }")
    data(x=normal(24, 8))
    refused(
        target="hexagon:qcs6490",
        says=("can leave nothing in floats", "Mish:a", "Selu:y", "HardSwish, Swish or Gelu", "sm8550"),
    )
    done = compiled()
    assert done.code == 0, done.err


def test_rows_that_an_architecture_lacks(folder: Path) -> None:
    """They are not taken where they are preferred, with the reason; a plan of another part is not applied."""
    model("(float[2,6,8] x, float[2,8,5] z) => (float[2,6,5] y) { y = MatMul(x, z) }")
    data(x=normal(24, 6, 8), z=normal(24, 8, 5))
    prefer = ("--option", "assign_precision.prefer=a16")
    assert compiled(*prefer).code == 0
    Path("out/plan.json").rename("plan.json")
    done = compiled(*prefer, "--force", target="hexagon:qcs6490")
    assert done.code == 0, done.err
    explained = run_cli("explain", "out", "MatMul:y").out
    assert "qcs6490 (v68): no products of 16-bit activations" in " ".join(explained.split())
    done = compiled("--plan", "plan.json", "--force", target="hexagon:qcs6490")
    assert done.code == 1
    assert "is for the target hexagon:sm8550" in " ".join(done.err.split())


def test_options_that_are_not_there(folder: Path) -> None:
    model("(float[1,8] x) => (float[1,8] y) { y = Relu(x) }")
    data(x=normal(24, 8))
    refused("--target-option", "encodings=3", says=("encodings=3", "1.0.0, 0.6.1, 2.0.0"))
    refused("--target-option", "codings=1.0.0", says=("no such option", "did you mean 'encodings'"))
    refused("--target-option", "encodings", says=("NAME=VALUE",))
    refused(target="hexagon:sm8551", says=("sm8551", "did you mean"))


def test_nothing_is_left_half_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model("(float[1,8] x) => (float[1,8] y) { y = Relu(x) }")
    data(x=normal(24, 8))
    assert compiled().code == 0
    before = contents(folder)

    def fail(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("qcompiler.targets.hexagon.lower.encodings_table", fail)
    assert compiled("--force").code == 1
    assert contents(folder) == before
