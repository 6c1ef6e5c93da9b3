"""Operators that move elements, and those that compute sizes, in MIL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from qcompiler.targets.core_ml.author import Emit
from qcompiler.targets.core_ml.refusals import Unsupported

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qcompiler.ir.node import Node
    from qcompiler.targets.core_ml.author import Author, Var


def _reshape(author: Author, node: Node) -> Var:
    """A 0 in ONNX's shape is the operand's own size; MIL has that as a number, and one size may be open (-1)."""
    if node.attributes.get("allowzero", 0):
        raise Unsupported("it makes empty tensors (allowzero)")
    try:
        wanted = author.integers(1)
    except Unsupported:
        return author.op("reshape", x=author.variable(0), shape=author.read(1))
    assert wanted is not None
    given = author.shape(0)
    sizes = [given[axis] if size == 0 else size for axis, size in enumerate(wanted)]
    return _reshaped(author, author.variable(0), sizes)


def _reshaped(author: Author, x: Var, sizes: list[Any]) -> Var:
    """A reshape to sizes of which some may be symbols: one of those becomes -1, more of them are read from the operand."""
    known = [size if isinstance(size, int) else None for size in sizes]
    if known.count(None) == 0:
        return author.op("reshape", x=x, shape=known)
    if known.count(None) == 1 and -1 not in known:
        return author.op("reshape", x=x, shape=[-1 if size is None else size for size in known])
    shape = author.op("shape", x=x)
    own = list(x.shape)
    parts = [
        np.array([size], np.int32) if size is not None else _size_at(author, shape, own.index(sizes[axis]))
        for axis, size in enumerate(known)
    ]
    return author.op("reshape", x=x, shape=author.op("concat", values=parts, axis=0))


def _size_at(author: Author, shape: Var, axis: int) -> Var:
    return author.op("slice_by_index", x=shape, begin=[axis], end=[axis + 1])


def _flatten(author: Author, node: Node) -> Var:
    given, axis = (
        author.shape(0),
        author.axis(1)
        if "axis" not in node.attributes or node.attributes["axis"] != author.rank()
        else author.rank(),
    )
    front, behind = given[:axis], given[axis:]
    if all(isinstance(size, int) for size in behind):
        return author.op("reshape", x=author.variable(0), shape=[-1, int(np.prod(behind, dtype=np.int64))])
    if all(isinstance(size, int) for size in front):
        return author.op("reshape", x=author.variable(0), shape=[int(np.prod(front, dtype=np.int64)), -1])
    raise Unsupported("sizes on both sides of its axis are open; fix one with --dimension")


def _transpose(author: Author, node: Node) -> Var:
    order = node.attributes.get("perm", range(author.rank())[::-1])
    return author.op("transpose", x=author.variable(0), perm=[int(axis) for axis in order])


def _squeeze(author: Author, node: Node) -> Var:
    axes = author.integers(1)
    if axes == []:
        return author.read(0)
    return author.op("squeeze", x=author.variable(0), axes=axes)


def _unsqueeze(author: Author, node: Node) -> Var:
    axes = author.integers(1)
    assert axes is not None
    rank = author.rank() + len(axes)
    return author.op("expand_dims", x=author.variable(0), axes=sorted(axis % rank for axis in axes))


def _slice(author: Author, node: Node) -> Var:
    starts, ends, rank = author.integers(1), author.integers(2), author.rank()
    assert starts is not None
    assert ends is not None
    axes, steps = author.integers(3) or list(range(len(starts))), author.integers(4) or [1] * len(starts)
    begin, end, stride = [0] * rank, [0] * rank, [1] * rank
    whole_begin, whole_end = [True] * rank, [True] * rank
    for start, stop, axis, step in zip(starts, ends, axes, steps, strict=True):
        axis %= rank
        size = author.shape(0)[axis]
        begin[axis], whole_begin[axis] = _begin(start, size, step)
        end[axis], whole_end[axis] = _end(stop, size, step)
        stride[axis] = step
    return author.op(
        "slice_by_index", x=author.variable(0), begin=begin, end=end, stride=stride, begin_mask=whole_begin, end_mask=whole_end,
    )  # fmt: skip


def _begin(start: int, size: Any, step: int) -> tuple[int, bool]:
    """Where a slice begins, and whether that is the end of the axis that it comes from."""
    if not isinstance(size, int):
        return start, start == 0 and step > 0
    low, high = (0, size) if step > 0 else (-1, size - 1)
    first = min(max(start + size if start < 0 else start, low), high)
    return first, first == (0 if step > 0 else size - 1)


def _end(stop: int, size: Any, step: int) -> tuple[int, bool]:
    """Where a slice ends, and whether that is the end of the axis."""
    if not isinstance(size, int):
        return stop, stop >= np.iinfo(np.int32).max and step > 0
    low, high = (0, size) if step > 0 else (-1, size - 1)
    last = min(max(stop + size if stop < 0 else stop, low), high)
    return last, last == (size if step > 0 else -1)


def _split(author: Author, node: Node) -> Sequence[Var]:
    axis, sizes, count = author.axis(0), author.integers(1), len(node.outputs)
    if count == 1:
        return [author.read(0)]
    if sizes is None:
        size = author.shape(0)[axis]
        if not isinstance(size, int):
            raise Unsupported("the size that it splits is open; fix it with --dimension")
        part = -(-size // count)
        sizes = [part] * (count - 1) + [size - part * (count - 1)]
    return list(author.op("split", x=author.variable(0), split_sizes=sizes, axis=axis))


def _concat(author: Author, node: Node) -> Var:
    values = [author.variable(slot) for slot in range(len(node.inputs))]
    return values[0] if len(values) == 1 else author.op("concat", values=values, axis=author.axis(0))


def _expand(author: Author, node: Node) -> Var:
    wanted, given = author.integers(1), author.static(0)
    assert wanted is not None
    rank = max(len(wanted), len(given))
    x = author.variable(0)
    if len(given) < rank:
        x = author.op("reshape", x=x, shape=[1] * (rank - len(given)) + given)
    given, wanted = [1] * (rank - len(given)) + given, [1] * (rank - len(wanted)) + wanted
    return author.op(
        "tile", x=x, reps=[goal if size == 1 else 1 for size, goal in zip(given, wanted, strict=True)]
    )


def _tile(author: Author, node: Node) -> Var:
    return author.op("tile", x=author.variable(0), reps=author.integers(1))


def _pad(author: Author, node: Node) -> Var:
    pads, rank = author.integers(1), author.rank()
    assert pads is not None
    axes = [axis % rank for axis in author.integers(3) or range(rank)]
    pairs = [[0, 0] for _ in range(rank)]
    for place, axis in enumerate(axes):
        pairs[axis] = [pads[place], pads[place + len(axes)]]
    if any(pad < 0 for pair in pairs for pad in pair):
        raise Unsupported("it pads by negative numbers; slice the operand instead")
    mode = node.text("mode", "constant")
    if mode not in ("constant", "reflect", "edge"):
        raise Unsupported(f"Core ML cannot pad in mode {mode}")
    if mode != "constant" and any(pad for pair in pairs[:-2] for pad in pair):
        raise Unsupported(f"Core ML pads the last two dimensions only in mode {mode}")
    fill = author.read(2) if mode == "constant" else None
    value = author.number(0) if fill is None else fill.reshape(-1)[0]
    if mode != "constant":
        pairs = pairs[-2:]
    return author.op(
        "pad", x=author.variable(0), pad=[pad for pair in pairs for pad in pair],
        mode="replicate" if mode == "edge" else mode, constant_val=value,
    )  # fmt: skip


def _depth_to_space(author: Author, node: Node) -> Var:
    """`depth_to_space` (DCR) or `pixel_shuffle` (CRD)."""
    size = int(node.attributes["blocksize"])
    if node.text("mode", "DCR") == "CRD":
        return author.op("pixel_shuffle", x=author.variable(0), upscale_factor=size)
    return author.op("depth_to_space", x=author.variable(0), block_size=size)


def _space_to_depth(author: Author, node: Node) -> Var:
    return author.op("space_to_depth", x=author.variable(0), block_size=int(node.attributes["blocksize"]))


# -- by indices ----------------------------------------------------------------------------------------------------


def _indices(author: Author, axis: int) -> Var:
    """Indices from 0 on: negative ones that are constant are counted from the front."""
    indices = author.read(1)
    if isinstance(indices, np.ndarray) and (indices < 0).any():
        size = author.shape(0)[axis]
        if not isinstance(size, int):
            raise Unsupported(
                "indices count from the end of a dimension that is open; fix it with --dimension"
            )
        indices = np.where(indices < 0, indices + size, indices)
    return indices.astype(np.int32) if isinstance(indices, np.ndarray) else indices


def _gather(author: Author, node: Node) -> Var:
    axis = author.axis(0)
    return author.op(
        "gather", x=author.variable(0), indices=_indices(author, axis), axis=axis, **author.unchecked
    )


def _gather_elements(author: Author, node: Node) -> Var:
    axis = author.axis(0)
    return author.op(
        "gather_along_axis",
        x=author.variable(0),
        indices=_indices(author, axis),
        axis=axis,
        **author.unchecked,
    )


def _gather_nd(author: Author, node: Node) -> Var:
    if node.attributes.get("batch_dims", 0):
        raise Unsupported("it gathers within batches (batch_dims)")
    return author.op("gather_nd", x=author.variable(0), indices=author.read(1), **author.unchecked)


# -- sizes ---------------------------------------------------------------------------------------------------------


def _shape(author: Author, node: Node) -> Var:
    rank = author.rank()
    first, last = int(node.attributes.get("start", 0)), int(node.attributes.get("end", rank))
    sizes = author.op("shape", x=author.variable(0))
    axes = range(rank)[slice(first, last)]
    return (
        sizes
        if len(axes) == rank
        else author.op("slice_by_index", x=sizes, begin=[axes.start], end=[axes.stop])
    )


def _constant_of_shape(author: Author, node: Node) -> Var:
    fill = np.asarray(node.attributes.get("value", np.zeros(1, np.float32))).reshape(-1)[0]
    number = author.number(float(fill)) if fill.dtype.kind == "f" else np.int32(fill)
    return author.op("fill", shape=author.read(0), value=number)


EMITTERS: dict[str, Emit] = {
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Transpose": _transpose,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Slice": _slice,
    "Split": _split,
    "Concat": _concat,
    "Expand": _expand,
    "Tile": _tile,
    "Pad": _pad,
    "DepthToSpace": _depth_to_space,
    "SpaceToDepth": _space_to_depth,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "Shape": _shape,
    "ConstantOfShape": _constant_of_shape,
}
