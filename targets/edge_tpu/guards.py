"""What a file must not say: rules that LiteRT does not check, or checks by ending the process, and those that it refuses files for.

Sources: TensorFlow Lite's 8-bit quantization specification; single operators in LiteRT 2.3, run by its reference kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from qcompiler.errors import TargetError

if TYPE_CHECKING:
    from qcompiler.targets.edge_tpu.model import Model, Operator, Quantization, Tensor

Coding = tuple[float, int]
"""Scale and zero point."""

_SAME = (
    "AVERAGE_POOL_2D BATCH_TO_SPACE_ND BROADCAST_TO CONCATENATION DEPTH_TO_SPACE EXPAND_DIMS GATHER MAXIMUM MAX_POOL_2D MINIMUM NEG "
    "PACK PAD PADV2 REDUCE_MAX REDUCE_MIN RESHAPE RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR REVERSE_V2 SLICE SPACE_TO_BATCH_ND "
    "SPACE_TO_DEPTH SPLIT SQUEEZE STRIDED_SLICE TILE TRANSPOSE UNPACK"
)
"""Operators that copy or compare codes: all tensors that have a scale share it. LiteRT notices some others, and takes most."""
_FIXED: Mapping[tuple[str, str], Coding] = {
    ("LOGISTIC", "INT8"): (1 / 256, -128),
    ("LOGISTIC", "INT16"): (1 / 32768, 0),
    ("TANH", "INT8"): (1 / 128, 0),
    ("TANH", "INT16"): (1 / 32768, 0),
    ("SOFTMAX", "INT8"): (1 / 256, -128),
    ("SOFTMAX", "INT16"): (1 / 32768, 0),
    ("LOG_SOFTMAX", "INT8"): (1 / 16, 127),
    ("L2_NORMALIZATION", "INT8"): (1 / 128, 0),
}
"""Operators, and the types that they write, to the scales and zero points that they write them in."""
_PRODUCTS: Mapping[str, tuple[int, int, int]] = {
    "CONV_2D": (0, 1, 2),
    "DEPTHWISE_CONV_2D": (0, 1, 2),
    "FULLY_CONNECTED": (0, 1, 2),
    "TRANSPOSE_CONV": (2, 1, 3),
}
"""Operators with weights to the places of input, weights and bias."""
_RANKS: Mapping[str, int] = {"PAD": 5, "PADV2": 5, "BATCH_MATMUL": 5}
"""Operators to the dimensions that they take; others take 8."""
_MOST_RANK = 8
_BIAS_GAP = 0.02
"""By how many codes of the output a bias' scale may be off (`GetQuantizedConvolutionMultipler`)."""
_RESCALED: Mapping[str, tuple[int, int]] = {
    **dict.fromkeys(("LEAKY_RELU", "QUANTIZE", "RELU", "RELU6", "RELU_N1_TO_1"), (9, 17)),
    "PRELU": (17, 25),
    "MUL": (17, 31),
}
"""Operators to the bits of the numbers that they scale, of inputs of 8 and of 16 bits."""
_MOST_FACTOR: Mapping[str, int] = {"INT8": 30, "INT16": 14}
"""Factors of accumulators are below two to that power; larger ones shift by more than there are bits."""


def check(model: Model) -> None:
    """Holds a file to its rules.

    Raises:
        TargetError: It breaks some; all are listed.
    """
    found = [f"the tensor {item.name!r} {reason}" for item in model.tensors for reason in _of_tensor(item)]
    for operator in model.operators:
        call = _Call(operator, model.operands(operator), model.results(operator))
        where = call.results[0].name if call.results else "nothing"
        found += [
            f"{operator.name}, which gives {where!r}, {reason}" for rule in _RULES for reason in rule(call)
        ]
    if found:
        listed = "\n  ".join(dict.fromkeys(found))
        raise TargetError(f"The file would break rules of TensorFlow Lite that runtimes rely on:\n  {listed}")


def _of_tensor(tensor: Tensor) -> Iterator[str]:
    stored = tensor.quantization
    if 0 in tensor.shape:
        yield f"has no elements: its shape is {list(tensor.shape)}"
    if stored is None:
        return
    if not (np.isfinite(stored.scale).all() and (stored.scale > 0).all()):
        yield f"has a scale that is not positive and finite: {stored.scale.min():g}"
    if tensor.type == "INT16" and stored.zero_point.any():
        yield f"has 16 bits and the zero point {int(stored.zero_point[0])}; 16-bit tensors have 0"
    if tensor.data is None and stored.per_channel:
        yield "is computed and has several scales; only constants have"


@dataclass(frozen=True)
class _Call:
    """An operator with the tensors that it reads and writes."""

    operator: Operator
    operands: tuple[Tensor | None, ...]
    results: tuple[Tensor, ...]

    @property
    def op(self) -> str:
        return self.operator.op

    def stored(self, place: int) -> Quantization | None:
        """How an operand is stored; None where there is no such operand, or it is not quantized."""
        operand = self.operands[place] if place < len(self.operands) else None
        return operand.quantization if operand is not None else None

    def scale(self, place: int) -> float:
        """The scale of an operand with a single one; 0 where it has none."""
        stored = self.stored(place)
        return float(stored.scale[0]) if stored is not None else 0.0

    @property
    def made(self) -> Quantization | None:
        return self.results[0].quantization if self.results else None

    @property
    def made_scale(self) -> float:
        return float(self.made.scale[0]) if self.made is not None else 0.0


def _ranks(call: _Call) -> Iterator[str]:
    most = _RANKS.get(call.op, _MOST_RANK)
    rank = max((len(item.shape) for item in (*call.operands, *call.results) if item is not None), default=0)
    if rank > most:
        yield f"has tensors of {rank} dimensions, and takes {most} at most"


def _same_scale(call: _Call) -> Iterator[str]:
    if call.op not in _SAME.split():
        return
    stored = [item.quantization for item in (*call.operands, *call.results) if item is not None]
    codings = {_coding(item) for item in stored if item is not None}
    if len(codings) > 1:
        yield f"copies or compares codes, and its tensors differ in scale or zero point: {_listed(codings)}"
    if call.op == "NEG" and any(zero for _, zero in codings):
        yield f"negates codes, and its zero point is not 0: {_listed(codings)}"


def _fixed_output(call: _Call) -> Iterator[str]:
    expected = _FIXED.get((call.op, call.results[0].type if call.results else ""))
    made = {_coding(call.made)} if call.made is not None else set()
    if expected and made != {expected}:
        yield f"writes scale and zero point {_listed({expected})} only, and not {_listed(made)}"


def _product(call: _Call) -> Iterator[str]:
    places = _PRODUCTS.get(call.op)
    if places is None:
        return
    x, weights, made = call.stored(places[0]), call.stored(places[1]), call.made
    if x is None or weights is None or made is None:
        return
    if weights.zero_point.any():
        yield "has weights with a zero point, which runtimes take for 0"
    product = x.scale.astype(np.float64) * weights.scale.astype(np.float64)
    kind = call.results[0].type
    factor = float(product.max()) / call.made_scale
    most = _MOST_FACTOR.get(kind)
    if most is not None and call.op != "FULLY_CONNECTED" and factor >= 2.0**most:
        yield f"has the factor {factor:.3g} from accumulators to codes; it has to be less than 2**{most}"
    bias = call.operands[places[2]] if places[2] < len(call.operands) else None
    if bias is None:
        return
    expected = "INT64" if kind == "INT16" else "INT32"
    if bias.type != expected:
        yield f"has a bias of type {bias.type}; with outputs of type {kind} it is {expected}"
    if bias.quantization is None or bias.quantization.zero_point.any():
        yield "has a bias without a scale, or with a zero point"
        return
    gap = np.abs(bias.quantization.scale.astype(np.float64) - product)
    if (gap > 1e-6 * product).any() or gap.max() / call.made_scale > _BIAS_GAP:
        yield "has a bias whose scale is not that of its input times that of its weights"


def _rescaled(call: _Call) -> Iterator[str]:
    """The factor of what is multiplied, or only put into another encoding: it shifts numbers to the left, which have to stay in 32 bits."""
    if call.made is None or call.op not in _RESCALED:
        return
    wide = call.operands[0] is not None and call.operands[0].type == "INT16"
    factor, most = call.scale(0) * (call.scale(1) or 1.0) / call.made_scale, 31 - _RESCALED[call.op][wide]
    if factor >= 2.0**most:
        yield f"has the factor {factor:.3g} from one encoding to another; it has to be less than 2**{most}"


def _sum(call: _Call) -> Iterator[str]:
    """The sum's factor is 2 * max(a, b) / (2**shift * y); kernels shift it to the right, by no less than 0."""
    if call.op not in ("ADD", "SUB") or call.made is None:
        return
    wide = call.results[0].type == "INT16"
    if wide and call.operator.options.get("pot_scale_int16", True):
        yield "has pot_scale_int16, by which scales near powers of two are taken for them"
    twice, unit = 2 * max(call.scale(0), call.scale(1)), 2.0 ** (15 if wide else 20) * call.made_scale
    if twice >= unit:
        yield f"has an output scale of {call.made_scale:g}, too small for operands of scale {twice / 2:g}: LiteRT ends the process"


def _exponentials(call: _Call) -> Iterator[str]:
    x = call.operands[0] if call.operands else None
    if call.op in ("SOFTMAX", "LOG_SOFTMAX") and x is not None and x.type == "INT8":
        beta = float(call.operator.options.get("beta", 1.0))
        if call.scale(0) * beta * 2.0**26 <= 1:
            yield f"has an input scale of {call.scale(0):g}, which has to be more than 2**-26: LiteRT ends the process"


def _hard_swish(call: _Call) -> Iterator[str]:
    if call.op == "HARD_SWISH" and call.made is not None:
        ratio = float(np.float32(1 / 128) * np.float32(call.scale(0)) / np.float32(call.made_scale))
        if not 2.0**-15 <= ratio < 1:
            yield f"has scales of the ratio {128 * ratio:g}, which has to be at least 2**-8 and less than 128"
        if call.scale(0) >= 2.0**24:
            yield f"has an input scale of {call.scale(0):g}, which has to be less than 2**24: LiteRT shifts by more bits than there are"


def _roots(call: _Call) -> Iterator[str]:
    x = call.stored(0)
    if call.op not in ("SQRT", "RSQRT") or x is None or call.made is None:
        return
    if x.zero_point[0] != -128:
        yield f"has the zero point {int(x.zero_point[0])} in front, which allows negative numbers: LiteRT refuses them when it meets them"
    factor = 1 / (np.sqrt(call.scale(0)) * call.made_scale)
    if call.op == "RSQRT" and factor < 2.0**-11:
        yield f"has the factor {factor:.3g}, which has to be at least 2**-11"


def _slopes(call: _Call) -> Iterator[str]:
    stored = call.stored(1)
    if call.op == "PRELU" and stored is not None and stored.per_channel:
        yield "has slopes of several scales, of which LiteRT reads the first"


_RULES: tuple[Callable[[_Call], Iterator[str]], ...] = (
    _ranks,
    _same_scale,
    _fixed_output,
    _product,
    _rescaled,
    _sum,
    _exponentials,
    _hard_swish,
    _roots,
    _slopes,
)


def _coding(stored: Quantization) -> Coding:
    return float(stored.scale[0]), int(stored.zero_point[0])


def _listed(codings: set[Coding]) -> str:
    return " or ".join(f"({scale:g}, {zero})" for scale, zero in sorted(codings)) or "none"
