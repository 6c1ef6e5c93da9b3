"""The order in which operations run, chosen so that little has to be alive at once.

What is alive after some operations depends on which they are, not on their order, so that the least peak is a shortest path
over sets of executed operations, with the highest point of a path as its length (Ahn et al., "Ordering Chaos: Memory-Aware
Scheduling of Irregularly Wired Neural Networks for Edge Devices", 2020). Sets are explored best first; where there are too many,
only the most promising ones of each size are kept.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

_MOST_SETS = 20_000
_BEAM = 24


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
    """
    problem = _Problem(steps, sizes, kept)
    given = list(range(len(steps)))
    if not problem.has_choice():
        return given
    found = problem.best_first() or problem.beam()
    return found if found is not None and problem.peak(found) < problem.peak(given) else given


def peak(
    steps: Sequence[Step], sizes: Mapping[str, int], kept: Collection[str] = (), order: Sequence[int] | None = None
) -> int:
    """The most bytes alive at once when steps run in an order (the given one when None)."""
    return _Problem(steps, sizes, kept).peak(range(len(steps)) if order is None else order)


class _Problem:
    def __init__(self, steps: Sequence[Step], sizes: Mapping[str, int], kept: Collection[str]) -> None:
        self.steps = steps
        self.sizes = sizes
        self.kept = set(kept)
        writer = {name: index for index, step in enumerate(steps) for name in step.outputs}
        self.readers: dict[str, list[int]] = {}
        for index, step in enumerate(steps):
            for name in dict.fromkeys(step.inputs):
                self.readers.setdefault(name, []).append(index)
        self.needs = [
            sorted({writer[name] for name in step.inputs if name in writer}) for step in steps
        ]
        self.followers: list[list[int]] = [[] for _ in steps]
        for index, needed in enumerate(self.needs):
            for other in needed:
                self.followers[other].append(index)
        given = {name for step in steps for name in step.inputs if name not in writer}
        self.start = sum(sizes[name] for name in sorted(given))

    def has_choice(self) -> bool:
        """Whether at some point of the given order more than one step could run."""
        done, waiting = 0, [len(needed) for needed in self.needs]
        ready = {index for index, count in enumerate(waiting) if not count}
        for index in range(len(self.steps)):
            if len(ready) > 1:
                return True
            ready.discard(index)
            done |= 1 << index
            for follower in self.followers[index]:
                waiting[follower] -= 1
                if not waiting[follower]:
                    ready.add(follower)
        return False

    def run(self, done: int, alive: int, index: int) -> tuple[int, int]:
        """The peak while a step runs, and the bytes alive behind it."""
        step = self.steps[index]
        after = done | 1 << index
        freed = [
            name
            for name in dict.fromkeys(step.inputs)
            if name not in self.kept and all(after >> reader & 1 for reader in self.readers[name])
        ]
        made = sum(self.sizes[name] for name in step.outputs)
        shared = 0
        if step.outputs:
            first = self.sizes[step.outputs[0]]
            shared = max((min(first, self.sizes[name]) for name in step.in_place if name in freed), default=0)
        unread = sum(self.sizes[name] for name in step.outputs if name not in self.kept and name not in self.readers)
        high = alive + made - shared + step.scratch
        return high, alive + made - unread - sum(self.sizes[name] for name in freed)

    def peak(self, order: Sequence[int]) -> int:
        """The peak of an order."""
        done, alive, highest = 0, self.start, self.start
        for index in order:
            high, alive = self.run(done, alive, index)
            highest, done = max(highest, high), done | 1 << index
        return highest

    def _ready(self, done: int, candidates: Sequence[int]) -> list[int]:
        return [
            index
            for index in candidates
            if not done >> index & 1 and all(done >> needed & 1 for needed in self.needs[index])
        ]

    def best_first(self) -> list[int] | None:
        """The best order; None where too many sets would have to be looked at."""
        whole = (1 << len(self.steps)) - 1
        first = tuple(self._ready(0, range(len(self.steps))))
        # highest point so far, steps left, serial; then the set, live bytes, ready steps, and the path as a linked list
        queue: list[tuple[int, int, int, int, int, tuple[int, ...], object]] = [
            (self.start, len(self.steps), 0, 0, self.start, first, None)
        ]
        seen: set[int] = set()
        serial = 0
        while queue:
            highest, left, _, done, alive, ready, path = heapq.heappop(queue)
            if done in seen:
                continue
            seen.add(done)
            if done == whole:
                return _unlinked(path)
            if len(seen) > _MOST_SETS:
                return None
            for index in ready:
                high, behind = self.run(done, alive, index)
                after = done | 1 << index
                if after in seen:
                    continue
                serial += 1
                then = (*(other for other in ready if other != index), *self._ready(after, self.followers[index]))
                heapq.heappush(queue, (max(highest, high), left - 1, serial, after, behind, then, (path, index)))
        return None

    def beam(self) -> list[int] | None:
        """A good order: of the sets of each size, those with the lowest peaks are followed."""
        first = tuple(self._ready(0, range(len(self.steps))))
        states: dict[int, tuple[int, int, tuple[int, ...], object]] = {0: (self.start, self.start, first, None)}
        for _ in self.steps:
            following: dict[int, tuple[int, int, tuple[int, ...], object]] = {}
            for done, (highest, alive, ready, path) in states.items():
                for index in ready:
                    high, behind = self.run(done, alive, index)
                    after = done | 1 << index
                    reached = max(highest, high)
                    if after not in following or reached < following[after][0]:
                        then = (*(other for other in ready if other != index), *self._ready(after, self.followers[index]))
                        following[after] = reached, behind, then, (path, index)
            kept = sorted(following.items(), key=lambda item: (item[1][0], item[1][1], item[0]))[:_BEAM]
            states = dict(kept)
        (_, _, _, path), *_ = states.values()
        return _unlinked(path)


def _unlinked(path: object) -> list[int]:
    """A linked list of (path before, step) as a list."""
    order: list[int] = []
    while isinstance(path, tuple):
        path, index = path
        order.append(index)
    return order[::-1]
