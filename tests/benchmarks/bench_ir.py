"""Times the graph itself on a residual network: `python tests/benchmarks/bench_ir.py [NODES]`."""

from __future__ import annotations

import gc
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from networks import residual_network

from qcompiler.ir.graph import Graph
from qcompiler.ir.onnx_export import save
from qcompiler.ir.onnx_import import load
from qcompiler.ir.text import to_text

T = TypeVar("T")


def edit_everything(graph: Graph) -> None:
    """Inserts a node on every edge behind a Relu, renames every value of a Conv, removes every BatchNormalization."""
    for node in graph.nodes:
        if node.op == "Relu":
            graph.insert_on_edge(node.output, list(node.output.uses), "Identity")
        elif node.op == "Conv":
            graph.rename(node.output, f"{node.output.name}.renamed")
        elif node.op == "BatchNormalization":
            graph.replace_node(node, node.inputs[0])


def measure(nodes: int, folder: Path, clock: Callable[[], float] = time.perf_counter) -> dict[str, float]:
    """Seconds of each step."""
    seconds: dict[str, float] = {}

    def timed(name: str, work: Callable[[], T]) -> T:
        gc.collect()
        start = clock()
        result = work()
        seconds[name] = clock() - start
        return result

    graph = timed("build", lambda: residual_network(nodes))
    path = folder / "network.onnx"
    timed("save", lambda: save(graph, path))
    loaded = timed("load", lambda: load(path))
    timed("verify", loaded.verify)
    copy = timed("copy", loaded.copy)
    timed("edit", lambda: edit_everything(copy))
    timed("verify edited", copy.verify)
    timed("text", lambda: to_text(copy))
    return seconds


def main() -> None:
    nodes = int(sys.argv[1]) if len(sys.argv) > 1 else 16_000
    with tempfile.TemporaryDirectory() as folder:
        seconds = measure(nodes, Path(folder))
    for name, spent in seconds.items():
        print(f"{name:14} {spent:7.3f} s")
    core = sum(seconds[name] for name in ("load", "save", "verify", "copy"))
    print(f"load + save + verify + copy of {nodes} nodes: {core:.2f} s")


if __name__ == "__main__":
    main()
