"""Times selection to proven optimality: `python tests/benchmarks/bench_selection.py [REGIONS...] [--seeds N]`.

Networks are chains with residual connections. A region runs with weights of 8, 4 or 2 bits and activations of 16, 8 or 4, in
eight combinations. Rounding weights costs a loss of the region, rounding a value a loss that is paid once per value and
format, both 4 ** -bits times what is drawn from a lognormal distribution over 1.5 and 1.2 decades (standard deviation). A
conversion takes time. Sizes are at most 55 % of 8 bits everywhere; latencies 90 % of the median rows'.
"""

from __future__ import annotations

import argparse
import sys
import time

import numpy as np

from qcompiler.selection import Cost, Form, Option, Quantity, SelectionProblem, alternatives
from qcompiler.selection_search import solve

ROWS = ((8, 16), (8, 8), (8, 4), (4, 16), (4, 8), (4, 4), (2, 16), (2, 8))
ACTIVATIONS = (16, 8, 4)


def network(regions: int, seed: int, skip: int = 3) -> SelectionProblem:
    """A chain in which every `skip`-th region also reads the value before the last `skip` - 1 regions."""
    rng = np.random.default_rng(seed)
    options: list[tuple[Option, ...]] = []
    forms: list[Form] = []

    def new_value() -> dict[int, int]:
        sensitivity, elements = 10 ** rng.normal(0, 1.2), 2.0 ** rng.integers(12, 18)
        conversion = Cost(0.0, 0.0, elements * 2e-12)
        first, value = len(forms), len(forms) // len(ACTIVATIONS)
        forms.extend(
            Form(value, Cost(sensitivity * 4.0**-bits, 0.0, 0.0), conversion) for bits in ACTIVATIONS
        )
        return {bits: first + place for place, bits in enumerate(ACTIVATIONS)}

    values = [new_value()]
    for number in range(regions):
        operands = [values[-1], values[-skip]] if number % skip == skip - 1 else [values[-1]]
        values.append(new_value())
        weights = float(rng.integers(3, 10) ** 2 * rng.choice([64, 128, 256]) * rng.choice([32, 64]))
        sensitivity = 10 ** rng.normal(0, 1.5)
        products = weights * float(rng.choice([49, 196, 784]))
        rows = []
        for bits, width in ROWS:
            compute = products * 1e-13 * max(bits, width) / 8 * (1.0 if bits > 2 else 0.9)
            cost = Cost(sensitivity * 4.0**-bits, weights * bits, compute + weights * bits / 8e11)
            reads = tuple(operand[width] for operand in operands)
            writes = tuple(values[-1][other] for other in ACTIVATIONS if other <= max(width, 8))
            rows.append(Option(cost, reads, writes, f"w{bits}a{width}"))
        options.append(tuple(rows))
    return SelectionProblem(tuple(options), tuple(forms))


def limits_of(problem: SelectionProblem, *, latency: bool) -> dict[Quantity, float]:
    """The limits of the measurements."""
    sizes = [max(option.cost.size for option in options) for options in problem.regions]
    limits: dict[Quantity, float] = {"size": 0.55 * sum(sizes)}
    if latency:
        times = [float(np.median([option.cost.latency for option in options])) for options in problem.regions]
        limits["latency"] = 0.9 * sum(times)
    return limits


def measure(regions: int, seed: int, *, latency: bool) -> dict[str, float]:
    """CPU seconds of solving and explaining, and what was proven."""
    problem = network(regions, seed)
    start, clock = time.process_time(), time.perf_counter()
    selection = solve(problem, "loss", limits_of(problem, latency=latency))
    solved, wall = time.process_time(), time.perf_counter() - clock
    alternatives(problem, selection)
    return {
        "cpu": solved - start,
        "wall": wall,
        "explain": time.process_time() - solved,
        "gap": selection.gap,
        "optimal": selection.optimal,
        "loss": selection.cost.loss,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("regions", nargs="*", type=int, default=[50, 500, 2000])
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    print(
        f"{'regions':>7} {'limits':14} {'seed':>4} {'CPU s':>7} {'wall s':>7} {'explain s':>9} {'gap':>8}  optimal"
    )
    for regions in arguments.regions:
        for latency in (False, True):
            for seed in range(arguments.seeds):
                row = measure(regions, seed, latency=latency)
                print(
                    f"{regions:7} {'size, latency' if latency else 'size':14} {seed:4} {row['cpu']:7.2f} "
                    f"{row['wall']:7.2f} {row['explain']:9.2f} {row['gap']:8.1e}  {bool(row['optimal'])}"
                )
                sys.stdout.flush()


if __name__ == "__main__":
    main()
