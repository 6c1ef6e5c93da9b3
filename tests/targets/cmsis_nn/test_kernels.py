"""The portable kernels against the compiler's executor, and against CMSIS-NN where CMSIS_NN_PATH says where it is."""

from __future__ import annotations

import ast
import ctypes
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompiler.integer.evaluate import evaluate
from qcompiler.integer.program import Tensor
from qcompiler.targets import cmsis_nn
from qcompiler.targets.cmsis_nn.host import compiler, library_sources
from qcompiler.targets.cmsis_nn.project import kernel_files

sys.path.insert(0, str(Path(__file__).parent))
from kernel_calls import LIBRARY, OWN, Call, Family, addition
from kernel_library import STRICT, Y, build, called

KERNELS = Path(cmsis_nn.__file__).parent / "kernels"
SEEDS = st.integers(0, 2**32 - 1)
FAMILIES = {**LIBRARY, **OWN}
MANY = 2000


@pytest.fixture(scope="session")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """Our kernels, compiled without a warning."""
    command = compiler()
    if command is None:
        pytest.skip("there is no C compiler")
    output = tmp_path_factory.mktemp("kernels") / "kernels.so"
    return build(command, sorted(KERNELS.glob("*.c")), [KERNELS], output, *STRICT)


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """CMSIS-NN. Some of its sums overflow, for which the standard promises nothing, and -fwrapv what it means."""
    path, command = os.environ.get("CMSIS_NN_PATH"), compiler()
    if not path:
        pytest.skip("CMSIS_NN_PATH does not say where CMSIS-NN is")
    if command is None:
        pytest.skip("there is no C compiler")
    output = tmp_path_factory.mktemp("library") / "library.so"
    return build(command, library_sources(Path(path)), [Path(path) / "Include"], output, "-fwrapv", "-w")


def expected(call: Call) -> np.ndarray[Any, Any]:
    return evaluate(call.work, call.arrays, Tensor("y", call.shape, None, call.dtype))[0]


def check(kernels: ctypes.CDLL, family: Family, seed: int) -> None:
    call = family(np.random.default_rng(seed))
    right = expected(call)
    for name, arguments in call.functions:
        made = called(kernels, name, arguments, call.shape, call.dtype)
        np.testing.assert_array_equal(made, right, f"{name}: {call.work}")


def compare(kernels: ctypes.CDLL, library: ctypes.CDLL, family: Family, seed: int) -> None:
    call = family(np.random.default_rng(seed))
    if not call.sound:
        return
    for name, arguments in call.functions:
        ours = called(kernels, name, arguments, call.shape, call.dtype)
        theirs = called(library, name, arguments, call.shape, call.dtype, scratch=True)
        np.testing.assert_array_equal(ours, theirs, f"{name}: {call.work}")


@pytest.mark.parametrize("name", FAMILIES)
def test_kernels_compute_what_the_executor_does(kernels: ctypes.CDLL, name: str) -> None:
    @settings(max_examples=60, deadline=None)
    @given(SEEDS)
    def test(seed: int) -> None:
        check(kernels, FAMILIES[name], seed)

    test()


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_kernels_compute_what_the_executor_does_in_many_calls(kernels: ctypes.CDLL, name: str) -> None:
    for seed in range(MANY):
        check(kernels, FAMILIES[name], seed)


@pytest.mark.slow
@pytest.mark.parametrize("name", LIBRARY)
def test_kernels_compute_what_the_library_does(kernels: ctypes.CDLL, library: ctypes.CDLL, name: str) -> None:
    for seed in range(MANY):
        compare(kernels, library, LIBRARY[name], seed)


@pytest.mark.parametrize("dtype", [np.dtype(np.int8), np.dtype(np.int16)], ids=str)
def test_elementwise_kernels_may_write_over_an_input(kernels: ctypes.CDLL, dtype: np.dtype[Any]) -> None:
    call = addition(np.random.default_rng(0), dtype)
    ((name, arguments),) = call.functions
    for operand in range(2):
        written = arguments[operand].copy()
        changed = [written if argument is Y else argument for argument in arguments]
        changed[operand] = written
        called(kernels, name, changed, (), dtype)
        np.testing.assert_array_equal(written[0], expected(call))


def test_every_function_of_the_headers_has_a_file_of_its_name() -> None:
    """By which a project finds the files that it needs."""
    declared = set()
    for header in ("arm_nnfunctions.h", "qc_kernels.h"):
        declared |= set(re.findall(r"^\w+ ((?:arm|qc)_\w+)\(", (KERNELS / header).read_text(), re.MULTILINE))
    functions = {name for name in declared if "get_buffer_size" not in name}
    assert functions == {path.stem for path in KERNELS.glob("*.c")}


def test_every_kernel_is_one_that_is_called() -> None:
    """By its name, as the writers of operations put it together, or by a kernel that is."""
    called_names = re.compile("|".join(written_names()))
    functions = [path.stem for path in KERNELS.glob("*.c") if called_names.fullmatch(path.stem)]
    assert {name for files in kernel_files(functions) for name in files} == {
        path.name for path in KERNELS.iterdir()
    }


def written_names() -> list[str]:
    """The function names in the writers' text, as regular expressions; what is put into them may be anything."""
    names = []
    for file in ("scratch.py", "steps.py", "own_steps.py"):
        for node in ast.walk(ast.parse((KERNELS.parent / file).read_text())):
            parts = node.values if isinstance(node, ast.JoinedStr) else [node]
            text = "".join(
                re.escape(str(part.value)) if isinstance(part, ast.Constant) else r"\w+" for part in parts
            )
            names += [text] if text.startswith(("arm_", "qc_")) else []
    fully_connected = [name for name in names if "fully_connected" in name]
    return names + [name.replace("arm_", "qc_") for name in fully_connected]  # see `_fully_connected`


@pytest.mark.skipif(compiler() is None, reason="there is no C compiler")
def test_headers_stand_alone(tmp_path: Path) -> None:
    for header in KERNELS.glob("*.h"):
        file = tmp_path / "alone.c"
        file.write_text(f'#include "{header.name}"\nextern int unused;\n')
        checked(file, KERNELS, *STRICT)


def test_declarations_are_those_of_the_library(tmp_path: Path) -> None:
    """A compiler refuses declarations of one function that differ; our own kernels build with either headers."""
    path = os.environ.get("CMSIS_NN_PATH")
    if not path or compiler() is None:
        pytest.skip("CMSIS_NN_PATH does not say where CMSIS-NN is, or there is no C compiler")
    for file in KERNELS.glob("qc_*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    ours = (KERNELS / "arm_nnfunctions.h").read_text().replace("ARM_NNFUNCTIONS_H", "DECLARED_AGAIN")
    (tmp_path / "both.c").write_text(f'#include "arm_nnfunctions.h"\n{ours}')
    for file in tmp_path.glob("*.c"):
        checked(file, Path(path) / "Include", "-std=c99", "-Werror")


def checked(file: Path, include: Path, *flags: str) -> None:
    """Lets the compiler read a file."""
    command = compiler()
    assert command is not None
    subprocess.run([command, *flags, "-fsyntax-only", f"-I{include}", str(file)], check=True)
