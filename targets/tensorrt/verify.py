"""Verification for TensorRT: NVIDIA's own parser and builder where installed, the static rules in any case."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qcompiler.ir.onnx_import import read_proto
from qcompiler.lowering import Verification, VerifyJob
from qcompiler.targets.tensorrt import builder
from qcompiler.targets.tensorrt.lower import MODEL
from qcompiler.targets.tensorrt.rules import check_rules

if TYPE_CHECKING:
    from qcompiler.ir.plan import Plan
    from qcompiler.targets.tensorrt.builder import BuildReport

_WEIGHTED = ("Conv", "Gemm", "MatMul", "ConvTranspose")


def verify(job: VerifyJob) -> Verification:
    """Checks the rules; builds an engine if the builder is there and compares what it computes in int8 with the plan."""
    path = job.folder / MODEL
    violations = check_rules(read_proto(path))
    broken = tuple(f"{item.rule}: {item.message}" for item in violations if item.severity != "warning")
    warnings = tuple(f"{item.rule}: {item.message}" for item in violations if item.severity == "warning")
    version = builder.available()
    if version is None:
        summary = (
            f"{'no' if not broken else len(broken)} broken rules for Q/DQ (checked statically). No TensorRT builder was there: "
            'pip install "qcompiler[tensorrt]" adds one that needs no GPU.'
        )
        return Verification(
            "static rules", "", False, not broken, summary, broken, details={"warnings": list(warnings)}
        )
    shapes = {name: (1, *shape) for name, shape in job.input_shapes.items()}
    report = builder.build(
        path.read_bytes(),
        device=job.target.chosen_device,
        shapes=shapes,
        external_data=job.folder if _is_external(job) else None,
    )
    problems = (*broken, *_problems(report, job.plan))
    kept = len(report.int8_weighted | report.fp8_weighted | report.weight_only)
    summary = f"{kept} of {len(report.weighted)} convolutions and matrix products got quantized operands"
    summary += ", as planned" if not problems else f"; {len(problems)} differ from the plan"
    summary += f" ({report.note or f'built for {report.built_for}'})"
    details = {
        "built_for": report.built_for,
        "note": report.note,
        "int8": sorted(report.int8_weighted),
        "fp8": sorted(report.fp8_weighted),
        "weight_only": sorted(report.weight_only),
        "float": sorted(report.float_weighted),
        "residual_adds": dict(sorted(report.residual_adds.items())),
        "kernels": len(report.layers),
        "warnings": [*warnings, *report.warnings],
    }
    return Verification(
        "TensorRT-RTX builder", version, True, not problems, summary, problems, details=details
    )


def _is_external(job: VerifyJob) -> bool:
    return (job.folder / f"{MODEL}.data").exists()


def _problems(report: BuildReport, plan: Plan) -> list[str]:
    """What the builder refused, or computes in another type than the plan says."""
    problems = [f"parser: {error}" for error in report.parser_errors] + [
        f"builder: {error}" for error in report.errors
    ]
    if not report.built:
        return problems or ["the builder made no engine and gave no reason"]
    quantized = report.int8_weighted | report.fp8_weighted | report.weight_only
    problems += [
        f"{name} is planned as {region.row}, but the builder computes it in float"
        for region in plan.regions
        for name in region.nodes
        if region.quantized and name in report.weighted and name not in quantized
    ]
    return problems
