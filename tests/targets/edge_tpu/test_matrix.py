"""Operators and their attributes, one small graph each.

What has a form in the file runs in LiteRT as in the integer executor, tensor by tensor, and close to the float model; what has none is
refused by name. Of what the Edge TPU's compiler is predicted to leave on the host, the rules are stated; everything else is mapped.

Grids vary attributes: one at a time in every run, two at a time in slow ones.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from small_graphs import graph_of, normal

from qcompiler.data import DataSource
from qcompiler.errors import TargetError
from qcompiler.integer.evaluate import dequantize_outputs, quantize_inputs, run
from qcompiler.integer.program import Program
from qcompiler.integer.session import ProgramSession, samples_each
from qcompiler.ir.graph import Graph
from qcompiler.ir.plan import PLAN
from qcompiler.options import Options, default_pipeline
from qcompiler.pass_manager import PassContext
from qcompiler.pipeline import Pipeline
from qcompiler.runtime import Session
from qcompiler.target import Target
from qcompiler.targets import find_target
from qcompiler.targets.edge_tpu import guards, litert
from qcompiler.targets.edge_tpu.file import model_of
from qcompiler.targets.edge_tpu.flatbuffer import write
from qcompiler.targets.edge_tpu.lower import program_of
from qcompiler.targets.edge_tpu.model import Model
from qcompiler.targets.edge_tpu.partition import partition, refusal
from qcompiler.targets.edge_tpu.versions import with_versions

pytest.importorskip("ai_edge_litert")

TARGETS = ("tflite:integer", "edge-tpu")
SAMPLES, COMPARED = 16, 3
MEAN_STEPS, MOST_STEPS = 1.5, 16.0
"""How far results may be from the float model's, in steps of their own scale: rounding, of what is amplified, too. A wrong axis is tens off."""


# -- compiling ------------------------------------------------------------------------------------------------------


@functools.cache
def prepared(name: str, prefer: tuple[str, ...] = ()) -> tuple[Target, Pipeline]:
    """A target and its pipeline, read once; ranges are those of all samples, so that nothing is cut off."""
    target = find_target(name)
    options: dict[str, Any] = {"calibrate": {"method": "min-max"}, "assign_precision": {"prefer": prefer}}
    return target, default_pipeline(target, Options(pass_options=options))


@dataclass(frozen=True)
class Compiled:
    """A graph and the file that came of it."""

    graph: Graph
    samples: Mapping[str, NDArray[Any]]
    kernels: set[str]
    program: Program
    model: Model

    def check(self) -> None:
        """The file keeps its rules, and LiteRT's reference kernels give the executor's codes, of every tensor."""
        guards.check(self.model)
        interpreter = litert.Interpreter(write(self.model), self.program, reference=True)
        inputs = {
            name: codes[:COMPARED] for name, codes in quantize_inputs(self.program, self.samples).items()
        }
        computed = [tensor.name for operation in self.program.operations for tensor in operation.outputs]
        expected = run(self.program, inputs, computed)
        for sample in range(COMPARED):
            interpreter.run({name: codes[sample] for name, codes in inputs.items()})
            for name in computed:
                np.testing.assert_array_equal(
                    interpreter.tensor(name), expected[name][sample], name, strict=True
                )

    def check_numbers(self) -> None:
        """Results are close to those of the float model; indices may change where two numbers are."""
        made = dequantize_outputs(
            self.program, run(self.program, quantize_inputs(self.program, self.samples))
        )
        right = self.float_results()
        for tensor in self.program.outputs:
            ours, theirs = made[tensor.value], right[tensor.value]
            assert ours.shape == theirs.shape
            if tensor.encoding is None:
                assert (ours == theirs).mean() > 0.8, tensor.value
                continue
            steps = np.abs(ours.astype(np.float64) - theirs) / tensor.scale
            assert steps.mean() < MEAN_STEPS * (1 << tensor.bits - 8), tensor.value
            assert steps.max() < MOST_STEPS * (1 << tensor.bits - 8), tensor.value

    def check_floats(self) -> None:
        """LiteRT computes what the float model does, by its reference kernels and by those that it runs as a rule."""
        guards.check(self.model)
        assert not self.program.is_integer
        right = self.float_results()
        for reference in (True, False):
            interpreter = litert.Interpreter(write(self.model), self.program, reference=reference)
            made = ProgramSession(self.program, interpreter.outputs).run(self.samples)
            for name, array in made.items():
                most = float(np.abs(right[name]).max(initial=0))
                np.testing.assert_allclose(array, right[name], rtol=1e-4, atol=1e-5 * most, err_msg=name)

    def float_results(self) -> dict[str, NDArray[Any]]:
        """Outputs of the model as it was given, sample by sample as the program takes them."""
        session, step = Session(self.graph, optimize=False), samples_each(self.program)
        parts = [
            session.run({name: array[first : first + step] for name, array in self.samples.items()})
            for first in range(0, SAMPLES, step)
        ]
        return {
            name: np.concatenate([part[name].reshape(-1, *part[name].shape[1:]) for part in parts])
            for name in parts[0]
        }

    def on_host(self) -> set[str]:
        """The rules that keep operators off the accelerator."""
        found = [refusal(self.model, operator) for operator in self.model.operators]
        return {rule.id for rule, _ in filter(None, found)}


def compiled(
    text: str, constants: Mapping[str, Any], name: str, prefer: tuple[str, ...] = (), positive: bool = False
) -> Compiled:
    """Compiles a graph on samples that are not symmetric, so that zero points are not 0."""
    graph = graph_of(text, constants)
    target, pipeline = prepared(name, prefer)
    samples = {}
    for place, value in enumerate(graph.inputs):
        shape = tuple(dim for dim in (value.shape or ())[1:] if isinstance(dim, int))
        data = normal(SAMPLES, *shape, seed=place) + np.float32(0.3)
        data = np.abs(data) + np.float32(0.1) if positive else data
        samples[value.name] = data.astype(value.dtype)
    planned = graph.copy()
    pipeline.run(planned, PassContext(target=target, calibration=DataSource.open(samples).validate(graph)))
    program = program_of(planned, planned.facts[PLAN], target)
    kernels = {region.kernel for region in planned.facts[PLAN].regions}
    return Compiled(graph, samples, kernels, program, with_versions(model_of(program)))


# -- cases ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A graph that has a form in the file.

    Attributes:
        kernel: The kernel that it is for.
        text: The graph in ONNX text.
        constants: Its constants.
        host: The rules that keep some of it off the accelerator.
        slow: Whether it is one of many.
        positive: Whether samples are.
    """

    kernel: str
    text: str
    constants: Mapping[str, Any] = field(default_factory=dict)
    host: frozenset[str] = frozenset()
    slow: bool = False
    positive: bool = False


CASES: dict[str, Case] = {}


def add(
    kernel: str,
    name: str,
    text: str,
    host: str = "",
    slow: bool = False,
    positive: bool = False,
    **constants: Any,
) -> None:
    name = f"{kernel}-{name}"
    assert name not in CASES, name
    CASES[name] = Case(kernel, text, constants, frozenset(host.split()), slow, positive)


def of_image(body: str, *shape: int) -> str:
    """A graph of one image [n, *shape]."""
    return f"(float[n,{','.join(map(str, shape or (4, 7, 6)))}] x) => (float y) {{ {body} }}"


def of_two(body: str, first: str = "n,4,7,6", second: str = "") -> str:
    return f"(float[{first}] x, float[{second or first}] z) => (float y) {{ {body} }}"


def grid(**factors: Mapping[str, Any]) -> Iterator[tuple[str, bool, dict[str, Any]]]:
    """Combinations of which at most two are not the first of their factor; those of two are slow."""
    for chosen in itertools.product(*(values.items() for values in factors.values())):
        others = [
            key
            for (key, _), values in zip(chosen, factors.values(), strict=True)
            if key != next(iter(values))
        ]
        if len(others) <= 2:
            values = {factor: value for factor, (_, value) in zip(factors, chosen, strict=True)}
            yield "-".join(others) or "plain", len(others) == 2, values


def listed(numbers: Any) -> str:
    return f"[{','.join(map(str, numbers))}]"


PADS = {
    "valid": lambda taps: (0, 0, 0, 0),
    "same": lambda taps: ((taps[0] - 1) // 2, (taps[1] - 1) // 2, taps[0] // 2, taps[1] // 2),
    "around": lambda taps: (1, 1, 1, 1),
    "uneven": lambda taps: (2, 0, 1, 3),
    "wide": lambda taps: (6, 5, 7, 4),
}
STRIDES = {"s11": (1, 1), "s22": (2, 2), "s33": (3, 3), "s12": (1, 2), "s32": (3, 2)}


def convolutions() -> None:
    taps = {"k33": (3, 3), "k11": (1, 1), "k23": (2, 3), "k51": (5, 1), "k44": (4, 4)}
    dilations = {"d11": (1, 1), "d22": (2, 2), "d12": (1, 2), "d31": (3, 1)}
    for name, slow, at in grid(taps=taps, strides=STRIDES, dilations=dilations, pads=PADS):
        pads = listed(at["pads"](at["taps"]))
        attributes = f"strides={listed(at['strides'])}, dilations={listed(at['dilations'])}, pads={pads}"
        uneven = at["dilations"][0] != at["dilations"][1] and min(at["taps"]) > 1
        add("conv", name, of_image(f"y = Conv<{attributes}>(x, w, b)", 3, 13, 12), "dilation" if uneven else "", slow,
            w=normal(4, 3, *at["taps"]) * 0.4, b=normal(4))  # fmt: skip
    for auto in ("SAME_UPPER", "SAME_LOWER", "VALID"):
        for strides in ((1, 1), (2, 3)):
            body = f'y = Conv<auto_pad="{auto}", strides={listed(strides)}>(x, w, b)'
            add(
                "conv",
                f"{auto}-{listed(strides)}",
                of_image(body, 3, 9, 8),
                w=normal(4, 3, 3, 4) * 0.4,
                b=normal(4),
            )
    for outputs in (2, 6):
        for bias in (", b", ""):
            add("conv", f"groups-{outputs}{bias[2:]}", of_image(f"y = Conv<group=2, pads=[1,1,1,1]>(x, w{bias})"),
                w=normal(outputs, 2, 3, 3), **({"b": normal(outputs)} if bias else {}))  # fmt: skip
    add("conv", "no-bias", of_image("y = Conv(x, w)"), w=normal(5, 4, 3, 3))
    add("conv", "whole-image", of_image("y = Conv(x, w)"), w=normal(5, 4, 7, 6) * 0.2)
    add("conv", "pixel", of_image("y = Conv(x, w, b)", 3, 1, 1), w=normal(5, 3, 1, 1), b=normal(5))
    add("conv", "one-channel", of_image("y = Conv(x, w, b)", 1, 7, 6), w=normal(3, 1, 3, 3), b=normal(3))
    add(
        "conv",
        "batch-of-2",
        "(float[2,3,5,5] x) => (float y) { y = Conv(x, w) }",
        "rank",
        w=normal(4, 3, 3, 3),
    )
    one = {"k3": 3, "k1": 1, "k4": 4}, {"s1": 1, "s2": 2, "s3": 3}, {"d1": 1, "d2": 2}
    around = {"p00": (0, 0), "p11": (1, 1), "p20": (2, 0), "p54": (5, 4)}
    for name, slow, at in grid(taps=one[0], stride=one[1], dilation=one[2], pads=around):
        attributes = f"strides=[{at['stride']}], dilations=[{at['dilation']}], pads={listed(at['pads'])}"
        add("conv", f"row-{name}", of_image(f"y = Conv<{attributes}>(x, w, b)", 3, 13), slow=slow,
            w=normal(4, 3, at["taps"]), b=normal(4))  # fmt: skip
    add("conv", "row-groups", of_image("y = Conv<group=2, pads=[1,1]>(x, w)", 4, 13), w=normal(6, 2, 3))


def depthwise() -> None:
    dilations = {"d11": (1, 1), "d22": (2, 2), "d13": (1, 3)}
    for name, slow, at in grid(
        times={"m1": 1, "m2": 2, "m3": 3}, strides=STRIDES, dilations=dilations, pads=PADS
    ):
        attributes = f"strides={listed(at['strides'])}, dilations={listed(at['dilations'])}, pads={listed(at['pads']((3, 3)))}"
        add("depthwise", name, of_image(f"y = Conv<group=4, {attributes}>(x, w, b)", 4, 11, 10),
            "dilation" if at["dilations"] == (1, 3) else "", slow, w=normal(4 * at["times"], 1, 3, 3), b=normal(4 * at["times"]))  # fmt: skip
    add("depthwise", "no-bias", of_image("y = Conv<group=4>(x, w)"), w=normal(4, 1, 2, 3))
    for times in (1, 2):
        add("depthwise", f"row-m{times}", of_image("y = Conv<group=4, pads=[1,1]>(x, w, b)", 4, 13),
            w=normal(4 * times, 1, 3), b=normal(4 * times))  # fmt: skip


def transposed_convolutions() -> None:
    for name, slow, at in grid(
        taps={"k33": (3, 3), "k22": (2, 2), "k14": (1, 4)},
        strides={"s22": (2, 2), "s11": (1, 1), "s13": (1, 3)},
        pads={"p0000": (0, 0, 0, 0), "p0011": (0, 0, 1, 1)},
    ):
        attributes = f"strides={listed(at['strides'])}, pads={listed(at['pads'])}"
        add("conv_transpose", name, of_image(f"y = ConvTranspose<{attributes}>(x, w, b)", 4, 5, 4), slow=slow,
            w=normal(4, 3, *at["taps"]), b=normal(3))  # fmt: skip
    add("conv_transpose", "no-bias", of_image("y = ConvTranspose<strides=[2,2]>(x, w)"), w=normal(4, 3, 2, 2))


LOW, HIGH = np.float32(-0.3), np.float32(1.7)
ACTIVATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "relu": ("Relu(c)", {}),
    "clip-odd": ("Clip(c, low, high)", {"low": LOW, "high": HIGH}),
    "clip-0-6": ("Clip(c, low, high)", {"low": np.float32(0), "high": np.float32(6)}),
    "clip-1-1": ("Clip(c, low, high)", {"low": np.float32(-1), "high": np.float32(1)}),
    "clip-0-4": ("Clip(c, low, high)", {"low": np.float32(0), "high": np.float32(4)}),
    "clip-low": ("Clip(c, low)", {"low": LOW}),
    "clip-high": ("Clip(c, , high)", {"high": HIGH}),
    "clip-inside": ("Clip(c, low, high)", {"low": np.float32(0.5), "high": HIGH}),
}
BEFORE: dict[str, tuple[str, dict[str, Any]]] = {
    "conv": ("x) => (float y) { c = Conv<pads=[1,1,1,1]>(x, w, b)", {"w": normal(4, 4, 3, 3) * 0.3, "b": normal(4)}),
    "depthwise": ("x) => (float y) { c = Conv<group=4>(x, w, b)", {"w": normal(4, 1, 3, 3), "b": normal(4)}),
    "conv-groups": ("x) => (float y) { c = Conv<group=2>(x, w, b)", {"w": normal(6, 2, 3, 3) * 0.4, "b": normal(6)}),
    "conv_transpose": ("x) => (float y) { c = ConvTranspose<strides=[2,2]>(x, w, b)", {"w": normal(4, 3, 2, 2), "b": normal(3)}),
    "linear": ("v) => (float y) { x = Flatten(v) c = Gemm<transB=1>(x, w, b)", {"w": normal(7, 168) * 0.1, "b": normal(7)}),
    "matmul_constant": ("x) => (float y) { c = MatMul(x, w)", {"w": normal(6, 7)}),
    "add": ("x, float[n,4,7,6] z) => (float y) { c = Add(x, z)", {}),
    "add-sub": ("x, float[n,4,7,6] z) => (float y) { c = Sub(x, z)", {}),
    "mul": ("x, float[n,4,7,6] z) => (float y) { c = Mul(x, z)", {}),
    "clip-max": ("x, float[n,4,7,6] z) => (float y) { c = Max(x, z)", {}),
    "clip-pool": ("x) => (float y) { c = AveragePool<kernel_shape=[2,2]>(x)", {}),
    "clip-mean": ("x) => (float y) { c = GlobalAveragePool(x)", {}),
    "clip-input": ("c) => (float y) {", {}),
    "clip-flatten": ("x) => (float y) { c = Flatten(x)", {}),
}  # fmt: skip


def activations() -> None:
    for before, (start, constants) in BEFORE.items():
        for name, (body, bounds) in ACTIVATIONS.items():
            slow = before not in ("conv", "clip-input") and name not in ("relu", "clip-odd")
            kernel = before.partition("-")[0]
            kernel = "relu" if kernel == "clip" and name == "relu" else kernel
            place = before.partition("-")[2]
            add(kernel, "-".join(filter(None, (place, "then", name))), f"(float[n,4,7,6] {start} y = {body} }}", slow=slow,
                **constants, **bounds)  # fmt: skip


def products() -> None:
    matrix, bias = normal(12, 7), normal(7)
    row = "(float[n,12] x) => (float y) "
    add("linear", "plain", f"{row}{{ y = Gemm(x, w, b) }}", w=matrix, b=bias)
    add("linear", "transB", f"{row}{{ y = Gemm<transB=1>(x, w, b) }}", w=normal(7, 12), b=bias)
    add("linear", "no-bias", f"{row}{{ y = Gemm(x, w) }}", w=matrix)
    add("linear", "factors", f"{row}{{ y = Gemm<alpha=0.5, beta=2.0>(x, w, b) }}", w=matrix, b=bias)
    add("linear", "one-output", f"{row}{{ y = Gemm(x, w, b) }}", w=normal(12, 1), b=normal(1))
    for shape in ((), (1,), (1, 7), (1, 1)):
        add(
            "linear",
            f"bias-{listed(shape)}",
            f"{row}{{ y = Gemm(x, w, b) }}",
            w=matrix,
            b=np.float32(normal(*shape)),
        )
    add("linear", "rows", "(float[4,12] x) => (float y) { y = Gemm(x, w, b) }", "rows", w=matrix, b=bias)
    for rank, shape in {2: "n", 3: "n,5", 4: "n,3,5"}.items():
        start, kernel = f"(float[{shape},12] x) => (float y) ", "linear" if rank == 2 else "matmul_constant"
        add(kernel, f"MatMul-{rank}", f"{start}{{ y = MatMul(x, w) }}", w=matrix)
        add(kernel, f"MatMul-{rank}-bias", f"{start}{{ c = MatMul(x, w) y = Add(c, b) }}", w=matrix, b=bias)
    add(
        "matmul_constant",
        "MatMul-5",
        "(float[n,2,3,5,12] x) => (float y) { y = MatMul(x, w) }",
        "rank",
        w=matrix,
    )
    add("linear", "MatMul-bias-first", f"{row}{{ c = MatMul(x, w) y = Add(b, c) }}", w=matrix, b=normal(1, 7))
    body = "y = MatMul(x, z)"
    add("matmul", "rank-3", of_two(body, "n,4,6", "n,6,5"), "listed")
    add("matmul", "rank-4", of_two(body, "n,3,4,6", "n,3,6,5"), "listed")
    turned = "t = Transpose<perm=[0,1,3,2]>(z) y = MatMul(x, t)"
    add("matmul", "transposed", of_two(turned, "n,3,4,6"), "listed")
    add("matmul", "itself", of_image("t = Transpose<perm=[0,2,1]>(x) y = MatMul(x, t)", 4, 6), "listed")
    add(
        "matmul",
        "stack-of-constants",
        "(float[2,4,6] x) => (float y) { y = MatMul(x, w) }",
        "listed",
        w=normal(2, 6, 5),
    )


SECOND = {"alike": "n,4,7,6", "channels": "n,4,1,1", "map": "n,1,7,6", "one": "n,1,1,1", "columns": "n,1,1,6"}
OPERANDS = {
    "number": np.float32(0.6), "negative": np.float32(-1.3), "vector": normal(4, 1, 1), "row": normal(6), "whole": normal(4, 7, 6),
    "array-of-one": normal(1), "with-batch": normal(1, 4, 1, 1),
}  # fmt: skip
ARITHMETIC = {"Add": "add", "Sub": "add", "Mul": "mul", "Max": "extremum", "Min": "extremum"}


def arithmetic() -> None:
    for op, kernel in ARITHMETIC.items():
        quick = op in ("Add", "Mul")
        for name, shape in SECOND.items():
            add(
                kernel,
                f"{op}-{name}",
                of_two(f"y = {op}(x, z)", second=shape),
                slow=not quick and name != "alike",
            )
            if name != "alike":
                add(kernel, f"{op}-{name}-first", of_two(f"y = {op}(z, x)", second=shape), slow=True)
        add(kernel, f"{op}-both-ways", of_two(f"y = {op}(x, z)", "n,4,1,6", "n,1,7,6"), slow=not quick)
        add(kernel, f"{op}-itself", of_image(f"y = {op}(x, x)"))
        for rank, (shape, host) in {
            2: ("n,9", ""),
            3: ("n,5,9", ""),
            5: ("n,2,3,4,5", "rank"),
            6: ("n,2,3,2,2,3", "rank"),
        }.items():
            add(kernel, f"{op}-rank-{rank}", of_two(f"y = {op}(x, z)", shape), host, slow=not quick)
        for name, operand in OPERANDS.items():
            several = operand.size > 1
            where = kernel if several or op not in ("Max", "Min") else "clip"
            add(where, f"{op}-{name}", of_image(f"y = {op}(x, k)"), slow=not quick and not several, k=operand)
            add(where, f"{op}-{name}-first", of_image(f"y = {op}(k, x)"), slow=True, k=operand)
    add("relu", "of-Max", of_image("y = Max(x, k)"), k=np.float32(0))
    add("movement", "nothing-added", of_image("y = Add(x, k)"), k=np.float32(0))
    add("mul", "by-zero", of_image("y = Mul(x, k)"), k=np.float32(0))


# Pools of 9 by 8, and whether the file has a name for their padding: none, or that of SAME, which puts the lesser half in front.
POOLS = {
    "k22": ("kernel_shape=[2,2]", True),
    "k22-s22": ("kernel_shape=[2,2], strides=[2,2]", True),
    "k23-s31": ("kernel_shape=[2,3], strides=[3,1]", True),
    "k33-s13": ("kernel_shape=[3,3], strides=[1,3]", True),
    "k33-p1111": ("kernel_shape=[3,3], pads=[1,1,1,1]", True),
    "k22-p0011": ("kernel_shape=[2,2], pads=[0,0,1,1]", True),
    "k22-s22-ceil": ("kernel_shape=[2,2], strides=[2,2], ceil_mode=1", True),
    "k32-s22-upper": ('kernel_shape=[3,2], strides=[2,2], auto_pad="SAME_UPPER"', True),
    "k32-s22-lower": ('kernel_shape=[3,2], strides=[2,2], auto_pad="SAME_LOWER"', True),
    "k32-valid": ('kernel_shape=[3,2], auto_pad="VALID"', True),
    "k22-lower": ('kernel_shape=[2,2], auto_pad="SAME_LOWER"', False),
    "k22-p1111": ("kernel_shape=[2,2], pads=[1,1,1,1]", False),
    "k22-p1001": ("kernel_shape=[2,2], pads=[1,0,0,1]", False),
    "k33-s22-p1111": ("kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]", False),
    "k33-s22-ceil": ("kernel_shape=[3,3], strides=[2,2], ceil_mode=1", False),
    "k23-s22-p0101": ("kernel_shape=[2,3], strides=[2,2], pads=[0,1,0,1]", False),
}


def pools() -> None:
    for op, kernel in {"MaxPool": "max_pool", "AveragePool": "average_pool"}.items():
        for name, (attributes, named) in POOLS.items():
            body = of_image(f"y = {op}<{attributes}>(x)", 3, 9, 8)
            if named or op == "MaxPool":
                add(kernel, name, body, "" if named else "listed")
            else:
                REFUSED[f"{kernel}-{name}"] = (
                    body,
                    {},
                    ["AveragePool:y: ", "means over windows", "no form in the file"],
                )
            if op == "AveragePool" and "pads" in attributes:
                add(kernel, f"{name}-counted", body.replace("<", "<count_include_pad=1, "))
        add(
            kernel,
            "behind-relu",
            of_image(f"c = Relu(x) y = {op}<kernel_shape=[3,3], strides=[2,2]>(c)", 3, 9, 8),
        )
        add(kernel, "row", of_image(f"y = {op}<kernel_shape=[3], strides=[2]>(x)", 3, 13))
        add(kernel, "row-p11", of_image(f"y = {op}<kernel_shape=[3], pads=[1,1]>(x)", 3, 13))
        whole = "mean" if op == "AveragePool" else kernel
        for rank, shape in {4: (3, 9, 8), 3: (3, 9)}.items():
            add(whole, f"global-{rank}", of_image(f"y = Global{op}(x)", *shape))
        add(whole, "of-everything", of_image(f"y = {op}<kernel_shape=[9,8]>(x)", 3, 9, 8))
    stem = "c = Relu(x) y = MaxPool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>(c)"
    add("max_pool", "of-no-negatives", of_image(stem, 3, 9, 8))


def reductions() -> None:
    for op, kernel in {
        "ReduceMean": "mean",
        "ReduceMax": "reduce_extreme",
        "ReduceMin": "reduce_extreme",
    }.items():
        for axes in ([2, 3], [1], [1, 2], [1, 2, 3], [2], [3], [-2, -1], [1, 3]):
            for keep in (0, 1):
                slow = keep != len(axes) % 2 or op == "ReduceMin"
                depth = op == "ReduceMean" and (axes in ([1, 2, 3], [3]))
                add(kernel, f"{op}-{listed(axes)}-{keep}", of_image(f"y = {op}<keepdims={keep}>(x, axes)"),
                    "mean-depth" if depth else "", slow, axes=np.array(axes))  # fmt: skip
        for rank, (shape, axes, host) in {
            2: ((8,), [1], ""),
            3: ((5, 9), [1], ""),
            5: ((2, 3, 4, 5), [2, 4], "rank"),
        }.items():
            add(
                kernel,
                f"{op}-rank-{rank}",
                of_image(f"y = {op}<keepdims=0>(x, axes)", *shape),
                host,
                axes=np.array(axes),
            )
    add("mean", "all-axes", "(float[1,3,5,4] x) => (float y) { y = ReduceMean<keepdims=0>(x) }")


def joins() -> None:
    for axis in (1, 2, 3, -1):
        add("concat", f"axis-{axis}", of_two(f"y = Concat<axis={axis}>(x, z)"))
    add("concat", "itself", of_image("y = Concat<axis=2>(x, x, x)"))
    add("concat", "rows", of_two("y = Concat<axis=1>(x, z)", "n,5", "n,3"))
    scales = "a = Mul(x, k) s = Sigmoid(z) y = Concat<axis=1>(a, s, x)"
    add("concat", "other-scales", of_two(scales), k=np.float32(3))
    for name, part in {"zeros": np.zeros((1, 2, 7, 6), np.float32), "numbers": normal(1, 2, 7, 6)}.items():
        for order in ("x, k", "k, x"):
            body = f"(float[1,4,7,6] x) => (float y) {{ y = Concat<axis=1>({order}) }}"
            add("concat", f"{name}-{order[0]}", body, "zero-part" if name == "numbers" else "", k=part)


def softmaxes() -> None:
    for op, kernel in {"Softmax": "softmax", "LogSoftmax": "log_softmax"}.items():
        listed_ = "listed" if op == "LogSoftmax" else ""
        for axis in (1, 2, 3, -1):
            add(kernel, f"axis-{axis}", of_image(f"y = {op}<axis={axis}>(x)"), listed_ or "rows")
        add(kernel, "row", of_image(f"y = {op}<axis=1>(x)", 9), listed_)
        add(kernel, "rows", of_image(f"y = {op}<axis=1>(x)", 5, 9), listed_ or "rows")


RESIZES = {
    "twice": (14, 12),
    "three-times": (21, 18),
    "smaller": (3, 3),
    "odd": (10, 9),
    "to-one": (1, 1),
    "one-side": (14, 6),
}
NEAREST = ("floor", "round_prefer_floor", "round_prefer_ceil", "ceil")


def resizes() -> None:
    for how in ("asymmetric", "half_pixel", "align_corners", "pytorch_half_pixel", "half_pixel_symmetric"):
        for name, size in RESIZES.items():
            factor = "" if name in ("twice", "one-side") else "resize-factor"
            text = of_image(
                f'y = Resize<coordinate_transformation_mode="{how}", MODE>(x, , , sizes)', 3, 7, 6
            )
            sizes = np.array([1, 3, *size])
            for nearest in NEAREST:
                body = text.replace("MODE", f'mode="nearest", nearest_mode="{nearest}"')
                own = (how, nearest) in (("asymmetric", "floor"), ("half_pixel", "round_prefer_ceil"))
                add(
                    "resize",
                    f"nearest-{how}-{nearest}-{name}",
                    body,
                    factor if own else ANY,
                    not own,
                    sizes=sizes,
                )
            if (how, name) != ("pytorch_half_pixel", "to-one"):
                slow = how not in ("half_pixel", "align_corners")
                host = "resize-factor" if (how, name) == ("align_corners", "to-one") else factor
                add(
                    "resize",
                    f"linear-{how}-{name}",
                    text.replace("MODE", 'mode="linear"'),
                    host,
                    slow,
                    sizes=sizes,
                )
    add(
        "resize",
        "by-factors",
        of_image('y = Resize<mode="linear">(x, , factors)', 3, 7, 6),
        factors=np.float32([1, 1, 2, 2]),
    )
    add(
        "resize",
        "to-the-same",
        of_image('y = Resize<mode="linear">(x, , , sizes)', 3, 7, 6),
        sizes=np.array([1, 3, 7, 6]),
    )


SLICES = {
    "middle": ([1], [5], [2], [1]), "from-the-end": ([-3], [-1], [3], [1]), "channels": ([1], [3], [1], [1]), "one": ([2], [3], [2], [1]),
    "steps": ([0], [7], [2], [2]), "backwards": ([6], [-100], [2], [-1]), "backwards-steps": ([5], [0], [2], [-2]),
    "channels-backwards": ([3], [-100], [1], [-1]), "some": ([1, 2], [4, 6], [1, 3], [2, 1]), "all": ([1, 1, 1], [3, 6, 5], [1, 2, 3], [1, 1, 1]),
    "all-backwards": ([3, 6, 5], [-100, -100, -100], [1, 2, 3], [-1, -1, -2]), "one-backwards": ([6], [5], [2], [-1]),
}  # fmt: skip


def movement() -> None:
    def moved(name: str, body: str, *shape: int, host: str = "", **constants: Any) -> None:
        add("movement", name, of_image(body, *shape), host, **constants)

    for name, (starts, ends, axes, steps) in SLICES.items():
        host = (
            "strides"
            if name in ("channels-backwards", "some") or ("backwards" in name and name != "one-backwards")
            else ""
        )
        bounds = {"s": np.array(starts), "e": np.array(ends), "a": np.array(axes), "t": np.array(steps)}
        moved(f"Slice-{name}", "y = Slice(x, s, e, a, t)", host=host, **bounds)
    bounds = {"s": np.array([1, 0]), "e": np.array([4, 5]), "a": np.array([2, 4]), "t": np.array([1, 2])}
    moved("Slice-rank-5", "y = Slice(x, s, e, a, t)", 2, 5, 4, 5, host="version", **bounds)
    for axis in (1, 2, 3):
        body = f"(float[n,4,8,6] x) => (float y, float z) {{ y, z = Split<axis={axis}, num_outputs=2>(x) }}"
        add("movement", f"Split-{axis}", body)
    body = "(float[n,4,7,6] x) => (float y, float z, float v) { y, z, v = Split<axis=2>(x, sizes) }"
    add("movement", "Split-sizes", body, sizes=np.array([1, 4, 2]))
    for perm in itertools.permutations((1, 2, 3)):
        moved(f"Transpose-{listed(perm)}", f"y = Transpose<perm=[0,{listed(perm)[1:]}>(x)")
        between = f"c = Conv(x, w) t = Transpose<perm=[0,{listed(perm)[1:]}>(c) y = Conv(t, v)"
        kernel = "conv" if perm == (1, 2, 3) else "movement"
        add(
            kernel,
            f"Transpose-{listed(perm)}-between",
            of_image(between, 4, 4, 4),
            slow=True,
            w=normal(4, 4, 1, 1),
            v=normal(5, 4, 2, 1),
        )
    moved("Transpose-rank-5", "y = Transpose<perm=[0,3,1,4,2]>(x)", 2, 3, 4, 5, host="rank")
    moved("Transpose-rank-7", "y = Transpose<perm=[0,6,1,5,4,2,3]>(x)", 2, 3, 2, 3, 2, 2, host="rank version")
    shuffle = "a = Reshape(x, s) b = Transpose<perm=[0,2,1,3,4]>(a) c = Reshape(b, t) y = Conv(c, w)"
    moved(
        "Transpose-shuffle",
        shuffle,
        6,
        5,
        4,
        s=np.array([0, 2, 3, 5, 4]),
        t=np.array([0, 6, 5, 4]),
        w=normal(4, 6, 1, 1),
    )
    moved("Flatten", "y = Flatten(x)")
    moved("Flatten-image", "c = Conv(x, w) y = Flatten(c)", w=normal(3, 4, 3, 3))
    moved(
        "Flatten-product",
        "c = Conv(x, w) f = Flatten(c) y = Gemm(f, v)",
        w=normal(3, 4, 3, 3),
        v=normal(60, 5),
    )
    moved("Reshape", "y = Reshape(x, s)", s=np.array([0, 6, -1]))
    moved("Reshape-image", "c = Conv(x, w) y = Reshape(c, s)", s=np.array([0, 2, -1]), w=normal(4, 4, 1, 1))
    moved("Squeeze", "y = Squeeze(x, a)", 4, 1, 6, a=np.array([2]))
    moved("Unsqueeze", "y = Unsqueeze(x, a)", 4, 6, a=np.array([1, 4]))
    moved("Identity", "y = Identity(x)")
    moved("Expand", "y = Expand(x, s)", 4, 1, 6, host="listed", s=np.array([1, 4, 5, 6]))
    moved("Expand-rank", "u = Relu(x) y = Expand(u, s)", 6, host="listed", s=np.array([5, 1, 6]))
    moved("Tile-pixel", "y = Tile(x, r)", 4, 1, 1, host="listed", r=np.array([1, 1, 2, 3]))
    moved("Tile-channels", "y = Tile(x, r)", 4, 3, 2, host="listed", r=np.array([1, 3, 1, 1]))
    moved("Tile-all", "y = Tile(x, r)", 2, 3, 2, host="listed rank", r=np.array([1, 3, 2, 2]))
    for mode, host in {"constant": "", "edge": "listed", "reflect": "listed", "wrap": "listed"}.items():
        for name, pads in {
            "image": (0, 0, 1, 2, 0, 0, 2, 1),
            "channels": (0, 1, 0, 0, 0, 2, 0, 0),
            "all": (0, 1, 2, 1, 0, 2, 1, 2),
        }.items():
            moved(f"Pad-{mode}-{name}", f'y = Pad<mode="{mode}">(x, p)', host=host, p=np.array(pads))
    for number in (0.5, -1.0, 30.0):
        moved(
            f"Pad-by-{number:g}",
            "y = Pad(x, p, v)",
            host="listed",
            p=np.array((0, 0, 1, 2, 0, 0, 2, 1)),
            v=np.float32(number),
        )
    two = "y = Pad(x, p, a) z = Pad(x, p, b) m = MaxPool<kernel_shape=[3,3], pads=[2,0,0,2]>(x)"
    add("movement", "Pad-by-two", f"(float[n,4,7,6] x) => (float y, float z, float m) {{ {two} }}", "listed",
        p=np.array((0, 0, 1, 2, 0, 0, 2, 1)), a=np.float32(0.5), b=np.float32(-1))  # fmt: skip
    moved("Pad-axes", "y = Pad(x, p, , a)", p=np.array((1, 2)), a=np.array([3]))
    moved("Pad-nothing", "y = Pad(x, p)", p=np.zeros(8, np.int64))
    moved(
        "Pad-rank-5", "y = Pad(x, p)", 2, 3, 4, 3, host="version", p=np.array((0, 0, 1, 0, 1, 0, 0, 0, 2, 0))
    )
    for axis in (1, 2, 3):
        moved(f"Gather-{axis}", f"y = Gather<axis={axis}>(x, i)", host="listed", i=np.array([3, 0, 0, -1]))
        moved(f"Gather-{axis}-one", f"y = Gather<axis={axis}>(x, i)", i=np.array(2))
    moved("Gather-table", "y = Gather<axis=2>(x, i)", host="listed rank", i=np.array([[1, 2], [0, 3]]))
    moved("Gather-between", "c = Conv(x, w) g = Gather<axis=1>(c, i) y = Conv(g, v)", host="listed",
          i=np.array([2, 0, 1]), w=normal(3, 4, 1, 1), v=normal(3, 3, 2, 2))  # fmt: skip
    for mode in ("DCR", "CRD"):
        host = "rank" if mode == "DCR" else "rank version"
        moved(f"DepthToSpace-{mode}", f'y = DepthToSpace<blocksize=2, mode="{mode}">(x)', 8, 3, 2, host=host)
        body = f'c = Conv(x, w) d = DepthToSpace<blocksize=2, mode="{mode}">(c) y = Conv(d, v)'
        moved(
            f"DepthToSpace-{mode}-between",
            body,
            4,
            3,
            2,
            host=host,
            w=normal(12, 4, 1, 1),
            v=normal(3, 3, 2, 2),
        )
    moved("SpaceToDepth", "y = SpaceToDepth<blocksize=2>(x)", 3, 6, 4, host="rank")
    moved("SpaceToDepth-three", "y = SpaceToDepth<blocksize=3>(x)", 2, 6, 9, host="rank")


FUNCTIONS = {
    "Relu": "relu", "Sigmoid": "logistic", "Tanh": "tanh", "LeakyRelu": "leaky_relu", "HardSwish": "hard_swish", "HardSigmoid": "",
    "Swish": "", "Gelu": "gelu", "Abs": "abs", "Neg": "neg", "Sqrt": "sqrt", "Exp": "exp", "Log": "log",
}  # fmt: skip
UNLISTED = {
    "Gelu": "parses",
    "Abs": "listed",
    "Neg": "listed",
    "Sqrt": "listed",
    "Exp": "parses",
    "Log": "listed",
}
"""Functions that the accelerator does not have, and for which there is nothing else; to the rule that says so."""


def functions() -> None:
    for op, kernel in FUNCTIONS.items():
        call = "s = Sigmoid(x) y = Mul(x, s)" if op == "Swish" else f"y = {op}(x)"
        for name, shape in {"image": (4, 7, 6), "row": (9,), "rows": (5, 9), "rank-5": (2, 3, 4, 5)}.items():
            host = UNLISTED.get(op, "rank" if name == "rank-5" else "")
            add(
                kernel or op,
                name,
                of_image(call, *shape),
                host,
                name in ("rows", "rank-5"),
                op in ("Sqrt", "Log"),
            )
        if op not in UNLISTED:
            between = f"c = Conv(x, w, b) {call.replace('y =', 'h =').replace('(x', '(c')} y = Conv(h, v)"
            add(
                "conv" if op == "Relu" else kernel or op,
                f"{op}-between",
                of_image(between),
                w=normal(4, 4, 1, 1) * 0.4,
                b=normal(4),
                v=normal(3, 4, 1, 1),
            )
    for alpha in (0.3, 1.5, 0.0):
        add("leaky_relu", f"{alpha:g}", of_image(f"y = LeakyRelu<alpha={alpha}>(x)"))
    add("HardSigmoid", "factors", of_image("y = HardSigmoid<alpha=0.3, beta=0.4>(x)"))
    add("Swish", "factor", of_image("a = Mul(x, k) s = Sigmoid(a) y = Mul(x, s)"), k=np.float32(1.7))
    add("gelu", "tanh", of_image('y = Gelu<approximate="tanh">(x)'), "parses")
    add("rsqrt", "image", of_image("s = Sqrt(x) y = Reciprocal(s)"), positive=True)
    for name, slopes in {
        "channels": normal(4, 1, 1), "one": normal(1), "negative": -np.abs(normal(4, 1, 1)), "zero": np.zeros((4, 1, 1), np.float32)
    }.items():  # fmt: skip
        add(
            "prelu",
            f"{name}-between",
            of_image("c = Conv(x, w) y = PRelu(c, s)"),
            s=slopes,
            w=normal(4, 4, 1, 1),
        )
    add("prelu", "whole", of_image("y = PRelu(x, s)"), "slopes", s=normal(4, 7, 6))
    add("prelu", "row", of_image("y = PRelu(x, s)", 9), s=normal(9))
    for name, shape in {"image": (4, 7, 6), "row": (9,)}.items():
        add("l2_normalization", name, of_image("y = LpNormalization<axis=1>(x)", *shape))
    gate = "c = Conv(x, w) g = GlobalAveragePool(c) r = Conv(g, v) q = Relu(r) e = Conv(q, u) s = Sigmoid(e) y = Mul(c, s)"
    add("mean", "gate", of_image(gate), w=normal(4, 4, 1, 1), v=normal(2, 4, 1, 1), u=normal(4, 2, 1, 1))


def indices() -> None:
    for axis, keep in ((1, 0), (1, 1), (2, 0), (3, 1), (-1, 0)):
        body = f"(float[n,4,7,6] x) => (int64 y) {{ y = ArgMax<axis={axis}, keepdims={keep}>(x) }}"
        add("arg_max", f"{axis}-{keep}", body, "type")
    add("arg_max", "row", "(float[n,9] x) => (int64 y) { y = ArgMax<axis=1, keepdims=0>(x) }", "type")
    body = "(float[n,4,4,4] x) => (int64 y) { c = Conv(x, w) y = ArgMax<axis=2>(c) }"
    add("arg_max", "equal-sides", body, "type", w=normal(4, 4, 1, 1))


REFUSED: dict[str, tuple[str, Mapping[str, Any], list[str]]] = {
    "pool-dilations": (of_image("y = MaxPool<kernel_shape=[2,2], dilations=[2,2]>(x)"), {}, ["MaxPool:y", "dilations"]),
    "pool-volumes": (of_image("y = MaxPool<kernel_shape=[2,2,2]>(x)", 3, 4, 5, 3), {}, ["MaxPool:y", "rank 5"]),
    "pool-indices": ("(float[n,3,9,8] x) => (float y, int64 i) { y, i = MaxPool<kernel_shape=[2,2]>(x) }", {}, ["MaxPool:y", "further outputs"]),
    "conv-volumes": (of_image("y = Conv(x, w)", 3, 4, 5, 3), {"w": normal(2, 3, 2, 2, 2)}, ["Conv:y", "rank 5"]),
    "conv-computed-weights": ("(float[n,3,5,5] x, float[2,3,1,1] w) => (float y) { y = Conv(x, w) }", {}, ["Conv:y", "not a constant"]),
    "transposed-groups": (of_image("y = ConvTranspose<group=2>(x, w)"), {"w": normal(4, 2, 2, 2)}, ["ConvTranspose:y", "no groups"]),
    "transposed-dilations": (of_image("y = ConvTranspose<dilations=[2,2]>(x, w)"), {"w": normal(4, 2, 2, 2)}, ["ConvTranspose:y", "no dilations"]),
    "product-broadcast": (of_two("y = MatMul(x, z)", "n,3,4,6", "n,1,6,5"), {}, ["MatMul:y", "stacks of matrices differ"]),
    "product-constant-first": (of_image("y = MatMul(w, x)", 6, 5), {"w": normal(4, 6)}, ["MatMul:y"]),
    "max-of-three": ("(float[n,4] x, float[n,4] z, float[n,4] v) => (float y) { y = Max(x, z, v) }", {}, ["Max:y", "3 operands"]),
    "division": (of_two("y = Div(x, z)", "n,4"), {}, ["Div:y", "no kernel"]),
    "resize-cubic": (of_image('y = Resize<mode="cubic">(x, , f)'), {"f": np.float32([1, 1, 2, 2])}, ["Resize:y", "cubic"]),
    "resize-antialias": (of_image('y = Resize<mode="linear", antialias=1>(x, , f)', 3, 8, 6), {"f": np.float32([1, 1, 0.5, 0.5])}, ["Resize:y", "antialias"]),
    "resize-row": (of_image("y = Resize(x, , f)", 3, 7), {"f": np.float32([1, 1, 2])}, ["Resize:y", "rank 3"]),
    "resize-first-of-many": (of_image('y = Resize<mode="linear", coordinate_transformation_mode="pytorch_half_pixel">(x, , , s)'), {"s": np.array([1, 4, 1, 1])}, ["Resize:y", "pytorch_half_pixel"]),
    "pad-negative": (of_image("y = Pad(x, p)"), {"p": np.array((0, 0, -1, 2, 0, 0, 2, 1))}, ["Pad:y", "negative", "Slice"]),
    "gather-computed": ("(float[n,4,5] x, int64[3] i) => (float y) { r = Relu(x) y = Gather<axis=2>(r, i) }", {}, ["Gather:y", "computed"]),
    "arg-max-last": ("(float[n,9] x) => (int64 y) { y = ArgMax<axis=1, select_last_index=1>(x) }", {}, ["ArgMax:y: ", "last index"]),
    "arg-min": ("(float[n,9] x) => (int64 y) { y = ArgMin<axis=1>(x) }", {}, ["ArgMin:y", "no kernel"]),
    "slopes-computed": (of_two("y = PRelu(x, z)", "n,9"), {}, ["PRelu:y", "not a constant"]),
    "elu": (of_image("y = Elu(x)"), {}, ["Elu:y", "no ELU"]),
    "mish": (of_image("y = Mish(x)"), {}, ["Mish:y", "no kernel"]),
    "layer-norm": (of_image("y = LayerNormalization(x, s)", 5, 8), {"s": normal(8)}, ["LayerNormalization:y"]),
    "two-at-once": (of_image("m = Mish(x) c = Conv(m, w) y = Mish(c)"), {"w": normal(3, 4, 1, 1)}, ["Mish:m", "Mish:y", "2 of 3 regions"]),
    "softmax-long": (of_image("y = Softmax<axis=1>(x)", 4096), {}, ["Softmax:y", "32 bits"]),
}  # fmt: skip
ANY = "any"
"""In place of rules: whichever."""
for register in (
    convolutions, depthwise, transposed_convolutions, activations, products, arithmetic, pools, reductions, joins, softmaxes, resizes,
    movement, functions, indices,
):  # fmt: skip
    register()


# -- tests ----------------------------------------------------------------------------------------------------------


REWRITTEN = re.compile(r"linear|matmul|hard|Hard|Swish|leaky|.*(groups|Split|Slice-steps)")
"""What the accelerator's target writes in other operators."""


def has_form(case: Case, target: Target) -> bool:
    """Whether a function has an operator, or is written in others."""
    return (
        case.kernel in {kernel.name for kernel in target.kernel} or "decompose_activations" in target.prepare
    )


def legal(*, slow: bool) -> list[Any]:
    """Cases for the accelerator, and those that it reads in other operators for both targets; in slow runs all for both."""
    return [
        pytest.param(case, target, id=f"{target}-{name}")
        for target in TARGETS
        for name, case in CASES.items()
        if slow is (case.slow or (target == "tflite:integer" and not REWRITTEN.match(name)))
        and has_form(case, prepared(target)[0])
    ]


def check(case: Case, name: str) -> None:
    made = compiled(case.text, case.constants, name, positive=case.positive)
    made.check()
    made.check_numbers()
    if name == "edge-tpu" and case.host != {ANY}:
        assert made.on_host() == case.host, partition(made.model).summary
        assert partition(made.model).whole == (not case.host)
    if name == "tflite:integer":
        assert case.kernel in made.kernels


@pytest.mark.parametrize(("case", "name"), legal(slow=False))
def test_legal(case: Case, name: str) -> None:
    check(case, name)


@pytest.mark.slow
@pytest.mark.parametrize(("case", "name"), legal(slow=True))
def test_more_of_the_legal(case: Case, name: str) -> None:
    check(case, name)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [name for name in CASES if has_form(CASES[name], prepared("tflite:integer")[0])]
)
def test_16_bits(name: str) -> None:
    """The same where rows of 16 bits are preferred; kernels that have none stay in 8."""
    case = CASES[name]
    compiled(case.text, case.constants, "tflite:integer", ("a16w8", "a16"), case.positive).check()


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [name for name in CASES if name.startswith(("conv-", "linear", "matmul_constant"))]
)
def test_4_bit_weights(name: str) -> None:
    compiled(CASES[name].text, CASES[name].constants, "tflite:integer", ("a8w4",)).check()


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in CASES if has_form(CASES[name], prepared("tflite")[0])])
def test_floats(name: str) -> None:
    case = CASES[name]
    compiled(case.text, case.constants, "tflite", ("float",), case.positive).check_floats()


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("name", TARGETS)
def test_refused(case: str, name: str) -> None:
    """The text says which node it is, and why."""
    text, constants, words = REFUSED[case]
    with pytest.raises(TargetError) as error:
        compiled(text, constants, name)
    for word in words:
        assert word in str(error.value)


def test_every_operator_of_every_kernel_is_here() -> None:
    target = find_target("tflite")
    for kernel in target.kernel:
        if any(target.is_quantized(row) for row in kernel.row):
            named = set(re.findall(r"\b[A-Z]\w*", kernel.pattern))
            here = {
                op
                for case in CASES.values()
                if case.kernel == kernel.name
                for op in re.findall(r"\b[A-Z]\w*", case.text)
            }
            assert named <= here, kernel.name
