"""matmul_to_conv: writes products of many rows by a constant matrix as convolutions with a single tap."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from qcompiler.ir.facts import CANONICAL
from qcompiler.observed import IMPORTED
from qcompiler.pass_manager import Effect, Pass, PassContext, PassResult
from qcompiler.passes import _canonical_layout
from qcompiler.passes._canonical_linear import gemm_attribute
from qcompiler.passes._operands import along_axis, element_count
from qcompiler.regions import REGIONS
from qcompiler.rewrite import Rewrite, apply_rewrites

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qcompiler.ir.graph import Graph
    from qcompiler.ir.node import Shape, Value
    from qcompiler.patterns import Match

_ACTIVATION = "Relu|Clip(_, $low?, $high?)?"


class MatMulToConv(Rewrite):
    """MatMul, the addition of a bias and an activation: Conv and the activation between two Transposes."""

    name = "write MatMul as Conv"
    patterns: ClassVar[tuple[str, ...]] = (
        f"MatMul(x, $w) -> Add(_, $b)? -> {_ACTIVATION}",
        f"MatMul(x, $w) -> {_ACTIVATION}",  # where what is added is no bias
    )

    def __init__(self) -> None:
        self._filters: dict[tuple[Value, int, bool], Value] = {}

    def check(self, match: Match) -> str | None:
        """Wants one matrix, and rows of which there are several."""
        node, x = match.anchor, match["x"]
        if x.is_constant:
            return ""
        if match["w"].rank != 2:
            return f"the constant {match['w'].name!r} is no single matrix"
        if [gemm_attribute(node, name) for name in ("alpha", "beta", "transA")] != [1, 1, 0]:
            return "it has an alpha, a beta or a transA, which canonicalize could not take out"
        if x.shape is None:
            return f"the rank of {x.name!r} is not known"
        rows = x.shape[1:-1] if _has_samples(x) else x.shape[:-1]
        if element_count(rows) == 1:
            return ""
        if match.get("b") is not None and _bias(match) is None:
            return "" if node.op == "MatMul" else f"the bias {match['b'].name!r} is no constant row"
        if not _is_image(x) and sum(not isinstance(dim, int) for dim in rows) > 1:
            return f"more than one of the axes of {x.name!r} that its rows lie along is open"
        return None

    def replace(self, graph: Graph, match: Match) -> Value | None:
        """Builds it; where the rows are not the axes of an image, Reshapes make one axis of them and several again."""
        x, bias = match["x"], _bias(match)
        assert x.shape is not None
        image = x if _is_image(x) else _one_axis_of_rows(graph, x)
        assert image.shape is not None
        samples, *places, depth = range(len(image.shape))
        filters = self._as_filters(graph, match, len(places))
        operands = [_transposed(graph, image, (samples, depth, *places)), filters]
        if bias is not None:
            operands.append(graph.add_constant(f"{match['b'].name}.row", np.ascontiguousarray(bias)))
        ones, features = [1] * len(places), _matrix(match).shape[0]
        shape = (image.shape[0], features, *image.shape[1:-1])
        value = graph.add_value(f"{match.anchor.output.name}.conv", x.dtype, shape)
        attributes = {
            "kernel_shape": ones, "strides": ones, "dilations": ones, "pads": [0, 0] * len(ones), "group": 1,
        }  # fmt: skip
        graph.add_node("Conv", operands, [value], attributes)
        if match.root.op in ("Relu", "Clip"):  # behind the Transpose no kernel would take it along
            active = graph.add_value(f"{match.root.output.name}.conv", x.dtype, shape)
            graph.add_node(match.root.op, [value, *match.root.inputs[1:]], [active], match.root.attributes)
            value = active
        rows = _transposed(graph, value, (0, *range(2, len(shape)), 1))
        return rows if image is x else _reshaped(graph, rows, (*x.shape[:-1], features), _has_samples(x))

    def _as_filters(self, graph: Graph, match: Match, places: int) -> Value:
        """The matrix as the weight of a convolution, one for all that read it, and the encoding that it came with."""
        weight, matrix = match["w"], _matrix(match)
        key = weight, places, bool(gemm_attribute(match.anchor, "transB"))
        if key not in self._filters:
            data = np.ascontiguousarray(matrix).reshape(*matrix.shape, *[1] * places)
            made = self._filters[key] = graph.add_constant(f"{weight.name}.filters", data)
            given = graph.facts.get(IMPORTED) or {}
            if weight.name in given:
                kept = [name for name in given if name != weight.name or weight.only_use is None]
                graph.facts[IMPORTED] = {
                    **{name: given[name] for name in kept},
                    made.name: given[weight.name],
                }
        return self._filters[key]


class GemmToConv(MatMulToConv):
    """The same for matrices whose rows are not samples."""

    name = "write Gemm as Conv"
    patterns = (f"Gemm(x, $w, b?) -> {_ACTIVATION}",)


def _matrix(match: Match) -> NDArray[np.generic]:
    """[outputs, inputs]."""
    data = match.constant("w")
    return data if gemm_attribute(match.anchor, "transB") else data.T


def _bias(match: Match) -> NDArray[np.generic] | None:
    """What is added as one number per output; None where it is none, or there is nothing."""
    given, x = match.get("b"), match["x"]
    if given is None or given.data is None or x.rank is None:
        return None
    return along_axis(given.data, x.rank, x.rank - 1, _matrix(match).shape[0])


def _has_samples(x: Value) -> bool:
    """Whether the first axis counts samples, as that of an input does; a number that no input begins with counts rows."""
    first = x.shape[0] if x.shape else None
    inputs = x.graph.inputs if x.graph is not None else []
    return not isinstance(first, int) or first == 1 or any(first in (item.shape or ())[:1] for item in inputs)


def _is_image(x: Value) -> bool:
    """Whether the rows lie along one or two axes behind that of samples, as pixels do."""
    return x.rank in (3, 4) and _has_samples(x)


def _one_axis_of_rows(graph: Graph, x: Value) -> Value:
    assert x.shape is not None
    samples, rows = (x.shape[0], x.shape[1:-1]) if _has_samples(x) else (1, x.shape[:-1])
    return _reshaped(graph, x, (samples, element_count(rows), x.shape[-1]), _has_samples(x))


def _reshaped(graph: Graph, x: Value, shape: Shape, keeps_first: bool) -> Value:
    """A Reshape; the first size is copied, or known, and at most one of the others is open."""
    target = [dim if isinstance(dim, int) else -1 for dim in shape]
    target[0] = 0 if keeps_first else target[0]
    value = graph.add_value(f"{x.name}.rows", x.dtype, shape)
    graph.add_node("Reshape", [x, graph.add_constant(f"{value.name}.shape", np.array(target))], [value])
    return value


def _transposed(graph: Graph, x: Value, order: tuple[int, ...]) -> Value:
    assert x.shape is not None
    value = graph.add_value(f"{x.name}.transposed", x.dtype, tuple(x.shape[axis] for axis in order))
    graph.add_node("Transpose", [x], [value], {"perm": list(order)})
    return value


@dataclass(frozen=True)
class MatmulToConv(Pass):
    """Writes MatMul of many rows by a constant matrix as a convolution with a single tap, between Transposes; exact.

    For hardware whose fully connected layers take one row. Rows [batch, rows, inputs] are the pixels of an image
    [batch, inputs, rows] that is stored channels last: where `channels_last` runs afterwards, the Transposes move nothing. A row that is
    added becomes the bias, and a Relu or Clip behind it stays with the convolution. Rows that lie along more axes than an image has,
    and those of a first axis that does not count samples (it is a number with which no input of the graph begins), are made one axis;
    these Reshapes move nothing either. Transposes and Reshapes that undo each other between two products go.

    One row per sample is left alone; so is Gemm, but for those whose rows are no samples where `gemm` asks for them.
    """

    name = "matmul_to_conv"
    effect = Effect.EXACT
    requires = (CANONICAL,)
    invalidates = (REGIONS,)

    gemm: bool = False

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        """Replaces the products, and simplifies what is between them."""
        rules: list[type[Rewrite]] = [
            MatMulToConv,
            *([GemmToConv] if self.gemm else []),
            *_canonical_layout.RULES,
        ]
        return apply_rewrites(graph, [rule() for rule in rules], context)
