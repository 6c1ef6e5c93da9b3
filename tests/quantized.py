"""Small models compiled to QDQ graphs in tests: the passes between a float graph and a quantized one, and what came out."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcompiler.data import DataSource
from qcompiler.descriptor import load_target
from qcompiler.ir.graph import Graph
from qcompiler.ir.node import Node
from qcompiler.ir.plan import PLAN, Plan, PlannedGroup, PlannedRegion
from qcompiler.metrics import sqnr_db
from qcompiler.pass_manager import PassContext
from qcompiler.passes import find_pass
from qcompiler.pipeline import PassRecord, Pipeline
from qcompiler.runtime import Session
from qcompiler.target import Target
from qcompiler.targets import find_target

PREPARE = "fold_constants,canonicalize,fold_batch_norm,fuse_composites,canonicalize"
DECIDE = "fuse,calibrate,assign_precision"
WRITE = "correct_bias,insert_qdq"
TENSORRT = "tensorrt"

HEADER = 'schema = 1\nname = "small"\n'
ENCODINGS = """
[encoding.uint8]
format = "uint8"
symmetric = false
[encoding.int8]
format = "int8"
[encoding.weight]
format = "int8"
granularity = "per-channel"
[encoding.bias]
format = "int32"
derived = ["x", "w"]
"""
KERNELS = """
[[kernel]]
name = "conv"
pattern = "Conv(x, w, b?) -> Relu?"
[[kernel.row]]
name = "int8"
operands = { x = "uint8", w = "weight", b = "bias" }
output = ["uint8"]
limits = [{ check = "constant", operand = "w" }]
"""
WIDTHS = (
    HEADER
    + """
default_device = "chip"
io = "quantized"
[device.chip]
rate = { int8 = 1e9, int16 = 1e9 }
[device.chip.cost]
"linear/a8w8" = 1.0
"linear/a16w8" = 1.5
conversion = 2.0
[encoding.a8]
format = "int8"
symmetric = false
[encoding.a16]
format = "int16"
[encoding.w8]
format = "int8"
granularity = "per-channel"
[[kernel]]
name = "linear"
pattern = "Gemm(x, $w, $b?) -> Relu?"
[[kernel.row]]
name = "a8w8"
operands = { x = "a8", w = "w8" }
output = ["a8"]
[[kernel.row]]
name = "a16w8"
operands = { x = "a16", w = "w8" }
output = ["a16"]
[[kernel]]
name = "narrow"
pattern = "Softmax|Tanh(x)"
[[kernel.row]]
name = "a8"
operands = { x = "a8" }
output = ["a8"]
"""
)
"""A descriptor whose rows write what they read, in 8 or in 16 bits, as integer targets do; 16 bits are slower."""
SMALL = HEADER + ENCODINGS + KERNELS
"""A descriptor with uint8 activations, int32 biases and one kernel."""
TABLE_ROWS = ("shared", "scaled", "grouped")
TABLES = (
    HEADER
    + """
[encoding.shared]
format = "table4"
[encoding.scaled]
format = "table4"
granularity = "per-channel"
[encoding.grouped]
format = "table4"
granularity = "per-group"
group = 2
"""
    + "".join(
        f'[[kernel]]\nname = "{name}"\npattern = "{pattern}"\n'
        + "".join(f'[[kernel.row]]\nname = "{row}"\noperands = {{ w = "{row}" }}\n' for row in TABLE_ROWS)
        for name, pattern in (("conv", "Conv(x, $w, b?) -> Relu?"), ("linear", "Gemm(x, $w, b?)"))
    )
)
"""A descriptor with weights in tables: one, one and scales, one for every two channels."""


def target_of(folder: Path, text: str, device: str = "") -> Target:
    """A target from the text of its descriptor."""
    file = folder / "descriptor.toml"
    file.write_text(text, encoding="utf-8")
    return load_target(file, device)


@dataclass(frozen=True)
class Quantized:
    """A compiled graph with what led to it.

    Attributes:
        float_graph: The graph before.
        graph: The QDQ graph.
        plan: The plan.
        records: What each pass did.
        feeds: A batch of the calibration samples.
    """

    float_graph: Graph
    graph: Graph
    plan: Plan
    records: tuple[PassRecord, ...]
    feeds: dict[str, NDArray[Any]]

    def region(self, node: str) -> PlannedRegion:
        """The planned region of a node."""
        return self.plan.region_of()[node]

    def group(self, node: str, slot: int = 0) -> PlannedGroup:
        """The group that a use reads."""
        return self.plan.group_of_use()[node, slot]

    def node(self, op: str) -> Node:
        """The only node of an operator."""
        (found,) = (node for node in self.graph.nodes if node.op == op)
        return found

    def outputs(self) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
        """The outputs of the float and of the QDQ graph on the feeds."""
        before = Session(self.float_graph, optimize=False).run(self.feeds)
        return before, Session(self.graph, optimize=False).run(self.feeds)

    def sqnr(self) -> float:
        """The output that suffers most, in dB."""
        before, after = self.outputs()
        return min(sqnr_db(before[name], after[name]) for name in before)


def samples_for(graph: Graph, count: int = 32, seed: int = 0) -> dict[str, NDArray[Any]]:
    """Standard normal samples for the inputs of a graph."""
    rng = np.random.default_rng(seed)
    return {
        value.name: rng.standard_normal(
            (count, *(int(dim) for dim in value.shape[1:] if isinstance(dim, int)))
        ).astype(np.float32)
        for value in graph.inputs
        if value.shape is not None
    }


def quantize(
    graph: Graph,
    target: Target | str = TENSORRT,
    *,
    data: Mapping[str, NDArray[Any]] | None = None,
    plan: Plan | None = None,
    prepare: str = PREPARE,
    decide: str = DECIDE,
    write: str = WRITE,
    prefer: str | tuple[str, ...] = (),
) -> Quantized:
    """Compiles a graph (a copy of it) and checks that the result is a valid graph."""
    graph = graph.copy()
    samples = dict(data) if data is not None else samples_for(graph)
    source = DataSource.open(samples).validate(graph)
    context = PassContext(
        target=find_target(target) if isinstance(target, str) else target, calibration=source, plan=plan
    )
    records: list[PassRecord] = []
    if prepare:
        records += Pipeline.parse(prepare, find_pass).run(graph, context)
    before = graph.copy()
    later = Pipeline.parse(",".join(filter(None, (decide, write))), find_pass)
    if prefer:
        chosen = next(entry for entry in later if entry.name == "assign_precision")
        later = later.replace(
            "assign_precision",
            dataclasses.replace(chosen, prefer=(prefer,) if isinstance(prefer, str) else prefer),
        )
    records += later.run(graph, context)
    graph.verify()
    batch = next(iter(source.batches(min(source.count, 16))))
    return Quantized(before, graph, graph.facts[PLAN], tuple(records), batch)
