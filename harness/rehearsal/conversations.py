"""Conversations about a scene, in the form and with the requests of LLaVA's instruction mixtures."""

from __future__ import annotations

import random
from typing import Any

from harness.datasets.padded_boxes import pad
from harness.mini.language import VQA_KINDS, Question, ask, describe
from harness.mini.schemas import image_cell
from harness.mini.world import Scene, Thing, box_of
from harness.prompts import SHORT_ANSWER
from harness.rehearsal.pictures import Canvas, photograph

PLACEHOLDER = "<image>\n"
"""Stands before the first request of a conversation with an image."""
BOX_OF_PHRASE = "Please provide the bounding box coordinate of the region this sentence describes: {}."
PHRASE_OF_BOX = "Please provide a short description for this region: {}."
TEXT_ONLY_SHARE = 0.1

Row = dict[str, Any]
Turns = list[tuple[str, str]]


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]


def _short_answers(scene: Scene, rng: random.Random) -> Turns:
    """Two or three questions with short answers; the request for brevity follows the first, as in LLaVA."""
    asked: list[Question] = [q for kind in rng.sample(VQA_KINDS, 3) if (q := ask(scene, kind, rng))]
    turns = [(_sentence(question.text), _sentence(question.answer)) for question in asked]
    return [(turns[0][0] + SHORT_ANSWER, turns[0][1]), *turns[1:]]


def _boxes(thing: Thing, canvas: Canvas) -> Turns:
    """A box for a phrase, and a phrase for a box; boxes are xyxy in 0-1 of the picture padded to a square."""
    padded = pad(canvas.box(box_of(thing)), canvas.width, canvas.height)
    # LLaVA writes numbers as Python does: 0.4, not 0.40.
    phrase, box = f"{thing.color} {thing.shape}", str([round(value, 2) for value in padded])
    return [(BOX_OF_PHRASE.format(phrase), box), (PHRASE_OF_BOX.format(box), _sentence(phrase) + ".")]


def _reading(scene: Scene, rng: random.Random) -> Turns:
    question = ask(scene, "sign", rng)
    return [(_sentence(question.text) + SHORT_ANSWER, question.answer)] if question else []


def _row(turns: Turns, source: str, name: str, image: bytes | None) -> Row:
    said: list[Row] = []
    for number, (request, answer) in enumerate(turns):
        opening = PLACEHOLDER if image is not None and number == 0 else ""
        said += [{"from": "human", "value": opening + request}, {"from": "gpt", "value": answer}]
    cell = image_cell(image, f"{name}.jpg") if image is not None else None
    return {"id": name, "conversations": said, "data_source": source, "image": cell}


def conversations(scene: Scene, canvas: Canvas, rng: random.Random) -> list[Row]:
    """Rows of one scene: a description, short answers, boxes, a sign's word, now and then one without image.

    Args:
        scene: what is talked about.
        canvas: where it lies on its picture; all rows share that picture.
        rng: draws the questions and the row's names.

    Returns:
        Rows of `hub_schemas.MIXTURE_SCHEMA`.
    """
    image, stem = photograph(scene, canvas), f"{rng.randrange(10**12):012d}"
    told: list[tuple[str, Turns]] = [
        ("sharegpt4v", [("Describe the image.", describe(scene))]),
        ("vqa", _short_answers(scene, rng)),
        ("refcoco", _boxes(rng.choice(scene.things), canvas)),
        ("textvqa", _reading(scene, rng)),
    ]
    rows = [_row(turns, source, f"{stem}-{source}", image) for source, turns in told if turns]
    if rng.random() < TEXT_ONLY_SHARE:
        rows.append(_row([("How many sides has a square?", "Four.")], "sharegpt", f"{stem}-text", None))
    return rows
