"""Undoes centring: where `x - c` is quantized without a zero point, x is again quantized with one.

That is how `insert_qdq` writes encodings whose offset the target keeps in biases: f(x) = f(x - c) + c * sum(w). What reads
the centred value is made to read x, and gives back what it had been given for c: its bias loses c * sum(w), an addition
of c goes. Pooling and data movement hand the offset on. A reader that can do neither gets x - c computed for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from qcompiler import ops
from qcompiler.ir.encoding import Encoding
from qcompiler.ir.node import Use
from qcompiler.passes._node_rules import put_constant
from qcompiler.passes._operands import constant, scalar
from qcompiler.passes._qdq_parameters import is_dequantize, is_quantize, node_encoding

if TYPE_CHECKING:
    from qcompiler.ir.graph import Graph
    from qcompiler.ir.node import Node, Value


def uncentre(graph: Graph) -> int:
    """Undoes centring everywhere; constants must have been raised before. Returns how many pairs were changed."""
    work = _Uncentring(graph)
    for node in graph.nodes:
        if node.graph is graph:
            work.visit(node)
    return work.changed


class _Uncentring:
    """One run.

    Attributes:
        shift: Values that now hold c more than what the model as it was given computed there.
        restored: Uses that read such a value where the model had added c to it: to them it is what it should be.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.shift: dict[Value, float] = {}
        self.restored: set[Use] = set()
        self.changed = 0
        self._centred: dict[Value, Value] = {}
        self._zeros: dict[tuple[Value, int], Value] = {}

    def visit(self, node: Node) -> None:
        """Looks at one node; what feeds it has been looked at."""
        if node.is_op("Sub") and self._start(node):
            return
        shifted = [
            (slot, value)
            for slot, value in node.operands()
            if value in self.shift and Use(node, slot) not in self.restored
        ]
        if shifted and not self._absorb(node, shifted):
            for slot, value in shifted:
                self.graph.replace_uses(value, self._back(value), [Use(node, slot)])

    # -- where it begins ------------------------------------------------------------------------------------------

    def _start(self, node: Node) -> bool:
        """Begins at Sub(x, c), if only quantization reads it; then it is gone."""
        x, c, output = node.input(0), scalar(constant(node, 1)), node.output
        if x is None or c is None or x.is_constant or x in self.shift or output.is_output:
            return False
        readers = output.consumers
        if not readers or not all(
            is_quantize(item) and self._new_zero(item, c) is not None for item in readers
        ):
            return False
        for reader in readers:
            self._requantize(reader, x, c)
        self.graph.remove(node)
        return True

    def _new_zero(self, quantize: Node, c: float) -> int | None:
        """The zero point with which a pair holds x as it holds x - c now, if there is one."""
        encoding = node_encoding(quantize)
        if isinstance(encoding, str) or encoding.zero_point is None or encoding.axis is not None:
            return None
        if quantize.output.is_output or not quantize.output.uses:
            return None
        for reader in quantize.output.consumers:
            if not is_dequantize(reader) or node_encoding(reader) != encoding or reader.output.is_output:
                return None
        return _moved_zero(encoding, c)

    def _requantize(self, quantize: Node, x: Value, c: float) -> None:
        zero = self._new_zero(quantize, c)
        old = quantize.input(2)
        encoding = node_encoding(quantize)
        assert zero is not None
        assert isinstance(encoding, Encoding)
        hint = old if old is not None else quantize.output
        if (hint, zero) not in self._zeros:
            point = np.asarray(zero).astype(encoding.format.dtype)
            self._zeros[hint, zero] = self.graph.add_constant(f"{hint.name}.moved", point)
        moved = self._zeros[hint, zero]
        self.graph.set_input(quantize, 0, x)
        self.graph.set_input(quantize, 2, moved)
        for reader in quantize.output.consumers:
            self.graph.set_input(reader, 2, moved)
            self.shift[reader.output] = c
        self.changed += 1

    # -- where it ends --------------------------------------------------------------------------------------------

    def _absorb(self, node: Node, shifted: list[tuple[int, Value]]) -> bool:
        slot, value = shifted[0]
        c, row = self.shift[value], ops.info(node)
        if is_quantize(node) and slot == 0 and self._new_zero(node, c) is not None:
            self._requantize(node, value, c)
            return True
        if node.is_op("Add") and len(shifted) == 1 and scalar(constant(node, 1 - slot)) == c:
            self.restored.update(node.output.uses)
            self.graph.replace_node(node, value)
            return True
        if node.is_op("Conv", "Gemm") and [item for item, _ in shifted] == [0]:
            return self._unfold(node, c)
        if any(output is not None and output.is_output for output in node.outputs):
            return False
        if row.keeps_values and node.op != "Pad":
            passed = [item for item, _ in shifted] == [0]
        else:
            passed = row.kind == "join" and [item for item, _ in shifted] == list(range(len(node.inputs)))
        if not passed or any(self.shift[item] != c for _, item in shifted):
            return False
        self.shift.update((output, c) for output in node.outputs if output is not None)
        return True

    def _unfold(self, node: Node, c: float) -> bool:
        """Takes c * sum(w) out of a bias."""
        weight, bias = node.input(1), node.input(2)
        automatic = node.attributes.get("auto_pad", "NOTSET") not in (b"NOTSET", b"VALID", "NOTSET", "VALID")
        padded = automatic or any(node.attributes.get("pads", ()))
        scaled = any(node.attributes.get(name, 1.0) != 1.0 for name in ("alpha", "beta"))
        channel = ops.info(node).channel_axis(node, 1)
        if padded or scaled or weight is None or weight.data is None or bias is None or bias.data is None:
            return False
        others = tuple(axis for axis in range(weight.data.ndim) if axis != channel)
        total = c * np.asarray(weight.data).sum(axis=others, dtype=np.float64)
        put_constant(self.graph, node, 2, (np.asarray(bias.data, np.float64) - total).astype(bias.data.dtype))
        return True

    def _back(self, value: Value) -> Value:
        """The value minus c, for readers that cannot do without."""
        if value not in self._centred:
            c = self.graph.add_constant(f"{value.name}.offset", np.asarray(self.shift[value], value.dtype))
            output = self.graph.add_value(f"{value.name}.centred", value.dtype, value.shape)
            near = value.producer
            self.graph.add_node("Sub", [value, c], [output], origin=[near] if near else [], near=near)
            self._centred[value] = output
        return self._centred[value]


def _moved_zero(encoding: Encoding, c: float) -> int | None:
    assert encoding.zero_point is not None
    assert encoding.scale is not None
    steps = c / float(encoding.scale)
    zero = round(float(encoding.zero_point) - steps)
    near = (
        abs(float(encoding.zero_point) - steps - zero) < 1e-3
    )  # c is a multiple of the scale, rounded to float32
    return zero if near and encoding.format.minimum <= zero <= encoding.format.maximum else None
