"""How well the Edge TPU's compiler is predicted: files beside what it made of them.

    python tests/benchmarks/edge_tpu_pairs.py DIR [--misses]

DIR has pairs X.tflite and X_edgetpu.tflite, at any depth; equal pairs count once. An operator stayed on the CPU if the compiled file has
one of its name that writes a tensor of its name. Files with several segments were compiled with -a: there all epochs count as mapped.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from qcompiler.targets.edge_tpu.flatbuffer import read
from qcompiler.targets.edge_tpu.model import Model
from qcompiler.targets.edge_tpu.partition import Placement, partition

ENDING = "_edgetpu.tflite"
SEGMENT = "edgetpu-custom-op"


@dataclass(frozen=True)
class Agreement:
    """Of a pair: operators with whether they stayed on the CPU, and what is predicted of them."""

    name: str
    operators: tuple[tuple[Placement, bool, bool], ...]

    @property
    def right(self) -> int:
        return sum(stayed == predicted for _, stayed, predicted in self.operators)

    @property
    def on_cpu(self) -> int:
        return sum(stayed for _, stayed, _ in self.operators)

    @property
    def found(self) -> int:
        return sum(stayed and predicted for _, stayed, predicted in self.operators)


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("folder", type=Path)
    arguments.add_argument("--misses", action="store_true", help="list operators that are predicted wrongly")
    given = arguments.parse_args()
    print("| pair | operators | right | on the CPU | found |\n|---|---|---|---|---|")
    pairs = [agreement(*pair, given.folder) for pair in pairs_in(given.folder)]
    for pair in pairs:
        print(f"| {pair.name} | {len(pair.operators)} | {pair.right} | {pair.on_cpu} | {pair.found} |")
    columns = zip(
        *((len(pair.operators), pair.right, pair.on_cpu, pair.found) for pair in pairs), strict=True
    )
    print("| " + " | ".join(map(str, (f"all {len(pairs)}", *map(sum, columns)))) + " |")
    print(f"\n{sum(pair.right == len(pair.operators) for pair in pairs)} pairs are right in every operator.")
    for pair in pairs if given.misses else ():
        for operator, stayed, predicted in pair.operators:
            if stayed != predicted:
                print(
                    f"{pair.name}: {operator.index} {operator.op}: CPU {stayed}, predicted {predicted}: {operator.rule}"
                )


def pairs_in(folder: Path) -> Iterator[tuple[Path, Path]]:
    """The distinct pairs under a folder, by name."""
    seen = set()
    for compiled in sorted(folder.rglob(f"*{ENDING}")):
        source = compiled.with_name(compiled.name.removesuffix(ENDING) + ".tflite")
        if source.exists():
            digest = hashlib.sha256(source.read_bytes() + compiled.read_bytes()).digest()
            if digest not in seen:
                yield source, compiled
            seen.add(digest)


def agreement(source: Path, compiled: Path, folder: Path) -> Agreement:
    """Compares what became of a file with what is predicted."""
    model, made = read(source), read(compiled)
    kept = {written(made, index) for index, item in enumerate(made.operators) if item.custom != SEGMENT}
    segments = sum(item.custom == SEGMENT for item in made.operators)
    operators = tuple(
        (placed, written(model, placed.index) in kept, not (placed.legal if segments > 1 else placed.mapped))
        for placed in partition(model).operators
    )
    return Agreement(str(source.relative_to(folder)), operators)


def written(model: Model, index: int) -> tuple[str, str]:
    """The name of an operator, and that of the tensor that it writes first."""
    operator = model.operators[index]
    return operator.name, model.tensors[operator.outputs[0]].name


if __name__ == "__main__":
    main()
