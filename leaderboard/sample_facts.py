"""Chooses the samples that pages show, and reads their answers from the index and their packs from disk."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import duckdb
import numpy as np

from harness.comparison import RIGHT
from harness.digest import digest_bytes
from leaderboard.comparisons import Comparisons
from leaderboard.facts import Facts, ScoreTable
from leaderboard.packs import find_pack, read_pack
from leaderboard.sample_records import Flip, FlipSet, PackSample, Saying
from leaderboard.task_samples import difficulty

SHOWN_EACH = 48
"""Flips of a pair on a task that the site shows, each way."""

PairKey = tuple[str, str, str, str]
"""protocol, task, a, b."""
CellTask = tuple[str, str]
"""protocol, task."""
Sayings = Mapping[tuple[str, str], tuple[Saying, ...]]
"""(encoder, sample id) -> answers in the order of the seeds."""


def with_samples(
    connection: duckdb.DuckDBPyConnection, facts: Facts, datasets: Path | None, *, local: bool
) -> Facts:
    """The facts with the flips of the declared pairs and what packs tell of the samples on pages.

    Args:
        connection: to the index.
        facts: with scores and pairs.
        datasets: folder with a folder a suite, for the packs; None for none.
        local: show what licences forbid, too, for a person's own eyes.

    Raises:
        IntegrityError: a pack is damaged.
    """
    chosen = _choose(facts)
    by_task: dict[CellTask, dict[PairKey, FlipSet]] = defaultdict(dict)
    for key, found in chosen.items():
        by_task[key[:2]][key] = found
    flips: dict[PairKey, FlipSet] = {}
    for (protocol, task), sets in by_task.items():
        said = _read_sayings(connection, protocol, task, sets)
        flips |= {key: _answered(found, key, said) for key, found in sets.items()}
    samples = _told(connection, facts, flips, datasets, local=local) if datasets else {}
    return replace(facts, flips=flips, samples=samples, local_media=local)


def _choose(facts: Facts) -> dict[PairKey, FlipSet]:
    """Flips of each declared pair on each task on which both arms are complete; without answers."""
    cells = sorted({(p, t) for p, _, t in facts.scores})
    found = {}
    for pair in facts.pairs:
        for protocol, task in cells:
            a, b = (facts.scores.get((protocol, e, task)) for e in (pair.a, pair.b))
            if a is not None and b is not None and a.sample_ids == b.sample_ids:
                found[protocol, task, pair.a, pair.b] = choose_flips(a, b)
    return found


def choose_flips(a: ScoreTable, b: ScoreTable) -> FlipSet:
    """Which samples flip, as the index's view `flips` has it, and the ones to show.

    Args:
        a: scores of one arm.
        b: of the other, on the same samples.
    """
    means = a.scores.mean(axis=0), b.scores.mean(axis=0)
    right = means[0] >= RIGHT, means[1] >= RIGHT
    size = np.abs(means[0] - means[1])

    def order(i: int) -> tuple[float, str, str]:
        # Means of equal scores may differ in the last bit: what is printed equal is a tie.
        return -round(float(size[i]), 9), lot(a.sample_ids[i]), a.sample_ids[i]

    shown: list[int] = []
    counts = []
    for mine, other in ((right[0], right[1]), (right[1], right[0])):
        flipped = np.flatnonzero(mine & ~other).tolist()
        counts.append(len(flipped))
        shown += sorted(flipped, key=order)[:SHOWN_EACH]
    return FlipSet(
        num_a=counts[0],
        num_b=counts[1],
        num_samples=len(a.sample_ids),
        shown=tuple(
            Flip(
                sample_id=a.sample_ids[i],
                cluster=str(a.clusters[i]),
                score_a=float(means[0][i]),
                score_b=float(means[1][i]),
                said_a=(),
                said_b=(),
            )
            for i in sorted(shown, key=order)
        ),
    )


def lot(sample_id: str) -> str:
    """What decides among equals: ids count up through a dataset, and its first samples are not all of it."""
    return digest_bytes(sample_id.encode())


def _read_sayings(
    connection: duckdb.DuckDBPyConnection, protocol: str, task: str, sets: Mapping[PairKey, FlipSet]
) -> Sayings:
    wanted = sorted(
        {(e, flip.sample_id) for key, found in sets.items() for flip in found.shown for e in key[2:]}
    )
    rows = connection.execute(
        "SELECT s.encoder, s.sample_id, s.seed, s.answer, s.score, s.status FROM samples AS s "
        "JOIN (SELECT unnest(?::VARCHAR[]) AS encoder, unnest(?::VARCHAR[]) AS sample_id) "
        "USING (encoder, sample_id) "
        "WHERE s.protocol = ? AND s.task = ? ORDER BY s.encoder, s.sample_id, s.seed",
        [[e for e, _ in wanted], [i for _, i in wanted], protocol, task],
    ).fetchall()
    said: dict[tuple[str, str], list[Saying]] = defaultdict(list)
    for encoder, sample_id, seed, answer, score, status in rows:
        said[encoder, sample_id].append(Saying(seed=seed, answer=answer, score=score, status=status))
    return {key: tuple(found) for key, found in said.items()}


def _answered(found: FlipSet, key: PairKey, said: Sayings) -> FlipSet:
    _, _, a, b = key
    shown = (
        replace(f, said_a=said.get((a, f.sample_id), ()), said_b=said.get((b, f.sample_id), ()))
        for f in found.shown
    )
    return replace(found, shown=tuple(shown))


def _told(
    connection: duckdb.DuckDBPyConnection,
    facts: Facts,
    flips: Mapping[PairKey, FlipSet],
    datasets: Path,
    *,
    local: bool,
) -> dict[CellTask, dict[str, PackSample]]:
    """What packs tell of the samples that are shown; no entry where there is no pack."""
    told = {}
    for protocol, task, suite, digest in _datasets_of(connection):
        path = find_pack(datasets, suite, digest)
        if path is not None:
            hard = difficulty(Comparisons(facts, protocol), task)
            wanted = {hard.sample_ids[i] for i in hard.hardest()} if hard else set()
            for key, found in flips.items():
                wanted |= {f.sample_id for f in found.shown} if key[:2] == (protocol, task) else set()
            told[protocol, task] = read_pack(path, task, wanted, local=local)
    return told


def _datasets_of(connection: duckdb.DuckDBPyConnection) -> Sequence[tuple[str, str, str, str]]:
    query = "SELECT protocol, task, suite, dataset_digest FROM tasks ORDER BY protocol, task"
    return [(str(p), str(t), str(s), str(d)) for p, t, s, d in connection.execute(query).fetchall()]
