"""The choice of storage orders that moves the fewest bytes.

Orders are proposed as a whole: all values in their own order, then what spatial operators ask for, carried on to all that
element-wise operators, Transposes and changes of shape tie to it, then the same from the operators that want values as they
are. Going from one assignment to a proposal, every value keeps its order or takes the proposed one, and the cheapest such
mixture is a minimum cut: a value on the sink's side takes the proposal, capacities are what it costs in bytes (the "fusion
moves" of Lempitsky, Rother, Roth and Blake, "Fusion Moves for Markov Random Field Optimization", 2010). It is taken for each
set of values that are tied together on its own; where the proposal, or what there was, moves nothing, no cut is needed.

With two proposals in conflict this is exact but for one thing: what several element-wise operators read in another order
counts for each of them, though it is moved once.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

import networkx as nx
from networkx.algorithms.flow import boykov_kolmogorov

from qcompiler import ops
from qcompiler.layout import Layout, own_order
from qcompiler.passes._layout_wishes import ties_of, wishes_of

if TYPE_CHECKING:
    from qcompiler.ir.graph import Graph
    from qcompiler.ir.node import Node, Value
    from qcompiler.layout import Order
    from qcompiler.passes._layout_wishes import Tie, Wish

Orders = dict["Value", "Order"]


class LayoutChoice:
    """The choice for one graph.

    Attributes:
        orders: Of all computed values and graph inputs of known rank.
    """

    def __init__(self, graph: Graph, spared: Collection[Node] = ()) -> None:
        """Starts with every value in its own order.

        Args:
            graph: The graph.
            spared: Nodes that rearrange and that may move something at no cost, because they are going to be rewritten.
        """
        nodes = graph.topological()
        self._wishes = [wish for node in nodes for wish in wishes_of(node)]
        self._ties = [tie for node in nodes if node not in spared for tie in ties_of(node)]
        self._wishes_of, self._ties_of = _by_value(self._wishes, self._ties)
        made = [value for node in nodes for value in node.outputs if value is not None]
        values = [value for value in (*graph.inputs, *made) if value.rank is not None]
        self.orders: Orders = {value: own_order(value.rank or 0) for value in values}

    def layout(self) -> Layout:
        """What has been chosen, without what is in its own order."""
        return Layout({v.name: order for v, order in self.orders.items() if order != own_order(len(order))})

    def spread(self, layout: str) -> Orders:
        """A proposal: the orders that operators of a layout ask for, carried on along ties as far as they lead."""
        found: Orders = {}
        for wish in self._wishes:
            if wish.fixed is not None and ops.info(wish.node).layout == layout:
                found.setdefault(wish.value, wish.fixed)
        waiting = deque(found)
        while waiting:
            value = waiting.popleft()
            for other, order in self._carried(value, found[value]):
                if other not in found:
                    found[other] = order
                    waiting.append(other)
        return found

    def _carried(self, value: Value, order: Order) -> Iterator[tuple[Value, Order]]:
        for tie in self._ties_of[value]:
            change, other = (tie.forward, tie.y) if value is tie.x else (tie.backward, tie.x)
            carried = change(order) if change is not None else None
            if carried is not None:
                yield other, carried

    def choose(self, fixed: Mapping[Value, Order]) -> None:
        """Takes what is good of the proposals.

        Args:
            fixed: Orders that are not to be chosen.
        """
        self.orders.update(fixed)
        for layout in ("channels-last", "as-is"):
            self._mix({value: order for value, order in self.spread(layout).items() if value not in fixed})

    def _mix(self, proposal: Orders) -> None:
        changed = {value: order for value, order in proposal.items() if order != self.orders[value]}
        for values in self._tied_together(changed):
            taken = _Mixture(self, {value: changed[value] for value in values}).cheapest()
            self.orders.update({value: changed[value] for value in taken})

    def _tied_together(self, values: Iterable[Value]) -> list[list[Value]]:
        """The values in sets that have no tie between them, in order."""
        sets: nx.utils.UnionFind = nx.utils.UnionFind(values)
        for value in sets:
            for tie in self._ties_of[value]:
                if tie.x in sets.parents and tie.y in sets.parents:
                    sets.union(tie.x, tie.y)
        together: dict[Value, list[Value]] = defaultdict(list)
        for value in sets:
            together[sets[value]].append(value)
        return list(together.values())


def _by_value(
    wishes: Iterable[Wish], ties: Iterable[Tie]
) -> tuple[dict[Value, list[Wish]], dict[Value, list[Tie]]]:
    by_wish: dict[Value, list[Wish]] = defaultdict(list)
    by_tie: dict[Value, list[Tie]] = defaultdict(list)
    for wish in wishes:
        by_wish[wish.value].append(wish)
    for tie in ties:
        for value in dict.fromkeys((tie.x, tie.y)):
            by_tie[value].append(tie)
    return by_wish, by_tie


class _Mixture:
    """Some values, each of which keeps its order or takes the proposed one."""

    def __init__(self, choice: LayoutChoice, proposal: Orders) -> None:
        self._choice = choice
        self._proposal = proposal
        self._ties = list(dict.fromkeys(tie for value in proposal for tie in choice._ties_of[value]))

    def _order(self, value: Value, takes: bool) -> Order:
        return self._proposal[value] if takes and value in self._proposal else self._choice.orders[value]

    def cheapest(self) -> Collection[Value]:
        """The values that take the proposal."""
        keeping, taking = self._total(()), self._total(self._proposal)
        if not taking:
            return self._proposal
        if not keeping:
            return ()
        mixed = self._cut()
        return min(((), self._proposal, mixed), key=self._total)

    def _total(self, taken: Collection[Value]) -> int:
        alone = sum(self._alone(value, value in taken) for value in self._proposal)
        return alone + sum(self._pair(tie, tie.x in taken, tie.y in taken) for tie in self._ties)

    def _alone(self, value: Value, takes: bool) -> int:
        """What the operators that ask for certain orders cost; what is read in one order is moved once."""
        order, costs = self._order(value, takes), dict[object, int]()
        for place, wish in enumerate(self._choice._wishes_of[value]):
            costs[wish.wanted(order) if wish.reads else place] = wish.cost(order)
        return sum(costs.values())

    def _pair(self, tie: Tie, x_takes: bool, y_takes: bool) -> int:
        return tie.cost(self._order(tie.x, x_takes), self._order(tie.y, y_takes))

    def _cut(self) -> Collection[Value]:
        takes = {value: self._alone(value, True) - self._alone(value, False) for value in self._proposal}
        network = nx.DiGraph()
        network.add_nodes_from(("keep", "take"))
        for tie in self._ties:
            keep, only_y, only_x, both = (
                self._pair(tie, x, y) for x, y in ((False, False), (False, True), (True, False), (True, True))
            )
            if tie.x not in takes:
                takes[tie.y] += only_y - keep
            elif tie.y not in takes:
                takes[tie.x] += only_x - keep
            else:
                takes[tie.x] += only_x - keep
                takes[tie.y] += both - only_x
                # Negative where the two fit in mixed orders only, which no cut can say: then they count as independent.
                _add(network, tie.x, tie.y, only_x + only_y - keep - both)
        for value, extra in takes.items():
            _add(network, "keep", value, extra)
            _add(network, value, "take", -extra)
        _, (_, taken) = nx.minimum_cut(network, "keep", "take", flow_func=boykov_kolmogorov)
        return dict.fromkeys(value for value in self._proposal if value in taken)


def _add(network: nx.DiGraph, start: object, end: object, capacity: int) -> None:
    network.add_nodes_from((start, end))
    if capacity > 0:
        before = network.edges[start, end]["capacity"] if network.has_edge(start, end) else 0
        network.add_edge(start, end, capacity=before + capacity)
