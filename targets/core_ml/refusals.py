"""Why models cannot be written for Core ML, and what to do about it."""

from __future__ import annotations

from collections.abc import Container
from typing import TYPE_CHECKING

from qcompiler.ir.functions import DOMAIN

if TYPE_CHECKING:
    from qcompiler.ir.node import Node, Value

MAXIMUM_RANK = 5
"""The most dimensions of a tensor."""


class Unsupported(Exception):  # noqa: N818 - a reason, which the author collects with those of other nodes
    """Why a node cannot be written, one clause."""


def impossible(node: Node, known: Container[str]) -> str:
    """Why a node has no form in the package whatever it reads; empty where it has one."""
    if node.domain not in ("", DOMAIN) or node.op not in known:
        return "Core ML has no operator for it that is known here"
    for value in (*node.inputs, *node.outputs) if node.op != "Cast" else ():
        if value is not None and (value.rank or 0) > MAXIMUM_RANK:
            return f"{value.name!r} has rank {value.rank}; Core ML's tensors have {MAXIMUM_RANK} at most"
    return ""


def refusal(refused: list[str]) -> str:
    """One paragraph about all operators that cannot be written."""
    count = len(refused)
    what = "One operator cannot" if count == 1 else f"{count} operators cannot"
    return f"{what} be written for Core ML: {'; '.join(refused)}. Export the model without them, or cut them off; nothing was written."


def dimension(value: Value, axis: int) -> str:
    """What an open dimension of an input is called for `--dimension`."""
    assert value.shape is not None
    return str(value.shape[axis] or f"{value.name}:{axis}")


def how_to_fix(value: Value) -> str:
    """What to do about an input's batch that is not 1, one clause."""
    assert value.shape is not None
    if isinstance(value.shape[0], int):
        return "export the model for a batch of 1"
    return f"fix the batch with --dimension {dimension(value, 0)}=1"
