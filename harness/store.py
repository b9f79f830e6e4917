"""The index: verified bundles in DuckDB, rebuilt whole at every ingest, so that losing it loses nothing.

One writer at a time (a lock file beside the database); it builds a new file and renames it over the old one,
so readers always see a finished database and never wait. Readers open read-only and reach no other file.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from harness.bundle import Bundle, check_place, find_bundles, find_uncommitted, read_bundle, run_key
from harness.cells import CONDITION_FIELDS, Entry, set_aside, submissions
from harness.digest import canonical_json, digest_bytes
from harness.errors import IntegrityError, ResourceError, StoreBusyError, UsageError
from harness.records import Submission
from harness.stats import estimate
from harness.variance import SeedVariance, pooled_seed_variance

STORE_VERSION = 2
"""Version of harness/schema.sql; a database of another version is rebuilt by `eyechart ingest`."""
SCHEMA = Path(__file__).with_name("schema.sql")
CONFIG = {"enable_external_access": "false", "lock_configuration": "true"}
COUNTS = ("num_expected", "num_scored", "num_unparsed", "num_error", "num_missing")
TIERS = ("re-run", "re-scored", "self-reported")
"""Most to least trusted; a cell has the tier of its least trusted run."""
REBUILD = "delete the file and run `eyechart ingest`: it is rebuilt from the bundles"


@dataclass(frozen=True, kw_only=True)
class IngestReport:
    """What an ingest found."""

    db: Path
    num_bundles: int
    num_samples: int
    num_cells: int
    incomplete: tuple[str, ...]
    """Cells without a value, as protocol/encoder/task: a sample is in error or missing."""
    set_aside: tuple[tuple[str, str], ...]
    """(path, reason) of bundles that are kept but do not count; see `harness.cells`."""
    uncommitted: tuple[str, ...]
    """Folders that bear no COMMIT and were not read."""


def ingest(
    db: Path, *results_roots: Path, progress: Callable[[int, int], None] | None = None
) -> IngestReport:
    """Verify every bundle below the roots and make the database that holds exactly these.

    Args:
        db: the database; replaced in one rename once the new one is whole.
        results_roots: folders with <protocol>/<encoder>/<run key>/. Which root a bundle lies in does not
            matter; the same bundle in two of them counts once.
        progress: called with (bundles read, bundles in all).

    Raises:
        UsageError: a root does not exist.
        StoreBusyError: another process ingests into this database; names its pid.
        IntegrityError: a bundle fails verification; the old database stays as it was.
        ResourceError: the disk is full.
    """
    for root in results_roots:
        if not root.is_dir():
            raise UsageError("no such folder of results", where=str(root))
    new = db.with_name(db.name + ".new")
    with _writer_lock(db):
        _remove(new)
        try:
            connection = duckdb.connect(str(new), config=dict(CONFIG))
            try:
                report = _fill(connection, db, results_roots, progress)
            finally:
                connection.close()
            _replace(new, db)
        except (duckdb.IOException, duckdb.OutOfMemoryException, OSError) as error:
            raise ResourceError("cannot write the database", where=str(db), found=str(error)) from error
        finally:
            _remove(new)
    return report


def open_store(db: Path) -> duckdb.DuckDBPyConnection:
    """Open the database read-only.

    Close it when done: DuckDB shares one view of a file within a process, so that a connection left open
    hides a newer ingest from later ones.

    Raises:
        UsageError: there is no database.
        StoreBusyError: a foreign process has the file open for writing.
        IntegrityError: not a database, damaged, or made by another version.
    """
    if not db.is_file():
        raise UsageError("no database", where=str(db), fix="run `eyechart ingest`")
    connection = None
    try:
        connection = duckdb.connect(str(db), read_only=True, config=dict(CONFIG))
        row = connection.execute("SELECT value FROM meta WHERE key = 'store_version'").fetchone()
    except duckdb.Error as error:
        if connection is not None:
            connection.close()
        raise _open_error(db, error) from error
    if row != (str(STORE_VERSION),):
        connection.close()
        found = str(row[0]) if row else "none"
        raise IntegrityError(
            "store version", where=str(db), found=found, expected=str(STORE_VERSION), fix=REBUILD
        )
    return connection


def _open_error(db: Path, error: duckdb.Error) -> StoreBusyError | IntegrityError:
    text = str(error).splitlines()[0]
    if "lock" in text:
        holder = re.search(r"PID (\d+)", text)
        found = f"process {holder[1]}" if holder else "another process"
        return StoreBusyError("the database is being written", where=str(db), found=found, fix="try again")
    return IntegrityError("not a sound database", where=str(db), found=text, fix=REBUILD)


@contextlib.contextmanager
def _writer_lock(db: Path) -> Iterator[None]:
    """Hold <db>.lock, which contains our pid; the kernel frees it when we die: a stale file blocks nobody."""
    path = db.with_name(db.name + ".lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise ResourceError("cannot lock the database", where=str(path), found=str(error)) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
            raise StoreBusyError(
                "another process is ingesting",
                where=str(db),
                found=f"process {holder}",
                fix="wait for it to end, then run the same command again",
            ) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    for name in (path, path.with_name(path.name + ".wal")):
        name.unlink(missing_ok=True)


def _replace(new: Path, db: Path) -> None:
    with open(new, "rb") as file:
        os.fsync(file.fileno())
    # A log left by a foreign writer belongs to the old file; DuckDB would replay it over the new one.
    db.with_name(db.name + ".wal").unlink(missing_ok=True)
    os.replace(new, db)


def _fill(
    connection: duckdb.DuckDBPyConnection,
    db: Path,
    roots: Sequence[Path],
    progress: Callable[[int, int], None] | None,
) -> IngestReport:
    """Everything between BEGIN and COMMIT."""
    connection.execute("BEGIN")
    connection.execute(SCHEMA.read_text(encoding="utf-8"))
    entries, rows, num_samples = _load_bundles(connection, roots, progress)
    reasons = set_aside(entries)
    for entry in entries:
        rows[entry.digest] |= {
            "counted": entry.digest not in reasons,
            "reason": reasons.get(entry.digest, ""),
        }
    _insert(connection, "runs", [rows[entry.digest] for entry in entries])
    _insert(connection, "encoders", [_encoder_row(submission) for submission in submissions(entries)])
    counted = [entry for entry in entries if entry.digest not in reasons]
    tasks, metrics = [], []
    for _, column in groupby(counted, key=lambda e: e.cell[:2]):
        task, cells = _measure_task(connection, list(column))
        tasks.append(task)
        metrics += cells
    _insert(connection, "tasks", tasks)
    _insert(connection, "metrics", metrics)
    _insert(connection, "meta", [{"key": "store_version", "value": str(STORE_VERSION)}])
    connection.execute("COMMIT")
    return IngestReport(
        db=db,
        num_bundles=len(entries),
        num_samples=num_samples,
        num_cells=len(metrics),
        incomplete=tuple(
            f"{m['protocol']}/{m['encoder']}/{m['task']}" for m in metrics if m["value"] is None
        ),
        set_aside=tuple((entry.path, reasons[entry.digest]) for entry in entries if entry.digest in reasons),
        uncommitted=tuple(str(path) for root in roots for path in find_uncommitted(root)),
    )


def _load_bundles(
    connection: duckdb.DuckDBPyConnection, roots: Sequence[Path], progress: Callable[[int, int], None] | None
) -> tuple[list[Entry], dict[str, dict[str, Any]], int]:
    """Verify bundles, insert samples and costs; entries in board order, their rows of `runs`, samples."""
    paths = sorted((path.relative_to(root).as_posix(), path) for root in roots for path in find_bundles(root))
    rows: dict[str, dict[str, Any]] = {}
    entries: list[Entry] = []
    num_samples = 0
    for number, (name, path) in enumerate(paths, 1):
        bundle = read_bundle(path)
        check_place(bundle)
        if bundle.digest not in rows:
            entry = _entry(bundle, name)
            entries.append(entry)
            rows[entry.digest] = _run_row(bundle, entry)
            _insert_table(connection, "scores", _sample_table(bundle))
            _insert(connection, "stage_costs", _stage_rows(bundle))
            num_samples += bundle.score_table.num_rows
        if progress is not None:
            progress(number, len(paths))
    return sorted(entries, key=lambda e: e.place), rows, num_samples


def _entry(bundle: Bundle, name: str) -> Entry:
    samples = [bundle.score_table[column].to_pylist() for column in ("sample_id", "cluster")]
    return Entry(
        run=bundle.run,
        key=run_key(bundle.run),
        digest=bundle.digest,
        path=name,
        scorer_digest=bundle.scorer_digest,
        samples_digest=digest_bytes(json.dumps(samples).encode()),
    )


def _run_row(bundle: Bundle, entry: Entry) -> dict[str, Any]:
    run = entry.run
    plain = ("protocol", "task", *CONDITION_FIELDS, "chance", "seed", "engine", "tier")
    return {
        **{name: getattr(run, name) for name in plain},
        **asdict(run.counts),
        "recipes": canonical_json(run.recipes).decode(),
        "bundle_digest": entry.digest,
        "run_key": entry.key,
        "path": entry.path,
        "encoder": entry.encoder,
        "identity_digest": run.submission.identity_digest,
        "conditions": entry.conditions,
        "scorer_digest": entry.scorer_digest,
        "samples_digest": entry.samples_digest,
        "value": pc.mean(bundle.score_table["score"]).as_py() if entry.complete else None,
        "receipt": canonical_json(bundle.receipt).decode(),
        "environment": canonical_json(bundle.environment).decode(),
    }


def _sample_table(bundle: Bundle) -> pa.Table:
    table = bundle.score_table
    for name in ("prompt_hash", "answer"):
        table = table.append_column(name, bundle.answer_table[name])
    return table.append_column("bundle_digest", pa.repeat(bundle.digest, table.num_rows))


def _stage_rows(bundle: Bundle) -> list[dict[str, Any]]:
    stages = bundle.environment.get("stages_s", {})
    numbers = isinstance(stages, dict) and all(type(s) in (int, float) and s >= 0 for s in stages.values())
    if not numbers:
        where = str(bundle.path / "environment.json")
        raise IntegrityError("stages_s is not {stage: seconds}", where=where, found=repr(stages)[:80])
    return [
        {"bundle_digest": bundle.digest, "stage": stage, "seconds": float(stages[stage])}
        for stage in sorted(stages)
    ]


def _encoder_row(submission: Submission) -> dict[str, Any]:
    plain = ("identity_digest", "title", "family", "side", "floor", "base", "architecture", "license")
    return {
        **{name: getattr(submission, name) for name in (*plain, "contamination")},
        "encoder": submission.id,
        "resolution": submission.input.resolution,
        "submission": canonical_json(submission).decode(),
    }


def _measure_task(
    connection: duckdb.DuckDBPyConnection, column: list[Entry]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The row of `tasks` and the rows of `metrics` of one (protocol, task), its entries in board order."""
    first = column[0]
    for entry in column:
        if entry.samples_digest != first.samples_digest:
            what = f"same task and dataset digest, but other samples or clusters than {first.path}"
            raise IntegrityError(what, where=entry.path)
    clusters = _column(connection, "cluster", first)
    cells = {encoder: list(runs) for encoder, runs in groupby(column, key=lambda e: e.encoder)}
    tables = {
        encoder: np.stack([_column(connection, "score", entry) for entry in runs])
        for encoder, runs in cells.items()
        if all(entry.complete for entry in runs)
    }
    # A floor has little to learn from: its seed noise says nothing about the encoders', nor theirs about its.
    floors = {entry.encoder for entry in column if entry.run.submission.floor is not None}
    pool = pooled_seed_variance([t for encoder, t in tables.items() if encoder not in floors], clusters)
    metrics = []
    for encoder, runs in cells.items():
        row = _metric_row(runs)
        if encoder in tables:
            row |= _interval(tables[encoder], clusters, None if encoder in floors else pool)
        metrics.append(row)
    task = {
        **{name: getattr(first.run, name) for name in ("protocol", "task", *CONDITION_FIELDS, "chance")},
        "num_expected": first.run.counts.num_expected,
        "scorer_digest": first.scorer_digest,
        "conditions": first.conditions,
        "seed_variance": pool.variance,
        "seed_df": pool.df,
        "seed_total": pool.total,
    }
    return task, metrics


def _metric_row(runs: Sequence[Entry]) -> dict[str, Any]:
    run = runs[0].run
    return {
        **{name: getattr(run, name) for name in ("protocol", "task", "split", "metric")},
        **{name: sum(getattr(entry.run.counts, name) for entry in runs) for name in COUNTS},
        **dict.fromkeys(("value", "ci_low", "ci_high", "se", "df")),
        "encoder": runs[0].encoder,
        "seeds_unknown": len(runs) < 2,
        "num_seeds": len(runs),
        "tier": max((entry.run.tier for entry in runs), key=TIERS.index),
    }


def _interval(scores: NDArray[Any], clusters: NDArray[Any], pool: SeedVariance | None) -> dict[str, Any]:
    got = estimate(scores, clusters, pool)
    # SQL has NULL for "unknown"; an infinite standard error would poison every sum it meets.
    known = bool(np.isfinite(got.se))
    return {
        "value": got.value,
        "ci_low": got.low,
        "ci_high": got.high,
        "se": got.se if known else None,
        "df": got.df if known else None,
        "seeds_unknown": got.seeds_unknown,
    }


def _column(connection: duckdb.DuckDBPyConnection, name: str, entry: Entry) -> NDArray[Any]:
    query = f"SELECT {name} FROM scores WHERE bundle_digest = ? ORDER BY sample_id"
    return np.asarray(connection.execute(query, [entry.digest]).fetchnumpy()[name])


def _insert(connection: duckdb.DuckDBPyConnection, table: str, rows: list[dict[str, Any]]) -> None:
    if rows:
        columns = [name for name, *_ in connection.execute(f"DESCRIBE {table}").fetchall()]
        _insert_table(connection, table, pa.table({name: [row[name] for row in rows] for name in columns}))


def _insert_table(connection: duckdb.DuckDBPyConnection, table: str, staged: pa.Table) -> None:
    connection.register("staged", staged)
    connection.execute(f"INSERT INTO {table} BY NAME SELECT * FROM staged")
    connection.unregister("staged")
