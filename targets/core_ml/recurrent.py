"""Recurrent operators in MIL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from qcompiler.targets.core_ml.author import Emit
from qcompiler.targets.core_ml.refusals import Unsupported

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from qcompiler.ir.node import Node
    from qcompiler.targets.core_ml.author import Author, Var

HALF_FROM = 8
"""The specification version from which `lstm` and `gru` take float16."""


def _lstm(author: Author, node: Node) -> Sequence[Var]:
    """`lstm`: gates in the order of MIL, directions side by side instead of on an axis of their own.

    One that runs backwards gives its steps in the order that they are computed in, and ONNX's in that of the sequence: the sequence
    is turned around instead. Of one that runs both ways MIL has the order of the sequence.
    """
    check(author, node, ("Sigmoid", "Tanh", "Tanh"))
    dtype = author.float_type if author.specification >= HALF_FROM else np.dtype(np.float32)
    steps, batch, _ = author.static(0)
    hidden, direction = int(node.attributes["hidden_size"]), node.text("direction", "forward")
    count = 2 if direction == "bidirectional" else 1
    inputs: dict[str, Any] = {}
    for place in range(count):
        back = "_back" if place else ""
        inputs |= {
            f"weight_ih{back}": _weight(author, 1, place, dtype),
            f"weight_hh{back}": _weight(author, 2, place, dtype),
        }
        if author.constant(3) is not None:
            inputs[f"bias{back}"] = _bias(author, place, dtype)
    states = {
        name: _state(author, slot, count, batch, hidden, dtype)
        for name, slot in (("initial_h", 5), ("initial_c", 6))
    }
    backwards = direction == "reverse"
    x = turned(author, author.read(0, dtype)) if backwards else author.read(0, dtype)
    way = "bidirectional" if count == 2 else "forward"
    y, h, c = author.op("lstm", x=x, **states, **inputs, direction=way, output_sequence=True)
    y = turned(author, y) if backwards else y
    sequence = author.op("reshape", x=y, shape=[steps, batch, count, hidden])
    return (
        author.op("transpose", x=sequence, perm=[0, 2, 1, 3]),
        *(_by_direction(author, var, batch, count, hidden) for var in (h, c)),
    )


def turned(author: Author, var: Var) -> Var:
    """A sequence from its end to its beginning."""
    return author.op("reverse", x=var, axes=[0])


def check(author: Author, node: Node, activations: tuple[str, ...]) -> None:
    """Refuses what neither `lstm` nor `gru` has.

    Args:
        author: The program.
        node: The operator.
        activations: Its activations, where they are not given.

    Raises:
        Unsupported: There is something of that.
    """
    if node.attributes.get("layout", 0):
        raise Unsupported("its batch comes first (layout = 1); transpose around it")
    if node.attributes.get("input_forget", 0) or node.attributes.get("clip") or node.input(7) is not None:
        raise Unsupported("it has coupled gates, a clip or peepholes")
    names = [
        item.decode() if isinstance(item, bytes) else str(item)
        for item in node.attributes.get("activations", [])
    ]
    if any(name != wanted for name, wanted in zip(names, activations * 2, strict=False)):
        raise Unsupported(f"its activations are {', '.join(names)}, not {', '.join(activations)}")
    lengths = author.constant(4)
    if lengths is not None and (lengths != author.static(0)[0]).any():
        raise Unsupported("its sequences differ in length")


def _gates(data: NDArray[Any]) -> NDArray[Any]:
    """Gates from ONNX's order (input, output, forget, cell) in MIL's (input, forget, output, cell), along the first axis."""
    i, o, f, c = np.split(data, 4)
    return np.concatenate([i, f, o, c])


def _weight(author: Author, slot: int, direction: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    data = author.constant(slot)
    assert data is not None
    return _gates(data[direction]).astype(dtype)


def _bias(author: Author, direction: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """The two biases that ONNX has, added up."""
    data = author.constant(3)
    assert data is not None
    ours, recurrent = np.split(data[direction].astype(np.float32), 2)
    return _gates(ours + recurrent).astype(dtype)


def _state(author: Author, slot: int, count: int, batch: int, hidden: int, dtype: np.dtype[Any]) -> Var:
    given = author.read(slot, dtype)
    if given is None:
        return np.zeros((batch, count * hidden), dtype)
    turned = author.op("transpose", x=given, perm=[1, 0, 2])
    return author.op("reshape", x=turned, shape=[batch, count * hidden])


def _by_direction(author: Author, var: Var, batch: int, count: int, hidden: int) -> Var:
    parts = author.op("reshape", x=var, shape=[batch, count, hidden])
    return author.op("transpose", x=parts, perm=[1, 0, 2])


EMITTERS: dict[str, Emit] = {"LSTM": _lstm}
