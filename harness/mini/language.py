"""What is said about scenes and clips: questions with answers, descriptions, and the perfect text map.

Question texts are ours; the prompts around them are those of lmms-eval (harness.prompts). Test sets, the
adapter's mixture and the language model's own training all draw their questions here.
"""

from __future__ import annotations

import random
from typing import NamedTuple

from harness.mini.captions import spell
from harness.mini.clips import MOVES, Clip
from harness.mini.world import CELL, COLORS, GRID, SHAPES, SIDE, Scene, Sign, Thing, box_of, cell_of
from harness.prompts import BOX_REQUEST, LETTERS, SHORT_ANSWER, format_box

CELLS = tuple(f"{column}{row + 1}" for row in range(GRID) for column in "abcd")
"""Names of the 16 cells, row by row: a1 b1 c1 d1 a2 …"""
OFFSET_STEP = 2
"""Pixels a step of the offsets x0-x7, y0-y7 inside a cell."""
BOX_STEPS = 32
DESCRIBE = "Describe the image."
DESCRIBE_CLIP = DESCRIBE
"""Clips are asked with the same words: they are one token of the mini tokenizer."""
SIGN_QUESTIONS = ("what does the sign say?", "which word is on the sign?")
VQA_KINDS = ("color", "shape", "pattern", "count", "exist")
STILL_KINDS = (*VQA_KINDS, "rec", "sign")
ANSWER_TYPES = {"color": "other", "shape": "other", "pattern": "other", "count": "number", "exist": "yes/no"}


class Question(NamedTuple):
    """One exchange. `text` is the bare question (for REC the expression), `prompt` what the LLM reads."""

    kind: str
    text: str
    prompt: str
    answer: str
    box: tuple[float, float, float, float] | None = None


class Choice(NamedTuple):
    """One multiple choice about a clip."""

    text: str
    options: tuple[str, ...]
    answer: int
    prompt: str


def spoken_box(thing: Thing) -> str:
    """The box as the language model says it, on a grid of 1/32: "[0.12, 0.34, 0.50, 0.75]"."""
    return format_box([round(v * BOX_STEPS) / BOX_STEPS for v in box_of(thing)])


def _plain(kind: str, text: str, answer: str) -> Question:
    return Question(kind, text, text + SHORT_ANSWER, answer)


def ask(scene: Scene, kind: str, rng: random.Random) -> Question | None:
    """A question of one kind, or None where the scene does not allow it without ambiguity."""
    things = scene.things
    if kind == "count":
        return _plain(kind, "how many objects are there?", str(len(things)))
    if kind == "sign":
        if scene.sign is None:
            return None
        text = rng.choice(SIGN_QUESTIONS)
        return Question(kind, text, text.capitalize() + SHORT_ANSWER, scene.sign.word)
    if kind in {"color", "shape"}:
        return _ask_look(things, kind, rng)
    thing = rng.choice(things)
    name = f"{thing.color} {thing.shape}"
    if kind == "pattern":
        return _plain(kind, f"what pattern is on the {name}?", thing.pattern)
    if kind == "rec":
        return Question(kind, name, BOX_REQUEST + name, spoken_box(thing), box_of(thing))
    return _ask_existence(scene, thing, rng)


def _ask_look(things: tuple[Thing, ...], kind: str, rng: random.Random) -> Question | None:
    """The color of the only thing of its shape, or the shape of the only thing of its color."""
    given = "shape" if kind == "color" else "color"
    unique = [t for t in things if sum(getattr(o, given) == getattr(t, given) for o in things) == 1]
    if not unique:
        return None
    thing = rng.choice(unique)
    if kind == "color":
        return _plain(kind, f"what color is the {thing.shape}?", thing.color)
    return _plain(kind, f"what shape is the {thing.color} thing?", thing.shape)


def _ask_existence(scene: Scene, thing: Thing, rng: random.Random) -> Question:
    """Yes in half of the cases; half of the absent ones share a colour or a shape with a present object."""
    if rng.random() < 0.5:
        return _plain("exist", f"is there a {thing.color} {thing.shape}?", "yes")
    present = {(t.color, t.shape) for t in scene.things}
    while True:
        color, shape = rng.choice(list(COLORS)), rng.choice(SHAPES)
        if rng.random() < 0.5:
            color, shape = rng.choice([(thing.color, shape), (color, thing.shape)])
        if (color, shape) not in present:
            return _plain("exist", f"is there a {color} {shape}?", "no")


def ask_clip(clip: Clip, rng: random.Random, which: int | None = None) -> Choice:
    """Which way one of the objects moves, among the five moves in their fixed order.

    The options are not shuffled: a model of this size does not learn to match a word with its letter, and the
    question is what it sees. Directions are drawn evenly, so every letter is the right one equally often.
    """
    mover = clip.movers[rng.randrange(len(clip.movers)) if which is None else which]
    options = tuple(MOVES)
    text = f"which way does the {mover.thing.color} {mover.thing.shape} move?"
    lines = [text, *(f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=True))]
    return Choice(text, options, options.index(mover.move), "\n".join(lines))


def ask_cell(scene: Scene, rng: random.Random) -> Question:
    """In which cell one of the objects is: an exercise of the language model only."""
    thing = rng.choice(scene.things)
    text = f"where is the {thing.color} {thing.shape}?"
    return Question("cell", text, text, CELLS[cell_of(thing)])


def ask_place(clip: Clip, rng: random.Random, frames: tuple[int, ...]) -> Question:
    """In which cell one of the objects is in one of the shown frames."""
    mover, shown = rng.choice(clip.movers), rng.randrange(len(frames))
    text = f"where is the {mover.thing.color} {mover.thing.shape} in f{shown + 1}?"
    return Question("place", text, text, CELLS[cell_of(mover.at(frames[shown]))])


def describe_clip(clip: Clip, frames: tuple[int, ...]) -> str:
    """One line an object, by colour and shape: its cell in each shown frame, then its direction."""
    lines = []
    for mover in clip.movers:
        cells = "".join(CELLS[cell_of(mover.at(frame))] for frame in frames)
        lines.append(f"{mover.thing.color} {mover.thing.shape} {cells} {mover.move}")
    return "\n".join(sorted(lines))


def _offsets(item: Thing | Sign) -> list[str]:
    return [f"x{item.x % CELL // OFFSET_STEP}", f"y{item.y % CELL // OFFSET_STEP}"]


def describe(scene: Scene) -> str:
    """The whole scene in words, one line an item in the order of the cells."""
    items: list[Thing | Sign] = [*scene.things, *([scene.sign] if scene.sign else [])]
    lines = []
    for item in sorted(items, key=cell_of):
        if isinstance(item, Sign):
            words = [f"sign:{item.word}"]
        else:
            words = [item.size, item.pattern, item.color, item.shape]
        lines.append(" ".join([CELLS[cell_of(item)], *words, *_offsets(item)]))
    return "\n".join(lines)


def _thing_words(thing: Thing) -> list[str]:
    return [thing.size, thing.pattern, thing.color, thing.shape, *_offsets(thing)]


def text_map(scene: Scene) -> list[list[str]]:
    """Sixteen bags of words, one a cell: its name and what is there. The perfect text of a scene."""
    cells = [[name] for name in CELLS]
    for thing in scene.things:
        cells[cell_of(thing)] += _thing_words(thing)
    if scene.sign is not None:
        cells[cell_of(scene.sign)] += ["sign", *spell(scene.sign.word), *_offsets(scene.sign)]
    return cells


def clip_map(clip: Clip, frames: tuple[int, ...]) -> list[list[str]]:
    """The text maps of some frames, one after another, each cell also naming its frame (f1, f2, …)."""
    bags = []
    for position, frame in enumerate(frames):
        cells = [[f"f{position + 1}", name] for name in CELLS]
        for mover in clip.movers:
            thing = mover.at(frame)
            cells[cell_of(thing)] += _thing_words(thing)
        bags += cells
    return bags


assert SIDE % GRID == 0
