"""Rows within budgets: the best by brute force, sizes to the byte, what is shared paid once, and what cannot be kept."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from quantized import HEADER, PREPARE, WIDTHS, samples_for, target_of
from small_graphs import graph_of, normal

from qcompiler.assignment import Choice, Problem, use_value
from qcompiler.budget import Budget
from qcompiler.costs import CostModel
from qcompiler.data import DataSource
from qcompiler.decision import DECISION, Decision
from qcompiler.descriptor import load_target
from qcompiler.errors import OptionError, TargetError
from qcompiler.forms import all_forms, row_forms, written_forms
from qcompiler.ir.graph import Graph
from qcompiler.ir.plan import PLAN
from qcompiler.pass_manager import Level, PassContext
from qcompiler.passes import find_pass
from qcompiler.passes._row_selection import RowSelection, chosen_rows, select, state_selection
from qcompiler.passes.assign_precision import uniform_choice
from qcompiler.pipeline import PassRecord, Pipeline
from qcompiler.regions import REGIONS
from qcompiler.report.node_table import constant_bytes, weight_rows
from qcompiler.runtime import Session
from qcompiler.sensitivity import Loss, Sensitivity
from qcompiler.target import Row, Target

NPU = load_target(Path(__file__).parents[2] / "docs" / "examples" / "npu.toml")
LAYERS = "(float[batch,16] x) => (float y) { a = Gemm(x, w, b) r = Relu(a) c = Gemm(r, v) s = Relu(c) y = Gemm(s, u, d) }"
CONSTANTS = {"w": normal(16, 24), "b": normal(24), "v": normal(24, 12), "u": normal(12, 5), "d": normal(5)}
IMAGE = "(float[batch,3,8,8] x) => (float y)"
BRANCHES = (
    f"{IMAGE} {{ a = Conv<pads=[1,1,1,1]>(x, w, b) r = Relu(a) c = Conv<pads=[1,1,1,1]>(r, v) e = Conv(r, k) s = Add(c, e) "
    "t = Relu(s) p = GlobalAveragePool(t) f = Flatten(p) y = Gemm<transB=1>(f, u) }"
)
BRANCH_CONSTANTS = {
    "w": normal(7, 3, 3, 3), "b": normal(7), "v": normal(7, 7, 3, 3), "k": normal(7, 7, 1, 1), "u": normal(5, 7),
}  # fmt: skip


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QCOMPILER_CACHE", str(tmp_path / "cache"))


def problem_of(graph: Graph, target: Target = NPU) -> Problem:
    context = PassContext(target=target)
    Pipeline.parse(f"{PREPARE},fuse", find_pass).run(graph, context)
    return Problem.state(graph, target, graph.facts[REGIONS])


def invented(problem: Problem, seed: int = 0) -> Sensitivity:
    """Losses that fall with the bits, and differ between values."""
    rng = np.random.default_rng(seed)
    losses = {
        form.key: Loss(float(4.0**-form.spec.numeric.bits * rng.uniform(0.5, 50)), 0.0, True)
        for form in all_forms(problem)
    }
    return Sensitivity(losses, "normalised output error", 1)


def stated(
    text: str, constants: dict[str, Any], target: Target = NPU, seed: int = 0, allowed: tuple[str, ...] = ()
) -> tuple[Problem, Sensitivity, RowSelection]:
    problem = problem_of(graph_of(text, constants), target)
    losses = invented(problem, seed)
    return problem, losses, state_selection(problem, losses, CostModel(target, "float32"), allowed)


def selected(
    text: str, constants: dict[str, Any], budget: Budget, target: Target = NPU, **options: Any
) -> tuple[Decision, dict[str, str]]:
    _, losses, selection = stated(text, constants, target, **options)
    decision = select(selection, budget, losses, {})
    return decision, {name: row.name for name, row in chosen_rows(selection, decision).items()}


def compiled(
    text: str, constants: dict[str, Any], budget: Budget | None, target: Target = NPU, **options: Any
) -> tuple[Graph, Decision | None, PassRecord]:
    """A graph through the passes, refinement aside; the decision, and what assign_precision said."""
    graph = graph_of(text, constants)
    source = DataSource.open(samples_for(graph, 8)).validate(graph)
    context = PassContext(target=target, calibration=source, budget=budget)
    listed = Pipeline.parse(
        f"{PREPARE},fuse,calibrate,sensitivity,assign_precision,correct_bias,insert_qdq", find_pass
    )
    listed = listed.replace("assign_precision", find_pass("assign_precision").from_options(options))
    records = listed.run(graph, context)
    graph.verify()
    said = next(record for record in records if record.name.startswith("assign_precision"))
    return graph, graph.facts.get(DECISION), said


# -- brute force ---------------------------------------------------------------------------------------------------


def own_cost(problem: Problem, losses: Sensitivity, choice: Choice) -> tuple[float, float, float, float]:
    """Loss, bits of weights, bytes of all constants and seconds of a choice, from first principles."""
    forms = {
        form
        for region in problem.regions
        for row in [choice.get(region.name)]
        if row is not None
        for form in row_forms(problem, region, row)
    }
    loss = math.fsum(losses.of(form).mean for form in forms)
    weights = {form for form in forms if form.value.is_constant}
    codes = sum(
        form.value.data.size * form.spec.numeric.bits for form in weights if form.value.data is not None
    )
    quantized = {form.value for form in forms}
    stored = 0
    for form in forms:
        count = 1 if form.axis is None else int(np.shape(form.value.data)[form.axis])
        carrier = {2: 4, 3: 4, 4: 4, 6: 8, 8: 8, 16: 16}[form.spec.numeric.bits]
        size = np.size(form.value.data) * form.spec.numeric.bits if form.value.is_constant else 0
        stored += -(-size // 8) + 4 * count + -(-count * carrier // 8)
    for value in problem.graph.constants:
        if value not in quantized and value.data is not None:
            stored += value.data.nbytes
    for node in problem.graph.nodes:
        weight = node.input(1)
        if node.op == "Gemm" and node.input(2) is None and weight in quantized and weight is not None:
            stored += 4 * int((weight.shape or (0, 0))[0])  # the bias that it is given
    return loss, codes, stored, roofline(problem, choice)


def roofline(problem: Problem, choice: Choice) -> float:
    """Of a chain of Gemm -> Relu on the example's array: macs over the rate of the wider, or traffic."""
    rates = {"uint16": 0.25e12, "uint8": 1e12, "uint4": 4e12, "int8": 1e12, "int6": 1.33e12, "int4": 4e12, "int3": 4e12, "int2": 8e12}  # fmt: skip
    total = 0.0
    for region in problem.regions:
        row = choice[region.name]
        assert row is not None
        specs = problem.target.row_specs(row)
        x, w = (use_value(region.uses[name][0]) for name in ("x", "w"))
        columns, rows = (int(dim) for dim in w.shape or () if isinstance(dim, int))
        macs = rows * columns
        bits = rows * specs["x"].numeric.bits + macs * specs["w"].numeric.bits + columns * 32
        if region.uses.get("b"):
            bits += columns * 32  # no row names it: a float
        total += max(macs / min(rates[specs[name].format] for name in ("x", "w")), bits / 8 / 16e9)
        assert x.shape is not None
    return total


def everything(
    problem: Problem, losses: Sensitivity
) -> list[tuple[tuple[float, float, float, float], dict[str, Row]]]:
    listed = [problem.legal_rows(region) for region in problem.regions]
    names = [region.name for region in problem.regions]
    found = []
    for rows in itertools.product(*listed):
        choice = dict(zip(names, rows, strict=True))
        found.append((own_cost(problem, losses, choice), choice))
    return found


@pytest.mark.parametrize("seed", [0, 1])
def test_nothing_is_better(seed: int) -> None:
    problem, losses, selection = stated(LAYERS, CONSTANTS, seed=seed)
    listed = everything(problem, losses)
    assert len(listed) == 10 * 15 * 15
    table = np.array([cost for cost, _ in listed])
    weights = sum(CONSTANTS[name].size for name in "wvu")
    slow, fast = np.quantile(table[:, 3], [0.5, 0.1])
    budgets = [
        Budget(),
        Budget(weight_bits=4.0),
        Budget(weight_bits=2.5),
        Budget(size=float(np.quantile(table[:, 2], 0.3))),
        Budget(latency=float(slow)),
        Budget(weight_bits=5.0, latency=float(fast)),
        Budget(weight_bits=4.0, size=float(np.quantile(table[:, 2], 0.5))),
        Budget(loss=float(np.quantile(table[:, 0], 0.3)), minimise="size"),
        Budget(loss=float(np.quantile(table[:, 0], 0.1)), minimise="latency"),
    ]  # fmt: skip
    for budget in budgets:
        keeps = np.ones(len(table), bool)
        for column, limit in enumerate((budget.loss, budget.weight_bits, budget.size, budget.latency)):
            if limit is not None:
                keeps &= table[:, column] <= limit * (weights if column == 1 else 1)
        column = {"loss": 0, "size": 2, "latency": 3}[budget.minimise]
        best = table[keeps, column].min()
        decision = select(selection, budget, losses, {})
        own = own_cost(problem, losses, chosen_rows(selection, decision))
        assert not decision.unmet
        assert own[column] == pytest.approx(best, rel=1e-6), budget
        assert decision.loss == pytest.approx(own[0], rel=1e-9)
        assert decision.weight_bits == pytest.approx(own[1] / weights)
        assert decision.size_bytes == own[2]
        assert decision.latency == pytest.approx(own[3], rel=1e-9)
        assert decision.optimal
        for option, value in zip(("loss", "weight_bits", "size", "latency"), (own[0], own[1] / weights, *own[2:]), strict=True):  # fmt: skip
            limit = getattr(budget, option)
            assert limit is None or value <= limit * (1 + 1e-12)


def test_what_others_would_have_meant() -> None:
    problem, losses, selection = stated(LAYERS, CONSTANTS)
    decision = select(selection, Budget(weight_bits=4.0), losses, {})
    rows = chosen_rows(selection, decision)
    loss, codes, _, latency = own_cost(problem, losses, rows)
    for region in problem.regions:
        weighed = decision.regions[region.name]
        by_name = {row.name: row for row in problem.legal_rows(region)}
        assert [item.row for item in weighed.considered] == list(by_name)
        for item in weighed.considered:
            other = own_cost(problem, losses, {**rows, region.name: by_name[item.row]})
            assert item.loss == pytest.approx(other[0] - loss, abs=1e-9)
            assert item.size == other[1] - codes
            assert item.latency == pytest.approx(other[3] - latency, abs=1e-15)
            limit = 4.0 * sum(CONSTANTS[name].size for name in "wvu")
            assert item.breaks == (("size",) if other[1] > limit else ())


def test_tighter_budgets_never_lose_less() -> None:
    _, losses, selection = stated(BRANCHES, BRANCH_CONSTANTS)
    least = {name: select(selection, Budget(minimise=name), losses, {}) for name in ("size", "latency")}
    size, latency = least["size"].size_bytes, least["latency"].latency
    sweeps: dict[str, Iterable[float]] = {
        "weight_bits": np.linspace(2, 8, 13),
        "size": np.linspace(size, 1.8 * size, 10),
        "latency": np.geomspace(latency, 2 * latency, 8),
    }
    for option, limits in sweeps.items():
        found = [select(selection, Budget(**{option: float(limit)}), losses, {}) for limit in limits]  # type: ignore[arg-type]
        kept = [decision.loss for decision in found if not decision.unmet]
        assert len(kept) > 5
        assert kept == sorted(kept, reverse=True)
        assert kept[0] > 2 * kept[-1]


# -- sizes of what comes out ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "budget", [Budget(), Budget(weight_bits=4.3), Budget(weight_bits=2), Budget(size=1000)]
)
@pytest.mark.parametrize(
    ("text", "constants"), [(LAYERS, CONSTANTS), (BRANCHES, BRANCH_CONSTANTS)], ids=["layers", "branches"]
)
def test_the_size_is_foretold_to_the_byte(text: str, constants: dict[str, Any], budget: Budget) -> None:
    """But for scales and zero points of ops that follow their consumers (here Flatten: 6 bytes at most)."""
    graph, decision, _ = compiled(text, constants, budget)
    assert decision is not None
    spare = 6 if "Flatten" in text else 0
    assert constant_bytes(graph, graph.facts[PLAN]) <= decision.size_bytes
    assert decision.size_bytes <= constant_bytes(graph, graph.facts[PLAN]) + spare
    listed = weight_rows(graph, graph.facts[PLAN])
    bits = sum(row["parameters"] * row["bits"] for row in listed) / sum(row["parameters"] for row in listed)
    assert decision.weight_bits == pytest.approx(bits)
    assert budget.weight_bits is None or bits <= budget.weight_bits
    assert budget.size is None or decision.size_bytes <= budget.size


DERIVED = """
[encoding.a8]
format = "uint8"
symmetric = false
[encoding.w8]
format = "int8"
granularity = "per-channel"
[encoding.w4]
format = "int4"
granularity = "per-channel"
[encoding.bias]
format = "int32"
derived = ["x", "w"]
[[kernel]]
name = "linear"
pattern = "Gemm(x, w, b?) -> Relu?"
[[kernel.row]]
name = "{w}{x}"
operands = { w = ["w8", "w4"], x = "a8", b = "bias" }
output = ["a8", "float"]
"""


def test_derived_biases_and_shape_constants_count(tmp_path: Path) -> None:
    text = (
        "(float[batch,16] x) => (float y) { a = Gemm(x, w, b) r = Relu(a) k = Reshape(r, shape) m = Abs(k) f = Flatten(m) "
        "s = Add(f, b) y = Gemm(s, u, d) }"
    )
    constants = {
        "w": normal(16, 24),
        "b": normal(24),
        "u": normal(24, 5),
        "d": normal(5),
        "shape": np.array([-1, 4, 6]),
    }
    target = target_of(tmp_path, HEADER + DERIVED)
    graph, decision, _ = compiled(text, constants, Budget(), target)
    assert decision is not None
    size = constant_bytes(graph, graph.facts[PLAN])
    assert size <= decision.size_bytes <= size + 8


def test_an_artifact_of_its_own_stores_what_its_descriptor_says(tmp_path: Path) -> None:
    """Codes, float biases as they are, zeros where there is none, 8 bytes per channel, a table, and 3 bytes per scale."""
    text = "(float[batch,16] x) => (float y) { a = Gemm(x, w, b) r = Relu(a) c = Gemm(r, v) y = Tanh(c) }"
    constants = {"w": normal(16, 24), "b": normal(24), "v": normal(24, 5)}
    rows = DERIVED.replace("output = [", "stored = { channel = 8 }\noutput = [")
    rows += (
        '[[kernel]]\nname = "table"\npattern = "Tanh(x)"\n[[kernel.row]]\nname = "a8"\noperands = { x = "a8" }\n'
        'stored = { whole = 256 }\noutput = ["float"]\n'
    )
    target = target_of(tmp_path, f"{HEADER}scale_bytes = 3\n{rows}")
    _, losses, selection = stated(text, constants, target)
    decision = select(selection, Budget(minimise="size"), losses, {})
    codes, biases = (16 * 24 + 24 * 5) // 2, 4 * (24 + 5)
    scales = 3 * (24 + 5 + 3 + 24)  # of weights, of activations, of the bias
    assert decision.size_bytes == codes + biases + scales + 8 * (24 + 5) + 256


def test_weights_that_no_row_covers_count_as_floats(tmp_path: Path) -> None:
    """They are weights: the others have to make up for them."""
    text = "(float[batch,8] x) => (float y) { a = Gemm(x, w) r = Relu(a) y = MatMul(r, v) }"
    constants = {"w": normal(8, 16), "v": normal(16, 2)}
    target = target_of(
        tmp_path, HEADER + DERIVED.replace("Gemm(x, w, b?) -> Relu?", "Gemm(x, w, b?) -> Relu")
    )
    graph, decision, _ = compiled(text, constants, Budget(weight_bits=10), target)
    assert decision is not None
    listed = weight_rows(graph, graph.facts[PLAN])
    assert {row["format"] for row in listed} == {"int4", "float32"}
    assert decision.weight_bits == pytest.approx((128 * 4 + 32 * 32) / 160)
    _, decision, _ = compiled(text, constants, Budget(weight_bits=4), target)
    assert decision is not None
    assert "the least that the target's rows allow is 9.6 bits per weight" in decision.unmet


# -- sharing -------------------------------------------------------------------------------------------------------


def test_values_that_two_layers_read_are_paid_once() -> None:
    text = "(float[batch,8] x) => (float y, float z) { y = Gemm(x, w) z = Gemm(x, v) }"
    constants = {"w": normal(8, 4), "v": normal(8, 4, seed=1)}
    problem, losses, selection = stated(text, constants)
    decision = select(selection, Budget(), losses, {})
    own = own_cost(problem, losses, chosen_rows(selection, decision))
    assert decision.loss == pytest.approx(own[0])
    least = [min(loss.mean for key, loss in losses.losses.items() if key[0] == name) for name in "xwv"]
    assert decision.loss == pytest.approx(sum(least))


@pytest.mark.parametrize("bits", [8, 4])
def test_a_shared_weight_counts_once(bits: int) -> None:
    text = "(float[batch,8] x) => (float y) { a = Gemm(x, w, b) r = Relu(a) c = Gemm(r, w, d) s = Relu(c) y = Gemm(s, v, e) }"
    constants = {"w": normal(8, 8), "v": normal(8, 8, seed=1), **{name: normal(8) for name in "bde"}}
    graph, decision, _ = compiled(text, constants, Budget(weight_bits=bits))
    assert decision is not None
    assert decision.weight_bits <= bits
    formats = {entry["format"]: entry["parameters"] for entry in weight_rows(graph, graph.facts[PLAN])}
    assert sum(formats.values()) == 128
    assert constant_bytes(graph, graph.facts[PLAN]) == decision.size_bytes


def test_a_bias_that_layers_share_is_copied() -> None:
    text = "(float[batch,8] x) => (float y) { a = Gemm(x, w, b) r = Relu(a) y = Gemm(r, v, b) }"
    constants = {"w": normal(8, 8), "v": normal(8, 8, seed=1), "b": normal(8)}
    graph, decision, _ = compiled(text, constants, Budget(weight_bits=4))
    assert decision is not None
    size = constant_bytes(graph, graph.facts[PLAN])
    assert size <= decision.size_bytes <= size + 4 * 8


# -- what is rounded whoever reads it ------------------------------------------------------------------------------


CHAIN = "(float[batch,16] x) => (float y) { t = Tanh(x) a = Gemm(t, w) c = Gemm(a, v) y = Softmax(c) }"
CHAIN_CONSTANTS = {"w": normal(16, 24), "v": normal(24, 12)}


def written(problem: Problem, losses: Sensitivity, choice: Choice) -> float:
    """The loss of a choice on a target whose rows write what they read."""
    regions = {region.name: (region, choice[region.name]) for region in problem.regions}
    forms = {
        form
        for region, row in regions.values()
        if row is not None
        for form in (*row_forms(problem, region, row), *written_forms(problem, region, row))
    }
    return math.fsum(losses.of(form).mean for form in forms)


@pytest.mark.parametrize("seed", range(4))
def test_what_is_written_is_paid_for_whoever_reads_it(tmp_path: Path, seed: int) -> None:
    problem, losses, selection = stated(CHAIN, CHAIN_CONSTANTS, target_of(tmp_path, WIDTHS), seed)
    names = [region.name for region in problem.regions]
    listed = [
        dict(zip(names, rows, strict=True))
        for rows in itertools.product(*(problem.legal_rows(region) for region in problem.regions))
    ]
    assert len(listed) == 4
    least = min(written(problem, losses, choice) for choice in listed)
    decision = select(selection, Budget(), losses, {})
    assert written(problem, losses, chosen_rows(selection, decision)) == pytest.approx(least)
    assert decision.loss == pytest.approx(least)


def test_reading_in_more_bits_than_were_written_gains_nothing(tmp_path: Path) -> None:
    """Tanh writes 8 bits only: what rounds there does not come back in 16."""
    text = "(float[batch,16] x) => (float y) { t = Tanh(x) a = Gemm(t, w) y = Softmax(a) }"
    _, rows = selected(text, {"w": normal(16, 24)}, Budget(), target_of(tmp_path, WIDTHS))
    assert list(rows.values()) == ["a8", "a8w8", "a8"]


# -- a latency that nobody stated ----------------------------------------------------------------------------------


DEEP = "(float[batch,16] x) => (float y) { a = Gemm(x, w) b = Relu(a) c = Gemm(b, v) d = Relu(c) e = Gemm(d, u) y = Softmax(e) }"
DEEP_CONSTANTS = {"w": normal(16, 24), "v": normal(24, 24), "u": normal(24, 12)}


def test_a_limit_on_the_loss_is_worth_more_than_the_implied_latency(tmp_path: Path) -> None:
    """And no more of it than it takes: of the choices that keep the loss, one that is as fast as the fastest."""
    problem, losses, selection = stated(DEEP, DEEP_CONSTANTS, target_of(tmp_path, WIDTHS))
    uniform = uniform_choice(problem)
    least = select(selection, Budget(), losses, {}).loss
    most = written(problem, losses, uniform)
    latency = selection.latency_of(uniform)
    last = latency
    for share in (1.0, 0.6, 0.3, 0.0):
        limit = (least + share * (most - least)) * (1 + 1e-9)
        decision = select(selection, Budget(loss=limit, minimise="size"), losses, uniform)
        fastest = select(selection, Budget(loss=limit, minimise="latency"), losses, uniform)
        assert decision.loss <= limit
        assert not decision.missed
        assert decision.latency == pytest.approx(fastest.latency, rel=1e-5)
        assert decision.latency >= last * (1 - 1e-5)
        assert decision.slower == (decision.latency > latency * (1 + 1e-5))
        last = decision.latency
    assert last > latency
    free = select(selection, Budget(loss=limit, latency=1.0, minimise="size"), losses, uniform)
    assert not free.slower
    assert free.limits["latency"] == 1.0


def test_without_a_limit_on_the_loss_other_limits_leave_the_latency_open() -> None:
    """The fastest rows may lose everything."""
    problem, losses, selection = stated(LAYERS, CONSTANTS)
    uniform = uniform_choice(problem)
    small = select(selection, Budget(minimise="size"), losses, {}).size_bytes
    decision = select(selection, Budget(size=small), losses, uniform)
    assert not decision.slower


# -- rows that are allowed -----------------------------------------------------------------------------------------


def test_only_some_rows() -> None:
    _, every = selected(LAYERS, CONSTANTS, Budget(weight_bits=4))
    assert any(row.endswith("a16") for row in every.values())
    _, rows = selected(LAYERS, CONSTANTS, Budget(weight_bits=4), allowed=("*a8",))
    assert all(row.endswith("a8") for row in rows.values())
    _, rows = selected(LAYERS, CONSTANTS, Budget(), allowed=("w4*", "w3a8"))
    assert all(row.startswith("w4") or row == "w3a8" for row in rows.values())


def test_regions_without_an_allowed_row_have_all_of_theirs() -> None:
    """The first layer reads the graph's input, which no row takes in 4 bits."""
    _, rows = selected(LAYERS, CONSTANTS, Budget(), allowed=("*a4",))
    first, *others = rows.values()
    assert first.endswith("a16")
    assert all(row.endswith("a4") for row in others)


def test_rows_as_an_option() -> None:
    graph, decision, _ = compiled(LAYERS, CONSTANTS, Budget(weight_bits=4), rows="*a8")
    assert decision is not None
    rows = {region.row for region in graph.facts[PLAN].regions}
    assert rows <= {"w8a8", "w6a8", "w4a8", "w3a8", "w2a8"}
    assert all(len(weighed.considered) == 5 for weighed in decision.regions.values())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"rows": "w8a9"}, r"no kernel row 'w8a9'; did you mean 'w8a"),
        ({"rows": "x*"}, r"no kernel row 'x\*'"),
        ({"prefer": "w4a9"}, r"no kernel row 'w4a9' to prefer; did you mean 'w4a"),
    ],
)
def test_rows_that_the_target_does_not_have(options: dict[str, str], says: str) -> None:
    with pytest.raises(OptionError, match=says):
        compiled(LAYERS, CONSTANTS, Budget(weight_bits=4), **options)


def test_preferred_rows_come_in_their_order() -> None:
    graph, _, _ = compiled(LAYERS, CONSTANTS, None, prefer="w2a4+w4a8+w3a8")
    assert [region.row for region in graph.facts[PLAN].regions] == ["w4a8", "w2a4", "w2a4"]


# -- floats --------------------------------------------------------------------------------------------------------

FLOAT_ROWS = """
default_device = "chip"
[device.chip]
rate = { uint8 = 1e12, int8 = 1e12, int4 = 4e12, float32 = 1e10 }
bandwidth = 1e9
[encoding.a8]
format = "uint8"
symmetric = false
[encoding.w8]
format = "int8"
granularity = "per-channel"
[encoding.w4]
format = "int4"
granularity = "per-channel"
[[kernel]]
name = "linear"
pattern = "Gemm(x, $w, b?) -> Relu?"
[[kernel.row]]
name = "{w}{x}"
operands = { w = ["w8", "w4"], x = "a8" }
output = ["float", "a8"]
[[kernel.row]]
name = "float"
operands = {}
"""


def test_float_rows_compete(tmp_path: Path) -> None:
    target = target_of(tmp_path, HEADER + FLOAT_ROWS)
    _, loose = selected(LAYERS, CONSTANTS, Budget(weight_bits=32), target)
    assert set(loose.values()) == {"float"}
    tight, rows = selected(LAYERS, CONSTANTS, Budget(weight_bits=8), target)
    assert "float" not in rows.values()
    assert tight.weight_bits == 8
    some, mixed = selected(LAYERS, CONSTANTS, Budget(weight_bits=16), target)
    assert set(mixed.values()) > {"float"}
    assert 8 < some.weight_bits <= 16
    fast, rows = selected(LAYERS, CONSTANTS, Budget(minimise="latency"), target)
    assert "float" not in rows.values()
    assert fast.latency > 0


def test_float_rows_leave_weights_alone(tmp_path: Path) -> None:
    target = target_of(tmp_path, HEADER + FLOAT_ROWS)
    graph, decision, _ = compiled(LAYERS, CONSTANTS, Budget(weight_bits=16, latency=1.0), target)
    assert decision is not None
    plan = graph.facts[PLAN]
    rows = {region.name: region.row for region in plan.regions}
    assert set(rows.values()) > {"float"}
    assert decision.size_bytes == constant_bytes(graph, plan)
    assert all(region.quantized == (region.row != "float") for region in plan.regions)
    assert Session(graph, optimize=False).run(samples_for(graph, 4))["y"].shape == (4, 5)


def test_floats_of_16_bits_are_cheaper(tmp_path: Path) -> None:
    target = target_of(
        tmp_path, HEADER.replace("\n", '\nfloat_formats = ["float32", "float16"]\n', 1) + FLOAT_ROWS
    )
    problem = problem_of(graph_of(LAYERS, CONSTANTS), target)
    losses = invented(problem)
    selection = state_selection(problem, losses, CostModel(target, "float16"))
    decision = select(selection, Budget(weight_bits=16), losses, {})
    assert {weighed.row for weighed in decision.regions.values()} == {"float"}


# -- conversions and followers -------------------------------------------------------------------------------------


def test_conversions_are_priced() -> None:
    """Two layers read r; in different encodings it has to be written twice, which takes time."""
    text = "(float[batch,64] x) => (float y, float z) { r = Gemm(x, w) y = Gemm(r, v) z = Gemm(r, u) }"
    constants = {"w": normal(64, 4096), "v": normal(4096, 2), "u": normal(4096, 2, seed=1)}
    problem, losses, selection = stated(text, constants)
    rows = {region.name: problem.legal_rows(region) for region in problem.regions}
    first, second, third = rows

    def latency(one: str, two: str) -> float:
        named = {first: "w8a8", second: one, third: two}
        return selection.latency_of(
            {name: next(row for row in rows[name] if row.name == named[name]) for name in rows}
        )

    bandwidth = 16e9
    # The second encoding of r is read, and written once more: from the float that the first layer wrote.
    extra = latency("w8a8", "w8a16") - latency("w8a8", "w8a8")
    assert extra == pytest.approx((4096 * 8 + 4096 * (32 + 8)) / 8 / bandwidth, rel=1e-6)
    decision = select(selection, Budget(minimise="latency"), losses, {})
    read = {decision.regions[name].row[2:] for name in (second, third)}
    assert len(read) == 1


def test_what_passes_values_on_follows_its_consumers() -> None:
    """In the encoding that the consumer asks for: fewer bits would lose what the consumer is chosen to read."""
    for bits in (16, 8, 4):
        graph, _, _ = compiled(
            BRANCHES, BRANCH_CONSTANTS, Budget(weight_bits=8), rows=f"w8a{bits}+w8a{max(bits, 8)}"
        )
        plan = graph.facts[PLAN]
        rows = {region.nodes[0]: region.row for region in plan.regions}
        gemm = next(
            row for region, row in ((entry.kernel, entry.row) for entry in plan.regions) if region == "linear"
        )
        flatten = next(entry.row for entry in plan.regions if entry.kernel == "movement")
        assert gemm == f"w8{flatten}", rows


def test_followers_of_several_consumers_take_the_finest() -> None:
    text = "(float[batch,2,4] x) => (float y, float z) { r = Abs(x) f = Flatten(r) y = Gemm(f, w) z = Gemm(f, v) }"
    constants = {"w": normal(8, 4), "v": normal(8, 40)}
    problem = problem_of(graph_of(text, constants))
    rows = {region.name: {row.name: row for row in problem.legal_rows(region)} for region in problem.regions}
    from qcompiler.passes.assign_precision import _follow_consumers, _preferred_rows

    linear = [region.name for region in problem.regions if region.kernel and region.kernel.name == "linear"]
    choice: dict[str, Row | None] = dict.fromkeys(rows)
    choice.update({linear[0]: rows[linear[0]]["w8a8"], linear[1]: rows[linear[1]]["w8a16"]})
    _follow_consumers(
        problem, {region.name: _preferred_rows(problem, region, ()) for region in problem.regions}, choice
    )
    (flatten,) = (region for region in problem.regions if region.kernel and region.kernel.name == "movement")
    row = choice[flatten.name]
    assert row is not None
    assert row.name == "a16"


# -- latency -------------------------------------------------------------------------------------------------------


def test_without_a_limit_the_result_is_no_slower_than_the_uniform_one() -> None:
    problem, losses, selection = stated(BRANCHES, BRANCH_CONSTANTS)
    uniform = uniform_choice(problem)
    decision = select(selection, Budget(), losses, uniform)
    free = select(selection, Budget(), losses, {})
    assert decision.latency <= selection.latency_of(uniform) < free.latency
    assert decision.loss > free.loss
    assert decision.limits == {"latency": selection.latency_of(uniform)}
    assert "latency" in decision.binding


def test_the_implied_limit_gives_way() -> None:
    """Where the weights cannot be as small as asked within the uniform latency, they are as small as asked."""
    _, losses, selection = stated(BRANCHES, BRANCH_CONSTANTS)
    fastest = select(selection, Budget(minimise="latency"), losses, {})
    uniform = dict(chosen_rows(selection, fastest))
    lossless = select(selection, Budget(loss=select(selection, Budget(), losses, {}).loss, minimise="size"), losses, uniform)  # fmt: skip
    assert not lossless.unmet
    assert lossless.latency > fastest.latency


def test_a_stated_limit_replaces_the_implied_one() -> None:
    problem, losses, selection = stated(BRANCHES, BRANCH_CONSTANTS)
    free = select(selection, Budget(), losses, {})
    decision = select(selection, Budget(latency=1.0), losses, uniform_choice(problem))
    assert decision.loss == free.loss
    assert decision.limits == {"latency": 1.0}


def test_a_target_without_speed(tmp_path: Path) -> None:
    target = target_of(tmp_path, HEADER + DERIVED)
    _, decision, _ = compiled(LAYERS, CONSTANTS, Budget(weight_bits=6), target)
    assert decision is not None
    assert decision.latency == 0
    assert set(decision.limits) == {"size"}
    for budget in (Budget(latency=1.0), Budget(minimise="latency")):
        with pytest.raises(TargetError, match="states neither rates nor a bandwidth"):
            compiled(LAYERS, CONSTANTS, budget, target)


# -- what cannot be kept -------------------------------------------------------------------------------------------


def test_the_least_that_is_named_can_be_asked_for() -> None:
    _, losses, selection = stated(BRANCHES, BRANCH_CONSTANTS)
    weight_bits = select(selection, Budget(weight_bits=1), losses, {})
    assert weight_bits.unmet.startswith(
        "--weight-bits 1 cannot be met: the least that the target's rows allow is 2 bits"
    )
    assert weight_bits.missed == "size"
    assert not weight_bits.keeps_limits
    assert select(selection, Budget(weight_bits=2), losses, {}).keeps_limits
    size = select(selection, Budget(size=100), losses, {})
    assert size.unmet.startswith("--max-size 100 cannot be met: the least that the target's rows allow is ")
    least = int(size.unmet.split(" bytes, of which ")[0].rsplit(" ", 1)[1])
    assert size.size_bytes == least
    assert select(selection, Budget(size=least), losses, {}).keeps_limits
    assert not select(selection, Budget(size=least - 1), losses, {}).keeps_limits
    latency = select(selection, Budget(latency=1e-12), losses, {})
    assert latency.unmet.startswith("--max-latency 1e-09 cannot be met")
    named = float(latency.unmet.split(" ms by its cost model")[0].rsplit(" ", 1)[1])
    assert select(selection, Budget(latency=named / 1e3), losses, {}).keeps_limits
    for decision in (weight_bits, size, latency):
        assert "Most of it is due to Conv" in decision.unmet
        assert decision.unmet.endswith(".")


def test_a_limit_on_flash_is_named_with_the_code() -> None:
    _, losses, selection = stated(BRANCHES, BRANCH_CONSTANTS)
    size = select(selection, Budget(size=100), losses, {}).unmet
    least = int(size.split(" bytes, of which ")[0].rsplit(" ", 1)[1])
    flash = select(selection, Budget(size=100, code=1_000_000), losses, {})
    assert flash.unmet == size.replace("--max-size 100 ", "--max-flash 1000100 ").replace(
        f"{least} bytes, of which ", f"{1_000_000 + least} bytes, of which 1000000 are code and "
    )
    assert flash.missed == "size"
    both = select(selection, Budget(size=least, latency=1e-12, code=20), losses, {})
    assert "--max-size" not in both.unmet


def test_limits_that_exclude_each_other_are_named() -> None:
    _, losses, selection = stated(BRANCHES, BRANCH_CONSTANTS)
    size = select(selection, Budget(minimise="size"), losses, {})
    latency = select(selection, Budget(minimise="latency"), losses, {})
    assert size.latency > latency.latency or latency.size_bytes > size.size_bytes
    both = Budget(size=size.size_bytes, latency=latency.latency)
    decision = select(selection, both, losses, {})
    if decision.unmet:
        assert "kept is" in decision.unmet
        assert "--max-size" in decision.unmet
        assert "--max-latency" in decision.unmet


def test_the_searchs_limit_on_loss_is_not_blamed_on_the_users() -> None:
    _, losses, selection = stated(BRANCHES, BRANCH_CONSTANTS)
    size = select(selection, Budget(minimise="size"), losses, {}).size_bytes + 100
    decision = select(selection, Budget(size=size, loss=1e-12, minimise="size"), losses, {})
    assert decision.missed == "loss"
    assert decision.keeps_limits
    assert decision.size_bytes <= size
    assert decision.loss == pytest.approx(select(selection, Budget(size=size), losses, {}).loss)
    both = select(selection, Budget(size=10, loss=1e-12, minimise="size"), losses, {})
    alone = select(selection, Budget(size=10), losses, {})
    assert (both.missed, both.unmet) == ("size", alone.unmet)


def test_two_limits_on_size() -> None:
    """Either may be the one that matters; neither hides what the other allows."""
    _, losses, selection = stated(BRANCHES, BRANCH_CONSTANTS)
    least = select(selection, Budget(minimise="size"), losses, {}).size_bytes
    for bits, size in itertools.product((2.0, 2.5, 4.0, 8.0), (least, least + 50, least + 400)):
        decision = select(selection, Budget(weight_bits=bits, size=size), losses, {})
        assert decision.keeps_limits
        assert decision.weight_bits <= bits
        assert decision.size_bytes <= size
    assert "--max-size" in select(selection, Budget(weight_bits=4, size=least - 1), losses, {}).unmet
    assert "--weight-bits" in select(selection, Budget(weight_bits=1.9, size=least + 400), losses, {}).unmet


def test_it_is_told_and_the_nearest_is_taken() -> None:
    graph, decision, said = compiled(LAYERS, CONSTANTS, Budget(weight_bits=1))
    assert decision is not None
    warnings = [item.message for item in said.diagnostics if item.level is Level.WARNING]
    assert warnings == [decision.unmet]
    assert {region.row[:2] for region in graph.facts[PLAN].regions} == {"w2"}


# -- losses that are none ------------------------------------------------------------------------------------------


def test_rows_that_leave_no_numbers_are_not_chosen() -> None:
    problem = problem_of(graph_of(LAYERS, CONSTANTS))
    losses = dict(invented(problem).losses)
    broken = {key: Loss(math.inf, math.inf, True) for key in losses if key[0] == "w" and key[1] != "int6 symmetric per-channel"}  # fmt: skip
    sensitivity = Sensitivity({**losses, **broken}, "normalised output error", 1)
    selection = state_selection(problem, sensitivity, CostModel(NPU, "float32"))
    decision = select(selection, Budget(weight_bits=2, minimise="loss"), sensitivity, {})
    first = next(iter(decision.regions.values()))
    assert first.row.startswith("w6")
    assert math.isfinite(decision.loss)


def test_where_no_row_leaves_numbers_one_is_chosen_all_the_same() -> None:
    problem = problem_of(graph_of(LAYERS, CONSTANTS))
    losses = {key: Loss(math.inf, math.inf, True) for key in invented(problem).losses}
    sensitivity = Sensitivity(losses, "normalised output error", 1)
    selection = state_selection(problem, sensitivity, CostModel(NPU, "float32"))
    decision = select(selection, Budget(weight_bits=4), sensitivity, {})
    assert decision.keeps_limits
    assert decision.weight_bits <= 4


def test_nothing_to_choose() -> None:
    _, losses, selection = stated("(float[batch,4] x) => (float y) { y = Sin(x) }", {})
    decision = select(selection, Budget(weight_bits=4), losses, {})
    assert (decision.loss, decision.weight_bits, decision.size_bytes, decision.regions) == (0, 0, 0, {})
    assert decision.keeps_limits


# -- reasons -------------------------------------------------------------------------------------------------------


def test_the_plan_says_why() -> None:
    graph, decision, _ = compiled(LAYERS, CONSTANTS, Budget(weight_bits=4))
    assert decision is not None
    for region in graph.facts[PLAN].regions:
        assert region.reason.startswith(f"{region.row}: the least loss of the whole within ")
        assert "bytes of weights" in region.reason
        told = {item.row: item.reason for item in region.refused}
        assert set(told) == {row.name for row in NPU.kernel[1].row} - {region.row}
        legal = [reason for reason in told.values() if reason.startswith("legal; instead: loss ")]
        assert len(legal) == len(decision.regions[region.name].considered) - 1
        assert any("would break the limit on size" in reason for reason in legal)
    graph, _, _ = compiled(LAYERS, CONSTANTS, Budget(size=1000))
    assert all("within 1,000 bytes of constants" in region.reason for region in graph.facts[PLAN].regions)
