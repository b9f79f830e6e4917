"""The database as files: who may open it, who writes it, and what takes its place.

`eyechart ingest` writes <db>.new and renames it over <db>, so that a reader sees the old database or the new
one and never half of either. <db>.lock tells who writes. Whatever lies under these names can be lost: the
bundles are the truth.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import duckdb

from harness.errors import EyechartError, IntegrityError, ResourceError, StoreBusyError, UsageError
from harness.files import sync_folder

STORE_VERSION = 3
_SUFFIXES = (".duckdb", ".db")
_MARK, _MARK_AT = b"DUCK", 8
"""Version of harness/schema.sql. A database of another version is replaced, see decision 0009."""
CONFIG = {"enable_external_access": "false", "lock_configuration": "true"}
REBUILD = "run `eyechart ingest --rebuild`: it is made again from the bundles"
HEADER_BYTES = 3 * 4096
"""What precedes the blocks of a DuckDB file: one main header and two that take turns."""
SHOWN = 80
"""Characters of a process's command line that an error quotes."""


def open_store(db: Path) -> duckdb.DuckDBPyConnection:
    """Open the database read-only.

    Close it when done: DuckDB shares one view of a file within a process, so that a connection left open
    hides a newer ingest from later ones.

    Raises:
        UsageError: there is no database.
        StoreBusyError: a foreign process has the file open for writing.
        IntegrityError: not a database, damaged, cut short, or made by another version; says which.
    """
    if not db.is_file():
        raise UsageError("no database", where=str(db), fix="run `eyechart ingest`")
    try:
        before = db.stat()
        connection = duckdb.connect(str(db), read_only=True, config=dict(CONFIG))
    except FileNotFoundError as error:
        raise UsageError("no database", where=str(db), fix="run `eyechart ingest`") from error
    except duckdb.Error as error:
        raise read_error(db, error) from error
    try:
        found = connection.execute("SELECT value FROM meta WHERE key = 'store_version'").fetchall()
        _check_version(db, str(found[0][0]) if found else "none")
        _check_length(connection, db, before)
    except duckdb.Error as error:
        connection.close()
        raise read_error(db, error) from error
    except IntegrityError:
        connection.close()
        raise
    return connection


def read_error(db: Path, error: Exception) -> StoreBusyError | IntegrityError:
    """What an error of DuckDB says about the file, where our own query cannot be the reason."""
    text = str(error).splitlines()[0]
    if re.search(r"\block\b", text):  # the word: a damaged block is another matter
        holder = re.search(r"PID (\d+)", text)
        found = name_process(int(holder[1])) if holder else "another process"
        return StoreBusyError("the database is being written", where=str(db), found=found, fix="try again")
    return IntegrityError("not a sound database", where=str(db), found=text, fix=REBUILD)


def _check_version(db: Path, found: str) -> None:
    if found == str(STORE_VERSION):
        return
    newer = found.isdecimal() and int(found) > STORE_VERSION
    word, fix = ("newer", "use the Eyechart that made it, or ") if newer else ("older", "")
    shown = f"{found} ({word})" if found.isdecimal() else found
    fix += "run `eyechart ingest`: it is made again from the bundles, and nothing is lost"
    raise IntegrityError("store version", where=str(db), found=shown, expected=str(STORE_VERSION), fix=fix)


def _check_length(connection: duckdb.DuckDBPyConnection, db: Path, before: os.stat_result) -> None:
    """DuckDB opens a file whose end is gone, and fails only at the query that wants a block from there."""
    if not db.is_file() or not os.path.samestat(before, db.stat()):
        return  # an ingest put another in its place meanwhile; ours was whole when it was
    sizes = connection.execute("SELECT block_size * total_blocks FROM pragma_database_size()").fetchall()
    expected, found = HEADER_BYTES + sum(int(size) for (size,) in sizes), db.stat().st_size
    if found < expected:
        raise IntegrityError(
            "the database is cut short",
            where=str(db),
            found=f"{found:,} bytes",
            expected=f"{expected:,}",
            fix=REBUILD,
        )


@contextlib.contextmanager
def writer_lock(db: Path) -> Iterator[None]:
    """Hold <db>.lock, which names us; the kernel frees it when we die: a stale file blocks nobody.

    Raises:
        StoreBusyError: another process holds it; names that process.
        ResourceError: the lock file cannot be made.
    """
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
            raise StoreBusyError(
                "another process is ingesting",
                where=str(db),
                found=_holder(os.pread(descriptor, 4096, 0)),
                fix="wait for it to end, then run the same command again",
            ) from error
        os.ftruncate(descriptor, 0)
        # The command line goes in too: a holder on another machine, or in another container, is in no
        # /proc of ours, and its number may be somebody else's here.
        os.pwrite(descriptor, f"{os.getpid()}\n{_spell_command(sys.orig_argv)}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _holder(note: bytes) -> str:
    number, _, command = note.decode("utf-8", "replace").strip().partition("\n")
    if not number.isdecimal():
        return "process unknown"
    return f"process {number} ({command})" if command else name_process(int(number))


def name_process(number: int) -> str:
    """A process of this machine with its command line, where /proc tells it.

    >>> name_process(os.getpid()).startswith(f"process {os.getpid()}")
    True
    """
    try:
        words = Path(f"/proc/{number}/cmdline").read_bytes().decode("utf-8", "replace").split("\0")
    except OSError:
        words = []
    command = _spell_command([word for word in words if word])
    return f"process {number} ({command})" if command else f"process {number}"


def _spell_command(words: Sequence[str]) -> str:
    """As a person typed it: no interpreter before a script, no folder before a program.

    >>> _spell_command(["venv/bin/python", "venv/bin/eyechart", "ingest", "--db", "x/y.duckdb"])
    'eyechart ingest --db x/y.duckdb'
    >>> _spell_command(["python3", "-m", "harness.cli", "ingest"])
    'python3 -m harness.cli ingest'
    """
    if not words:
        return ""
    started_script = Path(words[0]).name.startswith("python") and words[1:] and not words[1].startswith("-")
    first, *rest = words[1:] if started_script else words
    text = " ".join(" ".join([Path(first).name, *rest]).split())
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"


def is_database(path: Path) -> bool:
    """Whether a file is named like a database, which may be damaged, or bears DuckDB's mark."""
    if path.suffix in _SUFFIXES:
        return True
    with open(path, "rb") as file:
        return file.read(_MARK_AT + len(_MARK))[_MARK_AT:] == _MARK


def refuse_foreign(db: Path) -> None:
    """A file that was never a database, named by mistake, is not replaced by one.

    What was cut to nothing has lost its mark.

    Raises:
        UsageError: it is a file of another kind.
    """
    if db.is_file() and db.stat().st_size >= _MARK_AT + len(_MARK) and not is_database(db):
        fix = "name another file, or remove this one"
        raise UsageError("a file of another kind lies where the database goes", where=str(db), fix=fix)


def remove_database(path: Path) -> None:
    """Remove a database and its write-ahead log, in whatever state they are."""
    for name in (path, path.with_name(path.name + ".wal")):
        name.unlink(missing_ok=True)


def replace_database(new: Path, db: Path) -> None:
    """Put a finished, closed database in the place of another."""
    with open(new, "rb") as file:
        os.fsync(file.fileno())
    # A log left by a foreign writer belongs to the old file; DuckDB would replay it over the new one.
    db.with_name(db.name + ".wal").unlink(missing_ok=True)
    os.replace(new, db)
    sync_folder(db.parent)


def write_error(db: Path, error: Exception) -> EyechartError:
    """What it means that a database cannot be written."""
    return ResourceError("cannot write the database", where=str(db), found=str(error).splitlines()[0])
