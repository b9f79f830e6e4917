"""Measures the store's bulk insert against DuckDB's `executemany`, into the table `scores` of a file.

All rows by `executemany` take minutes, so that a slice of them is timed and the time is taken in proportion.
Both run with the settings of the store's writer. What is judged is the harder comparison: `executemany`
within one transaction, as the bulk insert is; the commit writes the same rows for both and is left out of
both. Called alone, `executemany` commits row by row. `python scripts/bench_store.py`, or `make bench-stats`.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import duckdb
import pyarrow as pa

from harness.store import SCHEMA, WRITER, insert_table

NUM_ROWS = 50_000
SLICE_ROWS, SLICE_REPEATS = 2_000, 3
"""Rows that `executemany` is given within one transaction; the best of so many times counts."""
ALONE_ROWS = 200
"""Rows that it is given without."""
REPEATS = 15
"""The best of so many counts for the bulk insert, which takes milliseconds."""
FACTOR = 300


def sample_rows(num_rows: int) -> pa.Table:
    """Rows as bundles hold them: 1,000 samples a bundle."""
    numbers = range(num_rows)
    return pa.table(
        {
            "sample_id": [f"{number % 1000:06}" for number in numbers],
            "cluster": [f"image-{number % 1000 // 5}" for number in numbers],
            "score": [float(number * 7919 % 3 == 0) for number in numbers],
            "status": ["scored"] * num_rows,
            "prompt_hash": [f"{number * 2654435761 % 2**64:016x}" for number in numbers],
            "answer": [("yes", "no", "a red triangle")[number % 3] for number in numbers],
            "bundle_digest": [f"{number // 1000:064x}" for number in numbers],
        }
    )


def empty_store(folder: str) -> duckdb.DuckDBPyConnection:
    """A database file with the store's tables and the settings of its writer."""
    connection = duckdb.connect(f"{folder}/{time.perf_counter_ns()}.duckdb", config=dict(WRITER))
    connection.execute(SCHEMA.read_text(encoding="utf-8"))
    return connection


def time_bulk(folder: str, rows: pa.Table) -> float:
    """Seconds for all rows as `eyechart ingest` inserts them, in the midst of its one transaction."""
    connection = empty_store(folder)
    connection.execute("BEGIN")
    began = time.perf_counter()
    insert_table(connection, "scores", rows)
    took = time.perf_counter() - began
    connection.execute("COMMIT")
    require_rows(connection, rows.num_rows)
    return took


def time_executemany(folder: str, rows: pa.Table, *, one_transaction: bool) -> float:
    """Seconds for the rows by `executemany`."""
    connection = empty_store(folder)
    values = [tuple(row.values()) for row in rows.to_pylist()]
    marks = ", ".join("?" * rows.num_columns)
    if one_transaction:
        connection.execute("BEGIN")
    began = time.perf_counter()
    connection.executemany(f"INSERT INTO scores ({', '.join(rows.column_names)}) VALUES ({marks})", values)
    took = time.perf_counter() - began
    if one_transaction:
        connection.execute("COMMIT")
    require_rows(connection, rows.num_rows)
    return took


def require_rows(connection: duckdb.DuckDBPyConnection, expected: int) -> None:
    """See that what was timed was done."""
    found = connection.execute("SELECT count(*) FROM scores").fetchall()[0][0]
    connection.close()
    if found != expected:
        raise SystemExit(f"{found} rows in the table, expected {expected}")


def main() -> int:
    """Print the times and the factor; 1 when it is below `FACTOR`."""
    rows = sample_rows(NUM_ROWS)
    with tempfile.TemporaryDirectory(prefix="eyechart-bench-") as folder:
        # The first hand-over of an Arrow table imports pandas where it is installed: once a process.
        time_bulk(folder, rows.slice(0, 1))
        bulk = min(time_bulk(folder, rows) for _ in range(REPEATS))
        part = rows.slice(0, SLICE_ROWS)
        together = min(time_executemany(folder, part, one_transaction=True) for _ in range(SLICE_REPEATS))
        alone = time_executemany(folder, rows.slice(0, ALONE_ROWS), one_transaction=False)
    together, alone = together * NUM_ROWS / SLICE_ROWS, alone * NUM_ROWS / ALONE_ROWS
    factor = together / bulk
    print(f"bulk insert of {NUM_ROWS:,} rows: {bulk:.4f} s (best of {REPEATS})")
    print(f"executemany, one transaction: {together:.1f} s (in proportion, {SLICE_ROWS:,} rows)")
    print(
        f"executemany, called alone: {alone:.1f} s (in proportion, {ALONE_ROWS:,} rows); {alone / bulk:,.0f}x"
    )
    verdict = "pass" if factor >= FACTOR else "FAIL"
    print(f"factor against one transaction: {factor:,.0f}, at least {FACTOR} wanted: {verdict}")
    return int(factor < FACTOR)


if __name__ == "__main__":
    sys.exit(main())
