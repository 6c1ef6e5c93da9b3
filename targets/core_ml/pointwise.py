"""Functions of one or several operands, element by element, in MIL."""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import helper

from qcompiler.targets.core_ml.author import Emit
from qcompiler.targets.core_ml.refusals import Unsupported

if TYPE_CHECKING:
    from qcompiler.ir.node import Node
    from qcompiler.targets.core_ml.author import Author, Var

_SELU = 1.67326319217681884765625, 1.05070102214813232421875
"""Alpha and gamma by default (ONNX operator Selu-6)."""


def _same(kind: str) -> Emit:
    """An operator that MIL has with no more than the operand."""
    return lambda author, node: author.op(kind, x=author.variable(0))


def _with_alpha(kind: str, default: float) -> Emit:
    """An operator that MIL has with one parameter, alpha."""
    return lambda author, node: author.op(
        kind, x=author.variable(0), alpha=_given(author, node, "alpha", default)
    )


def _given(author: Author, node: Node, name: str, default: float) -> Any:
    return author.number(float(node.attributes.get(name, default)))


def _neg(author: Author, node: Node) -> Var:
    x = author.variable(0)
    return author.op("mul", x=x, y=author.dtype(x).type(-1))


def _log(author: Author, node: Node) -> Var:
    return author.op("log", x=author.variable(0), epsilon=author.number(0))


def _reciprocal(author: Author, node: Node) -> Var:
    """A division: MIL's `inverse` adds an epsilon to what it divides by."""
    return author.op("real_div", x=author.number(1), y=author.variable(0))


def _hard_sigmoid(author: Author, node: Node) -> Var:
    alpha, beta = _given(author, node, "alpha", 0.2), _given(author, node, "beta", 0.5)
    return author.op("sigmoid_hard", x=author.variable(0), alpha=alpha, beta=beta)


def _hard_swish(author: Author, node: Node) -> Var:
    x = author.variable(0)
    gate = author.op("sigmoid_hard", x=x, alpha=author.number(1 / 6), beta=author.number(0.5))
    return author.op("mul", x=x, y=gate)


def _mish(author: Author, node: Node) -> Var:
    x = author.variable(0)
    return author.op("mul", x=x, y=author.op("tanh", x=author.op("softplus", x=x)))


def _selu(author: Author, node: Node) -> Var:
    alpha, gamma = (
        _given(author, node, name, item) for name, item in zip(("alpha", "gamma"), _SELU, strict=True)
    )
    return author.op("mul", x=author.op("elu", x=author.variable(0), alpha=alpha), y=gamma)


def _celu(author: Author, node: Node) -> Var:
    """The elu of alpha 1 of x / alpha, times alpha."""
    alpha = _given(author, node, "alpha", 1.0)
    inner = author.op("elu", x=author.op("real_div", x=author.variable(0), y=alpha), alpha=author.number(1))
    return author.op("mul", x=inner, y=alpha)


def _gelu(author: Author, node: Node) -> Var:
    mode = "TANH_APPROXIMATION" if node.text("approximate", "none") == "tanh" else "EXACT"
    return author.op("gelu", x=author.variable(0), mode=mode)


def _prelu(author: Author, node: Node) -> Var:
    """`prelu` for a slope per channel, which is the second axis; else max(x, 0) + slope * min(x, 0)."""
    x, slope, rank = author.variable(0), author.read(1), author.rank()
    if isinstance(slope, np.ndarray) and rank >= 3:
        channels = author.shape(0)[1]
        shape = (1,) * (rank - slope.ndim) + slope.shape
        if isinstance(channels, int) and all(size == 1 for axis, size in enumerate(shape) if axis != 1):
            return author.op("prelu", x=x, alpha=np.broadcast_to(slope.reshape(-1), (channels,)).copy())
    below = author.op("mul", x=author.op("minimum", x=x, y=author.number(0)), y=slope)
    return author.op("add", x=author.op("relu", x=x), y=below)


def _clip(author: Author, node: Node) -> Var:
    """`relu6` or `clip`; with bounds that are computed, or of integers, minimum and maximum."""
    x, bounds = author.variable(0), (author.read(1), author.read(2))
    if author.dtype(x).kind == "f" and all(
        bound is None or isinstance(bound, np.ndarray) for bound in bounds
    ):
        limit = float(np.finfo(author.float_type).max)
        low = max(-limit, -math.inf if bounds[0] is None else float(bounds[0].reshape(-1)[0]))
        high = min(limit, math.inf if bounds[1] is None else float(bounds[1].reshape(-1)[0]))
        if (low, high) == (0, 6):
            return author.op("relu6", x=x)
        return author.op("clip", x=x, alpha=author.number(low), beta=author.number(high))
    if bounds[0] is not None:
        x = author.op("maximum", x=x, y=bounds[0])
    return x if bounds[1] is None else author.op("minimum", x=x, y=bounds[1])


def _cast(author: Author, node: Node) -> Var:
    """Casts between floats are left to those who read the result: what they compute in is decided elsewhere."""
    source, wanted = author.variable(0), np.dtype(helper.tensor_dtype_to_np_dtype(int(node.attributes["to"])))
    if wanted.kind == "f" or wanted.name == "bfloat16":
        return source if author.dtype(source).kind == "f" else author.cast(source, author.float_type)
    if wanted == np.bool_:
        return author.cast(source, wanted)
    if wanted.kind in "iu":
        return author.cast(source, np.dtype(np.int32))
    raise Unsupported(f"Core ML has no {wanted}")


def _passed_on(author: Author, node: Node) -> Var:
    return author.read(0)


# -- several operands ----------------------------------------------------------------------------------------------


def _pair(author: Author, kind: str, x: Var, y: Var) -> Var:
    """An operator of two operands, of which MIL wants one to be no constant."""
    if isinstance(x, np.ndarray) and isinstance(y, np.ndarray):
        x = author.op("const", val=x)
    return author.op(kind, x=x, y=y)


def _two(kind: str) -> Emit:
    return lambda author, node: _pair(author, kind, author.read(0), author.read(1))


def _many(kind: str) -> Emit:
    """An operator of any number of operands, from one of two."""

    def emit(author: Author, node: Node) -> Var:
        operands = [author.read(slot) for slot in range(len(node.inputs))]
        return functools.reduce(functools.partial(_pair, author, kind), operands)

    return emit


def _mean(author: Author, node: Node) -> Var:
    return author.op("mul", x=_many("add")(author, node), y=author.number(1 / len(node.inputs)))


def _div(author: Author, node: Node) -> Var:
    x, y = author.read(0), author.read(1)
    if author.dtype(x).kind != "f":
        raise Unsupported("it divides integers, which ONNX rounds towards zero and Core ML down")
    return _pair(author, "real_div", x, y)


def _mod(author: Author, node: Node) -> Var:
    if node.attributes.get("fmod", 0):
        raise Unsupported(
            "its remainder has the sign of the dividend (fmod), and Core ML's that of the divisor"
        )
    return _pair(author, "mod", author.read(0), author.read(1))


def _xor(author: Author, node: Node) -> Var:
    return _pair(author, "logical_xor", author.read(0), author.read(1))


def _where(author: Author, node: Node) -> Var:
    return author.op("select", cond=author.variable(0), a=author.variable(1), b=author.variable(2))


EMITTERS: dict[str, Emit] = {
    **{op: _same(kind) for op, kind in {
        "Relu": "relu", "Sigmoid": "sigmoid", "Tanh": "tanh", "Swish": "silu", "Softplus": "softplus", "Softsign": "softsign",
        "Abs": "abs", "Ceil": "ceil", "Floor": "floor", "Round": "round", "Sign": "sign", "Sin": "sin", "Cos": "cos", "Exp": "exp",
        "Sqrt": "sqrt", "Erf": "erf", "Not": "logical_not",
    }.items()},
    **{op: _two(kind) for op, kind in {
        "Sub": "sub", "Pow": "pow", "Equal": "equal", "Greater": "greater", "Less": "less", "GreaterOrEqual": "greater_equal",
        "LessOrEqual": "less_equal", "And": "logical_and", "Or": "logical_or",
    }.items()},
    **{op: _many(kind) for op, kind in {"Add": "add", "Mul": "mul", "Sum": "add", "Max": "maximum", "Min": "minimum"}.items()},
    "LeakyRelu": _with_alpha("leaky_relu", 0.01),
    "Elu": _with_alpha("elu", 1.0),
    "ThresholdedRelu": _with_alpha("thresholded_relu", 1.0),
    "Neg": _neg,
    "Log": _log,
    "Reciprocal": _reciprocal,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _hard_swish,
    "Mish": _mish,
    "Selu": _selu,
    "Celu": _celu,
    "Gelu": _gelu,
    "PRelu": _prelu,
    "Clip": _clip,
    "Cast": _cast,
    "Identity": _passed_on,
    "Dropout": _passed_on,
    "Mean": _mean,
    "Div": _div,
    "Mod": _mod,
    "Xor": _xor,
    "Where": _where,
}  # fmt: skip
