"""Builds a QDQ model with NVIDIA's own TensorRT-RTX compiler and reports what it made of every weighted node.

TensorRT-RTX shares the ONNX parser with TensorRT and needs no GPU to compile (TensorRT-RTX documentation, "CPU-Only
AOT"). It proves that a model parses and shows which operators got int8 or fp8 operands. It executes nothing:
a report says neither how fast nor how accurate the engine is. How the kernels are found: ``engine_log.py``.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import onnx

from qcompiler.targets.tensorrt.engine_log import (
    ALIAS,
    LIST_OF_KERNELS,
    NARROW,
    WEIGHTED_OPS,
    KernelLayer,
    read_layers,
    residual_adds,
    weighted_kernels,
    with_labels,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

DEVICES = ("sm75", "sm80", "sm86", "sm89", "sm120", "sm121")
"""Compute capabilities that TensorRT-RTX compiles for."""

STAND_INS = MappingProxyType({"sm87": "sm86", "sm90": "sm89", "sm100": "sm120", "sm103": "sm120"})
"""Devices of TensorRT that RTX has no code for, and the device with the same tensor-core number formats.

Not the nearest lower number: sm89 has no FP4, which sm100 has, so it would refuse models that sm100 takes.
"""


_Range = tuple[int, int, int]


class BuilderUnavailableError(ImportError):
    """The optional TensorRT-RTX package is not installed."""


@dataclass(frozen=True, slots=True)
class ParserError:
    """One refusal of the ONNX parser."""

    node: str
    op: str
    description: str


@dataclass(frozen=True, slots=True)
class BuildReport:
    """What TensorRT-RTX made of a model.

    Attributes:
        version: of the builder.
        device: as asked.
        built_for: the compute capability compiled for; another than ``device`` where RTX has no such target.
        note: why ``built_for`` differs, or empty.
        built: whether an engine came out.
        parser_errors: refusals by the ONNX parser.
        errors: error messages in the builder's log.
        warnings: warnings in the builder's log, each once.
        layers: the kernels, in order.
        weighted: for each weighted ONNX node that a kernel names: the kernel that computes it.
        unlisted: weighted ONNX nodes that no kernel names: folded away, or part of a control-flow body.
        residual_adds: for each ONNX Add computed in the epilogue of a weighted node: the type in which the other
            input (the shortcut) is read. "Int8" is what a quantized shortcut should give.
        engine: the serialized engine, if it was asked for.
    """

    version: str
    device: str
    built_for: str
    note: str
    built: bool = False
    parser_errors: tuple[ParserError, ...] = ()
    errors: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    layers: tuple[KernelLayer, ...] = ()
    weighted: Mapping[str, KernelLayer] = field(default_factory=dict)
    unlisted: frozenset[str] = frozenset()
    residual_adds: Mapping[str, str] = field(default_factory=dict)
    engine: bytes | None = None

    def computed_in(self, dtype: str) -> frozenset[str]:
        """Weighted ONNX nodes whose kernel multiplies in ``dtype`` (Int8, FP8, Int4, FP4, Float)."""
        return frozenset(node for node, layer in self.weighted.items() if layer.math_dtype == dtype)

    @property
    def int8_weighted(self) -> frozenset[str]:
        """Weighted ONNX nodes that really got int8 data and int8 weights."""
        return self.computed_in("Int8")

    @property
    def fp8_weighted(self) -> frozenset[str]:
        """Weighted ONNX nodes that really got fp8 data and fp8 weights."""
        return self.computed_in("FP8")

    @property
    def float_weighted(self) -> frozenset[str]:
        """Weighted ONNX nodes computed in float, whatever their Q/DQ asked for."""
        return self.computed_in("Float")

    @property
    def weight_only(self) -> frozenset[str]:
        """The nodes of ``float_weighted`` whose kernel reads the narrow weight itself (saves memory, not math)."""
        return frozenset(n for n in self.float_weighted if self.weighted[n].weight_dtype in NARROW)


def available() -> str | None:
    """Give the version of the installed TensorRT-RTX builder, or None."""
    return str(_load().__version__) if find_spec("tensorrt_rtx") else None


def build(
    model_bytes: bytes,
    *,
    device: str = "sm89",
    shapes: Mapping[str, Sequence[int]] | None = None,
    batch: _Range = (1, 8, 32),
    external_data: Path | None = None,
    keep_engine: bool = False,
    isolated: bool = True,
) -> BuildReport:
    """Compile a model for one compute capability and report what became of its nodes.

    Args:
        model_bytes: a serialized ONNX model.
        device: "sm75" ... "sm121", see ``DEVICES`` and ``STAND_INS``.
        shapes: a concrete shape for inputs with dynamic dimensions other than the first; those dimensions are
            fixed to it.
        batch: smallest, typical and largest size of a dynamic first dimension.
        external_data: path of the model file, where the model keeps its weights in files beside it.
        keep_engine: give the engine in ``BuildReport.engine``; it is dropped otherwise.
        isolated: build in a process of its own. The builder can crash on models it should refuse (a graph input as
            the scale of a Conv's data, TensorRT-RTX 1.7), and prints past its logger. Costs half a second.

    Raises:
        BuilderUnavailableError: TensorRT-RTX is not installed.
        ValueError: unknown device, or a dynamic dimension of unknown size.
    """
    if device not in DEVICES and device not in STAND_INS:
        raise ValueError(
            f"unknown TensorRT device {device!r}: use one of {', '.join([*DEVICES, *sorted(STAND_INS)])}"
        )
    version = str(_load().__version__)
    built_for = STAND_INS.get(device, device)
    note = f"not buildable for {device} with TensorRT-RTX; built for {built_for} instead"
    model, labels = _with_aliases(model_bytes)
    profile = _profile(model.graph, shapes or {}, batch)
    job = _Job(
        model.SerializeToString(),
        built_for,
        profile,
        str(external_data) if external_data else None,
        keep_engine,
    )
    outcome = _compile_apart(job) if isolated else _compile(job)

    layers = tuple(read_layers(outcome.kernels, labels))
    errors = dict.fromkeys(outcome.errors)
    if outcome.built and not layers:
        errors[f"TensorRT-RTX {version} lists its kernels in a form that is not understood"] = None
    ops = {label: node.op_type for label, node in zip(labels, model.graph.node, strict=True)}
    weighted = weighted_kernels(layers, ops)
    known = {tensor.name for tensor in model.graph.initializer}
    additions = {
        label
        for label, node in zip(labels, model.graph.node, strict=True)
        if node.op_type == "Add" and known.isdisjoint(node.input)
    }
    return BuildReport(
        version=version,
        device=device,
        built_for=built_for,
        note=note if built_for != device else "",
        built=outcome.built,
        parser_errors=tuple(
            ParserError(with_labels(node, labels), op, with_labels(text, labels))
            for node, op, text in outcome.parser_errors
        ),
        errors=tuple(with_labels(message, labels) for message in errors),
        warnings=tuple(with_labels(message, labels) for message in dict.fromkeys(outcome.warnings)),
        layers=layers,
        weighted=weighted,
        unlisted=frozenset(n for n, op in ops.items() if op in WEIGHTED_OPS and n not in weighted),
        residual_adds=residual_adds(layers, additions),
        engine=outcome.engine,
    )


def _load() -> Any:
    try:
        return import_module("tensorrt_rtx")
    except ImportError as error:
        raise BuilderUnavailableError(
            'the TensorRT-RTX builder is not installed: pip install "qcompiler[tensorrt]" (Linux, x86-64)'
        ) from error


def _with_aliases(model_bytes: bytes) -> tuple[onnx.ModelProto, list[str]]:
    """Rename the nodes; give the copy and, by position, what to call each node in the report.

    A node is called by its name, or by its first output where the name is missing or not unique.
    """
    model = onnx.load_model_from_string(model_bytes)
    taken = Counter(node.name for node in model.graph.node)
    labels = []
    for index, node in enumerate(model.graph.node):
        unique = node.name and taken[node.name] == 1
        labels.append(node.name if unique else next(filter(None, node.output), ALIAS.format(index)))
        node.name = ALIAS.format(index)
    return model, labels


def _profile(
    graph: onnx.GraphProto, shapes: Mapping[str, Sequence[int]], batch: _Range
) -> dict[str, tuple[tuple[int, ...], ...]]:
    """Derive the smallest, typical and largest shape of every input with dynamic dimensions.

    A symbol has one size in the whole model, so what is known of it at one input holds at the others.
    """
    constants = {t.name for t in graph.initializer}
    inputs = {v.name: _dimensions(v) for v in graph.input if v.name not in constants}
    known: dict[str, _Range] = {}
    for name, sizes in inputs.items():
        asked = shapes.get(name, ())
        for axis, size in enumerate(sizes):
            if isinstance(size, str) and (axis == 0 or axis < len(asked)):
                known.setdefault(size, batch if axis == 0 else (asked[axis],) * 3)

    def of(name: str, size: int | str) -> _Range:
        if isinstance(size, int):
            return size, size, size
        if size not in known:
            example = tuple(8 if isinstance(s, str) else s for s in inputs[name])
            raise ValueError(
                f"input {name!r} has a dynamic dimension {size!r}; give its size, as in shapes={{{name!r}: {example}}}"
            )
        return known[size]

    return {
        name: tuple(zip(*(of(name, size) for size in sizes), strict=True))
        for name, sizes in inputs.items()
        if any(isinstance(size, str) for size in sizes)
    }


def _dimensions(value: onnx.ValueInfoProto) -> list[int | str]:
    """Give sizes, and symbols where they are dynamic: the model's own, or one made from the place."""
    return [
        d.dim_value if d.dim_value > 0 else d.dim_param or f"{value.name}[{axis}]"
        for axis, d in enumerate(value.type.tensor_type.shape.dim)
    ]


@dataclass(frozen=True, slots=True)
class _Job:
    """What a build needs to know; plain data, so that it can be handed to another process."""

    model: bytes
    built_for: str
    profile: Mapping[str, tuple[tuple[int, ...], ...]]
    external_data: str | None
    keep_engine: bool


@dataclass(slots=True)
class _Outcome:
    """What came out of a build, in the builder's own words."""

    built: bool = False
    parser_errors: list[tuple[str, str, str]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    kernels: str = ""
    engine: bytes | None = None


def _compile_apart(job: _Job) -> _Outcome:
    with TemporaryDirectory(prefix="qcompiler-tensorrt-") as folder:
        answer = Path(folder, "outcome")
        # -P: do not import from the current folder, which is the user's.
        command = [sys.executable, "-P", "-c", f"from {__name__} import _answer; _answer()", str(answer)]
        run = subprocess.run(command, input=pickle.dumps(job), capture_output=True, check=False)
        if answer.exists():
            outcome = pickle.loads(answer.read_bytes())
            assert isinstance(outcome, _Outcome)
            return outcome
    last = run.stderr.decode(errors="replace").strip().splitlines()[-1:]
    return _Outcome(errors=[f"TensorRT-RTX ended with exit code {run.returncode} and no answer", *last])


def _answer() -> None:
    """Do the job on standard input; leave the outcome in the file named by the first argument."""
    outcome = _compile(pickle.load(sys.stdin.buffer))
    Path(sys.argv[1]).write_bytes(pickle.dumps(outcome))


def _compile(job: _Job) -> _Outcome:
    trt, outcome = _load(), _Outcome()
    log = _recording_log(trt, outcome)
    builder = trt.Builder(log)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, log)
    # The parser looks for external data beside this path; it wants None, not an empty path, where there is none.
    if not parser.parse(job.model, job.external_data):
        errors = (parser.get_error(index) for index in range(parser.num_errors))
        outcome.parser_errors = [(e.node_name(), e.node_operator(), e.desc()) for e in errors]
        return outcome
    engine = builder.build_serialized_network(network, _config(trt, builder, job))
    outcome.built = engine is not None
    outcome.engine = bytes(engine) if job.keep_engine and engine is not None else None
    return outcome


def _config(trt: Any, builder: Any, job: _Job) -> Any:
    config = builder.create_builder_config()
    # Without DETAILED the list of kernels holds names only.
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(trt.ComputeCapability, job.built_for.upper()), 0)
    if job.profile:
        profile = builder.create_optimization_profile()
        for name, sizes in job.profile.items():
            profile.set_shape(name, *sizes)
        config.add_optimization_profile(profile)
    return config


def _recording_log(trt: Any, outcome: _Outcome) -> Any:
    # The base class exists only once the optional package is imported.
    class RecordingLog(trt.ILogger):  # type: ignore[misc]
        """Keeps what is worth reading: complaints, and the one message that lists the kernels."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
                outcome.errors.append(message)
            elif severity == trt.ILogger.WARNING:
                outcome.warnings.append(message)
            elif message.startswith(LIST_OF_KERNELS):
                outcome.kernels += message

    return RecordingLog()
