"""fuse: which kernel takes which nodes, in which order, and what is said of those that no kernel takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import golden
import pytest
from quantized import ENCODINGS, HEADER, target_of
from small_graphs import graph_of, normal

from qcompiler.ir.graph import Graph
from qcompiler.pass_manager import PassContext
from qcompiler.passes.canonicalize import Canonicalize
from qcompiler.passes.fuse import Fuse
from qcompiler.pipeline import PassRecord, Pipeline
from qcompiler.regions import REGIONS, Region
from qcompiler.target import Target
from qcompiler.targets import find_target

IMAGE = "(float[batch,4,8,8] x) => (float y)"
W = {"w": normal(4, 4, 3, 3), "v": normal(4, 4, 1, 1), "b": normal(4)}
PAD = "<pads=[1,1,1,1]>"


def fused(
    text: str, constants: dict[str, Any], target: Target | str = "tensorrt"
) -> tuple[list[Region], PassRecord, Graph]:
    graph = graph_of(text, constants)
    found = find_target(target) if isinstance(target, str) else target
    *_, record = Pipeline((Canonicalize(), Fuse())).run(graph, PassContext(target=found))
    return graph.facts[REGIONS], record, graph


def shown(regions: list[Region]) -> str:
    lines = []
    for region in regions:
        kernel = region.kernel.name if region.kernel else "-"
        lines.append(f"{kernel}: {', '.join(node.name for node in region.nodes)}")
        lines += [
            f"    {name} = {' '.join(f'{use.node.name}[{use.slot}]' for use in uses)}"
            for name, uses in region.uses.items()
        ]
        lines += [f"    not {name}: {reason}" for name, reason in region.refused]
    return "\n".join(lines) + "\n"


TEXT = f"""{IMAGE} {{
    c = Conv{PAD}(x, w, b) r = Relu(c) d = Conv{PAD}(r, w) a = Add(d, r) s = Relu(a)
    p = MaxPool<kernel_shape=[2,2]>(s) g = GlobalAveragePool(p) f = Flatten(g) h = Gemm<transB=1>(f, m) y = Elu(h)
}}"""
FLAT = {**W, "m": normal(3, 4)}


def test_golden() -> None:
    regions, record, _ = fused(TEXT, FLAT)
    golden.check("fused_regions", shown(regions))
    assert record.counts == {"conv": 2, "max_pool": 1, "average_pool": 1, "movement": 1, "linear": 1}
    assert not record.edits


def test_every_node_is_in_one_region_in_the_order_of_the_results() -> None:
    regions, _, graph = fused(TEXT, FLAT)
    nodes = [node for region in regions for node in region.nodes]
    assert sorted(map(id, nodes)) == sorted(map(id, graph.nodes))
    order = {node: index for index, node in enumerate(graph.nodes)}
    roots = [order[region.root] for region in regions]
    assert roots == sorted(roots)
    home = {node: index for index, region in enumerate(regions) for node in region.nodes}
    for node in graph.nodes:
        for _, value in node.operands():
            assert value.producer is None or home[value.producer] <= home[node]


def test_a_region_comes_behind_all_that_it_reads() -> None:
    """The shortcut is computed after the convolution that takes the addition begins."""
    text = f"{IMAGE} {{ c = Conv{PAD}(x, w) t = Relu(x) u = Tanh(t) s = MaxPool<kernel_shape=[1,1]>(u) y = Add(c, s) }}"
    regions, _, _ = fused(text, W)
    names = [region.name for region in regions]
    assert names.index("Conv:c") == len(names) - 1


def test_of_two_branches_the_deeper_one_takes_the_addition() -> None:
    regions, _, _ = fused(f"{IMAGE} {{ c = Conv(x, v) d = Conv{PAD}(x, w) e = Conv(d, v) y = Add(c, e) }}", W)
    assert [[node.op for node in region.nodes] for region in regions] == [["Conv"], ["Conv"], ["Conv", "Add"]]
    (_, _, last) = regions
    assert last.name == "Conv:e"
    assert last.operand("shortcut") is not None
    assert last.output.name == "y"


def test_the_longest_match_wins_then_the_first_kernel(tmp_path: Path) -> None:
    kernels = "".join(
        f"[[kernel]]\nname = '{name}'\npattern = '{pattern}'\n"
        for name, pattern in (
            ("short", "Conv(x, w)"),
            ("long", "Conv(x, w) -> Relu"),
            ("late", "Conv(x, w) -> Relu"),
        )
    )
    target = target_of(tmp_path, HEADER + ENCODINGS + kernels)
    regions, _, _ = fused(f"{IMAGE} {{ c = Conv(x, v) r = Relu(c) y = Conv(r, v) }}", W, target)
    assert [region.kernel and region.kernel.name for region in regions] == ["long", "short"]


def test_a_shorter_match_where_a_limit_forbids_the_longer() -> None:
    regions, _, _ = fused(
        f"{IMAGE} {{ c = Conv{PAD}(x, w) a = Add(c, k) y = Relu(a) }}", {**W, "k": normal(1, 4, 1, 8)}
    )
    assert [[node.op for node in region.nodes] for region in regions] == [["Conv"], ["Add"], ["Relu"]]
    assert ("conv", "an addition of a constant is no residual addition") in regions[0].refused
    assert len(set(regions[0].refused)) == len(regions[0].refused)


def test_a_value_used_elsewhere_ends_the_region_and_it_is_told() -> None:
    regions, record, _ = fused(
        "(float[batch,4,8,8] x) => (float y, float c) { c = Conv(x, v) y = Relu(c) }", W
    )
    assert [len(region.nodes) for region in regions] == [1, 1]
    (told,) = record.diagnostics
    assert str(told) == "Conv:c: kernel conv ends early: Relu Relu:y follows, but 'c' is a graph output"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("y = Conv(x, v)", None),
        ('y = Resize<mode="linear">(x, , k)', "mode of Resize is 'linear', not nearest"),
    ],
)
def test_limits_are_reasons(text: str, reason: str | None) -> None:
    (region,), _, _ = fused(f"{IMAGE} {{ {text} }}", {**W, "k": normal(4) * 0 + 2})
    if reason is None:
        assert region.kernel is not None
    else:
        assert region.kernel is None
        assert reason in [why for _, why in region.refused]


def test_one_value_at_two_operands() -> None:
    """Add(r, r) with two names: each stands for one use."""
    regions, _, _ = fused(
        f"{IMAGE} {{ c = Conv{PAD}(x, w) r = Relu(c) d = Conv{PAD}(r, w) y = Add(d, r) }}", W
    )
    last = regions[-1]
    assert [(use.node.op, use.slot) for use in last.uses["x"]] == [("Conv", 0)]
    assert [(use.node.op, use.slot) for use in last.uses["shortcut"]] == [("Add", 1)]


def test_without_a_target_nothing_is_fused() -> None:
    graph = graph_of(f"{IMAGE} {{ c = Conv(x, v) y = Relu(c) }}", W)
    Pipeline((Canonicalize(), Fuse())).run(graph, PassContext())
    assert [(region.name, region.kernel) for region in graph.facts[REGIONS]] == [
        ("Conv:c", None),
        ("Relu:y", None),
    ]
