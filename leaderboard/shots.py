"""How a sample's picture and references stand on a page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from leaderboard.boxes import Box
from leaderboard.sample_records import PackSample, Picture
from leaderboard.sample_views import Shot

STILL_SIDE, BOXED_SIDE, FRAME_SIDE = 144, 208, 76
"""Px at which a picture's longer side, the same under boxes, or a strip's height is shown."""
STRIP = 2
"""Width over height from which a picture is a strip of frames."""


def media_href(picture: Picture) -> str:
    """Where a picture lies, from the site's top."""
    return f"media/{picture.name}"


def counted(references: Sequence[str]) -> tuple[str, ...]:
    """References each once, in their order, with how often where that is more than once: "red (7)"."""
    return tuple(f"{text} ({n})" if n > 1 else text for text, n in Counter(references).items())


def shot(told: PackSample | None, sample_id: str, boxes: tuple[Box, ...] = ()) -> Shot | None:
    """How a sample's picture is shown; None where there is none."""
    picture = told.picture if told else None
    if picture is None:
        return None
    strip = picture.width >= STRIP * picture.height
    side = BOXED_SIDE if boxes else STILL_SIDE
    scale = FRAME_SIDE / picture.height if strip else side / max(picture.width, picture.height)
    what = "Frames of the clip, first to last from the left" if strip else "Picture"
    return Shot(
        href=media_href(picture),
        width=round(picture.width * scale),
        height=round(picture.height * scale),
        alt=f"{what} of sample {sample_id}",
        boxes=boxes,
    )
