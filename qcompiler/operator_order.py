"""The order in which operations run, chosen so that little has to be alive at once.

What is alive after some operations depends on which they are, not on their order, so that the least peak is a shortest path
over sets of executed operations, with the highest point of a path as its length (Ahn et al., "Ordering Chaos: Memory-Aware
Scheduling of Irregularly Wired Neural Networks for Edge Devices", 2020). Like there, the graph is divided at operations before or
behind which every other one has to run. Between them sets are explored best first; where there are too many, only the most
promising ones of each size are kept.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

_EXPLORED = 60_000
"""Steps tried out while sets between two divisions are explored best first, and five times as many for all of them."""
_BEAM = 32
"""Sets of each size that are kept otherwise; fewer where more than `_LONG` steps lie between two divisions."""
_LONG = 1250
_READY = 32
"""Ready steps that are tried out after a set that is kept, those that became ready first and last."""


@dataclass(frozen=True)
class Step:
    """An operation as ordering sees it.

    Attributes:
        inputs: Names of the tensors that it reads; those that no step writes are given from the start.
        outputs: Names of the tensors that it writes.
        scratch: Bytes that it needs besides.
        in_place: Names of inputs of which one may become the (first) output, if nothing reads it afterwards.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    scratch: int = 0
    in_place: tuple[str, ...] = ()


def ordered(steps: Sequence[Step], sizes: Mapping[str, int], kept: Collection[str] = ()) -> list[int]:
    """An order of the steps whose peak of live bytes is not above that of the given one, and the least where that can be found.

    Args:
        steps: In an order in which they can be executed.
        sizes: Bytes of every tensor.
        kept: Tensors that stay alive to the end.

    Raises:
        ValueError: A step reads what it or a later one writes.
    """
    return _Problem(steps, sizes, kept).solved()


def peak(
    steps: Sequence[Step],
    sizes: Mapping[str, int],
    kept: Collection[str] = (),
    order: Sequence[int] | None = None,
) -> int:
    """The most bytes alive at once when steps run in an order (the given one when None)."""
    problem = _Problem(steps, sizes, kept)
    return problem.after(problem.start, range(len(steps)) if order is None else order).highest


class _State(NamedTuple):
    """What is left behind by some steps.

    Attributes:
        done: The set of the steps, as bits.
        alive: Bytes alive behind them.
        highest: The most bytes alive on the way.
        last: The step that ran last.
        before: What was left before that; None at the beginning.
    """

    done: int
    alive: int
    highest: int
    last: int = -1
    before: _State | None = None


class _Problem:
    def __init__(self, steps: Sequence[Step], sizes: Mapping[str, int], kept: Collection[str]) -> None:
        held = set(kept)
        writer = {name: index for index, step in enumerate(steps) for name in step.outputs}
        self._needs = [sorted({writer[name] for name in step.inputs if name in writer}) for step in steps]
        self._followers: list[list[int]] = [[] for _ in steps]
        readers: dict[str, int] = {}
        for index, step in enumerate(steps):
            for other in self._needs[index]:
                if other >= index:
                    raise ValueError(
                        f"step {index} reads what step {other} writes, which does not run before it"
                    )
                self._followers[other].append(index)
            for name in step.inputs:
                readers[name] = readers.get(name, 0) | 1 << index
        self._needed = [sum(1 << other for other in needed) for needed in self._needs]
        self._frees = [list(_frees(step, sizes, held, readers)) for step in steps]
        self._made = [sum(sizes[name] for name in step.outputs) for step in steps]
        self._left = [
            sum(sizes[name] for name in step.outputs if name in held or name in readers) for step in steps
        ]
        self._scratch = [step.scratch for step in steps]
        given = {name: sizes[name] for step in steps for name in step.inputs if name not in writer}
        self.start = _State(0, sum(given.values()), sum(given.values()))
        self._budget = 5 * _EXPLORED
        self._floor = 0

    def run(self, state: _State, index: int) -> _State:
        """What is left behind when one more step has run."""
        after = state.done | 1 << index
        freed = shared = 0
        for readers, size, own in self._frees[index]:
            if readers & after == readers:
                freed += size
                shared = max(shared, own)
        high = state.alive + self._made[index] - shared + self._scratch[index]
        behind = state.alive + self._left[index] - freed
        return _State(after, behind, max(state.highest, high), index, state)

    def after(self, state: _State, order: Iterable[int]) -> _State:
        """What is left behind when more steps have run."""
        for index in order:
            state = self.run(state, index)
        return state

    def solved(self) -> list[int]:
        """The best order that is found."""
        parts = list(self._divided())
        starts = [self.start]
        for part in parts:
            starts.append(self.after(starts[-1], part)._replace(highest=0, before=None))
        given = [self.after(start, part).highest for start, part in zip(starts, parts, strict=False)]
        # Below this peak nothing is gained: it is met at the divisions however the steps between them run.
        self._floor = max(
            (high for high, part in zip(given, parts, strict=True) if len(part) == 1), default=0
        )
        self._floor = max(self._floor, self.start.highest)
        order: list[int] = []
        for start, part, high in zip(starts, parts, given, strict=False):
            found = None
            if high > self._floor:
                found = self._least(start, part, high)
                self._floor = max(self._floor, high if found is None else found.highest)
            order.extend(part if found is None else _path(found))
        return order

    def _divided(self) -> Iterator[list[int]]:
        """The steps in parts that run one after another in every order."""
        numbers = range(len(self._needs))
        # Alone from both sides: all others run before it or behind it.
        alone = _alone(numbers, self._needs, self._followers)
        alone &= _alone(numbers[::-1], self._followers, self._needs)
        part: list[int] = []
        for index in numbers:
            if index in alone:
                if part:
                    yield part
                yield [index]
                part = []
            else:
                part.append(index)
        if part:
            yield part

    def _least(self, start: _State, part: Sequence[int], limit: int) -> _State | None:
        """The end of the best order of a part; None if none below the limit was found."""
        first = tuple(index for index in part if not self._needed[index] & ~start.done)
        found, certain = self._best_first(start, len(part), first, limit)
        if certain:
            return found
        # What leaves least alive has the best prospects to stay below the limit; if it does, perhaps a lower peak does, too.
        keys: tuple[Callable[[_State], tuple[int, int]], ...] = (
            lambda state: (state.alive, state.highest),
            lambda state: (max(state.highest, self._floor), state.alive),
        )
        for key in keys:
            end = self._beam(start, len(part), first, limit, key)
            if end is not None:
                found, limit = end, end.highest
        return found

    def _tried(self, state: _State, ready: Sequence[int]) -> list[_State]:
        """What is left behind after each of some steps; after one only, where running that first can do no harm.

        That is so if it makes no new peak, and leaves no more alive than before: whatever runs next then has as much room as without it.
        """
        found = []
        allowed = max(state.highest, self._floor)
        for index in ready:
            then = self.run(state, index)
            if then.highest <= allowed and then.alive <= state.alive:
                return [then]
            found.append(then)
        return found

    def _ready(self, ready: Sequence[int], state: _State) -> tuple[int, ...]:
        """The steps that can run, from those that could before the last one."""
        more = (index for index in self._followers[state.last] if not self._needed[index] & ~state.done)
        return (*(index for index in ready if index != state.last), *more)

    def _best_first(
        self, start: _State, count: int, first: tuple[int, ...], limit: int
    ) -> tuple[_State | None, bool]:
        """The end of the best order below the limit, if there is one; and whether that is certain."""
        budget = min(_EXPLORED, self._budget)
        self._budget -= budget
        # highest point so far, steps left, serial; then the state, and the steps that were ready before it
        queue = [(start.highest, count, 0, start, first)]
        seen = set[int]()
        serial = 0
        while queue:
            _, left, _, state, ready = heapq.heappop(queue)
            if state.done in seen:
                continue
            seen.add(state.done)
            if not left:
                self._budget += budget
                return state, True
            if state.before is not None:
                ready = self._ready(ready, state)
            tried = self._tried(state, ready)
            budget -= len(tried)
            if budget < 0:
                return None, False
            for then in tried:
                if then.highest < limit and then.done not in seen:
                    serial += 1
                    heapq.heappush(queue, (max(then.highest, self._floor), left - 1, serial, then, ready))
        self._budget += budget
        return None, True

    def _beam(
        self,
        start: _State,
        count: int,
        first: tuple[int, ...],
        limit: int,
        key: Callable[[_State], tuple[int, int]],
    ) -> _State | None:
        """The end of a good order below the limit: of the sets of each size, those of the least keys are followed."""
        width = max(1, min(_BEAM, _BEAM * _LONG // count))
        states = [(start, first)]
        for _ in range(count):
            best: dict[int, tuple[_State, tuple[int, ...]]] = {}
            for state, ready in states:
                few = ready if len(ready) <= _READY else ready[: _READY // 2] + ready[-_READY // 2 :]
                for then in self._tried(state, few):
                    if then.highest < limit and (
                        then.done not in best or then.highest < best[then.done][0].highest
                    ):
                        best[then.done] = then, ready
            kept = heapq.nsmallest(width, best.values(), key=lambda item: key(item[0]))
            states = [(state, self._ready(ready, state)) for state, ready in kept]
        return states[0][0] if states else None


def _frees(
    step: Step, sizes: Mapping[str, int], held: Collection[str], readers: Mapping[str, int]
) -> Iterator[tuple[int, int, int]]:
    """What a step may be the last to read: all readers as bits, bytes, and the bytes of these that its output may take over."""
    made = sizes[step.outputs[0]] if step.outputs else 0
    for name in dict.fromkeys(step.inputs):
        if name not in held:
            yield readers[name], sizes[name], min(made, sizes[name]) if name in step.in_place else 0


def _alone(
    order: Iterable[int], needs: Sequence[Sequence[int]], followers: Sequence[Sequence[int]]
) -> set[int]:
    """The steps that are the only ones that could run, when they run in this order."""
    waiting = [len(needed) for needed in needs]
    ready = waiting.count(0)
    found = set()
    for index in order:
        if ready == 1:
            found.add(index)
        ready -= 1
        for follower in followers[index]:
            waiting[follower] -= 1
            ready += not waiting[follower]
    return found


def _path(state: _State) -> list[int]:
    """The steps that led to a state."""
    order = []
    while state.before is not None:
        order.append(state.last)
        state = state.before
    return order[::-1]
