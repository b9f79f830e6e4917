"""Reads the DuckDB index, the declared pairs and the task definitions into `Facts`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
from numpy.typing import NDArray

from harness.digest import digest_json
from harness.errors import IntegrityError
from harness.ledger import Attempt, Tombstone
from harness.pair_facts import Network, PairFact, network_of, pair_facts
from harness.pairs import Pair, read_pairs
from harness.protocol import known_protocols, read_protocol
from harness.record_json import record_from_json
from harness.records import Metric, Protocol, Submission
from harness.store import open_store
from harness.store_files import read_error
from harness.task import known_tasks, read_task
from harness.variance import SeedPool
from leaderboard.facts import Agreement, CellKey, Facts, Place, RunFacts, ScoreTable
from leaderboard.sample_facts import with_samples

_METRIC_COLUMNS = (
    "protocol", "encoder", "family", "side", "task", "split", "metric", "value", "ci_low", "ci_high",
    "num_seeds", "num_expected", "num_scored", "num_unparsed", "num_error", "num_missing", "tier",
)  # fmt: skip
_RUN_COLUMNS = (
    "run_key", "bundle_digest", "protocol", "encoder", "task", "seed", "value",
    "num_expected", "num_scored", "num_unparsed", "num_error", "num_missing", "tier",
)  # fmt: skip
_INPUT_COLUMNS = {
    "task": "task_digest", "dataset": "dataset_digest", "scorer": "scorer_digest", "engine": "engine",
    "dtype": "dtype", "LLM revision": "llm_revision", "protocol version": "protocol_version",
}  # fmt: skip


def read_facts(
    db: Path,
    pairs: Path | None,
    tasks_dir: Path | None,
    protocols: Sequence[Path] = (),
    datasets: Path | None = None,
    *,
    local_media: bool = False,
) -> Facts:
    """Everything the pages need.

    Args:
        db: the DuckDB index.
        pairs: pairs.toml, or None.
        tasks_dir: folder of task definitions; the repository's by default.
        protocols: files of protocols beside those that come with Eyechart.
        datasets: folder with a folder a suite, whose task packs tell what a sample is; None for none.
        local_media: show what licences forbid, too, for a person's own eyes.

    Raises:
        StoreBusyError, UsageError, IntegrityError: as `open_store`.
        IntegrityError: a task pack is damaged.
        UsageError: a task definition, a protocol or pairs.toml is not valid.
    """
    others = {protocol.name: protocol for protocol in map(read_protocol, map(str, protocols))}
    connection = open_store(db)
    try:
        facts = _read(connection, read_pairs(pairs) if pairs else (), tasks_dir, others)
        return with_samples(connection, facts, datasets, local=local_media)
    except duckdb.Error as error:  # the queries are ours: what fails is the file
        raise read_error(db, error) from error
    finally:
        connection.close()


def _read(
    connection: duckdb.DuckDBPyConnection,
    pairs: tuple[Pair, ...],
    tasks_dir: Path | None,
    others: Mapping[str, Protocol],
) -> Facts:
    metrics = [
        Metric(**row)
        for row in _rows(
            connection,
            f"SELECT {', '.join(_METRIC_COLUMNS)} FROM leaderboard ORDER BY protocol, task, encoder",
        )
    ]
    columns = _rows(
        connection,
        "SELECT protocol, task, suite, chance, seed_ratio, seed_df, seed_total FROM tasks "
        "ORDER BY protocol, task",
    )
    installed = set(known_tasks(tasks_dir))
    runs = _runs(connection)
    submissions = _submissions(connection)
    receipts: dict[str, list[Mapping[str, Any]]] = {}
    for run in runs:
        receipts.setdefault(run.encoder, []).append(run.receipt)
    networks = {e: network_of(receipts.get(e, ())) for e in submissions}
    aside = _rows(connection, "SELECT path, reason FROM runs WHERE NOT counted ORDER BY path")
    return Facts(
        metrics={(m.protocol, m.encoder, m.task): m for m in metrics},
        submissions=submissions,
        runs=runs,
        scores=_score_tables(connection, metrics),
        seed_pools={
            (c["protocol"], c["task"]): SeedPool(c["seed_ratio"], c["seed_df"], c["seed_total"])
            for c in columns
        },
        chances={(c["protocol"], c["task"]): c["chance"] for c in columns},
        tasks={c["task"]: read_task(c["task"], tasks_dir) for c in columns if c["task"] in installed},
        suites={c["protocol"]: c["suite"] for c in columns},
        protocols=_recipes({c["protocol"] for c in columns}, others),
        pairs=pairs,
        set_aside=tuple((a["path"], a["reason"]) for a in aside),
        index_digest=digest_json(sorted(r.bundle_digest for r in runs)),
        pair_facts=_pair_facts(pairs, submissions, networks),
        places=_places(connection),
        agreements=_agreements(connection),
        under_budget=frozenset(r.encoder for r in runs if r.receipt.get("under_budget") is True),
        faults=_faults(runs),
        networks=networks,
        attempts={r["encoder"]: Attempt(**r) for r in _rows(connection, "SELECT * FROM attempts ORDER BY 1")},
        tombstones=tuple(
            Tombstone(**r)
            for r in _rows(connection, "SELECT * FROM tombstones ORDER BY date, protocol, encoder, reason")
        ),
    )


def _faults(runs: Sequence[RunFacts]) -> dict[str, tuple[str, ...]]:
    found: dict[str, set[str]] = {}
    for run in runs:
        found.setdefault(run.encoder, set()).update(run.doctor[2:])
    return {encoder: tuple(sorted(codes)) for encoder, codes in found.items() if codes}


def _recipes(names: set[str], others: Mapping[str, Protocol]) -> dict[str, Protocol]:
    """Protocols of the index whose definition is at hand; one given beside comes before one installed."""
    installed = {name: read_protocol(name) for name in known_protocols() if name in names - set(others)}
    return {name: protocol for name, protocol in {**installed, **others}.items() if name in names}


def _rows(
    connection: duckdb.DuckDBPyConnection, query: str, parameters: Sequence[object] = ()
) -> list[dict[str, Any]]:
    cursor = connection.execute(query, list(parameters))
    names = [column[0] for column in cursor.description or ()]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def _submissions(connection: duckdb.DuckDBPyConnection) -> dict[str, Submission]:
    rows = _rows(connection, "SELECT encoder, submission FROM encoders ORDER BY encoder")
    return {
        r["encoder"]: record_from_json(
            Submission, _object(r["submission"], r["encoder"]), f"index, encoder {r['encoder']}"
        )
        for r in rows
    }


def _runs(connection: duckdb.DuckDBPyConnection) -> tuple[RunFacts, ...]:
    costs: dict[tuple[str, str, str, int], dict[str, float]] = {}
    for c in _rows(connection, "SELECT protocol, encoder, task, seed, stage, seconds FROM costs"):
        costs.setdefault((c["protocol"], c["encoder"], c["task"], c["seed"]), {})[c["stage"]] = c["seconds"]
    columns = ", ".join([*_RUN_COLUMNS, *_INPUT_COLUMNS.values(), "recipes", "receipt", "environment"])
    query = f"SELECT {columns} FROM runs WHERE counted ORDER BY protocol, task, encoder, seed"
    found = []
    for row in _rows(connection, query):
        place = f"{row['encoder']}, {row['task']}, seed {row['seed']}"
        inputs = {label: str(row[column]) for label, column in _INPUT_COLUMNS.items()}
        inputs |= {f"{k} recipe": str(v) for k, v in _object(row["recipes"], place).items()}
        found.append(
            RunFacts(
                **{name: row[name] for name in _RUN_COLUMNS},
                inputs=inputs,
                receipt=_object(row["receipt"], place),
                environment=_object(row["environment"], place),
                costs=costs.get((row["protocol"], row["encoder"], row["task"], row["seed"]), {}),
            )
        )
    return tuple(found)


def _pair_facts(
    pairs: Sequence[Pair], submissions: Mapping[str, Submission], networks: Mapping[str, Network]
) -> dict[tuple[str, str], tuple[PairFact, ...]]:
    """Declared aspects of pairs in the index, computed as `harness.store` does for the pairs it was given."""
    return {
        (pair.a, pair.b): pair_facts(pair, submissions, networks)
        for pair in pairs
        if {pair.a, pair.b} <= set(submissions)
    }


def _places(connection: duckdb.DuckDBPyConnection) -> dict[CellKey, Place]:
    rows = _rows(connection, "SELECT * FROM ranks ORDER BY protocol, task, encoder")
    return {
        (r["protocol"], r["encoder"], r["task"]): Place(
            low=r["rank_low"], high=r["rank_high"], groups=tuple(r["tie_groups"]), num_ranked=r["num_ranked"]
        )
        for r in rows
    }


def _agreements(connection: duckdb.DuckDBPyConnection) -> tuple[Agreement, ...]:
    flips: dict[tuple[str, str, str], list[tuple[str, str]]] = {}
    for f in _rows(connection, "SELECT * FROM rank_flips ORDER BY ALL"):
        flips.setdefault((f["protocol"], f["probe"], f["task"]), []).append((f["by_probe"], f["by_task"]))
    return tuple(
        Agreement(
            protocol=r["protocol"],
            probe=r["probe"],
            task=r["task"],
            num_encoders=r["num_encoders"],
            correlation=r["correlation"],
            low=r["ci_low"],
            high=r["ci_high"],
            flips=tuple(flips.get((r["protocol"], r["probe"], r["task"]), ())),
        )
        for r in _rows(connection, "SELECT * FROM rank_agreement ORDER BY protocol, probe, task")
    )


def _object(text: str, place: str) -> dict[str, Any]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise IntegrityError("not a JSON object in the index", where=place)
    return value


def _score_tables(
    connection: duckdb.DuckDBPyConnection, metrics: Sequence[Metric]
) -> dict[CellKey, ScoreTable]:
    """Scores of every complete cell, read task by task, so that memory holds one task's rows as objects."""
    complete = {(m.protocol, m.encoder, m.task) for m in metrics if m.value is not None}
    found: dict[CellKey, ScoreTable] = {}
    for protocol, task in sorted({(p, t) for p, _, t in complete}):
        names = {e for p, e, t in complete if (p, t) == (protocol, task)}
        columns = connection.execute(
            "SELECT encoder, seed, sample_id, cluster, score FROM samples WHERE protocol = ? AND task = ? "
            "ORDER BY encoder, seed, sample_id",
            [protocol, task],
        ).fetchnumpy()
        encoders = np.asarray(columns["encoder"])
        starts = [0, *(np.flatnonzero(encoders[1:] != encoders[:-1]) + 1), len(encoders)]
        shared: dict[tuple[str, ...], tuple[str, ...]] = {}
        for start, end in pairwise(starts):
            encoder = str(encoders[start])
            if encoder in names:
                part = {k: np.asarray(v)[start:end] for k, v in columns.items()}
                found[protocol, encoder, task] = _score_table(part, f"{encoder}, {task}", shared)
    return found


def _score_table(
    part: dict[str, NDArray[Any]], place: str, shared: dict[tuple[str, ...], tuple[str, ...]]
) -> ScoreTable:
    num_seeds = len(np.unique(part["seed"]))
    ids = part["sample_id"].reshape(num_seeds, -1) if len(part["seed"]) % num_seeds == 0 else None
    if ids is None or not bool(np.all(ids == ids[0])):
        raise IntegrityError("seeds of one cell hold different samples", where=place)
    sample_ids = tuple(str(i) for i in ids[0])
    return ScoreTable(
        # Equal ids are one object: comparing them later is then a comparison of addresses.
        sample_ids=shared.setdefault(sample_ids, sample_ids),
        clusters=part["cluster"].reshape(num_seeds, -1)[0].astype(str),
        scores=part["score"].astype(np.float64).reshape(num_seeds, -1),
    )
