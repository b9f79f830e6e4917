"""Train one adapter, and the language model along with it where the protocol says so, for one seed.

An adapter is trained once per (encoder, recipe, seed) and shared by all tasks. Every step's batch depends
on (seed, stage, step) only and the state is saved now and then, so a killed run continues to the same
bytes. On a CPU one torch thread: sums must not depend on how many cores there are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from harness.adapter.data import Exchange, pack, packed_logits, weighted_loss
from harness.adapter.llm import LanguageModel
from harness.adapter.lora import LowRank
from harness.adapter.mixture import Batches, Mixture
from harness.adapter.module import Adapter
from harness.adapter.optim import build_optimisers, load_training, save_training, set_progress
from harness.adapter.packing import (
    answer_weights,
    fill_bins,
    lay_out,
    row_tokens,
    sequence_logits,
    summed_loss,
)
from harness.adapter.row_attention import rows_apart
from harness.bfloat16 import bfloat16_products
from harness.device import steady_sums
from harness.encoders.base import exact_float32
from harness.errors import DatasetError, InternalError
from harness.recipes import AdapterRecipe, StageRecipe
from harness.seeds import derive_seed

SAVE_EVERY = 50
ADAM_LR = 2e-3
"""For the adapter's biases, gain and position vectors beside Muon; its matrices use the recipe's rate."""
LLM_ADAM_SHARE = 0.1
"""AdamW rate of the LLM's embeddings and norms, as a share of its matrices' rate."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class TrainedAdapter:
    """What training leaves."""

    adapter: Adapter
    llm: LanguageModel
    losses: list[float]
    """Mean loss of each SAVE_EVERY steps."""
    updates: list[list[Tensor]] = field(default_factory=list)
    """Low-rank updates of each later stage, which are merged into `llm` already."""


def new_adapter(
    llm: LanguageModel, mixture: Mixture, recipe: AdapterRecipe, seed: int, num_frames: int = 0
) -> Adapter:
    """A freshly initialised adapter, standardised on the mixture's tokens.

    Args:
        num_frames: frames of a clip; those of the mixture's clips where it is 0.
    """
    rows = len(mixture.stills.keys)
    seen = min(rows, recipe.standardise_images or rows)
    # Evenly spread, so that a mixture in order of its sources gives some of each.
    tokens = mixture.stills.tokens_of([i * rows // seen for i in range(seen)])
    torch.manual_seed(derive_seed("adapter-init", seed) % 2**31)
    adapter = Adapter(tokens.shape[-1], tokens.shape[1], num_frames or mixture.clips.shape[1], recipe, llm)
    adapter.standardise(torch.from_numpy(np.asarray(tokens)))
    return adapter.to(llm.device)


def state_file(state: Path, stage: int) -> Path:
    """Where a stage's state rests; the first stage's is `state` itself."""
    return state.with_name(f"{state.stem}-stage{stage + 1}{state.suffix}") if stage else state


def train_adapter(
    llm: LanguageModel,
    mixture: Mixture,
    recipe: AdapterRecipe,
    llm_lr: float,
    seed: int,
    *,
    state: Path,
    num_frames: int = 0,
    progress: Progress | None = None,
) -> TrainedAdapter:
    """Train all stages; `llm` is changed in place when `llm_lr` > 0.

    Args:
        llm: freshly loaded.
        mixture: features and texts.
        recipe: steps, batch, rates, later stages.
        llm_lr: learning rate of the LLM's matrices, or of their low-rank updates; 0 = frozen.
        seed: names initial weights and order.
        state: file for the state of an unfinished run; later stages have theirs beside it.
        num_frames: frames of a clip at evaluation, where the mixture has no clips.
        progress: called with (steps done, steps in all).

    Raises:
        DatasetError: the mixture is smaller than a batch.
        InternalError: the loss is not finite.
    """
    _refuse_small(mixture, recipe)
    adapter = new_adapter(llm, mixture, recipe, seed, num_frames)
    losses: list[float] = []
    updates: list[list[Tensor]] = []
    before = 0
    stages: list[AdapterRecipe | StageRecipe] = [recipe, *recipe.stages]
    for number, stage in enumerate(stages):
        whole = llm_lr > 0 and not recipe.stages
        llm.model.requires_grad_(whole)
        low_rank = None
        if isinstance(stage, StageRecipe):
            low_rank = LowRank(llm, stage.lora_rank, stage.lora_alpha, seed, number).to(llm.device)
        trainer = _Trainer(llm, adapter, mixture, recipe, stage, number, seed)
        trainer.take(llm_lr, low_rank, whole=whole)

        def report(done: int, base: int = before) -> None:
            if progress:
                progress(base + done, recipe.total_steps)

        kind = llm.device.type
        by_rows = rows_apart(llm, wanted=kind != "cpu" and recipe.pack_tokens > 0)
        with steady_sums(kind), exact_float32(), bfloat16_products(kind), by_rows:
            losses += trainer.run(state_file(state, number), report)
        before += stage.steps
        if low_rank is not None:
            updates.append([p.detach().cpu().clone() for p in low_rank.updates])
            low_rank.merge()
    return TrainedAdapter(adapter.eval(), llm, losses, updates)


def _refuse_small(mixture: Mixture, recipe: AdapterRecipe) -> None:
    batch = max(recipe.batch, *(stage.batch for stage in recipe.stages), 1)
    rows = [len(mixture.stills.keys)] + ([len(mixture.clips)] if recipe.video_share else [])
    if min(rows) < batch:
        raise DatasetError(
            "training mixture is smaller than a batch", found=f"{min(rows)}", expected=f"at least {batch}"
        )


class _Trainer:
    """One stage."""

    def __init__(
        self,
        llm: LanguageModel,
        adapter: Adapter,
        mixture: Mixture,
        recipe: AdapterRecipe,
        stage: AdapterRecipe | StageRecipe,
        number: int,
        seed: int,
    ) -> None:
        self._llm, self._adapter, self._recipe, self._stage = llm, adapter, recipe, stage
        self._batches = Batches(llm, mixture, recipe, stage.batch, seed, number)
        self._opening = llm.encode_prompt("").prefix
        self._modules: dict[str, nn.Module] = {"adapter": adapter}
        self._optimisers: list[torch.optim.Optimizer] = []

    def take(self, llm_lr: float, low_rank: LowRank | None, *, whole: bool) -> None:
        """What is trained: the adapter, and the whole LLM or its updates."""
        kind, lr = self._recipe.optimiser, self._stage.lr
        others = ADAM_LR if kind == "muon" else lr
        self._optimisers = build_optimisers({"adapter": self._adapter}, lr, others, kind)
        if whole:
            self._modules["llm"] = self._llm.model
            self._optimisers += build_optimisers(
                {"llm": self._llm.model}, llm_lr, llm_lr * LLM_ADAM_SHARE, kind
            )
        if low_rank is not None:
            self._modules["updates"] = low_rank
            # Never Muon: orthogonal factors would fix the size of an update that starts at zero.
            self._optimisers += build_optimisers({"updates": low_rank}, llm_lr, llm_lr, "adamw")

    def run(self, state: Path, report: Callable[[int], None]) -> list[float]:
        """Train from where the state file stands to the stage's end; mean losses of SAVE_EVERY steps."""
        stage = self._stage
        first, losses = load_training(state, self._modules, self._optimisers)
        parameters = [p for m in self._modules.values() for p in m.parameters() if p.requires_grad]
        recent: list[float] = []
        for step in range(first, stage.steps):
            set_progress(self._optimisers, step, stage.steps, stage.warmup_steps)
            recent.append(self._learn(*self._batches(step)))
            nn.utils.clip_grad_norm_(parameters, 1.0)
            for optimiser in self._optimisers:
                optimiser.step()
                optimiser.zero_grad()
            if not np.isfinite(recent[-1]):
                raise InternalError("training diverged", found=f"loss {recent[-1]} at step {step}")
            if (step + 1) % SAVE_EVERY == 0 or step + 1 == stage.steps:
                losses.append(round(float(np.mean(recent)), 5))
                recent = []
                save_training(state, self._modules, self._optimisers, step + 1, losses)
            report(step + 1)
        return losses

    def _learn(self, tokens: Tensor, exchanges: list[list[Exchange]]) -> float:
        """Gradients of one batch; returns its loss."""
        if self._recipe.pack_tokens:
            return self._learn_packed(tokens, exchanges)
        with self._autocast():
            visual = self._adapter(tokens.to(self._llm.device))
            rows = pack(exchanges, len(self._opening) + visual.shape[1])
            logits, labels = packed_logits(self._llm, visual, self._opening, rows)
        loss = weighted_loss(logits, labels, exchanges, self._recipe.length_power)
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    def _learn_packed(self, tokens: Tensor, exchanges: list[list[Exchange]]) -> float:
        """The same loss, one packed sequence after another: their number moves nothing but rounding."""
        recipe = self._recipe
        prefix = len(self._opening) + int(np.prod(tokens.shape[1:-1]))
        whole = float(answer_weights(exchanges, recipe.length_power).sum())
        bins = fill_bins([row_tokens(row, prefix) for row in exchanges], recipe.pack_tokens)
        total = 0.0
        for members in bins:
            rows: Sequence[list[Exchange]] = [exchanges[i] for i in members]
            with self._autocast():
                visual = self._adapter(tokens[members].to(self._llm.device))
                logits, labels = sequence_logits(self._llm, visual, self._opening, lay_out(rows, prefix))
            loss = summed_loss(logits, labels, answer_weights(rows, recipe.length_power)) / whole
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        return total

    def _autocast(self) -> torch.autocast:
        kind = self._llm.device.type
        return torch.autocast(kind, torch.bfloat16, enabled=self._recipe.dtype == "bfloat16")
