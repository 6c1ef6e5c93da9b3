"""GRU in MIL: as `gru` where its reset gate acts in front of the product, step by step where it acts behind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from qcompiler.targets.core_ml.recurrent import HALF_FROM, check, turned
from qcompiler.targets.core_ml.refusals import Unsupported

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from qcompiler.ir.node import Node
    from qcompiler.targets.core_ml.author import Author, Emit, Var

_MOST_STEPS = 256
"""How many steps are written out: some 4,000 operators."""


def _gru(author: Author, node: Node) -> Sequence[Var]:
    """Both directions by themselves: `gru` has one, and gives the steps backwards in the order that they are computed in."""
    check(author, node, ("Sigmoid", "Tanh"))
    cell = _steps if node.attributes.get("linear_before_reset", 0) else _operator
    direction = node.text("direction", "forward")
    ways = ("forward", "reverse") if direction == "bidirectional" else (direction,)
    sequences, states = [], []
    for place, way in enumerate(ways):
        y, h = cell(author, place, way == "reverse")
        sequences.append(turned(author, y) if way == "reverse" else y)
        states.append(h)
    return author.op("stack", values=sequences, axis=1), author.op("stack", values=states, axis=0)


def _operator(author: Author, place: int, backwards: bool) -> tuple[Var, Var]:
    """`gru`: o = tanh(W x + R (r * h) + b), h = (1 - z) * o + z * h; gates in the order reset, output, update.

    Returns:
        All states as they are computed, [steps, batch, hidden], and the last one, [batch, hidden].
    """
    dtype = author.float_type if author.specification >= HALF_FROM else np.dtype(np.float32)

    def gates(data: NDArray[Any]) -> NDArray[Any]:
        update, reset, output = np.split(data, 3)
        return np.concatenate([reset, output, update]).astype(dtype)

    y, h = author.op(
        "gru",
        x=_sequence(author, dtype, backwards),
        initial_h=_state(author, place, dtype),
        weight_ih=gates(_weight(author, 1, place)),
        weight_hh=gates(_weight(author, 2, place)),
        bias=gates(np.add(*_biases(author, place))),
        direction="forward",
        output_sequence=True,
    )
    return y, h


def _steps(author: Author, place: int, backwards: bool) -> tuple[Var, Var]:
    """Every step by itself: o = tanh(W x + b + r * (R h + c)), h = o + z * (h - o); gates in ONNX's order, update, reset, output.

    Returns:
        As `_operator`.

    Raises:
        Unsupported: There are more steps than are written out.
    """
    steps, batch, _ = author.static(0)
    if steps > _MOST_STEPS:
        raise Unsupported(
            f"its reset gate acts behind the product (linear_before_reset = 1), which is written step by step, and {steps} steps are too many; "
            f"export it for {_MOST_STEPS} at most"
        )
    dtype = author.float_type
    ours, theirs = (bias.astype(dtype) for bias in _biases(author, place))
    x = _sequence(author, dtype, backwards)
    inputs = author.op("linear", x=x, weight=_weight(author, 1, place).astype(dtype), bias=ours)
    matrix = author.op("const", val=_weight(author, 2, place).astype(dtype))  # stored once for all steps
    h, states = _state(author, place, dtype), []
    for step in range(steps):
        given = author.op(
            "slice_by_index", x=inputs, begin=[step, 0, 0], end=[step + 1, batch, 0],
            end_mask=[False, False, True], squeeze_mask=[True, False, False],
        )  # fmt: skip
        product = author.op("linear", x=h, weight=matrix, bias=theirs)
        update, reset, output = author.op("split", x=given, num_splits=3, axis=1)
        back_update, back_reset, back_output = author.op("split", x=product, num_splits=3, axis=1)
        z = author.op("sigmoid", x=author.op("add", x=update, y=back_update))
        r = author.op("sigmoid", x=author.op("add", x=reset, y=back_reset))
        o = author.op("tanh", x=author.op("add", x=output, y=author.op("mul", x=r, y=back_output)))
        h = author.op("add", x=o, y=author.op("mul", x=z, y=author.op("sub", x=h, y=o)))
        states.append(h)
    return author.op("stack", values=states, axis=0), h


def _sequence(author: Author, dtype: np.dtype[Any], backwards: bool) -> Var:
    """What is read, step by step in the order of computing."""
    x = author.read(0, dtype)
    return turned(author, x) if backwards else x


def _weight(author: Author, slot: int, place: int) -> NDArray[Any]:
    data = author.constant(slot)
    assert data is not None
    return np.asarray(data[place], np.float32)


def _biases(author: Author, place: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """The biases of the input and of the state, [3 * hidden] each; zeros where there are none."""
    data = author.constant(3)
    if data is None:
        zeros = np.zeros(3 * int(author.node.attributes["hidden_size"]), np.float32)
        return zeros, zeros
    ours, recurrent = np.split(data[place].astype(np.float32), 2)
    return ours, recurrent


def _state(author: Author, place: int, dtype: np.dtype[Any]) -> Var:
    """The state that a direction begins with, [batch, hidden]."""
    _, batch, _ = author.static(0)
    hidden = int(author.node.attributes["hidden_size"])
    given = author.read(5, dtype)
    if given is None:
        return np.zeros((batch, hidden), dtype)
    return author.op(
        "slice_by_index", x=given, begin=[place, 0, 0], end=[place + 1, batch, hidden], squeeze_mask=[True, False, False]
    )  # fmt: skip


EMITTERS: dict[str, Emit] = {"GRU": _gru}
