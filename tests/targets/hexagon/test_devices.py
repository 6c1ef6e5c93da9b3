"""Devices: their numbers, what they run, and what is too large for them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from quantized import quantize
from small_graphs import graph_of, normal

import qcompiler as qc
from qcompiler.errors import TargetError
from qcompiler.ir.onnx_export import save
from qcompiler.metrics import sqnr_db
from qcompiler.runtime import Session
from qcompiler.targets import find_target
from qcompiler.targets.hexagon.guards import soc_of
from qcompiler.targets.hexagon.htp import HtpLibrary

TARGET = find_target("hexagon")
GEMM = (
    "(float[16,37] x) => (float[16,n] y) { y = Gemm(x, w, b) }",
    {"w": normal(37, 37) / 6, "b": normal(37)},
)
CONV_RELU = (
    "(float[16,4,6,6] x) => (float[16,4,c,c] y) { c = Conv(x, w, b) y = Relu(c) }",
    {"w": normal(4, 4, 3, 3) / 6, "b": normal(4)},
)


def test_every_device_has_its_number() -> None:
    """The library would take a part without one for a v68."""
    numbers = {name: soc_of(find_target(f"hexagon:{name}")) for name in TARGET.device}
    assert len(set(numbers.values())) == len(numbers)
    device = dataclasses.replace(TARGET.device["sm8550"], features=("v73",))
    nameless = dataclasses.replace(TARGET, device={"sm8550": device})
    with pytest.raises(TargetError, match="soc-N"):
        soc_of(nameless)


def test_every_device_runs(library: HtpLibrary, tmp_path: Path) -> None:
    """By its own number, whatever its architecture: in integers, and to the code or two that it may be off."""
    done = quantize(graph_of(*CONV_RELU), TARGET)
    (file,) = save(done.graph, tmp_path / "model.onnx")
    expected = Session(done.graph, optimize=False).run(done.feeds)["y"]
    for name in TARGET.device:
        prepared = library.prepare(file, soc_of(find_target(f"hexagon:{name}")))
        assert not prepared.graph.float_ops, name
        assert sqnr_db(expected, library.run(prepared, done.feeds)["y"]) > 35, name


def test_models_beyond_one_session_are_refused(tmp_path: Path) -> None:
    device = dataclasses.replace(TARGET.device["sm8550"], flash=1000)
    small = dataclasses.replace(TARGET, device={"sm8550": device})
    text, constants = GEMM
    with pytest.raises(TargetError, match="1,406 parameters"):
        qc.compile(graph_of(text, constants), small, {"x": normal(32, 37)}, output=tmp_path / "out")
