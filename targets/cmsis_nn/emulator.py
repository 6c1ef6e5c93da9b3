"""Compiles projects for emulated boards, and runs them in QEMU."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from qcompiler.errors import TargetError

if TYPE_CHECKING:
    from qcompiler.targets.cmsis_nn.boards import Board

SUPPORT = Path(__file__).parent / "qemu"
"""Start-up code, semihosting, instruction counter and linker scripts."""

_GCC, _SIZE, _QEMU = "arm-none-eabi-gcc", "arm-none-eabi-size", "qemu-system-arm"


@dataclass(frozen=True)
class Toolchain:
    """What is installed.

    Attributes:
        compiler: First line of the compiler's version.
        emulator: First line of the emulator's version.
    """

    compiler: str
    emulator: str

    def __str__(self) -> str:
        return f"{self.compiler}; {self.emulator}"


@cache
def toolchain() -> Toolchain | None:
    """The cross compiler and the emulator, or None where one of them is missing."""
    if missing_tools():
        return None
    return Toolchain(*(_first_line([tool, "--version"]) for tool in (_GCC, _QEMU)))


def missing_tools() -> list[str]:
    """The tools that emulation needs and that are not installed."""
    return [tool for tool in (_GCC, _SIZE, _QEMU) if shutil.which(tool) is None]


def _first_line(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0]


@dataclass(frozen=True)
class Sizes:
    """Bytes of a program.

    Attributes:
        text: Code and constants.
        data: Initialized data.
        bss: Zeroed data: the arena, mostly.
    """

    text: int
    data: int
    bss: int


@dataclass(frozen=True)
class Run:
    """What a program did.

    Attributes:
        exit_code: What its main returned; 99 after a fault.
        output: What it wrote.
    """

    exit_code: int
    output: str

    def number(self, label: str) -> int | None:
        """The number in the line `label NUMBER` of the output."""
        for line in self.output.splitlines():
            name, _, rest = line.partition(" ")
            if name == label and rest.strip().isdigit():
                return int(rest)
        return None


def build(
    board: Board,
    sources: Sequence[Path],
    include: Sequence[Path],
    output: Path,
    *,
    optimise: str = "-O3",
    definitions: Sequence[str] = (),
) -> Path:
    """Compiles and links a program with the board's start-up code.

    Args:
        board: The board.
        sources: C files.
        include: Folders of headers.
        output: The program to write.
        optimise: The compiler's level of optimization.
        definitions: Macros, NAME or NAME=VALUE.

    Raises:
        TargetError: The compiler refuses; with its first lines.
    """
    support = [SUPPORT / name for name in ("startup.c", "semihosting.c", "counter.c")]
    command = [
        _GCC, *board.flags, optimise, "-std=c99", "-ffunction-sections", "-fdata-sections", "-Wall", "-Wextra",
        *(f"-D{item}" for item in (*board.definitions, *definitions)),
        *(f"-I{folder}" for folder in (*include, SUPPORT)),
        *map(str, [*sources, *support]),
        "-nostartfiles", "--specs=nosys.specs", "-Wl,--gc-sections", f"-T{SUPPORT / board.linker_script}", "-o", str(output),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise TargetError(f"{_GCC} does not compile the project for {board.core}:\n{_head(done.stderr)}")
    return output


def sizes(program: Path) -> Sizes:
    """The bytes of a program's sections."""
    listed = subprocess.run([_SIZE, str(program)], capture_output=True, text=True, check=True).stdout
    text, data, bss = (int(item) for item in listed.splitlines()[1].split()[:3])
    return Sizes(text, data, bss)


def run(board: Board, program: Path, *, folder: Path | None = None, timeout_seconds: float = 600) -> Run:
    """Runs a program to its end. Every instruction takes a nanosecond of its time, so that the timer counts instructions.

    Args:
        board: The board.
        program: What `build` wrote.
        folder: Where it finds the files that it opens.
        timeout_seconds: How long it may take.

    Raises:
        TargetError: It does not end in time.
    """
    command = [
        _QEMU, "-M", board.machine, "-display", "none", "-serial", "null", "-monitor", "none", "-icount", "shift=0",
        "-semihosting-config", "enable=on,target=native", "-kernel", str(program.resolve()),
    ]  # fmt: skip
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=folder, timeout=timeout_seconds, check=False,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise TargetError(
            f"The emulated {board.core} ({board.machine}) has not ended after {timeout_seconds:g} seconds."
        ) from error
    return Run(done.returncode, done.stderr + done.stdout)


def _head(text: str, lines: int = 12) -> str:
    return "\n".join(text.splitlines()[:lines])
