"""Answers made on one machine and scored on another, which alone needs lmms-eval.

A folder of answers has one folder a unit, laid out as a bundle is (`harness.bundle`) but without scores and
without COMMIT:

    DIR/<protocol>/<encoder>/<first 16 digits of the run key>/
        run.json            the Run record, counts empty
        answers.parquet
        receipt.json
        environment.json    outside the hashes
        ANSWERS.sha256      hash of the first three, written last; absent: does not count

Scored, it becomes the very bundle that a run in one go would have written on the same machine.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.answers import read_answers
from harness.bundle import find_uncommitted, read_unscored, write_bundle
from harness.data import check_dataset
from harness.digest import digest_file
from harness.errors import IntegrityError, NotComparableError, UsageError
from harness.executors.local import LocalExecutor
from harness.files import write_atomic
from harness.home import Home
from harness.plan import Plan
from harness.protocol import read_protocol
from harness.records import Run
from harness.run import StageMaker, installed_version, measure
from harness.task import read_task
from harness.unit_scores import Answered, ScorePlaces, score_units, write_scored

SEAL = "ANSWERS.sha256"
SEALED = ("answers.parquet", "receipt.json", "run.json")
SCORER = "lmms-eval"


def write_answers(
    plan: Plan,
    folder: Path,
    executor: LocalExecutor,
    stage: StageMaker,
    batch: int = 128,
    *,
    heed_doctor: bool = True,
) -> list[Path]:
    """Carry out what is pending up to the answers, and write one sealed folder a unit.

    Args:
        plan: from `make_plan`.
        folder: DIR of the layout above; the units of several encoders may share it.
        executor: where jobs run.
        stage: shows a stage's progress.
        batch: questions decoded together; moves speed only.
        heed_doctor: stop where the doctor finds a fault.

    Raises:
        EyechartError: see `harness.run.run_plan`.
    """
    if not plan.pending:
        return []
    made = measure(plan, executor, stage, batch, heed_doctor=heed_doctor)
    written = []
    for unit in plan.pending:
        path, receipt = made.answers[unit.task.name, unit.seed]
        place = write_bundle(folder, unit.run, read_answers(path), receipt, made.environment)
        lines = [f"{digest_file(place / name)}  {name}\n" for name in SEALED]
        write_atomic(place / SEAL, "".join(lines).encode())
        written.append(place)
    return written


def score_answers(
    folder: Path,
    results: Path,
    home: Home,
    stage: StageMaker,
    protocol_name: str = "",
    tasks_dir: Path | None = None,
) -> list[Path]:
    """Verify and score the units in a folder of answers, and write their bundles.

    Args:
        folder: what `write_answers` wrote.
        results: folder of the bundles.
        home: of the datasets.
        stage: shows progress.
        protocol_name: name or path; the one that the answers name when empty.
        tasks_dir: folder of the task definitions; None is the repository's.

    Raises:
        UsageError: no answers there, or of several protocols.
        IntegrityError: a unit is incomplete or was changed.
        NotComparableError: answered under another version of the protocol or of a task.
        DatasetError: the datasets here are others, or missing.
    """
    places = find_uncommitted(folder) if folder.is_dir() else []
    if not places:
        raise UsageError(
            "no answers to score", where=str(folder), fix="make them: eyechart run --answers-only"
        )
    found = [(_unsealed(place), *read_unscored(place)) for place in places]
    names = sorted({run.protocol for _, run, _, _ in found})
    if len(names) > 1:
        raise UsageError("answers of several protocols", where=str(folder), found=", ".join(names))
    protocol = read_protocol(protocol_name or names[0], home.protocols)
    tasks = {name: read_task(name, tasks_dir) for name in protocol.tasks}
    for place, run, _, _ in found:
        _refuse_others(run, protocol.recipe_digests, {n: t.digest for n, t in tasks.items()}, place)
    data = home.data(protocol.suite)
    here = {t.dataset: check_dataset(data / t.dataset, t.dataset_digest) for t in tasks.values()}
    for place, run, _, _ in found:
        if (digest := here[tasks[run.task].dataset]) != run.dataset_digest:
            raise NotComparableError(
                "answers are about another dataset than the one here",
                where=str(place),
                found=run.dataset_digest[:16],
                expected=digest[:16],
            )
    scoring = ScorePlaces(tasks, data, protocol.video.frames, tasks_dir)
    with tempfile.TemporaryDirectory(prefix="eyechart-answers-") as draft:
        units = [
            Answered(run, _copy(place, Path(draft) / f"{number}.parquet"), _scored_here(receipt))
            for number, (place, run, receipt, _) in enumerate(found)
        ]
        show = stage("scores", "tasks")
        scores = score_units(units, scoring, show)
        seconds = show.close()
        return _write(results, units, scores, [environment for *_, environment in found], seconds)


def _write(
    results: Path,
    units: Sequence[Answered],
    scores: Sequence[Any],
    environments: Sequence[dict[str, Any]],
    seconds: float,
) -> list[Path]:
    """The bundles; the time of scoring goes to each, as in a run that scores all its units together."""
    written = []
    for unit, judged, environment in zip(units, scores, environments, strict=True):
        times = {**environment.get("stages_s", {}), "scores": round(seconds, 3)}
        written += write_scored(results, [unit], [judged], {**environment, "stages_s": times})
    return written


def _copy(place: Path, target: Path) -> Path:
    """The answers, where scores may be written beside them; named anew, since units share file names."""
    return Path(shutil.copy(place / "answers.parquet", target))


def _scored_here(receipt: dict[str, Any]) -> dict[str, Any]:
    """The receipt with the scorer that is used: the machine that answered need not have one."""
    return {**receipt, "versions": {**receipt["versions"], SCORER: installed_version(SCORER)}}


def _unsealed(place: Path) -> Path:
    """The folder of a unit, every hash of its seal verified.

    Raises:
        IntegrityError: names the file.
    """
    if not (place / SEAL).is_file():
        raise IntegrityError(
            f"{SEAL} is missing",
            where=str(place),
            fix="make these answers again: eyechart run --answers-only",
        )
    lines = (place / SEAL).read_text("utf-8").splitlines()
    recorded = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    if sorted(recorded) != list(SEALED):
        raise IntegrityError(
            "not a seal of answers", where=str(place / SEAL), found=", ".join(sorted(recorded))
        )
    for name, want in recorded.items():
        found = digest_file(place / name) if (place / name).is_file() else "nothing"
        if found != want:
            raise IntegrityError(
                "file was changed", where=str(place / name), found=found[:16], expected=want[:16]
            )
    return place


def _refuse_others(run: Run, recipes: Mapping[str, str], tasks: Mapping[str, str], place: Path) -> None:
    """Answers under other rules than those here are refused before anything is scored."""
    pairs = {name: (digest, recipes.get(name, "")) for name, digest in run.recipes.items()}
    pairs[run.task] = run.task_digest, tasks.get(run.task, "")
    for name, (answered, ours) in pairs.items():
        if answered != ours:
            raise NotComparableError(
                f"answers were made under another version of {name}",
                where=str(place),
                found=answered[:16],
                expected=ours[:16] or "a part of this protocol",
                fix="score them with the version of Eyechart that made them",
            )
