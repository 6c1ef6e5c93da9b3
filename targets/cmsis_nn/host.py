"""The generated C on this machine: compiled as a shared library, and called sample by sample."""

from __future__ import annotations

import atexit
import ctypes
import functools
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qcompiler.errors import TargetError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from qcompiler.integer.program import Program

STRICT = ("-std=c99", "-Wall", "-Wextra", "-Wconversion", "-Werror")
"""What generated code and portable kernels compile with."""

_MACHINE = {"x86_64": ("-march=native", "-mno-avx512f")}
"""By kind of machine, what makes the kernels faster on it: a quarter here, where vectors of 512 bits make them slower."""


def compiler() -> str | None:
    """The C compiler: $CC, cc, gcc or clang; None where there is none."""
    for name in (os.environ.get("CC", ""), "cc", "gcc", "clang"):
        found = shutil.which(name) if name else None
        if found is not None:
            return found
    return None


def version(command: str) -> str:
    """The first line of what a compiler says of itself."""
    return subprocess.run(
        [command, "--version"], capture_output=True, text=True, check=True
    ).stdout.splitlines()[0]


def library_sources(library: Path) -> list[Path]:
    """The integer sources of a checkout of CMSIS-NN.

    Raises:
        TargetError: It is none.
    """
    if not (library / "Include" / "arm_nnfunctions.h").is_file():
        raise TargetError(
            f"CMSIS_NN_PATH is {library}, where there is no Include/arm_nnfunctions.h; give a checkout of CMSIS-NN."
        )
    return sorted(
        path
        for path in (library / "Source").rglob("*.c")
        if not path.stem.endswith(("_f16", "_f32", "_flt")) and "Bindings" not in path.parts
    )


@functools.cache
def library_archive(command: tuple[str, ...], archiver: str, library: Path) -> Path:
    """CMSIS-NN compiled once per process and kind of core.

    Args:
        command: The compiler with its flags.
        archiver: The `ar` that goes with it.
        library: The checkout.

    Raises:
        TargetError: The compiler refuses.
    """
    folder = Path(tempfile.mkdtemp(prefix="qcompiler-library-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    sources = [str(path.resolve()) for path in library_sources(library)]
    include = f"-I{(library / 'Include').resolve()}"
    done = subprocess.run(
        [*command, "-c", include, *sources], capture_output=True, text=True, cwd=folder, check=False
    )
    if done.returncode:
        first = "\n".join(done.stderr.splitlines()[:12])
        raise TargetError(f"{command[0]} does not compile CMSIS-NN at {library}:\n{first}")
    archive = folder / "libcmsis-nn.a"
    objects = sorted(map(str, folder.glob("*.o")))
    subprocess.run([archiver, "rcs", str(archive), *objects], capture_output=True, check=True)
    return archive


def project_sources(folder: Path, library: Path | None) -> tuple[list[Path], list[Path]]:
    """The C files of a project, and the folders of headers; kernels of the library come as an archive."""
    portable = folder / "kernels" / "portable"
    sources = [folder / "model.c", folder / "model_data.c", *sorted((folder / "kernels").glob("*.c"))]
    if library is None:
        return [*sources, *sorted(portable.glob("*.c"))], [folder, folder / "kernels", portable]
    return sources, [folder, folder / "kernels", library / "Include"]


def build(folder: Path, output: Path, library: Path | None = None) -> Path:
    """Compiles a project as a shared library.

    Args:
        folder: The project.
        output: The library to write.
        library: A checkout of CMSIS-NN; None for the portable kernels.

    Raises:
        TargetError: There is no compiler, or it refuses.
    """
    command = compiler()
    if command is None:
        raise TargetError("There is no C compiler (cc, gcc, clang, or $CC).")
    sources, include = project_sources(folder, library)
    flags = ("-fPIC", "-O3", "-std=c99", *_MACHINE.get(platform.machine(), ()))
    linked: list[Path] = []
    if library is not None:
        linked = [library_archive((command, *flags), "ar", library)]
    arguments = [command, "-shared", *flags, *STRICT, *(f"-I{path}" for path in include)]
    done = subprocess.run(
        [*arguments, *map(str, [*sources, *linked]), "-o", str(output)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        first = "\n".join(done.stderr.splitlines()[:12])
        raise TargetError(f"{command} does not compile the generated project:\n{first}")
    return output


def run_all(library: Path, program: Program, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Runs samples through a compiled project.

    Args:
        library: What `build` wrote.
        program: The program that it is of.
        inputs: Codes by tensor name, [samples, *shape].

    Returns:
        Codes of the outputs by tensor name.

    Raises:
        TargetError: A step refuses its arguments.
    """
    function = ctypes.CDLL(str(library)).model_run
    given = [np.ascontiguousarray(inputs[tensor.name]) for tensor in program.inputs]
    count = len(given[0]) if given else 1
    made = [np.zeros((count, *tensor.shape), tensor.dtype) for tensor in program.outputs]
    arrays = [*given, *made]
    steps = [array.strides[0] if count else 0 for array in arrays]
    bases = [array.ctypes.data for array in arrays]
    function.argtypes = [ctypes.c_void_p] * len(arrays)
    for sample in range(count):
        status = function(*(base + sample * step for base, step in zip(bases, steps, strict=True)))
        if status:
            raise TargetError(f"Step {status} of the generated project refuses its arguments.")
    return {tensor.name: array for tensor, array in zip(program.outputs, made, strict=True)}
