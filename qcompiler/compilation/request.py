"""What is asked of a compilation: model, data, target and options, opened and checked before any work."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from qcompiler import ops
from qcompiler.artifact import check_destination, file_sha256
from qcompiler.budget import Budget
from qcompiler.data import Data, DataSource
from qcompiler.dimensions import fix_dimensions
from qcompiler.errors import ModelError, OptionError, suggest
from qcompiler.ir.graph import Graph
from qcompiler.ir.onnx_import import import_model, load
from qcompiler.ir.plan import Plan
from qcompiler.metrics import Metric, metric_named
from qcompiler.options import Options, default_pipeline, read_plan
from qcompiler.pipeline import Pipeline
from qcompiler.target import Target
from qcompiler.target_options import chosen_options
from qcompiler.targets import find_target, part


@dataclass(frozen=True)
class Request:
    """Everything that a compilation starts from.

    Attributes:
        options: What was chosen.
        target: What is compiled for.
        target_options: Its own options, all of them: choices, texts, and what files hold.
        graph: The model; passes change it.
        source: The model as it came.
        model_path: Its file, if it came in one.
        calibration: What ranges are chosen on.
        evaluation: What is measured on, where there are data of its own.
        metric: The metric that was named; None for one that goes by outputs and labels.
        float_format: What stays float is stored as this.
        plan: A plan to apply instead of deciding.
        output: The folder to write.
        pipeline: The passes.
    """

    options: Options
    target: Target
    target_options: Mapping[str, str]
    graph: Graph
    source: Graph
    model_path: Path | None
    calibration: DataSource | None
    evaluation: DataSource | None
    metric: Metric | None
    float_format: str
    plan: Plan | None
    output: Path | None
    pipeline: Pipeline

    @classmethod
    def of(
        cls,
        model: str | Path | onnx.ModelProto | Graph,
        target: str | Path | Target,
        calibration: Data | None,
        evaluation: Data | None,
        output: str | Path | None,
        options: Options,
    ) -> Request:
        """Opens and checks; what takes no time comes first.

        Raises:
            QCompilerError: Something is wrong; nothing has been written.
        """
        destination = Path(output) if output is not None else None
        if destination is not None:
            check_destination(destination, force=options.force)
        target = target if isinstance(target, Target) else find_target(str(target))
        target_options = chosen_options(target, options.target_options)
        metric = metric_named(options.metric)
        float_format = _float_format(options, target)
        plan = read_plan(options.plan)
        graph = _open_model(model)
        fix_dimensions(graph, options.dimensions)
        _check_weights(graph)
        chosen_on = DataSource.open(calibration).validate(graph) if calibration is not None else None
        measured_on = DataSource.open(evaluation).validate(graph) if evaluation is not None else None
        _check_measurable(options, metric, chosen_on, measured_on)
        lower = part(target, "lower")
        options.check_target(target, written=destination is not None and lower is not None)
        if (check := getattr(lower, "check_options", None)) is not None:
            sources = [source for source in (chosen_on, measured_on) if source is not None]
            check(graph, target_options, sources)
        pipeline = default_pipeline(target, options)
        pipeline.check()
        path = Path(model) if isinstance(model, str | Path) else None
        return cls(
            options, target, target_options, graph, graph.copy(), path, chosen_on, measured_on, metric, float_format, plan,
            destination, pipeline,
        )  # fmt: skip

    @property
    def data(self) -> DataSource | None:
        """What is measured on: the evaluation data, or those for calibration where there are none."""
        return self.evaluation or self.calibration

    @property
    def budget(self) -> Budget | None:
        """What precision assignment is limited to; None where nothing limits it."""
        return self.options.budget(self.target.chosen.code)

    @functools.cached_property
    def model_sha256(self) -> str | None:
        """Of the model's file; None without one."""
        return file_sha256(self.model_path) if self.model_path is not None else None

    def float_bytes(self) -> int:
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


def _float_format(options: Options, target: Target) -> str:
    chosen = options.float_format or target.float_formats[0]
    if chosen not in target.float_formats:
        raise OptionError(
            f"The target {target.name} keeps floats as {' or '.join(target.float_formats)}, not as {chosen!r}"
            f"{suggest(chosen, target.float_formats)}"
        )
    return chosen


def _check_measurable(
    options: Options, metric: Metric | None, calibration: DataSource | None, evaluation: DataSource | None
) -> None:
    """Refuses what needs data, or labels, that there are none of."""
    if options.max_drop is not None and evaluation is None:
        raise OptionError(
            "--max-drop needs evaluation data to measure the drop on; give --evaluation NPZ (with labels, for top-1)."
        )
    if options.pareto and evaluation is None and calibration is None:
        raise OptionError(
            "--pareto needs data to measure assignments on; give --evaluation NPZ or --calibration NPZ."
        )
    if metric is not None and metric.needs_labels and (evaluation is None or evaluation.labels is None):
        raise OptionError(
            f"The metric {metric.name} needs labels, and {'the evaluation data have none' if evaluation else 'there are no evaluation data'}; "
            "give --evaluation NPZ with an array 'labels', or a metric without labels (agreement, sqnr)."
        )


def _open_model(model: str | Path | onnx.ModelProto | Graph) -> Graph:
    if isinstance(model, Graph):
        return model.copy()
    if isinstance(model, onnx.ModelProto):
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        return import_model(copy)
    return load(model)


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
