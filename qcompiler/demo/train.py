"""Train the demo classifier and write its model, calibration and evaluation files.

Run as ``python -m qcompiler.demo.train [--output DIR]``; needs ``pip install "qcompiler[train]"``.

The network is written once, as an ONNX graph; torch interprets that very graph and only moves its weights.
So no exporter stands between training and file: node names stay as written here and BatchNormalization
stays unfolded, as a compiler meets it in models from the field.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple

import numpy as np
import onnx
import onnxruntime
import typer
from onnx import TensorProto, helper, numpy_helper

from qcompiler import demo

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import torch
    from numpy.typing import NDArray

    FloatArray = NDArray[np.float32]
    LabelArray = NDArray[np.int64]

SEED: Final = 20
# The learning rate was chosen on samples set aside inside the training part, never on the evaluation part.
EPOCHS: Final = 50
BATCH_SIZE: Final = 64
PEAK_LEARNING_RATE: Final = 2e-3

CLASSES: Final = 10
EVALUATION_PER_CLASS: Final = 40
CALIBRATION_PER_CLASS: Final = 20

BATCH_NORM_EPSILON: Final = 1e-5
BATCH_NORM_MOMENTUM: Final = 0.9


@contextmanager
def _train_extra() -> Iterator[None]:
    """Turn a failed import of a training package into advice.

    Raises:
        ModuleNotFoundError: Naming the extra that brings the missing package.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        advice = f'training the demo needs {error.name}: pip install "qcompiler[train]"'
        raise ModuleNotFoundError(advice, name=error.name) from error


class Digits(NamedTuple):
    """Images ``[n, 1, 8, 8]`` in 0..1 and their digits ``[n]``."""

    images: FloatArray
    labels: LabelArray

    def take(self, indices: NDArray[np.int64]) -> Digits:
        """Return the samples at ``indices``, in that order."""
        return Digits(self.images[indices], self.labels[indices])


class Split(NamedTuple):
    """The parts of the data; calibration lies inside training, evaluation outside of it."""

    training: Digits
    calibration: Digits
    evaluation: Digits


def load_split(seed: int = SEED) -> Split:
    """Load scikit-learn's digits and split them with the same number of each digit in a part.

    Args:
        seed: Decides which sample falls into which part.

    Returns:
        The three parts, each in shuffled order.
    """
    with _train_extra():
        from sklearn.datasets import load_digits

    source = load_digits()
    digits = Digits(
        (source.images[:, None] / 16).astype(np.float32),
        source.target.astype(np.int64),
    )

    rng = np.random.default_rng(seed)
    order = rng.permutation(len(digits.labels))
    by_class = [order[digits.labels[order] == label] for label in range(CLASSES)]
    calibration_end = EVALUATION_PER_CLASS + CALIBRATION_PER_CLASS

    def gather(start: int, stop: int | None = None) -> Digits:
        return digits.take(rng.permutation(np.concatenate([members[start:stop] for members in by_class])))

    return Split(
        training=gather(EVALUATION_PER_CLASS),
        calibration=gather(EVALUATION_PER_CLASS, calibration_end),
        evaluation=gather(0, EVALUATION_PER_CLASS),
    )


@dataclass
class _GraphWriter:
    """Appends layers to an ONNX graph; each method returns the name of its output tensor."""

    rng: np.random.Generator
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: dict[str, FloatArray] = field(default_factory=dict)

    def node(
        self,
        op_type: str,
        name: str,
        inputs: list[str],
        weights: Mapping[str, FloatArray] | None = None,
        output: str | None = None,
        **attributes: Any,
    ) -> str:
        """Append one node; ``weights`` become its trailing inputs, named after the node."""
        stored = {f"{name}/{key}": value for key, value in (weights or {}).items()}
        self.weights |= stored
        output = output or f"{name}/output"
        self.nodes.append(helper.make_node(op_type, [*inputs, *stored], [output], name, **attributes))
        return output

    def _random(self, *shape: int) -> FloatArray:
        """He initialisation: keeps the variance through layers that are followed by a ReLU."""
        fan_in = int(np.prod(shape[1:]))
        return self.rng.normal(0, np.sqrt(2 / fan_in), shape).astype(np.float32)

    def conv(
        self, name: str, source: str, shape: tuple[int, int], kernel: int, stride: int = 1, groups: int = 1
    ) -> str:
        """Append a bias-free convolution and its BatchNormalization; ``shape`` is (inputs, outputs)."""
        inputs, outputs = shape
        pad = kernel // 2
        convolved = self.node(
            "Conv",
            name,
            [source],
            {"weight": self._random(outputs, inputs // groups, kernel, kernel)},
            kernel_shape=[kernel, kernel],
            strides=[stride, stride],
            pads=[pad] * 4,
            group=groups,
        )
        zeros, ones = np.zeros(outputs, np.float32), np.ones(outputs, np.float32)
        return self.node(
            "BatchNormalization",
            f"{name}_bn",
            [convolved],
            {"scale": ones, "bias": zeros, "mean": zeros, "variance": ones},
            epsilon=BATCH_NORM_EPSILON,
            momentum=BATCH_NORM_MOMENTUM,
        )

    def depthwise(self, name: str, source: str, channels: int) -> str:
        """Append a 3x3 convolution with one filter per channel, and its BatchNormalization."""
        return self.conv(name, source, (channels, channels), kernel=3, groups=channels)

    def relu(self, name: str, source: str) -> str:
        """Append max(x, 0)."""
        return self.node("Relu", name, [source])

    def relu6(self, name: str, source: str) -> str:
        """Append min(max(x, 0), 6)."""
        bounds = {"min": np.array(0, np.float32), "max": np.array(6, np.float32)}
        return self.node("Clip", name, [source], bounds)

    def dense(self, name: str, source: str, inputs: int, outputs: int, output: str) -> str:
        """Append a fully connected layer with bias, weights stored output-major."""
        weights = {"weight": self._random(outputs, inputs), "bias": np.zeros(outputs, np.float32)}
        return self.node("Gemm", name, [source], weights, output, transB=1)


def build_network(seed: int = SEED) -> onnx.ModelProto:
    """Write the classifier with random weights.

    A plain stem, a depthwise-separable block, an inverted residual, a strided convolution, a second
    residual, pooling and a dense layer: the shapes in which edge networks are built, in miniature.

    Args:
        seed: Decides the initial weights.

    Returns:
        The checked, untrained model.
    """
    graph = _GraphWriter(np.random.default_rng(seed))

    x = graph.conv("stem/conv", "image", (1, 24), kernel=3)
    x = graph.relu("stem/relu", x)

    x = graph.depthwise("block1/depthwise", x, 24)
    x = graph.relu6("block1/depthwise_relu6", x)
    x = graph.conv("block1/pointwise", x, (24, 40), kernel=1)
    shortcut = graph.relu("block1/pointwise_relu", x)

    x = graph.conv("block2/expand", shortcut, (40, 96), kernel=1)
    x = graph.relu6("block2/expand_relu6", x)
    x = graph.depthwise("block2/depthwise", x, 96)
    x = graph.relu6("block2/depthwise_relu6", x)
    # No activation before the sum: the addends differ in sign and range, which a quantizer must reconcile.
    x = graph.conv("block2/project", x, (96, 40), kernel=1)
    x = graph.node("Add", "block2/add", [shortcut, x])

    x = graph.conv("reduce/conv", x, (40, 64), kernel=3, stride=2)
    shortcut = graph.relu("reduce/relu", x)

    x = graph.depthwise("block3/depthwise", shortcut, 64)
    x = graph.relu("block3/depthwise_relu", x)
    x = graph.conv("block3/pointwise", x, (64, 64), kernel=1)
    x = graph.node("Add", "block3/add", [shortcut, x])
    x = graph.relu("block3/relu", x)

    x = graph.node("GlobalAveragePool", "head/pool", [x])
    x = graph.node("Flatten", "head/flatten", [x], axis=1)
    graph.dense("head/dense", x, 64, CLASSES, output="logits")

    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "digits",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 8, 8])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", CLASSES])],
            [numpy_helper.from_array(value, name) for name, value in graph.weights.items()],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        # The IR version of opset 17's own time: the newest one would shut out older runtimes.
        ir_version=8,
        producer_name="qcompiler.demo.train",
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def _forward(
    nodes: list[onnx.NodeProto], values: dict[str, torch.Tensor], image: torch.Tensor
) -> torch.Tensor:
    """Run the graph as in training: BatchNormalization uses, and learns from, the batch's statistics."""
    from torch.nn import functional

    values = values | {"image": image}
    result = image
    for node in nodes:
        x, *operands = (values[name] for name in node.input)
        attributes = {item.name: helper.get_attribute_value(item) for item in node.attribute}
        match node.op_type:
            case "Conv":
                result = functional.conv2d(
                    x,
                    operands[0],
                    stride=tuple(attributes["strides"]),
                    padding=tuple(attributes["pads"][:2]),
                    groups=attributes["group"],
                )
            case "BatchNormalization":
                scale, bias, mean, variance = operands
                # torch's momentum is the weight of the new value, ONNX's that of the old one.
                keep = attributes["momentum"]
                result = functional.batch_norm(
                    x, mean, variance, scale, bias, True, 1 - keep, attributes["epsilon"]
                )
            case "Relu":
                result = functional.relu(x)
            case "Clip":
                result = x.clamp(*operands)
            case "Add":
                result = x + operands[0]
            case "GlobalAveragePool":
                result = x.mean((2, 3), keepdim=True)
            case "Flatten":
                result = x.flatten(1)
            case "Gemm":
                result = functional.linear(x, *operands)
            case unknown:
                raise NotImplementedError(f"no training rule for {unknown}")
        values[node.output[0]] = result
    return result


def _shifted(images: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Move every image by -1, 0 or 1 pixel along each axis, filling with paper."""
    count, _, height, width = images.shape
    padded = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)))
    top, left = rng.integers(0, 3, size=(2, count, 1))
    rows = (top + np.arange(height))[:, :, None]
    columns = (left + np.arange(width))[:, None, :]
    shifted: FloatArray = padded[np.arange(count)[:, None, None], 0, rows, columns][:, None]
    return shifted


def train(model: onnx.ModelProto, data: Digits, epochs: int = EPOCHS, seed: int = SEED) -> onnx.ModelProto:
    """Fit the weights of a model with Adam under a one-cycle learning rate.

    The number of epochs is fixed beforehand and the last weights are kept: no part of the data
    chooses among checkpoints, so the evaluation part stays unseen.

    Args:
        model: The network, as `build_network` writes it; not changed.
        data: The training samples.
        epochs: How often each sample is seen, each time shifted at random.
        seed: Decides the order and the shifts.

    Returns:
        The same graph with trained weights.

    Raises:
        ModuleNotFoundError: If torch is not installed.
    """
    with _train_extra():
        import torch

    # The order of a parallel sum depends on the number of threads; one thread gives one result.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    rng = np.random.default_rng(seed)
    nodes = list(model.graph.node)
    values = {
        tensor.name: torch.from_numpy(numpy_helper.to_array(tensor).copy())
        for tensor in model.graph.initializer
    }
    # Of the stored tensors, moving statistics and clip bounds do not follow the gradient.
    learned = [
        values[name].requires_grad_()
        for node in nodes
        if node.op_type in {"Conv", "BatchNormalization", "Gemm"}
        for name in node.input[1:3]
    ]
    # A last batch of few samples would disturb the moving statistics; it is left out.
    steps = len(data.labels) // BATCH_SIZE
    optimizer = torch.optim.Adam(learned, PEAK_LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, PEAK_LEARNING_RATE, epochs=epochs, steps_per_epoch=steps
    )
    try:
        for _ in range(epochs):
            order = rng.permutation(len(data.labels))
            for picked in order[: steps * BATCH_SIZE].reshape(steps, BATCH_SIZE):
                batch = data.take(picked)
                logits = _forward(nodes, values, torch.from_numpy(_shifted(batch.images, rng)))
                loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(batch.labels))
                optimizer.zero_grad()
                torch.autograd.backward(loss)
                optimizer.step()
                schedule.step()
    finally:
        torch.set_num_threads(threads)

    trained = onnx.ModelProto()
    trained.CopyFrom(model)
    for tensor in trained.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(values[tensor.name].detach().numpy(), tensor.name))
    return trained


def accuracy(model: onnx.ModelProto, data: Digits) -> float:
    """Measure the share of samples that onnxruntime classifies correctly."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"image": data.images})
    return float(np.mean(np.argmax(logits, axis=1) == data.labels))


def parameter_count(model: onnx.ModelProto) -> int:
    """Count the numbers that the model stores, BatchNormalization statistics included."""
    return sum(int(np.prod(tensor.dims)) for tensor in model.graph.initializer)


def main(
    output: Annotated[
        Path,
        typer.Option(
            help="The folder to write to; made if absent.",
            show_default="the folder of this module",
            file_okay=False,
        ),
    ] = Path(__file__).parent,
) -> None:
    """Train the demo classifier and write its model, calibration and evaluation files."""
    try:
        parts = load_split()
        model = train(build_network(), parts.training)
    except ModuleNotFoundError as error:
        typer.echo(error.msg, err=True)
        raise typer.Exit(1) from error

    output.mkdir(parents=True, exist_ok=True)
    files = [output / path.name for path in (demo.MODEL, demo.CALIBRATION, demo.EVALUATION)]
    model_file, calibration_file, evaluation_file = files
    onnx.save(model, model_file)
    # numpy stamps each member with a fixed date, so equal data give equal bytes.
    np.savez_compressed(calibration_file, image=parts.calibration.images)
    np.savez_compressed(evaluation_file, image=parts.evaluation.images, labels=parts.evaluation.labels)

    typer.echo(f"{parameter_count(model)} parameters, top-1 {accuracy(model, parts.evaluation):.4f}")
    for file in files:
        typer.echo(f"{file}: {file.stat().st_size} bytes")


if __name__ == "__main__":
    typer.run(main)
