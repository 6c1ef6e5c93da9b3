"""Emulated boards: for each core, what QEMU runs and how to compile for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

KernelPath = Literal["c", "dsp", "mve"]
"""Which of CMSIS-NN's implementations a core runs: plain C, SIMD on pairs of 16 bits, vectors."""


@dataclass(frozen=True)
class Board:
    """A board that QEMU 7.2 emulates.

    Attributes:
        core: The core that code is compiled for.
        machine: QEMU's name of the board.
        flags: Of the compiler. Without floating-point registers where that is possible: the code has no floats, and compilers put integers there.
        path: Which implementation of the library the core runs.
        linker_script: In the folder `qemu`. Leaves at least 3.5 MB for constants and 3.5 MB for data.
        clock: Hz of its system timer, as QEMU has it.
        note: Where board and core differ.
    """

    core: str
    machine: str
    flags: tuple[str, ...]
    path: KernelPath
    linker_script: str
    clock: int
    note: str = ""

    @property
    def definitions(self) -> tuple[str, ...]:
        """What the instruction counter has to know."""
        return (f"INSTRUCTIONS_PER_1024_TICKS={1024 * 10**9 // self.clock}U",)


_MPS2, _AN505, _MPS3 = 25_000_000, 20_000_000, 32_000_000


def _flags(cpu: str, *more: str) -> tuple[str, ...]:
    return (f"-mcpu={cpu}", "-mthumb", *more)


BOARDS: Mapping[str, Board] = {
    board.core: board
    for board in (
        Board("cortex-m0plus", "mps2-an385", _flags("cortex-m0plus"), "c", "mps2.ld", _MPS2, "an M3 executes the M0+'s code, and refuses unaligned words as an M0+ does"),
        Board("cortex-m3", "mps2-an385", _flags("cortex-m3"), "c", "mps2.ld", _MPS2),
        Board("cortex-m4", "mps2-an386", _flags("cortex-m4"), "dsp", "mps2.ld", _MPS2),
        Board("cortex-m7", "mps2-an500", _flags("cortex-m7"), "dsp", "mps2-an500.ld", _MPS2),
        Board("cortex-m33", "mps2-an505", _flags("cortex-m33"), "dsp", "mps2-an505.ld", _AN505),
        Board("cortex-m55", "mps3-an547", _flags("cortex-m55", "-mfloat-abi=hard"), "mve", "mps3-an547.ld", _MPS3),
        Board("cortex-m85", "mps3-an547", _flags("cortex-m55", "-mfloat-abi=hard"), "mve", "mps3-an547.ld", _MPS3, "an M55 executes the M55's code: QEMU emulates no M85, and GCC 12 does not know it"),
    )
}  # fmt: skip
"""By core."""
