"""Reads what `compile` wrote."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qcompiler.errors import ModelError

if TYPE_CHECKING:
    from qcompiler.ir.graph import Graph
    from qcompiler.ir.plan import Plan


@dataclass(frozen=True)
class Compiled:
    """An output folder.

    Attributes:
        folder: Where it is.
        report: The content of its report.json.
    """

    folder: Path
    report: dict[str, Any]

    @classmethod
    def open(cls, folder: Path) -> Compiled:
        """Reads the report.

        Raises:
            ModelError: The folder was not written by a compilation, or is damaged.
        """
        path = folder / "report.json"
        if not path.is_file():
            raise ModelError(f"{folder} has no report.json: give a folder that `qcompiler compile` wrote.")
        try:
            report = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ModelError(f"{path} is damaged ({error}); compile again.") from error
        if not isinstance(report, dict) or not {"qcompiler", "nodes", "target"} <= set(report):
            raise ModelError(
                f"{path} is no report of a compilation; give a folder that `qcompiler compile` wrote."
            )
        return cls(folder, report)

    @property
    def model(self) -> Path:
        """The model that runs in onnxruntime: what the target takes where that is ONNX, else the reference."""
        artifact = self.report.get("artifact")
        main = artifact["main"] if artifact is not None else ""
        return self.folder / (main if main.endswith(".onnx") else "reference.onnx")

    def plan(self) -> Plan:
        """The plan.

        Raises:
            PlanError: It is damaged.
        """
        from qcompiler.ir.plan import Plan

        path = self.folder / "plan.json"
        return Plan.from_json(path.read_text(encoding="utf-8"), str(path))


def open_graph(what: str) -> Graph:
    """The graph of a model file, or the one that runs of a folder that `compile` wrote.

    Raises:
        ModelError: There is none, or it is damaged.
    """
    from qcompiler.ir.onnx_import import load

    path = Path(what)
    return load(Compiled.open(path).model if path.is_dir() else path)


def is_quantized(graph: Graph) -> bool:
    """Whether the graph has Q/DQ, whose exact semantics onnxruntime's optimizations would change."""
    return any(node.op in ("QuantizeLinear", "DequantizeLinear") for node in graph.topological())
