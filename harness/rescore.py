"""Stored answers scored again, offline, and held against the stored scores sample by sample.

Probes are scored here, by the label in the data; everything else by lmms-eval in a process of its own, as in
a run. What the data say about samples, clusters and prompts is compared too.
"""

from __future__ import annotations

import shutil
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness.bundle import Bundle, write_bundle
from harness.bundle_rules import Definitions
from harness.data import Split, open_split
from harness.digest import digest_bytes
from harness.errors import EyechartError, IntegrityError, NotComparableError
from harness.home import Home
from harness.records import Score, Task
from harness.unit_scores import Answered, ScorePlaces, score_units

SCORER_DIGITS = 12
Progress = Callable[[int, int], None]
"""Called with (bundles scored, bundles in all)."""


@dataclass(frozen=True, kw_only=True)
class Rescored:
    """What scoring again found."""

    num_checked: int
    findings: tuple[EyechartError, ...]
    notes: tuple[str, ...]
    """Scorers that are not those of the bundles; compared all the same."""
    scored_by: dict[Path, str]
    """Scorer digest that scored each bundle's answers again."""


def rescore(
    bundles: Sequence[Bundle],
    definitions: Definitions,
    home: Home,
    progress: Progress | None = None,
    tasks_dir: Path | None = None,
) -> Rescored:
    """Score the answers of sound bundles again.

    Args:
        bundles: each verified.
        definitions: tasks and protocols known here.
        home: of the datasets.
        progress: called with (bundles scored by lmms-eval, all of these).
        tasks_dir: folder of the task definitions; None is the repository's.

    Raises:
        DatasetError: a dataset is missing or changed.
        UsageError: lmms-eval is not installed.
    """
    findings: list[EyechartError] = []
    notes: set[str] = set()
    scored_by: dict[Path, str] = {}
    groups: dict[tuple[str, int, str], list[Bundle]] = defaultdict(list)
    for bundle in bundles:
        groups[bundle.run.protocol, bundle.run.protocol_version, bundle.run.suite].append(bundle)
    for (name, version, suite), members in groups.items():
        protocol = definitions.protocols.get((name, version))
        if protocol is None:
            findings += [_unknown(b, f"version {version} of the protocol {name}") for b in members]
            continue
        here = {b.path: _task_of(b, definitions) for b in members}
        lost = [b for b in members if here[b.path] is None]
        findings += [_unknown(b, f"task {b.run.task_digest[:12]}") for b in lost]
        asked = [b for b in members if here[b.path]]
        tasks = {task.name: task for task in here.values() if task}
        splits = {n: open_split(t, home.data(suite), protocol.video.frames) for n, t in tasks.items()}
        wrong = {b.path: error for b in asked if (error := _compare_data(b, splits[b.run.task]))}
        findings += wrong.values()
        places = ScorePlaces(tasks, home.data(suite), protocol.video.frames, tasks_dir)
        for bundle, (scores, digest) in _score([b for b in asked if b.path not in wrong], places, progress):
            findings += _compare_scores(bundle, scores)
            scored_by[bundle.path] = digest
            if digest[:SCORER_DIGITS] != bundle.scorer_digest:
                by = f"{bundle.scorer_digest}, again by {digest[:SCORER_DIGITS]}"
                notes.add(f"{bundle.run.task}: scored by {by}: another scorer, compared all the same")
    return Rescored(
        num_checked=len(bundles),
        findings=tuple(findings),
        notes=tuple(sorted(notes)),
        scored_by=scored_by,
    )


def write_re_scored(bundles: Sequence[Bundle], scored_by: dict[Path, str], folder: Path) -> list[Path]:
    """Write self-reported bundles whose scores were found again once more, as `re-scored`.

    Args:
        bundles: sound, and scored again without a finding; those of a higher tier are left out.
        scored_by: scorer digest of each.
        folder: of results; bundles there are not replaced.

    Returns:
        The new bundles' folders.

    Raises:
        IntegrityError: a bundle that lies there already is damaged.
        ResourceError: the disk is full.
    """
    return [
        write_bundle(
            folder,
            replace(bundle.run, tier="re-scored"),
            bundle.answers,
            bundle.receipt,
            bundle.environment,
            scores=bundle.scores,
            scorer_digest=scored_by[bundle.path],
        )
        for bundle in bundles
        if bundle.run.tier == "self-reported"
    ]


def _unknown(bundle: Bundle, what: str) -> EyechartError:
    return NotComparableError(f"cannot be scored again: {what} is not here", where=str(bundle.path))


def _task_of(bundle: Bundle, definitions: Definitions) -> Task | None:
    return definitions.tasks.get(bundle.run.task_digest)


def _score(
    bundles: Sequence[Bundle], places: ScorePlaces, progress: Progress | None
) -> list[tuple[Bundle, tuple[list[Score], str]]]:
    """Scores of copies: the scorer writes beside the answers, and a bundle is never written to."""
    with tempfile.TemporaryDirectory(prefix="eyechart-rescore-") as folder:
        units = [
            Answered(
                b.run, Path(shutil.copy(b.path / "answers.parquet", Path(folder) / f"{i}.parquet")), b.receipt
            )
            for i, b in enumerate(bundles)
        ]
        return list(zip(bundles, score_units(units, places, progress), strict=True))


def _compare_data(bundle: Bundle, split: Split) -> IntegrityError | None:
    """The first sample, cluster or prompt that is not the one of the data."""
    where = str(bundle.path)
    if bundle.run.dataset_digest != split.digest:
        what = "dataset is not the one here"
        return IntegrityError(what, where=where, found=bundle.run.dataset_digest, expected=split.digest)
    said = bundle.answer_table
    names, prompts = said["sample_id"].to_pylist(), said["prompt_hash"].to_pylist()
    mine = dict(zip(names, prompts, strict=True))
    true = {s.sample_id: digest_bytes(s.prompt.encode())[:16] for s in split.samples}
    if apart := sorted(mine.keys() ^ true.keys()):
        what = "samples are not those of the data"
        return IntegrityError(what, where=where, found=repr(apart[0]))
    for name, prompt in mine.items():
        if prompt != true[name]:
            what = f"sample {name!r}: another prompt than the data give"
            return IntegrityError(what, where=where, found=prompt, expected=true[name])
    return None


def _compare_scores(bundle: Bundle, again: Sequence[Score]) -> list[EyechartError]:
    """The first sample whose stored score, status or cluster is not the one found again."""
    said = {a.sample_id: a for a in bundle.answers}
    true = {score.sample_id: score for score in again}
    for stored in bundle.scores:
        answer, expected = said[stored.sample_id], true[stored.sample_id]
        if answer.status != "scored":
            # Nothing was said: the bundle's own rules hold its score to null.
            expected = replace(expected, score=None, status=answer.status)
        if stored != expected:
            return [
                IntegrityError(
                    f"sample {stored.sample_id!r}: not what the scorer gives for {answer.answer[:40]!r}",
                    where=str(bundle.path),
                    found=_spell(stored),
                    expected=_spell(expected),
                )
            ]
    return []


def _spell(score: Score) -> str:
    worth = "no score" if score.score is None else f"{score.score:g}"
    return f"{worth} ({score.status}, cluster {score.cluster})"
