"""Reads the kernels of a finished TensorRT-RTX engine out of the builder's log.

That log is the only view of an engine without a GPU: the engine inspector needs one. At verbose severity and detailed
profiling the builder prints one message that starts with ``Layers:`` and has one record per kernel
(TensorRT-RTX 1.7)::

    Name: conv1_myl0_2, LayerType: correlation, Inputs: [ { Name: x_q, Dimensions: [-1,16,8,8], Strides: [..],
    StrideOrder: [..], Datatype: Int8, Format: .. }], Constants: [ {..}, {..}], Outputs: [ {..}], TacticName: ..,
    StreamId: 0, Metadata: [ONNX Layer: conv1][ONNX Layer: x/DequantizeLinear]

It looks like JSON but is not: names are unquoted and may hold brackets, commas and line breaks. The nodes are
therefore given aliases before the build, so that the metadata holds only names made here, and a record is cut
at its fixed keys, never at punctuation.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence, Set

WEIGHTED_OPS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})

# Kernels that multiply in the type of their operands. Every other kind that holds a weighted node (runtime_fusion:
# weight-only; kgen: generated elementwise code) turns its operands into float first, even when it reads int8 twice.
_MATH_KINDS = frozenset({"correlation", "gemm", "deconv", "mha"})
NARROW = ("Int8", "FP8", "Int4", "FP4")

LIST_OF_KERNELS = "Layers:"
"""How the message that lists the kernels begins."""

ALIAS = "onnx_node_{}"
"""What a node is called while it is built, by its position in the graph."""
_ALIAS_PATTERN = re.compile(r"\bonnx_node_(\d+)\b")
_RECORD = re.compile(
    r".*?, LayerType: (?P<kind>\w+), Inputs: \[(?P<inputs>.*?)\], Constants: \[(?P<constants>.*?)\], "
    r"Outputs: \[(?P<outputs>.*?)\], TacticName: (?P<tactic>.*?), .*?Metadata: (?P<metadata>.*)",
    re.DOTALL,
)
_OPERAND = re.compile(
    r"\{ Name: (.*?), Dimensions: \[([-\d,]*)\], Strides: .*?Datatype: (\w+), Format: ", re.DOTALL
)


@dataclass(frozen=True, slots=True)
class Operand:
    """A tensor as a kernel reads or writes it; ``dtype`` is the builder's word (Float, Half, Int8, FP8, ...)."""

    tensor: str
    dimensions: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, slots=True)
class KernelLayer:
    """One kernel of the engine, with the ONNX nodes that went into it."""

    kind: str
    nodes: tuple[str, ...]
    inputs: tuple[Operand, ...]
    constants: tuple[Operand, ...]
    outputs: tuple[Operand, ...]

    @property
    def data_dtype(self) -> str:
        """The type of the first operand."""
        return next((o.dtype for o in (*self.inputs, *self.constants)), "")

    @property
    def weight_dtype(self) -> str:
        """The type of the second operand: the narrow one if there is any (the others are scales and biases)."""
        others = [o.dtype for o in (*self.inputs, *self.constants)][1:]
        return next((dtype for dtype in others if dtype in NARROW), self.data_dtype if others else "")

    @property
    def math_dtype(self) -> str:
        """The narrow type in which the kernel multiplies, or Float (of any width)."""
        same = self.data_dtype == self.weight_dtype and self.data_dtype in NARROW
        return self.data_dtype if same and self.kind in _MATH_KINDS else "Float"


def with_labels(text: str, labels: Sequence[str]) -> str:
    """Put the nodes' own names back where the text has aliases."""

    def label(match: re.Match[str]) -> str:
        index = int(match[1])
        return labels[index] if index < len(labels) else match[0]

    return _ALIAS_PATTERN.sub(label, text)


def read_layers(text: str, labels: Sequence[str]) -> Iterator[KernelLayer]:
    """Read the records of the message that lists the kernels."""
    records = (_RECORD.match(part) for part in text.split("\nName: ")[1:])
    for record in filter(None, records):
        # Fused attention is listed as generated code; only its tactic tells.
        kind = "mha" if record["tactic"].startswith("_gemm_mha") else record["kind"]
        nodes = (labels[int(i)] for i in _ALIAS_PATTERN.findall(record["metadata"]) if int(i) < len(labels))
        yield KernelLayer(
            kind,
            tuple(nodes),
            *(tuple(_operands(record[k])) for k in ("inputs", "constants", "outputs")),
        )


def _operands(text: str) -> Iterator[Operand]:
    for name, dimensions, dtype in _OPERAND.findall(text):
        yield Operand(name, tuple(int(d) for d in dimensions.split(",") if d), dtype)


def weighted_kernels(layers: Sequence[KernelLayer], ops: Mapping[str, str]) -> dict[str, KernelLayer]:
    """Find the kernel that computes each weighted node: the one that multiplies, not its epilogue.

    A node split over several such kernels counts as what its least quantized part is.
    """
    found: dict[str, KernelLayer] = {}
    for layer in layers:
        for node in layer.nodes:
            if ops[node] in WEIGHTED_OPS:
                best = found.get(node)
                if best is None or _rank(layer) < _rank(best):
                    found[node] = layer
    return found


def _rank(layer: KernelLayer) -> tuple[bool, bool]:
    return layer.kind not in _MATH_KINDS and layer.kind != "runtime_fusion", layer.math_dtype != "Float"


def residual_adds(layers: Sequence[KernelLayer], additions: Set[str]) -> dict[str, str]:
    """Find additions of two computed values in kernels that read the raw result of a multiplying kernel and one more tensor."""
    raw = {o.tensor for layer in layers if layer.kind in _MATH_KINDS for o in layer.outputs}
    found = {}
    for layer in layers:
        adds = [node for node in layer.nodes if node in additions]
        if adds and len(layer.inputs) > 1 and any(o.tensor in raw for o in layer.inputs):
            others = [o.dtype for o in layer.inputs if o.tensor not in raw] or ["Float"]
            found.update(dict.fromkeys(adds, "Int8" if "Int8" in others else others[0]))
    return found
