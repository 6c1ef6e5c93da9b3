"""Qualcomm's HTP library for x86-64, which computes on a PC what the part would: models prepared, looked into, and run.

The wheel onnxruntime-qnn brings it; a process of its own runs it, see `worker.py`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import os
import pickle
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from qcompiler.errors import TargetError
from qcompiler.targets.hexagon import worker
from qcompiler.targets.hexagon.qnn_graph import QnnGraph, read_graph
from qcompiler.targets.hexagon.worker import Job, Prepared

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

PACKAGE = "onnxruntime-qnn"
_LEAST = {PACKAGE: (2, 7), "onnxruntime": (1, 24, 2)}
"""The oldest versions known to work together; the provider of 2.3 does not load."""
_LEAST_GLIBC = (2, 35)
_REASONS = re.compile(r"(?:<E>|REASON :) (?!QnnBackend_validateOpConfig|Failed to add node)([^\x1b\n]+)")
"""What the library says is an error, and why the provider does not take a node."""
_MOST_REASONS = 4


def version() -> str | None:
    """The version of onnxruntime-qnn that is installed; None without one."""
    try:
        return importlib.metadata.version(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        return None


def missing() -> str | None:
    """Why the HTP library cannot be used here, one sentence; None where it can."""
    for package, least in _LEAST.items():
        try:
            installed = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            return f'{package} is not installed: pip install "qcompiler[hexagon]" (Linux on x86-64)'
        if _numbers(installed) < least:
            return (
                f"{package} {installed} is too old for the HTP library, which takes {_dotted(least)} or newer"
            )
    glibc = _glibc()
    if glibc is not None and _numbers(glibc) < _LEAST_GLIBC:
        return f"glibc {glibc} is too old for the HTP library, which takes {_dotted(_LEAST_GLIBC)} or newer (Debian 12, Ubuntu 22.04)"
    return None


def _glibc() -> str | None:
    """The version of glibc; None where there is none."""
    try:
        return (os.confstr("CS_GNU_LIBC_VERSION") or "").rpartition(" ")[2] or None
    except (AttributeError, ValueError, OSError):
        return None


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text)[:3])


def _dotted(numbers: tuple[int, ...]) -> str:
    return ".".join(map(str, numbers))


@dataclass(frozen=True)
class HtpModel:
    """A prepared model.

    Attributes:
        graph: What the provider made of it.
        outputs: Names of its outputs.
        assigned: Provider to the nodes that it runs.
        seconds: How long preparing took.
    """

    graph: QnnGraph
    outputs: tuple[str, ...]
    assigned: Mapping[str, tuple[str, ...]]
    seconds: float


class HtpLibrary:
    """The library, in a process of its own, with one model at a time. Use it in a `with` statement, or close it.

    Attributes:
        seconds: How long all runs of the model took together.
        runs: How many there were.
    """

    def __init__(self) -> None:
        """Starts the process.

        Raises:
            TargetError: The library cannot be used here.
        """
        lacking = missing()
        if lacking is not None:
            raise TargetError(f"The HTP library cannot be used: {lacking}.")
        self.seconds, self.runs = 0.0, 0
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - it is read as long as the process runs
        # -P: do not import from the current folder, which is the user's.
        command = [sys.executable, "-P", "-c", f"from {worker.__name__} import main; main()"]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=self._log)

    def prepare(self, model: Path, soc: int, *, context: Path | None = None) -> HtpModel:
        """Prepares a model for a part; the one before is given up.

        Args:
            model: The ONNX file, of static shapes.
            soc: The number by which QNN knows the part.
            context: Where to write the context binary for this part, as an ONNX file around it; None for nowhere.

        Raises:
            TargetError: The library does not take the whole model; with its own reasons.
        """
        self.seconds, self.runs = 0.0, 0
        with tempfile.TemporaryDirectory(prefix="qcompiler-") as folder:
            job = Job(str(model.resolve()), soc, folder, str(context.resolve()) if context else "")
            prepared = self._ask(job)
            if not isinstance(prepared, Prepared):
                raise TargetError(f"The HTP library did not survive {model.name}: {prepared}")
            if prepared.error:
                reasons = "".join(f"\n  {reason}" for reason in _reasons(job))
                raise TargetError(
                    f"The HTP library does not take {model.name}: {prepared.error.strip()}{reasons}"
                )
            return HtpModel(read_graph(Path(folder)), prepared.outputs, prepared.assigned, prepared.seconds)

    def run(self, model: HtpModel, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """The outputs for one set of inputs, in the shapes that the model declares.

        Raises:
            TargetError: The library failed, or its process ended.
        """
        started = time.perf_counter()
        answer = self._ask(dict(feeds))
        if not isinstance(answer, list):
            raise TargetError(f"The HTP library failed: {answer}")
        self.seconds += time.perf_counter() - started
        self.runs += 1
        return dict(zip(model.outputs, answer, strict=True))

    def _ask(self, request: Any) -> Any:
        """The answer to a request, or a sentence on how the process ended."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            pickle.dump(request, self._process.stdin, protocol=pickle.HIGHEST_PROTOCOL)
            self._process.stdin.flush()
            return pickle.load(self._process.stdout)
        except (EOFError, OSError, pickle.UnpicklingError):
            code, last = self._process.wait(), self.said().strip().splitlines()[-1:]
            return " ".join([f"its process ended with exit code {code}.", *last])

    def said(self) -> str:
        """All that the process printed."""
        self._log.seek(0)
        return self._log.read().decode(errors="replace")

    def close(self) -> None:
        """Ends the process."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        self._process.wait()
        self._log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _reasons(job: Job) -> list[str]:
    """What provider and library say of what they refuse: they speak only in a process in which they were asked to from the start."""
    with HtpLibrary() as library:
        library._ask(dataclasses.replace(job, context="", verbose=True))
        found = dict.fromkeys(match[1].strip() for match in _REASONS.finditer(library.said()))
    return list(found)[:_MOST_REASONS]
