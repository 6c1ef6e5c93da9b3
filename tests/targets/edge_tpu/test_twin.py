"""TensorFlow Lite Micro runs the file, and the C for Cortex-M of the same plan gives the same bytes: two consumers that share no code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_graphs import graph_of, normal

import qcompiler as qc
from qcompiler import demo
from qcompiler.data import DataSource
from qcompiler.integer.evaluate import quantize_inputs
from qcompiler.integer.program import Program
from qcompiler.ir.graph import Graph
from qcompiler.targets import find_target
from qcompiler.targets.cmsis_nn import host
from qcompiler.targets.cmsis_nn import lower as cmsis_nn
from qcompiler.targets.edge_tpu import lower as edge_tpu

pytest.importorskip("ai_edge_litert")
runtime = pytest.importorskip("tflite_micro").runtime
pytestmark = pytest.mark.skipif(host.compiler() is None, reason="there is no C compiler")


def twins(model: Graph | Path, data: Any, folder: Path) -> None:
    """Compiles for both, with one plan, and compares what both compute of the data."""
    plan = json.loads(qc.compile(model, "edge-tpu", data).plan.to_json())
    made = {}
    for target, device in (("edge-tpu", "coral"), ("cmsis-nn", "cortex-m4")):
        file = folder / f"{target}.json"
        file.write_text(json.dumps({**plan, "target": target, "device": device}), encoding="utf-8")
        made[target] = qc.compile(model, target, data, output=folder / target, plan=file)
        verification = made[target].verification
        assert verification is not None
        assert not verification.problems, verification.summary
    c, micro = _by_c(made["cmsis-nn"], data, folder), _by_micro(made["edge-tpu"], data, folder)
    for name, codes in micro.items():
        np.testing.assert_array_equal(codes, c[name])


def _by_c(result: qc.Result, data: Any, folder: Path) -> dict[str, Any]:
    program = cmsis_nn.program_of(result.graph, result.plan, find_target("cmsis-nn"))
    library = host.build(folder / "cmsis-nn", folder / "model.so", None)
    return host.run_all(library, program, _inputs(result, program, data))


def _by_micro(result: qc.Result, data: Any, folder: Path) -> dict[str, Any]:
    program = edge_tpu.program_of(result.graph, result.plan, find_target("edge-tpu"))
    inputs = _inputs(result, program, data)
    interpreter = runtime.Interpreter.from_file(str(folder / "edge-tpu" / "model.tflite"), arena_size=1 << 21)
    made: dict[str, list[Any]] = {tensor.name: [] for tensor in program.outputs}
    for sample in range(len(next(iter(inputs.values())))):
        for place, tensor in enumerate(program.inputs):
            interpreter.set_input(inputs[tensor.name][sample], place)
        interpreter.invoke()
        for place, codes in enumerate(made.values()):
            codes.append(interpreter.get_output(place))
    return {name: np.stack(codes) for name, codes in made.items()}


def _inputs(result: qc.Result, program: Program, data: Any) -> dict[str, Any]:
    return quantize_inputs(program, next(iter(DataSource.open(data).validate(result.graph).batches(64))))


def test_the_demo(tmp_path: Path) -> None:
    twins(demo.MODEL, str(demo.CALIBRATION), tmp_path)


def test_a_network_of_every_kind_of_layer(tmp_path: Path) -> None:
    graph = graph_of(
        """(float[batch,3,12,11] x) => (float y) {
            a = Conv<pads=[1,1,1,1], strides=[2,2]>(x, w, b) r = Relu(a)
            d = Conv<group=8, pads=[1,1,1,1]>(r, v) s = Add(d, r) p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(s)
            m = GlobalAveragePool(p) f = Flatten(m) g = Gemm<transB=1>(f, k, c) y = Softmax<axis=1>(g)
        }""",
        {
            "w": normal(8, 3, 3, 3),
            "b": normal(8),
            "v": normal(8, 1, 3, 3),
            "k": normal(10, 8),
            "c": normal(10),
        },
    )
    twins(graph, {"x": normal(64, 3, 12, 11)}, tmp_path)
