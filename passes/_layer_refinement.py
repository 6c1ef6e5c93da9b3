"""One layer after the other: watches what goes into it, in the float and in the quantized network, and replaces its weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from qcompiler import ops
from qcompiler.codebooks import lasting_zeros
from qcompiler.layer_rows import Layer
from qcompiler.moments import Moments
from qcompiler.passes._group_encodings import LARGEST_BIAS, product_encoding
from qcompiler.passes._joint_ranges import search_range
from qcompiler.passes._quantized_twin import QuantizedTwin, set_layer
from qcompiler.passes.prune_weights import UNPRUNED, unpruned
from qcompiler.rounding import Grid, Quadratic, damped, retargeted, round_codes
from qcompiler.stepping import Stepper
from qcompiler.table_rounding import round_to_table

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qcompiler.data import DataSource
    from qcompiler.ir.encoding import Encoding
    from qcompiler.ir.graph import Graph
    from qcompiler.ir.node import Node, Value
    from qcompiler.ir.plan import Plan, PlannedGroup

_FINE_BITS = 8  # with so many, activations make the error: scales are good as planned, and one sweep will do
_RETARGETING = 2.5  # how much more the least-squares solution is drawn to the float weights than codes are
_BATCH_BYTES = 32 << 20  # of the largest activation in one run
_SEARCHED = 1 << 20  # elements that ranges are compared on
_SEARCH_ROWS = (128, 2048)  # but at least and at most so many rows
MOST_INPUTS = 6144  # of a layer: its Gram matrix takes 8 * inputs^2 bytes, several times over


@dataclass(frozen=True)
class Settings:
    """See `RoundWeights`.

    Attributes:
        rows: Rows per layer, at least.
        depth: Rows per input of a layer, at least.
        sweeps: Of coordinate descent.
        damping: Towards the float weights.
        memory: Bytes of activations to keep.
        search_ranges: Whether ranges of activations are chosen anew.
        fixed: Whether scales of weights have to stay.
    """

    rows: int
    depth: int
    sweeps: int
    damping: float
    memory: int
    search_ranges: bool
    fixed: bool


def refinable(
    graph: Graph, plan: Plan, imported: Mapping[str, Encoding], bits: int
) -> tuple[list[Layer], list[tuple[str, str]]]:
    """The layers whose weights can be rounded, in graph order, and the other quantized ones with the reason."""
    layers, left = [], []
    groups = plan.group_of_use()
    for node in graph.topological():
        group = groups.get((node.name, 1))
        if group is None or ops.info(node).kind != "weighted":
            continue
        layer = Layer.of(node)
        reason = _unfit(group, layer, imported, bits) if node.input(1).is_constant else "computed at run time"  # type: ignore[union-attr]
        if reason:
            left.append((node.name, reason))
        elif layer is not None:
            layers.append(layer)
    return layers, left


def _unfit(group: PlannedGroup, layer: Layer | None, imported: Mapping[str, Encoding], bits: int) -> str:
    encoding = group.encoding
    if layer is None:
        return "this form of operator has no rounding"
    if encoding.table is None and (not encoding.format.is_integer or encoding.scale is None):
        return f"{encoding.format.name} has no integer codes"
    if encoding.format.bits > bits:
        return f"{encoding.format.bits} bits are enough"
    if len(group.uses) > 1:
        return f"{len(group.uses)} layers share them"
    if group.uses[0].value in imported:
        return "they came quantized with the model"
    if encoding.axis is not None and encoding.block is None and encoding.axis != layer.channel_axis:
        return f"their {'scales' if encoding.group is None else 'tables'} lie along axis {encoding.axis}"
    if layer.inputs > MOST_INPUTS:
        return f"{layer.inputs} inputs are too many for a Gram matrix"
    return ""


class _Shortcut(NamedTuple):
    """An addition that is all that reads a layer's output, and the input slot of the other summand."""

    total: Value
    node: str
    slot: int


class Refinement:
    """The float network and its quantized twin, run in step.

    Attributes:
        encodings: What became of the plan's groups, by name.
        searched: How many activation ranges were chosen anew.
        derives: Names of the nodes whose biases are integers by the plan: none can be added behind its back.
    """

    def __init__(
        self,
        graph: Graph,
        plan: Plan,
        source: DataSource,
        settings: Settings,
        derives: Container[str],
        refined: Container[str],
    ) -> None:
        self.graph = graph
        self.derives = derives
        self.settings = settings
        self.source = source
        self.groups = plan.group_of_use()
        self.twin = QuantizedTwin(graph, plan, refined)
        self.encodings: dict[str, Encoding] = {}
        self.searched = 0
        batch = _batch(graph, source)
        half = settings.memory // 2
        self._float = Stepper(_wanted(graph), source, batch=batch, budget=half)
        self._quantized = Stepper(self.twin.graph, source, batch=batch, budget=half)
        self._settled: set[str] = set()

    def refine(self, layer: Layer) -> None:
        """Chooses a layer's weights, scales and bias, and the range of its input if no layer before has read it."""
        node = layer.node
        group, activation = self.groups[node.name, 1], self.groups.get((node.name, 0))
        weights = layer.matrix(unpruned(self.graph, _constant(node, 1)))
        batches = list(self._watch(layer))
        if activation is not None:
            self._settle(activation, layer, weights, batches)
        encoding = self._encoding(activation) if activation is not None else None
        moments = Moments(weights)
        for batch in batches:
            moments.add(batch.input_rows(encoding), batch.wanted)
        self._replace(layer, group, weights, moments)

    def finish(self) -> dict[str, Encoding]:
        """What became of the plan's groups, by name. Scales of biases follow those that they are products of, refined or not."""
        for (name, slot), group in self.groups.items():
            factors = [self.groups.get((name, other)) for other in (0, 1)]
            known = [self._encoding(factor) for factor in factors if factor is not None]
            changed = any(factor is not None and factor.name in self.encodings for factor in factors)
            if slot == 2 and group.relation == "derived" and len(known) == 2 and changed:
                shape = _data(self.graph.node(name), 2).shape
                self.encodings[group.name] = product_encoding(group.encoding.format, known, shape)
        return self.encodings

    # -- watching -----------------------------------------------------------------------------------------

    def _watch(self, layer: Layer) -> Iterator[_Batch]:
        node = layer.node
        shortcut = _shortcut(node.output)
        out = node.output if shortcut is None else shortcut.total
        x = self.twin.unquantized(node.name, 0)
        other = None
        if shortcut is not None:
            other = self.twin.graph.node(shortcut.node).input(shortcut.slot)
        wanted = [self._float.graph.value(out.name)]
        given = [x, *([other] if other is not None else [])]
        random = np.random.default_rng(0)
        bias = self._bias(layer)
        whole = not self._quantizes_alike(self.groups.get((node.name, 0)))
        for targets, inputs in zip(self._float.step(wanted), self._quantized.step(given), strict=True):
            y = targets[out.name]
            chosen = self._positions(layer, y.shape, random)
            rows = layer.output_rows(y, chosen)
            if other is not None:
                rows = rows - layer.output_rows(inputs[other.name], chosen)
            yield _Batch.of(layer, inputs[x.name], y.shape, chosen, rows - bias, whole=whole)

    def _quantizes_alike(self, group: PlannedGroup | None) -> bool:
        """Whether every element of an activation is quantized the same way, and zero stays zero."""
        encoding = None if group is None else self._encoding(group)
        return encoding is None or (encoding.format.is_integer and encoding.axis is None)

    def _positions(
        self, layer: Layer, shape: tuple[int, ...], random: np.random.Generator
    ) -> NDArray[np.intp]:
        """Which of its output positions each sample contributes."""
        samples = shape[0] if layer.node.op == "Conv" or len(shape) > 1 else 1
        count = layer.positions(shape)
        rows = max(self.settings.rows, self.settings.depth * layer.inputs)
        each = min(-(-rows // max(self.source.count, 1)), count)
        if each == count:
            return np.tile(np.arange(count), (samples, 1))
        # A random start and an even step: no two positions coincide, and none is likelier than another.
        starts = random.integers(0, count, (samples, 1))
        steps = np.arange(each) * count // each
        return (starts + steps) % count

    def _bias(self, layer: Layer) -> NDArray[np.float32]:
        bias = layer.node.input(2)
        if bias is None or bias.data is None:
            return np.zeros((layer.groups, 1, layer.outputs), np.float32)
        return np.broadcast_to(
            np.asarray(bias.data, np.float32).reshape(-1), layer.groups * layer.outputs
        ).reshape(layer.groups, 1, layer.outputs)

    # -- activations --------------------------------------------------------------------------------------

    def _encoding(self, group: PlannedGroup) -> Encoding:
        return self.encodings.get(group.name, group.encoding)

    def _settle(
        self, group: PlannedGroup, layer: Layer, weights: NDArray[np.float64], batches: list[_Batch]
    ) -> None:
        """Searches the range of a group when its first layer is refined; later ones take it as it is."""
        if group.name in self._settled:
            return
        self._settled.add(group.name)
        integer = group.encoding.format.is_integer
        if (
            not self.settings.search_ranges
            or group.relation != "free"
            or not integer
            or group.reason.startswith("kept")
        ):
            return
        searched = _SEARCHED >> (2 if group.encoding.format.bits >= _FINE_BITS else 0)
        rows = int(np.clip(searched // (layer.groups * layer.inputs), *_SEARCH_ROWS))
        each = max(rows // max(sum(len(batch.chosen) for batch in batches), 1), 1)
        x, wanted = [], []
        for batch in batches:
            step = max(batch.chosen.shape[1] // each, 1)
            x.append(batch.input_rows(None, step))
            targets = batch.wanted.reshape(layer.groups, *batch.chosen.shape, layer.outputs)[:, :, ::step]
            wanted.append(targets.reshape(layer.groups, -1, layer.outputs))
        found = search_range(
            np.concatenate(x, axis=1), np.concatenate(wanted, axis=1), weights, group.encoding
        )
        if all(self._bias_fits(use.node, None, x=found) for use in group.uses):
            self.searched += 1
            self.encodings[group.name] = found
            self.twin.retune(group, found)

    # -- weights ------------------------------------------------------------------------------------------

    def _replace(
        self, layer: Layer, group: PlannedGroup, weights: NDArray[np.float64], moments: Moments
    ) -> None:
        node, damping = layer.node, self.settings.damping
        free = _has_bias(node) and not (node.input(2) is None and node.name in self.derives)
        gram, cross = moments.gram(centred=free), moments.cross(centred=free)
        wanted = retargeted(weights, gram, cross, _RETARGETING * damping)
        problem = Quadratic(wanted, damped(gram, damping))
        grid = dataclasses.replace(
            grid_of(group.encoding, layer), zeros=_lasting(group.encoding, layer.matrix(_data(node, 1)))
        )
        fine = group.encoding.format.bits >= _FINE_BITS
        sweeps = 1 if fine else self.settings.sweeps
        for fixed in (self.settings.fixed or fine or group.encoding.block is not None, True):
            codes, found = _rounded(problem, grid, sweeps, fixed=fixed)
            real = layer.tensor(codes * found.scale, _data(node, 1))
            bias = self._corrected(layer, layer.matrix(real) - weights, moments) if free else None
            encoding = _with_grid(group.encoding, found)
            if fixed or self._bias_fits(node.name, bias, encoding):
                break
        self.encodings[group.name] = encoding
        set_layer(self.graph, node, real, bias)
        self.twin.set_layer(node.name, real, bias)

    def _corrected(self, layer: Layer, change: NDArray[np.float64], moments: Moments) -> NDArray[np.float32]:
        """The bias with which outputs are right on average."""
        shift = moments.mean_error - (change * moments.mean[:, None, :]).sum(axis=2)
        bias: NDArray[np.float32] = (self._bias(layer)[:, 0] + shift).reshape(-1).astype(np.float32)
        return bias

    def _bias_fits(
        self,
        node: str,
        bias: NDArray[np.float32] | None,
        weight: Encoding | None = None,
        x: Encoding | None = None,
    ) -> bool:
        """Whether a bias fits its integers, if its scale is a multiple of those of the input and of the weights."""
        groups = [self.groups.get((node, slot)) for slot in (0, 1, 2)]
        if None in groups or groups[2].relation != "derived":  # type: ignore[union-attr]
            return True
        factors = [x or self._encoding(groups[0]), weight or self._encoding(groups[1])]  # type: ignore[arg-type]
        data = np.abs(_data(self.graph.node(node), 2) if bias is None else bias).astype(np.float64)
        product = product_encoding(groups[2].encoding.format, factors, data.shape)  # type: ignore[union-attr]
        return bool((data <= LARGEST_BIAS * np.asarray(product.scale, np.float64)).all())


class _Batch(NamedTuple):
    """What was watched of a layer in one batch.

    Attributes:
        layer: The layer.
        x: Its input in the quantized network, not yet quantized itself; None where `rows` is kept instead.
        rows: What of it is read at the positions drawn, [groups, samples * n, inputs].
        shape: Its output's shape.
        chosen: Output positions drawn, [samples, n].
        wanted: The outputs wanted there, without bias, [groups, samples * n, outputs].
    """

    layer: Layer
    x: NDArray[np.float32] | None
    rows: NDArray[np.float32] | None
    shape: tuple[int, ...]
    chosen: NDArray[np.intp]
    wanted: NDArray[np.float32]

    @classmethod
    def of(
        cls,
        layer: Layer,
        x: NDArray[np.float32],
        shape: tuple[int, ...],
        chosen: NDArray[np.intp],
        wanted: NDArray[np.float32],
        *,
        whole: bool,
    ) -> _Batch:
        """Keeps of the input what is less, or all of it where elements that are not read count."""
        if whole or chosen.size * layer.groups * layer.inputs > x.size:
            return cls(layer, x, None, shape, chosen, wanted)
        return cls(layer, None, layer.input_rows(x, shape, chosen), shape, chosen, wanted)

    def input_rows(self, encoding: Encoding | None, step: int = 1) -> NDArray[np.float32]:
        """What is read at every step-th position of each sample, quantized."""
        if self.rows is None:
            assert self.x is not None
            x = self.x if encoding is None else encoding.fake_quantize(self.x)
            return self.layer.input_rows(x, self.shape, self.chosen[:, ::step])
        groups, _, inputs = self.rows.shape
        rows = self.rows.reshape(groups, *self.chosen.shape, inputs)[:, :, ::step].reshape(groups, -1, inputs)
        return rows if encoding is None else encoding.fake_quantize(rows)


def _has_bias(node: Node) -> bool:
    """Whether a node has a bias that can be changed, or can be given one."""
    bias = node.input(2)
    return ops.takes_bias(node) and (bias is None or bias.is_constant)


def _constant(node: Node, slot: int) -> Value:
    value = node.input(slot)
    assert value is not None
    return value


def _data(node: Node, slot: int) -> NDArray[Any]:
    """The elements of a constant input."""
    return np.asarray(_constant(node, slot).data)


def _wanted(graph: Graph) -> Graph:
    """The network whose outputs are wanted: with all weights, where some were pruned."""
    whole = graph.copy()
    for name, data in (graph.facts.get(UNPRUNED) or {}).items():
        if whole.has_value(name):
            whole.replace_uses(whole.value(name), whole.add_constant(f"{name}.whole", data))
    return whole


def _shortcut(out: Value) -> _Shortcut | None:
    uses = list(out.uses)
    if len(uses) != 1 or out.is_output or uses[0].node.op != "Add" or len(uses[0].node.inputs) != 2:
        return None
    node, slot = uses[0]
    other = node.input(1 - slot)
    alike = other is not None and not other.is_constant and other.shape == out.shape and other is not out
    return _Shortcut(node.output, node.name, 1 - slot) if alike else None


def _batch(graph: Graph, source: DataSource) -> int:
    """Samples per run, so that the largest activation stays within bounds."""
    sizes = [1]
    for value in graph.values:
        dims: Iterable[object] = () if value.is_constant or value.shape is None else value.shape[1:]
        sizes.append(int(np.prod([dim for dim in dims if isinstance(dim, int)], dtype=np.int64)))
    return int(np.clip(_BATCH_BYTES // (4 * max(sizes)), 1, min(64, source.count)))


def _rounded(problem: Quadratic, grid: Grid, sweeps: int, *, fixed: bool) -> tuple[NDArray[np.float64], Grid]:
    """Codes, or entries of a table, and the grid that they are points of."""
    if grid.table is not None:
        return round_to_table(problem, grid, sweeps=sweeps, fixed=fixed)
    codes, scale = round_codes(problem, grid, sweeps=sweeps, fixed=fixed)
    return codes, dataclasses.replace(grid, scale=scale)


def _lasting(encoding: Encoding, weights: NDArray[np.float64]) -> NDArray[np.bool_] | None:
    """The weights that were pruned, if the encoding has zeros for them: the tables of a given plan may have none."""
    held = encoding.table is None or (encoding.table == 0).any(axis=-1).all()
    return lasting_zeros(weights) if held else None


def grid_of(encoding: Encoding, layer: Layer) -> Grid:
    """The grid of an encoding in the layer's matrix form."""
    if encoding.table is not None:
        one = np.ones((1, 1, 1))
        scale = one if encoding.scale is None else encoding.scale.astype(np.float64)
        shape = one.shape if encoding.scale is None else (layer.groups, layer.outputs, 1)
        entries = np.sort(np.atleast_2d(encoding.table), axis=1).astype(np.float64)
        return Grid(scale.reshape(shape), 0 * one, 0, encoding.format.levels - 1, entries)
    assert encoding.scale is not None
    assert encoding.zero_point is not None
    least, most = encoding.least_code, int(encoding.format.maximum)
    scale, zero = encoding.scale.astype(np.float64), encoding.zero_point.astype(np.float64)
    if encoding.block is None:
        shape = (1, 1, 1) if encoding.axis is None else (layer.groups, layer.outputs, 1)
        return Grid(scale.reshape(shape), zero.reshape(shape), least, most)
    data, axis = _data(layer.node, 1), encoding.axis or 0
    where = np.arange(data.shape[axis]) // encoding.block
    return Grid(layer.matrix(scale.take(where, axis)), layer.matrix(zero.take(where, axis)), least, most)


def _with_grid(encoding: Encoding, grid: Grid) -> Encoding:
    if encoding.block is not None:
        return encoding
    scale = None if encoding.scale is None else grid.scale.reshape(encoding.scale.shape).astype(np.float32)
    table = encoding.table
    if table is not None and grid.table is not None:
        table = grid.table.reshape(table.shape).astype(np.float32)
    return dataclasses.replace(encoding, scale=scale, table=table)
