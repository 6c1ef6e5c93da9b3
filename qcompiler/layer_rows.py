"""Linear layers as matrices: the weights as [groups, outputs, inputs], and the rows of inputs that outputs come from.

A row is what one output element reads: the window of a convolution, the last axis of a matrix product. Rows are drawn at
fixed pseudo-random positions, a few from every sample.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from qcompiler import ops

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qcompiler.ir.node import Node


@dataclass(frozen=True)
class Layer:
    """A weighted node whose weights are constant.

    Attributes:
        node: Conv, Gemm or MatMul.
        groups: Groups of channels; 1 but for convolutions.
        outputs: Output channels per group.
        inputs: What one output channel reads: channels of its group times kernel elements.
    """

    node: Node
    groups: int
    outputs: int
    inputs: int

    @classmethod
    def of(cls, node: Node) -> Layer | None:
        """The layer of a node, or None where it is no such node, or its bias is not constant and one number per output."""
        weight, bias = node.input(1), node.input(2)
        if weight is None or weight.data is None or not node.is_op("Conv", "Gemm", "MatMul"):
            return None
        shape = weight.data.shape
        if node.op == "Conv":
            groups = int(node.attributes.get("group", 1))
            layer = cls(node, groups, shape[0] // groups, math.prod(shape[1:]))
        else:
            factors = (node.attributes.get("alpha", 1.0), node.attributes.get("beta", 1.0) if bias else 1.0)
            if len(shape) != 2 or node.attributes.get("transA", 0) or factors != (1.0, 1.0):
                return None
            rows, columns = shape[::-1] if node.attributes.get("transB", 0) else shape
            layer = cls(node, 1, columns, rows)
        if bias is None:
            return layer
        fits = bias.data is not None and (
            bias.data.size == 1 or bias.data.shape[-1] == bias.data.size == layer.groups * layer.outputs
        )
        return layer if fits else None

    @property
    def _transposed(self) -> bool:
        return self.node.op != "Conv" and not self.node.attributes.get("transB", 0)

    @property
    def channel_axis(self) -> int | None:
        """The axis of the weights that output channels lie on."""
        return ops.info(self.node).channel_axis(self.node, 1)

    def matrix(self, weights: NDArray[Any]) -> NDArray[np.float64]:
        """Weights as [groups, outputs, inputs], float64."""
        given = weights.T if self._transposed else weights
        return given.reshape(self.groups, self.outputs, self.inputs).astype(np.float64)

    def tensor(self, matrix: NDArray[Any], like: NDArray[Any]) -> NDArray[np.float32]:
        """The inverse of `matrix`, float32."""
        flat = matrix.reshape(self.groups * self.outputs, self.inputs)
        given = flat.T if self._transposed else flat
        return np.ascontiguousarray(given.reshape(like.shape), np.float32)

    def positions(self, shape: tuple[int, ...]) -> int:
        """How many output positions one sample has, from the shape of the output."""
        return math.prod(shape[2:]) if self.node.op == "Conv" else math.prod(shape[1:-1])

    def input_rows(
        self, x: NDArray[Any], shape: tuple[int, ...], chosen: NDArray[np.intp]
    ) -> NDArray[np.float32]:
        """The rows that outputs at some positions read.

        Args:
            x: The node's input.
            shape: Its output's shape.
            chosen: [samples, n] flat output positions.

        Returns:
            [groups, samples * n, inputs].
        """
        if self.node.op != "Conv":
            flat = x.reshape(len(chosen), -1, x.shape[-1])
            rows = np.take_along_axis(flat, chosen[:, :, None], axis=1).reshape(1, -1, x.shape[-1])
            return np.asarray(rows, np.float32)
        windows = self._windows(np.asarray(x, np.float32), shape[2:])
        where = np.unravel_index(chosen, shape[2:])
        sample = np.broadcast_to(np.arange(len(x))[:, None], chosen.shape)
        picked: tuple[Any, ...] = (sample, slice(None), *where)
        taken = windows[picked]  # [samples, n, channels, *kernel]
        rows = taken.reshape(chosen.size, self.groups, self.inputs)
        return np.ascontiguousarray(rows.transpose(1, 0, 2))

    def output_rows(self, y: NDArray[Any], chosen: NDArray[np.intp]) -> NDArray[np.float32]:
        """Outputs at some positions: [groups, samples * n, outputs]."""
        if self.node.op == "Conv":
            flat = y.reshape(len(y), y.shape[1], -1)
            rows = np.take_along_axis(flat, chosen[:, None, :], axis=2).transpose(0, 2, 1)
        else:
            flat = y.reshape(len(chosen), -1, y.shape[-1])
            rows = np.take_along_axis(flat, chosen[:, :, None], axis=1)
        split = rows.reshape(chosen.size, self.groups, self.outputs)
        return np.ascontiguousarray(split.transpose(1, 0, 2), np.float32)

    def _windows(self, x: NDArray[np.float32], out: tuple[int, ...]) -> NDArray[np.float32]:
        """A view [samples, channels, *out, *kernel] of the padded input."""
        attributes, weight = self.node.attributes, self.node.inputs[1]
        assert weight is not None
        assert weight.data is not None
        kernel = weight.data.shape[2:]
        rank = len(kernel)
        strides = list(attributes.get("strides", [1] * rank))
        dilations = list(attributes.get("dilations", [1] * rank))
        spans = [(size - 1) * step + 1 for size, step in zip(kernel, dilations, strict=True)]
        pads = self._pads(x.shape[2:], out, strides, spans)
        padded = np.pad(x, [(0, 0), (0, 0), *pads])
        axes = tuple(range(2, 2 + rank))
        view = np.lib.stride_tricks.sliding_window_view(padded, spans, axis=axes)
        steps = tuple(slice(None, None, step) for step in strides)
        holes = tuple(slice(None, None, step) for step in dilations)
        return view[(slice(None), slice(None), *steps, *holes)]

    def _pads(
        self, size: tuple[int, ...], out: tuple[int, ...], strides: list[int], spans: list[int]
    ) -> list[tuple[int, int]]:
        rank, given = len(size), self.node.attributes.get("pads")
        auto = self.node.text("auto_pad", "NOTSET")
        if not auto.startswith("SAME"):
            ends = list(given) if given and auto == "NOTSET" else [0] * 2 * rank
            return [(max(ends[axis], 0), max(ends[rank + axis], 0)) for axis in range(rank)]
        pads = []
        for axis in range(rank):
            total = max((out[axis] - 1) * strides[axis] + spans[axis] - size[axis], 0)
            small = total // 2
            pads.append((small, total - small) if auto == "SAME_UPPER" else (total - small, small))
        return pads
