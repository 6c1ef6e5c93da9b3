"""sensitivity: what every form costs, from measurements that are kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from quantized import PREPARE
from scipy.stats import spearmanr
from small_graphs import graph_of, normal

from qcompiler.assignment import Problem
from qcompiler.data import DataSource
from qcompiler.descriptor import load_target
from qcompiler.errors import DataError, OptionError
from qcompiler.experiments import Experiment
from qcompiler.forms import all_forms
from qcompiler.imported import Imported
from qcompiler.ir.graph import Graph
from qcompiler.losses import Laboratory
from qcompiler.observed import RANGES
from qcompiler.pass_manager import PassContext
from qcompiler.passes import find_pass
from qcompiler.passes._group_encodings import GroupEncoder
from qcompiler.passes._sensitivity_cache import cache_folder
from qcompiler.passes._sibling_losses import blend
from qcompiler.passes.sensitivity import SensitivityAnalysis
from qcompiler.pipeline import Checks, PassRecord, Pipeline
from qcompiler.probe import Probe
from qcompiler.regions import REGIONS
from qcompiler.sensitivity import SENSITIVITY, Sensitivity
from qcompiler.targets import find_target

NPU = load_target(Path(__file__).parents[2] / "docs" / "examples" / "npu.toml")
CHAIN = (
    "(float[batch,4,8,8] x) => (float y) { a = Conv<pads=[1,1,1,1]>(x, w, b) r = Relu(a) c = Conv<pads=[1,1,1,1]>(r, v) s = Add(c, r) "
    "t = Relu(s) p = GlobalAveragePool(t) f = Flatten(p) y = Gemm<transB=1>(f, u) }"
)
CONSTANTS = {"w": normal(8, 4, 3, 3), "b": normal(8), "v": normal(8, 8, 3, 3) * 0.2, "u": normal(6, 8)}
LONG = (
    "(float[batch,8,8,8] x) => (float y) { "
    + " ".join(
        f"a{i} = Conv<pads=[1,1,1,1]>({f'r{i - 1}' if i else 'x'}, w{i}) r{i} = Relu(a{i})" for i in range(10)
    )
    + " y = GlobalAveragePool(r9) }"
)
LONG_CONSTANTS = {f"w{i}": normal(8, 8, 3, 3, seed=i) * 0.15 for i in range(10)}
DATA = {"x": normal(24, 4, 8, 8)}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own."""
    monkeypatch.setenv("QCOMPILER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "sensitivity"


def measured(
    graph: Graph, data: dict[str, NDArray[Any]] | None = None, **options: Any
) -> tuple[Graph, Sensitivity, PassRecord]:
    """The graph prepared, with its sensitivity; the pass is held to leaving the graph alone."""
    graph = graph.copy()
    context = PassContext(target=NPU, calibration=DataSource.open(data or DATA).validate(graph))
    Pipeline.parse(f"{PREPARE},fuse,calibrate", find_pass).run(graph, context)
    text = str(graph)
    records = Pipeline((SensitivityAnalysis(**options),)).run(graph, context, Checks(probe=Probe(graph)))
    assert str(graph) == text
    return graph, graph.facts[SENSITIVITY], records[-1]


def told(record: PassRecord) -> str:
    return " ".join(str(item) for item in record.diagnostics)


def brute_force(graph: Graph, data: dict[str, NDArray[Any]]) -> dict[Any, float]:
    """The loss of every form, on all data, each experiment on its own."""
    problem = Problem.state(graph, NPU, graph.facts[REGIONS])
    encoder = GroupEncoder(problem, graph.facts[RANGES], Imported(graph, {}), "mse")
    laboratory = Laboratory(graph, DataSource.open(data))
    samples = laboratory.samples(10_000)
    return {
        form.key: float(
            laboratory.run([Experiment.of(form.value, uses, encoder.of_form(form, uses))], samples).means[0]
        )
        for form, uses in all_forms(problem).items()
    }


def test_every_form_has_its_loss() -> None:
    graph, found, record = measured(graph_of(CHAIN, CONSTANTS), passes=1e6, measured="all")
    expected = brute_force(graph, DATA)
    assert set(found.losses) == set(expected)
    assert {name for name, _, _ in expected} == {"x", "w", "r", "v", "p", "u"}
    for key, loss in expected.items():
        assert found.losses[key].mean == pytest.approx(loss, rel=2e-3, abs=1e-13), key
        assert found.losses[key].measured
        assert found.losses[key].error == pytest.approx(0, abs=1e-6 * found.losses[key].mean)
    assert (found.samples, found.measure) == (24, "normalised output error")
    assert record.counts == {"forms measured": len(expected)}


def test_fewer_bits_cost_more() -> None:
    _, found, _ = measured(graph_of(CHAIN, CONSTANTS))
    for name in ("w", "v", "u"):
        losses = [found.losses[name, f"int{bits} symmetric per-channel", 0].mean for bits in (8, 4, 2)]
        assert losses == sorted(losses)


def test_what_was_not_run_follows_from_the_rest() -> None:
    """16 bits are run for some values only."""
    data = {"x": normal(24, 8, 8, 8)}
    graph, found, record = measured(graph_of(LONG, LONG_CONSTANTS), data)
    expected = brute_force(graph, data)
    inferred = [key for key, loss in found.losses.items() if not loss.measured]
    assert len(inferred) == 7
    assert all(key[1].startswith("uint16") for key in inferred)
    for key in inferred:
        assert 0.5 < found.losses[key].mean / expected[key] < 2
    assert "siblings foretell them within a factor of" in told(record)


def test_a_tight_budget_runs_one_form_of_each_value(monkeypatch: pytest.MonkeyPatch) -> None:
    data = {"x": normal(24, 8, 8, 8)}
    monkeypatch.setattr(
        Laboratory, "samples_for", lambda self, experiments, passes: 1.5 if len(experiments) > 60 else 12.5
    )
    graph, found, record = measured(graph_of(LONG, LONG_CONSTANTS), data)
    assert found.samples == 12
    expected = brute_force(graph, data)
    run = [key for key, loss in found.losses.items() if loss.measured]
    assert record.counts["forms measured"] == len(run) < 0.7 * len(expected)
    assert {key[0] for key in run} == {key[0] for key in expected}
    assert {key[1] for key in run} == {key[1] for key in expected}  # spot checks of every format
    for constant in (True, False):
        keys = [key for key in expected if (key[2] is not None) == constant]
        ratios = [found.losses[key].mean / expected[key] for key in keys]
        assert 0.5 < np.median(ratios) < 2
        assert np.quantile(np.abs(np.log(ratios)), 0.9) < np.log(5)
        assert spearmanr([found.losses[key].mean for key in keys], [expected[key] for key in keys])[0] > 0.95
    assert all(loss.error > 0 for loss in found.losses.values())


@pytest.mark.parametrize(("target", "times"), [("core-ml:ios17-a16", 1.0), ("core-ml:ios18-a16", 2.0)])
def test_more_formats_take_more_work(target: str, times: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """`passes` is for 8 formats; weights alone have 6 on iOS 17, and 16 on iOS 18."""
    wide = {"w": normal(32, 4, 3, 3), "b": normal(32), "v": normal(32, 32, 3, 3), "u": normal(64, 32)}
    graph, granted = graph_of(CHAIN, wide), list[float]()
    samples_for = Laboratory.samples_for

    def recorded(self: Laboratory, experiments: Any, passes: float) -> float:
        granted.append(passes)
        return samples_for(self, experiments, passes)

    monkeypatch.setattr(Laboratory, "samples_for", recorded)
    context = PassContext(target=find_target(target), calibration=DataSource.open(DATA).validate(graph))
    Pipeline.parse(f"{PREPARE},fuse,calibrate", find_pass).run(graph, context)
    Pipeline((SensitivityAnalysis(passes=3.0),)).run(graph, context)
    assert granted[0] == 3.0 * times


def test_it_is_kept_and_used_again(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, first, record = measured(graph_of(CHAIN, CONSTANTS))
    assert "reused" not in told(record)
    assert [file.suffix for file in cache.iterdir()] == [".json"]

    def fail(*_: Any) -> None:
        raise AssertionError("ran again")

    monkeypatch.setattr(Laboratory, "run", fail)
    _, second, record = measured(graph_of(CHAIN, CONSTANTS))
    assert second == first
    assert "reused" in told(record)
    assert not record.counts


CHANGES: dict[str, dict[str, Any]] = {
    "weights": {"constants": CONSTANTS | {"u": normal(6, 8) * 1.01}},
    "data": {"data": {"x": DATA["x"] * 1.01}},
    "options": {"options": {"weight_range": "min-max"}},
    "measure": {"options": {"measure": "kl"}},
    "structure": {"text": CHAIN.replace("s = Add(c, r)", "s = Sub(c, r)")},
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_changes_is_measured_again(change: str, cache: Path) -> None:
    measured(graph_of(CHAIN, CONSTANTS))
    given = CHANGES[change]
    graph = graph_of(given.get("text", CHAIN), given.get("constants", CONSTANTS))
    _, _, record = measured(graph, given.get("data", DATA), **given.get("options", {}))
    assert "reused" not in told(record)
    assert len(list(cache.iterdir())) == 2


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"losses": [[1]], "measure": "kl", "samples": 1}', '{"losses": [], "measure": "kl", "samples": 1}'])  # fmt: skip
def test_damaged_entries_are_ignored(damage: str, cache: Path) -> None:
    _, first, _ = measured(graph_of(CHAIN, CONSTANTS))
    (file,) = cache.iterdir()
    whole = file.read_text()
    file.write_text(damage)
    _, second, record = measured(graph_of(CHAIN, CONSTANTS))
    assert second == first
    assert "reused" not in told(record)
    assert json.loads(file.read_text()) == json.loads(whole)


def test_the_cache_can_be_off_or_unwritable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QCOMPILER_CACHE", "off")
    assert cache_folder() is None
    measured(graph_of(CHAIN, CONSTANTS))
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("QCOMPILER_CACHE", str(tmp_path / "file"))
    measured(graph_of(CHAIN, CONSTANTS))
    assert [item.name for item in tmp_path.iterdir()] == ["file"]


def test_the_cache_is_below_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QCOMPILER_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_folder() == Path("/somewhere/qcompiler/sensitivity")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache/qcompiler/sensitivity"


def test_the_same_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QCOMPILER_CACHE", "off")
    assert measured(graph_of(CHAIN, CONSTANTS))[1] == measured(graph_of(CHAIN, CONSTANTS))[1]


def test_without_data_it_says_what_to_give() -> None:
    graph = graph_of(CHAIN, CONSTANTS)
    context = PassContext(target=NPU, calibration=DataSource.open(DATA).validate(graph))
    Pipeline.parse(f"{PREPARE},fuse,calibrate", find_pass).run(graph, context)
    context.calibration = None
    with pytest.raises(DataError, match=r"give --calibration NPZ"):
        SensitivityAnalysis().run(graph, context)


def test_nothing_to_quantize_needs_no_data() -> None:
    graph = graph_of("(float[batch,4] x) => (float y) { y = Sin(x) }")
    context = PassContext(target=NPU)
    Pipeline.parse(f"{PREPARE},fuse,calibrate,sensitivity", find_pass).run(graph, context)
    assert not graph.facts[SENSITIVITY].losses


@pytest.mark.parametrize("count", [1, 2])
def test_very_few_samples(count: int) -> None:
    _, found, _ = measured(graph_of(CHAIN, CONSTANTS), {"x": DATA["x"][:count]})
    assert found.samples == count
    assert all(np.isfinite([loss.mean, loss.error]).all() for loss in found.losses.values())


def test_a_model_of_batch_1() -> None:
    text = CHAIN.replace("float[batch,", "float[1,")
    open_batch, fixed = measured(graph_of(CHAIN, CONSTANTS))[1], measured(graph_of(text, CONSTANTS))[1]
    for key, loss in open_batch.losses.items():
        if (
            key[0] in CONSTANTS
        ):  # biases of convolutions are corrected by the mean over a run, which here is one sample
            assert loss.mean / 3 <= fixed.losses[key].mean <= loss.mean * 3
        else:
            assert fixed.losses[key].mean == pytest.approx(loss.mean, rel=1e-2, abs=1e-13)


def test_dead_layers_cost_nothing() -> None:
    constants = CONSTANTS | {"w": CONSTANTS["w"] * np.float32(0), "b": np.full(8, -1, np.float32)}
    _, found, _ = measured(graph_of(CHAIN, constants))
    assert all(np.isfinite([loss.mean, loss.error]).all() for loss in found.losses.values())
    assert all(loss.mean == 0 for key, loss in found.losses.items() if key[0] in ("w", "r", "v"))


def test_a_softmax_is_measured_by_divergence() -> None:
    text = CHAIN.replace("y = Gemm<transB=1>(f, u)", "g = Gemm<transB=1>(f, u) y = Softmax(g)")
    graph = graph_of(text, CONSTANTS)
    _, found, _ = measured(graph)
    assert found.measure == "kl"
    assert measured(graph, measure="error")[1].measure == "normalised output error"


def test_uses_that_stay_float_do_not_read_the_form() -> None:
    """The addition reads r as a float, whatever the convolution reads it as."""
    graph, found, _ = measured(graph_of(CHAIN, CONSTANTS), passes=1e6, measured="all")
    problem = Problem.state(graph, NPU, graph.facts[REGIONS])
    for form, uses in all_forms(problem).items():
        if form.value.name == "r":
            assert {use.node.op for use in uses} == {"Conv"}
    assert found.losses["r", "uint4 affine per-tensor", None].mean > 0


def test_options_are_typed() -> None:
    assert SensitivityAnalysis.from_options({"passes": "2.5"}).passes == 2.5
    with pytest.raises(OptionError, match="measure"):
        SensitivityAnalysis.from_options({"measure": "top1"})


# -- blending ----------------------------------------------------------------------------------------------------


def drawn(variance: float, seed: int = 0) -> tuple[list[int], list[int], Any, Any, Any]:
    """Values, formats, noise, true losses and measured ones, as the model of blending has them."""
    rng = np.random.default_rng(seed)
    values, formats = (grid.ravel() for grid in np.meshgrid(np.arange(60), np.arange(5), indexing="ij"))
    noise = 4.0 ** -(formats * 2.0) * rng.lognormal(0, 0.3, values.size)
    own, format_factor = rng.normal(0, 1.5, 60), np.array([0.6, 0.3, 0.0, -0.2, -0.3])
    true = noise * np.exp(own[values] + format_factor[formats] + rng.normal(0, 0.2**0.5, values.size))
    return (
        values.tolist(),
        formats.tolist(),
        noise,
        true,
        true * np.exp(rng.normal(0, variance**0.5, values.size)),
    )


def rms(found: Any, true: Any) -> float:
    return float(np.sqrt(np.mean(np.log(found / true) ** 2)))


def test_siblings_make_few_samples_better() -> None:
    values, formats, noise, true, measured_losses = drawn(0.5)
    found = blend(values, formats, noise, measured_losses, 0.5)
    assert rms(found.means, true) < 0.75 * rms(measured_losses, true)
    assert rms(found.foretold, true) < 0.75
    scaled = np.log(found.means / true) / np.sqrt(np.log1p((found.errors / found.means) ** 2))
    assert scaled.std() == pytest.approx(1, abs=0.15)


def test_siblings_stand_in_for_what_was_not_run() -> None:
    values, formats, noise, true, measured_losses = drawn(0.05)
    some = np.where((np.array(formats) == 2) | (np.arange(300) % 7 == 0), measured_losses, np.nan)
    found = blend(values, formats, noise, some, 0.05)
    assert rms(found.means, true) < 0.7
    assert np.isfinite(found.means).all()


def test_exact_measurements_stand() -> None:
    values, formats, noise, true, _ = drawn(0.0)
    found = blend(values, formats, noise, true, 0.0)
    np.testing.assert_allclose(found.means, true, rtol=1e-6)
    np.testing.assert_allclose(found.errors, 0, atol=1e-4 * true.max())


def test_values_without_effect_have_none() -> None:
    nan = np.nan
    found = blend([0, 0, 1, 1, 2], ["a", "b", "a", "b", "a"], np.array([1.0, 2.0, 0.0, 1.0, 1.0]), np.array([0.0, nan, nan, 0.3, np.inf]), 0.1)  # fmt: skip
    np.testing.assert_allclose(found.means, [0, 0, 0, 0.3, np.inf], rtol=0.5)
