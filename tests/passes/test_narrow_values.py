"""Values stored in fewer bits where memory is short: which, in what order, and what is said of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from quantized import PREPARE, WIDTHS, samples_for, target_of
from small_graphs import graph_of, normal

from qcompiler.budget import Budget
from qcompiler.crowds import Crowd
from qcompiler.data import DataSource
from qcompiler.decision import DECISION
from qcompiler.descriptor import load_target
from qcompiler.ir.graph import Graph
from qcompiler.ir.plan import PLAN, Plan
from qcompiler.pass_manager import PassContext
from qcompiler.passes import find_pass
from qcompiler.pipeline import PassRecord, Pipeline
from qcompiler.target import Target

TEXT = "(float[batch,16] x) => (float y) { a = Gemm(x, w) b = Relu(a) c = Gemm(b, v) d = Relu(c) y = Gemm(d, u) }"
CONSTANTS = {"w": normal(16, 64), "v": normal(64, 24), "u": normal(24, 12)}
SIZES = {"x": 16, "b": 64, "d": 24, "y": 12}
LIVE = [("x", "b"), ("b", "d"), ("d", "y")]
"""What is alive during the layers, one after the other."""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QCOMPILER_CACHE", str(tmp_path / "cache"))


def taken(plan: Plan) -> dict[str, int]:
    """Bytes of the values, with those that are written once more in another encoding."""
    bits: dict[str, set[int]] = {name: set() for name in SIZES}
    for group in plan.groups:
        for name in (*group.stored, *(use.value for use in group.uses)):
            if name in bits:
                bits[name].add(group.encoding.format.bits)
    return {name: SIZES[name] * sum(widths) // 8 for name, widths in bits.items()}


def peak(plan: Plan) -> int:
    sizes = taken(plan)
    return max(sum(sizes[name] for name in names) for names in LIVE)


def crowds(limit: int, asked: list[Plan]) -> Callable[[Graph, Plan], tuple[Crowd, ...]]:
    def found(graph: Graph, plan: Plan) -> tuple[Crowd, ...]:
        asked.append(plan)
        sizes = taken(plan)
        excess = [(frozenset(names), sum(sizes[name] for name in names) - limit) for names in LIVE]
        return tuple(Crowd(names, more) for names, more in excess if more > 0)

    return found


def assigned(
    target: Target,
    limit: int | None,
    budget: Budget | None = None,
    text: str = TEXT,
    constants: dict[str, Any] = CONSTANTS,
    **options: Any,
) -> tuple[Graph, PassRecord, list[Plan]]:
    graph, asked = graph_of(text, constants), list[Plan]()
    source = DataSource.open(samples_for(graph, 8)).validate(graph)
    context = PassContext(target=target, calibration=source, budget=budget)
    if limit is not None:
        context.crowds = crowds(limit, asked)
    passes = Pipeline.parse(f"{PREPARE},fuse,calibrate,sensitivity,assign_precision", find_pass)
    passes = passes.replace("assign_precision", find_pass("assign_precision").from_options(options))
    records = passes.run(graph, context)
    return graph, next(item for item in records if item.name.startswith("assign_precision")), asked


WIDE = Budget(latency=1.0)
"""Under which all is stored in 16 bits."""


@pytest.mark.parametrize("options", [{"prefer": "a16w8"}, {"budget": WIDE}], ids=["preferred", "chosen"])
def test_memory_is_kept_where_it_can_be(tmp_path: Path, options: dict[str, Any]) -> None:
    target = target_of(tmp_path, WIDTHS)
    free = assigned(target, None, **options)[0].facts[PLAN]
    assert peak(free) == 2 * 88
    for limit in range(88, 180, 4):
        graph, _, asked = assigned(target, limit, **options)
        plan = graph.facts[PLAN]
        assert peak(plan) <= limit
        assert len(asked) <= len(SIZES) + 1
        narrow = [region.name for region in plan.regions if region.row == "a8w8"]
        assert bool(narrow) == (limit < 2 * 88)
    assert plan.to_json() == free.to_json()


@pytest.mark.parametrize("options", [{"prefer": "a16w8"}, {"budget": WIDE}], ids=["preferred", "chosen"])
def test_too_little_for_anything_makes_all_narrow(tmp_path: Path, options: dict[str, Any]) -> None:
    graph, record, asked = assigned(target_of(tmp_path, WIDTHS), 10, **options)
    assert {region.row for region in graph.facts[PLAN].regions} == {"a8w8"}
    assert peak(graph.facts[PLAN]) == 88
    assert len(asked) <= 2
    assert record.counts["values kept narrow"] >= 3


def test_only_where_memory_is_short(tmp_path: Path) -> None:
    """Beside the large value; what is alive later stays as it was preferred."""
    graph, record, _ = assigned(target_of(tmp_path, WIDTHS), 140, prefer="a16w8")
    first, second, third = graph.facts[PLAN].regions
    assert (first.row, second.row, third.row) == ("a8w8", "a8w8", "a16w8")
    assert first.reason == "a8w8: the preferred legal row of kernel linear"
    (refused,) = first.refused
    assert (refused.row, refused.reason) == (
        "a16w8",
        "legal, but memory is short where what it reads or writes is alive",
    )
    (refused,) = third.refused
    assert refused.reason == "legal, but not preferred"
    (said,) = (item.message for item in record.diagnostics if "memory is short" in item.message)
    assert said == "memory is short; stored in as few bits as rows allow: b"


def test_a_decision_says_how_many_are_narrow(tmp_path: Path) -> None:
    target = target_of(tmp_path, WIDTHS)
    graph, _, _ = assigned(target, 100, WIDE)
    decision = graph.facts[DECISION]
    assert decision.narrow > 0
    first = graph.facts[PLAN].regions[0]
    assert [item.row for item in decision.regions[first.name].considered] == ["a8w8"]
    assert assigned(target, None, WIDE)[0].facts[DECISION].narrow == 0


def test_nobody_is_asked_where_nothing_could_be_narrower(tmp_path: Path) -> None:
    graph, record, asked = assigned(target_of(tmp_path, WIDTHS), 1)
    assert asked == []
    assert {region.row for region in graph.facts[PLAN].regions} == {"a8w8"}
    assert "values kept narrow" not in record.counts


@pytest.mark.parametrize("faint", "ab")
def test_what_loses_little_goes_first(tmp_path: Path, faint: str) -> None:
    """Of two values of one size that are alive together, where either is enough."""
    text = "(float[batch,16] x) => (float s) { a = Gemm(x, w) y = Gemm(a, u) b = Gemm(x, v) z = Gemm(b, u) s = Add(y, z) }"
    small = {"w": 1e-3, "v": 1.0} if faint == "a" else {"w": 1.0, "v": 1e-3}
    constants = {name: normal(16, 8, seed=ord(name)) * scale for name, scale in small.items()}
    constants["u"] = normal(8, 4)

    def both(graph: Graph, plan: Plan) -> tuple[Crowd, ...]:
        bits = {name: group.encoding.format.bits for group in plan.groups for name in group.stored}
        return (Crowd(frozenset("ab"), 1),) if bits["a"] + bits["b"] > 24 else ()

    graph = graph_of(text, constants)
    source = DataSource.open(samples_for(graph, 8)).validate(graph)
    context = PassContext(target=target_of(tmp_path, WIDTHS), calibration=source, budget=WIDE, crowds=both)
    Pipeline.parse(f"{PREPARE},fuse,calibrate,sensitivity,assign_precision", find_pass).run(graph, context)
    bits = {name: group.encoding.format.bits for group in graph.facts[PLAN].groups for name in group.stored}
    assert (bits["a"], bits["b"]) == ((8, 16) if faint == "a" else (16, 8))


def test_rows_that_write_what_they_are_asked_for_are_narrowed_where_they_read() -> None:
    npu = load_target(Path(__file__).parents[2] / "docs" / "examples" / "npu.toml")
    free = assigned(npu, None, WIDE)[0].facts[PLAN]
    assert {region.row for region in free.regions} == {"w8a16"}
    graph, _, asked = assigned(npu, 50, WIDE)
    assert asked
    assert peak(graph.facts[PLAN]) <= 50
    assert [region.row for region in graph.facts[PLAN].regions][1] == "w8a4"
