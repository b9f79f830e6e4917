"""Rows as CSV, JSON and Parquet: batch after batch, so that memory never holds them all, and always alike.

The same rows make the same bytes. NULL is an empty cell in CSV (an empty text is `""` there), null in JSON.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

BATCH_ROWS = 32768
"""Rows in memory at a time, and in a row group of a Parquet file."""


def write_rows(kind: str, file: BinaryIO, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> int:
    """Write rows as `kind`, a key of `WRITERS`; returns how many there were."""
    counted = _Counted(batches)
    WRITERS[kind](file, _unique_names(schema), counted)
    return counted.rows


class _Counted:
    """Batches that are counted as they pass."""

    def __init__(self, batches: Iterable[pa.RecordBatch]) -> None:
        self.batches, self.rows = batches, 0

    def __iter__(self) -> Any:
        for batch in self.batches:
            self.rows += batch.num_rows
            yield batch


def _unique_names(schema: pa.Schema) -> pa.Schema:
    """SQL may name two columns alike; no object of JSON and no reader of Parquet may.

    >>> _unique_names(pa.schema([("a", pa.int32()), ("a", pa.int32())])).names
    ['a', 'a_1']
    """
    names: list[str] = []
    for name in schema.names:
        number, unique = 0, name
        while unique in names:
            number += 1
            unique = f"{name}_{number}"
        names.append(unique)
    return pa.schema([field.with_name(name) for field, name in zip(schema, names, strict=True)])


def _write_csv(file: BinaryIO, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
    flat = pa.schema([field if _is_flat(field.type) else field.with_type(pa.string()) for field in schema])
    with pacsv.CSVWriter(file, flat) as writer:
        for batch in batches:
            columns = [
                column if _is_flat(column.type) else pa.array(map(_as_text, column.to_pylist()), pa.string())
                for column in batch.columns
            ]
            writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=flat))


def _is_flat(kind: pa.DataType) -> bool:
    """Whether Arrow writes this type into a CSV cell as a person would."""
    numbers = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_decimal)
    texts = (pa.types.is_string, pa.types.is_large_string, pa.types.is_date, pa.types.is_null)
    return any(check(kind) for check in (*numbers, *texts))


def _as_text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    plain = plain_value(value)
    return plain if isinstance(plain, str) else dump_json(plain)


def _write_json(file: BinaryIO, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
    """An array with one object a line, so that a line can be looked at and compared."""
    lead = b"[\n"
    for batch in batches:
        columns = [_json_column(column) for column in batch.columns]
        lines = [dump_json(dict(zip(schema.names, row, strict=True))) for row in zip(*columns, strict=True)]
        if lines:
            file.write(lead + ",\n".join(lines).encode("utf-8"))
            lead = b",\n"
    file.write(b"[]\n" if lead == b"[\n" else b"\n]\n")


def _json_column(column: pa.Array) -> list[Any]:
    if pa.types.is_floating(column.type):  # JSON has no NaN and no infinity
        finite = pc.fill_null(pc.is_finite(column), False)
        return list(pc.if_else(finite, column, None).to_pylist())
    values = column.to_pylist()
    plain = (pa.types.is_integer, pa.types.is_boolean, pa.types.is_string, pa.types.is_null)
    return values if any(check(column.type) for check in plain) else [plain_value(value) for value in values]


def _write_parquet(file: BinaryIO, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
    odd = {i for i, field in enumerate(schema) if not _has_parquet_type(field.type)}
    if odd:  # such as an interval, or a union
        fields = [f.with_type(pa.string()) if i in odd else f for i, f in enumerate(schema)]
        schema, batches = pa.schema(fields), _spelled(batches, odd)
    options = {"compression": "zstd", "compression_level": 3, "write_page_checksum": True}
    with pq.ParquetWriter(file, schema, **options) as writer:
        # How the batches were cut must leave no trace in the bytes: a row group always holds BATCH_ROWS.
        kept, held = [], 0
        for batch in batches:
            kept.append(batch.rename_columns(schema.names))
            held += batch.num_rows
            while held >= BATCH_ROWS:
                table = pa.Table.from_batches(kept, schema).combine_chunks()
                writer.write_table(table.slice(0, BATCH_ROWS), row_group_size=BATCH_ROWS)
                kept = table.slice(BATCH_ROWS).to_batches()
                held -= BATCH_ROWS
        if held:
            table = pa.Table.from_batches(kept, schema).combine_chunks()
            writer.write_table(table, row_group_size=BATCH_ROWS)


def _has_parquet_type(kind: pa.DataType) -> bool:
    try:
        pq.ParquetWriter(pa.BufferOutputStream(), pa.schema([("it", kind)])).close()
    except pa.ArrowNotImplementedError:
        return False
    return True


def _spelled(batches: Iterable[pa.RecordBatch], columns: set[int]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        arrays = [
            pa.array(map(_as_text, column.to_pylist()), pa.string()) if i in columns else column
            for i, column in enumerate(batch.columns)
        ]
        yield pa.RecordBatch.from_arrays(arrays, names=batch.schema.names)


def dump_json(value: Any) -> str:
    """A plain value as JSON on one line."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def plain_value(value: Any) -> Any:
    r"""A cell as JSON can hold it: dates as ISO 8601, bytes as hex, what is no number as None.

    >>> plain_value({"when": date(2026, 1, 2), "rest": [b"\xff", float("inf")]})
    {'when': '2026-01-02', 'rest': ['ff', None]}
    """
    if isinstance(value, dict):
        return {str(key): plain_value(item) for key, item in value.items()}
    if type(value) in {list, tuple}:  # a map is a list of pairs; an interval only looks like a tuple
        return [plain_value(item) for item in value]
    if isinstance(value, float):
        return value if abs(value) < float("inf") else None
    if isinstance(value, Decimal):  # sums of whole numbers come as such
        return int(value) if value.as_tuple().exponent == 0 else float(value)
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, pa.MonthDayNano):  # as ISO 8601 has it
        value = f"P{value.months}M{value.days}DT{value.nanoseconds / 1e9:.9g}S"
    return value if value is None or isinstance(value, bool | int | str) else str(value)


WRITERS: dict[str, Callable[[BinaryIO, pa.Schema, Iterable[pa.RecordBatch]], None]] = {
    "csv": _write_csv,
    "json": _write_json,
    "parquet": _write_parquet,
}
"""How each format writes rows; each writes the header, or what stands for it, also without any row."""
