"""What a protocol fixes, section by section: frozen records, torch-free; docs/format.md has each key."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from harness.digest import ADDED_LATER


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageRecipe:
    """How a decoded RGB image becomes encoder input."""

    resize: Literal["squash", "shortest-side-centre-crop", "letterbox"]
    interpolation: Literal["bicubic", "bilinear"]
    resolution: int
    crop_fraction: float = field(default=1.0, metadata=ADDED_LATER)
    """The rule fills a side of resolution / crop_fraction, rounded down, and the centre is kept."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenRecipe:
    """Which features the LLM and the probe see."""

    layer: int
    """Counted from the end, 0 = last."""
    budget: int
    """Visual tokens an image, a square number; reached by 2-D average pooling, never upsampling."""
    pooled: Literal["mean"]
    """The probe's vector: mean over patch tokens."""
    dtype: Literal["float16", "float32"]
    """Storage type of cached tokens."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoRecipe:
    """Frames through the image encoder."""

    frames: int
    tokens_per_frame: int


@dataclass(frozen=True, kw_only=True, slots=True)
class LLMRecipe:
    """The common language model and how it is trained along."""

    name: str
    revision: str
    """sha256 over the model's files (see digest_tree), a 40-hex hub revision, or UNPINNED."""
    training: Literal["frozen", "full", "lora"]
    lr: float
    """Learning rate of the LLM's matrices (0 when frozen)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StageRecipe:
    """A later stage of adapter training, in which low-rank updates of the LLM are trained along."""

    steps: int
    batch: int
    lr: float
    """Rate of the adapter; the low-rank updates use `llm.lr`."""
    warmup_steps: int
    lora_rank: int
    lora_alpha: int
    """The update is scaled by alpha / rank."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AdapterRecipe:
    """The trained map from encoder width to LLM width."""

    kind: Literal["mlp", "linear"]
    depth: int
    width: int
    steps: int
    batch: int
    lr: float
    warmup_steps: int
    questions_per_image: int
    """Questions asked about an image or clip in a step beside its description, of as many kinds as it has."""
    length_power: float
    """A token of an answer of n tokens weighs n to minus this in the loss: 0 counts tokens, 1 answers."""
    video_share: float
    """Share of optimiser steps whose batch is clips, 0-1."""
    mixture: str
    """Name of the training mixture."""
    mixture_digest: str
    position_words: tuple[str, ...]
    """Words whose LLM embeddings start the vectors added to each visual token; empty starts at zero."""
    frame_words: tuple[str, ...]
    """The same for each frame of a clip."""
    dtype: Literal["float32", "bfloat16"]
    optimiser: Literal["muon", "adamw"] = field(default="muon", metadata=ADDED_LATER)
    """For matrices; vectors and embeddings use AdamW either way."""
    order: Literal["draws", "epochs"] = field(default="draws", metadata=ADDED_LATER)
    """Batches drawn anew at each step, or consecutive parts of a shuffled mixture, epoch after epoch."""
    pack_tokens: int = field(default=0, metadata=ADDED_LATER)
    """Tokens of one packed sequence of several rows without padding; 0 pads rows to the longest."""
    standardise_images: int = field(default=0, metadata=ADDED_LATER)
    """Mixture images that give mean and deviation of the tokens; 0 takes all."""
    places: Literal["learnt", "none"] = field(default="learnt", metadata=ADDED_LATER)
    """Whether a learnt vector is added for each token's place and each frame; LLaVA's projector has none."""
    stages: tuple[StageRecipe, ...] = field(default=(), metadata=ADDED_LATER)
    """Stages after the first, which trains the adapter alone where there are any."""

    @property
    def total_steps(self) -> int:
        """Optimiser steps of all stages."""
        return self.steps + sum(stage.steps for stage in self.stages)


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeRecipe:
    """Multinomial logistic regression on standardised pooled features; λ cross-fitted."""

    lambdas: tuple[float, ...]
    """Ridge strengths on the mean log-loss, tried largest first with warm starts."""
    max_iter: int
    tolerance: float
    folds: int
    """Parts of the test split; each is scored with the λ chosen on the others."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodingRecipe:
    """Greedy decoding; choices are decoded over the option letters only."""

    dtype: Literal["float32", "bfloat16"]
    max_new_tokens: int
    """Used where the task does not say."""
