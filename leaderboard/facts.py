"""What the site knows: the index and the declared pairs, as plain records. Nothing is composed here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.pairs import Pair
from harness.records import Metric, Protocol, Submission, Task
from harness.variance import SeedPool

CellKey = tuple[str, str, str]
"""protocol, encoder, task."""


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """One run as the index has it."""

    run_key: str
    bundle_digest: str
    protocol: str
    encoder: str
    task: str
    seed: int
    value: float | None
    """Mean over samples; None where a sample is in error or missing."""
    num_expected: int
    num_scored: int
    num_unparsed: int
    num_error: int
    num_missing: int
    tier: str = ""
    inputs: Mapping[str, str] = field(default_factory=dict)
    """Task, dataset, scorer and recipe digests, engine, dtype, LLM revision."""
    receipt: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    costs: Mapping[str, float] = field(default_factory=dict)
    """Stage -> seconds."""


@dataclass(frozen=True, kw_only=True)
class ScoreTable:
    """Scores of one complete cell."""

    sample_ids: tuple[str, ...]
    clusters: NDArray[Any]
    """(samples,)"""
    scores: NDArray[np.float64]
    """(seeds, samples), fractions."""


@dataclass(frozen=True, kw_only=True)
class RankRange:
    """The places of a cell that the data leave open, 1 the best."""

    low: int
    high: int
    num_ranked: int


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Everything the pages are composed from."""

    metrics: Mapping[CellKey, Metric]
    submissions: Mapping[str, Submission]
    runs: tuple[RunFacts, ...]
    scores: Mapping[CellKey, ScoreTable]
    """Complete cells only."""
    seed_pools: Mapping[tuple[str, str], SeedPool]
    """(protocol, task) -> seed variance pooled over its encoders without the floors, as the index used it."""
    chances: Mapping[tuple[str, str], float]
    """(protocol, task) -> chance level, as the runs recorded it."""
    tasks: Mapping[str, Task]
    """Definitions of tasks that have one; a task in the index may lack it."""
    suites: Mapping[str, str]
    """Protocol -> suite."""
    protocols: Mapping[str, Protocol]
    """Recipes of protocols that this installation knows."""
    pairs: tuple[Pair, ...]
    set_aside: tuple[tuple[str, str], ...]
    """(path, reason) of bundles that are kept and do not count."""
    index_digest: str
    """sha256 over the digests of the bundles that count."""
    contradictions: Mapping[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)
    """Pair -> declared aspects that the records contradict; such a pair is shown and not pooled."""
    ranks: Mapping[CellKey, RankRange] = field(default_factory=dict)
    """Ranked cells only: floors and self-reported rows have no place."""
