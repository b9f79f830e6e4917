"""Boxes that answers name, as the strict parser of the RefCOCO tasks reads them, laid over a picture."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from harness.records import Task

Corners = tuple[float, float, float, float]
"""x1, y1, x2, y2, fractions of the picture."""

_NUMBER = re.compile(r"\s*\d{1,3}(?:\.\d{1,20})?\s*", re.ASCII)
_GROUP = re.compile(r"\[([^\[\]]*)\]")
_NUM_CORNERS = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Box:
    """A rectangle on a picture; `kind` is whose: "reference", "a" or "b"."""

    kind: str
    label: str
    """Letter beside the first box of a kind; empty for its others."""
    x: str
    y: str
    width: str
    height: str
    """Per cent of the picture."""
    label_x: str
    label_y: str
    """Per cent; the corner that the kind's letter stands at."""


def answers_boxes(task: Task | None) -> bool:
    """Whether a task's answers and references are boxes."""
    return task is not None and "refcoco_bbox_rec" in task.scorer


def read_box(text: str) -> Corners | None:
    """The only `[x1, y1, x2, y2]` in a text, with all four in 0-1 and an area; else None."""
    groups = [group.split(",") for group in _GROUP.findall(text)]
    boxes = [group for group in groups if len(group) == _NUM_CORNERS]
    if len(boxes) != 1 or not all(_NUMBER.fullmatch(part) for part in boxes[0]):
        return None
    x1, y1, x2, y2 = (float(part) for part in boxes[0])
    return (x1, y1, x2, y2) if 0 <= x1 < x2 <= 1 and 0 <= y1 < y2 <= 1 else None


def lay_out(references: Sequence[str], said_a: Sequence[str], said_b: Sequence[str]) -> tuple[Box, ...]:
    """Boxes of the reference and of both arms' answers, each distinct one once; what is no box is left out.

    Args:
        references: of the sample.
        said_a: answers of the first arm, a seed each.
        said_b: of the second.
    """
    found: list[Box] = []
    for kind, letter, texts in (("reference", "R", references), ("a", "A", said_a), ("b", "B", said_b)):
        corners = dict.fromkeys(c for text in texts if (c := read_box(text)) is not None)
        found += [_box(kind, "" if i else letter, c) for i, c in enumerate(corners)]
    return tuple(found)


def _box(kind: str, label: str, corners: Corners) -> Box:
    x1, y1, x2, y2 = corners
    # Each kind has a corner of its own, so that letters of boxes that agree do not cover each other.
    label_x, label_y = {"reference": (x1, y1), "a": (x2, y1), "b": (x1, y2)}[kind]
    return Box(
        kind=kind,
        label=label,
        x=_per_cent(x1),
        y=_per_cent(y1),
        width=_per_cent(x2 - x1),
        height=_per_cent(y2 - y1),
        label_x=_per_cent(label_x),
        label_y=_per_cent(label_y),
    )


def _per_cent(value: float) -> str:
    return f"{100 * value:.2f}%"
