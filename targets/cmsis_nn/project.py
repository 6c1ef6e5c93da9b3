"""The files around model.c: kernels, build file, tests, an example for the emulator, and a page for the firmware engineer."""

from __future__ import annotations

import re
import shutil
from functools import cache
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

import numpy as np

from qcompiler.targets.cmsis_nn.boards import BOARDS
from qcompiler.targets.cmsis_nn.c_text import c_type, numbers

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from qcompiler.artifact import Artifact
    from qcompiler.targets.cmsis_nn.source import Port, Source

_HERE = Path(__file__).parent
KERNELS = _HERE / "kernels"
TEMPLATES = _HERE / "project"
_SUPPORT = ("startup.c", "semihosting.c", "semihosting.h", "counter.c", "counter.h")

PORTABLE, OWN = "kernels/portable", "kernels"
"""Where kernels go: those that the library replaces, and those of this compiler."""

Vectors = list[tuple[tuple["NDArray[np.generic]", ...], tuple["NDArray[np.generic]", ...]]]
"""Codes of all inputs, and of all outputs, as stored."""


@cache
def _needs(name: str) -> frozenset[str]:
    """The kernel files that a kernel file includes or calls, itself included."""
    found, waiting = {name}, [name]
    available = {path.name for path in KERNELS.iterdir()}
    while waiting:
        file = waiting.pop()
        text = (KERNELS / file).read_text(encoding="utf-8")
        mentioned = set(re.findall(r'#include "([^"]+)"', text))
        if file.endswith(".c"):
            mentioned |= {f"{called}.c" for called in re.findall(r"\b((?:arm|qc)_\w+)\s*\(", text)}
        fresh = (mentioned & available) - found
        found |= fresh
        waiting += sorted(fresh)
    return frozenset(found)


def kernel_files(functions: Iterable[str]) -> tuple[list[str], list[str]]:
    """The kernel files that functions need: those that stand for the library, and those of this compiler."""
    needed: set[str] = {"arm_nnfunctions.h", "arm_nn_types.h"}
    for function in functions:
        needed |= _needs(f"{function}.c")
    own = {name for name in needed if name.startswith("qc_")}
    return sorted(needed - own), sorted(own)


def write_project(
    artifact: Artifact, source: Source, core: str, vectors: Vectors, facts: Mapping[str, str]
) -> None:
    """Writes a whole C project.

    Args:
        artifact: Where to.
        source: The model's own files.
        core: The core that it is for.
        vectors: Inputs and outputs to test with.
        facts: What the page for the engineer tells.
    """
    for name, text in source.files.items():
        artifact.write_text(name, text)
    portable, own = kernel_files(source.functions)
    for folder, names in ((PORTABLE, portable), (OWN, own)):
        for name in names:
            shutil.copyfile(KERNELS / name, artifact.path(f"{folder}/{name}"))
    artifact.write_text("test/vectors.h", _vectors_header(source, vectors))
    artifact.path("qemu/vectors.bin").write_bytes(vectors_file(vectors))
    board = BOARDS[core]
    for name in (*_SUPPORT, board.linker_script):
        shutil.copyfile(_HERE / "qemu" / name, artifact.path(f"qemu/{name}"))
    values = {
        **facts,
        "core": core,
        "machine": board.machine,
        "flags": " ".join(board.flags),
        "definitions": " ".join(f"-D{item}" for item in board.definitions),
        "linker_script": board.linker_script,
        "own": " ".join(f"{OWN}/{name}" for name in own if name.endswith(".c")),
        "portable": " ".join(f"{PORTABLE}/{name}" for name in portable if name.endswith(".c")),
        **_test_text(source),
    }
    for template, name in (
        ("CMakeLists.txt", "CMakeLists.txt"), ("README.md", "README.md"), ("test_model.c", "test/test_model.c"),
        ("emulated.c", "qemu/main.c"), ("run.sh", "qemu/run.sh"),
    ):  # fmt: skip
        text = Template((TEMPLATES / template).read_text(encoding="utf-8")).substitute(values)
        artifact.write_text(name, text)
    artifact.path("qemu/run.sh").chmod(0o755)


def vectors_file(vectors: Vectors) -> bytes:
    """Test vectors as the emulated program reads them: their number (32 bits), then of each the inputs and the outputs."""
    parts = [np.uint32(len(vectors)).tobytes()]
    parts += [np.ascontiguousarray(array).tobytes() for given, made in vectors for array in (*given, *made)]
    return b"".join(parts)


def _vectors_header(source: Source, vectors: Vectors) -> str:
    """Recorded inputs and outputs as arrays."""
    lines = [
        "/* Recorded inputs and outputs: what the compiler's own executor computes. */",
        '#include "model.h"',
        "",
        f"#define MODEL_VECTORS {len(vectors)}",
    ]
    for side, ports in ((0, source.inputs), (1, source.outputs)):
        for place, port in enumerate(ports):
            data = np.concatenate([np.asarray(vector[side][place]).reshape(-1) for vector in vectors])
            lines.append(
                f"\nstatic const {c_type(data.dtype)} vectors_{port.name}[MODEL_VECTORS * {port.macro}_ELEMENTS] = {{\n  {numbers(data)}}};"
            )
    return "\n".join(lines) + "\n"


def _test_text(source: Source) -> dict[str, str]:
    """What the test programs say about inputs and outputs."""
    ports = (*source.inputs, *source.outputs)

    def each(text: str, chosen: Iterable[Port]) -> str:
        return "\n".join(text.format(name=port.name, macro=port.macro, type=port.type) for port in chosen)

    arguments = [f"&vectors_{port.name}[vector * {port.macro}_ELEMENTS]" for port in source.inputs]
    arguments += [port.name for port in source.outputs]
    return {
        "made": each("static {type} {name}[{macro}_ELEMENTS];", source.outputs),
        "vector_arguments": ", ".join(arguments),
        "comparisons": each(
            "    for (int32_t i = 0; i < {macro}_ELEMENTS; ++i) {{\n"
            "      differences += {name}[i] != vectors_{name}[vector * {macro}_ELEMENTS + i];\n    }}",
            source.outputs,
        ),
        "buffers": each(
            "static {type} {name}[{macro}_ELEMENTS];", ports
        ) + "\n" + each("static {type} expected_{name}[{macro}_ELEMENTS];", source.outputs),
        "reads": each("    missing += semihosting_read(file, {name}, sizeof({name}));", source.inputs)
        + "\n"
        + each("    missing += semihosting_read(file, expected_{name}, sizeof(expected_{name}));", source.outputs),
        "buffer_arguments": ", ".join(port.name for port in ports),
        "emulated_comparisons": each(
            "    for (uint32_t i = 0; i < sizeof({name}) / sizeof({name}[0]); ++i) {{\n"
            "      differences += {name}[i] != expected_{name}[i] ? 1U : 0U;\n    }}",
            source.outputs,
        ),
    }  # fmt: skip
