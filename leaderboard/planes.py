"""Geometry of charts with two axes: probe against answers, pairs, cost against score."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from leaderboard.charts import SHAPE_OF_SIDE, Scale, Tick, difference_scale, ticks
from leaderboard.wording import seconds

Triple = tuple[float, float, float]
"""Low end, value, high end."""
Points = Sequence[tuple[float, float]]

_ACROSS, _DOWN = (10.0, 97.0), (88.0, 4.0)
"""Edges of the plot in per cent of the drawing: left and right, bottom and top."""
_NOMINAL = (400.0, 420.0)
"""Plot size in px at which key letters are kept apart: between a phone and a page."""
_OFFSETS = ((10, -9), (10, 11), (-10, -9), (-10, 11), (14, 0), (-14, 0), (0, -14), (0, 15))
_ENOUGH = 13.0
"""Px between a key and whatever else is drawn, beyond which more room is no gain."""
_FAR = 1.9
"""A key with no room beside its marker stands this much further out, at the end of a line."""
_MINUTE, _HOUR, _DAY = 60.0, 3600.0, 86400.0
_DURATIONS = (
    *(1.0, 2.0, 5.0, 10.0, 20.0, 30.0),
    *(n * _MINUTE for n in (1, 2, 5, 10, 20, 30)),
    *(n * _HOUR for n in (1, 2, 5, 10)),
    *(n * _DAY for n in (1, 2, 5, 10, 20, 50)),
)
"""Seconds that make good ticks."""
_MAX_TICKS = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """One thing in the plane, with both intervals and a key."""

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
    strong: bool
    """False for what stands back behind the others."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Corner:
    """Words in a corner of the plot: what being there means."""

    text: str
    x: str
    y: str
    dx: int
    dy: int
    anchor: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Plane:
    """A chart with two axes; every position is a percentage of the drawing."""

    x_title: str
    y_title: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    points: tuple[Point, ...]
    left: str
    right: str
    top: str
    bottom: str
    zero_x: str = ""
    """Positions of the lines of no difference; empty for none."""
    zero_y: str = ""
    corners: tuple[Corner, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class PlaneInput:
    """Values of one point; fractions, or logarithms where the axis is one."""

    key: str
    name: str
    side: str
    x: Triple
    y: Triple
    shape: str = ""
    strong: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class TradeInput:
    """One encoder's cost and score."""

    key: str
    name: str
    side: str
    cost: float
    """Seconds, above 0."""
    score: Triple
    on_front: bool


def scatter(inputs: Sequence[PlaneInput], x_title: str, y_title: str) -> Plane:
    """Scores against scores: both axes from 0 to 100 per cent."""
    across, down = _scales((0.0, 1.0), (0.0, 1.0))
    values = (0.0, 0.25, 0.5, 0.75, 1.0)
    return _plane(
        inputs,
        (across, down),
        (x_title, y_title),
        tuple(Tick(position=across.at(v), label=f"{100 * v:.0f}") for v in values),
        tuple(Tick(position=down.at(v), label=f"{100 * v:.0f}", anchor="end") for v in values),
    )


def pair_plot(inputs: Sequence[PlaneInput], x_title: str, y_title: str) -> Plane:
    """Differences against differences: each axis symmetric about zero, which is drawn."""
    reach = [difference_scale([edge for p in inputs for edge in axis(p)]) for axis in (_x, _y)]
    across, down = _scales(*((s.low, s.high) for s in reach))
    plane = _plane(
        inputs, (across, down), (x_title, y_title), ticks(across, signed=True), ticks(down, signed=True)
    )
    corners = (
        Corner(text="behind, then ahead", x=plane.left, y=plane.top, dx=8, dy=16, anchor="start"),
        Corner(text="ahead in both", x=plane.right, y=plane.top, dx=-4, dy=16, anchor="end"),
        Corner(text="behind in both", x=plane.left, y=plane.bottom, dx=8, dy=-8, anchor="start"),
        Corner(text="ahead, then behind", x=plane.right, y=plane.bottom, dx=-4, dy=-8, anchor="end"),
    )
    values = {name: getattr(plane, name) for name in Plane.__dataclass_fields__}
    return Plane(**{**values, "zero_x": across.at(0.0), "zero_y": down.at(0.0), "corners": corners})


def trade_off(inputs: Sequence[TradeInput], x_title: str, y_title: str) -> Plane:
    """Cost on a logarithmic axis against scores from 0 to 100 per cent."""
    logs = [math.log10(p.cost) for p in inputs]
    low, high = min(logs, default=0.0) - 0.1, max(logs, default=1.0) + 0.1
    across, down = _scales((low, high), (0.0, 1.0))
    marks = [d for d in _DURATIONS if low <= math.log10(d) <= high] or [10 ** ((low + high) / 2)]
    marks = marks[:: -(-len(marks) // _MAX_TICKS)]
    points = [
        PlaneInput(key=p.key, name=p.name, side=p.side, x=(log, log, log), y=p.score, strong=p.on_front)
        for p, log in zip(inputs, logs, strict=True)
    ]
    values = (0.0, 0.25, 0.5, 0.75, 1.0)
    return _plane(
        points,
        (across, down),
        (x_title, y_title),
        tuple(Tick(position=across.at(math.log10(d)), label=seconds(d)) for d in marks),
        tuple(Tick(position=down.at(v), label=f"{100 * v:.0f}", anchor="end") for v in values),
    )


def _scales(x: tuple[float, float], y: tuple[float, float]) -> tuple[Scale, Scale]:
    return (
        Scale(low=x[0], high=x[1], start=_ACROSS[0], end=_ACROSS[1]),
        Scale(low=y[0], high=y[1], start=_DOWN[0], end=_DOWN[1]),
    )


def _x(point: PlaneInput) -> tuple[float, float]:
    return point.x[0], point.x[2]


def _y(point: PlaneInput) -> tuple[float, float]:
    return point.y[0], point.y[2]


def _plane(
    inputs: Sequence[PlaneInput],
    scales: tuple[Scale, Scale],
    titles: tuple[str, str],
    x_ticks: tuple[Tick, ...],
    y_ticks: tuple[Tick, ...],
) -> Plane:
    """Place the points; keys are moved off each other and off the markers."""
    across, down = scales
    places = [(float(across.at(p.x[1])[:-1]), float(down.at(p.y[1])[:-1])) for p in inputs]
    offsets = _place_keys(places)
    points = tuple(
        Point(
            key=p.key,
            name=p.name,
            side=p.side,
            shape=p.shape or SHAPE_OF_SIDE[p.side],
            x=across.at(p.x[1]),
            x_low=across.at(p.x[0]),
            x_high=across.at(p.x[2]),
            y=down.at(p.y[1]),
            y_low=down.at(p.y[0]),
            y_high=down.at(p.y[2]),
            key_dx=dx,
            key_dy=dy,
            strong=p.strong,
        )
        for p, (dx, dy) in zip(inputs, offsets, strict=True)
    )
    return Plane(
        x_title=titles[0],
        y_title=titles[1],
        points=points,
        x_ticks=x_ticks,
        y_ticks=y_ticks,
        left=f"{_ACROSS[0]:.2f}%",
        right=f"{_ACROSS[1]:.2f}%",
        top=f"{_DOWN[1]:.2f}%",
        bottom=f"{_DOWN[0]:.2f}%",
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
