"""Where the keys of a plane's points stand: next to their own marker, clear of everyone else's.

Markers are placed in per cent of a drawing that is as wide as its page lets it be, keys in px beside them;
so a place must be good at several sizes. Points too close for a key each share one label, "D, G".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

NARROW = ((288.0, 420.0), (440.0, 420.0), (600.0, 420.0))
WIDE = ((430.0, 512.0), (535.0, 512.0), (580.0, 420.0), (1030.0, 420.0))
"""Px of the drawing on windows up to 40rem and beyond: leaderboard/static/site.css changes labels there."""
MARKER = 4.6
"""Half of a marker's width."""
MOST = 5
"""Keys in one label; a cloud of more has none."""
_LETTER, _COMMA, _HALF_LINE = 9.0, 7.0, 6.5
_AWAY = (14.0, 18.0, 23.0, 30.0, 40.0)
_DIRECTIONS = 24
_GAP = 1.5
"""Px by which a key is nearer to its own marker than to another, and between whatever does not touch."""
_REACH = 60.0
"""Px within which points may share a label."""
_CROSSED = 8.0
"""Px of distance that a key goes rather than stand on a whisker."""
_AT_ONCE = 16
"""Places looked at together: the first few are mostly enough."""
_STEPS = np.linspace(0.0, 1.0, 9)
_OFFSETS = np.array(
    [
        (math.sin(2 * math.pi * turn / _DIRECTIONS), -math.cos(2 * math.pi * turn / _DIRECTIONS))
        for turn in range(_DIRECTIONS)
    ]
)

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Spot:
    """One point of the plane in per cent of the drawing, with the ends of its whiskers."""

    key: str
    x: tuple[float, float, float]
    """Low end, value, high end."""
    y: tuple[float, float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Label:
    """Keys beside a marker: px from the middle of it to theirs."""

    members: tuple[int, ...]
    """Places of the points in the input; `anchor` is the one that the label stands at."""
    anchor: int
    text: str
    dx: int
    dy: int


@dataclass(frozen=True, slots=True)
class _Choices:
    """Places that one label may take, best first, as far as markers are concerned."""

    members: tuple[int, ...]
    half: float
    anchors: NDArray[np.int64]
    offsets: Floats


def half_width(keys: Sequence[str]) -> float:
    """Half of a label's width in px, at most."""
    return (_LETTER * sum(map(len, keys)) + _COMMA * (len(keys) - 1)) / 2


def place_keys(spots: Sequence[Spot], sizes: Sequence[tuple[float, float]]) -> list[Label]:
    """Labels that are clear of markers, of each other and of each other's lines, at every size.

    A point that has no such place shares the label of its neighbour; where more than `MOST` would,
    none of them has one. Deterministic: input order decides ties.
    """
    groups: list[tuple[int, ...]] = [(i,) for i in range(len(spots))]
    known: dict[tuple[int, ...], _Choices] = {}
    while True:
        for group in groups:
            if group not in known:
                known[group] = _choices(spots, group, sizes)
        found, homeless = _assign(spots, [known[g] for g in groups], sizes)
        if not homeless:
            return sorted(found, key=lambda label: label.members)
        groups = _merged(spots, groups, homeless, sizes[0])


def _merged(
    spots: Sequence[Spot],
    groups: Sequence[tuple[int, ...]],
    homeless: Sequence[tuple[int, ...]],
    size: tuple[float, float],
) -> list[tuple[int, ...]]:
    """Every homeless group with its nearest neighbour; without one near enough it goes."""
    left = list(groups)
    for group in homeless:
        if group not in left:
            continue
        left.remove(group)
        near = [(_apart(spots, group, other, size), other) for other in left]
        distance, other = min(near, default=(math.inf, ()))
        if distance > _REACH or len(group) + len(other) > MOST:
            continue
        left.remove(other)
        left.append(tuple(sorted((*group, *other))))
    return sorted(left)


def _apart(spots: Sequence[Spot], a: tuple[int, ...], b: tuple[int, ...], size: tuple[float, float]) -> float:
    places = [[(spots[i].x[1] * size[0] / 100, spots[i].y[1] * size[1] / 100) for i in g] for g in (a, b)]
    return min(math.dist(p, q) for p in places[0] for q in places[1])


def _centres(spots: Sequence[Spot], size: tuple[float, float]) -> Floats:
    found: Floats = np.array([(s.x[1], s.y[1]) for s in spots]).reshape(-1, 2) * size / 100
    return found


def _line(start: Floats, end: Floats) -> Floats:
    """Points along the lines from markers to labels, (…, steps, 2)."""
    return start[..., None, :] + (end - start)[..., None, :] * _STEPS[:, None]


def _from_line(points: Floats, starts: Floats, offsets: Floats) -> Floats:
    """Px from each point to each line from a marker to its label, (lines, points)."""
    off_x, off_y = offsets[:, :1], offsets[:, 1:]
    x, y = points[:, 0] - starts[:, :1], points[:, 1] - starts[:, 1:]
    share = np.clip((x * off_x + y * off_y) / (off_x**2 + off_y**2), 0.0, 1.0)
    found: Floats = np.hypot(x - share * off_x, y - share * off_y)
    return found


def _outside(points: Floats, middles: Floats, halves: Floats | float) -> Floats:
    """Px from each point to each label's box, 0 within; axes as numpy broadcasts them."""
    far_x = np.maximum(np.abs(points[..., 0] - middles[..., 0]) - halves, 0.0)
    far_y = np.maximum(np.abs(points[..., 1] - middles[..., 1]) - _HALF_LINE, 0.0)
    found: Floats = np.hypot(far_x, far_y)
    return found


def _choices(spots: Sequence[Spot], group: tuple[int, ...], sizes: Sequence[tuple[float, float]]) -> _Choices:
    """Offsets from any member that are clear of markers and nearer to the group than to others."""
    half = half_width([spots[i].key for i in group])
    # A wide label stands further off sideways than above.
    wide = _OFFSETS * np.array([(half + MARKER + 2) / (_LETTER / 2 + MARKER + 2), 1.0])
    # Rounded twice: no last digit of a sine may tell one machine's page from another's.
    around = np.rint(np.concatenate([wide * away for away in _AWAY]).round(6))
    anchors = np.repeat(np.array(group), len(around))
    offsets = np.tile(around, (len(group), 1))
    cost = np.hypot(offsets[:, 0], offsets[:, 1])
    fits = np.ones(len(offsets), dtype=bool)
    others = np.array([i not in group for i in range(len(spots))])
    for size in sizes:
        centres = _centres(spots, size)
        at = centres[anchors] + offsets
        away = _outside(centres[None], at[:, None], half)
        fits &= (away > MARKER + _GAP).all(axis=1)
        if others.any():
            fits &= away[:, list(group)].min(axis=1) + _GAP < away[:, others].min(axis=1)
            beside = _from_line(centres[others], centres[anchors], offsets)
            fits &= (beside > MARKER + _GAP).all(axis=1)
        fits &= (at[:, 0] - half > 0.1 * size[0]) & (at[:, 0] + half < size[0])
        fits &= (at[:, 1] > _HALF_LINE) & (at[:, 1] + _HALF_LINE < 0.88 * size[1])
        cost += _CROSSED * _crossed(spots, at, half, size) / len(sizes)
    order = np.argsort(cost.round(6), kind="stable")
    order = order[fits[order]]
    return _Choices(members=group, half=half, anchors=anchors[order], offsets=offsets[order])


def _crossed(spots: Sequence[Spot], at: Floats, half: float, size: tuple[float, float]) -> Floats:
    """Whiskers under a label at each place."""
    x = np.array([s.x for s in spots]) * size[0] / 100
    y = np.array([s.y for s in spots]) * size[1] / 100
    level = (np.abs(at[:, 1, None] - y[:, 1]) < _HALF_LINE) & (at[:, 0, None] + half > x.min(axis=1))
    level &= at[:, 0, None] - half < x.max(axis=1)
    upright = (np.abs(at[:, 0, None] - x[:, 1]) < half) & (at[:, 1, None] + _HALF_LINE > y.min(axis=1))
    upright &= at[:, 1, None] - _HALF_LINE < y.max(axis=1)
    found: Floats = (level.sum(axis=1) + upright.sum(axis=1)).astype(np.float64)
    return found


def _assign(
    spots: Sequence[Spot], choices: Sequence[_Choices], sizes: Sequence[tuple[float, float]]
) -> tuple[list[Label], list[tuple[int, ...]]]:
    """Each label's best place that those before leave free, whoever has fewest first; and those without."""
    found: list[Label] = []
    homeless = []
    halves: list[float] = []
    centres = [_centres(spots, size) for size in sizes]
    for one in sorted(choices, key=lambda c: (len(c.offsets), c.members)):
        best = _first_free(one, found, np.array(halves), centres)
        if best is None:
            homeless.append(one.members)
            continue
        dx, dy = (int(v) for v in one.offsets[best])
        text = ", ".join(spots[i].key for i in one.members)
        found.append(Label(members=one.members, anchor=int(one.anchors[best]), text=text, dx=dx, dy=dy))
        halves.append(one.half)
    return found, homeless


def _first_free(
    one: _Choices, found: Sequence[Label], halves: Floats, centres: Sequence[Floats]
) -> int | None:
    for start in range(0, len(one.offsets), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        some = replace(one, anchors=one.anchors[part], offsets=one.offsets[part])
        free = [_free(some, found, halves, where) for where in centres] if found else []
        good = np.flatnonzero(np.logical_and.reduce([*free, np.ones(len(some.offsets), dtype=bool)]))
        if len(good):
            return start + int(good[0])
    return None


def _free(one: _Choices, found: Sequence[Label], halves: Floats, centres: Floats) -> NDArray[np.bool_]:
    """Which places of a label touch no label placed before, nor its line, with neither box nor line."""
    start = centres[one.anchors]
    at = start + one.offsets
    theirs = centres[[label.anchor for label in found]]
    placed = theirs + np.array([(label.dx, label.dy) for label in found], dtype=np.float64)
    apart_x = np.abs(at[:, None, 0] - placed[None, :, 0]) > one.half + halves + _GAP
    apart_y = np.abs(at[:, None, 1] - placed[None, :, 1]) > 2 * _HALF_LINE + _GAP
    mine = _outside(_line(start, at)[:, :, None], placed[None, None], halves)
    other = _outside(_line(theirs, placed)[None], at[:, None, None], one.half)
    free: NDArray[np.bool_] = np.logical_and.reduce(
        [
            (apart_x | apart_y).all(axis=1),
            (mine > _GAP).all(axis=(1, 2)),
            (other > _GAP).all(axis=(1, 2)),
        ]
    )
    return free
