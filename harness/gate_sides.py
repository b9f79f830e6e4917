"""One side of a comparison, read from bundles: scores by task, and all that must be equal to compare."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from harness.bundle import COMMIT, MANIFEST, Bundle, read_bundle
from harness.cells import preference
from harness.digest import digest_json
from harness.errors import IncompleteError, IntegrityError, NotComparableError, UsageError
from harness.records import TIERS
from harness.variance import Floats

CONDITIONS = {
    "protocol": "protocol",
    "protocol_version": "protocol version",
    "suite": "suite",
    "recipes": "recipe",
    "task_digest": "task",
    "dataset_digest": "dataset",
    "split": "split",
    "metric": "metric",
    "dtype": "dtype",
    "llm_revision": "language model",
}
"""Field of Run -> what a person calls it, in the order in which a difference is named."""
WAITING = "answers that wait for their scores"
WAITING_FIX = "score them with `eyechart score`, or run the command that made them again"


@dataclass(frozen=True, kw_only=True)
class TaskCell:
    """One encoder on one task, all its seeds."""

    task: str
    conditions: Mapping[str, str]
    """What two cells must share: the recipe digests one by one, the scorer, and `CONDITIONS`."""
    samples: str
    """sha256 over sample ids and clusters."""
    prompts: str
    """sha256 over the prompt hashes."""
    task_digest: str
    seeds: tuple[int, ...]
    engines: tuple[str, ...]
    num_expected: int
    """Over all seeds."""
    num_unscored: int
    """In error or missing, over all seeds; more than none blocks a comparison."""
    num_unparsed: int
    clusters: NDArray[Any]
    """(samples,) number of each sample's cluster."""
    scores: Floats
    """(seeds, samples); NaN where a sample has none."""
    digests: tuple[str, ...]
    """Bundle digests, by seed."""
    ids: pa.ChunkedArray | None = None
    """(samples,) sample ids, to say which one differs; None where only scores were kept."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Blocked:
    """Why a task of a side can be held against nothing, though something of it is stored."""

    verdict: Literal["not-comparable", "incomplete"]
    reason: str


@dataclass(frozen=True, kw_only=True)
class Side:
    """What was measured of one encoder under one protocol."""

    protocol: str
    encoder: str
    title: str
    cells: Mapping[str, TaskCell]
    tier: str
    """Of the least trusted run."""
    is_floor: bool = False
    identity: str = ""
    """Digest of the encoder's weights and input; "": unknown."""
    blocked: Mapping[str, Blocked] = field(default_factory=dict)
    """Tasks that are not in `cells` for a reason that can be named."""


def bundle_folders(paths: Iterable[Path]) -> list[Path]:
    """Bundles at or below the given folders, sorted; a folder with a manifest and no COMMIT counts too.

    Raises:
        UsageError: a path is no folder, or there is no bundle.
        IncompleteError: answers wait for their scores.
    """
    found, waiting = find_folders(paths)
    if waiting:
        raise IncompleteError(WAITING, where=str(waiting[0]), fix=WAITING_FIX)
    return found


def find_folders(paths: Iterable[Path]) -> tuple[list[Path], list[Path]]:
    """Bundles, and folders of answers that wait for their scores, at or below the given folders; sorted.

    Raises:
        UsageError: a path is no folder, or there is neither.
    """
    found: set[Path] = set()
    waiting: set[Path] = set()
    asked = list(paths)
    for path in asked:
        if not is_folder(path):
            raise UsageError("no such folder of bundles", where=str(path))
        runs = [p.parent for p in path.rglob("run.json") if not _hidden(p, path)]
        waiting.update(folder for folder in runs if not _sealed(folder))
        marks = [*path.rglob(COMMIT), *path.rglob(MANIFEST)]
        found.update(mark.parent for mark in marks if not _hidden(mark, path))
    if not found and not waiting:
        shown = ", ".join(str(p) for p in asked)
        raise UsageError(
            "no bundles", where=shown, expected="folders that `eyechart run` wrote below its results"
        )
    return sorted(found), sorted(waiting)


def is_folder(path: Path) -> bool:
    """Whether a path is a folder; False also for a name that no file system takes."""
    try:
        return path.is_dir()
    except OSError:
        return False


def is_file(path: Path) -> bool:
    """Whether a path is a plain file; False also for a name that no file system takes."""
    try:
        return path.is_file()
    except OSError:
        return False


def _sealed(folder: Path) -> bool:
    return (folder / COMMIT).exists() or (folder / MANIFEST).exists()


def _hidden(path: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(root).parts)


def read_side(folders: Sequence[Path], protocol: str = "", what: str = "bundles") -> Side:
    """Read and verify bundles, and make a side of them; see `side_of`.

    Raises:
        IntegrityError: a bundle fails verification.
    """
    return side_of(read_all(folders), protocol, what)


def read_all(folders: Sequence[Path]) -> list[Bundle]:
    """Read and verify bundles, in the given order; hashing and Parquet leave the interpreter's lock alone.

    Raises:
        IntegrityError: the first of them, in this order, that fails verification.
    """
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        return list(pool.map(read_bundle, folders))


def side_of(
    bundles: Sequence[Bundle],
    protocol: str = "",
    what: str = "bundles",
    blocked: Mapping[str, Blocked] | None = None,
) -> Side:
    """One side of a comparison.

    Args:
        bundles: runs of one encoder.
        protocol: only these runs; "": there must be one protocol.
        what: the side's name, for errors.
        blocked: tasks known to be held against nothing; given, a task measured under two sets of conditions
            becomes another of them.

    Raises:
        IntegrityError: a name in a bundle cannot be printed, or seeds hold other samples.
        UsageError: more than one encoder, or two versions of one.
        NotComparableError: several protocols and none chosen, none of the protocol, or one task measured
            under two sets of conditions.
    """
    held = sorted({b.run.protocol for b in bundles})
    if not protocol and len(held) > 1:
        raise NotComparableError(f"several protocols in the {what}", found=", ".join(held))
    mine = [b for b in bundles if b.run.protocol == (protocol or held[0])]
    if not mine:
        raise NotComparableError(f"other protocol in the {what}", found=", ".join(held), expected=protocol)
    encoders = sorted({b.run.submission.id for b in mine})
    if len(encoders) > 1:
        raise UsageError(
            f"several encoders in the {what}", found=", ".join(encoders), fix="give the folder of one"
        )
    versions = sorted({b.run.submission.identity_digest[:16] for b in mine})
    if len(versions) > 1:
        raise UsageError(
            f"several versions of {encoders[0]} in the {what}",
            found=", ".join(versions),
            fix="give each version a folder of its own, by --results",
        )
    for bundle in mine:
        refuse_odd_names(bundle)
    by_task: dict[str, list[Bundle]] = defaultdict(list)
    for bundle in mine:
        by_task[bundle.run.task].append(bundle)
    cells, stopped = _cells(by_task, what, blocked)
    return Side(
        protocol=mine[0].run.protocol,
        encoder=encoders[0],
        title=mine[0].run.submission.title,
        cells=cells,
        tier=max((b.run.tier for b in mine), key=TIERS.index),
        is_floor=mine[0].run.submission.floor is not None,
        identity=mine[0].run.submission.identity_digest,
        blocked=stopped,
    )


def _cells(
    by_task: Mapping[str, list[Bundle]], what: str, blocked: Mapping[str, Blocked] | None
) -> tuple[dict[str, TaskCell], dict[str, Blocked]]:
    """The cells, and what is blocked; without `blocked` the first task that would be raises."""
    cells, stopped = {}, dict(blocked or {})
    for task, bundles in sorted(by_task.items()):
        if task in stopped:
            continue
        try:
            cells[task] = _cell(task, bundles, what)
        except NotComparableError as error:
            if blocked is None:
                raise
            stopped[task] = Blocked(verdict="not-comparable", reason=error.line().rstrip("."))
    return cells, stopped


def refuse_odd_names(bundle: Bundle) -> None:
    """Names reach logs, build systems and pages: none may hold what is not for the eye."""
    run = bundle.run
    names = (run.task, run.engine, run.submission.id, *_conditions(bundle).values(), *run.recipes)
    for name in names:
        if not str(name).isprintable():
            raise IntegrityError(
                "a name that cannot be printed", where=str(bundle.path), found=ascii(name)[:80]
            )


def first_seeds(side: Side, count: int) -> Side:
    """The side with its seeds 0 to count − 1 only: what a declared look may see, whatever else is stored.

    A task of which one of these is lacking is incomplete.
    """
    cells, stopped = {}, dict(side.blocked)
    for task, cell in side.cells.items():
        lacking = sorted(set(range(count)) - set(cell.seeds))
        if lacking:
            shown = ", ".join(str(seed) for seed in lacking)
            reason = f"the {count} seeds asked for are not all there: the candidate lacks {shown}"
            stopped[task] = Blocked(verdict="incomplete", reason=reason)
        else:
            cells[task] = _first(cell, count)
    return replace(side, cells=cells, blocked=stopped)


def _first(cell: TaskCell, count: int) -> TaskCell:
    kept = [i for i, seed in enumerate(cell.seeds) if seed < count]
    if len(kept) == len(cell.seeds):
        return cell
    return replace(
        cell,
        seeds=tuple(cell.seeds[i] for i in kept),
        digests=tuple(cell.digests[i] for i in kept),
        scores=cell.scores[kept],
        num_expected=cell.scores[kept].size,
        num_unscored=int(np.isnan(cell.scores[kept]).sum()),
    )


def _cell(task: str, bundles: list[Bundle], what: str) -> TaskCell:
    chosen = _one_a_seed(bundles)
    first = chosen[0]
    conditions = _conditions(first)
    samples, clusters = _samples(first)
    for other in bundles:
        differing = differences(conditions, _conditions(other))
        if differing:
            raise NotComparableError(
                f"{task} was measured under two sets of conditions in the {what}",
                where=str(other.path),
                found=differing[0],
            )
        if _samples(other)[0] != samples or _prompts(other) != _prompts(first):
            raise IntegrityError("seeds of one task hold other samples", where=str(other.path))
    return TaskCell(
        task=task,
        conditions=conditions,
        samples=samples,
        prompts=_prompts(first),
        task_digest=first.run.task_digest,
        seeds=tuple(b.run.seed for b in chosen),
        engines=tuple(sorted({b.run.engine for b in chosen})),
        num_expected=sum(b.run.counts.num_expected for b in chosen),
        num_unscored=sum(b.run.counts.num_error + b.run.counts.num_missing for b in chosen),
        num_unparsed=sum(b.run.counts.num_unparsed for b in chosen),
        clusters=clusters,
        scores=np.stack([_scores(b) for b in chosen]),
        digests=tuple(b.digest for b in chosen),
        ids=first.score_table["sample_id"],
    )


def _one_a_seed(bundles: Sequence[Bundle]) -> list[Bundle]:
    best: dict[int, Bundle] = {}
    for bundle in sorted(bundles, key=lambda b: preference(b.run, b.digest)):
        best.setdefault(bundle.run.seed, bundle)
    return [best[seed] for seed in sorted(best)]


def _conditions(bundle: Bundle) -> dict[str, str]:
    run = bundle.run
    found = {label: str(getattr(run, name)) for name, label in CONDITIONS.items() if name != "recipes"}
    found |= {f"{name} recipe": digest for name, digest in sorted(run.recipes.items())}
    return found | {"scorer": bundle.scorer_digest}


def differences(ours: Mapping[str, str], theirs: Mapping[str, str]) -> list[str]:
    """Conditions that differ, as "name: ours, theirs", digests cut to what a person compares."""
    names = [*ours, *(n for n in theirs if n not in ours)]
    pairs = [(n, ours.get(n, "none"), theirs.get(n, "none")) for n in names]
    return [f"{name}: {a[:16]}, {b[:16]}" for name, a, b in pairs if a != b]


def _samples(bundle: Bundle) -> tuple[str, NDArray[Any]]:
    """Digest over ids and clusters; cluster of each sample as a number."""
    table = bundle.score_table
    codes = table["cluster"].combine_chunks().dictionary_encode().indices
    return digest_json([_digest(table["sample_id"]), _digest(table["cluster"])]), np.asarray(codes)


def _prompts(bundle: Bundle) -> str:
    return _digest(bundle.answer_table["prompt_hash"])


def _digest(column: pa.ChunkedArray) -> str:
    """sha256 over the lengths and texts of a column of strings without nulls."""
    hashed = hashlib.sha256()
    whole = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], pa.string())
    ends = np.frombuffer(whole.buffers()[1] or b"", np.int32)[whole.offset : whole.offset + len(whole) + 1]
    hashed.update(np.diff(ends).astype(np.int64).tobytes())
    if len(whole) and whole.buffers()[2] is not None:
        # The texts as they lie in memory: turning millions of them into Python's would take seconds.
        hashed.update(memoryview(whole.buffers()[2])[int(ends[0]) : int(ends[-1])])
    return hashed.hexdigest()


def _scores(bundle: Bundle) -> Floats:
    return np.asarray(bundle.score_table["score"].to_numpy(), dtype=np.float64)
