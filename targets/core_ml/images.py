"""Pooling and resizing in MIL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from qcompiler.targets.core_ml.author import Emit
from qcompiler.targets.core_ml.products import window
from qcompiler.targets.core_ml.refusals import Unsupported

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qcompiler.ir.node import Node
    from qcompiler.targets.core_ml.author import Author, Var

_SAMPLING = {
    "half_pixel": "UNALIGN_CORNERS",
    "pytorch_half_pixel": "UNALIGN_CORNERS",
    "align_corners": "STRICT_ALIGN_CORNERS",
    "asymmetric": "DEFAULT",
}
"""ONNX's coordinate_transformation_mode to MIL's sampling_mode, by the formulas of both."""


def _pool(author: Author, node: Node) -> dict[str, Any]:
    sides, given = author.rank() - 2, node.attributes
    if any(int(item) != 1 for item in given.get("dilations", [1])):
        raise Unsupported("Core ML has no pooling with dilations")
    place = window(node, sides)
    if given.get("ceil_mode", 0):
        pads = place.get("pad", [0] * 2 * sides)
        place |= {"ceil_mode": True, "pad_type": "custom", "pad": pads}
    return {"x": author.variable(0), "kernel_sizes": [int(size) for size in given["kernel_shape"]], **place}


def _max_pool(author: Author, node: Node) -> Var:
    if len(node.outputs) > 1 and node.outputs[1] is not None:
        raise Unsupported("Core ML's max_pool does not tell where the largest elements were")
    return author.op("max_pool", **_pool(author, node))


def _average_pool(author: Author, node: Node) -> Var:
    alone = not node.attributes.get("count_include_pad", 0)
    return author.op("avg_pool", **_pool(author, node), exclude_padding_from_average=alone)


def _global(kind: str) -> Emit:
    def emit(author: Author, node: Node) -> Var:
        return author.op(kind, x=author.variable(0), axes=list(range(2, author.rank())), keep_dims=True)

    return emit


# -- resizing ------------------------------------------------------------------------------------------------------


def _resize(author: Author, node: Node) -> Var:
    mode, how = node.text("mode", "nearest"), node.text("coordinate_transformation_mode", "half_pixel")
    for name in ("antialias", "exclude_outside"):
        if node.attributes.get(name, 0):
            raise Unsupported(f"Core ML cannot resize with {name}")
    given, factors = author.shape(0), _factors(author, node)
    if len(given) < 3 or any(factor != 1 for factor in factors[:-2]):
        raise Unsupported("Core ML resizes the last two of three dimensions or more")
    sizes = given[-2:]
    if not all(isinstance(size, int) for size in sizes):
        raise Unsupported("the size of the image is open; fix it with --dimension")
    made = [int(np.floor(size * factor)) for size, factor in zip(sizes, factors[-2:], strict=True)]
    if mode == "nearest":
        return _nearest(author, node, sizes, made, factors[-2:])
    if mode != "linear" or how not in _SAMPLING:
        raise Unsupported(f"Core ML cannot resize in mode {mode} with coordinates {how}")
    if any(
        abs(size * factor - goal) > 1e-3 for size, factor, goal in zip(sizes, factors[-2:], made, strict=True)
    ):
        raise Unsupported("its factors are not the ratios of the sizes; give the sizes instead")
    if how == "pytorch_half_pixel" and 1 in made:
        raise Unsupported("of a side that becomes one element it takes the first, and Core ML the middle")
    if made == sizes:
        return author.read(0)
    return author.op(
        "resize_bilinear",
        x=author.variable(0),
        target_size_height=made[0],
        target_size_width=made[1],
        sampling_mode=_SAMPLING[how],
    )


def _factors(author: Author, node: Node) -> list[float]:
    """The factor of each dimension, from the factors or sizes given."""
    rank, given = author.rank(), author.shape(0)
    axes = [int(axis) % rank for axis in node.attributes.get("axes", range(rank))]
    factors = [1.0] * rank
    scales, sizes = author.constant(2), author.integers(3)
    if scales is not None and scales.size:
        for axis, factor in zip(axes, scales.reshape(-1), strict=True):
            factors[axis] = float(factor)
        return factors
    if node.text("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise Unsupported("its sizes are bounds that keep the aspect ratio; give the sizes themselves")
    for axis, size in zip(axes, sizes or [], strict=True):
        known = given[axis]
        if isinstance(known, int):
            factors[axis] = size / known
        elif axis >= rank - 2:
            raise Unsupported("the size of the image is open; fix it with --dimension")
    return factors


def _nearest(author: Author, node: Node, sizes: list[int], made: list[int], factors: list[float]) -> Var:
    """Whole factors with every element repeated, which all conventions agree on; rows and columns are gathered for all others."""
    whole = [goal // size for size, goal in zip(sizes, made, strict=True)]
    x = author.variable(0)
    taken = [
        _taken(node, size, goal, factor) for size, goal, factor in zip(sizes, made, factors, strict=True)
    ]
    if all(
        np.array_equal(rows, np.repeat(np.arange(size), factor))
        for rows, size, factor in zip(taken, sizes, whole, strict=True)
    ):
        return author.op(
            "upsample_nearest_neighbor", x=x, scale_factor_height=whole[0], scale_factor_width=whole[1]
        )
    for axis, rows in zip((-2, -1), taken, strict=True):
        x = author.op(
            "gather", x=x, indices=rows.astype(np.int32), axis=author.rank() + axis, **author.unchecked
        )
    return x


def _taken(node: Node, size: int, made: int, factor: float) -> NDArray[Any]:
    """Which element each result is, in float32 as onnxruntime computes it (ONNX Resize-19)."""
    place, scale = np.arange(made, dtype=np.float32), np.float32(factor)
    how = node.text("coordinate_transformation_mode", "half_pixel")
    if how == "asymmetric":
        place = place / scale
    elif how in ("half_pixel", "pytorch_half_pixel") and (made > 1 or how == "half_pixel"):
        place = (place + np.float32(0.5)) / scale - np.float32(0.5)
    elif how == "align_corners":
        place = place * np.float32(max(size - 1, 0)) / np.float32(max(made - 1, 1))
    elif how != "pytorch_half_pixel":
        raise Unsupported(f"Core ML cannot resize with coordinates {how}")
    rounded = {
        "round_prefer_floor": np.ceil(place - np.float32(0.5)),
        "round_prefer_ceil": np.floor(place + np.float32(0.5)),
        "floor": np.floor(place),
        "ceil": np.ceil(place),
    }[node.text("nearest_mode", "round_prefer_floor")]
    return np.asarray(np.clip(rounded, 0, size - 1), np.int64)


EMITTERS: dict[str, Emit] = {
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "GlobalAveragePool": _global("reduce_mean"),
    "GlobalMaxPool": _global("reduce_max"),
    "Resize": _resize,
}
