"""LLaVA's boxes, fractions of the picture padded to a square → fractions of the picture itself.

LLaVA pads the shorter side of a picture on both ends until it is a square, half of it (rounded down) before
the picture, and its box rows are fractions of that square, in two decimals (decision 0008). An exchange is
a box exchange when

    its answer is one `[x1, y1, x2, y2]` of 0-1 and nothing else (the kind `box`), or
    its prompt asks about a `region` and names it by one such box, the only one in the prompt

and only that box is rewritten. One that reaches into the padding by no more than LLaVA's rounding is cut at
the picture's edge; by more, its exchange is left out: such a box cannot be of the padded square.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from harness.prompts import format_box

ROUNDING = 0.01
"""Of the square's side: two decimals, and the whole pixel that the padding is rounded to."""
SUSPICIOUS = 0.05
"""A greater share of boxes in the padding than this says that a source's boxes are of something else."""
_NUMBER = r"\s*(0?\.\d+|[01](?:\.\d*)?)\s*"
BOX = re.compile(rf"\[{_NUMBER},{_NUMBER},{_NUMBER},{_NUMBER}\]")
_REGION = re.compile(r"\bregions?\b", re.IGNORECASE)

Box = tuple[float, float, float, float]


@dataclass(slots=True)
class BoxCount:
    """What became of the boxes of one source."""

    converted: int = 0
    cut: int = 0
    """Of those, boxes cut at the picture's edge."""
    in_padding: int = 0
    """Left out."""

    @property
    def suspicious(self) -> bool:
        """Whether so many reach into the padding that they may not be fractions of the padded square."""
        return self.in_padding > SUSPICIOUS * (self.converted + self.in_padding)


def is_box(text: str) -> bool:
    """Whether a text is one box and nothing else but a full stop."""
    match = BOX.fullmatch(text.removesuffix("."))
    return match is not None and all(float(value) <= 1 for value in match.groups())


def names_a_region(prompt: str) -> bool:
    """Whether a prompt asks about a region that one box names."""
    found = list(BOX.finditer(prompt))
    return (
        len(found) == 1
        and all(float(value) <= 1 for value in found[0].groups())
        and _REGION.search(prompt[: found[0].start()]) is not None
    )


def pad(box: Sequence[float], width: int, height: int) -> Box:
    """A box of the picture as LLaVA writes it: fractions of the padded square.

    >>> pad((0.0, 0.0, 1.0, 1.0), 200, 100)
    (0.0, 0.25, 1.0, 0.75)
    """
    (left, top), side = _offset(width, height), max(width, height)
    x1, y1, x2, y2 = box
    return (
        (x1 * width + left) / side,
        (y1 * height + top) / side,
        (x2 * width + left) / side,
        (y2 * height + top) / side,
    )


def unpad(box: Sequence[float], width: int, height: int) -> tuple[Box, bool] | None:
    """The box as fractions of the picture, and whether it was cut at an edge; None if it is in the padding.

    >>> unpad((0.0, 0.25, 1.0, 0.75), 200, 100)
    ((0.0, 0.0, 1.0, 1.0), False)
    >>> unpad((0.0, 0.0, 1.0, 0.5), 200, 100) is None
    True
    """
    (left, top), side = _offset(width, height), max(width, height)
    x1, y1, x2, y2 = box
    whole = (
        (x1 * side - left) / width,
        (y1 * side - top) / height,
        (x2 * side - left) / width,
        (y2 * side - top) / height,
    )
    beyond = [max(-value, value - 1) for value in whole]
    # An edge is a fraction of the square's side, so it weighs more along the picture's shorter side.
    if any(far * extent > ROUNDING * side for far, extent in zip(beyond, (width, height) * 2, strict=True)):
        return None
    x1, y1, x2, y2 = (min(1.0, max(0.0, value)) for value in whole)
    return (x1, y1, x2, y2), max(beyond) > 0


def _offset(width: int, height: int) -> tuple[int, int]:
    side = max(width, height)
    return (side - width) // 2, (side - height) // 2


def convert(exchange: dict[str, str], width: int, height: int, count: BoxCount) -> dict[str, str] | None:
    """An exchange with its box as fractions of the picture; others as they are.

    Args:
        exchange: kind, prompt and answer.
        width: of the picture, px.
        height: of the picture, px.
        count: where the box is counted.

    Returns:
        The exchange, or None where its box is in the padding.
    """
    fields = [name for name in ("prompt", "answer") if _has_box(exchange, name)]
    changed = dict(exchange)
    cut = False
    for name in fields:
        match = BOX.search(exchange[name])
        assert match is not None
        found = unpad([float(value) for value in match.groups()], width, height)
        if found is None:
            count.in_padding += 1
            return None
        box, was_cut = found
        cut |= was_cut
        changed[name] = exchange[name][: match.start()] + format_box(box) + exchange[name][match.end() :]
    if fields:
        count.converted += 1
        count.cut += cut
    return changed


def has_box(exchange: dict[str, str]) -> bool:
    """Whether it is a box exchange."""
    return any(_has_box(exchange, name) for name in ("prompt", "answer"))


def _has_box(exchange: dict[str, str], name: str) -> bool:
    return is_box(exchange["answer"]) if name == "answer" else names_a_region(exchange["prompt"])
