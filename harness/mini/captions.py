"""Captions of the procedural world, their words, and which images a caption is true of.

The rule treats all attributes alike, so that no question kind is handed to one objective: every item
(object or sign) is mentioned with probability 0.6, every mention of an object names its shape and, each
with probability 0.7, its size, pattern and colour; a position follows with probability 0.5.
A sign's letters are words of their own, with their place ("c__", "_a_", "__t").
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.mini.world import COLORS, CONSONANTS, PATTERNS, SHAPES, SIDE, SIZES, VOWELS, Scene, Sign, Thing

MENTION_SHARE = 0.6
ATTRIBUTE_SHARE = 0.7
POSITION_SHARE = 0.5

COLUMNS, ROWS = ("left", "middle", "right"), ("top", "center", "bottom")
LETTERS = tuple([f"{c}__" for c in CONSONANTS] + [f"_{v}_" for v in VOWELS] + [f"__{c}" for c in CONSONANTS])
VOCABULARY = ("<pad>", "sign", *SIZES, *PATTERNS, *COLORS, *SHAPES, *COLUMNS, *ROWS, *LETTERS)
INDEX = {word: i for i, word in enumerate(VOCABULARY)}

_LOOKS = list(product((None, *SIZES), (None, *PATTERNS), (None, *COLORS), SHAPES))
_LOOK_INDEX = {look: i for i, look in enumerate(_LOOKS)}
_SIGN_LETTERS = list(product(CONSONANTS, VOWELS, CONSONANTS))
_SIGN_INDEX = {"".join(letters): len(_LOOKS) + i for i, letters in enumerate(_SIGN_LETTERS)}
NUM_FACTS = len(_LOOKS) + len(_SIGN_LETTERS)
"""Everything one mention can say: 3 x 5 x 7 x 6 looks and 256 words."""


class Caption(NamedTuple):
    """Word indices in order, and the index of the fact each mention states."""

    words: list[int]
    facts: list[int]


def position_words(item: Thing | Sign) -> tuple[str, str]:
    """Column and row of an item's centre, in thirds of the image."""
    return COLUMNS[item.x * 3 // SIDE], ROWS[item.y * 3 // SIDE]


def spell(word: str) -> list[str]:
    """Letters with their places.

    >>> spell("cat")
    ['c__', '_a_', '__t']
    """
    return [f"{word[0]}__", f"_{word[1]}_", f"__{word[2]}"]


def write_caption(scene: Scene, rng: random.Random) -> Caption:
    """One random caption of a scene; two calls give two captions."""
    items: list[Thing | Sign] = [*scene.things, *([scene.sign] if scene.sign else [])]
    mentioned = [item for item in items if rng.random() < MENTION_SHARE] or [rng.choice(items)]
    rng.shuffle(mentioned)
    words: list[str] = []
    facts: list[int] = []
    for item in mentioned:
        if isinstance(item, Sign):
            words += ["sign", *spell(item.word)]
            facts.append(_SIGN_INDEX[item.word])
        else:
            size, pattern, color = (
                look if rng.random() < ATTRIBUTE_SHARE else None
                for look in (item.size, item.pattern, item.color)
            )
            words += [look for look in (size, pattern, color) if look is not None] + [item.shape]
            facts.append(_LOOK_INDEX[size, pattern, color, item.shape])
        if rng.random() < POSITION_SHARE:
            words += position_words(item)
    return Caption([INDEX[w] for w in words], facts)


def facts_of(scenes: Sequence[Scene]) -> NDArray[np.bool_]:
    """(n, NUM_FACTS) every fact that is true of each scene; positions are not facts."""
    table = np.zeros((len(scenes), NUM_FACTS), bool)
    for row, scene in zip(table, scenes, strict=True):
        for t in scene.things:
            for look in product((None, t.size), (None, t.pattern), (None, t.color)):
                row[_LOOK_INDEX[(*look, t.shape)]] = True
        if scene.sign:
            row[_SIGN_INDEX[scene.sign.word]] = True
    return table
