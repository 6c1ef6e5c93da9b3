"""report.json and manifest.json: what was compiled, how, why, and how well."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from qcompiler.artifact import version
from qcompiler.report.node_table import bits_per_weight, node_rows, weight_rows

if TYPE_CHECKING:
    from qcompiler.decision import Decision
    from qcompiler.evaluation import Evaluation
    from qcompiler.ir.graph import Graph
    from qcompiler.ir.plan import Plan
    from qcompiler.lowering import Lowered, Verification
    from qcompiler.pipeline import PassRecord
    from qcompiler.sensitivity import Sensitivity
    from qcompiler.target import Target

_PACKAGES = ("onnx", "onnxruntime", "numpy", "scipy", "networkx")


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
    size: int,
    verification: Verification | None,
    budget: dict[str, Any],
    decision: Decision | None,
    sensitivity: Sensitivity | None,
    search: list[dict[str, Any]],
    widths: list[dict[str, Any]],
    pareto: list[dict[str, Any]],
    seconds: float,
    peak_rss_bytes: int,
) -> dict[str, Any]:
    """The content of report.json; docs/report.md lists the keys."""
    nodes, weights = node_rows(graph, plan, decision), weight_rows(graph, plan)
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
            "note": target.chosen.note,
        },
        "quantized": _quantized(nodes),
        "nodes": nodes,
        "weights": weights,
        "weight_bits": bits_per_weight(graph, plan, target.scale_bytes),
        "size_bytes": {
            "float": float_bytes,
            "compiled": size,
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
        "artifact": {"main": lowered.main, "next_step": lowered.next_step, "details": dict(lowered.details)}
        if lowered is not None
        else None,
        "verify": _verify(verification, evaluation),
        "budget": budget,
        "assignment": decision.to_json() if decision is not None else None,
        "sensitivity": _sensitivity(sensitivity),
        "search": search,
        "widths": widths,
        "pareto": pareto,
    }


def _sensitivity(sensitivity: Sensitivity | None) -> dict[str, Any] | None:
    """The losses of all forms, as they were measured."""
    if sensitivity is None:
        return None
    return {
        "measure": sensitivity.measure,
        "samples": sensitivity.samples,
        "losses": [
            {
                "value": value,
                "encoding": encoding,
                "axis": axis,
                "loss": loss.mean,
                "error": loss.error,
                "measured": loss.measured,
            }
            for (value, encoding, axis), loss in sensitivity.losses.items()
        ],
    }


def _quantized(nodes: list[dict[str, Any]]) -> dict[str, Any]:
    """How many weighted nodes, and regions, compute on quantized operands, and how many there are."""
    weighted = [row["quantized"] for row in nodes if row["kind"] == "weighted"]
    regions = {row["region"]: row["quantized"] for row in nodes}
    return {
        "weighted_nodes": sum(weighted),
        "all_weighted_nodes": len(weighted),
        "regions": sum(regions.values()),
        "all_regions": len(regions),
    }


def _metric(evaluation: Evaluation | None, evaluated_on: str) -> dict[str, Any] | None:
    if evaluation is None:
        return None
    metric, models = evaluation.metric, evaluation.models
    table: dict[str, Any] = {label: measured.metric for label, measured in models.items()}
    last = list(models.values())[-1]
    return {
        "name": metric.name,
        "unit": metric.unit,
        "higher_is_better": metric.higher_is_better,
        "samples": evaluation.samples,
        "data": evaluated_on,
        "float": table.get("float"),
        "reference": table.get("reference"),
        "artifact": table.get("artifact"),
        "drop": metric.drop(models["float"].metric, last.metric),
        "drop_error": evaluation.drop_error(list(models)[-1]),
        "against_float": {
            label: {
                "sqnr_db": measured.sqnr_db,
                "max_abs_diff": measured.max_abs_diff,
                "mean_abs_diff": measured.mean_abs_diff,
            }
            for label, measured in models.items()
            if label != "float"
        },
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
