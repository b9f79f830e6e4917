"""Which runs make up which cell of the board.

Every verified bundle is kept in the store; not every one counts. A cell is (protocol, task, encoder); within
it one run a seed counts, and all cells of a column must have been measured under the same conditions. The
rules below look at what the runs are, never at what they scored, and choose the same in any order.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property

from harness.digest import digest_json
from harness.records import SELF_REPORTED, TIERS, Run, Submission

CONDITION_FIELDS = (
    "protocol_version",
    "suite",
    "recipes",
    "task_digest",
    "dataset_digest",
    "split",
    "metric",
    "dtype",
    "llm_revision",
)
"""Fields of Run that two encoders must share to stand in one column, beside the scorer and the samples."""

REFERENCE_ENGINE = "hf"
OTHER_ENCODER = "other weights or input under an id that most runs use for another encoder"
OTHER_VERSION = "an older version of the protocol"
OTHER_CONDITIONS = "other conditions (recipe, task, data, LLM or scorer) than most encoders of this task"
OTHER_RUN = "another run of this seed counts already"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One verified bundle, without its samples."""

    run: Run
    key: str
    """Run key."""
    digest: str
    """Bundle digest."""
    path: str
    scorer_digest: str
    samples_digest: str
    """sha256 over sample ids and clusters."""

    @property
    def complete(self) -> bool:
        """Every sample has a score: nothing blocks publication."""
        return self.run.counts.num_error == self.run.counts.num_missing == 0

    @cached_property
    def conditions(self) -> str:
        """sha256 over what must be equal for two encoders to be comparable on a task."""
        values = {name: getattr(self.run, name) for name in CONDITION_FIELDS}
        return digest_json({**values, "scorer": self.scorer_digest})

    @property
    def encoder(self) -> str:
        """Id of the submission."""
        return self.run.submission.id

    @property
    def cell(self) -> tuple[str, str, str]:
        """(protocol, task, encoder)."""
        return self.run.protocol, self.run.task, self.encoder

    @property
    def place(self) -> tuple[str, str, str, int, str]:
        """The order of entries everywhere: protocol, task, encoder, seed, bundle digest."""
        return *self.cell, self.run.seed, self.digest


def set_aside(entries: Sequence[Entry]) -> dict[str, str]:
    """Bundles that do not count, with the reason, by bundle digest.

    In this order: (1) an id means the encoder that most of its runs used; (2) of a protocol's versions the
    newest counts; (3) of a task's conditions those under which most encoders were measured; (4) of the runs
    of one seed a complete one before an incomplete one, then the most trusted tier, then the reference
    engine's, so that no cell mixes engines without need, then the one with the smallest bundle digest. Ties
    go to the smallest digest. Nothing is deleted: see the table `runs`.
    """
    reasons: dict[str, str] = {}
    rules: list[tuple[str, Callable[[Sequence[Entry]], list[Entry]]]] = [
        (OTHER_ENCODER, lambda left: _majority(left, lambda e: e.encoder, _identity, lambda e: e.digest)),
        (OTHER_VERSION, _newest_version),
        (
            OTHER_CONDITIONS,
            lambda left: _majority(left, _column, lambda e: e.conditions, lambda e: e.encoder),
        ),
        (OTHER_RUN, _one_a_seed),
    ]
    left = sorted(entries, key=lambda e: e.place)
    for reason, rule in rules:
        kept = rule(left)
        held = {entry.digest for entry in kept}
        reasons.update({entry.digest: reason for entry in left if entry.digest not in held})
        left = kept
    return reasons


def submissions(entries: Sequence[Entry]) -> list[Submission]:
    """One submission an encoder id, sorted by id: of differing annotations those that most runs carry."""
    mine = _majority(entries, lambda e: e.encoder, _identity, lambda e: e.digest)
    chosen = _majority(mine, lambda e: e.encoder, lambda e: digest_json(e.run.submission), lambda e: e.digest)
    return [entry.run.submission for _, entry in sorted({e.encoder: e for e in chosen}.items())]


def _column(entry: Entry) -> tuple[str, str]:
    return entry.run.protocol, entry.run.task


def _identity(entry: Entry) -> str:
    submission = entry.run.submission
    return digest_json([submission.identity_digest, submission.floor, submission.base])


def _newest_version(entries: Sequence[Entry]) -> list[Entry]:
    newest: dict[str, int] = {}
    for entry in _trusted(entries, lambda e: e.run.protocol):
        newest[entry.run.protocol] = max(entry.run.protocol_version, newest.get(entry.run.protocol, 0))
    return [entry for entry in entries if entry.run.protocol_version == newest[entry.run.protocol]]


def preference(run: Run, digest: str) -> tuple[bool, int, bool, str]:
    """The order in which runs of one seed are preferred, smallest first; see `set_aside`."""
    unscored = run.counts.num_error + run.counts.num_missing > 0
    return unscored, TIERS.index(run.tier), run.engine != REFERENCE_ENGINE, digest


def _one_a_seed(entries: Sequence[Entry]) -> list[Entry]:
    best: dict[Hashable, Entry] = {}
    for entry in sorted(entries, key=lambda e: preference(e.run, e.digest)):
        best.setdefault((entry.cell, entry.run.seed), entry)
    return sorted(best.values(), key=lambda e: e.place)


def _majority(
    entries: Sequence[Entry],
    group: Callable[[Entry], Hashable],
    trait: Callable[[Entry], str],
    voter: Callable[[Entry], Hashable],
) -> list[Entry]:
    """In each group the entries whose trait has most voters; the smallest trait wins a tie."""
    voters: dict[Hashable, dict[str, set[Hashable]]] = defaultdict(lambda: defaultdict(set))
    for entry in _trusted(entries, group):
        voters[group(entry)][trait(entry)].add(voter(entry))
    winner = {key: min((-len(who), name) for name, who in cast.items())[1] for key, cast in voters.items()}
    return [entry for entry in entries if trait(entry) == winner[group(entry)]]


def _trusted(entries: Sequence[Entry], group: Callable[[Entry], Hashable]) -> list[Entry]:
    """Of each group the runs that somebody else has seen; where there are none, all of it.

    What a stranger reports may join a board. It does not decide what the board is about.
    """
    seen = {group(entry) for entry in entries if entry.run.tier != SELF_REPORTED}
    return [e for e in entries if e.run.tier != SELF_REPORTED or group(e) not in seen]
