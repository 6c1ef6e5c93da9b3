"""compile(): a model, data and a target go in; a verified artifact comes out."""

from __future__ import annotations

import functools
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx

from qcompiler.artifact import REFERENCE, Artifact, file_sha256, write_json, writing
from qcompiler.compilation import limits
from qcompiler.compilation.measurement import Measurement
from qcompiler.compilation.request import Request
from qcompiler.compilation.search import Search
from qcompiler.compilation.transformation import Made, Transformation
from qcompiler.data import Data
from qcompiler.decision import DECISION
from qcompiler.ir.graph import Graph
from qcompiler.ir.onnx_export import save
from qcompiler.ir.plan import Plan
from qcompiler.lowering import Consumer, Lowered, LowerJob, Verification, VerifyJob
from qcompiler.options import make_options
from qcompiler.pass_manager import Progress
from qcompiler.pipeline import PassRecord
from qcompiler.report.html import render_html
from qcompiler.report.table import make_report, manifest
from qcompiler.sensitivity import SENSITIVITY
from qcompiler.target import Target
from qcompiler.target_options import recorded_options
from qcompiler.targets import part

if TYPE_CHECKING:
    from qcompiler.evaluation import Evaluation


@dataclass(frozen=True)
class Result:
    """What came of a compilation.

    Attributes:
        report: The content of report.json.
        plan: The plan.
        graph: The reference graph, with Q/DQ.
        records: What each pass did.
        output: The folder; None when none was asked for.
        verification: What the target's consumer said; None without one.
        within_budget: Whether every stated budget is met.
    """

    report: dict[str, Any]
    plan: Plan
    graph: Graph
    records: tuple[PassRecord, ...]
    output: Path | None
    verification: Verification | None
    within_budget: bool


def compile(  # noqa: A001 - qc.compile is what people expect to write
    model: str | Path | onnx.ModelProto | Graph,
    target: str | Path | Target,
    calibration: Data | None = None,
    *,
    evaluation: Data | None = None,
    output: str | Path | None = None,
    progress: Progress | None = None,
    on_pass: Callable[[PassRecord], None] | None = None,
    **options: Any,
) -> Result:
    """Compiles a model for a target.

    Args:
        model: A path, a proto, or a graph (which is copied).
        target: `NAME`, `NAME:DEVICE`, `FILE.toml`, or a `Target`.
        calibration: Data to choose ranges on: see `qcompiler.data`.
        evaluation: Data to measure on; the calibration data are used, without labels, when there are none.
        output: The folder to write; it appears whole or not at all.
        progress: Called with (what, done, total).
        on_pass: Called with each pass's record.
        **options: The fields of `Options`.

    Raises:
        QCompilerError: Bad input; the message says what is wrong, where, and what to do.
    """
    started = time.perf_counter()
    request = Request.of(model, target, calibration, evaluation, output, make_options(options))
    return _Compilation(request, progress or (lambda what, done, total: None), on_pass, started).run()


class _Compilation:
    """One run, in order: transform, or search for what to transform to; write, measure, verify."""

    def __init__(
        self,
        request: Request,
        progress: Progress,
        on_pass: Callable[[PassRecord], None] | None,
        started: float,
    ) -> None:
        self.request = request
        self.progress = progress
        self.started = started
        self.transformation = Transformation(request, progress, on_pass)
        self.measurement = Measurement(request, progress)
        self.search: Search | None = None

    def run(self) -> Result:
        """Makes and measures, and writes if a folder was asked for."""
        if self.request.options.searches:
            self.search = Search(self.request, self.transformation, self.measurement)
            made = self.search.run()
        else:
            made = self.transformation.run(self.request.graph)
        if self.request.output is None:
            return self._result(made, None, self.measurement.of(made, None, None, None), None)
        with writing(self.request.output, force=self.request.options.force) as artifact:
            return self._write(made, artifact)

    def _write(self, made: Made, artifact: Artifact) -> Result:
        graph, plan, target, data = made.graph, made.plan, self.request.target, self.request.data
        save(graph, artifact.folder / REFERENCE)
        (artifact.folder / "plan.json").write_text(plan.to_json() + "\n", encoding="utf-8")
        lowered = self._lowered(made, artifact)
        verifier = part(target, "verify")
        shapes = data.sample_shapes if data is not None else {}
        job = VerifyJob(
            artifact.folder, lowered, graph, plan, target, data, shapes, self.request.target_options
        )
        make: Callable[[VerifyJob], Consumer] | None = getattr(verifier, "consumer", None)
        consumer = make(job) if make is not None else None
        evaluation = self.measurement.of(made, artifact, lowered, consumer)
        verification: Verification | None = None
        if verifier is not None:
            self.progress("verifying", 0, 1)
            verification = consumer.verification() if consumer is not None else verifier.verify(job)
            self.progress("verifying", 1, 1)
        self._write_front(artifact)
        result = self._result(made, lowered, evaluation, verification)
        write_json(artifact.folder / "report.json", result.report)
        (artifact.folder / "report.html").write_text(render_html(result.report), encoding="utf-8")
        write_json(artifact.folder / "manifest.json", self._manifest(artifact))
        return result

    def _lowered(self, made: Made, artifact: Artifact) -> Lowered | None:
        """What the target's code writes; None where it has none."""
        target, options, lower = self.request.target, self.request.options, part(self.request.target, "lower")
        if lower is None:
            return None
        job = LowerJob(
            made.graph,
            made.plan,
            target,
            artifact,
            self.request.data,
            options.max_ram,
            options.max_flash,
            options.io or next(iter(target.io_types), ""),
            options.allow_cpu,
            self.request.target_options,
        )
        lowered: Lowered = lower.lower(job)
        return lowered

    def _write_front(self, artifact: Artifact) -> None:
        """The plans of the front's points, each of which can be given to --plan, and their table."""
        if self.search is None or not self.search.front:
            return
        (artifact.folder / "pareto").mkdir()
        points = self.search.points()
        for point, trial in zip(points, self.search.front, strict=True):
            (artifact.folder / point["plan"]).write_text(trial.plan.to_json() + "\n", encoding="utf-8")
        write_json(artifact.folder / "pareto" / "front.json", {"points": points})

    def _result(
        self,
        made: Made,
        lowered: Lowered | None,
        evaluation: Evaluation | None,
        verification: Verification | None,
    ) -> Result:
        request, search, graph, plan = self.request, self.search, made.graph, made.plan
        size = functools.partial(self.measurement.size, graph, plan)
        narrow = search.narrow if search is not None else 0
        unmet = limits.unmet(request.options, request.target, graph, plan, size, evaluation, narrow)
        unmet += lowered.unmet if lowered is not None else ()
        report = make_report(
            graph=graph,
            source=request.source,
            model_name=request.model_path.name if request.model_path is not None else request.source.name,
            model_sha256=request.model_sha256 or "",
            float_bytes=request.float_bytes(),
            target=request.target,
            plan=plan,
            records=made.records,
            evaluation=evaluation,
            evaluated_on="evaluation" if request.evaluation is not None else "calibration",
            lowered=lowered,
            size=lowered.size if lowered is not None else size(),
            verification=verification,
            budget={"asked": limits.asked(request.options), "met": not unmet, "unmet": unmet},
            decision=graph.facts.get(DECISION),
            sensitivity=request.graph.facts.get(SENSITIVITY),
            search=search.steps if search is not None else [],
            widths=search.widths if search is not None else [],
            pareto=search.points() if search is not None else [],
            seconds=time.perf_counter() - self.started,
            peak_rss_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        )
        return Result(report, plan, graph, made.records, request.output, verification, not unmet)

    def _manifest(self, artifact: Artifact) -> dict[str, Any]:
        request, given = self.request, self.request.options
        options = {
            "target": request.target.label,
            "float_format": request.float_format,
            "pipeline": str(request.pipeline),
            "metric": request.metric.name if request.metric is not None else "auto",
            **{name: getattr(given, name) for name in limits.LIMITS},
            "dimensions": dict(given.dimensions),
            "target_options": recorded_options(request.target, request.target_options),
            "minimise": given.minimise,
            "pareto": given.pareto,
            "plan": "given" if request.plan is not None else None,
        }
        inputs = {
            "model": request.model_sha256,
            "calibration": request.calibration.sha256() if request.calibration is not None else None,
            "evaluation": request.evaluation.sha256() if request.evaluation is not None else None,
            "descriptor": file_sha256(Path(request.target.file)),
        }
        hashes = {
            name: digest for name, digest in artifact.hashes().items() if not name.startswith("report.")
        }
        return manifest(inputs, options, hashes)
