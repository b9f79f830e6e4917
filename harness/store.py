"""The index: verified bundles in DuckDB, rebuilt whole at every ingest, so that losing it loses nothing.

One writer at a time (a lock file beside the database); it builds a new file and renames it over the old one,
so readers always see a finished database and never wait. Readers open read-only and reach no other file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from harness.board_rows import MeasuredTask, agreement_rows, family_rows, measure_all, rank_rows
from harness.bundle import Bundle, check_place, find_bundles, find_uncommitted, read_bundle, run_key
from harness.cells import CONDITION_FIELDS, Entry, set_aside, submissions
from harness.digest import canonical_json, digest_bytes
from harness.errors import IntegrityError, UsageError
from harness.floor_rows import floor_rows
from harness.ledger import all_attempts, all_tombstones
from harness.pair_facts import network_of, pair_facts
from harness.pair_rows import declared_rows, difference_rows, pair_notes
from harness.pairs import Pair
from harness.records import SELF_REPORTED, TIERS, Submission
from harness.stats import estimate, null_unknown
from harness.store_files import (
    CONFIG,
    STORE_VERSION,
    open_store,
    refuse_foreign,
    remove_database,
    replace_database,
    write_error,
    writer_lock,
)
from harness.variance import SeedPool, pool_seeds

Rows = list[dict[str, Any]]

__all__ = ["STORE_VERSION", "IngestReport", "ingest", "open_store"]

SCHEMA = Path(__file__).with_name("schema.sql")
WRITER = {**CONFIG, "threads": "1"}
"""The writer computes in one thread: an insert is too short to be shared; waiting costs more than working."""
PROBE_ENGINE = "probe"
"""What `Run.engine` says where a linear probe answered."""
BULK_ROWS = 50_000
"""Samples that one statement inserts: some forty bundles of the mini suite."""
COUNTS = ("num_expected", "num_scored", "num_unparsed", "num_error", "num_missing")


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
    pairs: tuple[str, ...] = ()
    """Declared pairs that do not count, and why."""


def ingest(
    db: Path,
    *results_roots: Path,
    pairs: Sequence[Pair] = (),
    rebuild: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> IngestReport:
    """Verify every bundle below the roots and make the database that holds exactly these.

    What lies under the database's name is never read, so that its state and its version do not matter.

    Args:
        db: the database; replaced in one rename once the new one is whole.
        results_roots: folders with <protocol>/<encoder>/<run key>/. Which root a bundle lies in does not
            matter; the same bundle in two of them counts once.
        pairs: declared pairs, see `harness.pairs.read_pairs`.
        rebuild: remove the old database first, instead of keeping it until the new one is whole.
        progress: called with (bundles read, bundles in all).

    Raises:
        UsageError: a root does not exist, its ledger is not valid, or the database is a folder.
        StoreBusyError: another process ingests into this database; names that process.
        IntegrityError: a bundle fails verification; the old database stays as it was.
        ResourceError: the disk is full.
    """
    for root in results_roots:
        if not root.is_dir():
            raise UsageError("no such folder of results", where=str(root))
    if db.is_dir():
        raise UsageError("the database is a folder", where=str(db), fix="name a file")
    refuse_foreign(db)
    new = db.with_name(db.name + ".new")
    with writer_lock(db):
        try:
            remove_database(new)
            if rebuild:
                remove_database(db)
            connection = duckdb.connect(str(new), config=dict(WRITER))
            try:
                report = _fill(connection, db, results_roots, pairs, progress)
            finally:
                connection.close()
            replace_database(new, db)
        except (duckdb.IOException, duckdb.OutOfMemoryException, OSError) as error:
            raise write_error(db, error) from error
        finally:
            remove_database(new)
    return report


def _fill(
    connection: duckdb.DuckDBPyConnection,
    db: Path,
    roots: Sequence[Path],
    pairs: Sequence[Pair],
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
    tasks, metrics, differences, against, measured = [], [], [], [], []
    for _, column in groupby(counted, key=lambda e: e.cell[:2]):
        task, cells, between, floors, ranked = _measure_task(connection, list(column), pairs)
        tasks.append(task)
        metrics += cells
        against += floors
        differences += between
        measured += [] if ranked is None else [ranked]
    _insert(connection, "tasks", tasks)
    _insert(connection, "metrics", metrics)
    _insert(connection, "declared_pairs", declared_rows(pairs))
    _insert(connection, "attempts", [asdict(attempt) for attempt in all_attempts(roots)])
    _insert(connection, "tombstones", [asdict(stone) for stone in all_tombstones(roots)])
    _insert(connection, "pair_differences", differences)
    _insert(connection, "floor_differences", against)
    receipts = {entry.digest: json.loads(rows[entry.digest]["receipt"]) for entry in counted}
    facts = _insert_board(connection, counted, receipts, pairs, differences, measured)
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
        pairs=pair_notes(pairs, {entry.encoder for entry in counted}, facts),
    )


def _insert_board(
    connection: duckdb.DuckDBPyConnection,
    counted: Sequence[Entry],
    receipts: Mapping[str, dict[str, Any]],
    pairs: Sequence[Pair],
    differences: Sequence[dict[str, Any]],
    measured: Sequence[MeasuredTask],
) -> Rows:
    """What needs all encoders at once: ranks, families, the probe against the rest; returns pairs' facts."""
    known = {submission.id: submission for submission in submissions(counted)}
    networks = {
        encoder: network_of([receipts[e.digest] for e in counted if e.encoder == encoder])
        for encoder in {e for pair in pairs for e in (pair.a, pair.b)} & set(known)
    }
    facts = [
        {"a": pair.a, "b": pair.b, **fact._asdict(), "contradicted": fact.contradicted}
        for pair in pairs
        if {pair.a, pair.b} <= set(known)
        for fact in pair_facts(pair, known, networks)
    ]
    wrong = {(row["a"], row["b"]) for row in facts if row["contradicted"]}
    agreements, flips = agreement_rows(measured)
    sides: dict[str, str] = {encoder: submission.side for encoder, submission in known.items()}
    _insert(connection, "pair_facts", facts)
    reported = {(e.run.protocol, e.encoder) for e in counted if e.run.tier == SELF_REPORTED}
    _insert(connection, "family_effects", family_rows(differences, sides, wrong, reported))
    _insert(connection, "ranks", rank_rows(measured))
    _insert(connection, "rank_agreement", agreements)
    _insert(connection, "rank_flips", flips)
    return facts


def _load_bundles(
    connection: duckdb.DuckDBPyConnection, roots: Sequence[Path], progress: Callable[[int, int], None] | None
) -> tuple[list[Entry], dict[str, dict[str, Any]], int]:
    """Verify bundles, insert samples and costs; entries in board order, their rows of `runs`, samples."""
    paths = sorted((path.relative_to(root).as_posix(), path) for root in roots for path in find_bundles(root))
    rows: dict[str, dict[str, Any]] = {}
    costs: dict[str, list[dict[str, Any]]] = {}
    entries: list[Entry] = []
    waiting: list[pa.Table] = []
    num_samples = 0
    for number, (name, path) in enumerate(paths, 1):
        bundle = read_bundle(path)
        check_place(bundle)
        digest = bundle.digest
        if digest not in rows:
            entries.append(_entry(bundle, name))
            rows[digest], costs[digest] = _run_row(bundle, entries[-1]), _stage_rows(bundle)
            waiting.append(_sample_table(bundle))
            num_samples += bundle.score_table.num_rows
            if sum(table.num_rows for table in waiting) >= BULK_ROWS:
                insert_table(connection, "scores", pa.concat_tables(waiting))
                waiting.clear()
        elif (environment := canonical_json(bundle.environment).decode()) < rows[digest]["environment"]:
            # No hash covers the environment: of two copies that differ in it, the order must not choose.
            rows[digest]["environment"], costs[digest] = environment, _stage_rows(bundle)
        if progress is not None:
            progress(number, len(paths))
    if waiting:
        insert_table(connection, "scores", pa.concat_tables(waiting))
    _insert(connection, "stage_costs", [row for digest in sorted(costs) for row in costs[digest]])
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
    connection: duckdb.DuckDBPyConnection, column: list[Entry], pairs: Sequence[Pair]
) -> tuple[dict[str, Any], Rows, Rows, Rows, MeasuredTask | None]:
    """Rows of `tasks`, `metrics`, `pair_differences`, `floor_differences` of a task, and its ranked encoders.

    The entries are in board order. Floors and self-reported rows neither lend their noise nor are ranked.
    """
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
    apart = floors | {entry.encoder for entry in column if entry.run.tier == SELF_REPORTED}
    ranked = {encoder: table for encoder, table in tables.items() if encoder not in apart}
    pool = pool_seeds(list(ranked.values()), clusters)
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
        "seed_ratio": pool.ratio,
        "seed_df": pool.df,
        "seed_total": pool.total,
    }
    place = {"protocol": first.run.protocol, "task": first.run.task}
    between = difference_rows(pairs, tables, clusters, pool, floors)
    is_probe = first.run.engine == PROBE_ENGINE
    measured = measure_all(first.run.protocol, first.run.task, ranked, clusters, pool, is_probe=is_probe)
    against = floor_rows({e: runs[0].run.submission for e, runs in cells.items()}, tables, clusters, pool)
    pairs_rows, floors_rows = ([{**place, **row} for row in rows] for rows in (between, against))
    return task, metrics, pairs_rows, floors_rows, measured


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


def _interval(scores: NDArray[Any], clusters: NDArray[Any], pool: SeedPool | None) -> dict[str, Any]:
    got = estimate(scores, clusters, pool)
    return {"value": got.value, **null_unknown(got), "seeds_unknown": got.seeds_unknown}


def _column(connection: duckdb.DuckDBPyConnection, name: str, entry: Entry) -> NDArray[Any]:
    query = f"SELECT {name} FROM scores WHERE bundle_digest = ? ORDER BY sample_id"
    return np.asarray(connection.execute(query, [entry.digest]).fetchnumpy()[name])


def _insert(connection: duckdb.DuckDBPyConnection, table: str, rows: list[dict[str, Any]]) -> None:
    if rows:
        columns = [name for name, *_ in connection.execute(f"DESCRIBE {table}").fetchall()]
        insert_table(connection, table, pa.table({name: [row[name] for row in rows] for name in columns}))


def insert_table(connection: duckdb.DuckDBPyConnection, table: str, staged: pa.Table) -> None:
    """Insert all rows of an Arrow table, column by name; DuckDB reads its memory as it is."""
    connection.register("staged", staged)
    connection.execute(f"INSERT INTO {table} BY NAME SELECT * FROM staged")
    connection.unregister("staged")
