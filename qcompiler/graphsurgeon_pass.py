"""A pass around a surgery script written for onnx-graphsurgeon."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from qcompiler.errors import OptionError, PassError
from qcompiler.ir.bridges import from_graphsurgeon, to_graphsurgeon
from qcompiler.ir.diff import diff_graphs
from qcompiler.ir.facts import EVERYTHING, Fact
from qcompiler.pass_manager import Effect, Pass, PassContext, PassResult

if TYPE_CHECKING:
    from qcompiler.ir.graph import Graph


@dataclass(frozen=True)
class GraphSurgeonPass(Pass):
    """Runs a function written for onnx-graphsurgeon: gs.Graph -> gs.Graph, or None where it worked in place.

    The function may do anything, so every fact about the graph is dropped afterwards.

    Attributes:
        function: The function, or "module:function".
        effect: What the function does to the numbers, by its author's word; a probe holds it to that.
    """

    name: ClassVar[str] = "graphsurgeon"
    invalidates: ClassVar[tuple[Fact[Any], ...]] = (EVERYTHING,)

    function: str | Callable[[Any], Any]
    # Of the class in other passes; this one has to be told.
    effect: Effect = field(default=Effect.APPROXIMATE, kw_only=True)  # type: ignore[misc]

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        """Converts, operates, converts back.

        Raises:
            PassError: The function failed.
            ModelError: It left no valid model behind.
        """
        result = PassResult()
        before = graph.copy()
        surgical = to_graphsurgeon(graph)
        function = _resolve(self.function)
        try:
            returned = function(surgical)
        except Exception as error:
            raise PassError(
                f"The surgery {function_text(self.function)} failed: {type(error).__name__}: {error}"
            ) from error
        after = from_graphsurgeon(surgical if returned is None else returned, graph)
        difference = diff_graphs(before, after)
        if difference:
            graph.become(after)
            for kind in ("added", "removed", "changed", "constants", "interface"):
                result.count(kind, len(getattr(difference, kind)))
        return result

    def __str__(self) -> str:
        told = "" if self.effect is Effect.APPROXIMATE else f",effect={self.effect.value}"
        return f"{self.name}{{function={function_text(self.function)}{told}}}"


def function_text(function: str | Callable[..., Any]) -> str:
    """A function as "module:name"."""
    if isinstance(function, str):
        return function
    return f"{function.__module__}:{getattr(function, '__qualname__', type(function).__qualname__)}"


def _resolve(function: str | Callable[..., Any]) -> Callable[..., Any]:
    if not isinstance(function, str):
        return function
    module, colon, name = function.partition(":")
    if not colon:
        raise OptionError(f"The surgery is {function!r}; write module:function.")
    try:
        found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise OptionError(f"The surgery {function!r} cannot be imported: {error}.") from error
    return found
