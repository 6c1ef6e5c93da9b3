"""The contract of a target's two optional modules.

`lower.py` has `lower(job: LowerJob) -> Lowered`: it consumes graph and plan, decides no precision, and writes the target's
files. Where the artifact is no ONNX file, `executor(graph, plan, target) -> Runnable` computes the same to the bit, and is
measured in its place; and `constant_bytes(graph, plan, target) -> int` says what weights and tables take in it. Where it plans memory,
`crowds(graph, plan, target, max_ram) -> tuple[Crowd, ...]` says where a plan takes more than there is. Where the target has options
of its own, `check_options(graph, options, data) -> None` refuses, before any work, those that the source graph or the data (a sequence
of `DataSource`, checked against the graph) cannot have. `verify.py` has `verify(job) -> Verification`: it builds what was written in the best real consumer that is installed, and compares. Where
samples can be run through the artifact, it has `consumer(job) -> Consumer` instead: what that computes is what is measured as
the artifact, and it is compared in the same pass over the data.
What shows the files of a target is a module of its own, see `file_summary`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from qcompiler.evaluation import Runnable

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qcompiler.artifact import Artifact
    from qcompiler.data import DataSource
    from qcompiler.ir.graph import Graph
    from qcompiler.ir.plan import Plan
    from qcompiler.target import Target

Arrays = dict[str, "NDArray[Any]"]


@dataclass(frozen=True)
class Lowered:
    """What lowering wrote.

    Attributes:
        main: The file or folder that the target's tools take, relative to the artifact's folder.
        size: Bytes of what goes on the device.
        next_step: What the user does with it, a command where there is one.
        unmet: Limits of the device or of the user that are not kept, one paragraph each.
        details: More, for the report.
        executor: What computes as the artifact does, for the target's own verification to go on from.
    """

    main: str
    size: int
    next_step: str = ""
    unmet: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    executor: Any = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class LowerJob:
    """What lowering has to know.

    Attributes:
        graph: The reference graph (QDQ); its fact PLANNED is the graph that the plan speaks of.
        plan: Its plan.
        target: The target.
        artifact: Where files are written.
        data: Samples, for test vectors; None if there are none.
        max_ram: The most bytes of what is computed, if the user limits them.
        max_flash: The most bytes of code and constants, if the user limits them.
        io: What inputs and outputs are to be, one of the target's `io_types`; empty where it has none.
        allow_cpu: Whether it is fine that the accelerator runs nothing.
        options: The target's own options, all of them: choices, texts, and what files hold.
    """

    graph: Graph
    plan: Plan
    target: Target
    artifact: Artifact
    data: DataSource | None = None
    max_ram: int | None = None
    max_flash: int | None = None
    io: str = ""
    allow_cpu: bool = False
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class VerifyJob:
    """What verification has to know.

    Attributes:
        folder: Where the artifact lies now.
        lowered: What lowering said of it; None where the reference is the artifact.
        graph: The reference graph (QDQ).
        plan: Its plan.
        target: The target.
        data: Samples to compare on, if there are any.
        input_shapes: Shapes of the samples by input, batch axis left out.
        options: The target's own options, as lowering got them.
    """

    folder: Path
    lowered: Lowered | None
    graph: Graph
    plan: Plan
    target: Target
    data: DataSource | None
    input_shapes: Mapping[str, tuple[int, ...]]
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Verification:
    """What came of it.

    Attributes:
        consumer: What took the artifact, e.g. "TensorRT-RTX builder"; or the static rules where nothing was installed.
        version: Its version; empty for static rules.
        ran: Whether a real consumer took it.
        passed: Whether everything is as planned.
        summary: One sentence for people.
        problems: What is not as planned, one sentence each.
        max_abs_diff: Largest difference of outputs from the reference graph, where the artifact was run.
        mean_abs_diff: Mean difference.
        details: More, for the report.
    """

    consumer: str
    version: str
    ran: bool
    passed: bool
    summary: str
    problems: tuple[str, ...] = ()
    max_abs_diff: float | None = None
    mean_abs_diff: float | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


class Consumer(Runnable, Protocol):
    """Runs the artifact on samples in the best real consumer that is installed, and compares on the way.

    `stream` gives what the real consumer computes, or what the target's executor does where there is none.
    """

    def verification(self) -> Verification:
        """What came of it, after the samples; of samples that it makes up itself where there were none."""
        ...
