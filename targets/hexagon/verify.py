"""Verification for the HTP: the model in Qualcomm's own library where that is installed, the static rules in any case."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qcompiler.errors import TargetError
from qcompiler.ir.onnx_import import load
from qcompiler.lowering import Verification, VerifyJob
from qcompiler.output_gap import OutputGap
from qcompiler.probe import random_feeds
from qcompiler.runtime import Session
from qcompiler.targets.hexagon import htp
from qcompiler.targets.hexagon.guards import soc_of
from qcompiler.targets.hexagon.lower import MODEL
from qcompiler.targets.hexagon.rules import broken_rules

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from qcompiler.ir.plan import Plan
    from qcompiler.targets.hexagon.qnn_graph import QnnGraph

    Arrays = dict[str, NDArray[Any]]

LEAST_SQNR = 12.0
"""dB of outputs against the same model in onnxruntime, below which something is computed wrongly: codes that differ by one here and
there leave 20 to 30 dB of whole networks of 8 bits, and what the HTP silently gets wrong at most 12 (measured)."""
LEAST_AGREEMENT = 0.9
"""The share of samples whose largest output is the same one, or nearly as large."""


def consumer(job: VerifyJob) -> HtpConsumer:
    """Runs samples in the HTP library, and compares them with onnxruntime's QDQ arithmetic."""
    return HtpConsumer(job)


class HtpConsumer(Session):
    """The artifact: run in the HTP library, and in onnxruntime beside it; in onnxruntime alone where the library is not there."""

    def __init__(self, job: VerifyJob) -> None:
        """Opens the artifact in both, and looks at what the provider made of it."""
        artifact = load(job.folder / MODEL)
        super().__init__(artifact, optimize=False)
        self._job = job
        self._artifact = artifact
        self._gap = OutputGap()
        self._problems = broken_rules(artifact, job.plan)
        self._lacking = htp.missing()
        self._library: htp.HtpLibrary | None = None
        self._model: htp.HtpModel | None = None
        if self._lacking is None:
            self._library = htp.HtpLibrary()
            try:
                self._model = self._library.prepare(job.folder / MODEL, soc_of(job.target))
            except TargetError as error:
                self._problems.append(str(error))
            else:
                self._problems += _unplanned(self._model.graph, job.plan)

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> Arrays:
        """What the HTP library computes, compared with what onnxruntime does."""
        expected = super().run(feeds)
        if self._library is None or self._model is None:
            return expected
        try:
            made = self._library.run(self._model, feeds)
        except TargetError as error:
            self._problems.append(str(error))
            self._model = None
            return expected
        self._gap.add(expected, made)
        return made

    def verification(self) -> Verification:
        """What came of it; of random inputs where there were no samples."""
        if self._lacking is not None:
            return self._by_rules(self._lacking)
        if not self._gap.samples:
            self.run(random_feeds(self._artifact))
        details = self._compared(self._model) if self._model is not None else {}
        if self._library is not None:
            self._library.close()
        done = self._summary(details) if details else "the HTP library did not run it"
        problems = tuple(self._problems)
        return Verification(
            consumer="HTP library",
            version=f"onnxruntime-qnn {htp.version()}",
            ran=bool(details),
            passed=not problems,
            summary="; ".join([done, *problems]) + ".",
            problems=problems,
            max_abs_diff=self._gap.largest if details else None,
            mean_abs_diff=self._gap.mean if details else None,
            details=details,
        )

    def _by_rules(self, lacking: str) -> Verification:
        found = f"{len(self._problems) or 'no'} broken rules of integer execution (checked statically). "
        return Verification(
            consumer="static rules",
            version="",
            ran=False,
            passed=not self._problems,
            summary=f"{found}The HTP library did not run the model: {lacking}. The artifact is complete without it.",
            problems=tuple(self._problems),
        )

    def _compared(self, model: htp.HtpModel) -> dict[str, Any]:
        """Figures for the report; what is out of bounds becomes a problem."""
        gap, library = self._gap, self._library
        assert library is not None
        if gap.sqnr_db < LEAST_SQNR:
            self._problems.append(
                f"outputs have {gap.sqnr_db:.1f} dB against onnxruntime's, and {LEAST_SQNR:g} are needed"
            )
        if gap.near_agreement < LEAST_AGREEMENT:
            self._problems.append(
                f"only {gap.near_agreement:.1%} of the samples have onnxruntime's largest output or one nearly as large, and {LEAST_AGREEMENT:.0%} are needed"
            )
        return {
            "operators": len(model.graph.ops),
            "float_operators": [f"{op.kind} {op.name}" for op in model.graph.float_ops],
            "samples": gap.samples,
            "sqnr_db_against_onnxruntime": gap.sqnr_db,
            "agreement_with_onnxruntime": gap.agreement,
            "prepare_seconds": round(model.seconds, 3),
            "run_seconds": round(library.seconds / max(library.runs, 1), 4),
        }

    def _summary(self, details: Mapping[str, Any]) -> str:
        floats = len(details["float_operators"])
        kinds = f"{floats} of them in floats" if floats else "all of them in integers"
        widths = self._job.lowered.details["activations"] if self._job.lowered is not None else {}
        if widths.get("in_16_bits"):
            kinds += f", {widths['in_16_bits']} of {widths['stored']} activations in 16 bits"
        return (
            f"every node runs on the HTP of {self._job.target.chosen_device}, as {details['operators']} operators, {kinds}; "
            f"{details['sqnr_db_against_onnxruntime']:.1f} dB against onnxruntime's arithmetic and the same largest output for "
            f"{details['agreement_with_onnxruntime']:.1%} of {details['samples']} samples; prepared in {details['prepare_seconds']:.2g} s, "
            f"{details['run_seconds'] * 1e3:.3g} ms a run in the library on this machine"
        )


def _unplanned(graph: QnnGraph, plan: Plan) -> list[str]:
    """Nodes that are planned in integers and computed in floats, and operators in floats that nobody planned."""
    regions, found = plan.region_of(), []
    for op in graph.float_ops:
        planned = [name for name in op.nodes if name in regions]
        integers = [name for name in planned if regions[name].quantized]
        if integers:
            found.append(
                f"{', '.join(integers)} is planned as {regions[integers[0]].row}, but {op.kind} computes it in floats"
            )
        elif not planned and not any(not region.quantized for region in plan.regions):
            found.append(f"{op.kind} {op.name} computes in floats, and nothing is planned so")
    return found
