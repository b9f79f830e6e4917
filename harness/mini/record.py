"""Results of record: run the whole zoo and its floors, run them again, compare."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

import harness
from harness.bundle import find_bundles, read_bundle, run_key
from harness.digest import digest_tree
from harness.executors.local import LocalExecutor
from harness.files import write_atomic
from harness.home import Home
from harness.mini.members import WEIGHTS, submissions
from harness.plan import make_plan
from harness.run import run_plan
from harness.task import TASKS

TOLERANCE = 0.02
"""Largest difference of a run's mean score that another machine may show. On the same machine with the
same versions answers are byte-identical; elsewhere sums round differently and training carries it on."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A run of record beside its repetition."""

    encoder: str
    task: str
    seed: int
    recorded: float
    repeated: float | None
    identical: bool
    """Every answer is the same text."""

    @property
    def within(self) -> bool:
        """The repetition exists and its mean score is within TOLERANCE."""
        return self.repeated is not None and abs(self.repeated - self.recorded) <= TOLERANCE


def recorded_ids(only: Sequence[str] = ()) -> list[str]:
    """Manifest names of everything of record: zoo, then floors; the demo is no result of record."""
    names = [name for name, _ in submissions() if name != "demo"]
    return [name for name in names if not only or name in only or name.removeprefix("mini-") in only]


class _Silent:
    """Progress of one member among many: the members are counted instead."""

    def __init__(self, name: str, unit: str = "") -> None:
        del name, unit
        import time

        self._began, self._clock = time.monotonic(), time.monotonic

    def __call__(self, done: int, total: int) -> None:
        """Nothing."""

    def close(self, note: str = "") -> float:
        """Seconds since the stage began."""
        del note
        return self._clock() - self._began


def record_one(name: str, home: Home, results: Path) -> str:
    """Run one member or floor with one worker process."""
    plan = make_plan(WEIGHTS / f"{name}.toml", "mini", home, [results])
    with LocalExecutor(1) as executor:
        run_plan(plan, results, executor, _Silent)
    return name


def record(
    names: Sequence[str], home: Home, results: Path, workers: int, progress: Callable[[int, int], None]
) -> None:
    """Run members side by side, each in one worker; finished ones are found and skipped."""
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        futures = [pool.submit(record_one, name, home, results) for name in names]
        for done, future in enumerate(as_completed(futures), 1):
            future.result()
            progress(done, len(names))


def _by_key(root: Path) -> dict[str, Any]:
    bundles = [read_bundle(path) for path in find_bundles(root)] if root.is_dir() else []
    return {run_key(bundle.run): bundle for bundle in bundles}


def _mean(bundle: Any) -> float:
    return float(np.mean([s.score for s in bundle.scores if s.score is not None]))


def compare(recorded: Path, repeated: Path, encoders: Sequence[str]) -> list[Difference]:
    """Every run of record of these encoders beside the run with the same key."""
    again = _by_key(repeated)
    differences = []
    for key, bundle in _by_key(recorded).items():
        run = bundle.run
        if run.submission.id not in encoders:
            continue
        other = again.get(key)
        same = other is not None and other.answer_table.equals(bundle.answer_table)
        differences.append(
            Difference(
                run.submission.id, run.task, run.seed, _mean(bundle), _mean(other) if other else None, same
            )
        )
    return sorted(differences, key=lambda d: (d.encoder, d.task, d.seed))


def reproduce(
    names: Sequence[str], home: Home, results: Path, workers: int, progress: Callable[[int, int], None]
) -> list[Difference]:
    """Run again from nothing but data and weights, in a home of its own, and compare with the record.

    Stopped half-way, it goes on where it stood, unless the code has changed meanwhile; compared, it is thrown
    away, so that the next repetition begins from nothing.
    """
    folder = home.root / "reproduce"
    made_by, code = folder / "code", _code_digest()
    if folder.exists() and not (made_by.is_file() and made_by.read_text("utf-8") == code):
        shutil.rmtree(folder)
    fresh = Home(folder)
    fresh.data("mini").parent.mkdir(parents=True, exist_ok=True)
    if not fresh.data("mini").is_symlink():
        fresh.data("mini").symlink_to(home.data("mini"))
    write_atomic(made_by, code.encode())
    record(names, fresh, fresh.results, workers, progress)
    found = compare(results, fresh.results, names)
    shutil.rmtree(folder)
    return found


def _code_digest() -> str:
    """Over everything that a run executes or reads beside its data: sources, protocols, tasks, weights."""
    roots = [Path(harness.__file__).parent, TASKS]
    kinds = {".py", ".toml", ".yaml", ".safetensors", ".json"}
    files = {
        f"{root.name}/{path.relative_to(root).as_posix()}": path
        for root in roots
        for path in sorted(root.rglob("*"))
        if path.suffix in kinds and path.is_file()
    }
    return digest_tree(files)
