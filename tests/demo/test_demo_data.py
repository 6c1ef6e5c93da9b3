"""The stored demo files keep what their descriptions promise; none of this needs torch."""

from __future__ import annotations

import sys
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

from qcompiler import demo
from qcompiler.demo import train

if TYPE_CHECKING:
    from numpy.typing import NDArray


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    return onnx.load(demo.MODEL)


@pytest.fixture(scope="module")
def calibration() -> NDArray[np.float32]:
    with np.load(demo.CALIBRATION) as stored:
        assert stored.files == ["image"]
        images: NDArray[np.float32] = stored["image"]
    return images


@pytest.fixture(scope="module")
def evaluation() -> train.Digits:
    with np.load(demo.EVALUATION) as stored:
        assert sorted(stored.files) == ["image", "labels"]
        return train.Digits(stored["image"], stored["labels"])


def _attribute(node: onnx.NodeProto, name: str) -> object:
    return next(helper.get_attribute_value(item) for item in node.attribute if item.name == name)


def test_files_are_small() -> None:
    sizes = [path.stat().st_size for path in (demo.MODEL, demo.CALIBRATION, demo.EVALUATION)]
    assert all(sizes)
    assert sum(sizes) < 1_000_000


def test_model_is_valid_opset_17(model: onnx.ModelProto) -> None:
    onnx.checker.check_model(model, full_check=True)
    assert [(item.domain, item.version) for item in model.opset_import] == [("", 17)]


def test_interface_has_a_dynamic_batch(model: onnx.ModelProto) -> None:
    def described(value: onnx.ValueInfoProto) -> tuple[str, list[str | int]]:
        dims = value.type.tensor_type.shape.dim
        return value.name, [dim.dim_param or dim.dim_value for dim in dims]

    assert [described(value) for value in model.graph.input] == [("image", ["batch", 1, 8, 8])]
    assert [described(value) for value in model.graph.output] == [("logits", ["batch", 10])]

    session = onnxruntime.InferenceSession(demo.MODEL, providers=["CPUExecutionProvider"])
    for batch in (1, 7):
        (logits,) = session.run(["logits"], {"image": np.zeros((batch, 1, 8, 8), np.float32)})
        assert logits.shape == (batch, 10)


def test_every_promised_operator_is_present(model: onnx.ModelProto) -> None:
    ops = Counter(node.op_type for node in model.graph.node)
    assert set(ops) == {
        "Add",
        "BatchNormalization",
        "Clip",
        "Conv",
        "Flatten",
        "Gemm",
        "GlobalAveragePool",
        "Relu",
    }
    groups = [_attribute(node, "group") for node in model.graph.node if node.op_type == "Conv"]
    assert Counter(groups) == {1: 6, 24: 1, 64: 1, 96: 1}


def test_batch_normalization_is_unfolded(model: onnx.ModelProto) -> None:
    weights = {tensor.name for tensor in model.graph.initializer}
    producers = {node.output[0]: node for node in model.graph.node}
    norms = [node for node in model.graph.node if node.op_type == "BatchNormalization"]
    convs = [node for node in model.graph.node if node.op_type == "Conv"]

    assert len(norms) == len(convs)
    assert all(producers[node.input[0]].op_type == "Conv" for node in norms)
    assert all(set(node.input[1:]) <= weights for node in norms)


def test_node_names_are_unique_and_not_tensor_names(model: onnx.ModelProto) -> None:
    names = [node.name for node in model.graph.node]
    tensors = {name for node in model.graph.node for name in (*node.input, *node.output)}
    assert all(names)
    assert len(set(names)) == len(names)
    assert tensors.isdisjoint(names)


def test_stored_graph_is_the_one_that_train_builds(model: onnx.ModelProto) -> None:
    built = train.build_network()
    assert list(model.graph.node) == list(built.graph.node)
    assert 30_000 < train.parameter_count(model) < 80_000


def test_model_reaches_the_stated_accuracy(model: onnx.ModelProto, evaluation: train.Digits) -> None:
    # Kernels differ between runtimes in rounding, which may turn one sample at a class boundary.
    one_sample = 1 / len(evaluation.labels)
    assert train.accuracy(model, evaluation) == pytest.approx(demo.TOP1, abs=1.01 * one_sample)
    assert demo.TOP1 >= 0.97


def test_images_are_sixteenths_of_ink(calibration: NDArray[np.float32], evaluation: train.Digits) -> None:
    for images, count in ((calibration, 200), (evaluation.images, 400)):
        assert images.dtype == np.float32
        assert images.shape == (count, 1, 8, 8)
        assert set(np.unique(images * 16)) == set(range(17))


def test_labels_are_balanced(evaluation: train.Digits) -> None:
    assert evaluation.labels.dtype == np.int64
    assert np.bincount(evaluation.labels).tolist() == [40] * 10


def test_no_sample_occurs_twice(calibration: NDArray[np.float32], evaluation: train.Digits) -> None:
    samples = [image.tobytes() for image in (*calibration, *evaluation.images)]
    assert len(set(samples)) == 600


def test_stored_data_are_the_split_that_train_makes(
    calibration: NDArray[np.float32], evaluation: train.Digits
) -> None:
    pytest.importorskip("sklearn", reason="the source of the data, from the train extra")
    parts = train.load_split()

    np.testing.assert_array_equal(parts.calibration.images, calibration)
    np.testing.assert_array_equal(parts.evaluation.images, evaluation.images)
    np.testing.assert_array_equal(parts.evaluation.labels, evaluation.labels)

    training = {image.tobytes() for image in parts.training.images}
    assert len(training) == 1397
    assert training >= {image.tobytes() for image in calibration}
    assert training.isdisjoint(image.tobytes() for image in evaluation.images)


def test_missing_package_is_answered_with_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("sklearn", "sklearn.datasets"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "qcompiler\[train\]"'):
        train.load_split()
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ModuleNotFoundError, match="torch"):
        train.train(
            train.build_network(), train.Digits(np.zeros((1, 1, 8, 8), np.float32), np.zeros(1, np.int64))
        )
