"""Reading and writing that cannot leave half a file, and paths that cannot leave their folder."""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import os
import secrets
import shutil
import socket
import time
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from harness.digest import digest_bytes, plain_json
from harness.errors import EyechartError, IntegrityError, ResourceError, UnsafeInputError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_FOLDER_SYNC = {errno.EINVAL, errno.ENOTSUP}
TEMPORARY_PREFIX = ".tmp-"
"""Leading characters of a file or folder still being written; a leftover is safe to delete."""
FORGOTTEN_S = 7 * 24 * 3600
"""Age in seconds at which what another machine was writing is taken for left over."""


@functools.cache
def _place() -> str:
    """What process numbers are unique in: this start of this machine, and the container's numbering."""
    try:
        start = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
        numbering = os.readlink("/proc/self/ns/pid")
    except OSError:
        start, numbering = socket.gethostname(), ""
    return digest_bytes(f"{start}{numbering}".encode())[:12]


def temporary_name() -> str:
    """A name for something still being written; it tells `sweep` who writes it."""
    return f"{TEMPORARY_PREFIX}{_place()}-{os.getpid()}-{secrets.token_hex(8)}"


def sweep(*folders: Path) -> None:
    """Remove what killed processes were writing below these folders.

    What a living process of this machine writes stays, and another machine's for a week.
    """
    for leftover in [path for folder in folders for path in folder.rglob(f"{TEMPORARY_PREFIX}*")]:
        # Gone already, where another run sweeps too; or in a folder of somebody else's, where it stays.
        with contextlib.suppress(OSError):
            if not _is_left_over(leftover):
                continue
            if leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink()


def _is_left_over(path: Path) -> bool:
    match path.name.removeprefix(TEMPORARY_PREFIX).split("-"):
        case [place, number, _] if place == _place() and number.isdecimal():
            return not _lives(int(number))
    return time.time() - path.stat().st_mtime > FORGOTTEN_S


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except OSError as error:
        return error.errno != errno.ESRCH  # somebody else's process may be seen, but not be told anything
    return True


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """A writable file that appears at `path` whole when the block ends, or not at all.

    The bytes go to a new file in the same folder (made if missing), are synced to the disk and
    renamed over `path`; the folder is synced last, so that the name survives a power cut too.

    Raises:
        ResourceError: no space, no quota, a read-only folder, or an input/output error.
    """
    temporary = path.parent / temporary_name()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        raise _write_error(path, error) from error
    finally:
        # Also on Ctrl-C; after a successful rename there is nothing under this name.
        with contextlib.suppress(OSError):
            temporary.unlink()


def sync_folder(folder: Path) -> None:
    """Let a rename in this folder survive a loss of power, where the file system can promise that."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems cannot sync a folder; the rename itself is still atomic there.
        if error.errno not in _NO_FOLDER_SYNC:
            raise
    finally:
        os.close(descriptor)


def _write_error(path: Path, error: OSError) -> EyechartError:
    reason = os.strerror(error.errno) if error.errno else str(error)
    if error.errno in _FULL:
        found, fix = f"{_free_or_unknown(path)} free", "free some space and run the same command again"
        return ResourceError(f"cannot write, {reason}", where=str(path), found=found, fix=fix)
    return ResourceError(f"cannot write, {reason}", where=str(path), fix="choose a folder you can write to")


def _free_or_unknown(path: Path) -> str:
    try:
        return f"{free_bytes(path):,} bytes"
    except OSError:
        return "an unknown number of bytes"


def write_atomic(path: Path, data: bytes) -> None:
    """Write `data` to `path` whole or not at all; an older file stays until the new one is safe.

    Raises:
        ResourceError: see `atomic_file`.
    """
    with atomic_file(path) as file:
        file.write(data)


def write_json(path: Path, obj: Any) -> None:
    """Write records or plain values as JSON for people: sorted keys, indent 1, newline at the end.

    Raises:
        ResourceError: see `atomic_file`.
        ValueError, TypeError: `obj` has no canonical JSON form.
    """
    text = json.dumps(plain_json(obj), sort_keys=True, indent=1, ensure_ascii=False)
    write_atomic(path, text.encode("utf-8") + b"\n")


def read_json(path: Path) -> Any:
    """Read a JSON file of ours; duplicate keys, NaN and anything else we never write is refused.

    Raises:
        IntegrityError: the file is missing, not UTF-8 or not such JSON.
    """
    try:
        return json.loads(
            path.read_bytes().decode("utf-8"),
            object_pairs_hook=_unique_pairs,
            parse_constant=_refuse_constant,
        )
    except OSError as error:
        raise IntegrityError("cannot read", where=str(path), found=os.strerror(error.errno or 0)) from error
    except (ValueError, RecursionError) as error:
        raise IntegrityError("not valid JSON", where=str(path), found=str(error)) from error


def _unique_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice!r} twice")
    return result


def _refuse_constant(text: str) -> float:
    raise ValueError(f"the number {text}")


def write_parquet(path: Path, table: pa.Table, *, row_group_rows: int = 65536) -> None:
    """Write a Parquet file: zstd, a checksum on each page, same table -> same bytes.

    How the table was cut into chunks and what pandas noted in its metadata leave no trace.

    Raises:
        ResourceError: see `atomic_file`.
    """
    metadata = {k: v for k, v in (table.schema.metadata or {}).items() if k != b"pandas"}
    whole = table.combine_chunks().replace_schema_metadata(metadata or None)
    with atomic_file(path) as file:
        pq.write_table(
            whole,
            file,
            compression="zstd",
            compression_level=3,
            write_page_checksum=True,
            row_group_size=row_group_rows,
        )


def read_parquet(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a Parquet file, checking every page it reads against its checksum.

    Args:
        path: the file.
        columns: the ones to read, all when None.

    Raises:
        IntegrityError: the file is missing, cut short, damaged, or lacks one of `columns`.
    """
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            absent = [c for c in columns or () if c not in file.schema_arrow.names]
            if absent:
                held = ", ".join(file.schema_arrow.names)
                raise IntegrityError("column missing", where=str(path), found=held, expected=absent[0])
            return file.read(columns=list(columns) if columns is not None else None)
    except FileNotFoundError as error:
        raise IntegrityError("file is missing", where=str(path)) from error
    except (pa.ArrowException, OSError, ValueError) as error:
        raise IntegrityError("not a sound Parquet file", where=str(path), found=str(error)) from error


def confine(root: Path, rel: str) -> Path:
    """The path `rel` below `root`, refused if following it could leave `root`.

    Args:
        root: folder that must not be left.
        rel: POSIX path relative to it, from an untrusted source.

    Returns:
        The resolved path; it need not exist.

    Raises:
        UnsafeInputError: `rel` is empty, absolute, holds `..`, a backslash or a control
            character, or passes through a symbolic link that leads out of `root`.
    """
    expected = f"a relative path inside {root.name or root}"
    parts = PurePosixPath(rel).parts
    if not parts or rel.startswith(("/", "~")) or ".." in parts or "\\" in rel or not rel.isprintable():
        raise UnsafeInputError("path refused", where=str(root), found=repr(rel), expected=expected)
    try:
        home = root.resolve()
        target = (home / rel).resolve()
    except (OSError, RuntimeError) as error:  # pathlib of Python 3.11 reports link loops as RuntimeError
        raise UnsafeInputError("path refused", where=str(root), found=repr(rel), expected=expected) from error
    if not target.is_relative_to(home):
        found = f"{rel!r}, a link to a place outside"
        raise UnsafeInputError("path refused", where=str(root), found=found, expected=expected)
    return target


def free_bytes(path: Path) -> int:
    """Bytes a plain user may still write on the file system of `path`, which need not exist yet."""
    place = path.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    return shutil.disk_usage(place).free


def require_free(path: Path, num_bytes: int, what: str) -> None:
    """Refuse before work starts when the disk cannot take what the work will write.

    Args:
        path: where it will be written.
        num_bytes: how much.
        what: what for, e.g. "the feature cache".

    Raises:
        ResourceError: fewer than `num_bytes` are free.
    """
    free = free_bytes(path)
    if free < num_bytes:
        raise ResourceError(
            f"not enough disk space for {what}",
            where=str(path),
            found=f"{free:,} bytes free",
            expected=f"{num_bytes:,} bytes",
            fix="free some space or choose another folder",
        )
