"""Short clips of the procedural world: two objects, each moving straight or not at all.

The clip world wraps around: what leaves on one side enters on the other. Start positions are uniform and
independent of the direction, so the distribution of any single frame is the same for every answer: one
frame cannot do better than chance, by construction rather than by care.
"""

from __future__ import annotations

import io
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from harness.mini.world import (
    COLORS,
    PATTERNS,
    SHAPES,
    SIDE,
    SIZES,
    Split,
    Thing,
    draw_background,
    draw_thing,
    split_of,
)
from harness.seeds import derive_seed

NUM_FRAMES = 8
SPEED = 4
"""Pixels a frame."""
FPS = 8
SHOWN_FRAMES = (1, 3, 5, 7)
"""Of NUM_FRAMES, those that the mini protocol shows: the centre of each quarter."""
MOVES = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1), "nowhere": (0, 0)}


@dataclass(frozen=True, slots=True)
class Mover:
    """An object and its direction; `thing` is where it is in frame 0."""

    thing: Thing
    move: str

    def at(self, frame: int) -> Thing:
        """Where the object is in a frame, wrapped."""
        dx, dy = MOVES[self.move]
        x = (self.thing.x + dx * SPEED * frame) % SIDE
        y = (self.thing.y + dy * SPEED * frame) % SIDE
        return replace(self.thing, x=x, y=y)


@dataclass(frozen=True, slots=True)
class Clip:
    """Two movers, the later one drawn on top, and the background's seed.

    Exercises of the language model may have one mover only.
    """

    movers: tuple[Mover, ...]
    background: int


def sample_clips(split: Split, count: int, seed: int) -> list[Clip]:
    """The first `count` clips of a split; no arrangement occurs in two splits."""
    rng = random.Random(derive_seed("mini-clip", split, seed))
    clips: list[Clip] = []
    while len(clips) < count:
        looks = rng.sample([(s, c) for s in SHAPES for c in COLORS], 2)
        things = [
            Thing(rng.randrange(SIDE), rng.randrange(SIDE), rng.choice(SIZES), s, c, rng.choice(PATTERNS))
            for s, c in looks
        ]
        first, second = (Mover(thing, rng.choice(list(MOVES))) for thing in things)
        if split_of((first, second)) == split:
            clips.append(Clip((first, second), rng.randrange(2**31)))
    return clips


def render_frame(clip: Clip, frame: int) -> NDArray[np.uint8]:
    """(64, 64, 3) uint8 RGB picture of one frame."""
    canvas = draw_background(clip.background)
    for mover in clip.movers:
        draw_thing(canvas, mover.at(frame))
    return canvas


def encode_mp4(clip: Clip) -> bytes:
    """The clip as an MPEG-4 mp4 of NUM_FRAMES frames at FPS; the same clip gives the same bytes."""
    return encode_frames([render_frame(clip, i) for i in range(NUM_FRAMES)], FPS)


def encode_frames(pictures: Sequence[NDArray[np.uint8]], rate: int) -> bytes:
    """Pictures of one even size as an MPEG-4 mp4; the same pictures give the same bytes.

    Args:
        pictures: (H, W, 3) uint8 RGB each.
        rate: frames a second.
    """
    import av

    target = io.BytesIO()
    with av.open(target, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.options = {"qscale": "2", "b": "4M"}
        # One thread and no encoder banner: the bytes must not depend on the machine.
        stream.codec_context.thread_count = 1
        # Key frames only: a predicted frame carries a trail of where its object came from, and one frame
        # would then tell the direction.
        stream.codec_context.gop_size = 1
        stream.codec_context.flags |= av.codec.context.Flags.bitexact
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return target.getvalue()
