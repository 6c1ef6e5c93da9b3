"""What users of TensorFlow Lite files do: compile, run the file in LiteRT, and be told what is wrong with models that have no such file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from cli_runs import Outcome, contents, run_cli
from numpy.typing import NDArray
from small_graphs import normal

from qcompiler import demo
from qcompiler.targets.edge_tpu.flatbuffer import read

pytest.importorskip("ai_edge_litert")

BUDGET_UNMET = 3
"""The exit code of what was written, but is not what was asked for."""


class File:
    """A file in LiteRT, as people run it: no part of the compiler is used."""

    def __init__(self, path: Path, *, reference: bool = False) -> None:
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

        kind = OpResolverType.BUILTIN_REF if reference else OpResolverType.AUTO
        self.inner = Interpreter(str(path), experimental_op_resolver_type=kind)
        self.inner.allocate_tensors()
        self.inputs = self.inner.get_input_details()
        self.outputs = self.inner.get_output_details()

    def run(self, *samples: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """The real numbers of the outputs for one sample of real numbers per input."""
        for details, sample in zip(self.inputs, samples, strict=True):
            self.inner.set_tensor(details["index"], quantized(sample, details))
        self.inner.invoke()
        return [dequantized(self.inner.get_tensor(details["index"]), details) for details in self.outputs]


def quantized(sample: NDArray[np.float32], details: dict[str, Any]) -> NDArray[Any]:
    scale, zero = details["quantization"]
    if details["dtype"] == np.float32:
        return sample.astype(np.float32)
    ends = np.iinfo(details["dtype"])
    return np.clip(np.rint(sample / scale) + zero, ends.min, ends.max).astype(details["dtype"])


def dequantized(codes: NDArray[Any], details: dict[str, Any]) -> NDArray[np.float32]:
    scale, zero = details["quantization"]
    return (codes.astype(np.float32) - zero) * np.float32(scale) if scale else codes.astype(np.float32)


# -- the demo -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Made:
    """A compiled model.

    Attributes:
        folder: What was written.
        done: What the command said.
    """

    folder: Path
    done: Outcome

    def report(self) -> dict[str, Any]:
        report: dict[str, Any] = json.loads((self.folder / "report.json").read_text())
        return report


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """The demo compiled once for the accelerator."""
    folder = tmp_path_factory.mktemp("demo") / "out"
    done = run_cli(
        "compile", demo.MODEL, "-t", "edge-tpu", "-c", demo.CALIBRATION, "-e", demo.EVALUATION, "-o", folder
    )
    assert done.code == 0, done.err
    return Made(folder, done)


def evaluation() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Images [samples, rows, columns, channels], and what they show."""
    data = np.load(demo.EVALUATION)
    return data["image"].transpose(0, 2, 3, 1), data["labels"]


def test_the_demo_in_litert_is_as_accurate_as_the_report_says(made: Made) -> None:
    """By the reference kernels to the sample; by the default ones, which round otherwise, nearly."""
    images, labels = evaluation()
    told = made.report()["metric"]
    assert told["artifact"] >= demo.TOP1 - 0.01
    for reference in (True, False):
        file = File(made.folder / "model.tflite", reference=reference)
        right = [
            file.run(image[None])[0].argmax() == label for image, label in zip(images, labels, strict=True)
        ]
        assert np.mean(right) == pytest.approx(told["artifact"], abs=0 if reference else 0.005)


def test_the_demo_takes_and_gives_bytes_in_the_order_of_cameras(made: Made) -> None:
    file = File(made.folder / "model.tflite")
    ((image,), (logits,)) = file.inputs, file.outputs
    assert (image["name"], image["dtype"], list(image["shape"])) == ("image", np.int8, [1, 8, 8, 1])
    assert (logits["name"], logits["dtype"], list(logits["shape"])) == ("logits", np.int8, [1, 10])


def test_the_demo_is_mapped_as_a_whole_and_the_next_step_is_told(made: Made) -> None:
    report = made.report()
    assert report["artifact"]["details"]["partition"]["whole"]
    assert report["verify"]["passed"]
    assert report["verify"]["details"]["reference kernels"]["differences"] == 0
    assert "edgetpu_compiler model.tflite" in made.done.out
    assert "operators are mapped, in one segment" in made.done.out
    assert report["size_bytes"]["compiled"] == (made.folder / "model.tflite").stat().st_size


def test_the_demo_gives_the_same_bytes_again(made: Made, tmp_path: Path) -> None:
    plan = made.folder / "plan.json"
    done = run_cli(
        "compile",
        demo.MODEL,
        "-t",
        "edge-tpu",
        "-c",
        demo.CALIBRATION,
        "--plan",
        plan,
        "-o",
        tmp_path / "out",
    )
    assert done.code == 0, done.err
    assert (tmp_path / "out" / "model.tflite").read_bytes() == (made.folder / "model.tflite").read_bytes()


@pytest.mark.parametrize("io", ["uint8", "float32"])
def test_the_demo_with_other_types_at_its_rim(made: Made, io: str, tmp_path: Path) -> None:
    """The same numbers as with int8."""
    done = run_cli(
        "compile", demo.MODEL, "-t", "edge-tpu", "-c", demo.CALIBRATION, "--io", io,
        "--plan", made.folder / "plan.json", "-o", tmp_path / "out",
    )  # fmt: skip
    assert done.code == 0, done.err
    images, _ = evaluation()
    file, own = (
        File(tmp_path / "out" / "model.tflite", reference=True),
        File(made.folder / "model.tflite", reference=True),
    )
    assert {details["dtype"] for details in (*file.inputs, *file.outputs)} == {np.dtype(io).type}
    for image in images[:8]:
        np.testing.assert_allclose(file.run(image[None])[0], own.run(image[None])[0], atol=1e-5)


@pytest.mark.parametrize(("weights", "kind"), [("w8", "INT8"), ("w4", "INT4")])
def test_the_demo_with_nothing_but_its_weights_quantized(weights: str, kind: str, tmp_path: Path) -> None:
    done = run_cli(
        "compile", demo.MODEL, "-t", "tflite", "-c", demo.CALIBRATION, "-e", demo.EVALUATION,
        "--option", f"assign_precision.prefer={weights}+float", "-o", tmp_path / "out",
    )  # fmt: skip
    assert done.code == 0, done.err
    file = read((tmp_path / "out" / "model.tflite").read_bytes())
    codes = [tensor for tensor in file.tensors if tensor.data is not None and tensor.quantization is not None]
    assert {tensor.type for tensor in codes} == {kind}
    assert [operator.op for operator in file.operators].count("DEQUANTIZE") == len(codes)
    images, labels = evaluation()
    run = File(tmp_path / "out" / "model.tflite")
    assert {details["dtype"] for details in (*run.inputs, *run.outputs)} == {np.float32}
    right = [run.run(image[None])[0].argmax() == label for image, label in zip(images, labels, strict=True)]
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert np.mean(right) == pytest.approx(report["metric"]["artifact"], abs=1e-6)
    assert np.mean(right) >= demo.TOP1 - 0.02


# -- models of users ------------------------------------------------------------------------------------------------


def model(text: str, **constants: Any) -> str:
    """Writes model.onnx."""
    parsed = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 21]> small {text}')
    for name, data in constants.items():
        parsed.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(data), name))
    Path("model.onnx").write_bytes(parsed.SerializeToString())
    return "model.onnx"


def data(**arrays: NDArray[Any]) -> str:
    np.savez("data.npz", **arrays)
    return "data.npz"


def compiled(*words: object, target: str = "tflite") -> Outcome:
    return run_cli("compile", "model.onnx", "-t", target, "-c", "data.npz", "-o", "out", *words)


def refused(*words: object, says: Sequence[str], target: str = "tflite") -> str:
    """Compiling has to fail with one paragraph, and leave nothing behind."""
    before = contents(Path.cwd())
    done = compiled(*words, target=target)
    assert contents(Path.cwd()) == before, "something was written"
    assert (done.code, done.out) == (1, ""), done
    text = done.err.removesuffix("\n")
    assert text.startswith("Error: ")
    assert "\n" not in text
    assert "a bug in qcompiler" not in text, text
    for word in says:
        assert word in text, f"{word!r} not in: {text}"
    return text


def close(expected: NDArray[Any], made: NDArray[Any], steps: float, scale: float) -> None:
    assert expected.shape == made.shape
    assert np.abs(expected - made).max() <= steps * scale


@pytest.mark.parametrize("target", ["tflite", "edge-tpu"])
def test_operators_without_a_form_are_listed_at_once(folder: Path, target: str) -> None:
    model(
        "(float[n,3,8,8] x) => (float y) { a = Conv(x, w) b = Mish(a) c = Relu(b) e = Erf(c) y = Div(e, c) }",
        w=normal(3, 3, 1, 1),
    )
    data(x=normal(8, 3, 8, 8))
    refused(
        target=target,
        says=[
            target,
            "3 of 5 regions",
            "Mish:b (Mish)",
            "Erf:e (Erf)",
            "Div:y (Div)",
            "Replace these operators",
        ],
    )


def test_operators_that_the_file_has_with_other_attributes_only(folder: Path) -> None:
    data(x=normal(8, 3, 8, 8))
    model("(float[n,3,8,8] x) => (float y) { y = AveragePool<kernel_shape=[2,2], pads=[1,1,1,1]>(x) }")
    refused(says=["AveragePool:y: means over windows that reach (1, 1, 1, 1)", "pad the image"])
    model("(float[n,3,8,8] x) => (int64 y) { y = ArgMax<axis=1, select_last_index=1>(x) }")
    refused(says=["ArgMax:y: ArgMax of the last index"])
    model("(float[n,3,8,8] x) => (float y) { y = Pad(x, pads) }", pads=np.array([0, 0, -1, 0, 0, 0, 0, 0]))
    refused(says=["Pad:y", "negative", "use Slice"])


@pytest.mark.parametrize("target", ["tflite", "edge-tpu"])
def test_open_dimensions_are_named_with_the_option_that_fixes_them(folder: Path, target: str) -> None:
    model(
        "(float[n,3,rows,columns] image) => (float y) { c = Conv(image, w) y = GlobalAveragePool(c) }",
        w=normal(4, 3, 3, 3),
    )
    data(image=normal(8, 3, 6, 9))
    refused(target=target, says=["Dimension 2 (rows)", "'image'", "--dimension image:2=SIZE"])
    refused(
        "--dimension", "rows=6", target=target, says=["Dimension 3 (columns)", "--dimension image:3=SIZE"]
    )
    done = compiled("--dimension", "rows=6", "--dimension", "image:3=9", target=target)
    assert done.code == 0, done.err
    (image,) = File(Path("out/model.tflite")).inputs
    assert sorted(image["shape"]) == [1, 3, 6, 9]


@pytest.mark.parametrize(
    ("rank", "body", "says"),
    [
        (7, "y = Add(x, k)", ["Add:y", "7 dimensions", "6 at most"]),
        (9, "y = Relu(x)", ["RELU", "'y'", "9 dimensions", "8 at most"]),
        (6, "y = Pad(x, p)", ["PAD", "'y'", "6 dimensions", "5 at most"]),
        (6, "t = Transpose<perm=[0,1,2,3,5,4]>(x) y = MatMul(x, t)", ["BATCH_MATMUL", "'y'", "6 dimensions", "5 at most"]),
    ],
)  # fmt: skip
def test_too_many_dimensions(folder: Path, rank: int, body: str, says: list[str]) -> None:
    shape = (2, 1, 2, 3, 1, 2, 1, 3)[: rank - 1]
    pads = np.zeros(12, np.int64)
    pads[[1, 11]] = 1
    model(f"(float[n,{','.join(map(str, shape))}] x) => (float y) {{ {body} }}", k=normal(*shape), p=pads)
    data(x=normal(8, *shape))
    refused(says=says)


def test_many_dimensions_that_move_only(folder: Path) -> None:
    """What is merged does not count."""
    model("(float[n,2,3,2,3,2,2] x) => (float y) { y = Transpose<perm=[0,1,3,2,4,5,6]>(x) }")
    samples = normal(8, 2, 3, 2, 3, 2, 2)
    data(x=samples)
    assert compiled().code == 0
    file = File(Path("out/model.tflite"))
    ((made,),) = [file.run(samples[:1])]
    close(samples[:1].transpose(0, 1, 3, 2, 4, 5, 6), made, 0.51, file.outputs[0]["quantization"][0])


def test_inputs_that_are_integers(folder: Path) -> None:
    indices = np.random.default_rng(0).integers(0, 11, (8, 5))
    model("(int64[n,5] words) => (float y) { e = Gather(table, words) y = Relu(e) }", table=normal(11, 4))
    data(words=indices)
    refused(says=["Gather:e", "(table) is a constant"])
    model("(float[n,5] x, int64[n,5] words) => (float y) { c = Cast<to=1>(words) y = Add(x, c) }")
    data(words=indices, x=normal(8, 5))
    refused(says=["Cast:c", "no kernel covers it"])
    model("(int32[n,5] count) => (int32 y) { y = Add(count, count) }")
    data(count=indices.astype(np.int32))
    refused(says=["Add:y", "(count) holds int32, not floats"])


SHARED = {
    "weight and summand": ("(float[1,4] x) => (float y) { a = MatMul(x, w) y = Add(a, w) }", {"w": normal(4, 4)}, (4,)),
    "bias and factor": ("(float[n,4] x) => (float y) { a = Gemm(x, w, b) c = Mul(a, b) y = Gemm(c, w) }", {"w": normal(4, 4), "b": normal(4)}, (4,)),
    "summand and factor": ("(float[n,4,5,5] x) => (float y) { a = Conv(x, w) c = Add(a, b) d = Relu(x) e = Mul(d, b) y = Add(c, e) }", {"w": normal(4, 4, 1, 1), "b": normal(4, 1, 1)}, (4, 5, 5)),
    "weights of two layers": ("(float[n,4,5,5] x) => (float y) { a = Conv(x, w) y = Conv(a, w) }", {"w": normal(4, 4, 2, 2)}, (4, 5, 5)),
    "shape and weight of another": ("(float[n,4] x) => (float y) { a = MatMul(x, w) b = Reshape(w, s) c = ReduceMax<keepdims=0>(b, one) y = Add(a, c) }", {"w": normal(4, 4), "s": np.array([4, 4]), "one": np.array([1])}, (4,)),
}  # fmt: skip


@pytest.mark.parametrize("case", SHARED)
def test_constants_that_are_several_things(folder: Path, case: str) -> None:
    """Every use has the codes and the scale that it needs."""
    text, constants, shape = SHARED[case]
    model(text, **constants)
    samples = normal(16, *shape)
    data(x=samples)
    done = compiled()
    assert done.code == 0, done.err
    report = json.loads(Path("out/report.json").read_text())
    assert report["verify"]["details"]["reference kernels"]["differences"] == 0
    assert report["metric"]["against_float"]["artifact"]["sqnr_db"] > 25


def test_outputs_that_are_inputs_and_outputs_that_are_the_same(folder: Path) -> None:
    model("(float[n,4] x) => (float same, float flat, float twice, float other) { same = Identity(x) flat = Flatten(x) r = Relu(x) twice = Identity(r) other = Flatten(r) }")  # fmt: skip
    samples = normal(8, 4)
    data(x=samples)
    done = compiled()
    assert done.code == 0, done.err
    file = File(Path("out/model.tflite"))
    assert [details["name"] for details in file.outputs] == ["same", "flat", "twice", "other"]
    results = file.run(samples[:1])
    for result, right in zip(results, [samples[:1]] * 2 + [np.maximum(samples[:1], 0)] * 2, strict=True):
        assert np.abs(result - right).max() < 0.05


def test_a_single_number(folder: Path) -> None:
    model("(float[1,4] x) => (float y) { y = ReduceMean<keepdims=0>(x) }")
    data(x=normal(8, 4))
    done = compiled()
    assert done.code == 0, done.err
    (number,) = File(Path("out/model.tflite")).outputs
    assert list(number["shape"]) == []


def test_names_that_steps_between_would_have(folder: Path) -> None:
    """Values may be called what the writer calls its own tensors, and anything else."""
    model(
        '(float[n,3,8,8] "x") => (float y) { c = Conv<pads=[2,0,1,1]>(x, w, b) y = Relu(c) }'.replace(
            '"x"', "x"
        ),
        w=normal(4, 3, 3, 3),
        b=normal(4),
    )
    proto = onnx.load("model.onnx")
    for old, new in {"c": "x.padded", "y": "Überschrift / 1:0", "w": "x.view"}.items():
        for node in proto.graph.node:
            node.input[:] = [new if name == old else name for name in node.input]
            node.output[:] = [new if name == old else name for name in node.output]
        for value in (*proto.graph.output, *proto.graph.initializer):
            value.name = new if value.name == old else value.name
    onnx.save(proto, "model.onnx")
    data(x=normal(8, 3, 8, 8))
    done = compiled()
    assert done.code == 0, done.err
    file = File(Path("out/model.tflite"))
    assert file.outputs[0]["name"] == "Überschrift / 1:0"
    names = [item["name"] for item in file.inner.get_tensor_details()]
    assert len(names) == len(set(names))


# -- the accelerator ------------------------------------------------------------------------------------------------


def test_a_model_that_the_accelerator_would_not_run(folder: Path) -> None:
    """It is written, for it may be wanted all the same; the exit code says that it is not what was asked for."""
    model("(float[n,4,6,6] x) => (float y) { a = Log(x) y = Exp(a) }")
    data(x=np.abs(normal(8, 4, 6, 6)) + 0.5)
    done = compiled(target="edge-tpu")
    assert done.code == BUDGET_UNMET
    report = json.loads(Path("out/report.json").read_text())
    assert any("--allow-cpu" in reason for reason in report["budget"]["unmet"])
    assert compiled("--allow-cpu", "--force", target="edge-tpu").code == 0
    assert compiled("--force", target="tflite").code == 0


def test_what_stays_on_the_host_is_told_with_the_reason(folder: Path) -> None:
    model(
        "(float[n,4,6,6] x) => (float y) { c = Conv(x, w) s = Softmax<axis=1>(c) y = Relu(s) }",
        w=normal(4, 4, 3, 3),
    )
    data(x=normal(8, 4, 6, 6))
    done = compiled(target="edge-tpu")
    assert done.code == 0, done.err
    found = json.loads(Path("out/report.json").read_text())["artifact"]["details"]["partition"]
    (softmax,) = (entry for entry in found["operators"] if entry["op"] == "SOFTMAX")
    assert not softmax["mapped"]
    assert "rows" in softmax["rule"]
    assert softmax["nodes"] == ["Softmax:s"]
    assert "SOFTMAX" in done.out


def test_a_rim_that_is_not_offered(folder: Path) -> None:
    model("(float[n,4] x) => (float y) { y = Relu(x) }")
    data(x=normal(8, 4))
    refused("--io", "int4", target="edge-tpu", says=["--io int4", "int8, uint8, float32"])


# -- the folder -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("failing", ["write", "check", "partition"])
def test_nothing_is_left_half_written(folder: Path, monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    """Whatever fails late, the folder does not appear, and one that was there stays as it was."""
    model("(float[n,4] x) => (float y) { y = Relu(x) }")
    data(x=normal(8, 4))
    assert compiled(target="edge-tpu").code == 0
    before = contents(folder)

    def fail(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(f"qcompiler.targets.edge_tpu.lower.{failing}", fail)
    done = compiled("--force", target="edge-tpu")
    assert done.code == 1
    assert contents(folder) == before
    assert run_cli("compile", "model.onnx", "-t", "edge-tpu", "-c", "data.npz", "-o", "deep/er/out").code == 1
    assert contents(folder) == before


def test_a_device_that_is_not_there(folder: Path) -> None:
    model("(float[n,4] x) => (float y) { y = Relu(x) }")
    data(x=normal(8, 4))
    refused(target="edge-tpu:corral", says=["corral", "did you mean 'coral'"])
