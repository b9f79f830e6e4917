"""Charts with two axes: keys stand where they can be told apart, and axes hold what is drawn."""

from __future__ import annotations

import math
import random

import pytest

from leaderboard import charts, planes
from leaderboard.plane_keys import MARKER, MOST, NARROW, WIDE, Spot, half_width, place_keys

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
HALF_LINE = 6.0


def spots_of(count, seed, spread):
    """Points over the whole plot, or in a cloud of so many per cent."""
    rng = random.Random(seed)
    found = []
    for key in LETTERS[:count]:
        x = rng.uniform(11, 96) if spread is None else min(max(rng.gauss(60, spread), 10), 97)
        y = rng.uniform(5, 87) if spread is None else min(max(rng.gauss(30, spread), 4), 88)
        found.append(Spot(key=key, x=(x - 1, x, x + 1), y=(y + 1, y, y - 1)))
    return found


def apart(point, middle, half):
    """Px from a point to a label's box."""
    return math.hypot(max(abs(point[0] - middle[0]) - half, 0), max(abs(point[1] - middle[1]) - HALF_LINE, 0))


def along(start, end):
    return [
        (start[0] + t / 20 * (end[0] - start[0]), start[1] + t / 20 * (end[1] - start[1])) for t in range(21)
    ]


def faults(spots, labels, size):
    """What a reader would trip over at one size of the drawing."""
    centres = [(s.x[1] * size[0] / 100, s.y[1] * size[1] / 100) for s in spots]
    drawn = []
    for label in labels:
        start = centres[label.anchor]
        at = start[0] + label.dx, start[1] + label.dy
        drawn.append((label, at, half_width([spots[i].key for i in label.members]), along(start, at)))
    found = []
    for label, at, half, line in drawn:
        away = [apart(centre, at, half) for centre in centres]
        others = [i for i in range(len(spots)) if i not in label.members]
        own = min(away[i] for i in label.members)
        found += [f"{label.text} covers {spots[i].key}" for i, d in enumerate(away) if d < MARKER]
        found += [f"{label.text} is nearer to {spots[i].key}" for i in others if away[i] <= own]
        found += [
            f"line of {label.text} runs over {spots[i].key}"
            for i in others
            if min(math.dist(centres[i], step) for step in line) < MARKER
        ]
        if not (at[0] - half >= 0 and at[0] + half <= size[0] and at[1] >= HALF_LINE and at[1] < size[1]):
            found.append(f"{label.text} is off the drawing")
        for other, there, wide, way in drawn:
            if other is label:
                continue
            if abs(at[0] - there[0]) < half + wide and abs(at[1] - there[1]) < 2 * HALF_LINE:
                found.append(f"{label.text} covers {other.text}")
            if min(apart(step, at, half) for step in way) <= 0:
                found.append(f"{label.text} covers the line of {other.text}")
    return found


@pytest.mark.parametrize("sizes", [NARROW, WIDE], ids=["narrow", "wide"])
@pytest.mark.parametrize("count", [3, 18, 40])
@pytest.mark.parametrize("spread", [None, 12.0, 4.0, 0.5], ids=["sparse", "loose", "dense", "heap"])
def test_a_key_is_nearest_to_its_own_marker_and_covers_nothing(sizes, count, spread):
    for seed in range(2):
        spots = spots_of(count, seed, spread)
        labels = place_keys(spots, sizes)
        for size in sizes:
            assert not faults(spots, labels, size)
        members = [i for label in labels for i in label.members]
        assert len(members) == len(set(members)) and all(len(label.members) <= MOST for label in labels)
        assert all(label.anchor in label.members for label in labels)
        if spread is None and count <= 18:
            assert len(members) == count
        assert place_keys(spots, sizes) == labels


def test_points_in_one_place_share_a_label_and_a_heap_has_none():
    at = {"x": (40.0, 50.0, 60.0), "y": (60.0, 50.0, 40.0)}
    (label,) = place_keys([Spot(key=key, **at) for key in "ABC"], NARROW)
    assert label.text == "A, B, C"
    assert place_keys([Spot(key=key, **at) for key in "ABCDEF"], NARROW) == []
    points = [
        planes.PlaneInput(key=key, name="n", side="other", x=(0.4, 0.5, 0.6), y=(0.4, 0.5, 0.6))
        for key in "ABCDEF"
    ]
    assert planes.scatter(points, "x", "y").unkeyed_wide == 6
    assert planes.scatter([], "x", "y").keys == ()


def traded(*pairs):
    return planes.trade_off(
        [
            planes.TradeInput(
                key=str(n),
                name="n",
                side="other",
                cost=cost,
                score=(score - 0.01, score, score + 0.01),
                on_front=front,
            )
            for n, (cost, score, front) in enumerate(pairs, 1)
        ],
        "Time",
        "Task",
    )


def test_the_axis_of_scores_fits_them_and_says_so():
    plane = traded((350, 0.954, True), (360, 0.97, True), (480, 0.945, False))
    assert [t.label for t in plane.y_ticks] == ["93", "94", "95", "96", "97", "98"]
    assert plane.y_title == "Task, axis from 93 to 98 %"
    assert [t.label for t in plane.x_ticks] == ["6 min", "7 min", "8 min"]
    assert [t.label for t in traded((10, 0.005, True), (10, 0.999, True)).y_ticks] == [
        "0", "20", "40", "60", "80", "100",
    ]  # fmt: skip
    assert [t.label for t in traded((20, 0.5, True), (40_000, 0.6, True)).x_ticks] == [
        "20 s", "2 min", "20 min", "2 h",
    ]  # fmt: skip


@pytest.mark.parametrize("low", [0.0, 0.31, 0.5, 0.94, 0.9999])
@pytest.mark.parametrize("width", [0.0, 0.0001, 0.013, 0.2, 1.0])
def test_ticks_hold_every_range(low, width):
    high = min(low + width, 1.0)
    found = planes._score_ticks([low, high])
    assert 2 <= len(found) <= 6 and found[0] <= low + 1e-9 and found[-1] >= high - 1e-9
    assert found == sorted(set(found)) and found[0] >= 0 and found[-1] <= 1


def test_stairs_lead_through_what_nothing_beats():
    plane = traded((100, 0.5, True), (150, 0.4, False), (200, 0.7, True))
    first, _, last = plane.points
    flat, up, end = plane.front
    assert (flat.x1, flat.y1, flat.x2, flat.y2) == (first.x, first.y, last.x, first.y)
    assert (up.x1, up.y1, up.x2, up.y2) == (last.x, first.y, last.x, last.y)
    assert (end.x1, end.x2, end.y1, end.y2) == (last.x, plane.right, last.y, last.y)


def test_differences_are_symmetric_about_zero_and_hold_all():
    for reach in (0.004, 0.026, 0.07, 0.11, 0.29, 0.33, 0.95):
        scale = charts.difference_scale([reach, -reach / 3])
        assert scale.high == -scale.low and reach <= scale.high <= max(2 * reach, 0.01)
