"""compile(): a model, data and a target go in; a verified artifact comes out."""

from __future__ import annotations

import collections
import dataclasses
import functools
import gc
import math
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from qcompiler import ops
from qcompiler.artifact import Artifact, check_destination, file_sha256, write_json, writing
from qcompiler.budget import Budget
from qcompiler.data import Data, DataSource
from qcompiler.decision import DECISION
from qcompiler.dimensions import fix_dimensions
from qcompiler.errors import ModelError, OptionError, suggest
from qcompiler.evaluation import Evaluation, Runnable, evaluate_models
from qcompiler.ir.graph import Graph
from qcompiler.ir.onnx_export import save
from qcompiler.ir.onnx_import import import_model, load
from qcompiler.ir.plan import PLAN, Plan
from qcompiler.lowering import Consumer, Lowered, LowerJob, Verification, VerifyJob
from qcompiler.metrics import metric_named
from qcompiler.options import Options, default_pipeline, make_options, read_plan
from qcompiler.pass_manager import Pass, PassContext, Progress
from qcompiler.pipeline import Checks, PassRecord, Pipeline
from qcompiler.probe import Probe, random_feeds
from qcompiler.report.html import render_html
from qcompiler.report.node_table import bits_per_weight, constant_bytes
from qcompiler.report.table import make_report, manifest
from qcompiler.runtime import Session
from qcompiler.selection import Quantity
from qcompiler.sensitivity import SENSITIVITY
from qcompiler.target import Target
from qcompiler.targets import find_target, part
from qcompiler.trials import (
    Best,
    Outcome,
    Rows,
    Trial,
    distinct,
    front,
    rows_of,
    rows_of_width,
    smallest_within,
    undominated,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qcompiler.crowds import Crowds

REFERENCE = "reference.onnx"
_LIMITS = ("max_drop", "weight_bits", "max_size", "max_latency", "max_ram", "max_flash")


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
    target: str | Target,
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
    return _Compilation(
        model, target, calibration, evaluation, output, make_options(options), progress, on_pass
    ).run()


@dataclass(frozen=True)
class _Made:
    """What the pipeline made.

    Attributes:
        graph: The reference graph.
        records: What each pass did.
        plan: The plan.
        evaluation: How it was measured already, if it was.
    """

    graph: Graph
    records: tuple[PassRecord, ...]
    plan: Plan
    evaluation: Evaluation | None = None


class _Compilation:
    """One run, in order: check everything that can be wrong, transform, measure, write, verify."""

    def __init__(
        self,
        model: str | Path | onnx.ModelProto | Graph,
        target: str | Target,
        calibration: Data | None,
        evaluation: Data | None,
        output: str | Path | None,
        options: Options,
        progress: Progress | None,
        on_pass: Callable[[PassRecord], None] | None,
    ) -> None:
        self.started = time.perf_counter()
        self.options = options
        self.progress: Progress = progress or (lambda what, done, total: None)
        self.on_pass = on_pass
        self.passed = 0
        self.search: list[dict[str, Any]] = []
        self.widths: list[dict[str, Any]] = []
        self.narrow = 0
        self.front: list[Trial] = []
        self.output = Path(output) if output is not None else None
        if self.output is not None:
            check_destination(self.output, force=options.force)
        self.target = target if isinstance(target, Target) else find_target(target)
        self.metric = metric_named(options.metric)
        self.float_format = self._float_format()
        self.plan = read_plan(options.plan)
        self.model_path = Path(model) if isinstance(model, str | Path) else None
        self.graph = _open_model(model)
        fix_dimensions(self.graph, options.dimensions)
        _check_weights(self.graph)
        self.source = self.graph.copy()
        self.calibration = (
            DataSource.open(calibration).validate(self.graph) if calibration is not None else None
        )
        self.evaluation = DataSource.open(evaluation).validate(self.graph) if evaluation is not None else None
        self._check_metric()
        written = self.output is not None and part(self.target, "lower") is not None
        options.check_target(self.target, written=written)
        self.pipeline = default_pipeline(self.target, options)
        self.pipeline.check()

    def _float_format(self) -> str:
        chosen = self.options.float_format or self.target.float_formats[0]
        if chosen not in self.target.float_formats:
            raise OptionError(
                f"The target {self.target.name} keeps floats as {' or '.join(self.target.float_formats)}, not as {chosen!r}"
                f"{suggest(chosen, self.target.float_formats)}"
            )
        return chosen

    def _check_metric(self) -> None:
        if self.options.max_drop is not None and self.evaluation is None:
            raise OptionError(
                "--max-drop needs evaluation data to measure the drop on; give --evaluation NPZ (with labels, for top-1)."
            )
        if self.options.pareto and self.evaluation is None and self.calibration is None:
            raise OptionError(
                "--pareto needs data to measure assignments on; give --evaluation NPZ or --calibration NPZ."
            )
        if (
            self.metric is not None
            and self.metric.needs_labels
            and (self.evaluation is None or self.evaluation.labels is None)
        ):
            raise OptionError(
                f"The metric {self.metric.name} needs labels, and {'the evaluation data have none' if self.evaluation else 'there are no evaluation data'}; "
                "give --evaluation NPZ with an array 'labels', or a metric without labels (agreement, sqnr)."
            )

    def run(self) -> Result:
        """Transforms, measures, and writes if a folder was asked for."""
        made = self._searched() if self.options.searches else self._transformed(self.graph, self._context())
        if self.output is None:
            return self._finish(made, None, self._evaluated(made, None, None, None), None)
        with writing(self.output, force=self.options.force) as artifact:
            return self._write(made, artifact)

    def _budget(self) -> Budget | None:
        return self.options.budget(self.target.chosen.code)

    def _context(self, budget: Budget | None = None) -> PassContext:
        return PassContext(
            target=self.target,
            calibration=self.calibration,
            plan=self.plan,
            budget=budget if budget is not None or self.plan is not None else self._budget(),
            statistics=Path(self.options.statistics) if self.options.statistics is not None else None,
            float_format=self.float_format,
            crowds=self._crowds,
            progress=self.progress,
        )

    @functools.cached_property
    def _crowds(self) -> Crowds | None:
        """Where a plan takes more memory than there is, on targets whose code plans memory."""
        find = getattr(part(self.target, "lower"), "crowds", None)
        return functools.partial(find, target=self.target, max_ram=self.options.max_ram) if find else None

    def _transformed(self, graph: Graph, context: PassContext) -> _Made:
        """Runs the whole pipeline."""
        checks = Checks(
            probe=Probe(graph, *self._probe_batches()) if self.options.verify_each else None,
            dump=Path(self.options.dump) if self.options.dump is not None else None,
            on_pass=self._passed,
        )
        records = tuple(self.pipeline.run(graph, context, checks))
        if PLAN not in graph.facts:
            raise OptionError(
                "The pipeline makes no plan; it needs assign_precision (see `qcompiler passes`)."
            )
        return _Made(graph, records, graph.facts[PLAN])

    # -- measured search ----------------------------------------------------------------------------------

    def _searched(self) -> _Made:
        """Compiles assignments and measures them; the smallest within the drop, or the budget's own, is what is made."""
        names = [entry.name for entry in self.pipeline]
        if "assign_precision" not in names or "fuse" not in names[: names.index("assign_precision")]:
            raise OptionError(
                "--max-drop and --pareto compare assignments, for which the pipeline has to have fuse and, behind it, assign_precision."
            )
        first, fuse = names.index("assign_precision"), names.index("fuse")
        before = Pipeline(self.pipeline.passes[:first])
        source = self.graph.copy() if self.options.dump is not None or self.options.verify_each else None
        records = tuple(before.run(self.graph, self._context(), Checks(on_pass=self._passed)))
        decide = Pipeline((self.pipeline.passes[fuse], self.pipeline.passes[first]))
        finish = Pipeline(self.pipeline.passes[first + 1 :])
        allowed, base = self.options.max_drop, self._budget() or Budget()
        best, measured = Best(allowed, self.options.minimise), dict[Rows, Trial]()

        def compiled(budget: Budget) -> Trial:
            gc.collect()  # graphs are circular: that of the trial before would stay until the collector happens to come by
            graph, context = self.graph.copy(facts=True), self._context(budget)
            decided = tuple(decide.run(graph, context))[1:]
            decision, rows = graph.facts[DECISION], rows_of(graph.facts[PLAN])
            self.narrow = max(self.narrow, decision.narrow)
            if rows in measured:
                return dataclasses.replace(measured[rows], budget=budget, decision=decision)
            later = tuple(finish.run(graph, context))
            outcome = self._outcome(graph)
            trial = Trial(
                **vars(outcome), budget=budget, decision=decision, records=(*records, *decided, *later)
            )
            measured[rows] = trial
            best.offer(trial, graph)
            self.progress("measuring assignments", len(measured), len(measured) + 1)
            return trial

        if allowed is None:
            trials = [compiled(base)]
        else:
            minimise: Quantity = "latency" if self.options.minimise == "latency" else "size"
            trials = list(smallest_within(compiled, dataclasses.replace(base, minimise=minimise), allowed))
        if self.options.pareto:
            trials += front(compiled, base)
            self.front = undominated(trials)
        self.search = [trial.row() for trial in distinct(trials)]
        assert best.trial is not None
        assert best.graph is not None
        if len(best.trial.widths) > 1:
            entries = self.pipeline.passes[fuse], self.pipeline.passes[first], *finish.passes
            self.widths = [self._in_one_width(bits, *entries) for bits in best.trial.widths]
        if source is not None:  # once more with all checks: the same budget gives the same result
            return self._transformed(source, self._context(best.trial.budget))
        return _Made(best.graph, best.trial.records, best.trial.plan, best.trial.evaluation)

    def _in_one_width(self, bits: int, fuse: Pass, assign: Pass, *finish: Pass) -> dict[str, Any]:
        """What the report says of all values in so many bits, wherever rows allow it: what a mix of widths is compared with."""
        gc.collect()
        preferring: Any = {"prefer": rows_of_width(self.target, bits)}
        graph, context = self.graph.copy(facts=True), dataclasses.replace(self._context(), budget=None)
        Pipeline((fuse, dataclasses.replace(assign, **preferring), *finish)).run(graph, context)
        return {"bits": bits, **self._outcome(graph).row()}

    def _outcome(self, graph: Graph) -> Outcome:
        """What came of a plan that the pipeline has written, measured."""
        plan = graph.facts[PLAN]
        evaluation = self._evaluate(graph, plan, None, None, None)
        assert evaluation is not None, "checked before"
        if not math.isfinite(evaluation.models["float"].metric):
            self._within_drop(evaluation)
        return Outcome(plan=plan, evaluation=evaluation, size=self._size(graph, plan))

    def _passed(self, record: PassRecord) -> None:
        self.passed += 1
        self.progress("passes", self.passed, len(self.pipeline.passes))
        if self.on_pass is not None:
            self.on_pass(record)

    def _probe_batches(self) -> list[dict[str, NDArray[Any]]]:
        data = self.calibration or self.evaluation
        return [*([next(iter(data.batches(2)))] if data is not None else []), random_feeds(self.graph)]

    def _write(self, made: _Made, artifact: Artifact) -> Result:
        graph, plan = made.graph, made.plan
        save(graph, artifact.folder / REFERENCE)
        (artifact.folder / "plan.json").write_text(plan.to_json() + "\n", encoding="utf-8")
        lower, data = part(self.target, "lower"), self.evaluation or self.calibration
        lowered: Lowered | None = (
            lower.lower(
                LowerJob(
                    graph,
                    plan,
                    self.target,
                    artifact,
                    data,
                    self.options.max_ram,
                    self.options.max_flash,
                    self.options.io or next(iter(self.target.io_types), ""),
                    self.options.allow_cpu,
                    self.options.chosen_options(self.target),
                )
            )
            if lower is not None
            else None
        )
        verifier = part(self.target, "verify")
        shapes = data.sample_shapes if data is not None else {}
        job = VerifyJob(artifact.folder, lowered, graph, plan, self.target, data, shapes)
        make: Callable[[VerifyJob], Consumer] | None = getattr(verifier, "consumer", None)
        consumer = make(job) if make is not None else None
        evaluation = self._evaluated(made, artifact, lowered, consumer)
        verification: Verification | None = None
        if verifier is not None:
            self.progress("verifying", 0, 1)
            verification = consumer.verification() if consumer is not None else verifier.verify(job)
            self.progress("verifying", 1, 1)
        self._write_front(artifact)
        result = self._finish(made, lowered, evaluation, verification)
        write_json(artifact.folder / "report.json", result.report)
        (artifact.folder / "report.html").write_text(render_html(result.report), encoding="utf-8")
        write_json(artifact.folder / "manifest.json", self._manifest(artifact))
        return result

    def _write_front(self, artifact: Artifact) -> None:
        """The plans of the front's points, each of which can be given to --plan, and their table."""
        if not self.front:
            return
        (artifact.folder / "pareto").mkdir()
        points = self._points()
        for point, trial in zip(points, self.front, strict=True):
            (artifact.folder / point["plan"]).write_text(trial.plan.to_json() + "\n", encoding="utf-8")
        write_json(artifact.folder / "pareto" / "front.json", {"points": points})

    def _points(self) -> list[dict[str, Any]]:
        """What reports say of the front's points, with the file of each one's plan."""
        return [
            {"plan": f"pareto/{number:02}.json", **trial.row()} for number, trial in enumerate(self.front, 1)
        ]

    def _evaluated(
        self, made: _Made, artifact: Artifact | None, lowered: Lowered | None, consumer: Consumer | None
    ) -> Evaluation | None:
        """What was measured already, or what is now; either way the consumer has run all samples."""
        if made.evaluation is None or (lowered is not None and self._executor is None):
            return self._evaluate(made.graph, made.plan, artifact, lowered, consumer)
        data = self.evaluation or self.calibration
        if consumer is not None and data is not None:
            collections.deque(consumer.stream(data), maxlen=0)
        return made.evaluation

    def _finish(
        self,
        made: _Made,
        lowered: Lowered | None,
        evaluation: Evaluation | None,
        verification: Verification | None,
    ) -> Result:
        graph, plan = made.graph, made.plan
        unmet = [*self._unmet(graph, plan, evaluation), *(lowered.unmet if lowered is not None else ())]
        met = not unmet
        report = make_report(
            graph=graph,
            source=self.source,
            model_name=self.model_path.name if self.model_path is not None else self.source.name,
            model_sha256=self._model_sha256 or "",
            float_bytes=self._float_bytes(),
            target=self.target,
            plan=plan,
            records=made.records,
            evaluation=evaluation,
            evaluated_on="evaluation" if self.evaluation is not None else "calibration",
            lowered=lowered,
            size=lowered.size if lowered is not None else self._size(graph, plan),
            verification=verification,
            budget={"asked": self._asked(), "met": met, "unmet": unmet},
            decision=graph.facts.get(DECISION),
            sensitivity=self.graph.facts.get(SENSITIVITY),
            search=self.search,
            widths=self.widths,
            pareto=self._points(),
            seconds=time.perf_counter() - self.started,
            peak_rss_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        )
        return Result(report, plan, graph, made.records, self.output, verification, met)

    @functools.cached_property
    def _model_sha256(self) -> str | None:
        return file_sha256(self.model_path) if self.model_path is not None else None

    def _float_bytes(self) -> int:
        """Bytes of the source model: of its files where there are any, else of its constants."""
        if self.model_path is None:
            return sum(value.data.nbytes for value in self.source.constants if value.data is not None)
        folder = self.model_path.parent
        external = {
            Path(str(value.data.filename))
            for value in self.source.constants
            if isinstance(value.data, np.memmap)
        }
        return sum(
            path.stat().st_size for path in {self.model_path, *external} if path.is_relative_to(folder)
        )

    def _evaluate(
        self,
        graph: Graph,
        plan: Plan,
        artifact: Artifact | None,
        lowered: Lowered | None,
        consumer: Consumer | None,
    ) -> Evaluation | None:
        data = self.evaluation or self.calibration
        if data is None:
            return None
        metric = self.metric
        if self.evaluation is None and metric is None:
            metric = metric_named("sqnr")
        models: dict[str, Runnable] = {
            "float": Session(self.source), "reference": Session(graph, optimize=False),
        }  # fmt: skip
        same = False
        if consumer is not None:
            models["artifact"] = consumer
        elif self._executor is not None:
            models["artifact"] = self._executor(graph, plan, self.target)
        elif artifact is not None and lowered is not None and lowered.main.endswith(".onnx"):
            main = artifact.folder / lowered.main
            same = _same_bytes(artifact.folder / REFERENCE, main)
            if not same:
                models["artifact"] = Session(load(main), optimize=False)
        result = evaluate_models(
            models, data, metric, progress=lambda done, total: self.progress("evaluating", done, total)
        )
        if same:  # the reference is the artifact: running it again would show nothing
            return dataclasses.replace(
                result, models={**result.models, "artifact": result.models["reference"]}
            )
        return result

    def _size(self, graph: Graph, plan: Plan) -> int:
        """Bytes of weights and tables: in the target's own artifact, if its code says so, else in the reference model."""
        own = getattr(part(self.target, "lower"), "constant_bytes", None)
        return constant_bytes(graph, plan) if own is None else int(own(graph, plan, self.target))

    @functools.cached_property
    def _executor(self) -> Callable[[Graph, Plan, Target], Runnable] | None:
        """What computes as the target's artifact does, if its code says so."""
        return getattr(part(self.target, "lower"), "executor", None)

    def _asked(self) -> dict[str, float]:
        """The stated limits."""
        named = {name: getattr(self.options, name) for name in _LIMITS}
        return {name: limit for name, limit in named.items() if limit is not None}

    def _unmet(self, graph: Graph, plan: Plan, evaluation: Evaluation | None) -> list[str]:
        """What is said of each stated limit that is not kept."""
        found = []
        decision = graph.facts.get(DECISION)
        if decision is not None and not decision.keeps_limits:
            found.append(decision.unmet)
        if self.options.max_size is not None and not found:
            size = self._size(graph, plan)
            if size > self.options.max_size:
                found.append(
                    f"--max-size {self.options.max_size:g} is not kept: weights and tables take {size} bytes."
                )
        if decision is None and self.options.weight_bits is not None:  # the plan is given
            bits = bits_per_weight(graph, plan, self.target.scale_bytes)
            if bits > self.options.weight_bits:
                asked = self.options.weight_bits
                found.append(
                    f"--weight-bits {asked:g} is not kept: the plan gives {bits:.4g} bits per weight."
                )
        if not self._within_drop(evaluation):
            assert evaluation is not None
            found.append(self._drop_text(evaluation))
        return found

    def _drop_text(self, evaluation: Evaluation) -> str:
        label = list(evaluation.models)[-1]
        drop = evaluation.drop(label)
        text = f"--max-drop {self.options.max_drop:g} is not kept: the least drop found is {drop:.4g}."
        error = evaluation.drop_error(label)
        if error is not None and self.options.max_drop is not None and error > self.options.max_drop:
            text += f" {evaluation.samples} samples tell it to within {error:.2g} only; more evaluation data would tell more."
        if self.narrow:
            text += f" For want of memory up to {self.narrow} values had to take as few bits as the target's rows allow."
        return text

    def _within_drop(self, evaluation: Evaluation | None) -> bool:
        if self.options.max_drop is None or evaluation is None:
            return True
        before = evaluation.models["float"].metric
        if not math.isfinite(before):
            raise OptionError(
                f"--max-drop cannot be held with the metric {evaluation.metric.name}: the float model's is {before}, and every drop from there is "
                "infinite. Give --metric agreement (of the classes) or relative-error, or evaluation data with labels."
            )
        return evaluation.drop(list(evaluation.models)[-1]) <= self.options.max_drop + 1e-12

    def _manifest(self, artifact: Artifact) -> dict[str, Any]:
        options = {
            "target": self.target.label,
            "float_format": self.float_format,
            "pipeline": str(self.pipeline),
            "metric": self.metric.name if self.metric is not None else "auto",
            **{name: getattr(self.options, name) for name in _LIMITS},
            "dimensions": dict(self.options.dimensions),
            "target_options": self.options.chosen_options(self.target),
            "minimise": self.options.minimise,
            "pareto": self.options.pareto,
            "plan": "given" if self.plan is not None else None,
        }
        inputs = {
            "model": self._model_sha256,
            "calibration": self.calibration.sha256() if self.calibration is not None else None,
            "evaluation": self.evaluation.sha256() if self.evaluation is not None else None,
            "descriptor": file_sha256(Path(self.target.file)),
        }
        hashes = {
            name: digest for name, digest in artifact.hashes().items() if not name.startswith("report.")
        }
        return manifest(inputs, options, hashes)


def _same_bytes(first: Path, second: Path) -> bool:
    return first.stat().st_size == second.stat().st_size and file_sha256(first) == file_sha256(second)


def _check_weights(graph: Graph) -> None:
    """Refuses weights that are no numbers, by the names that the user knows: passes rename and turn them.

    Raises:
        ModelError: There is one.
    """
    for node in graph.topological():
        for slot, value in enumerate(node.inputs):
            weighted = ops.info(node).kind == "weighted" and ops.info(node).role(slot) in ("weight", "bias")
            if not weighted or value is None or value.data is None or value.data.dtype.kind != "f":
                continue
            finite = np.isfinite(value.data)
            if not finite.all():
                index = tuple(np.argwhere(~finite)[0].tolist())
                raise ModelError(
                    f"The constant {value.name!r} of node {node.name!r} ({node.op}) holds {value.data[index]} at {list(index)}: the model "
                    "computes nonsense in float already. Repair it, or train or export it again."
                )


def _open_model(model: str | Path | onnx.ModelProto | Graph) -> Graph:
    if isinstance(model, Graph):
        return model.copy()
    if isinstance(model, onnx.ModelProto):
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        return import_model(copy)
    return load(model)
