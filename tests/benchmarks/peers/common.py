"""What the peer runners share: streaming calibration data, metering, one JSON line.

The runners are scripts, one process per measurement, and may run under different interpreters (each
peer pins its own onnxruntime), so this module needs nothing but numpy and onnxruntime.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

MEBIBYTE = 1024 * 1024
PACKED = "input_uint8"


class Samples:
    """Samples of an npz file, handed out in batches of float32.

    The file is either plain (one array per graph input, or one array for a model with one input) or
    packed: `input_uint8`, `mean` and `scale`, meaning `(input_uint8 - mean) * scale`. Packed samples are
    decoded one batch at a time, and a repeated file costs no memory, so what a run holds does not depend
    on the number of samples.
    """

    def __init__(
        self,
        path: Path,
        input_names: list[str],
        count: int | None = None,
        repeat: bool = False,
        batch: int = 1,
    ) -> None:
        """Opens the file.

        Args:
            path: The npz file.
            input_names: The graph inputs to feed.
            count: Samples to hand out; everything in the file when None.
            repeat: Start over at the end of the file until `count` is reached.
            batch: Samples per batch; the last batch may be smaller.

        Raises:
            ValueError: The file lacks an input, or has too few samples and `repeat` is off.
        """
        with np.load(path) as archive:
            stored = {name: archive[name] for name in archive.files if name != "labels"}
        self._mean = np.float32(stored.pop("mean", 0.0))
        self._scale = np.float32(stored.pop("scale", 1.0))
        self._packed = PACKED in stored
        if len(input_names) == 1 and len(stored) == 1:
            stored = {input_names[0]: next(iter(stored.values()))}
        missing = [name for name in input_names if name not in stored]
        if missing:
            raise ValueError(f"{path} has no array for {', '.join(missing)}")
        self._arrays = {name: stored[name] for name in input_names}
        self.available = len(self._arrays[input_names[0]])
        self.count = self.available if count is None else count
        if self.count > self.available and not repeat:
            raise ValueError(f"{path} has {self.available} samples, not {self.count}; add --repeat to cycle")
        self.batch = batch

    def __len__(self) -> int:
        """Returns the number of batches."""
        return -(-self.count // self.batch)

    def __getitem__(self, index: int) -> dict[str, NDArray[np.generic]]:
        """Returns one batch as a feed.

        Raises:
            IndexError: There is no such batch.
        """
        if not 0 <= index < len(self):
            raise IndexError(index)
        first = index * self.batch
        rows = np.arange(first, min(first + self.batch, self.count)) % self.available
        return {name: self._decode(array[rows]) for name, array in self._arrays.items()}

    def __iter__(self) -> Iterator[dict[str, NDArray[np.generic]]]:
        """Yields the batches in order."""
        return (self[index] for index in range(len(self)))

    def _decode(self, rows: NDArray[np.generic]) -> NDArray[np.generic]:
        if not self._packed:
            return rows
        return (rows.astype(np.float32) - self._mean) * self._scale


class Reader:
    """Samples behind the calibration-reader protocol of onnxruntime and of Model Optimizer."""

    def __init__(self, samples: Samples) -> None:
        self._samples = samples
        self.set_range(0, len(samples))

    def get_next(self) -> dict[str, NDArray[np.generic]] | None:
        """Returns the next batch, or None at the end of the range."""
        if self._next >= self._end:
            return None
        self._next += 1
        return self._samples[self._next - 1]

    def get_first(self) -> dict[str, NDArray[np.generic]]:
        """Returns the first batch without moving on."""
        return self._samples[0]

    def rewind(self) -> None:
        """Starts over."""
        self.set_range(0, len(self._samples))

    def set_range(self, start_index: int, end_index: int) -> None:
        """Confines the reader to batches `start_index` up to, not including, `end_index`."""
        self._next, self._end = start_index, end_index

    def __len__(self) -> int:
        """Returns the number of batches."""
        return len(self._samples)


class Meter:
    """CPU time, wall time and peak memory of the phases of this process.

    CPU time is user plus system time of all threads. Peak memory is the resident high-water mark, reset
    at the start of each phase where the kernel allows it; otherwise it is the peak since the start. The
    mark at the start of the phase is recorded too: what imports and earlier phases left behind.
    """

    def __init__(self) -> None:
        self._phases: dict[str, dict[str, float]] = {}
        self._peak = 0.0

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measures the body under `name`."""
        self._peak = max(self._peak, peak_rss_bytes())
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
        start = peak_rss_bytes()
        cpu, wall = cpu_seconds(), time.perf_counter()
        yield
        self._phases[name] = {
            "cpu_seconds": round(cpu_seconds() - cpu, 3),
            "wall_seconds": round(time.perf_counter() - wall, 3),
            "start_rss_mib": round(start / MEBIBYTE, 1),
            "peak_rss_mib": round(peak_rss_bytes() / MEBIBYTE, 1),
        }

    def report(self) -> dict[str, Any]:
        """Returns the phases, their total, and the whole process with its imports and loading."""
        phases = self._phases.values()
        return {
            "phases": self._phases,
            "total": {
                "cpu_seconds": round(sum(phase["cpu_seconds"] for phase in phases), 3),
                "wall_seconds": round(sum(phase["wall_seconds"] for phase in phases), 3),
                "peak_rss_mib": max(phase["peak_rss_mib"] for phase in phases),
            },
            "process": {
                "cpu_seconds": round(cpu_seconds(), 3),
                "peak_rss_mib": round(max(self._peak, peak_rss_bytes()) / MEBIBYTE, 1),
            },
        }


def cpu_seconds() -> float:
    """Returns the user and system time this process has used so far."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def peak_rss_bytes() -> int:
    """Returns the peak resident memory of this process.

    Linux carries `ru_maxrss` of the forking parent over `exec`, so a small run started from a large
    process would report its parent; `VmHWM` belongs to this program alone.
    """
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


@contextlib.contextmanager
def stdout_to_stderr() -> Iterator[None]:
    """Sends everything written to standard output, by native code too, to standard error.

    The peers report progress on standard output, which belongs to the JSON line here.
    """
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


def write_json(record: dict[str, Any]) -> None:
    """Writes `record` as the one line of standard output."""
    sys.stdout.write(json.dumps(record) + "\n")
    sys.stdout.flush()


def arguments(description: str | None, quantizes: bool) -> argparse.ArgumentParser:
    """Returns a parser with the arguments every runner has.

    Args:
        description: What the runner does.
        quantizes: Whether the runner writes a model.
    """
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    parser.add_argument("model", type=Path, metavar="MODEL.onnx")
    parser.add_argument("data", type=Path, metavar="CALIB.npz")
    if quantizes:
        parser.add_argument("out", type=Path, metavar="OUT.onnx")
    parser.add_argument("--samples", type=int, help="samples to use (default: all in the file)")
    parser.add_argument("--repeat", action="store_true", help="cycle through the file to reach --samples")
    parser.add_argument("--batch", type=int, default=1, help="samples per run of the model (default: 1)")
    return parser


def input_names(model: Path) -> list[str]:
    """Returns the names of the graph inputs of `model`."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    return [node.name for node in session.get_inputs()]
