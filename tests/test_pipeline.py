"""Pipelines: text, editing, facts, contracts, records, dumps."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompiler.errors import ModelError, OptionError, PassError, suggest
from qcompiler.ir.facts import Fact
from qcompiler.ir.graph import Graph
from qcompiler.ir.onnx_import import load
from qcompiler.pass_manager import Effect, Level, Pass, PassContext, PassResult
from qcompiler.pipeline import Checks, PassRecord, Pipeline
from qcompiler.probe import Probe, largest_difference, random_feeds

RANGES = Fact[str]("ranges", "the ranges of all values")


@dataclass(frozen=True)
class Options(Pass):
    """Has an option of every type.

    Does nothing.
    """

    name: ClassVar[str] = "options"
    effect: ClassVar[Effect] = Effect.ANNOTATES
    count: int = 3
    share: float = 0.5
    exact: bool = False
    text: str = "a"
    mode: Literal["fast", "slow"] = "fast"
    bits: Literal[4, 8] = 8
    limit: int | None = None
    label: str | None = None
    names: tuple[str, ...] = ()
    shares: tuple[float, ...] = (1.0,)
    made: tuple[int, ...] = field(default_factory=tuple)

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        return PassResult()


@dataclass(frozen=True)
class Required(Options):
    """Needs an option."""

    name: ClassVar[str] = "required"
    path: str = field(kw_only=True)


@dataclass(frozen=True)
class Calibrate(Options):
    name: ClassVar[str] = "calibrate"
    establishes: ClassVar[tuple[Fact[Any], ...]] = (RANGES,)

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        graph.facts[RANGES] = "known"
        return PassResult(counts={"range": 2})


@dataclass(frozen=True)
class Insert(Options):
    name: ClassVar[str] = "insert"
    requires: ClassVar[tuple[Fact[Any], ...]] = (RANGES,)


@dataclass(frozen=True)
class Scale(Pass):
    """Multiplies the first output's producer's input; exact for a factor of one only."""

    name: ClassVar[str] = "scale"
    effect: ClassVar[Effect] = Effect.EXACT
    invalidates: ClassVar[tuple[Fact[Any], ...]] = (RANGES,)
    factor: float = 1.0

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        result = PassResult()
        node = graph.nodes[0]
        value = node.inputs[0]
        assert value is not None
        by = graph.add_constant("by", np.float32(self.factor))
        graph.insert_on_edge(value, [use for use in value.uses if use.node is node], "Mul", [by])
        result.count("scaled")
        result.say(Level.INFO, node.name, "scaled")
        return result


def resolve(name: str) -> type[Pass]:
    known = {entry.name: entry for entry in (Options, Required, Calibrate, Insert, Scale)}
    if name not in known:
        raise OptionError(f"There is no pass {name!r}{suggest(name, known)}")
    return known[name]


def graph_of() -> Graph:
    graph = Graph("g")
    x = graph.add_input("x", np.float32, ("batch", 4))
    relu = graph.add_node("Relu", [x], [graph.add_value("r", np.float32, ("batch", 4))], name="relu")
    out = graph.add_node(
        "Add", [relu.output, x], [graph.add_value("y", np.float32, ("batch", 4))], name="add"
    )
    graph.set_outputs([out.output])
    return graph


def run(*passes: Pass, checks: Checks | None = None, graph: Graph | None = None) -> list[PassRecord]:
    return Pipeline(passes).run(graph or graph_of(), PassContext(), checks)


# -- options and text ----------------------------------------------------------------------------------------

WORDS = st.text(max_size=12)
ANY_OPTIONS = st.builds(
    Options,
    count=st.integers(),
    share=st.floats(allow_nan=False),
    exact=st.booleans(),
    text=WORDS,
    mode=st.sampled_from(("fast", "slow")),
    bits=st.sampled_from((4, 8)),
    limit=st.none() | st.integers(),
    label=st.none() | WORDS,
    names=st.lists(WORDS, max_size=3).map(tuple),
    shares=st.lists(st.floats(allow_nan=False), max_size=3).map(tuple),
    made=st.lists(st.integers(), max_size=3).map(tuple),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(ANY_OPTIONS | st.just(Scale()) | st.just(Calibrate()), max_size=4))
def test_a_pipeline_prints_and_parses_back(passes: list[Pass]) -> None:
    pipeline = Pipeline(tuple(passes))
    assert Pipeline.parse(str(pipeline), resolve) == pipeline


def test_text_is_what_one_would_write() -> None:
    pipeline = Pipeline(
        (Calibrate(), Options(count=4, names=("a", "b c"), exact=True, limit=None), Scale(0.25))
    )
    assert str(pipeline) == 'calibrate,options{count=4,exact=true,names=a+"b c"},scale{factor=0.25}'
    assert Pipeline.parse(" calibrate , scale{ factor = 2 } ", resolve) == Pipeline((Calibrate(), Scale(2.0)))
    assert Pipeline.parse("", resolve) == Pipeline()
    assert Pipeline.parse("options{}", resolve) == Pipeline((Options(),))
    assert [entry.name for entry in Pipeline.parse("calibrate,scale", resolve)] == ["calibrate", "scale"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("calibrat", "no pass 'calibrat'; did you mean 'calibrate'"),
        ("scale{facto=1}", "no option 'facto'; did you mean 'factor'"),
        ("scale{factor=much}", "option 'factor' of the pass scale is 'much'; it takes a number"),
        ("options{count=1.5}", "it takes an integer"),
        ("options{exact=yes}", "it takes true or false"),
        ("options{mode=fsat}", "is 'fsat'; did you mean 'fast'"),
        ("options{bits=5}", "is '5'; known: 4, 8"),
        ("options{count}", "has no value; write count=value"),
        ("scale{factor=1", "cannot be read at 'scale"),
        ("scale}", "cannot be read"),
        (",scale", "cannot be read"),
        ('options{text="a}', "cannot be read"),
        ('options{text="a"b}', "quotes in it do not match"),
        ("required", "needs the option 'path'"),
    ],
)
def test_what_cannot_be_parsed(text: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Pipeline.parse(text, resolve)


def test_options_from_configuration_files_are_typed() -> None:
    made = Options.from_options(
        {"count": 2, "exact": True, "names": ["a", "b"], "bits": 4, "share": 1, "limit": 3}
    )
    assert made == Options(count=2, exact=True, names=("a", "b"), bits=4, share=1.0, limit=3)
    for bad in ({"count": True}, {"count": 1.5}, {"exact": 1}, {"share": "x"}):
        with pytest.raises(OptionError):
            Options.from_options(bad)


def test_options_and_summary_for_listings() -> None:
    assert Options.summary() == "Has an option of every type."
    assert Options.options()["count"] == (int, 3)
    assert Options.options()["made"][1] == ()


# -- editing -------------------------------------------------------------------------------------------------


def test_editing_makes_new_pipelines() -> None:
    base = Pipeline((Calibrate(), Insert()))
    assert str(base.insert_before("insert", Scale())) == "calibrate,scale,insert"
    assert str(base.insert_after("insert", Scale(), Options())) == "calibrate,insert,scale,options"
    assert str(base.replace("calibrate", Scale(), Options())) == "scale,options,insert"
    assert str(base.without("calibrate")) == "insert"
    assert str(base) == "calibrate,insert"
    with pytest.raises(OptionError, match="no pass 'calibrat'; did you mean 'calibrate'"):
        base.without("calibrat")


# -- facts ---------------------------------------------------------------------------------------------------


def test_facts_are_checked_before_anything_runs() -> None:
    graph = graph_of()
    before = str(graph)
    with pytest.raises(
        PassError, match=r"insert requires the fact 'ranges' \(the ranges.*no pass before.*Nothing was run"
    ):
        run(Scale(2.0), Insert(), graph=graph)
    assert str(graph) == before
    with pytest.raises(PassError, match="calibrate does, and must come before it"):
        run(Insert(), Calibrate())
    with pytest.raises(PassError, match="scale before it invalidates that"):
        run(Calibrate(), Scale(), Insert())
    assert len(run(Calibrate(), Insert())) == 2
    assert len(run(Calibrate(), Scale(), Calibrate(), Insert())) == 4


def test_facts_that_hold_already_count() -> None:
    graph = graph_of()
    graph.facts[RANGES] = "known"
    run(Insert(), graph=graph)
    run(Scale(), graph=graph)
    assert RANGES not in graph.facts
    assert graph.facts.get(RANGES) is None
    assert graph.facts.names() == []
    with pytest.raises(KeyError, match="ranges"):
        graph.facts[RANGES]


def test_a_pass_must_establish_what_it_says() -> None:
    @dataclass(frozen=True)
    class Liar(Calibrate):
        name: ClassVar[str] = "liar"

        def run(self, graph: Graph, context: PassContext) -> PassResult:
            return PassResult()

    with pytest.raises(PassError, match="liar says that it establishes 'ranges', but did not"):
        run(Liar())


# -- contracts -----------------------------------------------------------------------------------------------


def test_an_invalid_graph_left_behind_is_caught() -> None:
    @dataclass(frozen=True)
    class Breaks(Scale):
        name: ClassVar[str] = "breaks"

        def run(self, graph: Graph, context: PassContext) -> PassResult:
            graph.node("relu").inputs[0] = None
            return PassResult()

    with pytest.raises(PassError, match="breaks left an invalid graph behind: Value 'x' lists a use"):
        run(Breaks())


@pytest.mark.parametrize("edit", ["node", "output", "input", "attribute"])
def test_an_annotating_pass_that_edits_is_caught(edit: str) -> None:
    @dataclass(frozen=True)
    class Edits(Options):
        name: ClassVar[str] = "edits"

        def run(self, graph: Graph, context: PassContext) -> PassResult:
            if edit == "node":
                graph.add_node("Neg", [graph.value("x")])
            elif edit == "output":
                graph.set_outputs([graph.value("r")])
            elif edit == "input":
                graph.add_input("z", np.float32, (1,))
            else:
                graph.set_attribute(graph.node("relu"), "a", 1)
            return PassResult()

    with pytest.raises(PassError, match="edits declares that it only annotates, but it edited the graph"):
        run(Edits())


def test_an_exact_pass_that_changes_the_function_is_caught() -> None:
    graph = graph_of()
    assert run(Scale(1.0), checks=Checks(probe=Probe(graph)), graph=graph)[0].error == 0.0
    graph = graph_of()
    with pytest.raises(
        PassError, match=r"scale declares its effect as exact.*the output 'y' by 0\.\d+ of its largest"
    ):
        run(Scale(1.01), checks=Checks(probe=Probe(graph)), graph=graph)


def test_an_approximate_pass_is_measured_not_held() -> None:
    @dataclass(frozen=True)
    class Approximate(Scale):
        name: ClassVar[str] = "approximate"
        effect: ClassVar[Effect] = Effect.APPROXIMATE

    graph = graph_of()
    records = run(Approximate(1.5), Scale(1.0), checks=Checks(probe=Probe(graph)), graph=graph)
    assert records[0].error is not None
    assert records[0].error > 0.1
    assert records[1].error == 0.0


# -- records and dumps ---------------------------------------------------------------------------------------


def test_records() -> None:
    seen: list[PassRecord] = []
    records = run(Calibrate(), Scale(2.0), checks=Checks(on_pass=seen.append))
    assert seen == records
    assert [record.name for record in records] == ["calibrate", "scale{factor=2.0}"]
    assert [record.changed for record in records] == [2, 1]
    assert [record.nodes for record in records] == [(2, 2), (2, 3)]
    assert [edit.kind for edit in records[1].edits] == ["add", "set_input"]
    assert str(records[1].diagnostics[0]) == "relu: scaled"
    assert all(record.seconds >= 0 and record.error is None for record in records)


def test_dumps(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "dump"
    graph = graph_of()
    run(Calibrate(), Scale(2.0), checks=Checks(dump=folder), graph=graph)
    assert sorted(path.name for path in folder.iterdir()) == [
        "00-input.onnx", "00-input.txt", "01-calibrate.diff", "01-calibrate.onnx", "01-calibrate.txt",
        "02-scale.diff", "02-scale.onnx", "02-scale.txt",
    ]  # fmt: skip
    assert (folder / "01-calibrate.diff").read_text() == "no difference\n"
    assert "+ x_Mul = Mul(x, @float32:2.0)" in (folder / "02-scale.diff").read_text()
    assert (folder / "02-scale.txt").read_text() == str(graph)
    assert str(load(folder / "02-scale.onnx")) == str(graph)


# -- probes --------------------------------------------------------------------------------------------------


def test_random_feeds_fit_the_inputs() -> None:
    graph = Graph()
    graph.add_input("float", np.float16, ("batch", 3))
    graph.add_input("int", np.int64, (5,))
    graph.add_input("flag", np.bool_, ())
    feeds = random_feeds(graph)
    assert {name: (array.dtype.name, np.shape(array)) for name, array in feeds.items()} == {
        "float": ("float16", (2, 3)), "int": ("int64", (5,)), "flag": ("bool", ()),
    }  # fmt: skip
    for name, array in random_feeds(graph).items():
        np.testing.assert_array_equal(array, feeds[name])


@pytest.mark.parametrize(
    ("before", "after", "error"),
    [
        ([1.0, 2.0], [1.0, 2.0], 0.0),
        ([1.0, 2.0], [1.0, 2.5], 0.25),
        ([np.nan, 2.0], [np.nan, 2.0], 0.0),
        ([np.nan, 2.0], [np.nan, 2.5], 0.25),
        ([np.inf, 2.0], [np.inf, 1.0], 0.5),
        ([1.0, 2.0], [np.nan, 2.0], np.inf),
        ([np.inf, 2.0], [-np.inf, 2.0], np.inf),
        ([0.0, 0.0], [0.0, 1.0], np.inf),
        ([1.0, 2.0], [1.0], np.inf),
        ([], [], 0.0),
    ],
)
def test_largest_difference(before: list[float], after: list[float], error: float) -> None:
    found = largest_difference({"y": np.float32(before)}, {"y": np.float32(after)})
    assert found == ("y" if error else "", error)


def test_differences_of_other_types() -> None:
    assert largest_difference({"y": np.int64([4, 2])}, {"y": np.int64([4, 3])}) == ("y", 0.25)
    assert largest_difference({"y": np.array([True])}, {"y": np.array([True])})[1] == 0
    assert largest_difference({"y": np.array(["a"], object)}, {"y": np.array(["b"], object)}) == ("y", np.inf)
    assert largest_difference({"y": np.int64([4])}, {}) == ("y", np.inf)


def test_a_probe_needs_a_graph_that_runs() -> None:
    graph = graph_of()
    graph.add_node("Warp", [graph.value("x")], domain="org.example")
    graph.set_outputs([graph.value("Warp")] if graph.has_value("Warp") else graph.outputs)
    with pytest.raises(ModelError):
        Probe(graph)
