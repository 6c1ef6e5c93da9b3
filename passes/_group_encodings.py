"""The numbers of encodings: from the target, an imported encoding, a weight's elements, or calibration."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from qcompiler.assignment import use_value
from qcompiler.codebooks import codebook, codebooks, scaled_codebook
from qcompiler.errors import ModelError
from qcompiler.groups import Group
from qcompiler.ir.encoding import MIN_SCALE, Encoding, block_range, channel_range
from qcompiler.ir.plan import PlannedGroup, UsePoint
from qcompiler.sources import value_source
from qcompiler.weight_ranges import least_error_range

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from qcompiler.assignment import Problem
    from qcompiler.forms import Form
    from qcompiler.imported import Imported
    from qcompiler.ir.encoding import Format
    from qcompiler.ir.node import Use, Value
    from qcompiler.observed import Ranges

LARGEST_BIAS = 1 << 30  # in codes: half of what int32 holds, so that later corrections and sums fit too
_EXACT_BIAS = 1 << 24  # as many codes as float32 tells apart


class GroupEncoder:
    """Gives groups their numbers: from the spec, an imported encoding, a weight's elements, or calibration."""

    def __init__(self, problem: Problem, ranges: Ranges, imported: Imported, weight_range: str) -> None:
        self.problem = problem
        self.ranges = ranges
        self.imported = imported
        self.weight_range = weight_range
        self.of_use: dict[Use, Encoding] = {}
        self.names: set[str] = set()
        self.biases: dict[Use, list[tuple[Group, tuple[Use, ...]]]] = {}

    def encode(self, groups: list[Group]) -> list[PlannedGroup]:
        """The groups with encodings, in the given order.

        Raises:
            ModelError: A constant has an element that is not finite.
            DataError: A range is needed that was not observed.
        """
        planned: dict[int, PlannedGroup] = {}
        for value in dict.fromkeys(value for group in groups for value in group.values):
            _check_finite(value)
        for group in groups:
            for use in group.derived:
                others = tuple(other for other in group.derived if other is not use)
                self.biases.setdefault(use, []).append((group, others))
        for group in sorted(groups, key=_turn):
            encoding, reason = self._encoding(group)
            self.of_use.update(dict.fromkeys(group.uses, encoding))
            planned[id(group)] = PlannedGroup(
                self._name(group.values[0].name),
                encoding,
                tuple(value.name for value in group.stored),
                tuple(UsePoint(use.node.name, use.slot, use_value(use).name) for use in group.uses),
                group.relation,
                reason,
                group.spec.offset,
            )
        return [planned[id(group)] for group in groups]

    def of_form(self, form: Form, uses: tuple[Use, ...]) -> Encoding:
        """The encoding that a form would have if it were a group of its own.

        Raises:
            ModelError: A constant has an element that is not finite.
            DataError: A range is needed that was not observed.
        """
        _check_finite(form.value)
        group = Group(form.spec, form.axis, uses=list(uses), values=[form.value])
        return self._chosen(group, self.imported.fitting(group)[0])[0]

    def _name(self, hint: str) -> str:
        name, number = hint, 1
        while name in self.names:
            name, number = f"{hint}#{number}", number + 1
        self.names.add(name)
        return name

    def _encoding(self, group: Group) -> tuple[Encoding, str]:
        kept, changed = self.imported.fitting(group)
        encoding, reason = self._chosen(group, kept)
        self.imported.settle(group, encoding, changed if kept is encoding else changed or reason)
        return encoding, reason

    def _chosen(self, group: Group, kept: Encoding | None) -> tuple[Encoding, str]:
        """The encoding, and where its numbers come from."""
        spec = group.spec
        if spec.derived:
            return self._derived(group)
        if spec.scale is not None:
            zero = np.int32(spec.zero_point or 0)
            return Encoding(
                spec.numeric, np.asarray(spec.scale, np.float32), np.asarray(zero)
            ), "fixed by the target"
        if kept is not None:
            return kept, "kept from the imported model"
        constants = [value for value in group.values if value.is_constant]
        if constants and len(constants) == len(group.values):
            return self._weight(group, constants)
        return self._activation(group, constants)

    def _derived(self, group: Group) -> tuple[Encoding, str]:
        factors = [self.of_use[use] for use in group.derived]
        shape = np.asarray(group.values[0].data).shape
        names = " x ".join(group.spec.derived)
        return product_encoding(group.spec.numeric, factors, shape), f"scale of {names}"

    def _weight(self, group: Group, constants: list[Value]) -> tuple[Encoding, str]:
        spec = group.spec
        if spec.numeric.kind == "table":
            return self._table(group, constants), "weights, k-means"
        lows, highs = zip(*(self._weight_ends(value, group) for value in constants), strict=True)
        low, high = np.minimum.reduce(lows), np.maximum.reduce(highs)
        how = "min-max" if self.weight_range == "min-max" or spec.block is not None else "least squared error"
        encoding = Encoding.from_range(
            spec.numeric,
            low,
            high,
            symmetric=spec.symmetric,
            narrow=spec.narrow,
            axis=group.axis,
            block=spec.block,
        )
        return self._holding_biases(encoding, group, np.maximum(-low, high) > 0), f"weights, {how}"

    def _table(self, group: Group, constants: list[Value]) -> Encoding:
        """Tables for weights: one, with a scale per channel where the row asks for that, or one per group of channels."""
        spec, parts = group.spec, [np.asarray(value.data, np.float32) for value in constants]
        if group.axis is None:
            entries = codebook(np.concatenate([part.reshape(-1) for part in parts]), spec.numeric.levels)
            return Encoding(spec.numeric, table=entries)
        axis = group.axis
        rows = np.concatenate(
            [np.moveaxis(part, axis, 0).reshape(part.shape[axis], -1) for part in parts], axis=1
        )
        if spec.group is not None:
            tables = codebooks(rows.reshape(len(rows) // spec.group, -1), spec.numeric.levels)
            return Encoding(spec.numeric, axis=axis, table=tables, group=spec.group)
        scale, entries = scaled_codebook(rows, spec.numeric.levels)
        return Encoding(spec.numeric, scale, None, axis, table=entries)

    def _holding_biases(self, encoding: Encoding, group: Group, used: NDArray[np.bool_]) -> Encoding:
        """The encoding with scales so large that biases fit int32, where their scales are multiples of these.

        Channels of tiny weights would overflow it, and those of zero weights have no scale of their own.
        """
        if encoding.scale is None or encoding.block is not None:
            return encoding
        least = np.zeros(encoding.scale.shape)
        for use in group.uses:
            for biases, others in self.biases.get(use, ()):
                factor = np.prod(
                    [np.max(np.asarray(self.of_use[other].scale, np.float64)) for other in others]
                )
                data = np.abs(np.asarray(biases.values[0].data, np.float64))
                alike = data.size == 1 or not least.ndim
                largest = data.max() if alike else data.reshape(-1, len(least)).max(axis=0)
                least = np.maximum(least, largest / factor)
        scale = np.where(
            used | (least == 0),
            np.maximum(encoding.scale, least / LARGEST_BIAS),
            np.maximum(least / _EXACT_BIAS, MIN_SCALE),
        )
        return dataclasses.replace(encoding, scale=scale.astype(np.float32))

    def _weight_ends(self, value: Value, group: Group) -> tuple[NDArray[Any], NDArray[Any]]:
        assert value.data is not None
        data, spec = np.asarray(value.data, np.float32), group.spec
        if spec.block is not None and group.axis is not None:
            return block_range(data, group.axis, spec.block)
        rows = (
            data.reshape(1, -1)
            if group.axis is None
            else np.moveaxis(data, group.axis, 0).reshape(data.shape[group.axis], -1)
        )
        if self.weight_range == "mse":
            low, high = least_error_range(rows, spec.numeric, symmetric=spec.symmetric, narrow=spec.narrow)
        else:
            low, high = channel_range(rows, 0)
        return (low, high) if group.axis is not None else (low[0], high[0])

    def _activation(self, group: Group, constants: list[Value]) -> tuple[Encoding, str]:
        known = self.imported.ranges
        intervals = [known[value] for value in group.values if value in known]
        how = "the range of the imported encoding"
        open_ = [value for value in group.values if not value.is_constant and value not in known]
        if open_:
            sources = list(dict.fromkeys(value_source(value).name for value in open_))
            intervals.append(self.ranges.interval(sources, group.spec))
            how = f"{how} and {self.ranges.method.name}" if len(intervals) > 1 else self.ranges.method.name
        intervals += [
            (float(np.min(value.data)), float(np.max(value.data)))
            for value in constants
            if value.data is not None and value.data.size
        ]
        low, high = min(item[0] for item in intervals), max(item[1] for item in intervals)
        encoding = Encoding.from_range(
            group.spec.numeric, low, high, symmetric=group.spec.symmetric, narrow=group.spec.narrow
        )
        return encoding, f"{how}: {low:.4g}..{high:.4g}"


def product_encoding(numeric: Format, factors: Sequence[Encoding], shape: tuple[int, ...]) -> Encoding:
    """The encoding whose scale is the product of others': of a bias, of that shape."""
    scale = np.prod(np.broadcast_arrays(*(np.asarray(item.scale, np.float64) for item in factors)), axis=0)
    scale = np.maximum(scale, MIN_SCALE).astype(np.float32)
    axis = int(np.argmax(shape)) if scale.ndim and shape else None
    if axis is not None and shape[axis] % len(scale) == 0:
        scale = np.tile(scale, shape[axis] // len(scale))  # groups of channels that share their scales
    return Encoding(numeric, scale, np.zeros(scale.shape, np.int32), axis)


def _turn(group: Group) -> int:
    """When a group gets its numbers: weights after activations, because their biases have to fit; products last."""
    return 2 if group.spec.derived else int(all(value.is_constant for value in group.values))


def _check_finite(value: Value) -> None:
    if value.data is None:
        return
    finite = np.isfinite(np.asarray(value.data, np.float32))
    if not finite.all():
        where = [int(index) for index in np.argwhere(~finite)[0]]
        users = ", ".join(node.name for node in value.consumers[:3])
        raise ModelError(
            f"The weight {value.name!r} of {users} has a NaN or infinite element at {where}; it cannot be quantized. "
            "Repair or retrain the model; the float model computes nonsense there too."
        )
