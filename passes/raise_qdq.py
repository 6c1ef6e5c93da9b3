"""raise_qdq: reads the QuantizeLinear and DequantizeLinear of a quantized model back into encodings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from onnx import helper

from qcompiler import ops
from qcompiler.ir.encoding import FORMATS, Encoding
from qcompiler.ir.facts import CANONICAL, QDQ, Fact
from qcompiler.ir.plan import PLAN
from qcompiler.observed import IMPORTED
from qcompiler.pass_manager import Effect, Level, Pass, PassContext, PassResult
from qcompiler.passes._qdq_parameters import (
    is_dequantize,
    is_quantize,
    node_encoding,
    starts_at_zero,
)
from qcompiler.passes._qoperators import expand_qoperators
from qcompiler.passes._raise_constants import raise_constants
from qcompiler.passes._uncentre import uncentre
from qcompiler.passes.fold_constants import FoldConstants
from qcompiler.signs import constants_not_negative, keeps_sign

if TYPE_CHECKING:
    from typing import Any

    from qcompiler.ir.graph import Graph
    from qcompiler.ir.node import Node, Value

_KNOWN_TOPS = (1.0, 6.0)
"""Upper bounds that models clip at (hard sigmoid, Relu6); a calibrated range ends there by no accident."""
_CONSTANT = ("constant", b"constant")


@dataclass(frozen=True)
class RaiseQdq(Pass):
    """Makes a float model and a table of encodings of a model that carries its quantization as Q/DQ.

    A pair of QuantizeLinear and DequantizeLinear with equal parameters goes, and its encoding is kept under the name of the
    value (the fact `imported`). Codes of constants become floats, exactly; only int32 codes (biases) leave no encoding, since
    their scale follows from others. Operators on codes are written as their float operator first. Weights that are computed
    from constants are computed, so that they can be rounded to their grid.

    Quantizers drop a Relu, and a Clip that starts at 0, where the codes that follow cannot hold anything negative. The
    float function needs it, so a Relu (or a Clip, where the range ends at 1 or 6) is put in front of an encoding that
    starts at 0, unless the value cannot be negative or is a graph input, in front of which nothing can have been dropped.

    What stays: pairs whose parameters differ or are computed at run time, and the nodes at the border of a model whose
    inputs or outputs are codes, since its interface is its users'. Each is told about.
    """

    name: ClassVar[str] = "raise_qdq"
    effect: ClassVar[Effect] = Effect.APPROXIMATE
    establishes: ClassVar[tuple[Fact[Any], ...]] = (IMPORTED,)
    invalidates: ClassVar[tuple[Fact[Any], ...]] = (QDQ, PLAN, CANONICAL)

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        """Establishes IMPORTED.

        Raises:
            ModelError: An operator on integers has no float form; the message says what to do.
        """
        result = PassResult()
        result.count("operators on codes", expand_qoperators(graph))
        if any(is_quantize(node) or is_dequantize(node) for node in graph.topological()):
            folded = FoldConstants().run(graph, context)
            for kind, number in folded.counts.items():
                result.count(kind, number)
            raiser = _Raiser(graph, context, result, raise_constants(graph, context, result))
            result.count("centred pairs", uncentre(graph))
            raiser.raise_pairs()
            graph.remove_dead()
            graph.facts[IMPORTED] = raiser.by_name()
        else:
            graph.facts[IMPORTED] = {}
        return result


@dataclass
class _Codes:
    """What integer codes stand for: a float value (before saturation) and its encoding."""

    value: Value
    encoding: Encoding


class _Raiser:
    """One run over one graph.

    Attributes:
        found: Float values and the encodings that they came in.
    """

    def __init__(
        self, graph: Graph, context: PassContext, result: PassResult, found: dict[Value, Encoding]
    ) -> None:
        self.graph = graph
        self.context = context
        self.result = result
        self.found = found
        self._codes: dict[Value, _Codes] = {}
        self._saturated: dict[tuple[Value, Encoding], Value] = {}
        self._known: set[Value] = set()
        self._given: set[Value] = set()
        self._twins: list[tuple[Value, str]] = []

    def by_name(self) -> dict[str, Encoding]:
        """The encodings by the names that the values have in the end."""
        for value, name in self._twins:
            if value.graph is self.graph and not value.is_output and not self.graph.has_value(name):
                self.graph.rename(value, name)
        found: dict[Value, Encoding] = {}
        for value, encoding in self.found.items():
            if value.graph is self.graph:
                found.setdefault(self._unpadded(value), encoding)
        return {value.name: encoding for value, encoding in found.items()}

    def _unpadded(self, value: Value) -> Value:
        """The value before zero padding, which may yet become part of a convolution: its numbers are encoded as well."""
        node = value.producer
        if node is None or not node.is_op("Pad") or node.attributes.get("mode", "constant") not in _CONSTANT:
            return value
        source, filled = node.inputs[0], node.input(2)
        if source is None or source.is_constant or source in self.found:
            return value
        zeros = filled is None or (filled.data is not None and not np.any(filled.data))
        return source if zeros else value

    # -- activations ----------------------------------------------------------------------------------------------

    def raise_pairs(self) -> None:
        """Takes the pairs out, in graph order."""
        self._known = constants_not_negative(self.graph)
        for node in self.graph.nodes:
            if node.graph is not self.graph:
                continue
            if is_quantize(node):
                self._quantize(node)
            elif is_dequantize(node):
                self._dequantize(node)
            elif any(value in self._codes for _, value in node.operands()):
                self._move(node)
            if node.graph is self.graph:
                self._learn(node)

    def _learn(self, node: Node) -> None:
        """What cannot be negative, and what is a graph input moved about."""
        outputs = [value for value in node.outputs if value is not None]
        if keeps_sign(node, self._known):
            self._known.update(outputs)
        source = node.input(0)
        moved = ops.info(node).kind == "movement" and source is not None and not source.is_constant
        if moved and source is not None and (source.is_input or source in self._given):
            self._given.update(outputs)

    def _quantize(self, node: Node) -> None:
        encoding, value = node_encoding(node), node.inputs[0]
        assert value is not None
        if isinstance(encoding, str):
            self._leave(node, encoding)
            return
        self._codes[node.output] = _Codes(value, encoding)
        if node.output.is_output:
            self._leave(node, "the graph returns its codes")

    def _dequantize(self, node: Node) -> None:
        encoding, source = node_encoding(node), node.inputs[0]
        assert source is not None
        codes = self._codes.get(source)
        if isinstance(encoding, str):
            self._leave(node, encoding)
        elif codes is None:
            if starts_at_zero(encoding):
                self._known.add(node.output)
            if encoding.format is not FORMATS["int32"]:
                self._record(node.output, encoding, node)
            where = (
                "are a graph input" if source.is_input else "do not come from a QuantizeLinear that is raised"
            )
            self._leave(node, f"its codes {where}")
        elif codes.encoding != encoding:
            self._leave(node, f"it reads as {encoding} what was quantized as {codes.encoding}")
        elif self.context.allow(f"raise {node.name}"):
            value = self._read(codes, node)
            if None not in (value.dtype, node.output.dtype) and value.dtype != node.output.dtype:
                value = self._cast(value, node)
            self.graph.replace_node(node, value)
            self.result.count("pairs")

    def _cast(self, value: Value, node: Node) -> Value:
        assert node.output.dtype is not None
        kind = int(helper.np_dtype_to_tensor_dtype(node.output.dtype))
        return self._add(node, "Cast", [value], {"to": kind}, value, node.output.dtype)

    def _read(self, codes: _Codes, node: Node) -> Value:
        """The float value that codes stand for, saturated at 0 where they are, recorded with its encoding."""
        key = (codes.value, codes.encoding)
        if key not in self._saturated:
            self._saturated[key] = self._saturate(codes, node)
        value = self._saturated[key]
        self._record(value, codes.encoding, node)
        return value

    def _record(self, value: Value, encoding: Encoding, node: Node) -> None:
        kept = self.found.setdefault(value, encoding)
        if kept != encoding:
            self.result.say(
                Level.INFO,
                node.name,
                f"{value.name} was quantized as {kept} before; that is kept, not {encoding}",
            )

    def _saturate(self, codes: _Codes, node: Node) -> Value:
        value, encoding = codes.value, codes.encoding
        near = value.producer
        if not starts_at_zero(encoding) or near is None or value in self._known or value in self._given:
            return value
        top = encoding.real_range()[1]
        bound = next((item for item in _KNOWN_TOPS if abs(top - item) < 1e-6 * item), None)
        if bound is None:
            made = self._add(near, "Relu", [value], {}, value)
        else:
            ends: list[Value | None] = [
                self.graph.add_constant(f"{value.name}.{name}", np.asarray(end, value.dtype))
                for name, end in (("min", 0.0), ("max", bound))
            ]
            made = self._add(near, "Clip", [value, *ends], {}, value)
        self._known.add(made)
        name = value.name
        if self._is_only_quantized(value, encoding, made.producer):  # then the name means the saturated value
            self.graph.rename(value, self.graph.unique_name(f"{name}.unsaturated"))
            self.graph.rename(made, name)
        told = (
            "" if bound else f"; a Clip at its upper end, {top:.4g}, cannot be told from a calibrated range"
        )
        self.result.say(
            Level.INFO,
            node.name,
            f"{'Clip' if bound else 'Relu'} restored on {name}: its encoding starts at 0{told}",
        )
        self.result.count("restored activations")
        return made

    def _is_only_quantized(self, value: Value, encoding: Encoding, but: Node | None) -> bool:
        readers = [item for item in value.consumers if item is not but]
        return not value.is_output and all(
            is_quantize(item) and node_encoding(item) == encoding for item in readers
        )

    def _move(self, node: Node) -> None:
        """Codes that are moved, pooled or joined: the same is done to the floats, should they be wanted."""
        row = ops.info(node)
        sources = [self._codes.get(value) for value in node.inputs if value is not None]
        first = sources[0] if sources else None
        rest = sources[1:] if row.kind == "join" else []
        fits = (row.keeps_values and node.op != "Pad") or row.kind == "join"
        if first is None or not fits or node.domain or len(node.outputs) != 1 or node.captures:
            self._leave(node, f"{node.op} computes on codes")
            return
        if any(item is None or item.encoding != first.encoding for item in rest):
            self._leave(node, f"{node.op} joins codes of different encodings")
            return
        if first.encoding.axis is not None:
            self._leave(node, f"{node.op} moves codes with {first.encoding.granularity} scales")
            return
        moved = [first, *(item for item in rest if item is not None)]
        values = [self._read(item, node) for item in moved]
        inputs: list[Value | None] = [*values, *node.inputs[len(values) :]]
        twin = self._add(node, node.op, inputs, node.attributes, node.output, values[0].dtype)
        assert twin.producer is not None
        self._learn(twin.producer)
        self._codes[node.output] = _Codes(twin, first.encoding)
        self._twins.append((twin, node.output.name))

    def _add(
        self,
        near: Node,
        op: str,
        inputs: list[Value | None] | list[Value],
        attributes: dict[str, Any],
        like: Value,
        dtype: np.dtype[Any] | None = None,
    ) -> Value:
        output = self.graph.add_value(f"{like.name}.{op.lower()}", dtype or like.dtype, like.shape)
        self.graph.add_node(op, inputs, [output], attributes, origin=[near], near=near)
        return output

    def _leave(self, node: Node, why: str) -> None:
        self.result.say(Level.INFO, node.name, f"{node.op} stays: {why}")
