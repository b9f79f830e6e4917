"""Proof of the mini language model: what it answers from a perfect text of scenes it never saw.

Without it every encoder would look blind. The engine, prompts and parsing are those of a run; only the
visual tokens are sums of word embeddings instead of an adapter's output.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from harness.adapter.llm import LanguageModel
from harness.engines.base import Request
from harness.engines.hf import HFEngine
from harness.mini.clips import SHOWN_FRAMES, sample_clips
from harness.mini.language import STILL_KINDS, ask, ask_clip, clip_map, text_map
from harness.mini.textmap import embed_maps, encode_maps
from harness.mini.world import sample_scenes
from harness.prompts import LETTERS
from harness.seeds import derive_seed

NEEDED = {"rec": 0.90, "video": 0.90}
DEFAULT_NEEDED = 0.95
"""Share of right answers each kind must reach; boxes count from IoU 0.5. Of clips less is asked, since two
objects in one cell of a frame leave a sum of their words that belongs to neither."""


@dataclass(frozen=True, slots=True)
class Shares:
    """Right answers of one kind."""

    kind: str
    asked: int
    right: int

    @property
    def share(self) -> float:
        """0-1."""
        return self.right / self.asked

    @property
    def enough(self) -> bool:
        """It reaches what is needed."""
        return self.share >= NEEDED.get(self.kind, DEFAULT_NEEDED)


def overlap(a: Sequence[float], b: Sequence[float]) -> float:
    """Intersection over union of two xyxy boxes."""
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    inner = width * height
    outer = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inner
    return inner / outer if outer > 0 else 0.0


def _is_right(answer: str, reference: str, box: Sequence[float] | None) -> bool:
    if box is None:
        return answer == reference
    try:
        numbers = [float(v) for v in answer.strip("[]").split(",")]
    except ValueError:
        return False
    return len(numbers) == 4 and overlap(numbers, box) >= 0.5


def prove(llm: LanguageModel, num_scenes: int = 1000, batch: int = 128) -> list[Shares]:
    """Shares of right answers on dev scenes and clips, one row a kind."""
    scenes = sample_scenes("dev", num_scenes, seed=201)
    rng = random.Random(derive_seed("mini-proof"))
    maps = encode_maps(llm, [text_map(s) for s in scenes])
    rows = []
    for kind in STILL_KINDS:
        asked = [(i, q) for i, s in enumerate(scenes) if (q := ask(s, kind, rng)) is not None]
        texts = _answer(llm, maps, [Request(i, q.prompt, (), 32) for i, q in asked], batch)
        right = sum(_is_right(t, q.answer, q.box) for t, (_, q) in zip(texts, asked, strict=True))
        rows.append(Shares(kind, len(asked), right))
    clips = sample_clips("dev", num_scenes, seed=202)
    choices = [ask_clip(c, rng) for c in clips]
    clip_maps = encode_maps(llm, [clip_map(c, SHOWN_FRAMES) for c in clips])
    texts = _answer(llm, clip_maps, [Request(i, q.prompt, LETTERS, 1) for i, q in enumerate(choices)], batch)
    right = sum(t == LETTERS[q.answer] for t, q in zip(texts, choices, strict=True))
    return [*rows, Shares("video", len(clips), right)]


def _answer(llm: LanguageModel, maps: torch.Tensor, requests: list[Request], batch: int) -> list[str]:
    def visual(rows: Sequence[int]) -> torch.Tensor:
        return embed_maps(llm, maps[list(rows)])

    return HFEngine(llm, batch).answer(requests, visual)
