"""SQL over the index, read-only and locked down: `eyechart query`.

The database is opened read-only, without access to other files and with its settings locked; on top of
that one statement is taken, and only one that reads.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from harness.errors import ResourceError, UsageError
from harness.row_formats import BATCH_ROWS, dump_json, plain_value
from harness.store_files import open_store, read_error
from harness.tables import text_table

TABLE_ROWS = 1000
"""Rows that a table shows; the other formats give all."""
CELL_CHARACTERS = 100
"""Characters of a text that a table shows."""
ALLOWED = "one SELECT, WITH, FROM, VALUES, DESCRIBE, SHOW, SUMMARIZE or EXPLAIN"
_EXPLAIN = re.compile(r"\s*explain\s+(analyze\s+)?(\([^)]*\)\s*)?", re.IGNORECASE)
_DAMAGED = re.compile(r"Corrupt database file|Data Corruption|Could not read enough bytes")
_DAMAGE = (duckdb.IOException, duckdb.InternalException, duckdb.FatalException, duckdb.SerializationException)


@dataclass(frozen=True, slots=True)
class Rows:
    """What a query gives: its columns, and its rows as they come."""

    schema: pa.Schema
    batches: Iterator[pa.RecordBatch]
    explains: bool
    """Whether these are DuckDB's plans instead of data."""


@contextlib.contextmanager
def query_store(db: Path, sql: str) -> Iterator[Rows]:
    """Run one reading statement; its rows can be read inside the `with` block, once.

    Raises:
        UsageError: no database, not SQL, more than one statement, or one that does not only read.
        StoreBusyError, IntegrityError: as `open_store`; also where a block turns out to be damaged.
        ResourceError: memory is too small for the query.
    """
    connection = open_store(db)
    try:
        with _as_ours(db):
            explains = _check_statement(connection, sql)
        with read_rows(connection, db, sql) as (schema, batches):
            yield Rows(schema=schema, batches=batches, explains=explains)
    finally:
        connection.close()


@contextlib.contextmanager
def read_rows(
    connection: duckdb.DuckDBPyConnection, db: Path, sql: str
) -> Iterator[tuple[pa.Schema, Iterator[pa.RecordBatch]]]:
    """Columns and rows of a SELECT, the rows as they come: memory holds a batch of them.

    Raises:
        UsageError, IntegrityError, ResourceError: as `query_store`, also while the rows are read.
    """
    with _as_ours(db):
        reader = connection.sql(sql).to_arrow_reader(BATCH_ROWS)
    try:
        yield reader.schema, _batches(db, reader)
    finally:
        reader.close()


def _batches(db: Path, reader: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
    while True:
        with _as_ours(db):
            try:
                batch = reader.read_next_batch()
            except StopIteration:
                return
        yield batch


@contextlib.contextmanager
def _as_ours(db: Path) -> Iterator[None]:
    """Words errors that come while a query is read, from DuckDB itself or by way of Arrow."""
    try:
        yield
    except duckdb.OutOfMemoryException as error:
        raise ResourceError("memory is too small for the query", found=_one_line(error)) from error
    except (duckdb.Error, pa.ArrowException, OSError) as error:
        # What Arrow hands on has lost DuckDB's class; only the text tells damage from a slip in the query.
        if isinstance(error, _DAMAGE) or _DAMAGED.search(str(error)):
            raise read_error(db, error) from error
        raise UsageError("the query failed", found=_one_line(error)) from error


def _one_line(error: Exception) -> str:
    """DuckDB's message without its drawing of the place."""
    return " ".join(str(error).split("\nLINE ")[0].split())


def _check_statement(connection: duckdb.DuckDBPyConnection, sql: str) -> bool:
    """Refuse what is not one reading statement; returns whether it asks for a plan."""
    statements = connection.extract_statements(sql)
    if len(statements) != 1:
        found = f"{len(statements)} statements" if statements else "no statement"
        raise UsageError("a query is one statement", found=found, expected=ALLOWED)
    kind = statements[0].type.name
    if kind == "EXPLAIN":
        explained = connection.extract_statements(_EXPLAIN.sub("", sql, count=1))
        kinds = {statement.type.name for statement in explained}
        kind = "SELECT" if kinds == {"SELECT"} else f"EXPLAIN of {', '.join(sorted(kinds)) or 'nothing'}"
        explains = True
    else:
        explains = False
    if kind != "SELECT":
        raise UsageError("a query only reads", found=kind, expected=ALLOWED)
    return explains


def spell_table(rows: Rows) -> str:
    """The first `TABLE_ROWS` rows, aligned, with a last line that tells how many there are."""
    shown: list[tuple[Any, ...]] = []
    more = False
    for batch in rows.batches:
        shown += zip(*[column.to_pylist() for column in batch.columns], strict=True)
        if len(shown) > TABLE_ROWS:
            shown, more = shown[:TABLE_ROWS], True
            break
    if rows.explains:
        return "\n".join(str(row[-1]).rstrip() for row in shown)
    numbers = [i for i, field in enumerate(rows.schema) if _is_number(field.type)]
    cells = [[_spell(value) for value in row] for row in shown]
    table = text_table([_spell(name) for name in rows.schema.names], cells, numbers=numbers)
    if more:
        return f"{table}\nthe first {TABLE_ROWS:,} rows; `--format csv` gives all"
    return f"{table}\n{len(shown):,} {'row' if len(shown) == 1 else 'rows'}"


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _spell(value: Any) -> str:
    r"""A cell on one line; answers are a model's and may hold anything, also what a terminal obeys.

    >>> _spell(None), _spell(True), _spell(0.1 + 0.2), _spell("a\x1b[2J")
    ('–', 'true', '0.3', 'a\\x1b[2J')
    """
    if value is None:
        return "–"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.6g}"
    plain = plain_value(value)
    plain = dump_json(plain) if isinstance(plain, list | dict) else str(plain)
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in plain)
    return text if len(text) <= CELL_CHARACTERS else text[: CELL_CHARACTERS - 1] + "…"
