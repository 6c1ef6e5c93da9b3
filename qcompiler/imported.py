"""Encodings that came with the model: which are taken over, what becomes of the others, and why.

Every one is either kept as it is or has exactly one note. One of a constant counts only while the constant lies on its
grid: a pass that changes the elements (folding a batch normalization, say) makes it void, without having to know of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from qcompiler import ops
from qcompiler.groups import unfit
from qcompiler.ir.encoding import FORMATS, Encoding, Format

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qcompiler.groups import Group
    from qcompiler.ir.graph import Graph
    from qcompiler.ir.node import Node, Value
    from qcompiler.ir.plan import PlannedRegion

Interval = tuple[float, float]

_PERMUTING = frozenset(
    {"Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Identity", "DepthToSpace", "SpaceToDepth"}
)
_OTHER_SIGN: Mapping[str, Format] = {
    entry.name: FORMATS[other]
    for entry in FORMATS.values()
    if entry.is_integer
    and entry.bits <= 16
    and (other := entry.name.removeprefix("u") if entry.name.startswith("u") else f"u{entry.name}") in FORMATS
}


def imported_ranges(graph: Graph, entries: Mapping[str, Encoding]) -> dict[Value, Interval]:
    """The range of every computed value or graph input that has an encoding or whose elements come from ones that have.

    Through data movement and padding with zeros in both directions, through maximum pooling and concatenation forwards.
    """
    return {value: source.interval for value, source in _sources(graph, entries).items()}


class _Source(NamedTuple):
    """Where a value's elements come from: the name of the value that has an encoding; "" for several of them."""

    interval: Interval
    name: str


def _sources(graph: Graph, entries: Mapping[str, Encoding]) -> dict[Value, _Source]:
    found: dict[Value, _Source] = {}
    if not entries:
        return found
    order = graph.topological()
    for value in graph.values:
        if value.name in entries and not value.is_constant:
            found[value] = _Source(entries[value.name].real_range(), value.name)
    for node in reversed(order):
        source = node.input(0)
        passes = node.is_op(*_PERMUTING) or (node.is_op("Pad") and _pads_zeros(node))
        if passes and source is not None and not source.is_constant and node.output in found:
            found.setdefault(source, found[node.output])
    for node in order:
        passed = _passed_on(node, found, entries)
        if passed is not None:
            for output in node.outputs:
                if output is not None:
                    found.setdefault(output, passed)
    return found


def _passed_on(node: Node, found: Mapping[Value, _Source], entries: Mapping[str, Encoding]) -> _Source | None:
    row = ops.info(node)
    if row.kind == "join":
        values = [value for value in node.inputs if value is not None]
    elif row.keeps_values and (node.op != "Pad" or _pads_zeros(node)):
        values = [value for value in node.inputs[:1] if value is not None]
    else:
        return None
    if not values or any(value not in found for value in values):
        return None
    sources = [found[value] for value in values]
    alike = all(item.name and entries[item.name] == entries.get(sources[0].name) for item in sources)
    interval = min(item.interval[0] for item in sources), max(item.interval[1] for item in sources)
    return _Source(interval, sources[0].name if alike else "")


def _pads_zeros(node: Node) -> bool:
    """Whether a Pad brings in no numbers but zeros, which every encoding holds, and those that are there."""
    given = node.input(2)
    return given is None or (given.data is not None and not np.any(given.data))


class Imported:
    """The imported encodings of one graph while groups get theirs.

    Attributes:
        entries: By value name.
        ranges: See `imported_ranges`.
    """

    def __init__(self, graph: Graph, entries: Mapping[str, Encoding]) -> None:
        self.graph = graph
        self.entries = entries
        self._sources = _sources(graph, entries)
        self.ranges = {value: source.interval for value, source in self._sources.items()}
        self._kept: dict[str, None] = {}
        self._changes: dict[str, dict[str, None]] = {}
        self._carried: dict[str, dict[str, None]] = {}

    def _name_of(self, value: Value) -> str:
        """The name under which a value's encoding came, its own or that of the value it only moves; "" if none did."""
        if value.name in self.entries:
            return value.name
        return self._sources[value].name if value in self._sources else ""

    def fitting(self, group: Group) -> tuple[Encoding | None, str]:
        """The encoding to take over for a group, perhaps in another form of the same grid, and why it is not as it was.

        Returns:
            The encoding (None: a new one has to be made) and the reason; empty where nothing changes, or nothing came.
        """
        named = [value for value in group.values if self._name_of(value)]
        if not named:
            return None, ""
        given = list(dict.fromkeys(self.entries[self._name_of(value)] for value in named))
        if len(given) > 1:
            return (
                None,
                f"it shares one encoding with {_listed(named)}, and they had {len(given)} different ones",
            )
        unknown = [value for value in group.values if not value.is_constant and value not in self.ranges]
        if unknown:
            return None, f"it shares one encoding with {_listed(unknown)}, which came without"
        encoding: Encoding | None = given[0]
        assert encoding is not None
        reasons: list[str] = []
        for value in group.values:
            if value.data is not None and encoding is not None:
                encoding = _on_grid(encoding, np.asarray(value.data), group.axis)
        if encoding is None:
            return None, "the constant does not lie on that grid any more: a pass changed its elements"
        if encoding.axis != given[0].axis:
            reasons.append("the constant was transposed")
        if encoding.format is not group.spec.numeric:
            encoding = _other_sign(encoding)
            reasons.append(
                f"the target takes {group.spec.format}; scale and grid are the same, codes are shifted"
            )
        reason = unfit(encoding, group.spec, group.axis)
        if reason is not None:
            return None, reason
        if group.spec.narrow and not encoding.narrow:
            encoding = dataclasses.replace(encoding, narrow=True)
            reasons.append("the target does not use the lowest code")
        return encoding, " and ".join(reasons)

    def settle(self, group: Group, encoding: Encoding, reason: str) -> None:
        """Records what a group was given; where that is not what came, `reason` says why."""
        for value in group.values:
            name = self._name_of(value)
            if not name:
                continue
            same = self.entries[name] == encoding
            text = "the same" if same else f"{described(encoding)}, because {reason}"
            if name != value.name:
                self._carried.setdefault(name, {})[f"{text}, on {value.name}, which only moves it"] = None
            elif same:
                self._kept[name] = None
            else:
                self._changes.setdefault(name, {})[text] = None

    def notes(self, regions: Iterable[PlannedRegion]) -> list[str]:
        """One note for every encoding that was not kept everywhere, in the order in which they came."""
        region_of = {name: region for region in regions for name in region.nodes}
        found = []
        for name, given in self.entries.items():
            changes = list(self._changes.get(name, {}))
            if name in self._kept and not changes:
                continue
            if name in self._kept:
                changes.insert(0, "the same for some of its readers")
            what = "; and → ".join(changes or self._carried.get(name, ()))
            what = what or f"not quantized, because {self._unused(name, region_of)}"
            found.append(f"{name}: imported {described(given)} → {what}")
        return found

    def _unused(self, name: str, region_of: Mapping[str, PlannedRegion]) -> str:
        if not self.graph.has_value(name):
            return "the value is gone: it was folded into another, or simplified away"
        value = self.graph.value(name)
        readers = [region_of[node.name] for node in value.consumers if node.name in region_of]
        if not readers:
            return "the graph returns it as a float"
        home = region_of.get(value.producer.name) if value.producer is not None else None
        if home is not None and all(region is home for region in readers):
            return f"it stays inside the kernel {home.kernel} of {home.name}"
        reader = readers[0]
        if reader.quantized:
            return f"row {reader.row} of {reader.name} takes it as a float"
        return f"{reader.name} computes in float ({reader.reason.removeprefix('float: ')})"


def described(encoding: Encoding) -> str:
    """An encoding with what notes are about: whether it is symmetric."""
    numeric = encoding.format
    if not numeric.is_integer or encoding.zero_point is None:
        return str(encoding)
    kind = "symmetric" if bool((encoding.zero_point == numeric.middle).all()) else "affine"
    return str(encoding).replace(numeric.name, f"{numeric.name} {kind}", 1)


def _listed(values: list[Value]) -> str:
    names = ", ".join(value.name for value in values[:3])
    return f"{names} and {len(values) - 3} others" if len(values) > 3 else names


def _on_grid(encoding: Encoding, data: NDArray[Any], axis: int | None) -> Encoding | None:
    """The encoding if the elements lie on its grid, along its own axis or, where the constant was transposed, another."""
    for candidate in (encoding, _along(encoding, data, axis)):
        if candidate is not None and _holds(candidate, data):
            return candidate
    return None


def _along(encoding: Encoding, data: NDArray[Any], axis: int | None) -> Encoding | None:
    if encoding.axis is None or axis is None or encoding.axis == axis or encoding.scale is None:
        return None
    if encoding.block is None:
        return dataclasses.replace(encoding, axis=axis)
    if data.ndim != 2:
        return None
    zero = encoding.zero_point
    return dataclasses.replace(
        encoding, scale=encoding.scale.T, zero_point=None if zero is None else zero.T, axis=axis
    )


def _holds(encoding: Encoding, data: NDArray[Any]) -> bool:
    """Whether a constant survives the encoding unchanged, but for what storing it as 16-bit float costs."""
    if encoding.axis is not None:
        if encoding.axis >= data.ndim or encoding.scale is None:
            return False
        blocks = 1 if encoding.block is None else encoding.block
        count = encoding.scale.shape[encoding.axis if encoding.block is not None else 0]
        if -(-data.shape[encoding.axis] // blocks) != count:
            return False
    back = encoding.fake_quantize(data.astype(np.float32)).astype(data.dtype)
    return bool(np.array_equal(back, data))


def _other_sign(encoding: Encoding) -> Encoding:
    """The same grid in codes of the other signedness; other formats have none."""
    numeric = encoding.format
    other = _OTHER_SIGN.get(numeric.name)
    if other is None or encoding.zero_point is None:
        return encoding
    zero = encoding.zero_point + np.int32(other.minimum - numeric.minimum)
    return dataclasses.replace(encoding, format=other, zero_point=zero)
