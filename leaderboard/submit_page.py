"""How a person with a checkpoint gets a row.

Steps and rules, in the template, are those of CONTRIBUTING.md and docs/verification.md. The two files shown
are constants here; the tests hand them to their readers, and every command to the command line's parser.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from harness.records import SIDE_OF_OBJECTIVE, TIERS, Tier
from leaderboard.kit import Kit

ID = "my-vit-b16"
"""The example encoder of the page."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One line of a file shown."""

    text: str
    yours: bool = False
    """Whether a person writes it; the others are written by `eyechart submit`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TierRow:
    """A tier in words."""

    tier: Tier
    means: str
    by: str


# Both hashes are made up and look it: whoever copies the example meets a hash that is not his file's.
_MANIFEST = f"""
  schema = 1
* id = "{ID}"
* title = "My ViT-B/16, trained on captions"
* authors = ["A. Person"]
* links = ["https://example.org/my-vit"]
* license = "Apache-2.0"
* contamination = "none known"
  architecture = "vit_base_patch16_224, 85.8 M parameters"

  [source]
  kind = "local"
  name = "vit_base_patch16_224"
  revision = "local"

  [[source.files]]
  path = "config.json"
  sha256 = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

  [[source.files]]
  path = "model.safetensors"
  sha256 = "fedcba9876543210fedcba9876543210fedcba9876543210fedcba9876543210"

  [input]
  resolution = 224
  mean = [0.5, 0.5, 0.5]
  std = [0.5, 0.5, 0.5]

* [[pretraining]]
* objective = "sigmoid-contrastive"
* data = "200 million captioned photographs"
* images_seen = 3000000000
""".strip("\n").split("\n")
MANIFEST = tuple(Line(text=line[2:], yours=line.startswith("*")) for line in _MANIFEST)
ATTEMPT = f"""[[attempt]]
encoder = "{ID}"
checkpoints = 4
adapter_seeds = 3
runs = 33
declared_by = "A. Person"
date = "2026-11-27"
"""

_TIER_WORDS: dict[Tier, tuple[str, str]] = {
    "re-run": ("measured by the maintainers, from weights whose hashes the submission names", "maintainers"),
    "re-scored": ("the submitter's answers, scored by the maintainers", "maintainers"),
    "self-reported": ("the submitter's answers and scores; shown apart and never ranked", "anybody"),
}


def submit_pages(kit: Kit) -> Mapping[str, bytes]:
    """`submit.html`."""
    page = kit.page(
        "submit.html.j2",
        "submit.html",
        manifest=MANIFEST,
        num_yours=sum(line.yours for line in MANIFEST),
        attempt=ATTEMPT,
        tiers=tuple(TierRow(tier=t, means=_TIER_WORDS[t][0], by=_TIER_WORDS[t][1]) for t in TIERS),
        objectives=tuple((o, s) for o, s in SIDE_OF_OBJECTIVE.items() if s != "floor"),
        example=ID,
    )
    return {"submit.html": page}
