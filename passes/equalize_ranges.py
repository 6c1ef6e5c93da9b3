"""equalize_ranges: moves factors between layers until channels that share a scale have comparable ranges.

The model of what factors per channel do to the rounding noise of the layers that read a value:

A value x with channels c is stored with one step for all of them, and its readers' weights w[o, c] (taps left out) with one
step per output channel o. Divide x_c by s_c and multiply w[o, c] by s_c. In units of x and w as they were:

* The step is D = max_c(R_c / s_c) / (2^bits - 1), with R_c the range of channel c. The rounding error of x_c has the variance
  (D s_c)^2 / 12, but no error is larger than the number itself: zeros, of which a Relu makes many, have none. So
  a_c = E[min(x_c^2, (D s_c)^2 / 12)], and in output o the sum over c of w[o, c]^2 a_c.
* The step of row o is set by its largest s_c |w[o, c]|. The weight's own error is e[o, c] = (Q(s_c w[o, c]) - s_c w[o, c]) / s_c,
  and in output o the sum over c of e[o, c]^2 E[x_c^2]. Errors are computed, not modelled: weights that lie on a grid
  already have none, until a factor that is uneven moves them off it.

The first sum alone is least for s_c = R_c, when every channel uses all codes. The second one grows on the way there, because
rows become uneven, but not for depthwise layers, where a row reads one channel. Outputs are weighted by the squared norm
of the weights that read them next (1 where none do): otherwise large outputs that are then scaled down would count for
more than they are worth. Each reader's noise is taken relative to its signal, the sum of w[o, c]^2 E[x_c^2].

Errors are taken as independent of one another and of x; their means are left to `correct_bias`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from qcompiler.calibration import collect
from qcompiler.errors import OptionError
from qcompiler.imported import imported_ranges
from qcompiler.ir.facts import CANONICAL
from qcompiler.observed import IMPORTED
from qcompiler.pass_manager import Effect, Level, Pass, PassContext, PassResult
from qcompiler.passes._scale_chains import Group, find_groups, largest
from qcompiler.regions import REGIONS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from qcompiler.columns import Segment
    from qcompiler.data import DataSource
    from qcompiler.ir.graph import Graph
    from qcompiler.ir.node import Node
    from qcompiler.passes._scale_chains import Reading
    from qcompiler.statistics import Statistics, ValueStatistics

Floats: TypeAlias = "NDArray[np.float64]"

_LARGEST = 8.0  # exponent (base 2) of the largest factor, and of the reciprocal of the smallest
_SWEEPS = 100
_SETTLED = 1e-3  # exponents that move by less have come to rest
_STRENGTHS = (0.25, 0.5, 0.75, 1.0)
_PIECES = 8


@dataclass(frozen=True)
class EqualizeRanges(Pass):
    """Divides channels between two weighted layers by factors, and multiplies the weights that read them; exact.

    Cross-layer equalization (Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction, 2019,
    section 4.1; Meller et al., Same, Same But Different, 2019): where every operator between the layers commutes with a
    positive factor, channel c of the first divided by s_c and what reads it multiplied by s_c compute the same function.
    Which values can be scaled, through which operators, is in `_scale_chains`; the others are left alone, with the reason.

    `balance` is what the factors are for:

    * `activations`: for weights with a scale per channel and values with one scale each. With R_c the range of channel c on
      `samples` of the calibration data, s_c = (R_c / median R)^a; a is 0.25, 0.5, 0.75 or 1, the one with the least
      modelled noise (see the top of this file), and 0 where that is not `gain` decibels below the noise without factors. Even
      ranges of the value make the rows of weights that read it uneven: always taking a = 1 cost 1.2 to 2.8 dB on four of five
      small networks that it was measured on. Without calibration data nothing is changed.
    * `weights`: for weights with one scale per tensor. With p_c and q_c the largest magnitudes of the weights that write and
      read channel c, s_c = sqrt(p_c / q_c) makes both sqrt(p_c q_c) (Nagel et al., section 4.1). What one value's factors do
      to a layer's other side is answered there, in at most 100 sweeps over the graph, until no factor moves by more
      than 0.07 %. Values are not looked at, and those of channels with small weights grow: this gained 0.3 dB or less on three
      of the five networks and cost 2 and 6 dB on the two with depthwise layers. Measure before keeping it.

    With `power_of_two`, factors are rounded to powers of two: the float model then computes the same bits, but for what falls
    below the smallest normal float. Factors stay between 2^-8 and 2^8; channels that are never active, or whose weights
    are zero, keep the factor 1. `bits` is the precision that the noise is modelled for.
    """

    name = "equalize_ranges"
    effect = Effect.EXACT
    requires = (CANONICAL,)
    invalidates = (REGIONS,)

    balance: Literal["weights", "activations"] = "activations"
    power_of_two: bool = True
    samples: int = 64
    gain: float = 1.0
    bits: int = 8

    def __post_init__(self) -> None:
        if self.samples < 1 or not 2 <= self.bits <= 16:
            raise OptionError(
                f"The pass {self.name} has samples={self.samples} and bits={self.bits}; it takes at least one sample, and 2 to 16 bits."
            )

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        """Replaces weights and biases; nodes and values stay.

        Raises:
            DataError: The calibration data do not fit the model.
        """
        result = PassResult()
        groups = []
        for group in find_groups(graph, _encoded(graph)):
            if group.reasons:
                result.say(Level.NEAR_MISS, group.name, f"not equalized: {group.reasons[0]}")
            else:
                groups.append(group)
        if not groups:
            return result
        if self.balance == "weights":
            chosen = [self._rounded(group, exponents) for group, exponents in _by_weights(groups)]
        elif context.calibration is None:
            result.say(
                Level.INFO, "", f"{len(groups)} values could be equalized, but there are no calibration data"
            )
            return result
        else:
            axes = {value.name: axis for group in groups for value, axis in group.axes.items()}
            some = _spread(context.calibration, self.samples)
            chosen = self._by_noise(groups, collect(graph, [], some, per_channel=axes), result)
        for group, exponents in zip(groups, chosen, strict=True):
            if not exponents.any():
                continue
            edits = _edits(group, np.exp2(exponents))
            if not all(np.isfinite(data).all() for _, _, data in edits):
                result.say(Level.NEAR_MISS, group.name, "not equalized: a weight or bias would overflow")
            elif context.allow(f"{self.name} at {group.name}"):
                for node, slot, data in edits:
                    old = node.inputs[slot]
                    assert old is not None
                    graph.set_input(node, slot, graph.add_constant(f"{old.name}.equalized", data))
                result.count("equalized values")
        graph.remove_unused_constants()
        return result

    def _rounded(self, group: Group, exponents: Floats) -> Floats:
        return group.confined(np.clip(exponents, -_LARGEST, _LARGEST), whole=self.power_of_two)

    def _by_noise(self, groups: list[Group], statistics: Statistics, result: PassResult) -> list[Floats]:
        gains = {layer.node: group.squares() for group in groups for layer in group.producers}
        chosen, left = [], 0
        for group in groups:
            noise = _Noise(group, statistics, gains, self.bits)
            ranges = _ranges_of(group, statistics)
            alive = (ranges > 0) & (group.squares() > 0)
            before = least = noise.of(np.ones(group.size))
            best, strength = np.zeros(group.size), 0.0
            for power in _STRENGTHS:
                exponents = self._rounded(group, power * _about_middle(group, ranges, alive))
                found = noise.of(np.exp2(exponents))
                if found < least:
                    least, best, strength = found, exponents, power
            if least < before * 10 ** (-self.gain / 10):
                ratio = "to nothing" if least <= 0 else f"by {10 * np.log10(before / least):.1f} dB"
                result.say(
                    Level.INFO,
                    group.name,
                    f"the modelled noise falls {ratio} with factors of strength {strength:g}",
                )
            else:
                left += bool(best.any())
                best = np.zeros(group.size)
            chosen.append(best)
        if left:
            result.say(
                Level.INFO, "", f"{left} values would gain less than {self.gain:g} dB and are left alone"
            )
        return chosen


def _encoded(graph: Graph) -> dict[Any, object]:
    entries = graph.facts.get(IMPORTED) or {}
    constants = {graph.value(name): entry for name, entry in entries.items() if graph.has_value(name)}
    return {**imported_ranges(graph, entries), **constants}


def _spread(source: DataSource, samples: int) -> DataSource:
    """Some samples from all over the data, which may be sorted by class."""
    pieces = min(_PIECES, samples)
    if source.count <= samples:
        return source
    parts: list[Segment] = []
    for index in range(pieces):
        start = source.count * index // pieces
        size = samples * (index + 1) // pieces - samples * index // pieces
        parts += source.slice(start, start + size).segments
    return dataclasses.replace(source, segments=tuple(parts))


def _about_middle(group: Group, ranges: Floats, alive: NDArray[np.bool_]) -> Floats:
    """Exponents of the ranges over the one that keeps the factor 1.

    A factor that all channels have in common changes nothing, so the middle one keeps 1 and most factors are small; but
    where a Clip holds some channels at 1, the others are measured by these.
    """
    if not alive.any():
        return np.zeros(group.size)
    exponents = np.log2(np.where(alive, ranges, 1.0))
    held = group.fixed & alive
    middle = exponents[held].max() if held.any() else np.median(exponents[alive])
    return np.where(alive, exponents - middle, 0.0)


def _by_weights(groups: list[Group]) -> list[tuple[Group, Floats]]:
    """The exponents of factors that make the ranges of weights on both sides of every value alike."""
    layers = {layer.node: layer for group in groups for layer in group.layers()}
    sizes = {node: np.abs(layer.blocks()).max(axis=3, keepdims=True).astype(np.float64) for node, layer in layers.items()}  # fmt: skip
    total = [np.zeros(group.size) for group in groups]
    for _ in range(_SWEEPS):
        moved = 0.0
        for index, group in enumerate(groups):
            written, read = np.zeros(group.size), np.zeros(group.size)
            for layer in group.producers:
                written = np.maximum(written, sizes[layer.node].max(axis=(2, 3)).reshape(-1))
            for reading in group.readings:
                peaks = sizes[reading.layer.node].max(axis=(1, 3)).reshape(-1)
                read = np.maximum(read, largest(peaks, reading.lanes, group.size))
            alive = (written > 0) & (read > 0) & np.isfinite(written) & np.isfinite(read)
            step = (np.log2(np.where(alive, written, 1.0)) - np.log2(np.where(alive, read, 1.0))) / 2
            after = group.confined(total[index] + step, whole=False)
            step, total[index] = after - total[index], after
            for layer in group.producers:
                sizes[layer.node] = sizes[layer.node] * layer.by_output(np.exp2(-step))
            for reading in group.readings:
                layer = reading.layer
                sizes[layer.node] = sizes[layer.node] * layer.by_input(np.exp2(step[reading.lanes]))
            moved = max(moved, float(np.abs(step).max(initial=0.0)))
        if moved < _SETTLED:
            break
    centred = []
    for group, exponents in zip(groups, total, strict=True):
        changed = exponents != 0
        free = changed.any() and not group.fixed.any() and not group.least.any()
        middle = np.median(exponents[changed]) if free else 0.0
        centred.append((group, np.where(changed, exponents - middle, 0.0)))
    return centred


def _edits(group: Group, factors: Floats) -> list[tuple[Node, int, NDArray[Any]]]:
    """The constants of a group with the factors worked in: (node, input slot, elements)."""
    edits: list[tuple[Node, int, NDArray[Any]]] = []
    layers = {layer.node: layer for layer in group.layers()}
    blocks = {node: layer.blocks().astype(np.float64) for node, layer in layers.items()}
    with np.errstate(over="ignore"):  # looked for afterwards
        for layer in group.producers:
            blocks[layer.node] /= layer.by_output(factors)
            bias = layer.bias()
            if bias is not None:
                dtype = layer.blocks().dtype
                edits.append((layer.node, 2, (bias / factors).astype(dtype)))
        for reading in group.readings:
            blocks[reading.layer.node] *= reading.layer.by_input(factors[reading.lanes])
        edits += [(node, 1, layer.stored(blocks[node])) for node, layer in layers.items()]
        edits += [(shift.node, shift.slot, shift.divided(factors)) for shift in group.shifts]
    return edits


# -- the model of noise -----------------------------------------------------------------------------------------


def _ranges_of(group: Group, statistics: Statistics) -> Floats:
    """The range of each lane, where a value's widest channel is 1; the largest over the values that are read.

    Args:
        group: The group.
        statistics: Per channel, of the values that are read.
    """
    found = np.zeros(group.size)
    for reading in group.readings:
        seen = statistics.by_channel[reading.value.name]
        width = seen.high.astype(np.float64) - seen.low.astype(np.float64)
        widest = float(width.max(initial=0.0))
        if widest > 0:
            found = np.maximum(found, largest(width / widest, reading.lanes, group.size))
    return found


class _Noise:
    """The noise-to-signal ratio that the readers of a group have, by factors."""

    def __init__(self, group: Group, statistics: Statistics, gains: Mapping[Node, Floats], bits: int) -> None:
        """Gathers what does not depend on the factors.

        Args:
            group: The group.
            statistics: Per channel, of the values that are read.
            gains: By layer, how much the squares of its output channels count; 1 for layers that are not there.
            bits: Precision of values and weights.
        """
        self._readers = [
            _Reader(reading, statistics.by_channel[reading.value.name], gains.get(reading.layer.node), bits)
            for reading in group.readings
        ]

    def of(self, factors: Floats) -> float:
        """The sum of the readers' noise-to-signal ratios (of powers, not decibels).

        Args:
            factors: Per lane, what the values are divided by.
        """
        return sum(reader.noise(factors[reader.lanes]) for reader in self._readers)


@dataclass(frozen=True)
class _Drawn:
    """Drawn elements of a value: squares with their channels and counts."""

    squares: Floats
    channels: NDArray[np.intp]
    counts: NDArray[np.int64]
    totals: Floats

    @staticmethod
    def of(seen: ValueStatistics) -> _Drawn:
        keys = seen.drawn.keys
        near = ((keys & np.uint32(0xFFFF)) << np.uint32(16)).view(np.float32).astype(np.float64)
        channels = (keys >> np.uint32(16)).astype(np.intp)
        totals = np.bincount(channels, weights=seen.drawn.counts, minlength=seen.channels)
        return _Drawn(near**2, channels, seen.drawn.counts, np.maximum(totals, 1.0))

    def mean(self, numbers: Floats) -> Floats:
        """The mean over each channel's elements of a number per bin."""
        sums = np.bincount(self.channels, weights=numbers * self.counts, minlength=self.totals.size)
        return np.asarray(sums / self.totals, np.float64)


class _Reader:
    def __init__(self, reading: Reading, seen: ValueStatistics, gain: Floats | None, bits: int) -> None:
        self.lanes = reading.lanes
        self._layer = reading.layer
        self._levels = (2.0**bits - 1, 2.0 ** (bits - 1) - 1)
        self._low, self._high = seen.low.astype(np.float64), seen.high.astype(np.float64)
        self._drawn = _Drawn.of(seen)
        self._power = self._drawn.mean(self._drawn.squares)
        self._weight = reading.layer.blocks().astype(np.float64)
        self._gain = reading.layer.by_output(np.ones(reading.layer.outputs) if gain is None else gain)
        self._squares = (self._weight**2 * self._gain).sum(axis=(1, 3)).reshape(-1)
        self._signal = float(self._squares @ self._power)

    def noise(self, factors: Floats) -> float:
        """Noise to signal, for factors per input channel."""
        if not 0 < self._signal < np.inf:
            return 0.0
        step = ((self._high / factors).max() - (self._low / factors).min()) / self._levels[0]
        rounding = (step * factors) ** 2 / 12
        spread = np.minimum(self._drawn.squares, rounding[self._drawn.channels])
        from_value = float(self._squares @ self._drawn.mean(spread))
        scaled = self._weight * self._layer.by_input(factors)
        steps = np.abs(scaled).max(axis=(2, 3), keepdims=True) / self._levels[1]
        steps = np.where(steps > 0, steps, 1.0)
        errors = (np.rint(scaled / steps) * steps - scaled) ** 2
        from_weight = float((errors * self._gain * self._layer.by_input(self._power / factors**2)).sum())
        return (from_value + from_weight) / self._signal
