"""A person's JSON files: read with a limit, and their fields looked at one by one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.errors import DatasetError, UnsafeInputError
from harness.fields import nearest, parse_json, show

MAX_BYTES = 2**30
"""Largest file that is read; COCO's instances and VQAv2's annotations are below 400 MB."""


def read_json_source(path: Path) -> Any:
    """A JSON file.

    Raises:
        DatasetError: it is missing or no JSON.
        UnsafeInputError: it is too large.
    """
    try:
        if (size := path.stat().st_size) > MAX_BYTES:
            raise UnsafeInputError(
                "JSON file is too large",
                where=str(path),
                found=f"{size:,} bytes",
                expected=f"{MAX_BYTES:,} at most",
            )
        return parse_json(path.read_bytes())
    except OSError as error:
        raise DatasetError("file cannot be read", where=str(path), found=error.strerror or "") from error
    except (ValueError, RecursionError) as error:
        raise DatasetError("not valid JSON", where=str(path), found=str(error)[:120]) from error


def table_of(held: Any, name: str, path: Path, expected: str) -> list[Any]:
    """A list of rows in a file's outermost table.

    Raises:
        DatasetError: there is none.
    """
    if not isinstance(held, dict):
        raise DatasetError(
            "not the expected JSON", where=str(path), found=type(held).__name__, expected="a table"
        )
    if not isinstance(rows := held.get(name), list):
        close = nearest(name, held) if name not in held else type(rows).__name__
        raise DatasetError(f"no list of {name}", where=f"{path}: {name}", found=close, expected=expected)
    return rows


def field_of(row: object, name: str, kind: type, where: str) -> Any:
    """One field of a row.

    Raises:
        DatasetError: missing, or of another type.
    """
    value = row.get(name) if isinstance(row, dict) else None
    if not isinstance(value, kind) or isinstance(value, bool):
        held = ", ".join(map(str, row)) if isinstance(row, dict) and name not in row else show(value)
        raise DatasetError(
            "field missing or of another type",
            where=f"{where}, field {name}",
            found=held[:120],
            expected=kind.__name__,
        )
    return value


def texts_of(row: object, name: str, where: str) -> list[str]:
    """A list of texts in one field of a row.

    Raises:
        DatasetError: missing, or anything else.
    """
    values: list[str] = field_of(row, name, list, where)
    if not all(isinstance(value, str) for value in values):
        raise DatasetError(
            "field of another type", where=f"{where}, field {name}", found=show(values), expected="texts"
        )
    return values
