"""Running a graph in onnxruntime: outputs, intermediate values, batches, models of any size.

onnxruntime's default graph optimizations change quantized outputs by one step here and there, so `Session` has them
off (`optimize=False`) where the semantics of QuantizeLinear/DequantizeLinear are the point, and on for float speed.
"""

from __future__ import annotations

import re
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import onnxruntime

from qcompiler.columns import InputType
from qcompiler.errors import DataError, ModelError, suggest
from qcompiler.ir.onnx_export import save, to_onnx

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qcompiler.data import DataSource
    from qcompiler.ir.graph import Graph
    from qcompiler.ir.node import Value

Arrays = dict[str, "NDArray[Any]"]
"""Arrays by value name."""

_IN_MEMORY_BYTES = 256 << 20  # beyond this the weights go through a file, not through a second copy in memory
_SILENT = 4  # only fatal messages: everything an error has to say is in the exception


class BatchRunner(ABC):
    """What runs a model's inputs in the shapes that it declares, fed with samples of any number."""

    def __init__(self, inputs: Iterable[Value]) -> None:
        """For a model.

        Args:
            inputs: Its inputs.
        """
        self._inputs = tuple(InputType(value.name, value.dtype, value.shape) for value in inputs)
        self.input_names = tuple(value.name for value in self._inputs)
        self._shapes = {value.name: value.shape for value in self._inputs}

    @abstractmethod
    def run(self, feeds: Mapping[str, NDArray[Any]]) -> Arrays:
        """Computes the outputs for one set of inputs, in the shapes that the model declares."""

    @property
    def fixed_batch(self) -> int | None:
        """The batch size that the model was exported for; None where it is open."""
        for shape in self._shapes.values():
            if shape == ():
                return 1
            if shape and isinstance(shape[0], int):
                return shape[0]
        return None

    def stream(self, source: DataSource, batch: int = 32) -> Iterator[Arrays]:
        """Runs every sample, yielding the outputs batch by batch, so that memory does not grow with the data.

        A model of a fixed batch size is fed that many samples at a time; the last batch is filled up by repeating its
        last sample, and the surplus is cut off the outputs. A model whose batch size is open by declaration but 1 by
        construction (a Reshape to a fixed shape) fails, or returns no batch axis, on the first batch; from there on it
        is fed single samples. A model without a batch axis (the data have one axis more than the input) is fed single
        samples too, and its outputs get the axis.

        Args:
            source: The data; checked against the model.
            batch: How many samples to run at once where the model leaves it open.

        Yields:
            Outputs with samples on the first axis; an output that has no batch axis is one row per run.

        Raises:
            DataError: As `DataSource.validate` and `DataSource.batches`.
            ModelError: As `run`.
        """
        source = source.validate_inputs(self._inputs)
        bare = {
            name
            for name, sample in source.sample_shapes.items()
            if (shape := self._shapes[name]) is not None and len(shape) == len(sample)
        }
        fixed = 1 if bare else self.fixed_batch
        for feeds in source.batches(fixed or max(batch, 1)):
            count = _rows(feeds)
            if fixed is None and count > 1:
                results = self._run_open_batch(feeds, count)
                if results is not None:
                    yield results
                    continue
                fixed = 1
            step = fixed or count
            for start in range(0, count, step):
                part = {name: array[start : start + step] for name, array in feeds.items()}
                yield self._run_bare(part, bare) if bare else self._run_padded(part, step)

    def _run_open_batch(self, feeds: Arrays, count: int) -> Arrays | None:
        """The outputs of a batch, or None where the model turns out to take single samples only."""
        try:
            results = self._run_padded(feeds, count)
        except ModelError:
            single = {name: array[:1] for name, array in feeds.items()}
            self.run(single)  # where this fails too, the batch was not at fault
            return None
        return results if any(len(result) == count for result in results.values()) else None

    def _run_bare(self, feeds: Arrays, bare: set[str]) -> Arrays:
        results = self.run(
            {name: np.asarray(array[0]) if name in bare else array for name, array in feeds.items()}
        )
        return {name: np.asarray(result)[None] for name, result in results.items()}

    def _run_padded(self, feeds: Arrays, size: int) -> Arrays:
        count = _rows(feeds)
        if count < size:
            feeds = {
                name: np.concatenate([array, np.repeat(array[-1:], size - count, axis=0)])
                for name, array in feeds.items()
            }
        results = self.run(feeds)
        for name, result in results.items():
            rows = result if np.ndim(result) else np.asarray(result)[None]
            results[name] = rows[:count] if len(rows) == size else rows
        return results


class Session(BatchRunner):
    """A graph, ready to run on the CPU. The graph is not changed and may change afterwards.

    Composite operators run as their standard definition. Weights of more than 256 MB are handed over through a
    temporary folder, which is gone when the constructor returns.
    """

    def __init__(
        self,
        graph: Graph,
        outputs: Iterable[str] | None = None,
        *,
        optimize: bool | Literal["floats"] = True,
        threads: int | None = None,
    ) -> None:
        """Prepares the graph.

        Args:
            graph: The graph.
            outputs: Names of the values to compute, intermediate ones (taps) included; None for the graph's outputs.
                What they do not depend on is not run.
            optimize: Whether onnxruntime may rewrite the graph; off where quantized numerics are the point. "floats": all but
                QuantizeLinear and DequantizeLinear, which then mean what they say.
            threads: How many threads one operator may use; None for one per core.

        Raises:
            ModelError: onnxruntime cannot run the graph, or a name in `outputs` does not exist; says which and why.
        """
        super().__init__(graph.inputs)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = _SILENT
        level = onnxruntime.GraphOptimizationLevel
        options.graph_optimization_level = level.ORT_ENABLE_ALL if optimize else level.ORT_DISABLE_ALL
        if optimize == "floats":
            options.add_session_config_entry("session.disable_quant_qdq", "1")
        # Sessions alternate with other work, during which waiting threads would burn the processor's time.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # Taps run when what they read is fresh, which keeps it in the cache and frees it soon.
        options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
        if threads is not None:
            options.intra_op_num_threads = threads
        self._session = _open(graph if outputs is None else tapped(graph, outputs), options)
        self._run_options = onnxruntime.RunOptions()
        self._run_options.log_severity_level = _SILENT
        self.output_names = tuple(dict.fromkeys(output.name for output in self._session.get_outputs()))

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> Arrays:
        """Computes the outputs for one set of inputs, in the shapes that the model declares.

        Raises:
            DataError: An input is missing, or has a dtype or shape that the model does not take.
            ModelError: An operator failed; the message names its node.
        """
        missing = [name for name in self.input_names if name not in feeds]
        if missing:
            raise DataError(
                f"The model needs the input {missing[0]!r}, and the data have {', '.join(map(repr, feeds)) or 'none'}"
                f"{suggest(missing[0], feeds)}"
            )
        unknown = [name for name in feeds if name not in self._shapes]
        if unknown:
            raise DataError(
                f"The model has no input {unknown[0]!r}{suggest(unknown[0], self.input_names)} Leave the array out or rename it."
            )
        try:
            results = self._session.run(list(self.output_names), dict(feeds), self._run_options)
        except Exception as error:
            raise _run_error(error) from error
        return dict(zip(self.output_names, results, strict=True))

    def run_all(self, source: DataSource, batch: int = 32) -> Arrays:
        """Runs every sample and returns each output whole, samples on the first axis; see `stream`."""
        collected: dict[str, list[NDArray[Any]]] = {name: [] for name in self.output_names}
        for results in self.stream(source, batch):
            for name, result in results.items():
                collected[name].append(result)
        try:
            return {name: np.concatenate(parts) for name, parts in collected.items()}
        except ValueError as error:
            raise DataError(
                f"The model's outputs differ in shape from sample to sample ({error}), so they do not fit one array; "
                "give samples of one shape, or go through them with Session.stream."
            ) from error


def tapped(graph: Graph, names: Iterable[str]) -> Graph:
    """A copy of the graph that returns the named values, intermediate ones included, and computes nothing else.

    Raises:
        ModelError: There is no such value.
    """
    names = list(dict.fromkeys(names))
    unknown = [name for name in names if not graph.has_value(name)]
    if unknown:
        known = [value.name for value in graph.values]
        raise ModelError(
            f"The graph has no value {unknown[0]!r} to read{suggest(unknown[0], known if len(known) < 40 else [])}"
        )
    copy = graph.copy()
    copy.set_outputs(copy.value(name) for name in names)
    copy.remove_dead()
    copy.journal.clear()
    return copy


def _rows(feeds: Mapping[str, NDArray[Any]]) -> int:
    return len(next(iter(feeds.values()))) if feeds else 1


_DISABLED = ["ClipQuantRewrite"]
"""Rewrites of onnxruntime that are never wanted: this one fails on a Clip in front of a QuantizeLinear to 4 bits."""


def _open(graph: Graph, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    size = sum(value.data.nbytes for value in graph.constants if value.data is not None)
    providers = ["CPUExecutionProvider"]
    try:
        if size <= _IN_MEMORY_BYTES:
            model = to_onnx(graph, inline=True).SerializeToString()
            return onnxruntime.InferenceSession(model, options, providers, disabled_optimizers=_DISABLED)
        with tempfile.TemporaryDirectory(prefix="qcompiler-") as folder:
            path = Path(folder) / "model.onnx"
            save(graph, path, external=True)
            return onnxruntime.InferenceSession(str(path), options, providers, disabled_optimizers=_DISABLED)
    except Exception as error:
        if isinstance(error, OSError):
            raise ModelError(
                f"The model's {size >> 20} MB of weights could not be written to a temporary file for onnxruntime: {error}. "
                "Free some space, or point TMPDIR at a larger disk."
            ) from error
        raise ModelError(_load_message(str(error))) from error


def _plain(message: str) -> str:
    """An onnxruntime message without its codes, source positions and function signatures."""
    message = re.sub(r"^\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : ", "", message.strip())
    message = re.sub(r"\S*/onnxruntime/\S+:\d+ .*?\) (?=\S)", "", message, count=1)
    return " ".join(message.split()).rstrip(".")


def _load_message(message: str) -> str:
    reason = _plain(message)
    unregistered = re.search(
        r'In Node, \("(.*?)", (\w+), "(.*?)".* with domain_version of (\d+)', message
    ) or re.search(r"()Fatal error: (?:([\w.]*):)?(\w+)\(", message)
    if unregistered and unregistered.lastindex == 4:
        name, op, domain, version = unregistered.groups()
        return (
            f"onnxruntime cannot run node {name!r}: there is no operator {op!r} in opset {version} of the "
            f"{domain or 'standard'} domain. Export the model with standard operators, or register a function for it."
        )
    if unregistered:
        _, domain, op = unregistered.groups()
        return (
            f"onnxruntime cannot run the operator {op!r} of the domain {domain or 'ai.onnx'!r}: it is no standard operator, and "
            "the model brings no function that defines it. Export the model with standard operators."
        )
    unimplemented = re.search(r"implementation for (\w+)\((\d+)\) node with name '(.*?)'", message)
    if unimplemented:
        op, version, name = unimplemented.groups()
        return (
            f"onnxruntime has no CPU implementation of {op} (opset {version}) for the types of node {name!r}; change the types "
            "around it (float32 is always there), or take it out of the model."
        )
    return f"onnxruntime {onnxruntime.__version__} refuses the graph: {reason}."


def _run_error(error: Exception) -> ModelError | DataError:
    message = str(error)
    reason = _plain(message)
    if (
        "nexpected input data type" in message
        or "Got invalid dimensions" in message
        or "Invalid rank" in message
    ):
        return DataError(f"The data do not fit the model's inputs: {reason}.")
    failed = re.search(r"while running (\w+) node\. Name:'(.*?)' Status Message: ", message)
    if failed:
        detail = _plain(message[failed.end() :])
        return ModelError(
            f"Running the model failed in {failed[1]} node {failed[2]!r}: {detail}. If its shapes are at fault, check that the data have "
            "the sizes that the model was exported for."
        )
    return ModelError(f"Running the model failed: {reason}.")
