"""Geometry of the hand-set charts. Templates draw it; nothing here makes markup.

Positions are strings such as "31.25%" so that one SVG fits a phone and a wide screen without
scaling its text. Shapes carry the side, colour only repeats it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

SHAPE_OF_SIDE = {
    "classification": "square",
    "contrastive": "circle",
    "other": "triangle",
    "floor": "cross",
    "undecided": "open",
}
"""Marker shape of each side, and of a difference that favours none, so that no chart depends on colour."""

_EXTENTS = (0.01, 0.02, 0.05, 0.10, 0.20, 0.25, 0.50, 0.75, 1.0)
_EDGE = 1.5
"""Per cent of a strip's width kept free at both ends, so that a marker at 0 or 100 is whole."""
_NOMINAL = (400.0, 420.0)
"""Plot size in px at which key letters are kept apart: between a phone and a page."""
_OFFSETS = ((10, -9), (10, 11), (-10, -9), (-10, 11), (14, 0), (-14, 0), (0, -14), (0, 15))
_ENOUGH = 13.0
"""Px between a key and whatever else is drawn, beyond which more room is no gain."""
_FAR = 1.9
"""A key with no room beside its marker stands this much further out, at the end of a line."""


Points = Sequence[tuple[float, float]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Scale:
    """A linear map from fractions to per cent of a drawing's width or height."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> str:
        """Position of a value, clamped to the scale, as a CSS-style percentage."""
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return f"{self.start + share * (self.end - self.start):.2f}%"

    def span(self, low: float, high: float) -> str:
        """Width between two values, as a percentage."""
        return f"{abs(float(self.at(high)[:-1]) - float(self.at(low)[:-1])):.2f}%"


@dataclass(frozen=True, kw_only=True, slots=True)
class Tick:
    """One labelled place on an axis; `anchor` is the SVG text-anchor of its label."""

    position: str
    label: str
    anchor: str = "middle"


@dataclass(frozen=True, kw_only=True, slots=True)
class Strip:
    """One row of a forest plot: an interval, its marker, and what it is to be read against."""

    low: str
    value: str
    high: str
    shape: str
    side: str
    guides: tuple[str, ...]
    """Positions of faint lines (the axis ticks)."""
    reference: str = ""
    """Position of the strong line: zero, or the hardest floor. Empty for none."""
    band_start: str = ""
    band_width: str = ""
    """The floors' interval as a shaded band; empty for none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """One encoder in the scatter, with both intervals and a key letter."""

    key: str
    name: str
    side: str
    shape: str
    x: str
    x_low: str
    x_high: str
    y: str
    y_low: str
    y_high: str
    key_dx: int
    key_dy: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Scatter:
    """Probe against VQA."""

    x_title: str
    y_title: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    points: tuple[Point, ...]
    left: str
    right: str
    top: str
    bottom: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ScatterInput:
    """Values of one point, fractions: (low, value, high) on both axes."""

    key: str
    name: str
    side: str
    x: tuple[float, float, float]
    y: tuple[float, float, float]


def score_scale() -> Scale:
    """0 to 100 per cent across a strip."""
    return Scale(low=0.0, high=1.0, start=_EDGE, end=100 - _EDGE)


def difference_scale(values: Sequence[float]) -> Scale:
    """A scale symmetric about zero that holds all values (fractions)."""
    reach = max((abs(v) for v in values), default=0.0)
    extent = next((e for e in _EXTENTS if e >= reach), 1.0)
    return Scale(low=-extent, high=extent, start=_EDGE, end=100 - _EDGE)


def ticks(scale: Scale, *, signed: bool = False) -> tuple[Tick, ...]:
    """Five ticks across a scale, labelled in per cent or signed points."""
    places = [scale.low + (scale.high - scale.low) * i / 4 for i in range(5)]
    anchors = ("start", "middle", "middle", "middle", "end")
    return tuple(
        Tick(position=scale.at(v), label=_tick_label(100 * v, signed), anchor=a)
        for v, a in zip(places, anchors, strict=True)
    )


def _tick_label(value: float, signed: bool) -> str:
    number = f"{abs(value):.3g}"
    if not signed or math.isclose(value, 0.0, abs_tol=1e-9):
        return number
    return ("+" if value > 0 else "\N{MINUS SIGN}") + number


def strip(
    interval: tuple[float, float, float],
    side: str,
    scale: Scale,
    *,
    reference: float | None = None,
    band: tuple[float, float] | None = None,
) -> Strip:
    """One forest row.

    Args:
        interval: (low, value, high), fractions.
        side: side of the encoder; gives shape and colour.
        scale: the forest's common scale.
        reference: value of the strong line.
        band: the floors' interval.
    """
    low, value, high = interval
    return Strip(
        low=scale.at(low),
        value=scale.at(value),
        high=scale.at(high),
        shape=SHAPE_OF_SIDE[side],
        side=side,
        guides=tuple(t.position for t in ticks(scale)),
        reference="" if reference is None else scale.at(reference),
        band_start="" if band is None else scale.at(band[0]),
        band_width="" if band is None else scale.span(*band),
    )


def scatter(inputs: Sequence[ScatterInput], x_title: str, y_title: str) -> Scatter:
    """Lay out the scatter: fixed 0 to 100 axes, key letters moved off each other and off the markers."""
    across = Scale(low=0.0, high=1.0, start=10.0, end=97.0)
    down = Scale(low=0.0, high=1.0, start=88.0, end=4.0)
    places = [(float(across.at(p.x[1])[:-1]), float(down.at(p.y[1])[:-1])) for p in inputs]
    offsets = _place_keys(places)
    points = tuple(
        Point(
            key=p.key,
            name=p.name,
            side=p.side,
            shape=SHAPE_OF_SIDE[p.side],
            x=across.at(p.x[1]),
            x_low=across.at(p.x[0]),
            x_high=across.at(p.x[2]),
            y=down.at(p.y[1]),
            y_low=down.at(p.y[0]),
            y_high=down.at(p.y[2]),
            key_dx=dx,
            key_dy=dy,
        )
        for p, (dx, dy) in zip(inputs, offsets, strict=True)
    )
    values = (0.0, 0.25, 0.5, 0.75, 1.0)
    return Scatter(
        x_title=x_title,
        y_title=y_title,
        points=points,
        x_ticks=tuple(Tick(position=across.at(v), label=f"{100 * v:.0f}") for v in values),
        y_ticks=tuple(Tick(position=down.at(v), label=f"{100 * v:.0f}", anchor="end") for v in values),
        left=across.at(0.0),
        right=across.at(1.0),
        top=down.at(1.0),
        bottom=down.at(0.0),
    )


def _place_keys(places: Points) -> list[tuple[int, int]]:
    """For each marker the first offset with room enough, else the one with most; input order decides ties."""
    width, height = _NOMINAL
    centres = [(x * width / 100, y * height / 100) for x, y in places]
    candidates = [*_OFFSETS, *((round(_FAR * dx), round(_FAR * dy)) for dx, dy in _OFFSETS)]
    keys: list[tuple[float, float]] = []
    chosen = []
    for number, (x, y) in enumerate(centres):
        others = centres[:number] + centres[number + 1 :] + keys

        def room(offset: tuple[int, int], x: float = x, y: float = y, others: Points = others) -> float:
            at = x + offset[0], y + offset[1]
            return min([math.dist(at, other) for other in others] + [_ENOUGH])

        best = max(candidates, key=lambda o: (room(o), -candidates.index(o)))
        keys.append((x + best[0], y + best[1]))
        chosen.append(best)
    return chosen
