"""LLaVA's conversations → exchanges of the training mixture.

A turn of a person and the answer after it are one exchange. `<image>` is taken out of the prompt: the
harness places the visual tokens itself. The kind is decided by the answer alone, in this order:

    box        one `[a, b, c, d]` of numbers 0-1 and nothing else
    choice     a single letter, with or without a full stop
    describe   more than 40 words
    short      at most three words
    open       anything else
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from harness.datasets.padded_boxes import is_box

LONG_WORDS, SHORT_WORDS = 40, 3
_LETTER = re.compile(r"[A-Z]\.?")
_PLACE = re.compile(r"\s*<image>\s*")


def kind_of(answer: str) -> str:
    """The kind of an exchange.

    >>> [kind_of(a) for a in ("[0.1, 0.2, 0.55, 1.0]", "B", "two dogs", "A dog and a cat sleep.")]
    ['box', 'choice', 'short', 'open']
    """
    if is_box(answer):
        return "box"
    if _LETTER.fullmatch(answer):
        return "choice"
    words = len(answer.split())
    if words > LONG_WORDS:
        return "describe"
    return "short" if words <= SHORT_WORDS else "open"


def exchanges_of(turns: Sequence[Mapping[str, str] | None]) -> tuple[list[dict[str, str]], int]:
    """Exchanges of one conversation, and how many of its turns found no partner or said nothing."""
    exchanges, used, asked = [], 0, ""
    for turn in turns:
        if turn is None:
            continue
        text = (turn["value"] or "").strip()
        if turn["from"] in {"human", "user"}:
            asked = _PLACE.sub("\n", text).strip()
        elif asked and text:
            exchanges.append({"kind": kind_of(text), "prompt": asked, "answer": text})
            used, asked = used + 2, ""
    return exchanges, len(turns) - used
