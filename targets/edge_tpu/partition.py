"""What the Edge TPU's compiler (version 16) makes of a file, predicted operator by operator: what it maps, what stays on the CPU, why.

It works as a delegate of TensorFlow Lite: operators that can be mapped and others form epochs in turn, and without its flag -a the
first epoch that can be mapped is mapped, no other. What single operators have to keep, and from where that is known, is in `mapping_rules`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from qcompiler.errors import TargetError
from qcompiler.targets.edge_tpu import mapping_rules as rules
from qcompiler.targets.edge_tpu.mapping_rules import Call, Refusal, broken
from qcompiler.targets.edge_tpu.versions import minimum_runtime

if TYPE_CHECKING:
    from qcompiler.targets.edge_tpu.model import Model, Operator

AVAILABLE = (round(6 * 2**20 / 1.4), round(8.05 * 2**20))
"""Bytes of constants, at least and at most, that stay in some 8 MiB on chip (coral.ai, "Edge TPU Compiler"): the program goes first, and
what it is compiled to takes up to 1.4 times as much (pairs). An assumption from logs of the compiler: 7.67 to 8.05 MiB are left beside
programs of few operators, 6.0 to 7.3 beside those of 50 to 300; seldom much less (1.1 to 3.0: issues 427, 572, 686)."""
LONG = rules.Limit(4_096, 16_384)
"""Inputs of fully connected layers: weights stay on chip up to the first number, and from the second on they never do (pairs)."""
_NEWEST = (2, 6)
"""The TensorFlow whose operators the compiler can parse: QUANTIZE 3, of TensorFlow 2.7, it cannot (issue 879)."""
_NEWER = {"BROADCAST_ARGS", "RANDOM_STANDARD_NORMAL", "BUCKETIZE", "RANDOM_UNIFORM", "MULTINOMIAL", "GELU", "DYNAMIC_UPDATE_SLICE",
    "RELU_0_TO_1", "UNSORTED_SEGMENT_PROD", "UNSORTED_SEGMENT_MAX", "UNSORTED_SEGMENT_SUM", "UNSORTED_SEGMENT_MIN", "ATAN2", "SIGN",
    "BITCAST", "BITWISE_XOR", "RIGHT_SHIFT", "DILATE", "REDUCE_WINDOW"}  # fmt: skip
"""Operators that came after that; besides, all whose names begin with STABLEHLO."""


@dataclass(frozen=True)
class Placement:
    """Where an operator runs.

    Attributes:
        index: Its place in the file.
        op: What people call it.
        output: The name of the tensor that it writes first.
        mapped: Whether it runs on the accelerator.
        status: What the compiler's log says of it.
        rule: Why, with the number that matters.
        evidence: "measured" or "documented".
        source: Where that is from; see `mapping_rules`.
    """

    index: int
    op: str
    output: str
    mapped: bool
    status: str
    rule: str
    evidence: str
    source: str

    @property
    def legal(self) -> bool:
        """Whether it could be mapped, taken by itself."""
        return self.status in (rules.MAPPED, rules.STRANDED)


@dataclass(frozen=True)
class Partition:
    """What becomes of a file.

    Attributes:
        operators: Every operator, in the order of the file.
        segments: How many epochs of operators could be mapped; the first of them is.
        cut: The first operator of the epoch behind that one; None if there is none.
        refused: Why the compiler refuses the file as a whole; empty if it does not.
        parameters: Bytes of constants of mapped operators, without axes and sizes.
        streamed: Bytes of these that go to the accelerator at every inference, at least and at most; the rest stays on chip.
    """

    operators: tuple[Placement, ...]
    segments: int = 0
    cut: int | None = None
    refused: str = ""
    parameters: int = 0
    streamed: tuple[int, int] = (0, 0)

    @cached_property
    def mapped(self) -> int:
        """How many operators are mapped."""
        return sum(operator.mapped for operator in self.operators)

    @property
    def whole(self) -> bool:
        """Whether every operator is mapped."""
        return self.mapped == len(self.operators)

    @property
    def first_is_cpu(self) -> bool:
        """Whether nothing is mapped at all: everything runs on the CPU."""
        return not self.mapped

    @property
    def fits(self) -> bool | None:
        """Whether all parameters stay on chip; None where it depends on how large the program is."""
        least, most = self.streamed
        return False if least else None if most else True

    @property
    def summary(self) -> str:
        """It in a sentence or two."""
        if self.refused:
            return f"The compiler refuses the file: {self.refused}."
        if self.first_is_cpu:
            text = f"None of {len(self.operators)} operators is mapped"
        else:
            where = "in one segment" if self.segments == 1 else f"in the first of {self.segments} segments"
            text = f"{self.mapped} of {len(self.operators)} operators are mapped, {where}; {self._memory}"
        unmapped = [operator for operator in self.operators if not operator.legal]
        if unmapped:
            first = unmapped[0] if self.cut is None else self.operators[self.cut]
            text += f". Operator {first.index}, {first.op}, is not: {first.rule}"
        return text + "."

    @property
    def _memory(self) -> str:
        held = f"{_megabytes(self.parameters)} of parameters"
        if self.fits is None:
            return f"{held} may not all fit on chip, where {' to '.join(map(_megabytes, AVAILABLE))} are free"
        least = f"at least {_megabytes(self.streamed[0])} are streamed at every inference"
        return f"{held} fit on chip" if self.fits else f"of {held}, {least}"

    def details(self) -> dict[str, Any]:
        """For the report."""
        memory = {"bytes": self.parameters, "fit": self.fits, "streamed": list(self.streamed)}
        return {
            "summary": self.summary,
            "refused": self.refused,
            "mapped": self.mapped,
            "whole": self.whole,
            "segments": self.segments,
            "cut": self.cut,
            "parameters": {**memory, "available": list(AVAILABLE)},
            "operators": [asdict(operator) for operator in self.operators],
        }


def _megabytes(size: int) -> str:
    return f"{size / 2**20:.1f} MiB" if size >= 1e5 else f"{size / 2**10:.1f} KiB"


def partition(model: Model) -> Partition:
    """Predicts what the compiler maps.

    Raises:
        TargetError: Operators read what is written by none that could run before them.
    """
    refusals = [refusal(model, operator) for operator in model.operators]
    stretches = epochs(model, [found is None for found in refusals])
    for index, found in enumerate(refusals):
        if found is not None and found[0].whole:
            refused = f"operator {index}, {model.operators[index].name}: {found[1]}"
            others = (found[0], f"the file is refused for {refused}")
            placed = [_placement(model, at, each or others) for at, each in enumerate(refusals)]
            return Partition(tuple(placed), refused=refused)
    legal = [at for at, stretch in enumerate(stretches) if refusals[stretch[0]] is None]
    first = frozenset(stretches[legal[0]] if legal else ())
    cut = stretches[legal[0] + 1][0] if legal and legal[0] + 1 < len(stretches) else None
    placed = [_placement(model, at, found, at in first, cut) for at, found in enumerate(refusals)]
    return Partition(tuple(placed), len(legal), cut, "", *_memory(model, first))


def _placement(
    model: Model, index: int, found: Refusal | None, mapped: bool = False, cut: int | None = None
) -> Placement:
    operator = model.operators[index]
    output = next((model.tensors[at].name for at in operator.outputs if at >= 0), "")
    why: tuple[str, str, str, str]
    if found is not None:
        why = (found[0].status, found[1], found[0].evidence, found[0].source)
    elif mapped and operator.op in rules.UNSEEN:
        why = (rules.MAPPED, "it is on the vendor's list", "documented", "SO")
    elif mapped:
        why = (rules.MAPPED, "it is mapped in compiled files", "measured", "pairs")
    else:
        end = "" if cut is None else f", which operator {cut}, {model.operators[cut].name}, ends"
        why = (rules.STRANDED, f"one segment is mapped{end}", "measured", "pairs; issue 461")
    return Placement(index, operator.name, output, mapped, *why)


def _memory(model: Model, operators: frozenset[int]) -> tuple[int, tuple[int, int]]:
    """Bytes of the constants that operators calculate with, each once; and how many of them are streamed, at least and at most."""
    sizes: dict[int, tuple[int, int]] = {}
    for operator in (model.operators[index] for index in operators):
        for place, tensor in enumerate(operator.inputs):
            data = model.tensors[tensor].data if tensor >= 0 else None
            if data is not None and place not in rules.SHAPING.get(operator.op, ()):
                dense = operator.op == "FULLY_CONNECTED" and data.ndim > 1
                sizes[tensor] = (data.nbytes, data.shape[-1] if dense else 0)
    total = sum(size for size, _ in sizes.values())

    def streamed(free: int, inputs: int) -> int:
        # A constant that does not fit by itself is not kept in part: of one layer of 64 MiB nothing was.
        never = sum(size for size, count in sizes.values() if size > free or count > inputs)
        return never + max(0, total - never - free)

    return total, (streamed(AVAILABLE[1], (LONG.refused or 0) - 1), streamed(AVAILABLE[0], LONG.mapped))


def epochs(model: Model, legal: Sequence[bool]) -> tuple[tuple[int, ...], ...]:
    """Operators by epoch, ascending: of what can run, all of one kind, legal or not; then all of the other kind that can run now; and so on.

    The first epoch is of the kind of the first operator that can run. Source: tensorflow/lite/graph_info.cc, greedily.

    Raises:
        TargetError: Operators read what is written by none that could run before them.
    """
    writers = {tensor: index for index, item in enumerate(model.operators) for tensor in item.outputs}
    writers.pop(-1, None)
    sources = [{writers[tensor] for tensor in item.inputs if tensor in writers} for item in model.operators]
    readers: list[list[int]] = [[] for _ in sources]
    for index, before in enumerate(sources):
        for source in before:
            readers[source].append(index)
    missing = [len(before) for before in sources]
    ready: dict[bool, list[int]] = {True: [], False: []}
    for index, count in enumerate(missing):
        if not count:
            ready[bool(legal[index])].append(index)
    found: list[tuple[int, ...]] = []
    kind = min(ready, key=lambda kind: min(ready[kind], default=len(missing)))
    while ready[kind]:
        stretch: list[int] = []
        while ready[kind]:
            stretch.append(ready[kind].pop())
            for reader in readers[stretch[-1]]:
                missing[reader] -= 1
                if not missing[reader]:
                    ready[bool(legal[reader])].append(reader)
        found.append(tuple(sorted(stretch)))
        kind = not kind
    if any(missing):
        raise TargetError(f"operator {next(at for at, count in enumerate(missing) if count)} can never run.")
    return tuple(found)


def refusal(model: Model, operator: Operator) -> Refusal | None:
    """The first rule that an operator breaks by itself, in the order in which the compiler seems to look; None if it can be mapped."""
    return next(_refusals(Call(model, operator)), None)


def _refusals(call: Call) -> Iterator[Refusal]:
    op, version = call.operator.op, call.operator.version
    yield from _whole(call)
    yield from _types(call)
    if op not in rules.VERSIONS:
        yield broken("listed", call.operator.name)
        return
    if version > rules.VERSIONS[op]:
        yield broken("version", f"{op} of version {version}, the highest known is {rules.VERSIONS[op]}")
    for index in rules.WEIGHTS.get(op, ()):
        tensor = call.operands[index] if index < len(call.operands) else None
        if tensor is not None and tensor.data is None:
            yield broken("weights", f"{tensor.name!r} is computed")
    yield from rules.special(call)
    for tensor in call.activations:
        if any(extent > 1 for extent in tensor.shape[:-3]):
            yield broken("rank", f"{tensor.name!r} has the dimensions {list(tensor.shape)}")
        if (1, 1, 1, *tensor.shape)[-3] == 1 and not rules.NARROW.allows(tensor.elements):
            yield broken(
                "narrow", f"{tensor.name!r} has {tensor.elements:,} elements in one row", rules.NARROW
            )
    yield from rules.special(call)


def _whole(call: Call) -> Iterator[Refusal]:
    op, version = call.operator.op, call.operator.version
    reader = minimum_runtime(replace(call.model, operators=(call.operator,)))
    if tuple(map(int, reader.split(".")[:2])) > _NEWEST or op in _NEWER or op.startswith("STABLEHLO"):
        yield broken("parses", f"{op} of version {version}")
    for index, tensor in enumerate((*call.operands, *call.results)):
        if tensor is not None and min(tensor.shape, default=0) < 0:
            yield broken("static", f"{tensor.name!r} has the dimensions {list(tensor.shape)}")
        shapes = index < len(call.operands) and index in rules.SHAPING.get(op, ())
        if tensor is not None and shapes and tensor.data is None and tensor.elements:
            yield broken("static", f"{tensor.name!r}, which gives a shape, is computed")


def _types(call: Call) -> Iterator[Refusal]:
    numbers = (*call.data, *call.results) if call.operator.op in rules.VERSIONS else call.activations
    others = [tensor for tensor in numbers if tensor.type not in ("INT8", "UINT8")]
    if call.operator.op == "QUANTIZE" and others == [call.x]:
        yield broken("requantization", f"{call.x.name!r} is {call.x.type.lower()}")
    for tensor in others:
        yield broken("type", f"{tensor.name!r} is {tensor.type.lower()}")
    for tensor in call.activations:
        if tensor.quantization is None:
            yield broken("quantized", f"{tensor.name!r} has none")
        elif tensor.quantization.per_channel:
            yield broken("per-tensor", f"{tensor.name!r} has {len(tensor.quantization.scale)} scales")
