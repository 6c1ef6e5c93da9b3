"""The notation of patterns, read: see `qcompiler.patterns` for what it says."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

_TOKEN = re.compile(
    r"\s*(->|[A-Za-z_][\w.]*(?:::\w+)?|\$[A-Za-z_]\w*|-?\d+(?:\.\d+)?(?:e-?\d+)?|\.\.\.|[()|,?=])"
)


class PatternSyntaxError(ValueError):
    """The text is not a pattern; the message shows where it stops being one."""


@dataclass(frozen=True)
class Operand:
    """One operand of a call: a name to bind, a number, the previous step, or another call."""

    name: str = ""
    constant: bool = False
    optional: bool = False
    number: float | None = None
    call: Call | None = None

    @property
    def is_previous(self) -> bool:
        """Whether it stands for the result of the step before."""
        return self.name == "_"


@dataclass(frozen=True)
class Call:
    """An operator with operands. `operands` is None for a bare operator, which takes any; `open` lets more follow."""

    ops: tuple[str, ...]
    operands: tuple[Operand, ...] | None
    label: str = ""
    open: bool = False

    def __str__(self) -> str:
        return "|".join(self.ops)


@dataclass(frozen=True)
class Step:
    """One link of the chain."""

    call: Call
    optional: bool


class _Parser:
    def __init__(self, text: str) -> None:
        self.text, self.tokens, position = text, [], 0
        while position < len(text.rstrip()):
            found = _TOKEN.match(text, position)
            if found is None:
                raise PatternSyntaxError(
                    f"cannot read the pattern {text!r} at {text[position : position + 12]!r}"
                )
            self.tokens.append(found.group(1))
            position = found.end()
        self.position = 0

    def peek(self) -> str:
        return self.tokens[self.position] if self.position < len(self.tokens) else ""

    def take(self, *expected: str) -> str:
        token = self.peek()
        if expected and token not in expected:
            raise PatternSyntaxError(
                f"in the pattern {self.text!r}, {token or 'the end'!r} stands where one of {expected} must"
            )
        self.position += 1
        return token

    def accept(self, token: str) -> bool:
        if self.peek() != token:
            return False
        self.position += 1
        return True

    def chain(self) -> tuple[Step, ...]:
        steps = [self.step()]
        while self.accept("->"):
            steps.append(self.step())
        if self.peek():
            raise PatternSyntaxError(f"in the pattern {self.text!r}, {self.peek()!r} is left over")
        if steps[0].optional:
            raise PatternSyntaxError(f"the first step of the pattern {self.text!r} cannot be optional")
        for number, step in enumerate(steps):
            places = _previous_count(step.call, nested=False)
            if places != (number > 0) and step.call.operands is not None:
                raise PatternSyntaxError(
                    f"in the pattern {self.text!r}, the operands of {step.call} must "
                    + ("contain the result before, _, once" if number else "not contain _: nothing is before")
                )
        return tuple(steps)

    def step(self) -> Step:
        return Step(self.call(), self.accept("?"))

    def call(self) -> Call:
        names, label = [self.name()], ""
        if self.accept("="):
            label, names = names[0], [self.name()]
        while self.accept("|"):
            names.append(self.name())
        if not self.accept("("):
            return Call(tuple(names), None, label)
        operands: list[Operand] = []
        is_open = False
        while not self.accept(")"):
            if operands:
                self.take(",")
            if self.accept("..."):
                is_open = True
                self.take(")")
                break
            operands.append(self.operand())
        return Call(tuple(names), tuple(operands), label, is_open)

    def name(self) -> str:
        token = self.take()
        if not re.match(r"[A-Za-z_]", token):
            raise PatternSyntaxError(
                f"in the pattern {self.text!r}, {token or 'the end'!r} stands where a name must"
            )
        return token

    def operand(self) -> Operand:
        token = self.peek()
        if re.match(r"-?\d", token):
            return Operand(number=float(self.take()))
        if token.startswith("$"):
            self.take()
            return Operand(name=token[1:], constant=True, optional=self.accept("?"))
        following = self.tokens[self.position + 1] if self.position + 1 < len(self.tokens) else ""
        if following in ("(", "|", "="):
            return Operand(call=self.call())
        return Operand(name=self.name(), optional=self.accept("?"))


def _previous_count(call: Call, *, nested: bool) -> int:
    """How often `_` stands among a call's operands; inside a nested call it can never match and counts as two."""
    count = 0
    for operand in call.operands or ():
        if operand.call is not None:
            count += _previous_count(operand.call, nested=True)
        elif operand.is_previous:
            count += 2 if nested else 1
    return count


@functools.cache
def parse_pattern(text: str) -> tuple[Step, ...]:
    """The steps of a pattern.

    Raises:
        PatternSyntaxError: The text is not a pattern.
    """
    return _Parser(text).chain()
