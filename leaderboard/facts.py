"""What the site knows: the index and the declared pairs, as plain records. Nothing is composed here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.ledger import Attempt, Tombstone
from harness.pair_facts import Network, PairFact
from harness.pairs import Pair
from harness.records import Metric, Protocol, Submission, Task
from harness.variance import SeedPool
from leaderboard.sample_records import FlipSet, PackSample

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

    @property
    def doctor(self) -> tuple[str, ...]:
        """(day of a later look or "", verdict, codes of findings …); empty where no report was kept."""
        for place in (self.receipt, self.environment):
            found = place.get("doctor")
            if isinstance(found, Mapping):
                codes = found.get("findings")
                listed = map(str, codes) if isinstance(codes, list) else ()
                return (str(found.get("examined", "")), str(found.get("verdict", "")), *listed)
        return ()


@dataclass(frozen=True, kw_only=True)
class ScoreTable:
    """Scores of one complete cell."""

    sample_ids: tuple[str, ...]
    clusters: NDArray[Any]
    """(samples,)"""
    scores: NDArray[np.float64]
    """(seeds, samples), fractions."""


def _letter(number: int) -> str:
    before = _letter(number // 26 - 1) if number >= 26 else ""
    return before + chr(ord("a") + number % 26)


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where an encoder may stand on a task, over all ranked encoders at once."""

    low: int
    """Best place that the data leave open, 1 is first."""
    high: int
    groups: tuple[int, ...]
    """Tie groups it belongs to, numbered from the top."""
    num_ranked: int

    @property
    def letters(self) -> str:
        """The groups as letters, the first a: a compact letter display."""
        return "".join(_letter(group - 1) for group in self.groups)


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """How far the probe's order is a task's order, and who stands the other way round."""

    protocol: str
    probe: str
    task: str
    num_encoders: int
    correlation: float | None
    """Spearman's; None with too few encoders or no spread."""
    low: float | None
    high: float | None
    flips: tuple[tuple[str, str], ...]
    """(ahead by the probe, ahead on the task), both proven."""


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
    pair_facts: Mapping[tuple[str, str], tuple[PairFact, ...]] = field(default_factory=dict)
    """Pair -> every declared aspect with what the records themselves say of it."""
    places: Mapping[CellKey, Place] = field(default_factory=dict)
    """Places of ranked encoders; no floors and no self-reported rows."""
    agreements: tuple[Agreement, ...] = ()
    under_budget: frozenset[str] = frozenset()
    """Encoders whose grid gives fewer visual tokens than a protocol allows."""
    faults: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Encoder -> what the doctor found and somebody measured all the same."""
    networks: Mapping[str, Network] = field(default_factory=dict)
    """Encoder -> what its runs recorded of the network."""
    attempts: Mapping[str, Attempt] = field(default_factory=dict)
    """Encoder -> what was tried before it was submitted, as declared."""
    tombstones: tuple[Tombstone, ...] = ()
    flips: Mapping[tuple[str, str, str, str], FlipSet] = field(default_factory=dict)
    """(protocol, task, a, b) -> flips of a declared pair whose both arms are complete there."""
    samples: Mapping[tuple[str, str], Mapping[str, PackSample]] = field(default_factory=dict)
    """(protocol, task) -> what its pack tells of the samples on pages; no entry: no pack is at hand."""
    local_media: bool = False
    """True for a site that shows what licences forbid, and says so on every page."""

    @property
    def contradictions(self) -> Mapping[tuple[str, str], tuple[str, ...]]:
        """Pair -> declared aspects that the records contradict; such a pair is shown and not pooled."""
        wrong = {
            pair: tuple(f.aspect for f in found if f.contradicted) for pair, found in self.pair_facts.items()
        }
        return {pair: aspects for pair, aspects in wrong.items() if aspects}
