"""Reductions and normalizations in MIL."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from qcompiler.targets.core_ml.author import Emit
from qcompiler.targets.core_ml.refusals import Unsupported

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qcompiler.ir.node import Node
    from qcompiler.targets.core_ml.author import Author, Var


def _reduce(kind: str) -> Emit:
    def emit(author: Author, node: Node) -> Var:
        axes = author.integers(1)
        if not axes and node.attributes.get("noop_with_empty_axes", 0):
            return author.read(0)
        keep = bool(node.attributes.get("keepdims", 1))
        return author.op(kind, x=author.variable(0), axes=axes or list(range(author.rank())), keep_dims=keep)

    return emit


def _arg(kind: str) -> Emit:
    def emit(author: Author, node: Node) -> Var:
        if node.attributes.get("select_last_index", 0):
            raise Unsupported("of equal elements it takes the last, and Core ML the first")
        return author.op(
            kind,
            x=author.variable(0),
            axis=author.axis(0),
            keep_dims=bool(node.attributes.get("keepdims", 1)),
        )

    return emit


def _top_k(author: Author, node: Node) -> Sequence[Var]:
    count = author.integers(1)
    assert count is not None
    return list(
        author.op(
            "topk",
            x=author.variable(0),
            k=count[0],
            axis=author.axis(-1),
            ascending=not node.attributes.get("largest", 1),
        )
    )


def _cumulative_sum(author: Author, node: Node) -> Var:
    axis = author.integers(1)
    assert axis is not None
    return author.op(
        "cumsum", x=author.variable(0), axis=axis[0] % author.rank(),
        exclusive=bool(node.attributes.get("exclusive", 0)), reverse=bool(node.attributes.get("reverse", 0)),
    )  # fmt: skip


# -- normalizations ------------------------------------------------------------------------------------------------


def _softmax(author: Author, node: Node) -> Var:
    return author.op("softmax", x=author.variable(0), axis=author.axis(-1))


def _log_softmax(author: Author, node: Node) -> Var:
    """As x - max - log(sum(exp(x - max)))."""
    x, axes = author.variable(0), [author.axis(-1)]
    shifted = author.op("sub", x=x, y=author.op("reduce_max", x=x, axes=axes, keep_dims=True))
    return author.op(
        "sub", x=shifted, y=author.op("reduce_log_sum_exp", x=shifted, axes=axes, keep_dims=True)
    )


def _batch_normalization(author: Author, node: Node) -> Var:
    return author.op(
        "batch_norm", x=author.variable(0), gamma=author.read(1), beta=author.read(2), mean=author.read(3), variance=author.read(4),
        epsilon=_epsilon(author, node),
    )  # fmt: skip


def _layer_normalization(author: Author, node: Node) -> Var:
    """`layer_norm` wants its factors to have the shape of what is normalized."""
    if len(node.outputs) > 1 and any(
        value is not None and (value.uses or value.is_output) for value in node.outputs[1:]
    ):
        raise Unsupported("its mean or deviation is used")
    axes = list(range(author.axis(-1), author.rank()))
    shape = [author.shape(0)[axis] for axis in axes]
    return author.op(
        "layer_norm", x=author.variable(0), axes=axes, gamma=_shaped(author, 1, shape), beta=_shaped(author, 2, shape),
        epsilon=_epsilon(author, node),
    )  # fmt: skip


def _shaped(author: Author, slot: int, shape: list[Any]) -> Any:
    given = author.read(slot)
    return None if given is None else np.broadcast_to(given, shape).copy()


def _instance_normalization(author: Author, node: Node) -> Var:
    return author.op(
        "instance_norm",
        x=author.variable(0),
        gamma=author.read(1),
        beta=author.read(2),
        epsilon=_epsilon(author, node),
    )


def _group_normalization(author: Author, node: Node) -> Var:
    """Every group becomes a row of its own, which is normalized; then each channel is scaled and shifted."""
    sizes, groups = author.shape(0), int(node.attributes["num_groups"])
    if not all(isinstance(size, int) for size in sizes[1:]):
        raise Unsupported("a size of its operand is open; fix it with --dimension")
    batch = sizes[0] if isinstance(sizes[0], int) else -1
    x = author.op("reshape", x=author.variable(0), shape=[batch, groups, math.prod(sizes[1:]) // groups])
    x = author.op("layer_norm", x=x, axes=[2], epsilon=_epsilon(author, node))
    x = author.op("reshape", x=x, shape=[batch, *sizes[1:]])
    scale, shift = (author.constant(slot) for slot in (1, 2))
    assert scale is not None
    assert shift is not None
    along = (1, -1, *[1] * (len(sizes) - 2))
    x = author.op("mul", x=x, y=scale.astype(author.float_type).reshape(along))
    return author.op("add", x=x, y=shift.astype(author.float_type).reshape(along))


def _rms_normalization(author: Author, node: Node) -> Var:
    """As x * scale / sqrt(mean(x^2) + epsilon), over the one axis that it names (see `qcompiler.ir.functions`)."""
    x = author.variable(0)
    mean = author.op("reduce_mean", x=author.op("mul", x=x, y=x), axes=[author.axis(-1)], keep_dims=True)
    root = author.op("sqrt", x=author.op("add", x=mean, y=_epsilon(author, node)))
    return author.op("mul", x=author.op("real_div", x=x, y=root), y=author.read(1))


def _lp_normalization(author: Author, node: Node) -> Var:
    x, kind = author.variable(0), "reduce_l1_norm" if node.attributes.get("p", 2) == 1 else "reduce_l2_norm"
    return author.op("real_div", x=x, y=author.op(kind, x=x, axes=[author.axis(-1)], keep_dims=True))


def _local_response(author: Author, node: Node) -> Var:
    given = node.attributes
    return author.op(
        "local_response_norm", x=author.variable(0), size=int(given["size"]), alpha=author.number(given.get("alpha", 1e-4)),
        beta=author.number(given.get("beta", 0.75)), k=author.number(given.get("bias", 1.0)),
    )  # fmt: skip


def _epsilon(author: Author, node: Node) -> Any:
    """At least what the type tells from 0, so that no variance of 0 is divided by."""
    given = float(node.attributes.get("epsilon", 1e-5))
    return max(author.number(given), np.nextafter(author.number(0), author.number(1)))


EMITTERS: dict[str, Emit] = {
    **{op: _reduce(kind) for op, kind in {
        "ReduceMean": "reduce_mean", "ReduceSum": "reduce_sum", "ReduceMax": "reduce_max", "ReduceMin": "reduce_min",
        "ReduceProd": "reduce_prod", "ReduceL1": "reduce_l1_norm", "ReduceL2": "reduce_l2_norm", "ReduceSumSquare": "reduce_sum_square",
        "ReduceLogSum": "reduce_log_sum", "ReduceLogSumExp": "reduce_log_sum_exp",
    }.items()},
    "ArgMax": _arg("reduce_argmax"),
    "ArgMin": _arg("reduce_argmin"),
    "TopK": _top_k,
    "CumSum": _cumulative_sum,
    "Softmax": _softmax,
    "LogSoftmax": _log_softmax,
    "BatchNormalization": _batch_normalization,
    "LayerNormalization": _layer_normalization,
    "InstanceNormalization": _instance_normalization,
    "GroupNormalization": _group_normalization,
    "RMSNormalization": _rms_normalization,
    "LpNormalization": _lp_normalization,
    "LRN": _local_response,
}  # fmt: skip
