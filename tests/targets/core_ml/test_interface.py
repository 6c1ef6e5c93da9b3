"""What people see of a package: images and labels of classes, read back from its file and run, and what cannot be one."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from packages import write
from small_graphs import graph_of, normal

import qcompiler as qc
from qcompiler.data import DataSource
from qcompiler.errors import DataError, OptionError
from qcompiler.ir.graph import Graph
from qcompiler.lowering import VerifyJob
from qcompiler.runtime import Session
from qcompiler.targets import find_target
from qcompiler.targets.core_ml.evaluate import Evaluator
from qcompiler.targets.core_ml.float_types import FloatTypes
from qcompiler.targets.core_ml.image_inputs import check_data, images_of
from qcompiler.targets.core_ml.interface import interface_of
from qcompiler.targets.core_ml.lower import check_options, contents
from qcompiler.targets.core_ml.pixels import Rounding
from qcompiler.targets.core_ml.verify import PackageRunner

ct = pytest.importorskip("coremltools")

COLOURED = "(float[1,3,6,5] x, float[1,4] m) => (float y, float[1,4] n) { y = Neg(x) n = Neg(m) }"
GREY = "(float[1,1,6,5] x) => (float y) { y = Neg(x) }"
CLASSES = "(float[1,3,4,4] x) => (float[1,5] y) { c = Conv(x, w, b) p = GlobalAveragePool(c) f = Flatten(p) y = Softmax(f) }"
WEIGHTS = {"w": normal(5, 3, 3, 3) / 8, "b": normal(5)}
LABELS = ("cat", "dog", "Käfer", "dog 2", "eel")
RNG = np.random.default_rng(5)


def pixels(*shape: int) -> NDArray[np.float32]:
    return RNG.integers(0, 256, shape).astype(np.float32)


# -- images ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("floats", ["float32", "float16"])
@pytest.mark.parametrize(
    ("layout", "given", "scale", "bias"),
    [
        ("rgb", {"scale": "0.0171,0.0175,0.0174", "bias": "-2.1,-2.04,-1.8"}, (0.0171, 0.0175, 0.0174), (-2.1, -2.04, -1.8)),
        ("bgr", {"scale": "1/127.5", "bias": "-1"}, (1 / 127.5,), (-1,)),
        ("rgb", {}, (1,), (0,)),
        ("grayscale", {"bias": "-128"}, (1,), (-128,)),
        ("grayscale16", {"scale": "2"}, (2,), (0,)),
    ],
)  # fmt: skip
def test_pixels_become_the_numbers_that_were_asked_for(
    layout: str, given: dict[str, str], scale: tuple[float], bias: tuple[float], floats: str, tmp_path: Path
) -> None:
    grey = "gray" in layout
    graph = graph_of(GREY if grey else COLOURED, {})
    interface = interface_of(graph, {"image": layout, **given}, "float16")
    written = write(graph, tmp_path, floats=floats, interface=interface)
    (port, *others) = written.package.specification.description.input
    kinds = ct.proto.FeatureTypes_pb2.ImageFeatureType.ColorSpace
    space = kinds.Name(port.type.imageType.colorSpace)
    assert space == {"grayscale16": "GRAYSCALE_FLOAT16"}.get(layout, layout.upper())
    assert (port.type.imageType.height, port.type.imageType.width) == (6, 5)
    assert all(other.type.WhichOneof("Type") == "multiArrayType" for other in others)
    types = ct.converters.mil.mil.types
    wanted = types.fp16 if layout == "grayscale16" else types.fp32
    assert written.package.function.inputs["x"].dtype == wanted
    shown = pixels(1, 1 if grey else 3, 6, 5)
    made = Evaluator(written.package).run({"x": shown} | ({} if grey else {"m": normal(1, 4)}))["y"]
    column = (np.float32(numbers).reshape(-1, 1, 1) for numbers in (scale, bias))
    expected = shown * next(column) + next(column)
    np.testing.assert_allclose(-made, expected, rtol=1e-3, atol=1e-3 if floats == "float16" else 0)
    image = interface.images["x"]
    np.testing.assert_array_equal(image.numbers(shown), expected)
    np.testing.assert_array_equal(image.rounded(image.steps(expected)), shown)


def test_what_is_no_pixel_is_rounded_to_the_nearest() -> None:
    image = images_of(graph_of(GREY, {}), {"image": "grayscale", "scale": "0.5"})["x"]
    steps = image.steps(np.float32([[-4.0, 0.2, 0.3, 127.5, 130.0]]))
    np.testing.assert_array_equal(image.rounded(steps), [[0, 0, 1, 255, 255]])
    found = Rounding()
    found.add(steps, image.rounded(steps))
    assert (found.least, found.most, found.worst) == (-8, 260, 8)
    assert found.mean == pytest.approx((8 + 0.4 + 0.4 + 0 + 5) / 5)


@pytest.mark.parametrize(
    ("numbers", "layout", "given", "fits"),
    [
        (pixels(8, 1, 6, 5), "grayscale", {}, True),
        (pixels(8, 1, 6, 5) / 255, "grayscale", {"scale": "1/255"}, True),
        (pixels(8, 1, 6, 5) / 255, "grayscale", {}, False),
        (pixels(8, 1, 6, 5) / 255, "grayscale16", {}, True),
        (pixels(8, 1, 6, 5) * 1e3, "grayscale16", {}, False),
        (pixels(8, 1, 6, 5) + normal(8, 1, 6, 5), "grayscale", {}, True),  # resized, say
        (pixels(8, 1, 6, 5) - 128, "grayscale", {}, False),
        (pixels(8, 1, 6, 5) - 128, "grayscale", {"bias": "-128"}, True),
        (np.full((8, 1, 6, 5), 0.5, np.float32), "grayscale", {}, False),
        (np.full((8, 1, 6, 5), 7, np.float32), "grayscale", {}, True),
    ],
)
def test_data_that_no_image_gives_are_refused(
    numbers: NDArray[np.float32], layout: str, given: dict[str, str], fits: bool
) -> None:
    graph = graph_of(GREY, {})
    data = DataSource.open({"x": numbers.astype(np.float32)}).validate(graph)
    images = images_of(graph, {"image": layout, **given})
    if fits:
        check_data(images, [data])
        return
    with pytest.raises(
        DataError, match=r"cannot be what an image gives at the input 'x': .*Give the scale and the bias"
    ):
        check_data(images, [data])


def test_pictures_are_in_the_order_that_core_ml_reads() -> None:
    pytest.importorskip("PIL")
    shown = pixels(1, 3, 6, 5)
    for layout, planes in (("rgb", shown[0]), ("bgr", shown[0, ::-1])):
        picture = images_of(graph_of(COLOURED, {}), {"image": layout})["x"].picture(shown)
        assert (picture.mode, picture.size) == ("RGB", (5, 6))
        np.testing.assert_array_equal(np.asarray(picture), planes.transpose(1, 2, 0))
    for layout, mode in (("grayscale", "L"), ("grayscale16", "F")):
        picture = images_of(graph_of(GREY, {}), {"image": layout})["x"].picture(shown[:, :1])
        assert picture.mode == mode
        np.testing.assert_array_equal(np.asarray(picture), shown[0, 0])


@pytest.mark.parametrize(
    ("text", "options", "says"),
    [
        (COLOURED, {"scale": "1"}, "scale is for inputs that are images"),
        (COLOURED, {"image-input": "x"}, "image-input is for inputs that are images"),
        (COLOURED, {"image": "rgb", "image-input": "x, z"}, "image-input=z: the model has no such input"),
        (COLOURED, {"image": "grayscale"}, r"no input has the shape \[1, 1, height, width\].*x: float32\[1,3,6,5\], m: float32\[1,4\]"),
        (COLOURED, {"image": "rgb", "image-input": "m"}, r"'m' is float32\[1,4\], and an image is \[1, 3, height, width\]"),
        (COLOURED, {"image": "rgb", "scale": "0"}, "with a scale of 0 all pixels are the same"),
        (COLOURED, {"image": "rgb", "scale": "1,2"}, "scale=1,2: rgb images take one finite number.* 3 channels, and these are 2"),
        (COLOURED, {"image": "rgb", "bias": "a"}, "bias=a cannot be read; give a number"),
        (COLOURED, {"image": "rgb", "scale": "1/0"}, "scale=1/0 cannot be read"),
        (COLOURED, {"image": "rgb", "bias": "inf"}, "bias=inf: rgb images take one finite number"),
        (COLOURED, {"image": "rgb", "scale": "1e60"}, "scale=1e60: rgb images take one finite number"),
        (COLOURED, {"image": "rgb", "scale": "1e-60"}, "with a scale of 0 all pixels are the same"),
        ("(float[1,3,6,5] a, float[1,3,6,5] b) => (float y) { y = Add(a, b) }", {"image": "rgb"}, "a, b can each be such an image; name one"),
        ("(int32[1,3,6,5] a) => (int32 y) { y = Neg(a) }", {"image": "rgb"}, "'a' holds int32, and pixels become floats"),
        ("(float[4,3,6,5] a) => (float y) { y = Neg(a) }", {"image": "rgb"}, "one image at a time: export the model for a batch of 1"),
        ("(float[n,3,6,5] a) => (float y) { y = Neg(a) }", {"image": "bgr"}, "one image at a time: fix the batch with --dimension n=1"),
        (COLOURED, {"largest-size": "0"}, "largest-size=0 cannot be read; give a whole number from 1 on"),
        (COLOURED, {"largest-size": "-5"}, "largest-size=-5 cannot be read"),
        (COLOURED, {"largest-size": "a"}, "largest-size=a cannot be read"),
    ],
)  # fmt: skip
def test_what_cannot_be_an_image(text: str, options: dict[str, str], says: str) -> None:
    with pytest.raises(OptionError, match=says):
        check_options(graph_of(text, {}), options, [])


def test_several_images_share_what_is_said_of_them() -> None:
    graph = graph_of("(float[1,3,6,5] a, float[1,3,6,5] b) => (float y) { y = Add(a, b) }", {})
    images = images_of(graph, {"image": "rgb", "image-input": "a,b", "scale": "2"})
    assert list(images) == ["a", "b"]
    assert images["a"] == images["b"]


# -- open dimensions ------------------------------------------------------------------------------------------------


def test_images_of_open_sizes(tmp_path: Path) -> None:
    graph = graph_of("(float[1,3,high,wide] x) => (float y) { y = Conv(x, w) }", {"w": normal(4, 3, 3, 3)})
    given = {"image": "rgb", "scale": "1/255", "largest-size": "96"}
    written = write(graph, tmp_path, interface=interface_of(graph, given))
    image = written.package.specification.description.input[0].type.imageType
    assert (image.height, image.width) == (96, 96)
    sizes = image.imageSizeRange.heightRange, image.imageSizeRange.widthRange
    assert [(size.lowerBound, size.upperBound) for size in sizes] == [(1, 96), (1, 96)]
    evaluator, session = Evaluator(written.package), Session(graph)
    for high, wide in ((96, 40), (7, 9)):
        shown = pixels(1, 3, high, wide)
        expected = session.run({"x": shown / np.float32(255)})["y"]
        np.testing.assert_allclose(evaluator.run({"x": shown})["y"], expected, rtol=1e-4, atol=1e-4)


def test_how_far_open_dimensions_reach(tmp_path: Path) -> None:
    graph = graph_of("(float[batch,4,length] x) => (float y) { y = Neg(x) }", {})
    for given, most in ({}, 64), ({"largest-size": "512"}, 512):
        written = write(graph, tmp_path / str(most), interface=interface_of(graph, given))
        array = written.package.specification.description.input[0].type.multiArrayType
        ranges = [(size.lowerBound, size.upperBound) for size in array.shapeRange.sizeRanges]
        assert ranges == [(1, most), (4, 4), (1, most)]


@pytest.mark.parametrize(
    ("text", "shape", "given", "axis"),
    [
        ("(float[batch,4,length] x) => (float y) { y = Neg(x) }", (200, 4, 64), {}, None),
        ("(float[batch,4,length] x) => (float y) { y = Neg(x) }", (3, 4, 65), {}, 2),
        ("(float[batch,4,length] x) => (float y) { y = Neg(x) }", (3, 4, 65), {"largest-size": "65"}, None),
        ("(float[length,4] x) => (float y) { y = Neg(x) }", (3, 65, 4), {}, 0),
        ("(float[length,4] x) => (float y) { y = Neg(x) }", (300, 4), {}, None),
    ],
)
def test_data_beyond_them_are_refused(
    text: str, shape: tuple[int, ...], given: dict[str, str], axis: int | None
) -> None:
    graph = graph_of(text, {})
    data = DataSource.open({"x": np.zeros(shape, np.float32)}).validate(graph)
    if axis is None:
        check_options(graph, given, [data])
        return
    with pytest.raises(DataError, match=rf"^Samples of the given arrays are 65 long along axis {axis} of 'x'.*largest-size=65.*--dimension length=SIZE"):  # fmt: skip
        check_options(graph, given, [data])


# -- classes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("floats", "io"), [("float32", "float32"), ("float16", "float16")])
def test_a_classifier_gives_labels(floats: str, io: str, tmp_path: Path) -> None:
    graph = graph_of(CLASSES, WEIGHTS)
    plain = write(graph, tmp_path / "plain", floats=floats, io=io)
    interface = interface_of(graph, {"labels": "\n".join(LABELS) + "\n\n"}, io)
    written = write(graph, tmp_path / "classes", floats=floats, interface=interface)
    description = written.package.specification.description
    label, scores = description.output
    assert (label.name, label.type.WhichOneof("Type")) == ("classLabel", "stringType")
    assert (scores.name, scores.type.dictionaryType.WhichOneof("KeyType")) == ("classLabel_probs", "stringKeyType")  # fmt: skip
    assert description.predictedFeatureName == "classLabel"
    assert description.predictedProbabilitiesName == "classLabel_probs"
    for seed in range(3):
        x = np.random.default_rng(seed).normal(size=(1, 3, 4, 4)).astype(np.float32)
        expected = plain.outputs({"x": x})["y"][0]
        made = Evaluator(written.package).run({"x": x})
        assert made["classLabel"] == LABELS[int(expected.argmax())]
        assert list(made["classLabel_probs"]) == list(LABELS)
        np.testing.assert_allclose(list(made["classLabel_probs"].values()), expected, atol=1e-3)


@pytest.mark.parametrize(
    ("text", "options", "says"),
    [
        (CLASSES, {"labels": "a\nb"}, r"'y' is float32\[1,5\], which are 5 numbers, and the file has 2 labels"),
        (CLASSES, {"labels": "a\nb\n\nd\ne"}, "line 3 is empty"),
        (CLASSES, {"labels": "a\nb\nc\n b\ne"}, "line 4 is 'b', as line 2 is.*would be lost"),
        (CLASSES, {"labels": "a", "labels-output": "z"}, "labels-output=z: the model has no such output"),
        (CLASSES, {"labels-output": "y"}, "labels=FILE, which is not given"),
        (COLOURED, {"labels": "a"}, "the model has the outputs y, n; say which has the classes"),
        ("(float[n,4] x) => (float y) { y = Neg(x) }", {"labels": "a\nb"}, r"'y' is float32\[n,4\], .*of one sample: fix the batch with --dimension n=1"),
        ("(int32[1,4] x) => (int32 y) { y = Neg(x) }", {"labels": "a\nb\nc\nd"}, "and classes have floats"),
        ("(float[1,2] x) => (float[1,2] y) { classLabel = Neg(x) y = Neg(classLabel) }", {"labels": "a\nb"}, "has a value 'classLabel'.*rename it"),
    ],
)  # fmt: skip
def test_what_cannot_be_a_classifier(text: str, options: dict[str, str], says: str) -> None:
    graph = graph_of(text, WEIGHTS if text == CLASSES else {})
    with pytest.raises(OptionError, match=says):
        check_options(graph, options, [])


def test_one_output_of_several_has_the_classes(tmp_path: Path) -> None:
    graph = graph_of(COLOURED, {})
    interface = interface_of(graph, {"labels": "a\nb\nc\nd", "labels-output": "n"})
    written = write(graph, tmp_path, interface=interface)
    assert [port.name for port in written.package.specification.description.output] == [
        "classLabel",
        "classLabel_probs",
        "y",
    ]
    made = Evaluator(written.package).run({"x": pixels(1, 3, 6, 5), "m": np.float32([[3, 2, 1, 2]])})
    assert made["classLabel"] == "c"
    assert made["classLabel_probs"] == {"a": -3, "b": -2, "c": -1, "d": -2}


def test_shapes_that_passes_have_to_find_are_not_refused_early() -> None:
    graph = graph_of("(float[1,8] x, int64[2] s) => (float[a,b] y) { y = Reshape(x, s) }", {})
    check_options(graph, {"labels": "a\nb"}, [])
    with pytest.raises(OptionError, match="a classifier has one number per class"):
        interface_of(graph, {"labels": "a\nb"})


# -- verification ---------------------------------------------------------------------------------------------------

OPTIONS = {"image": "rgb", "scale": "1/64", "bias": "-2", "labels": "\n".join(LABELS)}


@pytest.fixture
def result(tmp_path: Path) -> qc.Result:
    path = tmp_path / "labels.txt"
    path.write_text(OPTIONS["labels"])
    data = {"x": pixels(24, 3, 4, 4) / 64 - 2}
    return qc.compile(
        graph_of(CLASSES, WEIGHTS), "core-ml:ios17", data, output=tmp_path / "out", float_format="float32",
        target_options={**OPTIONS, "labels": path, "author": "Ada"},
    )  # fmt: skip


def verified(
    result: qc.Result, written: Mapping[str, str] = OPTIONS, numbers: NDArray[Any] | None = None
) -> tuple[PackageRunner, Any]:
    """Verifies the package, or another one of the same graph, in place of what the options say."""
    assert result.output is not None
    target, graph = find_target("core-ml:ios17"), result.graph
    for name, data in contents(graph, FloatTypes(graph, "float32"), target, interface_of(graph, written)):
        (result.output / "model.mlpackage" / name).write_bytes(data)
    source = DataSource.open({"x": pixels(24, 3, 4, 4) / 64 - 2 if numbers is None else numbers})
    job = VerifyJob(result.output, None, graph, result.plan, target, source.validate(graph), {}, OPTIONS)
    runner = PackageRunner(job)
    assert sum(len(outputs["y"]) for outputs in runner.stream(source.validate(graph))) == 24
    return runner, runner.verification()


def test_a_compilation_with_images_and_labels_passes(result: qc.Result) -> None:
    found = result.verification
    assert found is not None
    assert found.passed, found.summary
    assert found.details["labels"]["compared"] == 24
    assert found.details["pixels"]["x"]["worst"] < 0.01
    assert "between pixels" not in found.summary
    assert "labels are the reference's" in found.summary


def test_data_between_pixels_are_told(result: qc.Result) -> None:
    _, found = verified(result, numbers=(pixels(24, 3, 4, 4) + np.float32(0.25)) / 64 - 2)
    assert found.passed, found.summary
    assert "the data of x lie between pixels" in found.summary
    assert found.details["pixels"]["x"]["mean"] == pytest.approx(0.25, abs=0.01)


@pytest.mark.parametrize(
    "changed",
    [
        {"scale": "1/16"},
        {"bias": "2"},
        {"labels": "\n".join((*LABELS[1:], LABELS[0]))},
    ],
)
def test_another_interface_than_planned_is_noticed(result: qc.Result, changed: dict[str, str]) -> None:
    _, found = verified(result, {**OPTIONS, **changed})
    assert not found.passed, found.summary


def test_without_data_random_pixels_are_shown(result: qc.Result) -> None:
    assert result.output is not None
    job = VerifyJob(
        result.output, None, result.graph, result.plan, find_target("core-ml:ios17"), None, {}, OPTIONS
    )
    found = PackageRunner(job).verification()
    assert found.passed, found.summary
    assert "between pixels" not in found.summary


@pytest.mark.parametrize("right", [True, False])
def test_core_ml_is_given_pictures(result: qc.Result, right: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("PIL")
    runner, _ = verified(result)
    shown = []

    class Model:
        def __init__(self, path: str) -> None:
            assert path.endswith("model.mlpackage")

        def predict(self, feeds: dict[str, Any]) -> dict[str, Any]:
            shown.append(feeds["x"])
            array = np.asarray(feeds["x"]).transpose(2, 0, 1)[None].astype(np.float32)
            return runner._evaluator.run({"x": array if right else 255 - array})

    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.setattr(ct.models, "MLModel", Model)
    found = runner.verification()
    assert [picture.mode for picture in shown] == ["RGB"]
    assert found.consumer == "Core ML"
    assert found.passed == right


def test_graphs_are_left_as_they_are() -> None:
    graph: Graph = graph_of(CLASSES, WEIGHTS)
    before = str(graph)
    check_options(graph, OPTIONS, [])
    assert str(graph) == before
