"""Scenes and clips of the procedural world as photographs come: larger, not square, JPEG or mp4.

A scene of 64 x 64 px is doubled and laid somewhere on a larger canvas, so that letterboxing, squashing and
boxes in pixels all matter. Nothing else is drawn: every answer of the embedded world still holds.
"""

from __future__ import annotations

import io
import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from harness.mini.clips import NUM_FRAMES, Clip, encode_frames, render_frame
from harness.mini.world import SIDE, Scene, draw_background, render

SCALE = 2
MARGINS = (16, 40, 96)
"""Width and height exceed the scene's by one of these each, never by the same: no picture is square."""
FRAME_RATES = (8, 12, 15)
HOLDS = (2, 3, 4)
"""How many frames of the file show one frame of the clip."""
_JPEG_QUALITY = 92

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Canvas:
    """Where a scene lies on its picture, px."""

    width: int
    height: int
    left: int
    top: int
    background: int

    def lay(self, scene: Pixels) -> Pixels:
        """(height, width, 3) picture with the (64, 64, 3) scene on it."""
        ground = Image.fromarray(draw_background(self.background))
        picture = np.array(ground.resize((self.width, self.height), Image.Resampling.BILINEAR))
        side = SIDE * SCALE
        doubled = scene.repeat(SCALE, axis=0).repeat(SCALE, axis=1)
        picture[self.top : self.top + side, self.left : self.left + side] = doubled
        return picture

    def box_px(self, box: Sequence[float]) -> tuple[float, float, float, float]:
        """x, y, width and height in pixels of the picture, of an xyxy box in 0-1 of the scene."""
        x1, y1, x2, y2 = (value * SIDE * SCALE for value in box)
        return self.left + x1, self.top + y1, x2 - x1, y2 - y1

    def box(self, box: Sequence[float]) -> tuple[float, float, float, float]:
        """The same box as xyxy in 0-1 of the picture."""
        x, y, w, h = self.box_px(box)
        return x / self.width, y / self.height, (x + w) / self.width, (y + h) / self.height


def choose_canvas(rng: random.Random) -> Canvas:
    """A canvas that is wider than high, or higher than wide, by chance; sides are even."""
    across, down = rng.sample(MARGINS, 2)
    side = SIDE * SCALE
    left, top = rng.randrange(across + 1), rng.randrange(down + 1)
    return Canvas(side + across, side + down, left, top, rng.randrange(2**31))


def encode_jpeg(pixels: Pixels) -> bytes:
    """JPEG bytes of an RGB picture."""
    target = io.BytesIO()
    Image.fromarray(pixels).save(target, "JPEG", quality=_JPEG_QUALITY)
    return target.getvalue()


def photograph(scene: Scene, canvas: Canvas) -> bytes:
    """The scene on its canvas, as JPEG bytes."""
    return encode_jpeg(canvas.lay(render(scene)))


def film(clip: Clip, canvas: Canvas, rng: random.Random) -> tuple[bytes, int]:
    """The clip on its canvas as mp4 bytes, and how many frames it has; each is held for some frames."""
    hold = rng.choice(HOLDS)
    shown = [canvas.lay(render_frame(clip, i)) for i in range(NUM_FRAMES)]
    frames = [picture for picture in shown for _ in range(hold)]
    return encode_frames(frames, rng.choice(FRAME_RATES)), len(frames)
