"""The whole index as files that any program reads: `eyechart export board`.

Every table and view as Parquet, CSV and JSON, and index.json with rows and hashes. The same bundles give the
same bytes, in whatever order and in whichever folders they lie. Hence the rows are sorted by all columns, and
`path` is left out: it tells where a bundle lay, the bundle digest tells which one it is.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from harness.digest import digest_file
from harness.errors import ResourceError, UsageError
from harness.files import sync_folder, temporary_name, write_json
from harness.query import read_rows
from harness.row_formats import BATCH_ROWS, write_rows
from harness.store_files import STORE_VERSION, open_store

FORMATS = ("parquet", "csv", "json")
"""In this order: the sorted rows are asked for once, and the others are made from the Parquet file."""
BOARD_VERSION = 1
"""Version of the folder's layout, in index.json."""
PLACE = "path"
"""The column that no file holds."""


@dataclass(frozen=True, kw_only=True)
class BoardReport:
    """What an export wrote."""

    folder: Path
    num_tables: int
    num_rows: int
    num_bytes: int


def export_board(db: Path, folder: Path) -> BoardReport:
    """Write every table and view of the index into a new folder, which appears whole or not at all.

    Raises:
        UsageError: no database, or the folder holds something.
        StoreBusyError, IntegrityError: as `open_store`; also where a block turns out to be damaged.
        ResourceError: the files cannot be written, or memory is too small.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        what = "the folder is not empty" if folder.is_dir() else "not a folder"
        raise UsageError(what, where=str(folder), fix="name a new one")
    connection = open_store(db)
    try:
        with _new_folder(folder) as unfinished:
            files = [
                entry
                for name in _tables(connection)
                for entry in _write_table(connection, db, name, unfinished)
            ]
            index = {"board_version": BOARD_VERSION, "store_version": STORE_VERSION, "files": files}
            write_json(unfinished / "index.json", index)
    finally:
        connection.close()
    parts = [f for f in files if f["file"].endswith(f".{FORMATS[0]}")]
    return BoardReport(
        folder=folder,
        num_tables=len(parts),
        num_rows=sum(f["rows"] for f in parts),
        num_bytes=sum(f["bytes"] for f in files),
    )


@contextlib.contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """A folder under a temporary name, renamed to its own when the block ends well."""
    unfinished = folder.parent / temporary_name()
    try:
        unfinished.mkdir(parents=True)
        yield unfinished
        for path in [*unfinished.iterdir(), unfinished]:
            sync_folder(path)
        os.replace(unfinished, folder)  # an empty folder of that name gives way
        sync_folder(folder.parent)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ResourceError(f"cannot write, {reason}", where=str(folder), fix="free some space") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _tables(connection: duckdb.DuckDBPyConnection) -> list[str]:
    """Names of all tables and views."""
    query = "SELECT table_name FROM information_schema.tables WHERE table_schema = 'main' ORDER BY table_name"
    return [str(name) for (name,) in connection.execute(query).fetchall()]


def _write_table(
    connection: duckdb.DuckDBPyConnection, db: Path, name: str, folder: Path
) -> list[dict[str, Any]]:
    """One table or view in each format; what index.json says of each file."""
    columns = [str(row[0]) for row in connection.execute(f"DESCRIBE {name}").fetchall()]
    chosen = ", ".join(f'"{column}"' for column in columns if column != PLACE)
    first = folder / f"{name}.{FORMATS[0]}"
    with read_rows(connection, db, f"SELECT {chosen} FROM {name} ORDER BY ALL") as (schema, batches):
        entries = [_write_file(name, first, schema, batches)]
    for form in FORMATS[1:]:
        with pq.ParquetFile(first, page_checksum_verification=True) as file:
            rows = file.iter_batches(BATCH_ROWS)
            entries.append(_write_file(name, first.with_suffix(f".{form}"), schema, rows))
    return entries


def _write_file(
    name: str, path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch]
) -> dict[str, Any]:
    with open(path, "xb") as file:
        num_rows = write_rows(path.suffix.removeprefix("."), file, schema, batches)
    entry = {"file": path.name, "of": name, "rows": num_rows}
    return {**entry, "bytes": path.stat().st_size, "sha256": digest_file(path)}
