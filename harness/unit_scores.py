"""Stored answers → scores → bundles: the last stage of a run, at once or later on another machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.answers import read_answers
from harness.bundle import count_scores, write_bundle
from harness.data import open_split
from harness.errors import DatasetError
from harness.lmms import scorer_digest
from harness.records import Answer, Run, Score, Task
from harness.scoring import ScoreJob, read_scores, score_in_process


@dataclass(frozen=True, slots=True)
class Answered:
    """One unit that waits for its scores."""

    run: Run
    """With empty counts."""
    answers: Path
    receipt: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ScorePlaces:
    """What scoring reads beside the answers."""

    tasks: Mapping[str, Task]
    data: Path
    """The suite's datasets."""
    frames: int
    """Frames a clip, from the protocol."""
    tasks_dir: Path | None = None
    """Folder of the task definitions; None is the repository's."""


def score_units(
    units: Sequence[Answered], places: ScorePlaces, progress: Callable[[int, int], None] | None = None
) -> list[tuple[list[Score], str]]:
    """Scores of every unit and the digest of their scorer: probes here, the rest by lmms-eval elsewhere.

    Raises:
        DatasetError: data missing or changed, or answers that are of other samples.
        EyechartError: see `score_in_process`.
    """
    found: dict[int, tuple[list[Score], str]] = {}
    jobs: dict[int, ScoreJob] = {}
    for number, unit in enumerate(units):
        task = places.tasks[unit.run.task]
        split = open_split(task, places.data, places.frames)
        answers = read_answers(unit.answers)
        if {a.sample_id for a in answers} != {s.sample_id for s in split.samples}:
            raise DatasetError(
                "stored answers are of other samples",
                where=str(unit.answers),
                fix="remove the file and run again",
            )
        if task.kind == "probe":
            ids = [s.sample_id for s in split.samples]
            found[number] = _score_probe(answers, split.labels, ids), scorer_digest(task)
        else:
            jobs[number] = ScoreJob(
                task=task.name,
                dataset=split.path,
                answers=unit.answers,
                out=unit.answers.with_suffix(".scores"),
            )
    if jobs:
        score_in_process(list(jobs.values()), tasks_dir=places.tasks_dir, progress=progress)
    found |= {number: read_scores(job.out) for number, job in jobs.items()}
    return [found[number] for number in range(len(units))]


def _score_probe(answers: list[Answer], labels: Any, ids: list[str]) -> list[Score]:
    """1 where the predicted class is the label."""
    said = {a.sample_id: a.answer for a in answers}
    return [
        Score(sample_id=i, cluster=i, score=float(said[i] == str(int(label))), status="scored")
        for i, label in zip(ids, labels, strict=True)
    ]


def write_scored(
    results: Path,
    units: Sequence[Answered],
    scores: Sequence[tuple[list[Score], str]],
    environment: dict[str, Any],
) -> list[Path]:
    """One bundle for every unit.

    Args:
        results: folder of the bundles.
        units: with their answers.
        scores: from `score_units`.
        environment: of all of them.
    """
    bundles = []
    for unit, (judged, digest) in zip(units, scores, strict=True):
        run = replace(unit.run, counts=count_scores(judged))
        answers = read_answers(unit.answers)
        bundles.append(
            write_bundle(
                results, run, answers, unit.receipt, environment, scores=judged, scorer_digest=digest
            )
        )
    return bundles
