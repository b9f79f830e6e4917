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

_EXTENTS = (
    0.01,
    0.02,
    0.03,
    0.04,
    0.05,
    0.06,
    0.08,
    0.1,
    0.12,
    0.15,
    0.2,
    0.25,
    0.3,
    0.4,
    0.5,
    0.6,
    0.8,
    1.0,
)
_EDGE = 1.5
"""Per cent of a strip's width kept free at both ends, so that a marker at 0 or 100 is whole."""


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
