"""What MIL's convolutions, matrix products and recurrent operators compute, in numpy."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from qcompiler.targets.core_ml.numpy_windows import paddings, windows

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]


def _conv(
    x: Array, weight: Array, bias: Array | None = None, strides: Any = None, pad_type: str = "valid", pad: Any = None,
    dilations: Any = None, groups: Any = 1,
) -> Array:  # fmt: skip
    sides = x.ndim - 2
    strides, dilations = _per_side(strides, sides), _per_side(dilations, sides)
    kernel = [(size - 1) * step + 1 for size, step in zip(weight.shape[2:], dilations, strict=True)]
    pads = paddings(x.shape[2:], kernel, strides, pad_type, pad)
    padded = np.pad(x, [(0, 0), (0, 0), *pads]) if any(map(any, pads)) else x
    result = _products(padded, weight, strides, dilations, int(groups))
    return result if bias is None else result + bias.reshape(-1, *[1] * sides)


def _products(
    x: Array, weight: Array, strides: Sequence[int], dilations: Sequence[int], groups: int
) -> Array:
    """A convolution without padding: depthwise ones position by position, others as matrix products, sample by sample."""
    if groups == x.shape[1] and groups > 1 and weight.shape[0] == groups:
        return _depthwise(x, weight, strides, dilations)
    view = windows(x, weight.shape[2:], strides, dilations)  # [batch, channels, *out, *kernel]
    sides = x.ndim - 2
    order = (
        0,
        *range(1 + sides, 1 + 2 * sides),
        *range(1, 1 + sides),
    )  # of a sample: [channels, *kernel, *out]
    filters = weight.reshape(groups, weight.shape[0] // groups, -1)
    result = np.empty((len(x), weight.shape[0], *view.shape[2 : 2 + sides]), np.float32)
    for sample, place in zip(view, result, strict=True):
        columns = sample.transpose(order).reshape(groups, filters.shape[2], -1)
        place[...] = np.matmul(filters, columns).reshape(place.shape)
    return result


def _depthwise(x: Array, weight: Array, strides: Sequence[int], dilations: Sequence[int]) -> Array:
    view = windows(x, weight.shape[2:], strides, dilations)
    sides = x.ndim - 2
    result = np.zeros(view.shape[: 2 + sides], np.float32)
    filters = weight[:, 0].reshape(len(weight), *[1] * sides, *weight.shape[2:])
    for place in itertools.product(*map(range, weight.shape[2:])):
        here: Any = (..., *place)
        result += view[here] * filters[here]
    return result


def _conv_transpose(
    x: Array, weight: Array, bias: Array | None = None, pad: Any = None, output_shape: Any = None, pad_type: str = "valid",
    strides: Any = None, dilations: Any = None, groups: Any = 1,
) -> Array:  # fmt: skip
    """Every element is spread by its filter; that is a convolution of what has zeros between its elements, the filter turned around."""
    sides, groups = x.ndim - 2, int(groups)
    strides, dilations = _per_side(strides, sides), _per_side(dilations, sides)
    kernel = [(size - 1) * step + 1 for size, step in zip(weight.shape[2:], dilations, strict=True)]
    spread = np.zeros(
        (*x.shape[:2], *((size - 1) * step + 1 for size, step in zip(x.shape[2:], strides, strict=True))),
        np.float32,
    )
    between: Any = (..., *(slice(None, None, step) for step in strides))
    spread[between] = x
    spread = np.pad(spread, [(0, 0), (0, 0), *((size - 1, size - 1) for size in kernel)])
    turned = np.flip(weight, axis=tuple(range(2, weight.ndim)))
    grouped = turned.reshape(groups, -1, *weight.shape[1:]).swapaxes(1, 2)  # [groups, out, in, *kernel]
    whole = _products(spread, grouped.reshape(-1, *grouped.shape[2:]), [1] * sides, dilations, groups)
    pads = np.zeros(2 * sides, int) if pad_type != "custom" or pad is None else np.asarray(pad)
    ends = [size - behind for size, behind in zip(whole.shape[2:], pads[1::2], strict=True)]
    kept: Any = (..., *map(slice, pads[::2], ends))
    result: Array = whole[kept]
    return result if bias is None else result + bias.reshape(-1, *[1] * sides)


def _per_side(given: Any, sides: int) -> list[int]:
    return [1] * sides if given is None else [int(item) for item in np.asarray(given).reshape(-1)]


def _linear(x: Array, weight: Array, bias: Array | None = None) -> Array:
    product: Array = np.matmul(x, weight.T)
    return product if bias is None else product + bias


def _matmul(x: Array, y: Array, transpose_x: Any = False, transpose_y: Any = False) -> Array:
    result: Array = np.matmul(
        np.swapaxes(x, -1, -2) if transpose_x else x, np.swapaxes(y, -1, -2) if transpose_y else y
    )
    return result


# -- recurrent -----------------------------------------------------------------------------------------------------


def _lstm(
    x: Array, initial_h: Array, initial_c: Array, weight_ih: Array, weight_hh: Array, bias: Array | None = None,
    weight_ih_back: Array | None = None, weight_hh_back: Array | None = None, bias_back: Array | None = None,
    direction: str = "forward", output_sequence: Any = False, **activations: Any,
) -> tuple[Array, Array, Array]:  # fmt: skip
    """Gates lie in the order input, forget, output, cell; activations are sigmoid and tanh.

    Backwards, steps are given in the order that they are computed in; both ways, in that of the sequence.
    """
    hidden = weight_hh.shape[1]
    if direction != "bidirectional":
        y, h, c = _one_way(
            x[::-1] if direction == "reverse" else x,
            initial_h,
            initial_c,
            weight_ih,
            weight_hh,
            bias,
            backwards=False,
        )
    else:
        assert weight_ih_back is not None
        assert weight_hh_back is not None
        there = _one_way(
            x, initial_h[:, :hidden], initial_c[:, :hidden], weight_ih, weight_hh, bias, backwards=False
        )
        back = _one_way(
            x,
            initial_h[:, hidden:],
            initial_c[:, hidden:],
            weight_ih_back,
            weight_hh_back,
            bias_back,
            backwards=True,
        )
        y, h, c = (np.concatenate(pair, axis=-1) for pair in zip(there, back, strict=True))
    return (y if output_sequence else h[None]), h, c


def _one_way(
    x: Array, h: Array, c: Array, ih: Array, hh: Array, bias: Array | None, *, backwards: bool
) -> tuple[Array, Array, Array]:
    steps = np.matmul(x, ih.T) + (0 if bias is None else bias)
    y = np.empty((*x.shape[:2], hh.shape[1]), np.float32)
    for step in range(len(x))[:: -1 if backwards else 1]:
        gates = steps[step] + np.matmul(h, hh.T)
        i, f, o = (1 / (1 + np.exp(-part)) for part in np.split(gates, 4, axis=-1)[:3])
        c = f * c + i * np.tanh(gates[:, 3 * hh.shape[1] :])
        h = o * np.tanh(c)
        y[step] = h
    return y, h, c


def _gru(
    x: Array, initial_h: Array, weight_ih: Array, weight_hh: Array, bias: Array | None = None,
    direction: str = "forward", output_sequence: Any = False, **activations: Any,
) -> tuple[Array, Array]:  # fmt: skip
    """Gates lie in the order reset, output, update; the reset gate acts in front of the product; activations are sigmoid and tanh.

    Backwards, steps are given in the order that they are computed in.
    """
    inputs = np.matmul(x[::-1] if direction == "reverse" else x, weight_ih.T)
    inputs = inputs + (0 if bias is None else bias)
    hidden, h = weight_hh.shape[1], initial_h
    y = np.empty((*x.shape[:2], hidden), np.float32)
    for step, given in enumerate(inputs):
        both = given + np.matmul(h, weight_hh.T)
        r, z = (1 / (1 + np.exp(-part)) for part in (both[:, :hidden], both[:, 2 * hidden :]))
        reset = np.matmul(r * h, weight_hh[hidden : 2 * hidden].T)
        o = np.tanh(given[:, hidden : 2 * hidden] + reset)
        h = (1 - z) * o + z * h
        y[step] = h
    return (y if output_sequence else h[None]), h


RULES: dict[str, Callable[..., Any]] = {
    "conv": _conv,
    "conv_transpose": _conv_transpose,
    "linear": _linear,
    "matmul": _matmul,
    "lstm": _lstm,
    "gru": _gru,
}
