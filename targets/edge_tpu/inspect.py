"""What is in a TensorFlow Lite file, for people: its interface, constants and operators, and what of it the Edge TPU would run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qcompiler.errors import TargetError
from qcompiler.file_summary import FileSummary, Listing
from qcompiler.targets.edge_tpu.flatbuffer import read
from qcompiler.targets.edge_tpu.partition import Partition, partition
from qcompiler.targets.edge_tpu.versions import minimum_runtime

if TYPE_CHECKING:
    from qcompiler.targets.edge_tpu.model import Model, Operator, Quantization, Tensor

SUFFIXES = (".tflite",)
COMPILED = "edgetpu-custom-op"
"""The operator that the vendor's compiler puts in place of what it mapped."""

_LONGEST_NAME = 48
_PACKED = {"INT2": 2, "INT4": 4, "UINT4": 4}
_SIDES = {
    "strides": ("stride_h", "stride_w"),
    "dilations": ("dilation_h_factor", "dilation_w_factor"),
    "window": ("filter_height", "filter_width"),
}
"""Options that come in pairs."""
_SHOWN_BY_SHAPES = (
    "depth_multiplier", "keep_dims", "new_shape", "squeeze_dims", "num_splits", "values_count", "num",
)  # fmt: skip
_DEFAULTS = {"beta": 1.0, "quantized_bias_type": "FLOAT32", "pot_scale_int16": True, "axis": None}
"""Options whose defaults are not those of all others."""
_NOTHING = (0, "", (), "NONE", "DEFAULT")


def summary(path: Path) -> FileSummary:
    """A file at a glance.

    Raises:
        ModelError: It is no TensorFlow Lite file, or damaged.
        TargetError: The package with the schema is missing.
    """
    model = read(path)
    found, note = _predicted(model)
    facts = (
        ("File", f"{path.name}: {path.stat().st_size:,} bytes"),
        ("Model", ", ".join(filter(None, (model.name, model.description))) or "without a name"),
        ("Subgraphs", "1" if model.subgraphs == 1 else f"{model.subgraphs}, of which this is the first"),
        ("Inputs", _ports(model, model.inputs)),
        ("Outputs", _ports(model, model.outputs)),
        ("Constants", _constants(model)),
        ("Parameters", f"{sum(tensor.elements for tensor in _parameters(model)):,}"),
        ("Needs", f"TensorFlow Lite {minimum_runtime(model)} or newer"),
        ("Metadata", "\n".join(f"{name}: {len(blob):,} bytes" for name, blob in model.metadata.items())),
        ("Accelerator", note),
    )
    listings = (_kinds(model, found), _operators(model, found))
    return FileSummary(
        tuple((name, text) for name, text in facts if text), listings, found.details() if found else None
    )


def _predicted(model: Model) -> tuple[Partition | None, str]:
    """What the compiler would map, or why there is nothing to say of that."""
    programs = [operator for operator in model.operators if operator.custom == COMPILED]
    if programs:
        size = sum(len(operator.options.get("custom_options", b"")) for operator in programs)
        others = len(model.operators) - len(programs)
        return None, (
            f"the file is compiled already: the accelerator runs {size:,} bytes of programs and parameters, the host "
            f"{others:,} operator{'' if others == 1 else 's'}"
        )
    try:
        return partition(model), ""
    except (TargetError, LookupError, ArithmeticError) as error:
        return None, f"nothing can be predicted: operators do not have the tensors that they need ({error})"


def _ports(model: Model, indices: tuple[int, ...]) -> str:
    return "\n".join(tensor_text(model.tensors[index]) for index in indices) or "none"


def _constants(model: Model) -> str:
    """Bytes by type; constants that share a buffer count once."""
    sizes: Counter[str] = Counter()
    stored = {
        (tensor.data.__array_interface__["data"][0], tensor.data.nbytes): tensor
        for tensor in model.tensors
        if tensor.data is not None
    }
    for (_, size), tensor in stored.items():
        sizes[tensor.type] += -(-size * _PACKED.get(tensor.type, 8) // 8)
    return ", ".join(f"{size:,} bytes of {kind.lower()}" for kind, size in sizes.most_common()) or "none"


def _parameters(model: Model) -> Iterator[Tensor]:
    """Constants that are calculated with: neither axes nor sizes."""
    for tensor in model.tensors:
        if tensor.data is not None and (tensor.quantization is not None or "FLOAT" in tensor.type):
            yield tensor


def _kinds(model: Model, found: Partition | None) -> Listing:
    """Operators by kind, the most frequent first."""
    counts = Counter(operator.name for operator in model.operators)
    versions: dict[str, set[int]] = {}
    for operator in model.operators:
        versions.setdefault(operator.name, set()).add(operator.version)
    mapped = Counter(entry.op for entry in found.operators if entry.mapped) if found else None
    rows = tuple(
        (name, ", ".join(map(str, sorted(versions[name]))), f"{count:,}", *([f"{mapped[name]:,}"] if mapped is not None else []))
        for name, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    )  # fmt: skip
    heads = ("operator", "versions", "count", *(["on the accelerator"] if mapped is not None else []))
    return Listing("Kinds of operators", heads, rows, frozenset({2, 3}))


def _operators(model: Model, found: Partition | None) -> Listing:
    """All operators: what they are, what they read and write, and where they run."""
    heads = ("#", "operator", "reads and → writes", *(["runs on"] if found else []))
    rows = []
    for index, operator in enumerate(model.operators):
        operands = model.operands(operator)
        kind = operands[0].type if operands and operands[0] is not None else ""
        options = options_text(operator, kind)
        what = f"{operator.name} v{operator.version}" + (f"\n{options}" if options else "")
        where = ["accelerator" if found.operators[index].mapped else "CPU"] if found else []
        rows.append((str(index), what, _flow(model, operator), *where))
    return Listing("Operators", heads, tuple(rows), frozenset({0}))


def _flow(model: Model, operator: Operator) -> str:
    reads = [
        "left out" if tensor is None else tensor_text(tensor, short=True)
        for tensor in model.operands(operator)
    ]
    writes = [f"→ {tensor_text(tensor, short=True)}" for tensor in model.results(operator)]
    return "\n".join((*reads, *writes))


def options_text(operator: Operator, kind: str) -> str:
    """The options that matter: no defaults, and nothing that shapes show as well.

    Args:
        operator: The operator.
        kind: The type of what it reads.
    """
    options = {name: value for name, value in operator.options.items() if name not in _SHOWN_BY_SHAPES}
    if kind != "INT16":
        options.pop("pot_scale_int16", None)
    told = []
    for name, pair in _SIDES.items():
        sides = [options.pop(side, 1) for side in pair]
        if sides != [1, 1]:
            told.append(f"{name} {sides[0]}x{sides[1]}")
    for name, value in options.items():
        default = value == _DEFAULTS[name] if name in _DEFAULTS else value in _NOTHING
        told += [] if default else [_option(name, value)]
    return ", ".join(told)


def _option(name: str, value: Any) -> str:
    if name in ("padding", "fused_activation_function"):
        return str(value)
    name = name.replace("_", " ")
    if value is True:
        return name
    if isinstance(value, bytes):
        return f"{name} {len(value):,} bytes"
    return f"{name} {value:.6g}" if isinstance(value, float) else f"{name} {value}"


def tensor_text(tensor: Tensor, *, short: bool = False) -> str:
    """A tensor: its name, type, shape, and how its numbers are stored.

    Args:
        tensor: The tensor.
        short: Long names, as converters make them, are cut, and scales of biases, which follow from others, left out.
    """
    name = tensor.name
    if short and len(name) > _LONGEST_NAME:
        name = f"…{name[1 - _LONGEST_NAME :]}"
    stored = tensor.quantization
    if short and tensor.data is not None and tensor.type in ("INT32", "INT64"):
        stored = None
    mark = "constant " if tensor.data is not None else ""
    shape = ",".join("?" if extent < 0 else str(extent) for extent in tensor.shape)
    scale = f" {_quantization_text(stored)}" if stored is not None else ""
    return f"{name}: {mark}{tensor.type.lower()}[{shape}]{scale}"


def _quantization_text(stored: Quantization) -> str:
    parts = [_interval("scale", f"{stored.scale.min():.4g}", f"{stored.scale.max():.4g}")]
    if stored.per_channel:
        parts.append(f"per channel (axis {stored.axis})")
    if stored.zero_point.any():
        parts.append(_interval("zero point", str(stored.zero_point.min()), str(stored.zero_point.max())))
    return " ".join(parts)


def _interval(name: str, low: str, high: str) -> str:
    return f"{name} {low}" if low == high else f"{name}s {low}..{high}"
