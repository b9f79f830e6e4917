"""What a check finds, as records: the JSON of `eyechart check --json` and the schema in docs/schemas."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["pass", "regression", "inconclusive", "not-comparable", "incomplete"]
CHECK_SCHEMA_VERSION = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskVerdict:
    """One task of a check. Numbers are fractions, candidate minus baseline; null where nothing compares."""

    task: str
    importance: Literal["gating", "advisory"]
    verdict: Verdict
    margin: float
    """Largest true loss that the policy accepts."""
    reason: str
    """Why, in one sentence."""
    needs: str = ""
    """Inconclusive: how many seeds or samples would settle it if the difference stayed as it is."""
    baseline: float | None = None
    """Mean score over seeds and samples."""
    candidate: float | None = None
    difference: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    p: float | None = None
    """Two-sided, of no difference."""
    p_regression: float | None = None
    """One-sided, of a true loss no larger than the margin, by Holm over the gating tasks."""
    real_but_tolerated: bool = False
    """The loss is real and within the margin."""
    only_candidate: int | None = None
    """Samples that the candidate gets right and the baseline does not."""
    only_baseline: int | None = None
    num_samples: int | None = None
    num_clusters: int | None = None
    seeds_candidate: int | None = None
    seeds_baseline: int | None = None
    seeds_unknown: bool | None = None
    """True where one seed a side and no other encoder's leave the training noise out of the interval."""
    detectable: float | None = None
    """Smallest true difference that such a comparison finds in 80 of 100 repetitions."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SideSummary:
    """Which bundles stand on one side."""

    protocol: str
    encoder: str
    tier: str
    bundles: tuple[str, ...]
    """Bundle digests, sorted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckReport:
    """The verdict of a check and everything it rests on."""

    verdict: Verdict
    exit_code: int
    strict: bool
    """Whether inconclusive counts as failure, by --strict or by the policy."""
    level: float
    """Coverage of the intervals: 1 − (1 − the policy's level) / the looks it declares."""
    policy_digest: str
    baseline: SideSummary
    candidate: SideSummary
    tasks: tuple[TaskVerdict, ...]
    """None where the baseline's own bundles cannot be made a side; a note says why."""
    notes: tuple[str, ...] = ()
    seed_noise: str = ""
    """Where the training noise in the intervals comes from, in one sentence; "": nothing was compared."""
    schema_version: int = CHECK_SCHEMA_VERSION
