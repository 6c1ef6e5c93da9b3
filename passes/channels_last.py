"""channels_last: stores images channels last, so that nothing is transposed at run time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from qcompiler import ops
from qcompiler.ir.facts import SHAPES
from qcompiler.layout import LAYOUT, own_order
from qcompiler.pass_manager import Effect, Level, Pass, PassContext, PassResult
from qcompiler.passes._layout_choice import LayoutChoice
from qcompiler.passes._layout_products import Turn, apply_turn, turn_of
from qcompiler.passes._layout_wishes import moves
from qcompiler.regions import REGIONS

if TYPE_CHECKING:
    from qcompiler.ir.graph import Graph
    from qcompiler.ir.node import Node, Value
    from qcompiler.layout import Layout, Order
    from qcompiler.passes._layout_wishes import Move

Rim = Literal["auto", "channels-last", "as-model"]


@dataclass(frozen=True)
class ChannelsLast(Pass):
    """Chooses the order in which the axes of every value are stored: images channels last, so that nothing is transposed at run time.

    The graph keeps its operators and their meaning; what is established is the fact LAYOUT. Convolutions, pools and their like
    work on images that are stored channels last. Element-wise operators, joins and reductions take any order that their operands
    share; Transposes and changes of shape are free where the orders on both sides fit, as those of models that come from
    channels-last frameworks do. Where two wishes meet, a minimum cut decides which values are moved: as few bytes as possible.

    Where an image is flattened for a product by a constant matrix, and where such a product becomes an image, the matrix is put
    into the order of the storage at compile time.

    What is still moved at run time is told, with its size and the reason.

    Attributes:
        inputs: How the graph's inputs are stored: "auto" (as it takes no move), "channels-last" (wherever one is an image, even if
            most of its readers want another order), or "as-model" (in the order of their own axes). Their shapes stay as they are.
        outputs: The same for its outputs.
    """

    name = "channels_last"
    effect = Effect.EXACT
    requires = (SHAPES,)
    establishes = (LAYOUT,)
    invalidates = (REGIONS,)

    inputs: Rim = "auto"
    outputs: Rim = "auto"

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        """Establishes LAYOUT."""
        result = PassResult()
        turns = [turn for node in graph.topological() if isinstance(turn := _seen_as_turn(node), Turn)]
        layout = self._chosen(graph, {turn.node for turn in turns})
        due = [(turn, layout.order_of(turn.image)) for turn in turns if not layout.is_free(turn.node)]
        for turn, order in due:
            if order[0] == 0 and context.allow(f"{turn.what}: {turn.node.name}"):
                apply_turn(graph, turn, order)
                result.count(turn.what)
        layout = self._chosen(graph)
        graph.facts[LAYOUT] = layout
        for move in moves(graph, layout):
            result.say(Level.INFO, move.node.name, _told(move))
        return result

    def _chosen(self, graph: Graph, spared: set[Node] | None = None) -> Layout:
        choice = LayoutChoice(graph, spared or ())
        images = choice.spread("channels-last")
        fixed: dict[Value, Order] = {}
        for rim, values in ((self.inputs, graph.inputs), (self.outputs, graph.outputs)):
            for value in values:
                if rim != "auto" and value.rank is not None and not value.is_constant:
                    own = own_order(value.rank)
                    fixed.setdefault(value, images.get(value, own) if rim == "channels-last" else own)
        choice.choose(fixed)
        return choice.layout()


def _seen_as_turn(node: Node) -> Turn | str:
    x = node.input(0)
    reshapes = ops.info(node).layout == "reshape" and x is not None and not x.is_constant
    return turn_of(node) if reshapes and node.output.rank is not None else ""


def _told(move: Move) -> str:
    turn = _seen_as_turn(move.node)
    why = f": {turn}" if isinstance(turn, str) and turn else ""
    return f"{move.node.op} moves {move.value.name} into another order at run time, {move.size} bytes per sample{why}"
