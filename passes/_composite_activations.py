"""Activations that exporters spell out, as one operator each.

Formulas: ONNX operator specification, Gelu-20, HardSwish-14, HardSigmoid-6, Mish-18, Softplus-1, Swish-24.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from qcompiler.ir.functions import DOMAIN
from qcompiler.passes._canonical_clip import interval
from qcompiler.passes._operands import keeps_shape
from qcompiler.rewrite import Rewrite

if TYPE_CHECKING:
    from qcompiler.ir.graph import Graph
    from qcompiler.ir.node import Value
    from qcompiler.patterns import Match

_TOLERANCE = 1e-6


class Activation(Rewrite):
    """A function of x alone, replaced by one operator."""

    op: ClassVar[str] = ""
    domain: ClassVar[str] = ""
    attributes: ClassVar[dict[str, Any]] = {}

    def check(self, match: Match) -> str | None:
        """The constants inside must not widen x."""
        return why_widened(match, match["x"])

    def replace(self, graph: Graph, match: Match) -> Value | None:
        """Builds the operator."""
        return graph.add_node(self.op, [match["x"]], attributes=self.attributes, domain=self.domain).output


def why_widened(match: Match, source: Value) -> str | None:
    """Names a constant of floats inside the match whose shape would widen the result beyond that of the source."""
    for node in match.nodes:
        for value in node.inputs:
            data = None if value is None else value.data
            if value is None or data is None or data.dtype.kind != "f":
                continue
            if not keeps_shape(data, source.shape):
                return f"the constant {value.name!r} may widen the shape of {source.name!r}"
    return None


_HALVES = (
    "-> Mul(_, x) -> Mul(_, 0.5)", "-> Mul(_, 0.5) -> Mul(_, x)", "-> Mul(_, Mul(x, 0.5))",
    "-> Mul(_, x) -> Div(_, 2)", "-> Div(_, 2) -> Mul(_, x)", "-> Mul(_, Div(x, 2))",
)  # fmt: skip
_ERRORS = ("Erf(Div(x, 1.4142135623730951))", "Erf(Mul(x, 0.7071067811865476))")
_CUBES = (
    "Mul(Pow(x, 3), 0.044715)", "Mul(Mul(Mul(x, x), x), 0.044715)", "Mul(Mul(Mul(x, x), 0.044715), x)",
    "Mul(Mul(x, 0.044715), Mul(x, x))", "Mul(Mul(Mul(x, 0.044715), x), x)",
)  # fmt: skip
_SQUARES = ("Mul(Mul(x, x), 0.044715)", "Mul(Mul(x, 0.044715), x)", "Mul(Pow(x, 2), 0.044715)")
_TANHS = (
    *(f"Tanh(Mul(Add(x, {cube}), 0.7978845608028654))" for cube in _CUBES),
    *(f"Tanh(Mul(Mul(x, 0.7978845608028654), Add({square}, 1)))" for square in _SQUARES),
    *(f"Tanh(Mul(Mul(x, Add({square}, 1)), 0.7978845608028654))" for square in _SQUARES),
)


class FuseGelu(Activation):
    """x * (1 + erf(x / sqrt 2)) / 2."""

    name = "fuse Gelu"
    patterns = tuple(
        f"{error} {tail}"
        for error in _ERRORS
        for tail in (
            *(f"-> Add(_, 1) {half}" for half in _HALVES),
            "-> Mul(_, 0.5) -> Add(_, 0.5) -> Mul(_, x)",
        )
    )
    report_misses = 1
    op = "Gelu"
    attributes: ClassVar[dict[str, Any]] = {"approximate": b"none"}


class FuseGeluTanh(Activation):
    """x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3))) / 2."""

    name = "fuse Gelu by tanh"
    patterns = tuple(f"{tanh} -> Add(_, 1) {half}" for tanh in _TANHS for half in _HALVES)
    report_misses = 4
    op = "Gelu"
    attributes: ClassVar[dict[str, Any]] = {"approximate": b"tanh"}


_SIXTHS = (
    "-> Div(_, 6) -> Mul(_, x)", "-> Mul(_, 0.16666666666666666) -> Mul(_, x)", "-> Mul(_, x) -> Div(_, 6)",
    "-> Mul(_, x) -> Mul(_, 0.16666666666666666)", "-> Mul(_, Div(x, 6))", "-> Mul(_, Mul(x, 0.16666666666666666))",
)  # fmt: skip


class FuseHardSwish(Activation):
    """x * clip(x + 3, 0, 6) / 6."""

    name = "fuse HardSwish"
    patterns = tuple(f"Clip(Add(x, 3), 0, 6) {tail}" for tail in _SIXTHS)
    op = "HardSwish"


class FuseHardSigmoid(Activation):
    """clip(x + 3, 0, 6) / 6, where it gates something else than x."""

    name = "fuse HardSigmoid"
    patterns = ("Clip(Add(x, 3), 0, 6) -> Div(_, 6)", "Clip(Add(x, 3), 0, 6) -> Mul(_, 0.16666666666666666)")
    op = "HardSigmoid"
    attributes: ClassVar[dict[str, Any]] = {"alpha": 1.0 / 6.0, "beta": 0.5}


class TellHardSigmoid(Rewrite):
    """Tells where a hard sigmoid has other bounds, or is needed in the middle; rewrites nothing."""

    name = "fuse HardSigmoid"
    patterns = ("Clip(Add(x, 3), $low?, $high?)",)

    def check(self, match: Match) -> str | None:
        """Wants a constant factor behind the Clip."""
        value = match.root.output
        behind = [reader for reader in value.consumers if reader.is_op("Mul", "Div")]
        if not any(item is not None and item.is_constant for reader in behind for item in reader.inputs):
            return ""
        found = interval(match.root)
        if found is not None and found != (0.0, 6.0):
            return f"the bounds are {found[0]:g} and {found[1]:g}, not 0 and 6"
        return "" if value.only_use is not None else f"{value.name!r} is used {len(value.uses)} times"


class FuseGatedHardSigmoid(Activation):
    """x * HardSigmoid(x) with slope 1/6 and offset 1/2 is HardSwish."""

    name = "fuse HardSwish"
    patterns = ("HardSigmoid(x) -> Mul(_, x)",)
    op = "HardSwish"

    def check(self, match: Match) -> str | None:
        """Compares the attributes; their defaults, 0.2 and 0.5, are another function."""
        alpha = float(match.anchor.attributes.get("alpha", 0.2))
        beta = float(match.anchor.attributes.get("beta", 0.5))
        if abs(alpha * 6 - 1) > _TOLERANCE or abs(beta * 2 - 1) > _TOLERANCE:
            return f"HardSigmoid has alpha {alpha:.6g} and beta {beta:.6g}, HardSwish wants 1/6 and 1/2"
        return super().check(match)


class FuseSwish(Activation):
    """x * Sigmoid(x)."""

    name = "fuse Swish"
    patterns = ("Sigmoid(x) -> Mul(_, x)",)
    op = "Swish"
    domain = DOMAIN


class TellSelfGate(Rewrite):
    """Tells where x * Sigmoid(x) is there but the gate is needed elsewhere too; rewrites nothing."""

    name = "fuse Swish"
    patterns = ("Sigmoid",)

    def check(self, match: Match) -> str | None:
        """Looks for the product among the readers."""
        node, value = match.anchor, match.anchor.output
        gated = [
            reader for reader in value.consumers if reader.is_op("Mul") and node.inputs[0] in reader.inputs
        ]
        if not gated or value.only_use is not None:
            return ""
        why = "a graph output" if value.is_output else f"used {len(value.uses)} times"
        return f"Mul {gated[0].name} follows, but {value.name!r} is {why}"


class TellHardSelfGate(TellSelfGate):
    """The same for x * HardSigmoid(x)."""

    name = "fuse HardSwish"
    patterns = ("HardSigmoid",)


class FuseSoftplus(Activation):
    """log(exp(x) + 1)."""

    name = "fuse Softplus"
    patterns = ("Exp(x) -> Add(_, 1) -> Log(_)",)
    op = "Softplus"


class FuseMish(Activation):
    """x * tanh(softplus(x))."""

    name = "fuse Mish"
    patterns = ("Softplus(x) -> Tanh(_) -> Mul(_, x)",)
    report_misses = 2
    op = "Mish"


RULES: tuple[type[Rewrite], ...] = (
    FuseGelu, FuseGeluTanh, FuseHardSwish, FuseGatedHardSigmoid, FuseHardSigmoid, TellHardSigmoid, FuseSwish, TellSelfGate, TellHardSelfGate, FuseSoftplus, FuseMish,
)  # fmt: skip
"""In this order at every node: HardSwish before the HardSigmoid inside it."""
