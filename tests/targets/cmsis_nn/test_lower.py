"""From a model to C: what is compiled gives the executor's bytes, whatever the model is called, and says what does not fit."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from quantized import samples_for
from small_graphs import graph_of, normal
from strategies import networks

import qcompiler as qc
from qcompiler.artifact import Artifact
from qcompiler.data import DataSource
from qcompiler.demo import CALIBRATION, EVALUATION, MODEL
from qcompiler.errors import TargetError
from qcompiler.integer.encode import encode
from qcompiler.integer.evaluate import Executor, quantize_inputs, run
from qcompiler.integer.program import Program
from qcompiler.ir.graph import Graph
from qcompiler.ir.onnx_import import import_model
from qcompiler.ir.plan import PLANNED
from qcompiler.lowering import Lowered, LowerJob
from qcompiler.targets import find_target
from qcompiler.targets.cmsis_nn import emulator, host
from qcompiler.targets.cmsis_nn.boards import BOARDS
from qcompiler.targets.cmsis_nn.fit import STACK
from qcompiler.targets.cmsis_nn.lower import lower, recorded
from qcompiler.targets.cmsis_nn.project import vectors_file
from qcompiler.targets.cmsis_nn.verify import emulate

with_compiler = pytest.mark.skipif(host.compiler() is None, reason="there is no C compiler")
with_emulator = pytest.mark.skipif(
    bool(emulator.missing_tools()), reason="the tools of the emulator are missing"
)


@dataclass(frozen=True)
class Project:
    """A C project and the program that it is of."""

    folder: Path
    program: Program
    lowered: Lowered
    samples: Mapping[str, NDArray[Any]]

    def text(self) -> str:
        return (self.folder / "model.c").read_text()


def project(
    folder: Path,
    model: Graph | Path,
    *,
    samples: Mapping[str, NDArray[Any]] | Path | None = None,
    prefer: tuple[str, ...] = (),
    device: str = "",
    max_ram: int | None = None,
    memory: int | None = None,
) -> Project:
    """Compiles a model and writes its project, without all that surrounds it; for a part with so much memory, if that is given."""
    target = find_target(f"cmsis-nn:{device}" if device else "cmsis-nn")
    if memory is not None:
        part = dataclasses.replace(
            target.device[target.chosen_device], core=target.chosen_device, memory=memory
        )
        target = dataclasses.replace(target, device={**target.device, "part": part}, chosen_device="part")
    if samples is None:
        assert isinstance(model, Graph)
        samples = samples_for(model, 8)
    options = {"assign_precision": {"prefer": prefer}} if prefer else {}
    result = qc.compile(model, target, samples, pass_options=options)
    folder.mkdir()
    data = DataSource.open(samples)
    artifact = Artifact(folder, folder)
    lowered = lower(LowerJob(result.graph, result.plan, target, artifact, data, max_ram))
    program = encode(result.graph.facts[PLANNED], result.plan, target)
    return Project(folder, program, lowered, next(iter(data.batches(16))))


def check(made: Project) -> None:
    """The C compiles without a warning and gives the executor's bytes."""
    built = host.build(made.folder, made.folder / "model.so")
    inputs = quantize_inputs(made.program, made.samples)
    compare(host.run_all(built, made.program, inputs), run(made.program, inputs))


def compare(made: Mapping[str, NDArray[Any]], right: Mapping[str, NDArray[Any]]) -> None:
    assert made.keys() == right.keys()
    for name, codes in right.items():
        np.testing.assert_array_equal(made[name], codes, name)


def sliced(made: Project) -> bool:
    return "slices[i]" in made.text()


# -- the bytes ------------------------------------------------------------------------------------------------------


@with_compiler
@pytest.mark.parametrize(
    ("prefer", "bits"),
    [((), {8}), (("a8w4",), {4, 8}), (("a16w8", "a16"), {8, 16})],
    ids=["a8w8", "a8w4", "a16w8"],
)
def test_the_demo(tmp_path: Path, prefer: tuple[str, ...], bits: set[int]) -> None:
    made = project(tmp_path / "demo", MODEL, samples=CALIBRATION, prefer=prefer)
    used = {
        tensor.bits
        for operation in made.program.operations
        for tensor in (operation.inputs[:2] + operation.outputs)
    }
    assert used == bits
    check(made)


@with_compiler
@pytest.mark.parametrize("prefer", [(), ("a8w4",), ("a16w8", "a16")], ids=["a8w8", "a8w4", "a16w8"])
def test_slices_of_rows(tmp_path: Path, prefer: tuple[str, ...]) -> None:
    """The same bytes in less memory, up to one row at a time."""
    text = """(float[n,2,24,20] x) => (float[n,4] y) {
        a = Conv<pads=[1,1,1,1]>(x, v) b = Relu(a) c = Conv<pads=[2,1,2,1], dilations=[2,1], strides=[1,2]>(b, w)
        d = Conv<group=6, pads=[1,0,1,2]>(c, u) e = GlobalAveragePool(d) y = Flatten(e) }"""
    constants = {
        "v": normal(6, 2, 3, 3),
        "w": normal(6, 6, 3, 3),
        "u": normal(6, 1, 3, 3),
    }
    graph = graph_of(text.replace("float[n,4] y", "float[n,6] y"), constants)
    whole = project(tmp_path / "whole", graph, prefer=prefer)
    tight = project(tmp_path / "tight", graph, prefer=prefer, max_ram=1)
    assert tight.lowered.details["arena"]["bytes"] <= whole.lowered.details["arena"]["bytes"]
    assert tight.lowered.details["arena"]["extra_calls"] > whole.lowered.details["arena"]["extra_calls"]
    assert sliced(tight)
    check(tight)
    check(whole)


def test_the_stack_is_left_beside_the_arena(tmp_path: Path) -> None:
    """A part whose memory holds either the arena or the stack gets finer slices, and then both fit."""
    text = """(float[n,2,24,20] x) => (float[n,6] y) {
        a = Conv<pads=[1,1,1,1]>(x, v) b = Relu(a) c = Conv<pads=[1,1,1,1]>(b, w) e = GlobalAveragePool(c) y = Flatten(e) }"""
    graph = graph_of(text, {"v": normal(6, 2, 3, 3), "w": normal(6, 6, 3, 3)})
    free = project(tmp_path / "free", graph).lowered.details["arena"]["bytes"]
    made = project(tmp_path / "part", graph, memory=free + STACK - 1)
    assert made.lowered.details["arena"]["bytes"] < free
    assert made.lowered.unmet == ()


SEVERAL = """(float[n,3,6,6] x, float[n,4,6,6] z) => (float[] p, float[] q, int64[] r) {
    a = Conv<pads=[1,1,1,1]>(x, w) b = Relu(a) c = Add(b, z) d = Mul(c, k) e = Concat<axis=1>(d, z, b)
    p = Softmax<axis=1>(e) f = Resize<mode="linear">(c, , scales) g = AveragePool<kernel_shape=[3,3], strides=[2,2]>(f)
    h = ConvTranspose<strides=[2,2]>(g, t) q = Transpose<perm=[0,2,3,1]>(h) r = ArgMax<axis=1, keepdims=0>(h) }"""


def several() -> Graph:
    constants = {"w": normal(4, 3, 3, 3), "k": normal(4, 1, 1), "t": normal(4, 3, 2, 2), "scales": np.array([1, 1, 2, 1.5], np.float32)}  # fmt: skip
    return graph_of(SEVERAL, constants)


@with_compiler
@pytest.mark.parametrize("device", BOARDS)
def test_inputs_and_outputs_of_every_core(tmp_path: Path, device: str) -> None:
    """The source differs between cores, and its results do not: the portable kernels run here whatever the core is."""
    made = project(tmp_path / "model", several(), device=device)
    assert f'MODEL_CORE "{device}"' in (made.folder / "model.h").read_text()
    check(made)


MOVES = """(float[n,2,3,4] x) => (float[] a, float[] b, float[] c, float[] d, float[] e, float[] f, float[] g) {
    s = Slice(x, starts, ends, axes, steps) a = Pad<mode="reflect">(s, pads) b = Pad(x, pads, number) c = Tile(x, repeats)
    d = Gather<axis=3>(x, at) e = Transpose<perm=[0,3,1,2]>(x) h = Reshape(x, shape) f = MatMul(h, h)
    i = Sub(x, column) j = Max(i, x) g = Tanh(j) }"""


@with_compiler
@pytest.mark.parametrize("prefer", [(), ("a16",)], ids=["a8", "a16"])
def test_movement_and_broadcasts(tmp_path: Path, prefer: tuple[str, ...]) -> None:
    constants = {
        "starts": np.array([-1, 0]), "ends": np.array([-100, 2]), "axes": np.array([2, 3]), "steps": np.array([-1, 1]),
        "pads": np.array([0, 1, 1, 1, 0, 0, 2, 0]), "number": np.float32(0.3), "repeats": np.array([1, 2, 1, 2]),
        "at": np.array([[3, 0], [-1, 1]]), "shape": np.array([0, 2, 3, -1])[[0, 1, 2, 3]], "column": normal(3, 1),
    }  # fmt: skip
    text = MOVES.replace("MatMul(h, h)", "MatMul(h, u)").replace(
        "i = Sub", "u = Transpose<perm=[0,1,3,2]>(x) i = Sub"
    )
    check(project(tmp_path / "model", graph_of(text, constants), prefer=prefer))


@with_compiler
def test_a_fixed_batch_and_a_plain_input_as_output(tmp_path: Path) -> None:
    graph = graph_of("(float[3,2,5,5] x) => (float[] y, float[] z) { y = Conv(x, w) z = Flatten(x) }", {"w": normal(4, 2, 3, 3)})  # fmt: skip
    check(project(tmp_path / "model", graph, samples={"x": normal(6, 2, 5, 5)}))


def random_network(
    folder: Path, graph: Graph, seed: int, prefer: tuple[str, ...], max_ram: int | None
) -> None:
    samples = samples_for(graph, 4, seed)
    try:
        made = project(folder / "model", graph, samples=samples, prefer=prefer, max_ram=max_ram)
    except TargetError as error:
        assert "in integers only" in str(error) or "read as float only" in str(error)  # noqa: PT017
        assume(False)
    check(made)
    shutil.rmtree(folder)


ROWS = st.sampled_from([(), ("a8w4",), ("a16w8", "a16")])
LIMITS = st.sampled_from([None, 1, 700])
SEEDS = st.integers(0, 1000)


@with_compiler
def test_random_networks(tmp_path_factory: pytest.TempPathFactory) -> None:
    @settings(max_examples=6, deadline=None, derandomize=True)
    @given(networks(max_steps=8), SEEDS, ROWS, LIMITS)
    def test(graph: Graph, seed: int, prefer: tuple[str, ...], max_ram: int | None) -> None:
        random_network(tmp_path_factory.mktemp("random"), graph, seed, prefer, max_ram)

    test()


@pytest.mark.slow
@with_compiler
def test_many_random_networks(tmp_path_factory: pytest.TempPathFactory) -> None:
    @settings(max_examples=200, deadline=None)
    @given(networks(), SEEDS, ROWS, LIMITS)
    def test(graph: Graph, seed: int, prefer: tuple[str, ...], max_ram: int | None) -> None:
        random_network(tmp_path_factory.mktemp("random"), graph, seed, prefer, max_ram)

    test()


IMAGES = {
    "one by one, padded behind": ("pads=[0,0,1,1]", (1, 3, 6, 6), (4, 3, 1, 1)),
    "one by one, padded": ("pads=[1,0,1,0]", (1, 3, 6, 6), (4, 3, 1, 1)),
    "depthwise of a stack": ("group=3", (2, 3, 6, 6), (3, 1, 3, 3)),
    "depthwise, padded wide": ("group=3, pads=[2,1,2,2]", (1, 3, 6, 6), (3, 1, 3, 3)),
}


@pytest.mark.slow
@with_compiler
@pytest.mark.parametrize("prefer", [(), ("a8w4",), ("a16w8", "a16")], ids=["a8w8", "a8w4", "a16w8"])
@pytest.mark.parametrize("case", IMAGES)
def test_guards_against_the_library(tmp_path: Path, case: str, prefer: tuple[str, ...]) -> None:
    """Convolutions for which the library's own choice of a kernel is wrong, in slices of rows, too."""
    library = os.environ.get("CMSIS_NN_PATH")
    if not library:
        pytest.skip("CMSIS_NN_PATH does not say where CMSIS-NN is")
    attributes, image, filters = IMAGES[case]
    text = f"(float[{','.join(map(str, image))}] x) => (float[] y) {{ y = Conv<{attributes}>(x, w) }}"
    samples = {"x": normal(6 * image[0], *image[1:])}
    made = project(
        tmp_path / "model", graph_of(text, {"w": normal(*filters)}), samples=samples, prefer=prefer, max_ram=1
    )
    check(made)
    built = host.build(made.folder, tmp_path / "library.so", Path(library))
    inputs = quantize_inputs(made.program, made.samples)
    compare(host.run_all(built, made.program, inputs), run(made.program, inputs))


# -- names ----------------------------------------------------------------------------------------------------------

NAMES = [
    "*/ int x; /*", 'a "quoted" name', "two\nlines \\", "??/ ??= ??'", "int", "model_run", "input", "0", " ", "ünïcødé 模型", "x" * 200,
    "$title ${core}", "%s%n", "a: (scratch)", "arena", "//", "#define MODEL_H",
]  # fmt: skip


@with_compiler
def test_names_stay_names(tmp_path: Path) -> None:
    """Everything that can be named is called something else in turn; comments, identifiers and strings hold it."""
    graph = several()
    graph.name = NAMES[0]
    chosen = iter(NAMES * 4)
    for value in graph.values:
        graph.rename(value, f"{next(chosen)} {value.name}")
    for node in list(graph.topological()):
        node.name = f"{next(chosen)} {node.name}"
    check(project(tmp_path / "model", graph))


@with_compiler
@pytest.mark.parametrize("name", NAMES)
def test_a_graph_may_have_any_name(tmp_path: Path, name: str) -> None:
    model = onnx.parser.parse_model('<ir_version: 10, opset_import: ["" : 21]> g (float[n,4] x) => (float[n,4] y) { y = Relu(x) }')  # fmt: skip
    model.graph.name = name
    node = model.graph.node[0]
    node.name = node.input[0] = model.graph.input[0].name = name
    node.output[0] = model.graph.output[0].name = f"{name}!"
    check(project(tmp_path / "model", import_model(model)))


# -- what is said ---------------------------------------------------------------------------------------------------


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_two_compilations_write_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        project(tmp_path / name, MODEL, samples=CALIBRATION)
    assert files(tmp_path / "one") == files(tmp_path / "two")


@pytest.fixture
def nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "compiler", lambda: None)
    monkeypatch.setattr(emulator, "missing_tools", lambda: ["arm-none-eabi-gcc"])
    monkeypatch.delenv("CMSIS_NN_PATH", raising=False)


@pytest.mark.usefixtures("nothing_installed")
def test_too_little_memory_is_told_with_the_peak(tmp_path: Path) -> None:
    result = qc.compile(MODEL, "cmsis-nn", CALIBRATION, output=tmp_path / "demo", max_ram=100)
    assert not result.within_budget
    (unmet,) = result.report["budget"]["unmet"]
    assert "--max-ram allows 100 bytes" in unmet
    assert re.search(r"the arena takes [\d,]+ .*no placement takes fewer than [\d,]+", unmet)
    assert re.search(r"Most is alive during \S+: \S+ [\d,]+", unmet)


def test_the_engineer_is_told_how_much_stack_is_counted(tmp_path: Path) -> None:
    text = (project(tmp_path / "demo", MODEL, samples=CALIBRATION).folder / "README.md").read_text()
    assert STACK == 2048
    assert "4 KB of stack with the portable kernels, 2 KB with CMSIS-NN's" in text
    assert "2,048 bytes of stack, which CMSIS-NN's kernels need (4,096 with the portable ones)" in text


@pytest.mark.usefixtures("nothing_installed")
def test_without_tools_nothing_is_verified(tmp_path: Path) -> None:
    result = qc.compile(MODEL, "cmsis-nn", CALIBRATION, output=tmp_path / "demo")
    assert result.verification is not None
    assert not result.verification.ran
    assert "no C compiler" in result.verification.summary
    assert "no core was emulated" in result.verification.summary
    assert "CMSIS_NN_PATH is not set" in result.verification.summary


@with_compiler
def test_a_wrong_path_of_the_library_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CMSIS_NN_PATH", str(tmp_path))
    monkeypatch.setattr(emulator, "missing_tools", lambda: ["arm-none-eabi-gcc"])
    result = qc.compile(MODEL, "cmsis-nn", CALIBRATION, output=tmp_path / "demo")
    assert result.verification is not None
    assert not result.verification.passed
    assert (
        f"CMSIS_NN_PATH is {tmp_path}, where there is no Include/arm_nnfunctions.h"
        in result.verification.summary
    )


@with_compiler
def test_verification_finds_a_wrong_constant(tmp_path: Path) -> None:
    made = project(tmp_path / "demo", MODEL, samples=CALIBRATION)
    data = made.folder / "model_data.c"
    text = data.read_text()
    array = re.search(r"const int32_t \w*bias\w*\[\d+\] MODEL_FLASH = \{\n  ", text)
    assert array is not None
    data.write_text(f"{text[: array.end()]}100000 + {text[array.end() :]}")
    with pytest.raises((AssertionError, TargetError)):
        check(made)


# -- other builds ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
@with_compiler
@pytest.mark.skipif(shutil.which("cmake") is None, reason="cmake is not installed")
def test_the_project_builds_with_cmake(tmp_path: Path) -> None:
    folder = project(tmp_path / "demo", MODEL, samples=CALIBRATION).folder
    for command in ("cmake -B build", "cmake --build build", "ctest --test-dir build --no-tests=error"):
        done = subprocess.run(command.split(), cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "warning" not in done.stderr


@pytest.mark.slow
@with_emulator
def test_the_script_runs_the_emulator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CMSIS_NN_PATH", raising=False)
    folder = project(tmp_path / "demo", MODEL, samples=CALIBRATION).folder
    done = subprocess.run([folder / "qemu" / "run.sh"], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "differences 0\n" in done.stdout + done.stderr


@pytest.mark.slow
@with_emulator
@pytest.mark.parametrize("core", ["cortex-m3", "cortex-m4", "cortex-m55"])
@pytest.mark.parametrize("max_ram", [None, 1], ids=["whole", "in slices"])
def test_emulated_cores(tmp_path: Path, core: str, max_ram: int | None) -> None:
    made = project(tmp_path / "demo", MODEL, samples=EVALUATION, device=core, max_ram=max_ram)
    vectors = recorded(Executor(made.program), DataSource.open(EVALUATION), 4)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    result = emulate(made.folder, BOARDS[core], vectors_file(vectors), scratch)
    assert (result["vectors"], result["differences"]) == (4, 0)
