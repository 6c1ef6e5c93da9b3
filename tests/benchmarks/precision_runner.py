"""One measurement about choosing precision, in a process of its own; prints one JSON line. `precision.py` runs it.

Examples:
    python precision_runner.py compile FOLDER --options '{"pass_options": {"assign_precision": {"prefer": "w4a8"}}}'
    python precision_runner.py sensitivity FOLDER --forms 50
    python precision_runner.py ranking FOLDER --plans 30 --images 400 --draw average --finish nearest refined
    python precision_runner.py solver --regions 2000 --seed 0 --latency
    python precision_runner.py rounding FOLDER

FOLDER holds model.onnx, calibration.npz and evaluation.npz. CPU seconds are those of all threads and of child processes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

HERE = Path(__file__).parent
TARGET = HERE.parents[1] / "docs" / "examples" / "npu.toml"
sys.path[:0] = [str(HERE), str(HERE / "peers")]
os.environ["QCOMPILER_CACHE"] = "off"

import bench_selection  # noqa: E402
import bench_sensitivity  # noqa: E402
import numpy as np  # noqa: E402
from common import MEBIBYTE, peak_rss_bytes, stdout_to_stderr, write_json  # noqa: E402
from scipy.optimize import brentq  # noqa: E402
from scipy.special import softmax  # noqa: E402
from scipy.stats import spearmanr  # noqa: E402

import qcompiler as qc  # noqa: E402
from qcompiler.assignment import Choice, Problem  # noqa: E402
from qcompiler.costs import CostModel  # noqa: E402
from qcompiler.data import DataSource  # noqa: E402
from qcompiler.decision import DECISION  # noqa: E402
from qcompiler.descriptor import load_target  # noqa: E402
from qcompiler.evaluation import evaluate_models  # noqa: E402
from qcompiler.forms import row_forms  # noqa: E402
from qcompiler.ir.graph import Graph  # noqa: E402
from qcompiler.ir.onnx_import import load  # noqa: E402
from qcompiler.ir.plan import PLAN, Plan  # noqa: E402
from qcompiler.metrics import metric_named  # noqa: E402
from qcompiler.observed import IMPORTED, RANGES  # noqa: E402
from qcompiler.options import default_pipeline, make_options  # noqa: E402
from qcompiler.pass_manager import Pass, PassContext, PassResult  # noqa: E402
from qcompiler.passes import assign_precision as assigning  # noqa: E402
from qcompiler.passes._row_selection import RowSelection, state_selection  # noqa: E402
from qcompiler.passes.sensitivity import SensitivityAnalysis  # noqa: E402
from qcompiler.pipeline import Pipeline  # noqa: E402
from qcompiler.regions import REGIONS  # noqa: E402
from qcompiler.report.node_table import constant_bytes  # noqa: E402
from qcompiler.runtime import Session  # noqa: E402
from qcompiler.selection import evaluate  # noqa: E402
from qcompiler.sensitivity import SENSITIVITY  # noqa: E402

if TYPE_CHECKING:
    from numpy.typing import NDArray

WITHOUT: dict[str, tuple[str, ...]] = {  # what is left out behind the assignment
    "refined": (),
    "nearest": ("round_weights",),
}


def cpu_seconds() -> float:
    """User and system time of this process, all threads, and of its children that have ended."""
    return sum(os.times()[:4])


@contextlib.contextmanager
def metered(record: dict[str, Any], name: str) -> Iterator[None]:
    """Writes CPU and wall seconds of the body into the record."""
    cpu, wall = cpu_seconds(), time.perf_counter()
    yield
    record[f"{name}_cpu"] = cpu_seconds() - cpu
    record[f"{name}_wall"] = time.perf_counter() - wall


def compiled(options: argparse.Namespace) -> dict[str, Any]:
    """A compilation, and then what the result is worth on the evaluation data, which is not part of its time.

    Where a drop in accuracy is allowed, the compilation measures on the evaluation data itself.
    """
    record: dict[str, Any] = {}
    given = json.loads(options.options)
    files = {name: options.folder / f"{name}.npz" for name in ("calibration", "evaluation")}
    source = load(options.folder / "model.onnx")
    searched = files["evaluation"] if "max_drop" in given else None
    start = cpu_seconds()
    ends: list[float] = []
    with metered(record, "compile"):
        result = qc.compile(
            options.folder / "model.onnx",
            str(TARGET),
            files["calibration"],
            evaluation=searched,
            on_pass=lambda _: ends.append(cpu_seconds() - start),
            **given,
        )
    record["passes_cpu"] = ends[-1]
    record["peak_mib"] = peak_rss_bytes() / MEBIBYTE
    data = DataSource.open(files["evaluation"]).validate(source)
    models = {"float": Session(source), "ours": Session(result.graph, optimize=False)}
    evaluation = evaluate_models(models, data, None)
    ours = evaluation.models["ours"]
    record |= {
        "metric": evaluation.metric.name,
        "images": evaluation.samples,
        "float": evaluation.models["float"].metric,
        "ours": ours.metric,
        "drop": evaluation.drop("ours"),
        "sqnr_db": ours.sqnr_db,
        "bytes": constant_bytes(result.graph, result.plan),
        "trials": len(result.report.get("search") or ()),
        "met": result.within_budget,
    }
    decision = result.graph.facts.get(DECISION)
    if decision is not None:
        record |= {
            "weight_bits": decision.weight_bits,
            "optimal": decision.optimal,
            "predicted": decision.loss,
        }
    return record


def sensitivity(options: argparse.Namespace) -> dict[str, Any]:
    """What the pass takes, in passes of the float model, and how it ranks forms against brute force on all samples."""
    record: dict[str, Any] = {}
    graph, context = bench_sensitivity.prepared(options.folder)
    data = context.calibration
    assert data is not None
    session, single = Session(graph), Session(graph, threads=1)

    def one_pass(run: Session) -> float:
        times = []
        for _ in range(3):
            start = cpu_seconds()
            for _ in run.stream(data):
                pass
            times.append(cpu_seconds() - start)
        return min(times)

    record["float_cpu"], record["float_cpu_single"] = one_pass(session), one_pass(single)
    with metered(record, "pass"):
        SensitivityAnalysis().run(graph, context)
    found = graph.facts[SENSITIVITY]
    record |= {"samples": data.count, "run_samples": found.samples, "measure": found.measure}
    experiments = bench_sensitivity.experiments_of(graph, context)
    forms = list(experiments)
    if 0 < options.forms < len(forms):
        forms = [forms[index * len(forms) // options.forms] for index in range(options.forms)]
    kept = None
    if options.keep is not None:
        options.keep.mkdir(parents=True, exist_ok=True)
        kept = options.keep / f"{options.folder.name}.json"
    truth = bench_sensitivity.brute_force(graph, data, {form: experiments[form] for form in forms}, kept)
    for kind, constant in (("weights", True), ("activations", False)):
        chosen = [form for form in forms if form.value.is_constant is constant]
        pairs = [(found.of(form).mean, truth[json.dumps(form.key)]) for form in chosen]
        record[f"{kind}_forms"] = len(pairs)
        record[kind] = float(spearmanr(*zip(*pairs, strict=True)).statistic)
    return record


def ranking(options: argparse.Namespace) -> dict[str, Any]:
    """Predicted losses of random assignments against the output errors that they turn out to have.

    Where the number of images is limited, so many are refined on and so many evaluated.
    """
    graph, context = bench_sensitivity.prepared(options.folder)
    assert context.target is not None
    assert context.calibration is not None
    passes = default_pipeline(context.target, make_options({"weight_bits": 4.0})).passes
    names = [entry.name for entry in passes]
    calibrated, assigned = map(names.index, ("calibrate", "assign_precision"))
    Pipeline(passes[calibrated + 1 : assigned]).run(graph, context)
    losses = graph.facts[SENSITIVITY]
    problem = Problem.state(graph, context.target, graph.facts[REGIONS])
    selection = state_selection(problem, losses, CostModel(context.target, context.float_format))
    source = load(options.folder / "model.onnx")
    data = DataSource.open(options.folder / "evaluation.npz").validate(source)
    data = data.slice(0, options.images or data.count)
    context.calibration = context.calibration.slice(0, options.images or context.calibration.count)
    float_session = Session(source)
    metric = metric_named("kl" if losses.measure == "kl" else "sqnr")
    rng = np.random.default_rng(options.seed)
    rows: list[dict[str, Any]] = []
    for number in range(options.plans):
        indices = _DRAWS[options.draw](problem, selection, rng)
        plan = _planned(problem, _choice(problem, selection, indices), graph, context)
        models = {"float": float_session}
        models |= {
            label: Session(
                _finished(graph, plan, context, passes[assigned + 1 :], WITHOUT[label]), optimize=False
            )
            for label in options.finish
        }
        measured = evaluate_models(models, data, metric).models
        row = {"predicted": evaluate(selection.problem, indices).loss}
        for label in options.finish:
            row[label] = 10.0 ** (-measured[label].sqnr_db / 10.0)
            row[f"{label}_metric"] = measured[label].metric
        rows.append(row)
        print(number, json.dumps(row), flush=True)  # to standard error
    return {"images": data.count, "plans": len(rows), "measure": losses.measure, "rows": rows}


def _any_rows(_: Problem, selection: RowSelection, rng: np.random.Generator) -> list[int]:
    """Every region draws one of its legal rows, all equally likely."""
    return [int(rng.integers(len(choices))) for choices in selection.rows]


def _rows_of_average(problem: Problem, selection: RowSelection, rng: np.random.Generator) -> list[int]:
    """First an average of weight bits is drawn, from 3 to 8, then quantized rows that have it, as random as can be.

    So a draw looks like what some budget would bring. Of all distributions with an average, the most random one takes a row
    with a probability that is exponential in its bits. (Jaynes, Information Theory and Statistical Mechanics, 1957.)
    """
    places, bits = [], []
    for region, choices in zip(selection.regions, selection.rows, strict=True):
        forms = {place: row_forms(problem, region, row) for place, row in enumerate(choices)}
        found = {
            place: form.spec.numeric.bits
            for place, read in forms.items()
            for form in read
            if form.value.is_constant
        }
        places.append(list(found))
        bits.append(np.array(list(found.values()), np.float64))

    def shares(tilt: float) -> list[NDArray[np.float64]]:
        return [softmax(tilt * own) for own in bits]

    def average(tilt: float) -> float:
        return float(np.mean([share @ own for share, own in zip(shares(tilt), bits, strict=True)]))

    asked = rng.uniform(3, 8)
    drawn = shares(brentq(lambda tilt: average(tilt) - asked, -20, 20))
    return [int(rng.choice(own, p=share)) for own, share in zip(places, drawn, strict=True)]


_DRAWS = {"average": _rows_of_average, "rows": _any_rows}


def _choice(problem: Problem, selection: RowSelection, indices: list[int]) -> Choice:
    """Rows for all regions: the drawn ones, and what follows from them for ops that only pass values on."""
    choice = {region.name: assigning._float_row(problem, region) for region in problem.regions}
    for region, rows, index in zip(selection.regions, selection.rows, indices, strict=True):
        choice[region.name] = rows[index]
    preferred = {region.name: assigning._preferred_rows(problem, region, ()) for region in problem.regions}
    assigning._follow_consumers(problem, preferred, choice)
    return choice


def _planned(problem: Problem, choice: Choice, graph: Graph, context: PassContext) -> Plan:
    return assigning._make_plan(problem, choice, graph, context, assigning.AssignPrecision(), PassResult())


def _finished(
    graph: Graph, plan: Plan, context: PassContext, passes: tuple[Pass, ...], left: tuple[str, ...]
) -> Graph:
    """A graph compiled to a plan that was decided here, so that refinement is as free as if the compiler had."""
    copy = graph.copy()
    for fact in (RANGES, IMPORTED):
        if fact in graph.facts:
            copy.facts[fact] = graph.facts[fact]
    copy.facts[PLAN] = plan
    Pipeline(tuple(entry for entry in passes if entry.name not in left)).run(copy, context)
    return copy


def solver(options: argparse.Namespace) -> dict[str, Any]:
    """Selection of rows for a generated network."""
    return bench_selection.measure(options.regions, options.seed, latency=options.latency)


def rounding(options: argparse.Namespace) -> dict[str, Any]:
    """The pass round_weights alone, at one precision everywhere."""
    record: dict[str, Any] = {}
    graph = load(options.folder / "model.onnx")
    target = load_target(TARGET)
    data = DataSource.open(options.folder / "calibration.npz").validate(graph)
    data = data.slice(0, options.images or data.count)
    context = PassContext(target=target, calibration=data)
    asked = make_options({"pass_options": {"assign_precision": {"prefer": options.prefer}}})
    passes = default_pipeline(target, asked).passes
    at = [entry.name for entry in passes].index("round_weights")
    Pipeline(passes[:at]).run(graph, context)
    record["peak_before_mib"] = peak_rss_bytes() / MEBIBYTE
    with metered(record, "pass"):
        (done,) = Pipeline(passes[at : at + 1]).run(graph, context)
    return {**record, "peak_mib": peak_rss_bytes() / MEBIBYTE, "images": data.count, "counts": done.counts}


def main() -> None:
    """Runs one measurement."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    works = {
        "compile": compiled,
        "sensitivity": sensitivity,
        "ranking": ranking,
        "solver": solver,
        "rounding": rounding,
    }
    parser.add_argument("what", choices=list(works))
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--options", default="{}", help="options of the compilation, as JSON")
    parser.add_argument("--prefer", default="w4a8")
    parser.add_argument("--forms", type=int, default=0)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--plans", type=int, default=30)
    parser.add_argument("--draw", choices=list(_DRAWS), default="average")
    parser.add_argument("--finish", nargs="+", choices=list(WITHOUT), default=list(WITHOUT))
    parser.add_argument("--images", type=int, default=0, help="0: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--regions", type=int, default=2000)
    parser.add_argument("--latency", action="store_true")
    options = parser.parse_args()
    with stdout_to_stderr():
        record = works[options.what](options)
    write_json(record)


if __name__ == "__main__":
    main()
