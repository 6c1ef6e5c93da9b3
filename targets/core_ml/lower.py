"""Lowering to Core ML: the graph with Q/DQ as an ML Program, in a package."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qcompiler.errors import TargetError
from qcompiler.ir.encoding import FORMATS
from qcompiler.ir.plan import PLANNED
from qcompiler.ir.shapes import infer_shapes
from qcompiler.lowering import Lowered, LowerJob
from qcompiler.targets.core_ml import (
    gru,
    images,
    movement,
    pointwise,
    products,
    quantization,
    recurrent,
    reductions,
    sparse,
)
from qcompiler.targets.core_ml.author import Author, Emit
from qcompiler.targets.core_ml.classes import classifier_of
from qcompiler.targets.core_ml.float_types import FloatTypes
from qcompiler.targets.core_ml.image_inputs import check_data, images_of
from qcompiler.targets.core_ml.interface import Interface, interface_of
from qcompiler.targets.core_ml.names import identifiers
from qcompiler.targets.core_ml.open_sizes import check_sizes, largest_of, sizes_of
from qcompiler.targets.core_ml.package import MODEL, files_of
from qcompiler.targets.core_ml.toolkit import toolkit

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from qcompiler.data import DataSource
    from qcompiler.ir.encoding import Encoding
    from qcompiler.ir.graph import Graph
    from qcompiler.ir.node import Value
    from qcompiler.ir.plan import Plan
    from qcompiler.target import Target

EMITTERS: Mapping[str, Emit] = {
    **quantization.EMITTERS,
    **products.EMITTERS,
    **pointwise.EMITTERS,
    **movement.EMITTERS,
    **reductions.EMITTERS,
    **images.EMITTERS,
    **recurrent.EMITTERS,
    **gru.EMITTERS,
}
"""How each operator is written."""


def lower(job: LowerJob) -> Lowered:
    """Writes model.mlpackage.

    Raises:
        TargetError: Some operators cannot be written; all of them are named, and nothing is written.
        ExtraError: coremltools is not installed.
    """
    graph, types = job.graph, FloatTypes(job.graph, job.plan.float_format)
    size = 0
    interface = interface_of(graph, job.options, job.io)
    for name, data in contents(graph, types, job.target, interface):
        job.artifact.path(f"{MODEL}/{name}").write_bytes(data)
        size += len(data)
    names = identifiers(graph)
    ports = (value.name for value in (*graph.inputs, *graph.outputs))
    details = {"float32": types.wide, "renamed": {name: names[name] for name in ports if name != names[name]}}
    return Lowered(MODEL, size, f"drag {MODEL} into Xcode", details=details)


def check_options(graph: Graph, options: Mapping[str, str], data: Sequence[DataSource]) -> None:
    """Refuses options that the model cannot have, and data that no image gives. See `qcompiler.lowering`.

    Raises:
        OptionError: See `interface_of`.
        DataError: See `check_sizes` and `check_data`.
    """
    pictures = images_of(graph, options)
    if options.get("labels") or options.get("labels-output"):
        known = graph.copy()
        infer_shapes(known)
        classifier_of(known, options, early=True)
    check_sizes(graph, largest_of(options), data)
    check_data(pictures, data)


def contents(
    graph: Graph, types: FloatTypes, target: Target, interface: Interface | None = None
) -> list[tuple[str, bytes]]:
    """The package's files, by their paths in it.

    Args:
        graph: The reference graph.
        types: What its operators compute in.
        target: The target, for its device.
        interface: What people see of it; left out: arrays of float32.

    Raises:
        TargetError: See `lower`.
        ExtraError: See `lower`.
    """
    _check_inputs(graph)
    interface = interface or Interface()
    opset, names = opset_of(target), identifiers(graph)
    program = Author(graph, types, opset, interface).program(EMITTERS)
    inputs = {
        value.name: sizes_of(value, interface.largest, image=value.name in interface.images)
        for value in graph.inputs
    }
    return list(files_of(program, opset, names, inputs, interface, _about(graph)))


def constant_bytes(graph: Graph, plan: Plan, target: Target) -> int:
    """Bytes of weights and tables in the package: codes as wide as they are, floats and scales as wide as the plan's floats.

    Args:
        graph: The reference graph.
        plan: Its plan.
        target: The target.
    """
    planned = graph.facts.get(PLANNED) or graph
    width, bits, groups = FORMATS[plan.float_format].bits, 0, plan.group_of_use()
    masks = int(opset_of(target)) >= sparse.CODES_FROM
    for value in planned.constants:
        readers = {groups.get((use.node.name, use.slot)) for use in value.uses}
        for encoding in {None if group is None else group.encoding for group in readers}:
            bits += _constant_bits(value, encoding, width, masks=masks)
    return -(-bits // 8)


def _constant_bits(value: Value, encoding: Encoding | None, width: int, *, masks: bool) -> int:
    """Bits of a constant as some of its readers read it; sizes and axes are not stored apart from the program.

    Args:
        value: The constant.
        encoding: How it is stored; None where it is not quantized.
        width: Bits of a float.
        masks: Whether codes are stored with a mask where that is smaller.
    """
    assert value.data is not None
    if encoding is None:
        return value.data.size * width if value.data.dtype.kind == "f" else 0
    floats = sum(item.size for item in (encoding.scale, encoding.table) if item is not None)
    codes = value.data.size * encoding.format.bits
    if masks and (encoding.table is None or encoding.scale is None):
        known = encoding.fake_quantize(value.data) != 0
        if sparse.is_smaller(known, encoding.format.bits):
            codes = sparse.bits_of(known, encoding.format.bits)
    return codes + floats * width


def opset_of(target: Target) -> Any:
    """The deployment target of a device, as coremltools knows it: `ios17-a16` is iOS 17 on some chips."""
    system = target.chosen_device.partition("-")[0]
    return getattr(toolkit().ct.target, system.replace("ios", "iOS").replace("macos", "macOS"))


def _check_inputs(graph: Graph) -> None:
    """Refuses inputs that a package cannot have.

    Raises:
        TargetError: There is one.
    """
    for value in graph.inputs:
        kind = None if value.dtype is None else value.dtype.kind
        if value.shape is None or not value.shape:
            raise TargetError(
                f"The input {value.name!r} has {'no known rank' if value.shape is None else 'rank 0'}; Core ML wants rank 1 to 5."
            )
        if kind not in ("f", "i", "u") or (value.dtype is not None and value.dtype.itemsize > 8):
            raise TargetError(
                f"The input {value.name!r} holds {value.dtype}; Core ML's inputs are floats or 32-bit integers."
            )


def _about(graph: Graph) -> dict[str, str]:
    """The source model's own metadata."""
    return {key: text for key, text in graph.metadata.items() if text}
