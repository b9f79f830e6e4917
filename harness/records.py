"""Frozen records that cross stages. Torch-free; fractions are 0-1; durations `_s`; sizes `_bytes`.

A record is what rests on disk between two stages. `docs/format.md` describes each file and column;
the JSON schemas under `docs/schemas/` are generated from these classes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from harness.digest import ADDED_LATER

SCHEMA_VERSION = 1
"""Version of every file format in docs/format.md; bumped when a reader must change."""

SourceKind = Literal["transformers", "timm", "open_clip", "local", "python", "floor"]
FloorKind = Literal["blind", "shuffled-image", "random-init", "pixel-patches"]
Objective = Literal[
    "softmax-contrastive",
    "sigmoid-contrastive",
    "label-classification",
    "caption-word-classification",
    "cluster-classification",
    "captioning",
    "self-supervised",
    "distilled",
    "none",
]
Side = Literal["classification", "contrastive", "other", "floor"]
TaskKind = Literal["probe", "generate", "choice"]
Status = Literal["scored", "unparsed", "error", "missing"]
Tier = Literal["re-run", "re-scored", "self-reported"]
STATUSES: tuple[Status, ...] = get_args(Status)

SIDE_OF_OBJECTIVE: dict[str, Side] = {
    "softmax-contrastive": "contrastive",
    "sigmoid-contrastive": "contrastive",
    "label-classification": "classification",
    "caption-word-classification": "classification",
    "cluster-classification": "classification",
    "captioning": "other",
    "self-supervised": "other",
    "distilled": "other",
    "none": "floor",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightFile:
    """One file of a checkpoint, relative to the manifest's folder."""

    path: str
    """POSIX path below the manifest's folder; `..` and absolute paths are refused."""
    sha256: str
    """64 hex digits over the file's bytes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """Where an encoder comes from. Part of the identity."""

    kind: SourceKind
    name: str
    """Architecture name in its library (`resnet`, `pvt_v2`), or the floor's name for kind = floor."""
    revision: str
    """40 hex digits for a hub checkpoint, "local" for files beside the manifest."""
    files: tuple[WeightFile, ...]
    """Configuration and weights, each with its hash; empty only for floors without weights."""


@dataclass(frozen=True, kw_only=True, slots=True)
class InputSpec:
    """Native input of the encoder. Part of the identity."""

    resolution: int
    """Native side in pixels."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainStage:
    """One stage of pretraining history. Annotation: may be edited without changing identity."""

    objective: Objective
    data: str
    images_seen: int
    init_from: str = ""
    locked: Literal["none", "image", "text"] = "none"


@dataclass(frozen=True, kw_only=True, slots=True)
class Submission:
    """An encoder as submitted. `identity_digest` covers source and input only."""

    id: str
    """Lower-case slug, `[a-z0-9][a-z0-9-]{1,62}`; names the folder under results/<protocol>/."""
    title: str
    authors: tuple[str, ...]
    links: tuple[str, ...]
    license: str
    contamination: str
    """The submitter's pledge: "none known", or what overlaps."""
    source: Source
    input: InputSpec
    pretraining: tuple[PretrainStage, ...]
    architecture: str = ""
    """Free text for the page, e.g. "ResNet, 1.9 M"."""
    floor: FloorKind | None = None
    """Set for floors only."""
    base: str = ""
    """For floor = shuffled-image or random-init: id of the encoder it is derived from."""
    identity_digest: str = ""
    """sha256 of the canonical JSON of `source` and `input`."""

    @property
    def family(self) -> str:
        """Objective of the last stage that trained the image side; `none` for floors."""
        if self.floor is not None:
            return "none"
        trained = [s for s in self.pretraining if s.locked != "image"]
        return trained[-1].objective if trained else "none"

    @property
    def side(self) -> Side:
        """classification, contrastive, other, or floor."""
        return "floor" if self.floor is not None else SIDE_OF_OBJECTIVE[self.family]


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


@dataclass(frozen=True, kw_only=True, slots=True)
class Protocol:
    """Everything that can move a number and is not the encoder."""

    name: str
    version: int
    suite: str
    description: str
    seeds: tuple[int, ...]
    tasks: tuple[str, ...]
    image: ImageRecipe
    tokens: TokenRecipe
    video: VideoRecipe
    llm: LLMRecipe
    adapter: AdapterRecipe
    probe: ProbeRecipe
    decoding: DecodingRecipe
    recipe_digests: dict[str, str] = field(default_factory=dict)
    """feature, probe, adapter, decoding -> sha256 of the canonical JSON of the sections each covers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """One question set, as its YAML says it. Read without lmms-eval."""

    name: str
    """Starts with `eyechart_`: on a clash lmms-eval's built-in silently wins."""
    title: str
    description: str
    suite: str
    kind: TaskKind
    version: int
    split: str
    metric: str
    """Primary metric, a key that the scorer returns, 0-1, higher is better."""
    scorer: str
    """Dotted name of the lmms-eval function that scores, or "harness.probe" for probes."""
    chance: float
    cluster_key: str
    """Column of the split that names the cluster (image or video id)."""
    num_expected: int
    dataset: str
    """Folder of the dataset below the suite's data root."""
    dataset_digest: str
    """sha256 the suite writer prints for this dataset; a different one is a DatasetError."""
    max_new_tokens: int
    gating_margin: float
    digest: str = ""
    """sha256 of the canonical JSON of the YAML."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One question about one image or clip."""

    sample_id: str
    cluster: str
    media: tuple[str, ...]
    """Row keys of the images (one) or frames (several) in the feature set."""
    prompt: str
    references: tuple[str, ...]
    options: tuple[str, ...] = ()
    """Letters of a multiple choice, empty otherwise."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What the model said, before anyone judged it."""

    sample_id: str
    prompt_hash: str
    """First 16 hex digits of sha256 over the prompt's UTF-8 bytes."""
    answer: str
    status: Literal["scored", "error", "missing"]
    """`scored` here means "ready to be scored"."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """One judged sample; `score` is null for error and missing."""

    sample_id: str
    cluster: str
    score: float | None
    status: Status


@dataclass(frozen=True, kw_only=True, slots=True)
class Counts:
    """Accounting of one run."""

    num_expected: int
    num_scored: int
    num_unparsed: int
    num_error: int
    num_missing: int

    def balanced(self) -> bool:
        """True when every expected sample has exactly one status."""
        parts = self.num_scored + self.num_unparsed + self.num_error + self.num_missing
        return parts == self.num_expected


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """Inputs of one (encoder, protocol, task, seed). `run_key` hashes all of it but counts."""

    submission: Submission
    protocol: str
    protocol_version: int
    suite: str
    recipes: dict[str, str]
    task: str
    task_digest: str
    dataset_digest: str
    split: str
    metric: str
    chance: float
    seed: int
    engine: str
    dtype: str
    llm_revision: str
    counts: Counts
    schema_version: int = SCHEMA_VERSION
    tier: Tier = "re-run"


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """One cell of the leaderboard view."""

    protocol: str
    encoder: str
    family: str
    side: Side
    task: str
    split: str
    metric: str
    value: float | None
    ci_low: float | None
    ci_high: float | None
    num_seeds: int
    num_expected: int
    num_scored: int
    num_unparsed: int
    num_error: int
    num_missing: int
    tier: Tier
