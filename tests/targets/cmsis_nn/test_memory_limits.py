"""Where a plan takes more memory than the user or the device allows."""

from __future__ import annotations

import dataclasses

import pytest
from quantized import samples_for
from small_graphs import graph_of, normal

import qcompiler as qc
from qcompiler.ir.graph import Graph
from qcompiler.ir.plan import PLANNED
from qcompiler.targets import find_target
from qcompiler.targets.cmsis_nn.deployment import deploy
from qcompiler.targets.cmsis_nn.fit import STACK
from qcompiler.targets.cmsis_nn.lower import core_of, crowds, program_of

TARGET = find_target("cmsis-nn:cortex-m4")
TEXT = """(float[n,2,12,12] x) => (float[n,4] y) {
    a = Conv<pads=[1,1,1,1]>(x, v) b = Relu(a) c = Conv<pads=[1,1,1,1]>(b, w) d = Add(c, b)
    e = GlobalAveragePool(d) y = Flatten(e) }"""


@pytest.fixture(scope="module")
def made() -> qc.Result:
    graph = graph_of(TEXT, {"v": normal(6, 2, 3, 3), "w": normal(6, 6, 3, 3)})
    return qc.compile(graph, TARGET, samples_for(graph, 8))


def planned(result: qc.Result) -> Graph:
    return result.graph.facts[PLANNED]


def test_where_there_is_no_limit_nothing_is_too_much(made: qc.Result) -> None:
    assert crowds(planned(made), made.plan, TARGET, None) == ()


def test_what_is_beyond_a_limit_is_what_the_arena_has_beyond_it(made: qc.Result) -> None:
    program, path = program_of(made.graph, made.plan, TARGET), core_of(TARGET)[1]
    values = {value.name for value in planned(made).values if not value.is_constant}
    least = deploy(program, path, 1).memory.arena.size
    assert crowds(planned(made), made.plan, TARGET, least) == ()
    for limit in (least - 1, least // 2, 1):
        found = crowds(planned(made), made.plan, TARGET, limit)
        assert max(crowd.excess for crowd in found) == deploy(program, path, limit).memory.arena.size - limit
        for crowd in found:
            assert crowd.excess > 0
            assert crowd.values
            assert crowd.values <= values


def test_the_shortcut_is_alive_beside_what_it_is_added_to(made: qc.Result) -> None:
    found = crowds(planned(made), made.plan, TARGET, 1)
    assert any({"b", "c"} <= crowd.values for crowd in found)


def test_a_device_has_what_its_stack_leaves(made: qc.Result) -> None:
    program, path = program_of(made.graph, made.plan, TARGET), core_of(TARGET)[1]
    least = deploy(program, path, 1).memory.arena.size
    for more, short in ((0, False), (-1, True)):
        device = dataclasses.replace(TARGET.device["cortex-m4"], memory=least + STACK + more)
        target = dataclasses.replace(TARGET, device={**TARGET.device, "cortex-m4": device})
        assert bool(crowds(planned(made), made.plan, target, None)) == short
        assert bool(crowds(planned(made), made.plan, target, 10 * least)) == short
