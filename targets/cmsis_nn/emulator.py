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
from qcompiler.targets.cmsis_nn.host import library_archive

if TYPE_CHECKING:
    from qcompiler.targets.cmsis_nn.boards import Board

SUPPORT = Path(__file__).parent / "qemu"
"""Start-up code, semihosting, instruction counter and linker scripts."""

_GCC, _AR, _SIZE = "arm-none-eabi-gcc", "arm-none-eabi-ar", "arm-none-eabi-size"
_QEMU = "qemu-system-arm"
_PACKAGES = "gcc-arm-none-eabi, libnewlib-arm-none-eabi and qemu-system-arm"


@dataclass(frozen=True)
class Toolchain:
    """What is installed.

    Attributes:
        compiler: First line of the compiler's version.
        emulator: First line of the emulator's version.
        compiler_path: Where the compiler is.
        emulator_path: Where the emulator is.
    """

    compiler: str
    emulator: str
    compiler_path: Path
    emulator_path: Path

    def __str__(self) -> str:
        return f"{self.compiler}; {self.emulator}"


@cache
def toolchain() -> Toolchain | None:
    """The cross compiler and the emulator, or None where one of them is missing."""
    if missing_tools():
        return None
    compiler, emulator = _path(_GCC), _path(_QEMU)
    return Toolchain(_version(compiler), _version(emulator), Path(compiler), Path(emulator))


def missing_tools() -> list[str]:
    """The tools that emulation needs and that are not installed."""
    return [tool for tool in (_GCC, _SIZE, _QEMU) if shutil.which(tool) is None]


def _path(tool: str) -> str:
    path = shutil.which(tool)
    if path is None:
        raise TargetError(
            f"{tool} is not installed, and emulated boards need it. Debian and Ubuntu have the tools in the packages "
            f"{_PACKAGES}."
        )
    return path


def _version(command: str) -> str:
    asked = subprocess.run([command, "--version"], capture_output=True, text=True, check=True)
    return asked.stdout.splitlines()[0]


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
        exit_code: What its main returned; 99 after a fault, which the output tells.
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


def library_for(board: Board, library: Path) -> Path:
    """CMSIS-NN compiled for a board, once per process.

    Raises:
        TargetError: The compiler is missing, or refuses.
    """
    command = (_path(_GCC), *board.flags, "-O3", "-std=c99", "-ffunction-sections", "-fdata-sections")
    return library_archive(command, _path(_AR), library)


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
        sources: C files, and archives behind what needs them.
        include: Folders of headers.
        output: The program to write.
        optimise: The compiler's level of optimization.
        definitions: Macros, NAME or NAME=VALUE.

    Raises:
        TargetError: The compiler is missing, or refuses; with its first lines.
    """
    support = [SUPPORT / name for name in ("startup.c", "semihosting.c", "counter.c")]
    command = [
        _path(_GCC), *board.flags, optimise, "-std=c99", "-ffunction-sections", "-fdata-sections", "-Wall", "-Wextra",
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
    """The bytes of a program's sections.

    Raises:
        TargetError: The tool that tells is missing, or the file is no program.
    """
    done = subprocess.run([_path(_SIZE), str(program)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise TargetError(f"{_SIZE} cannot read {program}:\n{_head(done.stderr)}")
    text, data, bss = (int(item) for item in done.stdout.splitlines()[1].split()[:3])
    return Sizes(text, data, bss)


def run(
    board: Board,
    program: Path,
    *,
    folder: Path | None = None,
    timeout_seconds: float = 120,
    count: bool = True,
) -> Run:
    """Runs a program to its end.

    Args:
        board: The board.
        program: What `build` wrote.
        folder: Where it finds the files that it opens.
        timeout_seconds: How long it may take.
        count: Let every instruction take a nanosecond of the board's time, so that its timer counts instructions, the
            same number in every run. Otherwise the timer follows the host's time.

    Raises:
        TargetError: The emulator is missing or gives up, or the program does not end in time.
    """
    command = [
        _path(_QEMU), "-M", board.machine, "-display", "none", "-serial", "null", "-monitor", "none",
        *(("-icount", "shift=0") if count else ()),
        "-semihosting-config", "enable=on,target=native", "-kernel", str(program.resolve()),
    ]  # fmt: skip
    where = f"The emulated {board.core} ({board.machine})"
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            cwd=folder,
            timeout=timeout_seconds,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired as error:
        raise TargetError(
            f"{where} has not ended after {timeout_seconds:g} seconds.{_said(error.stderr)}"
        ) from error
    if done.returncode < 0:  # a signal; QEMU aborts where a core would lock up
        raise TargetError(f"{where} gave up.{_said(done.stderr)}")
    return Run(done.returncode, (done.stderr + done.stdout).decode(errors="replace"))


def _said(output: bytes | None) -> str:
    return f" It wrote:\n{_head(output.decode(errors='replace'))}" if output else ""


def _head(text: str, lines: int = 12) -> str:
    return "\n".join(text.splitlines()[:lines])
