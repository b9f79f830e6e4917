"""Train one adapter, and the language model along with it where the protocol says so, for one seed.

An adapter is trained once per (encoder, recipe, seed) and shared by all tasks. Every step's batch depends
on (seed, step) only and the state is saved now and then, so a killed run continues to the same bytes.
One torch thread: sums must not depend on how many cores there are.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from harness.adapter.data import Exchange, encode_exchange, pack, packed_logits, weighted_loss
from harness.adapter.llm import LanguageModel
from harness.adapter.module import Adapter
from harness.adapter.optim import build_optimisers, load_training, save_training, set_progress
from harness.errors import DatasetError, InternalError
from harness.features import FeatureSet
from harness.records import AdapterRecipe
from harness.seeds import derive_seed

SAVE_EVERY = 50
ADAM_LR = 2e-3
"""For the adapter's biases, gain and position vectors; its matrices use the recipe's rate."""
LLM_ADAM_SHARE = 0.1
"""AdamW rate of the LLM's embeddings and norms, as a share of its matrices' rate."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Mixture:
    """Training images and clips with what is said about them."""

    stills: FeatureSet
    still_exchanges: list[list[dict[str, str]]]
    clips: NDArray[Any]
    """(n, F, N, D) tokens of each clip's frames."""
    clip_exchanges: list[list[dict[str, str]]]


@dataclass(frozen=True, slots=True)
class TrainedAdapter:
    """What training leaves."""

    adapter: Adapter
    llm: LanguageModel
    losses: list[float]
    """Mean loss of each SAVE_EVERY steps."""


def new_adapter(llm: LanguageModel, mixture: Mixture, recipe: AdapterRecipe, seed: int) -> Adapter:
    """A freshly initialised adapter, standardised on the mixture's tokens."""
    tokens = mixture.stills.tokens
    torch.manual_seed(derive_seed("adapter-init", seed) % 2**31)
    adapter = Adapter(tokens.shape[-1], tokens.shape[1], mixture.clips.shape[1], recipe, llm)
    adapter.standardise(torch.from_numpy(np.asarray(tokens)))
    return adapter


def _choose(exchanges: Sequence[dict[str, str]], count: int, rng: random.Random) -> list[dict[str, str]]:
    """The description, where there is one, and `count` questions, of as many kinds as there are."""
    chosen = [e for e in exchanges if e["kind"] == "describe"]
    asked = rng.sample(others := [e for e in exchanges if e["kind"] != "describe"], len(others))
    # A stable sort: first one question of each kind, then the second ones, each in random order.
    turn = {id(e): sum(o["kind"] == e["kind"] for o in asked[:i]) for i, e in enumerate(asked)}
    return chosen + sorted(asked, key=lambda e: turn[id(e)])[:count]


class _Batches:
    """The batch of each step."""

    def __init__(self, llm: LanguageModel, mixture: Mixture, recipe: AdapterRecipe, seed: int) -> None:
        self._llm, self._mixture, self._recipe, self._seed = llm, mixture, recipe, seed
        self._encoded: dict[tuple[str, str], Exchange] = {}
        # Clips come at evenly spaced steps: a share of 0.25 is every fourth.
        self._every = round(1 / recipe.video_share) if recipe.video_share else 0

    def __call__(self, step: int) -> tuple[Tensor, list[list[Exchange]]]:
        rng = random.Random(derive_seed("adapter-batch", self._seed, step))
        if self._every and step % self._every == self._every - 1:
            tokens, known = self._mixture.clips, self._mixture.clip_exchanges
        else:
            tokens, known = self._mixture.stills.tokens, self._mixture.still_exchanges
        rows = rng.sample(range(len(tokens)), self._recipe.batch)
        said = [_choose(known[i], self._recipe.questions_per_image, rng) for i in rows]
        exchanges = [[self._encode(e["prompt"], e["answer"]) for e in row] for row in said]
        return torch.from_numpy(np.asarray(tokens[rows])).float(), exchanges

    def _encode(self, prompt: str, answer: str) -> Exchange:
        key = prompt, answer
        if key not in self._encoded:
            self._encoded[key] = encode_exchange(self._llm, prompt, answer)
        return self._encoded[key]


def train_adapter(
    llm: LanguageModel,
    mixture: Mixture,
    recipe: AdapterRecipe,
    llm_lr: float,
    seed: int,
    *,
    state: Path,
    progress: Progress | None = None,
) -> TrainedAdapter:
    """Train; `llm` is changed in place when `llm_lr` > 0.

    Args:
        llm: freshly loaded.
        mixture: features and texts.
        recipe: steps, batch, rates.
        llm_lr: learning rate of the LLM's matrices, 0 = frozen.
        seed: names initial weights and order.
        state: file for the state of an unfinished run.
        progress: called with (steps done, steps in all).

    Raises:
        DatasetError: the mixture is smaller than a batch.
        InternalError: the loss is not finite.
    """
    if min(len(mixture.stills.tokens), len(mixture.clips)) < recipe.batch:
        raise DatasetError("training mixture is smaller than a batch", expected=f"at least {recipe.batch}")
    adapter = new_adapter(llm, mixture, recipe, seed)
    llm.model.requires_grad_(llm_lr > 0)
    modules: dict[str, nn.Module] = {"adapter": adapter, "llm": llm.model}
    optimisers = build_optimisers({"adapter": adapter}, recipe.lr, ADAM_LR)
    if llm_lr > 0:
        optimisers += build_optimisers({"llm": llm.model}, llm_lr, llm_lr * LLM_ADAM_SHARE)
    first, losses = load_training(state, modules, optimisers)
    parameters = [p for module in modules.values() for p in module.parameters() if p.requires_grad]
    batches, opening, recent = _Batches(llm, mixture, recipe, seed), llm.encode_prompt("").prefix, []
    for step in range(first, recipe.steps):
        set_progress(optimisers, step, recipe.steps, recipe.warmup_steps)
        tokens, exchanges = batches(step)
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.dtype == "bfloat16"):
            visual = adapter(tokens)
            rows = pack(exchanges, len(opening) + visual.shape[1])
            logits, labels = packed_logits(llm, visual, opening, rows)
        loss = weighted_loss(logits, labels, exchanges, recipe.length_power)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimiser in optimisers:
            optimiser.step()
            optimiser.zero_grad()
        recent.append(float(loss.detach()))
        if not np.isfinite(recent[-1]):
            raise InternalError("training diverged", found=f"loss {recent[-1]} at step {step}")
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == recipe.steps:
            losses.append(round(float(np.mean(recent)), 5))
            recent = []
            save_training(state, modules, optimisers, step + 1, losses)
        if progress:
            progress(step + 1, recipe.steps)
    return TrainedAdapter(adapter.eval(), llm, losses)
