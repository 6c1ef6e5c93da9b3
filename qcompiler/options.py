"""What a user may ask of a compilation, and the pipeline that comes of it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qcompiler.budget import Budget
from qcompiler.errors import OptionError, PlanError, TargetError, suggest
from qcompiler.ir.plan import Plan
from qcompiler.metrics import Metric, UserFunction
from qcompiler.pass_manager import Pass
from qcompiler.passes import find_pass
from qcompiler.pipeline import Pipeline
from qcompiler.target import Target

DEFAULT_PIPELINE = (
    "raise_qdq,fold_constants,canonicalize,fold_batch_norm,fuse_composites,canonicalize,"
    "fuse,calibrate,assign_precision,round_weights,round_scales,correct_bias,insert_qdq,cast_floats"
)
"""What every target gets; passes that the target prepares with, and the user's, come before `fuse`."""


@dataclass(frozen=True)
class Options:
    """Everything about a compilation but the model, the target and the data.

    Attributes:
        metric: A name, `module:function`, or a function; "auto" chooses by outputs and labels.
        max_drop: How much worse the metric may get, in its own unit (0.01 of top-1 is one percentage point).
        weight_bits: The most bits per weight, averaged over parameters.
        max_size: The most bytes of weights and tables.
        max_latency: The most milliseconds of one inference, by the target's cost model.
        max_ram: The most bytes of memory for what is computed, on targets that plan it.
        max_flash: The most bytes of code and constants, on targets that write code.
        io: What inputs and outputs are in the artifact, on targets that offer several types; the target's first choice when empty.
        target_options: What else the target lets users choose about the artifact, by name: choices, texts, paths of files. See
            `qcompiler.target_options`.
        allow_cpu: Whether it is fine that the accelerator runs nothing of the model.
        dimensions: Sizes of open dimensions of the inputs, by their names or as `INPUT:AXIS`.
        minimise: What is made small within `max_drop`: "size" or "latency".
        pareto: Whether a front of accuracy against size is measured, too.
        plan: A plan to apply instead of deciding.
        statistics: File of calibration statistics: read if it exists, written if not.
        passes: The user's passes, each put before `fuse`: `name{option=value}` or `module:Class{...}`.
        pipeline: A whole pipeline instead of the default one.
        pass_options: Options of passes in the pipeline, by pass and option.
        float_format: What stays float is stored as this; the target's first choice when empty.
        dump: Folder for the graph after every pass.
        verify_each: Whether every pass is held to its declared effect on probe inputs.
        force: Whether an existing output folder is replaced.
    """

    metric: str | Metric | UserFunction = "auto"
    max_drop: float | None = None
    weight_bits: float | None = None
    max_size: float | None = None
    max_latency: float | None = None
    max_ram: int | None = None
    max_flash: int | None = None
    io: str = ""
    target_options: Mapping[str, object] = field(default_factory=dict)
    allow_cpu: bool = False
    dimensions: Mapping[str, int] = field(default_factory=dict)
    minimise: str = "size"
    pareto: bool = False
    plan: Plan | Path | str | None = None
    statistics: Path | str | None = None
    passes: tuple[str | Pass, ...] = ()
    pipeline: str | Pipeline | None = None
    pass_options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    float_format: str = ""
    dump: Path | str | None = None
    verify_each: bool = False
    force: bool = False

    def __post_init__(self) -> None:
        if self.max_drop is not None and not 0 <= self.max_drop < math.inf:
            raise OptionError(
                f"--max-drop is {self.max_drop:g}; it takes a number from 0 on, in the metric's own unit (0.01 of top1 is one point)."
            )
        if self.minimise not in ("size", "latency"):
            raise OptionError(f"--minimise is {self.minimise!r}{suggest(self.minimise, ('size', 'latency'))}")
        for name in ("max_ram", "max_flash"):
            given = getattr(self, name)
            if given is not None and given < 1:
                raise OptionError(
                    f"--{name.replace('_', '-')} is {given}; it takes a number of bytes above 0."
                )
        self.budget()  # refuses limits that make no sense
        if self.plan is not None and (self.pareto or self.max_latency is not None):
            given = "--pareto compares plans" if self.pareto else "--max-latency limits the choice of rows"
            raise OptionError(f"{given}, and --plan leaves nothing to choose; leave one of the two out.")

    def budget(self, code: int = 0) -> Budget | None:
        """What precision assignment is limited to; None where nothing limits it.

        Args:
            code: Bytes of `max_flash` that code takes; the rest is for weights and tables.

        Raises:
            OptionError: A limit makes no sense.
        """
        latency = None if self.max_latency is None else self.max_latency / 1e3
        if self.max_flash is not None and self.max_flash <= code:
            raise OptionError(
                f"--max-flash allows {self.max_flash} bytes, and the kernels' code alone takes some {code}."
            )
        left = None if self.max_flash is None else self.max_flash - code
        if left is not None and (self.max_size is None or left < self.max_size):
            return Budget(self.weight_bits, left, latency, code=code)
        budget = Budget(self.weight_bits, self.max_size, latency)
        return None if budget == Budget() else budget

    def check_target(self, target: Target, *, written: bool) -> None:
        """Refuses what the target does not offer: types, and limits where nothing would hold a compilation to them.

        Args:
            target: The target.
            written: Whether the target's own artifact is written.

        Raises:
            OptionError: There is one.
        """
        if self.io and self.io not in target.io_types:
            offered = f"offers {', '.join(target.io_types)}" if target.io_types else "has none to choose from"
            raise OptionError(
                f"--io {self.io}: {target.label} {offered} for inputs and outputs{suggest(self.io, target.io_types)}"
            )
        if not target.chosen.code:
            if self.max_flash is not None:
                raise OptionError(
                    f"--max-flash limits code and constants in the flash of a device, and no code is written for {target.label}; "
                    "--max-size limits bytes of weights and tables."
                )
            if self.max_ram is not None:
                raise OptionError(
                    f"--max-ram limits the memory that written code computes in, and no code is written for {target.label}, which plans "
                    "its memory itself; leave --max-ram out. --max-size limits bytes of weights and tables."
                )
        if not written and self.max_ram is not None:
            raise OptionError(
                "--max-ram limits the memory that written code computes in, and none is written here; give an output folder, or leave "
                "--max-ram out."
            )
        if not written and self.max_flash is not None and self.plan is not None:
            raise OptionError(
                "--max-flash limits the choice of rows and the code that is written: --plan leaves nothing to choose, and no code is written "
                "here; give an output folder, or leave --max-flash out."
            )

    @property
    def searches(self) -> bool:
        """Whether assignments are compared by measuring them."""
        return self.plan is None and (self.max_drop is not None or self.pareto)


def make_options(given: Mapping[str, Any]) -> Options:
    """Options from keyword arguments.

    Raises:
        OptionError: One is unknown, or has a value that makes no sense.
    """
    known = {entry.name for entry in dataclasses.fields(Options)}
    for name in given:
        if name not in known:
            raise OptionError(f"There is no option {name!r}{suggest(name, known)}")
    return Options(**given)


def default_pipeline(target: Target, options: Options) -> Pipeline:
    """The pipeline that a compilation runs: the target's and the user's passes put into the default one.

    Raises:
        OptionError: A pass or option is unknown, or an option names a pass that is not in the pipeline.
    """
    if isinstance(options.pipeline, Pipeline):
        pipeline = options.pipeline
    elif options.pipeline is not None:
        pipeline = Pipeline.parse(options.pipeline, find_pass)
    else:
        pipeline = Pipeline.parse(DEFAULT_PIPELINE, find_pass)
        pipeline = pipeline.insert_before("fuse", *_prepared(target))
    for text in options.passes:
        mine = (text,) if isinstance(text, Pass) else Pipeline.parse(text, find_pass).passes
        pipeline = pipeline.insert_before("fuse", *mine)
    if options.searches or (options.budget() is not None and options.plan is None):
        pipeline = _with_sensitivity(pipeline)
    return _with_options(pipeline, options.pass_options)


def _with_sensitivity(pipeline: Pipeline) -> Pipeline:
    """The pipeline with the pass that a budget needs."""
    names = [entry.name for entry in pipeline]
    if "sensitivity" in names or "assign_precision" not in names:
        return pipeline
    return pipeline.insert_before("assign_precision", find_pass("sensitivity").from_options({}))


def _prepared(target: Target) -> list[Pass]:
    """The passes that a target wants before tiling."""
    try:
        return [entry for text in target.prepare for entry in Pipeline.parse(text, find_pass)]
    except OptionError as error:
        raise TargetError(f"{target.file}: prepare: {error}") from error


def _with_options(pipeline: Pipeline, options: Mapping[str, Mapping[str, Any]]) -> Pipeline:
    names = {entry.name for entry in pipeline}
    for name in options:
        if name not in names:
            raise OptionError(
                f"Options are given for the pass {name!r}, which is not in the pipeline{suggest(name, names)}"
            )
    passes = []
    for entry in pipeline:
        changed = options.get(entry.name)
        current = {key: getattr(entry, key) for key in entry.options()}
        passes.append(entry if not changed else type(entry).from_options({**current, **changed}))
    return Pipeline(tuple(passes))


def read_plan(plan: Plan | Path | str | None) -> Plan | None:
    """A plan from wherever the user has it.

    Raises:
        PlanError: The file cannot be read, or holds no plan.
    """
    if plan is None or isinstance(plan, Plan):
        return plan
    path = Path(plan)
    try:
        return Plan.from_json(path.read_text(encoding="utf-8"), str(path))
    except OSError as error:
        raise PlanError(f"The plan {path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise PlanError(f"The plan {path} is not text; use the plan.json of a compilation.") from error
