"""Geometry of charts with two axes: probe against answers, pairs, cost against score."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from leaderboard.charts import SHAPE_OF_SIDE, Scale, Tick, difference_scale, ticks
from leaderboard.plane_keys import MARKER, NARROW, WIDE, Label, Spot, place_keys
from leaderboard.wording import seconds

Triple = tuple[float, float, float]
"""Low end, value, high end."""

_ACROSS, _DOWN = (10.0, 97.0), (88.0, 4.0)
"""Edges of the plot in per cent of the drawing: left and right, bottom and top."""
_MINUTE, _HOUR, _DAY = 60.0, 3600.0, 86400.0
_DURATIONS = (
    *(1.0, 2.0, 5.0, 10.0, 20.0, 30.0),
    *(n * _MINUTE for n in (1, 2, 5, 10, 20, 30)),
    *(n * _HOUR for n in (1, 2, 5, 10)),
    *(n * _DAY for n in (1, 2, 5, 10, 20, 50)),
)
"""Seconds that make good ticks."""
_STEPS = (1.0, 2.0, 5.0, 10.0, 15.0, 30.0, *(n * _MINUTE for n in (1, 2, 5, 10, 15, 30)), _HOUR)
"""Steps from tick to tick where costs lie closer together than that."""
_MAX_TICKS = 5
_SCORE_STEPS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)


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
    strong: bool
    """False for what stands back behind the others."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Key:
    """The key of a point, or of several that lie too close for one each, and the line to it in px."""

    text: str
    x: str
    y: str
    dx: int
    dy: int
    from_x: float
    from_y: float
    wide: bool
    """Whether it is for wide windows or for narrow ones."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Segment:
    """A part of the line through the points that nothing beats."""

    x1: str
    y1: str
    x2: str
    y2: str


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
    keys: tuple[Key, ...] = ()
    unkeyed_narrow: int = 0
    unkeyed_wide: int = 0
    """Points in clouds too thick for keys."""
    front: tuple[Segment, ...] = ()


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
    return replace(plane, zero_x=across.at(0.0), zero_y=down.at(0.0), corners=corners)


def trade_off(inputs: Sequence[TradeInput], x_title: str, y_title: str) -> Plane:
    """Cost on a logarithmic axis against scores, on one that holds them and says where it begins."""
    logs = [math.log10(p.cost) for p in inputs]
    low, high = min(logs, default=0.0) - 0.05, max(logs, default=1.0) + 0.05
    values = _score_ticks([edge for p in inputs for edge in (p.score[0], p.score[2])])
    across, down = _scales((low, high), (values[0], values[-1]))
    points = [
        PlaneInput(key=p.key, name=p.name, side=p.side, x=(log, log, log), y=p.score, strong=p.on_front)
        for p, log in zip(inputs, logs, strict=True)
    ]
    labels = [f"{100 * v:.3g}" for v in values]
    plane = _plane(
        points,
        (across, down),
        (x_title, f"{y_title}, axis from {labels[0]} to {labels[-1]} %"),
        tuple(Tick(position=across.at(math.log10(d)), label=_duration(d)) for d in _time_ticks(low, high)),
        tuple(
            Tick(position=down.at(v), label=text, anchor="end")
            for v, text in zip(values, labels, strict=True)
        ),
    )
    return replace(plane, front=_front([p for p in plane.points if p.strong], plane.right))


def _front(points: Sequence[Point], right: str) -> tuple[Segment, ...]:
    """Stairs through the points, cheapest first: the highest score that each cost buys."""
    found = []
    for point, after in zip(points, [*points[1:], None], strict=True):
        end = after.x if after is not None else right
        found.append(Segment(x1=point.x, y1=point.y, x2=end, y2=point.y))
        if after is not None:
            found.append(Segment(x1=after.x, y1=point.y, x2=after.x, y2=after.y))
    return tuple(found)


def _score_ticks(values: Sequence[float]) -> list[float]:
    """Round places from below the lowest value to above the highest, at most six, within 0 and 1."""
    low, high = max(min(values, default=0.0), 0.0), min(max(values, default=1.0), 1.0)
    for step in _SCORE_STEPS:
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        last = max(last, first + 1)
        if last - first <= _MAX_TICKS:
            break
    return [min(max(n * step, 0.0), 1.0) for n in range(first, last + 1)]


def _time_ticks(low: float, high: float) -> list[float]:
    """Seconds to mark between two logarithms: good durations, or equal steps where those are too few."""
    start, end = 10**low, 10**high
    marks = [d for d in _DURATIONS if start <= d <= end]
    if len(marks) < 3:
        for step in _STEPS:
            found = [n * step for n in range(math.ceil(start / step), math.floor(end / step) + 1)]
            if found and len(found) <= _MAX_TICKS:
                marks = found
                break
    return marks[:: -(-len(marks) // _MAX_TICKS)] if marks else [10 ** ((low + high) / 2)]


def _duration(value: float) -> str:
    """Round seconds on an axis: "5 min", not "5 min 0 s"."""
    return seconds(value).replace(".0 s", " s").removesuffix(" 0 s").removesuffix(" 0 min")


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
    """Place the points, and their keys where nothing else is."""
    across, down = scales
    spots = [Spot(key=p.key, x=_per_cent(across, p.x), y=_per_cent(down, p.y)) for p in inputs]
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
            strong=p.strong,
        )
        for p in inputs
    )
    narrow, wide = (place_keys(spots, sizes) for sizes in (NARROW, WIDE))
    return Plane(
        x_title=titles[0],
        y_title=titles[1],
        points=points,
        keys=tuple(
            _key(label, points[label.anchor], wide=labels is wide)
            for labels in (narrow, wide)
            for label in labels
        ),
        unkeyed_narrow=len(points) - sum(len(label.members) for label in narrow),
        unkeyed_wide=len(points) - sum(len(label.members) for label in wide),
        x_ticks=x_ticks,
        y_ticks=y_ticks,
        left=f"{_ACROSS[0]:.2f}%",
        right=f"{_ACROSS[1]:.2f}%",
        top=f"{_DOWN[1]:.2f}%",
        bottom=f"{_DOWN[0]:.2f}%",
    )


def _per_cent(scale: Scale, values: Triple) -> Triple:
    low, value, high = (float(scale.at(v)[:-1]) for v in values)
    return low, value, high


def _key(label: Label, point: Point, *, wide: bool) -> Key:
    share = MARKER / math.hypot(label.dx, label.dy)
    return Key(
        text=label.text,
        x=point.x,
        y=point.y,
        dx=label.dx,
        dy=label.dy,
        from_x=round(share * label.dx, 1),
        from_y=round(share * label.dy, 1),
        wide=wide,
    )
