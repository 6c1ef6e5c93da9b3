"""Whether a model fits: the chosen device, the user's limits, and every part that the descriptor lists."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qcompiler.target import Target
    from qcompiler.targets.cmsis_nn.deployment import Deployment
    from qcompiler.targets.cmsis_nn.source import Source

STACK = 2048
"""Bytes of stack that CMSIS-NN's kernels need at most, with room; the portable ones need up to 2.8 KB."""


@dataclass(frozen=True)
class Fit:
    """What a model takes, and what that means.

    Attributes:
        ram: Bytes of the arena.
        flash: Bytes of constants, and of code as estimated.
        bound: Bytes below which no placement gets the arena.
        whole: Bytes of the arena without slices.
        calls: Kernel calls that slicing added.
        peak: During which operation most is alive, and what that is.
        unmet: Limits that are not kept, one paragraph each.
        parts: Part name to (bytes of memory missing, bytes of flash missing); zeros where it fits.
        buffers: What was placed, for the picture of the arena.
        code: Bytes of code, an estimate.
    """

    ram: int
    flash: int
    bound: int
    whole: int
    calls: int
    peak: str
    unmet: tuple[str, ...]
    parts: dict[str, tuple[int, int]]
    buffers: tuple[dict[str, Any], ...]
    code: int

    def text(self) -> str:
        """What the page for the engineer says."""
        lines = ["## Where it fits", "", "| part | memory | flash |", "|---|---|---|"]
        for name, missing in self.parts.items():
            lines.append(
                f"| {name} | "
                + " | ".join("fits" if not lack else f"{lack:,} bytes missing" for lack in missing)
                + " |"
            )
        lines += [
            "",
            (
                f"Counted: the arena, and {STACK:,} bytes of stack, which CMSIS-NN's kernels need (4,096 with the portable ones); constants, "
                f"and some {self.code:,} bytes of code."
            ),
        ]
        return "\n".join(lines)

    def details(self) -> dict[str, Any]:
        """For the report."""
        return {
            "arena": {
                "bytes": self.ram,
                "lower_bound": self.bound,
                "unsliced": self.whole,
                "extra_calls": self.calls,
                "peak": self.peak,
                "buffers": list(self.buffers),
            },
            "flash": self.flash,
            "parts": {
                name: {"memory": memory, "flash": flash} for name, (memory, flash) in self.parts.items()
            },
        }


def fit_of(
    deployment: Deployment, source: Source, target: Target, max_ram: int | None, max_flash: int | None
) -> Fit:
    """Compares what a model takes with the limits and with every part."""
    memory, device = deployment.memory, target.chosen
    code = device.code
    ram, flash = memory.arena.size, source.constant_bytes + code
    operation, alive = memory.peak
    peak = f"{operation.rstrip(':')}: " + ", ".join(f"{buffer.name} {buffer.size:,}" for buffer in alive[:4])
    unmet = []
    for what, limit, taken in (
        ("--max-ram", max_ram, ram),
        (f"the memory of {target.chosen_device}", device.memory and device.memory - STACK, ram),
    ):
        if limit is not None and taken > limit:
            unmet.append(
                f"{what} allows {limit:,} bytes, and the arena takes {taken:,} ({taken - limit:,} too many; no placement takes fewer "
                f"than {memory.arena.lower_bound:,}). Most is alive during {peak}. Smaller images or fewer channels there would help."
            )
    for what, limit, taken in (
        ("--max-flash", max_flash, flash),
        (f"the flash of {target.chosen_device}", device.flash, flash),
    ):
        if limit is not None and taken > limit:
            unmet.append(
                f"{what} allows {limit:,} bytes, and constants and code take some {taken:,} ({taken - limit:,} too many). "
                "4-bit weights (--weight-bits, --max-size) would help, or a smaller model."
            )
    parts = {
        name: (max(0, ram + STACK - (part.memory or 0)), max(0, flash - (part.flash or 0)))
        for name, part in target.device.items()
        if part.memory and part.flash
    }
    calls = sum(len(pieces) - 1 for pieces in deployment.slices.values())
    buffers = tuple(
        {
            "name": buffer.name,
            "bytes": buffer.size,
            "offset": memory.arena.offsets[buffer.name],
            "first": buffer.first,
            "last": buffer.last,
        }
        for buffer in memory.buffers
    )
    return Fit(
        ram,
        flash,
        memory.arena.lower_bound,
        deployment.whole,
        calls,
        peak,
        tuple(unmet),
        parts,
        buffers,
        code,
    )
