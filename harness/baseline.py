"""The baseline: a small file in git that points at bundles by path and digest. It never moves by itself."""

from __future__ import annotations

import datetime as dt
import math
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from harness.bundle import read_bundle
from harness.digest import digest_json
from harness.errors import IntegrityError, UsageError
from harness.files import read_json, write_json
from harness.gate_sides import Side, TaskCell, bundle_folders, is_file, is_folder, read_all, side_of
from harness.record_json import record_from_json
from harness.records import SELF_REPORTED
from harness.variance import SeedPool, pool_seeds

BASELINE_SCHEMA_VERSION = 2
_OLDER = "it carries no digest of its content: remove it and set it anew with `eyechart baseline set`"
MAX_TEXT = 4096
MAX_DF = 1e6
"""More degrees of freedom than any board's seeds have."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredPool:
    """Seed variance of one task over the encoders of a board, when the baseline was set."""

    ratio: float
    """Of the seeds' own effect on a mean score p, as a share of p(1 − p)."""
    df: float
    total: float
    """What `ratio` was estimated from: between the seeds' means."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PastBaseline:
    """A baseline that was replaced."""

    encoder: str
    digest: str
    """sha256 over its bundles' digests."""
    set: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Baseline:
    """The pointer file, docs/schemas/baseline.schema.json."""

    schema_version: int
    protocol: str
    encoder: str
    set: str
    """Day it was set, ISO 8601."""
    reason: str
    """Why, in a person's words."""
    bundles: dict[str, str]
    """Folder relative to this file -> bundle digest."""
    seed_pools: dict[str, StoredPool] = field(default_factory=dict)
    """Task -> seed variance of the board; empty: none was given."""
    lenders: dict[str, str] = field(default_factory=dict)
    """Encoder -> digest of its identity, of those whose seeds are in `seed_pools`: none may count twice."""
    history: tuple[PastBaseline, ...] = ()
    """Earlier baselines, oldest first."""
    content_digest: str = ""
    """sha256 of the canonical JSON of all the rest: an edit by hand, or a merge, is noticed."""

    @property
    def digest(self) -> str:
        """sha256 over the bundles' digests."""
        return digest_json(sorted(self.bundles.values()))

    @property
    def content(self) -> str:
        """What `content_digest` must be."""
        return digest_json(replace(self, content_digest=""))

    @property
    def pools(self) -> dict[str, SeedPool]:
        """As `harness.check.check` takes them."""
        return {task: SeedPool(p.ratio, p.df, p.total) for task, p in self.seed_pools.items()}


def read_baseline(path: Path) -> Baseline:
    """Read a pointer file.

    Raises:
        UsageError: no such file.
        IntegrityError: not a pointer, of another schema version, or not as `eyechart baseline` wrote it.
    """
    if not is_file(path):
        raise UsageError("no baseline", where=str(path), fix="run `eyechart baseline set FOLDER`")
    data = read_json(path)
    version = data.get("schema_version") if isinstance(data, dict) else None
    if version != BASELINE_SCHEMA_VERSION:
        raise IntegrityError(
            "schema version of the baseline",
            where=str(path),
            found=repr(version),
            expected=str(BASELINE_SCHEMA_VERSION),
            fix=_OLDER if version == 1 else "",
        )
    made = record_from_json(Baseline, data, str(path))
    _refuse_odd(made, str(path))
    if made.content_digest != made.content:
        raise IntegrityError(
            "the baseline was changed since `eyechart baseline` wrote it",
            where=str(path),
            found=ascii(made.content_digest)[1:17],
            expected=made.content[:16],
            fix="take it from git again, or set it anew with `eyechart baseline set`",
        )
    return made


def _refuse_odd(made: Baseline, where: str) -> None:
    """What no `eyechart baseline` writes: an edited pointer could widen or close every interval."""
    if not made.bundles:
        raise IntegrityError("the baseline points at nothing", where=where)
    past = [text for p in made.history for text in (p.encoder, p.digest, p.set, p.reason)]
    texts = (made.protocol, made.encoder, made.set, made.reason, *made.seed_pools, *past)
    for text in (*texts, *made.bundles, *made.lenders, *made.lenders.values()):
        if not text.isprintable() or len(text) > MAX_TEXT:
            raise IntegrityError("odd text in the baseline", where=where, found=ascii(text)[:80])
    for task, pool in made.seed_pools.items():
        sound = all(math.isfinite(x) for x in (pool.ratio, pool.df, pool.total))
        if not (sound and 0 < pool.df <= MAX_DF and -1 <= pool.ratio <= 1 and 0 <= pool.total <= 1):
            raise IntegrityError("a seed variance that cannot be", where=f"{where}: {task}", found=str(pool))


def resolve(path: Path, baseline: Baseline) -> Side:
    """The side that a pointer names, every bundle verified against its digest.

    Raises:
        IntegrityError: a bundle is absent, damaged, or not the one pointed at.
    """
    bundles = []
    for place, digest in sorted(baseline.bundles.items()):
        folder = path.parent / place
        if not is_folder(folder):
            raise IntegrityError(
                "a bundle of the baseline is not here",
                where=str(folder),
                fix="fetch the results the pointer was set with",
            )
        bundles.append(read_bundle(folder))
        found = bundles[-1].digest
        if found != digest:
            raise IntegrityError(
                "not the bundle the baseline points at",
                where=str(folder),
                found=found[:16],
                expected=digest[:16],
            )
    side = side_of(bundles, baseline.protocol, "baseline")
    if side.encoder != baseline.encoder:
        raise IntegrityError(
            "not the encoder of the baseline", where=str(path), found=side.encoder, expected=baseline.encoder
        )
    return side


def make_baseline(
    path: Path,
    folders: Sequence[Path],
    *,
    protocol: str = "",
    reason: str = "",
    board: Sequence[Path] = (),
    history: Sequence[PastBaseline] = (),
    keep: Collection[str] = (),
) -> Baseline:
    """Write a pointer at bundles.

    Args:
        path: the pointer file; paths in it are relative to its folder.
        folders: where the bundles of the encoder lie.
        protocol: which runs, where there are several.
        reason: a person's words.
        board: folders of results whose other encoders lend their seed variance.
        history: earlier baselines, oldest first.
        keep: tasks that the encoder must have.

    Raises:
        UsageError, NotComparableError, IntegrityError: as `read_side`; incomplete runs are refused, too.
    """
    bundles = read_all(bundle_folders(folders))
    side = side_of(bundles, protocol, "baseline")
    lacking = [t for t, cell in side.cells.items() if cell.num_unscored]
    if lacking:
        raise UsageError("a baseline must be complete", where=side.encoder, found=f"{lacking[0]} is not")
    gone = sorted(set(keep) - set(side.cells))
    if gone:
        raise UsageError(
            "the candidate lacks tasks of the baseline, which no check would judge any more",
            where=side.encoder,
            found=", ".join(gone),
            fix="measure them, or let them go with --drop-tasks",
        )
    used = {digest for cell in side.cells.values() for digest in cell.digests}
    pools, lenders = board_seeds(side, board)
    made = Baseline(
        schema_version=BASELINE_SCHEMA_VERSION,
        protocol=side.protocol,
        encoder=side.encoder,
        set=dt.datetime.now(tz=dt.UTC).date().isoformat(),
        reason=reason,
        bundles={
            Path(os.path.relpath(bundle.path, path.parent)).as_posix(): bundle.digest
            for bundle in bundles
            if bundle.digest in used
        },
        seed_pools={task: StoredPool(**pool._asdict()) for task, pool in pools.items()},
        lenders=lenders,
        history=tuple(history),
    )
    return _write(path, made)


def _write(path: Path, made: Baseline) -> Baseline:
    """Write a pointer with the digest of its content; returns it as written."""
    whole = replace(made, content_digest=made.content)
    write_json(path, whole)
    return whole


def promote(
    path: Path,
    old: Baseline,
    folders: Sequence[Path],
    reason: str,
    board: Sequence[Path],
    *,
    drop_tasks: bool = False,
) -> Baseline:
    """Point at other bundles and remember what was pointed at before; errors as `make_baseline`.

    A task of the old baseline that the candidate lacks would never be judged again, advisory or accepted
    though it be: only `drop_tasks` lets it go.
    """
    past = PastBaseline(encoder=old.encoder, digest=old.digest, set=old.set, reason=old.reason)
    made = make_baseline(
        path,
        folders,
        protocol=old.protocol,
        reason=reason,
        board=board,
        history=(*old.history, past),
        keep=() if drop_tasks else tuple(resolve(path, old).cells),
    )
    if board or not old.seed_pools:
        return made
    # Without a board the variance that the old pointer carried stays: a promotion must not widen intervals.
    return _write(path, replace(made, seed_pools=old.seed_pools, lenders=old.lenders))


def board_pools(side: Side, board: Sequence[Path], *, with_own: bool = False) -> dict[str, SeedPool]:
    """The pools of `board_seeds` alone."""
    return board_seeds(side, board, with_own=with_own)[0]


def board_seeds(
    side: Side, board: Sequence[Path], *, with_own: bool = False
) -> tuple[dict[str, SeedPool], dict[str, str]]:
    """Seed variance by task over the encoders of a board that were measured under equal conditions.

    Args:
        side: whose tasks and conditions.
        board: folders of results; none, no variance.
        with_own: take the side's own encoder in, too, where the board has it.

    Returns:
        Task -> pool, and the encoders that lent their seeds to any of them: id -> digest of the identity.
    """
    pools: dict[str, SeedPool] = {}
    lenders: dict[str, str] = {}
    others = board_sides(board, side.protocol, without="" if with_own else side.encoder) if board else []
    for task, cell in side.cells.items():
        alike = {
            o.encoder: o
            for o in others
            if task in o.cells and _alike(o.cells[task], cell) and not o.cells[task].num_unscored
        }
        scores = [o.cells[task].scores for o in alike.values()]
        pool = pool_seeds(scores, cell.clusters)
        if pool.df > 0:
            pools[task] = pool
            lenders |= {name: o.identity for name, o in alike.items() if len(o.cells[task].seeds) > 1}
    return pools, dict(sorted(lenders.items()))


def _alike(theirs: TaskCell, ours: TaskCell) -> bool:
    return theirs.conditions == ours.conditions and theirs.samples == ours.samples


def board_sides(roots: Sequence[Path], protocol: str, without: str = "") -> list[Side]:
    """Every encoder of a protocol below folders of results that a board ranks.

    Floors are left out, since their noise is another's, and what is only reported by its submitter.
    """
    by_encoder: dict[str, list[Path]] = {}
    for folder in bundle_folders(roots):
        by_encoder.setdefault(folder.parent.name, []).append(folder)
    sides = []
    for encoder, folders in sorted(by_encoder.items()):
        bundles = read_all(folders) if encoder != without else []
        mine = [b for b in bundles if b.run.protocol == protocol and b.run.submission.floor is None]
        if mine:
            sides.append(side_of(mine, protocol, "board"))
    return [side for side in sides if side.tier != SELF_REPORTED and side.encoder != without]


def describe(baseline: Baseline) -> dict[str, Any]:
    """The pointer as a JSON object."""
    return {**asdict(baseline), "digest": baseline.digest}


def lines(baseline: Baseline) -> Sequence[str]:
    """The pointer in words."""
    pools: Mapping[str, StoredPool] = baseline.seed_pools
    of = f"seed variance of {len(pools)} tasks from {len(baseline.lenders)} encoders of a board"
    known = of if pools else "no seed variance of a board"
    found = [
        f"{baseline.encoder}, protocol {baseline.protocol}, set {baseline.set}"
        + (f": {baseline.reason}" if baseline.reason else ""),
        f"{len(baseline.bundles)} bundles, digest {baseline.digest[:16]}; {known}",
    ]
    return found + [f"before: {p.encoder}, set {p.set}, digest {p.digest[:16]}" for p in baseline.history]
