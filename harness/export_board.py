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
from dataclasses import asdict, dataclass
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
class Limits:
    """What a folder that is to be small leaves out."""

    rows: int
    """Of a table; one with more is left out whole, before it is read."""
    bytes: int
    """Of a file; a larger one is left out."""


@dataclass(frozen=True, kw_only=True)
class BoardFile:
    """One file of an export."""

    file: str
    of: str
    """The table or view."""
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class BoardReport:
    """What an export wrote."""

    folder: Path
    num_tables: int
    num_rows: int
    num_bytes: int
    files: tuple[BoardFile, ...]
    left_out: tuple[str, ...]
    """Files that the limits forbid; none without limits."""


def export_board(db: Path, folder: Path, limits: Limits | None = None) -> BoardReport:
    """Write every table and view of the index into a new folder, which appears whole or not at all.

    Args:
        db: the DuckDB index.
        folder: a new or empty one.
        limits: what to leave out; index.json names it then.

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
            written, large = _split(_write_tables(connection, db, unfinished, limits), limits)
            for left in large:
                (unfinished / left).unlink(missing_ok=True)
            index: dict[str, Any] = {"board_version": BOARD_VERSION, "store_version": STORE_VERSION}
            index |= {"files": [asdict(f) for f in written]} | ({"left_out": large} if limits else {})
            write_json(unfinished / "index.json", index)
    finally:
        connection.close()
    tables = {f.of: f.rows for f in written}
    return BoardReport(
        folder=folder,
        num_tables=len(tables),
        num_rows=sum(tables.values()),
        num_bytes=sum(f.bytes for f in written),
        files=tuple(written),
        left_out=tuple(large),
    )


def _write_tables(
    connection: duckdb.DuckDBPyConnection, db: Path, folder: Path, limits: Limits | None
) -> Iterator[BoardFile | str]:
    """Files in the order of their tables; of a table with too many rows only the names."""
    for name in _tables(connection):
        if limits is not None and _count(connection, name) > limits.rows:
            yield from (f"{name}.{form}" for form in FORMATS)
        else:
            yield from _write_table(connection, db, name, folder)


def _split(found: Iterable[BoardFile | str], limits: Limits | None) -> tuple[list[BoardFile], list[str]]:
    """Files to keep, and names of those to leave out."""
    kept, left = [], []
    for item in found:
        if isinstance(item, str):
            left.append(item)
        elif limits is not None and item.bytes > limits.bytes:
            left.append(item.file)
        else:
            kept.append(item)
    return kept, left


def _count(connection: duckdb.DuckDBPyConnection, name: str) -> int:
    row = connection.execute(f"SELECT count(*) FROM {name}").fetchone()
    return int(row[0]) if row else 0


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


def _write_table(connection: duckdb.DuckDBPyConnection, db: Path, name: str, folder: Path) -> list[BoardFile]:
    """One table or view in each format."""
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


def _write_file(name: str, path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> BoardFile:
    with open(path, "xb") as file:
        num_rows = write_rows(path.suffix.removeprefix("."), file, schema, batches)
    return BoardFile(
        file=path.name, of=name, rows=num_rows, bytes=path.stat().st_size, sha256=digest_file(path)
    )
