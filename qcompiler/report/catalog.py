"""What there is, for the terminal: a model, the targets, the passes."""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.padding import Padding

from qcompiler.ir.text import type_text
from qcompiler.report import words
from qcompiler.report.node_table import constant_bytes
from qcompiler.report.rich_tables import Text, fields, grid, table

if TYPE_CHECKING:
    from qcompiler.ir.graph import Graph
    from qcompiler.pass_manager import Pass
    from qcompiler.target import Kernel, Row, Target

_QUANTIZED_OPS = (
    "QuantizeLinear",
    "DequantizeLinear",
    "DynamicQuantizeLinear",
    "MatMulInteger",
    "ConvInteger",
)
_MOST_OPS = 20


# -- models ------------------------------------------------------------------------------------------------


def model_summary(graph: Graph, *, full: bool = False) -> RenderableType:
    """A model at a glance: interface, operators, parameters, and what of it is quantized already.

    Args:
        graph: The model.
        full: Whether all kinds of operators are listed, however many.
    """
    nodes = graph.topological()
    ops = Counter(f"{node.domain}.{node.op}" if node.domain else node.op for node in nodes)
    floats = [
        value.data for value in graph.constants if value.data is not None and value.data.dtype.kind == "f"
    ]
    quantized = {
        name: count for name, count in ops.items() if name in _QUANTIZED_OPS or name.startswith("QLinear")
    }
    dynamic = dict.fromkeys(
        str(dim) if dim is not None else "?"
        for value in (*graph.inputs, *graph.outputs)
        for dim in value.shape or ()
        if not isinstance(dim, int)
    )
    others = "".join(f", {domain} {number}" for domain, number in sorted(graph.other_opsets.items()))
    producer = " ".join(filter(None, graph.producer))
    rows: list[tuple[str, RenderableType]] = [
        ("Model", Text(graph.name + (f", made by {producer}" if producer else ""))),
        ("Inputs", Text("\n".join(f"{value.name}: {type_text(value)}" for value in graph.inputs) or "none")),
        (
            "Outputs",
            Text("\n".join(f"{value.name}: {type_text(value)}" for value in graph.outputs) or "none"),
        ),
        ("Open dims", Text(", ".join(dynamic) or "none")),
        ("Opset", Text(f"{graph.opset}{others}")),
        (
            "Parameters",
            Text(
                f"{sum(data.size for data in floats):,} floats, {words.size_text(constant_bytes(graph))} of constants"
            ),
        ),
        (
            "Quantized",
            Text(", ".join(f"{count:,} {name}" for name, count in sorted(quantized.items())) or "nothing"),
        ),
        ("Nodes", Text(f"{len(nodes):,}")),
    ]
    return Group(fields(rows), Padding(_histogram(ops, len(ops) if full else _MOST_OPS), (0, 0, 0, 2)))


def _histogram(ops: Mapping[str, int], most: int) -> RenderableType:
    ranked = sorted(ops.items(), key=lambda item: (-item[1], item[0]))
    widest = max(ops.values(), default=1)
    body = grid()
    body.columns[0].no_wrap = False
    body.columns[0].overflow = "fold"
    for name, count in ranked[:most]:
        body.add_row(Text(name), Text(f"{count:>6,} {'■' * max(1, round(24 * count / widest))}"))
    if len(ranked) > most:
        rest = sum(count for _, count in ranked[most:])
        body.add_row(Text(f"{len(ranked) - most} other ops"), Text(f"{rest:>6,}  --full lists them"))
    return body


# -- targets -----------------------------------------------------------------------------------------------


def targets_table(targets: Iterable[Target]) -> RenderableType:
    """The targets: what they take, and for which devices."""
    body = table("target", "what it is", "formats", "writes")
    for target in targets:
        devices = [f"{name}*" if name == target.default_device else name for name in target.device]
        title = Text(target.title)
        if devices:
            title.add(f"\n{', '.join(devices)}", style="dim")
        body.add_row(
            Text(target.name, style="bold"),
            title,
            Text(", ".join(_formats(target))),
            Text(target.artifact or "reference.onnx", overflow="fold"),
        )
    return Group(
        body, "", Text("* the device when none is asked for: TARGET:DEVICE asks for one", style="dim")
    )


def _formats(target: Target) -> list[str]:
    """The formats that rows of the target take, each once."""
    specs = [
        spec for kernel in target.kernel for row in kernel.row for spec in target.row_specs(row).values()
    ]
    return list(dict.fromkeys(spec.format for spec in specs if spec.is_quantized))


def target_page(target: Target) -> RenderableType:
    """A whole target: devices, encodings, and every kernel with its rows, limits, sources and tests."""
    head = Text(target.name, style="bold")
    head.add(f"  {target.title}", style="not bold")
    rows = [kernel_row for kernel in target.kernel for kernel_row in kernel.row]
    verified = sum(bool(row.verified) for row in rows)
    about: list[tuple[str, RenderableType]] = [
        ("Writes", Text(target.artifact or "reference.onnx")),
        ("Floats", Text(", ".join(target.float_formats))),
        ("Layout", Text(target.layout)),
        ("Inputs, outputs", Text(target.io)),
        (
            "Rows",
            Text(
                f"{len(rows)} in {words.count_text(len(target.kernel), 'kernel')}; {verified} verified by a test"
            ),
        ),
        ("Prepares with", Text(", ".join(target.prepare) or "nothing")),
        ("Sources", Text(target.source or "–")),
    ]
    about += [
        (f"--target-option {name}", Text(f"{option.offer}. {option.meaning}"))
        for name, option in target.option.items()
    ]
    parts: list[RenderableType] = [head, Padding(fields(about), (0, 2))]
    if target.device:
        parts += ["", Text("Devices", style="bold"), Padding(_devices(target), (0, 2))]
    if target.encoding:
        encodings = fields((name, Text(str(spec))) for name, spec in target.encoding.items())
        parts += ["", Text("Encodings", style="bold"), Padding(encodings, (0, 2))]
    parts += ["", Text("Kernels", style="bold")]
    for kernel in target.kernel:
        parts.append(Padding(_kernel(target, kernel), (0, 2, 1, 2)))
    return Group(*parts)


def _devices(target: Target) -> RenderableType:
    body = table("device", "title", "formats")
    for name, device in target.device.items():
        title = Text(device.title)
        if device.note:
            title.add(f"\n{device.note}", style="dim")
        mark = "*" if name == target.default_device else ""
        body.add_row(Text(f"{name}{mark}"), title, Text(", ".join(device.formats) or "all"))
    return body


def _kernel(target: Target, kernel: Kernel) -> RenderableType:
    head = Text(kernel.name, style="bold")
    if kernel.quantize != "always":
        head.add(f"  quantized {kernel.quantize.replace('-', ' ')}", style="not bold")
    about = [("pattern", " ".join(kernel.pattern.split()))]
    about += [("only if", limit_text(limit)) for limit in kernel.limits]
    about += [(name, text) for name, text in (("note", kernel.note), ("source", kernel.source)) if text]
    parts: list[RenderableType] = [head, Padding(fields((name, Text(text)) for name, text in about), (0, 2))]
    if not kernel.row:
        parts.append(Padding(Text("float only: it has no rows", style="dim"), (0, 2)))
    parts += [Padding(_row(target, row), (0, 2)) for row in kernel.row]
    return Group(*parts)


def _row(target: Target, row: Row) -> RenderableType:
    operands = ", ".join(f"{operand} {name}" for operand, name in row.operands.items()) or "floats"
    about = [("reads", operands), ("writes", " or ".join(row.output))]
    if row.same:
        about.append(("same", f"{', '.join(row.same)} share one encoding"))
    about += [("only if", limit_text(limit)) for limit in row.limits]
    if target.device_refusal(row):
        about.append(("not on", str(target.device_refusal(row))))
    about.append(("source", row.source or "none given"))
    about.append(("tested", row.verified or "unverified"))
    return Group(Text(f"row {row.name}"), Padding(fields((name, Text(text)) for name, text in about), (0, 2)))


def limit_text(limit: Mapping[str, Any]) -> str:
    """A limit of a descriptor, short: `rank(x, accepted 3, 4, 5): its reason`."""
    parts = []
    for key, given in limit.items():
        if key in ("check", "reason"):
            continue
        text = ", ".join(map(str, given)) if isinstance(given, list | tuple) else str(given)
        parts.append(text if key in ("operand", "operands") else f"{key} {text}")
    reason = limit.get("reason")
    return f"{limit['check']}({'; '.join(parts)})" + (f": {reason}" if reason else "")


# -- passes ------------------------------------------------------------------------------------------------


def passes_table(passes: Sequence[type[Pass]]) -> RenderableType:
    """The passes: effect, what they need and give, and what they do."""
    body = table("pass", "effect", "what it does")
    for entry in passes:
        body.add_row(Text(entry.name, style="bold"), Text(entry.effect.value), Text(entry.summary()))
    return body


def pass_page(entry: type[Pass]) -> RenderableType:
    """One pass: effect, facts, options with types and defaults, and its documentation."""
    head = Text(entry.name, style="bold")
    head.add(f"  {entry.effect.value}", style="not bold")
    facts: list[tuple[str, RenderableType]] = [
        (title, Text("\n".join(f"{fact.name}: {fact.meaning}" for fact in given) or "nothing"))
        for title, given in (
            ("Requires", entry.requires),
            ("Establishes", entry.establishes),
            ("Invalidates", entry.invalidates),
        )
    ]
    parts: list[RenderableType] = [head, "", Text(_flowing(inspect.cleandoc(entry.__doc__ or ""))), ""]
    parts += [fields(facts), ""]
    options = entry.options()
    if not options:
        return Group(*parts, Text("It has no options."))
    body = table("option", "type", "default")
    for name, (kind, default) in options.items():
        body.add_row(Text(name, style="bold"), Text(kind_text(kind)), Text(default_text(default)))
    return Group(*parts, body)


def _flowing(text: str) -> str:
    """A docstring whose paragraphs can be wrapped anew: only indented lines keep their breaks."""
    paragraphs = [
        block if "\n " in block or block.startswith(" ") else " ".join(block.split())
        for block in text.split("\n\n")
    ]
    return "\n\n".join(paragraphs)


def kind_text(kind: Any) -> str:
    """A type as users think of it: `a number`, `one of min-max, mse`, `an integer or none`."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return f"one of {', '.join(map(str, arguments))}"
    if origin in (typing.Union, types.UnionType):
        return " or ".join("none" if item is type(None) else kind_text(item) for item in arguments)
    if origin is tuple:
        return f"{kind_text(arguments[0])}, several joined by +"
    plain = {int: "an integer", float: "a number", str: "text", bool: "true or false"}
    return plain.get(kind, getattr(kind, "__name__", str(kind)))


def default_text(default: Any) -> str:
    """A default as on the command line."""
    if default is dataclasses.MISSING:
        return "required"
    if default is None:
        return "none"
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, tuple):
        return "+".join(map(str, default)) or "none"
    return str(default) if default != "" else '""'
