"""What the pass sensitivity takes, and how well it ranks forms: `python tests/benchmarks/bench_sensitivity.py --models FOLDER`.

Time is compared with one pass of the float model over the calibration data, in onnxruntime with its own threads and with one.
Losses are compared with brute force: each form alone, in a session of its own, on all calibration samples. That takes half a
minute (ResNet-20) to some minutes (MobileNetV2); `--forms` takes so many forms evenly, `--keep` keeps what was computed in a folder.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.stats import spearmanr

from qcompiler.assignment import Problem
from qcompiler.data import DataSource
from qcompiler.descriptor import load_target
from qcompiler.experiments import Experiment, add_fake_quantize, encoded_constant
from qcompiler.forms import Form, all_forms
from qcompiler.imported import Imported
from qcompiler.ir.graph import Graph
from qcompiler.ir.onnx_import import load
from qcompiler.losses import Laboratory
from qcompiler.observed import IMPORTED, RANGES
from qcompiler.options import default_pipeline, make_options
from qcompiler.pass_manager import PassContext
from qcompiler.passes._group_encodings import GroupEncoder
from qcompiler.passes.sensitivity import SensitivityAnalysis
from qcompiler.pipeline import Pipeline
from qcompiler.regions import REGIONS
from qcompiler.runtime import Session
from qcompiler.sensitivity import SENSITIVITY, Sensitivity

if TYPE_CHECKING:
    from numpy.typing import NDArray

T = TypeVar("T")
MODELS = ("resnet20_cifar10", "mobilenetv2_imagenet")
TARGET = Path(__file__).parents[2] / "docs" / "examples" / "npu.toml"
console = Console(width=150)


def timed(work: Callable[[], T]) -> tuple[float, float, T]:
    """Seconds by the clock and of all cores, and the result."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return time.perf_counter() - wall, time.process_time() - cpu, result


def prepared(folder: Path) -> tuple[Graph, PassContext]:
    """A model up to and with calibration."""
    graph = load(folder / "model.onnx")
    target = load_target(TARGET)
    pipeline = default_pipeline(target, make_options({}))
    names = [entry.name for entry in pipeline]
    data = DataSource.open(folder / "calibration.npz").validate(graph)
    context = PassContext(target=target, calibration=data)
    Pipeline(tuple(pipeline)[: names.index("calibrate") + 1]).run(graph, context)
    return graph, context


def experiments_of(graph: Graph, context: PassContext) -> dict[Form, Experiment]:
    """All forms with their encodings."""
    assert context.target is not None
    problem = Problem.state(graph, context.target, graph.facts[REGIONS])
    imported = Imported(graph, graph.facts.get(IMPORTED) or {})
    encoder = GroupEncoder(problem, graph.facts[RANGES], imported, "mse")
    return {
        form: Experiment.of(form.value, uses, encoder.of_form(form, uses))
        for form, uses in all_forms(problem).items()
    }


def with_form(graph: Graph, experiment: Experiment, shifts: Mapping[str, NDArray[np.float32]]) -> Graph:
    """The model with one experiment written into it, and the means of what rounding does taken out, by node."""
    copy = graph.copy()
    for use in experiment.uses:
        node, value = copy.node(use.node.name), use.node.inputs[use.slot]
        assert value is not None
        if value.data is not None:
            new = copy.add_constant(value.name, encoded_constant(value, experiment.encoding))
        else:
            new = add_fake_quantize(copy, copy.value(value.name), value.dtype, experiment.encoding)
        copy.set_input(node, use.slot, new)
    for name, shift in shifts.items():
        output = copy.node(name).output
        mean = copy.add_constant("mean", shift)
        less = copy.add_node("Sub", [output, mean]).output
        copy.replace_uses(output, less, [use for use in output.uses if use.node is not less.producer])
    return copy


def mean_shifts(
    graph: Graph, data: DataSource, forms: Mapping[Form, Experiment]
) -> dict[Form, dict[str, NDArray[np.float32]]]:
    """What rounding weights adds to each channel of the nodes that read them, on average over all samples.

    Convolutions are linear: it is the mean of a convolution with the differences of the weights.
    """
    copy, taps = graph.copy(), {}
    for form, experiment in forms.items():
        if not experiment.corrected:
            continue
        assert form.value.data is not None
        lost = encoded_constant(form.value, experiment.encoding) - form.value.data
        for node in dict.fromkeys(use.node for use in experiment.uses):
            x = node.inputs[0]
            assert x is not None
            inputs = [copy.value(x.name), copy.add_constant("lost", lost)]
            shift = copy.add_node(node.op, inputs, 1, node.attributes).output
            axes = copy.add_constant("axes", np.arange(2, node.output.rank or 2, dtype=np.int64))
            taps[form, node.name] = copy.add_node("ReduceMean", [shift, axes]).output.name
    found: dict[Form, dict[str, NDArray[np.float32]]] = {}
    if taps:
        sums: dict[str, Any] = dict.fromkeys(taps.values(), 0.0)
        for results in Session(copy, sums).stream(data):
            for name, result in results.items():
                sums[name] = sums[name] + result.sum(axis=0, dtype=np.float64)
        for (form, node_name), tap in taps.items():
            found.setdefault(form, {})[node_name] = (sums[tap] / data.count).astype(np.float32)[None]
    return found


def brute_force(
    graph: Graph, data: DataSource, forms: dict[Form, Experiment], kept: Path | None
) -> dict[str, float]:
    """The loss of each form on all samples, biases corrected, computed apart from the pass's machinery."""
    found: dict[str, float] = json.loads(kept.read_text()) if kept is not None and kept.exists() else {}
    (output,) = Laboratory(graph, data).outputs

    def run(model: Graph) -> Any:
        return Session(model, [output.name]).run_all(data)[output.name].astype(np.float64)

    base = run(graph)
    shifts = mean_shifts(
        graph, data, {form: item for form, item in forms.items() if json.dumps(form.key) not in found}
    )
    for number, (form, experiment) in enumerate(forms.items()):
        key = json.dumps(form.key)
        if key in found:
            continue
        result = run(with_form(graph, experiment, shifts.get(form, {})))
        if output.axis is None:
            found[key] = float(np.square(result - base).sum() / np.square(base).sum())
        else:
            p, q = (item - np.logaddexp.reduce(item, axis=1, keepdims=True) for item in (base, result))
            found[key] = float((np.exp(p) * (p - q)).sum(axis=1).mean())
        if kept is not None and number % 10 == 0:
            kept.write_text(json.dumps(found))
    if kept is not None:
        kept.write_text(json.dumps(found))
    return found


def speed(name: str, graph: Graph, context: PassContext, passes: float) -> Sensitivity:
    """Runs the pass, and prints what it took."""
    assert context.calibration is not None
    data = context.calibration
    table = Table(
        "", "wall s", "CPU s", "CPU, passes", "CPU, 1-thread passes", title=f"{name}: {data.count} samples"
    )

    def one_pass(threads: int | None) -> tuple[float, float]:
        runs = [
            timed(lambda: sum(1 for _ in Session(graph, threads=threads).stream(data)))[:2] for _ in range(3)
        ]
        return min(run[0] for run in runs), min(run[1] for run in runs)

    own, single = one_pass(None), one_pass(1)
    encodings = timed(lambda: experiments_of(graph, context))[:2]
    wall, cpu, result = timed(lambda: SensitivityAnalysis(passes=passes).run(graph, context))
    rows = {
        "float pass": own,
        "float pass, 1 thread": single,
        "the pass": (wall, cpu),
        "of it, encodings": encodings,
    }
    rows["without encodings"] = (wall - encodings[0], cpu - encodings[1])
    for label, (clock, cores) in rows.items():
        table.add_row(
            label, f"{clock:.2f}", f"{cores:.2f}", f"{cores / own[1]:.2f}", f"{cores / single[1]:.2f}"
        )
    console.print(table)
    console.print(*map(str, result.diagnostics), sep="\n")
    return graph.facts[SENSITIVITY]


def ranking(name: str, found: Sensitivity, truth: dict[str, float], forms: list[Form]) -> None:
    """Prints rank correlations: of all weights, of all activations, and among the values of one format."""
    table = Table(
        "forms", "count", "Spearman", "median factor", title=f"{name}: {found.measure}, against brute force"
    )
    pairs = {form: (found.of(form).mean, truth[json.dumps(form.key)]) for form in forms}
    groups: dict[str, list[Form]] = {"all weights": [], "all activations": []}
    for form in sorted(forms, key=lambda form: (not form.value.is_constant, -form.spec.numeric.bits)):
        groups["all weights" if form.value.is_constant else "all activations"].append(form)
        groups.setdefault(str(form.spec), []).append(form)
    for label, members in groups.items():
        losses = np.array([pairs[form] for form in members])
        rank = spearmanr(losses[:, 0], losses[:, 1]).statistic
        both = losses[(losses > 0).all(axis=1)]
        factor = np.median(np.exp(np.abs(np.log(both[:, 0] / both[:, 1])))) if len(both) else 1.0
        table.add_row(label, str(len(members)), f"{rank:.3f}", f"{factor:.2f}")
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, required=True, help="folder of models")
    parser.add_argument("--only", nargs="*", default=MODELS, help="which of them")
    parser.add_argument("--forms", type=int, default=0, help="how many forms to try by brute force; 0: all")
    parser.add_argument("--keep", type=Path, help="folder for the results of brute force")
    parser.add_argument(
        "--passes", type=float, default=SensitivityAnalysis().passes, help="as the pass's option"
    )
    options = parser.parse_args()
    os.environ["QCOMPILER_CACHE"] = "off"
    for name in options.only:
        graph, context = prepared(options.models / name)
        found = speed(name, graph, context, options.passes)
        experiments = experiments_of(graph, context)
        forms = list(experiments)
        if options.forms and options.forms < len(forms):
            forms = [forms[index * len(forms) // options.forms] for index in range(options.forms)]
        kept = None
        if options.keep is not None:
            options.keep.mkdir(parents=True, exist_ok=True)
            kept = options.keep / f"{name}.json"
        assert context.calibration is not None
        truth = brute_force(graph, context.calibration, {form: experiments[form] for form in forms}, kept)
        ranking(name, found, truth, forms)


if __name__ == "__main__":
    main()
