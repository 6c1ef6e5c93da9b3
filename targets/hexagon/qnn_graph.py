"""The graph that the QNN provider made of a model: which operators compute on what, and which nodes of the model they are."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qcompiler.errors import TargetError

_TRACE = "qnn_op_trace.json"
_LAYOUT = re.compile(r"_token_\d+$")
"""What onnxruntime appends to the names of nodes whose axes it reorders."""
_RIM, _INPUT, _OUTPUT = ("Quantize", "Dequantize", "Cast"), 0, 1
_KINDS = {0x0: "int", 0x1: "uint", 0x2: "float", 0x3: "sfixed", 0x4: "ufixed", 0x5: "bool"}


@dataclass(frozen=True)
class QnnOp:
    """An operator of the HTP.

    Attributes:
        name: Its name.
        kind: Its type, such as "Conv2d".
        nodes: The nodes of the model that became it, Q/DQ among them.
        operands: Types of what it reads: "ufixed8", "float16", ...
        results: Types of what it writes.
        at_rim: Whether it does nothing but take an input of the model to codes, or codes to an output.
    """

    name: str
    kind: str
    nodes: tuple[str, ...]
    operands: tuple[str, ...]
    results: tuple[str, ...]
    at_rim: bool

    @property
    def in_floats(self) -> bool:
        """Whether it computes on or to floats, the rim aside."""
        return not self.at_rim and any(kind.startswith("float") for kind in (*self.operands, *self.results))


@dataclass(frozen=True)
class QnnGraph:
    """All operators, of all parts that the provider took."""

    ops: tuple[QnnOp, ...]

    @property
    def float_ops(self) -> tuple[QnnOp, ...]:
        """The operators in floats."""
        return tuple(op for op in self.ops if op.in_floats)


def read_graph(folder: Path) -> QnnGraph:
    """Reads what the provider dumped into a folder.

    Raises:
        TargetError: It dumped nothing, or in another form than is known.
    """
    try:
        sources = _sources(json.loads((folder / _TRACE).read_text(encoding="utf-8")))
        files = sorted(path for path in folder.glob("*.json") if path.name != _TRACE)
        graphs = [json.loads(path.read_text(encoding="utf-8")) for path in files]
        ops = [op for graph in graphs if "graph" in graph for op in _ops(graph["graph"], sources)]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TargetError(f"The QNN provider's own dump of its graph cannot be read: {error}") from error
    if not ops:
        raise TargetError("The QNN provider dumped no graph, so nobody knows what the HTP would compute.")
    return QnnGraph(tuple(ops))


def _sources(trace: dict[str, Any]) -> dict[str, tuple[str, ...]]:
    """Operator to the nodes that it came from, by their names in the model."""
    found: dict[str, tuple[str, ...]] = {}
    for part in trace["subgraph_traces"]:
        for entry in part["op_mappings"]:
            names = (item["name"] for item in entry["sources"] if item["type"] == "OP")
            found[entry["dst_name"]] = tuple(dict.fromkeys(_LAYOUT.sub("", name) for name in names))
    return found


def _ops(graph: dict[str, Any], sources: dict[str, tuple[str, ...]]) -> Iterator[QnnOp]:
    tensors = graph["tensors"]
    for name, node in graph["nodes"].items():
        read, written = ([tensors[item] for item in node[key]] for key in ("input_names", "output_names"))
        ends = any(tensor["type"] == _INPUT for tensor in read) or any(
            tensor["type"] == _OUTPUT for tensor in written
        )
        nodes = sources.get(name, (_LAYOUT.sub("", name),))
        types = [
            tuple(_type(int(tensor["data_type"])) for tensor in side if tensor["data_type"] is not None)
            for side in (read, written)
        ]
        yield QnnOp(name, node["type"], nodes, types[0], types[1], node["type"] in _RIM and ends)


def _type(code: int) -> str:
    """A QNN data type in words: its high byte is the kind, its low one the bits, as two decimal digits."""
    kind = _KINDS.get(code >> 8, f"type{code >> 8}-")
    return f"{kind}{code & 0xFF:x}"
