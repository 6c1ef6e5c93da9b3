"""Orders of operations: executable, never worse than the given one, and the best where that can be tried out."""

from __future__ import annotations

import itertools
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from qcompiler.operator_order import Step, ordered, peak


def alive_at_most(steps: list[Step], sizes: dict[str, int], kept: set[str], order: list[int]) -> int:
    """The peak of an order, counted tensor by tensor."""
    written = {name for step in steps for name in step.outputs}
    alive = {name for step in steps for name in step.inputs if name not in written}
    highest = sum(sizes[name] for name in alive)
    for place, index in enumerate(order):
        step = steps[index]
        later = {name for other in order[place + 1 :] for name in steps[other].inputs}
        dead = {name for name in step.inputs if name not in later and name not in kept}
        shared = 0
        if step.outputs:
            shared = max(
                (min(sizes[step.outputs[0]], sizes[name]) for name in step.in_place if name in dead),
                default=0,
            )
        highest = max(highest, sum(sizes[name] for name in alive | set(step.outputs)) + step.scratch - shared)
        alive |= set(step.outputs)
        alive -= dead
        alive -= {name for name in step.outputs if name not in later and name not in kept}
    return highest


def test_a_chain_is_left_alone() -> None:
    steps = [Step((f"t{n}",), (f"t{n + 1}",)) for n in range(3000)]
    assert ordered(steps, {f"t{n}": 10 for n in range(3001)}, {"t3000"}) == list(range(3000))


def test_the_branch_that_shrinks_goes_first() -> None:
    """Two branches from one input: to finish the small one first holds less."""
    steps = [
        Step(("x",), ("wide",)), Step(("x",), ("narrow",)), Step(("wide",), ("a",)), Step(("narrow",), ("b",)), Step(("a", "b"), ("y",)),
    ]  # fmt: skip
    sizes = {"x": 10, "wide": 100, "narrow": 60, "a": 10, "b": 10, "y": 10}
    order = ordered(steps, sizes, {"y"})
    assert peak(steps, sizes, {"y"}) == 170
    assert peak(steps, sizes, {"y"}, order) == 120


def test_in_place_and_scratch_count() -> None:
    steps = [Step(("x",), ("y",), scratch=5, in_place=("x",))]
    assert peak(steps, {"x": 10, "y": 10}, {"y"}) == 15
    assert peak(steps, {"x": 10, "y": 10}, {"x", "y"}) == 25  # x is kept


@st.composite
def graphs(draw: st.DrawFn) -> tuple[list[Step], dict[str, int], set[str]]:
    count = draw(st.integers(1, 7))
    names, steps = ["x"], []
    sizes = {"x": draw(st.integers(1, 20))}
    for index in range(count):
        inputs = tuple(draw(st.lists(st.sampled_from(names), min_size=1, max_size=2, unique=True)))
        sizes[f"t{index}"] = draw(st.integers(1, 20))
        places = tuple(name for name in inputs if draw(st.booleans()))
        steps.append(Step(inputs, (f"t{index}",), draw(st.integers(0, 5)), places))
        names.append(f"t{index}")
    read = {name for step in steps for name in step.inputs}
    return steps, sizes, {name for name in names if name not in read}


@settings(max_examples=150, deadline=None)
@given(graphs())
def test_the_best_order_is_found(graph: tuple[list[Step], dict[str, int], set[str]]) -> None:
    steps, sizes, kept = graph
    order = ordered(steps, sizes, kept)
    writer = {name: index for index, step in enumerate(steps) for name in step.outputs}

    def executable(order: tuple[int, ...]) -> bool:
        place = {index: at for at, index in enumerate(order)}
        return all(
            place[writer[name]] < place[index]
            for index, step in enumerate(steps)
            for name in step.inputs
            if name in writer
        )

    assert sorted(order) == list(range(len(steps)))
    assert executable(tuple(order))
    counted = alive_at_most(steps, sizes, kept, order)
    assert counted == peak(steps, sizes, kept, order)
    least = min(
        alive_at_most(steps, sizes, kept, list(trial))
        for trial in itertools.permutations(range(len(steps)))
        if executable(trial)
    )
    assert counted == least


def test_large_graphs_get_better() -> None:
    chance = random.Random(3)
    steps, sizes = [], {"x": 50}
    names = ["x"]
    for index in range(1500):
        inputs = tuple({chance.choice(names[-12:]), chance.choice(names[-30:])})
        sizes[f"t{index}"] = chance.randrange(1, 100)
        steps.append(Step(inputs, (f"t{index}",)))
        names.append(f"t{index}")
    read = {name for step in steps for name in step.inputs}
    kept = {name for name in names if name not in read}
    order = ordered(steps, sizes, kept)
    assert sorted(order) == list(range(len(steps)))
    assert peak(steps, sizes, kept, order) < peak(steps, sizes, kept)
