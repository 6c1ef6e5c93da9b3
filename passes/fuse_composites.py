"""Composite operators that exporters spell out in small steps become one operator again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from qcompiler.ir.facts import SHAPES, Fact
from qcompiler.pass_manager import Effect
from qcompiler.passes import _composite_activations, _composite_normalizations
from qcompiler.rewrite import RewritePass

if TYPE_CHECKING:
    from qcompiler.rewrite import Rewrite


@dataclass(frozen=True)
class FuseComposites(RewritePass):
    """Recovers Gelu, HardSwish, HardSigmoid, Swish, Mish, Softplus, Softmax, LayerNormalization and RMSNormalization.

    Kernels exist for the whole operator, and inside it nothing must be quantized. Constants are compared to a relative
    1e-6. What nearly matches is told with the reason.
    """

    name: ClassVar[str] = "fuse_composites"
    effect: ClassVar[Effect] = Effect.EXACT
    requires: ClassVar[tuple[Fact[Any], ...]] = (SHAPES,)
    rewrites: ClassVar[tuple[type[Rewrite], ...]] = (
        *_composite_normalizations.RULES,
        *_composite_activations.RULES,
    )
