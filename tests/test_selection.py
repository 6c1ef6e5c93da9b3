from __future__ import annotations

import itertools
import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from benchmarks.bench_selection import limits_of, network
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompiler.errors import OptionError
from qcompiler.selection import (
    FREE,
    QUANTITIES,
    Cost,
    Form,
    Neighbourhood,
    Option,
    Quantity,
    Selection,
    SelectionProblem,
    alternatives,
    evaluate,
    stored_forms,
)
from qcompiler.selection_search import GAP, InfeasibleBudgetError, solve

Limits = dict[Quantity, float]


def of(cost: Cost, name: Quantity) -> float:
    return float(getattr(cost, name))


def plus(*costs: Cost) -> Cost:
    return Cost(*(math.fsum(parts) for parts in zip(FREE, *costs, strict=True)))


def costs(wide: bool = False) -> st.SearchStrategy[Cost]:
    small = st.integers(0, 6).map(float)
    loss = st.builds(lambda digit, power: digit * 10.0**power, small, st.integers(-6, 6)) if wide else small
    return st.builds(Cost, loss, small, small)


@st.composite
def problems(draw: st.DrawFn, wide: bool = False, max_regions: int = 4) -> SelectionProblem:
    """Up to four regions of up to four options, over up to five values of up to three forms each."""
    regions = draw(st.integers(1, max_regions))
    values = [draw(st.integers(1, 3)) for _ in range(draw(st.integers(0, regions + 1)))]
    forms = tuple(
        Form(value, draw(costs(wide)), draw(costs()))
        for value, count in enumerate(values)
        for _ in range(count)
    )
    producers = [draw(st.integers(-1, regions - 1)) for _ in values]
    every = list(range(len(forms)))

    def some(numbers: list[int]) -> tuple[int, ...]:
        return tuple(draw(st.lists(st.sampled_from(numbers), max_size=3))) if numbers else ()

    return SelectionProblem(
        tuple(
            tuple(
                Option(
                    draw(costs(wide)),
                    some(every),
                    some([number for number in every if producers[forms[number].value] == region]),
                    f"row {place}",
                )
                for place in range(draw(st.integers(1, 4)))
            )
            for region in range(regions)
        ),
        forms,
    )


def choices(problem: SelectionProblem) -> list[tuple[int, ...]]:
    return list(itertools.product(*(range(len(options)) for options in problem.regions)))


def every_storage(problem: SelectionProblem, choice: Sequence[int]) -> list[Cost]:
    """The costs of a choice with every way to store every value, from the definition."""
    chosen = [options[index] for options, index in zip(problem.regions, choice, strict=True)]
    read = {number for option in chosen for number in option.reads}
    computed = {
        problem.forms[number].value
        for options in problem.regions
        for option in options
        for number in option.writes
    }
    written = {number for option in chosen for number in option.writes}
    by_value: dict[int, list[int | None]] = {}
    for number, form in enumerate(problem.forms):
        ways = by_value.setdefault(form.value, [None])
        if form.value not in computed or number in written:
            ways.append(number)
    fixed = plus(*(option.cost for option in chosen), *(problem.forms[number].cost for number in read))
    return [
        plus(fixed, *(problem.forms[number].conversion for number in read if number not in stored))
        for stored in itertools.product(*by_value.values())
    ]


def rank(problem: SelectionProblem, choice: Sequence[int], minimise: Quantity) -> tuple[float, ...]:
    cost = evaluate(problem, choice)
    return (of(cost, minimise), *cost)


def keeps(cost: Cost, limits: Mapping[Quantity, float]) -> bool:
    return all(of(cost, name) <= limit for name, limit in limits.items())


def brute_force(problem: SelectionProblem, minimise: Quantity, limits: Limits) -> tuple[float, ...] | None:
    ranks = [
        rank(problem, choice, minimise)
        for choice in choices(problem)
        if keeps(evaluate(problem, choice), limits)
    ]
    return min(ranks, default=None)


@st.composite
def limited(draw: st.DrawFn, problem: SelectionProblem, count: int) -> Limits:
    """Limits that some choice just keeps, or nearly; often not together."""
    limits: Limits = {}
    for name in draw(st.permutations(QUANTITIES))[:count]:
        near = of(evaluate(problem, draw(st.sampled_from(choices(problem)))), name)
        limits[name] = draw(st.sampled_from((near, math.nextafter(near, -math.inf), near * 0.9, near + 0.5)))
    return limits


@given(problems())
@settings(max_examples=60, deadline=None)
def test_values_are_stored_in_what_saves_most(problem: SelectionProblem) -> None:
    for choice in choices(problem)[:20]:
        least = min(every_storage(problem, choice), key=lambda cost: (cost.latency, cost.loss, cost.size))
        assert evaluate(problem, choice) == least


def check_against_brute_force(problem: SelectionProblem, minimise: Quantity, limits: Limits) -> None:
    expected = brute_force(problem, minimise, limits)
    if expected is None:
        with pytest.raises(InfeasibleBudgetError) as caught:
            solve(problem, minimise, limits)
        error = caught.value
        assert error.asked == limits[error.limit]
        assert error.kept.items() <= limits.items()
        tightest = brute_force(problem, error.limit, dict(error.kept))
        assert tightest is not None
        assert error.tightest == pytest.approx(tightest[0], rel=1e-9)
        assert error.tightest > error.asked
        assert of(evaluate(problem, error.best.choice), error.limit) == error.tightest
        return
    selection = solve(problem, minimise, limits)
    assert selection.cost == evaluate(problem, selection.choice)
    assert keeps(selection.cost, limits)
    assert selection.optimal
    assert selection.bound <= expected[0]
    assert rank(problem, selection.choice, minimise)[0] == pytest.approx(expected[0], rel=1e-9)


@given(st.data(), problems(), st.sampled_from(QUANTITIES), st.integers(0, 3))
@settings(max_examples=150, deadline=None)
def test_the_best_of_all_choices_is_found(
    data: st.DataObject, problem: SelectionProblem, minimise: Quantity, count: int
) -> None:
    check_against_brute_force(problem, minimise, data.draw(limited(problem, count)))


@given(st.data(), problems(wide=True), st.sampled_from(QUANTITIES), st.integers(0, 2))
@settings(max_examples=100, deadline=None)
def test_losses_over_twelve_orders_of_magnitude(
    data: st.DataObject, problem: SelectionProblem, minimise: Quantity, count: int
) -> None:
    check_against_brute_force(problem, minimise, data.draw(limited(problem, count)))


@given(problems(), st.sampled_from(QUANTITIES))
@settings(max_examples=100, deadline=None)
def test_ties_go_to_less_loss_then_size_then_latency(problem: SelectionProblem, minimise: Quantity) -> None:
    selection = solve(problem, minimise)
    assert rank(problem, selection.choice, minimise) == brute_force(problem, minimise, {})
    for region, options in enumerate(problem.regions):
        for index in range(min(selection.choice[region], len(options))):
            other = (*selection.choice[:region], index, *selection.choice[region + 1 :])
            assert rank(problem, other, minimise) > rank(problem, selection.choice, minimise)


def test_of_equal_options_the_first_is_taken() -> None:
    option = Option(Cost(1, 1, 1))
    assert solve(SelectionProblem(((option,) * 3,) * 2), "loss").choice == (0, 0)


def test_ties_between_regions_that_have_to_move_together() -> None:
    """Reading form 1 in both regions is as small as reading form 0 in both, and loses less; no single region gains."""
    forms = (Form(0, Cost(3, 8, 0)), Form(0, Cost(1, 8, 0)))
    region = (Option(FREE, (0,)), Option(FREE, (1,)))
    assert solve(SelectionProblem((region, region), forms), "size").choice == (1, 1)


@given(problems(max_regions=5), st.data())
@settings(max_examples=80, deadline=None)
def test_alternatives_are_what_evaluation_says(problem: SelectionProblem, data: st.DataObject) -> None:
    choice = data.draw(st.sampled_from(choices(problem)))
    cost = evaluate(problem, choice)
    limits = data.draw(limited(problem, 2))
    others = alternatives(problem, Selection(choice, cost, "loss", limits))
    around = Neighbourhood(problem, choice)
    for region, options in enumerate(problem.regions):
        assert len(others[region]) == len(options)
        for index, other in enumerate(others[region]):
            changed = evaluate(problem, (*choice[:region], index, *choice[region + 1 :]))
            assert plus(cost, other.delta) == pytest.approx(changed)
            assert set(other.breaks) == {name for name in limits if of(changed, name) > limits[name]}
        assert others[region][choice[region]].delta == FREE
        around.move(region, index)
        assert around.cost == pytest.approx(evaluate(problem, around.choice))


def uniform(problem: SelectionProblem) -> list[tuple[int, ...]]:
    labels = [option.label for option in problem.regions[0]]
    return [(labels.index(label),) * len(problem.regions) for label in labels]


def raised(problem: SelectionProblem, limits: Limits) -> list[int]:
    """Starts with the smallest row everywhere, and raises the region of the largest loss while the limits allow it."""
    around = Neighbourhood(problem, [
        min(range(len(options)), key=lambda index: (options[index].cost.size, options[index].cost.latency))
        for options in problem.regions
    ])  # fmt: skip
    done: set[int] = set()
    while len(done) < len(problem.regions):
        region = max(
            (number for number in range(len(problem.regions)) if number not in done),
            key=lambda number: problem.regions[number][around.choice[number]].cost.loss,
        )
        fitting = [
            (delta.loss, index)
            for index in range(len(problem.regions[region]))
            if (delta := around.delta(region, index)).loss < 0 and keeps(plus(around.cost, delta), limits)
        ]
        done.add(region)
        if fitting:
            around.move(region, min(fitting)[1])
    return around.choice


def greedy(problem: SelectionProblem, limits: Limits) -> list[int]:
    """The same start; then always the step that saves most loss for its size."""
    around = Neighbourhood(problem, raised(problem, {**limits, "size": 0.0}))
    while True:
        steps = []
        for region, options in enumerate(problem.regions):
            for index in range(len(options)):
                delta = around.delta(region, index)
                if delta.loss < 0 and keeps(plus(around.cost, delta), limits):
                    steps.append((delta.loss / max(delta.size, 1.0), region, index))
        if not steps:
            return around.choice
        around.move(*min(steps)[1:])


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("latency", [False, True])
def test_never_worse_than_simple_ways(seed: int, latency: bool) -> None:
    problem = network(25, seed)
    limits = limits_of(problem, latency=latency)
    selection = solve(problem, "loss", limits)
    assert selection.optimal
    assert selection.gap <= GAP
    assert keeps(selection.cost, limits)
    others = [*uniform(problem), raised(problem, limits), greedy(problem, limits)]
    fitting = [cost for choice in others if keeps(cost := evaluate(problem, choice), limits)]
    assert fitting
    assert all(selection.cost.loss <= cost.loss for cost in fitting)
    assert "size" in selection.binding
    assert 0 <= selection.slack["size"] < 0.01 * limits["size"]


def test_the_same_problem_gives_the_same_answer(capfd: pytest.CaptureFixture[str]) -> None:
    problem = network(60, 5)
    limits = limits_of(problem, latency=True)
    first, second = (solve(problem, "loss", limits) for _ in range(2))
    assert first == second
    assert first.optimal
    assert capfd.readouterr() == ("", "")


def test_the_price_of_a_limit_predicts_what_a_little_more_saves() -> None:
    problem = network(100, 0)
    limits = limits_of(problem, latency=False)
    tight = solve(problem, "loss", limits)
    more = 0.02 * limits["size"]
    loose = solve(problem, "loss", {"size": limits["size"] + more})
    saved = tight.cost.loss - loose.cost.loss
    assert 0 < saved == pytest.approx(tight.prices["size"] * more, rel=0.3)


def test_sizes_of_ten_billion_bits_to_the_bit() -> None:
    """One bit decides, of 1e10: an odd one out fits exactly, or not at all."""
    rng = random.Random(1)
    sizes = [rng.randrange(1, 10**9) for _ in range(30)]
    regions = tuple((Option(Cost(0, size, 0)), Option(Cost(float(size % 97), 0, 0))) for size in sizes)
    problem = SelectionProblem(regions)
    whole = float(sum(sizes))
    assert solve(problem, "loss", {"size": whole}).cost == Cost(0, whole, 0)
    below = solve(problem, "loss", {"size": whole - 1})
    assert below.cost.size <= whole - 1
    assert below.cost.loss == min(size % 97 for size in sizes)


def test_a_limit_exactly_as_tight_as_can_be() -> None:
    problem = network(40, 3)
    for name in QUANTITIES:
        least = of(solve(problem, name).cost, name)
        assert of(solve(problem, "loss", {name: least}).cost, name) == least
        with pytest.raises(InfeasibleBudgetError) as caught:
            solve(problem, "loss", {name: math.nextafter(least, -math.inf)})
        assert caught.value.tightest == least
        assert caught.value.bound == pytest.approx(least, rel=GAP)


def test_what_is_said_of_limits_that_cannot_be_kept() -> None:
    regions = (
        (Option(Cost(0, 80, 1), label="int8"), Option(Cost(9, 40, 1), label="int4")),
        (Option(Cost(0, 8, 1), label="int8"), Option(Cost(9, 4, 1), label="int4")),
    )
    problem = SelectionProblem(regions)
    with pytest.raises(InfeasibleBudgetError) as caught:
        solve(problem, "latency", {"size": 60, "loss": 5})
    error = caught.value
    assert (error.limit, error.asked, error.tightest, error.kept) == ("size", 60, 88, {"loss": 5})
    assert error.regions == (0,)
    assert error.best.choice == (0, 0)
    assert str(error) == (
        "No choice of rows has a size of at most 60 bits with loss at most 5; the least is 88.0 bits. 91% of that is what "
        "regions 0 (int8) need. Raise the limit, or allow these regions cheaper rows."
    )
    with pytest.raises(InfeasibleBudgetError) as caught:
        solve(problem, "loss", {"latency": 1, "size": 20})
    assert (caught.value.limit, caught.value.tightest, caught.value.kept) == ("latency", 2, {})


def test_problems_of_nothing() -> None:
    empty = SelectionProblem(())
    selection = solve(empty, "loss", {"size": 0})
    assert (selection.choice, selection.cost, selection.optimal) == ((), FREE, True)
    assert alternatives(empty, selection) == ()
    with pytest.raises(InfeasibleBudgetError):
        solve(empty, "loss", {"size": -1})
    free = SelectionProblem(((Option(FREE), Option(FREE)),) * 2)
    assert solve(free, "latency", {"loss": 0.0, "size": math.inf}).choice == (0, 0)


def test_a_value_that_one_row_writes_for_another_needs_no_conversion() -> None:
    forms = (Form(0, FREE, Cost(0, 0, 5)), Form(0, FREE, Cost(0, 0, 5)))
    first = (Option(Cost(0, 0, 1), writes=(0,)), Option(Cost(0, 0, 2), writes=(1,)))
    problem = SelectionProblem((first, (Option(FREE, reads=(1,)),)), forms)
    selection = solve(problem, "latency")
    assert selection.choice == (1, 0)
    assert stored_forms(problem, selection.choice) == (1,)
    assert evaluate(problem, (0, 0)).latency == 6
    assert stored_forms(problem, (0, 0)) == ()


@pytest.mark.parametrize(
    ("regions", "forms", "message"),
    [
        (((),), (), "no option"),
        (((Option(FREE, reads=(0,)),),), (), "form 0 of 0"),
        (((Option(FREE, reads=(-1,)),),), (Form(0),), "form -1 of 1"),
        (((Option(Cost(-1, 0, 0)),),), (), "at least zero"),
        (((Option(Cost(math.nan, 0, 0)),),), (), "finite"),
        (((Option(FREE, writes=(0,)),), (Option(FREE, writes=(1,)),)), (Form(0), Form(0)), "regions 0 and 1"),
    ],
)
def test_malformed_problems(regions: Any, forms: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SelectionProblem(regions, forms)


def test_malformed_questions() -> None:
    problem = SelectionProblem(((Option(FREE),),))
    with pytest.raises(OptionError, match="did you mean 'latency'"):
        solve(problem, "latancy")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="'bits' can neither"):
        solve(problem, "loss", {"bits": 1})  # type: ignore[dict-item]
    with pytest.raises(OptionError, match="not a number"):
        solve(problem, "loss", {"size": math.nan})
    with pytest.raises(ValueError, match="2 options for 1 regions"):
        evaluate(problem, (0, 0))
    with pytest.raises(ValueError, match="does not have"):
        evaluate(problem, (1,))


@pytest.mark.slow
@pytest.mark.parametrize("latency", [False, True])
def test_two_thousand_regions(latency: bool) -> None:
    problem = network(2000, 0)
    limits = limits_of(problem, latency=latency)
    selection = solve(problem, "loss", limits)
    assert selection.optimal
    assert keeps(selection.cost, limits)
