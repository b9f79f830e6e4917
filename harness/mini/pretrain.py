"""Pre-train one arm of the mini zoo: same architecture, start, images and order; only the loss differs.

Arms: label-classification (class of the dominant object), caption-word-classification (the words of
two captions as a multi-label target), sigmoid-contrastive (SigLIP, arXiv 2303.15343, eq. 1) and
softmax-contrastive (CLIP, arXiv 2103.00020, fig. 3), both against the same two captions. Pairs of an
image and another image's caption that happen to be true are left out of both contrastive losses.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from harness.adapter.optim import build_optimisers, load_training, save_training, set_progress
from harness.bfloat16 import bfloat16_products
from harness.files import write_atomic
from harness.mini import captions
from harness.mini.signprobe import SignProbe
from harness.mini.world import NUM_CLASSES, Scene, class_of, render, sample_scenes
from harness.mini.zoo import WIDTH, build_encoder, to_input
from harness.seeds import derive_seed, numpy_generator

ARMS = (
    "label-classification",
    "caption-word-classification",
    "sigmoid-contrastive",
    "softmax-contrastive",
)
POOL = 120_000
BATCH = 256
STEPS = 800
WARMUP = 100
MUON_LR, ADAM_LR = 0.02, 2e-3
CAPTIONS_PER_IMAGE = 2
EMBEDDING = 128
LOG_EVERY = 50
SAVE_EVERY = 200


@dataclass(frozen=True, slots=True)
class Pool:
    """The images every arm sees."""

    scenes: list[Scene]
    pixels: NDArray[np.uint8]
    """(POOL, 64, 64, 3), memory-mapped."""


def open_pool(folder: Path, count: int = POOL) -> Pool:
    """Training scenes and their pixels, rendered once into `folder` and shared by all arms."""
    scenes = sample_scenes("train", count, seed=0)
    path = folder / f"pool-{count}.npy"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(f".{random.SystemRandom().randrange(10**9)}.npy")
        pixels = np.lib.format.open_memmap(draft, "w+", np.uint8, (count, 64, 64, 3))
        for i, scene in enumerate(scenes):
            pixels[i] = render(scene)
        pixels.flush()
        draft.rename(path)
    return Pool(scenes, np.load(path, mmap_mode="r"))


class TextTower(nn.Module):
    """One transformer layer over caption words, mean pooled. Thrown away after pre-training."""

    def __init__(self) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(len(captions.VOCABULARY), EMBEDDING, padding_idx=0)
        self.position = nn.Parameter(torch.randn(48, EMBEDDING) * 0.02)
        self.layer = nn.TransformerEncoderLayer(
            EMBEDDING, 4, 4 * EMBEDDING, dropout=0.0, batch_first=True, norm_first=True, activation="gelu"
        )
        self.norm = nn.LayerNorm(EMBEDDING)

    def forward(self, words: Tensor) -> Tensor:
        """(n, L) int64, 0 = padding -> (n, EMBEDDING)."""
        padding = words == 0
        hidden = self.embed_tokens(words) + self.position[: words.shape[1]]
        # The fused kernel's backward pass takes a quarter of a step at these sizes on a CPU.
        with sdpa_kernel(SDPBackend.MATH):
            hidden = self.norm(self.layer(hidden, src_key_padding_mask=padding))
        keep = (~padding).unsqueeze(-1).to(hidden.dtype)
        pooled: Tensor = (hidden * keep).sum(1) / keep.sum(1)
        return pooled


class Batch:
    """Images of one step and, drawn from the step's own generator, their captions."""

    def __init__(self, pool: Pool, facts: NDArray[np.bool_], seed: int, step: int) -> None:
        order = numpy_generator("mini-pretrain-order", seed, step)
        self.rows = np.sort(order.choice(len(pool.scenes), BATCH, replace=False))
        self.pixels = to_input(pool.pixels[self.rows])
        rng = random.Random(derive_seed("mini-pretrain-captions", seed, step))
        scenes = [pool.scenes[i] for i in self.rows]
        self.captions = [
            captions.write_caption(scene, rng) for _ in range(CAPTIONS_PER_IMAGE) for scene in scenes
        ]
        self._facts = facts

    def words(self) -> Tensor:
        """(CAPTIONS_PER_IMAGE * BATCH, L) int64, zero padded; image i owns rows i, i + BATCH."""
        longest = max(len(c.words) for c in self.captions)
        return torch.tensor([c.words + [0] * (longest - len(c.words)) for c in self.captions])

    def word_targets(self) -> Tensor:
        """(BATCH, V) share of the image's captions that use each word."""
        target = torch.zeros(BATCH, len(captions.VOCABULARY))
        for j, caption in enumerate(self.captions):
            target[j % BATCH, sorted(set(caption.words))] += 1 / CAPTIONS_PER_IMAGE
        return target

    def truth(self) -> Tensor:
        """(BATCH, CAPTIONS_PER_IMAGE * BATCH) bool: every fact of the caption holds for the image."""
        stated = np.zeros((len(self.captions), captions.NUM_FACTS), np.float32)
        for row, caption in zip(stated, self.captions, strict=True):
            row[caption.facts] = 1
        held = torch.from_numpy(self._facts[self.rows].astype(np.float32)).bfloat16()
        return (held @ torch.from_numpy(stated).bfloat16().T).float() >= torch.from_numpy(stated.sum(1)) - 0.5


Loss = Callable[[Tensor, Batch], tuple[Tensor, float]]


def _label_loss(heads: nn.ModuleDict, pool: Pool) -> Loss:
    """Softmax cross-entropy over the 144 classes; the gauge is accuracy in the batch."""
    heads["classes"] = nn.Linear(WIDTH, NUM_CLASSES)
    labels = torch.tensor([class_of(s) for s in pool.scenes])

    def loss(pooled: Tensor, batch: Batch) -> tuple[Tensor, float]:
        logits, target = heads["classes"](pooled).float(), labels[batch.rows]
        return functional.cross_entropy(logits, target), (logits.argmax(1) == target).float().mean().item()

    return loss


def _word_loss(heads: nn.ModuleDict, pool: Pool) -> Loss:
    """Binary cross-entropy over the caption vocabulary; the gauge is precision of the likeliest words."""
    rng = random.Random(derive_seed("mini-word-prior"))
    counts = torch.zeros(len(captions.VOCABULARY))
    for scene in pool.scenes[:4000]:
        counts[sorted(set(captions.write_caption(scene, rng).words))] += 1
    heads["words"] = head = nn.Linear(WIDTH, len(captions.VOCABULARY))
    # The bias starts at each word's own log-odds, so the first steps need not learn the prior.
    head.bias.data = torch.logit(((counts + 0.1) / 4000.2).clamp(1e-4, 0.999))
    used = counts > 0

    def loss(pooled: Tensor, batch: Batch) -> tuple[Tensor, float]:
        logits, target = head(pooled).float(), batch.word_targets()
        each = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
        best = logits.topk(3, 1).indices
        return each[:, used].sum(1).mean(), (target.gather(1, best) > 0).float().mean().item()

    return loss


def _contrastive_loss(heads: nn.ModuleDict, *, sigmoid: bool) -> Loss:
    """SigLIP or CLIP loss; the gauge is text-to-image accuracy in the batch."""
    heads["text"] = TextTower()
    heads["image_out"], heads["text_out"] = nn.Linear(WIDTH, EMBEDDING), nn.Linear(EMBEDDING, EMBEDDING)
    scale = nn.Parameter(torch.tensor([2.3, -6.0 if sigmoid else 0.0]))
    heads["text"].register_parameter("scale", scale)
    own = torch.eye(BATCH, dtype=torch.bool).repeat(1, CAPTIONS_PER_IMAGE)
    target = torch.arange(BATCH)

    def loss(pooled: Tensor, batch: Batch) -> tuple[Tensor, float]:
        image = functional.normalize(heads["image_out"](pooled).float(), dim=-1)
        text = functional.normalize(heads["text_out"](heads["text"](batch.words())).float(), dim=-1)
        also_true = batch.truth() & ~own
        logits = image @ text.T * scale[0].exp() + (scale[1] if sigmoid else 0.0)
        masked = logits.masked_fill(also_true, -1e9)
        if sigmoid:
            each = functional.logsigmoid(torch.where(own, logits, -logits)) * (~also_true)
            value = -each.sum() / (BATCH * CAPTIONS_PER_IMAGE)
        else:
            halves = masked.split(BATCH, 1)
            terms = [
                functional.cross_entropy(h, target) + functional.cross_entropy(h.T, target) for h in halves
            ]
            value = torch.stack(terms).mean() / 2
        hits = masked.argmax(0) == target.repeat(CAPTIONS_PER_IMAGE)
        return value, hits.float().mean().item()

    return loss


def build_loss(arm: str, heads: nn.ModuleDict, pool: Pool) -> Loss:
    """The loss of an arm; what it learns beside the encoder goes into `heads`."""
    if arm == "label-classification":
        return _label_loss(heads, pool)
    if arm == "caption-word-classification":
        return _word_loss(heads, pool)
    return _contrastive_loss(heads, sigmoid=arm == "sigmoid-contrastive")


def train_arm(arch: str, arm: str, seed: int, pool: Pool, work: Path, steps: int = STEPS) -> Path:
    """Train one encoder; returns the folder with config.json, model.safetensors (fp16), curve.json.

    Killed at any moment it continues from the last checkpoint; batches and captions depend on
    (seed, step) only, so the result is that of an uninterrupted run.
    """
    torch.manual_seed(derive_seed("mini-encoder", arch, seed) % 2**31)
    encoder = build_encoder(arch).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    heads = nn.ModuleDict()
    torch.manual_seed(derive_seed("mini-head", arm, seed) % 2**31)
    loss_of = build_loss(arm, heads, pool)
    modules: dict[str, nn.Module] = {"encoder": encoder, "heads": heads}
    optimisers = build_optimisers(modules, MUON_LR, ADAM_LR)
    work.mkdir(parents=True, exist_ok=True)
    state, curve_file = work / "training.safetensors", work / "curve.json"
    first, _ = load_training(state, modules, optimisers)
    curve = json.loads(curve_file.read_text())[: first // LOG_EVERY] if first else []
    facts = captions.facts_of(pool.scenes)
    gauge, seen, started = SignProbe(), [], time.monotonic()
    for step in range(first, steps):
        set_progress(optimisers, step, steps, WARMUP)
        value, hit = _train_step(encoder, loss_of, Batch(pool, facts, seed, step), optimisers)
        seen.append((value, hit))
        if (step + 1) % LOG_EVERY == 0:
            row: dict[str, float] = {"step": step + 1, "images": (step + 1) * BATCH}
            row |= dict(
                zip(("loss", "batch_accuracy"), np.mean(seen[-LOG_EVERY:], 0).round(4).tolist(), strict=True)
            )
            if (step + 1) % SAVE_EVERY == 0:
                row |= gauge.measure(encoder)
            curve.append(row)
            rate = (step + 1 - first) * BATCH / (time.monotonic() - started)
            print(f"{arch} {arm} seed {seed} {json.dumps(row)} {rate:.0f} img/s", flush=True)
        if (step + 1) % SAVE_EVERY == 0:
            write_atomic(curve_file, json.dumps(curve, indent=1).encode() + b"\n")
            save_training(state, modules, optimisers, step + 1)
    encoder.half().save_pretrained(work)
    return work


def _train_step(
    encoder: nn.Module, loss_of: Loss, batch: Batch, optimisers: list[torch.optim.Optimizer]
) -> tuple[float, float]:
    """One update; returns the loss and the gauge."""
    with bfloat16_products():
        with torch.autocast("cpu", torch.bfloat16):
            pooled = encoder(batch.pixels).last_hidden_state.mean((2, 3))
            value, hit = loss_of(pooled, batch)
        value.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(encoder.parameters(), 2.0)
    for optimiser in optimisers:
        optimiser.step()
        optimiser.zero_grad()
    return float(value.detach()), hit
