"""round_scales: the scales that an artifact stores in 16 bits are the plan's, where 16 bits hold them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from quantized import HEADER, KERNELS, Quantized, quantize, target_of
from small_graphs import graph_of, normal

from qcompiler.ir.encoding import FORMATS
from qcompiler.ir.graph import Graph
from qcompiler.ir.plan import PLAN
from qcompiler.pass_manager import PassContext
from qcompiler.passes.round_scales import RoundScales
from qcompiler.scale_formats import rounded_scale, scale_loss

ENCODINGS = """
[encoding.uint8]
format = "uint8"
symmetric = false
[encoding.weight]
format = "int8"
granularity = "per-channel"
[encoding.bias]
format = "int32"
derived = ["x", "w"]
"""
HALF = FORMATS["float16"]


def conv(factor: float = 1.0) -> Graph:
    weights = {"w": normal(8, 4, 3, 3) * factor, "b": normal(8)}
    return graph_of("(float[batch,4,8,8] x) => (float y) { c = Conv(x, w, b) y = Relu(c) }", weights)


def rounded(
    graph: Graph, folder: Path, *, scale_format: str = "float", floats: str = "float16"
) -> tuple[Quantized, Quantized]:
    """The plan before and after the pass."""
    text = f'{HEADER}scale_format = "{scale_format}"\nfloat_formats = ["float32", "float16"]\n'
    target = target_of(folder, text + ENCODINGS + KERNELS)
    before = quantize(graph, target, write="")
    plan = dataclasses.replace(before.plan, float_format=floats)
    before.graph.facts[PLAN] = plan
    RoundScales().run(before.graph, PassContext(target=target))
    return before, dataclasses.replace(before, plan=before.graph.facts[PLAN])


def test_scales_are_those_of_the_format(tmp_path: Path) -> None:
    before, after = rounded(conv(), tmp_path)
    for old, new in zip(before.plan.groups, after.plan.groups, strict=True):
        assert old.encoding.scale is not None
        assert new.encoding.scale is not None
        if old.relation == "derived":
            assert new.encoding == old.encoding
            continue
        np.testing.assert_array_equal(new.encoding.scale, new.encoding.scale.astype(np.float16))
        np.testing.assert_allclose(new.encoding.scale, old.encoding.scale, rtol=2**-11)
        assert new.encoding.scale.tolist() != old.encoding.scale.tolist()


@pytest.mark.parametrize(("scale_format", "floats"), [("float32", "float16"), ("float", "float32")])
def test_scales_stay_where_they_are_stored_as_they_are(
    scale_format: str, floats: str, tmp_path: Path
) -> None:
    before, after = rounded(conv(), tmp_path, scale_format=scale_format, floats=floats)
    assert [group.encoding for group in before.plan.groups] == [group.encoding for group in after.plan.groups]


def test_scales_that_the_format_cannot_hold_stay(tmp_path: Path) -> None:
    before, after = rounded(conv(1e-4), tmp_path)
    for old, new in zip(before.plan.groups, after.plan.groups, strict=True):
        assert (new.encoding == old.encoding) == (old.encoding.axis is not None)


def test_what_a_format_does_to_scales() -> None:
    assert scale_loss(np.float32([0.02, 1e-7]), HALF) == ""
    assert "too small" in scale_loss(np.float32([3e-6]), HALF)
    assert "exceeds" in scale_loss(np.float32([300.0]), HALF)
    assert rounded_scale(np.float32([1e-12]), HALF)[0] > 0
