"""The training mixture and the batch of each step, which depends on (seed, stage, step) only."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol as Interface

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from harness.adapter.data import Exchange, encode_exchange
from harness.adapter.llm import LanguageModel
from harness.adapter.packing import fit_exchanges
from harness.recipes import AdapterRecipe
from harness.seeds import derive_seed, numpy_generator

Said = list[dict[str, str]]
"""Exchanges about one image or clip: kind, prompt, answer."""


class TokenSource(Interface):
    """Visual tokens by row: held in memory, or encoded when they are asked for."""

    @property
    def keys(self) -> list[str]:
        """Unique name of each row."""

    def tokens_of(self, rows: Sequence[int]) -> NDArray[Any]:
        """(b, N, D) tokens of some rows, in their order."""


@dataclass(frozen=True, slots=True)
class Mixture:
    """Training images and clips with what is said about them."""

    stills: TokenSource
    still_exchanges: list[Said]
    clips: NDArray[Any]
    """(n, F, N, D) tokens of each clip's frames."""
    clip_exchanges: list[Said]


def choose(exchanges: Sequence[dict[str, str]], count: int, rng: random.Random) -> Said:
    """The description, where there is one, and `count` questions, of as many kinds as there are."""
    chosen = [e for e in exchanges if e["kind"] == "describe"]
    asked = rng.sample(others := [e for e in exchanges if e["kind"] != "describe"], len(others))
    # A stable sort: first one question of each kind, then the second ones, each in random order.
    turn = {id(e): sum(o["kind"] == e["kind"] for o in asked[:i]) for i, e in enumerate(asked)}
    return chosen + sorted(asked, key=lambda e: turn[id(e)])[:count]


class Batches:
    """The batch of each step of one stage.

    Args:
        llm: tokenises.
        mixture: what there is.
        recipe: questions an image, share of clips, order.
        batch: rows of a step.
        seed: of the run.
        stage: number of the stage.
    """

    def __init__(
        self,
        llm: LanguageModel,
        mixture: Mixture,
        recipe: AdapterRecipe,
        batch: int,
        seed: int,
        stage: int = 0,
    ) -> None:
        self._llm, self._mixture, self._recipe = llm, mixture, recipe
        # The first stage's names are those of the record, from before there were stages.
        self._batch, self._names = batch, (seed, stage) if stage else (seed,)
        self._encoded: dict[tuple[str, str], Exchange] = {}
        self._orders: dict[tuple[bool, int], NDArray[np.int64]] = {}
        self._opening = len(llm.encode_prompt("").prefix)
        # Clips come at evenly spaced steps: a share of 0.25 is every fourth.
        self._every = round(1 / recipe.video_share) if recipe.video_share else 0

    def __call__(self, step: int) -> tuple[Tensor, list[list[Exchange]]]:
        """Visual tokens (B, N, D) or (B, F, N, D) float32 on the CPU, and the exchanges of each row."""
        rng = random.Random(derive_seed("adapter-batch", *self._names, step))
        is_clips = bool(self._every) and step % self._every == self._every - 1
        mixture = self._mixture
        known = mixture.clip_exchanges if is_clips else mixture.still_exchanges
        rows = self._rows(step, len(known), rng, is_clips=is_clips)
        said = [choose(known[i], self._recipe.questions_per_image, rng) for i in rows]
        exchanges = [[self._encode(e["prompt"], e["answer"]) for e in row] for row in said]
        tokens = np.asarray(mixture.clips[rows] if is_clips else mixture.stills.tokens_of(rows))
        if capacity := self._recipe.pack_tokens:
            prefix = self._opening + int(np.prod(tokens.shape[1:-1]))
            exchanges = [fit_exchanges(row, prefix, capacity) for row in exchanges]
        return torch.from_numpy(tokens).float(), exchanges

    def _rows(self, step: int, count: int, rng: random.Random, *, is_clips: bool) -> list[int]:
        if self._recipe.order == "draws":
            return rng.sample(range(count), self._batch)
        # Steps of the same kind before this one; every row is seen once before any is seen twice.
        of_clips = (step + 1) // self._every if self._every else 0
        turn = of_clips - 1 if is_clips else step - of_clips
        return [
            int(self._order(place // count, count, is_clips=is_clips)[place % count])
            for place in range(turn * self._batch, (turn + 1) * self._batch)
        ]

    def _order(self, epoch: int, count: int, *, is_clips: bool) -> NDArray[np.int64]:
        key = is_clips, epoch
        if key not in self._orders:
            self._orders = {k: v for k, v in self._orders.items() if k[1] >= epoch - 1}
            drawn = numpy_generator("adapter-order", *self._names, int(is_clips), epoch)
            self._orders[key] = drawn.permutation(count)
        return self._orders[key]

    def _encode(self, prompt: str, answer: str) -> Exchange:
        key = prompt, answer
        if key not in self._encoded:
            self._encoded[key] = encode_exchange(self._llm, prompt, answer)
        return self._encoded[key]
