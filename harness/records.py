"""Frozen records that cross stages. Torch-free; fractions are 0-1; durations `_s`; sizes `_bytes`.

A record is what rests on disk between two stages. `docs/format.md` describes each file and column;
the JSON schemas under `docs/schemas/` are generated from these classes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from harness.recipes import (
    AdapterRecipe,
    DecodingRecipe,
    ImageRecipe,
    LLMRecipe,
    ProbeRecipe,
    TokenRecipe,
    VideoRecipe,
)

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
TIERS: tuple[Tier, ...] = get_args(Tier)
"""Most to least trusted."""
SELF_REPORTED: Tier = "self-reported"

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
