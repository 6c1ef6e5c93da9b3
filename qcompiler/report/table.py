"""report.json and manifest.json: what was compiled, how, why, and how well."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from qcompiler import ops

if TYPE_CHECKING:
    from qcompiler.evaluation import Evaluation
    from qcompiler.ir.graph import Graph
    from qcompiler.ir.node import Node
    from qcompiler.ir.plan import Plan, PlannedGroup, PlannedRegion
    from qcompiler.lowering import Lowered, Verification
    from qcompiler.pipeline import PassRecord
    from qcompiler.target import Target

_PACKAGES = ("onnx", "onnxruntime", "numpy", "scipy", "networkx")


def version() -> str:
    """The installed version of qcompiler."""
    return importlib.metadata.version("qcompiler")


def make_report(
    *,
    graph: Graph,
    source: Graph,
    model_name: str,
    model_sha256: str,
    float_bytes: int,
    target: Target,
    plan: Plan,
    records: Sequence[PassRecord],
    evaluation: Evaluation | None,
    evaluated_on: str,
    lowered: Lowered | None,
    verification: Verification | None,
    budget: dict[str, Any],
    seconds: float,
    peak_rss_bytes: int,
) -> dict[str, Any]:
    """The content of report.json; docs/report.md lists the keys."""
    device = target.device.get(target.chosen_device)
    weights = _weights(graph, plan)
    return {
        "qcompiler": version(),
        "model": {
            "name": model_name,
            "sha256": model_sha256,
            "nodes": source.node_count,
            "parameters": sum(
                value.data.size
                for value in source.constants
                if value.data is not None and value.data.dtype.kind == "f"
            ),
        },
        "target": {
            "name": target.name,
            "device": target.chosen_device,
            "title": target.title,
            "note": device.note if device is not None else "",
        },
        "nodes": _nodes(graph, plan, target),
        "weight_bits": sum(count * bits for count, bits in weights)
        / max(sum(count for count, _ in weights), 1),
        "size_bytes": {
            "float": float_bytes,
            "compiled": lowered.size if lowered is not None else _constant_bytes(graph),
        },
        "metric": _metric(evaluation, evaluated_on),
        "sqnr_db": evaluation.models["reference"].sqnr_db if evaluation is not None else None,
        "passes": [
            {
                "name": record.name,
                "seconds": round(record.seconds, 6),
                "changed": record.changed,
                "counts": record.counts,
                "nodes": list(record.nodes),
                "error": record.error,
                "diagnostics": [
                    {"level": item.level.value, "node": item.node, "message": item.message}
                    for item in record.diagnostics
                ],
            }
            for record in records
        ],
        "notes": list(plan.notes),
        "seconds": round(seconds, 3),
        "peak_rss_bytes": peak_rss_bytes,
        "artifact": {"main": lowered.main, "next_step": lowered.next_step} if lowered is not None else None,
        "verify": _verify(verification, evaluation),
        "budget": budget,
    }


def _nodes(graph: Graph, plan: Plan, target: Target) -> list[dict[str, Any]]:
    regions, uses, stored = plan.region_of(), plan.group_of_use(), plan.group_of_value()
    rows = []
    for node in graph.topological():
        region = regions.get(node.name)
        if region is not None:
            rows.append(_node(node, region, uses, stored, target, plan))
    return rows


def _node(
    node: Node,
    region: PlannedRegion,
    uses: Mapping[tuple[str, int], PlannedGroup],
    stored: Mapping[str, PlannedGroup],
    target: Target,
    plan: Plan,
) -> dict[str, Any]:
    row = ops.info(node)
    read = {slot: uses.get((node.name, slot)) for slot in range(len(node.inputs))}
    inputs = [
        str(group.encoding) if group is not None else plan.float_format
        for slot, group in read.items()
        if row.role(slot) == "data"
    ]
    weight = next(
        (
            str(group.encoding)
            for slot, group in read.items()
            if row.role(slot) == "weight" and group is not None
        ),
        None,
    )
    output = next(
        (stored[value.name] for value in node.outputs if value is not None and value.name in stored), None
    )
    return {
        "name": node.name,
        "origin": list(node.origin),
        "op": node.op,
        "region": region.name,
        "kernel": region.kernel,
        "row": region.row,
        "quantized": region.quantized,
        "inputs": inputs,
        "weight": weight,
        "output": str(output.encoding) if output is not None else plan.float_format,
        "sensitivity": None,
        "reason": region.reason,
        "refused": [{"row": item.row, "reason": item.reason} for item in region.refused],
        "encodings": [
            {"slot": slot, "value": next(use.value for use in group.uses if (use.node, use.slot) == (node.name, slot)),
             "encoding": str(group.encoding), "relation": group.relation, "offset": group.offset, "reason": group.reason}
            for slot, group in read.items()
            if group is not None
        ],
    }  # fmt: skip


def _weights(graph: Graph, plan: Plan) -> list[tuple[int, int]]:
    """(elements, bits) of every weight: float constants that weighted nodes read, and codes."""
    found: dict[str, tuple[int, int]] = {}
    for node in graph.topological():
        if ops.info(node).kind != "weighted":
            continue
        value = node.input(1)
        if value is not None and value.producer is not None and value.producer.op == "DequantizeLinear":
            value = value.producer.input(0)
        if value is None or value.data is None:
            continue
        group = next(
            (
                item
                for item in plan.groups
                if any((use.node, use.slot) == (node.name, 1) for use in item.uses)
            ),
            None,
        )
        bits = group.encoding.format.bits if group is not None else value.data.dtype.itemsize * 8
        found[value.name] = (value.data.size, bits)
    return list(found.values())


def _constant_bytes(graph: Graph) -> int:
    total = 0
    for value in graph.constants:
        assert value.data is not None
        narrow = value.data.dtype.name in ("int4", "uint4", "float4_e2m1fn")
        total += (value.data.size + 1) // 2 if narrow else value.data.nbytes
    return total


def _metric(evaluation: Evaluation | None, evaluated_on: str) -> dict[str, Any] | None:
    if evaluation is None:
        return None
    table: dict[str, Any] = {label: measured.metric for label, measured in evaluation.models.items()}
    return {
        "name": evaluation.metric.name,
        "unit": evaluation.metric.unit,
        "samples": evaluation.samples,
        "data": evaluated_on,
        "float": table.get("float"),
        "reference": table.get("reference"),
        "artifact": table.get("artifact"),
    }


def _verify(verification: Verification | None, evaluation: Evaluation | None) -> dict[str, Any] | None:
    if verification is None:
        return None
    artifact = evaluation.models.get("artifact") if evaluation is not None else None
    reference = evaluation.models.get("reference") if evaluation is not None else None
    return {
        "consumer": verification.consumer,
        "version": verification.version,
        "ran": verification.ran,
        "passed": verification.passed,
        "summary": verification.summary,
        "problems": list(verification.problems),
        "max_abs_diff": verification.max_abs_diff,
        "mean_abs_diff": verification.mean_abs_diff,
        "artifact_equals_reference": artifact == reference if artifact is not None else None,
        "details": dict(verification.details),
    }


def manifest(inputs: dict[str, Any], options: dict[str, Any], files: dict[str, str]) -> dict[str, Any]:
    """The content of manifest.json: enough to make the same files again, and to see whether they are the same."""
    packages = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return {
        "qcompiler": version(),
        "python": platform.python_version(),
        "packages": packages,
        "inputs": inputs,
        "options": options,
        "files": files,
    }
