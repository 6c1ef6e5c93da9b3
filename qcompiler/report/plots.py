"""Pictures of the page: inline SVG in the page's own colours, without scripts; what a mark means is its title.

Marks of one kind are one path, in which a line of no length is a dot (its ends are round): hundreds of layers stay small.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from qcompiler.report.elements import Content, Html, element, together

_PLOT, _RIGHT, _LETTER = 340, 22, 6.35
_ROW, _AXIS = 17, 30
_DECADES = 10  # what lies further down is as good as nothing
_MOST_LETTERS = 33


# -- bars --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """A part of a stacked bar.

    Attributes:
        title: What it is.
        amount: How much.
        kind: The class that gives it its colour.
    """

    title: str
    amount: float
    kind: str


def bar(parts: Iterable[Part], full: float, label: str) -> Html:
    """A stacked bar that is as long as the page is wide where it holds `full`."""
    pieces, left = [], 0.0
    for part in parts:
        width = 1000 * part.amount / (full or 1)
        title = element("title", part.title)
        place = {"x": f"{left:.2f}", "y": "0", "width": f"{width:.2f}", "height": "10"}
        pieces.append(element("rect", title, **place, class_=part.kind))
        left += width
    return element(
        "svg", pieces, class_="bars", viewBox=f"0 0 {max(1000.0, left):.0f} 10", preserveAspectRatio="none",
        role="img", aria_label=label,
    )  # fmt: skip


# -- losses ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mark:
    """One form of a value.

    Attributes:
        kind: The class that gives it its colour.
        value: Where it lies; None beyond all others.
        error: Half the length of its error bar.
        filled: Whether it is the one that was chosen.
        faint: Whether it is an inference.
    """

    kind: str
    value: float | None
    error: float
    filled: bool
    faint: bool


@dataclass(frozen=True)
class Line:
    """One value.

    Attributes:
        label: What stands in front of it.
        title: What is shown of it when pointed at.
        href: Where it leads; None for nowhere.
        marks: Its forms.
    """

    label: str
    title: str
    href: str | None
    marks: Sequence[Mark]


def log_lines(lines: Sequence[Line], axis: str, label: str) -> Html:
    """A line per value with a mark per form over a logarithmic axis, which stays in sight when the box is scrolled."""
    left = math.ceil(_LETTER * max(len(_ending(line.label)) for line in lines)) + 16
    scale = _LogScale([mark.value for line in lines for mark in line.marks], left)
    width, height = left + _PLOT + _RIGHT, _ROW * len(lines) + 6
    top = element(
        "svg",
        [
            element("text", text, x=f"{x:.1f}", y="25", text_anchor="middle")
            for x, text in zip(map(scale.at, scale.ticks), map(_power, scale.ticks), strict=True)
        ],
        element("text", axis, x=f"{left + _PLOT / 2:.0f}", y="11", text_anchor="middle"),
        class_="chart axis", width=str(width), height=str(_AXIS), aria_hidden="true",
    )  # fmt: skip
    grid = "".join(f"M{scale.at(tick):.1f} 0V{height}" for tick in scale.ticks)
    body = element(
        "svg",
        element("path", d=grid, class_="grid"),
        [_line(line, _ROW * at, left, width) for at, line in enumerate(lines)],
        _marks(lines, scale),
        class_="chart", width=str(width), height=str(height), role="img", aria_label=label,
    )  # fmt: skip
    return element("div", top, body, class_="plot", tabindex="0")


class _LogScale:
    """Numbers to places on a logarithmic axis; zero lies at its start, what is not finite at its end."""

    def __init__(self, given: Iterable[float | None], left: int) -> None:
        self.left = left
        numbers = [number for number in given if number]
        high = math.ceil(math.log10(max(numbers, default=1.0)))
        low = math.floor(math.log10(min(numbers, default=0.1)))
        self.low, self.high = max(min(low, high - 1), high - _DECADES), high
        step = max(1, -(-(self.high - self.low) // 6))
        self.ticks = [10.0**power for power in range(self.high, self.low - 1, -step)][::-1]

    def at(self, number: float | None) -> float:
        if number is None:
            return self.left + _PLOT + 8.0
        power = math.log10(number) if number > 0 else self.low
        share = (max(power, self.low) - self.low) / (self.high - self.low)
        return self.left + 6 + (_PLOT - 12) * share


def _power(number: float) -> str:
    power = round(math.log10(number))
    digits = str(power).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return "1" if power == 0 else f"10{digits}"


def _line(line: Line, top: int, left: int, width: int) -> Html:
    content = together(
        element("title", line.title),
        element("rect", y=str(top), width=str(width), height=str(_ROW), class_="hit"),
        element("text", _ending(line.label), x=str(left - 8), y=str(top + 12), text_anchor="end"),
    )
    return element("a", content, href=line.href) if line.href else element("g", content)


def _ending(text: str) -> str:
    """The end of a name, which is what tells it from its siblings."""
    return text if len(text) <= _MOST_LETTERS else f"…{text[1 - _MOST_LETTERS :]}"


def _marks(lines: Sequence[Line], scale: _LogScale) -> list[Html]:
    dots: dict[tuple[str, bool, bool], list[str]] = {}
    bars: dict[str, list[str]] = {}
    for at, line in enumerate(lines):
        y = _ROW * at + _ROW / 2
        for mark in line.marks:
            x = scale.at(mark.value)
            dots.setdefault((mark.kind, mark.filled, mark.faint), []).append(f"M{x:.1f} {y:g}h0")
            if mark.error and mark.value:
                ends = scale.at(max(mark.value - mark.error, 0.0)), scale.at(mark.value + mark.error)
                bars.setdefault(mark.kind, []).append(f"M{ends[0]:.1f} {y:g}H{ends[1]:.1f}")
    drawn = [element("path", d="".join(parts), class_=f"error {kind}") for kind, parts in bars.items()]
    for (kind, filled, faint), parts in sorted(dots.items(), key=lambda item: item[0][1]):
        shape = "".join(parts)
        drawn.append(element("path", d=shape, class_=f"dot {kind}{' faint' if faint else ''}"))
        drawn += [] if filled else [element("path", d=shape, class_="hole")]
    return drawn


# -- scatter -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Point:
    """A point of a scatter plot.

    Attributes:
        x: Across.
        y: Up.
        title: What it is.
        label: What stands beside it.
        front: Whether it is drawn filled.
        chosen: Whether it is marked.
        error: Half the length of its error bar.
    """

    x: float
    y: float
    title: str
    label: str = ""
    front: bool = False
    chosen: bool = False
    error: float = 0.0


_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 600, 330, 64, 44, 14


def scatter(
    points: Sequence[Point], x_name: str, y_name: str, *, up: bool, limits: Sequence[tuple[str, float, str]] = ()
) -> Html:  # fmt: skip
    """Points, and as a staircase those of them that no other beats in both directions.

    Args:
        points: What to draw.
        x_name: What is across; less is better.
        y_name: What is up.
        up: Whether more is better there.
        limits: Lines to draw: "x" or "y", where, and what to call it.
    """
    xs = _Axis([point.x for point in points] + [at for axis, at, _ in limits if axis == "x"], _LEFT, _WIDTH - 14)  # fmt: skip
    spread = [point.y + sign * point.error for point in points for sign in (-1, 1)]
    ys = _Axis(spread + [at for axis, at, _ in limits if axis == "y"], _HEIGHT - _BOTTOM, _TOP)
    grid = "".join(f"M{xs.at(tick):.1f} {_TOP}V{_HEIGHT - _BOTTOM}" for tick in xs.ticks)
    grid += "".join(f"M{_LEFT} {ys.at(tick):.1f}H{_WIDTH - 14}" for tick in ys.ticks)
    texts = [
        element("text", xs.text(tick), x=f"{xs.at(tick):.1f}", y=str(_HEIGHT - _BOTTOM + 16), text_anchor="middle")
        for tick in xs.ticks
    ] + [
        element("text", ys.text(tick), x=str(_LEFT - 6), y=f"{ys.at(tick) + 4:.1f}", text_anchor="end")
        for tick in ys.ticks
    ]  # fmt: skip
    middle = (_TOP + _HEIGHT - _BOTTOM) / 2
    texts += [
        element("text", x_name, x=str((_LEFT + _WIDTH) // 2), y=str(_HEIGHT - 8), text_anchor="middle"),
        element("text", y_name, transform=f"translate(14 {middle:.0f}) rotate(-90)", text_anchor="middle"),
    ]
    drawn: list[Content] = [element("path", d=grid, class_="grid"), texts]
    for axis, at, name in limits:
        across = axis == "y"
        place = f"M{_LEFT} {ys.at(at):.1f}H{_WIDTH - 14}" if across else f"M{xs.at(at):.1f} {_TOP}V{_HEIGHT - _BOTTOM}"  # fmt: skip
        x, y = (_WIDTH - 18.0, ys.at(at) - 5) if across else (xs.at(at) - 5, _TOP + 10.0)
        drawn.append(element("path", d=place, class_="limit"))
        drawn.append(element("text", name, x=f"{x:.1f}", y=f"{y:.1f}", text_anchor="end", class_="limit"))
    steps = _staircase(points, up)
    if len(steps) > 1:
        first, *rest = steps
        path = f"M{xs.at(first.x):.1f} {ys.at(first.y):.1f}"
        path += "".join(f"H{xs.at(point.x):.1f}V{ys.at(point.y):.1f}" for point in rest)
        drawn.append(element("path", d=path, class_="step"))
    drawn += [
        _point(point, xs, ys) for point in sorted(points, key=lambda point: (point.front, point.chosen))
    ]
    drawn += _names(points, xs, ys)
    return element(
        "svg", *drawn, class_="chart scatter", viewBox=f"0 0 {_WIDTH} {_HEIGHT}", role="img",
        aria_label=f"{y_name} against {x_name}",
    )  # fmt: skip


def _point(point: Point, xs: _Axis, ys: _Axis) -> Html:
    x, y = f"{xs.at(point.x):.1f}", ys.at(point.y)
    inside: list[Content] = [element("title", point.title)]
    if point.error:
        low, high = ys.at(point.y - point.error), ys.at(point.y + point.error)
        inside.append(element("path", d=f"M{x} {low:.1f}V{high:.1f}", class_="bar"))
    if point.chosen:
        inside.append(element("circle", cx=x, cy=f"{y:.1f}", r="9", class_="ring"))
    inside.append(element("circle", cx=x, cy=f"{y:.1f}", r="4.5", class_="full" if point.front else "open"))
    return element("g", *inside)


def _names(points: Sequence[Point], xs: _Axis, ys: _Axis) -> list[Html]:
    """The labels, each where it covers no other and no dot; one that finds no place is left out, its title has it."""
    taken = [(xs.at(point.x), ys.at(point.y)) for point in points]
    drawn = []
    for point in sorted(points, key=lambda point: not point.chosen):
        if not point.label:
            continue
        for right, down in ((13, -10), (13, 11), (-13, -10), (-13, 11), (0, -17), (0, 18)):
            x, y = xs.at(point.x) + right, ys.at(point.y) + down
            if all(abs(x - other) > 14 or abs(y - height) > 10 for other, height in taken):
                taken.append((x, y))
                drawn.append(
                    element("text", point.label, x=f"{x:.1f}", y=f"{y + 4:.1f}", text_anchor="middle")
                )
                break
    return drawn


def _staircase(points: Iterable[Point], up: bool) -> list[Point]:
    """The points that no other beats in both directions, from the smallest on."""
    kept: list[Point] = []
    sign = -1.0 if up else 1.0
    for point in sorted(points, key=lambda point: (point.x, sign * point.y)):
        if not kept or sign * point.y < sign * kept[-1].y:
            kept.append(point)
    return kept


class _Axis:
    """Numbers to places between two ends, with a little room, and round numbers to write there."""

    def __init__(self, numbers: Sequence[float], start: float, end: float) -> None:
        low, high = min(numbers), max(numbers)
        room = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
        self.low, self.high, self.start, self.end = low - room, high + room, start, end
        rough = (self.high - self.low) / 6
        unit = 10.0 ** math.floor(math.log10(rough))
        self.step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough)
        first, last = math.ceil(self.low / self.step), math.floor(self.high / self.step)
        self.ticks = [self.step * number for number in range(first, last + 1)]

    def at(self, number: float) -> float:
        return self.start + (self.end - self.start) * (number - self.low) / (self.high - self.low)

    def text(self, tick: float) -> str:
        decimals = max(0, -math.floor(math.log10(self.step)))
        return f"{tick + 0.0:,.{decimals}f}"
