"""Still scenes of the procedural world: what is in them, which split owns them, how they look.

A scene holds one dominant object, up to three small ones, and in six of ten scenes a printed sign.
Everything is drawn with cached integer masks, so a scene renders to the same bytes on every machine
whatever Pillow is installed. Pixels are 64 x 64; a cell is one of 4 x 4 squares of 16 px.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from harness.seeds import derive_seed

SIDE = 64
CELL = 16
GRID = SIDE // CELL
RADIUS = {"large": 12, "small": 8}
SIGN_HALF = (19, 9)
"""Half width and half height of a sign, px: three 10 x 14 letters, gaps and a border."""
SIGN_SHARE = 0.6
MAX_SMALL = 3

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (220, 40, 40),
    "green": (40, 170, 60),
    "blue": (50, 80, 220),
    "yellow": (235, 210, 50),
    "purple": (160, 50, 190),
    "cyan": (60, 205, 215),
}
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
PATTERNS = ("solid", "striped", "checked", "dotted")
SIZES = ("large", "small")
CONSONANTS, VOWELS = "cglnprst", "aeio"
WORDS = tuple(a + b + c for a in CONSONANTS for b in VOWELS for c in CONSONANTS)
"""256 pronounceable words, many of them English; spelt letter by letter everywhere."""

Split = Literal["train", "dev", "test"]
HELD_OUT_WORDS = frozenset(w for w in WORDS if derive_seed("sign-word", w) % 9 < 2)
"""Words that only signs of dev and test scenes show; every letter place also occurs in training words."""

# 5 x 7 bitmaps, one string a row.
_GLYPHS = {
    "a": "01110 10001 10001 11111 10001 10001 10001",
    "c": "01111 10000 10000 10000 10000 10000 01111",
    "e": "11111 10000 10000 11110 10000 10000 11111",
    "g": "01111 10000 10000 10011 10001 10001 01111",
    "i": "11111 00100 00100 00100 00100 00100 11111",
    "l": "10000 10000 10000 10000 10000 10000 11111",
    "n": "10001 11001 10101 10101 10011 10001 10001",
    "o": "01110 10001 10001 10001 10001 10001 01110",
    "p": "11110 10001 10001 11110 10000 10000 10000",
    "r": "11110 10001 10001 11110 10100 10010 10001",
    "s": "01111 10000 10000 01110 00001 00001 11110",
    "t": "11111 00100 00100 00100 00100 00100 00100",
}


@dataclass(frozen=True, slots=True)
class Thing:
    """One object; (x, y) is its centre in px."""

    x: int
    y: int
    size: str
    shape: str
    color: str
    pattern: str

    @property
    def radius(self) -> int:
        """Half extent, px."""
        return RADIUS[self.size]


@dataclass(frozen=True, slots=True)
class Sign:
    """A printed sign; (x, y) is its centre in px."""

    x: int
    y: int
    word: str


@dataclass(frozen=True, slots=True)
class Scene:
    """Things (the dominant one first), perhaps a sign, and the seed of the background."""

    things: tuple[Thing, ...]
    sign: Sign | None
    background: int


def split_of(key: object) -> Split:
    """The split that owns an arrangement: 1 in 8 test, 1 in 8 dev, the rest train.

    It depends on what is in the scene and where, in the order of the list, not on the background or the
    seed, so no arrangement can ever occur in two splits. Small objects listed in another order are another
    arrangement of the same picture; tests/test_mini_world.py shows that no dataset shares a picture.
    """
    octant = hashlib.sha256(repr(key).encode()).digest()[0] % 8
    return "test" if octant == 0 else "dev" if octant == 1 else "train"


def cell_of(item: Thing | Sign) -> int:
    """Index 0-15 of the cell that holds the centre, row by row."""
    return (item.y // CELL) * GRID + item.x // CELL


def _place(
    rng: random.Random, half: tuple[int, int], taken: list[tuple[int, int, int, int]], cells: set[int]
) -> tuple[int, int] | None:
    """A centre whose box is free and whose cell is unused, or None after 30 tries."""
    for _ in range(30):
        x = rng.randint(half[0], SIDE - 1 - half[0])
        y = rng.randint(half[1], SIDE - 1 - half[1])
        cell = (y // CELL) * GRID + x // CELL
        free = all(abs(x - a) >= half[0] + w or abs(y - b) >= half[1] + h for a, b, w, h in taken)
        if free and cell not in cells:
            taken.append((x, y, *half))
            cells.add(cell)
            return x, y
    return None


def _draw_scene(rng: random.Random, words: tuple[str, ...]) -> Scene | None:
    """One scene from the generator; None when the dominant object found no room."""
    taken: list[tuple[int, int, int, int]] = []
    cells: set[int] = set()
    sign = None
    if rng.random() < SIGN_SHARE:
        spot = _place(rng, SIGN_HALF, taken, cells)
        sign = Sign(*spot, rng.choice(words)) if spot else None
    things: list[Thing] = []
    for size in ("large", *["small"] * rng.randint(0, MAX_SMALL)):
        spot = _place(rng, (RADIUS[size],) * 2, taken, cells)
        if spot is None:
            if not things:
                return None
            continue
        used = {(t.shape, t.color) for t in things}
        while (look := (rng.choice(SHAPES), rng.choice(list(COLORS)))) in used:
            pass
        things.append(Thing(*spot, size, *look, rng.choice(PATTERNS)))
    return Scene(tuple(things), sign, rng.randrange(2**31))


def sample_scenes(split: Split, count: int, seed: int, *, with_sign: bool = False) -> list[Scene]:
    """The first `count` scenes of a split.

    Args:
        split: which arrangements are kept; train signs never show a held-out word, dev and test
            signs show nothing else.
        count: number of scenes.
        seed: a different seed gives different scenes of the same split.
        with_sign: keep only scenes that show a sign.
    """
    rng = random.Random(derive_seed("mini-scene", split, seed))
    words = tuple(w for w in WORDS if (w in HELD_OUT_WORDS) == (split != "train"))
    scenes: list[Scene] = []
    while len(scenes) < count:
        scene = _draw_scene(rng, words)
        if scene is None or split_of((scene.things, scene.sign)) != split:
            continue
        if scene.sign is not None or not with_sign:
            scenes.append(scene)
    return scenes


# ---- drawing ---------------------------------------------------------------------------------------


def _inside_polygon(points: list[tuple[float, float]], r: int) -> NDArray[np.bool_]:
    """Even-odd test of the points of a (2r+1)² grid centred on the origin."""
    y, x = np.mgrid[-r : r + 1, -r : r + 1].astype(np.float64)
    inside = np.zeros(x.shape, bool)
    for (x0, y0), (x1, y1) in zip(points, points[1:] + points[:1], strict=True):
        if y0 == y1:
            continue
        crosses = ((y0 > y) != (y1 > y)) & (x < (x1 - x0) * (y - y0) / (y1 - y0) + x0)
        inside ^= crosses
    return inside


@cache
def shape_mask(shape: str, r: int) -> NDArray[np.bool_]:
    """(2r+1, 2r+1) mask of a shape of half extent r px."""
    y, x = np.mgrid[-r : r + 1, -r : r + 1]
    square = x * x + y * y
    if shape == "circle":
        return np.asarray(square <= r * r + r // 2)
    if shape == "ring":
        return np.asarray((square <= r * r + r // 2) & (square >= (r * 0.58) ** 2))
    if shape == "square":
        return np.asarray((abs(x) <= r - 1) & (abs(y) <= r - 1))
    if shape == "cross":
        arm = r * 0.36
        return np.asarray((abs(x) <= arm) | (abs(y) <= arm))
    if shape == "triangle":
        return np.asarray(abs(x) <= (y + r) / 2)
    radii = [r + 0.5 if i % 2 == 0 else (r + 0.5) * 0.45 for i in range(10)]
    angles = [np.pi * i / 5 for i in range(10)]
    return _inside_polygon(
        [(float(a * np.sin(t)), float(-a * np.cos(t))) for a, t in zip(radii, angles, strict=True)], r
    )


@cache
def _pattern_mask(pattern: str, r: int) -> NDArray[np.bool_]:
    """Where a pattern darkens the colour, on the (2r+1)² grid of the object."""
    y, x = np.mgrid[0 : 2 * r + 1, 0 : 2 * r + 1]
    if pattern == "striped":
        return np.asarray(y % 4 < 2)
    if pattern == "checked":
        return np.asarray((x // 3 + y // 3) % 2 == 0)
    if pattern == "dotted":
        return np.asarray((x % 4 < 2) & (y % 4 < 2))
    return np.zeros(x.shape, bool)


@cache
def _sign_bitmap(word: str) -> NDArray[np.uint8]:
    """(18, 38, 3) picture of a sign."""
    w, h = SIGN_HALF[0] * 2, SIGN_HALF[1] * 2
    picture = np.full((h, w, 3), (250, 248, 235), np.uint8)
    picture[[0, -1]] = picture[:, [0, -1]] = 30
    for i, letter in enumerate(word):
        rows = [[int(bit) for bit in row] for row in _GLYPHS[letter].split()]
        glyph = np.kron(np.array(rows), np.ones((2, 2), int)).astype(bool)
        picture[2:16, 2 + 12 * i : 12 + 12 * i][glyph] = 15
    return picture


def draw_thing(canvas: NDArray[np.uint8], thing: Thing) -> None:
    """Paint an object in place; what leaves the canvas on one side enters on the other (clips use it)."""
    r = thing.radius
    mask, dark = shape_mask(thing.shape, r), _pattern_mask(thing.pattern, r)
    color = np.array(COLORS[thing.color])
    ys = np.arange(thing.y - r, thing.y + r + 1) % SIDE
    xs = np.arange(thing.x - r, thing.x + r + 1) % SIDE
    window = canvas[np.ix_(ys, xs)]
    window[mask] = color
    window[mask & dark] = (color * 0.45).astype(np.uint8)
    canvas[np.ix_(ys, xs)] = window


@cache
def _upsample() -> NDArray[np.int32]:
    """(64, 4) linear interpolation from four knots to 64 rows, in twenty-firsts: integers, so exact."""
    row = np.arange(SIDE)
    low = np.minimum(row // 21, 2)
    weight = np.zeros((SIDE, 4), np.int32)
    weight[row, low] = 21 - (row - 21 * low)
    weight[row, low + 1] = row - 21 * low
    return weight


def draw_background(seed: int) -> NDArray[np.uint8]:
    """(64, 64, 3) uint8: a muted colour, a smooth gradient and pixel noise."""
    rng = np.random.default_rng(seed)
    knots = (rng.integers(80, 160, 3) + rng.integers(-24, 25, (4, 4, 3))).astype(np.int32)
    rows = (_upsample() @ knots.reshape(4, 12)).reshape(SIDE, 4, 3)
    noise = rng.integers(-9, 10, (SIDE, SIDE, 3), dtype=np.int8)
    return np.asarray(np.clip((_upsample() @ rows) // 441 + noise, 0, 255).astype(np.uint8))


def render(scene: Scene) -> NDArray[np.uint8]:
    """(64, 64, 3) uint8 RGB picture of a scene."""
    canvas = draw_background(scene.background)
    for thing in scene.things:
        draw_thing(canvas, thing)
    if scene.sign is not None:
        left, top = scene.sign.x - SIGN_HALF[0], scene.sign.y - SIGN_HALF[1]
        canvas[top : top + 2 * SIGN_HALF[1], left : left + 2 * SIGN_HALF[0]] = _sign_bitmap(scene.sign.word)
    return canvas


# ---- facts -----------------------------------------------------------------------------------------


def class_of(scene: Scene) -> int:
    """Class 0-143 of the dominant object: shape x colour x pattern."""
    thing = scene.things[0]
    color = list(COLORS).index(thing.color)
    return (SHAPES.index(thing.shape) * len(COLORS) + color) * len(PATTERNS) + PATTERNS.index(thing.pattern)


NUM_CLASSES = len(SHAPES) * len(COLORS) * len(PATTERNS)


def class_name(label: int) -> str:
    """Words of a class, e.g. "striped red star"."""
    rest, pattern = divmod(label, len(PATTERNS))
    shape, color = divmod(rest, len(COLORS))
    return f"{PATTERNS[pattern]} {list(COLORS)[color]} {SHAPES[shape]}"


def box_of(thing: Thing) -> tuple[float, float, float, float]:
    """Tight xyxy box, 0-1 of the image."""
    mask, r = shape_mask(thing.shape, thing.radius), thing.radius
    ys, xs = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    left, top = thing.x - r + int(xs[0]), thing.y - r + int(ys[0])
    right, bottom = thing.x - r + int(xs[-1]) + 1, thing.y - r + int(ys[-1]) + 1
    return left / SIDE, top / SIDE, right / SIDE, bottom / SIDE
